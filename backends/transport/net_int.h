/* net_int.h - what net.c and http.c know of a net thread; nobody else includes it. */
#ifndef LDR_NET_INT_H
#define LDR_NET_INT_H

#include "backends/transport/direct.h"
#include "backends/transport/net.h"

#include <curl/curl.h>
#include <stdatomic.h>
#include <sys/queue.h>

struct http_slot; /* an easy handle and the request that it serves: http.c */
TAILQ_HEAD(http_slots, http_slot);

struct net_timer {
    int64_t due_ns;
    struct ldr_task *task;
};

struct ldr_net {
    /* set once, in ldr_net_new() */
    CURLM *multi;
    int epfd, wakefd; /* what the thread sleeps on: curl's sockets and wakefd, an eventfd */
    pthread_t thread;
    atomic_bool stopping; /* requests are cancelled; only ever becomes true */
    atomic_bool freed;    /* and the thread returns once it is quiet; set after `stopping` */

    /* under mtx, which is held over the wake-up too: ldr_net_free() thus knows that no poster still uses `wakefd` */
    pthread_mutex_t mtx;
    struct ldr_task *head, **tail;

    /* net thread, net.c */
    struct net_timer *timers; /* latest first, so that the next one is popped from the end */
    size_t n_timers, timers_room;
    unsigned away; /* ldr_net_away_on_net() */

    /* net thread, http.c */
    struct http_slots starting; /* to be given to curl at the next turn, in this order */
    struct http_slots running;  /* curl's */
    struct http_slots ending;   /* cancelled inside a callback of curl, which forbids to remove them there */
    struct http_slots idle;
    unsigned n_idle;
    bool in_curl;        /* a callback of curl may be on the stack */
    int64_t curl_due_ns; /* when curl wants to be called without an event; LDR_NEVER */
    int64_t late_ns;     /* no request is out of time before */
    struct ldr_direct direct;
    bool take_over; /* a request of `running` has asked for its connection */
};

/* One turn: start what waits, let curl work, end what is complete or out of time. Returns when the next turn is due at
 * the latest (CLOCK_MONOTONIC; LDR_NEVER: when a socket or a post says so). */
int64_t ldr_http_turn_on_net(struct ldr_net *n);
/* The number of a socket in epoll's data, with this bit: not curl's (any more). */
#define LDR_EVENT_TAKEN (UINT64_C(1) << 63)
void ldr_http_taken_event_on_net(struct ldr_net *n, int fd);
/* A socket of curl's has `events` (of epoll). */
void ldr_http_event_on_net(struct ldr_net *n, int fd, uint32_t events);
/* Set curl up to tell of its sockets (n->epfd) and times. */
void ldr_http_setup(struct ldr_net *n);
/* End every request with CANCELLED and free the handles. */
void ldr_http_stop_on_net(struct ldr_net *n);

#endif
