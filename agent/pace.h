/* pace.h - how fast one store is asked, and how often again: shared by all operations on it.
 *
 * Budget. A retry costs tokens of a bucket that successes fill slowly: a store that fails now and then is tried again, one
 * that fails all the time gets no more than its own requests. 500 tokens at first and at most; a retry costs 5, one
 * behind a request without an answer 10; a success brings 1 back.
 *
 * Rate. A container whose store says "slow down" is asked at half the rate that it was asked at (at most one cut in
 * 500 ms: all that was under way gets the same answer), then faster by a tenth of that rate each second (by 1/s at
 * least), and without a limit again a minute after the last such answer. Requests beyond the rate wait before they leave.
 * Up to 64 containers of a store are watched, the latest ones.
 *
 * `now_ns` is CLOCK_MONOTONIC. Any thread. */
#ifndef LDR_PACE_H
#define LDR_PACE_H

#include "common/fail.h"

#define LDR_PACE_TOKENS       500
#define LDR_PACE_RETRY        5
#define LDR_PACE_RETRY_SILENT 10 /* no answer came */

struct ldr_pace;

struct ldr_pace *ldr_pace_new(void); /* NULL: no memory */
void ldr_pace_free(struct ldr_pace **p);

/* Take the tokens of a retry; false: there are too few of them. */
bool ldr_pace_retry(struct ldr_pace *p, bool silent);
void ldr_pace_success(struct ldr_pace *p);

/* A request for `container` wants to leave. *wait_ms 0: now. Else it has to wait so long; LDR_PACE_GO: then it leaves,
 * LDR_PACE_ASK: then it asks again, as too many are waiting before it. LDR_PACE_LATE: it would leave after its deadline.
 * `random` is the dice. */
enum ldr_pace_answer { LDR_PACE_GO, LDR_PACE_ASK, LDR_PACE_LATE };
enum ldr_pace_answer ldr_pace_send(struct ldr_pace *p, const char *container, int64_t now_ns, int64_t deadline_ns,
                                   uint32_t random, uint32_t *wait_ms);
/* The store said "slow down" about `container`. */
void ldr_pace_throttled(struct ldr_pace *p, const char *container, int64_t now_ns);
/* Requests a second that may leave; 0: no limit. */
double ldr_pace_rate(struct ldr_pace *p, const char *container, int64_t now_ns);

#endif
