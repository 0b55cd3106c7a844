/* cfg_test.c - tests of the configuration: agent/cfg.c, cfg_yaml.c, cfg_value.c, cfg_explain.c, and
 * docs/configuration.md (the reference, and each example). Runs in the root of the sources. */
#include "agent/cfg.h"
#include "agent/cfg_impl.h"
#include "common/clock.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOME      "HOME=/home/me"
#define ENV(...)  ((char *[]){ (char *)HOME, __VA_ARGS__, NULL })
#define NO_ENV    ((char *[]){ (char *)HOME, NULL })
#define S3        "storage: {type: s3, container: b}\n"
#define CACHE(kv) "larder: {cache: {" kv "}}\n"

TestSuite(cfg, .timeout = 20);

/* The configuration of a text that must be good. */
static struct ldr_cfg *load_env(const char *text, char *const *env)
{
    struct ldr_cfg *cfg = NULL;
    struct larder_err err = { 0 };
    char *errors = NULL;
    enum larder_kind k = ldr_cfg_parse("larder.yaml", text, text ? strlen(text) : 0, env, &cfg, &errors, &err);

    cr_assert(k == LARDER_OK, "%s", errors ? errors : err.msg);
    cr_assert(errors == NULL);
    return cfg;
}

static struct ldr_cfg *load(const char *text)
{
    return load_env(text, NO_ENV);
}

/* The errors of bytes that must be refused; the first one is in err.msg too. */
static char *refuse_bytes(const char *text, size_t len, char *const *env)
{
    struct ldr_cfg *cfg = NULL;
    struct larder_err err = { 0 };
    char *errors = NULL;
    enum larder_kind k = ldr_cfg_parse("larder.yaml", text, len, env, &cfg, &errors, &err);

    cr_assert(k == LARDER_INVALID && err.kind == LARDER_INVALID, "accepted:\n%.*s", (int)len, text);
    cr_assert(cfg == NULL && errors != NULL);
    cr_assert(errors[strlen(errors) - 1] == '\n');
    cr_expect(!strncmp(errors, err.msg, strcspn(errors, "\n")), "first \"%s\", all:\n%s", err.msg, errors);
    return errors;
}

static char *refuse(const char *text)
{
    return refuse_bytes(text, strlen(text), NO_ENV);
}

static size_t count(const char *text, char c)
{
    size_t n = 0;

    for (; *text; text++)
        n += *text == c;
    return n;
}

/* `text` is refused by this very line, and no other. */
static void expect_error(const char *text, const char *line)
{
    char *errors = refuse(text);

    cr_expect(!strncmp(errors, line, strlen(line)) && !strcmp(errors + strlen(line), "\n"), "want: %s\ngot:  %s", line,
              errors);
    free(errors);
}

static bool has_warning(const struct ldr_cfg *cfg, const char *part)
{
    for (size_t i = 0; i < cfg->n_warnings; i++)
        if (strstr(cfg->warnings[i], part))
            return true;
    return false;
}

static const struct ldr_store_slot *store(const struct ldr_cfg *cfg, const char *scheme)
{
    for (size_t i = 0; i < cfg->n_stores; i++)
        if (!strcmp(cfg->stores[i].scheme, scheme))
            return &cfg->stores[i];
    return NULL;
}

static const struct ldr_pair *pair(const struct ldr_store_slot *s, const char *name)
{
    static const struct ldr_pair none = { "", "", -1 };

    for (size_t i = 0; s && i < s->n_config; i++)
        if (!strcmp(s->config[i].name, name))
            return &s->config[i];
    return &none;
}

static bool same(const char *a, const char *b)
{
    return a && b && !strcmp(a, b);
}

/* ---- values ---- */

static bool value(enum cfg_type type, const char *text, struct cfg_value *out)
{
    const struct cfg_setting s = { .key = "k", .type = type, .choices = "one|two|three", .max = UINT64_MAX };
    char why[256] = "";
    bool ok = cfg_value_parse(&s, text, out, why, sizeof why);

    cr_expect(ok == !*why);
    return ok;
}

Test(cfg, sizes_are_read_in_decimal_and_binary_units)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = { { "0", 0 },
                 { "4096", 4096 },
                 { "7B", 7 },
                 { "3KB", 3000 },
                 { "3KiB", 3072 },
                 { "500MB", 500000000 },
                 { "8MiB", 8 * LDR_MIB },
                 { "2GB", 2000000000 },
                 { "10GiB", 10 * LDR_GIB },
                 { "1TB", UINT64_C(1000000000000) },
                 { "16777215TiB", UINT64_C(16777215) * 1024 * LDR_GIB },
                 { "18446744073709551615", UINT64_MAX } };
    static const char *const bad[] = { "",
                                       " ",
                                       "10 GB",
                                       "10gb",
                                       "10G",
                                       "GiB",
                                       "-1",
                                       "+1",
                                       "1.5GiB",
                                       "0x10",
                                       "1e6",
                                       "10GiB ",
                                       " 1",
                                       "1_000",
                                       "10%",
                                       "1PiB",
                                       "\xff",
                                       "٣",
                                       "18446744073709551616",
                                       "16777216TiB",
                                       "99999999999999999999999B" };
    struct cfg_value v;

    for (size_t i = 0; i < LDR_ARRAY_LEN(good); i++)
        cr_expect(value(CFG_SIZE, good[i].text, &v) && v.n == good[i].bytes, "%s is %" PRIu64, good[i].text, v.n);
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++)
        cr_expect(!value(CFG_SIZE, bad[i], &v), "\"%s\" was taken for %" PRIu64, bad[i], v.n);
}

Test(cfg, amounts_are_sizes_or_percentages_or_the_smaller_of_both)
{
    static const char *const bad[] = { "101%",         "-1%",        "%",
                                       "1.%",          ".5%",        "20 %",
                                       "1e1%",         "min()",      "min(1)",
                                       "min(1,2)",     "min(1%,2%)", "min(1GiB,2%",
                                       "max(1GiB,2%)", "100.5%",     "min(1GiB,2%,3%)",
                                       "20%%",         "min(" };
    struct cfg_value v;

    cr_assert(value(CFG_AMOUNT, "20%", &v) && v.amount.percent == 20 && v.amount.bytes == 0);
    cr_assert(value(CFG_AMOUNT, "12.5%", &v) && v.amount.percent == 12.5);
    cr_assert(value(CFG_AMOUNT, "100%", &v) && ldr_amount_resolve(&v.amount, UINT64_MAX) == UINT64_MAX);
    cr_assert(value(CFG_AMOUNT, "500MB", &v) && ldr_amount_resolve(&v.amount, 1) == 500000000);
    cr_assert(value(CFG_AMOUNT, "0%", &v) && ldr_amount_resolve(&v.amount, 1000) == 0);
    cr_assert(value(CFG_AMOUNT, "min(10GiB,10%)", &v));
    cr_expect(ldr_amount_resolve(&v.amount, 1000 * LDR_GIB) == 10 * LDR_GIB);
    cr_expect(ldr_amount_resolve(&v.amount, 50 * LDR_GIB) == 5 * LDR_GIB);
    cr_assert(value(CFG_AMOUNT, "min(50%, 1KiB)", &v) && ldr_amount_resolve(&v.amount, 1000) == 500);
    cr_assert(value(CFG_AMOUNT, "min(0,50%)", &v) && ldr_amount_resolve(&v.amount, 1000) == 0);
    cr_assert(value(CFG_AMOUNT, "min(1GiB,0%)", &v) && ldr_amount_resolve(&v.amount, 1000) == 0);
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++)
        cr_expect(!value(CFG_AMOUNT, bad[i], &v), "\"%s\"", bad[i]);
    cr_expect(value(CFG_SHARE, "1000", &v) && v.amount.bytes == 1000);
    cr_expect(!value(CFG_SHARE, "10GiB", &v), "inodes are counted, not weighed");
}

