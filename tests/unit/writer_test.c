/* writer_test.c - tests of client/writer.c and client/copy.c against an agent that gathers blocks as larderd does: by the
 * files that it hands out, or by messages. */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT  20000
#define URI   "s3://bucket/a key"
#define BLOCK ((size_t)LDR_BLOCK_SIZE_DEFAULT)

static char dir[TEST_DIR_MAX];
static struct larder *l;
static struct fake_agent agent;
static struct larder_err err;

/* The agent's side of one upload, and what it was told. */
static struct {
    uint64_t id, block_size;
    uint32_t sealed, block; /* blocks that are sealed; the one that was handed out */
    char file[400];         /* of that; "": none was made */
    uint8_t *data;          /* of the sealed ones, and of parts of the one that is not */
    size_t len, cap, in_parts;
    int opens, blocks, parts, seals, commits, aborts, others_fd;
    bool create_only, size_known, wrong;
    uint64_t size;
    char if_match[100], content_type[100];
    uint8_t fields[1000];
    size_t fields_len;
    /* how it behaves */
    const char *name;  /* of the staging files; NULL: one of its own; "": by messages */
    bool no_file;      /* the name is told, and nothing is there */
    size_t short_by;   /* the file is that much shorter than it is said to be */
    bool keeps_commit; /* the answer to a commit never comes */
    bool drop;         /* the next message of each kind is heard, and its answer lost */
    unsigned dropped;  /* kinds that were dropped, a bit each */
    enum larder_kind fail_open, fail_block, fail_seal, fail_commit, fail_copy;
    /* the source of a copy */
    const uint8_t *source;
    size_t source_len;
    int heads;
    const char *etag, *etag_later;
    char committed_to[200];
} up;

static void grow(size_t n)
{
    if (up.len + n > up.cap) {
        up.cap = (up.len + n) * 2;
        up.data = realloc(up.data, up.cap);
    }
}

/* Has this process (agent and client are one) the file open for writing, as the lease would tell? */
static bool is_open(const char *path)
{
    char link[300], to[600], maps[8192];
    struct dirent *e;
    DIR *d = opendir("/proc/self/fd");
    FILE *f = fopen("/proc/self/maps", "r");
    bool found = false;

    while ((e = readdir(d))) {
        ssize_t n;

        snprintf(link, sizeof link, "/proc/self/fd/%s", e->d_name);
        n = readlink(link, to, sizeof to - 1);
        to[n > 0 ? n : 0] = '\0';
        found |= !strcmp(to, path);
    }
    closedir(d);
    while (fgets(maps, sizeof maps, f))
        found |= strstr(maps, path) != NULL;
    fclose(f);
    return found;
}

static void hand_out(struct fake_reply *r, uint32_t block)
{
    static char name[40];

    up.block = block;
    up.in_parts = 0;
    snprintf(name, sizeof name, "%s", up.name ? up.name : "");
    if (!up.name)
        snprintf(name, sizeof name, "0123456789abcdef-%u", block);
    up.file[0] = '\0';
    if (*name && !strchr(name, '/')) {
        snprintf(up.file, sizeof up.file, "%s/rw/staging/%s", dir, name);
        if (!up.no_file && access(up.file, F_OK) < 0) {
            int fd = open(up.file, O_RDWR | O_CREAT, 0660);

            up.wrong |= fd < 0 || ftruncate(fd, (off_t)(up.block_size - up.short_by)) < 0;
            close(fd);
        }
    }
    fake_staging(r, block, name, up.block_size);
}

static void seal(const Larder__Wire__UploadSeal *m, struct fake_reply *r)
{
    up.seals++;
    if (m->block + 1 == up.sealed)
        return; /* told again */
    if (m->upload_id != up.id || m->block != up.sealed || m->block != up.block || m->length > up.block_size) {
        fake_fail(r, LARDER_INVALID, "a seal of another block");
        return;
    }
    up.sealed++;
    if (up.in_parts) {
        up.wrong |= m->length != up.in_parts;
    } else {
        int fd = open(up.file, O_RDONLY);

        grow(m->length);
        up.wrong |= fd < 0 || pread(fd, up.data + up.len, m->length, 0) != (ssize_t)m->length;
        up.len += m->length;
        close(fd);
        up.others_fd += is_open(up.file);
        unlink(up.file);
    }
}

