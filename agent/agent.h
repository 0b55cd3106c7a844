/* agent.h - struct ldr_agent: every thread, what each owns, the order of start and stop.
 *
 * Threads and what they own
 *   main   signals; the cache directory's `format`
 *   ipc    endpoint, requests, flights, uploads (one a domain)
 *   net    libcurl and the backends' requests
 *   index  data.mdb, snapshots (one a domain)
 *   pool   nothing of its own: blocking work on what others hand it
 * Start: pool, net, routes, directory, index (repaired, then published), ipc. Stop: the other way round.
 * A domain is one trust domain: one endpoint, one cache directory, one policy, one group. One is configured. */
#ifndef LDR_AGENT_H
#define LDR_AGENT_H

#include "agent/blocks.h"
#include "agent/cfg.h"
#include "agent/counters.h"
#include "agent/index.h"
#include "agent/route.h"

#define LDR_NETS_MAX 64 /* of larder.net.threads: settings.tbl.h */

struct ldr_agent;
struct ldr_flights;
struct ldr_uploads;
struct ldr_ipc;

struct ldr_domain {
    /* set once, before the domain's threads start */
    struct ldr_agent *agent;
    const struct ldr_cfg *cfg;
    struct ldr_cache_dir *dir;
    struct ldr_index *index;
    struct ldr_routes *routes;
    struct ldr_pool *pool;
    struct ldr_sweep *sweep;
    int64_t started_ns; /* CLOCK_MONOTONIC */
    /* their own rules: any thread */
    struct ldr_space space;
    struct ldr_counters counters;
    struct ldr_blocks blocks;
    struct ldr_mailbox ipc_box; /* tasks for the ipc thread */
    /* ipc thread */
    struct ldr_ipc *ipc;
    struct ldr_flights *flights;
    struct ldr_uploads *uploads;
    struct ldr_reader *reader;
    int64_t no_room_until_ns; /* a load found no room: until then pieces are read past the cache. CLOCK_MONOTONIC */
    unsigned lone_changes;    /* handed to the index for nobody's request: serve.c */
};

/* Start everything. The kind says what went wrong (see ldr_cache_dir_open, ldr_routes_new, ldr_index_open,
 * ldr_ipc_new). `cfg` is borrowed until ldr_agent_stop(); its prefixes get their slots. Main thread. */
enum larder_kind ldr_agent_start(struct ldr_cfg *cfg, struct ldr_agent **out, struct larder_err *err);
/* Once a second, main thread: looks after the endpoint; after a good minute the count of starts begins anew. */
void ldr_agent_tick(struct ldr_agent *a);
/* Answer what waits with CANCELLED, stop all threads, leave a clean cache. Main thread. */
void ldr_agent_stop(struct ldr_agent **a);
const char *ldr_agent_socket(const struct ldr_agent *a); /* path, for the log */

#endif
