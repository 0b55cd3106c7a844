/* delete_many.c - larder_delete_many(): up to 256 keys a request, so that the agent can tell the store in few. Any
 * thread. */
#include "client/batch.h"
#include "client/client.h"

#include <stdlib.h>

/* What became of one object; one that was not there is deleted already. */
static void take_item(const Larder__Wire__ManyItem *item, struct larder_result *out)
{
    ldr_wire_reply as_reply = LARDER__WIRE__REPLY__INIT;

    as_reply.status = item->status;
    out->kind = ldr_wire_status(&as_reply, &out->err);
    if (out->kind == LARDER_NOT_FOUND)
        *out = (struct larder_result){ 0 };
}

static void batch_delete(struct larder *l, struct ldr_batch *b, int64_t deadline_ns, struct larder_result out[])
{
    Larder__Wire__DeleteMany many = LARDER__WIRE__DELETE_MANY__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    struct larder_err why = { 0 };
    ldr_wire_reply *reply = NULL;
    enum larder_kind k;

    req.body_case = LARDER__WIRE__REQUEST__BODY_DELETE_MANY;
    req.delete_many = &many;
    many.n_key = b->n;
    many.key = b->key;
    k = ldr_ask(l, &req, LDR_ASK_WRITE, deadline_ns, &reply, &why);
    if (!k && (reply->body_case != LARDER__WIRE__REPLY__BODY_MANY || reply->many->n_item != b->n))
        k = ldr_fail(&why, LARDER_OUTCOME_UNKNOWN, "the agent's answer does not say what was deleted");
    for (size_t i = 0; i < b->n; i++) {
        struct larder_result *r = &out[b->index[i]];

        if (!k) {
            take_item(reply->many->item[i], r);
        } else {
            r->kind = k;
            r->err = why;
        }
    }
    if (reply)
        larder__wire__reply__free_unpacked(reply, NULL);
    ldr_batch_clear(b);
}

enum larder_kind larder_delete_many(struct larder *l, const char *const uris[], size_t n, int timeout_ms,
                                    struct larder_result out[], struct larder_err *err)
{
    struct ldr_batch *b = ldr_batch_new();
    int64_t deadline_ns = ldr_call_deadline(timeout_ms);
    char text[LDR_URI_MAX + 1];

    for (size_t i = 0; i < n; i++) {
        out[i] = (struct larder_result){ 0 };
        out[i].kind = b ? ldr_canonical(uris[i], text, &out[i].err)
                        : ldr_fail(&out[i].err, LARDER_NO_MEMORY, "out of memory for a request");
        if (out[i].kind)
            continue;
        if (!ldr_batch_add(b, i, text)) {
            batch_delete(l, b, deadline_ns, out);
            ldr_batch_add(b, i, text);
        }
    }
    if (b && b->n)
        batch_delete(l, b, deadline_ns, out);
    free(b);
    for (size_t i = 0; i < n; i++)
        if (out[i].kind) {
            if (err)
                *err = out[i].err;
            return out[i].kind;
        }
    return LARDER_OK;
}
