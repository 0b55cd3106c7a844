/* batch.c - see batch.h. Any thread, each with a batch of its own. */
#include "client/batch.h"

#include <stdlib.h>
#include <string.h>

#define KEY_OVERHEAD 4 /* of a key in the message: its tag and length */

struct ldr_batch *ldr_batch_new(void)
{
    struct ldr_batch *b = malloc(sizeof *b);

    if (b)
        ldr_batch_clear(b);
    return b;
}

bool ldr_batch_add(struct ldr_batch *b, size_t index, const char *text)
{
    size_t n = strlen(text) + 1;

    if (b->n == LDR_WIRE_MANY || n + KEY_OVERHEAD > sizeof b->texts - b->used)
        return false;
    b->index[b->n] = index;
    b->key[b->n++] = memcpy(b->texts + b->used, text, n);
    b->used += n + KEY_OVERHEAD;
    return true;
}

void ldr_batch_clear(struct ldr_batch *b)
{
    b->n = b->used = 0;
}
