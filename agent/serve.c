/* serve.c - see serve.h. */
#include "agent/serve.h"
#include "common/clock.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---------- replies ---------- */

static void stamp(const struct ldr_domain *d, ldr_wire_reply *m, uint64_t txnid, const struct ldr_id *id)
{
    m->nonce = ldr_index_nonce(d->index);
    m->txnid = txnid;
    if (id) {
        m->object_id.data = (uint8_t *)id->b;
        m->object_id.len = sizeof id->b;
    }
}

/* "Look: the record with this id is there." */
static void reply_look(struct ldr_request *r, uint64_t txnid, const struct ldr_id *id)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Look look = LARDER__WIRE__LOOK__INIT;

    stamp(r->domain, &m, txnid, id);
    m.body_case = LARDER__WIRE__REPLY__BODY_LOOK;
    m.look = &look;
    ldr_ipc_reply(r, &m);
}

static void reply_bytes(struct ldr_request *r, const struct ldr_meta *meta, uint64_t offset, const void *data,
                        size_t len, const char *why, uint64_t txnid, const struct ldr_id *id)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Bytes bytes = LARDER__WIRE__BYTES__INIT;
    Larder__Wire__Meta wm;

    ldr_wire_set_meta(meta, &wm);
    stamp(r->domain, &m, txnid, id);
    bytes.meta = &wm;
    bytes.offset = offset;
    bytes.data.data = (uint8_t *)data;
    bytes.data.len = len;
    bytes.why = (char *)why;
    m.body_case = LARDER__WIRE__REPLY__BODY_BYTES;
    m.bytes = &bytes;
    ldr_count(&r->domain->counters, bytes_sent, len);
    ldr_ipc_reply(r, &m);
}

static void reply_meta(struct ldr_request *r, const struct ldr_meta *meta)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Meta wm;

    ldr_wire_set_meta(meta, &wm);
    stamp(r->domain, &m, 0, NULL);
    m.body_case = LARDER__WIRE__REPLY__BODY_META;
    m.meta = &wm;
    ldr_ipc_reply(r, &m);
}

/* ---------- get ---------- */

static uint64_t asked_offset(const struct ldr_request *r)
{
    return r->msg->get->offset;
}

static size_t asked_length(const struct ldr_request *r)
{
    uint64_t n = r->msg->get->length;

    return n == 0 || n > LDR_WIRE_CHUNK ? LDR_WIRE_CHUNK : (size_t)n;
}

/* The record's metadata as struct ldr_meta that borrows: not to be released. */
static struct ldr_meta borrow_meta(const struct ldr_record *rec)
{
    return (struct ldr_meta){ .size_bytes = rec->size_bytes,
                              .last_modified_s = rec->last_modified_s,
                              .fields = { .p = (uint8_t *)rec->fields, .len = rec->fields_len } };
}

/* Bytes of a cached block, read on the pool: its pages may have to come from the disk. */
struct read_job {
    struct ldr_task task;
    struct ldr_request *request; /* not among those that wait: it is answered soon, whoever still listens */
    struct ldr_meta meta;        /* owned */
    struct ldr_id id;
    uint64_t txnid, offset;
    size_t want;
    ssize_t got;
    int fd;
    uint8_t bytes[];
};

static void read_done_on_ipc(struct ldr_task *t)
{
    struct read_job *j = LDR_CONTAINER(t, struct read_job, task);
    struct ldr_request *r = j->request;
    struct larder_err e;

    if (j->got != (ssize_t)j->want) /* it was as long as recorded when it was opened */
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_IO, "could not read \"%.200s\" from the cache", r->name->text), &e);
    else
        reply_bytes(r, &j->meta, j->offset, j->bytes, (size_t)j->got, "", j->txnid, &j->id);
    close(j->fd);
    ldr_meta_release(&j->meta);
    free(j);
}

static void read_on_pool(struct ldr_task *t)
{
    struct read_job *j = LDR_CONTAINER(t, struct read_job, task);

    j->got = pread(j->fd, j->bytes, j->want, (off_t)j->offset);
    t->run = read_done_on_ipc;
    ldr_mailbox_post(&j->request->domain->ipc_box, t);
}

