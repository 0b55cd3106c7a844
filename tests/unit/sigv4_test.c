/* sigv4_test.c - signatures compared exactly: with those that AWS publishes for S3, and with the URLs of
 * tests/vectors/presign-s3.jsonl. */
#include "backends/sign/sigv4.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef LDR_TEST_VECTORS
#define LDR_TEST_VECTORS "tests/vectors"
#endif

TestSuite(sigv4, .timeout = 20);

/* ---- the examples of the S3 documentation ---- */

#define DOC_TIME_S INT64_C(1369353600) /* 2013-05-24T00:00:00Z */
#define DOC_HOST   "Host: examplebucket.s3.amazonaws.com"
#define DOC_DATE   "x-amz-date: 20130524T000000Z"
#define DOC_SCOPE  "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"

static const struct ldr_cred doc_cred = { .access_key_id = "AKIAIOSFODNN7EXAMPLE",
                                          .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" };

static void check_header(const char *method, const char *path, const char *query, const char *const *headers,
                         const char *payload, const char *signed_headers, const char *signature)
{
    struct ldr_sigv4 r = { .method = method,
                           .path = path,
                           .query = query,
                           .headers = headers,
                           .payload = payload,
                           .region = "us-east-1",
                           .service = "s3",
                           .time_s = DOC_TIME_S };
    struct ldr_buf out = LDR_BUF_INIT(4096);
    struct larder_err err = { 0 };
    char want[1024];

    snprintf(want, sizeof want, "AWS4-HMAC-SHA256 " DOC_SCOPE ", SignedHeaders=%s, Signature=%s", signed_headers,
             signature);
    cr_assert(eq(int, ldr_sigv4_authorization(&r, &doc_cred, &out, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(str, (char *)ldr_buf_str(&out), want));
    ldr_buf_release(&out);
}

Test(sigv4, a_get_with_a_range_is_signed_as_published)
{
    check_header(
        "GET", "/test.txt", NULL,
        (const char *const[]){ DOC_HOST, "Range: bytes=0-9", "x-amz-content-sha256: " LDR_SIGV4_EMPTY, DOC_DATE, NULL },
        LDR_SIGV4_EMPTY, "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

Test(sigv4, a_put_is_signed_as_published)
{
    char hash[LDR_SHA256_HEX_MAX];

    ldr_sha256_hex("Welcome to Amazon S3.", 21, hash);
    cr_assert(eq(str, hash, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"));
    check_header("PUT", "/test%24file.text", "",
                 (const char *const[]){ "Date: Fri, 24 May 2013 00:00:00 GMT", DOC_HOST, DOC_DATE,
                                        "x-amz-storage-class: REDUCED_REDUNDANCY",
                                        "x-amz-content-sha256: "
                                        "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
                                        NULL },
                 hash, "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                 "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

Test(sigv4, a_parameter_without_a_value_is_signed_as_published)
{
    check_header("GET", "/", "lifecycle",
                 (const char *const[]){ DOC_HOST, DOC_DATE, "x-amz-content-sha256: " LDR_SIGV4_EMPTY, NULL },
                 LDR_SIGV4_EMPTY, "host;x-amz-content-sha256;x-amz-date",
                 "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

Test(sigv4, parameters_and_headers_are_signed_in_order_however_they_come)
{
    check_header("GET", "/", "prefix=J&max-keys=2",
                 (const char *const[]){ "X-AMZ-Content-SHA256:   " LDR_SIGV4_EMPTY "  ", DOC_DATE, DOC_HOST, NULL },
                 LDR_SIGV4_EMPTY, "host;x-amz-content-sha256;x-amz-date",
                 "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

Test(sigv4, a_presigned_get_is_signed_as_published)
{
    struct ldr_sigv4 r = { .method = "GET",
                           .path = "/test.txt",
                           .headers = (const char *const[]){ DOC_HOST, NULL },
                           .payload = LDR_SIGV4_UNSIGNED,
                           .region = "us-east-1",
                           .service = "s3",
                           .time_s = DOC_TIME_S };
    struct ldr_buf out = LDR_BUF_INIT(4096);
    struct larder_err err = { 0 };

    cr_assert(eq(int, ldr_sigv4_presign(&r, &doc_cred, 86400, &out, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(str, (char *)ldr_buf_str(&out),
                 "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F"
                 "aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&"
                 "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"));
    ldr_buf_release(&out);
}

/* ---- canonical form ---- */

static void signature_of(const char *query, const char *const *headers, char out[2048])
{
    struct ldr_sigv4 r = { .method = "GET",
                           .path = "/k",
                           .query = query,
                           .headers = headers,
                           .payload = LDR_SIGV4_EMPTY,
                           .region = "r",
                           .service = "s3",
                           .time_s = DOC_TIME_S };
    struct ldr_buf b = LDR_BUF_INIT(2047);
    struct larder_err err = { 0 };

    cr_assert(eq(int, ldr_sigv4_authorization(&r, &doc_cred, &b, &err), LARDER_OK), "%s", err.msg);
    strcpy(out, ldr_buf_str(&b));
    ldr_buf_release(&b);
}

Test(sigv4, blanks_inside_a_header_count_once_and_its_case_counts)
{
    char a[2048], b[2048], c[2048];

    signature_of(NULL, (const char *const[]){ "Host: h", "x-amz-meta-a: one  two\t three ", NULL }, a);
    signature_of(NULL, (const char *const[]){ "X-Amz-Meta-A:one two three", "Host: h", NULL }, b);
    signature_of(NULL, (const char *const[]){ "Host: h", "x-amz-meta-a: One two three", NULL }, c);
    cr_expect(eq(str, a, b));
    cr_expect(ne(str, a, c));
}

Test(sigv4, a_name_sorts_before_a_longer_one_whatever_follows)
{
    static const char *const host[] = { "Host: h", NULL };
    char a[2048], b[2048];

    signature_of("a=9&a-b=1&a=10", host, a); /* '-' is less than '=': the whole text would sort otherwise */
    signature_of("a-b=1&a=10&a=9", host, b);
    cr_expect(eq(str, a, b));
}

Test(sigv4, every_byte_outside_the_plain_ones_is_escaped)
{
    struct ldr_buf out = LDR_BUF_INIT(1024);

    cr_assert(ldr_sigv4_escape(&out, "a/b c+d%e?f#g\xc3\xa9~-_.!*'()\x01\xff", true));
    cr_expect(eq(str, (char *)ldr_buf_str(&out), "a/b%20c%2Bd%25e%3Ff%23g%C3%A9~-_.%21%2A%27%28%29%01%FF"));
    out.len = 0;
    cr_assert(ldr_sigv4_escape(&out, "a/b", false));
    cr_expect(eq(str, (char *)ldr_buf_str(&out), "a%2Fb"));
    ldr_buf_release(&out);
}

Test(sigv4, an_escaped_text_that_does_not_fit_is_refused)
{
    struct ldr_buf out = LDR_BUF_INIT(4);

    cr_expect(not(ldr_sigv4_escape(&out, "ab c", true)));
    ldr_buf_release(&out);
}

/* ---- refusals ---- */

static enum larder_kind refusal(struct ldr_sigv4 r, int64_t expires_s)
{
    struct ldr_buf out = LDR_BUF_INIT(1 << 20);
    struct larder_err err = { 0 };
    enum larder_kind k;

    r.method = "GET";
    r.path = r.path ? r.path : "/";
    r.payload = LDR_SIGV4_EMPTY;
    r.region = "r";
    r.service = "s3";
    k = expires_s ? ldr_sigv4_presign(&r, &doc_cred, expires_s, &out, &err)
                  : ldr_sigv4_authorization(&r, &doc_cred, &out, &err);
    cr_expect(eq(sz, out.len, 0), "a refusal wrote something");
    cr_expect(eq(int, err.kind, k));
    cr_expect(zero(ptr, strstr(err.msg, doc_cred.secret_key)));
    ldr_buf_release(&out);
    return k;
}

Test(sigv4, what_cannot_be_signed_is_refused)
{
    const char *many[LDR_SIGV4_ITEMS_MAX + 2] = { NULL };
    char *query = calloc(1, 4 * (LDR_SIGV4_ITEMS_MAX + 2)), *path = malloc(LDR_SIGV4_TEXT_MAX + 1);

    for (size_t i = 0; i <= LDR_SIGV4_ITEMS_MAX; i++) {
        many[i] = "a: b";
        strcat(query, "a&");
    }
    memset(path, '/', LDR_SIGV4_TEXT_MAX);
    path[LDR_SIGV4_TEXT_MAX] = '\0';
    cr_expect(
        eq(int, refusal((struct ldr_sigv4){ .headers = (const char *const[]){ "Host", NULL } }, 0), LARDER_INVALID));
    cr_expect(
        eq(int, refusal((struct ldr_sigv4){ .headers = (const char *const[]){ ": x", NULL } }, 0), LARDER_INVALID));
    cr_expect(eq(int, refusal((struct ldr_sigv4){ .headers = many }, 0), LARDER_INVALID));
    cr_expect(eq(int, refusal((struct ldr_sigv4){ .query = query }, 0), LARDER_INVALID));
    cr_expect(eq(int, refusal((struct ldr_sigv4){ .path = path }, 0), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, refusal((struct ldr_sigv4){ .time_s = INT64_C(253402300800) }, 0), LARDER_INVALID));
    cr_expect(eq(int, refusal((struct ldr_sigv4){ .time_s = -1 }, 0), LARDER_INVALID));
    cr_expect(eq(int, refusal((struct ldr_sigv4){ .time_s = 0 }, -1), LARDER_INVALID));
    free(query);
    free(path);
}

Test(sigv4, a_url_without_a_lifetime_is_refused)
{
    struct ldr_sigv4 r = {
        .method = "GET", .path = "/", .payload = LDR_SIGV4_UNSIGNED, .region = "r", .service = "s3"
    };
    struct ldr_buf out = LDR_BUF_INIT(4096);
    struct larder_err err = { 0 };

    cr_expect(eq(int, ldr_sigv4_presign(&r, &doc_cred, 0, &out, &err), LARDER_INVALID));
    cr_expect(eq(sz, out.len, 0));
}

/* ---- the vectors ----
 * A vector is a store's settings, a reference, a lifetime: its URL must come out to the last byte. Left out are
 *   `error` vectors (a lifetime of "0s"): reading durations and settings is not the signature's part;
 *   `dots/../x`: the implementation that made the vectors cleans keys, larder sends and signs them as they are. */

static const char *text_of(json_t *v, const char *name)
{
    const char *s = json_string_value(json_object_get(v, name));

    return s ? s : "";
}

/* "192h0m0s", "1.5s": whole seconds, cut. */
static int64_t seconds_of(const char *text)
{
    double total = 0;

    for (char *end; *text; text = end + 1) {
        double n = strtod(text, &end);

        total += *end == 'h' ? n * 3600 : *end == 'm' ? n * 60 : n;
    }
    return (int64_t)total;
}

/* The key of s3://other-bucket/KEY, where KEY is the path of a URL. */
static void key_of(const char *reference, char *out, size_t cap)
{
    const char *p = reference + strlen("s3://other-bucket/");
    size_t n = 0;

    for (; *p && n + 1 < cap; p++, n++) {
        unsigned v;

        if (*p == '%' && sscanf(p + 1, "%2x", &v) == 1) {
            out[n] = (char)v;
            p += 2;
        } else {
            out[n] = *p;
        }
    }
    out[n] = '\0';
}

static void check_vector(json_t *v)
{
    json_t *cfg = json_object_get(v, "config");
    const char *endpoint = text_of(cfg, "endpoint"), *host = strstr(endpoint, "://"), *md5 = text_of(v, "content_md5");
    const char *headers[4] = { NULL };
    struct ldr_cred cred = { .access_key_id = text_of(cfg, "access_key_id"), .secret_key = text_of(cfg, "secret_key") };
    struct ldr_buf path = LDR_BUF_INIT(4096), url = LDR_BUF_INIT(8192);
    struct ldr_sigv4 r = { .headers = headers, .payload = LDR_SIGV4_UNSIGNED, .service = "s3" };
    bool put = !strcmp(text_of(v, "scope"), "Put");
    char host_line[256], md5_line[128], meta_line[128], key[256];
    struct larder_err err = { 0 };
    struct tm tm = { 0 };
    size_t n = 0;

    cr_assert(ne(ptr, strptime(text_of(v, "amz_date"), "%Y%m%dT%H%M%SZ", &tm), NULL));
    r.time_s = timegm(&tm);
    r.method = put ? "PUT" : "GET";
    r.region = *text_of(cfg, "region") ? text_of(cfg, "region") : "us-east-1";
    cred.token = *text_of(cfg, "token") ? text_of(cfg, "token") : NULL;
    host = host ? host + 3 : endpoint;
    snprintf(host_line, sizeof host_line, "Host: %s", host);
    headers[n++] = host_line;
    if (put && *md5) {
        snprintf(md5_line, sizeof md5_line, "Content-MD5: %s", md5);
        headers[n++] = md5_line;
    }
    if (put && json_is_true(json_object_get(v, "add_content_md5_metadata"))) {
        snprintf(meta_line, sizeof meta_line, "x-amz-meta-flyteContentMD5: %s", md5);
        headers[n++] = meta_line;
    }
    key_of(text_of(v, "reference"), key, sizeof key);
    cr_assert(ldr_buf_addf(&path, "/other-bucket/") && ldr_sigv4_escape(&path, key, true));
    r.path = ldr_buf_str(&path);
    cr_assert(
        ldr_buf_addf(&url, "%s://%s%s?", strcmp(text_of(cfg, "disable_ssl"), "true") ? "https" : "http", host, r.path));
    cr_assert(eq(int, ldr_sigv4_presign(&r, &cred, seconds_of(text_of(v, "expires_in")), &url, &err), LARDER_OK), "%s",
              err.msg);
    cr_expect(eq(str, (char *)ldr_buf_str(&url), (char *)text_of(v, "url")), "%s", text_of(v, "name"));
    ldr_buf_release(&path);
    ldr_buf_release(&url);
}

Test(sigv4, presigned_urls_are_those_of_the_vectors)
{
    FILE *f = fopen(LDR_TEST_VECTORS "/presign-s3.jsonl", "r");
    size_t checked = 0, left_out = 0, room = 0;
    char *line = NULL;

    cr_assert(ne(ptr, f, NULL), "tests run from the project's folder");
    while (getline(&line, &room, f) > 0) {
        json_t *v = json_loads(line, 0, NULL);

        cr_assert(ne(ptr, v, NULL));
        if (json_is_true(json_object_get(v, "error")) || strstr(text_of(v, "reference"), "/dots/../")) {
            left_out++;
        } else {
            check_vector(v);
            checked++;
        }
        json_decref(v);
    }
    free(line);
    fclose(f);
    cr_expect(eq(sz, checked, 45));
    cr_expect(eq(sz, left_out, 5));
}
