/* memory.c - kind "memory": objects in this process, gone with it (backend.h; step 7 of docs/tour.md).
 *
 * One table under one mutex. An item is immutable and counted, so that a reader keeps its version while a put replaces
 * it, and no lock is held while a sink takes the bytes. What an op does happens when it arrives; with `latency_ms` its
 * answer comes later. An upload's parts are items of no table; its end makes one of them. */
#include "backends/page.h"
#include "common/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS_MIN    64
#define LATENCY_MAX_MS (3600 * 1000)
#define PIECE          (256 * LDR_KIB) /* bytes given to a sink at once */
#define UPLOADS_MAX    1000            /* under way */
#define PART_MAX       (1024 * LDR_GIB)

extern const struct ldr_backend_ops ldr_backend_memory;

struct item {
    struct item *next; /* in its bucket; under mtx */
    uint64_t hash;
    _Atomic unsigned refs; /* the table's and the readers' */
    char *name;            /* "container/key": a container has no `/` */
    uint8_t *bytes;
    struct ldr_meta meta;
};

/* An object that arrives in parts. */
struct upload {
    struct upload *next; /* under mtx, as all that changes */
    char id[2 * 16 + 1];
    char *name; /* as an item's */
    struct ldr_meta meta;
    uint64_t size_bytes; /* of all parts */
    uint32_t n_parts;    /* room in parts */
    struct item **parts; /* NULL inside: not there yet */
};

struct memory {
    struct ldr_backend base;
    /* set once in open() */
    uint32_t latency_ms;
    uint64_t max_size;    /* bytes of all objects and parts */
    uint64_t fingerprint; /* random: the objects go with the process, and so must what a cache holds of them */
    pthread_mutex_t mtx;
    /* under mtx */
    struct item **buckets;
    size_t n_buckets, n_items;
    struct upload *uploads;
    unsigned n_uploads;
    uint64_t size_bytes;
};

/* ---- items ---- */

static void item_unref(struct item *it)
{
    if (!it || atomic_fetch_sub(&it->refs, 1) > 1)
        return;
    ldr_meta_release(&it->meta);
    free(it->bytes);
    free(it->name);
    free(it);
}

static uint64_t name_hash(const char *container, const char *key)
{
    return ldr_hash64(container, strlen(container)) ^ ldr_hash64(key, strlen(key)) * 31;
}

static bool item_is(const struct item *it, uint64_t hash, const char *container, const char *key)
{
    size_t n = strlen(container);

    return it->hash == hash && !strncmp(it->name, container, n) && it->name[n] == '/' && !strcmp(it->name + n + 1, key);
}

/* An item for the op's name with room for its bytes, not filled in yet; NULL: out of memory. */
static struct item *item_new(const struct ldr_op *op, uint64_t size)
{
    struct item *it = calloc(1, sizeof *it);

    if (!it)
        return NULL;
    it->refs = 1;
    it->hash = name_hash(op->container, op->key);
    ldr_meta_init(&it->meta);
    it->meta.size_bytes = size;
    it->bytes = size < SIZE_MAX ? malloc(size ? size : 1) : NULL;
    if (!it->bytes || asprintf(&it->name, "%s/%s", op->container, op->key) == -1) {
        it->name = NULL; /* asprintf() leaves it undefined */
        item_unref(it);
        return NULL;
    }
    return it;
}

/* The facts of a version: validator and ETag are a hash of its bytes. Then what the put said. */
static bool item_describe(struct item *it, const struct ldr_meta *put_meta)
{
    XXH128_canonical_t sum;
    char v[2 * sizeof sum + 3] = "\"";
    struct ldr_field f;
    size_t pos = 0;
    bool ok;

    XXH128_canonicalFromHash(&sum, XXH3_128bits(it->bytes, it->meta.size_bytes));
    ldr_hex(&sum, sizeof sum, v + 1);
    ok = ldr_meta_add_text(&it->meta, LDR_TAG_ETAG, v + 1);
    strcat(v, "\"");
    ok = ok && ldr_meta_add_text(&it->meta, LDR_TAG_VALIDATOR, v);
    it->meta.last_modified_s = time(NULL);
    while (ok && put_meta && ldr_fields_next(put_meta->fields.p, put_meta->fields.len, &pos, &f))
        ok = ldr_meta_add(&it->meta, f.tag, f.p, f.len);
    return ok;
}

