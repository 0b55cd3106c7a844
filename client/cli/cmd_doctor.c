/* cmd_doctor.c - `larder doctor`: is all here as larder needs it, and what to do where it is not. Looks at the cache
 * directory as the library does (common/layout.h), asks the agent for its status, changes nothing. */
#include "client/cli/cli.h"
#include "common/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define SYSTEM_DIR    "/var/cache/larder"
#define AGENT_MS      5000
#define MAP_COUNT_MIN 65530 /* the kernel's default; the library takes a quarter of it at most */
#define FILES_MIN     1024

enum verdict { FINE, WARN, BAD };

struct doctor {
    struct cli *cli;
    bool bad; /* a check failed */
    char *dir, *socket;
    const char *dir_from; /* what named the directory */
    char group[64];       /* of the directory: who may read it */
    int dirfd;            /* -1: there is no directory, or no way into it */
    bool readable;        /* `format` is there and of this layout */
    struct ldr_format format;
    /* what the agent said */
    enum larder_kind agent;
    struct larder_err agent_err;
    char version[32];
    struct figures {
        uint64_t bytes, max_size, files, max_files, min_free, min_free_inodes;
    } figures; /* 0: it did not say */
};

/* Tell of one check: what was found and, where it is not well, what to do. */
CLI_PRINTF(5, 6)
static void tell(struct doctor *d, enum verdict v, const char *check, const char *advice, const char *fmt, ...)
{
    static const char *const words[] = { "ok", "warn", "FAIL" }, *const json[] = { "ok", "warn", "fail" };
    char text[PATH_MAX + 256], *shown;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    advice = v == FINE ? NULL : advice;
    d->bad |= v == BAD;
    if (d->cli->json) {
        json_t *obj = json_object();

        cli_json_set(obj, "check", check);
        cli_json_set(obj, "status", json[v]);
        cli_json_set(obj, "message", text);
        cli_json_set(obj, "advice", advice);
        cli_json_write(d->cli, obj);
        return;
    }
    shown = cli_printable(text);
    printf("%-4s  %-15s  %s%s%s\n", words[v], check, shown, advice ? "; " : "", advice ? advice : "");
    free(shown);
}

/* ---- the directory ---- */

/* The directory and the socket, as larder_open() finds them. False: nothing names one. */
static bool find_places(struct doctor *d)
{
    const char *env = secure_getenv("LARDER_CACHE_DIR"), *endpoint = secure_getenv("LARDER_ENDPOINT");
    const char *xdg = secure_getenv("XDG_CACHE_HOME"), *home = secure_getenv("HOME");
    const char *base = NULL, *below = "";

    if ((base = d->cli->cache_dir))
        d->dir_from = "--cache-dir";
    else if ((base = env))
        d->dir_from = "$LARDER_CACHE_DIR";
    else if (access(SYSTEM_DIR "/" LDR_NAME_FORMAT, F_OK) == 0)
        d->dir_from = "holds a cache", base = SYSTEM_DIR;
    else if (xdg && *xdg == '/')
        d->dir_from = "$XDG_CACHE_HOME", base = xdg, below = "/larder";
    else if (home && *home == '/')
        d->dir_from = "$HOME", base = home, below = "/.cache/larder";
    if (!base || !*base)
        return false;
    if (asprintf(&d->dir, "%s%s", base, below) == -1)
        d->dir = NULL;
    if (asprintf(&d->socket, "%s%s/" LDR_NAME_SOCKET,
                 endpoint && *endpoint ? endpoint
                 : d->dir              ? d->dir
                                       : "",
                 endpoint && *endpoint ? "" : "/" LDR_NAME_IPC) == -1)
        d->socket = NULL;
    return d->dir && d->socket;
}

static void name_group(struct doctor *d)
{
    struct stat st;
    const struct group *g = fstat(d->dirfd, &st) == 0 ? getgrgid(st.st_gid) : NULL;

    if (g)
        snprintf(d->group, sizeof d->group, "%s", g->gr_name);
    else
        snprintf(d->group, sizeof d->group, "of the cache directory");
}

