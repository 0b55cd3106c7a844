/* container.c - the credentials of a container: ECS, and EKS's pod identity (cred_impl.h). Net thread. */
#include "backends/cred/cred_impl.h"

#include <string.h>
#include <strings.h>

static void on_done(struct ldr_cred_call *c, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(c, struct ldr_cred_renewal, call);
    struct larder_err err;

    if (kind)
        err = *why;
    else if (c->status != 200)
        kind =
            ldr_fail_http(&err, LARDER_DENIED, c->status, "the container's service refused with status %d", c->status);
    else
        kind = ldr_cred_json_read(c->body.p, c->body.len, "the container's service", "Token", false, &r->keys, &err);
    ldr_cred_renew_step(r, kind, &err);
}

void ldr_cred_container_on_net(struct ldr_cred_renewal *r)
{
    struct ldr_cred_call *c = &r->call;
    struct larder_err err;

    ldr_cred_call_reset(c);
    c->direct = strncasecmp(r->plan.url, "https://", 8) != 0;
    c->ca_file = r->ca_file;
    c->connect_ms = 1000;
    c->timeout_ms = 5000;
    c->on_done = on_done;
    if (!ldr_cred_call_url(c, r->plan.url, "") || !ldr_cred_call_header(c, "Accept", "application/json") ||
        (r->plan.token && !ldr_cred_call_header(c, "Authorization", r->plan.token))) {
        ldr_fail(&err, LARDER_LIMIT_EXCEEDED, "the request to the container's service is too large");
        ldr_cred_renew_step(r, err.kind, &err);
        return;
    }
    ldr_cred_call_start(c);
}
