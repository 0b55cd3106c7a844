/* load.c - see load.h. What happens, in order:
 *   join → open_object (nothing is known) or open_base (the cache has some of its blocks)
 *   → opened: the version is fixed, waiters are placed → pump: a pull for each block that is wanted, some at a time
 *   → a pull: reserve → fetch → filled → commit → block_there: waiters whose range is complete are answered
 *   → settle: nobody waits, nothing is under way: the load ends */
#include "agent/load.h"
#include "agent/fresh.h"
#include "agent/known.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define PARALLEL    8                     /* requests of one load */
#define GRACE_NS    (100 * LDR_NS_PER_MS) /* who was answered can map its blocks for so long at least */
#define ROOM_TRIES  3                     /* reservations that one request may need: another size each time */
#define RESTARTS    3                     /* of a waiter whose object changes while it is read */
#define NO_ROOM_NS  LDR_NS_PER_S
#define AHEAD_MAX   (64 * LDR_MIB)       /* that a reader may have fetched ahead of it */
#define STATE_AHEAD 4u                   /* flag of a block: wanted although nobody waits for it */
#define STATE(l, b) ((l)->state[b] & 3u) /* and one of these */

enum { ABSENT, COMING, THERE };

/* One request of a load, from the reservation to its end. */
struct pull {
    struct ldr_load *load;
    uint32_t block;
    struct ldr_room room; /* so far reserved, [block, room.end) */
    uint32_t want_end;    /* to be reserved */
    unsigned room_tries;
    struct ldr_want want;
    struct ldr_fetch *fetch;
};

static void finish(struct ldr_load *l);
static void restart_all(struct ldr_load *l, bool anew);
static void to_index(struct ldr_load *l, struct ldr_change *c, enum ldr_change_what what,
                     void (*done)(struct ldr_change *c), void *user);
static void pull_fetch(struct pull *p);
static void pump(struct ldr_load *l);
static void fetch_opened(struct ldr_fetch *f, const struct ldr_meta *meta);
static void fetch_filled(struct ldr_fetch *f, struct ldr_filled *x);
static void fetch_done(struct ldr_fetch *f);

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
static struct ldr_hold *hold_of_block(struct ldr_load *l, uint32_t block)
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
static void let_go(struct ldr_load *l, struct ldr_waiter *w)
{
    hold_drop(l, w);
    w->load = NULL;
}

static void tell(struct ldr_load *l, struct ldr_waiter *w, const struct ldr_answer *a)
{
    let_go(l, w);
    w->answer(w, a);
}

static void take_all(struct ldr_load *l, struct ldr_waiter **out)
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
        tell(l, w, a);
    }
}

static void tell_all(struct ldr_load *l, const struct ldr_answer *a)
{
    struct ldr_waiter *list;

    take_all(l, &list);
    tell_list(l, list, a);
}

static void fail_all(struct ldr_load *l, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_answer a = { .kind = kind, .err = err, .fd = -1 };

    tell_all(l, &a);
}

static struct ldr_answer in_cache(const struct ldr_load *l)
{
    return (
        struct ldr_answer){ .meta = &l->meta, .in_cache = true, .id = l->id, .txnid = l->txnid, .why = "", .fd = -1 };
}

/* The object is not (all) in the cache; its bytes are where they are. */
static struct ldr_answer not_in_cache(const struct ldr_load *l, const char *why)
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
static void restart_all(struct ldr_load *l, bool anew)
{
    struct ldr_domain *d = l->domain;
    struct ldr_waiter *list;
    struct larder_err e;

    l->joinable = false;
    take_all(l, &list);
    while (list) {
        struct ldr_waiter *w = list;
        struct ldr_answer a = { .kind = LARDER_UNAVAILABLE, .err = &e, .fd = -1 };

        DL_DELETE(list, w);
        let_go(l, w);
        if (w->restarts++ < RESTARTS) {
            ldr_flight_again(d, l->name, w, anew);
            continue;
        }
        ldr_fail(&e, LARDER_UNAVAILABLE, "\"%.200s\" changes faster than it can be read", l->name->text);
        w->answer(w, &a);
    }
}

