/* evict_test.c - CAR in bytes: every rule of the policy, and whole traces against another implementation's figures. */
#include "agent/evict.h"
#include "tests/support/trace.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(evict, .timeout = 60);

enum mood {
    UNREAD,
    READ,    /* until somebody asks */
    READING, /* its bit is set again as soon as it is cleared */
    HELD,
};

struct item {
    struct ldr_evict_entry e;
    enum mood mood;
    unsigned asked;
};

static enum ldr_visit ask(void *user, struct ldr_evict_entry *e)
{
    struct item *x = LDR_CONTAINER(e, struct item, e);

    (void)user;
    x->asked++;
    switch (x->mood) {
    case UNREAD:
        break;
    case READ:
        x->mood = UNREAD;
        return LDR_VISIT_YES;
    case READING:
        return LDR_VISIT_YES;
    case HELD:
        return LDR_VISIT_HELD;
    }
    return LDR_VISIT_NO;
}

/* items[from … to - 1], of `charge` each; the number of an item is its hash. */
static void add(struct ldr_evict *e, struct item *items, int from, int to, uint64_t charge)
{
    for (int i = from; i < to; i++)
        ldr_evict_add(e, &items[i].e, (uint64_t)i, charge);
}

static int victim(struct ldr_evict *e)
{
    struct ldr_evict_entry *x = ldr_evict_victim(e, ask, NULL);

    return x ? (int)x->hash : -1;
}

static struct ldr_evict_stats stats(const struct ldr_evict *e)
{
    struct ldr_evict_stats s;

    ldr_evict_stats(e, &s);
    return s;
}

/* Make items[from … to - 1] proven. T1 holds nothing else, its target is 0, and items[spare] goes for it. */
static void prove(struct ldr_evict *e, struct item *items, int from, int to, int spare)
{
    for (int i = from; i < to; i++)
        items[i].mood = READ;
    ldr_evict_add(e, &items[spare].e, (uint64_t)spare, 1);
    cr_assert(eq(int, victim(e), spare));
    cr_assert(eq(u64, stats(e).t1_bytes, 0));
}

Test(evict, what_nobody_read_goes_in_order_of_age)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[3] = { 0 };

    cr_expect(eq(int, victim(e), -1));
    add(e, x, 0, 3, 10);
    cr_expect(eq(u64, stats(e).t1_bytes, 30));
    cr_expect(eq(u64, stats(e).entries, 3));
    for (int i = 0; i < 3; i++) {
        cr_expect(eq(int, victim(e), i));
        cr_expect(eq(int, x[i].e.list, 0));
    }
    cr_expect(eq(int, victim(e), -1));
    cr_expect(eq(u64, stats(e).evicted, 3));
    cr_expect(eq(u64, stats(e).b1_bytes, 30));
    ldr_evict_free(&e);
    cr_expect(e == NULL);
    ldr_evict_free(&e);
}

Test(evict, what_was_read_is_proven_and_goes_after_what_was_not)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[3] = { 0 };

    add(e, x, 0, 3, 10);
    x[0].mood = READ;
    cr_expect(eq(int, victim(e), 1));
    cr_expect(eq(u64, stats(e).t2_bytes, 10));
    cr_expect(eq(int, x[0].mood, UNREAD), "the bit was asked for and not believed");
    cr_expect(eq(int, victim(e), 2));
    cr_expect(eq(int, victim(e), 0));
    cr_expect(eq(u64, stats(e).b1_bytes, 20));
    cr_expect(eq(u64, stats(e).b2_bytes, 10));
    ldr_evict_free(&e);
}

Test(evict, when_all_were_read_the_oldest_goes_in_the_same_call)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[2] = { 0 };

    add(e, x, 0, 2, 10);
    x[0].mood = x[1].mood = READ;
    cr_expect(eq(int, victim(e), 0));
    cr_expect(eq(u64, stats(e).b2_bytes, 10));
    cr_expect(eq(u64, stats(e).t2_bytes, 10));
    ldr_evict_free(&e);
}

