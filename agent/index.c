/* index.c - see index.h: the thread, its transactions and what follows each, eviction, the start. What a change does in
 * a transaction is in apply.c. */
#include "agent/apply.h"
#include "agent/blocks.h"
#include "agent/snapshot.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/touch.h"
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
#define VICTIMS       64                    /* of one transaction */
#define EVICT_TXNS    4                     /* in a row, while changes wait */
#define EVICT_RETRY   (10 * LDR_NS_PER_MS)  /* after nothing could go, while somebody waits */
#define STUCK_MAX     LDR_NS_PER_S          /* for fills to become evictable */
#define PRESS_GAP     (50 * LDR_NS_PER_MS)  /* between two requests to readers to let go of mappings */
#define PRESS_FIRST   (100 * LDR_NS_PER_MS) /* what readers keep mapped is left alone for so long after that */
#define PRESS_MAX     (400 * LDR_NS_PER_MS) /* then room is given up */
#define GROW_WAIT_MS  50                    /* for room for data.mdb that is on its way */
#define SCAN_IDLE     1000                  /* records of earlier runs looked at in one go */
#define SCAN_BUSY     100
#define READERS       64
#define MAP_SPARE     (128 * LDR_MIB) /* of the map, beside twice the budget */
#define ENV_FLAGS     (MDB_NOTLS | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NORDAHEAD) /* no WRITEMAP, no NOMEMINIT */

struct batch {
    struct ldr_change *change[BATCH_CHANGES];
    size_t n;
    struct ldr_victim victim[VICTIMS];
    size_t n_victims;
};

struct ldr_index {
    /* set once in open */
    struct ldr_cache_dir *dir;
    struct ldr_space *space;
    struct ldr_counters *counters;
    struct ldr_index_cfg cfg;
    MDB_env *env;
    MDB_dbi dbi;
    struct ldr_hdr *hdr;
    int touch_fd; /* -1: none */
    uint64_t run; /* random; the first half of this run's object ids */
    pthread_t thread;
    bool running;
    /* before start, then constant */
    char *prefix[LDR_TOUCH_PREFIXES]; /* by slot; 0 is for what has none */
    unsigned n_prefixes;
    _Atomic uint64_t unswept_bytes, unswept_files; /* in the ledger still */
    /* any thread */
    _Atomic uint64_t next_id;
    struct ldr_mailbox box;
    struct ldr_task need_task, tick_task;
    atomic_bool need_posted, tick_posted;
    pthread_mutex_t stats_mtx;
    struct ldr_index_stats published;                 /* under stats_mtx */
    struct ldr_touch_cell totals[LDR_TOUCH_PREFIXES]; /* under stats_mtx */
    /* index thread; the starter's before */
    struct ldr_snapshot snap;
    struct ldr_apply apply;
    struct ldr_resident *resident;
    struct ldr_touch_cell *last_cells; /* LDR_TOUCH_CELLS of them */
    int64_t gathered_ns;
    uint64_t pages;     /* that the transaction may use */
    int64_t retry_ns;   /* of eviction; LDR_NEVER: not before it is asked for again */
    int64_t stuck_ns;   /* since when nothing could go; 0: something could */
    int64_t pressed_ns; /* when readers were last asked to let go of mappings */
    MDB_txn *scan_txn;
    bool restored;
    uint8_t scan_key[LDR_INDEX_KEY_MAX]; /* the last one looked at */
    size_t scan_len;
};

struct ldr_reader {
    struct ldr_index *x;
    MDB_txn *txn;
    MDB_cursor *cur; /* of txn; made when it is first needed */
    uint8_t copy[LDR_RECORD_MAX + 16];
};

/* ---------- holds ---------- */

struct ldr_hold *ldr_hold_new(uint32_t first, uint32_t last)
{
    struct ldr_hold *h = malloc(sizeof *h);

    if (h) {
        atomic_init(&h->refs, 1);
        atomic_init(&h->until_ns, LDR_NEVER);
        h->first = first;
        h->last = last;
    }
    return h;
}

struct ldr_hold *ldr_hold_ref(struct ldr_hold *h)
{
    atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
    return h;
}

void ldr_hold_unref(struct ldr_hold **h)
{
    if (*h && atomic_fetch_sub_explicit(&(*h)->refs, 1, memory_order_acq_rel) == 1)
        free(*h);
    *h = NULL;
}

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

/* Enough for what the limits allow: block files of the smallest size, small objects of a page. */
static uint64_t touch_bits(const struct ldr_index *x)
{
    uint64_t files = x->space->max_bytes >> LDR_BLOCK_LOG2_MIN;

    if (files > x->space->max_files)
        files = x->space->max_files;
    return ldr_touch_bits(files + x->cfg.inline_bytes / LDR_PAGE);
}

