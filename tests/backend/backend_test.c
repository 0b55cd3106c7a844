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
#include <sys/wait.h>
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
    bool lists_any_key;      /* and a listing tells them all */
    void (*reopen)(void);    /* another instance of the backend, on the same objects; NULL: there is none */
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

/* With one more setting. */
static void open_s3_with(const char *name, const char *value)
{
    bd_close(&on.bd);
    open_on("s3", "s3", "s3",
            (const char *[]){ "endpoint", on.server.endpoint, "region", "us-east-1", "access_key_id", S3_ACCESS_KEY,
                              "secret_key", S3_SECRET_KEY, name, value, NULL });
}

static void reopen_s3(void)
{
    open_s3(S3_ACCESS_KEY, S3_SECRET_KEY);
}

static void reopen_local(void)
{
    bd_close(&on.bd);
    open_on("local", "local", "file", (const char *[]){ "path", on.dir, NULL });
}

static void open_local(void)
{
    test_dir_make(on.dir);
    on.refuses_odd_keys = true;
    on.reopen = reopen_local;
    reopen_local();
}

static void open_memory(void)
{
    on.any_key = on.lists_any_key = true;
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
    on.reopen = reopen_s3;
    open_s3(S3_ACCESS_KEY, S3_SECRET_KEY);
}

static void open_s3_on_test_server(void)
{
    char reason[512];

    test_dir_make(on.dir);
    need(s3_server_start_test(&on.server, on.dir, reason, sizeof reason), reason);
    on.buckets_must_exist = on.any_key = on.lists_any_key = true;
    on.reopen = reopen_s3;
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

static enum larder_kind list_args(const char *prefix, const struct bd_args *args)
{
    bd_result_release(&r);
    return bd_list(on.bd, C, prefix, args, &r);
}

static enum larder_kind list(const char *prefix)
{
    return list_args(prefix, NULL);
}

static enum larder_kind list_grouped(const char *prefix)
{
    return list_args(prefix, &(struct bd_args){ .delimiter = "/" });
}

static enum larder_kind copy(const char *from, const char *to)
{
    bd_result_release(&r);
    return bd_copy(on.bd, C, from, to, &r);
}

/* The page as text, in the order of its bytes (a store may tell objects first, then groups): "a b/+ c", + for a group. */
static const char *listed(void)
{
    static char text[8192];
    size_t n = 0, used = 0;
    const struct ldr_list_entry *e[LDR_PAGE_ENTRIES_MAX];

    for (size_t i = 0; i < r.page.n; i++) {
        size_t at = n++;

        for (; at > 0 && strcmp(e[at - 1]->key, r.page.entries[i].key) > 0; at--)
            e[at] = e[at - 1];
        e[at] = &r.page.entries[i];
    }
    text[0] = '\0';
    for (size_t i = 0; i < n && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s%s", i ? " " : "", e[i]->key,
                                 e[i]->is_prefix ? "+" : "");
    return text;
}

#define lists(want) cr_expect(eq(str, (char *)(uintptr_t)listed(), want), "%s", on.name)

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
    free(p);
}

/* The announcement of a range of nothing, with all that a head says. */
static void check_nothing(uint64_t size, const char *validator)
{
    cr_expect(eq(u64, r.offset, size));
    cr_expect(eq(u64, r.length, 0));
    cr_expect(eq(u32, r.begins, 1));
    cr_expect(eq(u64, r.meta.size_bytes, size));
    cr_expect(eq(str, r.validator, (char *)(uintptr_t)validator));
    cr_expect(ne(i64, r.meta.last_modified_s, LDR_TIME_UNKNOWN));
    cr_expect(le(u32, r.requests, 2));
}

FOR_EVERY_BACKEND(a_range_behind_the_end_is_empty_and_tells_the_size)
{
    char v[256];

    is(put("parts", "0123456789"), LARDER_OK);
    snprintf(v, sizeof v, "%s", r.validator);
    is(get_range("parts", 10, 1), LARDER_OK);
    check_nothing(10, v);
    is(get_range("parts", 5000, LDR_MIB), LARDER_OK);
    check_nothing(10, v);
    is(get_args("parts", &(struct bd_args){ .if_match = v, .ranged = true, .offset = 11, .length = 3 }), LARDER_OK);
    check_nothing(10, v);
    is(get_args("parts", &(struct bd_args){ .if_match = "\"other\"", .ranged = true, .offset = 11, .length = 3 }),
       LARDER_PRECONDITION);
    cr_expect(eq(u32, r.begins, 0));
}

FOR_EVERY_BACKEND(any_range_of_an_empty_object_is_empty)
{
    char v[256];

    is(put("empty", ""), LARDER_OK);
    snprintf(v, sizeof v, "%s", r.validator);
    is(get_range("empty", 0, 100), LARDER_OK);
    check_nothing(0, v);
    is(get_range("empty", 0, 1), LARDER_OK);
    check_nothing(0, v);
    is(get_range("empty", 7, 1), LARDER_OK);
    check_nothing(0, v);
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

FOR_EVERY_BACKEND(a_weak_validator_names_no_version)
{
    char weak[256];

    is(put("v", "0123456789"), LARDER_OK);
    snprintf(weak, sizeof weak, "W/%.200s", r.validator);
    get_args("v", &(struct bd_args){ .if_match = weak, .ranged = true, .offset = 2, .length = 3 });
    cr_expect(r.kind == LARDER_PRECONDITION || r.kind == LARDER_UNSUPPORTED, "%s", larder_kind_name(r.kind));
    check_message("v");
    cr_expect(eq(u32, r.begins, 0));
}

FOR_EVERY_BACKEND(a_get_of_what_the_caller_has_brings_nothing)
{
    char first[256];

    is(put("v", "0123456789"), LARDER_OK);
    snprintf(first, sizeof first, "%s", r.validator);
    is(get_args("v", &(struct bd_args){ .if_none_match = first }), LARDER_OK);
    cr_expect(r.not_modified);
    is(get_args("v", &(struct bd_args){ .if_none_match = first, .ranged = true, .offset = 2, .length = 3 }), LARDER_OK);
    cr_expect(r.not_modified);
    is(get_args("v", &(struct bd_args){ .if_none_match = "\"another\"" }), LARDER_OK);
    cr_expect(not(r.not_modified));
    cr_expect(got("0123456789"));
    is(put("v", "9876543210"), LARDER_OK);
    is(get_args("v", &(struct bd_args){ .if_none_match = first }), LARDER_OK);
    cr_expect(not(r.not_modified));
    cr_expect(got("9876543210"));
    is(del("v"), LARDER_OK);
    is(get_args("v", &(struct bd_args){ .if_none_match = first }), LARDER_NOT_FOUND);
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

/* ---- copies ---- */

FOR_EVERY_BACKEND(a_copy_has_bytes_and_metadata_of_its_source)
{
    static const uint64_t sizes[] = { 0, 1, 3 * LDR_MIB + 1 };
    struct ldr_meta m;

    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_CONTENT_TYPE, "text/x-larder; charset=utf-8"));
    cr_assert(ldr_meta_add_pair(&m, LDR_TAG_USER, "owner", "someone"));
    cr_assert(ldr_meta_add_pair(&m, LDR_TAG_USER, "a-note", "two words, a comma; and more"));
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        uint8_t *p = bd_bytes(sizes[i], i);
        char v[256];

        is(put_bytes("from/it +%", p, sizes[i], &(struct bd_args){ .put_meta = &m }), LARDER_OK);
        is(copy("from/it +%", "to/ümläut"), LARDER_OK);
        cr_expect(r.sent);
        cr_expect(eq(u32, r.requests, 1));
        cr_expect(ne(i64, r.meta.last_modified_s, LDR_TIME_UNKNOWN));
        snprintf(v, sizeof v, "%s", r.validator);
        is(get("to/ümläut"), LARDER_OK);
        cr_assert(got_bytes(p, sizes[i]));
        check_metadata();
        cr_expect(eq(str, r.validator, v), "copy and get tell one validator");
        is(get("from/it +%"), LARDER_OK);
        cr_assert(got_bytes(p, sizes[i]));
        free(p);
    }
    ldr_meta_release(&m);
}

FOR_EVERY_BACKEND(a_copy_replaces_what_was_there)
{
    is(put("a", "new"), LARDER_OK);
    is(put("b", "a longer old one"), LARDER_OK);
    is(copy("a", "b"), LARDER_OK);
    is(get("b"), LARDER_OK);
    cr_expect(got("new"));
    is(put("a", "newer"), LARDER_OK);
    is(get("b"), LARDER_OK);
    cr_expect(got("new"), "a copy does not follow its source");
}

FOR_EVERY_BACKEND(a_copy_of_nothing_changes_nothing)
{
    is(put("b", "old"), LARDER_OK);
    is(copy("missing", "b"), LARDER_NOT_FOUND);
    check_message("missing");
    is(copy("missing", "c"), LARDER_NOT_FOUND);
    is(get("b"), LARDER_OK);
    cr_expect(got("old"));
    is(get("c"), LARDER_NOT_FOUND);
}

