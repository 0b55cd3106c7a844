/* s3_refusals_test.c - what a store's refusals lead to: the region of a bucket is learnt, a store that is overrun is said to
 * be, and each error carries the id by which the store's operator finds the request. */
#include "tests/e2e/e2e.h"

#include <pthread.h>

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct s3_server server;
static struct bd *store;
static struct bd_result got;
static struct larder_err err;

static void set_up(void)
{
    char reason[512] = "";

    test_dir_make(dir);
    need_server(s3_server_start_test(&server, dir, reason, sizeof reason), reason);
}

static void tear_down(void)
{
    bd_result_release(&got);
    bd_close(&store);
    s3_server_stop(&server);
    test_dir_remove(dir);
}

TestSuite(s3_refusals, .init = set_up, .fini = tear_down, .timeout = 60);

static void open_in(const char *region, const char *secret)
{
    bd_close(&store);
    cr_assert(eq(int,
                 bd_open("s3", "s3",
                         (const char *[]){ "endpoint", server.endpoint, "region", region, "access_key_id",
                                           S3_ACCESS_KEY, "secret_key", secret, NULL },
                         &store, &err),
                 LARDER_OK),
              "%s", err.msg);
}

static enum larder_kind put(const char *key, const char *text)
{
    bd_result_release(&got);
    return bd_put(store, S3_BUCKET, key, text, strlen(text), NULL, &got);
}

static enum larder_kind head(const char *key)
{
    bd_result_release(&got);
    return bd_head(store, S3_BUCKET, key, &got);
}

static void rules(const char *json)
{
    cr_assert(s3_server_rules(&server, json), "%s", json);
}

