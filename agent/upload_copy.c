/* upload_copy.c - see upload_impl.h: a copy within a store. Its source is asked for its size first; one that is larger
 * than a request copies goes in ranges of that very version, several at a time, as parts of an upload. */
#include "agent/upload_impl.h"
#include "common/clock.h"

#include <stdlib.h>
#include <string.h>

#define RANGES_MAX  8 /* under way */
#define RANGE_BYTES (512 * LDR_MIB)
#define PART_NS     (900 * LDR_NS_PER_S)

struct range {
    struct ldr_attempt attempt;
    struct ldr_task task;
    struct copy *copy;
};

struct copy {
    struct ldr_write *write;
    struct ldr_multi multi;
    struct ldr_attempt head; /* of the source */
    struct ldr_task task;
    struct ldr_meta meta; /* of the source */
    char validator[512];
    uint32_t next; /* part that is sent next */
    unsigned under_way;
    struct range *ranges[RANGES_MAX];
};

static struct ldr_domain *domain_of(const struct copy *c)
{
    return c->write->domain;
}

static void copy_free(struct copy *c)
{
    for (size_t i = 0; i < RANGES_MAX; i++)
        free(c->ranges[i]);
    ldr_meta_release(&c->meta);
    ldr_meta_release(&c->head.op.meta);
    ldr_multi_release(&c->multi);
    free(c);
}

/* Nothing of it was written. */
static void fail(struct copy *c, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_op *op = &c->write->attempt.op;

    op->err = *err;
    op->kind = kind;
    ldr_write_sent(c->write);
    copy_free(c);
}

/* ---------- the end ---------- */

/* The write's op has the answer. */
static void closed(struct ldr_multi *m, enum larder_kind kind, const struct larder_err *err)
{
    struct copy *c = LDR_CONTAINER(m, struct copy, multi);

    (void)kind;
    (void)err;
    ldr_write_sent(c->write);
    copy_free(c);
}

static void ended_on_ipc(struct ldr_task *t)
{
    struct copy *c = LDR_CONTAINER(t, struct copy, task);

    ldr_multi_close(&c->multi, !c->write->attempt.op.kind, closed);
}

static void ended(struct ldr_attempt *a)
{
    struct ldr_write *w = LDR_CONTAINER(a, struct ldr_write, attempt);
    struct copy *c = w->user;

    c->task.run = ended_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, &c->task);
}

/* ---------- ranges ---------- */

static void send_ranges(struct copy *c);

static void range_answered_on_ipc(struct ldr_task *t)
{
    struct range *r = LDR_CONTAINER(t, struct range, task);
    struct copy *c = r->copy;
    struct ldr_op *failed = &c->write->attempt.op;

    c->under_way--;
    if (r->attempt.op.kind && !failed->kind) {
        failed->kind = r->attempt.op.kind;
        failed->err = r->attempt.op.err;
    } else if (!r->attempt.op.kind) {
        ldr_count(&domain_of(c)->counters, upload_parts, 1);
    }
    ldr_meta_release(&r->attempt.op.meta);
    r->attempt.op.backend = NULL; /* free for the next */
    send_ranges(c);
}

static void range_answered(struct ldr_attempt *a)
{
    struct range *r = LDR_CONTAINER(a, struct range, attempt);

    r->task.run = range_answered_on_ipc;
    ldr_mailbox_post(&domain_of(r->copy)->ipc_box, &r->task);
}

static void send_range(struct copy *c, struct range *r)
{
    struct ldr_write *w = c->write;
    struct ldr_op *op = &r->attempt.op;
    uint64_t left;

    ldr_op_about(op, w->name, LDR_OP_UPLOAD_COPY, ldr_mono_ns() + PART_NS);
    op->from_uri = w->from->text;
    op->from_container = w->from->container;
    op->from_key = w->from->key;
    op->if_match = c->validator[0] ? c->validator : NULL;
    op->upload = &c->multi.upload;
    op->part = ++c->next;
    op->ranged = true;
    op->offset = (uint64_t)(op->part - 1) * c->multi.upload.part_size;
    left = c->meta.size_bytes - op->offset;
    op->length = left < c->multi.upload.part_size ? left : c->multi.upload.part_size;
    r->copy = c;
    r->attempt.counters = &w->domain->counters;
    r->attempt.done = range_answered;
    c->under_way++;
    ldr_attempt_start(&r->attempt);
}

