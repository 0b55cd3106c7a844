/* record.c - see record.h. Step 1 of a get: the bytes come from a file that others write, so nothing is believed. */
#include "common/record.h"
#include "common/hash.h"

#include <string.h>

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, sizeof v);
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t head_hash(const uint8_t *p, size_t head_len, const void *key, size_t key_len)
{
    XXH3_state_t st;

    /* One pass for the usual case: key and head side by side on the stack cost less than the streaming interface. */
    if (key_len + head_len <= 1024) {
        uint8_t all[1024];

        memcpy(all, key, key_len);
        memcpy(all + key_len, p, 8);
        memcpy(all + key_len + 8, p + 16, head_len - 16);
        return ldr_hash64(all, key_len + head_len - 8);
    }
    XXH3_64bits_reset(&st);
    XXH3_64bits_update(&st, key, key_len);
    XXH3_64bits_update(&st, p, 8);
    XXH3_64bits_update(&st, p + 16, head_len - 16);
    return XXH3_64bits_digest(&st);
}

size_t ldr_record_len(const struct ldr_record *r)
{
    return LDR_RECORD_FIXED + r->fields_len + (r->flags & LDR_FLAG_INLINE ? r->payload_len : 0);
}

size_t ldr_record_pack_head(const struct ldr_record *r, const void *key, size_t key_len, uint8_t *out)
{
    size_t head_len = LDR_RECORD_FIXED + r->fields_len;
    uint16_t version = LDR_RECORD_VERSION, hl = (uint16_t)head_len;

    memset(out, 0, LDR_RECORD_FIXED);
    memcpy(out, &version, 2);
    memcpy(out + 2, &hl, 2);
    memcpy(out + 4, &r->flags, 4);
    memcpy(out + 16, r->id.b, 16);
    put64(out + 32, r->seq);
    put64(out + 40, r->size_bytes);
    put64(out + 48, r->fresh_until_ns);
    put64(out + 56, r->validated_at_ns);
    put64(out + 64, (uint64_t)r->last_modified_s);
    put64(out + 72, r->payload_hash);
    memcpy(out + 80, &r->boot, 4);
    out[84] = r->block_log2;
    out[85] = r->prefix;
    if (r->fields_len)
        memcpy(out + LDR_RECORD_FIXED, r->fields, r->fields_len);
    put64(out + 8, head_hash(out, head_len, key, key_len));
    return head_len;
}

void ldr_record_pack(const struct ldr_record *r, const void *key, size_t key_len, uint8_t *out)
{
    size_t head_len = ldr_record_pack_head(r, key, key_len, out);

    if ((r->flags & LDR_FLAG_INLINE) && r->payload_len)
        memcpy(out + head_len, r->payload, r->payload_len);
}

size_t ldr_record_head_len(const uint8_t *p, size_t len)
{
    size_t head_len = (size_t)p[2] | (size_t)p[3] << 8;

    if (len < LDR_RECORD_FIXED || head_len < LDR_RECORD_FIXED || head_len > len ||
        head_len > LDR_RECORD_FIXED + LDR_META_MAX)
        return 0;
    return head_len;
}

bool ldr_record_unpack(const uint8_t *p, size_t len, const void *key, size_t key_len, struct ldr_record *out)
{
    size_t head_len;

    if (len < LDR_RECORD_FIXED || p[0] != LDR_RECORD_VERSION || p[1] != 0)
        return false;
    head_len = ldr_record_head_len(p, len);
    if (head_len == 0 || get64(p + 8) != head_hash(p, head_len, key, key_len))
        return false;
    *out = (struct ldr_record){ .flags = get32(p + 4),
                                .boot = get32(p + 80),
                                .seq = get64(p + 32),
                                .size_bytes = get64(p + 40),
                                .fresh_until_ns = get64(p + 48),
                                .validated_at_ns = get64(p + 56),
                                .last_modified_s = (int64_t)get64(p + 64),
                                .payload_hash = get64(p + 72),
                                .block_log2 = p[84],
                                .prefix = p[85],
                                .fields = p + LDR_RECORD_FIXED,
                                .fields_len = head_len - LDR_RECORD_FIXED,
                                .payload = p + head_len };
    memcpy(out->id.b, p + 16, 16);
    if (out->size_bytes > LDR_OBJECT_SIZE_MAX || !ldr_fields_valid(out->fields, out->fields_len))
        return false;
    if (out->flags & LDR_FLAG_INLINE) {
        out->payload_len = len - head_len;
        return out->payload_len == out->size_bytes;
    }
    if (len != head_len || out->block_log2 < LDR_BLOCK_LOG2_MIN || out->block_log2 > LDR_BLOCK_LOG2_MAX)
        return false;
    return ldr_record_blocks(out) <= LDR_BLOCKS_MAX;
}

bool ldr_record_fresh(const struct ldr_record *r, uint32_t boot, int64_t now_ns)
{
    if (r->fresh_until_ns == LDR_FRESH_ALWAYS)
        return true;
    return r->boot == boot && now_ns >= 0 && (uint64_t)now_ns < r->fresh_until_ns;
}

uint64_t ldr_record_blocks(const struct ldr_record *r)
{
    if (r->flags & LDR_FLAG_INLINE || r->size_bytes == 0)
        return 0;
    return ((r->size_bytes - 1) >> r->block_log2) + 1;
}

uint64_t ldr_record_block_len(const struct ldr_record *r, uint32_t block)
{
    uint64_t left = r->size_bytes - ((uint64_t)block << r->block_log2), full = UINT64_C(1) << r->block_log2;

    return left < full ? left : full;
}

uint8_t ldr_block_log2_for(uint64_t size, uint8_t log2)
{
    while (size > (uint64_t)LDR_BLOCKS_MAX << log2)
        log2++;
    return log2;
}

void ldr_block_key(const struct ldr_id *id, uint32_t block, uint8_t out[LDR_BLOCK_KEY_LEN])
{
    out[0] = 1;
    out[1] = 'b';
    memcpy(out + 2, id->b, 16);
    for (int i = 0; i < 4; i++)
        out[18 + i] = (uint8_t)(block >> (24 - 8 * i));
}

void ldr_block_value(uint64_t length, uint64_t hash, uint8_t out[LDR_BLOCK_VALUE_LEN])
{
    put64(out, length);
    put64(out + 8, hash);
}

bool ldr_block_read(const void *value, size_t len, uint64_t *length, uint64_t *hash)
{
    if (len != LDR_BLOCK_VALUE_LEN)
        return false;
    *length = get64(value);
    *hash = get64((const uint8_t *)value + 8);
    return true;
}

size_t ldr_intent_key(const void *key, size_t key_len, uint8_t out[LDR_INTENT_KEY_MAX])
{
    out[0] = 1;
    out[1] = 'i';
    memcpy(out + 2, key, key_len);
    return key_len + 2;
}
