/* attempt_test.c - what is tried again, when, and when no more. */
#include "agent/attempt.h"
#include "agent/pace.h"
#include "common/clock.h"
#include "tests/support/fake_backend.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* of the one test that this process runs */
static struct ldr_net *net;
static struct fake_backend *store;
static struct ldr_counters counters;
static struct larder_err err;
static struct ldr_attempt at;
static sem_t ended;
static unsigned ends;
static int64_t took_ns;

static enum larder_kind no_begin(struct ldr_sink *s, const struct ldr_meta *meta, uint64_t offset, uint64_t length,
                                 struct larder_err *e)
{
    (void)s, (void)meta, (void)offset, (void)length, (void)e;
    return LARDER_OK;
}

static enum larder_kind no_write(struct ldr_sink *s, const void *p, size_t n, struct larder_err *e)
{
    (void)s, (void)p, (void)n, (void)e;
    return LARDER_OK;
}

static struct ldr_sink sink = { .begin = no_begin, .write = no_write };

static void start(void)
{
    struct ldr_net_cfg nc = { .connections_per_host = 1 };

    cr_assert(eq(int, ldr_net_new(&nc, &net, &err), LARDER_OK));
    store = fake_new(net, NULL);
    sem_init(&ended, 0, 0);
}

static void stop(void)
{
    ldr_net_free(&net);
    ldr_pace_free(&fake_base(store)->pace);
    ldr_meta_release(&at.op.meta);
    fake_free(&store);
}

TestSuite(attempt, .init = start, .fini = stop, .timeout = 60);

static void done(struct ldr_attempt *a)
{
    (void)a;
    ends++;
    sem_post(&ended);
}

static void launch(enum ldr_op_what what, int timeout_ms)
{
    ldr_meta_init(&at.op.meta);
    at.op.backend = fake_base(store);
    at.op.what = what;
    at.op.uri = "mem://b/k";
    at.op.container = "b";
    at.op.key = "k";
    at.op.fd = -1;
    at.op.sink = &sink;
    at.op.max_entries = 2;
    at.op.deadline_ns = ldr_deadline_ns(timeout_ms);
    at.counters = &counters;
    at.done = done;
    ldr_attempt_start(&at);
}

static enum larder_kind wait_end(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    cr_assert(sem_timedwait(&ended, &until) == 0, "no end");
    return at.op.kind;
}

static enum larder_kind run(enum ldr_op_what what, int timeout_ms)
{
    int64_t began = ldr_mono_ns();

    launch(what, timeout_ms);
    wait_end();
    took_ns = ldr_mono_ns() - began;
    return at.op.kind;
}

static const struct fake_answer good = { .body = "hello", .size = 5 };
static const struct fake_answer busy = { .kind = LARDER_UNAVAILABLE, .http = 503 };

/* ---- how long ---- */

Test(attempt, the_wait_is_between_nothing_and_a_bound_that_doubles_to_two_seconds)
{
    static const uint32_t bounds[] = { 50, 50, 100, 200, 400, 800, 1600, 2000, 2000 };

    for (unsigned tries = 0; tries < LDR_ARRAY_LEN(bounds); tries++) {
        uint32_t highest = 0, lowest = UINT32_MAX;

        for (uint32_t dice = 0; dice < 5000; dice++) {
            uint32_t w = ldr_attempt_backoff_ms(tries, 0, dice);

            highest = w > highest ? w : highest;
            lowest = w < lowest ? w : lowest;
        }
        cr_expect(eq(u32, highest, bounds[tries]), "after %u tries", tries);
        cr_expect(eq(u32, lowest, 0), "after %u tries: full jitter", tries);
    }
    cr_expect(le(u32, ldr_attempt_backoff_ms(UINT32_MAX, 0, UINT32_MAX), 2000));
}

Test(attempt, the_store_may_ask_for_a_longer_wait_and_not_for_a_shorter_one)
{
    cr_expect(eq(u32, ldr_attempt_backoff_ms(1, 7000, 12345), 7000));
    cr_expect(eq(u32, ldr_attempt_backoff_ms(4, 10, 400), 400));
    cr_expect(eq(u32, ldr_attempt_backoff_ms(1, UINT32_MAX, 0), UINT32_MAX));
}

/* ---- what is tried again ---- */

Test(attempt, a_good_answer_ends_it_at_once)
{
    fake_say(store, LDR_OP_GET, good);
    cr_expect(eq(int, run(LDR_OP_GET, 10000), LARDER_OK));
    cr_expect(eq(uint, at.tries, 1));
    cr_expect(eq(u64, atomic_load(&counters.store_gets), 1));
    cr_expect(eq(u64, atomic_load(&counters.store_bytes_in), 5));
    cr_expect(eq(u64, atomic_load(&counters.store_retries), 0));
}

