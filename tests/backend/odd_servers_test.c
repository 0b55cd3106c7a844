/* odd_servers_test.c - the s3 backend against real servers that are unlike AWS: moto (any key), rclone (files), Swift's
 * s3api (an S3 of old); and larderd on a network that is slow, cut and reset, in front of versitygw. What such a server
 * cannot do is written down here too: another version of it that can shows as a failure. */
#include "tests/e2e/e2e.h"
#include "tests/support/odd_servers.h"
#include "tests/support/op_upload.h"

#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>

#define C        "bucket-1"
#define USER     "larder:test" /* as Swift wants names of users */
#define SECRET   S3_SECRET_KEY
#define PART_MIN (5 * LDR_MIB)

/* What the test at hand runs on; each test is a process. */
static struct {
    const char *name;
    bool any_key;       /* holds every key of up to 1024 bytes */
    bool tells_crc;     /* of what was put; else it gets Content-MD5 too */
    bool put_condition; /* create_only, if_match of a put; else they are refused */
    bool end_if_match;  /* of an upload in parts; else it is ignored */
    bool match_parts;   /* if_match with uploads in parts can hold; else it never does */
    bool checks;        /* signatures */
    bool says_ours;     /* of a bucket that was made before */
    bool knows_uploads; /* says so of one that is over; else it fails */
    struct real_server server;
    struct tap tap; /* in front of it */
    struct bd *bd;
    char dir[TEST_DIR_MAX];
} on;

static struct bd_result r; /* of the last call */

/* ---- the servers ---- */

static void open_with(const char *secret, const char *name, const char *value)
{
    struct larder_err err = { 0 };

    bd_close(&on.bd);
    cr_assert(eq(int,
                 bd_open("s3", "s3",
                         (const char *[]){ "endpoint", on.tap.url, "region", "us-east-1", "access_key_id", USER,
                                           "secret_key", secret, name, value, NULL },
                         &on.bd, &err),
                 LARDER_OK),
              "%s", err.msg);
}

/* Of a server that is not installed a test says nothing; one that is and does not start is a failure where servers are
 * due. */
static void start(struct real_server *s, enum odd_server which)
{
    char path[PATH_MAX], reason[512] = "";

    if (!odd_server_find(which, path, sizeof path, reason, sizeof reason)) {
        fprintf(stderr, "SKIPPED: %s\n", reason);
        test_dir_remove(on.dir);
        cr_skip("%s", reason);
    }
    need_server(odd_server_start(s, which, on.dir, USER, SECRET, reason, sizeof reason), reason);
}

static void open_on(const char *name, enum odd_server which)
{
    on.name = name;
    test_dir_make(on.dir);
    start(&on.server, which);
    tap_open(&on.tap, on.server.port);
    open_with(SECRET, NULL, NULL);
    bd_op(on.bd, &(struct ldr_op){ .what = LDR_OP_MAKE_CONTAINER, .container = C, .key = "", .fd = -1 }, &r);
    cr_assert(eq(int, r.kind, LARDER_OK), "%s: %s", name, r.err.msg);
}

static void open_moto(void)
{
    on.any_key = on.put_condition = on.says_ours = on.match_parts = true;
    open_on("moto", ODD_MOTO);
}

static void open_rclone(void)
{
    on.tells_crc = on.put_condition = on.end_if_match = on.match_parts = on.checks = on.knows_uploads = true;
    open_on("rclone", ODD_RCLONE);
}

static void open_swift(void)
{
    on.any_key = on.end_if_match = on.checks = on.says_ours = on.knows_uploads = true;
    open_on("swift", ODD_SWIFT);
}

static void close_store(void)
{
    bd_result_release(&r);
    bd_close(&on.bd);
    tap_close(&on.tap);
    real_server_stop(&on.server);
    test_dir_remove(on.dir);
}

TestSuite(odd_servers, .fini = close_store, .timeout = 120);

