/* s3_settings.c - the settings of an s3 store, checked whole before anything is sent (s3_impl.h; what each one does:
 * docs/stores/s3.md). An error names the setting and what it accepts. */
#include "backends/s3_impl.h"
#include "common/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOST_MAX         255
#define CUSTOMER_KEY_LEN 32

enum need { ANY, CHAIN }; /* the auth_type that a setting is for */

static const struct setting {
    const char *name;
    const char *choices; /* "a|b|c", the first one where nothing is set; NULL: a text */
    enum need need;
} settings[] = { { "auth_type", "accesskey|iam|anonymous", ANY },
                 { "access_key_id", NULL, ANY }, /* Flyte leaves these four in place under iam */
                 { "secret_key", NULL, ANY },
                 { "secret_key_path", NULL, ANY },
                 { "token", NULL, ANY },
                 { "region", NULL, ANY },
                 { "endpoint", NULL, ANY },
                 { "disable_ssl", "false|true", ANY },
                 { "v2_signing", "false|true", ANY },
                 { "addressing", "auto|path|virtual", ANY },
                 { "profile", NULL, CHAIN },
                 { "role_arn", NULL, CHAIN },
                 { "role_session_name", NULL, CHAIN },
                 { "external_id", NULL, CHAIN },
                 { "sts_endpoint", NULL, CHAIN },
                 { "ca_file", NULL, ANY },
                 { "proxy", "environment|none", ANY },
                 { "min_speed", NULL, ANY },
                 { "requester_pays", "false|true", ANY },
                 { "sse", "none|AES256|aws:kms|aws:kms:dsse", ANY },
                 { "sse_kms_key_id", NULL, ANY },
                 { "sse_customer_key_file", NULL, ANY },
                 { "storage_class", NULL, ANY },
                 { "checksum", "auto|crc32c|crc64nvme|md5|none", ANY },
                 { "sign_payload", "auto|always|never", ANY },
                 { "signing_endpoint", NULL, ANY },
                 { "signing_region", NULL, ANY } };

/* ---- values ---- */

/* An empty value is as good as none. */
static const char *text_of(const struct ldr_store_cfg *cfg, const char *name)
{
    const char *v = ldr_store_cfg_get(cfg, name);

    return v && *v ? v : NULL;
}

/* The place of `value` in "a|b|c"; -1: it is none of them. */
static int choice_in(const char *choices, const char *value)
{
    size_t n = strlen(value);
    int i = 0;

    for (const char *p = choices;; i++) {
        size_t len = strcspn(p, "|");

        if (len == n && !memcmp(p, value, n))
            return i;
        if (!p[len])
            return -1;
        p += len + 1;
    }
}

static const struct setting *find(const char *name)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(settings); i++)
        if (!strcmp(settings[i].name, name))
            return &settings[i];
    return NULL;
}

/* Of a setting that check_pair() passed. */
static int choice_of(const struct ldr_store_cfg *cfg, const char *name)
{
    const char *v = text_of(cfg, name);

    return v ? choice_in(find(name)->choices, v) : 0;
}

static bool is_true(const struct ldr_store_cfg *cfg, const char *name)
{
    return choice_of(cfg, name) == 1;
}

static enum larder_kind unknown_setting(const char *name, struct larder_err *err)
{
    char all[480];
    size_t n = 0;

    for (size_t i = 0; i < LDR_ARRAY_LEN(settings) && n < sizeof all; i++)
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", settings[i].name);
    return ldr_fail(err, LARDER_INVALID, "unknown setting \"%.60s\" of an s3 store; accepted: %s", name, all);
}

/* Most values travel in headers. */
static bool is_one_line(const char *v)
{
    while (*v && (unsigned char)*v >= ' ' && *v != 0x7f)
        v++;
    return !*v;
}

static enum larder_kind check_pair(const struct ldr_pair *p, struct larder_err *err)
{
    const struct setting *s = find(p->name);
    char accepted[64];
    size_t n = 0;

    if (!s)
        return unknown_setting(p->name, err);
    if (!is_one_line(p->value) && strcmp(p->name, "secret_key") != 0) /* that one is only ever hashed */
        return ldr_fail(err, LARDER_INVALID,
                        "setting \"%s\" holds a control character; accepted: printable text on one line", p->name);
    if (!s->choices || !p->value[0] || choice_in(s->choices, p->value) >= 0)
        return LARDER_OK;
    for (const char *c = s->choices; *c && n < sizeof accepted - 3; c++)
        n += (size_t)snprintf(accepted + n, sizeof accepted - n, *c == '|' ? ", " : "%c", *c);
    return ldr_fail(err, LARDER_INVALID, "setting \"%s\" is \"%.40s\"; accepted: %s", p->name, p->value, accepted);
}

