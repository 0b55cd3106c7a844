/* pool.c - see pool.h. */
#include "backends/pool.h"
#include "common/clock.h"

#include <stdlib.h>

struct ldr_pool {
    struct ldr_mailbox box;
    unsigned n;
    pthread_t threads[];
};

static void *work(void *user)
{
    struct ldr_pool *p = user;
    struct ldr_task *t;

    while ((t = ldr_mailbox_take(&p->box, LDR_NEVER)))
        t->run(t);
    return NULL;
}

enum larder_kind ldr_pool_new(unsigned threads, struct ldr_pool **out, struct larder_err *err)
{
    struct ldr_pool *p = calloc(1, sizeof *p + threads * sizeof p->threads[0]);
    int rc = 0;

    if (!p)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a pool of %u threads", threads);
    ldr_mailbox_init(&p->box, NULL, NULL);
    while (p->n < threads && (rc = pthread_create(&p->threads[p->n], NULL, work, p)) == 0)
        p->n++;
    if (p->n < threads) {
        ldr_pool_free(&p);
        return ldr_fail(err, LARDER_INTERNAL, "could not start a pool thread: error %d", rc);
    }
    *out = p;
    return LARDER_OK;
}

void ldr_pool_free(struct ldr_pool **p)
{
    if (!*p)
        return;
    ldr_mailbox_close(&(*p)->box);
    for (unsigned i = 0; i < (*p)->n; i++)
        pthread_join((*p)->threads[i], NULL);
    ldr_mailbox_release(&(*p)->box);
    free(*p);
    *p = NULL;
}

void ldr_pool_post(struct ldr_pool *p, struct ldr_task *t)
{
    ldr_mailbox_post(&p->box, t);
}
