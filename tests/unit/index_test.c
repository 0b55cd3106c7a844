/* index_test.c - changes, batches, what is answered and when; eviction; what is left after a kill. */
#include "agent/blocks.h"
#include "client/walk.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/touch.h"
#include "common/uri.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX], cache[TEST_DIR_MAX + 8];
static struct ldr_cache_dir *d;
static struct ldr_space space;
static struct ldr_counters counters;
static struct ldr_index_cfg cfg = { .inline_bytes = 16 * LDR_MIB, .inline_limit = LDR_RECORD_DEFAULT };
static struct ldr_index *x;
static struct ldr_pool *pool;
static struct ldr_blocks blocks;
static bool with_blocks; /* block files are real, and dropped */
static uint64_t max_bytes = LDR_GIB, max_files = 100000, min_free;
static struct ldr_reader *reader;
static struct ldr_hdr *hdr; /* as a client maps it */
static struct larder_err err;
static uint64_t txnid;

static void make_dir(void)
{
    test_dir_make(dir);
    snprintf(cache, sizeof cache, "%s/cache", dir);
}

static void end_index(void)
{
    if (hdr)
        munmap(hdr, LDR_HDR_BYTES);
    hdr = NULL;
    ldr_reader_close(&reader);
    if (x)
        cr_assert(eq(int, ldr_index_stop(x, true, &err), LARDER_OK), "%s", err.msg);
    ldr_pool_free(&pool);
    ldr_index_close(&x);
    ldr_blocks_release(&blocks);
    if (d)
        ldr_cache_dir_close(&d);
}

static void remove_dir(void)
{
    end_index();
    test_dir_remove(dir);
}

TestSuite(index, .init = make_dir, .fini = remove_dir, .timeout = 120);

/* Open as far as the repair. */
static enum larder_kind open_index(void)
{
    enum larder_kind k;

    ldr_space_init(&space);
    space.max_bytes = max_bytes;
    space.max_files = max_files;
    space.min_free_bytes = min_free;
    k = ldr_cache_dir_open(cache, false, 0, &d, &err);
    if (k)
        return k;
    space.dirfd = d->dirfd;
    if (with_blocks) {
        cr_assert(eq(int, ldr_pool_new(2, &pool, &err), LARDER_OK));
        ldr_blocks_init(&blocks, d, &space, pool);
        cfg.blocks = &blocks;
    }
    return ldr_index_open(d, &space, &counters, &cfg, &x, &err);
}