/* ---- the table; all under mtx ---- */

/* Where the item's link is, or would be. */
static struct item **slot_find(struct memory *m, uint64_t hash, const char *container, const char *key)
{
    struct item **slot = &m->buckets[hash & (m->n_buckets - 1)];

    while (*slot && !item_is(*slot, hash, container, key))
        slot = &(*slot)->next;
    return slot;
}

/* Chains stay short; without memory for it they may grow. */
static void table_grow(struct memory *m)
{
    size_t n = m->n_buckets * 2;
    struct item **buckets = m->n_items < n ? NULL : calloc(n, sizeof *buckets);

    if (!buckets)
        return;
    for (size_t i = 0; i < m->n_buckets; i++)
        for (struct item *it = m->buckets[i], *next; it; it = next) {
            next = it->next;
            it->next = buckets[it->hash & (n - 1)];
            buckets[it->hash & (n - 1)] = it;
        }
    free(m->buckets);
    m->buckets = buckets;
    m->n_buckets = n;
}

static void unlink_item(struct memory *m, struct item **slot)
{
    struct item *it = *slot;

    *slot = it->next;
    m->n_items--;
    m->size_bytes -= it->meta.size_bytes;
    item_unref(it);
}

static struct item *find_ref(struct memory *m, const char *container, const char *key)
{
    struct item *it;

    pthread_mutex_lock(&m->mtx);
    it = *slot_find(m, name_hash(container, key), container, key);
    if (it)
        atomic_fetch_add(&it->refs, 1);
    pthread_mutex_unlock(&m->mtx);
    return it;
}

static enum larder_kind fail_full(struct memory *m, struct ldr_op *op, uint64_t size)
{
    return ldr_fail(&op->err, LARDER_LIMIT_EXCEEDED,
                    "object \"%s\": %" PRIu64 " bytes do not fit, the memory store holds %" PRIu64
                    " of at most %" PRIu64 " bytes (max_size)",
                    op->uri, size, m->size_bytes, m->max_size);
}

/* Is the item (NULL: none) of the version that the op named? */
static enum larder_kind check_version(struct ldr_op *op, const struct item *it)
{
    char v[64] = "";

    if (it)
        ldr_meta_text(&it->meta, LDR_TAG_VALIDATOR, v, sizeof v);
    if (!op->if_match || !strcmp(op->if_match, v))
        return LARDER_OK;
    return ldr_fail(&op->err, LARDER_PRECONDITION, it ? "object \"%s\" has changed" : "object \"%s\" does not exist",
                    op->uri);
}

/* Takes the caller's reference, also on failure. `freed`: bytes of the upload that this ends. */
static enum larder_kind store(struct memory *m, struct ldr_op *op, struct item *it, uint64_t freed)
{
    enum larder_kind k = LARDER_OK;
    struct item **slot;
    uint64_t old;

    pthread_mutex_lock(&m->mtx);
    slot = slot_find(m, it->hash, op->container, op->key);
    old = *slot ? (*slot)->meta.size_bytes : 0;
    if (*slot && op->create_only)
        k = ldr_fail(&op->err, LARDER_EXISTS, "object \"%s\" exists already", op->uri);
    else if (op->what != LDR_OP_COPY) /* a copy's condition is of its source */
        k = check_version(op, *slot);
    if (!k && it->meta.size_bytes > m->max_size - (m->size_bytes - old - freed))
        k = fail_full(m, op, it->meta.size_bytes);
    if (!k) {
        if (*slot)
            unlink_item(m, slot);
        it->next = *slot;
        *slot = it;
        m->n_items++;
        m->size_bytes += it->meta.size_bytes - freed;
        it = NULL; /* the table's now */
        table_grow(m);
    }
    pthread_mutex_unlock(&m->mtx);
    item_unref(it);
    return k;
}

