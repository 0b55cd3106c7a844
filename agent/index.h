/* index.h - step 10: the only writer of LMDB. Takes changes from any thread, commits them in batches, publishes, and
 * answers each change after clients can see it (docs/design/read-path.md, docs/design/storage.md).
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
    uint64_t inline_bytes; /* budget of records and their inline bytes */
    uint32_t inline_limit; /* largest record */
    bool unsafe;           /* stress test only: snapshots are not protected */
};

/* Open or make the generation's env and header. Nothing is published yet, so readers cannot see it: repair first
 * (ldr_index_repair), then ldr_index_start. CORRUPT: the generation is of no use (it is distrusted already). */
enum larder_kind ldr_index_open(struct ldr_cache_dir *dir, struct ldr_space *space, struct ldr_counters *counters,
                                const struct ldr_index_cfg *cfg, struct ldr_index **out, struct larder_err *err);
/* Apply what an earlier run left behind: every intent's record is removed; so are all records of `drop` schemes
 * (NULL-terminated; another store is behind them now, or none). Their block files are left to the sweep. */
enum larder_kind ldr_index_repair(struct ldr_index *x, const char *const *drop, struct larder_err *err);
/* Publish and start the thread. */
enum larder_kind ldr_index_start(struct ldr_index *x, struct larder_err *err);
/* Run what is queued, stop the thread; `sync`: everything is on disk afterwards (OK), so the cache may be marked clean.
 */
enum larder_kind ldr_index_stop(struct ldr_index *x, bool sync, struct larder_err *err);
void ldr_index_close(struct ldr_index **x);

uint64_t ldr_index_nonce(const struct ldr_index *x);
uint32_t ldr_index_boot(const struct ldr_index *x);
uint32_t ldr_index_limit(const struct ldr_index *x); /* largest record */
struct ldr_id ldr_index_new_id(struct ldr_index *x); /* any thread */
/* Was this id made by this run of the agent? */
bool ldr_index_own_id(const struct ldr_index *x, const struct ldr_id *id);

/* What the index holds, for status. Any thread; each figure is right by itself. */
struct ldr_index_stats {
    uint64_t objects, blocks, block_bytes, inline_charge; /* inline_charge: bytes counted against the inline budget */
};
void ldr_index_stats(struct ldr_index *x, struct ldr_index_stats *out);

/* ---- changes ---- */
enum ldr_change_what {
    LDR_CHANGE_PUT,    /* store the record (and its block's), unless `skip` is set when it is applied */
    LDR_CHANGE_REMOVE, /* remove the record of the key, if any (with `only_id`: only that version) */
    LDR_CHANGE_UPDATE, /* write the record anew if the key still has this version; its blocks stay */
    LDR_CHANGE_INTENT, /* a write of the key is about to be sent */
};

struct ldr_change {
    struct ldr_task task;
    enum ldr_change_what what;
    const void *key; /* of the index; borrowed until done */
    size_t key_len;
    bool clear_intent; /* PUT, REMOVE: the write is over */
    bool only_id;
    /* PUT, UPDATE: `record.seq` is set by the index; fields and payload are borrowed until done. REMOVE: record.id for
     * only_id */
    struct ldr_record record;
    uint64_t block_hash;     /* of the one block, where the record is not inline and not empty */
    const atomic_bool *skip; /* NULL, or read when the change is applied */
    /* results */
    enum larder_kind kind; /* OK; CANCELLED: `skip` was set; LIMIT_EXCEEDED: no room (err says what is in the way) */
    struct larder_err err;
    uint64_t txnid;                     /* where readers can see it */
    bool had_old;                       /* REMOVE, PUT: a version was replaced */
    struct ldr_record old;              /* its head; fields and payload are not valid */
    void (*done)(struct ldr_change *c); /* on the index thread, after publication: post it on, nothing more */
    void *user;
};

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

#endif
