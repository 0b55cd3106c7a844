/* resident_test.c - what eviction knows of the cache: entries, holds, visits, victims. Blocks that are mapped: with real
 * files, in index_test.c. */
#include "agent/resident.h"
#include "common/clock.h"
#include "common/touch.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BITS LDR_TOUCH_BITS_MIN

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct ldr_resident *r;
static struct ldr_touch touch;
static int dirfd_, touch_fd = -1;

static void make(void)
{
    struct ldr_resident_cfg cfg = { .inline_bytes = LDR_MIB, .block_bytes = LDR_MIB, .touch_bits = BITS };

    test_dir_make(dir);
    dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert(dirfd_ >= 0 && mkdirat(dirfd_, "rw", 0700) == 0);
    touch_fd = openat(dirfd_, "rw/touch", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    cr_assert(touch_fd >= 0 && ftruncate(touch_fd, (off_t)ldr_touch_file_bytes(BITS)) == 0);
    cr_assert(ldr_touch_open(&touch, dirfd_, BITS));
    cfg.touch_fd = touch_fd;
    r = ldr_resident_new(&cfg);
    cr_assert(r != NULL);
}

static void end(void)
{
    ldr_resident_free(&r);
    ldr_resident_free(&r);
    ldr_touch_close(&touch);
    close(touch_fd);
    close(dirfd_);
    test_dir_remove(dir);
}

TestSuite(resident, .init = make, .fini = end, .timeout = 30);

static struct ldr_id id_of(unsigned n)
{
    struct ldr_id id = { { 7 } };

    memcpy(id.b + 8, &n, sizeof n);
    return id;
}

static void add(unsigned object, uint32_t block, struct ldr_hold *hold)
{
    struct ldr_id id = id_of(object);
    char key[32];

    snprintf(key, sizeof key, "mem://b/%u", object);
    ldr_resident_add(r, key, strlen(key), &id, block, 4096, hold);
}

static struct ldr_resident_stats stats(void)
{
    struct ldr_resident_stats s;

    ldr_resident_stats(r, &s);
    return s;
}

static bool next(enum ldr_resident_kind kind, bool anyway, struct ldr_victim *v)
{
    return ldr_resident_victim(r, kind, anyway, ldr_mono_ns(), v);
}

static bool is(const struct ldr_victim *v, unsigned object, uint32_t block)
{
    struct ldr_id id = id_of(object);
    char key[32];
    int n = snprintf(key, sizeof key, "mem://b/%u", object);

    return !memcmp(&v->id, &id, sizeof id) && v->block == block && v->key_len == (size_t)n &&
           !memcmp(v->key, key, v->key_len);
}

Test(resident, an_empty_one_has_no_victims)
{
    struct ldr_victim v;

    cr_expect(not(next(LDR_RESIDENT_INLINE, true, &v)));
    cr_expect(not(next(LDR_RESIDENT_BLOCK, true, &v)));
}

Test(resident, victims_come_with_their_keys_in_the_order_of_age)
{
    struct ldr_victim v;

    add(1, LDR_NO_BLOCK, NULL);
    add(2, 0, NULL);
    add(3, LDR_NO_BLOCK, NULL);
    add(2, 1, NULL);
    cr_assert(next(LDR_RESIDENT_INLINE, false, &v));
    cr_expect(is(&v, 1, LDR_NO_BLOCK));
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(is(&v, 2, 0));
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(is(&v, 2, 1));
    cr_expect(eq(u64, v.charge, 4096));
    cr_expect(not(next(LDR_RESIDENT_BLOCK, false, &v)), "a victim is no candidate any more");
    cr_expect(eq(u64, stats().objects, 3), "but known until it is removed");
}

Test(resident, a_victim_that_was_not_evicted_is_a_candidate_again)
{
    struct ldr_victim v, again;

    add(1, 5, NULL);
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    ldr_resident_put_back(r, &v);
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &again));
    cr_expect(is(&again, 1, 5));
    cr_expect(eq(u64, again.charge, 4096));
}

Test(resident, blocks_are_found_by_number_in_whatever_order_they_came)
{
    static const uint32_t order[] = { 7, 0, 4095, 12, 3, 11, 2000, 1 };
    struct ldr_id id = id_of(1);

    for (size_t i = 0; i < LDR_ARRAY_LEN(order); i++)
        add(1, order[i], NULL);
    add(1, 12, NULL); /* twice */
    cr_expect(eq(u64, stats().block_entries, LDR_ARRAY_LEN(order)));
    cr_expect(eq(u64, stats().objects, 1));
    for (size_t i = 0; i < LDR_ARRAY_LEN(order); i++) {
        ldr_resident_remove_block(r, &id, order[i]);
        ldr_resident_remove_block(r, &id, order[i]);
        cr_expect(eq(u64, stats().block_entries, LDR_ARRAY_LEN(order) - i - 1));
    }
    cr_expect(eq(u64, stats().objects, 0), "the last block takes the object along");
}

Test(resident, an_object_goes_with_all_its_entries)
{
    struct ldr_id id = id_of(1), unknown = id_of(99);
    struct ldr_victim v;

    for (uint32_t i = 0; i < 4096; i++)
        add(1, i, NULL);
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    ldr_resident_remove(r, &id);
    ldr_resident_remove(r, &id);
    ldr_resident_remove(r, &unknown);
    ldr_resident_remove_block(r, &unknown, 0);
    cr_expect(eq(u64, stats().block_entries, 0));
    cr_expect(eq(u64, stats().objects, 0));
}

