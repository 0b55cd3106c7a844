/* attempt.c - see attempt.h. */
#include "agent/attempt.h"
#include "common/clock.h"
#include "common/log.h"

#include <sys/random.h>

#define BACKOFF_FIRST_MS 50u
#define BACKOFF_MAX_MS   2000u

uint32_t ldr_attempt_backoff_ms(unsigned tries, uint32_t retry_after_ms, uint32_t random)
{
    uint32_t cap = tries > 6 ? BACKOFF_MAX_MS : BACKOFF_FIRST_MS << (tries ? tries - 1 : 0);
    uint32_t wait = random % ((cap > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : cap) + 1);

    return wait > retry_after_ms ? wait : retry_after_ms;
}

static void submit_on_net(struct ldr_task *t)
{
    ldr_op_start_on_net(&LDR_CONTAINER(t, struct ldr_attempt, timer)->op);
}

static void arm_on_net(struct ldr_task *t)
{
    struct ldr_attempt *a = LDR_CONTAINER(t, struct ldr_attempt, timer);
    uint32_t random = 0, wait;

    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random)
        random = (uint32_t)ldr_mono_ns();
    wait = ldr_attempt_backoff_ms(a->tries, a->op.retry_after_ms, random);
    ldr_op_rearm(&a->op);
    t->run = submit_on_net;
    ldr_net_after_on_net(a->op.backend->env.net, wait, t);
}

static bool again(const struct ldr_attempt *a)
{
    const struct ldr_op *op = &a->op;

    return ldr_kind_retry(op->kind) && a->tries < LDR_TRIES_MAX && !(a->was_sent && a->once_sent_is_final) &&
           !ldr_net_stopping(op->backend->env.net) &&
           (op->deadline_ns == LDR_NEVER ||
            ldr_mono_ns() + (int64_t)op->retry_after_ms * LDR_NS_PER_MS < op->deadline_ns);
}

static void count(struct ldr_attempt *a)
{
    struct ldr_op *op = &a->op;

    switch (op->what) {
    case LDR_OP_GET:
        ldr_count(a->counters, store_gets, op->requests);
        break;
    case LDR_OP_HEAD:
        ldr_count(a->counters, store_heads, op->requests);
        break;
    case LDR_OP_PUT:
        ldr_count(a->counters, store_puts, op->requests);
        break;
    case LDR_OP_DELETE:
        ldr_count(a->counters, store_deletes, op->requests);
        break;
    case LDR_OP_LIST:
        ldr_count(a->counters, store_lists, op->requests);
        break;
    case LDR_OP_COPY:
        ldr_count(a->counters, store_copies, op->requests);
        break;
    case LDR_OP_WHATS:
        break;
    }
    ldr_count(a->counters, store_bytes_in, op->bytes_in);
    ldr_count(a->counters, store_bytes_out, op->bytes_out);
    op->requests = 0;
    op->bytes_in = op->bytes_out = 0;
}

/* A failure after the request left may have changed the store all the same. */
static bool outcome_unknown(const struct ldr_op *op)
{
    if (!op->sent || op->err.http == 429 || op->err.http == 503)
        return false;
    return op->kind == LARDER_UNAVAILABLE || op->kind == LARDER_TIMEOUT || op->kind == LARDER_CANCELLED ||
           op->kind == LARDER_CORRUPT || op->kind == LARDER_INTERNAL;
}

static void attempt_done(struct ldr_op *op)
{
    struct ldr_attempt *a = op->user;

    count(a);
    a->tries++;
    a->was_sent |= op->sent;
    a->unsure |= outcome_unknown(op);
    if (again(a)) {
        ldr_log(LDR_DEBUG, "fetch", "trying again uri=\"%s\" try=%u kind=%s reason=\"%s\"", op->uri, a->tries,
                larder_kind_name(op->kind), op->err.msg);
        ldr_count(a->counters, store_retries, 1);
        a->timer.run = arm_on_net; /* the op may have ended on the pool */
        ldr_net_post(op->backend->env.net, &a->timer);
        return;
    }
    if (op->kind && op->kind != LARDER_NOT_FOUND && op->kind != LARDER_CANCELLED)
        ldr_count(a->counters, store_failures, 1);
    a->done(a);
}

void ldr_attempt_start(struct ldr_attempt *a)
{
    a->tries = 0;
    a->was_sent = a->unsure = false;
    a->op.done = attempt_done;
    a->op.user = a;
    a->timer.run = submit_on_net;
    ldr_net_post(a->op.backend->env.net, &a->timer);
}
