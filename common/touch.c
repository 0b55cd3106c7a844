/* touch.c - the page of visited bits and hit counters: clients write it, the agent reads it and is hurt by nothing in
 * it. */
#include "common/touch.h"

#include "common/hash.h"
#include "common/layout.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(struct ldr_touch_cell) * LDR_TOUCH_PREFIXES % 64 == 0, "a CPU's row is whole lines");
_Static_assert(LDR_TOUCH_BITS_MIN / 8 % 64 == 0, "the counters begin on a line");
_Static_assert((LDR_TOUCH_CPUS & (LDR_TOUCH_CPUS - 1)) == 0, "a CPU's row is found by a mask");

uint64_t ldr_touch_bits(uint64_t entries)
{
    uint64_t bits = LDR_TOUCH_BITS_MIN;

    while (bits < LDR_TOUCH_BITS_MAX && bits / 8 < entries)
        bits *= 2;
    return bits;
}

uint64_t ldr_touch_file_bytes(uint64_t bits)
{
    if (bits < LDR_TOUCH_BITS_MIN || bits > LDR_TOUCH_BITS_MAX || (bits & (bits - 1)))
        return 0;
    return bits / 8 + LDR_TOUCH_CELLS * sizeof(struct ldr_touch_cell);
}

uint64_t ldr_touch_bit(const struct ldr_id *id, uint32_t block, uint64_t bits)
{
    return XXH3_64bits_withSeed(id->b, sizeof id->b, block) & (bits - 1);
}

/* ---- clients ---- */

bool ldr_touch_open(struct ldr_touch *t, int cache_dirfd, uint64_t bits)
{
    uint64_t len = ldr_touch_file_bytes(bits);
    void *map = MAP_FAILED;
    struct stat st;
    int fd;

    *t = (struct ldr_touch){ 0 };
    if (!len)
        return false;
    /* O_NONBLOCK: whatever stands there, opening it does not wait */
    fd = openat(cache_dirfd, LDR_NAME_TOUCH, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd == -1)
        return false;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == len)
        map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return false;
    *t = (struct ldr_touch){ .map = map, .bits = bits, .len = len };
    return true;
}

void ldr_touch_close(struct ldr_touch *t)
{
    if (t->map)
        munmap(t->map, t->len);
    *t = (struct ldr_touch){ 0 };
}

void ldr_touch_visit(const struct ldr_touch *t, const struct ldr_id *id, uint32_t first, uint32_t n)
{
    if (!t->map)
        return;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bit = ldr_touch_bit(id, first + i, t->bits);
        _Atomic uint8_t *byte = (_Atomic uint8_t *)&t->map[bit / 8];
        uint8_t mask = (uint8_t)(1u << (bit % 8));

        /* looked at first: readers of a hot object share its line, and do not take it from each other */
        if (!(atomic_load_explicit(byte, memory_order_relaxed) & mask))
            atomic_fetch_or_explicit(byte, mask, memory_order_relaxed);
    }
}

void ldr_touch_count(const struct ldr_touch *t, unsigned prefix, uint64_t bytes)
{
    struct counters {
        _Atomic uint64_t hits, bytes;
    } * cell;
    int cpu;

    if (!t->map)
        return;
    cpu = sched_getcpu();
    if (cpu < 0)
        cpu = 0;
    if (prefix >= LDR_TOUCH_PREFIXES)
        prefix = 0;
    cell = (struct counters *)(void *)(t->map + t->bits / 8);
    cell += (size_t)(cpu & (LDR_TOUCH_CPUS - 1)) * LDR_TOUCH_PREFIXES + prefix;
    atomic_fetch_add_explicit(&cell->hits, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&cell->bytes, bytes, memory_order_relaxed);
}

/* ---- the agent ---- */

bool ldr_touch_take(int fd, const struct ldr_id *id, uint32_t block, uint64_t bits)
{
    uint64_t bit;
    uint8_t byte, mask;

    if (!ldr_touch_file_bytes(bits))
        return false;
    bit = ldr_touch_bit(id, block, bits);
    mask = (uint8_t)(1u << (bit % 8));
    if (pread(fd, &byte, 1, (off_t)(bit / 8)) != 1 || !(byte & mask))
        return false;
    byte &= (uint8_t)~mask;
    return pwrite(fd, &byte, 1, (off_t)(bit / 8)) == 1; /* a bit that cannot be cleared would be believed for ever */
}

/* By how much a counter grew, at most `most`. */
static uint64_t growth(uint64_t last, uint64_t now, uint64_t most)
{
    uint64_t by = now > last ? now - last : 0;

    return by < most ? by : most;
}

static void add_to(uint64_t *total, uint64_t by)
{
    *total = by < UINT64_MAX - *total ? *total + by : UINT64_MAX;
}

void ldr_touch_gather(int fd, uint64_t bits, int64_t elapsed_ns, struct ldr_touch_cell last[LDR_TOUCH_CELLS],
                      struct ldr_touch_cell total[LDR_TOUCH_PREFIXES])
{
    uint64_t ns = elapsed_ns > 0 ? (uint64_t)elapsed_ns : 0;
    uint64_t most_hits = ns / 10 + LDR_TOUCH_SLACK_HITS;
    uint64_t most_bytes = (ns < UINT64_MAX >> 9 ? ns : UINT64_MAX >> 9) * 256 + LDR_TOUCH_SLACK_BYTES;
    struct ldr_touch_cell row[LDR_TOUCH_PREFIXES];

    if (!ldr_touch_file_bytes(bits))
        return;
    for (size_t cpu = 0; cpu < LDR_TOUCH_CPUS; cpu++, last += LDR_TOUCH_PREFIXES) {
        ssize_t got = pread(fd, row, sizeof row, (off_t)(bits / 8 + cpu * sizeof row));
        size_t cells = got > 0 ? (size_t)got / sizeof row[0] : 0;

        for (size_t i = 0; i < cells; i++) {
            add_to(&total[i].hits, growth(last[i].hits, row[i].hits, most_hits));
            add_to(&total[i].bytes, growth(last[i].bytes, row[i].bytes, most_bytes));
            last[i] = row[i];
        }
    }
}
