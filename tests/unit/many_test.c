/* many_test.c - tests of client/many.c: hits, misses and failures side by side. */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/mini_index.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT 20000

static char dir[TEST_DIR_MAX];
static struct mini mini;
static struct larder *l;
static struct larder_err err;
static struct fake_agent agent;

/* An agent that has the object "s3://b/…" of every key: its bytes are the key. */
static struct {
    int asks, gets; /* requests of many, of one */
    size_t keys[16];
    size_t len[16]; /* of the whole request, about */
    enum fake_action action;
    enum larder_kind fail;
    int twist;
    struct ldr_id id[LDR_WIRE_MANY];
} did;

static bool starts(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

static void answer_many(const Larder__Wire__GetMany *many, struct fake_reply *r)
{
    static Larder__Wire__ManyItem items[LDR_WIRE_MANY + 1], *item[LDR_WIRE_MANY + 1];
    static Larder__Wire__Status status = LARDER__WIRE__STATUS__INIT;

    for (size_t i = 0; i < many->n_key; i++) {
        const char *key = many->key[i];

        larder__wire__many_item__init(item[i] = &items[i]);
        status.kind = LARDER_NOT_FOUND;
        status.message = (char *)(uintptr_t) "no such object";
        if (starts(key, "s3://b/absent")) {
            items[i].status = &status;
        } else if (!starts(key, "s3://b/large")) {
            did.id[i] = mini_add(&mini, key, &(struct mini_object){ .data = key, .len = strlen(key) });
            items[i].object_id.data = did.id[i].b;
            items[i].object_id.len = sizeof did.id[i].b;
            if (starts(key, "s3://b/gone")) /* evicted before it was looked at */
                mini_remove(&mini, key);
            if (starts(key, "s3://b/stale"))
                mini_add(&mini, key, &(struct mini_object){ .data = key, .len = strlen(key), .fresh_until_ns = 1 });
        }
        did.len[did.asks % 16] += strlen(key) + 4;
    }
    mini_publish(&mini);
    did.keys[did.asks++ % 16] = many->n_key;
    larder__wire__many_item__init(item[many->n_key] = &items[many->n_key]);
    fake_many(r, item, many->n_key + (did.twist == 1 ? 1 : did.twist == 2 ? (size_t)-1 : 0));
    if (did.twist == 3)
        fake_look(r, 0, NULL);
    if (did.twist == 4) {
        items[0].object_id.data = did.id[0].b;
        items[0].object_id.len = 5;
    }
}

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    static struct ldr_meta meta;

    (void)user;
    if (did.action != FAKE_SEND)
        return did.action;
    if (req->body_case == LARDER__WIRE__REQUEST__BODY_GET) {
        const char *key = req->get->key;

        did.gets++;
        ldr_meta_init(&meta);
        meta.size_bytes = strlen(key);
        fake_bytes(r, key + req->get->offset, strlen(key) - req->get->offset, req->get->offset, &meta, "");
        return FAKE_SEND;
    }
    if (req->body_case != LARDER__WIRE__REQUEST__BODY_GET_MANY)
        return FAKE_CLOSE;
    if (did.fail) {
        did.asks++;
        fake_fail(r, did.fail, "the agent says no");
    } else {
        answer_many(req->get_many, r);
    }
    return FAKE_SEND;
}

static void make_dir(void)
{
    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    mini_open(&mini, dir, 0);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
}

static void remove_dir(void)
{
    larder_close(&l);
    fake_stop(&agent);
    mini_close(&mini);
    test_dir_remove(dir);
}

TestSuite(many, .init = make_dir, .fini = remove_dir, .timeout = 60);

static void add(const char *uri)
{
    mini_add(&mini, uri, &(struct mini_object){ .data = uri, .len = strlen(uri) });
    mini_publish(&mini);
}