static void check_dir(struct doctor *d)
{
    d->dirfd = open(d->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (d->dirfd >= 0) {
        name_group(d);
        tell(d, FINE, "cache directory", NULL, "%s (%s), group %s", d->dir, d->dir_from, d->group);
    } else if (errno == ENOENT) {
        tell(d, WARN, "cache directory", "start larderd, or name the cache with --cache-dir or $LARDER_CACHE_DIR",
             "there is no cache: %s (%s) does not exist", d->dir, d->dir_from);
    } else {
        tell(d, BAD, "cache directory", "every directory on the way must be searchable (mode x) for you", "%s (%s): %s",
             d->dir, d->dir_from, strerror(errno));
    }
}

static void check_file_system(struct doctor *d)
{
    const char *name = "";
    struct statfs fs;

    if (fstatfs(d->dirfd, &fs) == -1)
        tell(d, WARN, "file system", "look at the disk", "it does not say what it is: %s", strerror(errno));
    else if (ldr_fs_suitable((long)fs.f_type, &name))
        tell(d, FINE, "file system", NULL, "%s", name);
    else
        tell(d, WARN, "file system", "put the cache on ext4, xfs, btrfs or tmpfs",
             "%s: nothing can be shared through it, all bytes go through the agent", name);
}

static void check_format(struct doctor *d)
{
    struct larder_err err = { 0 };
    enum larder_kind k = ldr_format_read(d->dirfd, &d->format, &err);

    d->readable = k == LARDER_OK && d->format.layout == LDR_LAYOUT;
    if (d->readable)
        tell(d, FINE, "format", NULL, "layout %u, generation %" PRIu64, d->format.layout, d->format.generation);
    else if (k == LARDER_OK)
        tell(d, BAD, "format", "install the release of larder that the agent is of",
             "layout %u, and this program reads layout %d", d->format.layout, LDR_LAYOUT);
    else if (k == LARDER_NOT_FOUND)
        tell(d, WARN, "format", "start larderd", "the directory holds no cache yet");
    else if (err.sys == EACCES)
        tell(d, BAD, "format", "join the group of the cache directory", "it may not be read: group %s may", d->group);
    else
        tell(d, BAD, "format", "stop the agent, remove the directory, start the agent", "%s", err.msg);
}

static void check_boot(struct doctor *d)
{
    char id[sizeof d->format.boot_id] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (!f || fscanf(f, "%63s", id) != 1)
        tell(d, WARN, "boot", "mount /proc", "which boot of the machine this is, is not known");
    else if (!strcmp(id, d->format.boot_id))
        tell(d, FINE, "boot", NULL, "number %u, this one", d->format.boot);
    else
        tell(d, WARN, "boot", "start larderd: it keeps what was closed cleanly, and drops the rest",
             "the cache was written during another boot (number %u)", d->format.boot);
    if (f)
        fclose(f);
}

/* ---- permissions ---- */

/* Open a file of the current generation. -1: told. */
static int open_of_generation(struct doctor *d, const char *name)
{
    char path[LDR_GEN_NAME_MAX + 16], folder[LDR_GEN_NAME_MAX];
    int fd;

    ldr_gen_name(d->format.generation, folder);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    fd = openat(d->dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd == -1 && errno == EACCES)
        tell(d, BAD, "index", "join the group of the cache directory", "%s may not be read: group %s may", path,
             d->group);
    else if (fd == -1)
        tell(d, BAD, "index", "try again; if it stays so, start larderd anew", "%s: %s", path, strerror(errno));
    return fd;
}

static void check_index(struct doctor *d)
{
    struct ldr_hdr h;
    int hdr = open_of_generation(d, "hdr"), data = hdr == -1 ? -1 : open_of_generation(d, "data.mdb");

    if (data == -1)
        goto done;
    if (pread(hdr, &h, sizeof h, 0) != (ssize_t)sizeof h || !ldr_hdr_valid(&h) || h.nonce != d->format.nonce)
        tell(d, BAD, "index", "try again; if it stays so, start larderd anew", "its header does not fit `format`");
    else if (sysconf(_SC_PAGESIZE) != LDR_PAGE)
        tell(d, WARN, "index", "nothing: larder reads the index on machines with pages of 4 KiB only",
             "memory has pages of %ld bytes: all bytes go through the agent", sysconf(_SC_PAGESIZE));
    else
        tell(d, FINE, "index", NULL, "readable");
done:
    if (hdr != -1)
        close(hdr);
    if (data != -1)
        close(data);
}

static void check_blocks(struct doctor *d)
{
    if (faccessat(d->dirfd, LDR_NAME_BLOCKS, X_OK, AT_EACCESS) == 0)
        tell(d, FINE, "block files", NULL, "readable");
    else if (errno == EACCES)
        tell(d, BAD, "block files", "join the group of the cache directory", "%s may not be searched: group %s may",
             LDR_NAME_BLOCKS, d->group);
    else
        tell(d, BAD, "block files", "start larderd anew", "%s: %s", LDR_NAME_BLOCKS, strerror(errno));
}

static void check_touch(struct doctor *d)
{
    int fd = openat(d->dirfd, LDR_NAME_TOUCH, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

    if (fd != -1)
        tell(d, FINE, "hit counts", NULL, "%s is writable", LDR_NAME_TOUCH);
    else
        tell(d, WARN, "hit counts", "mount CACHE/rw read-write into tasks",
             "%s: %s: hits of this process are not counted, and its objects are evicted as if unread", LDR_NAME_TOUCH,
             strerror(errno));
    if (fd != -1)
        close(fd);
}

/* Not by connecting: the endpoint would have to wait for the rest of us. */
static void check_socket(struct doctor *d)
{
    size_t n = strlen(d->socket), max = sizeof((struct sockaddr_un){ 0 }).sun_path - 1;

    if (n > max)
        tell(d, BAD, "socket", "choose a shorter directory, or set larder.endpoint and $LARDER_ENDPOINT",
             "its path has %zu bytes, and the system takes %zu: %s", n, max, d->socket);
    else if (faccessat(AT_FDCWD, d->socket, W_OK, AT_EACCESS) == 0)
        tell(d, FINE, "socket", NULL, "%s may be connected to", d->socket);
    else if (errno == ENOENT)
        tell(d, WARN, "socket", "start larderd", "there is none: %s", d->socket);
    else
        tell(d, BAD, "socket", "join the group of the cache directory", "%s: %s", d->socket, strerror(errno));
}

/* ---- the agent ---- */

static void note_item(void *user, const char *name, const char *text, uint64_t number)
{
    struct doctor *d = user;
    struct {
        const char *name;
        uint64_t *to;
    } wanted[] = {
        { "bytes", &d->figures.bytes },
        { "max_size", &d->figures.max_size },
        { "files", &d->figures.files },
        { "max_files", &d->figures.max_files },
        { "min_free", &d->figures.min_free },
        { "min_free_bytes", &d->figures.min_free },
        { "min_free_inodes", &d->figures.min_free_inodes },
    };

    if (text && !strcmp(name, "version"))
        snprintf(d->version, sizeof d->version, "%s", text);
    for (size_t i = 0; !text && i < CLI_LEN(wanted); i++)
        if (!strcmp(name, wanted[i].name))
            *wanted[i].to = number;
}

static void ask_agent(struct doctor *d)
{
    struct cli *c = d->cli;
    int timeout_ms = c->timeout_ms < AGENT_MS ? c->timeout_ms : AGENT_MS;

    d->agent = larder_open(c->cache_dir, &c->larder, &d->agent_err);
    if (d->agent == LARDER_OK)
        d->agent = larder_status(c->larder, timeout_ms, note_item, d, &d->agent_err);
}

static void check_agent(struct doctor *d)
{
    if (d->agent == LARDER_NO_AGENT)
        tell(d, WARN, "agent", "start larderd: what is in the cache is read, all else fails", "none answers");
    else if (d->agent)
        tell(d, BAD, "agent", "see its log", "%s", d->agent_err.msg[0] ? d->agent_err.msg : "it does not answer");
    else if (strcmp(d->version, LARDER_VERSION) != 0)
        tell(d, WARN, "agent", "install the same release of both",
             "it answers, and is of release %s, this program of " LARDER_VERSION, d->version);
    else
        tell(d, FINE, "agent", NULL, "it answers, release %s", d->version);
}

/* ---- room ---- */

static void check_space(struct doctor *d)
{
    const struct figures *f = &d->figures;
    char used[CLI_SIZE_TEXT], most[CLI_SIZE_TEXT];
    struct statvfs fs;
    char free_text[CLI_SIZE_TEXT], min_text[CLI_SIZE_TEXT];
    uint64_t free_bytes, min_bytes;

    if (fstatvfs(d->dirfd, &fs) == -1) {
        tell(d, WARN, "free space", "look at the disk", "it is not known: %s", strerror(errno));
        return;
    }
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    min_bytes = f->min_free ? f->min_free : (uint64_t)fs.f_blocks * fs.f_frsize / 20; /* the default, 5 % */
    cli_size_text(free_bytes, free_text);
    cli_size_text(min_bytes, min_text);
    tell(d, free_bytes < min_bytes ? WARN : FINE, "free space",
         "free some, or lower larder.cache.min_free: nothing more is cached", "%s, at least %s stay free", free_text,
         min_text);
    if (fs.f_files == 0)
        tell(d, FINE, "free inodes", NULL, "this file system does not count them");
    else
        tell(d, fs.f_favail < (f->min_free_inodes ? f->min_free_inodes : fs.f_files / 20) ? WARN : FINE, "free inodes",
             "remove files, or lower larder.cache.min_free_inodes: nothing more is cached", "%ju of %ju",
             (uintmax_t)fs.f_favail, (uintmax_t)fs.f_files);
    if (f->max_size)
        tell(d, FINE, "cache size", NULL, "%s of %s", cli_size_text(f->bytes, used), cli_size_text(f->max_size, most));
    if (f->max_files)
        tell(d, FINE, "cache files", NULL, "%ju of %ju", (uintmax_t)f->files, (uintmax_t)f->max_files);
}

/* ---- the machine and this process ---- */

static void check_map_count(struct doctor *d)
{
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    unsigned long n = 0;

    if (!f || fscanf(f, "%lu", &n) != 1)
        tell(d, WARN, "mappings", "mount /proc", "vm.max_map_count is not known");
    else
        tell(d, n < MAP_COUNT_MIN ? WARN : FINE, "mappings", "sysctl vm.max_map_count=65530",
             "vm.max_map_count is %lu: a process keeps at most a quarter of that for objects", n);
    if (f)
        fclose(f);
}

static void check_limits(struct doctor *d)
{
    struct rlimit as, files;
    char size[CLI_SIZE_TEXT];

    getrlimit(RLIMIT_AS, &as);
    getrlimit(RLIMIT_NOFILE, &files);
    if (as.rlim_cur == RLIM_INFINITY)
        tell(d, FINE, "address space", NULL, "unlimited");
    else
        tell(d, WARN, "address space", "ulimit -v unlimited",
             "limited to %s: the index and large objects may not fit, and are then read in pieces",
             cli_size_text(as.rlim_cur, size));
    tell(d, files.rlim_cur < FILES_MIN ? WARN : FINE, "open files", "ulimit -n 1024", "up to %ju",
         (uintmax_t)files.rlim_cur);
}

static void check_clock(struct doctor *d)
{
    char text[CLI_TIME_TEXT];
    struct timespec boot;
    time_t now = time(NULL);
    struct tm tm;

    if (clock_gettime(CLOCK_BOOTTIME, &boot) == -1)
        tell(d, BAD, "clock", "larder needs Linux 2.6.39 or newer", "CLOCK_BOOTTIME: %s", strerror(errno));
    else if (!gmtime_r(&now, &tm) || tm.tm_year < 2024 - 1900 || tm.tm_year > 2100 - 1900)
        tell(d, BAD, "clock", "set it: stores refuse what is signed at a wrong time", "it says %s",
             cli_time_text(now, text) ? text : "no time at all");
    else
        tell(d, FINE, "clock", NULL, "%s, up for %ju s", cli_time_text(now, text), (uintmax_t)boot.tv_sec);
}

static enum cli_exit doctor_run(struct cli *c, int argc, char **argv)
{
    struct doctor d = { .cli = c, .dirfd = -1 };

    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (optind != argc)
        return cli_usage(c, "doctor takes no argument");
    if (find_places(&d)) {
        ask_agent(&d);
        check_dir(&d);
    } else {
        d.agent = LARDER_NO_AGENT;
        tell(&d, WARN, "cache directory", "name the cache with --cache-dir or $LARDER_CACHE_DIR",
             "there is no cache: nothing names its directory");
    }
    if (d.dirfd != -1) {
        check_file_system(&d);
        check_format(&d);
        if (d.readable) {
            check_boot(&d);
            check_index(&d);
            check_blocks(&d);
            check_touch(&d);
        }
        check_space(&d);
    }
    if (d.socket)
        check_socket(&d);
    check_agent(&d);
    check_map_count(&d);
    check_limits(&d);
    check_clock(&d);
    if (d.dirfd != -1)
        close(d.dirfd);
    free(d.dir);
    free(d.socket);
    cli_flush(c);
    return d.bad ? CLI_FAILED : CLI_DONE;
}

const struct cli_command cli_doctor = {
    .name = "doctor",
    .summary = "is all as larder needs it, and what to do where it is not",
    .synopsis = "doctor [OPTION]...",
    .help = "Check the cache directory, its file system, its permissions as this user sees them,\n"
            "free space, the agent, the limits of the machine and of this process, the clock:\n"
            "one line each, \"ok\", \"warn\" (larder works, at a cost or not yet) or \"FAIL\", and\n"
            "what to do. Changes nothing; works without cache and agent, too.\n"
            "\n"
            "With --json an object a line: check, status (ok, warn, fail), message, advice.\n"
            "\n"
            "The exit status is 1 when a check says FAIL, else 0.\n"
            "\n"
            "Examples:\n"
            "  larder doctor\n"
            "  larder doctor --json --cache-dir /var/cache/larder | jq 'select(.status != \"ok\")'\n",
    .run = doctor_run,
};
