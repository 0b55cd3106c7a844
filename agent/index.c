/* index.c - see index.h. Everything that can change data.mdb is in this file. */
#include "agent/index.h"
#include "agent/snapshot.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uri.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH_CHANGES 256
#define BATCH_BYTES   (2 * LDR_MIB)
#define BATCH_GAP_NS  (2 * LDR_NS_PER_MS)
#define READERS       64
#define MAP_SPARE     (128 * LDR_MIB) /* of the map, beside twice the budget */
#define ENV_FLAGS     (MDB_NOTLS | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NORDAHEAD) /* no WRITEMAP, no NOMEMINIT */

/* Key 01 's': what the index holds, so that a start need not count. In the transaction that changes it. */
static const uint8_t stats_key[2] = { 1, 's' };

struct ldr_index {
    /* set once in open */
    struct ldr_cache_dir *dir;
    struct ldr_space *space;
    struct ldr_counters *counters;
    struct ldr_index_cfg cfg;
    MDB_env *env;
    MDB_dbi dbi;
    struct ldr_hdr *hdr;
    uint64_t run; /* random; the first half of this run's object ids */
    pthread_t thread;
    bool running;
    /* any thread */
    _Atomic uint64_t next_id;
    struct ldr_mailbox box;
    pthread_mutex_t stats_mtx;
    struct ldr_index_stats published; /* under stats_mtx */
    /* index thread */
    struct ldr_snapshot snap;
    struct ldr_index_stats stats;
    uint64_t extent_charged; /* bytes of data.mdb in the ledger */
};

struct ldr_reader {
    struct ldr_index *x;
    MDB_txn *txn;
    uint8_t copy[LDR_RECORD_MAX + 16];
};

/* ---------- opening ---------- */

static uint64_t map_size(const struct ldr_index_cfg *cfg)
{
    uint64_t size = 2 * cfg->inline_bytes + MAP_SPARE;

    size = (size + LDR_MIB - 1) / LDR_MIB * LDR_MIB;
    return size > LDR_MAP_MAX ? LDR_MAP_MAX : size;
}

/* The map of a generation is constant, the configured budget is not: what this map is large enough for. */
static void bound_budget(struct ldr_index *x)
{
    uint64_t most = x->hdr->mapsize > MAP_SPARE ? (x->hdr->mapsize - MAP_SPARE) / 2 : 0;

    if (x->cfg.inline_bytes <= most)
        return;
    ldr_log(LDR_WARN, "index",
            "this cache was made for less: larder.cache.inline_size is bounded configured=%" PRIu64 " bytes=%" PRIu64,
            x->cfg.inline_bytes, most);
    x->cfg.inline_bytes = most;
}

static enum larder_kind make_hdr(const struct ldr_index *x, int fd, struct larder_err *err)
{
    struct ldr_hdr h = { .magic = LDR_HDR_MAGIC,
                         .version = LDR_HDR_VERSION,
                         .psize = LDR_PAGE,
                         .generation = x->dir->format.generation,
                         .nonce = x->dir->format.nonce,
                         .mapsize = map_size(&x->cfg),
                         .boot = x->dir->format.boot,
                         .inline_limit = x->cfg.inline_limit };
    uint8_t page[LDR_HDR_BYTES] = { 0 };

    memcpy(page, &h, sizeof h);
    if (pwrite(fd, page, sizeof page, 0) != (ssize_t)sizeof page)
        return ldr_fail_sys(err, LARDER_IO, "could not write the cache's header");
    return LARDER_OK;
}

