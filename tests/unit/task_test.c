/* task_test.c - the mailbox: order, deadlines, closing, wake-ups. */
#include "common/task.h"
#include "common/clock.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdatomic.h>
#include <stdlib.h>

TestSuite(task, .timeout = 30);

struct work {
    int number;
    struct ldr_task task;
};

static int number_of(struct ldr_task *t)
{
    return t ? LDR_CONTAINER(t, struct work, task)->number : -1;
}

Test(task, tasks_come_out_in_the_order_posted)
{
    struct ldr_mailbox m;
    struct work w[100];

    ldr_mailbox_init(&m, NULL, NULL);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++) {
            w[i].number = i;
            ldr_mailbox_post(&m, &w[i].task);
        }
        for (int i = 0; i < 100; i++)
            cr_assert(eq(int, number_of(ldr_mailbox_take(&m, 0)), i));
        cr_assert(eq(int, number_of(ldr_mailbox_take(&m, 0)), -1), "empty, and ready for the next round");
    }
    ldr_mailbox_release(&m);
}

Test(task, posting_between_takes_keeps_the_order)
{
    struct ldr_mailbox m;
    struct work a = { .number = 1 }, b = { .number = 2 }, c = { .number = 3 };

    ldr_mailbox_init(&m, NULL, NULL);
    ldr_mailbox_post(&m, &a.task);
    ldr_mailbox_post(&m, &b.task);
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), 1));
    ldr_mailbox_post(&m, &c.task);
    ldr_mailbox_post(&m, &a.task);
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), 2));
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), 3));
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), 1));
    ldr_mailbox_release(&m);
}

Test(task, a_take_waits_to_its_deadline_and_no_less)
{
    struct ldr_mailbox m;
    int64_t deadline = ldr_deadline_ns(30);

    ldr_mailbox_init(&m, NULL, NULL);
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, deadline)), -1));
    cr_expect(ge(i64, ldr_mono_ns(), deadline));
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, deadline)), -1), "a deadline in the past does not wait");
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, 0)), -1));
    ldr_mailbox_release(&m);
}

Test(task, a_deadline_in_the_past_still_takes_what_is_there)
{
    struct ldr_mailbox m;
    struct work a = { .number = 1 }, b = { .number = 2 };

    ldr_mailbox_init(&m, NULL, NULL);
    ldr_mailbox_post(&m, &a.task);
    ldr_mailbox_post(&m, &b.task);
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, 1)), 1));
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, -5)), 2));
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, -5)), -1));
    ldr_mailbox_release(&m);
}

static void *post_one(void *arg)
{
    struct ldr_mailbox *m = arg;
    static struct work w = { .number = 7 };

    ldr_mailbox_post(m, &w.task);
    return NULL;
}

Test(task, a_waiting_take_is_woken_by_a_post)
{
    struct ldr_mailbox m;
    pthread_t thread;

    ldr_mailbox_init(&m, NULL, NULL);
    cr_assert(eq(int, pthread_create(&thread, NULL, post_one, &m), 0));
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), 7));
    pthread_join(thread, NULL);
    ldr_mailbox_release(&m);
}

static void *close_it(void *arg)
{
    ldr_mailbox_close(arg);
    return NULL;
}

static void *take_forever(void *arg)
{
    return ldr_mailbox_take(arg, LDR_NEVER);
}

Test(task, closing_wakes_every_waiting_taker)
{
    struct ldr_mailbox m;
    pthread_t takers[3], closer;
    void *got;

    ldr_mailbox_init(&m, NULL, NULL);
    for (size_t i = 0; i < 3; i++)
        cr_assert(eq(int, pthread_create(&takers[i], NULL, take_forever, &m), 0));
    cr_assert(eq(int, pthread_create(&closer, NULL, close_it, &m), 0));
    for (size_t i = 0; i < 3; i++) {
        pthread_join(takers[i], &got);
        cr_expect(eq(ptr, got, NULL));
    }
    pthread_join(closer, NULL);
    ldr_mailbox_release(&m);
}

Test(task, a_closed_mailbox_is_drained_and_then_empty_at_once)
{
    struct ldr_mailbox m;
    struct work a = { .number = 1 }, b = { .number = 2 };

    ldr_mailbox_init(&m, NULL, NULL);
    cr_expect(not(ldr_mailbox_closed(&m)));
    ldr_mailbox_post(&m, &a.task);
    ldr_mailbox_close(&m);
    ldr_mailbox_close(&m);
    cr_expect(ldr_mailbox_closed(&m));
    ldr_mailbox_post(&m, &b.task);
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), 1));
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), 2), "posted after closing: still there");
    cr_expect(eq(int, number_of(ldr_mailbox_take(&m, LDR_NEVER)), -1));
    ldr_mailbox_release(&m);
}

static void count(void *user)
{
    ++*(int *)user;
}

Test(task, a_taker_that_waits_elsewhere_is_woken_by_each_post_and_by_closing)
{
    struct ldr_mailbox m;
    struct work a = { 0 }, b = { 0 };
    int woken = 0;

    ldr_mailbox_init(&m, count, &woken);
    ldr_mailbox_post(&m, &a.task);
    ldr_mailbox_post(&m, &b.task);
    cr_expect(eq(int, woken, 2));
    ldr_mailbox_close(&m);
    cr_expect(eq(int, woken, 3));
    ldr_mailbox_release(&m);
}

#define POSTERS 4
#define EACH    2000

struct poster {
    struct ldr_mailbox *m;
    struct work work[EACH];
};

static void *post_many(void *arg)
{
    struct poster *p = arg;

    for (int i = 0; i < EACH; i++)
        ldr_mailbox_post(p->m, &p->work[i].task);
    return NULL;
}

Test(task, of_many_posters_each_keeps_its_order_and_nothing_is_lost)
{
    struct poster *p = calloc(POSTERS, sizeof *p);
    struct ldr_mailbox m;
    pthread_t threads[POSTERS];
    int next[POSTERS] = { 0 };

    ldr_mailbox_init(&m, NULL, NULL);
    for (int i = 0; i < POSTERS; i++) {
        p[i].m = &m;
        for (int j = 0; j < EACH; j++)
            p[i].work[j].number = i * EACH + j;
        cr_assert(eq(int, pthread_create(&threads[i], NULL, post_many, &p[i]), 0));
    }
    for (int n = 0; n < POSTERS * EACH; n++) {
        int number = number_of(ldr_mailbox_take(&m, ldr_deadline_ns(20000)));

        cr_assert(ge(int, number, 0));
        cr_assert(eq(int, number % EACH, next[number / EACH]++));
    }
    cr_expect(eq(ptr, ldr_mailbox_take(&m, 0), NULL));
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    ldr_mailbox_release(&m);
    free(p);
}
