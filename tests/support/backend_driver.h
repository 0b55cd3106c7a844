/* backend_driver.h - one backend of a test: its net thread, its pool, and calls that wait for their op to end.
 * The sink checks the rules of backend.h as bytes arrive: one begin per op, bytes only after it, never more than it
 * announced, and exactly as many when the op ends OK. A broken rule shows as INTERNAL, whatever the backend said. */
#ifndef BACKEND_DRIVER_H
#define BACKEND_DRIVER_H

#include "backends/backend.h"

#define BD_TIMEOUT_MS 20000 /* of one call */
#define BD_BODY_MAX   (64 * LDR_MIB)

struct bd;

/* `settings`: name, value, name, value, …, NULL. Kinds: those of the backend's open(); INVALID: no such kind. */
enum larder_kind bd_open(const char *kind, const char *scheme, const char *const settings[], struct bd **out,
                         struct larder_err *err);
void bd_close(struct bd **d); /* no call is under way; NULL inside is allowed */
struct ldr_backend *bd_backend(struct bd *d);

struct bd_args { /* all zero: defaults */
    bool ranged;
    uint64_t offset, length;
    const char *if_match, *if_none_match;
    const struct ldr_meta *put_meta;
    bool create_only;
    const char *delimiter, *start; /* of a listing */
    unsigned max_entries;          /* 0: LDR_PAGE_ENTRIES_MAX */
    int timeout_ms;                /* 0: BD_TIMEOUT_MS */
    /* Called with every piece of a get before it is kept; other than OK ends the get. */
    enum larder_kind (*on_write)(void *user, uint64_t got, struct larder_err *err);
    void *user;
};

struct bd_result { /* ended by bd_result_release() */
    enum larder_kind kind;
    struct larder_err err;
    struct ldr_meta meta;
    struct ldr_buf bytes;    /* of a get */
    uint64_t offset, length; /* as begin() announced them */
    unsigned begins, requests;
    uint32_t retry_after_ms;
    bool sent, not_modified, no_container;
    struct ldr_page page;
    char validator[256], etag[256]; /* "" : none */
};

void bd_result_release(struct bd_result *r);

/* Any thread, several at a time. `args` may be NULL. *r is set whole; the kind is returned too. */
enum larder_kind bd_get(struct bd *d, const char *container, const char *key, const struct bd_args *args,
                        struct bd_result *r);
enum larder_kind bd_head(struct bd *d, const char *container, const char *key, struct bd_result *r);
enum larder_kind bd_put(struct bd *d, const char *container, const char *key, const void *bytes, uint64_t size,
                        const struct bd_args *args, struct bd_result *r);
enum larder_kind bd_put_fd(struct bd *d, const char *container, const char *key, int fd, uint64_t size,
                           const struct bd_args *args, struct bd_result *r);
enum larder_kind bd_delete(struct bd *d, const char *container, const char *key, struct bd_result *r);
/* One page of the keys that begin with `prefix`. */
enum larder_kind bd_list(struct bd *d, const char *container, const char *prefix, const struct bd_args *args,
                         struct bd_result *r);
/* Within one container. */
enum larder_kind bd_copy(struct bd *d, const char *container, const char *from, const char *to, struct bd_result *r);

/* Any other op: `op` says what, container, key and what belongs to it (no body: fd -1); the rest is set here. Its results
 * are in *r, and in what it points to. */
enum larder_kind bd_op(struct bd *d, const struct ldr_op *op, struct bd_result *r);

/* `n` bytes that differ with `seed` and have no short period; owned by the caller, ended by free(). Never NULL. */
uint8_t *bd_bytes(uint64_t n, uint64_t seed);

#endif
