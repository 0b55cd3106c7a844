/* backend_test.c - the rules of backend.h, held against every backend: local, memory, and s3 on a real server
 * (versitygw) and on the test server; then what only a server that fails on demand can show of s3. */
#include "tests/support/backend_driver.h"
#include "tests/support/s3_servers.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* What the test at hand runs on; each test is a process. */
static struct {
    const char *name;
    struct bd *bd;
    struct s3_server server;
    char dir[TEST_DIR_MAX];
    bool buckets_must_exist; /* else a put makes the container */
    bool any_key;            /* holds every key of up to 1024 bytes, as S3 does */
    bool refuses_odd_keys;   /* says INVALID to keys that it cannot hold; else: undefined here */
} on;

static struct bd_result r; /* of the last call */

#define C S3_BUCKET

/* ---- the backends ---- */

static void open_on(const char *name, const char *kind, const char *scheme, const char *const settings[])
{
    struct larder_err err = { 0 };

    on.name = name;
    cr_assert(eq(int, bd_open(kind, scheme, settings, &on.bd, &err), LARDER_OK), "%s: %s", name, err.msg);
}

static void open_s3(const char *key_id, const char *secret)
{
    bd_close(&on.bd);
    open_on("s3", "s3", "s3",
            (const char *[]){ "endpoint", on.server.endpoint, "region", "us-east-1", "access_key_id", key_id,
                              "secret_key", secret, NULL });
}

static void open_local(void)
{
    test_dir_make(on.dir);
    on.refuses_odd_keys = true;
    open_on("local", "local", "file", (const char *[]){ "path", on.dir, NULL });
}

static void open_memory(void)
{
    on.any_key = true;
    open_on("memory", "memory", "mem", NULL);
}

/* Without its server a test says nothing: that is a skip that nobody can miss, or a failure where servers are due. */
static void need(bool started, const char *reason)
{
    if (started)
        return;
    if (s3_servers_required())
        cr_fatal("%s", reason);
    fprintf(stderr, "SKIPPED: %s\n", reason);
    test_dir_remove(on.dir);
    cr_skip("%s", reason);
}

static void open_s3_on_versitygw(void)
{
    char reason[512];

    test_dir_make(on.dir);
    need(s3_server_start_versitygw(&on.server, on.dir, reason, sizeof reason), reason);
    on.buckets_must_exist = true;
    open_s3(S3_ACCESS_KEY, S3_SECRET_KEY);
}

static void open_s3_on_test_server(void)
{
    char reason[512];

    test_dir_make(on.dir);
    need(s3_server_start_test(&on.server, on.dir, reason, sizeof reason), reason);
    on.buckets_must_exist = on.any_key = true;
    open_s3(S3_ACCESS_KEY, S3_SECRET_KEY);
}

static void close_store(void)
{
    bd_result_release(&r);
    bd_close(&on.bd);
    s3_server_stop(&on.server);
    test_dir_remove(on.dir);
}

TestSuite(backend, .fini = close_store, .timeout = 120);
TestSuite(s3, .fini = close_store, .timeout = 120);

