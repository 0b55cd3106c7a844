/* flight.h - step 5 of a get: who waits for what. The first asker starts a load or a fetch, the others join it; when
 * askers go away it goes on for those who stay. A write of an object detaches what runs for its key: those askers are
 * answered, nothing is stored, and later askers start anew. ipc thread only. */
#ifndef LDR_FLIGHT_H
#define LDR_FLIGHT_H

#include "agent/fetch.h"

struct ldr_flight;
struct ldr_load;
struct ldr_keystate;
struct ldr_width;

/* What a waiter is told. Valid for the call. */
struct ldr_answer {
    enum larder_kind kind;
    const struct larder_err *err;
    const struct ldr_meta *meta; /* OK, but for a listing */
    const struct ldr_page *page; /* listing */
    /* object: the range asked for is in the cache, under this id, to be seen from `txnid` on */
    bool in_cache;
    struct ldr_id id;
    uint64_t txnid;
    const char *why; /* not in the cache: why; "" */
    bool written;    /* head: a write of it began since it was asked for */
    /* bytes [mem_offset, mem_offset + mem_len) of the object, or with fd >= 0 all of them from there */
    const uint8_t *mem;
    uint64_t mem_offset;
    size_t mem_len;
    int fd;
};

/* Bytes [offset, offset + max) as far as the answer has them, into `out`; returns how many, -1: none there. At the
 * object's end: 0. */
ssize_t ldr_answer_bytes(const struct ldr_answer *a, uint64_t offset, void *out, size_t max);

/* Embedded in a request. */
struct ldr_waiter {
    struct ldr_waiter *prev, *next;
    /* Exactly once, unless it left before; perhaps before the call that asked returns. */
    void (*answer)(struct ldr_waiter *w, const struct ldr_answer *a);
    /* of an object, set by the asker: the range, 0 long: to the end; what it will want next */
    uint64_t offset, length, ahead;
    bool hint; /* nobody waits: the range is fetched as if it were ahead of a reader, and `answer` comes at once */
    const uint8_t *validator; /* the version that it must be, borrowed; or NULL */
    size_t validator_len;
    bool suspect; /* it found a block file missing that should be there */
    /* where it waits: one of these, or none */
    struct ldr_flight *flight;
    struct ldr_load *load;
    struct ldr_keystate *parked; /* until a write is over */
    /* load.c's */
    uint32_t first, last, left; /* blocks of its range, and how many of them are not there yet */
    struct ldr_range_hold *hold;
    unsigned restarts;
    bool reread; /* what came for it was not what the store says it is: all of it once more */
};

enum larder_kind ldr_flights_new(struct ldr_domain *d, struct ldr_flights **out, struct larder_err *err);
void ldr_flights_free(struct ldr_flights **f); /* when no flight is left */
bool ldr_flights_idle(const struct ldr_flights *f);

/* Wait for a range of the object: joins a load of it. On failure `w` waits for nothing and is not answered. */
enum larder_kind ldr_flight_object(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                   struct larder_err *err);
/* Wait for its head: joins one whose request has not been sent yet, as an asker wants to know what is true now. */
enum larder_kind ldr_flight_head(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                 struct larder_err *err);
/* Wait for bytes [offset, offset + want) of the version `validator` (NULL: of any), past the cache: joins the same
 * question. */
enum larder_kind ldr_flight_chunk(struct ldr_domain *d, struct ldr_name *name, uint64_t offset, size_t want,
                                  const char *validator, struct ldr_waiter *w, struct larder_err *err);
/* Wait for a page of a listing; `name` is its prefix. Joins the same question, as ldr_flight_head() does. */
enum larder_kind ldr_flight_list(struct ldr_domain *d, struct ldr_name *name, const char *delimiter, const char *start,
                                 unsigned max, struct ldr_waiter *w, struct larder_err *err);
/* Give up waiting; the fetch goes on. */
void ldr_flight_leave(struct ldr_waiter *w);

/* A write of `name` begins: before its intent is handed to the index. *out is the write's hold on the key. */
enum larder_kind ldr_flight_write_begin(struct ldr_domain *d, struct ldr_name *name, struct ldr_keystate **out,
                                        struct larder_err *err);
/* Was this write alone from its begin to now? Otherwise it does not fill the cache. */
bool ldr_flight_write_alone(const struct ldr_keystate *k);
/* Its last change is about to be posted, once: is no other write left that will post one (so that this one clears the
 * intent)? */
bool ldr_flight_write_settle(struct ldr_keystate *k);
/* It is over: before it is answered. *k becomes NULL. */
void ldr_flight_write_end(struct ldr_domain *d, struct ldr_keystate **k);

/* ---- for load.c ---- */
/* A load has ended: it is out of its key, and freed by load.c afterwards. */
void ldr_flight_load_ended(struct ldr_load *l);
/* Another load of its key that works on the same version, so that each block is fetched by one; NULL: none. */
struct ldr_load *ldr_flight_same_version(const struct ldr_load *l);
/* Its waiter has to begin again; `anew`: with a load that takes nothing for granted of the record that the cache has.
 * While a write of the key is under way the waiter is parked until that is over. */
void ldr_flight_again(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w, bool anew);
/* The bytes that came of this object were not what its store says they are. Whoever asks for it in the next minute, of
 * however small a range (a reader by windows, which was not waiting at that moment), is not served past the cache, but
 * waits until all of it was read once more and is good; `spoilt` false: it is. */
void ldr_flight_suspect(struct ldr_flights *fs, const struct ldr_name *name, bool spoilt);
bool ldr_flight_is_suspect(const struct ldr_flights *fs, const struct ldr_name *name);
/* How many requests a load of this store has under way. Owned by the flights; NULL: no memory. */
struct ldr_width *ldr_flight_width(struct ldr_flights *fs, const struct ldr_backend *b);
/* A reader asked for blocks [first, last] of version `id`, not all of them there: how many blocks behind `last` should
 * be fetched too? Readers that go on where they stopped get 1, 2, 4, 8; others none. */
uint32_t ldr_flight_readahead(struct ldr_flights *fs, const struct ldr_id *id, uint32_t first, uint32_t last);

#endif
