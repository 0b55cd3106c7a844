/* flight.c - see flight.h. */
#include "agent/load.h"
#include "agent/width.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* uthash asks for its own hash function by macro; keys come from clients, XXH3 spreads them well. */
#define HASH_FUNCTION(key, len, hashv)                                                                                 \
    do {                                                                                                               \
        (hashv) = (unsigned)ldr_hash64((key), (len));                                                                  \
    } while (0)
#include <uthash.h>
#include <utlist.h>

#define TRAILS 1024 /* readers that are remembered for readahead */
#define WINDOW 8    /* blocks that are fetched ahead at most */

#define SUSPECTS   64
#define SUSPECT_NS (60 * LDR_NS_PER_S)

/* A head, a listing, bytes past the cache. */
struct ldr_flight {
    struct ldr_flight *prev, *next;
    struct ldr_keystate *key;
    struct ldr_fetch *fetch;
    struct ldr_waiter *waiters;
    bool joinable; /* a later asker may still get this answer */
};

/* One object that somebody reads or writes at the moment. */
struct ldr_keystate {
    UT_hash_handle hh;
    struct ldr_name *name;
    struct ldr_flight *flights;
    struct ldr_load *loads;
    struct ldr_waiter *parked; /* for the end of all writes */
    unsigned writes;           /* under way */
    unsigned unsettled;        /* of these, that will still post a change */
    bool overlap;              /* two were, since there was none */
};

/* Where a reader of a version left off. */
struct trail {
    struct ldr_id id;
    uint32_t next;   /* the block that it reads next if it goes on */
    uint32_t window; /* blocks fetched ahead when it last did */
};

/* What loads have learnt of a store. */
struct store {
    struct store *next;
    const struct ldr_backend *backend;
    struct ldr_width width;
};

struct ldr_flights {
    struct store *stores;
    struct {
        uint64_t name; /* its hash; of another one of the same hash more is read than has to be */
        int64_t until_ns;
    } suspect[SUSPECTS]; /* by the hash; the last one wins */
    struct ldr_keystate *keys;
    struct trail trail[TRAILS]; /* by the id's hash; the last one wins */
};

enum larder_kind ldr_flights_new(struct ldr_domain *d, struct ldr_flights **out, struct larder_err *err)
{
    (void)d;
    *out = calloc(1, sizeof **out);
    return *out ? LARDER_OK : ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
}

void ldr_flights_free(struct ldr_flights **f)
{
    if (!*f)
        return;
    assert(!(*f)->keys);
    while ((*f)->stores) {
        struct store *s = (*f)->stores;

        LL_DELETE((*f)->stores, s);
        free(s);
    }
    free(*f);
    *f = NULL;
}

bool ldr_flights_idle(const struct ldr_flights *f)
{
    return f->keys == NULL;
}

static struct ldr_keystate *key_get(struct ldr_flights *fs, struct ldr_name *name)
{
    struct ldr_keystate *k;

    HASH_FIND(hh, fs->keys, name->text, name->text_len, k);
    if (k)
        return k;
    k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    k->name = ldr_name_ref(name);
    HASH_ADD_KEYPTR(hh, fs->keys, k->name->text, k->name->text_len, k);
    return k;
}

static void key_put(struct ldr_flights *fs, struct ldr_keystate *k)
{
    if (k->flights || k->loads || k->parked || k->writes)
        return;
    HASH_DEL(fs->keys, k);
    ldr_name_unref(&k->name);
    free(k);
}

/* ---------- ends ---------- */

static void fetch_done(struct ldr_fetch *f)
{
    struct ldr_flight *fl = f->user;
    struct ldr_flights *fs = f->domain->flights;
    struct ldr_keystate *k = fl->key;
    struct ldr_answer a = { .kind = f->kind,
                            .err = &f->err,
                            .meta = &f->meta,
                            .page = ldr_fetch_page(f),
                            .why = "",
                            .written = !fl->joinable,
                            .mem = f->mem,
                            .mem_offset = f->mem_offset,
                            .mem_len = f->mem_len,
                            .fd = -1 };

    DL_DELETE(k->flights, fl); /* before the answers: who asks again starts anew */
    while (fl->waiters) {
        struct ldr_waiter *w = fl->waiters;

        DL_DELETE(fl->waiters, w);
        w->flight = NULL;
        w->answer(w, &a);
    }
    key_put(fs, k);
    ldr_fetch_free(&fl->fetch);
    free(fl);
}

void ldr_flight_load_ended(struct ldr_load *l)
{
    DL_DELETE(l->key->loads, l);
    key_put(l->domain->flights, l->key);
}

void ldr_flight_leave(struct ldr_waiter *w)
{
    if (w->flight)
        DL_DELETE(w->flight->waiters, w);
    w->flight = NULL;
    if (w->parked)
        DL_DELETE(w->parked->parked, w); /* the key stays while the write is under way */
    w->parked = NULL;
    if (w->load)
        ldr_load_leave(w->load, w);
}

