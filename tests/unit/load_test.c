/* load_test.c - objects of many blocks on their way into the cache: which requests are made, who waits for what, one
 * version or none (load.c, fetch.c). Blocks of 64 KiB. Objects of one block: flight_test.c. */
#include "agent/known.h"
#include "agent/load.h"
#include "common/clock.h"
#include "tests/support/domain_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEY   "mem://b/k"
#define BLOCK (64 * LDR_KIB)

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct domain_fixture f;
static struct larder_err err;
static uint8_t *body;

/* What the store was asked for, in order. */
static struct {
    unsigned n;
    struct {
        bool ranged, conditional;
        uint64_t offset, length;
        char if_match[16];
    } get[64];
    unsigned heads;
    struct {
        uint32_t part;
        char if_match[16];
    } head[8];
} asked;

static void note_op(void *user, const struct ldr_op *op)
{
    (void)user;
    if (op->what == LDR_OP_HEAD && asked.heads < LDR_ARRAY_LEN(asked.head)) {
        asked.head[asked.heads].part = op->part;
        strncpy(asked.head[asked.heads++].if_match, op->if_match ? op->if_match : "", 15);
    }
    if (op->what != LDR_OP_GET || asked.n == LDR_ARRAY_LEN(asked.get))
        return;
    asked.get[asked.n].ranged = op->ranged;
    asked.get[asked.n].conditional = op->if_none_match != NULL;
    asked.get[asked.n].offset = op->offset;
    asked.get[asked.n].length = op->length;
    strncpy(asked.get[asked.n].if_match, op->if_match ? op->if_match : "", 15);
    asked.n++;
}

static void open_domain(const struct domain_options *o)
{
    domain_open(&f, dir, o);
    fake_on_op(f.store, note_op, NULL);
}

static void make_domain(void)
{
    test_dir_make(dir);
    body = malloc(64 * BLOCK);
    for (size_t i = 0; i < 64 * BLOCK; i++)
        body[i] = (uint8_t)(i * 13 + i / 257 + i / BLOCK);
    open_domain(&(struct domain_options){ .block_size = BLOCK });
}

static void end_domain(void)
{
    bool sound = domain_close(&f);

    free(body);
    test_dir_remove(dir);
    cr_assert(sound, "something is left: see stderr");
}

TestSuite(load, .init = make_domain, .fini = end_domain, .timeout = 60);

struct asker {
    struct ldr_waiter w;
    bool answered;
    enum larder_kind kind;
    bool in_cache;
    struct ldr_id id;
    uint64_t size;
    char why[200], msg[512];
};

static void answer(struct ldr_waiter *w, const struct ldr_answer *ans)
{
    struct asker *a = LDR_CONTAINER(w, struct asker, w);

    cr_expect(not(a->answered), "once");
    a->answered = true;
    a->kind = ans->kind;
    if (ans->kind) {
        strcpy(a->msg, ans->err->msg);
        return;
    }
    a->in_cache = ans->in_cache;
    a->id = ans->id;
    a->size = ans->meta->size_bytes;
    strcpy(a->why, ans->why);
}

/* Of a reader that says that it will go on. */
static struct asker *ask_on(uint64_t offset, uint64_t length, uint64_t ahead)
{
    struct asker *a = calloc(1, sizeof *a);
    struct ldr_name *n = domain_name(&f, KEY);

    a->w.answer = answer;
    a->w.offset = offset;
    a->w.length = length;
    a->w.ahead = ahead;
    cr_assert(eq(int, ldr_flight_object(&f.domain, n, &a->w, &err), LARDER_OK));
    ldr_name_unref(&n);
    return a;
}

static struct asker *ask(uint64_t offset, uint64_t length)
{
    return ask_on(offset, length, 0);
}

static enum larder_kind end_of(struct asker *a)
{
    cr_assert(domain_run_until(&f, &a->answered), "no answer");
    return a->kind;
}

static void store_holds(const void *p, uint64_t size, const char *validator)
{
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = p, .size = size, .validator = validator });
}

/* Are the blocks [first, last] there under the id that the asker was told, with the bytes of `p`? */
static void expect_blocks(const struct asker *a, const uint8_t *p, uint32_t first, uint32_t last)
{
    struct ldr_record r;

    cr_assert(domain_find(&f, KEY, &r));
    cr_assert(eq(int, memcmp(&r.id, &a->id, sizeof r.id), 0));
    for (uint32_t b = first; b <= last; b++) {
        uint64_t len = ldr_record_block_len(&r, b);
        uint8_t *have = malloc(len);
        int fd = ldr_blocks_open(&f.domain.blocks, &r, b);

        cr_assert(ge(int, fd, 0), "block %u", b);
        cr_expect(pread(fd, have, len, 0) == (ssize_t)len && !memcmp(have, p + (uint64_t)b * BLOCK, len), "block %u",
                  b);
        close(fd);
        free(have);
    }
}

