/* get.c - step 1 of a get: reference -> index -> bytes. A warm hit ends in look(), with no IPC. After a miss the agent
 * is asked (step 2), and answers either which record to look at now (step 11: look again), or with the bytes (chunks.c).
 * Here, and only here, the cache's answers (enum ldr_hit) become kinds. Any thread. */
#include "client/call.h"

#include <inttypes.h>
#include <string.h>

#define LOOKS   3 /* answers of "look again" that a call follows; then it asks for the bytes */
#define REOPENS 3 /* generations that one look may find retired */

/* ---- the cache ---- */

static bool is_fresh(const struct ldr_call *c, const struct ldr_record *r, uint32_t boot)
{
    if (c->has_accept && !memcmp(r->id.b, c->accept.b, sizeof r->id.b))
        return true;
    /* The clock is read only where it decides. */
    return r->fresh_until_ns == LDR_FRESH_ALWAYS || (r->boot == boot && ldr_record_fresh(r, boot, ldr_boot_ns()));
}

/* A long text has a shortened key; then the record must say that it is of this text. */
static bool is_ours(const struct ldr_call *c, const struct ldr_record *r)
{
    struct ldr_field f;

    if (c->text_len <= LDR_INDEX_KEY_MAX)
        return true;
    return ldr_fields_find(r->fields, r->fields_len, LDR_TAG_KEY, &f) && f.len == c->text_len &&
           !memcmp(f.p, c->text, f.len);
}

static bool into_buffer(const struct ldr_call *c)
{
    return c->mode == LDR_CALL_INTO || c->mode == LDR_CALL_READ;
}

/* A stream goes block by block: so much is mapped, and so much can be missing, at a time. */
static void end_window(struct ldr_call *c)
{
    uint64_t block_end = ((c->begin >> c->r.block_log2) + 1) << c->r.block_log2;

    if (c->end > block_end)
        c->end = block_end;
    c->length = c->end - c->begin;
}

/* Read the record at `p` (in the map) into c->r and, of a small object, the bytes. The head is judged in a copy: the map
 * changes. */
static enum ldr_hit read_record(struct ldr_call *c, const struct ldr_hdr *hdr, const uint8_t *p, size_t len)
{
    struct ldr_record *r = &c->r;
    size_t head_len;

    if (len < LDR_RECORD_FIXED || len > LDR_RECORD_MAX)
        return LDR_DAMAGED;
    memcpy(c->head, p, LDR_RECORD_FIXED);
    head_len = ldr_record_head_len(c->head, len);
    if (head_len == 0)
        return LDR_DAMAGED;
    memcpy(c->head + LDR_RECORD_FIXED, p + LDR_RECORD_FIXED, head_len - LDR_RECORD_FIXED);
    if (!ldr_record_unpack(c->head, len, c->key, c->key_len, r))
        return LDR_DAMAGED;
    if (!is_ours(c, r))
        return LDR_MISS;
    if (!is_fresh(c, r, hdr->boot))
        return LDR_STALE;
    ldr_call_size(c, r->size_bytes);
    if (c->mode == LDR_CALL_META || ldr_call_too_large(c))
        return LDR_HIT;
    if (!(r->flags & LDR_FLAG_INLINE)) {
        if (c->mode == LDR_CALL_STREAM)
            end_window(c);
        return LDR_HIT;
    }
    if (!into_buffer(c) && !ldr_call_room(c, &r->id))
        return LDR_NO_MEMORY;
    if (c->end > c->begin)
        memcpy(into_buffer(c) ? c->buf : c->data, p + head_len + c->begin, c->end - c->begin);
    return LDR_HIT;
}

/* What is not in the record itself: block files; or the record as metadata. */
static enum ldr_hit use_record(struct ldr_call *c, const struct ldr_gen *g, struct ldr_view_how *how)
{
    const struct ldr_record *r = &c->r;
    struct ldr_want want = { .offset = c->begin, .length = c->end - c->begin, .asked = c->asked };

