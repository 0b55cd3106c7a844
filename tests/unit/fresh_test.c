/* fresh_test.c - what a policy makes of an object; `now` is an argument. */
#include "agent/fresh.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#define S INT64_C(1000000000)

TestSuite(fresh, .timeout = 10);

static struct ldr_record record_of(enum ldr_freshness freshness, int64_t ttl_ns, int64_t now)
{
    struct ldr_prefix_cfg p = { .freshness = freshness, .ttl_ns = ttl_ns };
    struct ldr_record r = { .fresh_until_ns = 1, .validated_at_ns = 2, .boot = 3 };

    ldr_fresh_set(&r, &p, 7, now);
    return r;
}

Test(fresh, an_immutable_object_is_fresh_for_ever_and_on_every_boot)
{
    struct ldr_record r = record_of(LDR_IMMUTABLE, 0, 5 * S);

    cr_expect(eq(u64, r.validated_at_ns, 5 * S));
    cr_expect(ldr_record_fresh(&r, 7, INT64_MAX));
    cr_expect(ldr_record_fresh(&r, 8, 0));
}

Test(fresh, a_ttl_ends_exactly_when_it_says)
{
    struct ldr_record r = record_of(LDR_TTL, 60 * S, 5 * S);

    cr_expect(eq(u32, r.boot, 7));
    cr_expect(eq(u64, r.validated_at_ns, 5 * S));
    cr_expect(ldr_record_fresh(&r, 7, 65 * S - 1));
    cr_expect(not(ldr_record_fresh(&r, 7, 65 * S)));
}

Test(fresh, a_ttl_means_nothing_on_another_boot)
{
    struct ldr_record r = record_of(LDR_TTL, 60 * S, 5 * S);

    cr_expect(not(ldr_record_fresh(&r, 8, 6 * S)));
    cr_expect(not(ldr_record_fresh(&r, 6, 6 * S)));
}

Test(fresh, an_endless_ttl_does_not_overflow_and_is_still_no_immutable)
{
    struct ldr_record r = record_of(LDR_TTL, INT64_MAX, 5 * S);

    cr_expect(eq(u64, r.fresh_until_ns, INT64_MAX));
    cr_expect(ldr_record_fresh(&r, 7, INT64_MAX - 1));
    cr_expect(not(ldr_record_fresh(&r, 8, 6 * S)));
}

Test(fresh, a_ttl_of_nothing_is_stale_at_once)
{
    struct ldr_record r = record_of(LDR_TTL, 0, 5 * S);

    cr_expect(not(ldr_record_fresh(&r, 7, 5 * S)));
}

Test(fresh, what_must_be_revalidated_is_never_fresh_by_itself)
{
    struct ldr_record r = record_of(LDR_REVALIDATE, 60 * S, 5 * S);

    cr_expect(not(ldr_record_fresh(&r, 7, 5 * S)));
    cr_expect(not(ldr_record_fresh(&r, 7, 6 * S)));
}
