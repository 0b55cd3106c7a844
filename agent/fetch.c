/* fetch.c - see fetch.h. The hand-offs, in order:
 *   start (ipc) → attempt (net, or pool for a local store): sink_begin, sink_write …, store_done
 *   → each full block: seal_on_pool → filled_on_ipc → filled
 *   → finish_on_ipc → done, behind the last block */
#include "agent/fetch.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FETCH_LIMIT_MS (15 * 60 * 1000) /* a fetch outlives its askers, but not for ever */
#define NAME_TRIES     200              /* milliseconds */

uint64_t ldr_room_len(const struct ldr_room *r, uint32_t block)
{
    uint64_t left = r->object_size - ((uint64_t)block << r->log2), full = UINT64_C(1) << r->log2;

    return left < full ? left : full;
}

void ldr_room_give_back(struct ldr_space *s, struct ldr_room *r)
{
    for (; r->next < r->end; r->next++)
        ldr_space_release(s, ldr_room_len(r, r->next));
}

/* ---------- back to the ipc thread ---------- */

static void end_if_all_came(struct ldr_fetch *f)
{
    if (f->ended && f->came == f->handed)
        f->done(f);
}

static void finish_on_ipc(struct ldr_task *t)
{
    struct ldr_fetch *f = LDR_CONTAINER(t, struct ldr_fetch, task);

    f->ended = true;
    end_if_all_came(f);
}

static void filled_on_ipc(struct ldr_task *t)
{
    struct ldr_filled *x = LDR_CONTAINER(t, struct ldr_filled, task);
    struct ldr_fetch *f = x->fetch;

    f->came++;
    f->filled(f, x);
    end_if_all_came(f);
}

static void link_block(struct ldr_filled *x)
{
    x->kind = ldr_fill_link(&x->fill, &x->id, x->block, &x->err);
    /* The same block was evicted a moment ago: the index is about to free its file's name. */
    for (int i = 0; i < NAME_TRIES && x->kind == LARDER_EXISTS; i++) {
        nanosleep(&(struct timespec){ .tv_nsec = LDR_NS_PER_MS }, NULL);
        x->kind = ldr_fill_link(&x->fill, &x->id, x->block, &x->err);
    }
}

static void linked_on_ipc(struct ldr_task *t)
{
    struct ldr_filled *x = LDR_CONTAINER(t, struct ldr_filled, task);

    x->linked(x);
}

static void link_on_pool(struct ldr_task *t)
{
    struct ldr_filled *x = LDR_CONTAINER(t, struct ldr_filled, task);

    link_block(x);
    t->run = linked_on_ipc;
    ldr_mailbox_post(&x->domain->ipc_box, t);
}

void ldr_filled_link(struct ldr_filled *x)
{
    x->task.run = link_on_pool;
    ldr_pool_post(x->domain->pool, &x->task);
}

static void seal_on_pool(struct ldr_task *t)
{
    struct ldr_filled *x = LDR_CONTAINER(t, struct ldr_filled, task);
    struct ldr_gate *gate = x->fetch->gate;

    x->kind = ldr_fill_seal(&x->fill, &x->err);
    if (!x->kind && !(gate && atomic_fetch_add(&gate->named, 1) + 1 == atomic_load(&gate->last))) {
        link_block(x);
        if (x->kind && gate)
            atomic_fetch_sub(&gate->named, 1);
    }
    if (x->kind)
        ldr_log(LDR_WARN, "fetch", "could not keep a block uri=\"%s\" reason=\"%s\"", x->fetch->name->text, x->err.msg);
    t->run = filled_on_ipc;
    ldr_mailbox_post(&x->domain->ipc_box, t);
}

/* The block is full. Small allocations in the agent may die: out of memory here leaves no way to end the fetch. */
static enum larder_kind hand_over(struct ldr_fetch *f, struct larder_err *err)
{
    struct ldr_filled *x = calloc(1, sizeof *x);

    if (!x)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    x->fetch = f;
    x->domain = f->domain;
    x->fill = f->fill;
    x->sums = f->sums;
    x->id = f->id;
    x->block = f->fill_block;
    x->task.run = seal_on_pool;
    f->fill = (struct ldr_fill){ .fd = -1 };
    f->handed++;
    ldr_pool_post(f->domain->pool, &x->task);
    return LARDER_OK;
}

void ldr_filled_free(struct ldr_filled **px)
{
    struct ldr_filled *x = *px;

    if (!x)
        return;
    if (x->fill.linked && !x->indexed)
        ldr_blocks_drop(&x->domain->blocks, &x->id, x->block, x->fill.size);
    ldr_fill_close(&x->fill);
    free(x);
    *px = NULL;
}

