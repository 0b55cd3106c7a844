/* sum_test.c - checksums against published values, a bit-by-bit reference and other implementations; every text that is
 * none. */
#include "backends/sum.h"
#include "common/hash.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>

#define DIGITS "123456789"

static const struct known {
    const char *name;
    enum ldr_sum_algo a;
    size_t raw_len;
    const char *hex, *base64; /* of DIGITS; CRCs are the check values of the catalogues */
} known[] = {
    { "crc64nvme", LDR_SUM_CRC64NVME, 8, "ae8b14860a799888", "rosUhgp5mIg=" },
    { "crc32c", LDR_SUM_CRC32C, 4, "e3069283", "4waSgw==" },
    { "crc32", LDR_SUM_CRC32, 4, "cbf43926", "y/Q5Jg==" },
    { "sha1", LDR_SUM_SHA1, 20, "f7c3bc1d808e04732adf679965ccc34ca7ae3441", "98O8HYCOBHMq32eZZczDTKeuNEE=" },
    { "sha256", LDR_SUM_SHA256, 32, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
      "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=" },
    { "md5", LDR_SUM_MD5, 16, "25f9e794323b453885f5181f1b624d0b", "JfnnlDI7RTiF9RgfG2JNCw==" },
};

static const struct crc {
    enum ldr_sum_algo a;
    uint64_t normal; /* the polynomial as standards write it */
    unsigned bits;
} crcs[] = {
    { LDR_SUM_CRC64NVME, 0xad93d23594c93659, 64 },
    { LDR_SUM_CRC32C, 0x1edc6f41, 32 },
    { LDR_SUM_CRC32, 0x04c11db7, 32 },
};

static uint64_t reflect(uint64_t v, unsigned bits)
{
    uint64_t r = 0;

    for (unsigned i = 0; i < bits; i++)
        r |= (v >> i & 1) << (bits - 1 - i);
    return r;
}

/* The definition: every byte's bits from the lowest on, into a register that shifts towards its highest bit. */
static uint64_t reference(const struct crc *c, const uint8_t *p, size_t n)
{
    uint64_t ones = c->bits == 64 ? UINT64_MAX : (UINT64_C(1) << c->bits) - 1, reg = ones;

    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            uint64_t carry = (reg >> (c->bits - 1) & 1) ^ (p[i] >> bit & 1);

            reg = (reg << 1 & ones) ^ (carry ? c->normal : 0);
        }
    return reflect(reg, c->bits) ^ ones;
}

/* Always the same bytes; never ends. */
static uint32_t noise(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

static uint8_t *noise_bytes(size_t n)
{
    uint8_t *p = malloc(n);
    uint64_t state = 1;

    cr_assert(ne(ptr, p, NULL));
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)noise(&state);
    return p;
}

static void expect_raw(const uint8_t *raw, const struct known *k)
{
    char hex[2 * LDR_SUM_RAW_MAX + 1];

    ldr_hex(raw, k->raw_len, hex);
    cr_expect(eq(str, hex, (char *)k->hex), "%s", k->name);
}

/* ---- names ---- */

Test(sum, an_algorithm_is_found_by_its_name_in_any_case)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++) {
        cr_expect(eq(str, (char *)ldr_sum_name(known[i].a), (char *)known[i].name));
        cr_expect(eq(int, ldr_sum_by_name(known[i].name, strlen(known[i].name)), known[i].a));
        cr_expect(eq(sz, ldr_sum_raw_len(known[i].a), known[i].raw_len));
    }
    cr_expect(eq(int, ldr_sum_by_name("CRC64NVME", 9), LDR_SUM_CRC64NVME));
    cr_expect(eq(int, ldr_sum_by_name("Sha256-and-more", 6), LDR_SUM_SHA256));
}

Test(sum, another_name_is_no_algorithm)
{
    cr_expect(eq(int, ldr_sum_by_name("", 0), LDR_SUM_NONE));
    cr_expect(eq(int, ldr_sum_by_name("crc6", 4), LDR_SUM_NONE));
    cr_expect(eq(int, ldr_sum_by_name("crc32cc", 7), LDR_SUM_NONE));
    cr_expect(eq(int, ldr_sum_by_name("sha512", 6), LDR_SUM_NONE));
    cr_expect(eq(int, ldr_sum_by_name("md5", 4), LDR_SUM_NONE)); /* with a NUL in it */
    cr_expect(eq(int, ldr_sum_by_name("md\0", 3), LDR_SUM_NONE));
    cr_expect(eq(ptr, (void *)ldr_sum_name(LDR_SUM_NONE), NULL));
    cr_expect(eq(sz, ldr_sum_raw_len(LDR_SUM_NONE), 0));
}

