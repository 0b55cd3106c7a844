/* put.h - what the ways to write an object have in common: put.c (in one request), writer.c (by blocks), copy.c. */
#ifndef LDR_PUT_H
#define LDR_PUT_H

#include "client/client.h"

/* Options of a put, read and checked: into *out, which borrows from them, and as tagged fields into *meta (initialised).
 * INVALID, LIMIT_EXCEEDED, UNSUPPORTED. In put.c. */
enum larder_kind ldr_put_options(const struct larder_put_opts *opts, struct larder_put_opts *out, struct ldr_meta *meta,
                                 struct larder_err *err);

uint64_t ldr_upload_id(void); /* random, never 0 */
/* Best effort, for a second at most and not behind `deadline_ns`: an agent that does not hear it forgets the upload by
 * itself. */
void ldr_upload_abort(struct larder *l, uint64_t upload_id, int64_t deadline_ns);

/* larder_writer_open() for one call that has until `deadline_ns`, whatever it does with the writer. In writer.c. */
enum larder_kind ldr_writer_open_by(struct larder *l, const char *uri, uint64_t size,
                                    const struct larder_put_opts *opts, int64_t deadline_ns, struct larder_writer **out,
                                    struct larder_err *err);

#endif
