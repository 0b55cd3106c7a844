/* stage_test.c - uploads by blocks: what the store and the cache get, and that nothing is left of one that fails. */
#include "agent/stage_impl.h"
#include "common/clock.h"
#include "tests/support/domain_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY   "mem://b/k"
#define BLOCK LDR_MIB /* of the fixture */
#define ID    UINT64_C(77)

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct domain_fixture f;
static struct larder_err err;
static uint64_t next_op = 1;

static void start_domain(void)
{
    domain_open(&f, dir, NULL);
    fake_takes_parts(f.store, 1, 0);
}

static void make_domain(void)
{
    test_dir_make(dir);
    start_domain();
}

static unsigned files_in(int dirfd)
{
    DIR *d = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct dirent *e;
    unsigned n = 0;

    cr_assert(d != NULL);
    while ((e = readdir(d)))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* Nothing of an upload: no file, no byte, nothing in the store. */
static void expect_nothing_left(void)
{
    cr_expect(domain_sound(&f), "space, files, blocks");
    cr_expect(eq(uint, files_in(f.domain.dir->stagingfd), 0), "staged files");
    cr_expect(eq(uint, files_in(f.domain.dir->uploadsfd), 0), "notes");
    cr_expect(eq(uint, fake_open_uploads(f.store), 0), "uploads in the store");
    cr_expect(eq(u64, f.domain.uploads->memory_bytes, 0));
    cr_expect(not(domain_has_intent(&f, KEY)));
}

static void end_domain(void)
{
    bool sound = domain_close(&f);

    test_dir_remove(dir);
    cr_assert(sound, "something is left: see stderr");
}

TestSuite(stage, .init = make_domain, .fini = end_domain, .timeout = 60);

/* ---- a client ---- */

struct asker {
    struct ldr_stage_waiter w;
    bool answered;
    enum larder_kind kind;
    uint32_t block;
    uint64_t size;
    char name[64], msg[512];
};

static void answer(struct ldr_stage_waiter *w, enum larder_kind kind, const struct larder_err *e,
                   const struct ldr_staging *s)
{
    struct asker *a = LDR_CONTAINER(w, struct asker, w);

    cr_assert(not(a->answered), "once");
    a->answered = true;
    a->kind = kind;
    if (kind)
        strcpy(a->msg, e->msg);
    if (s) {
        a->block = s->block;
        a->size = s->size;
        strcpy(a->name, s->name);
    }
}

static enum larder_kind open_args(struct ldr_stage_args a, uint64_t *block_size)
{
    enum larder_kind k;

    a.upload_id = a.upload_id ? a.upload_id : ID;
    a.name = domain_name(&f, KEY);
    k = ldr_stage_open(&f.domain, &a, block_size, &err);
    ldr_name_unref(&a.name);
    return k;
}

static void open_unknown(void)
{
    uint64_t size;

    cr_assert(eq(int, open_args((struct ldr_stage_args){ 0 }, &size), LARDER_OK), "%s", err.msg);
    cr_assert(eq(u64, size, BLOCK));
}

static void ask_block(struct asker *a, uint32_t n)
{
    *a = (struct asker){ .w.answer = answer };
    a->kind = ldr_stage_block(&f.domain, ID, n, &a->w, &err);
    if (a->kind)
        a->answered = true;
}

static struct asker block(uint32_t n)
{
    struct asker a;

    ask_block(&a, n);
    cr_assert(domain_run_until(&f, &a.answered), "no block");
    return a;
}

static enum larder_kind seal(uint32_t n, uint64_t length)
{
    struct asker a = { .w.answer = answer };
    enum larder_kind k = ldr_stage_seal(&f.domain, ID, n, length, &a.w, &err);

    if (k)
        return k;
    cr_assert(domain_run_until(&f, &a.answered), "no answer to a seal");
    if (a.kind)
        strcpy(err.msg, a.msg);
    return a.kind;
}

static enum larder_kind data(uint32_t n, uint64_t offset, const void *p, size_t len)
{
    struct asker a = { .w = { .answer = answer, .offset = offset, .data = p, .len = len } };
    enum larder_kind k = ldr_stage_data(&f.domain, ID, n, &a.w, &err);

    if (k)
        return k;
    cr_assert(domain_run_until(&f, &a.answered), "no answer to bytes");
    return a.kind;
}

static void *map_block(const struct asker *a)
{
    int fd = openat(f.domain.dir->stagingfd, a->name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    void *p;

    cr_assert(fd >= 0);
    p = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert(p != MAP_FAILED);
    close(fd);
    return p;
}

static uint8_t *some_bytes(size_t n)
{
    uint8_t *p = malloc(n + 1);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 13 + i / 251 + (i >> 20));
    return p;
}

/* One block as a client does it, by a mapping. */
static void send_block(uint32_t n, const uint8_t *bytes, size_t len)
{
    struct asker a = block(n);
    void *p;

    cr_assert(eq(int, a.kind, LARDER_OK), "%s", a.kind ? a.msg : "");
    cr_assert(ne(chr, a.name[0], '\0'));
    p = map_block(&a);
    memcpy(p, bytes, len);
    munmap(p, a.size);
    cr_assert(eq(int, seal(n, len), LARDER_OK), "%s", err.msg);
}

static void send_blocks(const uint8_t *bytes, size_t n)
{
    for (uint32_t i = 0; (uint64_t)i * BLOCK < n; i++)
        send_block(i, bytes + (size_t)i * BLOCK, n - i * BLOCK < BLOCK ? n - i * BLOCK : BLOCK);
}

struct writer {
    struct ldr_write_waiter w;
    bool answered, cached;
    enum larder_kind kind;
    char msg[512];
};

static void written(struct ldr_write_waiter *w, const struct ldr_write_result *r)
{
    struct writer *a = LDR_CONTAINER(w, struct writer, w);

    a->answered = true;
    a->kind = r->kind;
    a->cached = r->id != NULL;
    if (r->kind)
        strcpy(a->msg, r->err->msg);
}

static enum larder_kind start_commit(struct writer *a, uint64_t op_id, uint64_t size)
{
    *a = (struct writer){ .w.answer = written };
    a->kind = ldr_stage_commit(&f.domain, op_id, LDR_NEVER, ID, size, &a->w, &err);
    return a->kind;
}

static struct writer commit(uint64_t size)
{
    struct writer a;

    if (start_commit(&a, next_op++, size) == LARDER_OK)
        cr_assert(domain_run_until(&f, &a.answered), "no answer to a commit");
    else
        strcpy(a.msg, err.msg);
    return a;
}

static bool store_has(const uint8_t *bytes, uint64_t n)
{
    uint64_t size;
    const uint8_t *p = fake_object(f.store, KEY, &size);

    return p && size == n && !memcmp(p, bytes, n);
}

/* All of it, by its record. */
static bool cache_has(const uint8_t *bytes, uint64_t n)
{
    struct ldr_record r;
    uint8_t *have = malloc(n + 1);
    bool same = domain_find(&f, KEY, &r) && r.size_bytes == n;

    if (same && !ldr_record_blocks(&r))
        same = !memcmp(r.payload, bytes, n);
    for (uint32_t i = 0; same && i < ldr_record_blocks(&r); i++) {
        uint64_t len = ldr_record_block_len(&r, i);
        int fd = ldr_blocks_open(&f.domain.blocks, &r, i);
        struct stat st;

        same = fd >= 0 && fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0440 && st.st_nlink == 1 &&
               pread(fd, have, len, 0) == (ssize_t)len && !memcmp(have, bytes + ((uint64_t)i << r.block_log2), len);
        if (fd >= 0)
            close(fd);
    }
    free(have);
    return same;
}

static bool missing(void)
{
    struct ldr_record r;

    return !domain_find(&f, KEY, &r);
}

/* The file system's clock goes by ticks: until what happens has a later time than what happened. */
static void wait_for_tick(void)
{
    char path[TEST_DIR_MAX + 8];
    struct stat first, now;
    int fd;

    snprintf(path, sizeof path, "%s/tick", dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    cr_assert(fd >= 0 && pwrite(fd, "x", 1, 0) == 1 && fstat(fd, &first) == 0);
    do {
        usleep(1000);
        cr_assert(pwrite(fd, "x", 1, 0) == 1 && fstat(fd, &now) == 0);
    } while (now.st_mtim.tv_sec == first.st_mtim.tv_sec && now.st_mtim.tv_nsec == first.st_mtim.tv_nsec);
    close(fd);
    unlink(path);
}

/* ---- what becomes of it ---- */

Test(stage, an_object_of_one_block_is_one_put)
{
    size_t n = 300 * 1000;
    uint8_t *p = some_bytes(n);
    struct writer w;

    open_unknown();
    send_block(0, p, n);
    w = commit(n);
    cr_assert(eq(int, w.kind, LARDER_OK), "%s", w.msg);
    cr_expect(w.cached);
    cr_expect(store_has(p, n));
    cr_expect(cache_has(p, n));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 1));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_BEGIN), 0));
    expect_nothing_left();
    free(p);
}

