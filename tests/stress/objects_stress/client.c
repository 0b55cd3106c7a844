/* client.c - reads objects in every way that there is, with any deadline, and holds views of some of them. Whatever it
 * gets is checked against the model. */
#include "tests/stress/objects_stress/objects_stress.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define VIEWS 8
#define MANY  6

struct view {
    struct larder_object *o;
    unsigned key;
    uint32_t version; /* 0: an empty range, of any */
};

struct client {
    const struct os_args *a;
    struct os_shared *s;
    struct os_call *call;
    struct larder *l;
    uint64_t random;
    uint8_t *buf;
    struct view view[VIEWS];
    /* the call under way */
    struct os_window w;
    int timeout_ms;
    /* of the last object of each key: a version has one id or several, an id has one version */
    struct {
        uint64_t id[2];
        uint32_t version;
    } last[OS_KEYS];
};

static uint64_t roll(struct client *c, uint64_t n)
{
    return os_random(&c->random) % n;
}

static int any_timeout(struct client *c)
{
    switch (roll(c, 10)) {
    case 0:
        return 0;
    case 1:
        return (int)roll(c, 50) + 1;
    case 2:
        return (int)roll(c, 500) + 1;
    default:
        return 8000;
    }
}

static void begin(struct client *c, enum os_what what)
{
    c->w = (struct os_window){ .shared = c->s, .key = (unsigned)roll(c, OS_KEYS), .began_ns = ldr_mono_ns() };
    c->timeout_ms = any_timeout(c);
    c->call->what = what;
    c->call->key = (int)c->w.key;
    c->call->timeout_ms = c->timeout_ms;
    c->call->began_ns = c->w.began_ns;
    c->s->reads[what]++;
}

static void end(struct client *c)
{
    c->w.ended_ns = ldr_mono_ns();
    c->call->began_ns = 0;
}

/* ---- checks ---- */

/* In the control run: one byte of what was read becomes another. */
static const uint8_t *spoiled(struct client *c, const uint8_t *p, size_t n)
{
    if (!c->a->control || n < 16 || n > OS_SIZE_MAX || roll(c, 20))
        return p;
    memmove(c->buf, p, n);
    c->buf[roll(c, n)] ^= 0x40;
    return c->buf;
}

/* Bytes of one version that may be seen? */
static bool check_bytes(struct client *c, enum os_what what, const uint8_t *p, uint64_t offset, size_t n,
                        uint64_t total, uint32_t *version)
{
    char text[2048];

    p = spoiled(c, p, n);
    if (os_may_be(&c->w, p, offset, n, total, version)) {
        c->s->right[what]++;
        return true;
    }
    os_explain(&c->w, p, offset, n, total, text, sizeof text);
    os_wrong(c->s, "%s gave wrong bytes: %s", os_what_name[what], text);
    return false;
}

/* Was there, in this call, a moment without an agent? */
static bool agent_was_away(const struct client *c)
{
    int64_t down = c->s->down_ns, up = c->s->up_ns;

    return down && (up < down || c->w.began_ns <= up + 500 * LDR_NS_PER_MS);
}

static void check_failure(struct client *c, enum os_what what, enum larder_kind k, const struct larder_err *err)
{
    bool ok = false;

    switch (k) {
    case LARDER_NOT_FOUND:
        ok = os_may_be_absent(&c->w);
        break;
    case LARDER_TIMEOUT:
        ok = c->timeout_ms < 8000 || c->w.ended_ns - c->w.began_ns > 7000 * LDR_NS_PER_MS;
        break;
    case LARDER_NO_AGENT:
    case LARDER_CANCELLED:
        ok = agent_was_away(c);
        break;
    case LARDER_PRECONDITION:
        ok = what != OS_HEAD; /* it changed while it was read */
        break;
    case LARDER_UNAVAILABLE:
    case LARDER_CORRUPT:     /* another part than was asked for, */
    case LARDER_UNSUPPORTED: /* and weak ETags are faults of the store */
        ok = true;
        break;
    default:
        break;
    }
    if (k <= LARDER_INTERNAL)
        c->s->failed[k]++;
    if (k == LARDER_NO_AGENT) /* at once: it comes back soon */
        nanosleep(&(struct timespec){ .tv_nsec = 5 * LDR_NS_PER_MS }, NULL);
    if (!ok)
        os_wrong(c->s, "%s of key %u failed as %s after %" PRId64 " ms of %d: %s", os_what_name[what], c->w.key,
                 larder_kind_name(k), (c->w.ended_ns - c->w.began_ns) / LDR_NS_PER_MS, c->timeout_ms, err->msg);
    if (!err->msg[0] || err->kind != k)
        os_wrong(c->s, "%s failed as %s, and the error says %s: \"%s\"", os_what_name[what], larder_kind_name(k),
                 larder_kind_name(err->kind), err->msg);
}

