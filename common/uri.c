/* uri.c - see uri.h. The first half is step 1 of every get: the literal dialect, canonical text and index key; it
 * allocates nothing. The second half is Flyte's dialect: RFC 3986 references with the habits of Go's net/url, which its
 * users' references were made by. Each such habit says so where it is. */
#include "common/uri.h"
#include "common/buf.h"
#include "common/hash.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_PREFIX 440 /* bytes of a long text that stay readable, and in order, in its index key */
#define SHOWN_MAX    200 /* bytes of a reference in a message */

static bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static char to_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

/* How long a scheme `text` starts with: a letter, then letters, digits, +, - and . */
static size_t scheme_span(const char *text)
{
    size_t n = 0;

    while (is_alpha(text[n]) || (n > 0 && (is_digit(text[n]) || text[n] == '+' || text[n] == '-' || text[n] == '.')))
        n++;
    return n;
}

/* INVALID, quoting the reference without what may be secret: nothing up to the last `@` (a password may hold any
 * character, `/` and `?` too), nothing behind a `?` (a signature). Nothing from a control character on either. */
static enum larder_kind invalid(struct larder_err *err, const char *text, const char *why)
{
    const char *at = strrchr(text, '@'), *from = at ? at + 1 : text;
    size_t max = at && memchr(text, '?', (size_t)(at - text)) ? 0 : SHOWN_MAX, n = 0;

    while (n < max && from[n] && from[n] != '?' && !is_control(from[n]))
        n++;
    while (n > 0 && ((unsigned char)from[n] & 0xC0) == 0x80) /* not in the middle of a character */
        n--;
    return ldr_fail(err, LARDER_INVALID, "reference \"%s%.*s%s\" %s", at ? "..." : "", (int)n, from,
                    from[n] ? "..." : "", why);
}

/* ---- the literal dialect ---- */

/* Is `scheme` one of Azure's, where the container stands before the `@`? */
static bool is_azure(const char *scheme, size_t len)
{
    return (len == 4 && !memcmp(scheme, "abfs", 4)) || (len == 5 && !memcmp(scheme, "abfss", 5));
}

static enum larder_kind parse(const char *text, bool prefix, struct ldr_uri *out, struct larder_err *err)
{
    size_t scheme_len = scheme_span(text);
    struct ldr_uri u;
    const char *slash, *at;

    if (scheme_len == 0 || strncmp(text + scheme_len, "://", 3) != 0)
        return invalid(err, text, "is not of the form scheme://container/key");
    if (scheme_len > LDR_SCHEME_MAX)
        return invalid(err, text, "has a scheme that is too long");
    for (size_t i = 0; i < scheme_len; i++)
        u.scheme[i] = to_lower(text[i]);
    u.scheme[scheme_len] = '\0';

    u.container = text + scheme_len + 3;
    slash = strchr(u.container, '/');
    if (!slash && !prefix)
        return invalid(err, text, "has no key: scheme://container/key is needed");
    if (!slash)
        slash = text + strlen(text);
    u.container_len = (size_t)(slash - u.container);
    u.key = *slash ? slash + 1 : slash;
    u.key_len = strlen(u.key);

    at = memrchr(u.container, '@', u.container_len);
    if (at) {
        size_t user_len = (size_t)(at - u.container);
        const char *colon = memchr(u.container, ':', user_len); /* a password is no part of the name */
        size_t name_len = colon ? (size_t)(colon - u.container) : user_len;

        if (is_azure(u.scheme, scheme_len) && name_len > 0) {
            if (memchr(u.container, '@', name_len))
                return invalid(err, text, "has more than one @ before its key");
            u.container_len = name_len;
        } else {
            u.container = at + 1;
            u.container_len = (size_t)(slash - u.container);
        }
    }
    if (is_azure(u.scheme, scheme_len))
        u.scheme[4] = '\0'; /* abfss is abfs */

