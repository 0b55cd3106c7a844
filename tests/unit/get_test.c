/* get_test.c - tests of client/get.c and client/client.c: a cache made by hand, and an agent that says what it is told.
 */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/mini_index.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT  20000 /* ms: an agent that answers does so long before */
#define URI   "s3://bucket/some/key"
#define BLOCK 23

static char dir[TEST_DIR_MAX];
static struct mini mini;
static struct larder *l;
static struct larder_err err;

/* The agent of a test: what it does at each request, and what it saw. */
static struct {
    struct fake_agent agent;
    bool running;
    fake_answer_fn *then;
    _Atomic int asks;
    Larder__Wire__Reason reason;
    bool want_bytes;
    struct asked {
        uint64_t offset, length, ahead;
        bool want_bytes;
    } ranges[64]; /* of the first asks */
    uint8_t seen_id[16];
    size_t seen_len;
    struct ldr_id id;
    uint64_t nonce;
    const uint8_t *data; /* of an object served in chunks */
    size_t len, chunk;
    const char *why, *validator;
    int change_at;             /* the ask at which the object changes; 0: never */
    struct mini_object object; /* whose blocks it has */
} agent;

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    (void)user;
    agent.asks++;
    if (req->body_case == LARDER__WIRE__REQUEST__BODY_GET) {
        const Larder__Wire__Get *g = req->get;

        if (agent.asks <= (int)LDR_ARRAY_LEN(agent.ranges))
            agent.ranges[agent.asks - 1] = (struct asked){ g->offset, g->length, g->ahead, g->want_bytes };
        agent.reason = req->get->reason;
        agent.want_bytes = req->get->want_bytes;
        agent.seen_len = req->get->seen_id.len;
        if (agent.seen_len)
            memcpy(agent.seen_id, req->get->seen_id.data, agent.seen_len);
    }
    return agent.then(NULL, req, r);
}

static enum fake_action say_look(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    (void)user;
    (void)req;
    fake_look(r, agent.nonce, &agent.id);
    return FAKE_SEND;
}

static enum fake_action say_not_found(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    (void)user;
    (void)req;
    fake_fail(r, LARDER_NOT_FOUND, "no such object");
    return FAKE_SEND;
}

static enum fake_action say_nothing(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    (void)user;
    (void)req;
    (void)r;
    return FAKE_HANG;
}

/* The bytes that were asked for, as an agent with a store behind it does. */
static enum fake_action say_bytes(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    static struct ldr_meta meta;
    const Larder__Wire__Get *get = req->get;
    size_t offset = get->offset < agent.len ? get->offset : agent.len, left = agent.len - offset;

    (void)user;
    if (agent.change_at && agent.asks >= agent.change_at) {
        agent.validator = "\"new\"";
        if (get->validator.len && (get->validator.len != 5 || memcmp(get->validator.data, "\"new\"", 5))) {
            fake_fail(r, LARDER_PRECONDITION, "changed");
            return FAKE_SEND;
        }
    }
    ldr_meta_release(&meta);
    ldr_meta_init(&meta);
    meta.size_bytes = agent.len;
    if (agent.validator)
        ldr_meta_add_text(&meta, LDR_TAG_VALIDATOR, agent.validator);
    fake_bytes(r, agent.data + offset, left < agent.chunk ? left : agent.chunk, offset, &meta, agent.why);
    return FAKE_SEND;
}

/* Fetch the blocks of the range that are not there, but not those ahead. */
static enum fake_action say_filled(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    const Larder__Wire__Get *get = req->get;
    uint64_t end =
        get->length && get->length < agent.object.len - get->offset ? get->offset + get->length : agent.object.len;
    uint8_t log2 = agent.object.block_log2;

    for (uint32_t n = (uint32_t)(get->offset >> log2); (uint64_t)n << log2 < end; n++) {
        char path[MINI_PATH_MAX];

        mini_block_path(&mini, &agent.id, n, path);
        if (access(path, F_OK) != 0)
            mini_fill_block(&mini, &agent.id, &agent.object, n);
    }
    return say_look(user, req, r);
}

static void start_agent(fake_answer_fn *then)
{
    agent.then = then;
    if (agent.running)
        return;
    agent.nonce = mini.format.nonce;
    agent.chunk = LDR_WIRE_CHUNK;
    agent.why = "max_size is reached";
    agent.validator = "\"v1\"";
    fake_start(&agent.agent, dir, answer, NULL);
    agent.running = true;
}

static void make_dir(void)
{
    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    mini_open(&mini, dir, 0);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
}

static void remove_dir(void)
{
    larder_close(&l);
    if (agent.running)
        fake_stop(&agent.agent);
    mini_close(&mini);
    test_dir_remove(dir);
}

TestSuite(get, .init = make_dir, .fini = remove_dir, .timeout = 60);

static struct ldr_id add(const char *uri, const void *data, size_t len)
{
    struct ldr_id id = mini_add(&mini, uri, &(struct mini_object){ .data = data, .len = len });

    mini_publish(&mini);
    return id;
}

static struct larder_counts counts(void)
{
    struct larder_counts c;

    larder_get_counts(l, &c, sizeof c);
    return c;
}

/* A get that must give `text`. */
static void expect_text(const char *uri, const char *text, bool hit)
{
    struct larder_object *o = NULL;
    enum larder_kind k = larder_get(l, uri, WAIT, &o, &err);

    cr_assert(eq(int, k, LARDER_OK), "%s: %s", uri, err.msg);
    cr_expect(eq(sz, larder_object_size(o), strlen(text)));
    cr_expect(eq(int, memcmp(larder_object_data(o), text, strlen(text)), 0));
    cr_expect(eq(int, larder_object_was_hit(o), hit));
    larder_object_free(&o);
}

static enum larder_kind get_kind(const char *uri, int timeout_ms)
{
    struct larder_object *o = NULL;
    enum larder_kind k = larder_get(l, uri, timeout_ms, &o, &err);

    cr_expect(eq(int, k == LARDER_OK, o != NULL));
    larder_object_free(&o);
    return k;
}

static uint8_t *pattern(size_t n)
{
    uint8_t *p = malloc(n + 1);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 13 + (i >> 8) + (i >> 16));
    return p;
}

/* ---- hits ---- */

Test(get, a_small_object_is_a_hit_without_an_agent)
{
    add(URI, "hello", 5);
    expect_text(URI, "hello", true);
    cr_expect(eq(u64, counts().hits, 1));
    cr_expect(eq(u64, counts().asks, 0));
    add("s3://bucket/empty", "", 0);
    expect_text("s3://bucket/empty", "", true);
    expect_text("S3://user@bucket/some/key", "hello", true);
}

Test(get, small_objects_of_every_size_come_whole)
{
    static const size_t sizes[] = { 1, 100, 1000, 3900, 3990, 4000, 4080, 8000, 16000, 16280, 65000, 65400 };
    uint8_t *p = pattern(65536), *buf = malloc(65536);

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char uri[64];
        struct larder_object *o;
        uint64_t size;

        sprintf(uri, "s3://b/%zu", sizes[i]);
        add(uri, p, sizes[i]);
        cr_assert(eq(int, larder_get(l, uri, 0, &o, &err), LARDER_OK));
        cr_assert(eq(sz, larder_object_size(o), sizes[i]));
        cr_expect(eq(int, memcmp(larder_object_data(o), p, sizes[i]), 0));
        cr_expect(eq(sz, (uintptr_t)larder_object_data(o) % 16, 0), "aligned as malloc() would");
        larder_object_free(&o);
        memset(buf, 0, 65536);
        cr_assert(eq(int, larder_get_into(l, uri, buf, 65536, 0, &size, &err), LARDER_OK));
        cr_expect(eq(u64, size, sizes[i]));
        cr_expect(eq(int, memcmp(buf, p, sizes[i]), 0));
    }
    free(p);
    free(buf);
}

