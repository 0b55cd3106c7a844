/* leftover.h - writes in parts that a store may be left with, when the agent is killed between their begin and their
 * end: nobody sees them, but they cost. Each is noted in a small file of the cache directory (`uploads/`, the agent's
 * alone), on the disk before the first part is sent; what a start finds there is aborted.
 * (Between the store's answer to the begin and the note lies a moment that nothing covers.) */
#ifndef LDR_LEFTOVER_H
#define LDR_LEFTOVER_H

#include "agent/agent.h"

#define LDR_LEFTOVER_NAME_MAX 33

/* Note that the upload `id` of the object `uri` has begun. IO. Blocks: pool. */
enum larder_kind ldr_leftover_note(const struct ldr_cache_dir *dir, const char *uri, const char *id,
                                   char name[LDR_LEFTOVER_NAME_MAX], struct larder_err *err);
/* It has ended, one way or the other. "": nothing was noted. Blocks: pool. */
void ldr_leftover_forget(const struct ldr_cache_dir *dir, const char *name);

/* Abort what earlier runs left, one after the other, in the background. What the store does not answer for now is tried
 * again after `pause_ms`, a few times, and then at the next start; what it refuses is logged for a person, and forgotten.
 * A file that is no such note is logged and removed. Main thread, before anybody can begin an upload. */
void ldr_leftovers_start(struct ldr_domain *d, uint32_t pause_ms);

#endif