    if (u.container_len == 0)
        return invalid(err, text,
                       strcmp(u.scheme, "file") ? "has no container: scheme://container/key is needed"
                                                : "has no container: local objects are named file://CONTAINER/KEY, "
                                                  "below the path of the local store");
    if (u.container_len > LDR_CONTAINER_MAX)
        return invalid(err, text, "has a container name that is too long");
    for (size_t i = 0; i < u.container_len; i++)
        if (is_control(u.container[i]))
            return invalid(err, text, "has a control character in its container name");
    if (u.key_len == 0 && !prefix)
        return invalid(err, text, "has no key: scheme://container/key is needed");
    if (u.key_len > LDR_KEY_MAX)
        return invalid(err, text, "has a key that is too long");
    *out = u;
    return LARDER_OK;
}

enum larder_kind ldr_uri_parse(const char *text, struct ldr_uri *out, struct larder_err *err)
{
    return parse(text, false, out, err);
}

enum larder_kind ldr_uri_parse_prefix(const char *text, struct ldr_uri *out, struct larder_err *err)
{
    return parse(text, true, out, err);
}

size_t ldr_uri_text(const struct ldr_uri *u, char *out)
{
    size_t scheme_len = strlen(u->scheme);
    char *p = out;

    p = mempcpy(p, u->scheme, scheme_len);
    p = mempcpy(p, "://", 3);
    p = mempcpy(p, u->container, u->container_len);
    *p++ = '/';
    p = mempcpy(p, u->key, u->key_len);
    *p = '\0';
    return (size_t)(p - out);
}

size_t ldr_index_key(const char *text, size_t len, uint8_t out[LDR_INDEX_KEY_MAX])
{
    XXH128_canonical_t hash;

    if (len <= LDR_INDEX_KEY_MAX) {
        memcpy(out, text, len);
        return len;
    }
    XXH128_canonicalFromHash(&hash, XXH3_128bits(text, len));
    memcpy(out, text, SHORT_PREFIX);
    out[SHORT_PREFIX] = 0; /* no text holds a NUL: a shortened key is never another object's text */
    memcpy(out + SHORT_PREFIX + 1, hash.digest, sizeof hash.digest);
    return SHORT_PREFIX + 1 + sizeof hash.digest;
}

/* ---- Flyte's dialect ---- */

struct span {
    const char *p;
    size_t n;
};

/* A parsed reference. Every span is the raw text, checked: escapes are well-formed wherever the part has any. */
struct url {
    struct span scheme, opaque, user, password, host, path, query, fragment;
    bool has_user, has_password;
    bool has_query; /* an empty query's `?` is kept */
    bool omit_host; /* `s3:/path`: printed without `//` */
};

/* Characters that a part may hold besides letters, digits and -_.~; all others are escaped when it is printed. */
#define PATH_CHARS     "$&+,/:;=@"
#define USER_CHARS     "$&+,;="
#define HOST_CHARS     "!$&'()*+,;=:[]<>\""
#define FRAGMENT_CHARS "$&+,/:;=?@!()*"
/* A path or fragment made of these stays as it was written, its escapes included. */
#define PATH_AS_IS     "!$&'()*+,;=:@[]/%"
#define FRAGMENT_AS_IS PATH_AS_IS "?"

static bool in_class(char c, const char *also)
{
    return is_alpha(c) || is_digit(c) || (c && strchr("-_.~", c)) || (c && strchr(also, c));
}

static bool all_in_class(struct span s, const char *also)
{
    for (size_t i = 0; i < s.n; i++)
        if (!in_class(s.p[i], also))
            return false;
    return true;
}

/* Cut `s` at its first `c`: returns what stands before, leaves what stands behind (nothing if there is no `c`). */
static struct span cut(struct span *s, char c, bool *found)
{
    const char *at = s->n ? memchr(s->p, c, s->n) : NULL;
    struct span before = { s->p, at ? (size_t)(at - s->p) : s->n };
    size_t skip = before.n + (at ? 1 : 0);

    s->p += skip;
    s->n -= skip;
    *found = at != NULL;
    return before;
}

/* The byte of the escape at the start of `s`; false: no `%` and two hex digits there. */
static bool escaped_byte(struct span s, uint8_t *byte)
{
    return s.n >= 3 && s.p[0] == '%' && ldr_unhex(s.p + 1, 2, byte, 1);
}

static bool escapes_ok(struct span s)
{
    uint8_t byte;

    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '%' && !escaped_byte((struct span){ s.p + i, s.n - i }, &byte))
            return false;
    return true;
}