Test(get, an_object_in_a_block_is_a_hit_and_its_mapping_is_kept)
{
    size_t n = 300000;
    uint8_t *p = pattern(n), *buf = malloc(n);
    struct larder_object *o, *again;
    uint64_t size;

    mini_add(&mini, URI, &(struct mini_object){ .data = p, .len = n, .block_log2 = BLOCK });
    mini_publish(&mini);
    cr_assert(eq(int, larder_get_into(l, URI, buf, n, 0, &size, &err), LARDER_OK), "%s", err.msg);
    cr_expect(size == n && !memcmp(buf, p, n));
    cr_assert(eq(int, larder_get(l, URI, 0, &o, &err), LARDER_OK));
    cr_expect(larder_object_size(o) == n && !memcmp(larder_object_data(o), p, n));
    cr_assert(eq(int, larder_get(l, URI, 0, &again, &err), LARDER_OK));
    cr_expect(eq(ptr, (void *)(uintptr_t)larder_object_data(o), (void *)(uintptr_t)larder_object_data(again)));
    cr_expect(eq(u64, counts().kept, 1));
    cr_expect(eq(u64, counts().hits, 3));
    larder_close(&l);
    cr_expect(eq(int, memcmp(larder_object_data(o), p, n), 0), "objects outlive the handle");
    larder_object_free(&o);
    larder_object_free(&again);
    free(p);
    free(buf);
}

Test(get, several_blocks_come_as_one)
{
    size_t n = 3 * 65536 + 77;
    uint8_t *p = pattern(n);
    struct larder_object *o;

    mini_add(&mini, URI, &(struct mini_object){ .data = p, .len = n, .block_log2 = 16 });
    mini_publish(&mini);
    cr_assert(eq(int, larder_get(l, URI, 0, &o, &err), LARDER_OK));
    cr_expect(larder_object_size(o) == n && !memcmp(larder_object_data(o), p, n));
    larder_object_free(&o);
    free(p);
}

Test(get, long_references_are_told_apart_by_their_whole_text)
{
    char uri[1200] = "s3://bucket/", other[1200];

    memset(uri + strlen(uri), 'k', 1000);
    memcpy(other, uri, sizeof other);
    other[1010] = 'x';
    add(uri, "mine", 4);
    expect_text(uri, "mine", true);
    cr_expect(eq(int, get_kind(other, 0), LARDER_TIMEOUT), "not in the cache");
    mini_add(&mini, uri, &(struct mini_object){ .data = "other", .len = 5, .other_key = other });
    mini_publish(&mini);
    cr_expect(eq(int, get_kind(uri, 0), LARDER_TIMEOUT), "a record under our key that is of another object");
    cr_expect(eq(u64, counts().damaged, 0));
}

Test(get, a_buffer_that_is_too_small_gets_the_size)
{
    uint64_t size = 0;
    char buf[4];
    uint8_t *p = pattern(100000);

    add(URI, "hello", 5);
    cr_expect(eq(int, larder_get_into(l, URI, buf, 4, 0, &size, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(u64, size, 5));
    mini_add(&mini, URI, &(struct mini_object){ .data = p, .len = 100000, .block_log2 = BLOCK });
    mini_publish(&mini);
    cr_expect(eq(int, larder_get_into(l, URI, buf, 4, 0, &size, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(u64, size, 100000));
    start_agent(say_bytes);
    agent.data = p;
    agent.len = 99999;
    cr_expect(eq(int, larder_get_into(l, "s3://b/uncached", buf, 4, WAIT, &size, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(u64, size, 99999));
    cr_expect(eq(int, agent.asks, 1));
    free(p);
}

/* ---- what makes it ask ---- */

Test(get, a_miss_asks_and_takes_the_record_that_the_agent_names)
{
    agent.id = add(URI, "hello", 5);
    mini_remove(&mini, URI);
    mini_publish(&mini);
    start_agent(say_not_found);
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(str, err.msg, (char *)"no such object"));
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__MISS));
    cr_expect(eq(sz, agent.seen_len, 0));
    agent.id = add(URI, "hello", 5);
    expect_text(URI, "hello", true);
}

Test(get, a_stale_record_asks_and_is_taken_if_the_agent_says_so)
{
    agent.id = mini_add(&mini, URI, &(struct mini_object){ .data = "old", .len = 3, .fresh_until_ns = 1 });
    mini_publish(&mini);
    start_agent(say_look);
    expect_text(URI, "old", false);
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__STALE));
    cr_expect(eq(int, memcmp(agent.seen_id, agent.id.b, 16), 0));
    cr_expect(eq(int, agent.asks, 1), "not asked again, though it is stale still");
    expect_text(URI, "old", false);
    cr_expect(eq(int, agent.asks, 2), "the next call asks");
    cr_expect(eq(u64, counts().hits, 0));
}

Test(get, a_record_is_fresh_until_its_time_is_over)
{
    mini_add(&mini, URI,
             &(struct mini_object){
                 .data = "x", .len = 1, .fresh_until_ns = (uint64_t)ldr_boot_ns() + 3600 * LDR_NS_PER_S });
    mini_publish(&mini);
    expect_text(URI, "x", true);
}

Test(get, another_boot_makes_a_record_stale_but_for_immutable_ones)
{
    mini_add(&mini, URI, &(struct mini_object){ .data = "x", .len = 1, .boot = 6, .fresh_until_ns = UINT64_MAX - 1 });
    mini_add(&mini, "s3://b/immutable", &(struct mini_object){ .data = "y", .len = 1, .boot = 6 });
    mini_publish(&mini);
    cr_expect(eq(int, get_kind(URI, 0), LARDER_TIMEOUT));
    expect_text("s3://b/immutable", "y", true);
}

Test(get, a_damaged_record_asks)
{
    uint8_t record[200] = { LDR_RECORD_VERSION };

    mini_put(&mini, URI, strlen(URI), record, sizeof record);
    mini_put(&mini, "s3://b/short", strlen("s3://b/short"), record, 20);
    mini_publish(&mini);
    start_agent(say_not_found);
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__DAMAGED));
    cr_expect(eq(int, get_kind("s3://b/short", WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(u64, counts().damaged, 2));
}

Test(get, a_record_under_another_key_is_damaged)
{
    MDB_val k = { strlen(URI), (void *)(uintptr_t)URI }, v;
    MDB_txn *t;
    uint8_t copy[400];

    add(URI, "hello", 5);
    cr_assert(mdb_txn_begin(mini.env, NULL, MDB_RDONLY, &t) == 0 && mdb_get(t, mini.dbi, &k, &v) == 0);
    memcpy(copy, v.mv_data, v.mv_size);
    mdb_txn_abort(t);
    mini_put(&mini, "s3://b/other", 12, copy, v.mv_size);
    mini_publish(&mini);
    cr_expect(eq(int, get_kind("s3://b/other", 0), LARDER_TIMEOUT));
    cr_expect(eq(u64, counts().damaged, 1));
}

Test(get, a_torn_index_asks_and_is_counted)
{
    char path[300];
    uint64_t zero[512] = { 0 };

    add(URI, "hello", 5);
    snprintf(path, sizeof path, "%s/gen-1/data.mdb", dir);
    int fd = open(path, O_WRONLY);
    for (int page = 2; page < 10; page++)
        cr_assert(pwrite(fd, zero, sizeof zero, page * LDR_PAGE) == (ssize_t)sizeof zero);
    close(fd);
    start_agent(say_not_found);
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__TORN));
    cr_expect(eq(u64, counts().torn, 1));
    cr_expect(eq(u64, counts().retries, 0));
}

Test(get, a_snapshot_that_stays_void_asks_after_sixteen_tries)
{
    add(URI, "hello", 5);
    mini.hdr->floor = mini.hdr->cur + 1;
    start_agent(say_not_found);
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__TORN));
    cr_expect(eq(u64, counts().retries, 16));
    cr_expect(eq(u64, counts().torn, 0), "which is no damage");
    ldr_client_set_unsafe_for_stress(l, true);
    expect_text(URI, "hello", true);
}

static void add_block(size_t n)
{
    uint8_t *p = pattern(n);

    agent.id = mini_add(&mini, URI, &(struct mini_object){ .data = p, .len = n, .block_log2 = BLOCK });
    mini_publish(&mini);
    free(p);
}

Test(get, a_block_file_that_was_deleted_or_cut_asks)
{
    char path[MINI_PATH_MAX], buf[16];
    uint64_t size;

    start_agent(say_not_found);
    add_block(70000);
    mini_block_path(&mini, &agent.id, 0, path);
    cr_assert(chmod(path, 0600) == 0 && truncate(path, 69999) == 0);
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__BLOCK_GONE));
    cr_expect(eq(int, memcmp(agent.seen_id, agent.id.b, 16), 0));
    cr_assert(unlink(path) == 0);
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__BLOCK_GONE));
    cr_expect(eq(int, larder_get_into(l, URI, buf, 0, WAIT, &size, &err), LARDER_LIMIT_EXCEEDED), "size is known");
    cr_expect(eq(u64, counts().damaged, 1), "an absent block is no damage");
}

