/* put_test.c - tests of client/put.c: what reaches the agent, and what does not. */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT 20000
#define URI  "s3://bucket/a key?with#all"

static char dir[TEST_DIR_MAX];
static struct larder *l;
static struct fake_agent agent;
static struct larder_err err;

/* An agent that gathers what it is sent. */
static struct {
    uint8_t *data;
    size_t len;
    int puts, parts, aborts, deletes, copies;
    uint64_t upload_id;
    bool create_only;
    char key[200], from[200], if_match[200];
    int delete_many;    /* requests */
    size_t deleted;     /* keys in them */
    char last_key[200]; /* of them */
    bool short_answer;
    uint8_t fields[1000];
    size_t fields_len;
    enum larder_kind fail_put, fail_part, fail_delete, fail_copy;
    enum fake_action at_put, at_part, at_copy;
} got;

/* Keys that end in "missing" are not there, in "denied" may not be deleted. */
static enum fake_action delete_many(const Larder__Wire__DeleteMany *m, struct fake_reply *r)
{
    static Larder__Wire__ManyItem item[LDR_WIRE_MANY], *items[LDR_WIRE_MANY];
    static Larder__Wire__Status missing = LARDER__WIRE__STATUS__INIT, denied = LARDER__WIRE__STATUS__INIT;

    missing.kind = LARDER_NOT_FOUND;
    denied.kind = LARDER_DENIED;
    denied.message = (char *)"the store says no";
    got.delete_many++;
    for (size_t i = 0; i < m->n_key; i++) {
        const char *slash = strrchr(m->key[i], '/');

        larder__wire__many_item__init(&item[i]);
        items[i] = &item[i];
        item[i].status = !strcmp(slash, "/missing") ? &missing : !strcmp(slash, "/denied") ? &denied : NULL;
        snprintf(got.last_key, sizeof got.last_key, "%s", m->key[i]);
    }
    got.deleted += m->n_key;
    if (got.fail_delete)
        fake_fail(r, got.fail_delete, "no");
    else
        fake_many(r, items, m->n_key - got.short_answer);
    return got.at_put;
}

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    (void)user;
    r->msg.nonce = 5;
    switch (req->body_case) {
    case LARDER__WIRE__REQUEST__BODY_PUT_PART:
        got.parts++;
        got.upload_id = req->put_part->upload_id;
        if (got.fail_part)
            fake_fail(r, got.fail_part, "no room for a part");
        else if (got.at_part == FAKE_SEND && req->put_part->offset == got.len) {
            memcpy(got.data + got.len, req->put_part->data.data, req->put_part->data.len);
            got.len += req->put_part->data.len;
        }
        return got.at_part;
    case LARDER__WIRE__REQUEST__BODY_PUT:
        got.puts++;
        snprintf(got.key, sizeof got.key, "%s", req->put->key);
        got.create_only = req->put->create_only;
        snprintf(got.if_match, sizeof got.if_match, "%s", req->put->if_match);
        got.fields_len = req->put->fields.len;
        if (got.fields_len)
            memcpy(got.fields, req->put->fields.data, got.fields_len);
        if (req->put->upload_id == 0) {
            got.len = req->put->data.len;
            if (got.len)
                memcpy(got.data, req->put->data.data, got.len);
        } else if (req->put->upload_id != got.upload_id || req->put->size != got.len) {
            fake_fail(r, LARDER_INVALID, "not what was sent in parts");
        }
        if (got.fail_put)
            fake_fail(r, got.fail_put, "the store says no");
        return got.at_put;
    case LARDER__WIRE__REQUEST__BODY_ABORT:
        got.aborts += req->abort->upload_id == got.upload_id;
        return FAKE_SEND;
    case LARDER__WIRE__REQUEST__BODY_DELETE:
        got.deletes++;
        snprintf(got.key, sizeof got.key, "%s", req->delete_->key);
        if (got.fail_delete)
            fake_fail(r, got.fail_delete, "no");
        return FAKE_SEND;
    case LARDER__WIRE__REQUEST__BODY_COPY:
        got.copies++;
        snprintf(got.from, sizeof got.from, "%s", req->copy->from);
        snprintf(got.key, sizeof got.key, "%s", req->copy->to);
        if (got.fail_copy)
            fake_fail(r, got.fail_copy, "no");
        return got.at_copy;
    case LARDER__WIRE__REQUEST__BODY_DELETE_MANY:
        return delete_many(req->delete_many, r);
    default:
        return FAKE_CLOSE;
    }
}

