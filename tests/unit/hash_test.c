/* hash_test.c - hex, and XXH3 as the files of earlier runs hold it. */
#include "common/hash.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

Test(hash, hex_is_lower_case_and_terminated)
{
    char out[9] = "xxxxxxxx";

    ldr_hex("\x00\x9a\xff\x10", 4, out);
    cr_expect(eq(str, out, "009aff10"));
    ldr_hex("", 0, out);
    cr_expect(eq(str, out, ""));
}

Test(hash, hex_of_either_case_reads_back)
{
    uint8_t out[4];

    cr_assert(ldr_unhex("009aFf10", 8, out, 4));
    cr_expect(eq(int, memcmp(out, "\x00\x9a\xff\x10", 4), 0));
    cr_expect(ldr_unhex("", 0, out, 0));
}

Test(hash, every_byte_survives_hex_and_back)
{
    uint8_t in[256], out[256];
    char hex[513];

    for (int i = 0; i < 256; i++)
        in[i] = (uint8_t)i;
    ldr_hex(in, sizeof in, hex);
    cr_assert(ldr_unhex(hex, 512, out, sizeof out));
    cr_expect(eq(int, memcmp(in, out, sizeof in), 0));
}

Test(hash, anything_else_is_no_hex)
{
    uint8_t out[2];

    cr_expect(not(ldr_unhex("0", 1, out, 2)));
    cr_expect(not(ldr_unhex("012", 3, out, 2)));
    cr_expect(not(ldr_unhex("01234", 5, out, 2)));
    for (int c = 0; c < 256; c++) {
        char hex[4] = { '0', (char)c, '0', '0' };
        bool digit = c && strchr("0123456789abcdefABCDEF", c);

        cr_expect(eq(int, ldr_unhex(hex, 4, out, 2), digit), "byte %d", c);
    }
}

Test(hash, the_hash_is_the_one_in_existing_files)
{
    cr_expect(eq(u64, ldr_hash64("", 0), 0x2d06800538d394c2)); /* published for XXH3-64 */
    cr_expect(eq(u64, ldr_hash64("s3://bucket/key", 15), 0x6d12d54318572bd0));
    cr_expect(ne(u64, ldr_hash64("a", 1), ldr_hash64("b", 1)));
}