#define ON(server, name)                                                                                               \
    Test(odd_servers, name##__##server)                                                                                \
    {                                                                                                                  \
        open_##server();                                                                                               \
        name();                                                                                                        \
    }
#define FOR_EVERY_SERVER(name)                                                                                         \
    static void name(void);                                                                                            \
    ON(moto, name)                                                                                                     \
    ON(rclone, name)                                                                                                   \
    ON(swift, name)                                                                                                    \
    static void name(void)

/* ---- short forms; each leaves its result in r ---- */

#define is(call, want)                                                                                                 \
    cr_assert(eq(int, (int)(call), (int)(want)), "%s: %s: %s", on.name, larder_kind_name(r.kind), r.err.msg)

static enum larder_kind get_args(const char *key, const struct bd_args *args)
{
    bd_result_release(&r);
    return bd_get(on.bd, C, key, args, &r);
}

static enum larder_kind get(const char *key)
{
    return get_args(key, NULL);
}

static enum larder_kind head(const char *key)
{
    bd_result_release(&r);
    return bd_head(on.bd, C, key, &r);
}

static enum larder_kind put_args(const char *key, const void *p, uint64_t n, const struct bd_args *args)
{
    bd_result_release(&r);
    return bd_put(on.bd, C, key, p, n, args, &r);
}

static enum larder_kind put(const char *key, const char *text)
{
    return put_args(key, text, strlen(text), NULL);
}

static enum larder_kind del(const char *key)
{
    bd_result_release(&r);
    return bd_delete(on.bd, C, key, &r);
}

static enum larder_kind list(const char *prefix, const char *delimiter, const char *from, unsigned max)
{
    bd_result_release(&r);
    return bd_list(on.bd, C, prefix, &(struct bd_args){ .delimiter = delimiter, .start = from, .max_entries = max },
                   &r);
}

static bool lists(const char *key)
{
    for (size_t i = 0; i < r.page.n; i++)
        if (!strcmp(r.page.entries[i].key, key))
            return true;
    return false;
}

static bool got_bytes(const void *p, uint64_t n)
{
    return r.bytes.len == n && (n == 0 || !memcmp(r.bytes.p, p, n));
}

static bool got(const char *text)
{
    return got_bytes(text, strlen(text));
}

/* ---- objects ---- */

FOR_EVERY_SERVER(objects_come_and_go)
{
    static const uint64_t sizes[] = { 0, 1, 100000, 9 * LDR_MIB };
    char validator[256];

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        uint8_t *p = bd_bytes(sizes[i], i);

        is(put_args("dir/object", p, sizes[i], NULL), LARDER_OK);
        snprintf(validator, sizeof validator, "%s", r.validator);
        is(get("dir/object"), LARDER_OK);
        cr_assert(got_bytes(p, sizes[i]), "%s: %" PRIu64 " bytes", on.name, sizes[i]);
        cr_expect(eq(str, r.validator, validator), "put and get tell one validator");
        is(head("dir/object"), LARDER_OK);
        cr_expect(eq(u64, r.meta.size_bytes, sizes[i]));
        cr_expect(eq(str, r.validator, validator));
        cr_expect(r.meta.last_modified_s > time(NULL) - 60);
        free(p);
    }
    is(get_args("dir/object", &(struct bd_args){ .if_none_match = validator }), LARDER_OK);
    cr_expect(r.not_modified);
    is(get_args("dir/object", &(struct bd_args){ .if_match = validator }), LARDER_OK);
    is(put("dir/object", "another"), LARDER_OK);
    cr_expect(ne(str, r.validator, validator));
    is(get_args("dir/object", &(struct bd_args){ .if_match = validator }), LARDER_PRECONDITION);
    is(get_args("dir/object", &(struct bd_args){ .if_none_match = validator }), LARDER_OK);
    cr_expect(got("another"));
    bd_result_release(&r);
    is(bd_copy(on.bd, C, "dir/object", "dir/copy", &r), LARDER_OK);
    is(get("dir/copy"), LARDER_OK);
    cr_expect(got("another"));
    is(del("dir/object"), LARDER_OK);
    is(get("dir/object"), LARDER_NOT_FOUND);
    is(head("dir/object"), LARDER_NOT_FOUND);
    is(del("dir/object"), LARDER_OK);
    is(get("dir/copy"), LARDER_OK);
    bd_result_release(&r);
    is(bd_get(on.bd, "no-such-bucket", "k", NULL, &r), LARDER_NOT_FOUND);
    bd_result_release(&r);
    is(bd_put(on.bd, "no-such-bucket", "k", "x", 1, NULL, &r), LARDER_NOT_FOUND);
}

FOR_EVERY_SERVER(a_range_is_exactly_its_bytes)
{
    enum { SIZE = 1000000 };
    static const struct {
        uint64_t offset, length, want;
    } parts[] = { { 0, 1, 1 },
                  { 999999, 1, 1 },
                  { 1234, 700000, 700000 },
                  { 999990, 100, 10 },
                  { 0, SIZE, SIZE },
                  { 0, 8 * LDR_MIB, SIZE },
                  { 500000, LDR_OBJECT_SIZE_MAX, 500000 },
                  { SIZE, 5, 0 },
                  { 2000000, 5, 0 } };
    uint8_t *p = bd_bytes(SIZE, 1);

    is(put_args("parts", p, SIZE, NULL), LARDER_OK);
    for (size_t i = 0; i < LDR_ARRAY_LEN(parts); i++) {
        is(get_args("parts", &(struct bd_args){ .ranged = true, .offset = parts[i].offset, .length = parts[i].length }),
           LARDER_OK);
        cr_expect(eq(u64, r.length, parts[i].want), "part %zu", i);
        cr_expect(eq(u64, r.meta.size_bytes, SIZE));
        cr_expect(got_bytes(p + parts[i].offset, parts[i].want), "part %zu", i);
    }
    is(put("empty", ""), LARDER_OK);
    is(get_args("empty", &(struct bd_args){ .ranged = true, .length = 10 }), LARDER_OK);
    cr_expect(eq(u64, r.length, 0));
    free(p);
}

