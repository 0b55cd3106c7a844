/* fake_larder.c - client/larder.h without cache and agent, for tests of programs that use it.
 * Objects are files below $FAKE_LARDER_DIR, so that several processes share them. Keys that end in a magic segment:
 *   fail-KIND    every call fails with that kind (common/kinds.tbl.h); denied ones with HTTP 403
 *   large-N      N bytes 'x', too large for a view: only larder_stream() gives them
 *   cut-N        likewise, but the stream fails after N bytes (UNAVAILABLE)
 *   gate-N       as large-N; after its first piece the stream waits until $FAKE_LARDER_DIR/gate exists
 *   wait-N       every call waits for that file first
 *   cold…        with a timeout of 0 a read finds nothing in the cache
 *   moved-N      N bytes 'x', whose version is another one at each look
 *   plain…       as the target of a put or copy: metadata is UNSUPPORTED
 *   full-N       as the target of a writer: no more than N bytes (UNAVAILABLE)
 *   gate-N       as the target of a writer: behind its first piece it waits for the gate
 *   unsigned…    UNSUPPORTED to be signed
 * Listings come in pages of FAKE_PAGE entries. $FAKE_LARDER_DIR/calls gets a line for each larder_get_many(),
 * larder_get_range(), larder_read(), larder_list(), larder_copy(), larder_writer_open() and larder_delete_many(). While $FAKE_LARDER_DIR/no-agent exists, no agent
 * answers to larder_status() and larder_why().
 * As a connection would, $FAKE_LARDER_DIR/connection is held open for writing; nothing is ever written to it.
 * Every call but those on objects put before counts as a request to the agent. */
#include "client/larder.h"
#include "common/fail.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAKE_PUT_MAX ((size_t)8 << 20) /* of larder_put(): the program takes a writer beyond */
#define FAKE_PIECE   ((size_t)64 << 10)
#define FAKE_USER    8
#define FAKE_HEADERS 5 /* texts of the metadata, in the order of `headers` */
#define FAKE_PAGE    5
#define FAKE_KEYS    512
#define FAKE_TIME    1767225600 /* 2026-01-01 */

struct larder {
    char *dir;
    FILE *connection;
    char cache_dir[256];
    struct larder_counts counts;
};

struct larder_object {
    size_t size;
    uint64_t offset, total, id;
    int asked;
    char bytes[];
};

struct larder_meta {
    int exists;
    uint64_t size;
    char *text;                          /* of the file: NUL-terminated strings */
    const char *header[FAKE_HEADERS];    /* into text; NULL: none */
    const char *user[2 * FAKE_USER + 1]; /* into text; name, value, … */
    size_t n_user;
};

static const char *last_segment(const char *uri)
{
    const char *slash = strrchr(uri, '/');

    return slash ? slash + 1 : uri;
}

/* The number behind a magic word; false: the key is another one. */
static bool magic(const char *uri, const char *word, uint64_t *out)
{
    const char *s = last_segment(uri);

    if (strncmp(s, word, strlen(word)) != 0)
        return false;
    *out = strtoull(s + strlen(word), NULL, 10);
    return true;
}

static char *path_of(const struct larder *l, const char *uri, const char *suffix)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a: any key becomes a file name */
    char *path = NULL;

    for (; *uri; uri++)
        h = (h ^ (unsigned char)*uri) * UINT64_C(0x100000001b3);
    return asprintf(&path, "%s/%016" PRIx64 ".%s", l->dir, h, suffix) == -1 ? NULL : path;
}

static void wait_for_gate(const struct larder *l)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/gate", l->dir);
    while (access(path, F_OK) == -1)
        usleep(5000);
}

static void note(const struct larder *l, const char *fmt, ...)
{
    char path[4096];
    FILE *f;
    va_list ap;

    snprintf(path, sizeof path, "%s/calls", l->dir);
    f = fopen(path, "a");
    if (!f)
        return;
    va_start(ap, fmt);
    vfprintf(f, fmt, ap);
    va_end(ap);
    fclose(f);
}

static bool agent_absent(const struct larder *l)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/no-agent", l->dir);
    return !strcmp(l->cache_dir, "absent") || access(path, F_OK) == 0;
}

