/* list_test.c - tests of client/list.c: what is asked of the agent, page by page, and what its entries become. */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT 20000

static char dir[TEST_DIR_MAX];
static struct larder *l;
static struct larder_err err;
static struct fake_agent agent;

/* An agent whose pages are `n` keys each, up to `last`. */
static struct {
    int asks;
    char prefix[300], delimiter[80], start[80];
    uint32_t max;
    int n, last;
    enum fake_action action;
    enum larder_kind fail;
    int twist;
} did;

#define PER_PAGE 800

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    static Larder__Wire__Entry entries[PER_PAGE], *entry[PER_PAGE];
    static char keys[PER_PAGE][32], next[80];
    const Larder__Wire__List *m = req->list;
    int from, n = 0;

    (void)user;
    if (req->body_case != LARDER__WIRE__REQUEST__BODY_LIST)
        return FAKE_CLOSE;
    did.asks++;
    snprintf(did.prefix, sizeof did.prefix, "%s", m->prefix);
    snprintf(did.delimiter, sizeof did.delimiter, "%s", m->delimiter);
    snprintf(did.start, sizeof did.start, "%s", m->start);
    did.max = m->max;
    if (did.fail) {
        fake_fail(r, did.fail, "the store says no");
        return did.action;
    }
    from = m->start[0] ? atoi(m->start + 1) : 0;
    for (; n < did.n && from + n < did.last; n++) {
        Larder__Wire__Entry *e = entry[n] = &entries[n];

        larder__wire__entry__init(e);
        e->key = keys[n];
        snprintf(keys[n], sizeof keys[n], "dir/%05d", from + n);
        e->size = (uint64_t)(from + n);
        e->last_modified = 1700000000;
        e->last_modified_known = (from + n) % 2;
        e->etag = (char *)(uintptr_t)((from + n) % 3 ? "tag" : "");
        if ((e->is_prefix = (from + n) % 10 == 9))
            strcat(keys[n], "/");
    }
    snprintf(next, sizeof next, "#%d", from + n);
    fake_page(r, entry, (size_t)n, from + n < did.last ? next : "");
    switch (did.twist) {
    case 1:
        keys[1][0] = 'x'; /* not what was asked for */
        break;
    case 2:
        strcpy(keys[1], "di"); /* shorter than the prefix */
        break;
    case 3:
        r->page.next = did.start[0] ? did.start : next; /* the second page leads to itself */
        break;
    case 4:
        fake_look(r, 0, NULL);
        break;
    case 5:
        entries[1].size = UINT64_MAX;
        break;
    case 6:
        entries[1].key = (char *)(uintptr_t) "";
        break;
    default:
        break;
    }
    return did.action;
}

static void make_dir(void)
{
    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    did.n = 10;
    did.last = 25;
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
}

static void remove_dir(void)
{
    larder_close(&l);
    fake_stop(&agent);
    test_dir_remove(dir);
}

TestSuite(list, .init = make_dir, .fini = remove_dir, .timeout = 60);

struct seen {
    int n, from, stop_at;
    bool wrong;
};

static enum larder_kind see(void *user, const struct larder_entry *e)
{
    struct seen *s = user;
    int i = s->from + s->n++;
    char uri[64];

    snprintf(uri, sizeof uri, "s3://bucket/dir/%05d%s", i, i % 10 == 9 ? "/" : "");
    if (strcmp(e->uri, uri) || e->is_prefix != (i % 10 == 9))
        s->wrong = true;
    if (!e->is_prefix && (e->size != (uint64_t)i || e->last_modified != (i % 2 ? 1700000000 : INT64_MIN) ||
                          (i % 3 ? !e->etag || strcmp(e->etag, "tag") : e->etag != NULL)))
        s->wrong = true;
    if (e->is_prefix && (e->size || e->last_modified != INT64_MIN || e->etag))
        s->wrong = true;
    return s->n == s->stop_at ? LARDER_CANCELLED : LARDER_OK;
}

static enum larder_kind list(const char *prefix, const struct larder_list_opts *o, struct seen *s, char **next)
{
    return larder_list(l, prefix, o, WAIT, see, s, next, &err);
}

Test(list, all_pages_come_one_after_the_other)
{
    struct seen s = { 0 };

    cr_assert(eq(int, list("S3://bucket/dir/", NULL, &s, NULL), LARDER_OK), "%s", err.msg);
    cr_expect(s.n == 25 && !s.wrong);
    cr_expect(eq(int, did.asks, 3));
    cr_expect(eq(str, did.prefix, (char *)"s3://bucket/dir/"));
    cr_expect(eq(str, did.start, (char *)"#20"));
    cr_expect(eq(str, did.delimiter, (char *)""));
    cr_expect(eq(uint, did.max, 0));
    did.last = 0;
    s = (struct seen){ 0 };
    cr_assert(eq(int, list("s3://bucket/dir/", NULL, &s, NULL), LARDER_OK));
    cr_expect(eq(int, s.n, 0));
}

Test(list, a_full_page_arrives)
{
    struct seen s = { 0 };

    did.n = did.last = PER_PAGE;
    cr_assert(eq(int, list("s3://bucket/dir/", NULL, &s, NULL), LARDER_OK), "%s", err.msg);
    cr_expect(s.n == PER_PAGE && !s.wrong);
}

