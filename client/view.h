/* view.h - step 1 of a get, for objects in block files: the files of a range side by side as one mapping, and the
 * mappings that are kept for the next get of the same version. Also struct larder_object, what a get gives to its
 * caller.
 *
 * Rules: 1. A mapping that exists stays valid, whatever happens to the files (they are only ever unlinked). 2. Objects
 * may outlive the struct ldr_views, which goes with its last object. 3. Areas are scarce: at the kernel's limit the
 * host's malloc() fails. One struct ldr_views uses at most 1/4 of vm.max_map_count for all its mappings, 1/16 and 2
 * GiB for kept ones (at most 32 ranges of one object); beyond the first an object is a copy, which looks the same.
 * 4. The locks here are only ever tried (busy: map afresh), so fork() at any moment leaves a child that works. Any
 * thread. */
#ifndef LDR_VIEW_H
#define LDR_VIEW_H

#include "client/larder.h"
#include "client/walk.h"

struct ldr_views;

/* NULL: out of memory. `max_map_count`: the kernel's setting; ldr_views_map_count() reads it. */
struct ldr_views *ldr_views_new(uint64_t max_map_count);
uint64_t ldr_views_map_count(void);
/* Drop what is kept. *v becomes NULL; objects that callers hold go on. */
void ldr_views_free(struct ldr_views **v);
/* Drop kept mappings that no object uses, if `pressure` (of the header) is another than at the last call. Cheap. */
void ldr_views_pressure(struct ldr_views *v, uint64_t pressure);

/* What is wanted of an object. */
struct ldr_want {
    uint64_t offset, length; /* within the object */
    bool asked;              /* the agent was asked within this call (larder_object_was_hit) */
    bool keep;               /* a mapping that is made may serve a later get */
};
/* How it went; also where it failed. The caller clears it. */
struct ldr_view_how {
    bool kept;    /* a kept mapping served */
    bool damaged; /* a block file is there, and is not what the record says, or cannot be read */
};

/* A range of record `r` (blocks, not inline) as a view of the blocks that it lies in: a kept mapping that covers it,
 * else a new one, else a copy of the range. Other blocks need not be there.
 * LDR_HIT: *out is owned by the caller. LDR_BLOCK_GONE: a file is not there (it was never fetched, or was evicted), or
 * damaged. LDR_NO_CACHE: it cannot be opened or read in this process. LDR_NO_MEMORY. */
enum ldr_hit ldr_views_get(struct ldr_views *v, int cache_dirfd, const struct ldr_record *r,
                           const struct ldr_want *want, struct ldr_view_how *how, struct larder_object **out);
/* The same into `buf` of want->length bytes: from a kept mapping, else read; makes no mapping. */
enum ldr_hit ldr_views_read(struct ldr_views *v, int cache_dirfd, const struct ldr_record *r,
                            const struct ldr_want *want, void *buf, struct ldr_view_how *how);

/* The file of block `n` of record `r`, for reading: *fd is owned by the caller. Kinds as ldr_views_get(). */
enum ldr_hit ldr_view_open(int cache_dirfd, const struct ldr_record *r, uint32_t n, int *fd, struct ldr_view_how *how);

/* Where the mapping of `id` is kept: shard * LDR_VIEW_BUCKETS + bucket. Public to client/ for its test only: ids of one
 * agent run differ in their last bytes alone, and must spread all the same. */
#define LDR_VIEW_SHARDS  16
#define LDR_VIEW_BUCKETS 256
unsigned ldr_view_slot(const struct ldr_id *id);

/* An object with room for `size` bytes of its own, to be filled in at *data. NULL: out of memory. */
struct larder_object *ldr_object_new(size_t size, uint8_t **data);
/* What larder_object_was_hit(), _id() (NULL: not known), _offset() and _total() say of it; before it is given out. */
void ldr_object_describe(struct larder_object *o, bool hit, const struct ldr_id *id, uint64_t offset, uint64_t total);

#endif