static uint32_t blocks_there(void)
{
    uint8_t there[LDR_BLOCKS_MAX];
    struct ldr_record r;

    if (!domain_find(&f, KEY, &r))
        return 0;
    return ldr_reader_blocks(f.domain.reader, &r.id, 0, (uint32_t)ldr_record_blocks(&r), there);
}

/* The record goes, as if it had been evicted. */
static void forget(void)
{
    struct ldr_name *n = domain_name(&f, KEY);

    ldr_known_drop(&f.domain, n, NULL);
    while (f.domain.lone_changes)
        cr_assert(domain_step(&f, true));
    ldr_name_unref(&n);
}

/* ---- requests ---- */

Test(load, an_object_of_many_blocks_comes_by_one_request_a_block_each_for_the_same_version)
{
    struct asker *a;

    store_holds(body, 5 * BLOCK - 7, "\"v1\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(a->in_cache);
    cr_expect(eq(u64, a->size, 5 * BLOCK - 7));
    expect_blocks(a, body, 0, 4);
    cr_assert(eq(uint, asked.n, 5));
    cr_expect(eq(str, asked.get[0].if_match, ""), "the first asks what there is");
    for (unsigned i = 0; i < 5; i++) {
        cr_expect(asked.get[i].ranged);
        cr_expect(i == 0 || !strcmp(asked.get[i].if_match, "\"v1\""));
    }
    cr_expect(eq(u64, atomic_load(&f.domain.counters.store_bytes_in), 5 * BLOCK - 7), "no byte twice");
    free(a);
}

Test(load, a_range_fetches_its_blocks_alone)
{
    struct asker *a, *b;

    store_holds(body, 20 * BLOCK, "\"v1\"");
    a = ask(7 * BLOCK + 5, BLOCK);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    expect_blocks(a, body, 7, 8);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, blocks_there(), 2));
    cr_expect(eq(uint, asked.n, 2));
    b = ask(8 * BLOCK, 1); /* the cache has it: nothing is asked for */
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_expect(b->in_cache);
    cr_expect(eq(uint, asked.n, 2));
    free(a), free(b);
}

Test(load, what_others_have_fetched_is_not_fetched_again)
{
    struct asker *a, *b;

    store_holds(body, 6 * BLOCK, "\"v1\"");
    a = ask(2 * BLOCK, 2 * BLOCK);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    b = ask(0, 0);
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_expect(eq(int, memcmp(&a->id, &b->id, sizeof a->id), 0), "one id");
    expect_blocks(b, body, 0, 5);
    cr_expect(eq(uint, asked.n, 6));
    free(a), free(b);
}

Test(load, ranges_that_are_asked_for_together_share_the_first_request)
{
    enum { N = 40 };
    struct asker *a[N];

    fake_hold(f.store, true);
    store_holds(body, 10 * BLOCK, "\"v1\"");
    for (int i = 0; i < N; i++)
        a[i] = ask((uint64_t)(i % 10) * BLOCK, 100);
    cr_assert(domain_run_until_held(&f, 1));
    cr_expect(eq(uint, fake_held(f.store), 1), "until its head is in");
    fake_hold(f.store, false);
    for (int i = 0; i < N; i++) {
        cr_assert(eq(int, end_of(a[i]), LARDER_OK));
        cr_expect(a[i]->in_cache && !memcmp(&a[i]->id, &a[0]->id, sizeof a[0]->id));
    }
    for (int i = 0; i < N; i++)
        free(a[i]);
    cr_expect(eq(uint, asked.n, 10));
}

Test(load, an_offset_behind_the_end_is_answered_with_the_size)
{
    struct asker *a, *b;

    store_holds(body, 3 * BLOCK, "\"v1\"");
    a = ask(40 * BLOCK, 10);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(eq(u64, a->size, 3 * BLOCK));
    b = ask(3 * BLOCK, 0);
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_expect(eq(u64, b->size, 3 * BLOCK));
    free(a), free(b);
}

Test(load, a_small_object_asked_for_behind_its_end_is_found_out_about)
{
    struct asker *a, *b;

    fake_hold(f.store, true);
    store_holds("hello", 5, "\"v1\"");
    a = ask(9 * BLOCK, 10);
    b = ask(0, 0);
    fake_hold(f.store, false);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(eq(u64, a->size, 5));
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_expect(b->in_cache);
    free(a), free(b);
}

/* Let the first request of an object of many blocks go, and see how many follow at once. */
static unsigned at_once(unsigned least)
{
    struct asker *a;
    unsigned n;

    fake_hold(f.store, true);
    a = ask(0, 0);
    cr_assert(domain_run_until_held(&f, 1));
    fake_let(f.store);
    cr_assert(domain_run_until_held(&f, least));
    while (blocks_there() < 1) /* the first block is in: all that would be sent was sent */
        cr_assert(domain_step(&f, true));
    n = fake_held(f.store);
    fake_hold(f.store, false);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    free(a);
    return n;
}

