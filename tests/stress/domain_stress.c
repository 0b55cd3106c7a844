/* domain_stress.c - all threads of a domain at once, made to be run under ThreadSanitizer.
 *
 *   domain_stress [--seconds N]     (or LDR_STRESS_SECONDS; default 5)
 *
 * The main thread is the ipc thread. Clients ask it for ranges of objects, heads and pieces, put, delete, and go away;
 * others change the index directly and read their own writes; others wait for room, fill, link and commit or drop blocks
 * on the pool. There is room for a part of it only, so blocks are evicted all the while. The store is fake_backend,
 * which fails now and then. Every answer is checked, the ledger at each moment, and at the end every byte of it and every
 * block file has to belong to a record. Exit 0: as it should be. */
#include "common/clock.h"
#include "common/hash.h"
#include "tests/support/domain_fixture.h"

#include <inttypes.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLIENTS    6
#define CHANGERS   2
#define FILLERS    2
#define KEYS       40 /* few, so that flights are joined and writes overlap */
#define STORE_SIZE (300 * 1000)
#define BLOCK_LOG2 16
#define MAX_BYTES  (8 * LDR_MIB)
#define MIN_STEPS  20 /* of each thread: fewer, and it was not there */

struct stress {
    struct domain_fixture f;
    atomic_bool stop;
    atomic_uint running, wrong;
    atomic_uint gets, cached, heads, chunks, puts, deletes, unknown, changes, fills, refused;
};

/* of this program: reached from threads and callbacks */
static struct stress s;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "domain_stress: %s:%d: %s\n", __FILE__, __LINE__, #condition);                             \
            atomic_fetch_add(&s.wrong, 1);                                                                             \
        }                                                                                                              \
    } while (0)

static uint64_t rnd(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem))
        ;
}

/* ---------- clients: what serve.c does, without an endpoint ---------- */

enum what { GET, HEAD, CHUNK, PUT, DELETE, WHATS };

struct job {
    struct ldr_task task;
    sem_t done;
    enum what what;
    bool leave;  /* at once */
    bool asking; /* an answer may come before the call that asks returns: the job is needed still */
    char uri[32];
    const char *key;
    size_t size;
    uint64_t offset, length, op_id;
    struct ldr_waiter waiter;
    struct ldr_write_waiter write_waiter;
    struct ldr_part part; /* PUT, large: the body goes in pieces */
    uint8_t *body;
    bool answered;
};

/* A block that the index names has its file, with the right bytes; unless it went a moment ago. */
static void check_block(const struct job *j, const struct ldr_record *r, uint32_t block)
{
    int fd = ldr_blocks_open(&s.f.domain.blocks, r, block);
    uint8_t have[1000], *want;
    uint64_t at = (uint64_t)block << BLOCK_LOG2;
    ssize_t n;

    if (fd < 0) {
        CHECK(!ldr_reader_has_block(s.f.domain.reader, &r->id, block));
        return;
    }
    n = pread(fd, have, sizeof have, 0);
    CHECK(n > 0);
    want = malloc(at + sizeof have);
    fake_body(j->key, want, at + sizeof have);
    CHECK(n > 0 && !memcmp(have, want + at, (size_t)n));
    free(want);
    close(fd);
}

static void check_record(const struct job *j)
{
    struct ldr_record r;

    if (!domain_find(&s.f, j->uri, &r))
        return; /* removed meanwhile, or a write of it was under way */
    if (r.flags & LDR_FLAG_INLINE) {
        CHECK(fake_body_is(j->key, r.payload, r.payload_len));
        return;
    }
    for (uint32_t i = 0; i < ldr_record_blocks(&r); i++)
        if (ldr_reader_has_block(s.f.domain.reader, &r.id, i))
            check_block(j, &r, i);
}

static void check_bytes(const struct job *j, const struct ldr_answer *a)
{
    uint8_t have[1000], *want = malloc(j->offset + sizeof have);
    ssize_t n = ldr_answer_bytes(a, j->offset, have, sizeof have);

    fake_body(j->key, want, j->offset + sizeof have);
    CHECK(n <= 0 || !memcmp(have, want + j->offset, (size_t)n));
    if (j->what == CHUNK)
        CHECK(n == sizeof have);
    free(want);
}

