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
    char key[200], from[200];
    uint8_t fields[1000];
    size_t fields_len;
    enum larder_kind fail_put, fail_part, fail_delete, fail_copy;
    enum fake_action at_put, at_part, at_copy;
} got;

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

Test(put, sizes_up_to_the_limit_arrive_whole)
{
    static const size_t sizes[] = { 0, 1, LDR_WIRE_PART, LDR_WIRE_PART + 1, 300000, LDR_PUT_MAX };
    uint8_t *p = malloc(LDR_PUT_MAX + 1);

    for (size_t i = 0; i <= LDR_PUT_MAX; i++)
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
    cr_expect(eq(int, put(p, LDR_PUT_MAX + 1), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "8388609") && strstr(err.msg, "8388608"));
    cr_expect(strstr(err.msg, "with#all") == NULL, "what stands behind a ? may be secret");
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
