/* Physical limits. ARG = MODE:DIR
 * heapview  pointer into the process's own heap           heapcopy  memcpy out of it
 * mapheld   every file mapped once, before the clock      mapfd     fd held, mmap+munmap per op
 * openmap   open+fstat+mmap+munmap+close per op           openpop   the same with MAP_POPULATE
 * pread     fd held, pread into a buffer                  openread  open+fstat+read+close */
#define _GNU_SOURCE
#include "warm.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HV, HC, MH, MF, OM, OP, PR, OR };

static const char *M[] = { "heapview", "heapcopy", "mapheld", "mapfd", "openmap", "openpop", "pread", "openread" };
static int mode, *fd;
static unsigned char **ptr, *buf;
static size_t sz;
static char pre[512];
static const unsigned char *cur;
/* a small open-addressing hash table keyed by string, so that a heap hit pays for a look-up too */
static unsigned cap;

static struct {
    char k[24];
    unsigned i;
} * ht;

static unsigned long fnv(const char *k)
{
    unsigned long h = 1469598103934665603ul;
    while (*k)
        h = (h ^ (unsigned char)*k++) * 1099511628211ul;
    return h;
}

static char cl[16];
static int pack = -1; /* DIR/CLASS.pack, if it is there: object i at i*size, one fd for mapfd and pread */

static void key(char *o, unsigned i)
{
    int n = 0;
    for (const char *q = cl; *q;)
        o[n++] = *q++;
    o[n++] = '/';
    o[n++] = 'o';
    for (int d = 10000; d; d /= 10)
        o[n++] = '0' + i / d % 10;
    o[n] = 0;
}

static unsigned find(unsigned i)
{
    char k[24];
    key(k, i);
    unsigned long h = fnv(k) & (cap - 1);
    while (strcmp(ht[h].k, k))
        h = (h + 1) & (cap - 1);
    return ht[h].i;
}

int be_open(const char *arg, const char *cls, unsigned n, size_t size)
{
    const char *c = strchr(arg, ':');
    for (mode = 0; mode < 8; mode++)
        if (strlen(M[mode]) == (size_t)(c - arg) && !memcmp(M[mode], arg, c - arg))
            break;
    if (mode == 8)
        return -1;
    sz = size;
    snprintf(pre, sizeof pre, "%s/", c + 1);
    snprintf(cl, sizeof cl, "%s", cls);
    fd = calloc(n, sizeof *fd);
    ptr = calloc(n, sizeof *ptr);
    buf = aligned_alloc(4096, size);
    memset(buf, 1, size);
    if (mode == MF || mode == PR) {
        char p[600];
        snprintf(p, sizeof p, "%s%s.pack", pre, cl);
        pack = open(p, O_RDONLY);
    }
    for (cap = 1; cap < 2 * n; cap *= 2)
        ;
    ht = calloc(cap, sizeof *ht);
    for (unsigned i = 0; i < n; i++) {
        char k[24];
        key(k, i);
        unsigned long h = fnv(k) & (cap - 1);
        while (ht[h].k[0])
            h = (h + 1) & (cap - 1);
        strcpy(ht[h].k, k);
        ht[h].i = i;
        if (mode == OM || mode == OP || mode == OR || pack >= 0)
            continue;
        char p[600];
        snprintf(p, sizeof p, "%s%s", pre, k);
        fd[i] = open(p, O_RDONLY);
        if (fd[i] < 0)
            return -1;
        if (mode == HV || mode == HC) {
            ptr[i] = aligned_alloc(4096, size);
            size_t o = 0;
            while (o < size) {
                ssize_t r = read(fd[i], ptr[i] + o, size - o);
                if (r <= 0)
                    return -1;
                o += r;
            }
            close(fd[i]);
        }
        if (mode == MH) {
            ptr[i] = mmap(0, size, PROT_READ, MAP_SHARED, fd[i], 0);
            if (ptr[i] == MAP_FAILED)
                return -1;
            close(fd[i]);
        }
    }
    return 0;
}

int be_get(unsigned i, const unsigned char **p, size_t *len)
{
    unsigned j = find(i);
    *len = sz;
    struct stat st;
    char f[600];
    int d;
    switch (mode) {
    case HV:
    case MH:
        *p = ptr[j];
        return 0;
    case HC:
        memcpy(buf, ptr[j], sz);
        *p = buf;
        return 0;
    case PR: {
        size_t o = 0;
        while (o < sz) {
            ssize_t r = pack >= 0 ? pread(pack, buf + o, sz - o, (off_t)j * sz + o) : pread(fd[j], buf + o, sz - o, o);
            if (r <= 0)
                return -1;
            o += r;
        }
        *p = buf;
        return 0;
    }
    case MF:
        cur = pack >= 0 ? mmap(0, sz, PROT_READ, MAP_SHARED, pack, (off_t)j * sz)
                        : mmap(0, sz, PROT_READ, MAP_SHARED, fd[j], 0);
        *p = cur;
        return cur == MAP_FAILED;
    default: {
        size_t l = strlen(pre);
        memcpy(f, pre, l);
        key(f + l, i);
        d = open(f, O_RDONLY | O_CLOEXEC);
        if (d < 0 || fstat(d, &st))
            return -1;
        *len = st.st_size;
        if (mode == OR) {
            size_t o = 0;
            while (o < *len) {
                ssize_t r = read(d, buf + o, *len - o);
                if (r <= 0)
                    return -1;
                o += r;
            }
            close(d);
            *p = buf;
            return 0;
        }
        cur = mmap(0, *len, PROT_READ, MAP_SHARED | (mode == OP ? MAP_POPULATE : 0), d, 0);
        close(d);
        *p = cur;
        return cur == MAP_FAILED;
    }
    }
}

void be_release(unsigned i)
{
    (void)i;
    if (mode == MF || mode == OM || mode == OP)
        munmap((void *)cur, sz);
}
