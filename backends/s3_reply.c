/* s3_reply.c - the answer: its head, its body, refusals, the op's end (s3_impl.h) */
#include "backends/s3_impl.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define SKEW_S         300 /* a clock that is further off than this explains a refusal that gives no reason */
#define RETRY_AFTER_MS (3600 * 1000)

/* ---- the answer's head ---- */

/* What the bytes of a whole object can be checked with, the cheapest first. */
static enum larder_kind sum_choose(struct s3_op *o, const struct ldr_http_reply *reply, struct larder_err *err)
{
    static const enum ldr_sum_algo order[] = { LDR_SUM_CRC32C, LDR_SUM_CRC64NVME, LDR_SUM_CRC32, LDR_SUM_SHA1,
                                               LDR_SUM_SHA256 };
    char type[32], sse[32], text[96], name[40];
    bool composite =
        ldr_http_header(reply, LDR_S3_CHECKSUM "type", type, sizeof type) && !strcasecmp(type, "COMPOSITE");
    enum ldr_sum_algo found = LDR_SUM_NONE;

    ldr_sum_release(&o->sum);
    for (size_t i = 0; i < LDR_ARRAY_LEN(order) && !composite && !found; i++) {
        snprintf(name, sizeof name, LDR_S3_CHECKSUM "%s", ldr_sum_name(order[i]));
        if (ldr_http_header(reply, name, text, sizeof text) && ldr_sum_parse(order[i], text, strlen(text), o->want))
            found = order[i];
    }
    if (!found && ldr_http_header(reply, "content-md5", text, sizeof text) && strlen(text) == 24 &&
        ldr_sum_parse(LDR_SUM_MD5, text, 24, o->want))
        found = LDR_SUM_MD5;
    /* the ETag of an object of one part is its MD5, unless it was encrypted with a key of the customer's */
    if (!found && ldr_http_header(reply, "etag", text, sizeof text) && strlen(text) == 34 && text[0] == '"' &&
        text[33] == '"' && ldr_sum_parse(LDR_SUM_MD5, text + 1, 32, o->want) &&
        !ldr_http_header(reply, "x-amz-server-side-encryption-customer-algorithm", sse, sizeof sse) &&
        !(ldr_http_header(reply, "x-amz-server-side-encryption", sse, sizeof sse) && !strncmp(sse, "aws:", 4)))
        found = LDR_SUM_MD5;
    if (found && ldr_sum_begin(&o->sum, found, err) == LARDER_NO_MEMORY)
        return LARDER_NO_MEMORY;
    return LARDER_OK; /* no MD5 in this libcrypto (FIPS): go unchecked, as with a store that tells none */
}

static bool sum_matches(struct s3_op *o)
{
    uint8_t raw[LDR_SUM_RAW_MAX];
    size_t n = ldr_sum_raw_len(o->sum.algo);

    if (!o->sum.algo)
        return true;
    ldr_sum_end(&o->sum, raw);
    return !memcmp(raw, o->want, n);
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

bool ldr_s3_add_etag(struct ldr_meta *m, const char *value, size_t n)
{
    bool ok = ldr_meta_add(m, LDR_TAG_VALIDATOR, value, n);

    if (n >= 2 && !memcmp(value, "W/", 2))
        value += 2, n -= 2;
    if (n >= 2 && value[0] == '"' && value[n - 1] == '"')
        value += 1, n -= 2;
    return ok && ldr_meta_add(m, LDR_TAG_ETAG, value, n);
}

static bool meta_add_text(struct ldr_meta *m, const struct ldr_s3_text_header *h, const char *value, size_t n)
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
    bool in_body = o->ask == LDR_OP_COPY || o->ask == LDR_OP_UPLOAD_END; /* what is new of the object */
    bool put = o->ask == LDR_OP_PUT || in_body, ok = true;
    size_t pos = 0, name_len, n;
    const char *name, *value;
    char date[64];

    ldr_meta_release(m);
    while (ok && ldr_http_header_next(reply, &pos, &name, &name_len, &value, &n)) {
        if (is_name(name, name_len, "etag") && !in_body)
            ok = ldr_s3_add_etag(m, value, n);
        else if (starts_with(name, name_len, LDR_S3_CHECKSUM))
            ok = meta_add_pair(m, LDR_TAG_CHECKSUM, name + strlen(LDR_S3_CHECKSUM), name_len - strlen(LDR_S3_CHECKSUM),
                               value, n);
        else if (!put && starts_with(name, name_len, LDR_S3_USER_META))
            ok = meta_add_pair(m, LDR_TAG_USER, name + strlen(LDR_S3_USER_META), name_len - strlen(LDR_S3_USER_META),
                               value, n);
        for (size_t i = 0; ok && ldr_s3_text_headers[i].name; i++)
            if (is_name(name, name_len, ldr_s3_text_headers[i].name) &&
                !(put && ldr_s3_text_headers[i].settable)) /* there they describe the answer, not the object */
                ok = meta_add_text(m, &ldr_s3_text_headers[i], value, n);
    }
    if (!ok)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the metadata of \"%s\" is larger than %d KiB", o->op->uri,
                        (int)(LDR_META_MAX / LDR_KIB));
    if (ldr_http_header(reply, "last-modified", date, sizeof date) && ldr_http_date_s(date) > 0)
        m->last_modified_s = ldr_http_date_s(date);
    return LARDER_OK;
}

