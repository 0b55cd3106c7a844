/* cred_server.c - see cred_server.h. */
#include "tests/support/cred_server.h"
#include "backends/sign/sigv4.h"
#include "common/buf.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROUTES_MAX  16
#define REQUEST_MAX (128 * 1024)

struct route {
    char what[256], need[512], *body, *last;
    size_t body_len;
    int status;
    unsigned count;
};

struct cred_server {
    int listener;
    char url[64];
    pthread_t thread;
    pthread_mutex_t mtx;
    pthread_cond_t cond;
    /* under mtx */
    struct route routes[ROUTES_MAX];
    size_t n_routes;
    unsigned count, threads;
    bool held, stopping;
    char id[128], secret[128], token[256], region[64];
    int64_t skew_s;
};

struct conn {
    struct cred_server *s;
    int fd;
};

/* ---- a request ---- */

static char *read_request(int fd)
{
    char *text = calloc(1, REQUEST_MAX), *end, *length;
    size_t len = 0, want = 0;

    while (text && (!want || len < want)) {
        ssize_t n = read(fd, text + len, REQUEST_MAX - 1 - len);

        if (n <= 0) {
            free(text);
            return NULL;
        }
        len += (size_t)n;
        end = strstr(text, "\r\n\r\n");
        if (!want && end) {
            length = strcasestr(text, "\r\ncontent-length:");
            want = (size_t)(end + 4 - text) + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        }
    }
    return text;
}

/* The value of a header, copied; "" where there is none. */
static const char *header(const char *request, const char *name, char *out, size_t cap)
{
    const char *end = strstr(request, "\r\n\r\n");
    size_t n = strlen(name);

    out[0] = '\0';
    for (const char *p = strstr(request, "\r\n"); p && p < end; p = strstr(p + 2, "\r\n"))
        if (!strncasecmp(p + 2, name, n) && p[2 + n] == ':')
            snprintf(out, cap, "%.*s", (int)strcspn(p + 4 + n, "\r"), p + 4 + n);
    return out;
}

static bool has_line(const char *request, const char *line)
{
    const char *end = strstr(request, "\r\n\r\n");
    size_t n = strlen(line), name = strcspn(line, ":");

    for (const char *p = strstr(request, "\r\n"); p && p < end; p = strstr(p + 2, "\r\n"))
        if (!strncasecmp(p + 2, line, name) && !strncmp(p + 2 + name, line + name, n - name) && p[2 + n] == '\r')
            return true;
    return false;
}

/* "POST / AssumeRole" */
static void name_of(const char *request, char out[256])
{
    const char *body = strstr(request, "\r\n\r\n") + 4, *action = strstr(body, "Action=");
    size_t n = strcspn(request, "\r"), cut = 0;

    for (size_t i = 0; i < n; i++)
        if (request[i] == ' ')
            cut = i;
    if (!strncmp(request, "POST", 4) && action)
        snprintf(out, 256, "%.*s %.*s", (int)cut, request, (int)strcspn(action + 7, "&"), action + 7);
    else
        snprintf(out, 256, "%.*s", (int)cut, request);
}

static struct route *find(struct cred_server *s, const char *what)
{
    for (size_t i = 0; i < s->n_routes; i++)
        if (!strcmp(s->routes[i].what, what))
            return &s->routes[i];
    return NULL;
}

/* ---- its signature ---- */

static bool is_near(struct cred_server *s, const char *date)
{
    struct tm tm = { 0 };
    int64_t off;

    if (!strptime(date, "%Y%m%dT%H%M%SZ", &tm))
        return false;
    off = timegm(&tm) - (time(NULL) + s->skew_s);
    return off < 300 && off > -300;
}

static bool is_signed(struct cred_server *s, const char *request)
{
    static const char *const names[] = { "Host", "Content-Type", "X-Amz-Date", "X-Amz-Security-Token" };
    char lines[4][1024], value[1000], auth[2048], hash[LDR_SHA256_HEX_MAX];
    const char *headers[5] = { NULL }, *body = strstr(request, "\r\n\r\n") + 4;
    struct ldr_buf want = LDR_BUF_INIT(4096);
    struct ldr_sigv4 v = { .method = "POST", .path = "/", .headers = headers, .payload = hash, .service = "sts" };
    struct ldr_cred c = { .access_key_id = s->id, .secret_key = s->secret };
    struct tm tm = { 0 };
    size_t n = 0;
    bool ok;

    for (size_t i = 0; i < LDR_ARRAY_LEN(names); i++) {
        header(request, names[i], value, sizeof value);
        if (i == 3 && strcmp(value, s->token) != 0)
            return false;
        if (!*value)
            continue;
        snprintf(lines[n], sizeof lines[n], "%s: %s", names[i], value);
        headers[n] = lines[n];
        n++;
    }
    header(request, "X-Amz-Date", value, sizeof value);
    if (!is_near(s, value) || !strptime(value, "%Y%m%dT%H%M%SZ", &tm))
        return false;
    v.time_s = timegm(&tm);
    v.region = s->region;
    ldr_sha256_hex(body, strlen(body), hash);
    ok = ldr_sigv4_authorization(&v, &c, &want, NULL) == LARDER_OK &&
         !strcmp(header(request, "Authorization", auth, sizeof auth), ldr_buf_str(&want));
    ldr_buf_release(&want);
    return ok;
}

