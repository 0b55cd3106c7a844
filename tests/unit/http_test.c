/* http_test.c - the transport against a server of a few lines that says exactly what a test wants, whole or broken. */
#include "backends/transport/http.h"
#include "common/clock.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ---- the server: one connection at a time, in a thread ---- */

#define STEADY_BODY (640 * 1024)

struct server;
typedef void serve_fn(struct server *s, int conn, int nth); /* `conn` is closed behind it */

struct server {
    int listener;
    char origin[64]; /* "http://127.0.0.1:PORT" */
    serve_fn *serve;
    pthread_t thread;
    char request[256 * 1024]; /* the last whole one; written before it is answered */
    size_t len;
    char incoming[256 * 1024];
    int connections;
};

static struct server server;
static struct ldr_net *net;

static void *accept_all(void *user)
{
    struct server *s = user;
    int conn;

    while ((conn = accept(s->listener, NULL, NULL)) != -1) {
        s->serve(s, conn, s->connections++);
        close(conn);
    }
    return NULL;
}

static int listen_somewhere(struct sockaddr_in *addr)
{
    socklen_t n = sizeof *addr;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *addr = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    cr_assert(fd != -1 && !bind(fd, (struct sockaddr *)addr, n) && !listen(fd, 16) &&
              !getsockname(fd, (struct sockaddr *)addr, &n));
    return fd;
}

static void server_start(serve_fn *serve)
{
    struct sockaddr_in addr;

    server.listener = listen_somewhere(&addr);
    server.serve = serve;
    snprintf(server.origin, sizeof server.origin, "http://127.0.0.1:%d", ntohs(addr.sin_port));
    cr_assert(zero(int, pthread_create(&server.thread, NULL, accept_all, &server)));
}

static void server_stop(void)
{
    if (!server.serve)
        return;
    shutdown(server.listener, SHUT_RDWR); /* ends accept() */
    pthread_join(server.thread, NULL);
    close(server.listener);
    server.serve = NULL;
}

static void set_up(void)
{
    struct larder_err err = { 0 };

    cr_assert(eq(int, ldr_net_new(&(struct ldr_net_cfg){ .connections_per_host = 4 }, &net, &err), LARDER_OK), "%s",
              err.msg);
}

static void tear_down(void)
{
    ldr_net_free(&net);
    server_stop();
}

TestSuite(http, .init = set_up, .fini = tear_down, .timeout = 30);

/* One request into s->request; false: the client left. */
static bool read_request(struct server *s, int conn)
{
    size_t want = 0, len = 0;

    while (!want || len < want) {
        ssize_t n = read(conn, s->incoming + len, sizeof s->incoming - 1 - len);
        char *end, *length;

        if (n <= 0)
            return false;
        len += (size_t)n;
        s->incoming[len] = '\0';
        end = strstr(s->incoming, "\r\n\r\n");
        if (!want && end) {
            length = strcasestr(s->incoming, "\r\ncontent-length:");
            want = (size_t)(end + 4 - s->incoming) + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        }
    }
    memcpy(s->request, s->incoming, len + 1);
    s->len = len;
    return true;
}

static void wait_for_client(int conn)
{
    char c;

    while (read(conn, &c, 1) > 0)
        ;
}

static void say(int conn, const char *text)
{
    cr_assert(ge(i64, send(conn, text, strlen(text), MSG_NOSIGNAL), 0));
}

/* ---- the client ---- */

struct ask {
    struct ldr_http_req req; /* set what a test needs, then ask() */
    struct ldr_task task;
    sem_t done;
    enum larder_kind kind;
    struct larder_err err;
    struct ldr_buf body;
    char headers[4096];
    int heads, ends;
    /* what the callbacks do */
    enum larder_kind refuse_headers, refuse_body;
    bool cancel_in_body;
    struct ask *send_in_body;
};

static void send_on_net(struct ldr_task *t)
{
    ldr_http_send_on_net(net, &LDR_CONTAINER(t, struct ask, task)->req);
}

static enum larder_kind on_headers(struct ldr_http_req *r, const struct ldr_http_reply *reply, struct larder_err *err)
{
    struct ask *a = LDR_CONTAINER(r, struct ask, req);

    a->heads++;
    snprintf(a->headers, sizeof a->headers, "%.*s", (int)reply->headers.len, (char *)reply->headers.p);
    return a->refuse_headers ? ldr_fail(err, a->refuse_headers, "these headers will not do") : LARDER_OK;
}

static enum larder_kind on_body(struct ldr_http_req *r, const void *p, size_t n, struct larder_err *err)
{
    struct ask *a = LDR_CONTAINER(r, struct ask, req), *next = a->send_in_body;

    cr_assert(ldr_buf_add(&a->body, p, n));
    a->send_in_body = NULL;
    if (next)
        ldr_http_send_on_net(net, &next->req);
    if (a->cancel_in_body)
        ldr_http_cancel_on_net(net, r);
    return a->refuse_body ? ldr_fail(err, a->refuse_body, "this body will not do") : LARDER_OK;
}

static void on_done(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *err)
{
    struct ask *a = LDR_CONTAINER(r, struct ask, req);

    a->ends++;
    a->kind = kind;
    if (kind)
        a->err = *err;
    sem_post(&a->done);
}

static void ask_init(struct ask *a, const char *method, char *url)
{
    *a = (struct ask){ .req = { .method = method,
                                .url = url,
                                .body_fd = -1,
                                .deadline_ns = ldr_deadline_ns(20000),
                                .on_headers = on_headers,
                                .on_body = on_body,
                                .on_done = on_done },
                       .task.run = send_on_net,
                       .body = LDR_BUF_INIT(LDR_MIB) };
    sem_init(&a->done, 0, 0);
}

