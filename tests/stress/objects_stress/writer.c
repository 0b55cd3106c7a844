/* writer.c - overwrites and deletes objects, at the store behind the agent's back and through larder. A write whose
 * outcome is not known may still arrive: its key rests for a while, so that it cannot come behind a later one. */
#include "tests/stress/objects_stress/objects_stress.h"
#include "tests/support/backend_driver.h"

#include <stdlib.h>

#define REST_MS  4000 /* longer than a request lasts */
#define WRITE_MS 3000

struct writer {
    const struct os_args *a;
    struct larder *l;
    struct bd *store;
    uint8_t *bytes;
    int64_t rest_ns[OS_KEYS];
    uint64_t random;
};

static struct bd *open_store(const struct s3_server *s3)
{
    struct bd *d = NULL;
    struct larder_err err = { 0 };

    if (bd_open("s3", "s3",
                (const char *[]){ "endpoint", s3->endpoint, "region", "us-east-1", "access_key_id", S3_ACCESS_KEY,
                                  "secret_key", S3_SECRET_KEY, NULL },
                &d, &err))
        agent_die("no S3 client: %s", err.msg);
    return d;
}

static enum larder_kind write_direct(struct writer *w, unsigned key, const struct os_version *v)
{
    char name[64];
    struct bd_result r;
    enum larder_kind k;

    os_name(key, name);
    if (v->absent)
        k = bd_delete(w->store, S3_BUCKET, name, &r);
    else
        k = bd_put(w->store, S3_BUCKET, name, w->bytes, v->size, &(struct bd_args){ .timeout_ms = WRITE_MS }, &r);
    bd_result_release(&r);
    return k;
}

static bool is_clear(enum larder_kind k)
{
    return k == LARDER_OK || k == LARDER_TIMEOUT || k == LARDER_UNAVAILABLE || k == LARDER_NO_AGENT ||
           k == LARDER_CANCELLED || k == LARDER_OUTCOME_UNKNOWN;
}

static enum larder_kind write_through(struct writer *w, unsigned key, const struct os_version *v)
{
    struct larder_err err = { 0 };
    char uri[128];
    enum larder_kind k;

    os_uri(key, uri);
    if (v->absent)
        k = larder_delete(w->l, uri, WRITE_MS, &err);
    else
        k = larder_put(w->l, uri, w->bytes, v->size, NULL, WRITE_MS, &err);
    if (!is_clear(k))
        os_wrong(w->a->shared, "a write failed as %s: %s", larder_kind_name(k), err.msg);
    return k;
}

static void write_one(struct writer *w, unsigned key)
{
    struct os_shared *s = w->a->shared;
    struct os_key *k = &s->key[key];
    uint32_t n = k->n + 1;
    struct os_version *v = &k->version[n];
    enum larder_kind kind;

    if (n == OS_VERSIONS || ldr_mono_ns() < w->rest_ns[key])
        return;
    v->absent = n > 1 && os_random(&w->random) % 12 == 0;
    v->through = os_class_of(key) == OS_IMMUTABLE || os_random(&w->random) % 3 == 0;
    v->size = v->absent ? 0 : os_size(&w->random, w->a->block);
    os_fill(w->bytes, key, n, 0, v->size);
    v->done_ns = 0;
    v->began_ns = ldr_mono_ns();
    k->n = n;
    kind = v->through ? write_through(w, key, v) : write_direct(w, key, v);
    if (!kind)
        v->done_ns = ldr_mono_ns();
    else
        w->rest_ns[key] = ldr_mono_ns() + REST_MS * LDR_NS_PER_MS;
    s->writes++;
    s->writes_failed += kind != LARDER_OK;
    s->deletes += v->absent;
    s->direct += !v->through;
}

void os_writer(const struct os_args *a, unsigned i, uint64_t seed)
{
    struct writer w = { .a = a, .l = agent_open(a->agent), .store = open_store(a->s3), .random = seed | 1 };
    struct os_shared *s = a->shared;

    w.bytes = malloc(OS_SIZE_MAX);
    if (!w.bytes)
        agent_die("out of memory");
    for (unsigned key = i; key < OS_KEYS; key += OS_WRITERS)
        write_one(&w, key);
    while (!s->stop) {
        write_one(&w, (unsigned)(os_random(&w.random) % (OS_KEYS / OS_WRITERS)) * OS_WRITERS + i);
        nanosleep(&(struct timespec){ .tv_nsec = (long)(os_random(&w.random) % (30 * LDR_NS_PER_MS)) }, NULL);
    }
    larder_close(&w.l);
    bd_close(&w.store);
    free(w.bytes);
}
