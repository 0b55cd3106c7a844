/* record.h - the bytes of the index: object records, block records, intents (docs/design/formats.md).
 *
 * Object record: a fixed head, tagged fields (meta.h), and for a small object its bytes. All integers little-endian.
 *   offset  0 version u16 · 2 head_len u16 (fixed head + fields) · 4 flags u32 · 8 head_hash u64
 *          16 object id, 16 bytes · 32 seq u64 · 40 size u64 · 48 fresh_until_ns u64 · 56 validated_at_ns u64
 *          64 last_modified_s i64 · 72 payload_hash u64 · 80 boot u32 · 84 block_log2 u8 · 85 prefix u8 · 86, 87 zero
 *          88 fields … head_len inline bytes …
 * head_hash = XXH3-64 over the index key, then bytes [0, 8) and [16, head_len): a record under another key is damaged.
 * A reader checks it at every hit. payload_hash (XXH3-64 of the inline bytes) is kept; no reader checks it yet.
 * Any thread. */
#ifndef LDR_RECORD_H
#define LDR_RECORD_H

#include "common/meta.h"

#define LDR_RECORD_VERSION 1
#define LDR_RECORD_FIXED   88
#define LDR_RECORD_MAX     65520 /* 16 overflow pages less their header */
#define LDR_RECORD_DEFAULT 20464 /* 5 of them: the default of inline_limit, head included */

#define LDR_HASH_NONE 0 /* of a block: its bytes went from the connection to the disk, and nobody has read them */

#define LDR_FLAG_INLINE     1u /* the object's bytes follow the head */
#define LDR_FLAG_LM_UNKNOWN 2u /* written through larder: the store was not asked for last-modified yet */

#define LDR_FRESH_ALWAYS UINT64_MAX /* fresh_until_ns of an immutable object: fresh on every boot */

/* Names one version of one object: 8 random bytes of the agent run, 8 of a counter. */
struct ldr_id {
    uint8_t b[16];
};

struct ldr_record {
    uint32_t flags, boot;
    struct ldr_id id;
    uint64_t seq, size_bytes, fresh_until_ns, validated_at_ns, payload_hash;
    int64_t last_modified_s;
    uint8_t block_log2;
    uint8_t prefix; /* slot of its policy's counters in rw/touch */
    /* borrowed from the record's bytes */
    const uint8_t *fields, *payload;
    size_t fields_len, payload_len; /* payload: inline objects only, then payload_len == size_bytes */
};

/* Bytes that `r` takes when packed. */
size_t ldr_record_len(const struct ldr_record *r);
/* Pack into `out` of ldr_record_len() bytes, hash included. The caller checked the limits of meta.h. */
void ldr_record_pack(const struct ldr_record *r, const void *key, size_t key_len, uint8_t *out);
/* Just the head (fixed part and fields) with its hash; returns its length. The payload is the caller's to place behind.
 */
size_t ldr_record_pack_head(const struct ldr_record *r, const void *key, size_t key_len, uint8_t *out);
/* Read a record that is `len` bytes long in all, of which at least the head stands at `p`.
 * False: damaged, a newer version, or bounds that no object has (formats.md). `out` borrows from `p`. Never reads more
 * than head_len bytes of `p`, so the payload may still be elsewhere (payload points behind the head all the same). */
bool ldr_record_unpack(const uint8_t *p, size_t len, const void *key, size_t key_len, struct ldr_record *out);
/* head_len of the record at `p`, of which LDR_RECORD_FIXED bytes are readable; 0: cannot be a record of `len` bytes. */
size_t ldr_record_head_len(const uint8_t *p, size_t len);
/* Is a record with this freshness fresh at `now_ns` (CLOCK_BOOTTIME) on boot number `boot`? */
bool ldr_record_fresh(const struct ldr_record *r, uint32_t boot, int64_t now_ns);
/* How many blocks an object has; 0 for an inline or empty one. */
uint64_t ldr_record_blocks(const struct ldr_record *r);
/* Bytes of block `block`: the last one may be short. */
uint64_t ldr_record_block_len(const struct ldr_record *r, uint32_t block);
/* The block size (its log2) for an object of `size` bytes: `log2` of the configuration, raised until the object has no
 * more than LDR_BLOCKS_MAX blocks. */
uint8_t ldr_block_log2_for(uint64_t size, uint8_t log2);

/* Block record: key 01 'b' id block (u32 big-endian); value length u64, XXH3-64 u64. */
#define LDR_BLOCK_KEY_LEN   22
#define LDR_BLOCK_VALUE_LEN 16
void ldr_block_key(const struct ldr_id *id, uint32_t block, uint8_t out[LDR_BLOCK_KEY_LEN]);
void ldr_block_value(uint64_t length, uint64_t hash, uint8_t out[LDR_BLOCK_VALUE_LEN]);
bool ldr_block_read(const void *value, size_t len, uint64_t *length, uint64_t *hash);

/* Intent: key 01 'i' index key; empty value: a write of that object is under way. */
#define LDR_INTENT_KEY_MAX (2 + 480)
size_t ldr_intent_key(const void *key, size_t key_len, uint8_t out[LDR_INTENT_KEY_MAX]);

#endif
