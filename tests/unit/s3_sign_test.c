/* s3_sign_test.c - signed URLs of the s3 backend under a pinned clock: the vectors that Flyte's storage layer gave
 * (tests/vectors/presign-s3.jsonl), but for what larder does otherwise on purpose; then lifetimes and what is signed. */
#include "backends/s3_impl.h"
#include "common/uri.h"
#include "tests/support/backend_driver.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DAY_S 86400

static struct bd *bd;
static struct ldr_signing s;
static struct larder_err err;

static void release(void)
{
    ldr_buf_release(&s.url);
    ldr_buf_release(&s.headers);
    bd_close(&bd);
}

TestSuite(s3_sign, .fini = release, .timeout = 60);

static void open_with(const char *const settings[])
{
    bd_close(&bd);
    cr_assert(eq(int, bd_open("s3", "s3", settings, &bd, &err), LARDER_OK), "%s", err.msg);
}

static enum larder_kind sign(const char *bucket, const char *key, const struct ldr_cred *cred, int64_t now_s,
                             const struct ldr_signing *what)
{
    struct ldr_op op = { .what = LDR_OP_SIGN, .uri = "s3://the/object", .container = bucket, .key = key, .sign = &s };

    ldr_buf_release(&s.url);
    ldr_buf_release(&s.headers);
    s = *what;
    return ldr_s3_sign_at((struct s3 *)bd_backend(bd), &op, cred, now_s, &err);
}

#define URL     ((char *)(uintptr_t)ldr_buf_str(&s.url))
#define HEADERS ((char *)(uintptr_t)ldr_buf_str(&s.headers))

/* ---- the vectors ---- */

/* What larder does otherwise, on purpose. */
static const struct {
    const char *name; /* the end of the vectors' names */
    const char *text; /* that the URL has, instead of being equal */
} fixes[] = {
    { "-6", "X-Amz-Expires=604800&" },        /* 8 days: stores accept 7 */
    { "/0-6-1", "/other-bucket/dots/../x?" }, /* a key is sent as it is, not cleaned like a path */
    { "/2-6-1", "/other-bucket/dots/../x?" },
};

static const char *fix_of(const char *name)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(fixes); i++) {
        size_t n = strlen(name), m = strlen(fixes[i].name);

        if (n >= m && !strcmp(name + n - m, fixes[i].name))
            return fixes[i].text;
    }
    return NULL;
}

/* Whole seconds of "1h0m0s", "1.5s". */
static int64_t seconds(const char *text)
{
    double total = 0;

    for (char *end; *text; text = end + 1) {
        double n = strtod(text, &end);

        total += n * (*end == 'h' ? 3600 : *end == 'm' ? 60 : 1);
    }
    return (int64_t)total;
}

static const char *text_of(const json_t *v, const char *name)
{
    return json_string_value(json_object_get(v, name));
}

static void open_vector(const json_t *v)
{
    const char *settings[17] = { NULL }, *name;
    size_t n = 0;
    json_t *value;

    json_object_foreach(json_object_get(v, "config"), name, value)
    {
        cr_assert(n + 2 < LDR_ARRAY_LEN(settings));
        settings[n++] = name;
        settings[n++] = json_string_value(value);
    }
    open_with(settings);
}

/* Theirs, without Content-Length, which was the length of the MD5's text, and without an MD5 that is empty. */
static void check_headers(const json_t *v)
{
    char line[256];
    const char *name;
    json_t *value;
    size_t n = 0;

    json_object_foreach(json_object_get(v, "headers"), name, value)
    {
        if (!strcmp(name, "Content-Length") || !json_string_length(value))
            continue;
        snprintf(line, sizeof line, "%s: %s\n", name, json_string_value(value));
        cr_expect(strstr(HEADERS, line) != NULL, "%s: %s in %s", text_of(v, "name"), line, HEADERS);
        n += strlen(line);
    }
    cr_expect(eq(sz, strlen(HEADERS), n), "%s: nothing else: %s", text_of(v, "name"), HEADERS);
}

static void check_vector(const json_t *v)
{
    const json_t *config = json_object_get(v, "config");
    const char *name = text_of(v, "name");
    const struct ldr_cred cred = { .access_key_id = text_of(config, "access_key_id"),
                                   .secret_key = text_of(config, "secret_key"),
                                   .token = text_of(config, "token") };
    bool fails = json_is_true(json_object_get(v, "error"));
    struct tm tm = { 0 };
    struct ldr_ref ref;
    enum larder_kind k;

    cr_assert(eq(int, ldr_ref_split(text_of(v, "reference"), &ref, &err), LARDER_OK), "%s", err.msg);
    cr_assert(fails || strptime(text_of(v, "amz_date"), "%Y%m%dT%H%M%SZ", &tm));
    open_vector(v);
    k = sign(ref.container, ref.key, &cred, timegm(&tm),
             &(struct ldr_signing){ .put = !strcmp(text_of(v, "scope"), "Put"),
                                    .lifetime_s = seconds(text_of(v, "expires_in")),
                                    .content_md5 = text_of(v, "content_md5"),
                                    .md5_in_metadata = json_is_true(json_object_get(v, "add_content_md5_metadata")) });
    cr_assert(eq(int, k, fails ? LARDER_INVALID : LARDER_OK), "%s: %s", name, err.msg);
    ldr_ref_release(&ref);
    if (fails)
        return;
    if (fix_of(name))
        cr_expect(strstr(URL, fix_of(name)) != NULL, "%s: %s", name, URL);
    else
        cr_expect(eq(str, URL, (char *)(uintptr_t)text_of(v, "url")), "%s", name);
    check_headers(v);
}

