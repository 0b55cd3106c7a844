/* s3.c - S3 and every store that speaks like it (backend.h). Step 7 of a get.
 *
 * An op becomes one signed request: build() makes URL and headers, sigv4 signs them, the transport sends them. The
 * answer's head is checked in on_headers(), the body of a get goes straight into the op's sink, and on_done() turns the
 * outcome into a kind and a message. All of it runs on the net thread, but for the hash of a large body, which the pool
 * makes before the request is built.
 *
 * Addresses: with a configured endpoint ENDPOINT/BUCKET/KEY; without one https://BUCKET.s3.REGION.amazonaws.com/KEY
 * (a bucket whose name cannot stand in a host name as it is: in the path). Keys are sent byte for byte. */
#include "backends/backend.h"
#include "backends/cred/cred.h"
#include "backends/sign/sigv4.h"
#include "backends/transport/http.h"
#include "backends/xml.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define URL_MAX        (8 * LDR_KIB)
#define HEADERS_MAX    (64 * LDR_KIB) /* of a request */
#define HASH_HERE_MAX  (64 * LDR_KIB) /* larger bodies are hashed on the pool */
#define HASH_PIECE     (256 * LDR_KIB)
#define SKEW_S         300 /* a clock that is further off than this explains a refusal that gives no reason */
#define RETRY_AFTER_MS (3600 * 1000)
#define USER_META      "x-amz-meta-"
#define CHECKSUM       "x-amz-checksum-"

struct s3 {
    struct ldr_backend base; /* first */
    /* set once in s3_open() */
    bool https, aws;     /* aws: no endpoint is configured */
    char *host, *prefix; /* of the endpoint: "host[:port]", "" or "/path" */
    char *region;
    /* net thread */
    struct ldr_cred_source *cred;
    int64_t skew_s; /* what to add to our clock to have the store's */
};

/* A checksum of the whole object that the store told, and ours so far. MD5 costs about a second of CPU per 600 MB; a
 * CRC is to replace it wherever the store has one. */
struct sum {
    enum { SUM_NONE, SUM_CRC32, SUM_DIGEST } how;
    const char *name; /* for the message */
    bool hex;         /* else base64 */
    char want[64];
    uLong crc;
    EVP_MD_CTX *digest;
};

struct s3_op {
    struct ldr_http_req http;
    struct s3 *s3;
    struct ldr_op *op;

    /* the request */
    char payload[LDR_SHA256_HEX_MAX]; /* hash of the body */
    struct ldr_buf url;
    struct ldr_buf lines; /* header lines, each ended by a NUL */
    const char *headers[LDR_SIGV4_ITEMS_MAX + 2];
    bool clock_tried; /* sent a second time with the store's clock */

    /* the answer */
    bool good;             /* its status is the success of this op */
    bool told;             /* op->err says already why it fails: the sink's reason, or ours */
    struct ldr_buf reason; /* the body of a refusal */
    uint64_t due, got;     /* bytes of a get */
    struct sum sum;
};

static const char *const verbs[LDR_OP_WHATS] = {
    [LDR_OP_GET] = "get", [LDR_OP_HEAD] = "look up", [LDR_OP_PUT] = "put", [LDR_OP_DELETE] = "delete"
};
static const char *const methods[LDR_OP_WHATS] = {
    [LDR_OP_GET] = "GET", [LDR_OP_HEAD] = "HEAD", [LDR_OP_PUT] = "PUT", [LDR_OP_DELETE] = "DELETE"
};

/* Fields of an object that are plain headers of a request and of an answer. */
static const struct text_header {
    const char *name;
    enum ldr_tag tag;
    bool settable;
} text_headers[] = {
    { "content-type", LDR_TAG_CONTENT_TYPE, true },
    { "content-encoding", LDR_TAG_CONTENT_ENCODING, true },
    { "cache-control", LDR_TAG_CACHE_CONTROL, true },
    { "content-disposition", LDR_TAG_CONTENT_DISPOSITION, true },
    { "content-language", LDR_TAG_CONTENT_LANGUAGE, true },
    { "content-md5", LDR_TAG_CONTENT_MD5, true },
    { "x-amz-version-id", LDR_TAG_VERSION, false },
};

static void start_on_net(struct s3_op *o);

/* ---- an op's life ---- */

static void sum_release(struct sum *s)
{
    EVP_MD_CTX_free(s->digest);
    *s = (struct sum){ 0 };
}

static void op_end(struct s3_op *o, enum larder_kind kind)
{
    struct ldr_op *op = o->op;

    sum_release(&o->sum);
    ldr_buf_release(&o->url);
    ldr_buf_release(&o->lines);
    ldr_buf_release(&o->reason);
    free(o);
    op->priv = NULL;
    ldr_op_done(op, kind);
}