static void fetched(struct ldr_waiter *w, const struct ldr_answer *a)
{
    struct job *j = LDR_CONTAINER(w, struct job, waiter);

    CHECK(!j->answered);
    j->answered = true;
    if (a->kind) {
        CHECK(a->kind == LARDER_UNAVAILABLE);
    } else {
        CHECK(a->meta != NULL);
        if (j->what != HEAD)
            check_bytes(j, a);
        atomic_fetch_add(&s.cached, a->in_cache);
        check_record(j);
    }
    if (!j->asking)
        sem_post(&j->done);
}

static void written(struct ldr_write_waiter *w, const struct ldr_write_result *r)
{
    struct job *j = LDR_CONTAINER(w, struct job, write_waiter);

    CHECK(!j->answered);
    j->answered = true;
    CHECK(r->kind == LARDER_OK || r->kind == LARDER_OUTCOME_UNKNOWN);
    atomic_fetch_add(&s.unknown, r->kind != LARDER_OK);
    check_record(j);
    if (!j->asking)
        sem_post(&j->done);
}

/* The request is on its way, is not, or is answered already; who does not wait for its answer leaves now. */
static void asked(struct job *j, enum larder_kind k)
{
    CHECK(k == LARDER_OK);
    j->asking = false;
    if (!j->answered && (k || j->leave)) {
        ldr_flight_leave(&j->waiter);
        ldr_upload_leave(&j->write_waiter);
        j->answered = true;
    }
    if (j->answered)
        sem_post(&j->done);
}

static void put_body(struct job *j)
{
    struct ldr_name *n = domain_name(&s.f, j->uri);
    struct ldr_put_args a = { .op_id = j->op_id, .deadline_ns = LDR_NEVER, .name = n, .size = j->size };
    uint8_t *body = j->body; /* once asked, the job may be gone */

    j->asking = true;
    if (j->size <= LDR_WIRE_PART) {
        a.data = body;
        a.data_len = j->size;
    } else {
        a.upload_id = j->op_id;
    }
    asked(j, ldr_upload_put(&s.f.domain, &a, &j->write_waiter, NULL));
    free(body);
    ldr_name_unref(&n);
}

static void next_part(struct job *j);

static void part_taken(struct ldr_part *p, enum larder_kind kind, const struct larder_err *err)
{
    struct job *j = LDR_CONTAINER(p, struct job, part);

    (void)err;
    CHECK(kind == LARDER_OK);
    p->offset += p->len;
    if (p->offset < j->size)
        next_part(j);
    else
        put_body(j);
}

static void next_part(struct job *j)
{
    struct ldr_part *p = &j->part;

    p->data = j->body + p->offset;
    p->len = j->size - p->offset < LDR_WIRE_PART ? j->size - p->offset : LDR_WIRE_PART;
    CHECK(ldr_upload_part(&s.f.domain, p, NULL) == LARDER_OK);
}

static void start_put(struct job *j)
{
    j->body = malloc(j->size);
    fake_body(j->key, j->body, j->size);
    if (j->size <= LDR_WIRE_PART) {
        put_body(j);
        return;
    }
    j->part = (struct ldr_part){ .upload_id = j->op_id, .size = j->size, .answer = part_taken };
    next_part(j);
}

static void job_on_ipc(struct ldr_task *t)
{
    struct job *j = LDR_CONTAINER(t, struct job, task);
    struct ldr_domain *d = &s.f.domain;
    struct ldr_name *n = domain_name(&s.f, j->uri);
    enum larder_kind k = LARDER_OK;

    j->waiter.answer = fetched;
    j->write_waiter.answer = written;
    j->asking = true;
    j->waiter.offset = j->offset;
    j->waiter.length = j->length;
    switch (j->what) {
    case GET:
        k = ldr_flight_object(d, n, &j->waiter, NULL);
        break;
    case HEAD:
        k = ldr_flight_head(d, n, &j->waiter, NULL);
        break;
    case CHUNK:
        k = ldr_flight_chunk(d, n, j->offset, 1000, "\"any\"", &j->waiter, NULL);
        break;
    case PUT:
        ldr_name_unref(&n);
        start_put(j); /* asks when all parts are there */
        return;
    case DELETE:
        k = ldr_upload_delete(d, j->op_id, LDR_NEVER, n, &j->write_waiter, NULL);
        break;
    case WHATS:
        break;
    }
    asked(j, k);
    ldr_name_unref(&n);
}

