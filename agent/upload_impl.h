/* upload_impl.h - what the files of writes share: upload.c (a write: hold, intend, send, settle, answer), upload_part.c
 * (bodies that come in parts), upload_copy.c (copies larger than one request takes), upload_delete.c (many at once),
 * upload_multi.c (parts, as a store knows them),
 * stage.c and stage_store.c (uploads by blocks). ipc thread only, but for what says otherwise. */
#ifndef LDR_UPLOAD_IMPL_H
#define LDR_UPLOAD_IMPL_H

#include "agent/attempt.h"
#include "agent/body.h"
#include "agent/leftover.h"
#include "agent/upload.h"

#include <uthash.h>
#include <utlist.h>

struct ldr_incoming;
struct ldr_stage;

#define LDR_ENDED_MAX 1024 /* results kept for a request that is sent again */

/* A write that has ended, for who asks with its op_id again. */
struct ldr_ended {
    uint64_t op_id;
    enum larder_kind kind;
    struct larder_err err;
    uint64_t txnid;
};

struct ldr_uploads {
    struct ldr_domain *domain;
    struct ldr_write *writes;
    struct ldr_incoming *incoming; /* bodies that come in parts */
    struct ldr_stage *stages;      /* uploads by blocks that a message can name */
    unsigned busy;                 /* of uploads by blocks and of leftovers: what is under way elsewhere */
    unsigned n_stages;             /* that exist, named or not */
    uint64_t memory_bytes;         /* of their blocks that are not in the cache */
    bool quitting;
    struct ldr_ended ended[LDR_ENDED_MAX];
    size_t next_ended;
    /* ldr_uploads_quit() */
    struct ldr_task quit;
    pthread_mutex_t mtx;
    pthread_cond_t cond;
    bool quit_done; /* under mtx */
};

/* One write on its way. Its request is `attempt.op`, which whoever makes the write fills in. */
struct ldr_write {
    UT_hash_handle hh; /* by op_id */
    uint64_t op_id;
    struct ldr_domain *domain;
    struct ldr_name *name, *from; /* from: copy */
    struct ldr_keystate *key;
    struct ldr_write_waiter *waiters;
    bool is_put;
    uint8_t *bytes; /* the body: here, or in `body`, or in `blocks` */
    size_t bytes_len;
    struct ldr_body *body;
    /* an object of several blocks: files of `id` that are linked; hashes owned. 0: it is not kept */
    uint64_t *block_hashes;
    uint32_t n_blocks;
    uint8_t block_log2;
    struct ldr_meta meta; /* put: what the client gave, then with what the store answered */
    char *if_match;       /* owned; what op.if_match borrows */
    struct ldr_attempt attempt;
    /* The intent is committed: see to it that the store is asked, then ldr_write_sent(). NULL: start the attempt. */
    void (*send)(struct ldr_write *w);
    /* NULL, or told when the store has answered, before the write is settled. */
    void (*ended)(struct ldr_write *w);
    void *user; /* of send and ended */
    bool made_container;
    struct ldr_task task;
    struct ldr_change change, *more; /* more: blocks behind the first; owned */
    uint32_t changes_left;           /* index thread, while they are there */
    struct ldr_id id;
    bool linked;           /* the body is the file of a block of `id` now, and closed */
    uint64_t memory_bytes; /* of the body, counted in uploads.memory_bytes */
    bool publishing;
    enum larder_kind kind;
    struct larder_err err;
};

/* ---- upload.c ---- */
/* Wait for the write with this op_id, or be answered at once where it has ended. False: there is none. */
bool ldr_write_join(struct ldr_uploads *u, uint64_t op_id, struct ldr_write_waiter *ww);
enum larder_kind ldr_write_new(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *name,
                               struct ldr_write **out, struct larder_err *err);
void ldr_write_free(struct ldr_write *w); /* one that was not enlisted */
/* A put: its conditions and fields, checked. UNSUPPORTED, INVALID, LIMIT_EXCEEDED. */
enum larder_kind ldr_write_is_put(struct ldr_write *w, const uint8_t *fields, size_t fields_len, bool create_only,
                                  const char *if_match, struct larder_err *err);
