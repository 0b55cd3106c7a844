/* data.c - the same objects three times: in a cache, filled by the agent's own code; in an LMDB environment; as files.
 */
#include "bench/warm/warm.h"

#include "agent/blocks.h"
#include "agent/index.h"
#include "common/hash.h"
#include "common/uri.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_HEAD  "mem://bench/project-development-a7c94b1e6f02d8/metadata/"
#define KEY_TAIL  "/n0-0-dn3/outputs/part-0.bin"
#define ETAG      "9b2cf535f27731c974343645a3985328"
#define IN_FLIGHT 512   /* changes that the index is given at once */
#define TXN_PUTS  10000 /* of LMDB */
#define SPACE_MAX (UINT64_C(1) << 46)

const struct warm_set warm_sets[] = {
    { "256B-100k", 100000, 256, false, false }, { "256B-1M", 1000000, 256, false, false },
    { "4K-100k", 100000, 4096, false, false },  { "64K-2k", 2000, 64 * LDR_KIB, true, false },
    { "1M-200", 200, LDR_MIB, true, false },    { "64K-20k", 20000, 64 * LDR_KIB, true, true },
};
const size_t warm_n_sets = LDR_ARRAY_LEN(warm_sets);

size_t warm_key(uint32_t i, char out[WARM_KEY_MAX])
{
    uint64_t x = (i + UINT64_C(1)) * UINT64_C(0x9E3779B97F4A7C15); /* odd: no two numbers become one */

    x ^= x >> 32;
    memcpy(out, KEY_HEAD, sizeof KEY_HEAD - 1);
    ldr_hex(&x, sizeof x, out + sizeof KEY_HEAD - 1);
    memcpy(out + sizeof KEY_HEAD - 1 + 2 * sizeof x, KEY_TAIL, sizeof KEY_TAIL);
    return sizeof KEY_HEAD - 1 + 2 * sizeof x + sizeof KEY_TAIL - 1;
}

void warm_path(char out[WARM_PATH_MAX], const char *dir, const char *part)
{
    if (snprintf(out, WARM_PATH_MAX, "%s/%s", dir, part) >= WARM_PATH_MAX)
        warm_die("the name of directory %s is too long", dir);
}

uint64_t warm_set_bytes(const struct warm_set *set)
{
    uint64_t bytes = set->n * (uint64_t)set->size;

    return set->blocks ? 2 * bytes + bytes / 4 : 4 * bytes + set->n * UINT64_C(1500) + 256 * LDR_MIB;
}

uint64_t warm_inline_bytes(const struct warm_set *set)
{
    return set->blocks ? 64 * LDR_MIB : warm_set_bytes(set);
}

/* The bytes of any object but for its number, which stands at their start. */
static uint8_t *make_bytes(size_t size)
{
    uint8_t *p = malloc(size);
    uint64_t x = 88172645463325252u;

    if (!p)
        warm_die("out of memory");
    for (size_t i = 0; i + 8 <= size; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(p + i, &x, 8);
    }
    return p;
}

static void number(uint8_t *bytes, uint64_t i)
{
    memcpy(bytes, &i, sizeof i);
}

/* ---- the cache ---- */

struct put {
    struct ldr_change change;
    struct ldr_task task; /* on its way back */
    struct ldr_mailbox *back;
    size_t key_len;
    uint8_t key[LDR_INDEX_KEY_MAX];
    uint8_t *bytes;
    struct ldr_fill fill;
};

/* Where objects are put. */
struct target {
    struct ldr_index *index;
    struct ldr_blocks blocks;
    int files; /* folder of the plain files */
};

static void must(enum larder_kind k, const struct larder_err *err)
{
    if (k)
        warm_die("could not fill the cache: %s", err->msg);
}

static void put_done(struct ldr_change *c)
{
    struct put *p = c->user;

    ldr_mailbox_post(p->back, &p->task);
}

