/* stage.c - see stage.h: what clients ask, and when they are given up. */
#include "agent/stage_impl.h"
#include "common/clock.h"
#include "common/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STAGES_MAX    256             /* open at a time */
#define WAITING_MAX   8               /* sealed blocks of one upload that wait for the store */
#define WAITING_BYTES (512 * LDR_MIB) /* of those, from the third on */
#define MEMORY_MAX    (64 * LDR_MIB)  /* of blocks that are not in the cache, of all uploads; one is always allowed */
#define GONE_NS       (10 * LDR_NS_PER_S)   /* that a client may take to come back, or to be seen writing */
#define SILENT_NS     (3600 * LDR_NS_PER_S) /* of one that is connected: what it writes may come slowly from elsewhere */
#define FAILED_NS     (60 * LDR_NS_PER_S)   /* for who wants to hear why */

/* ---------- pieces ---------- */

struct ldr_piece *ldr_stage_current(const struct ldr_stage *s)
{
    struct ldr_piece *last = s->pieces ? s->pieces->prev : NULL;

    return last && last->state < LDR_PIECE_SEALED ? last : NULL;
}

void ldr_piece_answer(struct ldr_piece *p, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_staging staging = { .block = p->block, .name = "", .size = p->size };

    if (!kind && p->body) /* else the pool may be making it */
        staging.name = p->body->name;
    p->stage->heard_ns = ldr_mono_ns();
    while (p->waiters) {
        struct ldr_stage_waiter *w = p->waiters;

        DL_DELETE(p->waiters, w);
        w->piece = NULL;
        w->answer(w, kind, err, kind ? NULL : &staging);
    }
}

void ldr_stages_memory_back(struct ldr_uploads *u, uint64_t bytes)
{
    struct ldr_stage *s, *next;

    u->memory_bytes -= bytes;
    HASH_ITER(hh, u->stages, s, next)
    if (!s->kind)
        ldr_stage_make(s);
}

void ldr_piece_drop(struct ldr_piece *p)
{
    struct ldr_stage *s = p->stage;
    uint64_t memory = p->in_memory ? p->size : 0;

    assert(!p->waiters && !p->writer);
    DL_DELETE(s->pieces, p);
    ldr_body_free_later(&p->body);
    ldr_meta_release(&p->attempt.op.meta);
    free(p);
    if (memory)
        ldr_stages_memory_back(s->uploads, memory);
}

void ldr_stage_leave(struct ldr_stage_waiter *w)
{
    if (w->piece)
        DL_DELETE(w->piece->waiters, w);
    w->piece = NULL;
}

/* ---------- making a block ---------- */

static void write_data(struct ldr_piece *p);

static void made_on_ipc(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);
    struct ldr_stage *s = p->stage;

    if (p->kind == LARDER_LIMIT_EXCEEDED && !p->in_memory) { /* the disk is full, whatever the ledger says */
        p->no_room = true;
        p->state = LDR_PIECE_ASKED;
        ldr_body_free_later(&p->body);
    } else if (p->kind) {
        ldr_stage_fail(s, p->kind, &p->err);
    } else if (!s->kind) {
        p->state = LDR_PIECE_READY;
        ldr_piece_answer(p, LARDER_OK, NULL);
        if (p->writer)
            write_data(p);
    }
    ldr_stage_back(s);
}

static void make_on_pool(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);
    struct ldr_blocks *blocks = &p->stage->domain->blocks;

    p->body = ldr_body_new(blocks, p->size);
    if (!p->body) {
        p->kind = ldr_fail(&p->err, LARDER_NO_MEMORY, "out of memory");
        if (!p->in_memory)
            ldr_space_release(blocks->space, p->size);
    } else {
        p->kind = p->in_memory ? ldr_body_stage_in_memory(p->body, &p->err) : ldr_body_stage(p->body, &p->err);
    }
    t->run = made_on_ipc;
    ldr_mailbox_post(&p->stage->domain->ipc_box, t);
}

