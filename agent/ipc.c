/* ipc.c - see ipc.h. The life of a context: receive → (nng thread: queue) → ipc thread: unpack, serve → reply →
 * receive. */
#include "agent/ipc.h"
#include "agent/serve.h"
#include "common/clock.h"
#include "common/layout.h"
#include "common/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/transport/ipc/ipc.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

#define TICK_NS        (100 * LDR_NS_PER_MS)
#define PATH_MAX_BYTES 90
#define CLOSE_S        3 /* that closing the endpoint may take */

enum context_state { RECEIVING, SERVING, REPLYING };

/* One nng context. `state` changes on the ipc thread, but for REPLYING → RECEIVING, on an nng thread with nothing else
 * going on in the context. */
struct context {
    struct ldr_request request; /* first: a request is its context */
    struct ldr_ipc *ipc;
    nng_ctx ctx;
    nng_aio *aio;
    uint32_t pipe; /* of the request that is served */
    _Atomic int state;
    int result; /* of a receive: handed from nng's thread with the task */
    nng_msg *received;
};

struct pipe_end {
    struct ldr_task task;
    struct ldr_ipc *ipc;
    uint32_t pipe;
};

struct ldr_ipc {
    struct ldr_domain *domain;
    nng_socket socket;
    bool socket_open;
    bool bound; /* the file at `path` is ours */
    char path[PATH_MAX_BYTES + 1];
    /* main thread: ldr_ipc_watch() */
    nng_listener listener, old;
    bool has_old;          /* replaced, and closed at the next look */
    unsigned listeners;    /* made so far: each is bound under a name of its own */
    int canary;            /* a connection to ourselves, -1: none */
    unsigned added_before; /* `added` when it was made */
    atomic_uint added;     /* connections accepted; nng's threads */
    pthread_t thread;
    bool running;
    atomic_bool quiet; /* no new requests */
    atomic_uint busy;  /* contexts that hold a request */
    /* ipc thread */
    struct context *contexts[LDR_CONTEXTS_MAX];
    unsigned n_contexts;
    struct ldr_request *waiting;
    unsigned serving; /* requests that are not answered yet */
    int64_t next_tick_ns;
};

static struct context *context_of(struct ldr_request *r)
{
    return (struct context *)(void *)r;
}

uint32_t ldr_ipc_connection(struct ldr_request *r)
{
    return context_of(r)->pipe;
}

/* ---------- nng's threads ---------- */

static void arrived_on_ipc(struct ldr_task *t);

/* A receive or a send of this context has ended. */
static void aio_done(void *user)
{
    struct context *c = user;
    int rc = nng_aio_result(c->aio);

    if (atomic_load(&c->state) == REPLYING) {
        if (rc)
            nng_msg_free(nng_aio_get_msg(c->aio)); /* its client is gone; the message is ours again */
        atomic_store(&c->state, RECEIVING);
        atomic_fetch_sub(&c->ipc->busy, 1);
        nng_ctx_recv(c->ctx, c->aio);
        return;
    }
    if (rc == NNG_ECLOSED || rc == NNG_ECANCELED)
        return; /* the endpoint closes */
    c->result = rc;
    c->received = rc ? NULL : nng_aio_get_msg(c->aio);
    c->request.task.run = arrived_on_ipc;
    ldr_mailbox_post(&c->ipc->domain->ipc_box, &c->request.task);
}

static void pipe_added(nng_pipe pipe, nng_pipe_ev ev, void *user)
{
    struct ldr_ipc *ipc = user;
    (void)pipe;
    (void)ev;

    atomic_fetch_add(&ipc->added, 1);
}

static void pipe_gone_on_ipc(struct ldr_task *t);

static void pipe_gone(nng_pipe pipe, nng_pipe_ev ev, void *user)
{
    struct pipe_end *e;
    (void)ev;

    e = malloc(sizeof *e);
    if (!e)
        return; /* its waiters time out instead */
    *e = (struct pipe_end){ .task.run = pipe_gone_on_ipc, .ipc = user, .pipe = (uint32_t)nng_pipe_id(pipe) };
    ldr_mailbox_post(&e->ipc->domain->ipc_box, &e->task);
}

