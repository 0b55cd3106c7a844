/* upload_multi.c - see upload_impl.h: a write in parts, as a store knows it: begun, noted in the cache directory so that
 * it can be aborted whatever becomes of this process, and closed: aborted if it did not end, and forgotten. */
#include "agent/upload_impl.h"
#include "common/clock.h"
#include "common/log.h"

#include <stdlib.h>

#define ABORT_NS (60 * LDR_NS_PER_S)

static void control_start(struct ldr_multi *m, enum ldr_op_what what, int64_t deadline_ns,
                          void (*done)(struct ldr_attempt *a))
{
    struct ldr_op *op = &m->control.op;

    ldr_meta_release(&op->meta);
    ldr_op_about(op, m->name, what, deadline_ns);
    op->upload = &m->upload;
    op->put_meta = what == LDR_OP_UPLOAD_BEGIN ? m->meta : NULL;
    m->control.counters = &m->domain->counters;
    m->control.done = done;
    ldr_attempt_start(&m->control);
}

/* ---------- begin ---------- */

static void noted_on_ipc(struct ldr_task *t)
{
    struct ldr_multi *m = LDR_CONTAINER(t, struct ldr_multi, task);

    m->begun = true;
    m->done(m, LARDER_OK, NULL);
}

static void note_on_pool(struct ldr_task *t)
{
    struct ldr_multi *m = LDR_CONTAINER(t, struct ldr_multi, task);
    struct larder_err e;

    if (ldr_leftover_note(m->domain->dir, m->name->text, m->upload.id, m->note, &e)) /* a full disk stops no write */
        ldr_log(LDR_WARN, "upload", "%s: if this agent is killed now the store keeps a piece of it uri=\"%s\"", e.msg,
                m->name->text);
    t->run = noted_on_ipc;
    ldr_mailbox_post(&m->domain->ipc_box, t);
}

static void begun(struct ldr_attempt *a);

static void container_made(void *user, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_multi *m = user;

    if (kind)
        m->done(m, kind, err);
    else
        control_start(m, LDR_OP_UPLOAD_BEGIN, m->deadline_ns, begun);
}

static void begun_on_ipc(struct ldr_task *t)
{
    struct ldr_multi *m = LDR_CONTAINER(t, struct ldr_multi, task);
    const struct ldr_op *op = &m->control.op;

    if (op->kind && op->no_container && !m->made_container && ldr_container_wanted(m->domain, m->name)) {
        m->made_container = true;
        ldr_container_make(m->domain, m->name, m->deadline_ns, container_made, m);
    } else if (op->kind) {
        m->done(m, op->kind, &op->err);
    } else {
        t->run = note_on_pool; /* before a part is sent */
        ldr_pool_post(m->domain->pool, t);
    }
}

static void begun(struct ldr_attempt *a)
{
    struct ldr_multi *m = LDR_CONTAINER(a, struct ldr_multi, control);

    m->task.run = begun_on_ipc;
    ldr_mailbox_post(&m->domain->ipc_box, &m->task);
}

void ldr_multi_begin(struct ldr_multi *m, int64_t deadline_ns, ldr_multi_fn *done)
{
    m->deadline_ns = deadline_ns;
    m->done = done;
    control_start(m, LDR_OP_UPLOAD_BEGIN, deadline_ns, begun);
}

/* ---------- close ---------- */

static void closed_on_ipc(struct ldr_task *t)
{
    struct ldr_multi *m = LDR_CONTAINER(t, struct ldr_multi, task);

    m->done(m, LARDER_OK, NULL);
}

static void forget_on_pool(struct ldr_task *t)
{
    struct ldr_multi *m = LDR_CONTAINER(t, struct ldr_multi, task);

    ldr_leftover_forget(m->domain->dir, m->note);
    t->run = closed_on_ipc;
    ldr_mailbox_post(&m->domain->ipc_box, t);
}

static void aborted(struct ldr_attempt *a)
{
    struct ldr_multi *m = LDR_CONTAINER(a, struct ldr_multi, control);

    if (a->op.kind) {
        ldr_log(LDR_WARN, "upload",
                "an upload could not be aborted, the next start tries again uri=\"%s\" id=\"%s\" reason=\"%s\"",
                m->name->text, m->upload.id, a->op.err.msg);
        m->note[0] = '\0'; /* it stays */
    }
    m->task.run = forget_on_pool;
    ldr_pool_post(m->domain->pool, &m->task);
}

void ldr_multi_close(struct ldr_multi *m, bool ended, ldr_multi_fn *done)
{
    m->done = done;
    m->begun = false;
    if (!ended) {
        control_start(m, LDR_OP_UPLOAD_ABORT, ldr_mono_ns() + ABORT_NS, aborted);
        return;
    }
    m->task.run = forget_on_pool;
    ldr_pool_post(m->domain->pool, &m->task);
}

void ldr_multi_release(struct ldr_multi *m)
{
    ldr_meta_release(&m->control.op.meta);
    free(m->upload.parts);
}
