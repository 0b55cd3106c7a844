/* sp.c - see sp.h. Step 2 of a get. The peer is the agent, and is believed nothing: each length is checked first. */
#include "client/sp.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define HELLO_LEN     8
#define HEAD_LEN      9 /* 01, length */
#define ID_LEN        4
#define TYPE_USER     1                    /* the only type of message that nanomsg's IPC transport has */
#define ID_TOP_BIT    UINT32_C(0x80000000) /* marks the end of the back trace: a request straight from a REQ */
#define RETRY_MS      5                    /* between connects that meet a full queue */
#define IDLE_FIRST_MS 5                    /* of waiting for a reply, before `idle` is called; doubled each time */
#define IDLE_MAX_MS   80

static const uint8_t hello_req[HELLO_LEN] = { 0, 'S', 'P', 0, 0, 0x30, 0, 0 };
static const uint8_t hello_rep[HELLO_LEN] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };

static void put_be(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}

static uint64_t get_be(const uint8_t *p, int bytes)
{
    uint64_t v = 0;

    for (int i = 0; i < bytes; i++)
        v = v << 8 | p[i];
    return v;
}

/* Wait until the socket is ready. False: the deadline passed. A hang-up counts as ready: the next call tells. */
static bool wait_for(int fd, short events, int64_t deadline_ns)
{
    struct pollfd p = { .fd = fd, .events = events };

    for (;;) {
        int left = ldr_left_ms(deadline_ns), n = poll(&p, 1, left);

        if (n > 0)
            return true;
        if (n == 0 ? left >= 0 && ldr_left_ms(deadline_ns) == 0 : errno != EINTR)
            return false;
    }
}

static enum larder_kind too_late(struct larder_err *err)
{
    return ldr_fail(err, LARDER_TIMEOUT, "the agent did not answer in time");
}

static enum larder_kind not_a_reply(struct larder_err *err)
{
    return ldr_fail(err, LARDER_UNAVAILABLE, "the agent sent what is no reply");
}

static enum larder_kind broken(struct larder_err *err, bool *lost)
{
    *lost = true;
    return ldr_fail_sys(err, LARDER_UNAVAILABLE, "the connection to the agent broke");
}

/* Send all of `iov`; *sent counts the bytes that left. */
static enum larder_kind send_all(int fd, struct iovec *iov, size_t n, int64_t deadline_ns, size_t *sent, bool *lost,
                                 struct larder_err *err)
{
    while (n > 0) {
        struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };
        ssize_t got = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!wait_for(fd, POLLOUT, deadline_ns))
                return too_late(err);
            continue;
        }
        if (got < 0)
            return broken(err, lost);
        *sent += (size_t)got;
        for (; n > 0 && (size_t)got >= iov->iov_len; n--, iov++)
            got -= (ssize_t)iov->iov_len;
        if (n > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + got;
            iov->iov_len -= (size_t)got;
        }
    }
    return LARDER_OK;
}

/* The reply may take its time: let the owner do what should not wait for it, now and then. */
static bool wait_for_peer(struct ldr_sp *c, int64_t deadline_ns)
{
    for (int slice_ms = IDLE_FIRST_MS; c->idle; slice_ms = slice_ms < IDLE_MAX_MS ? 2 * slice_ms : slice_ms) {
        int64_t until = ldr_deadline_ns(slice_ms);

        if (until >= deadline_ns)
            break;
        if (wait_for(c->fd, POLLIN, until))
            return true;
        c->idle(c->user);
    }
    return wait_for(c->fd, POLLIN, deadline_ns);
}

static enum larder_kind recv_all(struct ldr_sp *c, void *to, size_t len, int64_t deadline_ns, bool *lost,
                                 struct larder_err *err)
{
    uint8_t *p = to;

    while (len > 0) {
        ssize_t n = recv(c->fd, p, len, MSG_DONTWAIT);

        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (n == 0) {
            *lost = true;
            return ldr_fail(err, LARDER_UNAVAILABLE, "the agent closed the connection");
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for_peer(c, deadline_ns))
                return too_late(err);
        } else if (errno != EINTR) {
            return broken(err, lost);
        }
    }
    return LARDER_OK;
}

static enum larder_kind no_connection(const char *path, struct larder_err *err)
{
    switch (errno) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
        return ldr_fail_sys(err, LARDER_NO_AGENT, "no agent answers at \"%.200s\"", path);
    case EACCES:
    case EPERM:
        return ldr_fail_sys(err, LARDER_DENIED,
                            "could not connect to the agent at \"%.200s\" (is this process in the agent's group?)",
                            path);
    default:
        return ldr_fail_sys(err, LARDER_UNAVAILABLE, "could not connect to the agent at \"%.200s\"", path);
    }
}

