/* agent_proc.c - see agent_proc.h. */
#include "tests/support/agent_proc.h"
#include "common/clock.h"
#include "tests/support/backend_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef LDR_TEST_BIN
#define LDR_TEST_BIN "build/bin"
#endif

#define STOP_MS   20000
#define STATUS_MS 10000
#define LOG_MAX   (4 * LDR_MIB)

void agent_die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("agent_proc: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

void agent_pause(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 2 * LDR_NS_PER_MS }, NULL);
}

static void write_whole(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wbe");

    if (!f || fwrite(p, 1, n, f) != n || fclose(f))
        agent_die("could not write %s: %s", path, strerror(errno));
}

/* ---- before it runs ---- */

void agent_configure(struct agent *a, const char *yaml)
{
    write_whole(a->config, yaml, strlen(yaml));
}

void agent_set(struct agent *a, const char *name, const char *value)
{
    if (a->n_env == AGENT_ENV_MAX || asprintf(&a->env[a->n_env], "%s=%s", name, value) < 0)
        agent_die("too many variables");
    a->n_env++;
}

void agent_init(struct agent *a, const struct s3_server *s3)
{
    char yaml[4096], s3_part[1024] = "", objects[TEST_DIR_MAX + 16];

    *a = (struct agent){ 0 };
    test_dir_make(a->dir);
    chmod(a->dir, 0755); /* clients of other users come through */
    snprintf(a->cache, sizeof a->cache, "%s/cache", a->dir);
    snprintf(a->socket, sizeof a->socket, "%s/ipc/agent.sock", a->cache);
    snprintf(a->config, sizeof a->config, "%s/larderd.yaml", a->dir);
    snprintf(a->log, sizeof a->log, "%s/larderd.log", a->dir);
    snprintf(objects, sizeof objects, "%s/objects", a->dir);
    if (mkdir(objects, 0700))
        agent_die("could not make %s", objects);
    if (s3)
        snprintf(s3_part, sizeof s3_part,
                 "    s3: {kind: s3, config: {endpoint: \"%s\", region: us-east-1, auth_type: accesskey, "
                 "access_key_id: \"%s\", secret_key: \"%s\"}}\n",
                 s3->endpoint, S3_ACCESS_KEY, S3_SECRET_KEY);
    snprintf(yaml, sizeof yaml,
             "storage:\n"
             "  type: local\n"
             "  stow: {config: {path: \"%s\"}}\n"
             "  schemes:\n"
             "    mem: {}\n"
             "%s"
             "larder:\n"
             "  cache: {dir: \"%s\", max_size: 512MiB, min_free: 0, min_free_inodes: 0}\n"
             "  prefixes:\n"
             "    - {match: \"file://\", freshness: immutable}\n"
             "    - {match: \"mem://\", freshness: immutable}\n"
             "    - {match: \"s3://\", freshness: immutable}\n"
             "  log: {level: debug}\n",
             objects, s3_part, a->cache);
    agent_configure(a, yaml);
}

void agent_release(struct agent *a)
{
    agent_kill(a);
    for (size_t i = 0; i < a->n_env; i++)
        free(a->env[i]);
    a->n_env = 0;
    test_dir_remove(a->dir);
}

/* ---- start and end ---- */

struct larder *agent_open(const struct agent *a)
{
    struct larder *l = NULL;
    struct larder_err err = { 0 };

    if (larder_open(a->cache, &l, &err))
        agent_die("could not open %s: %s", a->cache, err.msg);
    return l;
}

static void become(const struct agent *a)
{
    if (a->uid && (setgroups(0, NULL) || setgid(a->uid) || setuid(a->uid)))
        _exit(126);
    for (size_t i = 0; i < a->n_env; i++)
        putenv(a->env[i]);
}

