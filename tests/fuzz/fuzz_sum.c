/* fuzz_sum.c - checksums as stores write them. The input's first byte chooses the algorithm, the rest is the text. */
#include "backends/sum.h"
#include "common/hash.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

/* A text that is a checksum is the one way to write it, but for the case of hex. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    enum ldr_sum_algo a = n ? (enum ldr_sum_algo)(p[0] % LDR_SUM_ALGOS) : LDR_SUM_NONE;
    const char *text = n ? (const char *)p + 1 : "";
    size_t len = n ? n - 1 : 0;
    uint8_t raw[LDR_SUM_RAW_MAX];
    char base64[LDR_SUM_TEXT_MAX], hex[2 * LDR_SUM_RAW_MAX + 1];

    ldr_sum_by_name(text, len);
    if (!ldr_sum_parse(a, text, len, raw))
        return 0;
    ldr_sum_base64(a, raw, base64);
    ldr_hex(raw, ldr_sum_raw_len(a), hex);
    if ((len != strlen(base64) || memcmp(text, base64, len)) &&
        (a != LDR_SUM_MD5 || len != strlen(hex) || strncasecmp(text, hex, len)))
        abort();
    return 0;
}
