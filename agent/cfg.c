/* cfg.c - the configuration (cfg.h): what a tree of YAML and the environment say, checked against the table of settings
 * (settings.tbl.h), becomes a struct ldr_cfg. Everything is looked at before anything is given up, so that one run
 * tells all errors. On its way: cfg_yaml.c text to tree · cfg_value.c text to value · cfg_explain.c the way back. Any
 * thread. */
#include "agent/cfg.h"
#include "agent/cfg_impl.h"
#include "common/clock.h"
#include "common/layout.h"
#include "common/uri.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ERRORS_MAX   100 /* more are counted */
#define KEY_MAX      256 /* bytes of a path of keys; a longer one is cut, and so unknown */
#define SOCKET_MAX   90  /* bytes of the path of the agent's socket: sun_path has 108 */
#define DEFAULT_FILE "/etc/larder/larder.yaml"

static const struct cfg_setting settings[CFG_SETTINGS] = {
#define LDR_SETTING(id, key, type, def, bare, choices, min, max, flags, doc)                                           \
    [SET_##id] = { key, CFG_##type, def, bare, choices, min, max, flags, doc },
#include "agent/settings.tbl.h"
#undef LDR_SETTING
};

/* The stores of Flyte: the word in `stow.kind`, our backend (NULL: not in this release), the scheme. */
static const struct store_kind {
    const char *word, *kind, *scheme;
} store_kinds[] = {
    { "s3", "s3", "s3" },     { "local", "local", "file" }, { "mem", "memory", "mem" },
    { "google", NULL, "gs" }, { "azure", NULL, "abfs" },    { "azure", NULL, "abfss" },
    { "oracle", NULL, "os" }, { "swift", NULL, "sw" },      { "redis", NULL, "redis" },
};

/* What was given for a setting. */
struct given {
    bool set;
    bool bad; /* written, but complained about: the default stands in, and no other complaint should follow from that */
    enum cfg_source source;
    int line;
    const char *text;            /* of a scalar; borrowed from tree, environment or origin; "" for one that is null */
    const struct cfg_node *node; /* of a map or list; borrowed from the tree */
    struct cfg_value value;
};

struct complaint {
    int line;
    size_t seq;
    char *text; /* owned */
};

struct reader {
    const char *name; /* of the file, NULL: there is none */
    char *const *env; /* never NULL */
    struct ldr_cfg *cfg;
    struct cfg_node tree, prefix_tree, domain_tree; /* the file; lists given by environment */
    const struct cfg_node *storage;                 /* section, NULL: none or empty */
    struct given given[CFG_SETTINGS];
    struct complaint errors[ERRORS_MAX];
    size_t n_errors, n_more;
};

/* Where something was given: in a line of the file, or (env set) by the variable of that setting. */
struct spot {
    const struct cfg_setting *env;
    int line;
};

const struct cfg_setting *cfg_settings(void)
{
    return settings;
}

/* ---- complaints ---- */

static char *message(const struct reader *r, struct spot at, const char *key, const char *fmt, va_list ap)
{
    char what[512], where[CFG_ENV_NAME_MAX] = "", line[16] = "";
    const char *name = r->name ? r->name : "";
    char *out;

    vsnprintf(what, sizeof what, fmt, ap);
    if (at.env) {
        cfg_env_name(at.env, where);
        name = "environment ";
    }
    if (at.line)
        snprintf(line, sizeof line, ":%d", at.line);
    if (asprintf(&out, "%s%s%s%s%s%s%s", name, where, line, *name ? ": " : "", key ? key : "", key ? ": " : "", what) <
        0)
        abort();
    for (char *p = out; *p; p++) /* one message, one line, whatever the names hold */
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
    return out;
}

static void complain(struct reader *r, struct spot at, const char *key, const char *fmt, ...) LDR_PRINTF(4, 5);
static void complain(struct reader *r, struct spot at, const char *key, const char *fmt, ...)
{
    va_list ap;

    if (r->n_errors == ERRORS_MAX) {
        r->n_more++;
        return;
    }
    va_start(ap, fmt);
    r->errors[r->n_errors] =
        (struct complaint){ at.env ? INT32_MAX : at.line, r->n_errors, message(r, at, key, fmt, ap) };
    r->n_errors++;
    va_end(ap);
}

static void warn(struct reader *r, struct spot at, const char *key, const char *fmt, ...) LDR_PRINTF(4, 5);
static void warn(struct reader *r, struct spot at, const char *key, const char *fmt, ...)
{
    struct ldr_cfg *c = r->cfg;
    va_list ap;

    va_start(ap, fmt);
    c->warnings = cfg_must(reallocarray(c->warnings, c->n_warnings + 1, sizeof *c->warnings));
    c->warnings[c->n_warnings++] = message(r, at, key, fmt, ap);
    va_end(ap);
}

static struct spot in_line(int line)
{
    return (struct spot){ .line = line };
}

static struct spot spot_of(const struct given *g, const struct cfg_setting *s)
{
    return (struct spot){ .env = g->source == CFG_FROM_ENV ? s : NULL, .line = g->line };
}

static int by_line(const void *a, const void *b)
{
    const struct complaint *x = a, *y = b;

    return x->line != y->line ? (x->line < y->line ? -1 : 1) : (x->seq < y->seq ? -1 : 1);
}

/* ---- names ---- */

static const char *env_get(const struct reader *r, const char *name)
{
    size_t len = strlen(name);

    for (char *const *e = r->env; *e; e++)
        if (!strncmp(*e, name, len) && (*e)[len] == '=')
            return (*e)[len + 1] ? *e + len + 1 : NULL; /* empty is as good as not set */
    return NULL;
}

bool cfg_env_name(const struct cfg_setting *s, char out[CFG_ENV_NAME_MAX])
{
    size_t n = 0;

    if (strncmp(s->key, "larder.", 7) || strchr(s->key, '['))
        return false;
    for (; s->key[n] && n + 1 < CFG_ENV_NAME_MAX; n++)
        out[n] = s->key[n] == '.' ? '_' : (char)(s->key[n] >= 'a' && s->key[n] <= 'z' ? s->key[n] - 32 : s->key[n]);
    out[n] = '\0';
    return true;
}

static int lower(int c)
{
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
}

/* How many letters one has to change, add or drop; case does not count. Far apart when either is long. */
static size_t distance(const char *a, const char *b)
{
    size_t row[65], n = strlen(b);

    if (n > 64 || strlen(a) > 64)
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (lower(a[i - 1]) != lower(b[j - 1]));

            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

/* Near enough to be what was meant? */
static bool nearer(const char *word, const char *name, size_t *best)
{
    size_t d = distance(word, name);

    if (d >= *best || d > 1 + strlen(name) / 4)
        return false;
    *best = d;
    return true;
}

/* The name below the section `path` ("" is the top) that `key` passes through; false: it lies elsewhere. */
static bool name_below(const char *key, const char *path, char out[KEY_MAX])
{
    size_t len = strlen(path);

    if (len) {
        if (strncmp(key, path, len) || key[len] != '.')
            return false;
        key += len + 1;
    }
    snprintf(out, KEY_MAX, "%.*s", (int)strcspn(key, ".["), key);
    return true;
}

static bool is_section(const char *path)
{
    char name[KEY_MAX];

    for (size_t i = 0; i < CFG_SETTINGS; i++)
        if (name_below(settings[i].key, path, name))
            return true;
    return false;
}

static void unknown_key(struct reader *r, struct spot at, const struct cfg_node *node, const char *path,
                        const char *shown)
{
    char near[KEY_MAX] = "", all[400] = "", last[KEY_MAX] = "", name[KEY_MAX], key[CFG_SHOWN], full[KEY_MAX];
    size_t best = SIZE_MAX, n = 0;

    for (size_t i = 0; i < CFG_SETTINGS; i++) {
        if (!name_below(settings[i].key, path, name) || !strcmp(name, last))
            continue;
        if (nearer(node->key, name, &best))
            strcpy(near, name);
        if (n < sizeof all)
            n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", n ? ", " : "", name);
        strcpy(last, name);
    }
    /* right name, wrong place */
    for (size_t i = 0; i < CFG_SETTINGS && !*near; i++) {
        const char *tail = strrchr(settings[i].key, '.');

        if (!strcasecmp(tail + 1, node->key) && !strchr(settings[i].key, '['))
            snprintf(near, sizeof near, "%s", settings[i].key);
    }
    snprintf(full, sizeof full, "%s%s%s", shown, *shown ? "." : "", cfg_show_key(node->key, key));
    if (*near)
        complain(r, at, full, "unknown key; did you mean \"%s\"?", near);
    else
        complain(r, at, full, "unknown key (%s)", all);
}

/* ---- the file: tree to what was given ---- */

static const char *kind_name(enum cfg_node_kind kind)
{
    return kind == CFG_MAP ? "a map" : kind == CFG_LIST ? "a list" : kind == CFG_NULL ? "nothing" : "a text";
}

/* Is every item of a map such as `config` what it has to be? */
static bool check_items(struct reader *r, const struct cfg_setting *s, const char *shown, const struct cfg_node *node)
{
    size_t before = r->n_errors + r->n_more;
    char key[CFG_SHOWN];

    for (size_t i = 0; i < node->n; i++) {
        const struct cfg_node *item = &node->items[i];

        if (item->key && !*item->key)
            complain(r, in_line(item->line), shown, "a name is empty");
        if (s->type == CFG_TEXTS && (item->kind == CFG_MAP || item->kind == CFG_LIST))
            complain(r, in_line(item->line), shown, "\"%s\" is %s, where a text is accepted",
                     cfg_show_key(item->key, key), kind_name(item->kind));
        if (s->type != CFG_HEADERS || item->kind == CFG_NULL || item->kind == CFG_BROKEN)
            continue;
        if (item->kind != CFG_LIST)
            complain(r, in_line(item->line), shown, "\"%s\" is %s, where a list of texts is accepted",
                     cfg_show_key(item->key, key), kind_name(item->kind));
        for (size_t j = 0; item->kind == CFG_LIST && j < item->n; j++)
            if (item->items[j].kind != CFG_SCALAR && item->items[j].kind != CFG_BROKEN)
                complain(r, in_line(item->items[j].line), shown, "\"%s\" has %s in its list, where texts are accepted",
                         cfg_show_key(item->key, key), kind_name(item->items[j].kind));
    }
    return before == r->n_errors + r->n_more;
}

/* Take `text`, a scalar's, for a setting. */
static void give_text(struct reader *r, const struct cfg_setting *s, const char *shown, struct spot at,
                      const char *text, struct given *g)
{
    char why[256], value[CFG_SHOWN];
    struct cfg_value v;

    if (!cfg_value_parse(s, text, &v, why, sizeof why)) {
        if (s->flags & CFG_SECRET)
            complain(r, at, shown, "the value %s", why);
        else
            complain(r, at, shown, "\"%s\" %s", cfg_show(text, value), why);
        g->bad = true;
        return;
    }
    *g = (struct given){
        .set = true, .source = at.env ? CFG_FROM_ENV : CFG_FROM_FILE, .line = at.line, .text = text, .value = v
    };
    if (s->flags & CFG_LATER)
        warn(r, at, shown, "accepted, not used by this release");
}

/* Take a node of the tree for a setting. `at.env`: the tree is the value of a variable. */
static void give_node(struct reader *r, const struct cfg_setting *s, const char *shown, struct spot at,
                      const struct cfg_node *node, struct given *g)
{
    enum cfg_node_kind want = s->type == CFG_MAPLIST ? CFG_LIST : s->type >= CFG_TEXTS ? CFG_MAP : CFG_SCALAR;
    char accepts[160];

    g->bad = true;
    if (node->kind == CFG_BROKEN)
        return;
    cfg_accepts(s, accepts, sizeof accepts);
    if (node->kind == CFG_NULL && want == CFG_SCALAR && s->type != CFG_TEXT) {
        complain(r, at, shown, "has no value (%s)", accepts);
    } else if (node->kind != want && node->kind != CFG_NULL) { /* the value is not shown: who knows what it was to be */
        complain(r, at, shown, "is %s, where %s is accepted (%s)", kind_name(node->kind), kind_name(want), accepts);
    } else if (want == CFG_SCALAR) {
        give_text(r, s, shown, at, node->text ? node->text : "", g);
    } else if (node->kind == CFG_NULL) { /* an empty map or list, as if left out */
        g->bad = false;
    } else if (check_items(r, s, shown, node)) {
        *g = (struct given){
            .set = true, .source = at.env ? CFG_FROM_ENV : CFG_FROM_FILE, .line = at.line, .node = node
        };
        if (s->flags & CFG_LATER)
            warn(r, at, shown, "accepted, not used by this release");
    }
}

/* Read one section: `path` as in the table, `shown` as in the file. */
static void read_section(struct reader *r, const struct cfg_node *map, const char *path, const char *shown,
                         struct spot at, struct given *given)
{
    if (map->kind == CFG_NULL || map->kind == CFG_BROKEN)
        return;
    if (map->kind != CFG_MAP) {
        complain(r, at, shown, "is %s, where a map of settings is accepted", kind_name(map->kind));
        return;
    }
    for (size_t i = 0; i < map->n; i++) {
        const struct cfg_node *node = &map->items[i];
        struct spot here = { .env = at.env, .line = node->line };
        char key[KEY_MAX], full[KEY_MAX], name[CFG_SHOWN];
        size_t row = 0;

        snprintf(key, sizeof key, "%s.%s", path, node->key);
        snprintf(full, sizeof full, "%s.%s", shown, cfg_show_key(node->key, name));
        while (row < CFG_SETTINGS && strcmp(settings[row].key, key))
            row++;
        if (strpbrk(node->key, ".[")) /* a path in one key would be a second way to write a setting */
            unknown_key(r, here, node, path, shown);
        else if (row < CFG_SETTINGS)
            give_node(r, &settings[row], full, here, node, &given[row]);
        else if (is_section(key))
            read_section(r, node, key, full, here, given);
        else
            unknown_key(r, here, node, path, shown);
    }
}

/* The whole file. Flyte registers `Storage` and does not look at case, so neither do we, for sections. */
static void read_file(struct reader *r)
{
    static const char *const sections[] = { "storage", "dataproxy", "larder" };
    const struct cfg_node *seen[LDR_ARRAY_LEN(sections)] = { NULL };

    if (r->tree.kind != CFG_MAP && r->tree.kind != CFG_NULL && r->tree.kind != CFG_BROKEN)
        complain(r, in_line(r->tree.line), NULL,
                 "is %s, where a map of sections is accepted (storage, dataproxy, larder)", kind_name(r->tree.kind));
    for (size_t i = 0; i < r->tree.n && r->tree.kind == CFG_MAP; i++) {
        const struct cfg_node *node = &r->tree.items[i];
        size_t s = 0;

        while (s < LDR_ARRAY_LEN(sections) && strcasecmp(sections[s], node->key))
            s++;
        if (s == LDR_ARRAY_LEN(sections)) {
            unknown_key(r, in_line(node->line), node, "", "");
        } else if (seen[s] && strcmp(seen[s]->key, node->key)) { /* the very same name: cfg_yaml.c has complained */
            complain(r, in_line(node->line), node->key, "section \"%s\" is there already, in line %d", sections[s],
                     seen[s]->line);
        } else {
            seen[s] = node;
            read_section(r, node, sections[s], sections[s], in_line(node->line), r->given);
        }
    }
    if (seen[0] && seen[0]->n)
        r->storage = seen[0];
}

/* ---- the environment over it ---- */

struct tree_user {
    struct reader *r;
    const struct cfg_setting *env; /* NULL: the file */
};

static void on_tree_complaint(void *user, int line, const char *key, const char *text)
{
    const struct tree_user *u = user;
    char full[KEY_MAX * 2];

    snprintf(full, sizeof full, "%s%s", u->env ? u->env->key : "", key ? key : "");
    complain(u->r, (struct spot){ u->env, line }, *full ? full : NULL, "%s", text);
}

static void unknown_variable(struct reader *r, const char *name, size_t len)
{
    char word[CFG_ENV_NAME_MAX], near[CFG_ENV_NAME_MAX] = "", known[CFG_ENV_NAME_MAX], shown[CFG_SHOWN];
    size_t best = SIZE_MAX;

    snprintf(word, sizeof word, "%.*s", (int)(len < sizeof word ? len : sizeof word - 1), name);
    for (size_t i = 0; i < CFG_SETTINGS; i++)
        if (cfg_env_name(&settings[i], known) && nearer(word, known, &best))
            strcpy(near, known);
    warn(r, in_line(0), NULL, "environment %s: no such setting%s%s%s", cfg_show(word, shown),
         *near ? "; did you mean " : "", near, *near ? "?" : "");
}

static void read_env(struct reader *r)
{
    for (char *const *e = r->env; *e; e++) {
        const char *eq = strchr(*e, '=');
        char name[CFG_ENV_NAME_MAX];
        size_t i = 0;

        if (strncmp(*e, "LARDER_", 7) || !eq || !eq[1] || !strncmp(*e, "LARDER_CONFIG=", 14))
            continue;
        while (i < CFG_SETTINGS && (!cfg_env_name(&settings[i], name) || strlen(name) != (size_t)(eq - *e) ||
                                    strncmp(name, *e, strlen(name))))
            i++;
        if (i == CFG_SETTINGS) {
            unknown_variable(r, *e, (size_t)(eq - *e));
        } else if (r->given[i].set && r->given[i].source == CFG_FROM_ENV) {
            /* the same name twice: the first counts, as with getenv() */
            continue;
        } else if (settings[i].type == CFG_MAPLIST) { /* lists are written as in the file */
            struct cfg_node *tree = i == SET_PREFIXES ? &r->prefix_tree : &r->domain_tree;
            struct tree_user user = { r, &settings[i] };

            cfg_tree_release(tree);
            if (cfg_tree_parse(eq + 1, strlen(eq + 1), tree, on_tree_complaint, &user))
                give_node(r, &settings[i], settings[i].key, (struct spot){ &settings[i], tree->line }, tree,
                          &r->given[i]);
        } else {
            give_text(r, &settings[i], settings[i].key, (struct spot){ .env = &settings[i] }, eq + 1, &r->given[i]);
        }
    }
}

/* ---- the defaults under it ---- */

/* $XDG_CACHE_HOME/… and $XDG_DATA_HOME/… (without them below $HOME), CACHE/…; owned by the caller, NULL: nobody knows.
 */
static char *expand(const struct reader *r, const char *text)
{
    static const struct {
        const char *var, *below_home;
    } dirs[] = { { "XDG_CACHE_HOME", "/.cache" }, { "XDG_DATA_HOME", "/.local/share" } };
    const char *rest = strchr(text, '/'), *base = "", *middle = "";
    char *out;

    if (!strncmp(text, "CACHE/", 6)) {
        base = r->cfg->cache_dir;
    } else if (*text == '$') {
        size_t i = strncmp(text + 1, dirs[0].var, strlen(dirs[0].var)) ? 1 : 0;

        base = env_get(r, dirs[i].var);
        if (!base || *base != '/') { /* the XDG rules: a relative one is ignored */
            base = env_get(r, "HOME");
            middle = dirs[i].below_home;
        }
        if (!base || *base != '/')
            return NULL;
    } else {
        rest = text;
    }
    if (asprintf(&out, "%s%s%s", base, middle, rest) < 0)
        abort();
    return out;
}

static char *dup_path(const char *path)
{
    char *out = cfg_must(strdup(path));

    for (size_t n = strlen(out); n > 1 && out[n - 1] == '/'; n--)
        out[n - 1] = '\0';
    return out;
}

/* The value of a setting: what was given, else its default. Keeps its text and origin for ldr_cfg_explain(). */
static const struct cfg_value *take(struct reader *r, int id)
{
    const struct cfg_setting *s = &settings[id];
    struct ldr_cfg_origin *o = &r->cfg->origins[id];
    struct given *g = &r->given[id];
    char why[256];

    if (g->set) {
        *o = (struct ldr_cfg_origin){ cfg_must(strdup(g->text)), g->source, g->line };
        return &g->value;
    }
    o->text = s->def ? expand(r, !r->name && s->def_bare ? s->def_bare : s->def) : NULL;
    if (o->text) {
        bool ok = cfg_value_parse(s, o->text, &g->value, why, sizeof why);

        if (!ok) /* our own defaults are good: what was put in front of one is not */
            complain(r, in_line(0), s->key, "the default is not usable: %s", why);
        g->text = o->text;
    } else if (s->def) {
        complain(r, in_line(0), s->key, "has no default here, as HOME is not set");
    }
    return &g->value;
}

static void take_values(struct reader *r)
{
    struct ldr_cfg *c = r->cfg;
    const struct cfg_setting *s = &settings[SET_ENDPOINT];
    size_t len;

    take(r, SET_DIR);
    c->cache_dir = dup_path(r->given[SET_DIR].text ? r->given[SET_DIR].text : "/");
    take(r, SET_ENDPOINT); /* after the directory, which it begins with */
    c->endpoint = dup_path(r->given[SET_ENDPOINT].text);
    len = strlen(c->endpoint) + strlen("/" LDR_NAME_SOCKET);
    if (len > SOCKET_MAX)
        complain(r,
                 spot_of(&r->given[r->given[SET_ENDPOINT].set ? SET_ENDPOINT : SET_DIR],
                         r->given[SET_ENDPOINT].set ? s : &settings[SET_DIR]),
                 s->key, "the socket \"%s/" LDR_NAME_SOCKET "\" has a path of %zu bytes (at most %d)", c->endpoint, len,
                 SOCKET_MAX);

    c->max_size = take(r, SET_MAX_SIZE)->amount;
    c->min_free = take(r, SET_MIN_FREE)->amount;
    c->min_free_inodes = take(r, SET_MIN_FREE_INODES)->amount;
    c->inline_size = take(r, SET_INLINE_SIZE)->amount;
    c->max_files = take(r, SET_MAX_FILES)->n;
    c->block_size = take(r, SET_BLOCK_SIZE)->n;
    c->inline_limit = (uint32_t)take(r, SET_INLINE_LIMIT)->n;
    c->group = (gid_t)take(r, SET_GROUP)->n;
    c->has_group = r->given[SET_GROUP].set;
    c->net_threads = (unsigned)take(r, SET_NET_THREADS)->n;
    c->connections_per_host = (unsigned)take(r, SET_NET_CONNS)->n;
    c->log_level = (enum ldr_log_level)take(r, SET_LOG_LEVEL)->n; /* the choices stand in the order of the enum */
    c->log_json = take(r, SET_LOG_FORMAT)->n == 1;
}

/* ---- stores ---- */

static struct ldr_store_slot *add_slot(struct ldr_cfg *c, const struct store_kind *k, int line)
{
    c->stores = cfg_must(reallocarray(c->stores, c->n_stores + 1, sizeof *c->stores));
    c->stores[c->n_stores] = (struct ldr_store_slot){ .scheme = cfg_must(strdup(k->scheme)),
                                                      .kind = cfg_must(strdup(k->kind)),
                                                      .line = line,
                                                      .primary = c->n_stores == 0 };
    return &c->stores[c->n_stores++];
}

static void add_pair(struct ldr_store_slot *slot, const char *name, const char *value, int line)
{
    slot->config = cfg_must(reallocarray(slot->config, slot->n_config + 1, sizeof *slot->config));
    slot->config[slot->n_config++] =
        (struct ldr_pair){ .name = cfg_must(strdup(name)), .value = cfg_must(strdup(value)), .line = line };
}

static void add_pairs(struct ldr_store_slot *slot, const struct cfg_node *map)
{
    for (size_t i = 0; i < map->n; i++)
        if (map->items[i].kind == CFG_SCALAR || map->items[i].kind == CFG_NULL)
            add_pair(slot, map->items[i].key, map->items[i].text ? map->items[i].text : "", map->items[i].line);
}

static bool has_pair(const struct ldr_store_slot *slot, const char *name)
{
    for (size_t i = 0; i < slot->n_config; i++)
        if (!strcmp(slot->config[i].name, name))
            return true;
    return false;
}

static const struct store_kind *kind_of_scheme(const char *scheme)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(store_kinds); i++)
        if (!strcasecmp(store_kinds[i].scheme, scheme))
            return &store_kinds[i];
    return NULL;
}