static enum larder_kind open_hdr(struct ldr_index *x, struct larder_err *err)
{
    int fd = openat(x->dir->gendirfd, "hdr", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    enum larder_kind k;

    if (fd < 0)
        return ldr_fail_sys(err, LARDER_IO, "could not open the cache's header");
    k = ldr_cache_dir_own(x->dir, fd, 0640, "hdr", err);
    if (!k && x->dir->new_generation)
        k = make_hdr(x, fd, err);
    if (!k) {
        x->hdr = mmap(NULL, LDR_HDR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (x->hdr == MAP_FAILED) {
            x->hdr = NULL;
            k = ldr_fail_sys(err, LARDER_IO, "could not map the cache's header");
        }
    }
    close(fd);
    if (!k) {
        /* A clean restart of the machine: what is kept stays, and nothing that depends on the clock is fresh. */
        x->hdr->boot = x->dir->format.boot;
        bound_budget(x);
    }
    return k;
}

static enum larder_kind fail_mdb(const struct ldr_index *x, int rc, const char *what, struct larder_err *err)
{
    if (rc == ENOSPC || rc == EACCES || rc == EROFS || rc == ENOMEM || rc == EDQUOT) {
        errno = rc;
        return ldr_fail_sys(err, LARDER_IO, "could not %s the index in \"%s\"", what, x->dir->path);
    }
    ldr_cache_dir_distrust(x->dir);
    return ldr_fail(err, LARDER_CORRUPT, "could not %s the index in \"%s\": %s; the next start makes a new one", what,
                    x->dir->path, mdb_strerror(rc));
}

static enum larder_kind open_env(struct ldr_index *x, struct larder_err *err)
{
    char path[64 + 32];
    MDB_txn *txn = NULL;
    MDB_val key = { sizeof stats_key, (void *)stats_key }, val;
    int rc, fd, lock;

    /* By descriptor: the path that was checked is the one that is opened. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", x->dir->gendirfd);
    rc = mdb_env_create(&x->env);
    if (!rc)
        rc = mdb_env_set_mapsize(x->env, x->hdr->mapsize);
    if (!rc)
        rc = mdb_env_set_maxreaders(x->env, READERS);
    if (!rc)
        rc = mdb_env_open(x->env, path, ENV_FLAGS, 0600);
    if (!rc)
        rc = mdb_env_get_fd(x->env, &fd);
    if (!rc)
        rc = mdb_txn_begin(x->env, NULL, MDB_RDONLY, &txn);
    if (!rc)
        rc = mdb_dbi_open(txn, NULL, 0, &x->dbi);
    if (!rc && !mdb_get(txn, x->dbi, &key, &val) && val.mv_size == sizeof x->stats)
        memcpy(&x->stats, val.mv_data, sizeof x->stats);
    if (txn)
        mdb_txn_abort(txn);
    if (rc)
        return fail_mdb(x, rc, "open", err);
    lock = openat(x->dir->gendirfd, "lock.mdb", O_RDONLY | O_CLOEXEC);
    if (lock >= 0) {
        fchmod(lock, 0600); /* nobody else ever opens this env with LMDB's locks */
        close(lock);
    }
    if (ldr_cache_dir_own(x->dir, fd, 0640, "data.mdb", err))
        return LARDER_IO;
    return ldr_snapshot_open(&x->snap, x->env, fd, x->hdr, err);
}

/* The ledger follows the extent of data.mdb, which only grows. */
static void charge_extent(struct ldr_index *x)
{
    uint64_t now = ldr_snapshot_extent(&x->snap);

    if (now > x->extent_charged)
        ldr_space_add(x->space, now - x->extent_charged);
    x->extent_charged = now;
}

static void publish_stats(struct ldr_index *x)
{
    pthread_mutex_lock(&x->stats_mtx);
    x->published = x->stats;
    pthread_mutex_unlock(&x->stats_mtx);
}

enum larder_kind ldr_index_open(struct ldr_cache_dir *dir, struct ldr_space *space, struct ldr_counters *counters,
                                const struct ldr_index_cfg *cfg, struct ldr_index **out, struct larder_err *err)
{
    struct ldr_index *x = calloc(1, sizeof *x);
    enum larder_kind k;

    if (!x)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    x->dir = dir;
    x->space = space;
    x->counters = counters;
    x->cfg = *cfg;
    ldr_mailbox_init(&x->box, NULL, NULL);
    pthread_mutex_init(&x->stats_mtx, NULL);
    if (getrandom(&x->run, sizeof x->run, 0) != (ssize_t)sizeof x->run)
        k = ldr_fail_sys(err, LARDER_IO, "could not get random bytes");
    else
        k = open_hdr(x, err);
    if (!k)
        k = open_env(x, err);
    if (k) {
        ldr_index_close(&x);
        return k;
    }
    x->snap.unsafe = cfg->unsafe;
    ldr_space_add(space, x->stats.block_bytes);
    atomic_fetch_add(&space->files, x->stats.blocks);
    charge_extent(x);
    publish_stats(x);
    *out = x;
    return LARDER_OK;
}

void ldr_index_close(struct ldr_index **px)
{
    struct ldr_index *x = *px;

    if (!x)
        return;
    assert(!x->running);
    ldr_snapshot_close(&x->snap);
    if (x->env)
        mdb_env_close(x->env);
    if (x->hdr)
        munmap(x->hdr, LDR_HDR_BYTES);
    ldr_mailbox_release(&x->box);
    pthread_mutex_destroy(&x->stats_mtx);
    free(x);
    *px = NULL;
}

uint64_t ldr_index_nonce(const struct ldr_index *x)
{
    return x->hdr->nonce;
}

uint32_t ldr_index_boot(const struct ldr_index *x)
{
    return x->hdr->boot;
}

uint32_t ldr_index_limit(const struct ldr_index *x)
{
    return x->cfg.inline_limit;
}

struct ldr_id ldr_index_new_id(struct ldr_index *x)
{
    uint64_t n = atomic_fetch_add_explicit(&x->next_id, 1, memory_order_relaxed) + 1;
    struct ldr_id id;