/* ---------- waiters and their blocks ---------- */

/* The bytes [*from, *end) of the object that `w` waits for. */
static void range_of(const struct ldr_load *l, const struct ldr_waiter *w, uint64_t *from, uint64_t *end)
{
    uint64_t size = l->meta.size_bytes;

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
        if (STATE(l, from) == ABSENT)
            l->state[from] |= STATE_AHEAD;
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

    l->state[u->block] = ABSENT;
    if (!ldr_known_find(l->domain, l->name, &rec, &txnid) || memcmp(&rec.id, &l->id, sizeof rec.id))
        restart_all(l, false); /* it was the last block, and the record went with it */
    free(u);
    finish(l);
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

        if (STATE(l, b) != THERE || ldr_blocks_intact(&l->domain->blocks, &rec, b) || !(u = calloc(1, sizeof *u)))
            continue;
        ldr_count(&l->domain->counters, damaged, 1);
        ldr_log(LDR_WARN, "load", "a block of the cache is gone or damaged uri=\"%s\" block=%u", l->name->text, b);
        l->state[b] = COMING;
        DL_FOREACH(l->waiters, o)
        o->left += covers(o, b);
        u->load = l;
        u->block = b;
        u->change.record = rec;
        u->change.block = b;
        to_index(l, &u->change, LDR_CHANGE_UNBLOCK, unblocked_on_index, u);
    }
}

/* The version is known: which blocks does `w` wait for? It is answered at once where none is missing, or where they
 * cannot be had. */
