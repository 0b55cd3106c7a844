/* upload_delete.c - see upload_impl.h: many objects at once. Each is a write of its own, with its intent; those of one
 * container wait until all their intents are committed, and are one request then. */
#include "agent/upload_impl.h"
#include "common/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Writes of one container. */
struct group {
    struct ldr_attempt attempt;
    struct ldr_task task;
    struct ldr_domain *domain;
    struct ldr_name *name;   /* of the first */
    size_t n, ready, failed; /* of them: asked · whose intent is committed · that could not come so far */
    bool started;            /* all are enlisted */
    struct ldr_delete_item items[LDR_WIRE_MANY];
    struct ldr_write *writes[LDR_WIRE_MANY];
};
_Static_assert(LDR_WIRE_MANY <= LDR_DELETE_MANY_MAX, "a message is one request");

static void group_free(struct group *g)
{
    ldr_meta_release(&g->attempt.op.meta);
    ldr_name_unref(&g->name);
    free(g);
}

static void answered_on_ipc(struct ldr_task *t)
{
    struct group *g = LDR_CONTAINER(t, struct group, task);
    const struct ldr_op *op = &g->attempt.op;

    for (size_t i = 0; i < g->ready; i++) {
        struct ldr_write *w = g->writes[i];
        struct ldr_op *mine = &w->attempt.op;

        w->user = NULL;
        mine->kind = op->kind ? op->kind : g->items[i].kind;
        if (op->kind)
            mine->err = op->err;
        else if (mine->kind)
            ldr_fail(&mine->err, mine->kind, "%s", g->items[i].why);
        w->attempt.unsure = op->kind && g->attempt.unsure;
        ldr_write_sent(w);
    }
    group_free(g);
}

static void answered(struct ldr_attempt *a)
{
    struct group *g = LDR_CONTAINER(a, struct group, attempt);

    g->task.run = answered_on_ipc;
    ldr_mailbox_post(&g->domain->ipc_box, &g->task);
}

/* Is the last one here? */
static void look(struct group *g)
{
    if (!g->started || g->ready + g->failed < g->n)
        return;
    if (!g->ready) {
        group_free(g);
        return;
    }
    ldr_op_about(&g->attempt.op, g->name, LDR_OP_DELETE_MANY, g->writes[0]->attempt.op.deadline_ns);
    g->attempt.op.items = g->items;
    g->attempt.op.n_items = g->ready;
    g->attempt.counters = &g->domain->counters;
    g->attempt.done = answered;
    ldr_attempt_start(&g->attempt);
}

/* A write's `send`: its intent is committed. */
static void join_group(struct ldr_write *w)
{
    struct group *g = w->user;

    g->items[g->ready] = (struct ldr_delete_item){ .uri = w->name->text, .key = w->name->key };
    g->writes[g->ready++] = w;
    look(g);
}

/* A write's `ended`: without its intent it is not sent. */
static void left_group(struct ldr_write *w)
{
    struct group *g = w->user;

    if (!g)
        return; /* the store has answered */
    w->user = NULL;
    g->failed++;
    look(g);
}

static void put_in_group(struct ldr_write *w, struct group *groups[LDR_WIRE_MANY], size_t *n_groups)
{
    struct group *g = NULL;

    for (size_t i = 0; i < *n_groups && !g; i++)
        if (groups[i]->name->backend == w->name->backend && !strcmp(groups[i]->name->container, w->name->container))
            g = groups[i];
    if (!g && (g = calloc(1, sizeof *g))) {
        g->domain = w->domain;
        g->name = ldr_name_ref(w->name);
        groups[(*n_groups)++] = g;
    }
    if (!g)
        return; /* by itself, then */
    g->n++;
    w->user = g;
    w->send = join_group;
    w->ended = left_group;
}

static uint64_t id_of(uint64_t op_id, size_t i)
{
    uint64_t both[2] = { op_id, i + 1 };
    uint64_t id = ldr_hash64(both, sizeof both);

    return id ? id : 1;
}

enum larder_kind ldr_upload_delete_many(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns,
                                        struct ldr_name *const *names, size_t n, struct ldr_write_waiter *const *ww,
                                        struct larder_err *err)
{
    struct ldr_write *writes[LDR_WIRE_MANY] = { NULL };
    struct group *groups[LDR_WIRE_MANY];
    enum larder_kind k = LARDER_OK;
    size_t n_groups = 0;

    assert(n <= LDR_WIRE_MANY);
    for (size_t i = 0; i < n && !k; i++)
        k = ldr_write_new(d, id_of(op_id, i), deadline_ns, names[i], &writes[i], err);
    for (size_t i = 0; i < n && k; i++)
        if (writes[i])
            ldr_write_free(writes[i]);
    if (k)
        return k;
    for (size_t i = 0; i < n; i++) {
        if (ldr_write_join(d->uploads, id_of(op_id, i), ww[i])) { /* sent again */
            ldr_write_free(writes[i]);
            continue;
        }
        writes[i]->attempt.op.what = LDR_OP_DELETE;
        if (names[i]->backend->ops->delete_many)
            put_in_group(writes[i], groups, &n_groups);
        ldr_write_enlist(writes[i], ww[i]);
        ldr_write_begin(writes[i]);
    }
    for (size_t i = 0; i < n_groups; i++) {
        groups[i]->started = true;
        look(groups[i]);
    }
    return LARDER_OK;
}