FOR_EVERY_SERVER(a_listing_tells_all_keys_in_pages_and_groups)
{
    char key[32], *next = NULL;
    size_t n = 0, pages = 0;

    is(list("", NULL, NULL, 10), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 0));
    for (int i = 0; i < 25; i++) {
        snprintf(key, sizeof key, "l/%c/%02d &<>+%%41", 'a' + i % 2, i);
        is(put(key, "x"), LARDER_OK);
    }
    do {
        is(list("l/", NULL, next, 10), LARDER_OK);
        free(next);
        next = r.page.next ? strdup(r.page.next) : NULL;
        for (size_t i = 0; i < r.page.n; i++)
            cr_expect(eq(u64, r.page.entries[i].size_bytes, 1));
        n += r.page.n;
        pages++;
    } while (next && pages < 10);
    free(next);
    cr_expect(eq(sz, n, 25), "%s", on.name);
    is(list("l/", "/", NULL, 10), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 2));
    cr_expect(lists("l/a/") && lists("l/b/") && r.page.entries[0].is_prefix);
    is(list("l/a/", "/", NULL, 800), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 13));
    cr_expect(lists("l/a/02 &<>+%41"));
}

FOR_EVERY_SERVER(metadata_comes_back)
{
    struct ldr_meta m;
    struct ldr_field f;
    static const char user[] = "colour\0deep blue";

    ldr_meta_init(&m);
    cr_assert(ldr_meta_add(&m, LDR_TAG_CONTENT_TYPE, "text/x-larder", 13) &&
              ldr_meta_add(&m, LDR_TAG_USER, user, sizeof user - 1));
    is(put_args("meta", "x", 1, &(struct bd_args){ .put_meta = &m }), LARDER_OK);
    ldr_meta_release(&m);
    is(head("meta"), LARDER_OK);
    cr_expect(ldr_fields_find(r.meta.fields.p, r.meta.fields.len, LDR_TAG_CONTENT_TYPE, &f) && f.len == 13 &&
                  !memcmp(f.p, "text/x-larder", 13),
              "%s", on.name);
    cr_expect(ldr_fields_find(r.meta.fields.p, r.meta.fields.len, LDR_TAG_USER, &f) && f.len == sizeof user - 1 &&
                  !memcmp(f.p, user, f.len),
              "%s", on.name);
}

/* ---- what goes along with bytes ---- */

FOR_EVERY_SERVER(a_write_ends_up_with_a_checksum_that_the_server_knows)
{
    is(put("sum", "first"), LARDER_OK);
    cr_expect(eq(uint, r.requests, 1));
    cr_expect(tap_saw(&on.tap, "x-amz-checksum-crc32c: "));
    cr_expect(not(tap_saw(&on.tap, "Content-MD5: ")));
    tap_clear(&on.tap);
    is(put("sum", "second"), LARDER_OK);
    cr_expect(eq(uint, r.requests, 1));
    cr_expect(eq(int, tap_saw(&on.tap, "Content-MD5: qfDmGhN9hqqdtTRl4IAWEg=="), !on.tells_crc), "%s", on.name);
    is(get("sum"), LARDER_OK);
    cr_expect(got("second"));
}

FOR_EVERY_SERVER(every_way_to_check_and_sign_a_body_works)
{
    static const char *const settings[][2] = { { "checksum", "crc32c" },     { "checksum", "crc64nvme" },
                                               { "checksum", "md5" },        { "checksum", "none" },
                                               { "sign_payload", "always" }, { "sign_payload", "never" } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(settings); i++) {
        open_with(SECRET, settings[i][0], settings[i][1]);
        is(put("k", settings[i][1]), LARDER_OK);
        is(get("k"), LARDER_OK);
        cr_expect(got(settings[i][1]));
    }
}

/* ---- uploads in parts ---- */

static struct op_upload u;
static struct larder_err err;

#define ok(call) cr_assert(eq(int, (call), LARDER_OK), "%s: %s", on.name, err.msg)

static void begin(const char *key)
{
    op_upload_init(&u, on.bd, C, key, PART_MIN);
    ok(op_upload_begin(&u, NULL, &err));
}

