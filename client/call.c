/* call.c - see call.h. Any thread. */
#include "client/call.h"

#include <string.h>
#include <unistd.h>

enum larder_kind ldr_call_init(struct ldr_call *c, struct larder *l, const char *uri, enum ldr_call_mode mode,
                               int timeout_ms, struct larder_err *err)
{
    struct ldr_uri u;
    enum larder_kind k = uri ? ldr_uri_parse(uri, &u, err) : ldr_fail(err, LARDER_INVALID, "no reference was given");

    if (k)
        return k;
    memset(c, 0, offsetof(struct ldr_call, key));
    c->l = l;
    c->mode = mode;
    c->timeout_ms = timeout_ms;
    c->version.known = false;
    c->text_len = ldr_uri_text(&u, c->text);
    c->key_len = ldr_index_key(c->text, c->text_len, c->key);
    return LARDER_OK;
}

void ldr_call_done(struct ldr_call *c)
{
    if (c->hit && !c->asked)
        ldr_count(c->l, LDR_COUNT_HITS);
    if (c->touch)
        ldr_touch_count(c->touch, c->prefix, c->served);
    ldr_call_drop(c);
    ldr_version_forget(&c->version);
}

int ldr_call_shown(const struct ldr_call *c)
{
    size_t n = strcspn(c->text, "?");

    return (int)(n < 200 ? n : 200);
}

void ldr_call_size(struct ldr_call *c, uint64_t total)
{
    c->sized = true;
    c->total = total;
    c->begin = c->offset < total ? c->offset : total;
    c->end = c->length && c->length < total - c->begin ? c->begin + c->length : total;
    if (c->mode == LDR_CALL_READ && c->end - c->begin > c->cap)
        c->end = c->begin + c->cap;
}

void ldr_call_drop(struct ldr_call *c)
{
    larder_object_free(&c->object);
    c->data = NULL;
    if (c->block_fd > 0)
        close(c->block_fd);
    c->block_fd = 0;
}

bool ldr_call_room(struct ldr_call *c, const struct ldr_id *id)
{
    size_t n = c->end - c->begin;

    if (!c->data || c->room != n) { /* else what an earlier attempt made serves again */
        ldr_call_drop(c);
        c->object = ldr_object_new(n, &c->data);
        c->room = n;
    }
    if (!c->object)
        return false;
    ldr_object_describe(c->object, !c->asked, id, c->begin, c->total);
    return true;
}

enum larder_kind ldr_call_piece(struct ldr_call *c, const void *p, size_t n, uint64_t offset, struct larder_err *err)
{
    enum larder_kind k;

    if (c->mode == LDR_CALL_STREAM) {
        c->delivered = true;
        k = c->write(c->user, p, n, offset, c->total);
        return k ? ldr_fail(err, k, "the reader of \"%.*s\" gave up", ldr_call_shown(c), c->text) : LARDER_OK;
    }
    if (n > 0)
        memcpy((c->mode == LDR_CALL_VIEW ? c->data : c->buf) + (offset - c->begin), p, n);
    return LARDER_OK;
}
