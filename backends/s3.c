/* s3.c - S3 and every store that speaks like it (backend.h). Step 7 of a get.
 *
 * An op becomes one signed request: build() makes URL and headers, sigv4 signs them, the transport sends them. The
 * answer's head is checked in on_headers(), the body of a get goes straight into the op's sink (any other is gathered and
 * read as XML), and on_done() turns the outcome into a kind and a message. All of it runs on the net thread, but for the
 * hash of a large body, which the pool makes before the request is built.
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

#define URL_MAX        (48 * LDR_KIB) /* a prefix of LDR_KEY_MAX and a cursor of LDR_WIRE_START_MAX, all escaped */
#define HEADERS_MAX    (64 * LDR_KIB) /* of a request */
#define HASH_HERE_MAX  (64 * LDR_KIB) /* larger bodies are hashed on the pool */
#define HASH_PIECE     (256 * LDR_KIB)
#define SKEW_S         300 /* a clock that is further off than this explains a refusal that gives no reason */
#define RETRY_AFTER_MS (3600 * 1000)
#define LIST_KEY_MAX   (3 * 4096 + 1) /* of a key in a listing, escaped */
#define ETAG_MAX       256
#define COPY_SOURCE    "x-amz-copy-source"
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
    enum ldr_op_what ask;             /* op->what; of a range behind the end then HEAD: how large is the object? */
    char payload[LDR_SHA256_HEX_MAX]; /* hash of the body */
    struct ldr_buf url;
    struct ldr_buf lines; /* header lines, each ended by a NUL */
    const char *headers[LDR_SIGV4_ITEMS_MAX + 2];
    bool clock_tried; /* sent a second time with the store's clock */

    /* the answer */
    bool good;           /* its status is the success of this op */
    bool told;           /* op->err says already why it fails: the sink's reason, or ours */
    struct ldr_buf text; /* the body of a refusal, or of an answer in XML */
    uint64_t due, got;   /* bytes of a get */
    struct sum sum;
};

static const char *const verbs[LDR_OP_WHATS] = {
    [LDR_OP_GET] = "get",       [LDR_OP_HEAD] = "look up", [LDR_OP_PUT] = "put",
    [LDR_OP_DELETE] = "delete", [LDR_OP_LIST] = "list",    [LDR_OP_COPY] = "copy"
};
static const char *const methods[LDR_OP_WHATS] = {
    [LDR_OP_GET] = "GET",       [LDR_OP_HEAD] = "HEAD", [LDR_OP_PUT] = "PUT",
    [LDR_OP_DELETE] = "DELETE", [LDR_OP_LIST] = "GET",  [LDR_OP_COPY] = "PUT"
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
    ldr_buf_release(&o->text);
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
    o->ask = op->what;
    o->url = LDR_BUF_INIT(URL_MAX);
    o->lines = LDR_BUF_INIT(HEADERS_MAX);
    /* one byte over the limit is enough to know that it is too large to be read */
    o->text = LDR_BUF_INIT((op->what == LDR_OP_LIST ? LDR_XML_ITEMS_MAX : LDR_XML_MAX) + 1);
    op->priv = o;
    return o;
}

/* ---- the request ---- */

static bool is_dns_label(const char *bucket)
{
    return strlen(bucket) <= 63 && strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(bucket);
}

static enum larder_kind check_name(const char *container, const char *key, const char *uri, struct larder_err *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    size_t n = strspn(container, letters);

    if (n == 0 || n > 255 || container[n] || strchr(".-_", container[0]))
        return ldr_fail(err, LARDER_INVALID, "\"%s\" is no name of a bucket", container);
    if (!key[0])
        return ldr_fail(err, LARDER_INVALID, "\"%s\" names no object: the key is empty", uri);
    return LARDER_OK;
}

static enum larder_kind check_names(const struct ldr_op *op, struct larder_err *err)
{
    enum larder_kind k = check_name(op->container, op->what == LDR_OP_LIST ? "any" : op->key, op->uri, err);

    if (!k && op->what == LDR_OP_COPY)
        k = check_name(op->from_container, op->from_key, op->from_uri, err);
    return k;
}

/* An empty value is as good as none. */
static bool add_param(struct ldr_buf *url, const char *name, const char *value)
{
    return !value || !*value || (ldr_buf_addf(url, "&%s=", name) && ldr_sigv4_escape(url, value, false));
}