static void start_index(void)
{
    char path[TEST_DIR_MAX + 64];
    int fd;

    cr_assert(eq(int, ldr_index_start(x, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_cache_dir_commit(d, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_reader_open(x, &reader, &err), LARDER_OK), "%s", err.msg);
    snprintf(path, sizeof path, "%s/gen-%u/hdr", cache, (unsigned)d->format.generation);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    hdr = mmap(NULL, LDR_HDR_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert(hdr != MAP_FAILED);
    close(fd);
}

static void begin_dropping(const char *const *drop)
{
    cr_assert(eq(int, open_index(), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_index_repair(x, drop, &err), LARDER_OK), "%s", err.msg);
    start_index();
}

static void begin(void)
{
    begin_dropping((const char *const[]){ NULL });
}

/* A stop and a start. */
static void again(void)
{
    end_index();
    begin();
}

/* ---- changes, one by one ---- */

struct test_change {
    struct ldr_change c;
    sem_t done;
    uint64_t cur_when_answered;
};

static void change_done(struct ldr_change *c)
{
    struct test_change *t = c->user;

    t->cur_when_answered = hdr ? atomic_load(&hdr->cur) : 0;
    sem_post(&t->done);
}

static void prepare(struct test_change *t, enum ldr_change_what what, const char *key)
{
    *t = (struct test_change){ .c = { .what = what, .key = key, .key_len = strlen(key), .done = change_done } };
    t->c.user = t;
    sem_init(&t->done, 0, 0);
}

static void wait_for(struct test_change *t)
{
    while (sem_wait(&t->done))
        ;
}

static enum larder_kind carry_out(struct test_change *t)
{
    ldr_index_change(x, &t->c);
    wait_for(t);
    return t->c.kind;
}

static struct ldr_record small(const void *bytes, size_t len)
{
    return (struct ldr_record){ .flags = LDR_FLAG_INLINE,
                                .id = ldr_index_new_id(x),
                                .size_bytes = len,
                                .fresh_until_ns = LDR_FRESH_ALWAYS,
                                .block_log2 = 20,
                                .payload = bytes,
                                .payload_len = len,
                                .payload_hash = ldr_hash64(bytes, len) };
}

static struct ldr_record block_of(uint64_t size)
{
    return (struct ldr_record){
        .id = ldr_index_new_id(x), .size_bytes = size, .fresh_until_ns = LDR_FRESH_ALWAYS, .block_log2 = 20
    };
}

static struct test_change last; /* the change of the last put_…, remove_… */

static enum larder_kind put_record(const char *key, struct ldr_record r)
{
    prepare(&last, LDR_CHANGE_PUT, key);
    last.c.record = r;
    last.c.block_hash = 77;
    return carry_out(&last);
}

static enum larder_kind put(const char *key, const char *text)
{
    return put_record(key, small(text, strlen(text)));
}

static enum larder_kind remove_key(const char *key)
{
    prepare(&last, LDR_CHANGE_REMOVE, key);
    return carry_out(&last);
}

static enum larder_kind intend(const char *key)
{
    prepare(&last, LDR_CHANGE_INTENT, key);
    return carry_out(&last);
}

static enum larder_kind find(const char *key, struct ldr_record *out)
{
    return ldr_reader_find(reader, key, strlen(key), out, &txnid);
}

static bool holds(const char *key, const char *text)
{
    struct ldr_record r;

    return find(key, &r) == LARDER_OK && r.payload_len == strlen(text) && !memcmp(r.payload, text, r.payload_len);
}

static bool has_intent(const char *key)
{
    uint8_t k[LDR_INTENT_KEY_MAX];
    size_t n = ldr_intent_key(key, strlen(key), k);
    struct ldr_record r;

    return ldr_reader_find(reader, k, n, &r, &txnid) == LARDER_CORRUPT; /* there, and no record */
}

static struct ldr_index_stats stats(void)
{
    struct ldr_index_stats s;

    ldr_index_stats(x, &s);
    return s;
}

static bool all_restored(void)
{
    int64_t until = ldr_mono_ns() + 30 * LDR_NS_PER_S;

    while (!stats().restored && ldr_mono_ns() < until)
        sched_yield();
    return stats().restored;
}

#define EXPECT_HELD(n_objects, n_blocks, n_bytes)                                                                      \
    do {                                                                                                               \
        struct ldr_index_stats s_ = stats();                                                                           \
        cr_expect(eq(u64, s_.objects, (n_objects)));                                                                   \
        cr_expect(eq(u64, s_.blocks, (n_blocks)));                                                                     \
        cr_expect(eq(u64, s_.block_bytes, (n_bytes)));                                                                 \
    } while (0)

static uint64_t extent(void)
{
    return atomic_load(&hdr->npages) * LDR_PAGE;
}

/* What the ledger holds of others than blocks. */
static uint64_t fixed(void)
{
    return extent() + ldr_space_charge(ldr_touch_file_bytes(hdr->touch_bits));
}

/* ---- put, find, remove ---- */

Test(index, what_is_put_is_found)
{
    struct ldr_record r;

    begin();
    cr_assert(eq(int, put("mem://b/k", "hello"), LARDER_OK));
    cr_assert(eq(int, find("mem://b/k", &r), LARDER_OK));
    cr_expect(eq(int, memcmp(r.payload, "hello", 5), 0));
    cr_expect(eq(u64, r.payload_hash, ldr_hash64("hello", 5)));
    cr_expect(eq(int, memcmp(&r.id, &last.c.record.id, sizeof r.id), 0));
    cr_expect(eq(u64, txnid, last.c.txnid));
    cr_expect(eq(int, find("mem://b/other", &r), LARDER_NOT_FOUND));
    cr_expect(eq(int, find("mem://b/", &r), LARDER_NOT_FOUND));
}

Test(index, a_change_is_answered_when_readers_can_see_it)
{
    begin();
    for (int i = 0; i < 20; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cr_assert(eq(int, put(key, "x"), LARDER_OK));
        cr_expect(eq(u64, last.cur_when_answered, last.c.txnid), "cur in the header, when done was called");
        cr_expect(ge(u64, atomic_load(&hdr->cur), last.c.txnid));
    }
    remove_key("mem://b/3");
    cr_expect(eq(u64, last.cur_when_answered, last.c.txnid));
}

Test(index, a_put_over_another_replaces_it)
{
    begin();
    cr_assert(eq(int, put("mem://b/k", "one"), LARDER_OK));
    cr_assert(eq(int, put("mem://b/k", "three"), LARDER_OK));
    cr_expect(holds("mem://b/k", "three"));
    EXPECT_HELD(1, 0, 0);
}

Test(index, later_publications_have_higher_seqs)
{
    struct ldr_record r;
    uint64_t seq = 0;

    begin();
    for (int i = 0; i < 5; i++) {
        put("mem://b/k", "x");
        cr_assert(eq(int, find("mem://b/k", &r), LARDER_OK));
        cr_expect(gt(u64, r.seq, seq));
        seq = r.seq;
    }
}

Test(index, an_empty_object_and_one_of_the_largest_size_are_kept_whole)
{
    char *most = malloc(LDR_RECORD_DEFAULT);
    size_t len = LDR_RECORD_DEFAULT - LDR_RECORD_FIXED;
    struct ldr_record r;

    begin();
    memset(most, 'm', LDR_RECORD_DEFAULT);
    cr_assert(eq(int, put("mem://b/empty", ""), LARDER_OK));
    cr_assert(eq(int, put_record("mem://b/most", small(most, len)), LARDER_OK));
    cr_expect(holds("mem://b/empty", ""));
    cr_assert(eq(int, find("mem://b/most", &r), LARDER_OK));
    cr_expect(r.payload_len == len && !memcmp(r.payload, most, len));
    free(most);
}

Test(index, a_key_of_the_largest_length_is_kept)
{
    char key[LDR_INDEX_KEY_MAX + 1];

    begin();
    memset(key, 'k', sizeof key - 1);
    memcpy(key, "mem://", 6);
    key[sizeof key - 1] = '\0';
    cr_assert(eq(int, intend(key), LARDER_OK));
    cr_assert(eq(int, put(key, "long"), LARDER_OK));
    cr_expect(holds(key, "long"));
    cr_expect(has_intent(key));
}

Test(index, what_is_removed_is_gone)
{
    struct ldr_record r;

    begin();
    put("mem://b/k", "x");
    cr_assert(eq(int, remove_key("mem://b/k"), LARDER_OK));
    cr_expect(eq(int, find("mem://b/k", &r), LARDER_NOT_FOUND));
    cr_assert(eq(int, remove_key("mem://b/k"), LARDER_OK), "twice");
    EXPECT_HELD(0, 0, 0);
}

Test(index, only_the_version_that_is_meant_is_removed)
{
    struct ldr_id old;

    begin();
    put("mem://b/k", "old");
    old = last.c.record.id;
    put("mem://b/k", "new");
    prepare(&last, LDR_CHANGE_REMOVE, "mem://b/k");
    last.c.only_id = true;
    last.c.record.id = old;
    cr_assert(eq(int, carry_out(&last), LARDER_OK));
    cr_expect(holds("mem://b/k", "new"));
    old = (find("mem://b/k", &last.c.record), last.c.record.id);
    prepare(&last, LDR_CHANGE_REMOVE, "mem://b/k");
    last.c.only_id = true;
    last.c.record.id = old;
    carry_out(&last);
    EXPECT_HELD(0, 0, 0);
}

Test(index, a_put_that_is_to_be_skipped_changes_nothing)
{
    atomic_bool skip = true;

    begin();
    put("mem://b/k", "before");
    prepare(&last, LDR_CHANGE_PUT, "mem://b/k");
    last.c.record = small("stale", 5);
    last.c.skip = &skip;
    cr_expect(eq(int, carry_out(&last), LARDER_CANCELLED));
    cr_expect(holds("mem://b/k", "before"));
    EXPECT_HELD(1, 0, 0);
}

/* ---- blocks ---- */

Test(index, a_block_has_a_record_of_its_own_as_long_as_its_object)
{
    struct ldr_id id;
    struct ldr_record r;

    begin();
    cr_assert(eq(int, put_record("mem://b/k", block_of(100000)), LARDER_OK));
    id = last.c.record.id;
    cr_expect(ldr_reader_has_block(reader, &id, 0));
    cr_expect(not(ldr_reader_has_block(reader, &id, 1)));
    cr_assert(eq(int, find("mem://b/k", &r), LARDER_OK));
    cr_expect(eq(u64, r.size_bytes, 100000));
    EXPECT_HELD(1, 1, 102400);
    put_record("mem://b/k", block_of(4096));
    cr_expect(not(ldr_reader_has_block(reader, &id, 0)), "replaced, its block record with it");
    cr_expect(ldr_reader_has_block(reader, &last.c.record.id, 0));
    EXPECT_HELD(1, 1, 4096);
    put("mem://b/k", "small now");
    EXPECT_HELD(1, 0, 0);
}

Test(index, an_update_keeps_the_version_and_its_block)
{
    struct ldr_record r, now;
    uint8_t fields[] = { LDR_TAG_ETAG, 3, 0, 'a', 'b', 'c' };
    uint64_t charge;

    begin();
    r = block_of(70000);
    put_record("mem://b/k", r);
    charge = stats().inline_charge;
    prepare(&last, LDR_CHANGE_UPDATE, "mem://b/k");
    last.c.record = r;
    last.c.record.last_modified_s = 123;
    last.c.record.fields = fields;
    last.c.record.fields_len = sizeof fields;
    cr_assert(eq(int, carry_out(&last), LARDER_OK));
    cr_assert(eq(int, find("mem://b/k", &now), LARDER_OK));
    cr_expect(eq(i64, now.last_modified_s, 123));
    cr_expect(eq(sz, now.fields_len, sizeof fields));
    cr_expect(ldr_reader_has_block(reader, &r.id, 0));
    EXPECT_HELD(1, 1, 73728);
    cr_expect(gt(u64, stats().inline_charge, charge));
    remove_key("mem://b/k");
    cr_expect(eq(u64, stats().inline_charge, 0), "what the update added is given back too");
}

Test(index, an_update_of_a_version_that_is_gone_does_nothing)
{
    struct ldr_record old;

    begin();
    old = small("old", 3);
    put_record("mem://b/k", old);
    put("mem://b/k", "new");
    for (int i = 0; i < 2; i++) {
        prepare(&last, LDR_CHANGE_UPDATE, "mem://b/k");
        last.c.record = old;
        cr_expect(eq(int, carry_out(&last), LARDER_CANCELLED));
        cr_expect(i ? !holds("mem://b/k", "old") : holds("mem://b/k", "new"));
        remove_key("mem://b/k");
    }
    EXPECT_HELD(0, 0, 0);
}

/* ---- batches ---- */

#define MANY 600

Test(index, changes_that_are_posted_together_share_transactions_and_keep_their_order)
{
    struct test_change *t = calloc(MANY, sizeof *t);
    char text[MANY][12];
    uint64_t commits;

    begin();
    commits = atomic_load(&counters.commits);
    for (int i = 0; i < MANY; i++) {
        snprintf(text[i], sizeof text[i], "%d", i);
        prepare(&t[i], i % 7 == 6 ? LDR_CHANGE_REMOVE : LDR_CHANGE_PUT, i % 2 ? "mem://b/odd" : "mem://b/even");
        t[i].c.record = small(text[i], strlen(text[i]));
    }
    for (int i = 0; i < MANY; i++)
        ldr_index_change(x, &t[i].c);
    for (int i = 0; i < MANY; i++) {
        wait_for(&t[i]);
        cr_assert(eq(int, t[i].c.kind, LARDER_OK));
        cr_assert(i == 0 || t[i].c.txnid >= t[i - 1].c.txnid);
    }
    cr_expect(lt(u64, atomic_load(&counters.commits) - commits, MANY / 2));
    cr_expect(holds("mem://b/odd", "599") && holds("mem://b/even", "598"));
    EXPECT_HELD(2, 0, 0);
    free(t);
}

Test(index, what_is_queued_when_it_stops_is_carried_out)
{
    struct test_change *t = calloc(MANY, sizeof *t);
    char key[MANY][32];

    begin();
    for (int i = 0; i < MANY; i++) {
        snprintf(key[i], sizeof key[i], "mem://b/%d", i);
        prepare(&t[i], LDR_CHANGE_PUT, key[i]);
        t[i].c.record = small("x", 1);
        ldr_index_change(x, &t[i].c);
    }
    cr_assert(eq(int, ldr_index_stop(x, false, &err), LARDER_OK));
    for (int i = 0; i < MANY; i++)
        cr_assert(sem_trywait(&t[i].done) == 0 && t[i].c.kind == LARDER_OK, "%d", i);
    again();
    EXPECT_HELD(MANY, 0, 0);
    free(t);
}

/* ---- intents ---- */

Test(index, an_intent_stands_until_its_write_is_over)
{
    begin();
    put("mem://b/k", "old");
    cr_assert(eq(int, intend("mem://b/k"), LARDER_OK));
    cr_expect(has_intent("mem://b/k"));
    cr_expect(holds("mem://b/k", "old"), "readers keep it meanwhile");
    prepare(&last, LDR_CHANGE_PUT, "mem://b/k");
    last.c.record = small("new", 3);
    last.c.clear_intent = true;
    cr_assert(eq(int, carry_out(&last), LARDER_OK));
    cr_expect(not(has_intent("mem://b/k")));
    again();
    cr_expect(holds("mem://b/k", "new"));
}

Test(index, a_put_without_the_last_say_leaves_the_intent)
{
    begin();
    intend("mem://b/k");
    put("mem://b/k", "x");
    cr_expect(has_intent("mem://b/k"));
    prepare(&last, LDR_CHANGE_REMOVE, "mem://b/k");
    last.c.clear_intent = true;
    carry_out(&last);
    cr_expect(not(has_intent("mem://b/k")));
    EXPECT_HELD(0, 0, 0);
}

Test(index, the_intent_of_a_write_that_was_not_kept_goes_all_the_same)
{
    atomic_bool skip = true;

    begin();
    intend("mem://b/k");
    prepare(&last, LDR_CHANGE_PUT, "mem://b/k");
    last.c.record = small("x", 1);
    last.c.skip = &skip;
    last.c.clear_intent = true;
    cr_expect(eq(int, carry_out(&last), LARDER_CANCELLED));
    cr_expect(not(has_intent("mem://b/k")));
}

Test(index, an_intent_that_an_earlier_run_left_takes_its_record_with_it)
{
    struct ldr_id id;

    begin();
    put("mem://b/a", "stays");
    put_record("mem://b/k", block_of(80000));
    id = last.c.record.id;
    intend("mem://b/k");
    intend("mem://b/never-there");
    again();
    cr_expect(holds("mem://b/a", "stays"));
    cr_expect(not(has_intent("mem://b/k")));
    cr_expect(not(has_intent("mem://b/never-there")));
    cr_expect(eq(int, find("mem://b/k", &last.c.record), LARDER_NOT_FOUND));
    cr_expect(not(ldr_reader_has_block(reader, &id, 0)), "so that the sweep finds the file");
    EXPECT_HELD(1, 0, 0);
}

/* ---- the ledger ---- */

Test(index, the_ledger_holds_the_blocks_and_the_extent_of_what_is_kept)
{
    begin();
    cr_expect(eq(u64, atomic_load(&space.bytes), fixed()));
    put_record("mem://b/k", block_of(80000));
    again();
    cr_expect(eq(u64, atomic_load(&space.bytes), fixed() + 81920));
    cr_expect(eq(u64, atomic_load(&space.files), 1));
}

Test(index, what_the_repair_drops_leaves_the_ledger_with_the_sweep)
{
    begin();
    put_record("mem://b/intended", block_of(80000));
    put_record("s3://b/other-store", block_of(90000));
    put_record("mem://b/stays", block_of(10000));
    intend("mem://b/intended");
    end_index();
    begin_dropping((const char *const[]){ "s3", NULL });
    EXPECT_HELD(1, 1, 12288);
    cr_expect(eq(u64, atomic_load(&space.bytes), fixed() + 12288 + 81920 + 90112), "the files are there still");
    ldr_index_swept(x);
    ldr_index_swept(x);
    cr_expect(eq(u64, atomic_load(&space.bytes), fixed() + 12288));
    cr_expect(eq(u64, atomic_load(&space.files), 1));
}

/* ---- schemes ---- */

static void put_all(const char *pattern, int n)
{
    struct test_change *t = calloc((size_t)n, sizeof *t);
    char(*key)[40] = calloc((size_t)n, sizeof *key);

    for (int i = 0; i < n; i++) {
        snprintf(key[i], sizeof key[i], pattern, i);
        prepare(&t[i], LDR_CHANGE_PUT, key[i]);
        t[i].c.record = small("x", 1);
        ldr_index_change(x, &t[i].c);
    }
    for (int i = 0; i < n; i++)
        wait_for(&t[i]);
    free(key);
    free(t);
}

Test(index, the_records_of_a_scheme_are_dropped_however_many_there_are)
{
    struct ldr_record r;

    begin();
    put_all("s3://b/%05d", 2500);
    put_all("s3x://b/%d", 3);
    put_all("s://b/%d", 3);
    put_all("mem://b/%d", 1500);
    EXPECT_HELD(4006, 0, 0);
    end_index();
    begin_dropping((const char *const[]){ "s3", "gone", "mem", NULL });
    EXPECT_HELD(6, 0, 0);
    cr_expect(eq(int, find("s3://b/00000", &r), LARDER_NOT_FOUND));
    cr_expect(eq(int, find("s3://b/02499", &r), LARDER_NOT_FOUND));
    cr_expect(eq(int, find("mem://b/7", &r), LARDER_NOT_FOUND));
    cr_expect(eq(int, find("s3x://b/2", &r), LARDER_OK));
    cr_expect(eq(int, find("s://b/2", &r), LARDER_OK));
    again();
    EXPECT_HELD(6, 0, 0);
}

/* ---- the inline budget ---- */

Test(index, in_a_full_budget_the_oldest_make_room_for_ever)
{
    char big[8000];
    struct ldr_record r;
    uint64_t grown;

    memset(big, 'b', sizeof big);
    cfg.inline_bytes = 256 * LDR_KIB;
    begin();
    for (int n = 0; n < 2000; n++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", n);
        cr_assert(eq(int, put_record(key, small(big, sizeof big)), LARDER_OK), "%d: %s", n, last.c.err.msg);
        cr_assert(le(u64, stats().inline_charge, cfg.inline_bytes));
        cr_assert(eq(int, find(key, &r), LARDER_OK));
        if (n == 500)
            grown = extent();
    }
    cr_expect(eq(int, find("mem://b/0", &r), LARDER_NOT_FOUND));
    cr_expect(gt(u64, stats().objects, 20));
    cr_expect(eq(u64, stats().evictable, stats().objects));
    cr_expect(gt(u64, atomic_load(&counters.evicted_objects), 1900));
    cr_expect(eq(u64, extent(), grown), "and data.mdb does not grow any more");
}

Test(index, a_version_that_does_not_fit_takes_the_old_one_with_it)
{
    char big[12000] = { 1 };
    struct ldr_record r;
    struct ldr_id id;

    cfg.inline_bytes = 10000;
    begin();
    cr_assert(eq(int, put_record("mem://b/k", block_of(70000)), LARDER_OK));
    id = last.c.record.id;
    cr_assert(eq(int, put_record("mem://b/k", small(big, sizeof big)), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, find("mem://b/k", &r), LARDER_NOT_FOUND), "older bytes must not outlive newer ones");
    cr_expect(not(ldr_reader_has_block(reader, &id, 0)));
    EXPECT_HELD(0, 0, 0);
    cr_expect(eq(u64, stats().inline_charge, 0));
}

Test(index, a_budget_that_the_map_of_an_older_header_cannot_hold_is_the_maps)
{
    uint64_t map;

    cfg.inline_bytes = LDR_MIB;
    begin();
    map = hdr->mapsize;
    end_index();
    cfg.inline_bytes = LDR_GIB; /* the configuration was changed; the header's map is constant */
    begin();
    cr_expect(eq(u64, hdr->mapsize, map));
    for (int i = 0; i < 60; i++) {
        struct test_change t[256];
        static char big[16000], keys[256][32];
        size_t refused = 0;

        for (int j = 0; j < 256; j++) {
            snprintf(keys[j], sizeof keys[j], "mem://b/%d/%d", i, j);
            prepare(&t[j], LDR_CHANGE_PUT, keys[j]);
            t[j].c.record = small(big, sizeof big);
            ldr_index_change(x, &t[j].c);
        }
        for (int j = 0; j < 256; j++) {
            wait_for(&t[j]);
            cr_assert(t[j].c.kind == LARDER_OK || t[j].c.kind == LARDER_LIMIT_EXCEEDED);
            refused += t[j].c.kind != LARDER_OK;
        }
        if (refused == 256)
            break;
    }
    cr_expect(le(u64, stats().inline_charge, map / 2), "half of the map is for what changes");
}

/* ---- objects of many blocks ---- */

#define LOG2 16 /* blocks of 64 KiB */

static struct ldr_record blocks_of(uint64_t size)
{
    struct ldr_record r = block_of(size);

    r.block_log2 = LOG2;
    return r;
}

static enum larder_kind change_block(enum ldr_change_what what, const char *key, const struct ldr_record *r,
                                     uint32_t block, struct ldr_hold *hold)
{
    prepare(&last, what, key);
    last.c.record = *r;
    last.c.block = block;
    last.c.block_hash = 77;
    last.c.hold = hold;
    return carry_out(&last);
}

/* All blocks, of which the files are not made. */
static struct ldr_record put_blocks(const char *key, uint64_t size)
{
    struct ldr_record r = blocks_of(size);

    cr_assert(eq(int, change_block(LDR_CHANGE_PUT, key, &r, 0, NULL), LARDER_OK), "%s", last.c.err.msg);
    for (uint32_t i = 1; i < ldr_record_blocks(&r); i++)
        cr_assert(eq(int, change_block(LDR_CHANGE_BLOCK, key, &r, i, NULL), LARDER_OK), "%s", last.c.err.msg);
    return r;
}

Test(index, each_block_of_an_object_is_counted_with_its_own_length)
{
    struct ldr_record r;
    uint8_t there[8];

    begin();
    r = put_blocks("mem://b/k", 3 * 65536 + 5000);
    EXPECT_HELD(1, 4, 3 * 65536 + 8192);
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, 8, there), 4));
    cr_expect(eq(int, memcmp(there, "\1\1\1\1\0\0\0\0", 8), 0));
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 2, 1, there), 1));
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 4, 4, there), 0));
    cr_expect(eq(u64, stats().evictable, 4));
    put("mem://b/k", "small now");
    EXPECT_HELD(1, 0, 0);
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, 8, there), 0));
    cr_expect(eq(u64, stats().evictable, 1));
}