/* What only makes sense together. */
static enum larder_kind check_company(const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    bool iam = choice_of(cfg, "auth_type") == 1;

    for (size_t i = 0; i < cfg->n_config; i++)
        if (find(cfg->config[i].name)->need == CHAIN && cfg->config[i].value[0] && !iam)
            return ldr_fail(err, LARDER_INVALID, "setting \"%s\" needs \"auth_type\": iam", cfg->config[i].name);
    if (!text_of(cfg, "role_arn")) {
        if (text_of(cfg, "role_session_name") || text_of(cfg, "external_id"))
            return ldr_fail(err, LARDER_INVALID, "setting \"%s\" needs \"role_arn\": the role to assume",
                            text_of(cfg, "external_id") ? "external_id" : "role_session_name");
    }
    if (text_of(cfg, "sse_kms_key_id") && choice_of(cfg, "sse") < 2)
        return ldr_fail(err, LARDER_INVALID, "setting \"sse_kms_key_id\" needs \"sse\": aws:kms or aws:kms:dsse");
    if (text_of(cfg, "sse_customer_key_file") && choice_of(cfg, "sse") > 0)
        return ldr_fail(err, LARDER_INVALID,
                        "settings \"sse\" and \"sse_customer_key_file\" exclude each other: the key is the store's, or "
                        "it is yours");
    if (text_of(cfg, "signing_region") && !text_of(cfg, "signing_endpoint"))
        return ldr_fail(err, LARDER_INVALID, "setting \"signing_region\" needs \"signing_endpoint\"");
    if (is_true(cfg, "v2_signing"))
        return ldr_fail(err, LARDER_UNSUPPORTED,
                        "setting \"v2_signing\" is \"true\": signature version 2 is not supported; accepted: false");
    return LARDER_OK;
}

static enum larder_kind no_memory(struct larder_err *err)
{
    return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for an s3 store");
}

static enum larder_kind copy_text(const struct ldr_store_cfg *cfg, const char *name, char **out, struct larder_err *err)
{
    const char *v = text_of(cfg, name);

    *out = v ? strdup(v) : NULL;
    return v && !*out ? no_memory(err) : LARDER_OK;
}

/* ---- addresses ---- */

static bool take_scheme(const char **text, const char *scheme)
{
    size_t n = strlen(scheme);

    if (strncasecmp(*text, scheme, n) != 0)
        return false;
    *text += n;
    return true;
}

/* "NAME", "1.2.3.4" or "[::1]", with ":PORT" or without. */
static bool is_host(const char *p, size_t n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    size_t len = p[0] == '[' ? 1 + strspn(p + 1, "0123456789abcdefABCDEF:.") : strspn(p, letters);
    unsigned long port;

    if (p[0] == '[')
        len = len > 2 && p[len] == ']' ? len + 1 : 0;
    if (len == 0 || len > n)
        return false;
    if (len == n)
        return true;
    if (p[len] != ':' || n - len < 2 || strspn(p + len + 1, "0123456789") != n - len - 1)
        return false;
    port = strtoul(p + len + 1, NULL, 10);
    return port >= 1 && port <= 65535;
}

/* "[http[s]://]host[:port][/path]"; *https is changed where a scheme says it. */
static enum larder_kind read_address(const char *setting, const char *text, bool *https, char **host, char **prefix,
                                     struct larder_err *err)
{
    static const char path_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_~/";
    const char *p = text, *port;
    size_t host_len, path_len;

    if (take_scheme(&p, "https://"))
        *https = true;
    else if (take_scheme(&p, "http://"))
        *https = false;
    host_len = strcspn(p, "/");
    path_len = strlen(p + host_len);
    if (host_len > HOST_MAX || path_len > HOST_MAX || !is_host(p, host_len) ||
        strspn(p + host_len, path_letters) != path_len)
        return ldr_fail(err, LARDER_INVALID,
                        "setting \"%s\" is no address; accepted: [https://]HOST[:PORT][/PATH], http:// or https://",
                        setting);
    while (path_len > 0 && p[host_len + path_len - 1] == '/')
        path_len--;
    *prefix = strndup(p + host_len, path_len);
    port = *https ? ":443" : ":80"; /* a default port does not stand in the Host header, which is signed */
    if (host_len > strlen(port) && !strncmp(p + host_len - strlen(port), port, strlen(port)))
        host_len -= strlen(port);
    *host = strndup(p, host_len);
    return *prefix && *host ? LARDER_OK : no_memory(err);
}

