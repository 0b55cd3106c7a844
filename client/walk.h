/* walk.h - step 1 of a get: a lock-free reader of gen-N/data.mdb (docs/design/read-path.md). Knows the page format of
 * LMDB 0.9 and nothing else. The agent writes the file while it is read: every field is loaded once and checked before
 * it is used, so pages that change meanwhile, or are damaged, give an answer that is void or LDR_TORN, never a fault.
 *
 *     struct ldr_snap snap;
 *     if (ldr_snap_begin(index, &tries, &snap) == LDR_HIT) {
 *         hit = ldr_snap_find(&snap, key, key_len, &p, &len);      p points into the map
 *         … copy what is wanted of p …
 *         if (!ldr_snap_valid(&snap))                              void, whatever `hit` was: --tries, begin again
 *     }
 *
 * A snapshot is a value on the stack: nothing is registered, locked or to be released. Any thread; nothing blocks. */
#ifndef LDR_WALK_H
#define LDR_WALK_H

#include "common/layout.h"

/* What the cache says; only get.c turns it into kinds, so that "evicted" can never read as "the store has no such
 * object". The walker itself gives the first four. */
enum ldr_hit {
    LDR_HIT,
    LDR_MISS,       /* no such key */
    LDR_TORN,       /* no consistent answer: damage, or too many retries */
    LDR_GEN_GONE,   /* this generation was given up: reopen by path */
    LDR_DAMAGED,    /* the record fails its checks */
    LDR_STALE,      /* the record is there and its time is over */
    LDR_BLOCK_GONE, /* the record is there, a block file that is wanted is not, or is damaged */
    LDR_NO_CACHE,   /* this process cannot read the cache, or this object of it */
    LDR_NO_MEMORY
};

#define LDR_WALK_TRIES 16 /* snapshots that one look may meet void before it asks the agent */

/* One generation's index as it is mapped here. `hdr` and `data` stay mapped as long as the struct may be used. */
struct ldr_tree {
    const struct ldr_hdr *hdr;
    const uint8_t *data;
    _Atomic uint64_t pages; /* that `data` reaches; hdr->npages may be more (then only a part is mapped) or less */
    _Atomic bool gone;      /* `data` was replaced by zero pages: what is read from it is void */
    _Atomic bool unsafe;    /* stress only */
};

/* Do the first two pages look like those of a data file that this walker reads? `data` reaches 2 pages at least. */
bool ldr_tree_check(const struct ldr_tree *ix);

struct ldr_snap {
    const struct ldr_tree *ix;
    uint64_t id, root, pages;
};

/* The newest snapshot. Each attempt that meets one being replaced takes one of *tries (the caller's budget for the
 * whole look, LDR_WALK_TRIES at first). LDR_HIT; LDR_TORN: the budget is used up; LDR_GEN_GONE. */
enum ldr_hit ldr_snap_begin(const struct ldr_tree *ix, int *tries, struct ldr_snap *out);
/* The value of `key`: LDR_HIT, and *p points into the map, *len bytes of it readable; LDR_MISS; LDR_TORN.
 * All three count only if ldr_snap_valid() says so afterwards. */
enum ldr_hit ldr_snap_find(const struct ldr_snap *s, const void *key, size_t key_len, const uint8_t **p, size_t *len);
/* Was everything that was read since ldr_snap_begin() intact? Ask after the copy. */
bool ldr_snap_valid(const struct ldr_snap *s);

/* The stress program's negative control: true makes ldr_snap_valid() believe snapshots whose pages were reused. */
void ldr_walk_set_unsafe_for_stress(struct ldr_tree *ix, bool unsafe);

#endif
