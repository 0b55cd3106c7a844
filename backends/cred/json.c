/* json.c - credentials as metadata services and programs write them (cred_impl.h). */
#include "backends/cred/cred_impl.h"

#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DEPTH_MAX 8

int64_t ldr_cred_time_s(const char *text)
{
    struct tm tm = { 0 };
    int n = 0, zone_h = 0, zone_m = 0;
    int64_t t;
    char sign;

    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min,
               &tm.tm_sec, &n) != 6 ||
        tm.tm_year < 1970 || tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour < 0 ||
        tm.tm_hour > 23 || tm.tm_min < 0 || tm.tm_min > 59 || tm.tm_sec < 0 || tm.tm_sec > 60)
        return 0;
    text += n;
    if (*text == '.')
        text += 1 + strspn(text + 1, "0123456789");
    if (*text == '+' || *text == '-') {
        if (sscanf(text, "%c%2d:%2d%n", &sign, &zone_h, &zone_m, &n) != 3 || text[n])
            return 0;
        if (sign == '-')
            zone_h = -zone_h, zone_m = -zone_m;
    } else if (strcmp(text, "Z") != 0 && *text) {
        return 0;
    }
    tm.tm_year -= 1900;
    tm.tm_mon--;
    t = timegm(&tm) - (zone_h * 3600 + zone_m * 60);
    return t > 0 ? t : 0;
}

/* A parser of nested texts needs stack: look before it does. */
static bool is_flat(const char *p, size_t n)
{
    bool in_text = false;
    int depth = 0;

    for (size_t i = 0; i < n; i++) {
        if (in_text && p[i] == '\\')
            i++;
        else if (p[i] == '"')
            in_text = !in_text;
        else if (!in_text && (p[i] == '{' || p[i] == '['))
            depth++;
        else if (!in_text && (p[i] == '}' || p[i] == ']'))
            depth--;
        if (depth > DEPTH_MAX)
            return false;
    }
    return true;
}

/* jansson does not wipe; what it keeps of the secrets are the values themselves. */
static void free_json(json_t *doc)
{
    const char *name;
    json_t *v;

    json_object_foreach(doc, name, v) if (json_is_string(v))
        OPENSSL_cleanse((char *)(uintptr_t)json_string_value(v), json_string_length(v));
    json_decref(doc);
}

/* A word of somebody else's that goes into a message. */
static void plain_word(char out[64], const char *text)
{
    size_t n = 0;

    for (; text && *text && n < 63; text++)
        if ((*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') || (*text >= '0' && *text <= '9') ||
            strchr("._-", *text))
            out[n++] = *text;
    out[n] = '\0';
}

enum larder_kind ldr_cred_json_read(const void *p, size_t n, const char *who, const char *token, bool version,
                                    struct ldr_cred_keys *out, struct larder_err *err)
{
    const char *text = p, *code, *expiration;
    enum larder_kind k = LARDER_OK;
    int64_t expires = 0;
    json_t *doc = NULL;
    char word[64];

    if (n > 0 && n <= LDR_CRED_ANSWER_MAX && is_flat(text, n))
        doc = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL); /* its own words quote the text: never shown */
    if (!doc || !json_is_object(doc)) {
        json_decref(doc);
        return ldr_fail(err, LARDER_UNAVAILABLE, "%s answered with something that is no credentials", who);
    }
    code = json_string_value(json_object_get(doc, "Code"));
    expiration = json_string_value(json_object_get(doc, "Expiration"));
    if (code && strcmp(code, "Success") != 0) {
        plain_word(word, code);
        k = ldr_fail(err, LARDER_DENIED, "%s refused: %s", who, word);
    } else if (version && json_integer_value(json_object_get(doc, "Version")) != 1) {
        k = ldr_fail(err, LARDER_INVALID, "%s answered with another Version than 1", who);
    } else if (expiration && *expiration && !(expires = ldr_cred_time_s(expiration))) {
        k = ldr_fail(err, LARDER_UNAVAILABLE, "%s answered with an Expiration that is no time", who);
    }
    if (!k)
        k = ldr_cred_keys_set(out, who, json_string_value(json_object_get(doc, "AccessKeyId")),
                              json_string_value(json_object_get(doc, "SecretAccessKey")),
                              json_string_value(json_object_get(doc, token)), expires, err);
    free_json(doc);
    return k;
}
