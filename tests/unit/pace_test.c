/* pace_test.c - how often a store is asked again, and how fast: pure, time is an argument. */
#include "agent/pace.h"
#include "common/clock.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>

#define S(x)  ((int64_t)((x)*1e9))
#define START S(1000)

static struct ldr_pace *pace;

static void start(void)
{
    pace = ldr_pace_new();
    cr_assert(pace != NULL);
}

static void stop(void)
{
    ldr_pace_free(&pace);
    cr_expect(pace == NULL);
}

TestSuite(pace, .init = start, .fini = stop, .timeout = 30);

/* Ask to send; seconds to wait. */
static double ask(const char *container, int64_t now, int64_t deadline, enum ldr_pace_answer want)
{
    uint32_t wait = 12345;

    cr_expect(eq(int, ldr_pace_send(pace, container, now, deadline, 77, &wait), want));
    return wait / 1000.0;
}

static double go(const char *container, int64_t now)
{
    return ask(container, now, LDR_NEVER, LDR_PACE_GO);
}

/* `n` requests, evenly over `s` seconds; returns the time after them. */
static int64_t load(const char *container, int64_t from, unsigned n, double s)
{
    for (unsigned i = 0; i < n; i++)
        go(container, from + S(s) * i / n);
    return from + S(s);
}

/* ---- budget ---- */

Test(pace, a_hundred_retries_are_there_at_first_and_no_more)
{
    for (int i = 0; i < 100; i++)
        cr_assert(ldr_pace_retry(pace, false), "%d", i);
    cr_expect(not(ldr_pace_retry(pace, false)));
    cr_expect(not(ldr_pace_retry(pace, true)));
}

Test(pace, a_request_without_an_answer_costs_twice_as_much)
{
    for (int i = 0; i < 50; i++)
        cr_assert(ldr_pace_retry(pace, true), "%d", i);
    cr_expect(not(ldr_pace_retry(pace, false)));
}

Test(pace, five_successes_pay_for_a_retry)
{
    while (ldr_pace_retry(pace, false))
        ;
    for (int i = 0; i < 4; i++)
        ldr_pace_success(pace);
    cr_expect(not(ldr_pace_retry(pace, false)));
    ldr_pace_success(pace);
    cr_expect(not(ldr_pace_retry(pace, true)), "what is refused costs nothing");
    cr_expect(ldr_pace_retry(pace, false));
    cr_expect(not(ldr_pace_retry(pace, false)));
}

Test(pace, the_bucket_does_not_run_over)
{
    for (int i = 0; i < 10000; i++)
        ldr_pace_success(pace);
    for (int i = 0; i < 100; i++)
        cr_assert(ldr_pace_retry(pace, false), "%d", i);
    cr_expect(not(ldr_pace_retry(pace, false)));
}

/* ---- rate ---- */

Test(pace, nothing_waits_before_the_store_says_so)
{
    for (int i = 0; i < 100000; i++)
        cr_assert(eq(dbl, go("b", START), 0));
    cr_expect(eq(dbl, ldr_pace_rate(pace, "b", START), 0));
}

Test(pace, slow_down_halves_the_rate_and_spaces_requests)
{
    int64_t now = load("b", START, 400, 2); /* 200 a second */
    double rate;

    ldr_pace_throttled(pace, "b", now);
    rate = ldr_pace_rate(pace, "b", now);
    cr_expect(all(ge(dbl, rate, 90), le(dbl, rate, 110)), "%f", rate);
    cr_expect(eq(dbl, go("b", now), 0));
    for (int i = 1; i <= 100; i++) {
        double wait = go("b", now);

        cr_assert(all(ge(dbl, wait, i / rate - 0.002), le(dbl, wait, i / rate + 0.002)), "%d: %f", i, wait);
    }
}

Test(pace, a_burst_that_is_refused_at_once_is_measured_too)
{
    for (int i = 0; i < 100; i++)
        go("b", START + i);
    ldr_pace_throttled(pace, "b", START + S(0.01));
    cr_expect(eq(dbl, ldr_pace_rate(pace, "b", START + S(0.01)), 100), "100 in half a second, halved");
}

