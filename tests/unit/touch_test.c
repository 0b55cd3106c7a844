/* touch_test.c - rw/touch: several processes write, the agent reads, and whatever stands there hurts nobody. */
#include "common/touch.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BITS LDR_TOUCH_BITS_MIN
#define SKIP 77 /* exit code of a child that may not do what the test needs */

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static int dirfd = -1, fd = -1; /* the cache directory; the agent's descriptor of rw/touch */
static struct ldr_touch_cell last[LDR_TOUCH_CELLS], total[LDR_TOUCH_PREFIXES];

static void make_touch(void)
{
    char path[TEST_DIR_MAX + 16];

    test_dir_make(dir);
    dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert(dirfd >= 0);
    snprintf(path, sizeof path, "%s/rw", dir);
    cr_assert(eq(int, mkdir(path, 0755), 0));
    fd = openat(dirfd, "rw/touch", O_RDWR | O_CREAT | O_CLOEXEC, 0660);
    cr_assert(fd >= 0);
    cr_assert(eq(int, ftruncate(fd, (off_t)ldr_touch_file_bytes(BITS)), 0));
}

static void remove_touch(void)
{
    close(fd);
    close(dirfd);
    test_dir_remove(dir);
}

TestSuite(touch, .init = make_touch, .fini = remove_touch, .timeout = 30);

static struct ldr_id id_of(unsigned n)
{
    struct ldr_id id = { { 0 } };

    memcpy(id.b, &n, sizeof n);
    return id;
}

/* The counters of one CPU and prefix, as a client would leave them. */
static void put_cell(unsigned cpu, unsigned prefix, uint64_t hits, uint64_t bytes)
{
    struct ldr_touch_cell cell = { hits, bytes };
    off_t at = (off_t)(BITS / 8 + (cpu * LDR_TOUCH_PREFIXES + prefix) * sizeof cell);

    cr_assert(eq(sz, (size_t)pwrite(fd, &cell, sizeof cell, at), sizeof cell));
}

