/* cred_servers_test.c - the chain against servers that others wrote: MinIO's token service, whose sessions are then used
 * to sign a request to its store, and the metadata mock of EC2. Skipped, loudly, where they are not installed. */
#include "backends/cred/cred.h"
#include "backends/sign/sigv4.h"
#include "backends/transport/http.h"
#include "common/clock.h"
#include "common/hash.h"
#include "tests/support/cred_server.h"
#include "tests/support/cred_try.h"
#include "tests/support/real_server.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <limits.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROOT_ID     "larderak"
#define ROOT_SECRET "lardersecret123"
#define AUDIENCE    "sts.amazonaws.com"

static char dir[TEST_DIR_MAX], log_path[TEST_DIR_MAX + 16], program[PATH_MAX], reason[PATH_MAX + 128];
static struct ldr_net *net;
static struct ldr_pool *pool;
static struct ldr_cred_source *source, *earlier;
static struct cred_server *issuer;
static struct real_server server;
static struct larder_err err;
static struct cred_try got;

/* The tests' servers are looked for before HOME is another one. */
static void set_up(void)
{
    test_dir_make(dir);
    snprintf(log_path, sizeof log_path, "%s/log", dir);
    cr_assert(zero(int, ldr_net_new(&(struct ldr_net_cfg){ .connections_per_host = 4 }, &net, &err)));
    cr_assert(zero(int, ldr_pool_new(1, &pool, &err)));
}

static void tear_down(void)
{
    if (!net) /* skipped */
        return;
    ldr_net_shutdown(net);
    ldr_pool_free(&pool);
    ldr_net_free(&net);
    ldr_cred_free(&source);
    ldr_cred_free(&earlier);
    real_server_stop(&server);
    cred_server_stop(&issuer);
    test_dir_remove(dir);
}

TestSuite(cred_servers, .init = set_up, .fini = tear_down, .timeout = 120);

static void find_program(const char *variable, const char *installed)
{
    if (real_server_find(variable, installed, program, sizeof program, reason, sizeof reason))
        return;
    tear_down(); /* Criterion calls no .fini after a skip */
    cr_skip_test("%s", reason);
}

static void make(struct ldr_cred_cfg cfg)
{
    cfg.net = net;
    cfg.pool = pool;
    cr_assert(zero(int, ldr_cred_new(&cfg, &source, &err)), "%s", err.msg);
}

/* ---- the metadata mock ---- */

static void start_mock(const char *expiration)
{
    char config[TEST_DIR_MAX + 16];
    FILE *f;

    find_program("LDR_TEST_EC2_METADATA_MOCK", "ec2-metadata-mock-1.13.0/ec2-metadata-mock");
    snprintf(config, sizeof config, "%s/mock.json", dir);
    f = fopen(config, "w");
    cr_assert(ne(ptr, f, NULL));
    fprintf(
        f,
        "{\"metadata\": {\"values\": {\"iam-security-credentials\": {\"Code\": \"Success\", \"Type\": \"AWS-HMAC\", "
        "\"AccessKeyId\": \"mock\", \"SecretAccessKey\": \"secret\", \"Token\": \"tok/en==\", \"Expiration\": "
        "\"%s\"}}}}\n",
        expiration);
    fclose(f);
    cred_try_clean_environment(dir);
    cr_assert(real_server_start(
                  &server,
                  (char *[]){ program, "--imdsv2", "--hostname", "127.0.0.1", "--port", "0", "-c", config, NULL },
                  log_path, NULL),
              "ec2-metadata-mock did not start");
    unsetenv("AWS_EC2_METADATA_DISABLED");
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url, 1);
    make((struct ldr_cred_cfg){ .how = LDR_CRED_CHAIN });
}