Test(attempt, what_may_succeed_a_moment_later_is_tried_again)
{
    fake_say(store, LDR_OP_GET, busy);
    fake_say(store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_CORRUPT });
    fake_say(store, LDR_OP_GET, good);
    cr_expect(eq(int, run(LDR_OP_GET, 30000), LARDER_OK));
    cr_expect(eq(uint, at.tries, 3));
    cr_expect(eq(u64, atomic_load(&counters.store_gets), 3));
    cr_expect(eq(u64, atomic_load(&counters.store_retries), 2));
    cr_expect(eq(u64, atomic_load(&counters.store_failures), 0));
    cr_expect(eq(str, at.op.err.msg, ""), "nothing of the failures is left in the result");
}

Test(attempt, listings_and_copies_are_counted_and_tried_again_too)
{
    static const char *const keys[] = { "a", "b/", NULL };

    fake_say(store, LDR_OP_LIST, busy);
    fake_say(store, LDR_OP_LIST, (struct fake_answer){ .keys = keys, .next = "b/" });
    cr_expect(eq(int, run(LDR_OP_LIST, 30000), LARDER_OK));
    cr_assert(eq(sz, at.op.page.n, 2));
    cr_expect(eq(str, at.op.page.next, "b/"));
    ldr_op_rearm(&at.op);
    cr_expect(eq(sz, at.op.page.n, 0));
    cr_expect(at.op.page.next == NULL);
    fake_say(store, LDR_OP_COPY, busy);
    fake_say(store, LDR_OP_COPY, good);
    cr_expect(eq(int, run(LDR_OP_COPY, 30000), LARDER_OK));
    cr_expect(at.was_sent && !at.unsure);
    cr_expect(eq(u64, atomic_load(&counters.store_lists), 2));
    cr_expect(eq(u64, atomic_load(&counters.store_copies), 2));
}

Test(attempt, it_ends_after_four_tries_with_the_last_answer)
{
    fake_say(store, LDR_OP_PUT, busy);
    cr_expect(eq(int, run(LDR_OP_PUT, 30000), LARDER_UNAVAILABLE));
    cr_expect(eq(uint, fake_seen(store, LDR_OP_PUT), LDR_TRIES_MAX));
    cr_expect(eq(u64, atomic_load(&counters.store_puts), LDR_TRIES_MAX));
    cr_expect(eq(u64, atomic_load(&counters.store_failures), 1));
    cr_expect(eq(int, at.op.err.http, 503));
}

Test(attempt, an_answer_that_will_not_change_is_not_asked_for_again)
{
    static const enum larder_kind kinds[] = { LARDER_NOT_FOUND, LARDER_DENIED,    LARDER_INVALID, LARDER_UNSUPPORTED,
                                              LARDER_EXISTS,    LARDER_CANCELLED, LARDER_TIMEOUT, LARDER_IO };

    for (size_t i = 0; i < LDR_ARRAY_LEN(kinds); i++) {
        fake_silence(store, LDR_OP_HEAD);
        fake_say(store, LDR_OP_HEAD, (struct fake_answer){ .kind = kinds[i] });
        cr_expect(eq(int, run(LDR_OP_HEAD, 10000), kinds[i]));
        cr_expect(eq(uint, at.tries, 1), "%s", larder_kind_name(kinds[i]));
    }
    cr_expect(eq(u64, atomic_load(&counters.store_failures), LDR_ARRAY_LEN(kinds) - 2),
              "a missing object and a cancelled call are no failures of a store");
}

Test(attempt, every_op_reaches_its_slot)
{
    fake_say(store, LDR_OP_GET, good);
    fake_say(store, LDR_OP_HEAD, good);
    fake_say(store, LDR_OP_PUT, good);
    fake_say(store, LDR_OP_DELETE, good);
    fake_say(store, LDR_OP_LIST, good);
    fake_say(store, LDR_OP_COPY, good);
    for (int what = 0; what <= LDR_OP_COPY; what++) {
        cr_expect(eq(int, run((enum ldr_op_what)what, 10000), LARDER_OK));
        cr_expect(eq(uint, fake_seen(store, (enum ldr_op_what)what), 1));
    }
    cr_expect(eq(u64, atomic_load(&counters.store_deletes), 1));
    cr_expect(eq(u64, atomic_load(&counters.store_heads), 1));
    cr_expect(eq(u64, atomic_load(&counters.store_lists), 1));
    cr_expect(eq(u64, atomic_load(&counters.store_copies), 1));
}

/* ---- time ---- */

Test(attempt, retry_after_is_waited_for)
{
    fake_say(store, LDR_OP_HEAD,
             (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 429, .retry_after_ms = 300 });
    fake_say(store, LDR_OP_HEAD, good);
    cr_expect(eq(int, run(LDR_OP_HEAD, 30000), LARDER_OK));
    cr_expect(ge(i64, took_ns, 300 * LDR_NS_PER_MS));
}

