/* view.h - step 1 of a get, for objects in block files: the files side by side as one mapping, and the mappings that
 * are kept for the next get of the same version. Also struct larder_object, what a get gives to its caller.
 *
 * Rules: 1. A mapping that exists stays valid, whatever happens to the files (they are only ever unlinked). 2. Objects
 * may outlive the struct ldr_views, which goes with its last object. 3. Areas are scarce: at the kernel's limit the
 * host's malloc() fails. One struct ldr_views uses at most 1/4 of vm.max_map_count for all its mappings, 1/16 and 256
 * MiB for kept ones; beyond the first an object is a copy, which looks the same. 4. The locks here are only ever tried
 * (busy: map afresh), so fork() at any moment leaves a child that works. Any thread. */
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

/* The object of record `r` (blocks, not inline) as a view: a kept mapping, else a new one, else a copy.
 *   asked  the agent was asked within this call (larder_object_was_hit)
 *   kept   set to whether a kept mapping served
 * LDR_HIT: *out is owned by the caller. LDR_BLOCK_GONE: a file is not there, or is not what the record says.
 * LDR_NO_CACHE: it cannot be opened or read in this process. LDR_NO_MEMORY. */
enum ldr_hit ldr_views_get(struct ldr_views *v, int cache_dirfd, const struct ldr_record *r, bool asked, bool *kept,
                           struct larder_object **out);
/* The same into `buf` of r->size_bytes bytes: from a kept mapping, else read; makes no mapping. */
enum ldr_hit ldr_views_read(struct ldr_views *v, int cache_dirfd, const struct ldr_record *r, void *buf, bool *kept);

/* Where the mapping of `id` is kept: shard * LDR_VIEW_BUCKETS + bucket. Public to client/ for its test only: ids of one
 * agent run differ in their last bytes alone, and must spread all the same. */
#define LDR_VIEW_SHARDS  16
#define LDR_VIEW_BUCKETS 256
unsigned ldr_view_slot(const struct ldr_id *id);

/* An object with room for `size` bytes of its own, to be filled in at *data. NULL: out of memory. */
struct larder_object *ldr_object_new(size_t size, bool asked, uint8_t **data);

#endif