static void ask_release(struct ask *a)
{
    sem_destroy(&a->done);
    ldr_buf_release(&a->body);
}

static enum larder_kind wait_for(struct ask *a)
{
    while (sem_wait(&a->done) == -1)
        ;
    cr_expect(eq(int, a->ends, 1), "a request ends exactly once");
    cr_expect(eq(int, a->kind, a->err.kind));
    return a->kind;
}

static enum larder_kind ask(struct ask *a)
{
    ldr_net_post(net, &a->task);
    return wait_for(a);
}

static char *url_of(const char *path)
{
    static char url[1024];

    snprintf(url, sizeof url, "%s%s", server.origin, path);
    return url;
}

/* GET / of a server that answers each request with `serve`. */
static enum larder_kind get(struct ask *a, serve_fn *serve)
{
    server_start(serve);
    ask_init(a, "GET", url_of("/"));
    return ask(a);
}

static void expect_body(struct ask *a, const char *want)
{
    cr_expect(eq(str, (char *)ldr_buf_str(&a->body), (char *)want));
}

/* ---- answers as they should be ---- */

static void serve_hello(struct server *s, int conn, int nth)
{
    (void)nth;
    while (read_request(s, conn))
        say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: Fri, 24 May 2013 00:00:00 GMT\r\n"
                  "X-Amz-Meta-Name:  Some Value \t\r\nEmpty:\r\n\r\nhello");
}

Test(http, a_get_brings_status_headers_and_body)
{
    struct ask a;

    cr_assert(eq(int, get(&a, serve_hello), LARDER_OK), "%s", a.err.msg);
    expect_body(&a, "hello");
    cr_expect(eq(int, a.req.reply.status, 200));
    cr_expect(eq(i64, a.req.reply.content_length, 5));
    cr_expect(eq(i64, a.req.reply.date_s, 1369353600));
    cr_expect(eq(u64, a.req.bytes_in, 5));
    cr_expect(a.req.sent && a.req.attempts == 1 && a.heads == 1);
    cr_expect(eq(str, a.headers,
                 "content-length: 5\ndate: Fri, 24 May 2013 00:00:00 GMT\n"
                 "x-amz-meta-name: Some Value\nempty: \n"));
    ask_release(&a);
}

static enum larder_kind look_up(struct ldr_http_req *r, const struct ldr_http_reply *reply, struct larder_err *err)
{
    char value[16] = "";
    bool ok = ldr_http_header(reply, "x-amz-meta-name", value, 11) && !strcmp(value, "Some Value") &&
              !ldr_http_header(reply, "x-amz-meta-name", value, 10) && /* too small for it and its NUL */
              ldr_http_header(reply, "empty", value, sizeof value) && !*value &&
              !ldr_http_header(reply, "x-amz-meta", value, sizeof value);

    (void)r;
    return ok ? LARDER_OK : ldr_fail(err, LARDER_INTERNAL, "a header was not found, or one that is not there");
}

Test(http, headers_are_found_by_name)
{
    struct ask a;

    server_start(serve_hello);
    ask_init(&a, "GET", url_of("/"));
    a.req.on_headers = look_up;
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    ask_release(&a);
}

static void serve_bytes(struct server *s, int conn, int nth)
{
    static const char text[] = "HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nA: b\r\n\r\nabc";
    int on = 1;

    (void)nth;
    setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    read_request(s, conn);
    for (size_t i = 0; i < sizeof text - 1; i++)
        send(conn, text + i, 1, MSG_NOSIGNAL);
    wait_for_client(conn);
}

Test(http, an_answer_that_comes_byte_by_byte_is_read)
{
    struct ask a;

    cr_assert(eq(int, get(&a, serve_bytes), LARDER_OK), "%s", a.err.msg);
    expect_body(&a, "abc");
    cr_expect(eq(str, a.headers, "content-length: 3\na: b\n"));
    ask_release(&a);
}

static void serve_informational(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 103 Early Hints\r\nContent-Length: 99\r\nEarly: 1\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
              "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno");
}

