/* upload_test.c - puts and deletes: the intent before the request, what is in the index afterwards, and who is told. */
#include "agent/upload.h"
#include "common/clock.h"
#include "common/hash.h"
#include "tests/support/domain_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define KEY  "mem://b/k"
#define PART LDR_WIRE_PART

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct domain_fixture f;
static struct larder_err err;
static uint64_t next_op = 1;

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

TestSuite(upload, .init = make_domain, .fini = end_domain, .timeout = 60);

/* ---- writers ---- */

struct writer {
    struct ldr_write_waiter w;
    bool answered;
    unsigned answers;
    enum larder_kind started, kind;
    char msg[512];
    bool has_meta, cached;
    uint64_t size, txnid;
    struct ldr_id id;
    char validator[64];
};

static void answer(struct ldr_write_waiter *w, const struct ldr_write_result *r)
{
    struct writer *a = LDR_CONTAINER(w, struct writer, w);

    a->answered = true;
    a->answers++;
    a->kind = r->kind;
    a->txnid = r->txnid;
    strcpy(a->msg, r->err->msg);
    a->has_meta = r->meta != NULL;
    if (r->meta) {
        a->size = r->meta->size_bytes;
        ldr_meta_text(r->meta, LDR_TAG_VALIDATOR, a->validator, sizeof a->validator);
    }
    a->cached = r->id != NULL;
    if (r->id)
        a->id = *r->id;
}

static struct writer *put_args(const char *uri, struct ldr_put_args args)
{
    struct writer *a = calloc(1, sizeof *a);

    args.name = domain_name(&f, uri);
    args.op_id = args.op_id ? args.op_id : next_op++;
    args.deadline_ns = args.deadline_ns ? args.deadline_ns : LDR_NEVER;
    a->w.answer = answer;
    a->started = ldr_upload_put(&f.domain, &args, &a->w, &err);
    ldr_name_unref(&args.name);
    return a;
}

static struct writer *put_bytes(const char *uri, const void *p, size_t n)
{
    struct writer *a = put_args(uri, (struct ldr_put_args){ .data = p, .data_len = n, .size = n });

    cr_assert(eq(int, a->started, LARDER_OK), "%s", err.msg);
    return a;
}

static struct writer *put(const char *text)
{
    return put_bytes(KEY, text, strlen(text));
}

static struct writer *delete_op(uint64_t op_id)
{
    struct writer *a = calloc(1, sizeof *a);
    struct ldr_name *n = domain_name(&f, KEY);

    a->w.answer = answer;
    cr_assert(eq(int, ldr_upload_delete(&f.domain, op_id, LDR_NEVER, n, &a->w, &err), LARDER_OK));
    ldr_name_unref(&n);
    return a;
}

static enum larder_kind end_of(struct writer *a)
{
    cr_assert(domain_run_until(&f, &a->answered), "no answer");
    cr_expect(eq(uint, a->answers, 1));
    return a->kind;
}

static enum larder_kind end(struct writer *a)
{
    enum larder_kind k = end_of(a);

    free(a);
    return k;
}

static const struct fake_answer good = { .validator = "\"v1\"" };

static bool holds(const char *text)
{
    struct ldr_record r;

    return domain_find(&f, KEY, &r) && r.payload_len == strlen(text) && !memcmp(r.payload, text, r.payload_len);
}

static bool missing(void)
{
    struct ldr_record r;

    return !domain_find(&f, KEY, &r);
}

static uint8_t *some_bytes(size_t n)
{
    uint8_t *p = malloc(n);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 11 + i / 253);
    return p;
}

static void send_parts(uint64_t upload_id, const uint8_t *p, size_t n)
{
    for (size_t at = 0; at < n; at += PART)
        cr_assert(eq(int, domain_part(&f, upload_id, n, at, p + at, n - at < PART ? n - at : PART, &err), LARDER_OK),
                  "%s", err.msg);
}

/* ---- put ---- */

Test(upload, what_was_put_is_in_the_cache_when_its_writer_is_answered)
{
    struct ldr_record r;
    struct writer *a;

    fake_say(f.store, LDR_OP_PUT, good);
    a = put("hello");
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(a->cached && a->has_meta);
    cr_expect(eq(u64, a->size, 5));
    cr_expect(eq(str, a->validator, "\"v1\""));
    cr_expect(gt(u64, a->txnid, 0));
    cr_assert(domain_find(&f, KEY, &r));
    cr_expect(eq(int, memcmp(&r.id, &a->id, sizeof r.id), 0));
    cr_expect(ne(uint, r.flags & LDR_FLAG_LM_UNKNOWN, 0), "no store said when: the first head asks");
    cr_expect(eq(i64, r.last_modified_s, LDR_TIME_UNKNOWN));
    cr_expect(holds("hello"));
    cr_expect(not(domain_has_intent(&f, KEY)));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 1));
    free(a);
}

Test(upload, a_larger_body_becomes_a_block)
{
    size_t n = 100 * 1000;
    uint8_t *p = some_bytes(n), *have = malloc(n);
    struct ldr_record r;
    int fd;

    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, end(put_bytes(KEY, p, n)), LARDER_OK));
    cr_assert(domain_find(&f, KEY, &r));
    fd = ldr_blocks_open(&f.domain.blocks, &r, 0);
    cr_assert(fd >= 0);
    cr_expect(pread(fd, have, n, 0) == (ssize_t)n && !memcmp(p, have, n));
    close(fd);
    cr_expect(domain_sound(&f));
    free(p), free(have);
}

Test(upload, an_empty_object_can_be_put)
{
    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, end(put("")), LARDER_OK));
    cr_expect(holds(""));
}

