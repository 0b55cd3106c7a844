/* space.c - see space.h. One lock for all figures: room is only ever judged by figures of one moment. The file system is
 * asked under it, too: statvfs reads the kernel's counters and waits for no disk, and two who ask at once must not be
 * given the same free bytes. Nothing is posted or called under the lock. */
#include "agent/space.h"

#include <assert.h>
#include <inttypes.h>
#include <sys/statvfs.h>

void ldr_space_init(struct ldr_space *s)
{
    *s = (struct ldr_space){ .dirfd = -1 };
    pthread_mutex_init(&s->mtx, NULL);
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static void add(_Atomic uint64_t *figure, uint64_t n)
{
    atomic_store_explicit(figure, atomic_load_explicit(figure, memory_order_relaxed) + n, memory_order_relaxed);
}

static void sub(_Atomic uint64_t *figure, uint64_t n)
{
    assert(atomic_load_explicit(figure, memory_order_relaxed) >= n);
    add(figure, 0 - n);
}

static uint64_t files_max(const struct ldr_space *s)
{
    return less(s->max_files, LDR_SPACE_FIXED_FILES);
}

/* Free bytes and inodes that are not promised to anybody. Others write to the file system, too. Under mtx. */
static enum larder_kind ask_outside(struct ldr_space *s, uint64_t *bytes, uint64_t *files, struct larder_err *err)
{
    struct statvfs v;

    if (fstatvfs(s->dirfd, &v))
        return ldr_fail_sys(err, LARDER_IO, "could not ask for free space");
    *bytes = less(v.f_bavail * v.f_frsize, less(atomic_load(&s->bytes), s->filled_bytes));
    /* btrfs has no inode table and says 0 of 0 */
    *files = v.f_files ? less(v.f_favail, less(atomic_load(&s->files), s->filled_files)) : UINT64_MAX;
    return LARDER_OK;
}

/* May `bytes` and `files` more be taken? Those kept for data.mdb are taken already, unless it asks itself. Under mtx. */
static enum larder_kind check(struct ldr_space *s, uint64_t bytes, uint64_t files, uint64_t kept,
                              struct larder_err *err)
{
    uint64_t used = atomic_load(&s->bytes) + kept, free_bytes, free_files;
    enum larder_kind k;

    if (bytes > s->max_bytes || used > s->max_bytes - bytes)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.max_size (%" PRIu64 " bytes) is reached",
                        s->max_bytes);
    if (files && atomic_load(&s->files) + files > files_max(s))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.max_files (%" PRIu64 ") is reached", s->max_files);
    k = ask_outside(s, &free_bytes, &free_files, err);
    if (k)
        return k;
    if (free_bytes < bytes + kept || free_bytes - bytes - kept < s->min_free_bytes)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.min_free (%" PRIu64 " bytes) is reached",
                        s->min_free_bytes);
    if (files && free_files <= s->min_free_inodes)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.min_free_inodes (%" PRIu64 ") is reached",
                        s->min_free_inodes);
    return LARDER_OK;
}

static enum larder_kind take_file(struct ldr_space *s, uint64_t size, struct larder_err *err)
{
    uint64_t charge = ldr_space_charge(size);
    enum larder_kind k = check(s, charge, 1, s->growing, err);

    if (k)
        return k;
    add(&s->bytes, charge);
    add(&s->files, 1);
    return LARDER_OK;
}

/* ---------- waiting ---------- */

static void append(struct ldr_space *s, struct ldr_want *w)
{
    if (!s->wants) {
        s->wants = w->prev = w->next = w;
        return;
    }
    w->next = s->wants;
    w->prev = s->wants->prev;
    w->prev->next = w;
    w->next->prev = w;
}

static void unlink_want(struct ldr_space *s, struct ldr_want *w)
{
    if (w->next == w) {
        s->wants = NULL;
    } else {
        w->prev->next = w->next;
        w->next->prev = w->prev;
        if (s->wants == w)
            s->wants = w->next;
    }
    w->prev = w->next = NULL;
}

static void answer(struct ldr_want *w)
{
    ldr_mailbox_post(w->box, &w->task);
}

/* Who has waited longest gets theirs, then the next. Returns whether somebody waits still. */
static bool serve(struct ldr_space *s)
{
    for (;;) {
        struct ldr_want *w;
        bool served;

        pthread_mutex_lock(&s->mtx);
        w = s->wants;
        served = w && take_file(s, w->size, NULL) == LARDER_OK;
        if (served)
            unlink_want(s, w);
        pthread_mutex_unlock(&s->mtx);
        if (!served)
            return w != NULL;
        w->kind = LARDER_OK;
        answer(w);
    }
}

