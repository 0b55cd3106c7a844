/* sp_nanomsg_test.c - client/sp.c against a stock libnanomsg REP socket: thousands of exchanges, several connections,
 * a REP that starts anew, stays silent, answers late, too much, or is none. The other direction, a stock REQ socket
 * against the agent, is in tests/e2e/ipc_test.c. */
#include "client/sp.h"
#include "common/clock.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <nanomsg/nn.h>
#include <nanomsg/pair.h>
#include <nanomsg/pipeline.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXCHANGES   5000
#define CONNECTIONS 8
#define BODY_MAX    (200 * 1024)
#define LONG_MS     20000
#define SHORT_MS    50
#define FLIP        0x5a /* what an echo does to each byte: no reply looks like its request */

/* The first byte of a request says what the REP does with it. */
enum { ECHO = 'e', ECHO_LATE = 'l' /* after `go` */, LEAVE = 'x' /* unanswered */, FLOOD = 'f' /* over the limit */ };

static struct {
    char dir[TEST_DIR_MAX], url[TEST_DIR_MAX + 16];
    const char *path; /* in `url` */
    int s;
    pthread_t thread;
    sem_t got, go; /* an ECHO_LATE has arrived; is to be answered */
} rep;

static void *serve(void *user)
{
    uint8_t *p = NULL;
    int n;

    (void)user;
    while ((n = nn_recv(rep.s, &p, NN_MSG, 0)) >= 0) {
        uint8_t what = n > 0 ? p[0] : ECHO;

        if (what == LEAVE)
            break;
        if (what == ECHO_LATE) {
            sem_post(&rep.got);
            while (sem_wait(&rep.go))
                ;
        }
        if (what == FLOOD) {
            nn_freemsg(p);
            n = LDR_WIRE_REPLY_MAX + 1;
            p = nn_allocmsg((size_t)n, 0);
            memset(p, 0, (size_t)n);
        }
        for (int i = 0; i < n; i++)
            p[i] ^= FLIP;
        if (nn_send(rep.s, &p, NN_MSG, 0) < 0)
            break;
        p = NULL;
    }
    if (p)
        nn_freemsg(p);
    nn_close(rep.s);
    return NULL;
}

static int bound(int protocol)
{
    int s = nn_socket(AF_SP, protocol);

    cr_assert(s >= 0 && nn_bind(s, rep.url) >= 0, "%s", nn_strerror(nn_errno()));
    return s;
}

static void start(void)
{
    rep.s = bound(NN_REP);
    cr_assert(eq(int, pthread_create(&rep.thread, NULL, serve, NULL), 0));
}

static void enter(void)
{
    test_dir_make(rep.dir);
    snprintf(rep.url, sizeof rep.url, "ipc://%s/s", rep.dir);
    rep.path = rep.url + strlen("ipc://");
    sem_init(&rep.got, 0, 0);
    sem_init(&rep.go, 0, 0);
}

static void leave(void)
{
    test_dir_remove(rep.dir);
}

TestSuite(sp_nanomsg, .init = enter, .fini = leave, .timeout = 60);

/* ---- one client ---- */

static void connect_to(struct ldr_sp *c)
{
    struct larder_err err = { 0 };

    cr_assert(eq(int, ldr_sp_connect(c, rep.path, ldr_deadline_ns(LONG_MS), &err), LARDER_OK), "%s", err.msg);
}

/* An exchange; its reply is dropped. */
static enum larder_kind exchange(struct ldr_sp *c, const void *p, size_t n, int timeout_ms, enum ldr_sp_reach *reach,
                                 bool *lost)
{
    struct larder_err err = { 0 };
    uint8_t *reply = NULL;
    size_t len;
    enum larder_kind k = ldr_sp_exchange(c, p, n, ldr_deadline_ns(timeout_ms), &reply, &len, reach, lost, &err);

    free(reply);
    return k;
}

static bool flipped(const uint8_t *reply, const uint8_t *body, size_t n)
{
    uint8_t wrong = 0;

    for (size_t i = 0; i < n; i++)
        wrong |= reply[i] ^ body[i] ^ FLIP;
    return !wrong;
}

static bool echoes(struct ldr_sp *c, const uint8_t *body, size_t n)
{
    struct larder_err err = { 0 };
    enum ldr_sp_reach reach;
    bool lost, same;
    uint8_t *reply;
    size_t len;

    if (ldr_sp_exchange(c, body, n, ldr_deadline_ns(LONG_MS), &reply, &len, &reach, &lost, &err)) {
        fprintf(stderr, "exchange of %zu bytes: %s\n", n, err.msg);
        return false;
    }
    same = len == n && flipped(reply, body, n) && reach == LDR_SP_SENT && !lost;
    free(reply);
    return same;
}

