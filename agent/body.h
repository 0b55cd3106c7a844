/* body.h - step 10, the other way: the bytes of a write on their way to a store. They are in a file of the cache, which
 * may become a block of the object, or in memory where the cache has no room: a full cache stops no write. A staged one
 * has a name below rw/staging, so that a client can fill it.
 *
 * A body is sealed before its first byte is hashed or sent: from then on nobody can change it. A client may keep a
 * mapping that it should have given up, so that nobody writes is proved (a read lease is granted to none who has a writer
 * beside him), and where it cannot be proved the bytes are copied into a file that no client ever saw. After that all
 * goes by the descriptor, never by a name: the one in rw/staging stays until the file gets another, and is only a link.
 * Functions block on the disk: pool. One thread at a time a body. */
#ifndef LDR_BODY_H
#define LDR_BODY_H

#include "agent/blocks.h"

#define LDR_STAGING_NAME_MAX 33 /* 128 random bits, and NUL */

struct ldr_body {
    struct ldr_blocks *blocks;
    uint64_t size;                   /* bytes; sealed: those that were written */
    struct ldr_fill fill;            /* open: in the cache */
    int memfd;                       /* or here, >= 0 */
    char name[LDR_STAGING_NAME_MAX]; /* of a staged one; else "" */
    bool sealed;
    bool has_crc32c; /* sealed, and read for its hash: the store gets the CRC without another pass */
    uint64_t crc32c;
    struct ldr_task task; /* ldr_body_free_later() */
};

struct ldr_body *ldr_body_new(struct ldr_blocks *b, uint64_t size); /* not open. NULL: out of memory */
/* Closes; what was not linked gives its space back, when no client maps it any more. */
void ldr_body_free(struct ldr_body **b);
/* The same, on the pool: unlinking takes its time. Any thread; NULL allowed. */
void ldr_body_free_later(struct ldr_body **b);
static inline bool ldr_body_cached(const struct ldr_body *b)
{
    return ldr_fill_is_open(&b->fill);
}
/* To read what is in it; its position is not used. */
static inline int ldr_body_fd(const struct ldr_body *b)
{
    return ldr_body_cached(b) ? b->fill.fd : b->memfd;
}

/* For bytes that the agent writes itself, from the first to the last: in the cache if it has room at once and
 * `cacheable`, else in memory. NO_MEMORY. */
enum larder_kind ldr_body_open(struct ldr_body *b, bool cacheable, struct larder_err *err);
enum larder_kind ldr_body_append(struct ldr_body *b, uint64_t offset, const void *p, size_t n, struct larder_err *err);

/* For bytes that a client writes: a file below rw/staging, allocated. Its space was reserved by the caller, and is the
 * body's, even on failure. LIMIT_EXCEEDED: the disk is full. IO. */
enum larder_kind ldr_body_stage(struct ldr_body *b, struct larder_err *err);
/* The same in memory, for bytes that come with ldr_body_write(). */
enum larder_kind ldr_body_stage_in_memory(struct ldr_body *b, struct larder_err *err);
/* Into a staged one, anywhere within its size. */
enum larder_kind ldr_body_write(struct ldr_body *b, uint64_t offset, const void *p, size_t n, struct larder_err *err);
/* Has a client a staged body open or mapped for writing? Where the file system cannot tell: false. Does not block. */
bool ldr_body_written_to(const struct ldr_body *b);

/* No byte changes any more (again: nothing happens); the first `length` (> 0, at most the size) are the body. `keep`: it may be linked, so that
 * fill.hash is wanted. INVALID: the length of a staged one was changed behind the agent's back. */
enum larder_kind ldr_body_seal(struct ldr_body *b, uint64_t length, bool keep, struct larder_err *err);
/* A sealed one in the cache becomes the file of a block, and has no other name. EXISTS, IO. */
enum larder_kind ldr_body_link(struct ldr_body *b, const struct ldr_id *id, uint32_t block, struct larder_err *err);

#endif
