/* buf.h - a growing byte buffer with a cap from birth: what a peer sends can never grow it without bound. */
#ifndef LDR_BUF_H
#define LDR_BUF_H

#include "common/defs.h"

#include <stdbool.h>

struct ldr_buf {
    uint8_t *p; /* NULL while empty; owned */
    size_t len, room, cap;
};

/* An empty buffer that never holds more than `cap` bytes; allocates nothing. */
#define LDR_BUF_INIT(cap_bytes) ((struct ldr_buf){ .cap = (cap_bytes) })

void ldr_buf_init(struct ldr_buf *b, size_t cap);
void ldr_buf_release(struct ldr_buf *b); /* frees; the buffer is empty and usable again, its cap kept */
/* False: over the cap or out of memory; nothing was added. `p` may be NULL when n is 0. */
bool ldr_buf_add(struct ldr_buf *b, const void *p, size_t n);
bool ldr_buf_addf(struct ldr_buf *b, const char *fmt, ...) LDR_PRINTF(2, 3);
/* Room for n more bytes at b->p + b->len, not counted in len. */
bool ldr_buf_reserve(struct ldr_buf *b, size_t n);
/* The bytes as a C string (a NUL is kept behind them, not counted); "" while empty. NULL: out of memory. */
const char *ldr_buf_str(struct ldr_buf *b);

#endif
