/* agent.c - see agent.h: starts everything in order, stops it in the other. Main thread. */
#include "agent/agent.h"
#include "agent/flight.h"
#include "agent/ipc.h"
#include "agent/leftover.h"
#include "agent/upload.h"
#include "common/clock.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define POOL_THREADS       4
#define GOOD_RUN_NS        (60 * LDR_NS_PER_S)
#define QUIT_NS            (5 * LDR_NS_PER_S) /* for telling stores of uploads that are given up at the stop */
#define LEFTOVERS_PAUSE_MS (60 * 1000)

struct ldr_agent {
    struct ldr_cfg *cfg;
    struct ldr_pool *pool;
    struct ldr_net *nets[LDR_NETS_MAX];
    unsigned n_nets;
    struct ldr_domain domain; /* one is configured */
    bool good_run;            /* the count of starts was cleared */
};

static enum larder_kind start_threads(struct ldr_agent *a, struct larder_err *err)
{
    struct ldr_net_cfg nc = { .connections_per_host = a->cfg->connections_per_host };
    enum larder_kind k = ldr_pool_new(POOL_THREADS, &a->pool, err);

    while (!k && a->n_nets < a->cfg->net_threads && a->n_nets < LDR_NETS_MAX) {
        k = ldr_net_new(&nc, &a->nets[a->n_nets], err);
        if (!k)
            a->n_nets++;
    }
    return k;
}

/* Limits that are relative to the file system, as bytes. */
static enum larder_kind size_limits(struct ldr_domain *d, struct ldr_index_cfg *ic, struct larder_err *err)
{
    const struct ldr_cfg *cfg = d->cfg;
    struct statvfs v;

    if (fstatvfs(d->dir->dirfd, &v))
        return ldr_fail_sys(err, LARDER_IO, "could not ask for the size of the file system of \"%s\"", d->dir->path);
    d->space.dirfd = d->dir->dirfd;
    d->space.max_bytes = ldr_amount_resolve(&cfg->max_size, v.f_blocks * v.f_frsize);
    d->space.max_files = cfg->max_files;
    d->space.min_free_bytes = ldr_amount_resolve(&cfg->min_free, v.f_blocks * v.f_frsize);
    d->space.min_free_inodes = ldr_amount_resolve(&cfg->min_free_inodes, v.f_files);
    ic->inline_bytes = ldr_amount_resolve(&cfg->inline_size, d->space.max_bytes);
    ic->inline_limit = cfg->inline_limit;
    ic->block_size = cfg->block_size;
    ic->blocks = &d->blocks;
    ldr_log(LDR_INFO, "agent",
            "limits max_size=%" PRIu64 " max_files=%" PRIu64 " min_free=%" PRIu64 " inline_size=%" PRIu64,
            d->space.max_bytes, d->space.max_files, d->space.min_free_bytes, ic->inline_bytes);
    return LARDER_OK;
}

/* Schemes whose records were filled from another store than the one that is behind them now, or from one that is gone.
 */
static void changed_stores(struct ldr_domain *d, const char *drop[2 * LDR_FORMAT_STORES + 1])
{
    size_t n = 0;

    for (size_t i = 0; i < ldr_routes_count(d->routes) && i < LDR_FORMAT_STORES; i++) {
        const char *scheme, *kind;
        uint64_t fingerprint;

        ldr_routes_get(d->routes, i, &scheme, &kind, &fingerprint);
        if (!ldr_cache_dir_store(d->dir, scheme, fingerprint)) {
            ldr_log(LDR_WARN, "agent",
                    "another store is behind this scheme than before: its objects are dropped scheme=%s", scheme);
            drop[n++] = scheme;
        }
    }
    for (size_t i = 0; i < d->dir->before.n_stores; i++) {
        bool still = false;

        for (size_t j = 0; j < d->dir->format.n_stores; j++)
            still |= !strcmp(d->dir->before.stores[i].scheme, d->dir->format.stores[j].scheme);
        if (!still)
            drop[n++] = d->dir->before.stores[i].scheme;
    }
    drop[n] = NULL;
}

/* An index that LMDB cannot open is of no use: it was distrusted already, so a second try starts an empty one. */
static enum larder_kind open_cache(struct ldr_domain *d, struct larder_err *err)
{
    const struct ldr_cfg *cfg = d->cfg;
    const char *drop[2 * LDR_FORMAT_STORES + 1];
    struct ldr_index_cfg ic = { 0 };
    enum larder_kind k = LARDER_CORRUPT;

    for (int tries = 0; k == LARDER_CORRUPT && tries < 2; tries++) {
        ldr_index_close(&d->index);
        if (d->dir) {
            ldr_log(LDR_WARN, "agent", "the index is damaged, a new one is made reason=\"%s\"", err->msg);
            ldr_cache_dir_close(&d->dir);
        }
        k = ldr_cache_dir_open(cfg->cache_dir, cfg->has_group, cfg->group, &d->dir, err);
        ldr_blocks_release(&d->blocks);
        if (!k) {
            ldr_blocks_init(&d->blocks, d->dir, &d->space, d->pool);
            k = size_limits(d, &ic, err);
        }
        if (!k)
            k = ldr_index_open(d->dir, &d->space, &d->counters, &ic, &d->index, err);
        if (!k) {
            changed_stores(d, drop);
            k = ldr_index_repair(d->index, drop, err);
        }
    }
    return k;
}

