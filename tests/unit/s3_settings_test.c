/* s3_settings_test.c - what an s3 store is told, and what it makes of that: addresses, regions, headers. Nothing is sent. */
#include "agent/cfg.h"
#include "backends/s3_impl.h"
#include "common/clock.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAIRS_MAX 24
#ifndef LDR_TEST_VECTORS
#define LDR_TEST_VECTORS "tests/vectors"
#endif

/* of the one test that this process runs */
static struct ldr_net *net;
static struct ldr_pool *pool;
static struct ldr_backend *store;
static struct larder_err err;
static char dir[TEST_DIR_MAX];

static void set_up(void)
{
    static const char *const around[] = { "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_CONFIG_FILE",
                                          "AWS_SHARED_CREDENTIALS_FILE" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(around); i++)
        unsetenv(around[i]);
    test_dir_make(dir);
    setenv("HOME", dir, 1); /* no files of whoever runs the test */
    cr_assert(eq(int, ldr_pool_new(1, &pool, &err), LARDER_OK));
    cr_assert(eq(int, ldr_net_new(&(struct ldr_net_cfg){ .connections_per_host = 1 }, &net, &err), LARDER_OK));
}

static void close_store(void)
{
    if (store)
        store->ops->close(store);
    store = NULL;
}

static void tear_down(void)
{
    ldr_net_shutdown(net);
    close_store();
    ldr_net_free(&net);
    ldr_pool_free(&pool);
    test_dir_remove(dir);
}

TestSuite(s3_settings, .init = set_up, .fini = tear_down, .timeout = 30);

/* Open with NAME, VALUE, …, NULL, as a file says them (`line` > 0) or what is around (0). */
static enum larder_kind open_at(int line, const char *const settings[])
{
    struct ldr_pair pairs[PAIRS_MAX];
    struct ldr_store_cfg cfg = { .kind = "s3", .scheme = "s3", .config = pairs };

    close_store();
    err = (struct larder_err){ 0 };
    for (; settings[2 * cfg.n_config]; cfg.n_config++) {
        cr_assert(cfg.n_config < PAIRS_MAX);
        pairs[cfg.n_config] = (struct ldr_pair){ .name = settings[2 * cfg.n_config],
                                                 .value = settings[2 * cfg.n_config + 1],
                                                 .line = line };
    }
    return ldr_backend_find("s3")->open(&cfg, &(struct ldr_backend_env){ .net = net, .pool = pool }, &store, &err);
}

#define OPEN(...) open_at(7, (const char *const[]){ __VA_ARGS__, NULL })
#define OPENS(...)                                                                                                     \
    do {                                                                                                               \
        cr_assert(eq(int, OPEN(__VA_ARGS__), LARDER_OK), "%s", err.msg);                                               \
    } while (0)
/* Refused, with a message that holds `part` and names no secret. */
#define REFUSED(kind, part, ...)                                                                                       \
    do {                                                                                                               \
        cr_expect(eq(int, OPEN(__VA_ARGS__), kind), "%s", err.msg);                                                    \
        cr_expect(store == NULL);                                                                                      \
        cr_expect(strstr(err.msg, part) != NULL, "%s", err.msg);                                                       \
        cr_expect(strstr(err.msg, "5ecret") == NULL, "%s", err.msg);                                                   \
    } while (0)
#define ANON "auth_type", "anonymous"
#define KEYS "access_key_id", "AK", "secret_key", "5ecret"

static const struct s3 *s3(void)
{
    return (const struct s3 *)store;
}

static const char *write_file(const char *name, const void *p, size_t n)
{
    static char path[TEST_DIR_MAX + 64];
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd != -1 && write(fd, p, n) == (ssize_t)n);
    close(fd);
    return path;
}

/* ---- names and values ---- */

Test(s3_settings, an_unknown_setting_is_refused_with_those_that_there_are)
{
    REFUSED(LARDER_INVALID, "\"colour\"", KEYS, "colour", "red");
    cr_expect(strstr(err.msg, "access_key_id") && strstr(err.msg, "signing_region"), "%s", err.msg);
}