Test(attempt, a_retry_after_behind_the_deadline_is_the_end)
{
    fake_say(store, LDR_OP_HEAD,
             (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .retry_after_ms = 3600 * 1000 });
    cr_expect(eq(int, run(LDR_OP_HEAD, 20000), LARDER_UNAVAILABLE));
    cr_expect(eq(uint, at.tries, 1));
    cr_expect(lt(i64, took_ns, 10 * LDR_NS_PER_S));
}

Test(attempt, nothing_is_sent_after_the_deadline)
{
    fake_say(store, LDR_OP_HEAD, busy);
    cr_expect(eq(int, run(LDR_OP_HEAD, 0), LARDER_UNAVAILABLE));
    cr_expect(eq(uint, fake_seen(store, LDR_OP_HEAD), 1));
}

Test(attempt, a_retry_that_could_only_start_behind_the_deadline_does_not_hide_the_reason)
{
    fake_say(store, LDR_OP_HEAD,
             (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .retry_after_ms = 2000 });
    fake_say(store, LDR_OP_HEAD, good);
    cr_expect(eq(int, run(LDR_OP_HEAD, 1000), LARDER_UNAVAILABLE));
    cr_expect(eq(int, at.op.err.http, 503));
    cr_expect(lt(i64, took_ns, LDR_NS_PER_S), "it does not wait for nothing");
}

/* ---- the store's pace ---- */

static void with_pace(void)
{
    fake_base(store)->pace = ldr_pace_new();
    cr_assert(fake_base(store)->pace != NULL);
}

Test(attempt, without_budget_there_is_no_second_try)
{
    with_pace();
    while (ldr_pace_retry(fake_base(store)->pace, false))
        ;
    fake_say(store, LDR_OP_GET, busy);
    cr_expect(eq(int, run(LDR_OP_GET, 30000), LARDER_UNAVAILABLE));
    cr_expect(eq(uint, at.tries, 1));
    cr_expect(eq(int, at.op.err.http, 503), "what the store said is what the caller gets");
    cr_expect(eq(u64, atomic_load(&counters.retries_denied), 1));
    cr_expect(eq(u64, atomic_load(&counters.store_retries), 0));
    cr_expect(eq(u64, atomic_load(&counters.store_failures), 1));
}

Test(attempt, answers_that_are_not_failures_of_the_store_fill_the_budget)
{
    with_pace();
    while (ldr_pace_retry(fake_base(store)->pace, false))
        ;
    fake_say(store, LDR_OP_HEAD, good);
    fake_say(store, LDR_OP_HEAD, (struct fake_answer){ .kind = LARDER_NOT_FOUND, .http = 404 });
    for (int i = 0; i < 5; i++)
        run(LDR_OP_HEAD, 30000);
    fake_say(store, LDR_OP_GET, busy);
    fake_say(store, LDR_OP_GET, good);
    cr_expect(eq(int, run(LDR_OP_GET, 30000), LARDER_OK));
    cr_expect(eq(uint, at.tries, 2));
    cr_expect(eq(u64, atomic_load(&counters.retries_denied), 0));
}

Test(attempt, slow_down_is_counted_and_slows_the_next_ones)
{
    with_pace();
    fake_say(store, LDR_OP_HEAD, (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .throttled = true });
    fake_say(store, LDR_OP_HEAD, good);
    cr_expect(eq(int, run(LDR_OP_HEAD, 30000), LARDER_OK));
    cr_expect(eq(u64, atomic_load(&counters.store_throttled), 1));
    cr_expect(gt(dbl, ldr_pace_rate(fake_base(store)->pace, "b", ldr_mono_ns()), 0));
    run(LDR_OP_HEAD, 30000);
    cr_expect(ge(i64, took_ns, 200 * LDR_NS_PER_MS), "at 1 to 3 a second: %lld", (long long)took_ns);
}

Test(attempt, what_could_leave_after_its_deadline_only_ends_at_once)
{
    struct ldr_pace *p;
    uint32_t wait;

    with_pace();
    p = fake_base(store)->pace;
    ldr_pace_throttled(p, "b", ldr_mono_ns());
    for (int i = 0; i < 3; i++)
        ldr_pace_send(p, "b", ldr_mono_ns(), LDR_NEVER, 0, &wait);
    fake_say(store, LDR_OP_GET, good);
    cr_expect(eq(int, run(LDR_OP_GET, 200), LARDER_TIMEOUT));
    cr_expect(eq(uint, fake_seen(store, LDR_OP_GET), 0));
    cr_expect(strstr(at.op.err.msg, "fewer requests") != NULL, "%s", at.op.err.msg);
    cr_expect(lt(i64, took_ns, 150 * LDR_NS_PER_MS));
    cr_expect(not(at.was_sent));
}

