/* larder.h - objects of any store, through this node's cache.
 *
 * A struct larder serves any number of threads. After fork() parent and child both go on. Functions return LARDER_OK or
 * the kind of failure, and write *err (may be NULL) only on failure; outputs are written only on success.
 *
 * References are `scheme://container/KEY`; KEY is taken literally to its end (`?`, `#`, `%` and `..` are plain bytes).
 *
 * timeout_ms, everywhere: for the whole call, in milliseconds; -1: no limit; 0: only what the cache has, never wait
 * (TIMEOUT where the agent would have to be asked).
 * Kinds that every call may return: INVALID (malformed reference), DENIED and UNAVAILABLE (the store's or the agent's
 * answer), TIMEOUT, NO_AGENT (the agent had to be asked and none answers), NO_MEMORY, INTERNAL. Others stand with the
 * call. Compiles as C11 and C++17; larder never prints, aborts, starts a thread or touches a signal. */
#ifndef LARDER_H
#define LARDER_H

#include "larder_err.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LARDER_VERSION "0.1.0"

struct larder;        /* a connection to the node's agent and its cache */
struct larder_object; /* the bytes of one object, mapped or copied, never changing */
struct larder_meta;   /* what is known of an object */

/* Open a cache. Waits for nothing and asks nobody: an absent agent is seen at the first miss.
 *   dir  borrowed; the cache directory. NULL: $LARDER_CACHE_DIR; else /var/cache/larder if it holds a cache; else
 *        $XDG_CACHE_HOME/larder (~/.cache/larder). The agent's socket is DIR/ipc/agent.sock, or
 *        $LARDER_ENDPOINT/agent.sock.
 *   out  owned by the caller, ended by larder_close()
 * An unreadable or missing cache is no error: every read then goes through the agent. Any thread. */
enum larder_kind larder_open(const char *dir, struct larder **out, struct larder_err *err);

/* Close; NULL is allowed and *l becomes NULL. Objects may outlive it. No call of another thread may be under way. */
void larder_close(struct larder **l);

/* Get an object as a view, from the cache when a fresh copy is there; else wait for the agent.
 *   out  on success owned by the caller, ended by larder_object_free(); may outlive the larder
 * NOT_FOUND: the store has no such object. LIMIT_EXCEEDED: too large for a view that is not in the cache: use
 * larder_stream() or larder_get_into(). TIMEOUT: the fetch goes on for others. CORRUPT: the store's bytes do not match
 * what it says of them. Any thread. A fresh hit makes no IPC. */
enum larder_kind larder_get(struct larder *l, const char *uri, int timeout_ms, struct larder_object **out,
                            struct larder_err *err);

const void *larder_object_data(const struct larder_object *o); /* valid until larder_object_free(); never NULL */
size_t larder_object_size(const struct larder_object *o);      /* bytes */
/* 1: found in the cache without asking the agent; 0: the agent was asked. Of the get that made the object. */
int larder_object_was_hit(const struct larder_object *o);
/* NULL is allowed; *o becomes NULL. Any thread, any process that inherited it. */
void larder_object_free(struct larder_object **o);

/* Get an object into the caller's buffer.
 *   buf, cap  where the bytes go; at most `cap` bytes
 *   size      the object's size; may be NULL
 * LIMIT_EXCEEDED: the object is larger than `cap`; *size is set all the same. After any failure what stands in buf is
 * unspecified. Objects of any size, cached or not. Other kinds as larder_get(). Any thread. A fresh hit makes no
 * IPC. */
enum larder_kind larder_get_into(struct larder *l, const char *uri, void *buf, size_t cap, int timeout_ms,
                                 uint64_t *size, struct larder_err *err);

/* Get an object piece by piece: `write` gets its bytes in order, at least once (an empty object: n = 0), from one
 * version only. Other than LARDER_OK from `write` ends the call with that kind. PRECONDITION: the object changed while
 * it was read, after pieces had been delivered. Objects of any size, bounded memory. Any thread. */
typedef enum larder_kind larder_write_fn(void *user, const void *p, size_t n, uint64_t offset, uint64_t size);
enum larder_kind larder_stream(struct larder *l, const char *uri, int timeout_ms, larder_write_fn *write, void *user,
                               struct larder_err *err);

