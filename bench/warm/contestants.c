/* contestants.c - the ways of reading that are compared. Each one is the shortest honest code for its way. */
#include "bench/warm/warm.h"

#include "common/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool random_sets(const struct warm_set *set)
{
    return !set->sweep_only;
}

static bool inline_sets(const struct warm_set *set)
{
    return !set->blocks;
}

static bool block_sets(const struct warm_set *set)
{
    return set->blocks;
}

static bool kept_sets(const struct warm_set *set)
{
    return set->blocks && !set->sweep_only;
}

static void *must_alloc(void *p)
{
    if (!p)
        warm_die("out of memory");
    return p;
}

/* ---- larder ---- */

struct by_larder {
    char cache[WARM_PATH_MAX];
    const struct warm_set *set;
    struct larder *l;
    struct larder_object *o;
    uint8_t *buf;                /* into a buffer */
    uint32_t left;               /* first open: gets that this handle is still good for */
    struct larder_counts before; /* of handles that were closed */
};

static void larder_reopen(struct by_larder *s)
{
    struct larder_err err;

    if (larder_open(s->cache, &s->l, &err))
        warm_die("could not open the cache: %s", err.msg);
    s->left = s->set->n;
}

static void *by_larder_open(const struct warm_set *set, const char *dir)
{
    struct by_larder *s = must_alloc(calloc(1, sizeof *s));

    warm_path(s->cache, dir, WARM_CACHE);
    s->set = set;
    s->buf = must_alloc(malloc(set->size));
    larder_reopen(s);
    return s;
}

static bool by_larder_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_larder *s = state;
    char uri[WARM_KEY_MAX];

    warm_key(i, uri);
    if (larder_get(s->l, uri, 0, &s->o, NULL))
        return false;
    *p = larder_object_data(s->o);
    *len = larder_object_size(s->o);
    return true;
}

static void by_larder_release(void *state)
{
    struct by_larder *s = state;

    larder_object_free(&s->o);
}

static bool into_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_larder *s = state;
    char uri[WARM_KEY_MAX];
    uint64_t size;

    warm_key(i, uri);
    if (larder_get_into(s->l, uri, s->buf, s->set->size, 0, &size, NULL))
        return false;
    *p = s->buf;
    *len = size;
    return true;
}

static void by_larder_counts(void *state, struct larder_counts *out)
{
    struct by_larder *s = state;

    larder_get_counts(s->l, out, sizeof *out);
    out->hits += s->before.hits;
    out->asks += s->before.asks;
    out->kept += s->before.kept;
}

/* A handle is used for one pass over all objects, so every get is the first one of its object by that handle: nothing
 * is kept of it. The cost of opening and closing the handle, and of unmapping everything, is part of the pass. */
static bool first_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_larder *s = state;

    if (s->left-- == 0) {
        by_larder_counts(s, &s->before);
        larder_close(&s->l);
        larder_reopen(s);
        s->left--;
    }
    return by_larder_get(state, i, p, len);
}

/* ---- stock LMDB, read as its documentation says: one read transaction a get, renewed; no copy ---- */

struct by_lmdb {
    MDB_txn *txn;
    MDB_dbi dbi;
};

static void *by_lmdb_open(const struct warm_set *set, const char *dir)
{
    struct by_lmdb *s = must_alloc(calloc(1, sizeof *s));
    char path[WARM_PATH_MAX];
    MDB_env *env;
    int rc;

    warm_path(path, dir, WARM_LMDB);
    rc = mdb_env_create(&env);
    if (!rc)
        rc = mdb_env_set_mapsize(env, warm_set_bytes(set) + LDR_GIB);
    if (!rc)
        rc = mdb_env_open(env, path, MDB_RDONLY | MDB_NORDAHEAD, 0600);
    if (!rc)
        rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &s->txn);
    if (!rc)
        rc = mdb_dbi_open(s->txn, NULL, 0, &s->dbi);
    if (rc)
        warm_die("could not open LMDB: %s", mdb_strerror(rc));
    mdb_txn_reset(s->txn);
    return s;
}

static bool by_lmdb_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_lmdb *s = state;
    char uri[WARM_KEY_MAX];
    MDB_val key = { warm_key(i, uri), uri }, val;

    if (mdb_txn_renew(s->txn) || mdb_get(s->txn, s->dbi, &key, &val))
        return false;
    *p = val.mv_data;
    *len = val.mv_size;
    return true;
}

