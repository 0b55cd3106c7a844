/* attempt.c - see attempt.h. */
#include "agent/attempt.h"
#include "agent/pace.h"
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

static uint32_t dice(void)
{
    uint32_t random = 0;

    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random)
        random = (uint32_t)ldr_mono_ns();
    return random;
}

static void end(struct ldr_attempt *a)
{
    enum larder_kind kind = a->op.kind;

    if (kind && kind != LARDER_NOT_FOUND && kind != LARDER_CANCELLED)
        ldr_count(a->counters, store_failures, 1);
    a->done(a);
}

static void start_on_net(struct ldr_task *t)
{
    struct ldr_attempt *a = LDR_CONTAINER(t, struct ldr_attempt, timer);

    if (a->tries > 0)
        ldr_op_rearm(&a->op);
    ldr_op_start_on_net(&a->op);
}

/* As soon as the store's pace allows it. Until then the op keeps the outcome of the attempt before. */
static void submit_on_net(struct ldr_task *t)
{
    struct ldr_attempt *a = LDR_CONTAINER(t, struct ldr_attempt, timer);
    struct ldr_op *op = &a->op;
    struct ldr_net *net = op->backend->env.net;
    enum ldr_pace_answer answer = LDR_PACE_GO;
    uint32_t wait = 0;

    if (op->backend->pace && !ldr_net_stopping(net))
        answer = ldr_pace_send(op->backend->pace, op->container, ldr_mono_ns(), op->deadline_ns, dice(), &wait);
    if (answer == LDR_PACE_LATE) {
        if (a->tries == 0)
            op->kind = ldr_fail(&op->err, LARDER_TIMEOUT,
                                "no time left for \"%s\": its store asks for fewer requests a second", op->uri);
        end(a);
        return;
    }
    t->run = answer == LDR_PACE_ASK ? submit_on_net : start_on_net;
    if (wait > 0)
        ldr_net_after_on_net(net, wait, t);
    else
        t->run(t);
}

static void arm_on_net(struct ldr_task *t)
{
    struct ldr_attempt *a = LDR_CONTAINER(t, struct ldr_attempt, timer);

    t->run = submit_on_net;
    ldr_net_after_on_net(a->op.backend->env.net, a->wait_ms, t);
}

/* Is another attempt of any use, and is there time for it? */
static bool useful(struct ldr_attempt *a)
{
    const struct ldr_op *op = &a->op;

    if (!ldr_kind_retry(op->kind) || a->tries >= LDR_TRIES_MAX || (a->was_sent && a->once_sent_is_final) ||
        ldr_net_stopping(op->backend->env.net))
        return false;
    a->wait_ms = ldr_attempt_backoff_ms(a->tries, op->retry_after_ms, dice());
    return op->deadline_ns == LDR_NEVER || ldr_mono_ns() + a->wait_ms * LDR_NS_PER_MS < op->deadline_ns;
}

/* Tell the store's pace how it went; true: there is to be another attempt. */
static bool again(struct ldr_attempt *a)
{
    const struct ldr_op *op = &a->op;
    struct ldr_pace *pace = op->backend->pace;
    bool silent = op->err.http == 0 && op->kind != LARDER_CORRUPT;

    if (op->throttled) {
        a->throttled = true;
        ldr_count(a->counters, store_throttled, 1);
        if (pace)
            ldr_pace_throttled(pace, op->container, ldr_mono_ns());
    }
    if (pace && !ldr_kind_retry(op->kind) && op->kind != LARDER_CANCELLED)
        ldr_pace_success(pace);
    if (!useful(a))
        return false;
    if (!pace || ldr_pace_retry(pace, silent))
        return true;
    ldr_count(a->counters, retries_denied, 1);
    return false;
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
    case LDR_OP_UPLOAD_BEGIN:
    case LDR_OP_UPLOAD_PART:
    case LDR_OP_UPLOAD_END:
    case LDR_OP_MAKE_CONTAINER:
        ldr_count(a->counters, store_puts, op->requests);
        break;
    case LDR_OP_DELETE:
    case LDR_OP_DELETE_MANY:
    case LDR_OP_UPLOAD_ABORT:
        ldr_count(a->counters, store_deletes, op->requests);
        break;
    case LDR_OP_LIST:
        ldr_count(a->counters, store_lists, op->requests);
        break;
    case LDR_OP_COPY:
    case LDR_OP_UPLOAD_COPY:
        ldr_count(a->counters, store_copies, op->requests);
        break;
    case LDR_OP_SIGN:
    case LDR_OP_WHATS:
        break;
    }
    ldr_count(a->counters, store_bytes_in, op->bytes_in);
    ldr_count(a->counters, store_bytes_out, op->bytes_out);
    op->requests = 0;
    op->bytes_in = op->bytes_out = 0;
}

/* Another write of the same object was under way, and this one was not carried out (S3: ConditionalRequestConflict,
 * OperationAborted). */
static bool lost_a_race(const struct ldr_op *op)
{
    return op->err.http == 409;
}

/* A failure after the request left may have changed the store all the same. */
static bool outcome_unknown(const struct ldr_op *op)
{
    if (!op->sent || op->err.http == 429 || op->err.http == 503 || lost_a_race(op))
        return false;
    return op->kind == LARDER_UNAVAILABLE || op->kind == LARDER_TIMEOUT || op->kind == LARDER_CANCELLED ||
           op->kind == LARDER_CORRUPT || op->kind == LARDER_INTERNAL;
}

static void attempt_done(struct ldr_op *op)
{
    struct ldr_attempt *a = op->user;

    count(a);
    a->tries++;
    a->was_sent |= op->sent && !lost_a_race(op);
    a->unsure |= outcome_unknown(op);
    if (again(a)) {
        ldr_log(LDR_DEBUG, "fetch", "trying again uri=\"%s\" try=%u kind=%s reason=\"%s\"", op->uri, a->tries,
                larder_kind_name(op->kind), op->err.msg);
        ldr_count(a->counters, store_retries, 1);
        a->timer.run = arm_on_net; /* the op may have ended on the pool */
        ldr_net_post(op->backend->env.net, &a->timer);
    } else {
        end(a);
    }
}

void ldr_attempt_start(struct ldr_attempt *a)
{
    a->tries = 0;
    a->was_sent = a->unsure = a->throttled = false;
    a->op.done = attempt_done;
    a->op.user = a;
    a->timer.run = submit_on_net;
    ldr_net_post(a->op.backend->env.net, &a->timer);
}