/* S3 refuses it where it would change nothing. */
FOR_EVERY_BACKEND(a_copy_onto_itself_leaves_the_object)
{
    is(put("a", "bytes"), LARDER_OK);
    copy("a", "a");
    cr_expect(r.kind == LARDER_OK || r.kind == LARDER_INVALID, "%s: %s", larder_kind_name(r.kind), r.err.msg);
    is(get("a"), LARDER_OK);
    cr_expect(got("bytes"));
}

/* ---- listings ---- */

static void put_all(const char *const keys[])
{
    for (; *keys; keys++)
        is(put(*keys, *keys), LARDER_OK);
}

FOR_EVERY_BACKEND(a_listing_of_nothing_is_empty)
{
    is(put("a/b", "x"), LARDER_OK);
    is(list("b"), LARDER_OK);
    lists("");
    is(list("a/c"), LARDER_OK);
    lists("");
    is(list("a/b/"), LARDER_OK);
    lists("");
    is(list_grouped("a/c/d/"), LARDER_OK);
    lists("");
    cr_expect(r.page.next == NULL);
    is(list("../" C "/"), LARDER_OK);
    lists("");
    is(del("a/b"), LARDER_OK);
    is(list(""), LARDER_OK);
    lists("");
    cr_expect(eq(u32, r.requests, 1));
}

FOR_EVERY_BACKEND(a_listing_of_a_missing_container_is_not_found_or_empty)
{
    enum larder_kind k = bd_list(on.bd, "no-such-container", "", NULL, &r);

    cr_expect(k == LARDER_NOT_FOUND || (k == LARDER_OK && r.page.n == 0 && !on.buckets_must_exist), "%s", r.err.msg);
}

FOR_EVERY_BACKEND(a_listing_tells_what_a_head_tells)
{
    time_t now = time(NULL);
    const struct ldr_list_entry *e;

    is(put("dir/one", "12345"), LARDER_OK);
    is(put("dir/none", ""), LARDER_OK);
    is(list("dir/o"), LARDER_OK);
    cr_assert(eq(sz, r.page.n, 1));
    e = &r.page.entries[0];
    cr_expect(eq(str, e->key, "dir/one"));
    cr_expect(not(e->is_prefix));
    cr_expect(eq(u64, e->size_bytes, 5));
    cr_expect(e->last_modified_s >= now - 2 && e->last_modified_s <= time(NULL) + 2, "%" PRId64, e->last_modified_s);
    cr_expect(r.page.next == NULL);
    if (e->etag) {
        char etag[256];

        snprintf(etag, sizeof etag, "%s", e->etag);
        is(head("dir/one"), LARDER_OK);
        cr_expect(eq(str, r.etag, etag));
    }
    is(list("dir/n"), LARDER_OK);
    cr_assert(eq(sz, r.page.n, 1));
    cr_expect(eq(u64, r.page.entries[0].size_bytes, 0));
}

FOR_EVERY_BACKEND(a_prefix_and_a_delimiter_choose_and_group)
{
    put_all((const char *const[]){ "a", "b/1", "b/2", "b/c/3", "b-d", "b0", "bb/4", "c/d/e/f", NULL });
    is(list(""), LARDER_OK);
    lists("a b-d b/1 b/2 b/c/3 b0 bb/4 c/d/e/f");
    is(list("b"), LARDER_OK);
    lists("b-d b/1 b/2 b/c/3 b0 bb/4");
    is(list("b/"), LARDER_OK);
    lists("b/1 b/2 b/c/3");
    is(list("b/1"), LARDER_OK);
    lists("b/1");
    is(list_grouped(""), LARDER_OK);
    lists("a b-d b/+ b0 bb/+ c/+");
    is(list_grouped("b"), LARDER_OK);
    lists("b-d b/+ b0 bb/+");
    is(list_grouped("b/"), LARDER_OK);
    lists("b/1 b/2 b/c/+");
    is(list_grouped("c/d"), LARDER_OK);
    lists("c/d/+");
    is(list_grouped("c/d/e/"), LARDER_OK);
    lists("c/d/e/f");
    is(list_args("", &(struct bd_args){ .delimiter = "" }), LARDER_OK);
    lists("a b-d b/1 b/2 b/c/3 b0 bb/4 c/d/e/f");
    for (size_t i = 0; i < r.page.n; i++)
        cr_expect(not(r.page.entries[i].is_prefix));
}

/* versitygw walks folders and knows the delimiter "/" best. */
FOR_EVERY_BACKEND(a_delimiter_may_be_any_text)
{
    put_all((const char *const[]){ "a--b--c", "a--b/c", "a-b", "c/d--e", "c/f", NULL });
    is(list_args("", &(struct bd_args){ .delimiter = "--" }), LARDER_OK);
    lists("a--+ a-b c/d--+ c/f");
    is(list_args("a--", &(struct bd_args){ .delimiter = "--" }), LARDER_OK);
    lists("a--b--+ a--b/c");
}

/* All pages of a listing, `most` entries each; the k-th entry is checked by `check`. Each page starts from a copy of the
 * cursor, on another instance of the backend where there is one. Returns how many. */
static unsigned list_all(const char *prefix, const char *delimiter, unsigned most,
                         void (*check)(unsigned k, const struct ldr_list_entry *e))
{
    char *start = NULL;
    unsigned n = 0, pages = 0;

    do {
        is(list_args(prefix, &(struct bd_args){ .delimiter = delimiter, .start = start, .max_entries = most }),
           LARDER_OK);
        cr_assert(le(u32, ++pages, 3000), "no end");
        for (size_t i = 0; i < r.page.n; i++)
            check(n++, &r.page.entries[i]);
        free(start);
        start = r.page.next ? strdup(r.page.next) : NULL;
        if (start && on.reopen)
            on.reopen();
    } while (start);
    return n;
}

static void check_hundreds(unsigned k, const struct ldr_list_entry *e)
{
    char want[32];

    snprintf(want, sizeof want, "d/%u/%04u", k / 400, k);
    cr_assert(eq(str, e->key, want));
    cr_assert(eq(u64, e->size_bytes, 1));
}

static char seen_groups[4096];

static void gather(unsigned k, const struct ldr_list_entry *e)
{
    snprintf(seen_groups + strlen(seen_groups), sizeof seen_groups - strlen(seen_groups), "%s%s%s", k ? " " : "",
             e->key, e->is_prefix ? "+" : "");
}

FOR_EVERY_BACKEND(a_listing_of_many_keys_comes_in_pages_that_any_instance_goes_on_from)
{
    enum { N = 1200 };
    char key[32];

    for (unsigned i = 0; i < N; i++) {
        snprintf(key, sizeof key, "d/%u/%04u", i / 400, i);
        is(put(key, "x"), LARDER_OK);
    }
    is(list("d/"), LARDER_OK);
    cr_expect(eq(sz, r.page.n, LDR_PAGE_ENTRIES_MAX));
    cr_expect(r.page.next != NULL);
    cr_expect(eq(u32, list_all("d/", NULL, 800, check_hundreds), N));
    cr_expect(eq(u32, list_all("", NULL, 400, check_hundreds), N), "pages that end with a folder");
    cr_expect(eq(u32, list_all("d/", NULL, 333, check_hundreds), N));
    seen_groups[0] = '\0';
    cr_expect(eq(u32, list_all("d/", "/", 1, gather), 3));
    cr_expect(eq(str, seen_groups, "d/0/+ d/1/+ d/2/+"));
    is(list_args("d/", &(struct bd_args){ .delimiter = "/", .max_entries = 3 }), LARDER_OK);
    lists("d/0/+ d/1/+ d/2/+");
    cr_expect(r.page.next == NULL, "the page is full, and there is no more");
}

FOR_EVERY_BACKEND(pages_of_one_entry_tell_each_key_and_group_once)
{
    put_all((const char *const[]){ "a", "b-", "b/1", "b/2/3", "b/2/4", "b0", "c/1", "c/2", "d", NULL });
    seen_groups[0] = '\0';
    list_all("", NULL, 1, gather);
    cr_expect(eq(str, seen_groups, "a b- b/1 b/2/3 b/2/4 b0 c/1 c/2 d"));
    seen_groups[0] = '\0';
    list_all("", "/", 1, gather);
    cr_expect(eq(str, seen_groups, "a b- b/+ b0 c/+ d"));
    seen_groups[0] = '\0';
    list_all("b/", "/", 1, gather);
    cr_expect(eq(str, seen_groups, "b/1 b/2/+"));
}

FOR_EVERY_BACKEND(a_listing_goes_on_where_it_was_whatever_was_deleted)
{
    char *start;

    put_all((const char *const[]){ "a", "b/1", "b/2", "c", NULL });
    is(list_args("", &(struct bd_args){ .max_entries = 2 }), LARDER_OK);
    start = strdup(r.page.next ? r.page.next : "");
    is(del("b/1"), LARDER_OK);
    is(del("b/2"), LARDER_OK);
    is(put("bb", "x"), LARDER_OK);
    is(list_args("", &(struct bd_args){ .start = start }), LARDER_OK);
    lists("bb c");
    free(start);
}

static const char *const *odd_keys;
static bool *odd_seen;

