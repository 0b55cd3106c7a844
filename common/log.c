/* log.c - see log.h. The only process-wide state of larder: a program has one place for its log. */
#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static ldr_log_fn *log_sink; /* set once, before threads */
static void *log_user;
static atomic_int log_level = LDR_INFO;

void ldr_log_open(ldr_log_fn *sink, void *user, enum ldr_log_level level)
{
    log_sink = sink;
    log_user = user;
    atomic_store(&log_level, level);
}

void ldr_log_set_level(enum ldr_log_level level)
{
    atomic_store(&log_level, level);
}

int ldr_log_on(enum ldr_log_level level)
{
    return log_sink && (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

void ldr_log_write(enum ldr_log_level level, const char *area, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    if (!log_sink)
        return;
    va_start(ap, fmt);
    if (vsnprintf(text, sizeof text, fmt, ap) < 0)
        text[0] = '\0';
    va_end(ap);
    /* What peers sent must not forge a second line or a terminal sequence. */
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    log_sink(log_user, level, area, text);
}
