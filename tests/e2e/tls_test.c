/* tls_test.c - stores behind TLS: who is trusted, what is refused and how that is told, tunnels of a proxy, and what only
 * travels encrypted. Authorities and certificates are made here; the servers are a few lines of OpenSSL, and MinIO. */
#include "tests/e2e/e2e.h"
#include "tests/support/real_server.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define HOUR 3600L
#define KEY  "0123456789abcdef0123456789abcdef"

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX], ca_file[TEST_DIR_MAX + 16], endpoint[64];
static struct bd *store;
static struct bd_result got;
static struct larder_err err;

/* ---- authorities and certificates ---- */

struct identity {
    X509 *cert;
    EVP_PKEY *key;
};

static void add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *e;

    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    cr_assert(e != NULL && X509_add_ext(cert, e, -1) == 1, "%s", value);
    X509_EXTENSION_free(e);
}

/* Signed by `by`; NULL: by itself, and an authority. Valid from `from_s` to `to_s`, seconds from now. `names` as in
 * "DNS:localhost,IP:127.0.0.1". */
static struct identity make_identity(const struct identity *by, const char *names, long from_s, long to_s)
{
    static long serial = 1;
    struct identity id = { .cert = X509_new(), .key = EVP_EC_gen("P-256") };
    char name[64];

    snprintf(name, sizeof name, "larder test %s %ld", by ? "server" : "authority", serial);
    cr_assert(id.cert != NULL && id.key != NULL);
    X509_set_version(id.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id.cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(id.cert), from_s);
    X509_gmtime_adj(X509_getm_notAfter(id.cert), to_s);
    X509_set_pubkey(id.cert, id.key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(id.cert), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1,
                               0);
    X509_set_issuer_name(id.cert, X509_get_subject_name(by ? by->cert : id.cert));
    add_extension(id.cert, NID_basic_constraints, by ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (names)
        add_extension(id.cert, NID_subject_alt_name, names);
    cr_assert(gt(int, X509_sign(id.cert, by ? by->key : id.key, EVP_sha256()), 0));
    return id;
}

static void drop_identity(struct identity *id)
{
    X509_free(id->cert);
    EVP_PKEY_free(id->key);
}

static void write_pem(const char *path, const struct identity *id, bool key)
{
    FILE *f = fopen(path, "we");

    cr_assert(f != NULL);
    cr_assert(
        eq(int, key ? PEM_write_PrivateKey(f, id->key, NULL, NULL, 0, NULL, NULL) : PEM_write_X509(f, id->cert), 1));
    fclose(f);
}

/* ---- a server: each request is answered with "hello", whatever it is ---- */

static struct server {
    SSL_CTX *ctx; /* NULL: no TLS */
    int listener;
    pthread_t thread;
    bool runs;
    atomic_uint requests;
} server;

static void answer(SSL *ssl)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"5d41402abc4b2a76b9719d911017c592\"\r\n"
                               "Last-Modified: Fri, 24 May 2013 00:00:00 GMT\r\n\r\nhello";
    char request[8192];
    size_t len = 0;
    int n;

    while (len < sizeof request - 1 && (n = SSL_read(ssl, request + len, (int)(sizeof request - 1 - len))) > 0) {
        len += (size_t)n;
        request[len] = '\0';
        if (!strstr(request, "\r\n\r\n"))
            continue;
        server.requests++;
        SSL_write(ssl, text, sizeof text - 1);
        len = 0;
    }
}

static void *accept_all(void *user)
{
    int conn;

    (void)user;
    while ((conn = accept(server.listener, NULL, NULL)) != -1) {
        SSL *ssl = server.ctx ? SSL_new(server.ctx) : NULL;

        if (ssl && SSL_set_fd(ssl, conn) == 1 && SSL_accept(ssl) == 1)
            answer(ssl);
        else if (!ssl && send(conn, "220 no TLS here\r\n", 17, MSG_NOSIGNAL) == 17)
            shutdown(conn, SHUT_WR);
        SSL_free(ssl);
        ERR_clear_error();
        close(conn);
    }
    return NULL;
}