/* What the ipc thread is told of a large object while its bytes still arrive. */
struct opened {
    struct ldr_task task;
    struct ldr_fetch *fetch;
    struct ldr_meta meta;
};

static void opened_on_ipc(struct ldr_task *t)
{
    struct opened *o = LDR_CONTAINER(t, struct opened, task);

    o->fetch->opened(o->fetch, &o->meta);
    ldr_meta_release(&o->meta);
    free(o);
}

static enum larder_kind announce(struct ldr_fetch *f, struct larder_err *err)
{
    struct opened *o = calloc(1, sizeof *o);

    if (o)
        ldr_meta_init(&o->meta);
    if (!o || !ldr_meta_copy(&o->meta, &f->meta)) {
        free(o);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    o->fetch = f;
    o->task.run = opened_on_ipc;
    f->announced = true;
    ldr_mailbox_post(&f->domain->ipc_box, &o->task);
    return LARDER_OK;
}

/* ---------- the answer's head is in ---------- */

static void set_why(struct ldr_fetch *f, const char *text)
{
    snprintf(f->why, sizeof f->why, "%.*s", (int)sizeof f->why - 1, text);
}

/* No more of the body is wanted; store_done() finds `end` set. */
static enum larder_kind cut(struct ldr_fetch *f, enum ldr_fetch_end end, struct larder_err *err)
{
    f->cut = true;
    f->end = end;
    return ldr_fail(err, LARDER_CANCELLED, "no more bytes are wanted");
}

static enum larder_kind hold_in_memory(struct ldr_fetch *f, uint64_t offset, uint64_t len, struct larder_err *err)
{
    f->mem_offset = offset;
    f->mem_len = 0;
    f->mem_cap = (size_t)len;
    f->mem = malloc(f->mem_cap ? f->mem_cap : 1);
    return f->mem ? LARDER_OK : ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
}

/* The record's fields: what the store said, and the whole name where the index key is a shortened one. */
static bool complete_fields(struct ldr_fetch *f)
{
    return !ldr_name_shortened(f->name) || ldr_meta_add(&f->meta, LDR_TAG_KEY, f->name->text, f->name->text_len);
}

static bool vouches_for_ranges(const struct ldr_fetch *f)
{
    struct ldr_field v;

    return !(f->name->backend->ops->caps & LDR_CAP_STREAM_ONLY) &&
           ldr_fields_find(f->meta.fields.p, f->meta.fields.len, LDR_TAG_VALIDATOR, &v) &&
           ldr_validator_strong(v.p, v.len);
}

/* One that comes whole in one block was checked by its backend. */
static void begin_sums(struct ldr_fetch *f)
{
    bool several = f->meta.size_bytes > UINT64_C(1) << f->log2;

    ldr_block_sums_begin(&f->sums, f->crcs && several ? atomic_load(f->crcs) : 0);
}

/* Open the fill of `block` in the room that is reserved for it; room for another version goes back. */
static enum larder_kind open_fill(struct ldr_fetch *f, uint32_t block, struct larder_err *err)
{
    struct ldr_room r = { .object_size = f->meta.size_bytes, .log2 = f->log2 };
    bool reserved = f->room.next < f->room.end && f->room.next == block && f->room.object_size == r.object_size;

    if (reserved)
        f->room.next++;
    else
        ldr_room_give_back(&f->domain->space, &f->room);
    f->fill_block = block;
    begin_sums(f);
    return ldr_fill_open(&f->domain->blocks, ldr_room_len(&r, block), reserved, &f->fill, err);
}

/* Room for all blocks of an object that one request brings: all or nothing. */
static enum larder_kind reserve_all(struct ldr_fetch *f, uint32_t n, struct larder_err *err)
{
    struct ldr_space *s = &f->domain->space;
    struct ldr_room r = { .object_size = f->meta.size_bytes, .log2 = f->log2 };
    enum larder_kind k = LARDER_OK;

    if (f->room.next == 0 && f->room.end == n && f->room.object_size == r.object_size)
        return LARDER_OK;
    ldr_room_give_back(s, &f->room);
    for (; r.end < n && !k; r.end += !k)
        k = ldr_space_reserve(s, ldr_room_len(&r, r.end), err);
    if (k)
        ldr_room_give_back(s, &r);
    else
        f->room = r;
    return k;
}

/* Blocks [first, end) have no room now: the load waits for it and comes again. Or the cache could not be written. */
static enum larder_kind without_room(struct ldr_fetch *f, uint32_t first, uint32_t end, const struct larder_err *e,
                                     struct larder_err *err)
{
    f->err = *e;
    f->need = (struct ldr_room){ .object_size = f->meta.size_bytes, .log2 = f->log2, .next = first, .end = end };
    if (e->kind == LARDER_LIMIT_EXCEEDED)
        return cut(f, LDR_END_NO_ROOM, err);
    f->cache_failed = e->kind == LARDER_IO;
    if (err)
        *err = *e;
    return e->kind;
}

static enum larder_kind begin_one_block(struct ldr_fetch *f, struct larder_err *err)
{
    struct larder_err e = { 0 };

