/* blocks_test.c - fills, block files, the sweep: what is on the disk and in the ledger. */
#include "agent/blocks.h"
#include "common/clock.h"
#include "common/hash.h"
#include "tests/support/domain_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct domain_fixture f;
static struct ldr_blocks *b;
static struct ldr_fill fill;
static struct larder_err err;
static uint64_t empty; /* bytes of the ledger before anything is filled */

static void make_dir(void)
{
    test_dir_make(dir);
    domain_open(&f, dir, NULL);
    b = &f.domain.blocks;
    empty = atomic_load(&f.domain.space.bytes);
}

static void remove_dir(void)
{
    ldr_fill_close(&fill);
    if (f.pool)
        domain_close(&f);
    test_dir_remove(dir);
}

TestSuite(blocks, .init = make_dir, .fini = remove_dir, .timeout = 60);

static uint64_t used(void)
{
    return atomic_load(&f.domain.space.bytes) - empty;
}

static uint64_t files(void)
{
    return atomic_load(&f.domain.space.files);
}

static uint8_t *some_bytes(size_t n)
{
    uint8_t *p = malloc(n ? n : 1);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 7 + i / 251);
    return p;
}

/* A block file with `n` bytes and no record. */
static struct ldr_record linked(size_t n)
{
    uint8_t *p = some_bytes(n);
    struct ldr_record r = { .id = ldr_index_new_id(f.domain.index), .size_bytes = n, .block_log2 = 24 };

