/* known.h - what the cache knows of an object, for the agent itself: its record, whether that is sound and fresh, and
 * how to take a damaged one out of readers' sight. ipc thread only. */
#ifndef LDR_KNOWN_H
#define LDR_KNOWN_H

#include "agent/agent.h"

/* The record of `name`, if there is a sound one; a damaged one is dropped. *rec borrows from the domain's reader until
 * its next use. *txnid: of the snapshot read. */
bool ldr_known_find(struct ldr_domain *d, struct ldr_name *name, struct ldr_record *rec, uint64_t *txnid);
bool ldr_known_fresh(const struct ldr_domain *d, const struct ldr_record *rec);
/* Are the blocks of [offset, offset + length) there, as far as the index knows? (length 0: to the end) */
bool ldr_known_range(struct ldr_domain *d, const struct ldr_record *rec, uint64_t offset, uint64_t length);
/* The record's metadata as struct ldr_meta that borrows: not to be released. */
struct ldr_meta ldr_known_meta(const struct ldr_record *rec);
/* Remove the record, only if it is of this version (`only` not NULL). */
void ldr_known_drop(struct ldr_domain *d, struct ldr_name *name, const struct ldr_id *only);
/* Write the record anew with what a head said of the same version (its last-modified was not known). */
void ldr_known_complete(struct ldr_domain *d, struct ldr_name *name, const struct ldr_meta *meta);

#endif