static struct s3_op *op_begin(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o = calloc(1, sizeof *o);

    if (!o) {
        ldr_op_done(op, ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for a request"));
        return NULL;
    }
    o->s3 = (struct s3 *)b;
    o->op = op;
    o->url = LDR_BUF_INIT(URL_MAX);
    o->lines = LDR_BUF_INIT(HEADERS_MAX);
    o->reason = LDR_BUF_INIT(LDR_XML_MAX + 1);
    op->priv = o;
    return o;
}

/* ---- the request ---- */

static bool is_dns_label(const char *bucket)
{
    return strlen(bucket) <= 63 && strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(bucket);
}

static enum larder_kind check_name(const struct ldr_op *op, struct larder_err *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    size_t n = strspn(op->container, letters);

    if (n == 0 || n > 255 || op->container[n] || strchr(".-_", op->container[0]))
        return ldr_fail(err, LARDER_INVALID, "\"%s\" is no name of a bucket", op->container);
    if (!op->key[0])
        return ldr_fail(err, LARDER_INVALID, "\"%s\" names no object: the key is empty", op->uri);
    return LARDER_OK;
}

/* URL, host and where in the URL the path starts. */
static enum larder_kind make_url(struct s3_op *o, char *host, size_t host_cap, size_t *path_at, struct larder_err *err)
{
    const struct s3 *s3 = o->s3;
    const struct ldr_op *op = o->op;
    bool in_host = s3->aws && is_dns_label(op->container);
    int n =
        in_host ? snprintf(host, host_cap, "%s.%s", op->container, s3->host) : snprintf(host, host_cap, "%s", s3->host);

    o->url.len = 0;
    if (n < 0 || (size_t)n >= host_cap || !ldr_buf_addf(&o->url, "%s://%s", s3->https ? "https" : "http", host))
        return ldr_fail(err, LARDER_INVALID, "the address of bucket \"%s\" is too long", op->container);
    *path_at = o->url.len;
    if (!ldr_buf_addf(&o->url, "%s/", s3->prefix) || (!in_host && !ldr_buf_addf(&o->url, "%s/", op->container)) ||
        !ldr_sigv4_escape(&o->url, op->key, true) || !ldr_buf_str(&o->url))
        return ldr_fail(err, LARDER_INVALID, "the key of \"%s\" is too long", op->uri);
    return LARDER_OK;
}

/* The value is `n` bytes; what could end the line is refused. */
static enum larder_kind add_header_n(struct s3_op *o, const char *name, const void *value, size_t n,
                                     struct larder_err *err)
{
    const unsigned char *v = value;

    for (size_t i = 0; i < n; i++)
        if ((v[i] < 0x20 && v[i] != '\t') || v[i] == 0x7f)
            return ldr_fail(err, LARDER_INVALID, "the %s of \"%s\" holds a control character", name, o->op->uri);
    if (!ldr_buf_addf(&o->lines, "%s: ", name) || !ldr_buf_add(&o->lines, value, n) || !ldr_buf_add(&o->lines, "", 1))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the headers for \"%s\" are larger than %d KiB", o->op->uri,
                        (int)(HEADERS_MAX / LDR_KIB));
    return LARDER_OK;
}

static enum larder_kind add_header(struct s3_op *o, const char *name, const char *value, struct larder_err *err)
{
    return add_header_n(o, name, value, strlen(value), err);
}

/* The lines as the array that signer and transport want. */
static enum larder_kind list_headers(struct s3_op *o, struct larder_err *err)
{
    size_t n = 0;

    for (size_t at = 0; at < o->lines.len; at += strlen((const char *)o->lines.p + at) + 1) {
        if (n == LDR_ARRAY_LEN(o->headers) - 1)
            return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "\"%s\" has more than %d headers", o->op->uri,
                            LDR_SIGV4_ITEMS_MAX);
        o->headers[n++] = (const char *)o->lines.p + at;
    }
    o->headers[n] = NULL;
    return LARDER_OK;
}

/* User metadata `f` is NAME NUL VALUE. */
static enum larder_kind add_user_header(struct s3_op *o, const struct ldr_field *f, struct larder_err *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    const char *text = (const char *)f->p;
    size_t n = strnlen(text, f->len);
    char name[256];

    if (n == 0 || n == f->len || strspn(text, letters) != n || n > sizeof name - sizeof USER_META)
        return ldr_fail(err, LARDER_INVALID, "a name in the user metadata of \"%s\" is none that S3 can hold",
                        o->op->uri);
    snprintf(name, sizeof name, USER_META "%s", text);
    return add_header_n(o, name, text + n + 1, f->len - n - 1, err);
}

static enum larder_kind add_put_headers(struct s3_op *o, struct larder_err *err)
{
    const struct ldr_meta *m = o->op->put_meta;
    enum larder_kind k = o->op->create_only ? add_header(o, "If-None-Match", "*", err) : LARDER_OK;
    struct ldr_field f;
    size_t pos = 0;

    while (!k && m && ldr_fields_next(m->fields.p, m->fields.len, &pos, &f)) {
        if (f.tag == LDR_TAG_USER)
            k = add_user_header(o, &f, err);
        for (size_t i = 0; !k && i < LDR_ARRAY_LEN(text_headers); i++)
            if (text_headers[i].settable && text_headers[i].tag == f.tag)
                k = add_header_n(o, text_headers[i].name, f.p, f.len, err);
    }
    return k;
}

static enum larder_kind add_get_headers(struct s3_op *o, struct larder_err *err)
{
    const struct ldr_op *op = o->op;
    enum larder_kind k = LARDER_OK;
    char range[64];

    if (op->ranged) {
        uint64_t last;

        if (op->length == 0 || __builtin_add_overflow(op->offset, op->length - 1, &last))
            return ldr_fail(err, LARDER_INVALID, "the range of \"%s\" is empty or too far", op->uri);
        snprintf(range, sizeof range, "bytes=%" PRIu64 "-%" PRIu64, op->offset, last);
        k = add_header(o, "Range", range, err);
    } else {
        k = add_header(o, CHECKSUM "mode", "ENABLED", err); /* else S3 keeps them to itself */
    }
    if (!k && op->if_match)
        k = add_header(o, "If-Match", op->if_match, err);
    return k;
}

