/* http.c - HTTP requests over libcurl (http.h). Step 9 of a get.
 *
 * A *slot* is an easy handle with what belongs to one request; slots are kept and used again, as are curl's
 * connections. curl's callbacks only fill the slot and call the request's owner. A request is ended (on_done) outside
 * of curl, but for a cancel; curl forbids to add and remove handles inside its callbacks, hence the lists `starting`
 * and `ending`. Time is watched here, not by curl: its own limits do not see requests that wait for a free connection,
 * and count a stall in whole seconds of an average. */
#include "backends/transport/http.h"
#include "backends/transport/net_int.h"
#include "common/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <unistd.h>

#define DATE_MAX_S         INT64_C(32503680000) /* the year 3000: no server means it */
#define SLOT_MAGIC         0x5107a11eu
#define IDLE_MAX           32 /* easy handles kept for the next requests */
#define CONNECT_TIMEOUT_MS 5000
#define STALL_TIMEOUT_MS   30000
#define MIN_SPEED          4096 /* of 32 transfers that share a line of 1 Mbit/s each still makes it */
#define SPEED_WINDOW_MS    30000
#define OURS_MS            1000 /* a window that is seen so long after its end says that we were slow */
#define CA_FILE_S          600  /* a file of certificates that is replaced counts after so long */
#define LATE_LOOK_NS       (100 * LDR_NS_PER_MS) /* requests are looked through for late ones so often */
#define RECV_BUFFER        (256L * 1024)         /* what curl reads from a socket at once */
#define DIRECT_MIN         LDR_MIB               /* of a body, that its connection is taken over for */
#define SEND_BUFFER        (256L * 1024)

struct http_slot {
    unsigned magic;
    TAILQ_ENTRY(http_slot) link;
    struct http_slots *list; /* of struct ldr_net that it is in; NULL: none */
    struct ldr_net *net;
    CURL *easy;
    struct ldr_http_req *req; /* NULL: ended, curl just does not know yet */
    struct curl_slist *headers;
    struct ldr_buf reply_headers;
    size_t reply_bytes; /* raw bytes of all headers so far, those of 1xx too */
    bool in_body;       /* the final answer's headers are complete */
    bool added;         /* to the multi handle */
    bool plain;         /* no TLS */
    bool asked, held;   /* the body was held back, to take the connection over; and is, until the end of this turn */
    int curl_sock;      /* that curl waits for, for this request; -1 */
    int sock;           /* the connection that was taken over; -1: it is curl's */
    int file;           /* … whose bytes go here */
    uint64_t file_at;
    uint64_t body_at;   /* next byte of the request's body that curl is given */
    uint64_t body_gone; /* bytes of it that left this process, as of the last look */
    int64_t moved_ns;   /* when a byte moved last; 0: still waiting for a connection */
    int64_t window_ns;  /* start of the window in which the body's speed is measured; 0: none moves */
    uint64_t window_at; /* bytes of bodies that had moved then */
    enum larder_kind kind;
    struct larder_err err; /* why a callback gave up, where kind is not OK */
    char text[CURL_ERROR_SIZE];
};

/* ---- the answer's headers ---- */

bool ldr_http_header_next(const struct ldr_http_reply *r, size_t *pos, const char **name, size_t *name_len,
                          const char **value, size_t *value_len)
{
    const char *line = (const char *)r->headers.p + *pos, *end, *colon;

    if (*pos >= r->headers.len)
        return false;
    end = memchr(line, '\n', r->headers.len - *pos); /* keep_header() ended each line so */
    colon = memchr(line, ':', (size_t)(end - line));
    *name = line;
    *name_len = (size_t)(colon - line);
    *value = colon + 2;
    *value_len = (size_t)(end - *value);
    *pos += (size_t)(end - line) + 1;
    return true;
}

bool ldr_http_header(const struct ldr_http_reply *r, const char *want, char *out, size_t cap)
{
    size_t pos = 0, want_len = strlen(want), name_len, value_len;
    const char *name, *value;

    while (ldr_http_header_next(r, &pos, &name, &name_len, &value, &value_len)) {
        if (name_len != want_len || memcmp(name, want, want_len) != 0)
            continue;
        if (value_len >= cap)
            return false;
        memcpy(out, value, value_len);
        out[value_len] = '\0';
        return true;
    }
    return false;
}

