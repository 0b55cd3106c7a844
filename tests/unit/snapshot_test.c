/* snapshot_test.c - what clients may read: a snapshot stays whole while it is pinned, and `floor` says when it is not.
 */
#include "agent/snapshot.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

#define MAP_BYTES (32 * LDR_MIB)
#define FLAGS     (MDB_NOTLS | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NORDAHEAD)
#define VALUE     9000 /* bytes: overflow pages, which a commit replaces whole */

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static MDB_env *env;
static MDB_dbi dbi;
static struct ldr_hdr *hdr;
static struct ldr_snapshot snap;
static struct ldr_space space;
static struct larder_err err;
static int data_fd;

static void open_env(void)
{
    MDB_txn *txn;

    cr_assert(eq(int, mdb_env_create(&env), 0));
    cr_assert(eq(int, mdb_env_set_mapsize(env, MAP_BYTES), 0));
    cr_assert(eq(int, mdb_env_open(env, dir, FLAGS, 0600), 0));
    cr_assert(eq(int, mdb_env_get_fd(env, &data_fd), 0));
    cr_assert(eq(int, mdb_txn_begin(env, NULL, 0, &txn), 0));
    cr_assert(eq(int, mdb_dbi_open(txn, NULL, 0, &dbi), 0));
    cr_assert(eq(int, mdb_put(txn, dbi, &(MDB_val){ 1, (void *)"!" }, &(MDB_val){ 0, NULL }, 0), 0));
    cr_assert(eq(int, mdb_txn_commit(txn), 0)); /* as the index does before it publishes: a first transaction */
}

static void make_env(void)
{
    test_dir_make(dir);
    hdr = mmap(NULL, LDR_HDR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(hdr != MAP_FAILED);
    hdr->mapsize = MAP_BYTES;
    ldr_space_init(&space);
    space.max_bytes = 64 * LDR_MIB;
    space.dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    open_env();
}

static void close_env(void)
{
    ldr_snapshot_close(&snap);
    mdb_env_close(env);
    munmap(hdr, LDR_HDR_BYTES);
    close(space.dirfd);
    umount2(dir, MNT_DETACH);
    test_dir_remove(dir);
}

TestSuite(snapshot, .init = make_env, .fini = close_env, .timeout = 30);

static uint64_t cur(void)
{
    return atomic_load(&hdr->cur);
}

static uint64_t lowest(void)
{
    return atomic_load(&hdr->floor);
}

static void open_snapshot(void)
{
    cr_assert(eq(int, ldr_snapshot_open(&snap, env, data_fd, hdr, &space, &err), LARDER_OK), "%s", err.msg);
}

/* Commit, without publishing: every byte of the value is `c`. */
static void write_value(char c)
{
    char value[VALUE];
    MDB_val k = { 1, (void *)"k" }, v = { sizeof value, value };
    MDB_txn *txn;

    memset(value, c, sizeof value);
    cr_assert(eq(int, mdb_txn_begin(env, NULL, 0, &txn), 0));
    cr_assert(eq(int, mdb_put(txn, dbi, &k, &v, 0), 0));
    cr_assert(eq(int, mdb_txn_commit(txn), 0));
}

static uint64_t step(char c)
{
    write_value(c);
    return ldr_snapshot_publish(&snap);
}

static uint64_t last_txn(void)
{
    MDB_envinfo info;

    mdb_env_info(env, &info);
    return info.me_last_txnid;
}

/* ---- cur and floor ---- */

Test(snapshot, nothing_is_published_before_the_first_publish)
{
    open_snapshot();
    cr_expect(eq(u64, cur(), 0));
    cr_expect(gt(u64, last_txn(), 0));
    cr_expect(eq(u64, lowest(), last_txn()), "what an earlier agent had pinned is not whole any more");
    cr_expect(eq(u64, ldr_snapshot_publish(&snap), last_txn()));
    cr_expect(eq(u64, cur(), last_txn()));
}

Test(snapshot, floor_is_never_lowered)
{
    atomic_store(&hdr->floor, 1000);
    open_snapshot();
    cr_expect(eq(u64, lowest(), 1000));
}

Test(snapshot, cur_is_the_newest_commit_and_floor_follows_eight_behind)
{
    uint64_t first;

    open_snapshot();
    first = ldr_snapshot_publish(&snap);
    for (uint64_t i = 1; i <= 30; i++) {
        uint64_t before = lowest(), oldest = i < LDR_PINS ? first : first + i - (LDR_PINS - 1);

        cr_expect(eq(u64, step('a'), first + i));
        cr_expect(eq(u64, cur(), first + i));
        cr_expect(eq(u64, lowest(), oldest), "after %u commits", (unsigned)i);
        cr_expect(ge(u64, lowest(), before));
    }
}

Test(snapshot, publishing_again_without_a_commit_changes_nothing)
{
    uint64_t now, floor_before;

    open_snapshot();
    ldr_snapshot_publish(&snap);
    now = step('a');
    floor_before = lowest();
    for (int i = 0; i < 20; i++)
        cr_expect(eq(u64, ldr_snapshot_publish(&snap), now));
    cr_expect(eq(u64, lowest(), floor_before), "no pin was used up");
    cr_expect(eq(u64, step('b'), now + 1));
}

/* ---- the pages of a pinned snapshot ---- */

/* Where the value of the newest snapshot stands in the file. */
static off_t value_offset(char c)
{
    struct stat st;
    uint8_t *p;
    off_t at = -1;
    char want[VALUE];

    memset(want, c, sizeof want);
    cr_assert(fstat(data_fd, &st) == 0);
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, data_fd, 0);
    cr_assert(p != MAP_FAILED);
    for (off_t page = 2; at < 0 && page * LDR_PAGE + 16 + VALUE <= st.st_size; page++)
        if (!memcmp(p + page * LDR_PAGE + 16, want, VALUE)) /* behind an overflow page's header */
            at = page * LDR_PAGE + 16;
    munmap(p, (size_t)st.st_size);
    return at;
}

