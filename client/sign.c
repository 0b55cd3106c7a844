/* sign.c - larder_sign(): a URL that works without credentials for a while. The agent makes it; what comes back is checked,
 * as it ends in command lines and headers. Any thread. */
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

#define LIFETIME_DEFAULT_S 3600
#define LIFETIME_MAX_S     (7 * 24 * 3600)
#define HEADERS_MAX        64

/* base64 of 16 bytes: 22 characters, of which the last has two bits, and the padding. */
static bool is_md5(const char *s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    return strlen(s) == 24 && strspn(s, digits) == 22 && strchr("AQgw", s[21]) && !strcmp(s + 22, "==");
}

static bool printable(const char *s, char least)
{
    for (; *s; s++)
        if (*s < least || *s > 0x7e)
            return false;
    return true;
}

static enum larder_kind check_opts(const struct larder_sign_opts *o, struct larder_err *err)
{
    if (o->lifetime_s < 0)
        return ldr_fail(err, LARDER_INVALID, "a lifetime of less than 0 seconds");
    if (!o->put && (o->content_md5 || o->content_type || o->md5_in_metadata))
        return ldr_fail(err, LARDER_INVALID, "content type and MD5 belong to a URL for a put");
    if (o->content_md5 && !is_md5(o->content_md5))
        return ldr_fail(err, LARDER_INVALID, "the MD5 is not base64 of 16 bytes");
    if (o->md5_in_metadata && !o->content_md5)
        return ldr_fail(err, LARDER_INVALID, "an MD5 in the metadata needs an MD5");
    if (o->content_type && (!*o->content_type || !printable(o->content_type, ' ')))
        return ldr_fail(err, LARDER_INVALID, "a content type that is empty or not printable ASCII");
    return LARDER_OK;
}

static bool header_ok(const char *h)
{
    size_t name = strcspn(h, ": ");

    return name > 0 && h[name] == ':' && h[name + 1] == ' ' && printable(h, ' ');
}

static bool signed_ok(const Larder__Wire__Signed *s)
{
    if (!*s->url || !printable(s->url, '!') || s->n_header > HEADERS_MAX)
        return false;
    for (size_t i = 0; i < s->n_header; i++)
        if (!header_ok(s->header[i]))
            return false;
    return true;
}

/* False: out of memory; what there is of *out is the caller's all the same. */
static bool copy_signed(const Larder__Wire__Signed *s, struct larder_signed *out)
{
    out->url = strdup(s->url);
    out->headers = calloc(s->n_header + 1, sizeof *out->headers);
    out->expires = s->expires;
    if (!out->url || !out->headers)
        return false;
    for (size_t i = 0; i < s->n_header; i++) {
        out->headers[i] = strdup(s->header[i]);
        if (!out->headers[i])
            return false;
        out->n_headers++;
    }
    return true;
}

enum larder_kind larder_sign(struct larder *l, const char *uri, const struct larder_sign_opts *opts, int timeout_ms,
                             struct larder_signed *out, struct larder_err *err)
{
    Larder__Wire__Sign sign = LARDER__WIRE__SIGN__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    struct larder_signed made = { 0 };
    struct larder_sign_opts o;
    ldr_wire_reply *reply = NULL;
    char text[LDR_URI_MAX + 1];
    enum larder_kind k = ldr_canonical(uri, text, err);

    if (!k)
        k = ldr_read_opts(opts, offsetof(struct larder_sign_opts, md5_in_metadata) + sizeof o.md5_in_metadata, &o,
                          sizeof o, "sign", err);
    if (!k)
        k = check_opts(&o, err);
    if (k)
        return k;
    req.body_case = LARDER__WIRE__REQUEST__BODY_SIGN;
    req.sign = &sign;
    sign.key = text;
    sign.put = o.put != 0;
    sign.lifetime_s = o.lifetime_s == 0               ? LIFETIME_DEFAULT_S
                      : o.lifetime_s < LIFETIME_MAX_S ? (uint64_t)o.lifetime_s
                                                      : LIFETIME_MAX_S;
    sign.content_md5 = (char *)(uintptr_t)(o.content_md5 ? o.content_md5 : "");
    sign.content_type = (char *)(uintptr_t)(o.content_type ? o.content_type : "");
    sign.md5_in_metadata = o.md5_in_metadata != 0;
    k = ldr_ask(l, &req, LDR_ASK_READ, ldr_call_deadline(timeout_ms), &reply, err);
    if (k)
        return k;
    if (reply->body_case != LARDER__WIRE__REPLY__BODY_SIGNED || !signed_ok(reply->signed_))
        k = ldr_answer_unknown(err);
    else if (!copy_signed(reply->signed_, &made))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a signed URL");
    larder__wire__reply__free_unpacked(reply, NULL);
    if (k)
        larder_signed_free(&made);
    else
        *out = made;
    return k;
}

void larder_signed_free(struct larder_signed *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_headers; i++)
        free(s->headers[i]);
    free(s->headers);
    free(s->url);
    *s = (struct larder_signed){ 0 };
}