Test(stage, a_small_or_empty_object_is_kept_in_the_index)
{
    open_unknown();
    send_block(0, (const uint8_t *)"hello", 5);
    cr_expect(eq(int, commit(5).kind, LARDER_OK));
    cr_expect(store_has((const uint8_t *)"hello", 5) && cache_has((const uint8_t *)"hello", 5));
    open_unknown();
    cr_expect(eq(int, commit(0).kind, LARDER_OK));
    cr_expect(store_has((const uint8_t *)"", 0) && cache_has((const uint8_t *)"", 0));
    open_unknown();
    cr_assert(eq(int, block(0).kind, LARDER_OK));
    cr_expect(eq(int, seal(0, 0), LARDER_OK), "there was nothing to write after all");
    cr_expect(eq(int, seal(0, 0), LARDER_OK), "again");
    cr_expect(eq(int, commit(0).kind, LARDER_OK));
    cr_expect(store_has((const uint8_t *)"", 0));
    expect_nothing_left();
}

Test(stage, blocks_are_parts_of_one_upload_and_are_cached_when_the_writer_is_answered)
{
    size_t n = 3 * BLOCK + 77777;
    uint8_t *p = some_bytes(n);
    struct ldr_record r;
    struct writer w;

    open_unknown();
    send_blocks(p, n);
    cr_expect(missing(), "nobody sees anything of it before");
    w = commit(n);
    cr_assert(eq(int, w.kind, LARDER_OK), "%s", w.msg);
    cr_expect(w.cached);
    cr_expect(store_has(p, n));
    cr_expect(cache_has(p, n));
    cr_assert(domain_find(&f, KEY, &r));
    cr_expect(eq(u64, ldr_record_blocks(&r), 4));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_BEGIN), 1));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_PART), 4));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_END), 1));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 0));
    cr_expect(eq(u64, atomic_load(&f.domain.counters.upload_parts), 4));
    cr_expect(eq(u64, atomic_load(&f.domain.counters.staged_bytes), n));
    expect_nothing_left();
    free(p);
}

Test(stage, a_known_size_says_how_long_the_blocks_are)
{
    size_t n = 2 * BLOCK + 5;
    uint8_t *p = some_bytes(n);
    uint64_t size;

    cr_assert(eq(int, open_args((struct ldr_stage_args){ .size = 1000, .size_known = true }, &size), LARDER_OK));
    cr_expect(eq(u64, size, 1000), "a block that holds it");
    ldr_upload_abort(&f.domain, ID);
    cr_assert(
        eq(int, open_args((struct ldr_stage_args){ .size = 10000 * BLOCK, .size_known = true }, &size), LARDER_OK));
    cr_expect(eq(u64, size, 4 * BLOCK), "no more than an object of the cache has");
    ldr_upload_abort(&f.domain, ID);
    cr_assert(eq(int, open_args((struct ldr_stage_args){ .size = n, .size_known = true }, &size), LARDER_OK));
    cr_assert(eq(u64, size, BLOCK));
    send_blocks(p, n);
    cr_expect(eq(int, block(3).kind, LARDER_INVALID), "behind its end");
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n) && cache_has(p, n));
    expect_nothing_left();
    free(p);
}

Test(stage, blocks_are_never_smaller_than_the_parts_that_the_store_takes)
{
    uint64_t size;

    fake_takes_parts(f.store, 5 * LDR_MIB, 16 * LDR_MIB);
    cr_assert(eq(int, open_args((struct ldr_stage_args){ 0 }, &size), LARDER_OK));
    cr_expect(eq(u64, size, 8 * LDR_MIB));
    ldr_upload_abort(&f.domain, ID);
    cr_expect(eq(int, open_args((struct ldr_stage_args){ .size = 1000 * LDR_GIB, .size_known = true }, &size),
                 LARDER_LIMIT_EXCEEDED));
    expect_nothing_left();
}

