/* sts.c - the security token service: a role with credentials (AssumeRole), or with the token of an identity provider
 * (AssumeRoleWithWebIdentity, not signed) (cred_impl.h). Net thread. */
#include "backends/cred/cred_impl.h"
#include "backends/sign/sigv4.h"
#include "backends/xml.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define VERSION    "2011-06-15"
#define FORM_TYPE  "application/x-www-form-urlencoded; charset=utf-8"
#define SKEW_MIN_S 240 /* AWS refuses what is 5 minutes off */

static bool add(struct ldr_buf *form, const char *name, const char *value)
{
    return ldr_buf_addf(form, "%s%s=", form->len ? "&" : "", name) && ldr_sigv4_escape(form, value, false);
}

static bool write_form(struct ldr_buf *form, const char *action, const struct ldr_cred_role *role, const char *token)
{
    char seconds[16];

    snprintf(seconds, sizeof seconds, "%d", role->duration_s);
    return add(form, "Action", action) && add(form, "Version", VERSION) && add(form, "RoleArn", role->arn) &&
           add(form, "RoleSessionName", role->session_name) && add(form, "DurationSeconds", seconds) &&
           (!role->external_id || add(form, "ExternalId", role->external_id)) &&
           (!token || add(form, "WebIdentityToken", token));
}

static const struct ldr_cred_role *role_of(const struct ldr_cred_renewal *r, bool web)
{
    return web ? &r->plan.web : &r->plan.roles[r->next_role - 1];
}

static enum larder_kind prepare(struct ldr_cred_renewal *r, const char *action, const struct ldr_cred_role *role,
                                const char *token, ldr_cred_call_fn *on_done, struct larder_err *err)
{
    struct ldr_cred_call *c = &r->call;

    if (!r->sts_url)
        return ldr_fail(err, LARDER_INVALID, "%s (or %s) is no address: http[s]://HOST[:PORT]",
                        ldr_cred_var_names[LDR_VAR_ENDPOINT_URL_STS], ldr_cred_var_names[LDR_VAR_ENDPOINT_URL]);
    ldr_cred_call_reset(c);
    c->method = "POST";
    c->ca_file = r->ca_file;
    c->on_done = on_done;
    if (!ldr_cred_call_url(c, r->sts_url, "") || !ldr_cred_call_header(c, "Content-Type", FORM_TYPE) ||
        !write_form(&c->form, action, role, token))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the request to the token service is too large");
    return LARDER_OK;
}

/* What it refused, and why. The words of a refusal may repeat what was sent, so only its code is told. */
static enum larder_kind explain(struct ldr_cred_renewal *r, const struct ldr_cred_role *role, struct larder_err *err)
{
    static const char *const may_pass[] = { "Throttling", "ThrottlingException", "RequestLimitExceeded",
                                            "IDPCommunicationError", "SlowDown" };
    char code[64], id[80];
    const struct ldr_xml_want want_code[] = { { "Code", code, sizeof code } };
    const struct ldr_xml_want want_id[] = { { "RequestId", id, sizeof id } };
    const struct ldr_cred_call *c = &r->call;
    enum larder_kind kind = LARDER_DENIED;

    ldr_xml_read(c->body.p, c->body.len, "ErrorResponse/Error", want_code, 1);
    ldr_xml_read(c->body.p, c->body.len, "ErrorResponse", want_id, 1);
    for (size_t i = 0; i < LDR_ARRAY_LEN(may_pass); i++)
        if (!strcmp(code, may_pass[i]))
            kind = LARDER_UNAVAILABLE;
    return ldr_fail_http(err, kind, c->status, "the token service refused role \"%.200s\": %s%s%s%s", role->arn,
                         *code ? code : "no reason given", *id ? " (request id " : "", id, *id ? ")" : "");
}

/* `path` names the element with the credentials. */
static enum larder_kind read_keys(struct ldr_cred_renewal *r, const char *path, struct larder_err *err)
{
    struct {
        char id[256], secret[512], expiration[64], token[LDR_CRED_TOKEN_MAX + 2];
    } *t = calloc(1, sizeof *t);
    enum larder_kind k;
    int64_t expires;