static int exit_code(pid_t child)
{
    int status;

    cr_assert(child > 0);
    cr_assert(eq(int, waitpid(child, &status, 0), child));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(touch, the_bits_are_a_power_of_two_with_eight_for_each_entry_within_limits)
{
    cr_expect(eq(u64, ldr_touch_bits(0), LDR_TOUCH_BITS_MIN));
    cr_expect(eq(u64, ldr_touch_bits(8192), 65536));
    cr_expect(eq(u64, ldr_touch_bits(8193), 131072));
    cr_expect(eq(u64, ldr_touch_bits(1000000), 8388608));
    cr_expect(eq(u64, ldr_touch_bits(UINT64_MAX), LDR_TOUCH_BITS_MAX));
}

Test(touch, a_size_is_known_only_for_the_numbers_of_bits_that_are_made)
{
    cr_expect(eq(u64, ldr_touch_file_bytes(LDR_TOUCH_BITS_MIN), 8192 + 65536));
    cr_expect(eq(u64, ldr_touch_file_bytes(LDR_TOUCH_BITS_MAX), 8388608 + 65536));
    cr_expect(eq(u64, ldr_touch_file_bytes(0), 0));
    cr_expect(eq(u64, ldr_touch_file_bytes(LDR_TOUCH_BITS_MIN / 2), 0));
    cr_expect(eq(u64, ldr_touch_file_bytes(LDR_TOUCH_BITS_MIN + 1), 0));
    cr_expect(eq(u64, ldr_touch_file_bytes(LDR_TOUCH_BITS_MAX * 2), 0));
    cr_expect(eq(u64, ldr_touch_file_bytes(UINT64_MAX), 0));
}

Test(touch, blocks_and_objects_have_bits_of_their_own)
{
    unsigned same = 0;

    for (unsigned i = 0; i < 1000; i++) {
        struct ldr_id a = id_of(i), b = id_of(i + 1);

        cr_assert(ldr_touch_bit(&a, i, BITS) < BITS);
        same += ldr_touch_bit(&a, 0, BITS) == ldr_touch_bit(&a, 1, BITS);
        same += ldr_touch_bit(&a, 0, BITS) == ldr_touch_bit(&b, 0, BITS);
    }
    cr_expect(same < 5, "%u of 2000 pairs share a bit", same);
}

Test(touch, a_visited_block_is_taken_once_and_its_neighbours_not_at_all)
{
    struct ldr_id id = id_of(1), other = id_of(2);
    struct ldr_touch t;

    cr_assert(ldr_touch_open(&t, dirfd, BITS));
    ldr_touch_visit(&t, &id, 3, 2);
    ldr_touch_visit(&t, &id, 3, 2);
    cr_expect(not(ldr_touch_take(fd, &id, 2, BITS)));
    cr_expect(ldr_touch_take(fd, &id, 3, BITS));
    cr_expect(not(ldr_touch_take(fd, &id, 3, BITS)));
    cr_expect(ldr_touch_take(fd, &id, 4, BITS));
    cr_expect(not(ldr_touch_take(fd, &id, 5, BITS)));
    cr_expect(not(ldr_touch_take(fd, &other, 3, BITS)));
    ldr_touch_visit(&t, &id, 3, 1); /* also after the agent wrote the byte */
    cr_expect(ldr_touch_take(fd, &id, 3, BITS));
    ldr_touch_close(&t);
    cr_expect(t.map == NULL);
    ldr_touch_close(&t);
}

Test(touch, bits_and_counts_of_two_processes_all_arrive)
{
    enum { N = 2000 };
    uint64_t hits = 0, bytes = 0;
    pid_t child[2];

    for (unsigned c = 0; c < 2; c++) {
        child[c] = fork();
        if (child[c] == 0) {
            struct ldr_touch t;

            if (!ldr_touch_open(&t, dirfd, BITS))
                _exit(1);
            for (unsigned i = c; i < 2 * N; i += 2) {
                struct ldr_id id = id_of(i);

                ldr_touch_visit(&t, &id, 0, 1);
                ldr_touch_count(&t, i % 5, 10);
            }
            _exit(0);
        }
    }
    cr_assert(eq(int, exit_code(child[0]), 0));
    cr_assert(eq(int, exit_code(child[1]), 0));
    for (unsigned i = 0; i < 2 * N; i++) {
        struct ldr_id id = id_of(i);
        uint64_t bit = ldr_touch_bit(&id, 0, BITS);
        uint8_t byte;

        /* read, not taken: ids may share a bit */
        cr_assert(eq(int, (int)pread(fd, &byte, 1, (off_t)(bit / 8)), 1));
        cr_assert(byte >> (bit % 8) & 1, "the bit of object %u was lost", i);
    }
    ldr_touch_gather(fd, BITS, 1000000000, last, total);
    for (unsigned p = 0; p < LDR_TOUCH_PREFIXES; p++) {
        cr_expect(eq(u64, total[p].hits, p < 5 ? 2 * N / 5 : 0));
        hits += total[p].hits;
        bytes += total[p].bytes;
    }
    cr_expect(eq(u64, hits, 2 * N));
    cr_expect(eq(u64, bytes, 2 * N * 10));
}

Test(touch, a_prefix_that_does_not_exist_counts_as_slot_0)
{
    struct ldr_touch t;

    cr_assert(ldr_touch_open(&t, dirfd, BITS));
    ldr_touch_count(&t, LDR_TOUCH_PREFIXES, 7);
    ldr_touch_count(&t, UINT32_MAX, 7);
    ldr_touch_count(&t, LDR_TOUCH_PREFIXES - 1, 7);
    ldr_touch_close(&t);
    ldr_touch_gather(fd, BITS, 0, last, total);
    cr_expect(eq(u64, total[0].hits, 2));
    cr_expect(eq(u64, total[LDR_TOUCH_PREFIXES - 1].hits, 1));
}

Test(touch, without_a_touch_page_readers_do_nothing)
{
    struct ldr_id id = id_of(1);
    struct ldr_touch t = { 0 };

    ldr_touch_visit(&t, &id, 0, 100);
    ldr_touch_count(&t, 0, 1);
    ldr_touch_close(&t);
    cr_expect(not(ldr_touch_take(fd, &id, 0, BITS)));
}

Test(touch, a_file_of_another_size_is_not_mapped)
{
    struct ldr_touch t;
    off_t len = (off_t)ldr_touch_file_bytes(BITS);

    cr_assert(eq(int, ftruncate(fd, len - 1), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, BITS)));
    cr_assert(eq(int, ftruncate(fd, len + 1), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, BITS)));
    cr_assert(eq(int, ftruncate(fd, 0), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, BITS)));
    cr_expect(t.map == NULL);
    cr_assert(eq(int, ftruncate(fd, len), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, 2 * BITS)));
    cr_expect(not(ldr_touch_open(&t, dirfd, 0)));
    cr_expect(ldr_touch_open(&t, dirfd, BITS));
    ldr_touch_close(&t);
}

