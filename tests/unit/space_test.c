/* space_test.c - the ledger: each limit holds, also when many threads reserve at once. */
#include "agent/space.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct ldr_space space;
static struct larder_err err;

static void make_space(void)
{
    test_dir_make(dir);
    space.max_bytes = LDR_MIB;
    space.max_files = 1000;
    space.dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert(space.dirfd >= 0);
}

static void remove_space(void)
{
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
    ldr_space_add(&space, LDR_MIB - 4096);
    cr_expect(eq(int, ldr_space_reserve(&space, 4097, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, ldr_space_reserve(&space, 4096, &err), LARDER_OK));
    cr_expect(eq(u64, files(), 1), "and is no file of it");
}

Test(space, an_index_that_grew_over_the_limit_leaves_room_for_nothing)
{
    ldr_space_add(&space, 2 * LDR_MIB);
    cr_expect(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_LIMIT_EXCEEDED));
}

Test(space, max_files_holds)
{
    space.max_files = 2;
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_OK));
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_OK));
    cr_assert(eq(int, ldr_space_reserve(&space, 1, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "larder.cache.max_files (2)") != NULL, "%s", err.msg);
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