Test(http, informational_answers_are_skipped)
{
    struct ask a;

    cr_assert(eq(int, get(&a, serve_informational), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(int, a.req.reply.status, 404));
    cr_expect(eq(int, a.heads, 1));
    cr_expect(eq(str, a.headers, "content-length: 2\n"));
    expect_body(&a, "no");
    ask_release(&a);
}

static void serve_chunks(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n");
}

Test(http, a_chunked_body_says_no_length_and_trailers_are_no_headers)
{
    struct ask a;

    cr_assert(eq(int, get(&a, serve_chunks), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(i64, a.req.reply.content_length, -1));
    cr_expect(eq(str, a.headers, "transfer-encoding: chunked\n"));
    expect_body(&a, "abcde");
    ask_release(&a);
}

static void serve_head(struct server *s, int conn, int nth)
{
    (void)nth;
    while (read_request(s, conn))
        say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 123456789012\r\n\r\n");
}

Test(http, a_head_has_a_length_and_no_body)
{
    struct ask a;

    server_start(serve_head);
    ask_init(&a, "HEAD", url_of("/"));
    cr_assert(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(i64, a.req.reply.content_length, 123456789012));
    cr_expect(eq(sz, a.body.len, 0));
    ask_release(&a);
}

static void serve_encoded(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip");
}

Test(http, a_body_is_never_decoded)
{
    struct ask a;

    cr_assert(eq(int, get(&a, serve_encoded), LARDER_OK), "%s", a.err.msg);
    expect_body(&a, "not gzip");
    ask_release(&a);
}

static void serve_redirect(struct server *s, int conn, int nth)
{
    (void)nth;
    while (read_request(s, conn))
        say(conn, "HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n");
}

Test(http, a_redirect_is_not_followed)
{
    struct ask a;

    cr_assert(eq(int, get(&a, serve_redirect), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(int, a.req.reply.status, 307));
    cr_expect(eq(int, a.req.attempts, 1));
    ask_release(&a);
}

/* ---- what is sent ---- */

Test(http, a_request_is_sent_as_it_was_given)
{
    struct ask a;

    server_start(serve_hello);
    ask_init(&a, "PUT", url_of("/b/../a//%2F%41?x=1"));
    a.req.headers = (const char *const[]){ "Host: other.example", "X-Full: v  w", "X-Empty:", NULL };
    a.req.body = "body";
    a.req.body_len = 4;
    cr_assert(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(u64, a.req.bytes_out, 4));
    ldr_net_free(&net);
    server_stop();
    cr_expect(zero(int, strncmp(server.request, "PUT /b/../a//%2F%41?x=1 HTTP/1.1\r\n", 34)), "%s", server.request);
    cr_expect(ne(ptr, strstr(server.request, "\r\nHost: other.example\r\n"), NULL));
    cr_expect(ne(ptr, strstr(server.request, "\r\nX-Full: v  w\r\n"), NULL));
    cr_expect(ne(ptr, strstr(server.request, "\r\nX-Empty:"), NULL));
    cr_expect(ne(ptr, strstr(server.request, "\r\nContent-Length: 4\r\n"), NULL));
    cr_expect(zero(ptr, strcasestr(server.request, "expect:")));
    cr_expect(zero(ptr, strcasestr(server.request, "content-type:")));
    cr_expect(zero(ptr, strcasestr(server.request, "accept-encoding:")));
    cr_expect(eq(str, server.request + server.len - 8, "\r\n\r\nbody"));
    ask_release(&a);
}

static void expect_method(const char *method, const char *line, bool says_length)
{
    struct ask a;

    ask_init(&a, method, url_of("/k"));
    cr_assert(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    /* the server waits for the next request, so its buffer is still */
    cr_expect(zero(int, strncmp(server.request, line, strlen(line))), "%s", server.request);
    cr_expect(eq(int, strstr(server.request, "\r\nContent-Length: 0\r\n") != NULL, says_length), "%s", server.request);
    ask_release(&a);
}

Test(http, a_body_of_no_bytes_still_has_a_length)
{
    server_start(serve_hello);
    expect_method("PUT", "PUT /k HTTP/1.1\r\n", true);
    expect_method("POST", "POST /k HTTP/1.1\r\n", true);
    expect_method("DELETE", "DELETE /k HTTP/1.1\r\n", false);
    expect_method("GET", "GET /k HTTP/1.1\r\n", false);
    cr_expect(eq(int, server.connections, 1), "the connection is kept");
}

Test(http, a_body_comes_from_a_file)
{
    int fd = memfd_create("body", MFD_CLOEXEC);
    struct ask a;

    cr_assert(eq(i64, pwrite(fd, "0123456789", 10, 0), 10));
    server_start(serve_hello);
    ask_init(&a, "PUT", url_of("/"));
    a.req.body_fd = fd;
    a.req.body_len = 7;
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(str, server.request + server.len - 11, "\r\n\r\n0123456"));
    ask_release(&a);
    close(fd);
}

Test(http, a_file_that_is_too_short_is_an_io_error)
{
    int fd = memfd_create("body", MFD_CLOEXEC);
    struct ask a;

    cr_assert(eq(i64, pwrite(fd, "01234", 5, 0), 5));
    server_start(serve_hello);
    ask_init(&a, "PUT", url_of("/"));
    a.req.body_fd = fd;
    a.req.body_len = 7;
    cr_expect(eq(int, ask(&a), LARDER_IO));
    ask_release(&a);
    close(fd);
}

/* The first connection answers once, reads the next request whole and closes without a word. */
static void serve_dying(struct server *s, int conn, int nth)
{
    if (!read_request(s, conn))
        return;
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    if (nth == 0)
        read_request(s, conn);
    else
        wait_for_client(conn);
}

Test(http, a_put_is_repeated_from_its_start_when_a_kept_connection_is_dead)
{
    size_t n = 200 * 1024;
    char *body = malloc(n);
    struct ask a;

    for (size_t i = 0; i < n; i++)
        body[i] = (char)('a' + i % 23);
    server_start(serve_dying);
    ask_init(&a, "GET", url_of("/"));
    cr_assert(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    ask_release(&a);
    ask_init(&a, "PUT", url_of("/"));
    a.req.body = body;
    a.req.body_len = n;
    cr_assert(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(int, a.req.attempts, 2));
    ask_release(&a);
    ldr_net_free(&net);
    server_stop();
    cr_expect(eq(int, server.connections, 2));
    cr_assert(gt(sz, server.len, n));
    cr_expect(zero(int, memcmp(server.request + server.len - n, body, n)), "the body was not sent from its start");
    free(body);
}

/* ---- broken answers ---- */

static void serve_short(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
}

Test(http, a_body_that_is_cut_is_unavailable)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_short), LARDER_UNAVAILABLE));
    cr_expect(eq(int, a.req.reply.status, 200));
    cr_expect(eq(int, a.err.http, 200));
    ask_release(&a);
}

static void serve_cut_chunk(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
}

