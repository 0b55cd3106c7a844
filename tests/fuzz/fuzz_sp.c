/* fuzz_sp.c - what an agent might send: the handshake and one reply (client/sp.c), then the message in it
 * (common/wire.c), from any bytes. The peer's bytes are all there, and its end is closed, before the client reads: no
 * thread, no waiting. */
#include "client/sp.h"
#include "common/wire.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO_LEN 8
#define HEAD_LEN  13

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const uint8_t hello[HELLO_LEN] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };
    struct ldr_sp c;
    struct larder_err err;
    struct ldr_meta meta;
    ldr_wire_reply *msg = NULL;
    uint8_t *reply = NULL, copy[4096];
    size_t len = 0;
    enum ldr_sp_reach reach;
    bool lost, mend = n > 0 && (p[0] & 1); /* half of them get past the handshake and the head */
    int fd[2];

    if (n < 1 || n > sizeof copy - HELLO_LEN - HEAD_LEN || socketpair(AF_UNIX, SOCK_STREAM, 0, fd))
        return 0;
    p++;
    n--;
    if (mend) {
        uint64_t body = n + 4;

        memcpy(copy, hello, HELLO_LEN);
        copy[HELLO_LEN] = 1;
        for (int i = 0; i < 8; i++)
            copy[HELLO_LEN + 1 + i] = (uint8_t)(body >> (56 - 8 * i));
        memcpy(copy + HELLO_LEN + 9, "\x80\0\0\1", 4);
        memcpy(copy + HELLO_LEN + HEAD_LEN, p, n);
        n += HELLO_LEN + HEAD_LEN;
    } else {
        memcpy(copy, p, n);
    }
    if (send(fd[1], copy, n, MSG_NOSIGNAL) != (ssize_t)n || shutdown(fd[1], SHUT_WR))
        abort();
    if (ldr_sp_start(&c, fd[0], ldr_deadline_ns(1000), &err) == LARDER_OK) {
        c.next_id = 1;
        if (ldr_sp_exchange(&c, "?", 1, ldr_deadline_ns(1000), &reply, &len, &reach, &lost, &err) == LARDER_OK &&
            ldr_wire_unpack_reply(reply, len, &msg, &err) == LARDER_OK) {
            ldr_wire_status(msg, &err);
            if (msg->body_case == LARDER__WIRE__REPLY__BODY_META &&
                ldr_wire_get_meta(msg->meta, &meta, &err) == LARDER_OK)
                ldr_meta_release(&meta);
            larder__wire__reply__free_unpacked(msg, NULL);
        } else if (err.kind == LARDER_TIMEOUT) {
            abort(); /* the peer's end is closed: there is nothing to wait for */
        }
        free(reply);
        ldr_sp_close(&c);
    }
    close(fd[1]);
    return 0;
}