ssize_t ldr_answer_bytes(const struct ldr_answer *a, uint64_t offset, void *out, size_t max)
{
    uint64_t size = a->meta->size_bytes;

    if (offset >= size)
        return 0;
    if (max > size - offset)
        max = (size_t)(size - offset);
    if (a->fd >= 0)
        return pread(a->fd, out, max, (off_t)offset);
    if (!a->mem || offset < a->mem_offset || offset - a->mem_offset >= a->mem_len)
        return -1;
    if (max > a->mem_len - (offset - a->mem_offset))
        max = a->mem_len - (size_t)(offset - a->mem_offset);
    memcpy(out, a->mem + (offset - a->mem_offset), max);
    return (ssize_t)max;
}

/* ---------- begins: heads, listings, chunks ---------- */

struct question {
    enum ldr_fetch_what what;
    uint64_t offset, want;
    const char *validator, *delimiter, *start; /* or NULL */
};

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static bool same_question(const struct ldr_fetch *f, const struct question *q)
{
    if (f->what != q->what || f->offset != q->offset || f->want != q->want || !same_text(f->validator, q->validator) ||
        !same_text(f->delimiter, q->delimiter) || !same_text(f->start, q->start))
        return false;
    /* A chunk of a named version stays true; who asks what is true now joins nothing that was sent before. */
    return (q->what == LDR_FETCH_CHUNK && q->validator) || !atomic_load(&f->started);
}

