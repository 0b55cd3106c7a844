/* upload.c - see upload.h: a write, from its hold on the key to its answer. */
#include "agent/upload_impl.h"
#include "agent/flight.h"
#include "agent/fresh.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---------- the end of a write ---------- */

void ldr_write_free(struct ldr_write *w)
{
    free(w->bytes);
    free(w->block_hashes);
    free(w->if_match);
    free(w->more);
    ldr_body_free_later(&w->body);
    ldr_meta_release(&w->meta);
    ldr_meta_release(&w->attempt.op.meta);
    ldr_name_unref(&w->name);
    ldr_name_unref(&w->from);
    if (w->memory_bytes)
        ldr_stages_memory_back(w->domain->uploads, w->memory_bytes);
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
    u->ended[u->next_ended++ % LDR_ENDED_MAX] =
        (struct ldr_ended){ .op_id = w->op_id, .kind = w->kind, .err = w->err, .txnid = w->change.txnid };
    while (w->waiters) {
        struct ldr_write_waiter *ww = w->waiters;

        LL_DELETE(w->waiters, ww);
        ww->write = NULL;
        ww->answer(ww, &r);
    }
    ldr_write_free(w);
    ldr_uploads_look(u);
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

    if (c->txnid > w->change.txnid)
        w->change.txnid = c->txnid; /* all of it can be seen from there on */
    if (--w->changes_left)
        return;
    w->task.run = settled_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, &w->task);
}

static void drop_linked(struct ldr_write *w)
{
    uint64_t size = w->meta.size_bytes;

    if (w->linked)
        ldr_blocks_drop(&w->domain->blocks, &w->id, 0, size);
    for (uint32_t i = 0; i < w->n_blocks; i++) {
        uint64_t at = (uint64_t)i << w->block_log2, left = size - at;

        ldr_blocks_drop(&w->domain->blocks, &w->id, i, left >> w->block_log2 ? UINT64_C(1) << w->block_log2 : left);
    }
    w->linked = false;
    w->n_blocks = 0;
}

/* One of the blocks behind the first. */
static struct ldr_change block_change(struct ldr_write *w, uint32_t block)
{
    return (struct ldr_change){ .what = LDR_CHANGE_BLOCK,
                                .key = w->name->ikey,
                                .key_len = w->name->ikey_len,
                                .record = w->change.record,
                                .block = block,
                                .block_hash = w->block_hashes[block],
                                .done = settled_on_index,
                                .user = w };
}

/* The change that ends the write in the index. ipc thread, so that it stands behind every change posted before. The
 * record and the end of the intent are one change: what is behind it can be lost, older bytes cannot come back. */
static void settle(struct ldr_write *w)
{
    struct ldr_change *c = &w->change;
    bool last = ldr_flight_write_settle(w->key);
    uint32_t n;

    if (!ldr_flight_write_alone(w->key))
        w->publishing = false; /* nobody knows whose bytes the store kept */
    if (!w->publishing)
        drop_linked(w);
    n = w->n_blocks;
    w->changes_left = n ? n : 1;
    c->what = w->publishing ? LDR_CHANGE_PUT : LDR_CHANGE_REMOVE;
    c->key = w->name->ikey;
    c->key_len = w->name->ikey_len;
    c->clear_intent = last;
    c->done = settled_on_index;
    c->user = w;
    for (uint32_t i = 1; i < n; i++) /* all before the first is posted: from then on its record is the index thread's */
        w->more[i - 1] = block_change(w, i);
    ldr_index_change(w->domain->index, c);
    for (uint32_t i = 1; i < n; i++)
        ldr_index_change(w->domain->index, &w->more[i - 1]);
}

static void settle_on_ipc(struct ldr_task *t)
{
    settle(LDR_CONTAINER(t, struct ldr_write, task));
}

/* ---------- the store has answered ---------- */

enum kept_in { IN_RECORD, IN_BLOCKS };