int64_t ldr_http_date_s(const char *text)
{
    time_t t = curl_getdate(text, NULL);

    return t > 0 && t < DATE_MAX_S ? t : 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* One line into reply_headers; lines that are no header (folded ones, garbage) are dropped. */
static enum larder_kind keep_header(struct http_slot *s, const char *line, size_t n)
{
    const char *colon = memchr(line, ':', n), *value, *end = line + n;
    size_t name_at = s->reply_headers.len;

    if (memchr(line, '\0', n))
        return ldr_fail(&s->err, LARDER_UNAVAILABLE, "a header of the answer holds a NUL");
    if (!colon || colon == line || is_blank(line[0]))
        return LARDER_OK;
    for (value = colon + 1; value < end && is_blank(*value); value++)
        ;
    while (end > value && is_blank(end[-1]))
        end--;
    if (!ldr_buf_add(&s->reply_headers, line, (size_t)(colon - line)) || !ldr_buf_add(&s->reply_headers, ": ", 2) ||
        !ldr_buf_add(&s->reply_headers, value, (size_t)(end - value)) || !ldr_buf_add(&s->reply_headers, "\n", 1))
        return ldr_fail(&s->err, LARDER_NO_MEMORY, "out of memory for the headers of an answer");
    for (size_t i = name_at; s->reply_headers.p[i] != ':'; i++)
        if (s->reply_headers.p[i] >= 'A' && s->reply_headers.p[i] <= 'Z')
            s->reply_headers.p[i] |= 0x20;
    return LARDER_OK;
}

/* -1 where there is none, or where the body is chunked; two that disagree are refused: where the body ends is a guess.
 */
static enum larder_kind find_length(struct http_slot *s, int64_t *out)
{
    const struct ldr_http_reply *reply = &s->req->reply;
    size_t pos = 0, name_len, value_len;
    const char *name, *value;
    char coding[32];
    int64_t length = -1;

    while (ldr_http_header_next(reply, &pos, &name, &name_len, &value, &value_len)) {
        int64_t v = 0;

        if (name_len != strlen("content-length") || memcmp(name, "content-length", name_len) != 0)
            continue;
        for (size_t i = 0; i < value_len && v >= 0; i++)
            v = value[i] < '0' || value[i] > '9' || v > (INT64_MAX - 9) / 10 ? -1 : v * 10 + (value[i] - '0');
        if (value_len == 0 || v < 0 || (length >= 0 && v != length))
            return ldr_fail(&s->err, LARDER_UNAVAILABLE, "the answer's Content-Length makes no sense");
        length = v;
    }
    *out = ldr_http_header(reply, "transfer-encoding", coding, sizeof coding) ? -1 : length;
    return LARDER_OK;
}

/* The empty line behind a block of headers. */
static enum larder_kind end_of_headers(struct http_slot *s)
{
    struct ldr_http_req *r = s->req;
    char date[64];
    long status = 0;
    enum larder_kind k;

    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200) { /* 100 Continue and the like: the answer is still to come */
        s->reply_headers.len = 0;
        return LARDER_OK;
    }
    s->in_body = true;
    r->reply.status = (int)status;
    r->reply.headers = s->reply_headers;
    if (ldr_http_header(&r->reply, "date", date, sizeof date))
        r->reply.date_s = ldr_http_date_s(date);
    k = find_length(s, &r->reply.content_length);
    return k || !r->on_headers ? k : r->on_headers(r, &r->reply, &s->err);
}

/* scheme://host of a URL: the rest may be signed, and a signature is a secret. */
static int origin_len(const char *url)
{
    const char *host = strstr(url, "://");

    host = host ? host + 3 : url;
    return (int)(host - url) + (int)strcspn(host, "/?#");
}

static enum larder_kind say_late(const struct http_slot *s, struct larder_err *err)
{
    const char *url = s->req->url;
    const char *what = s->req->sent ? "complete answer from" : "connection to";

    return ldr_fail(err, LARDER_TIMEOUT, "no %s \"%.*s\" in time", what, origin_len(url), url);
}

/* ---- curl's callbacks ---- */

static struct http_slot *slot_of(void *user)
{
    struct http_slot *s = user;

    assert(s->magic == SLOT_MAGIC);
    return s;
}

