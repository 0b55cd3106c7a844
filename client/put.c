/* put.c - writes: a whole object in one request, in parts that the agent gathers, or (a large one) by writer.c; delete. The
 * agent carries a write out once (op_id), and answers when the store has it and every reader of this node sees it. Any
 * thread. */
#include "client/put.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define ABORT_MS 1000 /* spent on telling the agent that an upload was given up */

/* Printable ASCII: what every store's headers can carry. */
static bool printable(const char *s)
{
    for (; *s; s++)
        if (*s < 0x20 || *s > 0x7e)
            return false;
    return true;
}

/* The name in lower case, into `out`; false: empty, too long, or a character that a header's name cannot have. */
static bool user_name(const char *name, char *out, size_t cap)
{
    size_t n = 0;

    for (; *name; name++, n++) {
        char ch = *name >= 'A' && *name <= 'Z' ? (char)(*name + ('a' - 'A')) : *name;

        if (n + 1 >= cap ||
            !((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_' || ch == '.'))
            return false;
        out[n] = ch;
    }
    out[n] = '\0';
    return n > 0;
}

enum larder_kind ldr_read_opts(const void *opts, size_t first, void *out, size_t size, const char *what,
                               struct larder_err *err)
{
    size_t given;

    memset(out, 0, size);
    if (!opts)
        return LARDER_OK;
    memcpy(&given, opts, sizeof given);
    given = given ? given : size;
    if (given < first)
        return ldr_fail(err, LARDER_INVALID, "%s options of %zu bytes: struct_size is not set to their size", what,
                        given);
    for (size_t i = size; i < given; i++)
        if (((const uint8_t *)opts)[i])
            return ldr_fail(err, LARDER_UNSUPPORTED, "%s options that this release of the library does not know", what);
    memcpy(out, opts, given < size ? given : size);
    return LARDER_OK;
}

/* Text of a header, under its tag. */
static enum larder_kind add_header(struct ldr_meta *meta, enum ldr_tag tag, const char *what, const char *text,
                                   struct larder_err *err)
{
    if (!text)
        return LARDER_OK;
    if (!printable(text))
        return ldr_fail(err, LARDER_INVALID, "%s with characters that are not printable ASCII", what);
    if (!ldr_meta_add_text(meta, tag, text))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the %s is too long", what);
    return LARDER_OK;
}

static bool has_user(const struct ldr_meta *meta, const char *name)
{
    struct ldr_field f;

    for (size_t pos = 0; ldr_fields_next(meta->fields.p, meta->fields.len, &pos, &f);)
        if (f.tag == LDR_TAG_USER && f.len > strlen(name) && !memcmp(f.p, name, strlen(name) + 1))
            return true;
    return false;
}

static enum larder_kind add_user(struct ldr_meta *meta, const char *given, const char *value, struct larder_err *err)
{
    char name[256];

    if (!given || !value || !user_name(given, name, sizeof name))
        return ldr_fail(err, LARDER_INVALID,
                        "name of user metadata \"%.100s\" is not made of letters, digits, -, _ and .",
                        given && printable(given) ? given : "");
    if (!printable(value))
        return ldr_fail(err, LARDER_INVALID,
                        "value of user metadata \"%.100s\" has characters that are not printable ASCII", name);
    if (has_user(meta, name))
        return ldr_fail(err, LARDER_INVALID, "user metadata \"%.100s\" is given twice", name);
    if (!ldr_meta_add_pair(meta, LDR_TAG_USER, name, value))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "user metadata of more than %" PRIu64 " bytes",
                        (uint64_t)LDR_META_MAX);
    return LARDER_OK;
}

/* Options as tagged fields. */
static enum larder_kind make_fields(const struct larder_put_opts *o, struct ldr_meta *meta, struct larder_err *err)
{
    const struct {
        enum ldr_tag tag;
        const char *what, *text;
    } headers[] = {
        { LDR_TAG_CONTENT_TYPE, "content type", o->content_type },
        { LDR_TAG_CONTENT_ENCODING, "content encoding", o->content_encoding },
        { LDR_TAG_CACHE_CONTROL, "cache control", o->cache_control },
        { LDR_TAG_CONTENT_DISPOSITION, "content disposition", o->content_disposition },
        { LDR_TAG_CONTENT_LANGUAGE, "content language", o->content_language },
    };
    enum larder_kind k = LARDER_OK;

    for (size_t i = 0; i < LDR_ARRAY_LEN(headers) && !k; i++)
        k = add_header(meta, headers[i].tag, headers[i].what, headers[i].text, err);
    if (!k && o->n_user && !o->user)
        return ldr_fail(err, LARDER_INVALID, "user metadata is missing");
    for (size_t i = 0; i < o->n_user && !k; i++)
        k = add_user(meta, o->user[2 * i], o->user[2 * i + 1], err);
    return k;
}

enum larder_kind ldr_put_options(const struct larder_put_opts *opts, struct larder_put_opts *out, struct ldr_meta *meta,
                                 struct larder_err *err)
{
    enum larder_kind k = ldr_read_opts(opts, offsetof(struct larder_put_opts, create_only) + sizeof out->create_only,
                                       out, sizeof *out, "put", err);

    if (k)
        return k;
    if (out->if_match && (!*out->if_match || !printable(out->if_match) || strlen(out->if_match) > LDR_WIRE_HEADER_MAX))
        return ldr_fail(err, LARDER_INVALID, "an ETag to match that is empty, too long or not printable ASCII");
    if (out->if_match && out->create_only)
        return ldr_fail(err, LARDER_INVALID, "an object cannot both be there with an ETag and not be there");
    return make_fields(out, meta, err);
}

enum larder_kind ldr_canonical(const char *uri, char text[LDR_URI_MAX + 1], struct larder_err *err)
{
    struct ldr_uri u;
    enum larder_kind k = uri ? ldr_uri_parse(uri, &u, err) : ldr_fail(err, LARDER_INVALID, "no reference was given");

    if (!k)
        ldr_uri_text(&u, text);
    return k;
}

/* Hand the bytes to the agent in parts; nothing reaches the store yet, so a part may be sent twice. */
static enum larder_kind send_parts(struct larder *l, uint64_t upload_id, const uint8_t *data, size_t len,
                                   int64_t deadline_ns, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    for (size_t offset = 0; !k && offset < len; offset += LDR_WIRE_PART) {
        Larder__Wire__PutPart part = LARDER__WIRE__PUT_PART__INIT;
        ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

        req.body_case = LARDER__WIRE__REQUEST__BODY_PUT_PART;
        req.put_part = &part;
        part.upload_id = upload_id;
        part.offset = offset;
        part.size = len;
        part.data.data = (uint8_t *)(uintptr_t)data + offset;
        part.data.len = len - offset < LDR_WIRE_PART ? len - offset : LDR_WIRE_PART;
        k = ldr_tell(l, &req, LDR_ASK_READ, deadline_ns, err);
    }
    return k;
}

void ldr_upload_abort(struct larder *l, uint64_t upload_id, int64_t deadline_ns)
{
    Larder__Wire__Abort abort_msg = LARDER__WIRE__ABORT__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    int64_t soon = ldr_deadline_ns(ABORT_MS);

    req.body_case = LARDER__WIRE__REQUEST__BODY_ABORT;
    req.abort = &abort_msg;
    abort_msg.upload_id = upload_id;
    ldr_tell(l, &req, LDR_ASK_READ, deadline_ns < soon ? deadline_ns : soon, NULL);
}

uint64_t ldr_upload_id(void)
{
    uint64_t id = 0;

    if (getrandom(&id, sizeof id, GRND_NONBLOCK) != sizeof id)
        id = (uint64_t)ldr_mono_ns() ^ (uintptr_t)&id << 16;
    return id ? id : 1; /* 0: no upload */
}

/* More than one request can carry: by blocks. */
static enum larder_kind put_large(struct larder *l, const char *uri, const void *data, size_t len,
                                  const struct larder_put_opts *opts, int64_t deadline_ns, struct larder_err *err)
{
    struct larder_writer *w;
    enum larder_kind k = ldr_writer_open_by(l, uri, len, opts, deadline_ns, &w, err);

    if (k)
        return k;
    k = larder_writer_write(w, data, len, err);
    if (!k)
        return larder_writer_commit(&w, err);
    larder_writer_abort(&w);
    return k;
}

enum larder_kind larder_put(struct larder *l, const char *uri, const void *data, size_t len,
                            const struct larder_put_opts *opts, int timeout_ms, struct larder_err *err)
{
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    struct larder_put_opts o;
    struct ldr_meta meta;
    char text[LDR_URI_MAX + 1];
    int64_t deadline_ns;
    enum larder_kind k = ldr_canonical(uri, text, err);

    ldr_meta_init(&meta);
    if (!k)
        k = ldr_put_options(opts, &o, &meta, err);
    if (!k && len > 0 && !data)
        k = ldr_fail(err, LARDER_INVALID, "no data was given");
    if (k)
        goto done;
    deadline_ns = ldr_call_deadline(timeout_ms);
    if (len > LDR_PUT_MAX) {
        k = put_large(l, uri, data, len, opts, deadline_ns, err);
        goto done;
    }
    req.body_case = LARDER__WIRE__REQUEST__BODY_PUT;
    req.put = &put;
    put.key = text;
    put.size = len;
    put.create_only = o.create_only != 0;
    put.if_match = (char *)(uintptr_t)(o.if_match ? o.if_match : "");
    put.fields.data = meta.fields.p;
    put.fields.len = meta.fields.len;
    if (len <= LDR_WIRE_PART) {
        put.data.data = (uint8_t *)(uintptr_t)data;
        put.data.len = len;
    } else {
        put.upload_id = ldr_upload_id();
        k = send_parts(l, put.upload_id, data, len, deadline_ns, err);
    }
    if (!k)
        k = ldr_tell(l, &req, LDR_ASK_WRITE, deadline_ns, err);
    if (k && k != LARDER_OUTCOME_UNKNOWN && k != LARDER_NO_AGENT && put.upload_id)
        ldr_upload_abort(l, put.upload_id, deadline_ns);
done:
    ldr_meta_release(&meta);
    return k;
}

enum larder_kind larder_delete(struct larder *l, const char *uri, int timeout_ms, struct larder_err *err)
{
    Larder__Wire__Delete del = LARDER__WIRE__DELETE__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    char text[LDR_URI_MAX + 1];
    enum larder_kind k = ldr_canonical(uri, text, err);

    if (k)
        return k;
    req.body_case = LARDER__WIRE__REQUEST__BODY_DELETE;
    req.delete_ = &del;
    del.key = text;
    k = ldr_tell(l, &req, LDR_ASK_WRITE, ldr_call_deadline(timeout_ms), err);
    return k == LARDER_NOT_FOUND ? LARDER_OK : k;
}
