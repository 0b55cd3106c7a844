/* cred_test.c - a source of credentials: settings and secret files; one renewal for all who wait, ahead of the end, by
 * and by where it fails; and that a secret never stands in a message. */
#include "backends/cred/cred.h"
#include "common/clock.h"
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
#include <time.h>
#include <unistd.h>

#define SECRET "s3cr3t/of+mine"
#define CREDS  "GET /creds"

static char dir[TEST_DIR_MAX], path[TEST_DIR_MAX + 16];
static struct ldr_net *net;
static struct ldr_pool *pool;
static struct ldr_cred_source *source;
static struct cred_server *server;
static struct larder_err err;
static struct cred_try got;

static void set_up(void)
{
    test_dir_make(dir);
    snprintf(path, sizeof path, "%s/secret", dir);
    cred_try_clean_environment(dir);
    cr_assert(zero(int, ldr_net_new(&(struct ldr_net_cfg){ .connections_per_host = 4 }, &net, &err)));
    cr_assert(zero(int, ldr_pool_new(2, &pool, &err)));
    server = cred_server_start();
}

/* In the order of an agent that stops. */
static void tear_down(void)
{
    if (net)
        ldr_net_shutdown(net);
    ldr_pool_free(&pool);
    ldr_net_free(&net);
    ldr_cred_free(&source);
    cred_server_stop(&server);
    cr_expect(zero(ptr, strstr(err.msg, SECRET)), "a secret stands in a message");
    cr_expect(zero(ptr, strstr(got.err.msg, SECRET)), "a secret stands in a message");
    test_dir_remove(dir);
}

TestSuite(cred, .init = set_up, .fini = tear_down, .timeout = 60);

static enum larder_kind make(struct ldr_cred_cfg cfg)
{
    cfg.net = net;
    cfg.pool = pool;
    ldr_cred_free(&source);
    return ldr_cred_new(&cfg, &source, &err);
}

static enum larder_kind make_keys(const char *id, const char *secret, const char *file, const char *token)
{
    return make((struct ldr_cred_cfg){
        .how = LDR_CRED_KEYS, .access_key_id = id, .secret_key = secret, .secret_key_path = file, .token = token });
}

static void expect_cred(const char *id, const char *secret, const char *token)
{
    cr_assert(eq(int, cred_try(&got, net, source), LARDER_OK), "%s", got.err.msg);
    cr_expect(eq(str, got.id, (char *)id));
    cr_expect(eq(str, got.secret, (char *)secret));
    cr_expect(eq(str, got.token, (char *)(token ? token : "")));
    cr_expect(eq(int, got.has_token, token != NULL));
}

static void expect_refusal(enum larder_kind kind, const char *words)
{
    cr_expect(eq(int, cred_try(&got, net, source), kind), "%s", got.err.msg);
    cr_expect(ne(ptr, strstr(got.err.msg, words), NULL), "\"%s\" does not say \"%s\"", got.err.msg, words);
}

/* ---- settings ---- */

Test(cred, settings_come_back_as_they_were)
{
    char id[] = "id", secret[] = SECRET, token[] = "tok/en=";

    cr_assert(zero(int, make_keys(id, secret, NULL, token)), "%s", err.msg);
    memset(id, 'x', sizeof id - 1); /* copied, not borrowed */
    memset(secret, 'x', sizeof secret - 1);
    memset(token, 'x', sizeof token - 1);
    expect_cred("id", SECRET, "tok/en=");
    cr_expect(eq(str, got.name, "settings"));
    cr_expect(got.expires_s == 0 && !got.anonymous);
    cr_expect(not(cred_try_refused(net, source, "id")), "they never change");
}

Test(cred, an_empty_token_is_none)
{
    cr_assert(zero(int, make_keys("id", SECRET, "", "")));
    expect_cred("id", SECRET, NULL);
}

Test(cred, settings_without_a_key_are_refused)
{
    cr_expect(eq(int, make_keys("", SECRET, NULL, NULL), LARDER_INVALID));
    cr_expect(ne(ptr, strstr(err.msg, "access_key_id"), NULL), "%s", err.msg);
    cr_expect(eq(int, make_keys("id", "", NULL, NULL), LARDER_INVALID));
    cr_expect(ne(ptr, strstr(err.msg, "secret_key"), NULL), "%s", err.msg);
    cr_expect(zero(ptr, source));
}

Test(cred, a_key_id_or_token_that_could_end_its_header_is_refused)
{
    cr_expect(eq(int, make_keys("id\r\nX: y", SECRET, NULL, NULL), LARDER_INVALID));
    cr_expect(eq(int, make_keys("id", SECRET, NULL, "tok\n"), LARDER_INVALID));
    cr_expect(zero(ptr, strstr(err.msg, "tok\n")));
    cr_expect(zero(ptr, source));
}

