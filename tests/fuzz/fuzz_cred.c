/* fuzz_cred.c - any bytes as a shared file of AWS's tools, as a service's JSON, as a time: what comes out lies inside. */
#include "backends/cred/cred_impl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void find_profile(const char *text, size_t n, bool prefix)
{
    struct ldr_cred_want want[] = { { .name = "aws_access_key_id" }, { .name = "region" } };
    bool found = ldr_cred_ini_find(text, n, "default", prefix, want, 2);

    for (size_t i = 0; i < 2; i++) {
        struct ldr_cred_span v = want[i].value;

        if (v.p && (!found || v.p < text || v.p > text + n || v.n > (size_t)(text + n - v.p) || memchr(v.p, '\n', v.n)))
            abort();
    }
}

static void read_json(const char *text, size_t n, bool version)
{
    struct ldr_cred_keys keys = { 0 };
    enum larder_kind k = ldr_cred_json_read(text, n, "fuzz", "Token", version, &keys, NULL);

    if (k == LARDER_OK ? !keys.access_key_id || !*keys.access_key_id || !keys.secret_key || keys.expires_s < 0
                       : keys.access_key_id || keys.secret_key || keys.token)
        abort();
    ldr_cred_keys_release(&keys);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char *text = malloc(n + 1); /* its own size: reads beyond are seen */

    if (!text)
        return 0;
    if (n > 0)
        memcpy(text, p, n);
    text[n] = '\0';
    if (ldr_cred_time_s(text) < 0)
        abort();
    text = realloc(text, n ? n : 1);
    if (!text)
        abort();
    find_profile(text, n, false);
    find_profile(text, n, true);
    read_json(text, n, false);
    read_json(text, n, true);
    free(text);
    return 0;
}