static bool copy_text(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

static struct ldr_fetch *fetch_for(struct ldr_domain *d, struct ldr_name *name, const struct question *q)
{
    struct ldr_fetch *f = ldr_fetch_new(d, name, q->what);

    if (f && (!copy_text(&f->validator, q->validator) || !copy_text(&f->delimiter, q->delimiter) ||
              !copy_text(&f->start, q->start)))
        ldr_fetch_free(&f);
    if (!f)
        return NULL;
    f->offset = q->offset;
    f->want = q->want;
    return f;
}

static enum larder_kind ask(struct ldr_domain *d, struct ldr_name *name, const struct question *q, struct ldr_waiter *w,
                            struct larder_err *err)
{
    struct ldr_keystate *k = key_get(d->flights, name);
    struct ldr_flight *fl;

    if (!k)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    DL_FOREACH(k->flights, fl)
    if (fl->joinable && same_question(fl->fetch, q)) {
        w->flight = fl;
        DL_APPEND(fl->waiters, w);
        return LARDER_OK;
    }
    fl = calloc(1, sizeof *fl);
    if (fl)
        fl->fetch = fetch_for(d, name, q);
    if (!fl || !fl->fetch) {
        free(fl);
        key_put(d->flights, k);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    fl->key = k;
    fl->joinable = true;
    fl->fetch->done = fetch_done;
    fl->fetch->user = fl;
    w->flight = fl;
    DL_APPEND(fl->waiters, w);
    DL_APPEND(k->flights, fl);
    ldr_fetch_start(fl->fetch);
    return LARDER_OK;
}

enum larder_kind ldr_flight_head(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                 struct larder_err *err)
{
    return ask(d, name, &(struct question){ .what = LDR_FETCH_HEAD }, w, err);
}

enum larder_kind ldr_flight_chunk(struct ldr_domain *d, struct ldr_name *name, uint64_t offset, size_t want,
                                  const char *validator, struct ldr_waiter *w, struct larder_err *err)
{
    return ask(d, name,
               &(struct question){ .what = LDR_FETCH_CHUNK, .offset = offset, .want = want, .validator = validator }, w,
               err);
}

enum larder_kind ldr_flight_list(struct ldr_domain *d, struct ldr_name *name, const char *delimiter, const char *start,
                                 unsigned max, struct ldr_waiter *w, struct larder_err *err)
{
    return ask(d, name,
               &(struct question){ .what = LDR_FETCH_LIST, .want = max, .delimiter = delimiter, .start = start }, w,
               err);
}

/* ---------- begins: objects ---------- */

/* Who has to know what is true now (`always`) joins nothing whose question was sent before; who reads on in a version
 * that it named may. */
static bool may_join(const struct ldr_load *l, const struct ldr_waiter *w)
{
    if (!l->joinable || (w->reread && !l->reread))
        return false;
    if (w->validator)
        return true;
    if (l->name->policy->freshness != LDR_REVALIDATE) /* a load may last longer than what it loads is fresh */
        return !l->open || !l->fresh_until_ns || l->fresh_until_ns > (uint64_t)ldr_boot_ns();
    return !l->open && (!l->opener || !atomic_load(&l->opener->started));
}

static struct ldr_load *find_load(const struct ldr_keystate *k, const struct ldr_waiter *w)
{
    struct ldr_load *l;

    DL_FOREACH(k->loads, l)
    if (may_join(l, w))
        return l;
    return NULL;
}

struct ldr_load *ldr_flight_same_version(const struct ldr_load *l)
{
    struct ldr_load *o;

    DL_FOREACH(l->key->loads, o)
    if (o != l && o->joinable && o->open && !memcmp(&o->id, &l->id, sizeof l->id))
        return o;
    return NULL;
}

static enum larder_kind load(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w, bool anew,
                             struct larder_err *err)
{
    struct ldr_keystate *k = key_get(d->flights, name);
    struct ldr_load *l = k ? find_load(k, w) : NULL;

    if (l) {
        ldr_count(&d->counters, gets_joined, 1);
        ldr_load_join(l, w);
        return LARDER_OK;
    }
    l = k ? ldr_load_new(d, name, anew, k->writes > 0) : NULL;
    if (!l) {
        if (k)
            key_put(d->flights, k);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    l->key = k;
    DL_APPEND(k->loads, l);
    ldr_load_join(l, w);
    return LARDER_OK;
}

void ldr_flight_suspect(struct ldr_flights *fs, const struct ldr_name *name, bool spoilt)
{
    uint64_t hash = ldr_hash64(name->text, name->text_len);
    size_t at = hash % SUSPECTS;

    if (spoilt || fs->suspect[at].name == hash) {
        fs->suspect[at].name = hash;
        fs->suspect[at].until_ns = spoilt ? ldr_mono_ns() + SUSPECT_NS : 0;
    }
}

bool ldr_flight_is_suspect(const struct ldr_flights *fs, const struct ldr_name *name)
{
    uint64_t hash = ldr_hash64(name->text, name->text_len);
    size_t at = hash % SUSPECTS;

    return fs->suspect[at].name == hash && fs->suspect[at].until_ns > 0 && fs->suspect[at].until_ns > ldr_mono_ns();
}

enum larder_kind ldr_flight_object(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                   struct larder_err *err)
{
    w->restarts = 0;
    w->reread = ldr_flight_is_suspect(d->flights, name);
    return load(d, name, w, false, err);
}

void ldr_flight_again(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w, bool anew)
{
    struct ldr_keystate *k = key_get(d->flights, name);
    struct larder_err e;
    struct ldr_answer a = { .kind = LARDER_NO_MEMORY, .err = &e, .fd = -1 };

    if (k && k->writes) {
        w->parked = k;
        DL_APPEND(k->parked, w);
        return;
    }
    if (!k)
        ldr_fail(&e, LARDER_NO_MEMORY, "out of memory");
    if (!k || load(d, name, w, anew, &e))
        w->answer(w, &a);
}

uint32_t ldr_flight_readahead(struct ldr_flights *fs, const struct ldr_id *id, uint32_t first, uint32_t last)
{
    struct trail *t = &fs->trail[ldr_hash64(id->b, sizeof id->b) % TRAILS];
    bool same = !memcmp(t->id.b, id->b, sizeof id->b);

    if (!same || first != t->next || first == 0)
        t->window = 0;
    else
        t->window = t->window == 0 ? 1 : t->window * 2 < WINDOW ? t->window * 2 : WINDOW;
    t->id = *id;
    t->next = last + 1 + t->window;
    return t->window;
}

struct ldr_width *ldr_flight_width(struct ldr_flights *fs, const struct ldr_backend *b)
{
    struct store *s;

    LL_FOREACH(fs->stores, s)
    if (s->backend == b)
        return &s->width;
    s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->backend = b;
    LL_PREPEND(fs->stores, s);
    return &s->width;
}

/* ---------- writes ---------- */

/* What runs now was asked before the write (or during it): its answer is no answer for who asks from now on. */
static void detach(struct ldr_keystate *k)
{
    struct ldr_flight *fl;
    struct ldr_load *l;

    DL_FOREACH(k->flights, fl)
    fl->joinable = false;
    DL_FOREACH(k->loads, l)
    {
        atomic_store(&l->no_store, true);
        l->joinable = false;
    }
}

enum larder_kind ldr_flight_write_begin(struct ldr_domain *d, struct ldr_name *name, struct ldr_keystate **out,
                                        struct larder_err *err)
{
    struct ldr_keystate *k = key_get(d->flights, name);

    if (!k)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (k->writes++)
        k->overlap = true;
    k->unsettled++;
    detach(k);
    *out = k;
    return LARDER_OK;
}

bool ldr_flight_write_alone(const struct ldr_keystate *k)
{
    return !k->overlap;
}

bool ldr_flight_write_settle(struct ldr_keystate *k)
{
    assert(k->unsettled > 0);
    return --k->unsettled == 0;
}

void ldr_flight_write_end(struct ldr_domain *d, struct ldr_keystate **pk)
{
    struct ldr_keystate *k = *pk;
    struct ldr_waiter *parked = NULL;
    struct ldr_name *name = ldr_name_ref(k->name);

    assert(k->writes > 0);
    detach(k);
    if (--k->writes == 0) {
        k->overlap = false;
        k->unsettled = 0;
        parked = k->parked;
        k->parked = NULL;
    }
    key_put(d->flights, k);
    *pk = NULL;
    while (parked) {
        struct ldr_waiter *w = parked;

        DL_DELETE(parked, w);
        w->parked = NULL;
        ldr_flight_again(d, name, w, false);
    }
    ldr_name_unref(&name);
}
