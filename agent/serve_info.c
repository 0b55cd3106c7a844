/* serve_info.c - what the agent says of itself and of an object. See serve.h. */
#include "agent/known.h"
#include "agent/reply.h"
#include "agent/serve_impl.h"
#include "common/clock.h"
#include "common/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct ldr_items *items_new(struct ldr_request *r)
{
    struct ldr_items *s = calloc(1, sizeof *s);
    struct larder_err e;

    if (!s)
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
    return s;
}

static void add_figures(struct ldr_domain *d, struct ldr_items *s)
{
    struct ldr_index_stats st;
    unsigned made, busy;

    ldr_index_stats(d->index, &st);
    ldr_ipc_usage(d->ipc, &made, &busy);
    ldr_items_add(s, "version", LDR_VERSION, 0);
    ldr_items_add(s, "pid", NULL, (uint64_t)getpid());
    ldr_items_add(s, "uptime_s", NULL, (uint64_t)((ldr_mono_ns() - d->started_ns) / LDR_NS_PER_S));
    ldr_items_add(s, "cache_dir", d->cfg->cache_dir, 0);
    ldr_items_add(s, "generation", NULL, d->dir->format.generation);
    ldr_items_add(s, "objects", NULL, st.objects);
    ldr_items_add(s, "bytes", NULL, atomic_load(&d->space.bytes));
    ldr_items_add(s, "max_size", NULL, d->space.max_bytes);
    ldr_items_add(s, "min_free", NULL, d->space.min_free_bytes);
    ldr_items_add(s, "min_free_inodes", NULL, d->space.min_free_inodes);
    ldr_items_add(s, "block_files", NULL, st.blocks);
    ldr_items_add(s, "block_bytes", NULL, st.block_bytes);
    ldr_items_add(s, "inline_bytes", NULL, st.inline_charge);
    ldr_items_add(s, "files", NULL, atomic_load(&d->space.files));
    ldr_items_add(s, "max_files", NULL, d->space.max_files);
    ldr_items_add(s, "unlinked_mapped_bytes", NULL, atomic_load(&d->space.unlinked_mapped));
    ldr_items_add(s, "contexts", NULL, made);
    ldr_items_add(s, "contexts_busy", NULL, busy);
}

static void add_prefixes(struct ldr_domain *d, struct ldr_items *s)
{
    const char *match;
    uint64_t hits, bytes;

    for (unsigned i = 0; (match = ldr_index_prefix_hits(d->index, i, &hits, &bytes)); i++) {
        ldr_items_add2(s, "hits.", *match ? match : "other", NULL, hits);
        ldr_items_add2(s, "hit_bytes.", *match ? match : "other", NULL, bytes);
    }
}

void ldr_serve_status(struct ldr_request *r)
{
    struct ldr_domain *d = r->domain;
    struct ldr_items *s = items_new(r);

    if (!s)
        return;
    add_figures(d, s);
    for (size_t i = 0; i < ldr_routes_count(d->routes); i++) {
        const char *scheme, *kind;
        uint64_t fingerprint;

        ldr_routes_get(d->routes, i, &scheme, &kind, &fingerprint);
        ldr_items_add2(s, "store.", scheme, kind, 0);
    }
#define LDR_COUNTER(name, help)                                                                                        \
    ldr_items_add(s, #name, NULL, atomic_load_explicit(&d->counters.name, memory_order_relaxed));
#include "agent/counters.tbl.h"
#undef LDR_COUNTER
    add_prefixes(d, s);
    ldr_reply_items(r, s);
    free(s);
}

/* ---------- why ---------- */

static const char *freshness_word(const struct ldr_prefix_cfg *p)
{
    switch (p->freshness) {
    case LDR_IMMUTABLE:
        return "immutable";
    case LDR_TTL:
        return "ttl";
    case LDR_REVALIDATE:
        return "always";
    }
    return "?";
}

static void add_record(struct ldr_domain *d, struct ldr_items *s, const struct ldr_record *rec, char id[33],
                       char etag[128])
{
    int64_t now = ldr_boot_ns();
    bool this_boot = rec->boot == ldr_index_boot(d->index);
    uint64_t blocks = ldr_record_blocks(rec);
    struct ldr_field f;
    uint8_t there[LDR_BLOCKS_MAX];

    ldr_hex(rec->id.b, sizeof rec->id.b, id);
    ldr_items_add(s, "object_id", id, 0);
    ldr_items_add(s, "size", NULL, rec->size_bytes);
    if (ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_ETAG, &f)) {
        snprintf(etag, 128, "%.*s", (int)(f.len < 127 ? f.len : 127), (const char *)f.p);
        ldr_items_add(s, "etag", etag, 0);
    }
    ldr_items_add(s, "kept_in", rec->flags & LDR_FLAG_INLINE ? "index" : "block files", 0);
    if (blocks) {
        ldr_items_add(s, "block_size", NULL, UINT64_C(1) << rec->block_log2);
        ldr_items_add(s, "blocks", NULL, blocks);
        ldr_items_add(s, "blocks_cached", NULL, ldr_reader_blocks(d->reader, &rec->id, 0, (uint32_t)blocks, there));
    }
    if (this_boot && now >= (int64_t)rec->validated_at_ns)
        ldr_items_add(s, "confirmed_s_ago", NULL, (uint64_t)(now - (int64_t)rec->validated_at_ns) / LDR_NS_PER_S);
    if (rec->fresh_until_ns == LDR_FRESH_ALWAYS)
        ldr_items_add(s, "fresh_for", "ever", 0);
    else if (this_boot && (uint64_t)now < rec->fresh_until_ns)
        ldr_items_add(s, "fresh_for_s", NULL, (rec->fresh_until_ns - (uint64_t)now) / LDR_NS_PER_S);
}

static const char *verdict(struct ldr_domain *d, const struct ldr_record *rec)
{
    if (!rec)
        return "not in the cache: the next read asks the store";
    if (!ldr_known_fresh(d, rec))
        return "in the cache and stale: the next read asks the store whether it is still the same";
    if (!ldr_known_range(d, rec, 0, 0))
        return "partly in the cache: a read of what is missing asks the store";
    return "in the cache and fresh: reads ask nobody";
}

void ldr_serve_why(struct ldr_request *r)
{
    struct ldr_domain *d = r->domain;
    char id[33], etag[128];
    struct ldr_record rec;
    struct larder_err e;
    struct ldr_items *s;
    uint64_t txnid;
    bool known;
    enum larder_kind k = ldr_route(d->routes, r->msg->why->key, &r->name, &e);

    if (k) {
        ldr_ipc_reply_fail(r, k, &e);
        return;
    }
    s = items_new(r);
    if (!s)
        return;
    known = ldr_known_find(d, r->name, &rec, &txnid);
    ldr_items_add(s, "verdict", verdict(d, known ? &rec : NULL), 0);
    ldr_items_add(s, "store", r->name->backend->ops->kind, 0);
    ldr_items_add(s, "prefix", r->name->policy->match ? r->name->policy->match : "(none matches)", 0);
    ldr_items_add(s, "freshness", freshness_word(r->name->policy), 0);
    if (r->name->policy->freshness == LDR_TTL)
        ldr_items_add(s, "ttl_s", NULL, (uint64_t)(r->name->policy->ttl_ns / LDR_NS_PER_S));
    if (known)
        add_record(d, s, &rec, id, etag);
    ldr_reply_items(r, s);
    free(s);
}