void ldr_space_want(struct ldr_space *s, struct ldr_want *w)
{
    uint64_t charge = ldr_space_charge(w->size);
    void (*need)(void *user), *user;
    bool queued = false;

    w->prev = w->next = NULL;
    pthread_mutex_lock(&s->mtx);
    if (s->closed)
        w->kind = ldr_fail(&w->err, LARDER_CANCELLED, "the agent stops");
    else if (charge > s->max_bytes)
        w->kind = ldr_fail(&w->err, LARDER_LIMIT_EXCEEDED, "larder.cache.max_size (%" PRIu64 " bytes) is too small",
                           s->max_bytes);
    else if (!s->need)
        w->kind = take_file(s, w->size, &w->err);
    else
        queued = true;
    if (queued)
        append(s, w);
    need = s->need;
    user = s->user;
    pthread_mutex_unlock(&s->mtx);
    if (!queued)
        answer(w);
    else if (serve(s))
        need(user);
}

bool ldr_space_unwant(struct ldr_space *s, struct ldr_want *w)
{
    bool waiting;

    pthread_mutex_lock(&s->mtx);
    waiting = w->next != NULL;
    if (waiting)
        unlink_want(s, w);
    pthread_mutex_unlock(&s->mtx);
    if (waiting)
        serve(s); /* it may have been the one that the others waited behind */
    return waiting;
}

bool ldr_space_give_up_one(struct ldr_space *s)
{
    struct ldr_want *w;
    struct larder_err e;

    pthread_mutex_lock(&s->mtx);
    w = s->wants ? s->wants->prev : NULL;
    if (w) {
        if (check(s, ldr_space_charge(w->size), 1, s->growing, &e) == LARDER_OK)
            w->kind = ldr_fail(&w->err, LARDER_LIMIT_EXCEEDED, "others wait for room in the cache");
        else
            w->kind = ldr_fail(&w->err, LARDER_LIMIT_EXCEEDED, "%s, and all that is cached is in use", e.msg);
        unlink_want(s, w);
    }
    pthread_mutex_unlock(&s->mtx);
    if (w)
        answer(w);
    return w != NULL;
}

void ldr_space_release_all(struct ldr_space *s)
{
    for (;;) {
        struct ldr_want *w;

        pthread_mutex_lock(&s->mtx);
        s->closed = true;
        w = s->wants;
        if (w)
            unlink_want(s, w);
        pthread_mutex_unlock(&s->mtx);
        if (!w)
            return;
        w->kind = ldr_fail(&w->err, LARDER_CANCELLED, "the agent stops");
        answer(w);
    }
}

/* ---------- one file ---------- */

enum larder_kind ldr_space_reserve(struct ldr_space *s, uint64_t size, struct larder_err *err)
{
    enum larder_kind k;

    pthread_mutex_lock(&s->mtx);
    k = s->wants ? ldr_fail(err, LARDER_LIMIT_EXCEEDED, "others wait for room in the cache") : take_file(s, size, err);
    pthread_mutex_unlock(&s->mtx);
    return k;
}

void ldr_space_release(struct ldr_space *s, uint64_t size)
{
    pthread_mutex_lock(&s->mtx);
    sub(&s->bytes, ldr_space_charge(size));
    sub(&s->files, 1);
    pthread_mutex_unlock(&s->mtx);
    serve(s);
}

void ldr_space_filled(struct ldr_space *s, uint64_t size)
{
    pthread_mutex_lock(&s->mtx);
    s->filled_bytes += ldr_space_charge(size);
    s->filled_files++;
    pthread_mutex_unlock(&s->mtx);
    serve(s); /* it was counted as promised and as taken for a moment */
}

void ldr_space_leaving(struct ldr_space *s, uint64_t size)
{
    pthread_mutex_lock(&s->mtx);
    s->leaving_bytes += ldr_space_charge(size);
    s->leaving_files++;
    pthread_mutex_unlock(&s->mtx);
}

void ldr_space_lingers(struct ldr_space *s, uint64_t size)
{
    pthread_mutex_lock(&s->mtx);
    s->leaving_bytes -= ldr_space_charge(size);
    s->leaving_files--;
    add(&s->unlinked_mapped, ldr_space_charge(size));
    pthread_mutex_unlock(&s->mtx);
}

