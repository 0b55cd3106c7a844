/* verify.h - do the blocks of an object, fetched one by one, add up to what its store says the object is? A store tells a
 * CRC of all bytes (FULL_OBJECT), or of the CRCs of the parts that it was uploaded in (COMPOSITE): that one is of use only
 * where each part was one of our blocks. Digests cannot be put together from pieces. Pure functions, any thread. */
#ifndef LDR_VERIFY_H
#define LDR_VERIFY_H

#include "backends/sum.h"
#include "common/meta.h"

/* A set of CRCs: a bit for each enum ldr_sum_algo. */
#define LDR_CRC_BIT(algo) (1u << (algo))
#define LDR_CRC_ALL       (LDR_CRC_BIT(LDR_SUM_CRC64NVME) | LDR_CRC_BIT(LDR_SUM_CRC32C) | LDR_CRC_BIT(LDR_SUM_CRC32))

/* The CRCs of one block, made while its bytes arrive. All zero: none are made. */
struct ldr_block_sums {
    unsigned algos; /* which */
    uint64_t crc[LDR_SUM_CRC32 + 1];
};
void ldr_block_sums_begin(struct ldr_block_sums *s, unsigned algos);
void ldr_block_sums_add(struct ldr_block_sums *s, const void *p, size_t n);

/* What an object of `n_blocks` can be checked with. */
struct ldr_verify {
    enum ldr_sum_algo algo; /* NONE: with nothing */
    bool composite;         /* of as many parts as there are blocks. Whether they are the blocks is not said */
    uint8_t want[LDR_SUM_RAW_MAX];
};

/* The cheapest CRC of what the metadata tells; of one of all bytes and a composite one the former. False: there is none
 * that n_blocks blocks can be compared with. */
bool ldr_verify_choose(const struct ldr_meta *meta, uint32_t n_blocks, struct ldr_verify *out);

/* Do they add up? Blocks have 2^log2 bytes, the last one what is left of `size`; all have the CRC that v->algo names. */
bool ldr_verify_blocks(const struct ldr_verify *v, uint64_t size, uint8_t log2, const struct ldr_block_sums *blocks,
                       uint32_t n_blocks);

#endif