Test(cfg, durations_are_those_of_go)
{
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = { { "0", 0 },
                 { "0s", 0 },
                 { "60s", 60 * LDR_NS_PER_S },
                 { "1h30m", 5400 * LDR_NS_PER_S },
                 { "500ms", 500 * LDR_NS_PER_MS },
                 { "1.5h", 5400 * LDR_NS_PER_S },
                 { ".5s", LDR_NS_PER_S / 2 },
                 { "1.s", LDR_NS_PER_S },
                 { "+3us", 3000 },
                 { "3\xC2\xB5s", 3000 },
                 { "7ns", 7 },
                 { "1m1m", 120 * LDR_NS_PER_S },
                 { "2562047h", INT64_C(2562047) * 3600 * LDR_NS_PER_S } };
    static const char *const bad[] = { "",    "60",   "s",     "1d",   "1 s", "1h 30m",   "-1s",
                                       ".s",  "1h30", "1..5s", "--1s", "+",   "2562048h", "99999999999999999999s",
                                       "5s ", "1S" };
    const struct cfg_setting s = { .type = CFG_DURATION, .flags = CFG_SIGNED };
    struct cfg_value v;
    char why[256], text[32];

    for (size_t i = 0; i < LDR_ARRAY_LEN(good); i++)
        cr_expect(value(CFG_DURATION, good[i].text, &v) && v.ns == good[i].ns, "%s is %" PRId64, good[i].text, v.ns);
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++)
        cr_expect(!value(CFG_DURATION, bad[i], &v), "\"%s\" was taken for %" PRId64, bad[i], v.ns);
    cr_expect(cfg_value_parse(&s, "-1h", &v, why, sizeof why) && v.ns == -3600 * LDR_NS_PER_S);
    cfg_duration_print(5400 * LDR_NS_PER_S, text);
    cr_expect(same(text, "90m"), "%s", text);
    cfg_duration_print(0, text);
    cr_expect(same(text, "0s"), "%s", text);
    cfg_duration_print(INT64_MAX, text);
    cr_expect(same(text, "9223372036854775807ns"), "%s", text);
}

Test(cfg, other_types_take_what_they_should_and_refuse_the_rest)
{
    static const struct {
        enum cfg_type type;
        const char *text;
        bool good;
        uint64_t n;
    } all[] = {
        { CFG_BOOL, "true", true, 1 },
        { CFG_BOOL, "False", true, 0 },
        { CFG_BOOL, "yes", false, 0 },
        { CFG_BOOL, "1", false, 0 },
        { CFG_CHOICE, "two", true, 1 },
        { CFG_CHOICE, "three", true, 2 },
        { CFG_CHOICE, "tw", false, 0 },
        { CFG_CHOICE, "one|two", false, 0 },
        { CFG_CHOICE, "", false, 0 },
        { CFG_COUNT, "12", true, 12 },
        { CFG_COUNT, "1.0", false, 0 },
        { CFG_COUNT, "-1", false, 0 },
        { CFG_GROUP, "0", true, 0 },
        { CFG_GROUP, "root", true, 0 },
        { CFG_GROUP, "4294967294", true, 4294967294 },
        { CFG_GROUP, "4294967295", false, 0 },
        { CFG_GROUP, "no-such-group-here", false, 0 },
        { CFG_GROUP, "", false, 0 },
        { CFG_PATH, "/var/cache", true, 0 },
        { CFG_PATH, "cache", false, 0 },
        { CFG_PATH, "~/cache", false, 0 },
        { CFG_PATH, "/a\nb", false, 0 },
        { CFG_LISTEN, "127.0.0.1:8088", true, 0 },
        { CFG_LISTEN, "[::1]:8088", true, 0 },
        { CFG_LISTEN, ":0", true, 0 },
        { CFG_LISTEN, "8088", false, 0 },
        { CFG_LISTEN, "::1:8088", false, 0 },
        { CFG_LISTEN, "host:65536", false, 0 },
        { CFG_LISTEN, "host:", false, 0 },
        { CFG_QUANTITY, "100Mi", true, 0 },
        { CFG_QUANTITY, "-1", true, 0 },
        { CFG_QUANTITY, "100MiB", false, 0 },
        { CFG_FRESHNESS, "immutable", true, 0 },
        { CFG_FRESHNESS, "always", true, 0 },
        { CFG_FRESHNESS, "ttl 5m", true, 0 },
        { CFG_FRESHNESS, "ttl", false, 0 },
        { CFG_FRESHNESS, "ttl -5m", false, 0 },
        { CFG_FRESHNESS, "ttl5m", false, 0 },
        { CFG_FRESHNESS, "5m", false, 0 },
        { CFG_FRESHNESS, "Immutable", false, 0 },
    };
    struct cfg_value v;

    for (size_t i = 0; i < LDR_ARRAY_LEN(all); i++)
        cr_expect(value(all[i].type, all[i].text, &v) == all[i].good && (!all[i].good || v.n == all[i].n),
                  "%s \"%s\": %" PRIu64, cfg_type_name(all[i].type), all[i].text, v.n);
}

/* ---- defaults and precedence ---- */

Test(cfg, without_a_file_a_laptop_has_a_local_store_and_a_small_cache)
{
    struct ldr_cfg *cfg = load_env(NULL, NO_ENV);

    cr_expect(cfg->file == NULL && cfg->n_warnings == 0);
    cr_expect(same(cfg->cache_dir, "/home/me/.cache/larder") && same(cfg->endpoint, "/home/me/.cache/larder/ipc"));
    cr_expect(cfg->max_size.bytes == 10 * LDR_GIB && cfg->max_size.percent == 10);
    cr_expect(cfg->min_free.percent == 5 && cfg->min_free_inodes.percent == 10 && cfg->inline_size.percent == 10);
    cr_expect(cfg->block_size == 8 * LDR_MIB && cfg->inline_limit == 20464 && cfg->max_files == 1000000);
    cr_expect(cfg->net_threads == 1 && cfg->connections_per_host == 32 && !cfg->has_group);
    cr_expect(cfg->log_level == LDR_INFO && !cfg->log_json && !cfg->multicontainer);
    cr_assert(cfg->n_stores == 3 && cfg->stores[0].primary && !cfg->stores[1].primary);
    cr_expect(same(cfg->stores[0].kind, "local") && same(cfg->stores[0].scheme, "file") && !cfg->stores[0].container);
    cr_expect(same(pair(&cfg->stores[0], "path")->value, "/home/me/.local/share/larder/objects"));
    cr_expect(same(pair(store(cfg, "s3"), "auth_type")->value, "iam") && store(cfg, "s3")->n_config == 1);
    cr_expect(same(store(cfg, "mem")->kind, "memory"));
    ldr_cfg_free(&cfg);
    cr_expect(cfg == NULL);
    ldr_cfg_free(&cfg); /* nothing, twice */
}

Test(cfg, the_xdg_folders_and_aws_variables_are_heeded_without_a_file)
{
    struct ldr_cfg *cfg = load_env(NULL, ENV("XDG_CACHE_HOME=/x/cache", "XDG_DATA_HOME=relative/is/ignored",
                                             "AWS_DEFAULT_REGION=eu-west-1", "AWS_ENDPOINT_URL=https://other",
                                             "AWS_ENDPOINT_URL_S3=http://127.0.0.1:7070"));
    const struct ldr_store_slot *s3 = store(cfg, "s3");

    cr_expect(same(cfg->cache_dir, "/x/cache/larder"));
    cr_expect(same(pair(&cfg->stores[0], "path")->value, "/home/me/.local/share/larder/objects"));
    cr_expect(same(pair(s3, "region")->value, "eu-west-1") && same(pair(s3, "disable_ssl")->value, "true"));
    cr_expect(same(pair(s3, "endpoint")->value, "http://127.0.0.1:7070") && pair(s3, "endpoint")->line == 0);
    ldr_cfg_free(&cfg);
    cfg = load_env(NULL, ENV("AWS_ENDPOINT_URL=https://other", "AWS_REGION=a", "AWS_DEFAULT_REGION=b"));
    cr_expect(same(pair(store(cfg, "s3"), "region")->value, "a") && pair(store(cfg, "s3"), "disable_ssl")->line == -1);
    ldr_cfg_free(&cfg);
}

