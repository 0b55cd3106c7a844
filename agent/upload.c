/* upload.c - see upload.h. */
#include "agent/upload.h"
#include "agent/attempt.h"
#include "agent/flight.h"
#include "agent/fresh.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uthash.h>
#include <utlist.h>

#define BODIES_MAX   64 /* open at a time; each is at most LDR_PUT_MAX */
#define BODY_IDLE_NS (60 * LDR_NS_PER_S)
#define ENDED_MAX    1024 /* results kept for a request that is sent again */

/* What a client has sent so far of an object: a file of the cache, or of memory when the cache is full. While `busy`
 * the file is the pool's. */
struct ldr_body {
    UT_hash_handle hh;
    uint64_t upload_id, size, received;
    int64_t heard_ns;
    bool opened, busy;
    bool dropped;         /* given up while it was busy: not in the table any more */
    struct ldr_fill fill; /* open: in the cache, may become its block */
    int memfd;            /* or here */
};

struct ldr_write {
    UT_hash_handle hh; /* by op_id */
    uint64_t op_id;
    struct ldr_domain *domain;
    struct ldr_name *name, *from; /* from: copy */
    struct ldr_keystate *key;
    struct ldr_write_waiter *waiters;
    bool is_put;
    uint8_t *bytes; /* the body: here, or in `body` */
    size_t bytes_len;
    struct ldr_body *body;
    struct ldr_meta meta; /* put: what the client gave, then with what the store answered */
    struct ldr_attempt attempt;
    struct ldr_task task;
    struct ldr_change change;
    struct ldr_id id;
    bool linked; /* the body is the file of a block of `id` now, and closed */
    bool publishing;
    enum larder_kind kind;
    struct larder_err err;
};

/* A write that has ended, for who asks with its op_id again. */
struct ended {
    uint64_t op_id;
    enum larder_kind kind;
    struct larder_err err;
    uint64_t txnid;
};

struct ldr_uploads {
    struct ldr_write *writes;
    struct ldr_body *bodies;
    struct ended ended[ENDED_MAX];
    size_t next_ended;
};

/* ---------- bodies in parts ---------- */

static void body_free(struct ldr_body *b)
{
    if (!b)
        return;
    ldr_fill_close(&b->fill);
    if (b->memfd >= 0)
        close(b->memfd);
    free(b);
}

static enum larder_kind body_new(struct ldr_domain *d, const struct ldr_part *p, struct ldr_body **out,
                                 struct larder_err *err)
{
    struct ldr_uploads *u = d->uploads;
    struct ldr_body *b;

    if (HASH_COUNT(u->bodies) >= BODIES_MAX)
        return ldr_fail(err, LARDER_UNAVAILABLE, "too many uploads are open (%d)", BODIES_MAX);
    b = calloc(1, sizeof *b);
    if (!b)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    b->upload_id = p->upload_id;
    b->size = p->size;
    b->memfd = b->fill.fd = -1;
    HASH_ADD(hh, u->bodies, upload_id, sizeof b->upload_id, b);
    *out = b;
    return LARDER_OK;
}

/* A full cache does not stop a write: its body waits in memory then, and is not cached. */
static enum larder_kind body_open(struct ldr_domain *d, struct ldr_body *b, struct larder_err *err)
{
    b->opened = true;
    if (b->size > 0 && b->size <= d->cfg->block_size && !ldr_fill_open(&d->blocks, b->size, false, &b->fill, NULL))
        return LARDER_OK;
    b->memfd = memfd_create("larder-put", MFD_CLOEXEC);
    return b->memfd < 0 ? ldr_fail_sys(err, LARDER_NO_MEMORY, "could not make room for an upload") : LARDER_OK;
}

/* Out of the table; the pool may still have it for a moment. */
static void body_drop(struct ldr_uploads *u, struct ldr_body *b)
{
    HASH_DEL(u->bodies, b);
    if (b->busy)
        b->dropped = true;
    else
        body_free(b);
}

