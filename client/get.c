/* get.c - step 1 of a get: reference -> index -> bytes. A warm hit ends in look(), with no IPC. After a miss the agent
 * is asked (step 2), and answers either which record to look at now (step 11: look again), or with the bytes, in
 * chunks. Here, and only here, the cache's answers (enum ldr_hit) become kinds. Any thread. */
#include "client/client.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOOKS        2             /* answers of "look again" that a call follows; then it asks for the bytes */
#define REOPENS      3             /* generations that one look may find retired */
#define RESTARTS     3             /* of a read in chunks whose object changed */
#define COPY_MAX     (8 * LDR_MIB) /* of a view that is not in the cache */
#define STREAM_PIECE LDR_MIB
#define HEAD_MAX     (LDR_RECORD_FIXED + LDR_META_MAX)

enum mode { VIEW, INTO, STREAM, META };

/* One call. Large and on the stack: only the small fields are ever cleared. */
struct call {
    struct larder *l;
    enum mode mode;
    int timeout_ms;
    int64_t deadline_ns; /* set when the agent is first asked: a hit reads no clock */
    bool asked;
    bool has_accept, has_seen;
    struct ldr_id accept; /* the agent named this record: take it, fresh or not */
    struct ldr_id seen;   /* this record was there, and could not be used */

    /* what comes out; by mode */
    struct larder_object *object; /* VIEW; owned until it is given out */
    uint8_t *data;                /* of an object that is a copy */
    size_t room;                  /* bytes at `data` */
    uint8_t *buf;                 /* INTO */
    size_t cap;
    uint64_t size;          /* of the object */
    larder_write_fn *write; /* STREAM */
    void *user;
    bool delivered;        /* something was written: the read cannot start again */
    struct ldr_meta *meta; /* META */

    size_t text_len, key_len;
    uint8_t key[LDR_INDEX_KEY_MAX];
    char text[LDR_URI_MAX + 1];
    uint8_t head[HEAD_MAX]; /* of the record */
};

/* How an object is named in messages: what may be a signature is left out. */
static int shown(const struct call *c)
{
    size_t n = strcspn(c->text, "?");

    return (int)(n < 200 ? n : 200);
}

static enum larder_kind call_init(struct call *c, struct larder *l, const char *uri, enum mode mode, int timeout_ms,
                                  struct larder_err *err)
{
    struct ldr_uri u;
    enum larder_kind k = uri ? ldr_uri_parse(uri, &u, err) : ldr_fail(err, LARDER_INVALID, "no reference was given");

    if (k)
        return k;
    memset(c, 0, offsetof(struct call, key));
    c->l = l;
    c->mode = mode;
    c->timeout_ms = timeout_ms;
    c->text_len = ldr_uri_text(&u, c->text);
    c->key_len = ldr_index_key(c->text, c->text_len, c->key);
    return LARDER_OK;
}

static void call_done(struct call *c)
{
    larder_object_free(&c->object);
}

/* ---- the cache ---- */

/* Room for a copy of `size` bytes; what an earlier attempt made is used again. */
static bool make_object(struct call *c, size_t size)
{
    if (c->object && c->room == size)
        return true;
    larder_object_free(&c->object);
    c->object = ldr_object_new(size, c->asked, &c->data);
    c->room = size;
    return c->object != NULL;
}

static bool is_fresh(const struct call *c, const struct ldr_record *r, uint32_t boot)
{
    if (c->has_accept && !memcmp(r->id.b, c->accept.b, sizeof r->id.b))
        return true;
    /* The clock is read only where it decides. */
    return r->fresh_until_ns == LDR_FRESH_ALWAYS || (r->boot == boot && ldr_record_fresh(r, boot, ldr_boot_ns()));
}

/* A long text has a shortened key; then the record must say that it is of this text. */
static bool is_ours(const struct call *c, const struct ldr_record *r)
{
    struct ldr_field f;

    if (c->text_len <= LDR_INDEX_KEY_MAX)
        return true;
    return ldr_fields_find(r->fields, r->fields_len, LDR_TAG_KEY, &f) && f.len == c->text_len &&
           !memcmp(f.p, c->text, f.len);
}

/* Read the record at `p` (in the map) and, of a small object, its bytes. The head is judged in a copy: the map changes.
 */
static enum ldr_hit read_record(struct call *c, const struct ldr_hdr *hdr, const uint8_t *p, size_t len,
                                struct ldr_record *r)
{
    size_t head_len;
    void *to;

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
    c->size = r->size_bytes;
    if (!(r->flags & LDR_FLAG_INLINE) || c->mode == META || (c->mode == INTO && r->size_bytes > c->cap))
        return LDR_HIT;
    if (c->mode != INTO && !make_object(c, r->payload_len))
        return LDR_NO_MEMORY;
    to = c->mode == INTO ? c->buf : c->data;
    if (r->payload_len)
        memcpy(to, p + head_len, r->payload_len);
    return LDR_HIT;
}

