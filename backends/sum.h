/* sum.h - checksums of objects as stores tell and take them: computed piece by piece, written as stores write them, and
 * for CRCs put together from those of neighbouring pieces, so that blocks fetched in any order give the sum of the whole.
 * Pure functions, any thread. CRC32C and CRC32 by isa-l, digests by OpenSSL; CRC64NVME here (no packaged library
 * has it: docs/dependencies.md). */
#ifndef LDR_SUM_H
#define LDR_SUM_H

#include "common/fail.h"

#include <stddef.h>
#include <stdint.h>

enum ldr_sum_algo {
    LDR_SUM_NONE,
    LDR_SUM_CRC64NVME, /* reflected, polynomial 0xad93d23594c93659 (NVMe base specification) */
    LDR_SUM_CRC32C,
    LDR_SUM_CRC32,
    LDR_SUM_SHA1,
    LDR_SUM_SHA256,
    LDR_SUM_MD5,
    LDR_SUM_ALGOS
};
#define LDR_SUM_RAW_MAX  32 /* bytes */
#define LDR_SUM_TEXT_MAX 65 /* of the base64 or hex form, with NUL */

/* "crc64nvme", "crc32c", "crc32", "sha1", "sha256", "md5": as in S3's header names; NULL for NONE. */
const char *ldr_sum_name(enum ldr_sum_algo a);
enum ldr_sum_algo ldr_sum_by_name(const char *name, size_t len); /* any case; NONE: no such algorithm */
size_t ldr_sum_raw_len(enum ldr_sum_algo a);
static inline bool ldr_sum_is_crc(enum ldr_sum_algo a)
{
    return a == LDR_SUM_CRC64NVME || a == LDR_SUM_CRC32C || a == LDR_SUM_CRC32;
}

/* All zero: nothing, release is a no-op. */
struct ldr_sum {
    enum ldr_sum_algo algo;
    uint64_t crc;
    void *digest; /* of OpenSSL */
};
/* (Re)start. NO_MEMORY. UNSUPPORTED: this libcrypto does not offer the digest (FIPS without MD5). */
enum larder_kind ldr_sum_begin(struct ldr_sum *s, enum ldr_sum_algo a, struct larder_err *err);
void ldr_sum_add(struct ldr_sum *s, const void *p, size_t n);
/* ldr_sum_raw_len() bytes, most significant first for CRCs (as S3 writes them). Ends the sum; it is empty then. */
void ldr_sum_end(struct ldr_sum *s, uint8_t raw[LDR_SUM_RAW_MAX]);
void ldr_sum_release(struct ldr_sum *s);

/* Of CRCs: the sum of A followed by B, from both sums and the length of B. */
uint64_t ldr_sum_crc_combine(enum ldr_sum_algo a, uint64_t crc_a, uint64_t crc_b, uint64_t len_b);
/* A CRC of bytes in one go, and to and from raw bytes. */
uint64_t ldr_sum_crc(enum ldr_sum_algo a, uint64_t crc /* so far; 0: none */, const void *p, size_t n);
void ldr_sum_crc_raw(enum ldr_sum_algo a, uint64_t crc, uint8_t raw[LDR_SUM_RAW_MAX]);

/* Raw bytes as base64; `out` holds LDR_SUM_TEXT_MAX. */
void ldr_sum_base64(enum ldr_sum_algo a, const uint8_t raw[LDR_SUM_RAW_MAX], char *out);
/* From base64 of exactly the right length (CRC32 and others), or for MD5 from 32 hex digits too. False: it is none. */
bool ldr_sum_parse(enum ldr_sum_algo a, const char *text, size_t len, uint8_t raw[LDR_SUM_RAW_MAX]);

#endif