/* One body, one test a backend. */
#define FOR_EVERY_BACKEND(name)                                                                                        \
    static void name(void);                                                                                            \
    Test(backend, name##__local)                                                                                       \
    {                                                                                                                  \
        open_local();                                                                                                  \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(backend, name##__memory)                                                                                      \
    {                                                                                                                  \
        open_memory();                                                                                                 \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(backend, name##__s3_on_versitygw)                                                                             \
    {                                                                                                                  \
        open_s3_on_versitygw();                                                                                        \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(backend, name##__s3_on_test_server)                                                                           \
    {                                                                                                                  \
        open_s3_on_test_server();                                                                                      \
        name();                                                                                                        \
    }                                                                                                                  \
    static void name(void)

/* ---- short forms; each leaves its result in r ---- */

static enum larder_kind get(const char *key)
{
    bd_result_release(&r);
    return bd_get(on.bd, C, key, NULL, &r);
}

static enum larder_kind get_args(const char *key, const struct bd_args *args)
{
    bd_result_release(&r);
    return bd_get(on.bd, C, key, args, &r);
}

static enum larder_kind get_range(const char *key, uint64_t offset, uint64_t length)
{
    return get_args(key, &(struct bd_args){ .ranged = true, .offset = offset, .length = length });
}

static enum larder_kind head(const char *key)
{
    bd_result_release(&r);
    return bd_head(on.bd, C, key, &r);
}

static enum larder_kind put_bytes(const char *key, const void *p, uint64_t n, const struct bd_args *args)
{
    bd_result_release(&r);
    return bd_put(on.bd, C, key, p, n, args, &r);
}

static enum larder_kind put(const char *key, const char *text)
{
    return put_bytes(key, text, strlen(text), NULL);
}

static enum larder_kind del(const char *key)
{
    bd_result_release(&r);
    return bd_delete(on.bd, C, key, &r);
}

static bool got_bytes(const void *p, uint64_t n)
{
    return r.bytes.len == n && (n == 0 || !memcmp(r.bytes.p, p, n));
}

static bool got(const char *text)
{
    return got_bytes(text, strlen(text));
}

#define is(call, want)                                                                                                 \
    cr_assert(eq(int, (int)(call), (int)(want)), "%s: %s: %s", on.name, larder_kind_name(r.kind), r.err.msg)

/* Rule 7: an error names its object and tells no secret. */
static void check_message(const char *key)
{
    char uri[512];

    snprintf(uri, sizeof uri, "://%s/%s", C, key);
    cr_expect(strstr(r.err.msg, uri) != NULL, "the message names the object: %s", r.err.msg);
    cr_expect(strstr(r.err.msg, S3_SECRET_KEY) == NULL, "%s", r.err.msg);
    cr_expect(strstr(r.err.msg, "Signature=") == NULL, "%s", r.err.msg);
}

/* ---- round trips ---- */

FOR_EVERY_BACKEND(what_was_put_is_got)
{
    static const uint64_t sizes[] = { 0, 1, 4096, 16 * LDR_KIB, LDR_MIB, 8 * LDR_MIB };

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        uint8_t *p = bd_bytes(sizes[i], i);
        char validator[256];
        time_t now = time(NULL);

        is(put_bytes("dir/object", p, sizes[i], NULL), LARDER_OK);
        cr_expect(eq(u64, r.meta.size_bytes, sizes[i]));
        cr_expect(r.sent);
        snprintf(validator, sizeof validator, "%s", r.validator);
        is(get("dir/object"), LARDER_OK);
        cr_assert(got_bytes(p, sizes[i]), "%" PRIu64 " bytes come back as they were", sizes[i]);
        cr_expect(eq(u64, r.meta.size_bytes, sizes[i]));
        cr_expect(eq(u64, r.offset, 0));
        cr_expect(eq(u32, r.requests, 1));
        cr_expect(ne(str, r.etag, ""));
        cr_expect(eq(str, r.validator, validator), "put and get tell one validator");
        is(head("dir/object"), LARDER_OK);
        cr_expect(eq(u64, r.meta.size_bytes, sizes[i]));
        cr_expect(eq(str, r.validator, validator), "put and head tell one validator");
        cr_expect(r.meta.last_modified_s >= now - 2 && r.meta.last_modified_s <= time(NULL) + 2);
        free(p);
    }
}

FOR_EVERY_BACKEND(what_was_put_from_a_file_is_got)
{
    static const uint64_t sizes[] = { 0, 1, 100000, 3 * LDR_MIB + 1 };

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        uint8_t *p = bd_bytes(sizes[i], i);
        int fd = memfd_create("body", MFD_CLOEXEC);

        cr_assert(eq(long, write(fd, p, sizes[i]), (long)sizes[i]));
        bd_result_release(&r);
        is(bd_put_fd(on.bd, C, "file", fd, sizes[i], NULL, &r), LARDER_OK);
        close(fd);
        is(get("file"), LARDER_OK);
        cr_assert(got_bytes(p, sizes[i]));
        free(p);
    }
}

FOR_EVERY_BACKEND(a_body_file_that_is_too_short_stores_nothing)
{
    int fd = memfd_create("body", MFD_CLOEXEC);

    cr_assert(eq(int, ftruncate(fd, 1000), 0));
    bd_result_release(&r);
    cr_assert(ne(int, bd_put_fd(on.bd, C, "short", fd, 100000, NULL, &r), LARDER_OK));
    close(fd);
    is(get("short"), LARDER_NOT_FOUND);
}

FOR_EVERY_BACKEND(a_missing_object_is_not_found)
{
    is(get("missing"), LARDER_NOT_FOUND);
    check_message("missing");
    is(head("missing"), LARDER_NOT_FOUND);
    check_message("missing");
    is(get_range("missing", 0, 10), LARDER_NOT_FOUND);
    is(get("missing/deeper/still"), LARDER_NOT_FOUND);
    cr_expect(eq(u32, r.begins, 0), "nothing was delivered");
}

FOR_EVERY_BACKEND(a_missing_container_is_not_found)
{
    enum larder_kind k;

    is(bd_get(on.bd, "no-such-container", "k", NULL, &r), LARDER_NOT_FOUND);
    cr_expect(strstr(r.err.msg, "no-such-container") != NULL, "%s", r.err.msg);
    bd_result_release(&r);
    is(bd_head(on.bd, "no-such-container", "k", &r), LARDER_NOT_FOUND);
    bd_result_release(&r);
    k = bd_put(on.bd, "no-such-container", "k", "x", 1, NULL, &r);
    cr_expect(eq(int, k, on.buckets_must_exist ? LARDER_NOT_FOUND : LARDER_OK), "%s", r.err.msg);
}

FOR_EVERY_BACKEND(an_overwrite_changes_bytes_and_validator)
{
    char first[256];

    is(put("k", "aaaa"), LARDER_OK);
    is(head("k"), LARDER_OK);
    snprintf(first, sizeof first, "%s", r.validator);
    cr_assert(ne(str, first, ""));
    is(put("k", "bbbb"), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("bbbb"));
    cr_expect(ne(str, r.validator, first));
    is(put("k", "a longer one"), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("a longer one"));
}

FOR_EVERY_BACKEND(a_deleted_object_is_gone_and_may_be_deleted_again)
{
    is(put("d/k", "x"), LARDER_OK);
    is(put("d/other", "y"), LARDER_OK);
    is(del("d/k"), LARDER_OK);
    is(get("d/k"), LARDER_NOT_FOUND);
    is(head("d/k"), LARDER_NOT_FOUND);
    is(del("d/k"), LARDER_OK);
    is(del("never/was/there"), LARDER_OK);
    is(get("d/other"), LARDER_OK);
    cr_expect(got("y"));
    is(put("d/k", "again"), LARDER_OK);
    is(get("d/k"), LARDER_OK);
    cr_expect(got("again"));
}

/* ---- parts ---- */

FOR_EVERY_BACKEND(a_range_is_exactly_its_bytes)
{
    enum { SIZE = 1000000 };
    static const struct {
        uint64_t offset, length, want;
    } parts[] = {
        { 0, 1, 1 },
        { 0, 65536, 65536 },
        { 999999, 1, 1 },
        { 1234, 700000, 700000 },
        { 999990, 100, 10 },
        { 0, SIZE, SIZE },
        { 0, 8 * LDR_MIB, SIZE },
        { 1, SIZE, SIZE - 1 },
        { 500000, LDR_OBJECT_SIZE_MAX, 500000 },
    };
    uint8_t *p = bd_bytes(SIZE, 1);

    is(put_bytes("parts", p, SIZE, NULL), LARDER_OK);
    for (size_t i = 0; i < LDR_ARRAY_LEN(parts); i++) {
        is(get_range("parts", parts[i].offset, parts[i].length), LARDER_OK);
        cr_expect(eq(u64, r.offset, parts[i].offset));
        cr_expect(eq(u64, r.length, parts[i].want));
        cr_expect(eq(u64, r.meta.size_bytes, SIZE), "the size is the whole object's");
        cr_assert(got_bytes(p + parts[i].offset, parts[i].want), "part %zu", i);
    }
    is(get_range("parts", SIZE, 1), LARDER_INVALID);
    check_message("parts");
    is(get_range("parts", SIZE + 1000, 1000), LARDER_INVALID);
    free(p);
}

/* Stores differ: some have no range of nothing. Both answers tell the truth. */
FOR_EVERY_BACKEND(a_range_of_an_empty_object_is_empty_or_refused)
{
    is(put("empty", ""), LARDER_OK);
    if (get_range("empty", 0, 100) == LARDER_OK) {
        cr_expect(eq(u64, r.meta.size_bytes, 0));
        cr_expect(eq(u64, r.length, 0));
    } else {
        is(r.kind, LARDER_INVALID);
    }
}

FOR_EVERY_BACKEND(a_get_that_wants_another_version_is_refused)
{
    char first[256];

    is(put("v", "0123456789"), LARDER_OK);
    is(head("v"), LARDER_OK);
    snprintf(first, sizeof first, "%s", r.validator);
    is(get_args("v", &(struct bd_args){ .if_match = first }), LARDER_OK);
    cr_expect(got("0123456789"));
    is(get_args("v", &(struct bd_args){ .if_match = first, .ranged = true, .offset = 2, .length = 3 }), LARDER_OK);
    cr_expect(got("234"));
    is(put("v", "9876543210"), LARDER_OK);
    is(get_args("v", &(struct bd_args){ .if_match = first }), LARDER_PRECONDITION);
    check_message("v");
    is(get_args("v", &(struct bd_args){ .if_match = first, .ranged = true, .offset = 2, .length = 3 }),
       LARDER_PRECONDITION);
    cr_expect(eq(u32, r.begins, 0), "nothing was delivered");
    is(del("v"), LARDER_OK);
    is(get_args("v", &(struct bd_args){ .if_match = first }), LARDER_NOT_FOUND);
}

/* ---- conditions and metadata ---- */

FOR_EVERY_BACKEND(a_create_only_put_never_replaces)
{
    const struct bd_args only = { .create_only = true };

    cr_assert(ne(u32, bd_backend(on.bd)->ops->caps & LDR_CAP_CREATE_ONLY, 0));
    is(put_bytes("new/k", "first", 5, &only), LARDER_OK);
    is(put_bytes("new/k", "second", 6, &only), LARDER_EXISTS);
    check_message("new/k");
    is(get("new/k"), LARDER_OK);
    cr_expect(got("first"));
    is(del("new/k"), LARDER_OK);
    is(put_bytes("new/k", "third", 5, &only), LARDER_OK);
}

/* The value of a user pair; "" when it is not there. */
static const char *user_value(const struct ldr_meta *m, const char *name)
{
    static char value[256];
    struct ldr_field f;
    size_t pos = 0, n = strlen(name);

    while (ldr_fields_next(m->fields.p, m->fields.len, &pos, &f))
        if (f.tag == LDR_TAG_USER && f.len > n && !memcmp(f.p, name, n + 1)) {
            snprintf(value, sizeof value, "%.*s", (int)(f.len - n - 1), (const char *)f.p + n + 1);
            return value;
        }
    return "";
}

static void check_metadata(void)
{
    char type[64];

    cr_assert(ldr_meta_text(&r.meta, LDR_TAG_CONTENT_TYPE, type, sizeof type));
    cr_expect(eq(str, type, "text/x-larder; charset=utf-8"));
    cr_expect(eq(str, (char *)(uintptr_t)user_value(&r.meta, "owner"), "someone"));
    cr_expect(eq(str, (char *)(uintptr_t)user_value(&r.meta, "a-note"), "two words, a comma; and more"));
    cr_expect(ldr_fields_valid(r.meta.fields.p, r.meta.fields.len));
}

FOR_EVERY_BACKEND(metadata_comes_back)
{
    struct ldr_meta m;

    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_CONTENT_TYPE, "text/x-larder; charset=utf-8"));
    cr_assert(ldr_meta_add_pair(&m, LDR_TAG_USER, "owner", "someone"));
    cr_assert(ldr_meta_add_pair(&m, LDR_TAG_USER, "a-note", "two words, a comma; and more"));
    is(put_bytes("m", "bytes", 5, &(struct bd_args){ .put_meta = &m }), LARDER_OK);
    ldr_meta_release(&m);
    is(head("m"), LARDER_OK);
    check_metadata();
    is(get("m"), LARDER_OK);
    check_metadata();
    cr_expect(got("bytes"));
    is(put("m", "plain"), LARDER_OK); /* a put replaces metadata too */
    is(head("m"), LARDER_OK);
    cr_expect(eq(str, (char *)(uintptr_t)user_value(&r.meta, "owner"), ""));
}

/* ---- keys ---- */

/* Put all, then get all: no two keys may meet in one object. */
static void check_keys(const char *const keys[], size_t n)
{
    char text[32];

    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "object %zu", i);
        cr_assert(eq(int, put(keys[i], text), LARDER_OK), "%s: put \"%s\": %s", on.name, keys[i], r.err.msg);
    }
    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "object %zu", i);
        cr_expect(eq(int, get(keys[i]), LARDER_OK), "%s: get \"%s\": %s", on.name, keys[i], r.err.msg);
        cr_expect(got(text), "%s: \"%s\" gives the bytes of another", on.name, keys[i]);
        cr_expect(eq(int, head(keys[i]), LARDER_OK), "%s: head \"%s\": %s", on.name, keys[i], r.err.msg);
    }
    for (size_t i = 0; i < n; i++) {
        cr_expect(eq(int, del(keys[i]), LARDER_OK), "%s: delete \"%s\": %s", on.name, keys[i], r.err.msg);
        cr_expect(eq(int, get(keys[i]), LARDER_NOT_FOUND), "%s: \"%s\" is still there", on.name, keys[i]);
    }
}

