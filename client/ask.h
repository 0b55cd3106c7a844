/* ask.h - step 2 of a get: one request to the agent, its reply, its deadline. Also the pool of connections and the
 * number that tells a process from the one it was forked from. Any thread; blocks until the deadline at most. */
#ifndef LDR_ASK_H
#define LDR_ASK_H

#include "common/wire.h"

#include <stdatomic.h>

#define LDR_NO_WAIT INT64_MIN /* a deadline: the call may not ask at all */

struct larder;
struct ldr_conns;

/* Tells a process from its parent without asking for the pid (which two PID namespaces may share): a page that the
 * kernel wipes in a forked child. */
struct ldr_self {
    _Atomic uint64_t *token; /* owned; NULL: a kernel that cannot wipe, then the pid serves */
};

void ldr_self_init(struct ldr_self *s);
void ldr_self_release(struct ldr_self *s);
uint64_t ldr_self_token(const struct ldr_self *s); /* never 0 */

/* `socket_path` is copied. NULL: out of memory. */
struct ldr_conns *ldr_conns_new(const char *socket_path);
void ldr_conns_free(struct ldr_conns **p);

/* What may happen to a request whose connection breaks. */
enum ldr_ask_how {
    LDR_ASK_READ,  /* it is sent once more, on a new connection */
    LDR_ASK_WRITE, /* once a byte of it was sent, its failure is OUTCOME_UNKNOWN (also when time is over) */
};

/* Send `req` (op_id and timeout_ms are filled in here) and wait for its reply.
 *   out  on success owned by the caller, ended by larder__wire__reply__free_unpacked(…, NULL)
 * A reply that names another generation than the handle reads has it opened, before this returns.
 * TIMEOUT, also for LDR_NO_WAIT. NO_AGENT, DENIED, UNAVAILABLE, NO_MEMORY, OUTCOME_UNKNOWN; else what the agent says.
 */
enum larder_kind ldr_ask(struct larder *l, ldr_wire_request *req, enum ldr_ask_how how, int64_t deadline_ns,
                         ldr_wire_reply **out, struct larder_err *err);

/* The same for a request whose reply says no more than that it was done. */
enum larder_kind ldr_tell(struct larder *l, ldr_wire_request *req, enum ldr_ask_how how, int64_t deadline_ns,
                          struct larder_err *err);

/* UNAVAILABLE: a reply whose body is not one that the request can have. */
enum larder_kind ldr_answer_unknown(struct larder_err *err);

#endif