Test(get, after_three_looks_in_vain_the_bytes_are_asked_for)
{
    char path[MINI_PATH_MAX];
    struct larder_object *o;

    start_agent(say_look);
    add_block(70000);
    mini_block_path(&mini, &agent.id, 0, path);
    cr_assert(unlink(path) == 0);
    agent.data = (const uint8_t *)"bytes";
    agent.len = 5;
    cr_expect(eq(int, larder_get(l, URI, WAIT, &o, &err), LARDER_UNAVAILABLE), "an agent that still says: look");
    cr_expect(eq(int, agent.asks, 4));
    cr_expect(agent.want_bytes);
}

/* ---- generations and layouts ---- */

Test(get, a_retired_generation_is_left_for_the_new_one)
{
    add(URI, "old", 3);
    expect_text(URI, "old", true);
    mini_retire(&mini);
    mini_new_generation(&mini);
    add(URI, "new", 3);
    expect_text(URI, "new", true);
    cr_expect(eq(u64, counts().asks, 0));
    for (int i = 0; i < 5; i++) {
        mini_retire(&mini);
        mini_new_generation(&mini);
    }
    add(URI, "newest", 6);
    expect_text(URI, "newest", true);
}

Test(get, the_files_of_a_generation_that_was_left_are_given_back)
{
    char line[600];
    int mapped = 0;

    add(URI, "old", 3);
    expect_text(URI, "old", true);
    mini_retire(&mini);
    mini_new_generation(&mini);
    add(URI, "new", 3);
    expect_text(URI, "new", true);
    FILE *f = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, f))
        mapped += strstr(line, "gen-1/data.mdb") != NULL;
    fclose(f);
    cr_expect(eq(int, mapped, 0));
}

Test(get, a_reply_that_names_another_generation_has_it_opened)
{
    mini_publish(&mini);
    cr_expect(eq(int, get_kind(URI, 0), LARDER_TIMEOUT), "generation 1 is open");
    mini_new_generation(&mini); /* an agent that was wiped did not retire it */
    agent.id = add(URI, "new", 3);
    start_agent(say_look);
    expect_text(URI, "new", false);
    cr_expect(eq(int, agent.asks, 1));
    expect_text(URI, "new", true);
}

Test(get, a_retired_generation_without_a_successor_asks)
{
    add(URI, "old", 3);
    expect_text(URI, "old", true);
    mini_retire(&mini);
    start_agent(say_not_found);
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__NO_CACHE));
    cr_expect(agent.want_bytes);
    mini_new_generation(&mini);
    agent.id = add(URI, "new", 3);
    agent.nonce = mini.format.nonce;
    agent.then = say_look;
    expect_text(URI, "new", false); /* bytes were asked for, but the reply's nonce led to a cache */
    cr_expect(eq(int, agent.asks, 2));
    expect_text(URI, "new", true);
}

static void open_anew(void)
{
    larder_close(&l);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
}

static void expect_ipc_only(const char *what)
{
    open_anew();
    agent.data = (const uint8_t *)"by chunks";
    agent.len = 9;
    agent.why = "";
    start_agent(say_bytes);
    expect_text(URI, "by chunks", false);
    cr_expect(agent.want_bytes, "%s", what);
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__NO_CACHE), "%s", what);
}

Test(get, a_newer_layout_goes_over_ipc)
{
    add(URI, "hello", 5);
    mini.format.layout = LDR_LAYOUT + 1;
    mini_write_format(&mini);
    expect_ipc_only("layout");
}

Test(get, a_cache_that_cannot_be_read_goes_over_ipc)
{
    char path[300];
    uint64_t was;

    add(URI, "hello", 5);
    expect_text(URI, "hello", true);
    mini.hdr->version++;
    expect_ipc_only("version");
    mini.hdr->version--;
    mini.hdr->nonce++;
    expect_ipc_only("nonce");
    mini.hdr->nonce--;
    was = mini.hdr->npages;
    mini.hdr->npages = was * 2; /* more than the file has, less than the map: SIGBUS, if it were believed */
    expect_ipc_only("npages");
    mini.hdr->npages = 0;
    expect_ipc_only("no pages");
    mini.hdr->npages = was;
    mini.hdr->mapsize = LDR_MAP_MAX * 2;
    expect_ipc_only("mapsize");
    mini.hdr->mapsize = mini.mapsize;
    open_anew();
    expect_text(URI, "hello", true);
    snprintf(path, sizeof path, "%s/format", dir);
    cr_assert(unlink(path) == 0);
    expect_ipc_only("no format");
}

Test(get, a_cache_that_comes_later_is_found)
{
    char later[TEST_DIR_MAX + 8];
    struct mini m;

    larder_close(&l);
    snprintf(later, sizeof later, "%.180s/later", dir);
    cr_assert(eq(int, larder_open(later, &l, &err), LARDER_OK), "an absent cache is no error");
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NO_AGENT));
    cr_assert(mkdir(later, 0750) == 0);
    mini_open(&m, later, 0);
    mini_add(&m, URI, &(struct mini_object){ .data = "x", .len = 1 });
    mini_publish(&m);
    l->next_check_ns = 0; /* a second later */
    expect_text(URI, "x", true);
    mini_close(&m);
}

Test(get, where_address_space_is_short_the_present_extent_is_mapped)
{
    char line[64];
    unsigned long pages = 0;
    struct rlimit lim, was;
    FILE *f;

#if defined(__SANITIZE_ADDRESS__)
    cr_skip("the sanitizer's own address space is without bounds");
#endif
    add(URI, "hello", 5);
    larder_close(&l);
    f = fopen("/proc/self/statm", "r");
    cr_assert(fgets(line, sizeof line, f) && sscanf(line, "%lu", &pages) == 1);
    fclose(f);
    getrlimit(RLIMIT_AS, &was);
    lim = was;
    lim.rlim_cur = pages * 4096 + 40 * LDR_MIB;
    cr_assert(setrlimit(RLIMIT_AS, &lim) == 0);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    expect_text(URI, "hello", true);
    cr_expect(l->gen->partial);
    uint8_t *p = pattern(60000);
    for (int i = 0; i < 40; i++) {
        char uri[64];

        sprintf(uri, "s3://b/%d", i);
        add(uri, p, 60000);
    }
    for (int i = 0; i < 40; i++) { /* in what was added since, which is mapped when it is met */
        char uri[64];
        enum larder_kind k;

        sprintf(uri, "s3://b/%d", i);
        k = get_kind(uri, 0);
        cr_expect(k == LARDER_OK || k == LARDER_TIMEOUT);
    }
    cr_expect(eq(u64, counts().torn, 0), "what is not mapped is no damage");
    free(p);
    setrlimit(RLIMIT_AS, &was);
}

/* ---- agents that do not answer ---- */

Test(get, no_agent_is_said_at_once)
{
    int64_t from = ldr_mono_ns();

    cr_expect(eq(int, get_kind(URI, -1), LARDER_NO_AGENT));
    cr_expect(lt(long, ldr_mono_ns() - from, 5 * LDR_NS_PER_S));
}

Test(get, an_agent_that_hangs_is_a_timeout)
{
    int64_t from = ldr_mono_ns(), took;

    start_agent(say_nothing);
    cr_expect(eq(int, get_kind(URI, 100), LARDER_TIMEOUT));
    took = ldr_mono_ns() - from;
    cr_expect(ge(long, took, 100 * LDR_NS_PER_MS));
    cr_expect(lt(long, took, 10 * LDR_NS_PER_S));
    agent.id = add(URI, "x", 1); /* the connection with the late answer is not used again */
    agent.then = say_not_found;
    cr_expect(eq(int, get_kind("s3://b/z", WAIT), LARDER_NOT_FOUND));
    cr_expect(eq(int, agent.agent.connections, 2));
}

Test(get, a_call_that_may_not_wait_does_not_ask)
{
    start_agent(say_not_found);
    cr_expect(eq(int, get_kind(URI, 0), LARDER_TIMEOUT));
    cr_expect(eq(int, agent.asks, 0));
    cr_expect(eq(u64, counts().asks, 0));
}

