/* net.c - the net thread: what is posted, what is due, what curl has to do, then sleep until one of them (net.h). */
#include "backends/transport/net.h"
#include "backends/transport/net_int.h"
#include "common/clock.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_MAX 64 /* of one turn */

/* libcurl keeps state of the process; its set-up is done once and never undone. */
static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_ready;

static void curl_setup(void)
{
    curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static void *net_main(void *user);

static void net_release(struct ldr_net *n)
{
    if (n->multi)
        curl_multi_cleanup(n->multi); /* tells of its sockets once more: before epfd goes */
    ldr_direct_release(&n->direct);
    if (n->epfd != -1)
        close(n->epfd);
    if (n->wakefd != -1)
        close(n->wakefd);
    free(n);
}

/* Under mtx. */
static void wake(struct ldr_net *n)
{
    eventfd_write(n->wakefd, 1);
}

enum larder_kind ldr_net_new(const struct ldr_net_cfg *cfg, struct ldr_net **out, struct larder_err *err)
{
    struct ldr_net *n;
    int rc;

    pthread_once(&curl_once, curl_setup);
    if (curl_ready != CURLE_OK)
        return ldr_fail(err, LARDER_INTERNAL, "could not set up libcurl: %s", curl_easy_strerror(curl_ready));
    n = calloc(1, sizeof *n);
    if (!n)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a net thread");
    n->tail = &n->head;
    TAILQ_INIT(&n->starting);
    TAILQ_INIT(&n->running);
    TAILQ_INIT(&n->ending);
    TAILQ_INIT(&n->idle);
    ldr_direct_init(&n->direct);
    n->multi = curl_multi_init();
    n->epfd = epoll_create1(EPOLL_CLOEXEC);
    n->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!n->multi || n->epfd == -1 || n->wakefd == -1 ||
        epoll_ctl(n->epfd, EPOLL_CTL_ADD, n->wakefd,
                  &(struct epoll_event){ .events = EPOLLIN, .data.u64 = (unsigned)n->wakefd }) == -1) {
        net_release(n);
        return ldr_fail(err, LARDER_NO_MEMORY, "no memory or descriptors for a net thread");
    }
    ldr_http_setup(n);
    curl_multi_setopt(n->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    curl_multi_setopt(n->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)cfg->connections_per_host);
    /* curl's default keeps four times the requests under way, so that a quiet moment would close the connections */
    curl_multi_setopt(n->multi, CURLMOPT_MAXCONNECTS,
                      2L * (cfg->connections_per_host ? cfg->connections_per_host : 32));
    pthread_mutex_init(&n->mtx, NULL);
    pthread_mutex_lock(&n->mtx); /* the thread waits for it, so that it sees its own `thread` */
    rc = pthread_create(&n->thread, NULL, net_main, n);
    pthread_mutex_unlock(&n->mtx);
    if (rc) {
        pthread_mutex_destroy(&n->mtx);
        net_release(n);
        return ldr_fail(err, LARDER_INTERNAL, "could not start a net thread: %s", strerror(rc));
    }
    *out = n;
    return LARDER_OK;
}

void ldr_net_shutdown(struct ldr_net *n)
{
    pthread_mutex_lock(&n->mtx);
    atomic_store(&n->stopping, true);
    wake(n);
    pthread_mutex_unlock(&n->mtx);
}

void ldr_net_free(struct ldr_net **pn)
{
    struct ldr_net *n = *pn;

    if (!n)
        return;
    pthread_mutex_lock(&n->mtx);
    atomic_store(&n->stopping, true);
    atomic_store(&n->freed, true);
    wake(n);
    pthread_mutex_unlock(&n->mtx);
    pthread_join(n->thread, NULL);
    pthread_mutex_lock(&n->mtx); /* whoever posted last may still be inside the wake-up */
    pthread_mutex_unlock(&n->mtx);
    pthread_mutex_destroy(&n->mtx);
    free(n->timers);
    net_release(n);
    *pn = NULL;
}