Test(pace, the_answers_to_what_was_under_way_count_once)
{
    int64_t now = load("b", START, 400, 2);
    double rate;

    ldr_pace_throttled(pace, "b", now);
    rate = ldr_pace_rate(pace, "b", now);
    for (int i = 0; i < 50; i++)
        ldr_pace_throttled(pace, "b", now + S(0.4) * i / 50);
    cr_expect(ge(dbl, ldr_pace_rate(pace, "b", now + S(0.4)), rate));
    ldr_pace_throttled(pace, "b", now + S(0.6));
    cr_expect(lt(dbl, ldr_pace_rate(pace, "b", now + S(0.6)), rate * 0.6));
}

Test(pace, the_rate_grows_and_after_a_calm_minute_there_is_none)
{
    int64_t now = load("b", START, 400, 2);
    double rate, later;

    ldr_pace_throttled(pace, "b", now);
    rate = ldr_pace_rate(pace, "b", now);
    later = ldr_pace_rate(pace, "b", now + S(5));
    cr_expect(all(ge(dbl, later, rate * 1.9), le(dbl, later, rate * 2.1)), "back where it was after five seconds: %f",
              later);
    cr_expect(gt(dbl, ldr_pace_rate(pace, "b", now + S(59)), later));
    cr_expect(eq(dbl, ldr_pace_rate(pace, "b", now + S(60)), 0));
    cr_expect(eq(dbl, go("b", now + S(61)), 0));
    cr_expect(eq(dbl, go("b", now + S(61)), 0));
}

Test(pace, a_store_that_always_says_slow_down_is_still_asked_once_a_second)
{
    int64_t now = load("b", START, 100, 1);

    for (int i = 0; i < 200; i++, now += S(0.5))
        ldr_pace_throttled(pace, "b", now);
    cr_expect(ge(dbl, ldr_pace_rate(pace, "b", now), 1.0));
    cr_expect(le(dbl, ldr_pace_rate(pace, "b", now), 2.0));
}

Test(pace, one_container_does_not_slow_another)
{
    load("a", START, 100, 1);
    load("b", START, 100, 1);
    ldr_pace_throttled(pace, "a", START + S(1));
    go("a", START + S(1));
    cr_expect(gt(dbl, go("a", START + S(1)), 0));
    for (int i = 0; i < 1000; i++)
        cr_assert(eq(dbl, go("b", START + S(1)), 0));
}

Test(pace, what_would_leave_after_its_deadline_is_told_at_once_and_takes_no_place)
{
    int64_t now = load("b", START, 20, 1);
    double rate;

    ldr_pace_throttled(pace, "b", now);
    rate = ldr_pace_rate(pace, "b", now);
    for (int i = 0; i < 10; i++)
        go("b", now);
    for (int i = 0; i < 1000; i++)
        cr_assert(eq(dbl, ask("b", now, now + S(0.5), LDR_PACE_LATE), 0));
    cr_expect(le(dbl, go("b", now), 10 / rate + 0.002));
}

Test(pace, places_are_given_away_for_four_seconds_and_the_others_ask_again)
{
    int64_t now = load("b", START, 20, 1);
    int went = 0, asked = 0;

    ldr_pace_throttled(pace, "b", now);
    for (int i = 0; i < 1000; i++) {
        uint32_t wait;
        enum ldr_pace_answer a = ldr_pace_send(pace, "b", now, LDR_NEVER, (uint32_t)i * 2654435761u, &wait);

        went += a == LDR_PACE_GO;
        asked += a == LDR_PACE_ASK;
        cr_assert(a == LDR_PACE_GO ? wait <= 4001 : wait >= 2000 && wait <= 4001, "%u", wait);
    }
    cr_expect(all(ge(int, went, 35), le(int, went, 60)), "%d", went);
    cr_expect(eq(int, went + asked, 1000));
    cr_expect(le(dbl, ask("b", now, now + S(3), LDR_PACE_LATE), 3.001), "never behind a deadline");
}

Test(pace, more_containers_than_are_watched_go_unlimited)
{
    char name[32];

    load("first", START, 100, 1);
    ldr_pace_throttled(pace, "first", START + S(1));
    cr_expect(gt(dbl, ldr_pace_rate(pace, "first", START + S(1)), 0));
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "other-%d", i);
        cr_assert(eq(dbl, go(name, START + S(2) + i), 0));
    }
    cr_expect(eq(dbl, ldr_pace_rate(pace, "first", START + S(3)), 0), "its place went to a later one");
}
