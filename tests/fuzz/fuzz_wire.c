/* fuzz_wire.c - messages of both directions. What comes out keeps the bounds that wire.h promises, and packs again. */
#include "common/uri.h"
#include "common/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_request(const ldr_wire_request *r)
{
    switch (r->body_case) {
    case LARDER__WIRE__REQUEST__BODY_GET:
        check(strlen(r->get->key) <= LDR_URI_MAX && (r->get->seen_id.len == 0 || r->get->seen_id.len == 16));
        check(r->get->validator.len <= LDR_META_MAX);
        break;
    case LARDER__WIRE__REQUEST__BODY_PUT:
        check(strlen(r->put->key) <= LDR_URI_MAX && r->put->data.len <= LDR_WIRE_PART && r->put->size <= LDR_PUT_MAX);
        check(ldr_fields_valid(r->put->fields.data, r->put->fields.len));
        check(r->put->upload_id || r->put->size == r->put->data.len);
        break;
    case LARDER__WIRE__REQUEST__BODY_PUT_PART:
        check(r->put_part->data.len <= LDR_WIRE_PART && r->put_part->size <= LDR_PUT_MAX);
        check(r->put_part->offset + r->put_part->data.len <= r->put_part->size);
        break;
    case LARDER__WIRE__REQUEST__BODY_HEAD:
        check(strlen(r->head->key) <= LDR_URI_MAX);
        break;
    case LARDER__WIRE__REQUEST__BODY_DELETE:
        check(strlen(r->delete_->key) <= LDR_URI_MAX);
        break;
    case LARDER__WIRE__REQUEST__BODY_GET_MANY:
        check(r->get_many->n_key <= LDR_WIRE_MANY);
        for (size_t i = 0; i < r->get_many->n_key; i++)
            check(strlen(r->get_many->key[i]) <= LDR_URI_MAX);
        break;
    case LARDER__WIRE__REQUEST__BODY_LIST:
        check(strlen(r->list->prefix) <= LDR_URI_MAX && strlen(r->list->start) <= LDR_WIRE_START_MAX);
        break;
    case LARDER__WIRE__REQUEST__BODY_COPY:
        check(strlen(r->copy->from) <= LDR_URI_MAX && strlen(r->copy->to) <= LDR_URI_MAX);
        break;
    default:
        check(r->body_case != LARDER__WIRE__REQUEST__BODY__NOT_SET);
    }
}

static void check_meta(const Larder__Wire__Meta *m)
{
    struct larder_err err;
    struct ldr_meta meta;
    Larder__Wire__Meta back;

    if (ldr_wire_get_meta(m, &meta, &err))
        return;
    check(ldr_fields_valid(meta.fields.p, meta.fields.len) && meta.size_bytes <= LDR_OBJECT_SIZE_MAX);
    ldr_wire_set_meta(&meta, &back);
    check(back.size == m->size && back.fields.len == m->fields.len);
    ldr_meta_release(&meta);
}

static void check_reply(const ldr_wire_reply *r)
{
    struct larder_err err;
    enum larder_kind k = ldr_wire_status(r, &err);

    check(k == LARDER_OK || (err.kind == k && strnlen(err.msg, sizeof err.msg) < sizeof err.msg));
    check(r->object_id.len == 0 || r->object_id.len == 16);
    if (r->body_case == LARDER__WIRE__REPLY__BODY_META)
        check_meta(r->meta);
    if (r->body_case == LARDER__WIRE__REPLY__BODY_PAGE)
        for (size_t i = 0; i < r->page->n_entry; i++)
            check(strlen(r->page->entry[i]->key) <= LDR_URI_MAX && r->page->entry[i]->etag);
    if (r->body_case == LARDER__WIRE__REPLY__BODY_MANY)
        for (size_t i = 0; i < r->many->n_item; i++)
            check(r->many->item[i]->object_id.len == 0 || r->many->item[i]->object_id.len == 16);
    if (r->body_case == LARDER__WIRE__REPLY__BODY_BYTES) {
        check(r->bytes->data.len <= LDR_WIRE_CHUNK);
        if (r->bytes->meta)
            check_meta(r->bytes->meta);
    }
}

static void pack_again(const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = malloc(n + !n);

    check(protobuf_c_message_pack(m, p) == n);
    free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    uint8_t *exact = malloc(n + !n);
    ldr_wire_request *request;
    ldr_wire_reply *reply;
    struct larder_err err;

    memcpy(exact, p, n);
    if (ldr_wire_unpack_request(exact, n, &request, &err) == LARDER_OK) {
        check_request(request);
        pack_again(&request->base);
        larder__wire__request__free_unpacked(request, NULL);
    }
    if (ldr_wire_unpack_reply(exact, n, &reply, &err) == LARDER_OK) {
        check_reply(reply);
        pack_again(&reply->base);
        larder__wire__reply__free_unpacked(reply, NULL);
    }
    free(exact);
    return 0;
}
