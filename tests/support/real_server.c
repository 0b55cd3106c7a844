/* real_server.c - see real_server.h. */
#include "tests/support/real_server.h"
#include "common/clock.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TIMEOUT_MS 30000

bool real_server_find(const char *variable, const char *installed, char *path, size_t cap, char *reason,
                      size_t reason_cap)
{
    const char *named = getenv(variable), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

    if (named)
        snprintf(path, cap, "%s", named);
    else if (cache && *cache)
        snprintf(path, cap, "%s/larder-build/%s", cache, installed);
    else
        snprintf(path, cap, "%s/.cache/larder-build/%s", home ? home : "", installed);
    if (access(path, X_OK) == 0)
        return true;
    snprintf(reason, reason_cap, "%s is not installed (scripts/deps servers)", path);
    return false;
}

static pid_t spawn(char *const argv[], const char *log)
{
    pid_t parent = getpid(), pid = fork();
    int fd;

    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 2);
    dup2(fd, 1);
    dup2(open("/dev/null", O_RDONLY), 0);
    execv(argv[0], argv);
    _exit(127);
}

/* The port of a listening IPv4 socket with this inode; 0: none. */
static int port_of_inode(unsigned long inode)
{
    FILE *f = fopen("/proc/net/tcp", "re");
    char line[256];
    int port = 0;

    while (f && !port && fgets(line, sizeof line, f)) {
        unsigned p, state;
        unsigned long i;

        if (sscanf(line, "%*d: %*8x:%4x %*8x:%*4x %2x %*s %*s %*s %*u %*u %lu", &p, &state, &i) == 3 && state == 0x0A &&
            i == inode)
            port = (int)p;
    }
    if (f)
        fclose(f);
    return port;
}

static int port_of_process(pid_t pid)
{
    char path[64], target[64];
    int port = 0;
    struct dirent *e;
    DIR *d;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    d = opendir(path);
    while (d && !port && (e = readdir(d))) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
        unsigned long inode;

        target[n > 0 ? n : 0] = '\0';
        if (sscanf(target, "socket:[%lu]", &inode) == 1)
            port = port_of_inode(inode);
    }
    if (d)
        closedir(d);
    return port;
}

static bool answers(int port, const char *path)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval limit = { .tv_sec = 5 };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char head[16] = "";
    size_t len = 0;
    ssize_t n;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0) {
        dprintf(fd, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n", path ? path : "/", port);
        while (len < 12 && (n = read(fd, head + len, 12 - len)) > 0)
            len += (size_t)n;
    }
    close(fd);
    return path ? !strcmp(head, "HTTP/1.1 200") : !strncmp(head, "HTTP/", 5);
}

static bool ended(pid_t pid)
{
    siginfo_t info = { 0 };

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1 || info.si_pid == pid;
}

bool real_server_start(struct real_server *s, char *const argv[], const char *log, const char *ready)
{
    int64_t deadline = ldr_deadline_ns(START_TIMEOUT_MS);

    *s = (struct real_server){ .pid = spawn(argv, log) };
    while (s->pid > 0 && !ended(s->pid) && ldr_left_ms(deadline) > 0) {
        s->port = port_of_process(s->pid);
        if (s->port && answers(s->port, ready)) {
            snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", s->port);
            return true;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 10 * LDR_NS_PER_MS }, NULL);
    }
    real_server_stop(s);
    return false;
}

void real_server_stop(struct real_server *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        while (waitpid(s->pid, NULL, 0) == -1 && errno == EINTR)
            ;
    }
    *s = (struct real_server){ 0 };
}