Test(get, malformed_references_are_invalid)
{
    char buf[4];

    cr_expect(eq(int, get_kind("nonsense", WAIT), LARDER_INVALID));
    cr_expect(eq(int, get_kind("s3://b", WAIT), LARDER_INVALID));
    cr_expect(eq(int, get_kind("", WAIT), LARDER_INVALID));
    cr_expect(eq(int, get_kind(NULL, WAIT), LARDER_INVALID));
    cr_expect(eq(int, larder_get_into(l, "file:///etc/passwd", buf, 4, WAIT, NULL, NULL), LARDER_INVALID));
}

/* ---- bytes over IPC ---- */

struct sink {
    uint8_t *to;
    uint64_t next, size;
    int calls, stop_at;
};

static enum larder_kind take(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct sink *s = user;

    cr_expect(eq(u64, offset, s->next));
    if (n)
        memcpy(s->to + offset, p, n);
    s->next += n;
    s->size = size;
    return ++s->calls == s->stop_at ? LARDER_CANCELLED : LARDER_OK;
}

Test(get, an_uncached_object_comes_in_chunks)
{
    size_t n = 1000001;
    uint8_t *p = pattern(n), *buf = calloc(1, n);
    struct larder_object *o;
    struct sink s = { .to = buf };
    uint64_t size;

    start_agent(say_bytes);
    agent.data = p;
    agent.len = n;
    cr_assert(eq(int, larder_get(l, URI, WAIT, &o, &err), LARDER_OK), "%s", err.msg);
    cr_expect(larder_object_size(o) == n && !memcmp(larder_object_data(o), p, n));
    cr_expect(eq(int, larder_object_was_hit(o), 0));
    cr_expect(eq(int, agent.asks, 4));
    larder_object_free(&o);
    cr_assert(eq(int, larder_get_into(l, URI, buf, n, WAIT, &size, &err), LARDER_OK));
    cr_expect(size == n && !memcmp(buf, p, n));
    memset(buf, 0, n);
    cr_assert(eq(int, larder_stream(l, URI, WAIT, take, &s, &err), LARDER_OK));
    cr_expect(s.next == n && s.size == n && !memcmp(buf, p, n));
    cr_expect(eq(int, s.calls, 4));

    agent.len = 0;
    cr_assert(eq(int, larder_get(l, URI, WAIT, &o, &err), LARDER_OK));
    cr_expect(eq(sz, larder_object_size(o), 0));
    larder_object_free(&o);
    s = (struct sink){ .to = buf };
    cr_assert(eq(int, larder_stream(l, URI, WAIT, take, &s, &err), LARDER_OK));
    cr_expect(eq(int, s.calls, 1), "an empty object is one empty piece");
    free(p);
    free(buf);
}

Test(get, a_stream_of_a_cached_object_is_its_bytes_in_order)
{
    size_t n = 2 * LDR_MIB + 5;
    uint8_t *p = pattern(n), *buf = malloc(n);
    struct sink s = { .to = buf };

    mini_add(&mini, URI, &(struct mini_object){ .data = p, .len = n, .block_log2 = BLOCK });
    mini_publish(&mini);
    cr_assert(eq(int, larder_stream(l, URI, 0, take, &s, &err), LARDER_OK));
    cr_expect(s.next == n && !memcmp(buf, p, n));
    cr_expect(eq(int, s.calls, 3));
    s = (struct sink){ .to = buf, .stop_at = 2 };
    cr_expect(eq(int, larder_stream(l, URI, 0, take, &s, &err), LARDER_CANCELLED));
    cr_expect(eq(int, s.calls, 2));
    add("s3://b/empty", "", 0);
    s = (struct sink){ .to = buf };
    cr_assert(eq(int, larder_stream(l, "s3://b/empty", 0, take, &s, &err), LARDER_OK));
    cr_expect(eq(int, s.calls, 1));
    free(p);
    free(buf);
}

Test(get, a_view_of_a_large_uncached_object_is_refused_with_all_that_is_to_know)
{
    size_t n = 9 * LDR_MIB;
    uint8_t *p = pattern(n), *buf = malloc(n);
    uint64_t size;

    start_agent(say_bytes);
    agent.data = p;
    agent.len = n;
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, URI) && strstr(err.msg, "9437184") && strstr(err.msg, "8388608") &&
                  strstr(err.msg, "max_size is reached"),
              "%s", err.msg);
    cr_expect(eq(int, larder_get_into(l, URI, buf, n, WAIT, &size, &err), LARDER_OK));
    cr_expect(eq(int, memcmp(buf, p, n), 0));
    free(p);
    free(buf);
}

Test(get, an_object_that_changes_between_chunks_is_read_again)
{
    size_t n = 600000;
    uint8_t *p = pattern(n), *buf = malloc(n);
    struct larder_object *o;
    struct sink s = { .to = buf };

    start_agent(say_bytes);
    agent.data = p;
    agent.len = n;
    agent.change_at = 2;
    cr_assert(eq(int, larder_get(l, URI, WAIT, &o, &err), LARDER_OK));
    cr_expect(eq(int, agent.asks, 5), "one, one refused, three");
    cr_expect(eq(int, memcmp(larder_object_data(o), p, n), 0));
    larder_object_free(&o);
    agent.asks = 0;
    agent.validator = "\"v1\"";
    cr_expect(eq(int, larder_stream(l, URI, WAIT, take, &s, &err), LARDER_PRECONDITION),
              "pieces were delivered: no second beginning");
    free(p);
    free(buf);
}

static enum fake_action say_always_changed(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    if (req->get->offset == 0)
        return say_bytes(user, req, r);
    fake_fail(r, LARDER_PRECONDITION, "changed");
    return FAKE_SEND;
}

Test(get, an_object_that_always_changes_ends)
{
    size_t n = 600000;
    uint8_t *p = pattern(n);

    start_agent(say_always_changed);
    agent.data = p;
    agent.len = n;
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_PRECONDITION));
    cr_expect(eq(int, agent.asks, 8), "the first time and three more");
    free(p);
}

static enum fake_action say_unvalidated(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    agent.validator = NULL;
    say_bytes(user, req, r);
    if (agent.asks == 2)
        r->meta.last_modified_known = true; /* the second chunk is of another time */
    return FAKE_SEND;
}

Test(get, without_validators_what_else_is_known_is_compared)
{
    size_t n = 600000;
    uint8_t *p = pattern(n);

    start_agent(say_unvalidated);
    agent.data = p;
    agent.len = n;
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_OK));
    cr_expect(eq(int, agent.asks, 5));
    free(p);
}

static int nonsense;

static enum fake_action say_nonsense(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    static const uint8_t bad_fields[] = { 1, 200, 0, 'x' };

    say_bytes(user, req, r);
    switch (nonsense) {
    case 0:
        r->bytes.offset = 1;
        break;
    case 1:
        r->bytes.meta = NULL;
        break;
    case 2:
        r->meta.size = 3; /* fewer than there are */
        break;
    case 3:
        r->bytes.data.len = 0;
        break;
    case 4:
        r->meta.size = UINT64_MAX;
        break;
    case 5:
        r->meta.fields.data = (uint8_t *)(uintptr_t)bad_fields;
        r->meta.fields.len = sizeof bad_fields;
        break;
    case 6:
        r->msg.body_case = LARDER__WIRE__REPLY__BODY__NOT_SET;
        break;
    case 7:
        r->msg.object_id.data = (uint8_t *)(uintptr_t)bad_fields;
        r->msg.object_id.len = 3;
        break;
    default:
        r->raw = "nonsense";
        r->raw_len = 8;
        return FAKE_RAW;
    }
    return FAKE_SEND;
}

Test(get, answers_that_make_no_sense_are_unavailable)
{
    uint8_t *p = pattern(1000);
    char buf[1000];

    start_agent(say_nonsense);
    agent.data = p;
    agent.len = 1000;
    for (nonsense = 0; nonsense < 9; nonsense++) {
        cr_expect(eq(int, get_kind(URI, WAIT), LARDER_UNAVAILABLE), "%d: %s", nonsense, err.msg);
        cr_expect(eq(int, larder_get_into(l, URI, buf, sizeof buf, WAIT, NULL, NULL), LARDER_UNAVAILABLE));
    }
    free(p);
}

/* ---- ranges ---- */

#define KIB64 65536

/* An object of so many bytes in blocks of 64 KiB; the agent could fill it. */
static uint8_t *add_blocks(size_t n, const struct ldr_meta *meta)
{
    uint8_t *p = pattern(n);

    agent.object = (struct mini_object){ .data = p, .len = n, .block_log2 = 16, .meta = meta };
    agent.id = mini_add(&mini, URI, &agent.object);
    mini_publish(&mini);
    return p;
}

