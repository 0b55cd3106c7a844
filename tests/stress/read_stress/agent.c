/* agent.c - the agent role: changes the index back to back, with the agent's own code. */
#include "tests/stress/read_stress/read_stress.h"

#include "agent/blocks.h"
#include "agent/index.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/uri.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BURST 12

struct change {
    struct ldr_change change;
    struct ldr_task task;
    struct ldr_mailbox *back;
    unsigned key;
    uint64_t version;
    size_t ikey_len;
    uint8_t ikey[LDR_INDEX_KEY_MAX];
    struct ldr_fill fill;
    uint8_t bytes[STRESS_MAX];
};

static void say(void *user, enum ldr_log_level level, const char *area, const char *text)
{
    (void)user, (void)level;
    fprintf(stderr, "agent: %s: %s\n", area, text);
}

static void must(enum larder_kind k, const struct larder_err *err)
{
    if (!k)
        return;
    fprintf(stderr, "agent: %s\n", err->msg);
    _exit(8);
}

static uint64_t rnd(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void changed(struct ldr_change *c)
{
    struct change *ch = c->user;

    ldr_mailbox_post(ch->back, &ch->task);
}

static void make(struct change *ch, struct ldr_index *x, struct ldr_blocks *blocks, uint64_t *seed, unsigned key,
                 bool del)
{
    char uri[200];
    size_t len = 32 + 8 * (rnd(seed) % 8 == 0 ? rnd(seed) % 8000 : rnd(seed) % 500);
    struct larder_err err = { 0 };
    struct ldr_record *r = &ch->change.record;

    if (rnd(seed) % 64 == 0)
        len = 32 + 8 * (rnd(seed) % ((STRESS_MAX - 32) / 8));
    ch->key = key;
    ch->ikey_len = ldr_index_key(uri, stress_uri(uri, sizeof uri, key), ch->ikey);
    ch->change = (struct ldr_change){ .what = del ? LDR_CHANGE_REMOVE : LDR_CHANGE_PUT,
                                      .key = ch->ikey,
                                      .key_len = ch->ikey_len,
                                      .done = changed,
                                      .user = ch };
    if (del)
        return;
    stress_fill(ch->bytes, len, key, ch->version);
    *r = (struct ldr_record){ .id = ldr_index_new_id(x),
                              .size_bytes = len,
                              .fresh_until_ns = LDR_FRESH_ALWAYS,
                              .block_log2 = 23,
                              .last_modified_s = LDR_TIME_UNKNOWN };
    if (LDR_RECORD_FIXED + len <= ldr_index_limit(x)) {
        r->flags = LDR_FLAG_INLINE;
        r->payload = ch->bytes;
        r->payload_len = len;
        r->payload_hash = ldr_hash64(ch->bytes, len);
    } else {
        must(ldr_fill_open(blocks, len, false, &ch->fill, &err), &err);
        must(ldr_fill_write(&ch->fill, ch->bytes, len, &err), &err);
        must(ldr_fill_seal(&ch->fill, &err), &err);
        must(ldr_fill_link(&ch->fill, &r->id, 0, &err), &err);
        ch->change.block_hash = ch->fill.hash;
        ldr_fill_close(&ch->fill);
    }
}

static void burst(const struct stress_args *a, struct ldr_index *x, struct ldr_blocks *blocks, struct change *ch,
                  uint64_t *seed, bool first)
{
    unsigned n = first ? 1 : 1 + (unsigned)(rnd(seed) % BURST), used[BURST];

    for (unsigned i = 0; i < n; i++) {
        unsigned key;
        bool again;

        do { /* one change a key at a time, so that versions are published in order */
            key = (unsigned)(rnd(seed) % STRESS_KEYS);
            if (rnd(seed) % 8 == 0)
                key %= STRESS_FIXED;
            again = false;
            for (unsigned j = 0; j < i; j++)
                again |= used[j] == key;
        } while (again);
        used[i] = key;
        ch[i].version = atomic_fetch_add(&a->shared->next_version, 1) + 1;
        make(&ch[i], x, blocks, seed, key, key >= STRESS_FIXED && rnd(seed) % 3 == 0);
    }
    for (unsigned i = 0; i < n; i++)
        ldr_index_change(x, &ch[i].change);
    for (unsigned i = 0; i < n; i++) {
        struct change *c = LDR_CONTAINER(ldr_mailbox_take(ch[0].back, LDR_NEVER), struct change, task);

        must(c->change.kind, &c->change.err);
        atomic_store(&a->shared->published[c->key], c->version);
        atomic_fetch_add(&a->shared->changes, 1);
    }
}

/* The objects that must always be there. */
static void seed_fixed(const struct stress_args *a, struct ldr_index *x, struct ldr_blocks *blocks, struct change *ch,
                       uint64_t *seed)
{
    for (unsigned key = 0; key < STRESS_FIXED; key++) {
        struct change *c;

        ch[0].version = atomic_fetch_add(&a->shared->next_version, 1) + 1;
        make(&ch[0], x, blocks, seed, key, false);
        ldr_index_change(x, &ch[0].change);
        c = LDR_CONTAINER(ldr_mailbox_take(ch[0].back, LDR_NEVER), struct change, task);
        must(c->change.kind, &c->change.err);
        atomic_store(&a->shared->published[key], c->version);
    }
}

void stress_agent(const struct stress_args *a, unsigned unused)
{
    const char *drop[] = { NULL };
    struct ldr_cache_dir *dir = NULL;
    struct ldr_space space;
    struct ldr_counters counters = { 0 };
    struct ldr_index_cfg ic = { .inline_bytes = 64 * LDR_MIB,
                                .inline_limit = LDR_RECORD_DEFAULT,
                                .block_size = LDR_BLOCK_SIZE_DEFAULT,
                                .unsafe = a->control };
    struct ldr_index *x = NULL;
    struct ldr_pool *pool = NULL;
    struct ldr_blocks blocks;
    struct ldr_mailbox back;
    struct larder_err err = { 0 };
    struct change *ch = calloc(BURST, sizeof *ch);
    uint64_t seed = 88172645463325252u + (uint64_t)getpid() * 77773;

    (void)unused;
    if (!ch)
        _exit(8);
    ldr_log_open(say, NULL, LDR_WARN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGIO, SIG_IGN);
    ldr_mailbox_init(&back, NULL, NULL);
    for (size_t i = 0; i < BURST; i++)
        ch[i].back = &back;
    must(ldr_pool_new(2, &pool, &err), &err);
    must(ldr_cache_dir_open(a->dir, false, 0, &dir, &err), &err);
    ldr_space_init(&space);
    space.max_bytes = 8 * LDR_GIB; /* nothing is evicted: every key that was published must be found */
    space.max_files = 1u << 30;
    space.dirfd = dir->dirfd;
    ldr_blocks_init(&blocks, dir, &space, pool);
    ic.blocks = &blocks;
    must(ldr_index_open(dir, &space, &counters, &ic, &x, &err), &err);
    must(ldr_index_repair(x, drop, &err), &err);
    must(ldr_index_start(x, &err), &err);
    must(ldr_cache_dir_mark(dir, false, &err), &err); /* kills are no bad starts here */
    if (!atomic_load(&a->shared->ready))
        seed_fixed(a, x, &blocks, ch, &seed);
    atomic_store(&a->shared->ready, true);
    for (;;)
        burst(a, x, &blocks, ch, &seed, false);
}
