/* s3.c - S3 and every store that speaks like it (backend.h). Step 7 of a get.
 *
 * An op becomes one signed request: build() makes URL and headers, sigv4 signs them, the transport sends them. The
 * answer's head is checked in on_headers(), the body of a get goes straight into the op's sink (any other is gathered and
 * read as XML), and on_done() turns the outcome into a kind and a message. All of it runs on the net thread, but for the
 * hash of a large body, which the pool makes before the request is built.
 *
 * Addresses (s3_extra.c): with a configured endpoint ENDPOINT/BUCKET/KEY; without one
 * https://BUCKET.s3.REGION.amazonaws.com/KEY (a bucket whose name cannot stand in a host name as it is: in the path); the
 * setting "addressing" says otherwise. Keys are sent byte for byte. */
#include "backends/s3_impl.h"
#include "common/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- open and close ---- */

static void s3_close(struct ldr_backend *b)
{
    struct s3 *s3 = (struct s3 *)b;

    ldr_cred_free(&s3->cred);
    explicit_bzero(&s3->day_key, sizeof s3->day_key);
    ldr_s3_forget_regions(s3);
    if (s3->sse_customer_key)
        explicit_bzero(s3->sse_customer_key, strlen(s3->sse_customer_key));
    free(s3->sse_customer_key);
    free(s3->sse_customer_md5);
    free(s3->sse);
    free(s3->sse_kms_key_id);
    free(s3->storage_class);
    free(s3->sign_host);
    free(s3->sign_prefix);
    free(s3->sign_region);
    free(s3->ca_file);
    free(s3->host);
    free(s3->prefix);
    free(s3->region);
    free(s3);
}

static enum larder_kind s3_open(const struct ldr_store_cfg *cfg, const struct ldr_backend_env *env,
                                struct ldr_backend **out, struct larder_err *err);

/* A key of the customer's belongs to it: what was read with one key the store refuses to give for another, and the cache
 * shall not do otherwise. Only a hash of the key's hash leaves this function. */
static uint64_t s3_fingerprint(const struct ldr_backend *b)
{
    const struct s3 *s3 = (const struct s3 *)b;
    char text[640], key[LDR_SHA256_HEX_MAX] = "";
    int n;

    if (s3->sse_customer_key)
        ldr_sha256_hex(s3->sse_customer_key, strlen(s3->sse_customer_key), key);
    if (s3->aws) /* a bucket's name is unique in all regions of a partition */
        n = snprintf(text, sizeof text, "s3 aws%s%s", !strncmp(s3->region, "cn-", 3) ? "-cn" : "", key);
    else
        n = snprintf(text, sizeof text, "s3 %s%s%s", s3->host, s3->prefix, key);
    return ldr_hash64(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

const struct ldr_backend_ops ldr_backend_s3 = {
    .kind = "s3",
    .caps = LDR_CAP_RANGE | LDR_CAP_IF_MATCH | LDR_CAP_CREATE_ONLY | LDR_CAP_USER_META | LDR_CAP_PUT_IF_MATCH |
            LDR_CAP_HEAD_SUM,
    .open = s3_open,
    .close = s3_close,
    .get = ldr_s3_ask,
    .head = ldr_s3_ask,
    .put = ldr_s3_put,
    .del = ldr_s3_ask,
    .list = ldr_s3_ask,
    .copy = ldr_s3_ask,
    .upload = ldr_s3_upload,
    .delete_many = ldr_s3_delete_many,
    .make_container = ldr_s3_make_container,
    .sign = ldr_s3_sign,
    .part_min = 5 * LDR_MIB,
    .part_max = 5 * LDR_GIB,
    .put_max = 5 * LDR_GIB,
    .copy_max = 5 * LDR_GIB,
    .fingerprint = s3_fingerprint,
};

static enum larder_kind s3_open(const struct ldr_store_cfg *cfg, const struct ldr_backend_env *env,
                                struct ldr_backend **out, struct larder_err *err)
{
    struct s3 *s3 = calloc(1, sizeof *s3);
    enum larder_kind k;

    if (!s3)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for an s3 store");
    s3->base = (struct ldr_backend){ .ops = &ldr_backend_s3, .env = *env };
    k = ldr_s3_settings(s3, cfg, err);
    if (k)
        s3_close(&s3->base);
    else
        *out = &s3->base;
    return k;
}
