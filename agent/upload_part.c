/* upload_part.c - see upload.h: bodies that come in parts, before their put. */
#include "agent/upload_impl.h"
#include "common/clock.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdlib.h>

#define INCOMING_MAX     64 /* open at a time; each is at most LDR_PUT_MAX */
#define INCOMING_IDLE_NS (60 * LDR_NS_PER_S)

/* What a client has sent so far of an object. While `busy` the body is the pool's. */
struct ldr_incoming {
    UT_hash_handle hh;
    uint64_t upload_id, received;
    int64_t heard_ns;
    bool opened, busy;
    bool dropped; /* given up while it was busy: not in the table any more */
    struct ldr_body *body;
};

static void incoming_free(struct ldr_incoming *b)
{
    ldr_body_free(&b->body);
    free(b);
}

static enum larder_kind incoming_new(struct ldr_domain *d, const struct ldr_part *p, struct ldr_incoming **out,
                                     struct larder_err *err)
{
    struct ldr_uploads *u = d->uploads;
    struct ldr_incoming *b;

    if (HASH_COUNT(u->incoming) >= INCOMING_MAX)
        return ldr_fail(err, LARDER_UNAVAILABLE, "too many uploads are open (%d)", INCOMING_MAX);
    b = calloc(1, sizeof *b);
    if (b)
        b->body = ldr_body_new(&d->blocks, p->size);
    if (!b || !b->body) {
        free(b);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    b->upload_id = p->upload_id;
    HASH_ADD(hh, u->incoming, upload_id, sizeof b->upload_id, b);
    *out = b;
    return LARDER_OK;
}

/* Out of the table; the pool may still have it for a moment. */
static void incoming_drop(struct ldr_uploads *u, struct ldr_incoming *b)
{
    HASH_DEL(u->incoming, b);
    if (b->busy)
        b->dropped = true;
    else
        incoming_free(b);
}

static void part_written_on_ipc(struct ldr_task *t)
{
    struct ldr_part *p = LDR_CONTAINER(t, struct ldr_part, task);
    struct ldr_incoming *b = p->body;

    b->busy = false;
    b->received += p->len;
    if (b->dropped) {
        incoming_free(b);
        if (!p->kind)
            p->kind = ldr_fail(&p->err, LARDER_CANCELLED, "the upload was given up");
    } else if (p->kind) {
        incoming_drop(p->domain->uploads, b); /* unsure what is in it */
    }
    p->answer(p, p->kind, &p->err);
}

static void write_part_on_pool(struct ldr_task *t)
{
    struct ldr_part *p = LDR_CONTAINER(t, struct ldr_part, task);
    struct ldr_incoming *b = p->body;

    p->kind = b->opened ? LARDER_OK : ldr_body_open(b->body, p->size <= p->domain->cfg->block_size, &p->err);
    b->opened = true;
    if (!p->kind)
        p->kind = ldr_body_append(b->body, p->offset, p->data, p->len, &p->err);
    t->run = part_written_on_ipc;
    ldr_mailbox_post(&p->domain->ipc_box, t);
}

enum larder_kind ldr_upload_part(struct ldr_domain *d, struct ldr_part *p, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    struct ldr_incoming *b;

    HASH_FIND(hh, d->uploads->incoming, &p->upload_id, sizeof p->upload_id, b);
    if (!b && p->offset)
        return ldr_fail(err, LARDER_INVALID, "part of an upload of which nothing is known");
    if (!b)
        k = incoming_new(d, p, &b, err);
    if (k)
        return k;
    b->heard_ns = ldr_mono_ns();
    if (b->busy)
        return ldr_fail(err, LARDER_INVALID, "part of an upload while another is on its way");
    if (b->body->size != p->size || p->offset > b->received)
        return ldr_fail(err, LARDER_INVALID, "part of an upload out of order");
    if (b->opened && p->offset + p->len <= b->received) { /* sent again */
        p->answer(p, LARDER_OK, NULL);
        return LARDER_OK;
    }
    if (p->offset != b->received)
        return ldr_fail(err, LARDER_INVALID, "part of an upload that overlaps another");
    b->busy = true;
    p->domain = d;
    p->body = b;
    p->task.run = write_part_on_pool;
    ldr_pool_post(d->pool, &p->task);
    return LARDER_OK;
}

void ldr_upload_abort(struct ldr_domain *d, uint64_t upload_id)
{
    struct ldr_incoming *b;

    if (ldr_stages_abort(d->uploads, upload_id))
        return;
    HASH_FIND(hh, d->uploads->incoming, &upload_id, sizeof upload_id, b);
    if (b)
        incoming_drop(d->uploads, b);
}

void ldr_upload_sweep(struct ldr_domain *d, int64_t now_ns)
{
    struct ldr_incoming *b, *next;

    ldr_stages_sweep(d->uploads, now_ns);
    HASH_ITER(hh, d->uploads->incoming, b, next)
    {
        if (b->busy || now_ns - b->heard_ns < INCOMING_IDLE_NS)
            continue;
        ldr_log(LDR_DEBUG, "upload", "abandoned upload_id=%016" PRIx64 " bytes=%" PRIu64, b->upload_id, b->received);
        incoming_drop(d->uploads, b);
    }
}

enum larder_kind ldr_incoming_take(struct ldr_uploads *u, uint64_t upload_id, uint64_t size, struct ldr_body **out,
                                   struct larder_err *err)
{
    struct ldr_incoming *b;

    HASH_FIND(hh, u->incoming, &upload_id, sizeof upload_id, b);
    if (!b || b->busy || b->body->size != size || b->received != size)
        return ldr_fail(err, LARDER_INVALID, "put of an upload of which %" PRIu64 " of %" PRIu64 " bytes were sent",
                        b ? b->received : 0, size);
    HASH_DEL(u->incoming, b);
    *out = b->body;
    b->body = NULL;
    incoming_free(b);
    return LARDER_OK;
}

void ldr_incoming_free_all(struct ldr_uploads *u)
{
    struct ldr_incoming *b, *next;

    HASH_ITER(hh, u->incoming, b, next)
    {
        HASH_DEL(u->incoming, b);
        incoming_free(b);
    }
}
