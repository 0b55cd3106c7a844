/* cred_chain_test.c - the chain of "iam": which source applies, and each of them against a service of the test: what is
 * asked, with which headers and signature, and what of bad answers. */
#include "backends/cred/cred.h"
#include "common/clock.h"
#include "common/defs.h"
#include "tests/support/cred_server.h"
#include "tests/support/cred_try.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET "s3cr3t/of+mine"
#define TOKEN  "t0ken/of+mine=="
#define ROLE   "arn:aws:iam::123456789012:role/reader"
#define CREDS  "GET /creds"
#define ASSUME "POST / AssumeRole"
#define WEB    "POST / AssumeRoleWithWebIdentity"
#define IMDS   "GET /latest/meta-data/iam/security-credentials/"

static char dir[TEST_DIR_MAX];
static struct ldr_net *net;
static struct ldr_pool *pool;
static struct ldr_cred_source *source, *sources[64]; /* the last one, and all: freed behind the net thread */
static size_t n_sources;
static struct cred_server *server;
static struct larder_err err;
static struct cred_try got;

static void set_up(void)
{
    test_dir_make(dir);
    cred_try_clean_environment(dir);
    cr_assert(zero(int, ldr_net_new(&(struct ldr_net_cfg){ .connections_per_host = 4 }, &net, &err)));
    cr_assert(zero(int, ldr_pool_new(2, &pool, &err)));
    server = cred_server_start();
    setenv("AWS_ENDPOINT_URL_STS", cred_server_url(server), 1);
}

static void tear_down(void)
{
    ldr_net_shutdown(net);
    ldr_pool_free(&pool);
    ldr_net_free(&net);
    while (n_sources > 0)
        ldr_cred_free(&sources[--n_sources]);
    cred_server_stop(&server);
    cr_expect(strstr(got.err.msg, SECRET) == NULL && strstr(got.err.msg, TOKEN) == NULL, "a secret in \"%s\"",
              got.err.msg);
    test_dir_remove(dir);
}

TestSuite(cred_chain, .init = set_up, .fini = tear_down, .timeout = 60);

static struct ldr_cred_cfg chain(void)
{
    return (struct ldr_cred_cfg){ .how = LDR_CRED_CHAIN };
}

static enum larder_kind make(struct ldr_cred_cfg cfg)
{
    enum larder_kind k;

    cfg.net = net;
    cfg.pool = pool;
    k = ldr_cred_new(&cfg, &source, &err);
    cr_assert(lt(sz, n_sources, LDR_ARRAY_LEN(sources)));
    if (!k)
        sources[n_sources++] = source;
    return k;
}

static enum larder_kind ask(struct ldr_cred_cfg cfg)
{
    cr_assert(zero(int, make(cfg)), "%s", err.msg);
    return cred_try(&got, net, source);
}

