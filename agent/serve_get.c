/* serve_get.c - step 4 of a get: from the cache, or by waiting for a load. See serve.h. */
#include "agent/known.h"
#include "agent/reply.h"
#include "agent/serve_impl.h"
#include "common/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HINT_MAX (64 * LDR_MIB) /* that a reader may have fetched before it asks for it */

static void get_answer(struct ldr_waiter *w, const struct ldr_answer *a);

/* Object bytes in one reply. */
static size_t asked_bytes(const struct ldr_request *r)
{
    uint64_t n = r->msg->get->length;

    return n == 0 || n > LDR_WIRE_SEND ? LDR_WIRE_SEND : (size_t)n;
}

/* ---------- bytes of the cache ---------- */

/* Bytes of a cached block, read on the pool: its pages may have to come from the disk. */
struct read_job {
    struct ldr_task task;
    struct ldr_request *request; /* not among those that wait: it is answered soon, whoever still listens */
    struct ldr_meta meta;        /* owned */
    struct ldr_id id;
    uint64_t txnid, offset; /* in the object */
    off_t at;               /* in the block */
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
        ldr_reply_bytes(r, &j->meta, j->offset, j->bytes, (size_t)j->got, "", j->txnid, &j->id);
    close(j->fd);
    ldr_meta_release(&j->meta);
    free(j);
}

static void read_on_pool(struct ldr_task *t)
{
    struct read_job *j = LDR_CONTAINER(t, struct read_job, task);

    j->got = pread(j->fd, j->bytes, j->want, j->at);
    t->run = read_done_on_ipc;
    ldr_mailbox_post(&j->request->domain->ipc_box, t);
}

/* The bytes up to the end of their block. False: the file is gone. */
static bool reply_block_bytes(struct ldr_request *r, const struct ldr_record *rec, uint64_t txnid, uint64_t offset,
                              size_t want)
{
    uint32_t block = (uint32_t)(offset >> rec->block_log2);
    uint64_t at = offset - ((uint64_t)block << rec->block_log2), left = ldr_record_block_len(rec, block) - at;
    struct ldr_meta borrowed = ldr_known_meta(rec);
    struct read_job *j;
    struct larder_err e;

    if (want > left)
        want = (size_t)left;
    j = malloc(sizeof *j + want);
    if (!j) {
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
        return true;
    }
    *j = (struct read_job){ .task.run = read_on_pool,
                            .request = r,
                            .id = rec->id,
                            .txnid = txnid,
                            .offset = offset,
                            .at = (off_t)at,
                            .want = want,
                            .fd = ldr_blocks_open(&r->domain->blocks, rec, block) };
    ldr_meta_init(&j->meta);
    if (j->fd < 0) {
        free(j);
        return false;
    }
    if (!ldr_meta_copy(&j->meta, &borrowed)) {
        close(j->fd);
        ldr_meta_release(&j->meta);
        free(j);
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
        return true;
    }
    ldr_ipc_unwait(r);
    ldr_pool_post(r->domain->pool, &j->task);
    return true;
}

/* False: they are not there after all. */
static bool reply_cached_bytes(struct ldr_request *r, const struct ldr_record *rec, uint64_t txnid)
{
    uint64_t offset = r->msg->get->offset < rec->size_bytes ? r->msg->get->offset : rec->size_bytes;
    size_t want = asked_bytes(r);
    struct ldr_meta meta = ldr_known_meta(rec);

    if (want > rec->size_bytes - offset)
        want = (size_t)(rec->size_bytes - offset);
    if (want > 0 && !(rec->flags & LDR_FLAG_INLINE))
        return reply_block_bytes(r, rec, txnid, offset, want);
    ldr_reply_bytes(r, &meta, offset, rec->payload + offset, want, "", txnid, &rec->id);
    return true;
}

/* ---------- answers ---------- */

static void chunk_answer(struct ldr_waiter *w, const struct ldr_answer *a)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, waiter);

    if (a->kind)
        ldr_ipc_reply_fail(r, a->kind, a->err);
    else
        ldr_reply_bytes(r, a->meta, a->mem_offset, a->mem, a->mem_len, r->why, 0, NULL);
}

