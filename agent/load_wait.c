/* load_wait.c - see load_impl.h: who waits for which blocks, holds them there, and is answered when they are. */
#include "agent/load_impl.h"
#include "agent/known.h"
#include "common/clock.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define GRACE_NS  (100 * LDR_NS_PER_MS) /* who was answered can map its blocks for so long at least */
#define RESTARTS  3                     /* of a waiter whose object changes while it is read */
#define AHEAD_MAX (64 * LDR_MIB)        /* that a reader may have fetched ahead of it */

/* ---------- holds: what waiters wait for is not evicted before they have it ---------- */

/* The blocks of waiters that want the same range. */
struct ldr_range_hold {
    struct ldr_range_hold *prev, *next;
    uint32_t first, last;
    unsigned waiters;
    bool noted; /* the index knows of it */
    struct ldr_hold *hold;
};

/* A hold on its way to the index, of blocks that are there already. */
struct hold_note {
    struct ldr_change change;
    struct ldr_name *name;
};

static void noted_hold(struct ldr_change *c)
{
    struct hold_note *n = c->user;

    ldr_hold_unref(&c->hold);
    ldr_name_unref(&n->name);
    free(n);
}

static void note_hold(struct ldr_load *l, struct ldr_range_hold *h)
{
    struct hold_note *n = calloc(1, sizeof *n);

    if (!n)
        return; /* they may be evicted then, and are asked for again */
    n->name = ldr_name_ref(l->name);
    n->change = (struct ldr_change){ .what = LDR_CHANGE_HOLD,
                                     .key = n->name->ikey,
                                     .key_len = n->name->ikey_len,
                                     .record.id = l->id,
                                     .hold = ldr_hold_ref(h->hold),
                                     .done = noted_hold,
                                     .user = n };
    h->noted = true;
    ldr_index_change(l->domain->index, &n->change);
}

static struct ldr_range_hold *hold_for(struct ldr_load *l, uint32_t first, uint32_t last)
{
    struct ldr_range_hold *h;

    DL_FOREACH(l->holds, h)
    if (h->first == first && h->last == last)
        return h;
    h = calloc(1, sizeof *h);
    if (h)
        h->hold = ldr_hold_new(first, last);
    if (!h || !h->hold) {
        free(h);
        return NULL;
    }
    h->first = first;
    h->last = last;
    DL_APPEND(l->holds, h);
    return h;
}

static void hold_take(struct ldr_load *l, struct ldr_waiter *w, bool some_there)
{
    w->hold = hold_for(l, w->first, w->last);
    if (!w->hold)
        return;
    w->hold->waiters++;
    if (some_there && l->published && !w->hold->noted)
        note_hold(l, w->hold);
}

static void hold_drop(struct ldr_load *l, struct ldr_waiter *w)
{
    struct ldr_range_hold *h = w->hold;

    w->hold = NULL;
    if (!h || --h->waiters)
        return;
    atomic_store(&h->hold->until_ns, ldr_mono_ns() + GRACE_NS);
    ldr_hold_unref(&h->hold);
    DL_DELETE(l->holds, h);
    free(h);
}

/* The hold that goes to the index with a block: a reference for the way, or NULL. */
struct ldr_hold *ldr_load_hold_of_block(struct ldr_load *l, uint32_t block)
{
    struct ldr_range_hold *h;

    DL_FOREACH(l->holds, h)
    if (!h->noted && h->first <= block && block <= h->last) {
        h->noted = true;
        return ldr_hold_ref(h->hold);
    }
    return NULL;
}

/* ---------- answers ---------- */

/* `w` is in no list of the load any more. */
void ldr_load_let_go(struct ldr_load *l, struct ldr_waiter *w)
{
    hold_drop(l, w);
    w->load = NULL;
}

void ldr_load_tell(struct ldr_load *l, struct ldr_waiter *w, const struct ldr_answer *a)
{
    ldr_load_let_go(l, w);
    w->answer(w, a);
}

void ldr_load_take_all(struct ldr_load *l, struct ldr_waiter **out)
{
    *out = l->waiters;
    l->waiters = NULL;
}

/* Give the same answer to all of a list that was taken from the load. */
static void tell_list(struct ldr_load *l, struct ldr_waiter *list, const struct ldr_answer *a)
{
    while (list) {
        struct ldr_waiter *w = list;

        DL_DELETE(list, w);
        ldr_load_tell(l, w, a);
    }
}

void ldr_load_tell_all(struct ldr_load *l, const struct ldr_answer *a)
{
    struct ldr_waiter *list;

    ldr_load_take_all(l, &list);
    tell_list(l, list, a);
}

void ldr_load_fail_all(struct ldr_load *l, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_answer a = { .kind = kind, .err = err, .fd = -1 };

    ldr_load_tell_all(l, &a);
}

struct ldr_answer ldr_load_in_cache(const struct ldr_load *l)
{
    return (
        struct ldr_answer){ .meta = &l->meta, .in_cache = true, .id = l->id, .txnid = l->txnid, .why = "", .fd = -1 };
}