/* What every call does first. */
static enum larder_kind enter(struct larder *l, const char *uri, int timeout_ms, struct larder_err *err)
{
    const char *s = last_segment(uri);
    uint64_t n;

    if (!strstr(uri, "://"))
        return ldr_fail(err, LARDER_INVALID, "\"%s\" has no scheme", uri);
    if (!strncmp(s, "fail-", 5))
        for (int k = 1; k <= LARDER_INTERNAL; k++)
            if (!strcmp(s + 5, larder_kind_name((enum larder_kind)k)))
                return k == LARDER_DENIED ? ldr_fail_http(err, LARDER_DENIED, 403, "the store said no")
                                          : ldr_fail(err, (enum larder_kind)k, "made to fail");
    if (magic(uri, "wait-", &n))
        wait_for_gate(l);
    if (timeout_ms == 0 && magic(uri, "cold", &n))
        return ldr_fail(err, LARDER_TIMEOUT, "not in the cache, and no time to ask");
    return LARDER_OK;
}

static char *read_whole(const char *path, size_t *out_len)
{
    FILE *f = path ? fopen(path, "rb") : NULL;
    struct stat st;
    char *p = NULL;

    if (f && fstat(fileno(f), &st) == 0)
        p = malloc((size_t)st.st_size + 1);
    if (p) {
        *out_len = fread(p, 1, (size_t)st.st_size, f);
        p[*out_len] = '\0';
    }
    if (f)
        fclose(f);
    return p;
}

static bool write_whole(const char *path, const void *data, size_t len)
{
    FILE *f = path ? fopen(path, "wb") : NULL;
    bool ok = f && fwrite(data, 1, len, f) == len;

    return f && fclose(f) == 0 && ok;
}

enum larder_kind larder_open(const char *dir, struct larder **out, struct larder_err *err)
{
    struct larder *l = calloc(1, sizeof *l);
    const char *store = getenv("FAKE_LARDER_DIR");
    char path[4096];

    if (!l || !store) {
        free(l);
        return ldr_fail(err, LARDER_INTERNAL, "FAKE_LARDER_DIR is not set");
    }
    l->dir = strdup(store);
    snprintf(l->cache_dir, sizeof l->cache_dir, "%s", dir ? dir : "");
    snprintf(path, sizeof path, "%s/connection", store);
    l->connection = fopen(path, "a");
    *out = l;
    return LARDER_OK;
}

void larder_close(struct larder **l)
{
    if (*l && (*l)->connection)
        fclose((*l)->connection);
    if (*l)
        free((*l)->dir);
    free(*l);
    *l = NULL;
}

static struct larder_object *object_new(const char *bytes, size_t len, size_t total)
{
    struct larder_object *o = calloc(1, sizeof *o + len + 1);

    if (!o)
        return NULL;
    o->size = len;
    o->total = total;
    o->id = 1;
    memcpy(o->bytes, bytes, len);
    return o;
}

enum larder_kind larder_get(struct larder *l, const char *uri, int timeout_ms, struct larder_object **out,
                            struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    struct larder_object *o;
    char *path, *bytes;
    size_t len = 0;
    uint64_t n;

    if (k || magic(uri, "large-", &n) || magic(uri, "cut-", &n) || magic(uri, "gate-", &n)) {
        __atomic_fetch_add(&l->counts.asks, 1, __ATOMIC_RELAXED);
        return k ? k : ldr_fail(err, LARDER_LIMIT_EXCEEDED, "too large for a view");
    }
    path = path_of(l, uri, "data");
    bytes = read_whole(path, &len);
    free(path);
    if (!bytes) {
        __atomic_fetch_add(&l->counts.asks, 1, __ATOMIC_RELAXED);
        return ldr_fail_http(err, LARDER_NOT_FOUND, 404, "there is no such object");
    }
    o = object_new(bytes, len, len);
    free(bytes);
    if (!o)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    *out = o;
    __atomic_fetch_add(&l->counts.hits, 1, __ATOMIC_RELAXED);
    return LARDER_OK;
}

