/* reader.c - the reader role: the product's client, cache only, and its walker with long pauses inside. */
#include "tests/stress/read_stress/read_stress.h"

#include "client/client.h"
#include "client/larder.h"
#include "client/walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t rnd(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void wrong(struct stress_shared *s, enum stress_wrong what)
{
    atomic_fetch_add(&s->wrong[what], 1);
}

static void check(struct stress_shared *s, const uint8_t *p, size_t len, unsigned key, uint64_t published)
{
    uint64_t version;

    atomic_fetch_add(&s->found, 1);
    if (!stress_check(p, len, key, &version))
        wrong(s, WRONG_BYTES);
    else if (version < published)
        wrong(s, WRONG_OLDER);
}

/* As a program reads. */
static void read_object(struct larder *l, struct stress_shared *s, unsigned key, uint64_t *seed)
{
    static uint8_t buf[STRESS_MAX];
    uint64_t published = atomic_load(&s->published[key]), size;
    struct larder_counts before, after;
    struct larder_object *o = NULL;
    enum larder_kind k;
    char uri[200];

    stress_uri(uri, sizeof uri, key);
    larder_get_counts(l, &before, sizeof before);
    if (rnd(seed) % 4) {
        k = larder_get(l, uri, 0, &o, NULL);
        if (k == LARDER_OK) {
            if (larder_object_size(o) > LDR_RECORD_DEFAULT)
                atomic_fetch_add(&s->found_blocks, 1);
            check(s, larder_object_data(o), larder_object_size(o), key, published);
        }
        larder_object_free(&o);
    } else {
        k = larder_get_into(l, uri, buf, sizeof buf, 0, &size, NULL);
        if (k == LARDER_OK)
            check(s, buf, (size_t)size, key, published);
    }
    larder_get_counts(l, &after, sizeof after);
    if (after.damaged != before.damaged)
        wrong(s, WRONG_DAMAGED);
    else if (after.torn != before.torn)
        atomic_fetch_add(&s->gave_up, 1); /* a budget of retries used up: the agent would be asked */
    else if (k && key < STRESS_FIXED)
        wrong(s, WRONG_MISSING);
    atomic_fetch_add(&s->retries, after.retries - before.retries);
    atomic_fetch_add(&s->reads, 1);
}

/* As a program that is stopped in the middle of a read: the window that validation is for. */
static void read_slowly(struct larder *l, struct stress_shared *s, unsigned key, uint64_t *seed)
{
    static uint8_t copy[LDR_RECORD_MAX];
    struct ldr_gen *g = atomic_load_explicit(&l->gen, memory_order_acquire);
    uint64_t published = atomic_load(&s->published[key]);
    uint8_t ikey[LDR_INDEX_KEY_MAX];
    int tries = LDR_WALK_TRIES;
    struct ldr_record r;
    struct ldr_snap snap;
    enum ldr_hit hit;
    const uint8_t *p = NULL;
    size_t len = 0, ikey_len;
    char uri[200];

    if (!g)
        return;
    ikey_len = ldr_index_key(uri, stress_uri(uri, sizeof uri, key), ikey);
    if (ldr_snap_begin(&g->index, &tries, &snap) != LDR_HIT)
        return;
    if (rnd(seed) % 2)
        usleep((useconds_t)(rnd(seed) % 6000));
    hit = ldr_snap_find(&snap, ikey, ikey_len, &p, &len);
    if (rnd(seed) % 2)
        usleep((useconds_t)(rnd(seed) % 6000));
    if (hit == LDR_HIT && len <= sizeof copy)
        memcpy(copy, p, len);
    if (!ldr_snap_valid(&snap)) {
        atomic_fetch_add(&s->retries, 1);
        return;
    }
    atomic_fetch_add(&s->reads, 1);
    if (hit == LDR_TORN || (hit == LDR_HIT && !ldr_record_unpack(copy, len, ikey, ikey_len, &r)))
        wrong(s, WRONG_DAMAGED);
    else if (hit == LDR_MISS && key < STRESS_FIXED)
        wrong(s, WRONG_MISSING);
    else if (hit == LDR_HIT && r.flags & LDR_FLAG_INLINE)
        check(s, r.payload, r.payload_len, key, published);
}

void stress_reader(const struct stress_args *a, unsigned i)
{
    uint64_t seed = ((uint64_t)getpid() * 7919 + i) | 1;
    struct larder *l = NULL;
    struct larder_err err = { 0 };

    if (larder_open(a->dir, &l, &err)) {
        fprintf(stderr, "reader: %s\n", err.msg);
        _exit(7);
    }
    if (a->control)
        ldr_client_set_unsafe_for_stress(l, true);
    for (;;) {
        unsigned key = (unsigned)(rnd(&seed) % STRESS_KEYS);

        if (rnd(&seed) % 8 == 0)
            key %= STRESS_FIXED;
        if (rnd(&seed) % 500 == 0)
            read_slowly(l, a->shared, key, &seed);
        else
            read_object(l, a->shared, key, &seed);
    }
}