void ldr_net_post(struct ldr_net *n, struct ldr_task *t)
{
    bool first;

    t->next = NULL;
    pthread_mutex_lock(&n->mtx);
    first = !n->head;
    *n->tail = t;
    n->tail = &t->next;
    if (first) /* else the one who posted first has woken the thread, and it has not looked yet */
        wake(n);
    pthread_mutex_unlock(&n->mtx);
}

void ldr_net_after_on_net(struct ldr_net *n, uint32_t delay_ms, struct ldr_task *t)
{
    int64_t due = ldr_mono_ns() + delay_ms * LDR_NS_PER_MS;
    size_t i;

    assert(ldr_net_here(n));
    if (n->n_timers == n->timers_room) {
        n->timers_room = n->timers_room ? 2 * n->timers_room : 16;
        n->timers = reallocarray(n->timers, n->timers_room, sizeof n->timers[0]);
        assert(n->timers); /* the task could neither be kept nor run */
    }
    for (i = n->n_timers; i > 0 && n->timers[i - 1].due_ns <= due; i--)
        n->timers[i] = n->timers[i - 1];
    n->timers[i] = (struct net_timer){ due, t };
    n->n_timers++;
}

void ldr_net_away_on_net(struct ldr_net *n, int change)
{
    assert(ldr_net_here(n) && (change > 0 || n->away > 0));
    n->away += (unsigned)change;
}

bool ldr_net_stopping(const struct ldr_net *n)
{
    return atomic_load(&n->stopping);
}

bool ldr_net_here(const struct ldr_net *n)
{
    return pthread_equal(pthread_self(), n->thread);
}

static void run_posted(struct ldr_net *n)
{
    struct ldr_task *t, *next;

    pthread_mutex_lock(&n->mtx);
    t = n->head;
    n->head = NULL;
    n->tail = &n->head;
    pthread_mutex_unlock(&n->mtx);
    for (; t; t = next) {
        next = t->next; /* running it gives it away */
        t->run(t);
    }
}

static void run_timers(struct ldr_net *n, int64_t now_ns)
{
    while (n->n_timers > 0 && n->timers[n->n_timers - 1].due_ns <= now_ns) {
        struct ldr_task *t = n->timers[--n->n_timers].task;

        t->run(t);
    }
}

static bool is_quiet(struct ldr_net *n)
{
    bool quiet;

    pthread_mutex_lock(&n->mtx);
    quiet = !n->head && n->n_timers == 0 && n->away == 0;
    pthread_mutex_unlock(&n->mtx);
    return quiet;
}

/* Until a socket, a post or the time says so. */
static void sleep_until(struct ldr_net *n, int64_t due_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int got = epoll_wait(n->epfd, events, EVENTS_MAX, due_ns == LDR_NEVER ? -1 : ldr_left_ms(due_ns));

    assert(got >= 0 || errno == EINTR);
    for (int i = 0; i < got; i++) {
        eventfd_t count;

        if (events[i].data.u64 & LDR_EVENT_TAKEN)
            ldr_http_taken_event_on_net(n, events[i].data.fd);
        else if (events[i].data.fd == n->wakefd)
            eventfd_read(n->wakefd, &count);
        else
            ldr_http_event_on_net(n, events[i].data.fd, events[i].events);
    }
}

static void *net_main(void *user)
{
    struct ldr_net *n = user;
    sigset_t all;

    sigfillset(&all); /* signals are the main thread's; a peer's reset is EPIPE here, never SIGPIPE */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_mutex_lock(&n->mtx);
    pthread_mutex_unlock(&n->mtx);
    for (;;) {
        bool end = atomic_load(&n->freed), stop = ldr_net_stopping(n);
        int64_t due;

        run_posted(n);
        run_timers(n, stop ? LDR_NEVER : ldr_mono_ns());
        if (stop)
            ldr_http_stop_on_net(n);
        if (end && is_quiet(n))
            return NULL;
        due = ldr_http_turn_on_net(n);
        if (n->n_timers > 0 && n->timers[n->n_timers - 1].due_ns < due)
            due = stop ? 0 : n->timers[n->n_timers - 1].due_ns;
        sleep_until(n, due);
    }
}