static bool dropped_now(const ldr_wire_request *req)
{
    unsigned bit = 1U << (req->body_case % 32);

    if (!up.drop || (up.dropped & bit))
        return false;
    up.dropped |= bit;
    return true;
}

static void take_fields(const ProtobufCBinaryData *fields)
{
    struct ldr_field f;

    up.fields_len = fields->len < sizeof up.fields ? fields->len : 0;
    if (up.fields_len)
        memcpy(up.fields, fields->data, up.fields_len);
    up.content_type[0] = '\0';
    if (ldr_fields_find(fields->data, fields->len, LDR_TAG_CONTENT_TYPE, &f))
        snprintf(up.content_type, sizeof up.content_type, "%.*s", (int)f.len, (const char *)f.p);
}

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    static struct ldr_meta meta;

    (void)user;
    switch (req->body_case) {
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_OPEN:
        up.opens++;
        up.id = req->upload_open->upload_id;
        up.create_only = req->upload_open->create_only;
        up.size = req->upload_open->size;
        up.size_known = req->upload_open->size_known;
        snprintf(up.if_match, sizeof up.if_match, "%s", req->upload_open->if_match);
        snprintf(up.committed_to, sizeof up.committed_to, "%s", req->upload_open->key);
        take_fields(&req->upload_open->fields);
        fake_staging(r, 0, "", up.block_size);
        if (up.fail_open)
            fake_fail(r, up.fail_open, "no upload");
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_BLOCK:
        up.blocks++;
        up.wrong |= req->upload_block->upload_id != up.id || req->upload_block->block != up.sealed;
        hand_out(r, req->upload_block->block);
        if (up.fail_block && up.sealed)
            fake_fail(r, up.fail_block, "no block");
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_DATA: {
        const Larder__Wire__UploadData *m = req->upload_data;

        up.parts++;
        up.wrong |= m->upload_id != up.id || m->block != up.block || m->offset > up.in_parts;
        if (m->offset == up.in_parts) {
            grow(m->data.len);
            memcpy(up.data + up.len, m->data.data, m->data.len);
            up.len += m->data.len;
            up.in_parts += m->data.len;
        }
        break;
    }
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_SEAL:
        seal(req->upload_seal, r);
        if (up.fail_seal)
            fake_fail(r, up.fail_seal, "the store was full");
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_COMMIT:
        up.commits++;
        up.wrong |= req->upload_commit->upload_id != up.id || req->upload_commit->size != up.len;
        if (up.fail_commit)
            fake_fail(r, up.fail_commit, "the store says no");
        if (up.keeps_commit)
            return FAKE_HANG;
        break;
    case LARDER__WIRE__REQUEST__BODY_ABORT:
        up.aborts += req->abort->upload_id == up.id;
        break;
    case LARDER__WIRE__REQUEST__BODY_COPY:
        fake_fail(r, up.fail_copy ? up.fail_copy : LARDER_UNSUPPORTED, "two stores");
        break;
    case LARDER__WIRE__REQUEST__BODY_HEAD:
    case LARDER__WIRE__REQUEST__BODY_GET:
        if (!up.source) {
            fake_fail(r, LARDER_NOT_FOUND, "no such object");
            break;
        }
        up.heads += req->body_case == LARDER__WIRE__REQUEST__BODY_HEAD;
        ldr_meta_release(&meta);
        ldr_meta_init(&meta);
        meta.size_bytes = up.source_len;
        ldr_meta_add_text(&meta, LDR_TAG_VALIDATOR, "\"v1\"");
        ldr_meta_add_text(&meta, LDR_TAG_ETAG, up.heads > 1 && up.etag_later ? up.etag_later : up.etag);
        ldr_meta_add_text(&meta, LDR_TAG_CONTENT_TYPE, "text/csv");
        ldr_meta_add_text(&meta, LDR_TAG_CONTENT_ENCODING, "gzip");
        ldr_meta_add_pair(&meta, LDR_TAG_USER, "owner", "me");
        if (req->body_case == LARDER__WIRE__REQUEST__BODY_HEAD) {
            fake_meta(r, &meta);
        } else {
            uint64_t at = req->get->offset, n = up.source_len - at;

            n = n < LDR_WIRE_CHUNK ? n : LDR_WIRE_CHUNK;
            fake_bytes(r, up.source + at, n, at, &meta, "no room");
        }
        break;
    default:
        return FAKE_CLOSE;
    }
    return dropped_now(req) ? FAKE_CLOSE : FAKE_SEND;
}