/* nng 1.5 takes EPIPE, a client that is gone when the agent's half of the handshake is sent, for the end of its listener:
 * it never accepts again, and what waits there is closed neither then nor with the listener. (Mended in nng 1.6.) A reset
 * is taken for what it is, so libnng's calls come here: the program's symbol goes before libc's. */
ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    ssize_t n = syscall(SYS_sendmsg, fd, m, flags);

    if (n < 0 && errno == EPIPE)
        errno = ECONNRESET;
    return n;
}

/* ---------- replies ---------- */

void ldr_ipc_wait(struct ldr_request *r)
{
    r->waiting = true;
    DL_APPEND(context_of(r)->ipc->waiting, r);
}

void ldr_ipc_unwait(struct ldr_request *r)
{
    if (r->waiting)
        DL_DELETE(context_of(r)->ipc->waiting, r);
    r->waiting = false;
}

static void forget(struct ldr_request *r)
{
    ldr_ipc_unwait(r);
    ldr_many_free(&r->many);
    if (r->msg)
        larder__wire__request__free_unpacked(r->msg, NULL);
    r->msg = NULL;
    ldr_name_unref(&r->name);
    context_of(r)->ipc->serving--;
}

void ldr_ipc_reply(struct ldr_request *r, const ldr_wire_reply *reply)
{
    struct context *c = context_of(r);
    size_t len = larder__wire__reply__get_packed_size(reply);
    nng_msg *m = NULL;

    assert(atomic_load(&c->state) == SERVING);
    assert(len <= LDR_WIRE_REPLY_MAX);
    if (nng_msg_alloc(&m, len) == 0)
        larder__wire__reply__pack(reply, nng_msg_body(m));
    forget(r);
    if (!m) { /* out of memory: the client sees its deadline */
        ldr_log(LDR_ERROR, "ipc", "out of memory for a reply bytes=%zu", len);
        atomic_store(&c->state, RECEIVING);
        atomic_fetch_sub(&c->ipc->busy, 1);
        nng_ctx_recv(c->ctx, c->aio);
        return;
    }
    atomic_store(&c->state, REPLYING);
    nng_aio_set_msg(c->aio, m);
    nng_ctx_send(c->ctx, c->aio);
}

void ldr_ipc_reply_fail(struct ldr_request *r, enum larder_kind kind, const struct larder_err *err)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Status s = LARDER__WIRE__STATUS__INIT;

    s.kind = (uint32_t)kind;
    s.sys = err->sys;
    s.http = err->http;
    s.message = (char *)err->msg;
    m.nonce = ldr_index_nonce(r->domain->index);
    m.status = &s;
    if (r->msg)
        ldr_log(LDR_DEBUG, "ipc", "failed op=%016" PRIx64 " kind=%s reason=\"%s\"", r->msg->op_id,
                larder_kind_name(kind), err->msg);
    ldr_ipc_reply(r, &m);
}

/* ---------- requests ---------- */

static bool add_contexts(struct ldr_ipc *ipc, unsigned n);

