/* cfg_value.c - the types of settings: a text as a value, and what to say when it is none (cfg_impl.h). Pure, but for
 * the names of groups. Numbers are read by hand: no locale, no sign, no blank, no overflow that wraps. */
#include "agent/cfg_impl.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *name;
    uint64_t scale;
};

static const struct unit size_units[] = {
    { "", 1 },
    { "B", 1 },
    { "KB", 1000 },
    { "MB", 1000000 },
    { "GB", 1000000000 },
    { "TB", 1000000000000 },
    { "KiB", LDR_KIB },
    { "MiB", LDR_MIB },
    { "GiB", LDR_GIB },
    { "TiB", 1024 * LDR_GIB },
};

static const struct unit quantity_units[] = {
    { "", 1 },         { "k", 1000 },     { "M", 1000000 },  { "G", 1000000000 },      { "T", 1000000000000 },
    { "Ki", LDR_KIB }, { "Mi", LDR_MIB }, { "Gi", LDR_GIB }, { "Ti", 1024 * LDR_GIB },
};

/* Longer names first where one begins another. */
static const struct unit time_units[] = {
    { "ns", 1 },
    { "us", 1000 },
    { "\xC2\xB5s", 1000 },
    { "\xCE\xBCs", 1000 },
    { "ms", 1000000 },
    { "s", 1000000000 },
    { "m", 60 * UINT64_C(1000000000) },
    { "h", 3600 * UINT64_C(1000000000) },
};

/* Digits at *p, at least one; moves *p behind them. */
static bool digits(const char **p, uint64_t *out)
{
    const char *s = *p;
    uint64_t n = 0;

    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(n, UINT64_C(10), &n) || __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
            return false;
    if (s == *p)
        return false;
    *p = s;
    *out = n;
    return true;
}

static bool number(const char *s, uint64_t *out)
{
    return digits(&s, out) && !*s;
}

static bool scaled(const char *s, const struct unit *units, size_t n_units, uint64_t *out)
{
    uint64_t n;

    if (!digits(&s, &n))
        return false;
    for (size_t i = 0; i < n_units; i++)
        if (!strcmp(s, units[i].name))
            return !__builtin_mul_overflow(n, units[i].scale, out);
    return false;
}

static bool size(const char *s, uint64_t *out)
{
    return scaled(s, size_units, LDR_ARRAY_LEN(size_units), out);
}

/* 20%, 12.5% */
static bool percent(const char *s, double *out)
{
    double value, scale = 1;
    uint64_t n;

    if (!digits(&s, &n) || n > 100)
        return false;
    value = (double)n;
    if (*s == '.') {
        if (s[1] < '0' || s[1] > '9')
            return false;
        for (s++; *s >= '0' && *s <= '9'; s++)
            value += (*s - '0') * (scale /= 10);
    }
    if (strcmp(s, "%") || value > 100)
        return false;
    *out = value;
    return true;
}

/* 10GiB, 20%, min(10GiB,20%) in either order; `plain` reads what is no percentage. */
static bool amount(const char *s, bool (*plain)(const char *, uint64_t *), struct ldr_amount *out)
{
    struct ldr_amount a = { 0 };
    char text[64], *comma;
    size_t len = strlen(s);

    if (plain(s, &a.bytes) || percent(s, &a.percent)) {
        *out = a;
        return true;
    }
    if (len >= sizeof text || strncmp(s, "min(", 4) || s[len - 1] != ')')
        return false;
    memcpy(text, s + 4, len - 5);
    text[len - 5] = '\0';
    comma = strchr(text, ',');
    if (!comma)
        return false;
    *comma++ = '\0';
    comma += strspn(comma, " ");
    if (!(plain(text, &a.bytes) && percent(comma, &a.percent)) &&
        !(percent(text, &a.percent) && plain(comma, &a.bytes)))
        return false;
    /* 0 of either would read as "not set": the smaller one is nothing anyway */
    *out = a.bytes && a.percent > 0 ? a : (struct ldr_amount){ 0 };
    return true;
}

/* .5 of a unit, in its smallest parts: what Go keeps, cut below that. */
static uint64_t fraction(const char **p, uint64_t scale)
{
    uint64_t out = 0;

    for (; **p >= '0' && **p <= '9'; (*p)++) {
        scale /= 10;
        out += (uint64_t)(**p - '0') * scale;
    }
    return out;
}

