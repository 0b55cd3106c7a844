/* basic_test.c - put, get, head and delete through larderd on every store: what is read, what it costs, and what a
 * restart leaves. */
#include "tests/e2e/e2e.h"

#include <sys/stat.h>

static struct {
    struct s3_server s3;
    struct agent agent;
    struct larder *l;
    char dir[TEST_DIR_MAX]; /* of the server */
    const char *base;       /* "file://box/" */
    bool local, memory;
} t;

static char uri_text[256];

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

/* ---- the stores ---- */

static void prepare_local(void)
{
    t.base = "file://box/";
    t.local = true;
    agent_init(&t.agent, NULL);
}

static void prepare_memory(void)
{
    t.base = "mem://box/";
    t.memory = true;
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

static void go(void)
{
    agent_start(&t.agent);
    t.l = agent_open(&t.agent);
}

static void leave(void)
{
    larder_close(&t.l);
    agent_release(&t.agent);
    s3_server_stop(&t.s3);
    test_dir_remove(t.dir);
}

TestSuite(basic, .fini = leave, .timeout = 60);

/* One body, one test a store that can be filled without larder. */
#define FOR_EVERY_STORE(name)                                                                                          \
    static void name(void);                                                                                            \
    Test(basic, name##__local)                                                                                         \
    {                                                                                                                  \
        prepare_local();                                                                                               \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(basic, name##__s3_on_test_server)                                                                             \
    {                                                                                                                  \
        prepare_test_server();                                                                                         \
        name();                                                                                                        \
    }                                                                                                                  \
    Test(basic, name##__s3_on_versitygw)                                                                               \
    {                                                                                                                  \
        prepare_versitygw();                                                                                           \
        name();                                                                                                        \
    }                                                                                                                  \
    static void name(void)

#define FOR_EVERY_STORE_AND_MEMORY(name)                                                                               \
    static void name(void);                                                                                            \
    Test(basic, name##__memory)                                                                                        \
    {                                                                                                                  \
        prepare_memory();                                                                                              \
        name();                                                                                                        \
    }                                                                                                                  \
    FOR_EVERY_STORE(name)

/* ---- written and read ---- */

static const size_t sizes[] = { 0, 1, 4096, 64 * LDR_KIB, 128 * LDR_KIB, 128 * LDR_KIB + 1, LDR_MIB, 8 * LDR_MIB };

FOR_EVERY_STORE_AND_MEMORY(what_was_put_is_read_without_asking_the_agent)
{
    uint8_t *bytes = bd_bytes(8 * LDR_MIB, 1);
    struct larder *other;
    uint64_t asks, requests;

    go();
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char key[16];

        snprintf(key, sizeof key, "k%zu", i);
        put_bytes(t.l, uri(key), bytes + i, sizes[i] - (sizes[i] > i ? i : 0));
    }
    other = agent_open(&t.agent);
    asks = counts_of(t.l).asks;
    requests = agent_requests(&t.agent);
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char key[16];
        size_t n = sizes[i] - (sizes[i] > i ? i : 0);
        struct larder_object *o = NULL;

        snprintf(key, sizeof key, "k%zu", i);
        expect_bytes(t.l, uri(key), bytes + i, n);
        expect_bytes(t.l, uri(key), bytes + i, n);
        expect_bytes(other, uri(key), bytes + i, n);
        cr_assert(eq(int, larder_get(other, uri(key), 0, &o, NULL), LARDER_OK));
        cr_expect(eq(int, larder_object_was_hit(o), 1));
        larder_object_free(&o);
    }
    cr_expect(eq(u64, counts_of(t.l).asks, asks));
    cr_expect(eq(u64, counts_of(t.l).hits, 2 * LDR_ARRAY_LEN(sizes)));
    cr_expect(eq(u64, counts_of(other).asks, 0));
    cr_expect(eq(u64, agent_requests(&t.agent), requests));
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 0));
    cr_expect(eq(u64, agent_counter(&t.agent, "store_puts"), LDR_ARRAY_LEN(sizes)));
    larder_close(&other);
    free(bytes);
}

/* A head of object "a", checked; true: nobody was asked. */
static bool head_without_asking(bool with_user)
{
    uint64_t asks = counts_of(t.l).asks;
    struct larder_meta *m = NULL;
    struct larder_err err = { 0 };
    const char *name, *value;
    bool blue = false, round = false;

    cr_assert(eq(int, larder_head(t.l, uri("a"), LONG_MS, &m, &err), LARDER_OK), "%s", err.msg);
    cr_expect(larder_meta_exists(m));
    cr_expect(eq(u64, larder_meta_size(m), 5));
    cr_expect(larder_meta_last_modified(m) > 1500000000);
    if (!t.local) {
        cr_assert(larder_meta_text(m, LARDER_META_CONTENT_TYPE) != NULL);
        cr_expect(eq(str, (char *)larder_meta_text(m, LARDER_META_CONTENT_TYPE), "text/plain"));
    }
    for (size_t n = 0; larder_meta_user(m, n, &name, &value); n++) {
        blue |= !strcmp(name, "colour") && !strcmp(value, "blue");
        round |= !strcmp(name, "shape") && !strcmp(value, "round");
    }
    cr_expect(eq(int, blue &&round, with_user));
    larder_meta_free(&m);
    return counts_of(t.l).asks == asks;
}

FOR_EVERY_STORE_AND_MEMORY(a_head_tells_what_was_put)
{
    static const char *const user[] = { "colour", "blue", "Shape", "round" };
    struct larder_put_opts opts = {
        .struct_size = sizeof opts, .content_type = "text/plain", .user = user, .n_user = t.local ? 0 : 2
    };
    struct larder_err err = { 0 };
    uint64_t heads;

    go();
    cr_assert(eq(int, larder_put(t.l, uri("a"), "hello", 5, &opts, LONG_MS, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, head_without_asking(opts.n_user > 0), false), "a put does not tell the object's date");
    agent_wait_until(head_without_asking(opts.n_user > 0));
    heads = agent_counter(&t.agent, "store_heads");
    cr_expect(head_without_asking(opts.n_user > 0));
    cr_expect(eq(u64, agent_counter(&t.agent, "store_heads"), heads));
    expect_text(t.l, uri("a"), "hello");
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 0));
}

FOR_EVERY_STORE_AND_MEMORY(a_deleted_object_is_gone_at_once)
{
    struct larder_meta *m = NULL;
    struct larder_err err = { 0 };

    go();
    put_text(t.l, uri("a"), "hello");
    expect_text(t.l, uri("a"), "hello");
    cr_assert(eq(int, larder_delete(t.l, uri("a"), LONG_MS, &err), LARDER_OK), "%s", err.msg);
    expect_kind(t.l, uri("a"), LONG_MS, LARDER_NOT_FOUND, NULL);
    cr_assert(eq(int, larder_head(t.l, uri("a"), LONG_MS, &m, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, larder_meta_exists(m), 0));
    larder_meta_free(&m);
    cr_expect(eq(int, larder_delete(t.l, uri("a"), LONG_MS, &err), LARDER_OK), "twice: %s", err.msg);
    put_text(t.l, uri("a"), "again");
    expect_text(t.l, uri("a"), "again");
}

/* ---- cold ---- */

FOR_EVERY_STORE(a_cold_object_is_fetched_once_and_then_read_by_all)
{
    uint8_t *bytes = bd_bytes(8 * LDR_MIB, 2);
    struct larder *other;
    uint64_t requests;

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char key[16];

        snprintf(key, sizeof key, "k%zu", i);
        seed(key, bytes, sizes[i]);
    }
    go();
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        struct larder_object *o = NULL;
        struct larder_err err = { 0 };
        char key[16];

        snprintf(key, sizeof key, "k%zu", i);
        cr_assert(eq(int, larder_get(t.l, uri(key), LONG_MS, &o, &err), LARDER_OK), "%s", err.msg);
        cr_expect(eq(int, larder_object_was_hit(o), 0));
        cr_expect(eq(u64, larder_object_size(o), sizes[i]));
        cr_expect(eq(int, memcmp(larder_object_data(o), bytes, sizes[i]), 0));
        larder_object_free(&o);
        cr_expect(eq(u64, counts_of(t.l).asks, i + 1));
    }
    other = agent_open(&t.agent);
    requests = agent_requests(&t.agent);
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++) {
        char key[16];

        snprintf(key, sizeof key, "k%zu", i);
        expect_bytes(t.l, uri(key), bytes, sizes[i]);
        expect_bytes(other, uri(key), bytes, sizes[i]);
    }
    cr_expect(eq(u64, counts_of(other).asks, 0));
    cr_expect(eq(u64, agent_requests(&t.agent), requests));
    /* a range of an empty object is an error to S3: its head is asked for then */
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), LDR_ARRAY_LEN(sizes) + !strncmp(uri("k"), "s3:", 3)));
    cr_expect(eq(u64, agent_counter(&t.agent, "objects"), LDR_ARRAY_LEN(sizes)));
    larder_close(&other);
    free(bytes);
}