static void make_dir(void)
{
    char path[300];

    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    snprintf(path, sizeof path, "%s/rw", dir);
    mkdir(path, 0750);
    snprintf(path, sizeof path, "%s/rw/staging", dir);
    mkdir(path, 0750);
    up.block_size = BLOCK;
    up.etag = "e1";
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
}

static void remove_dir(void)
{
    larder_close(&l);
    fake_stop(&agent);
    free(up.data);
    test_dir_remove(dir);
}

TestSuite(writer, .init = make_dir, .fini = remove_dir, .timeout = 60);

/* `n` bytes that tell their place; ended by free(). */
static uint8_t *bytes(size_t n)
{
    uint8_t *p = malloc(n + 1);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 13 + (i >> 8) + (i >> 16) * 7);
    return p;
}

static struct larder_writer *opened(uint64_t size)
{
    struct larder_writer *w = NULL;

    cr_assert(eq(int, larder_writer_open(l, URI, size, NULL, WAIT, &w, &err), LARDER_OK), "%s", err.msg);
    return w;
}

static void expect_arrived(const uint8_t *p, size_t n)
{
    cr_expect(eq(sz, up.len, n));
    cr_expect(up.len == n && (n == 0 || !memcmp(up.data, p, n)));
    cr_expect(not(up.wrong));
    cr_expect(eq(int, up.others_fd, 0), "a block was sealed while it could be written to");
    cr_expect(eq(int, (int)up.sealed, (int)((n + up.block_size - 1) / up.block_size)));
}

static void start_again(void)
{
    up.len = up.sealed = up.in_parts = 0;
    up.opens = up.blocks = up.parts = up.seals = up.commits = up.aborts = 0;
}