static bool duration(const char *s, bool is_signed, int64_t *out)
{
    uint64_t total = 0;
    bool minus = *s == '-';

    if (minus || *s == '+')
        s++;
    if (minus && !is_signed)
        return false;
    if (!strcmp(s, "0")) {
        *out = 0;
        return true;
    }
    if (!*s)
        return false;
    while (*s) {
        uint64_t whole = 0, part;
        const char *point = s;
        size_t i = 0;

        if (*s != '.' && !digits(&s, &whole))
            return false;
        if (*s == '.') {
            bool bare = point == s; /* no digits before the point: then some behind it */

            point = s + 1;
            s += 1 + strspn(s + 1, "0123456789");
            if (bare && s == point)
                return false;
        } else {
            point = "";
        }
        while (i < LDR_ARRAY_LEN(time_units) && strncmp(s, time_units[i].name, strlen(time_units[i].name)))
            i++;
        if (i == LDR_ARRAY_LEN(time_units))
            return false;
        part = fraction(&point, time_units[i].scale);
        s += strlen(time_units[i].name);
        if (__builtin_mul_overflow(whole, time_units[i].scale, &whole) ||
            __builtin_add_overflow(total, whole, &total) || __builtin_add_overflow(total, part, &total) ||
            total > INT64_MAX)
            return false;
    }
    *out = minus ? -(int64_t)total : (int64_t)total;
    return true;
}

static bool boolean(const char *s, uint64_t *out)
{
    *out = !strcasecmp(s, "true");
    return *out || !strcasecmp(s, "false");
}

static bool choice(const char *s, const char *choices, uint64_t *out)
{
    size_t len = strlen(s);

    *out = 0;
    for (const char *c = choices;; (*out)++) {
        size_t n = strcspn(c, "|");

        if (n == len && !memcmp(c, s, n))
            return true;
        if (!c[n])
            return false;
        c += n + 1;
    }
}

static bool group(const char *s, uint64_t *out)
{
    char room[16384]; /* a group's members stand here too; a larger group goes by its number */
    struct group g, *found = NULL;

    if (number(s, out))
        return *out < UINT32_MAX; /* (gid_t)-1 means "leave it" to chown */
    if (!*s || getgrnam_r(s, &g, room, sizeof room, &found) || !found)
        return false;
    *out = g.gr_gid;
    return true;
}

static bool host_port(const char *s)
{
    const char *colon = strrchr(s, ':');
    uint64_t port;

    if (!colon || !number(colon + 1, &port) || port > 65535)
        return false;
    if (*s == '[') /* [::1]:80 */
        return colon - s > 2 && colon[-1] == ']';
    for (const char *p = s; p < colon; p++)
        if (*p == ':' || *p <= ' ')
            return false;
    return true;
}

static bool freshness(const char *s, struct cfg_value *out)
{
    if (!strcmp(s, "immutable")) {
        out->freshness = LDR_IMMUTABLE;
        return true;
    }
    if (!strcmp(s, "always")) {
        out->freshness = LDR_REVALIDATE;
        return true;
    }
    out->freshness = LDR_TTL;
    return !strncmp(s, "ttl ", 4) && duration(s + 4 + strspn(s + 4, " "), false, &out->ns);
}

static bool path(const char *s)
{
    if (*s != '/' || strlen(s) > 4000)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return false;
    return true;
}

static const struct {
    const char *name, *is, *accepts;
} types[CFG_TYPES] = {
    [CFG_TEXT] = { "text", "a text", "any text" },
    [CFG_PATH] = { "path", "an absolute path", "/var/cache/larder" },
    [CFG_SIZE] = { "size", "a size", "10GiB, 500MB, 4096" },
    [CFG_AMOUNT] = { "size or percent", "a size", "10GiB, 500MB, 20%" },
    [CFG_SHARE] = { "count or percent", "a count", "100000, 20%" },
    [CFG_COUNT] = { "count", "a number", NULL },
    [CFG_DURATION] = { "duration", "a duration", "500ms, 60s, 1h30m" },
    [CFG_BOOL] = { "bool", "a bool", "true, false" },
    [CFG_CHOICE] = { "choice", "one of the choices", NULL },
    [CFG_QUANTITY] = { "quantity", "a quantity", "100Mi, 1Gi, 500M, 4096" },
    [CFG_GROUP] = { "group", "a group of this machine", "name or number" },
    [CFG_LISTEN] = { "address", "an address", "127.0.0.1:8088, [::1]:8088, :8088" },
    [CFG_FRESHNESS] = { "freshness", "a freshness", "immutable, ttl 60s, always" },
    [CFG_TEXTS] = { "map of texts", "a map", "NAME: TEXT" },
    [CFG_HEADERS] = { "map of lists", "a map", "NAME: [TEXT, \xE2\x80\xA6]" },
    [CFG_MAPS] = { "map of maps", "a map", "NAME: {\xE2\x80\xA6}" },
    [CFG_MAPLIST] = { "list", "a list", "[{\xE2\x80\xA6}, \xE2\x80\xA6]" },
};

