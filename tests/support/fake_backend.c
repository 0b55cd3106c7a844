/* fake_backend.c - see fake_backend.h. */
#include "tests/support/fake_backend.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ANSWERS_MAX 16
#define HELD_MAX    256

struct object {
    struct object *next;
    char *uri;
    uint8_t *bytes;
    uint64_t size;
};

struct upload {
    struct upload *next;
    char id[32];
    char *uri;
    struct object *part[64];
};

struct fake_backend {
    struct ldr_backend base;
    struct ldr_backend_ops ops; /* of this one */
    void (*on_op)(void *user, const struct ldr_op *op);
    void *user;
    pthread_mutex_t mtx;
    /* under mtx */
    struct fake_answer answers[LDR_OP_WHATS][ANSWERS_MAX];
    size_t n_answers[LDR_OP_WHATS], next[LDR_OP_WHATS];
    unsigned seen[LDR_OP_WHATS];
    struct ldr_op *held[HELD_MAX];
    size_t n_held;
    bool hold, any;
    int hold_only; /* -1: all */
    bool keeps, lost;
    struct object *objects;
    struct upload *uploads;
    unsigned n_uploads;
    uint64_t any_size;
    unsigned any_fail_every, any_count;
};

/* ---- the answers ---- */

static uint8_t any_byte(const char *key, size_t n, uint64_t i)
{
    return (uint8_t)(key[i % n] + i / n);
}

void fake_body(const char *key, void *out, uint64_t size)
{
    size_t n = strlen(key);

    for (uint64_t i = 0; i < size; i++)
        ((uint8_t *)out)[i] = any_byte(key, n, i);
}

bool fake_body_is(const char *key, const void *p, uint64_t size)
{
    const uint8_t *b = p;
    size_t n = strlen(key);

    for (uint64_t i = 0; i < size; i++)
        if (b[i] != any_byte(key, n, i))
            return false;
    return true;
}

static struct fake_answer pick(struct fake_backend *f, const struct ldr_op *op)
{
    struct fake_answer a = { .kind = LARDER_INTERNAL };

    pthread_mutex_lock(&f->mtx);
    if (f->any) {
        a = (struct fake_answer){ .size = f->any_size, .validator = "\"any\"" };
        if (f->any_fail_every && ++f->any_count % f->any_fail_every == 0)
            a = (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .sent = true };
    } else if (f->n_answers[op->what]) {
        a = f->answers[op->what][f->next[op->what]];
        if (f->next[op->what] + 1 < f->n_answers[op->what])
            f->next[op->what]++;
    } else if (f->keeps && (op->what >= LDR_OP_UPLOAD_BEGIN || op->what == LDR_OP_PUT)) {
        a = (struct fake_answer){ .validator = "\"kept\"" };
    }
    pthread_mutex_unlock(&f->mtx);
    return a;
}

static void describe(struct ldr_op *op, const struct fake_answer *a)
{
    op->meta.size_bytes = a->size;
    op->meta.last_modified_s = 1700000000;
    if (a->validator)
        ldr_meta_add_text(&op->meta, LDR_TAG_VALIDATOR, a->validator);
    for (const char *const *s = op->what == LDR_OP_HEAD ? a->sums : NULL; s && *s; s += 2)
        ldr_meta_add_pair(&op->meta, LDR_TAG_CHECKSUM, s[0], s[1]);
}

static enum larder_kind deliver(struct ldr_op *op, const struct fake_answer *a)
{
    bool ranged = op->ranged && !a->ignore_range;
    uint64_t from = !ranged ? 0 : op->offset < a->size ? op->offset : a->size, len = ranged ? op->length : a->size;
    uint64_t until;
    uint8_t *made = NULL;
    const uint8_t *body = a->body;
    enum larder_kind k;