Test(cred_servers, the_metadata_mock_gives_the_credentials_of_its_role)
{
    start_mock("2090-01-02T03:04:05Z");
    cr_assert(eq(int, cred_try(&got, net, source), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(str, got.id, "mock"));
    cr_expect(eq(str, got.secret, "secret"));
    cr_expect(eq(str, got.token, "tok/en=="));
    cr_expect(eq(str, got.name, "instance metadata"));
    cr_expect(eq(i64, got.expires_s, INT64_C(3787009445)));
}

Test(cred_servers, the_metadata_mock_s_old_credentials_are_not_used)
{
    start_mock("2020-04-02T00:49:51Z");
    cr_expect(eq(int, cred_try(&got, net, source), LARDER_UNAVAILABLE));
    cr_expect(ne(ptr, strstr(got.err.msg, "ended"), NULL), "%s", got.err.msg);
}

/* ---- MinIO ---- */

static void start_minio(void)
{
    char data[TEST_DIR_MAX + 16];

    find_program("LDR_TEST_MINIO", "minio-20260212/minio");
    snprintf(data, sizeof data, "%s/data", dir);
    cred_try_clean_environment(dir);
    setenv("MINIO_ROOT_USER", ROOT_ID, 1);
    setenv("MINIO_ROOT_PASSWORD", ROOT_SECRET, 1);
    setenv("MINIO_UPDATE", "off", 1);
    setenv("MINIO_BROWSER", "off", 1); /* its console would want a port that is told */
    cr_assert(real_server_start(&server, (char *[]){ program, "server", "--address", "127.0.0.1:0", data, NULL },
                                log_path, "/minio/health/cluster" /* others answer before users are known */),
              "minio did not start");
}

/* The status of a list of the buckets, signed with `got`. */
struct list {
    struct ldr_http_req req;
    struct ldr_task task;
    sem_t done;
    int status;
};

static void list_done(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *e)
{
    struct list *l = LDR_CONTAINER(r, struct list, req);

    (void)e;
    l->status = kind ? -1 : r->reply.status;
    sem_post(&l->done);
}

static void list_start(struct ldr_task *t)
{
    ldr_http_send_on_net(net, &LDR_CONTAINER(t, struct list, task)->req);
}

static int list_buckets(void)
{
    char host[80], date[64], token[5000], auth[2048], amz[LDR_SIGV4_DATE_MAX], url[80];
    const char *headers[] = { host, date, "X-Amz-Content-Sha256: " LDR_SIGV4_EMPTY, got.has_token ? token : NULL,
                              NULL };
    const char *sent[] = { date, headers[2], auth, got.has_token ? token : NULL, NULL };
    struct ldr_buf text = LDR_BUF_INIT(8192);
    struct ldr_cred c = { .access_key_id = got.id,
                          .secret_key = got.secret,
                          .token = got.has_token ? got.token : NULL };
    struct ldr_sigv4 s = { .method = "GET",
                           .path = "/",
                           .headers = headers,
                           .payload = LDR_SIGV4_EMPTY,
                           .region = "us-east-1",
                           .service = "s3",
                           .time_s = time(NULL) };
    struct list l = { .req = { .method = "GET",
                               .url = url,
                               .headers = sent,
                               .body_fd = -1,
                               .deadline_ns = ldr_deadline_ns(20000),
                               .on_done = list_done },
                      .task.run = list_start };

    cr_assert(zero(int, ldr_sigv4_date(s.time_s, amz, &err)));
    snprintf(url, sizeof url, "%s/", server.url);
    snprintf(host, sizeof host, "Host: %s", server.url + strlen("http://"));
    snprintf(date, sizeof date, "X-Amz-Date: %s", amz);
    snprintf(token, sizeof token, "X-Amz-Security-Token: %s", got.token);
    cr_assert(zero(int, ldr_sigv4_authorization(&s, &c, &text, &err)), "%s", err.msg);
    snprintf(auth, sizeof auth, "Authorization: %s", ldr_buf_str(&text));
    ldr_buf_release(&text);
    sem_init(&l.done, 0, 0);
    ldr_net_post(net, &l.task);
    while (sem_wait(&l.done) == -1)
        ;
    sem_destroy(&l.done);
    return l.status;
}

static struct ldr_cred_cfg root_with_role(const char *secret)
{
    return (struct ldr_cred_cfg){ .how = LDR_CRED_KEYS,
                                  .access_key_id = ROOT_ID,
                                  .secret_key = secret,
                                  .role_arn = "arn:minio:iam:::role/any",
                                  .sts_endpoint = server.url };
}

Test(cred_servers, minio_takes_the_signature_of_assume_role_and_its_session_reads_the_store)
{
    start_minio();
    make(root_with_role(ROOT_SECRET));
    cr_assert(eq(int, cred_try(&got, net, source), LARDER_OK), "%s", got.err.msg);
    cr_expect(ne(str, got.id, ROOT_ID));
    cr_expect(got.has_token && got.expires_s > time(NULL) + 3000);
    cr_expect(eq(int, list_buckets(), 200));
    got.token[5] ^= 1;
    cr_expect(eq(int, list_buckets(), 403), "a session with a wrong token");
}

Test(cred_servers, minio_refuses_a_wrong_secret)
{
    start_minio();
    make(root_with_role("another-secret"));
    cr_expect(eq(int, cred_try(&got, net, source), LARDER_DENIED));
    cr_expect(ne(ptr, strstr(got.err.msg, "AccessDenied"), NULL), "%s", got.err.msg);
}

/* ---- MinIO with an issuer of web identities, played by the test ---- */

static EVP_PKEY *key;

static void add_base64url(struct ldr_buf *out, const void *p, size_t n)
{
    size_t at = out->len;

    cr_assert(ldr_buf_reserve(out, (n + 2) / 3 * 4 + 1));
    out->len += (size_t)EVP_EncodeBlock(out->p + at, p, (int)n);
    for (size_t i = at; i < out->len; i++)
        out->p[i] = out->p[i] == '+' ? '-' : out->p[i] == '/' ? '_' : out->p[i];
    while (out->len > at && out->p[out->len - 1] == '=')
        out->len--;
}

static void add_number(struct ldr_buf *out, const char *name)
{
    unsigned char bytes[512];
    BIGNUM *n = NULL;

    cr_assert(eq(int, EVP_PKEY_get_bn_param(key, name, &n), 1));
    add_base64url(out, bytes, (size_t)BN_bn2bin(n, bytes));
    BN_free(n);
}

static void start_issuer(void)
{
    struct ldr_buf keys = LDR_BUF_INIT(4096);
    const char *url;
    char text[512];

    key = EVP_RSA_gen(2048);
    cr_assert(ne(ptr, key, NULL));
    issuer = cred_server_start();
    url = cred_server_url(issuer);
    snprintf(text, sizeof text,
             "{\"issuer\": \"%s\", \"jwks_uri\": \"%s/keys\", \"authorization_endpoint\": \"%s/a\", "
             "\"token_endpoint\": \"%s/t\", \"id_token_signing_alg_values_supported\": [\"RS256\"]}",
             url, url, url, url);
    cred_server_say(issuer, "GET /.well-known/openid-configuration", 200, NULL, text);
    ldr_buf_addf(&keys,
                 "{\"keys\": [{\"kty\": \"RSA\", \"use\": \"sig\", \"alg\": \"RS256\", \"kid\": \"k1\", \"n\": \"");
    add_number(&keys, OSSL_PKEY_PARAM_RSA_N);
    ldr_buf_addf(&keys, "\", \"e\": \"");
    add_number(&keys, OSSL_PKEY_PARAM_RSA_E);
    ldr_buf_addf(&keys, "\"}]}");
    cred_server_say(issuer, "GET /keys", 200, NULL, ldr_buf_str(&keys));
    ldr_buf_release(&keys);
    snprintf(text, sizeof text, "%s/.well-known/openid-configuration", url);
    setenv("MINIO_IDENTITY_OPENID_CONFIG_URL", text, 1);
    setenv("MINIO_IDENTITY_OPENID_CLIENT_ID", AUDIENCE, 1);
    setenv("MINIO_IDENTITY_OPENID_CLAIM_NAME", "policy", 1);
}

static void write_token(const char *audience, int64_t expires_s)
{
    static const char head[] = "{\"alg\":\"RS256\",\"kid\":\"k1\",\"typ\":\"JWT\"}";
    struct ldr_buf jwt = LDR_BUF_INIT(4096);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char sig[512];
    size_t sig_len = sizeof sig;
    char claims[512], path[TEST_DIR_MAX + 16];
    FILE *f;

    snprintf(claims, sizeof claims,
             "{\"iss\":\"%s\",\"aud\":\"%s\",\"sub\":\"pod\",\"policy\":\"readwrite\",\"iat\":%lld,\"exp\":%lld}",
             cred_server_url(issuer), audience, (long long)time(NULL) - 7200, (long long)expires_s);
    add_base64url(&jwt, head, strlen(head));
    ldr_buf_addf(&jwt, ".");
    add_base64url(&jwt, claims, strlen(claims));
    cr_assert(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
              EVP_DigestSign(ctx, sig, &sig_len, jwt.p, jwt.len) == 1);
    EVP_MD_CTX_free(ctx);
    ldr_buf_addf(&jwt, ".");
    add_base64url(&jwt, sig, sig_len);
    snprintf(path, sizeof path, "%s/jwt", dir);
    f = fopen(path, "w");
    fprintf(f, "%s\n", ldr_buf_str(&jwt));
    fclose(f);
    ldr_buf_release(&jwt);
    setenv("AWS_WEB_IDENTITY_TOKEN_FILE", path, 1);
    setenv("AWS_ROLE_ARN", "arn:minio:iam:::role/dummy-internal", 1);
    setenv("AWS_ENDPOINT_URL_STS", server.url, 1);
}

Test(cred_servers, minio_takes_a_web_identity_and_its_session_reads_the_store)
{
    find_program("LDR_TEST_MINIO", "minio-20260212/minio");
    start_issuer();
    start_minio();
    write_token(AUDIENCE, time(NULL) + 7200);
    make((struct ldr_cred_cfg){ .how = LDR_CRED_CHAIN });
    /* a server that says it is ready may not have loaded its policies yet */
    for (int64_t until = ldr_deadline_ns(20000);
         cred_try(&got, net, source) && strstr(got.err.msg, "InvalidParameterValue") && ldr_left_ms(until);)
        usleep(100 * 1000);
    cr_assert(eq(int, got.err.kind, LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(str, got.name, "web identity"));
    cr_expect(eq(int, list_buckets(), 200));
    EVP_PKEY_free(key);
}

Test(cred_servers, minio_refuses_a_web_identity_for_somebody_else_and_one_that_has_ended)
{
    find_program("LDR_TEST_MINIO", "minio-20260212/minio");
    start_issuer();
    start_minio();
    write_token("somebody else", time(NULL) + 7200);
    make((struct ldr_cred_cfg){ .how = LDR_CRED_CHAIN });
    cr_expect(eq(int, cred_try(&got, net, source), LARDER_DENIED), "%s", got.err.msg);
    cr_expect(eq(int, got.err.http, 400));
    earlier = source;
    write_token(AUDIENCE, time(NULL) - 60);
    make((struct ldr_cred_cfg){ .how = LDR_CRED_CHAIN });
    cr_expect(eq(int, cred_try(&got, net, source), LARDER_DENIED), "%s", got.err.msg);
    cr_expect(eq(int, got.err.http, 400));
    EVP_PKEY_free(key);
}
