/* fuzz_record.c - records and their fields. The input's first byte is the length of a key, then come the key and a
 * record. The record is read as it is, and once more with its hash put right: that is what a hostile or newer agent
 * could write, and what lies behind the check that stops nearly every input. */
#include "common/hash.h"
#include "common/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* record.h: XXH3-64 over the key, then bytes [0, 8) and [16, head_len). */
static void put_hash_right(uint8_t *p, size_t head_len, const uint8_t *key, size_t key_len)
{
    uint8_t *all = malloc(key_len + head_len - 8);
    uint64_t hash;

    memcpy(all, key, key_len);
    memcpy(all + key_len, p, 8);
    memcpy(all + key_len + 8, p + 16, head_len - 16);
    hash = ldr_hash64(all, key_len + head_len - 8);
    memcpy(p + 8, &hash, sizeof hash);
    free(all);
}

static void check_record(const struct ldr_record *r, const uint8_t *p, size_t n, const uint8_t *key, size_t key_len)
{
    static const uint8_t zeros[3];
    struct ldr_field f;
    size_t pos = 0, len = ldr_record_len(r);
    uint8_t *again = malloc(len);

    check(len == n && r->size_bytes <= LDR_OBJECT_SIZE_MAX && ldr_record_blocks(r) <= LDR_BLOCKS_MAX);
    check(!(r->flags & LDR_FLAG_INLINE) || r->payload_len == r->size_bytes);
    while (ldr_fields_next(r->fields, r->fields_len, &pos, &f))
        check(f.p + f.len <= r->fields + r->fields_len);
    check(pos == r->fields_len);
    ldr_record_fresh(r, r->boot, (int64_t)r->validated_at_ns);
    if (!memcmp(p + 85, zeros,
                sizeof zeros)) { /* else a later release's: the hash covers bytes that we write as zero */
        ldr_record_pack(r, key, key_len, again);
        check(!memcmp(again, p, n));
    }
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    size_t key_len = n ? p[0] : 0, len, head_len;
    struct ldr_record r;
    uint64_t length, hash;
    const uint8_t *key;
    uint8_t *copy;

    if (n < 1 + key_len)
        return 0;
    key = p + 1;
    len = n - 1 - key_len;
    copy = malloc(len + !len); /* of its exact length: a read behind it is seen */
    memcpy(copy, key + key_len, len);
    ldr_fields_valid(copy, len);
    if (ldr_block_read(copy, len, &length, &hash))
        check(len == LDR_BLOCK_VALUE_LEN);
    if (ldr_record_unpack(copy, len, key, key_len, &r))
        check_record(&r, copy, len, key, key_len);
    head_len = len >= LDR_RECORD_FIXED ? ldr_record_head_len(copy, len) : 0;
    if (head_len) {
        check(head_len <= len);
        put_hash_right(copy, head_len, key, key_len);
        if (ldr_record_unpack(copy, len, key, key_len, &r))
            check_record(&r, copy, len, key, key_len);
    }
    free(copy);
    return 0;
}