Test(touch, what_is_no_regular_file_is_not_mapped_and_never_waited_for)
{
    struct ldr_touch t;

    cr_assert(eq(int, renameat(dirfd, "rw/touch", dirfd, "rw/real"), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, BITS)), "it is not there");
    cr_assert(eq(int, symlinkat("real", dirfd, "rw/touch"), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, BITS)), "a link was followed");
    cr_assert(eq(int, unlinkat(dirfd, "rw/touch", 0), 0));
    cr_assert(eq(int, mkfifoat(dirfd, "rw/touch", 0666), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, BITS)));
    cr_assert(eq(int, unlinkat(dirfd, "rw/touch", 0), 0));
    cr_assert(eq(int, mkdirat(dirfd, "rw/touch", 0777), 0));
    cr_expect(not(ldr_touch_open(&t, dirfd, BITS)));
    cr_expect(not(ldr_touch_open(&t, -1, BITS)));
}

Test(touch, a_process_that_may_not_write_the_file_does_not_map_it)
{
    pid_t child;

    cr_assert(eq(int, fchmod(fd, 0444), 0));
    cr_assert(eq(int, chmod(dir, 0755), 0));
    child = fork();
    if (child == 0) {
        struct ldr_touch t;

        if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0)
            _exit(SKIP);
        _exit(ldr_touch_open(&t, dirfd, BITS) ? 1 : 0);
    }
    switch (exit_code(child)) {
    case SKIP:
        cr_skip_test("may not become another user");
        break;
    case 0:
        break;
    default:
        cr_fail("it was mapped");
    }
}

