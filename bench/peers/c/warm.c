/* warm.c - one client process of part 1.
 *
 *     warm BACKEND.so ARG CLASS N SIZE SECS SEED                         read
 *     warm BACKEND.so ARG CLASS N SIZE 0 0 load DATADIR [FIRST STEP]     fill the store, with every STEPth object
 *
 * To read: opens, touches every object once, prints "ready", waits for a line on stdin, then reads random keys for SECS,
 * adding up one 8-byte word per 4 KiB page, and prints one JSON line. The first word of object i is i, and the length
 * is checked, so a wrong hit is an error, not a time. */
#define _GNU_SOURCE
#include "warm.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define STEPS 32 /* of the histogram, per power of two: about 3% wide */

static struct {
    int (*open)(const char *arg, const char *cls, unsigned n, size_t size);
    int (*get)(unsigned i, const unsigned char **p, size_t *len);
    void (*release)(unsigned i);
    int (*load)(unsigned i, const void *p, size_t len); /* NULL: nothing to fill */
} be;

static unsigned n;
static size_t size;
static uint64_t state; /* of the random numbers, never 0 */
static uint64_t histogram[64 * STEPS];

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static double cpu_s(void)
{
    struct rusage r;

    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static uint64_t random_next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static unsigned slot_of(uint64_t ns)
{
    int e;

    if (ns < STEPS)
        return ns;
    e = 63 - __builtin_clzll(ns);
    return (e - 4) * STEPS + ((ns >> (e - 5)) & (STEPS - 1));
}

static double ns_of(unsigned slot)
{
    int e = slot / STEPS + 4;

    if (slot < STEPS)
        return slot;
    return (double)((1ull << e) + ((uint64_t)(slot % STEPS) << (e - 5)));
}

static double percentile_us(uint64_t ops, double q)
{
    uint64_t seen = 0, wanted = (uint64_t)(q * ops);

    for (unsigned slot = 0; slot < 64 * STEPS; slot++) {
        seen += histogram[slot];
        if (seen > wanted)
            return ns_of(slot) / 1e3;
    }
    return 0;
}

static int load(const char *dir, const char *cls, unsigned first, unsigned step)
{
    for (unsigned i = first; be.load && i < n; i += step) {
        char path[4096];
        void *p;
        int fd;

        snprintf(path, sizeof path, "%s/%s/o%05u", dir, cls, i);
        fd = open(path, O_RDONLY);
        if (fd < 0)
            return 4;
        p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
        if (p == MAP_FAILED || be.load(i, p, size)) {
            fprintf(stderr, "load %u failed\n", i);
            return 4;
        }
        munmap(p, size);
    }
    return 0;
}

static int prime(void)
{
    for (unsigned i = 0; i < n; i++) {
        const unsigned char *p;
        uint64_t word;
        size_t len;

        if (be.get(i, &p, &len) || len != size) {
            fprintf(stderr, "prime %u failed\n", i);
            return 5;
        }
        memcpy(&word, p, 8);
        if (word != i) {
            fprintf(stderr, "object %u holds %" PRIu64 "\n", i, word);
            return 6;
        }
        be.release(i);
    }
    return 0;
}

static int run(double secs)
{
    double cpu = cpu_s();
    uint64_t start = now_ns(), t = start, end = start + (uint64_t)(secs * 1e9), sum = 0, ops = 0;

    while (t < end) {
        unsigned i = random_next() % n;
        const unsigned char *p;
        uint64_t word, before = t;
        size_t len;

        if (be.get(i, &p, &len) || len != size)
            return 8;
        memcpy(&word, p, 8);
        if (word != i)
            return 9;
        for (size_t at = 0; at < len; at += 4096) {
            memcpy(&word, p + at, 8);
            sum += word;
        }
        be.release(i);
        t = now_ns();
        histogram[slot_of(t - before)]++;
        ops++;
    }
    cpu = cpu_s() - cpu;
    printf("{\"ops\":%" PRIu64 ",\"secs\":%.6f,\"cpu\":%.6f,\"p50_us\":%.3f,\"p99_us\":%.3f,\"sum\":%" PRIu64 "}\n",
           ops, (t - start) / 1e9, cpu, percentile_us(ops, .5), percentile_us(ops, .99), sum);
    return 0;
}

int main(int argc, char **argv)
{
    char line[64];
    void *plugin;
    int code;

    if (argc < 8) {
        fprintf(stderr, "usage: warm BACKEND.so ARG CLASS N SIZE SECS SEED [load DATADIR [FIRST STEP]]\n");
        return 2;
    }
    plugin = dlopen(argv[1], RTLD_NOW);
    if (!plugin) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    be.open = dlsym(plugin, "be_open");
    be.get = dlsym(plugin, "be_get");
    be.release = dlsym(plugin, "be_release");
    be.load = dlsym(plugin, "be_load");
    n = atoi(argv[4]);
    size = strtoull(argv[5], NULL, 10);
    state = strtoull(argv[7], NULL, 10) * 0x9E3779B97F4A7C15ull + 1;
    if (be.open(argv[2], argv[3], n, size)) {
        fprintf(stderr, "open failed\n");
        return 3;
    }
    if (argc > 9 && !strcmp(argv[8], "load"))
        return argc > 11 ? load(argv[9], argv[3], atoi(argv[10]), atoi(argv[11])) : load(argv[9], argv[3], 0, 1);
    code = prime();
    if (code)
        return code;
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 7;
    return run(atof(argv[6]));
}