FOR_EVERY_BACKEND(keys_are_taken_byte_for_byte)
{
    static const char *const keys[] = {
        "a space",     "per%cent",   "a%20b",     "a%2fb",      "plus+plus",           "what?x=1", "what?",
        "frag#ment",   "ümläut",     "日本/東京", "\"quoted\"", "it's `so`",           "=&;,@:",   "tilde~(a)!*$",
        "back\\slash", "<xml>&amp;", "dots...",   "...three",   "a/.hidden",           ".start",   "trailing ",
        " leading",    "UPPER",      "upper",     "[a]{b}|^",   "deep/er/and/deep/er",
    };

    check_keys(keys, LDR_ARRAY_LEN(keys));
}

FOR_EVERY_BACKEND(keys_that_are_no_paths_are_held_or_refused)
{
    static char longest[1025];
    const char *const keys[] = { "a//b",
                                 "a/b",
                                 "/lead",
                                 "lead",
                                 "trail/",
                                 "trail",
                                 "./x",
                                 "x",
                                 "x/./y",
                                 "x/y",
                                 "../x",
                                 "x/..",
                                 "..",
                                 ".",
                                 "///",
                                 "x//",
                                 "..//.",
                                 "a\x01"
                                 "b",
                                 "a\nb",
                                 "a\tb",
                                 "del\x7f",
                                 longest };

    memset(longest, 'k', sizeof longest - 1);
    if (on.any_key) {
        check_keys(keys, LDR_ARRAY_LEN(keys));
    } else if (on.refuses_odd_keys) {
        static const char *const odd[] = { "a//b", "/lead", "trail/", "./x", "x/./y", "../x",
                                           "x/..", "..",    ".",      "///", "a\nb" };

        for (size_t i = 0; i < LDR_ARRAY_LEN(odd); i++) {
            cr_expect(eq(int, put(odd[i], "bad"), LARDER_INVALID), "%s: put \"%s\"", on.name, odd[i]);
            cr_expect(eq(int, get(odd[i]), LARDER_INVALID), "%s: get \"%s\"", on.name, odd[i]);
            cr_expect(eq(int, del(odd[i]), LARDER_INVALID), "%s: delete \"%s\"", on.name, odd[i]);
        }
        cr_expect(eq(int, put(longest, "bad"), LARDER_INVALID));
    } else {
        close_store(); /* Criterion calls no .fini after a skip */
        cr_skip("versitygw keeps keys as paths, and cleans them");
    }
}

