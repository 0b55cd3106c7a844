/* buf.c - see buf.h. */
#include "common/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ldr_buf_init(struct ldr_buf *b, size_t cap)
{
    *b = LDR_BUF_INIT(cap);
}

void ldr_buf_release(struct ldr_buf *b)
{
    free(b->p);
    *b = LDR_BUF_INIT(b->cap);
}

/* One byte more than the cap may be held: the NUL of ldr_buf_str(). */
static bool make_room(struct ldr_buf *b, size_t want)
{
    size_t room = b->room ? b->room : 64;
    uint8_t *p;

    if (want <= b->room)
        return true;
    while (room < want)
        room = room > SIZE_MAX / 2 ? want : room * 2;
    if (room > b->cap + 1)
        room = b->cap + 1 > want ? b->cap + 1 : want;
    p = realloc(b->p, room);
    if (!p)
        return false;
    b->p = p;
    b->room = room;
    return true;
}

bool ldr_buf_reserve(struct ldr_buf *b, size_t n)
{
    return n <= b->cap && b->len <= b->cap - n && make_room(b, b->len + n);
}

bool ldr_buf_add(struct ldr_buf *b, const void *p, size_t n)
{
    if (n == 0)
        return true;
    if (!ldr_buf_reserve(b, n))
        return false;
    memcpy(b->p + b->len, p, n);
    b->len += n;
    return true;
}

bool ldr_buf_addf(struct ldr_buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n > b->cap || b->len > b->cap - (size_t)n || !make_room(b, b->len + (size_t)n + 1))
        return false;
    va_start(ap, fmt);
    vsnprintf((char *)b->p + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return true;
}

const char *ldr_buf_str(struct ldr_buf *b)
{
    if (!b->p && b->len == 0)
        return "";
    if (!make_room(b, b->len + 1))
        return NULL;
    b->p[b->len] = '\0';
    return (const char *)b->p;
}