static void room_on_ipc(struct ldr_task *t)
{
    struct ldr_want *w = LDR_CONTAINER(t, struct ldr_want, task);
    struct ldr_piece *p = LDR_CONTAINER(w, struct ldr_piece, want);
    struct ldr_stage *s = p->stage;

    if (w->kind == LARDER_OK && !s->kind) {
        p->task.run = make_on_pool;
        ldr_pool_post(s->domain->pool, &p->task);
        return;
    }
    if (w->kind == LARDER_OK)
        ldr_space_release(&s->domain->space, p->size);
    else if (w->kind != LARDER_LIMIT_EXCEEDED)
        ldr_stage_fail(s, w->kind, &w->err);
    p->no_room = true;
    p->state = LDR_PIECE_ASKED;
    ldr_stage_back(s);
}

/* Few enough before it? */
static bool may_make(const struct ldr_stage *s, const struct ldr_piece *p)
{
    const struct ldr_piece *q;
    unsigned n = 0;

    DL_FOREACH(s->pieces, q)
    if (q != p)
        n++;
    if (n >= WAITING_MAX || (n > 1 && n * s->block_size > WAITING_BYTES))
        return false;
    return !p->no_room || s->uploads->memory_bytes == 0 || s->uploads->memory_bytes + p->size <= MEMORY_MAX;
}

void ldr_stage_make(struct ldr_stage *s)
{
    struct ldr_piece *p = ldr_stage_current(s);

    if (!p || p->state != LDR_PIECE_ASKED)
        return;
    if (p->no_room)
        ldr_stage_keep_not(s);
    if (!may_make(s, p))
        return;
    p->state = LDR_PIECE_MAKING;
    p->kind = LARDER_OK;
    ldr_stage_away(s);
    if (p->no_room) {
        p->in_memory = true;
        s->uploads->memory_bytes += p->size;
        p->task.run = make_on_pool;
        ldr_pool_post(s->domain->pool, &p->task);
    } else {
        p->want = (struct ldr_want){ .task.run = room_on_ipc, .box = &s->domain->ipc_box, .size = p->size };
        ldr_space_want(&s->domain->space, &p->want);
    }
}

/* ---------- messages ---------- */

static enum larder_kind find(struct ldr_domain *d, uint64_t upload_id, struct ldr_stage **out, struct larder_err *err)
{
    struct ldr_stage *s;

    HASH_FIND(hh, d->uploads->stages, &upload_id, sizeof upload_id, s);
    if (!s)
        return ldr_fail(err, LARDER_CANCELLED,
                        "nothing is known of this upload: it has ended, or was given up as nothing was heard of it");
    s->heard_ns = ldr_mono_ns();
    if (s->kind)
        return ldr_fail(err, s->kind, "%s", s->err.msg);
    *out = s;
    return LARDER_OK;
}

/* The block that comes next, asked for. */
static enum larder_kind ask(struct ldr_stage *s, uint32_t block, struct ldr_piece **out, struct larder_err *err)
{
    struct ldr_piece *p;

    if (block != s->n_sealed || s->ended)
        return ldr_fail(err, LARDER_INVALID, "block %" PRIu32 " of an upload out of order", block);
    if (block == 1 && !s->name->backend->ops->upload)
        return ldr_fail(err, LARDER_UNSUPPORTED,
                        "could not write \"%.200s\": store \"%s\" takes no object of more than %" PRIu64 " bytes",
                        s->name->text, s->name->backend->ops->kind, s->block_size);
    if (block >= LDR_PARTS_MAX || (s->size_known && (uint64_t)block * s->block_size >= s->size && block))
        return ldr_fail(err, s->size_known ? LARDER_INVALID : LARDER_LIMIT_EXCEEDED,
                        "could not write \"%.200s\": an object of this upload has at most %" PRIu64 " bytes",
                        s->name->text, s->size_known ? s->size : LDR_PARTS_MAX * s->block_size);
    p = calloc(1, sizeof *p);
    if (!p)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    p->stage = s;
    p->block = block;
    p->size = s->block_size;
    DL_APPEND(s->pieces, p);
    *out = p;
    return LARDER_OK;
}

