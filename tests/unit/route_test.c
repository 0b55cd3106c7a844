/* route_test.c - references to stores and policies; what a name holds. */
#include "agent/route.h"
#include "common/hash.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* of the one test that this process runs */
static struct ldr_pool *pool;
static struct ldr_net *nets[2];
static struct ldr_routes *routes;
static char dir[TEST_DIR_MAX];
static struct larder_err err;

static struct ldr_pair local_config[] = { { "path", dir, 4 } };
static struct ldr_store_slot stores[] = {
    { .scheme = (char *)"mem", .kind = (char *)"memory", .primary = true },
    { .scheme = (char *)"file", .kind = (char *)"local", .config = local_config, .n_config = 1, .line = 3 },
};
static struct ldr_prefix_cfg prefixes[] = {
    { .match = (char *)"mem://bucket/deep/", .match_len = 18, .freshness = LDR_IMMUTABLE },
    { .match = (char *)"mem://", .match_len = 6, .freshness = LDR_TTL, .ttl_ns = 5 },
};
static struct ldr_cfg cfg = {
    .file = (char *)"larder.yaml", .stores = stores, .n_stores = 2, .prefixes = prefixes, .n_prefixes = 2
};

static void start_threads(void)
{
    struct ldr_net_cfg nc = { .connections_per_host = 1 };

    test_dir_make(dir);
    cr_assert(eq(int, ldr_pool_new(1, &pool, &err), LARDER_OK));
    cr_assert(eq(int, ldr_net_new(&nc, &nets[0], &err), LARDER_OK));
    cr_assert(eq(int, ldr_net_new(&nc, &nets[1], &err), LARDER_OK));
}

static void stop_threads(void)
{
    ldr_pool_free(&pool);
    ldr_net_free(&nets[0]);
    ldr_net_free(&nets[1]);
    ldr_routes_free(&routes);
    test_dir_remove(dir);
}

TestSuite(route, .init = start_threads, .fini = stop_threads, .timeout = 30);

static enum larder_kind make_routes(void)
{
    return ldr_routes_new(&cfg, nets, 2, pool, &routes, &err);
}

static struct ldr_name *name_of(const char *uri)
{
    struct ldr_name *n = NULL;

    if (!routes)
        cr_assert(eq(int, make_routes(), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, ldr_route(routes, uri, &n, &err), LARDER_OK), "%s", err.msg);
    return n;
}

Test(route, every_store_is_opened_and_told_of)
{
    const char *scheme, *kind;
    uint64_t first, second;

    cr_assert(eq(int, make_routes(), LARDER_OK), "%s", err.msg);
    cr_assert(eq(sz, ldr_routes_count(routes), 2));
    ldr_routes_get(routes, 0, &scheme, &kind, &first);
    cr_expect(eq(str, (char *)scheme, "mem"));
    cr_expect(eq(str, (char *)kind, "memory"));
    ldr_routes_get(routes, 1, &scheme, &kind, &second);
    cr_expect(eq(str, (char *)scheme, "file"));
    cr_expect(eq(str, (char *)kind, "local"));
    cr_expect(ne(u64, first, second));
}

Test(route, stores_are_spread_over_the_net_threads)
{
    struct ldr_name *a = name_of("mem://b/k"), *b = name_of("file://b/k");

    cr_expect(a->backend->env.net == nets[0]);
    cr_expect(b->backend->env.net == nets[1]);
    cr_expect(a->backend->env.pool == pool);
    ldr_name_unref(&a);
    ldr_name_unref(&b);
}

Test(route, a_name_holds_all_that_the_reference_decides)
{
    struct ldr_name *n = name_of("MEM://bucket/a//b ?#%20/../c");

    cr_expect(eq(str, (char *)n->text, "mem://bucket/a//b ?#%20/../c"));
    cr_expect(eq(sz, n->text_len, strlen(n->text)));
    cr_expect(eq(str, (char *)n->container, "bucket"));
    cr_expect(eq(str, (char *)n->key, "a//b ?#%20/../c"));
    cr_expect(eq(sz, n->ikey_len, n->text_len));
    cr_expect(eq(int, memcmp(n->ikey, n->text, n->text_len), 0));
    cr_expect(not(ldr_name_shortened(n)));
    cr_expect(eq(u64, (uint64_t)n->policy->ttl_ns, 5));
    ldr_name_unref(&n);
    cr_expect(n == NULL);
}