FOR_EVERY_SERVER(an_upload_in_parts_is_the_whole_object)
{
    uint64_t size = 2 * PART_MIN + 77;
    uint8_t *p = bd_bytes(size, 3);
    char validator[256] = "";

    begin("up/parts");
    ok(op_upload_part(&u, 3, p + 2 * PART_MIN, 77, &err));
    ok(op_upload_part(&u, 1, p, PART_MIN, &err));
    is(get("up/parts"), LARDER_NOT_FOUND);
    ok(op_upload_part(&u, 2, p + PART_MIN, PART_MIN, &err));
    ok(op_upload_end(&u, 3, size, NULL, validator, &err));
    is(get("up/parts"), LARDER_OK);
    cr_assert(got_bytes(p, size), "%s", on.name);
    cr_expect(eq(str, r.validator, validator), "%s", on.name);
    cr_expect(eq(int, strchr(validator, '-') == NULL, !strcmp(on.name, "rclone")), "%s: %s", on.name, validator);
    ok(op_upload_end(&u, 3, size, NULL, NULL, &err)); /* as after an answer that was lost */
    is(get_args("up/parts", &(struct bd_args){ .ranged = true, .offset = PART_MIN - 5, .length = 10 }), LARDER_OK);
    cr_expect(got_bytes(p + PART_MIN - 5, 10));

    op_upload_init(&u, on.bd, C, "up/copied", PART_MIN);
    u.m.copies = true;
    ok(op_upload_begin(&u, NULL, &err));
    ok(op_upload_copy(&u, 1, "up/parts", 0, PART_MIN, NULL, &err));
    cr_expect(eq(int, op_upload_copy(&u, 2, "up/parts", PART_MIN, PART_MIN + 77, validator, &err),
                 on.match_parts ? LARDER_OK : LARDER_PRECONDITION),
              "%s: %s", on.name, err.msg);
    ok(op_upload_copy(&u, 2, "up/parts", PART_MIN, PART_MIN + 77, NULL, &err));
    ok(op_upload_end(&u, 2, size, NULL, NULL, &err));
    is(get("up/copied"), LARDER_OK);
    cr_expect(got_bytes(p, size), "%s", on.name);
    free(p);
}

FOR_EVERY_SERVER(an_aborted_upload_leaves_nothing)
{
    begin("up/given-up");
    ok(op_upload_part(&u, 1, "abc", 3, &err));
    ok(op_upload_abort(&u, &err));
    ok(op_upload_abort(&u, &err));
    cr_expect(eq(int, op_upload_part(&u, 1, "abc", 3, &err), on.knows_uploads ? LARDER_NOT_FOUND : LARDER_UNAVAILABLE),
              "%s: %s", on.name, err.msg);
    cr_expect(
        eq(int, op_upload_end(&u, 1, 3, NULL, NULL, &err), on.knows_uploads ? LARDER_NOT_FOUND : LARDER_UNAVAILABLE),
        "%s: %s", on.name, err.msg);
    is(list("", NULL, NULL, 100), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 0));
}

/* ---- many at once, only once ---- */

static enum larder_kind op(const struct ldr_op *o)
{
    bd_result_release(&r);
    return bd_op(on.bd, o, &r);
}

FOR_EVERY_SERVER(many_objects_go_by_one_request)
{
    static struct ldr_delete_item items[40];
    static char keys[40][64];

    for (size_t i = 0; i < LDR_ARRAY_LEN(items); i++) {
        snprintf(keys[i], sizeof keys[i], "many/%zu &<>\"' \xc3\xa9%%2B+", i);
        items[i] = (struct ldr_delete_item){ .uri = keys[i], .key = keys[i], .kind = LARDER_INTERNAL };
        if (i % 2)
            is(put(keys[i], "x"), LARDER_OK);
    }
    is(put("many/stays", "x"), LARDER_OK);
    is(op(&(struct ldr_op){ .what = LDR_OP_DELETE_MANY,
                            .container = C,
                            .key = "",
                            .items = items,
                            .n_items = LDR_ARRAY_LEN(items),
                            .fd = -1 }),
       LARDER_OK);
    cr_expect(eq(uint, r.requests, 1));
    for (size_t i = 0; i < LDR_ARRAY_LEN(items); i++)
        cr_expect(eq(int, items[i].kind, LARDER_OK), "%s: %s: %s", on.name, keys[i], items[i].why);
    is(list("many/", NULL, NULL, 800), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 1));
    cr_expect(lists("many/stays"));
}

FOR_EVERY_SERVER(a_bucket_that_is_there_is_not_made_again)
{
    is(op(&(struct ldr_op){ .what = LDR_OP_MAKE_CONTAINER, .container = C, .key = "", .fd = -1 }),
       on.says_ours ? LARDER_OK : LARDER_EXISTS);
}

/* ---- conditions of writes ---- */

#define ANOTHER "\"00000000000000000000000000000000\""

