/* memcached over a unix socket, meta protocol ("mg KEY v"), own client: one buffer, as few reads as can be. ARG = socket. */
#include "warm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static int s;
static char cl[16];
static unsigned char *b;
static size_t cap;

static int all(const void *p, size_t n)
{
    const char *q = p;
    while (n) {
        ssize_t w = write(s, q, n);
        if (w <= 0)
            return -1;
        q += w;
        n -= w;
    }
    return 0;
}

int be_open(const char *a, const char *cls, unsigned n, size_t size)
{
    (void)n;
    struct sockaddr_un u = { .sun_family = AF_UNIX };
    snprintf(u.sun_path, sizeof u.sun_path, "%s", a);
    snprintf(cl, sizeof cl, "%s", cls);
    cap = size + 4096;
    b = aligned_alloc(4096, cap + 4096 - cap % 4096);
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    return connect(s, (void *)&u, sizeof u);
}

int be_load(unsigned i, const void *p, size_t len)
{
    char h[96];
    int n = snprintf(h, sizeof h, "ms %s/o%05u %zu\r\n", cl, i, len);
    if (all(h, n) || all(p, len) || all("\r\n", 2))
        return -1;
    ssize_t r = read(s, h, sizeof h - 1);
    if (r < 2 || memcmp(h, "HD", 2)) {
        h[r > 0 ? r : 0] = 0;
        fprintf(stderr, "memcached: %s\n", h);
        return -1;
    }
    return 0;
}

int be_get(unsigned i, const unsigned char **p, size_t *len)
{
    char h[64];
    int n = snprintf(h, sizeof h, "mg %s/o%05u v\r\n", cl, i);
    if (all(h, n))
        return -1;
    size_t got = 0, off = 0, l = 0;
    for (;;) {
        ssize_t r = read(s, b + got, cap - got);
        if (r <= 0)
            return -1;
        got += r;
        if (!off) {
            unsigned char *e = memchr(b, '\n', got);
            if (!e)
                continue;
            if (memcmp(b, "VA ", 3))
                return -1;
            l = strtoull((char *)b + 3, 0, 10);
            off = e + 1 - b;
        }
        if (got >= off + l + 2)
            break;
    }
    *p = b + off;
    *len = l;
    return 0;
}

void be_release(unsigned i)
{
    (void)i;
}
