/* fuzz_cfg.c - any bytes as a configuration file, and (behind the first NUL) as LARDER_PREFIXES: an error or a
 * configuration whose explanation can be read again, never a crash. */
#include "agent/cfg.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const uint8_t *nul = n ? memchr(p, 0, n) : NULL;
    size_t len = nul ? (size_t)(nul - p) : n, rest = nul ? n - len - 1 : 0;
    char *prefixes = malloc(rest + sizeof "LARDER_PREFIXES=");
    char *env[] = { (char *)"HOME=/home/me", prefixes, NULL };
    char *errors = NULL, *text;
    struct ldr_cfg *cfg = NULL, *again = NULL;
    struct larder_err err = { 0 };

    if (!prefixes)
        return 0;
    memcpy(prefixes, "LARDER_PREFIXES=", 16);
    memcpy(prefixes + 16, nul ? nul + 1 : p, rest);
    prefixes[16 + rest] = '\0';
    if (ldr_cfg_parse("fuzz.yaml", (const char *)p, len, env, &cfg, &errors, &err)) {
        if (!errors || !*errors || !err.msg[0])
            abort();
    } else {
        text = ldr_cfg_explain(cfg);
        if (!text || errors || cfg->n_stores == 0 || !ldr_cfg_prefix(cfg, "s3://b/k"))
            abort();
        env[1] = NULL;
        if (ldr_cfg_parse("again.yaml", text, strlen(text), env, &again, NULL, &err))
            abort();
        if (strcmp(cfg->cache_dir, again->cache_dir) || cfg->n_prefixes != again->n_prefixes)
            abort();
        for (size_t i = 0; i < cfg->n_prefixes; i++)
            if (strcmp(cfg->prefixes[i].match, again->prefixes[i].match) ||
                cfg->prefixes[i].ttl_ns != again->prefixes[i].ttl_ns)
                abort();
        free(text);
    }
    free(errors);
    free(prefixes);
    ldr_cfg_free(&again);
    ldr_cfg_free(&cfg);
    return 0;
}
