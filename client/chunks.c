/* chunks.c - step 2 of a get: what is asked of the agent, and a range that it answers with bytes, since they cannot be
 * read from the cache. At most 256 KiB a reply; all of one version, or an error. Any thread. */
#include "client/call.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RESTARTS 3 /* of a read in chunks whose object changed */

/* ---- the request ---- */

static Larder__Wire__Reason reason_of(enum ldr_hit hit)
{
    switch (hit) {
    case LDR_STALE:
        return LARDER__WIRE__REASON__STALE;
    case LDR_BLOCK_GONE:
        return LARDER__WIRE__REASON__BLOCK_GONE;
    case LDR_DAMAGED:
        return LARDER__WIRE__REASON__DAMAGED;
    case LDR_TORN:
        return LARDER__WIRE__REASON__TORN;
    case LDR_GEN_GONE:
    case LDR_NO_CACHE:
        return LARDER__WIRE__REASON__NO_CACHE;
    default:
        return LARDER__WIRE__REASON__MISS;
    }
}

enum larder_kind ldr_call_ask(struct ldr_call *c, enum ldr_hit hit, bool want_bytes, uint64_t at, ldr_wire_reply **out,
                              struct larder_err *err)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    uint64_t behind = c->sized ? c->total - c->end : UINT64_MAX;

    if (!c->asked)
        c->deadline_ns = ldr_call_deadline(c->timeout_ms);
    if (c->deadline_ns == LDR_NO_WAIT)
        return ldr_fail(err, LARDER_TIMEOUT, "\"%.*s\" is not in the cache, and the call may not wait",
                        ldr_call_shown(c), c->text);
    c->asked = true;
    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = c->text;
    get.reason = reason_of(hit);
    get.want_bytes = want_bytes;
    get.offset = at;
    /* The caller's own words, until the object may not change any more: "to the end" is not bound by what the record
     * said that could not be used. */
    get.length = c->sized && (at > c->offset || c->mode == LDR_CALL_STREAM) ? c->end - at : c->length;
    get.ahead = c->ahead < behind ? c->ahead : behind;
    if (c->has_seen) {
        get.seen_id.data = c->seen.b;
        get.seen_id.len = sizeof c->seen.b;
    }
    if (want_bytes && c->version.known) {
        get.validator.data = c->version.validator.p;
        get.validator.len = c->version.validator.len;
    }
    c->ahead_end = at + get.length + get.ahead;
    return ldr_ask(c->l, &req, LDR_ASK_READ, c->deadline_ns, out, err);
}

void ldr_call_hint(struct ldr_call *c)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    ldr_wire_reply *reply;

    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = c->text;
    get.hint = true;
    get.offset = c->ahead_end;
    get.length = LDR_STREAM_AHEAD / 2;
    c->ahead_end += LDR_STREAM_AHEAD / 2;
    if (!ldr_ask(c->l, &req, LDR_ASK_READ, c->deadline_ns, &reply, NULL)) /* if it fails, the next miss tells */
        larder__wire__reply__free_unpacked(reply, NULL);
}

/* ---- versions ---- */

static enum larder_kind changed(const struct ldr_call *c, struct larder_err *err)
{
    return ldr_fail(err, LARDER_PRECONDITION, "\"%.*s\" changed while it was read", ldr_call_shown(c), c->text);
}

void ldr_version_forget(struct ldr_version *v)
{
    if (!v->known)
        return;
    v->known = false;
    ldr_buf_release(&v->fields);
    ldr_buf_release(&v->validator);
}

/* Of one that is not known. False: out of memory. */
static bool version_learn(struct ldr_version *v, uint64_t size, int64_t last_modified_s, const uint8_t *fields,
                          size_t len)
{
    struct ldr_field f;

    *v = (struct ldr_version){ .known = true,
                               .size = size,
                               .last_modified_s = last_modified_s,
                               .fields = LDR_BUF_INIT(LDR_META_MAX),
                               .validator = LDR_BUF_INIT(LDR_META_MAX) };
    return ldr_buf_add(&v->fields, fields, len) &&
           (!ldr_fields_find(fields, len, LDR_TAG_VALIDATOR, &f) || ldr_buf_add(&v->validator, f.p, f.len));
}

static bool validator_is(const struct ldr_version *v, const uint8_t *fields, size_t len)
{
    struct ldr_field f;

    return ldr_fields_find(fields, len, LDR_TAG_VALIDATOR, &f) && f.len == v->validator.len &&
           !memcmp(f.p, v->validator.p, f.len);
}

static bool is_strong(const struct ldr_version *v)
{
    return ldr_validator_strong(v->validator.p, v->validator.len);
}

static int64_t last_modified_of(const Larder__Wire__Meta *m)
{
    return m->last_modified_known ? m->last_modified : LDR_TIME_UNKNOWN;
}

/* Is a later chunk of the same version? A store without validators leaves only its other words to compare, and those
 * of a record (which may be older words) are not enough. */
