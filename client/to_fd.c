/* to_fd.c - an object into a descriptor: larder_get_to_fd(). A stream whose windows are block files, which the kernel copies
 * from file to file; what it cannot copy so goes through a buffer. Any thread. */
#include "client/call.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <unistd.h>

#define PIECE  ((size_t)LDR_MIB)       /* between two words about the progress */
#define BUFFER ((size_t)256 * LDR_KIB) /* stays in the processor's cache */

struct target {
    int fd;
    enum { BY_RANGE, BY_SENDFILE, BY_HAND } how; /* the first that works for this descriptor */
    uint8_t *buf;                                /* BUFFER bytes, BY_HAND */
    uint64_t done;
    larder_progress_fn *progress;
    void *user;
    struct larder_err err; /* why writing failed, where it did */
};

static enum larder_kind cannot_write(struct target *t)
{
    return ldr_fail_sys(&t->err, LARDER_IO, "could not write");
}

static void wrote(struct target *t, size_t n, uint64_t size)
{
    t->done += n;
    if (t->progress)
        t->progress(t->user, t->done, size);
}

/* larder_write_fn: bytes that are in memory. */
static enum larder_kind write_bytes(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct target *t = user;
    const uint8_t *from = p;

    (void)offset; /* in order, each once */
    do {
        ssize_t k = n ? write(t->fd, from, n < PIECE ? n : PIECE) : 0;

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return cannot_write(t);
        from += k;
        n -= (size_t)k;
        wrote(t, (size_t)k, size);
    } while (n > 0);
    return LARDER_OK;
}

/* Can only another way tell, or do, what is the matter? */
static bool is_unfit(int e)
{
    return e == EXDEV || e == EINVAL || e == ENOSYS || e == EOPNOTSUPP || e == EBADF || e == ETXTBSY || e == EPERM ||
           e == EISDIR || e == ESPIPE;
}

/* Up to `n` bytes from `*at` of a block file on; -1 with errno; 0: the file ends there. */
static ssize_t copy_some(struct target *t, int block_fd, off_t *at, size_t n)
{
    ssize_t k = -1, w;

    if (t->how == BY_RANGE) {
        k = copy_file_range(block_fd, at, t->fd, NULL, n, 0);
        if (k >= 0 || !is_unfit(errno))
            return k;
        t->how = BY_SENDFILE;
    }
    if (t->how == BY_SENDFILE) {
        k = sendfile(t->fd, block_fd, at, n);
        if (k >= 0 || !is_unfit(errno))
            return k;
        t->how = BY_HAND;
    }
    if (!t->buf && !(t->buf = malloc(BUFFER)))
        return -1;
    k = pread(block_fd, t->buf, n < BUFFER ? n : BUFFER, *at);
    if (k <= 0)
        return k;
    w = write(t->fd, t->buf, (size_t)k);
    if (w > 0)
        *at += w;
    return w;
}

/* The window c->begin .. c->end, which lies in one block. */
static enum larder_kind deliver(struct ldr_call *c, struct larder_err *err)
{
    struct target *t = c->user;
    uint64_t at = c->begin;
    off_t in_block = (off_t)(c->begin & ((UINT64_C(1) << c->r.block_log2) - 1));

    c->delivered = true;
    if (!c->block_fd)
        return ldr_call_piece(c, larder_object_data(c->object), c->end - c->begin, c->begin, err);
    while (at < c->end) {
        ssize_t k = copy_some(t, c->block_fd, &in_block, c->end - at < PIECE ? (size_t)(c->end - at) : PIECE);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return cannot_write(t);
        if (k == 0)
            return ldr_fail(err, LARDER_IO, "a cached block of \"%.*s\" ends early", ldr_call_shown(c), c->text);
        at += (uint64_t)k;
        wrote(t, (size_t)k, c->total);
    }
    return LARDER_OK;
}

enum larder_kind larder_get_to_fd(struct larder *l, const char *uri, int fd, int timeout_ms,
                                  larder_progress_fn *progress, void *user, uint64_t *size, struct larder_err *err)
{
    struct target t = { .fd = fd, .progress = progress, .user = user };
    struct ldr_call c;
    enum larder_kind k = ldr_call_init(&c, l, uri, LDR_CALL_STREAM, timeout_ms, err);

    if (k)
        return k;
    c.to_file = true;
    c.write = write_bytes;
    c.user = &t;
    k = ldr_call_stream(&c, deliver, err);
    free(t.buf);
    if (k && t.err.kind) { /* the failed write, whatever the call made of it */
        if (err)
            *err = t.err;
        return t.err.kind;
    }
    if (!k && size)
        *size = t.done;
    return k;
}
