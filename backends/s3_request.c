/* s3_request.c - an op's life, and the request that it becomes (s3_impl.h). Keys are sent byte for byte. */
#include "backends/s3_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COPY_SOURCE "x-amz-copy-source"
#define BODY_MAX    (8 * LDR_MIB)    /* 10,000 parts; 1,000 keys, escaped */
#define SLOW_MS     (10 * 60 * 1000) /* in which a store that copies or puts together may say nothing */

const char *const ldr_s3_verbs[LDR_OP_WHATS] = { [LDR_OP_GET] = "get",
                                                 [LDR_OP_HEAD] = "look up",
                                                 [LDR_OP_PUT] = "put",
                                                 [LDR_OP_DELETE] = "delete",
                                                 [LDR_OP_LIST] = "list",
                                                 [LDR_OP_COPY] = "copy",
                                                 [LDR_OP_UPLOAD_BEGIN] = "begin to upload",
                                                 [LDR_OP_UPLOAD_PART] = "upload a part of",
                                                 [LDR_OP_UPLOAD_COPY] = "copy a part of",
                                                 [LDR_OP_UPLOAD_END] = "complete the upload of",
                                                 [LDR_OP_UPLOAD_ABORT] = "abort the upload of",
                                                 [LDR_OP_DELETE_MANY] = "delete many of",
                                                 [LDR_OP_MAKE_CONTAINER] = "make the bucket of",
                                                 [LDR_OP_SIGN] = "sign a URL of" };
const char *const ldr_s3_methods[LDR_OP_WHATS] = { [LDR_OP_GET] = "GET",
                                                   [LDR_OP_HEAD] = "HEAD",
                                                   [LDR_OP_PUT] = "PUT",
                                                   [LDR_OP_DELETE] = "DELETE",
                                                   [LDR_OP_LIST] = "GET",
                                                   [LDR_OP_COPY] = "PUT",
                                                   [LDR_OP_UPLOAD_BEGIN] = "POST",
                                                   [LDR_OP_UPLOAD_PART] = "PUT",
                                                   [LDR_OP_UPLOAD_COPY] = "PUT",
                                                   [LDR_OP_UPLOAD_END] = "POST",
                                                   [LDR_OP_UPLOAD_ABORT] = "DELETE",
                                                   [LDR_OP_DELETE_MANY] = "POST",
                                                   [LDR_OP_MAKE_CONTAINER] = "PUT",
                                                   [LDR_OP_SIGN] = "GET" };

const struct ldr_s3_text_header ldr_s3_text_headers[] = { { "content-type", LDR_TAG_CONTENT_TYPE, true },
                                                          { "content-encoding", LDR_TAG_CONTENT_ENCODING, true },
                                                          { "cache-control", LDR_TAG_CACHE_CONTROL, true },
                                                          { "content-disposition", LDR_TAG_CONTENT_DISPOSITION, true },
                                                          { "content-language", LDR_TAG_CONTENT_LANGUAGE, true },
                                                          { "content-md5", LDR_TAG_CONTENT_MD5, true },
                                                          { "x-amz-version-id", LDR_TAG_VERSION, false },
                                                          { NULL, 0, false } };

/* ---- an op's life ---- */

void ldr_s3_end(struct s3_op *o, enum larder_kind kind)
{
    struct ldr_op *op = o->op;

    ldr_sum_release(&o->sum);
    ldr_buf_release(&o->body);
    ldr_buf_release(&o->url);
    if (o->lines.p) /* a token and a customer's key may stand in it */
        explicit_bzero(o->lines.p, o->lines.room);
    ldr_buf_release(&o->lines);
    ldr_buf_release(&o->text);
    free(o);
    op->priv = NULL;
    ldr_op_done(op, kind);
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
    bool of_key = op->what != LDR_OP_LIST && op->what != LDR_OP_DELETE_MANY && op->what != LDR_OP_MAKE_CONTAINER;
    enum larder_kind k = check_name(op->container, of_key ? op->key : "any", op->uri, err);

    if (!k && (op->what == LDR_OP_COPY || op->what == LDR_OP_UPLOAD_COPY))
        k = check_name(op->from_container, op->from_key, op->from_uri, err);
    return k;
}

struct s3_op *ldr_s3_begin(struct ldr_backend *b, struct ldr_op *op)
{
    enum larder_kind k = check_names(op, &op->err);
    struct s3_op *o;

