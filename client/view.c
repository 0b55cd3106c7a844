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
#define KEPT_BYTES      (256 * LDR_MIB)
#define HUGE_BYTES      (2 * LDR_MIB) /* large folios map with one entry only where file and address agree on this */
#define MAP_COUNT_USUAL 65530

struct larder_object {
    _Alignas(16) const void *data; /* a copy's bytes stand behind the struct, aligned as malloc() would */
    size_t size;
    struct view *view; /* NULL: a copy */
    bool hit;
};

struct view {
    _Atomic uint32_t refs;
    uint32_t areas;
    struct ldr_views *home; /* counted */
    struct ldr_id id;
    void *map;
    size_t len;
    /* under the shard's flag */
    struct view *next;
    bool used; /* since the hand came by */
    /* what a hit on a kept mapping gets, so that it allocates nothing; always with view == this */
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

static size_t block_len(const struct ldr_record *r, uint64_t block)
{
    uint64_t from = block << r->block_log2, left = r->size_bytes - from, full = UINT64_C(1) << r->block_log2;

    return left < full ? left : full;
}

/* Open block `n`; its length is checked, as touching a mapping behind the end of the file would be SIGBUS in the host.
 */
static enum ldr_hit block_open(int dirfd, const struct ldr_record *r, uint64_t n, int *out)
{
    char name[LDR_BLOCK_NAME_MAX];
    struct stat st;
    int fd;

