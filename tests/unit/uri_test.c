/* uri_test.c - references in both dialects. Flyte's is checked against tests/vectors/references.jsonl, line by line. */
#include "common/uri.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef LDR_TEST_VECTORS
#define LDR_TEST_VECTORS "tests/vectors"
#endif

/* ---- the vectors ---- */

static const char *text_of(json_t *vector, const char *name)
{
    const char *s = json_string_value(json_object_get(vector, name));

    return s ? s : "";
}

static bool split_as_told(json_t *vector, char *got, size_t cap)
{
    struct ldr_ref r = { 0 };
    struct larder_err err = { 0 };
    enum larder_kind k = ldr_ref_split(text_of(vector, "reference"), &r, &err);
    bool ok = json_is_true(json_object_get(vector, "error"))
                  ? k == LARDER_INVALID
                  : k == LARDER_OK && !strcmp(r.scheme, text_of(vector, "scheme")) &&
                        !strcmp(r.container, text_of(vector, "container")) && !strcmp(r.key, text_of(vector, "key"));

    if (k)
        snprintf(got, cap, "%s: %s", larder_kind_name(k), err.msg);
    else
        snprintf(got, cap, "(%s, %s, %s)", r.scheme, r.container, r.key);
    ldr_ref_release(&r);
    return ok;
}

static bool text_as_told(json_t *vector, enum larder_kind k, char *text, const struct larder_err *err, char *got,
                         size_t cap)
{
    bool ok = json_is_true(json_object_get(vector, "error"))
                  ? k == LARDER_INVALID
                  : k == LARDER_OK && !strcmp(text, text_of(vector, "result"));

    snprintf(got, cap, "%s", k ? err->msg : text);
    free(text);
    return ok;
}

static bool join_as_told(json_t *vector, char *got, size_t cap)
{
    json_t *list = json_object_get(vector, "keys");
    size_t n = json_array_size(list);
    const char **keys = calloc(n + 1, sizeof *keys);
    struct larder_err err = { 0 };
    char *text = NULL;
    enum larder_kind k;

    for (size_t i = 0; i < n; i++)
        keys[i] = json_string_value(json_array_get(list, i));
    k = ldr_ref_join(text_of(vector, "reference"), keys, n, &text, &err);
    free(keys);
    return text_as_told(vector, k, text, &err, got, cap);
}

static bool new_as_told(json_t *vector, char *got, size_t cap)
{
    json_t *parts = json_object_get(vector, "parts");
    struct larder_err err = { 0 };
    char *text = NULL;
    enum larder_kind k =
        ldr_ref_new(json_string_value(json_array_get(parts, 0)), json_string_value(json_array_get(parts, 1)),
                    json_string_value(json_array_get(parts, 2)), &text, &err);

    return text_as_told(vector, k, text, &err, got, cap);
}

Test(uri, every_vector_of_flytes_dialect_holds)
{
    FILE *f = fopen(LDR_TEST_VECTORS "/references.jsonl", "r");
    size_t lines = 0, cap = 0;
    char *line = NULL, got[2048];

    cr_assert(ne(ptr, f, NULL), "no " LDR_TEST_VECTORS "/references.jsonl: run from the root of the sources");
    while (getline(&line, &cap, f) > 0) {
        json_t *vector = json_loads(line, 0, NULL);
        const char *op = vector ? text_of(vector, "op") : "";
        bool ok = false;

        got[0] = '\0';
        if (!strcmp(op, "split"))
            ok = split_as_told(vector, got, sizeof got);
        else if (!strcmp(op, "construct"))
            ok = join_as_told(vector, got, sizeof got);
        else if (!strcmp(op, "new"))
            ok = new_as_told(vector, got, sizeof got);
        cr_expect(ok, "line %zu: %s  got %s", lines + 1, line, got);
        json_decref(vector);
        lines++;
    }
    fclose(f);
    free(line);
    cr_expect(ge(sz, lines, 222), "only %zu vectors", lines);
}

/* ---- Flyte's dialect beyond the vectors ---- */

static const char *split(const char *reference)
{
    static char out[4096]; /* each test is a process of its own */
    struct ldr_ref r = { 0 };
    struct larder_err err = { 0 };
    enum larder_kind k = ldr_ref_split(reference, &r, &err);

    if (k)
        return larder_kind_name(k);
    snprintf(out, sizeof out, "%s|%s|%s", r.scheme, r.container, r.key);
    ldr_ref_release(&r);
    return out;
}