    memcpy(id.b, &x->run, 8);
    for (int i = 0; i < 8; i++) /* big-endian: the last byte, which names the folder, changes fastest */
        id.b[8 + i] = (uint8_t)(n >> (56 - 8 * i));
    return id;
}

bool ldr_index_own_id(const struct ldr_index *x, const struct ldr_id *id)
{
    return memcmp(id->b, &x->run, 8) == 0;
}

void ldr_index_stats(struct ldr_index *x, struct ldr_index_stats *out)
{
    pthread_mutex_lock(&x->stats_mtx);
    *out = x->published;
    pthread_mutex_unlock(&x->stats_mtx);
}

/* ---------- changing ---------- */

/* What a value costs in data.mdb, measured (docs/design/storage.md): whole pages above about half a page. */
static uint64_t charge(size_t key_len, size_t value_len)
{
    if (value_len > 1950)
        return (value_len + 16 + LDR_PAGE - 1) / LDR_PAGE * LDR_PAGE + key_len + 64;
    return (key_len + value_len + 8) * 8 / 5;
}

static bool has_block(const struct ldr_record *r)
{
    return ldr_record_blocks(r) > 0;
}

static uint64_t record_charge(const struct ldr_record *r, size_t key_len)
{
    uint64_t n = charge(key_len, ldr_record_len(r));

    return has_block(r) ? n + charge(LDR_BLOCK_KEY_LEN, LDR_BLOCK_VALUE_LEN) * ldr_record_blocks(r) : n;
}

static int put_block_record(struct ldr_index *x, MDB_txn *txn, const struct ldr_record *r, uint64_t hash)
{
    uint8_t k[LDR_BLOCK_KEY_LEN], v[LDR_BLOCK_VALUE_LEN];
    MDB_val key = { sizeof k, k }, val = { sizeof v, v };

    ldr_block_key(&r->id, 0, k);
    ldr_block_value(r->size_bytes, hash, v);
    return mdb_put(txn, x->dbi, &key, &val, 0);
}

static int drop_key(struct ldr_index *x, MDB_txn *txn, void *p, size_t len)
{
    MDB_val key = { len, p };
    int rc = mdb_del(txn, x->dbi, &key, NULL);

    return rc == MDB_NOTFOUND ? 0 : rc;
}

static void uncount(struct ldr_index_stats *s, const struct ldr_record *r, size_t key_len)
{
    uint64_t c = record_charge(r, key_len), b = ldr_record_blocks(r);

    s->objects -= s->objects > 0;
    s->inline_charge -= c < s->inline_charge ? c : s->inline_charge;
    if (b) {
        s->blocks -= b < s->blocks ? b : s->blocks;
        s->block_bytes -=
            ldr_space_charge(r->size_bytes) < s->block_bytes ? ldr_space_charge(r->size_bytes) : s->block_bytes;
    }
}

/* Take the record of `key` out, with its block records. *old gets its head; *had says whether there was one. A damaged
 * record is removed too; its block file is found by the sweep. */
static int take_out(struct ldr_index *x, MDB_txn *txn, const void *key_bytes, size_t key_len, const struct ldr_id *only,
                    struct ldr_record *old, bool *had)
{
    MDB_val key = { key_len, (void *)key_bytes }, val;
    int rc = mdb_get(txn, x->dbi, &key, &val);