static void reply_cached_block(struct ldr_request *r, const struct ldr_record *rec, uint64_t txnid, uint64_t offset,
                               size_t want)
{
    struct read_job *j = malloc(sizeof *j + want);
    struct ldr_meta borrowed = borrow_meta(rec);
    struct larder_err e;

    if (!j) {
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
        return;
    }
    *j = (struct read_job){ .task.run = read_on_pool,
                            .request = r,
                            .id = rec->id,
                            .txnid = txnid,
                            .offset = offset,
                            .want = want,
                            .fd = ldr_blocks_open(&r->domain->blocks, rec) };
    ldr_meta_init(&j->meta);
    if (j->fd < 0 || !ldr_meta_copy(&j->meta, &borrowed)) {
        ldr_ipc_reply_fail(r, ldr_fail_sys(&e, LARDER_IO, "could not open \"%.200s\" in the cache", r->name->text), &e);
        if (j->fd >= 0)
            close(j->fd);
        ldr_meta_release(&j->meta);
        free(j);
        return;
    }
    ldr_pool_post(r->domain->pool, &j->task);
}

static void reply_cached_bytes(struct ldr_request *r, const struct ldr_record *rec, uint64_t txnid)
{
    uint64_t offset = asked_offset(r);
    size_t want = asked_length(r);
    struct ldr_meta meta = borrow_meta(rec);
    struct larder_err e;

    if (offset > rec->size_bytes) {
        ldr_ipc_reply_fail(
            r,
            ldr_fail(&e, LARDER_INVALID, "offset %" PRIu64 " is behind the end of \"%.200s\"", offset, r->name->text),
            &e);
        return;
    }
    if (want > rec->size_bytes - offset)
        want = (size_t)(rec->size_bytes - offset);
    if (rec->flags & LDR_FLAG_INLINE)
        reply_bytes(r, &meta, offset, rec->payload + offset, want, "", txnid, &rec->id);
    else
        reply_cached_block(r, rec, txnid, offset, want);
}

static void change_done_on_ipc(struct ldr_task *t);

/* A change that no request waits for. */
struct lone_change {
    struct ldr_change change;
    struct ldr_task task;
    struct ldr_domain *domain;
    struct ldr_name *name;
    uint8_t bytes[]; /* what an updated record points to */
};

static void change_done_on_index(struct ldr_change *c)
{
    struct lone_change *l = c->user;

    l->task.run = change_done_on_ipc;
    ldr_mailbox_post(&l->domain->ipc_box, &l->task);
}

static void change_done_on_ipc(struct ldr_task *t)
{
    struct lone_change *l = LDR_CONTAINER(t, struct lone_change, task);

    if (l->change.had_old)
        ldr_blocks_drop(&l->domain->blocks, &l->change.old);
    l->domain->lone_changes--;
    ldr_name_unref(&l->name);
    free(l);
}

static struct lone_change *lone_change_new(struct ldr_domain *d, struct ldr_name *name, enum ldr_change_what what,
                                           size_t bytes)
{
    struct lone_change *l = calloc(1, sizeof *l + bytes);

    if (!l)
        return NULL;
    l->domain = d;
    l->name = ldr_name_ref(name);
    l->change.what = what;
    l->change.key = l->name->ikey;
    l->change.key_len = l->name->ikey_len;
    l->change.done = change_done_on_index;
    l->change.user = l;
    d->lone_changes++;
    return l;
}

/* Take a damaged record, or one whose block is gone, out of readers' sight. */
static void drop_record(struct ldr_request *r, const struct ldr_id *only)
{
    struct lone_change *l = lone_change_new(r->domain, r->name, LDR_CHANGE_REMOVE, 0);

    ldr_count(&r->domain->counters, damaged, 1);
    ldr_log(LDR_WARN, "serve", "dropped a damaged entry of the cache uri=\"%s\" op=%016" PRIx64, r->name->text,
            r->msg->op_id);
    if (!l)
        return;
    l->change.only_id = only != NULL;
    if (only)
        l->change.record.id = *only;
    ldr_index_change(r->domain->index, &l->change);
}

