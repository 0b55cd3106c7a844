/* s3_body.c - what goes along with a body, so that the store can tell whether it came whole and unchanged (s3_impl.h).
 *
 * A CRC (x-amz-checksum-…) where the store takes one: a single fast pass over the body. It stands in a signed header, so
 * the body need not be hashed a second time for the signature. Older stores take Content-MD5; both may be wanted where a
 * store says nothing of the CRC that it was sent. Without either the body is signed by its SHA-256. */
#include "backends/s3_impl.h"
#include "common/hash.h"
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HERE_DIGEST_MAX (64 * LDR_KIB) /* larger bodies are summed up on the pool */
#define HERE_CRC_MAX    LDR_MIB
#define PIECE           (256 * LDR_KIB) /* stays in a core's cache from one sum to the next */

static bool is_xml(const struct s3_op *o)
{
    return o->ask != LDR_OP_PUT && o->ask != LDR_OP_UPLOAD_PART;
}

/* The object's MD5, said by whoever puts it, is the body's too. */
static bool has_own_md5(const struct s3_op *o)
{
    const struct ldr_meta *m = o->ask == LDR_OP_PUT ? o->op->put_meta : NULL;
    struct ldr_field f;

    return m && ldr_fields_find(m->fields.p, m->fields.len, LDR_TAG_CONTENT_MD5, &f);
}

enum ldr_sum_algo ldr_s3_crc_algo(const struct s3_op *o)
{
    if (o->ask == LDR_OP_UPLOAD_BEGIN && o->op->upload->copies)
        return LDR_SUM_NONE; /* nobody here sees the bytes */
    switch (o->s3->checksum) {
    case S3_SUM_AUTO:
        return o->s3->crc == S3_CRC_REFUSED || o->crc_tried ? LDR_SUM_NONE : LDR_SUM_CRC32C;
    case S3_SUM_CRC32C:
        return LDR_SUM_CRC32C;
    case S3_SUM_CRC64NVME:
        return LDR_SUM_CRC64NVME;
    case S3_SUM_MD5:
    case S3_SUM_NONE:
        break;
    }
    return LDR_SUM_NONE;
}

static void choose(struct s3_op *o)
{
    const struct s3 *s3 = o->s3;

    bool never = o->ask == LDR_OP_UPLOAD_END || o->ask == LDR_OP_MAKE_CONTAINER; /* these say other sums, or none */

    o->crc_algo = never                          ? LDR_SUM_NONE
                  : o->ask == LDR_OP_UPLOAD_PART ? (o->crc_tried ? LDR_SUM_NONE : o->op->upload->algo)
                                                 : ldr_s3_crc_algo(o);
    o->with_md5 = o->ask == LDR_OP_DELETE_MANY || s3->checksum == S3_SUM_MD5 ||
                  (s3->checksum == S3_SUM_AUTO && (!o->crc_algo || s3->crc == S3_CRC_IGNORED));
    o->with_md5 = o->with_md5 && !never && !has_own_md5(o);
    o->with_sha = s3->sign_payload == S3_SIGN_ALWAYS ||
                  (s3->sign_payload == S3_SIGN_AUTO && (is_xml(o) || !(o->crc_algo || o->with_md5)));
}

/* ---- one pass over the body ---- */

struct pass {
    struct ldr_sum crc, md5, sha;
};

static enum larder_kind pass_begin(struct pass *p, struct s3_op *o, struct larder_err *err)
{
    enum larder_kind k = o->crc_algo ? ldr_sum_begin(&p->crc, o->crc_algo, err) : LARDER_OK;

    if (!k && o->with_md5)
        k = ldr_sum_begin(&p->md5, LDR_SUM_MD5, err);
    if (k == LARDER_UNSUPPORTED && o->s3->checksum != S3_SUM_MD5) { /* FIPS: then the signature has to do */
        k = LARDER_OK;
        o->with_md5 = false;
        o->with_sha = o->with_sha || (!o->crc_algo && o->s3->sign_payload == S3_SIGN_AUTO);
    }
    if (!k && o->with_sha)
        k = ldr_sum_begin(&p->sha, LDR_SUM_SHA256, err);
    return k;
}