/* ---- answers ---- */

static enum larder_kind no_memory(struct ldr_op *op)
{
    return ldr_fail(&op->err, LARDER_NO_MEMORY, "object \"%s\": out of memory", op->uri);
}

/* Store an item whose bytes are complete, and takes it. `described`: its metadata is, too; else it is that of a put. */
static enum larder_kind store_described(struct ldr_op *op, struct item *it, bool described,
                                        const struct ldr_meta *put_meta, uint64_t freed)
{
    enum larder_kind k = LARDER_OK;

    if (!described && !item_describe(it, put_meta))
        k = ldr_fail(&op->err, LARDER_LIMIT_EXCEEDED, "object \"%s\" has too much metadata", op->uri);
    else if (!ldr_meta_copy(&op->meta, &it->meta))
        k = no_memory(op);
    if (k) {
        item_unref(it);
        return k;
    }
    op->sent = true;
    op->bytes_out += op->what == LDR_OP_PUT ? op->size_bytes : 0;
    return store((struct memory *)op->backend, op, it, freed);
}

static void run_end(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);

    ldr_op_done(op, op->kind);
}

/* Run `end` when the latency has passed. */
static void answer_on_net(struct ldr_op *op, void (*end)(struct ldr_task *t))
{
    const struct memory *m = (const struct memory *)op->backend;

    op->task.run = end;
    if (m->latency_ms)
        ldr_net_after_on_net(m->base.env.net, m->latency_ms, &op->task);
    else
        end(&op->task);
}

static void answer_kind_on_net(struct ldr_op *op, enum larder_kind k)
{
    op->kind = k;
    answer_on_net(op, run_end);
}

/* ---- get, head ---- */

static enum larder_kind deliver(struct ldr_op *op, const struct item *it)
{
    uint64_t size = it->meta.size_bytes, offset = op->ranged ? op->offset : 0, length;
    char v[64];
    enum larder_kind k;

    ldr_meta_text(&it->meta, LDR_TAG_VALIDATOR, v, sizeof v);
    if (!ldr_meta_copy(&op->meta, &it->meta))
        return no_memory(op);
    if (op->if_none_match && !strcmp(op->if_none_match, v)) {
        op->not_modified = true;
        return LARDER_OK;
    }
    offset = offset < size ? offset : size;
    length = op->ranged && op->length < size - offset ? op->length : size - offset;
    k = op->sink->begin(op->sink, &op->meta, offset, length, &op->err);
    for (uint64_t done = 0, n; !k && done < length; done += n) {
        n = length - done < PIECE ? length - done : PIECE;
        k = op->sink->write(op->sink, it->bytes + offset + done, n, &op->err);
        op->bytes_in += n;
    }
    return k;
}

static void run_deliver(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    struct item *it = op->priv;
    enum larder_kind k;

    if (!it)
        k = ldr_fail(&op->err, LARDER_NOT_FOUND, "object \"%s\" does not exist", op->uri);
    else if (!(k = check_version(op, it)))
        k = op->what == LDR_OP_GET ? deliver(op, it) : ldr_meta_copy(&op->meta, &it->meta) ? LARDER_OK : no_memory(op);
    op->priv = NULL;
    item_unref(it);
    ldr_op_done(op, k);
}

static void memory_get(struct ldr_backend *b, struct ldr_op *op)
{
    op->backend = b;
    op->requests++;
    op->priv = find_ref((struct memory *)b, op->container, op->key);
    answer_on_net(op, run_deliver);
}

/* ---- uploads in parts ---- */

static enum larder_kind fail_upload(struct ldr_op *op)
{
    return ldr_fail(&op->err, LARDER_NOT_FOUND, "object \"%s\": there is no such upload", op->uri);
}