Test(cfg, without_a_file_and_without_a_home_each_folder_is_asked_for)
{
    char *const env[] = { NULL };
    char *errors = NULL;
    struct ldr_cfg *cfg = NULL;
    struct larder_err err = { 0 };

    cr_assert(ldr_cfg_parse(NULL, NULL, 0, env, &cfg, &errors, &err) == LARDER_INVALID);
    cr_expect(strstr(errors, "larder.cache.dir: ") && strstr(errors, "storage: "), "%s", errors);
    free(errors);
    cr_expect(ldr_cfg_parse(NULL, NULL, 0, NULL, &cfg, NULL, NULL) == LARDER_INVALID, "nor may the outputs be wanted");
}

Test(cfg, an_empty_file_is_all_defaults)
{
    static const char *const texts[] = { "",
                                         "\n",
                                         "# only a comment\n",
                                         "---\n",
                                         "--- {}\n",
                                         "larder:\nstorage:\n",
                                         "~",
                                         "\xEF\xBB\xBF# a byte order mark\n",
                                         "larder:\n  cache:\n  prefixes:\n  domains: []\n" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(texts); i++) {
        struct ldr_cfg *cfg = load(texts[i]);

        cr_expect(same(cfg->cache_dir, "/var/cache/larder") && same(cfg->endpoint, "/var/cache/larder/ipc"));
        cr_expect(cfg->min_free.percent == 20 && cfg->max_size.bytes == 10 * LDR_GIB && cfg->max_size.percent == 10);
        cr_expect(same(cfg->stores[0].kind, "local") && same(cfg->file, "larder.yaml"));
        ldr_cfg_free(&cfg);
    }
}

Test(cfg, the_environment_wins_over_the_file_and_the_file_over_the_default)
{
    static const char text[] = S3 "larder:\n"
                                  "  endpoint: /run/file\n"
                                  "  cache: {dir: /file/, max_size: 1GiB, block_size: 1MiB}\n"
                                  "  prefixes: [{match: \"s3://b/\", freshness: immutable}]\n"
                                  "  log: {level: warn, format: json}\n";
    struct ldr_cfg *cfg = load(text);

    cr_expect(same(cfg->cache_dir, "/file") && same(cfg->endpoint, "/run/file") && cfg->max_size.bytes == LDR_GIB);
    cr_expect(cfg->max_size.percent == 0 && cfg->log_level == LDR_WARN && cfg->log_json);
    ldr_cfg_free(&cfg);
    cfg = load_env(
        text, ENV("LARDER_CACHE_DIR=/env", "LARDER_CACHE_MAX_SIZE=20%", "LARDER_ENDPOINT=", "LARDER_LOG_LEVEL=debug",
                  "LARDER_ACCESS_GROUP=7", "LARDER_CONFIG=/elsewhere", "LARDER_CACHE_DIR=/second",
                  "LARDER_PREFIXES=[{match: \"s3://\", freshness: ttl 1s}, {match: \"gs://\", freshness: immutable}]"));
    cr_expect(same(cfg->cache_dir, "/env") && same(cfg->endpoint, "/run/file"), "an empty variable is none");
    cr_expect(cfg->max_size.bytes == 0 && cfg->max_size.percent == 20 && cfg->log_level == LDR_DEBUG && cfg->log_json);
    cr_expect(cfg->block_size == LDR_MIB && cfg->has_group && cfg->group == 7 && cfg->n_warnings == 0);
    cr_expect(cfg->n_prefixes == 2 && ldr_cfg_prefix(cfg, "s3://b/k")->ttl_ns == LDR_NS_PER_S);
    ldr_cfg_free(&cfg);
}

Test(cfg, a_bad_variable_is_named_and_an_unknown_one_is_a_warning)
{
    char *errors = refuse_bytes(
        S3, strlen(S3),
        ENV("LARDER_CACHE_MAX_SIZE=10 GB", "LARDER_PREFIXES=[{match: s3, x: y}]", "LARDER_DOMAINS=[unclosed"));
    struct ldr_cfg *cfg;

    cr_expect(strstr(errors, "environment LARDER_CACHE_MAX_SIZE: larder.cache.max_size: \"10 GB\" is not a size"), "%s",
              errors);
    cr_expect(strstr(errors, "environment LARDER_PREFIXES:1: larder.prefixes[0].x: unknown key"), "%s", errors);
    cr_expect(strstr(errors, "environment LARDER_PREFIXES:1: larder.prefixes[0]: has no \"freshness\""), "%s", errors);
    cr_expect(strstr(errors, "environment LARDER_DOMAINS:2: larder.domains: not YAML: "), "%s", errors);
    free(errors);
    cfg = load_env(S3, ENV("LARDER_CACH_DIR=/x", "LARDER_=1", "LARDER_SECRET=hunter2", "LARDERX=1", "LARDER_NOTHING"));
    cr_expect(cfg->n_warnings == 3);
    cr_expect(has_warning(cfg, "LARDER_CACH_DIR: no such setting; did you mean LARDER_CACHE_DIR?"));
    cr_expect(!has_warning(cfg, "hunter2"));
    ldr_cfg_free(&cfg);
}

/* ---- errors ---- */

Test(cfg, every_error_names_file_line_key_and_what_is_accepted)
{
    expect_error("larder:\n  cache:\n    max_size: 10 GB\n",
                 "larder.yaml:3: larder.cache.max_size: \"10 GB\" is not a size (10GiB, 500MB, 20%)");
    expect_error("larder:\n  log:\n    level:\n      loud\n",
                 "larder.yaml:3: larder.log.level: \"loud\" is not one of the choices (error, warn, info, debug)");
    expect_error("\n\nlarder: {net: {threads: 0}}",
                 "larder.yaml:3: larder.net.threads: \"0\" is not a number (1 to 64)");
    expect_error("larder: {cache: {dir: }}", "larder.yaml:1: larder.cache.dir: has no value (/var/cache/larder)");
    expect_error("larder: {cache: {dir: [/a]}}",
                 "larder.yaml:1: larder.cache.dir: is a list, where a text is accepted (/var/cache/larder)");
    expect_error("larder: {cache: /a}", "larder.yaml:1: larder.cache: is a text, where a map of settings is accepted");
    expect_error("just words",
                 "larder.yaml:1: is a text, where a map of sections is accepted (storage, dataproxy, larder)");
    expect_error("[]", "larder.yaml:1: is a list, where a map of sections is accepted (storage, dataproxy, larder)");
    expect_error(
        "larder: {access: {group: no-such-group-here}}",
        "larder.yaml:1: larder.access.group: \"no-such-group-here\" is not a group of this machine (name or number)");
}

Test(cfg, all_errors_are_told_in_the_order_of_lines)
{
    char *errors = refuse("storage:\n"
                          "  type: s3\n" /* no container: found late, told here */
                          "larder:\n"
                          "  cache: {block_size: 3MiB,\n"
                          "    inline_limit: 65521}\n"
                          "  net: {threads: x}\n"
                          "  net: {}\n"
                          "  what: 1\n");

    cr_expect(count(errors, '\n') == 6, "%s", errors);
    for (int line = 2; line <= 8; line++) {
        char start[32];

        snprintf(start, sizeof start, "larder.yaml:%d: ", line);
        cr_expect((strstr(errors, start) != NULL) == (line != 3), "line %d in:\n%s", line, errors);
    }
    cr_expect(strstr(errors, ":4: ") < strstr(errors, ":6: ") && strstr(errors, ":6: ") < strstr(errors, ":8: "));
    free(errors);
}

Test(cfg, more_errors_than_anyone_reads_are_counted)
{
    struct ldr_buf text = LDR_BUF_INIT(LDR_MIB);
    char *errors;

    ldr_buf_addf(&text, "larder:\n");
    for (int i = 0; i < 150; i++)
        ldr_buf_addf(&text, "  unheard%d: 1\n", i);
    errors = refuse(ldr_buf_str(&text));
    cr_expect(count(errors, '\n') == 101 && strstr(errors, "and 50 more errors\n"), "%s", errors);
    free(errors);
    ldr_buf_release(&text);
}