/* With encoding-type=url keys come back that XML cannot hold. */
static bool add_list_query(struct ldr_buf *url, const struct ldr_op *op)
{
    return ldr_buf_addf(url, "?list-type=2&encoding-type=url&max-keys=%u", op->max_entries) &&
           add_param(url, "prefix", op->key) && add_param(url, "delimiter", op->delimiter) &&
           add_param(url, "continuation-token", op->start);
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
        !(o->ask == LDR_OP_LIST ? add_list_query(&o->url, op) : ldr_sigv4_escape(&o->url, op->key, true)) ||
        !ldr_buf_str(&o->url))
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

/* If-Match compares strongly, so a weak validator matches nothing, whatever the object is (RFC 9110). */
static enum larder_kind add_if_match(struct s3_op *o, struct larder_err *err)
{
    const char *v = o->op->if_match;

    if (!v)
        return LARDER_OK;
    if (!ldr_validator_strong((const uint8_t *)v, strlen(v)))
        return ldr_fail(err, LARDER_UNSUPPORTED, "\"%s\" has a weak ETag only, which names no version of its bytes",
                        o->op->uri);
    return add_header(o, "If-Match", v, err);
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
    if (!k)
        k = add_if_match(o, err);
    if (!k && op->if_none_match)
        k = add_header(o, "If-None-Match", op->if_none_match, err);
    return k;
}

/* Metadata goes along where nothing else is said. */
static enum larder_kind add_copy_headers(struct s3_op *o, struct larder_err *err)
{
    struct ldr_buf source = LDR_BUF_INIT(URL_MAX);
    enum larder_kind k;

    if (ldr_buf_addf(&source, "/%s/", o->op->from_container) && ldr_sigv4_escape(&source, o->op->from_key, true))
        k = add_header_n(o, COPY_SOURCE, source.p, source.len, err);
    else
        k = ldr_fail(err, LARDER_INVALID, "the key of \"%s\" is too long", o->op->from_uri);
    ldr_buf_release(&source);
    return k;
}

static enum larder_kind add_op_headers(struct s3_op *o, struct larder_err *err)
{
    enum larder_kind k;

    switch (o->ask) {
    case LDR_OP_GET:
        return add_get_headers(o, err);
    case LDR_OP_HEAD:
        k = add_header(o, CHECKSUM "mode", "ENABLED", err);
        return k || o->op->what != LDR_OP_GET ? k : add_if_match(o, err);
    case LDR_OP_PUT:
        return add_put_headers(o, err);
    case LDR_OP_COPY:
        return add_copy_headers(o, err);
    case LDR_OP_DELETE:
    case LDR_OP_LIST:
    case LDR_OP_WHATS:
        break;
    }
    return LARDER_OK;
}

/* URL and signed headers, for this moment. */
static enum larder_kind build(struct s3_op *o, struct larder_err *err)
{
    struct s3 *s3 = o->s3;
    struct ldr_sigv4 sign = { .method = methods[o->ask],
                              .payload = o->payload,
                              .region = s3->region,
                              .service = "s3",
                              .time_s = time(NULL) + s3->skew_s };
    struct ldr_buf authorization = LDR_BUF_INIT(HEADERS_MAX);
    char host[512], date[LDR_SIGV4_DATE_MAX], *query;
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
    if (!k)
        k = add_op_headers(o, err);
    if (!k)
        k = list_headers(o, err);
    if (k)
        return k;
    query = strchr((char *)o->url.p + path_at, '?'); /* a path has it escaped */
    if (query)
        *query = '\0';
    sign.path = (const char *)o->url.p + path_at;
    sign.query = query ? query + 1 : NULL;
    sign.headers = o->headers;
    k = ldr_sigv4_authorization(&sign, &cred, &authorization, err);
    if (query)
        *query = '?';
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
    bool put = o->ask == LDR_OP_PUT || o->ask == LDR_OP_COPY, ok = true;
    size_t pos = 0, name_len, n;
    const char *name, *value;
    char date[64];

