/* space_test.c - the ledger: each limit holds, also when many threads reserve at once; who waits is served in order. */
#include "agent/space.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct ldr_space space;
static struct larder_err err;
static struct ldr_mailbox box;

static void make_space(void)
{
    test_dir_make(dir);
    ldr_space_init(&space);
    ldr_mailbox_init(&box, NULL, NULL);
    space.max_bytes = LDR_MIB;
    space.max_files = 1000;
    space.dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert(space.dirfd >= 0);
}

static void remove_space(void)
{
    ldr_mailbox_release(&box);
    close(space.dirfd);
    test_dir_remove(dir);
}

TestSuite(space, .init = make_space, .fini = remove_space, .timeout = 30);

static uint64_t bytes(void)
{
    return atomic_load(&space.bytes);
}

static uint64_t files(void)
{
    return atomic_load(&space.files);
}

Test(space, a_file_is_charged_in_whole_pages)
{
    cr_expect(eq(u64, ldr_space_charge(0), 0));
    cr_expect(eq(u64, ldr_space_charge(1), 4096));
    cr_expect(eq(u64, ldr_space_charge(4096), 4096));
    cr_expect(eq(u64, ldr_space_charge(4097), 8192));
}

Test(space, what_is_reserved_is_counted_and_what_is_released_is_not)
{
    cr_assert(eq(int, ldr_space_reserve(&space, 5000, &err), LARDER_OK));
    cr_expect(eq(u64, bytes(), 8192));
    cr_expect(eq(u64, files(), 1));
    ldr_space_release(&space, 5000);
    cr_expect(eq(u64, bytes(), 0));
    cr_expect(eq(u64, files(), 0));
}

Test(space, the_last_byte_of_max_size_can_be_had_and_no_more)
{
    cr_assert(eq(int, ldr_space_reserve(&space, LDR_MIB, &err), LARDER_OK));
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "larder.cache.max_size") != NULL && strstr(err.msg, "1048576") != NULL, "%s", err.msg);
    cr_expect(eq(u64, bytes(), LDR_MIB), "a refusal leaves nothing behind");
    cr_expect(eq(u64, files(), 1));
    ldr_space_release(&space, LDR_MIB);
    cr_expect(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_OK), "and what is given back can be had again");
}

Test(space, a_file_larger_than_the_whole_cache_is_refused)
{
    cr_expect(eq(int, ldr_space_reserve(&space, LDR_MIB + 1, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, ldr_space_reserve(&space, LDR_OBJECT_SIZE_MAX, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(u64, bytes(), 0));
}

Test(space, the_index_counts_against_the_files)
{
    ldr_space_start(&space, LDR_MIB - 4096, 0);
    cr_expect(eq(int, ldr_space_reserve(&space, 4097, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, ldr_space_reserve(&space, 4096, &err), LARDER_OK));
    cr_expect(eq(u64, files(), 1), "and is no file of it");
}

Test(space, an_index_that_grew_over_the_limit_leaves_room_for_nothing)
{
    ldr_space_start(&space, 2 * LDR_MIB, 0);
    cr_expect(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_LIMIT_EXCEEDED));
}

Test(space, max_files_holds)
{
    space.max_files = 2 + LDR_SPACE_FIXED_FILES;
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_OK));
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_OK));
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "larder.cache.max_files (10)") != NULL, "%s", err.msg);
    cr_expect(eq(u64, bytes(), 8192));
    cr_expect(eq(u64, files(), 2));
}

Test(space, free_space_of_the_file_system_is_kept)
{
    struct statvfs v;

    cr_assert(fstatvfs(space.dirfd, &v) == 0);
    space.min_free_bytes = v.f_blocks * v.f_frsize;
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "larder.cache.min_free (") != NULL, "%s", err.msg);
    cr_expect(eq(u64, bytes(), 0));
    cr_expect(eq(u64, files(), 0));
}

Test(space, free_inodes_of_the_file_system_are_kept)
{
    struct statvfs v;

    cr_assert(fstatvfs(space.dirfd, &v) == 0);
    space.min_free_inodes = UINT64_MAX;
    if (v.f_files == 0) {
        remove_space(); /* a skipped test has no end of its own */
        cr_skip_test("this file system has no table of inodes");
    }
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "larder.cache.min_free_inodes") != NULL, "%s", err.msg);
    cr_expect(eq(u64, files(), 0));
}

Test(space, a_directory_that_cannot_be_asked_is_an_error_and_reserves_nothing)
{
    int fd = space.dirfd;

    space.dirfd = -1;
    cr_expect(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_IO));
    cr_expect(eq(u64, bytes(), 0));
    space.dirfd = fd;
}

/* ---- files that were filled ---- */

static void fill(uint64_t size)
{
    cr_assert(eq(int, ldr_space_reserve(&space, size, &err), LARDER_OK), "%s", err.msg);
    ldr_space_filled(&space, size);
}

static void drop(uint64_t size)
{
    ldr_space_leaving(&space, size);
    ldr_space_gone(&space, size, false);
}

