/* sp_test.c - tests of client/sp.c: exact bytes on one end of a socket pair, and stock libnanomsg as the peer. */
#include "client/sp.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

TestSuite(sp, .timeout = 60);

static const uint8_t rep_hello[8] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };

static void read_all(int fd, void *to, size_t n)
{
    for (uint8_t *p = to; n > 0;) {
        ssize_t got = read(fd, p, n);

        cr_assert(gt(long, got, 0));
        p += got;
        n -= (size_t)got;
    }
}

/* A peer that answers the handshake with `hello`, then each request's id with what `reply` holds, byte by byte. */
struct peer {
    int fd;
    uint8_t hello[8], request[64], reply[128];
    size_t hello_len, request_len, reply_len;
    bool copy_id; /* the request's id goes into reply + 9 */
    pthread_t thread;
};

static void *run_peer(void *user)
{
    struct peer *p = user;
    uint8_t theirs[8];

    read_all(p->fd, theirs, sizeof theirs);
    if (write(p->fd, p->hello, p->hello_len) != (ssize_t)p->hello_len || p->request_len == 0)
        goto done;
    read_all(p->fd, p->request, p->request_len);
    if (p->copy_id)
        memcpy(p->reply + 9, p->request + 9, 4);
    for (size_t i = 0; i < p->reply_len; i++)
        if (send(p->fd, p->reply + i, 1, MSG_NOSIGNAL) != 1)
            break;
done:
    close(p->fd);
    return NULL;
}

/* Start it; the other end of the pair. */
static int start_peer(struct peer *p)
{
    int fd[2];

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
    p->fd = fd[1];
    cr_assert(pthread_create(&p->thread, NULL, run_peer, p) == 0);
    return fd[0];
}

static struct peer good_peer(const char *body, size_t request_body)
{
    struct peer p = {
        .hello_len = 8, .request_len = 13 + request_body, .reply_len = 13 + strlen(body), .copy_id = true
    };

    memcpy(p.hello, rep_hello, 8);
    p.reply[0] = 1;
    p.reply[8] = (uint8_t)(4 + strlen(body));
    memcpy(p.reply + 13, body, strlen(body));
    return p;
}

/* Handshake and one exchange of "hi" with the peer. */
static enum larder_kind talk(struct peer *p, int timeout_ms, uint8_t **reply, size_t *len, enum ldr_sp_reach *reach,
                             bool *lost)
{
    struct ldr_sp c;
    struct larder_err err;
    int64_t deadline = ldr_deadline_ns(timeout_ms);
    enum larder_kind k = ldr_sp_start(&c, start_peer(p), deadline, &err);

    *reach = LDR_SP_UNSENT;
    *lost = false;
    if (!k) {
        k = ldr_sp_exchange(&c, "hi", 2, deadline, reply, len, reach, lost, &err);
        ldr_sp_close(&c);
    }
    pthread_join(p->thread, NULL);
    return k;
}

Test(sp, the_bytes_are_those_of_nanomsg)
{
    struct ldr_sp c;
    struct larder_err err;
    struct peer p = good_peer("yes", 2);
    int fd[2];
    uint8_t hello[8], *reply;
    size_t len;
    bool lost;
    enum ldr_sp_reach reach;

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    cr_assert(write(fd[1], rep_hello, 8) == 8);
    cr_assert(eq(int, ldr_sp_start(&c, fd[0], LDR_NEVER, &err), LARDER_OK));
    read_all(fd[1], hello, 8);
    cr_expect(eq(int, memcmp(hello, "\0SP\0\0\x30\0\0", 8), 0));
    close(fd[1]);
    ldr_sp_close(&c);
    cr_expect(eq(int, c.fd, -1));

    cr_assert(eq(int, talk(&p, -1, &reply, &len, &reach, &lost), LARDER_OK));
    cr_expect(eq(int, memcmp(p.request, "\1\0\0\0\0\0\0\0\6", 9), 0), "type, length of id and body");
    cr_expect(eq(int, p.request[9] & 0x80, 0x80), "the id's top bit is set");
    cr_expect(eq(int, memcmp(p.request + 13, "hi", 2), 0));
    cr_assert(eq(sz, len, 3));
    cr_expect(eq(int, memcmp(reply, "yes", 3), 0));
    cr_expect(eq(int, reach, LDR_SP_SENT));
    free(reply);
}