static void fill_record(struct ldr_write *w, enum kept_in where, uint64_t first_hash)
{
    struct ldr_record *r = &w->change.record;
    struct ldr_domain *d = w->domain;

    *r = (struct ldr_record){ .flags = LDR_FLAG_LM_UNKNOWN | (where == IN_RECORD ? LDR_FLAG_INLINE : 0),
                              .id = w->id,
                              .size_bytes = w->meta.size_bytes,
                              .last_modified_s = LDR_TIME_UNKNOWN,
                              .block_log2 = w->block_log2,
                              .prefix = (uint8_t)w->name->policy->slot,
                              .fields = w->meta.fields.p,
                              .fields_len = w->meta.fields.len };
    if (where == IN_BLOCKS) {
        w->change.block = 0;
        w->change.block_hash = first_hash;
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
    if (w->bytes || w->meta.size_bytes == 0)
        return true;
    w->bytes_len = (size_t)w->meta.size_bytes;
    w->bytes = malloc(w->bytes_len);
    return w->bytes && pread(ldr_body_fd(w->body), w->bytes, w->bytes_len, 0) == (ssize_t)w->bytes_len;
}

/* Bytes that came in one request go into a file of the cache. */
static void body_of_bytes(struct ldr_write *w)
{
    struct ldr_body *b = ldr_body_new(&w->domain->blocks, w->bytes_len);

    if (b && (ldr_fill_open(b->blocks, b->size, false, &b->fill, NULL) ||
              ldr_body_append(b, 0, w->bytes, w->bytes_len, NULL) || ldr_body_seal(b, b->size, true, NULL)))
        ldr_body_free(&b);
    w->body = b;
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
            fill_record(w, IN_RECORD, 0);
    } else if (size > 0 && size <= UINT64_C(1) << w->block_log2) {
        if (!w->body && w->bytes)
            body_of_bytes(w);
        if (w->body && ldr_body_cached(w->body) && !ldr_body_link(w->body, &w->id, 0, NULL)) {
            fill_record(w, IN_BLOCKS, w->body->fill.hash);
            w->publishing = w->linked = true;
            ldr_body_free(&w->body); /* a file that is open counts as mapped when its space is to come back */
        }
    }
    t->run = settle_on_ipc;
    ldr_mailbox_post(&d->ipc_box, t);
}

/* Its blocks are linked already. */
static void keep_blocks(struct ldr_write *w)
{
    w->more = calloc(w->n_blocks, sizeof *w->more);
    w->publishing = w->more != NULL;
    if (w->publishing)
        fill_record(w, IN_BLOCKS, w->block_hashes[0]);
    settle(w);
}

/* Metadata of the record: what the writer gave, and what the store made of it. False: more than a record holds. */
static bool gather_meta(struct ldr_write *w)
{
    const struct ldr_op *op = &w->attempt.op;
    struct ldr_field f;
    size_t pos = 0;

    w->meta.size_bytes = op->size_bytes;
    w->meta.last_modified_s = LDR_TIME_UNKNOWN;
    while (ldr_fields_next(op->meta.fields.p, op->meta.fields.len, &pos, &f))
        if (!ldr_meta_add(&w->meta, f.tag, f.p, f.len))
            return false;
    return !ldr_name_shortened(w->name) || ldr_meta_add(&w->meta, LDR_TAG_KEY, w->name->text, w->name->text_len);
}

static void container_made(void *user, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_write *w = user;

    if (kind) {
        w->attempt.op.err = *err;
        w->attempt.op.kind = kind;
        ldr_write_sent(w);
        return;
    }
    ldr_op_rearm(&w->attempt.op);
    ldr_attempt_start(&w->attempt);
}