static void part_written_on_ipc(struct ldr_task *t)
{
    struct ldr_part *p = LDR_CONTAINER(t, struct ldr_part, task);
    struct ldr_body *b = p->body;

    b->busy = false;
    b->received += p->len;
    if (b->dropped) {
        body_free(b);
        if (!p->kind)
            p->kind = ldr_fail(&p->err, LARDER_CANCELLED, "the upload was given up");
    } else if (p->kind) {
        body_drop(p->domain->uploads, b); /* unsure what is in it */
    }
    p->answer(p, p->kind, &p->err);
}

static void write_part_on_pool(struct ldr_task *t)
{
    struct ldr_part *p = LDR_CONTAINER(t, struct ldr_part, task);
    struct ldr_body *b = p->body;

    p->kind = b->opened ? LARDER_OK : body_open(p->domain, b, &p->err);
    if (!p->kind && ldr_fill_is_open(&b->fill))
        p->kind = ldr_fill_write(&b->fill, p->data, p->len, &p->err);
    else if (!p->kind && pwrite(b->memfd, p->data, p->len, (off_t)p->offset) != (ssize_t)p->len)
        p->kind = ldr_fail_sys(&p->err, LARDER_IO, "could not keep a part of an upload");
    t->run = part_written_on_ipc;
    ldr_mailbox_post(&p->domain->ipc_box, t);
}

enum larder_kind ldr_upload_part(struct ldr_domain *d, struct ldr_part *p, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    struct ldr_body *b;

    HASH_FIND(hh, d->uploads->bodies, &p->upload_id, sizeof p->upload_id, b);
    if (!b && p->offset)
        return ldr_fail(err, LARDER_INVALID, "part of an upload of which nothing is known");
    if (!b)
        k = body_new(d, p, &b, err);
    if (k)
        return k;
    b->heard_ns = ldr_mono_ns();
    if (b->busy)
        return ldr_fail(err, LARDER_INVALID, "part of an upload while another is on its way");
    if (b->size != p->size || p->offset > b->received)
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
    struct ldr_body *b;

    HASH_FIND(hh, d->uploads->bodies, &upload_id, sizeof upload_id, b);
    if (b)
        body_drop(d->uploads, b);
}

void ldr_upload_sweep(struct ldr_domain *d, int64_t now_ns)
{
    struct ldr_body *b, *next;

    HASH_ITER(hh, d->uploads->bodies, b, next)
    {
        if (b->busy || now_ns - b->heard_ns < BODY_IDLE_NS)
            continue;
        ldr_log(LDR_DEBUG, "upload", "abandoned upload_id=%016" PRIx64 " bytes=%" PRIu64, b->upload_id, b->received);
        body_drop(d->uploads, b);
    }
}

static enum larder_kind take_body(struct ldr_uploads *u, uint64_t upload_id, uint64_t size, struct ldr_body **out,
                                  struct larder_err *err)
{
    struct ldr_body *b;

    HASH_FIND(hh, u->bodies, &upload_id, sizeof upload_id, b);
    if (!b || b->busy || b->size != size || b->received != size)
        return ldr_fail(err, LARDER_INVALID, "put of an upload of which %" PRIu64 " of %" PRIu64 " bytes were sent",
                        b ? b->received : 0, size);
    HASH_DEL(u->bodies, b);
    *out = b;
    return LARDER_OK;
}

/* ---------- the end of a write ---------- */

static void write_free(struct ldr_write *w)
{
    free(w->bytes);
    body_free(w->body);
    ldr_meta_release(&w->meta);
    ldr_meta_release(&w->attempt.op.meta);
    ldr_name_unref(&w->name);
    ldr_name_unref(&w->from);
    free(w);
}

