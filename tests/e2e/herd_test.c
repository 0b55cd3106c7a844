/* herd_test.c - many askers of one object, one request of the store. The store is held by the test server's
 * gate, so that all of them are there before it answers. */
#include "tests/e2e/e2e.h"

#include <pthread.h>
#include <signal.h>

#define PROCESSES 16
#define THREADS   4

static struct {
    struct s3_server s3;
    struct agent agent;
    char dir[TEST_DIR_MAX];
} t;

static const char *const object = "s3://" S3_BUCKET "/held";
static const char *const name = S3_BUCKET "/held";

static void enter(void)
{
    char reason[512] = "";

    test_dir_make(t.dir);
    need_server(s3_server_start_test(&t.s3, t.dir, reason, sizeof reason), reason);
    agent_init(&t.agent, &t.s3);
    agent_start(&t.agent);
    cr_assert(s3_server_hold(&t.s3, name));
}

static void leave(void)
{
    agent_release(&t.agent);
    s3_server_stop(&t.s3);
    test_dir_remove(t.dir);
}

TestSuite(herd, .init = enter, .fini = leave, .timeout = 60);

/* ---- one asker: a thread of a child ---- */

struct asker {
    struct larder *l;
    const void *want; /* NULL: NOT_FOUND is expected */
    size_t size;
    bool ok;
};

static void *ask(void *user)
{
    struct asker *a = user;
    struct larder_err err = { 0 };
    struct larder_object *o = NULL;

    if (a->want)
        a->ok = reads_as(a->l, object, a->want, a->size, &err);
    else
        a->ok = larder_get(a->l, object, LONG_MS, &o, &err) == LARDER_NOT_FOUND;
    if (!a->ok)
        fprintf(stderr, "asker: %s\n", err.msg);
    larder_object_free(&o);
    return NULL;
}

/* In a child: THREADS askers with one handle; never returns. */
_Noreturn static void ask_in_threads(const void *want, size_t size)
{
    struct larder *l = agent_open(&t.agent);
    struct asker askers[THREADS];
    pthread_t threads[THREADS];
    bool ok = true;

    for (int i = 0; i < THREADS; i++) {
        askers[i] = (struct asker){ .l = l, .want = want, .size = size };
        if (pthread_create(&threads[i], NULL, ask, &askers[i]))
            _exit(2);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ok = ok && askers[i].ok;
    }
    larder_close(&l);
    _exit(ok ? 0 : 1);
}

/* All of them, and the request of the store, are under way. `gets`: how many askers there are. */
static void wait_for_all(uint64_t gets)
{
    agent_wait_counter(&t.agent, "gets", gets);
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
}

static void seed_and_run(const void *want, size_t size)
{
    pid_t pids[PROCESSES];

    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = child();
        if (pids[i] == 0)
            ask_in_threads(want, size);
    }
    wait_for_all(PROCESSES * THREADS);
    cr_assert(s3_server_release(&t.s3, name));
    for (int i = 0; i < PROCESSES; i++)
        cr_expect(eq(int, join_child(pids[i]), 0), "process %d", i);
    cr_expect(eq(int, s3_server_count(&t.s3, "GET", name), 1));
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1));
    cr_expect(eq(u64, agent_counter(&t.agent, "gets_joined"), PROCESSES * THREADS - 1));
}

Test(herd, sixty_four_askers_of_a_block_make_one_request)
{
    uint8_t *bytes = bd_bytes(3 * LDR_MIB, 1);

    agent_seed_s3(&t.s3, "held", bytes, 3 * LDR_MIB);
    seed_and_run(bytes, 3 * LDR_MIB);
    free(bytes);
}

Test(herd, sixty_four_askers_of_a_small_object_make_one_request)
{
    agent_seed_s3(&t.s3, "held", "hello", 5);
    seed_and_run("hello", 5);
}

Test(herd, sixty_four_askers_of_a_missing_object_make_one_request)
{
    seed_and_run(NULL, 0);
}