    if (c->mode == LDR_CALL_META) {
        if (r->flags & LDR_FLAG_LM_UNKNOWN)
            return LDR_MISS;
        c->meta->size_bytes = r->size_bytes;
        c->meta->last_modified_s = r->last_modified_s;
        return ldr_buf_add(&c->meta->fields, r->fields, r->fields_len) ? LDR_HIT : LDR_NO_MEMORY;
    }
    if (r->flags & LDR_FLAG_INLINE || ldr_call_too_large(c))
        return LDR_HIT;
    if (into_buffer(c))
        return ldr_views_read(c->l->views, g->dirfd, r, &want, c->buf, how);
    ldr_call_drop(c);
    if (c->to_file && c->end > c->begin)
        return ldr_view_open(g->dirfd, r, (uint32_t)(c->begin >> r->block_log2), &c->block_fd, how);
    want.keep = c->mode == LDR_CALL_VIEW || ldr_record_blocks(r) == 1; /* who streams does not come back soon */
    return ldr_views_get(c->l->views, g->dirfd, r, &want, how, &c->object);
}

/* One attempt at one snapshot. False: it was void, and counts for nothing. */
static bool look_once(struct ldr_call *c, struct ldr_gen *g, int *tries, enum ldr_hit *hit, struct ldr_view_how *how)
{
    const struct ldr_hdr *hdr = g->index.hdr;
    struct ldr_snap snap;
    const uint8_t *p;
    size_t len;

    *how = (struct ldr_view_how){ 0 };
    *hit = ldr_snap_begin(&g->index, tries, &snap);
    if (*hit != LDR_HIT)
        return true;
    *hit = ldr_snap_find(&snap, c->key, c->key_len, &p, &len);
    if (*hit == LDR_HIT)
        *hit = read_record(c, hdr, p, len);
    if (!ldr_snap_valid(&snap)) {
        --*tries;
        return false;
    }
    ldr_views_pressure(c->l->views, atomic_load_explicit(&hdr->pressure, memory_order_relaxed));
    if (*hit == LDR_HIT)
        *hit = use_record(c, g, how);
    if (*hit == LDR_BLOCK_GONE && atomic_load_explicit(&hdr->cur, memory_order_relaxed) != snap.id) {
        --*tries; /* replaced or evicted since: the newest snapshot tells */
        return false;
    }
    if (*hit == LDR_STALE || *hit == LDR_BLOCK_GONE) {
        c->has_seen = true;
        c->seen = c->r.id;
    }
    return true;
}

/* Tell the agent, by the touch page, of bytes that the cache gave without it. What was fetched for this very call says
 * nothing of a second reader. */
static void touch(struct ldr_call *c)
{
    const struct ldr_touch *t = &c->gen->touch;
    uint32_t first = 0, n = 1;

    if (!t->map || c->asked || c->mode == LDR_CALL_META || ldr_call_too_large(c))
        return;
    if (!(c->r.flags & LDR_FLAG_INLINE) && c->end > c->begin) {
        first = (uint32_t)(c->begin >> c->r.block_log2);
        n = (uint32_t)((c->end - 1) >> c->r.block_log2) - first + 1;
    }
    ldr_touch_visit(t, &c->r.id, first, n);
    c->touch = t;
    c->prefix = c->r.prefix;
    c->served += c->end - c->begin;
}

static enum ldr_hit look(struct ldr_call *c)
{
    struct larder *l = c->l;
    int tries = LDR_WALK_TRIES, reopens = REOPENS;
    enum ldr_hit hit = LDR_TORN;
    struct ldr_view_how how = { 0 };

    c->has_seen = c->sized = false;
    while (tries > 0) {
        struct ldr_gen *g = atomic_load_explicit(&l->gen, memory_order_acquire);

        if (!g) {
            ldr_client_reopen(l, NULL, 0);
            g = atomic_load_explicit(&l->gen, memory_order_acquire);
        }
        hit = LDR_NO_CACHE;
        c->gen = g;
        if (!g)
            break;
        if (!look_once(c, g, &tries, &hit, &how)) {
            hit = LDR_TORN;
            continue;
        }
        if (hit == LDR_GEN_GONE && reopens-- > 0) {
            ldr_client_reopen(l, g, 0);
            continue;
        }
        if (hit == LDR_TORN && tries > 0) {
            if (ldr_client_grow(l, g))
                continue;
            if (g->partial)
                hit = LDR_NO_CACHE; /* beyond what could be mapped: no damage */
            else
                ldr_count(l, LDR_COUNT_TORN);
        }
        break;
    }
    for (int i = tries; i < LDR_WALK_TRIES; i++)
        ldr_count(l, LDR_COUNT_RETRIES);
    if (hit == LDR_HIT) {
        c->hit = true;
        touch(c);
    }
    if (hit == LDR_HIT && how.kept)
        ldr_count(l, LDR_COUNT_KEPT);
    if (hit == LDR_DAMAGED || how.damaged)
        ldr_count(l, LDR_COUNT_DAMAGED);
    return hit;
}

