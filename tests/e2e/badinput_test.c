/* badinput_test.c - what may go wrong, one test each: a clear error or a clean miss, never a crash, a hang or wrong
 * bytes. */
#include "tests/e2e/e2e.h"
#include "common/layout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

static struct {
    struct s3_server s3;
    struct agent agent;
    struct larder *l;
    char dir[TEST_DIR_MAX];             /* of the server */
    char mounted[2][TEST_DIR_MAX + 16]; /* to be unmounted */
} t;

static void leave(void)
{
    larder_close(&t.l);
    agent_kill(&t.agent);
    for (int i = 1; i >= 0; i--)
        if (*t.mounted[i])
            umount2(t.mounted[i], MNT_DETACH);
    agent_release(&t.agent);
    s3_server_stop(&t.s3);
    test_dir_remove(t.dir);
}

TestSuite(badinput, .fini = leave, .timeout = 60);

static void go(void)
{
    agent_start(&t.agent);
    t.l = agent_open(&t.agent);
}

static void start_local(void)
{
    agent_init(&t.agent, NULL);
    go();
}

static void start_server(void)
{
    char reason[512] = "";

    test_dir_make(t.dir);
    need_server(s3_server_start_test(&t.s3, t.dir, reason, sizeof reason), reason);
}

static void start_s3(void)
{
    start_server();
    agent_init(&t.agent, &t.s3);
    go();
}

#define URI "s3://" S3_BUCKET "/a"

/* ---- references and stores ---- */

Test(badinput, an_unknown_scheme_is_invalid_and_the_message_says_which_there_are)
{
    struct larder_err err = { 0 };

    start_local();
    expect_kind(t.l, "gs://bucket/key", LONG_MS, LARDER_INVALID, &err);
    cr_expect(has(err.msg, "\"gs\"") && has(err.msg, "file") && has(err.msg, "mem"), "%s", err.msg);
    cr_expect(eq(int, larder_put(t.l, "gs://bucket/key", "x", 1, NULL, LONG_MS, NULL), LARDER_INVALID));
    cr_expect(eq(int, larder_delete(t.l, "gs://bucket/key", LONG_MS, NULL), LARDER_INVALID));
}

Test(badinput, malformed_references_are_invalid_and_ask_nobody)
{
    static const char *const bad[] = {
        "", "a", "s3:", "s3://", "s3:///key", "://b/k", "file:///abs/olute", "s 3://b/k"
    };
    struct larder_meta *m = NULL;

    start_local();
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        struct larder_err err = { 0 };

        expect_kind(t.l, bad[i], LONG_MS, LARDER_INVALID, &err);
        cr_expect(ne(chr, err.msg[0], 0), "%s", bad[i]);
        cr_expect(eq(int, larder_put(t.l, bad[i], "x", 1, NULL, LONG_MS, NULL), LARDER_INVALID), "%s", bad[i]);
        cr_expect(eq(int, larder_head(t.l, bad[i], LONG_MS, &m, NULL), LARDER_INVALID), "%s", bad[i]);
    }
    cr_expect(eq(u64, counts_of(t.l).asks, 0));
}

Test(badinput, a_missing_object_and_a_missing_container_are_not_found)
{
    struct larder_err err = { 0 };

    start_s3();
    expect_kind(t.l, "file://box/nothing", LONG_MS, LARDER_NOT_FOUND, &err);
    cr_expect(has(err.msg, "file://box/nothing"), "%s", err.msg);
    expect_kind(t.l, "mem://box/nothing", LONG_MS, LARDER_NOT_FOUND, &err);
    expect_kind(t.l, URI, LONG_MS, LARDER_NOT_FOUND, &err);
    cr_expect(eq(int, err.http, 404));
    expect_kind(t.l, "s3://no-such-bucket/a", LONG_MS, LARDER_NOT_FOUND, &err);
    expect_kind(t.l, "file://box/../../larderd.yaml", LONG_MS, LARDER_INVALID, &err);
}

