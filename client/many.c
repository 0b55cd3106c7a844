/* many.c - larder_get_many(): what the cache has, at once; the rest is asked for by up to 256 keys a request, so that the
 * agent fetches them side by side, and then read from the cache. Any thread. */
#include "client/batch.h"
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

/* A result that is still to be found: no failure, no object. */
static bool is_open(const struct larder_result *r)
{
    return r->kind == LARDER_OK && !r->object;
}

/* What became of one object: the agent's word, as a failure or as the record to look at. */
static void take_item(struct larder *l, const char *uri, const Larder__Wire__ManyItem *item, struct larder_result *out)
{
    ldr_wire_reply as_reply = LARDER__WIRE__REPLY__INIT;
    struct ldr_id id;
    enum ldr_hit hit;

    as_reply.status = item->status;
    out->kind = ldr_wire_status(&as_reply, &out->err);
    if (out->kind || item->object_id.len != sizeof id.b)
        return;
    memcpy(id.b, item->object_id.data, sizeof id.b);
    out->kind = ldr_get_cached(l, uri, &id, &hit, &out->object, &out->err);
}

/* Ask for all of them at once. What then still is open (too large for the cache, or gone from it again) is got singly. */
static void batch_get(struct larder *l, struct ldr_batch *b, const char *const uris[], int64_t deadline_ns,
                      struct larder_result out[])
{
    Larder__Wire__GetMany many = LARDER__WIRE__GET_MANY__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    struct larder_err why = { 0 };
    ldr_wire_reply *reply = NULL;
    enum larder_kind k;

    req.body_case = LARDER__WIRE__REQUEST__BODY_GET_MANY;
    req.get_many = &many;
    many.n_key = b->n;
    many.key = b->key;
    k = ldr_ask(l, &req, LDR_ASK_READ, deadline_ns, &reply, &why);
    if (!k && (reply->body_case != LARDER__WIRE__REPLY__BODY_MANY || reply->many->n_item != b->n))
        k = ldr_answer_unknown(&why);
    for (size_t i = 0; i < b->n; i++) {
        struct larder_result *r = &out[b->index[i]];

        if (!k)
            take_item(l, uris[b->index[i]], reply->many->item[i], r);
        else if (k != LARDER_UNSUPPORTED) { /* which an agent of an older release says */
            r->kind = k;
            r->err = why;
        }
    }
    if (reply)
        larder__wire__reply__free_unpacked(reply, NULL);
    for (size_t i = 0; i < b->n; i++) {
        struct larder_result *r = &out[b->index[i]];

        if (is_open(r))
            r->kind = ldr_get_by(l, uris[b->index[i]], deadline_ns, &r->object, &r->err);
    }
    ldr_batch_clear(b);
}

/* All that the cache did not have. */
static enum larder_kind get_open(struct larder *l, const char *const uris[], size_t n, int64_t deadline_ns,
                                 struct larder_result out[], struct larder_err *err)
{
    struct ldr_batch *b = ldr_batch_new();
    char text[LDR_URI_MAX + 1];

    if (!b)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a request");
    for (size_t i = 0; i < n; i++) {
        if (!is_open(&out[i]) || ldr_canonical(uris[i], text, NULL))
            continue;
        if (!ldr_batch_add(b, i, text)) {
            batch_get(l, b, uris, deadline_ns, out);
            ldr_batch_add(b, i, text);
        }
    }
    if (b->n)
        batch_get(l, b, uris, deadline_ns, out);
    free(b);
    return LARDER_OK;
}

enum larder_kind larder_get_many(struct larder *l, const char *const uris[], size_t n, int timeout_ms,
                                 struct larder_result out[], struct larder_err *err)
{
    struct larder_err why = { 0 };
    size_t open = 0;
    enum larder_kind k = LARDER_OK;

    for (size_t i = 0; i < n; i++) {
        enum ldr_hit hit;

        out[i] = (struct larder_result){ 0 };
        out[i].kind = ldr_get_cached(l, uris[i], NULL, &hit, &out[i].object, &out[i].err);
        open += is_open(&out[i]);
    }
    if (open)
        k = get_open(l, uris, n, ldr_call_deadline(timeout_ms), out, &why);
    for (size_t i = 0; i < n && k; i++)
        if (is_open(&out[i])) {
            out[i].kind = k;
            out[i].err = why;
        }
    for (size_t i = 0; i < n; i++)
        if (out[i].kind) {
            if (err)
                *err = out[i].err;
            return out[i].kind;
        }
    return LARDER_OK;
}
