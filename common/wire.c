/* wire.c - see wire.h. protobuf-c checks wire types and UTF-8-free lengths; the meaning is checked here. */
#include "common/wire.h"
#include "common/uri.h"

#include <string.h>

static bool id_ok(ProtobufCBinaryData b)
{
    return b.len == 0 || b.len == sizeof(struct ldr_id);
}

static bool key_ok(const char *key)
{
    return strnlen(key, LDR_URI_MAX + 1) <= LDR_URI_MAX;
}

static enum larder_kind invalid(struct larder_err *err, const char *what)
{
    return ldr_fail(err, LARDER_INVALID, "request with a malformed %s", what);
}

/* It goes into a header of a store's request. */
static bool header_ok(const char *text, bool spaces)
{
    size_t n = strnlen(text, LDR_WIRE_HEADER_MAX + 1);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < (spaces ? 0x20 : 0x21) || text[i] == 0x7f)
            return false;
    return n <= LDR_WIRE_HEADER_MAX;
}

static enum larder_kind check_put(const Larder__Wire__Put *m, struct larder_err *err)
{
    if (!key_ok(m->key))
        return invalid(err, "key");
    if (m->size > LDR_PUT_MAX)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED,
                        "could not put \"%.200s\": %llu bytes are more than the %llu that one put takes", m->key,
                        (unsigned long long)m->size, (unsigned long long)LDR_PUT_MAX);
    if (m->data.len > LDR_WIRE_PART || (m->upload_id == 0 && m->size != m->data.len) ||
        (m->upload_id != 0 && m->data.len))
        return invalid(err, "body");
    if (!header_ok(m->if_match, false))
        return invalid(err, "condition");
    return ldr_fields_valid(m->fields.data, m->fields.len) ? LARDER_OK : invalid(err, "list of fields");
}

static enum larder_kind check_part(const Larder__Wire__PutPart *m, struct larder_err *err)
{
    if (m->upload_id == 0 || m->data.len > LDR_WIRE_PART || m->size > LDR_PUT_MAX || m->offset > m->size ||
        m->data.len > m->size - m->offset)
        return invalid(err, "part");
    return LARDER_OK;
}

static enum larder_kind check_open(const Larder__Wire__UploadOpen *m, struct larder_err *err)
{
    if (!key_ok(m->key))
        return invalid(err, "key");
    if (m->upload_id == 0 || (m->size && !m->size_known))
        return invalid(err, "upload");
    if (m->size > LDR_OBJECT_SIZE_MAX)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "could not write \"%.200s\": no object has more than %llu bytes",
                        m->key, (unsigned long long)LDR_OBJECT_SIZE_MAX);
    if (!header_ok(m->if_match, false))
        return invalid(err, "condition");
    return ldr_fields_valid(m->fields.data, m->fields.len) ? LARDER_OK : invalid(err, "list of fields");
}

/* Of a message about an upload by blocks. */
static enum larder_kind check_block(uint64_t upload_id, uint32_t block, uint64_t at, uint64_t len,
                                    struct larder_err *err)
{
    if (upload_id == 0 || block >= LDR_WIRE_BLOCKS || at > LDR_OBJECT_SIZE_MAX || len > LDR_OBJECT_SIZE_MAX)
        return invalid(err, "block of an upload");
    return LARDER_OK;
}

static enum larder_kind check_keys(char *const *key, size_t n, struct larder_err *err)
{
    if (n > LDR_WIRE_MANY)
        return invalid(err, "number of keys");
    for (size_t i = 0; i < n; i++)
        if (!key_ok(key[i]))
            return invalid(err, "key");
    return LARDER_OK;
}

static enum larder_kind check_sign(const Larder__Wire__Sign *m, struct larder_err *err)
{
    if (!key_ok(m->key))
        return invalid(err, "key");
    if (m->lifetime_s == 0 || m->lifetime_s > INT32_MAX)
        return invalid(err, "lifetime");
    if (!header_ok(m->content_md5, false) || !header_ok(m->content_type, true))
        return invalid(err, "header");
    return LARDER_OK;
}

