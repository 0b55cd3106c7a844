/* larder.h - objects of any store, through this node's cache.
 *
 * A struct larder serves any number of threads. After fork() parent and child both go on. Functions return LARDER_OK or
 * the kind of failure, and write *err (may be NULL) only on failure; outputs are written only on success.
 *
 * References are `scheme://container/KEY`; KEY is taken literally to its end (`?`, `#`, `%` and `..` are plain bytes). They
 * are C strings: a binding whose strings may hold a NUL refuses such a one, or it would name another object.
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

/* The release of the library that runs, as LARDER_VERSION is that of the header. */
const char *larder_version(void);

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

/* The same for the bytes [offset, offset + length) of it, cut at the object's end: only the blocks of that range are
 * fetched and mapped. length 0: to the end. An offset at or behind the end gives an object of 0 bytes;
 * larder_object_total() tells. Reading on from where the last range ended is seen by the agent, which then fetches
 * ahead; other reads fetch nothing that was not asked for. */
enum larder_kind larder_get_range(struct larder *l, const char *uri, uint64_t offset, uint64_t length, int timeout_ms,
                                  struct larder_object **out, struct larder_err *err);

const void *larder_object_data(const struct larder_object *o); /* valid until larder_object_free(); never NULL; writing
                                                                 * there is SIGSEGV: bindings show it read-only */
size_t larder_object_size(const struct larder_object *o);      /* bytes */
uint64_t larder_object_offset(const struct larder_object *o);  /* where they begin in the object of the store */
uint64_t larder_object_total(const struct larder_object *o);   /* bytes of the whole object of the store */
/* Names the version: two ranges of one object whose ids are equal are of the same bytes. 0 for both halves: not known
 * (an object that is not in the cache). */
void larder_object_id(const struct larder_object *o, uint64_t id[2]);
/* 1: found in the cache without asking the agent; 0: the agent was asked. Of the get that made the object. */
int larder_object_was_hit(const struct larder_object *o);
/* Once for each get; two gets may have given the same pointer. NULL is allowed; *o becomes NULL. Any thread, any process
 * that inherited it. */
void larder_object_free(struct larder_object **o);

/* Get many objects: what the cache lacks is asked for together, so the agent fetches in parallel and each batch costs
 * one exchange with it.
 *   uris, n  borrowed; in any order, repeats are allowed (of an object that changes meanwhile they may be two versions)
 *   out      n results, each written, whatever the others are: kind, then `object` (owned by the caller) or `err`
 * Returns LARDER_OK when all did, else the kind of the first that failed (its error in *err). Any thread. */
struct larder_result {
    enum larder_kind kind;
    struct larder_object *object; /* NULL where kind is not LARDER_OK */
    struct larder_err err;
};
enum larder_kind larder_get_many(struct larder *l, const char *const uris[], size_t n, int timeout_ms,
                                 struct larder_result out[], struct larder_err *err);

/* Get an object into the caller's buffer.
 *   buf, cap  where the bytes go; at most `cap` bytes
 *   size      the object's size; may be NULL
 * LIMIT_EXCEEDED: the object is larger than `cap`; *size is set all the same. After any failure what stands in buf is
 * unspecified. Objects of any size, cached or not. Other kinds as larder_get(). Any thread. A fresh hit makes no
 * IPC. */
enum larder_kind larder_get_into(struct larder *l, const char *uri, void *buf, size_t cap, int timeout_ms,
                                 uint64_t *size, struct larder_err *err);

/* Read like pread(): up to `len` bytes from `offset` on into `buf`.
 *   got    bytes written to buf; fewer than `len` only at the object's end
 *   total  bytes of the whole object; may be NULL
 * Kinds and the rest as larder_get_range(); objects of any size, cached or not, makes no mapping. */
enum larder_kind larder_read(struct larder *l, const char *uri, uint64_t offset, void *buf, size_t len, int timeout_ms,
                             size_t *got, uint64_t *total, struct larder_err *err);

/* Get an object piece by piece: `write` gets its bytes in order, at least once (an empty object: n = 0), from one
 * version only. Other than LARDER_OK from `write` ends the call with that kind. PRECONDITION: the object changed while
 * it was read, after pieces had been delivered. Objects of any size, bounded memory. Any thread. */
