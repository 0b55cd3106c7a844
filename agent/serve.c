/* serve.c - see serve.h. Gets are in serve_get.c, what the agent says of itself in serve_info.c. */
#include "agent/serve.h"
#include "agent/known.h"
#include "agent/reply.h"
#include "agent/serve_impl.h"

#include <string.h>
#include <unistd.h>

/* ---------- head ---------- */

static void head_answer(struct ldr_waiter *w, const struct ldr_answer *a)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, waiter);

    if (a->kind) {
        ldr_ipc_reply_fail(r, a->kind, a->err);
        return;
    }
    if (!a->written)
        ldr_known_complete(r->domain, r->name, a->meta);
    ldr_reply_meta(r, a->meta);
}

static void serve_head(struct ldr_request *r)
{
    struct ldr_domain *d = r->domain;
    struct ldr_record rec;
    struct larder_err e;
    enum larder_kind k = ldr_route(d->routes, r->msg->head->key, &r->name, &e);
    uint64_t txnid;

    if (!k && ldr_known_find(d, r->name, &rec, &txnid) && ldr_known_fresh(d, &rec) &&
        !(rec.flags & LDR_FLAG_LM_UNKNOWN)) {
        struct ldr_meta meta = ldr_known_meta(&rec);

        ldr_reply_meta(r, &meta);
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

/* ---------- list ---------- */

static void list_answer(struct ldr_waiter *w, const struct ldr_answer *a)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, waiter);

    if (a->kind)
        ldr_ipc_reply_fail(r, a->kind, a->err);
    else
        ldr_reply_page(r, a->page);
}

static void serve_list(struct ldr_request *r)
{
    const Larder__Wire__List *m = r->msg->list;
    unsigned max = m->max && m->max < LDR_PAGE_ENTRIES_MAX ? m->max : LDR_PAGE_ENTRIES_MAX;
    struct larder_err e;
    enum larder_kind k = ldr_route_prefix(r->domain->routes, m->prefix, &r->name, &e);

    r->waiter.answer = list_answer;
    if (!k)
        k = ldr_flight_list(r->domain, r->name, m->delimiter[0] ? m->delimiter : NULL, m->start[0] ? m->start : NULL,
                            max, &r->waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
    else
        ldr_ipc_wait(r);
}

/* ---------- put, delete, copy ---------- */

static void write_answer(struct ldr_write_waiter *w, const struct ldr_write_result *res)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, write_waiter);
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Meta wm;

    if (res->kind) {
        ldr_ipc_reply_fail(r, res->kind, res->err);
        return;
    }
    ldr_reply_stamp(r->domain, &m, res->txnid, res->id);
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

static void serve_copy(struct ldr_request *r)
{
    struct ldr_name *from = NULL;
    struct larder_err e;
    enum larder_kind k = ldr_route(r->domain->routes, r->msg->copy->to, &r->name, &e);

    if (!k)
        k = ldr_route(r->domain->routes, r->msg->copy->from, &from, &e);
    r->write_waiter.answer = write_answer;
    if (!k && r->msg->op_id == 0)
        k = ldr_fail(&e, LARDER_INVALID, "a write needs an op_id");
    if (!k)
        k = ldr_upload_copy(r->domain, r->msg->op_id, r->deadline_ns, from, r->name, &r->write_waiter, &e);
    ldr_name_unref(&from);
    wait_for_write(r, k, &e);
}

static void part_answer(struct ldr_part *part, enum larder_kind k, const struct larder_err *err)
{
    struct ldr_request *r = LDR_CONTAINER(part, struct ldr_request, part);

    if (k)
        ldr_ipc_reply_fail(r, k, err);
    else
        ldr_reply_done(r);
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
    ldr_reply_done(r);
}

/* ---------- hello ---------- */

static void serve_hello(struct ldr_request *r)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__HelloReply h = LARDER__WIRE__HELLO_REPLY__INIT;

    ldr_reply_stamp(r->domain, &m, 0, NULL);
    h.protocol = LDR_WIRE_PROTOCOL;
    h.agent = (char *)"larderd " LDR_VERSION;
    h.pid = (uint32_t)getpid();
    m.body_case = LARDER__WIRE__REPLY__BODY_HELLO;
    m.hello = &h;
    ldr_ipc_reply(r, &m);
}

/* ---------- dispatch ---------- */

void ldr_serve(struct ldr_request *r)
{
    r->why[0] = '\0';
    memset(&r->waiter, 0, sizeof r->waiter);
    switch (r->msg->body_case) {
    case LARDER__WIRE__REQUEST__BODY_GET:
        ldr_serve_get(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_GET_MANY:
        ldr_serve_get_many(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_HEAD:
        serve_head(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_LIST:
        serve_list(r);
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
    case LARDER__WIRE__REQUEST__BODY_COPY:
        serve_copy(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_STATUS:
        ldr_serve_status(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_WHY:
        ldr_serve_why(r);
        break;
    default: /* ldr_wire_unpack_request() let nothing else through */
        serve_hello(r);
    }
}

void ldr_serve_leave(struct ldr_request *r)
{
    ldr_flight_leave(&r->waiter);
    ldr_upload_leave(&r->write_waiter);
    ldr_many_free(&r->many);
}