static void arrived_on_ipc(struct ldr_task *t)
{
    struct ldr_request *r = LDR_CONTAINER(t, struct ldr_request, task);
    struct context *c = context_of(r);
    struct ldr_ipc *ipc = c->ipc;
    struct ldr_domain *d = r->domain;
    struct larder_err e;
    enum larder_kind k;
    unsigned busy;

    if (c->result) { /* a receive that failed for a reason of its own: go on receiving */
        nng_ctx_recv(c->ctx, c->aio);
        return;
    }
    atomic_store(&c->state, SERVING);
    busy = atomic_fetch_add(&ipc->busy, 1) + 1;
    ipc->serving++;
    ldr_count(&d->counters, requests, 1);
    c->pipe = (uint32_t)nng_pipe_id(nng_msg_get_pipe(c->received));
    k = ldr_wire_unpack_request(nng_msg_body(c->received), nng_msg_len(c->received), &r->msg, &e);
    nng_msg_free(c->received);
    c->received = NULL;
    if (k) {
        ldr_count(&d->counters, requests_bad, 1);
    } else if (atomic_load(&ipc->quiet)) {
        k = ldr_fail(&e, LARDER_CANCELLED, "the agent stops");
    } else if (busy + LDR_CONTEXTS_FIRST / 4 > ipc->n_contexts && !add_contexts(ipc, LDR_CONTEXTS_FIRST) &&
               busy + 8 > ipc->n_contexts) {
        ldr_count(&d->counters, requests_busy, 1);
        k = ldr_fail(&e, LARDER_UNAVAILABLE, "the agent has too many requests waiting (%u)", busy);
    }
    if (k) {
        ldr_ipc_reply_fail(r, k, &e);
        return;
    }
    r->deadline_ns = ldr_deadline_ns(r->msg->timeout_ms ? (int64_t)r->msg->timeout_ms : -1);
    ldr_serve(r);
}

static void pipe_gone_on_ipc(struct ldr_task *t)
{
    struct pipe_end *e = LDR_CONTAINER(t, struct pipe_end, task);
    struct ldr_ipc *ipc = e->ipc;
    struct ldr_request *r, *next;

    DL_FOREACH_SAFE(ipc->waiting, r, next)
    {
        struct context *c = context_of(r);

        if (c->pipe != e->pipe)
            continue;
        ldr_count(&ipc->domain->counters, waiters_gone, 1);
        ldr_serve_leave(r);
        forget(r);
        atomic_store(&c->state, RECEIVING);
        atomic_fetch_sub(&ipc->busy, 1);
        nng_ctx_recv(c->ctx, c->aio); /* drops what the context still knew of its peer */
    }
    ldr_stages_gone(ipc->domain, e->pipe);
    free(e);
}

static void tick(struct ldr_ipc *ipc, int64_t now)
{
    struct ldr_request *r, *next;
    struct larder_err e;
    enum larder_kind k;

    DL_FOREACH_SAFE(ipc->waiting, r, next)
    if (r->deadline_ns <= now) {
        ldr_count(&ipc->domain->counters, timeouts, 1);
        /* A write goes on without its asker. */
        k = ldr_fail(&e, r->write_waiter.write || r->deletes ? LARDER_OUTCOME_UNKNOWN : LARDER_TIMEOUT,
                     "no answer for \"%.200s\" within %u ms", r->name ? r->name->text : "many objects",
                     r->msg->timeout_ms);
        ldr_serve_leave(r);
        ldr_ipc_reply_fail(r, k, &e);
    }
    ldr_upload_sweep(ipc->domain, now);
    ipc->next_tick_ns = now + TICK_NS;
}

static bool idle(const struct ldr_ipc *ipc)
{
    return !ipc->serving && !ipc->domain->lone_changes && ldr_flights_idle(ipc->domain->flights) &&
           ldr_uploads_idle(ipc->domain->uploads);
}

static void *run(void *user)
{
    struct ldr_ipc *ipc = user;
    struct ldr_domain *d = ipc->domain;

    for (;;) {
        bool timed = ipc->waiting || ldr_uploads_open(d->uploads); /* else only a task can change anything */
        int64_t now = timed ? ldr_mono_ns() : 0;
        struct ldr_task *t;

        if (timed && now >= ipc->next_tick_ns)
            tick(ipc, now);
        t = ldr_mailbox_take(&d->ipc_box, timed ? ipc->next_tick_ns : LDR_NEVER);
        if (t)
            t->run(t);
        else if (ldr_mailbox_closed(&d->ipc_box)) {
            if (idle(ipc))
                break;
            /* A closed mailbox does not wait: what is under way still comes back through it. */
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        }
    }
    return NULL;
}

/* ---------- the endpoint ---------- */