enum larder_kind ldr_stage_block(struct ldr_domain *d, uint64_t upload_id, uint32_t block, struct ldr_stage_waiter *w,
                                 struct larder_err *err)
{
    struct ldr_piece *p = NULL;
    struct ldr_stage *s;
    enum larder_kind k = find(d, upload_id, &s, err);

    if (!k)
        p = ldr_stage_current(s);
    if (!k && (!p || p->block != block || p->state == LDR_PIECE_SEALING))
        k = p ? ldr_fail(err, LARDER_INVALID, "block %" PRIu32 " of an upload out of order", block)
              : ask(s, block, &p, err);
    if (k)
        return k;
    w->piece = p;
    DL_APPEND(p->waiters, w);
    if (p->state == LDR_PIECE_READY || p->state == LDR_PIECE_WRITING)
        ldr_piece_answer(p, LARDER_OK, NULL);
    else
        ldr_stage_advance(s);
    return LARDER_OK;
}

/* ---------- bytes that come as messages ---------- */

static void written_on_ipc(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);
    struct ldr_stage *s = p->stage;
    struct ldr_stage_waiter *w = p->writer;

    p->writer = NULL;
    p->state = LDR_PIECE_READY;
    if (p->kind)
        ldr_stage_fail(s, p->kind, &p->err);
    else
        p->received += w->len;
    s->heard_ns = ldr_mono_ns();
    w->answer(w, s->kind, &s->err, NULL);
    ldr_stage_back(s);
}

static void write_on_pool(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);

    p->kind = ldr_body_write(p->body, p->writer->offset, p->writer->data, p->writer->len, &p->err);
    t->run = written_on_ipc;
    ldr_mailbox_post(&p->stage->domain->ipc_box, t);
}

static void write_data(struct ldr_piece *p)
{
    p->state = LDR_PIECE_WRITING;
    ldr_stage_away(p->stage);
    p->task.run = write_on_pool;
    ldr_pool_post(p->stage->domain->pool, &p->task);
}

enum larder_kind ldr_stage_data(struct ldr_domain *d, uint64_t upload_id, uint32_t block, struct ldr_stage_waiter *w,
                                struct larder_err *err)
{
    struct ldr_piece *p = NULL;
    struct ldr_stage *s;
    enum larder_kind k = find(d, upload_id, &s, err);

    w->piece = NULL;
    if (!k)
        p = ldr_stage_current(s);
    if (!k && !p && block + 1 == s->n_sealed && w->offset + w->len <= s->last_length) { /* of one that is sealed */
        w->answer(w, LARDER_OK, NULL, NULL);
        return LARDER_OK;
    }
    if (!k && !p && (w->offset || w->len > s->block_size)) /* before a block is asked for */
        k = ldr_fail(err, LARDER_INVALID, "bytes of an upload out of order");
    else if (!k && !p)
        k = ask(s, block, &p, err);
    if (k)
        return k;
    if (p->block != block || p->writer || p->state == LDR_PIECE_SEALING || w->offset > p->received ||
        w->len > p->size - w->offset || (w->offset < p->received && w->offset + w->len > p->received))
        return ldr_fail(err, LARDER_INVALID, "bytes of an upload out of order");
    if (w->offset < p->received) {
        w->answer(w, LARDER_OK, NULL, NULL);
        return LARDER_OK;
    }
    p->writer = w;
    if (p->state == LDR_PIECE_READY)
        write_data(p);
    else
        ldr_stage_advance(s);
    return LARDER_OK;
}

/* ---------- sealing ---------- */

static bool remember(struct ldr_stage *s)
{
    uint32_t cap = s->cap ? 2 * s->cap : 16;
    uint64_t *hashes;
    bool *linked;

    if (s->n_sealed < s->cap)
        return true;
    hashes = realloc(s->hashes, cap * sizeof *hashes);
    if (hashes)
        s->hashes = hashes;
    linked = realloc(s->linked, cap * sizeof *linked);
    if (linked)
        s->linked = linked;
    if (!hashes || !linked)
        return false;
    s->cap = cap;
    return true;
}

