/* main.c - larderd: options, log, signals. Foreground; systemd or Kubernetes does the rest.
 * Exit: 0 stopped by a signal · 1 failed at work · 2 usage or configuration · 3 the cache directory (or its endpoint)
 * cannot be used · 4 another agent is at work there. */
#include "agent/agent.h"
#include "common/clock.h"
#include "common/log.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { EXIT_USAGE = 2, EXIT_CACHE = 3, EXIT_BUSY = 4 };

static const char usage[] =
    "usage: larderd [-c FILE] [--check]\n"
    "\n"
    "The agent of a node's object cache. Runs in the foreground until SIGTERM or SIGINT.\n"
    "\n"
    "  -c, --config FILE  configuration (default: $LARDER_CONFIG, /etc/larder/larder.yaml, or none:\n"
    "                     a local store and a cache in your own folders)\n"
    "      --check        explain the effective configuration and exit\n"
    "      --version\n"
    "  -h, --help\n"
    "\n"
    "SIGHUP reads the configuration again for the log level. Exit: 0 stopped, 1 failed, 2 usage or configuration,\n"
    "3 the cache directory cannot be used, 4 another agent is at work there.\n"
    "Example: LARDER_CACHE_DIR=/tmp/cache larderd\n";

/* ---------- log ---------- */

static void log_text(void *user, enum ldr_log_level level, const char *area, const char *text)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };
    struct timespec now;
    struct tm tm;
    char at[40];
    bool json = *(const bool *)user;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", &tm);
    if (json) {
        json_t *o = json_pack("{s:o, s:s, s:s, s:s}", "time", json_sprintf("%s.%03ldZ", at, now.tv_nsec / 1000000),
                              "level", names[level], "area", area, "text", text);
        char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;

        fprintf(stderr, "%s\n", line ? line : "{\"level\":\"error\",\"text\":\"a log line that is not UTF-8\"}");
        free(line);
        json_decref(o);
    } else {
        fprintf(stderr, "%s.%03ldZ %-5s %s: %s\n", at, now.tv_nsec / 1000000, names[level], area, text);
    }
}

/* ---------- the process ---------- */

/* Tell a supervisor, if there is one: the datagram that sd_notify(3) describes. */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    size_t n = path ? strlen(path) : 0;
    int fd;

    if (n == 0 || n >= sizeof sa.sun_path || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(sa.sun_path, path, n);
    if (sa.sun_path[0] == '@') /* an abstract name */
        sa.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&sa,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
        ldr_log(LDR_WARN, "agent", "could not notify the supervisor errno=%d", errno);
    close(fd);
}

