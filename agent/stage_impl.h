/* stage_impl.h - what the files of uploads by blocks share: stage.c (what clients ask, and when they are given up),
 * stage_store.c (what goes to the store, and how an upload ends). ipc thread only. */
#ifndef LDR_STAGE_IMPL_H
#define LDR_STAGE_IMPL_H

#include "agent/stage.h"
#include "agent/upload_impl.h"

enum ldr_piece_state {
    LDR_PIECE_ASKED,   /* too many wait for the store */
    LDR_PIECE_MAKING,  /* the ledger or the pool has it */
    LDR_PIECE_READY,   /* the client writes */
    LDR_PIECE_WRITING, /* bytes that came as a message: pool */
    LDR_PIECE_SEALING, /* pool */
    LDR_PIECE_SEALED,
    LDR_PIECE_SENDING, /* the store's; then, linked or dropped, the pool's */
};

/* One block on its way from the client to the store. */
struct ldr_piece {
    struct ldr_piece *prev, *next; /* of its upload, in order */
    struct ldr_stage *stage;
    uint32_t block;
    enum ldr_piece_state state;
    struct ldr_body *body; /* made; the pool's or the store's in the states that say so */
    struct ldr_want want;
    struct ldr_task task;
    struct ldr_attempt attempt;
    uint64_t size, received, length;  /* of its body · that came as messages · sealed */
    bool in_memory;                   /* counted in uploads.memory_bytes */
    bool no_room;                     /* the cache has none: it waits for memory */
    bool linked;                      /* by the pool */
    uint64_t hash;                    /* of the bytes, linked */
    struct ldr_stage_waiter *waiters; /* for what its state leads to */
    struct ldr_stage_waiter *writer;  /* WRITING */
    enum larder_kind kind;            /* of the pool's work */
    struct larder_err err;
};

enum ldr_store_state {
    LDR_STORE_NONE,  /* knows nothing of it */
    LDR_STORE_ASKED, /* it begins, or is being closed */
    LDR_STORE_BEGUN, /* parts may be sent */
    LDR_STORE_OVER,
};

struct ldr_stage {
    UT_hash_handle hh; /* in uploads.stages, while `named` */
    uint64_t upload_id;
    bool named;
    struct ldr_domain *domain;
    struct ldr_uploads *uploads;
    struct ldr_name *name;
    struct ldr_meta meta; /* the client's fields */
    bool create_only, size_known;
    char *if_match;
    uint64_t size; /* if known */
    uint64_t block_size;
    uint8_t block_log2;
    int64_t heard_ns;        /* of the client, or answered to it. CLOCK_MONOTONIC */
    struct timespec written; /* its file, when it was looked at last */
    uint32_t connection;     /* by which the client spoke last */
    bool gone;               /* it is closed */
    /* blocks */
    struct ldr_piece *pieces; /* those that are not in the store yet; the last may be the client's */
    uint32_t n_sealed;
    uint64_t last_length; /* of the newest sealed one */
    uint64_t total;       /* sealed bytes */
    bool ended;           /* a short block was sealed: none follows */
    struct ldr_id id;     /* under which blocks are linked */
    bool keep;            /* the blocks may become an object of the cache */
    uint64_t *hashes;     /* by block */
    bool *linked;
    uint32_t cap;
    /* the store's side */
    enum ldr_store_state store;
    struct ldr_multi multi;
    bool put_together; /* by the store: the object is there */
    unsigned sending;
    struct ldr_write *write; /* the commit, until the store has answered it */
    bool begun_write;
    unsigned busy;         /* what is under way elsewhere */
    enum larder_kind kind; /* why it failed */
    struct larder_err err;
};

/* ---- stage.c ---- */
/* The block that the client has or waits for; NULL: none. */
struct ldr_piece *ldr_stage_current(const struct ldr_stage *s);
void ldr_piece_answer(struct ldr_piece *p, enum larder_kind kind, const struct larder_err *err);
/* Out of its upload and freed; its body too. Nothing of it is under way. */
void ldr_piece_drop(struct ldr_piece *p);
/* Make the block that waits, if it may be made now. */
void ldr_stage_make(struct ldr_stage *s);
void ldr_stage_unname(struct ldr_stage *s);

/* ---- stage_store.c ---- */
/* Do what can be done now: after each change. May free `s`. */
void ldr_stage_advance(struct ldr_stage *s);
/* Something is handed elsewhere; it came back (and then `s` advances, and may be freed). */
void ldr_stage_away(struct ldr_stage *s);
void ldr_stage_back(struct ldr_stage *s);
/* It failed, once: who waits is told; then it winds up as things come back. */
void ldr_stage_fail(struct ldr_stage *s, enum larder_kind kind, const struct larder_err *err);
/* It is not going to be in the cache. */
void ldr_stage_keep_not(struct ldr_stage *s);
void ldr_stage_free(struct ldr_stage *s);

#endif