Test(index, blocks_may_come_in_any_order_and_some_of_them_never)
{
    struct ldr_record r, found;
    uint8_t there[16];

    begin();
    r = blocks_of(16 * 65536);
    change_block(LDR_CHANGE_PUT, "mem://b/k", &r, 9, NULL);
    change_block(LDR_CHANGE_BLOCK, "mem://b/k", &r, 3, NULL);
    change_block(LDR_CHANGE_BLOCK, "mem://b/k", &r, 12, NULL);
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, 16, there), 3));
    cr_expect(there[3] && there[9] && there[12]);
    cr_expect(eq(int, find("mem://b/k", &found), LARDER_OK));
    cr_assert(eq(int, change_block(LDR_CHANGE_BLOCK, "mem://b/k", &r, 3, NULL), LARDER_OK), "twice");
    EXPECT_HELD(1, 3, 3 * 65536);
    again();
    EXPECT_HELD(1, 3, 3 * 65536);
    remove_key("mem://b/k");
    EXPECT_HELD(0, 0, 0);
    cr_expect(eq(u64, stats().inline_charge, 0));
}

Test(index, an_object_of_the_most_blocks_is_replaced_in_one_transaction)
{
    struct test_change *t = calloc(LDR_BLOCKS_MAX, sizeof *t);
    struct ldr_record r;
    uint64_t commits;
    static uint8_t there[LDR_BLOCKS_MAX];

    begin();
    r = blocks_of(LDR_BLOCKS_MAX * UINT64_C(65536));
    for (uint32_t i = 0; i < LDR_BLOCKS_MAX; i++) {
        prepare(&t[i], i ? LDR_CHANGE_BLOCK : LDR_CHANGE_PUT, "mem://b/k");
        t[i].c.record = r;
        t[i].c.block = i;
        ldr_index_change(x, &t[i].c);
    }
    for (uint32_t i = 0; i < LDR_BLOCKS_MAX; i++) {
        wait_for(&t[i]);
        cr_assert(eq(int, t[i].c.kind, LARDER_OK));
    }
    EXPECT_HELD(1, LDR_BLOCKS_MAX, LDR_BLOCKS_MAX * UINT64_C(65536));
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, LDR_BLOCKS_MAX, there), LDR_BLOCKS_MAX));
    commits = atomic_load(&counters.commits);
    put("mem://b/k", "x");
    cr_expect(eq(u64, atomic_load(&counters.commits), commits + 1));
    EXPECT_HELD(1, 0, 0);
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, LDR_BLOCKS_MAX, there), 0));
    remove_key("mem://b/k");
    cr_expect(eq(u64, stats().inline_charge, 0));
    free(t);
}