/* What is not in the record itself: block files; or the record as metadata. */
static enum ldr_hit use_record(struct call *c, const struct ldr_gen *g, const struct ldr_record *r, bool *kept)
{
    if (c->mode == META) {
        if (r->flags & LDR_FLAG_LM_UNKNOWN)
            return LDR_MISS;
        c->meta->size_bytes = r->size_bytes;
        c->meta->last_modified_s = r->last_modified_s;
        return ldr_buf_add(&c->meta->fields, r->fields, r->fields_len) ? LDR_HIT : LDR_NO_MEMORY;
    }
    if (r->flags & LDR_FLAG_INLINE)
        return LDR_HIT;
    if (c->mode == INTO)
        return r->size_bytes > c->cap ? LDR_HIT : ldr_views_read(c->l->views, g->dirfd, r, c->buf, kept);
    larder_object_free(&c->object);
    c->room = 0;
    return ldr_views_get(c->l->views, g->dirfd, r, c->asked, kept, &c->object);
}

/* One attempt at one snapshot. False: it was void, and counts for nothing. */
static bool look_once(struct call *c, struct ldr_gen *g, int *tries, enum ldr_hit *hit, bool *kept)
{
    const struct ldr_hdr *hdr = g->index.hdr;
    struct ldr_snap snap;
    struct ldr_record r;
    const uint8_t *p;
    size_t len;

    *hit = ldr_snap_begin(&g->index, tries, &snap);
    if (*hit != LDR_HIT)
        return true;
    *hit = ldr_snap_find(&snap, c->key, c->key_len, &p, &len);
    if (*hit == LDR_HIT)
        *hit = read_record(c, hdr, p, len, &r);
    if (!ldr_snap_valid(&snap)) {
        --*tries;
        return false;
    }
    ldr_views_pressure(c->l->views, atomic_load_explicit(&hdr->pressure, memory_order_relaxed));
    if (*hit == LDR_HIT)
        *hit = use_record(c, g, &r, kept);
    if (*hit == LDR_BLOCK_GONE && atomic_load_explicit(&hdr->cur, memory_order_relaxed) != snap.id) {
        --*tries; /* replaced or evicted since: the newest snapshot tells */
        return false;
    }
    if (*hit == LDR_STALE || *hit == LDR_BLOCK_GONE) {
        c->has_seen = true;
        c->seen = r.id;
    }
    return true;
}

static enum ldr_hit look(struct call *c)
{
    struct larder *l = c->l;
    int tries = LDR_WALK_TRIES, reopens = REOPENS;
    enum ldr_hit hit = LDR_TORN;
    bool kept = false;

    c->has_seen = false;
    while (tries > 0) {
        struct ldr_gen *g = atomic_load_explicit(&l->gen, memory_order_acquire);

        if (!g) {
            ldr_client_reopen(l, NULL, 0);
            g = atomic_load_explicit(&l->gen, memory_order_acquire);
        }
        hit = LDR_NO_CACHE;
        if (!g)
            break;
        if (!look_once(c, g, &tries, &hit, &kept)) {
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
    if (hit == LDR_HIT && !c->asked)
        ldr_count(l, LDR_COUNT_HITS);
    if (hit == LDR_HIT && kept)
        ldr_count(l, LDR_COUNT_KEPT);
    if (hit == LDR_DAMAGED || hit == LDR_BLOCK_GONE)
        ldr_count(l, LDR_COUNT_DAMAGED);
    return hit;
}

/* ---- the agent ---- */

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

/* Ask for the object, or (want_bytes) for its bytes from `offset` on, of the version that `validator` names. */
static enum larder_kind ask(struct call *c, enum ldr_hit hit, bool want_bytes, uint64_t offset,
                            const struct ldr_buf *validator, ldr_wire_reply **out, struct larder_err *err)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    if (!c->asked)
        c->deadline_ns = ldr_call_deadline(c->timeout_ms);
    if (c->deadline_ns == LDR_NO_WAIT)
        return ldr_fail(err, LARDER_TIMEOUT, "\"%.*s\" is not in the cache, and the call may not wait", shown(c),
                        c->text);
    c->asked = true;
    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = c->text;
    get.reason = reason_of(hit);
    get.want_bytes = want_bytes;
    get.offset = offset;
    if (c->has_seen) {
        get.seen_id.data = c->seen.b;
        get.seen_id.len = sizeof c->seen.b;
    }
    if (validator) {
        get.validator.data = validator->p;
        get.validator.len = validator->len;
    }
    return ldr_ask(c->l, &req, LDR_ASK_READ, c->deadline_ns, out, err);
}

/* A read in chunks: which version it is of, and how far it came. */
struct chunks {
    uint64_t offset, size;
    int64_t last_modified_s;
    bool known;                       /* the first chunk is in */
    struct ldr_buf fields, validator; /* owned */
};

static void chunks_init(struct chunks *s)
{
    *s = (struct chunks){ .fields = LDR_BUF_INIT(LDR_META_MAX), .validator = LDR_BUF_INIT(LDR_META_MAX) };
}

static void chunks_release(struct chunks *s)
{
    ldr_buf_release(&s->fields);
    ldr_buf_release(&s->validator);
}

/* The first chunk says what the object is: is there a place for it? */
static enum larder_kind chunks_begin(struct call *c, const Larder__Wire__Bytes *b, struct larder_err *err)
{
    uint64_t size = b->meta->size;