    *had = false;
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc)
        return rc;
    if (ldr_record_unpack(val.mv_data, val.mv_size, key_bytes, key_len, old)) {
        uint64_t blocks = ldr_record_blocks(old);

        if (only && memcmp(only, &old->id, sizeof *only))
            return 0;
        *had = true;
        for (uint32_t i = 0; i < blocks && !rc; i++) {
            uint8_t k[LDR_BLOCK_KEY_LEN];

            ldr_block_key(&old->id, i, k);
            rc = drop_key(x, txn, k, sizeof k);
        }
        uncount(&x->stats, old, key_len);
        old->fields = old->payload = NULL;
    } else {
        ldr_count(x->counters, damaged, 1);
        x->stats.objects -= x->stats.objects > 0;
    }
    return rc ? rc : drop_key(x, txn, (void *)key_bytes, key_len);
}

/* `room`: a record may be added. Without it the older version goes all the same: it must not outlive a newer one. */
static int apply_put(struct ldr_index *x, MDB_txn *txn, struct ldr_change *c, uint64_t seq, bool room)
{
    MDB_val key = { c->key_len, (void *)c->key }, val = { .mv_size = ldr_record_len(&c->record) };
    uint64_t cost = record_charge(&c->record, c->key_len);
    int rc;

    if (c->skip && atomic_load(c->skip)) {
        c->kind = ldr_fail(&c->err, LARDER_CANCELLED, "a write of the object was under way");
        return 0;
    }
    rc = take_out(x, txn, c->key, c->key_len, NULL, &c->old, &c->had_old);
    if (rc)
        return rc;
    if (!room || x->stats.inline_charge + cost > x->cfg.inline_bytes) {
        c->kind = ldr_fail(&c->err, LARDER_LIMIT_EXCEEDED, "larder.cache.inline_size (%" PRIu64 " bytes) is reached",
                           x->cfg.inline_bytes);
        return 0;
    }
    c->record.seq = seq;
    rc = mdb_put(txn, x->dbi, &key, &val, MDB_RESERVE);
    if (rc)
        return rc;
    ldr_record_pack(&c->record, c->key, c->key_len, val.mv_data); /* fills every reserved byte */
    if (has_block(&c->record)) {
        rc = put_block_record(x, txn, &c->record, c->block_hash);
        x->stats.blocks++;
        x->stats.block_bytes += ldr_space_charge(c->record.size_bytes);
    }
    x->stats.objects++;
    x->stats.inline_charge += cost;
    return rc;
}

static int apply_update(struct ldr_index *x, MDB_txn *txn, struct ldr_change *c, uint64_t seq, bool room)
{
    MDB_val key = { c->key_len, (void *)c->key }, val;
    struct ldr_record now;
    uint64_t cost = record_charge(&c->record, c->key_len), before;
    int rc = mdb_get(txn, x->dbi, &key, &val);

    if (rc)
        return rc == MDB_NOTFOUND ? 0 : rc;
    if (!room || !ldr_record_unpack(val.mv_data, val.mv_size, c->key, c->key_len, &now) ||
        memcmp(&now.id, &c->record.id, sizeof now.id))
        return 0;
    before = record_charge(&now, c->key_len);
    c->record.seq = seq;
    val.mv_size = ldr_record_len(&c->record);
    rc = mdb_put(txn, x->dbi, &key, &val, MDB_RESERVE);
    if (rc)
        return rc;
    ldr_record_pack(&c->record, c->key, c->key_len, val.mv_data);
    x->stats.inline_charge += cost;
    x->stats.inline_charge -= before < x->stats.inline_charge ? before : x->stats.inline_charge;
    return 0;
}

static int apply(struct ldr_index *x, MDB_txn *txn, struct ldr_change *c, uint64_t seq, bool room)
{
    uint8_t intent[LDR_INTENT_KEY_MAX];
    size_t n = ldr_intent_key(c->key, c->key_len, intent);
    MDB_val key = { n, intent }, empty = { 0, NULL };
    int rc = 0;

    switch (c->what) {
    case LDR_CHANGE_PUT:
        rc = apply_put(x, txn, c, seq, room);
        break;
    case LDR_CHANGE_REMOVE:
        rc = take_out(x, txn, c->key, c->key_len, c->only_id ? &c->record.id : NULL, &c->old, &c->had_old);
        break;
    case LDR_CHANGE_UPDATE:
        rc = apply_update(x, txn, c, seq, room);
        break;
    case LDR_CHANGE_INTENT:
        return mdb_put(txn, x->dbi, &key, &empty, 0);
    }
    if (!rc && c->clear_intent)
        rc = drop_key(x, txn, intent, n);
    return rc;
}

