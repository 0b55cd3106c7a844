/* buf_test.c - the capped buffer. */
#include "common/buf.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

Test(buf, an_empty_buffer_holds_nothing_and_reads_as_an_empty_string)
{
    struct ldr_buf b = LDR_BUF_INIT(10);

    cr_expect(eq(ptr, b.p, NULL));
    cr_expect(eq(str, (char *)ldr_buf_str(&b), ""));
    cr_expect(ldr_buf_add(&b, NULL, 0));
    cr_expect(ldr_buf_reserve(&b, 0));
    cr_expect(eq(ptr, b.p, NULL));
    ldr_buf_release(&b);
}

Test(buf, bytes_are_kept_in_order)
{
    struct ldr_buf b;

    ldr_buf_init(&b, 100000);
    for (int i = 0; i < 10000; i++)
        cr_assert(ldr_buf_add(&b, &(uint8_t){ (uint8_t)i }, 1));
    cr_assert(eq(sz, b.len, 10000));
    for (int i = 0; i < 10000; i++)
        cr_assert(eq(int, b.p[i], i & 0xff));
    ldr_buf_release(&b);
}

Test(buf, the_cap_is_reached_but_never_passed)
{
    struct ldr_buf b = LDR_BUF_INIT(10);

    cr_expect(not(ldr_buf_add(&b, "12345678901", 11)));
    cr_expect(eq(sz, b.len, 0));
    cr_expect(ldr_buf_add(&b, "12345678", 8));
    cr_expect(not(ldr_buf_add(&b, "901", 3)));
    cr_expect(not(ldr_buf_addf(&b, "%d", 901)));
    cr_expect(not(ldr_buf_reserve(&b, 3)));
    cr_expect(not(ldr_buf_reserve(&b, SIZE_MAX)), "sizes do not wrap");
    cr_expect(ldr_buf_addf(&b, "%d", 90));
    cr_expect(not(ldr_buf_add(&b, "1", 1)));
    cr_expect(ldr_buf_add(&b, NULL, 0));
    cr_expect(eq(sz, b.len, 10));
    cr_expect(eq(str, (char *)ldr_buf_str(&b), "1234567890"), "the NUL of a full buffer has its place");
    cr_expect(le(sz, b.room, 11));
    ldr_buf_release(&b);
}

Test(buf, a_cap_of_nothing_takes_nothing)
{
    struct ldr_buf b = LDR_BUF_INIT(0);

    cr_expect(not(ldr_buf_add(&b, "x", 1)));
    cr_expect(not(ldr_buf_addf(&b, "x")));
    cr_expect(ldr_buf_addf(&b, "%s", ""));
    cr_expect(eq(str, (char *)ldr_buf_str(&b), ""));
    ldr_buf_release(&b);
}

Test(buf, a_released_buffer_is_empty_and_keeps_its_cap)
{
    struct ldr_buf b = LDR_BUF_INIT(4);

    cr_assert(ldr_buf_add(&b, "abcd", 4));
    ldr_buf_release(&b);
    cr_expect(eq(sz, b.len, 0));
    cr_expect(eq(sz, b.cap, 4));
    cr_expect(ldr_buf_add(&b, "efgh", 4));
    cr_expect(not(ldr_buf_add(&b, "i", 1)));
    ldr_buf_release(&b);
    ldr_buf_release(&b);
}

Test(buf, reserved_room_is_not_counted)
{
    struct ldr_buf b = LDR_BUF_INIT(1000);

    cr_assert(ldr_buf_reserve(&b, 1000));
    cr_expect(eq(sz, b.len, 0));
    memset(b.p, 'x', 1000);
    b.len = 1000;
    cr_expect(eq(sz, strlen(ldr_buf_str(&b)), 1000));
    ldr_buf_release(&b);
}

Test(buf, a_string_is_terminated_anew_after_each_addition)
{
    struct ldr_buf b = LDR_BUF_INIT(200);

    for (size_t n = 1; n <= 200; n++) {
        cr_assert(ldr_buf_add(&b, "x", 1));
        cr_assert(eq(sz, strlen(ldr_buf_str(&b)), n));
    }
    ldr_buf_release(&b);
}

Test(buf, formatted_text_is_added_behind)
{
    struct ldr_buf b = LDR_BUF_INIT(64);

    cr_assert(ldr_buf_add(&b, "a", 1));
    cr_assert(ldr_buf_addf(&b, "%s-%03d", "b", 7));
    cr_expect(eq(str, (char *)ldr_buf_str(&b), "ab-007"));
    cr_expect(eq(sz, b.len, 6));
    ldr_buf_release(&b);
}
