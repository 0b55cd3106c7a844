/* width_test.c - how many requests at once: which width it comes to, with stores of several kinds (width.c). A store is a
 * model: how long a block takes while so many are under way. */
#include "agent/width.h"
#include "common/clock.h"
#include "common/defs.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#define BLOCK (8 * LDR_MIB)

/* One request alone brings `alone` bytes a second, all together at most `all`; each one beyond `free` that is under way
 * costs all of them `cost` of what they would bring. */
struct model {
    double alone, all, cost;
    unsigned free;
};
static const struct model wan = { .alone = 20e6, .all = 1e9 };          /* 50 of them to fill it */
static const struct model narrow_wan = { .alone = 20e6, .all = 125e6 }; /* 6 of them */
static const struct model loopback = { .alone = 2e9, .all = 2.5e9, .cost = 0.05, .free = 2 };
static const struct model lan = { .alone = 400e6, .all = 1.2e9 }; /* 3 of them */

static double rate_of(const struct model *m, unsigned width)
{
    double rate = m->alone * width < m->all ? m->alone * width : m->all;

    return width > m->free ? rate * (1 - m->cost * (width - m->free)) : rate;
}

static uint32_t dice;

/* Between -1 and 1, the same in each run. */
static double noise(void)
{
    dice = dice * 1664525 + 1013904223;
    return (double)(int32_t)dice / 2147483648.0;
}

static void transfer(struct ldr_width *w, const struct model *m, unsigned blocks, double shaky, int64_t *now_ns)
{
    for (unsigned i = 0; i < blocks; i++) {
        double seconds = (double)BLOCK / rate_of(m, ldr_width_now(w)) * (1 + shaky * noise());

        *now_ns += (int64_t)(seconds * (double)LDR_NS_PER_S);
        ldr_width_block(w, BLOCK, *now_ns);
    }
}

/* Where it rests, after so many blocks. */
static unsigned settle(const struct model *m, unsigned blocks, double shaky)
{
    struct ldr_width w = { 0 };
    int64_t now = LDR_NS_PER_S;

    transfer(&w, m, blocks, shaky, &now);
    for (int i = 0; i < 10000 && w.doing != LDR_WIDTH_REST; i++)
        transfer(&w, m, 1, shaky, &now);
    return ldr_width_now(&w);
}

Test(width, begins_with_four)
{
    struct ldr_width w = { 0 };

    cr_expect(eq(uint, ldr_width_now(&w), 4));
}

Test(width, a_far_store_gets_as_many_as_there_may_be)
{
    cr_expect(eq(uint, settle(&wan, 1, 0), 16));
}

Test(width, a_narrow_road_gets_as_many_as_fill_it)
{
    unsigned w = settle(&narrow_wan, 1, 0);

    cr_expect(w == 6 || w == 8, "%u", w);
}

Test(width, a_near_store_gets_the_fewest)
{
    cr_expect(eq(uint, settle(&loopback, 1, 0), 2));
}

Test(width, no_more_than_needed_where_more_are_not_faster)
{
    cr_expect(eq(uint, settle(&lan, 1, 0), 3));
}

Test(width, has_found_out_within_the_blocks_of_one_gigabyte)
{
    const struct model *models[] = { &wan, &loopback, &lan, &narrow_wan };

    for (size_t i = 0; i < LDR_ARRAY_LEN(models); i++) {
        struct ldr_width w = { 0 };
        int64_t now = 0;

        transfer(&w, models[i], 128, 0, &now);
        cr_expect(eq(int, w.doing, LDR_WIDTH_REST), "model %zu", i);
    }
}

Test(width, shaky_figures_lead_to_the_same_neighbourhood)
{
    for (uint32_t start = 1; start < 40; start += 3) {
        dice = start;
        cr_expect(ge(uint, settle(&wan, 1000, 0.2), 8), "dice %u", start);
        cr_expect(le(uint, settle(&loopback, 1000, 0.2), 6), "dice %u", start);
    }
}

Test(width, follows_when_the_store_changes)
{
    struct ldr_width w = { 0 };
    int64_t now = 0;

    transfer(&w, &loopback, 500, 0, &now);
    cr_expect(le(uint, ldr_width_now(&w), 3));
    transfer(&w, &wan, 2000, 0, &now);
    cr_expect(ge(uint, ldr_width_now(&w), 12));
    transfer(&w, &loopback, 4000, 0, &now);
    cr_expect(le(uint, ldr_width_now(&w), 6));
}

Test(width, stays_between_two_and_sixteen_whatever_comes)
{
    struct ldr_width w = { 0 };
    int64_t now = 0;

    dice = 7;
    for (int i = 0; i < 100000; i++) {
        now += (int64_t)((noise() + 1) * 5e7); /* also 0 */
        if (i % 97 == 0)
            ldr_width_break(&w);
        if (i % 1511 == 0)
            ldr_width_throttled(&w, now);
        ldr_width_block(&w, (uint64_t)((noise() + 1) * 1e7), now);
        cr_assert(ldr_width_now(&w) >= 2 && ldr_width_now(&w) <= LDR_WIDTH_MAX);
    }
}

Test(width, a_store_that_asks_for_less_gets_half_once_a_second)
{
    struct ldr_width w = { 0 };
    int64_t now = 0;

    transfer(&w, &wan, 500, 0, &now);
    cr_assert(eq(uint, ldr_width_now(&w), 16));
    ldr_width_throttled(&w, now);
    cr_expect(eq(uint, ldr_width_now(&w), 8));
    ldr_width_throttled(&w, now + LDR_NS_PER_S / 2);
    cr_expect(eq(uint, ldr_width_now(&w), 8));
    ldr_width_throttled(&w, now + LDR_NS_PER_S);
    cr_expect(eq(uint, ldr_width_now(&w), 4));
    now += LDR_NS_PER_S;
    transfer(&w, &wan, 4 + 6 * 15, 0, &now);
    cr_expect(eq(uint, ldr_width_now(&w), 4), "it rests before it tries more again");
    transfer(&w, &wan, 500, 0, &now);
    cr_expect(eq(uint, ldr_width_now(&w), 16));
    for (int i = 0; i < 9; i++)
        ldr_width_throttled(&w, now += 2 * LDR_NS_PER_S);
    cr_expect(eq(uint, ldr_width_now(&w), 2), "never none");
}

Test(width, a_round_that_was_broken_is_not_judged)
{
    struct ldr_width w = { 0 };
    int64_t now = 0;

    for (int i = 0; i < 1000; i++) {
        now += LDR_NS_PER_S;
        ldr_width_block(&w, BLOCK, now);
        if (i % 8 == 7)
            ldr_width_break(&w);
    }
    cr_expect(eq(uint, ldr_width_now(&w), 4));
}