/* A connection is there, the request goes out now. Called once more when curl repeats it. */
static int on_prereq(void *user, char *ip, char *local_ip, int port, int local_port)
{
    struct http_slot *s = slot_of(user);

    (void)ip, (void)local_ip, (void)port, (void)local_port;
    if (!s->req)
        return CURL_PREREQFUNC_ABORT;
    s->moved_ns = ldr_mono_ns();
    s->window_ns = 0;
    s->req->sent = true;
    s->req->attempts++;
    return CURL_PREREQFUNC_OK;
}

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    struct http_slot *s = slot_of(user);
    struct ldr_http_req *r = s->req;

    (void)size; /* always 1 */
    if (!r)
        return 0;
    s->moved_ns = ldr_mono_ns();
    if (n > LDR_HTTP_HEADERS_MAX - s->reply_bytes)
        s->kind = ldr_fail(&s->err, LARDER_UNAVAILABLE, "the answer's headers are larger than %d KiB",
                           (int)(LDR_HTTP_HEADERS_MAX / LDR_KIB));
    else if (s->in_body) /* trailers: nobody asks for them */
        s->kind = LARDER_OK;
    else if (n >= 5 && !memcmp(line, "HTTP/", 5))
        s->reply_headers.len = 0;
    else if (line[0] == '\r' || line[0] == '\n')
        s->kind = end_of_headers(s);
    else
        s->kind = keep_header(s, line, n);
    s->reply_bytes += n;
    return s->kind || s->req != r ? 0 : n; /* a callback of the owner may have cancelled it */
}

/* Bytes of the answer's body that are still to come; 0: not known. */
static uint64_t body_left(const struct ldr_http_req *r)
{
    return r->reply.content_length > 0 && r->bytes_in < (uint64_t)r->reply.content_length
               ? (uint64_t)r->reply.content_length - r->bytes_in
               : 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *user)
{
    struct http_slot *s = slot_of(user);
    struct ldr_http_req *r = s->req;

    (void)size;
    if (!r || !s->in_body)
        return 0;
    s->moved_ns = ldr_mono_ns();
    if (s->plain && r->direct_into && !s->asked && body_left(r) >= DIRECT_MIN) {
        s->asked = s->held = s->net->take_over =
            true; /* curl would read on and on: it is to hold this back until take_over() */
        return CURL_WRITEFUNC_PAUSE;
    }
    r->bytes_in += n;
    if (s->moved_ns >= r->deadline_ns) /* curl reads on while a fast sender fills the socket: no turn comes between */
        s->kind = say_late(s, &s->err);
    else if (r->on_body)
        s->kind = r->on_body(r, p, n, &s->err);
    return s->kind || s->req != r ? 0 : n;
}

static size_t on_send(char *p, size_t size, size_t n, void *user)
{
    struct http_slot *s = slot_of(user);
    struct ldr_http_req *r = s->req;
    uint64_t left;
    ssize_t got;

    if (!r)
        return CURL_READFUNC_ABORT;
    left = r->body_len - s->body_at;
    n = size * n < left ? size * n : (size_t)left;
    if (n == 0)
        return 0;
    if (r->body) {
        memcpy(p, (const char *)r->body + s->body_at, n);
        got = (ssize_t)n;
    } else {
        do
            got = pread(r->body_fd, p, n, (off_t)s->body_at);
        while (got == -1 && errno == EINTR);
    }
    if (got <= 0) {
        s->kind = got == 0 ? ldr_fail(&s->err, LARDER_IO, "the file to send is shorter than its announced size")
                           : ldr_fail_sys(&s->err, LARDER_IO, "could not read the file to send");
        return CURL_READFUNC_ABORT;
    }
    s->moved_ns = ldr_mono_ns();
    s->body_at += (uint64_t)got;
    r->bytes_out += (uint64_t)got;
    return (size_t)got;
}

