/* ipc_test.c - the endpoint as others meet it: stock libnanomsg REQ sockets are served, and whatever else is written to
 * the socket leaves the agent alive and serving. */
#include "tests/e2e/e2e.h"
#include "common/wire.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#define OUTSTANDING 200
#define REQ_HEAD    "\0SP\0\0\x30\0" /* and the NUL that ends it */
#define HEAD_LEN    8

static struct {
    struct s3_server s3;
    struct agent agent;
    char dir[TEST_DIR_MAX];
} t;

static void enter(void)
{
    agent_init(&t.agent, NULL);
    agent_start(&t.agent);
}

static void leave(void)
{
    agent_release(&t.agent);
    s3_server_stop(&t.s3);
    test_dir_remove(t.dir);
}

TestSuite(ipc, .init = enter, .fini = leave, .timeout = 60);

/* ---- stock nanomsg ---- */

static int nn_open(void)
{
    char url[TEST_DIR_MAX + 64];
    int limit = LONG_MS, s = nn_socket(AF_SP, NN_REQ);

    cr_assert(s >= 0, "%s", nn_strerror(nn_errno()));
    cr_assert(eq(int, nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVTIMEO, &limit, sizeof limit), 0));
    cr_assert(eq(int, nn_setsockopt(s, NN_SOL_SOCKET, NN_SNDTIMEO, &limit, sizeof limit), 0));
    snprintf(url, sizeof url, "ipc://%s", t.agent.socket);
    cr_assert(nn_connect(s, url) >= 0, "%s", nn_strerror(nn_errno()));
    return s;
}

static void nn_ask(int s, const ldr_wire_request *req)
{
    size_t len = larder__wire__request__get_packed_size(req);
    uint8_t *packed = malloc(len + 1);

    larder__wire__request__pack(req, packed);
    cr_assert(eq(int, nn_send(s, packed, len, 0), (int)len), "%s", nn_strerror(nn_errno()));
    free(packed);
}

/* The reply; ended by larder__wire__reply__free_unpacked(). */
static ldr_wire_reply *nn_answer(int s)
{
    struct larder_err err = { 0 };
    ldr_wire_reply *r = NULL;
    void *p = NULL;
    int n = nn_recv(s, &p, NN_MSG, 0);

    cr_assert(n >= 0, "%s", nn_strerror(nn_errno()));
    cr_assert(eq(int, ldr_wire_unpack_reply(p, (size_t)n, &r, &err), LARDER_OK), "%s", err.msg);
    nn_freemsg(p);
    return r;
}

static void reply_free(ldr_wire_reply **r)
{
    larder__wire__reply__free_unpacked(*r, NULL);
    *r = NULL;
}

Test(ipc, a_stock_req_socket_says_hello_reads_bytes_and_asks_for_the_status)
{
    Larder__Wire__Hello hello = LARDER__WIRE__HELLO__INIT;
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    Larder__Wire__StatusAsk status = LARDER__WIRE__STATUS_ASK__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    ldr_wire_reply *r;
    int s = nn_open();

    agent_seed_file(&t.agent, "box", "a", "hello", 5);
    req.op_id = 1;
    req.body_case = LARDER__WIRE__REQUEST__BODY_HELLO;
    req.hello = &hello;
    hello.protocol = LDR_WIRE_PROTOCOL;
    nn_ask(s, &req);
    r = nn_answer(s);
    cr_assert(eq(int, r->body_case, LARDER__WIRE__REPLY__BODY_HELLO));
    cr_expect(eq(u32, r->hello->protocol, LDR_WIRE_PROTOCOL));
    cr_expect(eq(u32, r->hello->pid, (uint32_t)t.agent.pid));
    cr_expect(has(r->hello->agent, LDR_VERSION));
    reply_free(&r);

    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = (char *)"file://box/a";
    get.want_bytes = true;
    for (int i = 0; i < 2; i++) { /* cold and warm */
        nn_ask(s, &req);
        r = nn_answer(s);
        cr_assert(eq(int, r->body_case, LARDER__WIRE__REPLY__BODY_BYTES));
        cr_expect(eq(u64, r->bytes->meta->size, 5));
        cr_assert(eq(sz, r->bytes->data.len, 5));
        cr_expect(eq(int, memcmp(r->bytes->data.data, "hello", 5), 0));
        reply_free(&r);
    }
    get.offset = 4;
    nn_ask(s, &req);
    r = nn_answer(s);
    cr_assert(eq(int, r->body_case, LARDER__WIRE__REPLY__BODY_BYTES));
    cr_expect(r->bytes->offset == 4 && r->bytes->data.len == 1 && r->bytes->data.data[0] == 'o');
    reply_free(&r);

    req.body_case = LARDER__WIRE__REQUEST__BODY_STATUS;
    req.status = &status;
    nn_ask(s, &req);
    r = nn_answer(s);
    cr_assert(eq(int, r->body_case, LARDER__WIRE__REPLY__BODY_STATUS_REPLY));
    cr_expect(r->status_reply->n_item > 20);
    reply_free(&r);
    nn_close(s);
}