    return open_fill(f, 0, &e) ? without_room(f, 0, 1, &e, err) : LARDER_OK;
}

static enum larder_kind begin_many_blocks(struct ldr_fetch *f, uint64_t offset, uint64_t length, struct larder_err *err)
{
    struct ldr_room all = { .object_size = f->meta.size_bytes, .log2 = f->log2 };
    uint32_t n = (uint32_t)(((all.object_size - 1) >> f->log2) + 1), first = (uint32_t)(offset >> f->log2);
    bool whole = offset == 0 && length == all.object_size;
    struct larder_err e = { 0 };
    enum larder_kind k;

    if (f->no_store && atomic_load(f->no_store))
        return cut(f, LDR_END_WRITTEN, err);
    if (!whole && !vouches_for_ranges(f))
        return cut(f, LDR_END_WEAK, err);
    if (whole) { /* as asked for, or from a store that knows no ranges */
        f->stream = true;
        if (reserve_all(f, n, &e) || open_fill(f, 0, &e))
            return without_room(f, 0, n, &e, err);
    } else if (ldr_room_len(&all, first) != length) {
        k = announce(f, err); /* blocks are larger than what was asked for: it only told what the object is */
        return k ? k : cut(f, LDR_END_DONE, err);
    } else if (open_fill(f, first, &e)) {
        return without_room(f, first, first + 1, &e, err);
    }
    return announce(f, err);
}

static enum larder_kind begin_object(struct ldr_fetch *f, uint64_t offset, uint64_t length, struct larder_err *err)
{
    const struct ldr_cfg *cfg = f->domain->cfg;
    uint64_t size = f->meta.size_bytes;

    f->end = LDR_END_DONE;
    f->log2 = ldr_block_log2_for(size, (uint8_t)__builtin_ctzll(cfg->block_size));
    if (size > 0 && length == 0)
        return cut(f, LDR_END_BEHIND, err);
    if (!complete_fields(f)) {
        set_why(f, "its metadata and name are larger than an index record");
    } else if (size + LDR_RECORD_FIXED + f->meta.fields.len <= cfg->inline_limit) {
        return hold_in_memory(f, 0, size, err);
    } else if (size == 0 || LDR_RECORD_FIXED + f->meta.fields.len > cfg->inline_limit) {
        set_why(f, "larder.cache.inline_limit is too small for it");
    } else if (f->cache_failed) {
        set_why(f, "the cache could not be written");
    } else {
        return size <= UINT64_C(1) << f->log2 ? begin_one_block(f, err) : begin_many_blocks(f, offset, length, err);
    }
    f->end = LDR_END_UNKEPT;
    return hold_in_memory(f, offset, length < LDR_WIRE_CHUNK ? length : LDR_WIRE_CHUNK, err);
}

static void rewind_fill(struct ldr_fill *fill)
{
    fill->written = 0;
    fill->piece_len = 0;
    fill->unhashed = false;
    XXH3_64bits_reset(fill->hash_state);
}

static enum larder_kind begin_block(struct ldr_fetch *f, uint64_t offset, uint64_t length, struct larder_err *err)
{
    if (f->meta.size_bytes != f->room.object_size || offset != f->offset || length != f->want)
        return ldr_fail(err, LARDER_PRECONDITION, "\"%.200s\" is not what it was", f->name->text);
    if (ldr_fill_is_open(&f->fill)) {
        rewind_fill(&f->fill);
        begin_sums(f);
        return LARDER_OK;
    }
    f->cache_failed = open_fill(f, f->block, &f->err) != LARDER_OK;
    if (f->cache_failed && err)
        *err = f->err;
    return f->cache_failed ? f->err.kind : LARDER_OK;
}

static enum larder_kind sink_begin(struct ldr_sink *s, const struct ldr_meta *meta, uint64_t offset, uint64_t length,
                                   struct larder_err *err)
{
    struct ldr_fetch *f = LDR_CONTAINER(s, struct ldr_fetch, sink);