Test(cfg, an_unknown_key_is_refused_with_the_nearest_name)
{
    expect_error("lader: {}", "larder.yaml:1: lader: unknown key; did you mean \"larder\"?");
    expect_error(CACHE("maxsize: 1"), "larder.yaml:1: larder.cache.maxsize: unknown key; did you mean \"max_size\"?");
    expect_error("larder: {max_size: 1}",
                 "larder.yaml:1: larder.max_size: unknown key; did you mean \"larder.cache.max_size\"?");
    expect_error("larder: {log: {colour: 1}}", "larder.yaml:1: larder.log.colour: unknown key (level, format)");
    expect_error("storage: {type: mem, enable_multicontainer: true}",
                 "larder.yaml:1: storage.enable_multicontainer: unknown key; did you mean \"enable-multicontainer\"?");
    expect_error("larder: {prefixes: [{match: \"s3://\", freshness: immutable, prio: 1}]}",
                 "larder.yaml:1: larder.prefixes[0].prio: unknown key (match, freshness, writes)");
    free(refuse("larder: {\"cache.dir\": /a}")); /* a second spelling of larder.cache.dir it is not */
    free(refuse("larder: {\"prefixes[]\": {match: x}}"));
    free(refuse("larder: {\"\": 1}"));
    free(refuse("storage: {type: mem, schemes.NAME: 1}"));
}

Test(cfg, a_key_given_twice_is_refused)
{
    expect_error("larder:\n  cache: {dir: /a,\n dir: /b}",
                 "larder.yaml:3: larder.cache.dir: is there already, in line 2");
    expect_error("larder: {}\nlarder: {}\n", "larder.yaml:2: larder: is there already, in line 1");
    expect_error("storage: {}\nStorage: {}\n",
                 "larder.yaml:2: Storage: section \"storage\" is there already, in line 1");
    expect_error("storage: {type: mem, stow: {config: {a: b,\n a: c}}}",
                 "larder.yaml:2: storage.stow.config.a: is there already, in line 1");
}

Test(cfg, aliases_tags_and_second_documents_are_refused)
{
    char bomb[2048] = "a: &a [x, x, x, x, x, x, x, x, x]\n", *errors;

    for (char c = 'b'; c <= 'i'; c++)
        snprintf(bomb + strlen(bomb), sizeof bomb - strlen(bomb), "%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n",
                 c, c, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1);
    errors = refuse(bomb);
    cr_expect(strstr(errors, "larder.yaml:2: b[0]: aliases (*NAME) are not accepted"), "%s", errors);
    free(errors);
    expect_error("larder: {cache: &c {dir: /a}, net: *c}",
                 "larder.yaml:1: larder.net: aliases (*NAME) are not accepted: write the value out");
    expect_error("larder: {cache: {max_files: !!int 1000}}",
                 "larder.yaml:1: larder.cache.max_files: tags (!NAME) are not accepted");
    expect_error("larder: {}\n---\nlarder: {}\n",
                 "larder.yaml:2: a second document (---): one file is one configuration");
}

Test(cfg, deep_nesting_and_endless_lists_are_refused)
{
    struct ldr_buf text = LDR_BUF_INIT(4 * LDR_MIB);
    char *errors;

    ldr_buf_addf(&text, "larder: {domains: ");
    for (int i = 0; i < 100000; i++)
        ldr_buf_addf(&text, "[");
    errors = refuse(ldr_buf_str(&text));
    cr_expect(strstr(errors, "nested more than 32 levels deep"), "%s", errors);
    free(errors);
    ldr_buf_release(&text);
    ldr_buf_addf(&text, "storage: {type: mem, stow: {config: {");
    for (int i = 0; i < 5000; i++)
        ldr_buf_addf(&text, "k%d: v, ", i);
    ldr_buf_addf(&text, "}}}");
    errors = refuse(ldr_buf_str(&text));
    cr_expect(strstr(errors, "storage.stow.config.k4095: more than 4096 entries"), "%s", errors);
    free(errors);
    ldr_buf_release(&text);
    for (size_t i = 0; i <= LDR_MIB / 8; i++)
        ldr_buf_addf(&text, "#2345678");
    errors = refuse(ldr_buf_str(&text));
    cr_expect(strstr(errors, "larger than 1048576 bytes"), "%s", errors);
    free(errors);
    ldr_buf_release(&text);
}

Test(cfg, what_is_no_yaml_or_no_text_is_refused_with_its_line)
{
    static const struct {
        const char *bytes, *part;
    } all[] = {
        { "larder:\n  cache: {dir: /a\n  net: {}\n", ": not YAML: " },
        { "larder:\n\tcache: {}\n", "larder.yaml:2: not YAML: " },
        { "larder:\n  cache:\n - x\n", "larder.yaml:3: not YAML: " },
        { "larder: {}\nx: \"\xC3\"\n", "larder.yaml:2: not a UTF-8 text: " },
        { "larder: {}\n# \xE2\x82", "larder.yaml:2: not a UTF-8 text: " },
        { "\x7f"
          "ELF\x02\x01\x01",
          ": not a UTF-8 text: " },
        { "\xff\xfe"
          "l\1a\1",
          ": not a UTF-8 text: " },
        { "larder: {cache: {dir: \"/a\\0b\"}}", "larder.yaml:1: larder.cache.dir: a text with a NUL" },
        { "larder: {\"cac\\0he\": {}}", "larder.yaml:1: larder: a key must be a plain text" },
        { "? {a: b}\n: c\n", "larder.yaml:1: a key must be a plain text" },
        { "*a : b", "larder.yaml:1: a key must be a plain text" },
        { "@", ": not YAML: " },
    };

    for (size_t i = 0; i < LDR_ARRAY_LEN(all); i++) {
        char *errors = refuse(all[i].bytes);

        cr_expect(strstr(errors, all[i].part), "%zu: %s", i, errors);
        free(errors);
    }
    free(refuse_bytes("a: b\0c", 6, NO_ENV));
}

/* ---- stores ---- */

Test(cfg, a_type_decides_the_kind_and_scheme_of_the_primary)
{
    static const struct {
        const char *text, *kind, *scheme;
    } all[] = {
        { "Storage: {type: s3, container: b}", "s3", "s3" },
        { "storage: {type: minio, container: b, stow: {kind: s3}}", "s3", "s3" },
        { "storage: {container: b}", "s3", "s3" },
        { "storage: {type: stow, container: b, stow: {kind: s3}}", "s3", "s3" },
        { "STORAGE: {type: stow, stow: {kind: local, config: {path: /x}}}", "local", "file" },
        { "storage: {type: local, stow: {kind: s3, config: {path: /x}}}", "local", "file" },
        { "storage: {type: local}", "local", "file" },
        { "storage: {type: mem}", "memory", "mem" },
    };

    for (size_t i = 0; i < LDR_ARRAY_LEN(all); i++) {
        struct ldr_cfg *cfg = load(all[i].text);

        cr_expect(same(cfg->stores[0].kind, all[i].kind) && same(cfg->stores[0].scheme, all[i].scheme), "%s",
                  all[i].text);
        cr_expect(cfg->stores[0].primary && cfg->stores[0].line == 1);
        cr_expect(store(cfg, "s3") != NULL, "S3 is always there: %s", all[i].text);
        ldr_cfg_free(&cfg);
    }
}