static void expect_cred(struct ldr_cred_cfg cfg, const char *id, const char *name)
{
    cr_assert(eq(int, ask(cfg), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(str, got.id, (char *)id));
    cr_expect(eq(str, got.secret, SECRET));
    cr_expect(eq(str, got.name, (char *)name));
}

static void expect_refusal(struct ldr_cred_cfg cfg, enum larder_kind kind, const char *words)
{
    cr_expect(eq(int, ask(cfg), kind), "%s", got.err.msg);
    cr_expect(ne(ptr, strstr(got.err.msg, words), NULL), "\"%s\" does not say \"%s\"", got.err.msg, words);
}

static void set_env(const char *name, const char *value)
{
    cr_assert(zero(int, setenv(name, value, 1)));
}

static const char *file_path(const char *name)
{
    static char full[8][TEST_DIR_MAX + 64];
    static unsigned n;
    char *p = full[n++ % 8];

    snprintf(p, sizeof full[0], "%s/%s", dir, name);
    return p;
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(file_path(name), "w");

    cr_assert(ne(ptr, f, NULL));
    fputs(text, f);
    fclose(f);
}

static void write_config(const char *config, const char *credentials)
{
    mkdir(file_path(".aws"), 0700);
    write_file(".aws/config", config);
    write_file(".aws/credentials", credentials);
}

static void set_env_keys(void)
{
    set_env("AWS_ACCESS_KEY_ID", "env");
    set_env("AWS_SECRET_ACCESS_KEY", SECRET);
}

static void set_env_web(void)
{
    char body[2048];

    write_file("jwt", "\n" TOKEN "\n");
    set_env("AWS_WEB_IDENTITY_TOKEN_FILE", file_path("jwt"));
    set_env("AWS_ROLE_ARN", ROLE);
    cred_server_say(server, WEB, 200, NULL,
                    cred_answer_sts(body, sizeof body, "AssumeRoleWithWebIdentity", "web", SECRET, "st", 3600));
}

static void set_env_container(void)
{
    char body[1024], url[128];

    snprintf(url, sizeof url, "%s/creds", cred_server_url(server));
    set_env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
    cred_server_say(server, CREDS, 200, NULL, cred_answer_json(body, sizeof body, "container", SECRET, "st", 3600));
}

static void set_env_instance(void)
{
    char body[1024];

    unsetenv("AWS_EC2_METADATA_DISABLED");
    set_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", cred_server_url(server));
    cred_server_say(server, "PUT /latest/api/token", 200, "X-aws-ec2-metadata-token-ttl-seconds: 300", "md-tok");
    cred_server_say(server, IMDS, 200, "X-aws-ec2-metadata-token: md-tok", "my-role\n");
    cred_server_say(server, IMDS "my-role", 200, "X-aws-ec2-metadata-token: md-tok",
                    cred_answer_json(body, sizeof body, "instance", SECRET, "st", 3600));
}

static bool last_has(const char *what, const char *text)
{
    char *last = cred_server_last(server, what);
    bool has = strstr(last, text) != NULL;

    free(last);
    return has;
}

static void say_role(const char *id)
{
    char body[2048];

    cred_server_say(server, ASSUME, 200, NULL,
                    cred_answer_sts(body, sizeof body, "AssumeRole", id, SECRET, "role-st", 3600));
}

/* ---- the order ---- */

Test(cred_chain, the_first_that_is_configured_decides)
{
    set_env_keys();
    set_env_web();
    write_config("", "[default]\naws_access_key_id = file\naws_secret_access_key = " SECRET "\n");
    set_env_container();
    set_env_instance();
    expect_cred(chain(), "env", "environment");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    expect_cred(chain(), "web", "web identity");
    unsetenv("AWS_WEB_IDENTITY_TOKEN_FILE");
    expect_cred(chain(), "file", "shared files");
    write_config("[default]\nregion = x\n", "");
    expect_cred(chain(), "container", "container");
    unsetenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    expect_cred(chain(), "instance", "instance metadata");
    set_env("AWS_EC2_METADATA_DISABLED", "TRUE");
    expect_refusal(chain(), LARDER_DENIED, "no credentials");
    cr_expect(ne(ptr, strstr(got.err.msg, "AWS_EC2_METADATA_DISABLED"), NULL), "%s", got.err.msg);
}

Test(cred_chain, a_profile_that_the_settings_name_goes_before_the_environment)
{
    struct ldr_cred_cfg cfg = chain();

    cfg.profile = "mine";
    set_env_keys();
    write_config("", "[mine]\naws_access_key_id = file\naws_secret_access_key = " SECRET "\n");
    expect_cred(cfg, "file", "shared files");
    cfg.profile = "other";
    expect_refusal(cfg, LARDER_INVALID, "\"other\"");
}

Test(cred_chain, the_environment_is_as_it_was_when_the_source_was_made_and_never_changes)
{
    set_env_keys();
    set_env("AWS_SESSION_TOKEN", TOKEN);
    cr_assert(zero(int, make(chain())));
    set_env("AWS_ACCESS_KEY_ID", "later");
    cr_assert(zero(int, cred_try(&got, net, source)));
    cr_expect(eq(str, got.id, "env"));
    cr_expect(eq(str, got.token, TOKEN));
    cr_expect(not(cred_try_refused(net, source, "env")));
}

Test(cred_chain, a_control_character_in_a_variable_is_refused)
{
    set_env_keys();
    set_env("AWS_SESSION_TOKEN", "a\nb");
    expect_refusal(chain(), LARDER_INVALID, "session token");
}

/* ---- a role, and STS ---- */

Test(cred_chain, a_role_is_assumed_with_a_signed_request)
{
    struct ldr_cred_cfg cfg = { .how = LDR_CRED_KEYS,
                                .access_key_id = "id",
                                .secret_key = SECRET,
                                .token = TOKEN,
                                .role_arn = ROLE,
                                .role_session_name = "me@node",
                                .external_id = "ex:1/2",
                                .region = "eu-west-3" };

    cred_server_sign(server, "id", SECRET, TOKEN, "eu-west-3");
    say_role("role");
    expect_cred(cfg, "role", "settings, assumed role");
    cr_expect(eq(str, got.token, "role-st"));
    cr_expect(gt(i64, got.expires_s, 0));
    cr_expect(last_has(ASSUME, "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole"
                               "%2Freader&RoleSessionName=me%40node&DurationSeconds=3600&ExternalId=ex%3A1%2F2"));
    cr_expect(cred_try_refused(net, source, "role"), "a session can be made anew");
}

Test(cred_chain, a_wrong_signature_is_denied_with_the_code_and_not_repeated)
{
    struct ldr_cred_cfg cfg = { .how = LDR_CRED_KEYS, .access_key_id = "id", .secret_key = SECRET, .role_arn = ROLE };

    cred_server_sign(server, "id", "another", NULL, "us-east-1");
    say_role("role");
    expect_refusal(cfg, LARDER_DENIED, "SignatureDoesNotMatch");
    cr_expect(eq(int, got.err.http, 403));
    cr_expect(ne(ptr, strstr(got.err.msg, ROLE), NULL));
    cr_expect(ne(ptr, strstr(got.err.msg, "r-2"), NULL), "no request id in \"%s\"", got.err.msg);
    cr_expect(eq(uint, cred_server_count(server, NULL), 1));
}

Test(cred_chain, a_clock_that_is_wrong_is_corrected_by_the_date_of_the_token_service)
{
    struct ldr_cred_cfg cfg = { .how = LDR_CRED_KEYS, .access_key_id = "id", .secret_key = SECRET, .role_arn = ROLE };

    cred_server_sign(server, "id", SECRET, NULL, "us-east-1");
    cred_server_skew(server, -3 * 3600);
    say_role("role");
    expect_cred(cfg, "role", "settings, assumed role");
    cr_expect(eq(uint, cred_server_count(server, NULL), 2));
}

Test(cred_chain, a_role_of_the_settings_is_assumed_with_what_the_chain_finds)
{
    struct ldr_cred_cfg cfg = chain();

    cfg.role_arn = ROLE;
    set_env_instance();
    cred_server_sign(server, "instance", SECRET, "st", "us-east-1");
    say_role("role");
    expect_cred(cfg, "role", "instance metadata, assumed role");
}

Test(cred_chain, settings_that_make_no_sense_are_refused_at_once)
{
    struct ldr_cred_cfg cfg = chain();

    cfg.role_arn = ROLE;
    cfg.role_session_name = "no blanks";
    cr_expect(eq(int, make(cfg), LARDER_INVALID));
    cr_expect(ne(ptr, strstr(err.msg, "role_session_name"), NULL));
    cfg.role_session_name = NULL;
    cfg.sts_endpoint = "sts.example.com";
    cr_expect(eq(int, make(cfg), LARDER_INVALID));
    cr_expect(ne(ptr, strstr(err.msg, "sts_endpoint"), NULL));
    cfg.sts_endpoint = "http://host/path";
    cr_expect(eq(int, make(cfg), LARDER_INVALID));
    cfg.sts_endpoint = NULL;
    cfg.region = "us east";
    cr_expect(eq(int, make(cfg), LARDER_INVALID));
    cr_expect(zero(ptr, source));
}

Test(cred_chain, a_variable_with_another_service_in_it_matters_only_to_a_role)
{
    struct ldr_cred_cfg cfg = chain();

    set_env("AWS_ENDPOINT_URL_STS", "http://host/path");
    set_env_keys();
    expect_cred(cfg, "env", "environment");
    cfg.role_arn = ROLE;
    expect_refusal(cfg, LARDER_INVALID, "AWS_ENDPOINT_URL_STS");
}

/* ---- web identity ---- */

Test(cred_chain, a_web_identity_is_sent_unsigned_and_its_file_read_each_time)
{
    set_env_web();
    set_env("AWS_ROLE_SESSION_NAME", "pod-7");
    expect_cred(chain(), "web", "web identity");
    cr_expect(last_has(WEB, "RoleSessionName=pod-7"));
    cr_expect(last_has(WEB, "WebIdentityToken=t0ken%2Fof%2Bmine%3D%3D"));
    cr_expect(not(last_has(WEB, "Authorization:")));
    write_file("jwt", "second");
    cr_expect(cred_try_refused(net, source, "web"));
    cr_assert(zero(int, cred_try(&got, net, source)));
    cr_expect(last_has(WEB, "WebIdentityToken=second"));
}

Test(cred_chain, a_refusal_of_a_web_identity_says_its_code_only)
{
    char body[512];

    set_env_web();
    cred_server_say(server, WEB, 400, NULL,
                    cred_answer_refusal(body, sizeof body, "InvalidIdentityToken", "what is " TOKEN "?"));
    expect_refusal(chain(), LARDER_DENIED, "InvalidIdentityToken");
}

Test(cred_chain, what_stands_in_the_way_of_a_web_identity_is_told)
{
    char body[512];

    set_env_web();
    cred_server_say(server, WEB, 400, NULL, cred_answer_refusal(body, sizeof body, "IDPCommunicationError", ""));
    expect_refusal(chain(), LARDER_UNAVAILABLE, "IDPCommunicationError");
    write_file("jwt", " \n");
    expect_refusal(chain(), LARDER_INVALID, "is empty");
    write_file("jwt", "a\nb");
    expect_refusal(chain(), LARDER_INVALID, "control character");
    unlink(file_path("jwt"));
    expect_refusal(chain(), LARDER_IO, "jwt");
    unsetenv("AWS_ROLE_ARN");
    expect_refusal(chain(), LARDER_INVALID, "AWS_ROLE_ARN");
}

Test(cred_chain, answers_of_the_token_service_that_are_none_are_unavailable)
{
    static const char *const bad[] = {
        "",
        "<a",
        "garbage",
        "<Other/>",
        "<AssumeRoleWithWebIdentityResponse/>",
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>a</AccessKeyId>"
        "<SecretAccessKey>b</SecretAccessKey><SessionToken>c</SessionToken><Expiration>soon</Expiration></Credentials>"
        "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
    };
    char *large = calloc(1, 1 << 20);

    set_env_web();
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        cred_server_say(server, WEB, 200, NULL, bad[i]);
        expect_refusal(chain(), LARDER_UNAVAILABLE, "token service answered");
    }
    memset(large, ' ', (1 << 20) - 1);
    cred_server_say(server, WEB, 200, NULL, large);
    expect_refusal(chain(), LARDER_UNAVAILABLE, "larger than");
    free(large);
}