Test(s3_settings, a_value_that_is_no_choice_is_refused_with_the_choices)
{
    REFUSED(LARDER_INVALID, "\"auth_type\" is \"magic\"; accepted: accesskey, iam, anonymous", "auth_type", "magic");
    REFUSED(LARDER_INVALID, "\"addressing\" is \"dns\"; accepted: auto, path, virtual", ANON, "addressing", "dns");
    REFUSED(LARDER_INVALID, "\"disable_ssl\" is \"yes\"; accepted: false, true", ANON, "disable_ssl", "yes");
    REFUSED(LARDER_INVALID, "\"requester_pays\" is \"True\"", ANON, "requester_pays", "True");
    REFUSED(LARDER_INVALID, "\"sse\" is \"aes256\"; accepted: none, AES256, aws:kms, aws:kms:dsse", ANON, "sse",
            "aes256");
    REFUSED(LARDER_INVALID, "accepted: auto, crc32c, crc64nvme, md5, none", ANON, "checksum", "sha256");
    REFUSED(LARDER_INVALID, "accepted: auto, always, never", ANON, "sign_payload", "true");
    REFUSED(LARDER_INVALID, "accepted: environment, none", ANON, "proxy", "http://proxy:3128");
}

Test(s3_settings, an_empty_value_is_as_good_as_none)
{
    OPENS(KEYS, "token", "", "region", "", "endpoint", "", "disable_ssl", "", "sse", "", "ca_file", "", "role_arn", "",
          "auth_type", "", "min_speed", "", "storage_class", "");
    cr_expect(s3()->aws && s3()->https && !s3()->region_fixed && !s3()->sse && !s3()->ca_file);
    cr_expect(eq(str, s3()->region, "us-east-1"));
}

Test(s3_settings, a_value_over_two_lines_is_refused)
{
    REFUSED(LARDER_INVALID, "\"sse_kms_key_id\" holds a control character", ANON, "sse", "aws:kms", "sse_kms_key_id",
            "key\r\nX-Evil: 1");
}

Test(s3_settings, version_two_of_the_signature_is_unsupported)
{
    REFUSED(LARDER_UNSUPPORTED, "v2_signing", KEYS, "v2_signing", "true");
    OPENS(KEYS, "v2_signing", "false");
}

/* ---- credentials ---- */

Test(s3_settings, keys_have_to_be_whole)
{
    REFUSED(LARDER_INVALID, "\"access_key_id\" is missing", "secret_key", "5ecret");
    REFUSED(LARDER_INVALID, "\"secret_key\" or \"secret_key_path\" is missing", "access_key_id", "AK");
    REFUSED(LARDER_IO, "\"secret_key_path\": ", "access_key_id", "AK", "secret_key_path", "/nowhere/at-all");
    OPENS("access_key_id", "AK", "secret_key_path", write_file("secret", "5ecret\n", 7));
}

Test(s3_settings, what_is_for_the_chain_is_refused_without_it)
{
    static const char *const names[] = { "profile", "role_arn", "role_session_name", "external_id", "sts_endpoint" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(names); i++) {
        REFUSED(LARDER_INVALID, names[i], KEYS, names[i], "x");
        REFUSED(LARDER_INVALID, "needs \"auth_type\": iam", ANON, names[i], "x");
    }
    REFUSED(LARDER_INVALID, "\"external_id\" needs \"role_arn\"", "auth_type", "iam", "external_id", "x");
    REFUSED(LARDER_INVALID, "\"role_session_name\" needs \"role_arn\"", "auth_type", "iam", "role_session_name", "x");
    OPENS("auth_type", "iam", "role_arn", "arn:aws:iam::123456789012:role/reader", "external_id", "x",
          "role_session_name", "larder", "sts_endpoint", "https://sts.example");
}

Test(s3_settings, keys_that_flyte_leaves_beside_iam_are_no_error)
{
    OPENS("auth_type", "iam", KEYS, "token", "t");
}

/* ---- where ---- */