static void upload_free(struct upload *u)
{
    if (!u)
        return;
    for (uint32_t i = 0; i < u->n_parts; i++)
        item_unref(u->parts[i]);
    free(u->parts);
    ldr_meta_release(&u->meta);
    free(u->name);
    free(u);
}

/* Where the link of the op's upload is, or NULL is. Under mtx. */
static struct upload **upload_find(struct memory *m, const struct ldr_op *op)
{
    struct upload **at = &m->uploads;
    size_t n = strlen(op->container);

    while (*at && (strcmp((*at)->id, op->upload->id) != 0 || strncmp((*at)->name, op->container, n) != 0 ||
                   (*at)->name[n] != '/' || strcmp((*at)->name + n + 1, op->key) != 0))
        at = &(*at)->next;
    return at;
}

/* Take the op's upload out, its bytes still counted; NULL: there is none. */
static struct upload *upload_take(struct memory *m, const struct ldr_op *op)
{
    struct upload **at, *u;

    pthread_mutex_lock(&m->mtx);
    at = upload_find(m, op);
    u = *at;
    if (u) {
        *at = u->next;
        m->n_uploads--;
    }
    pthread_mutex_unlock(&m->mtx);
    return u;
}

static void upload_add(struct memory *m, struct upload *u)
{
    pthread_mutex_lock(&m->mtx);
    u->next = m->uploads;
    m->uploads = u;
    m->n_uploads++;
    pthread_mutex_unlock(&m->mtx);
}

static enum larder_kind upload_begin(struct memory *m, struct ldr_op *op)
{
    struct upload *u;
    uint8_t random[16];
    bool full;

    pthread_mutex_lock(&m->mtx);
    full = m->n_uploads >= UPLOADS_MAX;
    pthread_mutex_unlock(&m->mtx);
    if (full)
        return ldr_fail(&op->err, LARDER_LIMIT_EXCEEDED, "object \"%s\": %d uploads are under way already", op->uri,
                        UPLOADS_MAX);
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return ldr_fail_sys(&op->err, LARDER_INTERNAL, "no random number for an upload");
    u = calloc(1, sizeof *u);
    if (!u || asprintf(&u->name, "%s/%s", op->container, op->key) == -1) {
        free(u);
        return no_memory(op);
    }
    ldr_meta_init(&u->meta);
    if (op->put_meta && !ldr_meta_copy(&u->meta, op->put_meta)) {
        upload_free(u);
        return no_memory(op);
    }
    ldr_hex(random, sizeof random, u->id);
    snprintf(op->upload->id, sizeof op->upload->id, "%s", u->id);
    op->upload->algo = LDR_SUM_NONE;
    upload_add(m, u);
    return LARDER_OK;
}

/* Room for part `n`. Under mtx. */
static bool upload_reserve(struct upload *u, uint32_t n)
{
    uint32_t want = n < LDR_PARTS_MAX / 2 ? 2 * n : LDR_PARTS_MAX;
    struct item **parts = n <= u->n_parts ? u->parts : realloc(u->parts, want * sizeof *parts);

    if (!parts)
        return false;
    u->parts = parts;
    for (; u->n_parts < n; u->n_parts++)
        parts[u->n_parts] = NULL;
    return true;
}

/* Takes the item. */
static enum larder_kind upload_part(struct memory *m, struct ldr_op *op, struct item *it)
{
    uint64_t size = it->meta.size_bytes, old = 0;
    enum larder_kind k = LARDER_OK;
    struct upload *u;

    pthread_mutex_lock(&m->mtx);
    u = *upload_find(m, op);
    if (u && op->part <= u->n_parts && u->parts[op->part - 1])
        old = u->parts[op->part - 1]->meta.size_bytes;
    if (!u) {
        k = fail_upload(op);
    } else if (size > m->max_size - (m->size_bytes - old)) {
        k = fail_full(m, op, size);
    } else if (!upload_reserve(u, op->part)) {
        k = no_memory(op);
    } else {
        item_unref(u->parts[op->part - 1]);
        u->parts[op->part - 1] = it;
        it = NULL; /* the upload's now */
        u->size_bytes += size - old;
        m->size_bytes += size - old;
        op->upload->parts[op->part - 1] = (struct ldr_upload_part){ .size = size };
        op->bytes_out += op->what == LDR_OP_UPLOAD_PART ? size : 0;
    }
    pthread_mutex_unlock(&m->mtx);
    item_unref(it);
    return k;
}

