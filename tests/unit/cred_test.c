/* cred_test.c - where credentials come from, and that a secret never stands in a message. */
#include "backends/cred/cred.h"
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

static char dir[TEST_DIR_MAX], path[TEST_DIR_MAX + 16];
static struct ldr_cred_source *source;
static struct larder_err err;

static void set_up(void)
{
    test_dir_make(dir);
    snprintf(path, sizeof path, "%s/secret", dir);
}

static void tear_down(void)
{
    ldr_cred_free(&source);
    cr_expect(zero(ptr, strstr(err.msg, SECRET)), "a secret stands in a message");
    test_dir_remove(dir);
}

TestSuite(cred, .init = set_up, .fini = tear_down, .timeout = 20);

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

static void expect_cred(const char *id, const char *secret, const char *token)
{
    struct ldr_cred c = { 0 };

    cr_assert(eq(int, ldr_cred_get(source, &c, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(str, (char *)c.access_key_id, (char *)id));
    cr_expect(eq(str, (char *)c.secret_key, (char *)secret));
    if (token)
        cr_expect(eq(str, (char *)c.token, (char *)token));
    else
        cr_expect(zero(ptr, (void *)c.token));
}

/* ---- settings ---- */

Test(cred, settings_come_back_as_they_were)
{
    char id[] = "id", secret[] = SECRET, token[] = "tok/en=";

    cr_assert(eq(int, ldr_cred_static_new(id, secret, token, &source, &err), LARDER_OK));
    memset(id, 'x', sizeof id - 1); /* copied, not borrowed */
    memset(secret, 'x', sizeof secret - 1);
    memset(token, 'x', sizeof token - 1);
    expect_cred("id", SECRET, "tok/en=");
}

Test(cred, an_empty_token_is_none)
{
    cr_assert(eq(int, ldr_cred_static_new("", "", "", &source, &err), LARDER_OK));
    expect_cred("", "", NULL);
}

Test(cred, a_key_id_or_token_that_could_end_its_header_is_refused)
{
    cr_expect(eq(int, ldr_cred_static_new("id\r\nX: y", SECRET, NULL, &source, &err), LARDER_INVALID));
    cr_expect(eq(int, ldr_cred_static_new("id", SECRET, "tok\n", &source, &err), LARDER_INVALID));
    cr_expect(zero(ptr, strstr(err.msg, "tok\n")));
    cr_expect(zero(ptr, source));
}

/* ---- a file ---- */

Test(cred, white_space_around_the_secret_in_a_file_is_trimmed)
{
    static const char text[] = "\n\t " SECRET " with blanks inside \r\n";

    write_secret(text, sizeof text - 1);
    cr_assert(eq(int, ldr_cred_file_new("id", path, "t", &source, &err), LARDER_OK), "%s", err.msg);
    expect_cred("id", SECRET " with blanks inside", "t");
}

Test(cred, a_file_that_was_replaced_is_read_again)
{
    write_secret("first", 5);
    cr_assert(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_OK));
    expect_cred("id", "first", NULL);
    write_secret("other", 5); /* the same size */
    expect_cred("id", "other", NULL);
}

Test(cred, a_file_that_was_rewritten_in_place_is_read_again)
{
    struct stat st;
    FILE *f;

    write_secret("first", 5);
    cr_assert(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_OK));
    cr_assert(zero(int, stat(path, &st)));
    f = fopen(path, "r+");
    cr_assert(eq(sz, fwrite("third", 1, 5, f), 5));
    fclose(f);
    st.st_mtim.tv_sec++; /* the clock of the file system may not have ticked since */
    cr_assert(zero(int, utimensat(AT_FDCWD, path, (struct timespec[2]){ st.st_mtim, st.st_mtim }, 0)));
    expect_cred("id", "third", NULL);
}

Test(cred, a_missing_file_is_an_error_and_one_that_came_back_is_read)
{
    struct ldr_cred c = { 0 };

    cr_expect(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_IO));
    cr_expect(ne(ptr, strstr(err.msg, path), NULL));
    cr_expect(zero(ptr, source));
    write_secret(SECRET, strlen(SECRET));
    cr_assert(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_OK));
    cr_assert(zero(int, unlink(path)));
    cr_expect(eq(int, ldr_cred_get(source, &c, &err), LARDER_IO));
    write_secret("back", 4);
    expect_cred("id", "back", NULL);
}

Test(cred, a_file_that_is_no_secret_is_refused)
{
    char large[LDR_CRED_FILE_MAX + 1];

    memset(large, 'x', sizeof large);
    write_secret(" \n ", 3);
    cr_expect(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_INVALID));
    write_secret("a\0b", 3);
    cr_expect(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_INVALID));
    write_secret(large, sizeof large);
    cr_expect(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_INVALID));
    cr_expect(eq(int, ldr_cred_file_new("id", dir, NULL, &source, &err), LARDER_INVALID));
    cr_assert(zero(int, unlink(path)));
    cr_assert(zero(int, mkfifo(path, 0600)));
    cr_expect(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_INVALID)); /* and does not wait */
    cr_expect(zero(ptr, source));
}

Test(cred, the_largest_file_is_read)
{
    char large[LDR_CRED_FILE_MAX + 1];

    memset(large, 'x', sizeof large);
    write_secret(large, LDR_CRED_FILE_MAX);
    large[LDR_CRED_FILE_MAX] = '\0';
    cr_assert(eq(int, ldr_cred_file_new("id", path, NULL, &source, &err), LARDER_OK), "%s", err.msg);
    expect_cred("id", large, NULL);
}

/* ---- the environment ---- */

Test(cred, the_environment_is_read)
{
    setenv("AWS_ACCESS_KEY_ID", "envid", 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    unsetenv("AWS_SESSION_TOKEN");
    cr_assert(eq(int, ldr_cred_env_new(&source, &err), LARDER_OK));
    expect_cred("envid", SECRET, NULL);
    ldr_cred_free(&source);
    setenv("AWS_SESSION_TOKEN", "tok", 1);
    cr_assert(eq(int, ldr_cred_env_new(&source, &err), LARDER_OK));
    expect_cred("envid", SECRET, "tok");
}

Test(cred, an_environment_without_keys_is_refused_at_use_and_says_which_is_missing)
{
    struct ldr_cred c;

    unsetenv("AWS_ACCESS_KEY_ID");
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    cr_assert(eq(int, ldr_cred_env_new(&source, &err), LARDER_OK));
    cr_expect(eq(int, ldr_cred_get(source, &c, &err), LARDER_DENIED));
    cr_expect(strstr(err.msg, "AWS_ACCESS_KEY_ID") != NULL, "%s", err.msg);
    ldr_cred_free(&source);
    setenv("AWS_ACCESS_KEY_ID", "id", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "", 1);
    cr_assert(eq(int, ldr_cred_env_new(&source, &err), LARDER_OK));
    cr_expect(eq(int, ldr_cred_get(source, &c, &err), LARDER_DENIED));
    cr_expect(strstr(err.msg, "AWS_SECRET_ACCESS_KEY") != NULL, "%s", err.msg);
}
