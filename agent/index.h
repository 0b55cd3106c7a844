/* index.h - step 10: the only writer of LMDB. Takes changes from any thread, commits them in batches, publishes, and
 * answers each change after clients can see it (docs/design/read-path.md, docs/design/storage.md). It evicts, too: for
 * who waits in the ledger (space.h), to keep some room ready, when others fill the disk, and so that what is inline
 * stays within its budget.
 *
 * Batches: at once when idle; else 2 ms after the last commit, at 256 changes or 2 MiB of inline bytes.
 * The index never meets MDB_MAP_FULL in ordinary work: what is inline has a budget, and the map is twice as large. */
#ifndef LDR_INDEX_H
#define LDR_INDEX_H

#include "agent/cache_dir.h"
#include "agent/counters.h"
#include "agent/space.h"
#include "common/task.h"

struct ldr_index;

struct ldr_index_cfg {
    uint64_t inline_bytes;     /* budget of records and their inline bytes */
    uint32_t inline_limit;     /* largest record */
    uint64_t block_size;       /* for the room that is kept ready */
    struct ldr_blocks *blocks; /* whose files are dropped; its pool outlives the index's thread. NULL: nobody's */
    bool unsafe;               /* stress test only: snapshots are not protected */
};

/* Open or make the generation's env and header. Nothing is published yet, so readers cannot see it: repair first
 * (ldr_index_repair), then ldr_index_start. CORRUPT: the generation is of no use (it is distrusted already). INVALID:
 * nothing bounds the cache (ldr_cache_dir_bounded). The ledger's figures begin anew, its limits must be set. */
enum larder_kind ldr_index_open(struct ldr_cache_dir *dir, struct ldr_space *space, struct ldr_counters *counters,
                                const struct ldr_index_cfg *cfg, struct ldr_index **out, struct larder_err *err);
/* Apply what an earlier run left behind: every intent's record is removed; so are all records of `drop` schemes
 * (NULL-terminated; another store is behind them now, or none). Their block files are left to the sweep, and count until
 * then. */
enum larder_kind ldr_index_repair(struct ldr_index *x, const char *const *drop, struct larder_err *err);
/* Publish and start the thread. From now on the ledger wakes it (space.need). */
enum larder_kind ldr_index_start(struct ldr_index *x, struct larder_err *err);
/* Run what is queued, stop the thread; `sync`: everything is on disk afterwards (OK), so the cache may be marked clean.
 */
/* Before the pool ends: it hands files over to the last. */
enum larder_kind ldr_index_stop(struct ldr_index *x, bool sync, struct larder_err *err);
void ldr_index_close(struct ldr_index **x);

uint64_t ldr_index_nonce(const struct ldr_index *x);
uint32_t ldr_index_boot(const struct ldr_index *x);
uint32_t ldr_index_limit(const struct ldr_index *x); /* largest record */
struct ldr_id ldr_index_new_id(struct ldr_index *x); /* any thread */
/* Was this id made by this run of the agent? */
bool ldr_index_own_id(const struct ldr_index *x, const struct ldr_id *id);

/* The sweep has been through all folders: what the repair dropped is gone from the disk. Any thread. */
void ldr_index_swept(struct ldr_index *x);

/* What the index holds, for status. Any thread; each figure is right by itself. */
struct ldr_index_stats {
    uint64_t objects, blocks, block_bytes, inline_charge; /* inline_charge: bytes counted against the inline budget */
    uint64_t block_capacity;                              /* bytes that blocks can take in all */
    uint64_t evictable;                                   /* objects without blocks, and blocks, that eviction knows */
    bool restored;                                        /* … and it knows all of them, those of earlier runs, too */
};
void ldr_index_stats(struct ldr_index *x, struct ldr_index_stats *out);
/* Hits that readers counted since the agent started, per prefix: the i-th that was ever configured, the 0-th ("")
 * counts for what has none. NULL: there is no i-th. Any thread; the text is valid until close. */
const char *ldr_index_prefix_hits(struct ldr_index *x, unsigned i, uint64_t *hits, uint64_t *bytes);
/* The prefix's slot in rw/touch, for record.prefix; names are remembered in the index (key 01 'p' slot). After open,
 * before start. 0 when all are taken, or `match` is longer than LDR_PREFIX_NAME_MAX. */
