/* cmd_run.c - `larder run`: an agent for the life of one command. Everything of it is in one private directory:
 *   DIR/cache        the agent's cache; its socket is in DIR/cache/ipc
 *   DIR/larderd.log  the agent's standard error
 * Signals are blocked and waited for, so that none ends this process before the agent and the directory are gone. */
#include "client/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_MS    30000 /* for the agent to answer */
#define STOP_MS     15000 /* for it to end */
#define PAUSE_MS    10
#define DIR_MAX     64   /* of DIR: the agent takes 90 bytes for its socket's path, DIR/cache/ipc/agent.sock */
#define LOG_SHOWN   8192 /* bytes of the agent's last words */
#define BASE_SIGNAL 128  /* what a shell adds to the signal that ended a command */

struct run {
    struct cli *cli;
    const char *config; /* of the agent; NULL: as it decides */
    bool keep;
    char **argv;             /* the command */
    char dir[DIR_MAX + 1];   /* "": not made */
    char cache[DIR_MAX + 8]; /* DIR/cache */
    char log[DIR_MAX + 16];  /* DIR/larderd.log */
    sigset_t signals, old;   /* those waited for; the mask of our parent */
    pid_t agent;             /* 0: does not run */
};

/* ---- the directory ---- */

/* Make DIR below `base`, with the folders that lead to it. False: it cannot be there. */
static bool make_dir_below(struct run *r, const char *base)
{
    int n = snprintf(r->dir, sizeof r->dir, "%s/larder-XXXXXX", base);

    if (n > 0 && (size_t)n < sizeof r->dir) {
        for (char *slash = strchr(r->dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
            *slash = '\0';
            mkdir(r->dir, 0700); /* there already, most often; mkdtemp() sees whether it worked */
            *slash = '/';
        }
        if (mkdtemp(r->dir))
            return true;
    } else {
        errno = ENAMETOOLONG;
    }
    r->dir[0] = '\0';
    return false;
}

static bool make_dir(struct run *r)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *tmp = getenv("TMPDIR");
    char base[PATH_MAX];
    bool made = false;

    if (xdg && *xdg == '/' && (size_t)snprintf(base, sizeof base, "%s/larder/run", xdg) < sizeof base)
        made = make_dir_below(r, base);
    if (!made && tmp && *tmp == '/')
        made = make_dir_below(r, tmp);
    if (!made && !make_dir_below(r, "/tmp")) {
        cli_say("could not make a directory for the cache below $XDG_CACHE_HOME, $TMPDIR or /tmp: %s", strerror(errno));
        return false;
    }
    snprintf(r->cache, sizeof r->cache, "%s/cache", r->dir);
    snprintf(r->log, sizeof r->log, "%s/larderd.log", r->dir);
    return true;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    remove(path); /* what cannot be removed is told by the last, the directory itself */
    return 0;
}

