/* input.c - a local file, whole (cli.h). */
#include "client/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Read all of `fd`, called `name`; *out is owned by the caller, ended by free(). LIMIT_EXCEEDED, IO. */
static enum larder_kind read_all(int fd, const char *name, char **out, size_t *out_len, struct larder_err *err)
{
    struct stat st;
    bool known = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    enum larder_kind k = LARDER_OK;
    char *p = NULL;
    size_t n = 0;

    if (known && (uint64_t)st.st_size > CLI_PUT_MAX)
        return cli_fail(err, LARDER_LIMIT_EXCEEDED, "%s is %jd bytes, and one put takes at most %zu (8 MiB)", name,
                        (intmax_t)st.st_size, CLI_PUT_MAX);
    p = malloc(CLI_PUT_MAX + 1); /* only what is used costs memory */
    if (!p)
        return cli_fail(err, LARDER_NO_MEMORY, "out of memory");
    while (n <= CLI_PUT_MAX) {
        ssize_t got = read(fd, p + n, CLI_PUT_MAX + 1 - n);

        if (got == -1 && errno == EINTR)
            continue;
        if (got == -1) {
            k = cli_fail_sys(err, LARDER_IO, "could not read %s", name);
            goto done;
        }
        if (got == 0)
            break;
        n += (size_t)got;
    }
    if (n > CLI_PUT_MAX) {
        k = cli_fail(err, LARDER_LIMIT_EXCEEDED, "%s is more than %zu bytes (8 MiB), the most that one put takes", name,
                     CLI_PUT_MAX);
        goto done;
    }
    *out = p;
    *out_len = n;
    p = NULL;
done:
    free(p);
    return k;
}

enum larder_kind cli_read_file(const char *path, char **out, size_t *out_len, struct larder_err *err)
{
    enum larder_kind k;
    char *name = NULL;
    int fd;

    if (!strcmp(path, "-"))
        return read_all(STDIN_FILENO, "standard input", out, out_len, err);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return cli_fail_sys(err, LARDER_IO, "could not open \"%s\"", path);
    k = asprintf(&name, "\"%s\"", path) == -1 ? cli_fail(err, LARDER_NO_MEMORY, "out of memory")
                                              : read_all(fd, name, out, out_len, err);
    close(fd);
    free(name);
    return k;
}
