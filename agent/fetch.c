/* fetch.c - see fetch.h. The hand-offs, in order:
 *   start (ipc) → attempt (net, or pool for a local store): sink_begin, sink_write …, store_done
 *   → small: publish (any) · a block: seal_on_pool → publish · not kept: back to ipc at once
 *   → index thread: published_on_index → ipc: finish_on_ipc → done */
#include "agent/fetch.h"
#include "agent/fresh.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FETCH_LIMIT_MS (15 * 60 * 1000) /* a fetch outlives its askers, but not for ever */

static void finish_on_ipc(struct ldr_task *t);

static void to_ipc(struct ldr_fetch *f)
{
    f->task.run = finish_on_ipc;
    ldr_mailbox_post(&f->domain->ipc_box, &f->task);
}

static void set_why(struct ldr_fetch *f, const char *text)
{
    snprintf(f->why, sizeof f->why, "%.*s", (int)sizeof f->why - 1, text);
}

/* ---------- the bytes arrive ---------- */

static enum larder_kind hold_in_memory(struct ldr_fetch *f, uint64_t offset, uint64_t len, struct larder_err *err)
{
    free(f->mem);
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

static enum larder_kind sink_begin(struct ldr_sink *s, const struct ldr_meta *meta, uint64_t offset, uint64_t length,
                                   struct larder_err *err)
{
    struct ldr_fetch *f = LDR_CONTAINER(s, struct ldr_fetch, sink);
    const struct ldr_cfg *cfg = f->domain->cfg;
    struct larder_err e = { 0 };

    ldr_fill_close(&f->fill);
    f->cut = f->whole = false;
    f->why[0] = '\0';
    f->confirmed_ns = ldr_boot_ns();
    if (!ldr_meta_copy(&f->meta, meta))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (f->what == LDR_FETCH_CHUNK)
        return hold_in_memory(f, offset, length < f->want ? length : f->want, err);
    if (!complete_fields(f)) {
        set_why(f, "its metadata and name are larger than an index record");
    } else if (meta->size_bytes + LDR_RECORD_FIXED + f->meta.fields.len <= cfg->inline_limit) {
        return hold_in_memory(f, 0, meta->size_bytes, err);
    } else if (meta->size_bytes > cfg->block_size) {
        ldr_count(&f->domain->counters, uncached_large, 1);
        snprintf(f->why, sizeof f->why, "larger than one block of %" PRIu64 " bytes (larder.cache.block_size)",
                 cfg->block_size);
    } else if (meta->size_bytes == 0) { /* inline_limit smaller than a head: nothing small is kept */
        set_why(f, "larder.cache.inline_limit is too small for it");
    } else if (f->no_fill) {
        set_why(f, "the cache could not be written");
    } else if (ldr_fill_open(&f->domain->blocks, meta->size_bytes, &f->fill, &e)) {
        ldr_count(&f->domain->counters, uncached_full, 1);
        set_why(f, e.msg);
    } else {
        return LARDER_OK;
    }
    return hold_in_memory(f, 0, meta->size_bytes < LDR_WIRE_CHUNK ? meta->size_bytes : LDR_WIRE_CHUNK, err);
}

static enum larder_kind sink_write(struct ldr_sink *s, const void *p, size_t n, struct larder_err *err)
{
    struct ldr_fetch *f = LDR_CONTAINER(s, struct ldr_fetch, sink);
    size_t room = f->mem_cap - f->mem_len;

