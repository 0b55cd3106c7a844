/* space.h - the ledger: how many bytes and files the cache takes, and whether more may be taken. Space is reserved
 * before a byte of it is written. Any thread; atomics, no lock. */
#ifndef LDR_SPACE_H
#define LDR_SPACE_H

#include "common/fail.h"

#include <stdatomic.h>

struct ldr_space {
    uint64_t max_bytes, max_files; /* set once */
    int dirfd;                     /* of the cache directory, for statvfs; borrowed */
    uint64_t min_free_bytes, min_free_inodes;
    _Atomic uint64_t bytes, files; /* index extent + block files + what is being filled */
};

/* What a file of `size` bytes takes: whole pages. */
static inline uint64_t ldr_space_charge(uint64_t size)
{
    return (size + 4095) & ~UINT64_C(4095);
}

/* Reserve room for one file of `size` bytes. LIMIT_EXCEEDED names the setting that is in the way. */
enum larder_kind ldr_space_reserve(struct ldr_space *s, uint64_t size, struct larder_err *err);
void ldr_space_release(struct ldr_space *s, uint64_t size); /* one file */
/* Charge bytes that are there already: a kept cache's blocks, what the index grew by. */
void ldr_space_add(struct ldr_space *s, uint64_t bytes);

#endif