Test(evict, a_proven_entry_that_is_read_again_gets_another_turn)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[4] = { 0 };

    add(e, x, 0, 3, 10);
    prove(e, x, 0, 3, 3);
    x[0].mood = READ;
    cr_expect(eq(int, victim(e), 1));
    cr_expect(eq(int, victim(e), 2));
    cr_expect(eq(int, victim(e), 0));
    ldr_evict_free(&e);
}

Test(evict, a_ghost_of_t1_raises_the_target_and_its_entry_begins_proven)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[2] = { 0 };

    add(e, x, 0, 2, 10);
    cr_assert(eq(int, victim(e), 0));
    cr_expect(eq(u64, stats(e).target_bytes, 0));
    ldr_evict_add(e, &x[0].e, 0, 10);
    cr_expect(eq(u64, stats(e).target_bytes, 10));
    cr_expect(eq(u64, stats(e).t2_bytes, 10));
    cr_expect(eq(u64, stats(e).ghosts, 0), "a ghost is met once");
    cr_expect(eq(u64, stats(e).ghost_hits, 1));
    ldr_evict_remove(e, &x[0].e);
    ldr_evict_add(e, &x[0].e, 0, 10);
    cr_expect(eq(u64, stats(e).t1_bytes, 20));
    ldr_evict_free(&e);
}

Test(evict, a_ghost_of_t2_lowers_the_target_and_the_rarer_kind_counts_for_more)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[7] = { 0 };

    add(e, x, 0, 2, 10);
    prove(e, x, 0, 2, 6);
    cr_assert(eq(int, victim(e), 0));
    add(e, x, 2, 6, 10);
    for (int i = 2; i < 5; i++)
        cr_assert(eq(int, victim(e), i));
    cr_expect(eq(u64, stats(e).b1_bytes, 31));
    cr_expect(eq(u64, stats(e).b2_bytes, 10));
    ldr_evict_add(e, &x[2].e, 2, 10);
    ldr_evict_add(e, &x[3].e, 3, 10);
    cr_expect(eq(u64, stats(e).target_bytes, 20));
    /* B1 has 11 bytes of ghosts, B2 10: 10 * 11 / 10 */
    ldr_evict_add(e, &x[0].e, 0, 10);
    cr_expect(eq(u64, stats(e).target_bytes, 9));
    cr_expect(eq(u64, stats(e).t2_bytes, 40));
    ldr_evict_free(&e);
}

Test(evict, the_target_stays_between_nothing_and_the_capacity)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[4] = { 0 };

    add(e, x, 0, 1, 10);
    cr_assert(eq(int, victim(e), 0));
    ldr_evict_add(e, &x[0].e, 0, UINT64_C(1) << 40); /* has grown meanwhile */
    cr_expect(eq(u64, stats(e).target_bytes, 100));
    ldr_evict_free(&e);

    e = ldr_evict_new(100);
    x[0] = (struct item){ 0 };
    add(e, x, 0, 1, 10);
    prove(e, x, 0, 1, 3);
    add(e, x, 1, 3, 10);
    cr_assert(eq(int, victim(e), 1));
    add(e, x, 1, 2, 10);
    cr_assert(eq(u64, stats(e).target_bytes, 10));
    cr_assert(eq(int, victim(e), 2));
    cr_assert(eq(int, victim(e), 0));
    ldr_evict_add(e, &x[0].e, 0, UINT64_C(1) << 40);
    cr_expect(eq(u64, stats(e).target_bytes, 0));
    ldr_evict_free(&e);
}

Test(evict, the_target_decides_which_list_gives)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[8] = { 0 };

    add(e, x, 0, 3, 10);
    prove(e, x, 0, 3, 7);
    add(e, x, 3, 6, 10);
    cr_assert(eq(int, victim(e), 3));
    cr_assert(eq(int, victim(e), 4));
    ldr_evict_add(e, &x[3].e, 3, 10);
    ldr_evict_add(e, &x[4].e, 4, 10); /* target 20, T1 10, T2 50 */
    cr_expect(eq(int, victim(e), 0));
    add(e, x, 6, 7, 10); /* T1 20 */
    cr_expect(eq(int, victim(e), 5));
    ldr_evict_free(&e);
}

