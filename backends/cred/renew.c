/* renew.c - carries out a plan: to the pool and back, then one request behind the other (cred_impl.h). */
#include "backends/cred/cred_impl.h"

#include <time.h>

int64_t ldr_cred_now_s(int64_t skew_s)
{
    return (int64_t)time(NULL) + skew_s;
}

static void finish(struct ldr_cred_renewal *r, enum larder_kind kind, const struct larder_err *why)
{
    struct larder_err err;

    r->date_s = r->plan.base == LDR_BASE_KEYS && r->plan.n_roles == 0 ? 0 : r->call.date_s;
    ldr_cred_call_release(&r->call);
    ldr_cred_wipe(&r->instance_token);
    if (kind && kind != LARDER_CANCELLED)
        ldr_fail_http(&err, kind, why->http, "no credentials%s%s: %.400s", *r->plan.name ? " from " : "", r->plan.name,
                      why->msg);
    else if (kind)
        err = *why;
    r->on_done(r, kind, kind ? &err : NULL);
}

void ldr_cred_renew_step(struct ldr_cred_renewal *r, enum larder_kind kind, const struct larder_err *err)
{
    if (kind || r->next_role == r->plan.n_roles) {
        finish(r, kind, err);
        return;
    }
    r->next_role++;
    ldr_cred_assume_on_net(r);
}

static void carry_out(struct ldr_cred_renewal *r)
{
    switch (r->plan.base) {
    case LDR_BASE_KEYS:
        r->keys = r->plan.keys;
        r->plan.keys = (struct ldr_cred_keys){ 0 };
        ldr_cred_renew_step(r, LARDER_OK, NULL);
        break;
    case LDR_BASE_WEB_IDENTITY:
        ldr_cred_web_identity_on_net(r);
        break;
    case LDR_BASE_CONTAINER:
        ldr_cred_container_on_net(r);
        break;
    case LDR_BASE_INSTANCE:
        ldr_cred_instance_on_net(r);
        break;
    }
}

static void back_on_net(struct ldr_task *t)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(t, struct ldr_cred_renewal, task);

    ldr_net_away_on_net(r->net, -1);
    if (r->plan_kind)
        finish(r, r->plan_kind, &r->plan_err);
    else
        carry_out(r);
}

static void plan_on_pool(struct ldr_task *t)
{
    struct ldr_cred_renewal *r = LDR_CONTAINER(t, struct ldr_cred_renewal, task);

    r->plan_kind = ldr_cred_plan_make(r->origin, &r->plan, &r->plan_err);
    r->task.run = back_on_net;
    ldr_net_post(r->net, &r->task);
}

void ldr_cred_renew_on_net(struct ldr_cred_renewal *r)
{
    ldr_cred_renewal_release(r);
    ldr_cred_call_init(&r->call, r->net);
    r->next_role = 0;
    r->skew_tried = false;
    r->task.run = plan_on_pool;
    ldr_net_away_on_net(r->net, 1);
    ldr_pool_post(r->pool, &r->task);
}

void ldr_cred_renewal_release(struct ldr_cred_renewal *r)
{
    ldr_cred_plan_release(&r->plan);
    ldr_cred_keys_release(&r->keys);
    ldr_cred_call_release(&r->call);
    ldr_cred_wipe(&r->instance_token);
}
