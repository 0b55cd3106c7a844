/* log.h - log lines to a sink that the program sets; without one nothing is written. Any thread.
 * error: a person must act. warn: we coped, at a cost. info: state changes, never per request. debug: per request.
 * A line is `key=value` words after a short text. Never a credential, a signed URL or an object's bytes, at any level.
 */
#ifndef LDR_LOG_H
#define LDR_LOG_H

#include "common/defs.h"

enum ldr_log_level { LDR_ERROR, LDR_WARN, LDR_INFO, LDR_DEBUG };

/* `area` names the module ("ipc", "index", "s3"); `text` has no newline. Called from any thread, several at a time. */
typedef void ldr_log_fn(void *user, enum ldr_log_level level, const char *area, const char *text);

/* Before threads start; the level may change at any time. */
void ldr_log_open(ldr_log_fn *sink, void *user, enum ldr_log_level level);
void ldr_log_set_level(enum ldr_log_level level);
int ldr_log_on(enum ldr_log_level level);
void ldr_log_write(enum ldr_log_level level, const char *area, const char *fmt, ...) LDR_PRINTF(3, 4);

/* Arguments are not evaluated when the level is off. */
#define ldr_log(level, area, ...)                                                                                      \
    do {                                                                                                               \
        if (ldr_log_on(level))                                                                                         \
            ldr_log_write(level, area, __VA_ARGS__);                                                                   \
    } while (0)

#endif
