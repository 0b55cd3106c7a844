/* fail.h - how larder's own code reports a failure: `return ldr_fail(err, LARDER_DENIED, "…")`.
 * Messages: lower case, no full stop, the object quoted, the reason given, no secret. Any thread; none allocates. */
#ifndef LDR_FAIL_H
#define LDR_FAIL_H

#include "common/defs.h"
#include "common/larder_err.h"

#include <stdbool.h>

/* Fill *err (NULL: nothing) and return `kind`. The message is clipped to its space, at a character's border. */
enum larder_kind ldr_fail(struct larder_err *err, enum larder_kind kind, const char *fmt, ...) LDR_PRINTF(3, 4);
/* The same with errno: ": " and its text are appended, `sys` is set. errno itself is left as it was. */
enum larder_kind ldr_fail_sys(struct larder_err *err, enum larder_kind kind, const char *fmt, ...) LDR_PRINTF(3, 4);
/* The same for an answer of a store: `http` is set. */
enum larder_kind ldr_fail_http(struct larder_err *err, enum larder_kind kind, int http, const char *fmt, ...)
    LDR_PRINTF(4, 5);

/* A kind from its number on the wire; an unknown one is INTERNAL. */
enum larder_kind ldr_kind_from_wire(uint32_t number);
/* May the same request succeed a moment later? (kinds.tbl.h) */
bool ldr_kind_retry(enum larder_kind kind);

#endif
