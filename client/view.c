/* view.c - see view.h.
 * A mapping is a struct view with a count: one for each object given out, one for the table that keeps it. The table is
 * SHARDS hash tables, each behind a flag that is only tried; within one, victims are found by the clock's hand. */
#include "client/view.h"
#include "common/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARDS          LDR_VIEW_SHARDS
#define BUCKETS         LDR_VIEW_BUCKETS
#define KEPT_BYTES      (2 * LDR_GIB) /* of address space: eviction asks for it back (hdr's pressure) */
#define HUGE_BYTES      (2 * LDR_MIB) /* large folios map with one entry only where file and address agree on this */
#define MAP_COUNT_USUAL 65530
#define RANGES_KEPT     32 /* of one object: they all hang in one chain */

struct larder_object {
    _Alignas(16) const void *data; /* a copy's bytes stand behind the struct, aligned as malloc() would */
    size_t size;
    uint64_t offset, total;
    struct ldr_id id;  /* zero: not known */
    struct view *view; /* NULL: a copy */
    bool hit;
};

struct view {
    _Atomic uint32_t refs;
    uint32_t areas;
    struct ldr_views *home; /* counted */
    struct ldr_id id;
    uint64_t from; /* where the mapping begins in the object: with a block */
    uint8_t *map;
    size_t len;
    /* under the shard's flag */
    struct view *next;
    bool used; /* since the hand came by */
    /* what a hit of the range that it was made for gets, so that it allocates nothing; always with view == this */
    struct larder_object as_hit;
};

struct shard {
    _Alignas(64) atomic_flag busy;
    unsigned hand;
    uint64_t pressure;
    struct view *bucket[BUCKETS];
};

struct ldr_views {
    _Atomic uint64_t refs;  /* the owner, and each view */
    _Atomic uint64_t areas; /* of all views */
    _Atomic uint64_t kept_areas, kept_bytes;
    _Atomic uint64_t pressure;
    uint64_t max_areas, max_kept_areas;
    struct shard shard[SHARDS];
};

uint64_t ldr_views_map_count(void)
{
    char text[32];
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    uint64_t count;

    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return MAP_COUNT_USUAL;
    text[n] = '\0';
    count = strtoull(text, NULL, 10);
    return count ? count : MAP_COUNT_USUAL;
}

struct ldr_views *ldr_views_new(uint64_t max_map_count)
{
    struct ldr_views *v = aligned_alloc(64, sizeof *v);

    if (!v)
        return NULL;
    memset(v, 0, sizeof *v);
    atomic_init(&v->refs, 1);
    v->max_areas = max_map_count / 4;
    v->max_kept_areas = max_map_count / 16;
    for (int i = 0; i < SHARDS; i++)
        atomic_flag_clear(&v->shard[i].busy);
    return v;
}

static void views_unref(struct ldr_views *v)
{
    if (atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) == 1)
        free(v);
}

static bool shard_try(struct shard *s)
{
    return !atomic_flag_test_and_set_explicit(&s->busy, memory_order_acquire);
}

static void shard_leave(struct shard *s)
{
    atomic_flag_clear_explicit(&s->busy, memory_order_release);
}

/* ---- one mapping ---- */

static void view_unref(struct view *w)
{
    if (atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) != 1)
        return;
    munmap(w->map, w->len);
    atomic_fetch_sub_explicit(&w->home->areas, w->areas, memory_order_relaxed);
    views_unref(w->home);
    free(w);
}

static void unref_list(struct view *w)
{
    while (w) {
        struct view *next = w->next;

        view_unref(w);
        w = next;
    }
}

/* Open block `n`; its length is checked, as touching a mapping behind the end of the file would be SIGBUS in the host.
 */
enum ldr_hit ldr_view_open(int dirfd, const struct ldr_record *r, uint32_t n, int *out, struct ldr_view_how *how)
{
    char name[LDR_BLOCK_NAME_MAX];
    struct stat st;
    int fd;