/* All bytes of the object, those of a magic one, too; *out is ended by free(). */
static enum larder_kind whole(struct larder *l, const char *uri, int timeout_ms, char **out, size_t *len,
                              struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    uint64_t n = 0;
    char *path;

    if (k)
        return k;
    if (magic(uri, "large-", &n) || magic(uri, "moved-", &n)) {
        *out = malloc(n + 1);
        *len = (size_t)n;
        memset(*out, 'x', n);
        return LARDER_OK;
    }
    path = path_of(l, uri, "data");
    *out = read_whole(path, len);
    free(path);
    return *out ? LARDER_OK : ldr_fail_http(err, LARDER_NOT_FOUND, 404, "there is no such object");
}

/* The bytes of large ones are for larder_read() alone. */
enum larder_kind larder_get_range(struct larder *l, const char *uri, uint64_t offset, uint64_t length, int timeout_ms,
                                  struct larder_object **out, struct larder_err *err)
{
    static uint64_t version;
    char *bytes = NULL;
    size_t len = 0, n;
    enum larder_kind k;
    uint64_t unused;

    note(l, "get_range %ju %ju\n", (uintmax_t)offset, (uintmax_t)length);
    if (magic(uri, "large-", &unused))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "too large for a view");
    k = whole(l, uri, timeout_ms, &bytes, &len, err);
    if (k)
        return k;
    n = offset >= len ? 0 : len - (size_t)offset;
    n = length && length < n ? (size_t)length : n;
    *out = object_new(bytes + (n ? offset : 0), n, len);
    (*out)->offset = offset;
    (*out)->id = magic(uri, "moved-", &unused) ? ++version : 1;
    free(bytes);
    return LARDER_OK;
}

enum larder_kind larder_read(struct larder *l, const char *uri, uint64_t offset, void *buf, size_t len, int timeout_ms,
                             size_t *got, uint64_t *total, struct larder_err *err)
{
    char *bytes = NULL;
    size_t size = 0;
    enum larder_kind k;

    note(l, "read %ju %zu\n", (uintmax_t)offset, len);
    k = whole(l, uri, timeout_ms, &bytes, &size, err);
    if (k)
        return k;
    *got = offset >= size ? 0 : size - (size_t)offset < len ? size - (size_t)offset : len;
    memcpy(buf, bytes + (*got ? offset : 0), *got);
    if (total)
        *total = size;
    free(bytes);
    return LARDER_OK;
}

enum larder_kind larder_get_many(struct larder *l, const char *const uris[], size_t n, int timeout_ms,
                                 struct larder_result out[], struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    note(l, "get_many %zu\n", n);
    for (size_t i = 0; i < n; i++) {
        out[i] = (struct larder_result){ 0 };
        out[i].kind = larder_get(l, uris[i], timeout_ms, &out[i].object, &out[i].err);
        if (out[i].kind && !k) {
            k = out[i].kind;
            *err = out[i].err;
        }
    }
    return k;
}

const void *larder_object_data(const struct larder_object *o)
{
    return o->bytes;
}

size_t larder_object_size(const struct larder_object *o)
{
    return o->size;
}

uint64_t larder_object_offset(const struct larder_object *o)
{
    return o->offset;
}

uint64_t larder_object_total(const struct larder_object *o)
{
    return o->total;
}

void larder_object_id(const struct larder_object *o, uint64_t id[2])
{
    id[0] = id[1] = o->id;
}

int larder_object_was_hit(const struct larder_object *o)
{
    (void)o;
    return 1;
}

void larder_object_free(struct larder_object **o)
{
    free(*o);
    *o = NULL;
}

enum larder_kind larder_get_into(struct larder *l, const char *uri, void *buf, size_t cap, int timeout_ms,
                                 uint64_t *size, struct larder_err *err)
{
    struct larder_object *o = NULL;
    enum larder_kind k = larder_get(l, uri, timeout_ms, &o, err);

    if (k)
        return k;
    *size = o->size;
    if (o->size > cap)
        k = ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the buffer is too small");
    else
        memcpy(buf, o->bytes, o->size);
    larder_object_free(&o);
    return k;
}