/* ---- computing ---- */

Test(sum, every_algorithm_gives_the_published_sum_however_the_bytes_are_cut)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++)
        for (size_t cut = 0; cut <= strlen(DIGITS); cut++) {
            struct ldr_sum s = { 0 };
            uint8_t raw[LDR_SUM_RAW_MAX];

            cr_assert(eq(int, ldr_sum_begin(&s, known[i].a, NULL), LARDER_OK));
            ldr_sum_add(&s, DIGITS, cut);
            ldr_sum_add(&s, NULL, 0);
            ldr_sum_add(&s, DIGITS + cut, strlen(DIGITS) - cut);
            ldr_sum_end(&s, raw);
            expect_raw(raw, &known[i]);
            cr_expect(eq(int, s.algo, LDR_SUM_NONE));
            cr_expect(eq(ptr, s.digest, NULL));
        }
}

Test(sum, nothing_has_a_sum_too)
{
    static const char *const of_nothing[] = { "AAAAAAAAAAA=",
                                              "AAAAAA==",
                                              "AAAAAA==",
                                              "2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
                                              "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
                                              "1B2M2Y8AsgTpgAmY7PhCfg==" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++) {
        struct ldr_sum s = { 0 };
        uint8_t raw[LDR_SUM_RAW_MAX];
        char text[LDR_SUM_TEXT_MAX];

        cr_assert(eq(int, ldr_sum_begin(&s, known[i].a, NULL), LARDER_OK));
        ldr_sum_end(&s, raw);
        ldr_sum_base64(known[i].a, raw, text);
        cr_expect(eq(str, text, (char *)of_nothing[i]));
    }
}

Test(sum, a_sum_that_begins_again_forgets_what_it_had)
{
    struct ldr_sum s = { 0 };
    uint8_t raw[LDR_SUM_RAW_MAX];

    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++) { /* every one after another, each left in the middle first */
        cr_assert(eq(int, ldr_sum_begin(&s, known[i].a, NULL), LARDER_OK));
        ldr_sum_add(&s, "other bytes", 11);
        cr_assert(eq(int, ldr_sum_begin(&s, known[i].a, NULL), LARDER_OK));
        ldr_sum_add(&s, DIGITS, strlen(DIGITS));
        ldr_sum_end(&s, raw);
        expect_raw(raw, &known[i]);
        cr_assert(eq(int, ldr_sum_begin(&s, known[i].a, NULL), LARDER_OK));
        ldr_sum_add(&s, "left", 4);
    }
    ldr_sum_release(&s);
    ldr_sum_release(&s);
}

Test(sum, no_algorithm_is_no_sum)
{
    struct ldr_sum s = { 0 };
    uint8_t raw[LDR_SUM_RAW_MAX] = { 7 };

    cr_assert(eq(int, ldr_sum_begin(&s, LDR_SUM_NONE, NULL), LARDER_OK));
    ldr_sum_add(&s, "a", 1);
    ldr_sum_end(&s, raw);
    cr_expect(eq(int, raw[0], 7));
}

Test(sum, a_digest_that_libcrypto_does_not_offer_is_unsupported)
{
    struct ldr_sum s = { 0 };
    struct larder_err err = { 0 };

    /* as under FIPS: nothing in the default provider has this property */
    cr_assert(eq(int, EVP_set_default_properties(NULL, "fips=yes"), 1));
    cr_expect(eq(int, ldr_sum_begin(&s, LDR_SUM_MD5, &err), LARDER_UNSUPPORTED));
    cr_expect(eq(str, err.msg, "this machine's libcrypto does not offer md5"));
    cr_expect(eq(int, s.algo, LDR_SUM_NONE));
    cr_expect(eq(ptr, s.digest, NULL));
    cr_expect(eq(ulong, ERR_peek_error(), 0), "left in the queue that TLS reads");
    cr_expect(eq(int, ldr_sum_begin(&s, LDR_SUM_CRC32, &err), LARDER_OK));
}

