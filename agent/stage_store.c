/* stage_store.c - see stage_impl.h: what an upload by blocks sends to the store, and how it ends. */
#include "agent/stage_impl.h"
#include "common/clock.h"
#include "common/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SENDING_MAX 4                    /* parts of one upload under way */
#define PART_NS     (900 * LDR_NS_PER_S) /* for one part, with its attempts */

void ldr_stage_away(struct ldr_stage *s)
{
    s->busy++;
    s->uploads->busy++;
}

void ldr_stage_back(struct ldr_stage *s)
{
    assert(s->busy > 0);
    s->busy--;
    s->uploads->busy--;
    ldr_stage_advance(s);
}

/* ---------- what the cache gets ---------- */

static void drop_block(struct ldr_stage *s, uint32_t block)
{
    bool last = block + 1 == s->n_sealed;

    ldr_blocks_drop(&s->domain->blocks, &s->id, block, last ? s->last_length : s->block_size);
    s->linked[block] = false;
}

void ldr_stage_keep_not(struct ldr_stage *s)
{
    s->keep = false;
    for (uint32_t i = 0; i < s->n_sealed; i++)
        if (s->linked[i])
            drop_block(s, i);
}

/* ---------- parts ---------- */

static void sent_on_ipc(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);
    struct ldr_stage *s = p->stage;

    if (p->linked) {
        s->hashes[p->block] = p->hash;
        s->linked[p->block] = true;
        if (!s->keep || s->kind)
            drop_block(s, p->block);
    } else if (s->keep) {
        ldr_stage_keep_not(s);
    }
    ldr_piece_drop(p);
    ldr_stage_back(s);
}

/* It is in the store: what is left of it is a block of the cache, or nothing. */
static void keep_on_pool(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);
    struct ldr_stage *s = p->stage;

    if (p->linked) { /* wanted */
        p->hash = p->body->fill.hash;
        p->linked = !ldr_body_link(p->body, &s->id, p->block, NULL);
    }
    ldr_body_free(&p->body); /* a file that is open counts as mapped when its space is to come back */
    t->run = sent_on_ipc;
    ldr_mailbox_post(&s->domain->ipc_box, t);
}

static void part_answered_on_ipc(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);
    struct ldr_stage *s = p->stage;
    const struct ldr_op *op = &p->attempt.op;

    s->sending--;
    if (op->kind) {
        p->state = LDR_PIECE_SEALED;
        ldr_stage_fail(s, op->kind, &op->err);
        ldr_stage_back(s);
        return;
    }
    ldr_count(&s->domain->counters, upload_parts, 1);
    p->linked = s->keep && !s->kind && ldr_body_cached(p->body);
    t->run = keep_on_pool;
    ldr_pool_post(s->domain->pool, t);
}

static void part_answered(struct ldr_attempt *a)
{
    struct ldr_piece *p = LDR_CONTAINER(a, struct ldr_piece, attempt);

    p->task.run = part_answered_on_ipc;
    ldr_mailbox_post(&p->stage->domain->ipc_box, &p->task);
}

static void send_part(struct ldr_piece *p)
{
    struct ldr_stage *s = p->stage;
    struct ldr_op *op = &p->attempt.op;

    ldr_op_about(op, s->name, LDR_OP_UPLOAD_PART, ldr_mono_ns() + PART_NS);
    op->upload = &s->multi.upload;
    op->part = p->block + 1;
    op->fd = ldr_body_fd(p->body);
    op->size_bytes = p->length;
    op->has_crc32c = p->body->has_crc32c;
    op->crc32c = p->body->crc32c;
    p->attempt.counters = &s->domain->counters;
    p->attempt.done = part_answered;
    p->state = LDR_PIECE_SENDING;
    s->sending++;
    ldr_stage_away(s);
    ldr_attempt_start(&p->attempt);
}

static void send_parts(struct ldr_stage *s)
{
    struct ldr_piece *p;

    DL_FOREACH(s->pieces, p)
    if (s->sending < SENDING_MAX && p->state == LDR_PIECE_SEALED)
        send_part(p);
}

/* ---------- begin ---------- */

static void begun(struct ldr_multi *m, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_stage *s = LDR_CONTAINER(m, struct ldr_stage, multi);

    s->store = kind ? LDR_STORE_OVER : LDR_STORE_BEGUN;
    if (kind)
        ldr_stage_fail(s, kind, err);
    ldr_stage_back(s);
}

