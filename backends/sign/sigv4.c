/* sigv4.c - see sigv4.h. Step 8 of a get.
 *
 *   canonical request  = method, path, sorted query, sorted headers, their names, the payload's hash
 *   string to sign     = algorithm, date, scope, hash of the canonical request
 *   key                = HMAC chain over day, region, service from the secret
 *   signature          = HMAC(key, string to sign)
 */
#include "backends/sign/sigv4.h"
#include "common/hash.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <inttypes.h>
#include <time.h>

#define ALGORITHM  "AWS4-HMAC-SHA256"
#define SHA256_LEN 32
#define DAY_LEN    8 /* "20130524" */

/* A header or a parameter, borrowed from the request. */
struct item {
    const char *name, *value;
    size_t name_len, value_len;
};

void ldr_sha256_hex(const void *p, size_t n, char out[LDR_SHA256_HEX_MAX])
{
    uint8_t digest[SHA256_LEN];
    int ok = EVP_Digest(p, n, digest, NULL, EVP_sha256(), NULL);

    assert(ok == 1); /* a libcrypto without SHA-256 */
    ldr_hex(digest, sizeof digest, out);
}

static void hmac(const void *key, size_t key_len, const char *text, size_t n, uint8_t out[SHA256_LEN])
{
    unsigned len = SHA256_LEN;
    const uint8_t *ok = HMAC(EVP_sha256(), key, (int)key_len, (const uint8_t *)text, n, out, &len);

    assert(ok && len == SHA256_LEN);
}

enum larder_kind ldr_sigv4_date(int64_t time_s, char out[LDR_SIGV4_DATE_MAX], struct larder_err *err)
{
    time_t t = (time_t)time_s;
    struct tm tm;

    if (!gmtime_r(&t, &tm) || tm.tm_year < 70 || tm.tm_year > 8099)
        return ldr_fail(err, LARDER_INVALID, "the time %" PRId64 " cannot be signed", time_s);
    strftime(out, LDR_SIGV4_DATE_MAX, "%Y%m%dT%H%M%SZ", &tm);
    return LARDER_OK;
}

bool ldr_sigv4_escape(struct ldr_buf *out, const char *text, bool keep_slash)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";

    for (const char *p = text; *p; p++) {
        bool ok = strchr(plain, *p) || (keep_slash && *p == '/') ? ldr_buf_add(out, p, 1)
                                                                 : ldr_buf_addf(out, "%%%02X", (unsigned char)*p);

        if (!ok)
            return false;
    }
    return true;
}

/* ---- canonical form ---- */

static int compare(const char *a, size_t a_len, const char *b, size_t b_len,
                   int (*cmp)(const char *, const char *, size_t))
{
    int c = cmp(a, b, a_len < b_len ? a_len : b_len);

    return c ? c : (a_len > b_len) - (a_len < b_len);
}

static int by_header_name(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return compare(x->name, x->name_len, y->name, y->name_len, strncasecmp);
}

static int by_name_and_value(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    int c = compare(x->name, x->name_len, y->name, y->name_len, strncmp);

    return c ? c : compare(x->value, x->value_len, y->value, y->value_len, strncmp);
}

static enum larder_kind too_large(struct larder_err *err)
{
    return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the request is too large to be signed");
}

/* "Name:  a   b " -> "name:a b\n" into `lines`, "name" into `names`, joined by ';'. */
static enum larder_kind canonical_headers(const struct ldr_sigv4 *r, struct ldr_buf *lines, struct ldr_buf *names,
                                          struct larder_err *err)
{
    struct item items[LDR_SIGV4_ITEMS_MAX];
    size_t n = 0;
    bool ok = true;

    for (const char *const *h = r->headers; h && *h; h++, n++) {
        const char *colon = strchr(*h, ':');

        if (!colon || colon == *h || n == LDR_SIGV4_ITEMS_MAX)
            return ldr_fail(err, LARDER_INVALID, "the request has a malformed header, or too many");
        items[n] = (struct item){ *h, colon + 1, (size_t)(colon - *h), strlen(colon + 1) };
    }
    qsort(items, n, sizeof items[0], by_header_name);
    for (size_t i = 0; i < n && ok; i++) {
        const struct item *it = &items[i];
        size_t at = lines->len, start;

        ok = ldr_buf_add(lines, it->name, it->name_len);
        for (size_t j = at; ok && j < lines->len; j++)
            if (lines->p[j] >= 'A' && lines->p[j] <= 'Z')
                lines->p[j] |= 0x20;
        ok = ok && (i == 0 || ldr_buf_add(names, ";", 1)) && ldr_buf_add(names, lines->p + at, it->name_len) &&
             ldr_buf_add(lines, ":", 1);
        start = lines->len;
        for (size_t j = 0; ok && j < it->value_len; j++) {
            bool blank = it->value[j] == ' ' || it->value[j] == '\t';

            if (!blank)
                ok = ldr_buf_add(lines, it->value + j, 1);
            else if (lines->len > start && lines->p[lines->len - 1] != ' ')
                ok = ldr_buf_add(lines, " ", 1);
        }
        if (ok && lines->len > start && lines->p[lines->len - 1] == ' ')
            lines->len--;
        ok = ok && ldr_buf_add(lines, "\n", 1);
    }
    return ok ? LARDER_OK : too_large(err);
}

