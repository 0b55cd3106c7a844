/* task.c - see task.h. */
#include "common/task.h"
#include "common/clock.h"

void ldr_mailbox_init(struct ldr_mailbox *m, void (*wake)(void *user), void *user)
{
    pthread_condattr_t attr;

    *m = (struct ldr_mailbox){ .wake = wake, .user = user };
    m->tail = &m->head;
    pthread_mutex_init(&m->mtx, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->cond, &attr);
    pthread_condattr_destroy(&attr);
}

void ldr_mailbox_release(struct ldr_mailbox *m)
{
    pthread_mutex_destroy(&m->mtx);
    pthread_cond_destroy(&m->cond);
}

void ldr_mailbox_post(struct ldr_mailbox *m, struct ldr_task *t)
{
    void (*wake)(void *user) = m->wake;
    void *user = m->user;

    t->next = NULL;
    pthread_mutex_lock(&m->mtx);
    *m->tail = t;
    m->tail = &t->next;
    m->count++;
    pthread_cond_signal(&m->cond);
    pthread_mutex_unlock(&m->mtx);
    /* The mailbox is not touched any more: the task may have been the last one, after which its owner frees it. */
    if (wake)
        wake(user);
}

struct ldr_task *ldr_mailbox_take(struct ldr_mailbox *m, int64_t deadline_ns)
{
    struct ldr_task *t;

    pthread_mutex_lock(&m->mtx);
    while (!m->head && !m->closed && deadline_ns) {
        struct timespec at = { .tv_sec = deadline_ns / LDR_NS_PER_S, .tv_nsec = deadline_ns % LDR_NS_PER_S };

        if (deadline_ns == LDR_NEVER)
            pthread_cond_wait(&m->cond, &m->mtx);
        else if (pthread_cond_timedwait(&m->cond, &m->mtx, &at))
            break;
    }
    t = m->head;
    if (t) {
        m->head = t->next;
        if (!m->head)
            m->tail = &m->head;
        m->count--;
    }
    pthread_mutex_unlock(&m->mtx);
    return t;
}

void ldr_mailbox_close(struct ldr_mailbox *m)
{
    pthread_mutex_lock(&m->mtx);
    m->closed = true;
    pthread_cond_broadcast(&m->cond);
    pthread_mutex_unlock(&m->mtx);
    if (m->wake)
        m->wake(m->user);
}

bool ldr_mailbox_closed(struct ldr_mailbox *m)
{
    bool closed;

    pthread_mutex_lock(&m->mtx);
    closed = m->closed;
    pthread_mutex_unlock(&m->mtx);
    return closed;
}