static void write_answer(struct ldr_write *w)
{
    struct ldr_domain *d = w->domain;
    struct ldr_uploads *u = d->uploads;
    struct ldr_write_result r = { .kind = w->kind,
                                  .err = &w->err,
                                  .meta = w->kind || !w->is_put ? NULL : &w->meta,
                                  .txnid = w->change.txnid,
                                  .id = w->publishing && w->change.kind == LARDER_OK ? &w->id : NULL };

    if (w->key)
        ldr_flight_write_end(d, &w->key); /* before the answer: who reads after it starts anew */
    HASH_DEL(u->writes, w);
    u->ended[u->next_ended++ % ENDED_MAX] =
        (struct ended){ .op_id = w->op_id, .kind = w->kind, .err = w->err, .txnid = w->change.txnid };
    while (w->waiters) {
        struct ldr_write_waiter *ww = w->waiters;

        LL_DELETE(w->waiters, ww);
        ww->write = NULL;
        ww->answer(ww, &r);
    }
    write_free(w);
}

static void settled_on_ipc(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);

    if (w->publishing && w->change.kind == LARDER_OK) /* else stored, but not kept: the cache has no room */
        ldr_count(&w->domain->counters, published, 1);
    write_answer(w);
}

static void settled_on_index(struct ldr_change *c)
{
    struct ldr_write *w = c->user;

    w->task.run = settled_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, &w->task);
}

/* The change that ends the write in the index. ipc thread, so that it stands behind every change posted before. */
static void settle(struct ldr_write *w)
{
    struct ldr_change *c = &w->change;
    bool last = ldr_flight_write_settle(w->key);

    if (!ldr_flight_write_alone(w->key))
        w->publishing = false; /* nobody knows whose bytes the store kept */
    if (w->linked && !w->publishing)
        ldr_blocks_drop(&w->domain->blocks, &w->id, 0, w->meta.size_bytes);
    c->what = w->publishing ? LDR_CHANGE_PUT : LDR_CHANGE_REMOVE;
    c->key = w->name->ikey;
    c->key_len = w->name->ikey_len;
    c->clear_intent = last;
    c->done = settled_on_index;
    c->user = w;
    ldr_index_change(w->domain->index, c);
}

static void settle_on_ipc(struct ldr_task *t)
{
    settle(LDR_CONTAINER(t, struct ldr_write, task));
}

/* ---------- the store has answered ---------- */

static void fill_record(struct ldr_write *w, const struct ldr_fill *block)
{
    struct ldr_record *r = &w->change.record;
    struct ldr_domain *d = w->domain;

    *r = (struct ldr_record){ .flags = LDR_FLAG_LM_UNKNOWN | (block ? 0 : LDR_FLAG_INLINE),
                              .id = w->id,
                              .size_bytes = w->meta.size_bytes,
                              .last_modified_s = LDR_TIME_UNKNOWN,
                              .block_log2 = (uint8_t)__builtin_ctzll(d->cfg->block_size),
                              .prefix = (uint8_t)w->name->policy->slot,
                              .fields = w->meta.fields.p,
                              .fields_len = w->meta.fields.len };
    if (block) {
        w->change.block = 0;
        w->change.block_hash = block->hash;
    } else {
        r->payload = w->bytes;
        r->payload_len = w->bytes_len;
        r->payload_hash = ldr_hash64(w->bytes, w->bytes_len);
    }
    ldr_fresh_set(r, w->name->policy, ldr_index_boot(d->index), ldr_boot_ns());
}

/* A body that was sent in parts but fits a record: bring it into memory. */
static bool load_small(struct ldr_write *w)
{
    int fd;

    if (w->bytes || w->meta.size_bytes == 0)
        return true;
    fd = ldr_fill_is_open(&w->body->fill) ? w->body->fill.fd : w->body->memfd;
    w->bytes_len = (size_t)w->meta.size_bytes;
    w->bytes = malloc(w->bytes_len);
    return w->bytes && pread(fd, w->bytes, w->bytes_len, 0) == (ssize_t)w->bytes_len;
}

/* Make what will be published: pool thread. Whatever does not work out here only means that the object is not cached.
 */