/* It becomes a path below rw/staging. */
static bool staging_ok(const Larder__Wire__Staging *m)
{
    return strnlen(m->name, LDR_WIRE_STAGING_MAX + 1) <= LDR_WIRE_STAGING_MAX && m->name[0] != '.' &&
           !strchr(m->name, '/') && m->size > 0 && m->size <= LDR_OBJECT_SIZE_MAX && m->block < LDR_WIRE_BLOCKS;
}

static bool page_ok(const Larder__Wire__Page *p)
{
    if (strnlen(p->next, LDR_WIRE_START_MAX + 1) > LDR_WIRE_START_MAX)
        return false;
    for (size_t i = 0; i < p->n_entry; i++)
        if (!key_ok(p->entry[i]->key) || p->entry[i]->size > LDR_OBJECT_SIZE_MAX)
            return false;
    return true;
}

static bool many_ok(const Larder__Wire__Many *m)
{
    for (size_t i = 0; i < m->n_item; i++)
        if (!id_ok(m->item[i]->object_id))
            return false;
    return true;
}

static enum larder_kind check_list(const Larder__Wire__List *m, struct larder_err *err)
{
    if (!key_ok(m->prefix))
        return invalid(err, "prefix");
    if (strnlen(m->delimiter, 65) > 64)
        return invalid(err, "delimiter");
    return strnlen(m->start, LDR_WIRE_START_MAX + 1) <= LDR_WIRE_START_MAX ? LARDER_OK : invalid(err, "start");
}

enum larder_kind ldr_wire_unpack_request(const void *p, size_t n, ldr_wire_request **out, struct larder_err *err)
{
    ldr_wire_request *r;
    enum larder_kind k = LARDER_OK;

