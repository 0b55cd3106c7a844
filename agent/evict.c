/* evict.c - CAR in bytes. Entries are the owner's, in two rings; ghosts are ours: 32 bytes each in one array, found by
 * hash. Losing a ghost costs a little foresight and nothing else, so a lack of memory here is never an error. */
#include "agent/evict.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { T1, T2 };                   /* seen once, proven; their ghosts B1 and B2 have the same numbers */
#define GHOSTS_MIN  UINT32_C(1024) /* that many may be kept however few entries there are */
#define GHOSTS_MAX  (1u << 26)     /* 2 GiB of them */
#define GHOST_FIRST 2              /* places 0 and 1 of the array are the heads of the rings B1 and B2 */

/* The hand is at the tail (head.prev); what is new, or has been looked at, goes behind the head. */
struct clock {
    struct ldr_evict_entry head;
    uint64_t bytes;
    size_t n;
};

struct ghost {
    uint64_t hash, charge;
    uint32_t newer, older; /* places in the array; the ring's head stands between the oldest and the newest */
    uint32_t chain;        /* the next of the bucket, or the next free place; 0: none */
    uint32_t ring;         /* T1: of B1, T2: of B2 */
};

struct ldr_evict {
    uint64_t capacity, target; /* target: bytes that T1 should have, 0 … capacity */
    struct clock t[2];
    struct {
        uint64_t bytes;
        uint32_t n;
    } b[2];
    struct ghost *ghosts;
    uint32_t *buckets; /* as many as the array has places; each names the first of its chain, 0: none */
    uint32_t room;     /* places, a power of two */
    uint32_t made;     /* places used so far, heads included */
    uint32_t free;     /* places that were used, by `chain` */
    uint64_t evicted, ghost_hits;
};

/* ---- ghosts ---- */

static uint32_t *bucket_of(const struct ldr_evict *e, uint64_t hash)
{
    return &e->buckets[(hash * UINT64_C(0x9e3779b97f4a7c15)) >> 32 & (e->room - 1)];
}

static uint32_t ghost_find(const struct ldr_evict *e, uint64_t hash)
{
    uint32_t i = *bucket_of(e, hash);

    while (i && e->ghosts[i].hash != hash)
        i = e->ghosts[i].chain;
    return i;
}

static void ghost_drop(struct ldr_evict *e, uint32_t i)
{
    struct ghost *g = &e->ghosts[i];
    uint32_t *link = bucket_of(e, g->hash);

    while (*link != i)
        link = &e->ghosts[*link].chain;
    *link = g->chain;
    e->ghosts[g->newer].older = g->older;
    e->ghosts[g->older].newer = g->newer;
    e->b[g->ring].bytes -= g->charge;
    e->b[g->ring].n--;
    g->chain = e->free;
    e->free = i;
}

static void ghost_drop_oldest(struct ldr_evict *e, int ring)
{
    ghost_drop(e, e->ghosts[ring].newer); /* behind the head comes the oldest */
}

/* Twice the places. False: no memory, and nothing has changed. */
static bool ghosts_grow(struct ldr_evict *e)
{
    uint32_t room = e->room ? 2 * e->room : GHOSTS_MIN;
    uint32_t *buckets = room <= GHOSTS_MAX ? calloc(room, sizeof *buckets) : NULL;
    struct ghost *ghosts = buckets ? realloc(e->ghosts, room * sizeof *ghosts) : NULL;

    if (!ghosts) {
        free(buckets);
        return false;
    }
    free(e->buckets);
    e->ghosts = ghosts;
    e->buckets = buckets;
    e->room = room;
    /* only called when no place is free, so all that were made are in use */
    for (uint32_t i = GHOST_FIRST; i < e->made; i++) {
        uint32_t *first = bucket_of(e, ghosts[i].hash);

        ghosts[i].chain = *first;
        *first = i;
    }
    return true;
}

