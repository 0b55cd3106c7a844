/* s3_servers.c - see s3_servers.h. */
#include "tests/support/s3_servers.h"
#include "common/clock.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TIMEOUT_MS 20000
#define ANSWER_MAX       (1 << 20)
#define VERSITYGW        "larder-build/versitygw-1.8.0/versitygw"
#define MINIO            "/larder-build/minio-20260212/minio"

bool s3_servers_required(void)
{
    const char *v = getenv("LDR_TEST_REQUIRE_SERVERS");

    return v && !strcmp(v, "1");
}

/* ---- processes ---- */

/* `out`: the write end of a pipe for stdout, or -1: stdout goes to the log too. */
static pid_t spawn(char *const argv[], const char *log, int out)
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
    dup2(out == -1 ? fd : out, 1);
    fd = open("/dev/null", O_RDONLY);
    dup2(fd, 0);
    execv(argv[0], argv);
    _exit(127);
}

void s3_server_stop(struct s3_server *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        while (waitpid(s->pid, NULL, 0) == -1 && errno == EINTR)
            ;
    }
    *s = (struct s3_server){ 0 };
}

static void set_port(struct s3_server *s, int port)
{
    s->port = port;
    snprintf(s->endpoint, sizeof s->endpoint, "http://127.0.0.1:%d", port);
}

/* The port of a listening socket with this inode; 0: none. */
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

/* The port on which a process listens; 0: on none yet. A server that is told port 0 is the only one that cannot collide
 * with another test, but not each of them says what it got. */
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

static bool ended(pid_t pid)
{
    siginfo_t info = { 0 };

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1 || info.si_pid == pid;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = ms * LDR_NS_PER_MS }, NULL);
}

/* ---- HTTP, as little as the control needs ---- */

/* The whole answer; NULL: none. */
static char *http(const struct s3_server *s, const char *method, const char *path, const char *body)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)s->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval limit = { .tv_sec = 20 };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t len = 0;
    char *out = calloc(1, ANSWER_MAX);
    ssize_t n = -1;

    if (fd == -1 || !out || connect(fd, (struct sockaddr *)&at, sizeof at) == -1)
        goto done;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    dprintf(fd, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", method,
            path, s->port, body ? strlen(body) : 0, body ? body : "");
    while (len < ANSWER_MAX - 1 && (n = read(fd, out + len, ANSWER_MAX - 1 - len)) > 0)
        len += (size_t)n;
done:
    if (fd != -1)
        close(fd);
    if (n == 0)
        return out;
    free(out);
    return NULL;
}

static bool http_is_ok(const char *answer)
{
    return answer && !strncmp(answer, "HTTP/1.1 200", 12);
}

char *s3_server_control(const struct s3_server *s, const char *method, const char *path, const char *body)
{
    char full[128], *answer, *text = NULL;

    snprintf(full, sizeof full, "/_control%s", path);
    answer = http(s, method, full, body);
    if (http_is_ok(answer) && (text = strstr(answer, "\r\n\r\n")))
        text = strdup(text + 4);
    free(answer);
    return text;
}

static bool control(const struct s3_server *s, const char *method, const char *path, const char *body)
{
    char *answer = s3_server_control(s, method, path, body);
    bool ok = answer != NULL;

    free(answer);
    return ok;
}

bool s3_server_rules(const struct s3_server *s, const char *json)
{
    return control(s, "PUT", "", json);
}

int s3_server_count(const struct s3_server *s, const char *method, const char *name)
{
    char *answer = s3_server_control(s, "GET", "/counts", NULL), *at, want[512];
    int n = answer ? 0 : -1;

    snprintf(want, sizeof want, "\"%s %s\": ", method, name);
    if (answer && (at = strstr(answer, want)))
        n = atoi(at + strlen(want));
    free(answer);
    return n;
}

static bool gate(const struct s3_server *s, const char *path, const char *key)
{
    char body[512];

    snprintf(body, sizeof body, "{\"key\": \"%s\"}", key);
    return control(s, "POST", path, body);
}

bool s3_server_hold(const struct s3_server *s, const char *key)
{
    return gate(s, "/hold", key);
}

bool s3_server_release(const struct s3_server *s, const char *key)
{
    return gate(s, "/release", key);
}

int s3_server_waiting(const struct s3_server *s)
{
    char *answer = s3_server_control(s, "GET", "/waiting", NULL);
    int n = -1;

    if (answer && sscanf(answer, "{\"waiting\": %d}", &n) != 1)
        n = -1;
    free(answer);
    return n;
}

int s3_server_uploads(const struct s3_server *s, bool used)
{
    char *answer = s3_server_control(s, "GET", "/uploads", NULL);
    int all = -1, known = -1;

    if (answer && sscanf(answer, "{\"uploads\": %d, \"used\": %d}", &all, &known) != 2)
        all = known = -1;
    free(answer);
    return used ? known : all;
}

/* ---- the servers ---- */