#define LDR_PREFIX_NAME_MAX 2048
unsigned ldr_index_prefix_slot(struct ldr_index *x, const char *match);
/* Once a second, any thread: other users of the disk may need room, counters are gathered. */
void ldr_index_tick(struct ldr_index *x);

/* ---- changes ---- */
enum ldr_change_what {
    LDR_CHANGE_PUT,    /* store the record, with `block` where it has blocks, unless `skip` is set when it is applied */
    LDR_CHANGE_BLOCK,  /* one more block of the version record.id; CANCELLED: the key has another version, or none */
    LDR_CHANGE_REMOVE, /* remove the record of the key, if any (with `only_id`: only that version) */
    LDR_CHANGE_UNBLOCK, /* a block of version record.id is damaged: remove it alone; with the last one the record goes */
    LDR_CHANGE_UPDATE,  /* write the record anew if the key still has this version; its blocks stay */
    LDR_CHANGE_INTENT,  /* a write of the key is about to be sent */
    LDR_CHANGE_HOLD,    /* `hold` counts for blocks of version record.id that are there; without a transaction */
};

/* Keeps blocks [first, last] of one object from eviction while somebody is loading or about to map them (an object
 * without blocks: any range does). Shared by its makers and the index; the last who lets go frees it. */
struct ldr_hold {
    _Atomic unsigned refs;
    _Atomic int64_t until_ns; /* CLOCK_MONOTONIC; LDR_NEVER: until told otherwise */
    uint32_t first, last;     /* constant */
};
/* One reference, until LDR_NEVER. NULL: out of memory. Any thread. */
struct ldr_hold *ldr_hold_new(uint32_t first, uint32_t last);
struct ldr_hold *ldr_hold_ref(struct ldr_hold *h); /* one more */
void ldr_hold_unref(struct ldr_hold **h);

struct ldr_change {
    struct ldr_task task;
    enum ldr_change_what what;
    const void *key; /* of the index; borrowed until done */
    size_t key_len;
    bool clear_intent; /* PUT, REMOVE: the write is over */
    bool only_id;
    /* PUT, UPDATE: `record.seq` is set by the index; fields and payload are borrowed until done. BLOCK, UNBLOCK: id,
     * size_bytes and block_log2 count. REMOVE: record.id for only_id */
    struct ldr_record record;
    uint32_t block;          /* PUT of a record with blocks, BLOCK, UNBLOCK: which. Its file is linked */
    uint64_t block_hash;     /* of its bytes */
    struct ldr_hold *hold;   /* PUT, BLOCK, HOLD: NULL, or the index takes a reference of its own */
    const atomic_bool *skip; /* NULL, or read when the change is applied */
    /* results */
    enum larder_kind kind; /* OK; CANCELLED: see above; LIMIT_EXCEEDED: no room (err says what is in the way) */
    struct larder_err err;
    uint64_t txnid;                     /* where readers can see it */
    void (*done)(struct ldr_change *c); /* on the index thread, after publication: post it on, nothing more */
    void *user;
};
/* `skip` counts for PUT and BLOCK.
 * Files: whatever a change takes out of the index (an older version, an evicted block) is unlinked by the index, after
 * publication and before `done`. The file of a PUT's or BLOCK's block is too, when the change was not applied (kind is
 * not OK). */

/* Any thread; changes of one poster are applied in order. */
void ldr_index_change(struct ldr_index *x, struct ldr_change *c);

/* ---- reading, for the agent's own threads ---- */
struct ldr_reader; /* one a thread */
enum larder_kind ldr_reader_open(struct ldr_index *x, struct ldr_reader **out, struct larder_err *err);
void ldr_reader_close(struct ldr_reader **r); /* before ldr_index_close */
/* The record of a key, copied; *out borrows from the reader until its next call. *txnid: of the snapshot read.
 * NOT_FOUND; CORRUPT: it is damaged (remove it). */
enum larder_kind ldr_reader_find(struct ldr_reader *r, const void *key, size_t key_len, struct ldr_record *out,
                                 uint64_t *txnid);
/* Is there a block record (so that the file belongs to somebody)? */
bool ldr_reader_has_block(struct ldr_reader *r, const struct ldr_id *id, uint32_t block);
/* Which of the blocks [first, first + n) have one: there[i] is 1 or 0; returns how many. One walk. */
uint32_t ldr_reader_blocks(struct ldr_reader *r, const struct ldr_id *id, uint32_t first, uint32_t n, uint8_t *there);

#endif
