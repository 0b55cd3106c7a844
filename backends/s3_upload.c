/* s3_upload.c - writes in parts (s3_impl.h): begin, parts from here or from another object, end or abort.
 *
 * Where the store takes a CRC, each part is sent with its own, and the end with that of the whole, put together from
 * those of the parts: then the object is checked from end to end, and a reader has a CRC to check it with. */
#include "backends/s3_impl.h"
#include "common/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- the request ---- */

static bool add_id(struct ldr_buf *url, const struct s3_op *o)
{
    return ldr_buf_addf(url, "uploadId=") && ldr_sigv4_escape(url, o->op->upload->id, false);
}

bool ldr_s3_upload_query(struct ldr_buf *url, const struct s3_op *o)
{
    switch (o->ask) {
    case LDR_OP_UPLOAD_BEGIN:
        return ldr_buf_addf(url, "?uploads=");
    case LDR_OP_UPLOAD_PART:
    case LDR_OP_UPLOAD_COPY:
        return ldr_buf_addf(url, "?partNumber=%" PRIu32 "&", o->op->part) && add_id(url, o);
    case LDR_OP_UPLOAD_END:
    case LDR_OP_UPLOAD_ABORT:
        return ldr_buf_addf(url, "?") && add_id(url, o);
    default:
        return true;
    }
}

static enum larder_kind begin_headers(struct s3_op *o, struct larder_err *err)
{
    enum larder_kind k = ldr_s3_put_headers(o, err);
    char name[LDR_SUM_TEXT_MAX];

    if (k || !o->crc_algo)
        return k;
    snprintf(name, sizeof name, "%s", ldr_sum_name(o->crc_algo));
    for (char *p = name; *p; p++)
        if (*p >= 'a' && *p <= 'z')
            *p &= ~0x20;
    k = ldr_s3_header(o, LDR_S3_CHECKSUM "algorithm", name, err);
    return k ? k : ldr_s3_header(o, LDR_S3_CHECKSUM "type", "FULL_OBJECT", err);
}

static enum larder_kind copy_headers(struct s3_op *o, struct larder_err *err)
{
    const struct ldr_op *op = o->op;
    enum larder_kind k = ldr_s3_copy_headers(o, err);
    char range[64];

    snprintf(range, sizeof range, "bytes=%" PRIu64 "-%" PRIu64, op->offset, op->offset + op->length - 1);
    return k ? k : ldr_s3_header(o, "x-amz-copy-source-range", range, err);
}

/* Of all parts, in their order. */
static uint64_t whole_crc(const struct ldr_multipart *u)
{
    uint64_t crc = u->parts[0].crc;

    for (uint32_t i = 1; i < u->n_parts; i++)
        crc = ldr_sum_crc_combine(u->algo, crc, u->parts[i].crc, u->parts[i].size);
    return crc;
}

static enum larder_kind end_headers(struct s3_op *o, struct larder_err *err)
{
    enum larder_kind k = ldr_s3_condition(o, err);

    if (k || !o->op->upload->algo || o->op->upload->composite)
        return k;
    k = ldr_s3_crc_header(o, o->op->upload->algo, whole_crc(o->op->upload), err);
    return k ? k : ldr_s3_header(o, LDR_S3_CHECKSUM "type", "FULL_OBJECT", err);
}

enum larder_kind ldr_s3_upload_headers(struct s3_op *o, struct larder_err *err)
{
    switch (o->ask) {
    case LDR_OP_UPLOAD_BEGIN:
        return begin_headers(o, err);
    case LDR_OP_UPLOAD_PART:
        return ldr_s3_body_headers(o, err);
    case LDR_OP_UPLOAD_COPY:
        return copy_headers(o, err);
    case LDR_OP_UPLOAD_END:
        return end_headers(o, err);
    default:
        return LARDER_OK;
    }
}

/* "<ChecksumCRC32C>…</ChecksumCRC32C>" */
static bool sum_element(enum ldr_sum_algo algo, char *out, size_t cap)
{
    static const char *const names[LDR_SUM_ALGOS] = { [LDR_SUM_CRC32C] = "ChecksumCRC32C",
                                                      [LDR_SUM_CRC64NVME] = "ChecksumCRC64NVME",
                                                      [LDR_SUM_CRC32] = "ChecksumCRC32" };

    snprintf(out, cap, "%s", names[algo] ? names[algo] : "");
    return names[algo] != NULL;
}