    if (op->ranged && a->ignore_range && op->offset)
        return ldr_fail(&op->err, LARDER_UNSUPPORTED, "the fake store has no ranges");
    if (op->if_match && a->validator && strcmp(op->if_match, a->validator) != 0)
        return ldr_fail_http(&op->err, LARDER_PRECONDITION, 412, "\"%s\" has changed", op->uri);
    if (op->if_none_match && a->validator && !strcmp(op->if_none_match, a->validator)) {
        op->not_modified = true;
        describe(op, a);
        return LARDER_OK;
    }
    if (len > a->size - from)
        len = a->size - from;
    if (!body && len) { /* fake_serve_any() */
        made = malloc(a->size);
        if (!made)
            abort();
        fake_body(op->key, made, a->size);
        body = made;
    }
    describe(op, a);
    k = op->sink->begin(op->sink, &op->meta, from, len, &op->err);
    if (a->pause_ms)
        nanosleep(&(struct timespec){ .tv_nsec = a->pause_ms * 1000000L }, NULL);
    until = a->cut_at && a->cut_at < len ? a->cut_at : len;
    for (uint64_t at = 0; !k && at < until;) {
        size_t n = until - at < 100 * LDR_KIB ? (size_t)(until - at) : 100 * LDR_KIB;

        k = op->sink->write(op->sink, body + from + at, n, &op->err);
        op->bytes_in += n;
        at += n;
    }
    if (!k && a->more)
        k = op->sink->write(op->sink, "!", 1, &op->err);
    if (!k && until < len)
        k = ldr_fail(&op->err, LARDER_UNAVAILABLE, "the connection ended after %" PRIu64 " bytes", until);
    free(made);
    return k;
}

static void list(struct ldr_op *op, const struct fake_answer *a)
{
    for (const char *const *key = a->keys; key && *key; key++) {
        bool group = **key && (*key)[strlen(*key) - 1] == '/';

        if (!ldr_page_add(&op->page, *key, group, group ? 0 : a->size, group ? LDR_TIME_UNKNOWN : 1700000000,
                          group ? NULL : "etag"))
            abort();
    }
    if (a->next && !(op->page.next = strdup(a->next)))
        abort();
}

/* ---- what is written ---- */

static void object_free(struct object *o)
{
    if (o) {
        free(o->uri);
        free(o->bytes);
        free(o);
    }
}

static struct object *object_new(const char *uri, uint64_t size)
{
    struct object *o = calloc(1, sizeof *o);

    if (!o || !(o->uri = strdup(uri)) || !(o->bytes = malloc(size + 1)))
        abort();
    o->size = size;
    return o;
}

static struct object *object_of_op(const struct ldr_op *op)
{
    struct object *o = object_new(op->uri, op->size_bytes);

    if (op->bytes && op->size_bytes)
        memcpy(o->bytes, op->bytes, op->size_bytes);
    else if (op->size_bytes && pread(op->fd, o->bytes, op->size_bytes, 0) != (ssize_t)op->size_bytes)
        abort(); /* shorter than was said */
    return o;
}

/* Under mtx, as those that follow. */
static struct object **object_find(struct fake_backend *f, const char *uri)
{
    struct object **at = &f->objects;

    while (*at && strcmp((*at)->uri, uri))
        at = &(*at)->next;
    return at;
}

static void object_set(struct fake_backend *f, struct object *o)
{
    struct object **at = object_find(f, o->uri), *old = *at;

    o->next = old ? old->next : NULL;
    *at = o;
    object_free(old);
}

static struct upload **upload_find(struct fake_backend *f, const char *id)
{
    struct upload **at = &f->uploads;

    while (*at && strcmp((*at)->id, id))
        at = &(*at)->next;
    return at;
}

static void upload_drop(struct upload **at)
{
    struct upload *u = *at;

    *at = u->next;
    for (size_t i = 0; i < LDR_ARRAY_LEN(u->part); i++)
        object_free(u->part[i]);
    free(u->uri);
    free(u);
}

static void upload_begin(struct fake_backend *f, struct ldr_op *op)
{
    struct upload *u = calloc(1, sizeof *u);

    if (!u || !(u->uri = strdup(op->uri)))
        abort();
    snprintf(u->id, sizeof u->id, "upload-%u", ++f->n_uploads);
    strcpy(op->upload->id, u->id);
    op->upload->algo = LDR_SUM_NONE;
    u->next = f->uploads;
    f->uploads = u;
}

static enum larder_kind upload_part(struct fake_backend *f, struct ldr_op *op)
{
    struct upload *u = *upload_find(f, op->upload->id);
    struct object *source, *o;