static void put_block(struct put *p, struct target *t, uint32_t i)
{
    const struct ldr_record *r = &p->change.record;
    char block[LDR_BLOCK_NAME_MAX], file[WARM_FILE_NAME + 1];
    struct larder_err err;

    must(ldr_fill_open(&t->blocks, r->size_bytes, false, &p->fill, &err), &err);
    must(ldr_fill_write(&p->fill, p->bytes, r->size_bytes, &err), &err);
    must(ldr_fill_seal(&p->fill, &err), &err);
    must(ldr_fill_link(&p->fill, &r->id, 0, &err), &err);
    p->change.block_hash = p->fill.hash;
    ldr_fill_close(&p->fill);

    ldr_block_name(&r->id, 0, block);
    ldr_hex(&i, sizeof i, file);
    if (linkat(t->blocks.dir->dirfd, block, t->files, file, 0))
        warm_die("could not link file %s: %s", file, strerror(errno));
}

/* A record as a fetch from S3 makes it, with an ETag and a content type. */
static void put_start(struct put *p, const struct warm_set *set, uint32_t i, const struct ldr_meta *meta,
                      struct target *t)
{
    char uri[WARM_KEY_MAX];
    size_t len = warm_key(i, uri);
    struct ldr_record *r = &p->change.record;

    p->key_len = ldr_index_key(uri, len, p->key);
    p->change = (struct ldr_change){
        .what = LDR_CHANGE_PUT, .key = p->key, .key_len = p->key_len, .done = put_done, .user = p
    };
    *r = (struct ldr_record){ .id = ldr_index_new_id(t->index),
                              .size_bytes = set->size,
                              .fresh_until_ns = LDR_FRESH_ALWAYS,
                              .validated_at_ns = (uint64_t)ldr_boot_ns(),
                              .last_modified_s = 1700000000,
                              .boot = ldr_index_boot(t->index),
                              .block_log2 = 23,
                              .fields = meta->fields.p,
                              .fields_len = meta->fields.len };
    number(p->bytes, i);
    if (set->blocks) {
        put_block(p, t, i);
    } else {
        r->flags = LDR_FLAG_INLINE;
        r->payload = p->bytes;
        r->payload_len = set->size;
        r->payload_hash = ldr_hash64(p->bytes, set->size);
    }
    ldr_index_change(t->index, &p->change);
}

static struct put *put_wait(struct ldr_mailbox *back)
{
    struct put *p = LDR_CONTAINER(ldr_mailbox_take(back, LDR_NEVER), struct put, task);

    must(p->change.kind, &p->change.err);
    return p;
}

static void put_all(const struct warm_set *set, struct target *t)
{
    unsigned n = set->blocks ? 8 : IN_FLIGHT; /* each has its own bytes */
    struct put *puts = calloc(n, sizeof *puts);
    struct ldr_mailbox back;
    struct ldr_meta meta;

    if (!puts)
        warm_die("out of memory");
    ldr_mailbox_init(&back, NULL, NULL);
    ldr_meta_init(&meta);
    if (!ldr_meta_add_text(&meta, LDR_TAG_VALIDATOR, "\"" ETAG "\"") || !ldr_meta_add_text(&meta, LDR_TAG_ETAG, ETAG) ||
        !ldr_meta_add_text(&meta, LDR_TAG_CONTENT_TYPE, "application/octet-stream"))
        warm_die("out of memory");
    for (uint32_t i = 0; i < set->n; i++) {
        struct put *p = i < n ? &puts[i] : put_wait(&back);

        if (!p->bytes) {
            p->bytes = make_bytes(set->size);
            p->back = &back;
        }
        put_start(p, set, i, &meta, t);
    }
    for (uint32_t i = 0; i < n && i < set->n; i++)
        put_wait(&back);
    for (unsigned i = 0; i < n; i++)
        free(puts[i].bytes);
    free(puts);
    ldr_meta_release(&meta);
    ldr_mailbox_release(&back);
}

