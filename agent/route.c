/* route.c - see route.h. */
#include "agent/route.h"
#include "agent/pace.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct route {
    char scheme[LDR_SCHEME_MAX + 1];
    struct ldr_backend *backend;
    uint64_t fingerprint;
};

struct ldr_routes {
    const struct ldr_cfg *cfg; /* borrowed; outlives the routes */
    size_t n;
    struct route route[];
};

enum larder_kind ldr_routes_new(const struct ldr_cfg *cfg, struct ldr_net *const *nets, unsigned n_nets,
                                struct ldr_pool *pool, struct ldr_routes **out, struct larder_err *err)
{
    struct ldr_routes *r = calloc(1, sizeof *r + cfg->n_stores * sizeof r->route[0]);
    enum larder_kind k = LARDER_OK;

    if (!r)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for the stores");
    r->cfg = cfg;
    for (size_t i = 0; i < cfg->n_stores && !k; i++) {
        const struct ldr_store_slot *slot = &cfg->stores[i];
        const struct ldr_backend_ops *ops = ldr_backend_find(slot->kind);
        struct ldr_store_cfg sc = {
            .kind = slot->kind, .scheme = slot->scheme, .config = slot->config, .n_config = slot->n_config
        };
        struct ldr_backend_env env = { .net = nets[i % n_nets], .pool = pool };
        struct route *route = &r->route[r->n];

        if (!ops) {
            k = ldr_fail(err, LARDER_INVALID, "store kind \"%s\" is not in this release, which has %s", slot->kind,
                         ldr_backend_kinds());
        } else if (strlen(slot->scheme) > LDR_SCHEME_MAX) {
            k = ldr_fail(err, LARDER_INVALID, "scheme \"%s\" is too long", slot->scheme);
        } else if (!(k = ops->open(&sc, &env, &route->backend, err))) {
            strcpy(route->scheme, slot->scheme);
            route->fingerprint = ops->fingerprint(route->backend);
            r->n++;
            route->backend->pace = ldr_pace_new();
            if (!route->backend->pace)
                k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for the stores");
        } else if (k != LARDER_NO_MEMORY) { /* whatever it is, it is the configuration's fault */
            struct larder_err e = { .kind = k };

            if (err)
                e = *err;
            k = slot->line ? ldr_fail(err, LARDER_INVALID, "%s:%d: store \"%s\": %.400s", cfg->file, slot->line,
                                      slot->scheme, e.msg)
                           : ldr_fail(err, LARDER_INVALID, "store \"%s\": %.400s", slot->scheme, e.msg);
        }
    }
    if (k)
        ldr_routes_free(&r);
    else
        *out = r;
    return k;
}

void ldr_routes_free(struct ldr_routes **r)
{
    if (!*r)
        return;
    for (size_t i = 0; i < (*r)->n; i++) {
        ldr_pace_free(&(*r)->route[i].backend->pace);
        (*r)->route[i].backend->ops->close((*r)->route[i].backend);
    }
    free(*r);
    *r = NULL;
}

size_t ldr_routes_count(const struct ldr_routes *r)
{
    return r->n;
}

void ldr_routes_get(const struct ldr_routes *r, size_t i, const char **scheme, const char **kind, uint64_t *fingerprint)
{
    *kind = r->route[i].backend->ops->kind;
    *scheme = r->route[i].scheme;
    *fingerprint = r->route[i].fingerprint;
}

static enum larder_kind no_store(const struct ldr_routes *r, const char *scheme, struct larder_err *err)
{
    char have[128] = "";
    size_t n = 0;

    for (size_t i = 0; i < r->n && n + 32 < sizeof have; i++)
        n += (size_t)snprintf(have + n, sizeof have - n, "%s%s", i ? ", " : "", r->route[i].scheme);
    return ldr_fail(err, LARDER_INVALID, "no store is configured for scheme \"%s\" (there is: %s)", scheme, have);
}

static enum larder_kind name_of(const struct ldr_routes *r, const struct ldr_uri *uri, struct ldr_name **out,
                                struct larder_err *err)
{
    char text[LDR_URI_MAX + 1];
    const struct ldr_uri u = *uri;
    struct ldr_name *n;
    size_t i = 0, len;
    char *p;

    while (i < r->n && strcmp(r->route[i].scheme, u.scheme))
        i++;
    if (i == r->n)
        return no_store(r, u.scheme, err);
    len = ldr_uri_text(&u, text);
    n = malloc(sizeof *n + len + 1 + u.container_len + 1 + u.key_len + 1);
    if (!n)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a request");
    *n = (struct ldr_name){ .refs = 1, .backend = r->route[i].backend, .text_len = len };
    p = (char *)(n + 1);
    n->text = memcpy(p, text, len + 1);
    p += len + 1;
    n->container = memcpy(p, u.container, u.container_len);
    p[u.container_len] = '\0';
    p += u.container_len + 1;
    n->key = memcpy(p, u.key, u.key_len + 1);
    n->ikey_len = ldr_index_key(text, len, n->ikey);
    n->policy = ldr_cfg_prefix(r->cfg, text);
    *out = n;
    return LARDER_OK;
}

enum larder_kind ldr_route(const struct ldr_routes *r, const char *uri, struct ldr_name **out, struct larder_err *err)
{
    struct ldr_uri u;
    enum larder_kind k = ldr_uri_parse(uri, &u, err);

    return k ? k : name_of(r, &u, out, err);
}

enum larder_kind ldr_route_prefix(const struct ldr_routes *r, const char *uri, struct ldr_name **out,
                                  struct larder_err *err)
{
    struct ldr_uri u;
    enum larder_kind k = ldr_uri_parse_prefix(uri, &u, err);

    return k ? k : name_of(r, &u, out, err);
}

struct ldr_name *ldr_name_ref(struct ldr_name *n)
{
    atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
    return n;
}

void ldr_name_unref(struct ldr_name **n)
{
    if (*n && atomic_fetch_sub_explicit(&(*n)->refs, 1, memory_order_acq_rel) == 1)
        free(*n);
    *n = NULL;
}