enum larder_kind larder_stream(struct larder *l, const char *uri, int timeout_ms, larder_write_fn *write, void *user,
                               struct larder_err *err)
{
    char piece[FAKE_PIECE];
    uint64_t size = 0, at = 0;
    bool gate = magic(uri, "gate-", &size), cut = magic(uri, "cut-", &size);
    enum larder_kind k = timeout_ms == 0 ? LARDER_TIMEOUT : LARDER_OK;

    if (!gate && !cut && !magic(uri, "large-", &size)) {
        struct larder_object *o = NULL;

        k = larder_get(l, uri, timeout_ms, &o, err);
        if (k)
            return k;
        k = write(user, o->bytes, o->size, 0, o->size);
        larder_object_free(&o);
        return k ? ldr_fail(err, k, "the stream was ended") : LARDER_OK;
    }
    __atomic_fetch_add(&l->counts.asks, 1, __ATOMIC_RELAXED);
    memset(piece, 'x', sizeof piece);
    while (k == LARDER_OK && at < size) {
        size_t n = size - at < sizeof piece ? (size_t)(size - at) : sizeof piece;

        k = write(user, piece, n, at, cut ? size * 2 : size);
        at += n;
        if (gate && at == n)
            wait_for_gate(l);
    }
    if (k)
        return ldr_fail(err, k, "the stream was ended");
    return cut ? ldr_fail(err, LARDER_UNAVAILABLE, "the store went away") : LARDER_OK;
}

struct fd_sink {
    int fd;
    larder_progress_fn *progress;
    void *user;
    uint64_t done;
    struct larder_err err; /* of the descriptor */
};

static enum larder_kind fd_add(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct fd_sink *s = user;
    const char *bytes = p;

    (void)offset;
    while (n > 0) {
        ssize_t done = write(s->fd, bytes, n);

        if (done == -1)
            return ldr_fail_sys(&s->err, LARDER_IO, "could not write");
        bytes += done;
        n -= (size_t)done;
        s->done += (uint64_t)done;
    }
    if (s->progress)
        s->progress(s->user, s->done, size);
    return LARDER_OK;
}

enum larder_kind larder_get_to_fd(struct larder *l, const char *uri, int fd, int timeout_ms,
                                  larder_progress_fn *progress, void *user, uint64_t *size, struct larder_err *err)
{
    struct fd_sink s = { .fd = fd, .progress = progress, .user = user };
    enum larder_kind k = larder_stream(l, uri, timeout_ms, fd_add, &s, err);

    if (s.err.kind)
        *err = s.err;
    if (k == LARDER_OK && size)
        *size = s.done;
    return k;
}

enum larder_kind larder_head(struct larder *l, const char *uri, int timeout_ms, struct larder_meta **out,
                             struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    struct larder_meta *m;
    size_t len = 0, text_len = 0;
    char *path, *data, *p;

    __atomic_fetch_add(&l->counts.asks, 1, __ATOMIC_RELAXED);
    if (k)
        return k;
    m = calloc(1, sizeof *m);
    if (!m)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    path = path_of(l, uri, "data");
    data = read_whole(path, &len);
    free(path);
    m->exists = data != NULL;
    m->size = len;
    if (m->exists)
        magic(uri, "large-", &m->size);
    free(data);
    path = path_of(l, uri, "meta");
    m->text = m->exists ? read_whole(path, &text_len) : NULL;
    free(path);
    if (m->text) {
        p = m->text;
        for (int i = 0; i < FAKE_HEADERS; i++, p += strlen(p) + 1)
            m->header[i] = *p ? p : NULL;
        for (; p < m->text + text_len && m->n_user < FAKE_USER; m->n_user++)
            for (int i = 0; i < 2; i++, p += strlen(p) + 1)
                m->user[2 * m->n_user + (size_t)i] = p;
    }
    *out = m;
    return LARDER_OK;
}

int larder_meta_exists(const struct larder_meta *m)
{
    return m->exists;
}

uint64_t larder_meta_size(const struct larder_meta *m)
{
    return m->size;
}