static enum larder_kind check_region(const char *setting, const char *region, struct larder_err *err)
{
    if (ldr_s3_is_region(region))
        return LARDER_OK;
    return ldr_fail(err, LARDER_INVALID,
                    "setting \"%s\" is \"%.64s\", which is no region; accepted: letters, digits, - and _ (us-east-1)",
                    setting, region);
}

/* What a file or the configuration says is meant; what the surroundings say is only where to ask first. */
static bool is_written(const struct ldr_store_cfg *cfg, const char *name)
{
    for (size_t i = 0; i < cfg->n_config; i++)
        if (!strcmp(cfg->config[i].name, name))
            return cfg->config[i].value[0] && cfg->config[i].line > 0;
    return false;
}

static enum larder_kind read_region(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    const char *region = text_of(cfg, "region");
    char around[64];
    enum larder_kind k;

    s3->region_fixed = is_written(cfg, "region");
    if (!region && choice_of(cfg, "auth_type") == 1 && ldr_cred_region(text_of(cfg, "profile"), around, sizeof around))
        region = around;
    k = check_region("region", region ? region : LDR_S3_REGION, err);
    s3->region = k ? NULL : strdup(region ? region : LDR_S3_REGION);
    return !k && !s3->region ? no_memory(err) : k;
}

/* Letters before the port tell a name from an IPv4 address. */
static bool is_name(const char *host)
{
    return host[0] != '[' && strspn(host, "0123456789.") != strcspn(host, ":");
}

static enum larder_kind read_place(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    const char *endpoint = text_of(cfg, "endpoint");
    enum larder_kind k = read_region(s3, cfg, err);

    if (k)
        return k;
    s3->addressing = choice_of(cfg, "addressing");
    s3->https = !is_true(cfg, "disable_ssl");
    s3->aws = !endpoint;
    if (endpoint)
        return read_address("endpoint", endpoint, &s3->https, &s3->host, &s3->prefix, err);
    s3->host = ldr_s3_aws_host(s3->region);
    s3->prefix = strdup("");
    return s3->host && s3->prefix ? LARDER_OK : no_memory(err);
}

static enum larder_kind read_signing(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    const char *endpoint = text_of(cfg, "signing_endpoint"), *region = text_of(cfg, "signing_region");
    enum larder_kind k = region ? check_region("signing_region", region, err) : LARDER_OK;

    s3->sign_https = s3->https;
    if (!k && endpoint)
        k = read_address("signing_endpoint", endpoint, &s3->sign_https, &s3->sign_host, &s3->sign_prefix, err);
    if (!k)
        k = copy_text(cfg, "signing_region", &s3->sign_region, err);
    return k;
}

static enum larder_kind check_addressing(const struct s3 *s3, struct larder_err *err)
{
    const char *bad = s3->addressing != S3_AT_VIRTUAL            ? NULL
                      : !is_name(s3->host)                       ? "endpoint"
                      : s3->sign_host && !is_name(s3->sign_host) ? "signing_endpoint"
                                                                 : NULL;

    if (!bad)
        return LARDER_OK;
    return ldr_fail(err, LARDER_INVALID,
                    "setting \"addressing\" is virtual, but \"%s\" is an IP address: no bucket can stand before it; "
                    "accepted: auto, path",
                    bad);
}

/* ---- files ---- */