    ldr_block_name(&r->id, (uint32_t)n, name);
    fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT || errno == ELOOP || errno == ENXIO ? LDR_BLOCK_GONE : LDR_NO_CACHE;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != block_len(r, n)) {
        close(fd);
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

/* All blocks as one range; *out is unmapped by munmap(*out, r->size_bytes). */
static enum ldr_hit map_blocks(int dirfd, const struct ldr_record *r, uint8_t **out)
{
    uint64_t n = ldr_record_blocks(r);
    uint8_t *base = NULL;
    enum ldr_hit hit = LDR_HIT;

    if (n > 1 || r->size_bytes >= HUGE_BYTES) {
        base = reserve(r->size_bytes);
        if (!base)
            return LDR_NO_MEMORY;
    }
    for (uint64_t i = 0; i < n && hit == LDR_HIT; i++) {
        uint8_t *at = base ? base + (i << r->block_log2) : NULL;
        void *p;
        int fd;

        hit = block_open(dirfd, r, i, &fd);
        if (hit != LDR_HIT)
            break;
        p = mmap(at, block_len(r, i), PROT_READ, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
        close(fd); /* the mapping outlives the descriptor */
        if (p == MAP_FAILED)
            hit = errno == ENOMEM ? LDR_NO_MEMORY : LDR_NO_CACHE;
        else if (!base)
            base = p;
    }
    if (hit == LDR_HIT)
        *out = base;
    else if (base)
        munmap(base, r->size_bytes);
    return hit;
}

static enum ldr_hit read_blocks(int dirfd, const struct ldr_record *r, uint8_t *to)
{
    uint64_t n = ldr_record_blocks(r);

    for (uint64_t i = 0; i < n; i++) {
        size_t len = block_len(r, i), done = 0;
        ssize_t got = 0;
        int fd;
        enum ldr_hit hit = block_open(dirfd, r, i, &fd);

        if (hit != LDR_HIT)
            return hit;
        while (done < len && ((got = pread(fd, to + done, len - done, (off_t)done)) > 0 || (got < 0 && errno == EINTR)))
            done += got > 0 ? (size_t)got : 0;
        close(fd);
        if (done < len)
            return LDR_BLOCK_GONE; /* cut short, or a disk that cannot read it any more */
        to += len;
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

/* The kept mapping of `id`, with a count for the caller; NULL: none, or somebody is at work there. */
static struct view *kept_find(struct ldr_views *v, const struct ldr_record *r)
{
    unsigned bucket;
    struct shard *s = shard_of(v, &r->id, &bucket);
    struct view *w;

    if (!shard_try(s))
        return NULL;
    for (w = s->bucket[bucket]; w; w = w->next)
        if (!memcmp(w->id.b, r->id.b, sizeof w->id.b) && w->len == r->size_bytes)
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

/* Keep a new mapping, if there is room and nobody is at work. Limits are met before the insertion, as seen here:
 * threads that keep at the same moment may pass them by one object each. */
static void keep(struct ldr_views *v, struct view *w)
{
    unsigned bucket;
    struct shard *s = shard_of(v, &w->id, &bucket);
    struct view *dropped = NULL, *have;

    if (w->areas > v->max_kept_areas || w->len > KEPT_BYTES || !shard_try(s))
        return;
    for (have = s->bucket[bucket]; have && memcmp(have->id.b, w->id.b, sizeof w->id.b);)
        have = have->next;
    if (!have) {
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

struct larder_object *ldr_object_new(size_t size, bool asked, uint8_t **data)
{
    struct larder_object *o = size <= SIZE_MAX - sizeof *o ? malloc(sizeof *o + size) : NULL;

    if (!o)
        return NULL;
    *data = (uint8_t *)(o + 1);
    *o = (struct larder_object){ .data = *data, .size = size, .hit = !asked };
    return o;
}

/* An object of a mapping whose count is the caller's: the one that the mapping carries, or, when the agent was asked,
 * one that says so. */
static enum ldr_hit object_of(struct view *w, bool asked, struct larder_object **out)
{
    uint8_t *none;

    if (!asked) {
        *out = &w->as_hit;
        return LDR_HIT;
    }
    *out = ldr_object_new(0, true, &none);
    if (!*out) {
        view_unref(w);
        return LDR_NO_MEMORY;
    }
    (*out)->data = w->map;
    (*out)->size = w->len;
    (*out)->view = w;
    return LDR_HIT;
}

static enum ldr_hit get_copy(int dirfd, const struct ldr_record *r, bool asked, struct larder_object **out)
{
    uint8_t *data;
    struct larder_object *o = ldr_object_new(r->size_bytes, asked, &data);
    enum ldr_hit hit = o ? read_blocks(dirfd, r, data) : LDR_NO_MEMORY;

    if (hit == LDR_HIT)
        *out = o;
    else
        free(o);
    return hit;
}

enum ldr_hit ldr_views_get(struct ldr_views *v, int dirfd, const struct ldr_record *r, bool asked, bool *kept,
                           struct larder_object **out)
{
    struct view *w = kept_find(v, r);
    uint64_t areas = ldr_record_blocks(r);
    enum ldr_hit hit;
    uint8_t *map;

    *kept = w != NULL;
    if (w)
        return object_of(w, asked, out);
    if (areas == 0)
        return get_copy(dirfd, r, asked, out);
    if (atomic_fetch_add_explicit(&v->areas, areas, memory_order_relaxed) + areas > v->max_areas) {
        atomic_fetch_sub_explicit(&v->areas, areas, memory_order_relaxed);
        return get_copy(dirfd, r, asked, out);
    }
    w = malloc(sizeof *w);
    hit = w ? map_blocks(dirfd, r, &map) : LDR_NO_MEMORY;
    if (hit != LDR_HIT) {
        free(w);
        atomic_fetch_sub_explicit(&v->areas, areas, memory_order_relaxed);
        return hit == LDR_NO_MEMORY ? get_copy(dirfd, r, asked, out)
                                    : hit; /* address space, not memory, may be short */
    }
    *w = (struct view){ .areas = (uint32_t)areas, .home = v, .id = r->id, .map = map, .len = r->size_bytes };
    w->as_hit = (struct larder_object){ .data = map, .size = w->len, .view = w, .hit = true };
    atomic_init(&w->refs, 1);
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    keep(v, w);
    return object_of(w, asked, out);
}

enum ldr_hit ldr_views_read(struct ldr_views *v, int dirfd, const struct ldr_record *r, void *buf, bool *kept)
{
    struct view *w = kept_find(v, r);

    *kept = w != NULL;
    if (!w)
        return read_blocks(dirfd, r, buf);
    memcpy(buf, w->map, w->len);
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