    if (k) {
        ldr_op_done(op, k);
        return NULL;
    }
    o = calloc(1, sizeof *o);
    if (!o) {
        ldr_op_done(op, ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for a request"));
        return NULL;
    }
    o->s3 = (struct s3 *)b;
    o->op = op;
    o->ask = op->what;
    o->url = LDR_BUF_INIT(LDR_S3_URL_MAX);
    o->lines = LDR_BUF_INIT(LDR_S3_HEADERS_MAX);
    /* one byte over the limit is enough to know that it is too large to be read */
    o->text =
        LDR_BUF_INIT((op->what == LDR_OP_LIST || op->what == LDR_OP_DELETE_MANY ? LDR_XML_ITEMS_MAX : LDR_XML_MAX) + 1);
    o->body = LDR_BUF_INIT(BODY_MAX);
    op->priv = o;
    return o;
}

/* ---- the request ---- */

/* An empty value is as good as none. */
bool ldr_s3_param(struct ldr_buf *url, const char *name, const char *value)
{
    return !value || !*value || (ldr_buf_addf(url, "&%s=", name) && ldr_sigv4_escape(url, value, false));
}

/* The key and the query, as the op has them. */
static bool add_target(struct s3_op *o)
{
    switch (o->ask) {
    case LDR_OP_LIST:
        return ldr_s3_list_query(&o->url, o->op);
    case LDR_OP_DELETE_MANY:
    case LDR_OP_MAKE_CONTAINER:
        return ldr_s3_many_query(&o->url, o);
    case LDR_OP_HEAD:
        return ldr_sigv4_escape(&o->url, o->op->key, true) &&
               (o->op->what != LDR_OP_HEAD || !o->op->part ||
                ldr_buf_addf(&o->url, "?partNumber=%" PRIu32, o->op->part));
    default:
        return ldr_sigv4_escape(&o->url, o->op->key, true) && ldr_s3_upload_query(&o->url, o);
    }
}

/* URL, host and where in the URL the path starts. */
static enum larder_kind make_url(struct s3_op *o, char *host, size_t host_cap, size_t *path_at, struct larder_err *err)
{
    const struct s3 *s3 = o->s3;
    const struct ldr_op *op = o->op;
    bool in_host;

    o->url.len = 0;
    if (!ldr_s3_host(s3, op->container, false, host, host_cap, &in_host) ||
        !ldr_buf_addf(&o->url, "%s://%s", s3->https ? "https" : "http", host))
        return ldr_fail(err, LARDER_INVALID, "the address of bucket \"%s\" is too long", op->container);
    *path_at = o->url.len;
    if (!ldr_buf_addf(&o->url, "%s/", s3->prefix) || (!in_host && !ldr_buf_addf(&o->url, "%s/", op->container)) ||
        !add_target(o) || !ldr_buf_str(&o->url))
        return ldr_fail(err, LARDER_INVALID, "the key of \"%s\" is too long", op->uri);
    return LARDER_OK;
}

/* The value is `n` bytes; what could end the line is refused. */
enum larder_kind ldr_s3_header_n(struct s3_op *o, const char *name, const void *value, size_t n, struct larder_err *err)
{
    const unsigned char *v = value;

    for (size_t i = 0; i < n; i++)
        if ((v[i] < 0x20 && v[i] != '\t') || v[i] == 0x7f)
            return ldr_fail(err, LARDER_INVALID, "the %s of \"%s\" holds a control character", name, o->op->uri);
    if (!ldr_buf_addf(&o->lines, "%s: ", name) || !ldr_buf_add(&o->lines, value, n) || !ldr_buf_add(&o->lines, "", 1))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the headers for \"%s\" are larger than %d KiB", o->op->uri,
                        (int)(LDR_S3_HEADERS_MAX / LDR_KIB));
    return LARDER_OK;
}

enum larder_kind ldr_s3_header(struct s3_op *o, const char *name, const char *value, struct larder_err *err)
{
    return ldr_s3_header_n(o, name, value, strlen(value), err);
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

    if (n == 0 || n == f->len || strspn(text, letters) != n || n > sizeof name - sizeof LDR_S3_USER_META)
        return ldr_fail(err, LARDER_INVALID, "a name in the user metadata of \"%s\" is none that S3 can hold",
                        o->op->uri);
    snprintf(name, sizeof name, LDR_S3_USER_META "%s", text);
    return ldr_s3_header_n(o, name, text + n + 1, f->len - n - 1, err);
}

enum larder_kind ldr_s3_put_headers(struct s3_op *o, struct larder_err *err)
{
    const struct ldr_meta *m = o->op->put_meta;
    enum larder_kind k = LARDER_OK;
    struct ldr_field f;
    size_t pos = 0;

    while (!k && m && ldr_fields_next(m->fields.p, m->fields.len, &pos, &f)) {
        if (f.tag == LDR_TAG_USER)
            k = add_user_header(o, &f, err);
        for (size_t i = 0; !k && ldr_s3_text_headers[i].name; i++)
            if (ldr_s3_text_headers[i].settable && ldr_s3_text_headers[i].tag == f.tag &&
                !(f.tag == LDR_TAG_CONTENT_MD5 && o->ask != LDR_OP_PUT)) /* it is of the object, not of this body */
                k = ldr_s3_header_n(o, ldr_s3_text_headers[i].name, f.p, f.len, err);
    }
    return k;
}