Test(cred, an_anonymous_source_says_so)
{
    cr_assert(zero(int, make((struct ldr_cred_cfg){ .how = LDR_CRED_ANONYMOUS })));
    expect_cred("", "", NULL);
    cr_expect(got.anonymous);
    cr_expect(not(cred_try_refused(net, source, "")));
}

/* ---- a secret key file ---- */

/* Replaced by rename, as a mounted secret is: another inode each time. */
static void write_secret(const void *p, size_t n)
{
    char next[sizeof path + 8];
    FILE *f;

    snprintf(next, sizeof next, "%s.next", path);
    f = fopen(next, "w");
    cr_assert(ne(ptr, f, NULL));
    cr_assert(eq(sz, fwrite(p, 1, n, f), n));
    cr_assert(zero(int, fclose(f)));
    cr_assert(zero(int, rename(next, path)));
}

Test(cred, white_space_around_the_secret_in_a_file_is_trimmed)
{
    static const char text[] = "\n\t " SECRET " with blanks inside \r\n";

    write_secret(text, sizeof text - 1);
    cr_assert(zero(int, make_keys("id", NULL, path, "t")), "%s", err.msg);
    expect_cred("id", SECRET " with blanks inside", "t");
}

Test(cred, a_file_that_was_replaced_is_read_again)
{
    write_secret("first", 5);
    cr_assert(zero(int, make_keys("id", NULL, path, NULL)));
    expect_cred("id", "first", NULL);
    write_secret("other", 5); /* the same size */
    expect_cred("id", "other", NULL);
    cr_expect(cred_try_refused(net, source, "id"));
    expect_cred("id", "other", NULL);
}

Test(cred, a_file_that_was_rewritten_in_place_is_read_again)
{
    struct stat st;
    FILE *f;

    write_secret("first", 5);
    cr_assert(zero(int, make_keys("id", NULL, path, NULL)));
    cr_assert(zero(int, stat(path, &st)));
    f = fopen(path, "r+");
    cr_assert(eq(sz, fwrite("third", 1, 5, f), 5));
    fclose(f);
    st.st_mtim.tv_sec++; /* the clock of the file system may not have ticked since */
    cr_assert(zero(int, utimensat(AT_FDCWD, path, (struct timespec[2]){ st.st_mtim, st.st_mtim }, 0)));
    expect_cred("id", "third", NULL);
}

Test(cred, while_the_file_is_gone_the_last_secret_is_used_unless_it_was_refused)
{
    cr_expect(eq(int, make_keys("id", NULL, path, NULL), LARDER_IO));
    cr_expect(ne(ptr, strstr(err.msg, path), NULL));
    cr_expect(zero(ptr, source));
    write_secret("first", 5);
    cr_assert(zero(int, make_keys("id", NULL, path, NULL)));
    cr_assert(zero(int, unlink(path)));
    expect_cred("id", "first", NULL);
    cr_expect(cred_try_refused(net, source, "id"));
    expect_refusal(LARDER_IO, path);
    write_secret("back", 4);
    expect_cred("id", "back", NULL);
}

Test(cred, a_file_that_is_no_secret_is_refused)
{
    char large[LDR_CRED_FILE_MAX + 1];

    memset(large, 'x', sizeof large);
    write_secret(" \n ", 3);
    cr_expect(eq(int, make_keys("id", NULL, path, NULL), LARDER_INVALID));
    write_secret("", 0);
    cr_expect(eq(int, make_keys("id", NULL, path, NULL), LARDER_INVALID));
    write_secret("a\0b", 3);
    cr_expect(eq(int, make_keys("id", NULL, path, NULL), LARDER_INVALID));
    write_secret(large, sizeof large);
    cr_expect(eq(int, make_keys("id", NULL, path, NULL), LARDER_INVALID));
    cr_expect(eq(int, make_keys("id", NULL, dir, NULL), LARDER_INVALID));
    cr_assert(zero(int, unlink(path)));
    cr_assert(zero(int, mkfifo(path, 0600)));
    cr_expect(eq(int, make_keys("id", NULL, path, NULL), LARDER_INVALID)); /* and does not wait */
    cr_expect(zero(ptr, source));
}

Test(cred, the_largest_file_is_read)
{
    char large[LDR_CRED_FILE_MAX + 1];

    memset(large, 'x', sizeof large);
    write_secret(large, LDR_CRED_FILE_MAX);
    large[LDR_CRED_FILE_MAX] = '\0';
    cr_assert(zero(int, make_keys("id", NULL, path, NULL)), "%s", err.msg);
    expect_cred("id", large, NULL);
}

/* ---- renewal, of what a container's service gives ---- */