Test(stage, what_a_prefix_does_not_keep_is_written_and_not_cached)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);

    f.prefix.skip_writes = true;
    open_unknown();
    send_blocks(p, n);
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n) && missing());
    open_unknown();
    send_blocks(p, 1000);
    cr_expect(eq(int, commit(1000).kind, LARDER_OK));
    cr_expect(store_has(p, 1000) && missing());
    expect_nothing_left();
    free(p);
}

/* ---- sealed before it is sent ---- */

Test(stage, a_writer_who_keeps_his_mapping_changes_nothing_any_more)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n), *kept;
    struct asker a;

    open_unknown();
    a = block(0);
    kept = map_block(&a);
    memcpy(kept, p, BLOCK);
    cr_assert(eq(int, seal(0, BLOCK), LARDER_OK), "%s", err.msg);
    memset(kept, 'X', BLOCK);
    send_block(1, p + BLOCK, BLOCK);
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    memset(kept, 'Y', BLOCK);
    cr_expect(store_has(p, n));
    cr_expect(cache_has(p, n));
    munmap(kept, BLOCK);
    expect_nothing_left();
    free(p);
}

Test(stage, one_block_that_is_still_mapped_is_copied_too_and_short_as_it_is)
{
    size_t n = 100 * 1000;
    uint8_t *p = some_bytes(n), *kept;
    struct asker a;

    open_unknown();
    a = block(0);
    kept = map_block(&a);
    memcpy(kept, p, n);
    cr_assert(eq(int, seal(0, n), LARDER_OK), "%s", err.msg);
    memset(kept, 'X', BLOCK); /* and its file was not cut under the mapping */
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n) && cache_has(p, n));
    munmap(kept, BLOCK);
    expect_nothing_left();
    free(p);
}

Test(stage, where_the_file_system_proves_nothing_every_block_is_copied)
{
    size_t n = 2 * BLOCK + 9;
    uint8_t *p = some_bytes(n);

    f.domain.dir->leases = false;
    open_unknown();
    send_blocks(p, n);
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n) && cache_has(p, n));
    expect_nothing_left();
    free(p);
}

Test(stage, a_staged_file_whose_length_was_changed_ends_the_upload)
{
    struct asker a;
    char path[TEST_DIR_MAX + 128];

    open_unknown();
    a = block(0);
    snprintf(path, sizeof path, "%s/cache/rw/staging/%s", dir, a.name);
    cr_assert(eq(int, truncate(path, 10), 0));
    cr_expect(eq(int, seal(0, 10), LARDER_INVALID));
    cr_expect(eq(int, block(1).kind, LARDER_INVALID), "and it stays so");
    ldr_upload_abort(&f.domain, ID);
    expect_nothing_left();
}

Test(stage, a_staged_file_is_for_the_group_until_it_is_sealed)
{
    struct stat st;
    struct asker a;

    open_unknown();
    a = block(0);
    cr_assert(eq(int, fstatat(f.domain.dir->stagingfd, a.name, &st, 0), 0));
    cr_expect(eq(uint, st.st_mode & 07777, 0660));
    cr_expect(eq(u64, (uint64_t)st.st_size, BLOCK));
    cr_expect(ge(u64, (uint64_t)st.st_blocks * 512, BLOCK), "allocated: a full disk is no SIGBUS");
    cr_expect(eq(uint, strlen(a.name), 32));
    cr_assert(eq(int, seal(0, BLOCK), LARDER_OK));
    cr_assert(eq(int, fstatat(f.domain.dir->stagingfd, a.name, &st, 0), 0));
    cr_expect(eq(uint, st.st_mode & 07777, 0440));
    ldr_upload_abort(&f.domain, ID);
    expect_nothing_left();
}

/* ---- how many at a time ---- */

Test(stage, a_client_waits_while_too_many_blocks_wait_for_the_store)
{
    uint8_t *p = some_bytes(BLOCK);
    struct asker a;
    uint32_t n = 0;

    open_unknown();
    fake_hold_only(f.store, LDR_OP_UPLOAD_PART);
    for (;; n++) {
        void *m;

        cr_assert(n < 50, "for ever");
        ask_block(&a, n);
        while (!a.answered && domain_step(&f, false))
            ;
        if (n >= 2 && !a.answered && fake_held(f.store) == 4) {
            usleep(20000); /* nothing that could answer it is under way */
            while (domain_step(&f, false))
                ;
        }
        if (!a.answered && n > 4)
            break;
        cr_assert(domain_run_until(&f, &a.answered));
        m = map_block(&a);
        memcpy(m, p, BLOCK);
        munmap(m, BLOCK);
        cr_assert(eq(int, seal(n, BLOCK), LARDER_OK));
    }
    cr_expect(eq(uint, n, 8));
    cr_expect(eq(uint, fake_held(f.store), 4), "parts side by side");
    fake_hold(f.store, false);
    cr_assert(domain_run_until(&f, &a.answered));
    cr_expect(eq(int, a.kind, LARDER_OK));
    ldr_upload_abort(&f.domain, ID);
    cr_assert(domain_run_idle(&f));
    expect_nothing_left();
    free(p);
}

Test(stage, more_blocks_than_a_store_has_parts_are_refused_by_name)
{
    struct ldr_stage *s;
    uint64_t id = ID;

    open_unknown();
    HASH_FIND(hh, f.domain.uploads->stages, &id, sizeof id, s);
    s->n_sealed = LDR_PARTS_MAX; /* as if they had been sent */
    cr_expect(eq(int, block(LDR_PARTS_MAX).kind, LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "10485760000") != NULL, "%s", err.msg);
    s->n_sealed = 0;
    ldr_upload_abort(&f.domain, ID);
}

/* ---- bytes as messages ---- */

Test(stage, bytes_may_come_as_messages_in_order_or_again)
{
    size_t n = BLOCK + 300 * 1000, at = 0;
    uint8_t *p = some_bytes(n);

    open_unknown();
    cr_expect(eq(int, data(0, 5, p, 10), LARDER_INVALID), "not from its start");
    for (; at < BLOCK; at += 128 * LDR_KIB)
        cr_assert(eq(int, data(0, at, p + at, 128 * LDR_KIB), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, data(0, at - 128 * LDR_KIB, p, 128 * LDR_KIB), LARDER_OK), "again");
    cr_expect(eq(int, data(0, at, p, 1), LARDER_INVALID), "more than a block");
    cr_expect(eq(int, data(1, 0, p, 1), LARDER_INVALID), "the one before is not sealed");
    cr_expect(eq(int, seal(0, BLOCK - 1), LARDER_INVALID), "not what was sent");
    cr_assert(eq(int, seal(0, BLOCK), LARDER_OK));
    cr_expect(eq(int, seal(0, BLOCK), LARDER_OK), "again");
    cr_expect(eq(int, data(0, 0, p, 1), LARDER_OK), "of one that is sealed: it has them");
    for (at = BLOCK; at < n; at += 100 * 1000)
        cr_assert(eq(int, data(1, at - BLOCK, p + at, n - at < 100000 ? n - at : 100000), LARDER_OK), "%s", err.msg);
    cr_expect(eq(int, data(1, 100, p, 300 * 1000), LARDER_INVALID), "half again, half new");
    cr_expect(eq(int, commit(n).kind, LARDER_INVALID), "not sealed");
    cr_assert(eq(int, seal(1, n - BLOCK), LARDER_OK));
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n) && cache_has(p, n));
    expect_nothing_left();
    free(p);
}

