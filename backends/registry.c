/* registry.c - the stores that are compiled in, and the few lines that all of them share (backend.h). */
#include "backends/backend.h"

#include <assert.h>
#include <string.h>

extern const struct ldr_backend_ops ldr_backend_local, ldr_backend_memory, ldr_backend_s3;

static const struct ldr_backend_ops *const all[] = { &ldr_backend_local, &ldr_backend_memory, &ldr_backend_s3 };

const struct ldr_backend_ops *ldr_backend_find(const char *kind)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(all); i++)
        if (!strcmp(all[i]->kind, kind))
            return all[i];
    return NULL;
}

const char *ldr_backend_kinds(void)
{
    return "local, memory, s3";
}

const char *ldr_store_cfg_get(const struct ldr_store_cfg *cfg, const char *name)
{
    for (size_t i = 0; i < cfg->n_config; i++)
        if (!strcmp(cfg->config[i].name, name))
            return cfg->config[i].value;
    return NULL;
}

void ldr_op_start_on_net(struct ldr_op *op)
{
    const struct ldr_backend_ops *ops = op->backend->ops;
    static const char *const cannot[LDR_OP_WHATS] = {
        [LDR_OP_COPY] = "copy",
        [LDR_OP_UPLOAD_BEGIN] = "take an object in parts",
        [LDR_OP_UPLOAD_PART] = "take an object in parts",
        [LDR_OP_UPLOAD_COPY] = "copy in parts",
        [LDR_OP_UPLOAD_END] = "take an object in parts",
        [LDR_OP_UPLOAD_ABORT] = "take an object in parts",
        [LDR_OP_DELETE_MANY] = "delete many objects at once",
        [LDR_OP_MAKE_CONTAINER] = "make a container",
        [LDR_OP_SIGN] = "sign URLs",
    };
    ldr_op_fn *const slot[LDR_OP_WHATS] = { [LDR_OP_GET] = ops->get,
                                            [LDR_OP_HEAD] = ops->head,
                                            [LDR_OP_PUT] = ops->put,
                                            [LDR_OP_DELETE] = ops->del,
                                            [LDR_OP_LIST] = ops->list,
                                            [LDR_OP_COPY] = ops->copy,
                                            [LDR_OP_UPLOAD_BEGIN] = ops->upload,
                                            [LDR_OP_UPLOAD_PART] = ops->upload,
                                            [LDR_OP_UPLOAD_COPY] = ops->upload,
                                            [LDR_OP_UPLOAD_END] = ops->upload,
                                            [LDR_OP_UPLOAD_ABORT] = ops->upload,
                                            [LDR_OP_DELETE_MANY] = ops->delete_many,
                                            [LDR_OP_MAKE_CONTAINER] = ops->make_container,
                                            [LDR_OP_SIGN] = ops->sign };

    assert(op->what < LDR_OP_WHATS);
    assert(op->what != LDR_OP_LIST || (op->max_entries >= 1 && op->max_entries <= LDR_PAGE_ENTRIES_MAX));
    if (!slot[op->what])
        ldr_op_done(op, ldr_fail(&op->err, LARDER_UNSUPPORTED, "\"%s\": a store \"%s\" cannot %s", op->uri, ops->kind,
                                 cannot[op->what]));
    else
        slot[op->what](op->backend, op);
}

void ldr_op_done(struct ldr_op *op, enum larder_kind kind)
{
    assert(op->priv == NULL); /* the backend let go of everything it had for this op */
    if (kind)
        ldr_page_release(&op->page); /* a listing is whole or none */
    op->kind = kind;
    op->done(op);
}

void ldr_op_rearm(struct ldr_op *op)
{
    op->kind = LARDER_OK;
    op->err = (struct larder_err){ 0 };
    op->retry_after_ms = 0;
    op->sent = op->not_modified = op->no_container = op->throttled = false;
    ldr_meta_release(&op->meta);
    ldr_page_release(&op->page);
}
