/* net.h - a net thread: one libcurl multi handle, a mailbox, timers. Every request of a backend runs on one.
 * `_on_net` functions are called on that thread only (asserted). */
#ifndef LDR_NET_H
#define LDR_NET_H

#include "common/fail.h"
#include "common/task.h"

struct ldr_net;

struct ldr_net_cfg {
    unsigned connections_per_host; /* net.connections_per_host */
};

/* Starts the thread. NO_MEMORY, INTERNAL. */
enum larder_kind ldr_net_new(const struct ldr_net_cfg *cfg, struct ldr_net **out, struct larder_err *err);
/* Ends requests under way and timers (CANCELLED / run at once), runs what is queued, joins the thread. */
void ldr_net_free(struct ldr_net **n);
/* Any thread: requests under way and those that come end with CANCELLED, timers run at once; the thread goes on with
 * what is posted until ldr_net_free(). */
void ldr_net_shutdown(struct ldr_net *n);
/* Any thread: run `t` on the net thread. */
void ldr_net_post(struct ldr_net *n, struct ldr_task *t);
/* Run `t` on the net thread `delay_ms` from now. When the thread stops, timers run early; see ldr_net_stopping(). */
void ldr_net_after_on_net(struct ldr_net *n, uint32_t delay_ms, struct ldr_task *t);
/* Work of this thread is away on another one (a pool): ldr_net_free() waits until it has been posted back. +1 before it
 * is handed over, -1 by the task that came back. */
void ldr_net_away_on_net(struct ldr_net *n, int change);
/* Any thread: has ldr_net_shutdown() or ldr_net_free() begun? Then nothing is retried. */
bool ldr_net_stopping(const struct ldr_net *n);
bool ldr_net_here(const struct ldr_net *n);

#endif