/* ---- a get ---- */

/* Had the look no cache, and did the reply lead to one? */
static bool found_cache(const struct ldr_call *c, enum ldr_hit hit)
{
    const struct ldr_gen *g = atomic_load(&c->l->gen);

    return (hit == LDR_NO_CACHE || hit == LDR_GEN_GONE) && g && g != c->gen;
}

/* Does a reply with bytes carry all that is wanted? */
static bool holds_all(const struct ldr_call *c, const ldr_wire_reply *reply)
{
    const Larder__Wire__Bytes *b = reply->body_case == LARDER__WIRE__REPLY__BODY_BYTES ? reply->bytes : NULL;
    uint64_t left;

    if (!b || !b->meta)
        return false;
    left = b->meta->size > c->offset ? b->meta->size - c->offset : 0;
    return b->data.len >= (c->length && c->length < left ? c->length : left);
}

/* Look; else ask and look again, or take the bytes. On success the outputs of the mode are there. *in_cache: a hit. */
static enum larder_kind get(struct ldr_call *c, bool *in_cache, struct larder_err *err)
{
    enum ldr_hit hit = look(c);

    *in_cache = true;
    for (int looks = 0; hit != LDR_HIT; looks++) {
        bool want_bytes = looks >= LOOKS || hit == LDR_NO_CACHE, again;
        ldr_wire_reply *reply;
        enum larder_kind k;

        if (hit == LDR_NO_MEMORY)
            return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for \"%.*s\"", ldr_call_shown(c), c->text);
        k = ldr_call_ask(c, hit, want_bytes, c->offset, &reply, err);
        if (k)
            return k;
        again = (reply->body_case == LARDER__WIRE__REPLY__BODY_LOOK && !want_bytes) ||
                (looks < LOOKS && found_cache(c, hit) && !holds_all(c, reply));
        if (!again) {
            *in_cache = false;
            return ldr_call_chunks(c, hit, reply, err);
        }
        c->has_accept = reply->object_id.len == sizeof c->accept.b;
        if (c->has_accept)
            memcpy(c->accept.b, reply->object_id.data, sizeof c->accept.b);
        larder__wire__reply__free_unpacked(reply, NULL);
        hit = look(c);
    }
    return LARDER_OK;
}

static enum larder_kind get_view(struct ldr_call *c, struct larder_object **out, struct larder_err *err)
{
    bool in_cache;
    enum larder_kind k = get(c, &in_cache, err);

    if (!k) {
        *out = c->object;
        c->object = NULL;
    }
    ldr_call_done(c);
    return k;
}

enum larder_kind larder_get(struct larder *l, const char *uri, int timeout_ms, struct larder_object **out,
                            struct larder_err *err)
{
    return larder_get_range(l, uri, 0, 0, timeout_ms, out, err);
}

/* No object reaches beyond that. */
static uint64_t clamp(uint64_t n)
{
    return n < LDR_OBJECT_SIZE_MAX ? n : LDR_OBJECT_SIZE_MAX;
}

enum larder_kind larder_get_range(struct larder *l, const char *uri, uint64_t offset, uint64_t length, int timeout_ms,
                                  struct larder_object **out, struct larder_err *err)
{
    struct ldr_call c;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_VIEW, timeout_ms, err);

    if (k)
        return k;
    c.offset = clamp(offset);
    c.length = clamp(length);
    return get_view(&c, out, err);
}

enum larder_kind ldr_get_cached(struct larder *l, const char *uri, const struct ldr_id *accept, enum ldr_hit *hit,
                                struct larder_object **out, struct larder_err *err)
{
    struct ldr_call c;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_VIEW, 0, err);

    if (k)
        return k;
    if (accept) {
        c.asked = c.has_accept = true;
        c.accept = *accept;
    }
    *hit = look(&c);
    if (*hit == LDR_HIT) {
        *out = c.object;
        c.object = NULL;
    }
    ldr_call_done(&c);
    return LARDER_OK;
}