/* It compares strongly, so a weak validator matches nothing, whatever the object is (RFC 9110). */
static enum larder_kind add_match(struct s3_op *o, const char *name, const char *uri, struct larder_err *err)
{
    const char *v = o->op->if_match;

    if (!v)
        return LARDER_OK;
    if (!ldr_validator_strong((const uint8_t *)v, strlen(v)))
        return ldr_fail(err, LARDER_UNSUPPORTED, "\"%s\" has a weak ETag only, which names no version of its bytes",
                        uri);
    return ldr_s3_header(o, name, v, err);
}

static enum larder_kind add_if_match(struct s3_op *o, struct larder_err *err)
{
    return add_match(o, "If-Match", o->op->uri, err);
}

enum larder_kind ldr_s3_condition(struct s3_op *o, struct larder_err *err)
{
    enum larder_kind k = o->op->create_only ? ldr_s3_header(o, "If-None-Match", "*", err) : LARDER_OK;

    return k ? k : add_if_match(o, err);
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
        k = ldr_s3_header(o, "Range", range, err);
    }
    if (!k && (!op->ranged || op->offset == 0)) /* else S3 keeps them to itself; a range from 0 may be all of it */
        k = ldr_s3_header(o, LDR_S3_CHECKSUM "mode", "ENABLED", err);
    if (!k)
        k = add_if_match(o, err);
    if (!k && op->if_none_match)
        k = ldr_s3_header(o, "If-None-Match", op->if_none_match, err);
    return k;
}

/* Metadata goes along where nothing else is said. */
enum larder_kind ldr_s3_copy_headers(struct s3_op *o, struct larder_err *err)
{
    struct ldr_buf source = LDR_BUF_INIT(LDR_S3_URL_MAX);
    enum larder_kind k;

    if (ldr_buf_addf(&source, "/%s/", o->op->from_container) && ldr_sigv4_escape(&source, o->op->from_key, true))
        k = ldr_s3_header_n(o, COPY_SOURCE, source.p, source.len, err);
    else
        k = ldr_fail(err, LARDER_INVALID, "the key of \"%s\" is too long", o->op->from_uri);
    ldr_buf_release(&source);
    return k ? k : add_match(o, COPY_SOURCE "-if-match", o->op->from_uri, err);
}

static enum larder_kind add_op_headers(struct s3_op *o, struct larder_err *err)
{
    enum larder_kind k;

    switch (o->ask) {
    case LDR_OP_GET:
        return add_get_headers(o, err);
    case LDR_OP_HEAD:
        k = ldr_s3_header(o, LDR_S3_CHECKSUM "mode", "ENABLED", err);
        return k || o->op->what == LDR_OP_UPLOAD_END ? k : add_if_match(o, err);
    case LDR_OP_PUT:
        k = ldr_s3_condition(o, err);
        if (!k)
            k = ldr_s3_body_headers(o, err);
        return k ? k : ldr_s3_put_headers(o, err);
    case LDR_OP_COPY:
        return ldr_s3_copy_headers(o, err);
    case LDR_OP_UPLOAD_BEGIN:
    case LDR_OP_UPLOAD_PART:
    case LDR_OP_UPLOAD_COPY:
    case LDR_OP_UPLOAD_END:
        return ldr_s3_upload_headers(o, err);
    case LDR_OP_DELETE_MANY:
    case LDR_OP_MAKE_CONTAINER:
        return ldr_s3_many_headers(o, err);
    case LDR_OP_DELETE:
        return add_if_match(o, err);
    case LDR_OP_LIST:
    case LDR_OP_UPLOAD_ABORT:
    case LDR_OP_SIGN:
    case LDR_OP_WHATS:
        break;
    }
    return LARDER_OK;
}

/* URL and signed headers, for this moment. */
static enum larder_kind build(struct s3_op *o, const struct ldr_cred *cred, struct larder_err *err)
{
    struct s3 *s3 = o->s3;
    struct ldr_sigv4 sign = { .method = ldr_s3_methods[o->ask],
                              .payload = o->payload,
                              .region = o->region,
                              .service = "s3",
                              .kept = &s3->day_key,
                              .time_s = time(NULL) + s3->skew_s };
    struct ldr_buf authorization = LDR_BUF_INIT(LDR_S3_HEADERS_MAX);
    char host[LDR_S3_HOST_MAX], date[LDR_SIGV4_DATE_MAX], *query;
    size_t path_at = 0;
    enum larder_kind k = make_url(o, host, sizeof host, &path_at, err);