/* The object is not (all) in the cache; its bytes are where they are. */
struct ldr_answer ldr_load_not_in_cache(const struct ldr_load *l, const char *why)
{
    struct ldr_answer a = { .meta = l->open ? &l->meta : &l->opener->meta, .why = why, .fd = -1 };

    if (l->only) {
        a.fd = l->only->fill.fd;
    } else if (l->opener && l->opener->mem) {
        a.mem = l->opener->mem;
        a.mem_offset = l->opener->mem_offset;
        a.mem_len = l->opener->mem_len;
    }
    return a;
}

/* This load is of no use any more: its waiters begin again. `anew`: the store has another version than the cache. */
void ldr_load_restart_all(struct ldr_load *l, bool anew)
{
    struct ldr_domain *d = l->domain;
    struct ldr_waiter *list;
    struct larder_err e;

    l->joinable = false;
    ldr_load_take_all(l, &list);
    while (list) {
        struct ldr_waiter *w = list;
        struct ldr_answer a = { .kind = LARDER_UNAVAILABLE, .err = &e, .fd = -1 };

        DL_DELETE(list, w);
        ldr_load_let_go(l, w);
        if (w->restarts++ < RESTARTS) {
            ldr_flight_again(d, l->name, w, anew);
            continue;
        }
        ldr_fail(&e, LARDER_UNAVAILABLE, "\"%.200s\" changed, or the store's answers broke off, each time it was read",
                 l->name->text);
        w->answer(w, &a);
    }
}

void ldr_load_reread_all(struct ldr_load *l)
{
    struct ldr_waiter *list;

    ldr_load_take_all(l, &list);
    while (list) {
        struct ldr_waiter *w = list;

        DL_DELETE(list, w);
        ldr_load_let_go(l, w);
        w->reread = true;
        ldr_flight_again(l->domain, l->name, w, true);
    }
}

/* ---------- waiters and their blocks ---------- */

/* The bytes [*from, *end) of the object that `w` waits for. */
static void range_of(const struct ldr_load *l, const struct ldr_waiter *w, uint64_t *from, uint64_t *end)
{
    uint64_t size = l->meta.size_bytes;

    if (l->reread && l->sums) { /* nobody has any of it before all of it is known to be good */
        *from = 0;
        *end = size;
        return;
    }
    *from = w->offset < size ? w->offset : size;
    *end = w->length && w->length < size - *from ? *from + w->length : size;
}

static bool same_version(const struct ldr_load *l, const struct ldr_waiter *w)
{
    struct ldr_field f;

    return !w->validator || (ldr_fields_find(l->meta.fields.p, l->meta.fields.len, LDR_TAG_VALIDATOR, &f) &&
                             f.len == w->validator_len && !memcmp(f.p, w->validator, f.len));
}

static void flag_ahead(struct ldr_load *l, uint32_t from, uint32_t n)
{
    if (from < l->ahead_from || l->ahead_from >= l->n_blocks)
        l->ahead_from = from;
    for (; n > 0 && from < l->n_blocks; from++, n--)
        if (LDR_STATE(l, from) == LDR_ABSENT)
            l->state[from] |= LDR_STATE_AHEAD;
}

static bool covers(const struct ldr_waiter *w, uint32_t block)
{
    return w->left && w->first <= block && block <= w->last;
}

/* A block that is taken out of the index because its file is gone or damaged. It is fetched again after that, not
 * before: its file's name is free only then. */
struct unblock {
    struct ldr_change change;
    struct ldr_task task;
    struct ldr_load *load;
    uint32_t block;
};

static void unblocked_on_ipc(struct ldr_task *t)
{
    struct unblock *u = LDR_CONTAINER(t, struct unblock, task);
    struct ldr_load *l = u->load;
    struct ldr_record rec;
    uint64_t txnid;

    l->state[u->block] = LDR_ABSENT;
    if (!ldr_known_find(l->domain, l->name, &rec, &txnid) || memcmp(&rec.id, &l->id, sizeof rec.id))
        ldr_load_restart_all(l, false); /* it was the last block, and the record went with it */
    free(u);
    ldr_load_finish(l);
}

static void unblocked_on_index(struct ldr_change *c)
{
    struct unblock *u = c->user;

    u->task.run = unblocked_on_ipc;
    ldr_mailbox_post(&u->load->domain->ipc_box, &u->task);
}

/* A reader saw that a file is missing which the index has: look, and have such blocks fetched again. */
static void check_files(struct ldr_load *l, const struct ldr_waiter *w)
{
    struct ldr_record rec = { .id = l->id, .size_bytes = l->meta.size_bytes, .block_log2 = l->log2 };
    struct ldr_waiter *o;

    for (uint32_t b = w->first; !l->is_inline && b <= w->last; b++) {
        struct unblock *u;

        if (LDR_STATE(l, b) != LDR_THERE || ldr_blocks_intact(&l->domain->blocks, &rec, b) ||
            !(u = calloc(1, sizeof *u)))
            continue;
        ldr_count(&l->domain->counters, damaged, 1);
        ldr_log(LDR_WARN, "load", "a block of the cache is gone or damaged uri=\"%s\" block=%u", l->name->text, b);
        l->state[b] = LDR_COMING;
        DL_FOREACH(l->waiters, o)
        o->left += covers(o, b);
        u->load = l;
        u->block = b;
        u->change.record = rec;
        u->change.block = b;
        ldr_load_to_index(l, &u->change, LDR_CHANGE_UNBLOCK, unblocked_on_index, u);
    }
}

