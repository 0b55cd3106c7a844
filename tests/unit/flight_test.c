/* flight_test.c - one fetch for all who ask, what a write does to it, and what is kept of objects of at most one block
 * (flight.c, fetch.c, load.c; larger ones: load_test.c). */
#include "agent/flight.h"
#include "common/clock.h"
#include "tests/support/domain_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define KEY "mem://b/k"

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct domain_fixture f;
static struct larder_err err;

static void make_domain(void)
{
    test_dir_make(dir);
    domain_open(&f, dir, NULL);
}

static void end_domain(void)
{
    bool sound = domain_close(&f);

    test_dir_remove(dir);
    cr_assert(sound, "something is left: see stderr");
}

TestSuite(flight, .init = make_domain, .fini = end_domain, .timeout = 60);

static void domain_again(const struct domain_options *o)
{
    cr_assert(domain_close(&f));
    domain_open(&f, dir, o);
}

static uint64_t counted(_Atomic uint64_t *c)
{
    return atomic_load(c);
}

/* ---- askers ---- */

struct asker {
    struct ldr_waiter w;
    const char *uri;
    bool answered;
    unsigned answers;
    enum larder_kind kind;
    bool published;
    struct ldr_id id;
    uint64_t size, offset;
    char why[200];
    uint8_t bytes[LDR_WIRE_CHUNK];
    ssize_t n;
};

static void answer(struct ldr_waiter *w, const struct ldr_answer *ans)
{
    struct asker *a = LDR_CONTAINER(w, struct asker, w);

    a->answered = true;
    a->answers++;
    a->kind = ans->kind;
    a->n = -1;
    if (ans->kind)
        return;
    a->published = ans->in_cache;
    a->id = ans->id;
    a->size = ans->meta->size_bytes;
    strcpy(a->why, ans->why);
    a->n = ldr_answer_bytes(ans, a->offset, a->bytes, sizeof a->bytes);
}

static struct asker *ask_what(enum ldr_fetch_what what, const char *uri, uint64_t offset, size_t want, const char *v)
{
    struct asker *a = calloc(1, sizeof *a);
    struct ldr_name *n = domain_name(&f, uri);
    enum larder_kind k = LARDER_INTERNAL;

    a->uri = uri;
    a->w.answer = answer;
    a->offset = offset;
    switch (what) {
    case LDR_FETCH_OBJECT:
        k = ldr_flight_object(&f.domain, n, &a->w, &err);
        break;
    case LDR_FETCH_HEAD:
        k = ldr_flight_head(&f.domain, n, &a->w, &err);
        break;
    case LDR_FETCH_CHUNK:
        k = ldr_flight_chunk(&f.domain, n, offset, want, v, &a->w, &err);
        break;
    default:
        break;
    }
    cr_assert(eq(int, k, LARDER_OK));
    ldr_name_unref(&n);
    return a;
}

static struct asker *ask(const char *uri)
{
    return ask_what(LDR_FETCH_OBJECT, uri, 0, 0, NULL);
}

static struct asker *ask_head(void)
{
    return ask_what(LDR_FETCH_HEAD, KEY, 0, 0, NULL);
}

static enum larder_kind end_of(struct asker *a)
{
    cr_assert(domain_run_until(&f, &a->answered), "no answer");
    return a->kind;
}

/* The bytes that the asker was given, or that the cache has under the id that it was told. */
static void expect_bytes(struct asker *a, const void *p, size_t n)
{
    struct ldr_record r;

    if (a->published && a->n < 0 && domain_find(&f, a->uri, &r) && !memcmp(&r.id, &a->id, sizeof r.id)) {
        int fd = r.flags & LDR_FLAG_INLINE ? -1 : ldr_blocks_open(&f.domain.blocks, &r, 0);

        if (fd >= 0) {
            a->n = pread(fd, a->bytes, sizeof a->bytes, 0);
            close(fd);
        } else {
            a->n = (ssize_t)r.payload_len;
            memcpy(a->bytes, r.payload, r.payload_len);
        }
    }
    cr_expect(eq(u64, (uint64_t)a->n, n));
    cr_expect(a->n == (ssize_t)n && !memcmp(a->bytes, p, n));
}

