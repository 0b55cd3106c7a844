/* resident.c - see resident.h. */
#include "agent/resident.h"
#include "agent/blocks.h"
#include "agent/evict.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/touch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define MAPPED_PERIOD_NS (50 * LDR_NS_PER_MS)
#define MAPPED_A_PERIOD  128 /* lease tests that found a block mapped; more of them would keep us busy with asking */

struct entry {
    struct ldr_evict_entry evict;
    struct object *object; /* NULL: this place is not used */
    uint32_t block;
};

struct held {
    struct held *next;
    struct ldr_hold *hold;
};

struct object {
    UT_hash_handle hh;
    struct ldr_id id;
    struct held *holds;
    struct entry first;  /* most objects have no other entry */
    struct entry **more; /* by block */
    uint32_t n_more, cap_more;
    uint16_t key_len;
    uint8_t key[];
};

struct ldr_resident {
    struct ldr_resident_cfg cfg;
    struct ldr_evict *policy[2]; /* by enum ldr_resident_kind */
    struct object *objects;      /* by id */
    /* of the search */
    int64_t now_ns;
    bool anyway, held_briefly, mapped;
    unsigned visits;
    int64_t period; /* that `asked` belongs to */
    unsigned asked; /* lease tests in it that found a mapping */
};

struct ldr_resident *ldr_resident_new(const struct ldr_resident_cfg *cfg)
{
    struct ldr_resident *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->cfg = *cfg;
    r->policy[LDR_RESIDENT_INLINE] = ldr_evict_new(cfg->inline_bytes);
    r->policy[LDR_RESIDENT_BLOCK] = ldr_evict_new(cfg->block_bytes);
    if (!r->policy[LDR_RESIDENT_INLINE] || !r->policy[LDR_RESIDENT_BLOCK])
        ldr_resident_free(&r);
    return r;
}

void ldr_resident_resize(struct ldr_resident *r, uint64_t inline_bytes, uint64_t block_bytes)
{
    if (r->cfg.inline_bytes != inline_bytes)
        ldr_evict_resize(r->policy[LDR_RESIDENT_INLINE], inline_bytes);
    if (r->cfg.block_bytes != block_bytes)
        ldr_evict_resize(r->policy[LDR_RESIDENT_BLOCK], block_bytes);
    r->cfg.inline_bytes = inline_bytes;
    r->cfg.block_bytes = block_bytes;
}

/* ---------- objects and their entries ---------- */

static struct object *find(struct ldr_resident *r, const struct ldr_id *id)
{
    struct object *o;

    HASH_FIND(hh, r->objects, id, sizeof *id, o);
    return o;
}

static struct object *find_or_add(struct ldr_resident *r, const void *key, size_t key_len, const struct ldr_id *id)
{
    struct object *o = find(r, id);

    if (o)
        return o;
    o = calloc(1, sizeof *o + key_len);
    assert(o);
    o->id = *id;
    o->key_len = (uint16_t)key_len;
    memcpy(o->key, key, key_len);
    HASH_ADD(hh, r->objects, id, sizeof o->id, o);
    return o;
}

static struct ldr_evict *policy_of(const struct ldr_resident *r, const struct entry *e)
{
    return r->policy[e->block == LDR_NO_BLOCK ? LDR_RESIDENT_INLINE : LDR_RESIDENT_BLOCK];
}