/* ---- container ---- */

Test(cred_chain, the_container_s_token_is_sent_and_its_file_read_each_time)
{
    char body[1024];

    set_env_container();
    write_file("auth", TOKEN "\n");
    set_env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "not this");
    set_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file_path("auth"));
    cred_answer_json(body, sizeof body, "container", SECRET, "st", 3600);
    cred_server_say(server, CREDS, 200, "Authorization: " TOKEN, body);
    expect_cred(chain(), "container", "container");
    write_file("auth", "second");
    cr_expect(cred_try_refused(net, source, "container"));
    cr_expect(eq(int, cred_try(&got, net, source), LARDER_DENIED), "the server wants the first");
    cr_expect(last_has(CREDS, "Authorization: second"));
    unsetenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    cred_server_say(server, CREDS, 200, "Authorization: not this", body);
    expect_cred(chain(), "container", "container");
    set_env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "a\r\nX: y");
    expect_refusal(chain(), LARDER_INVALID, "AWS_CONTAINER_AUTHORIZATION_TOKEN");
}

Test(cred_chain, without_tls_only_hosts_of_this_machine_are_asked)
{
    static const char *const bad[] = {
        "http://example.com/a",
        "http://127.0.0.1.example.com/a",
        "http://169.254.170.2@example.com/a",
        "http://169.254.170.3/",
        "http://2130706433/",
        "http://[fd00:ec2::24]/",
        "http://[::1]x/",
        "ftp://127.0.0.1/",
        "127.0.0.1",
        "http:///a",
        "http://127.0.0.1/a b",
        "http://127.0.0.1\\@example.com/",
        "http://128.0.0.1/",
        "http://127.0.0.1:x/",
    };

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        set_env("AWS_CONTAINER_CREDENTIALS_FULL_URI", bad[i]);
        expect_refusal(chain(), LARDER_INVALID, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    }
    unsetenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    set_env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@example.com/");
    expect_refusal(chain(), LARDER_INVALID, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
}

Test(cred_chain, a_proxy_is_not_told_the_container_s_token)
{
    set_env_container();
    set_env("http_proxy", "http://127.0.0.1:1");
    expect_cred(chain(), "container", "container");
}

Test(cred_chain, answers_of_the_container_s_service_that_are_none_are_refused)
{
    static const struct {
        const char *body, *words;
        enum larder_kind kind;
    } bad[] = {
        { "", "no credentials", LARDER_UNAVAILABLE },
        { "[]", "no credentials", LARDER_UNAVAILABLE },
        { "{\"AccessKeyId\": \"" SECRET "\"", "no credentials", LARDER_UNAVAILABLE },
        { "{\"AccessKeyId\": \"a\", \"AccessKeyId\": \"b\", \"SecretAccessKey\": \"c\"}", "no credentials",
          LARDER_UNAVAILABLE },
        { "{\"a\":[[[[[[[[[[[]]]]]]]]]]]}", "no credentials", LARDER_UNAVAILABLE },
        { "{\"AccessKeyId\": \"a\"}", "no secret key", LARDER_DENIED },
        { "{\"AccessKeyId\": 1, \"SecretAccessKey\": \"" SECRET "\"}", "no access key id", LARDER_DENIED },
        { "{\"AccessKeyId\": \"a\\n\", \"SecretAccessKey\": \"" SECRET "\"}", "control character", LARDER_INVALID },
        { "{\"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\", \"Token\": \"c\\u0001\"}", "control character",
          LARDER_INVALID },
        { "{\"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\", \"Expiration\": \"soon\"}", "no time",
          LARDER_UNAVAILABLE },
        { "{\"Code\": \"AssumeRoleUnauthorizedAccess\"}", "AssumeRoleUnauthorizedAccess", LARDER_DENIED },
    };

    set_env_container();
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        cred_server_say(server, CREDS, 200, NULL, bad[i].body);
        expect_refusal(chain(), bad[i].kind, bad[i].words);
    }
    cred_server_say(server, CREDS, 0, NULL, "");
    expect_refusal(chain(), LARDER_UNAVAILABLE, "no answer");
    cr_expect(eq(uint, cred_server_count(server, CREDS), LDR_ARRAY_LEN(bad) + 3));
}