static void check_odd(unsigned k, const struct ldr_list_entry *e)
{
    (void)k;
    for (size_t i = 0; odd_keys[i]; i++)
        if (!strcmp(odd_keys[i], e->key) && !odd_seen[i]) {
            odd_seen[i] = true;
            return;
        }
    cr_expect(false, "%s: \"%s\" was never put, or is told twice", on.name, e->key);
}

static void check_listed(const char *const keys[], size_t n, unsigned most)
{
    bool seen[64] = { false };

    odd_keys = keys;
    odd_seen = seen;
    cr_expect(eq(u32, list_all("", NULL, most, check_odd), (uint32_t)n));
    for (size_t i = 0; i < n; i++)
        cr_expect(seen[i], "%s: \"%s\" is missing", on.name, keys[i]);
}

FOR_EVERY_BACKEND(keys_come_back_byte_for_byte)
{
    static const char *const keys[] = { "a space",     "per%cent",
                                        "a%20b",       "a%2fb",
                                        "plus+plus",   "what?x=1",
                                        "what?",       "frag#ment",
                                        "ümläut",      "日本/東京",
                                        "\"quoted\"",  "it's `so`",
                                        "=&;,@:",      "tilde~(a)!*$",
                                        "back\\slash", "<xml>&amp;",
                                        "dots...",     "...three",
                                        "a/.hidden",   ".start",
                                        "trailing ",   " leading",
                                        "UPPER",       "upper",
                                        "[a]{b}|^",    "deep/er/and/deep/er",
                                        "]]>",         "&#10;",
                                        "%",           "%%41",
                                        "a+b c%2B",    "\xf0\x9f\x8d\x9e",
                                        NULL };

    put_all(keys);
    check_listed(keys, LDR_ARRAY_LEN(keys) - 1, 800);
    check_listed(keys, LDR_ARRAY_LEN(keys) - 1, 3);
    is(list("a%2"), LARDER_OK);
    lists("a%20b a%2fb");
    is(list("plus+"), LARDER_OK);
    lists("plus+plus");
    is(list("=&"), LARDER_OK);
    lists("=&;,@:");
    is(list_grouped("日"), LARDER_OK);
    lists("日本/+");
}

FOR_EVERY_BACKEND(keys_that_xml_cannot_hold_come_back_byte_for_byte)
{
    static const char *const keys[] = { "a\x01"
                                        "b",
                                        "a\nb",
                                        "a\r\nb",
                                        "a\tb",
                                        "del\x7f",
                                        "bad\xff\xfe",
                                        "/lead",
                                        "a//b",
                                        "trail/",
                                        "..",
                                        "./x",
                                        "\xef\xbf\xbf",
                                        NULL };

    if (!on.lists_any_key) {
        close_store();
        cr_skip("this store cannot hold them, or not list them");
    }
    put_all(keys);
    check_listed(keys, LDR_ARRAY_LEN(keys) - 1, 800);
    check_listed(keys, LDR_ARRAY_LEN(keys) - 1, 1);
    is(list("a\n"), LARDER_OK);
    lists("a\nb");
    is(list_grouped("a"), LARDER_OK);
    lists("a\x01"
          "b a\tb a\nb a\r\nb a/+");
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
    open_s3_with("checksum", "none"); /* then the ETag, an MD5, is what it is checked with */
    is(put("k", "0123456789"), LARDER_OK);
    rules("[{\"method\": \"GET\", \"action\": \"wrong_etag\"}]");
    is(get("k"), LARDER_CORRUPT);
    free(p);
}

Test(s3, another_part_than_asked_for_is_corrupt)
{
    static const char *const wrong[] = { "", ", \"first\": -1", ", \"last\": 1", ", \"total\": -8",
                                         ", \"total\": \"*\"" };
    char rule[128];

    open_faulty();
    for (size_t i = 0; i < LDR_ARRAY_LEN(wrong); i++) {
        snprintf(rule, sizeof rule, "[{\"method\": \"GET\", \"action\": \"wrong_range\"%s}]", wrong[i]);
        rules(rule);
        is(get_range("k", 2, 5), LARDER_CORRUPT);
        cr_expect(eq(u32, r.begins, 0), "%s", wrong[i]);
        check_recovery();
    }
    /* a last part that is short, of an object that goes on */
    rules("[{\"method\": \"GET\", \"action\": \"wrong_range\", \"total\": 1}]");
    is(get_range("k", 5, 100), LARDER_CORRUPT);
    check_recovery();
}

Test(s3, a_store_that_ignores_ranges_is_told_from_one_that_has_them)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"ignore_range\"}]");
    is(get_range("k", 2, 5), LARDER_UNSUPPORTED);
    check_message("k");
    cr_expect(eq(u32, r.begins, 0));
    is(get_range("k", 0, 5), LARDER_OK);
    cr_expect(eq(u64, r.length, 10), "it says what really comes");
    cr_expect(got("0123456789"));
    is(get_range("k", 0, 100), LARDER_OK);
    cr_expect(got("0123456789"));
}

Test(s3, another_version_than_asked_for_is_refused)
{
    char v[256];

    open_faulty();
    is(head("k"), LARDER_OK);
    snprintf(v, sizeof v, "%s", r.validator);
    rules("[{\"method\": \"GET\", \"action\": \"wrong_etag\"}]");
    is(get_args("k", &(struct bd_args){ .if_match = v, .ranged = true, .offset = 2, .length = 3 }),
       LARDER_PRECONDITION);
    cr_expect(eq(u32, r.begins, 0));
    check_message("k"); /* asking for the same again is of no use: the reader begins anew */
}

Test(s3, a_part_that_is_the_whole_object_is_checked)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"wrong_body\"}]");
    is(get_range("k", 0, 9), LARDER_OK); /* of a part nobody knows the sum */
    is(get_range("k", 0, 10), LARDER_CORRUPT);
    is(get_range("k", 0, 5000), LARDER_CORRUPT);
    check_recovery();
}

Test(s3, a_weak_etag_is_told_as_such_and_names_no_version)
{
    char weak[256];

    open_faulty();
    rules("[{\"action\": \"weak_etag\"}]");
    is(get_range("k", 2, 3), LARDER_OK);
    cr_expect(got("234"));
    snprintf(weak, sizeof weak, "%s", r.validator);
    cr_expect(eq(int, strncmp(weak, "W/\"", 3), 0));
    cr_expect(not(ldr_validator_strong((const uint8_t *)weak, strlen(weak))));
    is(get_args("k", &(struct bd_args){ .if_match = weak, .ranged = true, .offset = 2, .length = 3 }),
       LARDER_UNSUPPORTED);
    cr_expect(eq(u32, r.requests, 0), "it could only fail");
    check_message("k");
    is(get_args("k", &(struct bd_args){ .if_none_match = weak }), LARDER_OK);
    cr_expect(r.not_modified);
}

Test(s3, a_range_behind_the_end_costs_a_get_and_a_head)
{
    open_faulty();
    is(get_range("k", 10, 5), LARDER_OK);
    cr_expect(eq(u32, r.requests, 2));
    cr_expect(eq(u64, r.meta.size_bytes, 10));
    cr_expect(eq(int, s3_server_count(&on.server, "GET", C "/k"), 1));
    cr_expect(eq(int, s3_server_count(&on.server, "HEAD", C "/k"), 1));
}

Test(s3, a_range_that_is_refused_though_it_is_there_may_be_asked_for_again)
{
    open_faulty();
    rules("[{\"method\": \"GET\", \"action\": \"status\", \"status\": 416, \"code\": \"InvalidRange\"}]");
    is(get_range("k", 2, 5), LARDER_UNAVAILABLE);
    cr_expect(eq(u32, r.begins, 0));
    check_recovery();
}

Test(s3, a_size_that_cannot_be_had_is_an_error_of_the_get)
{
    open_faulty();
    rules("[{\"method\": \"HEAD\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"retry_after\": "
          "3}]");
    is(get_range("k", 20, 5), LARDER_UNAVAILABLE);
    cr_expect(strstr(r.err.msg, "could not get") != NULL, "%s", r.err.msg);
    cr_expect(eq(u32, r.retry_after_ms, 3000));
    cr_expect(eq(u32, r.requests, 2));
    check_recovery();
}

/* ---- s3: listings and copies that go wrong ---- */

static void open_listing(void)
{
    open_faulty();
    put_all((const char *const[]){ "l/1", "l/2", "l/3", NULL });
}

Test(s3, one_listing_is_one_request)
{
    open_listing();
    is(list("l/"), LARDER_OK);
    lists("l/1 l/2 l/3");
    cr_expect(eq(int, s3_server_count(&on.server, "GET", C "/?l/"), 1));
    cr_expect(not(r.sent));
}

Test(s3, a_store_that_escapes_no_keys_is_read_as_it_is)
{
    open_listing();
    is(put("l/a+b%41 &<>", "x"), LARDER_OK);
    rules("[{\"method\": \"GET\", \"action\": \"raw_list\"}]");
    is(list("l/"), LARDER_OK);
    lists("l/1 l/2 l/3 l/a+b%41 &<>");
    is(put("l/\x01", "x"), LARDER_OK);
    is(list("l/"), LARDER_CORRUPT); /* its XML is none */
}