static const char *join(const char *base, const char *key1, const char *key2)
{
    static char out[4096];
    struct larder_err err = { 0 };
    char *text = NULL;
    enum larder_kind k = ldr_ref_join(base, (const char *[]){ key1, key2 }, key2 ? 2 : key1 ? 1 : 0, &text, &err);

    if (k)
        return larder_kind_name(k);
    snprintf(out, sizeof out, "%s", text);
    free(text);
    return out;
}

static bool is(const char *got, const char *want)
{
    if (strcmp(got, want))
        fprintf(stderr, "got \"%s\", want \"%s\"\n", got, want);
    return !strcmp(got, want);
}

Test(uri, a_split_takes_the_user_name_as_container_for_azure_alone)
{
    cr_expect(is(split("abfs://cont@acct.example/p"), "abfs|cont|p"));
    cr_expect(is(split("ABFSS://cont:pw@acct.example/p"), "abfss|cont|p"));
    cr_expect(is(split("abfs://c%20d@acct/p"), "abfs|c d|p"));
    cr_expect(is(split("abfs://@acct/p"), "abfs|acct|p"));
    cr_expect(is(split("abfs://:pw@acct/p"), "abfs|acct|p"));
    cr_expect(is(split("s3://a@b@bucket/p"), "s3|bucket|p"));
    cr_expect(is(split("s3://a b@bucket/p"), "invalid"));
    cr_expect(is(split("s3://a%2@bucket/p"), "invalid"));
}

Test(uri, a_split_checks_the_host)
{
    cr_expect(is(split("s3://b%C3%BCcket/k"), "s3|bücket|k"));
    cr_expect(is(split("s3://b%41/k"), "invalid"));
    cr_expect(is(split("s3://b%25/k"), "s3|b%|k"));
    cr_expect(is(split("s3://b c/k"), "invalid"));
    cr_expect(is(split("s3://b\\c/k"), "invalid"));
    cr_expect(is(split("s3://b:80:90/k"), "s3|b:80:90|k"));
    cr_expect(is(split("s3://b:/k"), "s3|b:|k"));
    cr_expect(is(split("s3://b:-1/k"), "invalid"));
    cr_expect(is(split("s3://x[::1]/k"), "invalid"));
    cr_expect(is(split("s3://[::1]x/k"), "invalid"));
    cr_expect(is(split("s3://[1.2.3.4]/k"), "invalid"));
    cr_expect(is(split("s3://[]/k"), "invalid"));
    cr_expect(is(split("s3://[/k"), "invalid"));
    cr_expect(is(split("s3://[fe80::1%25en%200]:9/k"), "s3|[fe80::1%en 0]:9|k"));
    cr_expect(is(split("s3://[fe80::1%25]/k"), "invalid"));
    cr_expect(is(split("s3://[fe80::1%25%0a]/k"), "invalid"));
    cr_expect(is(split("s3://[1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb]/k"), "invalid"));
}

Test(uri, a_split_decodes_the_path_once_and_trims_its_slashes)
{
    cr_expect(is(split("s3://b/%2525"), "s3|b|%25"));
    cr_expect(is(split("s3://b/%2Fa%2f/"), "s3|b|a"));
    cr_expect(is(split("s3://b////"), "s3|b|"));
    cr_expect(is(split("s3://b/a+b"), "s3|b|a+b"));
    cr_expect(is(split("s3://b/%"), "invalid"));
    cr_expect(is(split("s3://b/%4"), "invalid"));
    cr_expect(is(split("s3://b/%4g"), "invalid"));
    cr_expect(is(split("s3://b/a%00b"), "invalid"));
    cr_expect(is(split("abfs://a%00b@h/k"), "invalid"));
}

Test(uri, a_split_drops_query_and_fragment_but_checks_the_fragment)
{
    cr_expect(is(split("s3://b/a?%zz\xff"), "s3|b|a"));
    cr_expect(is(split("s3://b/a#\n"), "s3|b|a"));
    cr_expect(is(split("s3://b/a#%zz"), "invalid"));
    cr_expect(is(split("s3://b/a?\n"), "invalid"));
    cr_expect(is(split("s3://b?c/d"), "s3|b|"));
}