static void store_holds(const void *body, uint64_t size)
{
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = body, .size = size, .validator = "\"v1\"" });
}

static void store_then_holds(const void *body, uint64_t size)
{
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = body, .size = size, .validator = "\"v2\"" });
}

static uint8_t *big_body(size_t n)
{
    uint8_t *p = malloc(n);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 13 + i / 257);
    return p;
}

/* ---- what is kept ---- */

Test(flight, a_small_object_stands_in_the_index_when_its_asker_is_answered)
{
    struct ldr_record r;
    struct asker *a;

    store_holds("hello", 5);
    a = ask(KEY);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(a->published && !a->why[0]);
    expect_bytes(a, "hello", 5);
    cr_assert(domain_find(&f, KEY, &r));
    cr_expect(eq(int, memcmp(&r.id, &a->id, sizeof r.id), 0));
    cr_expect(r.payload_len == 5 && !memcmp(r.payload, "hello", 5));
    cr_expect(eq(u64, r.fresh_until_ns - r.validated_at_ns, UINT64_C(60000000000)));
    cr_expect(eq(u64, counted(&f.domain.counters.published), 1));
    free(a);
}

Test(flight, freshness_counts_from_the_stores_answer_and_not_from_its_last_byte)
{
    struct ldr_record r;
    struct asker *a;

    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = "hello", .size = 5, .pause_ms = 100 });
    a = ask(KEY);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_find(&f, KEY, &r));
    cr_expect(ge(u64, (uint64_t)ldr_boot_ns() - r.validated_at_ns, 100 * LDR_NS_PER_MS));
    free(a);
}

Test(flight, a_larger_object_stands_in_a_block_file)
{
    size_t n = 700 * 1000;
    uint8_t *body = big_body(n);
    struct ldr_record r;
    struct asker *a;

    store_holds(body, n);
    a = ask(KEY);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(a->published);
    expect_bytes(a, body, sizeof a->bytes);
    cr_assert(domain_find(&f, KEY, &r));
    cr_expect(eq(u64, r.size_bytes, n));
    cr_expect(not(r.flags & LDR_FLAG_INLINE));
    cr_expect(ldr_blocks_intact(&f.domain.blocks, &r, 0));
    free(a);
    free(body);
}

Test(flight, an_empty_object_is_kept_too)
{
    struct asker *a;

    store_holds("", 0);
    a = ask(KEY);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(a->published);
    cr_expect(eq(i64, a->n, 0));
    free(a);
}

Test(flight, a_full_cache_is_said_and_the_bytes_come_all_the_same)
{
    size_t n = 100 * 1000;
    uint8_t *body = big_body(n);
    struct asker *a;

    f.domain.space.max_bytes = 1;
    store_holds(body, n);
    a = ask(KEY);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->published));
    cr_expect(strstr(a->why, "larder.cache.max_size") != NULL, "%s", a->why);
    cr_expect(eq(u64, a->size, n), "its bytes have to be asked for past the cache");
    cr_expect(eq(u64, counted(&f.domain.counters.uncached_full), 1));
    free(a);
    free(body);
}

Test(flight, a_full_index_gives_the_block_back)
{
    size_t n = 100 * 1000;
    uint8_t *body = big_body(n);
    struct asker *a;

    domain_again(&(struct domain_options){ .inline_bytes = 100 });
    store_holds(body, n);
    a = ask(KEY);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->published));
    cr_expect(strstr(a->why, "larder.cache.inline_size") != NULL, "%s", a->why);
    expect_bytes(a, body, n);
    cr_expect(domain_sound(&f));
    free(a);
    free(body);
}