Test(index, a_block_of_another_version_is_refused)
{
    struct ldr_record old, now;
    atomic_bool skip = true;

    begin();
    old = put_blocks("mem://b/k", 65536);
    now = put_blocks("mem://b/k", 3 * 65536);
    cr_expect(eq(int, change_block(LDR_CHANGE_BLOCK, "mem://b/k", &old, 0, NULL), LARDER_CANCELLED));
    cr_expect(eq(int, change_block(LDR_CHANGE_BLOCK, "mem://b/none", &now, 0, NULL), LARDER_CANCELLED));
    prepare(&last, LDR_CHANGE_BLOCK, "mem://b/k");
    last.c.record = now;
    last.c.skip = &skip;
    cr_expect(eq(int, carry_out(&last), LARDER_CANCELLED));
    EXPECT_HELD(1, 3, 3 * 65536);
}

Test(index, a_damaged_block_goes_alone_and_the_last_one_takes_the_record_along)
{
    struct ldr_record r, found;
    uint8_t there[3];

    begin();
    r = put_blocks("mem://b/k", 3 * 65536);
    cr_expect(eq(int, change_block(LDR_CHANGE_UNBLOCK, "mem://b/k", &r, 1, NULL), LARDER_OK));
    cr_expect(eq(int, change_block(LDR_CHANGE_UNBLOCK, "mem://b/k", &r, 1, NULL), LARDER_OK), "twice");
    EXPECT_HELD(1, 2, 2 * 65536);
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, 3, there), 2));
    cr_expect(not(there[1]));
    change_block(LDR_CHANGE_UNBLOCK, "mem://b/k", &r, 0, NULL);
    cr_expect(eq(int, find("mem://b/k", &found), LARDER_OK));
    change_block(LDR_CHANGE_UNBLOCK, "mem://b/k", &r, 2, NULL);
    cr_expect(eq(int, find("mem://b/k", &found), LARDER_NOT_FOUND));
    EXPECT_HELD(0, 0, 0);
    cr_expect(eq(u64, stats().inline_charge, 0));
    cr_expect(eq(u64, stats().evictable, 0));
}

Test(index, an_intent_left_behind_takes_all_blocks_with_it)
{
    struct ldr_record r;
    uint8_t there[20];

    begin();
    put_blocks("mem://b/other", 5 * 65536);
    r = put_blocks("mem://b/k", 20 * 65536);
    intend("mem://b/k");
    again();
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, 20, there), 0));
    EXPECT_HELD(1, 5, 5 * 65536);
}

/* ---- block files ---- */

static void begin_with_blocks(uint64_t most)
{
    signal(SIGIO, SIG_IGN); /* as the agent does: a lease break would end the process */
    with_blocks = true;
    max_bytes = most;
    cfg.block_size = 65536;
    cfg.inline_bytes = LDR_MIB;
    begin();
}

static struct ldr_mailbox answers;

/* Room for one file, waited for; OK: it is reserved. */
static enum larder_kind wait_for_room(uint64_t size, struct ldr_mailbox *box)
{
    struct ldr_want w = { .box = box, .size = size };
    struct ldr_task *t;

    ldr_space_want(&space, &w);
    t = ldr_mailbox_take(box, ldr_mono_ns() + 60 * LDR_NS_PER_S);
    if (t != &w.task)
        abort();
    return w.kind;
}

static enum larder_kind room(uint64_t size)
{
    enum larder_kind k;

    ldr_mailbox_init(&answers, NULL, NULL);
    k = wait_for_room(size, &answers);
    ldr_mailbox_release(&answers);
    return k;
}

/* Fill and link a block whose room is reserved. */
static void make_file(const struct ldr_record *r, uint32_t block)
{
    static const uint8_t zero[65536];
    uint64_t len = ldr_record_block_len(r, block);
    struct ldr_fill fill;
    bool ok = ldr_fill_open(&blocks, len, true, &fill, NULL) == LARDER_OK;

    if (!ok || ldr_fill_write(&fill, zero, len, NULL) || ldr_fill_seal(&fill, NULL) ||
        ldr_fill_link(&fill, &r->id, block, NULL))
        abort();
    ldr_fill_close(&fill);
}

static bool has_file(const struct ldr_record *r, uint32_t block)
{
    return ldr_blocks_intact(&blocks, r, block);
}

static enum larder_kind cache_held(const char *key, struct ldr_record *r, struct ldr_hold *hold)
{
    enum larder_kind k = LARDER_OK;

    for (uint32_t i = 0; i < ldr_record_blocks(r) && !k; i++) {
        k = room(ldr_record_block_len(r, i));
        if (k)
            break;
        make_file(r, i);
        k = change_block(i ? LDR_CHANGE_BLOCK : LDR_CHANGE_PUT, key, r, i, hold);
    }
    return k;
}

/* An object with all its files. */
static struct ldr_record cache_object(const char *key, uint64_t size)
{
    struct ldr_record r = blocks_of(size);

    cr_assert(eq(int, cache_held(key, &r, NULL), LARDER_OK), "%s", last.c.err.msg);
    return r;
}

/* Wait until eviction has made the room that it keeps ready, or nothing can go, and files that are dropped are gone. */
static void drain(void)
{
    int64_t until = ldr_mono_ns() + 30 * LDR_NS_PER_S;
    struct ldr_space_short need;
    uint64_t evicted;

    do {
        evicted = atomic_load(&counters.evicted_blocks);
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
        ldr_space_short(&space, &need);
    } while ((need.leaving || evicted != atomic_load(&counters.evicted_blocks)) && ldr_mono_ns() < until);
    cr_assert(eq(u64, need.leaving, 0));
}