Test(evict, what_is_deleted_leaves_no_ghost)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[2] = { 0 };

    add(e, x, 0, 2, 10);
    ldr_evict_remove(e, &x[0].e);
    ldr_evict_remove(e, &x[0].e);
    cr_expect(eq(u64, stats(e).ghosts, 0));
    cr_expect(eq(u64, stats(e).t1_bytes, 10));
    ldr_evict_add(e, &x[0].e, 0, 10);
    cr_expect(eq(u64, stats(e).t2_bytes, 0));
    cr_expect(eq(u64, stats(e).evicted, 0));
    ldr_evict_free(&e);
}

Test(evict, what_is_held_stays_in_its_list_and_is_asked_again)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[3] = { 0 };

    add(e, x, 0, 3, 10);
    x[0].mood = HELD;
    cr_expect(eq(int, victim(e), 1));
    cr_expect(eq(u64, stats(e).t1_bytes, 20));
    cr_expect(eq(u64, stats(e).t2_bytes, 0));
    cr_expect(eq(int, victim(e), 2));
    cr_expect(eq(int, victim(e), -1));
    x[0].mood = UNREAD;
    cr_expect(eq(int, victim(e), 0));
    ldr_evict_free(&e);
}

Test(evict, when_all_are_held_the_search_ends_without_a_victim)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[11] = { 0 };

    add(e, x, 0, 5, 10);
    prove(e, x, 0, 5, 10);
    add(e, x, 5, 10, 10);
    for (int i = 0; i < 10; i++)
        x[i] = (struct item){ x[i].e, HELD, 0 };
    cr_expect(eq(int, victim(e), -1));
    for (int i = 0; i < 10; i++)
        cr_expect(1 <= x[i].asked && x[i].asked <= 2, "item %d was asked %u times", i, x[i].asked);
    cr_expect(eq(u64, stats(e).entries, 10));
    cr_expect(eq(u64, stats(e).evicted, 1));
    ldr_evict_free(&e);
}

Test(evict, a_held_list_makes_the_other_one_give_whatever_the_target)
{
    for (int mood = UNREAD; mood <= READING; mood++) {
        struct ldr_evict *e = ldr_evict_new(100);
        struct item x[5] = { 0 };

        add(e, x, 0, 3, 10);
        cr_assert(eq(int, victim(e), 0));
        ldr_evict_add(e, &x[0].e, 0, 10); /* proven, target 10 */
        x[1].mood = READ;
        cr_assert(eq(int, victim(e), 2));
        cr_assert(eq(u64, stats(e).t2_bytes, 20));
        ldr_evict_add(e, &x[3].e, 3, 5); /* T1 is below its target */
        x[0].mood = x[1].mood = HELD;
        x[3].mood = (enum mood)mood;
        cr_expect(eq(int, victim(e), 3));
        ldr_evict_free(&e);
    }
}

Test(evict, an_entry_that_is_not_held_goes_even_if_its_bit_is_always_set)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[5] = { 0 };

    add(e, x, 0, 4, 10);
    prove(e, x, 0, 4, 4);
    x[0].mood = READING;
    x[1].mood = x[2].mood = x[3].mood = HELD;
    cr_expect(eq(int, victim(e), 0));
    cr_expect(eq(int, victim(e), -1));
    ldr_evict_free(&e);
}

