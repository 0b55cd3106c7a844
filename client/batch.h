/* batch.h - the keys of one request about many objects (GetMany, DeleteMany), as many as a message has room for. */
#ifndef LDR_BATCH_H
#define LDR_BATCH_H

#include "common/wire.h"

#define LDR_BATCH_SPARE 1024 /* bytes of a request for what else it carries */

struct ldr_batch {
    size_t n, used;
    size_t index[LDR_WIRE_MANY]; /* of the result that a key belongs to; the caller's */
    char *key[LDR_WIRE_MANY];    /* in `texts` */
    char texts[LDR_WIRE_REQUEST_MAX - LDR_BATCH_SPARE];
};

/* An empty one, ended by free(). NULL: out of memory. */
struct ldr_batch *ldr_batch_new(void);
/* Add a copy of `text`. False: the request has no room for it. */
bool ldr_batch_add(struct ldr_batch *b, size_t index, const char *text);
void ldr_batch_clear(struct ldr_batch *b);

#endif
