/* op_upload.c - see op_upload.h. */
#include "tests/support/op_upload.h"

#include <string.h>

void op_upload_init(struct op_upload *u, struct bd *d, const char *container, const char *key, uint64_t part_size)
{
    memset(u, 0, sizeof *u);
    u->d = d;
    u->container = container;
    u->key = key;
    u->m.part_size = part_size;
    u->m.parts = u->parts;
}

/* Run `op`, which has all but its names. */
static enum larder_kind run(struct op_upload *u, struct ldr_op *op, char *validator, struct larder_err *err)
{
    struct bd_result r;

    op->container = u->container;
    op->key = u->key;
    op->from_container = u->container;
    op->upload = &u->m;
    bd_op(u->d, op, &r);
    if (err)
        *err = r.err;
    if (validator)
        memcpy(validator, r.validator, sizeof r.validator);
    bd_result_release(&r);
    return r.kind;
}

enum larder_kind op_upload_begin(struct op_upload *u, const struct ldr_meta *put_meta, struct larder_err *err)
{
    return run(u, &(struct ldr_op){ .what = LDR_OP_UPLOAD_BEGIN, .fd = -1, .put_meta = put_meta }, NULL, err);
}

enum larder_kind op_upload_part(struct op_upload *u, uint32_t n, const void *bytes, uint64_t size,
                                struct larder_err *err)
{
    return run(u,
               &(struct ldr_op){ .what = LDR_OP_UPLOAD_PART, .part = n, .bytes = bytes, .fd = -1, .size_bytes = size },
               NULL, err);
}

enum larder_kind op_upload_part_fd(struct op_upload *u, uint32_t n, int fd, uint64_t size, struct larder_err *err)
{
    return run(u, &(struct ldr_op){ .what = LDR_OP_UPLOAD_PART, .part = n, .fd = fd, .size_bytes = size }, NULL, err);
}

enum larder_kind op_upload_copy(struct op_upload *u, uint32_t n, const char *from, uint64_t offset, uint64_t length,
                                const char *if_match, struct larder_err *err)
{
    return run(u,
               &(struct ldr_op){ .what = LDR_OP_UPLOAD_COPY,
                                 .part = n,
                                 .fd = -1,
                                 .from_key = from,
                                 .offset = offset,
                                 .length = length,
                                 .if_match = if_match },
               NULL, err);
}

enum larder_kind op_upload_end(struct op_upload *u, uint32_t n_parts, uint64_t size, const struct bd_args *args,
                               char *validator, struct larder_err *err)
{
    u->m.n_parts = n_parts;
    return run(u,
               &(struct ldr_op){ .what = LDR_OP_UPLOAD_END,
                                 .fd = -1,
                                 .size_bytes = size,
                                 .create_only = args && args->create_only,
                                 .if_match = args ? args->if_match : NULL },
               validator, err);
}

enum larder_kind op_upload_abort(struct op_upload *u, struct larder_err *err)
{
    return run(u, &(struct ldr_op){ .what = LDR_OP_UPLOAD_ABORT, .fd = -1 }, NULL, err);
}