FOR_EVERY_SERVER(a_condition_of_a_put_is_kept_or_refused)
{
    char validator[256];

    is(put_args("once", "first", 5, &(struct bd_args){ .create_only = true }),
       on.put_condition ? LARDER_OK : LARDER_UNSUPPORTED);
    is(put("once", "second"), LARDER_OK);
    snprintf(validator, sizeof validator, "%s", r.validator);
    is(put_args("once", "third", 5, &(struct bd_args){ .create_only = true }),
       on.put_condition ? LARDER_EXISTS : LARDER_UNSUPPORTED);
    is(put_args("once", "third", 5, &(struct bd_args){ .if_match = ANOTHER }),
       on.put_condition ? LARDER_PRECONDITION : LARDER_UNSUPPORTED);
    is(get("once"), LARDER_OK);
    cr_expect(got("second"));
    if (on.put_condition)
        is(put_args("once", "fourth", 6, &(struct bd_args){ .if_match = validator }), LARDER_OK);
    is(op(&(struct ldr_op){ .what = LDR_OP_DELETE, .container = C, .key = "once", .fd = -1, .if_match = ANOTHER }),
       LARDER_PRECONDITION);
    is(head("once"), LARDER_OK);
}

FOR_EVERY_SERVER(a_condition_of_an_upload_in_parts_is_kept)
{
    enum larder_kind k;
    char validator[256] = "";

    begin("once");
    ok(op_upload_part(&u, 1, "first", 5, &err));
    ok(op_upload_end(&u, 1, 5, &(struct bd_args){ .create_only = true }, validator, &err));
    begin("once");
    ok(op_upload_part(&u, 1, "second", 6, &err));
    k = op_upload_end(&u, 1, 6, &(struct bd_args){ .create_only = true }, NULL, &err);
    cr_expect(eq(int, k, LARDER_EXISTS), "%s: %s", on.name, err.msg);
    is(get("once"), LARDER_OK);
    cr_expect(got("first"));
    k = op_upload_end(&u, 1, 6, &(struct bd_args){ .if_match = ANOTHER }, NULL, &err);
    cr_assert(eq(int, k, on.end_if_match ? LARDER_PRECONDITION : LARDER_OK), "%s: %s", on.name, err.msg);
    is(get("once"), LARDER_OK);
    cr_expect(eq(int, got("first"), on.end_if_match), "%s: %s", on.name, on.end_if_match ? "kept" : "ignored");
    if (!on.end_if_match)
        return;
    k = op_upload_end(&u, 1, 6, &(struct bd_args){ .if_match = validator }, NULL, &err);
    cr_expect(eq(int, k, on.match_parts ? LARDER_OK : LARDER_PRECONDITION), "%s: %s", on.name, err.msg);
    is(get("once"), LARDER_OK);
    cr_expect(got(on.match_parts ? "second" : "first"), "%s", on.name);
}

/* Swift is not everywhere, and says so of the second upload above. */
Test(odd_servers, a_status_of_412_counts_whatever_its_code_is)
{
    struct s3_server server;
    char reason[512] = "";

    on.name = "test server";
    test_dir_make(on.dir);
    need_server(s3_server_start_test(&server, on.dir, reason, sizeof reason), reason);
    cr_assert(eq(int,
                 bd_open("s3", "s3",
                         (const char *[]){ "endpoint", server.endpoint, "access_key_id", S3_ACCESS_KEY, "secret_key",
                                           S3_SECRET_KEY, NULL },
                         &on.bd, &err),
                 LARDER_OK));
    begin("once");
    ok(op_upload_part(&u, 1, "abc", 3, &err));
    cr_assert(s3_server_rules(&server, "[{\"method\": \"POST\", \"action\": \"status\", \"status\": 412, \"code\": "
                                       "\"InvalidRequest\"}]"));
    cr_expect(eq(int, op_upload_end(&u, 1, 3, &(struct bd_args){ .create_only = true }, NULL, &err), LARDER_EXISTS));
    cr_expect(
        eq(int, op_upload_end(&u, 1, 3, &(struct bd_args){ .if_match = ANOTHER }, NULL, &err), LARDER_PRECONDITION));
    s3_server_stop(&server);
}

/* ---- signatures ---- */

static struct ldr_signing signed_url;

static const char *sign(const char *key, bool to_put)
{
    ldr_buf_release(&signed_url.url);
    ldr_buf_release(&signed_url.headers);
    signed_url = (struct ldr_signing){ .put = to_put, .lifetime_s = 60 };
    bd_result_release(&r);
    is(bd_op(on.bd, &(struct ldr_op){ .what = LDR_OP_SIGN, .container = C, .key = key, .sign = &signed_url, .fd = -1 },
             &r),
       LARDER_OK);
    return (const char *)signed_url.url.p;
}