typedef enum larder_kind larder_write_fn(void *user, const void *p, size_t n, uint64_t offset, uint64_t size);
enum larder_kind larder_stream(struct larder *l, const char *uri, int timeout_ms, larder_write_fn *write, void *user,
                               struct larder_err *err);

/* Get an object into an open file, pipe or socket: its bytes are written at the descriptor's position, in order. A block
 * of the cache goes there within the kernel; on xfs and btrfs, where the file lies beside the cache, nothing is copied
 * at all. The descriptor must block.
 *   progress  NULL, or told of the bytes written so far and of all
 *   size      bytes written; may be NULL
 * IO: it could not be written (err->sys says why), or a block could not be read. PRECONDITION as for larder_stream():
 * what was written is to be thrown away. Objects of any size, bounded memory. Any thread. */
typedef void larder_progress_fn(void *user, uint64_t done, uint64_t size);
enum larder_kind larder_get_to_fd(struct larder *l, const char *uri, int fd, int timeout_ms,
                                  larder_progress_fn *progress, void *user, uint64_t *size, struct larder_err *err);

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
    const char *if_match; /* PRECONDITION if the object has another ETag (as larder_head() tells it) or is not there */
    const char *content_encoding, *cache_control, *content_disposition, *content_language;
};

/* Write a whole object; it is in the store when this returns LARDER_OK, and every later get on this node sees it.
 *   data, len  borrowed; any size: up to 8 MiB in one request of the store, larger ones in parts, several at a time
 *   opts       NULL: defaults
 * OUTCOME_UNKNOWN: the write was sent, and whether the store carried it out is not known. EXISTS, PRECONDITION.
 * UNSUPPORTED: an option that this store cannot keep. Any thread. */
enum larder_kind larder_put(struct larder *l, const char *uri, const void *data, size_t len,
                            const struct larder_put_opts *opts, int timeout_ms, struct larder_err *err);

/* Write an object piece by piece, of any size, known beforehand or not: what is complete is on its way to the store while
 * the next piece is made. Nothing is seen of it before the commit. It ends before its larder does. One thread at a time;
 * not over a fork(): in a child every call is INVALID, and abort frees its memory alone. */
struct larder_writer;
#define LARDER_SIZE_UNKNOWN UINT64_MAX
/*   size        of the whole object, or LARDER_SIZE_UNKNOWN; another one at the commit is INVALID
 *   timeout_ms  for each call with this writer, not for the whole
 *   out         owned by the caller, ended by larder_writer_commit() or larder_writer_abort()
 * Kinds as larder_put(). */
enum larder_kind larder_writer_open(struct larder *l, const char *uri, uint64_t size,
                                    const struct larder_put_opts *opts, int timeout_ms, struct larder_writer **out,
                                    struct larder_err *err);
/* Append a copy of `n` bytes. After a failure only abort is left. */
enum larder_kind larder_writer_write(struct larder_writer *w, const void *p, size_t n, struct larder_err *err);
/* The same without a copy: *p is room for *n > 0 bytes, to be filled in order and then announced with
 * larder_writer_filled(); valid until the next call with this writer. INVALID, and nothing lost: the size that was
 * announced is reached. */
enum larder_kind larder_writer_room(struct larder_writer *w, void **p, size_t *n, struct larder_err *err);
enum larder_kind larder_writer_filled(struct larder_writer *w, size_t n, struct larder_err *err);
/* The object is in the store when this returns LARDER_OK. Whatever it returns, *w is gone and NULL. OUTCOME_UNKNOWN as
 * for larder_put(). */
enum larder_kind larder_writer_commit(struct larder_writer **w, struct larder_err *err);
void larder_writer_abort(struct larder_writer **w); /* nothing is left of it; NULL is allowed; *w becomes NULL */

/* Delete an object; one that is not there is deleted already: LARDER_OK. OUTCOME_UNKNOWN as for put. Any thread. */
enum larder_kind larder_delete(struct larder *l, const char *uri, int timeout_ms, struct larder_err *err);

/* Delete many objects, in as few requests of the stores as they allow.
 *   out  n results, each written: kind, err; `object` is NULL
 * Returns LARDER_OK when all are gone, else the kind of the first that failed (its error in *err). Any thread. */
