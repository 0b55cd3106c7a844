/* imds.c - the EC2 instance metadata service, version 2: a token, the name of the instance's role, its credentials
 * (cred_impl.h). Net thread. Version 1, which whoever gets a request forwarded can use too, is not spoken.
 * Most machines have no such service: where it is only guessed, one short try decides. */
#include "backends/cred/cred_impl.h"
#include "backends/sign/sigv4.h"

#include <stdlib.h>
#include <string.h>

#define TOKEN_PATH  "/latest/api/token"
#define ROLE_PATH   "/latest/meta-data/iam/security-credentials/"
#define TOKEN_TTL_S "300" /* used at once */
#define CONNECT_MS  1000
#define TRY_MS      2000
#define WORD_MAX    512 /* of the token, and of the role's name */

static void fail(struct ldr_cred_renewal *r, enum larder_kind kind, const char *what)
{
    struct larder_err err;

    ldr_fail_http(&err, kind, r->call.status, "%s (status %d)", what, r->call.status);
    ldr_cred_renew_step(r, kind, &err);
}

/* The first line of the answer, if it is a plain word. Owned by the caller; NULL: it is not, or no memory. */
static char *take_word(const struct ldr_buf *body)
{
    size_t n = 0;

    while (n < body->len && body->p[n] > 0x20 && body->p[n] < 0x7f)
        n++;
    if (n == 0 || n > WORD_MAX || (n < body->len && body->p[n] != '\n' && body->p[n] != '\r'))
        return NULL;
    return strndup((const char *)body->p, n);
}

/* A request to the service, for the rest like others; `word` is escaped. */
static void ask(struct ldr_cred_renewal *r, const char *path, const char *word, ldr_cred_call_fn *on_done)
{
    struct ldr_cred_call *c = &r->call;
    struct larder_err err;
    bool first = !r->instance_token;

    ldr_cred_call_reset(c);
    c->method = first ? "PUT" : "GET";
    c->direct = true;
    c->tries = r->plan.last && !r->met_instance ? 1 : 3;
    c->connect_ms = CONNECT_MS;
    c->timeout_ms = TRY_MS;
    c->on_done = on_done;
    if (!ldr_cred_call_url(c, r->plan.url, path) || !ldr_sigv4_escape(&c->url, word, false) || !ldr_buf_str(&c->url) ||
        !(first ? ldr_cred_call_header(c, "X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL_S)
                : ldr_cred_call_header(c, "X-aws-ec2-metadata-token", r->instance_token))) {
        ldr_fail(&err, LARDER_LIMIT_EXCEEDED, "the request to the instance metadata service is too large");
        ldr_cred_renew_step(r, err.kind, &err);
        return;
    }
    ldr_cred_call_start(c);
}

static void keys_done(struct ldr_cred_call *c, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(c, struct ldr_cred_renewal, call);
    struct larder_err err;

    if (!kind && c->status != 200) {
        fail(r, LARDER_DENIED, "the service gives no credentials of the instance's role");
        return;
    }
    if (kind)
        err = *why;
    else
        kind = ldr_cred_json_read(c->body.p, c->body.len, "the service", "Token", false, &r->keys, &err);
    ldr_cred_renew_step(r, kind, &err);
}

static void role_done(struct ldr_cred_call *c, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(c, struct ldr_cred_renewal, call);
    char *role = kind || c->status != 200 ? NULL : take_word(&c->body);

    if (kind)
        ldr_cred_renew_step(r, kind, why);
    else if (c->status == 404 || (c->status == 200 && c->body.len == 0))
        fail(r, LARDER_DENIED, "the instance has no role");
    else if (c->status != 200)
        fail(r, LARDER_DENIED, "the service does not name the instance's role");
    else if (!role)
        fail(r, LARDER_UNAVAILABLE, "the service answered with something that is no role's name");
    else
        ask(r, ROLE_PATH, role, keys_done);
    free(role);
}

static void token_done(struct ldr_cred_call *c, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(c, struct ldr_cred_renewal, call);
    struct larder_err err;

    if (kind == LARDER_UNAVAILABLE && r->plan.last && !r->met_instance) {
        ldr_fail(&err, LARDER_DENIED,
                 "environment, shared files and container name none, and no service answers (%.200s); from a container "
                 "the instance's hop limit must be 2",
                 why->msg);
        ldr_cred_renew_step(r, err.kind, &err);
    } else if (kind) {
        ldr_cred_renew_step(r, kind, why);
    } else if (c->status != 200) {
        fail(r, LARDER_DENIED, "the service gives no token: it is switched off, or does not speak version 2");
    } else if (!(r->instance_token = take_word(&c->body))) {
        fail(r, LARDER_UNAVAILABLE, "the service answered with something that is no token");
    } else {
        r->met_instance = true;
        ask(r, ROLE_PATH, "", role_done);
    }
}

void ldr_cred_instance_on_net(struct ldr_cred_renewal *r)
{
    ldr_cred_wipe(&r->instance_token);
    ask(r, TOKEN_PATH, "", token_done);
}