Test(basic, an_object_is_kept_in_the_index_up_to_the_limit_and_in_a_block_beyond)
{
    uint8_t *bytes = bd_bytes(24000, 4);
    size_t low = 1, high = 20464; /* in the index · in a block */
    char key[32];

    prepare_local();
    go();
    while (high - low > 1) {
        size_t n = (low + high) / 2;

        snprintf(key, sizeof key, "try%zu", n);
        put_bytes(t.l, uri(key), bytes, n);
        if (agent_counter(&t.agent, "block_files"))
            high = n;
        else
            low = n;
        cr_assert(eq(int, larder_delete(t.l, uri(key), LONG_MS, NULL), LARDER_OK));
        agent_wait_until(agent_counter(&t.agent, "block_files") == 0);
    }
    cr_expect(low < 20464 - 88 && low > 20464 - 88 - 300, "%zu bytes beside a head of 88 and its fields", low);
    for (size_t n = low - 1; n <= high; n++) {
        snprintf(key, sizeof key, "put%zu", n);
        put_bytes(t.l, uri(key), bytes, n);
        expect_bytes(t.l, uri(key), bytes, n);
        snprintf(key, sizeof key, "get%zu", n);
        seed(key, bytes, n);
        expect_bytes(t.l, uri(key), bytes, n);
        expect_bytes(t.l, uri(key), bytes, n);
    }
    cr_expect(eq(u64, agent_counter(&t.agent, "objects"), 6));
    free(bytes);
}

