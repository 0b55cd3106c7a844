/* cfg_impl.h - inside the configuration: a YAML text as a tree, the types of settings, the table. For cfg*.c and their
 * tests alone. Nothing here outlives the call that made it, but the table, which is constant. Any thread.
 * The agent has no use for a configuration that it could not hold: without memory these abort. */
#ifndef LDR_CFG_IMPL_H
#define LDR_CFG_IMPL_H

#include "agent/cfg.h"
#include "common/buf.h"

#include <stdlib.h>

#define CFG_FILE_MAX  LDR_MIB
#define CFG_DEPTH_MAX 32
#define CFG_ITEMS_MAX 4096 /* of one map or list */

static inline void *cfg_must(void *p)
{
    if (!p)
        abort();
    return p;
}

/* ---- cfg_yaml.c: text to tree ---- */

enum cfg_node_kind {
    CFG_NULL, /* nothing, `~` or `null` */
    CFG_SCALAR,
    CFG_MAP,
    CFG_LIST,
    CFG_BROKEN, /* complained about already: to be skipped */
};

struct cfg_node {
    enum cfg_node_kind kind;
    int line;               /* from 1: of its name, where it has one; 0: of an empty document */
    char *key;              /* in a map: its name; owned, holds no NUL */
    char *text;             /* scalar; owned, holds no NUL */
    struct cfg_node *items; /* map, list; owned */
    size_t n, room;
};

/* One complaint, about line `line` (0: none) and the path of keys `key` (NULL: none). */
typedef void cfg_complain_fn(void *user, int line, const char *key, const char *text);

/* Parse one YAML document of `len` bytes; an empty one is CFG_NULL. Aliases, duplicate keys, tags, several documents,
 * more than CFG_DEPTH_MAX levels or CFG_ITEMS_MAX items are complained about, one by one. False: what is in `root` is
 * no whole tree, and checking it would only mislead. `root` is ended by cfg_tree_release() either way. */
bool cfg_tree_parse(const char *text, size_t len, struct cfg_node *root, cfg_complain_fn *complain, void *user);
void cfg_tree_release(struct cfg_node *root); /* wipes every text */
void cfg_wipe(char **text);                   /* wipe and free a string; NULL stays */

/* ---- cfg_value.c: text to value ---- */

enum cfg_type {
    CFG_TEXT,
    CFG_PATH,     /* absolute */
    CFG_SIZE,     /* 8MiB, 500MB, 4096 */
    CFG_AMOUNT,   /* a size, a percentage, min(size,percentage) */
    CFG_SHARE,    /* the same of countable things */
    CFG_COUNT,    /* between min and max */
    CFG_DURATION, /* Go's: 1h30m */
    CFG_BOOL,
    CFG_CHOICE,    /* one of `choices` */
    CFG_QUANTITY,  /* Kubernetes': 100Mi */
    CFG_GROUP,     /* name or number */
    CFG_LISTEN,    /* host:port */
    CFG_FRESHNESS, /* immutable, ttl D, always */
    CFG_TEXTS,     /* map: name to text */
    CFG_HEADERS,   /* map: name to list of texts */
    CFG_MAPS,      /* map: name to map of settings */
    CFG_MAPLIST,   /* list of maps of settings */
    CFG_TYPES
};

#define CFG_LATER  1u /* accepted and checked; its part is not built yet: one warning */
#define CFG_SECRET 2u /* its text is never shown */
#define CFG_POW2   4u
#define CFG_SIGNED 8u /* a duration that may be negative */

struct cfg_setting {
    const char *key; /* "larder.cache.max_size"; in it NAME stands for any name, [] for any item of a list */
    enum cfg_type type;
    const char *def;      /* as one would write it; NULL: none. CACHE, $XDG_…: see cfg.c */
    const char *def_bare; /* without a file, where that differs; else NULL */
    const char *choices;  /* "a|b|c" */
    uint64_t min, max;    /* size, count */
    unsigned flags;
    const char *doc; /* one line of Markdown */
};

struct cfg_value {
    uint64_t n; /* size, count, choice (its place), group, bool */
    int64_t ns;
    struct ldr_amount amount;
    enum ldr_freshness freshness;
};

/* The value of a scalar's text, of any type up to CFG_FRESHNESS. False: `why` (of `cap` bytes) completes the sentence
 * `"TEXT" …`: `is not a size (10GiB, 500MB)`. */
bool cfg_value_parse(const struct cfg_setting *s, const char *text, struct cfg_value *out, char *why, size_t cap);
const char *cfg_type_name(enum cfg_type type);
/* What may be written, for messages: "10GiB, 500MB, 20%". */
void cfg_accepts(const struct cfg_setting *s, char *out, size_t cap);
/* A text of a user for a message: cut at 60 bytes, nothing that a terminal would obey. */
#define CFG_SHOWN 80
/* Is the character at `p` a control character of the second set (U+0080 to U+009F, two bytes in UTF-8)? */
static inline bool cfg_is_c1(const char *p)
{
    return (unsigned char)p[0] == 0xC2 && ((unsigned char)p[1] & 0xE0) == 0x80;
}
const char *cfg_show(const char *text, char out[CFG_SHOWN]);
/* A key likewise, and only up to a blank, `:` or `=`: `secret_key=abc` in the place of a key tells no secret. */
const char *cfg_show_key(const char *key, char out[CFG_SHOWN]);
/* The shortest Go text of a duration in whole units: "90m", "60s" as "1m". */
void cfg_duration_print(int64_t ns, char out[32]);

/* ---- cfg.c ---- */

enum { /* the places of the settings in the table */
#define LDR_SETTING(id, ...) SET_##id,
#include "agent/settings.tbl.h"
#undef LDR_SETTING
       CFG_SETTINGS
};

const struct cfg_setting *cfg_settings(void); /* CFG_SETTINGS rows */
/* The environment variable of a setting, "LARDER_CACHE_DIR", into `out`; false: it has none. */
#define CFG_ENV_NAME_MAX 64
bool cfg_env_name(const struct cfg_setting *s, char out[CFG_ENV_NAME_MAX]);

/* Where a value came from. */
enum cfg_source { CFG_FROM_DEFAULT, CFG_FROM_FILE, CFG_FROM_ENV };
struct ldr_cfg_origin {
    char *text; /* owned; NULL: none, not a scalar, or not to be shown */
    enum cfg_source source;
    int line;
};

/* May the value of this name in a `config` map be shown? Only names that are known to hold no secret. */
bool cfg_pair_is_public(const char *name);

#endif