static void keep_on_pool(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);
    struct ldr_domain *d = w->domain;
    uint64_t size = w->meta.size_bytes;

    w->id = ldr_index_new_id(d->index);
    if (size + LDR_RECORD_FIXED + w->meta.fields.len <= d->cfg->inline_limit) {
        w->publishing = load_small(w);
        if (w->publishing)
            fill_record(w, NULL);
    } else if (size > 0 && size <= d->cfg->block_size) {
        if (!w->body && (w->body = calloc(1, sizeof *w->body))) {
            w->body->memfd = w->body->fill.fd = -1;
            w->body->size = size;
            if (!ldr_fill_open(&d->blocks, size, false, &w->body->fill, NULL) &&
                (ldr_fill_write(&w->body->fill, w->bytes, w->bytes_len, NULL) || ldr_fill_seal(&w->body->fill, NULL)))
                ldr_fill_close(&w->body->fill);
        }
        if (w->body && ldr_fill_is_open(&w->body->fill) && !ldr_fill_link(&w->body->fill, &w->id, 0, NULL)) {
            fill_record(w, &w->body->fill);
            w->publishing = w->linked = true;
            body_free(w->body); /* a file that is open counts as mapped when its space is to come back */
            w->body = NULL;
        }
    }
    t->run = settle_on_ipc;
    ldr_mailbox_post(&d->ipc_box, t);
}

static void answered_on_ipc(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);
    struct ldr_op *op = &w->attempt.op;
    struct ldr_field f;
    size_t pos = 0;

    w->kind = op->kind;
    w->err = op->err;
    if (op->kind && w->attempt.unsure && !(op->what == LDR_OP_DELETE && op->kind == LARDER_NOT_FOUND))
        w->kind = ldr_fail(&w->err, LARDER_OUTCOME_UNKNOWN, "whether \"%.200s\" was %s is not known: %.200s", op->uri,
                           op->what == LDR_OP_DELETE ? "deleted" : "written", op->err.msg);
    if (op->kind || !w->is_put || !ldr_flight_write_alone(w->key)) {
        settle(w);
        return;
    }
    w->meta.size_bytes = op->size_bytes;
    w->meta.last_modified_s = LDR_TIME_UNKNOWN;
    while (ldr_fields_next(op->meta.fields.p, op->meta.fields.len, &pos, &f))
        if (!ldr_meta_add(&w->meta, f.tag, f.p, f.len)) {
            settle(w); /* more metadata than a record holds: written, not cached */
            return;
        }
    if (ldr_name_shortened(w->name) && !ldr_meta_add(&w->meta, LDR_TAG_KEY, w->name->text, w->name->text_len)) {
        settle(w);
        return;
    }
    t->run = keep_on_pool;
    ldr_pool_post(w->domain->pool, t);
}

static void store_answered(struct ldr_attempt *a)
{
    struct ldr_write *w = LDR_CONTAINER(a, struct ldr_write, attempt);

    w->task.run = answered_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, &w->task);
}

/* ---------- the intent is committed: send ---------- */

static void intended_on_ipc(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);

    if (w->change.kind) { /* no write without an intent */
        w->kind = ldr_fail(&w->err, LARDER_UNAVAILABLE, "could not note the write of \"%.200s\": %.200s", w->name->text,
                           w->change.err.msg);
        settle(w);
        return;
    }
    ldr_attempt_start(&w->attempt);
}

static void intended_on_index(struct ldr_change *c)
{
    struct ldr_write *w = c->user;

    w->task.run = intended_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, &w->task);
}

static void intend(struct ldr_write *w)
{
    w->change = (struct ldr_change){ .what = LDR_CHANGE_INTENT,
                                     .key = w->name->ikey,
                                     .key_len = w->name->ikey_len,
                                     .done = intended_on_index,
                                     .user = w };
    ldr_index_change(w->domain->index, &w->change);
}

static void seal_on_pool(struct ldr_task *t);