Test(cred_chain, a_service_that_fails_once_is_asked_again)
{
    char body[1024];
    struct cred_try t;

    set_env_container();
    cred_server_say(server, CREDS, 500, NULL, "");
    cr_assert(zero(int, make(chain())));
    cred_try_start(&t, net, source, 20000);
    cred_server_await(server, 1);
    cred_server_say(server, CREDS, 200, NULL, cred_answer_json(body, sizeof body, "container", SECRET, "", 3600));
    cr_expect(eq(int, cred_try_wait(&t), LARDER_OK), "%s", t.err.msg);
    cr_expect(not(t.has_token));
}

/* ---- instance metadata ---- */

Test(cred_chain, the_instance_is_asked_by_version_2_only)
{
    set_env_instance();
    cred_server_say(server, "PUT /latest/api/token", 403, NULL, "");
    expect_refusal(chain(), LARDER_DENIED, "version 2");
    cr_expect(eq(uint, cred_server_count(server, NULL), 1), "no request without a token");
    cred_server_say(server, "PUT /latest/api/token", 200, NULL, "a b");
    expect_refusal(chain(), LARDER_UNAVAILABLE, "no token");
}

Test(cred_chain, an_instance_without_a_role_is_told_apart)
{
    set_env_instance();
    cred_server_say(server, IMDS, 404, NULL, "");
    expect_refusal(chain(), LARDER_DENIED, "has no role");
    cred_server_say(server, IMDS, 200, NULL, "a role\n");
    expect_refusal(chain(), LARDER_UNAVAILABLE, "no role's name");
    cred_server_say(server, IMDS, 200, NULL, "../../x?y");
    expect_refusal(chain(), LARDER_DENIED, "404");
    cr_expect(eq(uint, cred_server_count(server, NULL), 7));
}