static struct context *context_new(struct ldr_ipc *ipc)
{
    struct context *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->ipc = ipc;
    c->request.domain = ipc->domain;
    if (nng_ctx_open(&c->ctx, ipc->socket)) {
        free(c);
        return NULL;
    }
    if (nng_aio_alloc(&c->aio, aio_done, c)) {
        nng_ctx_close(c->ctx);
        free(c);
        return NULL;
    }
    return c;
}

static bool add_contexts(struct ldr_ipc *ipc, unsigned n)
{
    for (; n && ipc->n_contexts < LDR_CONTEXTS_MAX; n--) {
        struct context *c = context_new(ipc);

        if (!c)
            break;
        ipc->contexts[ipc->n_contexts++] = c;
        nng_ctx_recv(c->ctx, c->aio);
    }
    return n == 0;
}

void ldr_ipc_usage(const struct ldr_ipc *ipc, unsigned *made, unsigned *busy)
{
    *made = ipc->n_contexts;
    *busy = atomic_load(&ipc->busy);
}

const char *ldr_ipc_path(const struct ldr_ipc *ipc)
{
    return ipc->path;
}

/* The socket's directory: made if it is missing, readable for the group. An endpoint outside of the cache directory is
 * left as its owner made it. */
static enum larder_kind make_endpoint_dir(const struct ldr_domain *d, struct larder_err *err)
{
    bool made = mkdir(d->cfg->endpoint, 0700) == 0;
    enum larder_kind k = LARDER_OK;
    size_t n = strlen(d->cfg->cache_dir);
    bool ours = made || (!strncmp(d->cfg->endpoint, d->cfg->cache_dir, n) && d->cfg->endpoint[n] == '/');
    int fd;

    if (!made && errno != EEXIST)
        return ldr_fail_sys(err, LARDER_IO, "could not make directory \"%s\" (larder.endpoint)", d->cfg->endpoint);
    fd = open(d->cfg->endpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ldr_fail_sys(err, LARDER_IO, "could not open directory \"%s\" (larder.endpoint)", d->cfg->endpoint);
    if (ours)
        k = ldr_cache_dir_own(d->dir, fd, 02750, "ipc", err);
    close(fd);
    return k;
}

/* A connection to the socket at `path`, with its half of the handshake sent; -1: nobody listens there. */
static int connect_to(const char *path)
{
    static const char hello[8] = "\0SP\0\0\x30\0";
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    memcpy(sa.sun_path, path, strlen(path) + 1);
    if (fd >= 0 && (connect(fd, (struct sockaddr *)&sa, sizeof sa) ||
                    send(fd, hello, sizeof hello, MSG_NOSIGNAL) != (ssize_t)sizeof hello)) {
        bool full = errno == EAGAIN; /* its backlog: somebody is there */

        if (!full)
            close(fd);
        return full ? fd : -1;
    }
    return fd;
}

/* Only one agent holds the cache's lock, but endpoints are configured freely. */
static bool somebody_listens(const char *path)
{
    int fd = connect_to(path);

    if (fd < 0)
        return false;
    poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 1000); /* not away in its handshake: see ldr_ipc_watch() */
    close(fd);
    return true;
}

/* A new listener at `path`: bound beside it and moved there, so that `path` always names one that listens, with the
 * domain's group. */
static enum larder_kind add_listener(struct ldr_ipc *ipc, struct larder_err *err)
{
    char url[sizeof "ipc://" + sizeof ipc->path + 12];
    const char *beside = url + strlen("ipc://");
    enum larder_kind k = LARDER_OK;
    nng_listener l;
    int rc;

