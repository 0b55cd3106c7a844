/* direct.h - bytes from a connection into a file without passing through this process: socket → pipe → file, by splice().
 * For connections without TLS. Net thread only. */
#ifndef LDR_DIRECT_H
#define LDR_DIRECT_H

#include <stddef.h>
#include <stdint.h>

struct ldr_direct {
    int pipe[2]; /* -1: not made yet */
};

void ldr_direct_init(struct ldr_direct *d);
void ldr_direct_release(struct ldr_direct *d);

enum ldr_direct_end {
    LDR_DIRECT_MOVED,    /* *moved > 0 bytes are in the file */
    LDR_DIRECT_WAIT,     /* there are none now */
    LDR_DIRECT_CLOSED,   /* the other side closed */
    LDR_DIRECT_BROKEN,   /* errno: of the connection */
    LDR_DIRECT_UNWRITTEN /* errno: of the file; what was read is lost */
};
/* Move what has come, at most `most` bytes, to `file` from `at` on. Does not wait for the connection. */
enum ldr_direct_end ldr_direct_move(struct ldr_direct *d, int sock, int file, uint64_t at, uint64_t most,
                                    size_t *moved);

#endif
