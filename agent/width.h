/* width.h - how many requests for blocks of one object are under way at once: as many as make it faster, and no more. The
 * road to a far store is filled by many; with a near one they only push each other out of the processor's caches.
 *
 * A width is judged by rounds: some blocks pass until those that were asked for at another width are through, then the
 * bytes of the next ones are set against the time that they took. A wider one is kept where it is faster by more than a
 * tenth, else a narrower one where it is no slower. When neither is, the width rests for a while before it is tried
 * again. A store that asks for fewer requests gets half as many.
 *
 * Pure: the time is an argument (nanoseconds that only rise). One owner. */
#ifndef LDR_WIDTH_H
#define LDR_WIDTH_H

#include <stdbool.h>
#include <stdint.h>

#define LDR_WIDTH_FIRST 4
#define LDR_WIDTH_MAX   16

/* All zero: nothing is known yet. */
struct ldr_width {
    unsigned pulls; /* its owner's: requests for blocks that are under way, of all loads of the store */
    unsigned step;  /* the width that is used: an index, and 1; 0: the first one */
    enum { LDR_WIDTH_BASE, LDR_WIDTH_WIDER, LDR_WIDTH_NARROWER, LDR_WIDTH_REST } doing;
    double rate; /* bytes a second at the width that is to be beaten */
    bool climbed;
    unsigned rested; /* rounds */
    bool throttled;
    int64_t throttled_ns;
    /* the round under way */
    unsigned passed, counted; /* blocks */
    uint64_t bytes;
    int64_t from_ns;
};

unsigned ldr_width_now(const struct ldr_width *w);
/* A block of so many bytes has arrived, while as many requests as ldr_width_now() says were under way. */
void ldr_width_block(struct ldr_width *w, uint64_t bytes, int64_t now_ns);
/* They are fewer now, or not the only ones of their store: what was counted of the round says nothing. */
void ldr_width_break(struct ldr_width *w);
/* The store asked for fewer requests. What it answers within a second counts as one. */
void ldr_width_throttled(struct ldr_width *w, int64_t now_ns);

#endif