Test(flight, a_newer_version_takes_the_place_and_the_space_of_the_older)
{
    uint8_t *body = big_body(200 * 1000);
    struct asker *a, *b;

    f.prefix.ttl_ns = 0;
    store_holds(body, 200 * 1000);
    store_then_holds(body, 50 * 1000);
    a = ask(KEY);
    end_of(a);
    cr_assert(domain_run_idle(&f));
    b = ask(KEY);
    end_of(b);
    cr_expect(b->published && memcmp(&a->id, &b->id, sizeof a->id));
    cr_expect(domain_sound(&f), "the old block is gone");
    free(a);
    free(b);
    free(body);
}

Test(flight, a_long_name_is_kept_with_its_record)
{
    char uri[700];
    struct ldr_record r;
    struct ldr_field name;
    struct asker *a;

    snprintf(uri, sizeof uri, "mem://b/%0600d", 7);
    store_holds("x", 1);
    a = ask(uri);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_assert(domain_find(&f, uri, &r));
    cr_assert(ldr_fields_find(r.fields, r.fields_len, LDR_TAG_KEY, &name));
    cr_expect(name.len == strlen(uri) && !memcmp(name.p, uri, name.len));
    free(a);
}

/* ---- failures ---- */

Test(flight, a_missing_object_is_not_found_and_nothing_is_kept)
{
    struct asker *a;

    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_NOT_FOUND, .http = 404 });
    a = ask(KEY);
    cr_expect(eq(int, end_of(a), LARDER_NOT_FOUND));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_GET), 1));
    free(a);
}

Test(flight, a_body_that_breaks_off_is_asked_for_again_and_no_half_is_kept)
{
    size_t n = 300 * 1000;
    uint8_t *body = big_body(n);
    struct asker *a;

    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = body, .size = n, .cut_at = 150 * 1000 });
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = body, .size = n - 7, .cut_at = n - 8 });
    store_holds(body, n);
    a = ask(KEY);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(a->published);
    cr_expect(eq(u64, a->size, n));
    expect_bytes(a, body, sizeof a->bytes);
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_GET), 3));
    free(a);
    free(body);
}

Test(flight, a_body_that_never_comes_whole_is_a_failure)
{
    struct asker *a;

    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = "hello", .size = 5, .cut_at = 4 });
    a = ask(KEY);
    cr_expect(eq(int, end_of(a), LARDER_UNAVAILABLE));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_GET), LDR_TRIES_MAX));
    free(a);
}

Test(flight, more_bytes_than_announced_are_never_cut_to_an_object)
{
    uint8_t *body = big_body(100 * 1000);
    struct ldr_record r;
    struct asker *a, *b;

    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = "hello", .size = 5, .more = true });
    a = ask(KEY);
    cr_expect(eq(int, end_of(a), LARDER_CORRUPT), "small");
    fake_silence(f.store, LDR_OP_GET);
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .body = body, .size = 100 * 1000, .more = true });
    b = ask(KEY);
    cr_expect(eq(int, end_of(b), LARDER_CORRUPT), "a block");
    cr_expect(not(domain_find(&f, KEY, &r)));
    free(a);
    free(b);
    free(body);
}

Test(flight, a_cache_that_cannot_be_written_is_done_without)
{
    struct rlimit rl = { 10 * 1000, 10 * 1000 };
    size_t n = 200 * 1000;
    uint8_t *body = big_body(n);
    struct asker *a;

    signal(SIGXFSZ, SIG_IGN);
    fake_hold(f.store, true);
    store_holds(body, n);
    a = ask(KEY);
    cr_assert(domain_run_until_held(&f, 1));
    setrlimit(RLIMIT_FSIZE, &rl); /* fallocate() fails now: no ENOSPC, but no file either */
    fake_hold(f.store, false);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->published));
    cr_expect(a->why[0] != '\0');
    expect_bytes(a, body, n);
    free(a);
    free(body);
}

/* ---- joining ---- */

