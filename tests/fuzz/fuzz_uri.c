/* fuzz_uri.c - references in both dialects. The input is a list of texts, a NUL between two: the first is a reference,
 * the others are keys. */
#include "common/uri.h"

#include <stdlib.h>
#include <string.h>

#define TEXTS_MAX 6

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void try_literal(const char *text)
{
    char once[LDR_URI_MAX + 1], twice[LDR_URI_MAX + 1];
    uint8_t key[LDR_INDEX_KEY_MAX];
    struct larder_err err;
    struct ldr_uri u;
    size_t len;

    if (ldr_uri_parse(text, &u, &err))
        return;
    check(u.key_len > 0 && u.key + u.key_len == text + strlen(text));
    len = ldr_uri_text(&u, once);
    check(len == strlen(once) && len <= LDR_URI_MAX);
    check(ldr_uri_parse(once, &u, &err) == LARDER_OK);
    check(ldr_uri_text(&u, twice) == len && !strcmp(once, twice));
    len = ldr_index_key(once, len, key);
    check(len <= LDR_INDEX_KEY_MAX && key[0] >= 'a' && key[0] <= 'z');
}

static void try_split(const char *text)
{
    struct ldr_ref r = { 0 };
    struct larder_err err;

    if (ldr_ref_split(text, &r, &err) == LARDER_OK) {
        check(r.key[0] != '/' && (r.key[0] == '\0' || r.key[strlen(r.key) - 1] != '/'));
        for (const char *s = r.scheme; *s; s++)
            check(*s < 'A' || *s > 'Z');
    } else {
        check(!r.scheme && !r.container && !r.key);
    }
    ldr_ref_release(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char *copy = malloc(n + 1), *joined = NULL;
    const char *texts[TEXTS_MAX];
    size_t n_texts = 0;
    struct larder_err err;

    memcpy(copy, p, n);
    copy[n] = '\0';
    for (char *s = copy; n_texts < TEXTS_MAX && s <= copy + n; s += strlen(s) + 1)
        texts[n_texts++] = s;
    try_literal(texts[0]);
    try_split(texts[0]);
    if (ldr_ref_join(texts[0], texts + 1, n_texts - 1, &joined, &err) == LARDER_OK)
        try_split(joined);
    free(joined);
    free(copy);
    return 0;
}