/* Write `p` in pieces of `step` bytes, by copies or by room; commit. */
static void write_by(const uint8_t *p, size_t n, size_t step, bool by_room, uint64_t size)
{
    struct larder_writer *w = opened(size);
    enum larder_kind k = LARDER_OK;

    for (size_t at = 0, m; at < n && !k; at += m) {
        m = n - at < step ? n - at : step;
        if (by_room) {
            void *room;
            size_t len;

            cr_assert(eq(int, larder_writer_room(w, &room, &len, &err), LARDER_OK), "%s", err.msg);
            cr_assert(gt(sz, len, 0));
            m = m < len ? m : len;
            memcpy(room, p + at, m);
            k = larder_writer_filled(w, m, &err);
        } else {
            k = larder_writer_write(w, p + at, m, &err);
        }
    }
    cr_assert(eq(int, k, LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, larder_writer_commit(&w, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(ptr, w, NULL));
    cr_expect(eq(int, up.aborts, 0));
}

Test(writer, any_size_in_any_steps_arrives_whole)
{
    static const size_t sizes[] = { 0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 777777 };
    static const size_t steps[] = { 100001, 2 << 20, 3000000, SIZE_MAX };
    uint8_t *p = bytes(3 * BLOCK);

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++)
        for (size_t j = 0; j < LDR_ARRAY_LEN(steps); j++)
            for (int way = 0; way < 4; way++) {
                start_again();
                write_by(p, sizes[i], steps[j], way & 1, way & 2 ? sizes[i] : LARDER_SIZE_UNKNOWN);
                expect_arrived(p, sizes[i]);
                cr_expect(eq(int, up.commits, 1));
                cr_expect(eq(int, up.parts, 0));
                cr_expect(eq(int, up.size_known, (way & 2) != 0));
                cr_expect(up.size == (way & 2 ? sizes[i] : 0));
            }
    free(p);
}

Test(writer, small_blocks_are_filled_too)
{
    uint8_t *p = bytes(1000000);

    up.block_size = 65536;
    write_by(p, 1000000, 100000, false, LARDER_SIZE_UNKNOWN);
    expect_arrived(p, 1000000);
    start_again();
    write_by(p, 1000000, 100000, true, 1000000);
    expect_arrived(p, 1000000);
    free(p);
}

Test(writer, copies_and_room_may_take_turns)
{
    size_t n = BLOCK + 5000000, len;
    uint8_t *p = bytes(n);
    struct larder_writer *w = opened(n);
    void *room;

    cr_assert(eq(int, larder_writer_write(w, p, 10, &err), LARDER_OK));
    cr_assert(eq(int, larder_writer_room(w, &room, &len, &err), LARDER_OK));
    cr_assert(gt(sz, len, 5));
    memcpy(room, p + 10, 5);
    cr_assert(eq(int, larder_writer_filled(w, 5, &err), LARDER_OK));
    cr_assert(eq(int, larder_writer_filled(w, 0, &err), LARDER_OK));
    cr_assert(eq(int, larder_writer_write(w, NULL, 0, &err), LARDER_OK));
    cr_assert(eq(int, larder_writer_write(w, p + 15, n - 15, &err), LARDER_OK));
    cr_expect(eq(int, larder_writer_room(w, &room, &len, &err), LARDER_INVALID), "it is complete");
    cr_assert(eq(int, larder_writer_commit(&w, &err), LARDER_OK), "and that is no failure");
    expect_arrived(p, n);
    free(p);
}

Test(writer, a_large_put_goes_by_blocks)
{
    struct larder_put_opts o = { .struct_size = sizeof o, .content_type = "text/plain", .if_match = "abc" };
    size_t n = LDR_PUT_MAX + 1;
    uint8_t *p = bytes(n);

    cr_assert(eq(int, larder_put(l, URI, p, n, &o, WAIT, &err), LARDER_OK), "%s", err.msg);
    expect_arrived(p, n);
    cr_expect(eq(str, up.if_match, (char *)"abc"));
    cr_expect(eq(str, up.content_type, (char *)"text/plain"));
    cr_expect(up.size_known && up.size == n);
    cr_expect(not(up.create_only));
    free(p);
}

Test(writer, options_travel_with_the_opening)
{
    static const char *const user[] = { "Owner", "me" };
    struct larder_put_opts o = { .struct_size = sizeof o,
                                 .user = user,
                                 .n_user = 1,
                                 .create_only = 1,
                                 .content_encoding = "gzip",
                                 .cache_control = "no-store",
                                 .content_disposition = "inline",
                                 .content_language = "en" };
    static const char fields[] = "\5\4\0gzip\6\10\0no-store\7\6\0inline\10\2\0en\13\10\0owner\0me";
    struct larder_writer *w = NULL;

    cr_assert(eq(int, larder_writer_open(l, URI, 5, &o, WAIT, &w, &err), LARDER_OK), "%s", err.msg);
    cr_expect(up.create_only);
    cr_expect(eq(sz, up.fields_len, sizeof fields - 1));
    cr_expect(eq(int, memcmp(up.fields, fields, up.fields_len), 0));
    larder_writer_abort(&w);
    cr_expect(eq(int, up.aborts, 1));
    larder_writer_abort(&w);
    o.if_match = "abc";
    cr_expect(eq(int, larder_writer_open(l, URI, 5, &o, WAIT, &w, &err), LARDER_INVALID), "there and not there");
    cr_expect(eq(ptr, w, NULL));
}

Test(writer, where_staging_cannot_be_written_messages_carry_the_bytes)
{
    size_t n = BLOCK + 300000;
    uint8_t *p = bytes(n);
    char path[300], outside[300];

    up.name = "";
    write_by(p, n, SIZE_MAX, false, n);
    expect_arrived(p, n);
    cr_expect(eq(int, up.parts, (int)(BLOCK / LDR_WIRE_PART + 3)));

    start_again();
    up.name = NULL;
    up.no_file = true;
    write_by(p, n, 100000, true, LARDER_SIZE_UNKNOWN);
    expect_arrived(p, n);

    start_again();
    up.no_file = false;
    up.short_by = 4096;
    write_by(p, n, SIZE_MAX, false, n);
    expect_arrived(p, n);
    cr_expect(gt(int, up.parts, 0), "a file of another size is not the one");

    up.short_by = 0;
    snprintf(outside, sizeof outside, "%s/outside", dir);
    cr_assert(close(open(outside, O_RDWR | O_CREAT, 0600)) == 0 && truncate(outside, (off_t)BLOCK) == 0);

    start_again();
    up.name = "link";
    snprintf(path, sizeof path, "%s/rw/staging/link", dir);
    cr_assert(eq(int, symlink(outside, path), 0));
    write_by(p, n, SIZE_MAX, false, n);
    expect_arrived(p, n);
    cr_expect(gt(int, up.parts, 0), "a link is not followed");
    unlink(path);

    start_again();
    cr_assert(eq(int, mkfifo(path, 0600), 0));
    write_by(p, n, SIZE_MAX, false, n);
    expect_arrived(p, n);
    cr_expect(gt(int, up.parts, 0), "and a pipe holds nobody up");
    unlink(path);
    free(p);
}

Test(writer, a_process_that_may_write_small_files_only_gets_no_signal)
{
    size_t n = BLOCK + 1;
    uint8_t *p = bytes(n);
    struct rlimit limit = { 1 << 20, RLIM_INFINITY }, old;

    cr_assert(eq(int, getrlimit(RLIMIT_FSIZE, &old), 0));
    limit.rlim_max = old.rlim_max;
    up.no_file = true; /* the agent is in this process, too */
    cr_assert(eq(int, setrlimit(RLIMIT_FSIZE, &limit), 0));
    write_by(p, n, SIZE_MAX, false, n);
    setrlimit(RLIMIT_FSIZE, &old);
    expect_arrived(p, n);
    free(p);
}

Test(writer, an_answer_that_is_lost_is_asked_for_again_and_the_commit_is_not)
{
    size_t n = BLOCK + 300000;
    uint8_t *p = bytes(n);
    struct larder_writer *w;

    for (int by_messages = 0; by_messages < 2; by_messages++) {
        start_again();
        up.dropped = 1U << (LARDER__WIRE__REQUEST__BODY_UPLOAD_COMMIT % 32);
        up.drop = true;
        up.name = by_messages ? "" : NULL;
        write_by(p, n, SIZE_MAX, false, n);
        expect_arrived(p, n);
        cr_expect(eq(int, up.opens, 2));
        cr_expect(eq(int, up.blocks, 3));
        cr_expect(eq(int, up.seals, 3));
    }
    up.drop = false;
    start_again();
    up.keeps_commit = true;
    cr_assert(eq(int, larder_writer_open(l, URI, 1, NULL, 2000, &w, &err), LARDER_OK));
    cr_assert(eq(int, larder_writer_write(w, "x", 1, &err), LARDER_OK));
    cr_expect(eq(int, larder_writer_commit(&w, &err), LARDER_OUTCOME_UNKNOWN));
    cr_expect(eq(ptr, w, NULL));
    cr_expect(eq(int, up.commits, 1));
    cr_expect(eq(int, up.aborts, 0), "it may be done");
    free(p);
}

Test(writer, what_the_agent_refuses_ends_the_writer)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = bytes(n);
    struct larder_writer *w = NULL;
    void *room;
    size_t len;

    up.fail_open = LARDER_DENIED;
    cr_expect(eq(int, larder_writer_open(l, URI, n, NULL, WAIT, &w, &err), LARDER_DENIED));
    cr_expect(eq(ptr, w, NULL));
    cr_expect(eq(int, larder_put(l, URI, p, n, NULL, WAIT, &err), LARDER_DENIED));
    up.fail_open = LARDER_OK;

    start_again();
    up.fail_seal = LARDER_UNAVAILABLE;
    w = opened(n);
    cr_expect(eq(int, larder_writer_write(w, p, n, &err), LARDER_UNAVAILABLE));
    cr_expect(eq(str, err.msg, (char *)"the store was full"));
    up.fail_seal = LARDER_OK;
    err.msg[0] = '\0';
    cr_expect(eq(int, larder_writer_write(w, p, 1, &err), LARDER_UNAVAILABLE), "and stays so");
    cr_expect(eq(str, err.msg, (char *)"the store was full"));
    cr_expect(eq(int, larder_writer_room(w, &room, &len, &err), LARDER_UNAVAILABLE));
    cr_expect(eq(int, larder_writer_commit(&w, &err), LARDER_UNAVAILABLE));
    cr_expect(eq(ptr, w, NULL));
    cr_expect(eq(int, up.commits, 0));
    cr_expect(eq(int, up.aborts, 1));

    start_again();
    up.fail_block = LARDER_LIMIT_EXCEEDED;
    cr_expect(eq(int, larder_put(l, URI, p, n, NULL, WAIT, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, up.aborts, 1));
    up.fail_block = LARDER_OK;

    start_again();
    up.fail_commit = LARDER_PRECONDITION;
    cr_expect(eq(int, larder_put(l, URI, p, n, NULL, WAIT, &err), LARDER_PRECONDITION));
    cr_expect(eq(int, up.commits, 1));
    cr_expect(eq(int, larder_put(l, "nonsense", p, n, NULL, WAIT, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_put(l, URI, p, n, NULL, 0, &err), LARDER_TIMEOUT));
    free(p);
}

Test(writer, a_file_that_goes_while_it_is_written_to_tells_why_the_upload_failed)
{
    uint8_t *p = bytes(2 * BLOCK);
    struct larder_writer *w = opened(LARDER_SIZE_UNKNOWN);

    cr_assert(eq(int, larder_writer_write(w, p, BLOCK + (4 << 20), &err), LARDER_OK), "%s", err.msg);
    up.fail_block = LARDER_DENIED;
    cr_assert(eq(int, unlink(up.file), 0));
    cr_expect(eq(int, larder_writer_write(w, p, 4 << 20, &err), LARDER_DENIED));
    cr_expect(eq(str, err.msg, (char *)"no block"));
    larder_writer_abort(&w);
    up.fail_block = LARDER_OK;

    start_again();
    w = opened(LARDER_SIZE_UNKNOWN);
    cr_assert(eq(int, larder_writer_write(w, p, 4 << 20, &err), LARDER_OK), "%s", err.msg);
    up.no_file = true; /* the agent knows of no failure */
    cr_assert(eq(int, unlink(up.file), 0));
    cr_expect(eq(int, larder_writer_write(w, p, 4 << 20, &err), LARDER_IO));
    cr_expect(strstr(err.msg, "staging file") != NULL, "%s", err.msg);
    larder_writer_abort(&w);
    free(p);
}

/* An agent that asks, by a lease, whether anybody writes to the file, and is slow to give it back. */
static void *give_back(void *user)
{
    int fd = *(int *)user;

    while (fcntl(fd, F_GETLEASE) == F_RDLCK)
        usleep(1000);
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return NULL;
}

Test(writer, a_file_that_the_agent_looks_at_just_now_is_opened_a_moment_later)
{
    uint8_t *p = bytes(BLOCK);
    struct larder_writer *w = opened(BLOCK);
    pthread_t thread;
    int fd;

    signal(SIGIO, SIG_IGN);
    cr_assert(eq(int, larder_writer_write(w, p, 4 << 20, &err), LARDER_OK), "%s", err.msg);
    fd = open(up.file, O_RDONLY | O_CLOEXEC);
    cr_assert(fd >= 0);
    if (fcntl(fd, F_SETLEASE, F_RDLCK))
        cr_skip("no leases here");
    cr_assert(eq(int, pthread_create(&thread, NULL, give_back, &fd), 0));
    cr_assert(eq(int, larder_writer_write(w, p + (4 << 20), 2 << 20, &err), LARDER_OK), "%s", err.msg);
    pthread_join(thread, NULL);
    close(fd);
    cr_assert(eq(int, larder_writer_write(w, p + (6 << 20), BLOCK - (6 << 20), &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, larder_writer_commit(&w, &err), LARDER_OK), "%s", err.msg);
    expect_arrived(p, BLOCK);
    cr_expect(eq(int, up.parts, 0));
    free(p);
}

Test(writer, another_size_than_announced_is_invalid)
{
    struct larder_writer *w = opened(3);

    cr_assert(eq(int, larder_writer_write(w, "ab", 2, &err), LARDER_OK));
    cr_expect(eq(int, larder_writer_commit(&w, &err), LARDER_INVALID));
    cr_expect(eq(int, up.commits, 0));
    cr_expect(eq(int, up.aborts, 1));
    w = opened(3);
    cr_expect(eq(int, larder_writer_write(w, "abcd", 4, &err), LARDER_INVALID));
    larder_writer_abort(&w);
    w = opened(3);
    cr_expect(eq(int, larder_writer_filled(w, 1, &err), LARDER_INVALID), "no room was asked for");
    larder_writer_abort(&w);
    w = opened(LARDER_SIZE_UNKNOWN);
    cr_expect(eq(int, larder_writer_write(w, NULL, 1, &err), LARDER_INVALID));
    larder_writer_abort(&w);
    cr_expect(eq(int, larder_writer_open(l, URI, UINT64_C(1) << 60, NULL, WAIT, &w, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(eq(int, up.commits, 0));
}

Test(writer, an_agent_that_talks_nonsense_is_not_followed)
{
    struct larder_writer *w = NULL;

    up.block_size = 0;
    cr_expect(eq(int, larder_writer_open(l, URI, 1, NULL, WAIT, &w, &err), LARDER_UNAVAILABLE));
    up.block_size = UINT64_C(1) << 60;
    cr_expect(eq(int, larder_writer_open(l, URI, 1, NULL, WAIT, &w, &err), LARDER_UNAVAILABLE));
    cr_expect(eq(ptr, w, NULL));
    up.block_size = BLOCK;
    up.name = "../../outside";
    w = opened(1);
    cr_expect(eq(int, larder_writer_write(w, "x", 1, &err), LARDER_UNAVAILABLE), "no name leads out of the folder");
    larder_writer_abort(&w);
}

Test(writer, a_child_leaves_the_writer_to_its_parent)
{
    uint8_t *p = bytes(BLOCK + 9);
    struct larder_writer *w = opened(BLOCK + 9);
    int status;
    pid_t pid;

    cr_assert(eq(int, larder_writer_write(w, p, 3000000, &err), LARDER_OK));
    pid = fork();
    if (pid == 0) {
        struct larder_writer *mine = w;
        bool ok = larder_writer_write(mine, p, 1, NULL) == LARDER_INVALID;

        larder_writer_abort(&mine);
        _exit(ok && !mine ? 0 : 1);
    }
    cr_assert(waitpid(pid, &status, 0) == pid);
    cr_expect(eq(int, status, 0));
    cr_assert(eq(int, larder_writer_write(w, p + 3000000, BLOCK + 9 - 3000000, &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, larder_writer_commit(&w, &err), LARDER_OK), "%s", err.msg);
    expect_arrived(p, BLOCK + 9);
    cr_expect(eq(int, up.aborts, 0));
    free(p);
}

Test(writer, what_no_store_can_copy_is_streamed_with_its_metadata)
{
    static const char fields[] = "\4\10\0text/csv\5\4\0gzip\13\10\0owner\0me";
    uint8_t *p = bytes(BLOCK + 300001);

    up.source = p;
    for (int i = 0; i < 3; i++) {
        start_again();
        up.heads = 0;
        up.source_len = i == 0 ? 0 : i == 1 ? 5 : BLOCK + 300001;
        cr_assert(eq(int, larder_copy(l, "gs://other/a", URI, WAIT, &err), LARDER_OK), "%s", err.msg);
        expect_arrived(p, up.source_len);
        cr_expect(eq(int, up.commits, 1));
        cr_expect(eq(str, up.committed_to, (char *)URI));
        cr_expect(eq(sz, up.fields_len, sizeof fields - 1));
        cr_expect(eq(int, memcmp(up.fields, fields, up.fields_len), 0));
    }
    free(p);
}

Test(writer, a_copy_is_of_one_version)
{
    up.source = (const uint8_t *)"hello";
    up.source_len = 5;
    up.etag_later = "e2";
    cr_expect(eq(int, larder_copy(l, "gs://other/a", URI, WAIT, &err), LARDER_PRECONDITION));
    cr_expect(eq(int, up.commits, 0));
    cr_expect(eq(int, up.aborts, 1));
}

Test(writer, a_copy_that_fails_tells_which_side_and_leaves_nothing)
{
    cr_expect(eq(int, larder_copy(l, "gs://other/a", URI, WAIT, &err), LARDER_NOT_FOUND));
    cr_expect(eq(int, up.opens, 0));
    up.source = (const uint8_t *)"hello";
    up.source_len = 5;
    up.fail_open = LARDER_DENIED;
    cr_expect(eq(int, larder_copy(l, "gs://other/a", URI, WAIT, &err), LARDER_DENIED));
    cr_expect(eq(str, err.msg, (char *)"no upload"));
    up.fail_open = LARDER_OK;
    up.fail_seal = LARDER_UNAVAILABLE;
    cr_expect(eq(int, larder_copy(l, "gs://other/a", URI, WAIT, &err), LARDER_UNAVAILABLE));
    cr_expect(eq(str, err.msg, (char *)"the store was full"));
    cr_expect(eq(int, up.commits, 0));
    up.fail_copy = LARDER_DENIED;
    cr_expect(eq(int, larder_copy(l, "gs://other/a", URI, WAIT, &err), LARDER_DENIED), "no way round a refusal");
}
