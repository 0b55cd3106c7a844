/* chain.c - which source of the chain applies, and what it needs (cred_impl.h). Reads files: on the pool.
 * The first one that is configured decides: where it does not work this is an error, not a reason to try the next. */
#include "backends/cred/cred_impl.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define CONTAINER_HOST   "http://169.254.170.2"
#define INSTANCE_HOST    "http://169.254.169.254"
#define INSTANCE_HOST_V6 "http://[fd00:ec2::254]"
#define SESSION_NAME     "larder"

static enum larder_kind no_memory(struct larder_err *err)
{
    return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
}

/* ---- roles ---- */

void ldr_cred_role_release(struct ldr_cred_role *r)
{
    ldr_cred_wipe(&r->arn);
    ldr_cred_wipe(&r->session_name);
    ldr_cred_wipe(&r->external_id);
    r->duration_s = 0;
}

enum larder_kind ldr_cred_role_set(struct ldr_cred_role *r, const char *arn, const char *session_name,
                                   const char *external_id, struct larder_err *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+=,.@-";
    size_t n = session_name ? strlen(session_name) : 0;
    enum larder_kind k = ldr_cred_check_text("role_arn", arn, err);

    if (!k && external_id)
        k = ldr_cred_check_text("external_id", external_id, err);
    if (k)
        return k;
    if (strlen(arn) > 2048 || (external_id && strlen(external_id) > 1224))
        return ldr_fail(err, LARDER_INVALID, "the role_arn or external_id is too long");
    if (n > 0 && (n < 2 || n > 64 || strspn(session_name, letters) != n))
        return ldr_fail(err, LARDER_INVALID,
                        "the role_session_name is no name of a session: 2 to 64 of A-Z a-z 0-9 _ + = , . @ -");
    *r = (struct ldr_cred_role){ .duration_s = LDR_CRED_STS_SESSION_S };
    if (!ldr_cred_copy(&r->arn, arn) || !ldr_cred_copy(&r->session_name, n ? session_name : SESSION_NAME) ||
        !ldr_cred_copy(&r->external_id, external_id)) {
        ldr_cred_role_release(r);
        return no_memory(err);
    }
    return LARDER_OK;
}

/* ---- the services ---- */

/* What a header's value comes from: read each time, as it is replaced under us. */
static enum larder_kind read_token(const char *what, const char *path, char **out, struct larder_err *err)
{
    struct ldr_buf text;
    enum larder_kind k = ldr_cred_read_file(what, path, LDR_CRED_TOKEN_MAX, &text, NULL, err);
    char *token;

    if (k)
        return k;
    text.p[text.len] = '\0'; /* read_file() left room for it */
    token = ldr_cred_trim((char *)text.p);
    if (!*token)
        k = ldr_fail(err, LARDER_INVALID, "%s \"%s\" is empty", what, path);
    if (!k)
        k = ldr_cred_check_text(what, token, err);
    if (!k && !ldr_cred_copy(out, token))
        k = no_memory(err);
    ldr_cred_wipe_buf(&text);
    return k;
}

enum larder_kind ldr_cred_plan_web_identity(struct ldr_cred_plan *p, const char *token_file, const char *arn,
                                            const char *session_name, struct larder_err *err)
{
    enum larder_kind k = ldr_cred_role_set(&p->web, arn, session_name, NULL, err);

    p->base = LDR_BASE_WEB_IDENTITY;
    p->name = "web identity";
    return k ? k : read_token("web identity token file", token_file, &p->token, err);
}

/* Only hosts of this machine are told the token without TLS. */
static bool is_own_host(const char *host, size_t n)
{
    static const char *const known[] = { "localhost", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "[::1]" };
    char text[INET_ADDRSTRLEN];
    struct in_addr v4;

    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++)
        if (n == strlen(known[i]) && !strncasecmp(host, known[i], n))
            return true;
    if (n >= sizeof text)
        return false;
    memcpy(text, host, n);
    text[n] = '\0';
    return inet_pton(AF_INET, text, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}

