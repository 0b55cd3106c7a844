/* cred.c - the source: which credentials are at hand, who waits for others, when to renew them (cred.h).
 *
 *   good for ever, or for a while    handed out
 *   near their end                   handed out, and whoever asks starts a renewal
 *   about to end, refused, none      whoever asks waits; one renewal serves all
 *   a renewal failed                 the old ones until they end; the next try waits a little
 *
 * There is no timer for renewals: a store that nobody uses asks nobody. */
#include "backends/cred/cred.h"
#include "backends/cred/cred_impl.h"
#include "common/clock.h"
#include "common/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#define AHEAD_S                                                                                                        \
    300 /* before they end, plus up to AHEAD_MORE_S by chance: nodes that start together do not all
                           * renew together; half of what is left where that is shorter */
#define AHEAD_MORE_S  60
#define MUST_S        10    /* so near to their end they may not outlive the request */
#define BACKOFF_MS    1000u /* behind the first failure; twice as long behind each further one */
#define BACKOFF_MAX_S 5     /* while there are none: people wait */
#define BACKOFF_OLD_S 60    /* while the old ones do */
#define USELESS_S     30    /* refused ones came back: so long it is no use to ask for others */
#define TICK_MAX_MS   60000 /* a look at who waits, at the latest */

struct ldr_cred_source {
    /* set once */
    enum { ANONYMOUS, SETTINGS, RENEWED } kind;
    struct ldr_net *net;
    char *sts_url, *region, *ca_file;
    struct ldr_cred_origin origin; /* RENEWED: the renewal's, its settings too */

    /* net thread; SETTINGS: also what they hold now */
    struct ldr_cred_settings settings;

    /* net thread */
    struct ldr_cred_keys now;
    char name[64]; /* of what gave them */
    bool refused, fixed;
    int64_t skew_s;
    int64_t renew_at_s;           /* world's time, 0: never */
    int64_t retry_ns, useless_ns; /* CLOCK_MONOTONIC */
    unsigned failures;            /* in a row */
    struct larder_err last;       /* why the last one failed */
    struct ldr_cred_ask *asks, **asks_tail;
    struct ldr_cred_renewal renewal;
    bool renewing;
    int64_t tick_ns; /* the earliest tick under way; LDR_NEVER: none */
    unsigned n_ticks;
};

/* A timer that cannot be called back: each is its own memory, and looks at who waits when it comes. */
struct cred_tick {
    struct ldr_task task;
    struct ldr_cred_source *source;
    int64_t due_ns;
};

/* ---- open and close ---- */

static enum larder_kind no_memory(struct larder_err *err)
{
    return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
}

static bool is_set(const char *text)
{
    return text && *text;
}

static enum larder_kind open_settings(struct ldr_cred_source *s, const struct ldr_cred_cfg *cfg, struct larder_err *err)
{
    struct ldr_cred_settings *own = &s->settings;
    enum larder_kind k;

    if (!is_set(cfg->access_key_id))
        return ldr_fail(err, LARDER_INVALID, "access_key_id is not set");
    if (!is_set(cfg->secret_key) && !is_set(cfg->secret_key_path))
        return ldr_fail(err, LARDER_INVALID, "neither secret_key nor secret_key_path is set");
    k = ldr_cred_check_text("access_key_id", cfg->access_key_id, err);
    if (!k && cfg->token)
        k = ldr_cred_check_text("token", cfg->token, err);
    if (k)
        return k;
    if (!ldr_cred_copy(&own->keys.access_key_id, cfg->access_key_id) || !ldr_cred_copy(&own->keys.token, cfg->token) ||
        !ldr_cred_copy(&own->path, cfg->secret_key_path) ||
        (!own->path && !ldr_cred_copy(&own->keys.secret_key, cfg->secret_key)))
        return no_memory(err);
    return ldr_cred_settings_look(own, err);
}