const char *cfg_type_name(enum cfg_type type)
{
    return types[type].name;
}

void cfg_accepts(const struct cfg_setting *s, char *out, size_t cap)
{
    if (s->type == CFG_COUNT)
        snprintf(out, cap, "%" PRIu64 " to %" PRIu64, s->min, s->max);
    else if (s->type == CFG_CHOICE) {
        size_t n = 0;

        for (const char *c = s->choices; *c && n + 3 < cap; c++) {
            out[n++] = *c == '|' ? ',' : *c;
            if (*c == '|')
                out[n++] = ' ';
        }
        out[n] = '\0';
    } else if (s->flags & CFG_POW2) {
        snprintf(out, cap, "a power of two: 64KiB, 128KiB … 1TiB");
    } else {
        snprintf(out, cap, "%s", types[s->type].accepts);
    }
}

static bool parse(const struct cfg_setting *s, const char *text, struct cfg_value *out)
{
    uint64_t n;

    switch (s->type) {
    case CFG_TEXT:
        return true;
    case CFG_PATH:
        return path(text);
    case CFG_SIZE:
        return size(text, &out->n) && out->n >= s->min && out->n <= s->max &&
               (!(s->flags & CFG_POW2) || !(out->n & (out->n - 1)));
    case CFG_AMOUNT:
    case CFG_SHARE:
        return amount(text, s->type == CFG_AMOUNT ? size : number, &out->amount) &&
               (s->min == 0 || out->amount.bytes >= s->min || out->amount.percent > 0);
    case CFG_COUNT:
        return number(text, &out->n) && out->n >= s->min && out->n <= s->max;
    case CFG_DURATION:
        return duration(text, s->flags & CFG_SIGNED, &out->ns);
    case CFG_BOOL:
        return boolean(text, &out->n);
    case CFG_CHOICE:
        return choice(text, s->choices, &out->n);
    case CFG_QUANTITY:
        return scaled(*text == '-' ? text + 1 : text, quantity_units, LDR_ARRAY_LEN(quantity_units), &n);
    case CFG_GROUP:
        return group(text, &out->n);
    case CFG_LISTEN:
        return host_port(text);
    case CFG_FRESHNESS:
        return freshness(text, out);
    default:
        return false;
    }
}

bool cfg_value_parse(const struct cfg_setting *s, const char *text, struct cfg_value *out, char *why, size_t cap)
{
    char accepts[160];

    *out = (struct cfg_value){ 0 };
    if (parse(s, text, out))
        return true;
    cfg_accepts(s, accepts, sizeof accepts);
    snprintf(why, cap, "is not %s (%s)", types[s->type].is, accepts);
    return false;
}

static const char *show(const char *text, const char *refused, char out[CFG_SHOWN])
{
    size_t n = 0;

    while (text[n] && n < 60 && (!refused || !strchr(refused, text[n]))) {
        bool control = (unsigned char)text[n] < ' ' || text[n] == 0x7f;

        out[n] = control ? '?' : text[n];
        if (cfg_is_c1(text + n)) {
            out[n] = '?';
            out[++n] = '?';
        }
        n++;
    }
    if (text[n]) {
        while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) /* never in the middle of a character */
            n--;
        memcpy(out + n, "\xE2\x80\xA6", 3); /* … */
        n += 3;
    }
    out[n] = '\0';
    return out;
}

const char *cfg_show(const char *text, char out[CFG_SHOWN])
{
    return show(text, NULL, out);
}

const char *cfg_show_key(const char *key, char out[CFG_SHOWN])
{
    return show(key, " :=", out);
}

void cfg_duration_print(int64_t ns, char out[32])
{
    static const struct unit units[] = { { "h", 3600 * UINT64_C(1000000000) },
                                         { "m", 60 * UINT64_C(1000000000) },
                                         { "s", 1000000000 },
                                         { "ms", 1000000 },
                                         { "us", 1000 },
                                         { "ns", 1 } };
    size_t i = 0;

    if (ns == 0) {
        strcpy(out, "0s");
        return;
    }
    while (ns % (int64_t)units[i].scale)
        i++;
    snprintf(out, 32, "%" PRId64 "%s", ns / (int64_t)units[i].scale, units[i].name);
}