Test(cfg, what_is_not_in_this_release_says_what_is)
{
    static const char *const kinds[] = { "google", "azure", "oracle", "swift", "redis" };
    char text[128], want[160];

    for (size_t i = 0; i < LDR_ARRAY_LEN(kinds); i++) {
        snprintf(text, sizeof text, "storage: {container: b, stow: {kind: %s}}", kinds[i]);
        snprintf(want, sizeof want, "larder.yaml:1: storage.stow.kind: \"%s\" is not in this release (s3, local)",
                 kinds[i]);
        expect_error(text, want);
    }
    expect_error("storage: {type: redis}",
                 "larder.yaml:1: storage.type: \"redis\" is not in this release (s3, minio, local, mem, stow)");
    expect_error("storage: {container: b, stow: {kind: \"\"}}",
                 "larder.yaml:1: storage.stow.kind: \"\" is not a kind of store (s3, local)");
    expect_error("storage: {type: s4}",
                 "larder.yaml:1: storage.type: \"s4\" is not one of the choices (s3, minio, local, mem, stow, redis)");
    expect_error(S3 "larder: {domains: [{}]}",
                 "larder.yaml:2: larder.domains: more trust domains are not in this release ([])");
    expect_error("storage: {type: mem, schemes: {gs: {}}}",
                 "larder.yaml:1: storage.schemes.gs: is not in this release (s3, file, mem)");
}

Test(cfg, an_s3_primary_needs_a_container)
{
    expect_error("storage:\n  type: s3\n",
                 "larder.yaml:2: storage.container: is not set: type \"s3\" needs a base container (bucket)");
    expect_error("storage:\n  type: minio\n  container:\n",
                 "larder.yaml:3: storage.container: is not set: type \"minio\" needs a base container (bucket)");
    expect_error("storage: {enable-multicontainer: true}",
                 "larder.yaml:1: storage.container: is not set: type \"stow\" needs a base container (bucket)");
    expect_error("storage: {type: s3, container: a/b}",
                 "larder.yaml:1: storage.container: is not the name of a container (no \"/\", at most 255 bytes)");
}

Test(cfg, settings_of_a_store_are_carried_with_their_lines)
{
    struct ldr_cfg *cfg = load("storage:\n"
                               "  type: s3\n"
                               "  container: flyte\n"
                               "  enable-multicontainer: true\n"
                               "  stow:\n"
                               "    config:\n"
                               "      endpoint: http://h:9000\n"
                               "      disable_ssl: true\n"
                               "      token:\n"
                               "      any_name: \"x y\"\n");
    const struct ldr_store_slot *s = &cfg->stores[0];

    cr_expect(cfg->n_stores == 1 && s->n_config == 4 && s->line == 1 && cfg->multicontainer &&
              same(s->container, "flyte"));
    cr_expect(same(pair(s, "endpoint")->value, "http://h:9000") && pair(s, "endpoint")->line == 7);
    cr_expect(same(pair(s, "disable_ssl")->value, "true") && pair(s, "disable_ssl")->line == 8);
    cr_expect(same(pair(s, "token")->value, "") && same(pair(s, "any_name")->value, "x y"));
    ldr_cfg_free(&cfg);
    cfg = load(S3);
    cr_expect(same(pair(&cfg->stores[0], "region")->value, "us-east-1") && cfg->stores[0].n_config == 1);
    ldr_cfg_free(&cfg);
    expect_error("storage: {type: mem, stow: {config: {a: [b]}}}",
                 "larder.yaml:1: storage.stow.config: \"a\" is a list, where a text is accepted");
}

Test(cfg, schemes_add_stores_that_take_what_their_surroundings_offer)
{
    struct ldr_cfg *cfg = load_env("storage:\n"
                                   "  type: mem\n"
                                   "  schemes:\n"
                                   "    S3: {kind: s3, config: {region: r}}\n"
                                   "    file: {config: {path: /x}}\n",
                                   ENV("AWS_REGION=elsewhere"));

    cr_assert(cfg->n_stores == 3);
    cr_expect(same(pair(store(cfg, "s3"), "auth_type")->value, "iam") &&
              same(pair(store(cfg, "s3"), "region")->value, "r"));
    cr_expect(store(cfg, "s3")->line == 4 && !store(cfg, "s3")->primary && !store(cfg, "s3")->container);
    cr_expect(same(store(cfg, "file")->kind, "local") && same(pair(store(cfg, "file"), "path")->value, "/x"));
    ldr_cfg_free(&cfg);
    cfg = load_env("storage: {type: mem, schemes: {s3: }}", ENV("AWS_REGION=r"));
    cr_expect(same(pair(store(cfg, "s3"), "region")->value, "r"), "named, but not configured: ambient");
    ldr_cfg_free(&cfg);
    cfg = load("storage: {type: mem, schemes: {s3: {config: {auth_type: accesskey}}}}");
    cr_expect(same(pair(store(cfg, "s3"), "auth_type")->value, "accesskey") && store(cfg, "s3")->n_config == 1);
    ldr_cfg_free(&cfg);
    cfg = load("storage: {type: s3, container: b, schemes: {s3: {}, mem: {kind: mem}}}");
    cr_expect(cfg->n_stores == 2 && has_warning(cfg, "storage.schemes.s3: not used: the primary store serves \"s3\""));
    ldr_cfg_free(&cfg);
}

Test(cfg, a_scheme_that_cannot_be_served_is_refused)
{
    expect_error("storage: {type: mem, schemes: {file: {}}}",
                 "larder.yaml:1: storage.schemes.file: scheme \"file\" needs config.path (a directory)");
    expect_error("storage: {type: mem, schemes: {s3: {kind: local}}}",
                 "larder.yaml:1: storage.schemes.s3.kind: \"local\" does not serve scheme \"s3\" (s3)");
    expect_error("storage: {type: mem, schemes: {s4: {}}}",
                 "larder.yaml:1: storage.schemes.s4: is not a known scheme (s3, file, mem)");
    expect_error("storage: {type: mem, schemes: {s3: {},\n S3: {}}}",
                 "larder.yaml:2: storage.schemes.S3: scheme \"s3\" is there already");
    expect_error("storage: {type: mem, schemes: {s3: {knd: s3}}}",
                 "larder.yaml:1: storage.schemes.s3.knd: unknown key; did you mean \"kind\"?");
    expect_error("storage: {type: mem, schemes: [s3]}",
                 "larder.yaml:1: storage.schemes: is a list, where a map is accepted (NAME: {\xE2\x80\xA6})");
}

static const char *setting_of(const struct ldr_cfg *cfg, const char *name)
{
    for (size_t i = 0; i < cfg->stores[0].n_config; i++)
        if (!strcmp(cfg->stores[0].config[i].name, name))
            return cfg->stores[0].config[i].value;
    return "";
}

Test(cfg, signed_urls_may_have_an_address_of_their_own)
{
    static const char base[] = "storage: {type: s3, container: b, stow: {config: {region: r}}, "
                               "signedUrl: {stowConfigOverride: ";
    static const struct {
        const char *given, *endpoint, *region;
        size_t warnings;
    } t[] = { { "{endpoint: \"https://f\"}", "https://f", "", 0 },
              { "{endpoint: f, disable_ssl: \"true\", region: q}", "http://f", "q", 0 },
              { "{endpoint: f, disable_ssl: \"false\"}", "https://f", "", 0 },
              { "{endpoint: \"http://f\", disable_ssl: \"false\"}", "http://f", "", 0 },
              { "{endpoint: f, secret_key: hunter2}", "f", "", 1 },
              { "{region: q}", "", "", 1 },
              { "{}", "", "", 0 } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(t); i++) {
        char text[512];
        struct ldr_cfg *cfg;

        snprintf(text, sizeof text, "%s%s}}\n", base, t[i].given);
        cfg = load(text);
        cr_expect(!strcmp(setting_of(cfg, "signing_endpoint"), t[i].endpoint), "%s", t[i].given);
        cr_expect(!strcmp(setting_of(cfg, "signing_region"), t[i].region), "%s", t[i].given);
        cr_expect(cfg->n_warnings == t[i].warnings, "%s", t[i].given);
        cr_expect(!cfg->n_warnings || !strstr(cfg->warnings[0], "hunter2"), "%s", t[i].given);
        ldr_cfg_free(&cfg);
    }
}

