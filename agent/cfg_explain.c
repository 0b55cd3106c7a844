/* cfg_explain.c - the effective configuration as YAML, each value with its source (cfg.h). What it prints can be read
 * again, but for secrets. */
#include "agent/cfg.h"
#include "agent/cfg_impl.h"

#include <stdio.h>
#include <string.h>

#define COMMENT_COLUMN 64
#define EXPLAIN_MAX    (16 * CFG_FILE_MAX)

/* Names in a `config` map whose values are no secret. Any other is shown as "(set)": a name that nobody knows may be
 * one. */
static const char *const public_names[] = {
    "auth_type",      "access_key_id", "secret_key_path", "region",
    "endpoint",       "disable_ssl",   "v2_signing",      "path",
    "project_id",     "scopes",        "account",         "domain_suffix",
    "addressing",     "profile",       "role_arn",        "role_session_name",
    "sts_endpoint",   "ca_file",       "proxy",           "min_speed",
    "requester_pays", "sse",           "sse_kms_key_id",  "sse_customer_key_file",
    "storage_class",  "checksum",      "sign_payload",    "signing_endpoint",
    "signing_region", "max_size",      "latency_ms"
};

bool cfg_pair_is_public(const char *name)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(public_names); i++)
        if (!strcmp(public_names[i], name))
            return true;
    return false;
}

/* A text in double quotes. What YAML takes for a line break, or does not take at all, is escaped. */
static void add_quoted(struct ldr_buf *out, const char *text)
{
    static const struct {
        const char *bytes, *escape;
    } odd[] = { { "\"", "\\\"" },
                { "\\", "\\\\" },
                { "\xE2\x80\xA8", "\\u2028" },
                { "\xE2\x80\xA9", "\\u2029" },
                { "\xEF\xBB\xBF", "\\uFEFF" },
                { "\xEF\xBF\xBE", "\\uFFFE" },
                { "\xEF\xBF\xBF", "\\uFFFF" } };

    ldr_buf_addf(out, "\"");
    for (const char *p = text; *p; p++) {
        size_t i = 0;

        while (i < LDR_ARRAY_LEN(odd) && strncmp(p, odd[i].bytes, strlen(odd[i].bytes)))
            i++;
        if (i < LDR_ARRAY_LEN(odd)) {
            ldr_buf_addf(out, "%s", odd[i].escape);
            p += strlen(odd[i].bytes) - 1;
        } else if (cfg_is_c1(p)) {
            ldr_buf_addf(out, "\\x%02x", (unsigned char)*++p);
        } else if ((unsigned char)*p < ' ' || *p == 0x7f) {
            ldr_buf_addf(out, "\\x%02x", (unsigned char)*p);
        } else {
            ldr_buf_add(out, p, 1);
        }
    }
    ldr_buf_addf(out, "\"");
}

/* A text as YAML: as it is where that is safe, else quoted. */
static void add_text(struct ldr_buf *out, const char *text)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./%-";

    if (*text && !strchr("-%.", *text) && strspn(text, safe) == strlen(text) && strcasecmp(text, "null"))
        ldr_buf_addf(out, "%s", text);
    else
        add_quoted(out, text);
}

/* End a line with where its value comes from; `from` is its start in `out`. */
static void add_source(struct ldr_buf *out, size_t from, const char *text)
{
    size_t column = out->len - from;

    ldr_buf_addf(out, "%*s# %s\n", column < COMMENT_COLUMN ? (int)(COMMENT_COLUMN - column) : 1, "", text);
}

/* "file:12", into `room`. */
static const char *line_text(const struct ldr_cfg *cfg, int line, char *room, size_t cap)
{
    char shown[CFG_SHOWN];

    snprintf(room, cap, "%s:%d", cfg_show(cfg->file ? cfg->file : "", shown), line);
    return room;
}

static const char *origin_text(const struct ldr_cfg *cfg, const struct cfg_setting *s, const struct ldr_cfg_origin *o,
                               char *room, size_t cap)
{
    char name[CFG_ENV_NAME_MAX];

    if (o->source == CFG_FROM_FILE)
        return line_text(cfg, o->line, room, cap);
    if (o->source == CFG_FROM_DEFAULT || !cfg_env_name(s, name))
        return "default";
    snprintf(room, cap, "environment %s", name);
    return room;
}

/* The names of sections that `key` enters after `last`; returns the level of its own line. */
static int add_sections(struct ldr_buf *out, const char *last, const char *key)
{
    int level = 0;
    const char *dot;

    for (const char *p = key; (dot = strchr(p, '.')); p = dot + 1) {
        if (strncmp(last, key, (size_t)(dot - key) + 1))
            ldr_buf_addf(out, "%*s%.*s:\n", 2 * level, "", (int)(dot - p), p);
        level++;
    }
    return level;
}

/* A URL may carry a password before its host. */
static bool holds_user(const char *value)
{
    const char *host = strstr(value, "://");

    return host && strchr(host, '@');
}