Test(cred_chain, the_instance_is_not_asked_through_a_proxy)
{
    set_env_instance();
    set_env("http_proxy", "http://127.0.0.1:1");
    expect_cred(chain(), "instance", "instance metadata");
}

Test(cred_chain, a_machine_without_metadata_has_no_credentials_and_says_so_soon)
{
    struct ldr_cred_cfg cfg = chain();
    int64_t began = ldr_mono_ns();

    unsetenv("AWS_EC2_METADATA_DISABLED");
    set_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    expect_refusal(cfg, LARDER_DENIED, "name none");
    cr_expect(lt(i64, ldr_mono_ns() - began, 5 * LDR_NS_PER_S));
    set_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1/?x");
    expect_refusal(cfg, LARDER_INVALID, "AWS_EC2_METADATA_SERVICE_ENDPOINT");
}

/* ---- shared files ---- */

Test(cred_chain, both_shared_files_are_read_and_the_credentials_file_counts_more)
{
    write_config("# comment\n"
                 "[profile mine]\n"
                 "aws_access_key_id = config\n"
                 "aws_secret_access_key = no\n"
                 "aws_session_token = no\n"
                 "[mine]\naws_access_key_id = not a profile\n",
                 "[other]\naws_access_key_id = no\n"
                 "[ mine ] ; the one\n"
                 "  AWS_Access_Key_Id=file # words\r\n"
                 "  aws_secret_access_key\t= " SECRET "\n"
                 "  s3 =\n"
                 "     aws_access_key_id = nested\n"
                 "[profile mine]\naws_access_key_id = no\n");
    set_env("AWS_PROFILE", "mine");
    expect_cred(chain(), "file", "shared files");
    cr_expect(not(got.has_token), "keys of one file with the token of the other");
    write_config("[profile mine]\naws_access_key_id = config\naws_secret_access_key = " SECRET "\n", "[mine]\n");
    expect_cred(chain(), "config", "shared files");
    write_config("[profile default]\naws_access_key_id = true\naws_secret_access_key = " SECRET "\n"
                 "[default]\naws_access_key_id = no\n",
                 "");
    unsetenv("AWS_PROFILE");
    expect_cred(chain(), "true", "shared files");
}