static void answered_on_ipc(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);
    struct ldr_op *op = &w->attempt.op;

    if (op->kind && op->no_container && !w->made_container && (op->what == LDR_OP_PUT || op->what == LDR_OP_COPY) &&
        ldr_container_wanted(w->domain, w->name)) {
        w->made_container = true;
        ldr_container_make(w->domain, w->name, op->deadline_ns, container_made, w);
        return;
    }
    w->kind = op->kind;
    w->err = op->err;
    if (op->kind && w->attempt.unsure && !(op->what == LDR_OP_DELETE && op->kind == LARDER_NOT_FOUND))
        w->kind = ldr_fail(&w->err, LARDER_OUTCOME_UNKNOWN, "whether \"%.200s\" was %s is not known: %.200s", op->uri,
                           op->what == LDR_OP_DELETE ? "deleted" : "written", op->err.msg);
    if (w->ended)
        w->ended(w);
    if (op->kind || !w->is_put) {
        settle(w);
    } else if (!gather_meta(w) || !ldr_flight_write_alone(w->key) || w->name->policy->skip_writes) {
        settle(w); /* written, not cached */
    } else if (w->n_blocks) {
        keep_blocks(w);
    } else {
        t->run = keep_on_pool;
        ldr_pool_post(w->domain->pool, t);
    }
}

void ldr_write_sent(struct ldr_write *w)
{
    w->task.run = answered_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, &w->task);
}

static void store_answered(struct ldr_attempt *a)
{
    ldr_write_sent(LDR_CONTAINER(a, struct ldr_write, attempt));
}

/* ---------- the intent is committed: send ---------- */

static void intended_on_ipc(struct ldr_task *t)
{
    struct ldr_write *w = LDR_CONTAINER(t, struct ldr_write, task);

    if (w->change.kind) { /* no write without an intent */
        w->kind = ldr_fail(&w->err, LARDER_UNAVAILABLE, "could not note the write of \"%.200s\": %.200s", w->name->text,
                           w->change.err.msg);
        if (w->ended)
            w->ended(w);
        settle(w);
    } else if (w->send) {
        w->send(w);
    } else {
        ldr_attempt_start(&w->attempt);
    }
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

    w->kind = ldr_body_seal(w->body, w->body->size, true, &w->err);
    t->run = sealed_on_ipc;
    ldr_mailbox_post(&w->domain->ipc_box, t);
}

/* ---------- begins ---------- */