FOR_EVERY_SERVER(a_signed_url_is_good_for_its_one_request)
{
    static const char key[] = "signed/a b+c%41&\xc3\xa9";
    char *body = NULL, other[4096], *at;

    cr_expect(eq(int, odd_http("PUT", sign(key, true), NULL, "by url", 6, NULL), 200), "%s", on.name);
    is(get(key), LARDER_OK);
    cr_expect(got("by url"));
    cr_expect(eq(int, odd_http("GET", sign(key, false), NULL, NULL, 0, &body), 200), "%s", on.name);
    cr_expect(body && !strcmp(body, "by url"));
    free(body);
    if (!on.checks)
        return;
    is(put("signed/other", "secret"), LARDER_OK);
    snprintf(other, sizeof other, "%s", sign("signed/itsel", false));
    at = strstr(other, "signed/itsel");
    cr_assert(at != NULL);
    memcpy(at, "signed/other", 12);
    cr_expect(eq(int, odd_http("GET", other, NULL, NULL, 0, NULL), 403), "%s", on.name);
    cr_expect(eq(int, odd_http("DELETE", sign("signed/other", false), NULL, NULL, 0, NULL), 403), "%s", on.name);
    is(get("signed/other"), LARDER_OK);
}

static void check_wrong_secret(void)
{
    is(put("k", "x"), LARDER_OK);
    open_with("another secret", NULL, NULL);
    is(get("k"), LARDER_DENIED);
    cr_expect(has(r.err.msg, "SignatureDoesNotMatch") && has(r.err.msg, "request id "), "%s", r.err.msg);
    is(put("k", "y"), LARDER_DENIED);
    is(list("k", NULL, NULL, 0), LARDER_DENIED);
}

Test(odd_servers, a_wrong_secret_is_denied__rclone)
{
    open_rclone();
    check_wrong_secret();
}

Test(odd_servers, a_wrong_secret_is_denied__swift)
{
    open_swift();
    check_wrong_secret();
}

/* ---- odd keys ---- */

static char longest[1024 + 1];
static const char *const keys[] = { "e\xcc\x81", /* the same letter as \xc3\xa9 below: one key to rclone */
                                    /* rclone can hold these too, */
                                    "a", "a b", "a+b", "a%2Fb", "a%b", "%", "?", "a?b=c", "#", "a;b", "a:b", "a=b",
                                    "a&b", "a@b", "a\\b", "a\"b", "a'b", "a<b>c", "a|b", "a~b", "*", "[x]", "{y}",
                                    "...", " lead", "trail ", "\xc3\xa9", "\xf0\x9f\xa6\x86", "tab\tb", "cr\rb", "\x01",
                                    "\x7f", "d/e/f",
                                    /* but not these */
                                    "d/", "a//b", "a///b", "//", "/lead", "//lead", "trail//", ".", "..", "./x", "../x",
                                    "x/.", "x/..", "x/./y", "x/../y", "a.b/", longest };

static void check_keys(size_t from, size_t to)
{
    memset(longest, 'k', sizeof longest - 1);
    for (size_t i = from; i < to; i++)
        is(put(keys[i], keys[i]), LARDER_OK);
    for (size_t i = from; i < to; i++) {
        is(get(keys[i]), LARDER_OK);
        cr_expect(got(keys[i]), "%s: \"%s\"", on.name, keys[i]);
        is(list(keys[i], NULL, NULL, 0), LARDER_OK);
        cr_expect(lists(keys[i]), "%s: \"%s\"", on.name, keys[i]);
    }
    is(list("", NULL, NULL, 0), LARDER_OK);
    cr_expect(eq(sz, r.page.n, to - from), "each is another one");
    for (size_t i = from; i < to; i++) {
        is(del(keys[i]), LARDER_OK);
        cr_expect(eq(int, get(keys[i]), LARDER_NOT_FOUND), "%s: \"%s\"", on.name, keys[i]);
    }
    is(list("", NULL, NULL, 0), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 0));
}

static size_t first_odd(void)
{
    size_t i = 0;

    while (strcmp(keys[i], "d/") != 0)
        i++;
    return i;
}

Test(odd_servers, odd_keys_come_back_byte_for_byte__moto)
{
    open_moto();
    check_keys(0, LDR_ARRAY_LEN(keys));
}

Test(odd_servers, odd_keys_come_back_byte_for_byte__swift)
{
    open_swift();
    check_keys(0, LDR_ARRAY_LEN(keys));
    is(put("line\nfeed", "x"), LARDER_OK);
    is(list("line", NULL, NULL, 0), LARDER_OK);
    cr_expect(lists("line\nfeed"));
}

/* But for the longest one: rclone fails to store that too, but lists it. */
Test(odd_servers, keys_that_are_no_files_are_refused__rclone)
{
    open_rclone();
    check_keys(1, first_odd());
    for (size_t i = first_odd(); i < LDR_ARRAY_LEN(keys) - 1; i++)
        is(put(keys[i], "x"), LARDER_INVALID);
    is(list("", NULL, NULL, 0), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 0));
}

/* ---- a bad network ---- */

static struct {
    struct s3_server store, way; /* way: the same through the network */
    struct real_server toxiproxy;
    struct agent agent;
    struct larder *l;
} net;

