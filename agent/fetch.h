/* fetch.h - step 6 of a get: bring an object (or a part, or its head) from its store, keep it, publish it.
 * Made and ended on the ipc thread; in between it is handed from net (bytes arrive) to pool (seal, link) to index
 * (commit, publish) and back. Whoever asks waits on the flight (flight.h), which owns the fetch. */
#ifndef LDR_FETCH_H
#define LDR_FETCH_H

#include "agent/agent.h"
#include "agent/attempt.h"

enum ldr_fetch_what {
    LDR_FETCH_OBJECT, /* the whole object, to be cached; where that cannot be, its first bytes */
    LDR_FETCH_CHUNK,  /* some bytes of one version, not to be cached */
    LDR_FETCH_HEAD,
};

struct ldr_fetch {
    /* set once by ldr_fetch_new */
    struct ldr_domain *domain;
    struct ldr_name *name;
    enum ldr_fetch_what what;
    uint64_t offset; /* CHUNK */
    size_t want;
    char *validator;                   /* CHUNK: the version */
    void (*done)(struct ldr_fetch *f); /* ipc thread, exactly once */
    void *user;
    /* any thread */
    atomic_bool no_store; /* a write of the object is or was under way: nothing is published. Set by ipc */
    atomic_bool started;  /* the request may have been sent. Set by net */
    /* whoever holds it */
    struct ldr_task task;
    struct ldr_attempt attempt;
    struct ldr_sink sink;
    struct ldr_change change;
    struct ldr_fill fill; /* open: the bytes are (going) there */
    uint8_t *mem;         /* or here: a small object, or the first bytes of one that is not kept */
    uint64_t mem_offset;  /* of mem[0] in the object */
    int64_t confirmed_ns; /* CLOCK_BOOTTIME when the answer's head was in: freshness counts from here */
    size_t mem_len, mem_cap;
    bool cut;     /* the rest of the body is not wanted */
    bool whole;   /* all bytes of the object are in mem or fill */
    bool no_fill; /* the cache failed once: do without it */
    /* results, valid in done */
    enum larder_kind kind;
    struct larder_err err;
    struct ldr_meta meta;
    bool published; /* the record of `id` can be seen at `txnid` */
    struct ldr_id id;
    uint64_t txnid;
    char why[200]; /* why it was not kept; empty: it was */
};

/* `name` is referenced; `validator` copied. NULL: out of memory. ipc thread. */
struct ldr_fetch *ldr_fetch_new(struct ldr_domain *d, struct ldr_name *name, enum ldr_fetch_what what);
void ldr_fetch_start(struct ldr_fetch *f);
/* After done. NULL is allowed. */
void ldr_fetch_free(struct ldr_fetch **f);
/* Bytes [offset, offset + max) of the object as far as the fetch has them, into `out`; returns how many, -1: it has
 * none there. An empty result at the object's end is 0. */
ssize_t ldr_fetch_bytes(const struct ldr_fetch *f, uint64_t offset, void *out, size_t max);

#endif