Test(s3, a_listing_of_no_use_is_corrupt_and_tells_nothing)
{
    static const char *const bad[] = {
        "\"action\": \"no_token\"",
        "\"action\": \"same_token\"",
        "\"action\": \"other_list\"",
        "\"action\": \"cut_list\", \"bytes\": 0",
        "\"action\": \"cut_list\", \"bytes\": 5",
        "\"action\": \"cut_list\", \"bytes\": 300",
        "\"action\": \"cut_list\", \"bytes\": 500",
        "\"action\": \"edit_list\", \"from\": \"ListBucketResult xmlns\", \"to\": \"Other xmlns\"",
        "\"action\": \"edit_list\", \"from\": \"<IsTruncated>false</IsTruncated>\", \"to\": \"\"",
        "\"action\": \"edit_list\", \"from\": \"<IsTruncated>false\", \"to\": \"<IsTruncated>maybe\"",
        "\"action\": \"edit_list\", \"from\": \"<Key>l/1\", \"to\": \"<Key>l/%4\"",
        "\"action\": \"edit_list\", \"from\": \"<Key>l/1\", \"to\": \"<Key>l/%00\"",
        "\"action\": \"edit_list\", \"from\": \"<Key>l/1\", \"to\": \"<Key>l/%zz\"",
        "\"action\": \"edit_list\", \"from\": \"<Key>l/1\", \"to\": \"<Key><b>l</b>/1\"",
        "\"action\": \"edit_list\", \"from\": \"<Key>l/1</Key>\", \"to\": \"<Key></Key>\"",
        "\"action\": \"edit_list\", \"from\": \"<Key>l/1</Key>\", \"to\": \"\"",
        "\"action\": \"edit_list\", \"from\": \"<Size>3\", \"to\": \"<Size>-3\"",
        "\"action\": \"edit_list\", \"from\": \"<Size>3\", \"to\": \"<Size>99999999999999999999\"",
        "\"action\": \"edit_list\", \"from\": \"<Size>3\", \"to\": \"<Size>281474976710657\"",
        "\"action\": \"edit_list\", \"from\": \"<Size>3</Size>\", \"to\": \"\"",
    };
    char rule[256];

    open_listing();
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        snprintf(rule, sizeof rule, "[{\"method\": \"GET\", \"key\": \"?\", %s}]", bad[i]);
        rules(rule);
        cr_expect(eq(int, list("l/"), LARDER_CORRUPT), "%s: %s", bad[i], r.err.msg);
        check_message("l/");
    }
    rules("[{\"method\": \"GET\", \"action\": \"whole_list\"}]");
    is(list_args("l/", &(struct bd_args){ .max_entries = 2 }), LARDER_CORRUPT);
    rules("[]");
    is(list("l/"), LARDER_OK);
    lists("l/1 l/2 l/3");
}

Test(s3, what_a_listing_does_not_say_of_an_object_is_unknown)
{
    open_listing();
    rules("[{\"method\": \"GET\", \"action\": \"edit_list\", \"from\": \".000Z<\", \"to\": \"<\"}]");
    is(list("l/"), LARDER_OK);
    cr_expect(eq(i64, r.page.entries[0].last_modified_s, LDR_TIME_UNKNOWN));
    rules("[{\"method\": \"GET\", \"action\": \"edit_list\", \"from\": \"<ETag>\", \"to\": \"<No>no</No><ETag>W/\"}]");
    is(list("l/"), LARDER_OK);
    cr_expect(eq(sz, strlen(r.page.entries[0].etag), 32), "%s", r.page.entries[0].etag);
}

Test(s3, a_listing_that_fails_is_told_by_its_reason)
{
    open_listing();
    rules(
        "[{\"method\": \"GET\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"retry_after\": 2}]");
    is(list("l/"), LARDER_UNAVAILABLE);
    cr_expect(eq(u32, r.retry_after_ms, 2000));
    rules("[{\"method\": \"GET\", \"action\": \"truncate_body\", \"bytes\": 400}]");
    is(list("l/"), LARDER_UNAVAILABLE);
    rules("[{\"method\": \"GET\", \"action\": \"status\", \"status\": 403, \"code\": \"AccessDenied\"}]");
    is(list("l/"), LARDER_DENIED);
    check_message("l/");
    rules("[]");
    is(list_args("l/", &(struct bd_args){ .start = "no cursor" }), LARDER_INVALID);
}

Test(s3, a_copy_that_failed_behind_its_status_is_a_failure)
{
    open_faulty();
    rules("[{\"method\": \"PUT\", \"action\": \"copy_error\", \"code\": \"InternalError\"}]");
    is(copy("k", "k2"), LARDER_UNAVAILABLE);
    cr_expect(r.sent);
    check_message("k");
    cr_expect(strstr(r.err.msg, "InternalError") && strstr(r.err.msg, "in-body"), "%s", r.err.msg);
    rules("[{\"method\": \"PUT\", \"action\": \"copy_error\", \"code\": \"SlowDown\"}]");
    is(copy("k", "k2"), LARDER_UNAVAILABLE);
    rules("[{\"method\": \"PUT\", \"action\": \"copy_error\", \"code\": \"AccessDenied\"}]");
    is(copy("k", "k2"), LARDER_DENIED);
    is(get("k2"), LARDER_NOT_FOUND);
}

Test(s3, a_copy_that_took_long_begins_its_answer_with_blanks)
{
    open_faulty();
    rules("[{\"method\": \"PUT\", \"action\": \"blank_first\"}]");
    is(copy("k", "k2"), LARDER_OK);
    cr_expect(ne(str, r.etag, ""));
    is(get("k2"), LARDER_OK);
}

Test(s3, a_copy_whose_answer_is_lost_or_makes_no_sense_may_have_happened)
{
    open_faulty();
    rules("[{\"method\": \"PUT\", \"action\": \"drop_after_store\"}]");
    is(copy("k", "k2"), LARDER_UNAVAILABLE);
    cr_expect(r.sent);
    rules("[]");
    is(get("k2"), LARDER_OK);
    rules("[{\"method\": \"PUT\", \"action\": \"truncate_body\", \"bytes\": 60}]");
    is(copy("k", "k2"), LARDER_UNAVAILABLE);
    rules("[{\"method\": \"PUT\", \"action\": \"lie_length\", \"delta\": -150}]");
    is(copy("k", "k2"), LARDER_CORRUPT);
    cr_expect(r.sent);
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

/* ---- writes in parts ---- */

#define PARTS_HERE 4

static struct ldr_upload_part parts[PARTS_HERE];
static struct ldr_multipart up;

/* False: this backend takes no parts, and says so. */
static bool takes_parts(void)
{
    if (bd_backend(on.bd)->ops->upload)
        return true;
    bd_result_release(&r);
    is(bd_op(on.bd,
             &(struct ldr_op){ .what = LDR_OP_UPLOAD_BEGIN, .container = C, .key = "k", .upload = &up, .fd = -1 }, &r),
       LARDER_UNSUPPORTED);
    return false;
}

static uint64_t part_size(void)
{
    uint64_t least = bd_backend(on.bd)->ops->part_min;

    return least > 64 * LDR_KIB ? least : 64 * LDR_KIB;
}

static enum larder_kind begin_with(const char *key, const struct ldr_meta *meta, bool copies)
{
    memset(parts, 0, sizeof parts);
    up = (struct ldr_multipart){ .parts = parts, .part_size = part_size(), .copies = copies };
    bd_result_release(&r);
    return bd_op(
        on.bd,
        &(struct ldr_op){
            .what = LDR_OP_UPLOAD_BEGIN, .container = C, .key = key, .upload = &up, .put_meta = meta, .fd = -1 },
        &r);
}

static enum larder_kind begin(const char *key)
{
    return begin_with(key, NULL, false);
}

static enum larder_kind part(const char *key, uint32_t n, const void *p, uint64_t size)
{
    bd_result_release(&r);
    return bd_op(on.bd,
                 &(struct ldr_op){ .what = LDR_OP_UPLOAD_PART,
                                   .container = C,
                                   .key = key,
                                   .upload = &up,
                                   .part = n,
                                   .bytes = p,
                                   .size_bytes = size,
                                   .fd = -1 },
                 &r);
}

static enum larder_kind copy_part(const char *from, uint64_t offset, uint64_t length, const char *if_match,
                                  const char *key, uint32_t n)
{
    bd_result_release(&r);
    return bd_op(on.bd,
                 &(struct ldr_op){ .what = LDR_OP_UPLOAD_COPY,
                                   .container = C,
                                   .key = key,
                                   .upload = &up,
                                   .part = n,
                                   .from_container = C,
                                   .from_key = from,
                                   .offset = offset,
                                   .length = length,
                                   .if_match = if_match,
                                   .fd = -1 },
                 &r);
}

static enum larder_kind end_if(const char *key, uint32_t n, uint64_t size, bool create_only, const char *if_match)
{
    up.n_parts = n;
    bd_result_release(&r);
    return bd_op(on.bd,
                 &(struct ldr_op){ .what = LDR_OP_UPLOAD_END,
                                   .container = C,
                                   .key = key,
                                   .upload = &up,
                                   .size_bytes = size,
                                   .create_only = create_only,
                                   .if_match = if_match,
                                   .fd = -1 },
                 &r);
}

static enum larder_kind end(const char *key, uint32_t n, uint64_t size)
{
    return end_if(key, n, size, false, NULL);
}

static enum larder_kind abort_it(const char *key)
{
    bd_result_release(&r);
    return bd_op(on.bd,
                 &(struct ldr_op){ .what = LDR_OP_UPLOAD_ABORT, .container = C, .key = key, .upload = &up, .fd = -1 },
                 &r);
}

FOR_EVERY_BACKEND(an_object_of_one_part_is_there_when_it_ends)
{
    uint8_t *p = bd_bytes(1000, 1);
    char validator[256];

    if (takes_parts()) {
        is(begin("dir/one"), LARDER_OK);
        cr_expect(not(r.sent), "nobody sees anything of it");
        is(part("dir/one", 1, p, 1000), LARDER_OK);
        cr_expect(eq(u64, parts[0].size, 1000));
        is(get("dir/one"), LARDER_NOT_FOUND);
        is(end("dir/one", 1, 1000), LARDER_OK);
        cr_expect(r.sent);
        cr_expect(eq(u64, r.meta.size_bytes, 1000));
        snprintf(validator, sizeof validator, "%s", r.validator);
        is(get("dir/one"), LARDER_OK);
        cr_expect(got_bytes(p, 1000));
        cr_expect(eq(str, r.validator, validator), "end and get tell one validator");
    }
    free(p);
}

FOR_EVERY_BACKEND(three_parts_in_any_order_make_the_object_and_its_metadata)
{
    uint64_t size, each;
    struct ldr_meta m;
    char type[64];
    uint8_t *p;

    if (!takes_parts())
        return;
    each = part_size();
    size = 2 * each + 12345;
    p = bd_bytes(size, 2);
    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_CONTENT_TYPE, "text/x-parts"));
    is(put("three", "what was there before"), LARDER_OK);
    is(begin_with("three", &m, false), LARDER_OK);
    is(part("three", 3, p + 2 * each, size - 2 * each), LARDER_OK);
    is(part("three", 1, p + each, each), LARDER_OK); /* replaced below */
    is(part("three", 2, p + each, each), LARDER_OK);
    is(part("three", 1, p, each), LARDER_OK);
    is(get("three"), LARDER_OK);
    cr_expect(got("what was there before"));
    is(end("three", 3, size), LARDER_OK);
    is(get("three"), LARDER_OK);
    cr_assert(got_bytes(p, size));
    is(head("three"), LARDER_OK);
    cr_expect(eq(u64, r.meta.size_bytes, size));
    if (strcmp(on.name, "local") != 0) { /* which keeps no metadata */
        cr_assert(ldr_meta_text(&r.meta, LDR_TAG_CONTENT_TYPE, type, sizeof type));
        cr_expect(eq(str, type, "text/x-parts"));
    }
    ldr_meta_release(&m);
    free(p);
}