    /* Another attempt, of another version perhaps, while blocks of the first one are on their way: what the ipc thread
     * reads stays as it is. */
    if (f->announced)
        return ldr_fail(err, LARDER_PRECONDITION, "the answer broke off, and the object is read anew");
    if (meta->size_bytes > LDR_OBJECT_SIZE_MAX)
        return ldr_fail(err, LARDER_UNSUPPORTED,
                        "\"%.200s\" has %" PRIu64 " bytes, more than any object that larder reads", f->name->text,
                        meta->size_bytes);
    free(f->mem);
    f->mem = NULL;
    f->mem_len = f->mem_cap = 0;
    f->cut = f->whole = false;
    f->why[0] = '\0';
    f->confirmed_ns = ldr_boot_ns();
    if (!ldr_meta_copy(&f->meta, meta))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    switch (f->what) {
    case LDR_FETCH_CHUNK:
        return hold_in_memory(f, offset, length < f->want ? length : f->want, err);
    case LDR_FETCH_BLOCK:
        return begin_block(f, offset, length, err);
    default:
        ldr_fill_close(&f->fill);
        return begin_object(f, offset, length, err);
    }
}

/* ---------- the bytes arrive ---------- */

/* Into the open block; a full one is handed over, and where more follow the next one is opened. */
static enum larder_kind write_blocks(struct ldr_fetch *f, const uint8_t *p, size_t n, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    while (n > 0 && !k) {
        uint64_t room = f->fill.size - f->fill.written - f->fill.piece_len;
        size_t take = n < room ? n : (size_t)room;

        if (take == 0 && f->stream && ((uint64_t)f->fill_block + 1) << f->log2 < f->meta.size_bytes) {
            k = hand_over(f, err);
            if (!k)
                k = open_fill(f, f->fill_block + 1, err);
            continue;
        }
        ldr_block_sums_add(&f->sums, p, take);                 /* while they are in the processor's cache */
        k = ldr_fill_write(&f->fill, p, take ? take : n, err); /* one byte too many is its failure to tell */
        p += take;
        n -= take;
    }
    if (k == LARDER_IO || k == LARDER_LIMIT_EXCEEDED)
        f->cache_failed = true;
    return k;
}

static enum larder_kind sink_write(struct ldr_sink *s, const void *p, size_t n, struct larder_err *err)
{
    struct ldr_fetch *f = LDR_CONTAINER(s, struct ldr_fetch, sink);
    size_t room = f->mem_cap - f->mem_len;

    if (ldr_fill_is_open(&f->fill))
        return write_blocks(f, p, n, err);
    memcpy(f->mem + f->mem_len, p, n < room ? n : room);
    f->mem_len += n < room ? n : room;
    if (n <= room)
        return LARDER_OK;
    if (f->what == LDR_FETCH_OBJECT && f->end == LDR_END_DONE) /* a small object, of which all is kept */
        return ldr_fail(err, LARDER_CORRUPT, "more bytes arrived than the %zu announced", f->mem_cap);
    return cut(f, f->end, err); /* the first bytes are all that is kept of this one */
}

/* A block whose bytes nobody here has to see may come past this process. */
static bool sink_direct(struct ldr_sink *s, uint64_t left, int *file, uint64_t *at)
{
    struct ldr_fetch *f = LDR_CONTAINER(s, struct ldr_fetch, sink);

    return (f->what == LDR_FETCH_BLOCK || f->what == LDR_FETCH_OBJECT) && !f->stream && !f->sums.algos &&
           ldr_fill_is_open(&f->fill) && ldr_fill_direct(&f->fill, left, file, at);
}

static enum larder_kind sink_moved(struct ldr_sink *s, size_t n, struct larder_err *err)
{
    (void)err;
    ldr_fill_moved(&LDR_CONTAINER(s, struct ldr_fetch, sink)->fill, n);
    return LARDER_OK;
}

/* The store has answered for good. Net or pool thread. */
static void store_done(struct ldr_attempt *a)
{
    struct ldr_fetch *f = LDR_CONTAINER(a, struct ldr_fetch, attempt);
    struct ldr_op *op = &a->op;

    if (op->kind == LARDER_CANCELLED && f->cut)
        op->kind = LARDER_OK;
    else if (!op->kind && op->not_modified && f->announced)
        op->kind = ldr_fail(&op->err, LARDER_PRECONDITION, "the answer broke off, and the object is read anew");
    else if (!op->kind && op->not_modified)
        f->end = LDR_END_NOT_MODIFIED;
    else if (op->kind)
        f->end = LDR_END_DONE;
    if (op->kind == LARDER_IO && f->cache_failed && f->what == LDR_FETCH_OBJECT && !f->announced) {
        ldr_log(LDR_WARN, "fetch", "the cache could not be written uri=\"%s\" reason=\"%s\"", f->name->text,
                op->err.msg);
        ldr_fill_close(&f->fill);
        ldr_op_rearm(op);
        ldr_attempt_start(a); /* without it */
        return;
    }
    if (!op->kind && f->end == LDR_END_DONE && ldr_fill_is_open(&f->fill))
        op->kind = hand_over(f, &op->err);
    if (!op->kind && f->what == LDR_FETCH_OBJECT && f->end == LDR_END_DONE && !f->handed)
        f->whole = f->mem != NULL;
    if (!op->kind && f->what == LDR_FETCH_HEAD && op->meta.size_bytes > LDR_OBJECT_SIZE_MAX)
        op->kind = ldr_fail(&op->err, LARDER_UNSUPPORTED, "\"%.200s\" has more bytes than any object that larder reads",
                            f->name->text);
    if (!op->kind && f->what == LDR_FETCH_HEAD && !ldr_meta_copy(&f->meta, &op->meta))
        op->kind = ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory");
    f->kind = op->kind;
    if (op->kind)
        f->err = op->err;
    ldr_fill_close(&f->fill);
    f->task.run = finish_on_ipc;
    ldr_mailbox_post(&f->domain->ipc_box, &f->task);
}

/* ---------- making ---------- */

struct ldr_fetch *ldr_fetch_new(struct ldr_domain *d, struct ldr_name *name, enum ldr_fetch_what what)
{
    struct ldr_fetch *f = calloc(1, sizeof *f);