/* The size comes from the header, which is constant. Without the file the cache works: nothing counts as visited. */
static void open_touch(struct ldr_index *x)
{
    struct ldr_touch_cell scratch[LDR_TOUCH_PREFIXES] = { { 0 } };
    uint64_t bytes = ldr_touch_file_bytes(x->hdr->touch_bits);
    struct larder_err e;

    if (bytes && ldr_cache_dir_touch(x->dir, bytes, x->dir->new_generation, &x->touch_fd, &e)) {
        ldr_log(LDR_WARN, "index", "reads are not seen by eviction, and not counted reason=\"%s\"", e.msg);
        x->touch_fd = -1;
    }
    x->gathered_ns = ldr_mono_ns();
    if (x->touch_fd >= 0) /* what an earlier run has counted already */
        ldr_touch_gather(x->touch_fd, x->hdr->touch_bits, 0, x->last_cells, scratch);
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
                         .inline_limit = x->cfg.inline_limit,
                         .touch_bits = touch_bits(x) };
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
        open_touch(x);
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

static uint64_t touch_bytes(const struct ldr_index *x)
{
    return x->touch_fd >= 0 ? ldr_space_charge(ldr_touch_file_bytes(x->hdr->touch_bits)) : 0;
}

/* Names of prefixes that were ever configured: key 01 'p' slot. */
static int read_prefixes(struct ldr_index *x, MDB_txn *txn)
{
    for (unsigned slot = 1; slot < LDR_TOUCH_PREFIXES; slot++) {
        uint8_t k[3] = { 1, 'p', (uint8_t)slot };
        MDB_val key = { sizeof k, k }, val;
        int rc = mdb_get(txn, x->dbi, &key, &val);

        if (rc)
            return rc == MDB_NOTFOUND ? 0 : rc;
        if (val.mv_size > LDR_PREFIX_NAME_MAX)
            return MDB_CORRUPTED;
        x->prefix[slot] = strndup(val.mv_data, val.mv_size);
        assert(x->prefix[slot]);
        x->n_prefixes = slot + 1;
    }
    return 0;
}