/* curl repeats a request that a dead connection swallowed. */
static int on_seek(void *user, curl_off_t offset, int whence)
{
    struct http_slot *s = slot_of(user);

    if (!s->req || whence != SEEK_SET || offset < 0 || (uint64_t)offset > s->req->body_len)
        return CURL_SEEKFUNC_FAIL;
    s->body_at = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* ---- slots ---- */

static void slot_move(struct http_slot *s, struct http_slots *to)
{
    if (s->list)
        TAILQ_REMOVE(s->list, s, link);
    s->list = to;
    if (to)
        TAILQ_INSERT_TAIL(to, s, link);
}

static struct http_slot *slot_take(struct ldr_net *n)
{
    struct http_slot *s = TAILQ_FIRST(&n->idle);

    if (s) {
        slot_move(s, NULL);
        n->n_idle--;
    } else {
        s = calloc(1, sizeof *s);
        if (!s)
            return NULL;
        s->magic = SLOT_MAGIC;
        s->net = n;
        s->reply_headers = LDR_BUF_INIT(2 * LDR_HTTP_HEADERS_MAX); /* ": " may be longer than what was there */
        s->easy = curl_easy_init();
        if (!s->easy) {
            free(s);
            return NULL;
        }
    }
    s->reply_headers.len = s->reply_bytes = 0;
    s->in_body = s->added = s->asked = s->held = false;
    s->sock = s->curl_sock = -1;
    s->body_at = s->body_gone = 0;
    s->moved_ns = s->window_ns = 0;
    s->kind = LARDER_OK;
    s->err = (struct larder_err){ 0 };
    s->text[0] = '\0';
    return s;
}

static void slot_destroy(struct http_slot *s)
{
    curl_easy_cleanup(s->easy);
    ldr_buf_release(&s->reply_headers);
    s->magic = 0;
    free(s);
}

/* Out of its list and away from curl; what the request's owner may look at stays. */
static void slot_detach(struct http_slot *s)
{
    slot_move(s, NULL);
    if (s->added)
        curl_multi_remove_handle(s->net->multi, s->easy);
    s->added = false;
    if (s->sock != -1) {
        epoll_ctl(s->net->epfd, EPOLL_CTL_DEL, s->sock, NULL);
        close(s->sock);
    }
    s->sock = -1;
}

static void slot_recycle(struct http_slot *s)
{
    curl_easy_reset(s->easy);
    for (struct curl_slist *h = s->headers; h; h = h->next) /* tokens and keys travel in them */
        explicit_bzero(h->data, strlen(h->data));
    curl_slist_free_all(s->headers);
    s->headers = NULL;
    if (s->net->n_idle >= IDLE_MAX || ldr_net_stopping(s->net)) {
        slot_destroy(s);
        return;
    }
    slot_move(s, &s->net->idle);
    s->net->n_idle++;
}

/* End the request; curl is not on the stack. */
static void slot_end(struct http_slot *s, enum larder_kind kind, const struct larder_err *err)
{
    struct ldr_http_req *r = s->req;

    slot_detach(s);
    s->req = NULL;
    r->priv = NULL;
    r->on_done(r, kind, err); /* r may be gone now; its headers were ours */
    slot_recycle(s);
}

/* ---- a request ---- */

static bool add_header(struct http_slot *s, const char *text)
{
    const char *colon = strchr(text, ':');
    struct curl_slist *list = NULL;
    char *empty = NULL;

    /* curl takes "Name:" as "do not send it", and "Name;" as one with an empty value */
    if (colon && colon[1 + strspn(colon + 1, " \t")] == '\0') {
        if (asprintf(&empty, "%.*s;", (int)(colon - text), text) == -1)
            return false;
        text = empty;
    }
    list = curl_slist_append(s->headers, text);
    free(empty);
    if (list)
        s->headers = list;
    return list != NULL;
}

static bool has_header(const char *const *headers, const char *name)
{
    size_t n = strlen(name);

    for (; headers && *headers; headers++)
        if (!strncasecmp(*headers, name, n) && (*headers)[n] == ':')
            return true;
    return false;
}

static bool make_headers(struct http_slot *s)
{
    static const char *const off[] = { "Expect:" /* it costs a round trip */, "Content-Type:" /* of a POST */ };
    struct ldr_http_req *r = s->req;

    for (size_t i = 0; i < LDR_ARRAY_LEN(off); i++) {
        char name[16];
        struct curl_slist *list;

        snprintf(name, sizeof name, "%.*s", (int)strlen(off[i]) - 1, off[i]);
        if (has_header(r->headers, name))
            continue;
        list = curl_slist_append(s->headers, off[i]);
        if (!list)
            return false;
        s->headers = list;
    }
    for (const char *const *h = r->headers; h && *h; h++)
        if (!add_header(s, *h))
            return false;
    /* What is taken over cannot be given back to curl; who closes first keeps the connection's port for a minute. */
    return !(s->plain && r->last_of_connection) || add_header(s, "Connection: close");
}

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (rc == CURLE_OK)                                                                                            \
            rc = curl_easy_setopt(e, option, value);                                                                   \
    } while (0)

static CURLcode set_method(struct http_slot *s)
{
    struct ldr_http_req *r = s->req;
    bool post = !strcmp(r->method, "POST"), put = !strcmp(r->method, "PUT");
    CURLcode rc = CURLE_OK;
    CURL *e = s->easy;

    if (!strcmp(r->method, "HEAD")) {
        SET(CURLOPT_NOBODY, 1L);
    } else if (post) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len);
    } else if (put || r->body_len > 0) {
        SET(CURLOPT_UPLOAD, 1L);
        SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->body_len);
    }
    if (!post && !put && strcmp(r->method, "HEAD") != 0 && strcmp(r->method, "GET") != 0)
        SET(CURLOPT_CUSTOMREQUEST, r->method);
    if (post || put || r->body_len > 0) {
        SET(CURLOPT_READFUNCTION, on_send);
        SET(CURLOPT_READDATA, s);
        SET(CURLOPT_SEEKFUNCTION, on_seek);
        SET(CURLOPT_SEEKDATA, s);
        if (r->body_len > 64 * LDR_KIB)
            SET(CURLOPT_UPLOAD_BUFFERSIZE, SEND_BUFFER);
    } else if (!strcmp(r->method, "GET")) {
        SET(CURLOPT_BUFFERSIZE, RECV_BUFFER);
    }
    return rc;
}

