/* serve_impl.h - what the files of serve share. ipc thread only. */
#ifndef LDR_SERVE_IMPL_H
#define LDR_SERVE_IMPL_H

#include "agent/ipc.h"

void ldr_serve_get(struct ldr_request *r);
void ldr_serve_get_many(struct ldr_request *r);
void ldr_serve_status(struct ldr_request *r);
void ldr_serve_why(struct ldr_request *r);

#endif