int64_t larder_meta_last_modified(const struct larder_meta *m)
{
    return m->header[0] ? FAKE_TIME : INT64_MIN;
}

const char *larder_meta_text(const struct larder_meta *m, enum larder_meta_field field)
{
    static const enum larder_meta_field headers[FAKE_HEADERS] = {
        LARDER_META_CONTENT_TYPE, LARDER_META_CONTENT_ENCODING, LARDER_META_CACHE_CONTROL,
        LARDER_META_CONTENT_DISPOSITION, LARDER_META_CONTENT_LANGUAGE
    };

    for (int i = 0; i < FAKE_HEADERS; i++)
        if (headers[i] == field)
            return m->header[i];
    return field == LARDER_META_ETAG ? "e7a6" : NULL;
}

int larder_meta_user(const struct larder_meta *m, size_t i, const char **name, const char **value)
{
    if (i >= m->n_user)
        return 0;
    *name = m->user[2 * i];
    *value = m->user[2 * i + 1];
    return 1;
}

void larder_meta_free(struct larder_meta **m)
{
    if (*m)
        free((*m)->text);
    free(*m);
    *m = NULL;
}

/* ---- writes ---- */

static enum larder_kind check_put(struct larder *l, const char *uri, const struct larder_put_opts *o, int timeout_ms,
                                  struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    char *path = path_of(l, uri, "data");
    bool there = access(path, F_OK) == 0;
    uint64_t unused;

    free(path);
    __atomic_fetch_add(&l->counts.asks, 1, __ATOMIC_RELAXED);
    if (k || !o)
        return k;
    if (o->create_only && there)
        return ldr_fail_http(err, LARDER_EXISTS, 412, "the object is there already");
    if (o->if_match && (!there || strcmp(o->if_match, "e7a6") != 0))
        return ldr_fail_http(err, LARDER_PRECONDITION, 412, "the object has another ETag");
    if ((o->content_type || o->n_user) && magic(uri, "plain", &unused))
        return ldr_fail(err, LARDER_UNSUPPORTED, "this store keeps no metadata");
    return LARDER_OK;
}

static size_t add_text(char *to, size_t n, const char *text)
{
    return n + (size_t)snprintf(to + n, 200, "%s", text ? text : "") + 1;
}

/* The file of the metadata; returns its length. */
static size_t meta_text(const struct larder_put_opts *o, char to[4096])
{
    static const struct larder_put_opts none;
    size_t n = 0;

    o = o ? o : &none;
    n = add_text(to, n, o->content_type);
    n = add_text(to, n, o->content_encoding);
    n = add_text(to, n, o->cache_control);
    n = add_text(to, n, o->content_disposition);
    n = add_text(to, n, o->content_language);
    for (size_t i = 0; i < 2 * o->n_user && i < 2 * (size_t)FAKE_USER; i++)
        n = add_text(to, n, o->user[i]);
    return n;
}

static enum larder_kind keep(struct larder *l, const char *uri, const void *data, size_t len, const char *meta,
                             size_t meta_len, struct larder_err *err)
{
    char *path = path_of(l, uri, "data"), *meta_path = path_of(l, uri, "meta"), *uri_path = path_of(l, uri, "uri");
    bool ok = write_whole(path, data, len) && write_whole(meta_path, meta, meta_len) &&
              write_whole(uri_path, uri, strlen(uri));

    free(uri_path);
    free(meta_path);
    free(path);
    return ok ? LARDER_OK : ldr_fail(err, LARDER_INTERNAL, "the fake's store cannot be written");
}

enum larder_kind larder_put(struct larder *l, const char *uri, const void *data, size_t len,
                            const struct larder_put_opts *opts, int timeout_ms, struct larder_err *err)
{
    enum larder_kind k = check_put(l, uri, opts, timeout_ms, err);
    char meta[4096];

    if (k)
        return k;
    if (len > FAKE_PUT_MAX)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "%zu bytes are too many", len);
    return keep(l, uri, data, len, meta, meta_text(opts, meta), err);
}

struct larder_writer {
    struct larder *l;
    char *uri, *data;
    size_t len, cap;
    uint64_t size, most;
    bool gate;
    char meta[4096];
    size_t meta_len;
};