bool ldr_s3_number(const char **p, char end, uint64_t *out)
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
           !strncasecmp(text, "bytes ", strlen("bytes ")) && ldr_s3_number(&p, '-', first) &&
           ldr_s3_number(&p, '/', last) && ldr_s3_number(&p, '\0', total) && *first <= *last && *last < *total;
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

static bool is_upload(enum ldr_op_what what)
{
    return what >= LDR_OP_UPLOAD_BEGIN && what <= LDR_OP_UPLOAD_ABORT;
}

/* Is a successful answer read as XML? */
static bool has_xml(const struct s3_op *o)
{
    return o->ask == LDR_OP_LIST || o->ask == LDR_OP_COPY || o->ask == LDR_OP_UPLOAD_BEGIN ||
           o->ask == LDR_OP_UPLOAD_COPY || o->ask == LDR_OP_UPLOAD_END || o->ask == LDR_OP_DELETE_MANY;
}

static bool is_of_part(const struct s3_op *o)
{
    return o->op->what == LDR_OP_HEAD && o->op->part;
}

static bool is_success(const struct s3_op *o, int status)
{
    switch (o->ask) {
    case LDR_OP_GET:
        return status == 200 || (status == 206 && o->op->ranged) || (status == 304 && o->op->if_none_match);
    case LDR_OP_HEAD:
        return status == 200 || (status == 206 && is_of_part(o));
    case LDR_OP_DELETE:
    case LDR_OP_UPLOAD_ABORT:
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
        k = sum_choose(o, reply, &op->err);
    return k ? k : op->sink->begin(op->sink, &op->meta, offset, o->due, &op->err);
}

static enum larder_kind read_head(struct s3_op *o, const struct ldr_http_reply *reply)
{
    struct ldr_op *op = o->op;
    enum larder_kind k;

    if (is_upload(o->ask) && o->ask != LDR_OP_UPLOAD_END)
        return ldr_s3_upload_head(o, reply);
    if (o->ask == LDR_OP_DELETE_MANY)
        return ldr_s3_check_sent_on_net(o, reply);
    if (o->ask == LDR_OP_DELETE || o->ask == LDR_OP_LIST || o->ask == LDR_OP_MAKE_CONTAINER)
        return LARDER_OK;
    k = read_meta(o, reply, &op->err);
    if (k || o->ask == LDR_OP_COPY || o->ask == LDR_OP_UPLOAD_END)
        return k;
    if (o->ask == LDR_OP_GET)
        return read_get_head(o, reply);
    if (o->ask == LDR_OP_PUT) {
        op->meta.size_bytes = op->size_bytes;
        return ldr_s3_check_sent_on_net(o, reply);
    }
    if (reply->content_length < 0)
        return ldr_fail_http(&op->err, LARDER_UNAVAILABLE, reply->status,
                             "could not %s \"%s\": the answer does not say its size", ldr_s3_verbs[op->what], op->uri);
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

enum larder_kind ldr_s3_on_headers(struct ldr_http_req *r, const struct ldr_http_reply *reply, struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);

    o->good = is_success(o, reply->status);
    return o->good ? tell(o, read_head(o, reply), err) : LARDER_OK;
}

enum larder_kind ldr_s3_on_body(struct ldr_http_req *r, const void *p, size_t n, struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_op *op = o->op;

    if (!o->good || has_xml(o)) {
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
    ldr_sum_add(&o->sum, p, n);
    return tell(o, op->sink->write(op->sink, p, n, &op->err), err);
}

/* "2009-10-12T17:50:30.000Z"; anything else is unknown. */
int64_t ldr_s3_time(const char *text)
{
    struct tm tm = { 0 };
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    if (end && *end == '.')
        end += 1 + strspn(end + 1, "0123456789");
    return end && (!strcmp(end, "Z") || !strcmp(end, "+00:00")) ? (int64_t)timegm(&tm) : LDR_TIME_UNKNOWN;
}

bool ldr_s3_direct_into(struct ldr_http_req *r, uint64_t left, int *file, uint64_t *at)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_sink *sink = o->op->sink;

    return o->good && !o->sum.algo && left >= LDR_S3_DIRECT_MIN && left == o->due - o->got &&
           sink->direct(sink, left, file, at);
}

enum larder_kind ldr_s3_on_moved(struct ldr_http_req *r, size_t n, struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_op *op = o->op;

    o->got += n;
    return tell(o, op->sink->moved(op->sink, n, &op->err), err);
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
    return f->region[0] && strcmp(f->region, o->region) != 0 &&
           (f->status == 301 || f->status == 307 || f->status == 400);
}

bool ldr_s3_kind_of_code(const char *code, enum larder_kind *out)
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
                    { "XAmzContentChecksumMismatch", LARDER_CORRUPT },
                    { "XAmzContentSHA256Mismatch", LARDER_CORRUPT },
                    { "AccessDenied", LARDER_DENIED }, /* of a copy or one of many: with status 200 */
                    { "NoSuchKey", LARDER_NOT_FOUND },
                    { "NoSuchBucket", LARDER_NOT_FOUND },
                    { "InvalidRequest", LARDER_INVALID },
                    { "ExpiredToken", LARDER_DENIED },
                    { "InvalidToken", LARDER_DENIED },
                    { "NoSuchUpload", LARDER_NOT_FOUND },
                    { "BucketAlreadyExists", LARDER_EXISTS },
                    { "NotImplemented", LARDER_UNSUPPORTED }
    };

    for (size_t i = 0; i < LDR_ARRAY_LEN(by_code); i++)
        if (!strcmp(code, by_code[i].code)) {
            *out = by_code[i].kind;
            return true;
        }
    return false;
}

