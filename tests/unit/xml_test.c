/* xml_test.c - the bounded reader of stores' answers. */
#include "backends/xml.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
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
