/* flight.h - step 5 of a get: who waits for what. The first asker starts a fetch, the others join it; when askers go
 * away the fetch goes on for those who stay. A write of an object detaches the flights of its key: their askers are
 * answered, nothing is stored, and later askers start anew. ipc thread only. */
#ifndef LDR_FLIGHT_H
#define LDR_FLIGHT_H

#include "agent/fetch.h"

struct ldr_flight;
struct ldr_keystate;

/* Embedded in a request. */
struct ldr_waiter {
    struct ldr_waiter *prev, *next;
    struct ldr_flight *flight; /* NULL: waits for nothing */
    /* Once, unless it left before. `f` is valid for the call. */
    void (*answer)(struct ldr_waiter *w, const struct ldr_fetch *f);
};

enum larder_kind ldr_flights_new(struct ldr_domain *d, struct ldr_flights **out, struct larder_err *err);
void ldr_flights_free(struct ldr_flights **f); /* when no flight is left */
bool ldr_flights_idle(const struct ldr_flights *f);

/* Wait for the object: joins any flight of it. NO_MEMORY: `w` waits for nothing. */
enum larder_kind ldr_flight_object(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                   struct larder_err *err);
/* Wait for its head: joins one whose request has not been sent yet, as an asker wants to know what is true now. */
enum larder_kind ldr_flight_head(struct ldr_domain *d, struct ldr_name *name, struct ldr_waiter *w,
                                 struct larder_err *err);
/* Wait for bytes [offset, offset + want) of the version `validator`: joins the same question. */
enum larder_kind ldr_flight_chunk(struct ldr_domain *d, struct ldr_name *name, uint64_t offset, size_t want,
                                  const char *validator, struct ldr_waiter *w, struct larder_err *err);
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

#endif