static int listen_somewhere(int *port)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof addr;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(fd != -1 && !bind(fd, (struct sockaddr *)&addr, n) && !listen(fd, 16) &&
              !getsockname(fd, (struct sockaddr *)&addr, &n));
    *port = ntohs(addr.sin_port);
    return fd;
}

/* As `id`, speaking versions from `low` to `high` of TLS. NULL: no TLS at all. */
static void serve(const struct identity *id, int low, int high)
{
    int port;

    if (id) {
        server.ctx = SSL_CTX_new(TLS_server_method());
        cr_assert(server.ctx != NULL);
        SSL_CTX_set_security_level(server.ctx, 0); /* old versions are out of the question else */
        SSL_CTX_set_min_proto_version(server.ctx, low);
        SSL_CTX_set_max_proto_version(server.ctx, high);
        cr_assert(eq(int, SSL_CTX_use_certificate(server.ctx, id->cert), 1));
        cr_assert(eq(int, SSL_CTX_use_PrivateKey(server.ctx, id->key), 1));
    }
    server.listener = listen_somewhere(&port);
    snprintf(endpoint, sizeof endpoint, "https://localhost:%d", port);
    cr_assert(zero(int, pthread_create(&server.thread, NULL, accept_all, NULL)));
    server.runs = true;
}

/* ---- set-up ---- */

static struct identity authority;
static struct real_server minio;