/* The peer goes: it is told to, and its thread ends. */
static void stop(void)
{
    struct ldr_sp c;
    enum ldr_sp_reach reach;
    bool lost;

    connect_to(&c);
    cr_expect(eq(int, exchange(&c, "x", 1, LONG_MS, &reach, &lost), LARDER_UNAVAILABLE));
    cr_expect(lost, "it left without an answer");
    cr_expect(eq(int, reach, LDR_SP_SENT));
    ldr_sp_close(&c);
    pthread_join(rep.thread, NULL);
}

static uint64_t rnd(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

struct client {
    uint64_t seed;
    int exchanges, good;
    pthread_t thread;
};

/* Exchanges on one connection: of 0 to BODY_MAX bytes, one in eight of them large. */
static void *run_client(void *user)
{
    struct client *me = user;
    uint8_t *body = malloc(BODY_MAX);
    struct ldr_sp c;
    struct larder_err err;

    for (size_t i = 0; i < BODY_MAX; i++)
        body[i] = (uint8_t)rnd(&me->seed);
    body[0] = ECHO;
    if (ldr_sp_connect(&c, rep.path, ldr_deadline_ns(LONG_MS), &err))
        goto done;
    for (int i = 0; i < me->exchanges; i++) {
        size_t n = i == 0 ? 0 : i == 1 ? BODY_MAX : rnd(&me->seed) % (i % 8 ? 2000 : BODY_MAX + 1);

        if (n > sizeof me->seed) /* each request differs from the one before, whose reply is then not its own */
            memcpy(body + n - sizeof me->seed, &me->seed, sizeof me->seed);
        body[0] = ECHO;
        me->good += echoes(&c, body, n);
    }
    ldr_sp_close(&c);
done:
    free(body);
    return NULL;
}

Test(sp_nanomsg, five_thousand_requests_of_any_size_get_their_own_replies)
{
    struct client c = { .seed = 20240601, .exchanges = EXCHANGES };

    start();
    run_client(&c);
    cr_expect(eq(int, c.good, EXCHANGES));
    stop();
}

Test(sp_nanomsg, several_connections_at_once_get_each_their_own_replies)
{
    struct client c[CONNECTIONS];

    start();
    for (int i = 0; i < CONNECTIONS; i++) {
        c[i] = (struct client){ .seed = 1000 + (uint64_t)i, .exchanges = EXCHANGES / CONNECTIONS };
        cr_assert(eq(int, pthread_create(&c[i].thread, NULL, run_client, &c[i]), 0));
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        pthread_join(c[i].thread, NULL);
        cr_expect(eq(int, c[i].good, EXCHANGES / CONNECTIONS), "connection %d", i);
    }
    stop();
}

/* ---- a REP that is not there all the time ---- */

Test(sp_nanomsg, a_rep_that_starts_anew_is_a_lost_connection_and_then_served_on_a_new_one)
{
    for (int round = 0; round < 5; round++) {
        struct ldr_sp idle, c;
        struct larder_err err = { 0 };
        enum ldr_sp_reach reach;
        bool lost = false;

        start();
        connect_to(&idle);
        cr_expect(echoes(&idle, (const uint8_t *)"e1", 2));
        cr_expect(ldr_sp_usable(&idle));
        stop();
        cr_expect(eq(int, ldr_sp_connect(&c, rep.path, ldr_deadline_ns(LONG_MS), &err), LARDER_NO_AGENT), "nobody");
        start();
        cr_expect(not(ldr_sp_usable(&idle)), "the pool would not take it");
        cr_expect(eq(int, exchange(&idle, "e2", 2, LONG_MS, &reach, &lost), LARDER_UNAVAILABLE));
        cr_expect(lost, "another connection may do better");
        ldr_sp_close(&idle);
        connect_to(&c);
        cr_expect(echoes(&c, (const uint8_t *)"e3", 2));
        ldr_sp_close(&c);
        stop();
    }
}

/* ---- a REP that is silent, and late ---- */

/* Send a request that is answered only when `go` says so, and run out of time. */
static void time_out(struct ldr_sp *c)
{
    int64_t before = ldr_mono_ns();
    enum ldr_sp_reach reach = LDR_SP_UNSENT;
    bool lost = true;

    cr_assert(eq(int, exchange(c, "late", 4, SHORT_MS, &reach, &lost), LARDER_TIMEOUT));
    cr_expect(ge(long, ldr_mono_ns() - before, SHORT_MS * LDR_NS_PER_MS));
    cr_expect(lt(long, ldr_mono_ns() - before, LONG_MS * LDR_NS_PER_MS / 2));
    cr_expect(eq(int, reach, LDR_SP_SENT));
    cr_expect(not(lost), "the connection did not break");
    while (sem_wait(&rep.got))
        ;
}

Test(sp_nanomsg, a_silent_rep_is_a_timeout_and_its_late_reply_meets_nobody)
{
    struct ldr_sp c;

    start();
    for (int i = 0; i < 20; i++) { /* closed as the header wants, and the next request is on a new connection */
        connect_to(&c);
        time_out(&c);
        ldr_sp_close(&c);
        connect_to(&c);
        sem_post(&rep.go);
        cr_expect(echoes(&c, (const uint8_t *)"e-next", 6));
        ldr_sp_close(&c);
    }
    stop();
}

Test(sp_nanomsg, a_late_reply_is_not_taken_for_that_of_the_next_request_on_its_connection)
{
    struct larder_err err = { 0 };
    enum ldr_sp_reach reach;
    bool lost = true;
    struct ldr_sp c;
    uint8_t *reply = NULL;
    size_t len;

    start();
    connect_to(&c);
    time_out(&c);
    sem_post(&rep.go);
    cr_expect(eq(int, ldr_sp_exchange(&c, "e-next", 6, ldr_deadline_ns(LONG_MS), &reply, &len, &reach, &lost, &err),
                 LARDER_UNAVAILABLE),
              "the reply that comes first is of another request");
    cr_expect(zero(ptr, reply));
    cr_expect(not(lost));
    ldr_sp_close(&c);
    stop();
}

Test(sp_nanomsg, a_connection_with_a_late_reply_in_it_is_not_usable)
{
    struct ldr_sp c, other;

    start();
    connect_to(&c);
    time_out(&c);
    cr_expect(ldr_sp_usable(&c), "nothing came yet");
    sem_post(&rep.go);
    connect_to(&other);
    cr_expect(echoes(&other, (const uint8_t *)"e", 1), "the REP is done with the late one before");
    for (int64_t until = ldr_deadline_ns(LONG_MS); ldr_sp_usable(&c) && ldr_left_ms(until);)
        sched_yield(); /* two connections: the reply may be still on its way */
    cr_expect(not(ldr_sp_usable(&c)));
    ldr_sp_close(&other);
    ldr_sp_close(&c);
    stop();
}

/* ---- limits, and other sockets ---- */

Test(sp_nanomsg, a_reply_over_the_limit_is_refused)
{
    enum ldr_sp_reach reach;
    bool lost = true;
    struct ldr_sp c;

    start();
    connect_to(&c);
    cr_expect(eq(int, exchange(&c, "flood", 5, LONG_MS, &reach, &lost), LARDER_UNAVAILABLE));
    cr_expect(not(lost));
    ldr_sp_close(&c);
    connect_to(&c);
    cr_expect(echoes(&c, (const uint8_t *)"e", 1), "the REP goes on");
    ldr_sp_close(&c);
    stop();
}

Test(sp_nanomsg, a_request_over_the_limit_of_the_rep_is_a_lost_connection)
{
    int limit = 10000;
    uint8_t *body = calloc(1, BODY_MAX);
    enum ldr_sp_reach reach;
    bool lost = false;
    struct ldr_sp c;

    start();
    cr_assert(eq(int, nn_setsockopt(rep.s, NN_SOL_SOCKET, NN_RCVMAXSIZE, &limit, sizeof limit), 0));
    connect_to(&c);
    body[0] = ECHO;
    cr_expect(echoes(&c, body, 9000));
    cr_expect(eq(int, exchange(&c, body, BODY_MAX, LONG_MS, &reach, &lost), LARDER_UNAVAILABLE));
    cr_expect(lost);
    ldr_sp_close(&c);
    free(body);
    stop();
}

Test(sp_nanomsg, sockets_of_other_protocols_are_refused)
{
    static const int other[] = { NN_REQ, NN_PAIR, NN_PUB, NN_PULL };

    for (size_t i = 0; i < LDR_ARRAY_LEN(other); i++) {
        int s = bound(other[i]);
        struct ldr_sp c;
        struct larder_err err = { 0 };

        cr_expect(eq(int, ldr_sp_connect(&c, rep.path, ldr_deadline_ns(LONG_MS), &err), LARDER_UNAVAILABLE),
                  "protocol %d", other[i]);
        cr_expect(eq(int, c.fd, -1));
        nn_close(s);
    }
}
