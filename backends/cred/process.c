/* process.c - credentials that a program prints: the setting credential_process (cred_impl.h). Blocks: on the pool. */
#include "backends/cred/cred_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MAX 64
#define LOOK_MS   100 /* how soon it is seen that larder is stopping */

extern char **environ;

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Split in place, as a shell's quotes want it; words[] ends with NULL. False: a quote that is not closed, too many. */
static bool split(char *line, char *words[WORDS_MAX + 1])
{
    char *to = line, quote = '\0';
    size_t n = 0;

    while (is_blank(*line))
        line++;
    while (*line) {
        if (n == WORDS_MAX)
            return false;
        words[n++] = to;
        for (; *line && (quote || !is_blank(*line)); line++) {
            if (quote != '\'' && *line == '\\' && line[1] && (!quote || strchr("\"\\$`", line[1])))
                *to++ = *++line;
            else if (quote && *line == quote)
                quote = '\0';
            else if (!quote && (*line == '\'' || *line == '"'))
                quote = *line;
            else
                *to++ = *line;
        }
        while (is_blank(*line))
            line++;
        *to++ = '\0'; /* never ahead of `line`: a word lost its quotes, and a blank or the end stood behind it */
    }
    words[n] = NULL;
    return !quote && n > 0;
}

/* Own process group, so that what the program starts ends with it; no signal blocked or ignored, as we have it. */
static int start(char *words[], int out, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int rc;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1); /* libraries open some that stay open else */
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    rc = posix_spawnp(pid, words[0], &files, &attr, words, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return rc;
}

/* What is there to be read now. False: too much. *end: the last writer is gone. */
static bool drain(int fd, struct ldr_buf *out, bool *end)
{
    for (;;) {
        ssize_t n;

        if (out->len == LDR_CRED_ANSWER_MAX + 1)
            return false;
        n = read(fd, out->p + out->len, LDR_CRED_ANSWER_MAX + 1 - out->len);
        if (n > 0)
            out->len += (size_t)n;
        else if (n == 0)
            *end = true;
        if (n == 0 || (n == -1 && errno != EINTR))
            return true;
    }
}

/* All that it prints until it ends; it may leave others behind that keep the pipe open. */
static enum larder_kind gather(const char *name, int fd, int pidfd, const struct ldr_net *net, struct ldr_buf *out,
                               struct larder_err *err)
{
    int64_t deadline = ldr_deadline_ns(LDR_CRED_PROCESS_MS);
    bool end = false, exited = false;

    while (!exited) {
        struct pollfd p[] = { { .fd = pidfd, .events = POLLIN }, { .fd = end ? -1 : fd, .events = POLLIN } };
        int left = ldr_left_ms(deadline);

        if (ldr_net_stopping(net))
            return ldr_fail(err, LARDER_CANCELLED, "larder is stopping");
        if (left == 0)
            return ldr_fail(err, LARDER_UNAVAILABLE, "credential_process \"%s\" did not end within %d s", name,
                            LDR_CRED_PROCESS_MS / 1000);
        if (poll(p, 2, left < LOOK_MS ? left : LOOK_MS) == -1 && errno != EINTR)
            return ldr_fail_sys(err, LARDER_INTERNAL, "could not wait for credential_process \"%s\"", name);
        exited = p[0].revents != 0;
        if (!end && !drain(fd, out, &end))
            return ldr_fail(err, LARDER_INVALID, "credential_process \"%s\" printed more than %d bytes", name,
                            (int)LDR_CRED_ANSWER_MAX);
    }
    return LARDER_OK;
}

static enum larder_kind reap(const char *name, pid_t pid, struct larder_err *err)
{
    int status = 0;
    pid_t rc;

    while ((rc = waitpid(pid, &status, 0)) == -1 && errno == EINTR)
        ;
    if (rc == -1)
        return ldr_fail_sys(err, LARDER_INTERNAL, "could not tell how credential_process \"%s\" ended", name);
    if (WIFSIGNALED(status))
        return ldr_fail(err, LARDER_DENIED, "credential_process \"%s\" was ended by signal %d", name, WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return ldr_fail(err, LARDER_DENIED, "credential_process \"%s\" failed with exit status %d", name,
                        WEXITSTATUS(status));
    return LARDER_OK;
}

enum larder_kind ldr_cred_process(const char *line, const struct ldr_net *net, struct ldr_cred_keys *out,
                                  struct larder_err *err)
{
    struct ldr_buf text = LDR_BUF_INIT(LDR_CRED_ANSWER_MAX + 1);
    char *words[WORDS_MAX + 1], *copy = strdup(line);
    int pipefd[2] = { -1, -1 }, pidfd = -1, rc;
    enum larder_kind k = LARDER_OK, ended;
    char who[128];
    pid_t pid = 0;

    if (!copy || !ldr_buf_reserve(&text, LDR_CRED_ANSWER_MAX + 1)) {
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
        goto done;
    }
    if (!split(copy, words)) {
        k = ldr_fail(err, LARDER_INVALID,
                     "credential_process has no program, a quote that is not closed, or more than %d words", WORDS_MAX);
        goto done;
    }
    if (pipe2(pipefd, O_CLOEXEC) == -1 || fcntl(pipefd[0], F_SETFL, O_NONBLOCK) == -1) {
        k = ldr_fail_sys(err, LARDER_INTERNAL, "no pipe for a credential_process");
        goto done;
    }
    rc = start(words, pipefd[1], &pid);
    close(pipefd[1]);
    pipefd[1] = -1;
    if (rc) {
        pid = 0;
        errno = rc;
        k = ldr_fail_sys(err, LARDER_DENIED, "could not run credential_process \"%.200s\"", words[0]);
        goto done;
    }
    pidfd = pidfd_open(pid, 0);
    if (pidfd == -1)
        k = ldr_fail_sys(err, LARDER_INTERNAL, "could not watch credential_process \"%.200s\"", words[0]);
    else /* its arguments may be secrets: only its name is told */
        k = gather(words[0], pipefd[0], pidfd, net, &text, err);
    if (k)
        kill(-pid, SIGKILL);
    ended = reap(words[0], pid, k ? NULL : err);
    k = k ? k : ended;
    if (!k) {
        snprintf(who, sizeof who, "credential_process \"%.90s\"", words[0]);
        k = ldr_cred_json_read(text.p, text.len, who, "SessionToken", true, out, err);
    }
done:
    if (pipefd[0] != -1)
        close(pipefd[0]);
    if (pidfd != -1)
        close(pidfd);
    ldr_cred_wipe_buf(&text);
    ldr_cred_wipe(&copy);
    return k;
}