Test(resident, what_is_restored_is_known_once)
{
    struct ldr_id id = id_of(1);
    struct ldr_victim v;

    add(1, 0, NULL);
    ldr_resident_restore(r, "mem://b/1", 9, &id, 0, 4096);
    ldr_resident_restore(r, "mem://b/1", 9, &id, 1, 4096);
    ldr_resident_restore(r, "mem://b/1", 9, &id, 1, 4096);
    cr_expect(eq(u64, stats().block_entries, 2));
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(is(&v, 1, 1), "of an earlier run: older than what came since");
}

Test(resident, a_hold_keeps_all_of_its_object_and_ends_with_its_time)
{
    struct ldr_hold *hold = ldr_hold_new(0, UINT32_MAX);
    struct ldr_victim v;

    add(1, 0, NULL);
    add(1, 1, hold);
    add(1, 2, hold);
    cr_expect(eq(uint, atomic_load(&hold->refs), 2), "one reference an object");
    cr_expect(not(next(LDR_RESIDENT_BLOCK, false, &v)));
    cr_expect(not(stats().held_briefly));
    cr_expect(not(next(LDR_RESIDENT_BLOCK, true, &v)), "whatever is needed");
    atomic_store(&hold->until_ns, ldr_mono_ns() + 3600 * LDR_NS_PER_S);
    cr_expect(not(next(LDR_RESIDENT_BLOCK, false, &v)));
    cr_expect(stats().held_briefly);
    atomic_store(&hold->until_ns, ldr_mono_ns());
    cr_expect(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(eq(uint, atomic_load(&hold->refs), 1), "let go of");
    ldr_hold_unref(&hold);
    ldr_hold_unref(&hold);
}

Test(resident, of_several_holds_the_last_one_counts)
{
    struct ldr_hold *a = ldr_hold_new(0, UINT32_MAX), *b = ldr_hold_new(0, UINT32_MAX);
    struct ldr_victim v;

    add(1, 0, a);
    add(1, 1, b);
    atomic_store(&a->until_ns, 0);
    cr_expect(not(next(LDR_RESIDENT_BLOCK, false, &v)));
    cr_expect(eq(uint, atomic_load(&a->refs), 1));
    atomic_store(&b->until_ns, 0);
    cr_expect(next(LDR_RESIDENT_BLOCK, false, &v));
    ldr_hold_unref(&a);
    ldr_hold_unref(&b);
}

Test(resident, a_hold_of_some_blocks_leaves_the_others)
{
    struct ldr_hold *hold = ldr_hold_new(1, 2);
    struct ldr_id id = id_of(1), unknown = id_of(2);
    struct ldr_victim v;

    for (uint32_t i = 0; i < 4; i++)
        add(1, i, NULL);
    ldr_resident_hold(r, &id, hold);
    ldr_resident_hold(r, &id, hold);
    ldr_resident_hold(r, &unknown, hold);
    cr_expect(eq(uint, atomic_load(&hold->refs), 2));
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(is(&v, 1, 0));
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(is(&v, 1, 3));
    cr_expect(not(next(LDR_RESIDENT_BLOCK, true, &v)));
    ldr_resident_remove(r, &id);
    cr_expect(eq(uint, atomic_load(&hold->refs), 1));
    ldr_hold_unref(&hold);
}

Test(resident, a_held_object_in_the_index_goes_when_nothing_else_can)
{
    struct ldr_hold *hold = ldr_hold_new(0, UINT32_MAX);
    struct ldr_victim v;

    add(1, LDR_NO_BLOCK, hold);
    cr_expect(not(next(LDR_RESIDENT_INLINE, false, &v)));
    cr_expect(next(LDR_RESIDENT_INLINE, true, &v));
    ldr_hold_unref(&hold);
}

Test(resident, a_visit_saves_an_entry_once)
{
    struct ldr_id id = id_of(1);
    struct ldr_victim v;

    add(1, 3, NULL);
    add(2, 3, NULL);
    ldr_touch_visit(&touch, &id, 3, 1);
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(is(&v, 2, 3));
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    cr_expect(is(&v, 1, 3));
}

Test(resident, without_a_touch_file_nothing_is_visited)
{
    struct ldr_resident_cfg cfg = { .inline_bytes = LDR_MIB, .block_bytes = LDR_MIB, .touch_fd = -1 };
    struct ldr_victim v;

    ldr_resident_free(&r);
    r = ldr_resident_new(&cfg);
    add(1, 0, NULL);
    cr_expect(next(LDR_RESIDENT_BLOCK, false, &v));
}

Test(resident, another_version_of_the_same_bytes_is_met_by_the_ghost_of_the_first)
{
    struct ldr_id first = id_of(1), second = id_of(2);
    struct ldr_victim v;

    ldr_resident_add(r, "mem://b/k", 9, &first, 4, 4096, NULL);
    cr_assert(next(LDR_RESIDENT_BLOCK, false, &v));
    ldr_resident_remove_block(r, &first, 4);
    ldr_resident_add(r, "mem://b/k", 9, &second, 4, 4096, NULL);
    cr_expect(eq(u64, stats().ghost_hits, 1));
}