void ldr_space_gone(struct ldr_space *s, uint64_t size, bool lingered)
{
    uint64_t charge = ldr_space_charge(size);

    pthread_mutex_lock(&s->mtx);
    if (lingered) {
        sub(&s->unlinked_mapped, charge);
    } else {
        s->leaving_bytes -= charge;
        s->leaving_files--;
    }
    sub(&s->bytes, charge);
    sub(&s->files, 1);
    s->filled_bytes -= charge;
    s->filled_files--;
    pthread_mutex_unlock(&s->mtx);
    serve(s);
}

/* ---------- the index ---------- */

void ldr_space_evictor(struct ldr_space *s, void (*need)(void *user), void *user)
{
    pthread_mutex_lock(&s->mtx);
    s->need = need;
    s->user = user;
    pthread_mutex_unlock(&s->mtx);
    while (!need && ldr_space_give_up_one(s))
        ;
}

void ldr_space_overdraw(struct ldr_space *s, uint64_t bytes)
{
    pthread_mutex_lock(&s->mtx);
    add(&s->bytes, bytes);
    s->filled_bytes += bytes;
    pthread_mutex_unlock(&s->mtx);
}

void ldr_space_start(struct ldr_space *s, uint64_t bytes, uint64_t files)
{
    pthread_mutex_lock(&s->mtx);
    atomic_store(&s->bytes, bytes);
    atomic_store(&s->files, files);
    atomic_store(&s->unlinked_mapped, 0);
    s->filled_bytes = bytes;
    s->filled_files = files;
    s->leaving_bytes = s->leaving_files = s->growing = 0;
    pthread_mutex_unlock(&s->mtx);
}

void ldr_space_forget(struct ldr_space *s, uint64_t bytes, uint64_t files)
{
    pthread_mutex_lock(&s->mtx);
    sub(&s->bytes, bytes);
    sub(&s->files, files);
    s->filled_bytes -= bytes;
    s->filled_files -= files;
    pthread_mutex_unlock(&s->mtx);
    serve(s);
}

enum larder_kind ldr_space_grow(struct ldr_space *s, uint64_t bytes, struct larder_err *err)
{
    enum larder_kind k;

    pthread_mutex_lock(&s->mtx);
    k = check(s, bytes, 0, 0, err);
    if (!k)
        add(&s->bytes, bytes);
    s->growing = k ? bytes : 0;
    pthread_mutex_unlock(&s->mtx);
    return k;
}

void ldr_space_grown(struct ldr_space *s, uint64_t bytes, bool done)
{
    pthread_mutex_lock(&s->mtx);
    if (done)
        s->filled_bytes += bytes;
    else
        sub(&s->bytes, bytes);
    pthread_mutex_unlock(&s->mtx);
    serve(s);
}

/* What is waited for. Not all of it at once where many wait: room is made for a part of the cache at a time, or what
 * was cached a moment ago would go for the last of them. Under mtx. */
static void wanted(const struct ldr_space *s, uint64_t *bytes, uint64_t *files)
{
    const struct ldr_want *w = s->wants;

    *bytes = s->growing;
    *files = 0;
    if (!w)
        return;
    do {
        *bytes += ldr_space_charge(w->size);
        ++*files;
        w = w->next;
    } while (w != s->wants && *bytes < s->max_bytes / 8);
}

/* How much is missing so that `want` can be taken and `keep` is left. */
static uint64_t missing(uint64_t have, uint64_t keep, uint64_t want)
{
    return have < keep ? keep - have + want : less(want, have - keep);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

bool ldr_space_short(struct ldr_space *s, struct ldr_space_short *out)
{
    uint64_t bytes, files, free_bytes, free_files;

    *out = (struct ldr_space_short){ 0 };
    pthread_mutex_lock(&s->mtx);
    wanted(s, &bytes, &files);
    out->waiting = s->wants != NULL;
    out->leaving = s->leaving_bytes;
    bytes += s->headroom_bytes;
    files += s->headroom_files;
    out->bytes = less(atomic_load(&s->bytes) + bytes, s->max_bytes);
    out->files = less(atomic_load(&s->files) + files, files_max(s));
    if (!ask_outside(s, &free_bytes, &free_files, NULL)) {
        out->bytes = larger(out->bytes, missing(free_bytes, s->min_free_bytes, bytes));
        out->files = larger(out->files, missing(free_files, s->min_free_inodes, files));
    }
    out->bytes = less(out->bytes, s->leaving_bytes);
    out->files = less(out->files, s->leaving_files);
    pthread_mutex_unlock(&s->mtx);
    return out->bytes || out->files;
}
