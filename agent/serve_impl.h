/* serve_impl.h - what the files of serve share. ipc thread only. */
#ifndef LDR_SERVE_IMPL_H
#define LDR_SERVE_IMPL_H

#include "agent/ipc.h"

void ldr_serve_get(struct ldr_request *r);
void ldr_serve_get_many(struct ldr_request *r);
void ldr_serve_put(struct ldr_request *r);
void ldr_serve_delete(struct ldr_request *r);
void ldr_serve_copy(struct ldr_request *r);
void ldr_serve_part(struct ldr_request *r);
void ldr_serve_abort(struct ldr_request *r);
void ldr_serve_upload_open(struct ldr_request *r);
void ldr_serve_upload_block(struct ldr_request *r);
void ldr_serve_upload_data(struct ldr_request *r);
void ldr_serve_upload_seal(struct ldr_request *r);
void ldr_serve_upload_commit(struct ldr_request *r);
void ldr_serve_delete_many(struct ldr_request *r);
void ldr_serve_sign(struct ldr_request *r);
/* The request waits for its deletes, its URL, no more. */
void ldr_serve_leave_deletes(struct ldr_request *r);
void ldr_serve_leave_sign(struct ldr_request *r);
void ldr_serve_status(struct ldr_request *r);
void ldr_serve_why(struct ldr_request *r);

#endif