/* "http[s]://host[:port][/]" of setting or variable, else that of the region. */
static enum larder_kind open_sts(struct ldr_cred_source *s, const struct ldr_cred_cfg *cfg, struct larder_err *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]";
    const char *url = cfg->sts_endpoint, *host;
    size_t n;

    if (strspn(s->region, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != strlen(s->region) ||
        strlen(s->region) > 63)
        return ldr_fail(err, LARDER_INVALID, "region is \"%.64s\", which is no region", s->region);
    for (int v = LDR_VAR_ENDPOINT_URL_STS; !is_set(url) && v <= LDR_VAR_ENDPOINT_URL; v++)
        url = s->origin.env.v[v];
    if (!is_set(url)) {
        bool china = !strncmp(s->region, "cn-", 3);

        if (asprintf(&s->sts_url, "https://sts.%s.amazonaws.com%s/", s->region, china ? ".cn" : "") == -1)
            s->sts_url = NULL;
        return s->sts_url ? LARDER_OK : no_memory(err);
    }
    host = strstr(url, "://");
    host = host ? host + 3 : "";
    n = strspn(host, letters);
    if ((strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0) || n == 0 || n > 255 ||
        strcmp(host + n, host[n] == '/' ? "/" : "") != 0) {
        if (url == cfg->sts_endpoint)
            return ldr_fail(err, LARDER_INVALID, "sts_endpoint is no address: http[s]://HOST[:PORT]");
        return LARDER_OK; /* a variable that is perhaps not meant for us: said when a role is to be assumed */
    }
    if (asprintf(&s->sts_url, "%.*s%.*s/", (int)(host - url), url, (int)n, host) == -1)
        s->sts_url = NULL;
    return s->sts_url ? LARDER_OK : no_memory(err);
}

static enum larder_kind open_renewed(struct ldr_cred_source *s, const struct ldr_cred_cfg *cfg, struct larder_err *err)
{
    enum larder_kind k;

    s->origin.chain = cfg->how == LDR_CRED_CHAIN;
    s->origin.settings = &s->settings;
    s->origin.net = cfg->net;
    if (!ldr_cred_environ_read(&s->origin.env) || !ldr_cred_copy(&s->origin.profile, cfg->profile) ||
        !ldr_cred_copy(&s->region, is_set(cfg->region) ? cfg->region : LDR_CRED_DEFAULT_REGION) ||
        !ldr_cred_copy(&s->ca_file, cfg->ca_file))
        return no_memory(err);
    k = open_sts(s, cfg, err);
    if (!k && is_set(cfg->role_arn))
        k = ldr_cred_role_set(&s->origin.role, cfg->role_arn, cfg->role_session_name, cfg->external_id, err);
    return k;
}

static void renewed(struct ldr_cred_renewal *r, enum larder_kind kind, const struct larder_err *err);

enum larder_kind ldr_cred_new(const struct ldr_cred_cfg *cfg, struct ldr_cred_source **out, struct larder_err *err)
{
    struct ldr_cred_source *s = calloc(1, sizeof *s);
    enum larder_kind k = LARDER_OK;

    if (!s)
        return no_memory(err);
    s->net = cfg->net;
    s->asks_tail = &s->asks;
    s->tick_ns = LDR_NEVER;
    s->kind = cfg->how == LDR_CRED_ANONYMOUS ? ANONYMOUS : SETTINGS;
    if (cfg->how == LDR_CRED_CHAIN || (cfg->how == LDR_CRED_KEYS && is_set(cfg->role_arn)))
        s->kind = RENEWED;
    snprintf(s->name, sizeof s->name, "%s",
             s->kind == ANONYMOUS           ? "anonymous"
             : s->kind == RENEWED           ? "none yet"
             : is_set(cfg->secret_key_path) ? "secret key file"
                                            : "settings");
    if (cfg->how == LDR_CRED_KEYS)
        k = open_settings(s, cfg, err);
    if (!k && s->kind == RENEWED)
        k = open_renewed(s, cfg, err);
    s->renewal = (struct ldr_cred_renewal){ .net = s->net,
                                            .pool = cfg->pool,
                                            .origin = &s->origin,
                                            .sts_url = s->sts_url,
                                            .region = s->region,
                                            .ca_file = s->ca_file,
                                            .on_done = renewed };
    if (k)
        ldr_cred_free(&s);
    else
        *out = s;
    return k;
}

