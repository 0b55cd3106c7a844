/* record_test.c - the bytes of the index. A record that was changed, cut or moved is never read as one. */
#include "common/record.h"
#include "common/hash.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#define KEY     "s3://bucket/dir/key"
#define KEY_LEN (sizeof KEY - 1)

static const uint8_t fields[] = "\x01\x05\x00\"abc\"\x0b\x04\x00us\0r";

static struct ldr_record small(void)
{
    struct ldr_record r = { .flags = LDR_FLAG_INLINE | LDR_FLAG_LM_UNKNOWN,
                            .boot = 0x01020304,
                            .seq = 0x1112131415161718,
                            .size_bytes = 5,
                            .fresh_until_ns = 0x2122232425262728,
                            .validated_at_ns = 0x3132333435363738,
                            .payload_hash = 0x4142434445464748,
                            .last_modified_s = -2,
                            .block_log2 = 23,
                            .fields = fields,
                            .fields_len = sizeof fields - 1,
                            .payload = (const uint8_t *)"hello",
                            .payload_len = 5 };

    for (size_t i = 0; i < 16; i++)
        r.id.b[i] = (uint8_t)(0xa0 + i);
    return r;
}

static struct ldr_record large(uint64_t size, uint8_t block_log2)
{
    struct ldr_record r = small();

    r.flags = 0;
    r.size_bytes = size;
    r.block_log2 = block_log2;
    r.payload_len = 0;
    return r;
}

/* Packed into memory of exactly its length; owned by the caller. */
static uint8_t *pack(const struct ldr_record *r, size_t *len)
{
    uint8_t *p;

    *len = ldr_record_len(r);
    p = malloc(*len);
    ldr_record_pack(r, KEY, KEY_LEN, p);
    return p;
}

static bool reads(const struct ldr_record *r)
{
    struct ldr_record out;
    size_t len;
    uint8_t *p = pack(r, &len);
    bool ok = ldr_record_unpack(p, len, KEY, KEY_LEN, &out);

    free(p);
    return ok;
}

Test(record, a_packed_record_is_these_bytes)
{
    /* version, head_len · flags · head_hash · id · seq · size · fresh_until · validated_at · last_modified ·
     * payload_hash · boot, block_log2, zeros · fields · bytes */
    static const char want[] = "01006700"
                               "03000000"
                               "646125210c62610a"
                               "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
                               "1817161514131211"
                               "0500000000000000"
                               "2827262524232221"
                               "3837363534333231"
                               "feffffffffffffff"
                               "4847464544434241"
                               "0403020117000000"
                               "0105002261626322"
                               "0b040075730072"
                               "68656c6c6f";
    struct ldr_record r = small();
    size_t len;
    uint8_t *p = pack(&r, &len);
    char hex[2 * 108 + 1];

    cr_assert(eq(sz, len, 108));
    ldr_hex(p, len, hex);
    cr_expect(eq(str, hex, (char *)want));
    free(p);
}

Test(record, a_record_reads_back_as_it_was_packed)
{
    struct ldr_record r = small(), out;
    size_t len;
    uint8_t *p = pack(&r, &len);

    cr_assert(ldr_record_unpack(p, len, KEY, KEY_LEN, &out));
    cr_expect(eq(u32, out.flags, r.flags));
    cr_expect(eq(u32, out.boot, r.boot));
    cr_expect(eq(int, memcmp(out.id.b, r.id.b, 16), 0));
    cr_expect(eq(u64, out.seq, r.seq));
    cr_expect(eq(u64, out.size_bytes, 5));
    cr_expect(eq(u64, out.fresh_until_ns, r.fresh_until_ns));
    cr_expect(eq(u64, out.validated_at_ns, r.validated_at_ns));
    cr_expect(eq(u64, out.payload_hash, r.payload_hash));
    cr_expect(eq(i64, out.last_modified_s, -2));
    cr_expect(eq(u8, out.block_log2, 23));
    cr_assert(eq(sz, out.fields_len, sizeof fields - 1));
    cr_expect(eq(int, memcmp(out.fields, fields, out.fields_len), 0));
    cr_assert(eq(sz, out.payload_len, 5));
    cr_expect(eq(int, memcmp(out.payload, "hello", 5), 0));
    free(p);
}

Test(record, the_head_can_be_packed_and_read_without_its_bytes)
{
    struct ldr_record r = small(), out;
    size_t head = LDR_RECORD_FIXED + sizeof fields - 1;
    uint8_t *p = malloc(head);

    cr_assert(eq(sz, ldr_record_pack_head(&r, KEY, KEY_LEN, p), head));
    cr_expect(eq(sz, ldr_record_head_len(p, head + 5), head));
    cr_assert(ldr_record_unpack(p, head + 5, KEY, KEY_LEN, &out), "the payload is elsewhere and is not read");
    cr_expect(eq(ptr, (void *)out.payload, p + head));
    free(p);
}