bool ldr_write_join(struct ldr_uploads *u, uint64_t op_id, struct ldr_write_waiter *ww)
{
    struct ldr_write *w;

    HASH_FIND(hh, u->writes, &op_id, sizeof op_id, w);
    if (w) {
        ww->write = w;
        LL_APPEND(w->waiters, ww);
        return true;
    }
    for (size_t i = 0; i < LDR_ENDED_MAX; i++)
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

void ldr_op_about(struct ldr_op *op, const struct ldr_name *name, enum ldr_op_what what, int64_t deadline_ns)
{
    *op = (struct ldr_op){ .what = what,
                           .backend = name->backend,
                           .uri = name->text,
                           .container = name->container,
                           .key = name->key,
                           .deadline_ns = deadline_ns,
                           .fd = -1 };
    ldr_meta_init(&op->meta);
}

enum larder_kind ldr_write_new(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *name,
                               struct ldr_write **out, struct larder_err *err)
{
    struct ldr_write *w = calloc(1, sizeof *w);

    if (!w)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    w->op_id = op_id;
    w->domain = d;
    w->name = ldr_name_ref(name);
    w->block_log2 = (uint8_t)__builtin_ctzll(d->cfg->block_size);
    ldr_meta_init(&w->meta);
    ldr_op_about(&w->attempt.op, name, LDR_OP_PUT, deadline_ns);
    w->attempt.counters = &d->counters;
    w->attempt.done = store_answered;
    *out = w;
    return LARDER_OK;
}

void ldr_write_enlist(struct ldr_write *w, struct ldr_write_waiter *ww)
{
    HASH_ADD(hh, w->domain->uploads->writes, op_id, sizeof w->op_id, w);
    ww->write = w;
    LL_APPEND(w->waiters, ww);
}

void ldr_write_give_up(struct ldr_write *w, enum larder_kind kind, const struct larder_err *err)
{
    w->kind = kind;
    w->err = *err;
    drop_linked(w);
    write_answer(w);
}

void ldr_write_begin(struct ldr_write *w)
{
    struct ldr_domain *d = w->domain;
    struct larder_err e;
    enum larder_kind k = ldr_flight_write_begin(d, w->name, &w->key, &e);

    if (k) {
        w->kind = k;
        w->err = e;
        if (w->ended)
            w->ended(w);
        ldr_write_give_up(w, k, &e);
    } else if (w->body && !w->body->sealed) {
        w->task.run = seal_on_pool;
        ldr_pool_post(d->pool, &w->task);
    } else {
        intend(w);
    }
}

/* ---------- what a writer may ask for ---------- */

enum larder_kind ldr_write_conditions(const struct ldr_name *name, bool create_only, const char *if_match,
                                      struct larder_err *err)
{
    const struct ldr_backend_ops *ops = name->backend->ops;

    if (create_only && !(ops->caps & LDR_CAP_CREATE_ONLY))
        return ldr_fail(err, LARDER_UNSUPPORTED, "store \"%s\" cannot write only where nothing is", ops->kind);
    if (if_match && *if_match && !(ops->caps & LDR_CAP_PUT_IF_MATCH))
        return ldr_fail(err, LARDER_UNSUPPORTED, "store \"%s\" cannot write only over a version that is named",
                        ops->kind);
    if (create_only && if_match && *if_match)
        return ldr_fail(err, LARDER_INVALID, "write of \"%.200s\" where nothing is and over what is there", name->text);
    return LARDER_OK;
}

/* The first field of a tag counts. */
enum larder_kind ldr_write_fields(const struct ldr_name *name, const uint8_t *fields, size_t len,
                                  struct larder_err *err)
{
    struct ldr_field f;
    size_t pos = 0;

    while (ldr_fields_next(fields, len, &pos, &f))
        if (f.tag == LDR_TAG_VALIDATOR || f.tag == LDR_TAG_ETAG || f.tag == LDR_TAG_VERSION || f.tag == LDR_TAG_KEY)
            return ldr_fail(err, LARDER_INVALID, "metadata of \"%.200s\" that only its store can give", name->text);
    return LARDER_OK;
}

enum larder_kind ldr_write_validator(const char *etag, char **out, struct larder_err *err)
{
    size_t n = etag ? strlen(etag) : 0;
    bool quoted = n >= 2 && etag[0] == '"' && etag[n - 1] == '"';
    char *v = n ? malloc(n + 3) : NULL;

    if (n && !v)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (n && quoted) {
        memcpy(v, etag, n + 1);
    } else if (n) {
        v[0] = '"';
        memcpy(v + 1, etag, n);
        v[n + 1] = '"';
        v[n + 2] = '\0';
    }
    *out = v;
    return LARDER_OK;
}

enum larder_kind ldr_write_is_put(struct ldr_write *w, const uint8_t *fields, size_t fields_len, bool create_only,
                                  const char *if_match, struct larder_err *err)
{
    enum larder_kind k = ldr_write_conditions(w->name, create_only, if_match, err);
    struct ldr_op *op = &w->attempt.op;

    if (!k)
        k = ldr_write_fields(w->name, fields, fields_len, err);
    if (!k)
        k = ldr_write_validator(if_match, &w->if_match, err);
    if (k)
        return k;
    if (!ldr_buf_add(&w->meta.fields, fields, fields_len))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "metadata of \"%.200s\" is larger than %llu bytes", w->name->text,
                        (unsigned long long)LDR_META_MAX);
    w->is_put = true;
    op->put_meta = &w->meta;
    op->create_only = create_only;
    op->if_match = w->if_match;
    w->attempt.once_sent_is_final = create_only || w->if_match; /* a second try would meet the first one's object */
    return LARDER_OK;
}

/* ---------- puts, deletes, copies ---------- */

static enum larder_kind put_body(struct ldr_write *w, const struct ldr_put_args *a, struct larder_err *err)
{
    struct ldr_op *op = &w->attempt.op;
    enum larder_kind k;

