/* stage.h - step 10, the other way: an upload by blocks, for objects of any size, also of one that is not known yet.
 *
 * open → for each block in order: block (a file below rw/staging that the client maps), fill, seal → commit. Sealed blocks
 * are parts of one upload of the store, several at a time, while the client fills the next; an object that turns out to
 * have one block is one put. Nothing of it is seen by anybody before the commit, which is a write like any other
 * (upload.h: hold, intend, send, settle, answer), so before it there is no intent.
 *
 * What fails, is aborted, or is given up by its client leaves nothing: neither files, nor space, nor an upload in the
 * store. Given up is one whose client's connection is gone and of which nothing is heard for 10 s, or of which nothing is
 * heard for an hour; a client is heard by its messages, and by its writing to the file that it was given. ipc thread only.
 */
#ifndef LDR_STAGE_H
#define LDR_STAGE_H

#include "agent/upload.h"

struct ldr_stage_args {
    uint64_t upload_id;    /* not 0 */
    struct ldr_name *name; /* referenced */
    const uint8_t *fields; /* copied: content type, user metadata */
    size_t fields_len;
    bool create_only;
    const char *if_match; /* as in struct ldr_put_args */
    uint64_t size;        /* where it is known */
    bool size_known;
};

/* Where a block's bytes go. Valid for the call. */
struct ldr_staging {
    uint32_t block;
    const char *name; /* below rw/staging; "": they come as messages */
    uint64_t size;    /* of the file */
};

/* Embedded in a request. */
struct ldr_stage_waiter {
    struct ldr_stage_waiter *prev, *next;
    struct ldr_piece *piece; /* NULL: waits for nothing */
    /* Exactly once, unless it left before; perhaps before the call that asked returns. `s`: of ldr_stage_block(), OK. */
    void (*answer)(struct ldr_stage_waiter *w, enum larder_kind kind, const struct larder_err *err,
                   const struct ldr_staging *s);
    /* ldr_stage_data(): set by the caller, borrowed until the answer */
    uint64_t offset;
    const void *data;
    size_t len;
};

/* Begin an upload, or find it again: *block_size is that of its blocks. UNSUPPORTED: a condition that the store does not
 * keep, or more than one block where it takes no parts. LIMIT_EXCEEDED: larger than it takes. UNAVAILABLE: too many. */
enum larder_kind ldr_stage_open(struct ldr_domain *d, const struct ldr_stage_args *args, uint64_t *block_size,
                                struct larder_err *err);
/* For all that follow: on failure `w` waits for nothing and is not answered; CANCELLED: nothing is known of the upload
 * (any more), INVALID: out of order; whatever kind made an upload fail comes back to each later message about it. */
/* Ask for the next block; answered when few enough wait for the store. Again: the same answer. */
enum larder_kind ldr_stage_block(struct ldr_domain *d, uint64_t upload_id, uint32_t block, struct ldr_stage_waiter *w,
                                 struct larder_err *err);
/* Bytes of a block: in order, or again. One that was not asked for yet is asked for. */
enum larder_kind ldr_stage_data(struct ldr_domain *d, uint64_t upload_id, uint32_t block, struct ldr_stage_waiter *w,
                                struct larder_err *err);
/* The block is complete; answered when nobody can change it any more. A short one is the last; 0: there is none. */
enum larder_kind ldr_stage_seal(struct ldr_domain *d, uint64_t upload_id, uint32_t block, uint64_t length,
                                struct ldr_stage_waiter *w, struct larder_err *err);
/* Write the object; joined by who sends the same op_id again. From here on it needs no client. */
enum larder_kind ldr_stage_commit(struct ldr_domain *d, uint64_t op_id, int64_t deadline_ns, uint64_t upload_id,
                                  uint64_t size, struct ldr_write_waiter *w, struct larder_err *err);
/* A message about the upload came by this connection; before it is acted on. The object that it writes, borrowed; NULL:
 * nothing is known of it. */
struct ldr_name *ldr_stage_heard(struct ldr_domain *d, uint64_t upload_id, uint32_t connection);
/* The connection is closed: its client has died, or will come back by another one. */
void ldr_stages_gone(struct ldr_domain *d, uint32_t connection);
void ldr_stage_leave(struct ldr_stage_waiter *w); /* of ldr_stage_block(); the block is made all the same */

#endif
