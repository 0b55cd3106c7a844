/* op_upload.h - an upload in parts, op by op, on a backend of backend_driver.h. */
#ifndef OP_UPLOAD_H
#define OP_UPLOAD_H

#include "tests/support/backend_driver.h"

struct op_upload {
    struct bd *d;
    const char *container, *key;
    struct ldr_multipart m;
    struct ldr_upload_part parts[LDR_PARTS_MAX];
};

/* Set up for parts of `part_size` bytes; nothing is sent. */
void op_upload_init(struct op_upload *u, struct bd *d, const char *container, const char *key, uint64_t part_size);
/* Each runs one op; *err (may be NULL) is its error. Parts: any thread, several at a time. */
enum larder_kind op_upload_begin(struct op_upload *u, const struct ldr_meta *put_meta, struct larder_err *err);
enum larder_kind op_upload_part(struct op_upload *u, uint32_t n, const void *bytes, uint64_t size,
                                struct larder_err *err);
enum larder_kind op_upload_part_fd(struct op_upload *u, uint32_t n, int fd, uint64_t size, struct larder_err *err);
enum larder_kind op_upload_copy(struct op_upload *u, uint32_t n, const char *from, uint64_t offset, uint64_t length,
                                const char *if_match, struct larder_err *err);
/* `args` (may be NULL): create_only, if_match. `validator` (may be NULL) gets 256 bytes. */
enum larder_kind op_upload_end(struct op_upload *u, uint32_t n_parts, uint64_t size, const struct bd_args *args,
                               char *validator, struct larder_err *err);
enum larder_kind op_upload_abort(struct op_upload *u, struct larder_err *err);

#endif