/* The bytes of a version, past the cache; an empty validator: of whatever version the store has. */
static void ask_for_chunk(struct ldr_request *r, const ProtobufCBinaryData *validator)
{
    char text[LDR_META_MAX + 1];
    struct larder_err e;
    enum larder_kind k;

    memcpy(text, validator->data, validator->len); /* the wire's and the fields' limits are the same */
    text[validator->len] = '\0';
    r->waiter.answer = chunk_answer;
    k = ldr_flight_chunk(r->domain, r->name, r->msg->get->offset, asked_bytes(r), validator->len ? text : NULL,
                         &r->waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
}

static void ask_for_chunk_of(struct ldr_request *r, const struct ldr_meta *meta)
{
    struct ldr_field f = { .p = (const uint8_t *)"" };

    /* A weak one cannot be a condition: the piece is of whatever version there is, and its reader compares. */
    if (!ldr_fields_find(meta->fields.p, meta->fields.len, LDR_TAG_VALIDATOR, &f) || !ldr_validator_strong(f.p, f.len))
        f = (struct ldr_field){ .p = (const uint8_t *)"" };
    ask_for_chunk(r, &(ProtobufCBinaryData){ .len = f.len, .data = (uint8_t *)f.p });
}

static void reply_uncached(struct ldr_request *r, const struct ldr_answer *a)
{
    uint64_t size = a->meta->size_bytes, offset = r->msg->get->offset < size ? r->msg->get->offset : size;
    uint8_t *buf = malloc(LDR_WIRE_SEND);
    ssize_t n = buf ? ldr_answer_bytes(a, offset, buf, asked_bytes(r)) : -1;

    if (n >= 0) {
        ldr_reply_bytes(r, a->meta, offset, buf, (size_t)n, a->why, 0, NULL);
    } else {
        snprintf(r->why, sizeof r->why, "%.*s", (int)sizeof r->why - 1, a->why);
        ask_for_chunk_of(r, a->meta);
    }
    free(buf);
}

static void get_answer(struct ldr_waiter *w, const struct ldr_answer *a)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, waiter);
    struct ldr_record rec;
    uint64_t txnid;

    if (a->kind)
        ldr_ipc_reply_fail(r, a->kind, a->err);
    else if (!a->in_cache)
        reply_uncached(r, a);
    else if (!r->msg->get->want_bytes)
        ldr_reply_look(r, a->txnid, &a->id);
    else if (!ldr_known_find(r->domain, r->name, &rec, &txnid) || memcmp(&rec.id, &a->id, sizeof a->id) ||
             !reply_cached_bytes(r, &rec, txnid))
        ask_for_chunk_of(r, a->meta); /* gone again */
}

/* ---------- one object ---------- */

static bool is_version(const struct ldr_record *rec, const ProtobufCBinaryData *validator)
{
    struct ldr_field f;

    return ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_VALIDATOR, &f) && f.len == validator->len &&
           !memcmp(f.p, validator->data, f.len);
}

static void hint_answer(struct ldr_waiter *w, const struct ldr_answer *a)
{
    (void)w, (void)a;
}

/* What is asked for is on its way now, or cannot be had; whoever misses it asks again. */
static void hint(struct ldr_request *r)
{
    uint64_t length = r->msg->get->length;
    struct larder_err e;
    enum larder_kind k;

    r->waiter.answer = hint_answer;
    r->waiter.hint = true;
    r->waiter.offset = r->msg->get->offset;
    r->waiter.length = length && length < HINT_MAX ? length : HINT_MAX;
    ldr_ipc_wait(r);
    k = ldr_flight_object(r->domain, r->name, &r->waiter, &e);
    if (!k)
        ldr_flight_leave(&r->waiter);
    ldr_ipc_unwait(r);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
    else
        ldr_reply_look(r, 0, NULL);
}