Test(herd, when_the_first_asker_is_killed_the_others_get_their_bytes)
{
    pid_t first, others[4];

    agent_seed_s3(&t.s3, "held", "hello", 5);
    first = child();
    if (first == 0)
        ask_in_threads("hello", 5);
    wait_for_all(THREADS);
    for (int i = 0; i < 4; i++) {
        others[i] = child();
        if (others[i] == 0)
            ask_in_threads("hello", 5);
    }
    wait_for_all(5 * THREADS);
    kill(first, SIGKILL);
    cr_expect(eq(int, join_child(first), -1));
    agent_wait_counter(&t.agent, "waiters_gone", THREADS);
    cr_assert(s3_server_release(&t.s3, name));
    for (int i = 0; i < 4; i++)
        cr_expect(eq(int, join_child(others[i]), 0));
    cr_expect(eq(int, s3_server_count(&t.s3, "GET", name), 1));
}

Test(herd, when_all_askers_are_killed_the_fetch_goes_on_for_the_next)
{
    struct larder *l = agent_open(&t.agent);
    pid_t only;

    agent_seed_s3(&t.s3, "held", "hello", 5);
    only = child();
    if (only == 0)
        ask_in_threads("hello", 5);
    wait_for_all(THREADS);
    kill(only, SIGKILL);
    cr_expect(eq(int, join_child(only), -1));
    agent_wait_counter(&t.agent, "waiters_gone", THREADS);
    cr_assert(s3_server_release(&t.s3, name));
    agent_wait_counter(&t.agent, "published", 1);
    expect_text(l, object, "hello");
    cr_expect(eq(u64, counts_of(l).asks, 0));
    cr_expect(eq(int, s3_server_count(&t.s3, "GET", name), 1));
    larder_close(&l);
}

Test(herd, an_asker_in_a_hurry_gets_timeout_and_the_others_their_bytes)
{
    struct larder *l = agent_open(&t.agent);
    struct larder_err err = { 0 };
    int64_t before;
    pid_t patient;

    agent_seed_s3(&t.s3, "held", "hello", 5);
    patient = child();
    if (patient == 0)
        ask_in_threads("hello", 5);
    wait_for_all(THREADS);
    before = ldr_mono_ns();
    expect_kind(l, object, 200, LARDER_TIMEOUT, &err);
    cr_expect(ldr_mono_ns() - before < 1500 * LDR_NS_PER_MS);
    expect_kind(l, object, 0, LARDER_TIMEOUT, &err); /* may not wait: nobody is asked */
    cr_expect(eq(u64, counts_of(l).asks, 1));
    cr_assert(s3_server_release(&t.s3, name));
    cr_expect(eq(int, join_child(patient), 0));
    expect_text(l, object, "hello");
    cr_expect(eq(int, s3_server_count(&t.s3, "GET", name), 1));
    larder_close(&l);
}

Test(herd, a_head_asked_after_the_request_was_sent_makes_its_own)
{
    pid_t pids[2];

    agent_seed_s3(&t.s3, "held", "hello", 5);
    for (int i = 0; i < 2; i++) {
        pids[i] = child();
        if (pids[i] == 0) {
            struct larder *l = agent_open(&t.agent);
            struct larder_meta *m = NULL;
            bool ok = larder_head(l, object, LONG_MS, &m, NULL) == LARDER_OK && larder_meta_exists(m) &&
                      larder_meta_size(m) == 5;

            larder_meta_free(&m);
            larder_close(&l);
            _exit(ok ? 0 : 1);
        }
        agent_wait_until(s3_server_waiting(&t.s3) == i + 1);
    }
    cr_assert(s3_server_release(&t.s3, name));
    for (int i = 0; i < 2; i++)
        cr_expect(eq(int, join_child(pids[i]), 0));
    cr_expect(eq(int, s3_server_count(&t.s3, "HEAD", name), 2));
}
