/* load_pull.c - see load_impl.h: the requests of a load. A pull reserves room, fetches, and hands over what came:
 *   pull_fetch → (reserved_on_ipc) → fetch.c → fetch_opened, fetch_filled … → fetch_done, or open_again */
#include "agent/load_impl.h"
#include "agent/known.h"
#include "agent/width.h"
#include "common/clock.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define ROOM_TRIES 3 /* reservations that one request may need: another size each time */
#define NO_ROOM_NS LDR_NS_PER_S

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

static void pull_fetch(struct pull *p);
static void fetch_opened(struct ldr_fetch *f, const struct ldr_meta *meta);
static void fetch_filled(struct ldr_fetch *f, struct ldr_filled *x);
static void fetch_done(struct ldr_fetch *f);

static struct pull *pull_new(struct ldr_load *l, uint32_t block)
{
    struct pull *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->load = l;
    p->block = block;
    l->busy++;
    l->pulls++;
    if (!l->width)
        l->width = ldr_flight_width(l->domain->flights, l->name->backend);
    if (l->width)
        l->width->pulls++;
    return p;
}

/* The pull is over; its fetch, if it is the opener, stays with the load. ldr_load_finish() is to follow. */
static void pull_free(struct pull *p)
{
    struct ldr_load *l = p->load;

    if (p->fetch && p->fetch != l->opener)
        ldr_fetch_free(&p->fetch);
    ldr_room_give_back(&l->domain->space, &p->room);
    l->pulls--;
    if (l->width)
        l->width->pulls--;
    free(p);
}

/* Blocks that this pull should have brought, and that nobody handed over. */
static void pull_failed(struct pull *p, uint32_t end, const struct ldr_answer *a)
{
    struct ldr_load *l = p->load;

    for (uint32_t b = p->block; b < end && b < l->n_blocks && l->state; b++)
        if (LDR_STATE(l, b) == LDR_COMING)
            ldr_load_block_failed(l, b, a);
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
        struct ldr_answer a = ldr_load_not_in_cache(l, want->err.msg);

        pull_failed(p, p->want_end, &a);
    } else { /* the opener told what the object is, and was cut */
        struct ldr_answer a = ldr_load_not_in_cache(l, want->err.msg);

        l->joinable = false;
        ldr_load_tell_all(l, &a);
    }
    pull_free(p);
    ldr_load_finish(l);
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
            ldr_load_tell_all(l, &a);
        pull_free(p);
        ldr_load_finish(l);
        return;
    }
    f->offset = (uint64_t)p->block << l->log2;
    f->block = p->block;
    f->id = l->id;
    f->room = p->room;
    p->room = (struct ldr_room){ 0 };
    f->no_store = &l->no_store;
    f->crcs = &l->crcs;
    f->gate = &l->gate;
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
void ldr_load_open_object(struct ldr_load *l, uint64_t offset)
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
        ldr_load_fail_all(l, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
}

static void fetch_opened(struct ldr_fetch *f, const struct ldr_meta *meta)
{
    struct pull *p = f->user;
    struct ldr_load *l = p->load;
    struct larder_err e;
    enum larder_kind k = ldr_load_learn(l, meta) ? LARDER_OK : ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");

    p->block = f->stream ? 0 : (uint32_t)(f->offset >> l->log2); /* its blocks may be larger than was thought */
    free(l->base);                                               /* there is a newer version */
    l->base = NULL;
    if (!k)
        k = ldr_load_open_version(l, &e);
    if (k) {
        l->joinable = false;
        ldr_load_fail_all(l, k, &e);
        return; /* what arrives is dropped: there is no state for it */
    }
    l->stream = f->stream;
    for (uint32_t b = f->stream ? 0 : p->block; b < (f->stream ? l->n_blocks : p->block + 1) && b < l->n_blocks; b++)
        l->state[b] = LDR_COMING;
    ldr_load_check_open(l);
    ldr_load_place_all(l);
    ldr_load_pump(l);
}

/* A block of several has arrived: what does that say of how many requests are good? */
static void note_width(struct ldr_load *l, const struct ldr_filled *x)
{
    struct ldr_width *w = l->width;

    if (!w)
        return;
    if (l->pulls >= ldr_width_now(w) && l->pulls == w->pulls)
        ldr_width_block(w, x->fill.size, ldr_mono_ns());
    else
        ldr_width_break(w);
}

static void fetch_filled(struct ldr_fetch *f, struct ldr_filled *x)
{
    struct pull *p = f->user;
    struct ldr_load *l = p->load;
    struct larder_err e;

    if (!l->open) { /* an object of one block: now all is known */
        enum larder_kind k = ldr_load_learn(l, &f->meta) ? ldr_load_open_version(l, &e)
                                                         : ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");

        if (!k) {
            l->state[0] = LDR_COMING;
            ldr_load_place_all(l);
        } else {
            ldr_load_fail_all(l, k, &e);
        }
    }
    if (!l->state || x->block >= l->n_blocks) {
        ldr_filled_free(&x);
        return;
    }
    if (x->kind ==
        LARDER_EXISTS) { /* a load that ended had it still on the way, and was first: it is in the index now */
        l->state[x->block] = LDR_ABSENT;
        ldr_filled_free(&x);
        ldr_load_restart_all(l, false);
        return;
    }
    if (!x->kind)
        note_width(l, x);
    ldr_load_check_block(l, x, f->confirmed_ns);
}