static enum larder_kind start_domain(struct ldr_agent *a, struct ldr_domain *d, struct larder_err *err)
{
    enum larder_kind k;

    d->agent = a;
    d->cfg = a->cfg;
    d->pool = a->pool;
    d->started_ns = ldr_mono_ns();
    ldr_mailbox_init(&d->ipc_box, NULL, NULL);
    ldr_space_init(&d->space);
    k = ldr_routes_new(a->cfg, a->nets, a->n_nets, a->pool, &d->routes, err);
    if (!k)
        k = open_cache(d, err);
    if (k)
        return k;
    for (size_t i = 0; i < a->cfg->n_prefixes; i++)
        a->cfg->prefixes[i].slot = ldr_index_prefix_slot(d->index, a->cfg->prefixes[i].match);
    k = ldr_index_start(d->index, err);
    /* From here on clients may find the generation by its name. */
    if (!k)
        k = ldr_cache_dir_commit(d->dir, err);
    if (!k)
        k = ldr_reader_open(d->index, &d->reader, err);
    if (!k)
        k = ldr_flights_new(d, &d->flights, err);
    if (!k)
        k = ldr_uploads_new(d, &d->uploads, err);
    if (!k)
        ldr_leftovers_start(d, LEFTOVERS_PAUSE_MS);
    if (!k)
        k = ldr_ipc_new(d, &d->ipc, err);
    if (!k)
        k = ldr_sweep_start(&d->blocks, d->index, &d->sweep, err);
    return k;
}

enum larder_kind ldr_agent_start(struct ldr_cfg *cfg, struct ldr_agent **out, struct larder_err *err)
{
    struct ldr_agent *a = calloc(1, sizeof *a);
    enum larder_kind k;

    if (!a)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    a->cfg = cfg;
    k = start_threads(a, err);
    if (!k)
        k = start_domain(a, &a->domain, err);
    if (k) {
        ldr_agent_stop(&a);
        return k;
    }
    *out = a;
    return LARDER_OK;
}

const char *ldr_agent_socket(const struct ldr_agent *a)
{
    return ldr_ipc_path(a->domain.ipc);
}

void ldr_agent_tick(struct ldr_agent *a)
{
    struct larder_err e;

    ldr_ipc_watch(a->domain.ipc);
    ldr_index_tick(a->domain.index);
    ldr_blocks_tick(&a->domain.blocks);
    if (a->good_run || ldr_mono_ns() - a->domain.started_ns < GOOD_RUN_NS)
        return;
    a->good_run = true;
    if (ldr_cache_dir_mark(a->domain.dir, false, &e))
        ldr_log(LDR_WARN, "agent", "%s", e.msg);
}

/* The cache is left clean before the endpoint is closed, which may take its time. False: it stays open. */
static bool stop_domain(struct ldr_agent *a, struct ldr_domain *d)
{
    bool closed, served = d->ipc != NULL;
    struct larder_err e;

    if (d->ipc)
        ldr_ipc_quiesce(d->ipc);
    ldr_sweep_stop(&d->sweep);
    if (d->ipc)
        ldr_uploads_quit(d->uploads, ldr_mono_ns() + QUIT_NS);
    for (unsigned i = 0; i < a->n_nets; i++)
        ldr_net_shutdown(a->nets[i]); /* what waits for a store is answered CANCELLED now */
    ldr_space_release_all(&d->space); /* and what waits for room */
    if (d->ipc)
        ldr_ipc_stop(d->ipc);
    ldr_uploads_free(&d->uploads);
    ldr_flights_free(&d->flights);
    ldr_reader_close(&d->reader);
    if (d->index && ldr_index_stop(d->index, served, &e)) {
        ldr_log(LDR_WARN, "agent", "the cache is not marked clean reason=\"%s\"", e.msg);
        served = false;
    }
    ldr_pool_free(&a->pool); /* files on their way out go before the cache is called clean */
    if (d->index && served && ldr_cache_dir_mark(d->dir, true, &e))
        ldr_log(LDR_WARN, "agent", "%s", e.msg);
    closed = ldr_ipc_free(&d->ipc);
    ldr_index_close(&d->index);
    ldr_blocks_release(&d->blocks);
    for (unsigned i = 0; i < a->n_nets; i++)
        ldr_net_free(&a->nets[i]);
    ldr_routes_free(&d->routes);
    if (d->dir)
        ldr_cache_dir_close(&d->dir);
    return closed;
}

void ldr_agent_stop(struct ldr_agent **pa)
{
    struct ldr_agent *a = *pa;

    *pa = NULL;
    if (!a)
        return;
    if (a->domain.agent && !stop_domain(a, &a->domain))
        return; /* threads of the endpoint may still touch it */
    for (unsigned i = 0; i < a->n_nets; i++)
        ldr_net_free(&a->nets[i]);
    ldr_pool_free(&a->pool);
    if (a->domain.agent)
        ldr_mailbox_release(&a->domain.ipc_box);
    free(a);
}