Test(flight, a_thousand_askers_make_one_request)
{
    enum { N = 1000 };
    struct asker **a = calloc(N, sizeof *a);

    fake_hold(f.store, true);
    store_holds("hello", 5);
    for (int i = 0; i < N / 2; i++)
        a[i] = ask(KEY);
    cr_assert(domain_run_until_held(&f, 1));
    for (int i = N / 2; i < N; i++) /* and while it is under way */
        a[i] = ask(KEY);
    fake_hold(f.store, false);
    for (int i = 0; i < N; i++) {
        cr_assert(eq(int, end_of(a[i]), LARDER_OK));
        cr_assert(eq(uint, a[i]->answers, 1));
        expect_bytes(a[i], "hello", 5);
        free(a[i]);
    }
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_GET), 1));
    cr_expect(eq(u64, counted(&f.domain.counters.gets_joined), N - 1));
    free(a);
}

Test(flight, others_get_theirs_when_the_first_asker_goes_away)
{
    struct asker *first, *second;

    fake_hold(f.store, true);
    store_holds("hello", 5);
    first = ask(KEY);
    second = ask(KEY);
    ldr_flight_leave(&first->w);
    ldr_flight_leave(&first->w); /* twice */
    cr_assert(domain_run_until_held(&f, 1));
    fake_hold(f.store, false);
    cr_assert(eq(int, end_of(second), LARDER_OK));
    expect_bytes(second, "hello", 5);
    cr_expect(not(first->answered));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_GET), 1));
    free(first);
    free(second);
}

Test(flight, a_fetch_goes_on_when_nobody_waits_any_more)
{
    struct ldr_record r;
    struct asker *a;

    fake_hold(f.store, true);
    store_holds("hello", 5);
    a = ask(KEY);
    ldr_flight_leave(&a->w);
    cr_assert(domain_run_until_held(&f, 1));
    fake_hold(f.store, false);
    cr_assert(domain_run_idle(&f));
    cr_expect(domain_find(&f, KEY, &r));
    cr_expect(not(a->answered));
    free(a);
}

Test(flight, different_objects_and_different_questions_are_not_joined)
{
    struct asker *a, *b, *c, *d;

    fake_hold(f.store, true);
    store_holds("hello", 5);
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = 5 });
    a = ask(KEY);
    b = ask("mem://b/k2");
    c = ask_head();
    d = ask_what(LDR_FETCH_CHUNK, KEY, 0, 5, "\"v1\"");
    cr_expect(domain_run_until_held(&f, 4));
    fake_hold(f.store, false);
    end_of(a), end_of(b), end_of(c), end_of(d);
    cr_expect(eq(int, c->kind, LARDER_OK));
    cr_expect(eq(u64, c->size, 5));
    free(a), free(b), free(c), free(d);
}

Test(flight, who_asks_after_the_answer_starts_anew)
{
    struct asker *a, *b;

    f.prefix.ttl_ns = 0;
    store_holds("one", 3);
    store_then_holds("two", 3);
    a = ask(KEY);
    end_of(a);
    cr_assert(domain_run_idle(&f));
    b = ask(KEY);
    end_of(b);
    expect_bytes(b, "two", 3);
    free(a);
    free(b);
}

Test(flight, a_head_is_joined_only_until_its_request_is_sent)
{
    struct asker *a, *late;

    fake_hold(f.store, true);
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = 1 });
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = 2 });
    a = ask_head();
    cr_assert(domain_run_until_held(&f, 1));
    late = ask_head();
    cr_assert(domain_run_until_held(&f, 2));
    fake_hold(f.store, false);
    end_of(a), end_of(late);
    cr_expect(eq(u64, a->size, 1));
    cr_expect(eq(u64, late->size, 2), "what is true when it asks, not before");
    free(a), free(late);
}

static atomic_bool net_busy;