void ldr_cred_free(struct ldr_cred_source **ps)
{
    struct ldr_cred_source *s = *ps;

    if (!s)
        return;
    assert(!s->renewing && !s->asks && s->n_ticks == 0); /* the net thread still knows it */
    ldr_cred_renewal_release(&s->renewal);
    ldr_cred_keys_release(&s->now);
    ldr_cred_keys_release(&s->settings.keys);
    ldr_cred_wipe(&s->settings.path);
    ldr_cred_environ_release(&s->origin.env);
    ldr_cred_wipe(&s->origin.profile);
    ldr_cred_role_release(&s->origin.role);
    ldr_cred_wipe(&s->sts_url);
    ldr_cred_wipe(&s->region);
    ldr_cred_wipe(&s->ca_file);
    free(s);
    *ps = NULL;
}

/* ---- what is at hand ---- */

static int64_t left_s(const struct ldr_cred_source *s)
{
    if (!s->now.access_key_id || s->refused)
        return 0;
    return s->now.expires_s ? s->now.expires_s - ldr_cred_now_s(s->skew_s) : INT64_MAX;
}

static void answer(struct ldr_cred_ask *a, const struct ldr_cred_keys *keys)
{
    struct ldr_cred c = ldr_cred_keys_view(keys);

    a->ready(a, LARDER_OK, &c, NULL);
}

static void refuse(struct ldr_cred_ask *a, const struct larder_err *err)
{
    a->ready(a, err->kind, NULL, err);
}

static void answer_with_settings(struct ldr_cred_source *s, struct ldr_cred_ask *a)
{
    struct larder_err err;

    if (ldr_cred_settings_look(&s->settings, &err) && s->refused) { /* else the last good one stays in use */
        refuse(a, &err);
        return;
    }
    s->refused = false;
    answer(a, &s->settings.keys);
}

static void stopping(struct larder_err *err)
{
    ldr_fail(err, LARDER_CANCELLED, "larder is stopping");
}

/* With the old ones while they live, else with the reason. */
static void answer_or_refuse(struct ldr_cred_source *s, struct ldr_cred_ask *a, const struct larder_err *why)
{
    struct larder_err err = *why;
    int64_t now = ldr_cred_now_s(s->skew_s);

    if (left_s(s) > 0) {
        answer(a, &s->now);
        return;
    }
    if (s->now.access_key_id && s->refused)
        ldr_fail_http(&err, why->kind, why->http,
                      "the credentials in use were refused, and there are no others: %.400s", why->msg);
    else if (s->now.access_key_id && now >= s->now.expires_s)
        ldr_fail_http(&err, why->kind, why->http, "the credentials in use ended %" PRId64 " s ago, and %.400s",
                      now - s->now.expires_s, why->msg);
    refuse(a, &err);
}

/* ---- who waits ---- */

static void queue(struct ldr_cred_source *s, struct ldr_cred_ask *a)
{
    a->next = NULL;
    *s->asks_tail = a;
    s->asks_tail = &a->next;
}

/* All of them; who asks again from inside `ready` comes into the next list. */
static struct ldr_cred_ask *take_asks(struct ldr_cred_source *s)
{
    struct ldr_cred_ask *first = s->asks;

    s->asks = NULL;
    s->asks_tail = &s->asks;
    return first;
}

static void watch(struct ldr_cred_source *s);

static void look_at_asks(struct ldr_cred_source *s)
{
    struct ldr_cred_ask *a = take_asks(s), *next;
    bool stop = ldr_net_stopping(s->net);
    struct larder_err err;

    if (stop)
        stopping(&err);
    else
        ldr_fail(&err, LARDER_TIMEOUT, "credentials did not come in time%s%.300s", s->failures ? ": " : "",
                 s->failures ? s->last.msg : "");
    for (; a; a = next) {
        next = a->next;
        if (stop || a->deadline_ns <= ldr_mono_ns())
            refuse(a, &err);
        else
            queue(s, a);
    }
    watch(s);
}