static void ghost_add(struct ldr_evict *e, int ring, uint64_t hash, uint64_t charge)
{
    uint32_t i = ghost_find(e, hash), *first;
    struct ghost *g, *head;

    if (i) /* another entry of the same hash */
        ghost_drop(e, i);
    else if (!e->free && e->made == e->room && !ghosts_grow(e))
        ghost_drop_oldest(e, e->b[T1].n >= e->b[T2].n ? T1 : T2);
    if (e->free) {
        i = e->free;
        e->free = e->ghosts[i].chain;
    } else {
        i = e->made++;
    }
    first = bucket_of(e, hash);
    g = &e->ghosts[i];
    head = &e->ghosts[ring];
    *g = (struct ghost){
        hash, charge, .newer = (uint32_t)ring, .older = head->older, .chain = *first, .ring = (uint32_t)ring
    };
    *first = i;
    e->ghosts[head->older].newer = i;
    head->older = i;
    e->b[ring].bytes += charge;
    e->b[ring].n++;
}

/* T1 + B1 <= capacity, all four <= 2 x capacity, and no more ghosts than twice the entries. */
static void ghosts_trim(struct ldr_evict *e)
{
    uint64_t entries = e->t[T1].n + e->t[T2].n, most = entries > GHOSTS_MIN / 2 ? 2 * entries : GHOSTS_MIN;
    uint64_t twice = e->capacity <= UINT64_MAX / 2 ? 2 * e->capacity : UINT64_MAX;

    while (e->b[T1].n && e->t[T1].bytes + e->b[T1].bytes > e->capacity)
        ghost_drop_oldest(e, T1);
    while (e->b[T1].n + e->b[T2].n && e->t[T1].bytes + e->b[T1].bytes + e->t[T2].bytes + e->b[T2].bytes > twice)
        ghost_drop_oldest(e, e->b[T2].n ? T2 : T1);
    while ((uint64_t)e->b[T1].n + e->b[T2].n > most)
        ghost_drop_oldest(e, e->b[T1].n >= e->b[T2].n ? T1 : T2);
}

/* ---- lists ---- */

static void put_behind(struct ldr_evict *e, int list, struct ldr_evict_entry *at, struct ldr_evict_entry *x)
{
    x->prev = at;
    x->next = at->next;
    at->next->prev = x;
    at->next = x;
    x->list = (uint8_t)(list + 1);
    e->t[list].bytes += x->charge;
    e->t[list].n++;
}

static void take_out(struct ldr_evict *e, struct ldr_evict_entry *x)
{
    struct clock *t = &e->t[x->list - 1];

    x->prev->next = x->next;
    x->next->prev = x->prev;
    x->prev = x->next = NULL;
    x->list = 0;
    t->bytes -= x->charge;
    t->n--;
}

static void move_to_head(struct ldr_evict *e, int list, struct ldr_evict_entry *x)
{
    take_out(e, x);
    put_behind(e, list, &e->t[list].head, x);
}

/* ---- the policy ---- */

struct ldr_evict *ldr_evict_new(uint64_t capacity)
{
    struct ldr_evict *e = calloc(1, sizeof *e);

    if (!e)
        return NULL;
    e->capacity = capacity;
    e->made = GHOST_FIRST;
    if (!ghosts_grow(e)) {
        free(e);
        return NULL;
    }
    for (int i = T1; i <= T2; i++) {
        e->t[i].head.prev = e->t[i].head.next = &e->t[i].head;
        e->ghosts[i] = (struct ghost){ .newer = (uint32_t)i, .older = (uint32_t)i };
    }
    return e;
}

void ldr_evict_free(struct ldr_evict **e)
{
    if (!*e)
        return;
    free((*e)->ghosts);
    free((*e)->buckets);
    free(*e);
    *e = NULL;
}

void ldr_evict_resize(struct ldr_evict *e, uint64_t capacity)
{
    e->capacity = capacity;
    if (e->target > capacity)
        e->target = capacity;
    ghosts_trim(e);
}

