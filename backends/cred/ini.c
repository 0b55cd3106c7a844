/* ini.c - a section of a shared file of AWS's tools (cred_impl.h). Looks only, copies nothing, any bytes.
 *
 *   [profile NAME]        in the config file; [NAME] in the credentials file; "default" needs no word before it
 *   name = value          blanks around both; the name in any case; what follows " #" or " ;" is a comment
 *       name = value      a line that is indented further belongs to the value before it: none of ours has such */
#include "backends/cred/cred_impl.h"

#include <string.h>
#include <strings.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

static struct ldr_cred_span trim(const char *p, size_t n)
{
    while (n > 0 && is_blank(p[n - 1]))
        n--;
    while (n > 0 && is_blank(*p))
        p++, n--;
    return (struct ldr_cred_span){ p, n };
}

static bool is(struct ldr_cred_span s, const char *text)
{
    return s.n == strlen(text) && !memcmp(s.p, text, s.n);
}

static bool is_any_case(struct ldr_cred_span s, const char *text)
{
    return s.n == strlen(text) && !strncasecmp(s.p, text, s.n);
}

static struct ldr_cred_span cut_comment(const char *p, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if ((p[i] == '#' || p[i] == ';') && is_blank(p[i - 1]))
            return trim(p, i);
    return trim(p, n);
}

/* Does "[ … ]" name the section? *word: "profile" stood before it. */
static bool is_section(struct ldr_cred_span line, const char *name, bool prefix, bool *word)
{
    const char *end = memchr(line.p, ']', line.n);
    struct ldr_cred_span s;
    size_t n = strlen("profile");

    *word = false;
    if (!end)
        return false;
    s = trim(line.p + 1, (size_t)(end - line.p) - 1);
    if (!prefix)
        return is(s, name);
    if (s.n > n && !memcmp(s.p, "profile", n) && is_blank(s.p[n])) {
        *word = true;
        return is(trim(s.p + n, s.n - n), name);
    }
    return !strcmp(name, "default") && is(s, name);
}

static void take(struct ldr_cred_span line, struct ldr_cred_want *want, size_t n_want)
{
    const char *eq = memchr(line.p, '=', line.n);
    struct ldr_cred_span name;

    if (!eq)
        return;
    name = trim(line.p, (size_t)(eq - line.p));
    for (size_t i = 0; i < n_want; i++)
        if (is_any_case(name, want[i].name))
            want[i].value = cut_comment(eq + 1, line.n - (size_t)(eq - line.p) - 1);
}

bool ldr_cred_ini_find(const char *text, size_t n, const char *name, bool prefix, struct ldr_cred_want *want,
                       size_t n_want)
{
    bool inside = false, found = false, found_word = false, word;
    size_t indent = SIZE_MAX; /* of the last setting; SIZE_MAX: there was none in this section */

    for (size_t i = 0; i < n_want; i++)
        want[i].value = (struct ldr_cred_span){ 0 };
    while (n > 0) {
        const char *nl = memchr(text, '\n', n);
        size_t len = nl ? (size_t)(nl - text) : n;
        struct ldr_cred_span line = trim(text, len);

        if (line.n > 0 && *line.p == '[') {
            inside = is_section(line, name, prefix, &word) && (word || !found_word);
            if (inside && word && !found_word) /* [profile default] is the true one: forget what [default] said */
                for (size_t i = 0; i < n_want; i++)
                    want[i].value = (struct ldr_cred_span){ 0 };
            found = found || inside;
            found_word = found_word || (inside && word);
            indent = SIZE_MAX;
        } else if (inside && line.n > 0 && *line.p != '#' && *line.p != ';' && (size_t)(line.p - text) <= indent) {
            indent = (size_t)(line.p - text);
            take(line, want, n_want);
        }
        text += len + (nl != NULL);
        n -= len + (nl != NULL);
    }
    return found;
}