/* Check an object, and hold it for a while. Taken. */
static void check_object(struct client *c, enum os_what what, struct larder_object *o)
{
    struct view *v = &c->view[roll(c, VIEWS)];
    size_t n = larder_object_size(o);
    uint64_t id[2];
    uint32_t version = 0;

    c->s->hits += (uint64_t)larder_object_was_hit(o);
    if (!check_bytes(c, what, larder_object_data(o), larder_object_offset(o), n, larder_object_total(o), &version)) {
        larder_object_free(&o);
        return;
    }
    larder_object_id(o, id);
    if (n >= 16 && (id[0] || id[1])) {
        if (c->last[c->w.key].id[0] == id[0] && c->last[c->w.key].id[1] == id[1] &&
            c->last[c->w.key].version != version)
            os_wrong(c->s, "%s: versions %u and %u of key %u have the same id", os_what_name[what],
                     c->last[c->w.key].version, version, c->w.key);
        memcpy(c->last[c->w.key].id, id, sizeof id);
        c->last[c->w.key].version = version;
    }
    if (roll(c, 4)) {
        larder_object_free(&o);
        return;
    }
    larder_object_free(&v->o);
    *v = (struct view){ .o = o, .key = c->w.key, .version = n ? version : 0 };
}

/* A view never changes, whatever became of its object. */
static void check_held(struct client *c, unsigned i)
{
    struct view *v = &c->view[i];
    struct os_shared *s = c->s;
    size_t n;
    uint64_t offset;

    if (!v->o || !v->version)
        return;
    n = larder_object_size(v->o);
    offset = larder_object_offset(v->o);
    os_fill(c->buf, v->key, v->version, offset, n);
    s->reads[OS_HELD]++;
    if (memcmp(c->buf, larder_object_data(v->o), n) != 0)
        os_wrong(s, "a view of key %u, version %u, [%" PRIu64 ", +%zu), changed", v->key, v->version, offset, n);
    else
        s->right[OS_HELD]++;
}

/* ---- the ways ---- */

static void do_get(struct client *c, bool ranged)
{
    enum os_what what = ranged ? OS_RANGE : OS_GET;
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    uint64_t offset = 0, length = 0;
    char uri[128];
    enum larder_kind k;

    if (ranged) {
        offset = roll(c, 21 * c->a->block);
        length = roll(c, 4) ? 1 + roll(c, 3 * c->a->block) : 0;
    }
    begin(c, what);
    os_uri(c->w.key, uri);
    k = larder_get_range(c->l, uri, offset, length, c->timeout_ms, &o, &err);
    end(c);
    if (k) {
        check_failure(c, what, k, &err);
        return;
    }
    {
        uint64_t total = larder_object_total(o), from = offset < total ? offset : total;
        uint64_t want = length && length < total - from ? length : total - from;

        if (larder_object_size(o) != want || (want && larder_object_offset(o) != from))
            os_wrong(c->s,
                     "key %u: [%" PRIu64 ", +%" PRIu64 ") of %" PRIu64 " bytes was asked for, [%" PRIu64 ", +%zu) came",
                     c->w.key, offset, length, total, larder_object_offset(o), larder_object_size(o));
    }
    check_object(c, what, o);
}

static void do_into(struct client *c)
{
    struct larder_err err = { 0 };
    uint64_t size = UINT64_MAX;
    size_t cap = roll(c, 5) ? OS_SIZE_MAX : roll(c, 2 * c->a->block);
    uint32_t version;
    char uri[128];
    enum larder_kind k;

    begin(c, OS_INTO);
    os_uri(c->w.key, uri);
    k = larder_get_into(c->l, uri, c->buf, cap, c->timeout_ms, &size, &err);
    end(c);
    if (k == LARDER_LIMIT_EXCEEDED && size != UINT64_MAX && size > cap) {
        if (!os_may_have_size(&c->w, size))
            os_wrong(c->s, "get_into says that key %u has %" PRIu64 " bytes", c->w.key, size);
    } else if (k) {
        check_failure(c, OS_INTO, k, &err);
    } else {
        check_bytes(c, OS_INTO, c->buf, 0, size, size, &version);
    }
}

static void do_read(struct client *c)
{
    struct larder_err err = { 0 };
    uint64_t offset = roll(c, 21 * c->a->block), total = 0;
    size_t len = roll(c, 3 * c->a->block), got = 0;
    uint32_t version;
    char uri[128];
    enum larder_kind k;

    begin(c, OS_READ);
    os_uri(c->w.key, uri);
    k = larder_read(c->l, uri, offset, c->buf, len, c->timeout_ms, &got, &total, &err);
    end(c);
    if (k) {
        check_failure(c, OS_READ, k, &err);
        return;
    }
    if (got > len || (got < len && offset < total && offset + got != total))
        os_wrong(c->s, "key %u: read gave %zu of %zu bytes at %" PRIu64 " of %" PRIu64, c->w.key, got, len, offset,
                 total);
    else
        check_bytes(c, OS_READ, c->buf, got ? offset : 0, got, total, &version);
}

struct piece {
    struct client *c;
    uint64_t next, size;
    bool wrong, begun;
};

static enum larder_kind take_piece(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct piece *s = user;

    if (offset != s->next || (s->begun && size != s->size) || size > OS_SIZE_MAX || n > size - offset) {
        s->wrong = true;
        return LARDER_CORRUPT;
    }
    s->begun = true;
    s->size = size;
    memcpy(s->c->buf + offset, p, n);
    s->next += n;
    return LARDER_OK;
}