Test(load, four_requests_are_under_way_at_first)
{
    store_holds(body, 40 * BLOCK, "\"v1\"");
    cr_expect(eq(uint, at_once(4), 4));
}

Test(load, a_store_that_asks_for_fewer_requests_gets_half_as_many)
{
    struct asker *a;

    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .throttled = true });
    store_holds("hello", 5, "\"v0\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    forget();
    fake_silence(f.store, LDR_OP_GET);
    store_holds(body, 40 * BLOCK, "\"v1\"");
    cr_expect(eq(uint, at_once(2), 2));
    free(a);
}

/* ---- readahead ---- */

Test(load, a_reader_that_goes_on_gets_more_and_more_ahead)
{
    static const unsigned requests[] = { 1, 3, 6, 11, 20 }; /* 0 · 1+1 · 3+2 · 6+4 · 11+8 */
    static const uint64_t at[] = { 0, 1, 3, 6, 11 };

    store_holds(body, 64 * BLOCK, "\"v1\"");
    for (unsigned i = 0; i < LDR_ARRAY_LEN(at); i++) {
        struct asker *a = ask(at[i] * BLOCK, 100);

        cr_assert(eq(int, end_of(a), LARDER_OK));
        cr_assert(domain_run_idle(&f));
        cr_expect(eq(uint, asked.n, requests[i]), "after the read at block %u", (unsigned)at[i]);
        free(a);
    }
}

Test(load, a_reader_that_jumps_gets_nothing_ahead)
{
    static const uint64_t at[] = { 30, 3, 17, 50, 9, 41, 2 };

    store_holds(body, 64 * BLOCK, "\"v1\"");
    for (unsigned i = 0; i < LDR_ARRAY_LEN(at); i++) {
        struct asker *a = ask(at[i] * BLOCK, 100);

        cr_assert(eq(int, end_of(a), LARDER_OK));
        cr_assert(domain_run_idle(&f));
        cr_expect(eq(uint, asked.n, i + 1));
        free(a);
    }
    cr_expect(eq(u64, atomic_load(&f.domain.counters.blocks_ahead), 0));
}

/* ---- one version ---- */

Test(load, an_object_that_changes_while_it_is_read_is_read_anew)
{
    uint8_t *other = malloc(6 * BLOCK);
    struct asker *a;

    memset(other, 0xee, 6 * BLOCK);
    store_holds(body, 6 * BLOCK, "\"v1\"");
    store_holds(other, 6 * BLOCK, "\"v2\""); /* from the second request on: those for v1 are refused */
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    cr_expect(a->in_cache);
    expect_blocks(a, other, 0, 5);
    cr_expect(domain_sound(&f), "nothing of the first version is left");
    free(a);
    free(other);
}

Test(load, a_known_version_that_the_store_has_no_more_is_replaced)
{
    uint8_t *other = malloc(6 * BLOCK);
    struct asker *a, *b;

    memset(other, 0xee, 6 * BLOCK);
    store_holds(body, 6 * BLOCK, "\"v1\"");
    a = ask(0, BLOCK);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    fake_silence(f.store, LDR_OP_GET);
    store_holds(other, 6 * BLOCK, "\"v2\"");
    b = ask(3 * BLOCK, BLOCK); /* fresh, but this block is missing */
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_expect(ne(int, memcmp(&a->id, &b->id, sizeof a->id), 0));
    expect_blocks(b, other, 3, 3);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, blocks_there(), 1), "the blocks of the first one are gone");
    free(a), free(b);
    free(other);
}

Test(load, a_read_that_began_with_a_version_gets_no_other)
{
    struct asker *a;
    struct ldr_name *n = domain_name(&f, KEY);

    store_holds(body, 6 * BLOCK, "\"v2\"");
    a = calloc(1, sizeof *a);
    a->w.answer = answer;
    a->w.validator = (const uint8_t *)"\"v1\"";
    a->w.validator_len = 4;
    cr_assert(eq(int, ldr_flight_object(&f.domain, n, &a->w, &err), LARDER_OK));
    cr_expect(eq(int, end_of(a), LARDER_PRECONDITION));
    ldr_name_unref(&n);
    free(a);
}