static void *client(void *user)
{
    atomic_uint *const counts[WHATS] = { &s.gets, &s.heads, &s.chunks, &s.puts, &s.deletes };
    static const enum what wanted[] = { GET, GET, GET, GET, HEAD, HEAD, CHUNK, PUT, PUT, DELETE };
    uint64_t state = 0x9e3779b97f4a7c15 * ((uintptr_t)user + 1);

    for (unsigned i = 0; i < MIN_STEPS || !atomic_load(&s.stop); i++) {
        struct job j = { .task.run = job_on_ipc,
                         .what = wanted[rnd(&state) % LDR_ARRAY_LEN(wanted)],
                         .leave = rnd(&state) % 8 == 0,
                         .size = 1 + rnd(&state) % (rnd(&state) % 2 ? 5000 : STORE_SIZE),
                         .op_id = (uint64_t)(uintptr_t)user << 40 | (i + 1) };

        snprintf(j.uri, sizeof j.uri, "mem://b/key-%u", (unsigned)(rnd(&state) % KEYS));
        j.key = j.uri + strlen("mem://b/");
        j.offset = j.what == CHUNK ? rnd(&state) % 4 * 1000 : j.what == GET ? rnd(&state) % 200000 : 0;
        j.length = j.what == GET ? 1 + rnd(&state) % 99000 : 0;
        sem_init(&j.done, 0, 0);
        ldr_mailbox_post(&s.f.domain.ipc_box, &j.task);
        wait_for(&j.done);
        sem_destroy(&j.done);
        atomic_fetch_add(counts[j.what], 1);
    }
    atomic_fetch_sub(&s.running, 1);
    return NULL;
}

/* ---------- changes of the index ---------- */

struct wish {
    struct ldr_change c;
    sem_t done;
};

static void wish_done(struct ldr_change *c)
{
    sem_post(&LDR_CONTAINER(c, struct wish, c)->done);
}

static void change(enum ldr_change_what what, const char *key, const void *p, size_t n)
{
    struct wish w = { .c = { .what = what,
                             .key = key,
                             .key_len = strlen(key),
                             .clear_intent = what != LDR_CHANGE_INTENT,
                             .done = wish_done,
                             .record = { .flags = LDR_FLAG_INLINE,
                                         .size_bytes = n,
                                         .payload = p,
                                         .payload_len = n,
                                         .block_log2 = 20 } } };

    w.c.record.id = ldr_index_new_id(s.f.domain.index);
    sem_init(&w.done, 0, 0);
    ldr_index_change(s.f.domain.index, &w.c);
    wait_for(&w.done);
    if (w.c.kind)
        fprintf(stderr, "domain_stress: %s: %s\n", larder_kind_name(w.c.kind), w.c.err.msg);
    CHECK(w.c.kind == LARDER_OK);
    sem_destroy(&w.done);
}

static void *changer(void *user)
{
    uint64_t state = 0xda942042e4dd58b5 * ((uintptr_t)user + 1);
    struct ldr_reader *reader = NULL;
    struct ldr_index_stats stats;
    char key[40], text[4000];
    struct ldr_record r;
    uint64_t txnid;

    CHECK(ldr_reader_open(s.f.domain.index, &reader, NULL) == LARDER_OK);
    for (unsigned i = 0; i < MIN_STEPS || !atomic_load(&s.stop); i++) {
        size_t n = rnd(&state) % sizeof text;

        snprintf(key, sizeof key, "mem://own/%u/%u", (unsigned)(uintptr_t)user, (unsigned)(rnd(&state) % 20));
        memset(text, (int)(rnd(&state) % 256), sizeof text);
        if (i % 4 == 0)
            change(LDR_CHANGE_INTENT, key, NULL, 0);
        change(LDR_CHANGE_PUT, key, text, n);
        if (ldr_reader_find(reader, key, strlen(key), &r, &txnid) == LARDER_OK) /* else it was evicted already */
            CHECK(r.payload_len == n && !memcmp(r.payload, text, n));
        if (i % 3 == 0) {
            change(LDR_CHANGE_REMOVE, key, NULL, 0);
            CHECK(ldr_reader_find(reader, key, strlen(key), &r, &txnid) == LARDER_NOT_FOUND);
        }
        ldr_index_stats(s.f.domain.index, &stats);
        CHECK(stats.objects < 1000);
        atomic_fetch_add(&s.changes, 1);
    }
    ldr_reader_close(&reader);
    atomic_fetch_sub(&s.running, 1);
    return NULL;
}