FOR_EVERY_BACKEND(a_part_may_come_from_a_file)
{
    uint64_t size = 50000;
    uint8_t *p = bd_bytes(size, 3);
    int fd = memfd_create("part", MFD_CLOEXEC);
    struct ldr_op op = { .what = LDR_OP_UPLOAD_PART,
                         .container = C,
                         .key = "file",
                         .upload = &up,
                         .part = 1,
                         .fd = fd,
                         .size_bytes = size };

    cr_assert(eq(long, write(fd, p, size), (long)size));
    if (takes_parts()) {
        is(begin("file"), LARDER_OK);
        bd_result_release(&r);
        op.size_bytes = size + 1;
        cr_expect(ne(int, bd_op(on.bd, &op, &r), LARDER_OK), "the file is shorter");
        bd_result_release(&r);
        op.size_bytes = size;
        is(bd_op(on.bd, &op, &r), LARDER_OK);
        is(end("file", 1, size), LARDER_OK);
        is(get("file"), LARDER_OK);
        cr_expect(got_bytes(p, size));
    }
    close(fd);
    free(p);
}

FOR_EVERY_BACKEND(an_aborted_upload_leaves_nothing_and_may_be_aborted_again)
{
    if (!takes_parts())
        return;
    is(begin("gone"), LARDER_OK);
    is(part("gone", 1, "abc", 3), LARDER_OK);
    is(abort_it("gone"), LARDER_OK);
    is(get("gone"), LARDER_NOT_FOUND);
    is(list(""), LARDER_OK);
    lists("");
    is(abort_it("gone"), LARDER_OK);
    cr_expect(ne(int, part("gone", 2, "def", 3), LARDER_OK));
    cr_expect(ne(int, end("gone", 1, 3), LARDER_OK));
    is(get("gone"), LARDER_NOT_FOUND);
}

FOR_EVERY_BACKEND(an_upload_that_misses_a_part_or_bytes_does_not_end)
{
    if (!takes_parts())
        return;
    is(begin("holes"), LARDER_OK);
    is(part("holes", 2, "def", 3), LARDER_OK);
    is(end("holes", 2, 3), LARDER_INVALID);
    check_message("holes");
    is(end("holes", 0, 0), LARDER_INVALID);
    is(part("holes", 1, "abc", 0), LARDER_INVALID);
    is(part("holes", 0, "abc", 3), LARDER_INVALID);
    is(part("holes", LDR_PARTS_MAX + 1, "abc", 3), LARDER_INVALID);
    is(get("holes"), LARDER_NOT_FOUND);
    is(abort_it("holes"), LARDER_OK);
}

FOR_EVERY_BACKEND(an_upload_that_only_creates_never_replaces)
{
    if (!takes_parts())
        return;
    is(begin("race"), LARDER_OK);
    is(part("race", 1, "ours", 4), LARDER_OK);
    is(put("race", "theirs"), LARDER_OK);
    is(end_if("race", 1, 4, true, NULL), LARDER_EXISTS);
    is(get("race"), LARDER_OK);
    cr_expect(got("theirs"));
    is(abort_it("race"), LARDER_OK);
    is(begin("new"), LARDER_OK);
    is(part("new", 1, "ours", 4), LARDER_OK);
    is(end_if("new", 1, 4, true, NULL), LARDER_OK);
    is(get("new"), LARDER_OK);
    cr_expect(got("ours"));
}

static bool puts_if_match(void)
{
    return bd_backend(on.bd)->ops->caps & LDR_CAP_PUT_IF_MATCH;
}

FOR_EVERY_BACKEND(a_write_of_a_version_replaces_that_version_alone)
{
    char first[256], second[256];

    if (!puts_if_match())
        return;
    is(put("v", "one"), LARDER_OK);
    snprintf(first, sizeof first, "%s", r.validator);
    is(put_bytes("v", "two", 3, &(struct bd_args){ .if_match = first }), LARDER_OK);
    snprintf(second, sizeof second, "%s", r.validator);
    is(put_bytes("v", "three", 5, &(struct bd_args){ .if_match = first }), LARDER_PRECONDITION);
    is(get("v"), LARDER_OK);
    cr_expect(got("two"));
    is(put_bytes("never", "x", 1, &(struct bd_args){ .if_match = first }), LARDER_PRECONDITION);
    is(get("never"), LARDER_NOT_FOUND);
    if (takes_parts()) {
        is(begin("v"), LARDER_OK);
        is(part("v", 1, "four", 4), LARDER_OK);
        is(end_if("v", 1, 4, false, first), LARDER_PRECONDITION);
        is(get("v"), LARDER_OK);
        cr_expect(got("two"));
        is(begin("v"), LARDER_OK);
        is(part("v", 1, "four", 4), LARDER_OK);
        is(end_if("v", 1, 4, false, second), LARDER_OK);
        is(get("v"), LARDER_OK);
        cr_expect(got("four"));
        snprintf(second, sizeof second, "%s", r.validator);
    }
    bd_result_release(&r);
    is(bd_op(on.bd, &(struct ldr_op){ .what = LDR_OP_DELETE, .container = C, .key = "v", .if_match = first, .fd = -1 },
             &r),
       LARDER_PRECONDITION);
    bd_result_release(&r);
    is(bd_op(on.bd, &(struct ldr_op){ .what = LDR_OP_DELETE, .container = C, .key = "v", .if_match = second, .fd = -1 },
             &r),
       LARDER_OK);
    is(get("v"), LARDER_NOT_FOUND);
}

FOR_EVERY_BACKEND(parts_are_copied_from_another_object)
{
    uint64_t size, each;
    char validator[256];
    uint8_t *p;

    if (!takes_parts())
        return;
    each = part_size();
    size = 2 * each + 777;
    p = bd_bytes(size, 4);
    is(put_bytes("from a+b%", p, size, NULL), LARDER_OK);
    snprintf(validator, sizeof validator, "%s", r.validator);
    is(begin_with("copied", NULL, true), LARDER_OK);
    is(copy_part("from a+b%", each, each, validator, "copied", 2), LARDER_OK);
    cr_expect(eq(u64, parts[1].size, each));
    is(copy_part("from a+b%", 2 * each, 777, validator, "copied", 3), LARDER_OK);
    is(copy_part("from a+b%", 0, each, validator, "copied", 1), LARDER_OK);
    is(end("copied", 3, size), LARDER_OK);
    is(get("copied"), LARDER_OK);
    cr_expect(got_bytes(p, size));

    is(begin_with("copied", NULL, true), LARDER_OK);
    is(copy_part("missing", 0, each, NULL, "copied", 1), LARDER_NOT_FOUND);
    is(copy_part("from a+b%", 0, 0, NULL, "copied", 1), LARDER_INVALID);
    cr_expect(ne(int, copy_part("from a+b%", size, 1, NULL, "copied", 1), LARDER_OK), "it has no such bytes");
    is(put_bytes("from a+b%", p, size - 1, NULL), LARDER_OK);
    is(copy_part("from a+b%", 0, each, validator, "copied", 1), LARDER_PRECONDITION);
    is(abort_it("copied"), LARDER_OK);
    free(p);
}