/* "http[s]://host[:port]…": the host, as it stands in brackets where it does. 0: it is none. */
static size_t host_of(const char *url, bool *https, const char **host)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    size_t n, port = 0;

    *https = !strncasecmp(url, "https://", 8);
    if (!*https && strncasecmp(url, "http://", 7) != 0)
        return 0;
    *host = url + (*https ? 8 : 7);
    if (**host == '[') {
        n = 1 + strspn(*host + 1, "0123456789abcdefABCDEF:.");
        n = (*host)[n] == ']' ? n + 1 : 0;
    } else {
        n = strspn(*host, letters);
    }
    if (n > 0 && (*host)[n] == ':')
        port = 1 + strspn(*host + n + 1, "0123456789");
    return strchr("/?#", (*host)[n + port]) ? n : 0; /* the end too */
}

static bool is_plain_url(const char *url)
{
    for (; *url; url++)
        if ((unsigned char)*url <= 0x20 || (unsigned char)*url >= 0x7f || strchr("\\\"<>^`{|}", *url))
            return false;
    return true;
}

enum larder_kind ldr_cred_plan_container(const struct ldr_cred_environ *e, struct ldr_cred_plan *p,
                                         struct larder_err *err)
{
    const char *relative = e->v[LDR_VAR_CONTAINER_RELATIVE_URI], *full = e->v[LDR_VAR_CONTAINER_FULL_URI], *host;
    const char *file = e->v[LDR_VAR_CONTAINER_TOKEN_FILE], *token = e->v[LDR_VAR_CONTAINER_TOKEN];
    const char *var = ldr_cred_var_names[relative ? LDR_VAR_CONTAINER_RELATIVE_URI : LDR_VAR_CONTAINER_FULL_URI];
    bool https;
    size_t n;

    p->base = LDR_BASE_CONTAINER;
    p->name = "container";
    if (!relative && !full)
        return ldr_fail(err, LARDER_INVALID, "neither %s nor %s is set",
                        ldr_cred_var_names[LDR_VAR_CONTAINER_RELATIVE_URI],
                        ldr_cred_var_names[LDR_VAR_CONTAINER_FULL_URI]);
    if (!is_plain_url(relative ? relative : full) || (relative && relative[0] != '/'))
        return ldr_fail(err, LARDER_INVALID, "%s is no address", var);
    if (!relative) {
        n = host_of(full, &https, &host);
        if (n == 0)
            return ldr_fail(err, LARDER_INVALID, "%s is no address: http[s]://HOST[:PORT]/PATH", var);
        if (!https && !is_own_host(host, n))
            return ldr_fail(err, LARDER_INVALID,
                            "%s names the host \"%.*s\": without https only hosts of this machine are asked", var,
                            (int)(n < 100 ? n : 100), host);
    }
    p->url = malloc(strlen(CONTAINER_HOST) + strlen(relative ? relative : full) + 1);
    if (!p->url)
        return no_memory(err);
    strcpy(stpcpy(p->url, relative ? CONTAINER_HOST : ""), relative ? relative : full);
    if (file)
        return read_token("container authorization token file", file, &p->token, err);
    if (token && ldr_cred_check_text(ldr_cred_var_names[LDR_VAR_CONTAINER_TOKEN], token, err))
        return LARDER_INVALID;
    return ldr_cred_copy(&p->token, token) ? LARDER_OK : no_memory(err);
}

static bool is_true(const char *text)
{
    return text && !strcasecmp(text, "true");
}

enum larder_kind ldr_cred_plan_instance(const struct ldr_cred_environ *e, struct ldr_cred_plan *p,
                                        struct larder_err *err)
{
    const char *url = e->v[LDR_VAR_METADATA_ENDPOINT], *mode = e->v[LDR_VAR_METADATA_ENDPOINT_MODE], *host;
    size_t len;
    bool https;

    p->base = LDR_BASE_INSTANCE;
    p->name = "instance metadata";
    if (is_true(e->v[LDR_VAR_METADATA_DISABLED]))
        return ldr_fail(err, LARDER_DENIED, "the instance metadata service is switched off by %s",
                        ldr_cred_var_names[LDR_VAR_METADATA_DISABLED]);
    if (!url)
        url = mode && !strcasecmp(mode, "ipv6") ? INSTANCE_HOST_V6 : INSTANCE_HOST;
    if (!is_plain_url(url) || strpbrk(url, "?#") || host_of(url, &https, &host) == 0)
        return ldr_fail(err, LARDER_INVALID, "%s is no address: http[s]://HOST[:PORT]",
                        ldr_cred_var_names[LDR_VAR_METADATA_ENDPOINT]);
    if (!ldr_cred_copy(&p->url, url))
        return no_memory(err);
    for (len = strlen(p->url); len > 0 && p->url[len - 1] == '/'; len--)
        p->url[len - 1] = '\0';
    return LARDER_OK;
}