static void occupy(struct ldr_task *t)
{
    (void)t;
    while (atomic_load(&net_busy))
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

Test(flight, heads_that_are_asked_for_before_it_is_sent_share_it)
{
    struct ldr_task busy = { .run = occupy };
    struct asker *a, *b;

    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = 1 });
    atomic_store(&net_busy, true);
    ldr_net_post(f.net, &busy);
    a = ask_head();
    b = ask_head();
    atomic_store(&net_busy, false);
    end_of(a), end_of(b);
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_HEAD), 1));
    free(a), free(b);
}

/* ---- chunks ---- */

Test(flight, the_same_piece_of_the_same_version_is_asked_for_once)
{
    size_t n = 2 * LDR_MIB;
    uint8_t *body = big_body(n);
    struct asker *a, *same, *elsewhere, *other;

    fake_hold(f.store, true);
    store_holds(body, n);
    a = ask_what(LDR_FETCH_CHUNK, KEY, 100, 1000, "\"v1\"");
    same = ask_what(LDR_FETCH_CHUNK, KEY, 100, 1000, "\"v1\"");
    elsewhere = ask_what(LDR_FETCH_CHUNK, KEY, 101, 1000, "\"v1\"");
    other = ask_what(LDR_FETCH_CHUNK, KEY, 100, 1000, "\"v2\"");
    cr_assert(domain_run_until_held(&f, 3));
    fake_hold(f.store, false);
    end_of(a), end_of(same), end_of(elsewhere), end_of(other);
    expect_bytes(a, body + 100, 1000);
    expect_bytes(same, body + 100, 1000);
    expect_bytes(elsewhere, body + 101, 1000);
    cr_expect(not(a->published));
    free(a), free(same), free(elsewhere), free(other);
    free(body);
}

static bool asked_right;

static void look_at_chunk(void *user, const struct ldr_op *op)
{
    (void)user;
    asked_right =
        op->ranged && op->offset == 262144 && op->length == 300 && op->if_match && !strcmp(op->if_match, "\"v1\"");
}

Test(flight, a_piece_is_asked_for_under_the_condition_of_its_version)
{
    size_t n = 2 * LDR_MIB;
    uint8_t *body = big_body(n);
    struct asker *a, *gone;

    fake_on_op(f.store, look_at_chunk, NULL);
    store_holds(body, n);
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_PRECONDITION, .http = 412 });
    a = ask_what(LDR_FETCH_CHUNK, KEY, 262144, 300, "\"v1\"");
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(asked_right);
    expect_bytes(a, body + 262144, 300);
    gone = ask_what(LDR_FETCH_CHUNK, KEY, 262144, 300, "\"v1\"");
    cr_expect(eq(int, end_of(gone), LARDER_PRECONDITION), "another version: never a mix");
    free(a), free(gone);
    free(body);
}

Test(flight, the_last_piece_is_as_short_as_the_object)
{
    struct asker *a;

    store_holds("hello", 5);
    a = ask_what(LDR_FETCH_CHUNK, KEY, 3, 1000, "\"v1\"");
    cr_assert(eq(int, end_of(a), LARDER_OK));
    expect_bytes(a, "lo", 2);
    free(a);
}

/* ---- writes ---- */

static struct ldr_keystate *write_begin(void)
{
    struct ldr_name *n = domain_name(&f, KEY);
    struct ldr_keystate *k = NULL;

    cr_assert(eq(int, ldr_flight_write_begin(&f.domain, n, &k, &err), LARDER_OK));
    ldr_name_unref(&n);
    return k;
}

static void write_end(struct ldr_keystate *k)
{
    ldr_flight_write_settle(k);
    ldr_flight_write_end(&f.domain, &k);
    cr_expect(k == NULL);
}