static const char *host_of(const char *bucket, bool sign, bool *in_host)
{
    static char host[LDR_S3_HOST_MAX];

    cr_assert(ldr_s3_host(s3(), bucket, sign, host, sizeof host, in_host));
    return host;
}

static void expect_host(const char *bucket, const char *host, bool in_host)
{
    bool in;

    cr_expect(eq(str, (char *)host_of(bucket, false, &in), (char *)host));
    cr_expect(eq(int, in, in_host), "%s", bucket);
}

Test(s3_settings, a_bucket_is_in_the_host_at_aws_and_in_the_path_at_an_endpoint)
{
    OPENS(ANON);
    expect_host("b1", "b1.s3.us-east-1.amazonaws.com", true);
    expect_host("b.1", "s3.us-east-1.amazonaws.com", false);
    expect_host("B1", "s3.us-east-1.amazonaws.com", false);
    OPENS(ANON, "region", "cn-north-1");
    expect_host("b1", "b1.s3.cn-north-1.amazonaws.com.cn", true);
    OPENS(ANON, "endpoint", "https://minio.storage:9000/base/");
    expect_host("b1", "minio.storage:9000", false);
    cr_expect(eq(str, s3()->prefix, "/base"));
}

Test(s3_settings, addressing_may_be_said)
{
    OPENS(ANON, "addressing", "path");
    expect_host("b1", "s3.us-east-1.amazonaws.com", false);
    OPENS(ANON, "addressing", "virtual", "endpoint", "http://store.example:9000");
    expect_host("b1", "b1.store.example:9000", true);
    expect_host("b.1", "store.example:9000", false);
    REFUSED(LARDER_INVALID, "\"endpoint\" is an IP address", ANON, "addressing", "virtual", "endpoint",
            "http://127.0.0.1:9000");
    REFUSED(LARDER_INVALID, "\"endpoint\" is an IP address", ANON, "addressing", "virtual", "endpoint", "http://[::1]");
}

Test(s3_settings, an_endpoint_is_an_address)
{
    static const char *const bad[] = { "http://", "ftp://host", "host name", "host/a b", "user@host",
                                       "host?x",  "http://h/#", "h:",        "h:0",      "h:65536",
                                       "h:9x",    ":80",        "[::1",      "[]" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++)
        REFUSED(LARDER_INVALID, "\"endpoint\" is no address; accepted: ", ANON, "endpoint", bad[i]);
    OPENS(ANON, "endpoint", "store.example:443");
    cr_expect(s3()->https && !strcmp(s3()->host, "store.example"));
    OPENS(ANON, "endpoint", "store.example:80", "disable_ssl", "true");
    cr_expect(eq(int, s3()->https, false));
    cr_expect(eq(str, s3()->host, "store.example"));
    OPENS(ANON, "endpoint", "HTTPS://store.example", "disable_ssl", "true");
    cr_expect(s3()->https, "the scheme says it");
}

Test(s3_settings, signed_urls_may_name_another_address)
{
    bool in;

    OPENS(ANON, "endpoint", "http://10.0.0.1:9000", "signing_endpoint", "https://files.example/s3", "signing_region",
          "eu");
    cr_expect(eq(str, (char *)host_of("b1", true, &in), "files.example"));
    cr_expect(not(in));
    cr_expect(s3()->sign_https && !strcmp(s3()->sign_prefix, "/s3") && !strcmp(s3()->sign_region, "eu"));
    expect_host("b1", "10.0.0.1:9000", false);
    OPENS(ANON);
    cr_expect(eq(str, (char *)host_of("b1", true, &in), "b1.s3.us-east-1.amazonaws.com"));
    REFUSED(LARDER_INVALID, "\"signing_endpoint\" is no address", ANON, "signing_endpoint", "a b");
    REFUSED(LARDER_INVALID, "\"signing_region\" needs \"signing_endpoint\"", ANON, "signing_region", "eu");
}

/* ---- regions ---- */

