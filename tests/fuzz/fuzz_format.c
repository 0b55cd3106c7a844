/* fuzz_format.c - the text file `format`. What is read is printed, read and printed again: the same text both times. */
#include "common/layout.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char *exact = malloc(n + !n), once[LDR_FORMAT_MAX], twice[LDR_FORMAT_MAX];
    struct ldr_format f, back;
    struct larder_err err;
    size_t len;

    memcpy(exact, p, n);
    if (ldr_format_parse(exact, n, &f, &err) == LARDER_OK && f.layout == LDR_LAYOUT) {
        len = ldr_format_print(&f, once);
        if (len >= sizeof once || ldr_format_parse(once, len, &back, &err) || ldr_format_print(&back, twice) != len ||
            memcmp(once, twice, len) != 0)
            abort();
    }
    free(exact);
    return 0;
}