/* Nothing here may be believed any more: readers go elsewhere, and the next start makes a new generation. */
_Noreturn static void give_up(struct ldr_index *x, int rc, const char *what)
{
    ldr_log(LDR_ERROR, "index", "the index is damaged, the cache is dropped; restart the agent op=%s error=\"%s\"",
            what, mdb_strerror(rc));
    ldr_cache_dir_distrust(x->dir);
    ldr_snapshot_retire(&x->snap);
    _exit(1);
}

static bool damage(int rc)
{
    return rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == MDB_PANIC || rc == MDB_NOTFOUND ||
           rc == MDB_INVALID || rc == MDB_CURSOR_FULL || rc == MDB_PAGE_FULL || rc == EIO;
}

static int write_stats(struct ldr_index *x, MDB_txn *txn)
{
    MDB_val key = { sizeof stats_key, (void *)stats_key }, val = { sizeof x->stats, &x->stats };

    return mdb_put(txn, x->dbi, &key, &val, 0);
}

static bool carries_record(const struct ldr_change *c)
{
    return c->what == LDR_CHANGE_PUT || c->what == LDR_CHANGE_UPDATE;
}

/* Pages that a batch can use at most: each change touches a path of the tree, its value, and the free list. */
static uint64_t batch_pages(struct ldr_change *const *batch, size_t n)
{
    uint64_t pages = 64;

    for (size_t i = 0; i < n; i++)
        pages += 12 + (carries_record(batch[i]) ? ldr_record_len(&batch[i]->record) / LDR_PAGE : 0);
    return pages;
}

static int try_commit(struct ldr_index *x, struct ldr_change *const *batch, size_t n, bool room)
{
    struct ldr_index_stats before = x->stats;
    MDB_txn *txn = NULL;
    int rc = mdb_txn_begin(x->env, NULL, 0, &txn);
    uint64_t seq = rc ? 0 : (uint64_t)mdb_txn_id(txn) << 8;

    for (size_t i = 0; i < n && !rc; i++) {
        batch[i]->kind = LARDER_OK;
        batch[i]->had_old = false;
        rc = apply(x, txn, batch[i], seq + i, room);
    }
    if (!rc)
        rc = write_stats(x, txn);
    if (rc) {
        if (txn)
            mdb_txn_abort(txn);
        x->stats = before;
        return rc;
    }
    rc = mdb_txn_commit(txn);
    if (rc)
        x->stats = before;
    return rc;
}

/* Would readers go on with what should be gone, if this batch were not committed? */
static bool must_commit(struct ldr_change *const *batch, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (batch[i]->what == LDR_CHANGE_REMOVE || batch[i]->clear_intent)
            return true;
    return false;
}

static void commit(struct ldr_index *x, struct ldr_change *const *batch, size_t n)
{
    bool room = ldr_snapshot_reserve(&x->snap, batch_pages(batch, n));
    int rc = try_commit(x, batch, n, room);
    uint64_t txnid;

    if (rc == MDB_MAP_FULL || rc == ENOSPC || rc == EDQUOT || rc == MDB_TXN_FULL) {
        ldr_log(LDR_WARN, "index", "no room for a batch, nothing is added changes=%zu error=\"%s\"", n,
                mdb_strerror(rc));
        rc = try_commit(x, batch, n, false);
    }
    if (damage(rc) || (rc && must_commit(batch, n)))
        give_up(x, rc, "commit");
    for (size_t i = 0; i < n && rc; i++) {
        batch[i]->had_old = false;
        batch[i]->kind = ldr_fail(&batch[i]->err, LARDER_IO, "could not write the index: %s", mdb_strerror(rc));
    }
    txnid = ldr_snapshot_publish(&x->snap);
    charge_extent(x);
    publish_stats(x);
    ldr_count(x->counters, commits, 1);
    for (size_t i = 0; i < n; i++) {
        batch[i]->txnid = txnid;
        batch[i]->done(batch[i]); /* it may be freed by now */
    }
}

