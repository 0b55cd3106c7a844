/* task.h - how threads hand work over: a task is a member of whatever is handed; a mailbox is the owner's queue.
 * Posting gives the memory away: the poster touches it no more until it comes back. Tasks run in the order posted. */
#ifndef LDR_TASK_H
#define LDR_TASK_H

#include "common/defs.h"

#include <pthread.h>
#include <stdbool.h>

struct ldr_task {
    struct ldr_task *next;
    void (*run)(struct ldr_task *t); /* on the owner's thread; LDR_CONTAINER() finds the work around it */
};

/* Many posters, one or more takers. */
struct ldr_mailbox {
    pthread_mutex_t mtx;
    pthread_cond_t cond; /* on CLOCK_MONOTONIC */
    /* under mtx */
    struct ldr_task *head, **tail;
    size_t count;
    bool closed;
    /* set once */
    void (*wake)(void *user); /* optional: how a taker that waits elsewhere (curl, poll) is woken */
    void *user;
};

void ldr_mailbox_init(struct ldr_mailbox *m, void (*wake)(void *user), void *user);
void ldr_mailbox_release(struct ldr_mailbox *m); /* empty, and nobody posts any more */
/* Any thread, never blocks on work. Posting to a closed mailbox still queues: whoever closed it drains it. */
void ldr_mailbox_post(struct ldr_mailbox *m, struct ldr_task *t);
/* The oldest task; waits to `deadline_ns` (CLOCK_MONOTONIC; 0: not at all). NULL: none in time, or closed and empty. */
struct ldr_task *ldr_mailbox_take(struct ldr_mailbox *m, int64_t deadline_ns);
/* No more waiting: takers get what is queued, then NULL at once. */
void ldr_mailbox_close(struct ldr_mailbox *m);
bool ldr_mailbox_closed(struct ldr_mailbox *m);

#endif