Test(uri, a_split_of_a_relative_reference_has_neither_scheme_nor_container)
{
    cr_expect(is(split(""), "||"));
    cr_expect(is(split("//host/p"), "|host|p"));
    cr_expect(is(split("///host/p"), "||host/p"));
    cr_expect(is(split("1s3://b/k"), "invalid"));
    cr_expect(is(split("s_3://b/k"), "invalid"));
    cr_expect(is(split("a/b:c"), "||a/b:c"));
    cr_expect(is(split("S3:opaque"), "s3||"));
}

Test(uri, a_join_resolves_dots_within_the_bucket)
{
    cr_expect(is(join("s3://b/x/y", "../../../../z", NULL), "s3://b/z"));
    cr_expect(is(join("s3://b/x", "a/./b/..", NULL), "s3://b/x/a/"));
    cr_expect(is(join("s3://b/x", "a/.", NULL), "s3://b/x/a/"));
    cr_expect(is(join("s3://b", "a/..//c", NULL), "s3://b/c"));
    cr_expect(is(join("s3://b/x", "...", NULL), "s3://b/x/..."));
    cr_expect(is(join("s3://b/x", "%2e%2e", "y"), "s3://b/x/%2e%2e/y"));
}

Test(uri, a_join_keeps_the_authority_of_its_base_escaped)
{
    cr_expect(is(join("S3://a!b:p%2Fw@b%C3%BC/x", "k", NULL), "s3://a%21b:p%2Fw@b%C3%BC/x/k"));
    cr_expect(is(join("s3://a:@b", "k", NULL), "s3://a:@b/k"));
    cr_expect(is(join("s3://@b", "k", NULL), "s3://@b/k"));
    cr_expect(is(join("s3://[fe80::1%25e%20n]:9", "k", NULL), "s3://[fe80::1%25e%20n]:9/k"));
}

Test(uri, a_join_takes_keys_as_references)
{
    cr_expect(is(join("s3://b/x", "", "//other/k"), "s3://b/other/k"));
    cr_expect(is(join("s3://b/x", "s3:/k", NULL), "s3:/k"));
    cr_expect(is(join("s3://b/x", "s3:k", NULL), "s3:k"));
    cr_expect(is(join("s3://b/x", "S3://c/../k?q#f", NULL), "s3://c/k?q#f"));
    cr_expect(is(join("s3://b/x", "?", NULL), "s3://b/x/?"));
    cr_expect(is(join("s3://b/x", "#a b", NULL), "s3://b/x/#a%20b"));
    cr_expect(is(join("s3://b/x#f", "?q", NULL), "s3://b/x?q"));
    cr_expect(is(join("s3:opaque", NULL, NULL), "s3:opaque/"));
    cr_expect(is(join("s3:opaque", "k", NULL), "s3:///k"));
    cr_expect(is(join("", "%2A", NULL), "/*"));
    cr_expect(is(join("s3://b", "a%2ab c", NULL), "s3://b/a%2Ab%20c"));
    cr_expect(is(join("s3://b", "1:2", NULL), "invalid"));
    cr_expect(is(join("s3://b", ":x", NULL), "invalid"));
    cr_expect(is(join("s3://b c", "x", NULL), "invalid"));
    cr_expect(is(join("s3://b", "x\x7f", NULL), "invalid"));
}

Test(uri, a_joined_reference_splits_into_what_was_joined)
{
    const char *keys[] = { "plain",  "a b",         "ümlaut",   "a+b=c",   "tilde~",    "semi;colon,comma",
                           "x/y//z", "back\\slash", "quote\"'", "<>{}|^`", "[brackets]" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(keys); i++) {
        char want[128];

        snprintf(want, sizeof want, "s3|b|p q/%s", keys[i]);
        cr_expect(is(split(join("s3://b/p q", keys[i], NULL)), want));
    }
}

Test(uri, a_failed_split_or_join_changes_nothing)
{
    struct ldr_ref r = { .scheme = (char *)(uintptr_t)1 };
    char *text = (char *)(uintptr_t)1;

    cr_expect(eq(int, ldr_ref_split("s3://b/%zz", &r, NULL), LARDER_INVALID));
    cr_expect(eq(ptr, r.scheme, (void *)(uintptr_t)1));
    cr_expect(eq(int, ldr_ref_join("s3://b", (const char *[]){ "%zz" }, 1, &text, NULL), LARDER_INVALID));
    cr_expect(eq(ptr, text, (void *)(uintptr_t)1));
}