/* URL and signed headers, for this moment. */
static enum larder_kind build(struct s3_op *o, struct larder_err *err)
{
    struct s3 *s3 = o->s3;
    struct ldr_sigv4 sign = { .method = methods[o->op->what],
                              .payload = o->payload,
                              .region = s3->region,
                              .service = "s3",
                              .time_s = time(NULL) + s3->skew_s };
    struct ldr_buf authorization = LDR_BUF_INIT(HEADERS_MAX);
    char host[512], date[LDR_SIGV4_DATE_MAX];
    struct ldr_cred cred;
    size_t path_at = 0;
    enum larder_kind k = ldr_cred_get(s3->cred, &cred, err);

    o->lines.len = 0;
    if (!k)
        k = make_url(o, host, sizeof host, &path_at, err);
    if (!k)
        k = ldr_sigv4_date(sign.time_s, date, err);
    if (!k)
        k = add_header(o, "Host", host, err);
    if (!k)
        k = add_header(o, "X-Amz-Date", date, err);
    if (!k)
        k = add_header(o, "X-Amz-Content-Sha256", o->payload, err);
    if (!k && cred.token)
        k = add_header(o, "X-Amz-Security-Token", cred.token, err);
    if (!k && o->op->what == LDR_OP_GET)
        k = add_get_headers(o, err);
    if (!k && o->op->what == LDR_OP_HEAD)
        k = add_header(o, CHECKSUM "mode", "ENABLED", err);
    if (!k && o->op->what == LDR_OP_PUT)
        k = add_put_headers(o, err);
    if (!k)
        k = list_headers(o, err);
    if (k)
        return k;
    sign.path = (const char *)o->url.p + path_at;
    sign.headers = o->headers;
    k = ldr_sigv4_authorization(&sign, &cred, &authorization, err);
    if (!k)
        k = add_header_n(o, "Authorization", authorization.p, authorization.len, err);
    if (!k)
        k = list_headers(o, err); /* the lines may have moved */
    ldr_buf_release(&authorization);
    return k;
}

/* ---- the answer's head ---- */

static bool is_hex(const char *p, size_t n)
{
    return n == 32 && strspn(p, "0123456789abcdefABCDEF") >= n;
}

/* What the bytes of a whole object can be checked with, the cheapest first. */
static enum larder_kind sum_choose(struct sum *s, const struct ldr_http_reply *reply, struct larder_err *err)
{
    char type[32], sse[32], etag[64];
    bool composite = ldr_http_header(reply, CHECKSUM "type", type, sizeof type) && !strcasecmp(type, "COMPOSITE");
    const EVP_MD *md = NULL;

    sum_release(s);
    if (!composite && ldr_http_header(reply, CHECKSUM "crc32", s->want, sizeof s->want) && strlen(s->want) == 8) {
        s->how = SUM_CRC32;
        s->name = "crc32";
        s->crc = crc32(0, NULL, 0);
        return LARDER_OK;
    }
    if (!composite && ldr_http_header(reply, CHECKSUM "sha256", s->want, sizeof s->want) && strlen(s->want) == 44) {
        md = EVP_sha256();
        s->name = "sha256";
    } else if (ldr_http_header(reply, "content-md5", s->want, sizeof s->want) && strlen(s->want) == 24) {
        md = EVP_md5();
        s->name = "md5";
    } else if (ldr_http_header(reply, "etag", etag, sizeof etag) && strlen(etag) == 34 && etag[0] == '"' &&
               etag[33] == '"' && is_hex(etag + 1, 32) &&
               !ldr_http_header(reply, "x-amz-server-side-encryption-customer-algorithm", sse, sizeof sse) &&
               !(ldr_http_header(reply, "x-amz-server-side-encryption", sse, sizeof sse) && !strncmp(sse, "aws:", 4))) {
        /* the ETag of an object of one part is its MD5, unless it was encrypted with a key of the customer's */
        md = EVP_md5();
        s->name = "md5";
        s->hex = true;
        memcpy(s->want, etag + 1, 32);
        s->want[32] = '\0';
    }
    if (!md)
        return LARDER_OK;
    s->digest = EVP_MD_CTX_new();
    if (!s->digest)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a checksum");
    if (EVP_DigestInit_ex(s->digest, md, NULL) == 1)
        s->how = SUM_DIGEST; /* else no MD5 in this libcrypto (FIPS): go unchecked, as with a store that tells none */
    return LARDER_OK;
}

static void sum_add(struct sum *s, const void *p, size_t n)
{
    if (s->how == SUM_CRC32)
        s->crc = crc32_z(s->crc, p, n);
    else if (s->how == SUM_DIGEST)
        EVP_DigestUpdate(s->digest, p, n);
}

static bool sum_matches(struct sum *s)
{
    uint8_t raw[EVP_MAX_MD_SIZE];
    char text[2 * EVP_MAX_MD_SIZE + 1];
    unsigned n = 4;

    if (s->how == SUM_NONE)
        return true;
    if (s->how == SUM_DIGEST)
        EVP_DigestFinal_ex(s->digest, raw, &n);
    else
        for (unsigned i = 0; i < n; i++)
            raw[i] = (uint8_t)(s->crc >> (24 - 8 * i));
    if (s->hex)
        ldr_hex(raw, n, text);
    else
        EVP_EncodeBlock((unsigned char *)text, raw, (int)n);
    return s->hex ? !strcasecmp(text, s->want) : !strcmp(text, s->want);
}

static bool starts_with(const char *p, size_t n, const char *head)
{
    return n > strlen(head) && !memcmp(p, head, strlen(head));
}

static bool is_name(const char *p, size_t n, const char *name)
{
    return n == strlen(name) && !memcmp(p, name, n);
}