Test(cred_chain, the_files_may_be_elsewhere_and_are_read_again_when_refused)
{
    write_file("a", "[default]\n");
    write_file("b", "[default]\naws_access_key_id = one\naws_secret_access_key = " SECRET "\n");
    set_env("AWS_CONFIG_FILE", file_path("a"));
    set_env("AWS_SHARED_CREDENTIALS_FILE", "~/b");
    expect_cred(chain(), "one", "shared files");
    write_file("b", "[default]\naws_access_key_id = two\naws_secret_access_key = " SECRET "\n");
    cr_expect(cred_try_refused(net, source, "one"));
    cr_assert(zero(int, cred_try(&got, net, source)));
    cr_expect(eq(str, got.id, "two"));
}

Test(cred_chain, profiles_take_their_credentials_from_each_other)
{
    write_config("[profile a]\nrole_arn = arn:a\nsource_profile = b\nexternal_id = x1\nduration_seconds = 900\n"
                 "[profile b]\nrole_arn = arn:b\nsource_profile = c\nrole_session_name = bb\n",
                 "[c]\naws_access_key_id = base\naws_secret_access_key = " SECRET "\n");
    set_env("AWS_PROFILE", "a");
    say_role("role");
    expect_cred(chain(), "role", "shared files, assumed role");
    cr_expect(eq(uint, cred_server_count(server, ASSUME), 2));
    cr_expect(last_has(ASSUME, "RoleArn=arn%3Aa&RoleSessionName=larder&DurationSeconds=900&ExternalId=x1"));
    cr_expect(last_has(ASSUME, "Credential=role/"), "the second role is assumed with the first");
    cr_expect(last_has(ASSUME, "X-Amz-Security-Token: role-st"));
}

Test(cred_chain, a_profile_may_be_its_own_source)
{
    write_config("[profile a]\nrole_arn = arn:a\nsource_profile = a\n",
                 "[a]\naws_access_key_id = base\naws_secret_access_key = " SECRET "\n");
    set_env("AWS_PROFILE", "a");
    cred_server_sign(server, "base", SECRET, NULL, "us-east-1");
    say_role("role");
    expect_cred(chain(), "role", "shared files, assumed role");
}

Test(cred_chain, a_credential_source_is_one_of_three)
{
    set_env("AWS_PROFILE", "a");
    set_env_container();
    set_env_instance();
    say_role("role");
    write_config("[profile a]\nrole_arn = arn:a\ncredential_source = EcsContainer\n", "");
    expect_cred(chain(), "role", "container, assumed role");
    write_config("[profile a]\nrole_arn = arn:a\ncredential_source = Ec2InstanceMetadata\n", "");
    expect_cred(chain(), "role", "instance metadata, assumed role");
    write_config("[profile a]\nrole_arn = arn:a\ncredential_source = Environment\n", "");
    expect_refusal(chain(), LARDER_DENIED, "the environment gave no access key id");
    write_config("[profile a]\nrole_arn = arn:a\ncredential_source = Elsewhere\n", "");
    expect_refusal(chain(), LARDER_INVALID, "Elsewhere");
}