Test(basic, long_keys_that_begin_alike_are_different_objects)
{
    char a[1000], b[1000];

    prepare_test_server();
    go();
    memset(a, 'k', sizeof a);
    memcpy(a, "s3://" S3_BUCKET "/", strlen("s3://" S3_BUCKET "/"));
    a[sizeof a - 1] = '\0';
    memcpy(b, a, sizeof a);
    b[sizeof b - 2] = 'j';
    put_text(t.l, a, "one");
    put_text(t.l, b, "two");
    expect_text(t.l, a, "one");
    expect_text(t.l, b, "two");
    cr_expect(eq(u64, counts_of(t.l).asks, 2));
    cr_expect(eq(u64, counts_of(t.l).hits, 2));
}

/* ---- freshness ---- */

Test(basic, an_immutable_object_is_never_asked_for_again)
{
    prepare_local();
    seed("a", "old", 3);
    go();
    expect_text(t.l, uri("a"), "old");
    seed("a", "new", 3);
    expect_text(t.l, uri("a"), "old");
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1));
}

Test(basic, an_object_is_fetched_anew_when_its_ttl_is_over)
{
    struct larder_err err = { 0 };

    prepare_local();
    agent_set(&t.agent, "LARDER_PREFIXES", "[{match: \"file://\", freshness: ttl 1s}]");
    seed("a", "old", 3);
    go();
    expect_text(t.l, uri("a"), "old");
    seed("a", "new", 3);
    agent_wait_until(reads_as(t.l, uri("a"), "new", 3, &err));
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 2));
    cr_expect(counts_of(t.l).hits >= 1);
}