static bool meta_add_pair(struct ldr_meta *m, enum ldr_tag tag, const char *name, size_t name_len, const char *value,
                          size_t value_len)
{
    struct ldr_buf pair = LDR_BUF_INIT(LDR_META_MAX);
    bool ok = ldr_buf_add(&pair, name, name_len) && ldr_buf_add(&pair, "", 1) && ldr_buf_add(&pair, value, value_len) &&
              ldr_meta_add(m, tag, pair.p, pair.len);

    ldr_buf_release(&pair);
    return ok;
}

static bool meta_add_etag(struct ldr_meta *m, const char *value, size_t n)
{
    bool ok = ldr_meta_add(m, LDR_TAG_VALIDATOR, value, n);

    if (n >= 2 && !memcmp(value, "W/", 2))
        value += 2, n -= 2;
    if (n >= 2 && value[0] == '"' && value[n - 1] == '"')
        value += 1, n -= 2;
    return ok && ldr_meta_add(m, LDR_TAG_ETAG, value, n);
}

static bool meta_add_text(struct ldr_meta *m, const struct text_header *h, const char *value, size_t n)
{
    if (h->tag == LDR_TAG_VERSION && n == 4 && !memcmp(value, "null", 4))
        return true; /* a bucket without versions */
    /* the framing of an upload, which some stores give back as if it were the object's */
    if (h->tag == LDR_TAG_CONTENT_ENCODING && n >= 11 && !memcmp(value, "aws-chunked", 11)) {
        value += 11, n -= 11;
        while (n > 0 && (*value == ',' || *value == ' '))
            value++, n--;
    }
    return n == 0 || ldr_meta_add(m, h->tag, value, n);
}

/* op->meta from the headers, but for the size. */
static enum larder_kind read_meta(struct s3_op *o, const struct ldr_http_reply *reply, struct larder_err *err)
{
    struct ldr_meta *m = &o->op->meta;
    bool put = o->op->what == LDR_OP_PUT, ok = true;
    size_t pos = 0, name_len, n;
    const char *name, *value;
    char date[64];

    ldr_meta_release(m);
    while (ok && ldr_http_header_next(reply, &pos, &name, &name_len, &value, &n)) {
        if (is_name(name, name_len, "etag"))
            ok = meta_add_etag(m, value, n);
        else if (starts_with(name, name_len, CHECKSUM) && !is_name(name, name_len, CHECKSUM "type"))
            ok = meta_add_pair(m, LDR_TAG_CHECKSUM, name + strlen(CHECKSUM), name_len - strlen(CHECKSUM), value, n);
        else if (!put && starts_with(name, name_len, USER_META))
            ok = meta_add_pair(m, LDR_TAG_USER, name + strlen(USER_META), name_len - strlen(USER_META), value, n);
        for (size_t i = 0; ok && i < LDR_ARRAY_LEN(text_headers); i++)
            if (is_name(name, name_len, text_headers[i].name) &&
                !(put && text_headers[i].settable)) /* there they describe the answer, not the object */
                ok = meta_add_text(m, &text_headers[i], value, n);
    }
    if (!ok)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the metadata of \"%s\" is larger than %d KiB", o->op->uri,
                        (int)(LDR_META_MAX / LDR_KIB));
    if (ldr_http_header(reply, "last-modified", date, sizeof date) && ldr_http_date_s(date) > 0)
        m->last_modified_s = ldr_http_date_s(date);
    return LARDER_OK;
}

static bool read_number(const char **p, char end, uint64_t *out)
{
    const char *start = *p;

    for (*out = 0; **p >= '0' && **p <= '9'; (*p)++)
        if (__builtin_mul_overflow(*out, (uint64_t)10, out) || __builtin_add_overflow(*out, (uint64_t)(**p - '0'), out))
            return false;
    return *p > start && *(*p)++ == end;
}

/* "bytes FIRST-LAST/TOTAL" */
static bool read_content_range(const struct ldr_http_reply *reply, uint64_t *first, uint64_t *last, uint64_t *total)
{
    char text[96];
    const char *p = text + strlen("bytes ");

    return ldr_http_header(reply, "content-range", text, sizeof text) &&
           !strncasecmp(text, "bytes ", strlen("bytes ")) && read_number(&p, '-', first) &&
           read_number(&p, '/', last) && read_number(&p, '\0', total) && *first <= *last && *last < *total;
}

/* Which bytes follow: exactly those that were asked for, or the answer is of no use. */
static enum larder_kind check_get(struct s3_op *o, const struct ldr_http_reply *reply, uint64_t *offset,
                                  struct larder_err *err)
{
    struct ldr_op *op = o->op;
    uint64_t length, first, last, total;

    if (reply->content_length < 0)
        return ldr_fail_http(err, LARDER_UNAVAILABLE, reply->status,
                             "could not get \"%s\": the answer does not say its length", op->uri);
    length = (uint64_t)reply->content_length;
    if (reply->status == 200) { /* the whole object; does for a range that covers it */
        if (op->ranged && (op->offset > 0 || length > op->length))
            return ldr_fail_http(err, LARDER_UNAVAILABLE, 200,
                                 "could not get a part of \"%s\": the store answers with the whole object", op->uri);
        *offset = 0;
        o->due = op->meta.size_bytes = length;
        return LARDER_OK;
    }
    if (!read_content_range(reply, &first, &last, &total) || first != op->offset || length != last - first + 1 ||
        (length != op->length && (length > op->length || last + 1 != total)))
        return ldr_fail_http(err, LARDER_UNAVAILABLE, reply->status,
                             "could not get a part of \"%s\": the store answers with another part", op->uri);
    *offset = first;
    o->due = length;
    op->meta.size_bytes = total;
    return LARDER_OK;
}

static bool is_success(const struct ldr_op *op, int status)
{
    switch (op->what) {
    case LDR_OP_GET:
        return status == 200 || (status == 206 && op->ranged);
    case LDR_OP_DELETE:
        return status == 200 || status == 202 || status == 204;
    default:
        return status == 200;
    }
}