Test(stage, bytes_that_are_refused_leave_no_block_that_nobody_ends)
{
    uint8_t *p = some_bytes(BLOCK + 1);

    open_unknown();
    ldr_stage_heard(&f.domain, ID, 5);
    cr_expect(eq(int, data(0, 0, p, BLOCK + 1), LARDER_INVALID), "more than a block");
    ldr_stages_gone(&f.domain, 5);
    ldr_upload_sweep(&f.domain, ldr_mono_ns() + 11 * LDR_NS_PER_S);
    cr_expect(not(ldr_uploads_open(f.domain.uploads)), "its writer is gone");
    ldr_upload_abort(&f.domain, ID);
    expect_nothing_left();
    free(p);
}

Test(stage, a_block_without_a_file_has_the_bytes_that_were_sent_and_no_others)
{
    f.domain.space.max_bytes = 1;
    open_unknown();
    cr_assert(eq(str, block(0).name, ""));
    cr_expect(eq(int, seal(0, BLOCK), LARDER_INVALID), "none was sent");
    cr_expect(eq(int, seal(0, 5), LARDER_INVALID));
    cr_assert(eq(int, data(0, 0, "hello", 5), LARDER_OK));
    cr_expect(eq(int, seal(0, 6), LARDER_INVALID));
    cr_assert(eq(int, seal(0, 5), LARDER_OK));
    cr_expect(eq(int, commit(5).kind, LARDER_OK));
    cr_expect(store_has((const uint8_t *)"hello", 5));
    f.domain.space.max_bytes = LDR_GIB;
    expect_nothing_left();
}

Test(stage, a_full_cache_stops_no_write)
{
    size_t n = 3 * BLOCK + 1000;
    uint8_t *p = some_bytes(n);

    f.domain.space.max_bytes = 1;
    open_unknown();
    for (uint32_t i = 0; (uint64_t)i * BLOCK < n; i++) {
        size_t len = n - i * BLOCK < BLOCK ? n - i * BLOCK : BLOCK;
        struct asker a = block(i);

        cr_assert(eq(int, a.kind, LARDER_OK));
        cr_assert(eq(str, a.name, ""), "no file: bytes come as messages");
        cr_assert(eq(int, data(i, 0, p + i * BLOCK, len), LARDER_OK));
        cr_assert(eq(int, seal(i, len), LARDER_OK), "%s", err.msg);
    }
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n) && missing());
    open_unknown();
    cr_assert(eq(int, data(0, 0, p, 1000), LARDER_OK));
    cr_assert(eq(int, seal(0, 1000), LARDER_OK));
    cr_expect(eq(int, commit(1000).kind, LARDER_OK));
    cr_expect(store_has(p, 1000));
    f.domain.space.max_bytes = LDR_GIB;
    expect_nothing_left();
    free(p);
}

Test(stage, an_object_that_outgrows_half_of_the_cache_is_written_and_not_kept)
{
    size_t n = 6 * BLOCK;
    uint8_t *p = some_bytes(n);

    f.domain.space.max_bytes = atomic_load(&f.domain.space.bytes) + 4 * BLOCK;
    open_unknown();
    for (uint32_t i = 0; i < 6; i++) {
        struct asker a = block(i);

        cr_assert(eq(int, a.kind, LARDER_OK), "%s", a.msg);
        if (a.name[0]) {
            void *m = map_block(&a);

            memcpy(m, p + i * BLOCK, BLOCK);
            munmap(m, BLOCK);
        } else {
            cr_assert(eq(int, data(i, 0, p + i * BLOCK, BLOCK), LARDER_OK));
        }
        cr_assert(eq(int, seal(i, BLOCK), LARDER_OK), "%s", err.msg);
    }
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n));
    f.domain.space.max_bytes = LDR_GIB;
    expect_nothing_left();
    free(p);
}

/* ---- messages out of order, twice, unknown ---- */

Test(stage, messages_sent_again_are_answered_again)
{
    uint8_t *p = some_bytes(BLOCK);
    struct asker a, b;
    struct writer w1, w2;
    uint64_t size, op = next_op++;
    void *m;

    open_unknown();
    cr_expect(eq(int, open_args((struct ldr_stage_args){ 0 }, &size), LARDER_OK));
    cr_expect(eq(u64, size, BLOCK));
    ask_block(&a, 0);
    ask_block(&b, 0); /* while it is made */
    cr_assert(domain_run_until(&f, &a.answered) && domain_run_until(&f, &b.answered));
    cr_expect(eq(str, a.name, b.name));
    b = block(0); /* and when it is */
    cr_expect(eq(str, a.name, b.name));
    m = map_block(&a);
    memcpy(m, p, BLOCK);
    munmap(m, BLOCK);
    cr_expect(eq(int, seal(0, BLOCK), LARDER_OK));
    cr_expect(eq(int, seal(0, BLOCK), LARDER_OK));
    cr_expect(eq(int, seal(0, BLOCK - 1), LARDER_INVALID));
    cr_assert(eq(int, start_commit(&w1, op, BLOCK), LARDER_OK));
    cr_assert(eq(int, start_commit(&w2, op, BLOCK), LARDER_OK));
    cr_assert(domain_run_until(&f, &w1.answered) && domain_run_until(&f, &w2.answered));
    cr_expect(w1.kind == LARDER_OK && w2.kind == LARDER_OK);
    cr_assert(eq(int, start_commit(&w2, op, BLOCK), LARDER_OK), "and when it has ended");
    cr_expect(w2.answered && w2.kind == LARDER_OK);
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_PUT), 1));
    free(p);
    expect_nothing_left();
}