static CURLcode set_options(struct http_slot *s)
{
    struct ldr_http_req *r = s->req;
    CURLcode rc = CURLE_OK;
    CURL *e = s->easy;

    SET(CURLOPT_URL, r->url);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_HTTP_CONTENT_DECODING, 0L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_PROXY_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    if (r->ca_file) { /* in place of the system's, not beside them */
        SET(CURLOPT_CAINFO, r->ca_file);
        SET(CURLOPT_CAPATH, NULL);
        SET(CURLOPT_CA_CACHE_TIMEOUT, (long)CA_FILE_S);
    }
    if (r->direct)
        SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_NOPROGRESS, 1L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_TCP_KEEPIDLE, 30L);
    SET(CURLOPT_TCP_KEEPINTVL, 10L);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L); /* those of a proxy are not the store's answer */
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)(r->connect_timeout_ms ? r->connect_timeout_ms : CONNECT_TIMEOUT_MS));
    SET(CURLOPT_USERAGENT, "larder");
    SET(CURLOPT_HTTPHEADER, s->headers);
    SET(CURLOPT_PRIVATE, s);
    SET(CURLOPT_ERRORBUFFER, s->text);
    SET(CURLOPT_PREREQFUNCTION, on_prereq);
    SET(CURLOPT_PREREQDATA, s);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, s);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, s);
    return rc == CURLE_OK ? set_method(s) : rc;
}

/* curl's text names host and port, which may be a proxy's, but not the reason. */
static enum larder_kind no_connection(struct http_slot *s, int n, const char *why, struct larder_err *err)
{
    const char *url = s->req->url;
    long sys = 0;

    curl_easy_getinfo(s->easy, CURLINFO_OS_ERRNO, &sys);
    if (sys == 0)
        return ldr_fail(err, LARDER_UNAVAILABLE, "no connection to \"%.*s\": %s", n, url, why);
    errno = (int)sys;
    return ldr_fail_sys(err, LARDER_UNAVAILABLE, "no connection to \"%.*s\": %s", n, url, why);
}

static enum larder_kind explain(struct http_slot *s, CURLcode rc, struct larder_err *err)
{
    const char *why = s->text[0] ? s->text : curl_easy_strerror(rc), *url = s->req->url;
    int n = origin_len(url);

    if (s->kind) {
        *err = s->err;
        return s->kind;
    }
    switch (rc) {
    case CURLE_OK:
        if (s->in_body)
            return LARDER_OK;
        return ldr_fail(err, LARDER_UNAVAILABLE, "\"%.*s\" sent no answer", n, url);
    case CURLE_OUT_OF_MEMORY:
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a request");
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        if (!s->req->sent)
            return ldr_fail(err, LARDER_INVALID, "\"%.*s\" is no address of a web server: %s", n, url, why);
        break; /* the answer is no HTTP */
    case CURLE_PEER_FAILED_VERIFICATION:
        return ldr_fail(err, LARDER_UNAVAILABLE, "the certificate of \"%.*s\" is not accepted: %s", n, url, why);
    case CURLE_SSL_CACERT_BADFILE:
        return ldr_fail(err, LARDER_UNAVAILABLE, "no connection to \"%.*s\": the certificates to trust: %s", n, url,
                        why);
    case CURLE_SSL_CONNECT_ERROR:
        return ldr_fail(err, LARDER_UNAVAILABLE, "no TLS connection (1.2 or newer) to \"%.*s\": %s", n, url, why);
    case CURLE_COULDNT_CONNECT:
        return no_connection(s, n, why, err);
    default:
        break;
    }
    /* not resolved, reset, cut short, a proxy that refuses: all may pass */
    if (s->in_body)
        return ldr_fail_http(err, LARDER_UNAVAILABLE, s->req->reply.status, "the answer of \"%.*s\" broke off: %s", n,
                             url, why);
    return ldr_fail(err, LARDER_UNAVAILABLE, "no %s \"%.*s\": %s", s->req->sent ? "answer from" : "connection to", n,
                    url, why);
}
void ldr_http_send_on_net(struct ldr_net *n, struct ldr_http_req *r)
{
    struct http_slot *s = NULL;
    struct larder_err err;

    assert(ldr_net_here(n));
    r->reply = (struct ldr_http_reply){ .content_length = -1 };
    r->sent = false;
    r->attempts = 0;
    r->bytes_in = r->bytes_out = 0;
    r->priv = NULL;
    if (ldr_net_stopping(n))
        ldr_fail(&err, LARDER_CANCELLED, "larder is stopping");
    else if (r->deadline_ns <= ldr_mono_ns())
        ldr_fail(&err, LARDER_TIMEOUT, "no time left for a request to \"%.*s\"", origin_len(r->url), r->url);
    else if (!(s = slot_take(n)))
        ldr_fail(&err, LARDER_NO_MEMORY, "out of memory for a request");
    if (!s) {
        r->on_done(r, err.kind, &err);
        return;
    }
    s->req = r;
    r->priv = s;
    s->plain = !strncasecmp(r->url, "http://", 7);
    slot_move(s, &n->starting);
    if (!make_headers(s) || set_options(s) != CURLE_OK)
        slot_end(s, ldr_fail(&err, LARDER_NO_MEMORY, "could not prepare a request"), &err);
}