Test(upload, the_writers_fields_reach_the_store_and_the_record)
{
    struct ldr_field found;
    struct ldr_record r;
    struct ldr_meta m;
    struct writer *a;

    ldr_meta_init(&m);
    ldr_meta_add_text(&m, LDR_TAG_CONTENT_TYPE, "text/plain");
    ldr_meta_add_pair(&m, LDR_TAG_USER, "who", "me");
    fake_say(f.store, LDR_OP_PUT, good);
    a = put_args(KEY,
                 (struct ldr_put_args){
                     .data = (const uint8_t *)"x", .data_len = 1, .fields = m.fields.p, .fields_len = m.fields.len });
    cr_assert(eq(int, a->started, LARDER_OK));
    cr_assert(eq(int, end(a), LARDER_OK));
    cr_assert(domain_find(&f, KEY, &r));
    cr_expect(ldr_fields_find(r.fields, r.fields_len, LDR_TAG_CONTENT_TYPE, &found));
    cr_expect(ldr_fields_find(r.fields, r.fields_len, LDR_TAG_USER, &found));
    cr_expect(ldr_fields_find(r.fields, r.fields_len, LDR_TAG_VALIDATOR, &found));
    ldr_meta_release(&m);
}

Test(upload, a_writer_cannot_name_the_version_itself)
{
    static const enum ldr_tag tags[] = { LDR_TAG_VALIDATOR, LDR_TAG_ETAG, LDR_TAG_VERSION, LDR_TAG_KEY };

    fake_say(f.store, LDR_OP_PUT, good);
    for (size_t i = 0; i < LDR_ARRAY_LEN(tags); i++) {
        struct ldr_meta m;
        struct writer *a;

        ldr_meta_init(&m);
        ldr_meta_add_text(&m, tags[i], "mine");
        a = put_args(KEY, (struct ldr_put_args){ .fields = m.fields.p, .fields_len = m.fields.len });
        cr_expect(eq(int, a->started, LARDER_INVALID), "tag %d", tags[i]);
        cr_expect(not(a->answered));
        free(a);
        ldr_meta_release(&m);
    }
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 0));
}

Test(upload, a_full_cache_does_not_stop_a_write)
{
    size_t n = 100 * 1000;
    uint8_t *p = some_bytes(n);
    struct writer *a;

    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, end(put("old")), LARDER_OK));
    f.domain.space.max_bytes = 1;
    a = put_bytes(KEY, p, n);
    cr_expect(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->cached));
    cr_expect(missing(), "and the older bytes are gone");
    free(a), free(p);
}

Test(upload, a_full_index_does_not_stop_a_write_and_the_block_goes_back)
{
    size_t n = 100 * 1000;
    uint8_t *p = some_bytes(n);
    struct writer *a;

    cr_assert(domain_close(&f));
    domain_open(&f, dir, &(struct domain_options){ .inline_bytes = 100 });
    fake_say(f.store, LDR_OP_PUT, good);
    a = put_bytes(KEY, p, n);
    cr_expect(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->cached));
    cr_expect(domain_sound(&f));
    free(a), free(p);
}

/* ---- the intent ---- */

static struct ldr_reader *net_reader;
static atomic_uint with_intent, without_intent;

static void look_for_intent(void *user, const struct ldr_op *op)
{
    uint8_t key[LDR_INTENT_KEY_MAX];
    size_t n = ldr_intent_key(KEY, strlen(KEY), key);
    struct ldr_record r;
    uint64_t txnid;

    (void)user;
    (void)op;
    if (ldr_reader_find(net_reader, key, n, &r, &txnid) == LARDER_CORRUPT) /* there, and no record */
        atomic_fetch_add(&with_intent, 1);
    else
        atomic_fetch_add(&without_intent, 1);
}

Test(upload, the_intent_is_committed_before_any_request_leaves)
{
    size_t n = 300 * 1000;
    uint8_t *p = some_bytes(n);

    cr_assert(eq(int, ldr_reader_open(f.domain.index, &net_reader, &err), LARDER_OK));
    fake_on_op(f.store, look_for_intent, NULL);
    fake_say(f.store, LDR_OP_PUT, (struct fake_answer){ .kind = LARDER_UNAVAILABLE });
    fake_say(f.store, LDR_OP_PUT, good);
    fake_say(f.store, LDR_OP_DELETE, good);
    cr_expect(eq(int, end(put("small")), LARDER_OK));
    send_parts(7, p, n);
    cr_expect(eq(int, end(put_args(KEY, (struct ldr_put_args){ .upload_id = 7, .size = n })), LARDER_OK));
    cr_expect(eq(int, end(delete_op(next_op++)), LARDER_OK));
    cr_expect(eq(uint, atomic_load(&with_intent), 4), "two tries of the first put, the second, the delete");
    cr_expect(eq(uint, atomic_load(&without_intent), 0));
    cr_expect(not(domain_has_intent(&f, KEY)));
    ldr_reader_close(&net_reader);
    free(p);
}

Test(upload, readers_keep_the_old_version_until_the_store_has_the_new_one)
{
    struct writer *a;

    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, end(put("old")), LARDER_OK));
    fake_hold(f.store, true);
    a = put("new");
    cr_assert(domain_run_until_held(&f, 1));
    cr_expect(holds("old"));
    cr_expect(domain_has_intent(&f, KEY));
    fake_hold(f.store, false);
    cr_assert(eq(int, end(a), LARDER_OK));
    cr_expect(holds("new"));
}

/* ---- failures ---- */