Test(record, every_flipped_bit_of_the_head_is_found)
{
    struct ldr_record r = small(), out;
    size_t len;
    uint8_t *p = pack(&r, &len);

    for (size_t bit = 0; bit < (len - 5) * 8; bit++) {
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_expect(not(ldr_record_unpack(p, len, KEY, KEY_LEN, &out)), "bit %zu", bit);
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_expect(ldr_record_unpack(p, len, KEY, KEY_LEN, &out));
    free(p);
}

Test(record, a_long_head_is_hashed_as_a_short_one_is)
{
    /* heads and keys around the size where the hash is no longer made in one pass */
    static uint8_t filler[2000] = { 0xff };
    char key[480];

    memset(key, 'k', sizeof key);
    for (size_t n = 440; n <= 470; n++) {
        struct ldr_record r = large(1, 16), out;
        uint8_t *p;

        filler[0] = 0xff; /* one field of a later release */
        filler[1] = (uint8_t)(n - 3);
        filler[2] = (uint8_t)((n - 3) >> 8);
        r.fields = filler;
        r.fields_len = n;
        p = malloc(ldr_record_len(&r));
        ldr_record_pack(&r, key, sizeof key, p);
        cr_expect(ldr_record_unpack(p, ldr_record_len(&r), key, sizeof key, &out), "%zu bytes of fields", n);
        p[LDR_RECORD_FIXED + n - 1] ^= 1;
        cr_expect(not(ldr_record_unpack(p, ldr_record_len(&r), key, sizeof key, &out)), "%zu bytes of fields", n);
        free(p);
    }
}

Test(record, a_record_of_any_other_length_is_refused)
{
    struct ldr_record kinds[] = { small(), large(1, 16) };

    for (size_t k = 0; k < LDR_ARRAY_LEN(kinds); k++) {
        struct ldr_record out;
        size_t len;
        uint8_t *p = pack(&kinds[k], &len), *longer = calloc(1, len + 64);

        for (size_t n = 0; n < len; n++) {
            uint8_t *cut = malloc(n + !n); /* a read behind it is the sanitizer's to find */

            memcpy(cut, p, n);
            cr_expect(not(ldr_record_unpack(cut, n, KEY, KEY_LEN, &out)), "%zu of %zu bytes", n, len);
            free(cut);
        }
        memcpy(longer, p, len);
        for (size_t n = len + 1; n <= len + 64; n++)
            cr_expect(not(ldr_record_unpack(longer, n, KEY, KEY_LEN, &out)), "%zu of %zu bytes", n, len);
        free(longer);
        free(p);
    }
}

Test(record, a_record_under_another_key_is_refused)
{
    struct ldr_record r = small(), out;
    size_t len;
    uint8_t *p = pack(&r, &len);

    cr_expect(not(ldr_record_unpack(p, len, "s3://bucket/dir/kez", KEY_LEN, &out)));
    cr_expect(not(ldr_record_unpack(p, len, KEY, KEY_LEN - 1, &out)));
    cr_expect(not(ldr_record_unpack(p, len, KEY "\0", KEY_LEN + 1, &out)));
    cr_expect(not(ldr_record_unpack(p, len, "", 0, &out)));
    free(p);
}

/* A well-hashed record of another version: what a later release would write. */
Test(record, a_newer_version_is_refused_though_its_hash_is_right)
{
    struct ldr_record r = large(1, 16), out;
    uint8_t p[LDR_RECORD_FIXED], all[KEY_LEN + LDR_RECORD_FIXED - 8];

    r.fields_len = 0;
    ldr_record_pack(&r, KEY, KEY_LEN, p);
    for (int version = 0; version < 4; version++) {
        uint64_t hash;

        p[0] = (uint8_t)(version & 1);
        p[1] = (uint8_t)(version >> 1);
        memcpy(all, KEY, KEY_LEN);
        memcpy(all + KEY_LEN, p, 8);
        memcpy(all + KEY_LEN + 8, p + 16, LDR_RECORD_FIXED - 16);
        hash = ldr_hash64(all, sizeof all);
        memcpy(p + 8, &hash, 8);
        cr_expect(eq(int, ldr_record_unpack(p, sizeof p, KEY, KEY_LEN, &out), version == 1));
    }
}

Test(record, a_head_length_out_of_bounds_is_none)
{
    uint8_t p[LDR_RECORD_FIXED] = { 1, 0 };
    const struct {
        size_t head_len, len, want;
    } cases[] = { { 88, 88, 88 },
                  { 87, 88, 0 },
                  { 0, 88, 0 },
                  { 89, 88, 0 },
                  { 65535, 65535, 0 },
                  { 88 + LDR_META_MAX, 65535, 88 + LDR_META_MAX },
                  { 89 + LDR_META_MAX, 65535, 0 },
                  { 88, 87, 0 } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(cases); i++) {
        p[2] = (uint8_t)cases[i].head_len;
        p[3] = (uint8_t)(cases[i].head_len >> 8);
        cr_expect(eq(sz, ldr_record_head_len(p, cases[i].len), cases[i].want), "case %zu", i);
    }
}

Test(record, bounds_that_no_object_has_are_refused)
{
    cr_expect(reads(&(struct ldr_record){ .block_log2 = 16 }), "an empty object without blocks");
    for (int log2 = 0; log2 < 256; log2++) {
        struct ldr_record r = large(1, (uint8_t)log2);

        cr_expect(eq(int, reads(&r), log2 >= 16 && log2 <= 40), "block_log2 %d", log2);
    }
    struct ldr_record most = large(UINT64_C(4096) << 16, 16), more = large((UINT64_C(4096) << 16) + 1, 16);
    struct ldr_record largest = large(LDR_OBJECT_SIZE_MAX, 40), larger = large(LDR_OBJECT_SIZE_MAX + 1, 40);
    struct ldr_record absurd = large(UINT64_MAX, 40);

    cr_expect(reads(&most));
    cr_expect(not(reads(&more)), "4,097 blocks");
    cr_expect(reads(&largest));
    cr_expect(not(reads(&larger)));
    cr_expect(not(reads(&absurd)));
}

Test(record, an_inline_object_has_as_many_bytes_as_it_says)
{
    struct ldr_record r = small();

    r.size_bytes = 4;
    cr_expect(not(reads(&r)));
    r.size_bytes = 6;
    cr_expect(not(reads(&r)));
    r.size_bytes = UINT64_C(1) << 32 | 5;
    cr_expect(not(reads(&r)));
    r.size_bytes = r.payload_len = 0;
    cr_expect(reads(&r));
}

Test(record, malformed_fields_are_refused_though_their_hash_is_right)
{
    struct ldr_record r = small();

    r.fields = (const uint8_t *)"\x01\x05\x00\"abc";
    r.fields_len = 7;
    cr_expect(not(reads(&r)), "cut in the middle");
    r.fields = (const uint8_t *)"\x01\x03\x00"
                                "a\0c";
    r.fields_len = 6;
    cr_expect(not(reads(&r)), "a NUL in a text");
}

Test(record, blocks_are_counted_to_the_last_byte)
{
    const struct {
        uint64_t size, want;
    } cases[] = { { 0, 0 }, { 1, 1 }, { 65535, 1 }, { 65536, 1 }, { 65537, 2 }, { 131072, 2 }, { 131073, 3 } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(cases); i++) {
        struct ldr_record r = large(cases[i].size, 16);

        cr_expect(eq(u64, ldr_record_blocks(&r), cases[i].want));
    }
    struct ldr_record r = small();
    cr_expect(eq(u64, ldr_record_blocks(&r), 0));
}

Test(record, freshness_ends_with_its_time_or_its_boot)
{
    struct ldr_record r = small();

    r.boot = 3;
    r.fresh_until_ns = 1000;
    cr_expect(ldr_record_fresh(&r, 3, 0));
    cr_expect(ldr_record_fresh(&r, 3, 999));
    cr_expect(not(ldr_record_fresh(&r, 3, 1000)));
    cr_expect(not(ldr_record_fresh(&r, 3, -1)), "a clock that cannot be");
    cr_expect(not(ldr_record_fresh(&r, 4, 0)), "another boot's clock says nothing");
    r.fresh_until_ns = 0;
    cr_expect(not(ldr_record_fresh(&r, 3, 0)));
    r.fresh_until_ns = LDR_FRESH_ALWAYS;
    cr_expect(ldr_record_fresh(&r, 4, INT64_MAX));
}

Test(record, keys_of_blocks_and_intents_are_these_bytes)
{
    struct ldr_record r = small();
    uint8_t block[LDR_BLOCK_KEY_LEN], intent[LDR_INTENT_KEY_MAX];
    char hex[2 * LDR_BLOCK_KEY_LEN + 1];

    ldr_block_key(&r.id, 0x01020304, block);
    ldr_hex(block, sizeof block, hex);
    cr_expect(eq(str, hex, "0162a0a1a2a3a4a5a6a7a8a9aaabacadaeaf01020304"));
    cr_assert(eq(sz, ldr_intent_key("s3://b/k", 8, intent), 10));
    cr_expect(eq(int, memcmp(intent, "\x01is3://b/k", 10), 0));
}

Test(record, a_block_record_reads_back_at_its_one_length)
{
    uint8_t value[LDR_BLOCK_VALUE_LEN + 1] = { 0 };
    uint64_t length = 0, hash = 0;
    char hex[33];

    ldr_block_value(0x0102030405060708, 0x1112131415161718, value);
    ldr_hex(value, 16, hex);
    cr_expect(eq(str, hex, "08070605040302011817161514131211"));
    cr_expect(ldr_block_read(value, 16, &length, &hash));
    cr_expect(eq(u64, length, 0x0102030405060708));
    cr_expect(eq(u64, hash, 0x1112131415161718));
    for (size_t n = 0; n <= 17; n++)
        cr_expect(eq(int, ldr_block_read(value, n, &length, &hash), n == 16));
}