Test(s3_settings, a_region_is_what_is_said_else_what_is_around_else_the_first_one)
{
    setenv("AWS_REGION", "eu-west-1", 1);
    OPENS("auth_type", "iam", "region", "eu-north-1");
    cr_expect(eq(str, s3()->region, "eu-north-1"));
    cr_expect(s3()->region_fixed);
    OPENS("auth_type", "iam");
    cr_expect(eq(str, s3()->region, "eu-west-1"));
    cr_expect(not(s3()->region_fixed));
    OPENS(KEYS);
    cr_expect(eq(str, s3()->region, "us-east-1"), "keys are not around, and neither is their region");
    REFUSED(LARDER_INVALID, "\"region\" is \"eu/north\"", KEYS, "region", "eu/north");
}

Test(s3_settings, a_region_that_nobody_wrote_down_is_not_fixed)
{
    cr_assert(eq(int, open_at(0, (const char *const[]){ ANON, "region", "eu-west-1", NULL }), LARDER_OK));
    cr_expect(eq(str, s3()->region, "eu-west-1"));
    cr_expect(not(s3()->region_fixed));
}

Test(s3_settings, a_buckets_region_is_learnt_once)
{
    OPENS(ANON);
    cr_expect(ldr_s3_learn_region_on_net((struct s3 *)store, "b1", "eu-west-1"));
    cr_expect(not(ldr_s3_learn_region_on_net((struct s3 *)store, "b1", "eu-west-1")), "that is no news");
    expect_host("b1", "b1.s3.eu-west-1.amazonaws.com", true);
    expect_host("b2", "b2.s3.us-east-1.amazonaws.com", true);
    cr_expect(ldr_s3_learn_region_on_net((struct s3 *)store, "b1", "eu-west-2"));
    expect_host("b1", "b1.s3.eu-west-2.amazonaws.com", true);
    cr_expect(not(ldr_s3_learn_region_on_net((struct s3 *)store, "b2", "evil.example/?")), "a region, and no host");
    cr_expect(not(ldr_s3_learn_region_on_net((struct s3 *)store, "b2", "")));
}

Test(s3_settings, regions_of_many_buckets_take_no_room_without_bound)
{
    char bucket[32];

    OPENS(ANON);
    for (int i = 0; i < 1000; i++) {
        snprintf(bucket, sizeof bucket, "b%d", i);
        cr_assert(ldr_s3_learn_region_on_net((struct s3 *)store, bucket, "eu-west-1"));
        cr_assert(eq(str, (char *)ldr_s3_region_of(s3(), bucket), "eu-west-1"));
    }
    cr_expect(eq(str, (char *)ldr_s3_region_of(s3(), "b0"), "us-east-1"), "forgotten, and learnt again at need");
}

Test(s3_settings, a_region_that_was_said_stays)
{
    OPENS(ANON, "region", "us-east-1");
    cr_expect(not(ldr_s3_learn_region_on_net((struct s3 *)store, "b1", "eu-west-1")));
}

/* ---- files ---- */

static const char certificate[] = "-----BEGIN CERTIFICATE-----\n"
                                  "MIIBfTCCASOgAwIBAgIUPLACEHOLDER\n"
                                  "-----END CERTIFICATE-----\n";

Test(s3_settings, a_file_of_authorities_is_looked_at_before_it_is_needed)
{
    char big[64 * 1024];

    memset(big, 'x', sizeof big);
    REFUSED(LARDER_IO, "\"ca_file\": could not open \"/nowhere/ca.pem\"", ANON, "ca_file", "/nowhere/ca.pem");
    REFUSED(LARDER_INVALID, "is no regular file", ANON, "ca_file", dir);
    REFUSED(LARDER_INVALID, "holds no certificate; accepted: PEM", ANON, "ca_file", write_file("ca", "", 0));
    REFUSED(LARDER_INVALID, "holds no certificate", ANON, "ca_file", write_file("ca", big, sizeof big));
    REFUSED(LARDER_INVALID, "holds no certificate", ANON, "ca_file",
            write_file("ca", certificate, sizeof certificate - 1)); /* its inside is none */
}