static const struct store_kind *kind_of_word(const char *word)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(store_kinds); i++)
        if (!strcmp(store_kinds[i].word, word))
            return &store_kinds[i];
    return NULL;
}

static bool has_store(const struct ldr_cfg *c, const char *scheme)
{
    for (size_t i = 0; i < c->n_stores; i++)
        if (!strcmp(c->stores[i].scheme, scheme))
            return true;
    return false;
}

/* S3 as its surroundings offer it: credentials by the usual chain, place by the usual variables. */
static void add_ambient_s3(struct reader *r, struct ldr_store_slot *slot)
{
    const char *region = env_get(r, "AWS_REGION"), *endpoint = env_get(r, "AWS_ENDPOINT_URL_S3");

    if (!region)
        region = env_get(r, "AWS_DEFAULT_REGION");
    if (!endpoint)
        endpoint = env_get(r, "AWS_ENDPOINT_URL");
    add_pair(slot, "auth_type", "iam", 0);
    if (region)
        add_pair(slot, "region", region, 0);
    if (endpoint)
        add_pair(slot, "endpoint", endpoint, 0);
    if (endpoint && !strncasecmp(endpoint, "http://", 7))
        add_pair(slot, "disable_ssl", "true", 0);
}

/* Without a `storage` section: objects in the user's own folder, S3 as it may be around, memory. */
static void build_own_stores(struct reader *r)
{
    struct ldr_cfg *c = r->cfg;
    char *path = expand(r, "$XDG_DATA_HOME/larder/objects");

    free(c->origins[SET_STORAGE_TYPE].text);
    c->origins[SET_STORAGE_TYPE].text = cfg_must(strdup("local"));
    if (path)
        add_pair(add_slot(c, kind_of_word("local"), 0), "path", path, 0);
    else
        complain(r, in_line(0), "storage", "is not set, and neither is HOME: nobody knows where objects go");
    add_ambient_s3(r, add_slot(c, kind_of_word("s3"), 0));
    add_slot(c, kind_of_word("mem"), 0);
    free(path);
}