Test(route, the_longest_prefix_gives_the_policy)
{
    struct ldr_name *n = name_of("mem://bucket/deep/k"), *f = name_of("file://c/k");

    cr_expect(eq(int, n->policy->freshness, LDR_IMMUTABLE));
    cr_expect(eq(int, f->policy->freshness, LDR_TTL), "none matches: ttl 60s");
    ldr_name_unref(&n);
    ldr_name_unref(&f);
}

Test(route, a_long_name_has_a_short_index_key_of_its_own)
{
    char uri[700], other[700];
    struct ldr_name *a, *b;

    snprintf(uri, sizeof uri, "mem://bucket/%0600d", 1);
    snprintf(other, sizeof other, "mem://bucket/%0600d", 2);
    a = name_of(uri);
    b = name_of(other);
    cr_expect(ldr_name_shortened(a));
    cr_expect(le(sz, a->ikey_len, LDR_INDEX_KEY_MAX));
    cr_expect(eq(str, (char *)a->text, uri));
    cr_expect(a->ikey_len == b->ikey_len && memcmp(a->ikey, b->ikey, a->ikey_len));
    ldr_name_unref(&a);
    ldr_name_unref(&b);
}

Test(route, a_name_lives_until_its_last_reference_ends)
{
    struct ldr_name *n = name_of("mem://b/k"), *again = ldr_name_ref(n), *none = NULL;

    ldr_name_unref(&n);
    cr_expect(eq(str, (char *)again->key, "k"), "ASan would say otherwise");
    ldr_name_unref(&again);
    ldr_name_unref(&none);
}

Test(route, a_scheme_without_a_store_is_invalid_and_the_message_tells_what_there_is)
{
    struct ldr_name *n = NULL;

    cr_assert(eq(int, make_routes(), LARDER_OK));
    cr_assert(eq(int, ldr_route(routes, "gs://b/k", &n, &err), LARDER_INVALID));
    cr_expect(strstr(err.msg, "\"gs\"") != NULL && strstr(err.msg, "mem, file") != NULL, "%s", err.msg);
    cr_expect(n == NULL);
}

Test(route, a_malformed_reference_is_invalid)
{
    static const char *const bad[] = { "", "mem", "mem://", "mem://b", "mem://b/", "mem:///k", "://b/k", "1x://b/k" };
    struct ldr_name *n = NULL;

    cr_assert(eq(int, make_routes(), LARDER_OK));
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++)
        cr_expect(eq(int, ldr_route(routes, bad[i], &n, &err), LARDER_INVALID), "%s", bad[i]);
    cr_expect(n == NULL);
}

Test(route, a_kind_of_store_that_is_not_built_in_is_refused)
{
    static struct ldr_store_slot one[] = { { .scheme = (char *)"gs", .kind = (char *)"google" } };
    struct ldr_cfg c = { .stores = one, .n_stores = 1 };

    cr_assert(eq(int, ldr_routes_new(&c, nets, 1, pool, &routes, &err), LARDER_INVALID));
    cr_expect(strstr(err.msg, "\"google\"") != NULL && strstr(err.msg, ldr_backend_kinds()) != NULL, "%s", err.msg);
    cr_expect(routes == NULL);
}

Test(route, a_scheme_that_is_too_long_is_refused)
{
    static struct ldr_store_slot one[] = { { .scheme = (char *)"sixteen-letters-", .kind = (char *)"memory" } };
    struct ldr_cfg c = { .stores = one, .n_stores = 1 };

    cr_expect(eq(int, ldr_routes_new(&c, nets, 1, pool, &routes, &err), LARDER_INVALID));
    cr_expect(routes == NULL);
}

Test(route, a_store_that_cannot_be_opened_names_the_line_and_the_others_are_closed)
{
    static struct ldr_pair wrong[] = { { "path", "/proc/no/such/directory", 8 } };
    static struct ldr_store_slot two[] = {
        { .scheme = (char *)"mem", .kind = (char *)"memory" },
        { .scheme = (char *)"file", .kind = (char *)"local", .config = wrong, .n_config = 1, .line = 7 },
    };
    struct ldr_cfg c = { .file = (char *)"larder.yaml", .stores = two, .n_stores = 2 };

    cr_assert(ne(int, ldr_routes_new(&c, nets, 1, pool, &routes, &err), LARDER_OK));
    cr_expect(strstr(err.msg, "larder.yaml:7: store \"file\"") != NULL, "%s", err.msg);
    cr_expect(routes == NULL);
}