void ldr_http_cancel_on_net(struct ldr_net *n, struct ldr_http_req *r)
{
    struct http_slot *s = r->priv;
    struct larder_err err;

    assert(ldr_net_here(n));
    if (!s) /* ended already */
        return;
    ldr_fail(&err, LARDER_CANCELLED, "the request was given up");
    if (!n->in_curl || !s->added) {
        slot_end(s, LARDER_CANCELLED, &err);
        return;
    }
    slot_move(s, &n->ending);
    s->req = NULL;
    r->priv = NULL;
    r->on_done(r, LARDER_CANCELLED, &err);
}

/* ---- turns ---- */

static int64_t earliest(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void start_waiting(struct ldr_net *n)
{
    struct http_slot *s;

    while ((s = TAILQ_FIRST(&n->starting))) {
        CURLMcode rc = curl_multi_add_handle(n->multi, s->easy);
        struct larder_err err;

        if (rc != CURLM_OK) {
            slot_end(s, ldr_fail(&err, LARDER_INTERNAL, "could not start a request: %s", curl_multi_strerror(rc)),
                     &err);
            continue;
        }
        s->added = true;
        slot_move(s, &n->running);
        n->late_ns = earliest(n->late_ns, earliest(s->req->deadline_ns, ldr_mono_ns() + LATE_LOOK_NS));
    }
}

static void drop_ending(struct ldr_net *n)
{
    struct http_slot *s;

    while ((s = TAILQ_FIRST(&n->ending))) {
        slot_detach(s);
        slot_recycle(s);
    }
}

static void end_complete(struct ldr_net *n)
{
    CURLMsg *m;
    int left;

    while ((m = curl_multi_info_read(n->multi, &left))) {
        CURLcode rc = m->data.result;
        struct larder_err err = { 0 };
        char *user = NULL;
        struct http_slot *s;

        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &user);
        s = slot_of(user);
        slot_end(s, explain(s, rc, &err), &err);
    }
}

static int64_t stall_due(const struct http_slot *s)
{
    uint32_t ms = s->req->stall_timeout_ms ? s->req->stall_timeout_ms : STALL_TIMEOUT_MS;

    return s->moved_ns ? s->moved_ns + ms * LDR_NS_PER_MS : LDR_NEVER;
}

static uint32_t speed_window_ms(const struct ldr_http_req *r)
{
    return r->speed_window_ms ? r->speed_window_ms : SPEED_WINDOW_MS;
}

static uint64_t speed_min(const struct ldr_http_req *r)
{
    return (uint64_t)(r->min_speed ? r->min_speed : MIN_SPEED);
}

/* curl reads a body ahead of the connection, so that on_send() may come seldom while bytes leave all the time. */
static void look_at_upload(struct http_slot *s, int64_t now_ns)
{
    curl_off_t gone = 0;

    if (s->req->body_len == 0 || !s->added)
        return;
    curl_easy_getinfo(s->easy, CURLINFO_SIZE_UPLOAD_T, &gone);
    if ((uint64_t)gone == s->body_gone)
        return;
    s->body_gone = (uint64_t)gone;
    s->moved_ns = now_ns;
}

static uint64_t moved_bytes(const struct http_slot *s)
{
    return s->req->bytes_in + s->body_gone;
}

/* Is a body on its way? A store that thinks it over, before its answer or behind an upload, is not slow. */
static bool body_moves(const struct http_slot *s)
{
    return s->moved_ns && s->req->min_speed >= 0 && (s->in_body || s->body_gone < s->req->body_len);
}