    if (op->upload->part_size == 0)
        abort();
    if (!u || op->part == 0 || op->part > LDR_ARRAY_LEN(u->part))
        return ldr_fail_http(&op->err, LARDER_NOT_FOUND, 404, "no such upload, or part");
    if (op->what == LDR_OP_UPLOAD_PART) {
        o = object_of_op(op);
    } else {
        source = *object_find(f, op->from_uri);
        if (!source || op->offset + op->length > source->size)
            return ldr_fail_http(&op->err, LARDER_NOT_FOUND, 404, "no such source");
        o = object_new(op->uri, op->length);
        memcpy(o->bytes, source->bytes + op->offset, op->length);
    }
    object_free(u->part[op->part - 1]);
    u->part[op->part - 1] = o;
    op->upload->parts[op->part - 1].size = o->size;
    snprintf(op->upload->parts[op->part - 1].etag, 72, "\"part-%u\"", op->part);
    return LARDER_OK;
}

static enum larder_kind upload_end(struct fake_backend *f, struct ldr_op *op)
{
    struct upload **at = upload_find(f, op->upload->id), *u = *at;
    struct object *o = object_new(op->uri, op->size_bytes);
    uint64_t size = 0;

    if (!u) {
        object_free(o);
        return ldr_fail_http(&op->err, LARDER_NOT_FOUND, 404, "no such upload");
    }
    for (uint32_t i = 0; i < op->upload->n_parts; i++) {
        const struct object *p = u->part[i];

        if (!p || size + p->size > o->size || (i + 1 < op->upload->n_parts && p->size < f->ops.part_min) ||
            op->upload->parts[i].size != p->size)
            abort(); /* a store would refuse: a bug of whoever sends */
        memcpy(o->bytes + size, p->bytes, p->size);
        size += p->size;
    }
    if (size != o->size)
        abort();
    object_set(f, o);
    upload_drop(at);
    return LARDER_OK;
}

static enum larder_kind carry_out(struct fake_backend *f, struct ldr_op *op)
{
    enum larder_kind k = LARDER_OK;
    struct upload **at;

    pthread_mutex_lock(&f->mtx);
    switch (op->what) {
    case LDR_OP_PUT:
        object_set(f, object_of_op(op));
        break;
    case LDR_OP_UPLOAD_BEGIN:
        upload_begin(f, op);
        break;
    case LDR_OP_UPLOAD_PART:
    case LDR_OP_UPLOAD_COPY:
        k = upload_part(f, op);
        break;
    case LDR_OP_UPLOAD_END:
        k = upload_end(f, op);
        break;
    case LDR_OP_UPLOAD_ABORT:
        at = upload_find(f, op->upload->id);
        if (*at)
            upload_drop(at);
        break;
    default:
        break;
    }
    pthread_mutex_unlock(&f->mtx);
    return k;
}

static void delete_items(struct ldr_op *op)
{
    for (size_t i = 0; i < op->n_items; i++)
        if (!strncmp(op->items[i].key, "denied", 6)) {
            op->items[i].kind = LARDER_DENIED;
            snprintf(op->items[i].why, sizeof op->items[i].why, "the fake store denies \"%.100s\"", op->items[i].uri);
        }
}

static void sign(struct ldr_op *op)
{
    struct ldr_signing *s = op->sign;

    ldr_buf_addf(&s->url, "https://fake/%s?%s&t=%lld", op->key, s->put ? "put" : "get", (long long)s->lifetime_s);
    if (s->content_md5)
        ldr_buf_addf(&s->headers, "Content-MD5: %s\n", s->content_md5);
    if (s->content_type)
        ldr_buf_addf(&s->headers, "Content-Type: %s\n", s->content_type);
    s->expires_s = 1700000000 + s->lifetime_s;
}

static bool container_lost(struct fake_backend *f, struct ldr_op *op)
{
    bool lost;

    pthread_mutex_lock(&f->mtx);
    if (op->what == LDR_OP_MAKE_CONTAINER)
        f->lost = false;
    lost = f->lost && (op->what == LDR_OP_PUT || op->what == LDR_OP_COPY || op->what == LDR_OP_UPLOAD_BEGIN);
    pthread_mutex_unlock(&f->mtx);
    return lost;
}