/* Sorted by name, then value; a name alone gets its '='. */
static enum larder_kind canonical_query(const char *query, struct ldr_buf *out, struct larder_err *err)
{
    struct item items[LDR_SIGV4_ITEMS_MAX];
    size_t n = 0;
    bool ok = true;

    for (const char *p = query ? query : ""; *p;) {
        size_t len = strcspn(p, "&"), name_len = strcspn(p, "=&");

        if (len > 0) {
            if (n == LDR_SIGV4_ITEMS_MAX)
                return ldr_fail(err, LARDER_INVALID, "the request has more than %d parameters", LDR_SIGV4_ITEMS_MAX);
            items[n++] = (struct item){ p, p + (name_len < len ? name_len + 1 : len), name_len,
                                        name_len < len ? len - name_len - 1 : 0 };
        }
        p += len + (p[len] == '&');
    }
    qsort(items, n, sizeof items[0], by_name_and_value);
    for (size_t i = 0; i < n && ok; i++)
        ok = (i == 0 || ldr_buf_add(out, "&", 1)) && ldr_buf_add(out, items[i].name, items[i].name_len) &&
             ldr_buf_add(out, "=", 1) && ldr_buf_add(out, items[i].value, items[i].value_len);
    return ok ? LARDER_OK : too_large(err);
}

static bool is_complete(const struct ldr_sigv4 *r)
{
    return r->method && r->path && r->path[0] == '/' && r->payload && r->region && r->service;
}

/* `query` and `headers` are canonical; `date` is X-Amz-Date. */
/* The key for this secret, day, region and service (AWS: "Derive a signing key"). Four HMACs, unless it is kept. */
static bool derive(const struct ldr_sigv4 *r, const struct ldr_cred *c, const char *date, uint8_t key[SHA256_LEN])
{
    struct ldr_buf text = LDR_BUF_INIT(LDR_SIGV4_TEXT_MAX);
    uint8_t of[SHA256_LEN];
    bool ok = ldr_buf_addf(&text, "AWS4%s", c->secret_key);
    size_t n = text.len;

    ok = ok && ldr_buf_addf(&text, "\n%.*s/%s/%s", DAY_LEN, date, r->region, r->service);
    if (!ok || EVP_Digest(text.p, text.len, of, NULL, EVP_sha256(), NULL) != 1) {
        ok = false;
    } else if (r->kept && !CRYPTO_memcmp(of, r->kept->of, sizeof of)) {
        memcpy(key, r->kept->key, SHA256_LEN);
    } else {
        hmac(text.p, n, date, DAY_LEN, key);
        hmac(key, SHA256_LEN, r->region, strlen(r->region), key);
        hmac(key, SHA256_LEN, r->service, strlen(r->service), key);
        hmac(key, SHA256_LEN, "aws4_request", strlen("aws4_request"), key);
        if (r->kept) {
            memcpy(r->kept->of, of, sizeof of);
            memcpy(r->kept->key, key, SHA256_LEN);
        }
    }
    if (text.p)
        OPENSSL_cleanse(text.p, text.room);
    ldr_buf_release(&text);
    return ok;
}

