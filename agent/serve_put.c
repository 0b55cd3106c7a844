/* serve_put.c - step 4 of a write: puts, deletes, copies, uploads by blocks, signed URLs. See serve.h. */
#include "agent/attempt.h"
#include "agent/reply.h"
#include "agent/serve_impl.h"
#include "agent/upload_impl.h"

#include <stdlib.h>
#include <string.h>

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

static enum larder_kind named(const struct ldr_request *r, struct larder_err *e)
{
    return r->msg->op_id ? LARDER_OK : ldr_fail(e, LARDER_INVALID, "a write needs an op_id");
}

static void wait_for_write(struct ldr_request *r, enum larder_kind k, const struct larder_err *e)
{
    if (k)
        ldr_ipc_reply_fail(r, k, e);
    else if (r->write_waiter.write)
        ldr_ipc_wait(r);
}

void ldr_serve_put(struct ldr_request *r)
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
                              .create_only = p->create_only,
                              .if_match = p->if_match };

    r->write_waiter.answer = write_answer;
    if (!k)
        k = named(r, &e);
    if (!k)
        k = ldr_upload_put(r->domain, &a, &r->write_waiter, &e);
    wait_for_write(r, k, &e);
}

void ldr_serve_delete(struct ldr_request *r)
{
    struct larder_err e;
    enum larder_kind k = ldr_route(r->domain->routes, r->msg->delete_->key, &r->name, &e);

    r->write_waiter.answer = write_answer;
    if (!k)
        k = named(r, &e);
    if (!k)
        k = ldr_upload_delete(r->domain, r->msg->op_id, r->deadline_ns, r->name, &r->write_waiter, &e);
    wait_for_write(r, k, &e);
}

void ldr_serve_copy(struct ldr_request *r)
{
    struct ldr_name *from = NULL;
    struct larder_err e;
    enum larder_kind k = ldr_route(r->domain->routes, r->msg->copy->to, &r->name, &e);

    if (!k)
        k = ldr_route(r->domain->routes, r->msg->copy->from, &from, &e);
    r->write_waiter.answer = write_answer;
    if (!k)
        k = named(r, &e);
    if (!k)
        k = ldr_upload_copy(r->domain, r->msg->op_id, r->deadline_ns, from, r->name, &r->write_waiter, &e);
    ldr_name_unref(&from);
    wait_for_write(r, k, &e);
}

/* ---------- bodies in parts ---------- */

static void part_answer(struct ldr_part *part, enum larder_kind k, const struct larder_err *err)
{
    struct ldr_request *r = LDR_CONTAINER(part, struct ldr_request, part);

    if (k)
        ldr_ipc_reply_fail(r, k, err);
    else
        ldr_reply_done(r);
}

/* Not among those that wait: it is answered soon, whoever still listens. */
void ldr_serve_part(struct ldr_request *r)
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

void ldr_serve_abort(struct ldr_request *r)
{
    ldr_upload_abort(r->domain, r->msg->abort->upload_id);
    ldr_reply_done(r);
}

/* ---------- uploads by blocks ---------- */

static void reply_staging(struct ldr_request *r, const struct ldr_staging *s)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Staging st = LARDER__WIRE__STAGING__INIT;

    ldr_reply_stamp(r->domain, &m, 0, NULL);
    st.block = s->block;
    st.name = (char *)s->name;
    st.size = s->size;
    m.body_case = LARDER__WIRE__REPLY__BODY_STAGING;
    m.staging = &st;
    ldr_ipc_reply(r, &m);
}

static void stage_answer(struct ldr_stage_waiter *w, enum larder_kind k, const struct larder_err *err,
                         const struct ldr_staging *s)
{
    struct ldr_request *r = LDR_CONTAINER(w, struct ldr_request, stage_waiter);

    if (k)
        ldr_ipc_reply_fail(r, k, err);
    else if (s && r->msg->body_case == LARDER__WIRE__REQUEST__BODY_UPLOAD_BLOCK)
        reply_staging(r, s);
    else
        ldr_reply_done(r);
}

