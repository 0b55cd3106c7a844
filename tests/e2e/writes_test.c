/* writes_test.c - a write through larder is seen on the node when it returns, also when the agent is
 * killed in the middle; one whose outcome is not known leaves no record; a fill that began before it stores nothing. */
#include "tests/e2e/e2e.h"
#include "client/sp.h"
#include "common/wire.h"

#include <signal.h>

static struct {
    struct s3_server s3;
    struct agent agent;
    struct larder *l;
    char dir[TEST_DIR_MAX];
} t;

static const char *const object = "s3://" S3_BUCKET "/a";
static const char *const name = S3_BUCKET "/a";

static void enter(void)
{
    char reason[512] = "";

    test_dir_make(t.dir);
    need_server(s3_server_start_test(&t.s3, t.dir, reason, sizeof reason), reason);
    agent_init(&t.agent, &t.s3);
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

TestSuite(writes, .init = enter, .fini = leave, .timeout = 60);

static void rules(const char *json)
{
    cr_assert(s3_server_rules(&t.s3, json));
}

static int stored_gets(void)
{
    return s3_server_count(&t.s3, "GET", name);
}

/* A child that puts `text` (NULL: deletes) and exits with the kind. */
static pid_t start_write(const char *text)
{
    pid_t pid = child();

    if (pid == 0) {
        struct larder *l = agent_open(&t.agent);
        enum larder_kind k = text ? larder_put(l, object, text, strlen(text), NULL, LONG_MS, NULL)
                                  : larder_delete(l, object, LONG_MS, NULL);

        larder_close(&l);
        _exit((int)k);
    }
    return pid;
}

/* A child that reads the object and exits with 0 when it has this text. */
static pid_t start_read(const char *text)
{
    pid_t pid = child();

    if (pid == 0) {
        struct larder *l = agent_open(&t.agent);
        struct larder_err err = { 0 };
        bool ok = reads_as(l, object, text, strlen(text), &err);

        if (!ok)
            fprintf(stderr, "reader: %s\n", err.msg);
        larder_close(&l);
        _exit(ok ? 0 : 1);
    }
    return pid;
}

/* The next request of this method is carried out, but its answer is held. */
static void hold_answer_of(const char *method)
{
    char json[128];

    snprintf(json, sizeof json, "[{\"method\": \"%s\", \"key\": \"%s\", \"count\": 1, \"action\": \"hold_answer\"}]",
             method, name);
    rules(json);
    cr_assert(s3_server_hold(&t.s3, name));
}

/* ---- seen at once ---- */

Test(writes, a_write_of_one_process_is_seen_by_all_others_when_it_returns)
{
    struct larder *other = agent_open(&t.agent);

    for (int i = 0; i < 20; i++) {
        char text[32];

        snprintf(text, sizeof text, "version %d", i);
        cr_expect(eq(int, join_child(start_write(text)), LARDER_OK));
        expect_text(t.l, object, text);
        expect_text(other, object, text);
    }
    cr_expect(eq(int, join_child(start_write(NULL)), LARDER_OK));
    expect_kind(t.l, object, LONG_MS, LARDER_NOT_FOUND, NULL);
    expect_kind(other, object, LONG_MS, LARDER_NOT_FOUND, NULL);
    larder_close(&other);
}

Test(writes, a_block_that_is_overwritten_goes_and_views_of_it_stay)
{
    uint8_t *one = bd_bytes(LDR_MIB, 1), *two = bd_bytes(LDR_MIB, 2);
    struct larder_object *o = NULL;

    put_bytes(t.l, object, one, LDR_MIB);
    cr_assert(eq(int, larder_get(t.l, object, LONG_MS, &o, NULL), LARDER_OK));
    put_bytes(t.l, object, two, LDR_MIB);
    expect_bytes(t.l, object, two, LDR_MIB);
    agent_wait_until(agent_counter(&t.agent, "block_files") == 1);
    agent_wait_until(agent_counter(&t.agent, "unlinked_mapped_bytes") == LDR_MIB); /* counted while it is mapped */
    cr_expect(eq(u64, agent_counter(&t.agent, "files"), 2));
    cr_expect(eq(int, memcmp(larder_object_data(o), one, LDR_MIB), 0));
    larder_object_free(&o);
    put_text(t.l, object, "small");
    expect_text(t.l, object, "small");
    larder_close(&t.l); /* with the mappings that it kept */
    agent_wait_until(agent_counter(&t.agent, "files") == 0);
    cr_expect(eq(u64, agent_counter(&t.agent, "unlinked_mapped_bytes"), 0));
    free(one);
    free(two);
}

/* ---- the agent is killed in the middle ---- */

static void kill_between_store_and_publish(const char *method, const char *text)
{
    pid_t writer;

    put_text(t.l, object, "old");
    expect_text(t.l, object, "old");
    hold_answer_of(method);
    writer = start_write(text);
    agent_wait_until(s3_server_waiting(&t.s3) == 1); /* the store has it, the agent does not know yet */
    expect_text(t.l, object, "old");                 /* readers keep the old version until then */
    agent_kill(&t.agent);
    cr_expect(eq(int, join_child(writer), LARDER_OUTCOME_UNKNOWN));
    cr_assert(s3_server_release(&t.s3, name));
    agent_start(&t.agent);
}

Test(writes, an_agent_killed_after_the_store_took_a_put_never_serves_the_old_bytes)
{
    struct larder *other;

    kill_between_store_and_publish("PUT", "new");
    other = agent_open(&t.agent);
    expect_text(other, object, "new");
    expect_text(t.l, object, "new");
    larder_close(&other);
}

Test(writes, an_agent_killed_after_the_store_took_a_delete_never_serves_the_old_bytes)
{
    kill_between_store_and_publish("DELETE", NULL);
    expect_kind(t.l, object, LONG_MS, LARDER_NOT_FOUND, NULL);
}

Test(writes, an_agent_killed_before_the_store_answers_a_block_leaves_no_file_behind)
{
    uint8_t *bytes = bd_bytes(2 * LDR_MIB, 3);
    pid_t writer;

    hold_answer_of("PUT");
    writer = child();
    if (writer == 0) {
        struct larder *l = agent_open(&t.agent);

        _exit((int)larder_put(l, object, bytes, 2 * LDR_MIB, NULL, LONG_MS, NULL));
    }
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
    agent_kill(&t.agent);
    cr_expect(eq(int, join_child(writer), LARDER_OUTCOME_UNKNOWN));
    cr_assert(s3_server_release(&t.s3, name));
    agent_start(&t.agent);
    cr_expect(eq(u64, agent_counter(&t.agent, "files"), 0));
    cr_expect(eq(u64, agent_counter(&t.agent, "block_files"), 0));
    expect_bytes(t.l, object, bytes, 2 * LDR_MIB);
    free(bytes);
}

/* ---- outcomes ---- */

Test(writes, a_put_whose_answer_is_lost_is_outcome_unknown_and_the_old_record_goes)
{
    struct larder_err err = { 0 };

    put_text(t.l, object, "old");
    rules("[{\"method\": \"PUT\", \"action\": \"drop_after_store\"}]");
    cr_expect(eq(int, larder_put(t.l, object, "new", 3, NULL, LONG_MS, &err), LARDER_OUTCOME_UNKNOWN), "%s", err.msg);
    cr_expect(has(err.msg, object), "%s", err.msg);
    rules("[]");
    expect_text(t.l, object, "new");
    cr_expect(eq(int, stored_gets(), 1));
}

Test(writes, a_delete_whose_answer_is_lost_is_outcome_unknown_and_the_old_record_goes)
{
    put_text(t.l, object, "old");
    rules("[{\"method\": \"DELETE\", \"action\": \"drop_after_store\"}]");
    cr_expect(eq(int, larder_delete(t.l, object, LONG_MS, NULL), LARDER_OUTCOME_UNKNOWN));
    rules("[]");
    expect_kind(t.l, object, LONG_MS, LARDER_NOT_FOUND, NULL);
}

Test(writes, a_put_that_the_store_refuses_leaves_no_record)
{
    struct larder_err err = { 0 };

    put_text(t.l, object, "old");
    rules("[{\"method\": \"PUT\", \"action\": \"status\", \"status\": 403, \"code\": \"AccessDenied\"}]");
    cr_expect(eq(int, larder_put(t.l, object, "new", 3, NULL, LONG_MS, &err), LARDER_DENIED));
    cr_expect(eq(int, err.http, 403));
    rules("[]");
    expect_text(t.l, object, "old");
    cr_expect(eq(int, stored_gets(), 1), "asked anew");
}

Test(writes, a_put_that_is_out_of_time_is_outcome_unknown_and_what_is_read_then_is_true)
{
    struct larder_err err = { 0 };

    put_text(t.l, object, "old");
    hold_answer_of("PUT");
    cr_expect(eq(int, larder_put(t.l, object, "new", 3, NULL, 300, &err), LARDER_OUTCOME_UNKNOWN), "%s", err.msg);
    cr_assert(s3_server_release(&t.s3, name));
    agent_wait_until(reads_as(t.l, object, "new", 3, &err)); /* until the agent gives up, "old" stands for it */
}

Test(writes, a_put_that_the_store_fails_for_a_moment_is_tried_again)
{
    rules("[{\"method\": \"PUT\", \"count\": 2, \"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\"}]");
    put_text(t.l, object, "new");
    cr_expect(eq(int, s3_server_count(&t.s3, "PUT", name), 3));
    expect_text(t.l, object, "new");
    cr_expect(eq(int, stored_gets(), 0));
}

Test(writes, create_only_writes_where_nothing_is)
{
    struct larder_put_opts opts = { .struct_size = sizeof opts, .create_only = 1 };
    struct larder_err err = { 0 };

    cr_expect(eq(int, larder_put(t.l, object, "one", 3, &opts, LONG_MS, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, larder_put(t.l, object, "two", 3, &opts, LONG_MS, &err), LARDER_EXISTS), "%s", err.msg);
    expect_text(t.l, object, "one");
    cr_expect(eq(int, larder_delete(t.l, object, LONG_MS, NULL), LARDER_OK));
    cr_expect(eq(int, larder_put(t.l, object, "three", 5, &opts, LONG_MS, &err), LARDER_OK), "%s", err.msg);
    expect_text(t.l, object, "three");
}

Test(writes, a_create_only_put_whose_answer_is_lost_is_not_tried_again)
{
    struct larder_put_opts opts = { .struct_size = sizeof opts, .create_only = 1 };

    rules("[{\"method\": \"PUT\", \"count\": 1, \"action\": \"drop_after_store\"}]");
    cr_expect(eq(int, larder_put(t.l, object, "one", 3, &opts, LONG_MS, NULL), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(int, s3_server_count(&t.s3, "PUT", name), 1));
    expect_text(t.l, object, "one");
}

/* ---- reads and writes at the same time ---- */

Test(writes, a_fill_that_began_before_a_put_never_stores_older_bytes_after_it)
{
    struct larder *other = agent_open(&t.agent);
    pid_t reader;

    agent_seed_s3(&t.s3, "a", "old", 3);
    hold_answer_of("GET"); /* it has read "old" */
    reader = start_read("old");
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
    put_text(t.l, object, "new");
    expect_text(t.l, object, "new");
    cr_assert(s3_server_release(&t.s3, name));
    cr_expect(eq(int, join_child(reader), 0), "who asked before the write may be told what was");
    expect_text(t.l, object, "new");
    expect_text(other, object, "new");
    cr_expect(eq(int, stored_gets(), 1));
    cr_expect(eq(u64, agent_counter(&t.agent, "published"), 1), "the put");
    larder_close(&other);
}

Test(writes, a_fill_that_began_before_a_delete_does_not_bring_the_object_back)
{
    uint8_t *bytes = bd_bytes(LDR_MIB, 4);
    pid_t reader;

    agent_seed_s3(&t.s3, "a", bytes, LDR_MIB);
    hold_answer_of("GET");
    reader = child();
    if (reader == 0) {
        struct larder *l = agent_open(&t.agent);
        struct larder_err err = { 0 };
        bool ok = reads_as(l, object, bytes, LDR_MIB, &err) || err.kind == LARDER_NOT_FOUND;

        larder_close(&l);
        _exit(ok ? 0 : 1);
    }
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
    cr_expect(eq(int, larder_delete(t.l, object, LONG_MS, NULL), LARDER_OK));
    cr_assert(s3_server_release(&t.s3, name));
    cr_expect(eq(int, join_child(reader), 0), "its bytes, or that there are none any more; never others");
    expect_kind(t.l, object, LONG_MS, LARDER_NOT_FOUND, NULL);
    agent_wait_until(agent_counter(&t.agent, "files") == 0);
    free(bytes);
}

Test(writes, who_asks_after_a_put_does_not_join_a_fetch_from_before)
{
    pid_t before, after;

    agent_seed_s3(&t.s3, "a", "old", 3);
    hold_answer_of("GET");
    before = start_read("old");
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
    put_text(t.l, object, "new");
    cr_expect(eq(int, larder_delete(t.l, object, LONG_MS, NULL), LARDER_OK)); /* so that the cache has nothing */
    agent_seed_s3(&t.s3, "a", "newer", 5);
    after = start_read("newer");
    agent_wait_until(s3_server_waiting(&t.s3) == 2);
    cr_assert(s3_server_release(&t.s3, name));
    cr_expect(eq(int, join_child(before), 0));
    cr_expect(eq(int, join_child(after), 0));
    expect_text(t.l, object, "newer");
    cr_expect(eq(int, stored_gets(), 2));
}

Test(writes, of_two_puts_at_the_same_time_none_fills_the_cache)
{
    pid_t first;

    hold_answer_of("PUT");
    first = start_write("one");
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
    put_text(t.l, object, "two");
    cr_assert(s3_server_release(&t.s3, name));
    cr_expect(eq(int, join_child(first), LARDER_OK));
    cr_expect(eq(u64, agent_counter(&t.agent, "objects"), 0));
    expect_text(t.l, object, "two"); /* the store's order of them is what counts */
    cr_expect(eq(int, stored_gets(), 1));
    expect_text(t.l, object, "two");
    cr_expect(eq(int, stored_gets(), 1));
}

/* ---- the wire ---- */

static struct larder_err said; /* by the reply below */

/* One request over a connection of its own; the kind that the reply carries. */
static enum larder_kind send_request(const ldr_wire_request *req)
{
    size_t len = larder__wire__request__get_packed_size(req), reply_len;
    uint8_t *packed = malloc(len), *reply = NULL;
    int64_t deadline = ldr_deadline_ns(LONG_MS);
    ldr_wire_reply *r = NULL;
    struct larder_err err = { 0 };
    enum ldr_sp_reach reach;
    enum larder_kind k;
    struct ldr_sp sp;
    bool lost;

    larder__wire__request__pack(req, packed);
    cr_assert(eq(int, ldr_sp_connect(&sp, t.agent.socket, deadline, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_sp_exchange(&sp, packed, len, deadline, &reply, &reply_len, &reach, &lost, &err), LARDER_OK),
              "%s", err.msg);
    cr_assert(eq(int, ldr_wire_unpack_reply(reply, reply_len, &r, &err), LARDER_OK), "%s", err.msg);
    k = ldr_wire_status(r, &said);
    larder__wire__reply__free_unpacked(r, NULL);
    ldr_sp_close(&sp);
    free(packed);
    free(reply);
    return k;
}

Test(writes, a_put_that_is_sent_twice_is_carried_out_once)
{
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    req.op_id = 4711;
    req.body_case = LARDER__WIRE__REQUEST__BODY_PUT;
    req.put = &put;
    put.key = (char *)(uintptr_t)object;
    put.data.data = (uint8_t *)(uintptr_t) "one";
    put.data.len = put.size = 3;
    cr_expect(eq(int, send_request(&req), LARDER_OK));
    put_text(t.l, object, "two");
    cr_expect(eq(int, send_request(&req), LARDER_OK), "it is told what became of it");
    cr_expect(eq(int, s3_server_count(&t.s3, "PUT", name), 2));
    expect_text(t.l, object, "two");
    req.op_id = 0;
    cr_expect(eq(int, send_request(&req), LARDER_INVALID), "a write needs a number");
    cr_expect(eq(int, s3_server_count(&t.s3, "PUT", name), 2));
}

Test(writes, a_put_that_is_sent_again_while_it_is_under_way_waits_for_the_same_answer)
{
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    pid_t pids[3];

    req.op_id = 4712;
    req.body_case = LARDER__WIRE__REQUEST__BODY_PUT;
    req.put = &put;
    put.key = (char *)(uintptr_t)object;
    put.data.data = (uint8_t *)(uintptr_t) "one";
    put.data.len = put.size = 3;
    hold_answer_of("PUT");
    for (int i = 0; i < 3; i++) {
        pids[i] = child();
        if (pids[i] == 0)
            _exit((int)send_request(&req));
    }
    agent_wait_until(agent_requests(&t.agent) == 3);
    agent_wait_until(s3_server_waiting(&t.s3) == 1);
    cr_assert(s3_server_release(&t.s3, name));
    for (int i = 0; i < 3; i++)
        cr_expect(eq(int, join_child(pids[i]), LARDER_OK));
    cr_expect(eq(int, s3_server_count(&t.s3, "PUT", name), 1));
    expect_text(t.l, object, "one");
}

/* Send part of an upload. */
static enum larder_kind send_part(uint64_t id, uint64_t offset, const void *p, size_t n, uint64_t size)
{
    Larder__Wire__PutPart part = LARDER__WIRE__PUT_PART__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    req.op_id = 1;
    req.body_case = LARDER__WIRE__REQUEST__BODY_PUT_PART;
    req.put_part = &part;
    part.upload_id = id;
    part.offset = offset;
    part.size = size;
    part.data.data = (uint8_t *)(uintptr_t)p;
    part.data.len = n;
    return send_request(&req);
}

static enum larder_kind send_commit(uint64_t op, uint64_t id, uint64_t size)
{
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    req.op_id = op;
    req.body_case = LARDER__WIRE__REQUEST__BODY_PUT;
    req.put = &put;
    put.key = (char *)(uintptr_t)object;
    put.upload_id = id;
    put.size = size;
    return send_request(&req);
}

Test(writes, parts_are_taken_in_order_and_once_and_an_unfinished_upload_is_refused)
{
    uint8_t *bytes = bd_bytes(200000, 5);

    cr_expect(eq(int, send_part(7, 0, bytes, 100000, 200000), LARDER_OK));
    cr_expect(eq(int, send_part(7, 0, bytes, 100000, 200000), LARDER_OK), "sent again");
    cr_expect(eq(int, send_part(7, 100001, bytes, 99999, 200000), LARDER_INVALID), "a gap");
    cr_expect(eq(int, send_part(7, 99999, bytes, 100001, 200000), LARDER_INVALID), "an overlap");
    cr_expect(eq(int, send_part(7, 100000, bytes, 100000, 200001), LARDER_INVALID), "another size");
    cr_expect(eq(int, send_commit(70, 7, 200000), LARDER_INVALID), "half of it");
    cr_expect(eq(int, send_part(7, 100000, bytes + 100000, 100000, 200000), LARDER_OK));
    cr_expect(eq(int, send_part(7, 200000, bytes, 1, 200000) != LARDER_OK, 1), "behind the end");
    cr_expect(eq(int, send_commit(71, 7, 200000), LARDER_OK));
    cr_expect(eq(int, send_commit(72, 7, 200000), LARDER_INVALID), "it is gone");
    cr_expect(eq(int, send_commit(73, 8, 5), LARDER_INVALID), "never begun");
    expect_bytes(t.l, object, bytes, 200000);
    cr_expect(eq(int, s3_server_count(&t.s3, "PUT", name), 1));
    free(bytes);
}

/* Bytes of a block of the upload 9, all of them, and its seal. */
static void send_block(uint32_t block, const uint8_t *p, size_t n)
{
    Larder__Wire__UploadData data = LARDER__WIRE__UPLOAD_DATA__INIT;
    Larder__Wire__UploadSeal seal = LARDER__WIRE__UPLOAD_SEAL__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    data.upload_id = seal.upload_id = 9;
    data.block = seal.block = block;
    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_DATA;
    req.upload_data = &data;
    for (data.offset = 0; data.offset < n; data.offset += data.data.len) {
        data.data.data = (uint8_t *)(uintptr_t)p + data.offset;
        data.data.len = n - data.offset < LDR_WIRE_PART ? n - data.offset : LDR_WIRE_PART;
        cr_assert(eq(int, send_request(&req), LARDER_OK), "%s", said.msg);
    }
    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_SEAL;
    req.upload_seal = &seal;
    seal.length = n;
    cr_assert(eq(int, send_request(&req), LARDER_OK), "%s", said.msg);
}

Test(writes, a_commit_that_is_out_of_time_while_parts_are_sent_is_outcome_unknown_by_name)
{
    Larder__Wire__UploadOpen open = LARDER__WIRE__UPLOAD_OPEN__INIT;
    Larder__Wire__UploadCommit commit = LARDER__WIRE__UPLOAD_COMMIT__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    uint8_t *bytes = bd_bytes(LDR_BLOCK_SIZE_DEFAULT, 5);

    open.upload_id = commit.upload_id = 9;
    open.key = (char *)(uintptr_t)object;
    open.size_known = true;
    open.size = commit.size = LDR_BLOCK_SIZE_DEFAULT + 1;
    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_OPEN;
    req.upload_open = &open;
    cr_assert(eq(int, send_request(&req), LARDER_OK), "%s", said.msg);
    hold_answer_of("PUT");
    send_block(0, bytes, LDR_BLOCK_SIZE_DEFAULT);
    send_block(1, bytes, 1);
    req.op_id = 91;
    req.timeout_ms = 300;
    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_COMMIT;
    req.upload_commit = &commit;
    cr_expect(eq(int, send_request(&req), LARDER_OUTCOME_UNKNOWN), "%s", said.msg);
    cr_expect(strstr(said.msg, object) != NULL, "%s", said.msg);
    cr_assert(s3_server_release(&t.s3, name));
    free(bytes);
}