/* ---- several at once, and ends ---- */

static enum larder_kind give_up(void *user, uint64_t seen, struct larder_err *err)
{
    (void)user;
    return seen < 100000 ? LARDER_OK : ldr_fail(err, LARDER_CANCELLED, "the sink had enough of ://%s/big", C);
}

FOR_EVERY_BACKEND(a_sink_that_gives_up_ends_the_get_with_its_kind)
{
    uint8_t *p = bd_bytes(4 * LDR_MIB, 1);

    is(put_bytes("big", p, 4 * LDR_MIB, NULL), LARDER_OK);
    is(get_args("big", &(struct bd_args){ .on_write = give_up }), LARDER_CANCELLED);
    cr_expect(strstr(r.err.msg, "the sink had enough") != NULL, "%s", r.err.msg);
    is(get("big"), LARDER_OK);
    cr_assert(got_bytes(p, 4 * LDR_MIB));
    free(p);
}

enum { WORKERS = 8, ROUNDS = 6, SHARED_SIZE = 300000 };

struct worker {
    int n, failed, torn;
};

/* Own keys and a shared one; versions of the shared one are told apart by their first bytes. */
static void *work(void *user)
{
    struct worker *w = user;

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t seed = (uint64_t)(w->n * ROUNDS + i + 1);
        uint8_t *mine = bd_bytes(SHARED_SIZE, seed), *want;
        struct bd_result one;
        char key[32];

        memcpy(mine, &seed, sizeof seed);
        snprintf(key, sizeof key, "own/%d-%d", w->n, i);
        w->failed += bd_put(on.bd, C, key, mine, SHARED_SIZE, NULL, &one) != LARDER_OK;
        bd_result_release(&one);
        w->failed += bd_get(on.bd, C, key, NULL, &one) != LARDER_OK;
        w->torn += one.bytes.len != SHARED_SIZE || memcmp(one.bytes.p, mine, SHARED_SIZE) != 0;
        bd_result_release(&one);
        w->failed += bd_put(on.bd, C, "shared", mine, SHARED_SIZE, NULL, &one) != LARDER_OK;
        bd_result_release(&one);
        /* what a retry may cure is no wrong answer */
        if (bd_get(on.bd, C, "shared", NULL, &one) == LARDER_OK) {
            memcpy(&seed, one.bytes.p, sizeof seed);
            want = bd_bytes(SHARED_SIZE, seed);
            memcpy(want, &seed, sizeof seed);
            w->torn += one.bytes.len != SHARED_SIZE || memcmp(one.bytes.p, want, SHARED_SIZE) != 0;
            free(want);
        } else {
            w->failed += !ldr_kind_retry(one.kind);
        }
        bd_result_release(&one);
        free(mine);
    }
    return NULL;
}