/* ---- batch deletes, making containers ---- */

static enum larder_kind delete_many(const char *container, struct ldr_delete_item *items, size_t n)
{
    bd_result_release(&r);
    return bd_op(
        on.bd,
        &(struct ldr_op){
            .what = LDR_OP_DELETE_MANY, .container = container, .key = "", .items = items, .n_items = n, .fd = -1 },
        &r);
}

FOR_EVERY_BACKEND(many_objects_go_by_one_op)
{
    struct ldr_delete_item items[] = { { .uri = "u", .key = "m/1" },
                                       { .uri = "u", .key = "m/<&>\"' b+%41" },
                                       { .uri = "u", .key = "m/never" },
                                       { .uri = "u", .key = "m/h\xc3\xa9" },
                                       { .uri = "u", .key = "m/1" } };

    if (!bd_backend(on.bd)->ops->delete_many)
        return;
    for (size_t i = 0; i < LDR_ARRAY_LEN(items); i++)
        if (i != 2)
            is(put(items[i].key, "x"), LARDER_OK);
    is(put("m/kept", "x"), LARDER_OK);
    is(delete_many(C, items, LDR_ARRAY_LEN(items)), LARDER_OK);
    cr_expect(r.sent);
    for (size_t i = 0; i < LDR_ARRAY_LEN(items); i++)
        cr_expect(eq(int, items[i].kind, LARDER_OK), "%s: %s", items[i].key, items[i].why);
    is(list("m/"), LARDER_OK);
    lists("m/kept");
    if (on.buckets_must_exist)
        is(delete_many("no-such-container", items, 1), LARDER_NOT_FOUND);
}

FOR_EVERY_BACKEND(a_thousand_objects_are_not_too_many)
{
    static struct ldr_delete_item items[LDR_DELETE_MANY_MAX + 1]; /* one more, which stays */
    static char keys[LDR_DELETE_MANY_MAX + 1][32];

    if (!bd_backend(on.bd)->ops->delete_many)
        return;
    for (size_t i = 0; i < LDR_ARRAY_LEN(items); i++) {
        snprintf(keys[i], sizeof keys[i], "t/%zu", i);
        items[i] = (struct ldr_delete_item){ .uri = "u", .key = keys[i] };
        if (i % 100 == 0)
            is(put(keys[i], "x"), LARDER_OK);
    }
    is(delete_many(C, items, LDR_DELETE_MANY_MAX), LARDER_OK);
    for (size_t i = 0; i < LDR_DELETE_MANY_MAX; i++)
        cr_assert(eq(int, items[i].kind, LARDER_OK), "%s: %s", items[i].key, items[i].why);
    is(list("t/"), LARDER_OK);
    lists("t/1000");
}

static enum larder_kind make_container(const char *name)
{
    bd_result_release(&r);
    return bd_op(on.bd, &(struct ldr_op){ .what = LDR_OP_MAKE_CONTAINER, .container = name, .key = "", .fd = -1 }, &r);
}

FOR_EVERY_BACKEND(a_container_that_was_made_holds_objects)
{
    if (!bd_backend(on.bd)->ops->make_container)
        return;
    is(make_container("new-container"), LARDER_OK);
    is(bd_put(on.bd, "new-container", "k", "x", 1, NULL, &r), LARDER_OK);
    is(make_container("new-container"), LARDER_OK);
    bd_result_release(&r);
    is(bd_get(on.bd, "new-container", "k", NULL, &r), LARDER_OK);
    cr_expect(got("x"), "made again, it is as it was");
    if (strcmp(on.name, "memory") != 0) /* to which any text is a name */
        is(make_container("..//.."), LARDER_INVALID);
}

/* ---- s3: checksums of what is written ---- */

/* What the store keeps of an object's sums; "" : nothing. */
static const char *kept_sum(const char *name)
{
    static char text[96];
    struct ldr_field f;
    size_t pos = 0, n = strlen(name) + 1;

    text[0] = '\0';
    while (ldr_fields_next(r.meta.fields.p, r.meta.fields.len, &pos, &f))
        if (f.tag == LDR_TAG_CHECKSUM && f.len > n && !memcmp(f.p, name, n))
            snprintf(text, sizeof text, "%.*s", (int)(f.len - n), (const char *)f.p + n);
    return text;
}

static void check_every_checksum(void)
{
    static const struct {
        const char *setting, *kept;
    } sums[] = {
        { "auto", "crc32c" }, { "crc32c", "crc32c" }, { "crc64nvme", "crc64nvme" }, { "md5", "" }, { "none", "" }
    };
    static const char *const sign[] = { "auto", "always", "never" };
    uint8_t *p = bd_bytes(200000, 5);

    for (size_t i = 0; i < LDR_ARRAY_LEN(sums); i++)
        for (size_t j = 0; j < LDR_ARRAY_LEN(sign); j++) {
            bd_close(&on.bd);
            open_on("s3", "s3", "s3",
                    (const char *[]){ "endpoint", on.server.endpoint, "region", "us-east-1", "access_key_id",
                                      S3_ACCESS_KEY, "secret_key", S3_SECRET_KEY, "checksum", sums[i].setting,
                                      "sign_payload", sign[j], NULL });
            is(put_bytes("k", p, 200000, NULL), LARDER_OK);
            cr_expect(eq(u32, r.requests, 1));
            is(put("small", "x"), LARDER_OK);
            is(put("empty", ""), LARDER_OK);
            is(get("k"), LARDER_OK);
            cr_expect(got_bytes(p, 200000));
            if (sums[i].kept[0])
                cr_expect(ne(str, (char *)(uintptr_t)kept_sum(sums[i].kept), ""), "%s", sums[i].setting);
            is(begin("parts"), LARDER_OK);
            is(part("parts", 1, p, 200000), LARDER_OK);
            is(end("parts", 1, 200000), LARDER_OK);
            is(get("parts"), LARDER_OK);
            cr_expect(got_bytes(p, 200000));
        }
    free(p);
}

Test(s3, each_checksum_is_taken_and_each_way_to_sign__on_versitygw)
{
    open_s3_on_versitygw();
    check_every_checksum();
}

Test(s3, each_checksum_is_taken_and_each_way_to_sign__on_test_server)
{
    open_s3_on_test_server();
    check_every_checksum();
}

static void check_sum_of_parts(void)
{
    uint64_t each = part_size(), size = each + 100;
    uint8_t *p = bd_bytes(size, 6), raw[LDR_SUM_RAW_MAX];
    char want[LDR_SUM_TEXT_MAX];

    ldr_sum_crc_raw(LDR_SUM_CRC32C, ldr_sum_crc(LDR_SUM_CRC32C, 0, p, size), raw);
    ldr_sum_base64(LDR_SUM_CRC32C, raw, want);
    is(begin("whole"), LARDER_OK);
    cr_assert(eq(int, up.algo, LDR_SUM_CRC32C));
    cr_expect(not(up.composite));
    is(part("whole", 1, p, each), LARDER_OK);
    is(part("whole", 2, p + each, 100), LARDER_OK);
    is(end("whole", 2, size), LARDER_OK);
    cr_expect(eq(str, (char *)(uintptr_t)kept_sum("crc32c"), want), "the end tells the sum of the whole");
    is(head("whole"), LARDER_OK);
    cr_expect(eq(str, (char *)(uintptr_t)kept_sum("crc32c"), want), "and so does a head");
    free(p);
}

Test(s3, an_object_of_parts_has_one_sum_of_all_its_bytes__on_versitygw)
{
    open_s3_on_versitygw();
    check_sum_of_parts();
}

Test(s3, an_object_of_parts_has_one_sum_of_all_its_bytes__on_test_server)
{
    open_s3_on_test_server();
    check_sum_of_parts();
}

Test(s3, a_store_that_refuses_checksums_is_asked_without_and_then_no_more)
{
    uint8_t *p = bd_bytes(200000, 7);

    open_s3_on_test_server();
    rules("[{\"action\": \"no_checksums\"}]");
    is(put_bytes("k", p, 200000, NULL), LARDER_OK);
    cr_expect(eq(u32, r.requests, 2));
    is(put("k2", "x"), LARDER_OK);
    cr_expect(eq(u32, r.requests, 1), "it is remembered");
    is(begin("parts"), LARDER_OK);
    cr_expect(eq(int, up.algo, LDR_SUM_NONE));
    is(part("parts", 1, p, 200000), LARDER_OK);
    is(end("parts", 1, 200000), LARDER_OK);
    is(get("parts"), LARDER_OK);
    cr_expect(got_bytes(p, 200000));
    open_s3_with("checksum", "auto"); /* another one knows nothing yet */
    is(begin("parts"), LARDER_OK);
    cr_expect(eq(u32, r.requests, 2));
    is(abort_it("parts"), LARDER_OK);
    open_s3_with("checksum", "crc32c"); /* what was asked for by name is not given up */
    is(put("k3", "x"), LARDER_UNSUPPORTED);
    free(p);
}

