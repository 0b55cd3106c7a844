/* width.c - see width.h. */
#include "agent/width.h"
#include "common/clock.h"
#include "common/defs.h"

#define FIRST_STEP  2
#define ROUND_MIN   6    /* blocks that are counted; more at larger widths */
#define FASTER      1.10 /* a wider one pays from here on */
#define NO_SLOWER   0.98 /* a narrower one */
#define REST_ROUNDS 16
#define ONE_CUT_NS  LDR_NS_PER_S

static const unsigned widths[] = { 2, 3, LDR_WIDTH_FIRST, 6, 8, 12, LDR_WIDTH_MAX };

static unsigned step_of(const struct ldr_width *w)
{
    return w->step ? w->step - 1 : FIRST_STEP;
}

unsigned ldr_width_now(const struct ldr_width *w)
{
    return widths[step_of(w)];
}

void ldr_width_break(struct ldr_width *w)
{
    w->passed = w->counted = 0;
    w->bytes = 0;
}

static void rest(struct ldr_width *w)
{
    w->doing = LDR_WIDTH_REST;
    w->rested = 0;
    w->climbed = false;
}

/* Go to another width, if there is one; false: this was the last. */
static bool go(struct ldr_width *w, int by)
{
    int step = (int)step_of(w) + by;

    if (step < 0 || step >= (int)LDR_ARRAY_LEN(widths))
        return false;
    w->step = (unsigned)step + 1;
    w->doing = by > 0 ? LDR_WIDTH_WIDER : LDR_WIDTH_NARROWER;
    return true;
}

/* A round is over. */
static void judge(struct ldr_width *w, double rate)
{
    switch (w->doing) {
    case LDR_WIDTH_BASE:
        w->rate = rate;
        if (!go(w, 1) && !go(w, -1))
            rest(w);
        break;
    case LDR_WIDTH_WIDER:
        if (rate > w->rate * FASTER) {
            w->rate = rate;
            w->climbed = true;
            if (!go(w, 1))
                rest(w);
            break;
        }
        go(w, -1);
        if (w->climbed || !go(w, -1)) /* the one below was slower */
            rest(w);
        break;
    case LDR_WIDTH_NARROWER:
        if (rate < w->rate * NO_SLOWER) {
            go(w, 1);
            rest(w);
            break;
        }
        w->rate = rate;
        if (!go(w, -1))
            rest(w);
        break;
    case LDR_WIDTH_REST:
        if (++w->rested >= REST_ROUNDS)
            w->doing = LDR_WIDTH_BASE;
        break;
    }
}

void ldr_width_block(struct ldr_width *w, uint64_t bytes, int64_t now_ns)
{
    unsigned width = ldr_width_now(w), round = width > ROUND_MIN ? width : ROUND_MIN;
    int64_t took;

    if (w->passed < width) {
        w->passed++;
        w->from_ns = now_ns;
        return;
    }
    w->counted++;
    w->bytes += bytes;
    took = now_ns - w->from_ns;
    if (w->counted < round || took <= 0)
        return;
    judge(w, (double)w->bytes * (double)LDR_NS_PER_S / (double)took);
    if (width != ldr_width_now(w))
        w->passed = 0;
    w->counted = 0;
    w->bytes = 0;
    w->from_ns = now_ns;
}

void ldr_width_throttled(struct ldr_width *w, int64_t now_ns)
{
    unsigned half = ldr_width_now(w) / 2;

    if (w->throttled && now_ns - w->throttled_ns < ONE_CUT_NS)
        return;
    w->throttled = true;
    w->throttled_ns = now_ns;
    while (ldr_width_now(w) > half && go(w, -1)) {
    }
    rest(w);
    ldr_width_break(w);
}