Test(badinput, a_wrong_secret_is_denied_and_stays_out_of_the_log)
{
    struct larder_err err = { 0 };
    char yaml[2048];

    start_server();
    agent_init(&t.agent, &t.s3);
    snprintf(
        yaml, sizeof yaml,
        "storage:\n  type: s3\n  container: " S3_BUCKET "\n  stow:\n    config:\n"
        "      endpoint: \"%s\"\n      access_key_id: \"" S3_ACCESS_KEY "\"\n      secret_key: wrong-and-secret\n"
        "larder:\n  cache: {dir: \"%s\", max_size: 512MiB, min_free: 0, min_free_inodes: 0}\n  log: {level: debug}\n",
        t.s3.endpoint, t.agent.cache);
    agent_configure(&t.agent, yaml);
    agent_seed_s3(&t.s3, "a", "hello", 5);
    go();
    expect_kind(t.l, URI, LONG_MS, LARDER_DENIED, &err);
    cr_expect(eq(int, err.http, 403));
    cr_expect(has(err.msg, URI) && !has(err.msg, "wrong-and-secret"), "%s", err.msg);
    cr_expect(eq(int, larder_put(t.l, URI, "x", 1, NULL, LONG_MS, &err), LARDER_DENIED));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
    cr_expect(eq(int, agent_logged(&t.agent, "wrong-and-secret"), false));
    cr_expect(eq(int, agent_logged(&t.agent, "Signature="), false));
}

/* One rule for GETs of the object; `json` is its action and arguments. */
static void misbehave(const char *json)
{
    char rule[256];

    snprintf(rule, sizeof rule, "[{\"method\": \"GET\", \"key\": \"/a\", %s}]", json);
    cr_assert(s3_server_rules(&t.s3, rule));
}

Test(badinput, bytes_that_do_not_match_their_checksum_are_corrupt_and_never_cached)
{
    uint8_t *bytes = bd_bytes(100000, 1);
    struct larder_err err = { 0 };

    start_s3();
    agent_seed_s3(&t.s3, "a", bytes, 100000);
    misbehave("\"action\": \"wrong_body\"");
    expect_kind(t.l, URI, LONG_MS, LARDER_CORRUPT, &err);
    cr_expect(has(err.msg, URI), "%s", err.msg);
    cr_expect(eq(u64, agent_counter(&t.agent, "objects"), 0));
    misbehave("\"action\": \"wrong_body\", \"count\": 1"); /* a second try may do better */
    expect_bytes(t.l, URI, bytes, 100000);
    expect_bytes(t.l, URI, bytes, 100000);
    free(bytes);
}

Test(badinput, a_server_that_lies_about_lengths_gives_an_error_or_on_a_second_try_the_bytes)
{
    static const char *const lies[] = { "\"action\": \"lie_length\", \"delta\": 10",
                                        "\"action\": \"lie_length\", \"delta\": -10",
                                        "\"action\": \"truncate_body\", \"bytes\": 50000", "\"action\": \"reset\"",
                                        "\"action\": \"garbage\"" };
    uint8_t *bytes = bd_bytes(100000, 2);

    start_s3();
    agent_seed_s3(&t.s3, "a", bytes, 100000);
    for (size_t i = 0; i < LDR_ARRAY_LEN(lies); i++) {
        struct larder_object *o = NULL;
        struct larder_err err = { 0 };
        char once[128];
        enum larder_kind k;

        misbehave(lies[i]);
        k = larder_get(t.l, URI, LONG_MS, &o, &err);
        cr_expect(k == LARDER_UNAVAILABLE || k == LARDER_CORRUPT, "%s: %s %s", lies[i], larder_kind_name(k), err.msg);
        larder_object_free(&o);
        cr_expect(eq(u64, agent_counter(&t.agent, "objects"), 0), "%s", lies[i]);
        snprintf(once, sizeof once, "%s, \"count\": 1", lies[i]);
        misbehave(once);
        expect_bytes(t.l, URI, bytes, 100000);
        cr_assert(s3_server_rules(&t.s3, "[]"));
        cr_assert(eq(int, larder_delete(t.l, URI, LONG_MS, NULL), LARDER_OK));
        agent_seed_s3(&t.s3, "a", bytes, 100000);
    }
    larder_close(&t.l); /* with the mappings that it kept */
    agent_wait_until(agent_counter(&t.agent, "files") == 0);
    free(bytes);
}

Test(badinput, a_store_that_is_down_is_unavailable_within_the_deadline)
{
    struct larder_err err = { 0 };
    int64_t before;

    start_s3();
    s3_server_stop(&t.s3);
    before = ldr_mono_ns();
    expect_kind(t.l, URI, LONG_MS, LARDER_UNAVAILABLE, &err);
    cr_expect(ldr_mono_ns() - before < (LONG_MS - 2000) * LDR_NS_PER_MS);
    cr_expect(has(err.msg, URI), "%s", err.msg);
    cr_expect(eq(int, larder_put(t.l, URI, "x", 1, NULL, LONG_MS, &err), LARDER_UNAVAILABLE), "%s", err.msg);
    expect_kind(t.l, "mem://box/a", LONG_MS, LARDER_NOT_FOUND, &err);
}