/* ---------- blocks ---------- */

struct filling {
    struct ldr_task task;
    sem_t done;
    struct ldr_id id;
    size_t size;
    bool ok;
};

/* Its room is reserved. */
static void fill_on_pool(struct ldr_task *t)
{
    struct filling *w = LDR_CONTAINER(t, struct filling, task);
    struct ldr_blocks *b = &s.f.domain.blocks;
    uint8_t *p = calloc(1, w->size);
    struct ldr_fill fill;

    w->ok = ldr_fill_open(b, w->size, true, &fill, NULL) == LARDER_OK;
    if (w->ok) {
        CHECK(ldr_fill_write(&fill, p, w->size, NULL) == LARDER_OK);
        CHECK(ldr_fill_seal(&fill, NULL) == LARDER_OK);
        w->ok = w->size % 3;
        if (w->ok)
            CHECK(ldr_fill_link(&fill, &w->id, 0, NULL) == LARDER_OK);
        ldr_fill_close(&fill);
    }
    free(p);
    sem_post(&w->done);
}

static bool wait_for_room(struct ldr_mailbox *box, size_t size)
{
    struct ldr_want want = { .box = box, .size = size };

    ldr_space_want(&s.f.domain.space, &want);
    CHECK(ldr_mailbox_take(box, LDR_NEVER) == &want.task);
    CHECK(want.kind == LARDER_OK || want.kind == LARDER_LIMIT_EXCEEDED);
    atomic_fetch_add(&s.refused, want.kind != LARDER_OK);
    return want.kind == LARDER_OK;
}

static void *filler(void *user)
{
    uint64_t state = 0xbf58476d1ce4e5b9 * ((uintptr_t)user + 1);
    struct ldr_domain *d = &s.f.domain;
    struct ldr_hold *hold = NULL;
    struct ldr_mailbox box;

    ldr_mailbox_init(&box, NULL, NULL);
    for (unsigned i = 0; i < MIN_STEPS || !atomic_load(&s.stop); i++) {
        struct filling w = { .task.run = fill_on_pool, .size = 1 + rnd(&state) % LDR_MIB };
        struct wish wish;
        char key[40];

        if (!wait_for_room(&box, w.size))
            continue;
        w.id = ldr_index_new_id(d->index);
        sem_init(&w.done, 0, 0);
        ldr_pool_post(s.f.pool, &w.task);
        wait_for(&w.done);
        sem_destroy(&w.done);
        CHECK(atomic_load(&d->space.bytes) <= MAX_BYTES);
        atomic_fetch_add(&s.fills, 1);
        if (!w.ok)
            continue;
        if (w.size % 5 == 0) {
            ldr_blocks_drop(&d->blocks, &w.id, 0, w.size);
            continue;
        }
        ldr_hold_unref(&hold);
        hold = ldr_hold_new(0, 0);
        snprintf(key, sizeof key, "mem://fill/%u/%u", (unsigned)(uintptr_t)user, (unsigned)(rnd(&state) % 20));
        wish = (struct wish){ .c = { .what = LDR_CHANGE_PUT,
                                     .key = key,
                                     .key_len = strlen(key),
                                     .done = wish_done,
                                     .hold = hold,
                                     .record = { .id = w.id, .size_bytes = w.size, .block_log2 = 24 } } };
        sem_init(&wish.done, 0, 0);
        ldr_index_change(d->index, &wish.c);
        wait_for(&wish.done);
        if (wish.c.kind)
            fprintf(stderr, "domain_stress: %s: %s\n", larder_kind_name(wish.c.kind), wish.c.err.msg);
        CHECK(wish.c.kind == LARDER_OK);
        sem_destroy(&wish.done);
        atomic_store(&hold->until_ns, ldr_mono_ns() + 5 * LDR_NS_PER_MS);
    }
    ldr_hold_unref(&hold);
    ldr_mailbox_release(&box);
    atomic_fetch_sub(&s.running, 1);
    return NULL;
}

/* ---------- mailboxes that end with their last task ---------- */

struct parcel {
    struct ldr_task task;
    struct ldr_mailbox *box;
};

static void *post_once(void *user)
{
    struct parcel *p = user;

    ldr_mailbox_post(p->box, &p->task);
    return NULL;
}