Test(ipc, two_hundred_requests_of_stock_sockets_are_outstanding_and_all_are_answered)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    char reason[512] = "", keys[OUTSTANDING][64];
    int s[OUTSTANDING];

    test_dir_make(t.dir);
    need_server(s3_server_start_test(&t.s3, t.dir, reason, sizeof reason), reason);
    agent_release(&t.agent);
    agent_init(&t.agent, &t.s3);
    agent_start(&t.agent);
    agent_seed_s3(&t.s3, "held", "hello", 5);
    cr_assert(s3_server_hold(&t.s3, "held"));
    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.want_bytes = true;
    for (int i = 0; i < OUTSTANDING; i++) {
        s[i] = nn_open();
        snprintf(keys[i], sizeof keys[i], "s3://" S3_BUCKET "/held%s", i % 2 ? "" : "-missing");
        get.key = keys[i];
        req.op_id = (uint64_t)i + 1;
        nn_ask(s[i], &req);
    }
    agent_wait_counter(&t.agent, "contexts_busy", OUTSTANDING + 1); /* and the one that tells */
    cr_assert(s3_server_release(&t.s3, "held"));
    for (int i = 0; i < OUTSTANDING; i++) {
        ldr_wire_reply *r = nn_answer(s[i]);

        if (i % 2)
            cr_expect(r->body_case == LARDER__WIRE__REPLY__BODY_BYTES && r->bytes->data.len == 5);
        else
            cr_expect(r->status && r->status->kind == LARDER_NOT_FOUND);
        reply_free(&r);
        nn_close(s[i]);
    }
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 2));
    cr_expect(eq(u64, agent_counter(&t.agent, "requests_busy"), 0));
}

Test(ipc, a_request_that_is_no_request_is_refused_and_the_connection_goes_on)
{
    ldr_wire_request empty = LARDER__WIRE__REQUEST__INIT;
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    ldr_wire_reply *r;
    char *long_key = malloc(100000);
    int s = nn_open();

    cr_assert(eq(int, nn_send(s, "\xff\xff\xff\xff\xff", 5, 0), 5));
    r = nn_answer(s);
    cr_expect(r->status && r->status->kind == LARDER_INVALID);
    reply_free(&r);
    cr_assert(eq(int, nn_send(s, "", 0, 0), 0));
    r = nn_answer(s);
    cr_expect(r->status && r->status->kind == LARDER_UNSUPPORTED, "a body of a later release");
    reply_free(&r);
    empty.op_id = 7;
    nn_ask(s, &empty);
    r = nn_answer(s);
    cr_expect(r->status && r->status->kind == LARDER_UNSUPPORTED);
    reply_free(&r);
    memset(long_key, 'k', 99999);
    memcpy(long_key, "file://b/", 9);
    long_key[99999] = '\0';
    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = long_key;
    nn_ask(s, &req);
    r = nn_answer(s);
    cr_expect(r->status && r->status->kind == LARDER_INVALID);
    reply_free(&r);
    cr_expect(eq(u64, agent_counter(&t.agent, "requests_bad"), 4));
    nn_close(s);
    free(long_key);
}

/* ---- a plain socket ---- */

static int raw_open(void)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(sa.sun_path, t.agent.socket);
    cr_assert(eq(int, connect(fd, (struct sockaddr *)&sa, sizeof sa), 0), "%s", strerror(errno));
    return fd;
}

static void raw_send(int fd, const void *p, size_t n)
{
    if (send(fd, p, n, MSG_NOSIGNAL) < 0)
        cr_assert(eq(int, errno == EPIPE || errno == ECONNRESET, 1), "%s", strerror(errno));
}