static bool still_there(off_t at, char c)
{
    char have[VALUE], want[VALUE];

    memset(want, c, sizeof want);
    return pread(data_fd, have, sizeof have, at) == (ssize_t)sizeof have && !memcmp(have, want, sizeof have);
}

Test(snapshot, the_pages_of_a_snapshot_are_not_reused_while_floor_allows_it)
{
    uint64_t old;
    off_t at;

    open_snapshot();
    ldr_snapshot_publish(&snap);
    old = step('A');
    at = value_offset('A');
    cr_assert(at > 0, "the value is in the file");
    for (int i = 0; lowest() <= old; i++) {
        cr_assert(i < 20, "floor never passed it");
        cr_expect(still_there(at, 'A'), "after %d commits, floor %u of %u", i, (unsigned)lowest(), (unsigned)old);
        step((char)('b' + i));
    }
    cr_expect(eq(u64, cur(), old + LDR_PINS), "seven more commits leave it whole, the eighth need not");
}

Test(snapshot, without_pins_the_pages_are_reused)
{
    uint64_t old;
    off_t at;

    open_snapshot();
    snap.unsafe = true;
    ldr_snapshot_publish(&snap);
    old = step('A');
    at = value_offset('A');
    cr_assert(at > 0);
    for (int i = 0; i < LDR_PINS && still_there(at, 'A'); i++)
        step((char)('b' + i));
    cr_expect(not(still_there(at, 'A')), "else the test above could see nothing");
    cr_expect(gt(u64, lowest(), old), "and floor tells it");
}

Test(snapshot, the_file_stops_growing_although_it_is_written_for_ever)
{
    MDB_envinfo info;
    size_t settled;

    open_snapshot();
    ldr_snapshot_publish(&snap);
    for (int i = 0; i < 50; i++)
        step('a');
    mdb_env_info(env, &info);
    settled = info.me_last_pgno;
    for (int i = 0; i < 500; i++)
        step('b');
    mdb_env_info(env, &info);
    cr_expect(le(sz, info.me_last_pgno, settled + 8));
}

/* ---- the extent ---- */

static uint64_t npages(void)
{
    return atomic_load(&hdr->npages);
}

static uint64_t last_page_of_env(void)
{
    MDB_envinfo info;

    mdb_env_info(env, &info);
    return info.me_last_pgno;
}