static bool add_part(struct ldr_buf *out, const struct ldr_multipart *u, uint32_t n)
{
    const struct ldr_upload_part *part = &u->parts[n - 1];
    char name[32], text[LDR_SUM_TEXT_MAX];
    uint8_t raw[LDR_SUM_RAW_MAX];

    if (!ldr_buf_addf(out, "<Part><PartNumber>%" PRIu32 "</PartNumber><ETag>", n) ||
        !ldr_s3_xml_text(out, part->etag) || !ldr_buf_addf(out, "</ETag>"))
        return false;
    if (sum_element(u->algo, name, sizeof name)) {
        ldr_sum_crc_raw(u->algo, part->crc, raw);
        ldr_sum_base64(u->algo, raw, text);
        if (!ldr_buf_addf(out, "<%s>%s</%s>", name, text, name))
            return false;
    }
    return ldr_buf_addf(out, "</Part>");
}

/* The list of parts. INVALID: they are not what was to be written. */
static enum larder_kind make_end(struct s3_op *o, struct larder_err *err)
{
    const struct ldr_multipart *u = o->op->upload;
    uint64_t size = 0;
    bool ok = ldr_buf_addf(&o->body, "<CompleteMultipartUpload xmlns=\"" LDR_S3_XMLNS "\">");

    for (uint32_t n = 1; n <= u->n_parts; n++) {
        if (u->parts[n - 1].size == 0)
            return ldr_fail(err, LARDER_INVALID, "could not complete the upload of \"%s\": part %" PRIu32 " is missing",
                            o->op->uri, n);
        size += u->parts[n - 1].size;
        ok = ok && add_part(&o->body, u, n);
    }
    if (!ok || !ldr_buf_addf(&o->body, "</CompleteMultipartUpload>"))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for the list of parts of \"%s\"", o->op->uri);
    if (u->n_parts == 0 || size != o->op->size_bytes)
        return ldr_fail(err, LARDER_INVALID,
                        "could not complete the upload of \"%s\": its parts have %" PRIu64
                        " bytes in place of %" PRIu64,
                        o->op->uri, size, o->op->size_bytes);
    return LARDER_OK;
}

static enum larder_kind check_op(const struct ldr_op *op, struct larder_err *err)
{
    uint64_t size = op->what == LDR_OP_UPLOAD_PART ? op->size_bytes : op->length, end;

    if (op->what != LDR_OP_UPLOAD_PART && op->what != LDR_OP_UPLOAD_COPY)
        return LARDER_OK;
    if (op->part < 1 || op->part > LDR_PARTS_MAX)
        return ldr_fail(err, LARDER_INVALID, "could not %s \"%s\": there is no part %" PRIu32, ldr_s3_verbs[op->what],
                        op->uri, op->part);
    if (size == 0 || (op->what == LDR_OP_UPLOAD_COPY && __builtin_add_overflow(op->offset, size, &end)))
        return ldr_fail(err, LARDER_INVALID, "could not %s \"%s\": part %" PRIu32 " has no bytes, or too many",
                        ldr_s3_verbs[op->what], op->uri, op->part);
    return LARDER_OK;
}

void ldr_s3_upload(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o;

    if (op->what == LDR_OP_UPLOAD_COPY || op->what == LDR_OP_UPLOAD_ABORT) {
        if (check_op(op, &op->err))
            ldr_op_done(op, op->err.kind);
        else
            ldr_s3_ask(b, op);
        return;
    }
    o = ldr_s3_begin(b, op);
    if (!o)
        return;
    if (check_op(op, &op->err) || (op->what == LDR_OP_UPLOAD_END && make_end(o, &op->err)))
        ldr_s3_end(o, op->err.kind);
    else
        ldr_s3_start_with_body_on_net(o);
}

/* ---- the answer ---- */

static enum larder_kind odd_answer(struct s3_op *o, const char *why)
{
    return ldr_fail_http(&o->op->err, LARDER_CORRUPT, 200, "could not %s \"%s\": %s", ldr_s3_verbs[o->op->what],
                         o->op->uri, why);
}