/* Read up to n bytes within a second; how many came. */
static size_t raw_recv(int fd, uint8_t *p, size_t n)
{
    int64_t deadline = ldr_deadline_ns(1000);
    size_t len = 0;

    while (len < n) {
        struct pollfd pfd = { .fd = fd, .events = POLLIN };
        ssize_t got;

        if (poll(&pfd, 1, ldr_left_ms(deadline)) <= 0 || (got = recv(fd, p + len, n - len, 0)) <= 0)
            break;
        len += (size_t)got;
    }
    return len;
}

/* Has the agent closed this connection (within a while)? What it says before is dropped. */
static bool raw_closed(int fd)
{
    int64_t deadline = ldr_deadline_ns(5000);
    uint8_t drop[4096];

    for (;;) {
        struct pollfd pfd = { .fd = fd, .events = POLLIN };
        ssize_t n;

        if (poll(&pfd, 1, ldr_left_ms(deadline)) <= 0)
            return false;
        n = recv(fd, drop, sizeof drop, 0);
        if (n <= 0)
            return true;
    }
}

/* The head of a message of `len` bytes, with a request's number. */
static size_t message_head(uint8_t *to, uint64_t len)
{
    to[0] = 1;
    for (int i = 0; i < 8; i++)
        to[1 + i] = (uint8_t)((len + 4) >> (56 - 8 * i));
    memcpy(to + 9, "\x80\0\0\x01", 4);
    return 13;
}

/* A new client reads a cold object. (No write: where its connection breaks its outcome is not known.) */
static void expect_served(void)
{
    struct larder *l = agent_open(&t.agent);
    static int n;
    char key[32], uri[64];

    snprintf(key, sizeof key, "n%d", n++);
    snprintf(uri, sizeof uri, "file://box/%s", key);
    agent_seed_file(&t.agent, "box", key, "hello", 5);
    expect_text(l, uri, "hello");
    larder_close(&l);
    cr_assert(agent_alive(&t.agent));
}

Test(ipc, a_client_that_goes_away_before_its_handshake_stops_nobody)
{
    for (int i = 0; i < 40; i++) {
        int fd = raw_open();

        if (i % 2)
            raw_send(fd, REQ_HEAD, (size_t)i % HEAD_LEN);
        close(fd);
        if (i % 20 == 19)
            expect_served();
    }
}

Test(ipc, bad_handshakes_leave_the_agent_serving)
{
    static const char *const bad[] = { "GET / HTTP/1.1\r\n\r\n", "\0SP\0\0\x31\0", "\0SP\0\xff\xff\0", "\0SX\0\0\x30\0",
                                       "\xff\xff\xff\xff\xff\xff\xff" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        int fd = raw_open();

        raw_send(fd, bad[i], HEAD_LEN);
        cr_expect(raw_closed(fd), "handshake %zu", i);
        close(fd);
    }
    expect_served();
}

Test(ipc, a_message_of_any_length_beyond_the_limit_ends_its_connection)
{
    static const uint64_t lengths[] = { LDR_WIRE_REQUEST_MAX + 1, UINT64_C(1) << 31, UINT64_C(1) << 45,
                                        UINT64_MAX - 4 };

    for (size_t i = 0; i < LDR_ARRAY_LEN(lengths); i++) {
        uint8_t head[16], answer[HEAD_LEN];
        int fd = raw_open();

        raw_send(fd, REQ_HEAD, HEAD_LEN);
        cr_assert(eq(sz, raw_recv(fd, answer, HEAD_LEN), HEAD_LEN));
        raw_send(fd, head, message_head(head, lengths[i]));
        cr_expect(raw_closed(fd), "length %" PRIu64, lengths[i]);
        close(fd);
    }
    expect_served();
}

Test(ipc, half_messages_and_messages_without_a_number_leave_the_agent_serving)
{
    static const char zeros[1000];
    uint8_t head[16];
    int fds[20];

    for (int i = 0; i < 20; i++) {
        size_t n = message_head(head, 1000);

        fds[i] = raw_open();
        raw_send(fds[i], REQ_HEAD, HEAD_LEN);
        if (i % 4 == 0)
            raw_send(fds[i], head, 1 + (size_t)i % n);
        if (i % 4 == 1) {
            raw_send(fds[i], head, n);
            raw_send(fds[i], zeros, 10 * (size_t)i);
        }
        if (i % 4 == 2) { /* no bit that ends the path of numbers */
            head[9] = 0;
            raw_send(fds[i], head, n);
            raw_send(fds[i], zeros, sizeof zeros);
        }
        if (i % 4 == 3) { /* shorter than a number */
            raw_send(fds[i], "\1\0\0\0\0\0\0\0\2ab", 11);
        }
    }
    expect_served();
    for (int i = 0; i < 20; i++)
        close(fds[i]);
    expect_served();
}