static void prepare_process(void)
{
    struct rlimit rl;

    umask(0077);               /* modes of shared files are set one by one */
    prctl(PR_SET_DUMPABLE, 0); /* credentials live in this memory: no core dump, no ptrace by others */
    rl.rlim_cur = rl.rlim_max = 0;
    setrlimit(RLIMIT_CORE, &rl);
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
    signal(SIGIO, SIG_IGN); /* a lease break would end the process */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static int exit_code(enum larder_kind k)
{
    switch (k) {
    case LARDER_INVALID:
        return EXIT_USAGE;
    case LARDER_EXISTS:
        return EXIT_BUSY;
    case LARDER_IO:
    case LARDER_UNSUPPORTED:
    case LARDER_CORRUPT:
        return EXIT_CACHE;
    default:
        return EXIT_FAILURE;
    }
}

/* The built-in local store is the one store whose folder may be missing: it is made on the first start. */
static enum larder_kind make_default_store(const struct ldr_cfg *cfg, struct larder_err *err)
{
    const struct ldr_store_slot *s = &cfg->stores[0];

    if (s->line || strcmp(s->kind, "local"))
        return LARDER_OK;
    for (size_t i = 0; i < s->n_config; i++) {
        char *path, *p;
        enum larder_kind k = LARDER_OK;

        if (strcmp(s->config[i].name, "path"))
            continue;
        path = strdup(s->config[i].value);
        for (p = path ? path + 1 : NULL; p && !k; p = *p ? p + 1 : NULL) {
            char c = *p;

            if (c != '/' && c != '\0')
                continue;
            *p = '\0';
            if (mkdir(path, 0700) && errno != EEXIST)
                k = ldr_fail_sys(err, LARDER_IO, "could not make \"%s\" for the local store", path);
            *p = c;
        }
        free(path);
        return k;
    }
    return LARDER_OK;
}

static void reload(const char *file)
{
    struct ldr_cfg *cfg = NULL;
    char *errors = NULL;
    struct larder_err e;

    notify("RELOADING=1");
    if (ldr_cfg_load(file, environ, &cfg, &errors, &e)) {
        ldr_log(LDR_ERROR, "agent", "the configuration is left as it was reason=\"%s\"", e.msg);
    } else {
        ldr_log_set_level(cfg->log_level);
        ldr_log(LDR_INFO, "agent", "the log level was read again; other settings need a restart");
    }
    free(errors);
    ldr_cfg_free(&cfg);
    notify("READY=1");
}

static void work(struct ldr_agent *a, const sigset_t *set, const char *file)
{
    for (;;) {
        struct timespec second = { .tv_sec = 1 };
        int sig = sigtimedwait(set, NULL, &second);

        if (sig == SIGTERM || sig == SIGINT) {
            ldr_log(LDR_INFO, "agent", "stopping signal=%d", sig);
            return;
        }
        if (sig == SIGHUP)
            reload(file);
        ldr_agent_tick(a);
    }
}

static int serve(struct ldr_cfg *cfg, const char *file)
{
    struct ldr_agent *a = NULL;
    struct larder_err e = { 0 };
    enum larder_kind k;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread: only the main one takes them */
    k = make_default_store(cfg, &e);
    if (!k)
        k = ldr_agent_start(cfg, &a, &e);
    if (k) {
        fprintf(stderr, "larderd: %s\n", e.msg);
        return exit_code(k);
    }
    ldr_log(LDR_INFO, "agent", "ready version=" LDR_VERSION " socket=\"%s\" cache=\"%s\"", ldr_agent_socket(a),
            cfg->cache_dir);
    notify("READY=1");
    work(a, &set, file);
    notify("STOPPING=1");
    ldr_agent_stop(&a);
    ldr_log(LDR_INFO, "agent", "stopped");
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static const struct option options[] = { { "config", required_argument, NULL, 'c' },
                                             { "check", no_argument, NULL, 'k' },
                                             { "version", no_argument, NULL, 'V' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    const char *file = NULL;
    bool check = false, json = false;
    struct ldr_cfg *cfg = NULL;
    char *errors = NULL;
    struct larder_err e;
    int opt, rc;

    while ((opt = getopt_long(argc, argv, "c:h", options, NULL)) != -1)
        switch (opt) {
        case 'c':
            file = optarg;
            break;
        case 'k':
            check = true;
            break;
        case 'V':
            puts("larderd " LDR_VERSION);
            return EXIT_SUCCESS;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            fputs(usage, stderr);
            return EXIT_USAGE;
        }
    if (optind < argc) {
        fprintf(stderr, "larderd: unexpected argument \"%s\"\n%s", argv[optind], usage);
        return EXIT_USAGE;
    }
    prepare_process();
    if (ldr_cfg_load(file, environ, &cfg, &errors, &e)) {
        fprintf(stderr, "larderd: %s\n", errors && *errors ? errors : e.msg);
        free(errors);
        return EXIT_USAGE;
    }
    if (check) {
        char *text = ldr_cfg_explain(cfg);

        for (size_t i = 0; i < cfg->n_warnings; i++)
            fprintf(stderr, "larderd: warning: %s\n", cfg->warnings[i]);
        fputs(text ? text : "", stdout);
        free(text);
        ldr_cfg_free(&cfg);
        return EXIT_SUCCESS;
    }
    json = cfg->log_json;
    ldr_log_open(log_text, &json, cfg->log_level);
    for (size_t i = 0; i < cfg->n_warnings; i++)
        ldr_log(LDR_WARN, "cfg", "%s", cfg->warnings[i]);
    rc = serve(cfg, file);
    ldr_cfg_free(&cfg);
    return rc;
}