/* Two names may share a shortened index key. */
static bool is_of(const struct ldr_record *rec, const struct ldr_name *n)
{
    struct ldr_field f;

    return !ldr_name_shortened(n) || (ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_KEY, &f) &&
                                      f.len == n->text_len && !memcmp(f.p, n->text, f.len));
}

/* The record of the request's key, if there is a sound one. */
static bool find_record(struct ldr_request *r, struct ldr_record *rec, uint64_t *txnid)
{
    enum larder_kind k = ldr_reader_find(r->domain->reader, r->name->ikey, r->name->ikey_len, rec, txnid);

    if (k == LARDER_CORRUPT)
        drop_record(r, NULL);
    if (k || !is_of(rec, r->name))
        return false;
    if (!ldr_blocks_intact(&r->domain->blocks, rec)) {
        drop_record(r, &rec->id);
        return false;
    }
    return true;
}

static bool is_fresh(const struct ldr_domain *d, const struct ldr_record *rec)
{
    return ldr_record_fresh(rec, ldr_index_boot(d->index), ldr_boot_ns());
}

static void get_answer(struct ldr_waiter *w, const struct ldr_fetch *f)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, waiter);
    struct larder_err e;
    uint8_t *buf;
    ssize_t n;

    if (f->kind) {
        ldr_ipc_reply_fail(r, f->kind, &f->err);
        return;
    }
    if (f->published && !r->msg->get->want_bytes) {
        reply_look(r, f->txnid, &f->id);
        return;
    }
    buf = malloc(LDR_WIRE_CHUNK);
    n = buf ? ldr_fetch_bytes(f, asked_offset(r), buf, asked_length(r)) : -1;
    if (n < 0)
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_UNAVAILABLE, "could not read \"%.200s\" again", r->name->text), &e);
    else
        reply_bytes(r, &f->meta, asked_offset(r), buf, (size_t)n, f->published ? "" : f->why, f->txnid,
                    f->published ? &f->id : NULL);
    free(buf);
}

