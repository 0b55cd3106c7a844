/* kinds.tbl.h - one row for each kind of failure: name, wire number, text, HTTP status, Connect code, worth a retry?
 * Numbers travel between releases: a row is never renumbered and never reused. `retry` says whether the same request to
 * a store may succeed a moment later; agent/attempt.c decides on it. */
/*       name             number text               http connect               retry */
LDR_KIND(OK,               0, "ok",              200, "ok",                 0)
LDR_KIND(NOT_FOUND,        1, "not_found",       404, "not_found",          0)
LDR_KIND(DENIED,           2, "denied",          403, "permission_denied",  0)
LDR_KIND(INVALID,          3, "invalid",         400, "invalid_argument",   0)
LDR_KIND(UNSUPPORTED,      4, "unsupported",     501, "unimplemented",      0)
LDR_KIND(LIMIT_EXCEEDED,   5, "limit_exceeded",  413, "resource_exhausted", 0)
LDR_KIND(EXISTS,           6, "exists",          409, "already_exists",     0)
LDR_KIND(PRECONDITION,     7, "precondition",    412, "failed_precondition",0)
LDR_KIND(TIMEOUT,          8, "timeout",         504, "deadline_exceeded",  0)
LDR_KIND(CANCELLED,        9, "cancelled",       499, "canceled",           0)
LDR_KIND(UNAVAILABLE,     10, "unavailable",     503, "unavailable",        1)
LDR_KIND(NO_AGENT,        11, "no_agent",        503, "unavailable",        0)
LDR_KIND(OUTCOME_UNKNOWN, 12, "outcome_unknown", 500, "unknown",            0)
LDR_KIND(CORRUPT,         13, "corrupt",         500, "data_loss",          1)
LDR_KIND(IO,              14, "io",              500, "internal",           0)
LDR_KIND(NO_MEMORY,       15, "no_memory",       503, "resource_exhausted", 0)
LDR_KIND(INTERNAL,        16, "internal",        500, "internal",           0)