    if (a->upload_id) {
        k = ldr_incoming_take(w->domain->uploads, a->upload_id, a->size, &w->body, err);
        if (k)
            return k;
        op->size_bytes = w->body->size;
        op->fd = ldr_body_fd(w->body);
        return LARDER_OK;
    }
    w->bytes = malloc(a->data_len ? a->data_len : 1);
    if (!w->bytes)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (a->data_len)
        memcpy(w->bytes, a->data, a->data_len);
    w->bytes_len = a->data_len;
    op->bytes = w->bytes;
    op->size_bytes = w->bytes_len;
    return LARDER_OK;
}

enum larder_kind ldr_upload_put(struct ldr_domain *d, const struct ldr_put_args *a, struct ldr_write_waiter *ww,
                                struct larder_err *err)
{
    struct ldr_write *w;
    enum larder_kind k;

    if (ldr_write_join(d->uploads, a->op_id, ww))
        return LARDER_OK;
    k = ldr_write_new(d, a->op_id, a->deadline_ns, a->name, &w, err);
    if (k)
        return k;
    k = ldr_write_is_put(w, a->fields, a->fields_len, a->create_only, a->if_match, err);
    if (!k)
        k = put_body(w, a, err);
    if (k) {
        ldr_write_free(w);
        return k;
    }
    ldr_write_enlist(w, ww);
    ldr_write_begin(w);
    return LARDER_OK;
}

enum larder_kind ldr_upload_delete(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *name,
                                   struct ldr_write_waiter *ww, struct larder_err *err)
{
    struct ldr_write *w;
    enum larder_kind k;

    if (ldr_write_join(d->uploads, op_id, ww))
        return LARDER_OK;
    k = ldr_write_new(d, op_id, deadline_ns, name, &w, err);
    if (k)
        return k;
    w->attempt.op.what = LDR_OP_DELETE;
    ldr_write_enlist(w, ww);
    ldr_write_begin(w);
    return LARDER_OK;
}

enum larder_kind ldr_upload_copy(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *from,
                                 struct ldr_name *to, struct ldr_write_waiter *ww, struct larder_err *err)
{
    const struct ldr_backend_ops *ops = to->backend->ops;
    struct ldr_write *w;
    struct ldr_op *op;
    enum larder_kind k;

    if (ldr_write_join(d->uploads, op_id, ww))
        return LARDER_OK;
    if (from->backend != to->backend)
        return ldr_fail(err, LARDER_UNSUPPORTED, "could not copy \"%.200s\" to \"%.200s\": they are of two stores",
                        from->text, to->text);
    if (!ops->copy)
        return ldr_fail(err, LARDER_UNSUPPORTED, "store \"%s\" cannot copy", ops->kind);
    k = ldr_write_new(d, op_id, deadline_ns, to, &w, err);
    if (k)
        return k;
    w->from = ldr_name_ref(from);
    op = &w->attempt.op;
    op->what = LDR_OP_COPY;
    op->from_uri = w->from->text;
    op->from_container = w->from->container;
    op->from_key = w->from->key;
    w->send = ops->copy_max && ops->upload ? ldr_copy_send : NULL;
    ldr_write_enlist(w, ww);
    ldr_write_begin(w);
    return LARDER_OK;
}

void ldr_upload_leave(struct ldr_write_waiter *ww)
{
    if (!ww->write)
        return;
    LL_DELETE(ww->write->waiters, ww);
    ww->write = NULL;
}

/* ---------- a container that is missing ---------- */

struct making {
    struct ldr_attempt attempt;
    struct ldr_task task;
    struct ldr_domain *domain;
    struct ldr_name *name;
    void (*done)(void *user, enum larder_kind kind, const struct larder_err *err);
    void *user;
};