static void answer(struct fake_backend *f, struct ldr_op *op)
{
    struct fake_answer a = pick(f, op);
    enum larder_kind k = a.kind;

    op->requests++;
    op->retry_after_ms = a.retry_after_ms;
    op->throttled = a.throttled;
    op->sent = a.sent || (!k && op->what != LDR_OP_GET && op->what != LDR_OP_HEAD && op->what != LDR_OP_LIST);
    if (!k && container_lost(f, op)) {
        op->no_container = true;
        op->sent = false;
        k = ldr_fail_http(&op->err, LARDER_NOT_FOUND, 404, "there is no container \"%s\"", op->container);
    } else if (k) {
        ldr_fail_http(&op->err, k, a.http, "the fake store says %s", larder_kind_name(k));
    } else if (op->what == LDR_OP_GET) {
        k = deliver(op, &a);
    } else if (op->what == LDR_OP_LIST) {
        list(op, &a);
    } else if (op->what == LDR_OP_DELETE_MANY) {
        delete_items(op);
    } else if (op->what == LDR_OP_SIGN) {
        sign(op);
    } else {
        k = f->keeps ? carry_out(f, op) : LARDER_OK;
        if (op->what == LDR_OP_PUT || op->what == LDR_OP_UPLOAD_END)
            a.size = op->size_bytes;
        if (!k)
            describe(op, &a);
    }
    ldr_op_done(op, k);
}

/* ---- the vtable ---- */

static void arrived(struct ldr_backend *b, struct ldr_op *op)
{
    struct fake_backend *f = LDR_CONTAINER(b, struct fake_backend, base);
    bool hold;

    if (f->on_op)
        f->on_op(f->user, op);
    pthread_mutex_lock(&f->mtx);
    f->seen[op->what]++;
    hold = f->hold && (f->hold_only < 0 || f->hold_only == (int)op->what) && f->n_held < HELD_MAX &&
           !ldr_net_stopping(f->base.env.net);
    if (hold)
        f->held[f->n_held++] = op;
    pthread_mutex_unlock(&f->mtx);
    if (!hold)
        answer(f, op);
}

static void closed(struct ldr_backend *b)
{
    (void)b;
}

static uint64_t fingerprint(const struct ldr_backend *b)
{
    (void)b;
    return 42;
}

static const struct ldr_backend_ops fake_ops = { .kind = "fake",
                                                 .caps = LDR_CAP_RANGE | LDR_CAP_IF_MATCH,
                                                 .close = closed,
                                                 .get = arrived,
                                                 .head = arrived,
                                                 .put = arrived,
                                                 .del = arrived,
                                                 .list = arrived,
                                                 .copy = arrived,
                                                 .fingerprint = fingerprint };

/* ---- what a test does ---- */

struct fake_backend *fake_new(struct ldr_net *net, struct ldr_pool *pool)
{
    struct fake_backend *f = calloc(1, sizeof *f);

    if (!f)
        abort();
    f->ops = fake_ops;
    f->base = (struct ldr_backend){ .ops = &f->ops, .env = { .net = net, .pool = pool } };
    pthread_mutex_init(&f->mtx, NULL);
    return f;
}

void fake_free(struct fake_backend **f)
{
    if (!*f)
        return;
    while ((*f)->uploads)
        upload_drop(&(*f)->uploads);
    while ((*f)->objects) {
        struct object *o = (*f)->objects;

        (*f)->objects = o->next;
        object_free(o);
    }
    pthread_mutex_destroy(&(*f)->mtx);
    free(*f);
    *f = NULL;
}

struct ldr_backend *fake_base(struct fake_backend *f)
{
    return &f->base;
}

void fake_say(struct fake_backend *f, enum ldr_op_what what, struct fake_answer a)
{
    pthread_mutex_lock(&f->mtx);
    if (f->n_answers[what] == ANSWERS_MAX)
        abort();
    f->answers[what][f->n_answers[what]++] = a;
    pthread_mutex_unlock(&f->mtx);
}

void fake_silence(struct fake_backend *f, enum ldr_op_what what)
{
    pthread_mutex_lock(&f->mtx);
    f->n_answers[what] = f->next[what] = 0;
    pthread_mutex_unlock(&f->mtx);
}