/* Which store is the primary? NULL: complained. */
static const struct store_kind *primary_kind(struct reader *r)
{
    const struct given *type = &r->given[SET_STORAGE_TYPE], *kind = &r->given[SET_STOW_KIND];
    struct spot at = in_line(type->line ? type->line : r->storage->line),
                kind_at = in_line(kind->set ? kind->line : at.line);
    const struct store_kind *k;
    char shown[CFG_SHOWN];

    if (!strcmp(type->text, "redis")) {
        complain(r, at, "storage.type", "\"redis\" is not in this release (s3, minio, local, mem, stow)");
        return NULL;
    }
    k = kind_of_word(kind->text);
    if (strcmp(type->text, "stow")) {
        const struct store_kind *by_type = kind_of_word(strcmp(type->text, "minio") ? type->text : "s3");

        if (kind->set && k != by_type && strcmp(type->text, "local")) /* Flyte's default is s3, also for local */
            warn(r, kind_at, "storage.stow.kind", "not used: storage.type \"%s\" says it", type->text);
        return by_type;
    }
    if (k && !k->kind)
        complain(r, kind_at, "storage.stow.kind", "\"%s\" is not in this release (s3, local)", k->word);
    else if (!k || !strcmp(k->word, "mem"))
        complain(r, kind_at, "storage.stow.kind", "\"%s\" is not a kind of store (s3, local)",
                 cfg_show(kind->text, shown));
    else
        return k;
    return NULL;
}