enum larder_kind ldr_get_by(struct larder *l, const char *uri, int64_t deadline_ns, struct larder_object **out,
                            struct larder_err *err)
{
    struct ldr_call c;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_VIEW, 0, err);

    if (k)
        return k;
    c.asked = true;
    c.deadline_ns = deadline_ns;
    return get_view(&c, out, err);
}

enum larder_kind larder_get_into(struct larder *l, const char *uri, void *buf, size_t cap, int timeout_ms,
                                 uint64_t *size, struct larder_err *err)
{
    struct ldr_call c;
    bool in_cache;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_INTO, timeout_ms, err);

    if (k)
        return k;
    c.buf = buf;
    c.cap = cap;
    k = get(&c, &in_cache, err);
    ldr_call_done(&c);
    if (k)
        return k;
    if (size)
        *size = c.total;
    if (c.total > cap)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "\"%.*s\" has %" PRIu64 " bytes, more than the %zu of the buffer",
                        ldr_call_shown(&c), c.text, c.total, cap);
    return LARDER_OK;
}

enum larder_kind larder_read(struct larder *l, const char *uri, uint64_t offset, void *buf, size_t len, int timeout_ms,
                             size_t *got, uint64_t *total, struct larder_err *err)
{
    struct ldr_call c;
    bool in_cache;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_READ, timeout_ms, err);

    if (k)
        return k;
    c.offset = clamp(offset);
    c.length = len ? clamp(len) : 1; /* 0 would be all; how large the object is, is an answer, too */
    c.buf = buf;
    c.cap = len;
    k = get(&c, &in_cache, err);
    ldr_call_done(&c);
    if (k)
        return k;
    *got = c.end - c.begin;
    if (total)
        *total = c.total;
    return LARDER_OK;
}

/* The window that was found, in pieces. */
static enum larder_kind deliver(struct ldr_call *c, struct larder_err *err)
{
    const uint8_t *p = larder_object_data(c->object);
    uint64_t at = c->begin;
    enum larder_kind k;

    do {
        size_t n = c->end - at < LDR_STREAM_PIECE ? c->end - at : LDR_STREAM_PIECE;

        k = ldr_call_piece(c, p + (at - c->begin), n, at, err);
        at += n;
    } while (!k && at < c->end);
    return k;
}

enum larder_kind ldr_call_stream(struct ldr_call *c, ldr_call_deliver_fn *deliver_window, struct larder_err *err)
{
    bool in_cache;
    enum larder_kind k;

    c->ahead = LDR_STREAM_AHEAD;
    do {
        c->offset = c->end; /* of the last window */
        c->length = LDR_STREAM_WINDOW;
        k = get(c, &in_cache, err);
        if (!k && in_cache)
            k = ldr_call_same_version(c, err);
        if (!k && in_cache && c->ahead_end && c->ahead_end < c->total && c->ahead_end - c->end <= LDR_STREAM_AHEAD / 2)
            ldr_call_hint(c);
        if (!k && in_cache)
            k = deliver_window(c, err);
        ldr_call_drop(c); /* unmapped before the next is mapped */
    } while (!k && c->end < c->total);
    ldr_call_done(c);
    return k;
}

enum larder_kind larder_stream(struct larder *l, const char *uri, int timeout_ms, larder_write_fn *write, void *user,
                               struct larder_err *err)
{
    struct ldr_call c;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_STREAM, timeout_ms, err);

    if (k)
        return k;
    c.write = write;
    c.user = user;
    return ldr_call_stream(&c, deliver, err);
}

enum larder_kind ldr_get_meta(struct larder *l, const char *uri, char text[LDR_URI_MAX + 1], enum ldr_hit *hit,
                              struct ldr_meta *out, struct larder_err *err)
{
    struct ldr_call c;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_META, 0, err);

    if (k)
        return k;
    c.meta = out;
    memcpy(text, c.text, c.text_len + 1);
    *hit = look(&c);
    ldr_call_done(&c);
    return LARDER_OK;
}