    snprintf(url, sizeof url, "ipc://%s.%u", ipc->path, ++ipc->listeners);
    unlink(beside);
    rc = nng_listener_create(&l, ipc->socket, url);
    if (rc)
        return ldr_fail(err, LARDER_IO, "could not listen on \"%s\": %s", ipc->path, nng_strerror(rc));
    rc = nng_listener_set_int(l, NNG_OPT_IPC_PERMISSIONS, 0660);
    if (!rc)
        rc = nng_listener_start(l, 0);
    if (rc)
        k = ldr_fail(err, LARDER_IO, "could not listen on \"%s\": %s", ipc->path, nng_strerror(rc));
    else if (ipc->domain->dir->has_group && chown(beside, (uid_t)-1, ipc->domain->dir->group))
        k = ldr_fail_sys(err, LARDER_IO, "could not give socket \"%s\" to group %u (larder.access.group)", ipc->path,
                         (unsigned)ipc->domain->dir->group);
    else if (rename(beside, ipc->path))
        k = ldr_fail_sys(err, LARDER_IO, "could not make socket \"%s\"", ipc->path);
    if (k) {
        nng_listener_close(l);
        return k;
    }
    ipc->bound = true;
    ipc->listener = l;
    return LARDER_OK;
}

static enum larder_kind listen_there(struct ldr_ipc *ipc, struct larder_err *err)
{
    int rc;

    if (somebody_listens(ipc->path))
        return ldr_fail(err, LARDER_EXISTS, "another agent listens on \"%s\"", ipc->path);
    rc = nng_rep0_open(&ipc->socket);
    ipc->socket_open = rc == 0;
    if (!rc)
        rc = nng_socket_set_size(ipc->socket, NNG_OPT_RECVMAXSZ, LDR_WIRE_REQUEST_MAX);
    if (!rc)
        rc = nng_pipe_notify(ipc->socket, NNG_PIPE_EV_ADD_POST, pipe_added, ipc);
    if (!rc)
        rc = nng_pipe_notify(ipc->socket, NNG_PIPE_EV_REM_POST, pipe_gone, ipc);
    /* Contexts first: no client connects to an endpoint where nobody receives. */
    if (!rc && !add_contexts(ipc, LDR_CONTEXTS_FIRST))
        rc = NNG_ENOMEM;
    if (rc)
        return ldr_fail(err, LARDER_IO, "could not listen on \"%s\": %s", ipc->path, nng_strerror(rc));
    return add_listener(ipc, err);
}

/* nng 1.5 accepts nobody any more once a client has gone away before its handshake was over (mended in nng 1.6). So
 * each second a connection is made, which must have been accepted a second later; else the listener is replaced. Who
 * came after its end hangs on it, connected and unheard: it is closed, a second later as others on it are being served.
 */
void ldr_ipc_watch(struct ldr_ipc *ipc)
{
    struct larder_err e;

    if (ipc->has_old)
        nng_listener_close(ipc->old);
    ipc->has_old = false;
    if (ipc->canary >= 0 && atomic_load(&ipc->added) == ipc->added_before) {
        ipc->old = ipc->listener;
        ipc->has_old = add_listener(ipc, &e) == LARDER_OK;
        if (ipc->has_old)
            ldr_log(LDR_INFO, "ipc", "the socket did not accept connections: listening anew");
        else
            ldr_log(LDR_ERROR, "ipc", "%s", e.msg);
    }
    if (ipc->canary >= 0)
        close(ipc->canary);
    ipc->added_before = atomic_load(&ipc->added);
    ipc->canary = connect_to(ipc->path);
}

enum larder_kind ldr_ipc_new(struct ldr_domain *d, struct ldr_ipc **out, struct larder_err *err)
{
    struct ldr_ipc *ipc = calloc(1, sizeof *ipc);
    enum larder_kind k;
    int n;

    if (!ipc)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    ipc->domain = d;
    ipc->canary = -1;
    n = snprintf(ipc->path, sizeof ipc->path, "%s/" LDR_NAME_SOCKET, d->cfg->endpoint);
    if (n < 0 || (size_t)n >= sizeof ipc->path)
        k = ldr_fail(err, LARDER_INVALID,
                     "socket path \"%s/" LDR_NAME_SOCKET "\" is longer than %d bytes "
                     "(larder.endpoint)",
                     d->cfg->endpoint, PATH_MAX_BYTES);
    else
        k = make_endpoint_dir(d, err);
    *out = d->ipc = ipc; /* before the thread reads it; requests that come while we listen are queued */
    if (!k)
        k = listen_there(ipc, err);
    if (!k) {
        int rc = pthread_create(&ipc->thread, NULL, run, ipc);

        ipc->running = rc == 0;
        if (rc) {
            errno = rc;
            k = ldr_fail_sys(err, LARDER_INTERNAL, "could not start the ipc thread");
        }
    }
    if (k) {
        ldr_ipc_free(&ipc);
        *out = d->ipc = NULL;
    }
    return k;
}