/* `:digits`, `:` or nothing. */
static bool port_ok(struct span s)
{
    if (s.n > 0 && s.p[0] != ':')
        return false;
    for (size_t i = 1; i < s.n; i++)
        if (!is_digit(s.p[i]))
            return false;
    return true;
}

/* Host names escape nothing of ASCII but the percent sign; the zone of an IPv6 address also what it could hold plainly,
 * and spaces. */
static bool host_chars_ok(struct span s, bool zone)
{
    for (size_t i = 0; i < s.n; i++) {
        uint8_t byte;

        if (s.p[i] == '%') {
            if (!escaped_byte((struct span){ s.p + i, s.n - i }, &byte))
                return false;
            if (byte != '%' && (zone ? byte != ' ' && !in_class((char)byte, HOST_CHARS) : byte < 0x80))
                return false;
            i += 2;
        } else if (!((unsigned char)s.p[i] & 0x80) && !in_class(s.p[i], HOST_CHARS)) {
            return false;
        }
    }
    return true;
}

/* The inside of `[…]`: an IPv6 address, with `%25ZONE` perhaps. */
static bool ipv6_ok(struct span s)
{
    const char *zone = s.n ? memmem(s.p, s.n, "%25", 3) : NULL;
    size_t n = zone ? (size_t)(zone - s.p) : s.n;
    char text[INET6_ADDRSTRLEN];
    struct in6_addr addr;

    if (n >= sizeof text)
        return false;
    if (zone && (s.n - n == 3 || !host_chars_ok((struct span){ zone, s.n - n }, true)))
        return false;
    if (n)
        memcpy(text, s.p, n);
    text[n] = '\0';
    return inet_pton(AF_INET6, text, &addr) == 1;
}

static const char *check_host(struct span s)
{
    const char *open = s.n ? memrchr(s.p, '[', s.n) : NULL, *end;

    if (open) {
        end = memrchr(s.p, ']', s.n);
        if (open != s.p || !end || !ipv6_ok((struct span){ s.p + 1, (size_t)(end - s.p) - 1 }))
            return "has a malformed IP address in brackets";
        return port_ok((struct span){ end + 1, s.n - (size_t)(end - s.p) - 1 }) ? NULL : "has a malformed port";
    }
    end = s.n ? memrchr(s.p, ':', s.n) : NULL; /* colons before the last one are let pass: lists of hosts */
    if (end && !port_ok((struct span){ end, s.n - (size_t)(end - s.p) }))
        return "has a malformed port";
    return host_chars_ok(s, false) ? NULL : "has a malformed host name";
}

static const char *parse_authority(struct span s, struct url *u)
{
    const char *at = s.n ? memrchr(s.p, '@', s.n) : NULL;

    if (at) {
        struct span info = { s.p, (size_t)(at - s.p) };

        if (!all_in_class(info, "!$&'()*+,;=:%@") || !escapes_ok(info))
            return "has malformed user information";
        u->has_user = true;
        u->user = cut(&info, ':', &u->has_password);
        u->password = info;
        s = (struct span){ at + 1, s.n - info.n - u->user.n - (u->has_password ? 2 : 1) };
    }
    u->host = s;
    return check_host(s);
}