/* ---- the agent's start ---- */

/* It must not come up: with this exit code, and this in its log. */
static void expect_refusal(int code, const char *text, const char *more)
{
    cr_expect(eq(int, agent_run(&t.agent), code));
    cr_expect(agent_logged(&t.agent, text), "not in the log: %s", text);
    cr_expect(agent_logged(&t.agent, more), "not in the log: %s", more);
}

Test(badinput, a_configuration_error_names_file_line_and_key)
{
    agent_init(&t.agent, NULL);
    agent_configure(&t.agent, "larder:\n  cache:\n    dir: /nowhere\n    max_size: 10 parsecs\n    colour: blue\n");
    expect_refusal(2, "larderd.yaml:4: larder.cache.max_size", "larderd.yaml:5: larder.cache.colour");
    agent_configure(&t.agent, "larder: [\n");
    expect_refusal(2, "larderd.yaml:", "");
    agent_configure(&t.agent, "storage:\n  type: s3\n");
    expect_refusal(2, "storage.container", "");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "3MiB");
    agent_configure(&t.agent, "");
    expect_refusal(2, "LARDER_CACHE_BLOCK_SIZE", "3MiB");
}

Test(badinput, a_cache_directory_that_cannot_be_written_is_refused)
{
    char path[TEST_DIR_MAX + 32];

    need_root(); /* to be somebody else */
    agent_init(&t.agent, NULL);
    cr_assert(eq(int, mkdir(t.agent.cache, 0755), 0));
    chmod(t.agent.config, 0644);
    snprintf(path, sizeof path, "%s/objects", t.agent.dir);
    chmod(path, 0755);
    t.agent.uid = 65534;
    expect_refusal(3, t.agent.cache, "Permission denied");
}

