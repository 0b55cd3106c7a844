/* list.c - larder_list(): pages of a listing, as the store gives them to the agent. Any thread. */
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

#define DELIMITER_MAX 64 /* bytes */

struct listing {
    struct larder *l;
    char prefix[LDR_URI_MAX + 1]; /* canonical: scheme://container/KEY-PREFIX */
    size_t base_len;              /* of scheme://container/ */
    const struct larder_list_opts *opts;
    int64_t deadline_ns;
    larder_list_fn *each;
    void *user;
};

static enum larder_kind read_prefix(const char *given, struct listing *s, struct larder_err *err)
{
    struct ldr_uri u;
    enum larder_kind k =
        given ? ldr_uri_parse_prefix(given, &u, err) : ldr_fail(err, LARDER_INVALID, "no prefix was given");

    if (!k)
        s->base_len = ldr_uri_text(&u, s->prefix) - u.key_len;
    return k;
}

static enum larder_kind check_opts(const struct larder_list_opts *o, struct larder_err *err)
{
    if (o->delimiter && strlen(o->delimiter) > DELIMITER_MAX)
        return ldr_fail(err, LARDER_INVALID, "the delimiter has more than %d bytes", DELIMITER_MAX);
    if (o->start && strlen(o->start) > LDR_WIRE_START_MAX)
        return ldr_fail(err, LARDER_INVALID, "the start of the listing is none that an earlier page named");
    return LARDER_OK;
}

static enum larder_kind give_entry(const struct listing *s, const Larder__Wire__Entry *e, struct larder_err *err)
{
    char uri[LDR_URI_MAX + 1];
    struct larder_entry entry = { .uri = uri, .last_modified = LDR_TIME_UNKNOWN };
    size_t n = strlen(e->key), want = strlen(s->prefix) - s->base_len;
    enum larder_kind k;

    if (n < want || n > LDR_URI_MAX - s->base_len || memcmp(e->key, s->prefix + s->base_len, want))
        return ldr_answer_unknown(err); /* a name that was not asked for */
    memcpy(uri, s->prefix, s->base_len);
    memcpy(uri + s->base_len, e->key, n + 1);
    entry.is_prefix = e->is_prefix;
    if (!e->is_prefix) {
        entry.size = e->size;
        entry.etag = e->etag[0] ? e->etag : NULL;
        if (e->last_modified_known)
            entry.last_modified = e->last_modified;
    }
    k = s->each(s->user, &entry);
    return k ? ldr_fail(err, k, "the reader of the listing of \"%.200s\" gave up", s->prefix) : LARDER_OK;
}

/* One page from `start` on; *next is owned by the caller, NULL after the last. */
static enum larder_kind page(const struct listing *s, const char *start, char **next, struct larder_err *err)
{
    Larder__Wire__List list = LARDER__WIRE__LIST__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    const Larder__Wire__Page *p;
    ldr_wire_reply *reply;
    enum larder_kind k;

    *next = NULL;
    req.body_case = LARDER__WIRE__REQUEST__BODY_LIST;
    req.list = &list;
    list.prefix = (char *)(uintptr_t)s->prefix;
    if (s->opts->delimiter)
        list.delimiter = (char *)(uintptr_t)s->opts->delimiter;
    if (start)
        list.start = (char *)(uintptr_t)start;
    list.max = s->opts->page;
    k = ldr_ask(s->l, &req, LDR_ASK_READ, s->deadline_ns, &reply, err);
    if (k)
        return k;
    p = reply->body_case == LARDER__WIRE__REPLY__BODY_PAGE ? reply->page : NULL;
    /* A page that leads to itself would have no end. */
    if (!p || (start && p->next[0] && !strcmp(p->next, start)))
        k = ldr_answer_unknown(err);
    for (size_t i = 0; !k && i < p->n_entry; i++)
        k = give_entry(s, p->entry[i], err);
    if (!k && p->next[0] && !(*next = strdup(p->next)))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a listing");
    larder__wire__reply__free_unpacked(reply, NULL);
    return k;
}

enum larder_kind larder_list(struct larder *l, const char *prefix, const struct larder_list_opts *opts, int timeout_ms,
                             larder_list_fn *each, void *user, char **next, struct larder_err *err)
{
    struct larder_list_opts o;
    struct listing s = { .l = l, .opts = &o, .each = each, .user = user };
    char *start = NULL, *after = NULL;
    enum larder_kind k =
        ldr_read_opts(opts, offsetof(struct larder_list_opts, page) + sizeof o.page, &o, sizeof o, "listing", err);

    if (!k)
        k = check_opts(&o, err);
    if (!k)
        k = read_prefix(prefix, &s, err);
    if (k)
        return k;
    s.deadline_ns = ldr_call_deadline(timeout_ms);
    do {
        k = page(&s, start ? start : o.start, &after, err);
        free(start);
        start = after;
    } while (!k && !next && start);
    if (!k && next)
        *next = start;
    else
        free(start);
    return k;
}