FOR_EVERY_BACKEND(many_ops_at_once_see_whole_versions_only)
{
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];

    for (int i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){ .n = i };
        cr_assert(eq(int, pthread_create(&threads[i], NULL, work, &workers[i]), 0));
    }
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
        cr_expect(eq(int, workers[i].failed, 0), "%s", on.name);
        cr_expect(eq(int, workers[i].torn, 0), "%s", on.name);
    }
}

FOR_EVERY_BACKEND(an_unknown_setting_is_refused_by_its_name)
{
    const char *kind = bd_backend(on.bd)->ops->kind;
    struct larder_err err = { 0 };
    struct bd *other = NULL;

    cr_assert(eq(int, bd_open(kind, "x", (const char *[]){ "colour", "red", NULL }, &other, &err), LARDER_INVALID));
    cr_expect(strstr(err.msg, "colour") != NULL, "%s", err.msg);
    cr_expect(other == NULL);
}

FOR_EVERY_BACKEND(the_fingerprint_of_a_store_stays)
{
    const struct ldr_backend *b = bd_backend(on.bd);

    cr_expect(eq(u64, b->ops->fingerprint(b), b->ops->fingerprint(b)));
    cr_expect(ne(u64, b->ops->fingerprint(b), 0));
}

/* ---- memory alone ---- */