static void expect_failure(struct fake_answer first, struct fake_answer then, enum larder_kind kind)
{
    fake_silence(f.store, LDR_OP_PUT);
    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, end(put("old")), LARDER_OK));
    cr_assert(holds("old"));
    fake_silence(f.store, LDR_OP_PUT);
    fake_say(f.store, LDR_OP_PUT, first);
    fake_say(f.store, LDR_OP_PUT, then);
    cr_expect(eq(int, end(put("new")), kind));
    cr_expect(missing(), "failed or unknown: the record goes");
    cr_expect(not(domain_has_intent(&f, KEY)));
}

#define FAIL(k, status, was_sent)                                                                                      \
    (struct fake_answer)                                                                                               \
    {                                                                                                                  \
        .kind = LARDER_##k, .http = (status), .sent = (was_sent)                                                       \
    }

Test(upload, a_write_that_failed_takes_the_record_with_it)
{
    expect_failure(FAIL(DENIED, 403, true), FAIL(DENIED, 403, true), LARDER_DENIED);
    expect_failure(FAIL(NOT_FOUND, 404, true), FAIL(NOT_FOUND, 404, true), LARDER_NOT_FOUND);
}

Test(upload, a_store_that_was_busy_or_not_reached_did_not_write)
{
    expect_failure(FAIL(UNAVAILABLE, 503, true), FAIL(UNAVAILABLE, 503, true), LARDER_UNAVAILABLE);
    expect_failure(FAIL(UNAVAILABLE, 0, false), FAIL(UNAVAILABLE, 0, false), LARDER_UNAVAILABLE);
}

Test(upload, a_connection_that_broke_after_the_request_leaves_the_outcome_unknown)
{
    expect_failure(FAIL(UNAVAILABLE, 0, true), FAIL(UNAVAILABLE, 0, true), LARDER_OUTCOME_UNKNOWN);
    expect_failure(FAIL(UNAVAILABLE, 500, true), FAIL(UNAVAILABLE, 500, true), LARDER_OUTCOME_UNKNOWN);
    expect_failure(FAIL(TIMEOUT, 0, true), FAIL(TIMEOUT, 0, true), LARDER_OUTCOME_UNKNOWN);
    expect_failure(FAIL(CANCELLED, 0, true), FAIL(CANCELLED, 0, true), LARDER_OUTCOME_UNKNOWN);
}

Test(upload, an_unknown_outcome_stays_unknown_whatever_the_next_try_says)
{
    expect_failure(FAIL(UNAVAILABLE, 0, true), FAIL(UNAVAILABLE, 503, true), LARDER_OUTCOME_UNKNOWN);
    expect_failure(FAIL(UNAVAILABLE, 0, true), FAIL(DENIED, 403, true), LARDER_OUTCOME_UNKNOWN);
}

Test(upload, a_try_that_succeeds_makes_up_for_one_that_is_unknown)
{
    fake_say(f.store, LDR_OP_PUT, FAIL(UNAVAILABLE, 0, true));
    fake_say(f.store, LDR_OP_PUT, good);
    cr_expect(eq(int, end(put("new")), LARDER_OK));
    cr_expect(holds("new"));
}

/* ---- delete ---- */

Test(upload, a_deleted_object_is_gone_from_the_cache_when_its_writer_is_answered)
{
    size_t n = 100 * 1000;
    uint8_t *p = some_bytes(n);
    struct writer *a;

    fake_say(f.store, LDR_OP_PUT, good);
    fake_say(f.store, LDR_OP_DELETE, good);
    cr_assert(eq(int, end(put_bytes(KEY, p, n)), LARDER_OK));
    a = delete_op(next_op++);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->has_meta));
    cr_expect(not(a->cached));
    cr_expect(missing());
    cr_expect(domain_sound(&f), "its block is unlinked");
    free(a), free(p);
}

Test(upload, a_delete_that_is_tried_again_and_finds_nothing_is_known_to_be_done)
{
    fake_say(f.store, LDR_OP_DELETE, FAIL(UNAVAILABLE, 0, true));
    fake_say(f.store, LDR_OP_DELETE, FAIL(NOT_FOUND, 404, true));
    cr_expect(eq(int, end(delete_op(next_op++)), LARDER_NOT_FOUND));
}

Test(upload, a_delete_whose_outcome_is_unknown_takes_the_record_with_it)
{
    fake_say(f.store, LDR_OP_PUT, good);
    fake_say(f.store, LDR_OP_DELETE, FAIL(UNAVAILABLE, 0, true));
    cr_assert(eq(int, end(put("old")), LARDER_OK));
    cr_expect(eq(int, end(delete_op(next_op++)), LARDER_OUTCOME_UNKNOWN));
    cr_expect(missing());
}

/* ---- copy ---- */

static struct writer *copy_from(const char *from, uint64_t op_id)
{
    struct writer *a = calloc(1, sizeof *a);
    struct ldr_name *source = domain_name(&f, from), *n = domain_name(&f, KEY);

    a->w.answer = answer;
    a->started = ldr_upload_copy(&f.domain, op_id, LDR_NEVER, source, n, &a->w, &err);
    ldr_name_unref(&source);
    ldr_name_unref(&n);
    return a;
}

static char copied[2][64];

static void look_at_copy(void *user, const struct ldr_op *op)
{
    (void)user;
    if (op->what == LDR_OP_COPY) {
        snprintf(copied[0], sizeof copied[0], "%s %s %s", op->from_uri, op->from_container, op->from_key);
        snprintf(copied[1], sizeof copied[1], "%s %s %s", op->uri, op->container, op->key);
    }
}