Test(stage, messages_out_of_order_are_refused_and_the_upload_goes_on)
{
    uint8_t *p = some_bytes(BLOCK);
    struct ldr_name *other = domain_name(&f, "mem://b/other");
    struct ldr_stage_args args = { .upload_id = ID, .name = other };
    uint64_t size;

    cr_expect(eq(int, block(0).kind, LARDER_CANCELLED), "nothing is known of it");
    cr_expect(eq(int, seal(0, 1), LARDER_CANCELLED));
    cr_expect(eq(int, commit(0).kind, LARDER_CANCELLED));
    open_unknown();
    cr_expect(eq(int, ldr_stage_open(&f.domain, &args, &size, &err), LARDER_INVALID), "another object");
    cr_expect(eq(int, block(1).kind, LARDER_INVALID));
    cr_expect(eq(int, seal(0, 1), LARDER_INVALID), "it was not asked for");
    cr_assert(eq(int, block(0).kind, LARDER_OK));
    cr_expect(eq(int, block(1).kind, LARDER_INVALID), "the first is not sealed");
    cr_expect(eq(int, seal(1, 1), LARDER_INVALID));
    cr_expect(eq(int, seal(0, BLOCK + 1), LARDER_INVALID));
    send_block(0, p, 1000);
    cr_expect(eq(int, block(1).kind, LARDER_INVALID), "a short one was the last");
    cr_expect(eq(int, commit(999).kind, LARDER_INVALID));
    cr_expect(eq(int, commit(1000).kind, LARDER_OK));
    cr_expect(store_has(p, 1000));
    ldr_name_unref(&other);
    expect_nothing_left();
    free(p);
}

Test(stage, a_client_that_leaves_while_it_waits_for_a_block_may_ask_again)
{
    struct asker a, b;

    open_unknown();
    ask_block(&a, 0);
    ldr_stage_leave(&a.w);
    ldr_stage_leave(&a.w);
    b = block(0);
    cr_expect(eq(int, b.kind, LARDER_OK));
    cr_expect(not(a.answered));
    ldr_upload_abort(&f.domain, ID);
    expect_nothing_left();
}

Test(stage, too_many_uploads_are_refused_and_the_others_go_on)
{
    uint64_t size, n = 0;

    while (n < 1000 && open_args((struct ldr_stage_args){ .upload_id = 1000 + n }, &size) == LARDER_OK)
        n++;
    cr_expect(eq(u64, n, 256));
    cr_expect(eq(int, open_args((struct ldr_stage_args){ .upload_id = 5 }, &size), LARDER_UNAVAILABLE));
    ldr_upload_abort(&f.domain, 1000);
    cr_expect(eq(int, open_args((struct ldr_stage_args){ .upload_id = 5 }, &size), LARDER_OK));
}

/* ---- failures ---- */

Test(stage, a_part_that_fails_ends_the_upload_and_nothing_is_left)
{
    size_t n = 3 * BLOCK;
    uint8_t *p = some_bytes(n);

    fake_say(f.store, LDR_OP_UPLOAD_PART, (struct fake_answer){ .validator = "\"x\"" });
    fake_say(f.store, LDR_OP_UPLOAD_PART, (struct fake_answer){ .kind = LARDER_DENIED, .http = 403, .sent = true });
    open_unknown();
    send_block(0, p, BLOCK);
    send_block(1, p + BLOCK, BLOCK);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(int, block(2).kind, LARDER_DENIED), "who comes later hears why");
    cr_expect(eq(int, commit(2 * BLOCK).kind, LARDER_DENIED));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_ABORT), 1));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_END), 0));
    expect_nothing_left();
    cr_expect(missing());
    free(p);
}

Test(stage, a_part_that_fails_for_a_moment_is_sent_again)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);

    fake_say(f.store, LDR_OP_UPLOAD_PART,
             (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .http = 503, .sent = true });
    fake_say(f.store, LDR_OP_UPLOAD_PART, (struct fake_answer){ .validator = "\"x\"" });
    open_unknown();
    send_blocks(p, n);
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_PART), 3));
    expect_nothing_left();
    free(p);
}

Test(stage, who_commits_hears_of_a_part_that_failed)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);
    struct writer w;

    fake_say(f.store, LDR_OP_UPLOAD_PART, (struct fake_answer){ .kind = LARDER_DENIED, .http = 403, .sent = true });
    open_unknown();
    fake_hold_only(f.store, LDR_OP_UPLOAD_PART);
    send_blocks(p, n);
    cr_assert(eq(int, start_commit(&w, next_op++, n), LARDER_OK));
    cr_assert(domain_run_until_held(&f, 2));
    fake_hold(f.store, false);
    cr_assert(domain_run_until(&f, &w.answered));
    cr_expect(eq(int, w.kind, LARDER_DENIED), "and not: outcome unknown");
    cr_assert(domain_run_idle(&f));
    expect_nothing_left();
    free(p);
}

Test(stage, a_begin_that_fails_ends_the_upload)
{
    uint8_t *p = some_bytes(BLOCK);

    fake_say(f.store, LDR_OP_UPLOAD_BEGIN, (struct fake_answer){ .kind = LARDER_DENIED, .http = 403, .sent = true });
    open_unknown();
    send_block(0, p, BLOCK);
    block(1);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(int, block(1).kind, LARDER_DENIED));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_ABORT), 0), "there is nothing to abort");
    ldr_upload_abort(&f.domain, ID);
    expect_nothing_left();
    free(p);
}

Test(stage, an_end_whose_outcome_is_not_known_says_so_and_takes_the_record_with_it)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);
    struct writer w;

    open_unknown();
    send_block(0, (const uint8_t *)"old", 3);
    cr_assert(eq(int, commit(3).kind, LARDER_OK));
    fake_say(f.store, LDR_OP_UPLOAD_END, (struct fake_answer){ .kind = LARDER_UNAVAILABLE, .sent = true });
    open_unknown();
    send_blocks(p, n);
    cr_expect(cache_has((const uint8_t *)"old", 3), "until the end is sent");
    w = commit(n);
    cr_expect(eq(int, w.kind, LARDER_OUTCOME_UNKNOWN));
    cr_expect(missing());
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_ABORT), 1));
    expect_nothing_left();
    free(p);
}

Test(stage, an_end_that_is_refused_leaves_nothing)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);

    fake_say(f.store, LDR_OP_UPLOAD_END,
             (struct fake_answer){ .kind = LARDER_PRECONDITION, .http = 412, .sent = true });
    open_unknown();
    send_blocks(p, n);
    cr_expect(eq(int, commit(n).kind, LARDER_PRECONDITION));
    cr_assert(domain_run_idle(&f));
    cr_expect(missing());
    expect_nothing_left();
    free(p);
}