static void on_tick(struct ldr_task *t)
{
    struct cred_tick *tick = LDR_CONTAINER(t, struct cred_tick, task);
    struct ldr_cred_source *s = tick->source;

    s->n_ticks--;
    if (tick->due_ns == s->tick_ns)
        s->tick_ns = LDR_NEVER;
    free(tick);
    look_at_asks(s);
}

/* See to it that somebody looks when the next deadline has passed; timers run early when the thread stops. */
static void watch(struct ldr_cred_source *s)
{
    int64_t due = ldr_deadline_ns(TICK_MAX_MS);
    struct cred_tick *tick;

    if (!s->asks)
        return;
    for (struct ldr_cred_ask *a = s->asks; a; a = a->next)
        if (a->deadline_ns < due)
            due = a->deadline_ns;
    if (due >= s->tick_ns)
        return;
    tick = malloc(sizeof *tick);
    assert(tick); /* whoever waits would hang */
    *tick = (struct cred_tick){ .task.run = on_tick, .source = s, .due_ns = due };
    s->tick_ns = due;
    s->n_ticks++;
    ldr_net_after_on_net(s->net, (uint32_t)ldr_left_ms(due), &tick->task);
}

/* ---- renewal ---- */

static uint32_t chance(uint32_t below)
{
    uint32_t r;

    if (getrandom(&r, sizeof r, GRND_NONBLOCK) != (ssize_t)sizeof r)
        r = (uint32_t)ldr_mono_ns();
    return r % below;
}

static void start_renewal(struct ldr_cred_source *s)
{
    s->renewing = true;
    s->renewal.skew_s = s->skew_s;
    ldr_cred_renew_on_net(&s->renewal);
}

static bool same_text(const char *a, const char *b)
{
    return !strcmp(a ? a : "", b ? b : "");
}

static bool same_keys(const struct ldr_cred_keys *a, const struct ldr_cred_keys *b)
{
    return same_text(a->access_key_id, b->access_key_id) && same_text(a->secret_key, b->secret_key) &&
           same_text(a->token, b->token);
}

/* The new ones into use. UNAVAILABLE: they have ended already. */
static enum larder_kind take_keys(struct ldr_cred_source *s, struct larder_err *err)
{
    struct ldr_cred_renewal *r = &s->renewal;
    int64_t now = ldr_cred_now_s(s->skew_s), left = r->keys.expires_s - now, ahead;

    if (r->keys.expires_s && left <= 0 && r->date_s && r->keys.expires_s > r->date_s) {
        s->skew_s += r->date_s - now; /* not for whoever gave them: our clock is ahead */
        left = r->keys.expires_s - r->date_s;
    }
    if (r->keys.expires_s && left <= 0)
        return ldr_fail(err, LARDER_UNAVAILABLE, "no credentials from %s: those that it gives ended %" PRId64 " s ago",
                        r->plan.name, -left);
    if (s->refused && same_keys(&s->now, &r->keys))
        s->useless_ns = ldr_deadline_ns(USELESS_S * 1000);
    ahead = AHEAD_S + chance(AHEAD_MORE_S);
    s->renew_at_s = r->keys.expires_s ? r->keys.expires_s - (ahead < left / 2 ? ahead : left / 2) : 0;
    ldr_cred_keys_release(&s->now);
    s->now = r->keys;
    r->keys = (struct ldr_cred_keys){ 0 };
    s->refused = false;
    s->fixed = r->plan.fixed && r->plan.n_roles == 0;
    snprintf(s->name, sizeof s->name, "%s%s", r->plan.name, r->plan.n_roles ? ", assumed role" : "");
    return LARDER_OK;
}