void ldr_serve_get(struct ldr_request *r)
{
    const Larder__Wire__Get *g = r->msg->get;
    struct ldr_domain *d = r->domain;
    uint64_t length = g->want_bytes ? asked_bytes(r) : g->length, txnid;
    struct ldr_record rec;
    struct larder_err e;
    bool known, pinned;
    enum larder_kind k = ldr_route(d->routes, g->key, &r->name, &e);

    ldr_count(&d->counters, gets, 1);
    ldr_count(&d->counters, torn, g->reason == LARDER__WIRE__REASON__TORN);
    if (k) {
        ldr_ipc_reply_fail(r, k, &e);
        return;
    }
    known = ldr_known_find(d, r->name, &rec, &txnid);
    pinned = g->validator.len > 0;
    if (g->hint) {
        hint(r);
        return;
    }
    if (known && pinned && !is_version(&rec, &g->validator))
        known = false;
    r->waiter.suspect = g->reason == LARDER__WIRE__REASON__BLOCK_GONE;
    if (known && !r->waiter.suspect && (pinned || ldr_known_fresh(d, &rec)) &&
        ldr_known_range(d, &rec, g->offset, length)) {
        ldr_count(&d->counters, gets_found, 1);
        if (!g->want_bytes) {
            ldr_reply_look(r, txnid, &rec.id);
            return;
        }
        if (reply_cached_bytes(r, &rec, txnid))
            return;
        r->waiter.suspect = true;
    }
    if (pinned && (!known || ldr_mono_ns() < d->no_room_until_ns) &&
        !ldr_flight_is_suspect(d->flights, r->name)) { /* a read that goes on past the cache */
        ldr_ipc_wait(r);
        ask_for_chunk(r, &g->validator);
        return;
    }
    r->waiter.answer = get_answer;
    r->waiter.offset = g->offset;
    r->waiter.length = length;
    r->waiter.ahead = g->ahead;
    r->waiter.validator = g->validator.len ? g->validator.data : NULL;
    r->waiter.validator_len = g->validator.len;
    ldr_ipc_wait(r);
    k = ldr_flight_object(d, r->name, &r->waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
}

/* ---------- many objects ---------- */

struct ldr_many {
    struct ldr_request *request;
    size_t n, left; /* left: answers that are missing, and one until all are asked for */
    struct many_item {
        struct ldr_many *many;
        struct ldr_waiter waiter;
        struct ldr_name *name;
        bool in_cache;
        struct ldr_id id;
        enum larder_kind kind;
        struct larder_err err;
    } item[];
};

void ldr_many_free(struct ldr_many **pm)
{
    struct ldr_many *m = *pm;

    if (!m)
        return;
    for (size_t i = 0; i < m->n; i++) {
        ldr_flight_leave(&m->item[i].waiter);
        ldr_name_unref(&m->item[i].name);
    }
    free(m);
    *pm = NULL;
}

static void many_reply(struct ldr_many *m)
{
    struct ldr_request *r = m->request;
    ldr_wire_reply reply = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Many many = LARDER__WIRE__MANY__INIT;
    struct {
        Larder__Wire__ManyItem item;
        Larder__Wire__Status status;
    } *w = calloc(m->n + 1, sizeof *w);
    Larder__Wire__ManyItem **ptr = calloc(m->n + 1, sizeof *ptr);
    struct larder_err e;

    for (size_t i = 0; i < m->n && w && ptr; i++) {
        struct many_item *it = &m->item[i];

        larder__wire__many_item__init(&w[i].item);
        larder__wire__status__init(&w[i].status);
        ptr[i] = &w[i].item;
        if (it->kind) {
            w[i].status.kind = it->kind;
            w[i].status.sys = it->err.sys;
            w[i].status.http = it->err.http;
            w[i].status.message = it->err.msg;
            w[i].item.status = &w[i].status;
        } else if (it->in_cache) {
            w[i].item.object_id.data = it->id.b;
            w[i].item.object_id.len = sizeof it->id.b;
        }
    }
    many.n_item = m->n;
    many.item = ptr;
    ldr_reply_stamp(r->domain, &reply, 0, NULL);
    reply.body_case = LARDER__WIRE__REPLY__BODY_MANY;
    reply.many = &many;
    if (w && ptr)
        ldr_ipc_reply(r, &reply);
    else
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
    free(w);
    free(ptr);
}

static void many_one_less(struct ldr_many *m)
{
    if (--m->left == 0)
        many_reply(m);
}

static void many_answer(struct ldr_waiter *w, const struct ldr_answer *a)
{
    struct many_item *it = LDR_CONTAINER(w, struct many_item, waiter);

    it->kind = a->kind;
    if (a->kind)
        it->err = *a->err;
    it->in_cache = a->in_cache;
    it->id = a->id;
    many_one_less(it->many);
}

static void many_ask(struct ldr_domain *d, struct many_item *it, const char *key)
{
    struct ldr_record rec;
    uint64_t txnid;

    ldr_count(&d->counters, gets, 1);
    it->kind = ldr_route(d->routes, key, &it->name, &it->err);
    if (it->kind)
        return;
    if (ldr_known_find(d, it->name, &rec, &txnid) && ldr_known_fresh(d, &rec) && ldr_known_range(d, &rec, 0, 0)) {
        ldr_count(&d->counters, gets_found, 1);
        it->in_cache = true;
        it->id = rec.id;
        return;
    }
    it->waiter.answer = many_answer;
    it->many->left++;
    it->kind = ldr_flight_object(d, it->name, &it->waiter, &it->err);
    if (it->kind)
        it->many->left--;
}

void ldr_serve_get_many(struct ldr_request *r)
{
    const Larder__Wire__GetMany *g = r->msg->get_many;
    struct ldr_many *m = calloc(1, sizeof *m + g->n_key * sizeof m->item[0]);
    struct larder_err e;

    if (!m) {
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
        return;
    }
    m->request = r;
    m->n = g->n_key;
    m->left = 1;
    r->many = m;
    ldr_ipc_wait(r);
    for (size_t i = 0; i < m->n; i++)
        m->item[i].many = m;
    for (size_t i = 0; i < m->n; i++)
        many_ask(r->domain, &m->item[i], g->key[i]);
    many_one_less(m);
}