Test(space, a_file_counts_until_it_is_gone)
{
    fill(5000);
    ldr_space_leaving(&space, 5000);
    cr_expect(eq(u64, bytes(), 8192));
    ldr_space_lingers(&space, 5000);
    cr_expect(eq(u64, bytes(), 8192), "unlinked, and mapped");
    cr_expect(eq(u64, files(), 1));
    cr_expect(eq(u64, atomic_load(&space.unlinked_mapped), 8192));
    ldr_space_gone(&space, 5000, true);
    cr_expect(eq(u64, bytes(), 0));
    cr_expect(eq(u64, files(), 0));
    cr_expect(eq(u64, atomic_load(&space.unlinked_mapped), 0));
}

Test(space, what_is_reserved_and_not_yet_allocated_is_not_free_for_another)
{
    struct statvfs v;
    uint64_t half;

    cr_assert(fstatvfs(space.dirfd, &v) == 0);
    half = v.f_bavail * v.f_frsize / 2;
    space.max_bytes = UINT64_C(1) << 60;
    space.min_free_bytes = half / 2;
    cr_assert(eq(int, ldr_space_reserve(&space, half, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, ldr_space_reserve(&space, half, &err), LARDER_LIMIT_EXCEEDED),
              "the disk would hold both for now");
    ldr_space_release(&space, half);
    cr_expect(eq(int, ldr_space_reserve(&space, half, &err), LARDER_OK));
}

/* ---- waiting ---- */

static unsigned asked;

static void count_need(void *user)
{
    (void)user;
    asked++;
}

static struct ldr_want *want(uint64_t size)
{
    struct ldr_want *w = calloc(1, sizeof *w);

    w->box = &box;
    w->size = size;
    ldr_space_want(&space, w);
    return w;
}

/* The answer that came next is that of `w`, with this kind. */
static bool answered(struct ldr_want *w, enum larder_kind kind)
{
    struct ldr_task *t = ldr_mailbox_take(&box, 0);
    bool ok = t == &w->task && w->kind == kind;

    free(w);
    return ok;
}

static bool nothing_answered(void)
{
    return box.count == 0;
}

Test(space, who_finds_room_does_not_wait)
{
    ldr_space_evictor(&space, count_need, NULL);
    cr_expect(answered(want(4096), LARDER_OK));
    cr_expect(eq(u64, bytes(), 4096));
    cr_expect(eq(uint, asked, 0));
}

Test(space, wants_are_served_in_order_as_room_comes)
{
    struct ldr_want *first, *second, *third;

    ldr_space_evictor(&space, count_need, NULL);
    fill(LDR_MIB / 2);
    fill(LDR_MIB / 2);
    first = want(LDR_MIB * 3 / 4);
    second = want(4096);
    third = want(4096);
    cr_expect(ge(uint, asked, 1), "the index is asked to evict");
    drop(LDR_MIB / 2);
    cr_expect(nothing_answered(), "half is enough for the second, who does not go ahead");
    drop(LDR_MIB / 2);
    cr_expect(answered(first, LARDER_OK));
    cr_expect(answered(second, LARDER_OK));
    cr_expect(answered(third, LARDER_OK));
    cr_expect(eq(u64, bytes(), LDR_MIB * 3 / 4 + 8192));
}

Test(space, a_newcomer_does_not_take_what_somebody_waits_for)
{
    struct ldr_want *w;

    ldr_space_evictor(&space, count_need, NULL);
    fill(LDR_MIB / 2);
    w = want(LDR_MIB);
    cr_assert(eq(int, ldr_space_reserve(&space, 4096, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "others wait") != NULL, "%s", err.msg);
    drop(LDR_MIB / 2);
    cr_expect(answered(w, LARDER_OK));
}

Test(space, who_gives_up_waiting_lets_the_next_ones_have_it)
{
    struct ldr_want *large, *small;

    ldr_space_evictor(&space, count_need, NULL);
    fill(LDR_MIB / 2);
    large = want(LDR_MIB);
    small = want(4096);
    cr_expect(ldr_space_unwant(&space, large));
    cr_expect(answered(small, LARDER_OK));
    cr_expect(not(ldr_space_unwant(&space, large)), "twice");
    free(large);
    large = want(4096);
    cr_expect(not(ldr_space_unwant(&space, large)), "the answer is on its way");
    cr_expect(answered(large, LARDER_OK));
}

Test(space, the_newest_is_the_one_who_is_told_to_give_up)
{
    struct ldr_want *first, *last;

    ldr_space_evictor(&space, count_need, NULL);
    fill(LDR_MIB);
    first = want(4096);
    last = want(8192);
    cr_assert(ldr_space_give_up_one(&space));
    cr_expect(strstr(last->err.msg, "larder.cache.max_size (1048576 bytes)") != NULL, "%s", last->err.msg);
    cr_expect(answered(last, LARDER_LIMIT_EXCEEDED));
    cr_assert(ldr_space_give_up_one(&space));
    cr_expect(answered(first, LARDER_LIMIT_EXCEEDED));
    cr_expect(not(ldr_space_give_up_one(&space)));
}

Test(space, who_wants_more_than_there_can_be_does_not_wait)
{
    ldr_space_evictor(&space, count_need, NULL);
    cr_expect(answered(want(LDR_MIB + 1), LARDER_LIMIT_EXCEEDED));
}

Test(space, without_an_evictor_nobody_waits)
{
    struct ldr_want *w;

    fill(LDR_MIB);
    cr_expect(answered(want(4096), LARDER_LIMIT_EXCEEDED));
    ldr_space_evictor(&space, count_need, NULL);
    w = want(4096);
    ldr_space_evictor(&space, NULL, NULL);
    cr_expect(answered(w, LARDER_LIMIT_EXCEEDED));
}

Test(space, at_the_end_all_who_wait_and_who_come_are_sent_away)
{
    struct ldr_want *a, *b;

    ldr_space_evictor(&space, count_need, NULL);
    fill(LDR_MIB);
    a = want(4096);
    b = want(4096);
    ldr_space_release_all(&space);
    cr_expect(answered(a, LARDER_CANCELLED));
    cr_expect(answered(b, LARDER_CANCELLED));
    cr_expect(answered(want(4096), LARDER_CANCELLED));
}

/* ---- the index ---- */

Test(space, room_that_data_mdb_could_not_have_is_kept_for_it)
{
    struct ldr_want *w;

    ldr_space_evictor(&space, count_need, NULL);
    fill(LDR_MIB - 8192);
    cr_assert(eq(int, ldr_space_grow(&space, 16384, &err), LARDER_LIMIT_EXCEEDED));
    w = want(4096);
    cr_expect(nothing_answered());
    drop(LDR_MIB - 8192);
    cr_expect(answered(w, LARDER_OK));
    cr_expect(eq(int, ldr_space_grow(&space, LDR_MIB - 4096, &err), LARDER_OK));
    ldr_space_grown(&space, LDR_MIB - 4096, false);
    cr_expect(eq(u64, bytes(), 4096), "it could not");
}

Test(space, how_much_should_go_is_what_is_waited_for_and_the_headroom_less_what_is_leaving)
{
    struct ldr_space_short need;
    struct ldr_want *w;

    space.headroom_bytes = 65536;
    ldr_space_evictor(&space, count_need, NULL);
    cr_expect(not(ldr_space_short(&space, &need)));
    fill(LDR_MIB - 131072);
    fill(131072);
    cr_assert(ldr_space_short(&space, &need));
    cr_expect(eq(u64, need.bytes, 65536));
    cr_expect(not(need.waiting));
    w = want(32768);
    cr_assert(ldr_space_short(&space, &need));
    cr_expect(eq(u64, need.bytes, 65536 + 32768));
    cr_expect(need.waiting);
    ldr_space_leaving(&space, 131072);
    cr_expect(not(ldr_space_short(&space, &need)), "enough is on its way");
    ldr_space_lingers(&space, 131072);
    cr_expect(ldr_space_short(&space, &need), "but who knows when");
    ldr_space_gone(&space, 131072, true);
    cr_expect(answered(w, LARDER_OK));
    cr_expect(not(ldr_space_short(&space, &need)));
}

Test(space, files_run_short_as_bytes_do)
{
    struct ldr_space_short need;

    space.max_files = 4 + LDR_SPACE_FIXED_FILES;
    space.headroom_files = 2;
    for (int i = 0; i < 3; i++)
        fill(1);
    cr_assert(ldr_space_short(&space, &need));
    cr_expect(eq(u64, need.files, 1));
    cr_expect(eq(u64, need.bytes, 0));
}

Test(space, when_others_fill_the_file_system_all_of_it_should_go)
{
    struct ldr_space_short need;
    struct statvfs v;

    cr_assert(fstatvfs(space.dirfd, &v) == 0);
    fill(LDR_MIB);
    space.min_free_bytes = v.f_bavail * v.f_frsize + LDR_GIB;
    cr_assert(ldr_space_short(&space, &need));
    cr_expect(ge(u64, need.bytes, LDR_MIB));
}

/* ---- threads ---- */

#define THREADS 8
#define ROUNDS  2000

static atomic_bool over;
static atomic_uint granted;

static void *reserve_and_release(void *user)
{
    uint64_t size = 4096 * (1 + (uintptr_t)user % 5);

    for (int i = 0; i < ROUNDS; i++) {
        if (ldr_space_reserve(&space, size, NULL))
            continue;
        atomic_fetch_add(&granted, 1);
        if (bytes() > space.max_bytes)
            atomic_store(&over, true);
        ldr_space_release(&space, size);
    }
    return NULL;
}

Test(space, threads_that_reserve_at_once_never_exceed_the_limit_and_leave_nothing)
{
    pthread_t t[THREADS];

    space.max_bytes = 4 * 4096; /* less than the threads want together: refusals are certain to race with grants */
    for (uintptr_t i = 0; i < THREADS; i++)
        cr_assert(pthread_create(&t[i], NULL, reserve_and_release, (void *)i) == 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    cr_expect(not(atomic_load(&over)));
    cr_expect(atomic_load(&granted) > 0);
    cr_expect(eq(u64, bytes(), 0));
    cr_expect(eq(u64, files(), 0));
}
