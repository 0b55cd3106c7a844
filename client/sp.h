/* sp.h - nanomsg's REQ/REP protocol over its IPC transport, on a plain unix socket: what a connection looks like on the
 * wire, and nothing of what is in a message. Both sides first send `00 'S' 'P' 00 00 PP 00 00` (PP: 30 from a REQ, 31
 * from a REP). A message is `01`, its length (u64 big-endian), then a request id (u32 big-endian, top bit set) and the
 * body. One request at a time; a connection whose exchange failed is only good for ldr_sp_close(). One at a time per
 * connection; blocks in poll() until the deadline (CLOCK_MONOTONIC ns, LDR_NEVER). */
#ifndef LDR_SP_H
#define LDR_SP_H

#include "common/clock.h"
#include "common/fail.h"

struct ldr_sp {
    int fd; /* owned; nonblocking, close-on-exec; -1: closed */
    uint32_t next_id;
    void (*idle)(
        void *user); /* NULL, or called now and then while a reply is awaited; set by the owner once connected */
    void *user;
};

/* Connect and shake hands. NO_AGENT: nobody listens. DENIED: the socket's rights. TIMEOUT. UNAVAILABLE: the peer is no
 * REP socket, or went away. INVALID: the path does not fit in a socket address. */
enum larder_kind ldr_sp_connect(struct ldr_sp *c, const char *path, int64_t deadline_ns, struct larder_err *err);
/* The same on a socket that is connected already (`fd` is taken): the handshake. */
enum larder_kind ldr_sp_start(struct ldr_sp *c, int fd, int64_t deadline_ns, struct larder_err *err);
/* Has the peer gone, or said something unasked? Such an idle connection is not worth a request. Does not block. */
bool ldr_sp_usable(const struct ldr_sp *c);

/* How far an exchange that failed had come: decides whether it may be repeated, and what is known of a write. */
enum ldr_sp_reach {
    LDR_SP_UNSENT, /* no byte of the request left */
    LDR_SP_SENT,   /* some did */
};

/* Send a request, wait for its reply. *reply (malloc'ed, the body) is owned by the caller.
 *   reach  how far it came, also on failure
 *   lost   the connection broke (as against: the peer sent nonsense, or time is over): another one may do better
 * TIMEOUT, NO_MEMORY. UNAVAILABLE: the connection broke, or the peer sent what is no reply, or one over
 * LDR_WIRE_REPLY_MAX. */
enum larder_kind ldr_sp_exchange(struct ldr_sp *c, const void *request, size_t len, int64_t deadline_ns,
                                 uint8_t **reply, size_t *reply_len, enum ldr_sp_reach *reach, bool *lost,
                                 struct larder_err *err);
/* Close without a word to the peer: a parent or child may still use the socket. */
void ldr_sp_close(struct ldr_sp *c);

#endif