Test(uri, no_message_shows_a_password_or_a_signature)
{
    static const char *const refs[] = { "s3://AK:hidden@bucket/%zz?hidden",
                                        "s3://AK:hid/den@bucket/k%",
                                        "s3:AK:hidden@bucket",
                                        "https://b/k%zz?X-Amz-Signature=hidden",
                                        "AK:hidden@bucket",
                                        "https://b/k%?a@hidden",
                                        "s3://AK:hid?den@b/k%",
                                        "s3://AK:hidden@/k",
                                        "s3://AK:hidden@bucket" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(refs); i++) {
        struct larder_err err = { 0 };
        struct ldr_ref r = { 0 };
        struct ldr_uri u;

        if (ldr_ref_split(refs[i], &r, &err))
            cr_expect(eq(ptr, strstr(err.msg, "hid"), NULL), "%s", err.msg);
        if (ldr_uri_parse(refs[i], &u, &err))
            cr_expect(eq(ptr, strstr(err.msg, "hid"), NULL), "%s", err.msg);
        ldr_ref_release(&r);
    }
}

/* ---- the literal dialect ---- */

static const char *parse(const char *text)
{
    static char out[LDR_URI_MAX + 64];
    struct ldr_uri u;
    struct larder_err err = { 0 };
    enum larder_kind k = ldr_uri_parse(text, &u, &err);

    if (k)
        return larder_kind_name(k);
    snprintf(out, sizeof out, "%s|%.*s|%.*s", u.scheme, (int)u.container_len, u.container, (int)u.key_len, u.key);
    return out;
}

static const char *canonical(const char *text)
{
    static char out[LDR_URI_MAX + 1];
    struct ldr_uri u;

    if (ldr_uri_parse(text, &u, NULL))
        return "invalid";
    cr_expect(eq(sz, ldr_uri_text(&u, out), strlen(out)));
    return out;
}

Test(uri, a_literal_key_is_everything_behind_the_first_slash)
{
    cr_expect(is(parse("s3://bucket/a/b/c.txt"), "s3|bucket|a/b/c.txt"));
    cr_expect(is(parse("s3://bucket/a%20b?x=1#f"), "s3|bucket|a%20b?x=1#f"));
    cr_expect(is(parse("s3://bucket//a//"), "s3|bucket|/a//"));
    cr_expect(is(parse("s3://bucket/../x"), "s3|bucket|../x"));
    cr_expect(is(parse("s3://bucket/ "), "s3|bucket| "));
    cr_expect(is(parse("s3://bucket/a\nb\x01\xff"), "s3|bucket|a\nb\x01\xff"));
    cr_expect(is(parse("s3://bucket/a@b:c"), "s3|bucket|a@b:c"));
    cr_expect(is(parse("s3://bucket/s3://other/k"), "s3|bucket|s3://other/k"));
    cr_expect(is(parse("redis://localhost:6379/k"), "redis|localhost:6379|k"));
    cr_expect(is(parse("file://box/dir/f"), "file|box|dir/f"));
}

Test(uri, a_literal_scheme_is_lower_cased)
{
    cr_expect(is(parse("S3://Bucket/Key"), "s3|Bucket|Key"));
    cr_expect(is(parse("A+b.C-1://h/k"), "a+b.c-1|h|k"));
    cr_expect(is(parse("abcdefghijklmno://h/k"), "abcdefghijklmno|h|k"));
    cr_expect(is(parse("abcdefghijklmnop://h/k"), "invalid"));
}

Test(uri, literal_user_information_is_dropped_but_for_azure)
{
    cr_expect(is(parse("s3://ak:sk@bucket/key"), "s3|bucket|key"));
    cr_expect(is(parse("s3://ak@bucket/key"), "s3|bucket|key"));
    cr_expect(is(parse("s3://@bucket/key"), "s3|bucket|key"));
    cr_expect(is(parse("s3://a@b@bucket/key"), "s3|bucket|key"));
    cr_expect(is(parse("s3://ak@/key"), "invalid"));
    cr_expect(is(parse("abfs://cont@account.host/k"), "abfs|cont|k"));
    cr_expect(is(parse("ABFSS://cont@account.host/k"), "abfs|cont|k"));
    cr_expect(is(parse("abfss://cont:pw@account.host/k@v"), "abfs|cont|k@v"));
    cr_expect(is(parse("abfss://cont/k"), "abfs|cont|k"));
    cr_expect(is(parse("abfs://@cont/k"), "abfs|cont|k"));
    cr_expect(is(parse("abfs://:pw@cont/k"), "abfs|cont|k"));
    cr_expect(is(parse("abfs://cont@/k"), "abfs|cont|k"));
    cr_expect(is(parse("abfs://a@b@host/k"), "invalid"));
    cr_expect(is(parse("abfsx://cont@host/k"), "abfsx|host|k"));
}