static void give(const char *id, int seconds)
{
    char body[1024];

    cred_server_say(server, CREDS, 200, NULL, cred_answer_json(body, sizeof body, id, SECRET, "tok", seconds));
}

static void make_chain(void)
{
    char url[128];

    snprintf(url, sizeof url, "%s/creds", cred_server_url(server));
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url, 1);
    cr_assert(zero(int, make((struct ldr_cred_cfg){ .how = LDR_CRED_CHAIN })), "%s", err.msg);
}

Test(cred, fifty_who_ask_at_once_are_served_by_one_request)
{
    static struct cred_try many[50];

    give("id1", 3600);
    make_chain();
    cred_server_hold(server);
    for (int i = 0; i < 50; i++)
        cred_try_start(&many[i], net, source, 20000);
    cred_server_await(server, 1);
    cred_server_release(server);
    for (int i = 0; i < 50; i++) {
        cr_expect(eq(int, cred_try_wait(&many[i]), LARDER_OK), "%s", many[i].err.msg);
        cr_expect(eq(str, many[i].id, "id1"));
        cr_expect(eq(int, many[i].ends, 1));
    }
    expect_cred("id1", SECRET, "tok");
    cr_expect(eq(str, got.name, "container"));
    cr_expect(gt(i64, got.expires_s, time(NULL) + 3500));
    cr_expect(eq(uint, cred_server_count(server, CREDS), 1));
}