/* All of a small regular file. */
static enum larder_kind read_file(const char *setting, const char *path, size_t max, struct ldr_buf *out,
                                  struct larder_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    enum larder_kind k = LARDER_OK;
    struct stat st;
    uint8_t piece[4096];
    ssize_t n = 0;

    *out = LDR_BUF_INIT(max + 1); /* a byte more tells that it is too large */
    if (fd == -1 || fstat(fd, &st) == -1)
        k = ldr_fail_sys(err, LARDER_IO, "setting \"%s\": could not open \"%s\"", setting, path);
    else if (!S_ISREG(st.st_mode))
        k = ldr_fail(err, LARDER_INVALID, "setting \"%s\": \"%s\" is no regular file", setting, path);
    while (!k && out->len <= max && (n = read(fd, piece, sizeof piece)) > 0) {
        size_t room = out->cap - out->len;

        if (!ldr_buf_add(out, piece, (size_t)n < room ? (size_t)n : room))
            k = no_memory(err);
    }
    explicit_bzero(piece, sizeof piece);
    if (!k && n == -1)
        k = ldr_fail_sys(err, LARDER_IO, "setting \"%s\": could not read \"%s\"", setting, path);
    if (!k && out->len > max)
        k = ldr_fail(err, LARDER_INVALID, "setting \"%s\": \"%s\" is larger than %zu bytes", setting, path, max);
    if (fd != -1)
        close(fd);
    return k;
}

static void wipe(struct ldr_buf *b)
{
    if (b->p)
        explicit_bzero(b->p, b->len);
    ldr_buf_release(b);
}

/* libcurl reads the file at each connection, and would say little of what is wrong with it. */
static enum larder_kind read_ca(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    const char *path = text_of(cfg, "ca_file");
    struct ldr_buf pem = { 0 };
    X509 *one = NULL;
    BIO *bio = NULL;
    enum larder_kind k;

    if (!path)
        return LARDER_OK;
    k = read_file("ca_file", path, LDR_S3_CA_MAX, &pem, err);
    if (k)
        goto done;
    bio = BIO_new_mem_buf(pem.p ? (const char *)pem.p : "", (int)pem.len);
    if (!bio) {
        k = no_memory(err);
        goto done;
    }
    one = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    if (!one)
        k = ldr_fail(err, LARDER_INVALID, "setting \"ca_file\": \"%s\" holds no certificate; accepted: PEM", path);
    else
        k = copy_text(cfg, "ca_file", &s3->ca_file, err);
done:
    ERR_clear_error();
    X509_free(one);
    BIO_free(bio);
    ldr_buf_release(&pem);
    return k;
}

