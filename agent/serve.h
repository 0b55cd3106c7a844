/* serve.h - step 4 of a get: one short function per message. Each answers at once or leaves the request waiting on a
 * flight or a write. ipc thread only. */
#ifndef LDR_SERVE_H
#define LDR_SERVE_H

#include "agent/ipc.h"

/* r->msg is filled in. */
void ldr_serve(struct ldr_request *r);
/* Its time is up, or its client went away: whatever it waits for goes on without it. No reply is sent here. */
void ldr_serve_leave(struct ldr_request *r);

#endif