Test(sp, an_empty_reply_is_a_reply)
{
    struct peer p = good_peer("", 2);
    uint8_t *reply = NULL;
    size_t len = 9;
    bool lost;
    enum ldr_sp_reach reach;

    cr_assert(eq(int, talk(&p, -1, &reply, &len, &reach, &lost), LARDER_OK));
    cr_expect(eq(sz, len, 0));
    free(reply);
}

Test(sp, a_peer_of_another_protocol_is_refused)
{
    for (int at = 0; at < 8; at++) {
        struct peer p = good_peer("yes", 2);
        struct ldr_sp c;
        struct larder_err err;

        p.hello[at] ^= 1;
        p.request_len = 0;
        cr_expect(eq(int, ldr_sp_start(&c, start_peer(&p), LDR_NEVER, &err), LARDER_UNAVAILABLE), "byte %d", at);
        cr_expect(eq(int, c.fd, -1));
        pthread_join(p.thread, NULL);
    }
}

Test(sp, an_end_at_any_byte_is_a_lost_connection)
{
    const struct peer good = good_peer("yes", 2);

    for (size_t n = 0; n < 8; n++) {
        struct peer p = good;
        struct ldr_sp c;
        struct larder_err err;

        p.hello_len = n;
        p.request_len = 0;
        cr_expect(eq(int, ldr_sp_start(&c, start_peer(&p), LDR_NEVER, &err), LARDER_UNAVAILABLE), "hello of %zu", n);
        pthread_join(p.thread, NULL);
    }
    for (size_t n = 0; n < good.reply_len; n++) {
        struct peer p = good;
        uint8_t *reply;
        size_t len;
        bool lost;
        enum ldr_sp_reach reach;

        p.reply_len = n;
        cr_expect(eq(int, talk(&p, -1, &reply, &len, &reach, &lost), LARDER_UNAVAILABLE), "reply of %zu", n);
        cr_expect(lost, "reply of %zu", n);
        cr_expect(eq(int, reach, LDR_SP_SENT));
    }
}

Test(sp, what_is_no_reply_is_refused_at_once_and_not_as_a_lost_connection)
{
    static const struct {
        const char *what;
        size_t at;
        uint8_t value;
    } spoil[] = { { "type", 0, 2 },     { "type", 0, 0 },    { "length 2^45", 3, 0x20 }, { "length 1 MiB", 6, 0x11 },
                  { "length 3", 8, 3 }, { "length 0", 8, 0 } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(spoil); i++) {
        struct peer p = good_peer("yes", 2);
        uint8_t *reply;
        size_t len;
        bool lost;
        enum ldr_sp_reach reach;

        p.reply[spoil[i].at] = spoil[i].value;
        p.reply_len = 9;
        cr_expect(eq(int, talk(&p, 20000, &reply, &len, &reach, &lost), LARDER_UNAVAILABLE), "%s", spoil[i].what);
        cr_expect(not(lost), "%s", spoil[i].what);
    }
    struct peer p = good_peer("yes", 2);
    uint8_t *reply;
    size_t len;
    bool lost;
    enum ldr_sp_reach reach;

    p.copy_id = false;
    cr_expect(eq(int, talk(&p, 20000, &reply, &len, &reach, &lost), LARDER_UNAVAILABLE), "another id");
    cr_expect(not(lost));
}

