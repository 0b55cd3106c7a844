/* meta_test.c - metadata as tagged fields: exact bytes, caps, and bytes that make no sense. */
#include "common/meta.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static bool valid(const char *bytes, size_t n)
{
    uint8_t *exact = malloc(n + !n); /* a read past the end is the sanitizer's to find */
    bool ok;

    memcpy(exact, bytes, n);
    ok = ldr_fields_valid(exact, n);
    free(exact);
    return ok;
}

#define VALID(literal) valid(literal, sizeof(literal) - 1)

Test(meta, a_new_meta_is_empty_and_knows_no_time)
{
    struct ldr_meta m;

    ldr_meta_init(&m);
    cr_expect(eq(u64, m.size_bytes, 0));
    cr_expect(eq(i64, m.last_modified_s, LDR_TIME_UNKNOWN));
    cr_expect(eq(sz, m.fields.len, 0));
    cr_expect(ldr_fields_valid(m.fields.p, m.fields.len));
    ldr_meta_release(&m);
    ldr_meta_release(&m);
}

Test(meta, fields_are_tag_length_and_bytes)
{
    static const uint8_t want[] = "\x01\x05\x00\"abc\"\x04\x00\x00\x0b\x07\x00who\0me!";
    struct ldr_meta m;

    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_VALIDATOR, "\"abc\""));
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_CONTENT_TYPE, ""));
    cr_assert(ldr_meta_add_pair(&m, LDR_TAG_USER, "who", "me!"));
    cr_assert(eq(sz, m.fields.len, sizeof want - 1));
    cr_expect(eq(int, memcmp(m.fields.p, want, sizeof want - 1), 0));
    cr_expect(ldr_fields_valid(m.fields.p, m.fields.len));
    ldr_meta_release(&m);
}

Test(meta, the_steps_through_fields_end_where_the_bytes_do)
{
    static const uint8_t bytes[] = "\x01\x01\x00x\xc8\x02\x00\0\0\x02\x00\x00";
    struct ldr_field f;
    size_t pos = 0;

    cr_assert(ldr_fields_next(bytes, sizeof bytes - 1, &pos, &f));
    cr_expect(f.tag == 1 && f.len == 1 && *f.p == 'x');
    cr_assert(ldr_fields_next(bytes, sizeof bytes - 1, &pos, &f));
    cr_expect(f.tag == 0xc8 && f.len == 2, "an unknown tag is stepped over");
    cr_assert(ldr_fields_next(bytes, sizeof bytes - 1, &pos, &f));
    cr_expect(f.tag == 2 && f.len == 0);
    cr_expect(not(ldr_fields_next(bytes, sizeof bytes - 1, &pos, &f)));
    cr_expect(eq(sz, pos, sizeof bytes - 1));
    cr_expect(not(ldr_fields_next(bytes, sizeof bytes - 1, &pos, &f)), "and stays at the end");
    pos = SIZE_MAX;
    cr_expect(not(ldr_fields_next(bytes, sizeof bytes - 1, &pos, &f)));
}

Test(meta, fields_cut_anywhere_but_between_two_are_not_valid)
{
    static const char bytes[] = "\x01\x02\x00xy\x0b\x03\x00k\0v";

    for (size_t n = 0; n < sizeof bytes; n++)
        cr_expect(eq(int, valid(bytes, n), n == 0 || n == 5 || n == 11), "%zu bytes", n);
}

Test(meta, texts_hold_no_nul_and_pairs_hold_one_behind_a_name)
{
    cr_expect(VALID("\x04\x03\x00"
                    "abc"));
    cr_expect(not(VALID("\x04\x03\x00"
                        "a\0c")));
    cr_expect(not(VALID("\x0c\x01\x00\0")), "the key is a text");
    cr_expect(VALID("\x0d\x01\x00\0"), "what a later release stores is not judged");
    cr_expect(VALID("\x0b\x02\x00"
                    "a\0"));
    cr_expect(not(VALID("\x0b\x00\x00")));
    cr_expect(not(VALID("\x0b\x01\x00"
                        "a")));
    cr_expect(not(VALID("\x0b\x02\x00\0v")));
    cr_expect(not(VALID("\x0a\x04\x00"
                        "a\0b\0")));
}