/* What the store (or a fresh copy in the cache) says of an object. A missing object is an answer, not an error:
 * larder_meta_exists() is 0. `out` is owned by the caller, ended by larder_meta_free(). Any thread. A fresh hit makes
 * no IPC, but for an object written through larder whose last-modified was never asked for. */
enum larder_kind larder_head(struct larder *l, const char *uri, int timeout_ms, struct larder_meta **out,
                             struct larder_err *err);

int larder_meta_exists(const struct larder_meta *m);
uint64_t larder_meta_size(const struct larder_meta *m);         /* bytes */
int64_t larder_meta_last_modified(const struct larder_meta *m); /* seconds since 1970 UTC; INT64_MIN: unknown */

enum larder_meta_field {
    LARDER_META_ETAG = 2, /* without quotes and W/ */
    LARDER_META_VERSION = 3,
    LARDER_META_CONTENT_TYPE = 4,
    LARDER_META_CONTENT_ENCODING = 5,
    LARDER_META_CACHE_CONTROL = 6,
    LARDER_META_CONTENT_DISPOSITION = 7,
    LARDER_META_CONTENT_LANGUAGE = 8,
    LARDER_META_CONTENT_MD5 = 9 /* base64 */
};
/* A text, valid until larder_meta_free(); NULL: the store did not say. */
const char *larder_meta_text(const struct larder_meta *m, enum larder_meta_field field);
/* User metadata: the i-th pair, names in lower case. 0: there is no i-th. */
int larder_meta_user(const struct larder_meta *m, size_t i, const char **name, const char **value);
void larder_meta_free(struct larder_meta **m);

struct larder_put_opts { /* all zero: defaults. Fields are added at the end: set `struct_size` */
    size_t struct_size;  /* sizeof(struct larder_put_opts) */
    const char *content_type;
    const char *const *user; /* name, value, name, value, …; names of letters, digits, `-`, `_`, `.` */
    size_t n_user;           /* pairs */
    int create_only;         /* EXISTS if the object is there already */
};

/* Write a whole object; it is in the store when this returns LARDER_OK, and every later get on this node sees it.
 *   data, len  borrowed; up to 8 MiB (LIMIT_EXCEEDED beyond)
 *   opts       NULL: defaults
 * OUTCOME_UNKNOWN: the write was sent, and whether the store carried it out is not known. EXISTS. UNSUPPORTED: an
 * option that this store cannot keep. Any thread. */
enum larder_kind larder_put(struct larder *l, const char *uri, const void *data, size_t len,
                            const struct larder_put_opts *opts, int timeout_ms, struct larder_err *err);

/* Delete an object; one that is not there is deleted already: LARDER_OK. OUTCOME_UNKNOWN as for put. Any thread. */
enum larder_kind larder_delete(struct larder *l, const char *uri, int timeout_ms, struct larder_err *err);

/* What the agent says of itself: `each` gets every item in order, `text` is NULL where the item is a number. */
typedef void larder_status_fn(void *user, const char *name, const char *text, uint64_t number);
enum larder_kind larder_status(struct larder *l, int timeout_ms, larder_status_fn *each, void *user,
                               struct larder_err *err);

/* Counts of this handle since it was opened. Any thread; relaxed. */
struct larder_counts {
    uint64_t hits;    /* served from the cache, no IPC */
    uint64_t asks;    /* requests to the agent */
    uint64_t retries; /* index reads that met a snapshot being reused, and were repeated */
    uint64_t torn;    /* index answers that made no sense: damage */
    uint64_t damaged; /* records or block files that failed their checks */
    uint64_t kept;    /* mappings reused */
};
void larder_get_counts(struct larder *l, struct larder_counts *out);

/* ---- references as Flyte's storage layer builds and splits them (DataStore; keys are URL text there) ---- */
struct larder_ref {
    char *scheme, *container, *key; /* key: percent-decoded, without leading and trailing `/` */
};
/* INVALID: the text does not parse as a URL. `out` is owned by the caller, ended by larder_ref_free(). Any thread. */
enum larder_kind larder_ref_split(const char *reference, struct larder_ref *out, struct larder_err *err);
void larder_ref_free(struct larder_ref *r);
/* ConstructReference(base, keys…). *out is owned by the caller, ended by larder_free(). INVALID. Any thread. */
enum larder_kind larder_ref_join(const char *base, const char *const keys[], size_t n, char **out,
                                 struct larder_err *err);
void larder_free(void *p);

#ifdef __cplusplus
}
#endif
#endif
