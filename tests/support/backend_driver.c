/* backend_driver.c - see backend_driver.h. */
#include "tests/support/backend_driver.h"
#include "common/clock.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTINGS_MAX 16
#define CONNECTIONS  16
#define POOL_THREADS 4

struct bd {
    struct ldr_net *net;
    struct ldr_pool *pool;
    struct ldr_backend *backend;
    char scheme[16];
};

/* One op and the thread that waits for it. */
struct call {
    struct ldr_op op;
    struct ldr_sink sink;
    const struct bd_args *args;
    struct bd_result *r;
    const char *broken; /* the rule of backend.h that the backend broke */
    pthread_mutex_t mtx;
    pthread_cond_t cond;
    bool ended; /* under mtx */
};

static const struct bd_args no_args;

enum larder_kind bd_open(const char *kind, const char *scheme, const char *const settings[], struct bd **out,
                         struct larder_err *err)
{
    const struct ldr_backend_ops *ops = ldr_backend_find(kind);
    struct ldr_pair pairs[SETTINGS_MAX];
    struct ldr_store_cfg cfg = { .kind = kind, .scheme = scheme, .config = pairs };
    struct bd *d;
    enum larder_kind k;

    if (!ops)
        return ldr_fail(err, LARDER_INVALID, "no backend \"%s\": there are %s", kind, ldr_backend_kinds());
    for (; settings && settings[2 * cfg.n_config]; cfg.n_config++) {
        assert(cfg.n_config < SETTINGS_MAX);
        pairs[cfg.n_config] =
            (struct ldr_pair){ .name = settings[2 * cfg.n_config], .value = settings[2 * cfg.n_config + 1] };
    }
    d = calloc(1, sizeof *d);
    if (!d)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    snprintf(d->scheme, sizeof d->scheme, "%s", scheme);
    k = ldr_pool_new(POOL_THREADS, &d->pool, err);
    if (!k)
        k = ldr_net_new(&(struct ldr_net_cfg){ .connections_per_host = CONNECTIONS }, &d->net, err);
    if (!k)
        k = ops->open(&cfg, &(struct ldr_backend_env){ .net = d->net, .pool = d->pool }, &d->backend, err);
    if (k)
        bd_close(&d);
    else
        *out = d;
    return k;
}

void bd_close(struct bd **d)
{
    if (!*d)
        return;
    if ((*d)->backend)
        (*d)->backend->ops->close((*d)->backend);
    if ((*d)->net)
        ldr_net_free(&(*d)->net);
    ldr_pool_free(&(*d)->pool);
    free(*d);
    *d = NULL;
}

struct ldr_backend *bd_backend(struct bd *d)
{
    return d->backend;
}

void bd_result_release(struct bd_result *r)
{
    ldr_meta_release(&r->meta);
    ldr_buf_release(&r->bytes);
    ldr_page_release(&r->page);
}

/* ---- the sink ---- */

static enum larder_kind break_rule(struct call *c, struct larder_err *err, const char *rule)
{
    c->broken = rule;
    return ldr_fail(err, LARDER_INTERNAL, "%s", rule);
}

static enum larder_kind sink_begin(struct ldr_sink *s, const struct ldr_meta *meta, uint64_t offset, uint64_t length,
                                   struct larder_err *err)
{
    struct call *c = LDR_CONTAINER(s, struct call, sink);

    if (c->r->begins++)
        return break_rule(c, err, "begin() was called twice in one attempt");
    if (offset > meta->size_bytes || length > meta->size_bytes - offset)
        return break_rule(c, err, "begin() announced a part outside of the object");
    c->r->offset = offset;
    c->r->length = length;
    return LARDER_OK;
}

static enum larder_kind sink_write(struct ldr_sink *s, const void *p, size_t n, struct larder_err *err)
{
    struct call *c = LDR_CONTAINER(s, struct call, sink);
    enum larder_kind k;