static void drop(uint32_t from, uint32_t to)
{
    for (uint32_t n = from; n <= to; n++)
        mini_drop_block(&mini, &agent.id, n);
}

static struct larder_object *get_range(const char *uri, uint64_t offset, uint64_t length, int timeout_ms)
{
    struct larder_object *o = NULL;
    enum larder_kind k = larder_get_range(l, uri, offset, length, timeout_ms, &o, &err);

    cr_assert(eq(int, k, LARDER_OK), "%" PRIu64 " + %" PRIu64 ": %s", offset, length, err.msg);
    return o;
}

static bool holds(const struct larder_object *o, const void *p, size_t n, uint64_t offset, uint64_t total)
{
    return larder_object_size(o) == n && !memcmp(larder_object_data(o), p, n) && larder_object_offset(o) == offset &&
           larder_object_total(o) == total;
}

static void expect_asked(int i, uint64_t offset, uint64_t length, uint64_t ahead)
{
    cr_expect(eq(u64, agent.ranges[i].offset, offset), "ask %d", i);
    cr_expect(eq(u64, agent.ranges[i].length, length), "ask %d", i);
    cr_expect(eq(u64, agent.ranges[i].ahead, ahead), "ask %d", i);
}

Test(get, a_range_of_a_small_object_is_a_copy_of_that_part)
{
    static const struct {
        uint64_t offset, length, from, n;
    } ranges[] = {
        { 0, 0, 0, 5 }, { 0, 1, 0, 1 },          { 2, 2, 2, 2 },
        { 4, 0, 4, 1 }, { 4, 100, 4, 1 },        { 5, 0, 5, 0 },
        { 6, 3, 5, 0 }, { 0, UINT64_MAX, 0, 5 }, { UINT64_MAX, UINT64_MAX, 5, 0 },
    };
    uint64_t id[2], first[2];
    char buf[8];
    size_t got;
    uint64_t total;

    add(URI, "hello", 5);
    for (size_t i = 0; i < LDR_ARRAY_LEN(ranges); i++) {
        struct larder_object *o = get_range(URI, ranges[i].offset, ranges[i].length, 0);

        cr_expect(holds(o, &"hello"[ranges[i].from], ranges[i].n, ranges[i].from, 5), "%zu", i);
        cr_expect(eq(int, larder_object_was_hit(o), 1));
        larder_object_id(o, i ? id : first);
        cr_expect(i == 0 || !memcmp(id, first, sizeof id));
        larder_object_free(&o);
    }
    cr_expect(first[0] && first[1]);
    cr_assert(eq(int, larder_read(l, URI, 1, buf, 3, 0, &got, &total, &err), LARDER_OK));
    cr_expect(got == 3 && total == 5 && !memcmp(buf, "ell", 3));
    cr_assert(eq(int, larder_read(l, URI, 3, buf, 8, 0, &got, NULL, &err), LARDER_OK));
    cr_expect(got == 2 && !memcmp(buf, "lo", 2));
    cr_assert(eq(int, larder_read(l, URI, 5, buf, 8, 0, &got, &total, &err), LARDER_OK));
    cr_expect(got == 0 && total == 5);
    cr_assert(eq(int, larder_read(l, URI, UINT64_MAX, buf, 8, 0, &got, &total, &err), LARDER_OK));
    cr_expect(got == 0 && total == 5);
    cr_assert(eq(int, larder_read(l, URI, 2, NULL, 0, 0, &got, &total, &err), LARDER_OK));
    cr_expect(got == 0 && total == 5);
    cr_expect(eq(u64, counts().asks, 0));
}

Test(get, a_range_is_a_hit_if_its_own_blocks_are_there)
{
    size_t n = 5 * KIB64 + 77;
    uint8_t *p = add_blocks(n, NULL), *buf = malloc(n);
    struct larder_object *o;
    uint64_t total;
    size_t got;

    drop(0, 0);
    drop(4, 4);
    cr_assert(eq(int, larder_read(l, URI, KIB64 + 5, buf, 2 * KIB64, 0, &got, &total, &err), LARDER_OK));
    cr_expect(got == 2 * KIB64 && total == n && !memcmp(buf, p + KIB64 + 5, got));
    cr_expect(eq(u64, counts().kept, 0));
    o = get_range(URI, KIB64 + 5, 2 * KIB64, 0);
    cr_expect(holds(o, p + KIB64 + 5, 2 * KIB64, KIB64 + 5, n));
    larder_object_free(&o);
    o = get_range(URI, 5 * KIB64 + 70, 1000, 0);
    cr_expect(holds(o, p + 5 * KIB64 + 70, 7, 5 * KIB64 + 70, n), "cut at the end");
    larder_object_free(&o);
    o = get_range(URI, n, 0, 0);
    cr_expect(holds(o, p, 0, n, n));
    larder_object_free(&o);
    drop(1, 3);
    cr_assert(eq(int, larder_read(l, URI, KIB64 + 100, buf, 1000, 0, &got, NULL, &err), LARDER_OK), "from the mapping");
    cr_expect(got == 1000 && !memcmp(buf, p + KIB64 + 100, got));
    cr_expect(eq(u64, counts().kept, 1));
    cr_expect(eq(u64, counts().hits, 5));
    cr_expect(eq(int, larder_get_range(l, URI, 4 * KIB64, 1, 0, &o, &err), LARDER_TIMEOUT));
    cr_expect(eq(int, larder_read(l, URI, 0, buf, n, 0, &got, &total, &err), LARDER_TIMEOUT));
    cr_expect(eq(u64, counts().damaged, 0));
    free(p);
    free(buf);
}

Test(get, a_block_that_is_missing_is_asked_for_by_its_range)
{
    size_t n = 5 * KIB64 + 77;
    uint8_t *p = add_blocks(n, NULL), *buf = malloc(n);
    struct larder_object *o;
    size_t got;

    start_agent(say_filled);
    drop(0, 5);
    o = get_range(URI, KIB64 - 1, 2, WAIT);
    cr_expect(holds(o, p + KIB64 - 1, 2, KIB64 - 1, n));
    cr_expect(eq(int, larder_object_was_hit(o), 0));
    larder_object_free(&o);
    expect_asked(0, KIB64 - 1, 2, 0);
    cr_expect(eq(int, (int)agent.reason, LARDER__WIRE__REASON__BLOCK_GONE));
    cr_expect(eq(int, memcmp(agent.seen_id, agent.id.b, 16), 0));
    cr_expect(not(agent.want_bytes));
    cr_assert(eq(int, larder_read(l, URI, 3 * KIB64, buf, 10, WAIT, &got, NULL, &err), LARDER_OK));
    cr_expect(got == 10 && !memcmp(buf, p + 3 * KIB64, 10));
    expect_asked(1, 3 * KIB64, 10, 0);
    o = get_range(URI, 4 * KIB64, 0, WAIT);
    cr_expect(holds(o, p + 4 * KIB64, KIB64 + 77, 4 * KIB64, n));
    larder_object_free(&o);
    expect_asked(2, 4 * KIB64, 0, 0);
    drop(0, 1);
    o = get_range(URI, 0, 0, WAIT);
    cr_expect(holds(o, p, n, 0, n));
    larder_object_free(&o);
    expect_asked(3, 0, 0, 0);
    cr_expect(eq(int, agent.asks, 4));
    free(p);
    free(buf);
}

Test(get, a_range_that_is_not_in_the_cache_comes_in_chunks)
{
    size_t n = 2000000, got;
    uint8_t *p = pattern(n), *buf = malloc(n);
    struct larder_object *o;
    uint64_t total, id[2];

    start_agent(say_bytes);
    agent.data = p;
    agent.len = n;
    o = get_range(URI, 300000, 700001, WAIT);
    cr_expect(holds(o, p + 300000, 700001, 300000, n));
    larder_object_id(o, id);
    cr_expect(id[0] == 0 && id[1] == 0, "no record that would name it");
    larder_object_free(&o);
    cr_expect(eq(int, agent.asks, 3));
    expect_asked(0, 300000, 700001, 0);
    expect_asked(1, 300000 + LDR_WIRE_CHUNK, 700001 - LDR_WIRE_CHUNK, 0);
    cr_expect(agent.ranges[1].want_bytes);
    agent.asks = 0;
    cr_assert(eq(int, larder_read(l, URI, n - 10, buf, 300000, WAIT, &got, &total, &err), LARDER_OK));
    cr_expect(got == 10 && total == n && !memcmp(buf, p + n - 10, 10));
    cr_assert(eq(int, larder_read(l, URI, 5, buf, 3, WAIT, &got, &total, &err), LARDER_OK));
    cr_expect(got == 3 && !memcmp(buf, p + 5, 3), "what is more than the range is left");
    cr_assert(eq(int, larder_read(l, URI, 5, NULL, 0, WAIT, &got, &total, &err), LARDER_OK));
    cr_expect(got == 0 && total == n);
    cr_assert(eq(int, larder_read(l, URI, n + 5, buf, 3, WAIT, &got, &total, &err), LARDER_OK));
    cr_expect(got == 0 && total == n);
    o = get_range(URI, n + 5, 10, WAIT);
    cr_expect(holds(o, p, 0, n, n));
    larder_object_free(&o);
    cr_expect(eq(int, agent.asks, 5));
    free(p);
    free(buf);
}

