/* fake_larder.c - client/larder.h without cache and agent, for tests of programs that use it.
 * Objects are files below $FAKE_LARDER_DIR, so that several processes share them. Keys that end in a magic segment:
 *   fail-KIND    every call fails with that kind (common/kinds.tbl.h); denied ones with HTTP 403
 *   large-N      N bytes 'x', too large for a view: only larder_stream() gives them
 *   cut-N        likewise, but the stream fails after N bytes (UNAVAILABLE)
 *   gate-N       as large-N; after its first piece the stream waits until $FAKE_LARDER_DIR/gate exists
 *   wait-N       every call waits for that file first
 * As a connection would, $FAKE_LARDER_DIR/connection is held open for writing; nothing is ever written to it.
 * Every call but those on objects put before counts as a request to the agent. */
#include "client/larder.h"
#include "common/fail.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAKE_PUT_MAX ((size_t)8 << 20)
#define FAKE_PIECE   ((size_t)64 << 10)
#define FAKE_USER    8

struct larder {
    char *dir;
    FILE *connection;
    char cache_dir[256];
    struct larder_counts counts;
};

struct larder_object {
    size_t size;
    char bytes[];
};

struct larder_meta {
    int exists;
    uint64_t size;
    char *text;                          /* of the file: NUL-terminated strings */
    const char *content_type;            /* into text; NULL: none */
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

enum larder_kind larder_get(struct larder *l, const char *uri, int timeout_ms, struct larder_object **out,
                            struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    struct larder_object *o;
    char *path, *bytes;
    size_t len = 0;
    uint64_t n;

    if (k || magic(uri, "large-", &n) || magic(uri, "cut-", &n) || magic(uri, "gate-", &n)) {
        l->counts.asks++;
        return k ? k : ldr_fail(err, LARDER_LIMIT_EXCEEDED, "too large for a view");
    }
    path = path_of(l, uri, "data");
    bytes = read_whole(path, &len);
    free(path);
    if (!bytes) {
        l->counts.asks++;
        return ldr_fail_http(err, LARDER_NOT_FOUND, 404, "there is no such object");
    }
    o = malloc(sizeof *o + len + 1);
    if (o) {
        o->size = len;
        memcpy(o->bytes, bytes, len + 1);
        *out = o;
        l->counts.hits++;
    }
    free(bytes);
    return o ? LARDER_OK : ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
}

const void *larder_object_data(const struct larder_object *o)
{
    return o->bytes;
}

size_t larder_object_size(const struct larder_object *o)
{
    return o->size;
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
    static char piece[FAKE_PIECE];
    uint64_t size = 0, at = 0;
    bool gate = magic(uri, "gate-", &size), cut = magic(uri, "cut-", &size);
    enum larder_kind k = timeout_ms == 0 ? LARDER_TIMEOUT : LARDER_OK;

    if (!gate && !cut && !magic(uri, "large-", &size))
        return ldr_fail(err, LARDER_INTERNAL, "the fake streams large objects only");
    l->counts.asks++;
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

enum larder_kind larder_head(struct larder *l, const char *uri, int timeout_ms, struct larder_meta **out,
                             struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    struct larder_meta *m;
    size_t len = 0, text_len = 0;
    char *path, *data, *p;

    l->counts.asks++;
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
    free(data);
    path = path_of(l, uri, "meta");
    m->text = m->exists ? read_whole(path, &text_len) : NULL;
    free(path);
    if (m->text) {
        m->content_type = *m->text ? m->text : NULL;
        for (p = m->text + strlen(m->text) + 1; p < m->text + text_len && m->n_user < FAKE_USER; m->n_user++)
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
    return m->content_type ? 1767225600 : INT64_MIN; /* 2026-01-01 */
}

const char *larder_meta_text(const struct larder_meta *m, enum larder_meta_field field)
{
    return field == LARDER_META_ETAG ? "e7a6" : field == LARDER_META_CONTENT_TYPE ? m->content_type : NULL;
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

enum larder_kind larder_put(struct larder *l, const char *uri, const void *data, size_t len,
                            const struct larder_put_opts *opts, int timeout_ms, struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    char *path = path_of(l, uri, "data"), *meta_path = path_of(l, uri, "meta");
    char meta[4096];
    size_t n = 0;
    bool ok;

    l->counts.asks++;
    if (k)
        goto done;
    if (len > FAKE_PUT_MAX)
        k = ldr_fail(err, LARDER_LIMIT_EXCEEDED, "%zu bytes are too many", len);
    else if (opts && opts->create_only && access(path, F_OK) == 0)
        k = ldr_fail_http(err, LARDER_EXISTS, 412, "the object is there already");
    if (k)
        goto done;
    n = (size_t)snprintf(meta, 256, "%s", opts && opts->content_type ? opts->content_type : "") + 1;
    for (size_t i = 0; opts && i < 2 * opts->n_user && i < 2 * (size_t)FAKE_USER; i++)
        n += (size_t)snprintf(meta + n, 200, "%s", opts->user[i]) + 1;
    ok = write_whole(path, data, len) && write_whole(meta_path, meta, n);
    k = ok ? LARDER_OK : ldr_fail(err, LARDER_INTERNAL, "the fake's store cannot be written");
done:
    free(meta_path);
    free(path);
    return k;
}

enum larder_kind larder_delete(struct larder *l, const char *uri, int timeout_ms, struct larder_err *err)
{
    enum larder_kind k = enter(l, uri, timeout_ms, err);
    char *path = path_of(l, uri, "data");

    l->counts.asks++;
    if (k == LARDER_OK && unlink(path) == -1 && errno != ENOENT)
        k = ldr_fail_sys(err, LARDER_INTERNAL, "the fake's store cannot be written");
    free(path);
    return k;
}

enum larder_kind larder_status(struct larder *l, int timeout_ms, larder_status_fn *each, void *user,
                               struct larder_err *err)
{
    if (!strcmp(l->cache_dir, "absent"))
        return ldr_fail(err, LARDER_NO_AGENT, "no agent answers");
    each(user, "version", "fake\n1", 0);
    each(user, "cache_dir", l->cache_dir, 0);
    each(user, "timeout_ms", NULL, (uint64_t)timeout_ms);
    each(user, "cache_bytes", NULL, UINT64_C(1610612736));
    each(user, "hits", NULL, 1234567);
    return LARDER_OK;
}

void larder_get_counts(struct larder *l, struct larder_counts *out)
{
    *out = l->counts;
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