/* Read `text` as an absolute or relative reference; `out` borrows from it. Returns NULL, or what is wrong with it. */
static const char *url_parse(struct span text, struct url *out)
{
    struct url u = { 0 };
    struct span rest;
    bool found;
    size_t n;
    const char *why = NULL;

    u.fragment = text;
    text = cut(&u.fragment, '#', &found);
    for (size_t i = 0; i < text.n; i++)
        if (is_control(text.p[i]))
            return "has a control character";
    if (text.n > 0 && text.p[0] == ':')
        return "has no scheme before its colon";

    n = text.n ? scheme_span(text.p) : 0; /* ends by itself: a NUL or # stands behind the text */
    if (n < text.n && text.p[n] == ':') {
        u.scheme = (struct span){ text.p, n };
        text = (struct span){ text.p + n + 1, text.n - n - 1 };
    }
    u.query = text;
    rest = cut(&u.query, '?', &u.has_query);

    if (rest.n == 0 || rest.p[0] != '/') {
        if (u.scheme.n) { /* `mailto:x`: neither host nor path */
            u.opaque = rest;
            rest.n = 0;
        } else {
            struct span tail = rest, segment = cut(&tail, '/', &found);

            if (segment.n && memchr(segment.p, ':', segment.n))
                return "has a colon in its first segment, but no scheme";
        }
    } else if (rest.n >= 2 && rest.p[1] == '/' && (u.scheme.n || rest.n < 3 || rest.p[2] != '/')) {
        struct span authority = { rest.p + 2, rest.n - 2 };
        const char *slash = authority.n ? memchr(authority.p, '/', authority.n) : NULL;

        if (slash)
            authority.n = (size_t)(slash - authority.p);
        rest = (struct span){ authority.p + authority.n, rest.n - 2 - authority.n };
        why = parse_authority(authority, &u);
    } else {
        u.omit_host = u.scheme.n > 0;
    }
    u.path = rest;
    if (!why && !(escapes_ok(u.path) && escapes_ok(u.fragment)))
        why = "has a percent sign that escapes nothing (%25 is a percent sign)";
    if (!why)
        *out = u;
    return why;
}

/* The decoded text of `s`, escaped anew as a part of class `also`. */
static bool add_escaped(struct ldr_buf *b, struct span s, const char *also)
{
    static const char hex[] = "0123456789ABCDEF";
    bool ok = true;

    for (size_t i = 0; ok && i < s.n; i++) {
        uint8_t byte = (uint8_t)s.p[i];

        if (escaped_byte((struct span){ s.p + i, s.n - i }, &byte))
            i += 2;
        if (in_class((char)byte, also))
            ok = ldr_buf_add(b, &byte, 1);
        else
            ok = ldr_buf_add(b, (char[]){ '%', hex[byte >> 4], hex[byte & 15] }, 3);
    }
    return ok;
}

/* A path or a fragment as Go prints it: as it was written where that is printable, else escaped anew. */
static bool add_as_is(struct ldr_buf *b, struct span s, const char *as_is, const char *also)
{
    return all_in_class(s, as_is) ? ldr_buf_add(b, s.p, s.n) : add_escaped(b, s, also);
}

/* The path of a parsed reference. A `*` alone is the one character that Go takes out of its escape. */
static bool add_path(struct ldr_buf *b, struct span path)
{
    if (path.n == 3 && !memcmp(path.p, "%2A", 3))
        return ldr_buf_add(b, "*", 1);
    return add_as_is(b, path, PATH_AS_IS, PATH_CHARS);
}

/* The path `ref` in the context of the path `base`, both escaped (RFC 3986, 5.2.3 and 5.2.4). A result that is not
 * empty starts with a `/`. As in Go, an empty segment that a `..` made the first one is lost: `/a/..//b` is `/b`. */
static bool add_resolved(struct ldr_buf *b, struct span base, struct span ref)
{
    struct ldr_buf full = LDR_BUF_INIT(base.n + ref.n), out = LDR_BUF_INIT(base.n + ref.n + 1);
    const char *slash = base.n ? memrchr(base.p, '/', base.n) : NULL;
    bool ok, more, first = true;
    struct span rest;

    if (ref.n > 0) /* beside base's last segment, or from the root */
        base.n = slash && ref.p[0] != '/' ? (size_t)(slash - base.p) + 1 : 0;
    ok = ldr_buf_add(&full, base.p, base.n) && ldr_buf_add(&full, ref.p, ref.n);
    rest = (struct span){ (const char *)full.p, full.len };
    more = full.len > 0;
    while (ok && more) {
        struct span s = cut(&rest, '/', &more);
        bool up = s.n == 2 && !memcmp(s.p, "..", 2), dot = s.n == 1 && s.p[0] == '.';

        if (up) {
            const uint8_t *last = out.len ? memrchr(out.p, '/', out.len) : NULL;

            out.len = last ? (size_t)(last - out.p) : 0;
        } else if (!dot) {
            ok = (first || ldr_buf_add(&out, "/", 1)) && ldr_buf_add(&out, s.p, s.n);
        }
        first = up && out.len == 0;
        if ((up || dot) && !more) /* names a folder */
            ok = ldr_buf_add(&out, "/", 1);
    }
    if (full.len > 0 && (out.len == 0 || out.p[0] != '/'))
        ok = ok && ldr_buf_add(b, "/", 1);
    ok = ok && ldr_buf_add(b, out.p, out.len);
    ldr_buf_release(&full);
    ldr_buf_release(&out);
    return ok;
}