Test(stage, a_store_that_takes_no_parts_takes_one_block)
{
    uint8_t *p = some_bytes(BLOCK);
    uint64_t size;

    cr_assert(domain_close(&f));
    domain_open(&f, dir, NULL);
    fake_say(f.store, LDR_OP_PUT, (struct fake_answer){ .validator = "\"v\"" });
    cr_expect(eq(int, open_args((struct ldr_stage_args){ .size = 2 * BLOCK, .size_known = true }, &size),
                 LARDER_UNSUPPORTED));
    cr_expect(strstr(err.msg, "fake") != NULL, "%s", err.msg);
    open_unknown();
    send_block(0, p, BLOCK);
    cr_expect(eq(int, block(1).kind, LARDER_UNSUPPORTED));
    cr_expect(eq(int, commit(BLOCK).kind, LARDER_OK), "what it takes it has");
    cr_expect(cache_has(p, BLOCK));
    free(p);
}

Test(stage, a_container_that_is_missing_is_made_once_and_the_bytes_are_stored)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);

    fake_makes_containers(f.store);
    f.slot.container = (char *)"b";
    fake_lose_containers(f.store);
    open_unknown();
    send_blocks(p, n);
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(store_has(p, n) && cache_has(p, n));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_MAKE_CONTAINER), 1));
    cr_assert(domain_run_idle(&f));
    f.slot.container = (char *)"another";
    fake_lose_containers(f.store);
    open_unknown();
    send_block(0, p, BLOCK);
    block(1);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(int, commit(BLOCK).kind, LARDER_NOT_FOUND), "it is not the configured one");
    ldr_upload_abort(&f.domain, ID);
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_MAKE_CONTAINER), 1));
    cr_assert(domain_run_idle(&f));
    f.cfg.multicontainer = true;
    open_unknown();
    send_blocks(p, 1000);
    cr_expect(eq(int, commit(1000).kind, LARDER_OK), "any is made then, for a put too");
    cr_expect(store_has(p, 1000));
    f.cfg.multicontainer = false;
    expect_nothing_left();
    free(p);
}

/* ---- conditions, overlaps, intents ---- */

static char end_condition[64];
static atomic_int ends_with_intent, parts_with_intent;
static struct ldr_reader *net_reader;

static void look_at_op(void *user, const struct ldr_op *op)
{
    uint8_t key[LDR_INTENT_KEY_MAX];
    size_t n = ldr_intent_key(KEY, strlen(KEY), key);
    struct ldr_record r;
    uint64_t txnid;
    bool intent = net_reader && ldr_reader_find(net_reader, key, n, &r, &txnid) == LARDER_CORRUPT;

    (void)user;
    if (op->what == LDR_OP_UPLOAD_END || op->what == LDR_OP_PUT) {
        snprintf(end_condition, sizeof end_condition, "%s %d", op->if_match ? op->if_match : "-", op->create_only);
        atomic_fetch_add(&ends_with_intent, intent);
    } else {
        atomic_fetch_add(&parts_with_intent, intent);
    }
}

Test(stage, the_intent_stands_when_the_end_is_sent_and_not_before)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);

    cr_assert(eq(int, ldr_reader_open(f.domain.index, &net_reader, &err), LARDER_OK));
    fake_on_op(f.store, look_at_op, NULL);
    open_unknown();
    send_blocks(p, n);
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(eq(int, atomic_load(&ends_with_intent), 1));
    cr_expect(eq(int, atomic_load(&parts_with_intent), 0));
    cr_assert(domain_run_idle(&f));
    ldr_reader_close(&net_reader);
    expect_nothing_left();
    free(p);
}

Test(stage, a_condition_reaches_the_store_or_is_refused)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);
    uint64_t size;

    cr_expect(eq(int, open_args((struct ldr_stage_args){ .create_only = true }, &size), LARDER_UNSUPPORTED));
    cr_expect(eq(int, open_args((struct ldr_stage_args){ .if_match = "abc" }, &size), LARDER_UNSUPPORTED));
    fake_caps(f.store, LDR_CAP_CREATE_ONLY | LDR_CAP_PUT_IF_MATCH);
    fake_on_op(f.store, look_at_op, NULL);
    cr_expect(
        eq(int, open_args((struct ldr_stage_args){ .create_only = true, .if_match = "abc" }, &size), LARDER_INVALID));
    cr_assert(eq(int, open_args((struct ldr_stage_args){ .if_match = "abc" }, &size), LARDER_OK));
    send_blocks(p, n);
    cr_expect(eq(int, commit(n).kind, LARDER_OK));
    cr_expect(eq(str, end_condition, "\"abc\" 0"), "with its quotes");
    cr_assert(eq(int, open_args((struct ldr_stage_args){ .create_only = true }, &size), LARDER_OK));
    send_blocks(p, 1000);
    cr_expect(eq(int, commit(1000).kind, LARDER_OK));
    cr_expect(eq(str, end_condition, "- 1"));
    free(p);
}

Test(stage, of_writes_that_overlap_none_fills_the_cache)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);
    struct ldr_put_args put = { .op_id = 4711, .deadline_ns = LDR_NEVER, .data = (const uint8_t *)"x", .data_len = 1 };
    struct writer w, other = { .w.answer = written };

    open_unknown();
    send_blocks(p, n);
    fake_hold(f.store, true);
    cr_assert(eq(int, start_commit(&w, next_op++, n), LARDER_OK));
    for (int i = 0; i < 50 && fake_seen(f.store, LDR_OP_UPLOAD_END) == 0; i++) {
        fake_let(f.store);
        domain_run_until_held(&f, 1);
    }
    put.name = domain_name(&f, KEY);
    cr_assert(eq(int, ldr_upload_put(&f.domain, &put, &other.w, &err), LARDER_OK));
    ldr_name_unref(&put.name);
    cr_assert(domain_run_until_held(&f, 2));
    fake_hold(f.store, false);
    cr_assert(domain_run_until(&f, &w.answered) && domain_run_until(&f, &other.answered));
    cr_expect(w.kind == LARDER_OK && other.kind == LARDER_OK);
    cr_expect(w.cached + other.cached == 0);
    cr_expect(missing());
    cr_assert(domain_run_idle(&f));
    expect_nothing_left();
    free(p);
}

/* ---- given up ---- */