enum larder_kind ldr_sp_connect(struct ldr_sp *c, const char *path, int64_t deadline_ns, struct larder_err *err)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    int fd;

    c->fd = -1;
    if (len >= sizeof a.sun_path)
        return ldr_fail(err, LARDER_INVALID,
                        "the path of the agent's socket is too long (%zu of at most %zu bytes): \"%.200s\"", len,
                        sizeof a.sun_path - 1, path);
    memcpy(a.sun_path, path, len);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ldr_fail_sys(err, LARDER_UNAVAILABLE, "could not open a socket");
    while (connect(fd, (const struct sockaddr *)&a, sizeof a) < 0) {
        int left = ldr_left_ms(deadline_ns);
        enum larder_kind k = LARDER_OK;

        if (errno != EAGAIN && errno != EINTR)
            k = no_connection(path, err);
        else if (left == 0)
            k = ldr_fail(err, LARDER_TIMEOUT, "the agent at \"%.200s\" accepts no connection in time", path);
        if (k) {
            close(fd);
            return k;
        }
        /* A full queue of a unix socket is EAGAIN at once, and nothing can be polled for. */
        if (errno == EAGAIN)
            poll(NULL, 0, left >= 0 && left < RETRY_MS ? left : RETRY_MS);
    }
    return ldr_sp_start(c, fd, deadline_ns, err);
}

enum larder_kind ldr_sp_start(struct ldr_sp *c, int fd, int64_t deadline_ns, struct larder_err *err)
{
    uint8_t theirs[HELLO_LEN];
    struct iovec iov = { (void *)(uintptr_t)hello_req, HELLO_LEN };
    size_t sent = 0;
    bool lost = false;
    enum larder_kind k;

    *c = (struct ldr_sp){ .fd = fd };
    if (getrandom(&c->next_id, sizeof c->next_id, GRND_NONBLOCK) != sizeof c->next_id)
        c->next_id = (uint32_t)ldr_mono_ns(); /* any number will do */
    k = send_all(fd, &iov, 1, deadline_ns, &sent, &lost, err);
    if (!k)
        k = recv_all(c, theirs, HELLO_LEN, deadline_ns, &lost, err);
    if (!k && memcmp(theirs, hello_rep, HELLO_LEN))
        k = ldr_fail(err, LARDER_UNAVAILABLE, "what listens at the agent's socket is no larder agent");
    if (k)
        ldr_sp_close(c);
    return k;
}

bool ldr_sp_usable(const struct ldr_sp *c)
{
    struct pollfd p = { .fd = c->fd, .events = POLLIN | POLLRDHUP };

    return poll(&p, 1, 0) == 0;
}

enum larder_kind ldr_sp_exchange(struct ldr_sp *c, const void *request, size_t len, int64_t deadline_ns,
                                 uint8_t **reply, size_t *reply_len, enum ldr_sp_reach *reach, bool *lost,
                                 struct larder_err *err)
{
    uint32_t id = c->next_id++ | ID_TOP_BIT;
    uint8_t head[HEAD_LEN + ID_LEN], *body = NULL;
    struct iovec iov[] = { { head, sizeof head }, { (void *)(uintptr_t)request, len } };
    size_t sent = 0;
    uint64_t n;
    enum larder_kind k;

    *lost = false;
    head[0] = TYPE_USER;
    put_be(head + 1, ID_LEN + len, 8);
    put_be(head + HEAD_LEN, id, ID_LEN);
    k = send_all(c->fd, iov, len ? 2 : 1, deadline_ns, &sent, lost, err);
    *reach = sent ? LDR_SP_SENT : LDR_SP_UNSENT;
    if (!k)
        k = recv_all(c, head, HEAD_LEN, deadline_ns, lost, err);
    if (k)
        return k;
    n = get_be(head + 1, 8);
    if (head[0] != TYPE_USER || n < ID_LEN || n - ID_LEN > LDR_WIRE_REPLY_MAX)
        return not_a_reply(err);
    k = recv_all(c, head + HEAD_LEN, ID_LEN, deadline_ns, lost, err);
    if (k)
        return k;
    if (get_be(head + HEAD_LEN, ID_LEN) != id)
        return not_a_reply(err);
    n -= ID_LEN;
    body = malloc(n ? n : 1);
    if (!body)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a reply of %zu bytes", (size_t)n);
    k = recv_all(c, body, n, deadline_ns, lost, err);
    if (k) {
        free(body);
        return k;
    }
    *reply = body;
    *reply_len = n;
    return LARDER_OK;
}

void ldr_sp_close(struct ldr_sp *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}