Test(s3, a_refusal_that_is_no_matter_of_checksums_stays_one)
{
    open_s3_on_test_server();
    rules("[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 400, \"code\": \"InvalidRequest\"}]");
    is(put("k", "x"), LARDER_INVALID);
    cr_expect(eq(u32, r.requests, 2));
    rules("[]");
    is(put("k", "x"), LARDER_OK);
    cr_expect(eq(u32, r.requests, 1));
    is(get("k"), LARDER_OK);
    cr_expect(ne(str, (char *)(uintptr_t)kept_sum("crc32c"), ""), "nothing was learnt from it");
    rules("[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 400, \"code\": \"InvalidRequest\"}]");
    is(put("k", "x"), LARDER_INVALID);
    cr_expect(eq(u32, r.requests, 1), "this store is known to take them");
}

Test(s3, a_store_that_tells_nothing_of_checksums_goes_on_to_take_writes)
{
    open_s3_on_test_server();
    rules("[{\"action\": \"mute_checksums\"}]");
    for (int i = 0; i < 2; i++) {
        is(put("k", "some bytes"), LARDER_OK);
        cr_expect(eq(u32, r.requests, 1));
        is(begin("parts"), LARDER_OK);
        is(part("parts", 1, "abc", 3), LARDER_OK);
        is(end("parts", 1, 3), LARDER_OK);
    }
    is(get("parts"), LARDER_OK);
    cr_expect(got("abc"));
}

Test(s3, a_store_that_tells_another_checksum_than_was_sent_has_other_bytes)
{
    open_s3_on_test_server();
    rules("[{\"action\": \"wrong_checksum\"}]");
    is(put("k", "some bytes"), LARDER_CORRUPT);
    check_message("k");
    rules("[]");
    is(begin("parts"), LARDER_OK);
    rules("[{\"action\": \"wrong_checksum\"}]");
    is(part("parts", 1, "abc", 3), LARDER_CORRUPT);
    cr_expect(eq(u64, parts[0].size, 0), "the part is not there");
    rules("[]");
    is(part("parts", 1, "abc", 3), LARDER_OK);
    rules("[{\"method\": \"POST\", \"action\": \"wrong_checksum\"}]");
    is(end("parts", 1, 3), LARDER_CORRUPT);
    check_message("parts");
}

/* ---- the same on minio, another store with ideas of its own ---- */

static void open_s3_on_minio(void)
{
    time_t end_s = time(NULL) + 20;
    char reason[512];

    test_dir_make(on.dir);
    need(s3_server_start_minio(&on.server, on.dir, reason, sizeof reason), reason);
    on.buckets_must_exist = true;
    on.reopen = reopen_s3;
    open_s3(S3_ACCESS_KEY, S3_SECRET_KEY);
    while (make_container(C) == LARDER_UNAVAILABLE && strstr(r.err.msg, "NotInitialized") && time(NULL) < end_s)
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL); /* it is ready before it is */
    is(r.kind, LARDER_OK);
}

