/* s3_extra.c - where requests about a bucket go, and the headers that settings add to them (s3_impl.h).
 *
 * A bucket lives in one region, and a request that is signed for another one is refused with the name of the right one.
 * Where the configuration does not say the region, that name is remembered, bucket by bucket, and the request is sent
 * once more (s3_reply.c). */
#include "backends/s3_impl.h"
#include "common/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- addresses ---- */

bool ldr_s3_is_region(const char *text)
{
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

    return n > 0 && n < LDR_S3_REGION_MAX && !text[n];
}

static bool add_aws_host(char *out, size_t cap, const char *before, const char *region)
{
    int n = snprintf(out, cap, "%ss3.%s.amazonaws.com%s", before, region, !strncmp(region, "cn-", 3) ? ".cn" : "");

    return n > 0 && (size_t)n < cap;
}

char *ldr_s3_aws_host(const char *region)
{
    char host[LDR_S3_HOST_MAX];

    return add_aws_host(host, sizeof host, "", region) ? strdup(host) : NULL;
}

/* A bucket with a dot would stand in a host name that no certificate covers. */
static bool is_dns_label(const char *bucket)
{
    return strlen(bucket) <= 63 && strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(bucket);
}

bool ldr_s3_host(const struct s3 *s3, const char *bucket, bool sign, char *out, size_t cap, bool *in_host)
{
    bool aws = s3->aws && !(sign && s3->sign_host);
    const char *host = sign && s3->sign_host ? s3->sign_host : s3->host;
    char before[80] = "";
    int n;

    *in_host = (s3->addressing == S3_AT_VIRTUAL || (s3->addressing == S3_AT_AUTO && aws)) && is_dns_label(bucket);
    if (*in_host)
        snprintf(before, sizeof before, "%s.", bucket);
    if (aws)
        return add_aws_host(out, cap, before, ldr_s3_region_of(s3, bucket));
    n = snprintf(out, cap, "%s%s", before, host);
    return n > 0 && (size_t)n < cap;
}

/* ---- regions ---- */

const char *ldr_s3_region_of(const struct s3 *s3, const char *bucket)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(s3->moved) && s3->moved[i].bucket; i++)
        if (!strcmp(s3->moved[i].bucket, bucket))
            return s3->moved[i].region;
    return s3->region;
}

static void forget(struct s3_moved *m)
{
    free(m->bucket);
    free(m->region);
    *m = (struct s3_moved){ 0 };
}

bool ldr_s3_learn_region_on_net(struct s3 *s3, const char *bucket, const char *region)
{
    struct s3_moved m = { 0 };
    size_t at = 0;

    if (s3->region_fixed || !ldr_s3_is_region(region) || !strcmp(region, ldr_s3_region_of(s3, bucket)))
        return false;
    m.bucket = strdup(bucket);
    m.region = strdup(region);
    if (!m.bucket || !m.region) {
        forget(&m);
        return false;
    }
    while (at < LDR_ARRAY_LEN(s3->moved) && s3->moved[at].bucket && strcmp(s3->moved[at].bucket, bucket) != 0)
        at++;
    if (at == LDR_ARRAY_LEN(s3->moved)) /* full: whichever goes would only be asked once more */
        at = s3->next_moved++ % LDR_ARRAY_LEN(s3->moved);
    forget(&s3->moved[at]);
    s3->moved[at] = m;
    ldr_log(LDR_INFO, "s3", "a bucket is in another region bucket=\"%s\" region=%s", bucket, region);
    return true;
}

void ldr_s3_forget_regions(struct s3 *s3)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(s3->moved); i++)
        forget(&s3->moved[i]);
}

/* ---- headers ---- */

/* Is a new object made by this request? */
static bool makes_object(enum ldr_op_what ask)
{
    return ask == LDR_OP_PUT || ask == LDR_OP_COPY || ask == LDR_OP_UPLOAD_BEGIN;
}

/* Does this request read or write bytes of an object, or what the store says of them? */
static bool touches_bytes(enum ldr_op_what ask)
{
    return makes_object(ask) || ask == LDR_OP_GET || ask == LDR_OP_HEAD || ask == LDR_OP_UPLOAD_PART ||
           ask == LDR_OP_UPLOAD_COPY || ask == LDR_OP_UPLOAD_END;
}

static enum larder_kind add_customer_key(struct s3_op *o, const char *head, struct larder_err *err)
{
    char name[96];
    enum larder_kind k;

    snprintf(name, sizeof name, "%sserver-side-encryption-customer-algorithm", head);
    k = ldr_s3_header(o, name, "AES256", err);
    snprintf(name, sizeof name, "%sserver-side-encryption-customer-key", head);
    if (!k)
        k = ldr_s3_header(o, name, o->s3->sse_customer_key, err);
    snprintf(name, sizeof name, "%sserver-side-encryption-customer-key-MD5", head);
    return k ? k : ldr_s3_header(o, name, o->s3->sse_customer_md5, err);
}

enum larder_kind ldr_s3_extra_headers(struct s3_op *o, struct larder_err *err)
{
    const struct s3 *s3 = o->s3;
    bool makes = makes_object(o->ask);
    enum larder_kind k = LARDER_OK;

    if (s3->requester_pays && o->ask != LDR_OP_MAKE_CONTAINER)
        k = ldr_s3_header(o, "x-amz-request-payer", "requester", err);
    if (!k && makes && s3->sse)
        k = ldr_s3_header(o, "x-amz-server-side-encryption", s3->sse, err);
    if (!k && makes && s3->sse_kms_key_id)
        k = ldr_s3_header(o, "x-amz-server-side-encryption-aws-kms-key-id", s3->sse_kms_key_id, err);
    if (!k && makes && s3->storage_class)
        k = ldr_s3_header(o, "x-amz-storage-class", s3->storage_class, err);
    if (!k && s3->sse_customer_key && touches_bytes(o->ask))
        k = add_customer_key(o, "x-amz-", err);
    if (!k && s3->sse_customer_key && (o->ask == LDR_OP_COPY || o->ask == LDR_OP_UPLOAD_COPY))
        k = add_customer_key(o, "x-amz-copy-source-", err);
    return k;
}