static void place(struct ldr_load *l, struct ldr_waiter *w)
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
        tell(l, w, &a);
        return;
    }
    range_of(l, w, &from, &end);
    w->left = 0;
    if (from < end) {
        w->first = (uint32_t)(from >> l->log2);
        w->last = (uint32_t)((end - 1) >> l->log2);
        if (w->suspect)
            check_files(l, w);
        w->suspect = false;
        for (uint32_t b = w->first; b <= w->last; b++)
            w->left += STATE(l, b) != THERE;
    }
    if (w->left == 0) {
        a = l->published && l->txnid ? in_cache(l) : not_in_cache(l, "");
        DL_DELETE(l->waiters, w);
        tell(l, w, &a);
        return;
    }
    ldr_index_stats(d->index, &st);
    if (end - from > st.block_capacity) {
        char why[160];

        snprintf(why, sizeof why,
                 "its %" PRIu64 " bytes are more than larder.cache.max_size (%" PRIu64 " bytes) has room for",
                 end - from, d->space.max_bytes);
        a = not_in_cache(l, why);
        ldr_count(&d->counters, uncached_large, 1);
        DL_DELETE(l->waiters, w);
        tell(l, w, &a);
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

static void place_all(struct ldr_load *l)
{
    struct ldr_waiter *w, *next;

    DL_FOREACH_SAFE(l->waiters, w, next)
    place(l, w);
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

static void block_there(struct ldr_load *l, uint32_t block)
{
    struct ldr_answer a = in_cache(l);
    struct ldr_waiter *list;

    if (STATE(l, block) == THERE)
        return;
    l->state[block] = THERE;
    take_covering(l, block, true, &list);
    tell_list(l, list, &a);
}

/* `block` does not come: who needs it hears why. */
static void block_failed(struct ldr_load *l, uint32_t block, const struct ldr_answer *a)
{
    struct ldr_waiter *list;

    l->state[block] = ABSENT;
    take_covering(l, block, false, &list);
    tell_list(l, list, a);
}

/* ---------- kept and published ---------- */

static void make_record(struct ldr_load *l, struct ldr_record *r, int64_t confirmed_ns)
{
    *r = (struct ldr_record){ .id = l->id,
                              .size_bytes = l->meta.size_bytes,
                              .last_modified_s = l->meta.last_modified_s,
                              .block_log2 = l->log2,
                              .prefix = (uint8_t)l->name->policy->slot,
                              .fields = l->meta.fields.p,
                              .fields_len = l->meta.fields.len };
    ldr_fresh_set(r, l->name->policy, ldr_index_boot(l->domain->index), confirmed_ns);
    l->fresh_until_ns = r->fresh_until_ns;
}

static void to_index(struct ldr_load *l, struct ldr_change *c, enum ldr_change_what what,
                     void (*done)(struct ldr_change *c), void *user)
{
    c->what = what;
    c->key = l->name->ikey;
    c->key_len = l->name->ikey_len;
    c->skip = &l->no_store;
    c->done = done;
    c->user = user;
    l->busy++;
    ldr_index_change(l->domain->index, c);
}

static void count_unkept(struct ldr_load *l, const struct ldr_change *c)
{
    if (c->kind == LARDER_CANCELLED)
        ldr_count(&l->domain->counters, not_stored, 1);
    else
        ldr_count(&l->domain->counters, uncached_full, 1);
}

/* A block is in the index, or is not wanted there. */
static void committed_on_ipc(struct ldr_task *t)
{
    struct ldr_filled *x = LDR_CONTAINER(t, struct ldr_filled, task);
    struct ldr_load *l = x->user;
    struct ldr_change *c = &x->change;
    bool single = l->n_blocks == 1;

    ldr_hold_unref(&c->hold);
    if (single) {
        ldr_filled_free(&l->only);
        l->only = x; /* its descriptor has the bytes, whatever became of its name */
    }
    if (!c->kind) {
        ldr_count(&l->domain->counters, published, c->what == LDR_CHANGE_PUT);
        l->txnid = c->txnid > l->txnid ? c->txnid : l->txnid;
        block_there(l, x->block);
    } else if (single) {
        struct ldr_answer a = not_in_cache(l, c->err.msg);

        count_unkept(l, c);
        l->joinable = false;
        block_failed(l, 0, &a);
    } else {
        l->state[x->block] = ABSENT;
        if (c->what == LDR_CHANGE_PUT)
            count_unkept(l, c);
        if (c->what == LDR_CHANGE_PUT && c->kind != LARDER_CANCELLED) { /* no record, so no block either */
            struct ldr_answer a = not_in_cache(l, c->err.msg);

            l->joinable = false;
            tell_all(l, &a);
        } else if (c->kind == LARDER_CANCELLED) {
            restart_all(l, false); /* a write came in between, or the record went */
        } else {
            struct ldr_answer a = not_in_cache(l, c->err.msg);

            block_failed(l, x->block, &a);
        }
    }
    if (!single)
        ldr_filled_free(&x);
    finish(l);
}

static void committed_on_index(struct ldr_change *c)
{
    struct ldr_filled *x = LDR_CONTAINER(c, struct ldr_filled, change);

    x->task.run = committed_on_ipc;
    ldr_mailbox_post(&x->domain->ipc_box, &x->task);
}

static void commit_block(struct ldr_load *l, struct ldr_filled *x, int64_t confirmed_ns)
{
    enum ldr_change_what what = l->published ? LDR_CHANGE_BLOCK : LDR_CHANGE_PUT;

    make_record(l, &x->change.record, confirmed_ns);
    x->change.block = x->block;
    x->change.block_hash = x->fill.hash;
    x->change.hold = hold_of_block(l, x->block);
    x->user = l;
    x->indexed = true;
    l->published = true; /* changes are applied in the order posted */
    to_index(l, &x->change, what, committed_on_index, x);
}

/* ---------- an inline object, or a confirmed record ---------- */

static void noted_on_index(struct ldr_change *c)
{
    struct ldr_load *l = c->user;

    ldr_mailbox_post(&l->domain->ipc_box, &l->task);
}

static void inline_on_ipc(struct ldr_task *t)
{
    struct ldr_load *l = LDR_CONTAINER(t, struct ldr_load, task);
    struct ldr_answer a;

    if (l->change.kind) {
        count_unkept(l, &l->change);
        a = not_in_cache(l, l->change.err.msg);
    } else {
        ldr_count(&l->domain->counters, published, 1);
        l->published = true;
        l->txnid = l->change.txnid;
        a = in_cache(l);
    }
    l->joinable = false; /* all is said */
    tell_all(l, &a);
    finish(l);
}

/* The version becomes known: take it over from the answer. */
static bool learn(struct ldr_load *l, const struct ldr_meta *meta)
{
    l->log2 = ldr_block_log2_for(meta->size_bytes, (uint8_t)__builtin_ctzll(l->domain->cfg->block_size));
    l->open = ldr_meta_copy(&l->meta, meta);
    return l->open;
}

static void publish_inline(struct ldr_load *l, const struct ldr_fetch *f)
{
    struct ldr_record *r = &l->change.record;

    make_record(l, r, f->confirmed_ns);
    r->flags = LDR_FLAG_INLINE;
    r->payload = f->mem;
    r->payload_len = f->mem_len;
    r->payload_hash = ldr_hash64(f->mem, f->mem_len);
    l->task.run = inline_on_ipc;
    to_index(l, &l->change, LDR_CHANGE_PUT, noted_on_index, l);
}

/* ---------- a known version ---------- */

static enum larder_kind open_version(struct ldr_load *l, struct larder_err *err)
{
    struct ldr_field v;

    l->n_blocks = l->meta.size_bytes ? (uint32_t)(((l->meta.size_bytes - 1) >> l->log2) + 1) : 0;
    l->state = calloc(l->n_blocks ? l->n_blocks : 1, 1);
    l->ahead_from = l->n_blocks;
    if (!l->state)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (ldr_fields_find(l->meta.fields.p, l->meta.fields.len, LDR_TAG_VALIDATOR, &v) &&
        ldr_validator_strong(v.p, v.len) && !(l->name->backend->ops->caps & LDR_CAP_STREAM_ONLY)) {
        l->validator = strndup((const char *)v.p, v.len);
        if (!l->validator)
            return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    return LARDER_OK;
}

/* Take the version that the cache has, blocks and all. */
static enum larder_kind open_base(struct ldr_load *l, const struct ldr_record *rec, uint64_t txnid,
                                  struct larder_err *err)
{
    struct ldr_meta meta = ldr_known_meta(rec);
    enum larder_kind k;

    l->id = rec->id;
    l->log2 = rec->block_log2;
    l->txnid = txnid;
    l->published = true;
    l->is_inline = rec->flags & LDR_FLAG_INLINE;
    l->fresh_until_ns = rec->fresh_until_ns;
    l->open = ldr_meta_copy(&l->meta, &meta);
    if (!l->open)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (rec->flags & LDR_FLAG_INLINE) { /* a record without blocks: nothing is missing */
        l->log2 = LDR_BLOCK_LOG2_MAX;
        k = open_version(l, err);
        for (uint32_t b = 0; !k && b < l->n_blocks; b++)
            l->state[b] = THERE;
        return k;
    }
    k = open_version(l, err);
    if (!k && l->n_blocks)
        ldr_reader_blocks(l->domain->reader, &l->id, 0, l->n_blocks, l->state);
    for (uint32_t b = 0; !k && b < l->n_blocks; b++)
        l->state[b] = l->state[b] ? THERE : ABSENT;
    return k;
}

/* Let another load of the same version serve the waiters. */
static void hand_to(struct ldr_load *l, struct ldr_load *other)
{
    struct ldr_waiter *list;

    l->joinable = false;
    take_all(l, &list);
    while (list) {
        struct ldr_waiter *w = list;

        DL_DELETE(list, w);
        let_go(l, w);
        ldr_load_join(other, w);
    }
}

/* The store still has what the cache has: it is fresh again. */
static void confirmed_on_ipc(struct ldr_task *t)
{
    struct ldr_load *l = LDR_CONTAINER(t, struct ldr_load, task), *same;
    struct larder_err e;
    struct ldr_record rec;
    uint64_t txnid;
    enum larder_kind k;

    /* An index without room leaves the record stale, and its bytes are right all the same. */
    if (l->change.kind == LARDER_CANCELLED || !ldr_known_find(l->domain, l->name, &rec, &txnid) ||
        memcmp(&rec.id, &l->change.record.id, sizeof rec.id)) {
        restart_all(l, false); /* replaced or evicted meanwhile */
        finish(l);
        return;
    }
    k = open_base(l, &rec, txnid, &e);
    l->fresh_until_ns = l->change.record.fresh_until_ns;
    same = k ? NULL : ldr_flight_same_version(l);
    if (k)
        fail_all(l, k, &e);
    else if (same)
        hand_to(l, same);
    else
        place_all(l);
    finish(l);
}

static void confirm(struct ldr_load *l, const struct ldr_fetch *f)
{
    struct ldr_record *r = &l->change.record;
    struct larder_err e;

    if (!ldr_record_unpack(l->base, l->base_len, l->name->ikey, l->name->ikey_len, r)) {
        fail_all(l, ldr_fail(&e, LARDER_INTERNAL, "a record was lost"), &e);
        return;
    }
    ldr_fresh_set(r, l->name->policy, ldr_index_boot(l->domain->index),
                  f->confirmed_ns ? f->confirmed_ns : ldr_boot_ns());
    r->prefix = (uint8_t)l->name->policy->slot;
    ldr_count(&l->domain->counters, confirmed, 1);
    l->task.run = confirmed_on_ipc;
    to_index(l, &l->change, LDR_CHANGE_UPDATE, noted_on_index, l);
}

/* ---------- pulls ---------- */

static struct pull *pull_new(struct ldr_load *l, uint32_t block)
{
    struct pull *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->load = l;
    p->block = block;
    l->busy++;
    l->pulls++;
    return p;
}

/* The pull is over; its fetch, if it is the opener, stays with the load. finish() is to follow. */
static void pull_free(struct pull *p)
{
    struct ldr_load *l = p->load;

    if (p->fetch && p->fetch != l->opener)
        ldr_fetch_free(&p->fetch);
    ldr_room_give_back(&l->domain->space, &p->room);
    l->pulls--;
    free(p);
}

/* Blocks that this pull should have brought, and that nobody handed over. */
static void pull_failed(struct pull *p, uint32_t end, const struct ldr_answer *a)
{
    struct ldr_load *l = p->load;

    for (uint32_t b = p->block; b < end && b < l->n_blocks && l->state; b++)
        if (STATE(l, b) == COMING)
            block_failed(l, b, a);
}

static void reserved_on_ipc(struct ldr_task *t)
{
    struct ldr_want *want = LDR_CONTAINER(t, struct ldr_want, task);
    struct pull *p = LDR_CONTAINER(want, struct pull, want);
    struct ldr_load *l = p->load;

    if (!want->kind) {
        p->room.end++;
        pull_fetch(p);
        return;
    }
    ldr_count(&l->domain->counters, uncached_full, 1);
    if (want->kind == LARDER_LIMIT_EXCEEDED && ldr_space_charge(want->size) <= l->domain->space.max_bytes)
        l->domain->no_room_until_ns = ldr_mono_ns() + NO_ROOM_NS;
    if (l->open) {
        struct ldr_answer a = not_in_cache(l, want->err.msg);

        pull_failed(p, p->want_end, &a);
    } else { /* the opener told what the object is, and was cut */
        struct ldr_answer a = not_in_cache(l, want->err.msg);

        l->joinable = false;
        tell_all(l, &a);
    }
    pull_free(p);
    finish(l);
}

/* Reserve what is missing of the pull's room, one block after the other; then send the request. */
static void pull_fetch(struct pull *p)
{
    struct ldr_load *l = p->load;
    struct ldr_fetch *f;
    struct larder_err e;

    if (p->room.end < p->want_end) {
        p->want = (struct ldr_want){ .task.run = reserved_on_ipc,
                                     .box = &l->domain->ipc_box,
                                     .size = ldr_room_len(&p->room, p->room.end) };
        ldr_space_want(&l->domain->space, &p->want);
        return;
    }
    f = ldr_fetch_new(l->domain, l->name, l->open ? LDR_FETCH_BLOCK : LDR_FETCH_OBJECT);
    if (f && l->validator && !(f->validator = strdup(l->validator)))
        ldr_fetch_free(&f);
    if (f && !l->open && l->base_validator && !(f->known = strdup(l->base_validator)))
        ldr_fetch_free(&f);
    if (!f) {
        struct ldr_answer a = { .kind = ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), .err = &e, .fd = -1 };

        pull_failed(p, p->block + 1, &a);
        if (!l->open)
            tell_all(l, &a);
        pull_free(p);
        finish(l);
        return;
    }
    f->offset = (uint64_t)p->block << l->log2;
    f->block = p->block;
    f->id = l->id;
    f->room = p->room;
    p->room = (struct ldr_room){ 0 };
    f->no_store = &l->no_store;
    f->stream = !l->open && l->stream;
    if (l->open)
        f->want = ldr_room_len(&f->room, p->block);
    f->opened = fetch_opened;
    f->filled = fetch_filled;
    f->done = fetch_done;
    f->user = p;
    if (!l->open) {
        ldr_fetch_free(&l->opener);
        l->opener = f;
    }
    p->fetch = f;
    ldr_fetch_start(f);
}

/* Ask for an object of which nothing is sure. */
static void open_object(struct ldr_load *l, uint64_t offset)
{
    uint8_t log2 = (uint8_t)__builtin_ctzll(l->domain->cfg->block_size);
    struct larder_err e;
    struct pull *p;

    if (l->name->backend->ops->caps & LDR_CAP_STREAM_ONLY)
        l->stream = true;
    l->log2 = log2;
    p = pull_new(l, l->stream || offset >> log2 > UINT32_MAX ? 0 : (uint32_t)(offset >> log2));
    if (p)
        pull_fetch(p);
    else
        fail_all(l, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
}

static void fetch_opened(struct ldr_fetch *f, const struct ldr_meta *meta)
{
    struct pull *p = f->user;
    struct ldr_load *l = p->load;
    struct larder_err e;
    enum larder_kind k = learn(l, meta) ? LARDER_OK : ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");

    p->block = f->stream ? 0 : (uint32_t)(f->offset >> l->log2); /* its blocks may be larger than was thought */
    free(l->base);                                               /* there is a newer version */
    l->base = NULL;
    if (!k)
        k = open_version(l, &e);
    if (k) {
        l->joinable = false;
        fail_all(l, k, &e);
        return; /* what arrives is dropped: there is no state for it */
    }
    l->stream = f->stream;
    for (uint32_t b = f->stream ? 0 : p->block; b < (f->stream ? l->n_blocks : p->block + 1) && b < l->n_blocks; b++)
        l->state[b] = COMING;
    place_all(l);
    pump(l);
}

static void fetch_filled(struct ldr_fetch *f, struct ldr_filled *x)
{
    struct pull *p = f->user;
    struct ldr_load *l = p->load;
    struct larder_err e;

    if (!l->open) { /* an object of one block: now all is known */
        enum larder_kind k = learn(l, &f->meta) ? open_version(l, &e) : ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");

        if (!k) {
            l->state[0] = COMING;
            place_all(l);
        } else {
            fail_all(l, k, &e);
        }
    }
    if (!l->state || x->block >= l->n_blocks) {
        ldr_filled_free(&x);
        return;
    }
    if (x->kind) { /* sealed or linked it could not be */
        struct ldr_answer a = not_in_cache(l, x->err.msg);

        a.fd = -1;
        a.mem = NULL;
        block_failed(l, x->block, &a);
        ldr_filled_free(&x);
        return;
    }
    commit_block(l, x, f->confirmed_ns);
}

/* An OBJECT request that brought nothing yet. True: the pull goes on. */
static bool open_again(struct pull *p, struct ldr_fetch *f)
{
    struct ldr_load *l = p->load;
    struct larder_err e;

    switch (f->end) {
    case LDR_END_NO_ROOM:
        if (p->room_tries++ >= ROOM_TRIES) {
            struct ldr_answer a = not_in_cache(l, f->err.msg);

            ldr_count(&l->domain->counters, uncached_full, 1);
            l->joinable = false;
            tell_all(l, &a);
            return false;
        }
        p->room = f->need;
        p->room.end = p->room.next;
        p->want_end = f->need.end;
        pull_fetch(p);
        return true;
    case LDR_END_WEAK:
        l->stream = true;
        p->block = 0;
        pull_fetch(p);
        return true;
    case LDR_END_BEHIND: {
        struct ldr_answer a = not_in_cache(l, "");
        struct ldr_waiter *w, *next;

        DL_FOREACH_SAFE(l->waiters, w, next)
        if (w->offset >= f->meta.size_bytes) {
            DL_DELETE(l->waiters, w);
            tell(l, w, &a);
        }
        if (!l->waiters)
            return false;
        p->block = 0;
        pull_fetch(p);
        return true;
    }
    case LDR_END_WRITTEN:
        restart_all(l, false);
        return false;
    case LDR_END_NOT_MODIFIED:
        confirm(l, f);
        return false;
    case LDR_END_UNKEPT: {
        struct ldr_answer a = not_in_cache(l, f->why);

        ldr_count(&l->domain->counters, uncached_large, 1);
        l->joinable = false;
        tell_all(l, &a);
        return false;
    }
    case LDR_END_DONE:
        break;
    }
    if (f->kind == LARDER_UNSUPPORTED && !l->stream) { /* no ranges: all of it, by one request */
        l->stream = true;
        p->block = 0;
        pull_fetch(p);
        return true;
    }
    if (f->kind == LARDER_PRECONDITION) {
        restart_all(l, true);
    } else if (f->kind) {
        struct ldr_record base;

        if (f->kind == LARDER_NOT_FOUND && l->base &&
            ldr_record_unpack(l->base, l->base_len, l->name->ikey, l->name->ikey_len, &base))
            ldr_known_drop(l->domain, l->name, &base.id); /* what is stale is now known to be gone */
        l->joinable = false;
        fail_all(l, f->kind, &f->err);
    } else if (f->whole && !learn(l, &f->meta)) {
        fail_all(l, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
    } else if (f->whole) {
        if (atomic_load(&l->no_store)) {
            struct ldr_answer a = not_in_cache(l, "a write of it was under way");

            ldr_count(&l->domain->counters, not_stored, 1);
            l->joinable = false;
            tell_all(l, &a);
        } else {
            publish_inline(l, f);
        }
    }
    return false;
}

static void fetch_done(struct ldr_fetch *f)
{
    struct pull *p = f->user;
    struct ldr_load *l = p->load;

    if (!l->open) {
        if (open_again(p, f))
            return;
    } else if (f->kind == LARDER_PRECONDITION || (f->kind == LARDER_UNSUPPORTED && !f->stream)) {
        restart_all(l, true); /* the store has another version, or answers no ranges any more */
    } else if (f->kind) {
        struct ldr_answer a = { .kind = f->kind, .err = &f->err, .fd = -1 };

        if (f->cache_failed)
            a = not_in_cache(l, f->err.msg);
        if (f->kind == LARDER_NOT_FOUND)
            ldr_known_drop(l->domain, l->name, &l->id);
        pull_failed(p, f->stream ? l->n_blocks : p->block + 1, &a);
    } else if (!f->handed && l->state && p->block < l->n_blocks && STATE(l, p->block) == COMING) {
        l->state[p->block] = ABSENT; /* it only told what the object is */
    }
    pull_free(p);
    finish(l);
}

/* The next block that somebody waits for, or else that should be fetched ahead; n_blocks: none. */
static uint32_t next_wanted(struct ldr_load *l)
{
    const struct ldr_waiter *w;

    DL_FOREACH(l->waiters, w)
    if (w->left)
        for (uint32_t b = w->first; b <= w->last; b++)
            if (STATE(l, b) == ABSENT)
                return b;
    if (!l->joinable)
        return l->n_blocks;
    for (; l->ahead_from < l->n_blocks; l->ahead_from++)
        if (l->state[l->ahead_from] == (ABSENT | STATE_AHEAD))
            return l->ahead_from;
    return l->n_blocks;
}

static void pump(struct ldr_load *l)
{
    while (l->open && l->state && l->pulls < PARALLEL) {
        uint32_t b = next_wanted(l);
        struct pull *p;

        if (b >= l->n_blocks)
            return;
        if (!l->validator) { /* one version in parts is not to be had: all of it, by one request */
            restart_all(l, true);
            return;
        }
        p = pull_new(l, b);
        if (!p) {
            struct larder_err e;

            fail_all(l, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
            return;
        }
        if (l->state[b] & STATE_AHEAD)
            ldr_count(&l->domain->counters, blocks_ahead, 1);
        l->state[b] = COMING;
        p->room = (struct ldr_room){ .object_size = l->meta.size_bytes, .log2 = l->log2, .next = b, .end = b };
        p->want_end = b + 1;
        pull_fetch(p);
    }
}

/* ---------- begin and end ---------- */

struct ldr_load *ldr_load_new(struct ldr_domain *d, struct ldr_name *name, bool anew, bool no_store)
{
    struct ldr_load *l = calloc(1, sizeof *l);

    if (!l)
        return NULL;
    l->domain = d;
    l->name = ldr_name_ref(name);
    l->anew = anew;
    l->joinable = true;
    atomic_init(&l->no_store, no_store);
    ldr_meta_init(&l->meta);
    return l;
}

static void load_free(struct ldr_load *l)
{
    assert(!l->busy && !l->waiters && !l->holds);
    ldr_fetch_free(&l->opener);
    ldr_filled_free(&l->only);
    ldr_meta_release(&l->meta);
    ldr_name_unref(&l->name);
    free(l->validator);
    free(l->base_validator);
    free(l->base);
    free(l->state);
    free(l);
}

/* Nobody waits, nothing is under way: it is over. */
static void settle(struct ldr_load *l)
{
    struct larder_err e;

    if (l->busy)
        return;
    if (l->waiters) { /* there is nothing left that could answer them */
        l->busy++;
        fail_all(l, ldr_fail(&e, LARDER_INTERNAL, "the load of \"%.200s\" stopped", l->name->text), &e);
        l->busy--;
    }
    ldr_flight_load_ended(l);
    load_free(l);
}

/* The end of an event of which one count of `busy` is. */
static void finish(struct ldr_load *l)
{
    pump(l);
    l->busy--;
    settle(l);
}

/* A copy of the stale record, to be confirmed by the store. False: it cannot be, or there is no memory. */
static bool keep_base(struct ldr_load *l, const struct ldr_record *rec)
{
    struct ldr_field v;

    if (!ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_VALIDATOR, &v) || v.len == 0)
        return false;
    l->base_len = ldr_record_len(rec);
    l->base = malloc(l->base_len);
    l->base_validator = strndup((const char *)v.p, v.len);
    if (!l->base || !l->base_validator)
        return false;
    ldr_record_pack(rec, l->name->ikey, l->name->ikey_len, l->base);
    return true;
}

static void start(struct ldr_load *l, const struct ldr_waiter *w)
{
    struct ldr_record rec;
    struct larder_err e;
    uint64_t txnid;
    bool known = !l->anew && ldr_known_find(l->domain, l->name, &rec, &txnid);
    bool pinned = known && w->validator; /* of one version, whatever the store has by now */

    if (known && (ldr_known_fresh(l->domain, &rec) || pinned)) {
        enum larder_kind k = open_base(l, &rec, txnid, &e);

        if (k)
            fail_all(l, k, &e);
        else
            place_all(l);
        return;
    }
    l->id = ldr_index_new_id(l->domain->index);
    if (known && !keep_base(l, &rec)) {
        free(l->base);
        l->base = NULL;
        free(l->base_validator);
        l->base_validator = NULL;
    }
    open_object(l, w->offset);
}

void ldr_load_join(struct ldr_load *l, struct ldr_waiter *w)
{
    bool first = !l->open && !l->busy && !l->opener;

    l->busy++; /* it is not freed in the middle of this */
    w->load = l;
    w->left = 0;
    DL_APPEND(l->waiters, w);
    if (first)
        start(l, w);
    else if (l->open && l->state)
        place(l, w);
    finish(l);
}

void ldr_load_leave(struct ldr_load *l, struct ldr_waiter *w)
{
    DL_DELETE(l->waiters, w);
    let_go(l, w);
    settle(l);
}