    if (n > LDR_WIRE_REQUEST_MAX)
        return invalid(err, "length");
    r = larder__wire__request__unpack(NULL, n, p);
    if (!r)
        return invalid(err, "encoding");
    switch (r->body_case) {
    case LARDER__WIRE__REQUEST__BODY_GET:
        if (!key_ok(r->get->key))
            k = invalid(err, "key");
        else if (!id_ok(r->get->seen_id))
            k = invalid(err, "object id");
        else if (r->get->offset > LDR_OBJECT_SIZE_MAX || r->get->length > LDR_OBJECT_SIZE_MAX ||
                 r->get->ahead > LDR_OBJECT_SIZE_MAX)
            k = invalid(err, "range");
        else if (r->get->validator.len > LDR_META_MAX ||
                 (r->get->validator.len && memchr(r->get->validator.data, 0, r->get->validator.len)))
            k = invalid(err, "validator");
        break;
    case LARDER__WIRE__REQUEST__BODY_PUT:
        k = check_put(r->put, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_PUT_PART:
        k = check_part(r->put_part, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_HEAD:
        k = key_ok(r->head->key) ? LARDER_OK : invalid(err, "key");
        break;
    case LARDER__WIRE__REQUEST__BODY_DELETE:
        k = key_ok(r->delete_->key) ? LARDER_OK : invalid(err, "key");
        break;
    case LARDER__WIRE__REQUEST__BODY_GET_MANY:
        k = check_keys(r->get_many->key, r->get_many->n_key, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_DELETE_MANY:
        k = check_keys(r->delete_many->key, r->delete_many->n_key, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_OPEN:
        k = check_open(r->upload_open, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_BLOCK:
        k = check_block(r->upload_block->upload_id, r->upload_block->block, 0, 0, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_DATA:
        k = check_block(r->upload_data->upload_id, r->upload_data->block, r->upload_data->offset, 0, err);
        if (!k && (r->upload_data->data.len == 0 || r->upload_data->data.len > LDR_WIRE_PART))
            k = invalid(err, "part");
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_SEAL:
        k = check_block(r->upload_seal->upload_id, r->upload_seal->block, 0, r->upload_seal->length, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_UPLOAD_COMMIT:
        k = check_block(r->upload_commit->upload_id, 0, 0, r->upload_commit->size, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_SIGN:
        k = check_sign(r->sign, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_LIST:
        k = check_list(r->list, err);
        break;
    case LARDER__WIRE__REQUEST__BODY_COPY:
        k = key_ok(r->copy->from) && key_ok(r->copy->to) ? LARDER_OK : invalid(err, "key");
        break;
    case LARDER__WIRE__REQUEST__BODY_WHY:
        k = key_ok(r->why->key) ? LARDER_OK : invalid(err, "key");
        break;
    case LARDER__WIRE__REQUEST__BODY_HELLO:
    case LARDER__WIRE__REQUEST__BODY_STATUS:
    case LARDER__WIRE__REQUEST__BODY_ABORT:
        break;
    default:
        k = ldr_fail(err, LARDER_UNSUPPORTED, "request of a kind that this agent does not know");
    }
    if (k) {
        larder__wire__request__free_unpacked(r, NULL);
        return k;
    }
    *out = r;
    return LARDER_OK;
}

enum larder_kind ldr_wire_unpack_reply(const void *p, size_t n, ldr_wire_reply **out, struct larder_err *err)
{
    ldr_wire_reply *r = n <= LDR_WIRE_REPLY_MAX ? larder__wire__reply__unpack(NULL, n, p) : NULL;

    if (!r)
        return ldr_fail(err, LARDER_UNAVAILABLE, "the agent's answer could not be read");
    if (!id_ok(r->object_id) ||
        (r->body_case == LARDER__WIRE__REPLY__BODY_BYTES && r->bytes->data.len > LDR_WIRE_CHUNK) ||
        (r->body_case == LARDER__WIRE__REPLY__BODY_PAGE && !page_ok(r->page)) ||
        (r->body_case == LARDER__WIRE__REPLY__BODY_STAGING && !staging_ok(r->staging)) ||
        (r->body_case == LARDER__WIRE__REPLY__BODY_MANY && !many_ok(r->many))) {
        larder__wire__reply__free_unpacked(r, NULL);
        return ldr_fail(err, LARDER_UNAVAILABLE, "the agent's answer makes no sense");
    }
    *out = r;
    return LARDER_OK;
}

enum larder_kind ldr_wire_status(const ldr_wire_reply *r, struct larder_err *err)
{
    enum larder_kind k;

    if (!r->status || r->status->kind == LARDER_OK)
        return LARDER_OK;
    k = ldr_kind_from_wire(r->status->kind);
    if (r->status->kind != (uint32_t)k)
        ldr_fail(err, k, "failure of a kind this release does not know (%u): %s", r->status->kind, r->status->message);
    else
        ldr_fail(err, k, "%s", r->status->message);
    if (err) {
        err->sys = r->status->sys;
        err->http = r->status->http;
    }
    return k;
}

enum larder_kind ldr_wire_get_meta(const Larder__Wire__Meta *m, struct ldr_meta *out, struct larder_err *err)
{
    struct ldr_meta meta;

    if (m->size > LDR_OBJECT_SIZE_MAX || !ldr_fields_valid(m->fields.data, m->fields.len))
        return ldr_fail(err, LARDER_CORRUPT, "metadata that is not well-formed");
    ldr_meta_init(&meta);
    meta.size_bytes = m->size;
    meta.last_modified_s = m->last_modified_known ? m->last_modified : LDR_TIME_UNKNOWN;
    if (!ldr_buf_add(&meta.fields, m->fields.data, m->fields.len))
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for metadata");
    *out = meta;
    return LARDER_OK;
}

void ldr_wire_set_meta(const struct ldr_meta *meta, Larder__Wire__Meta *out)
{
    larder__wire__meta__init(out);
    out->size = meta->size_bytes;
    out->last_modified_known = meta->last_modified_s != LDR_TIME_UNKNOWN;
    out->last_modified = out->last_modified_known ? meta->last_modified_s : 0;
    out->fields.data = meta->fields.p;
    out->fields.len = meta->fields.len;
}
