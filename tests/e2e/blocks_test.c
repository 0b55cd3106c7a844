/* blocks_test.c - objects of many blocks through larderd: every size near a border by every way of reading, what a read
 * costs at the store, stores that lie or change in between, and block files that are not what they were. */
#include "tests/e2e/e2e.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define BLOCK     (64 * LDR_KIB) /* the smallest that there is */
#define PROCESSES 16
#define URI_ROOM  512

static struct {
    struct s3_server s3;
    struct agent agent;
    struct larder *l;
    char dir[TEST_DIR_MAX]; /* of the server */
    const char *base;       /* "file://box/" */
    bool local;
} t;

static char uri_text[URI_ROOM];

/* The object `key` of this test's store; valid until the next call. */
static const char *uri(const char *key)
{
    snprintf(uri_text, sizeof uri_text, "%s%s", t.base, key);
    return uri_text;
}

static void seed(const char *key, const void *p, size_t n)
{
    if (t.local)
        agent_seed_file(&t.agent, "box", key, p, n);
    else
        agent_seed_s3(&t.s3, key, p, n);
}

static uint64_t counter(const char *name)
{
    return agent_counter(&t.agent, name);
}

/* What the agent asked of the store since the last call of spent(). */
static struct {
    uint64_t gets, heads, bytes;
} spent_before;

static void spent(uint64_t *gets, uint64_t *bytes)
{
    uint64_t g = counter("store_gets"), b = counter("store_bytes_in");

    *gets = g - spent_before.gets;
    *bytes = b - spent_before.bytes;
    spent_before.gets = g;
    spent_before.bytes = b;
}

static void expect_spent(uint64_t gets, uint64_t bytes)
{
    uint64_t g, b;

    spent(&g, &b);
    cr_expect(eq(u64, g, gets), "requests");
    cr_expect(eq(u64, b, bytes), "body bytes");
}

/* ---- the stores ---- */

static void prepare_local(void)
{
    t.base = "file://box/";
    t.local = true;
    agent_init(&t.agent, NULL);
}

static void prepare_s3(bool (*start)(struct s3_server *, const char *, char *, size_t))
{
    char reason[512] = "";

    test_dir_make(t.dir);
    need_server(start(&t.s3, t.dir, reason, sizeof reason), reason);
    t.base = "s3://" S3_BUCKET "/";
    agent_init(&t.agent, &t.s3);
}

static void prepare_test_server(void)
{
    prepare_s3(s3_server_start_test);
}

static void prepare_versitygw(void)
{
    prepare_s3(s3_server_start_versitygw);
}

static void go(const char *block_size)
{
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", block_size);
    agent_start(&t.agent);
    t.l = agent_open(&t.agent);
}

/* An agent that died is what a test should tell first. */
static void show_death(void)
{
    char line[1024];
    FILE *f;

    if (!t.agent.pid || agent_alive(&t.agent))
        return;
    fprintf(stderr, "the agent died, its log ends with:\n");
    f = fopen(t.agent.log, "re");
    if (f && fseek(f, -6000, SEEK_END))
        rewind(f);
    while (f && fgets(line, sizeof line, f))
        fputs(line, stderr);
    if (f)
        fclose(f);
}

static void leave(void)
{
    show_death();
    larder_close(&t.l);
    agent_release(&t.agent);
    s3_server_stop(&t.s3);
    test_dir_remove(t.dir);
}

TestSuite(e2e_blocks, .fini = leave, .timeout = 60);