static uint64_t accounted_for(void)
{
    return fixed() + stats().block_bytes + atomic_load(&space.unlinked_mapped);
}

static void expect_accounted(void)
{
    int64_t until = ldr_mono_ns() + 30 * LDR_NS_PER_S;

    while (atomic_load(&space.bytes) != accounted_for() && ldr_mono_ns() < until)
        sched_yield();
    cr_expect(eq(u64, atomic_load(&space.bytes), accounted_for()));
}

Test(index, files_of_what_is_replaced_or_not_applied_are_unlinked)
{
    struct ldr_record old, now, late;
    atomic_bool skip = true;

    begin_with_blocks(32 * LDR_MIB);
    old = cache_object("mem://b/k", 3 * 65536 + 1);
    cr_expect(has_file(&old, 0) && has_file(&old, 3));
    now = cache_object("mem://b/k", 65536);
    drain();
    for (uint32_t i = 0; i < 4; i++)
        cr_expect(not(has_file(&old, i)), "%u", (unsigned)i);
    cr_expect(has_file(&now, 0));
    late = blocks_of(2 * 65536);
    cr_assert(eq(int, room(65536), LARDER_OK));
    make_file(&late, 1);
    cr_expect(eq(int, change_block(LDR_CHANGE_BLOCK, "mem://b/k", &late, 1, NULL), LARDER_CANCELLED));
    cr_assert(eq(int, room(65536), LARDER_OK));
    make_file(&late, 0);
    prepare(&last, LDR_CHANGE_PUT, "mem://b/k");
    last.c.record = late;
    last.c.skip = &skip;
    cr_expect(eq(int, carry_out(&last), LARDER_CANCELLED));
    drain();
    cr_expect(not(has_file(&late, 0)));
    cr_expect(not(has_file(&late, 1)));
    cr_expect(has_file(&now, 0));
    expect_accounted();
}

Test(index, a_block_that_was_taken_away_can_be_filled_again_at_once)
{
    struct ldr_record r;

    begin_with_blocks(32 * LDR_MIB);
    r = cache_object("mem://b/k", 2 * 65536);
    for (int i = 0; i < 50; i++) {
        change_block(LDR_CHANGE_UNBLOCK, "mem://b/k", &r, 1, NULL);
        cr_assert(eq(int, room(65536), LARDER_OK));
        make_file(&r, 1); /* the name is free when `done` is called */
        cr_assert(eq(int, change_block(LDR_CHANGE_BLOCK, "mem://b/k", &r, 1, NULL), LARDER_OK));
    }
    drain();
    cr_expect(has_file(&r, 1));
    expect_accounted();
}

/* ---- eviction ---- */

Test(index, what_is_not_read_goes_when_room_is_needed_and_some_is_kept_ready)
{
    struct ldr_record first, r = { 0 }, found;

    begin_with_blocks(8 * LDR_MIB);
    first = cache_object("mem://b/first", 65536);
    for (int i = 0; i < 400; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        r = cache_object(key, 65536);
        cr_assert(le(u64, atomic_load(&space.bytes), max_bytes));
    }
    cr_expect(eq(int, find("mem://b/first", &found), LARDER_NOT_FOUND), "its record goes with the last block");
    cr_expect(not(has_file(&first, 0)));
    cr_expect(has_file(&r, 0));
    cr_expect(gt(u64, atomic_load(&counters.evicted_blocks), 250));
    cr_expect(eq(u64, atomic_load(&counters.evicted_objects), atomic_load(&counters.evicted_blocks)));
    cr_expect(eq(u64, atomic_load(&counters.evicted_bytes), 65536 * atomic_load(&counters.evicted_blocks)));
    cr_expect(gt(u64, stats().blocks, 60), "not more than is needed");
    expect_accounted();
}

Test(index, blocks_of_one_object_go_one_by_one)
{
    struct ldr_record r = { 0 }, found;
    uint8_t there[96];
    uint32_t n;

    begin_with_blocks(12 * LDR_MIB);
    r = cache_object("mem://b/large", 96 * 65536);
    cache_object("mem://b/more", 80 * 65536);
    drain();
    n = ldr_reader_blocks(reader, &r.id, 0, 96, there);
    cr_expect(n > 0 && n < 96, "%u", n);
    cr_expect(eq(int, find("mem://b/large", &found), LARDER_OK));
    for (uint32_t i = 0; i < 96; i++)
        cr_expect(eq(int, there[i], has_file(&r, i)), "%u", i);
    expect_accounted();
}

Test(index, max_files_makes_them_go_too)
{
    max_files = 40;
    begin_with_blocks(64 * LDR_MIB);
    for (int i = 0; i < 200; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 20000);
        cr_assert(le(u64, atomic_load(&space.files), max_files - LDR_SPACE_FIXED_FILES));
    }
    cr_expect(gt(u64, stats().blocks, 20));
    expect_accounted();
}

Test(index, what_was_read_stays_longer)
{
    struct ldr_record read, found;
    struct ldr_touch touch;

    begin_with_blocks(8 * LDR_MIB);
    cr_assert(ldr_touch_open(&touch, d->dirfd, hdr->touch_bits));
    read = cache_object("mem://b/read", 65536);
    for (int i = 0; i < 300; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 65536);
        ldr_touch_visit(&touch, &read.id, 0, 1);
    }
    ldr_touch_close(&touch);
    cr_expect(eq(int, find("mem://b/read", &found), LARDER_OK));
    cr_expect(has_file(&read, 0));
}

Test(index, what_is_held_stays_and_who_needs_its_room_is_told)
{
    struct ldr_hold *hold = ldr_hold_new(0, UINT32_MAX);
    struct ldr_record r, found;
    int n = 0;

    begin_with_blocks(8 * LDR_MIB);
    for (;; n++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", n);
        r = blocks_of(65536);
        if (cache_held(key, &r, hold))
            break;
    }
    cr_expect(gt(int, n, 60));
    cr_expect(eq(u64, atomic_load(&counters.evicted_blocks), 0));
    cr_expect(eq(u64, stats().blocks, (uint64_t)n));
    /* It ends by itself: nobody is sent away any more, they wait. */
    atomic_store(&hold->until_ns, ldr_mono_ns() + 300 * LDR_NS_PER_MS);
    cr_expect(eq(int, cache_held("mem://b/later", &r, NULL), LARDER_OK));
    cr_expect(ge(i64, ldr_mono_ns(), atomic_load(&hold->until_ns)));
    cr_expect(eq(int, find("mem://b/later", &found), LARDER_OK));
    ldr_hold_unref(&hold);
    expect_accounted();
}

Test(index, blocks_that_are_there_can_be_held_without_a_transaction)
{
    struct ldr_hold *hold = ldr_hold_new(10, 19);
    struct ldr_record r;
    uint8_t there[100];
    uint64_t commits;

    begin_with_blocks(8 * LDR_MIB);
    r = cache_object("mem://b/held", 60 * 65536);
    again(); /* eviction may not know it yet */
    commits = atomic_load(&counters.commits);
    cr_expect(eq(int, change_block(LDR_CHANGE_HOLD, "mem://b/held", &r, 0, hold), LARDER_OK));
    cr_expect(eq(u64, atomic_load(&counters.commits), commits));
    cr_expect(eq(uint, atomic_load(&hold->refs), 2));
    for (int i = 0; i < 200; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 65536);
    }
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 0, 60, there), 10));
    cr_expect(eq(u32, ldr_reader_blocks(reader, &r.id, 10, 10, there), 10));
    remove_key("mem://b/held");
    cr_expect(eq(uint, atomic_load(&hold->refs), 1));
    cr_expect(eq(int, change_block(LDR_CHANGE_HOLD, "mem://b/held", &r, 0, hold), LARDER_OK), "gone: nothing");
    cr_expect(eq(uint, atomic_load(&hold->refs), 1));
    ldr_hold_unref(&hold);
}

/* A process that maps the blocks which it is told, until it is ended. */
static pid_t mapper(const struct ldr_record *r, size_t n)
{
    int ready[2];
    char c;
    pid_t pid;

    cr_assert(pipe(ready) == 0);
    pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < n; i++) {
            int fd = ldr_blocks_open(&blocks, &r[i], 0);
            void *p = mmap(NULL, 65536, PROT_READ, MAP_SHARED, fd, 0);

            if (fd < 0 || p == MAP_FAILED)
                _exit(1);
            close(fd);
        }
        close(ready[0]);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    cr_assert(read(ready[0], &c, 1) == 1);
    close(ready[0]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    cr_assert(waitpid(pid, NULL, 0) == pid);
}