static void sealed_on_ipc(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);
    struct ldr_stage *s = p->stage;

    if (!p->kind && !remember(s))
        p->kind = ldr_fail(&p->err, LARDER_NO_MEMORY, "out of memory");
    if (p->kind) {
        ldr_stage_fail(s, p->kind, &p->err);
    } else if (!s->kind) {
        if (!ldr_body_cached(p->body) || p->block >= LDR_BLOCKS_MAX ||
            s->total + p->length > s->domain->space.max_bytes / 2) /* not the whole cache for one that nobody read */
            ldr_stage_keep_not(s);
        p->state = LDR_PIECE_SEALED;
        s->linked[s->n_sealed++] = false;
        s->last_length = p->length;
        s->total += p->length;
        s->ended = p->length < p->size;
        ldr_count(&s->domain->counters, staged_bytes, p->length);
        ldr_piece_answer(p, LARDER_OK, NULL);
    }
    ldr_stage_back(s);
}

static void seal_on_pool(struct ldr_task *t)
{
    struct ldr_piece *p = LDR_CONTAINER(t, struct ldr_piece, task);

    p->kind = ldr_body_seal(p->body, p->length, !p->stage->name->policy->skip_writes, &p->err);
    t->run = sealed_on_ipc;
    ldr_mailbox_post(&p->stage->domain->ipc_box, t);
}

enum larder_kind ldr_stage_seal(struct ldr_domain *d, uint64_t upload_id, uint32_t block, uint64_t length,
                                struct ldr_stage_waiter *w, struct larder_err *err)
{
    struct ldr_piece *p;
    struct ldr_stage *s;
    bool by_messages;
    enum larder_kind k = find(d, upload_id, &s, err);

    if (k)
        return k;
    w->piece = NULL;
    p = ldr_stage_current(s);
    if (!p && ((block + 1 == s->n_sealed && length == s->last_length) ||
               (block == s->n_sealed && length == 0 && s->ended))) { /* again */
        w->answer(w, LARDER_OK, NULL, NULL);
        return LARDER_OK;
    }
    if (p && p->block == block && p->state == LDR_PIECE_SEALING && p->length == length) {
        w->piece = p;
        DL_APPEND(p->waiters, w);
        return LARDER_OK;
    }
    if (!p || p->block != block || p->state != LDR_PIECE_READY)
        return ldr_fail(err, LARDER_INVALID, "seal of block %" PRIu32 " of an upload that is not being written", block);
    by_messages = p->in_memory || p->received;
    if (length > p->size || (by_messages && length != p->received) || (s->size_known && length > s->size - s->total))
        return ldr_fail(err, LARDER_INVALID, "seal of %" PRIu64 " bytes of a block of an upload that has %" PRIu64,
                        length, by_messages ? p->received : p->size);
    if (length == 0) {
        s->ended = true;
        ldr_piece_drop(p);
        w->answer(w, LARDER_OK, NULL, NULL);
        return LARDER_OK;
    }
    p->length = length;
    p->state = LDR_PIECE_SEALING;
    w->piece = p;
    DL_APPEND(p->waiters, w);
    ldr_stage_away(s);
    p->task.run = seal_on_pool;
    ldr_pool_post(d->pool, &p->task);
    return LARDER_OK;
}

/* ---------- commit ---------- */

enum larder_kind ldr_stage_commit(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, uint64_t upload_id,
                                  uint64_t size, struct ldr_write_waiter *ww, struct larder_err *err)
{
    struct ldr_write *w = NULL;
    struct ldr_piece *p;
    struct ldr_stage *s;
    enum larder_kind k;

    if (ldr_write_join(d->uploads, op_id, ww))
        return LARDER_OK;
    k = find(d, upload_id, &s, err);
    if (k)
        return k;
    p = ldr_stage_current(s);
    if (p && (p->state != LDR_PIECE_READY || p->received))
        return ldr_fail(err, LARDER_INVALID, "commit of an upload whose block %" PRIu32 " is not sealed", p->block);
    if (size != s->total || (s->size_known && size != s->size))
        return ldr_fail(err, LARDER_INVALID, "commit of %" PRIu64 " bytes of an upload that has %" PRIu64, size,
                        s->total);
    k = ldr_write_new(d, op_id, deadline_ns, s->name, &w, err);
    if (!k)
        k = ldr_write_is_put(w, s->meta.fields.p, s->meta.fields.len, s->create_only, s->if_match, err);
    if (k) {
        if (w)
            ldr_write_free(w);
        return k;
    }
    if (p)
        ldr_piece_drop(p);
    ldr_write_enlist(w, ww);
    s->write = w;
    ldr_stage_unname(s); /* no message is about it any more, and nobody gives it up */
    ldr_stage_advance(s);
    return LARDER_OK;
}