void ldr_ipc_quiesce(struct ldr_ipc *ipc)
{
    atomic_store(&ipc->quiet, true);
}

/* A client that reads its reply slowly would keep us from stopping: a moment is enough for those that read. */
static void drain_replies(struct ldr_ipc *ipc)
{
    int64_t until = ldr_mono_ns() + LDR_NS_PER_S;

    while (atomic_load(&ipc->busy) && ldr_mono_ns() < until)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

void ldr_ipc_stop(struct ldr_ipc *ipc)
{
    ldr_mailbox_close(&ipc->domain->ipc_box);
    if (!ipc->running)
        return;
    pthread_join(ipc->thread, NULL);
    ipc->running = false;
    drain_replies(ipc);
}

/* nng 1.5 can wait for ever in nng_close(), where clients were killed in the middle of connecting: so another thread
 * closes, and is left alone when it takes too long. */
struct closing {
    nng_socket socket;
    pthread_mutex_t mtx;
    pthread_cond_t cond;
    bool closed; /* under mtx */
};

static void *close_socket(void *user)
{
    struct closing *c = user;

    nng_close(c->socket);
    pthread_mutex_lock(&c->mtx);
    c->closed = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->mtx);
    return NULL;
}

/* Ends every context's receive or send. False: it did not, in time; the thread and what it has are left behind. */
static bool close_in_time(nng_socket socket)
{
    struct closing *c = calloc(1, sizeof *c);
    struct timespec until;
    pthread_t thread;
    bool closed;

    if (!c)
        return false;
    c->socket = socket;
    pthread_mutex_init(&c->mtx, NULL);
    pthread_cond_init(&c->cond, NULL);
    if (pthread_create(&thread, NULL, close_socket, c)) {
        free(c);
        return false;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLOSE_S;
    pthread_mutex_lock(&c->mtx);
    while (!c->closed && !pthread_cond_timedwait(&c->cond, &c->mtx, &until))
        ;
    closed = c->closed;
    pthread_mutex_unlock(&c->mtx);
    if (!closed) {
        pthread_detach(thread);
        return false;
    }
    pthread_join(thread, NULL); /* it may still be in its unlock */
    free(c);
    return true;
}

bool ldr_ipc_free(struct ldr_ipc **pipc)
{
    struct ldr_ipc *ipc = *pipc;
    struct ldr_task *t;

    *pipc = NULL;
    if (!ipc)
        return true;
    ldr_ipc_stop(ipc);
    if (ipc->bound) /* else it may be another agent's */
        unlink(ipc->path);
    if (ipc->socket_open && !close_in_time(ipc->socket)) {
        ldr_log(LDR_WARN, "ipc", "the endpoint did not close in %d s and is left open", CLOSE_S);
        return false;
    }
    if (ipc->canary >= 0)
        close(ipc->canary);
    for (unsigned i = 0; i < ipc->n_contexts; i++) {
        struct context *c = ipc->contexts[i];

        nng_aio_stop(c->aio); /* waits for its callback */
        nng_aio_free(c->aio);
    }
    /* What the callbacks queued after the thread ended: pipes that are gone, and requests nobody will serve. */
    while ((t = ldr_mailbox_take(&ipc->domain->ipc_box, 0)))
        if (t->run == pipe_gone_on_ipc)
            free(LDR_CONTAINER(t, struct pipe_end, task));
    for (unsigned i = 0; i < ipc->n_contexts; i++) {
        if (ipc->contexts[i]->received)
            nng_msg_free(ipc->contexts[i]->received);
        free(ipc->contexts[i]);
    }
    free(ipc);
    return true;
}