bool s3_server_start_versitygw(struct s3_server *s, const char *dir, char *reason, size_t cap)
{
    const char *bin = getenv("LDR_TEST_VERSITYGW"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char found[PATH_MAX], data[PATH_MAX], iam[PATH_MAX], log[PATH_MAX], bucket[PATH_MAX];
    int64_t deadline = ldr_deadline_ns(START_TIMEOUT_MS);
    bool ready = false;

    *s = (struct s3_server){ 0 };
    if (!bin) {
        if (cache && *cache)
            snprintf(found, sizeof found, "%s/" VERSITYGW, cache);
        else
            snprintf(found, sizeof found, "%s/.cache/" VERSITYGW, home ? home : "");
        bin = found;
    }
    if (access(bin, X_OK) == -1) {
        snprintf(reason, cap, "versitygw is not installed (%s)", bin);
        return false;
    }
    snprintf(data, sizeof data, "%s/data", dir);
    snprintf(bucket, sizeof bucket, "%s/data/" S3_BUCKET, dir);
    snprintf(iam, sizeof iam, "%s/iam", dir);
    snprintf(log, sizeof log, "%s/versitygw.log", dir);
    mkdir(data, 0700);
    mkdir(bucket, 0700);
    mkdir(iam, 0700);
    setenv("ROOT_ACCESS_KEY", S3_ACCESS_KEY, 1);
    setenv("ROOT_SECRET_KEY", S3_SECRET_KEY, 1);
    s->pid = spawn((char *[]){ (char *)(uintptr_t)bin, "--quiet", "--port", "127.0.0.1:0", "--health", "/health",
                               "--iam-dir", iam, "posix", data, NULL },
                   log, -1);
    unsetenv("ROOT_ACCESS_KEY");
    unsetenv("ROOT_SECRET_KEY");
    while (!ready && s->pid > 0 && !ended(s->pid) && ldr_left_ms(deadline) > 0) {
        int port = port_of_process(s->pid);

        if (port) {
            char *answer;

            set_port(s, port);
            answer = http(s, "GET", "/health", NULL);
            ready = http_is_ok(answer);
            free(answer);
        }
        if (!ready)
            pause_ms(5);
    }
    if (!ready) {
        s3_server_stop(s);
        snprintf(reason, cap, "versitygw (%s) did not start, see %s", bin, log);
    }
    return ready;
}

/* A port that is free now. minio takes no 0. */
static int free_port(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = 0;

    if (fd != -1 && !bind(fd, (struct sockaddr *)&at, len) && !getsockname(fd, (struct sockaddr *)&at, &len))
        port = ntohs(at.sin_port);
    if (fd != -1)
        close(fd);
    return port;
}

bool s3_server_start_minio(struct s3_server *s, const char *dir, char *reason, size_t cap)
{
    const char *bin = getenv("LDR_TEST_MINIO"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char found[PATH_MAX], data[PATH_MAX], log[PATH_MAX], address[32];
    int64_t deadline = ldr_deadline_ns(START_TIMEOUT_MS);
    bool ready = false;

    *s = (struct s3_server){ 0 };
    snprintf(found, sizeof found, "%s%s" MINIO,
             cache && *cache ? cache
             : home          ? home
                             : "",
             cache && *cache ? "" : "/.cache");
    bin = bin ? bin : found;
    if (access(bin, X_OK) == -1) {
        snprintf(reason, cap, "minio is not installed (%s)", bin);
        return false;
    }
    snprintf(data, sizeof data, "%s/data", dir);
    snprintf(log, sizeof log, "%s/minio.log", dir);
    mkdir(data, 0700);
    set_port(s, free_port());
    snprintf(address, sizeof address, "127.0.0.1:%d", s->port);
    setenv("MINIO_ROOT_USER", S3_ACCESS_KEY, 1);
    setenv("MINIO_ROOT_PASSWORD", S3_SECRET_KEY, 1);
    setenv("MINIO_UPDATE", "off", 1);
    setenv("MINIO_BROWSER", "off", 1);
    s->pid =
        spawn((char *[]){ (char *)(uintptr_t)bin, "server", "--quiet", "--address", address, data, NULL }, log, -1);
    unsetenv("MINIO_ROOT_USER");
    unsetenv("MINIO_ROOT_PASSWORD");
    while (!ready && s->pid > 0 && !ended(s->pid) && ldr_left_ms(deadline) > 0) {
        char *answer = http(s, "GET", "/minio/health/ready", NULL);

        ready = http_is_ok(answer);
        free(answer);
        if (!ready)
            pause_ms(20);
    }
    if (!ready) {
        s3_server_stop(s);
        snprintf(reason, cap, "minio (%s) did not start, see %s", bin, log);
    }
    return ready;
}

bool s3_server_start_test(struct s3_server *s, const char *dir, char *reason, size_t cap)
{
    const char *root = getenv("LDR_TEST_ROOT");
    char script[PATH_MAX], log[PATH_MAX];
    int port = 0, out[2];
    FILE *f;

    *s = (struct s3_server){ 0 };
    snprintf(script, sizeof script, "%s/tests/support/s3_test_server.py", root ? root : ".");
    snprintf(log, sizeof log, "%s/s3_test_server.log", dir);
    if (access("/usr/bin/python3", X_OK) == -1 || access(script, R_OK) == -1) {
        snprintf(reason, cap, "/usr/bin/python3 or %s is missing", script);
        return false;
    }
    if (pipe2(out, O_CLOEXEC) == -1) {
        snprintf(reason, cap, "no pipe: %s", strerror(errno));
        return false;
    }
    s->pid = spawn((char *[]){ "/usr/bin/python3", script, "--access-key", S3_ACCESS_KEY, "--secret-key", S3_SECRET_KEY,
                               "--bucket", S3_BUCKET, NULL },
                   log, out[1]);
    close(out[1]);
    f = fdopen(out[0], "r");
    if (!f || fscanf(f, "port %d", &port) != 1 || port <= 0) { /* ends by itself when the server does */
        s3_server_stop(s);
        snprintf(reason, cap, "%s did not start, see %s", script, log);
    } else {
        set_port(s, port);
    }
    if (f)
        fclose(f);
    return s->pid > 0;
}