#define FOR_EVERY_STORE(name)                                                                                          \
    static void name(void);                                                                                            \
    Test(e2e_blocks, name##__local)                                                                                    \
    {                                                                                                                  \
        prepare_local();                                                                                               \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(e2e_blocks, name##__s3_on_test_server)                                                                        \
    {                                                                                                                  \
        prepare_test_server();                                                                                         \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(e2e_blocks, name##__s3_on_versitygw)                                                                          \
    {                                                                                                                  \
        prepare_versitygw();                                                                                           \
        name();                                                                                                        \
    }                                                                                                                  \
    static void name(void)

/* ---- ways of reading; each gives the whole object or fails ---- */

struct way {
    const char *name;
    enum larder_kind (*read)(struct larder *l, const char *u, uint8_t *out, size_t cap, uint64_t *n,
                             struct larder_err *err);
};

/* Copy a view out and free it. */
static void take_view(struct larder_object **o, uint8_t *out, size_t cap, uint64_t *n)
{
    *n = larder_object_size(*o);
    if (*n <= cap)
        memcpy(out, larder_object_data(*o), *n);
    larder_object_free(o);
}

static enum larder_kind by_get(struct larder *l, const char *u, uint8_t *out, size_t cap, uint64_t *n,
                               struct larder_err *err)
{
    struct larder_object *o = NULL;
    enum larder_kind k = larder_get(l, u, LONG_MS, &o, err);

    if (!k)
        take_view(&o, out, cap, n);
    return k;
}

static enum larder_kind by_get_into(struct larder *l, const char *u, uint8_t *out, size_t cap, uint64_t *n,
                                    struct larder_err *err)
{
    return larder_get_into(l, u, out, cap, LONG_MS, n, err);
}

struct sink {
    uint8_t *out;
    size_t cap;
    uint64_t next, size, calls;
    void (*between)(uint64_t offset); /* before each piece but the first */
    bool wrong;
};

static enum larder_kind take_piece(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct sink *s = user;

    if (s->calls++ && s->between)
        s->between(offset);
    s->wrong |= offset != s->next || (s->calls > 1 && size != s->size) || n > s->cap - offset;
    s->size = size;
    if (!s->wrong && n)
        memcpy(s->out + offset, p, n);
    s->next += n;
    return LARDER_OK;
}

static enum larder_kind by_stream(struct larder *l, const char *u, uint8_t *out, size_t cap, uint64_t *n,
                                  struct larder_err *err)
{
    struct sink s = { .out = out, .cap = cap };
    enum larder_kind k = larder_stream(l, u, LONG_MS, take_piece, &s, err);

    if (!k && (s.wrong || s.calls == 0 || s.next != s.size))
        return ldr_fail(err, LARDER_INTERNAL, "pieces out of order, or not all");
    *n = s.next;
    return k;
}

static enum larder_kind by_range(struct larder *l, const char *u, uint8_t *out, size_t cap, uint64_t *n,
                                 struct larder_err *err)
{
    struct larder_object *o = NULL;
    enum larder_kind k = larder_get_range(l, u, 0, cap, LONG_MS, &o, err);

    if (!k)
        take_view(&o, out, cap, n);
    return k;
}

/* In steps that fit no block. */
static enum larder_kind by_read(struct larder *l, const char *u, uint8_t *out, size_t cap, uint64_t *n,
                                struct larder_err *err)
{
    const size_t step = 50000;
    uint64_t at = 0, total = 0;
    size_t got = step;
    enum larder_kind k = LARDER_OK;

    while (!k && got == step) {
        k = larder_read(l, u, at, out + at, cap - at < step ? cap - at : step, LONG_MS, &got, &total, err);
        if (!k)
            at += got;
    }
    if (!k && at != total)
        return ldr_fail(err, LARDER_INTERNAL, "read %" PRIu64 " of %" PRIu64 " bytes", at, total);
    *n = at;
    return k;
}

static enum larder_kind by_get_many(struct larder *l, const char *u, uint8_t *out, size_t cap, uint64_t *n,
                                    struct larder_err *err)
{
    struct larder_result r[2];
    enum larder_kind k = larder_get_many(l, (const char *[]){ u, u }, 2, LONG_MS, r, err);

    if (!k &&
        (larder_object_size(r[0].object) != larder_object_size(r[1].object) ||
         memcmp(larder_object_data(r[0].object), larder_object_data(r[1].object), larder_object_size(r[0].object))))
        k = ldr_fail(err, LARDER_PRECONDITION, "it changed between two answers of one call");
    if (!k)
        take_view(&r[0].object, out, cap, n);
    for (int i = 0; i < 2; i++)
        larder_object_free(&r[i].object);
    return k;
}

static const struct way ways[] = { { "get", by_get },     { "get_into", by_get_into }, { "stream", by_stream },
                                   { "range", by_range }, { "read", by_read },         { "get_many", by_get_many } };
#define WAYS LDR_ARRAY_LEN(ways)

static void expect_way(struct larder *l, const struct way *w, const char *u, const uint8_t *want, size_t n)
{
    size_t cap = n + 4096;
    uint8_t *out = malloc(cap);
    struct larder_err err = { 0 };
    uint64_t got = UINT64_MAX;
    enum larder_kind k;

    cr_assert(out != NULL);
    memset(out, 0xa5, cap);
    k = w->read(l, u, out, cap, &got, &err);
    cr_assert(eq(int, k, LARDER_OK), "%s of %zu bytes, %s: %s", w->name, n, u, err.msg);
    cr_assert(eq(u64, got, n), "%s of %s", w->name, u);
    cr_assert(eq(int, memcmp(out, want, n), 0), "%s of %zu bytes, %s: other bytes", w->name, n, u);
    free(out);
}

/* ---- every size, by every way ---- */

/* The largest object that is kept in the index itself: a probe below and above, closer each time. */
static size_t inline_border(const uint8_t *bytes)
{
    size_t low = 1, high = 20464;

    while (high - low > 1) {
        size_t n = (low + high) / 2;
        uint64_t before = counter("block_files");
        char key[64];

        /* as long as the keys of the objects that follow: the key is no part of the record, but of the ETag's luck */
        snprintf(key, sizeof key, "probe-%06zu-%d", n, 0);
        seed(key, bytes, n);
        expect_bytes(t.l, uri(key), bytes, n);
        if (counter("block_files") > before)
            high = n;
        else
            low = n;
    }
    return low;
}

FOR_EVERY_STORE(every_way_of_reading_gives_the_right_bytes_at_every_size)
{
    uint8_t *bytes = bd_bytes(4 * BLOCK, 1);
    size_t sizes[] = { 0, 1, 0, 0, 0, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 1 };
    const size_t n = LDR_ARRAY_LEN(sizes);
    size_t border;

    go("64KiB");
    border = inline_border(bytes);
    cr_expect(border < 20464 - 88 && border > 20464 - 88 - 400, "%zu bytes beside a head of 88 and its fields", border);
    for (size_t i = 0; i < 3; i++)
        sizes[2 + i] = border - 1 + i;
    for (size_t i = 0; i < n; i++)
        for (size_t w = 0; w < WAYS; w++) { /* an object of its own for each way, so that each meets a cold one */
            struct larder *other;
            uint64_t asks;
            char key[64];

            snprintf(key, sizeof key, "probe-%06zu-%zu", sizes[i], w + 1);
            seed(key, bytes + w, sizes[i]);
            expect_way(t.l, &ways[w], uri(key), bytes + w, sizes[i]);
            other = agent_open(&t.agent);
            for (size_t v = 0; v < WAYS; v++)
                expect_way(other, &ways[v], uri(key), bytes + w, sizes[i]);
            asks = counts_of(other).asks;
            cr_expect(eq(u64, asks, 0), "%s of %zu bytes left something to be fetched", ways[w].name, sizes[i]);
            larder_close(&other);
        }
    free(bytes);
}

Test(e2e_blocks, sizes_around_a_block_of_the_default_size_are_read_right)
{
    const size_t block = LDR_BLOCK_SIZE_DEFAULT;
    const size_t sizes[] = { block - 1, block, block + 1, 2 * block + 1 };
    uint8_t *bytes = bd_bytes(2 * block + 1, 2);

    prepare_local();
    go("8MiB");
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char key[32];

        snprintf(key, sizeof key, "k%zu", i);
        seed(key, bytes, sizes[i]);
        expect_way(t.l, &ways[i % WAYS], uri(key), bytes, sizes[i]);
        expect_way(t.l, &ways[0], uri(key), bytes, sizes[i]);
    }
    cr_expect(eq(u64, counter("store_gets"), 1 + 1 + 2 + 3));
    free(bytes);
}

FOR_EVERY_STORE(many_objects_in_one_call_are_all_answered)
{
    enum { N = 300 }; /* more than one request to the agent carries */
    uint8_t *bytes = bd_bytes(3 * BLOCK, 3);
    char(*uris)[64] = calloc(N, sizeof *uris);
    const char **list = calloc(N, sizeof *list);
    struct larder_result *r = calloc(N, sizeof *r);
    struct larder_err err = { 0 };
    size_t missing = 0;

    cr_assert(uris && list && r);
    for (int i = 0; i < 40; i++) {
        char key[32];

        snprintf(key, sizeof key, "k%d", i);
        seed(key, bytes, (size_t)i * 4999);
    }
    go("64KiB");
    for (int i = 0; i < N; i++) { /* k0 … k39, again and again; every seventh is not there */
        snprintf(uris[i], sizeof uris[i], "%s%s%d", t.base, i % 7 == 6 ? "none" : "k", i % 40);
        list[i] = uris[i];
    }
    for (int round = 0; round < 2; round++) {
        missing = 0;
        cr_expect(eq(int, larder_get_many(t.l, list, N, LONG_MS, r, &err), LARDER_NOT_FOUND), "%s", err.msg);
        for (int i = 0; i < N; i++) {
            if (i % 7 == 6) {
                cr_expect(eq(int, r[i].kind, LARDER_NOT_FOUND), "%s: %s", list[i], r[i].err.msg);
                cr_expect(r[i].object == NULL);
                missing++;
                continue;
            }
            cr_assert(eq(int, r[i].kind, LARDER_OK), "%s: %s", list[i], r[i].err.msg);
            cr_assert(eq(u64, larder_object_size(r[i].object), (uint64_t)(i % 40) * 4999), "%s", list[i]);
            cr_assert(eq(int, memcmp(larder_object_data(r[i].object), bytes, (size_t)(i % 40) * 4999), 0));
            larder_object_free(&r[i].object);
        }
    }
    cr_expect(missing > 0);
    free(uris);
    free(list);
    free(r);
    free(bytes);
}

/* ---- ranges ---- */

static void expect_range(struct larder *l, const char *u, const uint8_t *all, uint64_t size, uint64_t offset,
                         uint64_t length)
{
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    uint64_t from = offset < size ? offset : size, left = size - from;
    uint64_t want = length && length < left ? length : left;

    cr_assert(eq(int, larder_get_range(l, u, offset, length, LONG_MS, &o, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(u64, larder_object_size(o), want), "[%" PRIu64 ", +%" PRIu64 ")", offset, length);
    cr_expect(eq(u64, larder_object_total(o), size));
    if (want)
        cr_expect(eq(u64, larder_object_offset(o), from));
    cr_assert(eq(int, memcmp(larder_object_data(o), all + from, want), 0), "[%" PRIu64 ", +%" PRIu64 ")", offset,
              length);
    larder_object_free(&o);
}

static void expect_read(struct larder *l, const char *u, const uint8_t *all, uint64_t size, uint64_t offset, size_t len)
{
    uint8_t *out = malloc(len + 1);
    struct larder_err err = { 0 };
    uint64_t total = 0, left = offset < size ? size - offset : 0;
    size_t got = len + 1;

    cr_assert(out != NULL);
    cr_assert(eq(int, larder_read(l, u, offset, out, len, LONG_MS, &got, &total, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(u64, got, len < left ? len : left), "[%" PRIu64 ", +%zu)", offset, len);
    cr_expect(eq(u64, total, size));
    if (got)
        cr_assert(eq(int, memcmp(out, all + offset, got), 0), "[%" PRIu64 ", +%zu)", offset, len);
    free(out);
}

FOR_EVERY_STORE(a_range_costs_the_blocks_that_it_touches_and_no_other)
{
    const uint64_t size = 10 * BLOCK + 100;
    uint8_t *bytes = bd_bytes(size, 4);
    const char *u;

    seed("a", bytes, size);
    go("64KiB");
    u = uri("a");
    expect_range(t.l, u, bytes, size, 3 * BLOCK + 10, BLOCK);
    expect_spent(2, 2 * BLOCK);
    expect_range(t.l, u, bytes, size, 3 * BLOCK, 2 * BLOCK);
    expect_range(t.l, u, bytes, size, 5 * BLOCK - 1, 1);
    expect_spent(0, 0);
    expect_read(t.l, u, bytes, size, 7 * BLOCK + 5, 1);
    expect_spent(1, BLOCK);
    expect_range(t.l, u, bytes, size, 10 * BLOCK + 99, 0); /* the last, short one */
    expect_spent(1, 100);
    expect_read(t.l, u, bytes, size, size, 10); /* at the end, and behind it */
    expect_range(t.l, u, bytes, size, size + 12345, 10);
    expect_read(t.l, u, bytes, size, UINT64_MAX, 10);
    expect_spent(0, 0);
    expect_range(t.l, u, bytes, size, 0, UINT64_MAX);
    expect_spent(7, 7 * BLOCK); /* what was not there yet */
    cr_expect(eq(u64, counter("store_heads"), 0));
    cr_expect(eq(u64, counter("block_files"), 11));
    free(bytes);
}

FOR_EVERY_STORE(a_first_range_behind_the_end_or_of_an_empty_object_is_empty)
{
    seed("empty", "", 0);
    seed("short", "hello", 5);
    go("64KiB");
    expect_range(t.l, uri("empty"), (const uint8_t *)"", 0, 3 * BLOCK, 10);
    expect_range(t.l, uri("empty"), (const uint8_t *)"", 0, 0, 0);
    expect_read(t.l, uri("short"), (const uint8_t *)"hello", 5, 9 * BLOCK, 10);
    expect_range(t.l, uri("short"), (const uint8_t *)"hello", 5, 3, 10);
    expect_read(t.l, uri("short"), (const uint8_t *)"hello", 5, 1, 0);
}

FOR_EVERY_STORE(random_ranges_fetch_each_block_once)
{
    const uint64_t size = 16 * BLOCK + 7;
    uint8_t *bytes = bd_bytes(size, 5);
    uint64_t state = 88172645463325252, touched = 0, gets, in;
    const char *u;

    seed("a", bytes, size);
    go("64KiB");
    u = uri("a");
    for (int i = 0; i < 100; i++) {
        uint64_t offset, length;

        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        offset = state % size;
        length = 1 + (state >> 32) % (3 * BLOCK);
        if (length > size - offset)
            length = size - offset;
        for (uint64_t b = offset / BLOCK; b <= (offset + length - 1) / BLOCK; b++)
            touched |= UINT64_C(1) << b;
        if (i % 2)
            expect_range(t.l, u, bytes, size, offset, length);
        else
            expect_read(t.l, u, bytes, size, offset, length);
    }
    /* A range that happens to begin where another ended may fetch ahead: no more than all of it, once. */
    agent_wait_until(counter("block_files") >= (uint64_t)__builtin_popcountll(touched));
    spent(&gets, &in);
    cr_expect(gets >= (uint64_t)__builtin_popcountll(touched) && gets <= 17, "%" PRIu64 " requests", gets);
    cr_expect(in <= size, "%" PRIu64 " bytes", in);
    free(bytes);
}

FOR_EVERY_STORE(a_sequential_reader_is_read_ahead_and_costs_nothing_twice)
{
    const uint64_t size = 32 * BLOCK;
    uint8_t *bytes = bd_bytes(size, 6);
    const char *u;

    seed("a", bytes, size);
    go("64KiB");
    u = uri("a");
    for (uint64_t at = 0; at < size; at += 16 * LDR_KIB)
        expect_read(t.l, u, bytes, size, at, 16 * LDR_KIB);
    expect_spent(32, size);
    cr_expect(counter("blocks_ahead") > 0);
    cr_expect(counts_of(t.l).asks < 32, "it asked for each block: %" PRIu64, counts_of(t.l).asks);
    free(bytes);
}

Test(e2e_blocks, a_reader_that_jumps_about_is_not_read_ahead)
{
    const uint64_t size = 64 * BLOCK;
    uint8_t *bytes = bd_bytes(size, 7);

    prepare_test_server();
    seed("a", bytes, size);
    go("64KiB");
    for (uint64_t i = 0; i < 20; i++) /* 0, 27, 54, 17, …: no two neighbours, in no order */
        expect_read(t.l, uri("a"), bytes, size, i * 27 % 64 * BLOCK + 100, 1000);
    expect_spent(20, 20 * BLOCK);
    cr_expect(eq(u64, counter("blocks_ahead"), 0));
    free(bytes);
}

/* ---- many at once ---- */

/* PROCESSES children that call `read`; true in each: right. All reached the agent, and it the store, before the store
 * answers the first. */
static void herd(const char *name, bool (*read)(struct larder *l, int i))
{
    pid_t pids[PROCESSES];

    cr_assert(s3_server_hold(&t.s3, name));
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = child();
        if (pids[i] == 0) {
            struct larder *l = agent_open(&t.agent);
            bool ok = read(l, i);

            larder_close(&l);
            _exit(ok ? 0 : 1);
        }
    }
    agent_wait_counter(&t.agent, "gets", PROCESSES);
    agent_wait_until(s3_server_waiting(&t.s3) >= 1);
    cr_expect(eq(int, s3_server_waiting(&t.s3), 1), "one request opens the object, the others wait for it");
    cr_assert(s3_server_release(&t.s3, name));
    for (int i = 0; i < PROCESSES; i++)
        cr_expect(eq(int, join_child(pids[i]), 0), "process %d", i);
}

static struct {
    uint8_t *bytes;
    uint64_t size;
} herded;

static bool read_herded(struct larder *l, int i)
{
    uint64_t n = 0;
    uint8_t *out = malloc(herded.size);
    struct larder_err err = { 0 };
    enum larder_kind k = ways[(size_t)i % WAYS].read(l, "s3://" S3_BUCKET "/held", out, herded.size, &n, &err);
    bool ok = !k && n == herded.size && !memcmp(out, herded.bytes, n);

    if (!ok)
        fprintf(stderr, "%s: %d %" PRIu64 " bytes: %s\n", ways[(size_t)i % WAYS].name, k, n, err.msg);
    free(out);
    return ok;
}

static void expect_herd(const char *block_size, uint64_t block, uint64_t size)
{
    herded.size = size;
    herded.bytes = bd_bytes(size, 8);
    prepare_test_server();
    seed("held", herded.bytes, size);
    go(block_size);
    herd(S3_BUCKET "/held", read_herded);
    expect_spent((size + block - 1) / block, size);
    cr_expect(le(u64, counter("store_heads"), 1), "for the checksum");
    cr_expect(eq(int, s3_server_count(&t.s3, "GET", S3_BUCKET "/held"), (int)((size + block - 1) / block)));
    free(herded.bytes);
}

Test(e2e_blocks, sixteen_processes_fetch_a_cold_object_of_many_blocks_once)
{
    expect_herd("64KiB", BLOCK, 40 * BLOCK + 1234);
}

Test(e2e_blocks, sixteen_processes_fetch_a_cold_object_of_large_blocks_once)
{
    expect_herd("1MiB", LDR_MIB, 16 * LDR_MIB);
}

static bool read_own_block(struct larder *l, int i)
{
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    uint64_t at = (uint64_t)i * 2 * BLOCK;
    bool ok = larder_get_range(l, "s3://" S3_BUCKET "/held", at, BLOCK, LONG_MS, &o, &err) == LARDER_OK &&
              larder_object_size(o) == BLOCK && !memcmp(larder_object_data(o), herded.bytes + at, BLOCK);

    if (!ok)
        fprintf(stderr, "block %d: %s\n", 2 * i, err.msg);
    larder_object_free(&o);
    return ok;
}

Test(e2e_blocks, ranges_of_an_object_that_is_being_opened_wait_for_the_one_request)
{
    herded.size = 2 * PROCESSES * BLOCK;
    herded.bytes = bd_bytes(herded.size, 9);
    prepare_test_server();
    seed("held", herded.bytes, herded.size);
    go("64KiB");
    herd(S3_BUCKET "/held", read_own_block);
    /* each its own block; the one that opened the object was somebody's, or told what it is */
    expect_spent(PROCESSES, PROCESSES * BLOCK);
    cr_expect(eq(u64, counter("store_heads"), 0));
    free(herded.bytes);
}

/* ---- a store that lies, or cannot say ---- */

/* The failures that a store's fault may be told as. */
static bool is_clear(enum larder_kind k, const struct larder_err *err)
{
    return (k == LARDER_UNAVAILABLE || k == LARDER_PRECONDITION || k == LARDER_CORRUPT || k == LARDER_UNSUPPORTED) &&
           err->msg[0];
}

/* Read by every way; each gives exactly `bytes`, or a clear error. Returns how many gave them. */
static unsigned right_or_clear(const uint8_t *bytes, uint64_t size)
{
    uint8_t *out = malloc(size + 1);
    unsigned right = 0;

    cr_assert(out != NULL);
    for (size_t w = 0; w < WAYS; w++) {
        struct larder *l = agent_open(&t.agent);
        struct larder_err err = { 0 };
        uint64_t n = 0;
        enum larder_kind k;

        memset(out, 0xa5, size + 1);
        k = ways[w].read(l, uri("a"), out, size + 1, &n, &err);
        cr_expect(k == LARDER_OK || is_clear(k, &err), "%s: %s: %s", ways[w].name, larder_kind_name(k), err.msg);
        if (!k) {
            cr_expect(eq(u64, n, size), "%s", ways[w].name);
            cr_expect(n == size && !memcmp(out, bytes, size), "%s: other bytes", ways[w].name);
            right++;
        }
        larder_close(&l);
    }
    free(out);
    return right;
}

/* Rules, then a first range from block `first`, then every way; `ok`: whether the bytes must come. */
static void expect_fault(const char *rules, uint64_t first_block, bool ok)
{
    const uint64_t size = 10 * BLOCK + 77;
    uint8_t *bytes = bd_bytes(size, 10);
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    enum larder_kind k;
    unsigned right;

    prepare_test_server();
    seed("a", bytes, size);
    go("64KiB");
    cr_assert(s3_server_rules(&t.s3, rules));
    k = larder_get_range(t.l, uri("a"), first_block * BLOCK, 100, LONG_MS, &o, &err);
    cr_expect(k == LARDER_OK || is_clear(k, &err), "%s: %s", larder_kind_name(k), err.msg);
    if (!k) {
        cr_assert(eq(u64, larder_object_size(o), 100));
        cr_expect(eq(int, memcmp(larder_object_data(o), bytes + first_block * BLOCK, 100), 0));
    }
    larder_object_free(&o);
    right = right_or_clear(bytes, size);
    if (ok)
        cr_expect(eq(uint, right, WAYS), "all of these could be had");
    cr_assert(s3_server_rules(&t.s3, "[]")); /* the store is well again: nothing wrong was kept */
    cr_expect(eq(uint, right_or_clear(bytes, size), WAYS));
    free(bytes);
}

#define FIRST_IS_RIGHT "{\"method\": \"GET\", \"action\": \"delay_ms\", \"ms\": 0, \"count\": 1},"

Test(e2e_blocks, a_store_that_ignores_ranges_is_read_right_from_the_start)
{
    expect_fault("[{\"method\": \"GET\", \"action\": \"ignore_range\"}]", 0, false);
}

Test(e2e_blocks, a_store_that_ignores_ranges_is_not_believed_in_the_middle)
{
    expect_fault("[{\"method\": \"GET\", \"action\": \"ignore_range\"}]", 4, false);
}

Test(e2e_blocks, a_store_that_begins_to_ignore_ranges_is_not_believed)
{
    expect_fault("[" FIRST_IS_RIGHT "{\"method\": \"GET\", \"action\": \"ignore_range\"}]", 4, false);
}

Test(e2e_blocks, another_content_range_than_asked_for_is_an_error)
{
    expect_fault("[{\"method\": \"GET\", \"action\": \"wrong_range\"}]", 2, false);
}

Test(e2e_blocks, another_content_range_of_a_further_block_is_an_error)
{
    expect_fault("[" FIRST_IS_RIGHT "{\"method\": \"GET\", \"action\": \"wrong_range\", \"first\": 1, \"last\": 0}]", 2,
                 false);
}

Test(e2e_blocks, another_total_of_a_further_block_is_an_error)
{
    expect_fault("[" FIRST_IS_RIGHT "{\"method\": \"GET\", \"action\": \"wrong_range\", \"first\": 0, \"total\": 1}]",
                 2, false);
}

Test(e2e_blocks, an_unknown_total_of_a_further_block_is_an_error_or_no_matter)
{
    expect_fault("[" FIRST_IS_RIGHT
                 "{\"method\": \"GET\", \"action\": \"wrong_range\", \"first\": 0, \"total\": \"*\"}]",
                 2, false);
}

Test(e2e_blocks, another_etag_of_a_further_block_is_an_error)
{
    expect_fault("[" FIRST_IS_RIGHT "{\"method\": \"GET\", \"action\": \"wrong_etag\"}]", 2, false);
}

Test(e2e_blocks, a_short_body_of_a_block_is_asked_for_again)
{
    expect_fault("[" FIRST_IS_RIGHT
                 "{\"method\": \"GET\", \"action\": \"truncate_body\", \"bytes\": 1000, \"count\": 2}]",
                 2, true);
}

Test(e2e_blocks, an_outage_between_two_blocks_is_waited_for)
{
    expect_fault("[" FIRST_IS_RIGHT
                 "{\"method\": \"GET\", \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\", \"count\": 3},"
                 "{\"method\": \"GET\", \"action\": \"reset\", \"count\": 1}]",
                 2, true);
}

Test(e2e_blocks, a_store_with_weak_etags_only_is_read_by_one_request)
{
    const uint64_t size = 10 * BLOCK + 77;
    uint8_t *bytes = bd_bytes(size, 10);
    uint64_t gets, in;

    prepare_test_server();
    seed("a", bytes, size);
    go("64KiB");
    cr_assert(s3_server_rules(&t.s3, "[{\"method\": \"GET\", \"action\": \"weak_etag\"}]"));
    expect_bytes(t.l, uri("a"), bytes, size);
    spent(&gets, &in);
    cr_expect(gets <= 2, "%" PRIu64 " requests: one that shows that the ETag is weak, one for all of it", gets);
    cr_expect(in <= size + BLOCK, "%" PRIu64 " bytes", in);
    cr_expect(eq(uint, right_or_clear(bytes, size), WAYS));
    expect_spent(0, 0);
    free(bytes);
}

Test(e2e_blocks, a_range_of_an_object_with_a_weak_etag_is_right)
{
    expect_fault("[{\"method\": \"GET\", \"action\": \"weak_etag\"}]", 4, true);
}

/* ---- overwritten at the store ---- */

Test(e2e_blocks, an_object_overwritten_between_two_blocks_is_read_as_one_version)
{
    const uint64_t size = 10 * BLOCK;
    uint8_t *one = bd_bytes(size, 11), *two = bd_bytes(size, 12);
    struct larder_object *before = NULL;
    struct larder_err err = { 0 };

    prepare_test_server();
    seed("a", one, size);
    go("64KiB");
    cr_assert(eq(int, larder_get_range(t.l, uri("a"), 2 * BLOCK, BLOCK, LONG_MS, &before, &err), LARDER_OK));
    seed("a", two, size);
    expect_bytes(t.l, uri("a"), two, size); /* its third block of the old version is of no use */
    cr_expect(eq(int, memcmp(larder_object_data(before), one + 2 * BLOCK, BLOCK), 0), "a view never changes");
    larder_object_free(&before);
    for (size_t w = 0; w < WAYS; w++)
        expect_way(t.l, &ways[w], uri("a"), two, size);
    free(one);
    free(two);
}

Test(e2e_blocks, an_object_that_becomes_shorter_or_longer_is_read_as_one_version)
{
    const uint64_t sizes[] = { 10 * BLOCK, 3 * BLOCK + 5, 100, 20 * BLOCK, 0, 10 * BLOCK };

    prepare_test_server();
    seed("a", "x", 1);
    go("64KiB");
    expect_text(t.l, uri("a"), "x");
    cr_assert(eq(int, larder_delete(t.l, uri("a"), LONG_MS, NULL), LARDER_OK));
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        uint8_t *bytes = bd_bytes(sizes[i] + 1, 20 + i);

        if (i == 0 || sizes[i - 1] < BLOCK) { /* all of it was cached, for ever: make that forgotten */
            cr_assert(eq(int, larder_delete(t.l, uri("a"), LONG_MS, NULL), LARDER_OK));
            seed("a", bytes, sizes[i]);
            expect_range(t.l, uri("a"), bytes, sizes[i], BLOCK, 10);
        } else { /* a part of the last one is cached */
            seed("a", bytes, sizes[i]);
            expect_bytes(t.l, uri("a"), bytes, sizes[i]);
            cr_assert(eq(int, larder_delete(t.l, uri("a"), LONG_MS, NULL), LARDER_OK));
            seed("a", bytes, sizes[i]);
            expect_range(t.l, uri("a"), bytes, sizes[i], BLOCK, 10);
        }
        free(bytes);
    }
}

Test(e2e_blocks, an_object_deleted_between_two_blocks_is_not_found)
{
    const uint64_t size = 10 * BLOCK;
    uint8_t *one = bd_bytes(size, 13);
    struct larder_err err = { 0 };
    struct bd *d = NULL;
    struct bd_result r;

    prepare_test_server();
    seed("a", one, size);
    go("64KiB");
    expect_range(t.l, uri("a"), one, size, 2 * BLOCK, BLOCK);
    cr_assert(eq(int,
                 bd_open("s3", "s3",
                         (const char *[]){ "endpoint", t.s3.endpoint, "region", "us-east-1", "access_key_id",
                                           S3_ACCESS_KEY, "secret_key", S3_SECRET_KEY, NULL },
                         &d, &err),
                 LARDER_OK));
    cr_assert(eq(int, bd_delete(d, S3_BUCKET, "a", &r), LARDER_OK));
    bd_result_release(&r);
    bd_close(&d);
    expect_kind(t.l, uri("a"), LONG_MS, LARDER_NOT_FOUND, NULL);
    free(one);
}

/* Overwrites object "a" with one of two versions, as fast as it can. */
struct writer {
    const uint8_t *version[2];
    uint64_t size[2];
    atomic_bool stop;
    unsigned rounds;
};

static void *overwrite(void *user)
{
    struct writer *w = user;

    while (!w->stop) {
        unsigned v = ++w->rounds % 2;

        seed("a", w->version[v], w->size[v]);
    }
    return NULL;
}

static int version_of(const struct writer *w, const uint8_t *p, uint64_t n)
{
    for (int v = 0; v < 2; v++)
        if (n == w->size[v] && !memcmp(p, w->version[v], n))
            return v;
    return -1;
}

static void expect_one_version(uint64_t size0, uint64_t size1)
{
    uint64_t most = size0 > size1 ? size0 : size1;
    struct writer w = { .version = { bd_bytes(size0, 14), bd_bytes(size1, 15) }, .size = { size0, size1 } };
    uint8_t *out = malloc(most + 1);
    unsigned right = 0, failed = 0;
    int64_t until;
    pthread_t thread;

    cr_assert(out != NULL);
    agent_set(&t.agent, "LARDER_PREFIXES",
              "[{match: \"file://\", freshness: always}, {match: \"s3://\", freshness: always}]");
    seed("a", w.version[0], size0);
    go("64KiB");
    cr_assert(eq(int, pthread_create(&thread, NULL, overwrite, &w), 0));
    until = ldr_deadline_ns(3000);
    for (size_t i = 0; ldr_left_ms(until); i++) {
        struct larder_err err = { 0 };
        char u[URI_ROOM];
        uint64_t n = 0;
        enum larder_kind k;

        snprintf(u, sizeof u, "%sa", t.base); /* uri() is not for two threads */
        k = ways[i % WAYS].read(t.l, u, out, most + 1, &n, &err);
        if (ways[i % WAYS].read == by_read)
            continue; /* many calls: each is of one version, all of them need not be */
        if (k) {
            failed++;
            cr_expect(k == LARDER_PRECONDITION || k == LARDER_UNAVAILABLE, "%s: %s: %s", ways[i % WAYS].name,
                      larder_kind_name(k), err.msg);
        } else {
            right++;
            cr_assert(version_of(&w, out, n) >= 0, "%s: a mix of two versions, %" PRIu64 " bytes", ways[i % WAYS].name,
                      n);
        }
    }
    w.stop = true;
    pthread_join(thread, NULL);
    cr_expect(right > 0 && w.rounds > 1, "%u right, %u failed, %u versions", right, failed, w.rounds);
    for (int v = 0; v < 2; v++) /* the last word is the store's */
        if (w.rounds % 2 == (unsigned)v)
            expect_bytes(t.l, uri("a"), w.version[v], w.size[v]);
    free((void *)(uintptr_t)w.version[0]);
    free((void *)(uintptr_t)w.version[1]);
    free(out);
}

Test(e2e_blocks, an_object_overwritten_all_the_time_is_read_as_one_version__s3_on_test_server)
{
    prepare_test_server();
    expect_one_version(12 * BLOCK, 12 * BLOCK);
}

Test(e2e_blocks, an_object_overwritten_all_the_time_is_read_as_one_version__s3_on_versitygw)
{
    prepare_versitygw();
    expect_one_version(12 * BLOCK, 7 * BLOCK + 1);
}

static struct {
    const uint8_t *bytes;
    uint64_t size;
    bool done;
} replacement;

static void replace_once(uint64_t offset)
{
    (void)offset;
    if (!replacement.done)
        seed("a", replacement.bytes, replacement.size);
    replacement.done = true;
}

Test(e2e_blocks, a_stream_of_an_object_that_is_replaced_goes_on_with_its_version_or_ends)
{
    const uint64_t size = 40 * LDR_MIB;
    uint8_t *one = bd_bytes(size, 16), *two = bd_bytes(size, 17), *out = malloc(size);
    struct sink s = { .out = out, .cap = size, .between = replace_once };
    struct larder_err err = { 0 };
    enum larder_kind k;

    prepare_test_server();
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "16MiB"); /* it goes through, and is never there as a whole */
    seed("a", one, size);
    go("1MiB");
    replacement.bytes = two;
    replacement.size = size;
    k = larder_stream(t.l, uri("a"), LONG_MS, take_piece, &s, &err);
    cr_expect(k == LARDER_OK || k == LARDER_PRECONDITION, "%s: %s", larder_kind_name(k), err.msg);
    cr_expect(s.next > 0 && !s.wrong);
    cr_expect(eq(int, memcmp(out, one, s.next), 0), "what was delivered is of the first version");
    if (!k)
        cr_expect(eq(u64, s.next, size));
    else
        cr_expect(has(err.msg, "changed"), "%s", err.msg);
    free(one);
    free(two);
    free(out);
}

/* ---- no room ---- */

FOR_EVERY_STORE(an_object_larger_than_the_cache_is_no_view_but_is_read)
{
    const uint64_t size = 20 * LDR_MIB + 3;
    uint8_t *bytes = bd_bytes(size, 18);
    struct larder_err err = { 0 };
    const char *u;

    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "16MiB");
    seed("large", bytes, size);
    seed("small", bytes, LDR_MIB);
    go("1MiB");
    u = uri("large");
    expect_kind(t.l, u, LONG_MS, LARDER_LIMIT_EXCEEDED, &err);
    cr_expect(has(err.msg, u) && has(err.msg, "20971523") && has(err.msg, "16777216") &&
                  has(err.msg, "larder.cache.max_size"),
              "object, size, limit and setting: %s", err.msg);
    expect_way(t.l, &ways[2], u, bytes, size);                 /* stream */
    expect_way(t.l, &ways[1], u, bytes, size);                 /* get_into */
    expect_read(t.l, u, bytes, size, 0, size);                 /* all by one call */
    expect_read(t.l, u, bytes, size, 11 * LDR_MIB + 1, 70001); /* a part: that is cached */
    expect_range(t.l, u, bytes, size, 3 * LDR_MIB - 5, 2 * LDR_MIB);
    expect_bytes(t.l, uri("small"), bytes, LDR_MIB);
    expect_bytes(t.l, uri("small"), bytes, LDR_MIB);
    cr_expect(counter("bytes") <= counter("max_size"));
    free(bytes);
}

Test(e2e_blocks, an_object_that_leaves_no_room_for_the_index_is_an_error_that_tells_or_a_view)
{
    const uint64_t size = 16 * LDR_MIB - 100; /* by itself it would fit */
    uint8_t *bytes = bd_bytes(size, 19);
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    enum larder_kind k;

    prepare_test_server();
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "16MiB");
    seed("a", bytes, size);
    go("1MiB");
    k = larder_get(t.l, uri("a"), LONG_MS, &o, &err);
    cr_assert(eq(int, k, LARDER_LIMIT_EXCEEDED), "%s", err.msg);
    cr_expect(has(err.msg, uri("a")) && has(err.msg, "16777116") && has(err.msg, "larder.cache.max_size"), "%s",
              err.msg);
    for (size_t w = 1; w < 3; w++)
        expect_way(t.l, &ways[w], uri("a"), bytes, size);
    expect_read(t.l, uri("a"), bytes, size, 0, size);
    free(bytes);
}

/* Bytes of address space that this process uses. */
static uint64_t address_space(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (!f || fscanf(f, "%llu", &pages) != 1)
        _exit(98);
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void limit_address_space(uint64_t more)
{
    uint64_t n = address_space() + more;

    if (setrlimit(RLIMIT_AS, &(struct rlimit){ n, n }))
        _exit(97);
}

#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1 /* its shadow needs the address space for itself */
#else
#define ADDRESS_SANITIZER 0
#endif

Test(e2e_blocks, a_client_of_little_address_space_reads_what_it_cannot_map)
{
    const uint64_t size = 64 * LDR_MIB;
    uint8_t *bytes;
    char u[URI_ROOM];

    if (ADDRESS_SANITIZER)
        cr_skip("no RLIMIT_AS under AddressSanitizer");
    bytes = bd_bytes(size, 21);
    prepare_local();
    seed("a", bytes, size);
    seed("small", bytes, 3 * BLOCK);
    go("64KiB");
    snprintf(u, sizeof u, "%s", uri("a"));
    expect_bytes(t.l, u, bytes, size);
    for (int early = 0; early < 2; early++) {
        pid_t pid = child();

        if (pid == 0) {
            uint8_t *out = malloc(size);
            struct larder_object *o = NULL;
            struct larder_err err = { 0 };
            struct larder *l = NULL;
            uint64_t n = 0;
            size_t got = 0;
            enum larder_kind k;

            larder_close(&t.l); /* with all that it maps */
            if (early)
                l = agent_open(&t.agent);
            limit_address_space(24 * LDR_MIB);
            if (!early)
                l = agent_open(&t.agent);
            k = larder_get(l, u, LONG_MS, &o, &err);
            if (k ? (k != LARDER_LIMIT_EXCEEDED && k != LARDER_NO_MEMORY) || !err.msg[0]
                  : larder_object_size(o) != size || memcmp(larder_object_data(o), bytes, size)) {
                fprintf(stderr, "view: %s: %s\n", larder_kind_name(k), err.msg);
                _exit(1);
            }
            larder_object_free(&o);
            k = larder_get_into(l, u, out, size, LONG_MS, &n, &err);
            if (k || n != size || memcmp(out, bytes, size)) {
                fprintf(stderr, "get_into: %s: %s\n", larder_kind_name(k), err.msg);
                _exit(2);
            }
            memset(out, 0, size);
            k = by_stream(l, u, out, size, &n, &err);
            if (k || n != size || memcmp(out, bytes, size)) {
                fprintf(stderr, "stream: %s: %s\n", larder_kind_name(k), err.msg);
                _exit(3);
            }
            k = larder_read(l, u, 9 * LDR_MIB, out, 2 * LDR_MIB, LONG_MS, &got, NULL, &err);
            if (k || got != 2 * LDR_MIB || memcmp(out, bytes + 9 * LDR_MIB, got)) {
                fprintf(stderr, "read: %s: %s\n", larder_kind_name(k), err.msg);
                _exit(4);
            }
            if (!reads_as(l, uri("small"), bytes, 3 * BLOCK, &err)) { /* it still has room for that */
                fprintf(stderr, "small: %s\n", err.msg);
                _exit(5);
            }
            _exit(0);
        }
        cr_expect(eq(int, join_child(pid), 0), "opened %s the limit", early ? "before" : "under");
    }
    free(bytes);
}

/* ---- stale, and the same ---- */

static void expect_confirmed(const char *prefixes)
{
    static const size_t sizes[] = { 0, 5, 3000, BLOCK - 1, 5 * BLOCK + 3 };
    uint8_t *bytes = bd_bytes(6 * BLOCK, 22);

    agent_set(&t.agent, "LARDER_PREFIXES", prefixes);
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char key[32];

        snprintf(key, sizeof key, "k%zu", i);
        seed(key, bytes, sizes[i]);
    }
    go("64KiB");
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char key[32];
        uint64_t confirmed, gets, in;

        snprintf(key, sizeof key, "k%zu", i);
        expect_bytes(t.l, uri(key), bytes, sizes[i]);
        confirmed = counter("confirmed");
        spent(&gets, &in);
        for (int round = 0; round < 3; round++) {
            nanosleep(&(struct timespec){ .tv_nsec = 2 * LDR_NS_PER_MS }, NULL); /* the ttl */
            expect_bytes(t.l, uri(key), bytes, sizes[i]);
        }
        cr_expect(eq(u64, counter("confirmed") - confirmed, 3), "%zu bytes", sizes[i]);
        spent(&gets, &in);
        cr_expect(eq(u64, gets, 3), "%zu bytes", sizes[i]);
        cr_expect(eq(u64, in, 0), "%zu bytes: the store sent a body", sizes[i]);
    }
    free(bytes);
}

FOR_EVERY_STORE(a_stale_object_that_is_the_same_is_confirmed_without_a_body)
{
    expect_confirmed("[{match: \"file://\", freshness: ttl 1ms}, {match: \"s3://\", freshness: ttl 1ms}]");
}

FOR_EVERY_STORE(an_object_that_is_always_asked_for_is_confirmed_without_a_body)
{
    expect_confirmed("[{match: \"file://\", freshness: always}, {match: \"s3://\", freshness: always}]");
}

FOR_EVERY_STORE(a_stale_object_of_which_a_part_is_cached_is_confirmed_and_completed)
{
    const uint64_t size = 5 * BLOCK;
    uint8_t *one = bd_bytes(size, 23), *two = bd_bytes(size, 24);
    uint64_t gets, in;

    agent_set(&t.agent, "LARDER_PREFIXES",
              "[{match: \"file://\", freshness: ttl 1ms}, {match: \"s3://\", freshness: ttl 1ms}]");
    seed("a", one, size);
    go("64KiB");
    expect_range(t.l, uri("a"), one, size, 2 * BLOCK, 10);
    spent(&gets, &in);
    nanosleep(&(struct timespec){ .tv_nsec = 2 * LDR_NS_PER_MS }, NULL);
    expect_bytes(t.l, uri("a"), one, size);
    spent(&gets, &in);
    cr_expect(eq(u64, in, 4 * BLOCK), "the cached block was fetched again, or others twice");
    cr_expect(gets <= 5, "%" PRIu64 " requests", gets);
    nanosleep(&(struct timespec){ .tv_nsec = 2 * LDR_NS_PER_MS }, NULL);
    seed("a", two, size);
    expect_range(t.l, uri("a"), two, size, 3 * BLOCK, 10);
    expect_bytes(t.l, uri("a"), two, size);
    free(one);
    free(two);
}

/* ---- block files that are not what they were ---- */

/* The path of the cached file of block `n` of the only object; true: it is there. */
static bool find_block(unsigned n, char path[PATH_MAX])
{
    char folder[TEST_DIR_MAX + 32], end[16];
    DIR *blocks, *one;
    struct dirent *e, *f;
    bool found = false;

    snprintf(folder, sizeof folder, "%s/blocks", t.agent.cache);
    snprintf(end, sizeof end, ".%u", n);
    blocks = opendir(folder);
    cr_assert(blocks != NULL);
    while (!found && (e = readdir(blocks))) {
        char name[PATH_MAX];

        snprintf(name, sizeof name, "%s/%.2s", folder, e->d_name);
        one = e->d_name[0] == '.' ? NULL : opendir(name);
        while (one && !found && (f = readdir(one))) {
            const char *dot = strchr(f->d_name, '.');

            if (f->d_name[0] == '.' || !dot || strcmp(dot, end))
                continue;
            snprintf(path, PATH_MAX, "%s/blocks/%.2s/%.60s", t.agent.cache, e->d_name, f->d_name);
            found = true;
        }
        if (one)
            closedir(one);
    }
    closedir(blocks);
    return found;
}

static void remove_it(const char *path)
{
    cr_assert(eq(int, unlink(path), 0));
}

/* Nobody but this test may do that: who has it mapped would get SIGBUS. */
static void shorten_it(const char *path)
{
    cr_assert(eq(int, truncate(path, 100), 0));
}

static void empty_it(const char *path)
{
    cr_assert(eq(int, truncate(path, 0), 0));
}

static void lengthen_it(const char *path)
{
    cr_assert(eq(int, truncate(path, BLOCK + 1), 0));
}

static void replace_by_folder(const char *path)
{
    cr_assert(eq(int, unlink(path), 0));
    cr_assert(eq(int, mkdir(path, 0750), 0));
}

static void expect_healed(void (*harm)(const char *path))
{
    const uint64_t size = 5 * BLOCK;
    uint8_t *bytes = bd_bytes(size, 25);
    struct larder *l;
    char path[PATH_MAX];

    seed("a", bytes, size);
    go("64KiB");
    l = agent_open(&t.agent); /* keeps no mapping of what is harmed */
    expect_bytes(l, uri("a"), bytes, size);
    larder_close(&l);
    expect_spent(5, size);
    for (size_t w = 0; w < WAYS; w++) {
        cr_assert(find_block((unsigned)w % 5, path), "block %zu", w % 5);
        harm(path);
        l = agent_open(&t.agent);
        expect_way(l, &ways[w], uri("a"), bytes, size);
        larder_close(&l);
        expect_spent(1, BLOCK);
    }
    l = agent_open(&t.agent);
    for (size_t w = 0; w < WAYS; w++)
        expect_way(l, &ways[w], uri("a"), bytes, size);
    cr_expect(eq(u64, counts_of(l).asks, 0), "all is well again");
    larder_close(&l);
    expect_spent(0, 0);
    free(bytes);
}

FOR_EVERY_STORE(a_block_file_that_was_removed_is_fetched_again)
{
    expect_healed(remove_it);
}

FOR_EVERY_STORE(a_block_file_that_became_shorter_is_fetched_again)
{
    expect_healed(shorten_it);
}

FOR_EVERY_STORE(a_block_file_that_became_empty_is_fetched_again)
{
    expect_healed(empty_it);
}

FOR_EVERY_STORE(a_block_file_that_became_longer_is_fetched_again)
{
    expect_healed(lengthen_it);
}

Test(e2e_blocks, a_folder_in_the_place_of_a_block_file_harms_nobody)
{
    const uint64_t size = 5 * BLOCK;
    uint8_t *bytes = bd_bytes(size, 26);
    struct larder *l;
    char path[PATH_MAX];

    prepare_test_server();
    seed("a", bytes, size);
    go("64KiB");
    l = agent_open(&t.agent);
    expect_bytes(l, uri("a"), bytes, size);
    larder_close(&l);
    cr_assert(find_block(1, path));
    replace_by_folder(path);
    cr_expect(eq(uint, right_or_clear(bytes, size), WAYS), "the object can be had");
    free(bytes);
}

Test(e2e_blocks, all_block_files_removed_at_once_are_fetched_again)
{
    const uint64_t size = 20 * BLOCK;
    uint8_t *bytes = bd_bytes(size, 27);
    struct larder *l;
    char path[PATH_MAX];
    uint64_t gets, in;

    prepare_local();
    seed("a", bytes, size);
    go("64KiB");
    l = agent_open(&t.agent);
    expect_bytes(l, uri("a"), bytes, size);
    larder_close(&l);
    expect_spent(20, size);
    for (unsigned b = 0; b < 20; b++) {
        cr_assert(find_block(b, path));
        remove_it(path);
    }
    l = agent_open(&t.agent);
    expect_bytes(l, uri("a"), bytes, size);
    larder_close(&l);
    spent(&gets, &in);
    /* Its record went with the last block, and what was on its way then came for nothing. */
    cr_expect(gets >= 20 && gets <= 40, "%" PRIu64 " requests", gets);
    l = agent_open(&t.agent);
    expect_bytes(l, uri("a"), bytes, size);
    larder_close(&l);
    expect_spent(0, 0);
    free(bytes);
}

Test(e2e_blocks, a_view_outlives_the_files_the_agent_and_the_handle)
{
    const uint64_t size = 5 * BLOCK + 9;
    uint8_t *bytes = bd_bytes(size, 28);
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    struct larder *l;
    char path[PATH_MAX];

    prepare_local();
    seed("a", bytes, size);
    go("64KiB");
    l = agent_open(&t.agent);
    cr_assert(eq(int, larder_get(l, uri("a"), LONG_MS, &o, &err), LARDER_OK), "%s", err.msg);
    for (unsigned b = 0; b < 6; b++) {
        cr_assert(find_block(b, path));
        remove_it(path);
    }
    agent_kill(&t.agent);
    larder_close(&l);
    cr_expect(eq(int, memcmp(larder_object_data(o), bytes, size), 0));
    larder_object_free(&o);
    free(bytes);
}

/* ---- large ---- */

#define LARGE (5 * LDR_GIB + 12345)

/* Where the page that tells an address apart stands, one a MiB; all else is zero. */
static void mark(uint64_t mib, uint8_t out[4096])
{
    uint64_t *words = (void *)out;

    for (size_t i = 0; i < 512; i++)
        words[i] = (mib + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

static bool is_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && !memcmp(p, p + 1, n - 1));
}

/* Are these the bytes [offset, offset + n) of the large object? */
static bool is_large(const uint8_t *p, uint64_t offset, uint64_t n)
{
    uint8_t page[4096];

    while (n) {
        uint64_t in = offset % LDR_MIB, part = in < 4096 ? 4096 - in : LDR_MIB - in;

        if (part > n)
            part = n;
        mark(offset / LDR_MIB, page);
        if (in < 4096 ? memcmp(p, page + in, part) != 0 : !is_zero(p, part))
            return false;
        p += part;
        offset += part;
        n -= part;
    }
    return true;
}

static void seed_large(void)
{
    char path[PATH_MAX];
    uint8_t page[4096];
    int fd;

    agent_seed_file(&t.agent, "box", "large", "", 0);
    snprintf(path, sizeof path, "%s/objects/box/large", t.agent.dir);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    cr_assert(fd >= 0 && ftruncate(fd, (off_t)LARGE) == 0);
    for (uint64_t i = 0; i * LDR_MIB < LARGE; i++) {
        uint64_t left = LARGE - i * LDR_MIB;
        size_t n = left < sizeof page ? left : sizeof page;

        mark(i, page);
        cr_assert(pwrite(fd, page, n, (off_t)(i * LDR_MIB)) == (ssize_t)n);
    }
    close(fd);
}

static void need_large(void)
{
    const char *set = getenv("LDR_TEST_LARGE"), *why = NULL;
    struct statvfs v;

    if (!set || strcmp(set, "1") != 0)
        why = "5 GiB objects are tested with LDR_TEST_LARGE=1 only";
    else if (statvfs(t.agent.dir, &v) || (uint64_t)v.f_bavail * v.f_frsize < LARGE + 2 * LDR_GIB)
        why = "less than 7 GiB are free";
    if (why) {
        fprintf(stderr, "SKIPPED: %s\n", why);
        cr_skip("%s", why);
    }
}

static enum larder_kind check_large(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    uint64_t *next = user;

    if (offset != *next || size != LARGE || !is_large(p, offset, n))
        return LARDER_CORRUPT;
    *next += n;
    return LARDER_OK;
}

Test(e2e_blocks, an_object_of_five_gibibytes_is_one_view, .timeout = 600)
{
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    uint64_t state = 88172645463325252, next = 0;
    uint8_t *out;

    prepare_local();
    need_large();
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "6GiB");
    seed_large();
    go("8MiB");
    expect_read(t.l, uri("large"), (const uint8_t *)"", LARGE, LARGE, 1);
    out = malloc(20 * LDR_MIB);
    cr_assert(out != NULL);
    for (int i = 0; i < 200; i++) {
        uint64_t offset, length, total = 0;
        size_t got = 0;

        if (i == 20) { /* the rest on the way in the middle */
            cr_assert(eq(int, larder_get(t.l, uri("large"), 300000, &o, &err), LARDER_OK), "%s", err.msg);
            cr_assert(eq(u64, larder_object_size(o), LARGE));
            cr_expect(is_large(larder_object_data(o), 0, LARGE));
            larder_object_free(&o);
        }
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        offset = state % LARGE;
        length = 1 + (state >> 20) % (20 * LDR_MIB);
        if (i % 2) {
            cr_assert(eq(int, larder_get_range(t.l, uri("large"), offset, length, LONG_MS, &o, &err), LARDER_OK), "%s",
                      err.msg);
            cr_expect(is_large(larder_object_data(o), offset, larder_object_size(o)));
            cr_expect(eq(u64, larder_object_size(o), length < LARGE - offset ? length : LARGE - offset));
            larder_object_free(&o);
        } else {
            cr_assert(
                eq(int, larder_read(t.l, uri("large"), offset, out, length, LONG_MS, &got, &total, &err), LARDER_OK),
                "%s", err.msg);
            cr_expect(eq(u64, got, length < LARGE - offset ? length : LARGE - offset));
            cr_expect(is_large(out, offset, got));
        }
    }
    cr_assert(eq(int, larder_stream(t.l, uri("large"), 300000, check_large, &next, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(u64, next, LARGE));
    cr_expect(eq(u64, counter("store_bytes_in"), LARGE), "each byte once");
    free(out);
}