/* As at the agent's stop: who took the last task may free the mailbox while its poster returns. */
static void short_lives(void)
{
    for (int i = 0; i < 200; i++) {
        struct parcel p = { .box = malloc(sizeof *p.box) };
        pthread_t t;

        ldr_mailbox_init(p.box, NULL, NULL);
        if (pthread_create(&t, NULL, post_once, &p))
            exit(2);
        CHECK(ldr_mailbox_take(p.box, LDR_NEVER) == &p.task);
        ldr_mailbox_release(p.box);
        free(p.box);
        pthread_join(t, NULL);
    }
}

/* ---------- the program ---------- */

static double seconds_wanted(int argc, char **argv)
{
    const char *env = getenv("LDR_STRESS_SECONDS");
    double n = env ? atof(env) : 5;

    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--seconds=", 10))
            n = atof(argv[i] + 10);
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            n = atof(argv[++i]);
        else
            n = -1;
    }
    return n;
}

static void start(pthread_t *t, void *(*run)(void *), uintptr_t number)
{
    if (pthread_create(t, NULL, run, (void *)number)) {
        fprintf(stderr, "domain_stress: could not start a thread\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    double seconds = seconds_wanted(argc, argv);
    pthread_t t[CLIENTS + CHANGERS + FILLERS];
    char dir[TEST_DIR_MAX];
    int64_t until, tick = 0;
    uint64_t evicted;
    bool sound;

    if (seconds <= 0) {
        fprintf(stderr, "usage: domain_stress [--seconds N]\n");
        return 2;
    }
    short_lives();
    test_dir_make(dir);
    /* Room for a part of it only, of blocks and of small objects. */
    domain_open(
        &s.f, dir,
        &(struct domain_options){
            .pool_threads = 4, .max_bytes = MAX_BYTES, .inline_bytes = 256 * LDR_KIB, .block_size = 1u << BLOCK_LOG2 });
    fake_serve_any(s.f.store, STORE_SIZE, 17);
    atomic_store(&s.running, LDR_ARRAY_LEN(t));
    for (uintptr_t i = 0; i < LDR_ARRAY_LEN(t); i++)
        start(&t[i], i < CLIENTS ? client : i < CLIENTS + CHANGERS ? changer : filler, i + 1);
    until = ldr_mono_ns() + (int64_t)(seconds * 1e9);
    while (atomic_load(&s.running)) {
        struct ldr_task *task = ldr_mailbox_take(&s.f.domain.ipc_box, ldr_mono_ns() + 10 * LDR_NS_PER_MS);

        if (task)
            task->run(task);
        if (ldr_mono_ns() >= until)
            atomic_store(&s.stop, true);
        if (ldr_mono_ns() >= tick) {
            ldr_index_tick(s.f.domain.index);
            ldr_blocks_tick(&s.f.domain.blocks);
            tick = ldr_mono_ns() + 100 * LDR_NS_PER_MS;
        }
        CHECK(atomic_load(&s.f.domain.space.bytes) <= MAX_BYTES);
        CHECK(ldr_mono_ns() < until + 120 * LDR_NS_PER_S || (abort(), false)); /* somebody was never answered */
    }
    for (size_t i = 0; i < LDR_ARRAY_LEN(t); i++)
        pthread_join(t[i], NULL);
    evicted = atomic_load(&s.f.domain.counters.evicted_blocks);
    CHECK(evicted > 0 && atomic_load(&s.f.domain.counters.evicted_objects) > 0);
    sound = domain_close(&s.f);
    test_dir_remove(dir);
    printf("domain_stress: %u gets and heads found cached, of %u gets, %u heads, %u pieces, %u puts, %u deletes (%u "
           "unknown), %u changes, %u fills (%u refused), %" PRIu64 " blocks evicted: %u wrong, %s\n",
           atomic_load(&s.cached), atomic_load(&s.gets), atomic_load(&s.heads), atomic_load(&s.chunks),
           atomic_load(&s.puts), atomic_load(&s.deletes), atomic_load(&s.unknown), atomic_load(&s.changes),
           atomic_load(&s.fills), atomic_load(&s.refused), evicted, atomic_load(&s.wrong),
           sound ? "all accounted for" : "NOT all accounted for");
    return atomic_load(&s.wrong) || !sound;
}