static enum larder_kind keep_customer_key(struct s3 *s3, const uint8_t key[CUSTOMER_KEY_LEN], struct larder_err *err)
{
    uint8_t md5[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (EVP_Digest(key, CUSTOMER_KEY_LEN, md5, &n, EVP_md5(), NULL) != 1)
        return ldr_fail(err, LARDER_UNSUPPORTED,
                        "setting \"sse_customer_key_file\": this libcrypto makes no MD5, which S3 wants of the key");
    s3->sse_customer_key = calloc(1, 4 * ((CUSTOMER_KEY_LEN + 2) / 3) + 1);
    s3->sse_customer_md5 = calloc(1, 4 * ((n + 2) / 3) + 1);
    if (!s3->sse_customer_key || !s3->sse_customer_md5)
        return no_memory(err);
    EVP_EncodeBlock((unsigned char *)s3->sse_customer_key, key, CUSTOMER_KEY_LEN);
    EVP_EncodeBlock((unsigned char *)s3->sse_customer_md5, md5, (int)n);
    return LARDER_OK;
}

/* 32 bytes, or their base64 with white space around it. */
static enum larder_kind read_customer_key(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    const char *path = text_of(cfg, "sse_customer_key_file");
    uint8_t raw[CUSTOMER_KEY_LEN + 16];
    struct ldr_buf b = { 0 };
    const char *p;
    size_t n;
    enum larder_kind k;

    if (!path)
        return LARDER_OK;
    if (!s3->https)
        return ldr_fail(err, LARDER_INVALID,
                        "setting \"sse_customer_key_file\" needs https: each request would show the key");
    k = read_file("sse_customer_key_file", path, 256, &b, err);
    if (k)
        goto done;
    p = b.p ? (const char *)b.p : "";
    n = b.len;
    if (n != CUSTOMER_KEY_LEN) {
        for (; n > 0 && strchr(" \t\r\n", *p); n--)
            p++;
        while (n > 0 && strchr(" \t\r\n", p[n - 1]))
            n--;
        /* 44 characters, the last one "=": 33 bytes, of which the last is none */
        if (n != 44 || p[43] != '=' || p[42] == '=' || EVP_DecodeBlock(raw, (const unsigned char *)p, (int)n) != 33) {
            k = ldr_fail(err, LARDER_INVALID,
                         "setting \"sse_customer_key_file\": \"%s\" holds no key; accepted: 32 bytes, or their base64",
                         path);
            goto done;
        }
        p = (const char *)raw;
    }
    k = keep_customer_key(s3, (const uint8_t *)p, err);
done:
    explicit_bzero(raw, sizeof raw);
    wipe(&b);
    return k;
}

/* ---- the rest ---- */

/* Bytes a second; 0: any speed will do. */
static enum larder_kind read_speed(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    const char *text = text_of(cfg, "min_speed"), *p = text;
    uint64_t n;

    if (!text)
        return LARDER_OK;
    if (!ldr_s3_number(&p, '\0', &n) || n > LDR_GIB)
        return ldr_fail(err, LARDER_INVALID,
                        "setting \"min_speed\" is \"%.40s\"; accepted: bytes a second, 0 to 1073741824 (0: any)", text);
    s3->min_speed = n ? (int64_t)n : -1;
    return LARDER_OK;
}

static enum larder_kind read_writing(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    const char *class = text_of(cfg, "storage_class");
    enum larder_kind k = LARDER_OK;

    if (class && (strlen(class) > 64 || strspn(class, letters) != strlen(class)))
        return ldr_fail(err, LARDER_INVALID,
                        "setting \"storage_class\" is \"%.64s\"; accepted: a name such as STANDARD_IA", class);
    s3->checksum = choice_of(cfg, "checksum");
    s3->sign_payload = choice_of(cfg, "sign_payload");
    s3->requester_pays = is_true(cfg, "requester_pays");
    s3->direct = choice_of(cfg, "proxy") == 1;
    if (choice_of(cfg, "sse") > 0)
        k = copy_text(cfg, "sse", &s3->sse, err);
    if (!k)
        k = copy_text(cfg, "sse_kms_key_id", &s3->sse_kms_key_id, err);
    if (!k)
        k = copy_text(cfg, "storage_class", &s3->storage_class, err);
    return k ? k : read_customer_key(s3, cfg, err);
}

/* ---- credentials ---- */

static enum larder_kind read_cred(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    int type = choice_of(cfg, "auth_type");
    struct ldr_cred_cfg cc = { .how = type == 0   ? LDR_CRED_KEYS
                                      : type == 1 ? LDR_CRED_CHAIN
                                                  : LDR_CRED_ANONYMOUS,
                               .region = s3->region,
                               .ca_file = s3->ca_file,
                               .net = s3->base.env.net,
                               .pool = s3->base.env.pool };
    struct larder_err why = { 0 };
    enum larder_kind k;

    if (type == 0) {
        cc.access_key_id = text_of(cfg, "access_key_id");
        cc.secret_key_path = text_of(cfg, "secret_key_path");
        cc.secret_key = cc.secret_key_path ? NULL : text_of(cfg, "secret_key");
        cc.token = text_of(cfg, "token");
        if (!cc.access_key_id)
            return ldr_fail(err, LARDER_INVALID,
                            "setting \"access_key_id\" is missing (or set \"auth_type\": iam or anonymous)");
        if (!cc.secret_key && !cc.secret_key_path)
            return ldr_fail(err, LARDER_INVALID, "setting \"secret_key\" or \"secret_key_path\" is missing");
    } else if (type == 1) {
        cc.profile = text_of(cfg, "profile");
        cc.role_arn = text_of(cfg, "role_arn");
        cc.role_session_name = text_of(cfg, "role_session_name");
        cc.external_id = text_of(cfg, "external_id");
        cc.sts_endpoint = text_of(cfg, "sts_endpoint");
    }
    k = ldr_cred_new(&cc, &s3->cred, &why);
    if (!k)
        return LARDER_OK;
    return cc.secret_key_path ? ldr_fail(err, k, "setting \"secret_key_path\": %s", why.msg)
                              : ldr_fail(err, k, "%s", why.msg);
}

enum larder_kind ldr_s3_settings(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    for (size_t i = 0; i < cfg->n_config && !k; i++)
        k = check_pair(&cfg->config[i], err);
    if (!k)
        k = check_company(cfg, err);
    if (!k)
        k = read_place(s3, cfg, err);
    if (!k)
        k = read_signing(s3, cfg, err);
    if (!k)
        k = check_addressing(s3, err);
    if (!k)
        k = read_ca(s3, cfg, err);
    if (!k)
        k = read_speed(s3, cfg, err);
    if (!k)
        k = read_writing(s3, cfg, err);
    return k ? k : read_cred(s3, cfg, err);
}