static void *run(void *user)
{
    struct ldr_index *x = user;
    struct ldr_change *batch[BATCH_CHANGES];
    int64_t last = 0;

    for (;;) {
        struct ldr_task *t = ldr_mailbox_take(&x->box, LDR_NEVER);
        size_t n = 0, bytes = 0;
        int64_t until;

        if (!t)
            break;
        until = last + BATCH_GAP_NS; /* idle for longer: in the past, so only what is queued is taken */
        while (t) {
            batch[n] = LDR_CONTAINER(t, struct ldr_change, task);
            if (carries_record(batch[n]))
                bytes += ldr_record_len(&batch[n]->record);
            n++;
            if (n == BATCH_CHANGES || bytes >= BATCH_BYTES)
                break;
            t = ldr_mailbox_take(&x->box, until > ldr_mono_ns() ? until : 0);
        }
        commit(x, batch, n);
        last = ldr_mono_ns();
    }
    return NULL;
}

void ldr_index_change(struct ldr_index *x, struct ldr_change *c)
{
    ldr_mailbox_post(&x->box, &c->task);
}

/* ---------- start and stop ---------- */

/* Remove the record of every intent, then the intent. */
static int apply_intents(struct ldr_index *x, MDB_txn *txn, MDB_cursor *cur, size_t *count)
{
    uint8_t first[2] = { 1, 'i' };
    int rc = 0;

    while (!rc) {
        MDB_val key = { sizeof first, first }, val;
        uint8_t copy[LDR_INTENT_KEY_MAX];
        struct ldr_record old;
        size_t len;
        bool had;

        rc = mdb_cursor_get(cur, &key, &val, MDB_SET_RANGE); /* the first that is left */
        if (rc || key.mv_size <= sizeof first || memcmp(key.mv_data, first, sizeof first))
            break;
        len = key.mv_size;
        if (len > sizeof copy)
            return MDB_CORRUPTED;
        memcpy(copy, key.mv_data, len);
        rc = take_out(x, txn, copy + 2, len - 2, NULL, &old, &had);
        if (!rc)
            rc = drop_key(x, txn, copy, len);
        ++*count;
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Up to `max` records of a scheme; *more says whether some are left. */
static int drop_scheme(struct ldr_index *x, MDB_txn *txn, MDB_cursor *cur, const char *scheme, size_t max, bool *more)
{
    char prefix[LDR_SCHEME_MAX + 4];
    size_t plen = (size_t)snprintf(prefix, sizeof prefix, "%s://", scheme), n = 0;
    int rc = 0;

    *more = false;
    while (!rc) {
        MDB_val key = { plen, prefix }, val;
        uint8_t copy[LDR_INDEX_KEY_MAX];
        struct ldr_record old;
        size_t len;
        bool had;

        rc = mdb_cursor_get(cur, &key, &val, MDB_SET_RANGE);
        if (rc || key.mv_size < plen || memcmp(key.mv_data, prefix, plen))
            break;
        if (n++ == max) {
            *more = true;
            break;
        }
        len = key.mv_size;
        if (len > sizeof copy)
            return MDB_CORRUPTED;
        memcpy(copy, key.mv_data, len);
        rc = take_out(x, txn, copy, len, NULL, &old, &had);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum larder_kind ldr_index_repair(struct ldr_index *x, const char *const *drop, struct larder_err *err)
{
    struct ldr_index_stats before = x->stats;
    size_t intents = 0, i = 0;
    bool more = true, first = true;
    int rc = 0;

    while (more && !rc) { /* in slices: one huge transaction could meet MDB_TXN_FULL */
        MDB_txn *txn = NULL;
        MDB_cursor *cur = NULL;

        more = false;
        rc = mdb_txn_begin(x->env, NULL, 0, &txn);
        if (!rc)
            rc = mdb_cursor_open(txn, x->dbi, &cur);
        if (!rc && first)
            rc = apply_intents(x, txn, cur, &intents);
        first = false;
        if (!rc && drop[i]) {
            bool left;

            rc = drop_scheme(x, txn, cur, drop[i], 1000, &left);
            if (!left)
                i++;
            more = drop[i] != NULL;
        }
        if (cur)
            mdb_cursor_close(cur);
        if (!rc)
            rc = write_stats(x, txn);
        if (!rc)
            rc = mdb_txn_commit(txn);
        else if (txn)
            mdb_txn_abort(txn);
    }
    if (rc)
        return fail_mdb(x, rc, "repair", err);
    if (intents)
        ldr_log(LDR_INFO, "index", "writes that an earlier run did not finish: their objects are dropped count=%zu",
                intents);
    charge_extent(x);
    /* The files of what was dropped are nobody's now, as are others that the sweep finds. */
    atomic_fetch_sub(&x->space->bytes, before.block_bytes - x->stats.block_bytes);
    atomic_fetch_sub(&x->space->files, before.blocks - x->stats.blocks);
    publish_stats(x);
    return LARDER_OK;
}

enum larder_kind ldr_index_start(struct ldr_index *x, struct larder_err *err)
{
    int rc;

    ldr_snapshot_publish(&x->snap);
    charge_extent(x);
    rc = pthread_create(&x->thread, NULL, run, x);
    if (rc) {
        errno = rc;
        return ldr_fail_sys(err, LARDER_INTERNAL, "could not start the index thread");
    }
    x->running = true;
    return LARDER_OK;
}

enum larder_kind ldr_index_stop(struct ldr_index *x, bool sync, struct larder_err *err)
{
    int rc;

    if (x->running) {
        ldr_mailbox_close(&x->box);
        pthread_join(x->thread, NULL);
        x->running = false;
    }
    if (!sync)
        return LARDER_OK;
    rc = mdb_env_sync(x->env, 1);
    if (rc)
        return fail_mdb(x, rc, "sync", err);
    if (syncfs(x->dir->dirfd))
        return ldr_fail_sys(err, LARDER_IO, "could not sync cache directory \"%s\"", x->dir->path);
    return LARDER_OK;
}

/* ---------- reading ---------- */

enum larder_kind ldr_reader_open(struct ldr_index *x, struct ldr_reader **out, struct larder_err *err)
{
    struct ldr_reader *r = calloc(1, sizeof *r);
    int rc;

    if (!r)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    r->x = x;
    rc = mdb_txn_begin(x->env, NULL, MDB_RDONLY, &r->txn);
    if (rc) {
        free(r);
        return fail_mdb(x, rc, "read", err);
    }
    mdb_txn_reset(r->txn);
    *out = r;
    return LARDER_OK;
}

void ldr_reader_close(struct ldr_reader **r)
{
    if (!*r)
        return;
    mdb_txn_abort((*r)->txn);
    free(*r);
    *r = NULL;
}

static int reader_get(struct ldr_reader *r, const void *key_bytes, size_t key_len, MDB_val *val)
{
    MDB_val key = { key_len, (void *)key_bytes };
    int rc = mdb_txn_renew(r->txn);

    if (rc)
        return rc;
    rc = mdb_get(r->txn, r->x->dbi, &key, val);
    if (rc)
        mdb_txn_reset(r->txn);
    return rc;
}

enum larder_kind ldr_reader_find(struct ldr_reader *r, const void *key, size_t key_len, struct ldr_record *out,
                                 uint64_t *txnid)
{
    enum larder_kind k = LARDER_OK;
    MDB_val val;
    size_t len;

    if (reader_get(r, key, key_len, &val))
        return LARDER_NOT_FOUND;
    len = val.mv_size;
    *txnid = mdb_txn_id(r->txn);
    if (len > LDR_RECORD_MAX)
        k = LARDER_CORRUPT;
    else
        memcpy(r->copy, val.mv_data, len);
    mdb_txn_reset(r->txn);
    if (!k && !ldr_record_unpack(r->copy, len, key, key_len, out))
        k = LARDER_CORRUPT;
    return k;
}

bool ldr_reader_has_block(struct ldr_reader *r, const struct ldr_id *id, uint32_t block)
{
    uint8_t key[LDR_BLOCK_KEY_LEN];
    MDB_val val;
    int rc;

    ldr_block_key(id, block, key);
    rc = reader_get(r, key, sizeof key, &val);
    if (rc)
        return rc != MDB_NOTFOUND; /* who cannot be asked may own it */
    mdb_txn_reset(r->txn);
    return true;
}
