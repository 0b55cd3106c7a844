/* attempt.h - one operation of a store, repeated while that makes sense: kinds that are worth a retry (kinds.tbl.h),
 * full jitter, Retry-After, within what the store's pace allows (pace.h), and never past the deadline: an operation that
 * could only go on behind it ends at once with what it knows. Counts what was sent. */
#ifndef LDR_ATTEMPT_H
#define LDR_ATTEMPT_H

#include "agent/counters.h"
#include "backends/backend.h"

#define LDR_TRIES_MAX 4

struct ldr_attempt {
    struct ldr_op op; /* filled in by the owner, but for done and task */
    struct ldr_counters *counters;
    bool once_sent_is_final; /* a request that may have changed the store is not sent again (create_only) */
    bool was_sent;           /* any attempt may have been carried out (one refused by 409 was not), see ldr_op.sent */
    bool throttled;          /* after one of them the store asked for fewer requests */
    bool unsure;             /* of one that did nobody knows whether the store carried it out */
    unsigned tries;
    uint32_t wait_ms; /* before the next one */
    struct ldr_task timer;
    void (*done)(struct ldr_attempt *a); /* exactly once, on net or pool thread */
};

/* Any thread. */
void ldr_attempt_start(struct ldr_attempt *a);

/* Milliseconds to wait after `tries` failed attempts: full jitter over 50 ms doubled each time, at most 2 s; at least
 * what the store asked for. Pure: `random` is the dice. */
uint32_t ldr_attempt_backoff_ms(unsigned tries, uint32_t retry_after_ms, uint32_t random);

#endif