static void make_dir(void)
{
    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    got.data = malloc(LDR_PUT_MAX);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
}

static void remove_dir(void)
{
    larder_close(&l);
    fake_stop(&agent);
    free(got.data);
    test_dir_remove(dir);
}

TestSuite(put, .init = make_dir, .fini = remove_dir, .timeout = 60);

static enum larder_kind put(const void *p, size_t n)
{
    return larder_put(l, URI, p, n, NULL, WAIT, &err);
}

Test(put, sizes_up_to_that_of_one_request_arrive_whole)
{
    static const size_t sizes[] = { 0, 1, LDR_WIRE_PART, LDR_WIRE_PART + 1, 300000, LDR_PUT_MAX };
    uint8_t *p = malloc(LDR_PUT_MAX);

    for (size_t i = 0; i < LDR_PUT_MAX; i++)
        p[i] = (uint8_t)(i * 13 + (i >> 8) + (i >> 16));
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        got.len = 0;
        got.parts = got.puts = 0;
        cr_assert(eq(int, put(p, sizes[i]), LARDER_OK), "%zu: %s", sizes[i], err.msg);
        cr_expect(eq(sz, got.len, sizes[i]));
        cr_expect(eq(int, memcmp(got.data, p, sizes[i]), 0));
        cr_expect(eq(int, got.puts, 1));
        cr_expect(
            eq(int, got.parts, sizes[i] > LDR_WIRE_PART ? (int)((sizes[i] + LDR_WIRE_PART - 1) / LDR_WIRE_PART) : 0));
    }
    cr_expect(eq(str, got.key, (char *)URI), "literal to its end");
    free(p);
}

Test(put, options_become_fields)
{
    static const char *const user[] = { "Owner", "me and you", "x-y_z.0", "" };
    struct larder_put_opts o = {
        .struct_size = sizeof o, .content_type = "text/plain", .user = user, .n_user = 2, .create_only = 1
    };

    cr_assert(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_OK));
    cr_expect(got.create_only);
    cr_expect(eq(sz, got.fields_len, 3 + 10 + 3 + 16 + 3 + 8));
    cr_expect(
        eq(int, memcmp(got.fields, "\4\12\0text/plain\13\20\0owner\0me and you\13\10\0x-y_z.0\0", got.fields_len), 0));
}

Test(put, options_that_no_header_can_carry_are_invalid)
{
    static const char *const bad[][2] = { { "", "v" },    { "sp ace", "v" }, { "ä", "v" },
                                          { "a:b", "v" }, { "n", "a\nb" },   { "n", "\x7f" },
                                          { "n", "ü" },   { NULL, "v" },     { "n", NULL } };
    static const char *const twice[] = { "n", "1", "N", "2" };
    struct larder_put_opts o = { .struct_size = sizeof o, .n_user = 1 };
    char *big = malloc(20000);

    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID), "pairs that are not there");
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        o.user = bad[i];
        cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID), "%zu", i);
    }
    o.user = twice;
    o.n_user = 2;
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID), "twice");
    memset(big, 'v', 19999);
    big[19999] = '\0';
    const char *const long_value[] = { "n", big };
    o.user = long_value;
    o.n_user = 1;
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_LIMIT_EXCEEDED));
    o = (struct larder_put_opts){ .struct_size = sizeof o, .content_type = "text/\r\nplain" };
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID));
    o = (struct larder_put_opts){ .struct_size = 4 };
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_put(l, URI, NULL, 1, NULL, WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_put(l, "nonsense", "x", 1, NULL, WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, got.puts, 0), "none of it reached the agent");
    free(big);
}

Test(put, options_of_a_later_release_are_taken_only_if_unset)
{
    struct {
        struct larder_put_opts o;
        int later;
    } v2 = { .o = { .struct_size = sizeof v2 } };

    cr_expect(eq(int, larder_put(l, URI, "x", 1, &v2.o, WAIT, &err), LARDER_OK));
    v2.later = 1;
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &v2.o, WAIT, &err), LARDER_UNSUPPORTED));
    struct larder_put_opts zero = { 0 };
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &zero, WAIT, &err), LARDER_OK), "all zero: defaults");
}

Test(put, what_the_store_says_is_what_the_caller_gets)
{
    uint8_t *p = calloc(1, 300000);

    got.fail_put = LARDER_EXISTS;
    cr_expect(eq(int, put("x", 1), LARDER_EXISTS));
    cr_expect(eq(str, err.msg, (char *)"the store says no"));
    cr_expect(eq(int, got.aborts, 0));
    cr_expect(eq(int, put(p, 300000), LARDER_EXISTS));
    cr_expect(eq(int, got.aborts, 1), "the parts are given up");
    free(p);
}