    if (!f)
        return NULL;
    f->domain = d;
    f->name = ldr_name_ref(name);
    f->what = what;
    f->fill.fd = -1;
    f->sink = (struct ldr_sink){ .begin = sink_begin, .write = sink_write, .direct = sink_direct, .moved = sink_moved };
    ldr_meta_init(&f->meta);
    return f;
}

static void mark_started_on_net(struct ldr_task *t)
{
    struct ldr_fetch *f = LDR_CONTAINER(t, struct ldr_fetch, task);

    atomic_store(&f->started, true);
    ldr_attempt_start(&f->attempt);
}

void ldr_fetch_start(struct ldr_fetch *f)
{
    static const enum ldr_op_what ops[] = { [LDR_FETCH_OBJECT] = LDR_OP_GET,
                                            [LDR_FETCH_BLOCK] = LDR_OP_GET,
                                            [LDR_FETCH_CHUNK] = LDR_OP_GET,
                                            [LDR_FETCH_HEAD] = LDR_OP_HEAD,
                                            [LDR_FETCH_LIST] = LDR_OP_LIST };
    struct ldr_op *op = &f->attempt.op;

    ldr_meta_init(&op->meta);
    op->backend = f->name->backend;
    op->what = ops[f->what];
    op->uri = f->name->text;
    op->container = f->name->container;
    op->key = f->name->key;
    op->deadline_ns = ldr_deadline_ns(f->limit_ms ? (int)f->limit_ms : FETCH_LIMIT_MS);
    op->fd = -1;
    op->sink = &f->sink;
    op->ranged = op->what == LDR_OP_GET && !f->stream;
    op->offset = f->offset;
    op->length = f->what == LDR_FETCH_OBJECT ? f->domain->cfg->block_size : f->want;
    op->if_match = f->validator;
    op->part = f->part;
    op->if_none_match = f->known;
    op->delimiter = f->delimiter;
    op->start = f->start;
    op->max_entries = f->what == LDR_FETCH_LIST ? (unsigned)f->want : 0;
    f->log2 = f->room.log2; /* BLOCK; an OBJECT's answer tells */
    f->attempt.counters = &f->domain->counters;
    f->attempt.done = store_done;
    /* `started` is set on the net thread, just before the request leaves: until then a head may be joined. */
    f->task.run = mark_started_on_net;
    ldr_net_post(op->backend->env.net, &f->task);
}

void ldr_fetch_free(struct ldr_fetch **pf)
{
    struct ldr_fetch *f = *pf;

    if (!f)
        return;
    ldr_fill_close(&f->fill);
    ldr_room_give_back(&f->domain->space, &f->room);
    free(f->mem);
    free(f->validator);
    free(f->known);
    free(f->delimiter);
    free(f->start);
    ldr_meta_release(&f->meta);
    ldr_meta_release(&f->attempt.op.meta);
    ldr_page_release(&f->attempt.op.page);
    ldr_name_unref(&f->name);
    free(f);
    *pf = NULL;
}

const struct ldr_page *ldr_fetch_page(const struct ldr_fetch *f)
{
    return &f->attempt.op.page;
}