    if (ldr_fill_is_open(&f->fill))
        return ldr_fill_write(&f->fill, p, n, err);
    memcpy(f->mem + f->mem_len, p, n < room ? n : room);
    f->mem_len += n < room ? n : room;
    if (n <= room)
        return LARDER_OK;
    if (f->what == LDR_FETCH_OBJECT && !f->why[0]) /* a small object, of which all is kept */
        return ldr_fail(err, LARDER_CORRUPT, "more bytes arrived than the %zu announced", f->mem_cap);
    f->cut = true; /* the first bytes are all that is kept of this one; the client asks for the rest in pieces */
    return ldr_fail(err, LARDER_CANCELLED, "no more bytes are wanted");
}

/* ---------- kept and published ---------- */

static void published_on_index(struct ldr_change *c)
{
    to_ipc(c->user);
}

/* Any thread. The bytes are all there: in mem, or in a linked block of `id`. */
static void publish(struct ldr_fetch *f)
{
    struct ldr_record *r = &f->change.record;
    bool is_inline = !ldr_fill_is_open(&f->fill);

    *r = (struct ldr_record){ .flags = is_inline ? LDR_FLAG_INLINE : 0,
                              .id = f->id,
                              .size_bytes = f->meta.size_bytes,
                              .last_modified_s = f->meta.last_modified_s,
                              .block_log2 = (uint8_t)__builtin_ctzll(f->domain->cfg->block_size),
                              .fields = f->meta.fields.p,
                              .fields_len = f->meta.fields.len };
    if (is_inline) {
        r->payload = f->mem;
        r->payload_len = f->mem_len;
        r->payload_hash = ldr_hash64(f->mem, f->mem_len);
    }
    ldr_fresh_set(r, f->name->policy, ldr_index_boot(f->domain->index), f->confirmed_ns);
    f->change.what = LDR_CHANGE_PUT;
    f->change.key = f->name->ikey;
    f->change.key_len = f->name->ikey_len;
    f->change.block_hash = f->fill.hash;
    f->change.skip = &f->no_store;
    f->change.done = published_on_index;
    f->change.user = f;
    ldr_index_change(f->domain->index, &f->change);
}

static void seal_on_pool(struct ldr_task *t)
{
    struct ldr_fetch *f = LDR_CONTAINER(t, struct ldr_fetch, task);
    struct larder_err e = { 0 };

    if (ldr_fill_seal(&f->fill, &e) || ldr_fill_link(&f->fill, &f->id, 0, &e)) {
        ldr_log(LDR_WARN, "fetch", "could not keep an object uri=\"%s\" reason=\"%s\"", f->name->text, e.msg);
        set_why(f, e.msg);
        f->whole = false; /* unsure what the file holds: start anew without it */
        f->no_fill = true;
        ldr_fill_close(&f->fill);
        ldr_op_rearm(&f->attempt.op);
        ldr_attempt_start(&f->attempt);
        return;
    }
    publish(f);
}

/* The store has answered for good. Net or pool thread. */
static void store_done(struct ldr_attempt *a)
{
    struct ldr_fetch *f = LDR_CONTAINER(a, struct ldr_fetch, attempt);
    struct ldr_op *op = &a->op;

    if (op->kind && f->cut && op->kind == LARDER_CANCELLED)
        op->kind = LARDER_OK;
    if (op->kind == LARDER_IO && ldr_fill_is_open(&f->fill) && !f->no_fill) {
        ldr_log(LDR_WARN, "fetch", "the cache could not be written uri=\"%s\" reason=\"%s\"", f->name->text,
                op->err.msg);
        f->no_fill = true;
        ldr_op_rearm(op);
        ldr_attempt_start(a);
        return;
    }
    f->kind = op->kind;
    f->err = op->err;
    if (op->kind) {
        ldr_fill_close(&f->fill);
        to_ipc(f);
    } else if (f->what == LDR_FETCH_HEAD) {
        if (!ldr_meta_copy(&f->meta, &op->meta))
            f->kind = ldr_fail(&f->err, LARDER_NO_MEMORY, "out of memory");
        to_ipc(f);
    } else if (f->what == LDR_FETCH_CHUNK || f->why[0]) {
        to_ipc(f);
    } else if (atomic_load(&f->no_store) && !ldr_fill_is_open(&f->fill)) {
        f->whole = true;
        set_why(f, "a write of it was under way");
        to_ipc(f);
    } else {
        f->whole = true;
        f->id = ldr_index_new_id(f->domain->index);
        if (ldr_fill_is_open(&f->fill)) {
            f->task.run = seal_on_pool;
            ldr_pool_post(f->domain->pool, &f->task);
        } else {
            publish(f);
        }
    }
}

static void finish_on_ipc(struct ldr_task *t)
{
    struct ldr_fetch *f = LDR_CONTAINER(t, struct ldr_fetch, task);
    struct ldr_change *c = &f->change;
    struct ldr_domain *d = f->domain;

    if (c->done) { /* it went through the index */
        if (c->had_old)
            ldr_blocks_drop(&d->blocks, &c->old);
        if (c->kind == LARDER_OK) {
            f->published = true;
            f->txnid = c->txnid;
            ldr_count(&d->counters, published, 1);
        } else {
            set_why(f, c->err.msg);
            if (c->kind == LARDER_CANCELLED)
                ldr_count(&d->counters, not_stored, 1);
            else
                ldr_count(&d->counters, uncached_full, 1);
            if (ldr_fill_is_open(&f->fill))
                ldr_blocks_drop(&d->blocks, &c->record); /* its name; the descriptor still has the bytes */
        }
    }
    f->done(f);
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
    f->sink = (struct ldr_sink){ .begin = sink_begin, .write = sink_write };
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
    struct ldr_op *op = &f->attempt.op;

    ldr_meta_init(&op->meta);
    op->backend = f->name->backend;
    op->what = f->what == LDR_FETCH_HEAD ? LDR_OP_HEAD : LDR_OP_GET;
    op->uri = f->name->text;
    op->container = f->name->container;
    op->key = f->name->key;
    op->deadline_ns = ldr_deadline_ns(FETCH_LIMIT_MS);
    op->fd = -1;
    op->sink = &f->sink;
    if (f->what == LDR_FETCH_CHUNK) {
        op->ranged = true;
        op->offset = f->offset;
        op->length = f->want;
        op->if_match = f->validator;
    }
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
    free(f->mem);
    free(f->validator);
    ldr_meta_release(&f->meta);
    ldr_meta_release(&f->attempt.op.meta);
    ldr_name_unref(&f->name);
    free(f);
    *pf = NULL;
}

ssize_t ldr_fetch_bytes(const struct ldr_fetch *f, uint64_t offset, void *out, size_t max)
{
    if (offset > f->meta.size_bytes)
        return -1;
    if (ldr_fill_is_open(&f->fill))
        return f->whole ? pread(f->fill.fd, out, max, (off_t)offset) : -1;
    if (!f->mem || offset < f->mem_offset || offset - f->mem_offset > f->mem_len)
        return -1;
    if (max > f->mem_len - (offset - f->mem_offset))
        max = f->mem_len - (size_t)(offset - f->mem_offset);
    if (max == 0 && offset < f->meta.size_bytes)
        return -1;
    memcpy(out, f->mem + (offset - f->mem_offset), max);
    return (ssize_t)max;
}
