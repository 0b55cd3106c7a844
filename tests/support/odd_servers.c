/* odd_servers.c - see odd_servers.h. */
#include "tests/support/odd_servers.h"
#include "common/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MAX  (1 << 20)
#define CONNS_MAX   64
#define SWIFT_PROXY "/usr/bin/swift-proxy-server"
#define SWIFT_APT                                                                                                      \
    "apt-get install -y --no-install-recommends swift swift-proxy swift-account swift-container swift-object"

/* ---- the servers ---- */

bool odd_server_find(enum odd_server which, char *path, size_t cap, char *reason, size_t reason_cap)
{
    const char *swift = getenv("LDR_TEST_SWIFT");

    switch (which) {
    case ODD_MOTO:
        return real_server_find("LDR_TEST_MOTO", "moto-5.2.5/bin/moto_server", path, cap, reason, reason_cap);
    case ODD_RCLONE:
        return real_server_find("LDR_TEST_RCLONE", "rclone-1.76.0/rclone", path, cap, reason, reason_cap);
    case ODD_TOXIPROXY:
        return real_server_find("LDR_TEST_TOXIPROXY", "toxiproxy-2.5.0/server", path, cap, reason, reason_cap);
    case ODD_SWIFT:
        break;
    }
    snprintf(path, cap, "%s", swift ? swift : SWIFT_PROXY);
    if (access(path, X_OK) == 0)
        return true;
    snprintf(reason, reason_cap, "%s is not installed (%s)", path, SWIFT_APT);
    return false;
}

bool odd_server_start(struct real_server *s, enum odd_server which, const char *dir, const char *access_key,
                      const char *secret, char *reason, size_t cap)
{
    static const char *const names[] = { "moto", "rclone", "swift", "toxiproxy" };
    static const char *const ready[] = { "/moto-api/", NULL, "/healthcheck", "/version" };
    const char *root = getenv("LDR_TEST_ROOT");
    char path[PATH_MAX], data[PATH_MAX], log[PATH_MAX], script[PATH_MAX], keys[256];
    char *const argv[][12] = {
        { path, "-H", "127.0.0.1", "-p", "0", NULL },
        { path, "--config", "", "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", keys, data, NULL },
        { "/usr/bin/python3", script, data, (char *)(uintptr_t)access_key, (char *)(uintptr_t)secret, NULL },
        { path, "-host", "127.0.0.1", "-port", "0", NULL },
    };

    *s = (struct real_server){ 0 };
    if (!odd_server_find(which, path, sizeof path, reason, cap))
        return false;
    snprintf(script, sizeof script, "%s/tests/support/swift_server.py", root ? root : ".");
    snprintf(data, sizeof data, "%s/%s", dir, names[which]);
    snprintf(log, sizeof log, "%s/%s.log", dir, names[which]);
    snprintf(keys, sizeof keys, "%s,%s", access_key, secret);
    mkdir(data, 0700);
    if (real_server_start(s, argv[which], log, ready[which]))
        return true;
    snprintf(reason, cap, "%s (%s) did not start, see %s", names[which], path, log);
    return false;
}

/* ---- HTTP ---- */

static int connect_to(int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval limit = { .tv_sec = 20 };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd != -1 && connect(fd, (struct sockaddr *)&at, sizeof at) == -1) {
        close(fd);
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static bool send_all(int fd, const void *p, size_t n)
{
    const char *at = p;

    while (n > 0) {
        ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);

        if (sent <= 0)
            return false;
        at += sent;
        n -= (size_t)sent;
    }
    return true;
}

int odd_http(const char *method, const char *url, const char *const headers[], const void *bytes, size_t n, char **body)
{
    int port = 0, path = 0, fd = -1, status = 0;
    char *head = NULL, *answer = NULL, *at;
    size_t head_len = 0, len = 0;
    ssize_t got = -1;
    FILE *f;

    if (body)
        *body = NULL;
    if (sscanf(url, "http://127.0.0.1:%d%n", &port, &path) != 1 || !(f = open_memstream(&head, &head_len)))
        return 0;
    fprintf(f, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\nContent-Length: %zu\r\n", method,
            url + path, port, n);
    for (; headers && *headers; headers++)
        fprintf(f, "%s\r\n", *headers);
    fputs("\r\n", f);
    fclose(f);
    answer = calloc(1, ANSWER_MAX);
    fd = connect_to(port);
    if (!answer || fd == -1 || !send_all(fd, head, head_len) || !send_all(fd, bytes, n))
        goto done;
    while (len < ANSWER_MAX - 1 && (got = read(fd, answer + len, ANSWER_MAX - 1 - len)) > 0)
        len += (size_t)got;
    if (got == 0 && sscanf(answer, "HTTP/1.%*1d %d", &status) == 1 && body && (at = strstr(answer, "\r\n\r\n")))
        *body = strdup(at + 4);
done:
    if (fd != -1)
        close(fd);
    free(answer);
    free(head);
    return status;
}

/* ---- toxiproxy ---- */