Test(http, a_chunked_body_that_is_cut_is_unavailable)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_cut_chunk), LARDER_UNAVAILABLE));
    ask_release(&a);
}

static void serve_long(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello world");
}

Test(http, bytes_beyond_the_announced_length_are_not_delivered)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_long), LARDER_OK));
    expect_body(&a, "hello");
    ask_release(&a);
    ask_init(&a, "GET", url_of("/"));
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    expect_body(&a, "hello"); /* and are not taken for the next answer */
    ask_release(&a);
}

static void serve_two_lengths(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!");
}

Test(http, lengths_that_disagree_are_unavailable)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_two_lengths), LARDER_UNAVAILABLE));
    cr_expect(eq(int, a.heads, 0));
    ask_release(&a);
}

static void serve_bad_length(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello");
}

Test(http, a_length_that_is_no_number_is_unavailable)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_bad_length), LARDER_UNAVAILABLE));
    cr_expect(eq(int, a.heads, 0));
    ask_release(&a);
}

static void serve_endless_headers(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    for (int i = 0; send(conn, i ? "A: 0123456789\r\n" : "HTTP/1.1 200 OK\r\n", i ? 15 : 17, MSG_NOSIGNAL) > 0; i++)
        ;
}

Test(http, headers_without_end_are_unavailable)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_endless_headers), LARDER_UNAVAILABLE));
    cr_expect(ne(ptr, strstr(a.err.msg, "64 KiB"), NULL), "%s", a.err.msg);
    ask_release(&a);
}

static void serve_endless_informational(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    while (send(conn, "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n", 34, MSG_NOSIGNAL) > 0)
        ;
}

Test(http, informational_answers_without_end_are_unavailable)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_endless_informational), LARDER_UNAVAILABLE));
    cr_expect(eq(int, a.heads, 0));
    ask_release(&a);
}

static void serve_garbage(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "\x16\x03\x01 no http at all\r\n\r\n");
}

Test(http, what_is_no_http_is_unavailable)
{
    struct ask a;

    cr_expect(eq(int, get(&a, serve_garbage), LARDER_UNAVAILABLE));
    cr_expect(eq(int, a.heads, 0));
    ask_release(&a);
}

static void serve_nothing(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
}

Test(http, a_connection_that_is_closed_without_an_answer_is_unavailable_and_was_sent)
{
    struct ask a;

    server_start(serve_nothing);
    ask_init(&a, "PUT", url_of("/"));
    cr_expect(eq(int, ask(&a), LARDER_UNAVAILABLE));
    cr_expect(a.req.sent && a.req.attempts == 1);
    ask_release(&a);
}

Test(http, a_server_that_is_not_there_is_unavailable_and_nothing_was_sent)
{
    struct sockaddr_in addr;
    int fd = listen_somewhere(&addr);
    char url[128];
    struct ask a;

    close(fd);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/k?X-Amz-Signature=5ecret", ntohs(addr.sin_port));
    ask_init(&a, "PUT", url);
    cr_expect(eq(int, ask(&a), LARDER_UNAVAILABLE));
    cr_expect(not(a.req.sent));
    cr_expect(zero(ptr, strstr(a.err.msg, "5ecret")), "%s", a.err.msg);
    cr_expect(ne(ptr, strstr(a.err.msg, "Connection refused"), NULL), "%s", a.err.msg);
    cr_expect(eq(int, a.err.sys, ECONNREFUSED));
    ask_release(&a);
}

Test(http, a_name_without_an_address_is_unavailable_and_told)
{
    struct ask a;

    /* a label longer than names can have: no resolver is asked */
    ask_init(&a, "GET", "http://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.invalid/k");
    cr_expect(eq(int, ask(&a), LARDER_UNAVAILABLE));
    cr_expect(not(a.req.sent));
    cr_expect(ne(ptr, strstr(a.err.msg, "resolve host"), NULL), "%s", a.err.msg);
    ask_release(&a);
}

/* ---- proxies ---- */

Test(http, a_proxy_of_the_environment_is_used)
{
    struct ask a;

    server_start(serve_hello);
    setenv("http_proxy", server.origin, 1);
    unsetenv("no_proxy");
    unsetenv("NO_PROXY");
    ask_init(&a, "GET", "http://store.invalid/b/k");
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    cr_expect(zero(int, strncmp(server.request, "GET http://store.invalid/b/k HTTP/1.1\r\n", 38)), "%s",
              server.request);
    ask_release(&a);
}

Test(http, a_request_that_goes_directly_passes_the_proxy_by)
{
    struct ask a;

    server_start(serve_hello);
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    ask_init(&a, "GET", url_of("/k"));
    a.req.direct = true;
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    ask_release(&a);
}

Test(http, what_no_proxy_names_passes_the_proxy_by)
{
    struct ask a;

    server_start(serve_hello);
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("no_proxy", "other.example,127.0.0.1", 1);
    ask_init(&a, "GET", url_of("/k"));
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    ask_release(&a);
}

static void serve_no_tunnel(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
}

Test(http, https_goes_through_a_tunnel_and_a_proxy_that_refuses_it_is_told)
{
    char with_password[96];
    struct ask a;

    server_start(serve_no_tunnel);
    snprintf(with_password, sizeof with_password, "http://me:pa55word@%.64s", server.origin + strlen("http://"));
    setenv("https_proxy", with_password, 1);
    unsetenv("no_proxy");
    unsetenv("NO_PROXY");
    ask_init(&a, "GET", "https://store.invalid/b/k");
    cr_expect(eq(int, ask(&a), LARDER_UNAVAILABLE));
    cr_expect(not(a.req.sent));
    cr_expect(zero(int, strncmp(server.request, "CONNECT store.invalid:443 HTTP/1.1\r\n", 36)), "%s", server.request);
    cr_expect(ne(ptr, strstr(server.request, "Proxy-Authorization: Basic "), NULL), "%s", server.request);
    cr_expect(ne(ptr, strstr(a.err.msg, "403"), NULL), "%s", a.err.msg);
    cr_expect(zero(ptr, strstr(a.err.msg, "pa55word")), "%s", a.err.msg);
    ask_release(&a);
}