Test(upload, a_copy_takes_the_record_of_its_target_with_it)
{
    size_t n = 100 * 1000;
    uint8_t *p = some_bytes(n);
    struct writer *a;

    fake_on_op(f.store, look_at_copy, NULL);
    fake_say(f.store, LDR_OP_PUT, good);
    fake_say(f.store, LDR_OP_COPY, good);
    cr_assert(eq(int, end(put_bytes(KEY, p, n)), LARDER_OK));
    a = copy_from("mem://b/other", next_op++);
    cr_assert(eq(int, a->started, LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, end_of(a), LARDER_OK));
    cr_expect(eq(str, copied[0], "mem://b/other b other"));
    cr_expect(eq(str, copied[1], "mem://b/k b k"));
    cr_expect(not(a->has_meta));
    cr_expect(not(a->cached));
    cr_expect(missing(), "the new bytes never came here");
    cr_expect(not(domain_has_intent(&f, KEY)));
    cr_expect(domain_sound(&f), "its block is unlinked");
    cr_expect(eq(u64, atomic_load(&f.domain.counters.store_copies), 1));
    free(a), free(p);
}

Test(upload, a_copy_that_failed_or_may_have_happened_takes_the_record_with_it)
{
    static const struct {
        struct fake_answer answer;
        enum larder_kind kind;
    } cases[] = { { { .kind = LARDER_NOT_FOUND, .http = 404, .sent = true }, LARDER_NOT_FOUND },
                  { { .kind = LARDER_DENIED, .http = 403, .sent = true }, LARDER_DENIED },
                  { { .kind = LARDER_UNAVAILABLE, .http = 200, .sent = true }, LARDER_OUTCOME_UNKNOWN },
                  { { .kind = LARDER_UNAVAILABLE, .sent = true }, LARDER_OUTCOME_UNKNOWN } };

    fake_say(f.store, LDR_OP_PUT, good);
    for (size_t i = 0; i < LDR_ARRAY_LEN(cases); i++) {
        cr_assert(eq(int, end(put("old")), LARDER_OK));
        fake_silence(f.store, LDR_OP_COPY);
        fake_say(f.store, LDR_OP_COPY, cases[i].answer);
        cr_expect(eq(int, end(copy_from("mem://b/other", next_op++)), cases[i].kind));
        cr_expect(missing());
        cr_expect(not(domain_has_intent(&f, KEY)));
    }
}

Test(upload, a_copy_that_is_sent_again_is_carried_out_once)
{
    struct writer *a, *b;

    fake_say(f.store, LDR_OP_COPY, good);
    cr_expect(eq(int, end(copy_from("mem://b/other", 99)), LARDER_OK));
    a = copy_from("mem://b/other", 99);
    cr_expect(a->answered && a->kind == LARDER_OK);
    b = copy_from(KEY, next_op++); /* onto itself: the store's to say */
    cr_expect(eq(int, end_of(b), LARDER_OK));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_COPY), 2));
    free(a), free(b);
}

Test(upload, a_copy_is_refused_where_the_store_has_none_or_there_are_two)
{
    struct ldr_name *from = domain_name(&f, "mem://b/other"), *to = domain_name(&f, KEY);
    struct ldr_backend other = *from->backend;
    struct writer *a;

    from->backend = &other;
    a = calloc(1, sizeof *a);
    cr_expect(eq(int, ldr_upload_copy(&f.domain, 1, LDR_NEVER, from, to, &a->w, &err), LARDER_UNSUPPORTED));
    cr_expect(strstr(err.msg, KEY) && strstr(err.msg, "mem://b/other"), "%s", err.msg);
    free(a);
    fake_no_copy(f.store);
    a = copy_from("mem://b/other", 2);
    cr_expect(eq(int, a->started, LARDER_UNSUPPORTED));
    cr_expect(strstr(err.msg, "fake") != NULL, "%s", err.msg);
    cr_expect(not(a->answered));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_COPY), 0));
    free(a);
    ldr_name_unref(&from);
    ldr_name_unref(&to);
}

/* ---- two at once ---- */

Test(upload, of_writes_that_overlap_none_fills_the_cache_and_no_intent_is_left)
{
    size_t n = 100 * 1000;
    uint8_t *p = some_bytes(n);

    for (int rounds = 0; rounds < 5; rounds++) {
        struct writer *a, *b;

        fake_silence(f.store, LDR_OP_PUT);
        fake_say(f.store, LDR_OP_PUT, good);
        cr_assert(eq(int, end(put("old")), LARDER_OK));
        fake_hold(f.store, true);
        a = put("first");
        b = put_bytes(KEY, p, n);
        cr_assert(domain_run_until_held(&f, 2));
        fake_hold(f.store, false); /* both answers reach the ipc thread before either change is committed */
        cr_expect(eq(int, end_of(a), LARDER_OK));
        cr_expect(eq(int, end_of(b), LARDER_OK));
        cr_expect(not(a->cached));
        cr_expect(not(b->cached));
        cr_expect(missing(), "nobody knows whose bytes the store kept");
        cr_expect(not(domain_has_intent(&f, KEY)));
        cr_assert(domain_sound(&f));
        free(a), free(b);
    }
    cr_expect(eq(int, end(put("alone")), LARDER_OK));
    cr_expect(holds("alone"), "and the next one is kept again");
    free(p);
}

/* The answers of the store, one by one: the changes of the first writes are committed while the last is still sent. */
Test(upload, writes_that_overlap_in_a_chain_leave_nothing_behind)
{
    struct writer *a, *b, *c;

    fake_say(f.store, LDR_OP_PUT, good);
    fake_hold(f.store, true);
    a = put("a");
    cr_assert(domain_run_until_held(&f, 1));
    b = put("b");
    cr_assert(domain_run_until_held(&f, 2));
    fake_let(f.store);
    cr_expect(eq(int, end(a), LARDER_OK));
    c = put("c");
    cr_assert(domain_run_until_held(&f, 2));
    fake_let(f.store);
    cr_expect(eq(int, end(b), LARDER_OK));
    cr_expect(domain_has_intent(&f, KEY), "c is still on its way");
    fake_let(f.store);
    cr_expect(eq(int, end(c), LARDER_OK));
    cr_expect(missing());
    cr_expect(not(domain_has_intent(&f, KEY)));
}