Test(meta, what_would_not_be_valid_is_not_added)
{
    struct ldr_meta m;

    ldr_meta_init(&m);
    cr_expect(not(ldr_meta_add(&m, LDR_TAG_ETAG, "a\0b", 3)));
    cr_expect(not(ldr_meta_add(&m, LDR_TAG_USER, "name", 4)));
    cr_expect(not(ldr_meta_add(&m, LDR_TAG_USER, "a\0b\0", 4)));
    cr_expect(not(ldr_meta_add_pair(&m, LDR_TAG_USER, "", "value")));
    cr_expect(eq(sz, m.fields.len, 0));
    cr_expect(ldr_meta_add(&m, LDR_TAG_USER, "a\0", 2));
    cr_expect(ldr_fields_valid(m.fields.p, m.fields.len));
    ldr_meta_release(&m);
}

Test(meta, fields_never_grow_over_their_cap)
{
    static char text[LDR_META_MAX + 1]; /* zeroed: the NUL behind is there */
    struct ldr_meta m;

    memset(text, 'x', LDR_META_MAX);
    ldr_meta_init(&m);
    cr_expect(not(ldr_meta_add_text(&m, LDR_TAG_ETAG, text)));
    text[LDR_META_MAX - 3 - 6] = '\0';
    cr_expect(ldr_meta_add_text(&m, LDR_TAG_ETAG, text));
    cr_expect(not(ldr_meta_add_text(&m, LDR_TAG_VERSION, "four")), "3 + 4 bytes into 6");
    cr_expect(not(ldr_meta_add_pair(&m, LDR_TAG_USER, "ab", "c")));
    cr_expect(ldr_meta_add_pair(&m, LDR_TAG_USER, "a", "c"));
    cr_expect(eq(sz, m.fields.len, LDR_META_MAX));
    cr_expect(ldr_fields_valid(m.fields.p, m.fields.len));
    ldr_meta_release(&m);
}

Test(meta, a_text_over_65535_bytes_is_refused)
{
    static char text[65537];
    struct ldr_meta m;

    memset(text, 'x', 65536);
    ldr_meta_init(&m);
    m.fields.cap = 1 << 20;
    cr_expect(not(ldr_meta_add_text(&m, LDR_TAG_ETAG, text)));
    cr_expect(not(ldr_meta_add_pair(&m, LDR_TAG_USER, text, "")));
    cr_expect(not(ldr_meta_add_pair(&m, LDR_TAG_USER, "a", text + 2)), "name, NUL and value are 65,536");
    cr_expect(ldr_meta_add_text(&m, LDR_TAG_ETAG, text + 1));
    cr_expect(not(ldr_fields_valid(m.fields.p, m.fields.len)), "over LDR_META_MAX in all");
    ldr_meta_release(&m);
}

Test(meta, the_first_field_of_a_tag_is_found)
{
    struct ldr_meta m;
    struct ldr_field f;
    char text[4];

    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_ETAG, "one"));
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_ETAG, "two"));
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_VERSION, "four"));
    cr_assert(ldr_fields_find(m.fields.p, m.fields.len, LDR_TAG_ETAG, &f));
    cr_expect(eq(int, memcmp(f.p, "one", 3), 0));
    cr_expect(not(ldr_fields_find(m.fields.p, m.fields.len, LDR_TAG_KEY, &f)));
    cr_assert(ldr_meta_text(&m, LDR_TAG_ETAG, text, sizeof text));
    cr_expect(eq(str, text, "one"));
    cr_expect(not(ldr_meta_text(&m, LDR_TAG_VERSION, text, sizeof text)), "no room for its NUL");
    cr_expect(eq(str, text, ""));
    cr_expect(not(ldr_meta_text(&m, LDR_TAG_KEY, text, sizeof text)));
    cr_expect(not(ldr_meta_text(&m, LDR_TAG_ETAG, NULL, 0)));
    ldr_meta_release(&m);
}

Test(meta, a_copy_is_its_own)
{
    struct ldr_meta a, b;
    char text[8];

    ldr_meta_init(&a);
    ldr_meta_init(&b);
    a.size_bytes = 7;
    a.last_modified_s = -1;
    cr_assert(ldr_meta_add_text(&a, LDR_TAG_ETAG, "new"));
    cr_assert(ldr_meta_add_text(&b, LDR_TAG_ETAG, "old"));
    cr_assert(ldr_meta_copy(&b, &a));
    ldr_meta_release(&a);
    cr_expect(eq(u64, b.size_bytes, 7));
    cr_expect(eq(i64, b.last_modified_s, -1));
    cr_expect(ldr_meta_text(&b, LDR_TAG_ETAG, text, sizeof text));
    cr_expect(eq(str, text, "new"));
    ldr_meta_release(&b);
}