static void sealed_on_ipc(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);

    if (!w->kind)
        intend(w);
    else if (ldr_flight_write_alone(w->key))
        write_answer(w); /* nothing was sent, no intent made */
    else
        settle(w); /* another write may leave its intent to this one */
}

/* A block is sealed before its first byte is hashed or uploaded: what is sent is what is cached. */
static void seal_on_pool(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);

    w->kind = ldr_fill_seal(&w->body->fill, &w->err);
    t->run = sealed_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, t);
}

/* ---------- begins ---------- */

static bool join_known(struct ldr_uploads *u, uint64_t op_id, struct ldr_write_waiter *ww)
{
    struct ldr_write *w;

    HASH_FIND(hh, u->writes, &op_id, sizeof op_id, w);
    if (w) {
        ww->write = w;
        LL_APPEND(w->waiters, ww);
        return true;
    }
    for (size_t i = 0; i < ENDED_MAX; i++)
        if (u->ended[i].op_id == op_id && op_id) {
            struct ldr_write_result r = { .kind = u->ended[i].kind,
                                          .err = &u->ended[i].err,
                                          .txnid = u->ended[i].txnid };

            ww->write = NULL;
            ww->answer(ww, &r);
            return true;
        }
    return false;
}

static enum larder_kind write_new(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *name,
                                  struct ldr_write **out, struct larder_err *err)
{
    struct ldr_write *w = calloc(1, sizeof *w);
    struct ldr_op *op;

    if (!w)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    w->op_id = op_id;
    w->domain = d;
    w->name = ldr_name_ref(name);
    ldr_meta_init(&w->meta);
    op = &w->attempt.op;
    ldr_meta_init(&op->meta);
    op->backend = name->backend;
    op->uri = w->name->text;
    op->container = w->name->container;
    op->key = w->name->key;
    op->deadline_ns = deadline_ns;
    op->fd = -1;
    w->attempt.counters = &d->counters;
    w->attempt.done = store_answered;
    *out = w;
    return LARDER_OK;
}

static enum larder_kind write_start(struct ldr_write *w, struct ldr_write_waiter *ww, struct larder_err *err)
{
    struct ldr_domain *d = w->domain;
    enum larder_kind k = ldr_flight_write_begin(d, w->name, &w->key, err);

    if (k) {
        write_free(w);
        return k;
    }
    HASH_ADD(hh, d->uploads->writes, op_id, sizeof w->op_id, w);
    ww->write = w;
    LL_APPEND(w->waiters, ww);
    if (w->body && ldr_fill_is_open(&w->body->fill)) {
        w->task.run = seal_on_pool;
        ldr_pool_post(d->pool, &w->task);
    } else {
        intend(w);
    }
    return LARDER_OK;
}

/* What names a version, or the object itself, is not the client's to say: the first field of a tag counts. */
static bool fields_allowed(const uint8_t *fields, size_t len)
{
    struct ldr_field f;
    size_t pos = 0;

    while (ldr_fields_next(fields, len, &pos, &f))
        if (f.tag == LDR_TAG_VALIDATOR || f.tag == LDR_TAG_ETAG || f.tag == LDR_TAG_VERSION || f.tag == LDR_TAG_KEY)
            return false;
    return true;
}

enum larder_kind ldr_upload_put(struct ldr_domain *d, const struct ldr_put_args *a, struct ldr_write_waiter *ww,
                                struct larder_err *err)
{
    struct ldr_write *w;
    struct ldr_op *op;
    enum larder_kind k;

