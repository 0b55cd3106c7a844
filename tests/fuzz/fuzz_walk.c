/* fuzz_walk.c - the index reader (client/walk.c) over pages of any content: no fault, and what it finds lies in the
 * map. Input: the pages from number 2 on; its first byte also chooses the root. The map ends at a page that nobody may
 * touch. To get anywhere at all, pages carry their own number in 15 of 16 cases. */
#include "client/walk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES 16

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static uint8_t *map; /* PAGES pages and the guard behind them */

static void set64(uint8_t *at, uint64_t v)
{
    memcpy(at, &v, sizeof v);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char *const keys[] = { "", "a", "k", "s3://bucket/key", "s3://bucket/key/2", "zzzz", "\x01\x62" };
    static struct ldr_hdr hdr;
    struct ldr_tree ix;
    struct ldr_snap snap;
    uint64_t pages = (n + LDR_PAGE - 1) / LDR_PAGE + 2;
    uint8_t choice = n ? p[0] : 0;
    int tries = LDR_WALK_TRIES;
    const uint8_t *value;
    size_t len;

    if (!map) {
        map = mmap(NULL, (PAGES + 1) * LDR_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED || mprotect(map, PAGES * LDR_PAGE, PROT_READ | PROT_WRITE))
            abort();
    }
    if (pages > PAGES)
        pages = PAGES;
    if (n > (PAGES - 2) * LDR_PAGE)
        n = (PAGES - 2) * LDR_PAGE;
    /* The pages that count stand at the end, against the guard: `data` is moved instead. */
    uint8_t *data = map + (PAGES - pages) * LDR_PAGE;
    memset(data, 0, pages * LDR_PAGE);
    if (n)
        memcpy(data + 2 * LDR_PAGE, p, n);
    for (uint64_t i = 2; i < pages && (choice & 0xf0) != 0xf0; i++)
        set64(data + i * LDR_PAGE, i);
    set64(data + 16 + 112, 2 + (choice >> 3) % PAGES); /* root */
    atomic_store(&hdr.npages, pages);
    ix = (struct ldr_tree){ .hdr = &hdr, .data = data, .pages = pages };
    ldr_tree_check(&ix);
    if (ldr_snap_begin(&ix, &tries, &snap) != LDR_HIT)
        return 0;
    for (size_t i = 0; i < LDR_ARRAY_LEN(keys); i++)
        if (ldr_snap_find(&snap, keys[i], strlen(keys[i]), &value, &len) == LDR_HIT) {
            if (value < data || value > map + PAGES * LDR_PAGE || len > (size_t)(map + PAGES * LDR_PAGE - value))
                abort();
            for (size_t j = 0; j < len; j++)
                *(volatile const uint8_t *)(value + j); /* a fault, if it were not readable */
        }
    return 0;
}