    c->size = size;
    if (c->mode == INTO && size > c->cap)
        return LARDER_OK; /* larder_get_into() says so */
    if (c->mode != VIEW)
        return LARDER_OK;
    if (size > COPY_MAX)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED,
                        "no view of \"%.*s\": its %" PRIu64 " bytes are more than the %" PRIu64
                        " of an object that is not read from the cache (%.200s)",
                        shown(c), c->text, size, (uint64_t)COPY_MAX, b->why[0] ? b->why : "this process cannot map it");
    if (!make_object(c, size))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for %" PRIu64 " bytes of \"%.*s\"", size, shown(c),
                        c->text);
    return LARDER_OK;
}

static enum larder_kind chunks_learn(struct chunks *s, const Larder__Wire__Meta *m, struct larder_err *err)
{
    struct ldr_field f;

    s->known = true;
    s->size = m->size;
    s->last_modified_s = m->last_modified_known ? m->last_modified : LDR_TIME_UNKNOWN;
    if (!ldr_buf_add(&s->fields, m->fields.data, m->fields.len) ||
        (ldr_fields_find(m->fields.data, m->fields.len, LDR_TAG_VALIDATOR, &f) &&
         !ldr_buf_add(&s->validator, f.p, f.len)))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for metadata");
    return LARDER_OK;
}

/* Is a later chunk of the same version? A store without validators leaves only its other words to compare. */
static bool same_version(const struct chunks *s, const Larder__Wire__Meta *m)
{
    struct ldr_field f;

    if (m->size != s->size)
        return false;
    if (s->validator.len)
        return ldr_fields_find(m->fields.data, m->fields.len, LDR_TAG_VALIDATOR, &f) && f.len == s->validator.len &&
               !memcmp(f.p, s->validator.p, f.len);
    return (m->last_modified_known ? m->last_modified : LDR_TIME_UNKNOWN) == s->last_modified_s &&
           m->fields.len == s->fields.len &&
           (m->fields.len == 0 || !memcmp(m->fields.data, s->fields.p, m->fields.len));
}

static enum larder_kind piece(struct call *c, const void *p, size_t n, uint64_t offset, uint64_t size,
                              struct larder_err *err)
{
    enum larder_kind k;

    if (c->mode == STREAM) {
        c->delivered = true;
        k = c->write(c->user, p, n, offset, size);
        return k ? ldr_fail(err, k, "the reader of \"%.*s\" gave up", shown(c), c->text) : LARDER_OK;
    }
    if (n > 0)
        memcpy((c->mode == VIEW ? c->data : c->buf) + offset, p, n);
    return LARDER_OK;
}

/* Take one chunk. */
static enum larder_kind chunk(struct call *c, struct chunks *s, const ldr_wire_reply *reply, struct larder_err *err)
{
    const Larder__Wire__Bytes *b = reply->body_case == LARDER__WIRE__REPLY__BODY_BYTES ? reply->bytes : NULL;
    enum larder_kind k = LARDER_OK;

    if (!b || b->offset != s->offset || (!b->meta && (!s->known || !s->validator.len)) ||
        (b->meta &&
         (b->meta->size > LDR_OBJECT_SIZE_MAX || !ldr_fields_valid(b->meta->fields.data, b->meta->fields.len))))
        return ldr_answer_unknown(err);
    if (!s->known) {
        k = chunks_learn(s, b->meta, err);
        if (!k)
            k = chunks_begin(c, b, err);
        if (k || (c->mode == INTO && s->size > c->cap))
            return k;
    } else if (b->meta && !same_version(s, b->meta)) {
        return ldr_fail(err, LARDER_PRECONDITION, "\"%.*s\" changed while it was read", shown(c), c->text);
    }
    if (b->data.len > s->size - s->offset || (b->data.len == 0 && s->offset < s->size))
        return ldr_answer_unknown(err);
    k = piece(c, b->data.data, b->data.len, s->offset, s->size, err);
    s->offset += b->data.len;
    return k;
}

