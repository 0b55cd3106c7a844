/* upload.h - step 10, the other way: puts, copies and deletes. Uploads by blocks are in stage.h.
 *
 * A write, in order (docs/tour.md): hold the key (flights of it are detached) → commit an intent → one request to
 * the store → publish the new record, or remove the old one, in the commit that clears the intent → answer. Killed
 * anywhere in between, the next start finds the intent and removes the record: a fresh hit never shows bytes older than
 * a write that was answered. ipc thread only. */
#ifndef LDR_UPLOAD_H
#define LDR_UPLOAD_H

#include "agent/agent.h"

struct ldr_write_result {
    enum larder_kind kind;
    const struct larder_err *err;
    const struct ldr_meta *meta; /* put, OK: as the store named it */
    uint64_t txnid;
    const struct ldr_id *id; /* put: of the record, NULL: not cached */
};

/* Embedded in a request that waits for a write. */
struct ldr_write_waiter {
    struct ldr_write_waiter *next;
    struct ldr_write *write; /* NULL: waits for nothing */
    void (*answer)(struct ldr_write_waiter *w, const struct ldr_write_result *r);
};

struct ldr_put_args {
    uint64_t op_id;
    int64_t deadline_ns;
    struct ldr_name *name; /* referenced */
    const uint8_t *data;   /* copied */
    size_t data_len;
    uint64_t upload_id, size; /* parts were sent under this number, 0: data is all */
    const uint8_t *fields;    /* copied: content type, user metadata */
    size_t fields_len;
    bool create_only;
    const char *if_match; /* ETag of the version that is replaced; NULL, "": any */
};

enum larder_kind ldr_uploads_new(struct ldr_domain *d, struct ldr_uploads **out, struct larder_err *err);
void ldr_uploads_free(struct ldr_uploads **u); /* when it is idle */
bool ldr_uploads_idle(const struct ldr_uploads *u);
/* Is the body of some put arriving in parts or blocks, so that time matters? */
bool ldr_uploads_open(const struct ldr_uploads *u);
/* The agent is about to stop: give up what is not committed, while stores can still be told. Returns when that is done,
 * or at the deadline (CLOCK_MONOTONIC). Main thread; the ipc thread runs. */
void ldr_uploads_quit(struct ldr_uploads *u, int64_t deadline_ns);

/* Start a put, or join the one with this op_id (a client's transport sent it again). Where it has ended already, `w` is
 * answered at once. On failure `w` waits for nothing and is not answered. INVALID: parts are missing.
 * UNSUPPORTED: a condition that the store does not keep. PRECONDITION (in the answer): another version is there. */
enum larder_kind ldr_upload_put(struct ldr_domain *d, const struct ldr_put_args *args, struct ldr_write_waiter *w,
                                struct larder_err *err);
enum larder_kind ldr_upload_delete(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *name,
                                   struct ldr_write_waiter *w, struct larder_err *err);
/* Copy within a store: a write of `to`, whose record goes, as the bytes never come here. One that is larger than a request
 * of the store takes is copied in parts. UNSUPPORTED: `from` and `to` are of two stores, or theirs cannot copy. */
enum larder_kind ldr_upload_copy(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, struct ldr_name *from,
                                 struct ldr_name *to, struct ldr_write_waiter *w, struct larder_err *err);
/* Delete `n` objects, at most LDR_WIRE_MANY: each is a write of its own, but those of one container are one request
 * where the store has such. `w[i]` is answered for `names[i]`, perhaps before this returns. NO_MEMORY: none is. */
enum larder_kind ldr_upload_delete_many(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns,
                                        struct ldr_name *const *names, size_t n, struct ldr_write_waiter *const *w,
                                        struct larder_err *err);
void ldr_upload_leave(struct ldr_write_waiter *w); /* the write goes on */

/* A part of a body on its way into a file, on the pool. Embedded in a request. */
struct ldr_part {
    /* set by the caller, borrowed until the answer */
    uint64_t upload_id, size, offset; /* size: of the whole object */
    const void *data;
    size_t len;
    void (*answer)(struct ldr_part *p, enum larder_kind kind, const struct larder_err *err);
    /* upload.c's */
    struct ldr_task task;
    struct ldr_domain *domain;
    struct ldr_incoming *body;
    enum larder_kind kind;
    struct larder_err err;
};

/* Take a part. Parts come in order, or again; one of an upload at a time. OK: `p` is answered, perhaps before this
 * returns. Else it is not: INVALID; UNAVAILABLE: too many uploads are open. */
enum larder_kind ldr_upload_part(struct ldr_domain *d, struct ldr_part *p, struct larder_err *err);
void ldr_upload_abort(struct ldr_domain *d, uint64_t upload_id); /* also of an upload by blocks */
/* Drop bodies of which nothing was heard for a minute. `now_ns`: CLOCK_MONOTONIC. */
void ldr_upload_sweep(struct ldr_domain *d, int64_t now_ns);

#endif