Test(badinput, a_cache_directory_that_is_a_file_is_refused)
{
    int fd;

    agent_init(&t.agent, NULL);
    fd = open(t.agent.cache, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    cr_assert(fd >= 0);
    close(fd);
    expect_refusal(3, t.agent.cache, "Not a directory");
}

Test(badinput, a_cache_of_a_newer_release_is_refused_and_left_as_it_is)
{
    static const char newer[] = "layout=2\nfuture=1\n";
    char path[TEST_DIR_MAX + 32], back[64] = "";
    FILE *f;

    start_local();
    put_text(t.l, "file://box/a", "hello");
    cr_assert(eq(int, agent_stop(&t.agent), 0));
    snprintf(path, sizeof path, "%s/format", t.agent.cache);
    f = fopen(path, "w");
    cr_assert(f && fputs(newer, f) >= 0 && fclose(f) == 0);
    expect_refusal(3, "has layout 2, made by another release; this one knows layout 1", "use another directory");
    f = fopen(path, "r");
    cr_assert(f && fread(back, 1, sizeof back - 1, f) == strlen(newer));
    fclose(f);
    cr_expect(eq(str, back, (char *)newer));
    expect_kind(t.l, "file://box/b", LONG_MS, LARDER_NO_AGENT, NULL);
}

Test(badinput, a_second_agent_in_the_same_directory_is_refused_and_the_first_goes_on)
{
    struct agent second;
    char pid[32];

    start_local();
    second = t.agent;
    second.pid = 0;
    snprintf(pid, sizeof pid, "pid %d", (int)t.agent.pid);
    cr_expect(eq(int, agent_run(&second), 4));
    cr_expect(agent_logged(&t.agent, pid) && agent_logged(&t.agent, t.agent.cache));
    put_text(t.l, "file://box/a", "hello");
    expect_text(t.l, "file://box/a", "hello");
}

/* A tmpfs of this size, or (size NULL) an overlay, at DIR/`name`. */
static void mount_at(int slot, const char *name, const char *size)
{
    char options[4 * TEST_DIR_MAX], parts[3][TEST_DIR_MAX + 32];

    snprintf(t.mounted[slot], sizeof t.mounted[slot], "%s/%s", t.agent.dir, name);
    cr_assert(eq(int, mkdir(t.mounted[slot], 0755), 0));
    if (size) {
        snprintf(options, sizeof options, "size=%s,mode=755", size);
        cr_assert(eq(int, mount("tmpfs", t.mounted[slot], "tmpfs", 0, options), 0), "%s", strerror(errno));
        return;
    }
    for (int i = 0; i < 3; i++) {
        snprintf(parts[i], sizeof parts[i], "%s/%s", t.mounted[0], i == 0 ? "lower" : i == 1 ? "upper" : "work");
        cr_assert(eq(int, mkdir(parts[i], 0755), 0));
    }
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", parts[0], parts[1], parts[2]);
    cr_assert(eq(int, mount("overlay", t.mounted[slot], "overlay", 0, options), 0), "%s", strerror(errno));
}

Test(badinput, on_an_unsuitable_file_system_all_bytes_come_over_ipc_and_the_log_says_so)
{
    uint8_t *bytes = bd_bytes(8 * LDR_MIB, 3);

    need_root();
    agent_init(&t.agent, NULL);
    mount_at(0, "parts", "64m"); /* an overlay upon an overlay may not be had */
    mount_at(1, "cache", NULL);
    go();
    cr_expect(agent_logged(&t.agent, "fs=overlay"));
    agent_seed_file(&t.agent, "box", "a", bytes, 8 * LDR_MIB);
    agent_seed_file(&t.agent, "box", "empty", bytes, 0);
    for (int i = 0; i < 2; i++) {
        expect_bytes(t.l, "file://box/a", bytes, 8 * LDR_MIB);
        expect_bytes(t.l, "file://box/empty", bytes, 0);
    }
    put_text(t.l, "file://box/b", "hello");
    expect_text(t.l, "file://box/b", "hello");
    cr_expect(eq(u64, counts_of(t.l).hits, 0));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
    free(bytes);
}

/* ---- damage ---- */

#define OBJECTS 300

static size_t size_of(unsigned i)
{
    return i % 3 == 0 ? 3500 : 50 + i; /* on a page of its own, and in the tree's pages */
}

/* Read object i; false: an error. Wrong bytes end the test. */
static bool read_one(struct larder *l, unsigned i, struct larder_err *err)
{
    uint8_t *want = bd_bytes(size_of(i), i);
    struct larder_object *o = NULL;
    char uri[64];
    bool ok;

    snprintf(uri, sizeof uri, "file://box/n%u", i);
    ok = larder_get(l, uri, LONG_MS, &o, err) == LARDER_OK;
    if (ok)
        cr_assert(larder_object_size(o) == size_of(i) && !memcmp(larder_object_data(o), want, size_of(i)),
                  "WRONG BYTES of %s", uri);
    larder_object_free(&o);
    free(want);
    return ok;
}

static void put_many(void)
{
    for (unsigned i = 0; i < OBJECTS; i++) {
        uint8_t *bytes = bd_bytes(size_of(i), i);
        char uri[64];

        snprintf(uri, sizeof uri, "file://box/n%u", i);
        put_bytes(t.l, uri, bytes, size_of(i));
        free(bytes);
    }
}

/* data.mdb, to be written behind everybody's back. */
static uint8_t *map_index(size_t *len)
{
    char path[TEST_DIR_MAX + 64];
    struct stat st;
    uint8_t *p;
    int fd;

    snprintf(path, sizeof path, "%s/gen-1/data.mdb", t.agent.cache);
    fd = open(path, O_RDWR | O_CLOEXEC);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    *len = (size_t)st.st_size;
    p = mmap(NULL, *len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert(p != MAP_FAILED);
    close(fd);
    return p;
}

/* Ruin the head of each n-th page of the tree (not its values: larder finds those only where it is told to verify). */
static void damage_pages(unsigned every, unsigned seed)
{
    size_t len;
    uint8_t *p = map_index(&len), *noise = bd_bytes(LDR_PAGE, seed);

    for (size_t page = 2; page < len / LDR_PAGE; page++)
        if (page % every == seed % every && page < 4096)
            memcpy(p + page * LDR_PAGE, noise, 40 + page % 80);
    munmap(p, len);
    free(noise);
}

Test(badinput, damaged_index_pages_are_a_miss_for_clients_and_a_new_cache_for_the_next_agent)
{
    struct larder_err err = { 0 };
    unsigned read = 0, failed = 0, starts = 0;

    start_local();
    put_many();
    agent_kill(&t.agent);
    for (unsigned round = 0; round < 3; round++) {
        struct larder *fresh;

        damage_pages(7 - 3 * round, round);
        fresh = agent_open(&t.agent);
        for (unsigned i = 0; i < OBJECTS; i++) {
            if (read_one(i % 2 ? t.l : fresh, i, &err)) {
                read++;
            } else {
                failed++;
                cr_expect(eq(int, err.kind, LARDER_NO_AGENT), "%s", err.msg);
            }
        }
        larder_close(&fresh);
    }
    cr_expect(read > 0 && failed > 0, "%u read, %u not", read, failed);
    /* LMDB may crash upon it, at the start or later: after a few starts the cache is dropped. */
    for (unsigned i = 0; i < OBJECTS;) {
        if (!agent_alive(&t.agent)) {
            cr_assert(starts++ < 6, "no agent stays up on a damaged index");
            agent_kill(&t.agent);
            agent_try(&t.agent);
        }
        if (read_one(t.l, i, &err))
            i++;
    }
}

/* Find the record of this key, whose object has `size` bytes, and change one byte of its head. */
static void damage_record(const char *uri, size_t size)
{
    size_t len, n = strlen(uri), found = 0;
    uint8_t *p = map_index(&len), *at = p;

    while ((at = memmem(at, len - (size_t)(at - p), uri, n))) { /* older pages hold it too, and remains of intents */
        struct ldr_record r;

        at += n;
        if (!ldr_record_unpack(at, (size_t)(at[2] | at[3] << 8) + size, uri, n, &r))
            continue;
        at[20] ^= 0x40; /* of the object's id */
        found++;
    }
    munmap(p, len);
    cr_assert(found > 0);
}

Test(badinput, a_damaged_record_is_fetched_anew_and_counted)
{
    start_local();
    put_text(t.l, "file://box/a", "hello");
    expect_text(t.l, "file://box/a", "hello");
    damage_record("file://box/a", 5);
    expect_text(t.l, "file://box/a", "hello");
    cr_expect(counts_of(t.l).damaged >= 1);
    cr_expect(agent_counter(&t.agent, "damaged") >= 1);
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1));
    expect_text(t.l, "file://box/a", "hello");
    cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), 1));
}