static void add_config(struct ldr_buf *out, const struct ldr_cfg *cfg, const struct ldr_store_slot *slot, int indent)
{
    char room[128];

    if (slot->n_config)
        ldr_buf_addf(out, "%*sconfig:\n", indent, "");
    for (size_t i = 0; i < slot->n_config; i++) {
        const struct ldr_pair *p = &slot->config[i];
        size_t from = out->len;

        ldr_buf_addf(out, "%*s", indent + 2, "");
        add_text(out, p->name);
        ldr_buf_addf(out, ": ");
        add_text(out, cfg_pair_is_public(p->name) && !holds_user(p->value) ? p->value : "(set)");
        if (p->line)
            add_source(out, from, line_text(cfg, p->line, room, sizeof room));
        else if (!slot->primary && strcmp(p->name, "auth_type")) /* cfg.c adds no others by itself */
            add_source(out, from, "environment AWS_*");
        else
            add_source(out, from, "default");
    }
}

static void add_stores(struct ldr_buf *out, const struct ldr_cfg *cfg)
{
    char room[128];

    if (cfg->stores[0].n_config || cfg->origins[SET_STOW_KIND].source != CFG_FROM_DEFAULT)
        ldr_buf_addf(out, "  stow:\n");
    if (cfg->origins[SET_STOW_KIND].source != CFG_FROM_DEFAULT) {
        size_t from = out->len;

        ldr_buf_addf(out, "    kind: ");
        add_text(out, cfg->origins[SET_STOW_KIND].text);
        add_source(out, from, line_text(cfg, cfg->origins[SET_STOW_KIND].line, room, sizeof room));
    }
    add_config(out, cfg, &cfg->stores[0], 4);
    if (cfg->n_stores > 1)
        ldr_buf_addf(out, "  schemes:\n");
    for (size_t i = 1; i < cfg->n_stores; i++) {
        const struct ldr_store_slot *s = &cfg->stores[i];
        size_t from;

        ldr_buf_addf(out, "    %s:\n", s->scheme);
        from = out->len;
        ldr_buf_addf(out, "      kind: %s", s->kind);
        add_source(out, from, s->line ? line_text(cfg, s->line, room, sizeof room) : "default");
        add_config(out, cfg, s, 6);
    }
}

static void add_prefixes(struct ldr_buf *out, const struct ldr_cfg *cfg)
{
    char room[128], ttl[32];

    if (!cfg->n_prefixes) {
        size_t from = out->len;

        ldr_buf_addf(out, "  prefixes: []");
        add_source(out, from, "ttl 60s for all");
        return;
    }
    ldr_buf_addf(out, "  prefixes:\n");
    for (size_t i = 0; i < cfg->n_prefixes; i++) {
        const struct ldr_prefix_cfg *p = &cfg->prefixes[i];
        size_t from = out->len;

        ldr_buf_addf(out, "    - {match: ");
        add_quoted(out, p->match);
        cfg_duration_print(p->ttl_ns, ttl);
        if (p->freshness == LDR_IMMUTABLE)
            ldr_buf_addf(out, ", freshness: immutable");
        else if (p->freshness == LDR_REVALIDATE)
            ldr_buf_addf(out, ", freshness: always");
        else
            ldr_buf_addf(out, ", freshness: \"ttl %s\"", ttl);
        ldr_buf_addf(out, "%s}", p->skip_writes ? ", writes: skip" : "");
        if (cfg->origins[SET_PREFIXES].source == CFG_FROM_ENV)
            add_source(out, from, "environment LARDER_PREFIXES");
        else
            add_source(out, from, line_text(cfg, p->line, room, sizeof room));
    }
}

char *ldr_cfg_explain(const struct ldr_cfg *cfg)
{
    const struct cfg_setting *s = cfg_settings();
    struct ldr_buf out = LDR_BUF_INIT(EXPLAIN_MAX);
    const char *last = "";
    char room[128], *text = NULL;

    for (size_t i = 0; i < CFG_SETTINGS; i++) {
        const struct ldr_cfg_origin *o = &cfg->origins[i];
        size_t from;
        int level;

        if (i == SET_SCHEMES)
            add_stores(&out, cfg);
        if (i == SET_PREFIXES)
            add_prefixes(&out, cfg);
        if (!o->text || i == SET_STOW_KIND) /* not set, not of this release, or shown by the above */
            continue;
        level = add_sections(&out, last, s[i].key);
        last = s[i].key;
        from = out.len;
        ldr_buf_addf(&out, "%*s%s: ", 2 * level, "", strrchr(s[i].key, '.') + 1);
        add_text(&out, o->text);
        add_source(&out, from, origin_text(cfg, &s[i], o, room, sizeof room));
    }
    if (out.len < out.cap - 2 * CFG_FILE_MAX) { /* else something may be missing */
        const char *all = ldr_buf_str(&out);

        text = all ? strdup(all) : NULL;
    }
    ldr_buf_release(&out);
    return text;
}