Test(index, what_a_process_maps_goes_after_all_else)
{
    struct ldr_record mapped[20], r;
    pid_t pid;

    begin_with_blocks(8 * LDR_MIB);
    for (size_t i = 0; i < LDR_ARRAY_LEN(mapped); i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/mapped/%zu", i);
        mapped[i] = cache_object(key, 65536);
    }
    pid = mapper(mapped, LDR_ARRAY_LEN(mapped));
    cr_expect(ldr_blocks_mapped(&blocks, &mapped[0].id, 0));
    for (int i = 0; i < 200; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 65536);
    }
    cr_expect(gt(u64, atomic_load(&counters.evicted_blocks), 80));
    for (size_t i = 0; i < LDR_ARRAY_LEN(mapped); i++)
        cr_expect(has_file(&mapped[i], 0));
    cr_expect(eq(u64, atomic_load(&space.unlinked_mapped), 0));
    end(pid);
    cr_expect(not(ldr_blocks_mapped(&blocks, &mapped[0].id, 0)));
    r = cache_object("mem://b/last", 65536);
    cr_expect(has_file(&r, 0));
    expect_accounted();
}

Test(index, what_is_mapped_and_evicted_counts_until_it_is_not_mapped_any_more)
{
    struct ldr_record mapped[128];
    int64_t until = ldr_mono_ns() + 30 * LDR_NS_PER_S;
    uint64_t pressure;
    size_t n = 0;
    pid_t pid;

    begin_with_blocks(8 * LDR_MIB);
    for (; n < LDR_ARRAY_LEN(mapped); n++) {
        char key[32];

        if (atomic_load(&space.bytes) + 65536 + space.headroom_bytes > max_bytes)
            break;
        snprintf(key, sizeof key, "mem://b/mapped/%zu", n);
        mapped[n] = cache_object(key, 65536);
    }
    cr_assert(gt(sz, n, 20));
    pressure = atomic_load(&hdr->pressure);
    pid = mapper(mapped, n);
    cr_expect(eq(int, room(20 * 65536), LARDER_LIMIT_EXCEEDED), "all is mapped");
    drain();
    cr_expect(gt(u64, atomic_load(&space.unlinked_mapped), 0));
    cr_expect(lt(u64, atomic_load(&space.unlinked_mapped), 24 * 65536), "not more than was needed");
    cr_expect(gt(u64, atomic_load(&hdr->pressure), pressure), "readers are asked to let go");
    cr_expect(le(u64, atomic_load(&space.bytes), max_bytes));
    expect_accounted();
    ldr_blocks_tick(&blocks);
    end(pid);
    while (atomic_load(&space.unlinked_mapped) && ldr_mono_ns() < until) {
        ldr_blocks_tick(&blocks);
        sched_yield();
    }
    cr_expect(eq(u64, atomic_load(&space.unlinked_mapped), 0));
    cr_expect(eq(int, room(20 * 65536), LARDER_OK));
    ldr_space_release(&space, 20 * 65536);
    expect_accounted();
}

Test(index, when_others_fill_the_disk_all_of_it_goes)
{
    int64_t until = ldr_mono_ns() + 30 * LDR_NS_PER_S;
    struct statvfs v;

    begin_with_blocks(32 * LDR_MIB);
    for (int i = 0; i < 100; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 65536);
    }
    put("mem://b/small", "stays: data.mdb does not shrink");
    cr_assert(fstatvfs(d->dirfd, &v) == 0);
    pthread_mutex_lock(&space.mtx); /* what the file system has less: as if somebody had written to it */
    space.min_free_bytes = v.f_bavail * v.f_frsize + 64 * LDR_GIB;
    pthread_mutex_unlock(&space.mtx);
    ldr_index_tick(x);
    while (stats().blocks && ldr_mono_ns() < until)
        sched_yield();
    EXPECT_HELD(1, 0, 0);
    cr_expect(eq(int, room(65536), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, put("mem://b/small", "and can be replaced"), LARDER_OK));
}

Test(index, records_of_blocks_that_fill_the_inline_budget_make_blocks_go)
{
    begin_with_blocks(64 * LDR_MIB);
    end_index();
    cfg.inline_bytes = 40000;
    begin();
    for (int i = 0; i < 300; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 20000);
        cr_assert(le(u64, stats().inline_charge, cfg.inline_bytes));
    }
    cr_expect(gt(u64, stats().blocks, 80));
    cr_expect(eq(int, put("mem://b/small", "finds room"), LARDER_OK));
    expect_accounted();
}

Test(index, an_object_of_very_many_blocks_does_not_stop_what_is_read_back_after_a_restart)
{
    begin_with_blocks(128 * LDR_MIB);
    cache_object("mem://b/1-of-very-many", UINT64_C(1100) * 65536);
    cache_object("mem://b/2-behind-it", 65536);
    again();
    cr_assert(all_restored());
    cr_expect(eq(u64, stats().evictable, 1101));
    cr_expect(eq(int, put("mem://b/small", "the thread goes on"), LARDER_OK));
}

Test(index, after_a_restart_what_was_there_can_be_evicted)
{
    struct ldr_record r, found;

    begin_with_blocks(8 * LDR_MIB);
    r = cache_object("mem://b/of-many", 30 * 65536);
    for (int i = 0; i < 30; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 65536);
        snprintf(key, sizeof key, "mem://b/small/%d", i);
        put(key, "small");
    }
    again();
    cr_assert(all_restored());
    cr_expect(eq(u64, stats().evictable, 90));
    for (int i = 0; i < 200; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/new/%d", i);
        cache_object(key, 65536);
    }
    cr_expect(eq(int, find("mem://b/of-many", &found), LARDER_NOT_FOUND));
    cr_expect(not(has_file(&r, 0)));
    cr_expect(not(has_file(&r, 29)));
    cr_expect(holds("mem://b/small/7", "small"));
    expect_accounted();
}

Test(index, a_lower_limit_is_kept_after_a_restart)
{
    int64_t until = ldr_mono_ns() + 30 * LDR_NS_PER_S;

    begin_with_blocks(32 * LDR_MIB);
    for (int i = 0; i < 200; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        cache_object(key, 65536);
    }
    end_index();
    max_bytes = 8 * LDR_MIB;
    begin();
    while (atomic_load(&space.bytes) > max_bytes && ldr_mono_ns() < until)
        sched_yield();
    cr_expect(le(u64, atomic_load(&space.bytes), max_bytes), "nobody had to ask");
    expect_accounted();
}

#define FILL_THREADS 4
#define FILL_ROUNDS  150

struct filler {
    pthread_t thread;
    unsigned number;
    unsigned cached;
};

struct posted {
    struct ldr_change c;
    sem_t done;
};

static void posted_done(struct ldr_change *c)
{
    sem_post(&LDR_CONTAINER(c, struct posted, c)->done);
}

static void *fill_much(void *user)
{
    struct filler *f = user;
    struct ldr_mailbox box;

    ldr_mailbox_init(&box, NULL, NULL);
    for (unsigned i = 0; i < FILL_ROUNDS; i++) {
        struct ldr_record r = blocks_of(1 + (i * 7919 + f->number * 104729) % 65536);
        struct posted p = { .c = { .what = LDR_CHANGE_PUT, .record = r, .done = posted_done } };
        char key[40];

        if (wait_for_room(r.size_bytes, &box))
            continue;
        make_file(&r, 0);
        snprintf(key, sizeof key, "mem://b/%u/%u", f->number, i);
        p.c.key = key;
        p.c.key_len = strlen(key);
        sem_init(&p.done, 0, 0);
        ldr_index_change(x, &p.c);
        while (sem_wait(&p.done))
            ;
        f->cached += p.c.kind == LARDER_OK;
    }
    ldr_mailbox_release(&box);
    return NULL;
}

/* The test's own small file system, whose figures are the cache's alone. False: no right to mount here. */
static bool mount_small(const char *options)
{
    return mount("tmpfs", dir, "tmpfs", 0, options) == 0;
}

#define SMALL_FILES (64 * LDR_KIB) /* agent.lock, format, hdr, lock.mdb and the like */

