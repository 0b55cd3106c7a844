/* cfg_yaml.c - a YAML text as a tree, with lines and within bounds (cfg_impl.h). libyaml's events, so that nothing is
 * expanded: aliases are refused, never followed. What the settings mean is cfg.c's. */
#include "agent/cfg_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

struct yaml {
    yaml_parser_t parser;
    cfg_complain_fn *complain;
    void *user;
    const char *text; /* for lines that libyaml does not tell */
    size_t len;
    struct cfg_node *chain[CFG_DEPTH_MAX]; /* the maps and lists that are open; the last item of each leads on */
    int depth;
};

/* The keys that lead to what is being read: "larder.prefixes[2].match". */
static void path_of(const struct yaml *y, char *out, size_t cap)
{
    char key[CFG_SHOWN];
    size_t n = 0;

    *out = '\0';
    for (int i = 0; i < y->depth && n < cap; i++) {
        const struct cfg_node *parent = y->chain[i];

        if (parent->n == 0)
            break;
        if (parent->kind == CFG_LIST)
            n += (size_t)snprintf(out + n, cap - n, "[%zu]", parent->n - 1);
        else if (parent->items[parent->n - 1].key)
            n += (size_t)snprintf(out + n, cap - n, "%s%s", n ? "." : "",
                                  cfg_show_key(parent->items[parent->n - 1].key, key));
    }
}

static void complain(struct yaml *y, int line, const char *fmt, ...) LDR_PRINTF(3, 4);
static void complain(struct yaml *y, int line, const char *fmt, ...)
{
    char text[256], path[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    path_of(y, path, sizeof path);
    y->complain(y->user, line, *path ? path : NULL, text);
}

static int line_of(yaml_mark_t mark)
{
    return mark.line < INT32_MAX ? (int)mark.line + 1 : INT32_MAX;
}

/* libyaml's texts name no bytes of the file, so they tell no secret. */
static void complain_syntax(struct yaml *y)
{
    const yaml_parser_t *p = &y->parser;
    const char *problem = p->problem ? p->problem : "unreadable";
    int line = 1;

    y->depth = 0; /* nothing follows, and as the scanner reads ahead the open keys would mislead */
    if (p->error == YAML_READER_ERROR) { /* bytes that are no text: only their offset is known */
        for (size_t i = 0; i < p->problem_offset && i < y->len; i++)
            line += y->text[i] == '\n';
        complain(y, line, "not a UTF-8 text: %s", problem);
    } else {
        complain(y, line_of(p->problem_mark), "not YAML: %s%s%s%s", problem, p->context ? " (" : "",
                 p->context ? p->context : "", p->context ? ")" : "");
    }
}

static bool next(struct yaml *y, yaml_event_t *e)
{
    if (yaml_parser_parse(&y->parser, e))
        return true;
    if (y->parser.error == YAML_MEMORY_ERROR)
        abort();
    complain_syntax(y);
    return false;
}

static void event_done(yaml_event_t *e)
{
    if (e->type == YAML_SCALAR_EVENT)
        explicit_bzero(e->data.scalar.value, e->data.scalar.length);
    yaml_event_delete(e);
}

static struct cfg_node *add_item(struct cfg_node *parent)
{
    if (parent->n == parent->room) {
        parent->room = parent->room ? parent->room * 2 : 8;
        parent->items = cfg_must(reallocarray(parent->items, parent->room, sizeof *parent->items));
    }
    parent->items[parent->n] = (struct cfg_node){ .kind = CFG_NULL };
    return &parent->items[parent->n++];
}

static bool has_tag(const yaml_event_t *e)
{
    const yaml_char_t *tag = e->type == YAML_SCALAR_EVENT           ? e->data.scalar.tag
                             : e->type == YAML_SEQUENCE_START_EVENT ? e->data.sequence_start.tag
                                                                    : e->data.mapping_start.tag;

    return tag != NULL;
}

static bool is_null(const yaml_event_t *e)
{
    const char *v = (const char *)e->data.scalar.value;

    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*v || !strcmp(v, "~") || !strcmp(v, "null") || !strcmp(v, "Null") || !strcmp(v, "NULL"));
}

/* The key of a pair: a text that the map does not have yet. False: nothing sensible can follow. */
static bool read_key(struct yaml *y, const yaml_event_t *e, struct cfg_node *map, struct cfg_node *pair)
{
    const char *key = (const char *)e->data.scalar.value;

    if (e->type != YAML_SCALAR_EVENT || strlen(key) != e->data.scalar.length) {
        complain(y, line_of(e->start_mark), "a key must be a plain text");
        return false;
    }
    pair->key = cfg_must(strdup(key));
    pair->line = line_of(e->start_mark);
    for (size_t i = 0; i + 1 < map->n; i++)
        if (!strcmp(map->items[i].key, key)) {
            complain(y, pair->line, "is there already, in line %d", map->items[i].line);
            break;
        }
    return true;
}