static enum larder_kind read_head(struct s3_op *o, const struct ldr_http_reply *reply)
{
    struct ldr_op *op = o->op;
    uint64_t offset = 0;
    enum larder_kind k;

    if (op->what == LDR_OP_DELETE)
        return LARDER_OK;
    k = read_meta(o, reply, &op->err);
    if (k)
        return k;
    if (op->what == LDR_OP_PUT) {
        op->meta.size_bytes = op->size_bytes;
        return LARDER_OK;
    }
    if (op->what == LDR_OP_HEAD) {
        if (reply->content_length < 0)
            return ldr_fail_http(&op->err, LARDER_UNAVAILABLE, reply->status,
                                 "could not look up \"%s\": the answer does not say its size", op->uri);
        op->meta.size_bytes = (uint64_t)reply->content_length;
        return LARDER_OK;
    }
    k = check_get(o, reply, &offset, &op->err);
    if (!k && o->due == op->meta.size_bytes)
        k = sum_choose(&o->sum, reply, &op->err);
    return k ? k : op->sink->begin(op->sink, &op->meta, offset, o->due, &op->err);
}

/* The reason is in op->err and complete; the transport only passes the kind on. */
static enum larder_kind tell(struct s3_op *o, enum larder_kind kind, struct larder_err *err)
{
    if (kind) {
        o->told = true;
        *err = o->op->err;
    }
    return kind;
}

static enum larder_kind on_headers(struct ldr_http_req *r, const struct ldr_http_reply *reply, struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);

    o->good = is_success(o->op, reply->status);
    return o->good ? tell(o, read_head(o, reply), err) : LARDER_OK;
}

