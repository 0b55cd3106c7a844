/* output.c - a file that appears whole or not at all: written without a name, or under another one, beside its place,
 * and renamed (cli.h). Its mode is what umask leaves of 0666. */
#include "client/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define FD_PATH_LEN 32

static const char *fd_path(int fd, char out[FD_PATH_LEN])
{
    snprintf(out, FD_PATH_LEN, "/proc/self/fd/%d", fd);
    return out;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static int open_directory_of(const char *path)
{
    size_t n = (size_t)(base_name(path) - path);
    char *dir = n ? strndup(path, n) : strdup(".");
    int fd = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1; /* O_PATH: it need not be readable */

    free(dir);
    return fd;
}

static bool make_tmp_name(struct cli_output *o)
{
    uint64_t r;

    if (getrandom(&r, sizeof r, 0) != sizeof r)
        return false;
    snprintf(o->tmp, sizeof o->tmp, ".larder-%016jx", (uintmax_t)r);
    return true;
}

/* A file without a name vanishes with the process, even a killed one. Where the file system has none (or there is no
 * /proc to give it a name later), one with a name, which only a process that is killed leaves behind. */
static bool open_tmp(struct cli_output *o)
{
    char self[FD_PATH_LEN];

    o->fd = openat(o->dirfd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (o->fd != -1 && access(fd_path(o->fd, self), F_OK) == 0)
        return true;
    if (o->fd != -1)
        close(o->fd);
    else if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT)
        return false;
    o->fd = make_tmp_name(o) ? openat(o->dirfd, o->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    if (o->fd == -1)
        o->tmp[0] = '\0'; /* not ours to remove */
    return o->fd != -1;
}

/* The file to replace: for a symbolic link the one that it leads to. */
static enum larder_kind find_place(const char *path, char **out, bool *direct, struct larder_err *err)
{
    struct stat st;

    if (stat(path, &st) == 0) {
        *direct = !S_ISREG(st.st_mode);
        if (S_ISDIR(st.st_mode))
            return cli_fail(err, LARDER_INVALID, "\"%s\" is a directory: \"-o %s/\" writes into it", path, path);
        *out = *direct ? strdup(path) : realpath(path, NULL);
    } else if (errno == ENOENT && lstat(path, &st) == 0) {
        return cli_fail(err, LARDER_INVALID, "\"%s\" is a symbolic link that leads nowhere", path);
    } else if (errno == ENOENT) {
        *direct = false;
        *out = strdup(path);
    }
    return *out ? LARDER_OK : cli_fail_sys(err, LARDER_IO, "could not write \"%s\"", path);
}

enum larder_kind cli_output_open(const char *path, struct cli_output *out, struct larder_err *err)
{
    struct cli_output o = CLI_OUTPUT_NONE;
    bool direct = false, ok;
    enum larder_kind k = find_place(path, &o.path, &direct, err);

    if (k)
        goto done;
    if (direct) {
        o.fd = open(o.path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
        ok = o.fd != -1;
    } else {
        o.dirfd = open_directory_of(o.path);
        ok = o.dirfd != -1 && open_tmp(&o);
    }
    if (!ok) {
        k = cli_fail_sys(err, LARDER_IO, "could not write \"%s\"", path);
        goto done;
    }
    *out = o;
    o = CLI_OUTPUT_NONE;
done:
    cli_output_release(&o);
    return k;
}

/* Give a file without a name its own, or where that is taken a temporary one. */
static bool link_tmp(struct cli_output *o, bool *in_place)
{
    char self[FD_PATH_LEN];

    *in_place = false;
    if (o->tmp[0])
        return true;
    fd_path(o->fd, self);
    *in_place = linkat(AT_FDCWD, self, o->dirfd, base_name(o->path), AT_SYMLINK_FOLLOW) == 0;
    if (*in_place)
        return true;
    if (errno != EEXIST || !make_tmp_name(o))
        return false;
    if (linkat(AT_FDCWD, self, o->dirfd, o->tmp, AT_SYMLINK_FOLLOW) == 0)
        return true;
    o->tmp[0] = '\0';
    return false;
}

enum larder_kind cli_output_commit(struct cli_output *o, struct larder_err *err)
{
    bool in_place = false, ok = o->dirfd == -1 || link_tmp(o, &in_place);
    int fd = o->fd;

    if (ok) {
        o->fd = -1;
        ok = close(fd) == 0; /* on a network file system writes fail here; those have no nameless files */
    }
    if (ok && o->tmp[0]) {
        ok = renameat(o->dirfd, o->tmp, o->dirfd, base_name(o->path)) == 0;
        if (ok)
            o->tmp[0] = '\0';
    }
    return ok ? LARDER_OK : cli_fail_sys(err, LARDER_IO, "could not write \"%s\"", o->path);
}

void cli_output_release(struct cli_output *o)
{
    if (o->fd != -1)
        close(o->fd);
    if (o->tmp[0])
        unlinkat(o->dirfd, o->tmp, 0);
    if (o->dirfd != -1)
        close(o->dirfd);
    free(o->path);
    *o = CLI_OUTPUT_NONE;
}
