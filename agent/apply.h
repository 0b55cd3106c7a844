/* apply.h - step 10: what a change does inside one LMDB transaction: records, block records, intents, and the figures of
 * what there is. What has to follow outside of it, once it is committed, is noted as effects. Index thread only. */
#ifndef LDR_APPLY_H
#define LDR_APPLY_H

#include "agent/index.h"
#include "agent/resident.h"

#include <lmdb.h>

/* What the index holds: stored under key 01 's' in each transaction, so that a start need not count. */
struct ldr_figures {
    uint64_t objects, blocks, block_bytes, inline_charge;
};

enum ldr_effect_what {
    LDR_EFFECT_ADD,     /* an object without blocks, or a block, may be evicted from now on */
    LDR_EFFECT_GONE,    /* an object is gone, with what it had */
    LDR_EFFECT_UNBLOCK, /* a block of an object is gone */
    LDR_EFFECT_HOLD,    /* a hold of the change counts for an object */
    LDR_EFFECT_FILE,    /* no record names this block file: unlink it */
};
struct ldr_effect {
    enum ldr_effect_what what;
    struct ldr_id id;
    uint32_t block;                  /* ADD: LDR_NO_BLOCK for an object without blocks */
    uint64_t bytes;                  /* ADD: what it is charged; FILE: its length */
    const struct ldr_change *change; /* ADD, HOLD: whose key and hold */
};

struct ldr_apply {
    /* the owner's */
    MDB_dbi dbi;
    struct ldr_counters *counters;
    uint64_t budget; /* for figures.inline_charge */
    /* Take care that data.mdb may grow by so many pages more than was foreseen. False: there is no room. */
    bool (*more_pages)(void *user, uint64_t pages);
    void *user;
    /* of the transaction; the owner sets txn and room, and puts figures back when it is not committed */
    MDB_txn *txn;
    bool room; /* records may be added */
    struct ldr_figures figures;
    struct ldr_effect *effects; /* in the order in which they happened */
    size_t n_effects, cap_effects;
};

/* What a value, a block record, and a change at most, take of the budget. */
uint64_t ldr_apply_charge(size_t key_len, size_t value_len);
uint64_t ldr_apply_block_charge(void);
uint64_t ldr_apply_cost(const struct ldr_change *c);

/* These return 0 or an error of LMDB, after which the transaction is of no use. `seq`: of the record. */
int ldr_apply_change(struct ldr_apply *a, struct ldr_change *c, uint64_t seq);
/* Sets kind and err of a change that cannot be committed, and notes its file. */
void ldr_apply_failed(struct ldr_apply *a, struct ldr_change *c, int rc);
int ldr_apply_evict(struct ldr_apply *a, const struct ldr_victim *v);
/* Take the record of a key out, with all its blocks; `only`: NULL, or just that version. */
int ldr_apply_take_out(struct ldr_apply *a, const void *key, size_t key_len, const struct ldr_id *only);
int ldr_apply_delete(struct ldr_apply *a, const void *key, size_t key_len); /* of any key; missing is fine */
int ldr_apply_figures(struct ldr_apply *a);                                 /* store them */
/* Does the key begin a block record of `id`? Then its number. */
bool ldr_apply_is_block(const MDB_val *key, const struct ldr_id *id, uint32_t *block);

#endif