static enum larder_kind on_body(struct ldr_http_req *r, const void *p, size_t n, struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_op *op = o->op;

    if (!o->good) { /* one byte over LDR_XML_MAX is enough to know that it is too large to be read */
        size_t room = o->reason.cap - o->reason.len;

        return ldr_buf_add(&o->reason, p, n < room ? n : room)
                   ? LARDER_OK
                   : tell(o, ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for an answer"), err);
    }
    if (op->what != LDR_OP_GET)
        return LARDER_OK;
    if (n > o->due - o->got)
        return tell(
            o, ldr_fail(&op->err, LARDER_UNAVAILABLE, "could not get \"%s\": more bytes than announced", op->uri), err);
    o->got += n;
    sum_add(&o->sum, p, n);
    return tell(o, op->sink->write(op->sink, p, n, &op->err), err);
}

/* ---- refusals ---- */

struct refusal {
    int status;
    char code[64], text[256], id[96], region[64];
};

static bool has_code(const struct refusal *f, const char *code)
{
    return !strcmp(f->code, code);
}

static void read_refusal(struct s3_op *o, struct refusal *f)
{
    const struct ldr_http_reply *reply = &o->http.reply;
    const struct ldr_xml_want want[] = { { "Code", f->code, sizeof f->code },
                                         { "Message", f->text, sizeof f->text },
                                         { "RequestId", f->id, sizeof f->id },
                                         { "Region", f->region, sizeof f->region } };

    *f = (struct refusal){ .status = reply->status };
    ldr_xml_read(o->reason.p, o->reason.len, "Error", want, LDR_ARRAY_LEN(want));
    if (!f->id[0])
        ldr_http_header(reply, "x-amz-request-id", f->id, sizeof f->id);
    if (!f->region[0])
        ldr_http_header(reply, "x-amz-bucket-region", f->region, sizeof f->region);
}

static bool is_other_region(const struct s3_op *o, const struct refusal *f)
{
    return f->region[0] && strcmp(f->region, o->s3->region) != 0 &&
           (f->status == 301 || f->status == 307 || f->status == 400);
}

static enum larder_kind kind_of_refusal(const struct s3_op *o, const struct refusal *f)
{
    static const struct {
        const char *code;
        enum larder_kind kind;
    } by_code[] = { /* where the status alone says too little, or something else */
                    { "SlowDown", LARDER_UNAVAILABLE },
                    { "ServiceUnavailable", LARDER_UNAVAILABLE },
                    { "InternalError", LARDER_UNAVAILABLE },
                    { "RequestTimeout", LARDER_UNAVAILABLE },
                    { "OperationAborted", LARDER_UNAVAILABLE },
                    { "ConditionalRequestConflict", LARDER_UNAVAILABLE },
                    { "BadDigest", LARDER_CORRUPT },
                    { "XAmzContentSHA256Mismatch", LARDER_CORRUPT },
                    { "ExpiredToken", LARDER_DENIED },
                    { "InvalidToken", LARDER_DENIED },
                    { "NotImplemented", LARDER_UNSUPPORTED }
    };
    int status = f->status;

    if (is_other_region(o, f))
        return LARDER_INVALID;
    for (size_t i = 0; i < LDR_ARRAY_LEN(by_code); i++)
        if (has_code(f, by_code[i].code))
            return by_code[i].kind;
    if (status == 404)
        return LARDER_NOT_FOUND;
    if (status == 401 || status == 403)
        return LARDER_DENIED;
    if (status == 412 && o->op->create_only) /* the first of two attempts may be what created it */
        return o->http.attempts > 1 ? LARDER_OUTCOME_UNKNOWN : LARDER_EXISTS;
    if (status == 412)
        return LARDER_PRECONDITION;
    if (status == 501)
        return LARDER_UNSUPPORTED;
    if (status == 429 || status >= 500)
        return LARDER_UNAVAILABLE;
    if (status >= 400)
        return LARDER_INVALID;
    return status >= 300 ? LARDER_INTERNAL : LARDER_UNAVAILABLE;
}

/* Seconds, or a date. */
static uint32_t retry_after_ms(const struct ldr_http_reply *reply)
{
    char text[64];
    const char *p = text;
    uint64_t s = 0;
    int64_t at;

    if (!ldr_http_header(reply, "retry-after", text, sizeof text))
        return 0;
    if (!read_number(&p, '\0', &s)) {
        at = ldr_http_date_s(text);
        s = at > 0 && reply->date_s > 0 && at > reply->date_s ? (uint64_t)(at - reply->date_s) : 0;
    }
    return s < RETRY_AFTER_MS / 1000 ? (uint32_t)(s * 1000) : RETRY_AFTER_MS;
}

static void say_why(const struct s3_op *o, const struct refusal *f, enum larder_kind kind, char *out, size_t cap)
{
    const struct ldr_op *op = o->op;

    if (is_other_region(o, f))
        snprintf(out, cap, "bucket \"%s\" is in region \"%s\", the setting \"region\" says \"%s\"", op->container,
                 f->region, o->s3->region);
    else if (kind == LARDER_NOT_FOUND && has_code(f, "NoSuchBucket"))
        snprintf(out, cap, "bucket \"%s\" does not exist", op->container);
    else if (kind == LARDER_NOT_FOUND && has_code(f, "NoSuchKey"))
        snprintf(out, cap, "the object does not exist");
    else if (kind == LARDER_NOT_FOUND && !f->code[0]) /* a HEAD tells no more */
        snprintf(out, cap, "the object or its bucket does not exist");
    else if (kind == LARDER_EXISTS)
        snprintf(out, cap, "the object exists already");
    else if (kind == LARDER_OUTCOME_UNKNOWN)
        snprintf(out, cap, "the object exists; a first attempt without an answer may have created it");
    else if (kind == LARDER_PRECONDITION)
        snprintf(out, cap, "the object changed");
    else if (f->status == 416)
        snprintf(out, cap, "the object has no bytes in this range");
    else if (f->code[0])
        snprintf(out, cap, "%s%s%s", f->code, f->text[0] ? ": " : "", f->text);
    else if (o->reason.len > LDR_XML_MAX)
        snprintf(out, cap, "the store's reason is larger than %d KiB", (int)(LDR_XML_MAX / LDR_KIB));
    else if (f->status < 400)
        snprintf(out, cap, "this is no answer to such a request");
    else
        snprintf(out, cap, "the store %s it %s", f->status >= 500 ? "failed at" : "refuses",
                 op->what == LDR_OP_HEAD ? "(a HEAD brings no reason)" : "without a reason");
}

static enum larder_kind refused(struct s3_op *o, const struct refusal *f)
{
    enum larder_kind kind = kind_of_refusal(o, f);
    struct ldr_op *op = o->op;
    char why[400];

    if (op->what == LDR_OP_DELETE && kind == LARDER_NOT_FOUND && !has_code(f, "NoSuchBucket"))
        return LARDER_OK; /* gone is gone */
    if (kind == LARDER_UNAVAILABLE)
        op->retry_after_ms = retry_after_ms(&o->http.reply);
    say_why(o, f, kind, why, sizeof why);
    return ldr_fail_http(&op->err, kind, f->status, "could not %s \"%s\": %s (HTTP %d%s%s)", verbs[op->what], op->uri,
                         why, f->status, f->id[0] ? ", request id " : "", f->id);
}

/* Is it our clock that the store refuses? Then go by the store's from now on. */
static bool learn_clock(struct s3_op *o, const struct refusal *f)
{
    int64_t date = o->http.reply.date_s, now = time(NULL);
    int64_t off = date - (now + o->s3->skew_s);
    bool mute = !f->code[0] && (f->status == 403 || f->status == 400) && (off > SKEW_S || off < -SKEW_S);

    if (o->clock_tried || date == 0 || !(mute || has_code(f, "RequestTimeTooSkewed")))
        return false;
    o->clock_tried = true;
    o->s3->skew_s = date - now;
    ldr_log(LDR_WARN, "s3", "this node's clock differs from the store's seconds=%" PRId64 " host=%s", o->s3->skew_s,
            o->s3->host);
    return true;
}

/* ---- the end ---- */

static enum larder_kind accepted(struct s3_op *o)
{
    struct ldr_op *op = o->op;

    if (op->what != LDR_OP_GET)
        return LARDER_OK;
    if (o->got != o->due)
        return ldr_fail(&op->err, LARDER_UNAVAILABLE, "could not get \"%s\": fewer bytes than announced", op->uri);
    if (!sum_matches(&o->sum))
        return ldr_fail(&op->err, LARDER_CORRUPT, "could not get \"%s\": its bytes do not match the store's %s",
                        op->uri, o->sum.name);
    return LARDER_OK;
}

static void on_done(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_op *op = o->op;
    struct refusal f;

    op->requests += r->attempts;
    op->bytes_in += r->bytes_in;
    op->bytes_out += r->bytes_out;
    op->sent = op->sent || (r->sent && (op->what == LDR_OP_PUT || op->what == LDR_OP_DELETE));
    if (o->told) {
        op_end(o, kind);
    } else if (kind) {
        ldr_fail(&op->err, kind, "could not %s \"%s\": %s", verbs[op->what], op->uri, err->msg);
        op->err.sys = err->sys;
        op->err.http = err->http;
        op_end(o, kind);
    } else if (o->good) {
        op_end(o, accepted(o));
    } else {
        read_refusal(o, &f);
        if (learn_clock(o, &f))
            start_on_net(o);
        else
            op_end(o, refused(o, &f));
    }
}

/* ---- hash and start ---- */

static void start_on_net(struct s3_op *o)
{
    struct ldr_op *op = o->op;
    enum larder_kind k = build(o, &op->err);

    if (k) {
        op_end(o, k);
        return;
    }
    o->reason.len = 0;
    o->due = o->got = 0;
    o->good = o->told = false;
    o->http = (struct ldr_http_req){ .method = methods[op->what],
                                     .url = (const char *)o->url.p,
                                     .headers = o->headers,
                                     .body_fd = -1,
                                     .deadline_ns = op->deadline_ns,
                                     .on_headers = on_headers,
                                     .on_body = on_body,
                                     .on_done = on_done };
    if (op->what == LDR_OP_PUT) {
        o->http.body = op->bytes;
        o->http.body_fd = op->bytes ? -1 : op->fd;
        o->http.body_len = op->size_bytes;
    }
    ldr_http_send_on_net(o->s3->base.env.net, &o->http); /* may have ended it */
}

static enum larder_kind hash_file(const struct ldr_op *op, char out[LDR_SHA256_HEX_MAX], struct larder_err *err)
{
    uint64_t size = op->size_bytes;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    char *piece = malloc(HASH_PIECE);
    enum larder_kind k = LARDER_OK;
    uint8_t digest[32];

    if (!ctx || !piece || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1) {
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a checksum");
        goto done;
    }
    for (uint64_t at = 0; at < size;) {
        ssize_t n = pread(op->fd, piece, size - at < HASH_PIECE ? (size_t)(size - at) : HASH_PIECE, (off_t)at);

        if (n == -1 && errno == EINTR)
            continue;
        if (n <= 0) {
            k = n == 0 ? ldr_fail(err, LARDER_IO, "could not put \"%s\": its file is shorter than %" PRIu64 " bytes",
                                  op->uri, size)
                       : ldr_fail_sys(err, LARDER_IO, "could not read the file for \"%s\"", op->uri);
            goto done;
        }
        EVP_DigestUpdate(ctx, piece, (size_t)n);
        at += (uint64_t)n;
    }
    EVP_DigestFinal_ex(ctx, digest, NULL);
    ldr_hex(digest, sizeof digest, out);
done:
    EVP_MD_CTX_free(ctx);
    free(piece);
    return k;
}

static void hashed_on_net(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    struct s3_op *o = op->priv;

    ldr_net_away_on_net(o->s3->base.env.net, -1);
    if (op->kind)
        op_end(o, op->kind);
    else
        start_on_net(o);
}

static void hash_on_pool(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    struct s3_op *o = op->priv;

    op->kind = LARDER_OK;
    if (op->bytes)
        ldr_sha256_hex(op->bytes, (size_t)op->size_bytes, o->payload);
    else
        op->kind = hash_file(op, o->payload, &op->err);
    t->run = hashed_on_net;
    ldr_net_post(o->s3->base.env.net, t);
}

/* Get, head, delete: nothing to hash. */
static void s3_ask(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o;

    if (check_name(op, &op->err)) {
        ldr_op_done(op, op->err.kind);
        return;
    }
    o = op_begin(b, op);
    if (!o)
        return;
    memcpy(o->payload, LDR_SIGV4_EMPTY, sizeof LDR_SIGV4_EMPTY);
    start_on_net(o);
}

static void s3_put(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o;

    if (op->size_bytes == 0) {
        s3_ask(b, op);
        return;
    }
    if (check_name(op, &op->err)) {
        ldr_op_done(op, op->err.kind);
        return;
    }
    o = op_begin(b, op);
    if (!o)
        return;
    if (op->bytes && op->size_bytes <= HASH_HERE_MAX) {
        ldr_sha256_hex(op->bytes, (size_t)op->size_bytes, o->payload);
        start_on_net(o);
        return;
    }
    ldr_net_away_on_net(b->env.net, 1);
    op->task.run = hash_on_pool;
    ldr_pool_post(b->env.pool, &op->task);
}

/* ---- open and close ---- */

static const char *const settings[] = { "auth_type", "access_key_id", "secret_key",  "secret_key_path", "token",
                                        "region",    "endpoint",      "disable_ssl", "v2_signing" };

static enum larder_kind check_settings(const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    const char *v2 = ldr_store_cfg_get(cfg, "v2_signing");

    for (size_t i = 0; i < cfg->n_config; i++) {
        char accepted_names[256];
        size_t j, n = 0;

        for (j = 0; j < LDR_ARRAY_LEN(settings) && strcmp(cfg->config[i].name, settings[j]) != 0; j++)
            n += (size_t)snprintf(accepted_names + n, sizeof accepted_names - n, "%s%s", j ? ", " : "", settings[j]);
        if (j == LDR_ARRAY_LEN(settings))
            return ldr_fail(err, LARDER_INVALID, "unknown setting \"%s\" of an s3 store; accepted: %s",
                            cfg->config[i].name, accepted_names);
    }
    if (v2 && !strcmp(v2, "true"))
        return ldr_fail(err, LARDER_UNSUPPORTED,
                        "setting \"v2_signing\": signature version 2 is not supported, only version 4");
    return LARDER_OK;
}

static enum larder_kind open_cred(const struct ldr_store_cfg *cfg, struct ldr_cred_source **out, struct larder_err *err)
{
    const char *type = ldr_store_cfg_get(cfg, "auth_type"), *id = ldr_store_cfg_get(cfg, "access_key_id");
    const char *secret = ldr_store_cfg_get(cfg, "secret_key"), *path = ldr_store_cfg_get(cfg, "secret_key_path");
    const char *token = ldr_store_cfg_get(cfg, "token");
    struct larder_err why = { 0 };
    enum larder_kind k;

    if (type && !strcmp(type, "iam")) {
        k = ldr_cred_env_new(out, &why);
        return k ? ldr_fail(err, k, "setting \"auth_type\" is iam, but %s", why.msg) : LARDER_OK;
    }
    if (type && *type && strcmp(type, "accesskey") != 0)
        return ldr_fail(err, LARDER_INVALID, "setting \"auth_type\" is \"%s\"; accepted: accesskey, iam", type);
    if (!id)
        return ldr_fail(err, LARDER_INVALID, "setting \"access_key_id\" is missing (or set auth_type: iam)");
    if (path && *path) {
        k = ldr_cred_file_new(id, path, token, out, &why);
        return k ? ldr_fail(err, k, "setting \"secret_key_path\": %s", why.msg) : LARDER_OK;
    }
    if (!secret)
        return ldr_fail(err, LARDER_INVALID, "setting \"secret_key\" or \"secret_key_path\" is missing");
    return ldr_cred_static_new(id, secret, token, out, err);
}

static bool take_scheme(const char **text, const char *scheme)
{
    size_t n = strlen(scheme);

    if (strncasecmp(*text, scheme, n) != 0)
        return false;
    *text += n;
    return true;
}

/* "[http[s]://]host[:port][/path]" */
static enum larder_kind read_endpoint(struct s3 *s3, const char *endpoint, struct larder_err *err)
{
    static const char host_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]";
    static const char path_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_~/";
    const char *p = endpoint, *port;
    size_t host_len, path_len;

    if (take_scheme(&p, "https://"))
        s3->https = true;
    else if (take_scheme(&p, "http://"))
        s3->https = false;
    host_len = strspn(p, host_letters);
    path_len = strlen(p + host_len);
    if (host_len == 0 || host_len > 255 || (path_len > 0 && p[host_len] != '/') ||
        strspn(p + host_len, path_letters) != path_len)
        return ldr_fail(
            err, LARDER_INVALID,
            "setting \"endpoint\" is no address; accepted: [https://]HOST[:PORT][/PATH], http:// or https://");
    while (path_len > 0 && p[host_len + path_len - 1] == '/')
        path_len--;
    s3->prefix = strndup(p + host_len, path_len);
    port = s3->https ? ":443" : ":80"; /* a default port does not stand in the Host header, which is signed */
    if (host_len > strlen(port) && !strncmp(p + host_len - strlen(port), port, strlen(port)))
        host_len -= strlen(port);
    s3->host = strndup(p, host_len);
    return LARDER_OK;
}