Test(sum, a_crc_of_any_length_and_alignment_is_the_reference_s)
{
    uint8_t *bytes = noise_bytes(320);

    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++)
        for (size_t at = 0; at < 16; at++)
            for (size_t n = 0; n <= 300; n++) {
                uint8_t *exact = malloc(at + n + 1); /* a sanitizer sees a read past the end */
                uint64_t got;

                cr_assert(ne(ptr, exact, NULL));
                memcpy(exact + at + 1, bytes + at, n);
                got = ldr_sum_crc(crcs[i].a, 0, exact + at + 1, n);
                free(exact);
                cr_assert(eq(u64, got, reference(&crcs[i], bytes + at, n)), "%s of %zu bytes at %zu",
                          ldr_sum_name(crcs[i].a), n, at);
            }
    free(bytes);
}

Test(sum, a_crc_of_a_long_text_is_the_reference_s_in_one_piece_and_in_many)
{
    size_t room = 100000;
    uint8_t *bytes = noise_bytes(room);
    uint64_t state = 2;

    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++)
        for (int round = 0; round < 20; round++) {
            size_t at = noise(&state) % 5000, n = noise(&state) % (room - at), most = 1 + noise(&state) % 2000;
            uint64_t want = reference(&crcs[i], bytes + at, n), got = 0;

            cr_assert(eq(u64, ldr_sum_crc(crcs[i].a, 0, bytes + at, n), want), "%zu bytes at %zu", n, at);
            for (size_t done = 0, part; done < n; done += part) {
                part = noise(&state) % most + 1;
                part = part < n - done ? part : n - done;
                got = ldr_sum_crc(crcs[i].a, got, bytes + at + done, part);
            }
            cr_assert(eq(u64, got, want), "%zu bytes at %zu in pieces up to %zu", n, at, most);
        }
    free(bytes);
}

Test(sum, a_crc_goes_on_from_the_one_so_far_over_no_bytes_at_all)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++) {
        cr_expect(eq(u64, ldr_sum_crc(crcs[i].a, 0x1234abcd, NULL, 0), 0x1234abcd));
        cr_expect(eq(u64, ldr_sum_crc(crcs[i].a, 0, NULL, 0), 0));
    }
}

/* ---- put together ---- */

Test(sum, crcs_of_two_pieces_make_that_of_both)
{
    size_t n = 3000;
    uint8_t *bytes = noise_bytes(n);
    static const size_t cuts[] = { 0, 1, 2, 7, 8, 63, 64, 65, 255, 256, 1023, 1500, 2048, 2999, 3000 };

    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++) {
        enum ldr_sum_algo a = crcs[i].a;
        uint64_t whole = reference(&crcs[i], bytes, n);

        for (size_t j = 0; j < LDR_ARRAY_LEN(cuts); j++) {
            size_t cut = cuts[j];
            uint64_t left = ldr_sum_crc(a, 0, bytes, cut), right = ldr_sum_crc(a, 0, bytes + cut, n - cut);

            cr_expect(eq(u64, ldr_sum_crc_combine(a, left, right, n - cut), whole), "%s cut at %zu", ldr_sum_name(a),
                      cut);
        }
    }
    free(bytes);
}

Test(sum, crcs_of_huge_pieces_combine_as_in_other_implementations)
{
    static const struct {
        enum ldr_sum_algo a;
        uint64_t zeros, behind; /* of 2^40 zero bytes; of DIGITS and then those: by aws-checksums */
    } want[] = {
        { LDR_SUM_CRC64NVME, 0x19cc5eed910cc0a6, 0x7588ab0bfc271173 },
        { LDR_SUM_CRC32C, 0x30fcedc0, 0x558f9e5d },
        { LDR_SUM_CRC32, 0x0d968558, 0x396e822e },
    };

    for (size_t i = 0; i < LDR_ARRAY_LEN(want); i++) {
        enum ldr_sum_algo a = want[i].a;
        uint64_t zeros = ldr_sum_crc(a, 0, "", 1), digits = ldr_sum_crc(a, 0, DIGITS, strlen(DIGITS));

        for (int log2 = 0; log2 < 40; log2++)
            zeros = ldr_sum_crc_combine(a, zeros, zeros, UINT64_C(1) << log2);
        cr_expect(eq(u64, zeros, want[i].zeros), "%s", ldr_sum_name(a));
        cr_expect(eq(u64, ldr_sum_crc_combine(a, digits, zeros, UINT64_C(1) << 40), want[i].behind), "%s",
                  ldr_sum_name(a));
    }
    cr_expect(eq(u64, ldr_sum_crc_combine(LDR_SUM_CRC32, 0xcbf43926, 0x01234567, UINT64_C(987654321987)),
                 crc32_combine64(0xcbf43926, 0x01234567, 987654321987)));
}