static enum larder_kind check_part(struct ldr_op *op, uint64_t size)
{
    if (op->part >= 1 && op->part <= LDR_PARTS_MAX && size >= 1 && size <= PART_MAX)
        return LARDER_OK;
    return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\": part %" PRIu32 " of %" PRIu64 " bytes", op->uri, op->part,
                    size);
}

/* Are exactly the caller's parts there, each of its size, and do they make the whole? */
static enum larder_kind check_parts(struct ldr_op *op, const struct upload *u)
{
    const struct ldr_multipart *p = op->upload;
    uint64_t sum = 0;

    if (p->n_parts < 1 || p->n_parts > LDR_PARTS_MAX)
        return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\": an upload of %" PRIu32 " parts", op->uri, p->n_parts);
    for (uint32_t i = 0; i < p->n_parts; i++) {
        if (i >= u->n_parts || !u->parts[i] || p->parts[i].size == 0)
            return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\": part %" PRIu32 " is missing", op->uri, i + 1);
        if (p->parts[i].size != u->parts[i]->meta.size_bytes)
            return ldr_fail(&op->err, LARDER_INVALID,
                            "object \"%s\": part %" PRIu32 " has %" PRIu64 " bytes, not %" PRIu64, op->uri, i + 1,
                            u->parts[i]->meta.size_bytes, p->parts[i].size);
        sum += p->parts[i].size;
    }
    if (sum != op->size_bytes || sum != u->size_bytes)
        return ldr_fail(&op->err, LARDER_INVALID,
                        "object \"%s\" has %" PRIu64 " bytes, its parts %" PRIu64 " and what came of them %" PRIu64,
                        op->uri, op->size_bytes, sum, u->size_bytes);
    return LARDER_OK;
}

static enum larder_kind upload_end(struct memory *m, struct ldr_op *op)
{
    struct upload *u = upload_take(m, op);
    struct item *it = NULL;
    enum larder_kind k;
    uint8_t *p;

    if (!u)
        return fail_upload(op);
    if ((k = check_parts(op, u)))
        goto done;
    it = item_new(op, op->size_bytes);
    if (!it) {
        k = no_memory(op);
        goto done;
    }
    p = it->bytes;
    for (uint32_t i = 0; i < op->upload->n_parts; p += u->parts[i++]->meta.size_bytes)
        memcpy(p, u->parts[i]->bytes, u->parts[i]->meta.size_bytes);
    k = store_described(op, it, false, &u->meta, u->size_bytes);
done:
    if (k)
        upload_add(m, u); /* for another try or the abort */
    else
        upload_free(u);
    return k;
}

static void upload_abort(struct memory *m, const struct ldr_op *op)
{
    struct upload *u = upload_take(m, op);

    if (!u)
        return;
    pthread_mutex_lock(&m->mtx);
    m->size_bytes -= u->size_bytes;
    pthread_mutex_unlock(&m->mtx);
    upload_free(u);
}

/* ---- put, copy, delete ---- */

/* What a whole body is for. Takes the item. */
static void body_is_here_on_net(struct ldr_op *op, struct item *it)
{
    struct memory *m = (struct memory *)op->backend;

    answer_kind_on_net(op, op->what == LDR_OP_UPLOAD_PART ? upload_part(m, op, it)
                                                          : store_described(op, it, false, op->put_meta, 0));
}

