/* resident.h - step 10: what is in the cache as eviction sees it. Follows the index after each commit; decides nothing
 * about LMDB or files. Index thread only.
 *
 * An entry is a block, or an object without blocks (its bytes are in its record). Two policies (evict.h): objects within
 * the inline budget, blocks within the cache's limit less the extent of data.mdb. An entry that is asked for its visit
 * says HELD while a hold of its object lasts, or while a process maps it; else its bit of rw/touch counts.
 * After a restart the entries of earlier runs are restored while the agent works already (index.c): until then victims
 * come from what is known. */
#ifndef LDR_RESIDENT_H
#define LDR_RESIDENT_H

#include "agent/index.h"

#define LDR_NO_BLOCK UINT32_MAX /* the entry of an object without blocks */

struct ldr_resident;

struct ldr_resident_cfg {
    uint64_t inline_bytes, block_bytes; /* capacities */
    const struct ldr_blocks *blocks;    /* borrowed; NULL: nothing is mapped */
    int touch_fd;                       /* borrowed; -1: nothing is visited */
    uint64_t touch_bits;
};

/* NULL: out of memory. */
struct ldr_resident *ldr_resident_new(const struct ldr_resident_cfg *cfg);
void ldr_resident_free(struct ldr_resident **r);
void ldr_resident_resize(struct ldr_resident *r, uint64_t inline_bytes, uint64_t block_bytes);

/* An entry after a miss. `hold`: NULL, or a reference is taken, as ldr_resident_hold() does. */
void ldr_resident_add(struct ldr_resident *r, const void *key, size_t key_len, const struct ldr_id *id, uint32_t block,
                      uint64_t charge, struct ldr_hold *hold);
/* Hold blocks of an object; nothing if it is not known. */
void ldr_resident_hold(struct ldr_resident *r, const struct ldr_id *id, struct ldr_hold *hold);
/* An entry of an earlier run; nothing if it is known already. */
void ldr_resident_restore(struct ldr_resident *r, const void *key, size_t key_len, const struct ldr_id *id,
                          uint32_t block, uint64_t charge);
/* Gone from the index: an object with all its entries; one block. Unknown ones are no matter. */
void ldr_resident_remove(struct ldr_resident *r, const struct ldr_id *id);
void ldr_resident_remove_block(struct ldr_resident *r, const struct ldr_id *id, uint32_t block);

enum ldr_resident_kind { LDR_RESIDENT_INLINE, LDR_RESIDENT_BLOCK };

struct ldr_victim {
    struct ldr_id id;
    uint32_t block;  /* LDR_NO_BLOCK: the object */
    uint64_t charge; /* what it was added with */
    const void *key; /* of the object; valid until it is removed */
    size_t key_len;
    void *entry;
};

/* The next to go. It stays known, and is no candidate any more: remove it when that is committed, or put it back.
 * `anyway`: also what is held (inline) or mapped (blocks). False: nothing may go now; the cause is in the stats. */
bool ldr_resident_victim(struct ldr_resident *r, enum ldr_resident_kind kind, bool anyway, int64_t now_ns,
                         struct ldr_victim *out);
void ldr_resident_put_back(struct ldr_resident *r, const struct ldr_victim *v);

struct ldr_resident_stats {
    uint64_t objects, inline_entries, block_entries, ghost_hits;
    bool held_briefly; /* the last search met entries whose hold ends by itself */
    bool mapped;       /* … or that are mapped */
};
void ldr_resident_stats(const struct ldr_resident *r, struct ldr_resident_stats *out);

#endif