Test(sum, pieces_combine_in_any_grouping)
{
    uint64_t state = 3;

    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++)
        for (int round = 0; round < 50; round++) {
            enum ldr_sum_algo a = crcs[i].a;
            uint64_t p = noise(&state), q = noise(&state), r = noise(&state);
            uint64_t len_q = (uint64_t)noise(&state) << 28, len_r = (uint64_t)noise(&state) << 9;
            uint64_t left = ldr_sum_crc_combine(a, ldr_sum_crc_combine(a, p, q, len_q), r, len_r);
            uint64_t right = ldr_sum_crc_combine(a, p, ldr_sum_crc_combine(a, q, r, len_r), len_q + len_r);

            cr_assert(eq(u64, left, right));
        }
}

Test(sum, a_crc32c_of_more_bytes_than_an_int_counts_is_right, .timeout = 60)
{
    size_t n = (UINT64_C(1) << 32) + 5;
    void *zeros = mmap(NULL, n, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t most = ldr_sum_crc(LDR_SUM_CRC32C, 0, "", 1), tail = ldr_sum_crc(LDR_SUM_CRC32C, 0, "\0\0\0\0", 5);

    if (zeros == MAP_FAILED)
        cr_skip("no 4 GiB of address space here");
    for (int log2 = 0; log2 < 32; log2++)
        most = ldr_sum_crc_combine(LDR_SUM_CRC32C, most, most, UINT64_C(1) << log2);
    cr_expect(eq(u64, ldr_sum_crc(LDR_SUM_CRC32C, 0, zeros, n), ldr_sum_crc_combine(LDR_SUM_CRC32C, most, tail, 5)));
    munmap(zeros, n);
}

/* ---- as text ---- */

Test(sum, a_crc_is_written_with_its_most_significant_byte_first)
{
    uint8_t raw[LDR_SUM_RAW_MAX];

    ldr_sum_crc_raw(LDR_SUM_CRC64NVME, 0x0102030405060708, raw);
    cr_expect(eq(int, memcmp(raw, "\1\2\3\4\5\6\7\10", 8), 0));
    ldr_sum_crc_raw(LDR_SUM_CRC32C, 0x01020304, raw);
    cr_expect(eq(int, memcmp(raw, "\1\2\3\4", 4), 0));
}

Test(sum, base64_is_what_stores_write_and_reads_back)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++) {
        uint8_t raw[LDR_SUM_RAW_MAX];
        char text[LDR_SUM_TEXT_MAX];

        cr_assert(ldr_sum_parse(known[i].a, known[i].base64, strlen(known[i].base64), raw), "%s", known[i].name);
        expect_raw(raw, &known[i]);
        ldr_sum_base64(known[i].a, raw, text);
        cr_expect(eq(str, text, (char *)known[i].base64));
    }
}

Test(sum, hex_of_either_case_is_an_md5_and_nothing_else)
{
    uint8_t raw[LDR_SUM_RAW_MAX];

    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++)
        cr_expect(
            eq(int, ldr_sum_parse(known[i].a, known[i].hex, strlen(known[i].hex), raw), known[i].a == LDR_SUM_MD5),
            "%s", known[i].name);
    cr_assert(ldr_sum_parse(LDR_SUM_MD5, "25F9E794323B453885F5181F1B624D0B", 32, raw));
    expect_raw(raw, &known[5]);
    cr_expect(not(ldr_sum_parse(LDR_SUM_MD5, "25f9e794323b453885f5181f1b624d0g", 32, raw)));
    cr_expect(not(ldr_sum_parse(LDR_SUM_MD5, "25f9e794323b453885f5181f1b624d0", 31, raw)));
    cr_expect(not(ldr_sum_parse(LDR_SUM_MD5, "25f9e794323b453885f5181f1b624d0b0", 33, raw)));
}