static void by_lmdb_release(void *state)
{
    struct by_lmdb *s = state;

    mdb_txn_reset(s->txn);
}

/* ---- plain files ---- */

struct by_file {
    size_t size;
    uint32_t n, kept; /* objects; how many of this pass are mapped still */
    void *map, **held;
    char path[WARM_PATH_MAX + 1 + WARM_FILE_NAME + 1], *name; /* the last part of path */
};

static void *file_map(struct by_file *s, uint32_t i)
{
    void *p;
    int fd;

    ldr_hex(&i, sizeof i, s->name);
    fd = open(s->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return MAP_FAILED;
    p = mmap(NULL, s->size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return p;
}

static void *by_file_open(const struct warm_set *set, const char *dir)
{
    struct by_file *s = must_alloc(calloc(1, sizeof *s));

    warm_path(s->path, dir, WARM_FILES);
    s->name = s->path + strlen(s->path) + 1;
    s->name[-1] = '/';
    s->size = set->size;
    s->n = set->n;
    s->held = must_alloc(calloc(set->n, sizeof *s->held));
    return s;
}

static bool by_file_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_file *s = state;

    s->map = file_map(s, i);
    *p = s->map;
    *len = s->size;
    return s->map != MAP_FAILED;
}

static void by_file_release(void *state)
{
    struct by_file *s = state;

    munmap(s->map, s->size);
}

/* As larder-first does it: what was mapped stays so until the pass is over. */
static bool keep_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_file *s = state;

    if (s->kept == s->n)
        while (s->kept > 0)
            munmap(s->held[--s->kept], s->size);
    if (!by_file_get(state, i, p, len))
        return false;
    s->held[s->kept++] = s->map;
    return true;
}

static void *held_open(const struct warm_set *set, const char *dir)
{
    struct by_file *s = by_file_open(set, dir);

    for (uint32_t i = 0; i < set->n; i++) {
        s->held[i] = file_map(s, i);
        if (s->held[i] == MAP_FAILED)
            warm_die("could not map %s: %s", s->path, strerror(errno));
    }
    return s;
}

static bool held_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_file *s = state;

    *p = s->held[i];
    *len = s->size;
    return true;
}

/* ---- no read at all: what the loop around the others costs ---- */

struct by_nothing {
    size_t size;
    uint8_t *bytes;
    char uri[WARM_KEY_MAX];
};

static void *loop_open(const struct warm_set *set, const char *dir)
{
    struct by_nothing *s = must_alloc(calloc(1, sizeof *s));

    (void)dir;
    s->size = set->size;
    s->bytes = must_alloc(calloc(1, set->size));
    return s;
}

static bool loop_get(void *state, uint32_t i, const uint8_t **p, size_t *len)
{
    struct by_nothing *s = state;
    uint64_t word = i;

    warm_key(i, s->uri);
    memcpy(s->bytes, &word, sizeof word);
    *p = s->bytes;
    *len = s->size;
    return true;
}

const struct warm_contestant warm_contestants[WARM_CONTESTANTS] = {
    [WARM_LARDER] = { "larder", "larder_get, larder_object_free", false, random_sets, by_larder_open, by_larder_get,
                      by_larder_release, by_larder_counts },
    [WARM_LARDER_INTO] = { "larder-into", "larder_get_into", false, inline_sets, by_larder_open, into_get, NULL,
                           by_larder_counts },
    [WARM_LARDER_FIRST] = { "larder-first", "larder_get, larder_object_free; the first of each object", true,
                            block_sets, by_larder_open, first_get, by_larder_release, by_larder_counts },
    [WARM_RAW_LMDB] = { "lmdb", "mdb_txn_renew, mdb_get, mdb_txn_reset; no copy", false, random_sets, by_lmdb_open,
                        by_lmdb_get, by_lmdb_release, NULL },
    [WARM_HELD] = { "held", "a mapping that is there already", false, kept_sets, held_open, held_get, NULL, NULL },
    [WARM_OPEN_MMAP] = { "open+mmap", "open, mmap, close, and munmap at once, of a plain file", true, block_sets,
                         by_file_open, by_file_get, by_file_release, NULL },
    [WARM_OPEN_KEEP] = { "open+keep", "open, mmap, close of a plain file; munmap of all at the end of a pass", true,
                         kept_sets, by_file_open, keep_get, NULL, NULL },
    [WARM_LOOP] = { "(loop)", "the benchmark's own loop on one object in the CPU's cache", false, random_sets,
                    loop_open, loop_get, NULL, NULL },
};