Test(cred_chain, a_profile_may_have_a_web_identity)
{
    char text[2 * TEST_DIR_MAX];

    set_env_web();
    unsetenv("AWS_WEB_IDENTITY_TOKEN_FILE");
    unsetenv("AWS_ROLE_ARN");
    snprintf(text, sizeof text, "[default]\nrole_arn = arn:w\nweb_identity_token_file = %s\n", file_path("jwt"));
    write_config(text, "");
    expect_cred(chain(), "web", "web identity");
    cr_expect(last_has(WEB, "RoleArn=arn%3Aw&"));
}

Test(cred_chain, profiles_that_make_no_sense_are_refused)
{
    static const struct {
        const char *config, *words;
        enum larder_kind kind;
    } bad[] = {
        { "[profile b]\n", "\"a\"", LARDER_INVALID },
        { "[profile a]\nrole_arn = x\nsource_profile = b\n[profile b]\nrole_arn = x\nsource_profile = a\n",
          "leads back", LARDER_INVALID },
        { "[profile a]\nrole_arn = x\nsource_profile = a\n", "leads back", LARDER_INVALID },
        { "[profile a]\nrole_arn = x\nsource_profile = gone\n", "\"gone\"", LARDER_INVALID },
        { "[profile a]\nrole_arn = x\nsource_profile = b\n[profile b]\nregion = y\n", "has no credentials",
          LARDER_DENIED },
        { "[profile a]\nrole_arn = x\n", "source_profile", LARDER_INVALID },
        { "[profile a]\nrole_arn = x\nsource_profile = b\ncredential_source = Environment\n", "both", LARDER_INVALID },
        { "[profile a]\nrole_arn = x\nsource_profile = b\nmfa_serial = z\n", "mfa_serial", LARDER_UNSUPPORTED },
        { "[profile a]\nsso_session = x\n", "credential_process", LARDER_UNSUPPORTED },
        { "[profile a]\naws_access_key_id = x\n", "no secret key", LARDER_DENIED },
        { "[profile a]\nrole_arn = x\naws_access_key_id = x\naws_secret_access_key = y\nduration_seconds = 1\n",
          "duration_seconds", LARDER_INVALID },
    };

    set_env("AWS_PROFILE", "a");
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        write_config(bad[i].config, "");
        expect_refusal(chain(), bad[i].kind, bad[i].words);
    }
}

Test(cred_chain, shared_files_that_cannot_be_read_are_refused)
{
    FILE *f;

    write_config("", "");
    f = fopen(file_path(".aws/config"), "w");
    fwrite("[default]\n\0", 1, 11, f);
    fclose(f);
    expect_refusal(chain(), LARDER_INVALID, "NUL");
    f = fopen(file_path(".aws/config"), "w");
    cr_assert(zero(int, ftruncate(fileno(f), 2 << 20)));
    fclose(f);
    expect_refusal(chain(), LARDER_INVALID, "larger");
    unlink(file_path(".aws/config"));
    mkdir(file_path(".aws/config"), 0700);
    expect_refusal(chain(), LARDER_INVALID, "no regular file");
}

Test(cred_chain, the_region_comes_from_environment_or_profile)
{
    char region[32];

    write_config("[default]\nregion = eu-one\n[profile b]\nregion = eu-two\n", "");
    cr_expect(ldr_cred_region(NULL, region, sizeof region));
    cr_expect(eq(str, region, "eu-one"));
    cr_expect(ldr_cred_region("b", region, sizeof region));
    cr_expect(eq(str, region, "eu-two"));
    set_env("AWS_PROFILE", "b");
    cr_expect(ldr_cred_region(NULL, region, sizeof region));
    cr_expect(eq(str, region, "eu-two"));
    cr_expect(not(ldr_cred_region("none", region, sizeof region)));
    cr_expect(not(ldr_cred_region("b", region, 4)), "too long for its space");
    set_env("AWS_DEFAULT_REGION", "eu-three");
    cr_expect(ldr_cred_region("b", region, sizeof region));
    cr_expect(eq(str, region, "eu-three"));
    set_env("AWS_REGION", "eu-four");
    cr_expect(ldr_cred_region("b", region, sizeof region));
    cr_expect(eq(str, region, "eu-four"));
}