Test(stage, an_abort_leaves_nothing_at_any_point)
{
    uint8_t *p = some_bytes(4 * BLOCK);

    for (uint32_t sealed = 0; sealed < 4; sealed++)
        for (int asked = 0; asked < 3; asked++) {
            struct asker a = { 0 };

            open_unknown();
            for (uint32_t i = 0; i < sealed; i++)
                send_block(i, p + i * BLOCK, BLOCK);
            if (asked)
                ask_block(&a, sealed);
            if (asked == 2)
                cr_assert(domain_run_until(&f, &a.answered));
            ldr_upload_abort(&f.domain, ID);
            ldr_upload_abort(&f.domain, ID);
            cr_assert(domain_run_idle(&f));
            if (asked)
                cr_expect(a.answered, "whatever it is told");
            expect_nothing_left();
        }
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_END), 0));
    free(p);
}

Test(stage, an_abort_of_a_block_that_is_still_mapped_gives_its_space_back_when_it_is_not)
{
    struct asker a;
    void *m;

    open_unknown();
    a = block(0);
    m = map_block(&a);
    ldr_upload_abort(&f.domain, ID);
    cr_assert(domain_run_idle(&f));
    for (int i = 0; i < 1000 && files_in(f.domain.dir->stagingfd); i++)
        usleep(1000);
    cr_expect(eq(uint, files_in(f.domain.dir->stagingfd), 0));
    cr_expect(eq(u64, atomic_load(&f.domain.space.unlinked_mapped), BLOCK), "it counts while it is mapped");
    memset(m, 'X', BLOCK); /* no SIGBUS */
    munmap(m, BLOCK);
    expect_nothing_left();
}

#define AFTER(seconds) (now + (seconds)*LDR_NS_PER_S)

Test(stage, a_writer_that_is_gone_and_silent_is_given_up_but_not_while_somebody_writes)
{
    uint8_t *p = some_bytes(BLOCK);
    struct asker a;
    int64_t now;
    void *m;

    open_unknown();
    send_block(0, p, BLOCK);
    a = block(1);
    m = map_block(&a);
    ldr_stage_heard(&f.domain, ID, 5);
    ldr_stages_gone(&f.domain, 4);
    now = ldr_mono_ns();
    ldr_upload_sweep(&f.domain, AFTER(3590));
    cr_expect(ldr_uploads_open(f.domain.uploads), "it is connected");
    ldr_stages_gone(&f.domain, 5);
    now = ldr_mono_ns();
    ldr_upload_sweep(&f.domain, AFTER(9));
    ldr_upload_sweep(&f.domain, AFTER(600));
    ldr_upload_sweep(&f.domain, AFTER(1200));
    cr_expect(ldr_uploads_open(f.domain.uploads), "somebody maps the block's file");
    munmap(m, BLOCK);
    ldr_upload_sweep(&f.domain, AFTER(1209));
    cr_expect(ldr_uploads_open(f.domain.uploads), "not yet");
    ldr_upload_sweep(&f.domain, AFTER(1211));
    cr_expect(not(ldr_uploads_open(f.domain.uploads)));
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(int, block(1).kind, LARDER_CANCELLED));
    cr_expect(eq(uint, fake_seen(f.store, LDR_OP_UPLOAD_ABORT), 1));
    cr_expect(eq(u64, atomic_load(&f.domain.counters.uploads_abandoned), 1));
    expect_nothing_left();
    free(p);
}

Test(stage, a_writer_that_opens_the_file_for_each_piece_is_heard_by_its_pieces)
{
    struct asker a;
    int64_t now;
    int fd;

    open_unknown();
    a = block(0);
    ldr_stage_heard(&f.domain, ID, 5);
    ldr_stages_gone(&f.domain, 5);
    now = ldr_mono_ns();
    for (int i = 1; i < 6; i++) {
        wait_for_tick();
        fd = openat(f.domain.dir->stagingfd, a.name, O_WRONLY | O_CLOEXEC);
        cr_assert(fd >= 0 && pwrite(fd, "x", 1, i) == 1);
        close(fd);
        ldr_upload_sweep(&f.domain, AFTER(11 * i));
        cr_expect(ldr_uploads_open(f.domain.uploads));
    }
    ldr_upload_sweep(&f.domain, AFTER(66));
    cr_expect(not(ldr_uploads_open(f.domain.uploads)));
    expect_nothing_left();
}

Test(stage, a_writer_that_comes_back_by_another_connection_goes_on)
{
    uint8_t *p = some_bytes(BLOCK);
    int64_t now;

    open_unknown();
    send_block(0, p, 1000);
    ldr_stage_heard(&f.domain, ID, 5);
    ldr_stages_gone(&f.domain, 5);
    ldr_stage_heard(&f.domain, ID, 6);
    now = ldr_mono_ns();
    ldr_upload_sweep(&f.domain, AFTER(600));
    cr_expect(eq(int, commit(1000).kind, LARDER_OK));
    cr_expect(store_has(p, 1000));
    free(p);
}

Test(stage, one_that_is_connected_has_an_hour_and_one_that_failed_a_minute)
{
    struct asker a;
    char path[TEST_DIR_MAX + 128];
    int64_t now;

    open_unknown();
    now = ldr_mono_ns();
    ldr_upload_sweep(&f.domain, AFTER(3590));
    cr_expect(ldr_uploads_open(f.domain.uploads));
    ldr_upload_sweep(&f.domain, AFTER(3601));
    cr_expect(not(ldr_uploads_open(f.domain.uploads)));
    open_unknown();
    a = block(0);
    snprintf(path, sizeof path, "%s/cache/rw/staging/%s", dir, a.name);
    cr_assert(eq(int, truncate(path, 10), 0));
    cr_expect(eq(int, seal(0, 10), LARDER_INVALID));
    now = ldr_mono_ns();
    ldr_upload_sweep(&f.domain, AFTER(59));
    cr_expect(ldr_uploads_open(f.domain.uploads));
    ldr_upload_sweep(&f.domain, AFTER(61));
    cr_expect(not(ldr_uploads_open(f.domain.uploads)));
    expect_nothing_left();
}

Test(stage, a_committed_upload_needs_no_client)
{
    size_t n = 2 * BLOCK;
    uint8_t *p = some_bytes(n);
    struct writer w;

    open_unknown();
    fake_hold_only(f.store, LDR_OP_UPLOAD_PART);
    send_blocks(p, n);
    cr_assert(eq(int, start_commit(&w, next_op++, n), LARDER_OK));
    ldr_upload_leave(&w.w);
    ldr_upload_abort(&f.domain, ID);
    ldr_upload_sweep(&f.domain, ldr_mono_ns() + 600 * LDR_NS_PER_S);
    fake_hold(f.store, false);
    cr_assert(domain_run_idle(&f));
    cr_expect(store_has(p, n) && cache_has(p, n));
    cr_expect(not(w.answered));
    expect_nothing_left();
    free(p);
}