static void run_loaded(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    struct item *it = op->priv;

    ldr_net_away_on_net(op->backend->env.net, -1);
    op->priv = NULL;
    if (op->kind) {
        item_unref(it);
        answer_kind_on_net(op, op->kind);
    } else {
        body_is_here_on_net(op, it);
    }
}

/* On the pool: read a body that is a file, then go back to the net thread. */
static void run_load(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    struct item *it = op->priv;
    uint64_t done = 0;

    op->kind = LARDER_OK;
    while (!op->kind && done < op->size_bytes) {
        ssize_t n = pread(op->fd, it->bytes + done, op->size_bytes - done, (off_t)done);

        if (n > 0)
            done += (uint64_t)n;
        else if (n == 0)
            op->kind = ldr_fail(&op->err, LARDER_IO, "the bytes to put as \"%s\" end at %" PRIu64 " of %" PRIu64,
                                op->uri, done, op->size_bytes);
        else if (errno != EINTR)
            op->kind = ldr_fail_sys(&op->err, LARDER_IO, "could not read the bytes to put as \"%s\"", op->uri);
    }
    op->task.run = run_loaded;
    ldr_net_post(op->backend->env.net, &op->task);
}

/* A put, or a part. */
static void memory_put(struct ldr_backend *b, struct ldr_op *op)
{
    struct item *it = item_new(op, op->size_bytes);

    op->backend = b;
    op->requests++;
    if (!it) {
        answer_kind_on_net(op, no_memory(op));
    } else if (op->bytes || op->size_bytes == 0) {
        if (op->size_bytes)
            memcpy(it->bytes, op->bytes, op->size_bytes);
        body_is_here_on_net(op, it);
    } else {
        op->priv = it;
        op->task.run = run_load;
        ldr_net_away_on_net(b->env.net, 1);
        ldr_pool_post(b->env.pool, &op->task);
    }
}

/* A reference to the object that the op copies from, of the version that it names. */
static enum larder_kind find_source(struct memory *m, struct ldr_op *op, struct item **out)
{
    struct ldr_op source = { .uri = op->from_uri, .if_match = op->if_match };
    enum larder_kind k;

    *out = find_ref(m, op->from_container, op->from_key);
    if (!*out)
        return ldr_fail(&op->err, LARDER_NOT_FOUND, "could not copy \"%s\": it does not exist", op->from_uri);
    if ((k = check_version(&source, *out)))
        op->err = source.err;
    return k;
}

static enum larder_kind copy(struct memory *m, struct ldr_op *op)
{
    struct item *from = NULL, *it;
    enum larder_kind k = find_source(m, op, &from);

    if (!k) {
        it = item_new(op, from->meta.size_bytes);
        if (it && ldr_meta_copy(&it->meta, &from->meta)) {
            memcpy(it->bytes, from->bytes, from->meta.size_bytes);
            it->meta.last_modified_s = time(NULL);
            k = store_described(op, it, true, NULL, 0);
        } else {
            item_unref(it);
            k = no_memory(op);
        }
    }
    item_unref(from);
    return k;
}

static void memory_copy(struct ldr_backend *b, struct ldr_op *op)
{
    op->backend = b;
    op->requests++;
    answer_kind_on_net(op, copy((struct memory *)b, op));
}

static enum larder_kind part_from_object(struct memory *m, struct ldr_op *op)
{
    struct item *from = NULL, *it;
    enum larder_kind k = find_source(m, op, &from);
    uint64_t size = k ? 0 : from->meta.size_bytes;

    if (!k && (op->offset > size || op->length > size - op->offset)) {
        k = ldr_fail(&op->err, LARDER_INVALID, "object \"%s\" has %" PRIu64 " bytes, not %" PRIu64 " from %" PRIu64,
                     op->from_uri, size, op->length, op->offset);
    } else if (!k && !(it = item_new(op, op->length))) {
        k = no_memory(op);
    } else if (!k) {
        memcpy(it->bytes, from->bytes + op->offset, op->length);
        k = upload_part(m, op, it);
    }
    item_unref(from);
    return k;
}

