/* xml.h - a bounded reader of the XML texts that stores answer with. Any thread.
 * At most LDR_XML_MAX bytes (listings: LDR_XML_ITEMS_MAX) and LDR_XML_DEPTH elements deep; a text with a DOCTYPE (so:
 * with entities) is refused. */
#ifndef LDR_XML_H
#define LDR_XML_H

#include "common/defs.h"

#include <stdbool.h>

#define LDR_XML_MAX       (64 * LDR_KIB)
#define LDR_XML_ITEMS_MAX (4 * LDR_MIB)
#define LDR_XML_DEPTH     8

/* The text of one child of the root element: copied to out[cap], clipped, "" where there is none; control characters
 * become blanks. */
struct ldr_xml_want {
    const char *name;
    char *out;
    size_t cap;
};

/* Read `p`, whose root element is `root`; "A/B/C": the children of C inside B inside the root A are wanted. False: it is
 * not such a text; every `out` is "" then. */
bool ldr_xml_read(const void *p, size_t n, const char *root, const struct ldr_xml_want *want, size_t n_want);

/* A child of the root element that comes again and again. The texts of its own children stand in `want`, byte for byte,
 * while `end` is called: once for each, in order, with `user`. False ends the reading. A text that is longer than its
 * space, or that has elements in it, makes the whole refused. */
struct ldr_xml_item {
    const char *name;
    const struct ldr_xml_want *want;
    size_t n_want;
    bool (*end)(void *user);
};

/* The same with items: for listings. False also where an `end` said so; items that were read before stay told. */
bool ldr_xml_read_items(const void *p, size_t n, const char *root, const struct ldr_xml_want *want, size_t n_want,
                        const struct ldr_xml_item *items, size_t n_items, void *user);

#endif