    if (join_known(d->uploads, a->op_id, ww))
        return LARDER_OK;
    if (a->create_only && !(a->name->backend->ops->caps & LDR_CAP_CREATE_ONLY))
        return ldr_fail(err, LARDER_UNSUPPORTED, "store \"%s\" cannot write only where nothing is",
                        a->name->backend->ops->kind);
    if (!fields_allowed(a->fields, a->fields_len))
        return ldr_fail(err, LARDER_INVALID, "metadata of \"%.200s\" that only its store can give", a->name->text);
    k = write_new(d, a->op_id, a->deadline_ns, a->name, &w, err);
    if (k)
        return k;
    w->is_put = true;
    op = &w->attempt.op;
    op->what = LDR_OP_PUT;
    op->create_only = a->create_only;
    w->attempt.once_sent_is_final = a->create_only; /* a second try would meet the first one's object */
    if (a->upload_id) {
        k = take_body(d->uploads, a->upload_id, a->size, &w->body, err);
        if (!k) {
            op->size_bytes = w->body->size;
            op->fd = ldr_fill_is_open(&w->body->fill) ? w->body->fill.fd : w->body->memfd;
        }
    } else {
        w->bytes = malloc(a->data_len ? a->data_len : 1);
        if (!w->bytes) {
            k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
        } else {
            if (a->data_len)
                memcpy(w->bytes, a->data, a->data_len);
            w->bytes_len = a->data_len;
            op->bytes = w->bytes;
            op->size_bytes = w->bytes_len;
        }
    }
    if (!k && !ldr_buf_add(&w->meta.fields, a->fields, a->fields_len))
        k = ldr_fail(err, LARDER_LIMIT_EXCEEDED, "metadata of \"%.200s\" is larger than %llu bytes", a->name->text,
                     (unsigned long long)LDR_META_MAX);
    if (k) {
        write_free(w);
        return k;
    }
    op->put_meta = &w->meta;
    return write_start(w, ww, err);
}

enum larder_kind ldr_upload_delete(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *name,
                                   struct ldr_write_waiter *ww, struct larder_err *err)
{
    struct ldr_write *w;
    enum larder_kind k;

    if (join_known(d->uploads, op_id, ww))
        return LARDER_OK;
    k = write_new(d, op_id, deadline_ns, name, &w, err);
    if (k)
        return k;
    w->attempt.op.what = LDR_OP_DELETE;
    return write_start(w, ww, err);
}

enum larder_kind ldr_upload_copy(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *from,
                                 struct ldr_name *to, struct ldr_write_waiter *ww, struct larder_err *err)
{
    struct ldr_write *w;
    struct ldr_op *op;
    enum larder_kind k;

    if (join_known(d->uploads, op_id, ww))
        return LARDER_OK;
    if (from->backend != to->backend)
        return ldr_fail(err, LARDER_UNSUPPORTED, "could not copy \"%.200s\" to \"%.200s\": they are of two stores",
                        from->text, to->text);
    if (!to->backend->ops->copy)
        return ldr_fail(err, LARDER_UNSUPPORTED, "store \"%s\" cannot copy", to->backend->ops->kind);
    k = write_new(d, op_id, deadline_ns, to, &w, err);
    if (k)
        return k;
    w->from = ldr_name_ref(from);
    op = &w->attempt.op;
    op->what = LDR_OP_COPY;
    op->from_uri = w->from->text;
    op->from_container = w->from->container;
    op->from_key = w->from->key;
    return write_start(w, ww, err);
}

void ldr_upload_leave(struct ldr_write_waiter *ww)
{
    if (!ww->write)
        return;
    LL_DELETE(ww->write->waiters, ww);
    ww->write = NULL;
}

enum larder_kind ldr_uploads_new(struct ldr_domain *d, struct ldr_uploads **out, struct larder_err *err)
{
    (void)d;
    *out = calloc(1, sizeof **out);
    return *out ? LARDER_OK : ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
}

bool ldr_uploads_idle(const struct ldr_uploads *u)
{
    return u->writes == NULL;
}

bool ldr_uploads_open(const struct ldr_uploads *u)
{
    return u->bodies != NULL;
}

void ldr_uploads_free(struct ldr_uploads **u)
{
    struct ldr_body *b, *next;

    if (!*u)
        return;
    assert(!(*u)->writes);
    HASH_ITER(hh, (*u)->bodies, b, next)
    {
        HASH_DEL((*u)->bodies, b);
        body_free(b);
    }
    free(*u);
    *u = NULL;
}