static void s3_close(struct ldr_backend *b)
{
    struct s3 *s3 = (struct s3 *)b;

    ldr_cred_free(&s3->cred);
    free(s3->host);
    free(s3->prefix);
    free(s3->region);
    free(s3);
}

static enum larder_kind s3_open(const struct ldr_store_cfg *cfg, const struct ldr_backend_env *env,
                                struct ldr_backend **out, struct larder_err *err);

static uint64_t s3_fingerprint(const struct ldr_backend *b)
{
    const struct s3 *s3 = (const struct s3 *)b;
    char text[640];
    int n;

    if (s3->aws) /* a bucket's name is unique in all regions of a partition */
        n = snprintf(text, sizeof text, "s3 aws%s", !strncmp(s3->region, "cn-", 3) ? "-cn" : "");
    else
        n = snprintf(text, sizeof text, "s3 %s%s", s3->host, s3->prefix);
    return ldr_hash64(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

const struct ldr_backend_ops ldr_backend_s3 = {
    .kind = "s3",
    .caps = LDR_CAP_RANGE | LDR_CAP_IF_MATCH | LDR_CAP_CREATE_ONLY | LDR_CAP_USER_META,
    .open = s3_open,
    .close = s3_close,
    .get = s3_ask,
    .head = s3_ask,
    .put = s3_put,
    .del = s3_ask,
    .fingerprint = s3_fingerprint,
};

static enum larder_kind s3_open(const struct ldr_store_cfg *cfg, const struct ldr_backend_env *env,
                                struct ldr_backend **out, struct larder_err *err)
{
    const char *region = ldr_store_cfg_get(cfg, "region"), *endpoint = ldr_store_cfg_get(cfg, "endpoint");
    const char *plain = ldr_store_cfg_get(cfg, "disable_ssl");
    struct s3 *s3 = NULL;
    enum larder_kind k = check_settings(cfg, err);

    if (k)
        return k;
    region = region && *region ? region : "us-east-1";
    if (strlen(region) > 63 ||
        strspn(region, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != strlen(region))
        return ldr_fail(err, LARDER_INVALID, "setting \"region\" is \"%.64s\", which is no region", region);
    s3 = calloc(1, sizeof *s3);
    if (!s3)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for an s3 store");
    s3->base = (struct ldr_backend){ .ops = &ldr_backend_s3, .env = *env };
    s3->https = !(plain && !strcmp(plain, "true"));
    s3->aws = !(endpoint && *endpoint);
    s3->region = strdup(region);
    if (!s3->aws)
        k = read_endpoint(s3, endpoint, err);
    else if (asprintf(&s3->host, "s3.%s.amazonaws.com%s", region, !strncmp(region, "cn-", 3) ? ".cn" : "") == -1)
        s3->host = NULL;
    if (s3->aws)
        s3->prefix = strdup("");
    if (!k && (!s3->region || !s3->host || !s3->prefix))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for an s3 store");
    if (!k)
        k = open_cred(cfg, &s3->cred, err);
    if (k)
        s3_close(&s3->base);
    else
        *out = &s3->base;
    return k;
}