/* A miss of what was dropped from T1: it should have been larger; from T2: smaller. The rarer kind of ghost counts for
 * more, so that the target moves as fast towards a small list as away from it. */
static void steer(struct ldr_evict *e, uint32_t ring, uint64_t charge)
{
    double mine = (double)e->b[ring].bytes, other = (double)e->b[!ring].bytes;
    double step = other > mine && mine > 0 ? (double)charge * (other / mine) : (double)charge;

    if (ring == T1)
        e->target = step < (double)(e->capacity - e->target) ? e->target + (uint64_t)step : e->capacity;
    else
        e->target = step < (double)e->target ? e->target - (uint64_t)step : 0;
}

void ldr_evict_add(struct ldr_evict *e, struct ldr_evict_entry *x, uint64_t hash, uint64_t charge)
{
    uint32_t ghost = ghost_find(e, hash);
    int list = ghost ? T2 : T1;

    assert(!x->list);
    if (ghost) {
        e->ghost_hits++;
        steer(e, e->ghosts[ghost].ring, charge);
        ghost_drop(e, ghost);
    }
    x->hash = hash;
    x->charge = charge;
    put_behind(e, list, &e->t[list].head, x);
    ghosts_trim(e);
}

void ldr_evict_restore(struct ldr_evict *e, struct ldr_evict_entry *x, uint64_t hash, uint64_t charge)
{
    uint32_t ghost = ghost_find(e, hash);

    assert(!x->list);
    if (ghost)
        ghost_drop(e, ghost);
    x->hash = hash;
    x->charge = charge;
    put_behind(e, T1, e->t[T1].head.prev, x);
    ghosts_trim(e);
}

void ldr_evict_remove(struct ldr_evict *e, struct ldr_evict_entry *x)
{
    if (x->list)
        take_out(e, x);
}

struct ldr_evict_entry *ldr_evict_victim(struct ldr_evict *e, ldr_visit_fn *visited, void *user)
{
    /* Looks left: what stays in T1 is held, so one is enough there. In T2 the first clears the bit and the second finds it
     * so; what comes over from T1 has had its first. */
    size_t left[2] = { e->t[T1].n, 2 * e->t[T2].n };
    size_t chances = LDR_EVICT_CHANCES;

    while (left[T1] + left[T2]) {
        int list = left[T1] && (e->t[T1].bytes >= e->target || !left[T2]) ? T1 : T2;
        struct ldr_evict_entry *x = e->t[list].head.prev;
        bool first = list == T1 || left[T2] > e->t[T2].n;
        enum ldr_visit visit = visited(user, x);

        left[list]--;
        if (visit == LDR_VISIT_HELD) {
            move_to_head(e, list, x);
        } else if (visit == LDR_VISIT_YES && first && chances) {
            chances--;
            move_to_head(e, T2, x);
            if (list == T1)
                left[T2]++;
        } else {
            take_out(e, x);
            ghost_add(e, list, x->hash, x->charge);
            ghosts_trim(e);
            e->evicted++;
            return x;
        }
        if (list == T2 && !left[T2]) /* all of T2 is held: now T1 must give, read or not */
            chances = 0;
    }
    return NULL;
}

void ldr_evict_stats(const struct ldr_evict *e, struct ldr_evict_stats *out)
{
    *out = (struct ldr_evict_stats){
        .t1_bytes = e->t[T1].bytes,
        .t2_bytes = e->t[T2].bytes,
        .b1_bytes = e->b[T1].bytes,
        .b2_bytes = e->b[T2].bytes,
        .target_bytes = e->target,
        .entries = e->t[T1].n + e->t[T2].n,
        .ghosts = (uint64_t)e->b[T1].n + e->b[T2].n,
        .evicted = e->evicted,
        .ghost_hits = e->ghost_hits,
    };
}
