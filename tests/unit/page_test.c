/* page_test.c - a page of a listing, and how keys in order become one. */
#include "backends/page.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(page, .timeout = 20);

Test(page, entries_own_their_texts)
{
    struct ldr_page p = { 0 };
    char key[] = "a/b", etag[] = "e";

    cr_assert(ldr_page_add(&p, key, false, 7, 12, etag));
    cr_assert(ldr_page_add(&p, "a/", true, 0, LDR_TIME_UNKNOWN, NULL));
    key[0] = etag[0] = 'x';
    cr_assert(eq(sz, p.n, 2));
    cr_expect(eq(str, p.entries[0].key, "a/b"));
    cr_expect(eq(str, p.entries[0].etag, "e"));
    cr_expect(eq(u64, p.entries[0].size_bytes, 7));
    cr_expect(eq(i64, p.entries[0].last_modified_s, 12));
    cr_expect(not(p.entries[0].is_prefix));
    cr_expect(p.entries[1].is_prefix && p.entries[1].etag == NULL);
    cr_expect(eq(sz, p.bytes, 6));
    ldr_page_release(&p);
    cr_expect(p.n == 0 && p.entries == NULL && p.next == NULL && p.bytes == 0);
    ldr_page_release(&p);
}

Test(page, a_page_holds_so_many_entries_and_no_more)
{
    struct ldr_page p = { 0 };
    unsigned n = 0;

    while (n < 2 * LDR_PAGE_ENTRIES_MAX && ldr_page_add(&p, "k", false, 0, 0, NULL))
        n++;
    cr_expect(eq(uint, n, LDR_PAGE_ENTRIES_MAX));
    cr_expect(eq(sz, p.n, LDR_PAGE_ENTRIES_MAX));
    ldr_page_release(&p);
}

Test(page, a_page_stays_below_its_limit_of_bytes)
{
    struct ldr_page p = { 0 };
    char key[4097];

    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    while (p.n < LDR_PAGE_ENTRIES_MAX && ldr_page_add(&p, key, false, 0, 0, "etag"))
        ;
    cr_expect(lt(sz, p.n, LDR_PAGE_ENTRIES_MAX));
    cr_expect(lt(sz, p.bytes, LDR_PAGE_BYTES_MAX));
    cr_expect(ge(sz, p.bytes + 4100, LDR_PAGE_BYTES_MAX), "no room was left");
    cr_expect(ldr_page_add(&p, "s", false, 0, 0, NULL), "a shorter one still fits");
    ldr_page_release(&p);
}

/* ---- paging ---- */

static const char *const keys[] = { "a", "b-", "b-x", "b/", "b/1", "b/2", "b/2/3", "b0", "c/", "c/x", "\xff" };

/* All keys through pages of `most`: "a b/+ | c": a bar between pages. */
static const char *pages(const char *prefix, const char *delimiter, const char *start, unsigned most)
{
    static char text[1024];
    struct ldr_op op = { .uri = "mem://c/", .key = prefix, .delimiter = delimiter, .max_entries = most };
    char *cursor = strdup(start);
    bool more = true;

    for (text[0] = '\0'; more;) {
        struct ldr_paging g;

        op.start = cursor;
        ldr_paging_init(&g, &op);
        for (size_t i = 0; i < LDR_ARRAY_LEN(keys) && !g.full; i++) {
            cr_expect(ldr_paging_wants_below(&g, keys[i]) || !ldr_paging_wants(&g, keys[i]), "%s", keys[i]);
            if (ldr_paging_wants(&g, keys[i]))
                cr_assert(eq(int, ldr_paging_add(&g, keys[i], 1, 2, "e"), LARDER_OK));
        }
        cr_assert(eq(int, ldr_paging_end(&g), LARDER_OK));
        for (size_t i = 0; i < op.page.n; i++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s%s", i ? " " : "", op.page.entries[i].key,
                     op.page.entries[i].is_prefix ? "+" : "");
        free(cursor);
        cursor = op.page.next ? strdup(op.page.next) : NULL;
        more = cursor != NULL;
        if (more)
            strcat(text, "|");
        ldr_page_release(&op.page);
    }
    return text;
}

