/* pool.h - a few threads for work that blocks: files, links, hashes of whole bodies. */
#ifndef LDR_POOL_H
#define LDR_POOL_H

#include "common/fail.h"
#include "common/task.h"

struct ldr_pool;

/* Starts `threads` threads. NO_MEMORY, INTERNAL. */
enum larder_kind ldr_pool_new(unsigned threads, struct ldr_pool **out, struct larder_err *err);
/* Runs what is queued, then joins the threads. Nobody posts any more. */
void ldr_pool_free(struct ldr_pool **p);
/* Any thread; never blocks. Tasks start in order and run side by side. */
void ldr_pool_post(struct ldr_pool *p, struct ldr_task *t);

#endif