Test(load, a_store_with_weak_validators_is_read_by_one_request)
{
    struct asker *a;

    store_holds(body, 6 * BLOCK, "W/\"v1\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(a->in_cache);
    expect_blocks(a, body, 0, 5);
    cr_assert(eq(uint, asked.n, 2));
    cr_expect(asked.get[0].ranged && !asked.get[1].ranged, "the first one told that ranges will not do");
    free(a);
}

Test(load, a_store_without_validators_is_read_by_one_request)
{
    struct asker *a;

    fake_caps(f.store, LDR_CAP_STREAM_ONLY);
    store_holds(body, 6 * BLOCK, NULL);
    a = ask(2 * BLOCK, BLOCK);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    expect_blocks(a, body, 0, 5);
    cr_expect(asked.n == 1 && !asked.get[0].ranged);
    free(a);
}

Test(load, a_store_that_ignores_ranges_is_read_by_one_request)
{
    struct asker *a;

    fake_say(f.store, LDR_OP_GET,
             (struct fake_answer){ .body = body, .size = 6 * BLOCK, .validator = "\"v1\"", .ignore_range = true });
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    expect_blocks(a, body, 0, 5);
    cr_expect(eq(uint, asked.n, 1));
    free(a);
}

Test(load, a_stream_that_breaks_off_begins_again_as_another_version)
{
    struct asker *a;

    fake_caps(f.store, LDR_CAP_STREAM_ONLY);
    fake_say(
        f.store, LDR_OP_GET,
        (struct fake_answer){ .body = body, .size = 6 * BLOCK, .cut_at = 3 * BLOCK + 100, .validator = "W/\"a\"" });
    store_holds(body, 6 * BLOCK, "W/\"b\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    expect_blocks(a, body, 0, 5);
    cr_expect(domain_sound(&f), "nothing of the broken one is left");
    free(a);
}

Test(load, a_first_request_that_breaks_off_and_meets_another_version_begins_anew)
{
    struct asker *a;

    fake_say(f.store, LDR_OP_GET,
             (struct fake_answer){ .body = body, .size = 6 * BLOCK, .cut_at = 100, .validator = "\"v1\"" });
    store_holds(body + 7, BLOCK, "\"v2\""); /* of one block, as long as a block of the first */
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(u64, a->size, BLOCK));
    expect_blocks(a, body + 7, 0, 0);
    cr_expect(eq(uint, blocks_there(), 1));
    free(a);
}

Test(load, a_size_that_no_object_has_is_refused)
{
    static const uint64_t sizes[] = { LDR_OBJECT_SIZE_MAX + 1, UINT64_C(1) << 60, UINT64_MAX };

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        struct asker *a;

        fake_silence(f.store, LDR_OP_GET);
        store_holds(body, sizes[i], "\"v1\"");
        a = ask(0, 0);
        cr_expect(eq(int, end_of(a), LARDER_UNSUPPORTED));
        cr_assert(domain_run_idle(&f));
        free(a);
    }
}

