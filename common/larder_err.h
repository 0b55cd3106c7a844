/* larder_err.h - what can go wrong. Installed; included by larder.h.
 * Decide by `kind`, show `msg` to people: its text is no interface. */
#ifndef LARDER_ERR_H
#define LARDER_ERR_H

#ifdef __cplusplus
extern "C" {
#endif

enum larder_kind {
    LARDER_OK = 0,
    LARDER_NOT_FOUND = 1,        /* the store has no such object (or no such container) */
    LARDER_DENIED = 2,           /* the store refuses these credentials */
    LARDER_INVALID = 3,          /* malformed reference, option or configuration */
    LARDER_UNSUPPORTED = 4,      /* this store or this release cannot do it */
    LARDER_LIMIT_EXCEEDED = 5,   /* a configured limit; the message names object, size, limit and setting */
    LARDER_EXISTS = 6,           /* a create-only write met an object */
    LARDER_PRECONDITION = 7,     /* the object changed: a condition did not hold */
    LARDER_TIMEOUT = 8,          /* not within the given time; the work may go on for others */
    LARDER_CANCELLED = 9,        /* given up by its caller, or by an agent that stops */
    LARDER_UNAVAILABLE = 10,     /* the store or the agent cannot serve it now */
    LARDER_NO_AGENT = 11,        /* not in the cache, and no agent answers */
    LARDER_OUTCOME_UNKNOWN = 12, /* a write was sent; whether the store carried it out is not known */
    LARDER_CORRUPT = 13,         /* bytes that do not match their length or checksum */
    LARDER_IO = 14,              /* a local file could not be read or written */
    LARDER_NO_MEMORY = 15,
    LARDER_INTERNAL = 16 /* a defect of larder's own */
};

/* Filled in by a call that failed, untouched by one that succeeded. */
struct larder_err {
    enum larder_kind kind;
    int sys;  /* errno, 0: none */
    int http; /* HTTP status of the store, 0: none */
    char msg[512];
};

/* The kind's name in lower case ("not_found"); never NULL. Any thread. */
const char *larder_kind_name(enum larder_kind kind);

#ifdef __cplusplus
}
#endif
#endif
