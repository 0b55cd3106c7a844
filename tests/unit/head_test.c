/* head_test.c - tests of client/head.c. */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/mini_index.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WAIT 20000
#define URI  "s3://bucket/key"

static char dir[TEST_DIR_MAX];
static struct mini mini;
static struct larder *l;
static struct fake_agent agent;
static struct larder_err err;
static struct ldr_meta meta; /* what record or agent say */
static enum larder_kind fail;
static bool spoil;
static int asks;

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    (void)user;
    asks++;
    if (req->body_case != LARDER__WIRE__REQUEST__BODY_HEAD || strcmp(req->head->key, URI))
        return FAKE_CLOSE;
    if (fail)
        fake_fail(r, fail, "no");
    else
        fake_meta(r, &meta);
    if (spoil)
        r->meta.fields.len--;
    return FAKE_SEND;
}

static void make_dir(void)
{
    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    mini_open(&mini, dir, 0);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
    ldr_meta_init(&meta);
    meta.size_bytes = 5;
    meta.last_modified_s = 1700000000;
    ldr_meta_add_text(&meta, LDR_TAG_VALIDATOR, "\"abc\"");
    ldr_meta_add_text(&meta, LDR_TAG_ETAG, "abc");
    ldr_meta_add_text(&meta, LDR_TAG_CONTENT_TYPE, "text/plain");
    ldr_meta_add_pair(&meta, LDR_TAG_USER, "owner", "me");
    ldr_meta_add_pair(&meta, LDR_TAG_USER, "empty", "");
    ldr_meta_add_text(&meta, LDR_TAG_CONTENT_MD5, "XUFAKrxLKna5cZ2REBfFkg==");
    ldr_meta_add(&meta, (enum ldr_tag)200, "of a later release", 18);
}

static void remove_dir(void)
{
    ldr_meta_release(&meta);
    larder_close(&l);
    fake_stop(&agent);
    mini_close(&mini);
    test_dir_remove(dir);
}

TestSuite(head, .init = make_dir, .fini = remove_dir, .timeout = 60);

static void add(uint32_t flags, uint64_t fresh_until_ns)
{
    mini_add(&mini, URI,
             &(struct mini_object){ .data = "hello",
                                    .len = 5,
                                    .flags = flags,
                                    .fresh_until_ns = fresh_until_ns,
                                    .last_modified_s = 1700000000,
                                    .meta = &meta });
    mini_publish(&mini);
}

static void expect_all(int timeout_ms, int expected_asks)
{
    struct larder_meta *m = NULL;
    const char *name, *value;

    asks = 0;
    cr_assert(eq(int, larder_head(l, URI, timeout_ms, &m, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, asks, expected_asks));
    cr_expect(eq(int, larder_meta_exists(m), 1));
    cr_expect(eq(u64, larder_meta_size(m), 5));
    cr_expect(eq(i64, larder_meta_last_modified(m), 1700000000));
    cr_expect(eq(str, (char *)(uintptr_t)larder_meta_text(m, LARDER_META_ETAG), (char *)"abc"));
    cr_expect(eq(str, (char *)(uintptr_t)larder_meta_text(m, LARDER_META_CONTENT_TYPE), (char *)"text/plain"));
    cr_expect(
        eq(str, (char *)(uintptr_t)larder_meta_text(m, LARDER_META_CONTENT_MD5), (char *)"XUFAKrxLKna5cZ2REBfFkg=="));
    cr_expect(larder_meta_text(m, LARDER_META_VERSION) == NULL);
    cr_expect(larder_meta_text(m, (enum larder_meta_field)99) == NULL);
    cr_expect(larder_meta_text(m, (enum larder_meta_field)1) == NULL, "the validator is no public field");
    cr_assert(eq(int, larder_meta_user(m, 0, &name, &value), 1));
    cr_expect(strcmp(name, "owner") == 0 && strcmp(value, "me") == 0);
    cr_assert(eq(int, larder_meta_user(m, 1, &name, &value), 1));
    cr_expect(strcmp(name, "empty") == 0 && strcmp(value, "") == 0);
    cr_expect(eq(int, larder_meta_user(m, 2, &name, &value), 0));
    larder_meta_free(&m);
    cr_expect(m == NULL);
    larder_meta_free(&m);
}

Test(head, a_fresh_record_answers_without_the_agent)
{
    add(0, 0);
    expect_all(0, 0);
}

Test(head, an_object_in_blocks_is_answered_though_its_file_is_gone)
{
    struct ldr_id id = mini_add(&mini, URI, &(struct mini_object){ .data = "hello", .len = 5, .block_log2 = 23 });
    struct larder_meta *m;
    char path[MINI_PATH_MAX];

    mini_publish(&mini);
    mini_block_path(&mini, &id, 0, path);
    cr_assert(unlink(path) == 0);
    cr_assert(eq(int, larder_head(l, URI, 0, &m, &err), LARDER_OK));
    cr_expect(eq(u64, larder_meta_size(m), 5));
    larder_meta_free(&m);
}

Test(head, a_record_that_is_stale_or_has_no_time_asks)
{
    add(0, 1);
    expect_all(WAIT, 1);
    add(LDR_FLAG_LM_UNKNOWN, 0);
    expect_all(WAIT, 1);
}

Test(head, a_missing_object_is_an_answer)
{
    struct larder_meta *m;
    const char *name, *value;

    fail = LARDER_NOT_FOUND;
    cr_assert(eq(int, larder_head(l, URI, WAIT, &m, &err), LARDER_OK));
    cr_expect(eq(int, larder_meta_exists(m), 0));
    cr_expect(larder_meta_text(m, LARDER_META_ETAG) == NULL);
    cr_expect(eq(int, larder_meta_user(m, 0, &name, &value), 0));
    larder_meta_free(&m);
}

Test(head, other_failures_are_failures)
{
    struct larder_meta *m = NULL;

    fail = LARDER_DENIED;
    cr_expect(eq(int, larder_head(l, URI, WAIT, &m, &err), LARDER_DENIED));
    cr_expect(eq(int, larder_head(l, URI, 0, &m, &err), LARDER_TIMEOUT));
    cr_expect(eq(int, larder_head(l, "nonsense", WAIT, &m, &err), LARDER_INVALID));
    fail = LARDER_OK;
    spoil = true;
    cr_expect(eq(int, larder_head(l, URI, WAIT, &m, &err), LARDER_CORRUPT));
    cr_expect(m == NULL);
}