enum larder_kind larder_delete_many(struct larder *l, const char *const uris[], size_t n, int timeout_ms,
                                    struct larder_result out[], struct larder_err *err);

/* A URL with which anybody may get or put this one object for a while, without credentials.
 *   opts  NULL: to get it, for an hour
 *   out   owned by the caller, ended by larder_signed_free()
 * UNSUPPORTED: its store signs no URLs. INVALID: a lifetime below 0, an MD5 that is none, an option of a put
 * for a get. Any thread. */
struct larder_sign_opts { /* all zero: defaults. Fields are added at the end: set `struct_size` */
    size_t struct_size;
    int put;                 /* else get */
    int64_t lifetime_s;      /* 0: 3600. Cut to 7 days, and to the life of the agent's credentials */
    const char *content_md5; /* put: base64 of 16 bytes: the store takes these bytes alone */
    const char *content_type;
    int md5_in_metadata; /* put: keep the MD5 in the user metadata, as Flyte's storage layer does */
};
struct larder_signed {
    char *url;
    char **headers; /* "Name: value": whoever uses the URL must send them exactly so */
    size_t n_headers;
    int64_t expires; /* seconds since 1970 UTC */
};
enum larder_kind larder_sign(struct larder *l, const char *uri, const struct larder_sign_opts *opts, int timeout_ms,
                             struct larder_signed *out, struct larder_err *err);
void larder_signed_free(struct larder_signed *s); /* NULL is allowed; empty again */

/* List the objects whose key begins with the key of `prefix` (a reference; its key may be empty: "s3://bucket/").
 *   opts  NULL: defaults
 *   each  gets every entry in the order of the store (S3: bytes of the key); borrowed for the call. Other than LARDER_OK
 *         ends the listing with that kind
 *   next  may be NULL: then everything is listed, page after page. Else one page, and *next (owned by the caller,
 *         larder_free()) is where the next page starts (give it as opts->start), NULL after the last
 * Listings are asked for at the store each time, concurrent ones once. Any thread. */
struct larder_entry {
    const char *uri;       /* scheme://container/KEY */
    int is_prefix;         /* a group of keys up to the delimiter; what follows is not set then */
    uint64_t size;         /* bytes */
    int64_t last_modified; /* seconds since 1970 UTC; INT64_MIN: unknown */
    const char *etag;      /* without quotes; NULL: unknown */
};
struct larder_list_opts { /* all zero: defaults. Fields are added at the end: set `struct_size` */
    size_t struct_size;
    const char *delimiter; /* NULL: every key; "/": one level, deeper keys come as prefixes */
    const char *start;     /* NULL: from the first; else *next of an earlier page */
    unsigned page;         /* most entries of a page, 0: as many as fit (at most 800) */
};
typedef enum larder_kind larder_list_fn(void *user, const struct larder_entry *e);
enum larder_kind larder_list(struct larder *l, const char *prefix, const struct larder_list_opts *opts, int timeout_ms,
                             larder_list_fn *each, void *user, char **next, struct larder_err *err);

/* Copy an object to another name: by the store itself where both are of one store that can, and no byte crosses this
 * node then; else as a stream, in bounded memory. Metadata goes along. As for a put, every later get on this node sees
 * it. NOT_FOUND: no source. OUTCOME_UNKNOWN as for put. Any thread. */
enum larder_kind larder_copy(struct larder *l, const char *from, const char *to, int timeout_ms,
                             struct larder_err *err);

/* What the agent says of itself: `each` gets every item in order, `text` is NULL where the item is a number. */
typedef void larder_status_fn(void *user, const char *name, const char *text, uint64_t number);
enum larder_kind larder_status(struct larder *l, int timeout_ms, larder_status_fn *each, void *user,
                               struct larder_err *err);

/* Why an object is, or is not, served from the cache: its store, policy, record, blocks and age, as larder_status()
 * gives its items. The store is not asked. */
enum larder_kind larder_why(struct larder *l, const char *uri, int timeout_ms, larder_status_fn *each, void *user,
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
/* `size`: sizeof *out, as fields are added at the end. */
void larder_get_counts(struct larder *l, struct larder_counts *out, size_t size);

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