/* The whole object in chunks; *first, if there is one, is the first. It is taken. */
static enum larder_kind read_chunks(struct call *c, enum ldr_hit hit, ldr_wire_reply **first, struct larder_err *err)
{
    struct chunks s;
    ldr_wire_reply *reply = *first;
    enum larder_kind k = LARDER_OK;

    *first = NULL;
    chunks_init(&s);
    do {
        if (!reply)
            k = ask(c, hit, true, s.offset, s.validator.len ? &s.validator : NULL, &reply, err);
        if (!k)
            k = chunk(c, &s, reply, err);
        if (reply)
            larder__wire__reply__free_unpacked(reply, NULL);
        reply = NULL;
    } while (!k && s.offset < s.size && !(c->mode == INTO && s.size > c->cap));
    chunks_release(&s);
    return k;
}

static enum larder_kind get_chunks(struct call *c, enum ldr_hit hit, ldr_wire_reply *first, struct larder_err *err)
{
    enum larder_kind k = read_chunks(c, hit, &first, err);

    for (int i = 0; i < RESTARTS && k == LARDER_PRECONDITION && !c->delivered; i++)
        k = read_chunks(c, hit, &first, err);
    return k;
}

/* ---- a get ---- */

/* Look; else ask and look again, or take the bytes. On success the outputs of the mode are there. *in_cache: a hit. */
static enum larder_kind get(struct call *c, bool *in_cache, struct larder_err *err)
{
    enum ldr_hit hit = look(c);

    *in_cache = true;
    for (int looks = 0; hit != LDR_HIT;) {
        bool want_bytes = looks == LOOKS || hit == LDR_NO_CACHE;
        ldr_wire_reply *reply;
        enum larder_kind k;

        if (hit == LDR_NO_MEMORY)
            return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for \"%.*s\"", shown(c), c->text);
        k = ask(c, hit, want_bytes, 0, NULL, &reply, err);
        if (k)
            return k;
        if (reply->body_case != LARDER__WIRE__REPLY__BODY_LOOK || want_bytes) {
            *in_cache = false;
            return get_chunks(c, hit, reply, err);
        }
        c->has_accept = reply->object_id.len == sizeof c->accept.b;
        if (c->has_accept)
            memcpy(c->accept.b, reply->object_id.data, sizeof c->accept.b);
        larder__wire__reply__free_unpacked(reply, NULL);
        looks++;
        hit = look(c);
    }
    return LARDER_OK;
}

enum larder_kind larder_get(struct larder *l, const char *uri, int timeout_ms, struct larder_object **out,
                            struct larder_err *err)
{
    struct call c;
    bool in_cache;
    enum larder_kind k = call_init(&c, l, uri, VIEW, timeout_ms, err);

    if (k)
        return k;
    k = get(&c, &in_cache, err);
    if (!k) {
        *out = c.object;
        c.object = NULL;
    }
    call_done(&c);
    return k;
}

enum larder_kind larder_get_into(struct larder *l, const char *uri, void *buf, size_t cap, int timeout_ms,
                                 uint64_t *size, struct larder_err *err)
{
    struct call c;
    bool in_cache;
    enum larder_kind k = call_init(&c, l, uri, INTO, timeout_ms, err);

    if (k)
        return k;
    c.buf = buf;
    c.cap = cap;
    k = get(&c, &in_cache, err);
    if (k)
        return k;
    if (size)
        *size = c.size;
    if (c.size > cap)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "\"%.*s\" has %" PRIu64 " bytes, more than the %zu of the buffer",
                        shown(&c), c.text, c.size, cap);
    return LARDER_OK;
}

enum larder_kind larder_stream(struct larder *l, const char *uri, int timeout_ms, larder_write_fn *write, void *user,
                               struct larder_err *err)
{
    struct call c;
    bool in_cache;
    enum larder_kind k = call_init(&c, l, uri, STREAM, timeout_ms, err);

    if (k)
        return k;
    c.write = write;
    c.user = user;
    k = get(&c, &in_cache, err);
    if (!k && in_cache) {
        const uint8_t *p = larder_object_data(c.object);
        uint64_t size = larder_object_size(c.object), offset = 0;

        do {
            size_t n = size - offset < STREAM_PIECE ? size - offset : STREAM_PIECE;

            k = piece(&c, p + offset, n, offset, size, err);
            offset += n;
        } while (!k && offset < size);
    }
    call_done(&c);
    return k;
}

enum larder_kind ldr_get_meta(struct larder *l, const char *uri, char text[LDR_URI_MAX + 1], enum ldr_hit *hit,
                              struct ldr_meta *out, struct larder_err *err)
{
    struct call c;
    enum larder_kind k = call_init(&c, l, uri, META, 0, err);

    if (k)
        return k;
    c.meta = out;
    memcpy(text, c.text, c.text_len + 1);
    *hit = look(&c);
    return LARDER_OK;
}