#define pages_are(want, ...) cr_expect(eq(str, (char *)(uintptr_t)pages(__VA_ARGS__), want))

Test(page, keys_fill_pages_and_the_last_one_says_so)
{
    pages_are("a b- b-x b/ b/1 b/2 b/2/3 b0 c/ c/x \xff", "", NULL, "", 100);
    pages_are("a b- b-x b/ b/1 b/2 b/2/3 b0 c/ c/x \xff", "", "", "", 11);
    pages_are("a b- b-x|b/ b/1 b/2|b/2/3 b0 c/|c/x \xff", "", NULL, "", 3);
    pages_are("b/ b/1 b/2 b/2/3", "b/", NULL, "", 4);
    pages_are("", "x", NULL, "", 4);
}

Test(page, a_group_is_told_once_whatever_the_page_is)
{
    pages_are("a b- b-x b/+ b0 c/+ \xff", "", "/", "", 100);
    pages_are("a|b-|b-x|b/+|b0|c/+|\xff", "", "/", "", 1);
    pages_are("b/ b/1|b/2 b/2/+", "b/", "/", "", 2);
    pages_are("a|b-+|b/|b/1|b/2|b/2/3|b0|c/|c/x|\xff", "", "-", "", 1);
    pages_are("c/+", "c", "/", "", 1);
}

Test(page, a_cursor_need_not_be_there_any_more)
{
    pages_are("b/1 b/2 b/2/3 b0 c/ c/x \xff", "", NULL, "b/0", 100);
    pages_are("b/+ b0 c/+ \xff", "", "/", "b-y", 100);
    pages_are("b0 c/+ \xff", "", "/", "b/", 100);
    pages_are("c/+ \xff", "", "/", "bb/", 100);
    pages_are("", "", NULL, "\xff", 100);
    pages_are("b/ b/1 b/2 b/2/3", "b/", NULL, "a", 100);
    pages_are("", "b/", NULL, "c", 100);
}

Test(page, below_a_name_is_looked_where_a_wanted_key_may_be)
{
    struct ldr_op op = { .uri = "", .key = "a/b", .delimiter = "/", .start = "a/bc/", .max_entries = 10 };
    struct ldr_paging g;

    ldr_paging_init(&g, &op);
    cr_expect(ldr_paging_wants_below(&g, ""));
    cr_expect(ldr_paging_wants_below(&g, "a/"));
    cr_expect(ldr_paging_wants_below(&g, "a/bd/"));
    cr_expect(not(ldr_paging_wants_below(&g, "a/bb/")), "that was told before");
    cr_expect(not(ldr_paging_wants_below(&g, "a/bc/")), "that is the group told last");
    cr_expect(not(ldr_paging_wants_below(&g, "a/bc/d/")));
    cr_expect(not(ldr_paging_wants_below(&g, "a/c/")));
    cr_expect(not(ldr_paging_wants_below(&g, "b/")));
    cr_expect(ldr_paging_in_group(&g, "a/bd/"));
    cr_expect(not(ldr_paging_in_group(&g, "a/")));
    cr_expect(not(ldr_paging_in_group(&g, "a/bd")));
}

/* ---- and of a validator ---- */

Test(page, a_weak_validator_is_told_from_a_strong_one)
{
    static const char *const strong[] = { "\"a\"", "\"\"", "W", "\"W/\"", "w/\"a\"", "x" }, *const weak[] = { "W/\"a\"",
                                                                                                              "W/",
                                                                                                              "" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(strong); i++)
        cr_expect(ldr_validator_strong((const uint8_t *)strong[i], strlen(strong[i])), "%s", strong[i]);
    for (size_t i = 0; i < LDR_ARRAY_LEN(weak); i++)
        cr_expect(not(ldr_validator_strong((const uint8_t *)weak[i], strlen(weak[i]))), "%s", weak[i]);
}
