/* fuzz_xml.c - any bytes as a store's answer: the texts stay inside their space and are NUL-terminated. */
#include "backends/xml.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

struct listing {
    char key[16], size[8], prefix[16];
    size_t items;
};

static bool has_end(const char *text, size_t cap)
{
    return memchr(text, '\0', cap) != NULL;
}

static bool item_ended(void *user)
{
    struct listing *l = user;

    if (!has_end(l->key, sizeof l->key) || !has_end(l->size, sizeof l->size) || !has_end(l->prefix, sizeof l->prefix))
        abort();
    return ++l->items < 100;
}

static void read_listing(const uint8_t *p, size_t n)
{
    struct listing l = { 0 };
    char truncated[8];
    const struct ldr_xml_want want[] = { { "IsTruncated", truncated, sizeof truncated } },
                              object[] = { { "Key", l.key, sizeof l.key }, { "Size", l.size, sizeof l.size } },
                              group[] = { { "Prefix", l.prefix, sizeof l.prefix } };
    const struct ldr_xml_item items[] = { { "Contents", object, 2, item_ended },
                                          { "CommonPrefixes", group, 1, item_ended } };

    ldr_xml_read_items(p, n, "ListBucketResult", want, 1, items, 2, &l);
    if (l.items > 100 || !has_end(truncated, sizeof truncated))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char code[8], text[32];
    const struct ldr_xml_want want[] = { { "Code", code, sizeof code }, { "Message", text, sizeof text } };

    if (!ldr_xml_read(p, n, "Error", want, 2) && (code[0] || text[0]))
        abort();
    if (memchr(code, '\0', sizeof code) == NULL || memchr(text, '\0', sizeof text) == NULL)
        abort();
    read_listing(p, n);
    return 0;
}