/* Is the op a write that depends on what is there? */
static bool is_conditional(const struct ldr_op *op)
{
    return (op->what == LDR_OP_PUT || op->what == LDR_OP_UPLOAD_END || op->what == LDR_OP_DELETE) &&
           (op->create_only || op->if_match);
}

static enum larder_kind kind_of_refusal(const struct s3_op *o, const struct refusal *f)
{
    int status = f->status;
    enum larder_kind kind;

    if (is_other_region(o, f))
        return LARDER_INVALID;
    if (has_code(f, "NoSuchKey") && o->op->if_match && o->op->what != LDR_OP_DELETE && is_conditional(o->op))
        return LARDER_PRECONDITION; /* what is not there does not have it */
    /* before the code, which is InvalidRequest where Swift refuses to complete an upload */
    if ((status == 412 || status == 409) && is_conditional(o->op) && o->http.attempts > 1)
        return LARDER_OUTCOME_UNKNOWN; /* the first one may be what changed it, or is about to */
    if (status == 412 || has_code(f, "PreconditionFailed"))
        return o->op->create_only ? LARDER_EXISTS : LARDER_PRECONDITION;
    if (ldr_s3_kind_of_code(f->code, &kind))
        return kind;
    if (status == 404)
        return LARDER_NOT_FOUND;
    if (status == 401 || status == 403)
        return LARDER_DENIED;
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
    if (!ldr_s3_number(&p, '\0', &s)) {
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
        snprintf(out, cap, "%s \"%.900s\"", ldr_s3_verbs[op->what], op->uri);
}

static void say_why(const struct s3_op *o, const struct refusal *f, enum larder_kind kind, char *out, size_t cap)
{
    const struct ldr_op *op = o->op;

    if (is_other_region(o, f))
        snprintf(out, cap, "bucket \"%s\" is in region \"%s\", %s \"%s\"", op->container, f->region,
                 o->s3->region_fixed ? "the setting \"region\" says" : "it was asked for in", o->region);
    else if (kind == LARDER_NOT_FOUND && has_code(f, "NoSuchBucket") && op->what == LDR_OP_COPY)
        snprintf(out, cap, "one of the buckets does not exist");
    else if (kind == LARDER_NOT_FOUND && has_code(f, "NoSuchBucket"))
        snprintf(out, cap, "bucket \"%s\" does not exist", op->container);
    else if (kind == LARDER_NOT_FOUND && has_code(f, "NoSuchKey"))
        snprintf(out, cap, "the object does not exist");
    else if (kind == LARDER_NOT_FOUND && !f->code[0]) /* a HEAD tells no more */
        snprintf(out, cap, "the object or its bucket does not exist");
    else if (kind == LARDER_NOT_FOUND && has_code(f, "NoSuchUpload"))
        snprintf(out, cap, "the store has no such upload, it was completed or aborted");
    else if (kind == LARDER_EXISTS && op->what == LDR_OP_MAKE_CONTAINER)
        snprintf(out, cap, "there is a bucket of this name, and the store does not say that it is ours");
    else if (kind == LARDER_EXISTS)
        snprintf(out, cap, "the object exists already");
    else if (kind == LARDER_OUTCOME_UNKNOWN)
        snprintf(out, cap, "%s",
                 o->ask == LDR_OP_HEAD ? f->status == 404
                                             ? "the store has no such upload any more, and no such object"
                                             : "the store has no such upload any more, and does not show the object"
                 : op->create_only     ? "the object exists; a first attempt without an answer may have created it"
                                       : "the object changed; a first attempt without an answer may have changed it");
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

    if ((op->what == LDR_OP_DELETE || op->what == LDR_OP_UPLOAD_ABORT) && kind == LARDER_NOT_FOUND &&
        !has_code(f, "NoSuchBucket"))
        return LARDER_OK; /* gone is gone */
    if (op->what == LDR_OP_MAKE_CONTAINER && has_code(f, "BucketAlreadyOwnedByYou"))
        return LARDER_OK;
    if (op->what == LDR_OP_UPLOAD_END && o->ask == LDR_OP_HEAD && !ldr_kind_retry(kind))
        kind = LARDER_OUTCOME_UNKNOWN; /* whatever it is: nothing was proved */
    op->no_container = has_code(f, "NoSuchBucket");
    op->throttled = f->status == 429 || f->status == 503 || has_code(f, "SlowDown");
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
    int64_t off = date - (now + o->skew_s);
    bool mute = !f->code[0] && (f->status == 403 || f->status == 400) && (off > SKEW_S || off < -SKEW_S);

    if (o->clock_tried || date == 0 || !(mute || has_code(f, "RequestTimeTooSkewed")))
        return false;
    o->clock_tried = true;
    o->s3->skew_s = date - now;
    ldr_cred_set_skew_on_net(o->s3->cred, o->s3->skew_s);
    ldr_log(LDR_WARN, "s3", "this node's clock differs from the store's seconds=%" PRId64 " host=%s", o->s3->skew_s,
            o->s3->host);
    return true;
}

/* Is the bucket in another region, and did nobody say which? Then go by the store's word from now on. */
static bool learn_region(struct s3_op *o, const struct refusal *f)
{
    if (o->region_tried || !is_other_region(o, f))
        return false;
    o->region_tried = true;
    return !strcmp(f->region, ldr_s3_region_of(o->s3, o->op->container)) || /* another op has learnt it since */
           ldr_s3_learn_region_on_net(o->s3, o->op->container, f->region);
}

/* ---- the end ---- */

/* Are the credentials over, or unknown? Then try once with others, where there are any. */
static bool renew_cred(struct s3_op *o, const struct refusal *f)
{
    if (o->cred_tried ||
        !(has_code(f, "ExpiredToken") || has_code(f, "InvalidToken") || has_code(f, "InvalidTokenId") ||
          has_code(f, "InvalidAccessKeyId") || has_code(f, "TokenRefreshRequired")))
        return false;
    o->cred_tried = true;
    return ldr_cred_refused_on_net(o->s3->cred, o->key_id);
}

void ldr_s3_skip_blanks(const char **p, size_t *n)
{
    for (; *n > 0 && strchr(" \t\r\n", **p); (*n)--)
        (*p)++;
}

enum larder_kind ldr_s3_late_refusal(struct s3_op *o, const char *p, size_t n, const char *fault)
{
    struct refusal f;
    char what[960];