Test(uri, a_literal_without_scheme_container_or_key_is_invalid)
{
    static const char *const bad[] = { "",           "s3",          "s3:",          "s3:/",       "s3://",
                                       "s3:///",     "s3:///k",     "s3://b",       "s3://b/",    "/abs/path",
                                       "rel/path",   "://b/k",      "3s://b/k",     "s 3://b/k",  "s3:/b/k",
                                       "s3:b/k",     "s3;//b/k",    "é://b/k",      "s3://b\n/k", "s3://b\x7f/k",
                                       "s3://\tb/k", "file:///abs", "file:/abs/x",  "*",          "-s3://b/k",
                                       "s3://b?k",   "mem://x",     "s3://u:p@b",   " s3://b/k",  "s3://@/k",
                                       "\xff\xfe",   "file://",     "file:rel/dir", "s3\n://b/k", "abfs://@/k" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        struct ldr_uri u;
        struct larder_err err = { 0 };

        cr_expect(eq(int, ldr_uri_parse(bad[i], &u, &err), LARDER_INVALID), "\"%s\" was accepted", bad[i]);
        cr_expect(eq(int, err.kind, LARDER_INVALID));
        cr_expect(ne(sz, strlen(err.msg), 0));
    }
}

Test(uri, an_absolute_file_is_told_how_local_objects_are_named)
{
    struct ldr_uri u;
    struct larder_err err = { 0 };

    cr_expect(eq(int, ldr_uri_parse("file:///etc/passwd", &u, &err), LARDER_INVALID));
    cr_expect(ne(ptr, strstr(err.msg, "file://CONTAINER/KEY"), NULL), "%s", err.msg);
    cr_expect(ne(ptr, strstr(err.msg, "file:///etc/passwd"), NULL), "%s", err.msg);
    cr_expect(eq(int, ldr_uri_parse("file:///", &u, &err), LARDER_INVALID));
    cr_expect(ne(ptr, strstr(err.msg, "file://CONTAINER/KEY"), NULL), "%s", err.msg);
}

/* scheme://, n times 'c', '/', m times 'k' */
static char *long_reference(const char *scheme, size_t n, size_t m)
{
    char *text = malloc(strlen(scheme) + 3 + n + 1 + m + 1), *p = text;

    p = stpcpy(stpcpy(p, scheme), "://");
    p = (char *)memset(p, 'c', n) + n;
    *p++ = '/';
    p = (char *)memset(p, 'k', m) + m;
    *p = '\0';
    return text;
}

Test(uri, the_longest_literal_fits_and_one_byte_more_is_refused)
{
    char *full = long_reference("abcdefghijklmno", LDR_CONTAINER_MAX, LDR_KEY_MAX);
    char *container = long_reference("s3", LDR_CONTAINER_MAX + 1, 1), *key = long_reference("s3", 1, LDR_KEY_MAX + 1);

    cr_expect(eq(sz, strlen(full), LDR_URI_MAX));
    cr_expect(is(canonical(full), full));
    cr_expect(is(parse(container), "invalid"));
    cr_expect(is(parse(key), "invalid"));
    free(full);
    free(container);
    free(key);
}

Test(uri, a_refused_literal_leaves_the_result_alone)
{
    struct ldr_uri u = { .key_len = 42 };

    cr_expect(eq(int, ldr_uri_parse("s3://b/", &u, NULL), LARDER_INVALID));
    cr_expect(eq(sz, u.key_len, 42));
}

Test(uri, a_long_reference_is_clipped_in_messages_between_characters)
{
    char text[1024] = "";
    struct ldr_uri u;
    struct larder_err err = { 0 };
    size_t n;

    for (int i = 0; i < 300; i++)
        strcat(text, "é");
    cr_expect(eq(int, ldr_uri_parse(text, &u, &err), LARDER_INVALID));
    n = strspn(err.msg + strlen("reference \""), "é");
    cr_expect(eq(sz, n % 2, 0));
    cr_expect(le(sz, n, 200));
}

