/* reply.h - step 11 of a get: the messages that go back. Each answers the request and ends it. ipc thread only. */
#ifndef LDR_REPLY_H
#define LDR_REPLY_H

#include "agent/ipc.h"

/* Which generation, snapshot and object the reply is about; `id` NULL: none. */
void ldr_reply_stamp(const struct ldr_domain *d, ldr_wire_reply *m, uint64_t txnid, const struct ldr_id *id);
/* "Look: the record with this id is there." */
void ldr_reply_look(struct ldr_request *r, uint64_t txnid, const struct ldr_id *id);
void ldr_reply_bytes(struct ldr_request *r, const struct ldr_meta *meta, uint64_t offset, const void *data, size_t len,
                     const char *why, uint64_t txnid, const struct ldr_id *id);
void ldr_reply_meta(struct ldr_request *r, const struct ldr_meta *meta);
void ldr_reply_page(struct ldr_request *r, const struct ldr_page *page);
void ldr_reply_done(struct ldr_request *r);

/* A reply of names and values (status, why). */
#define LDR_ITEMS_MAX 256
struct ldr_items {
    Larder__Wire__StatusItem item[LDR_ITEMS_MAX], *ptr[LDR_ITEMS_MAX];
    char texts[LDR_ITEMS_MAX][48]; /* names that are made up */
    size_t n;
};
/* `name` and `text` are borrowed until the reply; text NULL: a number. What does not fit is left out. */
void ldr_items_add(struct ldr_items *s, const char *name, const char *text, uint64_t number);
/* The same, under a name made up from two parts. */
void ldr_items_add2(struct ldr_items *s, const char *first, const char *second, const char *text, uint64_t number);
void ldr_reply_items(struct ldr_request *r, struct ldr_items *s);

#endif