Test(put, a_part_that_fails_ends_the_put_before_the_store_is_asked)
{
    uint8_t *p = calloc(1, 300000);

    got.fail_part = LARDER_LIMIT_EXCEEDED;
    cr_expect(eq(int, put(p, 300000), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, got.parts, 1));
    cr_expect(eq(int, got.puts, 0));
    cr_expect(eq(int, got.aborts, 1));
    got.fail_part = LARDER_OK;
    got.at_part = FAKE_CLOSE;
    cr_expect(eq(int, put(p, 300000), LARDER_UNAVAILABLE), "nothing reached the store: that is known");
    cr_expect(eq(int, got.puts, 0));
    free(p);
}

Test(put, an_agent_that_dies_in_the_middle_leaves_the_outcome_unknown)
{
    uint8_t *p = calloc(1, 300000);

    got.at_put = FAKE_CLOSE;
    cr_expect(eq(int, put("x", 1), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(int, got.puts, 1));
    cr_expect(eq(int, put(p, 300000), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(int, got.aborts, 0), "an abort could undo what was done");
    got.at_put = FAKE_HANG;
    cr_expect(eq(int, larder_put(l, URI, "x", 1, NULL, 50, &err), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(int, larder_put(l, URI, "x", 1, NULL, 0, &err), LARDER_TIMEOUT));
    free(p);
}

Test(put, a_delete_of_what_is_not_there_is_done)
{
    cr_expect(eq(int, larder_delete(l, URI, WAIT, &err), LARDER_OK));
    cr_expect(eq(str, got.key, (char *)URI));
    got.fail_delete = LARDER_NOT_FOUND;
    cr_expect(eq(int, larder_delete(l, URI, WAIT, &err), LARDER_OK));
    got.fail_delete = LARDER_DENIED;
    cr_expect(eq(int, larder_delete(l, URI, WAIT, &err), LARDER_DENIED));
    cr_expect(eq(int, got.deletes, 3));
    cr_expect(eq(int, larder_delete(l, "nonsense", WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_delete(l, URI, 0, &err), LARDER_TIMEOUT));
}

Test(put, many_are_deleted_in_few_requests)
{
    struct larder_result *r = malloc(600 * sizeof *r);
    const char *uris[600];
    char text[600][40];

    memset(r, 0xff, 600 * sizeof *r);
    for (int i = 0; i < 600; i++) {
        snprintf(text[i], sizeof text[i], "s3://bucket/%d", i);
        uris[i] = text[i];
    }
    cr_assert(eq(int, larder_delete_many(l, uris, 600, WAIT, r, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, got.delete_many, 3));
    cr_expect(eq(sz, got.deleted, 600));
    cr_expect(eq(str, got.last_key, (char *)"s3://bucket/599"));
    for (int i = 0; i < 600; i++)
        cr_expect(r[i].kind == LARDER_OK && !r[i].object && !r[i].err.kind);
    cr_expect(eq(int, larder_delete_many(l, uris, 0, WAIT, r, &err), LARDER_OK));
    cr_expect(eq(int, got.delete_many, 3), "nothing is nothing");
    free(r);
}

Test(put, of_many_each_tells_what_became_of_it)
{
    const char *uris[] = { "s3://b/there", "s3://b/missing", "nonsense", "s3://b/denied", NULL, "S3://b/last" };
    struct larder_result r[6];

    cr_expect(eq(int, larder_delete_many(l, uris, 6, WAIT, r, &err), LARDER_INVALID), "the first that failed");
    cr_expect(eq(int, r[0].kind, LARDER_OK));
    cr_expect(eq(int, r[1].kind, LARDER_OK), "it is gone, as was asked");
    cr_expect(eq(int, r[2].kind, LARDER_INVALID));
    cr_expect(eq(int, r[3].kind, LARDER_DENIED));
    cr_expect(eq(str, r[3].err.msg, (char *)"the store says no"));
    cr_expect(eq(int, r[4].kind, LARDER_INVALID));
    cr_expect(eq(int, r[5].kind, LARDER_OK));
    cr_expect(eq(str, got.last_key, (char *)"s3://b/last"));
    cr_expect(eq(sz, got.deleted, 4));
}

Test(put, a_delete_of_many_that_breaks_off_is_sent_once)
{
    const char *uris[] = { "s3://b/1", "s3://b/2" };
    struct larder_result r[2];

    got.at_put = FAKE_CLOSE;
    cr_expect(eq(int, larder_delete_many(l, uris, 2, WAIT, r, &err), LARDER_OUTCOME_UNKNOWN));
    cr_expect(r[0].kind == LARDER_OUTCOME_UNKNOWN && r[1].kind == LARDER_OUTCOME_UNKNOWN);
    cr_expect(eq(int, got.delete_many, 1));
    got.at_put = FAKE_SEND;
    got.short_answer = true;
    cr_expect(eq(int, larder_delete_many(l, uris, 2, WAIT, r, &err), LARDER_OUTCOME_UNKNOWN));
    got.fail_delete = LARDER_DENIED;
    cr_expect(eq(int, larder_delete_many(l, uris, 2, WAIT, r, &err), LARDER_DENIED));
    cr_expect(eq(int, larder_delete_many(l, uris, 2, 0, r, &err), LARDER_TIMEOUT));
    cr_expect(r[1].kind == LARDER_TIMEOUT);
}

Test(put, a_condition_travels_with_the_put)
{
    struct larder_put_opts o = { .struct_size = sizeof o, .if_match = "abc-2" };
    char *big = malloc(3000);

    cr_assert(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(str, got.if_match, (char *)"abc-2"));
    o.create_only = 1;
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID));
    o = (struct larder_put_opts){ .struct_size = sizeof o, .if_match = "" };
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID));
    o.if_match = "a\nb";
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID));
    memset(big, 'e', 2999);
    big[2999] = '\0';
    o.if_match = big;
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID));
    o = (struct larder_put_opts){ .struct_size = sizeof o, .cache_control = "no\ncache" };
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, got.puts, 1));
    o = (struct larder_put_opts){ .struct_size = sizeof o, .content_encoding = "gzip", .content_language = "en" };
    cr_expect(eq(int, larder_put(l, URI, "x", 1, &o, WAIT, &err), LARDER_OK));
    cr_expect(eq(sz, got.fields_len, 3 + 4 + 3 + 2));
    cr_expect(eq(int, memcmp(got.fields, "\5\4\0gzip\10\2\0en", got.fields_len), 0));
    free(big);
}