static bool allocated(uint64_t bytes)
{
    struct stat st;

    return fstat(data_fd, &st) == 0 && (uint64_t)st.st_size >= bytes && (uint64_t)st.st_blocks * 512 >= bytes;
}

Test(snapshot, the_extent_covers_every_page_and_is_on_the_disk)
{
    char big[200 * 1024] = { 1 };

    open_snapshot();
    ldr_snapshot_publish(&snap);
    for (int i = 0; i < 60; i++) {
        MDB_val k = { sizeof i, &i }, v = { sizeof big, big };
        MDB_txn *txn;

        cr_assert(ldr_snapshot_reserve(&snap, 120, false));
        cr_assert(eq(int, mdb_txn_begin(env, NULL, 0, &txn), 0));
        cr_assert(eq(int, mdb_put(txn, dbi, &k, &v, 0), 0));
        cr_assert(eq(int, mdb_txn_commit(txn), 0));
        cr_expect(gt(u64, npages(), last_page_of_env()), "before it is published already");
        ldr_snapshot_publish(&snap);
    }
    cr_expect(gt(u64, last_page_of_env(), 2000), "it did grow");
    cr_expect(allocated(npages() * LDR_PAGE));
    cr_expect(eq(u64, ldr_snapshot_extent(&snap), npages() * LDR_PAGE));
}

Test(snapshot, no_more_can_be_reserved_than_the_map_has)
{
    open_snapshot();
    cr_expect(not(ldr_snapshot_reserve(&snap, MAP_BYTES / LDR_PAGE, true)));
    cr_expect(ldr_snapshot_reserve(&snap, MAP_BYTES / LDR_PAGE - last_page_of_env() - 1, true));
    cr_expect(eq(u64, npages(), MAP_BYTES / LDR_PAGE));
    cr_expect(le(u64, npages() * LDR_PAGE, hdr->mapsize));
}

Test(snapshot, the_last_sixteenth_of_the_map_is_for_what_removes)
{
    uint64_t most = MAP_BYTES / LDR_PAGE * 15 / 16;

    open_snapshot();
    cr_expect(ldr_snapshot_reserve(&snap, most - last_page_of_env() - 1, false));
    cr_expect(not(ldr_snapshot_reserve(&snap, most - last_page_of_env(), false)), "and nothing inside is free");
    cr_expect(ldr_snapshot_reserve(&snap, most - last_page_of_env(), true));
}

static void put_numbered(int i, size_t len)
{
    static char big[400 * 1024];
    MDB_val k = { sizeof i, &i }, v = { len, big };
    MDB_txn *txn;

    cr_assert(eq(int, mdb_txn_begin(env, NULL, 0, &txn), 0));
    cr_assert(eq(int, len ? mdb_put(txn, dbi, &k, &v, 0) : mdb_del(txn, dbi, &k, NULL), 0));
    cr_assert(eq(int, mdb_txn_commit(txn), 0));
    ldr_snapshot_publish(&snap);
}

Test(snapshot, at_the_end_of_the_map_free_pages_inside_it_count)
{
    open_snapshot();
    ldr_snapshot_publish(&snap);
    for (int i = 0; i < 76; i++)
        put_numbered(i, sizeof(char[400 * 1024]));
    cr_assert(gt(u64, last_page_of_env(), MAP_BYTES / LDR_PAGE * 15 / 16 - 100), "nearly full");
    cr_expect(not(ldr_snapshot_reserve(&snap, 400, false)));
    for (int i = 0; i < 40; i++)
        put_numbered(i, 0);
    cr_expect(ldr_snapshot_reserve(&snap, 400, false));
}

Test(snapshot, each_growth_is_in_the_ledger_before_it_is_on_the_disk)
{
    open_snapshot();
    cr_expect(eq(u64, atomic_load(&space.bytes), npages() * LDR_PAGE));
    cr_expect(eq(u64, npages() * LDR_PAGE, 4 * LDR_MIB), "a step: a sixteenth of the limit");
    ldr_space_start(&space, space.max_bytes - 20 * LDR_PAGE, 0);
    cr_expect(ldr_snapshot_reserve(&snap, npages() - last_page_of_env() - 1 + 10, false),
              "a step does not fit, this does");
    cr_expect(eq(u64, npages() * LDR_PAGE, 4 * LDR_MIB + 10 * LDR_PAGE));
    cr_expect(not(ldr_snapshot_reserve(&snap, npages() - last_page_of_env() - 1 + 11, false)));
    cr_expect(eq(u64, atomic_load(&space.bytes), space.max_bytes - 10 * LDR_PAGE));
    cr_expect(eq(u64, npages() * LDR_PAGE, 4 * LDR_MIB + 10 * LDR_PAGE));
}