static void send_ranges(struct copy *c)
{
    struct ldr_write *w = c->write;
    struct ldr_op *op = &w->attempt.op;

    for (size_t i = 0; i < RANGES_MAX && !op->kind && c->next < c->multi.upload.n_parts; i++)
        if (!c->ranges[i]->attempt.op.backend)
            send_range(c, c->ranges[i]);
    if (c->under_way)
        return;
    if (op->kind) {
        ldr_multi_close(&c->multi, false, closed);
        return;
    }
    op->what = LDR_OP_UPLOAD_END;
    op->upload = &c->multi.upload;
    op->size_bytes = c->meta.size_bytes;
    w->attempt.done = ended;
    w->user = c;
    ldr_attempt_start(&w->attempt);
}

static void begun(struct ldr_multi *m, enum larder_kind kind, const struct larder_err *err)
{
    struct copy *c = LDR_CONTAINER(m, struct copy, multi);

    if (kind)
        fail(c, kind, err);
    else
        send_ranges(c);
}

/* ---------- how large is it? ---------- */

/* Room for its parts; false: out of memory. */
static bool plan(struct copy *c, const struct ldr_backend_ops *ops)
{
    uint64_t size = c->meta.size_bytes, bytes = RANGE_BYTES;

    if (bytes > ops->copy_max)
        bytes = ops->copy_max;
    if (bytes < ops->part_min)
        bytes = ops->part_min;
    while (size / bytes >= LDR_PARTS_MAX)
        bytes *= 2;
    c->multi.upload.part_size = bytes;
    c->multi.upload.copies = true;
    c->multi.upload.n_parts = (uint32_t)((size + bytes - 1) / bytes);
    c->multi.upload.parts = calloc(c->multi.upload.n_parts, sizeof *c->multi.upload.parts);
    for (size_t i = 0; i < RANGES_MAX; i++)
        if (!(c->ranges[i] = calloc(1, sizeof *c->ranges[i])))
            return false;
    return c->multi.upload.parts != NULL;
}

static void measured_on_ipc(struct ldr_task *t)
{
    struct copy *c = LDR_CONTAINER(t, struct copy, task);
    struct ldr_write *w = c->write;
    const struct ldr_backend_ops *ops = w->name->backend->ops;
    struct ldr_op *op = &c->head.op;
    struct larder_err e;

    if (op->kind) {
        fail(c, op->kind, &op->err);
        return;
    }
    if (op->meta.size_bytes <= ops->copy_max) {
        copy_free(c);
        ldr_attempt_start(&w->attempt);
        return;
    }
    ldr_meta_text(&op->meta, LDR_TAG_VALIDATOR, c->validator, sizeof c->validator);
    c->meta = op->meta;
    ldr_meta_init(&op->meta);
    if (!plan(c, ops))
        fail(c, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
    else
        ldr_multi_begin(&c->multi, w->attempt.op.deadline_ns, begun);
}

static void measured(struct ldr_attempt *a)
{
    struct copy *c = LDR_CONTAINER(a, struct copy, head);

    c->task.run = measured_on_ipc;
    ldr_mailbox_post(&domain_of(c)->ipc_box, &c->task);
}

void ldr_copy_send(struct ldr_write *w)
{
    struct copy *c = calloc(1, sizeof *c);
    struct larder_err e;

    if (!c) {
        w->attempt.op.kind = ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");
        w->attempt.op.err = e;
        ldr_write_sent(w);
        return;
    }
    c->write = w;
    ldr_meta_init(&c->meta);
    c->multi.domain = w->domain;
    c->multi.name = w->name;
    c->multi.meta = &c->meta;
    ldr_op_about(&c->head.op, w->from, LDR_OP_HEAD, w->attempt.op.deadline_ns);
    c->head.counters = &w->domain->counters;
    c->head.done = measured;
    ldr_attempt_start(&c->head);
}