static const char *text_in(const struct cfg_node *map, const char *name)
{
    for (size_t i = 0; i < map->n; i++)
        if (!strcmp(map->items[i].key, name) && map->items[i].kind == CFG_SCALAR && map->items[i].text[0])
            return map->items[i].text;
    return NULL;
}

/* Flyte opens a second store for signed URLs. Here it is the same one, under another address. */
static void add_signing(struct reader *r, struct ldr_store_slot *slot)
{
    static const char shown[] = "storage.signedUrl.stowConfigOverride";
    const struct given *given = &r->given[SET_SIGN_OVERRIDE];
    const char *endpoint, *region, *plain;
    char key[CFG_SHOWN], *address = NULL;

    if (!given->set || given->node->n == 0)
        return;
    if (strcmp(slot->kind, "s3")) {
        warn(r, in_line(given->line), shown, "not used: a store of kind \"%s\" signs no URLs", slot->kind);
        return;
    }
    endpoint = text_in(given->node, "endpoint");
    region = text_in(given->node, "region");
    plain = text_in(given->node, "disable_ssl");
    for (size_t i = 0; i < given->node->n; i++) {
        const struct cfg_node *item = &given->node->items[i];

        if (strcmp(item->key, "endpoint") && strcmp(item->key, "region") && strcmp(item->key, "disable_ssl"))
            warn(r, in_line(item->line), shown, "\"%s\" is not used: signed URLs have endpoint, disable_ssl and region",
                 cfg_show_key(item->key, key));
    }
    if (!endpoint) {
        warn(r, in_line(given->line), shown, "not used: it has no endpoint");
        return;
    }
    if (asprintf(&address, "%s%s",
                 !plain || strstr(endpoint, "://") ? ""
                 : strcmp(plain, "true")           ? "https://"
                                                   : "http://",
                 endpoint) == -1)
        abort();
    add_pair(slot, "signing_endpoint", address, given->line);
    free(address);
    if (region)
        add_pair(slot, "signing_region", region, given->line);
}