static void open_net(void)
{
    char reason[512] = "";

    test_dir_make(on.dir);
    start(&net.toxiproxy, ODD_TOXIPROXY);
    need_server(s3_server_start_versitygw(&net.store, on.dir, reason, sizeof reason), reason);
    cr_assert(toxic_way(&net.toxiproxy, net.store.port, net.way.endpoint, sizeof net.way.endpoint));
    agent_init(&net.agent, &net.way);
    agent_start(&net.agent);
    net.l = agent_open(&net.agent);
}

static void close_net(void)
{
    larder_close(&net.l);
    agent_release(&net.agent);
    real_server_stop(&net.toxiproxy);
    s3_server_stop(&net.store);
    test_dir_remove(on.dir);
}

TestSuite(bad_network, .init = open_net, .fini = close_net, .timeout = 120);

#define URI "s3://" S3_BUCKET "/"

static void make_bad(const char *json)
{
    cr_assert(toxic_add(&net.toxiproxy, json), "%s", json);
}

static void heal(void)
{
    cr_assert(toxic_heal(&net.toxiproxy));
}

/* Uploads in parts that versitygw holds: DATA/BUCKET/.sgwtmp/multipart/KEY-HASH/ID. */
static int uploads_left(void)
{
    char path[TEST_DIR_MAX + 64], below[PATH_MAX];
    struct dirent *e, *f;
    int n = 0;
    DIR *d, *k;

    snprintf(path, sizeof path, "%s/data/" S3_BUCKET "/.sgwtmp/multipart", on.dir);
    for (d = opendir(path); d && (e = readdir(d));) {
        snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        for (k = e->d_name[0] == '.' ? NULL : opendir(below); k && (f = readdir(k));)
            n += f->d_name[0] != '.';
        if (k)
            closedir(k);
    }
    if (d)
        closedir(d);
    return n;
}

static int64_t ms_since(int64_t start_ns)
{
    return (ldr_mono_ns() - start_ns) / LDR_NS_PER_MS;
}

/* The bytes or a clear error, in time. */
static enum larder_kind try_get(const char *uri, const void *p, size_t n, int timeout_ms, struct larder_err *why)
{
    struct larder_object *o = NULL;
    int64_t began = ldr_mono_ns();
    enum larder_kind k = larder_get(net.l, uri, timeout_ms, &o, why);

    cr_expect(lt(i64, ms_since(began), timeout_ms + 2000), "%s", uri);
    if (!k)
        cr_assert(larder_object_size(o) == n && !memcmp(larder_object_data(o), p, n), "%s", uri);
    else
        cr_expect(k == LARDER_TIMEOUT || has(why->msg, uri), "%s", why->msg);
    larder_object_free(&o);
    return k;
}

static enum larder_kind try_put(const char *uri, const void *p, size_t n, int timeout_ms, struct larder_err *why)
{
    int64_t began = ldr_mono_ns();
    enum larder_kind k = larder_put(net.l, uri, p, n, NULL, timeout_ms, why);

    cr_expect(lt(i64, ms_since(began), timeout_ms + 2000), "%s", uri);
    cr_expect(k == LARDER_OK || has(why->msg, uri) || has(why->msg, "in time"), "%s", why->msg);
    return k;
}

#define SIZE (20 * LDR_MIB + 5)

Test(bad_network, latency_changes_no_byte)
{
    uint8_t *p = bd_bytes(SIZE, 1), *q = bd_bytes(SIZE, 2);

    agent_seed_s3(&net.store, "seeded", q, SIZE);
    make_bad("{\"type\": \"latency\", \"attributes\": {\"latency\": 100, \"jitter\": 20}}");
    put_bytes(net.l, URI "put", p, SIZE);
    expect_bytes(net.l, URI "put", p, SIZE);
    expect_bytes(net.l, URI "seeded", q, SIZE);
    expect_kind(net.l, URI "missing", LONG_MS, LARDER_NOT_FOUND, NULL);
    cr_expect(eq(int, uploads_left(), 0));
    cr_expect(eq(u64, agent_counter(&net.agent, "store_retries"), 0));
    free(p);
    free(q);
}

Test(bad_network, an_answer_that_is_cut_is_never_taken_for_whole)
{
    uint8_t *p = bd_bytes(SIZE, 1);
    struct larder_err why;

    agent_seed_s3(&net.store, "k", p, SIZE);
    make_bad("{\"name\": \"cut\", \"type\": \"limit_data\", \"attributes\": {\"bytes\": 300000}}");
    cr_expect(eq(int, try_get(URI "k", p, SIZE, LONG_MS, &why), LARDER_UNAVAILABLE), "%s", why.msg);
    cr_expect(ge(u64, agent_counter(&net.agent, "store_retries"), 3));
    heal();
    cr_expect(eq(int, try_get(URI "k", p, SIZE, LONG_MS, &why), LARDER_OK), "%s", why.msg);
    free(p);
}