Test(upload, a_write_and_a_delete_that_overlap_leave_no_record)
{
    struct writer *a, *b;

    fake_say(f.store, LDR_OP_PUT, good);
    fake_say(f.store, LDR_OP_DELETE, good);
    fake_hold(f.store, true);
    a = put("x");
    b = delete_op(next_op++);
    cr_assert(domain_run_until_held(&f, 2));
    fake_hold(f.store, false);
    cr_expect(eq(int, end(a), LARDER_OK));
    cr_expect(eq(int, end(b), LARDER_OK));
    cr_expect(missing());
    cr_expect(not(domain_has_intent(&f, KEY)));
}

/* ---- sent again ---- */

Test(upload, a_request_that_is_sent_again_is_carried_out_once)
{
    struct ldr_put_args args = { .op_id = 99, .data = (const uint8_t *)"x", .data_len = 1 };
    struct writer *a, *b, *c;

    fake_say(f.store, LDR_OP_PUT, good);
    fake_hold(f.store, true);
    a = put_args(KEY, args);
    b = put_args(KEY, args); /* while it is under way */
    cr_assert(domain_run_until_held(&f, 1));
    fake_hold(f.store, false);
    cr_expect(eq(int, end_of(a), LARDER_OK));
    cr_expect(eq(int, end_of(b), LARDER_OK));
    c = put_args(KEY, args); /* and when it has ended: answered at once */
    cr_expect(c->answered && c->kind == LARDER_OK && c->w.write == NULL);
    cr_expect(eq(u64, c->txnid, a->txnid));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 1));
    free(a), free(b), free(c);
}

Test(upload, a_failure_is_remembered_for_who_asks_again)
{
    struct ldr_put_args args = { .op_id = 99, .data = (const uint8_t *)"x", .data_len = 1 };
    struct writer *a, *b;

    fake_say(f.store, LDR_OP_PUT, FAIL(DENIED, 403, true));
    a = put_args(KEY, args);
    cr_expect(eq(int, end_of(a), LARDER_DENIED));
    b = put_args(KEY, args);
    cr_expect(b->answered && b->kind == LARDER_DENIED);
    cr_expect(eq(str, a->msg, b->msg));
    free(a), free(b);
}

Test(upload, a_write_goes_on_when_its_writer_goes_away)
{
    struct writer *a;

    fake_say(f.store, LDR_OP_PUT, good);
    fake_hold(f.store, true);
    a = put("x");
    ldr_upload_leave(&a->w);
    ldr_upload_leave(&a->w);
    cr_assert(domain_run_until_held(&f, 1));
    fake_hold(f.store, false);
    cr_assert(domain_run_idle(&f));
    cr_expect(holds("x"));
    cr_expect(not(a->answered));
    free(a);
}

/* ---- bodies in parts ---- */

Test(upload, parts_become_one_body_and_one_request)
{
    size_t n = 5 * PART + 77;
    uint8_t *p = some_bytes(n);
    struct ldr_record r;
    uint8_t *have = malloc(n);
    int fd;

    fake_say(f.store, LDR_OP_PUT, good);
    send_parts(7, p, n);
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 0), "nothing is sent before it is whole");
    cr_assert(eq(int, end(put_args(KEY, (struct ldr_put_args){ .upload_id = 7, .size = n })), LARDER_OK));
    cr_assert(domain_find(&f, KEY, &r));
    fd = ldr_blocks_open(&f.domain.blocks, &r, 0);
    cr_expect(fd >= 0 && pread(fd, have, n, 0) == (ssize_t)n && !memcmp(p, have, n));
    close(fd);
    cr_expect(not(ldr_uploads_open(f.domain.uploads)));
    free(p), free(have);
}

Test(upload, a_small_body_may_come_in_parts_too)
{
    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, domain_part(&f, 7, 5, 0, "he", 2, &err), LARDER_OK));
    cr_assert(eq(int, domain_part(&f, 7, 5, 2, "llo", 3, &err), LARDER_OK));
    cr_assert(eq(int, end(put_args(KEY, (struct ldr_put_args){ .upload_id = 7, .size = 5 })), LARDER_OK));
    cr_expect(holds("hello"));
    cr_assert(eq(int, domain_part(&f, 8, 0, 0, NULL, 0, &err), LARDER_OK), "even nothing");
    cr_assert(eq(int, end(put_args(KEY, (struct ldr_put_args){ .upload_id = 8 })), LARDER_OK));
    cr_expect(holds(""));
}

Test(upload, a_part_may_be_sent_again_and_no_part_may_be_left_out)
{
    uint8_t *p = some_bytes(3 * PART);
    struct ldr_domain *d = &f.domain;

    fake_say(f.store, LDR_OP_PUT, good);
    cr_expect(eq(int, domain_part(&f, 7, 3 * PART, PART, p, PART, &err), LARDER_INVALID), "not the first");
    cr_expect(not(ldr_uploads_open(d->uploads)), "and nothing is kept for it");
    cr_expect(eq(int, domain_part(&f, 7, 3 * PART, 0, p, PART, &err), LARDER_OK));
    cr_expect(eq(int, domain_part(&f, 7, 3 * PART, 0, p, PART, &err), LARDER_OK), "again");
    cr_expect(eq(int, domain_part(&f, 7, 3 * PART, 2 * PART, p, PART, &err), LARDER_INVALID), "a gap");
    cr_expect(eq(int, domain_part(&f, 7, 3 * PART, 100, p, PART, &err), LARDER_INVALID), "half again, half new");
    cr_expect(eq(int, domain_part(&f, 7, 4 * PART, PART, p, PART, &err), LARDER_INVALID), "another size");
    cr_expect(eq(int, domain_part(&f, 7, 3 * PART, PART, p + PART, PART, &err), LARDER_OK));
    cr_expect(eq(int, domain_part(&f, 7, 3 * PART, 2 * PART, p + 2 * PART, PART, &err), LARDER_OK));
    cr_expect(eq(int, end(put_args(KEY, (struct ldr_put_args){ .upload_id = 7, .size = 3 * PART })), LARDER_OK));
    free(p);
}