Test(attempt, a_retry_that_the_pace_puts_behind_the_deadline_ends_with_the_stores_answer)
{
    struct ldr_pace *p;
    uint32_t wait;

    with_pace();
    p = fake_base(store)->pace;
    fake_hold(store, true);
    fake_say(store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .throttled = true });
    fake_say(store, LDR_OP_GET, good);
    launch(LDR_OP_GET, 900);
    while (fake_held(store) == 0)
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
    ldr_pace_throttled(p, "b", ldr_mono_ns());
    for (int i = 0; i < 4; i++)
        ldr_pace_send(p, "b", ldr_mono_ns(), LDR_NEVER, 0, &wait);
    fake_let(store);
    cr_expect(eq(int, wait_end(), LARDER_UNAVAILABLE));
    cr_expect(eq(int, at.op.err.http, 503));
    cr_expect(eq(uint, fake_seen(store, LDR_OP_GET), 1));
}

Test(attempt, a_wait_for_the_pace_ends_when_the_agent_stops)
{
    struct ldr_pace *p;
    uint32_t wait;

    with_pace();
    p = fake_base(store)->pace;
    ldr_pace_throttled(p, "b", ldr_mono_ns());
    for (int i = 0; i < 100; i++)
        ldr_pace_send(p, "b", ldr_mono_ns(), LDR_NEVER, 0, &wait);
    fake_say(store, LDR_OP_HEAD, (struct fake_answer){ .kind = LARDER_CANCELLED });
    launch(LDR_OP_HEAD, -1);
    ldr_net_shutdown(net);
    cr_expect(eq(int, wait_end(), LARDER_CANCELLED));
}

/* ---- writes ---- */

Test(attempt, a_request_that_was_sent_is_final_where_that_is_asked_for)
{
    at.once_sent_is_final = true;
    fake_say(store, LDR_OP_PUT, (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .sent = true });
    cr_expect(eq(int, run(LDR_OP_PUT, 10000), LARDER_UNAVAILABLE));
    cr_expect(eq(uint, at.tries, 1));
    cr_expect(at.was_sent);
}

Test(attempt, one_that_never_left_is_tried_again_all_the_same)
{
    at.once_sent_is_final = true;
    fake_say(store, LDR_OP_PUT, (struct fake_answer){ .kind = LARDER_UNAVAILABLE });
    fake_say(store, LDR_OP_PUT, good);
    cr_expect(eq(int, run(LDR_OP_PUT, 10000), LARDER_OK));
    cr_expect(eq(uint, at.tries, 2));
}

Test(attempt, so_is_one_that_the_store_refused_as_another_write_was_under_way)
{
    at.once_sent_is_final = true;
    fake_say(store, LDR_OP_PUT, (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 409, .sent = true });
    fake_say(store, LDR_OP_PUT, (struct fake_answer){ .kind = LARDER_EXISTS, .http = 412, .sent = true });
    cr_expect(eq(int, run(LDR_OP_PUT, 10000), LARDER_EXISTS));
    cr_expect(eq(uint, at.tries, 2));
    cr_expect(not(at.unsure), "a firm no each time");
}

Test(attempt, that_it_was_sent_once_is_remembered_over_later_tries)
{
    fake_say(store, LDR_OP_DELETE, (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .sent = true });
    fake_say(store, LDR_OP_DELETE, (struct fake_answer){ .kind = LARDER_DENIED });
    cr_expect(eq(int, run(LDR_OP_DELETE, 10000), LARDER_DENIED));
    cr_expect(at.was_sent);
    cr_expect(not(at.op.sent));
}

/* ---- the agent stops ---- */

Test(attempt, a_wait_ends_when_the_agent_stops)
{
    fake_say(store, LDR_OP_HEAD,
             (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .retry_after_ms = 3600 * 1000 });
    fake_say(store, LDR_OP_HEAD, (struct fake_answer){ .kind = LARDER_CANCELLED });
    launch(LDR_OP_HEAD, -1);
    while (fake_seen(store, LDR_OP_HEAD) == 0)
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
    ldr_net_shutdown(net);
    cr_expect(ne(int, wait_end(), LARDER_OK), "an hour early");
}

Test(attempt, nothing_is_tried_again_once_the_agent_stops)
{
    fake_say(store, LDR_OP_HEAD, busy);
    ldr_net_shutdown(net);
    cr_expect(eq(int, run(LDR_OP_HEAD, 10000), LARDER_UNAVAILABLE));
    cr_expect(eq(uint, at.tries, 1));
    cr_expect(eq(uint, ends, 1));
}