/* The path of the only block file. */
static void find_block(char out[TEST_DIR_MAX + 128])
{
    char command[TEST_DIR_MAX + 64];
    FILE *f;

    snprintf(command, sizeof command, "find %s/blocks -type f", t.agent.cache);
    f = popen(command, "r");
    cr_assert(f && fgets(out, TEST_DIR_MAX + 128, f), "there is no block");
    out[strcspn(out, "\n")] = '\0';
    pclose(f);
}

enum harm { SHORTENED, DELETED, LENGTHENED, A_DIRECTORY, A_LINK };

static void harm_block(enum harm harm)
{
    char path[TEST_DIR_MAX + 128];

    find_block(path);
    chmod(path, 0600);
    switch (harm) {
    case SHORTENED:
        cr_assert(eq(int, truncate(path, 1000), 0));
        break;
    case LENGTHENED:
        cr_assert(eq(int, truncate(path, 3 * LDR_MIB), 0));
        break;
    case DELETED:
        cr_assert(eq(int, unlink(path), 0));
        break;
    case A_DIRECTORY:
        cr_assert(unlink(path) == 0 && mkdir(path, 0755) == 0);
        break;
    case A_LINK:
        cr_assert(unlink(path) == 0 && symlink(t.agent.config, path) == 0);
        break;
    }
}

Test(badinput, a_block_that_was_changed_behind_the_agents_back_is_fetched_anew)
{
    uint8_t *bytes = bd_bytes(LDR_MIB, 5);
    struct larder_object *kept = NULL;

    start_local();
    put_bytes(t.l, "file://box/a", bytes, LDR_MIB);
    for (enum harm h = SHORTENED; h <= A_LINK; h++) {
        struct larder *fresh = agent_open(&t.agent);

        harm_block(h);
        expect_bytes(fresh, "file://box/a", bytes, LDR_MIB);
        expect_bytes(fresh, "file://box/a", bytes, LDR_MIB);
        cr_expect(eq(u64, counts_of(fresh).asks, 1), "harm %d", (int)h);
        cr_expect(h == DELETED || counts_of(fresh).damaged >= 1, "harm %d", (int)h); /* gone is no damage */
        larder_close(&fresh);
        cr_expect(eq(u64, agent_counter(&t.agent, "store_gets"), h + 1), "harm %d", (int)h);
        agent_wait_until(agent_counter(&t.agent, "files") == 1);
    }
    cr_expect(agent_counter(&t.agent, "damaged") >= A_LINK + 1);
    /* a view that is held goes on when the file is gone */
    cr_assert(eq(int, larder_get(t.l, "file://box/a", LONG_MS, &kept, NULL), LARDER_OK));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
    cr_expect(eq(int, memcmp(larder_object_data(kept), bytes, LDR_MIB), 0));
    larder_object_free(&kept);
    free(bytes);
}