Test(sp, a_silent_peer_is_a_timeout)
{
    struct ldr_sp c;
    struct larder_err err;
    int fd[2];
    uint8_t *reply;
    size_t len;
    bool lost;
    enum ldr_sp_reach reach;

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    cr_expect(eq(int, ldr_sp_start(&c, fd[0], ldr_deadline_ns(20), &err), LARDER_TIMEOUT));
    close(fd[1]);

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    cr_assert(write(fd[1], rep_hello, 8) == 8);
    cr_assert(eq(int, ldr_sp_start(&c, fd[0], LDR_NEVER, &err), LARDER_OK));
    cr_expect(
        eq(int, ldr_sp_exchange(&c, "hi", 2, ldr_deadline_ns(20), &reply, &len, &reach, &lost, &err), LARDER_TIMEOUT));
    cr_expect(eq(int, reach, LDR_SP_SENT));
    cr_expect(not(lost));
    ldr_sp_close(&c);
    close(fd[1]);
}

static void *drain_slowly(void *user)
{
    int fd = *(int *)user;
    uint8_t head[13], *body = malloc(200000), reply[13] = { 1, 0, 0, 0, 0, 0, 0, 0, 4 };

    read_all(fd, head, sizeof head);
    memcpy(reply + 9, head + 9, 4);
    for (size_t n = 0; n < 200000; n += 1000)
        read_all(fd, body + n, 1000);
    cr_expect(eq(int, body[0], 'x'));
    cr_expect(eq(int, body[199999], 'y'));
    cr_expect(write(fd, reply, sizeof reply) == sizeof reply);
    free(body);
    return NULL;
}

Test(sp, a_request_that_leaves_in_pieces_arrives_whole)
{
    struct ldr_sp c;
    struct larder_err err;
    uint8_t *big = malloc(200000), *reply;
    size_t len;
    bool lost;
    enum ldr_sp_reach reach;
    int fd[2], small = 4096;
    pthread_t t;

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    cr_assert(write(fd[1], rep_hello, 8) == 8);
    cr_assert(eq(int, ldr_sp_start(&c, fd[0], LDR_NEVER, &err), LARDER_OK));
    uint8_t hello[8];
    read_all(fd[1], hello, 8);
    memset(big, 'x', 200000);
    big[199999] = 'y';
    pthread_create(&t, NULL, drain_slowly, &fd[1]);
    cr_expect(eq(int, ldr_sp_exchange(&c, big, 200000, LDR_NEVER, &reply, &len, &reach, &lost, &err), LARDER_OK));
    pthread_join(t, NULL);
    free(reply);
    free(big);
    ldr_sp_close(&c);
    close(fd[1]);
}

Test(sp, nobody_at_the_socket_is_no_agent_and_a_forbidden_one_is_denied)
{
    char dir[TEST_DIR_MAX], path[100], long_path[300];
    struct ldr_sp c;
    struct larder_err err = { 0 };
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int fd;

    test_dir_make(dir);
    snprintf(path, sizeof path, "%.90s/s", dir);
    cr_expect(eq(int, ldr_sp_connect(&c, path, LDR_NEVER, &err), LARDER_NO_AGENT), "no file");
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memcpy(a.sun_path, path, strlen(path));
    cr_assert(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
    cr_expect(eq(int, ldr_sp_connect(&c, path, LDR_NEVER, &err), LARDER_NO_AGENT), "a file, and nobody listens");
    if (geteuid() != 0) {
        cr_assert(listen(fd, 1) == 0 && chmod(path, 0) == 0);
        cr_expect(eq(int, ldr_sp_connect(&c, path, LDR_NEVER, &err), LARDER_DENIED));
        cr_expect(strstr(err.msg, "group") != NULL);
    }
    close(fd);
    memset(long_path, 'p', sizeof long_path);
    long_path[sizeof long_path - 1] = '\0';
    cr_expect(eq(int, ldr_sp_connect(&c, long_path, LDR_NEVER, &err), LARDER_INVALID));
    test_dir_remove(dir);
}

Test(sp, a_full_queue_is_waited_for_until_the_deadline)
{
    char dir[TEST_DIR_MAX];
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct ldr_sp c;
    struct larder_err err = { 0 };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), filler[64], n = 0;
    int64_t from = ldr_mono_ns();

    test_dir_make(dir);
    snprintf(a.sun_path, sizeof a.sun_path, "%.90s/s", dir);
    cr_assert(bind(listener, (struct sockaddr *)&a, sizeof a) == 0 && listen(listener, 1) == 0);
    for (; n < 64; n++) {
        filler[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(filler[n], (struct sockaddr *)&a, sizeof a) < 0)
            break;
    }
    cr_assert(lt(int, n, 64));
    cr_expect(eq(int, ldr_sp_connect(&c, a.sun_path, ldr_deadline_ns(50), &err), LARDER_TIMEOUT));
    cr_expect(ge(long, ldr_mono_ns() - from, 50 * LDR_NS_PER_MS));
    for (; n >= 0; n--)
        close(filler[n]);
    close(listener);
    test_dir_remove(dir);
}