/* ---- answers ---- */

static void send_all(int fd, const void *p, size_t n)
{
    while (n > 0) {
        ssize_t m = send(fd, p, n, MSG_NOSIGNAL);

        if (m <= 0)
            return;
        p = (const char *)p + m;
        n -= (size_t)m;
    }
}

static void reply(int fd, int64_t now_s, int status, const char *body, size_t n)
{
    char head[256], date[64];
    time_t t = (time_t)now_s;
    struct tm tm;

    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
    snprintf(head, sizeof head, "HTTP/1.1 %d x\r\nDate: %s\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", status,
             date, n);
    send_all(fd, head, strlen(head));
    send_all(fd, body, n);
}

static void *serve(void *user)
{
    struct conn *c = user;
    struct cred_server *s = c->s;
    char *request = read_request(c->fd), *body = NULL, what[256], refusal[512];
    int status = 404;
    int64_t now_s = 0;
    size_t n = 0;

    pthread_mutex_lock(&s->mtx);
    if (request) {
        struct route *r;

        name_of(request, what);
        s->count++;
        r = find(s, what);
        if (r) {
            r->count++;
            free(r->last);
            r->last = strdup(request);
        }
        pthread_cond_broadcast(&s->cond);
        while (s->held && !s->stopping)
            pthread_cond_wait(&s->cond, &s->mtx);
        now_s = time(NULL) + s->skew_s;
        if (r && r->need[0] && !has_line(request, r->need)) {
            status = 403;
        } else if (r && s->id[0] && !strcmp(what, "POST / AssumeRole") && !is_signed(s, request)) {
            status = 403;
            body = strdup(cred_answer_refusal(refusal, sizeof refusal, "SignatureDoesNotMatch", "no"));
            n = strlen(body);
        } else if (r) {
            status = r->status;
            body = malloc(r->body_len + 1);
            memcpy(body, r->body, n = r->body_len);
        }
    }
    pthread_mutex_unlock(&s->mtx);
    if (request && status)
        reply(c->fd, now_s, status, body ? body : "", n);
    shutdown(c->fd, SHUT_RDWR);
    close(c->fd);
    free(request);
    free(body);
    free(c);
    pthread_mutex_lock(&s->mtx);
    s->threads--;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mtx);
    return NULL;
}

static void *accept_all(void *user)
{
    struct cred_server *s = user;
    pthread_attr_t detached;
    int fd;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    while ((fd = accept(s->listener, NULL, NULL)) != -1) {
        struct conn *c = malloc(sizeof *c);
        pthread_t t;

        *c = (struct conn){ s, fd };
        pthread_mutex_lock(&s->mtx);
        s->threads++;
        pthread_mutex_unlock(&s->mtx);
        if (pthread_create(&t, &detached, serve, c))
            abort();
    }
    pthread_attr_destroy(&detached);
    return NULL;
}

/* ---- the interface ---- */

struct cred_server *cred_server_start(void)
{
    struct cred_server *s = calloc(1, sizeof *s);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof at;

    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(s->listener, (struct sockaddr *)&at, n) || listen(s->listener, 64) ||
        getsockname(s->listener, (struct sockaddr *)&at, &n))
        abort();
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", ntohs(at.sin_port));
    pthread_mutex_init(&s->mtx, NULL);
    pthread_cond_init(&s->cond, NULL);
    if (pthread_create(&s->thread, NULL, accept_all, s))
        abort();
    return s;
}

void cred_server_stop(struct cred_server **ps)
{
    struct cred_server *s = *ps;

    if (!s)
        return;
    shutdown(s->listener, SHUT_RDWR); /* ends accept() */
    pthread_join(s->thread, NULL);
    close(s->listener);
    pthread_mutex_lock(&s->mtx);
    s->stopping = true;
    pthread_cond_broadcast(&s->cond);
    while (s->threads > 0)
        pthread_cond_wait(&s->cond, &s->mtx);
    pthread_mutex_unlock(&s->mtx);
    for (size_t i = 0; i < s->n_routes; i++) {
        free(s->routes[i].body);
        free(s->routes[i].last);
    }
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->mtx);
    free(s);
    *ps = NULL;
}

