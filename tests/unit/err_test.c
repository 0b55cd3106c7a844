/* err_test.c - kinds of failure and their messages (larder_err.h, fail.h). */
#include "common/fail.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <string.h>

Test(err, a_failure_is_reported_in_one_line)
{
    struct larder_err err = { .sys = 7, .http = 7 };

    cr_expect(eq(int, ldr_fail(&err, LARDER_DENIED, "no access to \"%s\"", "s3://b/k"), LARDER_DENIED));
    cr_expect(eq(int, err.kind, LARDER_DENIED));
    cr_expect(eq(int, err.sys, 0));
    cr_expect(eq(int, err.http, 0));
    cr_expect(eq(str, err.msg, "no access to \"s3://b/k\""));
}

Test(err, nobody_need_listen)
{
    errno = EIO;
    cr_expect(eq(int, ldr_fail(NULL, LARDER_INVALID, "x"), LARDER_INVALID));
    cr_expect(eq(int, ldr_fail_sys(NULL, LARDER_IO, "x"), LARDER_IO));
    cr_expect(eq(int, ldr_fail_http(NULL, LARDER_NOT_FOUND, 404, "x"), LARDER_NOT_FOUND));
}

Test(err, a_system_error_brings_its_number_and_text_and_keeps_errno)
{
    struct larder_err err = { 0 };

    errno = ENOENT;
    cr_expect(eq(int, ldr_fail_sys(&err, LARDER_IO, "could not open \"%s\"", "x"), LARDER_IO));
    cr_expect(eq(int, errno, ENOENT));
    cr_expect(eq(int, err.sys, ENOENT));
    cr_expect(eq(str, err.msg, "could not open \"x\": No such file or directory"));
}

Test(err, a_stores_answer_brings_its_status)
{
    struct larder_err err = { 0 };

    cr_expect(eq(int, ldr_fail_http(&err, LARDER_UNAVAILABLE, 503, "slow down"), LARDER_UNAVAILABLE));
    cr_expect(eq(int, err.http, 503));
    cr_expect(eq(str, err.msg, "slow down"));
}

Test(err, a_long_message_is_clipped_between_characters)
{
    static const char *const units[] = { "x", "é", "€", "😀" };

    for (size_t u = 0; u < LDR_ARRAY_LEN(units); u++) {
        for (size_t shift = 0; shift < 4; shift++) {
            char text[2048] = "";
            struct larder_err err = { 0 };
            size_t n, width = strlen(units[u]);

            memset(text, '.', shift);
            while (strlen(text) < 1000)
                strcat(text, units[u]);
            ldr_fail(&err, LARDER_IO, "%s", text);
            n = strlen(err.msg);
            cr_expect(lt(sz, n, sizeof err.msg));
            cr_expect(ge(sz, n, sizeof err.msg - 1 - 4));
            cr_expect(eq(sz, (n - shift) % width, 0), "\"%s\" is cut in two", units[u]);
            cr_expect(eq(int, memcmp(err.msg, text, n), 0));
        }
    }
}

Test(err, a_system_error_behind_a_long_message_stays_in_bounds)
{
    char text[600];
    struct larder_err err = { 0 };

    memset(text, 'x', sizeof text);
    for (size_t n = 490; n < 600; n++) {
        errno = EACCES;
        ldr_fail_sys(&err, LARDER_IO, "%.*s", (int)n, text);
        cr_expect(lt(sz, strnlen(err.msg, sizeof err.msg), sizeof err.msg));
    }
}

Test(err, every_kind_has_its_name_and_its_number)
{
    cr_expect(eq(str, (char *)larder_kind_name(LARDER_OK), "ok"));
    cr_expect(eq(str, (char *)larder_kind_name(LARDER_NOT_FOUND), "not_found"));
    cr_expect(eq(str, (char *)larder_kind_name(LARDER_OUTCOME_UNKNOWN), "outcome_unknown"));
    cr_expect(eq(str, (char *)larder_kind_name(LARDER_INTERNAL), "internal"));
    cr_expect(eq(str, (char *)larder_kind_name((enum larder_kind)4711), "internal"));
    for (uint32_t n = 0; n <= LARDER_INTERNAL; n++) {
        cr_expect(eq(u32, (uint32_t)ldr_kind_from_wire(n), n));
        cr_expect(ne(ptr, (void *)larder_kind_name((enum larder_kind)n), NULL));
    }
    cr_expect(eq(int, ldr_kind_from_wire(LARDER_INTERNAL + 1), LARDER_INTERNAL));
    cr_expect(eq(int, ldr_kind_from_wire(UINT32_MAX), LARDER_INTERNAL));
}

Test(err, only_passing_troubles_are_worth_a_retry)
{
    for (uint32_t n = 0; n <= LARDER_INTERNAL; n++)
        cr_expect(eq(int, ldr_kind_retry((enum larder_kind)n), n == LARDER_UNAVAILABLE || n == LARDER_CORRUPT), "%s",
                  larder_kind_name((enum larder_kind)n));
    cr_expect(not(ldr_kind_retry((enum larder_kind)4711)));
}