Test(http, only_http_is_spoken)
{
    struct ask a;

    ask_init(&a, "GET", "file:///etc/passwd");
    cr_expect(eq(int, ask(&a), LARDER_INVALID));
    cr_expect(eq(sz, a.body.len, 0));
    ask_release(&a);
}

/* ---- time ---- */

static void serve_half(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    wait_for_client(conn);
}

Test(http, an_answer_that_stalls_is_unavailable)
{
    struct ask a;

    server_start(serve_half);
    ask_init(&a, "GET", url_of("/"));
    a.req.stall_timeout_ms = 60;
    cr_expect(eq(int, ask(&a), LARDER_UNAVAILABLE));
    cr_expect(ne(ptr, strstr(a.err.msg, "stalled"), NULL), "%s", a.err.msg);
    expect_body(&a, "hello");
    ask_release(&a);
}

/* A byte of a body of 1000 each 2 ms: never a stall. */
static void serve_slowly(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    for (int i = 0; i < 1000 && send(conn, "x", 1, MSG_NOSIGNAL) == 1; i++)
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

Test(http, a_body_that_comes_too_slowly_is_unavailable)
{
    struct ask a;

    server_start(serve_slowly);
    ask_init(&a, "GET", url_of("/"));
    a.req.min_speed = 100000;
    a.req.speed_window_ms = 200;
    cr_expect(eq(int, ask(&a), LARDER_UNAVAILABLE));
    cr_expect(ne(ptr, strstr(a.err.msg, "is too slow: "), NULL), "%s", a.err.msg);
    cr_expect(lt(u64, a.req.bytes_in, 1000));
    ask_release(&a);
}

Test(http, a_body_that_is_fast_enough_is_measured_window_by_window)
{
    struct ask a;

    server_start(serve_slowly);
    ask_init(&a, "GET", url_of("/"));
    a.req.min_speed = 20; /* some 400 come */
    a.req.speed_window_ms = 100;
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(u64, a.req.bytes_in, 1000));
    ask_release(&a);
}

Test(http, speed_is_not_asked_for_where_nobody_cares)
{
    struct ask a;

    server_start(serve_slowly);
    ask_init(&a, "GET", url_of("/"));
    a.req.min_speed = -1;
    a.req.speed_window_ms = 50;
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    ask_release(&a);
}