static bool read_node(struct yaml *y, yaml_event_t *e, struct cfg_node *node);

/* The items up to the end of a map or list. */
static bool read_items(struct yaml *y, struct cfg_node *node, yaml_event_type_t end)
{
    for (;;) {
        struct cfg_node *item;
        yaml_event_t e;
        bool ok = true;

        if (!next(y, &e))
            return false;
        if (e.type == end) {
            event_done(&e);
            return true;
        }
        if (node->n == CFG_ITEMS_MAX) {
            complain(y, line_of(e.start_mark), "more than %d entries", CFG_ITEMS_MAX);
            event_done(&e);
            return false;
        }
        item = add_item(node);
        if (node->kind == CFG_MAP) {
            ok = read_key(y, &e, node, item);
            event_done(&e);
            if (!ok || !next(y, &e))
                return false;
        }
        ok = read_node(y, &e, item);
        event_done(&e);
        if (!ok)
            return false;
    }
}

/* One node, whose first event is `e` (the caller's to end). False: the rest cannot be read. */
static bool read_node(struct yaml *y, yaml_event_t *e, struct cfg_node *node)
{
    bool ok;

    if (!node->line)
        node->line = line_of(e->start_mark);
    if (e->type == YAML_ALIAS_EVENT) {
        complain(y, node->line, "aliases (*NAME) are not accepted: write the value out");
        node->kind = CFG_BROKEN;
        return true;
    }
    if (has_tag(e))
        complain(y, node->line, "tags (!NAME) are not accepted");
    if (e->type == YAML_SCALAR_EVENT) {
        if (strlen((const char *)e->data.scalar.value) != e->data.scalar.length) {
            complain(y, node->line, "a text with a NUL character");
            node->kind = CFG_BROKEN;
        } else if (!is_null(e)) {
            node->kind = CFG_SCALAR;
            node->text = cfg_must(strdup((const char *)e->data.scalar.value));
        }
        return true;
    }
    if (y->depth == CFG_DEPTH_MAX) {
        complain(y, node->line, "nested more than %d levels deep", CFG_DEPTH_MAX);
        return false;
    }
    node->kind = e->type == YAML_MAPPING_START_EVENT ? CFG_MAP : CFG_LIST;
    y->chain[y->depth++] = node;
    ok = read_items(y, node, node->kind == CFG_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT);
    y->depth--;
    return ok;
}

/* Stream start, at most one document, stream end. */
static bool read_stream(struct yaml *y, struct cfg_node *root)
{
    int documents = 0;

    for (;;) {
        yaml_event_t e;
        yaml_event_type_t type;
        bool ok = true;

        if (!next(y, &e))
            return false;
        type = e.type;
        if (type == YAML_DOCUMENT_START_EVENT && documents++) {
            complain(y, line_of(e.start_mark), "a second document (---): one file is one configuration");
            ok = false;
        } else if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT &&
                   type != YAML_DOCUMENT_END_EVENT && type != YAML_STREAM_END_EVENT) {
            ok = read_node(y, &e, root);
        }
        event_done(&e);
        if (!ok || type == YAML_STREAM_END_EVENT)
            return ok;
    }
}

bool cfg_tree_parse(const char *text, size_t len, struct cfg_node *root, cfg_complain_fn *complain_to, void *user)
{
    struct yaml y = { .complain = complain_to, .user = user, .text = text, .len = len };
    bool ok;

    *root = (struct cfg_node){ .kind = CFG_NULL };
    if (len > CFG_FILE_MAX) {
        complain(&y, 0, "larger than %d bytes", (int)CFG_FILE_MAX);
        return false;
    }
    if (!yaml_parser_initialize(&y.parser))
        abort();
    yaml_parser_set_encoding(&y.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&y.parser, (const unsigned char *)text, len);
    ok = read_stream(&y, root);
    yaml_parser_delete(&y.parser);
    return ok;
}

void cfg_tree_release(struct cfg_node *root)
{
    for (size_t i = 0; i < root->n; i++)
        cfg_tree_release(&root->items[i]);
    free(root->items);
    cfg_wipe(&root->key);
    cfg_wipe(&root->text);
    *root = (struct cfg_node){ .kind = CFG_NULL };
}

void cfg_wipe(char **text)
{
    if (*text)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}