/* When is the body found too slow, unless more of it comes? A window that was good is followed by the next one. */
static int64_t slow_due(struct http_slot *s, int64_t now_ns)
{
    const struct ldr_http_req *r = s->req;
    uint64_t moved = moved_bytes(s);
    int64_t due;

    if (!body_moves(s)) {
        s->window_ns = 0;
        return LDR_NEVER;
    }
    due = s->window_ns + speed_window_ms(r) * LDR_NS_PER_MS;
    if (s->window_ns == 0 || due + OURS_MS * LDR_NS_PER_MS <= now_ns ||
        (due <= now_ns && (moved - s->window_at) * 1000 / speed_window_ms(r) >= speed_min(r))) {
        s->window_ns = now_ns;
        s->window_at = moved;
        due = now_ns + speed_window_ms(r) * LDR_NS_PER_MS;
    }
    return due;
}

static void end_late(struct http_slot *s, int64_t now_ns)
{
    const char *url = s->req->url;
    struct larder_err err;

    if (s->req->deadline_ns <= now_ns)
        say_late(s, &err);
    else if (stall_due(s) <= now_ns)
        ldr_fail(&err, LARDER_UNAVAILABLE, "\"%.*s\" stalled: no byte for %" PRId64 " ms", origin_len(url), url,
                 (now_ns - s->moved_ns) / LDR_NS_PER_MS);
    else
        ldr_fail(&err, LARDER_UNAVAILABLE,
                 "\"%.*s\" is too slow: %" PRIu64 " bytes in %u ms, where %" PRIu64 " a second are the least",
                 origin_len(url), url, moved_bytes(s) - s->window_at, speed_window_ms(s->req), speed_min(s->req));
    slot_end(s, err.kind, &err);
}

/* End what is out of time; returns when the next one will be. Ending one may end or start others: look from the start.
 */
static int64_t end_all_late(struct ldr_net *n)
{
    int64_t now = ldr_mono_ns(), next, due;
    struct http_slot *s;

again:
    next = LDR_NEVER;
    TAILQ_FOREACH(s, &n->running, link)
    {
        look_at_upload(s, now);
        due = earliest(earliest(stall_due(s), slow_due(s, now)), s->req->deadline_ns);
        if (due <= now) {
            end_late(s, now);
            goto again;
        }
        next = due < next ? due : next;
    }
    return next;
}

/* curl's sockets are watched level-triggered: an event that one call does not exhaust comes again. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known)
{
    struct ldr_net *n = user;
    struct epoll_event e = { .data.u64 = (unsigned)fd };
    char *slot = NULL;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &slot);
    if (slot)                          /* curl's own handles have none */
        slot_of(slot)->curl_sock = fd; /* also of one that is not waited for while its body is held back */
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(n->epfd, EPOLL_CTL_DEL, fd, NULL);
        curl_multi_assign(n->multi, fd, NULL);
        return 0;
    }
    e.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (epoll_ctl(n->epfd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e) == -1)
        return 0; /* no memory: this request runs out of time; told of it, curl would end all of them */
    curl_multi_assign(n->multi, fd, n); /* anything that is not NULL */
    return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *user)
{
    struct ldr_net *n = user;

    (void)multi;
    n->curl_due_ns = timeout_ms < 0 ? LDR_NEVER : ldr_mono_ns() + timeout_ms * LDR_NS_PER_MS;
    return 0;
}

