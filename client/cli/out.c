/* out.c - what `larder` writes: printable text, JSON, errors (cli.h). */
#include "client/cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The length of the UTF-8 character at `s`, and which it is; 0: malformed (overlong, a surrogate, cut off, …). */
static size_t utf8_char(const char *s, uint32_t *out)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    const unsigned char *p = (const unsigned char *)s;
    size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    uint32_t ch = n == 1 ? p[0] : p[0] & (0xFFU >> (n + 1));

    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2) /* the NUL at the end is no continuation either */
            return 0;
        ch = ch << 6 | (p[i] & 0x3F);
    }
    if (n == 0 || ch < least[n] || ch > 0x10FFFF || (ch >= 0xD800 && ch <= 0xDFFF))
        return 0;
    *out = ch;
    return n;
}

/* Controls act on the terminal; line and direction marks let a text look like another one. */
static bool is_printable(uint32_t ch)
{
    return ch >= 0x20 && !(ch >= 0x7F && ch <= 0x9F) && ch != 0x061C && ch != 0xFEFF &&
           !(ch >= 0x200B && ch <= 0x200F) && !(ch >= 0x2028 && ch <= 0x202E) && !(ch >= 0x2066 && ch <= 0x2069);
}

static char *must(char *p)
{
    if (p)
        return p;
    fputs("larder: out of memory\n", stderr);
    exit(CLI_FAILED);
}

char *cli_printable(const char *text)
{
    char *out = must(calloc(strlen(text) + 1, 4));
    char *o = out;

    while (*text) {
        uint32_t ch = 0;
        size_t n = utf8_char(text, &ch);

        if (n && is_printable(ch)) {
            memcpy(o, text, n);
            o += n;
        } else {
            n = n ? n : 1;
            for (size_t i = 0; i < n; i++)
                o += sprintf(o, "\\x%02x", (unsigned char)text[i]);
        }
        text += n;
    }
    return out;
}

void cli_say(const char *fmt, ...)
{
    char *text = NULL, *line;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) == -1)
        text = NULL;
    va_end(ap);
    line = cli_printable(must(text));
    fprintf(stderr, "larder: %s\n", line);
    free(line);
    free(text);
}

enum cli_exit cli_exit_of(enum larder_kind kind)
{
    return kind == LARDER_OK ? CLI_DONE : kind == LARDER_NOT_FOUND ? CLI_NOT_FOUND : CLI_FAILED;
}

enum cli_exit cli_worse(enum cli_exit a, enum cli_exit b)
{
    static const int rank[] = { [CLI_DONE] = 0, [CLI_NOT_FOUND] = 1, [CLI_FAILED] = 2, [CLI_USAGE] = 3 };

    return rank[a] > rank[b] ? a : b;
}

static enum larder_kind fill(struct larder_err *err, enum larder_kind kind, int sys, const char *fmt, va_list ap)
{
    size_t n;

    *err = (struct larder_err){ .kind = kind, .sys = sys };
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    n = strlen(err->msg);
    if (sys)
        snprintf(err->msg + n, sizeof err->msg - n, ": %s", strerror(sys));
    return kind;
}

enum larder_kind cli_fail(struct larder_err *err, enum larder_kind kind, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fill(err, kind, 0, fmt, ap);
    va_end(ap);
    return kind;
}

enum larder_kind cli_fail_sys(struct larder_err *err, enum larder_kind kind, const char *fmt, ...)
{
    int sys = errno;
    va_list ap;

    va_start(ap, fmt);
    fill(err, kind, sys, fmt, ap);
    va_end(ap);
    return kind;
}

enum cli_exit cli_report(struct cli *c, const char *doing, const char *uri, const struct larder_err *err)
{
    const char *msg = err->msg[0] ? err->msg : larder_kind_name(err->kind);
    json_t *details;

    if (c->stdout_errno == EPIPE)
        return CLI_FAILED;
    if (uri && !(!strncmp(msg, "could not ", 10) && strstr(msg, uri))) /* a store's message says it all by itself */
        cli_say("could not %s \"%s\": %s", doing, uri, msg);
    else if (uri)
        cli_say("%s", msg);
    else
        cli_say("could not %s: %s", doing, msg);
    if (c->json) {
        details = json_object();
        cli_json_set(details, "kind", larder_kind_name(err->kind));
        cli_json_set(details, "message", msg);
        json_object_set_new(details, "http", err->http ? json_integer(err->http) : json_null());
        cli_json_set(details, "uri", uri);
        cli_json_print(c, json_pack("{so}", "error", details));
    }
    return cli_exit_of(err->kind);
}