/* The pairs of bd_open() stand in no file, as a region of the environment does not. */
Test(s3_refusals, the_region_of_a_bucket_is_learnt_from_the_store)
{
    open_in("eu-west-1", S3_SECRET_KEY);
    cr_expect(eq(int, put("k", "hello"), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(uint, got.requests, 2), "refused, and sent once more");
    bd_result_release(&got);
    cr_expect(eq(int, bd_get(store, S3_BUCKET, "k", NULL, &got), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(uint, got.requests, 1), "known from then on");
    bd_result_release(&got);
    cr_expect(eq(int, bd_list(store, S3_BUCKET, "", NULL, &got), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(uint, got.requests, 1));
}

/* Requests that are all under way before the first of them is answered. */
static void *head_alone(void *user)
{
    bd_head(store, S3_BUCKET, "k", user);
    return NULL;
}

static void *get_alone(void *user)
{
    bd_get(store, S3_BUCKET, "k", NULL, user);
    return NULL;
}

static void expect_all_recover(void *(*one)(void *))
{
    static struct bd_result each[6];
    pthread_t threads[LDR_ARRAY_LEN(each)];

    for (size_t i = 0; i < LDR_ARRAY_LEN(each); i++)
        cr_assert(zero(int, pthread_create(&threads[i], NULL, one, &each[i])));
    for (size_t i = 0; i < LDR_ARRAY_LEN(each); i++) {
        pthread_join(threads[i], NULL);
        cr_expect(eq(int, each[i].kind, LARDER_OK), "%s", each[i].err.msg);
        cr_expect(eq(uint, each[i].requests, 2));
        bd_result_release(&each[i]);
    }
}

Test(s3_refusals, requests_that_were_under_way_when_another_one_learnt_the_region_recover_too)
{
    open_in("us-east-1", S3_SECRET_KEY);
    cr_assert(eq(int, put("k", "hello"), LARDER_OK), "%s", got.err.msg);
    open_in("eu-west-1", S3_SECRET_KEY);
    rules("[{\"action\": \"delay_ms\", \"ms\": 300}]");
    expect_all_recover(get_alone);
}

Test(s3_refusals, so_do_those_that_were_when_another_one_learnt_the_clock)
{
    open_in("us-east-1", S3_SECRET_KEY);
    cr_assert(eq(int, put("k", "hello"), LARDER_OK), "%s", got.err.msg);
    rules("[{\"action\": \"skew_date\", \"seconds\": 7200, \"ms\": 300}]");
    expect_all_recover(head_alone); /* a HEAD is refused without a reason */
}

Test(s3_refusals, a_head_says_the_id_of_its_request)
{
    open_in("us-east-1", "another-secret");
    cr_expect(eq(int, head("k"), LARDER_DENIED));
    cr_expect(has(got.err.msg, "request id "), "%s", got.err.msg);
    open_in("us-east-1", S3_SECRET_KEY);
    rules("[{\"action\": \"status\", \"status\": 500, \"code\": \"InternalError\"}]");
    cr_expect(eq(int, head("k"), LARDER_UNAVAILABLE));
    cr_expect(has(got.err.msg, "request id "), "%s", got.err.msg);
}

Test(s3_refusals, so_does_an_error_behind_a_status_of_200)
{
    open_in("us-east-1", S3_SECRET_KEY);
    cr_assert(eq(int, put("k", "hello"), LARDER_OK), "%s", got.err.msg);
    rules("[{\"method\": \"PUT\", \"action\": \"copy_error\", \"code\": \"InternalError\"}]");
    bd_result_release(&got);
    cr_expect(eq(int, bd_copy(store, S3_BUCKET, "k", "j", &got), LARDER_UNAVAILABLE));
    cr_expect(has(got.err.msg, "request id "), "%s", got.err.msg);
}

Test(s3_refusals, so_do_damaged_and_broken_answers)
{
    static const char *const bad[] = { "[{\"method\": \"GET\", \"action\": \"wrong_body\"}]",
                                       "[{\"method\": \"GET\", \"action\": \"truncate_body\", \"bytes\": 2}]" };

    open_in("us-east-1", S3_SECRET_KEY);
    cr_assert(eq(int, put("k", "hello"), LARDER_OK), "%s", got.err.msg);
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        rules(bad[i]);
        bd_result_release(&got);
        cr_expect(ne(int, bd_get(store, S3_BUCKET, "k", NULL, &got), LARDER_OK));
        cr_expect(has(got.err.msg, "request id "), "%s", got.err.msg);
    }
}

/* ---- through the whole agent ---- */

Test(s3_refusals, an_overrun_store_is_asked_again_and_its_pace_is_counted)
{
    static struct agent a;
    struct larder *l;

    agent_seed_s3(&server, "k", "hello", 5);
    agent_init(&a, &server);
    agent_start(&a);
    l = agent_open(&a);
    rules("[{\"method\": \"GET\", \"count\": 2, \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\"}]");
    expect_text(l, "s3://" S3_BUCKET "/k", "hello");
    cr_expect(eq(u64, agent_counter(&a, "store_throttled"), 2));
    cr_expect(eq(u64, agent_counter(&a, "store_retries"), 2));
    cr_expect(eq(u64, agent_counter(&a, "retries_denied"), 0));
    larder_close(&l);
    agent_release(&a);
}

Test(s3_refusals, a_store_that_is_down_is_not_asked_four_times_for_everything)
{
    struct larder_err why;
    static struct agent a;
    struct larder *l;
    char uri[64];

    agent_init(&a, &server);
    agent_start(&a);
    l = agent_open(&a);
    rules("[{\"action\": \"status\", \"status\": 500, \"code\": \"InternalError\"}]");
    for (int i = 0; i < 45; i++) { /* three retries each, at 5 of 500 tokens */
        snprintf(uri, sizeof uri, "s3://" S3_BUCKET "/k%d", i);
        expect_kind(l, uri, LONG_MS, LARDER_UNAVAILABLE, &why);
    }
    cr_expect(eq(u64, agent_counter(&a, "store_retries"), 100));
    cr_expect(ge(u64, agent_counter(&a, "retries_denied"), 10));
    cr_expect(has(why.msg, "InternalError") && has(why.msg, "request id "), "%s", why.msg);
    larder_close(&l);
    agent_release(&a);
}