static void build_primary(struct reader *r, const struct store_kind *k)
{
    const struct given *container = &r->given[SET_STORAGE_CONTAINER], *config = &r->given[SET_STOW_CONFIG];
    const struct given *type = &r->given[SET_STORAGE_TYPE];
    struct ldr_store_slot *slot = add_slot(r->cfg, k, r->storage->line);
    const char *name = container->set ? container->text : "";

    if (!*name && !container->bad && !strcmp(k->kind, "s3"))
        complain(r,
                 in_line(container->set ? container->line
                         : type->line   ? type->line
                                        : r->storage->line),
                 "storage.container", "is not set: type \"%s\" needs a base container (bucket)", type->text);
    if (strchr(name, '/') || strlen(name) > LDR_CONTAINER_MAX)
        complain(r, in_line(container->line), "storage.container",
                 "is not the name of a container (no \"/\", at most %d bytes)", LDR_CONTAINER_MAX);
    if (*name)
        slot->container = cfg_must(strdup(name));
    if (config->set)
        add_pairs(slot, config->node);
    else if (!strcmp(k->kind, "s3"))
        add_pair(slot, "region", "us-east-1", 0);
    add_signing(r, slot);
}

/* One entry of `storage.schemes`. */
static void build_secondary(struct reader *r, const struct cfg_node *node)
{
    struct given g[CFG_SETTINGS] = { { 0 } };
    const struct given *config = &g[SET_SCHEME_CONFIG], *kind = &g[SET_SCHEME_KIND];
    const struct store_kind *k = kind_of_scheme(node->key);
    struct ldr_store_slot *slot;
    char shown[KEY_MAX], key[KEY_MAX + 8], text[CFG_SHOWN];

    snprintf(shown, sizeof shown, "storage.schemes.%s", cfg_show_key(node->key, text));
    read_section(r, node, "storage.schemes.NAME", shown, in_line(node->line), g);
    if (!k || !k->kind) {
        complain(r, in_line(node->line), shown, "%s (s3, file, mem)",
                 k ? "is not in this release" : "is not a known scheme");
        return;
    }
    snprintf(key, sizeof key, "%s.kind", shown);
    if (kind->set && strcmp(kind->text, k->word) && strcmp(kind->text, k->kind))
        complain(r, in_line(kind->line), key, "\"%s\" does not serve scheme \"%s\" (%s)", cfg_show(kind->text, text),
                 k->scheme, k->word);
    if (has_store(r->cfg, k->scheme)) {
        if (!strcmp(r->cfg->stores[0].scheme, k->scheme))
            warn(r, in_line(node->line), shown, "not used: the primary store serves \"%s\"", k->scheme);
        else
            complain(r, in_line(node->line), shown, "scheme \"%s\" is there already", k->scheme);
        return;
    }
    slot = add_slot(r->cfg, k, node->line);
    if (config->set)
        add_pairs(slot, config->node);
    if (!strcmp(k->kind, "s3") && !config->set)
        add_ambient_s3(r, slot);
    else if (!strcmp(k->kind, "s3") && !has_pair(slot, "auth_type"))
        add_pair(slot, "auth_type", "iam", 0);
    if (!strcmp(k->kind, "local") && !has_pair(slot, "path"))
        complain(r, in_line(config->set ? config->line : node->line), shown,
                 "scheme \"file\" needs config.path (a directory)");
}