Test(backend, the_memory_store_keeps_its_limit)
{
    open_on("memory", "memory", "mem", (const char *[]){ "max_size", "10", NULL });
    is(put("a", "12345"), LARDER_OK);
    is(put("b", "123456"), LARDER_LIMIT_EXCEEDED);
    cr_expect(strstr(r.err.msg, "max_size") != NULL, "%s", r.err.msg);
    check_message("b");
    is(put("a", "1234567890"), LARDER_OK);
    is(del("a"), LARDER_OK);
    is(put("b", "123456"), LARDER_OK);
}

Test(backend, the_memory_store_refuses_settings_that_are_no_numbers)
{
    static const char *const bad[] = { "", "x", "-1", "1x", "99999999999999999999" };
    struct larder_err err = { 0 };

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        cr_expect(eq(int, bd_open("memory", "mem", (const char *[]){ "latency_ms", bad[i], NULL }, &on.bd, &err),
                     LARDER_INVALID),
                  "\"%s\"", bad[i]);
        cr_expect(strstr(err.msg, "latency_ms") != NULL, "%s", err.msg);
    }
}

Test(backend, the_memory_store_answers_late_if_told_so)
{
    struct timespec from, to;

    open_on("memory", "memory", "mem", (const char *[]){ "latency_ms", "30", NULL });
    clock_gettime(CLOCK_MONOTONIC, &from);
    is(put("a", "1"), LARDER_OK);
    is(get("a"), LARDER_OK);
    cr_expect(got("1"));
    is(get("b"), LARDER_NOT_FOUND);
    is(del("a"), LARDER_OK);
    clock_gettime(CLOCK_MONOTONIC, &to);
    cr_expect(ge(i64, (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000, 4 * 30 - 4));
}

Test(backend, many_objects_in_memory_are_all_found)
{
    char key[32];

    open_memory();
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof key, "k%d", i);
        is(put(key, key), LARDER_OK);
    }
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof key, "k%d", i);
        is(get(key), LARDER_OK);
        cr_assert(got(key));
    }
}

/* ---- s3: credentials ---- */

static void check_credentials(void)
{
    is(put("k", "x"), LARDER_OK);
    open_s3(S3_ACCESS_KEY, "wrong-secret");
    is(get("k"), LARDER_DENIED);
    check_message("k");
    cr_expect(strstr(r.err.msg, "wrong-secret") == NULL, "%s", r.err.msg);
    cr_expect(eq(int, r.err.http, 403));
    is(put("k", "y"), LARDER_DENIED);
    is(head("k"), LARDER_DENIED);
    is(del("k"), LARDER_DENIED);
    open_s3("nobody", S3_SECRET_KEY);
    is(get("k"), LARDER_DENIED);
    open_s3(S3_ACCESS_KEY, S3_SECRET_KEY);
    is(get("k"), LARDER_OK);
    cr_expect(got("x"));
}

Test(s3, wrong_credentials_are_denied_by_versitygw)
{
    open_s3_on_versitygw();
    check_credentials();
}

Test(s3, wrong_credentials_are_denied_by_the_test_server)
{
    open_s3_on_test_server();
    check_credentials();
}

/* ---- s3: a server that fails ---- */

#define rules(json) cr_assert(s3_server_rules(&on.server, json))

static void open_faulty(void)
{
    open_s3_on_test_server();
    is(put("k", "0123456789"), LARDER_OK);
}

/* May the fetch ask again, and does the store answer then? */
static void check_recovery(void)
{
    cr_expect(ldr_kind_retry(r.kind), "%s: %s", larder_kind_name(r.kind), r.err.msg);
    check_message("k");
    rules("[]");
    is(get("k"), LARDER_OK);
    cr_expect(got("0123456789"));
}

Test(s3, one_get_is_one_request)
{
    open_faulty();
    is(get("k"), LARDER_OK);
    cr_expect(eq(int, s3_server_count(&on.server, "GET", C "/k"), 1));
    cr_expect(eq(int, s3_server_count(&on.server, "HEAD", C "/k"), 0));
    cr_expect(eq(int, s3_server_count(&on.server, "PUT", C "/k"), 1));
    is(head("k"), LARDER_OK);
    is(del("k"), LARDER_OK);
    cr_expect(eq(int, s3_server_count(&on.server, "HEAD", C "/k"), 1));
    cr_expect(eq(int, s3_server_count(&on.server, "DELETE", C "/k"), 1));
}

