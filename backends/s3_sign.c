/* s3_sign.c - signed URLs (s3_impl.h): a request that is signed here and carried out by somebody else, who needs no
 * credentials. The store is not asked. */
#include "backends/s3_impl.h"

#include <stdio.h>
#include <time.h>

#define LIFETIME_MAX_S (7 * 24 * 3600) /* the longest that a store accepts */
#define LINES_MAX      8

/* A header that is signed. All but Host are told to whoever sends the request. */
struct lines {
    char text[LINES_MAX][LDR_S3_HOST_MAX + 2 * 1024];
    const char *list[LINES_MAX + 1];
    size_t n;
};

static enum larder_kind add_line(struct lines *l, const struct ldr_op *op, const char *name, const char *value,
                                 struct larder_err *err)
{
    int n;

    for (const char *p = value; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return ldr_fail(err, LARDER_INVALID, "the %s of \"%s\" holds a control character", name, op->uri);
    n = snprintf(l->text[l->n], sizeof l->text[l->n], "%s: %s", name, value);
    if (n < 0 || (size_t)n >= sizeof l->text[l->n])
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the %s of \"%s\" is too long to be signed", name, op->uri);
    l->list[l->n] = l->text[l->n];
    l->list[++l->n] = NULL;
    return LARDER_OK;
}

static enum larder_kind add_lines(struct lines *l, const struct s3 *s3, const struct ldr_op *op, struct larder_err *err)
{
    const struct ldr_signing *s = op->sign;
    bool md5 = s->put && s->content_md5 && s->content_md5[0];
    enum larder_kind k = LARDER_OK;

    if (md5)
        k = add_line(l, op, "Content-MD5", s->content_md5, err);
    if (!k && s->put && s->content_type && s->content_type[0])
        k = add_line(l, op, "Content-Type", s->content_type, err);
    if (!k && md5 && s->md5_in_metadata)
        k = add_line(l, op, LDR_S3_USER_META "flyteContentMD5", s->content_md5, err);
    if (!k && s->put && s3->sse)
        k = add_line(l, op, "x-amz-server-side-encryption", s3->sse, err);
    if (!k && s->put && s3->sse_kms_key_id)
        k = add_line(l, op, "x-amz-server-side-encryption-aws-kms-key-id", s3->sse_kms_key_id, err);
    if (!k && s->put && s3->storage_class)
        k = add_line(l, op, "x-amz-storage-class", s3->storage_class, err);
    return k;
}

/* How long it is good for. A URL dies with the credentials that signed it, whatever it says. */
static enum larder_kind lifetime(const struct ldr_op *op, const struct ldr_cred *cred, int64_t now_s, int64_t *out,
                                 struct larder_err *err)
{
    int64_t s = op->sign->lifetime_s;

    if (s <= 0)
        return ldr_fail(err, LARDER_INVALID, "could not sign a URL of \"%s\": it needs a lifetime of at least a second",
                        op->uri);
    if (s > LIFETIME_MAX_S)
        s = LIFETIME_MAX_S;
    if (cred->expires_s && s > cred->expires_s - now_s)
        s = cred->expires_s - now_s;
    if (s <= 0)
        return ldr_fail(err, LARDER_DENIED, "could not sign a URL of \"%s\": the credentials are over", op->uri);
    *out = s;
    return LARDER_OK;
}

enum larder_kind ldr_s3_sign_at(const struct s3 *s3, struct ldr_op *op, const struct ldr_cred *cred, int64_t now_s,
                                struct larder_err *err)
{
    struct ldr_signing *s = op->sign;
    bool own = s3->sign_host != NULL, https = own ? s3->sign_https : s3->https, in_host = false;
    const char *prefix = own ? (s3->sign_prefix ? s3->sign_prefix : "") : s3->prefix;
    struct ldr_sigv4 sign = { .method = s->put ? "PUT" : "GET",
                              .payload = LDR_SIGV4_UNSIGNED,
                              .query = s3->requester_pays ? "x-amz-request-payer=requester" : NULL,
                              .region = s3->sign_region ? s3->sign_region : ldr_s3_region_of(s3, op->container),
                              .service = "s3",
                              .time_s = now_s };
    struct ldr_buf path = LDR_BUF_INIT(LDR_S3_URL_MAX), query = path, url = path,
                   headers = LDR_BUF_INIT(LDR_S3_URL_MAX);
    char host[LDR_S3_HOST_MAX];
    struct lines lines = { .n = 0 };
    int64_t life_s = 0;
    enum larder_kind k = lifetime(op, cred, now_s, &life_s, err);

    if (!k && cred->anonymous)
        k = ldr_fail(err, LARDER_UNSUPPORTED, "could not sign a URL of \"%s\": the store has no credentials configured",
                     op->uri);
    if (!k && s3->sse_customer_key) /* whoever gets the URL would have to be told the key */
        k = ldr_fail(err, LARDER_UNSUPPORTED,
                     "could not sign a URL of \"%s\": the store is configured with an encryption key of its own",
                     op->uri);
    if (!k && !ldr_s3_host(s3, op->container, true, host, sizeof host, &in_host))
        k = ldr_fail(err, LARDER_INVALID, "the address of bucket \"%s\" is too long", op->container);
    if (!k)
        k = add_line(&lines, op, "Host", host, err);
    if (!k)
        k = add_lines(&lines, s3, op, err);
    if (!k && (!ldr_buf_addf(&path, "%s/", prefix) || (!in_host && !ldr_buf_addf(&path, "%s/", op->container)) ||
               !ldr_sigv4_escape(&path, op->key, true) || !ldr_buf_str(&path)))
        k = ldr_fail(err, LARDER_INVALID, "the key of \"%s\" is too long", op->uri);
    if (k)
        goto done;
    sign.path = ldr_buf_str(&path);
    sign.headers = lines.list;
    k = ldr_sigv4_presign(&sign, cred, life_s, &query, err);
    for (size_t i = 1; !k && i < lines.n; i++)
        if (!ldr_buf_addf(&headers, "%s\n", lines.list[i]))
            k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a signed URL");
    if (!k && (!ldr_buf_addf(&url, "%s://%s%s?%s", https ? "https" : "http", host, sign.path, ldr_buf_str(&query)) ||
               !ldr_buf_str(&url) || !ldr_buf_str(&headers)))
        k = ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the signed URL of \"%s\" is too long", op->uri);
    if (k)
        goto done;
    ldr_buf_release(&s->url);
    ldr_buf_release(&s->headers);
    s->url = url;
    s->headers = headers;
    s->expires_s = now_s + life_s;
    url = headers = LDR_BUF_INIT(0);
done:
    ldr_buf_release(&path);
    ldr_buf_release(&query);
    ldr_buf_release(&url);
    ldr_buf_release(&headers);
    return k;
}

static void cred_ready(struct ldr_cred_ask *a, enum larder_kind kind, const struct ldr_cred *cred,
                       const struct larder_err *err)
{
    struct s3_op *o = LDR_CONTAINER(a, struct s3_op, ask_cred);
    struct ldr_op *op = o->op;

    if (kind)
        op->err = *err;
    else
        kind = ldr_s3_sign_at(o->s3, op, cred, time(NULL) + o->s3->skew_s, &op->err);
    ldr_s3_end(o, kind);
}

void ldr_s3_sign(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o = ldr_s3_begin(b, op);

    if (!o)
        return;
    o->ask_cred = (struct ldr_cred_ask){ .deadline_ns = op->deadline_ns, .ready = cred_ready };
    ldr_cred_ask_on_net(o->s3->cred, &o->ask_cred);
}