Test(badinput, a_block_that_is_gone_without_an_agent_is_a_clear_error)
{
    uint8_t *bytes = bd_bytes(LDR_MIB, 6);
    struct larder *fresh;

    start_local();
    put_bytes(t.l, "file://box/a", bytes, LDR_MIB);
    agent_kill(&t.agent);
    harm_block(SHORTENED);
    fresh = agent_open(&t.agent);
    expect_kind(fresh, "file://box/a", LONG_MS, LARDER_NO_AGENT, NULL);
    agent_start(&t.agent);
    expect_bytes(fresh, "file://box/a", bytes, LDR_MIB);
    larder_close(&fresh);
    free(bytes);
}

/* ---- no room ---- */

/* Objects of `size` bytes, more than there is room for: all are read right, cold and again. */
static void read_more_than_fits(const char *scheme, size_t size, unsigned n)
{
    for (int round = 0; round < 2; round++)
        for (unsigned i = 0; i < n; i++) {
            uint8_t *bytes = bd_bytes(size, i);
            char key[64], uri[80];

            snprintf(key, sizeof key, "%zu-%u", size, i);
            snprintf(uri, sizeof uri, "%s://box/%s", scheme, key);
            if (round == 0)
                agent_seed_file(&t.agent, "box", key, bytes, size);
            expect_bytes(t.l, uri, bytes, size);
            free(bytes);
        }
}

Test(badinput, when_max_size_is_reached_older_objects_make_room)
{
    uint8_t *bytes = bd_bytes(8 * LDR_MIB, 9);

    agent_init(&t.agent, NULL);
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "20MiB");
    go();
    read_more_than_fits("file", 2 * LDR_MIB, 12);
    cr_expect(agent_counter(&t.agent, "evicted_blocks") > 0);
    cr_expect(agent_counter(&t.agent, "objects") > 0);
    cr_expect(agent_counter(&t.agent, "objects") < 12);
    cr_expect(agent_counter(&t.agent, "bytes") <= 20 * LDR_MIB);
    put_bytes(t.l, "file://box/new", bytes, 8 * LDR_MIB);
    expect_bytes(t.l, "file://box/new", bytes, 8 * LDR_MIB);
    cr_expect(agent_counter(&t.agent, "bytes") <= 20 * LDR_MIB);
    free(bytes);
}

Test(badinput, when_inline_size_is_reached_older_small_objects_make_room)
{
    agent_init(&t.agent, NULL);
    agent_set(&t.agent, "LARDER_CACHE_INLINE_SIZE", "100KiB");
    go();
    read_more_than_fits("file", 8000, 30);
    cr_expect(agent_counter(&t.agent, "evicted_objects") > 0);
    cr_expect(agent_counter(&t.agent, "objects") > 0);
    cr_expect(agent_counter(&t.agent, "objects") < 30);
    cr_expect(eq(u64, agent_counter(&t.agent, "uncached_full"), 0));
}

/* Fill the file system of the cache but for `leave_bytes`. */
static void fill_up(const char *name, uint64_t leave_bytes)
{
    char path[TEST_DIR_MAX + 64];
    uint64_t step = LDR_MIB, size = 0;
    int fd;

    snprintf(path, sizeof path, "%s/%s", t.mounted[0], name);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    cr_assert(fd >= 0);
    while (step >= 4096) {
        if (fallocate(fd, 0, 0, (off_t)(size + step)) == 0)
            size += step;
        else
            step /= 2;
    }
    cr_assert(eq(int, ftruncate(fd, (off_t)(size > leave_bytes ? size - leave_bytes : 0)), 0));
    close(fd);
}

