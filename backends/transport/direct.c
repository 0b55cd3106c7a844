/* direct.c - see direct.h. */
#include "backends/transport/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>

#define PIPE_BYTES (1024 * 1024) /* what an unprivileged process may ask for */

void ldr_direct_init(struct ldr_direct *d)
{
    *d = (struct ldr_direct){ .pipe = { -1, -1 } };
}

static void drop_pipe(struct ldr_direct *d)
{
    for (int i = 0; i < 2; i++) {
        if (d->pipe[i] != -1)
            close(d->pipe[i]);
        d->pipe[i] = -1;
    }
}

void ldr_direct_release(struct ldr_direct *d)
{
    drop_pipe(d);
}

/* From the pipe into the file, all of it. */
static bool drain(struct ldr_direct *d, int file, uint64_t at, size_t n)
{
    off_t to = (off_t)at;

    while (n > 0) {
        ssize_t k = splice(d->pipe[0], NULL, file, &to, n, SPLICE_F_MOVE);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0) {
            int e = k == 0 ? EIO : errno;

            drop_pipe(d); /* and what is left in it */
            errno = e;
            return false;
        }
        n -= (size_t)k;
    }
    return true;
}

enum ldr_direct_end ldr_direct_move(struct ldr_direct *d, int sock, int file, uint64_t at, uint64_t most, size_t *moved)
{
    ssize_t k;

    if (d->pipe[0] == -1) {
        if (pipe2(d->pipe, O_CLOEXEC))
            return LDR_DIRECT_BROKEN;
        (void)fcntl(d->pipe[1], F_SETPIPE_SZ, PIPE_BYTES); /* a smaller one does, too */
    }
    do
        k = splice(sock, NULL, d->pipe[1], NULL, most < PIPE_BYTES ? (size_t)most : PIPE_BYTES,
                   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (k < 0 && errno == EINTR);
    if (k == 0)
        return LDR_DIRECT_CLOSED;
    if (k < 0)
        return errno == EAGAIN ? LDR_DIRECT_WAIT : LDR_DIRECT_BROKEN;
    *moved = (size_t)k;
    return drain(d, file, at, *moved) ? LDR_DIRECT_MOVED : LDR_DIRECT_UNWRITTEN;
}