Test(get, a_view_of_a_range_is_bound_by_the_bytes_of_the_range)
{
    size_t n = 20 * LDR_MIB;
    uint8_t *p = pattern(n);
    struct larder_object *o;

    start_agent(say_bytes);
    agent.data = p;
    agent.len = n;
    o = get_range(URI, LDR_MIB, 8 * LDR_MIB, WAIT);
    cr_expect(holds(o, p + LDR_MIB, 8 * LDR_MIB, LDR_MIB, n));
    larder_object_free(&o);
    agent.asks = 0;
    cr_expect(eq(int, larder_get_range(l, URI, LDR_MIB, 8 * LDR_MIB + 1, WAIT, &o, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, URI) && strstr(err.msg, "8388609 of its 20971520") && strstr(err.msg, "max_size"), "%s",
              err.msg);
    cr_expect(eq(int, agent.asks, 1));
    free(p);
}

static int twisted;

/* An answer to the range [1000, 1100) of 5,000 bytes that is wrong in one way. */
static enum fake_action say_twisted(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    agent.chunk = 50;
    say_bytes(user, req, r);
    switch (twisted) {
    case 0:
        r->bytes.offset = 0;
        break;
    case 1:
        r->bytes.data.len = 0;
        break;
    case 2:
        r->meta.size = 1049; /* less than there is */
        break;
    case 3:
        r->meta.size = 900; /* it ends before the range, and yet there are bytes */
        break;
    case 4:
        r->bytes.offset += agent.asks == 2; /* a hole in the middle */
        break;
    case 5:
        r->bytes.data.len = agent.asks == 2 ? 0 : 50;
        break;
    default:
        r->meta.size = r->bytes.offset = 900;
        break; /* bytes, though it says that it ends before */
    }
    return FAKE_SEND;
}

Test(get, answers_to_a_range_that_make_no_sense_are_unavailable)
{
    uint8_t *p = pattern(5000);
    struct larder_object *o = NULL;
    char buf[100];
    size_t got = 7;

    start_agent(say_twisted);
    agent.data = p;
    agent.len = 5000;
    for (twisted = 0; twisted < 7; twisted++) {
        agent.asks = 0;
        cr_expect(eq(int, larder_get_range(l, URI, 1000, 100, WAIT, &o, &err), LARDER_UNAVAILABLE), "%d", twisted);
        agent.asks = 0;
        cr_expect(eq(int, larder_read(l, URI, 1000, buf, 100, WAIT, &got, NULL, NULL), LARDER_UNAVAILABLE));
    }
    cr_expect(got == 7 && !o, "outputs are written on success only");
    free(p);
}

/* A new generation, made while the agent is asked: its first answer is bytes, and names it. */
static enum fake_action say_bytes_of_a_new_generation(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    if (agent.asks == 1) {
        mini_new_generation(&mini);
        agent.id = mini_add(
            &mini, URI,
            &(struct mini_object){ .data = agent.data, .len = agent.len, .block_log2 = 23, .fresh_until_ns = 1 });
        mini_publish(&mini);
    }
    say_bytes(user, req, r);
    r->msg.nonce = mini.format.nonce;
    r->msg.object_id.data = agent.id.b;
    r->msg.object_id.len = sizeof agent.id.b;
    return FAKE_SEND;
}

Test(get, bytes_in_an_answer_that_leads_to_a_cache_are_left_for_the_cache)
{
    size_t n = 9 * LDR_MIB;
    uint8_t *p = pattern(n);
    struct larder_object *o;

    mini_publish(&mini);
    mini_retire(&mini);
    cr_expect(eq(int, get_kind(URI, 0), LARDER_TIMEOUT));
    start_agent(say_bytes_of_a_new_generation);
    agent.data = p;
    agent.len = n;
    o = get_range(URI, 0, 0, WAIT); /* too large for a view that is no mapping */
    cr_expect(holds(o, p, n, 0, n));
    cr_expect(eq(int, agent.asks, 1));
    cr_expect(agent.want_bytes);
    larder_object_free(&o);
    free(p);
}

/* ---- streams ---- */

static int block_areas(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    int n = 0;

    while (fgets(line, sizeof line, f))
        n += strstr(line, "/blocks/") != NULL;
    fclose(f);
    return n;
}

/* A reader of a stream: it keeps the bytes, and does something at its n-th piece. */
struct reader {
    struct sink sink;
    int most_areas, at;
    void (*act)(void);
};

static enum larder_kind read_on(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct reader *r = user;
    int areas = block_areas();

    r->most_areas = areas > r->most_areas ? areas : r->most_areas;
    if (r->act && r->sink.calls + 1 == r->at)
        r->act();
    return take(&r->sink, p, n, offset, size);
}

Test(get, a_stream_maps_a_block_at_a_time_and_asks_for_those_that_are_missing)
{
    size_t n = 5 * KIB64 + 77;
    uint8_t *p = add_blocks(n, NULL), *buf = calloc(1, n);
    struct reader r = { .sink.to = buf };

    cr_assert(eq(int, larder_stream(l, URI, 0, read_on, &r, &err), LARDER_OK));
    cr_expect(r.sink.next == n && r.sink.size == n && !memcmp(buf, p, n));
    cr_expect(eq(int, r.sink.calls, 6));
    cr_expect(eq(int, r.most_areas, 1));
    cr_expect(eq(int, block_areas(), 0), "nothing is kept of it");
    cr_expect(eq(u64, counts().hits, 1), "it is one hit");

    start_agent(say_filled);
    drop(1, 2);
    drop(5, 5);
    memset(buf, 0, n);
    r = (struct reader){ .sink.to = buf };
    cr_assert(eq(int, larder_stream(l, URI, WAIT, read_on, &r, &err), LARDER_OK));
    cr_expect(r.sink.next == n && !memcmp(buf, p, n));
    cr_expect(eq(int, r.most_areas, 1));
    cr_expect(eq(int, agent.asks, 3));
    expect_asked(0, KIB64, KIB64, n - 2 * KIB64);
    expect_asked(1, 2 * KIB64, KIB64, n - 3 * KIB64);
    expect_asked(2, 5 * KIB64, 77, 0);
    cr_expect(eq(u64, counts().hits, 1), "and this one is none");
    free(p);
    free(buf);
}

Test(get, a_stream_of_what_is_not_in_the_cache_asks_for_a_window_and_what_lies_ahead)
{
    size_t n = 3 * KIB64;
    uint8_t *p = add_blocks(n, NULL), *buf = calloc(1, n);
    struct reader r = { .sink.to = buf };

    start_agent(say_look);
    mini_remove(&mini, URI);
    mini_publish(&mini);
    cr_expect(eq(int, larder_stream(l, URI, WAIT, read_on, &r, &err), LARDER_UNAVAILABLE), "it says look, and lies");
    expect_asked(0, 0, 8 * LDR_MIB, 64 * LDR_MIB);
    cr_expect(agent.ranges[3].want_bytes && !agent.ranges[2].want_bytes);
    free(p);
    free(buf);
}

Test(get, a_stream_uses_a_mapping_that_is_kept)
{
    size_t n = 3 * KIB64;
    uint8_t *p = add_blocks(n, NULL), *buf = calloc(1, n);
    struct reader r = { .sink.to = buf };
    struct larder_object *o = get_range(URI, 0, 0, 0);

    drop(0, 2);
    cr_assert(eq(int, larder_stream(l, URI, 0, read_on, &r, &err), LARDER_OK));
    cr_expect(r.sink.next == n && !memcmp(buf, p, n));
    cr_expect(eq(u64, counts().kept, 3));
    larder_object_free(&o);
    free(p);
    free(buf);
}

static const char *new_validator;

/* The object is stored anew: same size, other bytes, other id. */
static void replace_it(void)
{
    struct ldr_meta meta;

    ldr_meta_init(&meta);
    if (new_validator)
        ldr_meta_add_text(&meta, LDR_TAG_VALIDATOR, new_validator);
    agent.object.meta = &meta;
    agent.id = mini_add(&mini, URI, &agent.object);
    mini_publish(&mini);
    agent.object.meta = NULL;
    ldr_meta_release(&meta);
}

static enum larder_kind stream_over(const char *old_validator, const char *validator)
{
    size_t n = 3 * KIB64;
    uint8_t *buf = calloc(1, n), *p;
    struct reader r = { .sink.to = buf, .at = 2, .act = replace_it };
    struct ldr_meta meta;
    enum larder_kind k;

    ldr_meta_init(&meta);
    if (old_validator)
        ldr_meta_add_text(&meta, LDR_TAG_VALIDATOR, old_validator);
    p = add_blocks(n, &meta);
    new_validator = validator;
    k = larder_stream(l, URI, 0, read_on, &r, &err);
    cr_expect(eq(int, r.sink.calls, k ? 2 : 3));
    ldr_meta_release(&meta);
    free(p);
    free(buf);
    return k;
}

Test(get, a_stream_is_of_one_version)
{
    cr_expect(eq(int, stream_over(NULL, NULL), LARDER_PRECONDITION));
    cr_expect(strstr(err.msg, "changed while it was read") != NULL, "%s", err.msg);
    cr_expect(eq(int, stream_over("\"a\"", "\"b\""), LARDER_PRECONDITION));
    cr_expect(eq(int, stream_over("W/\"a\"", "W/\"a\""), LARDER_PRECONDITION), "a weak one proves nothing");
    cr_expect(eq(int, stream_over("\"a\"", NULL), LARDER_PRECONDITION));
    cr_expect(eq(int, stream_over("\"a\"", "\"a\""), LARDER_OK), "fetched anew, and the same bytes");
}

static void end_its_time(void)
{
    mini.hdr->boot++;
}

Test(get, a_stream_that_began_with_a_record_goes_on_with_it_though_it_becomes_stale)
{
    size_t n = 3 * KIB64;
    uint8_t *p = pattern(n), *buf = calloc(1, n);
    struct reader r = { .sink.to = buf, .at = 2, .act = end_its_time };

    agent.object =
        (struct mini_object){ .data = p, .len = n, .block_log2 = 16, .fresh_until_ns = LDR_FRESH_ALWAYS - 1 };
    agent.id = mini_add(&mini, URI, &agent.object);
    mini_publish(&mini);
    cr_assert(eq(int, larder_stream(l, URI, 0, read_on, &r, &err), LARDER_OK), "%s", err.msg);
    cr_expect(r.sink.next == n && !memcmp(buf, p, n));
    cr_expect(eq(int, get_kind(URI, 0), LARDER_TIMEOUT), "stale it is");

    start_agent(say_look);
    memset(buf, 0, n);
    r = (struct reader){ .sink.to = buf };
    cr_assert(eq(int, larder_stream(l, URI, WAIT, read_on, &r, &err), LARDER_OK));
    cr_expect(r.sink.next == n && !memcmp(buf, p, n));
    cr_expect(eq(int, agent.asks, 1), "the record that was named serves all of it");
    free(p);
    free(buf);
}

static enum larder_kind stream_with_chunks(const char *in_record, const char *in_chunks)
{
    size_t n = 4 * KIB64 + 5;
    uint8_t *p, *buf = calloc(1, n);
    struct reader r = { .sink.to = buf };
    struct ldr_meta meta;
    enum larder_kind k;

    ldr_meta_init(&meta);
    if (in_record)
        ldr_meta_add_text(&meta, LDR_TAG_VALIDATOR, in_record);
    p = add_blocks(n, &meta);
    drop(1, 2);
    start_agent(say_bytes); /* of what is missing only the bytes are to be had */
    agent.data = p;
    agent.len = n;
    agent.chunk = 40000;
    agent.validator = in_chunks;
    agent.asks = 0;
    k = larder_stream(l, URI, WAIT, read_on, &r, &err);
    if (!k)
        cr_expect(r.sink.next == n && !memcmp(buf, p, n));
    ldr_meta_release(&meta);
    free(p);
    free(buf);
    return k;
}

Test(get, a_stream_takes_from_the_agent_what_it_cannot_read_if_it_is_of_the_same_version)
{
    cr_expect(eq(int, stream_with_chunks("\"a\"", "\"a\""), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, agent.asks, 4), "two chunks for each of two blocks");
    expect_asked(0, KIB64, KIB64, 2 * KIB64 + 5);
    expect_asked(1, KIB64 + 40000, KIB64 - 40000, 2 * KIB64 + 5);
    expect_asked(2, 2 * KIB64, KIB64, KIB64 + 5);
    cr_expect(eq(int, stream_with_chunks("\"a\"", "\"b\""), LARDER_PRECONDITION));
    cr_expect(eq(int, stream_with_chunks(NULL, NULL), LARDER_PRECONDITION), "nothing tells that it is the same");
    cr_expect(eq(int, stream_with_chunks("W/\"a\"", "W/\"a\""), LARDER_PRECONDITION));
}

static void cache_it(void)
{
    new_validator = "\"v1\"";
    replace_it();
}

Test(get, a_stream_that_began_in_chunks_goes_on_in_the_cache)
{
    size_t n = 8 * LDR_MIB + 100000;
    uint8_t *p = pattern(n), *buf = calloc(1, n);
    struct reader r = { .sink.to = buf, .at = 3, .act = cache_it };

    start_agent(say_bytes);
    agent.object = (struct mini_object){ .data = p, .len = n, .block_log2 = 23 };
    agent.data = p;
    agent.len = n;
    cr_assert(eq(int, larder_stream(l, URI, WAIT, read_on, &r, &err), LARDER_OK), "%s", err.msg);
    cr_expect(r.sink.next == n && !memcmp(buf, p, n));
    cr_expect(eq(int, agent.asks, 32), "one window of 8 MiB");
    expect_asked(0, 0, 8 * LDR_MIB, 64 * LDR_MIB);
    expect_asked(1, LDR_WIRE_CHUNK, 8 * LDR_MIB - LDR_WIRE_CHUNK, 100000);
    free(p);
    free(buf);
}

/* ---- the touch page ---- */

#define BITS LDR_TOUCH_BITS_MIN

static struct ldr_touch_cell last[LDR_TOUCH_CELLS], total[LDR_TOUCH_PREFIXES];

static void expect_told(int fd, unsigned prefix, uint64_t hits, uint64_t bytes)
{
    ldr_touch_gather(fd, BITS, 3600 * LDR_NS_PER_S, last, total);
    cr_expect(eq(u64, total[prefix].hits, hits));
    cr_expect(eq(u64, total[prefix].bytes, bytes));
}

Test(get, hits_are_told_by_the_touch_page)
{
    size_t n = 5 * KIB64 + 77, got;
    uint8_t *p = pattern(n), *buf = malloc(n);
    struct ldr_id small;
    struct larder_object *o;
    struct sink s = { .to = buf };
    struct larder_meta *meta;
    int fd = mini_touch(&mini, BITS);

    larder_close(&l);
    agent.object = (struct mini_object){ .data = p, .len = n, .block_log2 = 16, .prefix = 3 };
    agent.id = mini_add(&mini, URI, &agent.object);
    small = mini_add(&mini, "s3://b/small", &(struct mini_object){ .data = "small", .len = 5, .prefix = 4 });
    mini_publish(&mini);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));

    cr_assert(eq(int, larder_head(l, URI, 0, &meta, &err), LARDER_OK));
    larder_meta_free(&meta);
    cr_expect(eq(int, larder_get_into(l, URI, buf, 10, 0, NULL, &err), LARDER_LIMIT_EXCEEDED));
    expect_told(fd, 3, 0, 0);
    for (uint32_t i = 0; i < 6; i++)
        cr_expect(not(ldr_touch_take(fd, &agent.id, i, BITS)), "no bytes were read of %u", i);

    cr_assert(eq(int, larder_read(l, URI, KIB64 + 1, buf, KIB64, 0, &got, NULL, &err), LARDER_OK));
    expect_told(fd, 3, 1, KIB64);
    for (uint32_t i = 0; i < 6; i++)
        cr_expect(eq(int, ldr_touch_take(fd, &agent.id, i, BITS), i == 1 || i == 2), "%u", i);
    o = get_range(URI, 5 * KIB64, 0, 0);
    larder_object_free(&o);
    expect_told(fd, 3, 2, KIB64 + 77);
    for (uint32_t i = 0; i < 6; i++)
        cr_expect(eq(int, ldr_touch_take(fd, &agent.id, i, BITS), i == 5), "%u", i);
    cr_assert(eq(int, larder_stream(l, URI, 0, take, &s, &err), LARDER_OK));
    expect_told(fd, 3, 3, KIB64 + 77 + n);
    for (uint32_t i = 0; i < 6; i++)
        cr_expect(ldr_touch_take(fd, &agent.id, i, BITS), "%u", i);

    expect_text("s3://b/small", "small", true);
    expect_told(fd, 4, 1, 5);
    cr_expect(ldr_touch_take(fd, &small, 0, BITS));

    start_agent(say_filled);
    drop(0, 0);
    o = get_range(URI, 0, 10, WAIT);
    larder_object_free(&o);
    expect_told(fd, 3, 3, KIB64 + 77 + n);
    cr_expect(not(ldr_touch_take(fd, &agent.id, 0, BITS)), "the fill's own reader");

    mini_retire(&mini);
    mini_new_generation(&mini);
    add("s3://b/small", "again", 5);
    expect_text("s3://b/small", "again", true);
    expect_told(fd, 4, 1, 5);
    close(fd);
    free(p);
    free(buf);
}

