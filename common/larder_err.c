/* larder_err.c - the kinds of failure and their messages (larder_err.h, fail.h). Any thread. */
#include "common/larder_err.h"
#include "common/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LDR_KIND(name, number, text, http, connect, retry)                                                             \
    _Static_assert(LARDER_##name == (number), "kinds.tbl.h and larder_err.h disagree");
#include "common/kinds.tbl.h"
#undef LDR_KIND

static const struct kind_row {
    const char *name;
    bool retry;
} rows[] = {
#define LDR_KIND(name, number, text, http, connect, retry) [number] = { text, retry },
#include "common/kinds.tbl.h"
#undef LDR_KIND
};

const char *larder_kind_name(enum larder_kind kind)
{
    return (unsigned)kind < LDR_ARRAY_LEN(rows) ? rows[kind].name : "internal";
}

enum larder_kind ldr_kind_from_wire(uint32_t number)
{
    return number < LDR_ARRAY_LEN(rows) ? (enum larder_kind)number : LARDER_INTERNAL;
}

bool ldr_kind_retry(enum larder_kind kind)
{
    return (unsigned)kind < LDR_ARRAY_LEN(rows) && rows[kind].retry;
}

/* UTF-8 is never cut in the middle of a character: step back over continuation bytes. */
static void clip(char *msg, size_t cap)
{
    size_t n = strnlen(msg, cap);

    if (n + 1 < cap)
        return;
    n = cap - 1;
    while (n > 0 && ((unsigned char)msg[n - 1] & 0xC0) == 0x80)
        n--;
    if (n > 0 && ((unsigned char)msg[n - 1] & 0x80))
        n--;
    msg[n] = '\0';
}

static void fill(struct larder_err *err, enum larder_kind kind, int sys, int http, const char *fmt, va_list ap)
{
    size_t n;

    if (!err)
        return;
    err->kind = kind;
    err->sys = sys;
    err->http = http;
    if (vsnprintf(err->msg, sizeof err->msg, fmt, ap) < 0)
        err->msg[0] = '\0';
    n = strlen(err->msg);
    if (sys) {
        char buf[128];

        snprintf(err->msg + n, sizeof err->msg - n, ": %s", strerror_r(sys, buf, sizeof buf));
    }
    clip(err->msg, sizeof err->msg);
}

enum larder_kind ldr_fail(struct larder_err *err, enum larder_kind kind, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fill(err, kind, 0, 0, fmt, ap);
    va_end(ap);
    return kind;
}

enum larder_kind ldr_fail_sys(struct larder_err *err, enum larder_kind kind, const char *fmt, ...)
{
    int sys = errno;
    va_list ap;

    va_start(ap, fmt);
    fill(err, kind, sys, 0, fmt, ap);
    va_end(ap);
    errno = sys;
    return kind;
}

enum larder_kind ldr_fail_http(struct larder_err *err, enum larder_kind kind, int http, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fill(err, kind, 0, http, fmt, ap);
    va_end(ap);
    return kind;
}