Test(load, the_tail_of_a_huge_object_is_one_request)
{
    uint64_t size = 4096 * 2 * BLOCK - BLOCK - 10; /* blocks of 128 KiB; the last one is shorter than 64 KiB */
    uint8_t *zeros = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct asker *a;

    cr_assert(zeros != MAP_FAILED);
    store_holds(zeros, size, "\"v1\"");
    a = ask(size - 100, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    cr_expect(a->in_cache);
    cr_expect(eq(uint, asked.n, 1));
    munmap(zeros, size);
    free(a);
}

/* ---- stale ---- */

Test(load, a_stale_object_is_confirmed_and_its_blocks_stay)
{
    struct asker *a, *b;

    f.prefix.ttl_ns = 0;
    store_holds(body, 3 * BLOCK, "\"v1\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    b = ask(0, 0);
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_expect(b->in_cache && !memcmp(&a->id, &b->id, sizeof a->id));
    cr_expect(eq(uint, asked.n, 4), "one more, and no body");
    cr_expect(asked.get[3].conditional);
    cr_expect(eq(u64, atomic_load(&f.domain.counters.confirmed), 1));
    cr_expect(eq(u64, atomic_load(&f.domain.counters.store_bytes_in), 3 * BLOCK));
    free(a), free(b);
}

Test(load, a_stale_small_object_is_confirmed_with_its_bytes)
{
    struct ldr_record r;
    struct asker *a, *b;

    f.prefix.ttl_ns = 0;
    store_holds("hello", 5, "\"v1\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    b = ask(0, 0);
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_assert(domain_find(&f, KEY, &r));
    cr_expect(r.payload_len == 5 && !memcmp(r.payload, "hello", 5) && !memcmp(&r.id, &b->id, sizeof r.id));
    free(a), free(b);
}

Test(load, a_stale_object_that_is_gone_is_gone_from_the_cache_too)
{
    struct ldr_record r;
    struct asker *a, *b;

    f.prefix.ttl_ns = 0;
    store_holds(body, 3 * BLOCK, "\"v1\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    fake_silence(f.store, LDR_OP_GET);
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_NOT_FOUND, .http = 404 });
    b = ask(0, 0);
    cr_expect(eq(int, end_of(b), LARDER_NOT_FOUND));
    while (f.domain.lone_changes)
        cr_assert(domain_step(&f, true));
    cr_expect(not(domain_find(&f, KEY, &r)));
    free(a), free(b);
}

/* ---- room ---- */

Test(load, a_range_larger_than_the_cache_is_not_cached_and_its_parts_are)
{
    struct asker *a, *b;

    f.domain.space.max_bytes = atomic_load(&f.domain.space.bytes) + 16 * BLOCK;
    store_holds("x", 1, "\"v1\"");
    b = ask(0, 0); /* the index takes note of the limit with its next commit */
    cr_assert(eq(int, end_of(b), LARDER_OK));
    free(b);
    cr_assert(domain_run_idle(&f));
    fake_silence(f.store, LDR_OP_GET);
    forget();
    store_holds(body, 60 * BLOCK, "\"v2\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->in_cache));
    cr_expect(strstr(a->why, "its 3932160 bytes are more than larder.cache.max_size (") != NULL, "%s", a->why);
    cr_expect(eq(u64, a->size, 60 * BLOCK));
    cr_assert(domain_run_idle(&f));
    b = ask(40 * BLOCK, BLOCK);
    cr_assert(eq(int, end_of(b), LARDER_OK));
    cr_expect(b->in_cache);
    free(a), free(b);
}

/* ---- writes, and askers that go ---- */

Test(load, a_write_in_the_middle_makes_readers_of_many_blocks_begin_again)
{
    struct ldr_name *n = domain_name(&f, KEY);
    struct ldr_keystate *k = NULL;
    uint8_t *other = malloc(6 * BLOCK);
    struct asker *a;

    memset(other, 0xee, 6 * BLOCK);
    fake_hold(f.store, true);
    store_holds(body, 6 * BLOCK, "\"v1\"");
    a = ask(0, 0);
    cr_assert(domain_run_until_held(&f, 1));
    cr_assert(eq(int, ldr_flight_write_begin(&f.domain, n, &k, &err), LARDER_OK));
    fake_let(f.store);
    while (domain_step(&f, false) || fake_held(f.store))
        ;
    fake_hold(f.store, false);
    fake_silence(f.store, LDR_OP_GET);
    store_holds(other, 6 * BLOCK, "\"v2\"");
    cr_expect(not(a->answered), "it waits for the end of the write");
    ldr_flight_write_settle(k);
    ldr_flight_write_end(&f.domain, &k);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    expect_blocks(a, other, 0, 5);
    ldr_name_unref(&n);
    free(a);
    free(other);
}

Test(load, nothing_more_is_asked_for_when_the_last_asker_went)
{
    struct asker *a;

    fake_hold(f.store, true);
    store_holds(body, 60 * BLOCK, "\"v1\"");
    a = ask(0, 0);
    cr_assert(domain_run_until_held(&f, 1));
    ldr_flight_leave(&a->w);
    fake_hold(f.store, false);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, asked.n, 1));
    cr_expect(eq(uint, blocks_there(), 1), "what was under way is kept");
    cr_expect(not(a->answered));
    free(a);
}

Test(load, a_block_that_fails_fails_those_who_need_it_alone)
{
    struct asker *a, *b;

    store_holds(body, 6 * BLOCK, "\"v1\"");
    a = ask(0, BLOCK);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    fake_silence(f.store, LDR_OP_GET);
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_DENIED, .http = 403 });
    store_holds(body, 6 * BLOCK, "\"v1\"");
    fake_hold(f.store, true);
    a->answered = false;
    b = ask(2 * BLOCK, BLOCK);
    cr_assert(domain_run_until_held(&f, 1));
    fake_hold(f.store, false);
    cr_expect(eq(int, end_of(b), LARDER_DENIED));
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, blocks_there(), 1));
    free(a), free(b);
}

