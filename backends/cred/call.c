/* call.c - a small request to a service that gives credentials, repeated where that helps (cred_impl.h). Net thread.
 * What is sent and what comes back are secrets: the buffers have their full size from the start, so that growing leaves
 * no copies behind, and are wiped. */
#include "backends/cred/cred_impl.h"
#include "common/clock.h"

#include <openssl/crypto.h>
#include <string.h>

#define URL_MAX         (8 * LDR_KIB)
#define PAUSE_MS        100 /* before the second try; twice as long before each further one */
#define STATUS_TOO_MANY 429

void ldr_cred_call_init(struct ldr_cred_call *c, struct ldr_net *net)
{
    *c = (struct ldr_cred_call){ .net = net,
                                 .url = LDR_BUF_INIT(URL_MAX),
                                 .form = LDR_BUF_INIT(LDR_CRED_ANSWER_MAX),
                                 .lines = LDR_BUF_INIT(2 * LDR_CRED_TOKEN_MAX),
                                 .body = LDR_BUF_INIT(LDR_CRED_ANSWER_MAX) };
}

void ldr_cred_call_release(struct ldr_cred_call *c)
{
    ldr_cred_wipe_buf(&c->url);
    ldr_cred_wipe_buf(&c->form);
    ldr_cred_wipe_buf(&c->lines);
    ldr_cred_wipe_buf(&c->body);
}

static void forget(struct ldr_buf *b)
{
    if (b->p)
        OPENSSL_cleanse(b->p, b->room);
    b->len = 0;
    ldr_buf_reserve(b, b->cap); /* where this fails, adding will */
}

void ldr_cred_call_reset(struct ldr_cred_call *c)
{
    forget(&c->url);
    forget(&c->form);
    forget(&c->lines);
    forget(&c->body);
    c->n_headers = 0;
    c->headers[0] = NULL;
    c->method = "GET";
    c->direct = false;
    c->tries = 3;
    c->connect_ms = 0;
    c->timeout_ms = 10000;
}

bool ldr_cred_call_url(struct ldr_cred_call *c, const char *url, const char *more)
{
    return ldr_buf_add(&c->url, url, strlen(url)) && ldr_buf_add(&c->url, more, strlen(more)) && ldr_buf_str(&c->url);
}

bool ldr_cred_call_header(struct ldr_cred_call *c, const char *name, const char *value)
{
    size_t at = c->lines.len;

    if (c->n_headers + 1 == LDR_ARRAY_LEN(c->headers) || !ldr_buf_add(&c->lines, name, strlen(name)) ||
        !ldr_buf_add(&c->lines, ": ", 2) || !ldr_buf_add(&c->lines, value, strlen(value) + 1))
        return false;
    c->headers[c->n_headers++] = (char *)c->lines.p + at; /* stays: the buffer never moves */
    c->headers[c->n_headers] = NULL;
    return true;
}

static enum larder_kind on_body(struct ldr_http_req *r, const void *p, size_t n, struct larder_err *err)
{
    struct ldr_cred_call *c = LDR_CONTAINER(r, struct ldr_cred_call, req);

    if (ldr_buf_add(&c->body, p, n))
        return LARDER_OK;
    c->failed = true;
    return ldr_fail(err, LARDER_UNAVAILABLE, "the answer is larger than %d bytes", (int)LDR_CRED_ANSWER_MAX);
}

static void send_now(struct ldr_cred_call *c);

static void send_again(struct ldr_task *t)
{
    send_now(LDR_CONTAINER(t, struct ldr_cred_call, wait));
}

static void on_done(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_call *c = LDR_CONTAINER(r, struct ldr_cred_call, req);
    struct larder_err err;

    c->status = r->reply.status;
    c->date_s = r->reply.date_s;
    if (kind)
        err = *why;
    else if (c->status >= 500 || c->status == STATUS_TOO_MANY)
        kind = ldr_fail_http(&err, LARDER_UNAVAILABLE, c->status, "the service answered with status %d", c->status);
    if (kind == LARDER_TIMEOUT) /* of one try: who waits has a deadline of its own */
        kind = err.kind = LARDER_UNAVAILABLE;
    if (kind == LARDER_UNAVAILABLE && !c->failed && c->tried < c->tries) {
        uint32_t pause = PAUSE_MS << (c->tried - 1);

        c->wait.run = send_again;
        ldr_net_after_on_net(c->net, pause / 2 + (uint32_t)(ldr_mono_ns() % pause), &c->wait);
        return;
    }
    c->on_done(c, kind, kind ? &err : NULL);
}

static void send_now(struct ldr_cred_call *c)
{
    forget(&c->body);
    c->tried++;
    c->req = (struct ldr_http_req){
        .method = c->method,
        .url = (const char *)c->url.p,
        .headers = c->headers,
        .body = c->form.len > 0 ? c->form.p : NULL,
        .body_fd = -1,
        .body_len = c->form.len,
        .deadline_ns = ldr_deadline_ns(c->timeout_ms),
        .connect_timeout_ms = c->connect_ms,
        .direct = c->direct,
        .ca_file = c->ca_file,
        .on_body = on_body,
        .on_done = on_done,
    };
    ldr_http_send_on_net(c->net, &c->req);
}

void ldr_cred_call_start(struct ldr_cred_call *c)
{
    c->tried = 0;
    c->failed = false;
    send_now(c);
}