/* Takes the whole body, then thinks for a while. */
static void serve_thinking(struct server *s, int conn, int nth)
{
    (void)nth;
    read_request(s, conn);
    nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

Test(http, a_store_that_thinks_before_it_answers_is_not_slow)
{
    struct ask a;

    server_start(serve_thinking);
    ask_init(&a, "PUT", url_of("/"));
    a.req.body = "hello";
    a.req.body_len = 5;
    a.req.min_speed = 1000000;
    a.req.speed_window_ms = 50;
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    ask_release(&a);
}

/* Takes a request's head and a trickle of its body. */
static void serve_sipping(struct server *s, int conn, int nth)
{
    char sip[512];

    (void)s, (void)nth;
    while (read(conn, sip, sizeof sip) > 0)
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

Test(http, an_upload_that_is_taken_too_slowly_is_unavailable)
{
    size_t size = 16 << 20; /* more than sockets keep */
    char *body = calloc(1, size);
    struct ask a;

    cr_assert(body != NULL);
    server_start(serve_sipping);
    ask_init(&a, "PUT", url_of("/"));
    a.req.body = body;
    a.req.body_len = size;
    a.req.min_speed = 1 << 30;
    a.req.speed_window_ms = 300;
    cr_expect(eq(int, ask(&a), LARDER_UNAVAILABLE));
    cr_expect(ne(ptr, strstr(a.err.msg, "is too slow"), NULL), "%s", a.err.msg);
    cr_expect(a.req.sent);
    ask_release(&a);
    free(body);
}

/* Takes half of a body in small steps, without a pause that is long, and the rest at once. */
static void serve_steadily(struct server *s, int conn, int nth)
{
    static char sip[4096];
    size_t got = 0;
    ssize_t n;

    (void)s, (void)nth;
    while (got < STEADY_BODY && (n = read(conn, sip, sizeof sip)) > 0) {
        got += (size_t)n;
        if (got < STEADY_BODY / 2)
            nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
    }
    say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

Test(http, an_upload_whose_bytes_leave_slowly_but_steadily_is_no_stall)
{
    char *body = calloc(1, STEADY_BODY);
    struct ask a;

    cr_assert(body != NULL);
    server_start(serve_steadily); /* what the kernels of both sides keep is little with small segments and windows */
    cr_assert(zero(int, setsockopt(server.listener, IPPROTO_TCP, TCP_MAXSEG, &(int){ 536 }, sizeof(int))));
    cr_assert(zero(int, setsockopt(server.listener, SOL_SOCKET, SO_RCVBUF, &(int){ 4096 }, sizeof(int))));
    ask_init(&a, "PUT", url_of("/"));
    a.req.body = body;
    a.req.body_len = STEADY_BODY;
    a.req.stall_timeout_ms = 400; /* what curl reads ahead takes longer to leave */
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    ask_release(&a);
    free(body);
}

Test(http, an_answer_that_is_not_there_at_the_deadline_is_a_timeout)
{
    int64_t start = ldr_mono_ns();
    struct ask a;

    server_start(serve_half);
    ask_init(&a, "GET", url_of("/"));
    a.req.deadline_ns = start + 60 * LDR_NS_PER_MS;
    cr_expect(eq(int, ask(&a), LARDER_TIMEOUT));
    cr_expect(ge(i64, ldr_mono_ns(), a.req.deadline_ns));
    cr_expect(a.req.sent);
    ask_release(&a);
}

Test(http, a_deadline_that_has_passed_sends_nothing)
{
    struct ask a;

    server_start(serve_hello);
    ask_init(&a, "PUT", url_of("/"));
    a.req.deadline_ns = ldr_mono_ns() - 1;
    cr_expect(eq(int, ask(&a), LARDER_TIMEOUT));
    cr_expect(not(a.req.sent));
    ask_release(&a);
}

Test(http, a_deadline_holds_while_waiting_for_a_free_connection)
{
    struct ask busy[4], a;

    server_start(serve_half);
    for (int i = 0; i < 4; i++) { /* as many as connections_per_host */
        ask_init(&busy[i], "GET", url_of("/"));
        ldr_net_post(net, &busy[i].task);
    }
    ask_init(&a, "GET", server.origin);
    a.req.deadline_ns = ldr_mono_ns() + 60 * LDR_NS_PER_MS;
    cr_expect(eq(int, ask(&a), LARDER_TIMEOUT));
    cr_expect(not(a.req.sent));
    ldr_net_free(&net);
    for (int i = 0; i < 4; i++) {
        cr_expect(eq(int, wait_for(&busy[i]), LARDER_CANCELLED));
        ask_release(&busy[i]);
    }
    ask_release(&a);
}

/* ---- ending early ---- */

Test(http, headers_that_the_owner_refuses_end_the_request_with_his_kind)
{
    struct ask a;

    server_start(serve_half);
    ask_init(&a, "GET", url_of("/"));
    a.refuse_headers = LARDER_LIMIT_EXCEEDED;
    cr_expect(eq(int, ask(&a), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(str, a.err.msg, "these headers will not do"));
    cr_expect(eq(sz, a.body.len, 0));
    ask_release(&a);
}

Test(http, a_body_that_the_owner_refuses_ends_the_request_with_his_kind)
{
    struct ask a;

    server_start(serve_half);
    ask_init(&a, "GET", url_of("/"));
    a.refuse_body = LARDER_IO;
    cr_expect(eq(int, ask(&a), LARDER_IO));
    cr_expect(eq(str, a.err.msg, "this body will not do"));
    ask_release(&a);
}

Test(http, a_request_may_be_cancelled_inside_its_own_callback)
{
    struct ask a;

    server_start(serve_half);
    ask_init(&a, "GET", url_of("/"));
    a.cancel_in_body = true;
    cr_expect(eq(int, ask(&a), LARDER_CANCELLED));
    ask_release(&a);
}

Test(http, a_request_may_be_sent_inside_the_callback_of_another)
{
    struct ask a, b;

    server_start(serve_hello);
    ask_init(&a, "GET", url_of("/"));
    ask_init(&b, "GET", url_of("/"));
    a.send_in_body = &b;
    cr_expect(eq(int, ask(&a), LARDER_OK), "%s", a.err.msg);
    cr_expect(eq(int, wait_for(&b), LARDER_OK), "%s", b.err.msg);
    expect_body(&b, "hello");
    ask_release(&a);
    ask_release(&b);
}

struct cancel {
    struct ldr_task task;
    struct ask *a;
    sem_t done;
    bool ended_at_once;
};

static void cancel_on_net(struct ldr_task *t)
{
    struct cancel *c = LDR_CONTAINER(t, struct cancel, task);

    ldr_http_cancel_on_net(net, &c->a->req);
    c->ended_at_once = c->a->ends == 1;
    ldr_http_cancel_on_net(net, &c->a->req); /* twice: nothing more happens */
    sem_post(&c->done);
}

Test(http, a_cancelled_request_ends_before_the_cancel_returns_and_only_once)
{
    struct ask a;
    struct cancel c = { .task.run = cancel_on_net, .a = &a };

    sem_init(&c.done, 0, 0);
    server_start(serve_half);
    ask_init(&a, "GET", url_of("/"));
    ldr_net_post(net, &a.task);
    ldr_net_post(net, &c.task);
    while (sem_wait(&c.done) == -1)
        ;
    cr_expect(c.ended_at_once);
    cr_expect(eq(int, wait_for(&a), LARDER_CANCELLED));
    ask_release(&a);
    sem_destroy(&c.done);
}

/* ---- the net thread ---- */

Test(http, stopping_ends_requests_and_starts_none)
{
    struct ask a, late;

    server_start(serve_half);
    ask_init(&a, "GET", url_of("/"));
    ask_init(&late, "GET", url_of("/"));
    ldr_net_post(net, &a.task);
    ldr_net_post(net, &late.task); /* may be sent, or come too late: it ends either way */
    ldr_net_free(&net);
    cr_expect(eq(int, wait_for(&a), LARDER_CANCELLED));
    cr_expect(eq(int, wait_for(&late), LARDER_CANCELLED));
    ask_release(&a);
    ask_release(&late);
}

struct tick {
    struct ldr_task task;
    uint32_t delay_ms;
    int *order, me;
    sem_t *done;
};

static void tick(struct ldr_task *t)
{
    struct tick *k = LDR_CONTAINER(t, struct tick, task);

    cr_expect(ldr_net_here(net));
    *k->order = *k->order * 10 + k->me;
    sem_post(k->done);
}

static void start_tick(struct ldr_task *t)
{
    struct tick *k = LDR_CONTAINER(t, struct tick, task);

    t->run = tick;
    ldr_net_after_on_net(net, k->delay_ms, t);
}

Test(http, timers_run_in_the_order_of_their_time)
{
    static const uint32_t delays[] = { 30, 0, 60, 10, 100000 };
    struct tick ticks[5];
    int order = 0;
    sem_t done;

    sem_init(&done, 0, 0);
    for (int i = 0; i < 5; i++) {
        ticks[i] =
            (struct tick){ .task.run = start_tick, .delay_ms = delays[i], .order = &order, .me = i + 1, .done = &done };
        ldr_net_post(net, &ticks[i].task);
    }
    for (int i = 0; i < 4; i++)
        while (sem_wait(&done) == -1)
            ;
    ldr_net_free(&net); /* the last one runs early */
    cr_expect(eq(int, order, 24135));
    sem_destroy(&done);
}

struct count {
    struct ldr_task task;
    atomic_int *n;
};

static void count_one(struct ldr_task *t)
{
    atomic_fetch_add(LDR_CONTAINER(t, struct count, task)->n, 1);
}

static void *post_many(void *user)
{
    struct count *tasks = user;

    for (int i = 0; i < 1000; i++)
        ldr_net_post(net, &tasks[i].task);
    return NULL;
}

Test(http, everything_that_was_posted_runs_before_the_thread_ends)
{
    static struct count tasks[4000];
    atomic_int n = 0;
    pthread_t threads[4];

    for (int i = 0; i < 4000; i++)
        tasks[i] = (struct count){ .task.run = count_one, .n = &n };
    for (int i = 0; i < 4; i++)
        cr_assert(zero(int, pthread_create(&threads[i], NULL, post_many, tasks + 1000 * i)));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ldr_net_free(&net);
    cr_expect(eq(int, atomic_load(&n), 4000));
}

struct trip {
    struct ldr_task task;
    pthread_t thread;
    sem_t stopping;
    bool back;
};

static void come_back(struct ldr_task *t)
{
    LDR_CONTAINER(t, struct trip, task)->back = true;
    ldr_net_away_on_net(net, -1);
}

static void *travel(void *user)
{
    struct trip *trip = user;

    while (!ldr_net_stopping(net)) /* it begins to stop while the work is away */
        sched_yield();
    trip->task.run = come_back;
    ldr_net_post(net, &trip->task);
    return NULL;
}

static void go_away(struct ldr_task *t)
{
    struct trip *trip = LDR_CONTAINER(t, struct trip, task);

    ldr_net_away_on_net(net, 1);
    cr_assert(zero(int, pthread_create(&trip->thread, NULL, travel, trip)));
    sem_post(&trip->stopping);
}

Test(http, stopping_waits_for_work_that_is_away)
{
    struct trip trip = { .task.run = go_away };

    sem_init(&trip.stopping, 0, 0);
    ldr_net_post(net, &trip.task);
    while (sem_wait(&trip.stopping) == -1)
        ;
    ldr_net_free(&net);
    cr_expect(trip.back);
    pthread_join(trip.thread, NULL);
    sem_destroy(&trip.stopping);
}

/* ---- bodies that the kernel moves into a file ---- */

#define LARGE (3u * 1024 * 1024)

struct moved {
    struct ask ask;
    int file;       /* -1: direct_into says no */
    uint64_t from;  /* of the body's bytes that came by on_body */
    uint64_t moved; /* of those that did not */
    int asked;
    bool cancel;
    enum larder_kind refuse;
};

static bool into_file(struct ldr_http_req *r, uint64_t left, int *file, uint64_t *at)
{
    struct moved *m = LDR_CONTAINER(r, struct moved, ask.req);

    m->asked++;
    m->from = m->ask.body.len;
    cr_expect(eq(u64, left, LARGE - m->from));
    *file = m->file;
    *at = m->from;
    return m->file != -1;
}

static enum larder_kind on_moved(struct ldr_http_req *r, size_t n, struct larder_err *err)
{
    struct moved *m = LDR_CONTAINER(r, struct moved, ask.req);

    m->moved += n;
    if (m->cancel)
        ldr_http_cancel_on_net(net, r);
    return m->refuse ? ldr_fail(err, m->refuse, "these bytes will not do") : LARDER_OK;
}

static void moved_init(struct moved *m, char *url)
{
    memset(m, 0, sizeof *m);
    ask_init(&m->ask, "GET", url);
    m->ask.body.cap = 2 * LARGE;
    m->ask.req.direct_into = into_file;
    m->ask.req.on_moved = on_moved;
    m->ask.req.last_of_connection = true;
    m->file = memfd_create("body", MFD_CLOEXEC);
    cr_assert(m->file != -1 && !ftruncate(m->file, LARGE));
}

static void moved_expect_all(struct moved *m)
{
    uint8_t *got = malloc(LARGE);

    cr_assert(eq(int, m->ask.kind, LARDER_OK), "%s", m->ask.err.msg);
    cr_expect(eq(int, m->asked, 1));
    cr_expect(gt(u64, m->moved, 0));
    cr_expect(eq(u64, m->from + m->moved, LARGE));
    cr_expect(eq(u64, m->ask.req.bytes_in, LARGE));
    cr_assert(pread(m->file, got, LARGE, 0) == (ssize_t)LARGE);
    memcpy(got, m->ask.body.p, m->ask.body.len);
    for (size_t i = 0; i < LARGE; i++)
        cr_assert(got[i] == (uint8_t)(i * 7 + (i >> 12)), "byte %zu", i);
    free(got);
}

static void moved_release(struct moved *m)
{
    ldr_buf_release(&m->ask.body);
    close(m->file);
}

/* LARGE bytes, of which `most` are sent. */
static void say_large(int conn, size_t most, const char *headers)
{
    uint8_t *body = malloc(LARGE);
    char head[256];

    for (size_t i = 0; i < LARGE; i++)
        body[i] = (uint8_t)(i * 7 + (i >> 12));
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %u\r\n%s\r\n", LARGE, headers);
    say(conn, head);
    for (size_t at = 0; at < most;) {
        ssize_t n = send(conn, body + at, most - at, MSG_NOSIGNAL);

        if (n <= 0)
            break;
        at += (size_t)n;
    }
    free(body);
}

static void serve_large(struct server *s, int conn, int nth)
{
    (void)nth;
    while (read_request(s, conn))
        say_large(conn, LARGE, "");
}

Test(http, a_large_body_is_moved_into_its_file)
{
    struct moved m;

    server_start(serve_large);
    for (int i = 0; i < 3; i++) {
        moved_init(&m, server.origin);
        ask(&m.ask);
        moved_expect_all(&m);
        moved_release(&m);
    }
    cr_expect(strstr(server.request, "\r\nConnection: close\r\n") != NULL);
}

static void serve_large_once(struct server *s, int conn, int nth)
{
    (void)nth;
    if (read_request(s, conn))
        say_large(conn, LARGE, "Connection: close\r\n");
}

Test(http, a_server_that_closes_behind_its_answer_is_no_failure)
{
    struct moved m;

    server_start(serve_large_once);
    for (int i = 0; i < 2; i++) {
        moved_init(&m, server.origin);
        ask(&m.ask);
        moved_expect_all(&m);
        moved_release(&m);
    }
    cr_expect(eq(int, server.connections, 2));
}

Test(http, who_has_no_file_gets_the_body_as_ever)
{
    struct moved m;

    server_start(serve_large);
    moved_init(&m, server.origin);
    close(m.file);
    m.file = -1;
    ask(&m.ask);
    cr_expect(eq(int, m.ask.kind, LARDER_OK), "%s", m.ask.err.msg);
    cr_expect(m.ask.body.len == LARGE && m.asked == 1 && m.moved == 0);
    ldr_buf_release(&m.ask.body);
}

static void serve_half_of_it(struct server *s, int conn, int nth)
{
    (void)nth;
    if (read_request(s, conn))
        say_large(conn, LARGE / 2, "");
}

Test(http, a_body_that_is_cut_while_it_is_moved_is_unavailable)
{
    struct moved m;

    server_start(serve_half_of_it);
    moved_init(&m, server.origin);
    ask(&m.ask);
    cr_expect(eq(int, m.ask.kind, LARDER_UNAVAILABLE));
    cr_expect(strstr(m.ask.err.msg, "broke off") != NULL, "%s", m.ask.err.msg);
    cr_expect(eq(int, m.ask.ends, 1));
    moved_release(&m);
}

Test(http, a_file_that_cannot_be_written_ends_the_request)
{
    struct moved m;

    server_start(serve_large);
    moved_init(&m, server.origin);
    close(m.file);
    m.file = open("/dev/full", O_WRONLY | O_CLOEXEC);
    cr_assert(m.file != -1);
    ask(&m.ask);
    cr_expect(eq(int, m.ask.kind, LARDER_IO), "%s", m.ask.err.msg);
    moved_release(&m);
    moved_init(&m, server.origin); /* nothing of it is left in the pipe */
    ask(&m.ask);
    moved_expect_all(&m);
    moved_release(&m);
}

Test(http, bytes_that_move_may_be_refused_or_given_up)
{
    struct moved m;

    server_start(serve_large);
    moved_init(&m, server.origin);
    m.refuse = LARDER_LIMIT_EXCEEDED;
    ask(&m.ask);
    cr_expect(eq(int, m.ask.kind, LARDER_LIMIT_EXCEEDED));
    moved_release(&m);
    moved_init(&m, server.origin);
    m.cancel = true;
    ask(&m.ask);
    cr_expect(m.ask.kind == LARDER_CANCELLED && m.ask.ends == 1);
    moved_release(&m);
}

static void serve_half_of_it_and_wait(struct server *s, int conn, int nth)
{
    (void)nth;
    if (!read_request(s, conn))
        return;
    say_large(conn, LARGE / 2, "");
    wait_for_client(conn);
}

Test(http, a_stall_and_a_deadline_hold_while_a_body_is_moved)
{
    struct moved m;

    server_start(serve_half_of_it_and_wait);
    moved_init(&m, server.origin);
    m.ask.req.stall_timeout_ms = 100;
    ask(&m.ask);
    cr_expect(eq(int, m.ask.kind, LARDER_UNAVAILABLE));
    cr_expect(strstr(m.ask.err.msg, "stalled") != NULL, "%s", m.ask.err.msg);
    moved_release(&m);
    moved_init(&m, server.origin);
    m.ask.req.deadline_ns = ldr_deadline_ns(300);
    ask(&m.ask);
    cr_expect(eq(int, m.ask.kind, LARDER_TIMEOUT), "%s", m.ask.err.msg);
    moved_release(&m);
}
