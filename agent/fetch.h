/* fetch.h - step 6 of a get: one request to a store, and where its answer goes: bytes into memory or into block files,
 * a head, a page of a listing. Made and ended on the ipc thread; in between it is handed from net (bytes arrive) to
 * pool (seal, link) and back. Who wants the answer, and what becomes of it, is load.h's and flight.h's business. */
#ifndef LDR_FETCH_H
#define LDR_FETCH_H

#include "agent/agent.h"
#include "agent/attempt.h"
#include "agent/verify.h"

enum ldr_fetch_what {
    LDR_FETCH_OBJECT, /* an object of which nothing is known: from `offset` on, as much as one block holds */
    LDR_FETCH_BLOCK,  /* one block of a known version */
    LDR_FETCH_CHUNK,  /* some bytes of one version, not to be cached */
    LDR_FETCH_HEAD,
    LDR_FETCH_LIST,
};

/* Room in the cache that is reserved, or has to be: for blocks [next, end) of an object of this size. */
struct ldr_room {
    uint64_t object_size;
    uint8_t log2;
    uint32_t next, end;
};
uint64_t ldr_room_len(const struct ldr_room *r, uint32_t block); /* bytes of a block */
void ldr_room_give_back(struct ldr_space *s, struct ldr_room *r);

/* How an OBJECT fetch ended that brought nothing to keep. */
enum ldr_fetch_end {
    LDR_END_DONE,         /* as `kind` says; the bytes are in mem, or were handed over as blocks */
    LDR_END_NOT_MODIFIED, /* the store still has the version `known` */
    LDR_END_NO_ROOM,      /* `need` must be reserved first (err: what is in the way) */
    LDR_END_WEAK,         /* many blocks, and no validator that vouches for ranges: read it by one request */
    LDR_END_BEHIND,       /* the range asked for lies behind the end; `meta` says where that is */
    LDR_END_WRITTEN,      /* many blocks, and a write of it is under way */
    LDR_END_UNKEPT,       /* it cannot be kept, `why`; mem has its first bytes */
};

/* Readers find a block by its file's name, before the index knows of it. So that the last block of an object that is to
 * be checked can be kept from them, it comes without a name. Any thread. */
struct ldr_gate {
    atomic_uint named; /* blocks that have a name, or are about to get it */
    atomic_uint last;  /* the one that makes it so many comes without; 0: none */
};

/* A block that is full: sealed and linked on the pool, then given to the ipc thread, which owns it from then on. */
struct ldr_filled {
    struct ldr_task task;
    struct ldr_fetch *fetch; /* whose it was; may be gone once `filled` has returned */
    struct ldr_domain *domain;
    struct ldr_fill fill; /* where kind is OK: linked, or withheld by a gate: then not */
    struct ldr_id id;
    uint32_t block;
    struct ldr_block_sums sums;
    enum larder_kind kind;
    struct larder_err err;
    bool indexed; /* the file is the index's now. Set by its new owner, as is what follows */
    struct ldr_change change;
    void *user;
    void (*linked)(struct ldr_filled *x); /* see ldr_filled_link() */
};

struct ldr_fetch {
    /* set once, before the start */
    struct ldr_domain *domain;
    struct ldr_name *name;
    enum ldr_fetch_what what;
    uint64_t offset;             /* OBJECT, BLOCK, CHUNK */
    uint64_t want;               /* BLOCK, CHUNK: bytes; LIST: entries */
    char *validator;             /* CHUNK, BLOCK, HEAD: the version; NULL: any */
    char *known;                 /* OBJECT: end with NOT_MODIFIED while the store has this version */
    char *delimiter, *start;     /* LIST */
    bool stream;                 /* OBJECT: one request for all of it */
    struct ldr_room room;        /* OBJECT, BLOCK: reserved by the caller, the fetch's from the start on */
    struct ldr_id id;            /* of blocks */
    uint32_t block;              /* BLOCK: its number */
    uint32_t part;               /* HEAD: of this part, see struct ldr_op; 0: of the object */
    uint32_t limit_ms;           /* until it fails; 0: the usual */
    const atomic_bool *no_store; /* OBJECT: a write is under way; or NULL */
    /* OBJECT, BLOCK: the CRCs that each block of an object of several is to have (LDR_CRC_BIT), as it begins; or NULL */
    const atomic_uint *crcs;
    struct ldr_gate *gate; /* OBJECT, BLOCK; or NULL */
    /* OBJECT of more than one block, once, before its first block: what it is. ipc thread; `meta` is borrowed */
    void (*opened)(struct ldr_fetch *f, const struct ldr_meta *meta);
    void (*filled)(struct ldr_fetch *f, struct ldr_filled *x); /* each block; ipc thread */
    void (*done)(struct ldr_fetch *f);                         /* exactly once, last; ipc thread */
    void *user;
    /* any thread */
    atomic_bool started; /* the request may have been sent. Set by net */
    /* whoever holds it */
    struct ldr_task task;
    struct ldr_attempt attempt;
    struct ldr_sink sink;
    struct ldr_fill fill; /* the block that is being filled */
    struct ldr_block_sums sums;
    uint32_t fill_block;
    struct ldr_room need; /* NO_ROOM */
    uint8_t log2;         /* OBJECT: block size of the object */
    uint8_t *mem;         /* a small object, a chunk, the first bytes of what is not kept */
    uint64_t mem_offset;  /* of mem[0] in the object */
    size_t mem_len, mem_cap;
    bool cut;          /* the rest of the body is not wanted */
    bool whole;        /* mem is the whole object */
    bool announced;    /* `opened` was posted */
    bool cache_failed; /* the cache could not be written: do without it */
    unsigned handed;   /* blocks handed over */
    /* ipc thread */
    unsigned came;
    bool ended;
    /* results, valid in done */
    enum ldr_fetch_end end;
    enum larder_kind kind;
    struct larder_err err;
    struct ldr_meta meta;
    int64_t confirmed_ns; /* CLOCK_BOOTTIME when the answer's head was in: freshness counts from here */
    char why[200];
};

/* `name` is referenced. NULL: out of memory. ipc thread. */
struct ldr_fetch *ldr_fetch_new(struct ldr_domain *d, struct ldr_name *name, enum ldr_fetch_what what);
void ldr_fetch_start(struct ldr_fetch *f);
/* After done. NULL is allowed. What was reserved and not used is given back. */
void ldr_fetch_free(struct ldr_fetch **f);
/* Link a block that was withheld: then x->linked is called, with the outcome in x->kind. ipc thread. */
void ldr_filled_link(struct ldr_filled *x);
/* Free a block that nobody wants any more: its file goes if it was linked and not handed to the index. */
void ldr_filled_free(struct ldr_filled **x);
/* The page of a LIST, valid in done. */
const struct ldr_page *ldr_fetch_page(const struct ldr_fetch *f);

#endif