Test(cred, renewal_starts_ahead_of_the_end_and_the_old_ones_are_handed_out_meanwhile)
{
    give("id1", 3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
    cred_try_skew(net, source, 3600 - 400); /* 400 s left: not yet */
    expect_cred("id1", SECRET, "tok");
    cr_expect(eq(uint, cred_server_count(server, CREDS), 1));

    give("id2", 2 * 3600);
    cred_server_hold(server);
    cred_try_skew(net, source, 3600 - 200);
    expect_cred("id1", SECRET, "tok"); /* though nobody answers */
    cred_server_await(server, 2);
    expect_cred("id1", SECRET, "tok");
    cred_server_release(server);
    do
        cr_assert(zero(int, cred_try(&got, net, source)));
    while (!strcmp(got.id, "id1"));
    expect_cred("id2", SECRET, "tok");
    cr_expect(eq(uint, cred_server_count(server, CREDS), 2));
}

Test(cred, short_lived_ones_are_not_renewed_at_every_ask)
{
    give("id1", 60); /* less than is usually left when a renewal starts */
    make_chain();
    for (int i = 0; i < 20; i++)
        expect_cred("id1", SECRET, "tok");
    cr_expect(eq(uint, cred_server_count(server, CREDS), 1));
}

Test(cred, who_asks_shortly_before_the_end_waits_for_new_ones)
{
    give("id1", 3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
    give("id2", 2 * 3600);
    cred_try_skew(net, source, 3600 - 5);
    expect_cred("id2", SECRET, "tok");
}

Test(cred, in_an_outage_the_last_good_ones_are_used_to_their_end_and_then_the_error_says_why)
{
    give("id1", 3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
    cred_server_say(server, CREDS, 500, NULL, "");
    cred_try_skew(net, source, 3600 - 5);
    expect_cred("id1", SECRET, "tok"); /* waited, in vain */
    cr_expect(eq(uint, cred_server_count(server, CREDS), 4), "three tries");
    expect_cred("id1", SECRET, "tok"); /* the next renewal waits a little */
    cr_expect(eq(uint, cred_server_count(server, CREDS), 4));

    cred_try_skew(net, source, 3600 + 30);
    expect_refusal(LARDER_UNAVAILABLE, "ended 3");
    cr_expect(ne(ptr, strstr(got.err.msg, "container"), NULL), "%s", got.err.msg);
    cr_expect(ne(ptr, strstr(got.err.msg, "500"), NULL), "%s", got.err.msg);

    give("id2", 2 * 3600);
    do /* until the pause is over: at most some seconds */
        cred_try(&got, net, source);
    while (got.kind && usleep(10000) == 0);
    cr_expect(eq(str, got.id, "id2"));
}

Test(cred, a_failure_is_not_repeated_for_everybody_who_asks_behind_it)
{
    cred_server_say(server, CREDS, 400, NULL, "");
    make_chain();
    for (int i = 0; i < 20; i++)
        expect_refusal(LARDER_DENIED, "status 400");
    cr_expect(eq(uint, cred_server_count(server, CREDS), 1));
}

Test(cred, refused_ones_are_replaced)
{
    give("id1", 3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
    give("id2", 3600);
    cr_expect(cred_try_refused(net, source, "id1"));
    expect_cred("id2", SECRET, "tok");
    cr_expect(cred_try_refused(net, source, "id1"), "others have come since");
    expect_cred("id2", SECRET, "tok");
    cr_expect(eq(uint, cred_server_count(server, CREDS), 2));
}

Test(cred, refused_ones_that_come_again_are_handed_out_and_not_asked_for_a_third_time)
{
    give("id1", 3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
    cr_expect(cred_try_refused(net, source, "id1"));
    expect_cred("id1", SECRET, "tok");
    cr_expect(not(cred_try_refused(net, source, "id1")));
    expect_cred("id1", SECRET, "tok");
    cr_expect(eq(uint, cred_server_count(server, CREDS), 2));
}

Test(cred, refused_ones_are_not_used_in_an_outage)
{
    give("id1", 3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
    cred_server_say(server, CREDS, 503, NULL, "");
    cr_expect(cred_try_refused(net, source, "id1"));
    expect_refusal(LARDER_UNAVAILABLE, "were refused");
}

Test(cred, ones_that_have_ended_already_are_no_credentials)
{
    give("id1", -30);
    make_chain();
    expect_refusal(LARDER_UNAVAILABLE, "ended 3");
}

Test(cred, a_clock_that_is_ahead_is_seen_by_the_date_of_whoever_gives_them)
{
    cred_server_skew(server, -7200); /* the world is two hours behind us */
    give("id1", -3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
}

/* ---- waiting ---- */

Test(cred, nobody_waits_beyond_his_deadline)
{
    struct cred_try patient, hasty, late;
    int64_t began = ldr_mono_ns();

    give("id1", 3600);
    make_chain();
    cred_server_hold(server);
    cred_try_start(&patient, net, source, 20000);
    cred_try_start(&hasty, net, source, 50);
    cred_try_start(&late, net, source, 0);
    cr_expect(eq(int, cred_try_wait(&late), LARDER_TIMEOUT));
    cr_expect(eq(int, cred_try_wait(&hasty), LARDER_TIMEOUT));
    cr_expect(lt(i64, ldr_mono_ns() - began, 4 * LDR_NS_PER_S));
    cr_expect(ge(i64, ldr_mono_ns() - began, 50 * LDR_NS_PER_MS));
    cred_server_release(server);
    cr_expect(eq(int, cred_try_wait(&patient), LARDER_OK), "%s", patient.err.msg);
}

Test(cred, stopping_ends_the_wait_for_a_service)
{
    struct cred_try waiting[3];

    give("id1", 3600);
    make_chain();
    cred_server_hold(server);
    for (int i = 0; i < 3; i++)
        cred_try_start(&waiting[i], net, source, -1);
    cred_server_await(server, 1);
    ldr_net_shutdown(net);
    for (int i = 0; i < 3; i++)
        cr_expect(eq(int, cred_try_wait(&waiting[i]), LARDER_CANCELLED));
    cred_try_start(&waiting[0], net, source, -1);
    cr_expect(eq(int, cred_try_wait(&waiting[0]), LARDER_CANCELLED));
}

Test(cred, stopping_while_nobody_waits_for_a_renewal_leaves_nothing_behind)
{
    give("id1", 3600);
    make_chain();
    expect_cred("id1", SECRET, "tok");
    cred_server_hold(server);
    cred_try_skew(net, source, 3600 - 100);
    expect_cred("id1", SECRET, "tok");
    cred_server_await(server, 2);
    ldr_net_shutdown(net);
    expect_cred("id1", SECRET, "tok"); /* those at hand need no net */
}

static void write_file(const char *name, const char *text)
{
    char full[TEST_DIR_MAX + 64];
    FILE *f;

    snprintf(full, sizeof full, "%s/%s", dir, name);
    f = fopen(full, "w");
    cr_assert(ne(ptr, f, NULL));
    fputs(text, f);
    fclose(f);
}

Test(cred, stopping_ends_a_program_that_runs)
{
    char line[2 * TEST_DIR_MAX], started[TEST_DIR_MAX + 16];
    struct cred_try waiting;
    int64_t began;

    snprintf(started, sizeof started, "%s/started", dir);
    snprintf(line, sizeof line, "[default]\ncredential_process = sh -c 'touch %s; sleep 1000; true'\n", started);
    write_file("config", line);
    snprintf(line, sizeof line, "%s/config", dir);
    setenv("AWS_CONFIG_FILE", line, 1);
    cr_assert(zero(int, make((struct ldr_cred_cfg){ .how = LDR_CRED_CHAIN })), "%s", err.msg);
    cred_try_start(&waiting, net, source, -1);
    while (access(started, F_OK) == -1)
        usleep(1000);
    began = ldr_mono_ns();
    ldr_net_shutdown(net);
    cr_expect(eq(int, cred_try_wait(&waiting), LARDER_CANCELLED));
    ldr_pool_free(&pool);
    cr_expect(lt(i64, ldr_mono_ns() - began, 10 * LDR_NS_PER_S));
}