/* The upload's writer is there; and the request has a name, should it have to wait. */
static void heard(struct ldr_request *r, uint64_t upload_id)
{
    struct ldr_name *name = ldr_stage_heard(r->domain, upload_id, ldr_ipc_connection(r));

    if (name && !r->name)
        r->name = ldr_name_ref(name);
}

void ldr_serve_upload_open(struct ldr_request *r)
{
    const Larder__Wire__UploadOpen *p = r->msg->upload_open;
    struct ldr_staging s = { .name = "" };
    struct larder_err e;
    enum larder_kind k = ldr_route(r->domain->routes, p->key, &r->name, &e);
    struct ldr_stage_args a = { .upload_id = p->upload_id,
                                .name = r->name,
                                .fields = p->fields.data,
                                .fields_len = p->fields.len,
                                .create_only = p->create_only,
                                .if_match = p->if_match,
                                .size = p->size,
                                .size_known = p->size_known };

    if (!k)
        k = ldr_stage_open(r->domain, &a, &s.size, &e);
    if (k) {
        ldr_ipc_reply_fail(r, k, &e);
        return;
    }
    heard(r, p->upload_id);
    reply_staging(r, &s);
}

void ldr_serve_upload_block(struct ldr_request *r)
{
    const Larder__Wire__UploadBlock *p = r->msg->upload_block;
    struct larder_err e;
    enum larder_kind k;

    heard(r, p->upload_id);
    r->stage_waiter = (struct ldr_stage_waiter){ .answer = stage_answer };
    k = ldr_stage_block(r->domain, p->upload_id, p->block, &r->stage_waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
    else if (r->stage_waiter.piece)
        ldr_ipc_wait(r);
}

/* Not among those that wait, as its bytes are borrowed until it is answered; nor is a seal, which is answered soon. */
void ldr_serve_upload_data(struct ldr_request *r)
{
    const Larder__Wire__UploadData *p = r->msg->upload_data;
    struct larder_err e;
    enum larder_kind k;

    heard(r, p->upload_id);
    r->stage_waiter = (struct ldr_stage_waiter){
        .answer = stage_answer, .offset = p->offset, .data = p->data.data, .len = p->data.len
    };
    k = ldr_stage_data(r->domain, p->upload_id, p->block, &r->stage_waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
}

void ldr_serve_upload_seal(struct ldr_request *r)
{
    const Larder__Wire__UploadSeal *p = r->msg->upload_seal;
    struct larder_err e;
    enum larder_kind k;

    heard(r, p->upload_id);
    r->stage_waiter = (struct ldr_stage_waiter){ .answer = stage_answer };
    k = ldr_stage_seal(r->domain, p->upload_id, p->block, p->length, &r->stage_waiter, &e);
    if (k)
        ldr_ipc_reply_fail(r, k, &e);
}

void ldr_serve_upload_commit(struct ldr_request *r)
{
    const Larder__Wire__UploadCommit *p = r->msg->upload_commit;
    struct larder_err e;
    enum larder_kind k = named(r, &e);

    heard(r, p->upload_id);
    r->write_waiter.answer = write_answer;
    if (!k)
        k = ldr_stage_commit(r->domain, r->msg->op_id, r->deadline_ns, p->upload_id, p->size, &r->write_waiter, &e);
    wait_for_write(r, k, &e);
}

/* ---------- many deletes ---------- */

struct deleted {
    struct ldr_write_waiter waiter;
    struct ldr_deletes *all;
    enum larder_kind kind;
    struct larder_err err;
};

struct ldr_deletes {
    struct ldr_request *request;
    size_t n, left; /* left: not answered yet; and one for who is asking still */
    struct deleted item[];
};

void ldr_serve_leave_deletes(struct ldr_request *r)
{
    struct ldr_deletes *a = r->deletes;

    r->deletes = NULL;
    for (size_t i = 0; a && i < a->n; i++)
        ldr_upload_leave(&a->item[i].waiter);
    free(a);
}

static void reply_deletes(struct ldr_request *r)
{
    struct ldr_deletes *a = r->deletes;
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Many many = LARDER__WIRE__MANY__INIT;
    Larder__Wire__ManyItem items[LDR_WIRE_MANY], *ptrs[LDR_WIRE_MANY];
    Larder__Wire__Status statuses[LDR_WIRE_MANY];

    for (size_t i = 0; i < a->n; i++) {
        larder__wire__many_item__init(&items[i]);
        larder__wire__status__init(&statuses[i]);
        statuses[i].kind = (uint32_t)a->item[i].kind;
        statuses[i].sys = a->item[i].err.sys;
        statuses[i].http = a->item[i].err.http;
        statuses[i].message = a->item[i].err.msg;
        items[i].status = a->item[i].kind ? &statuses[i] : NULL;
        ptrs[i] = &items[i];
    }
    many.n_item = a->n;
    many.item = ptrs;
    ldr_reply_stamp(r->domain, &m, 0, NULL);
    m.body_case = LARDER__WIRE__REPLY__BODY_MANY;
    m.many = &many;
    r->deletes = NULL;
    ldr_ipc_reply(r, &m);
    free(a);
}

static void deleted_answer(struct ldr_write_waiter *w, const struct ldr_write_result *res)
{
    struct deleted *one = LDR_CONTAINER(w, struct deleted, waiter);

    one->kind = res->kind;
    one->err = res->kind ? *res->err : (struct larder_err){ 0 };
    if (--one->all->left == 0)
        reply_deletes(one->all->request);
}

void ldr_serve_delete_many(struct ldr_request *r)
{
    const Larder__Wire__DeleteMany *p = r->msg->delete_many;
    struct ldr_name *names[LDR_WIRE_MANY];
    struct ldr_write_waiter *waiters[LDR_WIRE_MANY];
    struct ldr_deletes *a = calloc(1, sizeof *a + p->n_key * sizeof a->item[0]);
    size_t n = 0;
    struct larder_err e;
    enum larder_kind k = a ? named(r, &e) : ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");

    if (k) {
        free(a);
        ldr_ipc_reply_fail(r, k, &e);
        return;
    }
    r->deletes = a;
    a->request = r;
    a->n = p->n_key;
    for (size_t i = 0; i < a->n; i++) {
        struct deleted *one = &a->item[i];

        one->all = a;
        one->waiter.answer = deleted_answer;
        one->kind = ldr_route(r->domain->routes, p->key[i], &names[n], &one->err);
        if (!one->kind)
            waiters[n++] = &one->waiter;
    }
    a->left = n + 1;
    k = ldr_upload_delete_many(r->domain, r->msg->op_id, r->deadline_ns, names, n, waiters, &e);
    for (size_t i = 0; i < n; i++)
        ldr_name_unref(&names[i]);
    if (k) {
        ldr_serve_leave_deletes(r);
        ldr_ipc_reply_fail(r, k, &e);
    } else if (--a->left == 0) {
        reply_deletes(r);
    } else {
        ldr_ipc_wait(r);
    }
}

/* ---------- signed URLs ---------- */

struct ldr_sign_job {
    struct ldr_request *request; /* NULL: it left */
    struct ldr_domain *domain;
    struct ldr_name *name;
    struct ldr_attempt attempt;
    struct ldr_task task;
    struct ldr_signing signing;
    char *content_md5, *content_type; /* owned */
};

#define SIGN_URL_MAX     (64 * LDR_KIB)
#define SIGN_HEADERS_MAX 64

static void job_free(struct ldr_sign_job *j)
{
    ldr_buf_release(&j->signing.url);
    ldr_buf_release(&j->signing.headers);
    ldr_meta_release(&j->attempt.op.meta);
    ldr_name_unref(&j->name);
    free(j->content_md5);
    free(j->content_type);
    free(j);
}

void ldr_serve_leave_sign(struct ldr_request *r)
{
    if (r->sign)
        r->sign->request = NULL;
    r->sign = NULL;
}

static void reply_signed(struct ldr_request *r, struct ldr_signing *s)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Signed out = LARDER__WIRE__SIGNED__INIT;
    char *headers[SIGN_HEADERS_MAX];
    char *text = (char *)ldr_buf_str(&s->headers), *end;

    for (; text && *text && out.n_header < SIGN_HEADERS_MAX; text = end + 1) {
        end = strchr(text, '\n');
        if (!end)
            break;
        *end = '\0';
        headers[out.n_header++] = text;
    }
    out.header = headers;
    out.url = (char *)ldr_buf_str(&s->url);
    out.expires = s->expires_s;
    ldr_reply_stamp(r->domain, &m, 0, NULL);
    m.body_case = LARDER__WIRE__REPLY__BODY_SIGNED;
    m.signed_ = &out;
    ldr_ipc_reply(r, &m);
}

static void signed_on_ipc(struct ldr_task *t)
{
    struct ldr_sign_job *j = LDR_CONTAINER(t, struct ldr_sign_job, task);
    struct ldr_request *r = j->request;

    j->domain->uploads->busy--;
    if (r) {
        r->sign = NULL;
        if (j->attempt.op.kind)
            ldr_ipc_reply_fail(r, j->attempt.op.kind, &j->attempt.op.err);
        else
            reply_signed(r, &j->signing);
    }
    job_free(j);
}

static void sign_done(struct ldr_attempt *a)
{
    struct ldr_sign_job *j = LDR_CONTAINER(a, struct ldr_sign_job, attempt);

    j->task.run = signed_on_ipc;
    ldr_mailbox_post(&j->domain->ipc_box, &j->task);
}

static bool copy_text(char **to, const char *from)
{
    *to = *from ? strdup(from) : NULL;
    return !*from || *to;
}

void ldr_serve_sign(struct ldr_request *r)
{
    const Larder__Wire__Sign *p = r->msg->sign;
    struct ldr_sign_job *j = NULL;
    struct larder_err e;
    enum larder_kind k = ldr_route(r->domain->routes, p->key, &r->name, &e);

    if (!k && !r->name->backend->ops->sign)
        k = ldr_fail(&e, LARDER_UNSUPPORTED, "store \"%s\" has no signed URLs", r->name->backend->ops->kind);
    if (!k && (!(j = calloc(1, sizeof *j)) || !copy_text(&j->content_md5, p->content_md5) ||
               !copy_text(&j->content_type, p->content_type)))
        k = ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");
    if (k) {
        if (j)
            job_free(j);
        ldr_ipc_reply_fail(r, k, &e);
        return;
    }
    j->request = r;
    j->domain = r->domain;
    j->name = ldr_name_ref(r->name);
    j->signing = (struct ldr_signing){ .put = p->put,
                                       .lifetime_s = (int64_t)p->lifetime_s,
                                       .content_md5 = j->content_md5,
                                       .content_type = j->content_type,
                                       .md5_in_metadata = p->md5_in_metadata,
                                       .url = LDR_BUF_INIT(SIGN_URL_MAX),
                                       .headers = LDR_BUF_INIT(SIGN_URL_MAX) };
    ldr_op_about(&j->attempt.op, j->name, LDR_OP_SIGN, r->deadline_ns);
    j->attempt.op.sign = &j->signing;
    j->attempt.counters = &r->domain->counters;
    j->attempt.done = sign_done;
    r->domain->uploads->busy++; /* it comes back, whoever still listens */
    r->sign = j;
    ldr_ipc_wait(r);
    ldr_attempt_start(&j->attempt);
}