Test(s3_settings, a_customers_key_is_32_bytes_or_their_base64)
{
    static const char key[] = "0123456789abcdef0123456789abcdef",
                      b64[] = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    static const char md5[] = "hRasmdxgYDKV3nvbahU1MA=="; /* of the 32 bytes */
    static const char *const bad[] = { "",
                                       "short",
                                       "0123456789abcdef0123456789abcde",
                                       "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZQ==",
                                       "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZW!=",
                                       "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWZn" };
    char text[80];

    OPENS(ANON, "sse_customer_key_file", write_file("key", key, 32));
    cr_expect(eq(str, s3()->sse_customer_key, (char *)b64));
    cr_expect(eq(str, s3()->sse_customer_md5, (char *)md5));
    snprintf(text, sizeof text, "  %s\n", b64);
    OPENS(ANON, "sse_customer_key_file", write_file("key", text, strlen(text)));
    cr_expect(eq(str, s3()->sse_customer_key, (char *)b64));
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        REFUSED(LARDER_INVALID, "accepted: 32 bytes, or their base64", ANON, "sse_customer_key_file",
                write_file("key", bad[i], strlen(bad[i])));
        cr_expect(bad[i][0] == 0 || strstr(err.msg, bad[i]) == NULL, "%s", err.msg);
    }
}

Test(s3_settings, a_customers_key_travels_in_the_clear_never)
{
    const char *key = write_file("key", "0123456789abcdef0123456789abcdef", 32);

    REFUSED(LARDER_INVALID, "needs https", ANON, "sse_customer_key_file", key, "disable_ssl", "true");
    REFUSED(LARDER_INVALID, "needs https", ANON, "sse_customer_key_file", key, "endpoint", "http://store.example");
    REFUSED(LARDER_INVALID, "exclude each other", ANON, "sse_customer_key_file", key, "sse", "AES256");
}

Test(s3_settings, another_key_is_another_cache)
{
    uint64_t none, first;

    OPENS(ANON, "endpoint", "https://store.example");
    none = store->ops->fingerprint(store);
    OPENS(ANON, "endpoint", "https://store.example", "sse_customer_key_file",
          write_file("key", "0123456789abcdef0123456789abcdef", 32));
    first = store->ops->fingerprint(store);
    cr_expect(ne(u64, first, none));
    OPENS(ANON, "endpoint", "https://store.example", "sse_customer_key_file",
          write_file("key", "0123456789abcdef0123456789abcdeg", 32));
    cr_expect(ne(u64, store->ops->fingerprint(store), first));
    OPENS(ANON, "endpoint", "https://store.example", "sse", "AES256", "requester_pays", "true", "region", "eu");
    cr_expect(eq(u64, store->ops->fingerprint(store), none), "the same objects, whatever else is said");
}

/* ---- speed ---- */

Test(s3_settings, a_least_speed_is_bytes_a_second)
{
    static const char *const bad[] = { "-1", "4KiB", "1.5", "2000000000", "99999999999999999999", " 1" };

    OPENS(ANON);
    cr_expect(eq(i64, s3()->min_speed, 0));
    OPENS(ANON, "min_speed", "16384");
    cr_expect(eq(i64, s3()->min_speed, 16384));
    OPENS(ANON, "min_speed", "0");
    cr_expect(eq(i64, s3()->min_speed, -1));
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++)
        REFUSED(LARDER_INVALID, "\"min_speed\" is \"", ANON, "min_speed", bad[i]);
}

/* ---- headers ---- */

static void nothing(struct ldr_op *op)
{
    (void)op;
}

/* The headers that settings add to a request of this kind: lines, ended by a newline each. */
static const char *extra(enum ldr_op_what what)
{
    static char lines[4096];
    struct ldr_op op = { .backend = store,
                         .what = what,
                         .uri = "s3://b/k",
                         .container = "b",
                         .key = "k",
                         .from_uri = "s3://b/j",
                         .from_container = "b",
                         .from_key = "j",
                         .done = nothing };
    struct s3_op *o = ldr_s3_begin(store, &op);

    cr_assert(o != NULL);
    cr_assert(eq(int, ldr_s3_extra_headers(o, &err), LARDER_OK));
    cr_assert(o->lines.len < sizeof lines);
    if (o->lines.len)
        memcpy(lines, o->lines.p, o->lines.len);
    for (size_t i = 0; i < o->lines.len; i++)
        if (!lines[i])
            lines[i] = '\n';
    lines[o->lines.len] = '\0';
    ldr_s3_end(o, LARDER_OK);
    return lines;
}