/* `rel` in the context of `base` (RFC 3986, 5.2.2) into `out`, which borrows from both, and from `path`, where its path
 * is made. False: out of memory. */
static bool url_resolve(const struct url *base, const struct url *rel, struct ldr_buf *path, struct url *out)
{
    struct ldr_buf from = LDR_BUF_INIT(3 * base->path.n), to = LDR_BUF_INIT(3 * rel->path.n);
    bool own = rel->scheme.n > 0 || rel->host.n > 0 || rel->has_user, ok;
    struct url u = *rel;

    if (rel->scheme.n == 0)
        u.scheme = base->scheme;
    if (!own && rel->path.n == 0 && !rel->has_query) {
        u.query = base->query;
        u.has_query = base->query.n > 0;
        if (rel->fragment.n == 0)
            u.fragment = base->fragment;
    }
    if (!own && rel->path.n == 0)
        u.opaque = base->opaque;
    if (!own && u.opaque.n == 0) {
        u.has_user = base->has_user;
        u.user = base->user;
        u.has_password = base->has_password;
        u.password = base->password;
        u.host = base->host;
    }
    ok = (own || add_path(&from, base->path)) && add_path(&to, rel->path) &&
         add_resolved(path, (struct span){ (const char *)from.p, from.len },
                      (struct span){ (const char *)to.p, to.len });
    u.path = (struct span){ (const char *)path->p, path->len };
    *out = u;
    ldr_buf_release(&from);
    ldr_buf_release(&to);
    return ok;
}

/* The text of a resolved reference: its path is escaped, and empty or absolute. */
static bool url_print(struct ldr_buf *b, const struct url *u)
{
    bool ok = true;

    for (size_t i = 0; ok && i < u->scheme.n; i++)
        ok = ldr_buf_add(b, (char[]){ to_lower(u->scheme.p[i]) }, 1);
    if (u->scheme.n)
        ok = ok && ldr_buf_add(b, ":", 1);
    if (u->opaque.n) {
        ok = ok && ldr_buf_add(b, u->opaque.p, u->opaque.n);
    } else {
        if (u->host.n || u->has_user || (u->scheme.n && u->path.n && !u->omit_host))
            ok = ok && ldr_buf_add(b, "//", 2);
        if (u->has_user)
            ok = ok && add_escaped(b, u->user, USER_CHARS) && (!u->has_password || ldr_buf_add(b, ":", 1)) &&
                 add_escaped(b, u->password, USER_CHARS) && ldr_buf_add(b, "@", 1);
        ok = ok && add_escaped(b, u->host, HOST_CHARS) && ldr_buf_add(b, u->path.p, u->path.n);
    }
    if (u->has_query)
        ok = ok && ldr_buf_add(b, "?", 1) && ldr_buf_add(b, u->query.p, u->query.n);
    if (u->fragment.n)
        ok = ok && ldr_buf_add(b, "#", 1) && add_as_is(b, u->fragment, FRAGMENT_AS_IS, FRAGMENT_CHARS);
    return ok;
}

static enum larder_kind no_memory(struct larder_err *err)
{
    return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a reference");
}

void ldr_ref_release(struct ldr_ref *r)
{
    free(r->scheme);
    free(r->container);
    free(r->key);
    *r = (struct ldr_ref){ 0 };
}

/* `s` unescaped, as a string of its own; *len without the NUL behind it. NULL: out of memory. */
static char *decoded(struct span s, size_t *len)
{
    char *out = malloc(s.n + 1), *p = out;

    if (!out)
        return NULL;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t byte = (uint8_t)s.p[i];

        if (escaped_byte((struct span){ s.p + i, s.n - i }, &byte))
            i += 2;
        *p++ = (char)byte;
    }
    *p = '\0';
    *len = (size_t)(p - out);
    return out;
}

