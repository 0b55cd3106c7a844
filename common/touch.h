/* touch.h - rw/touch: what readers tell the agent without asking it (docs/design/formats.md). Clients map it and write;
 * the agent reads it by pread and believes nothing that could hurt it: any content is harmless.
 *
 * Layout: `bits` visited bits (a power of two, from the header page, never from this file), then counters
 * [LDR_TOUCH_CPUS][LDR_TOUCH_PREFIXES] of {hits u64, bytes u64}; a CPU's row begins on a 64-byte line.
 * A bit is set by who reads block `n` of object `id` from the cache; two entries may share one, which then is an
 * undeserved second chance. */
#ifndef LDR_TOUCH_H
#define LDR_TOUCH_H

#include "common/record.h"

#include <stdatomic.h>

#define LDR_TOUCH_CPUS     64
#define LDR_TOUCH_PREFIXES 64 /* slot 0: what has none of its own */
#define LDR_TOUCH_BITS_MIN (UINT64_C(1) << 16)
#define LDR_TOUCH_BITS_MAX (UINT64_C(1) << 26)

/* Bits for at most `entries` entries: a power of two, at least 8 an entry, within the limits above. */
uint64_t ldr_touch_bits(uint64_t entries);
/* Bytes of the file for so many bits; 0: not a number of bits that larder makes. */
uint64_t ldr_touch_file_bytes(uint64_t bits);
/* Which bit is that of block `block` (0 for an inline object). */
uint64_t ldr_touch_bit(const struct ldr_id *id, uint32_t block, uint64_t bits);

/* ---- clients: any thread, no lock; no-ops on a touch page that is not open ---- */
struct ldr_touch {
    uint8_t *map; /* NULL: not open */
    uint64_t bits;
    size_t len;
};
/* Map the touch file of a cache; its size must be right for `bits`. False, and `t` is all zero: it is not there, or may
 * not be written here. Whoever may write the file can truncate it, and a write to it is SIGBUS then (docs/limits.md). */
bool ldr_touch_open(struct ldr_touch *t, int cache_dirfd, uint64_t bits);
void ldr_touch_close(struct ldr_touch *t);
/* Blocks [first, first + n) of `id` were read: set their bits, where they are clear. */
void ldr_touch_visit(const struct ldr_touch *t, const struct ldr_id *id, uint32_t first, uint32_t n);
/* A hit of `bytes` under prefix slot `prefix` (of the record; one that does not exist counts as slot 0). */
void ldr_touch_count(const struct ldr_touch *t, unsigned prefix, uint64_t bytes);

/* ---- the agent: index thread ---- */
/* Was the bit set? It is clear afterwards. By pread and pwrite of one byte: a bit of another entry that a reader sets in
 * between may be lost. A file that cannot be read and written says no. */
bool ldr_touch_take(int fd, const struct ldr_id *id, uint32_t block, uint64_t bits);

/* Read all counters and add what they grew by to total[prefix]; `last` is the agent's copy of the file's counters
 * (LDR_TOUCH_CELLS of them, all zero at first). Counters outlive an agent, so the first call after a start only learns
 * where they stand: its totals are to be thrown away.
 * A cell counts for no more than its CPU can have served in `elapsed_ns`, one hit each 10 ns and 256 bytes each ns, and
 * a fixed part of LDR_TOUCH_SLACK_* (a view counts as a whole when it is mapped, and a thread that was preempted may
 * count on another CPU's row); what is beyond is forgotten. One that went back, or cannot be read, adds nothing, and
 * totals end at UINT64_MAX. */
#define LDR_TOUCH_CELLS       (LDR_TOUCH_CPUS * LDR_TOUCH_PREFIXES)
#define LDR_TOUCH_SLACK_HITS  1000
#define LDR_TOUCH_SLACK_BYTES (16 * LDR_GIB)
struct ldr_touch_cell {
    uint64_t hits, bytes;
};
void ldr_touch_gather(int fd, uint64_t bits, int64_t elapsed_ns, struct ldr_touch_cell last[LDR_TOUCH_CELLS],
                      struct ldr_touch_cell total[LDR_TOUCH_PREFIXES]);

#endif
