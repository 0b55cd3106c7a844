/* http.h - HTTP requests over libcurl; knows nothing of stores or signatures. Net thread only.
 * Bodies travel as they are sent: nothing is decoded, redirects are not followed, no cookie, no .netrc, only http and
 * https. The body of an answer goes to on_body as it arrives; whoever needs it in memory gathers it with a cap. */
#ifndef LDR_HTTP_H
#define LDR_HTTP_H

#include "backends/transport/net.h"
#include "common/buf.h"

#define LDR_HTTP_HEADERS_MAX (64 * LDR_KIB) /* of one answer */

struct ldr_http_req;

struct ldr_http_reply {
    int status;             /* of the final answer (1xx are skipped); 0: none arrived */
    int64_t content_length; /* -1: not said */
    struct ldr_buf
        headers;    /* "name: value\n" lines, names in lower case, values trimmed; borrowed, until on_done ends */
    int64_t date_s; /* the Date header; 0: none */
};

/* The value of a header copied to `out`; false: absent, or longer than cap - 1. */
bool ldr_http_header(const struct ldr_http_reply *r, const char *name, char *out, size_t cap);
/* Step through all headers: *pos starts at 0; name and value are borrowed, not NUL-terminated. */
bool ldr_http_header_next(const struct ldr_http_reply *r, size_t *pos, const char **name, size_t *name_len,
                          const char **value, size_t *value_len);
/* Seconds since 1970 UTC of an HTTP date; 0: it is none. */
int64_t ldr_http_date_s(const char *text);

struct ldr_http_req {
    /* filled in by the caller; borrowed until on_done */
    const char *method, *url;   /* url: absolute, already escaped; sent as it is (CURLOPT_PATH_AS_IS) */
    const char *const *headers; /* "Name: value", NULL-terminated; Host only where it differs from the url's */
    const void *body;           /* NULL: none, or body_fd */
    int body_fd;                /* -1: none; read by pread from 0 */
    uint64_t body_len;          /* a PUT or POST always says its length, 0 too */
    int64_t deadline_ns;        /* CLOCK_MONOTONIC */
    uint32_t connect_timeout_ms, stall_timeout_ms; /* 0: defaults (5 s; 30 s without a byte) */
    /* A body, of either direction, has to make min_speed bytes a second over speed_window_ms. 0: defaults (4 KiB/s over
     * 30 s); min_speed -1: it need not */
    int64_t min_speed;
    uint32_t speed_window_ms;
    const char *ca_file; /* NULL: the system's */
    bool direct; /* past the proxies of the environment: whom a proxy reaches at that address is somebody else */

    /* callbacks; on_headers and on_body return a kind: other than OK ends the request with it (and `err`) */
    enum larder_kind (*on_headers)(struct ldr_http_req *r, const struct ldr_http_reply *reply, struct larder_err *err);
    enum larder_kind (*on_body)(struct ldr_http_req *r, const void *p, size_t n, struct larder_err *err);
    /* Optional, for a body of MiBs that belongs into a file: asked at most once, when a part of the body came, where the
     * connection is of use for it (no TLS, the answer says its length, much is still to come); it serves no other request
     * then, so that it costs a connection. True: the `left` bytes to come belong
     * into *file from *at on, and the kernel moves them there; instead of on_body on_moved tells how many came. */
    bool last_of_connection; /* it is likely taken over: the server is told to close it, and keeps what remains of it */
    bool (*direct_into)(struct ldr_http_req *r, uint64_t left, int *file, uint64_t *at);
    enum larder_kind (*on_moved)(struct ldr_http_req *r, size_t n, struct larder_err *err);
    /* Exactly once, last; the request's memory is the caller's again. kind OK: a complete answer arrived, of whatever
     * status. UNAVAILABLE: no connection, reset, short body (reply.status may be set). TIMEOUT: deadline. CANCELLED.
     * `sent`: the request may have reached the server. */
    void (*on_done)(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *err);

    /* results */
    struct ldr_http_reply reply;
    bool sent;
    unsigned attempts; /* how often it was sent: a kept connection may be dead, curl then repeats the request */
    uint64_t bytes_in, bytes_out; /* bodies, whatever the outcome */
    void *priv;                   /* transport's own */
};

/* Start. Ends by on_done, perhaps before this returns; with CANCELLED at once when the net thread is stopping. Both may
 * be called from inside a callback, that of another request too. */
void ldr_http_send_on_net(struct ldr_net *n, struct ldr_http_req *r);
/* End it early: on_done with CANCELLED, before this returns. */
void ldr_http_cancel_on_net(struct ldr_net *n, struct ldr_http_req *r);

#endif
