/* writes_stress.c - writes while any request may fail: what was answered OK is there, what failed is not, nothing is left.
 *
 *   writes_stress [--seconds N] [--seed N] [--threads N] [--no-kill] [--no-control] [--self-test] [--keep]
 *                 (or LDR_STRESS_SECONDS; default 10)
 *
 * A larderd with a small cache and the S3 test server behind it. Threads write through one handle: whole objects,
 * writers of known and unknown size, with and without a copy, given up half way; copies, deletions one by one and many at
 * once, writes on conditions; of sizes around each limit. Meanwhile the store refuses, resets, cuts, delays and lies, at
 * requests of each kind, and the agent is killed and stopped. Each key has one writer, and each version's bytes are a
 * function of its number, so after every call it is known what the key may hold:
 *   OK                exactly what was written: head and get show it, byte for byte
 *   OUTCOME_UNKNOWN   that, or what was there; and it may arrive later (the store may still be at it)
 *   any other kind    what was there
 * In the end, with all faults gone, cache and store agree with that, and nothing is left: no upload in the store, no file
 * in rw/staging, fill/ and uploads/. First comes the negative control (--self-test: that alone): a writer writes other
 * bytes than it says, and that must be seen. Exit 0: as it should be. */
#include "client/larder.h"
#include "common/clock.h"
#include "common/layout.h"
#include "tests/support/agent_proc.h"
#include "tests/support/backend_driver.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 16
#define KEYS        6 /* of one thread */
#define MAYBE_MAX   8
#define SIZE_MAX_   (30 * LDR_MIB)
#define BLOCK       (8 * LDR_MIB)
#define TIMEOUT_MS  20000 /* of one call */
#define HANG_MS     15000 /* a call may end so much after that */
#define READ_MS     60000 /* in which a read has to succeed once, for all the faults */
#define SETTLE_MS   30000
#define CONTROL_S   60
#define ABSENT      UINT64_MAX

enum what { PUT, KNOWN, UNKNOWN, ROOM, GIVE_UP, COPY, DELETE, MANY, CREATE, MATCH, WHATS };
static const char *const what_name[WHATS] = { "put",  "writer", "stream", "room",   "give-up",
                                              "copy", "delete", "many",   "create", "match" };

struct version {
    uint64_t number; /* its bytes are a function of this */
    uint64_t size;   /* ABSENT: there is no object */
};

/* Of one thread. */
struct key {
    char uri[96];
    struct version is;               /* what was last answered for */
    struct version maybe[MAYBE_MAX]; /* writes of unknown outcome: any of these may be there instead, from now on */
    unsigned n_maybe;
    unsigned name; /* a key with too many of them gets another name */
};

struct campaign;

struct worker {
    struct campaign *c;
    pthread_t thread;
    unsigned n;
    uint64_t random, version;
    struct key key[KEYS];
    uint8_t *bytes, *read;   /* SIZE_MAX_ each */
    _Atomic int64_t call_ns; /* when the call under way began; 0: none is */
    _Atomic int call;
};

struct options {
    double seconds;
    uint64_t seed;
    unsigned threads;
    bool kills, control, self_test, keep;
};

struct campaign {
    const struct options *opt;
    bool control;
    struct agent agent;
    struct s3_server s3;
    char dir[TEST_DIR_MAX];
    struct larder *larder;
    struct worker worker[THREADS_MAX];
    uint64_t random;
    uint64_t kills, stops, faults;
    pthread_mutex_t mtx;
    char report[2048]; /* under mtx, until `wrong` */
    atomic_bool stop, wrong;
    _Atomic uint64_t done[WHATS], tried[WHATS], failed[LARDER_INTERNAL + 1], checks, reads_again;
};

static uint64_t roll(uint64_t *state, uint64_t n)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (*state >> 11) % n;
}

/* The first is kept. */
__attribute__((format(printf, 2, 3))) static void wrong(struct campaign *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    pthread_mutex_lock(&c->mtx);
    if (!c->wrong)
        vsnprintf(c->report, sizeof c->report, fmt, ap);
    c->wrong = true;
    pthread_mutex_unlock(&c->mtx);
    va_end(ap);
}