Test(evict, a_victim_is_found_in_two_looks_an_entry_while_all_bits_are_set)
{
    struct ldr_evict *e = ldr_evict_new(10000);
    struct item x[101] = { 0 };

    add(e, x, 0, 50, 10);
    prove(e, x, 0, 50, 100);
    add(e, x, 50, 100, 10);
    for (int left = 100; left > 0; left--) {
        unsigned asked = 0;

        for (int i = 0; i < 100; i++)
            x[i] = (struct item){ x[i].e, READING, 0 };
        cr_expect(ne(int, victim(e), -1));
        for (int i = 0; i < 100; i++)
            asked += x[i].asked;
        cr_expect(asked <= 2 * (unsigned)left, "asked %u times for %d entries", asked, left);
    }
    cr_expect(eq(u64, stats(e).entries, 0));
    ldr_evict_free(&e);
}

Test(evict, bits_that_are_always_set_do_not_make_a_search_long)
{
    const int n = 100000;
    struct ldr_evict *e = ldr_evict_new((uint64_t)n * 10);
    struct item *x = calloc((size_t)n, sizeof *x);
    unsigned asked = 0;

    add(e, x, 0, n, 10);
    for (int i = 0; i < n; i++)
        x[i].mood = READING;
    cr_expect(ne(int, victim(e), -1));
    for (int i = 0; i < n; i++)
        asked += x[i].asked;
    cr_expect(eq(uint, asked, LDR_EVICT_CHANCES + 1));
    ldr_evict_free(&e);
    free(x);
}

Test(evict, what_is_restored_goes_before_what_this_run_brought_the_oldest_first)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[4] = { 0 };

    add(e, x, 3, 4, 10);
    for (int i = 2; i >= 0; i--) /* the newest first */
        ldr_evict_restore(e, &x[i].e, (uint64_t)i, 10);
    cr_expect(eq(u64, stats(e).t1_bytes, 40));
    for (int i = 0; i < 4; i++)
        cr_expect(eq(int, victim(e), i));
    ldr_evict_free(&e);
}

Test(evict, a_restored_entry_steers_nothing)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[1] = { 0 };

    add(e, x, 0, 1, 10);
    cr_assert(eq(int, victim(e), 0));
    ldr_evict_restore(e, &x[0].e, 0, 10);
    cr_expect(eq(u64, stats(e).target_bytes, 0));
    cr_expect(eq(u64, stats(e).t1_bytes, 10));
    cr_expect(eq(u64, stats(e).ghosts, 0));
    cr_expect(eq(u64, stats(e).ghost_hits, 0));
    ldr_evict_free(&e);
}

Test(evict, a_smaller_capacity_lowers_the_target_and_forgets_ghosts)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[10] = { 0 };

    add(e, x, 0, 10, 10);
    for (int i = 0; i < 9; i++)
        cr_assert(eq(int, victim(e), i));
    for (int i = 8; i > 4; i--)
        ldr_evict_add(e, &x[i].e, (uint64_t)i, 10);
    cr_assert(eq(u64, stats(e).target_bytes, 40));
    cr_assert(eq(u64, stats(e).b1_bytes, 50));
    ldr_evict_resize(e, 30);
    cr_expect(eq(u64, stats(e).target_bytes, 30));
    cr_expect(eq(u64, stats(e).b1_bytes, 10), "T1 has 10 bytes, T2 40: 60 in all");
    cr_expect(eq(u64, stats(e).entries, 5), "evicting is the owner's");
    ldr_evict_add(e, &x[4].e, 4, 10);
    cr_expect(eq(u64, stats(e).ghost_hits, 5), "the newest ghost is the one that was kept");
    ldr_evict_resize(e, 1000);
    cr_expect(eq(u64, stats(e).target_bytes, 30));
    ldr_evict_free(&e);
}

Test(evict, no_capacity_and_entries_larger_than_it_are_only_short_of_ghosts)
{
    static const uint64_t capacities[] = { 0, 5, UINT64_MAX };

    for (size_t c = 0; c < LDR_ARRAY_LEN(capacities); c++) {
        struct ldr_evict *e = ldr_evict_new(capacities[c]);
        struct item x[5] = { 0 };

        for (int round = 0; round < 3; round++) {
            add(e, x, 0, 4, 10);
            add(e, x, 4, 5, 0);
            x[1].mood = READ;
            for (int i = 0; i < 5; i++)
                cr_expect(ne(int, victim(e), -1));
            cr_expect(eq(int, victim(e), -1));
            cr_expect(le(u64, stats(e).target_bytes, capacities[c]));
            cr_expect(le(u64, stats(e).b1_bytes, capacities[c]));
        }
        ldr_evict_free(&e);
    }
}