static int toxiproxy_ask(const struct real_server *s, const char *path, const char *json, char **body)
{
    char url[128];

    snprintf(url, sizeof url, "%s%s", s->url, path);
    return odd_http("POST", url, NULL, json, strlen(json), body);
}

bool toxic_way(const struct real_server *toxiproxy, int port, char *url, size_t cap)
{
    char json[160], *body = NULL, *at;
    int listens = 0;

    snprintf(json, sizeof json,
             "{\"name\": \"way\", \"listen\": \"127.0.0.1:0\", \"upstream\": \"127.0.0.1:%d\", \"enabled\": true}",
             port);
    if (toxiproxy_ask(toxiproxy, "/proxies", json, &body) == 201 && body &&
        (at = strstr(body, "\"listen\":\"127.0.0.1:")))
        listens = atoi(at + strlen("\"listen\":\"127.0.0.1:"));
    free(body);
    snprintf(url, cap, "http://127.0.0.1:%d", listens);
    return listens > 0;
}

bool toxic_add(const struct real_server *toxiproxy, const char *json)
{
    return toxiproxy_ask(toxiproxy, "/proxies/way/toxics", json, NULL) == 200;
}

bool toxic_heal(const struct real_server *toxiproxy)
{
    return toxiproxy_ask(toxiproxy, "/reset", "", NULL) == 204;
}

/* ---- the tap ---- */

struct conn {
    int client, server;
};

/* Some bytes from one side to the other. False: it is over. */
static bool forward(struct tap *t, int from, int to, bool keep)
{
    char bytes[64 * 1024];
    ssize_t n = read(from, bytes, sizeof bytes);

    if (n > 0 && keep) {
        pthread_mutex_lock(&t->mtx);
        if ((size_t)n <= TAP_MAX - t->n) {
            memcpy(t->kept + t->n, bytes, (size_t)n);
            t->n += (size_t)n;
        }
        pthread_mutex_unlock(&t->mtx);
    }
    return n > 0 && send_all(to, bytes, (size_t)n);
}

static void *run_tap(void *user)
{
    struct tap *t = user;
    struct conn conns[CONNS_MAX];
    struct pollfd fds[1 + 2 * CONNS_MAX];
    size_t n = 0;

    for (;;) {
        fds[0] = (struct pollfd){ .fd = t->listener, .events = POLLIN };
        for (size_t i = 0; i < n; i++) {
            fds[1 + 2 * i] = (struct pollfd){ .fd = conns[i].client, .events = POLLIN };
            fds[2 + 2 * i] = (struct pollfd){ .fd = conns[i].server, .events = POLLIN };
        }
        if (poll(fds, 1 + 2 * n, -1) == -1 && errno != EINTR)
            break;
        for (size_t i = n; i-- > 0;)
            if ((fds[1 + 2 * i].revents && !forward(t, conns[i].client, conns[i].server, true)) ||
                (fds[2 + 2 * i].revents && !forward(t, conns[i].server, conns[i].client, false))) {
                close(conns[i].client);
                close(conns[i].server);
                conns[i] = conns[--n];
            }
        if (fds[0].revents) {
            int client = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
            int server = client != -1 && n < CONNS_MAX ? connect_to(t->upstream) : -1;

            if (client == -1) /* tap_close() */
                break;
            if (server == -1)
                close(client);
            else
                conns[n++] = (struct conn){ client, server };
        }
    }
    for (size_t i = 0; i < n; i++) {
        close(conns[i].client);
        close(conns[i].server);
    }
    return NULL;
}

void tap_open(struct tap *t, int upstream)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof at;

    *t = (struct tap){ .listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .upstream = upstream };
    t->kept = malloc(TAP_MAX + 1);
    pthread_mutex_init(&t->mtx, NULL);
    if (!t->kept || t->listener == -1 || bind(t->listener, (struct sockaddr *)&at, len) || listen(t->listener, 16) ||
        getsockname(t->listener, (struct sockaddr *)&at, &len) || pthread_create(&t->thread, NULL, run_tap, t)) {
        perror("tap");
        abort();
    }
    snprintf(t->url, sizeof t->url, "http://127.0.0.1:%d", ntohs(at.sin_port));
}

void tap_close(struct tap *t)
{
    if (!t->kept)
        return;
    shutdown(t->listener, SHUT_RDWR);
    pthread_join(t->thread, NULL);
    close(t->listener);
    pthread_mutex_destroy(&t->mtx);
    free(t->kept);
    *t = (struct tap){ .listener = -1 };
}

void tap_clear(struct tap *t)
{
    pthread_mutex_lock(&t->mtx);
    t->n = 0;
    pthread_mutex_unlock(&t->mtx);
}

bool tap_saw(struct tap *t, const char *text)
{
    size_t n = strlen(text);
    bool saw = false;

    pthread_mutex_lock(&t->mtx);
    for (size_t i = 0; i + n <= t->n && !saw; i++)
        saw = !strncasecmp(t->kept + i, text, n);
    pthread_mutex_unlock(&t->mtx);
    return saw;
}