FOR_EVERY_STORE(with_a_ttl_of_zero_each_get_sees_what_the_store_has)
{
    agent_set(&t.agent, "LARDER_PREFIXES",
              "[{match: \"file://\", freshness: ttl 0s}, {match: \"s3://\", freshness: always}]");
    go();
    for (int i = 0; i < 5; i++) {
        char text[32];

        snprintf(text, sizeof text, "version %d", i);
        seed("a", text, strlen(text));
        expect_text(t.l, uri("a"), text);
    }
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 5));
    cr_expect(eq(u64, agent_counter(&t.agent, "objects"), 1));
}

/* ---- the agent ends and starts ---- */

static bool format_says(const char *line)
{
    char path[TEST_DIR_MAX + 32], text[8192] = "";
    FILE *f;

    snprintf(path, sizeof path, "%s/format", t.agent.cache);
    f = fopen(path, "r");
    cr_assert(f && fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    return has(text, line);
}

FOR_EVERY_STORE(a_restart_keeps_the_cache)
{
    uint8_t *bytes = bd_bytes(LDR_MIB, 5);
    struct larder *other;

    seed("small", "hello", 5);
    seed("block", bytes, LDR_MIB);
    go();
    expect_text(t.l, uri("small"), "hello");
    expect_bytes(t.l, uri("block"), bytes, LDR_MIB);
    cr_expect(format_says("clean=0") || format_says("clean 0"));
    cr_assert(eq(int, agent_stop(&t.agent), 0));
    cr_expect(format_says("clean=1") || format_says("clean 1"));
    for (int i = 0; i < 2; i++) { /* without an agent, and with the next one */
        other = agent_open(&t.agent);
        expect_text(t.l, uri("small"), "hello");
        expect_bytes(t.l, uri("block"), bytes, LDR_MIB);
        expect_text(other, uri("small"), "hello");
        expect_bytes(other, uri("block"), bytes, LDR_MIB);
        cr_expect(eq(u64, counts_of(other).asks, 0));
        larder_close(&other);
        if (i == 0)
            agent_start(&t.agent);
    }
    cr_expect(eq(u64, counts_of(t.l).asks, 2));
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 0));
    cr_expect(eq(u64, agent_counter(&t.agent, "objects"), 2));
    cr_expect(eq(u64, agent_counter(&t.agent, "block_files"), 1));
    free(bytes);
}

Test(basic, a_killed_agent_leaves_its_cache_readable_and_the_next_one_goes_on_with_it)
{
    struct larder_err err = { 0 };
    int64_t before;

    prepare_local();
    seed("warm", "hello", 5);
    seed("cold", "later", 5);
    go();
    expect_text(t.l, uri("warm"), "hello");
    agent_kill(&t.agent);
    expect_text(t.l, uri("warm"), "hello");
    before = ldr_mono_ns();
    expect_kind(t.l, uri("cold"), LONG_MS, LARDER_NO_AGENT, &err);
    cr_expect(ldr_mono_ns() - before < 2 * LDR_NS_PER_S, "at once, not at the deadline");
    cr_expect(eq(int, larder_put(t.l, uri("new"), "x", 1, NULL, LONG_MS, &err), LARDER_NO_AGENT));
    agent_start(&t.agent);
    expect_text(t.l, uri("warm"), "hello");
    expect_text(t.l, uri("cold"), "later");
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1));
    cr_expect(agent_stop(&t.agent) == 0);
}