static void spawn(struct agent *a)
{
    pid_t parent = getpid();
    int fd, program = open(LDR_TEST_BIN "/larderd", O_PATH | O_CLOEXEC);

    if (a->pid)
        agent_die("it runs already");
    if (program == -1)
        agent_die("could not open " LDR_TEST_BIN "/larderd: %s", strerror(errno));
    a->asked = 0;
    a->pid = fork();
    if (a->pid == -1)
        agent_die("could not fork: %s", strerror(errno));
    if (a->pid) {
        close(program);
        return;
    }
    fd = open(a->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    dup2(program, 3);
    close_range(4, ~0U, 0); /* a test's connections must not live on in the agent */
    fcntl(3, F_SETFD, FD_CLOEXEC);
    signal(SIGPIPE, SIG_DFL);
    become(a);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* after setuid(), which clears it */
    if (getppid() != parent)
        _exit(127);
    /* by the descriptor: another user may have no way to its folder */
    execveat(3, "", (char *[]){ "larderd", "-c", a->config, NULL }, environ, AT_EMPTY_PATH);
    _exit(127);
}

static void show_log(const struct agent *a)
{
    FILE *f = fopen(a->log, "re");
    int c;

    while (f && (c = fgetc(f)) != EOF)
        fputc(c, stderr);
    if (f)
        fclose(f);
}

static int wait_end(struct agent *a, int64_t deadline)
{
    int status;
    pid_t got;

    while ((got = waitpid(a->pid, &status, WNOHANG)) == 0 && ldr_left_ms(deadline))
        agent_pause();
    if (got != a->pid)
        agent_die("it did not end, see %s", a->log);
    a->pid = 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
        fprintf(stderr, "larderd was ended by signal %d\n", WTERMSIG(status));
        show_log(a);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool agent_alive(struct agent *a)
{
    siginfo_t info = { 0 };

    return a->pid && waitid(P_PID, (id_t)a->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

static void ignore(void *user, const char *name, const char *text, uint64_t number)
{
    (void)user;
    (void)name;
    (void)text;
    (void)number;
}

/* A whole request: the endpoint is there before anybody serves it. */
static bool answers(struct agent *a)
{
    struct larder *l = agent_open(a);
    bool yes = larder_status(l, STATUS_MS, ignore, NULL, NULL) == LARDER_OK;

    a->asked += yes;
    larder_close(&l);
    return yes;
}

bool agent_try(struct agent *a)
{
    int64_t deadline = ldr_deadline_ns(AGENT_START_MS);

    spawn(a);
    while (!answers(a)) {
        if (!agent_alive(a)) {
            agent_kill(a);
            return false;
        }
        if (ldr_left_ms(deadline) == 0) {
            show_log(a);
            agent_die("it started, but does not answer");
        }
        agent_pause();
    }
    return true;
}

void agent_start(struct agent *a)
{
    if (agent_try(a))
        return;
    show_log(a);
    agent_die(LDR_TEST_BIN "/larderd did not start");
}

int agent_run(struct agent *a)
{
    spawn(a);
    return wait_end(a, ldr_deadline_ns(AGENT_START_MS));
}

int agent_stop(struct agent *a)
{
    kill(a->pid, SIGTERM);
    return wait_end(a, ldr_deadline_ns(STOP_MS));
}

void agent_kill(struct agent *a)
{
    if (!a->pid)
        return;
    kill(a->pid, SIGKILL);
    while (waitpid(a->pid, NULL, 0) == -1 && errno == EINTR)
        ;
    a->pid = 0;
}

/* ---- what it says ---- */

struct wanted {
    const char *name;
    uint64_t number;
    bool found;
};

static void pick(void *user, const char *name, const char *text, uint64_t number)
{
    struct wanted *w = user;

    if (text || strcmp(name, w->name))
        return;
    w->number = number;
    w->found = true;
}

uint64_t agent_counter(struct agent *a, const char *name)
{
    struct wanted w = { .name = name };
    struct larder *l = agent_open(a);
    struct larder_err err = { 0 };

    if (larder_status(l, STATUS_MS, pick, &w, &err))
        agent_die("no status: %s", err.msg);
    if (!w.found)
        agent_die("no figure \"%s\" in the status", name);
    larder_close(&l);
    a->asked++;
    return w.number;
}

uint64_t agent_requests(struct agent *a)
{
    uint64_t n = agent_counter(a, "requests");

    return n - a->asked;
}

void agent_wait_counter(struct agent *a, const char *name, uint64_t least)
{
    agent_wait_until(agent_counter(a, name) >= least);
}

bool agent_logged(const struct agent *a, const char *text)
{
    char *all = calloc(1, LOG_MAX);
    FILE *f = fopen(a->log, "re");
    bool found = all && f && fread(all, 1, LOG_MAX - 1, f) > 0 && strstr(all, text);

    if (f)
        fclose(f);
    free(all);
    return found;
}

/* ---- objects that it does not know ---- */

void agent_seed_file(const struct agent *a, const char *container, const char *key, const void *p, size_t n)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/objects/%s", a->dir, container);
    if (mkdir(path, 0700) && errno != EEXIST)
        agent_die("could not make %s: %s", path, strerror(errno));
    snprintf(path, sizeof path, "%s/objects/%s/%s", a->dir, container, key);
    write_whole(path, p, n);
}

void agent_seed_s3(const struct s3_server *s3, const char *key, const void *p, size_t n)
{
    struct bd *d = NULL;
    struct bd_result r;
    struct larder_err err = { 0 };
    enum larder_kind k = bd_open("s3", "s3",
                                 (const char *[]){ "endpoint", s3->endpoint, "region", "us-east-1", "access_key_id",
                                                   S3_ACCESS_KEY, "secret_key", S3_SECRET_KEY, NULL },
                                 &d, &err);

    if (k)
        agent_die("no S3 client: %s", err.msg);
    if (bd_put(d, S3_BUCKET, key, p, n, NULL, &r))
        agent_die("could not put %s: %s", key, r.err.msg);
    bd_result_release(&r);
    bd_close(&d);
}