Test(flight, a_fill_that_began_before_a_write_stores_nothing)
{
    size_t n = 100 * 1000;
    uint8_t *body = big_body(n);
    const char *old[] = { "small", (const char *)body };
    size_t sizes[] = { 5, n };
    struct ldr_record r;

    for (int i = 0; i < 2; i++) {
        struct ldr_keystate *k;
        struct asker *a;

        fake_silence(f.store, LDR_OP_GET);
        store_holds(old[i], sizes[i]);
        fake_hold(f.store, true);
        a = ask(KEY);
        cr_assert(domain_run_until_held(&f, 1));
        k = write_begin();
        write_end(k); /* it is over even before the fill's answer comes */
        fake_hold(f.store, false);
        cr_assert(eq(int, end_of(a), LARDER_OK), "its askers are answered");
        expect_bytes(a, old[i], sizes[i]);
        cr_expect(not(a->published));
        cr_expect(a->why[0] != '\0');
        cr_expect(not(domain_find(&f, KEY, &r)));
        cr_expect(domain_sound(&f));
        free(a);
    }
    free(body);
}

Test(flight, who_asks_after_a_write_does_not_get_what_was_asked_before_it)
{
    struct asker *before, *during, *after;
    struct ldr_keystate *k;

    fake_hold(f.store, true);
    store_holds("before", 6);
    store_holds("during", 6);
    store_holds("after", 5);
    before = ask(KEY);
    cr_assert(domain_run_until_held(&f, 1));
    k = write_begin();
    during = ask(KEY);
    cr_assert(domain_run_until_held(&f, 2));
    write_end(k);
    after = ask(KEY);
    cr_assert(domain_run_until_held(&f, 3));
    fake_hold(f.store, false);
    end_of(before), end_of(during), end_of(after);
    expect_bytes(after, "after", 5);
    cr_expect(not(before->published));
    cr_expect(not(during->published));
    cr_expect(after->published);
    free(before), free(during), free(after);
}

Test(flight, a_write_of_one_object_leaves_the_others_alone)
{
    struct ldr_keystate *k;
    struct asker *a;

    fake_hold(f.store, true);
    store_holds("x", 1);
    a = ask("mem://b/other");
    cr_assert(domain_run_until_held(&f, 1));
    k = write_begin();
    fake_hold(f.store, false);
    end_of(a);
    cr_expect(a->published);
    write_end(k);
    free(a);
}

Test(flight, writes_know_whether_they_were_alone_and_which_settles_last)
{
    struct ldr_keystate *a = write_begin(), *b, *c;

    cr_expect(ldr_flight_write_alone(a));
    cr_expect(ldr_flight_write_settle(a), "nobody else will post a change");
    b = write_begin();
    cr_expect(not(ldr_flight_write_alone(a)));
    cr_expect(not(ldr_flight_write_alone(b)));
    ldr_flight_write_end(&f.domain, &a);
    cr_expect(not(ldr_flight_write_alone(b)), "the other is over, and it was there");
    c = write_begin();
    cr_expect(not(ldr_flight_write_settle(b)));
    cr_expect(ldr_flight_write_settle(c), "the last to settle, although both are still under way");
    ldr_flight_write_end(&f.domain, &c);
    ldr_flight_write_end(&f.domain, &b);
    cr_expect(ldr_flights_idle(f.domain.flights));
    a = write_begin();
    cr_expect(ldr_flight_write_alone(a), "the past is forgotten once none is left");
    cr_expect(ldr_flight_write_settle(a));
    ldr_flight_write_end(&f.domain, &a);
}

/* ---- the agent stops ---- */

Test(flight, askers_are_answered_when_the_agent_stops)
{
    struct asker *a;

    fake_say(f.store, LDR_OP_GET,
             (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .retry_after_ms = 600 * 1000 });
    fake_say(f.store, LDR_OP_GET, (struct fake_answer){ .kind = LARDER_CANCELLED });
    a = ask(KEY);
    while (fake_seen(f.store, LDR_OP_GET) == 0)
        domain_step(&f, false);
    ldr_net_shutdown(f.net);
    cr_expect(ne(int, end_of(a), LARDER_OK));
    free(a);
}
