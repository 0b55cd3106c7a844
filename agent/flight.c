/* flight.c - see flight.h. */
#include "agent/flight.h"
#include "common/hash.h"
#include "common/log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* uthash asks for its own hash function by macro; keys come from clients, XXH3 spreads them well. */
#define HASH_FUNCTION(key, len, hashv)                                                                                 \
    do {                                                                                                               \
        (hashv) = (unsigned)ldr_hash64((key), (len));                                                                  \
    } while (0)
#include <uthash.h>
#include <utlist.h>

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
    unsigned writes;    /* under way */
    unsigned unsettled; /* of these, that will still post a change */
    bool overlap;       /* two were, since there was none */
};

struct ldr_flights {
    struct ldr_keystate *keys;
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
    if (k->flights || k->writes)
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

    DL_DELETE(k->flights, fl); /* before the answers: who asks again starts anew */
    while (fl->waiters) {
        struct ldr_waiter *w = fl->waiters;

        DL_DELETE(fl->waiters, w);
        w->flight = NULL;
        w->answer(w, f);
    }
    key_put(fs, k);
    ldr_fetch_free(&fl->fetch);
    free(fl);
}

void ldr_flight_leave(struct ldr_waiter *w)
{
    if (!w->flight)
        return;
    DL_DELETE(w->flight->waiters, w);
    w->flight = NULL;
}

/* ---------- begins ---------- */

static bool same_question(const struct ldr_fetch *f, enum ldr_fetch_what what, uint64_t offset, size_t want,
                          const char *validator)
{
    if (f->what != what)
        return false;
    switch (what) {
    case LDR_FETCH_OBJECT:
        return true;
    case LDR_FETCH_HEAD:
        return !atomic_load(&f->started);
    case LDR_FETCH_CHUNK:
        return f->offset == offset && f->want == want && !strcmp(f->validator, validator);
    }
    return false;
}

static enum larder_kind join(struct ldr_domain *d, struct ldr_name *name, enum ldr_fetch_what what, uint64_t offset,
                             size_t want, const char *validator, struct ldr_waiter *w, struct larder_err *err)
{
    struct ldr_keystate *k = key_get(d->flights, name);
    struct ldr_flight *fl;

    if (!k)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    DL_FOREACH(k->flights, fl)
    if (fl->joinable && same_question(fl->fetch, what, offset, want, validator)) {
        ldr_count(&d->counters, gets_joined, what == LDR_FETCH_OBJECT);
        w->flight = fl;
        DL_APPEND(fl->waiters, w);
        return LARDER_OK;
    }
    fl = calloc(1, sizeof *fl);
    if (fl)
        fl->fetch = ldr_fetch_new(d, name, what);
    if (fl && fl->fetch && validator && !(fl->fetch->validator = strdup(validator)))
        ldr_fetch_free(&fl->fetch);
    if (!fl || !fl->fetch) {
        free(fl);
        key_put(d->flights, k);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    fl->key = k;
    fl->joinable = true;
    fl->fetch->offset = offset;
    fl->fetch->want = want;
    fl->fetch->done = fetch_done;
    fl->fetch->user = fl;
    atomic_store(&fl->fetch->no_store, k->writes > 0);
    w->flight = fl;
    DL_APPEND(fl->waiters, w);
    DL_APPEND(k->flights, fl);
    ldr_fetch_start(fl->fetch);
    return LARDER_OK;
}

enum larder_kind ldr_flight_object(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                   struct larder_err *err)
{
    return join(d, name, LDR_FETCH_OBJECT, 0, 0, NULL, w, err);
}

enum larder_kind ldr_flight_head(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                 struct larder_err *err)
{
    return join(d, name, LDR_FETCH_HEAD, 0, 0, NULL, w, err);
}

enum larder_kind ldr_flight_chunk(struct ldr_domain *d, struct ldr_name *name, uint64_t offset, size_t want,
                                  const char *validator, struct ldr_waiter *w, struct larder_err *err)
{
    return join(d, name, LDR_FETCH_CHUNK, offset, want, validator, w, err);
}

/* ---------- writes ---------- */

/* What runs now was asked before the write (or during it): its answer is no answer for who asks from now on. */
static void detach(struct ldr_keystate *k)
{
    struct ldr_flight *fl;

    DL_FOREACH(k->flights, fl)
    {
        atomic_store(&fl->fetch->no_store, true);
        fl->joinable = false;
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

    assert(k->writes > 0);
    detach(k);
    if (--k->writes == 0) {
        k->overlap = false;
        k->unsettled = 0;
    }
    key_put(d->flights, k);
    *pk = NULL;
}
