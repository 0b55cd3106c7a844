/* load.h - steps 5 and 6 of a get: one version of one object on its way into the cache, as far as somebody wants it.
 *
 *   OPENING   the first request is out; what the object is (size, version) is not known, or not confirmed
 *   OPEN      the version is known: the blocks that waiters want are reserved, fetched by parallel requests for that
 *             version alone, linked and committed one by one
 * A store whose validators cannot vouch for ranges (weak ETags, LDR_CAP_STREAM_ONLY) is read by one request instead.
 * Blocks of one id always come from one version; when the store has another one, the load ends and its waiters begin
 * again. Owned by its key (flight.c). ipc thread only. */
#ifndef LDR_LOAD_H
#define LDR_LOAD_H

#include "agent/flight.h"

struct ldr_load {
    /* flight.c's */
    struct ldr_load *prev, *next;
    struct ldr_keystate *key;
    bool joinable; /* a later asker may be served by it */
    /* set once */
    struct ldr_domain *domain;
    struct ldr_name *name;
    bool anew; /* what the cache knows of the object does not count */
    /* any thread */
    atomic_bool no_store; /* a write of the object is or was under way: nothing is published. Set by ipc */
    /* ipc thread */
    struct ldr_waiter *waiters;
    bool open;
    bool stream;             /* one request for the whole object */
    bool is_inline;          /* its record has its bytes: it has no block */
    uint64_t fresh_until_ns; /* OPEN: of the version; who wants a fresh one joins until then */
    bool published;          /* the record of `id` is in the index, or its change was posted */
    unsigned busy;           /* what must come back before the load can be freed */
    unsigned pulls;          /* requests under way, those that wait for room included */
    /* the version; OPEN */
    struct ldr_id id;
    struct ldr_meta meta;
    char *validator; /* strong, for the requests of further blocks; NULL: there is none */
    uint8_t log2;
    uint32_t n_blocks;
    uint8_t *state; /* of each block */
    uint32_t ahead_from;
    uint64_t txnid; /* where what is there can be seen */
    struct ldr_range_hold *holds;
    /* does what comes add up? load_check.c */
    bool checks;                 /* it is to be compared with what the store tells of it */
    bool reread;                 /* the bytes that came before did not: all of it, and nobody is answered before that */
    atomic_uint crcs;            /* that blocks are to have; any thread, set by ipc */
    struct ldr_block_sums *sums; /* of each block; NULL: it is not checked */
    uint32_t n_sums;             /* blocks that came */
    struct ldr_verify verify;
    struct ldr_fetch *head;  /* it asks for what to check with */
    struct ldr_gate gate;    /* withholds the block that makes it whole */
    struct ldr_filled *last; /* which waits for that answer, and for the others to come */
    int64_t last_confirmed_ns;
    /* requests at once, while this load has that many; NULL: not yet looked up */
    struct ldr_width *width;
    /* OPENING: what the cache has, to be confirmed */
    uint8_t *base; /* the record's bytes; NULL: nothing */
    size_t base_len;
    char *base_validator;
    struct ldr_task task;
    struct ldr_change change; /* of an inline object, or of the confirmed record */
    struct ldr_fetch *opener; /* kept to its end: it may have the bytes */
    struct ldr_filled *only;  /* the one block of an object that has one */
};

/* NULL: out of memory. */
struct ldr_load *ldr_load_new(struct ldr_domain *d, struct ldr_name *name, bool anew, bool no_store);
/* Add a waiter; it may be answered before this returns. The load may have ended then: it is the key's to forget. */
void ldr_load_join(struct ldr_load *l, struct ldr_waiter *w);
void ldr_load_leave(struct ldr_load *l, struct ldr_waiter *w);

#endif
