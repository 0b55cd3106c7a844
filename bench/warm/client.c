/* client.c - one process that reads. It lives as long as its set is measured, so that a repetition is a short slice and
 * contestants can take turns often; between its slices it sleeps. */
#include "bench/warm/warm.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WARM_UP 1.0 /* of a slice, untimed: the other contestants left the caches cold */

unsigned warm_hist_slot(uint64_t ns)
{
    unsigned e;

    if (ns < WARM_STEPS)
        return (unsigned)ns;
    e = 63 - (unsigned)__builtin_clzll(ns);
    return (e - 4) * WARM_STEPS + ((ns >> (e - 5)) & (WARM_STEPS - 1));
}

static double slot_ns(unsigned slot)
{
    unsigned e = slot / WARM_STEPS + 4;

    return slot < WARM_STEPS ? slot : (double)((UINT64_C(1) << e) + ((uint64_t)(slot % WARM_STEPS) << (e - 5)));
}

double warm_hist_ns(const uint64_t hist[WARM_HIST], double share)
{
    uint64_t all = 0, sum = 0;

    for (unsigned i = 0; i < WARM_HIST; i++)
        all += hist[i];
    for (unsigned i = 0; i < WARM_HIST; i++) {
        sum += hist[i];
        if ((double)sum > share * (double)all)
            return slot_ns(i);
    }
    return 0;
}

/* ---- in the client ---- */

struct reader {
    const struct warm_set *set;
    const struct warm_contestant *who;
    void *state;
    struct warm_slot *slot;
    uint64_t seed, at, step; /* random numbers; or a walk over all objects, in an order that is not theirs */
    uint64_t sum;
};

static uint32_t next_object(struct reader *r)
{
    if (r->who->sweep) {
        r->at += r->step;
        if (r->at >= r->set->n)
            r->at -= r->set->n;
        return (uint32_t)r->at;
    }
    r->seed ^= r->seed << 13;
    r->seed ^= r->seed >> 7;
    r->seed ^= r->seed << 17;
    return (uint32_t)(((r->seed >> 32) * r->set->n) >> 32);
}

/* Get object `i`, check that it is that one, and read a word of each page. */
static bool read_one(struct reader *r, uint32_t i)
{
    const uint8_t *p;
    size_t len;
    uint64_t word;

    if (!r->who->get(r->state, i, &p, &len)) {
        snprintf(r->slot->failed, sizeof r->slot->failed, "object %u could not be had", i);
        return false;
    }
    memcpy(&word, p, sizeof word);
    if (len != r->set->size || word != i) {
        snprintf(r->slot->failed, sizeof r->slot->failed, "object %u: %zu bytes, of object %llu", i, len,
                 (unsigned long long)word);
        return false;
    }
    for (size_t at = 0; at < len; at += 4096) {
        memcpy(&word, p + at, sizeof word);
        r->sum += word;
    }
    if (r->who->release)
        r->who->release(r->state);
    return true;
}

/* Small gets are timed one by one only now and then: reading the clock takes as long as a tenth of them. */
static unsigned timed_every(const struct warm_set *set)
{
    return set->blocks ? 4 : 16;
}

static bool read_for(struct reader *r, double secs, bool count)
{
    unsigned every = timed_every(r->set);
    int64_t start = ldr_mono_ns(), end = start + (int64_t)(secs * 1e9), before, after = start;
    double cpu = (double)ldr_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t ops = 0;

    while (after < end) {
        before = ldr_mono_ns();
        if (!read_one(r, next_object(r)))
            return false;
        after = ldr_mono_ns();
        if (count)
            r->slot->hist[warm_hist_slot((uint64_t)(after - before))]++;
        for (unsigned i = 1; i < every; i++)
            if (!read_one(r, next_object(r)))
                return false;
        ops += every;
    }
    if (count) {
        r->slot->wall_s = (double)(ldr_mono_ns() - start) / 1e9;
        r->slot->cpu_s = ((double)ldr_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9;
        r->slot->ops = ops;
    }
    return true;
}

static void pin(int cpu, const cpu_set_t *all)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    if (cpu >= 0)
        CPU_SET((unsigned)cpu, &one);
    if (sched_setaffinity(0, sizeof one, cpu >= 0 ? &one : all))
        warm_die("could not pin to CPU %d: %s", cpu, strerror(errno));
}

static uint64_t greatest_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

_Noreturn static void serve(struct reader *r, int fd, const char *dir)
{
    char byte = 0;
    cpu_set_t all;

    if (sched_getaffinity(0, sizeof all, &all))
        warm_die("could not ask for the CPUs: %s", strerror(errno));
    r->state = r->who->open(r->set, dir);
    r->step = r->set->n * UINT64_C(618) / 1000; /* golden section: neighbours come far apart */
    while (greatest_divisor(r->step, r->set->n) != 1)
        r->step++;
    for (uint32_t i = 0; i < r->set->n; i++)
        if (!read_one(r, i))
            break;
    if (r->who->counts)
        r->who->counts(r->state, &r->slot->counts);
    while (write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1) {
        struct warm_slot *s = r->slot;

        if (s->secs == 0)
            break;
        if (s->failed[0])
            continue;
        pin(s->cpu, &all);
        r->seed = s->seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
        memset(s->hist, 0, sizeof s->hist);
        if (read_for(r, s->secs * WARM_UP, false))
            read_for(r, s->secs, true);
        s->sum = r->sum;
        if (r->who->counts)
            r->who->counts(r->state, &s->counts);
    }
    _exit(0);
}

/* ---- around it ---- */

void warm_client_start(struct warm_client *c, const struct warm_set *set, const struct warm_contestant *who,
                       const char *dir)
{
    pid_t parent = getpid();
    char byte;
    int fd[2];

    c->slot = mmap(NULL, sizeof *c->slot, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (c->slot == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
        warm_die("could not prepare a client: %s", strerror(errno));
    fflush(stdout);
    c->pid = fork();
    if (c->pid < 0)
        warm_die("could not fork: %s", strerror(errno));
    if (c->pid == 0) {
        struct reader r = { .set = set, .who = who, .slot = c->slot };

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fd[0]);
        if (getppid() == parent)
            serve(&r, fd[1], dir);
        _exit(1);
    }
    close(fd[1]);
    c->fd = fd[0];
    if (read(c->fd, &byte, 1) != 1 || c->slot->failed[0])
        warm_die("%s, set %s: %s", who->name, set->name, c->slot->failed[0] ? c->slot->failed : "the client ended");
}

void warm_client_go(struct warm_client *c, double secs, int cpu, uint64_t seed)
{
    c->slot->secs = secs;
    c->slot->cpu = cpu;
    c->slot->seed = seed;
    if (write(c->fd, "", 1) != 1)
        warm_die("a client has gone: %s", strerror(errno));
}

void warm_client_wait(struct warm_client *c)
{
    char byte;

    if (read(c->fd, &byte, 1) != 1)
        warm_die("a client has gone");
    if (c->slot->failed[0])
        warm_die("a wrong read: %s", c->slot->failed);
}

void warm_client_stop(struct warm_client *c)
{
    warm_client_go(c, 0, -1, 0); /* clients inherit each other's sockets: closing one would tell nobody */
    close(c->fd);
    waitpid(c->pid, NULL, 0);
    munmap(c->slot, sizeof *c->slot);
}