Test(get, a_touch_page_that_may_not_be_written_is_done_without)
{
    char path[MINI_PATH_MAX];
    int fd = mini_touch(&mini, BITS);

    larder_close(&l);
    add(URI, "hello", 5);
    cr_assert(ftruncate(fd, 100) == 0);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    expect_text(URI, "hello", true);
    larder_close(&l);
    snprintf(path, sizeof path, "%s/" LDR_NAME_TOUCH, dir);
    cr_assert(unlink(path) == 0);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    expect_text(URI, "hello", true);
    close(fd);
}

/* ---- processes and threads ---- */

static enum fake_action say_who(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    static struct ldr_meta meta;

    (void)user;
    ldr_meta_init(&meta);
    meta.size_bytes = strlen(req->get->key);
    fake_bytes(r, req->get->key, strlen(req->get->key), 0, &meta, "");
    return FAKE_SEND;
}

/* Ask for things that only the agent has: each answer must be that of the question. */
static bool ask_many(const char *who, int n)
{
    bool ok = true;

    for (int i = 0; i < n; i++) {
        char uri[64];
        struct larder_object *o = NULL;

        sprintf(uri, "s3://b/%s-%d", who, i);
        if (larder_get(l, uri, WAIT, &o, NULL) || larder_object_size(o) != strlen(uri) ||
            memcmp(larder_object_data(o), uri, strlen(uri)))
            ok = false;
        larder_object_free(&o);
    }
    return ok;
}