static void begin(struct ldr_stage *s)
{
    uint64_t n = s->size_known ? (s->size + s->block_size - 1) / s->block_size : LDR_PARTS_MAX;
    struct ldr_multipart *up = &s->multi.upload;
    struct larder_err e;

    /* All of it now: parts under way write their elements. */
    up->parts = calloc(n < LDR_PARTS_MAX ? n : LDR_PARTS_MAX, sizeof *up->parts);
    if (!up->parts) {
        ldr_stage_fail(s, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
        return;
    }
    up->part_size = s->block_size;
    s->multi.domain = s->domain;
    s->multi.name = s->name;
    s->multi.meta = &s->meta;
    s->store = LDR_STORE_ASKED;
    ldr_stage_away(s);
    ldr_multi_begin(&s->multi, ldr_mono_ns() + PART_NS, begun);
}

/* ---------- the commit ---------- */

/* The store has answered to the end of a multipart upload. */
static void write_ended(struct ldr_write *w)
{
    struct ldr_stage *s = w->user;

    s->write = NULL;
    if (w->kind)
        ldr_stage_fail(s, w->kind, &w->err);
    s->put_together = !w->kind;
    ldr_stage_back(s);
}

/* One block, or none: one put of the whole. The upload is over. */
static void commit_whole(struct ldr_stage *s)
{
    struct ldr_write *w = s->write;
    struct ldr_piece *p = s->pieces;
    struct ldr_op *op = &w->attempt.op;

    op->size_bytes = s->total;
    if (p) {
        w->body = p->body;
        p->body = NULL;
        w->memory_bytes = p->in_memory ? p->size : 0;
        p->in_memory = false;
        ldr_piece_drop(p);
        w->block_log2 = s->block_log2;
        op->fd = ldr_body_fd(w->body);
        op->has_crc32c = w->body->has_crc32c;
        op->crc32c = w->body->crc32c;
    } else {
        op->bytes = "";
    }
    s->write = NULL;
    s->store = LDR_STORE_OVER;
    ldr_write_begin(w);
}

static void commit_parts(struct ldr_stage *s)
{
    struct ldr_write *w = s->write;
    struct ldr_op *op = &w->attempt.op;

    op->what = LDR_OP_UPLOAD_END;
    op->upload = &s->multi.upload;
    s->multi.upload.n_parts = s->n_sealed;
    op->size_bytes = s->total;
    if (s->keep) { /* every block is linked: they are the write's now */
        w->id = s->id;
        w->n_blocks = s->n_sealed;
        w->block_log2 = s->block_log2;
        w->block_hashes = s->hashes;
        w->meta.size_bytes = s->total;
        s->hashes = NULL;
        s->keep = false;
        memset(s->linked, 0, s->n_sealed * sizeof *s->linked);
    }
    w->ended = write_ended;
    w->user = s;
    s->begun_write = true;
    ldr_stage_away(s);
    ldr_write_begin(w);
}

/* ---------- the end ---------- */

static void closed(struct ldr_multi *m, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_stage *s = LDR_CONTAINER(m, struct ldr_stage, multi);

    (void)kind;
    (void)err;
    s->store = LDR_STORE_OVER;
    ldr_stage_back(s);
}

void ldr_stage_free(struct ldr_stage *s)
{
    struct ldr_uploads *u = s->uploads;

    assert(!s->busy && !s->named && !s->write);
    while (s->pieces)
        ldr_piece_drop(s->pieces);
    ldr_stage_keep_not(s);
    ldr_meta_release(&s->meta);
    ldr_name_unref(&s->name);
    free(s->if_match);
    free(s->hashes);
    free(s->linked);
    ldr_multi_release(&s->multi);
    free(s);
    u->n_stages--;
    ldr_uploads_look(u);
}

void ldr_stage_fail(struct ldr_stage *s, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_piece *p;

    if (s->kind)
        return;
    s->err = *err;
    s->kind = kind;
    DL_FOREACH(s->pieces, p)
    {
        struct ldr_stage_waiter *w = p->writer;

        ldr_piece_answer(p, kind, err);
        if (w && p->state != LDR_PIECE_WRITING) { /* else when the pool has done with it */
            p->writer = NULL;
            w->answer(w, kind, err, NULL);
        }
        if (p->state == LDR_PIECE_MAKING && ldr_space_unwant(&s->domain->space, &p->want)) {
            p->state = LDR_PIECE_ASKED;
            s->busy--;
            s->uploads->busy--;
        }
    }
}

/* Nothing of it is under way: end what there is, one after the other. */
static void wind_up(struct ldr_stage *s)
{
    if (s->busy)
        return;
    while (s->pieces)
        ldr_piece_drop(s->pieces);
    ldr_stage_keep_not(s);
    if (s->write) { /* not begun */
        struct ldr_write *w = s->write;

        s->write = NULL;
        ldr_write_give_up(w, s->kind, &s->err);
    }
    if (s->store == LDR_STORE_BEGUN) {
        ldr_stage_away(s);
        s->store = LDR_STORE_ASKED;
        ldr_multi_close(&s->multi, s->put_together, closed);
    } else if (!s->named) {
        ldr_stage_free(s);
    }
}

void ldr_stage_advance(struct ldr_stage *s)
{
    if (!s->kind)
        ldr_stage_make(s);
    /* A second block tells that one put is not enough. */
    if (!s->kind && s->store == LDR_STORE_NONE && s->pieces && s->pieces->next)
        begin(s);
    if (s->kind || s->store == LDR_STORE_OVER || s->put_together) {
        wind_up(s);
        return;
    }
    if (s->store == LDR_STORE_BEGUN)
        send_parts(s);
    if (!s->write || s->begun_write)
        return;
    if (s->store == LDR_STORE_NONE) {
        commit_whole(s);
        wind_up(s);
    } else if (s->store == LDR_STORE_BEGUN && !s->pieces && !s->busy) {
        commit_parts(s);
    }
}