enum larder_kind larder_writer_open(struct larder *l, const char *uri, uint64_t size,
                                    const struct larder_put_opts *opts, int timeout_ms, struct larder_writer **out,
                                    struct larder_err *err)
{
    enum larder_kind k = check_put(l, uri, opts, timeout_ms, err);
    struct larder_writer *w;
    uint64_t unused;

    if (size == LARDER_SIZE_UNKNOWN)
        note(l, "writer -\n");
    else
        note(l, "writer %ju\n", (uintmax_t)size);
    if (k)
        return k;
    w = *out = calloc(1, sizeof *w);
    w->l = l;
    w->uri = strdup(uri);
    w->size = size;
    w->most = magic(uri, "full-", &w->most) ? w->most : UINT64_MAX;
    w->gate = magic(uri, "gate-", &unused);
    w->meta_len = meta_text(opts, w->meta);
    return LARDER_OK;
}

enum larder_kind larder_writer_room(struct larder_writer *w, void **p, size_t *n, struct larder_err *err)
{
    *n = w->size - w->len < FAKE_PIECE ? (size_t)(w->size - w->len) : FAKE_PIECE;
    if (*n == 0)
        return ldr_fail(err, LARDER_INVALID, "the announced size is reached");
    if (w->len + *n > w->cap) {
        w->cap = (w->len + *n) * 2;
        w->data = realloc(w->data, w->cap);
    }
    *p = w->data + w->len;
    return LARDER_OK;
}

enum larder_kind larder_writer_filled(struct larder_writer *w, size_t n, struct larder_err *err)
{
    w->len += n;
    if (w->gate)
        wait_for_gate(w->l);
    return w->len > w->most ? ldr_fail(err, LARDER_UNAVAILABLE, "the store is full") : LARDER_OK;
}

enum larder_kind larder_writer_write(struct larder_writer *w, const void *p, size_t n, struct larder_err *err)
{
    const char *bytes = p;
    enum larder_kind k = LARDER_OK;

    while (n > 0 && k == LARDER_OK) {
        void *room = NULL;
        size_t m = 0;

        k = larder_writer_room(w, &room, &m, err);
        if (k)
            break;
        m = m < n ? m : n;
        memcpy(room, bytes, m);
        k = larder_writer_filled(w, m, err);
        bytes += m;
        n -= m;
    }
    return k;
}

enum larder_kind larder_writer_commit(struct larder_writer **w, struct larder_err *err)
{
    enum larder_kind k = (*w)->size != LARDER_SIZE_UNKNOWN && (*w)->size != (*w)->len
                             ? ldr_fail(err, LARDER_INVALID, "not the size that was announced")
                             : keep((*w)->l, (*w)->uri, (*w)->data, (*w)->len, (*w)->meta, (*w)->meta_len, err);

    larder_writer_abort(w);
    return k;
}

void larder_writer_abort(struct larder_writer **w)
{
    if (!*w)
        return;
    free((*w)->data);
    free((*w)->uri);
    free(*w);
    *w = NULL;
}

enum larder_kind larder_delete_many(struct larder *l, const char *const uris[], size_t n, int timeout_ms,
                                    struct larder_result out[], struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    note(l, "delete_many %zu\n", n);
    for (size_t i = 0; i < n; i++) {
        out[i] = (struct larder_result){ 0 };
        out[i].kind = larder_delete(l, uris[i], timeout_ms, &out[i].err);
        if (out[i].kind && !k) {
            k = out[i].kind;
            *err = out[i].err;
        }
    }
    return k;
}

