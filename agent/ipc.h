/* ipc.h - steps 3 and 11 of a get: the endpoint. nng speaks nanomsg's REQ/REP over a unix socket; each request holds
 * one of its contexts from receive to reply. nng's callbacks run on its own threads and only queue to the ipc thread,
 * which runs everything else of a domain: it waits for tasks and for time, never for anything that blocks. */
#ifndef LDR_IPC_H
#define LDR_IPC_H

#include "agent/agent.h"
#include "agent/flight.h"
#include "agent/stage.h"
#include "agent/upload.h"
#include "common/wire.h"

#define LDR_CONTEXTS_FIRST 64
#define LDR_CONTEXTS_MAX   8192

/* One request on its way through the agent. ipc thread; what nng holds is private to ipc.c. */
struct ldr_request {
    struct ldr_task task;
    struct ldr_domain *domain;
    struct ldr_request *prev, *next; /* among those that wait */
    ldr_wire_request *msg;           /* owned; NULL while none is here */
    struct ldr_name *name;           /* set by serve.c where there is a key */
    int64_t deadline_ns;
    bool waiting; /* it may time out, or its client may go away */
    struct ldr_waiter waiter;
    struct ldr_write_waiter write_waiter;
    struct ldr_part part;
    struct ldr_stage_waiter stage_waiter;
    struct ldr_deletes *deletes; /* DeleteMany; owned, in serve_put.c */
    struct ldr_sign_job *sign;   /* Sign; in serve_put.c */
    struct ldr_many *many;       /* GetMany; owned. In serve_get.c */
    char why[200];               /* why the object is not in the cache, for a reply with bytes */
};
void ldr_many_free(struct ldr_many **m);

/* Bind the socket (its directory is made, its mode and group set) and start the thread. EXISTS: somebody listens there
 * already. INVALID: the path is too long. IO. */
enum larder_kind ldr_ipc_new(struct ldr_domain *d, struct ldr_ipc **out, struct larder_err *err);
/* Once a second: sees to it that the endpoint accepts connections. Main thread. */
void ldr_ipc_watch(struct ldr_ipc *ipc);
/* No new requests are taken; what waits goes on. Main thread. */
void ldr_ipc_quiesce(struct ldr_ipc *ipc);
/* Let the thread finish what waits (nets must have ended their requests by then), join it. Main thread. */
void ldr_ipc_stop(struct ldr_ipc *ipc);
/* The same, and close the endpoint. False: that takes too long; it is left open with all that its threads may still
 * touch, the domain too, and the process should end. Main thread. */
bool ldr_ipc_free(struct ldr_ipc **ipc);
const char *ldr_ipc_path(const struct ldr_ipc *ipc);
/* The connection by which the request came. ipc thread. */
uint32_t ldr_ipc_connection(struct ldr_request *r);
/* Contexts made, and how many hold a request. ipc thread. */
void ldr_ipc_usage(const struct ldr_ipc *ipc, unsigned *made, unsigned *busy);

/* The request waits on its waiter or write_waiter until ldr_ipc_reply(), its deadline, or its client's end. ipc thread.
 */
void ldr_ipc_wait(struct ldr_request *r);
/* It waits no more, and is answered soon, whoever still listens: from now on nothing takes it away. ipc thread. */
void ldr_ipc_unwait(struct ldr_request *r);
/* Answer; the request is over. ipc thread, once. */
void ldr_ipc_reply(struct ldr_request *r, const ldr_wire_reply *reply);
void ldr_ipc_reply_fail(struct ldr_request *r, enum larder_kind kind, const struct larder_err *err);

#endif