/* `text` as UTF-8, every malformed byte become U+FFFD; *exact: there was none. */
static char *to_utf8(const char *text, bool *exact)
{
    char *out = must(calloc(strlen(text) + 1, 3));
    char *o = out;

    *exact = true;
    while (*text) {
        uint32_t ch = 0;
        size_t n = utf8_char(text, &ch);

        memcpy(o, n ? text : "\xEF\xBF\xBD", n ? n : 3);
        o += n ? n : 3;
        text += n ? n : 1;
        *exact &= n > 0;
    }
    return out;
}

static char *to_hex(const char *text)
{
    char *out = must(calloc(strlen(text) + 1, 2));

    for (char *o = out; *text; text++)
        o += sprintf(o, "%02x", (unsigned char)*text);
    return out;
}

void cli_json_set(json_t *obj, const char *name, const char *text)
{
    bool name_exact, exact = true;
    char *key = to_utf8(name, &name_exact);
    char *value = text ? to_utf8(text, &exact) : NULL;

    json_object_set_new_nocheck(obj, key, value ? json_string_nocheck(value) : json_null());
    if (!exact) {
        char *hex = to_hex(text), *hex_name = NULL;

        if (asprintf(&hex_name, "%s_hex", key) == -1)
            hex_name = NULL;
        json_object_set_new_nocheck(obj, must(hex_name), json_string_nocheck(hex));
        free(hex_name);
        free(hex);
    }
    free(value);
    free(key);
}

void cli_json_set_number(json_t *obj, const char *name, uint64_t number)
{
    bool exact;
    char *key = to_utf8(name, &exact);

    json_object_set_new_nocheck(obj, key, json_integer(number <= INT64_MAX ? (json_int_t)number : INT64_MAX));
    free(key);
}

void cli_json_write(struct cli *c, json_t *obj)
{
    must((char *)obj);
    if (!c->stdout_errno) {
        if (json_dumpf(obj, stdout, JSON_COMPACT) == -1 && !ferror(stdout)) /* all of it is UTF-8: memory */
            must(NULL);
        putchar('\n');
    }
    json_decref(obj);
}

enum cli_exit cli_json_print(struct cli *c, json_t *obj)
{
    cli_json_write(c, obj);
    return cli_flush(c);
}

void cli_put_name(const char *text)
{
    char *shown = isatty(STDOUT_FILENO) ? cli_printable(text) : NULL;

    puts(shown ? shown : text);
    free(shown);
}

enum cli_exit cli_flush(struct cli *c)
{
    if (c->stdout_errno)
        return CLI_FAILED;
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_DONE;
    c->stdout_errno = errno ? errno : EIO;
    if (c->stdout_errno != EPIPE)
        cli_say("could not write standard output: %s", strerror(c->stdout_errno));
    return CLI_FAILED;
}

const char *cli_size_text(uint64_t size, char out[CLI_SIZE_TEXT])
{
    static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double x = (double)size / 1024;
    size_t u = 0;

    if (size < 1024) {
        snprintf(out, CLI_SIZE_TEXT, "%u B", (unsigned)size);
        return out;
    }
    for (; x >= 1023.95 && u + 1 < CLI_LEN(units); u++) /* 1023.95 would be shown as 1024.0 */
        x /= 1024;
    snprintf(out, CLI_SIZE_TEXT, "%.1f %s", x, units[u]);
    return out;
}

double cli_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int cli_left_ms(const struct cli *c, double start_ms)
{
    double left = c->timeout_ms - (cli_now_ms() - start_ms);

    return c->timeout_ms <= 0 ? c->timeout_ms : left < 1 ? 1 : (int)left;
}

const char *cli_time_text(int64_t seconds, char out[CLI_TIME_TEXT])
{
    time_t t = seconds;
    struct tm tm;

    return seconds != INT64_MIN && gmtime_r(&t, &tm) && strftime(out, CLI_TIME_TEXT, "%Y-%m-%dT%H:%M:%SZ", &tm) ? out
                                                                                                                : NULL;
}

bool cli_number(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t n = 0;

    if (!*text)
        return false;
    for (; *text; text++) {
        unsigned digit = (unsigned)*text - '0';

        if (digit > 9 || n > max / 10 || n * 10 > max - digit)
            return false;
        n = n * 10 + digit;
    }
    *out = n;
    return true;
}

bool cli_is_uri(const char *text)
{
    return strstr(text, "://") != NULL;
}

const char *cli_key(const char *uri)
{
    const char *sep = strstr(uri, "://");
    const char *slash = sep ? strchr(sep + 3, '/') : NULL;

    return slash ? slash + 1 : NULL;
}

const char *cli_segment(const char *uri)
{
    const char *key = cli_is_uri(uri) ? cli_key(uri) : uri;
    const char *slash = key ? strrchr(key, '/') : NULL;
    const char *name = slash ? slash + 1 : key;

    return name && *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 ? name : NULL;
}

bool cli_is_folder(const char *uri)
{
    const char *key = cli_key(uri);

    return !key || !*key || key[strlen(key) - 1] == '/';
}