    read_refusal(o, p, n, &f);
    if (f.code[0])
        return refused(o, &f);
    say_what(o->op, what, sizeof what);
    return ldr_fail_http(&o->op->err, LARDER_CORRUPT, 200, "could not %s: the store's answer %s", what, fault);
}

/* A store that cannot finish a copy says so behind a status of 200. Such a body may begin with blanks, sent while the
 * copy ran. */
static enum larder_kind copied(struct s3_op *o)
{
    struct ldr_op *op = o->op;
    const char *p = (const char *)o->text.p;
    size_t n = o->text.len;
    char etag[LDR_S3_ETAG_MAX], modified[40];
    const struct ldr_xml_want want[] = { { "ETag", etag, sizeof etag }, { "LastModified", modified, sizeof modified } };

    ldr_s3_skip_blanks(&p, &n);
    if (!ldr_xml_read(p, n, "CopyObjectResult", want, LDR_ARRAY_LEN(want)))
        return ldr_s3_late_refusal(o, p, n, "makes no sense");
    op->meta.last_modified_s = ldr_s3_time(modified);
    if (etag[0] && !ldr_s3_add_etag(&op->meta, etag, strlen(etag)))
        return ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for the metadata of \"%s\"", op->uri);
    return LARDER_OK;
}

static enum larder_kind accepted(struct s3_op *o)
{
    struct ldr_op *op = o->op;
    const char *algo;