bool ldr_container_wanted(const struct ldr_domain *d, const struct ldr_name *name)
{
    if (!name->backend->ops->make_container)
        return false;
    if (d->cfg->multicontainer)
        return true;
    for (size_t i = 0; i < d->cfg->n_stores; i++) {
        const struct ldr_store_slot *s = &d->cfg->stores[i];
        size_t n = strlen(s->scheme);

        if (s->container && !strncmp(name->text, s->scheme, n) && name->text[n] == ':')
            return !strcmp(s->container, name->container);
    }
    return false;
}

static void made_on_ipc(struct ldr_task *t)
{
    struct making *m = LDR_CONTAINER(t, struct making, task);

    if (!m->attempt.op.kind)
        ldr_log(LDR_INFO, "upload", "made a container that was missing name=\"%s\"", m->name->container);
    m->done(m->user, m->attempt.op.kind, &m->attempt.op.err);
    ldr_meta_release(&m->attempt.op.meta);
    ldr_name_unref(&m->name);
    free(m);
}

static void made(struct ldr_attempt *a)
{
    struct making *m = LDR_CONTAINER(a, struct making, attempt);

    m->task.run = made_on_ipc;
    ldr_mailbox_post(&m->domain->ipc_box, &m->task);
}

void ldr_container_make(struct ldr_domain *d, struct ldr_name *name, int64_t deadline_ns,
                        void (*done)(void *user, enum larder_kind kind, const struct larder_err *err), void *user)
{
    struct making *m = calloc(1, sizeof *m);
    struct larder_err e;

    if (!m) {
        done(user, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
        return;
    }
    m->domain = d;
    m->name = ldr_name_ref(name);
    m->done = done;
    m->user = user;
    ldr_op_about(&m->attempt.op, m->name, LDR_OP_MAKE_CONTAINER, deadline_ns);
    m->attempt.counters = &d->counters;
    m->attempt.done = made;
    ldr_attempt_start(&m->attempt);
}

/* ---------- all of them ---------- */

enum larder_kind ldr_uploads_new(struct ldr_domain *d, struct ldr_uploads **out, struct larder_err *err)
{
    struct ldr_uploads *u = calloc(1, sizeof *u);
    pthread_condattr_t attr;

    if (!u)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    u->domain = d;
    pthread_mutex_init(&u->mtx, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->cond, &attr);
    pthread_condattr_destroy(&attr);
    *out = u;
    return LARDER_OK;
}

bool ldr_uploads_idle(const struct ldr_uploads *u)
{
    return u->writes == NULL && u->busy == 0;
}

bool ldr_uploads_open(const struct ldr_uploads *u)
{
    return u->incoming || u->stages;
}

void ldr_uploads_look(struct ldr_uploads *u)
{
    if (!u->quitting || u->n_stages)
        return;
    pthread_mutex_lock(&u->mtx);
    u->quit_done = true;
    pthread_cond_signal(&u->cond);
    pthread_mutex_unlock(&u->mtx);
}

static void quit_on_ipc(struct ldr_task *t)
{
    struct ldr_uploads *u = LDR_CONTAINER(t, struct ldr_uploads, quit);

    u->quitting = true;
    ldr_stages_quit(u);
    ldr_uploads_look(u);
}

void ldr_uploads_quit(struct ldr_uploads *u, int64_t deadline_ns)
{
    struct timespec until = { .tv_sec = deadline_ns / LDR_NS_PER_S, .tv_nsec = deadline_ns % LDR_NS_PER_S };

    u->quit.run = quit_on_ipc;
    ldr_mailbox_post(&u->domain->ipc_box, &u->quit);
    pthread_mutex_lock(&u->mtx);
    while (!u->quit_done && !pthread_cond_timedwait(&u->cond, &u->mtx, &until))
        ;
    pthread_mutex_unlock(&u->mtx);
}

void ldr_uploads_free(struct ldr_uploads **pu)
{
    struct ldr_uploads *u = *pu;

    *pu = NULL;
    if (!u)
        return;
    assert(!u->writes && !u->busy);
    ldr_incoming_free_all(u);
    ldr_stages_free_all(u);
    pthread_mutex_destroy(&u->mtx);
    pthread_cond_destroy(&u->cond);
    free(u);
}
