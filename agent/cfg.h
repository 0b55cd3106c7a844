/* cfg.h - the configuration: one YAML file, environment over it, defaults under it; validated whole.
 * Sections `storage` and `dataproxy` have Flyte's keys, `larder` has ours (docs/configuration.md, made from the same
 * table of settings). Every error names file, line, key and the accepted values; unknown keys are refused; a key that
 * is accepted but whose part is not built yet gives one warning. The result is read-only: a reload makes a new one. */
#ifndef LDR_CFG_H
#define LDR_CFG_H

#include "backends/backend.h"
#include "common/log.h"

#include <sys/types.h>

/* A size that may be relative to a total (the file system's; for inline_size, max_size). Both set: the smaller one. */
struct ldr_amount {
    uint64_t bytes; /* or a count, for inodes; 0: `percent` counts */
    double percent; /* of the total; 0: `bytes` counts */
};
/* What it amounts to. */
uint64_t ldr_amount_resolve(const struct ldr_amount *a, uint64_t total);

enum ldr_freshness { LDR_IMMUTABLE, LDR_TTL, LDR_REVALIDATE /* `always` */ };

struct ldr_prefix_cfg {
    char *match; /* "s3://bucket/" … compared with the canonical text */
    size_t match_len;
    enum ldr_freshness freshness;
    int64_t ttl_ns;
    bool skip_writes; /* what is written there does not go into the cache */
    int line;
    unsigned slot; /* of its counters in rw/touch; set when the agent starts */
};

struct ldr_store_slot {
    char *scheme;            /* "s3", "file", "mem", … */
    char *kind;              /* backend: "s3", "local", "memory" */
    char *container;         /* base container of the primary; NULL: none */
    struct ldr_pair *config; /* owned */
    size_t n_config;
    int line; /* of the section, 0: built-in default */
    bool primary;
};

struct ldr_cfg {
    char *file; /* NULL: none */
    /* storage */
    struct ldr_store_slot *stores; /* [0] is the primary; then one per scheme of `storage.schemes` */
    size_t n_stores;
    bool multicontainer; /* binds DataStore and data proxy alone */
    /* larder.cache, .endpoint, .access */
    char *cache_dir;
    char *endpoint; /* directory of the socket */
    struct ldr_amount max_size, min_free, min_free_inodes, inline_size;
    uint64_t max_files, block_size;
    uint32_t inline_limit;
    bool has_group;
    gid_t group;
    /* larder.prefixes, longest match first */
    struct ldr_prefix_cfg *prefixes;
    size_t n_prefixes;
    /* larder.net, .log */
    unsigned net_threads, connections_per_host;
    enum ldr_log_level log_level;
    bool log_json;
    /* what a person should know: settings accepted but not built yet, defaults that were chosen by looking around */
    char **warnings;
    size_t n_warnings;
    struct ldr_cfg_origin *origins; /* cfg.c's own: where each setting came from */
};

/* Load: `file` NULL: $LARDER_CONFIG, else /etc/larder/larder.yaml if it exists, else no file at all (a local store and
 * a cache below the XDG folders). `env` is environ, or what a test wants to be seen; NULL: nothing. Settings of a store
 * (config) are carried as they are, with their lines: its backend checks them. INVALID: every error found, each ended
 * by a newline, in *errors (owned by the caller, free(); else NULL; `errors` may be NULL), the first also in *err. IO:
 * the file cannot be read. Any thread. */
enum larder_kind ldr_cfg_load(const char *file, char *const *env, struct ldr_cfg **out, char **errors,
                              struct larder_err *err);
/* The same for the `len` bytes of `text`, called `name` in messages; `text` NULL: no file at all. */
enum larder_kind ldr_cfg_parse(const char *name, const char *text, size_t len, char *const *env, struct ldr_cfg **out,
                               char **errors, struct larder_err *err);
void ldr_cfg_free(struct ldr_cfg **cfg); /* and wipe */

/* The effective configuration as YAML, with the source of each value (file:line, environment, default) as a comment.
 * Secrets are shown as "(set)". What belongs to no part of this release is left out. Owned by the caller, free(); NULL:
 * out of memory. */
char *ldr_cfg_explain(const struct ldr_cfg *cfg);

/* The policy for a canonical text: its longest matching prefix; none: ttl 60s. Never NULL. */
const struct ldr_prefix_cfg *ldr_cfg_prefix(const struct ldr_cfg *cfg, const char *uri);

#endif