static int read_figures(struct ldr_index *x, MDB_txn *txn)
{
    struct ldr_figures *f = &x->apply.figures;
    MDB_val key = { 2, (void *)"\001s" }, val;
    int rc = mdb_get(txn, x->dbi, &key, &val);

    if (!rc && val.mv_size == sizeof *f)
        memcpy(f, val.mv_data, sizeof *f);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static enum larder_kind open_env(struct ldr_index *x, struct larder_err *err)
{
    char path[64 + 32];
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
        rc = mdb_txn_begin(x->env, NULL, MDB_RDONLY, &x->scan_txn);
    if (!rc)
        rc = mdb_dbi_open(x->scan_txn, NULL, 0, &x->dbi);
    if (!rc)
        rc = read_figures(x, x->scan_txn);
    if (!rc)
        rc = read_prefixes(x, x->scan_txn);
    if (rc)
        return fail_mdb(x, rc, "open", err);
    mdb_txn_reset(x->scan_txn);
    lock = openat(x->dir->gendirfd, "lock.mdb", O_RDONLY | O_CLOEXEC);
    if (lock >= 0) {
        fchmod(lock, 0600); /* nobody else ever opens this env with LMDB's locks */
        close(lock);
    }
    if (ldr_cache_dir_own(x->dir, fd, 0640, "data.mdb", err))
        return LARDER_IO;
    ldr_space_start(x->space, x->apply.figures.block_bytes + atomic_load(&x->hdr->npages) * LDR_PAGE + touch_bytes(x),
                    x->apply.figures.blocks);
    return ldr_snapshot_open(&x->snap, x->env, fd, x->hdr, x->space, err);
}

static uint64_t block_capacity(const struct ldr_index *x)
{
    uint64_t other = ldr_snapshot_extent(&x->snap) + touch_bytes(x);

    return other < x->space->max_bytes ? x->space->max_bytes - other : 0;
}

static enum larder_kind open_resident(struct ldr_index *x, struct larder_err *err)
{
    struct ldr_resident_cfg cfg = { .inline_bytes = x->cfg.inline_bytes,
                                    .block_bytes = block_capacity(x),
                                    .blocks = x->cfg.blocks,
                                    .touch_fd = x->touch_fd,
                                    .touch_bits = x->hdr->touch_bits };

    x->resident = ldr_resident_new(&cfg);
    x->restored = x->apply.figures.objects == 0;
    return x->resident ? LARDER_OK : ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
}

static void publish_stats(struct ldr_index *x)
{
    struct ldr_figures *f = &x->apply.figures;
    struct ldr_resident_stats known;

    ldr_resident_stats(x->resident, &known);
    pthread_mutex_lock(&x->stats_mtx);
    x->published = (struct ldr_index_stats){ .objects = f->objects,
                                             .blocks = f->blocks,
                                             .block_bytes = f->block_bytes,
                                             .inline_charge = f->inline_charge,
                                             .block_capacity = block_capacity(x),
                                             .evictable = known.inline_entries + known.block_entries,
                                             .restored = x->restored };
    pthread_mutex_unlock(&x->stats_mtx);
}

/* Room that is kept ready, so that a fetch seldom waits for eviction. */
static void set_headroom(struct ldr_index *x)
{
    struct ldr_space *s = x->space;

    s->headroom_bytes = s->max_bytes / 16 < 4 * x->cfg.block_size ? s->max_bytes / 16 : 4 * x->cfg.block_size;
    s->headroom_files = s->max_files / 16 < 8 ? s->max_files / 16 : 8;
}

static bool more_pages(void *user, uint64_t pages)
{
    struct ldr_index *x = user;

    x->pages += pages;
    return ldr_snapshot_reserve(&x->snap, x->pages, false);
}

static void need_on_index(struct ldr_task *t);
static void tick_on_index(struct ldr_task *t);

enum larder_kind ldr_index_open(struct ldr_cache_dir *dir, struct ldr_space *space, struct ldr_counters *counters,
                                const struct ldr_index_cfg *cfg, struct ldr_index **out, struct larder_err *err)
{
    struct ldr_index *x = calloc(1, sizeof *x);
    enum larder_kind k;

    if (!x || !(x->last_cells = calloc(LDR_TOUCH_CELLS, sizeof *x->last_cells))) {
        free(x);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    x->dir = dir;
    x->space = space;
    x->counters = counters;
    x->cfg = *cfg;
    x->touch_fd = -1;
    x->need_task.run = need_on_index;
    x->tick_task.run = tick_on_index;
    x->n_prefixes = 1;
    x->retry_ns = LDR_NEVER;
    ldr_mailbox_init(&x->box, NULL, NULL);
    pthread_mutex_init(&x->stats_mtx, NULL);
    k = ldr_cache_dir_bounded(dir, space->max_bytes, space->min_free_bytes, err);
    if (!k && getrandom(&x->run, sizeof x->run, 0) != (ssize_t)sizeof x->run)
        k = ldr_fail_sys(err, LARDER_IO, "could not get random bytes");
    if (!k)
        k = open_hdr(x, err);
    if (!k)
        k = open_env(x, err);
    if (!k)
        k = open_resident(x, err);
    if (k) {
        ldr_index_close(&x);
        return k;
    }
    x->snap.unsafe = cfg->unsafe;
    x->apply.dbi = x->dbi;
    x->apply.counters = counters;
    x->apply.budget = x->cfg.inline_bytes;
    x->apply.more_pages = more_pages;
    x->apply.user = x;
    set_headroom(x);
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
    if (x->scan_txn)
        mdb_txn_abort(x->scan_txn);
    ldr_snapshot_close(&x->snap);
    if (x->env)
        mdb_env_close(x->env);
    if (x->hdr)
        munmap(x->hdr, LDR_HDR_BYTES);
    if (x->touch_fd >= 0)
        close(x->touch_fd);
    ldr_resident_free(&x->resident);
    for (unsigned i = 1; i < x->n_prefixes; i++)
        free(x->prefix[i]);
    free(x->apply.effects);
    free(x->last_cells);
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

/* ---------- one transaction ---------- */

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

static bool carries_record(const struct ldr_change *c)
{
    return c->what == LDR_CHANGE_PUT || c->what == LDR_CHANGE_UPDATE;
}

/* Pages that a batch can use at most. A change touches up to four paths of the tree (the record, a new block record, the
 * first of the old ones, the intent) and may split a page on each; together they cannot touch more than there are. Then
 * the values, and the free list. Old block records beyond the first are asked for on the way (more_pages). */
static uint64_t batch_pages(const struct ldr_index *x, const struct batch *b)
{
    uint64_t pages = 0, changes = b->n + b->n_victims, touched, all;
    MDB_stat st;

    if (mdb_env_stat(x->env, &st))
        st = (MDB_stat){ .ms_depth = 16, .ms_branch_pages = SIZE_MAX / 4 };
    touched = changes * 4 * (st.ms_depth + 1);
    all = st.ms_branch_pages + st.ms_leaf_pages + 8 * changes;
    for (size_t i = 0; i < b->n; i++)
        if (carries_record(b->change[i]))
            pages += 1 + ldr_record_len(&b->change[i]->record) / LDR_PAGE;
    pages += touched < all ? touched : all;
    return pages + pages / 256 + 64;
}

static int try_commit(struct ldr_index *x, struct batch *b, bool room)
{
    struct ldr_apply *a = &x->apply;
    struct ldr_figures before = a->figures;
    int rc = mdb_txn_begin(x->env, NULL, 0, &a->txn);
    uint64_t seq = rc ? 0 : (uint64_t)mdb_txn_id(a->txn) << 8;

    a->room = room;
    a->n_effects = 0;
    for (size_t i = 0; i < b->n_victims && !rc; i++)
        rc = ldr_apply_evict(a, &b->victim[i]);
    for (size_t i = 0; i < b->n && !rc; i++)
        rc = ldr_apply_change(a, b->change[i], seq + i);
    if (!rc)
        rc = ldr_apply_figures(a);
    if (!rc)
        rc = mdb_txn_commit(a->txn);
    else if (a->txn)
        mdb_txn_abort(a->txn);
    a->txn = NULL;
    if (rc) {
        a->figures = before;
        a->n_effects = 0;
    }
    return rc;
}

/* Would readers go on with what should be gone, if this batch were not committed? */
static bool must_commit(const struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->change[i]->what == LDR_CHANGE_REMOVE || b->change[i]->what == LDR_CHANGE_UNBLOCK ||
            b->change[i]->clear_intent)
            return true;
    return false;
}

static void restore_key(struct ldr_index *x, const void *key, size_t key_len);

/* What the transaction changed, for eviction and on the disk. After publication: who sees the record finds the file. */
static void follow(struct ldr_index *x)
{
    for (size_t i = 0; i < x->apply.n_effects; i++) {
        const struct ldr_effect *e = &x->apply.effects[i];

        switch (e->what) {
        case LDR_EFFECT_ADD:
            ldr_resident_add(x->resident, e->change->key, e->change->key_len, &e->id, e->block, e->bytes,
                             e->change->hold);
            break;
        case LDR_EFFECT_GONE:
            ldr_resident_remove(x->resident, &e->id);
            break;
        case LDR_EFFECT_UNBLOCK:
            ldr_resident_remove_block(x->resident, &e->id, e->block);
            break;
        case LDR_EFFECT_HOLD:
            restore_key(x, e->change->key, e->change->key_len);
            ldr_resident_hold(x->resident, &e->id, e->change->hold);
            break;
        case LDR_EFFECT_FILE:
            if (x->cfg.blocks)
                ldr_blocks_drop(x->cfg.blocks, &e->id, e->block, e->bytes);
            break;
        }
    }
    x->apply.n_effects = 0;
    ldr_resident_resize(x->resident, x->cfg.inline_bytes, block_capacity(x));
}

static void count_evicted(struct ldr_index *x, const struct batch *b)
{
    uint64_t blocks = 0, bytes = 0, objects = 0;

    for (size_t i = 0; i < b->n_victims; i++) {
        blocks += b->victim[i].block != LDR_NO_BLOCK;
        bytes += b->victim[i].charge;
    }
    for (size_t i = 0; i < x->apply.n_effects; i++)
        objects += x->apply.effects[i].what == LDR_EFFECT_GONE;
    ldr_count(x->counters, evicted_blocks, blocks);
    ldr_count(x->counters, evicted_objects, objects);
    ldr_count(x->counters, evicted_bytes, bytes);
}

static bool grow_patiently(struct ldr_index *x, uint64_t pages);

/* Is there something for a transaction? Holds need none. */
static bool writes(const struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->change[i]->what != LDR_CHANGE_HOLD)
            return true;
    return b->n_victims > 0;
}

static int note_holds(struct ldr_index *x, struct batch *b)
{
    x->apply.n_effects = 0;
    for (size_t i = 0; i < b->n; i++)
        ldr_apply_change(&x->apply, b->change[i], 0);
    return 0;
}

static int reserve_and_commit(struct ldr_index *x, struct batch *b)
{
    uint64_t pages = batch_pages(x, b);
    bool room = ldr_snapshot_reserve(&x->snap, pages, b->n == 0) || (b->n && grow_patiently(x, pages));

    x->pages = pages;
    ldr_count(x->counters, commits, 1);
    return try_commit(x, b, room);
}

/* Commit, publish, answer. The batch's victims and changes are done with then. */
static void commit(struct ldr_index *x, struct batch *b)
{
    int rc = writes(b) ? reserve_and_commit(x, b) : note_holds(x, b);
    uint64_t txnid;

    if (rc == MDB_MAP_FULL || rc == ENOSPC || rc == EDQUOT || rc == MDB_TXN_FULL) {
        ldr_log(LDR_WARN, "index", "no room for a batch, nothing is added changes=%zu error=\"%s\"", b->n,
                mdb_strerror(rc));
        rc = try_commit(x, b, false);
    }
    if (damage(rc) || (rc && must_commit(b)))
        give_up(x, rc, "commit");
    if (rc) {
        for (size_t i = 0; i < b->n_victims; i++)
            ldr_resident_put_back(x->resident, &b->victim[i]);
        for (size_t i = 0; i < b->n; i++)
            ldr_apply_failed(&x->apply, b->change[i], rc);
    } else if (b->n_victims) {
        count_evicted(x, b);
    }
    txnid = ldr_snapshot_publish(&x->snap);
    follow(x);
    publish_stats(x);
    for (size_t i = 0; i < b->n; i++) {
        b->change[i]->txnid = txnid;
        b->change[i]->done(b->change[i]); /* it may be freed by now */
    }
    b->n = b->n_victims = 0;
}

/* ---------- eviction ---------- */

/* One more victim of a batch. */
static bool pick(struct ldr_index *x, struct batch *b, enum ldr_resident_kind kind, bool anyway)
{
    if (!ldr_resident_victim(x->resident, kind, anyway, ldr_mono_ns(), &b->victim[b->n_victims]))
        return false;
    b->n_victims++;
    return true;
}

/* Readers that keep mappings which they do not use are asked to let go of them, and files that were only waiting for
 * that are looked at. */
static void press(struct ldr_index *x, int64_t now)
{
    if (now - x->pressed_ns >= PRESS_GAP) {
        atomic_fetch_add(&x->hdr->pressure, 1);
        x->pressed_ns = now;
    }
    if (x->cfg.blocks)
        ldr_blocks_tick(x->cfg.blocks);
}

static size_t scan(struct ldr_index *x, size_t max);

/* Bytes of files that are being filled, or wait for their record: they can be evicted soon. */
static uint64_t filling(struct ldr_index *x)
{
    uint64_t all = atomic_load(&x->space->bytes);
    uint64_t known = x->apply.figures.block_bytes + ldr_snapshot_extent(&x->snap) + touch_bytes(x) +
                     atomic_load(&x->unswept_bytes) + atomic_load(&x->space->unlinked_mapped);

    return all > known ? all - known : 0;
}

/* Nothing may go now. The newest who waits is told to give up, unless room is on its way: files that are leaving, holds
 * that end by themselves, or, for a while, mappings and fills. */
static void stuck(struct ldr_index *x, const struct ldr_space_short *need)
{
    int64_t now = ldr_mono_ns(), patience = 0;
    struct ldr_resident_stats st;

    ldr_resident_stats(x->resident, &st);
    if (!x->stuck_ns)
        x->stuck_ns = now;
    if (st.mapped || atomic_load(&x->space->unlinked_mapped)) {
        press(x, now);
        patience = PRESS_MAX;
    }
    if (filling(x))
        patience = STUCK_MAX;
    if (need->waiting && !need->leaving && !st.held_briefly && now - x->stuck_ns >= patience)
        ldr_space_give_up_one(x->space);
    x->retry_ns = now + (need->waiting ? EVICT_RETRY : LDR_NS_PER_S);
}

/* Evict blocks as far as the ledger is short of room. What is mapped goes only when somebody waits and nothing else is
 * left: its space comes back when it is not mapped any more, so no more of it than is needed. */
static void keep_room(struct ldr_index *x)
{
    struct ldr_space_short need;
    struct batch b = { .n = 0 };

    for (int i = 0; ldr_space_short(x->space, &need); i++) {
        uint64_t bytes = 0, files = 0, lingering = atomic_load(&x->space->unlinked_mapped);

        if (i == EVICT_TXNS) {
            x->retry_ns = 0; /* changes may wait; then go on */
            return;
        }
        while (b.n_victims < VICTIMS && (bytes < need.bytes || files < need.files)) {
            bool found = pick(x, &b, LDR_RESIDENT_BLOCK, false);

            while (!found && scan(x, SCAN_IDLE) > 0)
                found = pick(x, &b, LDR_RESIDENT_BLOCK, false);
            if (!found && need.waiting && !need.leaving && bytes + lingering < need.bytes && x->stuck_ns &&
                ldr_mono_ns() - x->stuck_ns >= PRESS_FIRST)
                found = pick(x, &b, LDR_RESIDENT_BLOCK, true);
            if (!found)
                break;
            bytes += b.victim[b.n_victims - 1].charge;
            files++;
        }
        if (b.n_victims == 0) {
            stuck(x, &need);
            return;
        }
        x->stuck_ns = 0;
        commit(x, &b);
    }
    x->stuck_ns = 0;
    x->retry_ns = LDR_NEVER;
}

/* data.mdb cannot grow: evict for it, and give the files a moment to go. The room is kept for it meanwhile. */
static bool grow_patiently(struct ldr_index *x, uint64_t pages)
{
    struct ldr_space_short need;

    for (int i = 0; i < GROW_WAIT_MS; i++) {
        keep_room(x);
        if (ldr_snapshot_reserve(&x->snap, pages, false))
            return true;
        if (!ldr_space_short(x->space, &need) || !need.leaving)
            return false;
        nanosleep(&(struct timespec){ .tv_nsec = LDR_NS_PER_MS }, NULL);
    }
    return false;
}

/* So that what the batch adds fits into the inline budget: objects without blocks go first; where there are none, the
 * records of blocks are what fills it. More than 64 go ahead of the batch in transactions of their own. */
static void keep_budget(struct ldr_index *x, struct batch *b)
{
    uint64_t budget = x->cfg.inline_bytes, cost = 0, freed = 0, keep;

    for (size_t i = 0; i < b->n; i++) {
        uint64_t one = ldr_apply_cost(b->change[i]);

        cost += one <= budget ? one : 0; /* will never fit: nothing goes for it */
    }
    if (x->apply.figures.inline_charge + cost <= budget)
        return;
    keep = cost < budget ? budget - cost : 0;
    keep -= keep / 64; /* some at once, not a few at each batch */
    while (x->apply.figures.inline_charge > keep + freed) {
        struct batch ahead = { .n = 0 };
        bool found;

        if (b->n_victims == VICTIMS) {
            memcpy(ahead.victim, b->victim, sizeof ahead.victim);
            ahead.n_victims = VICTIMS;
            b->n_victims = 0;
            freed = 0;
            commit(x, &ahead);
            continue;
        }
        found = pick(x, b, LDR_RESIDENT_INLINE, false);
        while (!found && scan(x, SCAN_IDLE) > 0)
            found = pick(x, b, LDR_RESIDENT_INLINE, false);
        if (!found)
            found = pick(x, b, LDR_RESIDENT_INLINE, true);
        if (found) {
            freed += b->victim[b->n_victims - 1].charge;
        } else if (pick(x, b, LDR_RESIDENT_BLOCK, false)) {
            freed += ldr_apply_block_charge(); /* at least */
        } else {
            break;
        }
    }
}

/* ---------- what was there before this run ---------- */

static size_t restore_blocks(struct ldr_index *x, MDB_cursor *cur, const MDB_val *okey, const struct ldr_id *id)
{
    uint8_t first[LDR_BLOCK_KEY_LEN];
    MDB_val key = { sizeof first, first }, val;
    uint64_t length, hash;
    uint32_t block;
    size_t n = 0;
    int rc;

    ldr_block_key(id, 0, first);
    rc = mdb_cursor_get(cur, &key, &val, MDB_SET_RANGE);
    for (; !rc && ldr_apply_is_block(&key, id, &block); n++) {
        if (ldr_block_read(val.mv_data, val.mv_size, &length, &hash))
            ldr_resident_restore(x->resident, okey->mv_data, okey->mv_size, id, block, ldr_space_charge(length));
        rc = mdb_cursor_get(cur, &key, &val, MDB_NEXT);
    }
    return n;
}

/* Tell eviction of an object; `cur` is used for its blocks. Returns how many entries it has. */
static size_t restore_record(struct ldr_index *x, MDB_cursor *cur, const MDB_val *key, const MDB_val *val)
{
    struct ldr_record r;

    if (!ldr_record_unpack(val->mv_data, val->mv_size, key->mv_data, key->mv_size, &r))
        return 0;
    if (ldr_record_blocks(&r) > 0)
        return restore_blocks(x, cur, key, &r.id);
    ldr_resident_restore(x->resident, key->mv_data, key->mv_size, &r.id, LDR_NO_BLOCK,
                         ldr_apply_charge(key->mv_size, val->mv_size));
    return 1;
}

/* One object, before the scan comes to it. */
static void restore_key(struct ldr_index *x, const void *key_bytes, size_t key_len)
{
    MDB_val key = { key_len, (void *)key_bytes }, val;
    MDB_cursor *cur = NULL;

    if (x->restored || mdb_txn_renew(x->scan_txn))
        return;
    if (!mdb_get(x->scan_txn, x->dbi, &key, &val) && !mdb_cursor_open(x->scan_txn, x->dbi, &cur)) {
        restore_record(x, cur, &key, &val);
        mdb_cursor_close(cur);
    }
    mdb_txn_reset(x->scan_txn);
}

/* Tell eviction of up to about `max` more objects of earlier runs, in the order of their keys. Returns how many; 0: all
 * are known. What a record of this run has told already is not told twice. */
static size_t scan(struct ldr_index *x, size_t max)
{
    MDB_val key = { x->scan_len, x->scan_key }, val;
    MDB_cursor *cur = NULL, *blocks = NULL;
    size_t n = 0;
    int rc;

    if (x->restored)
        return 0;
    rc = mdb_txn_renew(x->scan_txn);
    if (!rc)
        rc = mdb_cursor_open(x->scan_txn, x->dbi, &cur);
    if (!rc)
        rc = mdb_cursor_open(x->scan_txn, x->dbi, &blocks);
    if (x->scan_len == 0)
        key = (MDB_val){ 1, (void *)"\002" }; /* behind all keys that are not of objects */
    if (!rc)
        rc = mdb_cursor_get(cur, &key, &val, MDB_SET_RANGE);
    if (!rc && x->scan_len && key.mv_size == x->scan_len && !memcmp(key.mv_data, x->scan_key, x->scan_len))
        rc = mdb_cursor_get(cur, &key, &val, MDB_NEXT); /* told by the slice before */
    while (!rc && n < max) {
        if (key.mv_size > sizeof x->scan_key) {
            rc = MDB_CORRUPTED;
            break;
        }
        n += 1 + restore_record(x, blocks, &key, &val);
        memcpy(x->scan_key, key.mv_data, key.mv_size);
        x->scan_len = key.mv_size;
        rc = mdb_cursor_get(cur, &key, &val, MDB_NEXT);
    }
    if (rc && rc != MDB_NOTFOUND)
        ldr_log(LDR_WARN, "index", "not all of an earlier run can be evicted error=\"%s\"", mdb_strerror(rc));
    x->restored = rc != 0;
    if (cur)
        mdb_cursor_close(cur);
    if (blocks)
        mdb_cursor_close(blocks);
    mdb_txn_reset(x->scan_txn);
    if (x->restored)
        publish_stats(x);
    return n;
}

/* ---------- the thread ---------- */

static void change_task(struct ldr_task *t)
{
    (void)t; /* tells a change from a task of our own; taken by run() */
    assert(false);
}

void ldr_index_change(struct ldr_index *x, struct ldr_change *c)
{
    c->task.run = change_task;
    ldr_mailbox_post(&x->box, &c->task);
}

/* space.need: somebody waits for room. */
static void need(void *user)
{
    struct ldr_index *x = user;

    if (!atomic_exchange(&x->need_posted, true))
        ldr_mailbox_post(&x->box, &x->need_task);
}

static void need_on_index(struct ldr_task *t)
{
    struct ldr_index *x = LDR_CONTAINER(t, struct ldr_index, need_task);

    atomic_store(&x->need_posted, false);
    if (x->retry_ns > ldr_mono_ns() + EVICT_RETRY) /* else nothing could go a moment ago */
        x->retry_ns = 0;
}

void ldr_index_tick(struct ldr_index *x)
{
    if (!atomic_exchange(&x->tick_posted, true))
        ldr_mailbox_post(&x->box, &x->tick_task);
}

static void tick_on_index(struct ldr_task *t)
{
    struct ldr_index *x = LDR_CONTAINER(t, struct ldr_index, tick_task);
    struct ldr_touch_cell grown[LDR_TOUCH_PREFIXES] = { { 0 } };
    int64_t now = ldr_mono_ns();

    atomic_store(&x->tick_posted, false);
    if (x->touch_fd >= 0)
        ldr_touch_gather(x->touch_fd, x->hdr->touch_bits, now - x->gathered_ns, x->last_cells, grown);
    x->gathered_ns = now;
    pthread_mutex_lock(&x->stats_mtx);
    for (size_t i = 0; i < LDR_TOUCH_PREFIXES; i++) {
        x->totals[i].hits += grown[i].hits;
        x->totals[i].bytes += grown[i].bytes;
    }
    pthread_mutex_unlock(&x->stats_mtx);
    x->retry_ns = 0;
}

/* Gather what is queued, or comes until `until` (when the last commit was a moment ago), beginning with `t`. */
static void gather(struct ldr_index *x, struct ldr_task *t, int64_t until, struct batch *b)
{
    size_t bytes = 0;

    for (; t; t = ldr_mailbox_take(&x->box, until > ldr_mono_ns() ? until : 0)) {
        struct ldr_change *c;

        if (t->run != change_task) {
            t->run(t);
            if (b->n == 0)
                return; /* nobody's change waits */
            continue;
        }
        c = b->change[b->n++] = LDR_CONTAINER(t, struct ldr_change, task);
        if (carries_record(c))
            bytes += ldr_record_len(&c->record);
        if (b->n == BATCH_CHANGES || bytes >= BATCH_BYTES)
            return;
    }
}

static void *run(void *user)
{
    struct ldr_index *x = user;
    struct batch b = { .n = 0 };
    int64_t last = 0;

    for (;;) {
        struct ldr_task *t = ldr_mailbox_take(&x->box, x->restored ? x->retry_ns : 0);
        bool busy;

        if (!t && ldr_mailbox_closed(&x->box) && !(t = ldr_mailbox_take(&x->box, 0)))
            break;
        gather(x, t, last + BATCH_GAP_NS, &b); /* idle for longer: that is past, only what is queued is taken */
        busy = b.n > 0;
        if (busy) {
            keep_budget(x, &b);
            commit(x, &b);
            last = ldr_mono_ns();
        }
        if (x->retry_ns <= ldr_mono_ns() || (busy && x->retry_ns == LDR_NEVER))
            keep_room(x);
        scan(x, busy ? SCAN_BUSY : SCAN_IDLE);
    }
    return NULL;
}

/* ---------- start and stop ---------- */

/* Remove the record of every intent, then the intent. */
static int apply_intents(struct ldr_index *x, MDB_cursor *cur, size_t *count)
{
    uint8_t first[2] = { 1, 'i' };
    int rc = 0;

    while (!rc) {
        MDB_val key = { sizeof first, first }, val;
        uint8_t copy[LDR_INTENT_KEY_MAX];
        size_t len;

        rc = mdb_cursor_get(cur, &key, &val, MDB_SET_RANGE); /* the first that is left */
        if (rc || key.mv_size <= sizeof first || memcmp(key.mv_data, first, sizeof first))
            break;
        len = key.mv_size;
        if (len > sizeof copy)
            return MDB_CORRUPTED;
        memcpy(copy, key.mv_data, len);
        rc = ldr_apply_take_out(&x->apply, copy + 2, len - 2, NULL);
        if (!rc)
            rc = ldr_apply_delete(&x->apply, copy, len);
        ++*count;
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Up to `max` records of a scheme; *more says whether some are left. */
static int drop_scheme(struct ldr_index *x, MDB_cursor *cur, const char *scheme, size_t max, bool *more)
{
    char prefix[LDR_SCHEME_MAX + 4];
    size_t plen = (size_t)snprintf(prefix, sizeof prefix, "%s://", scheme), n = 0;
    int rc = 0;

    *more = false;
    while (!rc) {
        MDB_val key = { plen, prefix }, val;
        uint8_t copy[LDR_INDEX_KEY_MAX];
        size_t len;

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
        rc = ldr_apply_take_out(&x->apply, copy, len, NULL);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum larder_kind ldr_index_repair(struct ldr_index *x, const char *const *drop, struct larder_err *err)
{
    struct ldr_apply *a = &x->apply;
    struct ldr_figures before = a->figures;
    size_t intents = 0, i = 0;
    bool more = true, first = true;
    int rc = 0;

    a->room = false;
    while (more && !rc) { /* in slices: one huge transaction could meet MDB_TXN_FULL */
        MDB_cursor *cur = NULL;

        more = false;
        rc = mdb_txn_begin(x->env, NULL, 0, &a->txn);
        if (!rc)
            rc = mdb_cursor_open(a->txn, x->dbi, &cur);
        if (!rc && first)
            rc = apply_intents(x, cur, &intents);
        first = false;
        if (!rc && drop[i]) {
            bool left;

            rc = drop_scheme(x, cur, drop[i], 1000, &left);
            if (!left)
                i++;
            more = drop[i] != NULL;
        }
        if (cur)
            mdb_cursor_close(cur);
        if (!rc)
            rc = ldr_apply_figures(a);
        if (!rc)
            rc = mdb_txn_commit(a->txn);
        else if (a->txn)
            mdb_txn_abort(a->txn);
        a->txn = NULL;
        a->n_effects = 0; /* the sweep has the files */
    }
    if (rc)
        return fail_mdb(x, rc, "repair", err);
    if (intents)
        ldr_log(LDR_INFO, "index", "writes that an earlier run did not finish: their objects are dropped count=%zu",
                intents);
    atomic_store(&x->unswept_bytes, before.block_bytes - a->figures.block_bytes);
    atomic_store(&x->unswept_files, before.blocks - a->figures.blocks);
    x->restored = a->figures.objects == 0;
    publish_stats(x);
    return LARDER_OK;
}

void ldr_index_swept(struct ldr_index *x)
{
    uint64_t files = atomic_exchange(&x->unswept_files, 0), bytes = atomic_exchange(&x->unswept_bytes, 0);

    ldr_space_forget(x->space, bytes, files);
}

unsigned ldr_index_prefix_slot(struct ldr_index *x, const char *match)
{
    unsigned slot = x->n_prefixes;
    uint8_t k[3] = { 1, 'p', (uint8_t)slot };
    MDB_val key = { sizeof k, k }, val = { strlen(match), (void *)match };
    MDB_txn *txn = NULL;
    int rc;

    assert(!x->running);
    for (unsigned i = 1; i < x->n_prefixes; i++)
        if (!strcmp(x->prefix[i], match))
            return i;
    if (slot == LDR_TOUCH_PREFIXES || *match == '\0' || val.mv_size > LDR_PREFIX_NAME_MAX)
        return 0;
    x->prefix[slot] = strdup(match);
    rc = x->prefix[slot] ? mdb_txn_begin(x->env, NULL, 0, &txn) : ENOMEM;
    if (!rc)
        rc = mdb_put(txn, x->dbi, &key, &val, 0);
    if (!rc)
        rc = mdb_txn_commit(txn);
    else if (txn)
        mdb_txn_abort(txn);
    if (rc) {
        ldr_log(LDR_WARN, "index", "hits of a prefix are counted with those of none prefix=\"%s\" error=\"%s\"", match,
                mdb_strerror(rc));
        free(x->prefix[slot]);
        return 0;
    }
    x->n_prefixes++;
    return slot;
}

const char *ldr_index_prefix_hits(struct ldr_index *x, unsigned i, uint64_t *hits, uint64_t *bytes)
{
    if (i >= x->n_prefixes)
        return NULL;
    pthread_mutex_lock(&x->stats_mtx);
    *hits = x->totals[i].hits;
    *bytes = x->totals[i].bytes;
    pthread_mutex_unlock(&x->stats_mtx);
    return i ? x->prefix[i] : "";
}

enum larder_kind ldr_index_start(struct ldr_index *x, struct larder_err *err)
{
    int rc;

    ldr_snapshot_publish(&x->snap);
    ldr_resident_resize(x->resident, x->cfg.inline_bytes, block_capacity(x));
    x->retry_ns = 0; /* the limits may be lower than they were */
    rc = pthread_create(&x->thread, NULL, run, x);
    if (rc) {
        errno = rc;
        return ldr_fail_sys(err, LARDER_INTERNAL, "could not start the index thread");
    }
    x->running = true;
    ldr_space_evictor(x->space, need, x);
    return LARDER_OK;
}

enum larder_kind ldr_index_stop(struct ldr_index *x, bool sync, struct larder_err *err)
{
    int rc;

    if (x->running) {
        ldr_space_evictor(x->space, NULL, NULL);
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
    if ((*r)->cur)
        mdb_cursor_close((*r)->cur);
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

uint32_t ldr_reader_blocks(struct ldr_reader *r, const struct ldr_id *id, uint32_t first, uint32_t n, uint8_t *there)
{
    uint8_t k[LDR_BLOCK_KEY_LEN];
    MDB_val key = { sizeof k, k }, val;
    uint32_t block, count = 0;
    int rc = mdb_txn_renew(r->txn);

    memset(there, 0, n);
    if (rc)
        return 0;
    rc = r->cur ? mdb_cursor_renew(r->txn, r->cur) : mdb_cursor_open(r->txn, r->x->dbi, &r->cur);
    ldr_block_key(id, first, k);
    if (!rc)
        rc = mdb_cursor_get(r->cur, &key, &val, MDB_SET_RANGE);
    while (!rc && ldr_apply_is_block(&key, id, &block) && block - first < n) {
        there[block - first] = 1;
        count++;
        rc = mdb_cursor_get(r->cur, &key, &val, MDB_NEXT);
    }
    mdb_txn_reset(r->txn);
    return count;
}