/* ---- versions ---- */

static uint64_t word_of(uint64_t number, uint64_t i)
{
    uint64_t x = number * UINT64_C(0x9E3779B97F4A7C15) + i * UINT64_C(0xD1B54A32D192ED03);

    x = (x ^ (x >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
    return x ^ (x >> 32);
}

static void make_bytes(const struct version *v, uint8_t *out)
{
    for (uint64_t at = 0; at < v->size; at += 8) {
        uint64_t x = word_of(v->number, at / 8);

        memcpy(out + at, &x, v->size - at < 8 ? v->size - at : 8);
    }
}

static bool bytes_are(const struct version *v, const uint8_t *p, uint64_t size)
{
    if (v->size != size)
        return false;
    for (uint64_t at = 0; at < size; at += 8) {
        uint64_t x = word_of(v->number, at / 8);

        if (memcmp(p + at, &x, size - at < 8 ? size - at : 8) != 0)
            return false;
    }
    return true;
}

static uint64_t random_size(uint64_t *random)
{
    static const uint64_t edges[] = { 0,     1,         15000,         16367,
                                      20464, 20465,     128 * LDR_KIB, BLOCK - 1,
                                      BLOCK, BLOCK + 1, 3 * BLOCK,     30 * LDR_MIB,
                                      100,   4096,      LDR_MIB,       2 * BLOCK + 77 };

    return roll(random, 3) ? edges[roll(random, LDR_ARRAY_LEN(edges))] : roll(random, 64 * LDR_KIB);
}

static struct version next_version(struct worker *w)
{
    return (struct version){ .number = (uint64_t)w->n << 40 | ++w->version, .size = random_size(&w->random) };
}

static void name_key(struct worker *w, unsigned i)
{
    struct key *k = &w->key[i];

    /* the odd ones are asked for again at each read, the even ones never */
    snprintf(k->uri, sizeof k->uri, "s3://" S3_BUCKET "/%c/%u/%u-%u", i % 2 ? 'a' : 'i', w->n, i, ++k->name);
    k->is = (struct version){ .size = ABSENT };
    k->n_maybe = 0;
}

/* ---- what a key may hold ---- */

/* NULL: none of what it may. `p` NULL: only the size is known. */
static const struct version *find_version(const struct key *k, const uint8_t *p, uint64_t size)
{
    for (unsigned i = 0; i <= k->n_maybe; i++) {
        const struct version *v = i ? &k->maybe[i - 1] : &k->is;

        if (size == ABSENT || !p ? v->size == size : bytes_are(v, p, size))
            return v;
    }
    return NULL;
}

static void describe(const struct key *k, char *out, size_t cap)
{
    size_t n = 0;

    for (unsigned i = 0; i <= k->n_maybe && n < cap; i++) {
        const struct version *v = i ? &k->maybe[i - 1] : &k->is;

        n += v->size == ABSENT
                 ? (size_t)snprintf(out + n, cap - n, "%snothing", i ? " or " : "")
                 : (size_t)snprintf(out + n, cap - n, "%s%" PRIx64 " of %" PRIu64, i ? " or " : "", v->number, v->size);
    }
}

/* The write of `v` to `k` ended with `kind`. */
static void settle(struct worker *w, unsigned i, const struct version *v, enum larder_kind kind)
{
    struct key *k = &w->key[i];

    if (kind == LARDER_OK) {
        k->is = *v;
    } else if (kind == LARDER_OUTCOME_UNKNOWN) {
        if (k->n_maybe < MAYBE_MAX)
            k->maybe[k->n_maybe++] = *v;
        else
            name_key(w, i);
    }
}

/* ---- reads ---- */

static void begin(struct worker *w, int what)
{
    w->call = what;
    w->call_ns = ldr_mono_ns();
}

static void end(struct worker *w)
{
    w->call_ns = 0;
}

static enum larder_kind read_once(struct worker *w, const char *uri, uint64_t *size, struct larder_err *err)
{
    struct larder_object *o = NULL;
    enum larder_kind k;

    if (roll(&w->random, 2)) {
        k = larder_get_into(w->c->larder, uri, w->read, SIZE_MAX_, TIMEOUT_MS, size, err);
    } else {
        k = larder_get(w->c->larder, uri, TIMEOUT_MS, &o, err);
        if (!k) {
            *size = larder_object_size(o);
            memcpy(w->read, larder_object_data(o), *size < SIZE_MAX_ ? *size : SIZE_MAX_);
        }
        larder_object_free(&o);
    }
    if (k == LARDER_NOT_FOUND) {
        *size = ABSENT;
        k = LARDER_OK;
    }
    return k;
}

static enum larder_kind head_once(struct worker *w, const char *uri, uint64_t *size, struct larder_err *err)
{
    struct larder_meta *m = NULL;
    enum larder_kind k = larder_head(w->c->larder, uri, TIMEOUT_MS, &m, err);

    if (!k)
        *size = larder_meta_exists(m) ? larder_meta_size(m) : ABSENT;
    larder_meta_free(&m);
    return k;
}

/* Faults may make it fail, but not for ever. */
static bool read_key(struct worker *w, const struct key *k, bool head, uint64_t *size)
{
    struct larder_err err = { 0 };
    int64_t until = ldr_deadline_ns(READ_MS);
    enum larder_kind kind;

    for (;;) {
        begin(w, WHATS);
        kind = head ? head_once(w, k->uri, size, &err) : read_once(w, k->uri, size, &err);
        end(w);
        if (!kind)
            return true;
        if (kind == LARDER_INVALID || kind == LARDER_DENIED || kind == LARDER_UNSUPPORTED)
            break;
        if (ldr_left_ms(until) == 0 || w->c->wrong)
            break;
        w->c->reads_again++;
        agent_pause();
    }
    wrong(w->c, "%s cannot be read: %s: %s", k->uri, larder_kind_name(kind), err.msg);
    return false;
}

static void check_key(struct worker *w, const struct key *k, const char *when)
{
    char may[600];
    uint64_t size = 0;
    bool head = roll(&w->random, 2);

    for (int i = 0; i < 2; i++, head = !head) {
        if (!read_key(w, k, head, &size))
            return;
        if (!find_version(k, head ? NULL : w->read, size)) {
            describe(k, may, sizeof may);
            wrong(w->c, "%s, after %s: a %s shows %s%" PRIu64 " bytes (first word %016" PRIx64 "), it may hold %s",
                  k->uri, when, head ? "head" : "get", size == ABSENT ? "nothing, not " : "", size,
                  head || size < 8 || size == ABSENT ? 0 : *(const uint64_t *)(const void *)w->read, may);
            return;
        }
    }
    w->c->checks++;
}

/* ---- writes ---- */

static enum larder_kind fill(struct worker *w, struct larder_writer *o, const uint8_t *p, uint64_t n, bool by_room,
                             struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    for (uint64_t at = 0; !k && at < n;) {
        uint64_t piece = 1 + roll(&w->random, roll(&w->random, 4) ? 3 * LDR_MIB : 5000);
        size_t room = 0;
        void *to = NULL;

        piece = piece < n - at ? piece : n - at;
        if (by_room && !(k = larder_writer_room(o, &to, &room, err))) {
            piece = piece < room ? piece : room;
            memcpy(to, p + at, piece);
            k = larder_writer_filled(o, piece, err);
        } else if (!by_room) {
            k = larder_writer_write(o, p + at, piece, err);
        }
        at += piece;
        w->call_ns = ldr_mono_ns(); /* each has a deadline of its own */
    }
    return k;
}

static enum larder_kind write_by(struct worker *w, enum what what, const struct key *k, const struct version *v,
                                 struct larder_err *err)
{
    struct larder_writer *o = NULL;
    uint64_t size = what == UNKNOWN || roll(&w->random, 2) ? LARDER_SIZE_UNKNOWN : v->size;
    enum larder_kind kind;

    kind = larder_writer_open(w->c->larder, k->uri, what == KNOWN ? v->size : size, NULL, TIMEOUT_MS, &o, err);
    if (!kind)
        kind = fill(w, o, w->bytes, what == GIVE_UP ? roll(&w->random, v->size + 1) : v->size, what == ROOM, err);
    if (kind || what == GIVE_UP) {
        larder_writer_abort(&o);
        return kind ? kind : LARDER_CANCELLED;
    }
    return larder_writer_commit(&o, err);
}

static enum larder_kind put(struct worker *w, const struct key *k, const struct version *v,
                            const struct larder_put_opts *opts, struct larder_err *err)
{
    return larder_put(w->c->larder, k->uri, w->bytes, v->size, opts, TIMEOUT_MS, err);
}

/* A put on condition that there is none, or that it is the one that a head showed. */
static enum larder_kind put_if(struct worker *w, enum what what, const struct key *k, const struct version *v,
                               struct larder_err *err)
{
    struct larder_put_opts opts = { .struct_size = sizeof opts, .create_only = what == CREATE };
    struct larder_meta *m = NULL;
    bool other = roll(&w->random, 3) == 0;
    enum larder_kind kind;
    char etag[128] = "";
    const char *p;

    if (what == MATCH) {
        kind = larder_head(w->c->larder, k->uri, TIMEOUT_MS, &m, err);
        if (!kind && (p = larder_meta_text(m, LARDER_META_ETAG)))
            snprintf(etag, sizeof etag, "%s", p);
        larder_meta_free(&m);
        if (kind)
            return kind == LARDER_OUTCOME_UNKNOWN ? LARDER_INTERNAL : kind;
        if (other || !etag[0])
            snprintf(etag, sizeof etag, "00000000000000000000000000000000");
        opts.if_match = etag;
    }
    w->call_ns = ldr_mono_ns();
    kind = put(w, k, v, &opts, err);
    if (k->n_maybe == 0 && what == CREATE && kind == (k->is.size == ABSENT ? LARDER_EXISTS : LARDER_OK))
        wrong(w->c, "%s: a put that may only create gives %s, and there was %s", k->uri, larder_kind_name(kind),
              k->is.size == ABSENT ? "nothing" : "an object");
    if (k->n_maybe == 0 && what == MATCH && kind == LARDER_OK && (other || k->is.size == ABSENT))
        wrong(w->c, "%s: a put over another version than there is was carried out", k->uri);
    if (k->n_maybe == 0 && what == MATCH && kind == LARDER_PRECONDITION && !other && k->is.size != ABSENT)
        wrong(w->c, "%s: a put over the very version that is there was refused: %s", k->uri, err->msg);
    return kind;
}

/* The copy is of whatever the source holds when it is made. */
static void copy(struct worker *w, unsigned to)
{
    unsigned from = (to + 1 + (unsigned)roll(&w->random, KEYS - 1)) % KEYS;
    struct larder_err err = { 0 };
    enum larder_kind kind;

    if (w->key[from].n_maybe || w->key[from].is.size == ABSENT)
        return;
    w->c->tried[COPY]++;
    begin(w, COPY);
    kind = larder_copy(w->c->larder, w->key[from].uri, w->key[to].uri, TIMEOUT_MS, &err);
    end(w);
    if (kind == LARDER_NOT_FOUND)
        wrong(w->c, "%s: a copy says that its source is not there: %s", w->key[from].uri, err.msg);
    w->c->done[COPY] += !kind;
    w->c->failed[kind]++;
    settle(w, to, &w->key[from].is, kind);
    check_key(w, &w->key[to], "a copy");
}

static void delete_many(struct worker *w)
{
    const char *uris[KEYS];
    struct larder_result out[KEYS];
    struct version none = { .size = ABSENT };
    unsigned first = (unsigned)roll(&w->random, KEYS / 2), n = 1 + (unsigned)roll(&w->random, KEYS - first);

    for (unsigned i = 0; i < n; i++)
        uris[i] = w->key[first + i].uri;
    w->c->tried[MANY]++;
    begin(w, MANY);
    w->c->done[MANY] += larder_delete_many(w->c->larder, uris, n, TIMEOUT_MS, out, NULL) == LARDER_OK;
    end(w);
    for (unsigned i = 0; i < n; i++) {
        w->c->failed[out[i].kind]++;
        settle(w, first + i, &none, out[i].kind);
    }
    for (unsigned i = 0; i < n; i++)
        check_key(w, &w->key[first + i], "a deletion of many");
}

static void write_one(struct worker *w)
{
    static const uint8_t weights[] = { PUT,  PUT,  PUT,    KNOWN, UNKNOWN, UNKNOWN, ROOM,
                                       ROOM, COPY, DELETE, MANY,  CREATE,  MATCH,   GIVE_UP };
    enum what what = weights[roll(&w->random, LDR_ARRAY_LEN(weights))];
    unsigned i = (unsigned)roll(&w->random, KEYS);
    struct version v = next_version(w);
    struct larder_err err = { 0 };
    enum larder_kind kind;
    char when[128];

    for (unsigned j = 0; what == MATCH && j < KEYS && w->key[i].is.size == ABSENT; j++)
        i = (i + 1) % KEYS;
    if (what == COPY || what == MANY) {
        (what == COPY) ? copy(w, i) : delete_many(w);
        return;
    }
    w->c->tried[what]++;
    if (what == DELETE)
        v.size = ABSENT;
    else
        make_bytes(&v, w->bytes);
    if (w->c->control && v.size != ABSENT && v.size)
        w->bytes[v.size / 2] ^= 1;
    begin(w, what);
    switch (what) {
    case PUT:
        kind = put(w, &w->key[i], &v, NULL, &err);
        break;
    case DELETE:
        kind = larder_delete(w->c->larder, w->key[i].uri, TIMEOUT_MS, &err);
        break;
    case CREATE:
    case MATCH:
        kind = put_if(w, what, &w->key[i], &v, &err);
        break;
    default:
        kind = write_by(w, what, &w->key[i], &v, &err);
        break;
    }
    end(w);
    w->c->done[what] += kind == (what == GIVE_UP ? LARDER_CANCELLED : LARDER_OK);
    w->c->failed[kind]++;
    if (kind == LARDER_INVALID || kind == LARDER_DENIED || kind == LARDER_UNSUPPORTED || kind == LARDER_INTERNAL ||
        kind == LARDER_IO)
        wrong(w->c, "%s: a %s of %" PRIu64 " bytes has no reason to be %s: %s", w->key[i].uri, what_name[what], v.size,
              larder_kind_name(kind), err.msg);
    settle(w, i, &v, kind);
    snprintf(when, sizeof when, "a %s of version %" PRIx64 " gave %s", what_name[what], v.number,
             larder_kind_name(kind));
    check_key(w, &w->key[i], when);
}

static void *work(void *user)
{
    struct worker *w = user;

    while (!w->c->stop && !w->c->wrong)
        write_one(w);
    return NULL;
}

/* ---- everything goes wrong ---- */

static void break_store(struct campaign *c)
{
    static const char *const rules[] = {
        "[]",
        "[]",
        "[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"count\": 2}]",
        "[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 500, \"count\": 2}]",
        "[{\"method\": \"PUT\", \"action\": \"reset\", \"count\": 2}]",
        "[{\"method\": \"PUT\", \"action\": \"drop_after_store\", \"count\": 1}]",
        "[{\"method\": \"PUT\", \"action\": \"wrong_checksum\", \"count\": 1}]",
        "[{\"method\": \"PUT\", \"action\": \"delay_ms\", \"ms\": 200, \"count\": 8}]",
        "[{\"method\": \"PUT\", \"action\": \"garbage\", \"count\": 1}]",
        "[{\"method\": \"PUT\", \"action\": \"copy_error\", \"code\": \"InternalError\", \"count\": 2}]",
        "[{\"method\": \"POST\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"count\": 2}]",
        "[{\"method\": \"POST\", \"action\": \"status\", \"status\": 500, \"count\": 20}]",
        "[{\"method\": \"POST\", \"action\": \"reset\", \"count\": 1}]",
        "[{\"method\": \"POST\", \"action\": \"drop_after_store\", \"count\": 1}]",
        "[{\"method\": \"POST\", \"action\": \"copy_error\", \"code\": \"InternalError\", \"count\": 1}]",
        "[{\"method\": \"POST\", \"action\": \"wrong_checksum\", \"count\": 1}]",
        "[{\"method\": \"POST\", \"action\": \"truncate_body\", \"bytes\": 60, \"count\": 1}]",
        "[{\"method\": \"POST\", \"action\": \"blank_first\", \"count\": 3}]",
        "[{\"method\": \"POST\", \"action\": \"delay_ms\", \"ms\": 300, \"count\": 4}]",
        "[{\"method\": \"DELETE\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"count\": 2}]",
        "[{\"method\": \"DELETE\", \"action\": \"reset\", \"count\": 1}]",
        "[{\"method\": \"DELETE\", \"action\": \"drop_after_store\", \"count\": 1}]",
        "[{\"method\": \"GET\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"count\": 3}]",
        "[{\"method\": \"GET\", \"action\": \"truncate_body\", \"bytes\": 70000, \"count\": 2}]",
        "[{\"method\": \"HEAD\", \"action\": \"reset\", \"count\": 2}]",
    };

    if (!s3_server_rules(&c->s3, rules[roll(&c->random, LDR_ARRAY_LEN(rules))]))
        agent_die("the store does not listen");
    c->faults++;
}

static void bounce_agent(struct campaign *c)
{
    int code;

    if (roll(&c->random, 3)) {
        agent_kill(&c->agent);
        c->kills++;
    } else {
        code = agent_stop(&c->agent);
        if (code)
            wrong(c, "the agent ended with code %d when it was told to", code);
        c->stops++;
    }
    nanosleep(&(struct timespec){ .tv_nsec = (long)(roll(&c->random, 200) * LDR_NS_PER_MS) }, NULL);
    agent_start(&c->agent);
}

static void watch(struct campaign *c)
{
    for (unsigned i = 0; i < c->opt->threads; i++) {
        int64_t began = c->worker[i].call_ns, ms = (ldr_mono_ns() - began) / LDR_NS_PER_MS;
        int what = c->worker[i].call;

        if (began && ms > TIMEOUT_MS + HANG_MS)
            wrong(c, "thread %u: a %s hangs: %" PRId64 " ms", i, what < WHATS ? what_name[what] : "read", ms);
    }
    if (!agent_alive(&c->agent))
        wrong(c, "the agent died");
}

static void run(struct campaign *c, double seconds)
{
    int64_t until = ldr_deadline_ns((int64_t)(seconds * 1000)), bounce_at = ldr_deadline_ns(2500);

    while (ldr_left_ms(until) && !c->wrong) {
        nanosleep(&(struct timespec){ .tv_nsec = (long)((20 + roll(&c->random, 150)) * (uint64_t)LDR_NS_PER_MS) },
                  NULL);
        break_store(c);
        if (c->opt->kills && !c->control && ldr_left_ms(bounce_at) == 0) {
            bounce_agent(c);
            bounce_at = ldr_deadline_ns(500 + (int64_t)roll(&c->random, 4000));
        }
        watch(c);
    }
    s3_server_rules(&c->s3, "[]");
    c->stop = true;
}

/* ---- in the end ---- */

/* Is what the store itself holds what it may hold? Past larder's cache. */
static void check_store(struct campaign *c)
{
    struct bd *d = NULL;
    struct bd_result r;
    struct larder_err err = { 0 };
    char may[600];

    if (bd_open("s3", "s3",
                (const char *[]){ "endpoint", c->s3.endpoint, "region", "us-east-1", "access_key_id", S3_ACCESS_KEY,
                                  "secret_key", S3_SECRET_KEY, NULL },
                &d, &err))
        agent_die("no S3 client: %s", err.msg);
    for (unsigned i = 0; i < c->opt->threads * KEYS && !c->wrong; i++) {
        const struct key *k = &c->worker[i / KEYS].key[i % KEYS];
        enum larder_kind kind = bd_get(d, S3_BUCKET, k->uri + strlen("s3://" S3_BUCKET "/"), NULL, &r);
        uint64_t size = kind == LARDER_NOT_FOUND ? ABSENT : r.bytes.len;

        if (kind && kind != LARDER_NOT_FOUND)
            agent_die("the store does not answer: %s", r.err.msg);
        describe(k, may, sizeof may);
        if (!find_version(k, size ? r.bytes.p : (const uint8_t *)"", size))
            wrong(c, "%s: the store has %s%" PRIu64 " bytes, it may hold %s", k->uri,
                  size == ABSENT ? "nothing, not " : "", size, may);
        bd_result_release(&r);
    }
    bd_close(&d);
}

static unsigned count_files(const struct agent *a, const char *folder)
{
    char path[TEST_DIR_MAX + 64];
    struct dirent *e;
    unsigned n = 0;
    DIR *d;

    snprintf(path, sizeof path, "%s/%s", a->cache, folder);
    d = opendir(path);
    while (d && (e = readdir(d)))
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void expect_nothing_left(struct campaign *c, const char *when)
{
    int64_t until = ldr_deadline_ns(SETTLE_MS);
    unsigned staging, fills, notes;
    int uploads;

    for (;;) {
        staging = count_files(&c->agent, LDR_NAME_STAGING);
        fills = count_files(&c->agent, LDR_NAME_FILL);
        notes = count_files(&c->agent, LDR_NAME_UPLOADS);
        uploads = s3_server_uploads(&c->s3, true);
        if (staging + fills + notes == 0 && uploads == 0)
            return;
        if (ldr_left_ms(until) == 0)
            break;
        agent_pause();
    }
    wrong(c, "%s: %u files are left in rw/staging, %u in fill/, %u in uploads/, and %d uploads in the store", when,
          staging, fills, notes, uploads);
}

static void check_all(struct campaign *c, const char *when)
{
    for (unsigned i = 0; i < c->opt->threads * KEYS && !c->wrong; i++)
        check_key(&c->worker[i / KEYS], &c->worker[i / KEYS].key[i % KEYS], when);
}

static void show_log(const struct agent *a)
{
    char line[1024];
    long from = 0;
    FILE *f = fopen(a->log, "re");

    if (!f)
        return;
    if (fseek(f, 0, SEEK_END) == 0 && (from = ftell(f)) > 6000)
        from -= 6000;
    else
        from = 0;
    fseek(f, from, SEEK_SET);
    printf("the end of the agent's log:\n");
    while (fgets(line, sizeof line, f))
        fputs(line, stdout);
    fclose(f);
}

static void say(const struct campaign *c, double seconds)
{
    printf("%s %.0f s, seed %" PRIu64 ", %u threads:", c->control ? "control" : "stress", seconds, c->opt->seed,
           c->opt->threads);
    for (int i = 0; i < WHATS; i++)
        printf(" %s %" PRIu64 "/%" PRIu64, what_name[i], c->done[i], c->tried[i]);
    printf("\n  kinds:");
    for (int i = 0; i <= LARDER_INTERNAL; i++)
        if (c->failed[i])
            printf(" %s %" PRIu64, larder_kind_name(i), c->failed[i]);
    printf("; %" PRIu64 " checks, %" PRIu64 " reads had to be repeated; agent: %" PRIu64 " kills, %" PRIu64
           " stops; %" PRIu64 " changes of the store's faults\n",
           c->checks, c->reads_again, c->kills, c->stops, c->faults);
}

/* ---- one run; true: nothing was wrong ---- */

static void prepare(struct campaign *c)
{
    char reason[512] = "";

    test_dir_make(c->dir);
    if (!s3_server_start_test(&c->s3, c->dir, reason, sizeof reason))
        agent_die("%s", reason);
    agent_init(&c->agent, &c->s3);
    agent_set(&c->agent, "LARDER_CACHE_MAX_SIZE", "160MiB");
    agent_set(&c->agent, "LARDER_PREFIXES",
              "[{match: \"s3://" S3_BUCKET "/a/\", freshness: always},"
              " {match: \"s3://" S3_BUCKET "/i/\", freshness: immutable}]");
    agent_set(&c->agent, "LARDER_LOG_LEVEL", "info");
    agent_start(&c->agent);
    c->larder = agent_open(&c->agent);
}

static void start_workers(struct campaign *c)
{
    for (unsigned i = 0; i < c->opt->threads; i++) {
        struct worker *w = &c->worker[i];

        w->c = c;
        w->n = i;
        w->random = (c->opt->seed * 1000 + i) * 2 + 1;
        w->bytes = malloc(SIZE_MAX_);
        w->read = malloc(SIZE_MAX_);
        if (!w->bytes || !w->read)
            agent_die("out of memory");
        for (int j = 0; j < 8; j++)
            roll(&w->random, 2);
        for (unsigned j = 0; j < KEYS; j++)
            name_key(w, j);
        if (pthread_create(&w->thread, NULL, work, w))
            agent_die("could not start a thread");
    }
}

static bool campaign(const struct options *opt, double seconds, bool control)
{
    static struct campaign c; /* large; one at a time */
    bool ok;

    c = (struct campaign){ .opt = opt, .control = control, .random = opt->seed * 2 + 1 };
    pthread_mutex_init(&c.mtx, NULL);
    prepare(&c);
    start_workers(&c);
    run(&c, seconds);
    for (unsigned i = 0; i < opt->threads; i++)
        pthread_join(c.worker[i].thread, NULL);
    if (!control) {
        check_all(&c, "all faults");
        check_store(&c);
        if (!c.wrong && agent_stop(&c.agent))
            wrong(&c, "the agent did not end well");
        if (!c.wrong) {
            agent_start(&c.agent);
            expect_nothing_left(&c, "in the end");
            check_all(&c, "a restart");
        }
    }
    say(&c, seconds);
    ok = !c.wrong;
    if (!ok && !control) {
        printf("WRONG: %s\n", c.report);
        show_log(&c.agent);
        if (opt->keep)
            printf("kept: %s, %s\n", c.agent.dir, c.dir);
    } else if (!ok) {
        printf("  seen, as it should be: %.300s\n", c.report);
    }
    for (int i = 0; i < WHATS && ok && !control && seconds >= 10; i++)
        if (!c.done[i]) {
            printf("FAILED: no %s succeeded in all that time: that says nothing\n", what_name[i]);
            ok = false;
        }
    larder_close(&c.larder);
    agent_kill(&c.agent);
    s3_server_stop(&c.s3);
    if (c.wrong == false || control || !opt->keep) {
        agent_release(&c.agent);
        test_dir_remove(c.dir);
    }
    for (unsigned i = 0; i < opt->threads; i++) {
        free(c.worker[i].bytes);
        free(c.worker[i].read);
    }
    pthread_mutex_destroy(&c.mtx);
    fflush(stdout);
    return ok;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "seconds", required_argument, NULL, 's' }, { "seed", required_argument, NULL, 'S' },
        { "threads", required_argument, NULL, 'n' }, { "no-kill", no_argument, NULL, 'k' },
        { "no-control", no_argument, NULL, 'c' },    { "self-test", no_argument, NULL, 't' },
        { "keep", no_argument, NULL, 'K' },          { 0 }
    };
    const char *set = getenv("LDR_STRESS_SECONDS");
    struct options o = { .seconds = set ? atof(set) : 10,
                         .seed = (uint64_t)ldr_mono_ns() % 1000000,
                         .threads = 4,
                         .kills = true,
                         .control = true };
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (opt) {
        case 's':
            o.seconds = atof(optarg);
            break;
        case 'S':
            o.seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            o.threads = (unsigned)atoi(optarg);
            break;
        case 'k':
            o.kills = false;
            break;
        case 'c':
            o.control = false;
            break;
        case 't':
            o.self_test = true;
            break;
        case 'K':
            o.keep = true;
            break;
        default:
            return 2;
        }
    if (o.threads < 1 || o.threads > THREADS_MAX || o.seconds <= 0)
        return 2;
    if ((o.control || o.self_test) && campaign(&o, CONTROL_S, true)) {
        printf("FAILED: bytes were spoiled, and nobody saw it: this test is blind\n");
        return 1;
    }
    if (o.self_test)
        return 0;
    return campaign(&o, o.seconds, false) ? 0 : 1;
}