/* ---------- begins ---------- */

static uint8_t log2_of_at_least(uint64_t n, uint8_t from)
{
    while (from < 63 && UINT64_C(1) << from < n)
        from++;
    return from;
}

/* How long are its blocks? A part of the store is a block. */
static enum larder_kind measure(struct ldr_stage *s, struct larder_err *err)
{
    const struct ldr_backend_ops *ops = s->name->backend->ops;
    uint8_t log2 = (uint8_t)__builtin_ctzll(s->domain->cfg->block_size);

    if (s->size_known)
        log2 = ldr_block_log2_for(s->size, log2);
    s->block_log2 = log2_of_at_least(ops->upload ? ops->part_min : 0, log2);
    s->block_size = UINT64_C(1) << s->block_log2;
    if (s->size_known && s->size > 0 && s->size < s->block_size)
        s->block_size = s->size;
    if (s->size_known && s->size > s->block_size && !ops->upload)
        return ldr_fail(err, LARDER_UNSUPPORTED,
                        "could not write \"%.200s\": store \"%s\" takes no object of more than %" PRIu64 " bytes",
                        s->name->text, ops->kind, s->block_size);
    if (s->size_known && s->size > s->block_size && ops->part_max && s->block_size > ops->part_max)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED,
                        "could not write \"%.200s\": %" PRIu64 " bytes are more than store "
                        "\"%s\" takes",
                        s->name->text, s->size, ops->kind);
    return LARDER_OK;
}

static enum larder_kind fill_in(struct ldr_stage *s, const struct ldr_stage_args *a, struct larder_err *err)
{
    enum larder_kind k = ldr_write_conditions(a->name, a->create_only, a->if_match, err);

    if (!k)
        k = ldr_write_fields(a->name, a->fields, a->fields_len, err);
    if (!k && !ldr_buf_add(&s->meta.fields, a->fields, a->fields_len))
        k = ldr_fail(err, LARDER_LIMIT_EXCEEDED, "metadata of \"%.200s\" is larger than %llu bytes", a->name->text,
                     (unsigned long long)LDR_META_MAX);
    if (!k)
        k = ldr_write_validator(a->if_match, &s->if_match, err);
    s->create_only = a->create_only;
    s->size = a->size;
    s->size_known = a->size_known;
    return k ? k : measure(s, err);
}

enum larder_kind ldr_stage_open(struct ldr_domain *d, const struct ldr_stage_args *a, uint64_t *block_size,
                                struct larder_err *err)
{
    struct ldr_uploads *u = d->uploads;
    struct ldr_stage *s;
    enum larder_kind k;

    HASH_FIND(hh, u->stages, &a->upload_id, sizeof a->upload_id, s);
    if (s && (strcmp(s->name->text, a->name->text) || s->size_known != a->size_known || s->size != a->size))
        return ldr_fail(err, LARDER_INVALID, "another upload has this number");
    if (s) {
        k = find(d, a->upload_id, &s, err);
        *block_size = s->block_size;
        return k;
    }
    if (u->n_stages >= STAGES_MAX)
        return ldr_fail(err, LARDER_UNAVAILABLE, "too many uploads are open (%d)", STAGES_MAX);
    s = calloc(1, sizeof *s);
    if (!s)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    s->upload_id = a->upload_id;
    s->domain = d;
    s->uploads = u;
    s->name = ldr_name_ref(a->name);
    s->heard_ns = ldr_mono_ns();
    s->id = ldr_index_new_id(d->index);
    s->keep = !a->name->policy->skip_writes;
    ldr_meta_init(&s->meta);
    u->n_stages++;
    k = fill_in(s, a, err);
    if (k) {
        ldr_stage_free(s);
        return k;
    }
    s->named = true;
    HASH_ADD(hh, u->stages, upload_id, sizeof s->upload_id, s);
    ldr_count(&d->counters, uploads, 1);
    *block_size = s->block_size;
    return LARDER_OK;
}