enum larder_kind larder_sign(struct larder *l, const char *uri, const struct larder_sign_opts *opts, int timeout_ms,
                             struct larder_signed *out, struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    int64_t lifetime_s = opts->lifetime_s ? opts->lifetime_s : 3600;
    uint64_t unused;

    if (k)
        return k;
    if (magic(uri, "unsigned", &unused))
        return ldr_fail(err, LARDER_UNSUPPORTED, "this store signs no URLs");
    out->headers = calloc(2, sizeof *out->headers);
    if (asprintf(&out->url, "https://signed.example/%s?%s&%jd", strstr(uri, "://") + 3, opts->put ? "put" : "get",
                 (intmax_t)lifetime_s) == -1 ||
        (opts->content_md5 && asprintf(&out->headers[out->n_headers++], "Content-MD5: %s", opts->content_md5) == -1) ||
        (opts->content_type && asprintf(&out->headers[out->n_headers++], "Content-Type: %s", opts->content_type) == -1))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    out->expires = FAKE_TIME + lifetime_s;
    return LARDER_OK;
}

void larder_signed_free(struct larder_signed *s)
{
    for (size_t i = 0; i < s->n_headers; i++)
        free(s->headers[i]);
    free(s->headers);
    free(s->url);
    *s = (struct larder_signed){ 0 };
}

enum larder_kind larder_delete(struct larder *l, const char *uri, int timeout_ms, struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    char *path = path_of(l, uri, "data"), *uri_path = path_of(l, uri, "uri");

    __atomic_fetch_add(&l->counts.asks, 1, __ATOMIC_RELAXED);
    if (k == LARDER_OK && unlink(path) == -1 && errno != ENOENT)
        k = ldr_fail_sys(err, LARDER_INTERNAL, "the fake's store cannot be written");
    unlink(uri_path);
    free(uri_path);
    free(path);
    return k;
}

/* ---- listing: of the objects put before ---- */

static int compare_uris(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All references that begin with `prefix`, sorted; each is ended by free(). */
static size_t find_uris(const struct larder *l, const char *prefix, char *out[FAKE_KEYS])
{
    DIR *d = opendir(l->dir);
    struct dirent *e;
    char path[4096], *uri;
    size_t n = 0, len = 0;

    while (d && (e = readdir(d)) && n < FAKE_KEYS) {
        if (!strstr(e->d_name, ".uri"))
            continue;
        snprintf(path, sizeof path, "%s/%s", l->dir, e->d_name);
        uri = read_whole(path, &len);
        if (uri && !strncmp(uri, prefix, strlen(prefix)))
            out[n++] = uri;
        else
            free(uri);
    }
    if (d)
        closedir(d);
    qsort(out, n, sizeof *out, compare_uris);
    return n;
}

static void entry_of(struct larder *l, const char *uri, struct larder_entry *e)
{
    char *path = path_of(l, uri, "data");
    struct stat st = { 0 };

    stat(path, &st);
    free(path);
    *e = (struct larder_entry){ .uri = uri, .size = (uint64_t)st.st_size, .last_modified = FAKE_TIME, .etag = "e7a6" };
    magic(uri, "large-", &e->size);
    if (magic(uri, "undated", &(uint64_t){ 0 })) {
        e->last_modified = INT64_MIN;
        e->etag = NULL;
    }
}

enum larder_kind larder_list(struct larder *l, const char *prefix, const struct larder_list_opts *opts, int timeout_ms,
                             larder_list_fn *each, void *user, char **next, struct larder_err *err)
{
    enum larder_kind k = enter(l, prefix, timeout_ms, err);
    const char *delimiter = opts ? opts->delimiter : NULL, *after = opts && opts->start ? opts->start : "";
    char *uris[FAKE_KEYS], last[4096] = "", group[4096];
    size_t n = k ? 0 : find_uris(l, prefix, uris), sent = 0;

    note(l, "list %s\n", delimiter ? delimiter : "-");
    __atomic_fetch_add(&l->counts.asks, 1, __ATOMIC_RELAXED);
    for (size_t i = 0; i < n && k == LARDER_OK; i++) {
        const char *end = delimiter ? strstr(uris[i] + strlen(prefix), delimiter) : NULL;
        struct larder_entry e;

        entry_of(l, uris[i], &e);
        if (end) {
            snprintf(group, sizeof group, "%.*s", (int)(end + strlen(delimiter) - uris[i]), uris[i]);
            e = (struct larder_entry){ .uri = group, .is_prefix = 1 };
        }
        if (strcmp(e.uri, after) <= 0 || !strcmp(e.uri, last))
            continue;
        if (next && sent == FAKE_PAGE) {
            *next = strdup(last);
            break;
        }
        snprintf(last, sizeof last, "%s", e.uri);
        sent++;
        k = each(user, &e);
        if (k)
            ldr_fail(err, k, "the listing was ended");
    }
    for (size_t i = 0; i < n; i++)
        free(uris[i]);
    return k;
}

enum larder_kind larder_copy(struct larder *l, const char *from, const char *to, int timeout_ms, struct larder_err *err)
{
    enum larder_kind k = enter(l, to, timeout_ms, err);
    char *bytes = NULL, *meta = NULL, *path;
    size_t len = 0, meta_len = 0;
    uint64_t unused;

    note(l, "copy\n");
    k = k ? k : whole(l, from, timeout_ms, &bytes, &len, err);
    if (k)
        return k;
    path = path_of(l, from, "meta");
    meta = read_whole(path, &meta_len);
    free(path);
    if (meta && meta_len > FAKE_HEADERS && magic(to, "plain", &unused))
        k = ldr_fail(err, LARDER_UNSUPPORTED, "this store keeps no metadata");
    else
        k = keep(l, to, bytes, len, meta ? meta : "\0\0\0\0", meta ? meta_len : FAKE_HEADERS, err);
    free(meta);
    free(bytes);
    return k;
}

enum larder_kind larder_status(struct larder *l, int timeout_ms, larder_status_fn *each, void *user,
                               struct larder_err *err)
{
    if (agent_absent(l))
        return ldr_fail(err, LARDER_NO_AGENT, "no agent answers");
    each(user, "version", strcmp(l->cache_dir, "same") ? "fake\n1" : LARDER_VERSION, 0);
    each(user, "cache_dir", l->cache_dir, 0);
    each(user, "timeout_ms", NULL, (uint64_t)timeout_ms);
    each(user, "cache_bytes", NULL, UINT64_C(1610612736));
    each(user, "hits", NULL, 1234567);
    return LARDER_OK;
}

enum larder_kind larder_why(struct larder *l, const char *uri, int timeout_ms, larder_status_fn *each, void *user,
                            struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);

    if (k)
        return k;
    if (agent_absent(l))
        return ldr_fail(err, LARDER_NO_AGENT, "no agent answers");
    each(user, "store", "fake", 0);
    each(user, "size_bytes", NULL, UINT64_C(1610612736));
    return LARDER_OK;
}