static void remove_dir(struct run *r)
{
    if (r->dir[0] && r->keep)
        cli_say("kept \"%s\"", r->dir);
    else if (r->dir[0] && nftw(r->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0 &&
             access(r->dir, F_OK) == 0)
        cli_say("could not remove \"%s\"", r->dir);
    r->dir[0] = '\0';
}

/* ---- processes ---- */

/* Fork; the child has our parent's signals and ends with this process. */
static pid_t spawn(const struct run *r)
{
    pid_t self = getpid(), pid = fork();

    if (pid == -1)
        cli_say("could not start a process: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != self) /* it was gone before that */
            _exit(CLI_FAILED);
        sigprocmask(SIG_SETMASK, &r->old, NULL);
    }
    return pid;
}

/* Become larderd: the one beside this program, else the one of PATH. Only its log says why that failed. */
static void exec_agent(const struct run *r)
{
    char *argv[] = { (char *)"larderd", r->config ? (char *)"-c" : NULL, (char *)r->config, NULL };
    char path[PATH_MAX + 16];
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;

    if (slash) {
        strcpy(slash + 1, "larderd");
        execv(path, argv);
        if (errno != ENOENT)
            cli_say("could not run \"%s\": %s", path, strerror(errno));
    }
    if (!slash || errno == ENOENT) {
        execvp("larderd", argv);
        cli_say("could not run larderd, neither beside this program nor in $PATH: %s", strerror(errno));
    }
    _exit(CLI_FAILED);
}

static bool start_agent(struct run *r)
{
    pid_t pid = spawn(r);
    int fd;

    if (pid == 0) {
        setpgid(0, 0); /* the terminal's signals are for the command, which may go on */
        fd = open("/dev/null", O_RDONLY);
        dup2(fd, STDIN_FILENO);
        fd = open(r->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        exec_agent(r);
    }
    r->agent = pid > 0 ? pid : 0;
    return pid > 0;
}

/* Has the agent ended? Then it is no more ours to stop. */
static bool agent_ended(struct run *r)
{
    int status;

    if (r->agent && waitpid(r->agent, &status, WNOHANG) != r->agent)
        return false;
    r->agent = 0;
    return true;
}

/* Wait for a signal; 0: `ms` have gone by. */
static int wait_signal(const struct run *r, int ms)
{
    int s = sigtimedwait(&r->signals, NULL, &(struct timespec){ ms / 1000, ms % 1000 * 1000000L });

    return s > 0 ? s : 0;
}

static void stop_agent(struct run *r)
{
    double start_ms = cli_now_ms();

    if (r->agent)
        kill(r->agent, SIGTERM);
    while (!agent_ended(r) && cli_now_ms() - start_ms < STOP_MS)
        wait_signal(r, PAUSE_MS);
    if (r->agent) {
        cli_say("the agent does not stop, and is killed");
        kill(r->agent, SIGKILL);
        waitpid(r->agent, NULL, 0);
        r->agent = 0;
    }
}

/* Show the end of the agent's log. */
static void show_log(const struct run *r)
{
    FILE *f = fopen(r->log, "re");
    bool cut = f && fseek(f, -LOG_SHOWN, SEEK_END) == 0; /* then the first line has no beginning */
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    for (; f && (n = getline(&line, &cap, f)) > 0; cut = false) {
        line[n - (line[n - 1] == '\n')] = '\0';
        if (!cut && *line)
            cli_say("larderd: %s", line);
    }
    free(line);
    if (f)
        fclose(f);
}

static void ignore_item(void *user, const char *name, const char *text, uint64_t number)
{
    (void)user;
    (void)name;
    (void)text;
    (void)number;
}

/* Wait until the agent answers. False: it does not, and that was told; or *signo came first. */
static bool wait_for_agent(struct run *r, int *signo)
{
    double start_ms = cli_now_ms();
    struct larder *l = NULL;
    struct larder_err err = { 0 };
    bool answers = false;

    if (larder_open(r->cache, &l, &err)) {
        cli_report(r->cli, "open the cache", NULL, &err);
        return false;
    }
    while (larder_status(l, 1000, ignore_item, NULL, &err) != LARDER_OK) {
        int s;

        if (agent_ended(r)) {
            cli_say("the agent ended before it answered");
            show_log(r);
            goto done;
        }
        if (cli_now_ms() - start_ms > START_MS) {
            cli_say("the agent does not answer: %s", err.msg);
            show_log(r);
            goto done;
        }
        s = wait_signal(r, PAUSE_MS);
        if (s && s != SIGCHLD) {
            *signo = s;
            goto done;
        }
    }
    answers = true;
    if (r->cli->verbose)
        cli_say("the agent answers after %.3f ms, in \"%s\"", cli_now_ms() - start_ms, r->cache);
done:
    larder_close(&l);
    return answers;
}

/* Run the command to its end; returns what a shell would tell of it. */
static int run_command(struct run *r)
{
    pid_t pid = spawn(r);
    int status = 0;

    if (pid == -1)
        return CLI_FAILED;
    if (pid == 0) {
        execvp(r->argv[0], r->argv);
        status = errno == ENOENT ? 127 : 126;
        cli_say("could not run \"%s\": %s", r->argv[0], strerror(errno));
        _exit(status);
    }
    while (waitpid(pid, &status, WNOHANG) != pid) {
        siginfo_t info;
        int s = sigwaitinfo(&r->signals, &info);

        /* those of the terminal have reached the command already */
        if (s > 0 && s != SIGCHLD && info.si_code != SI_KERNEL)
            kill(pid, s);
    }
    return WIFSIGNALED(status) ? BASE_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- the command ---- */

static void prepare_signals(struct run *r)
{
    static const int waited[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD };

    signal(SIGCHLD, SIG_DFL); /* ignored, children would leave no status */
    sigemptyset(&r->signals);
    for (size_t i = 0; i < CLI_LEN(waited); i++)
        sigaddset(&r->signals, waited[i]);
    sigprocmask(SIG_BLOCK, &r->signals, &r->old);
}

static enum cli_exit run_all(struct run *r)
{
    enum cli_exit code = CLI_FAILED;
    char endpoint[DIR_MAX + 16];
    int signo = 0;

    prepare_signals(r);
    if (!make_dir(r))
        return CLI_FAILED;
    snprintf(endpoint, sizeof endpoint, "%s/ipc", r->cache);
    setenv("LARDER_CACHE_DIR", r->cache, 1); /* for the agent, for the command, for larder_open() */
    setenv("LARDER_ENDPOINT", endpoint, 1);
    if (start_agent(r) && wait_for_agent(r, &signo)) {
        code = CLI_DONE;
        r->cli->child_status = run_command(r);
        if (agent_ended(r)) {
            cli_say("the agent ended before the command");
            show_log(r);
        }
    } else if (signo) {
        r->cli->child_status = BASE_SIGNAL + signo;
    }
    stop_agent(r);
    remove_dir(r);
    return code;
}

static enum cli_exit run_run(struct cli *c, int argc, char **argv)
{
    enum { KEEP = 512 };
    static const struct option options[] = { { "config", required_argument, NULL, 'c' },
                                             { "keep", no_argument, NULL, KEEP },
                                             { 0 } };
    struct run r = { .cli = c };
    int opt;

    while ((opt = cli_getopt(c, argc, argv, "+c:", options)) != -1) {
        if (opt == '?')
            return c->stop;
        if (opt == 'c')
            r.config = optarg;
        else
            r.keep = true;
    }
    if (optind == argc)
        return cli_usage(c, "run needs a command");
    if (c->cache_dir)
        return cli_usage(c, "run makes a cache of its own: --cache-dir has no meaning here");
    if (c->json)
        return cli_usage(c, "--json and the command both want standard output");
    r.argv = argv + optind;
    return run_all(&r);
}

const struct cli_command cli_run = {
    .name = "run",
    .summary = "an agent for the life of one command",
    .synopsis = "run [OPTION]... [--] COMMAND [ARGUMENT]...",
    .help = "Start an agent with an empty cache of its own, run the command with\n"
            "$LARDER_CACHE_DIR and $LARDER_ENDPOINT set so that it uses that, then stop the\n"
            "agent and remove the cache. The agent is the larderd beside this program, else the\n"
            "one of $PATH. The cache is below $XDG_CACHE_HOME/larder/run, else $TMPDIR or /tmp.\n"
            "SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the command.\n"
            "\n"
            "The exit status is the command's: 128 + N when signal N ended it, 127 when there\n"
            "is no such command, 126 when it cannot be run; 1 when the agent did not start.\n"
            "\n"
            "Options:\n"
            "  -c, --config FILE  the agent's configuration\n"
            "      --keep         leave the cache and the agent's log, and say where\n"
            "\n"
            "Examples:\n"
            "  larder run -- python train.py\n"
            "  larder run -c larder.yaml -- sh -c 'larder get s3://data/a.csv && wc a.csv'\n",
    .run = run_run,
};