Test(s3_settings, nothing_is_added_where_nothing_is_set)
{
    OPENS(ANON, "sse", "none");
    for (int what = 0; what < LDR_OP_WHATS; what++)
        cr_expect(eq(str, (char *)extra((enum ldr_op_what)what), ""));
}

Test(s3_settings, the_requester_pays_for_all_but_a_new_bucket)
{
    OPENS(ANON, "requester_pays", "true");
    for (int what = 0; what < LDR_OP_SIGN; what++)
        cr_expect(eq(str, (char *)extra((enum ldr_op_what)what),
                     what == LDR_OP_MAKE_CONTAINER ? "" : "x-amz-request-payer: requester\n"));
}

Test(s3_settings, encryption_and_class_are_asked_for_where_an_object_is_made)
{
    static const char want[] = "x-amz-server-side-encryption: aws:kms\n"
                               "x-amz-server-side-encryption-aws-kms-key-id: alias/mine\n"
                               "x-amz-storage-class: STANDARD_IA\n";

    OPENS(ANON, "sse", "aws:kms", "sse_kms_key_id", "alias/mine", "storage_class", "STANDARD_IA");
    for (int what = 0; what < LDR_OP_SIGN; what++)
        cr_expect(eq(str, (char *)extra((enum ldr_op_what)what),
                     what == LDR_OP_PUT || what == LDR_OP_COPY || what == LDR_OP_UPLOAD_BEGIN ? (char *)want : ""));
    REFUSED(LARDER_INVALID, "\"sse_kms_key_id\" needs \"sse\"", ANON, "sse", "AES256", "sse_kms_key_id", "x");
    REFUSED(LARDER_INVALID, "\"storage_class\" is \"A B\"", ANON, "storage_class", "A B");
}

Test(s3_settings, a_customers_key_goes_with_all_that_touches_bytes)
{
    static const char own[] = "x-amz-server-side-encryption-customer-algorithm: AES256\n"
                              "x-amz-server-side-encryption-customer-key: "
                              "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"
                              "x-amz-server-side-encryption-customer-key-MD5: hRasmdxgYDKV3nvbahU1MA==\n";
    static const char source[] =
        "x-amz-copy-source-server-side-encryption-customer-algorithm: AES256\n"
        "x-amz-copy-source-server-side-encryption-customer-key: "
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"
        "x-amz-copy-source-server-side-encryption-customer-key-MD5: hRasmdxgYDKV3nvbahU1MA==\n";
    char both[1024];

    snprintf(both, sizeof both, "%s%s", own, source);
    OPENS(ANON, "sse_customer_key_file", write_file("key", "0123456789abcdef0123456789abcdef", 32));
    cr_expect(eq(str, (char *)extra(LDR_OP_GET), (char *)own));
    cr_expect(eq(str, (char *)extra(LDR_OP_HEAD), (char *)own));
    cr_expect(eq(str, (char *)extra(LDR_OP_PUT), (char *)own));
    cr_expect(eq(str, (char *)extra(LDR_OP_UPLOAD_BEGIN), (char *)own));
    cr_expect(eq(str, (char *)extra(LDR_OP_UPLOAD_PART), (char *)own));
    cr_expect(eq(str, (char *)extra(LDR_OP_UPLOAD_END), (char *)own));
    cr_expect(eq(str, (char *)extra(LDR_OP_COPY), both));
    cr_expect(eq(str, (char *)extra(LDR_OP_UPLOAD_COPY), both));
    cr_expect(eq(str, (char *)extra(LDR_OP_DELETE), ""));
    cr_expect(eq(str, (char *)extra(LDR_OP_LIST), ""));
    cr_expect(eq(str, (char *)extra(LDR_OP_DELETE_MANY), ""));
    cr_expect(eq(str, (char *)extra(LDR_OP_UPLOAD_ABORT), ""));
}