Test(upload, a_body_of_which_parts_are_missing_is_not_put)
{
    struct writer *a, *b, *c;

    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, domain_part(&f, 7, 300000, 0, "he", 2, &err), LARDER_OK));
    a = put_args(KEY, (struct ldr_put_args){ .upload_id = 7, .size = 300000 });
    cr_expect(eq(int, a->started, LARDER_INVALID));
    b = put_args(KEY, (struct ldr_put_args){ .upload_id = 7, .size = 2 });
    cr_expect(eq(int, b->started, LARDER_INVALID));
    c = put_args(KEY, (struct ldr_put_args){ .upload_id = 8, .size = 5 });
    cr_expect(eq(int, c->started, LARDER_INVALID));
    cr_expect(a->answers + b->answers + c->answers == 0);
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 0));
    ldr_upload_abort(&f.domain, 7);
    free(a), free(b), free(c);
}

Test(upload, an_abort_gives_the_space_back)
{
    uint64_t before = atomic_load(&f.domain.space.bytes);

    cr_assert(eq(int, domain_part(&f, 7, 300000, 0, "x", 1, &err), LARDER_OK));
    cr_expect(gt(u64, atomic_load(&f.domain.space.bytes), before));
    ldr_upload_abort(&f.domain, 7);
    ldr_upload_abort(&f.domain, 7);
    ldr_upload_abort(&f.domain, 12345);
    cr_expect(eq(u64, atomic_load(&f.domain.space.bytes), before));
    cr_expect(not(ldr_uploads_open(f.domain.uploads)));
}

Test(upload, bodies_of_which_nothing_is_heard_for_a_minute_are_dropped)
{
    int64_t now;

    cr_assert(eq(int, domain_part(&f, 7, 300000, 0, "x", 1, &err), LARDER_OK));
    now = ldr_mono_ns();
    ldr_upload_sweep(&f.domain, now + 59 * LDR_NS_PER_S);
    cr_expect(ldr_uploads_open(f.domain.uploads));
    ldr_upload_sweep(&f.domain, now + 61 * LDR_NS_PER_S);
    cr_expect(not(ldr_uploads_open(f.domain.uploads)));
    cr_expect(domain_sound(&f));
}

Test(upload, too_many_open_bodies_are_refused_and_the_others_go_on)
{
    uint64_t n = 0;

    while (n < 1000 && domain_part(&f, 1000 + n, 5, 0, "he", 2, &err) == LARDER_OK)
        n++;
    cr_expect(eq(u64, n, 64));
    cr_expect(eq(int, domain_part(&f, 5, 5, 0, "he", 2, &err), LARDER_UNAVAILABLE));
    fake_say(f.store, LDR_OP_PUT, good);
    cr_expect(eq(int, domain_part(&f, 1000, 5, 2, "llo", 3, &err), LARDER_OK));
    cr_expect(eq(int, end(put_args(KEY, (struct ldr_put_args){ .upload_id = 1000, .size = 5 })), LARDER_OK));
    cr_expect(eq(int, domain_part(&f, 5, 5, 0, "he", 2, &err), LARDER_OK));
}

Test(upload, a_body_that_the_cache_has_no_room_for_waits_in_memory)
{
    size_t n = 3 * PART;
    uint8_t *p = some_bytes(n);
    struct writer *a;

    f.domain.space.max_bytes = 1;
    fake_say(f.store, LDR_OP_PUT, good);
    send_parts(7, p, n);
    a = put_args(KEY, (struct ldr_put_args){ .upload_id = 7, .size = n });
    cr_expect(eq(int, end_of(a), LARDER_OK));
    cr_expect(not(a->cached));
    free(a), free(p);
}

Test(upload, a_part_that_could_not_be_written_costs_the_body_and_is_never_put_twice)
{
    struct rlimit rl = { LDR_MIB, RLIM_INFINITY };
    size_t n = 3 * LDR_MIB, at;
    uint8_t *p = some_bytes(n);
    enum larder_kind k = LARDER_OK;

    cr_assert(domain_close(&f));
    domain_open(&f, dir, &(struct domain_options){ .block_size = 4 * LDR_MIB });
    signal(SIGXFSZ, SIG_IGN);
    cr_assert(eq(int, domain_part(&f, 7, n, 0, p, PART, &err), LARDER_OK));
    setrlimit(RLIMIT_FSIZE, &rl);
    for (at = PART; !k && at < n; at += PART)
        k = domain_part(&f, 7, n, at, p + at, PART, &err);
    cr_assert(eq(int, k, LARDER_IO));
    rl.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &rl);
    at -= PART;
    cr_expect(eq(int, domain_part(&f, 7, n, at, p + at, PART, &err), LARDER_INVALID), "it is not there");
    cr_expect(domain_sound(&f));
    free(p);
}

/* ---- conditions ---- */

static char condition[64];

static void look_at_condition(void *user, const struct ldr_op *op)
{
    (void)user;
    snprintf(condition, sizeof condition, "%s", op->if_match ? op->if_match : "none");
}