Test(cfg, settings_of_later_parts_are_checked_and_give_one_warning_each)
{
    struct ldr_cfg *cfg =
        load("storage:\n"
             "  type: mem\n"
             "  redis: {addr: \"h:1\", username: u, password: p, db: 3}\n"
             "  cache: {max_size_mbs: 10, target_gc_percent: 70}\n"
             "  limits: {maxDownloadMBs: 10}\n"
             "  defaultHttpClient: {headers: {A: [b, c]}, timeout: 1m, maxIdleConns: 1,\n"
             "    maxIdleConnsPerHost: 2, maxConnsPerHost: 3, idleConnTimeout: 4s}\n"
             "  signedUrl: {stowConfigOverride: {endpoint: e}}\n"
             "  schemes: {s3: {redis: {addr: \"h:1\"}}}\n"
             "dataproxy:\n"
             "  upload: {maxSize: 100Mi, maxExpiresIn: -1h, defaultFileNameLength: 20, storagePrefix: u}\n"
             "  download: {maxExpiresIn: 2h}\n"
             "larder: {http: {listen: \"127.0.0.1:8088\"}}\n");

    cr_expect(cfg->n_warnings == 21, "%zu", cfg->n_warnings);
    cr_expect(has_warning(cfg, "larder.yaml:3: storage.redis.password: accepted, not used by this release"));
    cr_expect(has_warning(cfg, "larder.yaml:11: dataproxy.upload.maxSize: accepted"));
    cr_expect(has_warning(cfg, "larder.yaml:13: larder.http.listen: accepted"));
    ldr_cfg_free(&cfg);
    expect_error("dataproxy: {upload: {maxSize: lots}}",
                 "larder.yaml:1: dataproxy.upload.maxSize: \"lots\" is not a quantity (100Mi, 1Gi, 500M, 4096)");
    expect_error("storage: {type: mem, redis: {db: x}}",
                 "larder.yaml:1: storage.redis.db: \"x\" is not a number (0 to 2147483647)");
    expect_error(
        "storage: {type: mem, defaultHttpClient: {headers: {A: b}}}",
        "larder.yaml:1: storage.defaultHttpClient.headers: \"A\" is a text, where a list of texts is accepted");
    expect_error("larder: {http: {listen: here}}",
                 "larder.yaml:1: larder.http.listen: \"here\" is not an address (127.0.0.1:8088, [::1]:8088, :8088)");
}

/* ---- cache and prefixes ---- */

Test(cfg, the_bounds_of_the_cache_are_kept)
{
    struct ldr_cfg *cfg =
        load(CACHE("block_size: 1TiB, inline_limit: 65520, max_size: 1B, min_free_inodes: 5, max_files: 16"));

    cr_expect(cfg->block_size == UINT64_C(1) << 40 && cfg->inline_limit == 65520 && cfg->min_free_inodes.bytes == 5);
    ldr_cfg_free(&cfg);
    cfg = load(CACHE("block_size: 64KiB, inline_limit: 0"));
    cr_expect(cfg->block_size == 65536 && cfg->inline_limit == 0);
    ldr_cfg_free(&cfg);
    free(refuse(CACHE("block_size: 32KiB")));
    free(refuse(CACHE("block_size: 2TiB")));
    free(refuse(CACHE("block_size: 65537")));
    free(refuse(CACHE("block_size: 0")));
    free(refuse(CACHE("inline_limit: 65521")));
    free(refuse(CACHE("max_size: 0")));
    free(refuse(CACHE("max_size: 0%")));
    free(refuse(CACHE("max_files: 15")));
    free(refuse(CACHE("dir: relative")));
}

Test(cfg, a_socket_path_of_more_than_90_bytes_is_refused)
{
    char text[256], dir[128], *errors;
    struct ldr_cfg *cfg;

    memset(dir, 'd', sizeof dir);
    snprintf(text, sizeof text, "larder: {endpoint: /%.78s}", dir); /* 1 + 78 + 11 */
    cfg = load(text);
    cr_expect(strlen(cfg->endpoint) == 79);
    ldr_cfg_free(&cfg);
    snprintf(text, sizeof text, "larder: {endpoint: /%.79s}", dir);
    errors = refuse(text);
    cr_expect(strstr(errors, "larder.yaml:1: larder.endpoint: the socket") && strstr(errors, "91 bytes (at most 90)"),
              "%s", errors);
    free(errors);
    snprintf(text, sizeof text, "larder:\n  cache: {dir: /%.90s}", dir);
    errors = refuse(text);
    cr_expect(strstr(errors, "larder.yaml:2: larder.endpoint: the socket"), "%s", errors);
    free(errors);
}

Test(cfg, the_longest_prefix_wins_and_the_rest_is_ttl_60s)
{
    struct ldr_cfg *cfg = load("larder:\n"
                               "  prefixes:\n"
                               "    - {match: \"S3://\", freshness: ttl 1h30m}\n"
                               "    - {match: \"s3://data/\", freshness: immutable}\n"
                               "    - {match: \"s3://data/live/\", freshness: always}\n"
                               "    - {match: \"mem://\", freshness: always}\n"
                               "    - {match: \"abfss://c@account.host/x\", freshness: immutable}\n"
                               "    - {match: \"gs://user:pass@b/\", freshness: ttl 0}\n");

    cr_assert(cfg->n_prefixes == 6);
    cr_expect(ldr_cfg_prefix(cfg, "s3://data/k")->freshness == LDR_IMMUTABLE &&
              ldr_cfg_prefix(cfg, "s3://data/k")->line == 4);
    cr_expect(ldr_cfg_prefix(cfg, "s3://data2/k")->ttl_ns == 5400 * LDR_NS_PER_S);
    cr_expect(ldr_cfg_prefix(cfg, "s3://data/live/k")->freshness == LDR_REVALIDATE);
    cr_expect(ldr_cfg_prefix(cfg, "abfs://c/x/y")->freshness == LDR_IMMUTABLE);
    cr_expect(ldr_cfg_prefix(cfg, "gs://b/k")->ttl_ns == 0 && ldr_cfg_prefix(cfg, "gs://b/k")->line == 8);
    cr_expect(ldr_cfg_prefix(cfg, "file://c/k")->freshness == LDR_TTL);
    cr_expect(ldr_cfg_prefix(cfg, "file://c/k")->ttl_ns == 60 * LDR_NS_PER_S && ldr_cfg_prefix(cfg, "")->line == 0);
    cr_expect(cfg->n_warnings == 0);
    ldr_cfg_free(&cfg);
}

Test(cfg, a_prefix_says_whether_writes_go_into_the_cache)
{
    struct ldr_cfg *cfg = load("larder:\n"
                               "  prefixes:\n"
                               "    - {match: \"s3://a/\", freshness: always, writes: skip}\n"
                               "    - {match: \"s3://b/\", freshness: immutable, writes: keep}\n"
                               "    - {match: \"s3://\", freshness: ttl 5s}\n");
    char *text = ldr_cfg_explain(cfg), *errors;

    cr_expect(ldr_cfg_prefix(cfg, "s3://a/k")->skip_writes);
    cr_expect(!ldr_cfg_prefix(cfg, "s3://b/k")->skip_writes);
    cr_expect(!ldr_cfg_prefix(cfg, "s3://c/k")->skip_writes);
    cr_expect(!ldr_cfg_prefix(cfg, "mem://c/k")->skip_writes);
    cr_expect(strstr(text, "freshness: always, writes: skip}") != NULL, "%s", text);
    cr_expect(strstr(text, "freshness: immutable}") != NULL, "%s", text);
    free(text);
    ldr_cfg_free(&cfg);
    errors = refuse("larder:\n  prefixes: [{match: \"s3://\", freshness: always, writes: maybe}]\n");
    cr_expect(strstr(errors, "writes") && strstr(errors, "keep, skip"), "%s", errors);
    free(errors);
}

