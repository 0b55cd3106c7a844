/* ask.c - see ask.h. A connection carries the token of the process that opened it: what a child inherits is closed
 * there, never written to. The pool is an array of slots that are exchanged, so there is no lock that fork() could
 * leave held. */
#include "client/ask.h"
#include "client/client.h"
#include "client/sp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define POOL_SLOTS 8

struct conn {
    struct ldr_sp sp;
    uint64_t token;
};

struct ldr_conns {
    _Atomic(struct conn *) slot[POOL_SLOTS];
    char path[];
};

static uint64_t random64(void)
{
    uint64_t v;

    if (getrandom(&v, sizeof v, GRND_NONBLOCK) != sizeof v)
        v = (uint64_t)ldr_mono_ns() * UINT64_C(0x9E3779B97F4A7C15) ^ (uintptr_t)&v;
    return v ? v : 1;
}

void ldr_self_init(struct ldr_self *s)
{
    void *p = mmap(NULL, LDR_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    s->token = NULL;
    if (p == MAP_FAILED)
        return;
    if (madvise(p, LDR_PAGE, MADV_WIPEONFORK) < 0)
        munmap(p, LDR_PAGE);
    else
        s->token = p;
}

void ldr_self_release(struct ldr_self *s)
{
    if (s->token)
        munmap((void *)s->token, LDR_PAGE);
    s->token = NULL;
}

uint64_t ldr_self_token(const struct ldr_self *s)
{
    uint64_t have = 0, fresh;

    if (!s->token)
        return (uint64_t)getpid();
    have = atomic_load(s->token);
    if (have)
        return have;
    fresh = random64();
    return atomic_compare_exchange_strong(s->token, &have, fresh) ? fresh : have;
}

struct ldr_conns *ldr_conns_new(const char *socket_path)
{
    size_t len = strlen(socket_path) + 1;
    struct ldr_conns *p = malloc(sizeof *p + len);

    if (!p)
        return NULL;
    for (int i = 0; i < POOL_SLOTS; i++)
        atomic_init(&p->slot[i], NULL);
    memcpy(p->path, socket_path, len);
    return p;
}

static void conn_free(struct conn *c)
{
    ldr_sp_close(&c->sp);
    free(c);
}

void ldr_conns_free(struct ldr_conns **pp)
{
    struct ldr_conns *p = *pp;

    if (!p)
        return;
    *pp = NULL;
    for (int i = 0; i < POOL_SLOTS; i++) {
        struct conn *c = atomic_exchange(&p->slot[i], NULL);

        if (c)
            conn_free(c);
    }
    free(p);
}

/* An idle connection of this process that is still good; NULL: none. */
static struct conn *take_idle(struct ldr_conns *p, uint64_t token)
{
    for (int i = 0; i < POOL_SLOTS; i++) {
        struct conn *c = atomic_exchange(&p->slot[i], NULL);

        if (!c)
            continue;
        if (c->token == token && ldr_sp_usable(&c->sp))
            return c;
        conn_free(c); /* the parent's, or of an agent that is gone */
    }
    return NULL;
}

static void put_back(struct ldr_conns *p, struct conn *c)
{
    for (int i = 0; i < POOL_SLOTS; i++) {
        struct conn *none = NULL;

        if (atomic_compare_exchange_strong(&p->slot[i], &none, c))
            return;
    }
    conn_free(c);
}

static enum larder_kind connect_new(struct ldr_conns *p, uint64_t token, int64_t deadline_ns, struct conn **out,
                                    struct larder_err *err)
{
    struct conn *c = malloc(sizeof *c);
    enum larder_kind k;

    if (!c)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a connection to the agent");
    c->token = token;
    k = ldr_sp_connect(&c->sp, p->path, deadline_ns, err);
    if (k)
        free(c);
    else
        *out = c;
    return k;
}

/* The packed request, with what of the time is left: packed anew for each attempt. */
static enum larder_kind pack(ldr_wire_request *req, int64_t deadline_ns, uint8_t **out, size_t *len,
                             struct larder_err *err)
{
    int left = ldr_left_ms(deadline_ns);

    if (left == 0)
        return ldr_fail(err, LARDER_TIMEOUT, "the agent could not be asked in time");
    req->timeout_ms = left < 0 ? 0 : (uint32_t)left;
    *len = larder__wire__request__get_packed_size(req);
    if (*len > LDR_WIRE_REQUEST_MAX)
        return ldr_fail(err, LARDER_INTERNAL, "request of %zu bytes", *len);
    *out = malloc(*len ? *len : 1);
    if (!*out)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a request");
    larder__wire__request__pack(req, *out);
    return LARDER_OK;
}

/* While the agent is waited for: it may be waiting for room that mappings take which nobody uses. */
static void let_go(void *user)
{
    struct larder *l = user;
    struct ldr_gen *g = atomic_load_explicit(&l->gen, memory_order_acquire);

    if (g)
        ldr_views_pressure(l->views, atomic_load_explicit(&g->index.hdr->pressure, memory_order_relaxed));
}

/* One attempt. *broke: the connection was lost, in a way that another may mend; *sent: bytes of the request left. */
static enum larder_kind attempt(struct larder *l, ldr_wire_request *req, bool fresh, int64_t deadline_ns,
                                uint8_t **body, size_t *body_len, bool *broke, bool *sent, struct larder_err *err)
{
    uint64_t token = ldr_self_token(&l->self);
    struct conn *c = fresh ? NULL : take_idle(l->pool, token);
    enum ldr_sp_reach reach = LDR_SP_UNSENT;
    uint8_t *packed = NULL;
    size_t len = 0;
    enum larder_kind k = LARDER_OK;

    if (!c) {
        k = connect_new(l->pool, token, deadline_ns, &c, err);
        *broke = k == LARDER_UNAVAILABLE; /* in the handshake: nothing of the request left */
    }
    if (!k) {
        c->sp.idle = let_go;
        c->sp.user = l;
        k = pack(req, deadline_ns, &packed, &len, err);
    }
    if (!k)
        k = ldr_sp_exchange(&c->sp, packed, len, deadline_ns, body, body_len, &reach, broke, err);
    free(packed);
    *sent = reach == LDR_SP_SENT;
    if (c && !k)
        put_back(l->pool, c);
    else if (c)
        conn_free(c); /* a late reply must not meet the next request */
    return k;
}

enum larder_kind ldr_answer_unknown(struct larder_err *err)
{
    return ldr_fail(err, LARDER_UNAVAILABLE, "the agent's answer makes no sense");
}

/* Read the generation that the agent writes: also after a put, so that the next get sees it. */
static void follow(struct larder *l, uint64_t nonce)
{
    struct ldr_gen *g = atomic_load(&l->gen);

    if (nonce != 0 && (!g || g->nonce != nonce))
        ldr_client_reopen(l, g, nonce);
}

enum larder_kind ldr_ask(struct larder *l, ldr_wire_request *req, enum ldr_ask_how how, int64_t deadline_ns,
                         ldr_wire_reply **out, struct larder_err *err)
{
    struct larder_err why = { 0 };
    uint8_t *body = NULL;
    size_t body_len = 0;
    bool broke = false, sent = false;
    ldr_wire_reply *reply = NULL;
    enum larder_kind k;

    if (deadline_ns == LDR_NO_WAIT)
        return ldr_fail(err, LARDER_TIMEOUT, "the agent had to be asked, and the call may not wait");
    req->op_id = random64();
    ldr_count(l, LDR_COUNT_ASKS);
    k = attempt(l, req, false, deadline_ns, &body, &body_len, &broke, &sent, &why);
    if (k && broke && (how == LDR_ASK_READ || !sent)) {
        broke = false;
        k = attempt(l, req, true, deadline_ns, &body, &body_len, &broke, &sent, &why);
    }
    if (!k)
        k = ldr_wire_unpack_reply(body, body_len, &reply, &why);
    free(body);
    if (k && how == LDR_ASK_WRITE && sent)
        return ldr_fail(err, LARDER_OUTCOME_UNKNOWN, "the write was sent, and what became of it is not known: %.300s",
                        why.msg);
    if (!k)
        follow(l, reply->nonce);
    if (!k)
        k = ldr_wire_status(reply, &why);
    if (k) {
        if (reply)
            larder__wire__reply__free_unpacked(reply, NULL);
        if (err)
            *err = why;
        return k;
    }
    *out = reply;
    return LARDER_OK;
}

enum larder_kind ldr_tell(struct larder *l, ldr_wire_request *req, enum ldr_ask_how how, int64_t deadline_ns,
                          struct larder_err *err)
{
    ldr_wire_reply *reply = NULL;
    enum larder_kind k = ldr_ask(l, req, how, deadline_ns, &reply, err);

    if (reply)
        larder__wire__reply__free_unpacked(reply, NULL);
    return k;
}