static void memory_upload(struct ldr_backend *b, struct ldr_op *op)
{
    struct memory *m = (struct memory *)b;
    bool part = op->what == LDR_OP_UPLOAD_PART, copies = op->what == LDR_OP_UPLOAD_COPY;
    enum larder_kind k = part || copies ? check_part(op, part ? op->size_bytes : op->length) : LARDER_OK;

    if (part && !k) {
        memory_put(b, op);
        return;
    }
    op->backend = b;
    op->requests++;
    if (copies && !k)
        k = part_from_object(m, op);
    else if (op->what == LDR_OP_UPLOAD_BEGIN)
        k = upload_begin(m, op);
    else if (op->what == LDR_OP_UPLOAD_END)
        k = upload_end(m, op);
    else if (op->what == LDR_OP_UPLOAD_ABORT)
        upload_abort(m, op);
    answer_kind_on_net(op, k);
}

/* Under mtx. */
static void remove_key(struct memory *m, const char *container, const char *key)
{
    struct item **slot = slot_find(m, name_hash(container, key), container, key);

    if (*slot)
        unlink_item(m, slot);
}

static void memory_del(struct ldr_backend *b, struct ldr_op *op)
{
    struct memory *m = (struct memory *)b;
    enum larder_kind k;

    op->backend = b;
    op->requests++;
    op->sent = true;
    pthread_mutex_lock(&m->mtx);
    k = check_version(op, *slot_find(m, name_hash(op->container, op->key), op->container, op->key));
    if (!k)
        remove_key(m, op->container, op->key);
    pthread_mutex_unlock(&m->mtx);
    answer_kind_on_net(op, k);
}

static void memory_delete_many(struct ldr_backend *b, struct ldr_op *op)
{
    struct memory *m = (struct memory *)b;

    op->backend = b;
    op->requests++;
    op->sent = true;
    pthread_mutex_lock(&m->mtx);
    for (size_t i = 0; i < op->n_items; i++) {
        remove_key(m, op->container, op->items[i].key);
        op->items[i].kind = LARDER_OK;
        op->items[i].why[0] = '\0';
    }
    pthread_mutex_unlock(&m->mtx);
    answer_kind_on_net(op, LARDER_OK);
}

/* A container is no more than the names in it. */
static void memory_make_container(struct ldr_backend *b, struct ldr_op *op)
{
    op->backend = b;
    op->requests++;
    answer_kind_on_net(op, LARDER_OK);
}

/* ---- list ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct item *const *)a)->name, (*(struct item *const *)b)->name);
}

/* The wanted items of a container, in order. NULL: out of memory. Under mtx. */
static struct item **find_wanted(struct memory *m, const struct ldr_paging *page, const char *container, size_t *n)
{
    struct item **all = malloc((m->n_items + 1) * sizeof *all);
    size_t len = strlen(container);

    *n = 0;
    for (size_t i = 0; all && i < m->n_buckets; i++)
        for (struct item *it = m->buckets[i]; it; it = it->next)
            if (!strncmp(it->name, container, len) && it->name[len] == '/' &&
                ldr_paging_wants(page, it->name + len + 1))
                all[(*n)++] = it;
    if (all)
        qsort(all, *n, sizeof *all, by_name);
    return all;
}

static void memory_list(struct ldr_backend *b, struct ldr_op *op)
{
    struct memory *m = (struct memory *)b;
    size_t n, len = strlen(op->container) + 1;
    enum larder_kind k = LARDER_OK;
    struct ldr_paging page;
    struct item **all;
    char etag[64];

    op->backend = b;
    op->requests++;
    ldr_paging_init(&page, op);
    pthread_mutex_lock(&m->mtx);
    all = find_wanted(m, &page, op->container, &n);
    if (!all)
        k = no_memory(op);
    for (size_t i = 0; !k && i < n && !page.full; i++) {
        const struct ldr_meta *meta = &all[i]->meta;

        ldr_meta_text(meta, LDR_TAG_ETAG, etag, sizeof etag);
        if (ldr_paging_wants(&page, all[i]->name + len))
            k = ldr_paging_add(&page, all[i]->name + len, meta->size_bytes, meta->last_modified_s, etag);
    }
    pthread_mutex_unlock(&m->mtx);
    free(all);
    if (!k)
        k = ldr_paging_end(&page);
    answer_kind_on_net(op, k);
}