Test(sp, an_idle_connection_whose_peer_left_or_spoke_is_not_usable)
{
    for (int speak = 0; speak < 2; speak++) {
        struct ldr_sp c;
        struct larder_err err;
        int fd[2];

        cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
        cr_assert(write(fd[1], rep_hello, 8) == 8);
        cr_assert(eq(int, ldr_sp_start(&c, fd[0], LDR_NEVER, &err), LARDER_OK));
        cr_expect(ldr_sp_usable(&c));
        if (speak)
            cr_assert(write(fd[1], "x", 1) == 1);
        else
            close(fd[1]);
        cr_expect(not(ldr_sp_usable(&c)));
        ldr_sp_close(&c);
        if (speak)
            close(fd[1]);
    }
}

/* ---- stock libnanomsg ---- */

static void *echo(void *user)
{
    int s = *(int *)user;

    for (;;) {
        char *p = NULL;
        int n = nn_recv(s, &p, NN_MSG, 0);

        if (n < 0)
            return NULL;
        for (int i = 0; i < n; i++)
            p[i] ^= 0x20;
        if (n == 4 && !memcmp(p, "STOP", 4)) {
            nn_send(s, &p, NN_MSG, 0);
            return NULL;
        }
        if (nn_send(s, &p, NN_MSG, 0) < 0)
            return NULL;
    }
}

Test(sp, a_stock_nanomsg_rep_socket_is_talked_to)
{
    char dir[TEST_DIR_MAX], url[300], *path = url + strlen("ipc://");
    struct ldr_sp c;
    struct larder_err err = { 0 };
    uint8_t *big = malloc(250000), *reply;
    size_t len;
    bool lost;
    enum ldr_sp_reach reach;
    int s = nn_socket(AF_SP, NN_REP);
    pthread_t t;

    test_dir_make(dir);
    snprintf(url, sizeof url, "ipc://%s/s", dir);
    cr_assert(s >= 0 && nn_bind(s, url) >= 0);
    pthread_create(&t, NULL, echo, &s);
    cr_assert(eq(int, ldr_sp_connect(&c, path, ldr_deadline_ns(20000), &err), LARDER_OK), "%s", err.msg);
    memset(big, 'a', 250000);
    for (int i = 0; i < 200; i++) {
        size_t n = i % 10 ? (size_t)i : 250000;

        cr_assert(eq(int, ldr_sp_exchange(&c, big, n, ldr_deadline_ns(20000), &reply, &len, &reach, &lost, &err), 0),
                  "%d: %s", i, err.msg);
        cr_assert(eq(sz, len, n));
        cr_expect(n == 0 || (reply[0] == 'A' && reply[n - 1] == 'A'));
        free(reply);
    }
    cr_assert(eq(int, ldr_sp_exchange(&c, "stop", 4, ldr_deadline_ns(20000), &reply, &len, &reach, &lost, &err), 0));
    free(reply);
    ldr_sp_close(&c);
    pthread_join(t, NULL);
    nn_close(s);
    free(big);
    test_dir_remove(dir);
}