const char *cred_server_url(const struct cred_server *s)
{
    return s->url;
}

void cred_server_say_n(struct cred_server *s, const char *what, int status, const char *need, const void *body,
                       size_t n)
{
    struct route *r;

    pthread_mutex_lock(&s->mtx);
    r = find(s, what);
    if (!r) {
        if (s->n_routes == ROUTES_MAX)
            abort();
        r = &s->routes[s->n_routes++];
        snprintf(r->what, sizeof r->what, "%s", what);
    }
    r->status = status;
    snprintf(r->need, sizeof r->need, "%s", need ? need : "");
    free(r->body);
    r->body = malloc(n + 1);
    memcpy(r->body, body, n);
    r->body_len = n;
    pthread_mutex_unlock(&s->mtx);
}

void cred_server_say(struct cred_server *s, const char *what, int status, const char *need, const char *body)
{
    cred_server_say_n(s, what, status, need, body, strlen(body));
}

void cred_server_sign(struct cred_server *s, const char *access_key_id, const char *secret_key, const char *token,
                      const char *region)
{
    pthread_mutex_lock(&s->mtx);
    snprintf(s->id, sizeof s->id, "%s", access_key_id);
    snprintf(s->secret, sizeof s->secret, "%s", secret_key);
    snprintf(s->token, sizeof s->token, "%s", token ? token : "");
    snprintf(s->region, sizeof s->region, "%s", region);
    pthread_mutex_unlock(&s->mtx);
}

void cred_server_skew(struct cred_server *s, int64_t skew_s)
{
    pthread_mutex_lock(&s->mtx);
    s->skew_s = skew_s;
    pthread_mutex_unlock(&s->mtx);
}

void cred_server_hold(struct cred_server *s)
{
    pthread_mutex_lock(&s->mtx);
    s->held = true;
    pthread_mutex_unlock(&s->mtx);
}

void cred_server_release(struct cred_server *s)
{
    pthread_mutex_lock(&s->mtx);
    s->held = false;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mtx);
}

void cred_server_await(struct cred_server *s, unsigned n)
{
    pthread_mutex_lock(&s->mtx);
    while (s->count < n)
        pthread_cond_wait(&s->cond, &s->mtx);
    pthread_mutex_unlock(&s->mtx);
}

unsigned cred_server_count(struct cred_server *s, const char *what)
{
    struct route *r;
    unsigned n;

    pthread_mutex_lock(&s->mtx);
    r = what ? find(s, what) : NULL;
    n = !what ? s->count : r ? r->count : 0;
    pthread_mutex_unlock(&s->mtx);
    return n;
}

char *cred_server_last(struct cred_server *s, const char *what)
{
    struct route *r;
    char *text;

    pthread_mutex_lock(&s->mtx);
    r = find(s, what);
    text = strdup(r && r->last ? r->last : "");
    pthread_mutex_unlock(&s->mtx);
    return text;
}

static void end_time(char out[32], int seconds)
{
    time_t t = time(NULL) + seconds;
    struct tm tm;

    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
}

const char *cred_answer_json(char *out, size_t cap, const char *id, const char *secret, const char *token, int seconds)
{
    char end[32];

    end_time(end, seconds);
    snprintf(out, cap,
             "{\"Code\": \"Success\", \"Type\": \"AWS-HMAC\", \"AccessKeyId\": \"%s\", \"SecretAccessKey\": \"%s\", "
             "\"Token\": \"%s\", \"Expiration\": \"%s\"}",
             id, secret, token, end);
    return out;
}

const char *cred_answer_sts(char *out, size_t cap, const char *action, const char *id, const char *secret,
                            const char *token, int seconds)
{
    char end[32];

    end_time(end, seconds);
    snprintf(out, cap,
             "<%sResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><%sResult>"
             "<AssumedRoleUser><Arn>arn:x</Arn><AccessKeyId>not this</AccessKeyId></AssumedRoleUser>"
             "<Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>"
             "<SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials></%sResult>"
             "<ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></%sResponse>",
             action, action, id, secret, token, end, action, action);
    return out;
}

const char *cred_answer_refusal(char *out, size_t cap, const char *code, const char *message)
{
    snprintf(out, cap,
             "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error>"
             "<RequestId>r-2</RequestId></ErrorResponse>",
             code, message);
    return out;
}