    if (!t)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
    if (!ldr_xml_read(r->call.body.p, r->call.body.len, path,
                      (struct ldr_xml_want[]){ { "AccessKeyId", t->id, sizeof t->id },
                                               { "SecretAccessKey", t->secret, sizeof t->secret },
                                               { "SessionToken", t->token, sizeof t->token },
                                               { "Expiration", t->expiration, sizeof t->expiration } },
                      4) ||
        !t->id[0] || strlen(t->id) == sizeof t->id - 1 || strlen(t->secret) == sizeof t->secret - 1 ||
        strlen(t->token) == sizeof t->token - 1)
        k = ldr_fail(err, LARDER_UNAVAILABLE, "the token service answered with something that is no credentials");
    else if (!(expires = ldr_cred_time_s(t->expiration)))
        k = ldr_fail(err, LARDER_UNAVAILABLE, "the token service answered with an Expiration that is no time");
    else
        k = ldr_cred_keys_set(&r->keys, "the token service", t->id, t->secret, t->token, expires, err);
    OPENSSL_cleanse(t, sizeof *t);
    free(t);
    return k;
}

/* ---- with the token of an identity provider ---- */

static void web_done(struct ldr_cred_call *c, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(c, struct ldr_cred_renewal, call);
    struct larder_err err;

    if (kind)
        err = *why;
    else if (c->status != 200)
        kind = explain(r, role_of(r, true), &err);
    else
        kind = read_keys(r, "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials", &err);
    ldr_cred_renew_step(r, kind, &err);
}

void ldr_cred_web_identity_on_net(struct ldr_cred_renewal *r)
{
    struct larder_err err;
    enum larder_kind k = prepare(r, "AssumeRoleWithWebIdentity", role_of(r, true), r->plan.token, web_done, &err);

    if (k)
        ldr_cred_renew_step(r, k, &err);
    else
        ldr_cred_call_start(&r->call);
}

/* ---- with credentials ---- */

static void assume_done(struct ldr_cred_call *c, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(c, struct ldr_cred_renewal, call);
    int64_t off = c->date_s - ldr_cred_now_s(r->skew_s);
    struct larder_err err;

    if (!kind && c->status != 200 && c->date_s && !r->skew_tried && (off > SKEW_MIN_S || off < -SKEW_MIN_S)) {
        r->skew_s += off; /* it refuses our time, most likely: once more with its own */
        r->skew_tried = true;
        ldr_cred_assume_on_net(r);
        return;
    }
    if (kind)
        err = *why;
    else if (c->status != 200)
        kind = explain(r, role_of(r, false), &err);
    else
        kind = read_keys(r, "AssumeRoleResponse/AssumeRoleResult/Credentials", &err);
    ldr_cred_renew_step(r, kind, &err);
}

/* "host[:port]" of "http[s]://host[:port]/", without a port that is understood. */
static void host_header(const char *url, char out[300])
{
    bool https = !strncasecmp(url, "https://", 8);
    const char *host = strstr(url, "://") + 3, *port = https ? ":443" : ":80";
    size_t n = strcspn(host, "/");

    if (n > strlen(port) && !memcmp(host + n - strlen(port), port, strlen(port)))
        n -= strlen(port);
    snprintf(out, 300, "Host: %.*s", (int)n, host);
}

static enum larder_kind sign(struct ldr_cred_renewal *r, struct larder_err *err)
{
    struct ldr_cred_call *c = &r->call;
    struct ldr_cred cred = ldr_cred_keys_view(&r->keys);
    struct ldr_buf auth = LDR_BUF_INIT(4 * LDR_KIB);
    const char *headers[5] = { NULL };
    char host[300], date[LDR_SIGV4_DATE_MAX], hash[LDR_SHA256_HEX_MAX];
    struct ldr_sigv4 s = { .method = "POST",
                           .path = "/",
                           .headers = headers,
                           .payload = hash,
                           .region = r->region,
                           .service = "sts",
                           .time_s = ldr_cred_now_s(r->skew_s) };
    enum larder_kind k = ldr_sigv4_date(s.time_s, date, err);

    if (k)
        return k;
    host_header(r->sts_url, host);
    ldr_sha256_hex(c->form.p, c->form.len, hash);
    if (!ldr_cred_call_header(c, "X-Amz-Date", date) ||
        (cred.token && !ldr_cred_call_header(c, "X-Amz-Security-Token", cred.token)))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "the request to the token service is too large");
    headers[0] = host;
    memcpy(headers + 1, c->headers, c->n_headers * sizeof headers[0]);
    k = ldr_sigv4_authorization(&s, &cred, &auth, err);
    if (!k && (!ldr_buf_str(&auth) || !ldr_cred_call_header(c, "Authorization", (char *)auth.p)))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a request");
    ldr_buf_release(&auth);
    return k;
}

void ldr_cred_assume_on_net(struct ldr_cred_renewal *r)
{
    struct larder_err err;
    enum larder_kind k = prepare(r, "AssumeRole", role_of(r, false), NULL, assume_done, &err);

    if (!k)
        k = sign(r, &err);
    if (k)
        ldr_cred_renew_step(r, k, &err);
    else
        ldr_cred_call_start(&r->call);
}