    ldr_meta_release(m);
    while (ok && ldr_http_header_next(reply, &pos, &name, &name_len, &value, &n)) {
        if (is_name(name, name_len, "etag") && o->ask != LDR_OP_COPY) /* a copy's is in the body */
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

/* Is this the version that was asked for? */
static bool is_wanted_version(const struct ldr_op *op)
{
    const struct ldr_buf *fields = &op->meta.fields;
    struct ldr_field f;

    return !op->if_match || (ldr_fields_find(fields->p, fields->len, LDR_TAG_VALIDATOR, &f) &&
                             f.len == strlen(op->if_match) && !memcmp(f.p, op->if_match, f.len));
}

/* Which bytes follow: exactly those that were asked for, or the answer is of no use. */
static enum larder_kind check_get(struct s3_op *o, const struct ldr_http_reply *reply, uint64_t *offset,
                                  struct larder_err *err)
{
    struct ldr_op *op = o->op;
    uint64_t length, first, last, total;

    if (!is_wanted_version(op))
        return ldr_fail_http(err, LARDER_PRECONDITION, reply->status,
                             "could not get \"%s\": the store answers with another version than it was asked for",
                             op->uri);
    if (reply->content_length < 0)
        return ldr_fail_http(err, LARDER_UNAVAILABLE, reply->status,
                             "could not get \"%s\": the answer does not say its length", op->uri);
    length = (uint64_t)reply->content_length;
    if (reply->status == 200) { /* the whole object; it begins where the range does, or not */
        if (op->ranged && op->offset > 0)
            return ldr_fail_http(err, LARDER_UNSUPPORTED, 200,
                                 "could not get a part of \"%s\": the store answers with the whole object", op->uri);
        *offset = 0;
        o->due = op->meta.size_bytes = length;
        return LARDER_OK;
    }
    if (!read_content_range(reply, &first, &last, &total) || first != op->offset || length != last - first + 1 ||
        length > op->length || (length < op->length && last + 1 != total))
        return ldr_fail_http(err, LARDER_CORRUPT, reply->status,
                             "could not get a part of \"%s\": the store answers with another part", op->uri);
    *offset = first;
    o->due = length;
    op->meta.size_bytes = total;
    return LARDER_OK;
}

/* The range began at or behind the end, said a 416; now the size is known. */
static enum larder_kind begin_behind_end(struct s3_op *o)
{
    struct ldr_op *op = o->op;
    uint64_t size = op->meta.size_bytes;

    if (!is_wanted_version(op))
        return ldr_fail_http(&op->err, LARDER_PRECONDITION, 200, "could not get \"%s\": the object changed", op->uri);
    if (op->offset < size) /* it grew in between, or the store is wrong */
        return ldr_fail_http(&op->err, LARDER_UNAVAILABLE, 416,
                             "could not get a part of \"%s\": the store refuses byte %" PRIu64 " of %" PRIu64, op->uri,
                             op->offset, size);
    return op->sink->begin(op->sink, &op->meta, size, 0, &op->err);
}

static bool is_success(const struct s3_op *o, int status)
{
    switch (o->ask) {
    case LDR_OP_GET:
        return status == 200 || (status == 206 && o->op->ranged) || (status == 304 && o->op->if_none_match);
    case LDR_OP_DELETE:
        return status == 200 || status == 202 || status == 204;
    default:
        return status == 200;
    }
}

static enum larder_kind read_get_head(struct s3_op *o, const struct ldr_http_reply *reply)
{
    struct ldr_op *op = o->op;
    uint64_t offset = 0;
    enum larder_kind k;

    if (reply->status == 304) {
        op->not_modified = true;
        return LARDER_OK;
    }
    k = check_get(o, reply, &offset, &op->err);
    if (!k && o->due == op->meta.size_bytes) /* a part that is all of the object can be checked too */
        k = sum_choose(&o->sum, reply, &op->err);
    return k ? k : op->sink->begin(op->sink, &op->meta, offset, o->due, &op->err);
}

static enum larder_kind read_head(struct s3_op *o, const struct ldr_http_reply *reply)
{
    struct ldr_op *op = o->op;
    enum larder_kind k;

    if (o->ask == LDR_OP_DELETE || o->ask == LDR_OP_LIST)
        return LARDER_OK;
    k = read_meta(o, reply, &op->err);
    if (k || o->ask == LDR_OP_COPY)
        return k;
    if (o->ask == LDR_OP_GET)
        return read_get_head(o, reply);
    if (o->ask == LDR_OP_PUT) {
        op->meta.size_bytes = op->size_bytes;
        return LARDER_OK;
    }
    if (reply->content_length < 0)
        return ldr_fail_http(&op->err, LARDER_UNAVAILABLE, reply->status,
                             "could not %s \"%s\": the answer does not say its size", verbs[op->what], op->uri);
    op->meta.size_bytes = (uint64_t)reply->content_length;
    return op->what == LDR_OP_GET ? begin_behind_end(o) : LARDER_OK;
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

    o->good = is_success(o, reply->status);
    return o->good ? tell(o, read_head(o, reply), err) : LARDER_OK;
}

static enum larder_kind on_body(struct ldr_http_req *r, const void *p, size_t n, struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_op *op = o->op;

    if (!o->good || o->ask == LDR_OP_LIST || o->ask == LDR_OP_COPY) {
        size_t room = o->text.cap - o->text.len;

        return ldr_buf_add(&o->text, p, n < room ? n : room)
                   ? LARDER_OK
                   : tell(o, ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for an answer"), err);
    }
    if (o->ask != LDR_OP_GET)
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

/* From the body `p`. */
static void read_refusal(const struct s3_op *o, const void *p, size_t n, struct refusal *f)
{
    const struct ldr_http_reply *reply = &o->http.reply;
    const struct ldr_xml_want want[] = { { "Code", f->code, sizeof f->code },
                                         { "Message", f->text, sizeof f->text },
                                         { "RequestId", f->id, sizeof f->id },
                                         { "Region", f->region, sizeof f->region } };

    *f = (struct refusal){ .status = reply->status };
    ldr_xml_read(p, n, "Error", want, LDR_ARRAY_LEN(want));
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
                    { "AccessDenied", LARDER_DENIED }, /* of a copy: with status 200 */
                    { "NoSuchKey", LARDER_NOT_FOUND },
                    { "NoSuchBucket", LARDER_NOT_FOUND },
                    { "InvalidRequest", LARDER_INVALID },
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

/* What is tried, for messages: `get "s3://b/k"`. */
static void say_what(const struct ldr_op *op, char *out, size_t cap)
{
    if (op->what == LDR_OP_COPY)
        snprintf(out, cap, "copy \"%.400s\" to \"%.400s\"", op->from_uri, op->uri);
    else
        snprintf(out, cap, "%s \"%.900s\"", verbs[op->what], op->uri);
}

static void say_why(const struct s3_op *o, const struct refusal *f, enum larder_kind kind, char *out, size_t cap)
{
    const struct ldr_op *op = o->op;

    if (is_other_region(o, f))
        snprintf(out, cap, "bucket \"%s\" is in region \"%s\", the setting \"region\" says \"%s\"", op->container,
                 f->region, o->s3->region);
    else if (kind == LARDER_NOT_FOUND && has_code(f, "NoSuchBucket") && op->what == LDR_OP_COPY)
        snprintf(out, cap, "one of the buckets does not exist");
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
    else if (o->text.len > LDR_XML_MAX)
        snprintf(out, cap, "the store's reason is larger than %d KiB", (int)(LDR_XML_MAX / LDR_KIB));
    else if (f->status < 400)
        snprintf(out, cap, "this is no answer to such a request");
    else
        snprintf(out, cap, "the store %s it %s", f->status >= 500 ? "failed at" : "refuses",
                 o->ask == LDR_OP_HEAD ? "(a HEAD brings no reason)" : "without a reason");
}

static enum larder_kind refused(struct s3_op *o, const struct refusal *f)
{
    enum larder_kind kind = kind_of_refusal(o, f);
    struct ldr_op *op = o->op;
    char what[960], why[400];

    if (op->what == LDR_OP_DELETE && kind == LARDER_NOT_FOUND && !has_code(f, "NoSuchBucket"))
        return LARDER_OK; /* gone is gone */
    if (kind == LARDER_UNAVAILABLE)
        op->retry_after_ms = retry_after_ms(&o->http.reply);
    say_what(op, what, sizeof what);
    say_why(o, f, kind, why, sizeof why);
    return ldr_fail_http(&op->err, kind, f->status, "could not %s: %s (HTTP %d%s%s)", what, why, f->status,
                         f->id[0] ? ", request id " : "", f->id);
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

/* ---- listings ---- */

/* A listing as it is read; item by item, see add_object() and add_group(). */
struct listing {
    struct ldr_op *op;
    bool escaped; /* keys are */
    const char *fault;
    char key[LIST_KEY_MAX], size[24], modified[40], etag[ETAG_MAX];
};

/* "2009-10-12T17:50:30.000Z"; anything else is unknown. */
static int64_t read_time(const char *text)
{
    struct tm tm = { 0 };
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    if (end && *end == '.')
        end += 1 + strspn(end + 1, "0123456789");
    return end && (!strcmp(end, "Z") || !strcmp(end, "+00:00")) ? (int64_t)timegm(&tm) : LDR_TIME_UNKNOWN;
}

/* In place. False: no such text, or a NUL. */
static bool unescape(char *text)
{
    char *to = text;

    for (const char *p = text; *p; p++, to++) {
        uint8_t byte;

        *to = *p == '+' ? ' ' : *p;
        if (*p != '%')
            continue;
        if (!p[1] || !p[2] || !ldr_unhex(p + 1, 2, &byte, 1) || byte == 0)
            return false;
        *to = (char)byte;
        p += 2;
    }
    *to = '\0';
    return true;
}

/* The text between the quotes, in place; NULL: nothing. */
static const char *strip_etag(char *etag)
{
    size_t n;

    if (!strncmp(etag, "W/", 2))
        etag += 2;
    n = strlen(etag);
    if (n >= 2 && etag[0] == '"' && etag[n - 1] == '"') {
        etag[n - 1] = '\0';
        etag++;
    }
    return *etag ? etag : NULL;
}

static bool list_fault(struct listing *l, const char *fault)
{
    l->fault = fault;
    return false;
}

static bool add_entry(struct listing *l, bool is_prefix, uint64_t size, int64_t modified, const char *etag)
{
    struct ldr_op *op = l->op;

    if ((l->escaped && !unescape(l->key)) || !l->key[0])
        return list_fault(l, "a key in it makes no sense");
    if (strncmp(l->key, op->key, strlen(op->key)) != 0)
        return list_fault(l, "it has keys that nobody asked for");
    if (op->page.n == op->max_entries)
        return list_fault(l, "it has more keys than were asked for");
    return ldr_page_add(&op->page, l->key, is_prefix, size, modified, etag) ||
           list_fault(l, "its keys are larger than a page may be");
}

static bool add_object(void *user)
{
    struct listing *l = user;
    const char *p = l->size;
    uint64_t size;

    if (!read_number(&p, '\0', &size) || size > LDR_OBJECT_SIZE_MAX)
        return list_fault(l, "a size in it makes no sense");
    return add_entry(l, false, size, read_time(l->modified), strip_etag(l->etag));
}

static bool add_group(void *user)
{
    return add_entry(user, true, 0, LDR_TIME_UNKNOWN, NULL);
}

static enum larder_kind bad_listing(struct s3_op *o, const char *fault)
{
    return ldr_fail_http(&o->op->err, LARDER_CORRUPT, 200, "could not list \"%s\": the store's answer is of no use: %s",
                         o->op->uri, fault);
}

/* Read twice: whether keys are escaped may be said behind them. */
static enum larder_kind listed(struct s3_op *o)
{
    struct listing l = { .op = o->op };
    char encoding[8], truncated[8], token[LDR_WIRE_START_MAX + 2];
    const struct ldr_xml_want all[] = { { "EncodingType", encoding, sizeof encoding },
                                        { "IsTruncated", truncated, sizeof truncated },
                                        { "NextContinuationToken", token, sizeof token } };
    const struct ldr_xml_want object[] = { { "Key", l.key, sizeof l.key },
                                           { "Size", l.size, sizeof l.size },
                                           { "LastModified", l.modified, sizeof l.modified },
                                           { "ETag", l.etag, sizeof l.etag } };
    const struct ldr_xml_want group[] = { { "Prefix", l.key, sizeof l.key } };
    const struct ldr_xml_item items[] = { { "Contents", object, LDR_ARRAY_LEN(object), add_object },
                                          { "CommonPrefixes", group, LDR_ARRAY_LEN(group), add_group } };
    static const char root[] = "ListBucketResult";

    if (!ldr_xml_read_items(o->text.p, o->text.len, root, all, LDR_ARRAY_LEN(all), NULL, 0, NULL))
        return bad_listing(o, o->text.len > LDR_XML_ITEMS_MAX ? "it is too large" : "it is no whole listing");
    l.escaped = !strcmp(encoding, "url");
    if (!ldr_xml_read_items(o->text.p, o->text.len, root, NULL, 0, items, LDR_ARRAY_LEN(items), &l))
        return bad_listing(o, l.fault ? l.fault : "a text in it is too long");
    if (!strcmp(truncated, "false"))
        return LARDER_OK;
    if (strcmp(truncated, "true") != 0)
        return bad_listing(o, "it does not say whether it is the last one");
    if (!token[0] || strlen(token) > LDR_WIRE_START_MAX || (o->op->start && !strcmp(token, o->op->start)))
        return bad_listing(o, "it is not the last one, and does not say where the next one starts");
    o->op->page.next = strdup(token);
    return o->op->page.next
               ? LARDER_OK
               : ldr_fail(&o->op->err, LARDER_NO_MEMORY, "out of memory for a listing of \"%s\"", o->op->uri);
}

/* ---- the end ---- */

/* A store that cannot finish a copy says so behind a status of 200. Such a body may begin with blanks, sent while the
 * copy ran. */
static enum larder_kind copied(struct s3_op *o)
{
    struct ldr_op *op = o->op;
    const char *p = (const char *)o->text.p;
    size_t n = o->text.len;
    char etag[ETAG_MAX], modified[40];
    const struct ldr_xml_want want[] = { { "ETag", etag, sizeof etag }, { "LastModified", modified, sizeof modified } };
    struct refusal f;

    while (n > 0 && strchr(" \t\r\n", *p))
        p++, n--;
    if (ldr_xml_read(p, n, "CopyObjectResult", want, LDR_ARRAY_LEN(want))) {
        op->meta.last_modified_s = read_time(modified);
        if (etag[0] && !meta_add_etag(&op->meta, etag, strlen(etag)))
            return ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for the metadata of \"%s\"", op->uri);
        return LARDER_OK;
    }
    read_refusal(o, p, n, &f);
    if (f.code[0])
        return refused(o, &f);
    return ldr_fail_http(&op->err, LARDER_CORRUPT, 200, "could not copy \"%.200s\": the store's answer makes no sense",
                         op->from_uri);
}

static enum larder_kind accepted(struct s3_op *o)
{
    struct ldr_op *op = o->op;

    if (o->ask == LDR_OP_LIST)
        return listed(o);
    if (o->ask == LDR_OP_COPY)
        return copied(o);
    if (o->got != o->due)
        return ldr_fail(&op->err, LARDER_UNAVAILABLE, "could not get \"%s\": fewer bytes than announced", op->uri);
    if (!sum_matches(&o->sum))
        return ldr_fail(&op->err, LARDER_CORRUPT, "could not get \"%s\": its bytes do not match the store's %s",
                        op->uri, o->sum.name);
    return LARDER_OK;
}

static bool changes_store(const struct ldr_op *op)
{
    return op->what == LDR_OP_PUT || op->what == LDR_OP_DELETE || op->what == LDR_OP_COPY;
}

static void on_done(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_op *op = o->op;
    struct refusal f;
    char what[960];

    op->requests += r->attempts;
    op->bytes_in += r->bytes_in;
    op->bytes_out += r->bytes_out;
    op->sent = op->sent || (r->sent && changes_store(op));
    if (o->told) {
        op_end(o, kind);
    } else if (kind) {
        say_what(op, what, sizeof what);
        ldr_fail(&op->err, kind, "could not %s: %s", what, err->msg);
        op->err.sys = err->sys;
        op->err.http = err->http;
        op_end(o, kind);
    } else if (o->good) {
        op_end(o, accepted(o));
    } else if (r->reply.status == 416 && o->ask == LDR_OP_GET && op->ranged) {
        o->ask = LDR_OP_HEAD;
        start_on_net(o);
    } else {
        read_refusal(o, o->text.p, o->text.len, &f);
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
    o->text.len = 0;
    o->due = o->got = 0;
    o->good = o->told = false;
    o->http = (struct ldr_http_req){ .method = methods[o->ask],
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

/* All but a put: nothing to hash. */
static void s3_ask(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o;

    if (check_names(op, &op->err)) {
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
    if (check_names(op, &op->err)) {
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
    .list = s3_ask,
    .copy = s3_ask,
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