Test(evict, the_entry_just_added_can_be_the_victim)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[1] = { 0 };

    add(e, x, 0, 1, 10);
    cr_expect(eq(int, victim(e), 0));
    add(e, x, 0, 1, 10);
    cr_expect(eq(int, victim(e), 0));
    ldr_evict_free(&e);
}

Test(evict, entries_of_one_hash_share_a_ghost)
{
    struct ldr_evict *e = ldr_evict_new(100);
    struct item x[2] = { 0 };

    ldr_evict_add(e, &x[0].e, 7, 10);
    ldr_evict_add(e, &x[1].e, 7, 20);
    cr_assert(eq(int, victim(e), 7));
    cr_assert(eq(int, victim(e), 7));
    cr_expect(eq(u64, stats(e).ghosts, 1));
    cr_expect(eq(u64, stats(e).b1_bytes, 20));
    ldr_evict_add(e, &x[0].e, 7, 10);
    ldr_evict_add(e, &x[1].e, 7, 20);
    cr_expect(eq(u64, stats(e).ghost_hits, 1));
    cr_expect(eq(u64, stats(e).ghosts, 0));
    ldr_evict_free(&e);
}

Test(evict, every_one_of_many_ghosts_is_found)
{
    const int n = 10000;
    struct ldr_evict *e = ldr_evict_new((uint64_t)n * 2);
    struct item *x = calloc((size_t)n, sizeof *x);

    add(e, x, 0, n, 1);
    for (int i = 0; i < n / 2; i++)
        cr_assert(eq(int, victim(e), i));
    cr_expect(eq(u64, stats(e).ghosts, (uint64_t)n / 2));
    for (int i = n / 2 - 1; i >= 0; i--)
        ldr_evict_add(e, &x[i].e, (uint64_t)i, 1);
    cr_expect(eq(u64, stats(e).ghost_hits, (uint64_t)n / 2));
    cr_expect(eq(u64, stats(e).ghosts, 0));
    ldr_evict_free(&e);
    free(x);
}

Test(evict, the_ghosts_are_at_most_twice_the_entries)
{
    const int n = 4000;
    struct ldr_evict *e = ldr_evict_new(UINT64_C(1) << 40);
    struct item *x = calloc((size_t)n, sizeof *x);

    add(e, x, 0, n, 1);
    for (int i = 0; i < n; i++) {
        struct ldr_evict_stats s;

        cr_assert(eq(int, victim(e), i));
        s = stats(e);
        cr_assert(s.ghosts <= 2 * s.entries || s.ghosts <= 1024);
    }
    cr_expect(eq(u64, stats(e).ghosts, 1024), "a few are kept without entries");
    ldr_evict_add(e, &x[n - 1].e, (uint64_t)n - 1, 1);
    cr_expect(eq(u64, stats(e).ghost_hits, 1), "the newest are kept");
    ldr_evict_free(&e);
    free(x);
}

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