static void start_on_tmpfs(const char *size, const char *inline_size)
{
    need_root();
    agent_init(&t.agent, NULL);
    mount_at(0, "cache", size);
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "256MiB"); /* more than there is: the disk is what ends */
    agent_set(&t.agent, "LARDER_CACHE_INLINE_SIZE", inline_size);
    go();
}

Test(badinput, on_a_full_disk_bytes_come_all_the_same_and_nobody_dies)
{
    start_on_tmpfs("40m", "10MiB");
    read_more_than_fits("file", 3 * LDR_MIB, 14);
    cr_expect(agent_counter(&t.agent, "evicted_blocks") > 0);
    cr_expect(agent_counter(&t.agent, "objects") > 0);
    fill_up("others", 0); /* now not even a page is free */
    read_more_than_fits("file", 3 * LDR_MIB, 3);
    read_more_than_fits("file", 3000, 50);
    cr_expect(eq(int, agent_stop(&t.agent), 0));
}

Test(badinput, when_the_index_cannot_grow_small_objects_come_over_ipc_and_the_next_start_works)
{
    struct larder_err err = { 0 };
    char path[TEST_DIR_MAX + 64];

    start_on_tmpfs("40m", "24MiB"); /* in steps of 16 MiB: room for some 900 objects of 16 KiB */
    fill_up("others", 8192);
    read_more_than_fits("file", 16000, 1300);
    cr_expect(agent_counter(&t.agent, "uncached_full") > 0);
    cr_expect(agent_counter(&t.agent, "objects") > 300);
    put_text(t.l, "file://box/16000-1", "new"); /* a version that is cached gives way all the same */
    expect_text(t.l, "file://box/16000-1", "new");
    cr_assert(eq(int, larder_delete(t.l, "file://box/16000-2", LONG_MS, &err), LARDER_OK), "%s", err.msg);
    expect_kind(t.l, "file://box/16000-2", LONG_MS, LARDER_NOT_FOUND, &err);
    agent_kill(&t.agent);
    snprintf(path, sizeof path, "%s/others", t.mounted[0]);
    unlink(path);
    agent_start(&t.agent);
    expect_text(t.l, "file://box/16000-1", "new");
    expect_kind(t.l, "file://box/16000-2", LONG_MS, LARDER_NOT_FOUND, &err);
}

/* ---- killed while clients read ---- */

Test(badinput, readers_go_on_while_the_agent_is_killed_and_started_again)
{
    pid_t pids[4];
    int pipe_ends[2];

    start_local();
    put_many();
    cr_assert(eq(int, pipe(pipe_ends), 0));
    for (int i = 0; i < 4; i++) {
        pids[i] = child();
        if (pids[i] == 0) {
            struct larder *l = agent_open(&t.agent);
            unsigned x = (unsigned)i;
            struct larder_err err;
            char end;

            close(pipe_ends[1]);
            fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK);
            while (read(pipe_ends[0], &end, 1) != 0) { /* until the test closes its end */
                for (int j = 0; j < 200; j++) {
                    unsigned n = (x += 7919) % OBJECTS;
                    uint8_t *want = bd_bytes(size_of(n), n);
                    struct larder_object *o = NULL;
                    enum larder_kind k;
                    char uri[64];

                    snprintf(uri, sizeof uri, "file://box/n%u", n);
                    k = larder_get(l, uri, 2000, &o, &err);
                    if (k && k != LARDER_NO_AGENT && k != LARDER_UNAVAILABLE && k != LARDER_CANCELLED)
                        _exit(10);
                    if (o && (larder_object_size(o) != size_of(n) || memcmp(larder_object_data(o), want, size_of(n))))
                        _exit(11);
                    larder_object_free(&o);
                    free(want);
                }
            }
            larder_close(&l);
            _exit(0);
        }
    }
    for (int i = 0; i < 5; i++) {
        char uri[64];

        for (unsigned n = 0; n < 40; n++) { /* pages move under the readers */
            uint8_t *bytes = bd_bytes(size_of(n), n);

            snprintf(uri, sizeof uri, "file://box/n%u", n);
            put_bytes(t.l, uri, bytes, size_of(n));
            free(bytes);
        }
        agent_kill(&t.agent);
        agent_start(&t.agent);
    }
    close(pipe_ends[1]);
    close(pipe_ends[0]);
    for (int i = 0; i < 4; i++)
        cr_expect(eq(int, join_child(pids[i]), 0), "10: an unexpected error, 11: wrong bytes");
}