    if (!c->r->begins)
        return break_rule(c, err, "write() came before begin()");
    if (n > c->r->length - c->r->bytes.len)
        return break_rule(c, err, "write() brought more than begin() announced");
    if (c->args->on_write && (k = c->args->on_write(c->args->user, c->r->bytes.len, err)))
        return k;
    if (!ldr_buf_add(&c->r->bytes, p, n))
        return ldr_fail(err, LARDER_NO_MEMORY, "the test keeps no more than %llu bytes",
                        (unsigned long long)BD_BODY_MAX);
    return LARDER_OK;
}

/* ---- calls ---- */

static void on_done(struct ldr_op *op)
{
    struct call *c = op->user;

    pthread_mutex_lock(&c->mtx);
    assert(!c->ended);
    c->ended = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->mtx);
}

static void run_on_net(struct ldr_task *t)
{
    ldr_op_start_on_net(LDR_CONTAINER(t, struct ldr_op, task));
}

static const char *broken_page(const struct ldr_op *op)
{
    const struct ldr_page *p = &op->page;
    size_t bytes = 0;

    for (size_t i = 0; i < p->n; i++) {
        bytes += strlen(p->entries[i].key) + (p->entries[i].etag ? strlen(p->entries[i].etag) : 0);
        if (strncmp(p->entries[i].key, op->key, strlen(op->key)) != 0)
            return "a listing told a key that does not begin with its prefix";
    }
    return op->kind && (p->n || p->next)    ? "a listing failed and told keys all the same"
           : p->n > op->max_entries         ? "a listing told more keys than were asked for"
           : p->next && !*p->next           ? "a listing goes on nowhere"
           : bytes != p->bytes              ? "a page does not know its size"
           : p->bytes >= LDR_PAGE_BYTES_MAX ? "a page is too large"
                                            : NULL;
}

/* Run the op: what it is about is set, the rest is set here. */
static enum larder_kind run(struct bd *d, const struct ldr_op *op, const struct bd_args *args, struct bd_result *r)
{
    struct call c = { .op = *op, .args = args ? args : &no_args, .r = r, .sink = { sink_begin, sink_write } };
    enum ldr_op_what what = op->what;
    char *uri = NULL, *from_uri = NULL;

    *r = (struct bd_result){ .bytes = LDR_BUF_INIT(BD_BODY_MAX) };
    ldr_meta_init(&r->meta);
    if (asprintf(&uri, "%s://%s/%s", d->scheme, op->container, op->key) == -1 ||
        asprintf(&from_uri, "%s://%s/%s", d->scheme, op->from_container ? op->from_container : "",
                 op->from_key ? op->from_key : "") == -1)
        abort();
    c.op.task.run = run_on_net;
    c.op.backend = d->backend;
    c.op.uri = uri;
    c.op.from_uri = from_uri;
    c.op.deadline_ns = ldr_deadline_ns(c.args->timeout_ms ? c.args->timeout_ms : BD_TIMEOUT_MS);
    c.op.sink = what == LDR_OP_GET ? &c.sink : NULL;
    c.op.done = on_done;
    c.op.user = &c;
    ldr_meta_init(&c.op.meta);
    pthread_mutex_init(&c.mtx, NULL);
    pthread_cond_init(&c.cond, NULL);

    ldr_net_post(d->net, &c.op.task);
    pthread_mutex_lock(&c.mtx);
    while (!c.ended)
        pthread_cond_wait(&c.cond, &c.mtx);
    pthread_mutex_unlock(&c.mtx);
    pthread_cond_destroy(&c.cond);
    pthread_mutex_destroy(&c.mtx);