static void *quit(void *user)
{
    (void)user;
    ldr_uploads_quit(f.domain.uploads, ldr_mono_ns() + FIXTURE_WAIT_NS);
    return NULL;
}

Test(stage, what_is_not_committed_when_the_agent_stops_is_aborted_first)
{
    uint8_t *p = some_bytes(BLOCK);
    pthread_t thread;
    struct asker a;

    open_unknown();
    send_block(0, p, BLOCK);
    ask_block(&a, 1);
    cr_assert(domain_run_until(&f, &a.answered));
    while (domain_step(&f, false) || fake_open_uploads(f.store) == 0)
        ;
    cr_assert(eq(int, pthread_create(&thread, NULL, quit, NULL), 0));
    while (!f.domain.uploads->quitting || f.domain.uploads->n_stages)
        cr_assert(domain_step(&f, true));
    pthread_join(thread, NULL);
    cr_expect(eq(uint, fake_open_uploads(f.store), 0));
    expect_nothing_left();
    free(p);
}

/* ---- killed ---- */

/* The store outlives the agent: what it was told, in memory that both processes see. */
struct shared {
    atomic_uint ops;
    unsigned
        kill_at; /* of the ops of an upload: when the so-many-th arrives, or 1000 + n: before the n-th step below */
    char open_id[64];
    atomic_bool ended;
};
static struct shared *shared;

static void count_op(void *user, const struct ldr_op *op)
{
    (void)user;
    if (op->what == LDR_OP_UPLOAD_PART || op->what == LDR_OP_UPLOAD_END) {
        strcpy(shared->open_id, op->upload->id);
        if (op->what == LDR_OP_UPLOAD_END && shared->kill_at == 100)
            shared->ended = true; /* it was carried out, and nobody heard */
        if (atomic_fetch_add(&shared->ops, 1) + 1 == shared->kill_at ||
            (shared->kill_at == 100 && op->what == LDR_OP_UPLOAD_END))
            kill(getpid(), SIGKILL);
    }
}

static void step(unsigned n)
{
    if (shared->kill_at == 1000 + n)
        kill(getpid(), SIGKILL);
}

static void upload_and_die(void)
{
    size_t n = 3 * BLOCK;
    uint8_t *p = some_bytes(n);

    start_domain();
    fake_on_op(f.store, count_op, NULL);
    open_unknown();
    step(1);
    send_block(0, p, BLOCK);
    step(2);
    send_block(1, p + BLOCK, BLOCK);
    step(3);
    send_block(2, p + 2 * BLOCK, BLOCK);
    step(4);
    commit(n);
    step(5);
    _exit(0);
}

static struct ldr_backend_ops counted_ops;
static char aborted_id[64];
static atomic_uint aborts;

static void note_abort(struct ldr_backend *b, struct ldr_op *op)
{
    (void)b;
    if (op->what == LDR_OP_UPLOAD_ABORT) {
        strcpy(aborted_id, op->upload->id);
        atomic_fetch_add(&aborts, 1);
    }
    ldr_op_done(op, LARDER_OK);
}

/* As the agent does at its start. */
static void sweep_blocks(void)
{
    struct ldr_sweep *sweep;
    uint64_t unlinked;

    cr_assert(eq(int, ldr_sweep_start(&f.domain.blocks, f.domain.index, &sweep, &err), LARDER_OK));
    while (!ldr_sweep_ended(sweep, &unlinked))
        usleep(1000);
    ldr_sweep_stop(&sweep);
}

static void start_again(void)
{
    struct ldr_name *n;

    domain_open(&f, dir, NULL);
    cr_assert(eq(int, ldr_route(f.domain.routes, KEY, &n, &err), LARDER_OK));
    counted_ops = *n->backend->ops;
    counted_ops.upload = note_abort;
    n->backend->ops = &counted_ops;
    ldr_name_unref(&n);
    ldr_leftovers_start(&f.domain, 1);
    while (domain_step(&f, false))
        ;
    cr_assert(domain_run_idle(&f));
}

Test(stage, killed_anywhere_the_next_start_leaves_nothing_and_shows_no_older_bytes)
{
    static const unsigned points[] = { 1001, 1002, 1003, 1004, 1005, 1, 2, 3, 4, 100 };

    cr_assert(domain_close(&f));
    test_dir_remove(dir);
    test_dir_make(dir); /* no start counts that was before */
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(shared != MAP_FAILED);
    for (size_t i = 0; i < LDR_ARRAY_LEN(points); i++) {
        bool had_old, begun;
        struct ldr_put_args put = {
            .op_id = next_op++, .deadline_ns = LDR_NEVER, .data = (const uint8_t *)"old", .data_len = 3
        };
        struct writer w = { .w.answer = written };
        pid_t pid;
        int status;

        start_domain(); /* an older version is cached */
        put.name = domain_name(&f, KEY);
        cr_assert(eq(int, ldr_upload_put(&f.domain, &put, &w.w, &err), LARDER_OK));
        cr_assert(domain_run_until(&f, &w.answered) && w.cached);
        ldr_name_unref(&put.name);
        cr_assert(domain_close(&f));
        memset(shared, 0, sizeof *shared);
        shared->kill_at = points[i];
        atomic_store(&aborts, 0);
        pid = fork();
        if (pid == 0)
            upload_and_die();
        cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
        cr_assert(eq(int, status, SIGKILL), "point %u", points[i]);
        wait_for_tick(); /* what is of the start's own time is left alone */
        start_again();
        begun = shared->open_id[0] != '\0';
        had_old = cache_has((const uint8_t *)"old", 3);
        if (points[i] == 100 || points[i] == 4)
            cr_expect(not(had_old), "point %u: the new bytes may be in the store", points[i]);
        else if (points[i] == 1005)
            cr_expect(not(had_old), "point %u: it was answered", points[i]);
        else
            cr_expect(had_old, "point %u: nothing was written", points[i]);
        if (begun && points[i] != 1005) {
            cr_expect(eq(uint, atomic_load(&aborts), 1), "point %u", points[i]);
            cr_expect(eq(str, aborted_id, shared->open_id), "point %u", points[i]);
        }
        cr_expect(eq(uint, files_in(f.domain.dir->stagingfd), 0), "point %u", points[i]);
        cr_expect(eq(uint, files_in(f.domain.dir->uploadsfd), 0), "point %u", points[i]);
        sweep_blocks();
        cr_expect(domain_close(&f), "point %u", points[i]);
        test_dir_remove(dir);
        test_dir_make(dir);
    }
    start_domain();
    munmap(shared, sizeof *shared);
}
