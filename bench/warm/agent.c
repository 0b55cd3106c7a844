/* agent.c - larderd on a cache that is filled already: it must have nothing to do while clients read. */
#include "bench/warm/warm.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_MS 20000

static void write_config(const char *path, const char *cache, uint64_t inline_bytes)
{
    FILE *f = fopen(path, "we");

    if (!f)
        warm_die("could not write %s: %s", path, strerror(errno));
    fprintf(f,
            "storage: {type: mem}\n"
            "larder:\n"
            "  cache: {dir: \"%s\", max_size: 1TiB, min_free: 0, min_free_inodes: 0, inline_size: %" PRIu64 "}\n"
            "  prefixes:\n"
            "    - {match: \"mem://bench/\", freshness: immutable}\n"
            "  log: {level: warn}\n",
            cache, inline_bytes);
    if (fclose(f))
        warm_die("could not write %s: %s", path, strerror(errno));
}

static void nothing(void *user, const char *name, const char *text, uint64_t n)
{
    (void)user, (void)name, (void)text, (void)n;
}

static void wait_ready(pid_t agent, const char *program, const char *cache)
{
    int64_t deadline = ldr_deadline_ns(READY_MS);
    struct larder_err err = { 0 };
    struct larder *l = NULL;

    if (larder_open(cache, &l, &err))
        warm_die("could not open the cache: %s", err.msg);
    while (larder_status(l, 1000, nothing, NULL, &err)) {
        if (waitpid(agent, NULL, WNOHANG) == agent)
            warm_die("%s did not start", program);
        if (ldr_left_ms(deadline) == 0)
            warm_die("%s does not answer: %s", program, err.msg);
        nanosleep(&(struct timespec){ .tv_nsec = 5 * LDR_NS_PER_MS }, NULL);
    }
    larder_close(&l);
}

pid_t warm_agent_start(const char *program, const struct warm_set *set, const char *dir)
{
    char cache[WARM_PATH_MAX], config[WARM_PATH_MAX];
    pid_t parent = getpid(), pid;

    warm_path(cache, dir, WARM_CACHE);
    warm_path(config, dir, "larderd.yaml");
    write_config(config, cache, warm_inline_bytes(set));
    pid = fork();
    if (pid < 0)
        warm_die("could not fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        execl(program, program, "-c", config, (char *)NULL);
        fprintf(stderr, "warm: could not run %s: %s\n", program, strerror(errno));
        _exit(127);
    }
    wait_ready(pid, program, cache);
    return pid;
}

uint64_t warm_agent_cpu_ns(pid_t agent)
{
    char path[64 + sizeof(((struct dirent *)NULL)->d_name)];
    uint64_t sum = 0;
    struct dirent *e;
    DIR *tasks;

    snprintf(path, sizeof path, "/proc/%d/task", (int)agent);
    tasks = opendir(path);
    if (!tasks)
        warm_die("the agent is gone");
    while ((e = readdir(tasks))) {
        uint64_t ns;
        FILE *f;

        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)agent, e->d_name);
        f = fopen(path, "re");
        if (f && fscanf(f, "%" SCNu64, &ns) == 1)
            sum += ns;
        if (f)
            fclose(f);
    }
    closedir(tasks);
    return sum;
}

void warm_agent_stop(pid_t *agent)
{
    int status;

    kill(*agent, SIGTERM);
    if (waitpid(*agent, &status, 0) != *agent || status)
        fprintf(stderr, "warm: the agent did not end well (status %#x)\n", (unsigned)status);
    *agent = 0;
}