/* ---- programs ---- */

static void write_program(const char *text)
{
    write_file("helper", text);
    cr_assert(zero(int, chmod(file_path("helper"), 0700)));
}

static void configure_program(const char *arguments)
{
    char line[2 * TEST_DIR_MAX];

    snprintf(line, sizeof line, "[default]\ncredential_process = \"%s\" %s\n", file_path("helper"), arguments);
    write_config(line, "");
}

Test(cred_chain, a_program_s_credentials_are_used_its_words_being_split_as_a_shell_does_it)
{
    write_program("#!/bin/sh\n"
                  "[ $# = 5 ] && [ \"$1\" = 'a b' ] && [ \"$2\" = 'c\"d' ] && [ \"$3\" = \"e'f\" ] && "
                  "[ \"$4\" = '$HOME;*' ] && [ -z \"$5\" ] || exit 9\n"
                  "cat >/dev/null\n"
                  "echo '{\"Version\": 1, \"AccessKeyId\": \"prog\", \"SecretAccessKey\": \"" SECRET "\", "
                  "\"SessionToken\": \"st\", \"Expiration\": \"2040-01-02T03:04:05.678+01:00\"}'\n");
    configure_program("a\\ b 'c\"d' \"e'f\" $HOME;* ''");
    expect_cred(chain(), "prog", "credential process");
    cr_expect(eq(str, got.token, "st"));
    cr_expect(eq(i64, got.expires_s, 2209082645));
}

/* Not all libraries open theirs so that they close themselves. */
Test(cred_chain, a_program_gets_none_of_our_descriptors)
{
    int fd = open("/dev/null", O_RDONLY);

    cr_assert(ge(int, fd, 3));
    write_program("#!/bin/sh\nfor f in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do\n"
                  "  [ \"$(readlink /proc/self/fd/$f)\" = /dev/null ] && exit 9\ndone\n"
                  "echo '{\"Version\": 1, \"AccessKeyId\": \"prog\", \"SecretAccessKey\": \"" SECRET "\"}'\n");
    configure_program("");
    expect_cred(chain(), "prog", "credential process");
    close(fd);
}

Test(cred_chain, a_program_that_leaves_another_one_behind_is_not_waited_for)
{
    int64_t began = ldr_mono_ns();

    write_program("#!/bin/sh\nsleep 20 &\n"
                  "echo '{\"Version\": 1, \"AccessKeyId\": \"prog\", \"SecretAccessKey\": \"" SECRET "\"}'\n");
    configure_program("");
    expect_cred(chain(), "prog", "credential process");
    cr_expect(eq(i64, got.expires_s, 0));
    cr_expect(lt(i64, ldr_mono_ns() - began, 15 * LDR_NS_PER_S));
}

Test(cred_chain, programs_that_fail_are_told_without_their_words)
{
    static const struct {
        const char *script, *arguments, *words;
        enum larder_kind kind;
    } bad[] = {
        { "exit 3", SECRET, "exit status 3", LARDER_DENIED },
        { "kill -9 $$", SECRET, "signal 9", LARDER_DENIED },
        { "echo " SECRET, "", "no credentials", LARDER_UNAVAILABLE },
        { "echo '{\"Version\": 2, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"" SECRET "\"}'", "", "Version",
          LARDER_INVALID },
        { "echo '{\"AccessKeyId\": \"a\", \"SecretAccessKey\": \"" SECRET "\"}'", "", "Version", LARDER_INVALID },
        { "while :; do echo " SECRET "; done", "", "more than", LARDER_INVALID },
        { "exit 0", "'" SECRET, "quote", LARDER_INVALID },
    };
    char text[512];

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        snprintf(text, sizeof text, "#!/bin/sh\n%s\n", bad[i].script);
        write_program(text);
        configure_program(bad[i].arguments);
        expect_refusal(chain(), bad[i].kind, bad[i].words);
        cr_expect(zero(ptr, strstr(got.err.msg, SECRET)), "%s", got.err.msg);
    }
    configure_program("");
    unlink(file_path("helper"));
    expect_refusal(chain(), LARDER_DENIED, "could not run");
}