#define ON_MINIO(name)                                                                                                 \
    Test(s3, name##__on_minio)                                                                                         \
    {                                                                                                                  \
        open_s3_on_minio();                                                                                            \
        name();                                                                                                        \
    }

ON_MINIO(check_every_checksum)
ON_MINIO(check_sum_of_parts)
ON_MINIO(three_parts_in_any_order_make_the_object_and_its_metadata)
ON_MINIO(an_aborted_upload_leaves_nothing_and_may_be_aborted_again)
ON_MINIO(an_upload_that_only_creates_never_replaces)
ON_MINIO(parts_are_copied_from_another_object)
ON_MINIO(many_objects_go_by_one_op)
ON_MINIO(a_thousand_objects_are_not_too_many)
ON_MINIO(a_container_that_was_made_holds_objects)

/* ---- s3: uploads and batch deletes that go wrong ---- */

static int open_uploads(void)
{
    char *text = s3_server_control(&on.server, "GET", "/uploads", NULL);
    int n = -1;

    cr_assert(text && sscanf(text, "{\"uploads\": %d}", &n) == 1);
    free(text);
    return n;
}

static void open_upload(void)
{
    open_s3_on_test_server();
    is(begin("up"), LARDER_OK);
    is(part("up", 1, "abc", 3), LARDER_OK);
}

Test(s3, an_upload_that_is_over_holds_nothing_in_the_store)
{
    open_upload();
    cr_expect(eq(int, open_uploads(), 1));
    is(abort_it("up"), LARDER_OK);
    cr_expect(eq(int, open_uploads(), 0));
    is(begin("up"), LARDER_OK);
    is(part("up", 1, "abc", 3), LARDER_OK);
    is(end("up", 1, 3), LARDER_OK);
    cr_expect(eq(int, open_uploads(), 0));
    is(end("up", 1, 3), LARDER_OK); /* the answer was good, so the object's ETag proves it */
}

Test(s3, an_end_that_failed_behind_its_status_is_a_failure)
{
    open_upload();
    rules("[{\"method\": \"POST\", \"action\": \"copy_error\", \"code\": \"InternalError\"}]");
    is(end("up", 1, 3), LARDER_UNAVAILABLE);
    check_message("up");
    is(get("up"), LARDER_NOT_FOUND);
    rules("[{\"method\": \"POST\", \"action\": \"copy_error\", \"code\": \"PreconditionFailed\"}]");
    is(end_if("up", 1, 3, true, NULL), LARDER_EXISTS);
    rules("[{\"method\": \"POST\", \"action\": \"truncate_body\", \"bytes\": 80}]");
    is(end("up", 1, 3), LARDER_UNAVAILABLE);
    rules("[]");
    is(end("up", 1, 3), LARDER_OK);
}

Test(s3, an_end_that_took_long_begins_its_answer_with_blanks)
{
    open_upload();
    rules("[{\"method\": \"POST\", \"action\": \"blank_first\"}]");
    is(end("up", 1, 3), LARDER_OK);
    is(get("up"), LARDER_OK);
    cr_expect(got("abc"));
}

Test(s3, an_end_whose_answer_was_lost_is_found_to_have_happened)
{
    open_upload();
    rules("[{\"method\": \"POST\", \"action\": \"drop_after_store\"}]");
    end("up", 1, 3); /* curl may send it again by itself, on a connection that was kept */
    cr_expect(r.kind == LARDER_UNAVAILABLE || r.kind == LARDER_OK, "%s", r.err.msg);
    cr_expect(r.sent);
    rules("[]");
    is(end("up", 1, 3), LARDER_OK);
    cr_expect(eq(u32, r.requests, 2), "refused, then a head");
    cr_expect(eq(u64, r.meta.size_bytes, 3));
    cr_expect(ne(str, r.validator, ""));
    is(put("up", "xyz"), LARDER_OK); /* as long, and another */
    is(end("up", 1, 3), LARDER_OUTCOME_UNKNOWN);
    check_message("up");
    is(del("up"), LARDER_OK);
    is(end("up", 1, 3), LARDER_OUTCOME_UNKNOWN);
    rules("[{\"method\": \"HEAD\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\"}]");
    is(end("up", 1, 3), LARDER_UNAVAILABLE);
    rules("[{\"method\": \"HEAD\", \"action\": \"status\", \"status\": 403, \"code\": \"AccessDenied\"}]");
    is(end("up", 1, 3), LARDER_OUTCOME_UNKNOWN); /* whoever may write may not read everywhere */
}

Test(s3, an_end_of_an_upload_that_somebody_aborted_is_not_found)
{
    open_upload();
    is(abort_it("up"), LARDER_OK);
    is(end("up", 1, 3), LARDER_NOT_FOUND);
    cr_expect(not(r.no_container));
    cr_expect(strstr(r.err.msg, "no such upload") != NULL, "%s", r.err.msg);
    is(part("up", 1, "abc", 3), LARDER_NOT_FOUND);
}

Test(s3, a_part_that_changed_in_the_store_does_not_become_the_object)
{
    open_upload();
    snprintf(parts[0].etag, sizeof parts[0].etag, "\"<&>\"");
    is(end("up", 1, 3), LARDER_INVALID);
    is(get("up"), LARDER_NOT_FOUND);
}

Test(s3, a_copied_part_that_failed_behind_its_status_is_a_failure)
{
    open_faulty();
    is(begin_with("up", NULL, true), LARDER_OK);
    rules("[{\"method\": \"PUT\", \"action\": \"copy_error\", \"code\": \"SlowDown\"}]");
    is(copy_part("k", 0, 5, NULL, "up", 1), LARDER_UNAVAILABLE);
    cr_expect(eq(u64, parts[0].size, 0));
    rules("[{\"method\": \"PUT\", \"action\": \"blank_first\"}]");
    is(copy_part("k", 0, 5, NULL, "up", 1), LARDER_OK);
    is(end("up", 1, 5), LARDER_OK);
    is(get("up"), LARDER_OK);
    cr_expect(got("01234"));
}

Test(s3, a_batch_delete_tells_each_objects_failure)
{
    struct ldr_delete_item items[] = { { .uri = "u", .key = "b/1" },
                                       { .uri = "u", .key = "b/no&2" },
                                       { .uri = "u", .key = "b/\x01" },
                                       { .uri = "u", .key = "b/\xff" },
                                       { .uri = "u", .key = "" } };

    open_s3_on_test_server();
    is(put("b/1", "x"), LARDER_OK);
    is(put("b/no&2", "x"), LARDER_OK);
    rules("[{\"method\": \"POST\", \"action\": \"delete_error\", \"at\": \"no\", \"code\": \"AccessDenied\"}]");
    is(delete_many(C, items, 5), LARDER_OK);
    cr_expect(eq(int, items[0].kind, LARDER_OK));
    cr_expect(eq(int, items[1].kind, LARDER_DENIED));
    cr_expect(eq(str, items[1].why, "AccessDenied: No <way>."));
    cr_expect(eq(int, items[2].kind, LARDER_UNSUPPORTED));
    cr_expect(eq(int, items[3].kind, LARDER_UNSUPPORTED));
    cr_expect(eq(int, items[4].kind, LARDER_INVALID));
    rules("[{\"method\": \"POST\", \"action\": \"delete_error\", \"at\": \"no\", \"code\": \"NoSuchKey\"}]");
    is(delete_many(C, items + 1, 1), LARDER_OK);
    cr_expect(eq(int, items[1].kind, LARDER_OK), "gone is gone");
    rules("[{\"method\": \"POST\", \"action\": \"delete_error\", \"at\": \"no\", \"code\": \"AccessDenied\", \"says\": "
          "\"other\"}]");
    is(delete_many(C, items, 2), LARDER_CORRUPT);
    rules("[{\"method\": \"POST\", \"action\": \"truncate_body\", \"bytes\": 30}]");
    is(delete_many(C, items, 2), LARDER_UNAVAILABLE);
    rules("[{\"method\": \"POST\", \"action\": \"no_checksums\", \"count\": 1}]");
    open_s3_with("checksum", "auto");
    is(delete_many(C, items, 2), LARDER_OK);
    cr_expect(eq(u32, r.requests, 2));
    is(delete_many(C, items, 0), LARDER_INVALID);
    is(delete_many(C, items + 2, 1), LARDER_OK);
    cr_expect(eq(u32, r.requests, 0), "there was nothing to ask");
}

Test(s3, a_bucket_of_somebody_elses_is_not_made)
{
    open_s3_on_test_server();
    rules("[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 409, \"code\": \"BucketAlreadyExists\"}]");
    is(make_container("theirs"), LARDER_EXISTS);
    rules("[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 403, \"code\": \"AccessDenied\"}]");
    is(make_container("denied"), LARDER_DENIED);
}

/* ---- s3: signed URLs ---- */

static struct ldr_signing signed_url;

static enum larder_kind sign(const char *key, const struct ldr_signing *s)
{
    ldr_buf_release(&signed_url.url);
    ldr_buf_release(&signed_url.headers);
    signed_url = *s;
    bd_result_release(&r);
    return bd_op(
        on.bd, &(struct ldr_op){ .what = LDR_OP_SIGN, .container = C, .key = key, .sign = &signed_url, .fd = -1 }, &r);
}

/* What curl, which knows nothing of larder, gets as status for it. Arguments are passed as they are, without a shell. */
static int curl(const char *url, const char *const more[])
{
    const char *argv[32] = { "curl", "-s", "-o", NULL, "-w", "%{http_code}", "--path-as-is", "--globoff", url };
    char body[TEST_DIR_MAX + 16], text[16] = "";
    size_t n = 9;
    int out[2], status;
    pid_t pid;

    snprintf(body, sizeof body, "%s/curl.out", on.dir);
    argv[3] = body;
    while (*more)
        argv[n++] = *more++;
    cr_assert(eq(int, pipe(out), 0));
    pid = fork();
    if (pid == 0) {
        dup2(out[1], 1);
        execvp("curl", (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(out[1]);
    for (size_t got_n = 0; got_n < sizeof text - 1;) {
        ssize_t some = read(out[0], text + got_n, sizeof text - 1 - got_n);

        if (some <= 0)
            break;
        got_n += (size_t)some;
    }
    close(out[0]);
    waitpid(pid, &status, 0);
    return atoi(text);
}

#define URL ((const char *)signed_url.url.p)

/* The nth line (from 0) of the headers that must be sent; NULL: there are not so many. */
static const char *header_line(int n)
{
    static char line[4][256];
    const char *p = ldr_buf_str(&signed_url.headers);

    for (int i = 0; i < n && *p; i++)
        p += strcspn(p, "\n") + 1;
    if (!*p)
        return NULL;
    snprintf(line[n], sizeof line[n], "%.*s", (int)strcspn(p, "\n"), p);
    return line[n];
}

static void need_curl(void)
{
    need(system("curl --version >/dev/null 2>&1") == 0, "curl is not installed");
}

Test(s3, whoever_has_a_signed_url_may_read_that_object_alone)
{
    char other[4096], *at;

    need_curl();
    open_s3_on_versitygw();
    is(put("dir/a b+c%41", "hello"), LARDER_OK);
    is(put("dir/b", "secret"), LARDER_OK);
    is(sign("dir/a b+c%41", &(struct ldr_signing){ .lifetime_s = 60 }), LARDER_OK);
    cr_expect(eq(u32, r.requests, 0));
    cr_expect(signed_url.expires_s >= time(NULL) + 50 && signed_url.expires_s <= time(NULL) + 60);
    cr_expect(header_line(0) == NULL);
    cr_expect(eq(int, curl(URL, (const char *[]){ NULL }), 200));
    cr_expect(eq(int, curl(URL, (const char *[]){ "-X", "DELETE", NULL }), 403));
    snprintf(other, sizeof other, "%s", URL);
    at = strstr(other, "a%20b%2Bc%2541");
    cr_assert(at != NULL, "%s", URL);
    memmove(at, at + strlen("a%20b%2Bc%2541") - 1, strlen(at + strlen("a%20b%2Bc%2541") - 1) + 1);
    *at = 'b';
    cr_expect(eq(int, curl(other, (const char *[]){ NULL }), 403));
}

Test(s3, a_signed_put_needs_the_headers_that_it_tells_and_those_bytes)
{
    static const char md5[] = "XUFAKrxLKna5cZ2REBfFkg=="; /* of "hello" */
    char file[TEST_DIR_MAX + 16];
    FILE *f;

    need_curl();
    open_s3_on_versitygw();
    snprintf(file, sizeof file, "%s/body", on.dir);
    f = fopen(file, "w");
    cr_assert(f && fputs("hello", f) >= 0 && fclose(f) == 0);
    is(sign("in", &(struct ldr_signing){ .put = true, .lifetime_s = 60, .content_md5 = md5, .md5_in_metadata = true }),
       LARDER_OK);
    cr_assert(header_line(0) && header_line(1) && !header_line(2));
    cr_expect(eq(int, curl(URL, (const char *[]){ "-T", file, NULL }), 403), "no headers");
    cr_expect(eq(int, curl(URL, (const char *[]){ "-T", file, "-H", header_line(0), NULL }), 403), "one is missing");
    cr_expect(eq(int,
                 curl(URL, (const char *[]){ "-T", file, "-H", "Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==", "-H",
                                             header_line(1), NULL }),
                 403),
              "another MD5");
    is(get("in"), LARDER_NOT_FOUND);
    cr_expect(
        eq(int, curl(URL, (const char *[]){ "-T", file, "-H", header_line(0), "-H", header_line(1), NULL }), 200));
    is(get("in"), LARDER_OK);
    cr_expect(got("hello"));
    f = fopen(file, "w");
    cr_assert(f && fputs("other", f) >= 0 && fclose(f) == 0);
    cr_expect(eq(int, curl(URL, (const char *[]){ "-T", file, "-H", header_line(0), "-H", header_line(1), NULL }), 400),
              "other bytes");
    is(sign("typed", &(struct ldr_signing){ .put = true, .lifetime_s = 60, .content_type = "text/x-t" }), LARDER_OK);
    cr_expect(eq(int, curl(URL, (const char *[]){ "-T", file, "-H", "Content-Type: text/other", NULL }), 403));
    cr_expect(eq(int, curl(URL, (const char *[]){ "-T", file, "-H", header_line(0), NULL }), 200));
}

Test(s3, what_cannot_be_signed_is_refused)
{
    open_s3_on_test_server();
    is(sign("k", &(struct ldr_signing){ .lifetime_s = 0 }), LARDER_INVALID);
    is(sign("k", &(struct ldr_signing){ .lifetime_s = -5 }), LARDER_INVALID);
    is(sign("", &(struct ldr_signing){ .lifetime_s = 5 }), LARDER_INVALID);
    is(sign("k", &(struct ldr_signing){ .lifetime_s = 5, .put = true, .content_type = "a\nHost: b" }), LARDER_INVALID);
    cr_expect(signed_url.url.p == NULL);
}
