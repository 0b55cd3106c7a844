/* verify_test.c - do blocks add up to what a store tells of the whole? (verify.c) */
#include "agent/verify.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG2  16
#define BLOCK (UINT64_C(1) << LOG2)
#define SIZE  (5 * BLOCK + 321)
#define N     6

static uint8_t *bytes;
static struct ldr_meta meta;
static struct ldr_block_sums sums[N];
static struct ldr_verify v;

static void make(void)
{
    bytes = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 300);
    ldr_meta_init(&meta);
}

static void end(void)
{
    ldr_meta_release(&meta);
    free(bytes);
}

TestSuite(verify, .init = make, .fini = end);

static void says(const char *name, const char *value)
{
    cr_assert(ldr_meta_add_pair(&meta, LDR_TAG_CHECKSUM, name, value));
}

static void text_of(enum ldr_sum_algo a, uint64_t crc, char *out)
{
    uint8_t raw[LDR_SUM_RAW_MAX];

    ldr_sum_crc_raw(a, crc, raw);
    ldr_sum_base64(a, raw, out);
}

/* The CRC of all bytes, and that of the CRCs of parts. */
static const char *full(enum ldr_sum_algo a)
{
    static char text[LDR_SUM_TEXT_MAX];

    text_of(a, ldr_sum_crc(a, 0, bytes, SIZE), text);
    return text;
}

static const char *composite(enum ldr_sum_algo a, const char *suffix)
{
    static char text[LDR_SUM_TEXT_MAX + 32];
    uint64_t all = 0;

    for (uint64_t at = 0; at < SIZE; at += BLOCK) {
        uint8_t raw[LDR_SUM_RAW_MAX];

        ldr_sum_crc_raw(a, ldr_sum_crc(a, 0, bytes + at, SIZE - at < BLOCK ? SIZE - at : BLOCK), raw);
        all = ldr_sum_crc(a, all, raw, ldr_sum_raw_len(a));
    }
    text_of(a, all, text);
    strcat(text, suffix);
    return text;
}

/* As bytes arrive: in pieces of any length. */
static void arrive(unsigned algos)
{
    for (uint32_t b = 0; b < N; b++) {
        uint64_t at = b * BLOCK, to = at + BLOCK < SIZE ? at + BLOCK : SIZE;

        ldr_block_sums_begin(&sums[b], algos);
        for (uint64_t n = 1; at < to; at += n, n = n * 3 + 1)
            ldr_block_sums_add(&sums[b], bytes + at, to - at < n ? to - at : n);
    }
}

static bool adds_up(void)
{
    return ldr_verify_blocks(&v, SIZE, LOG2, sums, N);
}

static const enum ldr_sum_algo crcs[] = { LDR_SUM_CRC64NVME, LDR_SUM_CRC32C, LDR_SUM_CRC32 };

Test(verify, blocks_add_up_to_the_sum_of_all_bytes)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++) {
        ldr_meta_release(&meta);
        says("type", "FULL_OBJECT");
        says(ldr_sum_name(crcs[i]), full(crcs[i]));
        cr_assert(ldr_verify_choose(&meta, N, &v));
        cr_expect(v.algo == crcs[i] && !v.composite);
        arrive(LDR_CRC_BIT(crcs[i]));
        cr_expect(adds_up());
        sums[3].crc[crcs[i]] ^= 1;
        cr_expect(not(adds_up()));
    }
}

Test(verify, blocks_add_up_to_the_sum_of_the_sums)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++) {
        ldr_meta_release(&meta);
        says(ldr_sum_name(crcs[i]), composite(crcs[i], "-6"));
        says("type", "composite");
        cr_assert(ldr_verify_choose(&meta, N, &v));
        cr_expect(v.algo == crcs[i] && v.composite);
        arrive(LDR_CRC_ALL);
        cr_expect(adds_up());
        sums[0].crc[crcs[i]] ^= 1;
        cr_expect(not(adds_up()));
    }
}

Test(verify, blocks_in_another_order_do_not_add_up)
{
    struct ldr_block_sums first;

    says("crc64nvme", full(LDR_SUM_CRC64NVME));
    cr_assert(ldr_verify_choose(&meta, N, &v));
    arrive(LDR_CRC_ALL);
    first = sums[0];
    sums[0] = sums[1];
    sums[1] = first;
    cr_expect(not(adds_up()));
}

Test(verify, only_the_crcs_that_were_asked_for_are_made)
{
    arrive(LDR_CRC_BIT(LDR_SUM_CRC32));
    cr_expect(sums[0].crc[LDR_SUM_CRC32] && !sums[0].crc[LDR_SUM_CRC32C] && !sums[0].crc[LDR_SUM_CRC64NVME]);
    arrive(LDR_CRC_BIT(LDR_SUM_SHA256));
    cr_expect(eq(uint, sums[0].algos, 0), "no digest is one of them");
}

Test(verify, the_cheapest_is_chosen_and_one_of_all_bytes_before_one_of_parts)
{
    says("crc32", full(LDR_SUM_CRC32));
    says("crc64nvme", full(LDR_SUM_CRC64NVME));
    cr_assert(ldr_verify_choose(&meta, N, &v));
    cr_expect(eq(int, v.algo, LDR_SUM_CRC64NVME));
    says("crc32c", composite(LDR_SUM_CRC32C, "-6"));
    cr_assert(ldr_verify_choose(&meta, N, &v));
    cr_expect(eq(int, v.algo, LDR_SUM_CRC64NVME));
}

static void expect_unusable(const char *name, const char *value, const char *type)
{
    ldr_meta_release(&meta);
    if (type)
        says("type", type);
    says(name, value);
    v.algo = LDR_SUM_MD5;
    cr_expect(not(ldr_verify_choose(&meta, N, &v)), "%s %s", value, type ? type : "");
    cr_expect(eq(int, v.algo, LDR_SUM_NONE));
}

Test(verify, what_makes_no_sense_is_no_checksum)
{
    char longer[LDR_SUM_TEXT_MAX + 8];

    snprintf(longer, sizeof longer, "%s=", full(LDR_SUM_CRC32C));
    cr_expect(not(ldr_verify_choose(&meta, N, &v)), "nothing is told");
    expect_unusable("sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "FULL_OBJECT");
    expect_unusable("crc32c", full(LDR_SUM_CRC32C), "COMPOSITE");
    expect_unusable("crc32c", full(LDR_SUM_CRC32C), "SOMETHING");
    expect_unusable("crc32c", full(LDR_SUM_CRC32C), "");
    expect_unusable("crc32c", composite(LDR_SUM_CRC32C, "-6"), "FULL_OBJECT");
    expect_unusable("crc32c", longer, NULL);
    expect_unusable("crc32c", "", NULL);
    expect_unusable("crc32c", "AAAA", NULL);
    expect_unusable("crc64nvme", full(LDR_SUM_CRC32C), NULL);
    expect_unusable("crc32c-6", full(LDR_SUM_CRC32C), NULL);
}

Test(verify, other_numbers_of_parts_are_none_of_ours)
{
    static const char *const suffixes[] = { "-5", "-7", "-06", "-", "-6 ", "-6-6", "--6", "-0", "-60000000006", "-+6" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(suffixes); i++)
        expect_unusable("crc32c", composite(LDR_SUM_CRC32C, suffixes[i]), NULL);
}