/* An OBJECT request that brought nothing yet. True: the pull goes on. */
static bool open_again(struct pull *p, struct ldr_fetch *f)
{
    struct ldr_load *l = p->load;
    struct larder_err e;

    switch (f->end) {
    case LDR_END_NO_ROOM:
        if (p->room_tries++ >= ROOM_TRIES) {
            struct ldr_answer a = ldr_load_not_in_cache(l, f->err.msg);

            ldr_count(&l->domain->counters, uncached_full, 1);
            l->joinable = false;
            ldr_load_tell_all(l, &a);
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
        struct ldr_answer a = ldr_load_not_in_cache(l, "");
        struct ldr_waiter *w, *next;

        DL_FOREACH_SAFE(l->waiters, w, next)
        if (w->offset >= f->meta.size_bytes) {
            DL_DELETE(l->waiters, w);
            ldr_load_tell(l, w, &a);
        }
        if (!l->waiters)
            return false;
        p->block = 0;
        pull_fetch(p);
        return true;
    }
    case LDR_END_WRITTEN:
        ldr_load_restart_all(l, false);
        return false;
    case LDR_END_NOT_MODIFIED:
        ldr_load_confirm(l, f);
        return false;
    case LDR_END_UNKEPT: {
        struct ldr_answer a = ldr_load_not_in_cache(l, f->why);

        ldr_count(&l->domain->counters, uncached_large, 1);
        l->joinable = false;
        ldr_load_tell_all(l, &a);
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
        ldr_load_restart_all(l, true);
    } else if (f->kind) {
        struct ldr_record base;

        if (f->kind == LARDER_NOT_FOUND && l->base &&
            ldr_record_unpack(l->base, l->base_len, l->name->ikey, l->name->ikey_len, &base))
            ldr_known_drop(l->domain, l->name, &base.id); /* what is stale is now known to be gone */
        l->joinable = false;
        ldr_load_fail_all(l, f->kind, &f->err);
    } else if (f->whole && !ldr_load_learn(l, &f->meta)) {
        ldr_load_fail_all(l, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
    } else if (f->whole) {
        if (atomic_load(&l->no_store)) {
            struct ldr_answer a = ldr_load_not_in_cache(l, "a write of it was under way");

            ldr_count(&l->domain->counters, not_stored, 1);
            l->joinable = false;
            ldr_load_tell_all(l, &a);
        } else {
            ldr_load_publish_inline(l, f);
        }
    }
    return false;
}

static void fetch_done(struct ldr_fetch *f)
{
    struct pull *p = f->user;
    struct ldr_load *l = p->load;

    if (f->attempt.throttled && l->width)
        ldr_width_throttled(l->width, ldr_mono_ns());
    if (!l->open) {
        if (open_again(p, f))
            return;
    } else if (f->kind == LARDER_PRECONDITION || (f->kind == LARDER_UNSUPPORTED && !f->stream)) {
        ldr_load_restart_all(l, true); /* the store has another version, or answers no ranges any more */
    } else if (f->kind) {
        struct ldr_answer a = { .kind = f->kind, .err = &f->err, .fd = -1 };

        if (f->cache_failed)
            a = ldr_load_not_in_cache(l, f->err.msg);
        if (f->kind == LARDER_NOT_FOUND)
            ldr_known_drop(l->domain, l->name, &l->id);
        pull_failed(p, f->stream ? l->n_blocks : p->block + 1, &a);
    } else if (!f->handed && l->state && p->block < l->n_blocks && LDR_STATE(l, p->block) == LDR_COMING) {
        l->state[p->block] = LDR_ABSENT; /* it only told what the object is */
    }
    pull_free(p);
    ldr_load_finish(l);
}

/* The next block that somebody waits for, or else that should be fetched ahead; n_blocks: none. */
static uint32_t next_wanted(struct ldr_load *l)
{
    const struct ldr_waiter *w;

    DL_FOREACH(l->waiters, w)
    if (w->left)
        for (uint32_t b = w->first; b <= w->last; b++)
            if (LDR_STATE(l, b) == LDR_ABSENT)
                return b;
    if (!l->joinable)
        return l->n_blocks;
    for (; l->ahead_from < l->n_blocks; l->ahead_from++)
        if (l->state[l->ahead_from] == (LDR_ABSENT | LDR_STATE_AHEAD))
            return l->ahead_from;
    return l->n_blocks;
}

void ldr_load_pump(struct ldr_load *l)
{
    unsigned width = l->width ? ldr_width_now(l->width) : LDR_WIDTH_FIRST;

    while (l->open && l->state && l->pulls < width) {
        uint32_t b = next_wanted(l);
        struct pull *p;

        if (b >= l->n_blocks)
            return;
        if (!l->validator) { /* one version in parts is not to be had: all of it, by one request */
            ldr_load_restart_all(l, true);
            return;
        }
        p = pull_new(l, b);
        if (!p) {
            struct larder_err e;

            ldr_load_fail_all(l, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
            return;
        }
        if (l->state[b] & LDR_STATE_AHEAD)
            ldr_count(&l->domain->counters, blocks_ahead, 1);
        ldr_load_check_again(l, b);
        l->state[b] = LDR_COMING;
        p->room = (struct ldr_room){ .object_size = l->meta.size_bytes, .log2 = l->log2, .next = b, .end = b };
        p->want_end = b + 1;
        pull_fetch(p);
    }
}
