/* read_stress.c - many readers of an index that changes as fast as it can: right bytes, always.
 *
 *   read_stress [--seconds N] [--readers N] [--no-control] [--no-kill]     (or LDR_STRESS_SECONDS; default 10)
 *
 * One process is the agent (the product's own index, snapshots and blocks; no store, no IPC). Readers are processes of
 * their own with the product's own client, cache only. The parent stops, continues and kills readers, and kills the
 * agent and starts it again. Every answer is checked: right object, whole, of one version, not older than what was
 * published before the read began, never missing if it cannot be. First comes the negative control: the protection is
 * taken away on both sides (no pins, no validation), and a wrong answer must be seen, or the test is blind. Exit 0: as
 * it should be. */
#include "tests/stress/read_stress/read_stress.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READERS_MAX 32

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t rnd(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static pid_t start(void (*role)(const struct stress_args *, unsigned), const struct stress_args *a, unsigned i)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        role(a, i);
        _exit(9); /* a role never returns */
    }
    return pid;
}

static void nap(uint64_t us)
{
    struct timespec t = { .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000 };

    nanosleep(&t, NULL);
}

/* The control has shown that the test can see what it looks for. */
static bool found_wrong(const struct stress_args *a)
{
    for (size_t i = 0; i < STRESS_WRONGS; i++)
        if (atomic_load(&a->shared->wrong[i]))
            return true;
    return false;
}

/* One run in a directory of its own; true: as it should be. */
static bool campaign(struct stress_args a, double seconds, bool kills)
{
    char dir[256];
    const char *tmp = getenv("TMPDIR");
    double t0, killed_at, said_at;
    pid_t agent, reader[READERS_MAX];
    uint64_t seed = 99991, stops = 0, reader_kills = 0, agent_kills = 0, crashes = 0, agent_deaths = 0, wrong = 0;

    snprintf(dir, sizeof dir, "%s/larder-stress-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        perror(dir);
        return false;
    }
    a.dir = dir;
    a.shared = mmap(NULL, sizeof *a.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (a.shared == MAP_FAILED) {
        perror("mmap");
        return false;
    }
    agent = start(stress_agent, &a, 0);
    while (!atomic_load(&a.shared->ready)) {
        if (waitpid(agent, NULL, WNOHANG) == agent) {
            fprintf(stderr, "the agent ended before it was ready\n");
            return false;
        }
        nap(1000);
    }
    for (unsigned i = 0; i < a.readers; i++)
        reader[i] = start(stress_reader, &a, i);

    t0 = killed_at = said_at = now();
    while (now() - t0 < seconds && !(a.control && found_wrong(&a))) {
        unsigned i = (unsigned)(rnd(&seed) % a.readers);
        int status;
        pid_t pid;

        nap(rnd(&seed) % 4000);
        if (kills && rnd(&seed) % 12 == 0) {
            kill(reader[i], SIGKILL);
            waitpid(reader[i], NULL, 0);
            reader_kills++;
            reader[i] = start(stress_reader, &a, i);
        } else {
            kill(reader[i], SIGSTOP);
            nap(rnd(&seed) % 10 ? rnd(&seed) % 20000 : rnd(&seed) % 200000);
            kill(reader[i], SIGCONT);
            stops++;
        }
        if (kills && !a.control && now() - killed_at > 0.7) {
            kill(agent, SIGKILL);
            waitpid(agent, NULL, 0);
            nap(rnd(&seed) % 30000);
            agent_kills++;
            agent = start(stress_agent, &a, 0);
            killed_at = now();
        }
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
            if (pid == agent) {
                fprintf(stderr, "the agent died: status %x\n", status);
                agent_deaths++;
                agent = start(stress_agent, &a, 0);
            }
            for (unsigned j = 0; j < a.readers; j++)
                if (reader[j] == pid) {
                    crashes++;
                    if (!a.control)
                        fprintf(stderr, "a reader died: status %x\n", status);
                    reader[j] = start(stress_reader, &a, j);
                }
        }
        if (now() - said_at > 30) {
            said_at = now();
            printf("  %4.0f s: %" PRIu64 " reads, %" PRIu64 " changes, %" PRIu64 " agent kills\n", said_at - t0,
                   atomic_load(&a.shared->reads), atomic_load(&a.shared->changes), agent_kills);
            fflush(stdout);
        }
    }
    for (unsigned i = 0; i < a.readers; i++)
        kill(reader[i], SIGKILL);
    kill(agent, SIGKILL);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    for (size_t i = 0; i < STRESS_WRONGS; i++)
        wrong += atomic_load(&a.shared->wrong[i]);
    printf("%s %.0f s, %u readers: %" PRIu64 " reads (%" PRIu64 " found, %" PRIu64 " of blocks), %" PRIu64
           " changes, %" PRIu64 " retries, %" PRIu64 " given up\n"
           "  %" PRIu64 " stops, %" PRIu64 " reader kills, %" PRIu64 " agent kills; crashes: %" PRIu64
           " readers, %" PRIu64 " agents\n"
           "  wrong: %" PRIu64,
           a.control ? "control" : "stress", seconds, a.readers, atomic_load(&a.shared->reads),
           atomic_load(&a.shared->found), atomic_load(&a.shared->found_blocks), atomic_load(&a.shared->changes),
           atomic_load(&a.shared->retries), atomic_load(&a.shared->gave_up), stops, reader_kills, agent_kills, crashes,
           agent_deaths, wrong);
    for (size_t i = 0; i < STRESS_WRONGS; i++)
        printf("%s %s %" PRIu64, i ? "," : ":", stress_wrong_name[i], atomic_load(&a.shared->wrong[i]));
    printf("\n");
    stress_remove(dir);
    fflush(stdout);
    if (a.control)
        return wrong > 0;
    return !wrong && !crashes && !agent_deaths && atomic_load(&a.shared->found) && atomic_load(&a.shared->found_blocks);
}

int main(int argc, char **argv)
{
    static const struct option options[] = { { "seconds", required_argument, NULL, 's' },
                                             { "readers", required_argument, NULL, 'r' },
                                             { "no-control", no_argument, NULL, 'c' },
                                             { "no-kill", no_argument, NULL, 'k' },
                                             { 0 } };
    const char *set = getenv("LDR_STRESS_SECONDS");
    struct stress_args a = { .readers = 6 };
    double seconds = set ? atof(set) : 10;
    bool kills = true, control = true;
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (opt) {
        case 's':
            seconds = atof(optarg);
            break;
        case 'r':
            a.readers = (unsigned)atoi(optarg);
            break;
        case 'c':
            control = false;
            break;
        case 'k':
            kills = false;
            break;
        default:
            return 2;
        }
    if (a.readers < 1 || a.readers > READERS_MAX || seconds <= 0)
        return 2;
    if (control) {
        a.control = true;
        if (!campaign(a, 120, kills)) {
            printf("FAILED: without any protection no wrong answer was seen: this test is blind\n");
            return 1;
        }
        a.control = false;
    }
    return campaign(a, seconds, kills) ? 0 : 1;
}