void larder_get_counts(struct larder *l, struct larder_counts *out, size_t size)
{
    (void)size;
    *out = (struct larder_counts){ .hits = __atomic_load_n(&l->counts.hits, __ATOMIC_RELAXED),
                                   .asks = __atomic_load_n(&l->counts.asks, __ATOMIC_RELAXED) };
}

/* References: as much as shows that the program hands them over; the rules are the library's and tested there. */
enum larder_kind larder_ref_split(const char *reference, struct larder_ref *out, struct larder_err *err)
{
    const char *sep = strstr(reference, "://");
    const char *slash = sep ? strchr(sep + 3, '/') : NULL;

    if (!slash)
        return ldr_fail(err, LARDER_INVALID, "\"%s\" does not parse", reference);
    out->scheme = strndup(reference, (size_t)(sep - reference));
    out->container = strndup(sep + 3, (size_t)(slash - sep - 3));
    out->key = strdup(slash + 1);
    return LARDER_OK;
}

void larder_ref_free(struct larder_ref *r)
{
    free(r->scheme);
    free(r->container);
    free(r->key);
    *r = (struct larder_ref){ 0 };
}

enum larder_kind larder_ref_join(const char *base, const char *const keys[], size_t n, char **out,
                                 struct larder_err *err)
{
    char *ref = NULL;
    size_t len = 0;
    FILE *f;

    if (!strstr(base, "://"))
        return ldr_fail(err, LARDER_INVALID, "\"%s\" does not parse", base);
    f = open_memstream(&ref, &len);
    if (!f)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    fputs(base, f);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "/%s", keys[i]);
    fclose(f);
    *out = ref;
    return LARDER_OK;
}

void larder_free(void *p)
{
    free(p);
}
