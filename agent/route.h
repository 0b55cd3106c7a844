/* route.h - step 4 of a get: which store an object's reference leads to, and which policy is on it.
 * The table is made once, before threads start, and only read afterwards. */
#ifndef LDR_ROUTE_H
#define LDR_ROUTE_H

#include "agent/cfg.h"
#include "common/uri.h"

struct ldr_routes;

/* Opens one backend for each store of the configuration, spread over `nets`. INVALID names file, line and key. */
enum larder_kind ldr_routes_new(const struct ldr_cfg *cfg, struct ldr_net *const *nets, unsigned n_nets,
                                struct ldr_pool *pool, struct ldr_routes **out, struct larder_err *err);
void ldr_routes_free(struct ldr_routes **r); /* after the last op */

/* Each store: its scheme, its backend's kind, the fingerprint of what is behind it (for `format`). */
size_t ldr_routes_count(const struct ldr_routes *r);
void ldr_routes_get(const struct ldr_routes *r, size_t i, const char **scheme, const char **kind,
                    uint64_t *fingerprint);

/* One object, with all that its name decides. Immutable; counted. */
struct ldr_name {
    _Atomic unsigned refs;
    struct ldr_backend *backend;         /* borrowed from the routes */
    const struct ldr_prefix_cfg *policy; /* borrowed from the configuration */
    const char *text;                    /* canonical, as are container and key; all in one allocation */
    const char *container, *key;
    size_t text_len;
    size_t ikey_len;
    uint8_t ikey[LDR_INDEX_KEY_MAX]; /* of the index */
};

/* INVALID: malformed, or no store for this scheme. *out: one reference, ended by ldr_name_unref(). Any thread. */
enum larder_kind ldr_route(const struct ldr_routes *r, const char *uri, struct ldr_name **out, struct larder_err *err);
/* The same for the prefix of a listing: its key may be empty. */
enum larder_kind ldr_route_prefix(const struct ldr_routes *r, const char *uri, struct ldr_name **out,
                                  struct larder_err *err);
struct ldr_name *ldr_name_ref(struct ldr_name *n);
void ldr_name_unref(struct ldr_name **n);
/* Is the index key shortened, so that the record has to carry the whole text? */
static inline bool ldr_name_shortened(const struct ldr_name *n)
{
    return n->text_len > LDR_INDEX_KEY_MAX;
}

#endif
