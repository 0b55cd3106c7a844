/* xml.h - a bounded reader of the small XML texts that stores answer with. Any thread.
 * At most LDR_XML_MAX bytes and LDR_XML_DEPTH elements deep; a text with a DOCTYPE (so: with entities) is refused. */
#ifndef LDR_XML_H
#define LDR_XML_H

#include "common/defs.h"

#include <stdbool.h>

#define LDR_XML_MAX   (64 * LDR_KIB)
#define LDR_XML_DEPTH 8

/* The text of one child of the root element: copied to out[cap], clipped, "" where there is none; control characters
 * become blanks. */
struct ldr_xml_want {
    const char *name;
    char *out;
    size_t cap;
};

/* Read `p`, whose root element is `root`. False: it is not such a text; every `out` is "" then. */
bool ldr_xml_read(const void *p, size_t n, const char *root, const struct ldr_xml_want *want, size_t n_want);

#endif
