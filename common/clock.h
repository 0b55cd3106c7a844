/* clock.h - the two clocks. Every function that decides by time takes `now` as an argument; these make it. Any thread.
 * ldr_boot_ns: CLOCK_BOOTTIME, for what is kept in the cache (it counts suspends; with the boot's number it is the same
 * clock in every container of the node). ldr_mono_ns: CLOCK_MONOTONIC, for deadlines. */
#ifndef LDR_CLOCK_H
#define LDR_CLOCK_H

#include "common/defs.h"

#include <time.h>

#define LDR_NS_PER_MS INT64_C(1000000)
#define LDR_NS_PER_S  INT64_C(1000000000)
#define LDR_NEVER     INT64_MAX /* a deadline that never comes */

static inline int64_t ldr_clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return t.tv_sec * LDR_NS_PER_S + t.tv_nsec;
}

static inline int64_t ldr_boot_ns(void)
{
    return ldr_clock_ns(CLOCK_BOOTTIME);
}

static inline int64_t ldr_mono_ns(void)
{
    return ldr_clock_ns(CLOCK_MONOTONIC);
}

/* The deadline `timeout_ms` from now; negative: never. */
static inline int64_t ldr_deadline_ns(int64_t timeout_ms)
{
    return timeout_ms < 0 || timeout_ms > LDR_NEVER / LDR_NS_PER_MS / 2 ? LDR_NEVER
                                                                        : ldr_mono_ns() + timeout_ms * LDR_NS_PER_MS;
}

/* Milliseconds left for poll(): rounded up, 0 when passed, -1 for LDR_NEVER. */
static inline int ldr_left_ms(int64_t deadline_ns)
{
    int64_t left;

    if (deadline_ns == LDR_NEVER)
        return -1;
    left = deadline_ns - ldr_mono_ns();
    if (left <= 0)
        return 0;
    left = (left + LDR_NS_PER_MS - 1) / LDR_NS_PER_MS;
    return left > 1 << 30 ? 1 << 30 : (int)left;
}

#endif