/* ---- the order ---- */

static enum larder_kind plan_environment(const struct ldr_cred_environ *e, struct ldr_cred_plan *p,
                                         struct larder_err *err)
{
    p->base = LDR_BASE_KEYS;
    p->name = "environment";
    p->fixed = true;
    return ldr_cred_keys_set(&p->keys, "the environment", e->v[LDR_VAR_ACCESS_KEY_ID], e->v[LDR_VAR_SECRET_ACCESS_KEY],
                             e->v[LDR_VAR_SESSION_TOKEN], 0, err);
}

static enum larder_kind plan_settings(struct ldr_cred_settings *s, struct ldr_cred_plan *p, struct larder_err *err)
{
    enum larder_kind k = ldr_cred_settings_look(s, err);

    p->base = LDR_BASE_KEYS;
    p->name = s->path ? "secret key file" : "settings";
    p->fixed = !s->path;
    if (k && !s->keys.secret_key)
        return k; /* else the last good one stays in use */
    return ldr_cred_keys_set(&p->keys, "the settings", s->keys.access_key_id, s->keys.secret_key, s->keys.token, 0,
                             err);
}

static enum larder_kind plan_instance_last(const struct ldr_cred_environ *e, struct ldr_cred_plan *p,
                                           struct larder_err *err)
{
    struct larder_err why;
    enum larder_kind k = ldr_cred_plan_instance(e, p, &why);

    p->last = true;
    if (k)
        return ldr_fail(err, k, "no credentials in environment, shared files or container, and %s", why.msg);
    return LARDER_OK;
}

static enum larder_kind plan_chain(const struct ldr_cred_origin *o, struct ldr_cred_plan *p, struct larder_err *err)
{
    const struct ldr_cred_environ *e = &o->env;
    const char *token_file = e->v[LDR_VAR_WEB_IDENTITY_TOKEN_FILE];
    enum larder_kind k;
    bool found;

    if (!o->profile) { /* a profile that the settings name is meant; AWS_PROFILE stands behind the rest */
        if (e->v[LDR_VAR_ACCESS_KEY_ID] && e->v[LDR_VAR_SECRET_ACCESS_KEY])
            return plan_environment(e, p, err);
        if (token_file && !e->v[LDR_VAR_ROLE_ARN])
            return ldr_fail(err, LARDER_INVALID, "%s is set, but %s is not",
                            ldr_cred_var_names[LDR_VAR_WEB_IDENTITY_TOKEN_FILE], ldr_cred_var_names[LDR_VAR_ROLE_ARN]);
        if (token_file)
            return ldr_cred_plan_web_identity(p, token_file, e->v[LDR_VAR_ROLE_ARN], e->v[LDR_VAR_ROLE_SESSION_NAME],
                                              err);
    }
    k = ldr_cred_plan_profile(o, p, &found, err);
    if (k || found)
        return k;
    if (e->v[LDR_VAR_CONTAINER_RELATIVE_URI] || e->v[LDR_VAR_CONTAINER_FULL_URI])
        return ldr_cred_plan_container(e, p, err);
    return plan_instance_last(e, p, err);
}

enum larder_kind ldr_cred_plan_make(const struct ldr_cred_origin *o, struct ldr_cred_plan *out, struct larder_err *err)
{
    enum larder_kind k;

    *out = (struct ldr_cred_plan){ .name = "" };
    k = o->chain ? plan_chain(o, out, err) : plan_settings(o->settings, out, err);
    if (k || !o->role.arn)
        return k;
    if (out->n_roles == LDR_CRED_ROLES_MAX)
        return ldr_fail(err, LARDER_INVALID, "more than %d roles would have to be assumed one after another",
                        LDR_CRED_ROLES_MAX);
    k = ldr_cred_role_set(&out->roles[out->n_roles], o->role.arn, o->role.session_name, o->role.external_id, err);
    out->n_roles += !k;
    return k;
}

void ldr_cred_plan_release(struct ldr_cred_plan *p)
{
    ldr_cred_keys_release(&p->keys);
    ldr_cred_role_release(&p->web);
    ldr_cred_wipe(&p->url);
    ldr_cred_wipe(&p->token);
    while (p->n_roles > 0)
        ldr_cred_role_release(&p->roles[--p->n_roles]);
}
