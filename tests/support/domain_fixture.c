/* domain_fixture.c - see domain_fixture.h. */
#include "tests/support/domain_fixture.h"
#include "common/clock.h"
#include "common/touch.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        struct larder_err err = { 0 };                                                                                 \
        if (call) {                                                                                                    \
            fprintf(stderr, "domain_fixture: %s: %s\n", #call, err.msg);                                               \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static uint64_t either(uint64_t given, uint64_t usual)
{
    return given ? given : usual;
}

static void configure(struct domain_fixture *f, const struct domain_options *o)
{
    f->slot = (struct ldr_store_slot){ .scheme = (char *)"mem", .kind = (char *)"memory", .primary = true };
    f->prefix = (struct ldr_prefix_cfg){
        .match = (char *)"mem://", .match_len = 6, .freshness = LDR_TTL, .ttl_ns = 60 * LDR_NS_PER_S
    };
    f->cfg = (struct ldr_cfg){ .stores = &f->slot,
                               .n_stores = 1,
                               .block_size = either(o->block_size, LDR_MIB),
                               .inline_limit = (uint32_t)either(o->inline_limit, LDR_RECORD_DEFAULT),
                               .prefixes = &f->prefix,
                               .n_prefixes = 1 };
}

void domain_open(struct domain_fixture *f, const char *dir, const struct domain_options *o)
{
    static const struct domain_options usual;
    struct ldr_net_cfg nc = { .connections_per_host = 4 };
    const char *drop[] = { NULL };
    struct ldr_domain *d = &f->domain;
    struct ldr_index_cfg ic;
    char path[TEST_DIR_MAX + 8];

    signal(SIGIO, SIG_IGN); /* as the agent does: a lease break would end the process */
    o = o ? o : &usual;
    *f = (struct domain_fixture){ 0 };
    configure(f, o);
    MUST(ldr_pool_new(o->pool_threads ? o->pool_threads : 1, &f->pool, &err));
    MUST(ldr_net_new(&nc, &f->net, &err));
    f->store = fake_new(f->net, f->pool);
    d->cfg = &f->cfg;
    d->pool = f->pool;
    d->started_ns = ldr_mono_ns();
    ldr_mailbox_init(&d->ipc_box, NULL, NULL);
    MUST(ldr_routes_new(&f->cfg, &f->net, 1, f->pool, &d->routes, &err));
    snprintf(path, sizeof path, "%s/cache", dir);
    MUST(ldr_cache_dir_open(path, false, 0, &d->dir, &err));
    ldr_space_init(&d->space);
    d->space.dirfd = d->dir->dirfd;
    d->space.max_bytes = either(o->max_bytes, LDR_GIB);
    d->space.max_files = either(o->max_files, 100000);
    d->space.min_free_bytes = o->min_free_bytes;
    ldr_blocks_init(&d->blocks, d->dir, &d->space, f->pool);
    ic = (struct ldr_index_cfg){ .inline_bytes = either(o->inline_bytes, 16 * LDR_MIB),
                                 .inline_limit = f->cfg.inline_limit,
                                 .block_size = f->cfg.block_size,
                                 .blocks = &d->blocks };
    MUST(ldr_index_open(d->dir, &d->space, &d->counters, &ic, &d->index, &err));
    MUST(ldr_index_repair(d->index, drop, &err));
    MUST(ldr_index_start(d->index, &err));
    MUST(ldr_cache_dir_commit(d->dir, &err));
    MUST(ldr_reader_open(d->index, &d->reader, &err));
    MUST(ldr_flights_new(d, &d->flights, &err));
    MUST(ldr_uploads_new(d, &d->uploads, &err));
}

/* ---- the ipc thread ---- */

bool domain_step(struct domain_fixture *f, bool wait)
{
    struct ldr_task *t = ldr_mailbox_take(&f->domain.ipc_box, wait ? ldr_mono_ns() + FIXTURE_WAIT_NS : 0);

    if (t)
        t->run(t);
    return t != NULL;
}

bool domain_run_until(struct domain_fixture *f, const bool *flag)
{
    while (!*flag)
        if (!domain_step(f, true))
            return false;
    return true;
}

bool domain_run_until_held(struct domain_fixture *f, unsigned n)
{
    int64_t until = ldr_mono_ns() + FIXTURE_WAIT_NS;

    while (fake_held(f->store) < n && ldr_mono_ns() < until)
        if (!domain_step(f, false))
            nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL); /* the net thread has it */
    return fake_held(f->store) >= n;
}

bool domain_run_idle(struct domain_fixture *f)
{
    while (!ldr_flights_idle(f->domain.flights) || !ldr_uploads_idle(f->domain.uploads))
        if (!domain_step(f, true))
            return false;
    return true;
}

/* ---- what is there ---- */

struct ldr_name *domain_name(struct domain_fixture *f, const char *uri)
{
    struct ldr_name *n = NULL;

    MUST(ldr_route(f->domain.routes, uri, &n, &err));
    n->backend = fake_base(f->store);
    return n;
}

struct sent_part {
    struct ldr_part part;
    bool answered;
    enum larder_kind kind;
    struct larder_err *err;
};

static void part_answered(struct ldr_part *p, enum larder_kind kind, const struct larder_err *err)
{
    struct sent_part *s = LDR_CONTAINER(p, struct sent_part, part);

    s->answered = true;
    s->kind = kind;
    if (kind && s->err)
        *s->err = *err;
}

enum larder_kind domain_part(struct domain_fixture *f, uint64_t upload_id, uint64_t size, uint64_t offset,
                             const void *data, size_t len, struct larder_err *err)
{
    struct sent_part s = { .part = { .upload_id = upload_id,
                                     .size = size,
                                     .offset = offset,
                                     .data = data,
                                     .len = len,
                                     .answer = part_answered },
                           .err = err };
    enum larder_kind k = ldr_upload_part(&f->domain, &s.part, err);

    if (k)
        return k;
    return domain_run_until(f, &s.answered) ? s.kind : ldr_fail(err, LARDER_TIMEOUT, "no answer to a part");
}

bool domain_find(struct domain_fixture *f, const char *uri, struct ldr_record *out)
{
    struct ldr_name *n = domain_name(f, uri);
    uint64_t txnid;
    bool found = ldr_reader_find(f->domain.reader, n->ikey, n->ikey_len, out, &txnid) == LARDER_OK;

    ldr_name_unref(&n);
    return found;
}

bool domain_has_intent(struct domain_fixture *f, const char *uri)
{
    struct ldr_name *n = domain_name(f, uri);
    uint8_t key[LDR_INTENT_KEY_MAX];
    size_t len = ldr_intent_key(n->ikey, n->ikey_len, key);
    struct ldr_record r;
    uint64_t txnid;

    ldr_name_unref(&n);
    /* An intent's value is empty, which is no record: there, but damaged. */
    return ldr_reader_find(f->domain.reader, key, len, &r, &txnid) == LARDER_CORRUPT;
}

/* ---- is all of it accounted for? ---- */

struct barrier {
    struct ldr_task task;
    pthread_mutex_t mtx;
    pthread_cond_t cond;
    bool passed;
};

static void pass(struct ldr_task *t)
{
    struct barrier *b = LDR_CONTAINER(t, struct barrier, task);

    pthread_mutex_lock(&b->mtx);
    b->passed = true;
    pthread_cond_signal(&b->cond);
    pthread_mutex_unlock(&b->mtx);
}

/* With one thread, what was queued before has ended then. */
static void drain_pool(struct domain_fixture *f)
{
    struct barrier b = { .task.run = pass };

    pthread_mutex_init(&b.mtx, NULL);
    pthread_cond_init(&b.cond, NULL);
    ldr_pool_post(f->pool, &b.task);
    pthread_mutex_lock(&b.mtx);
    while (!b.passed)
        pthread_cond_wait(&b.cond, &b.mtx);
    pthread_mutex_unlock(&b.mtx);
    pthread_mutex_destroy(&b.mtx);
    pthread_cond_destroy(&b.cond);
}

static void count_blocks(const struct ldr_cache_dir *d, uint64_t *files, uint64_t *bytes)
{
    for (unsigned i = 0; i < 256; i++) {
        char path[32];
        struct dirent *e;
        struct stat st;
        DIR *dir;

        snprintf(path, sizeof path, LDR_NAME_BLOCKS "/%02x", i);
        dir = fdopendir(openat(d->dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        while (dir && (e = readdir(dir)))
            if (e->d_name[0] != '.' && fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
                ++*files;
                *bytes += ldr_space_charge((uint64_t)st.st_size);
            }
        if (dir)
            closedir(dir);
    }
}

/* What the ledger counts beside blocks: the extent of data.mdb, and the touch file. */
static uint64_t fixed(const struct ldr_cache_dir *d)
{
    struct ldr_hdr h;
    int fd = openat(d->gendirfd, "hdr", O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && pread(fd, &h, sizeof h, 0) == (ssize_t)sizeof h;

    if (fd >= 0)
        close(fd);
    return ok ? atomic_load(&h.npages) * LDR_PAGE + ldr_space_charge(ldr_touch_file_bytes(h.touch_bits)) : 0;
}

static bool same(bool say, const char *what, uint64_t is, uint64_t should)
{
    if (say && is != should)
        fprintf(stderr, "domain_fixture: %s: %" PRIu64 ", should be %" PRIu64 "\n", what, is, should);
    return is == should;
}

static bool compare(struct domain_fixture *f, bool say)
{
    struct ldr_domain *d = &f->domain;
    struct ldr_index_stats st;
    uint64_t files = 0, bytes = 0;
    bool ok = true;

    ldr_index_stats(d->index, &st);
    count_blocks(d->dir, &files, &bytes);
    ok &= same(say, "block files on disk, against the index", files, st.blocks);
    ok &= same(say, "bytes of block files, against the index", bytes, st.block_bytes);
    ok &= same(say, "files of the ledger", atomic_load(&d->space.files), st.blocks);
    ok &= same(say, "bytes of the ledger", atomic_load(&d->space.bytes),
               st.block_bytes + fixed(d->dir) + f->counted_bytes);
    return ok;
}

/* Eviction goes on by itself, and a file that was still open when it was dropped lingers to the next tick: the figures
 * agree when all rests. */
static bool accounted(struct domain_fixture *f)
{
    int64_t until = ldr_mono_ns() + 5 * LDR_NS_PER_S;

    while (!compare(f, false) && ldr_mono_ns() < until) {
        ldr_blocks_tick(&f->domain.blocks);
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    }
    return compare(f, true);
}

bool domain_sound(struct domain_fixture *f)
{
    bool idle = domain_run_idle(f);

    drain_pool(f);
    return idle && accounted(f);
}

bool domain_close(struct domain_fixture *f)
{
    struct ldr_domain *d = &f->domain;
    bool ok;

    fake_hold(f->store, false);
    ok = domain_run_idle(f);
    if (!ok)
        fprintf(stderr, "domain_fixture: something is still under way\n");
    ldr_uploads_free(&d->uploads);
    ldr_flights_free(&d->flights);
    ldr_space_release_all(&d->space);
    ldr_reader_close(&d->reader);
    MUST(ldr_index_stop(d->index, true, &err));
    ok = accounted(f) && ok;
    ldr_pool_free(&f->pool); /* after the index, which drops files on it */
    ldr_index_close(&d->index);
    ldr_blocks_release(&d->blocks);
    ldr_net_free(&f->net);
    ldr_routes_free(&d->routes);
    fake_free(&f->store);
    ldr_cache_dir_close(&d->dir);
    ldr_mailbox_release(&d->ipc_box);
    return ok;
}