/* Threads fill while the file system is asked without pause. Limits of bytes and files, or of free bytes. */
static void fill_and_sample(bool own_fs)
{
    struct filler f[FILL_THREADS] = { { 0 } };
    unsigned cached = 0, samples = 0;
    uint64_t most_bytes = 0, most_files = 0, least_free = UINT64_MAX, most_ledger = 0, inodes;
    struct statvfs v;

    cr_assert(fstatvfs(d->dirfd, &v) == 0);
    inodes = v.f_files - v.f_ffree;
    for (unsigned i = 0; i < FILL_THREADS; i++) {
        f[i].number = i;
        cr_assert(pthread_create(&f[i].thread, NULL, fill_much, &f[i]) == 0);
    }
    for (unsigned i = 0; i < FILL_THREADS; samples++) {
        uint64_t ledger = atomic_load(&space.bytes);

        fstatvfs(d->dirfd, &v);
        if (ledger > most_ledger)
            most_ledger = ledger;
        if ((v.f_blocks - v.f_bfree) * v.f_frsize > most_bytes)
            most_bytes = (v.f_blocks - v.f_bfree) * v.f_frsize;
        if (v.f_files - v.f_ffree - inodes > most_files)
            most_files = v.f_files - v.f_ffree - inodes;
        if (v.f_bavail * v.f_frsize < least_free)
            least_free = v.f_bavail * v.f_frsize;
        if (pthread_tryjoin_np(f[i].thread, NULL) == 0)
            cached += f[i++].cached;
    }
    cr_expect(le(u64, most_ledger, max_bytes));
    if (own_fs) {
        cr_expect(le(u64, most_bytes, max_bytes + SMALL_FILES));
        cr_expect(le(u64, most_files, max_files));
        cr_expect(ge(u64, least_free, min_free));
    }
    cr_expect(gt(uint, samples, 100));
    cr_expect(ge(uint, cached, FILL_THREADS * FILL_ROUNDS * 9 / 10), "%u", cached);
    cr_expect(gt(u64, atomic_load(&counters.evicted_blocks), 100));
    expect_accounted();
    end_index();
    if (own_fs)
        umount2(dir, MNT_DETACH);
}

Test(index, limits_of_bytes_and_files_hold_at_every_instant_while_threads_fill)
{
    bool own_fs = mount_small("size=64m");

    max_files = 120;
    begin_with_blocks(6 * LDR_MIB);
    fill_and_sample(own_fs);
}

Test(index, free_space_is_kept_at_every_instant_while_threads_fill)
{
    if (!mount_small("size=10m")) {
        remove_dir(); /* a skipped test has no end of its own */
        cr_skip_test("a small file system of its own is needed: run the tests as root");
    }
    min_free = 4 * LDR_MIB;
    begin_with_blocks(64 * LDR_MIB);
    fill_and_sample(true);
}

Test(index, nothing_starts_that_could_fill_the_root_file_system)
{
    struct stat root, here;

    max_bytes = UINT64_MAX / 2;
    cr_assert(stat("/", &root) == 0 && stat(dir, &here) == 0);
    if (root.st_dev != here.st_dev) {
        remove_dir(); /* a skipped test has no end of its own */
        cr_skip_test("not on the root file system");
    }
    cr_expect(eq(int, open_index(), LARDER_INVALID));
    cr_expect(x == NULL);
    ldr_cache_dir_close(&d);
    min_free = LDR_MIB;
    cr_expect(eq(int, open_index(), LARDER_OK), "%s", err.msg);
}

/* ---- prefixes ---- */

Test(index, a_prefix_keeps_its_slot_over_restarts)
{
    uint64_t hits, bytes;

    cr_assert(eq(int, open_index(), LARDER_OK));
    cr_expect(eq(uint, ldr_index_prefix_slot(x, "s3://a/"), 1));
    cr_expect(eq(uint, ldr_index_prefix_slot(x, "s3://b/"), 2));
    cr_expect(eq(uint, ldr_index_prefix_slot(x, "s3://a/"), 1));
    cr_assert(eq(int, ldr_index_repair(x, (const char *const[]){ NULL }, &err), LARDER_OK));
    start_index();
    end_index();
    cr_assert(eq(int, open_index(), LARDER_OK));
    cr_expect(eq(uint, ldr_index_prefix_slot(x, "s3://c/"), 3));
    cr_expect(eq(uint, ldr_index_prefix_slot(x, "s3://b/"), 2));
    cr_expect(eq(str, (char *)ldr_index_prefix_hits(x, 0, &hits, &bytes), (char *)""));
    cr_expect(eq(str, (char *)ldr_index_prefix_hits(x, 1, &hits, &bytes), (char *)"s3://a/"));
    cr_expect(ldr_index_prefix_hits(x, 4, &hits, &bytes) == NULL);
    cr_expect(eq(u64, hits, 0));
}

Test(index, prefixes_beyond_the_last_slot_are_counted_together)
{
    char match[32];

    cr_assert(eq(int, open_index(), LARDER_OK));
    for (unsigned i = 1; i < LDR_TOUCH_PREFIXES; i++) {
        snprintf(match, sizeof match, "s3://%u/", i);
        cr_assert(eq(uint, ldr_index_prefix_slot(x, match), i));
    }
    cr_expect(eq(uint, ldr_index_prefix_slot(x, "s3://one-more/"), 0));
    cr_expect(eq(uint, ldr_index_prefix_slot(x, ""), 0));
    cr_expect(eq(uint, ldr_index_prefix_slot(x, "s3://7/"), 7));
}

static uint64_t hits_of(unsigned i, uint64_t want)
{
    int64_t until = ldr_mono_ns() + 30 * LDR_NS_PER_S;
    uint64_t hits = 0, bytes = 0;

    do {
        ldr_index_tick(x);
        ldr_index_prefix_hits(x, i, &hits, &bytes);
        sched_yield();
    } while (hits < want && ldr_mono_ns() < until);
    return hits;
}

Test(index, hits_that_readers_count_are_gathered_at_each_tick_and_begin_anew_with_the_agent)
{
    struct ldr_touch touch;
    uint64_t hits, bytes;

    cr_assert(eq(int, open_index(), LARDER_OK));
    cr_assert(eq(uint, ldr_index_prefix_slot(x, "s3://a/"), 1));
    start_index();
    cr_assert(ldr_touch_open(&touch, d->dirfd, hdr->touch_bits));
    for (int i = 0; i < 50; i++)
        ldr_touch_count(&touch, 1, 1000);
    ldr_touch_count(&touch, 0, 7);
    cr_expect(eq(u64, hits_of(1, 50), 50));
    cr_expect(eq(u64, hits_of(0, 1), 1));
    ldr_index_prefix_hits(x, 1, &hits, &bytes);
    cr_expect(eq(u64, bytes, 50000));
    ldr_touch_close(&touch);
    again();
    cr_assert(ldr_touch_open(&touch, d->dirfd, hdr->touch_bits), "it was kept");
    ldr_touch_count(&touch, 1, 1);
    cr_expect(eq(u64, hits_of(1, 1), 1));
    ldr_touch_close(&touch);
}

/* ---- figures ---- */

Test(index, figures_are_right_after_every_step_and_after_a_restart)
{
    struct ldr_index_stats before;

    begin();
    EXPECT_HELD(0, 0, 0);
    for (int i = 0; i < 40; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        if (i % 2)
            put_record(key, block_of((uint64_t)i * 5000));
        else
            put(key, "small");
        cr_assert(eq(u64, stats().objects, (uint64_t)i + 1));
        cr_assert(eq(u64, stats().blocks, ((uint64_t)i + 1) / 2));
    }
    before = stats();
    cr_expect(gt(u64, before.inline_charge, 40 * LDR_RECORD_FIXED));
    again();
    cr_assert(all_restored());
    cr_expect(eq(u64, stats().inline_charge, before.inline_charge));
    cr_expect(eq(u64, stats().evictable, before.evictable));
    EXPECT_HELD(before.objects, before.blocks, before.block_bytes);
    for (int i = 0; i < 40; i++) {
        char key[32];

        snprintf(key, sizeof key, "mem://b/%d", i);
        remove_key(key);
    }
    EXPECT_HELD(0, 0, 0);
    cr_expect(eq(u64, stats().inline_charge, 0));
}

/* ---- ids ---- */

Test(index, ids_are_of_this_run_and_no_two_are_alike)
{
    struct ldr_id a, b, other;

    begin();
    a = ldr_index_new_id(x);
    b = ldr_index_new_id(x);
    cr_expect(ne(int, memcmp(&a, &b, sizeof a), 0));
    cr_expect(ne(int, a.b[15], b.b[15]), "the last byte, which names the folder, changes fastest");
    cr_expect(ldr_index_own_id(x, &a) && ldr_index_own_id(x, &b));
    again();
    other = ldr_index_new_id(x);
    cr_expect(not(ldr_index_own_id(x, &a)), "a run before this one");
    cr_expect(ne(int, memcmp(&a, &other, sizeof a), 0));
}

/* ---- kills ---- */

struct progress {
    atomic_uint answered, ready;
};

/* An agent that puts K0, K1, … and says how far it got, until it is killed. */
_Noreturn static void be_killed(struct progress *p)
{
    begin();
    atomic_store(&p->ready, 1);
    for (unsigned i = 0;; i++) {
        char key[32], text[32];

        snprintf(key, sizeof key, "mem://b/%u", i);
        snprintf(text, sizeof text, "text of %u", i);
        if (i % 5 == 4) { /* some are overwritten and some removed as well */
            snprintf(key, sizeof key, "mem://b/%u", i - 2);
            remove_key(key);
        } else if (put(key, text)) {
            _exit(1);
        }
        atomic_store(&p->answered, i + 1);
    }
}