Test(ipc, random_bytes_leave_the_agent_serving)
{
    uint64_t x = 20240601; /* the same bytes in each run */

    for (int i = 0; i < 200; i++) {
        uint8_t bytes[300];
        int fd = raw_open();

        for (size_t j = 0; j < sizeof bytes; j++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes[j] = (uint8_t)x;
        }
        if (i % 3) { /* past the handshake, and of a believable length */
            raw_send(fd, REQ_HEAD, HEAD_LEN);
            message_head(bytes, sizeof bytes - 13);
        }
        raw_send(fd, bytes, sizeof bytes);
        close(fd);
    }
    expect_served();
}

Test(ipc, five_hundred_idle_connections_leave_the_agent_serving)
{
    int fds[500];

    for (size_t i = 0; i < LDR_ARRAY_LEN(fds); i++) {
        fds[i] = raw_open();
        if (i % 2)
            raw_send(fds[i], REQ_HEAD, HEAD_LEN);
    }
    expect_served();
    for (size_t i = 0; i < LDR_ARRAY_LEN(fds); i++)
        close(fds[i]);
    expect_served();
}

/* A request for the bytes of "big", framed. */
static size_t framed_get(uint8_t out[256])
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    size_t n;

    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = (char *)"file://box/big";
    get.want_bytes = true;
    n = message_head(out, larder__wire__request__get_packed_size(&req));
    return n + larder__wire__request__pack(&req, out + n);
}

Test(ipc, clients_that_never_read_their_replies_delay_nobody_nor_the_stop)
{
    uint8_t *bytes = bd_bytes(LDR_WIRE_CHUNK, 1), request[256];
    size_t n = framed_get(request);
    int fds[50];

    agent_seed_file(&t.agent, "box", "big", bytes, LDR_WIRE_CHUNK);
    for (size_t i = 0; i < LDR_ARRAY_LEN(fds); i++) { /* 2.5 times what stands ready to serve */
        fds[i] = raw_open();
        raw_send(fds[i], REQ_HEAD, HEAD_LEN);
        for (int j = 0; j < 3; j++)
            raw_send(fds[i], request, n);
    }
    agent_wait_counter(&t.agent, "gets", LDR_ARRAY_LEN(fds));
    expect_served();
    cr_expect(eq(int, agent_stop(&t.agent), 0));
    for (size_t i = 0; i < LDR_ARRAY_LEN(fds); i++)
        close(fds[i]);
    free(bytes);
}

Test(ipc, a_client_that_leaves_while_it_waits_is_forgotten)
{
    char reason[512] = "";
    uint8_t request[256];
    size_t n;
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    test_dir_make(t.dir);
    need_server(s3_server_start_test(&t.s3, t.dir, reason, sizeof reason), reason);
    agent_release(&t.agent);
    agent_init(&t.agent, &t.s3);
    agent_start(&t.agent);
    agent_seed_s3(&t.s3, "held", "hello", 5);
    cr_assert(s3_server_hold(&t.s3, "held"));
    req.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    req.get = &get;
    get.key = (char *)"s3://" S3_BUCKET "/held";
    n = message_head(request, larder__wire__request__get_packed_size(&req));
    n += larder__wire__request__pack(&req, request + n);
    for (unsigned i = 0; i < 100; i++) {
        int fd = raw_open();

        raw_send(fd, REQ_HEAD, HEAD_LEN);
        raw_send(fd, request, n);
        agent_wait_counter(&t.agent, "gets", i + 1);
        close(fd);
    }
    agent_wait_counter(&t.agent, "waiters_gone", 100);
    agent_wait_until(agent_counter(&t.agent, "contexts_busy") == 1);
    agent_wait_until(s3_server_count(&t.s3, "GET", S3_BUCKET "/held") > 0); /* a busy server counts late */
    cr_expect(eq(int, s3_server_count(&t.s3, "GET", S3_BUCKET "/held"), 1));
    cr_assert(s3_server_release(&t.s3, "held"));
    agent_wait_counter(&t.agent, "published", 1);
    expect_served();
}
