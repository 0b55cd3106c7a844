/* cred_try.c - see cred_try.h. */
#include "tests/support/cred_try.h"
#include "common/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void ready(struct ldr_cred_ask *a, enum larder_kind kind, const struct ldr_cred *c, const struct larder_err *err)
{
    struct cred_try *t = LDR_CONTAINER(a, struct cred_try, ask);

    t->ends++;
    t->kind = kind;
    if (kind) {
        t->err = *err;
    } else {
        t->anonymous = c->anonymous;
        t->has_token = c->token != NULL;
        t->expires_s = c->expires_s;
        snprintf(t->id, sizeof t->id, "%s", c->access_key_id);
        snprintf(t->secret, sizeof t->secret, "%s", c->secret_key);
        snprintf(t->token, sizeof t->token, "%s", c->token ? c->token : "");
        snprintf(t->name, sizeof t->name, "%s", ldr_cred_name(t->source));
    }
    sem_post(&t->done);
}

static void ask_on_net(struct ldr_task *task)
{
    struct cred_try *t = LDR_CONTAINER(task, struct cred_try, task);

    ldr_cred_ask_on_net(t->source, &t->ask);
}

void cred_try_start(struct cred_try *t, struct ldr_net *n, struct ldr_cred_source *s, int timeout_ms)
{
    *t = (struct cred_try){ .ask = { .deadline_ns = ldr_deadline_ns(timeout_ms), .ready = ready },
                            .task.run = ask_on_net,
                            .source = s };
    sem_init(&t->done, 0, 0);
    ldr_net_post(n, &t->task);
}

enum larder_kind cred_try_wait(struct cred_try *t)
{
    while (sem_wait(&t->done) == -1 && errno == EINTR)
        ;
    sem_destroy(&t->done);
    return t->kind;
}

enum larder_kind cred_try(struct cred_try *t, struct ldr_net *n, struct ldr_cred_source *s)
{
    cred_try_start(t, n, s, 20000);
    return cred_try_wait(t);
}

struct errand {
    struct ldr_task task;
    struct ldr_cred_source *source;
    const char *id;
    int64_t skew_s;
    bool answer;
    sem_t done;
};

static void run_errand(struct ldr_task *task)
{
    struct errand *e = LDR_CONTAINER(task, struct errand, task);

    if (e->id)
        e->answer = ldr_cred_refused_on_net(e->source, e->id);
    else
        ldr_cred_set_skew_on_net(e->source, e->skew_s);
    sem_post(&e->done);
}

static bool send_errand(struct ldr_net *n, struct errand *e)
{
    e->task.run = run_errand;
    sem_init(&e->done, 0, 0);
    ldr_net_post(n, &e->task);
    while (sem_wait(&e->done) == -1 && errno == EINTR)
        ;
    sem_destroy(&e->done);
    return e->answer;
}

bool cred_try_refused(struct ldr_net *n, struct ldr_cred_source *s, const char *access_key_id)
{
    return send_errand(n, &(struct errand){ .source = s, .id = access_key_id });
}

void cred_try_skew(struct ldr_net *n, struct ldr_cred_source *s, int64_t skew_s)
{
    send_errand(n, &(struct errand){ .source = s, .skew_s = skew_s });
}

void cred_try_clean_environment(const char *home)
{
    extern char **environ;

    for (char **e = environ; *e;) {
        char name[128];

        snprintf(name, sizeof name, "%.*s", (int)strcspn(*e, "="), *e);
        if (!strncmp(name, "AWS_", 4) || !strcasecmp(name, "http_proxy") || !strcasecmp(name, "https_proxy"))
            unsetenv(name);
        else
            e++;
    }
    setenv("HOME", home, 1);
    setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
}