/* Is result `i` the object of its name? */
static bool right(const char *const uris[], const struct larder_result out[], size_t i)
{
    return out[i].kind == LARDER_OK && out[i].object && larder_object_size(out[i].object) == strlen(uris[i]) &&
           !memcmp(larder_object_data(out[i].object), uris[i], strlen(uris[i]));
}

static void free_all(struct larder_result out[], size_t n)
{
    for (size_t i = 0; i < n; i++)
        larder_object_free(&out[i].object);
}

Test(many, hits_and_misses_and_failures_stand_side_by_side)
{
    static const char *const uris[] = { "s3://b/new1",    "s3://b/cached", "nonsense",     "s3://b/absent",
                                        "s3://b/large",   "s3://b/new2",   "s3://b/new1",  "s3://b/cached",
                                        "s3://b/absent2", "s3://b/gone",   "s3://b/stale", NULL };
    struct larder_result out[LDR_ARRAY_LEN(uris)];
    struct larder_counts c;

    add("s3://b/cached");
    cr_expect(eq(int, larder_get_many(l, uris, LDR_ARRAY_LEN(uris), WAIT, out, &err), LARDER_INVALID), "the first");
    cr_expect(eq(str, err.msg, out[2].err.msg));
    for (size_t i = 0; i < LDR_ARRAY_LEN(uris); i++) {
        enum larder_kind want = i == 2 || i == 11 ? LARDER_INVALID : i == 3 || i == 8 ? LARDER_NOT_FOUND : LARDER_OK;

        cr_expect(eq(int, out[i].kind, want), "%zu: %s", i, out[i].err.msg);
        cr_expect(want ? !out[i].object : right(uris, out, i), "%zu", i);
    }
    cr_expect(eq(str, out[3].err.msg, (char *)"no such object"));
    cr_expect(eq(int, larder_object_was_hit(out[1].object), 1));
    cr_expect(eq(int, larder_object_was_hit(out[0].object), 0));
    cr_expect(eq(int, did.asks, 1));
    cr_expect(eq(sz, did.keys[0], 8), "all but the cached and the malformed");
    cr_expect(eq(int, did.gets, 3), "what is too large, or gone again");
    larder_get_counts(l, &c, sizeof c);
    cr_expect(eq(u64, c.hits, 2));
    free_all(out, LDR_ARRAY_LEN(uris));
}