enum larder_kind ldr_ref_split(const char *reference, struct ldr_ref *out, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    struct ldr_ref r = { 0 };
    size_t container_len = 0, key_len = 0, slashes;
    struct url u;
    const char *why = url_parse((struct span){ reference, strlen(reference) }, &u);

    if (why)
        return invalid(err, reference, why);
    r.scheme = strndup(u.scheme.n ? u.scheme.p : "", u.scheme.n);
    for (size_t i = 0; r.scheme && r.scheme[i]; i++)
        r.scheme[i] = to_lower(r.scheme[i]);
    r.container = decoded(r.scheme && is_azure(r.scheme, u.scheme.n) && u.user.n ? u.user : u.host, &container_len);
    r.key = decoded(u.path, &key_len);
    if (!r.scheme || !r.container || !r.key) {
        k = no_memory(err);
        goto done;
    }
    if (strlen(r.container) != container_len || strlen(r.key) != key_len) {
        k = invalid(err, reference, "has a NUL (%00) in its container or key");
        goto done;
    }
    while (key_len > 0 && r.key[key_len - 1] == '/')
        r.key[--key_len] = '\0';
    slashes = strspn(r.key, "/");
    memmove(r.key, r.key + slashes, key_len - slashes + 1);
    *out = r;
    r = (struct ldr_ref){ 0 };
done:
    ldr_ref_release(&r);
    return k;
}

/* The keys without the slashes around them, with one between them. */
static bool add_keys(struct ldr_buf *b, const char *const keys[], size_t n)
{
    bool ok = true;

    for (size_t i = 0; ok && i < n; i++) {
        const char *key = keys[i] + strspn(keys[i], "/");
        size_t len = strlen(key);

        while (len > 0 && key[len - 1] == '/')
            len--;
        ok = (i == 0 || ldr_buf_add(b, "/", 1)) && ldr_buf_add(b, key, len);
    }
    return ok;
}

enum larder_kind ldr_ref_join(const char *base, const char *const keys[], size_t n, char **out, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    size_t base_len = strlen(base), keys_len = 0;
    struct url from, to, u;
    const char *why;

    for (size_t i = 0; i < n; i++)
        keys_len += strlen(keys[i]) + 1;
    /* No part becomes longer than three times what it was, all bytes escaped; a few separators come in. */
    struct ldr_buf folder = LDR_BUF_INIT(base_len + 1), nested = LDR_BUF_INIT(keys_len),
                   path = LDR_BUF_INIT(3 * (base_len + keys_len) + 16),
                   text = LDR_BUF_INIT(3 * (base_len + keys_len) + 16);

    if (!ldr_buf_add(&folder, base, base_len) ||
        ((base_len == 0 || base[base_len - 1] != '/') && !ldr_buf_add(&folder, "/", 1)) ||
        !add_keys(&nested, keys, n) || !ldr_buf_str(&folder) || !ldr_buf_str(&nested)) {
        k = no_memory(err);
        goto done;
    }
    why = url_parse((struct span){ ldr_buf_str(&folder), folder.len }, &from);
    if (why) {
        k = invalid(err, ldr_buf_str(&folder), why);
        goto done;
    }
    why = url_parse((struct span){ ldr_buf_str(&nested), nested.len }, &to);
    if (why) {
        k = invalid(err, ldr_buf_str(&nested), why);
        goto done;
    }
    if (!url_resolve(&from, &to, &path, &u) || !url_print(&text, &u) || !ldr_buf_str(&text)) {
        k = no_memory(err);
        goto done;
    }
    *out = strdup(ldr_buf_str(&text));
    if (!*out)
        k = no_memory(err);
done:
    ldr_buf_release(&folder);
    ldr_buf_release(&nested);
    ldr_buf_release(&path);
    ldr_buf_release(&text);
    return k;
}

enum larder_kind ldr_ref_new(const char *scheme, const char *container, const char *key, char **out,
                             struct larder_err *err)
{
    char *text;

    if (asprintf(&text, "%s://%s/%s", scheme, container, key) < 0)
        return no_memory(err);
    *out = text;
    return LARDER_OK;
}