static void do_stream(struct client *c)
{
    struct larder_err err = { 0 };
    struct piece s = { .c = c };
    uint32_t version;
    char uri[128];
    enum larder_kind k;

    begin(c, OS_STREAM);
    os_uri(c->w.key, uri);
    k = larder_stream(c->l, uri, c->timeout_ms, take_piece, &s, &err);
    end(c);
    if (s.wrong || (!k && (!s.begun || s.next != s.size)))
        os_wrong(c->s, "key %u: a stream gave %" PRIu64 " of %" PRIu64 " bytes, or out of order", c->w.key, s.next,
                 s.size);
    else if (s.begun) /* what was delivered is of one version, also when the rest did not come */
        check_bytes(c, OS_STREAM, c->buf, 0, s.next, s.size, &version);
    if (k)
        check_failure(c, OS_STREAM, k, &err);
}

static void do_many(struct client *c)
{
    struct larder_result r[MANY];
    char uris[MANY][128];
    const char *list[MANY];
    unsigned key[MANY];
    struct larder_err err = { 0 };
    enum larder_kind k, first = LARDER_OK;

    begin(c, OS_MANY);
    for (int i = 0; i < MANY; i++) {
        key[i] = i ? (unsigned)roll(c, OS_KEYS) : c->w.key;
        os_uri(key[i], uris[i]);
        list[i] = uris[i];
    }
    k = larder_get_many(c->l, list, MANY, c->timeout_ms, r, &err);
    end(c);
    for (int i = 0; i < MANY; i++) {
        c->w.key = key[i];
        if (!first)
            first = r[i].kind;
        if (r[i].kind)
            check_failure(c, OS_MANY, r[i].kind, &r[i].err);
        else if (!r[i].object)
            os_wrong(c->s, "get_many gave neither object nor error for key %u", key[i]);
        else
            check_object(c, OS_MANY, r[i].object);
    }
    if (k != first)
        os_wrong(c->s, "get_many returned %s, its first failure is %s", larder_kind_name(k), larder_kind_name(first));
}

static void do_head(struct client *c)
{
    struct larder_meta *m = NULL;
    struct larder_err err = { 0 };
    char uri[128];
    enum larder_kind k;

    begin(c, OS_HEAD);
    os_uri(c->w.key, uri);
    k = larder_head(c->l, uri, c->timeout_ms, &m, &err);
    end(c);
    if (k) {
        check_failure(c, OS_HEAD, k, &err);
        return;
    }
    if (larder_meta_exists(m) ? !os_may_have_size(&c->w, larder_meta_size(m)) : !os_may_be_absent(&c->w)) {
        char text[2048];

        os_explain(&c->w, NULL, 0, 0, larder_meta_size(m), text, sizeof text);
        os_wrong(c->s, "head says %s: %s", larder_meta_exists(m) ? "it exists" : "it is absent", text);
    } else {
        c->s->right[OS_HEAD]++;
    }
    larder_meta_free(&m);
}

static void do_any(struct client *c)
{
    switch (roll(c, 16)) {
    case 0:
    case 1:
    case 2:
        do_get(c, false);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        do_get(c, true);
        break;
    case 7:
    case 8:
        do_into(c);
        break;
    case 9:
    case 10:
        do_read(c);
        break;
    case 11:
    case 12:
        do_stream(c);
        break;
    case 13:
        do_many(c);
        break;
    case 14:
        do_head(c);
        break;
    default:
        check_held(c, (unsigned)roll(c, VIEWS));
    }
}

/* A child has the views, and a connection of its own. */
static void fork_and_read(struct client *c)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        c->random ^= UINT64_C(0x5bf03635f0a31e21);
        for (unsigned i = 0; i < VIEWS; i++)
            check_held(c, i);
        for (int i = 0; i < 5; i++)
            do_any(c);
        _exit(0);
    }
    if (pid < 0)
        return;
    if (waitpid(pid, &status, 0) == pid && (!WIFEXITED(status) || WEXITSTATUS(status)))
        os_wrong(c->s, "a forked child ended with status %x", status);
}

void os_client(const struct os_args *a, unsigned i, uint64_t seed)
{
    struct client *c = calloc(1, sizeof *c);

    if (!c || !(c->buf = malloc(OS_SIZE_MAX + 8)))
        agent_die("out of memory");
    c->a = a;
    c->s = a->shared;
    c->call = &a->shared->call[i];
    c->call->began_ns = 0;
    c->random = seed | 1;
    c->l = agent_open(a->agent);
    while (!c->s->stop) {
        do_any(c);
        if (roll(c, 300) == 0)
            fork_and_read(c);
        if (roll(c, 500) == 0) { /* views outlive the handle */
            larder_close(&c->l);
            c->l = agent_open(a->agent);
        }
    }
    for (unsigned v = 0; v < VIEWS; v++) {
        check_held(c, v);
        larder_object_free(&c->view[v].o);
    }
    larder_close(&c->l);
    free(c->buf);
    free(c);
}