Test(load, a_block_file_that_went_is_fetched_again)
{
    char name[LDR_BLOCK_NAME_MAX];
    struct ldr_record r;
    struct asker *a, *b;
    struct ldr_name *n = domain_name(&f, KEY);

    store_holds(body, 4 * BLOCK, "\"v1\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_find(&f, KEY, &r));
    ldr_block_name(&r.id, 2, name);
    cr_assert(eq(int, unlinkat(f.domain.dir->dirfd, name, 0), 0));
    b = calloc(1, sizeof *b);
    b->w.answer = answer;
    b->w.suspect = true;
    cr_assert(eq(int, ldr_flight_object(&f.domain, n, &b->w, &err), LARDER_OK));
    cr_assert(eq(int, end_of(b), LARDER_OK));
    expect_blocks(b, body, 0, 3);
    cr_expect(eq(uint, asked.n, 5));
    ldr_name_unref(&n);
    free(a), free(b);
}

/* ---- does it add up? ---- */

#define SIZE (6 * BLOCK - 1000)

static uint8_t *damaged;
static char full_text[LDR_SUM_TEXT_MAX], composite_text[LDR_SUM_TEXT_MAX + 8];

/* The store tells checksums by heads. */
static void make_checked(void)
{
    make_domain();
    fake_caps(f.store, LDR_CAP_RANGE | LDR_CAP_IF_MATCH | LDR_CAP_HEAD_SUM);
    damaged = malloc(SIZE);
    memcpy(damaged, body, SIZE);
    damaged[5 * BLOCK + 77] ^= 0x40;
}

static void end_checked(void)
{
    end_domain(); /* the store may still be reading it */
    free(damaged);
}

TestSuite(load_check, .init = make_checked, .fini = end_checked, .timeout = 60);

/* Of `body`. */
static const char *full(enum ldr_sum_algo a)
{
    uint8_t raw[LDR_SUM_RAW_MAX];

    ldr_sum_crc_raw(a, ldr_sum_crc(a, 0, body, SIZE), raw);
    ldr_sum_base64(a, raw, full_text);
    return full_text;
}

static const char *composite(enum ldr_sum_algo a, uint64_t part)
{
    uint8_t raw[LDR_SUM_RAW_MAX];
    unsigned n = 0;
    uint64_t all = 0;

    for (uint64_t at = 0; at < SIZE; at += part, n++) {
        ldr_sum_crc_raw(a, ldr_sum_crc(a, 0, body + at, at + part < SIZE ? part : SIZE - at), raw);
        all = ldr_sum_crc(a, all, raw, ldr_sum_raw_len(a));
    }
    ldr_sum_crc_raw(a, all, raw);
    ldr_sum_base64(a, raw, composite_text);
    sprintf(composite_text + strlen(composite_text), "-%u", n);
    return composite_text;
}

/* What a head says. */
static void store_says(const char *const *sums, uint64_t size, const char *validator)
{
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = size, .validator = validator, .sums = sums });
}

static uint64_t corrupt(void)
{
    return atomic_load(&f.domain.counters.corrupt_objects);
}

static void expect_published(struct asker *a, const uint8_t *p)
{
    cr_assert(eq(int, end_of(a), LARDER_OK), "%s", a->msg);
    cr_assert(domain_run_idle(&f));
    cr_expect(a->in_cache);
    expect_blocks(a, p, 0, 5);
    free(a);
}

/* Read twice, refused, and nothing is left of it. */
static void expect_refused(struct asker *a, const char *algo)
{
    struct ldr_record r;

    cr_assert(eq(int, end_of(a), LARDER_CORRUPT));
    cr_expect(strstr(a->msg, KEY) && strstr(a->msg, algo), "%s", a->msg);
    cr_assert(domain_run_idle(&f));
    while (f.domain.lone_changes)
        cr_assert(domain_step(&f, true));
    cr_expect(eq(u64, corrupt(), 2));
    cr_expect(eq(uint, asked.n, 12), "each block twice");
    cr_expect(not(domain_find(&f, KEY, &r)));
    cr_expect(domain_sound(&f));
    free(a);
}