static enum larder_kind sign(const struct ldr_sigv4 *r, const struct ldr_cred *c, const char *date,
                             struct ldr_buf *query, struct ldr_buf *headers, struct ldr_buf *names,
                             char out[LDR_SHA256_HEX_MAX], struct larder_err *err)
{
    struct ldr_buf text = LDR_BUF_INIT(LDR_SIGV4_TEXT_MAX);
    const char *q = ldr_buf_str(query), *h = ldr_buf_str(headers), *s = ldr_buf_str(names);
    uint8_t key[SHA256_LEN];
    char hash[LDR_SHA256_HEX_MAX];
    enum larder_kind k = LARDER_OK;

    assert(is_complete(r));
    if (!q || !h || !s || !ldr_buf_addf(&text, "%s\n%s\n%s\n%s\n%s\n%s", r->method, r->path, q, h, s, r->payload) ||
        !derive(r, c, date, key)) {
        k = too_large(err);
        goto done;
    }
    ldr_sha256_hex(text.p, text.len, hash);
    text.len = 0;
    if (!ldr_buf_addf(&text, ALGORITHM "\n%s\n%.*s/%s/%s/aws4_request\n%s", date, DAY_LEN, date, r->region, r->service,
                      hash)) {
        k = too_large(err);
        goto done;
    }
    hmac(key, sizeof key, (const char *)text.p, text.len, key);
    ldr_hex(key, sizeof key, out);
done:
    OPENSSL_cleanse(key, sizeof key);
    if (text.p)
        OPENSSL_cleanse(text.p, text.room);
    ldr_buf_release(&text);
    return k;
}

enum larder_kind ldr_sigv4_authorization(const struct ldr_sigv4 *r, const struct ldr_cred *c, struct ldr_buf *out,
                                         struct larder_err *err)
{
    struct ldr_buf query = LDR_BUF_INIT(LDR_SIGV4_TEXT_MAX), headers = query, names = query;
    char date[LDR_SIGV4_DATE_MAX], signature[LDR_SHA256_HEX_MAX];
    enum larder_kind k = ldr_sigv4_date(r->time_s, date, err);

    if (!k)
        k = canonical_query(r->query, &query, err);
    if (!k)
        k = canonical_headers(r, &headers, &names, err);
    if (!k)
        k = sign(r, c, date, &query, &headers, &names, signature, err);
    if (!k && !ldr_buf_addf(out, ALGORITHM " Credential=%s/%.*s/%s/%s/aws4_request, SignedHeaders=%s, Signature=%s",
                            c->access_key_id, DAY_LEN, date, r->region, r->service, ldr_buf_str(&names), signature))
        k = too_large(err);
    ldr_buf_release(&query);
    if (headers.p) /* the session token is among them */
        OPENSSL_cleanse(headers.p, headers.room);
    ldr_buf_release(&headers);
    ldr_buf_release(&names);
    return k;
}

enum larder_kind ldr_sigv4_presign(const struct ldr_sigv4 *r, const struct ldr_cred *c, int64_t expires_s,
                                   struct ldr_buf *out, struct larder_err *err)
{
    struct ldr_buf raw = LDR_BUF_INIT(LDR_SIGV4_TEXT_MAX), query = raw, headers = raw, names = raw, scope = raw;
    char date[LDR_SIGV4_DATE_MAX], signature[LDR_SHA256_HEX_MAX];
    enum larder_kind k = LARDER_OK;

    if (expires_s <= 0)
        return ldr_fail(err, LARDER_INVALID, "a signed URL needs a lifetime of at least a second");
    k = ldr_sigv4_date(r->time_s, date, err);
    if (!k)
        k = canonical_headers(r, &headers, &names, err);
    if (k)
        goto done;
    if (!ldr_buf_addf(&scope, "%s/%.*s/%s/%s/aws4_request", c->access_key_id, DAY_LEN, date, r->region, r->service) ||
        !ldr_buf_addf(&raw,
                      "%s&X-Amz-Algorithm=" ALGORITHM "&X-Amz-Date=%s&X-Amz-Expires=%" PRId64 "&X-Amz-Credential=",
                      r->query ? r->query : "", date, expires_s) ||
        !ldr_sigv4_escape(&raw, (const char *)scope.p, false) || !ldr_buf_addf(&raw, "&X-Amz-SignedHeaders=") ||
        !ldr_sigv4_escape(&raw, ldr_buf_str(&names), false) ||
        (c->token && (!ldr_buf_addf(&raw, "&X-Amz-Security-Token=") || !ldr_sigv4_escape(&raw, c->token, false)))) {
        k = too_large(err);
        goto done;
    }
    k = canonical_query(ldr_buf_str(&raw), &query, err);
    if (!k)
        k = sign(r, c, date, &query, &headers, &names, signature, err);
    if (!k && !ldr_buf_addf(out, "%s&X-Amz-Signature=%s", ldr_buf_str(&query), signature))
        k = too_large(err);
done:
    ldr_buf_release(&raw);
    ldr_buf_release(&query);
    if (headers.p) /* the session token is among them */
        OPENSSL_cleanse(headers.p, headers.room);
    ldr_buf_release(&headers);
    ldr_buf_release(&names);
    ldr_buf_release(&scope);
    return k;
}