Test(evict, after_any_calls_the_sums_are_right_and_the_ghosts_within_their_limits)
{
    enum { N = 3000, SHARED = 2500 /* hashes: some entries share one */ };
    uint64_t state = 88172645463325252, capacity = 100000, live = 0, bytes = 0;
    struct ldr_evict *e = ldr_evict_new(capacity);
    struct item *x = calloc(N, sizeof *x);

    for (int step = 0; step < 300000; step++) {
        struct item *y = &x[draw(&state) % N];
        struct ldr_evict_entry *v = NULL;
        struct ldr_evict_stats s;
        unsigned what = draw(&state) % 100;

        y->mood = (enum mood)(draw(&state) % 4);
        if (what < 3) {
            live -= y->e.list > 0;
            bytes -= y->e.list ? y->e.charge : 0;
            ldr_evict_remove(e, &y->e);
        } else if (what < 4) {
            capacity = draw(&state) % 200000;
            ldr_evict_resize(e, capacity);
        } else if (what < 60 && !y->e.list) {
            uint64_t charge = draw(&state) % 300;

            (what < 10 ? ldr_evict_restore : ldr_evict_add)(e, &y->e, (uint64_t)(y - x) % SHARED, charge);
            live++;
            bytes += charge;
        } else if (bytes > capacity && (v = ldr_evict_victim(e, ask, NULL))) {
            live--;
            bytes -= v->charge;
            cr_assert(eq(int, v->list, 0));
            cr_assert(ne(int, LDR_CONTAINER(v, struct item, e)->mood, HELD));
        }
        s = stats(e);
        cr_assert(eq(u64, s.entries, live));
        cr_assert(eq(u64, s.t1_bytes + s.t2_bytes, bytes));
        cr_assert(le(u64, s.target_bytes, capacity));
        cr_assert(s.b1_bytes == 0 || s.t1_bytes + s.b1_bytes <= capacity);
        cr_assert(s.b1_bytes + s.b2_bytes == 0 || s.t1_bytes + s.t2_bytes + s.b1_bytes + s.b2_bytes <= 2 * capacity);
        cr_assert(s.ghosts <= 2 * s.entries || s.ghosts <= 1024);
    }
    cr_expect(stats(e).ghost_hits > 1000 && stats(e).evicted > 10000, "the walk went nowhere");
    ldr_evict_free(&e);
    free(x);
}

/* Byte and object hits of CAR by an independent simulator (dense arrays, no hashes, no limit of the number of ghosts,
 * the target moved before room is made), in percent, with caches of these shares of the footprint. */
static const double shares[] = { 1, 5, 10, 25, 50, 75 };
static const struct {
    const char *trace;
    double bytes[6], objects[6];
} reference[] = {
    { "epoch_seq", { 0, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0 } },
    { "epoch_shuf", { 0, 0.30, 0.94, 7.89, 16.16, 35.67 }, { 0, 0.40, 1.17, 8.10, 16.37, 36.03 } },
    { "pipeline", { 70.57, 92.78, 95.27, 96.67, 96.95, 97.71 }, { 73.86, 91.80, 94.20, 96.39, 96.78, 97.56 } },
    { "columns", { 13.37, 29.13, 38.09, 51.90, 64.16, 70.68 }, { 15.12, 31.32, 40.40, 54.01, 65.78, 71.98 } },
};

static bool near(double a, double b)
{
    return a - b <= 0.5 && b - a <= 0.5;
}

Test(evict, traces_hit_within_half_a_point_of_the_reference)
{
    for (size_t r = 0; r < LDR_ARRAY_LEN(reference); r++) {
        char path[4096];
        struct trace t;

        snprintf(path, sizeof path, "%s/traces/%s.csv.gz", LDR_TEST_VECTORS, reference[r].trace);
        cr_assert(trace_load(path, &t));
        for (size_t i = 0; i < LDR_ARRAY_LEN(shares); i++) {
            struct trace_car c;
            struct trace_result got;

            trace_car_init(&c, &t, (uint64_t)((double)t.footprint * shares[i] / 100));
            got = trace_replay(&t, trace_car_access, &c);
            trace_car_release(&c);
            cr_expect(near(100 * got.byte_hit, reference[r].bytes[i]), "%s at %g %%: %.2f %% of bytes, not %.2f",
                      reference[r].trace, shares[i], 100 * got.byte_hit, reference[r].bytes[i]);
            cr_expect(near(100 * got.object_hit, reference[r].objects[i]), "%s at %g %%: %.2f %% of objects, not %.2f",
                      reference[r].trace, shares[i], 100 * got.object_hit, reference[r].objects[i]);
        }
        trace_free(&t);
    }
}