/* Where in `more` the block is, or would be. */
static uint32_t place(const struct object *o, uint32_t block)
{
    uint32_t lo = 0, hi = o->n_more;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (o->more[mid]->block < block)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct entry *entry_find(struct object *o, uint32_t block)
{
    uint32_t i;

    if (o->first.object && o->first.block == block)
        return &o->first;
    i = place(o, block);
    return i < o->n_more && o->more[i]->block == block ? o->more[i] : NULL;
}

static struct entry *entry_new(struct object *o, uint32_t block)
{
    struct entry *e = &o->first;

    if (e->object) {
        uint32_t i = place(o, block);

        if (o->n_more == o->cap_more) {
            o->cap_more = o->cap_more ? 2 * o->cap_more : 4;
            o->more = realloc(o->more, o->cap_more * sizeof *o->more);
        }
        e = calloc(1, sizeof *e);
        assert(o->more && e);
        memmove(o->more + i + 1, o->more + i, (o->n_more - i) * sizeof *o->more);
        o->more[i] = e;
        o->n_more++;
    }
    e->object = o;
    e->block = block;
    return e;
}

static void entry_free(struct ldr_resident *r, struct object *o, struct entry *e)
{
    uint32_t i;

    ldr_evict_remove(policy_of(r, e), &e->evict);
    if (e == &o->first) {
        o->first = (struct entry){ 0 };
        return;
    }
    i = place(o, e->block);
    memmove(o->more + i, o->more + i + 1, (o->n_more - i - 1) * sizeof *o->more);
    o->n_more--;
    free(e);
}

static void object_free(struct ldr_resident *r, struct object *o)
{
    HASH_DEL(r->objects, o);
    if (o->first.object)
        entry_free(r, o, &o->first);
    while (o->n_more)
        entry_free(r, o, o->more[o->n_more - 1]);
    while (o->holds) {
        struct held *h = o->holds;

        o->holds = h->next;
        ldr_hold_unref(&h->hold);
        free(h);
    }
    free(o->more);
    free(o);
}

void ldr_resident_free(struct ldr_resident **pr)
{
    struct ldr_resident *r = *pr;
    struct object *o, *next;

    if (!r)
        return;
    HASH_ITER(hh, r->objects, o, next)
    object_free(r, o);
    ldr_evict_free(&r->policy[LDR_RESIDENT_INLINE]);
    ldr_evict_free(&r->policy[LDR_RESIDENT_BLOCK]);
    free(r);
    *pr = NULL;
}

/* The same bytes that come back later, as another version or after a restart, have the same hash: for the ghosts. */
static uint64_t stable_hash(const struct object *o, uint32_t block)
{
    return XXH3_64bits_withSeed(o->key, o->key_len, block);
}

static void hold(struct object *o, struct ldr_hold *with)
{
    struct held *h;

    for (h = o->holds; h; h = h->next)
        if (h->hold == with)
            return;
    h = malloc(sizeof *h);
    assert(h);
    *h = (struct held){ o->holds, ldr_hold_ref(with) };
    o->holds = h;
}

void ldr_resident_hold(struct ldr_resident *r, const struct ldr_id *id, struct ldr_hold *with)
{
    struct object *o = find(r, id);

    if (o)
        hold(o, with);
}

void ldr_resident_add(struct ldr_resident *r, const void *key, size_t key_len, const struct ldr_id *id, uint32_t block,
                      uint64_t charge, struct ldr_hold *with)
{
    struct object *o = find_or_add(r, key, key_len, id);
    struct entry *e = entry_find(o, block);

    if (!e) {
        e = entry_new(o, block);
        ldr_evict_add(policy_of(r, e), &e->evict, stable_hash(o, block), charge);
    }
    if (with)
        hold(o, with);
}

void ldr_resident_restore(struct ldr_resident *r, const void *key, size_t key_len, const struct ldr_id *id,
                          uint32_t block, uint64_t charge)
{
    struct object *o = find_or_add(r, key, key_len, id);
    struct entry *e;

    if (entry_find(o, block))
        return;
    e = entry_new(o, block);
    ldr_evict_restore(policy_of(r, e), &e->evict, stable_hash(o, block), charge);
}

void ldr_resident_remove(struct ldr_resident *r, const struct ldr_id *id)
{
    struct object *o = find(r, id);

    if (o)
        object_free(r, o);
}

void ldr_resident_remove_block(struct ldr_resident *r, const struct ldr_id *id, uint32_t block)
{
    struct object *o = find(r, id);
    struct entry *e = o ? entry_find(o, block) : NULL;

    if (e)
        entry_free(r, o, e);
    if (o && !o->first.object && !o->n_more)
        object_free(r, o);
}

/* ---------- victims ---------- */

/* Does a hold of it last? Those that ended are let go of on the way. */
static bool held(struct ldr_resident *r, struct entry *e)
{
    struct held **link = &e->object->holds;
    bool lasts = false;

    while (*link) {
        struct held *h = *link;
        int64_t until = atomic_load_explicit(&h->hold->until_ns, memory_order_relaxed);

        if (until > r->now_ns) {
            bool counts = e->block == LDR_NO_BLOCK || (h->hold->first <= e->block && e->block <= h->hold->last);

            lasts |= counts;
            r->held_briefly |= counts && until != LDR_NEVER;
            link = &h->next;
        } else {
            *link = h->next;
            ldr_hold_unref(&h->hold);
            free(h);
        }
    }
    return lasts;
}

static bool mapped(struct ldr_resident *r, const struct entry *e)
{
    int64_t period = r->now_ns / MAPPED_PERIOD_NS;

    if (r->period != period) {
        r->period = period;
        r->asked = 0;
    }
    if (!r->cfg.blocks)
        return false;
    if (r->asked < MAPPED_A_PERIOD) {
        if (!ldr_blocks_mapped(r->cfg.blocks, &e->object->id, e->block))
            return false;
        r->asked++;
    }
    r->mapped = true;
    return true;
}

static enum ldr_visit visited(void *user, struct ldr_evict_entry *evict)
{
    struct ldr_resident *r = user;
    struct entry *e = LDR_CONTAINER(evict, struct entry, evict);
    bool is_block = e->block != LDR_NO_BLOCK;
    enum ldr_visit visit = LDR_VISIT_NO;

    if (held(r, e) && (is_block || !r->anyway))
        return LDR_VISIT_HELD;
    if (r->cfg.touch_fd >= 0 &&
        ldr_touch_take(r->cfg.touch_fd, &e->object->id, is_block ? e->block : 0, r->cfg.touch_bits))
        visit = LDR_VISIT_YES;
    /* A visit saves it anyway, until the policy has given as many chances as it does in one search. */
    if ((visit == LDR_VISIT_NO || r->visits++ >= LDR_EVICT_CHANCES) && is_block && !r->anyway && mapped(r, e))
        visit = LDR_VISIT_HELD;
    return visit;
}

bool ldr_resident_victim(struct ldr_resident *r, enum ldr_resident_kind kind, bool anyway, int64_t now_ns,
                         struct ldr_victim *out)
{
    struct ldr_evict_entry *found;
    struct entry *e;

    r->now_ns = now_ns;
    r->anyway = anyway;
    r->held_briefly = r->mapped = false;
    r->visits = 0;
    found = ldr_evict_victim(r->policy[kind], visited, r);
    if (!found)
        return false;
    e = LDR_CONTAINER(found, struct entry, evict);
    *out = (struct ldr_victim){ .id = e->object->id,
                                .block = e->block,
                                .charge = e->evict.charge,
                                .key = e->object->key,
                                .key_len = e->object->key_len,
                                .entry = e };
    return true;
}

void ldr_resident_put_back(struct ldr_resident *r, const struct ldr_victim *v)
{
    struct entry *e = v->entry;

    ldr_evict_restore(policy_of(r, e), &e->evict, e->evict.hash, v->charge);
}

void ldr_resident_stats(const struct ldr_resident *r, struct ldr_resident_stats *out)
{
    struct ldr_evict_stats in_line, blocks;

    ldr_evict_stats(r->policy[LDR_RESIDENT_INLINE], &in_line);
    ldr_evict_stats(r->policy[LDR_RESIDENT_BLOCK], &blocks);
    *out = (struct ldr_resident_stats){ .objects = HASH_COUNT(r->objects),
                                        .inline_entries = in_line.entries,
                                        .block_entries = blocks.entries,
                                        .ghost_hits = in_line.ghost_hits + blocks.ghost_hits,
                                        .held_briefly = r->held_briefly,
                                        .mapped = r->mapped };
}