Test(cfg, a_prefix_that_can_match_nothing_is_refused)
{
    static const struct {
        const char *items, *part;
    } all[] = {
        { "{match: s3, freshness: immutable}", "[0].match: \"s3\" is not a prefix (s3://, s3://bucket/" },
        { "{match: \"s4://b\", freshness: immutable}",
          "[0].match: \"s4://b\" is of a scheme that larder does not know (s3, gs" },
        { "{match: \"file:///abs\", freshness: immutable}", "[0].match: \"file:///abs\" names no container" },
        { "{match: \"://b\", freshness: immutable}", "[0].match: " },
        { "{match: \"\", freshness: immutable}", "[0].match: \"\" is not a prefix" },
        { "{match: \"s3://\\t\", freshness: immutable}", "[0].match: \"s3://?\" is not a prefix" },
        { "{match: \"s4://me:hunter2@b\", freshness: immutable}", "[0].match: \"…\" is of a scheme" },
        { "{match: \"s3://b\"}", "[0]: has no \"freshness\" (immutable, ttl 60s, always)" },
        { "{freshness: immutable}", "[0]: has no \"match\"" },
        { "{match: \"s3://b\", freshness: forever}",
          "[0].freshness: \"forever\" is not a freshness (immutable, ttl 60s, always)" },
        { "{match: \"s3://b\", freshness: always}, {match: \"S3://u@b\", freshness: immutable}",
          "[1].match: \"s3://b\" is there already" },
        { "s3", "[0]: is a text, where a map of settings is accepted" },
        { "~", "[0]: is empty" },
    };
    char text[256];

    for (size_t i = 0; i < LDR_ARRAY_LEN(all); i++) {
        char *errors;

        snprintf(text, sizeof text, "larder: {prefixes: [%s]}", all[i].items);
        errors = refuse(text);
        cr_expect(strstr(errors, "larder.yaml:1: larder.prefixes") && strstr(errors, all[i].part) &&
                      count(errors, '\n') == 1,
                  "%s", errors);
        cr_expect(!strstr(errors, "hunter2"));
        free(errors);
    }
}

/* ---- explanation, secrets ---- */

static const char with_secrets[] = "storage:\n"
                                   "  type: s3\n"
                                   "  container: b\n"
                                   "  stow:\n"
                                   "    config:\n"
                                   "      access_key_id: AKIA\n"
                                   "      secret_key: hunter2-a\n"
                                   "      token: hunter2-b\n"
                                   "      password: hunter2-c\n"
                                   "      key: hunter2-d\n"
                                   "      json: '{\"k\": \"hunter2-e\"}'\n"
                                   "      Secret_Key: hunter2-f\n"
                                   "      endpoint: http://u:hunter2-g@h\n"
                                   "      region: r\n"
                                   "  redis: {password: hunter2-h}\n"
                                   "  defaultHttpClient: {headers: {Authorization: [hunter2-i]}}\n"
                                   "  signedUrl: {stowConfigOverride: {secret_key: hunter2-j}}\n";

Test(cfg, an_explanation_tells_every_value_and_its_source)
{
    struct ldr_cfg *cfg = load_env(S3 "larder:\n"
                                      "  cache: {dir: \"/a \\\"b\"}\n"
                                      "  prefixes: [{match: \"s3://b/\", freshness: ttl 90s}]\n",
                                   ENV("LARDER_LOG_LEVEL=debug"));
    char *text = ldr_cfg_explain(cfg);
    static const char *const lines[] = { "  type: s3 |# larder.yaml:1",
                                         "  container: b |# larder.yaml:1",
                                         "      region: us-east-1 |# default",
                                         "    dir: \"/a \\\"b\" |# larder.yaml:3",
                                         "    max_size: \"min(10GiB,10%)\" |# default",
                                         "  endpoint: \"/a \\\"b/ipc\" |# default",
                                         "    - {match: \"s3://b/\", freshness: \"ttl 90s\"} |# larder.yaml:4",
                                         "    level: debug |# environment LARDER_LOG_LEVEL" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(lines); i++) {
        const char *bar = strchr(lines[i], '|'), *at;
        char start[128];

        snprintf(start, sizeof start, "\n%.*s", (int)(bar - lines[i]), lines[i]);
        at = strstr(text, start);
        cr_expect(at && !strncmp(at + strlen(start) + strspn(at + strlen(start), " "), bar + 1, strlen(bar + 1)),
                  "no \"%s\" in:\n%s", lines[i], text);
    }
    free(text);
    ldr_cfg_free(&cfg);
}

Test(cfg, an_explanation_can_be_read_again)
{
    static const char *const texts[] = {
        "",
        S3,
        "storage: {type: local, stow: {config: {path: \"/x y\"}}, schemes: {mem: {}}}",
        "storage: {type: mem, schemes: {file: {config: {path: \"/x#y: z\"}}}}",
        "storage: {stow: {kind: local, config: {path: /x}}}\nlarder: {endpoint: \"/e\\x85\\\\\", access: {group: 0},"
        " cache: {min_free: 0%}, prefixes: [{match: \"s3://a b\\\"\\u2028\\uFFFE\", freshness: ttl 1ns}], log: "
        "{format: json}}",
    };

    for (size_t i = 0; i < LDR_ARRAY_LEN(texts); i++) {
        struct ldr_cfg *a = load(texts[i]), *b;
        char *first = ldr_cfg_explain(a), *second;

        b = load(first);
        second = ldr_cfg_explain(b);
        cr_expect(same(a->cache_dir, b->cache_dir) && same(a->endpoint, b->endpoint) &&
                  a->max_size.bytes == b->max_size.bytes);
        cr_expect(a->n_stores <= b->n_stores && a->n_prefixes == b->n_prefixes &&
                  a->min_free.percent == b->min_free.percent);
        cr_expect(same(a->stores[0].kind, b->stores[0].kind) && a->stores[0].n_config == b->stores[0].n_config);
        for (size_t j = 0; j < a->stores[0].n_config; j++)
            cr_expect(same(a->stores[0].config[j].value, b->stores[0].config[j].value), "%s", first);
        for (size_t j = 0; j < a->n_prefixes; j++)
            cr_expect(same(a->prefixes[j].match, b->prefixes[j].match) &&
                      a->prefixes[j].ttl_ns == b->prefixes[j].ttl_ns);
        free(first);
        free(second);
        ldr_cfg_free(&a);
        ldr_cfg_free(&b);
    }
}

Test(cfg, secrets_are_never_shown)
{
    static const char *const mistakes[] = {
        /* a secret where something else belongs */
        "storage: {type: s3, container: b, stow: {config: \"secret_key:hunter2\"}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: [hunter2]}}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: {hunter2: x}}}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: !t hunter2}}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: \"hunter2\\0\"}}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: a, secret_key: hunter2}}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: \"hunter2}}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: hunter2\n  }}",
        "storage: {type: s3, container: b, {secret_key:hunter2: }}",
        "storage: {type: s3, container: b, secret_key=hunter2: x}",
        "storage: {type: s3, container: b, secret_key: hunter2}",
        "storage: {type: s3, container: b, redis: {password: [hunter2]}}",
        "storage: {type: s3, container: b, redis: {passwort: hunter2}}",
        "storage: {type: s3, container: b, stow: {config: {secret_key: hunter2}}, schemes: {s4: {config: {key: "
        "hunter2}}}}",
        "hunter2",
    };
    struct ldr_cfg *cfg = load(with_secrets);
    char *text = ldr_cfg_explain(cfg);

    cr_expect(!strstr(text, "hunter2"), "%s", text);
    cr_expect(strstr(text, "secret_key: \"(set)\"") && strstr(text, "access_key_id: AKIA") &&
                  strstr(text, "region: r "),
              "%s", text);
    cr_expect(!has_warning(cfg, "hunter2"));
    cr_expect(same(pair(&cfg->stores[0], "secret_key")->value, "hunter2-a"), "but the store gets them");
    free(text);
    ldr_cfg_free(&cfg);
    for (size_t i = 0; i < LDR_ARRAY_LEN(mistakes); i++) {
        char *errors = refuse(mistakes[i]);

        cr_expect(!strstr(errors, "hunter2"), "%s", errors);
        free(errors);
    }
}