    ldr_block_name(&r->id, n, name);
    fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY);
    if (fd < 0) {
        how->damaged = errno == ELOOP || errno == ENXIO;
        return errno == ENOENT || how->damaged ? LDR_BLOCK_GONE : LDR_NO_CACHE;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != ldr_record_block_len(r, n)) {
        close(fd);
        how->damaged = true;
        return LDR_BLOCK_GONE;
    }
    *out = fd;
    return LDR_HIT;
}

/* Address space for `len` bytes that starts where 2 MiB begin. The caller maps over it. */
static uint8_t *reserve(size_t len)
{
    uint8_t *p = mmap(NULL, len + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *start;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), tail;

    if (p == MAP_FAILED)
        return NULL;
    start = p + (-(uintptr_t)p & (HUGE_BYTES - 1));
    len = (len + page - 1) & ~(page - 1);
    tail = HUGE_BYTES - (size_t)(start - p);
    if (start > p)
        munmap(p, (size_t)(start - p));
    if (tail)
        munmap(start + len, tail);
    return start;
}

/* The blocks that a range lies in. */
struct span {
    uint32_t first, n;
    uint64_t from; /* bytes of the object */
    size_t len;
};

static struct span span_of(const struct ldr_record *r, const struct ldr_want *want)
{
    uint32_t first = (uint32_t)(want->offset >> r->block_log2);
    uint32_t last = (uint32_t)((want->offset + want->length - 1) >> r->block_log2);
    uint64_t from = (uint64_t)first << r->block_log2;
    uint64_t to = ((uint64_t)last << r->block_log2) + ldr_record_block_len(r, last);

    return (struct span){ first, last - first + 1, from, to - from };
}

/* They as one mapping; *out is unmapped by munmap(*out, s->len). */
static enum ldr_hit map_blocks(int dirfd, const struct ldr_record *r, const struct span *s, uint8_t **out,
                               struct ldr_view_how *how)
{
    uint8_t *base = NULL;
    enum ldr_hit hit = LDR_HIT;

    if (s->n > 1 || s->len >= HUGE_BYTES) {
        base = reserve(s->len);
        if (!base)
            return LDR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < s->n && hit == LDR_HIT; i++) {
        uint8_t *at = base ? base + ((uint64_t)i << r->block_log2) : NULL;
        void *p;
        int fd;

        hit = ldr_view_open(dirfd, r, s->first + i, &fd, how);
        if (hit != LDR_HIT)
            break;
        p = mmap(at, ldr_record_block_len(r, s->first + i), PROT_READ, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
        if (p == MAP_FAILED)
            hit = errno == ENOMEM ? LDR_NO_MEMORY : LDR_NO_CACHE;
        else if (!base)
            base = p;
        close(fd); /* the mapping outlives the descriptor */
    }
    if (hit == LDR_HIT)
        *out = base;
    else if (base)
        munmap(base, s->len);
    return hit;
}

static enum ldr_hit read_blocks(int dirfd, const struct ldr_record *r, const struct ldr_want *want, uint8_t *to,
                                struct ldr_view_how *how)
{
    uint64_t mask = (UINT64_C(1) << r->block_log2) - 1, at = want->offset, end = at + want->length;

    while (at < end) {
        uint32_t block = (uint32_t)(at >> r->block_log2);
        size_t left = ldr_record_block_len(r, block) - (at & mask), done = 0;
        size_t len = left < end - at ? left : end - at;
        ssize_t got = 0;
        int fd;
        enum ldr_hit hit = ldr_view_open(dirfd, r, block, &fd, how);

        if (hit != LDR_HIT)
            return hit;
        while (done < len && ((got = pread(fd, to + done, len - done, (off_t)((at & mask) + done))) > 0 ||
                              (got < 0 && errno == EINTR)))
            done += got > 0 ? (size_t)got : 0;
        close(fd);
        if (done < len) { /* cut short, or a disk that cannot read it any more */
            how->damaged = true;
            return LDR_BLOCK_GONE;
        }
        to += len;
        at += len;
    }
    return LDR_HIT;
}

/* ---- kept mappings ---- */

unsigned ldr_view_slot(const struct ldr_id *id)
{
    return (unsigned)(ldr_hash64(id->b, sizeof id->b) % (SHARDS * BUCKETS));
}

static struct shard *shard_of(struct ldr_views *v, const struct ldr_id *id, unsigned *bucket)
{
    unsigned slot = ldr_view_slot(id);