static void set_up(void)
{
    static const char *const proxies[] = { "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(proxies); i++)
        unsetenv(proxies[i]);
    signal(SIGPIPE, SIG_IGN);
    test_dir_make(dir);
    authority = make_identity(NULL, NULL, -HOUR, HOUR);
    snprintf(ca_file, sizeof ca_file, "%s/ca.pem", dir);
    write_pem(ca_file, &authority, false);
}

static void tear_down(void)
{
    bd_result_release(&got);
    bd_close(&store);
    real_server_stop(&minio);
    if (server.runs) {
        shutdown(server.listener, SHUT_RDWR);
        pthread_join(server.thread, NULL);
        close(server.listener);
    }
    SSL_CTX_free(server.ctx);
    drop_identity(&authority);
    test_dir_remove(dir);
}

TestSuite(tls, .init = set_up, .fini = tear_down, .timeout = 120);

/* The server's own certificate, of the authority of this test. */
static void serve_as(const char *names, long from_s, long to_s, int low, int high)
{
    struct identity id = make_identity(&authority, names, from_s, to_s);

    serve(&id, low, high);
    drop_identity(&id);
}

#define OPEN(...)                                                                                                      \
    do {                                                                                                               \
        bd_close(&store);                                                                                              \
        cr_assert(eq(int,                                                                                              \
                     bd_open("s3", "s3",                                                                               \
                             (const char *[]){ "endpoint", endpoint, "region", "us-east-1", "access_key_id",           \
                                               S3_ACCESS_KEY, "secret_key", S3_SECRET_KEY, __VA_ARGS__ },              \
                             &store, &err),                                                                            \
                     LARDER_OK),                                                                                       \
                  "%s", err.msg);                                                                                      \
    } while (0)

static enum larder_kind get(const char *key)
{
    bd_result_release(&got);
    return bd_get(store, S3_BUCKET, key, NULL, &got);
}

static void expect_hello(void)
{
    cr_expect(eq(int, get("k"), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(sz, got.bytes.len, 5));
}

/* No answer, and the message tells why. */
static void expect_refusal(const char *why)
{
    cr_expect(eq(int, get("k"), LARDER_UNAVAILABLE), "%s", got.err.msg);
    cr_expect(has(got.err.msg, why), "%s", got.err.msg);
    cr_expect(has(got.err.msg, "https://localhost:"), "%s", got.err.msg);
    cr_expect(eq(uint, atomic_load(&server.requests), 0), "no request leaves before that");
}

/* ---- who is trusted ---- */

Test(tls, an_authority_that_is_named_is_trusted)
{
    serve_as("DNS:localhost", -HOUR, HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    OPEN("ca_file", ca_file, NULL);
    expect_hello();
    expect_hello();
}

Test(tls, a_server_of_an_unknown_authority_is_refused)
{
    serve_as("DNS:localhost", -HOUR, HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    OPEN(NULL);
    expect_refusal("is not accepted: ");
}

Test(tls, another_authority_than_the_servers_is_of_no_use)
{
    struct identity other = make_identity(NULL, NULL, -HOUR, HOUR);

    serve_as("DNS:localhost", -HOUR, HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    write_pem(ca_file, &other, false);
    drop_identity(&other);
    OPEN("ca_file", ca_file, NULL);
    expect_refusal("is not accepted: ");
}

Test(tls, a_certificate_that_is_over_is_refused)
{
    serve_as("DNS:localhost", -2 * HOUR, -HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    OPEN("ca_file", ca_file, NULL);
    expect_refusal("expired");
}

Test(tls, a_certificate_of_another_host_is_refused)
{
    serve_as("DNS:store.example", -HOUR, HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    OPEN("ca_file", ca_file, NULL);
    expect_refusal("'localhost'");
}

/* ---- how it is spoken ---- */

Test(tls, version_1_1_is_refused)
{
    serve_as("DNS:localhost", -HOUR, HOUR, TLS1_VERSION, TLS1_1_VERSION);
    OPEN("ca_file", ca_file, NULL);
    expect_refusal("no TLS connection (1.2 or newer)");
}

Test(tls, version_1_2_will_do)
{
    serve_as("DNS:localhost", -HOUR, HOUR, TLS1_VERSION, TLS1_2_VERSION);
    OPEN("ca_file", ca_file, NULL);
    expect_hello();
}

Test(tls, a_server_without_it_is_refused)
{
    serve(NULL, 0, 0);
    OPEN("ca_file", ca_file, NULL);
    expect_refusal("no TLS connection");
}

/* ---- a proxy that makes tunnels ---- */

static struct proxy {
    int listener;
    pthread_t thread;
    atomic_uint tunnels;
} proxy;

/* From one to the other, both ways, until one ends. */
static void pump(int a, int b)
{
    char piece[16384];

    for (;;) {
        struct pollfd p[2] = { { .fd = a, .events = POLLIN }, { .fd = b, .events = POLLIN } };

        if (poll(p, 2, -1) < 0)
            return;
        for (int i = 0; i < 2; i++) {
            ssize_t n = p[i].revents ? read(p[i].fd, piece, sizeof piece) : 1;

            if (n <= 0 || (p[i].revents && send(p[1 - i].fd, piece, (size_t)n, MSG_NOSIGNAL) != n))
                return;
        }
    }
}

/* Every tunnel leads to this machine, whatever host is asked for. */
static void *tunnel_all(void *user)
{
    static const char made[] = "HTTP/1.1 200 Connection established\r\n\r\n";
    char request[4096];
    int conn, port;

    (void)user;
    while ((conn = accept(proxy.listener, NULL, NULL)) != -1) {
        ssize_t n = read(conn, request, sizeof request - 1);
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        request[n > 0 ? n : 0] = '\0';
        if (sscanf(request, "CONNECT localhost:%d HTTP/1.1", &port) == 1) {
            to.sin_port = htons((uint16_t)port);
            if (!connect(fd, (struct sockaddr *)&to, sizeof to) && write(conn, made, sizeof made - 1) > 0) {
                proxy.tunnels++;
                pump(conn, fd);
            }
        }
        close(fd);
        close(conn);
    }
    return NULL;
}

static void proxy_start(void)
{
    char url[64];
    int port;

    proxy.listener = listen_somewhere(&port);
    cr_assert(zero(int, pthread_create(&proxy.thread, NULL, tunnel_all, NULL)));
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    setenv("https_proxy", url, 1);
    setenv("no_proxy", "", 1);
    setenv("NO_PROXY", "", 1);
}

static void proxy_stop(void)
{
    bd_close(&store);
    shutdown(proxy.listener, SHUT_RDWR);
    pthread_join(proxy.thread, NULL);
    close(proxy.listener);
}

Test(tls, a_store_is_reached_through_the_tunnel_of_a_proxy)
{
    serve_as("DNS:localhost", -HOUR, HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    proxy_start();
    OPEN("ca_file", ca_file, NULL);
    expect_hello();
    expect_hello();
    cr_expect(eq(uint, atomic_load(&proxy.tunnels), 1), "one connection, kept");
    proxy_stop();
}

Test(tls, a_proxy_can_be_switched_off)
{
    serve_as("DNS:localhost", -HOUR, HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    proxy_start();
    OPEN("ca_file", ca_file, "proxy", "none", NULL);
    expect_hello();
    cr_expect(eq(uint, atomic_load(&proxy.tunnels), 0));
    proxy_stop();
}

Test(tls, a_tunnel_does_not_change_who_is_trusted)
{
    serve_as("DNS:store.example", -HOUR, HOUR, TLS1_2_VERSION, TLS1_3_VERSION);
    proxy_start();
    OPEN("ca_file", ca_file, NULL);
    expect_refusal("'localhost'");
    proxy_stop();
}

/* ---- MinIO ---- */

static void minio_start(void)
{
    struct identity id = make_identity(&authority, "DNS:localhost,DNS:" S3_BUCKET ".localhost", -HOUR, HOUR);
    char bin[512], reason[600] = "", certs[TEST_DIR_MAX + 8], path[TEST_DIR_MAX + 32], data[TEST_DIR_MAX + 8];
    char log[TEST_DIR_MAX + 16];

    need_server(real_server_find("LDR_TEST_MINIO", "minio-20260212/minio", bin, sizeof bin, reason, sizeof reason),
                reason);
    snprintf(certs, sizeof certs, "%s/certs", dir);
    snprintf(data, sizeof data, "%s/data", dir);
    snprintf(log, sizeof log, "%s/minio.log", dir);
    mkdir(certs, 0700);
    snprintf(path, sizeof path, "%s/public.crt", certs);
    write_pem(path, &id, false);
    snprintf(path, sizeof path, "%s/private.key", certs);
    write_pem(path, &id, true);
    drop_identity(&id);
    setenv("MINIO_ROOT_USER", S3_ACCESS_KEY, 1);
    setenv("MINIO_ROOT_PASSWORD", S3_SECRET_KEY, 1);
    setenv("MINIO_DOMAIN", "localhost", 1);
    setenv("MINIO_UPDATE", "off", 1);
    setenv("MINIO_BROWSER", "off", 1);
    setenv("MINIO_KMS_SECRET_KEY", "test-key:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", 1);
    cr_assert(real_server_start(
                  &minio,
                  (char *[]){ bin, "server", "--address", "127.0.0.1:0", "--certs-dir", certs, "--quiet", data, NULL },
                  log, NULL),
              "MinIO did not start, see %s", log);
    snprintf(endpoint, sizeof endpoint, "https://localhost:%d", minio.port);
}

static void make_bucket(void)
{
    struct ldr_op op = {
        .what = LDR_OP_MAKE_CONTAINER, .uri = "s3://" S3_BUCKET "/", .container = S3_BUCKET, .key = "", .fd = -1
    };

    bd_result_release(&got);
    agent_wait_until(bd_op(store, &op, &got) != LARDER_UNAVAILABLE); /* it listens before it is ready */
    cr_assert(eq(int, got.kind, LARDER_OK), "%s", got.err.msg);
}

static void expect_put(const char *key, const void *p, size_t n)
{
    bd_result_release(&got);
    cr_assert(eq(int, bd_put(store, S3_BUCKET, key, p, n, NULL, &got), LARDER_OK), "%s", got.err.msg);
}

static void expect_get(const char *key, const void *p, size_t n)
{
    cr_assert(eq(int, get(key), LARDER_OK), "%s", got.err.msg);
    cr_assert(eq(sz, got.bytes.len, n));
    cr_expect(zero(int, memcmp(got.bytes.p, p, n)));
}

static const char *key_file(const char *name, const char *key)
{
    static char path[TEST_DIR_MAX + 32];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "we");
    cr_assert(f != NULL && fputs(key, f) >= 0 && fclose(f) == 0);
    return path;
}

Test(tls, minio_serves_with_buckets_in_the_path_and_in_the_host)
{
    uint8_t *bytes = bd_bytes(3 * LDR_MIB, 1);

    minio_start();
    OPEN("ca_file", ca_file, NULL);
    make_bucket();
    expect_put("a/b c+d", bytes, 3 * LDR_MIB);
    expect_get("a/b c+d", bytes, 3 * LDR_MIB);
    OPEN("ca_file", ca_file, "addressing", "virtual", NULL);
    expect_get("a/b c+d", bytes, 3 * LDR_MIB);
    expect_put("v", "virtual", 7);
    expect_get("v", "virtual", 7);
    bd_result_release(&got);
    cr_expect(eq(int, bd_list(store, S3_BUCKET, "", NULL, &got), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(sz, got.page.n, 2));
    free(bytes);
}

Test(tls, an_object_of_a_customers_key_is_read_with_that_key_alone)
{
    uint8_t *bytes = bd_bytes(LDR_MIB, 2);
    struct bd_args part = { .ranged = true, .offset = 1000, .length = 5000 };

    minio_start();
    OPEN("ca_file", ca_file, "sse_customer_key_file", key_file("key", KEY), NULL);
    make_bucket();
    expect_put("secret", bytes, LDR_MIB);
    expect_get("secret", bytes, LDR_MIB);
    bd_result_release(&got);
    cr_expect(eq(int, bd_head(store, S3_BUCKET, "secret", &got), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(u64, got.meta.size_bytes, LDR_MIB));
    bd_result_release(&got);
    cr_expect(eq(int, bd_get(store, S3_BUCKET, "secret", &part, &got), LARDER_OK), "%s", got.err.msg);
    cr_expect(zero(int, memcmp(got.bytes.p, bytes + 1000, 5000)));
    bd_result_release(&got);
    cr_expect(eq(int, bd_copy(store, S3_BUCKET, "secret", "copy", &got), LARDER_OK), "%s", got.err.msg);
    expect_get("copy", bytes, LDR_MIB);
    OPEN("ca_file", ca_file, NULL);
    cr_expect(ne(int, get("secret"), LARDER_OK), "without the key");
    cr_expect(not(ldr_kind_retry(got.kind)), "%s", got.err.msg);
    cr_expect(not(has(got.err.msg, KEY)), "%s", got.err.msg);
    OPEN("ca_file", ca_file, "sse_customer_key_file", key_file("other", "0123456789abcdef0123456789abcdeg"), NULL);
    cr_expect(ne(int, get("secret"), LARDER_OK), "with another one");
    cr_expect(has(got.err.msg, "request id "), "%s", got.err.msg);
    free(bytes);
}

Test(tls, the_store_encrypts_by_its_own_key_where_that_is_set)
{
    minio_start();
    OPEN("ca_file", ca_file, "sse", "AES256", "requester_pays", "true", "storage_class", "REDUCED_REDUNDANCY", NULL);
    make_bucket();
    expect_put("s3", "by its own key", 14);
    expect_get("s3", "by its own key", 14);
    OPEN("ca_file", ca_file, "sse", "aws:kms", "sse_kms_key_id", "test-key", NULL);
    expect_put("kms", "by a key of its service", 23);
    expect_get("kms", "by a key of its service", 23);
    OPEN("ca_file", ca_file, "sse", "aws:kms", "sse_kms_key_id", "no-such-key", NULL);
    bd_result_release(&got);
    cr_expect(ne(int, bd_put(store, S3_BUCKET, "not", "x", 1, NULL, &got), LARDER_OK), "the setting reaches the store");
}