static void pass_add(struct pass *p, const void *bytes, size_t n)
{
    ldr_sum_add(&p->crc, bytes, n);
    ldr_sum_add(&p->md5, bytes, n);
    ldr_sum_add(&p->sha, bytes, n);
}

static void pass_end(struct pass *p, struct s3_op *o)
{
    uint8_t raw[LDR_SUM_RAW_MAX];

    if (o->crc_algo) {
        o->crc = p->crc.crc;
        ldr_sum_end(&p->crc, raw);
    }
    if (o->with_md5)
        ldr_sum_end(&p->md5, o->md5);
    if (o->with_sha) {
        ldr_sum_end(&p->sha, raw);
        ldr_hex(raw, ldr_sum_raw_len(LDR_SUM_SHA256), o->payload);
    } else {
        memcpy(o->payload, LDR_SIGV4_UNSIGNED, sizeof LDR_SIGV4_UNSIGNED);
    }
}

static void pass_release(struct pass *p)
{
    ldr_sum_release(&p->crc);
    ldr_sum_release(&p->md5);
    ldr_sum_release(&p->sha);
}

static void add_bytes(struct pass *p, const char *bytes, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += PIECE)
        pass_add(p, bytes + at, size - at < PIECE ? (size_t)(size - at) : PIECE);
}

static enum larder_kind add_file(struct pass *p, const struct ldr_op *op, struct larder_err *err)
{
    uint64_t size = op->size_bytes;
    char *piece = malloc(PIECE);
    enum larder_kind k = LARDER_OK;

    if (!piece)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a checksum");
    for (uint64_t at = 0; at < size && !k;) {
        ssize_t n = pread(op->fd, piece, size - at < PIECE ? (size_t)(size - at) : PIECE, (off_t)at);

        if (n > 0) {
            pass_add(p, piece, (size_t)n);
            at += (uint64_t)n;
        } else if (n == 0) {
            k = ldr_fail(err, LARDER_IO, "could not %s \"%s\": its file is shorter than %" PRIu64 " bytes",
                         ldr_s3_verbs[op->what], op->uri, size);
        } else if (errno != EINTR) {
            k = ldr_fail_sys(err, LARDER_IO, "could not read the file for \"%s\"", op->uri);
        }
    }
    free(piece);
    return k;
}

/* Is all that is wanted known, so that the body need not be read for it? */
static bool is_known(const struct s3_op *o)
{
    return o->op->has_crc32c && o->crc_algo == LDR_SUM_CRC32C && !o->with_md5 && !o->with_sha && !is_xml(o);
}

static enum larder_kind sum_up(struct s3_op *o, struct larder_err *err)
{
    const struct ldr_op *op = o->op;
    struct pass p = { 0 };
    enum larder_kind k;

    if (is_known(o)) {
        o->crc = op->crc32c;
        memcpy(o->payload, LDR_SIGV4_UNSIGNED, sizeof LDR_SIGV4_UNSIGNED);
        return LARDER_OK;
    }
    k = pass_begin(&p, o, err);
    if (!k && is_xml(o))
        add_bytes(&p, (const char *)o->body.p, o->body.len);
    else if (!k && op->bytes)
        add_bytes(&p, op->bytes, op->size_bytes);
    else if (!k && op->size_bytes > 0 && (p.crc.algo || p.md5.algo || p.sha.algo))
        k = add_file(&p, op, err);
    if (!k)
        pass_end(&p, o);
    pass_release(&p);
    return k;
}

static void summed_on_net(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    struct s3_op *o = op->priv;

    ldr_net_away_on_net(o->s3->base.env.net, -1);
    if (op->kind)
        ldr_s3_end(o, op->kind);
    else
        ldr_s3_start_on_net(o);
}

static void sum_on_pool(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    struct s3_op *o = op->priv;

    op->kind = sum_up(o, &op->err);
    t->run = summed_on_net;
    ldr_net_post(o->s3->base.env.net, t);
}

/* May this take so little time that the net thread does it? */
static bool is_quick(const struct s3_op *o)
{
    const struct ldr_op *op = o->op;

    return is_xml(o) || is_known(o) || op->size_bytes == 0 ||
           (op->bytes && op->size_bytes <= (o->with_md5 || o->with_sha ? HERE_DIGEST_MAX : HERE_CRC_MAX));
}