/* ---- the backend ---- */

static void memory_close(struct ldr_backend *b)
{
    struct memory *m = (struct memory *)b;

    for (size_t i = 0; i < m->n_buckets; i++)
        while (m->buckets[i])
            unlink_item(m, &m->buckets[i]);
    for (struct upload *u; (u = m->uploads);) {
        m->uploads = u->next;
        upload_free(u);
    }
    free(m->buckets);
    pthread_mutex_destroy(&m->mtx);
    free(m);
}

static enum larder_kind read_number(const struct ldr_pair *p, uint64_t max, uint64_t *out, struct larder_err *err)
{
    unsigned long long n;
    char *end;

    errno = 0;
    n = strtoull(p->value, &end, 10);
    if (p->value[0] < '0' || p->value[0] > '9' || *end || errno || n > max)
        return ldr_fail(err, LARDER_INVALID, "setting \"%s\" of a memory store: \"%s\" is no number up to %" PRIu64,
                        p->name, p->value, max);
    *out = n;
    return LARDER_OK;
}

static enum larder_kind memory_open(const struct ldr_store_cfg *cfg, const struct ldr_backend_env *env,
                                    struct ldr_backend **out, struct larder_err *err)
{
    uint64_t latency_ms = 0, max_size = UINT64_MAX, fingerprint;
    struct memory *m;

    for (size_t i = 0; i < cfg->n_config; i++) {
        const struct ldr_pair *p = &cfg->config[i];
        enum larder_kind k = LARDER_OK;

        if (!strcmp(p->name, "latency_ms"))
            k = read_number(p, LATENCY_MAX_MS, &latency_ms, err);
        else if (!strcmp(p->name, "max_size"))
            k = read_number(p, UINT64_MAX, &max_size, err);
        else
            k = ldr_fail(err, LARDER_INVALID, "unknown setting \"%s\" of a memory store: it takes latency_ms, max_size",
                         p->name);
        if (k)
            return k;
    }
    if (getrandom(&fingerprint, sizeof fingerprint, 0) != (ssize_t)sizeof fingerprint)
        return ldr_fail_sys(err, LARDER_INTERNAL, "no random number for a memory store");
    m = calloc(1, sizeof *m);
    if (!m || !(m->buckets = calloc(BUCKETS_MIN, sizeof *m->buckets))) {
        free(m);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a memory store");
    }
    m->base = (struct ldr_backend){ .ops = &ldr_backend_memory, .env = *env };
    m->latency_ms = (uint32_t)latency_ms;
    m->max_size = max_size;
    m->fingerprint = fingerprint;
    m->n_buckets = BUCKETS_MIN;
    pthread_mutex_init(&m->mtx, NULL);
    *out = &m->base;
    return LARDER_OK;
}

static uint64_t memory_fingerprint(const struct ldr_backend *b)
{
    return ((const struct memory *)b)->fingerprint;
}

const struct ldr_backend_ops ldr_backend_memory = {
    .kind = "memory",
    .caps = LDR_CAP_RANGE | LDR_CAP_IF_MATCH | LDR_CAP_CREATE_ONLY | LDR_CAP_USER_META | LDR_CAP_PUT_IF_MATCH,
    .open = memory_open,
    .close = memory_close,
    .get = memory_get,
    .head = memory_get,
    .put = memory_put,
    .del = memory_del,
    .list = memory_list,
    .copy = memory_copy,
    .upload = memory_upload,
    .delete_many = memory_delete_many,
    .make_container = memory_make_container,
    .part_min = 1,
    .part_max = PART_MAX,
    .fingerprint = memory_fingerprint,
};