/* As the agent starts and stops, without its endpoint and stores. */
static void fill_cache(const struct warm_set *set, const char *path, int files)
{
    const char *drop[] = { NULL };
    struct ldr_counters counters = { 0 };
    struct ldr_space space;
    struct target t = { .files = files };
    struct ldr_index_cfg cfg = { .inline_bytes = warm_inline_bytes(set),
                                 .inline_limit = LDR_RECORD_DEFAULT,
                                 .block_size = LDR_BLOCK_SIZE_DEFAULT,
                                 .blocks = &t.blocks };
    struct ldr_cache_dir *dir = NULL;
    struct ldr_pool *pool = NULL;
    struct larder_err err;

    must(ldr_pool_new(1, &pool, &err), &err);
    must(ldr_cache_dir_open(path, false, 0, &dir, &err), &err);
    ldr_space_init(&space);
    space.max_bytes = SPACE_MAX;
    space.max_files = UINT32_MAX;
    space.dirfd = dir->dirfd;
    ldr_blocks_init(&t.blocks, dir, &space, pool);
    must(ldr_index_open(dir, &space, &counters, &cfg, &t.index, &err), &err);
    must(ldr_index_repair(t.index, drop, &err), &err);
    must(ldr_index_start(t.index, &err), &err);
    must(ldr_cache_dir_commit(dir, &err), &err);
    put_all(set, &t);
    must(ldr_index_stop(t.index, true, &err), &err);
    ldr_pool_free(&pool);
    must(ldr_cache_dir_mark(dir, true, &err), &err);
    ldr_index_close(&t.index);
    ldr_blocks_release(&t.blocks);
    ldr_space_release_all(&space);
    ldr_cache_dir_close(&dir);
}

/* ---- LMDB ---- */

static void must_mdb(int rc)
{
    if (rc)
        warm_die("could not fill LMDB: %s", mdb_strerror(rc));
}

static void fill_lmdb(const struct warm_set *set, const char *path)
{
    uint8_t *bytes = make_bytes(set->size);
    MDB_env *env = NULL;
    MDB_txn *txn = NULL;
    MDB_dbi dbi;

    if (mkdir(path, 0700))
        warm_die("could not make %s: %s", path, strerror(errno));
    must_mdb(mdb_env_create(&env));
    must_mdb(mdb_env_set_mapsize(env, warm_set_bytes(set) + LDR_GIB));
    must_mdb(mdb_env_open(env, path, MDB_NOSYNC, 0600));
    for (uint32_t i = 0; i < set->n; i++) {
        char uri[WARM_KEY_MAX];
        MDB_val key = { warm_key(i, uri), uri }, val = { set->size, bytes };

        if (i % TXN_PUTS == 0) {
            must_mdb(mdb_txn_begin(env, NULL, 0, &txn));
            must_mdb(mdb_dbi_open(txn, NULL, 0, &dbi));
        }
        number(bytes, i);
        must_mdb(mdb_put(txn, dbi, &key, &val, 0));
        if (i % TXN_PUTS == TXN_PUTS - 1 || i == set->n - 1)
            must_mdb(mdb_txn_commit(txn));
    }
    mdb_env_close(env);
    free(bytes);
}

static int make_files(const char *path)
{
    int fd = mkdir(path, 0700) ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        warm_die("could not make %s: %s", path, strerror(errno));
    return fd;
}

void warm_fill(const struct warm_set *set, const char *dir)
{
    char path[WARM_PATH_MAX];
    int files = -1;

    if (set->blocks) {
        warm_path(path, dir, WARM_FILES);
        files = make_files(path);
    }
    warm_path(path, dir, WARM_CACHE);
    fill_cache(set, path, files);
    if (files >= 0)
        close(files);
    if (!set->sweep_only) {
        warm_path(path, dir, WARM_LMDB);
        fill_lmdb(set, path);
    }
}