    if (o->ask == LDR_OP_LIST)
        return ldr_s3_listed(o);
    if (o->ask == LDR_OP_COPY)
        return copied(o);
    if (is_upload(o->ask))
        return ldr_s3_uploaded(o);
    if (op->what == LDR_OP_UPLOAD_END)
        return ldr_s3_proved(o);
    if (o->ask == LDR_OP_DELETE_MANY)
        return ldr_s3_deleted_many(o);
    if (o->got != o->due)
        return ldr_fail(&op->err, LARDER_UNAVAILABLE, "could not get \"%s\": fewer bytes than announced", op->uri);
    algo = ldr_sum_name(o->sum.algo);
    if (!sum_matches(o))
        return ldr_fail(&op->err, LARDER_CORRUPT, "could not get \"%s\": its bytes do not match the store's %s",
                        op->uri, algo);
    return LARDER_OK;
}

static bool changes_store(const struct ldr_op *op)
{
    switch (op->what) {
    case LDR_OP_PUT:
    case LDR_OP_DELETE:
    case LDR_OP_COPY:
    case LDR_OP_UPLOAD_END:
    case LDR_OP_DELETE_MANY:
        return true;
    default: /* of a part nobody sees anything */
        return false;
    }
}

/* Whoever runs the store finds the request by its id. A refusal's message has it already; failures of our own (a disk, a
 * limit) are none of the store's. */
static void end(struct s3_op *o, enum larder_kind kind)
{
    struct larder_err *err = &o->op->err;
    size_t n = strlen(err->msg);
    char id[96];

    if (kind && kind != LARDER_IO && kind != LARDER_NO_MEMORY && kind != LARDER_LIMIT_EXCEEDED &&
        kind != LARDER_CANCELLED && !strstr(err->msg, "request id ") &&
        ldr_http_header(&o->http.reply, "x-amz-request-id", id, sizeof id))
        snprintf(err->msg + n, sizeof err->msg - n, " (request id %s)", id);
    ldr_s3_end(o, kind);
}

void ldr_s3_on_done(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(r, struct s3_op, http);
    struct ldr_op *op = o->op;
    struct refusal f;
    char what[960];
    bool again = false; /* was an end of this upload sent before? */

    if (o->ask == LDR_OP_UPLOAD_END) {
        again = r->attempts > 1 || op->upload->end_sent;
        op->upload->end_sent = again || (r->sent && (kind || o->good || r->reply.status >= 500));
    }
    op->requests += r->attempts;
    op->bytes_in += r->bytes_in;
    op->bytes_out += r->bytes_out;
    op->sent = op->sent || (r->sent && changes_store(op));
    if (o->told) {
        end(o, kind);
    } else if (kind) {
        say_what(op, what, sizeof what);
        ldr_fail(&op->err, kind, "could not %s: %s", what, err->msg);
        op->err.sys = err->sys;
        op->err.http = err->http;
        end(o, kind);
    } else if (o->good) {
        end(o, accepted(o));
    } else if (r->reply.status == 416 && o->ask == LDR_OP_GET && op->ranged) {
        o->ask = LDR_OP_HEAD;
        ldr_s3_start_on_net(o);
    } else {
        read_refusal(o, o->text.p, o->text.len, &f);
        if (learn_clock(o, &f) || learn_region(o, &f) || renew_cred(o, &f))
            ldr_s3_start_on_net(o);
        else if (!(again && (has_code(&f, "NoSuchUpload") || f.status == 412) && ldr_s3_prove_end_on_net(o)) &&
                 !ldr_s3_retry_without_crc_on_net(o, f.status, f.code))
            end(o, refused(o, &f));
    }
}