Test(uri, the_canonical_text_of_a_canonical_text_is_itself)
{
    static const char *const refs[] = { "s3://b/k",         "S3://u:p@B/K",   "abfss://c@h/k",  "ABFS://:p@h/k",
                                        "abfs://c:p@x@h/k", "s3://a@b@c/k@l", "file://x/y//z/", "redis://h:6379/a b",
                                        "s3://b//",         "gs://b/%2F?#" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(refs); i++) {
        char once[LDR_URI_MAX + 1];

        cr_assert(ne(ptr, strchr(strcpy(once, canonical(refs[i])), '/'), NULL), "%s", refs[i]);
        cr_expect(is(canonical(once), once));
    }
}

Test(uri, spellings_of_one_object_have_one_canonical_text)
{
    cr_expect(is(canonical("ABFSS://cont@account.host/dir/k"), "abfs://cont/dir/k"));
    cr_expect(is(canonical("abfs://cont/dir/k"), "abfs://cont/dir/k"));
    cr_expect(is(canonical("S3://ak:sk@bucket/k"), "s3://bucket/k"));
}

Test(uri, a_reference_of_flytes_dialect_and_the_literal_one_meet_in_one_canonical_text)
{
    struct ldr_ref r = { 0 };
    char *text = NULL;

    cr_assert(eq(int, ldr_ref_split("abfss://cont@host/a%20b%3Fc/?q", &r, NULL), LARDER_OK));
    cr_assert(eq(int, ldr_ref_new(r.scheme, r.container, r.key, &text, NULL), LARDER_OK));
    cr_expect(is(canonical(text), "abfs://cont/a b?c"));
    free(text);
    ldr_ref_release(&r);
}

/* ---- the index key ---- */

Test(uri, an_index_key_is_the_text_up_to_480_bytes)
{
    for (size_t len = 479; len <= 481; len++) {
        uint8_t key[LDR_INDEX_KEY_MAX];
        char *text = long_reference("s3", 6, len - 12);
        size_t n = ldr_index_key(text, len, key);

        cr_assert(eq(sz, strlen(text), len));
        cr_expect(eq(sz, n, len <= 480 ? len : 440 + 1 + 16));
        cr_expect(eq(int, memcmp(key, text, len <= 480 ? len : 440), 0));
        cr_expect(eq(int, memchr(key, 0, n) != NULL, len > 480));
        free(text);
    }
}

Test(uri, a_shortened_index_key_is_its_prefix_a_nul_and_the_hash_of_the_whole)
{
    /* XXH3-128 of "s3://cccccc/" and 488 times 'k', most significant byte first */
    static const uint8_t hash[16] = { 0x4d, 0xb0, 0xe6, 0x1b, 0xce, 0x2a, 0x55, 0x33,
                                      0x22, 0x77, 0x6a, 0x35, 0xf3, 0x6d, 0xdc, 0xba };
    uint8_t key[LDR_INDEX_KEY_MAX];
    char *text = long_reference("s3", 6, 488);

    cr_assert(eq(sz, ldr_index_key(text, 500, key), 457));
    cr_expect(eq(int, memcmp(key, text, 440), 0));
    cr_expect(eq(int, key[440], 0));
    cr_expect(eq(int, memcmp(key + 441, hash, 16), 0));
    free(text);
}

Test(uri, long_texts_with_one_beginning_have_different_index_keys)
{
    uint8_t keys[64][LDR_INDEX_KEY_MAX];
    char *text = long_reference("s3", 6, 1000);
    size_t len = strlen(text);

    for (size_t i = 0; i < 64; i++) {
        text[440 + i * 8] = 'x'; /* all share their first 440 bytes */
        ldr_index_key(text, len, keys[i]);
        for (size_t j = 0; j < i; j++)
            cr_expect(ne(int, memcmp(keys[i], keys[j], 457), 0));
    }
    cr_expect(ne(sz, ldr_index_key(text, len, keys[0]), 0));
    ldr_index_key(text, len - 1, keys[1]);
    cr_expect(ne(int, memcmp(keys[0], keys[1], 457), 0), "the length counts");
    free(text);
}