/* ---- the documentation ---- */

/* A certificate that signs itself. */
static const char *write_ca(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    BIO *out = BIO_new(BIO_s_mem());
    const char *path;
    char *pem;
    long n;

    cr_assert(key != NULL && cert != NULL && out != NULL);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    cr_assert(gt(int, X509_sign(cert, key, EVP_sha256()), 0));
    cr_assert(eq(int, PEM_write_bio_X509(out, cert), 1));
    n = BIO_get_mem_data(out, &pem);
    path = write_file("ca.pem", pem, (size_t)n);
    BIO_free(out);
    X509_free(cert);
    EVP_PKEY_free(key);
    return path;
}

Test(s3_settings, a_file_with_a_certificate_is_taken)
{
    OPENS(ANON, "ca_file", write_ca());
    cr_expect(s3()->ca_file && strstr(s3()->ca_file, "ca.pem"));
}

/* Open the s3 store of a configuration; files that it names are replaced by some of this test. */
static void open_example(const struct ldr_store_slot *slot, int nth)
{
    char files[PAIRS_MAX][TEST_DIR_MAX + 64];
    struct ldr_pair pairs[PAIRS_MAX];
    struct ldr_store_cfg cfg = {
        .kind = slot->kind, .scheme = slot->scheme, .config = pairs, .n_config = slot->n_config
    };

    cr_assert(le(sz, slot->n_config, PAIRS_MAX));
    for (size_t i = 0; i < slot->n_config; i++) {
        pairs[i] = slot->config[i];
        if (pairs[i].value[0] != '/')
            continue;
        snprintf(files[i], sizeof files[i], "%s",
                 !strcmp(pairs[i].name, "ca_file") ? write_ca()
                                                   : write_file("key", "0123456789abcdef0123456789abcdef", 32));
        pairs[i].value = files[i];
    }
    close_store();
    cr_expect(
        eq(int, ldr_backend_find("s3")->open(&cfg, &(struct ldr_backend_env){ .net = net, .pool = pool }, &store, &err),
           LARDER_OK),
        "example %d: %s", nth, err.msg);
}

Test(s3_settings, every_example_of_the_documentation_is_a_configuration)
{
    static char text[256 * 1024];
    FILE *f = fopen(LDR_TEST_VECTORS "/../../docs/stores/s3.md", "re");
    char *at = text, *end;
    int n = 0;

    cr_assert(f != NULL);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    for (; (at = strstr(at, "```yaml\n")) && (end = strstr(at, "\n```\n")); at = end, n++) {
        char *errors = NULL;
        struct ldr_cfg *cfg = NULL;

        at += strlen("```yaml\n");
        cr_assert(eq(int, ldr_cfg_parse("s3.md", at, (size_t)(end - at) + 1, NULL, &cfg, &errors, &err), LARDER_OK),
                  "example %d: %s", n, errors ? errors : err.msg);
        cr_expect(eq(sz, cfg->n_warnings, 0), "example %d: %s", n, cfg->n_warnings ? cfg->warnings[0] : "");
        open_example(&cfg->stores[0], n);
        ldr_cfg_free(&cfg);
    }
    cr_expect(ge(int, n, 15), "%d examples", n);
}

Test(s3_settings, every_setting_is_in_the_documentation)
{
    static char text[256 * 1024];
    FILE *f = fopen(LDR_TEST_VECTORS "/../../docs/stores/s3.md", "re");
    char *name, *rest = err.msg, quoted[80];
    int n = 0;

    cr_assert(f != NULL);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    REFUSED(LARDER_INVALID, "accepted: ", "colour", "red"); /* it lists them all */
    rest = strstr(err.msg, "accepted: ") + strlen("accepted: ");
    while ((name = strsep(&rest, ", ")))
        if (*name) {
            snprintf(quoted, sizeof quoted, "`%s`", name);
            cr_expect(strstr(text, quoted) != NULL, "%s", name);
            n++;
        }
    cr_expect(ge(int, n, 27), "%d", n);
}
