/* evict.h - step 10: which entry goes when room is needed. Pure: no clock, no file, no thread; a trace can be replayed
 * through it without moving a byte (tests/unit/evict_test.c and bench/evict.c do).
 *
 * The policy is CAR (CLOCK with adaptive replacement) in bytes: T1 holds entries seen once, T2 proven ones, each a
 * CLOCK list; B1 and B2 remember the hashes of what was dropped lately ("ghosts"), and a miss that meets one moves the
 * target size of T1. A hit costs nothing here: readers set a visited bit elsewhere (common/touch.h), which is asked for
 * and cleared when the hand comes by. docs/design/eviction.md has the rules and the figures. One thread at a time. */
#ifndef LDR_EVICT_H
#define LDR_EVICT_H

#include "common/defs.h"

#include <stdbool.h>

struct ldr_evict;

/* Embedded in what the owner keeps of an entry, all zero at first; its fields are the policy's. An object with blocks is
 * one entry a block, so that a part of it can go. */
struct ldr_evict_entry {
    struct ldr_evict_entry *prev, *next;
    uint64_t hash;   /* of the entry's stable name: the same bytes that come back later have the same one */
    uint64_t charge; /* bytes that it takes */
    uint8_t list;    /* 0: in none */
};

enum ldr_visit {
    LDR_VISIT_NO,   /* not read since the hand came by: may go */
    LDR_VISIT_YES,  /* read since; the bit was cleared by asking */
    LDR_VISIT_HELD, /* may not go now (just published, mapped): asked again later, stays in its list */
};
/* Must not call back into the policy. */
typedef enum ldr_visit ldr_visit_fn(void *user, struct ldr_evict_entry *e);

/* `capacity`: bytes that the entries may take in all; steers the lists, nothing is refused. NULL: out of memory. */
struct ldr_evict *ldr_evict_new(uint64_t capacity);
/* Entries are the owner's: those that were not removed are forgotten, not touched. */
void ldr_evict_free(struct ldr_evict **e);
/* Another capacity from now on (limits changed, the index grew). Evicting down to it is the owner's. */
void ldr_evict_resize(struct ldr_evict *e, uint64_t capacity);

/* A new entry, after a miss: a ghost of `hash` decides where it begins. `x` is not in a list. Make room first: victims
 * taken afterwards can be `x` itself. */
void ldr_evict_add(struct ldr_evict *e, struct ldr_evict_entry *x, uint64_t hash, uint64_t charge);
/* An entry of an earlier run, of which no more is known: as if seen once; steers nothing. It goes before all that T1
 * holds by now, so the newest is to be restored first. */
void ldr_evict_restore(struct ldr_evict *e, struct ldr_evict_entry *x, uint64_t hash, uint64_t charge);
/* Deleted or replaced: leaves no ghost. Nothing if `x` is in no list. */
void ldr_evict_remove(struct ldr_evict *e, struct ldr_evict_entry *x);
/* Choose what goes next; it is in no list any more and leaves a ghost. NULL: there is no entry, or all are held.
 * Asks at most twice as often as there are entries, and believes at most LDR_EVICT_CHANCES visits of one call: bits
 * that are set as fast as they are cleared delay nobody. */
#define LDR_EVICT_CHANCES 4096
struct ldr_evict_entry *ldr_evict_victim(struct ldr_evict *e, ldr_visit_fn *visited, void *user);

struct ldr_evict_stats {
    uint64_t t1_bytes, t2_bytes, b1_bytes, b2_bytes, target_bytes;
    uint64_t entries, ghosts, evicted, ghost_hits;
};
void ldr_evict_stats(const struct ldr_evict *e, struct ldr_evict_stats *out);

#endif