Test(sum, base64_of_another_length_is_refused)
{
    static const char text[] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++)
        for (size_t n = 0; n < sizeof text; n++) {
            uint8_t raw[LDR_SUM_RAW_MAX];

            if (known[i].a != LDR_SUM_MD5 || n != 32) /* which is hex */
                cr_expect(not(ldr_sum_parse(known[i].a, text, n, raw)), "%s of %zu", known[i].name, n);
        }
}

Test(sum, a_text_with_a_byte_of_no_base64_is_refused)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++) {
        size_t len = strlen(known[i].base64);

        for (size_t at = 0; at < len; at++)
            for (int c = 0; c < 256; c++) {
                uint8_t raw[LDR_SUM_RAW_MAX];
                char text[LDR_SUM_TEXT_MAX];
                bool letter = c && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", c);

                memcpy(text, known[i].base64, len);
                text[at] = (char)c;
                if (!letter && c != known[i].base64[at])
                    cr_expect(not(ldr_sum_parse(known[i].a, text, len, raw)), "%s: byte %d at %zu", known[i].name, c,
                              at);
                else if (letter && at + 3 < len)
                    cr_expect(ldr_sum_parse(known[i].a, text, len, raw), "%s: '%c' at %zu", known[i].name, c, at);
            }
    }
}

/* Every right text has spare bits in its last letter, which must be zero: a sum has one text. */
Test(sum, base64_that_is_not_canonical_is_refused)
{
    static const struct {
        enum ldr_sum_algo a;
        const char *text;
    } bad[] = {
        { LDR_SUM_CRC64NVME, "rosUhgp5mIh=" },
        { LDR_SUM_CRC64NVME, "rosUhgp5mIj=" },
        { LDR_SUM_CRC64NVME, "rosUhgp5mI==" },
        { LDR_SUM_CRC64NVME, "rosUhgp5mIgA" },
        { LDR_SUM_CRC64NVME, "rosUhgp5m=Ig" },
        { LDR_SUM_CRC64NVME, "rosUhgp5====" },
        { LDR_SUM_CRC32C, "4waSgx==" },
        { LDR_SUM_CRC32C, "4waSg4==" },
        { LDR_SUM_CRC32C, "4waSgw=A" },
        { LDR_SUM_CRC32C, "4waSgwA=" },
        { LDR_SUM_CRC32, "=/Q5Jg==" },
        { LDR_SUM_CRC32, "y/Q5J===" },
        { LDR_SUM_CRC32, "y_Q5Jg==" },
        { LDR_SUM_CRC32, " /Q5Jg==" },
        { LDR_SUM_CRC32, "y/Q5Jg=\n" },
        { LDR_SUM_CRC32, "\t   y/Q5" },
        { LDR_SUM_CRC32, "        " },
        { LDR_SUM_CRC32, "--------" },
        { LDR_SUM_CRC32, "========" },
        { LDR_SUM_SHA1, "98O8HYCOBHMq32eZZczDTKeuNEF=" },
        { LDR_SUM_MD5, "JfnnlDI7RTiF9RgfG2JNC/==" },
    };

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        uint8_t raw[LDR_SUM_RAW_MAX] = { 7 };

        cr_expect(not(ldr_sum_parse(bad[i].a, bad[i].text, strlen(bad[i].text), raw)), "\"%s\"", bad[i].text);
        cr_expect(eq(int, raw[0], 7), "a refused text leaves the bytes alone");
    }
}

Test(sum, no_algorithm_has_no_text)
{
    uint8_t raw[LDR_SUM_RAW_MAX];
    char text[LDR_SUM_TEXT_MAX] = "x";

    cr_expect(not(ldr_sum_parse(LDR_SUM_NONE, "", 0, raw)));
    cr_expect(not(ldr_sum_parse(LDR_SUM_NONE, "AAAA", 4, raw)));
    ldr_sum_base64(LDR_SUM_NONE, raw, text);
    cr_expect(eq(str, text, ""));
}
