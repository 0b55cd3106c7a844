/* client.h - struct larder: what a handle holds, and who may touch it. Internal to client/.
 *
 * The warm path takes no lock: it loads `gen` and reads. A generation that was given up stays mapped (its data replaced
 * by zero pages, which read as torn) until larder_close(), as another thread may be in the middle of it. The one slow
 * path that must be alone, opening a generation, is guarded by `opening`, which holds the token of the process that is
 * at work: a forked child sees a token that is not its own and takes over. */
#ifndef LDR_CLIENT_H
#define LDR_CLIENT_H

#include "client/ask.h"
#include "client/larder.h"
#include "client/view.h"
#include "client/walk.h"
#include "common/clock.h"
#include "common/touch.h"
#include "common/uri.h"

/* One generation of the index, mapped. All but its flags, and the length of a partial one, is set once. */
struct ldr_gen {
    struct ldr_tree index;
    uint64_t nonce;
    size_t map_len;         /* bytes of index.data; changed by who holds `opening` */
    bool partial;           /* map_len is less than the header's mapsize: address space is short */
    int dirfd;              /* of the cache directory; closed with the oldest generation that shares it */
    struct ldr_touch touch; /* where hits are told; map NULL: nowhere */
    struct ldr_gen *older;
};

#define LDR_COUNT_SHARDS 16

enum ldr_count { LDR_COUNT_HITS, LDR_COUNT_ASKS, LDR_COUNT_RETRIES, LDR_COUNT_TORN, LDR_COUNT_DAMAGED, LDR_COUNT_KEPT };

struct larder {
    /* set once in larder_open() */
    char *dir; /* absolute */
    struct ldr_conns *pool;
    struct ldr_views *views;
    struct ldr_self self;
    /* any thread */
    _Atomic(struct ldr_gen *) gen; /* NULL: no cache that can be read; every read goes through the agent */
    _Atomic int64_t next_check_ns; /* CLOCK_MONOTONIC: not before then is a cache looked for again */
    _Atomic uint64_t failed_nonce; /* the agent named this generation, and it could not be opened */
    _Atomic bool unsafe;           /* stress only */
    _Atomic uint64_t opening;      /* token of the process whose thread opens a generation, 0: nobody */
    /* who holds `opening` */
    struct ldr_gen *gens; /* all ever opened, newest first */
    /* relaxed */
    struct {
        _Alignas(64) _Atomic uint64_t n[8];
    } counts[LDR_COUNT_SHARDS];
};

/* Open the generation that `format` names now, in the place of `seen` (what the caller found unusable, or NULL). Does
 * nothing if another thread has done so, or is at it; the caller loads l->gen anew and otherwise asks the agent.
 *   nonce  of the generation that the agent named; 0: none, then a cache that was not there is looked for once a second
 */
void ldr_client_reopen(struct larder *l, struct ldr_gen *seen, uint64_t nonce);
/* Where only a part of the data file is mapped: map what was added to it since. False: nothing was, or it cannot be. */
bool ldr_client_grow(struct larder *l, struct ldr_gen *g);

/* Threads add to different cache lines: their stacks lie apart. */
static inline void ldr_count(struct larder *l, enum ldr_count what)
{
    uint64_t h = ((uintptr_t)__builtin_frame_address(0) >> 16) * UINT64_C(0x9E3779B97F4A7C15);

    atomic_fetch_add_explicit(&l->counts[h >> 60].n[what], 1, memory_order_relaxed);
}

/* The moment a call's timeout is over; LDR_NO_WAIT for timeout_ms 0. */
static inline int64_t ldr_call_deadline(int timeout_ms)
{
    return timeout_ms == 0 ? LDR_NO_WAIT : ldr_deadline_ns(timeout_ms);
}

/* What a fresh record of the cache says of `uri`, into *out (initialised, owned by the caller): LDR_HIT. Else the agent
 * must be asked. *text gets the canonical text. In get.c. */
enum larder_kind ldr_get_meta(struct larder *l, const char *uri, char text[LDR_URI_MAX + 1], enum ldr_hit *hit,
                              struct ldr_meta *out, struct larder_err *err);

/* For a get of many, in get.c: what the cache has of `uri`, fresh or named by `accept` (the agent's answer; NULL: it was
 * not asked). *out is owned by the caller if *hit says LDR_HIT; else the agent must be asked. INVALID: the reference. */
enum larder_kind ldr_get_cached(struct larder *l, const char *uri, const struct ldr_id *accept, enum ldr_hit *hit,
                                struct larder_object **out, struct larder_err *err);
/* larder_get() within a call that asked the agent before, and has until `deadline_ns`. */
enum larder_kind ldr_get_by(struct larder *l, const char *uri, int64_t deadline_ns, struct larder_object **out,
                            struct larder_err *err);

/* The canonical text of a reference. INVALID. In put.c. */
enum larder_kind ldr_canonical(const char *uri, char text[LDR_URI_MAX + 1], struct larder_err *err);

/* What a caller of another release hands over as options (`given` bytes by its struct_size, which comes first): fields
 * that it does not know are zero in *out, ones that this release does not know must be. `first` is the size of the first
 * release's. In put.c. */
enum larder_kind ldr_read_opts(const void *opts, size_t first, void *out, size_t size, const char *what,
                               struct larder_err *err);

/* The stress program's negative control, for this and later generations of a handle (walk.h). */
void ldr_client_set_unsafe_for_stress(struct larder *l, bool unsafe);

#endif