Test(many, what_is_cached_asks_nobody)
{
    static const char *const uris[] = { "s3://b/x", "s3://b/y", "s3://b/x" };
    struct larder_result out[3];

    add("s3://b/x");
    add("s3://b/y");
    fake_stop(&agent);
    cr_expect(eq(int, larder_get_many(l, uris, 3, 0, out, &err), LARDER_OK));
    for (size_t i = 0; i < 3; i++)
        cr_expect(right(uris, out, i));
    free_all(out, 3);
    cr_expect(eq(int, larder_get_many(l, NULL, 0, WAIT, NULL, NULL), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
}

static char **many_uris(size_t n, size_t len)
{
    char **uris = malloc(n * sizeof *uris);

    for (size_t i = 0; i < n; i++) {
        uris[i] = malloc(len + 1);
        memset(uris[i], 'k', len);
        uris[i][len] = '\0';
        memcpy(uris[i], "s3://b/", 7);
        snprintf(uris[i] + 7, len - 6, "%zu-", i);
        if (strlen(uris[i]) < len)
            uris[i][strlen(uris[i])] = 'k';
    }
    return uris;
}

static void free_uris(char **uris, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(uris[i]);
    free(uris);
}

static void expect_all(size_t n, size_t len, int asks)
{
    char **uris = many_uris(n, len);
    struct larder_result *out = calloc(n, sizeof *out);
    bool all = true;

    did.asks = 0;
    memset(did.len, 0, sizeof did.len);
    cr_expect(eq(int, larder_get_many(l, (const char *const *)uris, n, WAIT, out, &err), LARDER_OK), "%s", err.msg);
    for (size_t i = 0; i < n; i++)
        all = all && right((const char *const *)uris, out, i);
    cr_expect(all);
    cr_expect(eq(int, did.asks, asks));
    cr_expect(eq(int, did.gets, 0));
    for (int i = 0; i < asks; i++)
        cr_expect(lt(sz, did.len[i], LDR_WIRE_REQUEST_MAX));
    free_all(out, n);
    free(out);
    free_uris(uris, n);
}

Test(many, requests_are_bound_by_their_keys_and_by_their_bytes)
{
    expect_all(LDR_WIRE_MANY, 20, 1);
    expect_all(LDR_WIRE_MANY + 1, 30, 2);
    expect_all(3 * LDR_WIRE_MANY, 40, 3);
    expect_all(130, 4096, 3); /* 63 of these are a request */
}

Test(many, a_failure_of_the_exchange_is_that_of_each)
{
    static const char *const uris[] = { "s3://b/cached", "s3://b/1", "s3://b/2" };
    struct larder_result out[3];

    add(uris[0]);
    did.fail = LARDER_DENIED;
    cr_expect(eq(int, larder_get_many(l, uris, 3, WAIT, out, &err), LARDER_DENIED));
    cr_expect(right(uris, out, 0));
    cr_expect(eq(str, err.msg, (char *)"the agent says no"));
    for (size_t i = 1; i < 3; i++)
        cr_expect(out[i].kind == LARDER_DENIED && !out[i].object && !strcmp(out[i].err.msg, "the agent says no"));
    free_all(out, 3);

    cr_expect(eq(int, larder_get_many(l, uris, 3, 0, out, &err), LARDER_TIMEOUT), "the call may not wait");
    cr_expect(right(uris, out, 0));
    free_all(out, 3);
    did.action = FAKE_HANG;
    cr_expect(eq(int, larder_get_many(l, uris, 3, 50, out, &err), LARDER_TIMEOUT));
    cr_expect(right(uris, out, 0));
    cr_expect(out[1].kind == LARDER_TIMEOUT && out[2].kind == LARDER_TIMEOUT);
    free_all(out, 3);
    did.action = FAKE_CLOSE;
    cr_expect(eq(int, larder_get_many(l, uris, 3, WAIT, out, &err), LARDER_UNAVAILABLE));
    free_all(out, 3);
    fake_stop(&agent);
    cr_expect(eq(int, larder_get_many(l, uris, 3, WAIT, out, &err), LARDER_NO_AGENT));
    cr_expect(right(uris, out, 0));
    cr_expect(out[1].kind == LARDER_NO_AGENT && out[2].kind == LARDER_NO_AGENT);
    free_all(out, 3);
    fake_start(&agent, dir, answer, NULL);
}

Test(many, answers_that_make_no_sense_are_unavailable)
{
    static const char *const uris[] = { "s3://b/1", "s3://b/2" };
    struct larder_result out[2];

    for (did.twist = 1; did.twist <= 4; did.twist++) {
        mini_new_generation(&mini); /* nothing of it is cached */
        larder_close(&l);
        cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
        cr_expect(eq(int, larder_get_many(l, uris, 2, WAIT, out, &err), LARDER_UNAVAILABLE), "%d", did.twist);
        cr_expect(out[0].object == NULL && out[1].object == NULL);
    }
    cr_expect(eq(int, did.gets, 0));
}

Test(many, an_agent_that_does_not_know_the_request_is_asked_for_each)
{
    static const char *const uris[] = { "s3://b/1", "s3://b/2" };
    struct larder_result out[2];

    did.fail = LARDER_UNSUPPORTED;
    cr_expect(eq(int, larder_get_many(l, uris, 2, WAIT, out, &err), LARDER_OK), "%s", err.msg);
    cr_expect(right(uris, out, 0) && right(uris, out, 1));
    cr_expect(eq(int, did.gets, 2));
    free_all(out, 2);
}