    r->kind = c.op.kind;
    r->err = c.op.err;
    r->requests = c.op.requests;
    r->retry_after_ms = c.op.retry_after_ms;
    r->sent = c.op.sent;
    r->not_modified = c.op.not_modified;
    r->no_container = c.op.no_container;
    r->meta = c.op.meta; /* moved, as is the page */
    r->page = c.op.page;
    ldr_meta_text(&r->meta, LDR_TAG_VALIDATOR, r->validator, sizeof r->validator);
    ldr_meta_text(&r->meta, LDR_TAG_ETAG, r->etag, sizeof r->etag);
    if (what == LDR_OP_LIST && broken_page(&c.op))
        c.broken = broken_page(&c.op);
    if (r->not_modified && (what != LDR_OP_GET || r->kind || r->begins))
        c.broken = "an op ended as not modified that is no get, failed, or called its sink";
    if (what == LDR_OP_GET && !r->kind && !r->not_modified && (!r->begins || r->bytes.len != r->length))
        c.broken = "a get ended OK without the bytes that begin() announced";
    if (r->kind && r->kind != r->err.kind)
        c.broken = "an op failed without a message";
    if (c.broken)
        r->kind = ldr_fail(&r->err, LARDER_INTERNAL, "%s", c.broken);
    free(uri);
    free(from_uri);
    return r->kind;
}

static enum larder_kind call_from(struct bd *d, enum ldr_op_what what, const char *container, const char *from,
                                  const char *key, const void *bytes, int fd, uint64_t size, const struct bd_args *args,
                                  struct bd_result *r)
{
    const struct bd_args *a = args ? args : &no_args;

    return run(d,
               &(struct ldr_op){ .what = what,
                                 .container = container,
                                 .key = key,
                                 .ranged = a->ranged,
                                 .offset = a->offset,
                                 .length = a->length,
                                 .if_match = a->if_match,
                                 .if_none_match = a->if_none_match,
                                 .delimiter = a->delimiter,
                                 .start = a->start,
                                 .max_entries = a->max_entries ? a->max_entries : LDR_PAGE_ENTRIES_MAX,
                                 .from_container = container,
                                 .from_key = from,
                                 .bytes = bytes,
                                 .fd = fd,
                                 .size_bytes = size,
                                 .put_meta = a->put_meta,
                                 .create_only = a->create_only },
               a, r);
}

enum larder_kind bd_op(struct bd *d, const struct ldr_op *op, struct bd_result *r)
{
    return run(d, op, NULL, r);
}

static enum larder_kind call(struct bd *d, enum ldr_op_what what, const char *container, const char *key,
                             const void *bytes, int fd, uint64_t size, const struct bd_args *args, struct bd_result *r)
{
    return call_from(d, what, container, NULL, key, bytes, fd, size, args, r);
}

enum larder_kind bd_get(struct bd *d, const char *container, const char *key, const struct bd_args *args,
                        struct bd_result *r)
{
    return call(d, LDR_OP_GET, container, key, NULL, -1, 0, args, r);
}

enum larder_kind bd_head(struct bd *d, const char *container, const char *key, struct bd_result *r)
{
    return call(d, LDR_OP_HEAD, container, key, NULL, -1, 0, NULL, r);
}

enum larder_kind bd_put(struct bd *d, const char *container, const char *key, const void *bytes, uint64_t size,
                        const struct bd_args *args, struct bd_result *r)
{
    return call(d, LDR_OP_PUT, container, key, bytes, -1, size, args, r);
}

enum larder_kind bd_put_fd(struct bd *d, const char *container, const char *key, int fd, uint64_t size,
                           const struct bd_args *args, struct bd_result *r)
{
    return call(d, LDR_OP_PUT, container, key, NULL, fd, size, args, r);
}

enum larder_kind bd_delete(struct bd *d, const char *container, const char *key, struct bd_result *r)
{
    return call(d, LDR_OP_DELETE, container, key, NULL, -1, 0, NULL, r);
}

enum larder_kind bd_list(struct bd *d, const char *container, const char *prefix, const struct bd_args *args,
                         struct bd_result *r)
{
    return call(d, LDR_OP_LIST, container, prefix, NULL, -1, 0, args, r);
}

enum larder_kind bd_copy(struct bd *d, const char *container, const char *from, const char *to, struct bd_result *r)
{
    return call_from(d, LDR_OP_COPY, container, from, to, NULL, -1, 0, NULL, r);
}

uint8_t *bd_bytes(uint64_t n, uint64_t seed)
{
    uint8_t *p = malloc(n ? n : 1);
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;

    if (!p)
        abort();
    for (uint64_t i = 0; i < n; i++) { /* xorshift64 */
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)(x >> 32);
    }
    return p;
}