Test(get, a_forked_child_goes_on_with_mappings_and_connections_of_its_own)
{
    size_t n = 100000;
    uint8_t *p = pattern(n);
    struct larder_object *o, *again;
    pid_t child;
    int status;

    mini_add(&mini, URI, &(struct mini_object){ .data = p, .len = n, .block_log2 = BLOCK });
    mini_publish(&mini);
    start_agent(say_who);
    cr_assert(eq(int, larder_get(l, URI, 0, &o, &err), LARDER_OK));
    cr_assert(ask_many("before", 3));
    cr_expect(eq(int, agent.agent.connections, 1));
    child = fork();
    if (child == 0) {
        bool ok = !memcmp(larder_object_data(o), p, n) && larder_get(l, URI, 0, &again, NULL) == LARDER_OK &&
                  !memcmp(larder_object_data(again), p, n) && ask_many("child", 200);

        larder_object_free(&o);
        larder_object_free(&again);
        larder_close(&l);
        _exit(ok ? 0 : 1);
    }
    cr_expect(ask_many("parent", 200));
    cr_assert(waitpid(child, &status, 0) == child);
    cr_expect(eq(int, status, 0));
    cr_expect(eq(int, agent.agent.connections, 2), "the child opened one, the parent went on with its own");
    cr_expect(ask_many("after", 3));
    larder_object_free(&o);
    free(p);
}

static _Atomic bool stop;
static _Atomic int failures;

static void *read_all_the_time(void *user)
{
    unsigned seed = (unsigned)(uintptr_t)user;

    while (!stop) {
        char uri[64];
        struct larder_object *o = NULL;
        unsigned i = (unsigned)rand_r(&seed) % 20;

        sprintf(uri, "s3://b/%u", i);
        if (larder_get(l, uri, 0, &o, NULL) == LARDER_OK) {
            const uint8_t *p = larder_object_data(o);

            for (size_t j = 0; j < larder_object_size(o); j++)
                if (p[j] != (uint8_t)i)
                    failures++;
        }
        larder_object_free(&o);
    }
    return NULL;
}

Test(get, threads_read_while_generations_come_and_go)
{
    pthread_t t[3];
    uint8_t p[6000];

    for (uintptr_t i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, read_all_the_time, (void *)(i + 1));
    for (int g = 0; g < 30; g++) {
        for (int i = 0; i < 20; i++) {
            char uri[64];

            sprintf(uri, "s3://b/%d", i);
            memset(p, i, sizeof p);
            mini_add(&mini, uri, &(struct mini_object){ .data = p, .len = 200 + 250 * (size_t)i });
        }
        mini_publish(&mini);
        usleep(2000); /* a while of reading; nothing depends on it */
        mini_retire(&mini);
        mini_new_generation(&mini);
    }
    stop = true;
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    cr_expect(eq(int, failures, 0));
    cr_expect(gt(u64, counts().hits, 0));
}

/* ---- where the cache is ---- */

Test(get, the_directory_comes_from_the_environment)
{
    char xdg[TEST_DIR_MAX + 8], cache[TEST_DIR_MAX + 16];
    struct mini m;

    larder_close(&l);
    add(URI, "hello", 5);
    setenv("LARDER_CACHE_DIR", dir, 1);
    cr_assert(eq(int, larder_open(NULL, &l, &err), LARDER_OK));
    expect_text(URI, "hello", true);
    larder_close(&l);
    setenv("LARDER_CACHE_DIR", "", 1);
    cr_expect(eq(int, larder_open(NULL, &l, &err), LARDER_INVALID));
    unsetenv("LARDER_CACHE_DIR");

    snprintf(xdg, sizeof xdg, "%.180s/xdg", dir);
    snprintf(cache, sizeof cache, "%s/larder", xdg);
    cr_assert(mkdir(xdg, 0750) == 0 && mkdir(cache, 0750) == 0);
    mini_open(&m, cache, 0);
    mini_add(&m, URI, &(struct mini_object){ .data = "xdg", .len = 3 });
    mini_publish(&m);
    setenv("XDG_CACHE_HOME", xdg, 1);
    cr_assert(eq(int, larder_open(NULL, &l, &err), LARDER_OK));
    if (access("/var/cache/larder/format", F_OK) != 0)
        expect_text(URI, "xdg", true);
    mini_close(&m);
}

Test(get, a_relative_directory_stays_the_same_when_the_host_moves)
{
    add(URI, "hello", 5);
    larder_close(&l);
    cr_assert(chdir(dir) == 0);
    cr_assert(eq(int, larder_open(".", &l, &err), LARDER_OK));
    cr_assert(chdir("/") == 0);
    expect_text(URI, "hello", true);
    mini_retire(&mini);
    mini_new_generation(&mini);
    add(URI, "again", 5);
    expect_text(URI, "again", true);
}

Test(get, the_endpoint_may_be_elsewhere)
{
    char elsewhere[TEST_DIR_MAX];

    test_dir_make(elsewhere);
    larder_close(&l);
    fake_start(&agent.agent, elsewhere, answer, NULL);
    agent.then = say_not_found;
    char ipc[TEST_DIR_MAX + 8];
    snprintf(ipc, sizeof ipc, "%s/ipc", elsewhere);
    setenv("LARDER_ENDPOINT", ipc, 1);
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    cr_expect(eq(int, get_kind(URI, WAIT), LARDER_NOT_FOUND));
    fake_stop(&agent.agent);
    test_dir_remove(elsewhere);
}
