/* text.c - texts that may be secrets: copied, checked, wiped, read from small files (cred_impl.h). */
#include "backends/cred/cred_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ldr_cred_wipe(char **text)
{
    if (*text)
        OPENSSL_cleanse(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

void ldr_cred_wipe_buf(struct ldr_buf *b)
{
    if (b->p)
        OPENSSL_cleanse(b->p, b->room);
    ldr_buf_release(b);
}

bool ldr_cred_copy(char **out, const char *text)
{
    *out = text && *text ? strdup(text) : NULL;
    return *out || !text || !*text;
}

enum larder_kind ldr_cred_check_text(const char *what, const char *text, struct larder_err *err)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return ldr_fail(err, LARDER_INVALID, "the %s holds a control character", what);
    return LARDER_OK;
}

char *ldr_cred_trim(char *text)
{
    static const char white[] = " \t\r\n\v\f";
    size_t len = strlen(text);

    while (len > 0 && strchr(white, text[len - 1]))
        len--;
    text[len] = '\0';
    return text + strspn(text, white);
}

/* Up to `max` + 1 bytes, so that a larger file is seen; there is room for them, so that no copy is left behind. */
static bool read_all(int fd, struct ldr_buf *out, size_t max)
{
    while (out->len <= max) {
        ssize_t n = read(fd, out->p + out->len, max + 1 - out->len);

        if (n == 0)
            return true;
        if (n == -1 && errno != EINTR)
            return false;
        if (n > 0)
            out->len += (size_t)n;
    }
    return true;
}

enum larder_kind ldr_cred_read_file(const char *what, const char *path, size_t max, struct ldr_buf *out,
                                    struct stat *st, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    struct stat now;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo is refused below, not waited for */

    ldr_buf_init(out, max + 2);
    if (fd == -1 || fstat(fd, &now) == -1)
        k = ldr_fail_sys(err, LARDER_IO, "could not open %s \"%s\"", what, path);
    else if (!S_ISREG(now.st_mode))
        k = ldr_fail(err, LARDER_INVALID, "%s \"%s\" is no regular file", what, path);
    else if (!ldr_buf_reserve(out, max + 2))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
    else if (!read_all(fd, out, max))
        k = ldr_fail_sys(err, LARDER_IO, "could not read %s \"%s\"", what, path);
    else if (out->len > max)
        k = ldr_fail(err, LARDER_INVALID, "%s \"%s\" is larger than %zu bytes", what, path, max);
    else if (out->len > 0 && memchr(out->p, '\0', out->len))
        k = ldr_fail(err, LARDER_INVALID, "%s \"%s\" holds a NUL", what, path);
    if (fd != -1)
        close(fd);
    if (k)
        ldr_cred_wipe_buf(out);
    else if (st)
        *st = now;
    return k;
}
