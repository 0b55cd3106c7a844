/* xml.c - see xml.h. The texts come from the network: expat checks their form, the bounds are here. */
#include "backends/xml.h"

#include <expat.h>
#include <string.h>

struct reading {
    XML_Parser parser;
    const char *path;                      /* names, '/' between them; of those `n_path` the first `on_path` are open */
    const struct ldr_xml_want *want, *now; /* now: whose element is open; NULL: none */
    size_t n_want, depth, n_path, on_path;
    const struct ldr_xml_item *items, *item; /* item: whose element is open; NULL: none */
    size_t n_items;
    void *user;
    bool refused;
};

static void refuse(struct reading *r)
{
    r->refused = true;
    XML_StopParser(r->parser, XML_FALSE);
}

static void clear(const struct ldr_xml_want *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        want[i].out[0] = '\0';
}

/* The first one of a name counts. */
static const struct ldr_xml_want *find_want(const struct ldr_xml_want *want, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(want[i].name, name) && !want[i].out[0])
            return &want[i];
    return NULL;
}

static const struct ldr_xml_item *find_item(const struct reading *r, const char *name)
{
    for (size_t i = 0; i < r->n_items; i++)
        if (!strcmp(r->items[i].name, name))
            return &r->items[i];
    return NULL;
}

/* Is `name` the nth (from 0) of the path's names? */
static bool is_nth(const char *path, size_t n, const char *name)
{
    size_t len = strlen(name);

    for (; n > 0; n--)
        path += strcspn(path, "/") + 1;
    return strcspn(path, "/") == len && !memcmp(path, name, len);
}

static void XMLCALL on_start(void *user, const XML_Char *name, const XML_Char **attrs)
{
    struct reading *r = user;
    bool inside = r->item && r->now;
    size_t below; /* the path's end */

    (void)attrs;
    r->now = NULL; /* text behind a child's own child is not its text any more */
    if (++r->depth > LDR_XML_DEPTH || (r->depth == 1 && !is_nth(r->path, 0, name)) || inside) {
        refuse(r);
        return;
    }
    if (r->on_path < r->n_path) {
        if (r->depth == r->on_path + 1 && is_nth(r->path, r->on_path, name))
            r->on_path++;
        return;
    }
    below = r->depth - r->n_path;
    if (below == 1 && (r->item = find_item(r, name))) {
        clear(r->item->want, r->item->n_want);
    } else if (below == 1) {
        r->now = find_want(r->want, r->n_want, name);
    } else if (below == 2 && r->item) {
        r->now = find_want(r->item->want, r->item->n_want, name);
    }
}

static void XMLCALL on_end(void *user, const XML_Char *name)
{
    struct reading *r = user;
    const struct ldr_xml_item *item = r->depth == r->n_path + 1 ? r->item : NULL;

    (void)name;
    r->now = NULL;
    if (r->depth-- == r->on_path)
        r->on_path--;
    if (!item)
        return;
    r->item = NULL;
    if (!r->refused && !item->end(r->user))
        refuse(r);
}

static void XMLCALL on_text(void *user, const XML_Char *text, int n)
{
    struct reading *r = user;
    size_t len, room;

    if (!r->now)
        return;
    len = strlen(r->now->out);
    room = r->now->cap - 1 - len;
    if ((size_t)n <= room)
        room = (size_t)n;
    else if (r->item)
        refuse(r);
    for (size_t i = 0; i < room; i++) {
        unsigned char c = (unsigned char)text[i];

        r->now->out[len + i] = !r->item && (c < 0x20 || c == 0x7f) ? ' ' : text[i];
    }
    r->now->out[len + room] = '\0';
}

static void XMLCALL on_doctype(void *user, const XML_Char *name, const XML_Char *sysid, const XML_Char *pubid,
                               int subset)
{
    (void)name, (void)sysid, (void)pubid, (void)subset;
    refuse(user);
}

static bool read_text(struct reading *r, const void *p, size_t n, size_t max)
{
    bool ok = false;

    clear(r->want, r->n_want);
    r->n_path = 1;
    for (const char *c = r->path; *c; c++)
        r->n_path += *c == '/';
    if (n == 0 || n > max)
        return false;
    r->parser = XML_ParserCreate(NULL);
    if (!r->parser)
        return false;
    XML_SetUserData(r->parser, r);
    XML_SetElementHandler(r->parser, on_start, on_end);
    XML_SetCharacterDataHandler(r->parser, on_text);
    XML_SetStartDoctypeDeclHandler(r->parser, on_doctype);
    ok = XML_Parse(r->parser, p, (int)n, 1) == XML_STATUS_OK && !r->refused;
    XML_ParserFree(r->parser);
    if (!ok)
        clear(r->want, r->n_want);
    return ok;
}

bool ldr_xml_read(const void *p, size_t n, const char *root, const struct ldr_xml_want *want, size_t n_want)
{
    struct reading r = { .path = root, .want = want, .n_want = n_want };

    return read_text(&r, p, n, LDR_XML_MAX);
}

bool ldr_xml_read_items(const void *p, size_t n, const char *root, const struct ldr_xml_want *want, size_t n_want,
                        const struct ldr_xml_item *items, size_t n_items, void *user)
{
    struct reading r = {
        .path = root, .want = want, .n_want = n_want, .items = items, .n_items = n_items, .user = user
    };

    return read_text(&r, p, n, LDR_XML_ITEMS_MAX);
}
