/* fake_agent.h - an agent for client tests: a thread that speaks nanomsg's framing on a unix socket (written apart from
 * client/sp.c) and answers by a callback. Connections are served in turn, one request at a time. */
#ifndef LDR_TEST_FAKE_AGENT_H
#define LDR_TEST_FAKE_AGENT_H

#include "common/wire.h"

#include <pthread.h>

enum fake_action {
    FAKE_SEND,    /* the reply that was filled in */
    FAKE_HANG,    /* nothing; the connection stays */
    FAKE_CHATTER, /* the reply, and in the same breath a byte that nobody asked for; the connection stays */
    FAKE_CLOSE,   /* end the connection without an answer */
    FAKE_RAW      /* `raw` as it is, then end the connection */
};

struct fake_reply {
    ldr_wire_reply msg; /* initialised; set a body and its struct below */
    Larder__Wire__Status status;
    Larder__Wire__Look look;
    Larder__Wire__Bytes bytes;
    Larder__Wire__Meta meta;
    Larder__Wire__StatusReply items;
    Larder__Wire__Page page;
    Larder__Wire__Many many;
    Larder__Wire__Staging staging;
    Larder__Wire__Signed signed_url;
    const void *raw;
    size_t raw_len;
};

/* In the agent's thread; what `reply` points to must live until the next call. */
typedef enum fake_action fake_answer_fn(void *user, const ldr_wire_request *req, struct fake_reply *reply);

struct fake_agent {
    char path[300];
    fake_answer_fn *answer;
    void *user;
    int listener, wake[2];
    pthread_t thread;
    _Atomic int connections; /* accepted so far */
};

/* Listen at `cache_dir`/ipc/agent.sock (the folder is made if need be). */
void fake_start(struct fake_agent *a, const char *cache_dir, fake_answer_fn *answer, void *user);
void fake_stop(struct fake_agent *a); /* closes its connections; the socket's file goes */

/* Ways to fill in a reply. */
void fake_look(struct fake_reply *r, uint64_t nonce, const struct ldr_id *id);
void fake_bytes(struct fake_reply *r, const void *data, size_t len, uint64_t offset, const struct ldr_meta *meta,
                const char *why);
void fake_fail(struct fake_reply *r, enum larder_kind kind, const char *message);
void fake_meta(struct fake_reply *r, const struct ldr_meta *meta);
void fake_page(struct fake_reply *r, Larder__Wire__Entry **entry, size_t n, const char *next);
void fake_many(struct fake_reply *r, Larder__Wire__ManyItem **item, size_t n);
void fake_items(struct fake_reply *r, Larder__Wire__StatusItem **item, size_t n);
void fake_staging(struct fake_reply *r, uint32_t block, const char *name, uint64_t size);
void fake_signed(struct fake_reply *r, const char *url, char **header, size_t n, int64_t expires);

#endif