Test(list, a_page_at_a_time_says_where_the_next_one_starts)
{
    struct larder_list_opts o = { .struct_size = sizeof o, .delimiter = "/", .page = 7 };
    struct seen s = { 0 };
    char *next = NULL;

    for (int i = 0; i < 3; i++) {
        s = (struct seen){ .from = i * 10 };
        cr_assert(eq(int, list("s3://bucket/dir/", &o, &s, &next), LARDER_OK), "%s", err.msg);
        cr_expect(s.n == (i < 2 ? 10 : 5) && !s.wrong);
        cr_expect(eq(int, did.asks, i + 1));
        cr_expect(eq(str, did.delimiter, (char *)"/"));
        cr_expect(eq(uint, did.max, 7));
        larder_free((void *)(uintptr_t)o.start);
        o.start = next;
    }
    cr_expect(eq(ptr, next, NULL), "that was the last");
}

Test(list, prefixes_are_references_whose_key_may_be_empty)
{
    static const char *const same[] = { "s3://bucket/",      "s3://bucket/d",          "s3://me@bucket/dir/0",
                                        "abfss://c@a.host/", "s3://bucket/dir?x#y%2F", "s3://bucket" };
    static const char *const as[] = { "s3://bucket/", "s3://bucket/d",          "s3://bucket/dir/0",
                                      "abfs://c/",    "s3://bucket/dir?x#y%2F", "s3://bucket/" };
    static const char *const bad[] = { "", "nonsense", "s3:///key", "file:///etc/" };
    char *text = malloc(10000);

    did.last = 0;
    for (size_t i = 0; i < LDR_ARRAY_LEN(same); i++) {
        struct seen s = { 0 };

        cr_expect(eq(int, list(same[i], NULL, &s, NULL), LARDER_OK), "%s: %s", same[i], err.msg);
        cr_expect(eq(str, did.prefix, (char *)(uintptr_t)as[i]));
    }
    did.asks = 0;
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++)
        cr_expect(eq(int, list(bad[i], NULL, NULL, NULL), LARDER_INVALID), "%s", bad[i]);
    cr_expect(eq(int, list(NULL, NULL, NULL, NULL), LARDER_INVALID));
    memset(text, 'k', 9999);
    text[9999] = '\0';
    memcpy(text, "s3://b/", 7);
    cr_expect(eq(int, list(text, NULL, NULL, NULL), LARDER_INVALID));
    text[4300] = '\0';
    cr_expect(eq(int, list(text, NULL, NULL, NULL), LARDER_INVALID));
    cr_expect(eq(int, did.asks, 0));
    free(text);
}

Test(list, options_are_bounded_and_of_this_release)
{
    struct {
        struct larder_list_opts o;
        uint64_t later;
    } more = { .o.struct_size = sizeof more };
    struct larder_list_opts o = { .struct_size = sizeof o };
    struct seen s = { 0 };
    char *text = calloc(1, LDR_WIRE_START_MAX + 2);

    cr_expect(eq(int, list("s3://bucket/", &more.o, &s, NULL), LARDER_OK));
    more.later = 1;
    cr_expect(eq(int, list("s3://bucket/", &more.o, &s, NULL), LARDER_UNSUPPORTED));
    o.struct_size = 8;
    cr_expect(eq(int, list("s3://bucket/", &o, &s, NULL), LARDER_INVALID));
    o = (struct larder_list_opts){ .delimiter = text };
    memset(text, 'd', 65);
    cr_expect(eq(int, list("s3://bucket/", &o, &s, NULL), LARDER_INVALID));
    o = (struct larder_list_opts){ .start = text };
    memset(text, 'd', LDR_WIRE_START_MAX + 1);
    cr_expect(eq(int, list("s3://bucket/", &o, &s, NULL), LARDER_INVALID));
    free(text);
}

Test(list, the_reader_may_give_up)
{
    struct seen s = { .stop_at = 12 };
    char *next = (char *)1;

    cr_expect(eq(int, list("s3://bucket/dir/", NULL, &s, NULL), LARDER_CANCELLED));
    cr_expect(eq(int, s.n, 12));
    cr_expect(eq(int, did.asks, 2));
    s = (struct seen){ .stop_at = 1 };
    cr_expect(eq(int, list("s3://bucket/dir/", NULL, &s, &next), LARDER_CANCELLED));
    cr_expect(eq(ptr, next, (char *)1), "outputs are written on success only");
}

Test(list, failures_are_those_of_the_agent)
{
    struct seen s = { 0 };
    char *next;

    did.fail = LARDER_DENIED;
    cr_expect(eq(int, list("s3://bucket/dir/", NULL, &s, NULL), LARDER_DENIED));
    cr_expect(eq(str, err.msg, (char *)"the store says no"));
    cr_expect(eq(int, larder_list(l, "s3://bucket/dir/", NULL, 0, see, &s, &next, &err), LARDER_TIMEOUT));
    did.action = FAKE_HANG;
    cr_expect(eq(int, larder_list(l, "s3://bucket/dir/", NULL, 50, see, &s, &next, &err), LARDER_TIMEOUT));
    cr_expect(eq(int, s.n, 0));
}

Test(list, answers_that_make_no_sense_are_unavailable)
{
    for (did.twist = 1; did.twist <= 6; did.twist++) {
        struct seen s = { 0 };

        did.asks = 0;
        cr_expect(eq(int, list("s3://bucket/dir/", NULL, &s, NULL), LARDER_UNAVAILABLE), "%d", did.twist);
        cr_expect(le(int, did.asks, 2));
        cr_expect(le(int, s.n, did.twist == 3 ? 10 : 1));
    }
}