Test(bad_network, an_upload_that_is_cut_leaves_no_parts_behind)
{
    uint8_t *p = bd_bytes(SIZE, 1);
    struct larder_err why;
    enum larder_kind k;

    make_bad("{\"type\": \"limit_data\", \"stream\": \"upstream\", \"attributes\": {\"bytes\": 2000000}}");
    cr_expect(eq(int, try_put(URI "k", p, SIZE, LONG_MS, &why), LARDER_UNAVAILABLE), "%s", why.msg);
    agent_wait_until(uploads_left() == 0);
    k = try_put(URI "small", p, 3000000, LONG_MS, &why);
    cr_expect(k == LARDER_UNAVAILABLE || k == LARDER_OUTCOME_UNKNOWN, "%s", why.msg);
    heal();
    expect_kind(net.l, URI "k", LONG_MS, LARDER_NOT_FOUND, NULL);
    put_bytes(net.l, URI "k", p, SIZE);
    expect_bytes(net.l, URI "k", p, SIZE);
    cr_expect(eq(int, uploads_left(), 0));
    free(p);
}

Test(bad_network, connections_that_are_reset_now_and_then_cost_attempts_only)
{
    uint8_t *p = bd_bytes(SIZE, 1), *q = bd_bytes(SIZE, 2);
    struct larder_err why;

    agent_seed_s3(&net.store, "k", q, SIZE);
    make_bad("{\"type\": \"reset_peer\", \"attributes\": {\"timeout\": 30}, \"toxicity\": 0.3}");
    for (int i = 0; i < 5; i++) {
        enum larder_kind k = try_put(URI "put", p, SIZE, LONG_MS, &why);

        cr_expect(k == LARDER_OK || k == LARDER_UNAVAILABLE || k == LARDER_OUTCOME_UNKNOWN, "%s", why.msg);
        k = try_get(URI "k", q, SIZE, LONG_MS, &why);
        cr_expect(k == LARDER_OK || k == LARDER_UNAVAILABLE, "%s", why.msg);
    }
    heal();
    put_bytes(net.l, URI "put", p, SIZE);
    expect_bytes(net.l, URI "put", p, SIZE);
    expect_bytes(net.l, URI "k", q, SIZE);
    free(p);
    free(q);
}

Test(bad_network, a_store_that_resets_every_connection_is_unavailable)
{
    uint8_t *p = bd_bytes(SIZE, 1);
    struct larder_err why;

    make_bad("{\"type\": \"reset_peer\", \"attributes\": {\"timeout\": 0}}");
    cr_expect(eq(int, try_get(URI "k", p, SIZE, LONG_MS, &why), LARDER_UNAVAILABLE), "%s", why.msg);
    cr_expect(eq(int, try_put(URI "k", p, SIZE, LONG_MS, &why), LARDER_UNAVAILABLE), "%s", why.msg);
    heal();
    put_bytes(net.l, URI "k", p, SIZE);
    expect_bytes(net.l, URI "k", p, SIZE);
    free(p);
}

Test(bad_network, a_slow_store_takes_until_the_deadline_or_brings_the_bytes)
{
    uint8_t *p = bd_bytes(2 * LDR_MIB, 1);
    struct larder_err why;

    agent_seed_s3(&net.store, "k", p, 2 * LDR_MIB);
    make_bad("{\"type\": \"bandwidth\", \"attributes\": {\"rate\": 700}}"); /* KB/s */
    make_bad("{\"name\": \"up\", \"type\": \"bandwidth\", \"stream\": \"upstream\", \"attributes\": {\"rate\": 700}}");
    cr_expect(eq(int, try_get(URI "k", p, 2 * LDR_MIB, 700, &why), LARDER_TIMEOUT), "%s", why.msg);
    cr_expect(eq(int, try_get(URI "k", p, 2 * LDR_MIB, LONG_MS, &why), LARDER_OK), "%s", why.msg);
    cr_expect(eq(int, try_put(URI "put", p, 2 * LDR_MIB, LONG_MS, &why), LARDER_OK), "%s", why.msg);
    expect_bytes(net.l, URI "put", p, 2 * LDR_MIB);
    free(p);
}

Test(bad_network, a_store_that_falls_silent_is_waited_for_until_the_deadline)
{
    uint8_t *p = bd_bytes(SIZE, 1);
    struct larder_err why;
    enum larder_kind k;

    agent_seed_s3(&net.store, "k", p, SIZE);
    make_bad("{\"type\": \"latency\", \"attributes\": {\"latency\": 60000}}");
    k = try_get(URI "k", p, SIZE, 1500, &why);
    cr_expect(eq(int, k, LARDER_TIMEOUT), "%s", why.msg);
    k = try_put(URI "put", p, SIZE, 1500, &why);
    cr_expect(k == LARDER_TIMEOUT || k == LARDER_OUTCOME_UNKNOWN, "%s", why.msg);
    heal();
    cr_expect(eq(int, try_get(URI "k", p, SIZE, LONG_MS, &why), LARDER_OK), "%s", why.msg);
    free(p);
}
