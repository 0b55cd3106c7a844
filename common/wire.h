/* wire.h - unpack and bound every message (larder.proto). What comes out has been checked: lengths, ids, fields, texts.
 * The transport's framing is not here: client/sp.c, and nng in the agent. Any thread. */
#ifndef LDR_WIRE_H
#define LDR_WIRE_H

#include "common/meta.h"
#include "common/fail.h"
#include "common/record.h"

#include "larder.pb-c.h"

#define LDR_WIRE_PROTOCOL    1
#define LDR_WIRE_HEADER_MAX  2048  /* bytes of a text that becomes a header of a store's request */
#define LDR_WIRE_BLOCKS      10000 /* of one upload */
#define LDR_WIRE_STAGING_MAX 64    /* bytes of the name of a staged file */

typedef Larder__Wire__Request ldr_wire_request; /* protobuf-c's own typedefs, under our names */
typedef Larder__Wire__Reply ldr_wire_reply;

/* INVALID: not a Request, over LDR_WIRE_REQUEST_MAX, or a field out of its bounds (a key over LDR_URI_MAX, an id of
 * another length than 0 or 16, data over LDR_WIRE_PART, …). A request without a body of this release: UNSUPPORTED.
 * *out is owned by the caller, ended by larder__wire__request__free_unpacked(…, NULL). */
enum larder_kind ldr_wire_unpack_request(const void *p, size_t n, ldr_wire_request **out, struct larder_err *err);
/* UNAVAILABLE: what the agent sent makes no sense. *out: larder__wire__reply__free_unpacked(…, NULL). */
enum larder_kind ldr_wire_unpack_reply(const void *p, size_t n, ldr_wire_reply **out, struct larder_err *err);

/* The failure that a reply carries, into *err; OK: none. */
enum larder_kind ldr_wire_status(const ldr_wire_reply *r, struct larder_err *err);

/* A Meta message as struct ldr_meta (initialised, owned by the caller). CORRUPT: fields that are not well-formed. */
enum larder_kind ldr_wire_get_meta(const Larder__Wire__Meta *m, struct ldr_meta *out, struct larder_err *err);
/* The other way: borrows the fields of `meta`. */
void ldr_wire_set_meta(const struct ldr_meta *meta, Larder__Wire__Meta *out);

#endif