    *bucket = slot % BUCKETS;
    return &v->shard[slot / BUCKETS];
}

static bool covers(const struct view *w, const struct ldr_id *id, uint64_t from, uint64_t len)
{
    return !memcmp(w->id.b, id->b, sizeof w->id.b) && from >= w->from && len <= w->len &&
           from - w->from <= w->len - len;
}

/* A kept mapping of the range, with a count for the caller; NULL: none, or somebody is at work there. */
static struct view *kept_find(struct ldr_views *v, const struct ldr_record *r, const struct ldr_want *want)
{
    unsigned bucket;
    struct shard *s = shard_of(v, &r->id, &bucket);
    struct view *w;

    if (!shard_try(s))
        return NULL;
    for (w = s->bucket[bucket]; w; w = w->next)
        if (covers(w, &r->id, want->offset, want->length))
            break;
    if (w) {
        atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
        w->used = true;
    }
    shard_leave(s);
    return w;
}

/* Take *at out of its chain and put it on `list`. Under the shard's flag. */
static void unkeep(struct ldr_views *v, struct view **at, struct view **list)
{
    struct view *w = *at;

    *at = w->next;
    w->next = *list;
    *list = w;
    atomic_fetch_sub_explicit(&v->kept_areas, w->areas, memory_order_relaxed);
    atomic_fetch_sub_explicit(&v->kept_bytes, w->len, memory_order_relaxed);
}

static bool view_idle(const struct view *w)
{
    return atomic_load_explicit(&w->refs, memory_order_relaxed) == 1;
}

static bool full(const struct ldr_views *v, uint64_t areas, uint64_t bytes)
{
    return atomic_load_explicit(&v->kept_areas, memory_order_relaxed) + areas > v->max_kept_areas ||
           atomic_load_explicit(&v->kept_bytes, memory_order_relaxed) + bytes > KEPT_BYTES;
}

/* Let the hand go round until there is room for `areas` and `bytes`; at most twice. Under the shard's flag. */
static void make_room(struct ldr_views *v, struct shard *s, uint64_t areas, uint64_t bytes, struct view **list)
{
    for (int i = 0; i < 2 * BUCKETS && full(v, areas, bytes); i++) {
        struct view **at = &s->bucket[s->hand++ % BUCKETS];

        while (*at && full(v, areas, bytes)) {
            if (!(*at)->used && view_idle(*at)) {
                unkeep(v, at, list);
            } else {
                (*at)->used = false;
                at = &(*at)->next;
            }
        }
    }
}

/* Drop from the chain what `w` makes superfluous, and of many ranges of its object the oldest. Under the shard's flag. */
static void drop_siblings(struct ldr_views *v, const struct view *w, struct view **at, struct view **list)
{
    unsigned n = 1;

    while (*at)
        if (!memcmp((*at)->id.b, w->id.b, sizeof w->id.b) && view_idle(*at) &&
            (covers(w, &(*at)->id, (*at)->from, (*at)->len) || ++n > RANGES_KEPT))
            unkeep(v, at, list);
        else
            at = &(*at)->next;
}

/* Keep a new mapping, if there is room and nobody is at work. Limits are met before the insertion, as seen here:
 * threads that keep at the same moment may pass them by one object each. */
static void keep(struct ldr_views *v, struct view *w)
{
    unsigned bucket;
    struct shard *s = shard_of(v, &w->id, &bucket);
    struct view *dropped = NULL, *have;

    if (w->areas > v->max_kept_areas || w->len > KEPT_BYTES || !shard_try(s))
        return;
    for (have = s->bucket[bucket]; have && !covers(have, &w->id, w->from, w->len);)
        have = have->next;
    if (!have) {
        drop_siblings(v, w, &s->bucket[bucket], &dropped);
        make_room(v, s, w->areas, w->len, &dropped);
        for (struct shard *o = v->shard; o < v->shard + SHARDS && full(v, w->areas, w->len); o++)
            if (o != s && shard_try(o)) { /* tried, so two threads cannot wait for each other */
                make_room(v, o, w->areas, w->len, &dropped);
                shard_leave(o);
            }
        if (!full(v, w->areas, w->len)) {
            atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&v->kept_areas, w->areas, memory_order_relaxed);
            atomic_fetch_add_explicit(&v->kept_bytes, w->len, memory_order_relaxed);
            w->next = s->bucket[bucket];
            s->bucket[bucket] = w;
        }
    }
    shard_leave(s);
    unref_list(dropped); /* munmap() takes its time: not under the flag */
}

