/* index_test.c - changes, batches, what is answered and when; what is left after a kill. */
#include "agent/index.h"
#include "client/walk.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/uri.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX], cache[TEST_DIR_MAX + 8];
static struct ldr_cache_dir *d;
static struct ldr_space space;
static struct ldr_counters counters;
static struct ldr_index_cfg cfg = { .inline_bytes = 16 * LDR_MIB, .inline_limit = LDR_RECORD_DEFAULT };
static struct ldr_index *x;
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
    ldr_index_close(&x);
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

    space = (struct ldr_space){ .max_bytes = LDR_GIB, .max_files = 100000 };
    k = ldr_cache_dir_open(cache, false, 0, &d, &err);
    return k ? k : ldr_index_open(d, &space, &counters, &cfg, &x, &err);
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

#define EXPECT_HELD(n_objects, n_blocks, n_bytes)                                                                      \
    do {                                                                                                               \
        struct ldr_index_stats s_ = stats();                                                                           \
        cr_expect(eq(u64, s_.objects, (n_objects)));                                                                   \
        cr_expect(eq(u64, s_.blocks, (n_blocks)));                                                                     \
        cr_expect(eq(u64, s_.block_bytes, (n_bytes)));                                                                 \
    } while (0)

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

Test(index, a_put_over_another_reports_the_old_version)
{
    struct ldr_id first;

    begin();
    cr_assert(eq(int, put("mem://b/k", "one"), LARDER_OK));
    cr_expect(not(last.c.had_old));
    first = last.c.record.id;
    cr_assert(eq(int, put("mem://b/k", "three"), LARDER_OK));
    cr_expect(last.c.had_old);
    cr_expect(eq(int, memcmp(&last.c.old.id, &first, sizeof first), 0));
    cr_expect(eq(u64, last.c.old.size_bytes, 3));
    cr_expect(last.c.old.payload == NULL && last.c.old.fields == NULL, "they are not valid any more");
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

Test(index, what_is_removed_is_gone_and_is_reported)
{
    struct ldr_record r;
    struct ldr_id id;

    begin();
    put("mem://b/k", "x");
    id = last.c.record.id;
    cr_assert(eq(int, remove_key("mem://b/k"), LARDER_OK));
    cr_expect(last.c.had_old);
    cr_expect(eq(int, memcmp(&last.c.old.id, &id, sizeof id), 0));
    cr_expect(eq(int, find("mem://b/k", &r), LARDER_NOT_FOUND));
    cr_assert(eq(int, remove_key("mem://b/k"), LARDER_OK), "twice");
    cr_expect(not(last.c.had_old));
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
    cr_expect(not(last.c.had_old));
    cr_expect(holds("mem://b/k", "new"));
    old = (find("mem://b/k", &last.c.record), last.c.record.id);
    prepare(&last, LDR_CHANGE_REMOVE, "mem://b/k");
    last.c.only_id = true;
    last.c.record.id = old;
    carry_out(&last);
    cr_expect(last.c.had_old);
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
    cr_expect(not(last.c.had_old));
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
    cr_expect(not(last.c.had_old), "nothing to unlink");
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
        cr_expect(eq(int, carry_out(&last), LARDER_OK));
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

static uint64_t extent(void)
{
    return atomic_load(&hdr->npages) * LDR_PAGE;
}

Test(index, the_ledger_holds_the_blocks_and_the_extent_of_what_is_kept)
{
    begin();
    cr_expect(eq(u64, atomic_load(&space.bytes), extent()));
    put_record("mem://b/k", block_of(80000));
    again();
    cr_expect(eq(u64, atomic_load(&space.bytes), extent() + 81920));
    cr_expect(eq(u64, atomic_load(&space.files), 1));
}

Test(index, what_the_repair_drops_leaves_the_ledger)
{
    begin();
    put_record("mem://b/intended", block_of(80000));
    put_record("s3://b/other-store", block_of(90000));
    put_record("mem://b/stays", block_of(10000));
    intend("mem://b/intended");
    end_index();
    begin_dropping((const char *const[]){ "s3", NULL });
    EXPECT_HELD(1, 1, 12288);
    cr_expect(eq(u64, atomic_load(&space.bytes), extent() + 12288));
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

Test(index, a_full_budget_refuses_new_records_and_old_ones_are_still_replaced)
{
    char big[8000];
    int n = 0;

    memset(big, 'b', sizeof big);
    cfg.inline_bytes = 256 * LDR_KIB;
    begin();
    for (char key[32]; n < 100; n++) {
        snprintf(key, sizeof key, "mem://b/%d", n);
        if (put_record(key, small(big, sizeof big)))
            break;
    }
    cr_assert(n > 10 && n < 40, "%d", n);
    cr_expect(eq(int, last.c.kind, LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(last.c.err.msg, "larder.cache.inline_size") != NULL, "%s", last.c.err.msg);
    cr_expect(le(u64, stats().inline_charge, cfg.inline_bytes));
    cr_expect(eq(int, put_record("mem://b/0", small(big, sizeof big)), LARDER_OK), "the same again fits");
    cr_expect(eq(u64, stats().objects, (uint64_t)n));
    remove_key("mem://b/1");
    cr_expect(eq(int, put_record("mem://b/more", small(big, sizeof big)), LARDER_OK));
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
    cr_expect(last.c.had_old, "older bytes must not outlive newer ones");
    cr_expect(eq(int, memcmp(&last.c.old.id, &id, sizeof id), 0));
    cr_expect(eq(int, find("mem://b/k", &r), LARDER_NOT_FOUND));
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
    cr_expect(eq(int, memcmp(&before, (struct ldr_index_stats[]){ stats() }, sizeof before), 0));
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
    cr_expect(not(last.c.had_old), "nothing of it is believed");
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