Test(put, a_copy_names_both_objects_and_is_sent_once)
{
    cr_assert(eq(int, larder_copy(l, "S3://bucket/a?b", URI, WAIT, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(str, got.from, (char *)"s3://bucket/a?b"));
    cr_expect(eq(str, got.key, (char *)URI));
    got.fail_copy = LARDER_NOT_FOUND;
    cr_expect(eq(int, larder_copy(l, "s3://bucket/a", URI, WAIT, &err), LARDER_NOT_FOUND), "unlike a delete");
    got.copies = 0;
    got.at_copy = FAKE_CLOSE;
    cr_expect(eq(int, larder_copy(l, "s3://bucket/a", URI, WAIT, &err), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(int, got.copies, 1));
    got.at_copy = FAKE_HANG;
    cr_expect(eq(int, larder_copy(l, "s3://bucket/a", URI, 50, &err), LARDER_OUTCOME_UNKNOWN));
    got.copies = 0;
    cr_expect(eq(int, larder_copy(l, "nonsense", URI, WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_copy(l, "s3://bucket/a", NULL, WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_copy(l, "s3://bucket/a", URI, 0, &err), LARDER_TIMEOUT));
    cr_expect(eq(int, got.copies, 0));
}

Test(put, references_of_flyte_are_split_and_joined)
{
    struct larder_ref r;
    const char *const keys[] = { "a", "b" };
    char *joined = NULL;

    cr_assert(eq(int, larder_ref_split("s3://bucket/some/key", &r, &err), LARDER_OK));
    cr_expect(eq(str, r.scheme, (char *)"s3"));
    cr_expect(eq(str, r.container, (char *)"bucket"));
    cr_expect(eq(str, r.key, (char *)"some/key"));
    larder_ref_free(&r);
    cr_expect(eq(ptr, r.key, NULL));
    larder_ref_free(&r);
    cr_assert(eq(int, larder_ref_join("s3://bucket/x", keys, 2, &joined, &err), LARDER_OK));
    cr_expect(eq(str, joined, (char *)"s3://bucket/x/a/b"));
    larder_free(joined);
    cr_expect(eq(int, larder_ref_split(NULL, &r, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_ref_join(NULL, keys, 2, &joined, &err), LARDER_INVALID));
}