Test(cfg, messages_stay_on_one_line_and_in_utf8)
{
    char *errors = refuse("larder: {log: {level: \"a\\nb\\e[31m\"}, \"x\\ny\": 1}");

    cr_expect(count(errors, '\n') == 2 && !strchr(errors, '\x1b') && strstr(errors, "\"a?b?[31m\""), "%s", errors);
    free(errors);
    errors = refuse("larder: {log: {level: \"\\x9b31m\"}}");
    cr_expect(strstr(errors, "\"??31m\""), "%s", errors);
    free(errors);
    errors = refuse("larder: {log: {level: \"äöüäöüäöüäöüäöüäöüäöüäöüäöüäöüaäöüäöüäöüäöü\"}}");
    cr_expect(strstr(errors, "\"äöüäöüäöüäöüäöüäöüäöüäöüäöüäöü…\""), "%s", errors);
    free(errors);
    errors = refuse("larder: {log: {level: \"xäöüäöüäöüäöüäöüäöüäöüäöüäöüäöüaäöüäöüäöüäöü\"}}");
    cr_expect(strstr(errors, "\"xäöüäöüäöüäöüäöüäöüäöüäöüäöüäö…\""), "%s", errors);
    free(errors);
}

/* ---- files ---- */

static char dir[64];

static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/cfg_test.XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
}

static void remove_dir(void)
{
    char path[96];

    snprintf(path, sizeof path, "%s/larder.yaml", dir);
    unlink(path);
    rmdir(dir);
}

TestSuite(cfg_file, .init = make_dir, .fini = remove_dir, .timeout = 20);

Test(cfg_file, a_file_is_found_by_argument_or_by_variable)
{
    char path[96], variable[128];
    struct ldr_cfg *cfg = NULL;
    struct larder_err err = { 0 };
    FILE *f;

    snprintf(path, sizeof path, "%s/larder.yaml", dir);
    snprintf(variable, sizeof variable, "LARDER_CONFIG=%s", path);
    f = fopen(path, "w");
    cr_assert(f && fputs(S3, f) >= 0 && fclose(f) == 0);
    cr_assert(ldr_cfg_load(path, NO_ENV, &cfg, NULL, &err) == LARDER_OK, "%s", err.msg);
    cr_expect(same(cfg->file, path) && same(cfg->stores[0].container, "b"));
    ldr_cfg_free(&cfg);
    cr_assert(ldr_cfg_load(NULL, ENV(variable), &cfg, NULL, &err) == LARDER_OK, "%s", err.msg);
    cr_expect(same(cfg->file, path));
    ldr_cfg_free(&cfg);
}

Test(cfg_file, a_file_that_cannot_be_read_is_an_io_error)
{
    char path[96], variable[128], *errors = (char *)"untouched";
    struct ldr_cfg *cfg = NULL;
    struct larder_err err = { 0 };

    snprintf(path, sizeof path, "%s/larder.yaml", dir);
    snprintf(variable, sizeof variable, "LARDER_CONFIG=%s", path);
    cr_expect(ldr_cfg_load(path, NO_ENV, &cfg, &errors, &err) == LARDER_IO && errors == NULL);
    cr_expect(strstr(err.msg, path) && strstr(err.msg, "No such file"), "%s", err.msg);
    cr_expect(ldr_cfg_load(NULL, ENV(variable), &cfg, NULL, &err) == LARDER_IO,
              "a file that was asked for must be there");
    cr_expect(ldr_cfg_load(dir, NO_ENV, &cfg, NULL, &err) == LARDER_IO && strstr(err.msg, "directory"), "%s", err.msg);
    cr_assert(close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0)) == 0);
    if (geteuid() != 0) /* root reads it all the same */
        cr_expect(ldr_cfg_load(path, NO_ENV, &cfg, NULL, &err) == LARDER_IO && err.sys == EACCES, "%s", err.msg);
    cr_expect(ldr_cfg_load("/dev/zero", NO_ENV, &cfg, NULL, &err) == LARDER_INVALID && strstr(err.msg, "larger than"),
              "%s", err.msg);
    cr_expect(cfg == NULL);
}

/* ---- the reference ---- */

#define REFERENCE "docs/configuration.md"

static char *read_reference(void)
{
    FILE *f = fopen(REFERENCE, "r");
    char *text = calloc(1, LDR_MIB);

    cr_assert(f != NULL, "%s: run the tests in the root of the sources", REFERENCE);
    cr_assert(text && fread(text, 1, LDR_MIB - 1, f) > 0);
    fclose(f);
    return text;
}

/* The line of the reference that documents a setting. */
static void print_row(const struct cfg_setting *s, char *out, size_t cap)
{
    char type[200], def[128] = "", env[CFG_ENV_NAME_MAX + 2] = "", name[CFG_ENV_NAME_MAX], range[160];

    snprintf(type, sizeof type, "%s", cfg_type_name(s->type));
    cfg_accepts(s, range, sizeof range);
    if (s->type == CFG_CHOICE)
        snprintf(type, sizeof type, "%s", range);
    else if (s->type == CFG_COUNT && s->max != INT32_MAX)
        snprintf(type, sizeof type, "count, %s", range);
    if (s->def)
        snprintf(def, sizeof def, "`%s`%s%s%s", s->def, s->def_bare ? "; without a file `" : "",
                 s->def_bare ? s->def_bare : "", s->def_bare ? "`" : "");
    if (cfg_env_name(s, name))
        snprintf(env, sizeof env, "`%s`", name);
    snprintf(out, cap, "| `%s` | %s | %s | %s | %s%s |", s->key, type, def, env, s->doc,
             s->flags & CFG_LATER ? " (not used by this release)" : "");
}

Test(cfg_docs, the_reference_has_the_settings_of_the_table_and_no_others)
{
    char *text = read_reference(), *save = NULL, row[1024];
    size_t documented = 0, i = 0;

    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (strncmp(line, "| `storage.", 11) && strncmp(line, "| `dataproxy.", 13) && strncmp(line, "| `larder.", 10))
            continue;
        documented++;
        if (i == CFG_SETTINGS)
            continue;
        print_row(&cfg_settings()[i++], row, sizeof row);
        cr_expect(same(line, row), "want: %s\ngot:  %s", row, line);
    }
    cr_expect(documented == CFG_SETTINGS, "%zu of %d settings", documented, CFG_SETTINGS);
    free(text);
}

Test(cfg_docs, every_example_of_the_reference_is_good)
{
    char *text = read_reference(), *p = text;
    size_t n = 0;

    while ((p = strstr(p, "\n```yaml\n"))) {
        char *end = strstr(p + 9, "\n```\n"), *group;
        struct ldr_cfg *cfg;

        cr_assert(end != NULL);
        *end = '\0';
        group = strstr(p + 9, "group: larder"); /* which this machine need not have */
        if (group)
            memcpy(group, "group:      0", 13);
        cfg = load(p + 9);
        cr_expect(cfg->n_warnings == 0, "%s", cfg->warnings[0]);
        n++;
        p = end + 1;
        ldr_cfg_free(&cfg);
    }
    cr_expect(n == 3, "%zu examples", n);
    free(text);
}

Test(cfg_docs, every_row_of_the_table_is_sound)
{
    const struct cfg_setting *s = cfg_settings();
    struct cfg_value v;
    char why[256], name[CFG_ENV_NAME_MAX];

    for (size_t i = 0; i < CFG_SETTINGS; i++) {
        for (size_t j = 0; j < i; j++)
            cr_expect(strcmp(s[i].key, s[j].key), "%s is there twice", s[i].key);
        if (s[i].def && s[i].type < CFG_TEXTS && *s[i].def != 'C')
            cr_expect(cfg_value_parse(&s[i], s[i].def, &v, why, sizeof why), "default of %s %s", s[i].key, why);
        cr_expect(s[i].doc && *s[i].doc);
        cr_expect(!cfg_env_name(&s[i], name) || strlen(name) < sizeof name - 1);
    }
    cr_expect(LDR_ERROR == 0 && LDR_DEBUG == 3, "the choices of larder.log.level stand in the order of the enum");
}
