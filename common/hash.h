/* hash.h - XXH3 for keys, heads and blocks; hex. The xxhash code is inlined, so liblarder needs no library for it. */
#ifndef LDR_HASH_H
#define LDR_HASH_H

#include "common/defs.h"

#include <stdbool.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static inline uint64_t ldr_hash64(const void *p, size_t n)
{
    return XXH3_64bits(p, n);
}

/* Hex, lower case; `out` gets 2 * n characters and a NUL. */
void ldr_hex(const void *p, size_t n, char *out);
/* Exactly 2 * n hex digits of either case into n bytes; false: anything else. */
bool ldr_unhex(const char *hex, size_t hex_len, void *out, size_t n);

#endif
