/* page.h - how a store that has its keys in order makes pages of them: which belong to the page, what a delimiter makes
 * of them, where the page ends (local, memory). Any thread, one at a time.
 *
 * `next` is the last key or group of the page: it may be stored, and any instance of the store goes on from it, whatever
 * was put or deleted meanwhile. A group is told from a key by the delimiter in it, which no key of a page has. */
#ifndef LDR_PAGE_H
#define LDR_PAGE_H

#include "backends/backend.h"

struct ldr_paging {
    struct ldr_op *op; /* its prefix, delimiter, start, max_entries; its page is filled */
    const char *last;  /* all keys up to it are done; NULL: none yet */
    bool last_is_group;
    bool full; /* the page is, and there is more: stop */
};

/* The page of `op` is empty. */
void ldr_paging_init(struct ldr_paging *g, struct ldr_op *op);
/* Is this key to be added? */
bool ldr_paging_wants(const struct ldr_paging *g, const char *key);
/* May a key that begins with `head` be? */
bool ldr_paging_wants_below(const struct ldr_paging *g, const char *head);
/* Will this key, or every key that begins with this text, be shown by its group alone? */
bool ldr_paging_in_group(const struct ldr_paging *g, const char *text);
/* Add a wanted key, behind every key that was added before; size, time and etag (may be NULL) do not count where it is
 * in a group. NO_MEMORY. */
enum larder_kind ldr_paging_add(struct ldr_paging *g, const char *key, uint64_t size, int64_t last_modified_s,
                                const char *etag);
/* No more keys, or full: sets `next`. NO_MEMORY. */
enum larder_kind ldr_paging_end(struct ldr_paging *g);

#endif