/* It can be joined, and will answer. */
void ldr_write_enlist(struct ldr_write *w, struct ldr_write_waiter *ww);
/* Hold the key, commit the intent, send, settle, answer. */
void ldr_write_begin(struct ldr_write *w);
/* It was not begun, and will not be: answer. */
void ldr_write_give_up(struct ldr_write *w, enum larder_kind kind, const struct larder_err *err);
/* The store has answered: attempt.op has it. Any thread. */
void ldr_write_sent(struct ldr_write *w);
/* May nobody write where something is, or anything else than what is? UNSUPPORTED where the store cannot promise it. */
enum larder_kind ldr_write_conditions(const struct ldr_name *name, bool create_only, const char *if_match,
                                      struct larder_err *err);
/* What names a version, or the object itself, is not the client's to say. INVALID. */
enum larder_kind ldr_write_fields(const struct ldr_name *name, const uint8_t *fields, size_t len,
                                  struct larder_err *err);
/* "abc" as stores compare it, with its quotes; "": NULL. *out is owned by the caller. */
enum larder_kind ldr_write_validator(const char *etag, char **out, struct larder_err *err);
/* Fill in what every op about an object has. */
void ldr_op_about(struct ldr_op *op, const struct ldr_name *name, enum ldr_op_what what, int64_t deadline_ns);

/* The container of `name` is missing. Is it one that is made then? `done` is told on the ipc thread. */
bool ldr_container_wanted(const struct ldr_domain *d, const struct ldr_name *name);
void ldr_container_make(struct ldr_domain *d, struct ldr_name *name, int64_t deadline_ns,
                        void (*done)(void *user, enum larder_kind kind, const struct larder_err *err), void *user);

/* ---- upload_multi.c ---- */
/* A write in parts, as a store knows it. All zero but for domain, name, meta and what of `upload` is set before. */
struct ldr_multi;
typedef void ldr_multi_fn(struct ldr_multi *m, enum larder_kind kind, const struct larder_err *err);
struct ldr_multi {
    struct ldr_domain *domain;
    struct ldr_name *name;       /* borrowed, as `meta` */
    const struct ldr_meta *meta; /* of the object; or NULL */
    struct ldr_multipart upload; /* its parts are owned */
    bool begun;                  /* and not closed: parts may be sent */
    /* upload_multi.c's */
    struct ldr_attempt control; /* begin, abort */
    struct ldr_task task;
    int64_t deadline_ns;
    char note[LDR_LEFTOVER_NAME_MAX];
    bool made_container;
    ldr_multi_fn *done;
};
/* Begin it, with its container if that is missing and to be made; `done` on the ipc thread. After a failure there is
 * nothing to close. */
void ldr_multi_begin(struct ldr_multi *m, int64_t deadline_ns, ldr_multi_fn *done);
/* One that has begun is over: unless it `ended`, it is aborted; nothing of it is under way. `done`: OK always. */
void ldr_multi_close(struct ldr_multi *m, bool ended, ldr_multi_fn *done);
void ldr_multi_release(struct ldr_multi *m);

/* ---- upload_part.c ---- */
/* The whole body of the upload; it is not found any more. INVALID: parts are missing. */
enum larder_kind ldr_incoming_take(struct ldr_uploads *u, uint64_t upload_id, uint64_t size, struct ldr_body **out,
                                   struct larder_err *err);
void ldr_incoming_free_all(struct ldr_uploads *u);

/* ---- upload_copy.c ---- */
void ldr_copy_send(struct ldr_write *w); /* a write's `send` */

/* ---- stage.c ---- */
bool ldr_stages_abort(struct ldr_uploads *u, uint64_t upload_id); /* false: no such one */
void ldr_stages_sweep(struct ldr_uploads *u, int64_t now_ns);
void ldr_stages_quit(struct ldr_uploads *u); /* give up what is not committed */
/* Bytes of uploads.memory_bytes are free again: who waits for them goes on. */
void ldr_stages_memory_back(struct ldr_uploads *u, uint64_t bytes);
void ldr_stages_free_all(struct ldr_uploads *u);
/* Something came back: has everything that was to be ended before the agent stops? */
void ldr_uploads_look(struct ldr_uploads *u);

#endif