/* The version is known: which blocks does `w` wait for? It is answered at once where none is missing, or where they
 * cannot be had. */
void ldr_load_place(struct ldr_load *l, struct ldr_waiter *w)
{
    struct ldr_domain *d = l->domain;
    struct ldr_index_stats st;
    uint64_t from, end;
    uint32_t ahead;
    struct larder_err e;
    struct ldr_answer a;

    if (!same_version(l, w)) {
        a = (struct ldr_answer){ .kind = ldr_fail(&e, LARDER_PRECONDITION, "\"%.200s\" changed while it was read",
                                                  l->name->text),
                                 .err = &e,
                                 .fd = -1 };
        DL_DELETE(l->waiters, w);
        ldr_load_tell(l, w, &a);
        return;
    }
    range_of(l, w, &from, &end);
    w->left = 0;
    if (w->hint) {
        flag_ahead(l, (uint32_t)(from >> l->log2), from < end ? (uint32_t)((end - 1 - from) >> l->log2) + 1 : 0);
        a = ldr_load_not_in_cache(l, "");
        DL_DELETE(l->waiters, w);
        ldr_load_tell(l, w, &a);
        return;
    }
    if (from < end) {
        w->first = (uint32_t)(from >> l->log2);
        w->last = (uint32_t)((end - 1) >> l->log2);
        if (w->suspect)
            check_files(l, w);
        w->suspect = false;
        for (uint32_t b = w->first; b <= w->last; b++)
            w->left += LDR_STATE(l, b) != LDR_THERE;
    }
    if (w->left == 0) {
        a = l->published && l->txnid ? ldr_load_in_cache(l) : ldr_load_not_in_cache(l, "");
        DL_DELETE(l->waiters, w);
        ldr_load_tell(l, w, &a);
        return;
    }
    ldr_index_stats(d->index, &st);
    if (end - from > st.block_capacity && l->reread && l->sums) {
        a = (struct ldr_answer){ .kind = ldr_fail(&e, LARDER_CORRUPT,
                                                  "the bytes of \"%.200s\" do not match the checksum that its store "
                                                  "tells, and the cache is too small to read it once more",
                                                  l->name->text),
                                 .err = &e,
                                 .fd = -1 };
        w->left = 0;
        DL_DELETE(l->waiters, w);
        ldr_load_tell(l, w, &a);
        return;
    }
    if (end - from > st.block_capacity) {
        char why[160];

        snprintf(why, sizeof why,
                 "its %" PRIu64 " bytes are more than larder.cache.max_size (%" PRIu64 " bytes) has room for",
                 end - from, d->space.max_bytes);
        a = ldr_load_not_in_cache(l, why);
        ldr_count(&d->counters, uncached_large, 1);
        DL_DELETE(l->waiters, w);
        ldr_load_tell(l, w, &a);
        return;
    }
    hold_take(l, w, w->left <= w->last - w->first);
    ldr_count(&d->counters, bytes_asked, end - from);
    ahead = ldr_flight_readahead(d->flights, &l->id, w->first, w->last);
    if (w->ahead)
        ahead = (uint32_t)((w->ahead < AHEAD_MAX ? w->ahead : AHEAD_MAX) >> l->log2);
    if (w->offset == 0 && w->length == 0)
        ahead = 0; /* all of it */
    flag_ahead(l, w->last + 1, ahead);
}

void ldr_load_place_all(struct ldr_load *l)
{
    struct ldr_waiter *w, *next;

    DL_FOREACH_SAFE(l->waiters, w, next)
    ldr_load_place(l, w);
}

/* Move the waiters that need `block` (`complete`: that need nothing else) to *out. */
static void take_covering(struct ldr_load *l, uint32_t block, bool complete, struct ldr_waiter **out)
{
    struct ldr_waiter *w, *next;

    *out = NULL;
    DL_FOREACH_SAFE(l->waiters, w, next)
    {
        if (!covers(w, block) || (complete && --w->left))
            continue;
        DL_DELETE(l->waiters, w);
        DL_APPEND(*out, w);
    }
}

void ldr_load_block_there(struct ldr_load *l, uint32_t block)
{
    struct ldr_answer a = ldr_load_in_cache(l);
    struct ldr_waiter *list;

    if (LDR_STATE(l, block) == LDR_THERE)
        return;
    l->state[block] = LDR_THERE;
    take_covering(l, block, true, &list);
    tell_list(l, list, &a);
}

/* `block` does not come: who needs it hears why. */
void ldr_load_block_failed(struct ldr_load *l, uint32_t block, const struct ldr_answer *a)
{
    struct ldr_waiter *list;

    l->state[block] = LDR_ABSENT;
    take_covering(l, block, false, &list);
    tell_list(l, list, a);
}