Test(upload, create_only_is_refused_where_the_store_cannot_promise_it)
{
    struct writer *a = put_args(KEY, (struct ldr_put_args){ .create_only = true });

    cr_expect(eq(int, a->started, LARDER_UNSUPPORTED));
    cr_expect(strstr(err.msg, "fake") != NULL, "%s", err.msg);
    cr_expect(not(a->answered));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 0), "never sent without the condition");
    free(a);
}

Test(upload, if_match_reaches_the_store_as_it_compares_it_or_is_refused)
{
    struct writer *a = put_args(KEY, (struct ldr_put_args){ .if_match = "abc" });

    cr_expect(eq(int, a->started, LARDER_UNSUPPORTED));
    free(a);
    fake_caps(f.store, LDR_CAP_PUT_IF_MATCH);
    fake_on_op(f.store, look_at_condition, NULL);
    fake_say(f.store, LDR_OP_PUT, FAIL(PRECONDITION, 412, true));
    cr_expect(eq(int, end(put_args(KEY, (struct ldr_put_args){ .if_match = "abc" })), LARDER_PRECONDITION));
    cr_expect(eq(str, condition, "\"abc\""));
    fake_silence(f.store, LDR_OP_PUT);
    fake_say(f.store, LDR_OP_PUT, good);
    cr_expect(eq(int, end(put_args(KEY, (struct ldr_put_args){ .if_match = "\"q\"" })), LARDER_OK));
    cr_expect(eq(str, condition, "\"q\""));
    cr_expect(eq(int, end(put_args(KEY, (struct ldr_put_args){ .if_match = "" })), LARDER_OK));
    cr_expect(eq(str, condition, "none"));
}

Test(upload, a_conditional_put_that_may_have_happened_is_not_sent_again)
{
    fake_caps(f.store, LDR_CAP_PUT_IF_MATCH);
    fake_say(f.store, LDR_OP_PUT, FAIL(UNAVAILABLE, 0, true));
    cr_expect(eq(int, end(put_args(KEY, (struct ldr_put_args){ .if_match = "abc" })), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 1));
}

/* ---- containers, policies ---- */

Test(upload, a_container_that_is_missing_is_made_for_a_put_and_a_copy)
{
    fake_makes_containers(f.store);
    f.slot.container = (char *)"b";
    fake_say(f.store, LDR_OP_PUT, good);
    fake_say(f.store, LDR_OP_COPY, good);
    fake_say(f.store, LDR_OP_MAKE_CONTAINER, good);
    fake_lose_containers(f.store);
    cr_expect(eq(int, end(put("x")), LARDER_OK));
    cr_expect(holds("x"));
    fake_lose_containers(f.store);
    cr_expect(eq(int, end(copy_from("mem://b/other", next_op++)), LARDER_OK));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_MAKE_CONTAINER), 2));
    fake_lose_containers(f.store);
    fake_silence(f.store, LDR_OP_MAKE_CONTAINER);
    fake_say(f.store, LDR_OP_MAKE_CONTAINER, FAIL(DENIED, 403, true));
    cr_expect(eq(int, end(put("y")), LARDER_DENIED), "and who may not make it hears that");
}

Test(upload, a_prefix_may_keep_writes_out_of_the_cache)
{
    fake_say(f.store, LDR_OP_PUT, good);
    cr_expect(eq(int, end(put("old")), LARDER_OK));
    f.prefix.skip_writes = true;
    cr_expect(eq(int, end(put("new")), LARDER_OK));
    cr_expect(missing(), "the older bytes are gone all the same");
}

/* ---- large copies ---- */

static char copied_ranges[8][96];
static atomic_uint n_ranges;

static void look_at_range(void *user, const struct ldr_op *op)
{
    (void)user;
    if (op->what == LDR_OP_UPLOAD_COPY) {
        atomic_fetch_add(&n_ranges, 1);
        snprintf(copied_ranges[op->part % 8], sizeof copied_ranges[0], "%s %llu+%llu %s", op->from_uri,
                 (unsigned long long)op->offset, (unsigned long long)op->length, op->if_match ? op->if_match : "-");
    }
}

Test(upload, a_copy_larger_than_a_request_takes_goes_in_ranges_of_one_version)
{
    size_t n = 2500;
    uint8_t *p = some_bytes(n);
    const uint8_t *have;
    uint64_t size;
    struct writer *a;

    fake_takes_parts(f.store, 1, 0);
    fake_copy_max(f.store, 1000);
    fake_say(f.store, LDR_OP_COPY, good);
    cr_assert(eq(int, end(put_bytes("mem://b/other", p, n)), LARDER_OK));
    fake_on_op(f.store, look_at_range, NULL);
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = n, .validator = "\"v7\"" });
    a = copy_from("mem://b/other", next_op++);
    cr_expect(eq(int, end_of(a), LARDER_OK), "%s", a->msg);
    free(a);
    have = fake_object(f.store, KEY, &size);
    cr_expect(have && size == n && !memcmp(have, p, n));
    cr_expect(eq(uint, atomic_load(&n_ranges), 3));
    cr_expect(eq(str, copied_ranges[1], "mem://b/other 0+1000 \"v7\""));
    cr_expect(eq(str, copied_ranges[3], "mem://b/other 2000+500 \"v7\""));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_COPY), 0));
    cr_expect(eq(uint, fake_open_uploads(f.store), 0));
    fake_silence(f.store, LDR_OP_HEAD);
    fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = 1000, .validator = "\"v8\"" });
    cr_expect(eq(int, end(copy_from("mem://b/other", next_op++)), LARDER_OK));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_COPY), 1), "a smaller one is one request");
    free(p);
}