void ldr_s3_start_with_body_on_net(struct s3_op *o)
{
    struct ldr_op *op = o->op;

    choose(o);
    if (is_quick(o)) {
        if (sum_up(o, &op->err))
            ldr_s3_end(o, op->err.kind);
        else
            ldr_s3_start_on_net(o);
        return;
    }
    ldr_net_away_on_net(o->s3->base.env.net, 1);
    op->task.run = sum_on_pool;
    ldr_pool_post(o->s3->base.env.pool, &op->task);
}

/* ---- the request and its answer ---- */

enum larder_kind ldr_s3_crc_header(struct s3_op *o, enum ldr_sum_algo algo, uint64_t crc, struct larder_err *err)
{
    char name[40], text[LDR_SUM_TEXT_MAX];
    uint8_t raw[LDR_SUM_RAW_MAX];

    snprintf(name, sizeof name, LDR_S3_CHECKSUM "%s", ldr_sum_name(algo));
    ldr_sum_crc_raw(algo, crc, raw);
    ldr_sum_base64(algo, raw, text);
    return ldr_s3_header(o, name, text, err);
}

enum larder_kind ldr_s3_body_headers(struct s3_op *o, struct larder_err *err)
{
    enum larder_kind k = o->crc_algo ? ldr_s3_crc_header(o, o->crc_algo, o->crc, err) : LARDER_OK;
    char text[LDR_SUM_TEXT_MAX];

    if (k || !o->with_md5)
        return k;
    ldr_sum_base64(LDR_SUM_MD5, o->md5, text);
    return ldr_s3_header(o, "Content-MD5", text, err);
}

bool ldr_s3_crc_differs(enum ldr_sum_algo algo, uint64_t crc, const char *text)
{
    uint8_t raw[LDR_SUM_RAW_MAX], ours[LDR_SUM_RAW_MAX];

    ldr_sum_crc_raw(algo, crc, ours);
    return !ldr_sum_parse(algo, text, strlen(text), raw) || memcmp(raw, ours, ldr_sum_raw_len(algo)) != 0;
}

enum larder_kind ldr_s3_check_sent_on_net(struct s3_op *o, const struct ldr_http_reply *reply)
{
    struct ldr_op *op = o->op;
    struct s3 *s3 = o->s3;
    char name[40], text[96];

    if (o->crc_tried && s3->crc != S3_CRC_REFUSED) { /* without the CRC it went well */
        s3->crc = S3_CRC_REFUSED;
        ldr_log(LDR_INFO, "s3", "the store refuses checksum headers, it gets Content-MD5 from now on host=%s",
                s3->host);
    }
    if (!o->crc_algo || is_xml(o))
        return LARDER_OK;
    snprintf(name, sizeof name, LDR_S3_CHECKSUM "%s", ldr_sum_name(o->crc_algo));
    if (ldr_http_header(reply, name, text, sizeof text)) {
        if (ldr_s3_crc_differs(o->crc_algo, o->crc, text))
            return ldr_fail_http(&op->err, LARDER_CORRUPT, reply->status,
                                 "could not %s \"%s\": the store says its %s is another than that of what was sent",
                                 ldr_s3_verbs[op->what], op->uri, ldr_sum_name(o->crc_algo));
        s3->crc = S3_CRC_TAKEN;
    } else if (s3->crc == S3_CRC_UNTRIED) {
        s3->crc = S3_CRC_IGNORED;
        if (s3->checksum == S3_SUM_AUTO)
            ldr_log(LDR_INFO, "s3", "the store says nothing of a checksum, it gets Content-MD5 too from now on host=%s",
                    s3->host);
    }
    return LARDER_OK;
}

bool ldr_s3_retry_without_crc_on_net(struct s3_op *o, int status, const char *code)
{
    static const char *const codes[] = { "", "InvalidRequest", "InvalidArgument", "NotImplemented" };
    bool known = false;

    for (size_t i = 0; i < LDR_ARRAY_LEN(codes); i++)
        known = known || !strcmp(code, codes[i]);
    if (!o->crc_algo || o->s3->checksum != S3_SUM_AUTO || o->s3->crc == S3_CRC_TAKEN || !known ||
        (status != 400 && status != 501))
        return false;
    o->crc_tried = true;
    ldr_s3_start_with_body_on_net(o);
    return true;
}
