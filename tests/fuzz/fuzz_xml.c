/* fuzz_xml.c - any bytes as a store's answer: the texts stay inside their space and are NUL-terminated. */
#include "backends/xml.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char code[8], text[32];
    const struct ldr_xml_want want[] = { { "Code", code, sizeof code }, { "Message", text, sizeof text } };

    if (!ldr_xml_read(p, n, "Error", want, 2) && (code[0] || text[0]))
        abort();
    if (memchr(code, '\0', sizeof code) == NULL || memchr(text, '\0', sizeof text) == NULL)
        abort();
    return 0;
}