/* Mount the test's directory over itself, read-only, for this process alone. */
static bool make_read_only(void)
{
    return (unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
           mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount(dir, dir, NULL, MS_BIND, NULL) == 0 &&
           mount(NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0;
}

Test(touch, on_a_read_only_mount_it_is_not_mapped)
{
    pid_t child = fork();

    if (child == 0) {
        struct ldr_touch t;
        int there;

        if (!make_read_only())
            _exit(SKIP);
        there = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _exit(there < 0 || faccessat(there, "rw/touch", R_OK, 0) != 0 || ldr_touch_open(&t, there, BITS) ? 1 : 0);
    }
    switch (exit_code(child)) {
    case SKIP:
        cr_skip_test("may not mount");
        break;
    case 0:
        break;
    default:
        cr_fail("it was mapped");
    }
}

Test(touch, the_agent_reads_a_short_or_missing_file_as_nothing_visited)
{
    struct ldr_id id = id_of(1);
    struct stat st;

    cr_assert(eq(int, ftruncate(fd, 0), 0));
    cr_expect(not(ldr_touch_take(fd, &id, 0, BITS)));
    ldr_touch_gather(fd, BITS, 1000, last, total);
    cr_expect(not(ldr_touch_take(-1, &id, 0, BITS)));
    cr_expect(not(ldr_touch_take(fd, &id, 0, 0)));
    cr_expect(not(ldr_touch_take(fd, &id, 0, BITS + 1)));
    ldr_touch_gather(-1, BITS, 1000, last, total);
    ldr_touch_gather(fd, 12345, 1000, last, total);
    for (unsigned p = 0; p < LDR_TOUCH_PREFIXES; p++)
        cr_expect(eq(u64, total[p].hits, 0));
    cr_assert(eq(int, fstat(fd, &st), 0));
    cr_expect(eq(u64, (uint64_t)st.st_size, 0), "the agent wrote behind the end");
}

Test(touch, a_bit_that_cannot_be_cleared_is_not_believed)
{
    struct ldr_id id = id_of(1);
    struct ldr_touch t;
    int read_only = openat(dirfd, "rw/touch", O_RDONLY | O_CLOEXEC);

    cr_assert(read_only >= 0);
    cr_assert(ldr_touch_open(&t, dirfd, BITS));
    ldr_touch_visit(&t, &id, 0, 1);
    ldr_touch_close(&t);
    cr_expect(not(ldr_touch_take(read_only, &id, 0, BITS)));
    cr_expect(ldr_touch_take(fd, &id, 0, BITS));
    close(read_only);
}

Test(touch, counters_add_what_they_grew_by_on_every_cpu)
{
    put_cell(0, 2, 5, 500);
    put_cell(63, 2, 1, 50);
    put_cell(63, 63, 2, 20);
    ldr_touch_gather(fd, BITS, 1000, last, total);
    cr_expect(eq(u64, total[2].hits, 6));
    cr_expect(eq(u64, total[2].bytes, 550));
    cr_expect(eq(u64, total[63].hits, 2));
    ldr_touch_gather(fd, BITS, 1000, last, total);
    cr_expect(eq(u64, total[2].hits, 6));
    put_cell(0, 2, 7, 800);
    ldr_touch_gather(fd, BITS, 1000, last, total);
    cr_expect(eq(u64, total[2].hits, 8));
    cr_expect(eq(u64, total[2].bytes, 850));
}

Test(touch, a_counter_grows_by_no_more_than_a_cpu_can_have_served)
{
    put_cell(1, 3, UINT64_MAX, UINT64_MAX);
    ldr_touch_gather(fd, BITS, 1000000, last, total);
    cr_expect(eq(u64, total[3].hits, 100000 + LDR_TOUCH_SLACK_HITS));
    cr_expect(eq(u64, total[3].bytes, 256000000 + LDR_TOUCH_SLACK_BYTES));
    ldr_touch_gather(fd, BITS, 1000000, last, total);
    cr_expect(eq(u64, total[3].hits, 100000 + LDR_TOUCH_SLACK_HITS), "the rest is forgotten");

    put_cell(1, 4, UINT64_MAX, UINT64_MAX);
    ldr_touch_gather(fd, BITS, -5, last, total);
    cr_expect(eq(u64, total[4].hits, LDR_TOUCH_SLACK_HITS));
    cr_expect(eq(u64, total[4].bytes, LDR_TOUCH_SLACK_BYTES));
}

Test(touch, a_counter_that_goes_back_adds_nothing_and_counts_on_from_there)
{
    put_cell(1, 3, 100, 1000);
    ldr_touch_gather(fd, BITS, 1000000, last, total);
    put_cell(1, 3, 10, 100);
    ldr_touch_gather(fd, BITS, 1000000, last, total);
    cr_expect(eq(u64, total[3].hits, 100));
    cr_expect(eq(u64, total[3].bytes, 1000));
    put_cell(1, 3, 11, 101);
    ldr_touch_gather(fd, BITS, 1000000, last, total);
    cr_expect(eq(u64, total[3].hits, 101));
    cr_expect(eq(u64, total[3].bytes, 1001));
}

Test(touch, totals_end_at_the_largest_number)
{
    total[3] = (struct ldr_touch_cell){ UINT64_MAX - 1, UINT64_MAX - 1 };
    for (unsigned cpu = 0; cpu < LDR_TOUCH_CPUS; cpu++)
        put_cell(cpu, 3, UINT64_MAX, UINT64_MAX);
    ldr_touch_gather(fd, BITS, INT64_MAX, last, total);
    cr_expect(eq(u64, total[3].hits, UINT64_MAX));
    cr_expect(eq(u64, total[3].bytes, UINT64_MAX));

    put_cell(0, 4, UINT64_MAX, UINT64_MAX);
    ldr_touch_gather(fd, BITS, INT64_MAX, last, total);
    cr_expect(total[4].bytes > UINT64_MAX / 4, "the clamp itself went over");
}

Test(touch, a_truncated_file_counts_as_far_as_it_goes)
{
    put_cell(0, 0, 5, 50);
    put_cell(0, 1, 6, 60);
    put_cell(1, 0, 7, 70);
    cr_assert(eq(int, ftruncate(fd, (off_t)(BITS / 8 + sizeof last[0] + 3)), 0));
    ldr_touch_gather(fd, BITS, 1000, last, total);
    cr_expect(eq(u64, total[0].hits, 5));
    cr_expect(eq(u64, total[1].hits, 0));
}