/* ---------- given up ---------- */

void ldr_stage_unname(struct ldr_stage *s)
{
    if (s->named)
        HASH_DEL(s->uploads->stages, s);
    s->named = false;
}

static void give_up(struct ldr_stage *s, const char *why)
{
    struct larder_err e;
    enum larder_kind k =
        ldr_fail(&e, LARDER_CANCELLED, "the upload of \"%.200s\" was given up: %s", s->name->text, why);

    ldr_stage_unname(s);
    ldr_stage_fail(s, k, &e);
    ldr_stage_advance(s);
}

bool ldr_stages_abort(struct ldr_uploads *u, uint64_t upload_id)
{
    struct ldr_stage *s;

    HASH_FIND(hh, u->stages, &upload_id, sizeof upload_id, s);
    if (s)
        give_up(s, "its writer aborted it");
    return s != NULL;
}

/* Has somebody written to the block's file since it was looked at last? */
static bool has_written(struct ldr_stage *s, const struct ldr_piece *p)
{
    struct timespec before = s->written;
    struct stat st;

    if (p->body->name[0] && fstat(p->body->fill.fd, &st) == 0)
        s->written = st.st_mtim;
    return s->written.tv_sec != before.tv_sec || s->written.tv_nsec != before.tv_nsec;
}

static bool abandoned(struct ldr_stage *s, int64_t now_ns)
{
    const struct ldr_piece *p = ldr_stage_current(s);

    if (s->kind)
        return now_ns - s->heard_ns >= FAILED_NS;
    if ((p && p->state != LDR_PIECE_READY) || now_ns - s->heard_ns < (s->gone ? GONE_NS : SILENT_NS))
        return false; /* it is our turn, or not long ago */
    if (p && (has_written(s, p) || ldr_body_written_to(p->body))) {
        s->heard_ns = now_ns;
        return false;
    }
    return true;
}

struct ldr_name *ldr_stage_heard(struct ldr_domain *d, uint64_t upload_id, uint32_t connection)
{
    struct ldr_stage *s;

    HASH_FIND(hh, d->uploads->stages, &upload_id, sizeof upload_id, s);
    if (!s)
        return NULL;
    s->connection = connection;
    s->gone = false;
    return s->name;
}

void ldr_stages_gone(struct ldr_domain *d, uint32_t connection)
{
    struct ldr_stage *s, *next;

    HASH_ITER(hh, d->uploads->stages, s, next)
    if (s->connection == connection && !s->gone) {
        const struct ldr_piece *p = ldr_stage_current(s);

        s->gone = true;
        s->heard_ns = ldr_mono_ns();
        if (p && p->state == LDR_PIECE_READY)
            has_written(s, p); /* what was written so far does not count */
    }
}

void ldr_stages_sweep(struct ldr_uploads *u, int64_t now_ns)
{
    struct ldr_stage *s, *next;

    HASH_ITER(hh, u->stages, s, next)
    if (abandoned(s, now_ns)) {
        if (!s->kind) {
            ldr_log(LDR_INFO, "upload", "abandoned uri=\"%s\" bytes=%" PRIu64, s->name->text, s->total);
            ldr_count(&s->domain->counters, uploads_abandoned, 1);
        }
        give_up(s, "nothing was heard of its writer");
    }
}

void ldr_stages_quit(struct ldr_uploads *u)
{
    struct ldr_stage *s, *next;

    HASH_ITER(hh, u->stages, s, next)
    give_up(s, "the agent stops");
}

void ldr_stages_free_all(struct ldr_uploads *u)
{
    struct ldr_stage *s, *next;

    HASH_ITER(hh, u->stages, s, next)
    {
        ldr_stage_unname(s);
        s->store = LDR_STORE_OVER; /* too late to tell the store; the next start does, by the note */
        ldr_stage_free(s);
    }
}