Test(snapshot, what_was_committed_without_room_can_be_read_and_counts)
{
    uint64_t before;

    open_snapshot();
    before = npages();
    ldr_space_start(&space, space.max_bytes, 0);
    for (int i = 0; npages() == before; i++) {
        cr_assert(i < 100);
        put_numbered(i, 100 * 1024);
    }
    cr_expect(gt(u64, npages(), last_page_of_env()));
    cr_expect(eq(u64, atomic_load(&space.bytes), space.max_bytes + (npages() - before) * LDR_PAGE));
}

Test(snapshot, a_disk_without_room_is_said_and_the_extent_stays_true)
{
    struct rlimit rl = { 12 * LDR_MIB, 12 * LDR_MIB };
    uint64_t before;

    signal(SIGXFSZ, SIG_IGN); /* a limit on the file's size stands for the full disk */
    open_snapshot();
    ldr_snapshot_publish(&snap);
    before = npages();
    cr_assert(setrlimit(RLIMIT_FSIZE, &rl) == 0);
    cr_expect(not(ldr_snapshot_reserve(&snap, 16 * LDR_MIB / LDR_PAGE, false)));
    cr_expect(eq(u64, npages(), before));
    cr_expect(allocated(npages() * LDR_PAGE));
}

/* A step ahead does not fit any more, what was committed does: clients must be able to read it all the same. */
Test(snapshot, on_a_disk_that_is_nearly_full_the_extent_still_covers_what_is_published)
{
    struct rlimit rl = { 3 * LDR_MIB, 3 * LDR_MIB };
    char big[100 * 1024] = { 1 };

    signal(SIGXFSZ, SIG_IGN);
    space.max_bytes = 32 * LDR_MIB;
    open_snapshot();
    ldr_snapshot_publish(&snap);
    cr_assert(le(u64, npages() * LDR_PAGE, 3 * LDR_MIB), "the limit is not below the extent");
    cr_assert(setrlimit(RLIMIT_FSIZE, &rl) == 0);
    for (int i = 0; i < 25; i++) { /* 2.5 MiB: beyond the first step of 2 MiB */
        MDB_val k = { sizeof i, &i }, v = { sizeof big, big };
        MDB_txn *txn;

        cr_assert(eq(int, mdb_txn_begin(env, NULL, 0, &txn), 0));
        cr_assert(eq(int, mdb_put(txn, dbi, &k, &v, 0), 0));
        cr_assert(eq(int, mdb_txn_commit(txn), 0));
        ldr_snapshot_publish(&snap);
        cr_expect(gt(u64, npages(), last_page_of_env()), "%d", i);
    }
    cr_expect(gt(u64, last_page_of_env() * LDR_PAGE, 2 * LDR_MIB), "it did grow");
}

/* ---- the end ---- */

Test(snapshot, a_retired_generation_says_so_in_both_numbers)
{
    open_snapshot();
    ldr_snapshot_publish(&snap);
    ldr_snapshot_retire(&snap);
    cr_expect(eq(u64, cur(), LDR_RETIRED));
    cr_expect(eq(u64, lowest(), LDR_RETIRED));
}

Test(snapshot, a_restart_voids_what_readers_hold_until_it_publishes)
{
    uint64_t before;

    open_snapshot();
    ldr_snapshot_publish(&snap);
    before = step('a');
    write_value('b'); /* committed, and killed before it was published */
    ldr_snapshot_close(&snap);
    mdb_env_close(env);
    open_env();
    open_snapshot();
    cr_expect(gt(u64, lowest(), before), "floor over cur: every reader's answer is void, it asks the agent");
    cr_expect(eq(u64, cur(), before));
    cr_expect(eq(u64, ldr_snapshot_publish(&snap), last_txn()));
    cr_expect(ge(u64, cur(), lowest()));
}