static void check_clock(const char *rule)
{
    unsigned asked = 0;

    open_faulty();
    rules(rule);
    for (int i = 0; i < 2 && (i == 0 || ldr_kind_retry(r.kind)); i++) {
        get("k");
        asked += r.requests;
    }
    is(r.kind, LARDER_OK);
    cr_expect(got("0123456789"));
    cr_expect(le(u32, asked, 2));
    is(get("k"), LARDER_OK);
    cr_expect(eq(u32, r.requests, 1), "the clock is known now");
    is(put("k2", "x"), LARDER_OK);
    is(head("k"), LARDER_OK);
    is(del("k"), LARDER_OK);
    rules("[]"); /* the store's clock, or ours, is set right */
    is(get("k2"), LARDER_OK);
}

Test(s3, a_clock_that_is_behind_recovers)
{
    check_clock("[{\"action\": \"skew_date\", \"seconds\": 7200}]");
}

Test(s3, a_clock_that_is_ahead_recovers)
{
    check_clock("[{\"action\": \"skew_date\", \"seconds\": -86400}]");
}

Test(s3, a_head_with_a_wrong_clock_recovers)
{
    open_faulty();
    rules("[{\"action\": \"skew_date\", \"seconds\": 7200}]");
    if (head("k") != LARDER_OK && ldr_kind_retry(r.kind))
        head("k");
    is(r.kind, LARDER_OK);
}

Test(s3, a_truncated_body_is_unavailable)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"truncate_body\", \"bytes\": 4}]");
    is(get("k"), LARDER_UNAVAILABLE);
    is(get_range("k", 2, 5), LARDER_UNAVAILABLE);
    check_recovery();
}

Test(s3, a_length_that_says_too_much_is_unavailable)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"lie_length\", \"delta\": 5}]");
    is(get("k"), LARDER_UNAVAILABLE);
    get_range("k", 2, 5);
    cr_expect(ldr_kind_retry(r.kind), "%s: %s", larder_kind_name(r.kind), r.err.msg);
    check_recovery();
}

Test(s3, a_length_that_says_too_little_is_never_taken_for_the_object)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"lie_length\", \"delta\": -3}]");
    cr_expect(ne(int, get("k"), LARDER_OK));
    cr_expect(ne(int, get_range("k", 2, 5), LARDER_OK));
    check_recovery();
}

Test(s3, a_body_without_a_length_is_the_object_or_an_error)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"no_content_length\"}]");
    if (get("k") == LARDER_OK)
        cr_expect(got("0123456789"));
    else
        check_recovery();
}

Test(s3, wrong_bytes_are_corrupt)
{
    uint8_t *p = bd_bytes(LDR_MIB, 1);

    open_faulty();
    is(put_bytes("big", p, LDR_MIB, NULL), LARDER_OK);
    rules("[{\"method\": \"GET\", \"action\": \"wrong_body\"}]");
    is(get("big"), LARDER_CORRUPT);
    is(get("k"), LARDER_CORRUPT);
    check_recovery();
    rules("[{\"method\": \"GET\", \"action\": \"wrong_etag\"}]");
    is(get("k"), LARDER_CORRUPT);
    free(p);
}

Test(s3, another_part_than_asked_for_is_refused)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"wrong_range\"}]");
    cr_expect(ne(int, get_range("k", 2, 5), LARDER_OK));
    check_recovery();
    rules("[{\"method\": \"GET\", \"action\": \"ignore_range\"}]");
    cr_expect(ne(int, get_range("k", 2, 5), LARDER_OK));
    cr_expect(ne(int, get_range("k", 0, 5), LARDER_OK));
    if (get_range("k", 0, 100) == LARDER_OK) /* all of it was asked for */
        cr_expect(got("0123456789"));
}

Test(s3, a_server_error_is_unavailable_and_names_the_request)
{
    open_faulty();
    rules("[{\"action\": \"status\", \"status\": 500}]");
    is(get("k"), LARDER_UNAVAILABLE);
    cr_expect(eq(int, r.err.http, 500));
    cr_expect(strstr(r.err.msg, "InternalError") != NULL, "%s", r.err.msg);
    cr_expect(strstr(r.err.msg, "request id") != NULL, "%s", r.err.msg);
    cr_expect(eq(u32, r.requests, 1), "a backend does not retry");
    cr_expect(eq(int, head("k"), LARDER_UNAVAILABLE));
    cr_expect(eq(int, put("k", "x"), LARDER_UNAVAILABLE));
    cr_expect(r.sent, "the put may have been carried out");
    cr_expect(eq(int, del("k"), LARDER_UNAVAILABLE));
    cr_expect(r.sent);
    check_recovery();
}

Test(s3, a_store_that_asks_for_patience_is_told_on)
{
    open_faulty();
    rules("[{\"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"retry_after\": 2}]");
    is(get("k"), LARDER_UNAVAILABLE);
    cr_expect(eq(u32, r.retry_after_ms, 2000));
    rules("[{\"action\": \"status\", \"status\": 429, \"code\": \"TooManyRequests\"}]");
    is(get("k"), LARDER_UNAVAILABLE);
    cr_expect(eq(u32, r.retry_after_ms, 0));
    check_recovery();
}