/* A later piece of a read that began with `validator`. */
static void serve_chunk(struct ldr_request *r)
{
    const Larder__Wire__Get *g = r->msg->get;
    char validator[LDR_META_MAX + 1];
    struct ldr_record rec;
    struct ldr_field f;
    struct larder_err e;
    enum larder_kind k;
    uint64_t txnid;

    if (g->validator.len == 0) {
        ldr_ipc_reply_fail(r,
                           ldr_fail(&e, LARDER_UNSUPPORTED,
                                    "\"%.200s\" cannot be read in pieces: its store names no version of it", g->key),
                           &e);
        return;
    }
    if (find_record(r, &rec, &txnid) && ldr_fields_find(rec.fields, rec.fields_len, LDR_TAG_VALIDATOR, &f) &&
        f.len == g->validator.len && !memcmp(f.p, g->validator.data, f.len)) {
        reply_cached_bytes(r, &rec, txnid);
        return;
    }
    memcpy(validator, g->validator.data, g->validator.len);
    validator[g->validator.len] = '\0';
    r->waiter.answer = get_answer;
    k = ldr_flight_chunk(r->domain, r->name, g->offset, asked_length(r), validator, &r->waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
    else
        ldr_ipc_wait(r);
}

static void serve_get(struct ldr_request *r)
{
    const Larder__Wire__Get *g = r->msg->get;
    struct ldr_domain *d = r->domain;
    struct ldr_record rec;
    struct larder_err e;
    enum larder_kind k = ldr_route(d->routes, g->key, &r->name, &e);
    uint64_t txnid;

    ldr_count(&d->counters, gets, 1);
    if (g->reason == LARDER__WIRE__REASON__TORN)
        ldr_count(&d->counters, torn, 1);
    if (k) {
        ldr_ipc_reply_fail(r, k, &e);
        return;
    }
    if (g->offset || g->validator.len) {
        serve_chunk(r);
        return;
    }
    if (find_record(r, &rec, &txnid) && is_fresh(d, &rec)) {
        ldr_count(&d->counters, gets_found, 1);
        if (g->want_bytes)
            reply_cached_bytes(r, &rec, txnid);
        else
            reply_look(r, txnid, &rec.id);
        return;
    }
    r->waiter.answer = get_answer;
    k = ldr_flight_object(d, r->name, &r->waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
    else
        ldr_ipc_wait(r);
}

/* ---------- head ---------- */

static bool same_version(const struct ldr_record *rec, const struct ldr_meta *meta)
{
    struct ldr_field a, b;

    return rec->size_bytes == meta->size_bytes &&
           ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_VALIDATOR, &a) &&
           ldr_fields_find(meta->fields.p, meta->fields.len, LDR_TAG_VALIDATOR, &b) && a.len == b.len &&
           !memcmp(a.p, b.p, a.len);
}

/* A put did not tell when the store dated the object; the first head does. Keep what it says with the record. The
 * change is posted from here, so it stands before the intent of any later write. */
static void complete_record(struct ldr_request *r, const struct ldr_fetch *f)
{
    struct ldr_record rec;
    struct lone_change *l;
    size_t key_len = ldr_name_shortened(r->name) ? r->name->text_len + 3 : 0;
    uint64_t txnid;

    if (atomic_load(&f->no_store) || !find_record(r, &rec, &txnid) || !(rec.flags & LDR_FLAG_LM_UNKNOWN) ||
        !same_version(&rec, &f->meta) || f->meta.fields.len + key_len > LDR_META_MAX ||
        LDR_RECORD_FIXED + f->meta.fields.len + key_len + rec.payload_len > ldr_index_limit(r->domain->index))
        return;
    l = lone_change_new(r->domain, r->name, LDR_CHANGE_UPDATE, f->meta.fields.len + key_len + rec.payload_len);
    if (!l)
        return;
    memcpy(l->bytes, f->meta.fields.p, f->meta.fields.len);
    if (key_len) {
        struct ldr_meta m;

        ldr_meta_init(&m);
        if (ldr_meta_add(&m, LDR_TAG_KEY, r->name->text, r->name->text_len))
            memcpy(l->bytes + f->meta.fields.len, m.fields.p, key_len);
        ldr_meta_release(&m);
    }
    l->change.record = rec;
    l->change.record.flags &= ~LDR_FLAG_LM_UNKNOWN;
    l->change.record.last_modified_s = f->meta.last_modified_s;
    l->change.record.fields = l->bytes;
    l->change.record.fields_len = f->meta.fields.len + key_len;
    if (rec.payload_len)
        memcpy(l->bytes + l->change.record.fields_len, rec.payload, rec.payload_len);
    l->change.record.payload = l->bytes + l->change.record.fields_len;
    ldr_index_change(r->domain->index, &l->change);
}

static void head_answer(struct ldr_waiter *w, const struct ldr_fetch *f)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, waiter);

    if (f->kind) {
        ldr_ipc_reply_fail(r, f->kind, &f->err);
        return;
    }
    complete_record(r, f);
    reply_meta(r, &f->meta);
}

static void serve_head(struct ldr_request *r)
{
    struct ldr_domain *d = r->domain;
    struct ldr_record rec;
    struct larder_err e;
    enum larder_kind k = ldr_route(d->routes, r->msg->head->key, &r->name, &e);
    uint64_t txnid;

    if (!k && find_record(r, &rec, &txnid) && is_fresh(d, &rec) && !(rec.flags & LDR_FLAG_LM_UNKNOWN)) {
        struct ldr_meta meta = borrow_meta(&rec);

        reply_meta(r, &meta);
        return;
    }
    r->waiter.answer = head_answer;
    if (!k)
        k = ldr_flight_head(d, r->name, &r->waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
    else
        ldr_ipc_wait(r);
}

/* ---------- put and delete ---------- */

static void write_answer(struct ldr_write_waiter *w, const struct ldr_write_result *res)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, write_waiter);
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Meta wm;

    if (res->kind) {
        ldr_ipc_reply_fail(r, res->kind, res->err);
        return;
    }
    stamp(r->domain, &m, res->txnid, res->id);
    if (res->meta) {
        ldr_wire_set_meta(res->meta, &wm);
        m.body_case = LARDER__WIRE__REPLY__BODY_META;
        m.meta = &wm;
    }
    ldr_ipc_reply(r, &m);
}