void ldr_views_pressure(struct ldr_views *v, uint64_t pressure)
{
    bool all = true;

    if (atomic_load_explicit(&v->pressure, memory_order_relaxed) == pressure)
        return;
    for (int i = 0; i < SHARDS; i++) {
        struct shard *s = &v->shard[i];
        struct view *dropped = NULL;

        if (!shard_try(s)) {
            all = false; /* the next call sees to it */
            continue;
        }
        if (s->pressure != pressure) {
            for (int b = 0; b < BUCKETS; b++)
                for (struct view **at = &s->bucket[b]; *at;)
                    if (view_idle(*at))
                        unkeep(v, at, &dropped);
                    else
                        at = &(*at)->next;
            s->pressure = pressure;
        }
        shard_leave(s);
        unref_list(dropped);
    }
    if (all)
        atomic_store_explicit(&v->pressure, pressure, memory_order_relaxed);
}

void ldr_views_free(struct ldr_views **pv)
{
    struct ldr_views *v = *pv;

    if (!v)
        return;
    *pv = NULL;
    for (int i = 0; i < SHARDS; i++) {
        struct shard *s = &v->shard[i];

        if (!shard_try(s))
            continue; /* in a forked child: another thread of the parent was at work, and its list is not whole */
        for (int b = 0; b < BUCKETS; b++) {
            unref_list(s->bucket[b]);
            s->bucket[b] = NULL;
        }
        shard_leave(s);
    }
    views_unref(v);
}

/* ---- objects ---- */

struct larder_object *ldr_object_new(size_t size, uint8_t **data)
{
    struct larder_object *o = size <= SIZE_MAX - sizeof *o ? malloc(sizeof *o + size) : NULL;

    if (!o)
        return NULL;
    *data = (uint8_t *)(o + 1);
    *o = (struct larder_object){ .data = *data, .size = size };
    return o;
}

void ldr_object_describe(struct larder_object *o, bool hit, const struct ldr_id *id, uint64_t offset, uint64_t total)
{
    o->hit = hit;
    o->id = id ? *id : (struct ldr_id){ { 0 } };
    o->offset = offset;
    o->total = total;
}

/* An object of a mapping whose count is the caller's: the one that the mapping carries, or, when the agent was asked
 * or another range is wanted, one that says so. */
static enum ldr_hit object_of(struct view *w, const struct ldr_record *r, const struct ldr_want *want,
                              struct larder_object **out)
{
    uint8_t *none;

    if (!want->asked && w->as_hit.offset == want->offset && w->as_hit.size == want->length) {
        *out = &w->as_hit;
        return LDR_HIT;
    }
    *out = ldr_object_new(0, &none);
    if (!*out) {
        view_unref(w);
        return LDR_NO_MEMORY;
    }
    (*out)->data = w->map + (want->offset - w->from);
    (*out)->size = want->length;
    (*out)->view = w;
    ldr_object_describe(*out, !want->asked, &r->id, want->offset, r->size_bytes);
    return LDR_HIT;
}