Test(upload, a_large_copy_that_fails_is_aborted)
{
    static const struct {
        enum ldr_op_what what;
        struct fake_answer answer;
        enum larder_kind kind;
        unsigned aborts;
    } cases[] = { { LDR_OP_HEAD, FAIL(NOT_FOUND, 404, false), LARDER_NOT_FOUND, 0 },
                  { LDR_OP_UPLOAD_BEGIN, FAIL(DENIED, 403, true), LARDER_DENIED, 0 },
                  { LDR_OP_UPLOAD_COPY, FAIL(PRECONDITION, 412, true), LARDER_PRECONDITION, 1 },
                  { LDR_OP_UPLOAD_END, FAIL(UNAVAILABLE, 0, true), LARDER_OUTCOME_UNKNOWN, 2 } };
    uint8_t *p = some_bytes(2500);

    fake_takes_parts(f.store, 1, 0);
    fake_copy_max(f.store, 1000);
    cr_assert(eq(int, end(put_bytes("mem://b/other", p, 2500)), LARDER_OK));
    for (size_t i = 0; i < LDR_ARRAY_LEN(cases); i++) {
        cr_assert(eq(int, end(put("old")), LARDER_OK));
        fake_silence(f.store, LDR_OP_HEAD);
        if (cases[i].what != LDR_OP_HEAD)
            fake_say(f.store, LDR_OP_HEAD, (struct fake_answer){ .size = 2500, .validator = "\"v7\"" });
        fake_say(f.store, cases[i].what, cases[i].answer);
        cr_expect(eq(int, end(copy_from("mem://b/other", next_op++)), cases[i].kind), "case %zu", i);
        fake_silence(f.store, cases[i].what);
        cr_expect(missing());
        cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_ABORT), cases[i].aborts));
        cr_expect(eq(uint, fake_open_uploads(f.store), 0));
        cr_expect(not(domain_has_intent(&f, KEY)));
    }
    free(p);
}

/* ---- many deletes ---- */

static unsigned delete_many(uint64_t op_id, const char *const *uris, size_t n, struct writer *a)
{
    struct ldr_name *names[8];
    struct ldr_write_waiter *ww[8];
    unsigned ok = 0;

    for (size_t i = 0; i < n; i++) {
        a[i] = (struct writer){ .w.answer = answer };
        names[i] = domain_name(&f, uris[i]);
        ww[i] = &a[i].w;
    }
    cr_assert(eq(int, ldr_upload_delete_many(&f.domain, op_id, LDR_NEVER, names, n, ww, &err), LARDER_OK));
    for (size_t i = 0; i < n; i++) {
        ldr_name_unref(&names[i]);
        cr_assert(domain_run_until(&f, &a[i].answered));
        ok += a[i].kind == LARDER_OK;
    }
    return ok;
}

static const char *const many[] = { KEY, "mem://b/denied-1", "mem://other/x", "mem://b/2", "mem://b/2" };

Test(upload, many_deletes_are_one_request_a_container_and_each_has_its_answer)
{
    struct writer a[5];

    fake_deletes_many(f.store);
    fake_say(f.store, LDR_OP_PUT, good);
    fake_say(f.store, LDR_OP_DELETE_MANY, good);
    cr_assert(eq(int, end(put("old")), LARDER_OK));
    cr_assert(eq(int, ldr_reader_open(f.domain.index, &net_reader, &err), LARDER_OK));
    fake_on_op(f.store, look_for_intent, NULL);
    cr_expect(eq(uint, delete_many(99, many, 5, a), 4));
    cr_expect(eq(int, a[1].kind, LARDER_DENIED));
    cr_expect(strstr(a[1].msg, "mem://b/denied-1") != NULL, "%s", a[1].msg);
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_DELETE_MANY), 2));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_DELETE), 0));
    cr_expect(eq(uint, atomic_load(&without_intent), 0));
    cr_expect(missing(), "its record goes");
    cr_expect(eq(uint, delete_many(99, many, 5, a), 4), "sent again");
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_DELETE_MANY), 2));
    for (size_t i = 0; i < 5; i++)
        cr_expect(not(domain_has_intent(&f, many[i])));
    ldr_reader_close(&net_reader);
}

Test(upload, many_deletes_of_a_store_that_knows_no_such_request_go_one_by_one)
{
    struct writer a[5];

    fake_say(f.store, LDR_OP_DELETE, good);
    cr_expect(eq(uint, delete_many(99, many, 5, a), 5));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_DELETE), 5));
}

Test(upload, many_deletes_of_which_nobody_knows_what_became_say_so)
{
    struct writer a[5];

    fake_deletes_many(f.store);
    fake_say(f.store, LDR_OP_PUT, good);
    cr_assert(eq(int, end(put("old")), LARDER_OK));
    fake_say(f.store, LDR_OP_DELETE_MANY, FAIL(UNAVAILABLE, 0, true));
    cr_expect(eq(uint, delete_many(99, many, 5, a), 0));
    for (size_t i = 0; i < 5; i++)
        cr_expect(eq(int, a[i].kind, LARDER_OUTCOME_UNKNOWN));
    cr_expect(missing());
}

/* ---- the agent stops ---- */

Test(upload, writers_are_answered_when_the_agent_stops)
{
    struct writer *a;

    fake_say(
        f.store, LDR_OP_PUT,
        (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .retry_after_ms = 600 * 1000, .sent = true });
    a = put("x");
    while (fake_seen(f.store, LDR_OP_PUT) == 0)
        domain_step(&f, false);
    ldr_net_shutdown(f.net);
    cr_expect(ne(int, end(a), LARDER_OK));
    cr_expect(not(domain_has_intent(&f, KEY)));
}