void ldr_http_setup(struct ldr_net *n)
{
    n->curl_due_ns = n->late_ns = LDR_NEVER;
    curl_multi_setopt(n->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(n->multi, CURLMOPT_SOCKETDATA, n);
    curl_multi_setopt(n->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(n->multi, CURLMOPT_TIMERDATA, n);
}

static void curl_act(struct ldr_net *n, curl_socket_t fd, int events)
{
    CURLMcode rc;
    int running;

    n->in_curl = true;
    rc = curl_multi_socket_action(n->multi, fd, events, &running);
    n->in_curl = false;
    assert(rc == CURLM_OK || rc == CURLM_BAD_SOCKET); /* the socket was closed by an event of the same turn */
}

/* ---- connections that are taken over ---- */

/* Have curl hand on what it has read, and take the connection: what comes now goes to the file. It is duplicated, so that
 * it lives on when curl closes its own end of it for the request that, to curl, is given up. */
static void take_over(struct http_slot *s)
{
    struct ldr_http_req *r = s->req;
    struct epoll_event e = { .events = EPOLLIN };
    struct ldr_net *n = s->net;
    int fd;

    s->held = false;
    n->in_curl = true;
    curl_easy_pause(s->easy, CURLPAUSE_CONT); /* calls on_body() */
    n->in_curl = false;
    if (s->req != r) /* given up meanwhile */
        return;
    if (s->kind) {
        slot_end(s, s->kind, &s->err);
        return;
    }
    fd = s->curl_sock != -1 && body_left(r) >= DIRECT_MIN ? fcntl(s->curl_sock, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd == -1)
        return;
    e.data.u64 = LDR_EVENT_TAKEN | (uint64_t)(unsigned)fd;
    if (epoll_ctl(n->epfd, EPOLL_CTL_ADD, fd, &e) == -1 || !r->direct_into(r, body_left(r), &s->file, &s->file_at)) {
        epoll_ctl(n->epfd, EPOLL_CTL_DEL, fd, NULL);
        close(fd);
        return;
    }
    curl_multi_remove_handle(n->multi, s->easy);
    s->added = false;
    s->sock = fd;
}

static void take_over_all(struct ldr_net *n)
{
    struct http_slot *s;

    if (!n->take_over)
        return;
    n->take_over = false;
again: /* one that ends may end or start others */
    TAILQ_FOREACH(s, &n->running, link)
    if (s->held) {
        take_over(s);
        goto again;
    }
}

/* At most a pipe's content a turn: the others are to have theirs. */
static void move_some(struct http_slot *s)
{
    struct ldr_http_req *r = s->req;
    int64_t now = ldr_mono_ns();
    struct larder_err err = { 0 };
    enum larder_kind k = LARDER_OK;
    size_t moved = 0;

    switch (ldr_direct_move(&s->net->direct, s->sock, s->file, s->file_at, body_left(r), &moved)) {
    case LDR_DIRECT_WAIT:
        return;
    case LDR_DIRECT_MOVED:
        s->moved_ns = now;
        s->file_at += moved;
        r->bytes_in += moved;
        k = now >= r->deadline_ns ? say_late(s, &err) : r->on_moved(r, moved, &err);
        break;
    case LDR_DIRECT_CLOSED:
        k = ldr_fail_http(&err, LARDER_UNAVAILABLE, r->reply.status,
                          "the answer of \"%.*s\" broke off: %" PRIu64 " bytes are missing", origin_len(r->url), r->url,
                          body_left(r));
        break;
    case LDR_DIRECT_BROKEN:
        k = ldr_fail_sys(&err, LARDER_UNAVAILABLE, "the answer of \"%.*s\" broke off", origin_len(r->url), r->url);
        break;
    case LDR_DIRECT_UNWRITTEN:
        k = ldr_fail_sys(&err, LARDER_IO, "could not write to the cache");
        break;
    }
    if (s->req != r) /* cancelled by its owner */
        return;
    if (k)
        slot_end(s, k, &err);
    else if (body_left(r) == 0)
        slot_end(s, LARDER_OK, &err);
}

void ldr_http_taken_event_on_net(struct ldr_net *n, int fd)
{
    struct http_slot *s;

    TAILQ_FOREACH(s, &n->running, link)
    if (s->sock == fd)
        break;
    if (s) /* else it ended in this turn */
        move_some(s);
}

void ldr_http_event_on_net(struct ldr_net *n, int fd, uint32_t events)
{
    curl_act(n, fd,
             /* what is wrong with a socket its next call tells, and it may be another socket by now */
             (events & (EPOLLIN | EPOLLERR | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
                 (events & (EPOLLOUT | EPOLLERR | EPOLLHUP) ? CURL_CSELECT_OUT : 0));
    take_over_all(n);
}

int64_t ldr_http_turn_on_net(struct ldr_net *n)
{
    int64_t now;

    start_waiting(n);
    now = ldr_mono_ns();
    if (n->curl_due_ns <= now) {
        n->curl_due_ns = LDR_NEVER; /* it says so anew */
        curl_act(n, CURL_SOCKET_TIMEOUT, 0);
        take_over_all(n);
    }
    drop_ending(n);
    end_complete(n);
    if (n->late_ns <= now) {
        n->late_ns = earliest(end_all_late(n), now + LATE_LOOK_NS);
        if (TAILQ_EMPTY(&n->running))
            n->late_ns = LDR_NEVER;
    }
    return TAILQ_EMPTY(&n->starting) ? earliest(n->late_ns, n->curl_due_ns) : 0;
}

void ldr_http_stop_on_net(struct ldr_net *n)
{
    struct http_slot *s;
    struct larder_err err;

    ldr_fail(&err, LARDER_CANCELLED, "larder is stopping");
    while ((s = TAILQ_FIRST(&n->starting)) || (s = TAILQ_FIRST(&n->running)))
        slot_end(s, LARDER_CANCELLED, &err);
    while ((s = TAILQ_FIRST(&n->idle))) {
        slot_move(s, NULL);
        slot_destroy(s);
    }
    n->n_idle = 0;
}