static void build_stores(struct reader *r)
{
    const struct store_kind *k = NULL;

    take(r, SET_STORAGE_TYPE);
    take(r, SET_STORAGE_CONTAINER);
    take(r, SET_STOW_KIND);
    r->cfg->multicontainer = take(r, SET_STORAGE_MULTI)->n != 0;
    if (!r->storage) {
        build_own_stores(r);
        return;
    }
    if (!r->given[SET_STORAGE_TYPE].bad && !r->given[SET_STOW_KIND].bad)
        k = primary_kind(r);
    if (!k) /* one that is there all the same, so that what follows can be checked */
        k = kind_of_word("mem");
    build_primary(r, k);
    for (size_t i = 0; r->given[SET_SCHEMES].set && i < r->given[SET_SCHEMES].node->n; i++)
        build_secondary(r, &r->given[SET_SCHEMES].node->items[i]);
    if (!has_store(r->cfg, "s3"))
        add_ambient_s3(r, add_slot(r->cfg, kind_of_word("s3"), 0));
}

/* ---- prefixes ---- */

/* The start of a canonical text (uri.h) for what a person wrote: scheme in lower case and folded, no user.
 * NULL, and *why set: it is none. Owned by the caller. */
static char *canonical_prefix(const char *text, const char **why)
{
    const char *rest = strstr(text, "://"), *user, *container;
    char scheme[LDR_SCHEME_MAX + 1] = "", *out;
    const struct store_kind *k;
    size_t container_len;

    *why = "is not a prefix (s3://, s3://bucket/, s3://bucket/path/)";
    if (!rest || rest - text > LDR_SCHEME_MAX || strlen(text) > LDR_URI_MAX)
        return NULL;
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return NULL;
    memcpy(scheme, text, (size_t)(rest - text));
    k = kind_of_scheme(scheme);
    *why = "is of a scheme that larder does not know (s3, gs, abfs, os, sw, file, mem, redis)";
    if (!k)
        return NULL;
    container = rest + 3;
    container_len = strcspn(container, "/");
    rest = container + container_len;
    user = memchr(container, '@', container_len);
    if (user && !strncmp(k->scheme, "abfs", 4)) {
        container_len = (size_t)(user - container);
    } else if (user) {
        container = user + 1;
        container_len = (size_t)(rest - container);
    }
    *why = "names no container (s3://bucket/path/)";
    if (!container_len && *rest)
        return NULL;
    if (asprintf(&out, "%s://%.*s%s", strcmp(k->scheme, "abfss") ? k->scheme : "abfs", (int)container_len, container,
                 rest) < 0)
        abort();
    return out;
}

