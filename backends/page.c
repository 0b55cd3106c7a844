/* page.c - a page of a listing (backend.h), and how sorted keys become one (page.h). */
#include "backends/page.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_MIN 16

/* ---- the page itself ---- */

static bool make_room(struct ldr_page *p)
{
    size_t cap = p->cap ? p->cap * 2 : ROOM_MIN;
    struct ldr_list_entry *more;

    if (p->n < p->cap)
        return true;
    more = realloc(p->entries, cap * sizeof *more);
    if (!more)
        return false;
    p->entries = more;
    p->cap = cap;
    return true;
}

bool ldr_page_add(struct ldr_page *p, const char *key, bool is_prefix, uint64_t size, int64_t last_modified_s,
                  const char *etag)
{
    size_t bytes = strlen(key) + (etag ? strlen(etag) : 0);
    struct ldr_list_entry e = {
        .is_prefix = is_prefix, .size_bytes = size, .last_modified_s = last_modified_s, .key = NULL
    };

    if (p->n == LDR_PAGE_ENTRIES_MAX || bytes >= LDR_PAGE_BYTES_MAX - p->bytes || !make_room(p))
        return false;
    e.key = strdup(key);
    e.etag = etag ? strdup(etag) : NULL;
    if (!e.key || (etag && !e.etag)) {
        free(e.key);
        free(e.etag);
        return false;
    }
    p->entries[p->n++] = e;
    p->bytes += bytes;
    return true;
}

void ldr_page_release(struct ldr_page *p)
{
    for (size_t i = 0; i < p->n; i++) {
        free(p->entries[i].key);
        free(p->entries[i].etag);
    }
    free(p->entries);
    free(p->next);
    *p = (struct ldr_page){ 0 };
}

/* ---- sorted keys become a page ---- */

static bool starts_with(const char *text, const char *head)
{
    return !strncmp(text, head, strlen(head));
}

/* How long the group of `text` is, or of every key that begins with it; 0: it is in none. */
static size_t group_len(const struct ldr_paging *g, const char *text)
{
    const char *prefix = g->op->key, *delimiter = g->op->delimiter, *at;

    if (!delimiter || !*delimiter || !starts_with(text, prefix))
        return 0;
    at = strstr(text + strlen(prefix), delimiter);
    return at ? (size_t)(at - text) + strlen(delimiter) : 0;
}

void ldr_paging_init(struct ldr_paging *g, struct ldr_op *op)
{
    *g = (struct ldr_paging){ .op = op, .last = op->start && *op->start ? op->start : NULL };
    g->last_is_group = g->last && group_len(g, g->last) > 0;
}

bool ldr_paging_wants(const struct ldr_paging *g, const char *key)
{
    return starts_with(key, g->op->key) &&
           (!g->last || (strcmp(key, g->last) > 0 && !(g->last_is_group && starts_with(key, g->last))));
}

bool ldr_paging_wants_below(const struct ldr_paging *g, const char *head)
{
    if (!starts_with(head, g->op->key) && !starts_with(g->op->key, head))
        return false;
    if (!g->last)
        return true;
    return (strcmp(head, g->last) > 0 || starts_with(g->last, head)) &&
           !(g->last_is_group && starts_with(head, g->last));
}

bool ldr_paging_in_group(const struct ldr_paging *g, const char *text)
{
    return group_len(g, text) > 0;
}

static bool add_group(struct ldr_page *p, const char *key, size_t n)
{
    char *group = strndup(key, n);
    bool ok = group && ldr_page_add(p, group, true, 0, LDR_TIME_UNKNOWN, NULL);

    free(group);
    return ok;
}

enum larder_kind ldr_paging_add(struct ldr_paging *g, const char *key, uint64_t size, int64_t last_modified_s,
                                const char *etag)
{
    struct ldr_page *p = &g->op->page;
    size_t group = group_len(g, key);
    bool added = p->n < g->op->max_entries &&
                 (group ? add_group(p, key, group) : ldr_page_add(p, key, false, size, last_modified_s, etag));

    if (added) {
        g->last = p->entries[p->n - 1].key;
        g->last_is_group = group > 0;
    } else if (p->n > 0) {
        g->full = true; /* also when memory ran out: a shorter page is as true */
    } else {
        return ldr_fail(&g->op->err, LARDER_NO_MEMORY, "out of memory for a listing of \"%s\"", g->op->uri);
    }
    return LARDER_OK;
}

enum larder_kind ldr_paging_end(struct ldr_paging *g)
{
    if (g->full && !(g->op->page.next = strdup(g->last)))
        return ldr_fail(&g->op->err, LARDER_NO_MEMORY, "out of memory for a listing of \"%s\"", g->op->uri);
    return LARDER_OK;
}