void fake_caps(struct fake_backend *f, unsigned caps)
{
    f->ops.caps = caps;
}

void fake_no_copy(struct fake_backend *f)
{
    f->ops.copy = NULL;
}

void fake_takes_parts(struct fake_backend *f, uint64_t part_min, uint64_t part_max)
{
    f->ops.upload = arrived;
    f->ops.part_min = part_min;
    f->ops.part_max = part_max;
    f->keeps = true;
}

void fake_deletes_many(struct fake_backend *f)
{
    f->ops.delete_many = arrived;
}

void fake_signs(struct fake_backend *f)
{
    f->ops.sign = arrived;
}

void fake_makes_containers(struct fake_backend *f)
{
    f->ops.make_container = arrived;
}

void fake_copy_max(struct fake_backend *f, uint64_t bytes)
{
    f->ops.copy_max = bytes;
}

void fake_lose_containers(struct fake_backend *f)
{
    pthread_mutex_lock(&f->mtx);
    f->lost = true;
    pthread_mutex_unlock(&f->mtx);
}

unsigned fake_open_uploads(struct fake_backend *f)
{
    const struct upload *u;
    unsigned n = 0;

    pthread_mutex_lock(&f->mtx);
    for (u = f->uploads; u; u = u->next)
        n++;
    pthread_mutex_unlock(&f->mtx);
    return n;
}

const uint8_t *fake_object(struct fake_backend *f, const char *uri, uint64_t *size)
{
    const struct object *o;

    pthread_mutex_lock(&f->mtx);
    o = *object_find(f, uri);
    pthread_mutex_unlock(&f->mtx);
    *size = o ? o->size : 0;
    return o ? o->bytes : NULL;
}

void fake_serve_any(struct fake_backend *f, uint64_t size, unsigned fail_every)
{
    pthread_mutex_lock(&f->mtx);
    f->any = true;
    f->any_size = size;
    f->any_fail_every = fail_every;
    pthread_mutex_unlock(&f->mtx);
}

void fake_on_op(struct fake_backend *f, void (*on_op)(void *user, const struct ldr_op *op), void *user)
{
    f->on_op = on_op;
    f->user = user;
}

struct release {
    struct ldr_task task;
    struct fake_backend *fake;
    struct ldr_op *op;
};

static void release_on_net(struct ldr_task *t)
{
    struct release *r = LDR_CONTAINER(t, struct release, task);

    answer(r->fake, r->op);
    free(r);
}

bool fake_let(struct fake_backend *f)
{
    struct ldr_op *op = NULL;
    struct release *r;

    pthread_mutex_lock(&f->mtx);
    if (f->n_held) {
        op = f->held[0];
        memmove(f->held, f->held + 1, --f->n_held * sizeof f->held[0]);
    }
    pthread_mutex_unlock(&f->mtx);
    if (!op)
        return false;
    r = malloc(sizeof *r);
    if (!r)
        abort();
    *r = (struct release){ .task.run = release_on_net, .fake = f, .op = op };
    ldr_net_post(f->base.env.net, &r->task);
    return true;
}

void fake_hold(struct fake_backend *f, bool hold)
{
    pthread_mutex_lock(&f->mtx);
    f->hold = hold;
    f->hold_only = -1;
    pthread_mutex_unlock(&f->mtx);
    while (!hold && fake_let(f)) {
    }
}

void fake_hold_only(struct fake_backend *f, enum ldr_op_what what)
{
    pthread_mutex_lock(&f->mtx);
    f->hold = true;
    f->hold_only = (int)what;
    pthread_mutex_unlock(&f->mtx);
}

unsigned fake_seen(struct fake_backend *f, enum ldr_op_what what)
{
    unsigned n;

    pthread_mutex_lock(&f->mtx);
    n = f->seen[what];
    pthread_mutex_unlock(&f->mtx);
    return n;
}

unsigned fake_held(struct fake_backend *f)
{
    unsigned n;

    pthread_mutex_lock(&f->mtx);
    n = (unsigned)f->n_held;
    pthread_mutex_unlock(&f->mtx);
    return n;
}