static void wait_for_write(struct ldr_request *r, enum larder_kind k, const struct larder_err *e)
{
    if (k)
        ldr_ipc_reply_fail(r, k, e);
    else if (r->write_waiter.write)
        ldr_ipc_wait(r);
}

static void serve_put(struct ldr_request *r)
{
    const Larder__Wire__Put *p = r->msg->put;
    struct larder_err e;
    enum larder_kind k = ldr_route(r->domain->routes, p->key, &r->name, &e);
    struct ldr_put_args a = { .op_id = r->msg->op_id,
                              .deadline_ns = r->deadline_ns,
                              .name = r->name,
                              .data = p->data.data,
                              .data_len = p->data.len,
                              .upload_id = p->upload_id,
                              .size = p->size,
                              .fields = p->fields.data,
                              .fields_len = p->fields.len,
                              .create_only = p->create_only };

    r->write_waiter.answer = write_answer;
    if (!k && a.op_id == 0)
        k = ldr_fail(&e, LARDER_INVALID, "a write needs an op_id");
    if (!k)
        k = ldr_upload_put(r->domain, &a, &r->write_waiter, &e);
    wait_for_write(r, k, &e);
}

static void serve_delete(struct ldr_request *r)
{
    struct larder_err e;
    enum larder_kind k = ldr_route(r->domain->routes, r->msg->delete_->key, &r->name, &e);

    r->write_waiter.answer = write_answer;
    if (!k && r->msg->op_id == 0)
        k = ldr_fail(&e, LARDER_INVALID, "a write needs an op_id");
    if (!k)
        k = ldr_upload_delete(r->domain, r->msg->op_id, r->deadline_ns, r->name, &r->write_waiter, &e);
    wait_for_write(r, k, &e);
}

static void reply_done(struct ldr_request *r)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;

    stamp(r->domain, &m, 0, NULL);
    ldr_ipc_reply(r, &m);
}

static void part_answer(struct ldr_part *part, enum larder_kind k, const struct larder_err *err)
{
    struct ldr_request *r = LDR_CONTAINER(part, struct ldr_request, part);

    if (k)
        ldr_ipc_reply_fail(r, k, err);
    else
        reply_done(r);
}

/* Not among those that wait: it is answered soon, whoever still listens. */
static void serve_part(struct ldr_request *r)
{
    const Larder__Wire__PutPart *p = r->msg->put_part;
    struct larder_err e;
    enum larder_kind k;

    r->part = (struct ldr_part){ .upload_id = p->upload_id,
                                 .size = p->size,
                                 .offset = p->offset,
                                 .data = p->data.data,
                                 .len = p->data.len,
                                 .answer = part_answer };
    k = ldr_upload_part(r->domain, &r->part, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
}

static void serve_abort(struct ldr_request *r)
{
    ldr_upload_abort(r->domain, r->msg->abort->upload_id);
    reply_done(r);
}

/* ---------- hello and status ---------- */

static void serve_hello(struct ldr_request *r)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__HelloReply h = LARDER__WIRE__HELLO_REPLY__INIT;

    stamp(r->domain, &m, 0, NULL);
    h.protocol = LDR_WIRE_PROTOCOL;
    h.agent = (char *)"larderd " LDR_VERSION;
    h.pid = (uint32_t)getpid();
    m.body_case = LARDER__WIRE__REPLY__BODY_HELLO;
    m.hello = &h;
    ldr_ipc_reply(r, &m);
}