static enum ldr_hit get_copy(int dirfd, const struct ldr_record *r, const struct ldr_want *want,
                             struct ldr_view_how *how, struct larder_object **out)
{
    uint8_t *data;
    struct larder_object *o = ldr_object_new(want->length, &data);
    enum ldr_hit hit = o ? read_blocks(dirfd, r, want, data, how) : LDR_NO_MEMORY;

    if (hit != LDR_HIT) {
        free(o);
        return hit;
    }
    ldr_object_describe(o, !want->asked, &r->id, want->offset, r->size_bytes);
    *out = o;
    return LDR_HIT;
}

enum ldr_hit ldr_views_get(struct ldr_views *v, int dirfd, const struct ldr_record *r, const struct ldr_want *want,
                           struct ldr_view_how *how, struct larder_object **out)
{
    struct view *w;
    struct span s;
    enum ldr_hit hit;
    uint8_t *map;

    if (want->length == 0)
        return get_copy(dirfd, r, want, how, out);
    w = kept_find(v, r, want);
    how->kept = w != NULL;
    if (w)
        return object_of(w, r, want, out);
    s = span_of(r, want);
    if (atomic_fetch_add_explicit(&v->areas, s.n, memory_order_relaxed) + s.n > v->max_areas) {
        atomic_fetch_sub_explicit(&v->areas, s.n, memory_order_relaxed);
        return get_copy(dirfd, r, want, how, out);
    }
    w = malloc(sizeof *w);
    hit = w ? map_blocks(dirfd, r, &s, &map, how) : LDR_NO_MEMORY;
    if (hit != LDR_HIT) {
        free(w);
        atomic_fetch_sub_explicit(&v->areas, s.n, memory_order_relaxed);
        return hit == LDR_NO_MEMORY ? get_copy(dirfd, r, want, how, out)
                                    : hit; /* address space, not memory, may be short */
    }
    *w = (struct view){ .areas = s.n, .home = v, .id = r->id, .from = s.from, .map = map, .len = s.len };
    w->as_hit = (struct larder_object){ .data = map + (want->offset - s.from), .size = want->length, .view = w };
    ldr_object_describe(&w->as_hit, true, &r->id, want->offset, r->size_bytes);
    atomic_init(&w->refs, 1);
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    if (want->keep)
        keep(v, w);
    return object_of(w, r, want, out);
}

enum ldr_hit ldr_views_read(struct ldr_views *v, int dirfd, const struct ldr_record *r, const struct ldr_want *want,
                            void *buf, struct ldr_view_how *how)
{
    struct view *w = want->length ? kept_find(v, r, want) : NULL;

    how->kept = w != NULL;
    if (!w)
        return read_blocks(dirfd, r, want, buf, how);
    memcpy(buf, w->map + (want->offset - w->from), want->length);
    view_unref(w);
    return LDR_HIT;
}

const void *larder_object_data(const struct larder_object *o)
{
    return o->data;
}

size_t larder_object_size(const struct larder_object *o)
{
    return o->size;
}

uint64_t larder_object_offset(const struct larder_object *o)
{
    return o->offset;
}

uint64_t larder_object_total(const struct larder_object *o)
{
    return o->total;
}

void larder_object_id(const struct larder_object *o, uint64_t id[2])
{
    memcpy(id, o->id.b, sizeof o->id.b);
}

int larder_object_was_hit(const struct larder_object *o)
{
    return o->hit;
}

void larder_object_free(struct larder_object **po)
{
    struct larder_object *o = po ? *po : NULL;
    struct view *w;

    if (!o)
        return;
    *po = NULL;
    w = o->view;
    if (!w || o != &w->as_hit)
        free(o);
    if (w)
        view_unref(w);
}
