/* serve.c - see serve.h. Gets are in serve_get.c, writes in serve_put.c, what the agent says of itself in
 * serve_info.c. */
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
        ldr_serve_put(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_PUT_PART:
        ldr_serve_part(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_ABORT:
        ldr_serve_abort(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_DELETE:
        ldr_serve_delete(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_COPY:
        ldr_serve_copy(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_DELETE_MANY:
        ldr_serve_delete_many(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_OPEN:
        ldr_serve_upload_open(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_BLOCK:
        ldr_serve_upload_block(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_DATA:
        ldr_serve_upload_data(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_SEAL:
        ldr_serve_upload_seal(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_COMMIT:
        ldr_serve_upload_commit(r);
        break;
    case LARDER__WIRE__REQUEST__BODY_SIGN:
        ldr_serve_sign(r);
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
    ldr_stage_leave(&r->stage_waiter);
    ldr_serve_leave_deletes(r);
    ldr_serve_leave_sign(r);
    ldr_many_free(&r->many);
}