static void build_prefix(struct reader *r, const struct cfg_node *node, size_t i, const struct cfg_setting *env)
{
    struct given g[CFG_SETTINGS] = { { 0 } };
    struct spot at = { env, node->line };
    struct ldr_prefix_cfg *p;
    char shown[64], key[96], text[CFG_SHOWN], *match;
    const char *why;

    snprintf(shown, sizeof shown, "larder.prefixes[%zu]", i);
    snprintf(key, sizeof key, "%s.match", shown);
    read_section(r, node, "larder.prefixes[]", shown, at, g);
    if (node->kind == CFG_NULL)
        complain(r, at, shown, "is empty ({match: \"s3://bucket/\", freshness: immutable})");
    if (node->kind != CFG_MAP)
        return;
    if (!g[SET_MATCH].set && !g[SET_MATCH].bad)
        complain(r, at, shown, "has no \"match\" (s3://bucket/)");
    if (!g[SET_FRESHNESS].set && !g[SET_FRESHNESS].bad)
        complain(r, at, shown, "has no \"freshness\" (immutable, ttl 60s, always)");
    if (!g[SET_MATCH].set || !g[SET_FRESHNESS].set)
        return;
    at.line = g[SET_MATCH].line;
    match = canonical_prefix(g[SET_MATCH].text, &why);
    if (!match) {
        complain(r, at, key, "\"%s\" %s", strchr(g[SET_MATCH].text, '@') ? "…" : cfg_show(g[SET_MATCH].text, text),
                 why);
        return;
    }
    for (size_t j = 0; j < r->cfg->n_prefixes; j++)
        if (!strcmp(r->cfg->prefixes[j].match, match)) {
            complain(r, at, key, "\"%s\" is there already, in line %d", cfg_show(match, text),
                     r->cfg->prefixes[j].line);
            free(match);
            return;
        }
    p = &r->cfg->prefixes[r->cfg->n_prefixes++];
    *p = (struct ldr_prefix_cfg){ .match = match,
                                  .match_len = strlen(match),
                                  .freshness = g[SET_FRESHNESS].value.freshness,
                                  .ttl_ns = g[SET_FRESHNESS].value.ns,
                                  .skip_writes = g[SET_WRITES].set && !strcmp(g[SET_WRITES].text, "skip"),
                                  .line = node->line };
}

static int longer_first(const void *a, const void *b)
{
    const struct ldr_prefix_cfg *x = a, *y = b;

    return x->match_len != y->match_len ? (x->match_len > y->match_len ? -1 : 1) : strcmp(x->match, y->match);
}

static void build_prefixes(struct reader *r)
{
    const struct given *g = &r->given[SET_PREFIXES], *domains = &r->given[SET_DOMAINS];

    r->cfg->origins[SET_PREFIXES].source = g->set ? g->source : CFG_FROM_DEFAULT;
    if (g->set && g->node->n) {
        r->cfg->prefixes = cfg_must(calloc(g->node->n, sizeof *r->cfg->prefixes));
        for (size_t i = 0; i < g->node->n; i++)
            build_prefix(r, &g->node->items[i], i, g->source == CFG_FROM_ENV ? &settings[SET_PREFIXES] : NULL);
        qsort(r->cfg->prefixes, r->cfg->n_prefixes, sizeof *r->cfg->prefixes, longer_first);
    }
    if (domains->set && domains->node->n)
        complain(r, spot_of(domains, &settings[SET_DOMAINS]), "larder.domains",
                 "more trust domains are not in this release ([])");
}

/* Objects that no prefix speaks of. */
static const struct ldr_prefix_cfg the_rest = { .match = (char *)"",
                                                .freshness = LDR_TTL,
                                                .ttl_ns = 60 * LDR_NS_PER_S };

const struct ldr_prefix_cfg *ldr_cfg_prefix(const struct ldr_cfg *cfg, const char *uri)
{
    for (size_t i = 0; i < cfg->n_prefixes; i++)
        if (!strncmp(uri, cfg->prefixes[i].match, cfg->prefixes[i].match_len))
            return &cfg->prefixes[i];
    return &the_rest;
}