static void what_adds_up_is_published(enum ldr_sum_algo algo)
{
    const char *sums[] = { "type", "FULL_OBJECT", ldr_sum_name(algo), full(algo), NULL };

    store_holds(body, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    expect_published(ask(0, 0), body);
    cr_expect(eq(uint, asked.n, 6));
    cr_expect(asked.heads == 1 && !strcmp(asked.head[0].if_match, "\"v1\"") && asked.head[0].part == 0);
    cr_expect(eq(u64, corrupt(), 0));
}

static void what_does_not_is_read_once_more_and_refused(enum ldr_sum_algo algo)
{
    const char *sums[] = { "type", "FULL_OBJECT", ldr_sum_name(algo), full(algo), NULL };

    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    expect_refused(ask(0, 0), ldr_sum_name(algo));
}

#define FOR_EVERY_CRC(name)                                                                                            \
    Test(load_check, name##__crc64nvme)                                                                                \
    {                                                                                                                  \
        name(LDR_SUM_CRC64NVME);                                                                                       \
    }                                                                                                                  \
    Test(load_check, name##__crc32c)                                                                                   \
    {                                                                                                                  \
        name(LDR_SUM_CRC32C);                                                                                          \
    }                                                                                                                  \
    Test(load_check, name##__crc32)                                                                                    \
    {                                                                                                                  \
        name(LDR_SUM_CRC32);                                                                                           \
    }

FOR_EVERY_CRC(what_adds_up_is_published)

FOR_EVERY_CRC(what_does_not_is_read_once_more_and_refused)

Test(load_check, what_adds_up_when_it_is_read_once_more_is_published)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };

    for (int i = 0; i < 6; i++)
        store_holds(damaged, SIZE, "\"v1\"");
    store_holds(body, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    expect_published(ask(0, 0), body);
    cr_expect(eq(uint, asked.n, 12));
    cr_expect(eq(u64, corrupt(), 1));
}

Test(load_check, the_sum_of_the_sums_of_parts_that_are_blocks_is_as_good)
{
    const char *sums[] = { "crc32c", composite(LDR_SUM_CRC32C, BLOCK), "type", "COMPOSITE", NULL };

    store_holds(body, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    store_says(NULL, BLOCK - 1000, "\"v1\"");
    expect_published(ask(0, 0), body);
    cr_expect(asked.heads == 2 && asked.head[1].part == 6 && !strcmp(asked.head[1].if_match, "\"v1\""));
    cr_expect(eq(u64, corrupt(), 0));
}

Test(load_check, the_sum_of_the_sums_of_parts_that_are_blocks_is_refused_when_wrong)
{
    const char *sums[] = { "crc64nvme", composite(LDR_SUM_CRC64NVME, BLOCK), "type", "COMPOSITE", NULL };

    store_holds(damaged, SIZE, "\"v1\"");
    for (int i = 0; i < 2; i++) {
        store_says(sums, SIZE, "\"v1\"");
        store_says(NULL, BLOCK - 1000, "\"v1\"");
    }
    expect_refused(ask(0, 0), "crc64nvme");
}

Test(load_check, as_many_parts_that_are_no_blocks_say_nothing)
{
    const char *sums[] = { "crc32c", composite(LDR_SUM_CRC32C, BLOCK - 150), "type", "COMPOSITE", NULL };

    store_holds(body, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    store_says(NULL, BLOCK - 250, "\"v1\"");
    expect_published(ask(0, 0), body);
    cr_expect(eq(uint, asked.heads, 2));
    cr_expect(eq(u64, corrupt(), 0));
}

Test(load_check, parts_of_which_the_store_does_not_tell_the_size_say_nothing)
{
    const char *sums[] = { "crc32c", composite(LDR_SUM_CRC32C, BLOCK - 150), "type", "COMPOSITE", NULL };

    store_holds(body, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .kind = LARDER_UNSUPPORTED, .http = 501 });
    expect_published(ask(0, 0), body);
    cr_expect(eq(u64, corrupt(), 0));
}

Test(load_check, other_parts_than_blocks_are_not_asked_for)
{
    const char *sums[] = { "crc32c", composite(LDR_SUM_CRC32C, 2 * BLOCK), "type", "COMPOSITE", NULL };

    store_holds(body, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    expect_published(ask(0, 0), body);
    cr_expect(eq(uint, asked.heads, 1));
}

Test(load_check, a_head_that_fails_means_that_nothing_is_checked)
{
    store_holds(damaged, SIZE, "\"v1\"");
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .kind = LARDER_DENIED, .http = 403 });
    expect_published(ask(0, 0), damaged);
}

Test(load_check, a_head_without_a_checksum_means_that_nothing_is_checked)
{
    store_holds(damaged, SIZE, "\"v1\"");
    store_says(NULL, SIZE, "\"v1\"");
    expect_published(ask(0, 0), damaged);
}

Test(load_check, a_head_of_another_version_means_that_nothing_is_checked)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };

    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v2\"");
    expect_published(ask(0, 0), damaged);
}

Test(load_check, the_last_block_waits_for_the_head_and_has_no_name)
{
    struct ldr_record r;
    unsigned named = 0;
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };
    struct asker *a;

    fake_hold_only(f.store, LDR_OP_HEAD);
    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    a = ask(0, 0);
    cr_assert(domain_run_until_held(&f, 1));
    while (blocks_there() < 5)
        cr_assert(domain_step(&f, true));
    cr_assert(domain_find(&f, KEY, &r));
    for (uint32_t b = 0; b < 6; b++)
        named += ldr_blocks_intact(&f.domain.blocks, &r, b);
    cr_expect(eq(uint, named, 5), "readers find a block by its name");
    cr_expect(not(a->answered));
    fake_hold(f.store, false);
    expect_refused(a, "crc32c");
}

Test(load_check, a_last_block_that_waits_is_kept_when_its_asker_went)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };
    struct asker *a;

    fake_hold_only(f.store, LDR_OP_HEAD);
    store_holds(body, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    a = ask(0, 0);
    cr_assert(domain_run_until_held(&f, 1));
    while (blocks_there() < 5)
        cr_assert(domain_step(&f, true));
    ldr_flight_leave(&a->w);
    fake_hold(f.store, false);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, blocks_there(), 6));
    free(a);
}