/* Does the store go along with the CRC? One that does not say so takes none, or would refuse it later. */
static void read_algo(struct s3_op *o, const struct ldr_http_reply *reply)
{
    struct ldr_multipart *u = o->op->upload;
    char algo[32], type[32];
    bool said = ldr_http_header(reply, LDR_S3_CHECKSUM "algorithm", algo, sizeof algo) &&
                ldr_sum_by_name(algo, strlen(algo)) == o->crc_algo;
    bool typed = ldr_http_header(reply, LDR_S3_CHECKSUM "type", type, sizeof type);

    u->algo = said || o->s3->checksum != S3_SUM_AUTO ? o->crc_algo : LDR_SUM_NONE;
    u->composite = u->algo == LDR_SUM_CRC32C && said && !(typed && !strcasecmp(type, "FULL_OBJECT"));
}

/* What comes back in the list of parts is kept as the store wrote it. */
static enum larder_kind keep_part(struct s3_op *o, const char *etag, uint64_t size, uint64_t crc)
{
    struct ldr_upload_part *part = &o->op->upload->parts[o->op->part - 1];

    for (const char *p = etag; *p; p++)
        if (*p <= ' ' || *p > '~')
            return odd_answer(o, "the store's ETag of the part makes no sense");
    if (!*etag || strlen(etag) >= sizeof part->etag)
        return odd_answer(o, "the store's answer has no ETag of the part, or too long a one");
    snprintf(part->etag, sizeof part->etag, "%s", etag);
    part->size = size;
    part->crc = crc;
    return LARDER_OK;
}

enum larder_kind ldr_s3_upload_head(struct s3_op *o, const struct ldr_http_reply *reply)
{
    char etag[LDR_S3_ETAG_MAX] = "";
    enum larder_kind k = LARDER_OK;

    if (o->ask == LDR_OP_UPLOAD_BEGIN || o->ask == LDR_OP_UPLOAD_PART)
        k = ldr_s3_check_sent_on_net(o, reply);
    if (!k && o->ask == LDR_OP_UPLOAD_BEGIN)
        read_algo(o, reply);
    if (k || o->ask != LDR_OP_UPLOAD_PART)
        return k;
    if (!o->crc_algo) /* one part without a CRC, and there is none of the whole */
        o->op->upload->algo = LDR_SUM_NONE;
    ldr_http_header(reply, "etag", etag, sizeof etag);
    return keep_part(o, etag, o->op->size_bytes, o->crc);
}

static enum larder_kind begun(struct s3_op *o, const char *p, size_t n)
{
    struct ldr_multipart *u = o->op->upload;
    char id[LDR_UPLOAD_ID_MAX + 2];
    const struct ldr_xml_want want[] = { { "UploadId", id, sizeof id } };

    if (!(ldr_xml_read(p, n, "InitiateMultipartUploadResult", want, LDR_ARRAY_LEN(want)) ||
          ldr_xml_read(p, n, "InitiateMultipartUpload", want, LDR_ARRAY_LEN(want))) || /* rclone's name for it */
        !id[0])
        return ldr_s3_late_refusal(o, p, n, "names no upload");
    if (strlen(id) > LDR_UPLOAD_ID_MAX)
        return odd_answer(o, "the upload's id is too long");
    memcpy(u->id, id, strlen(id) + 1);
    u->end_sent = false;
    return LARDER_OK;
}

/* What a store says of a copied part's CRC is not ours to vouch for (some tell that of the whole source): then there is
 * none of the whole either. */
static enum larder_kind part_copied(struct s3_op *o, const char *p, size_t n)
{
    char etag[LDR_S3_ETAG_MAX];
    const struct ldr_xml_want want[] = { { "ETag", etag, sizeof etag } };

    if (!ldr_xml_read(p, n, "CopyPartResult", want, LDR_ARRAY_LEN(want)) || !etag[0])
        return ldr_s3_late_refusal(o, p, n, "makes no sense");
    o->op->upload->algo = LDR_SUM_NONE;
    return keep_part(o, etag, o->op->length, 0);
}

static enum larder_kind add_meta(struct s3_op *o, const char *etag, const char *sum)
{
    struct ldr_op *op = o->op;
    bool ok = !etag[0] || ldr_s3_add_etag(&op->meta, etag, strlen(etag));

    if (ok && sum[0])
        ok = ldr_meta_add_pair(&op->meta, LDR_TAG_CHECKSUM, ldr_sum_name(op->upload->algo), sum);
    op->meta.size_bytes = op->size_bytes;
    return ok ? LARDER_OK : ldr_fail(&op->err, LARDER_LIMIT_EXCEEDED, "the metadata of \"%s\" is too large", op->uri);
}