static void note_failure(struct ldr_cred_source *s, const struct larder_err *err)
{
    uint32_t most = (left_s(s) > 0 ? BACKOFF_OLD_S : BACKOFF_MAX_S) * 1000;
    uint32_t wait = s->failures < 8 ? BACKOFF_MS << s->failures : most;

    wait = wait < most ? wait : most;
    s->failures++;
    s->retry_ns = ldr_deadline_ns(wait / 2 + chance(wait / 2 + 1));
    s->last = *err;
    if (s->failures == 1 || left_s(s) <= 0) /* during an outage: once */
        ldr_log(left_s(s) > 0 ? LDR_WARN : LDR_INFO, "cred",
                "credentials were not renewed left_s=%" PRId64 " why=\"%s\"", left_s(s) > 0 ? left_s(s) : 0, err->msg);
}

static void renewed(struct ldr_cred_renewal *r, enum larder_kind kind, const struct larder_err *why)
{
    struct ldr_cred_source *s = LDR_CONTAINER(r, struct ldr_cred_source, renewal);
    struct ldr_cred_ask *a, *next;
    struct larder_err err;

    s->renewing = false;
    s->skew_s = r->skew_s;
    if (kind)
        err = *why;
    else
        kind = take_keys(s, &err);
    ldr_cred_renewal_release(r);
    if (!kind) {
        s->failures = 0;
        ldr_log(LDR_DEBUG, "cred", "credentials from=\"%s\" expires_s=%" PRId64, s->name, s->now.expires_s);
    } else if (kind != LARDER_CANCELLED) {
        note_failure(s, &err);
    }
    for (a = take_asks(s); a; a = next) {
        next = a->next;
        if (kind)
            answer_or_refuse(s, a, &err);
        else
            answer(a, &s->now);
    }
}

/* ---- the interface ---- */

void ldr_cred_ask_on_net(struct ldr_cred_source *s, struct ldr_cred_ask *a)
{
    int64_t left, mono;
    bool may_try;
    struct larder_err err;

    assert(ldr_net_here(s->net));
    if (s->kind == ANONYMOUS) {
        a->ready(a, LARDER_OK, &(struct ldr_cred){ .anonymous = true, .access_key_id = "", .secret_key = "" }, NULL);
        return;
    }
    if (s->kind == SETTINGS) {
        answer_with_settings(s, a);
        return;
    }
    left = left_s(s);
    mono = ldr_mono_ns();
    may_try = !s->renewing && !ldr_net_stopping(s->net) && (s->failures == 0 || mono >= s->retry_ns);
    if (left > MUST_S) {
        if (may_try && s->renew_at_s && ldr_cred_now_s(s->skew_s) >= s->renew_at_s)
            start_renewal(s); /* before the answer: whoever asks keeps the pool alive so long */
        answer(a, &s->now);
    } else if (ldr_net_stopping(s->net)) {
        stopping(&err);
        answer_or_refuse(s, a, &err);
    } else if (!may_try && !s->renewing) {
        answer_or_refuse(s, a, &s->last);
    } else if (a->deadline_ns <= mono) {
        ldr_fail(&err, LARDER_TIMEOUT, "no time left to wait for credentials");
        answer_or_refuse(s, a, &err);
    } else {
        queue(s, a);
        watch(s);
        if (!s->renewing)
            start_renewal(s);
    }
}

bool ldr_cred_refused_on_net(struct ldr_cred_source *s, const char *access_key_id)
{
    assert(ldr_net_here(s->net));
    if (s->kind == ANONYMOUS || (s->kind == SETTINGS && !s->settings.path))
        return false;
    if (s->kind == SETTINGS) {
        s->refused = true;
        return true;
    }
    if (!same_text(s->now.access_key_id, access_key_id)) /* others have come since */
        return true;
    if (s->fixed || ldr_mono_ns() < s->useless_ns)
        return false;
    s->refused = true;
    return true;
}

void ldr_cred_set_skew_on_net(struct ldr_cred_source *s, int64_t skew_s)
{
    assert(ldr_net_here(s->net));
    s->skew_s = skew_s;
}

const char *ldr_cred_name(const struct ldr_cred_source *s)
{
    return s->name;
}