Test(basic, a_stop_answers_who_waits_and_ends_at_once)
{
    struct larder_err err = { 0 };
    struct larder_object *o = NULL;
    int64_t before;
    pid_t pid;

    prepare_test_server();
    seed("a", "hello", 5);
    go();
    cr_assert(s3_server_hold(&t.s3, "/a"));
    pid = child();
    if (pid == 0) {
        enum larder_kind k = larder_get(t.l, uri("a"), LONG_MS, &o, &err);

        _exit(k == LARDER_CANCELLED || k == LARDER_NO_AGENT || k == LARDER_UNAVAILABLE ? 0 : 1);
    }
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
    before = ldr_mono_ns();
    cr_expect(eq(int, agent_stop(&t.agent), 0));
    cr_expect(ldr_mono_ns() - before < 5 * LDR_NS_PER_S);
    cr_expect(eq(int, join_child(pid), 0));
}

Test(basic, parent_and_child_both_go_on_after_fork)
{
    pid_t pids[4];
    struct larder_err err = { 0 };
    char text[32];

    prepare_local();
    seed("cold", "hello", 5);
    go();
    put_text(t.l, uri("a"), "one"); /* a connection is open now */
    for (int i = 0; i < 4; i++) {
        pids[i] = child();
        if (pids[i] == 0) {
            bool ok = reads_as(t.l, uri("a"), "one", 3, &err) && reads_as(t.l, uri("cold"), "hello", 5, &err);

            snprintf(text, sizeof text, "child %d", i);
            ok = ok && larder_put(t.l, uri(text), text, strlen(text), NULL, LONG_MS, &err) == LARDER_OK &&
                 reads_as(t.l, uri(text), text, strlen(text), &err);
            _exit(ok ? 0 : 1);
        }
    }
    put_text(t.l, uri("b"), "two");
    for (int i = 0; i < 4; i++)
        cr_expect(eq(int, join_child(pids[i]), 0));
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof text, "child %d", i);
        expect_text(t.l, uri(text), text);
    }
    expect_text(t.l, uri("b"), "two");
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1));
}

/* ---- the command ---- */

/* Exit status of `larder …` with this test's cache. */
static int command(const char *fmt, const char *a, const char *b)
{
    char args[1024], line[2048];
    int status;

    snprintf(args, sizeof args, fmt, a, b);
    snprintf(line, sizeof line, "cd %s && LARDER_CACHE_DIR=%s " LDR_TEST_BIN "/larder %s >out 2>err", t.agent.dir,
             t.agent.cache, args);
    status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool output_is(const char *text)
{
    char path[TEST_DIR_MAX + 8], got[4096] = "";
    FILE *f;

    snprintf(path, sizeof path, "%s/out", t.agent.dir);
    f = fopen(path, "r");
    cr_assert(f != NULL);
    got[fread(got, 1, sizeof got - 1, f)] = '\0';
    fclose(f);
    return !strcmp(got, text);
}

Test(basic, the_command_does_what_the_library_does)
{
    prepare_local();
    go();
    cr_expect(eq(int, command("put larderd.yaml %s --quiet%s", "file://box/a", ""), 0));
    cr_expect(eq(int, command("get %s -o back --quiet && cmp back larderd.yaml%s", "file://box/a", ""), 0));
    put_text(t.l, uri("b"), "hello");
    cr_expect(eq(int, command("cat %s%s", "file://box/b", ""), 0));
    cr_expect(output_is("hello"));
    cr_expect(eq(int, command("stat %s %s", "file://box/b", "--json"), 0));
    cr_expect(eq(int, command("rm %s%s", "file://box/b", ""), 0));
    expect_kind(t.l, uri("b"), LONG_MS, LARDER_NOT_FOUND, NULL);
    cr_expect(eq(int, command("cat %s%s", "file://box/b", ""), 3));
    cr_expect(eq(int, command("cat %s%s", "gs://box/b", ""), 1));
    cr_expect(eq(int, command("status%s%s", "", ""), 0));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
    cr_expect(eq(int, command("status%s%s", "", ""), 1));
}
