/* xml_test.c - the bounded reader of stores' answers. */
#include "backends/xml.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(xml, .timeout = 20);

static char code[8], text[32];

static bool read_error(const char *xml, size_t n)
{
    const struct ldr_xml_want want[] = { { "Code", code, sizeof code }, { "Message", text, sizeof text } };

    strcpy(code, "stale");
    return ldr_xml_read(xml, n, "Error", want, 2);
}

#define READ(xml) read_error(xml, strlen(xml))

Test(xml, children_of_the_root_are_read)
{
    cr_assert(
        READ("<?xml version=\"1.0\"?>\n<Error><Code>No</Code><X>y</X><Message>a &lt;b&gt;&#10;c</Message></Error>"));
    cr_expect(eq(str, code, "No"));
    cr_expect(eq(str, text, "a <b> c"));
}

Test(xml, what_is_missing_is_empty_and_what_is_long_is_clipped)
{
    cr_assert(READ("<Error><Code>0123456789</Code></Error>"));
    cr_expect(eq(str, code, "0123456"));
    cr_expect(eq(str, text, ""));
}

Test(xml, grandchildren_and_a_second_of_the_same_name_do_not_count)
{
    cr_assert(READ("<Error><X><Code>in</Code></X><Code>1<b>2</b>3</Code><Code>4</Code></Error>"));
    cr_expect(eq(str, code, "1"));
}

Test(xml, what_is_no_such_text_is_refused_and_leaves_nothing)
{
    static const char *const bad[] = {
        "",
        "plain",
        "<Error><Code>No</Code>",
        "<Error><Code>No</Error>",
        "<Other><Code>No</Code></Other>",
        "<Error><Code>No</Code></Error>x",
        "<!DOCTYPE Error [<!ENTITY a \"b\">]><Error><Code>&a;</Code></Error>",
        "<Error><Code>No</Code><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a></Error>",
        "<Error><Code>\xff\xfe</Code></Error>"
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_expect(not(READ(bad[i])), "%s", bad[i]);
        cr_expect(eq(str, code, ""), "%s", bad[i]);
    }
}

Test(xml, a_text_that_is_cut_at_any_byte_is_refused)
{
    static const char whole[] = "<Error><Code>No</Code><Message>text</Message></Error>";

    for (size_t n = 0; n < sizeof whole - 1; n++) {
        char *cut = malloc(n + 1); /* exactly as long: an overrun is seen */

        memcpy(cut, whole, n);
        cr_expect(not(read_error(cut, n)), "%zu bytes", n);
        free(cut);
    }
}

Test(xml, a_text_over_the_limit_is_refused)
{
    static const char head[] = "<Error><Code>No</Code>", tail[] = "</Error>";
    char *large = malloc(LDR_XML_MAX + 1);

    memset(large, ' ', LDR_XML_MAX + 1);
    memcpy(large, head, strlen(head));
    memcpy(large + LDR_XML_MAX - strlen(tail), tail, strlen(tail));
    cr_expect(read_error(large, LDR_XML_MAX));
    cr_expect(not(read_error(large, LDR_XML_MAX + 1)));
    free(large);
}

/* ---- items ---- */

static char key[16], size[8], next[8];
static char seen[256];

static bool on_item(void *user)
{
    snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "[%s|%s]", key, size);
    return strcmp(key, user) != 0;
}

static bool on_group(void *user)
{
    (void)user;
    snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "(%s)", key);
    return true;
}

static bool read_items(const char *xml, size_t n)
{
    const struct ldr_xml_want item[] = { { "Key", key, sizeof key }, { "Size", size, sizeof size } };
    const struct ldr_xml_want group[] = { { "Prefix", key, sizeof key } };
    const struct ldr_xml_want all[] = { { "Next", next, sizeof next } };
    const struct ldr_xml_item items[] = { { "Item", item, 2, on_item }, { "Group", group, 1, on_group } };
    static char stop[] = "stop";

    seen[0] = '\0';
    return ldr_xml_read_items(xml, n, "List", all, 1, items, 2, stop);
}

#define ITEMS(xml) read_items(xml, strlen(xml))

Test(xml, items_are_told_in_order_with_their_own_texts)
{
    cr_assert(ITEMS("<List><Item><Key>a</Key><Size>1</Size></Item><Next>n</Next><Group><Prefix>p</Prefix></Group>"
                    "<Item><Size>2</Size></Item><Item/><Other><Item><Key>no</Key></Item></Other></List>"));
    cr_expect(eq(str, seen, "[a|1](p)[|2][|]"));
    cr_expect(eq(str, next, "n"));
    cr_assert(ITEMS("<List/>"));
    cr_expect(eq(str, seen, ""));
    cr_expect(eq(str, next, ""));
}

Test(xml, texts_of_items_are_taken_byte_for_byte)
{
    cr_assert(
        ITEMS("<List><Item><Key> a&#10;&#9;&amp;\xc3\xa4 </Key><X><Key>deep</Key></X><Key>second</Key></Item></List>"));
    cr_expect(eq(str, seen, "[ a\n\t&\xc3\xa4 |]"));
}

Test(xml, an_item_that_is_too_long_or_has_elements_in_its_text_refuses_the_whole)
{
    cr_assert(ITEMS("<List><Item><Key>123456789012345</Key></Item></List>"));
    cr_expect(not(ITEMS("<List><Item><Key>1234567890123456</Key></Item></List>")));
    cr_expect(eq(str, seen, ""));
    cr_expect(not(ITEMS("<List><Item><Key>12345678&amp;012345678</Key></Item></List>")));
    cr_expect(not(ITEMS("<List><Item><Key>a<b/>c</Key></Item></List>")));
    cr_expect(not(ITEMS("<List><Next>n</Next><Item><Key>stop</Key></Item><Item><Key>x</Key></Item></List>")));
    cr_expect(eq(str, seen, "[stop|]"), "nothing is told behind a refusal");
    cr_expect(eq(str, next, ""));
}

Test(xml, a_listing_that_is_cut_at_any_byte_is_refused)
{
    static const char whole[] = "<List><Item><Key>k</Key><Size>1</Size></Item><Next>n</Next></List>";

    for (size_t n = 0; n < sizeof whole - 1; n++) {
        char *cut = malloc(n + 1);

        memcpy(cut, whole, n);
        cr_expect(not(read_items(cut, n)), "%zu bytes", n);
        cr_expect(eq(str, next, ""));
        free(cut);
    }
}

Test(xml, a_listing_may_be_larger_than_a_refusal_but_not_without_end)
{
    static const char head[] = "<List><Item><Key>k</Key></Item>", tail[] = "</List>";
    char *large = malloc(LDR_XML_ITEMS_MAX + 1);

    memset(large, ' ', LDR_XML_ITEMS_MAX + 1);
    memcpy(large, head, strlen(head));
    memcpy(large + LDR_XML_ITEMS_MAX - strlen(tail), tail, strlen(tail));
    cr_expect(read_items(large, LDR_XML_ITEMS_MAX));
    cr_expect(eq(str, seen, "[k|]"));
    cr_expect(not(read_items(large, LDR_XML_ITEMS_MAX + 1)));
    free(large);
}