#define ITEMS_MAX 96

struct items {
    Larder__Wire__StatusItem item[ITEMS_MAX], *ptr[ITEMS_MAX];
    char names[LDR_FORMAT_STORES][32];
    size_t n;
};

static void add_item(struct items *s, const char *name, const char *text, uint64_t number)
{
    Larder__Wire__StatusItem *i = &s->item[s->n];

    if (s->n == ITEMS_MAX)
        return;
    larder__wire__status_item__init(i);
    i->name = (char *)name;
    i->value_case = text ? LARDER__WIRE__STATUS_ITEM__VALUE_TEXT : LARDER__WIRE__STATUS_ITEM__VALUE_NUMBER;
    if (text)
        i->text = (char *)text;
    else
        i->number = number;
    s->ptr[s->n++] = i;
}

static void add_figures(struct ldr_domain *d, struct items *s)
{
    struct ldr_index_stats st;
    unsigned made, busy;

    ldr_index_stats(d->index, &st);
    ldr_ipc_usage(d->ipc, &made, &busy);
    add_item(s, "version", LDR_VERSION, 0);
    add_item(s, "pid", NULL, (uint64_t)getpid());
    add_item(s, "uptime_s", NULL, (uint64_t)((ldr_mono_ns() - d->started_ns) / LDR_NS_PER_S));
    add_item(s, "cache_dir", d->cfg->cache_dir, 0);
    add_item(s, "generation", NULL, d->dir->format.generation);
    add_item(s, "objects", NULL, st.objects);
    add_item(s, "bytes", NULL, atomic_load(&d->space.bytes));
    add_item(s, "max_size", NULL, d->space.max_bytes);
    add_item(s, "block_files", NULL, st.blocks);
    add_item(s, "block_bytes", NULL, st.block_bytes);
    add_item(s, "inline_bytes", NULL, st.inline_charge);
    add_item(s, "files", NULL, atomic_load(&d->space.files));
    add_item(s, "contexts", NULL, made);
    add_item(s, "contexts_busy", NULL, busy);
}

static void serve_status(struct ldr_request *r)
{
    struct ldr_domain *d = r->domain;
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__StatusReply st = LARDER__WIRE__STATUS_REPLY__INIT;
    struct items *s = calloc(1, sizeof *s);
    struct larder_err e;

    if (!s) {
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
        return;
    }
    add_figures(d, s);
    for (size_t i = 0; i < ldr_routes_count(d->routes) && i < LDR_ARRAY_LEN(s->names); i++) {
        const char *scheme, *kind;
        uint64_t fingerprint;

        ldr_routes_get(d->routes, i, &scheme, &kind, &fingerprint);
        snprintf(s->names[i], sizeof s->names[i], "store.%s", scheme);
        add_item(s, s->names[i], kind, 0);
    }
#define LDR_COUNTER(name, help) add_item(s, #name, NULL, atomic_load_explicit(&d->counters.name, memory_order_relaxed));
#include "agent/counters.tbl.h"
#undef LDR_COUNTER
    st.n_item = s->n;
    st.item = s->ptr;
    stamp(d, &m, 0, NULL);
    m.body_case = LARDER__WIRE__REPLY__BODY_STATUS_REPLY;
    m.status_reply = &st;
    ldr_ipc_reply(r, &m);
    free(s);
}

/* ---------- dispatch ---------- */

void ldr_serve(struct ldr_request *r)
{
    switch (r->msg->body_case) {
    case LARDER__WIRE__REQUEST__BODY_GET:
        serve_get(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_HEAD:
        serve_head(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_PUT:
        serve_put(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_PUT_PART:
        serve_part(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_ABORT:
        serve_abort(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_DELETE:
        serve_delete(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_STATUS:
        serve_status(r);
        break;
    default: /* ldr_wire_unpack_request() let nothing else through */
        serve_hello(r);
    }
}

void ldr_serve_leave(struct ldr_request *r)
{
    ldr_flight_leave(&r->waiter);
    ldr_upload_leave(&r->write_waiter);
}