Test(load_check, blocks_that_were_there_before_make_it_unchecked)
{
    struct asker *a;

    store_holds(damaged, SIZE, "\"v1\"");
    a = ask(2 * BLOCK, BLOCK);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    expect_published(ask(0, 0), damaged);
    cr_expect(eq(uint, asked.heads, 0));
    free(a);
}

Test(load_check, a_reader_of_a_range_asks_for_no_head)
{
    struct asker *a;

    store_holds(body, SIZE, "\"v1\"");
    a = ask(BLOCK, 2 * BLOCK);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, asked.heads, 0));
    free(a);
}

Test(load_check, nor_does_one_of_the_first_bytes)
{
    struct asker *a;

    store_holds(body, SIZE, "\"v1\"");
    a = ask(0, 100);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, asked.heads, 0));
    free(a);
}

Test(load_check, nor_one_of_an_object_of_one_block)
{
    struct asker *a;

    store_holds(body, BLOCK, "\"v1\"");
    a = ask(0, 0);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, asked.heads, 0));
    free(a);
}

Test(load_check, what_comes_by_one_request_is_its_backends_to_check)
{
    fake_caps(f.store, LDR_CAP_HEAD_SUM | LDR_CAP_STREAM_ONLY);
    store_holds(body, SIZE, "\"v1\"");
    expect_published(ask(0, 0), body);
    cr_expect(eq(uint, asked.heads, 0));
}

Test(load_check, a_store_that_cannot_tell_is_not_asked)
{
    fake_caps(f.store, LDR_CAP_RANGE | LDR_CAP_IF_MATCH);
    store_holds(body, SIZE, "\"v1\"");
    expect_published(ask(0, 0), body);
    cr_expect(eq(uint, asked.heads, 0));
}

/* Who reads by windows has had the first ones when the last one shows that they were wrong. */
Test(load_check, a_reader_by_windows_is_refused_at_the_last_one)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };
    struct asker *a;

    fake_hold_only(f.store, LDR_OP_HEAD);
    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    a = ask_on(0, BLOCK, SIZE);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    free(a);
    a = ask_on(5 * BLOCK, BLOCK, SIZE);
    fake_hold(f.store, false);
    expect_refused(a, "crc32c");
}

Test(load_check, and_so_it_is_when_it_asks_for_the_last_one_later)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };
    struct asker *a;

    fake_hold_only(f.store, LDR_OP_HEAD); /* else the block that it waits for might be the last one */
    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    a = ask_on(0, BLOCK, SIZE);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    free(a);
    fake_hold(f.store, false);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(u64, corrupt(), 1));
    expect_refused(ask_on(4 * BLOCK, BLOCK, SIZE), "crc32c");
}

Test(load_check, what_was_refused_and_is_good_again_is_read_once)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };

    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    expect_refused(ask(0, 0), "crc32c");
    fake_silence(f.store, LDR_OP_GET);
    store_holds(body, SIZE, "\"v1\"");
    expect_published(ask(2 * BLOCK, BLOCK), body);
    cr_expect(eq(uint, asked.n, 18));
    cr_expect(eq(u64, corrupt(), 2));
}

Test(load_check, who_asks_while_it_is_read_once_more_waits_for_all_of_it)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };
    struct asker *a, *b;

    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    a = ask(0, 0);
    while (!corrupt())
        cr_assert(domain_step(&f, true));
    b = ask(0, 100);
    cr_expect(eq(int, end_of(b), LARDER_CORRUPT));
    expect_refused(a, "crc32c");
    free(b);
}

Test(load_check, a_cache_that_is_too_small_to_read_it_once_more_refuses_it)
{
    const char *sums[] = { "crc32c", full(LDR_SUM_CRC32C), NULL };
    struct ldr_index_stats st;
    struct asker *a;

    fake_hold_only(f.store, LDR_OP_HEAD);
    store_holds(damaged, SIZE, "\"v1\"");
    store_says(sums, SIZE, "\"v1\"");
    a = ask(0, 0);
    while (blocks_there() < 5)
        cr_assert(domain_step(&f, true));
    f.domain.space.max_bytes = atomic_load(&f.domain.space.bytes) - 2 * BLOCK;
    do { /* the index takes note of the limit with its next commit */
        struct ldr_name *n = domain_name(&f, "mem://b/other");

        ldr_known_drop(&f.domain, n, NULL);
        while (f.domain.lone_changes)
            cr_assert(domain_step(&f, true));
        ldr_name_unref(&n);
        ldr_index_stats(f.domain.index, &st);
    } while (st.block_capacity >= SIZE);
    fake_hold(f.store, false);
    cr_expect(eq(int, end_of(a), LARDER_CORRUPT));
    cr_expect(strstr(a->msg, "too small") != NULL, "%s", a->msg);
    cr_assert(domain_run_idle(&f)); /* its first request goes on, and reads `sums` */
    f.domain.space.max_bytes = LDR_GIB;
    free(a);
}