static enum larder_kind ended(struct s3_op *o, const char *p, size_t n)
{
    const struct ldr_multipart *u = o->op->upload;
    char etag[LDR_S3_ETAG_MAX], sum[LDR_SUM_TEXT_MAX], name[32];
    const struct ldr_xml_want want[] = { { "ETag", etag, sizeof etag }, { name, sum, sizeof sum } };
    bool whole = sum_element(u->algo, name, sizeof name) && !u->composite;

    if (!ldr_xml_read(p, n, "CompleteMultipartUploadResult", want, LDR_ARRAY_LEN(want)))
        return ldr_s3_late_refusal(o, p, n, "makes no sense");
    if (!whole || strchr(sum, '-')) /* "…-3": a sum of sums, whatever was asked for */
        sum[0] = '\0';
    if (sum[0] && ldr_s3_crc_differs(u->algo, whole_crc(u), sum))
        return odd_answer(o, "the store's checksum of the object is another than that of what was sent");
    return add_meta(o, etag, sum);
}

enum larder_kind ldr_s3_uploaded(struct s3_op *o)
{
    const char *p = (const char *)o->text.p;
    size_t n = o->text.len;

    ldr_s3_skip_blanks(&p, &n); /* sent while the store works */
    switch (o->ask) {
    case LDR_OP_UPLOAD_BEGIN:
        return begun(o, p, n);
    case LDR_OP_UPLOAD_COPY:
        return part_copied(o, p, n);
    case LDR_OP_UPLOAD_END:
        return ended(o, p, n);
    default:
        return LARDER_OK;
    }
}

/* ---- an end whose answer was lost ---- */

bool ldr_s3_prove_end_on_net(struct s3_op *o)
{
    o->ask = LDR_OP_HEAD;
    ldr_buf_release(&o->body);
    memcpy(o->payload, LDR_SIGV4_EMPTY, sizeof LDR_SIGV4_EMPTY);
    ldr_s3_start_on_net(o);
    return true;
}

/* An object of parts has an ETag of theirs in most stores: "MD5 of the MD5s-N". */
static bool is_etag_of_parts(const struct ldr_multipart *u, const char *etag)
{
    char hex[2 * 16 + 1], want[64];
    uint8_t raw[LDR_SUM_RAW_MAX];
    struct ldr_sum sum = { 0 };
    bool ok = ldr_sum_begin(&sum, LDR_SUM_MD5, NULL) == LARDER_OK;

    for (uint32_t i = 0; ok && i < u->n_parts; i++) {
        const char *part = u->parts[i].etag;

        if (*part == '"')
            part++;
        ok = strspn(part, "0123456789abcdefABCDEF") == 32 && ldr_sum_parse(LDR_SUM_MD5, part, 32, raw);
        if (ok)
            ldr_sum_add(&sum, raw, 16);
    }
    if (ok) {
        ldr_sum_end(&sum, raw);
        ldr_hex(raw, 16, hex);
        snprintf(want, sizeof want, "\"%s-%" PRIu32 "\"", hex, u->n_parts);
        ok = !strcasecmp(want, etag);
    }
    ldr_sum_release(&sum);
    return ok;
}

static bool has_sum_of_parts(const struct s3_op *o)
{
    const struct ldr_multipart *u = o->op->upload;
    char name[40], text[96];

    if (!u->algo || u->composite)
        return false;
    snprintf(name, sizeof name, LDR_S3_CHECKSUM "%s", ldr_sum_name(u->algo));
    return ldr_http_header(&o->http.reply, name, text, sizeof text) && !ldr_s3_crc_differs(u->algo, whole_crc(u), text);
}

/* The size alone proves nothing: the object before may have had the same. */
enum larder_kind ldr_s3_proved(struct s3_op *o)
{
    struct ldr_op *op = o->op;
    char etag[LDR_S3_ETAG_MAX] = "";

    ldr_http_header(&o->http.reply, "etag", etag, sizeof etag);
    if (op->meta.size_bytes == op->size_bytes && (has_sum_of_parts(o) || is_etag_of_parts(op->upload, etag)))
        return LARDER_OK;
    return ldr_fail(&op->err, LARDER_OUTCOME_UNKNOWN,
                    "could not complete the upload of \"%s\": an attempt without an answer may have done so, and the "
                    "object that is there may be another one",
                    op->uri);
}