Test(s3_sign, each_vector_gives_its_url)
{
    FILE *f = fopen(LDR_TEST_VECTORS "/presign-s3.jsonl", "re");
    char line[16384];
    size_t n = 0, fixed = 0;

    cr_assert(f != NULL);
    for (; fgets(line, sizeof line, f); n++) {
        json_t *v = json_loads(line, 0, NULL);

        cr_assert(v != NULL);
        fixed += fix_of(text_of(v, "name")) != NULL;
        check_vector(v);
        json_decref(v);
    }
    fclose(f);
    cr_expect(eq(sz, n, 50));
    cr_expect(eq(sz, fixed, 5));
}

/* ---- what the vectors do not show ---- */

static const struct ldr_cred forever = { .access_key_id = "id", .secret_key = "secret" };
#define NOW 1800000000

static void open_plain(const char *name, const char *value, const char *name2, const char *value2)
{
    open_with((const char *[]){ "access_key_id", "id", "secret_key", "secret", "endpoint", "http://inside.test:9000",
                                "region", "here-1", name, value, name2, value2, NULL });
}

Test(s3_sign, a_url_lives_no_longer_than_its_credentials)
{
    const struct ldr_cred session = { .access_key_id = "id", .secret_key = "s", .token = "t", .expires_s = NOW + 90 };

    open_plain(NULL, NULL, NULL, NULL);
    cr_assert(eq(int, sign("b", "k", &session, NOW, &(struct ldr_signing){ .lifetime_s = 3600 }), LARDER_OK));
    cr_expect(strstr(URL, "X-Amz-Expires=90&") != NULL, "%s", URL);
    cr_expect(eq(i64, s.expires_s, NOW + 90));
    cr_assert(eq(int, sign("b", "k", &session, NOW, &(struct ldr_signing){ .lifetime_s = 60 }), LARDER_OK));
    cr_expect(eq(i64, s.expires_s, NOW + 60));
    cr_expect(eq(int, sign("b", "k", &session, NOW + 90, &(struct ldr_signing){ .lifetime_s = 60 }), LARDER_DENIED));
    cr_assert(eq(int, sign("b", "k", &forever, NOW, &(struct ldr_signing){ .lifetime_s = INT64_MAX }), LARDER_OK));
    cr_expect(eq(i64, s.expires_s, NOW + 7 * DAY_S));
    cr_expect(strstr(URL, "secret") == NULL);
}

Test(s3_sign, nobody_signs_without_credentials)
{
    const struct ldr_cred none = { .anonymous = true, .access_key_id = "", .secret_key = "" };

    open_plain(NULL, NULL, NULL, NULL);
    cr_expect(eq(int, sign("b", "k", &none, NOW, &(struct ldr_signing){ .lifetime_s = 1 }), LARDER_UNSUPPORTED));
    cr_expect(eq(str, URL, ""));
}

Test(s3_sign, an_endpoint_of_their_own_is_what_urls_name)
{
    open_plain("signing_endpoint", "https://outside.test/s3", NULL, NULL);
    cr_assert(eq(int, sign("b", "a//../b", &forever, NOW, &(struct ldr_signing){ .lifetime_s = 1 }), LARDER_OK));
    cr_expect(eq(int, strncmp(URL, "https://outside.test/s3/b/a//../b?", 34), 0), "%s", URL);
    cr_expect(strstr(URL, "%2Fhere-1%2Fs3%2F") != NULL, "%s", URL);
}

Test(s3_sign, what_the_store_is_configured_to_write_with_is_signed_too)
{
    open_plain("storage_class", "STANDARD_IA", NULL, NULL);
    cr_assert(eq(int, sign("b", "k", &forever, NOW, &(struct ldr_signing){ .put = true, .lifetime_s = 1 }), LARDER_OK));
    cr_expect(eq(str, HEADERS, "x-amz-storage-class: STANDARD_IA\n"));
    cr_expect(strstr(URL, "SignedHeaders=host%3Bx-amz-storage-class") != NULL, "%s", URL);
    cr_assert(eq(int, sign("b", "k", &forever, NOW, &(struct ldr_signing){ .lifetime_s = 1 }), LARDER_OK));
    cr_expect(eq(str, HEADERS, ""), "a get writes nothing");
}

Test(s3_sign, a_header_with_a_line_end_is_refused)
{
    open_plain(NULL, NULL, NULL, NULL);
    cr_expect(eq(int,
                 sign("b", "k", &forever, NOW,
                      &(struct ldr_signing){ .put = true, .lifetime_s = 1, .content_md5 = "x\r\nHost: other" }),
                 LARDER_INVALID));
    cr_expect(eq(str, URL, ""));
}
