/* xml.c - see xml.h. The texts come from the network: expat checks their form, the bounds are here. */
#include "backends/xml.h"

#include <expat.h>
#include <string.h>

struct reading {
    XML_Parser parser;
    const char *root;
    const struct ldr_xml_want *want, *now; /* now: whose element is open; NULL: none */
    size_t n_want, depth;
    bool refused;
};

static void refuse(struct reading *r)
{
    r->refused = true;
    XML_StopParser(r->parser, XML_FALSE);
}

static void XMLCALL on_start(void *user, const XML_Char *name, const XML_Char **attrs)
{
    struct reading *r = user;

    (void)attrs;
    r->now = NULL; /* text behind a child's own child is not its text any more */
    if (++r->depth > LDR_XML_DEPTH || (r->depth == 1 && strcmp(name, r->root) != 0))
        refuse(r);
    for (size_t i = 0; r->depth == 2 && i < r->n_want; i++)
        if (!strcmp(r->want[i].name, name) && !r->want[i].out[0]) /* the first one counts */
            r->now = &r->want[i];
}

static void XMLCALL on_end(void *user, const XML_Char *name)
{
    struct reading *r = user;

    (void)name;
    r->now = NULL;
    r->depth--;
}

static void XMLCALL on_text(void *user, const XML_Char *text, int n)
{
    struct reading *r = user;
    size_t len, room;

    if (!r->now)
        return;
    len = strlen(r->now->out);
    room = r->now->cap - 1 - len;
    if ((size_t)n < room)
        room = (size_t)n;
    for (size_t i = 0; i < room; i++) {
        unsigned char c = (unsigned char)text[i];

        r->now->out[len + i] = c < 0x20 || c == 0x7f ? ' ' : text[i];
    }
    r->now->out[len + room] = '\0';
}

static void XMLCALL on_doctype(void *user, const XML_Char *name, const XML_Char *sysid, const XML_Char *pubid,
                               int subset)
{
    (void)name, (void)sysid, (void)pubid, (void)subset;
    refuse(user);
}

bool ldr_xml_read(const void *p, size_t n, const char *root, const struct ldr_xml_want *want, size_t n_want)
{
    struct reading r = { .root = root, .want = want, .n_want = n_want };
    bool ok = false;

    for (size_t i = 0; i < n_want; i++)
        want[i].out[0] = '\0';
    if (n == 0 || n > LDR_XML_MAX)
        return false;
    r.parser = XML_ParserCreate(NULL);
    if (!r.parser)
        return false;
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_start, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
    ok = XML_Parse(r.parser, p, (int)n, 1) == XML_STATUS_OK && !r.refused;
    XML_ParserFree(r.parser);
    for (size_t i = 0; !ok && i < n_want; i++)
        want[i].out[0] = '\0';
    return ok;
}