Test(index, every_change_that_was_answered_survives_a_kill)
{
    struct progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    cr_assert(p != MAP_FAILED);
    for (int round = 0; round < 8; round++) {
        unsigned n, wrong = 0;
        pid_t pid;

        *p = (struct progress){ 0 };
        test_dir_remove(dir);
        make_dir();
        pid = fork();
        if (pid == 0)
            be_killed(p);
        while (atomic_load(&p->answered) < 50 + (unsigned)round * 37)
            nanosleep(&(struct timespec){ .tv_nsec = 100000 + 37000 * round }, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        begin();
        cr_assert(not(d->new_generation));
        n = atomic_load(&p->answered);
        for (unsigned i = 0; i < n; i++) {
            char key[32], text[32];
            bool removed = i % 5 == 2 && i + 2 < n;

            snprintf(key, sizeof key, "mem://b/%u", i);
            snprintf(text, sizeof text, "text of %u", i);
            if (i % 5 != 4 && !(i % 5 == 2 && i + 2 == n)) /* the one that was under way may be either */
                wrong += removed ? find(key, &last.c.record) != LARDER_NOT_FOUND : !holds(key, text);
        }
        cr_expect(eq(uint, wrong, 0), "of %u in round %d", n, round);
        end_index();
    }
    munmap(p, sizeof *p);
}

/* ---- damage ---- */

static void overwrite(const char *name, off_t at, size_t n)
{
    char path[TEST_DIR_MAX + 64], junk[4096];
    int fd;

    memset(junk, 0xa5, sizeof junk);
    snprintf(path, sizeof path, "%s/%s", cache, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    cr_assert(fd >= 0 && pwrite(fd, junk, n, at) == (ssize_t)n);
    close(fd);
}

Test(index, a_data_file_that_is_no_lmdb_costs_the_generation_and_not_the_next_start)
{
    begin();
    put("mem://b/k", "x");
    end_index();
    overwrite("gen-1/data.mdb", 0, 4096);
    overwrite("gen-1/data.mdb", 4096, 4096);
    cr_assert(eq(int, open_index(), LARDER_CORRUPT), "%s", err.msg);
    cr_expect(strstr(err.msg, "next start makes a new one") != NULL, "%s", err.msg);
    cr_expect(x == NULL);
    ldr_cache_dir_close(&d);
    begin();
    cr_expect(d->new_generation);
    EXPECT_HELD(0, 0, 0);
    cr_expect(eq(int, put("mem://b/k", "y"), LARDER_OK));
}

/* The first byte of a record's hash, found by its id. */
static off_t record_offset(const struct ldr_id *id)
{
    char path[TEST_DIR_MAX + 64];
    struct stat st;
    uint8_t *p;
    off_t at = -1;
    int fd;

    snprintf(path, sizeof path, "%s/gen-1/data.mdb", cache);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert(p != MAP_FAILED);
    for (off_t i = 2 * 4096 + 16; at < 0 && i + 16 <= st.st_size; i++)
        if (!memcmp(p + i, id, sizeof *id))
            at = i - 8;
    munmap(p, (size_t)st.st_size);
    close(fd);
    return at;
}

Test(index, a_damaged_record_is_said_and_can_be_removed)
{
    struct ldr_record r;
    struct ldr_id id;

    begin();
    put("mem://b/k", "x");
    id = last.c.record.id;
    end_index();
    overwrite("gen-1/data.mdb", record_offset(&id), 8);
    begin();
    cr_expect(eq(int, find("mem://b/k", &r), LARDER_CORRUPT));
    cr_assert(eq(int, remove_key("mem://b/k"), LARDER_OK));
    cr_expect(eq(int, find("mem://b/k", &r), LARDER_NOT_FOUND));
    cr_expect(eq(u64, stats().objects, 0));
    cr_expect(eq(u64, atomic_load(&counters.damaged), 1));
    cr_expect(eq(int, put("mem://b/k", "anew"), LARDER_OK));
    cr_expect(holds("mem://b/k", "anew"));
}

Test(index, no_byte_of_a_freed_page_or_of_the_heap_reaches_the_file)
{
    char path[TEST_DIR_MAX + 64], secret[] = "a-secret-of-the-heap-0123456789";
    struct stat st;
    uint8_t *p, *heap[64];
    int fd;

    begin();
    for (size_t i = 0; i < LDR_ARRAY_LEN(heap); i++) { /* freed memory that the next pages may be made of */
        heap[i] = malloc(4096);
        for (size_t at = 0; at + sizeof secret < 4096; at += sizeof secret)
            memcpy(heap[i] + at, secret, sizeof secret);
    }
    for (size_t i = 0; i < LDR_ARRAY_LEN(heap); i++)
        free(heap[i]);
    put_all("mem://b/%d", 500);
    snprintf(path, sizeof path, "%s/gen-1/data.mdb", cache);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert(p != MAP_FAILED);
    cr_expect(memmem(p, (size_t)st.st_size, secret, sizeof secret - 1) == NULL);
    munmap(p, (size_t)st.st_size);
    close(fd);
}

/* ---- files ---- */

Test(index, files_have_the_modes_that_clients_need_and_no_more)
{
    static const struct {
        const char *name;
        mode_t mode;
    } files[] = { { "hdr", 0640 }, { "data.mdb", 0640 }, { "lock.mdb", 0600 } };

    umask(0077);
    begin();
    for (size_t i = 0; i < LDR_ARRAY_LEN(files); i++) {
        char path[TEST_DIR_MAX + 64];
        struct stat st;

        snprintf(path, sizeof path, "%s/gen-1/%s", cache, files[i].name);
        cr_assert(stat(path, &st) == 0);
        cr_expect(eq(u32, st.st_mode & 07777, files[i].mode), "%s", files[i].name);
    }
}

Test(index, the_header_is_one_that_clients_read)
{
    begin();
    cr_expect(ldr_hdr_valid(hdr));
    cr_expect(eq(u64, hdr->nonce, ldr_index_nonce(x)));
    cr_expect(eq(u64, hdr->generation, 1));
    cr_expect(eq(u32, hdr->boot, ldr_index_boot(x)));
    cr_expect(eq(u32, hdr->inline_limit, LDR_RECORD_DEFAULT));
    cr_expect(ge(u64, hdr->mapsize, 2 * cfg.inline_bytes + 128 * LDR_MIB));
    cr_expect(ge(u64, atomic_load(&hdr->cur), atomic_load(&hdr->floor)));
}

/* A client that was there before the restart goes on reading while the repair commits, one transaction after another.
 */
Test(index, a_reader_keeps_its_snapshot_through_a_repair)
{
    enum { KEYS = 40000 };
    struct test_change *t = calloc(KEYS, sizeof *t);
    char(*keys)[40] = calloc(KEYS, sizeof *keys), path[TEST_DIR_MAX + 64];
    struct ldr_tree tree = { 0 };
    struct ldr_snap snap;
    unsigned found = 0;
    int tries = LDR_WALK_TRIES, fd;

    cr_assert(t && keys);
    cfg.inline_bytes = 64 * LDR_MIB;
    begin();
    for (unsigned i = 0; i < KEYS; i++) {
        snprintf(keys[i], sizeof keys[i], "file://box/some/prefix/key-%06u", i);
        prepare(&t[i], LDR_CHANGE_PUT, keys[i]);
        t[i].c.record = small("sixteen bytes ..", 16);
        ldr_index_change(x, &t[i].c);
    }
    for (unsigned i = 0; i < KEYS; i++)
        wait_for(&t[i]);
    end_index();

    cr_assert(eq(int, open_index(), LARDER_OK), "%s", err.msg);
    snprintf(path, sizeof path, "%s/gen-%u/hdr", cache, (unsigned)d->format.generation);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    tree.hdr = hdr = mmap(NULL, LDR_HDR_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    cr_assert(hdr != MAP_FAILED);
    snprintf(path, sizeof path, "%s/gen-%u/data.mdb", cache, (unsigned)d->format.generation);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    tree.data = mmap(NULL, hdr->mapsize, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    close(fd);
    cr_assert(tree.data != MAP_FAILED);
    atomic_store(&tree.pages, hdr->mapsize / LDR_PAGE);
    cr_assert(eq(int, ldr_snap_begin(&tree, &tries, &snap), LDR_HIT));

    cr_assert(eq(int, ldr_index_repair(x, (const char *const[]){ "file", NULL }, &err), LARDER_OK), "%s", err.msg);
    for (unsigned i = 0; i < KEYS; i++) {
        const uint8_t *p;
        size_t len;

        found += ldr_snap_find(&snap, keys[i], strlen(keys[i]), &p, &len) == LDR_HIT;
    }
    cr_assert(ldr_snap_valid(&snap), "nothing newer was published");
    cr_expect(eq(u32, found, KEYS));
    munmap((void *)(uintptr_t)tree.data, hdr->mapsize);
    free(keys);
    free(t);
}