    snprintf(o->region, sizeof o->region, "%s", ldr_s3_region_of(s3, o->op->container));
    o->skew_s = s3->skew_s;
    o->lines.len = 0;
    if (!k)
        k = ldr_sigv4_date(sign.time_s, date, err);
    if (!k)
        k = ldr_s3_header(o, "Host", host, err);
    if (!k)
        k = ldr_s3_header(o, "X-Amz-Date", date, err);
    if (!k)
        k = ldr_s3_header(o, "X-Amz-Content-Sha256", o->payload, err);
    if (!k && cred->token)
        k = ldr_s3_header(o, "X-Amz-Security-Token", cred->token, err);
    if (!k)
        k = add_op_headers(o, err);
    if (!k)
        k = ldr_s3_extra_headers(o, err);
    if (!k)
        k = list_headers(o, err);
    if (k || cred->anonymous)
        return k;
    query = strchr((char *)o->url.p + path_at, '?'); /* a path has it escaped */
    if (query)
        *query = '\0';
    sign.path = (const char *)o->url.p + path_at;
    sign.query = query ? query + 1 : NULL;
    sign.headers = o->headers;
    k = ldr_sigv4_authorization(&sign, cred, &authorization, err);
    if (query)
        *query = '?';
    if (!k)
        k = ldr_s3_header_n(o, "Authorization", authorization.p, authorization.len, err);
    if (!k)
        k = list_headers(o, err); /* the lines may have moved */
    ldr_buf_release(&authorization);
    return k;
}

/* ---- start ---- */

/* Credentials are there: build, sign, send. */
static void cred_ready(struct ldr_cred_ask *a, enum larder_kind kind, const struct ldr_cred *cred,
                       const struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(a, struct s3_op, ask_cred);
    struct ldr_op *op = o->op;
    enum larder_kind k = kind;

    if (kind)
        op->err = *err;
    else
        k = build(o, cred, &op->err);
    if (k) {
        ldr_s3_end(o, k);
        return;
    }
    snprintf(o->key_id, sizeof o->key_id, "%s", cred->access_key_id);
    o->text.len = 0;
    o->due = o->got = 0;
    o->good = o->told = false;
    o->http = (struct ldr_http_req){ .method = ldr_s3_methods[o->ask],
                                     .url = (const char *)o->url.p,
                                     .headers = o->headers,
                                     .body_fd = -1,
                                     .deadline_ns = op->deadline_ns,
                                     .ca_file = o->s3->ca_file,
                                     .direct = o->s3->direct,
                                     .on_headers = ldr_s3_on_headers,
                                     .on_body = ldr_s3_on_body,
                                     .on_done = ldr_s3_on_done };
    if (o->ask == LDR_OP_GET && op->sink->direct && op->ranged && op->length >= LDR_S3_DIRECT_MIN) {
        o->http.direct_into = ldr_s3_direct_into;
        o->http.on_moved = ldr_s3_on_moved;
        o->http.last_of_connection = op->if_match != NULL; /* else nobody knows yet how large it is */
    }
    if (o->ask == LDR_OP_COPY || o->ask == LDR_OP_UPLOAD_COPY || o->ask == LDR_OP_UPLOAD_END)
        o->http.stall_timeout_ms = SLOW_MS;
    /* an answer in XML may come blank by blank while the store works */
    o->http.min_speed =
        o->ask == LDR_OP_GET || o->ask == LDR_OP_PUT || o->ask == LDR_OP_UPLOAD_PART ? o->s3->min_speed : -1;
    if (o->body.len > 0) {
        o->http.body = o->body.p;
        o->http.body_len = o->body.len;
    } else if (op->what == LDR_OP_PUT || op->what == LDR_OP_UPLOAD_PART) {
        o->http.body = op->bytes;
        o->http.body_fd = op->bytes ? -1 : op->fd;
        o->http.body_len = op->size_bytes;
    }
    ldr_http_send_on_net(o->s3->base.env.net, &o->http); /* may have ended it */
}

void ldr_s3_start_on_net(struct s3_op *o)
{
    o->ask_cred = (struct ldr_cred_ask){ .deadline_ns = o->op->deadline_ns, .ready = cred_ready };
    ldr_cred_ask_on_net(o->s3->cred, &o->ask_cred);
}

/* No body. */
void ldr_s3_ask(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o = ldr_s3_begin(b, op);

    if (!o)
        return;
    memcpy(o->payload, LDR_SIGV4_EMPTY, sizeof LDR_SIGV4_EMPTY);
    ldr_s3_start_on_net(o);
}

void ldr_s3_put(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o = ldr_s3_begin(b, op);

    if (o)
        ldr_s3_start_with_body_on_net(o);
}