Test(s3, a_refusal_is_denied)
{
    open_faulty();
    rules("[{\"action\": \"status\", \"status\": 403, \"code\": \"AccessDenied\"}]");
    is(get("k"), LARDER_DENIED);
    check_message("k");
    is(put("k", "x"), LARDER_DENIED);
}

Test(s3, a_reset_is_unavailable)
{
    open_faulty();
    rules("[{\"action\": \"reset\"}]");
    is(get("k"), LARDER_UNAVAILABLE);
    check_recovery();
}

/* A proxy gone mad, or an endpoint that is no web server: which of the two cannot be told. */
Test(s3, an_answer_that_is_no_http_is_an_error)
{
    open_faulty();
    rules("[{\"action\": \"garbage\"}]");
    get("k");
    cr_expect(r.kind == LARDER_UNAVAILABLE || r.kind == LARDER_INVALID, "%s", larder_kind_name(r.kind));
    check_message("k");
    rules("[]");
    is(get("k"), LARDER_OK);
}

Test(s3, a_server_that_is_gone_is_unavailable)
{
    open_faulty();
    s3_server_stop(&on.server);
    is(get("k"), LARDER_UNAVAILABLE);
    check_message("k");
    is(put("k", "x"), LARDER_UNAVAILABLE);
    cr_expect(not(r.sent), "nobody got it");
}

Test(s3, headers_without_end_are_an_error)
{
    open_faulty();
    rules("[{\"action\": \"huge_headers\", \"bytes\": 400000}]");
    cr_expect(ne(int, get("k"), LARDER_OK));
    check_message("k");
    rules("[{\"action\": \"huge_headers\", \"bytes\": 20000}]");
    is(get("k"), LARDER_OK);
    rules("[]");
    is(get("k"), LARDER_OK);
}

Test(s3, a_server_that_hangs_meets_the_deadline)
{
    open_faulty();
    rules("[{\"action\": \"hang\"}]");
    is(get_args("k", &(struct bd_args){ .timeout_ms = 200 }), LARDER_TIMEOUT);
    check_message("k");
    rules("[]");
    is(get("k"), LARDER_OK);
}

Test(s3, a_slow_answer_is_waited_for)
{
    open_faulty();
    rules("[{\"action\": \"delay_ms\", \"ms\": 300}]");
    is(get("k"), LARDER_OK);
    cr_expect(got("0123456789"));
}

/* The put is in the store, the answer is lost: never a firm no. */
Test(s3, a_put_whose_answer_is_lost_may_have_happened)
{
    open_faulty();
    rules("[{\"method\": \"PUT\", \"action\": \"drop_after_store\"}]");
    cr_expect(ne(int, put("lost", "there"), LARDER_OK));
    cr_expect(r.kind == LARDER_UNAVAILABLE || r.kind == LARDER_OUTCOME_UNKNOWN, "%s: %s", larder_kind_name(r.kind),
              r.err.msg);
    cr_expect(r.sent);
    rules("[]");
    is(get("lost"), LARDER_OK);
    cr_expect(got("there"));
    rules("[{\"method\": \"PUT\", \"action\": \"drop_after_store\"}]");
    cr_expect(ne(int, put_bytes("lost-new", "x", 1, &(struct bd_args){ .create_only = true }), LARDER_OK));
    cr_expect(ne(int, r.kind, LARDER_EXISTS), "our own put is no other's");
    cr_expect(r.sent);
    rules("[{\"method\": \"DELETE\", \"action\": \"drop_after_store\"}]");
    cr_expect(ne(int, del("lost"), LARDER_OK));
    cr_expect(r.sent);
}

/* ---- s3: gets that wait, for the herds of other tests ---- */

static void *get_held(void *user)
{
    struct bd_result one;

    *(enum larder_kind *)user = bd_get(on.bd, C, "k", NULL, &one);
    bd_result_release(&one);
    return NULL;
}

Test(s3, held_gets_go_on_when_they_are_released)
{
    enum larder_kind kinds[5];
    pthread_t threads[LDR_ARRAY_LEN(kinds)];

    open_faulty();
    cr_assert(s3_server_hold(&on.server, "/k"));
    for (size_t i = 0; i < LDR_ARRAY_LEN(kinds); i++)
        cr_assert(eq(int, pthread_create(&threads[i], NULL, get_held, &kinds[i]), 0));
    while (s3_server_waiting(&on.server) < (int)LDR_ARRAY_LEN(kinds))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    is(put("other", "x"), LARDER_OK); /* nothing else is held */
    is(get("other"), LARDER_OK);
    cr_assert(s3_server_release(&on.server, "/k"));
    for (size_t i = 0; i < LDR_ARRAY_LEN(kinds); i++) {
        pthread_join(threads[i], NULL);
        cr_expect(eq(int, kinds[i], LARDER_OK));
    }
    cr_expect(eq(int, s3_server_waiting(&on.server), 0));
}