uint64_t ldr_amount_resolve(const struct ldr_amount *a, uint64_t total)
{
    uint64_t part =
        (uint64_t)((long double)total * a->percent / 100); /* 64 bits of mantissa: exact enough for any disk */

    if (a->percent <= 0)
        return a->bytes;
    return a->bytes && a->bytes < part ? a->bytes : part;
}

/* ---- the whole ---- */

/* All complaints as one text, the first one also as *err. */
static enum larder_kind refuse(struct reader *r, char **errors, struct larder_err *err)
{
    struct ldr_buf all = LDR_BUF_INIT(ERRORS_MAX * LDR_KIB * 2);
    enum larder_kind k;

    qsort(r->errors, r->n_errors, sizeof r->errors[0], by_line);
    k = ldr_fail(err, LARDER_INVALID, "%s", r->errors[0].text);
    for (size_t i = 0; i < r->n_errors; i++)
        ldr_buf_addf(&all, "%s\n", r->errors[i].text);
    if (r->n_more)
        ldr_buf_addf(&all, "… and %zu more errors\n", r->n_more);
    if (errors)
        *errors = cfg_must(strdup(cfg_must((void *)ldr_buf_str(&all))));
    ldr_buf_release(&all);
    return k;
}

enum larder_kind ldr_cfg_parse(const char *name, const char *text, size_t len, char *const *env, struct ldr_cfg **out,
                               char **errors, struct larder_err *err)
{
    static char *const no_env[] = { NULL };
    struct reader *r = cfg_must(calloc(1, sizeof *r));
    struct tree_user user = { r, NULL };
    enum larder_kind k = LARDER_OK;

    if (errors)
        *errors = NULL;
    r->name = text ? name : NULL;
    r->env = env ? env : no_env;
    r->cfg = cfg_must(calloc(1, sizeof *r->cfg));
    r->cfg->file = r->name ? cfg_must(strdup(r->name)) : NULL;
    r->cfg->origins = cfg_must(calloc(CFG_SETTINGS, sizeof *r->cfg->origins));
    if (!text || cfg_tree_parse(text, len, &r->tree, on_tree_complaint, &user)) {
        read_file(r);
        read_env(r);
        take_values(r);
        build_stores(r);
        build_prefixes(r);
    }
    if (r->n_errors) {
        k = refuse(r, errors, err);
    } else {
        *out = r->cfg;
        r->cfg = NULL;
    }
    ldr_cfg_free(&r->cfg);
    cfg_tree_release(&r->tree);
    cfg_tree_release(&r->prefix_tree);
    cfg_tree_release(&r->domain_tree);
    for (size_t i = 0; i < r->n_errors; i++)
        free(r->errors[i].text);
    free(r);
    return k;
}

/* The bytes of a file, one more than allowed at most; *out is the caller's to wipe and free. */
static enum larder_kind read_bytes(const char *file, int fd, char **out, size_t *len, struct larder_err *err)
{
    char *p = cfg_must(malloc(CFG_FILE_MAX + 1));
    size_t n = 0;
    ssize_t got = 1;

    while (got && n <= CFG_FILE_MAX) {
        got = read(fd, p + n, CFG_FILE_MAX + 1 - n);
        if (got == -1 && errno != EINTR) {
            enum larder_kind k = ldr_fail_sys(err, LARDER_IO, "could not read configuration \"%s\"", file);

            explicit_bzero(p, n);
            free(p);
            return k;
        }
        n += got > 0 ? (size_t)got : 0;
    }
    *out = p;
    *len = n;
    return LARDER_OK;
}

enum larder_kind ldr_cfg_load(const char *file, char *const *env, struct ldr_cfg **out, char **errors,
                              struct larder_err *err)
{
    static char *const no_env[] = { NULL };
    struct reader look = { .env = env ? env : no_env };
    bool must_exist = true;
    char *text = NULL;
    size_t len = 0;
    enum larder_kind k;
    int fd;

    if (errors)
        *errors = NULL;
    if (!file)
        file = env_get(&look, "LARDER_CONFIG");
    if (!file) {
        file = DEFAULT_FILE;
        must_exist = false;
    }
    fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd == -1) {
        if (must_exist || (errno != ENOENT && errno != ENOTDIR))
            return ldr_fail_sys(err, LARDER_IO, "could not open configuration \"%s\"", file);
        return ldr_cfg_parse(NULL, NULL, 0, env, out, errors, err);
    }
    k = read_bytes(file, fd, &text, &len, err);
    close(fd);
    if (k)
        return k;
    k = ldr_cfg_parse(file, text, len, env, out, errors, err);
    explicit_bzero(text, len);
    free(text);
    return k;
}

void ldr_cfg_free(struct ldr_cfg **cfg)
{
    struct ldr_cfg *c = *cfg;

    if (!c)
        return;
    for (size_t i = 0; i < c->n_stores; i++) {
        struct ldr_store_slot *s = &c->stores[i];

        for (size_t j = 0; j < s->n_config; j++) {
            cfg_wipe((char **)&s->config[j].name);
            cfg_wipe((char **)&s->config[j].value);
        }
        free(s->config);
        cfg_wipe(&s->scheme);
        cfg_wipe(&s->kind);
        cfg_wipe(&s->container);
    }
    for (size_t i = 0; i < c->n_prefixes; i++)
        cfg_wipe(&c->prefixes[i].match);
    for (size_t i = 0; i < c->n_warnings; i++)
        cfg_wipe(&c->warnings[i]);
    for (size_t i = 0; c->origins && i < CFG_SETTINGS; i++)
        cfg_wipe(&c->origins[i].text);
    free(c->stores);
    free(c->prefixes);
    free(c->warnings);
    free(c->origins);
    cfg_wipe(&c->file);
    cfg_wipe(&c->cache_dir);
    cfg_wipe(&c->endpoint);
    explicit_bzero(c, sizeof *c);
    free(c);
    *cfg = NULL;
}