    cr_assert(eq(int, ldr_fill_open(b, n, false, &fill, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_fill_write(&fill, p, n, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_fill_seal(&fill, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_fill_link(&fill, &r.id, 0, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(u64, fill.hash, ldr_hash64(p, n)));
    ldr_fill_close(&fill);
    free(p);
    return r;
}

static void drop(const struct ldr_record *r)
{
    ldr_blocks_drop(b, &r->id, 0, r->size_bytes);
}

static void path_of(const struct ldr_id *id, char path[TEST_DIR_MAX + 96])
{
    char name[LDR_BLOCK_NAME_MAX];

    ldr_block_name(id, 0, name);
    snprintf(path, TEST_DIR_MAX + 96, "%s/cache/%s", dir, name);
}

static bool exists(const struct ldr_id *id)
{
    char path[TEST_DIR_MAX + 96];

    path_of(id, path);
    return access(path, F_OK) == 0;
}

/* ---- fills ---- */

Test(blocks, a_filled_block_is_an_immutable_file_of_just_those_bytes)
{
    size_t n = 5 * LDR_MIB + 123; /* pieces, and a rest */
    uint8_t *want = some_bytes(n), *have = malloc(n);
    struct ldr_record r = linked(n);
    char path[TEST_DIR_MAX + 96];
    struct stat st;
    int fd = ldr_blocks_open(b, &r, 0);

    cr_assert(fd >= 0);
    cr_expect(ldr_blocks_intact(b, &r, 0));
    cr_expect(pread(fd, have, n, 0) == (ssize_t)n && !memcmp(have, want, n));
    cr_assert(fstat(fd, &st) == 0);
    cr_expect(eq(u32, st.st_mode & 07777, 0440));
    cr_expect(eq(u64, (uint64_t)st.st_nlink, 1));
    cr_expect(eq(u64, used(), ldr_space_charge(n)), "its space belongs to the block now");
    cr_expect(eq(u64, files(), 1));
    path_of(&r.id, path);
    cr_expect(eq(int, stat(path, &st), 0));
    close(fd);
    free(want);
    free(have);
    drop(&r);
}

Test(blocks, bytes_may_come_in_any_portions)
{
    size_t n = 3 * LDR_MIB, at = 0;
    uint8_t *p = some_bytes(n);

    cr_assert(eq(int, ldr_fill_open(b, n, false, &fill, &err), LARDER_OK));
    for (size_t step = 1; at < n; step = step * 3 + 1) {
        size_t take = step < n - at ? step : n - at;

        cr_assert(eq(int, ldr_fill_write(&fill, p + at, take, &err), LARDER_OK));
        cr_assert(eq(int, ldr_fill_write(&fill, p, 0, &err), LARDER_OK), "nothing is a portion too");
        at += take;
    }
    cr_assert(eq(int, ldr_fill_seal(&fill, &err), LARDER_OK));
    cr_expect(eq(u64, fill.hash, ldr_hash64(p, n)));
    free(p);
}

Test(blocks, space_is_reserved_and_allocated_before_the_first_byte)
{
    struct stat st;

    cr_assert(eq(int, ldr_fill_open(b, 300000, false, &fill, &err), LARDER_OK));
    cr_expect(eq(u64, used(), ldr_space_charge(300000)));
    cr_assert(fstat(fill.fd, &st) == 0);
    cr_expect(ge(u64, (uint64_t)st.st_blocks * 512, 300000));
    cr_expect(eq(u64, (uint64_t)st.st_nlink, 0), "no name that a kill could leave behind");
}

Test(blocks, what_is_given_up_gives_its_space_back)
{
    cr_assert(eq(int, ldr_fill_open(b, 300000, false, &fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_write(&fill, "abc", 3, &err), LARDER_OK));
    ldr_fill_close(&fill);
    cr_expect(eq(u64, used(), 0));
    cr_expect(eq(u64, files(), 0));
    cr_expect(not(ldr_fill_is_open(&fill)));
    ldr_fill_close(&fill); /* twice */
    cr_expect(eq(u64, used(), 0));
}

Test(blocks, sealed_and_not_linked_is_given_up_too)
{
    cr_assert(eq(int, ldr_fill_open(b, 3, false, &fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_write(&fill, "abc", 3, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_seal(&fill, &err), LARDER_OK));
    ldr_fill_close(&fill);
    cr_expect(eq(u64, used(), 0));
}

Test(blocks, more_bytes_than_announced_are_refused)
{
    cr_assert(eq(int, ldr_fill_open(b, 5, false, &fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_write(&fill, "hello", 5, &err), LARDER_OK));
    cr_expect(eq(int, ldr_fill_write(&fill, "!", 1, &err), LARDER_CORRUPT));
    cr_expect(eq(int, ldr_fill_write(&fill, "!", SIZE_MAX, &err), LARDER_CORRUPT));
    cr_expect(eq(int, ldr_fill_seal(&fill, &err), LARDER_OK), "what was refused is not in it");
    cr_expect(eq(u64, fill.hash, ldr_hash64("hello", 5)));
}

Test(blocks, too_few_bytes_cannot_be_sealed)
{
    cr_assert(eq(int, ldr_fill_open(b, 5, false, &fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_write(&fill, "hell", 4, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_seal(&fill, &err), LARDER_UNAVAILABLE));
    cr_expect(strstr(err.msg, "4 of 5") != NULL, "%s", err.msg);
    ldr_fill_close(&fill);
    cr_expect(eq(u64, used(), 0));
}

Test(blocks, a_limit_of_the_cache_leaves_nothing_open)
{
    f.domain.space.max_bytes = empty + 8192;
    cr_assert(eq(int, ldr_fill_open(b, 8193, false, &fill, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(not(ldr_fill_is_open(&fill)));
    cr_expect(eq(int, ldr_fill_open(b, 8192, false, &fill, &err), LARDER_OK));
}

Test(blocks, a_name_that_is_taken_is_never_replaced)
{
    struct ldr_record r = linked(1000);
    int fd;

    cr_assert(eq(int, ldr_fill_open(b, 3, false, &fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_write(&fill, "abc", 3, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_seal(&fill, &err), LARDER_OK));
    cr_expect(eq(int, ldr_fill_link(&fill, &r.id, 0, &err), LARDER_EXISTS));
    ldr_fill_close(&fill);
    cr_expect(eq(u64, used(), 4096));
    fd = ldr_blocks_open(b, &r, 0);
    cr_expect(fd >= 0, "the first one, whole");
    close(fd);
    drop(&r);
}

/* ---- the disk ---- */

Test(blocks, a_full_disk_is_a_limit_and_shows_before_the_first_byte)
{
    char path[TEST_DIR_MAX + 16];
    bool sound;

    if (geteuid() != 0) {
        remove_dir(); /* a skipped test has no end of its own */
        cr_skip_test("a small file system of its own is needed: run the tests as root");
    }
    cr_assert(domain_close(&f));
    f.pool = NULL;
    snprintf(path, sizeof path, "%s/small", dir);
    cr_assert(mkdir(path, 0755) == 0);
    if (mount("tmpfs", path, "tmpfs", 0, "size=24m")) {
        remove_dir(); /* a skipped test has no end of its own */
        cr_skip_test("no right to mount here");
    }
    domain_open(&f, path, NULL);
    empty = atomic_load(&f.domain.space.bytes);
    cr_expect(eq(int, ldr_fill_open(b, 64 * LDR_MIB, false, &fill, &err), LARDER_LIMIT_EXCEEDED), "%s", err.msg);
    cr_expect(not(ldr_fill_is_open(&fill)));
    cr_expect(eq(u64, used(), 0));
    cr_expect(eq(int, ldr_fill_open(b, LDR_MIB, false, &fill, &err), LARDER_OK), "%s", err.msg);
    ldr_fill_close(&fill);
    sound = domain_close(&f);
    f.pool = NULL;
    umount2(path, MNT_DETACH);
    cr_expect(sound);
}

Test(blocks, a_write_that_fails_is_an_error_and_no_signal)
{
    struct rlimit rl = { LDR_MIB, LDR_MIB };
    size_t n = 2 * LDR_MIB;
    uint8_t *p = some_bytes(n);

    signal(SIGXFSZ, SIG_IGN);
    cr_assert(eq(int, ldr_fill_open(b, n, false, &fill, &err), LARDER_OK));
    setrlimit(RLIMIT_FSIZE, &rl);
    cr_expect(eq(int, ldr_fill_write(&fill, p, n, &err), LARDER_IO));
    ldr_fill_close(&fill);
    cr_expect(eq(u64, used(), 0));
    free(p);
}

/* ---- files that somebody else touched ---- */

Test(blocks, a_file_that_was_cut_or_removed_is_not_intact)
{
    struct ldr_record r = linked(1000);
    char path[TEST_DIR_MAX + 96];

    path_of(&r.id, path);
    cr_assert(chmod(path, 0600) == 0 && truncate(path, 999) == 0);
    cr_expect(not(ldr_blocks_intact(b, &r, 0)));
    cr_expect(eq(int, ldr_blocks_open(b, &r, 0), -1));
    cr_expect(eq(int, errno, ESTALE));
    cr_assert(unlink(path) == 0);
    cr_expect(not(ldr_blocks_intact(b, &r, 0)));
    cr_expect(eq(int, ldr_blocks_open(b, &r, 0), -1));
    cr_assert(symlink("/etc/passwd", path) == 0);
    cr_expect(not(ldr_blocks_intact(b, &r, 0)));
    cr_expect(eq(int, ldr_blocks_open(b, &r, 0), -1), "a link is not followed");
    drop(&r);
}

Test(blocks, objects_without_blocks_are_always_intact)
{
    struct ldr_record small = { .flags = LDR_FLAG_INLINE, .size_bytes = 5 }, none = { .size_bytes = 0 };

    cr_expect(ldr_blocks_intact(b, &small, 0));
    cr_expect(ldr_blocks_intact(b, &none, 0));
    cr_expect(domain_sound(&f));
}

Test(blocks, a_dropped_block_is_unlinked_and_its_space_is_free)
{
    struct ldr_record r = linked(5000), gone = linked(6000);
    char path[TEST_DIR_MAX + 96];

    path_of(&gone.id, path);
    unlink(path); /* by another hand: its space is free as well */
    drop(&r);
    cr_expect(not(exists(&r.id)), "its name at once");
    drop(&gone);
    cr_expect(domain_sound(&f), "nothing on disk, nothing in the ledger");
    cr_expect(eq(u64, used(), 0));
}

Test(blocks, what_somebody_has_open_counts_until_it_is_closed)
{
    struct ldr_record r = linked(5000);
    struct ldr_space *s = &f.domain.space;
    int64_t until = ldr_mono_ns() + FIXTURE_WAIT_NS;
    int fd = ldr_blocks_open(b, &r, 0);
    char c;

    cr_assert(fd >= 0);
    cr_expect(ldr_blocks_mapped(b, &r.id, 0));
    drop(&r);
    while (!atomic_load(&s->unlinked_mapped) && ldr_mono_ns() < until)
        sched_yield();
    cr_expect(eq(u64, atomic_load(&s->unlinked_mapped), 8192));
    cr_expect(eq(u64, used(), 8192));
    cr_expect(not(ldr_blocks_mapped(b, &r.id, 0)), "there is no such file");
    cr_expect(pread(fd, &c, 1, 0) == 1, "who has it open reads on");
    close(fd);
    while (atomic_load(&s->unlinked_mapped) && ldr_mono_ns() < until) {
        ldr_blocks_tick(b);
        sched_yield();
    }
    cr_expect(eq(u64, used(), 0));
    cr_expect(domain_sound(&f));
}

Test(blocks, files_that_linger_at_the_end_are_let_go_of)
{
    struct ldr_record r[70]; /* more than there is room for at first */
    struct ldr_space *s = &f.domain.space;
    int64_t until = ldr_mono_ns() + FIXTURE_WAIT_NS;
    int fd[LDR_ARRAY_LEN(r)];

    for (size_t i = 0; i < LDR_ARRAY_LEN(r); i++) {
        r[i] = linked(100);
        fd[i] = ldr_blocks_open(b, &r[i], 0);
        drop(&r[i]);
    }
    while (atomic_load(&s->unlinked_mapped) < LDR_ARRAY_LEN(r) * 4096 && ldr_mono_ns() < until)
        sched_yield();
    cr_expect(eq(u64, atomic_load(&s->unlinked_mapped), LDR_ARRAY_LEN(r) * 4096));
    f.counted_bytes = LDR_ARRAY_LEN(r) * 4096;
    cr_expect(eq(u64, files(), LDR_ARRAY_LEN(r)));
    for (size_t i = 0; i < LDR_ARRAY_LEN(r); i += 2)
        close(fd[i]);
    ldr_blocks_tick(b);
    while (atomic_load(&s->unlinked_mapped) > LDR_ARRAY_LEN(r) / 2 * 4096 && ldr_mono_ns() < until)
        sched_yield();
    cr_expect(eq(u64, atomic_load(&s->unlinked_mapped), LDR_ARRAY_LEN(r) / 2 * 4096));
    cr_expect(eq(u64, files(), LDR_ARRAY_LEN(r) / 2));
    for (size_t i = 1; i < LDR_ARRAY_LEN(r); i += 2)
        close(fd[i]);
    ldr_blocks_tick(b);
    while (atomic_load(&s->unlinked_mapped) && ldr_mono_ns() < until)
        sched_yield();
    f.counted_bytes = 0;
    cr_expect(domain_sound(&f));
}

Test(blocks, a_reservation_that_was_waited_for_becomes_the_fills)
{
    cr_assert(eq(int, ldr_space_reserve(&f.domain.space, 5000, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_open(b, 5000, true, &fill, &err), LARDER_OK));
    cr_expect(eq(u64, used(), 8192));
    ldr_fill_close(&fill);
    cr_expect(eq(u64, used(), 0));
}

Test(blocks, each_block_of_an_object_is_a_file_of_its_own_length)
{
    struct ldr_record r = { .id = ldr_index_new_id(f.domain.index), .size_bytes = 65536 + 10, .block_log2 = 16 };

    cr_assert(eq(int, ldr_fill_open(b, 10, false, &fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_write(&fill, "0123456789", 10, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_seal(&fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_link(&fill, &r.id, 1, &err), LARDER_OK));
    ldr_fill_close(&fill);
    cr_expect(ldr_blocks_intact(b, &r, 1));
    cr_expect(not(ldr_blocks_intact(b, &r, 0)));
    cr_expect(not(ldr_blocks_intact(b, &r, 2)), "there is no such block");
    cr_expect(eq(int, ldr_blocks_open(b, &r, 2), -1));
    cr_expect(eq(int, errno, ENOENT));
    r.size_bytes++;
    cr_expect(not(ldr_blocks_intact(b, &r, 1)), "too short");
    ldr_blocks_drop(b, &r.id, 1, 10);
    cr_expect(domain_sound(&f));
}

/* ---- the sweep ---- */

struct committed {
    struct ldr_change c;
    sem_t done;
};

static void committed(struct ldr_change *c)
{
    sem_post(&LDR_CONTAINER(c, struct committed, c)->done);
}

static void record(const char *key, const struct ldr_record *r)
{
    struct committed p = {
        .c = { .what = LDR_CHANGE_PUT, .key = key, .key_len = strlen(key), .record = *r, .done = committed }
    };

    sem_init(&p.done, 0, 0);
    ldr_index_change(f.domain.index, &p.c);
    while (sem_wait(&p.done))
        ;
    cr_assert(eq(int, p.c.kind, LARDER_OK));
}

static uint64_t sweep(void)
{
    struct ldr_sweep *s = NULL;
    int64_t until = ldr_mono_ns() + FIXTURE_WAIT_NS;
    uint64_t unlinked = 0;

    cr_assert(eq(int, ldr_sweep_start(b, f.domain.index, &s, &err), LARDER_OK));
    while (!ldr_sweep_ended(s, &unlinked) && ldr_mono_ns() < until)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    cr_assert(ldr_sweep_ended(s, &unlinked));
    ldr_sweep_stop(&s);
    cr_expect(s == NULL);
    return unlinked;
}

/* The file system's clock has moved on since `path` changed. */
static void wait_for_the_clock(const char *path)
{
    char probe[TEST_DIR_MAX + 32];
    struct stat then, now;

    snprintf(probe, sizeof probe, "%s/probe", dir);
    cr_assert(stat(path, &then) == 0);
    do {
        close(open(probe, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        cr_assert(stat(probe, &now) == 0 && unlink(probe) == 0);
    } while (now.st_ctim.tv_sec == then.st_ctim.tv_sec && now.st_ctim.tv_nsec <= then.st_ctim.tv_nsec);
}

Test(blocks, the_sweep_unlinks_what_no_record_names_and_nothing_else)
{
    struct ldr_record kept = linked(5000), orphan = linked(6000), fresh;
    char junk[TEST_DIR_MAX + 64], aside[TEST_DIR_MAX + 64], path[TEST_DIR_MAX + 96], other[TEST_DIR_MAX + 100];

    record("mem://b/kept", &kept);
    cr_assert(eq(u64, sweep(), 0), "blocks of this run may be on their way to the index");
    /* The next run, as if this one had been killed between link and commit. */
    path_of(&orphan.id, path);
    snprintf(aside, sizeof aside, "%s/aside", dir);
    cr_assert(rename(path, aside) == 0);
    drop(&orphan);
    cr_assert(domain_close(&f));
    path_of(&kept.id, other);
    strcpy(strrchr(other, '.'), ".77"); /* a block that its record does not have */
    close(open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    cr_assert(rename(aside, path) == 0);
    wait_for_the_clock(path);
    domain_open(&f, dir, NULL);
    fresh = linked(7000);
    snprintf(junk, sizeof junk, "%s/cache/blocks/3f/junk", dir);
    close(open(junk, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    cr_expect(eq(u64, sweep(), 3));
    cr_expect(exists(&kept.id) && exists(&fresh.id) && !exists(&orphan.id) && access(junk, F_OK) != 0);
    cr_expect(access(other, F_OK) != 0);
    drop(&fresh);
    cr_expect(domain_sound(&f));
}

Test(blocks, the_sweep_leaves_a_block_that_an_object_of_an_earlier_run_gets_now)
{
    struct ldr_record r = { .id = ldr_index_new_id(f.domain.index), .size_bytes = 65536 + 10, .block_log2 = 16 };

    cr_assert(domain_close(&f));
    domain_open(&f, dir, NULL);
    cr_assert(eq(int, ldr_fill_open(b, 10, false, &fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_write(&fill, "0123456789", 10, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_seal(&fill, &err), LARDER_OK));
    cr_assert(eq(int, ldr_fill_link(&fill, &r.id, 1, &err), LARDER_OK));
    ldr_fill_close(&fill);
    cr_expect(eq(u64, sweep(), 0), "its record may be on the way");
    cr_expect(ldr_blocks_intact(b, &r, 1));
    ldr_blocks_drop(b, &r.id, 1, 10);
}

Test(blocks, a_sweep_can_be_stopped_on_its_way)
{
    struct ldr_sweep *s = NULL, *none = NULL;

    cr_assert(eq(int, ldr_sweep_start(b, f.domain.index, &s, &err), LARDER_OK));
    ldr_sweep_stop(&s);
    ldr_sweep_stop(&none);
    cr_expect(s == NULL);
}