static bool chunk_is_same(const struct ldr_version *v, const Larder__Wire__Meta *m)
{
    if (m->size != v->size || (v->has_id && !is_strong(v)))
        return false;
    if (v->validator.len)
        return validator_is(v, m->fields.data, m->fields.len);
    return last_modified_of(m) == v->last_modified_s && m->fields.len == v->fields.len &&
           (m->fields.len == 0 || !memcmp(m->fields.data, v->fields.p, m->fields.len));
}

enum larder_kind ldr_call_same_version(struct ldr_call *c, struct larder_err *err)
{
    struct ldr_version *v = &c->version;
    const struct ldr_record *r = &c->r;

    if (!v->known) {
        if (!version_learn(v, r->size_bytes, r->last_modified_s, r->fields, r->fields_len))
            return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for metadata");
    } else if (!(v->has_id && !memcmp(v->id.b, r->id.b, sizeof r->id.b)) &&
               /* fetched anew since, or begun in chunks */
               !(v->size == r->size_bytes && is_strong(v) && validator_is(v, r->fields, r->fields_len))) {
        return changed(c, err);
    }
    v->has_id = c->has_accept = true;
    v->id = c->accept = r->id; /* what was fresh when the stream began is so to its end */
    return LARDER_OK;
}

/* ---- the bytes ---- */

/* What the object is, is known now: is there a place for the range? */
static enum larder_kind begin(struct ldr_call *c, const char *why, struct larder_err *err)
{
    uint64_t n;
    char part[64] = "";

    ldr_call_size(c, c->version.size);
    n = c->end - c->begin;
    if (c->mode != LDR_CALL_VIEW)
        return LARDER_OK;
    if (n < c->total)
        snprintf(part, sizeof part, "%" PRIu64 " of ", n);
    if (n > LDR_COPY_MAX)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED,
                        "no view of \"%.*s\": %sits %" PRIu64 " bytes are more than the %" PRIu64
                        " of an object that is not read from the cache (%.200s)",
                        ldr_call_shown(c), c->text, part, c->total, (uint64_t)LDR_COPY_MAX,
                        why[0] ? why : "this process cannot map it");
    if (!ldr_call_room(c, NULL))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for %" PRIu64 " bytes of \"%.*s\"", n, ldr_call_shown(c),
                        c->text);
    return LARDER_OK;
}

/* Does the chunk begin where it should? Of a range behind the end there is nothing: that may begin at the end, too. */
static bool begins_at(const Larder__Wire__Bytes *b, uint64_t at)
{
    return b->offset == at || (b->meta && b->meta->size < at && b->offset == b->meta->size);
}

/* Take one chunk, which must begin at *at. */
static enum larder_kind chunk(struct ldr_call *c, const ldr_wire_reply *reply, uint64_t *at, struct larder_err *err)
{
    const Larder__Wire__Bytes *b = reply->body_case == LARDER__WIRE__REPLY__BODY_BYTES ? reply->bytes : NULL;
    const Larder__Wire__Meta *m = b ? b->meta : NULL;
    struct ldr_version *v = &c->version;
    enum larder_kind k = LARDER_OK;
    uint64_t n, left;

    if (!b || !begins_at(b, *at) || (!m && (!v->known || !v->validator.len)) ||
        (m && (m->size > LDR_OBJECT_SIZE_MAX || !ldr_fields_valid(m->fields.data, m->fields.len))))
        return ldr_answer_unknown(err);
    if (v->known && m && !chunk_is_same(v, m))
        return changed(c, err);
    if (!v->known && !version_learn(v, m->size, last_modified_of(m), m->fields.data, m->fields.len))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for metadata");
    if (*at == c->offset)
        k = begin(c, b->why, err);
    if (k || ldr_call_too_large(c))
        return k;
    n = b->data.len;
    left = *at < c->end ? c->end - *at : 0;
    if (n > (*at < c->total ? c->total - *at : 0) || (n == 0 && left > 0))
        return ldr_answer_unknown(err);
    n = n < left ? n : left;
    k = ldr_call_piece(c, b->data.data, n, *at, err);
    *at += n;
    return k;
}

/* *first, if there is one, is the first chunk. It is taken. */
static enum larder_kind read_chunks(struct ldr_call *c, enum ldr_hit hit, ldr_wire_reply **first,
                                    struct larder_err *err)
{
    ldr_wire_reply *reply = *first;
    uint64_t at = c->offset;
    enum larder_kind k = LARDER_OK;

    *first = NULL;
    do {
        if (!reply)
            k = ldr_call_ask(c, hit, true, at, &reply, err);
        if (!k)
            k = chunk(c, reply, &at, err);
        if (reply)
            larder__wire__reply__free_unpacked(reply, NULL);
        reply = NULL;
    } while (!k && at < c->end && !ldr_call_too_large(c));
    return k;
}

enum larder_kind ldr_call_chunks(struct ldr_call *c, enum ldr_hit hit, ldr_wire_reply *first, struct larder_err *err)
{
    enum larder_kind k = read_chunks(c, hit, &first, err);

    for (int i = 0; i < RESTARTS && k == LARDER_PRECONDITION && !c->delivered; i++) {
        ldr_version_forget(&c->version);
        k = read_chunks(c, hit, &first, err);
    }
    return k;
}
