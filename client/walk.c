/* walk.c - see walk.h. The rules behind it, in short:
 *   1. Snapshot S is described by meta page S & 1, which only the transaction S + 2 overwrites; that one begins only
 *      after `cur` left S. So: load cur, load the meta, load cur again.
 *   2. Pages of S are reused only after `floor` passed S. So: read, fence, load floor.
 *   3. Pages below hdr->npages are allocated: touching them is never SIGBUS.
 * Whatever is decided from the map is decided from a local copy of one load; comparing keys in place is harmless, since
 * a wrong turn can only lead to a void or torn answer. */
#include "client/walk.h"

#include <string.h>

/* struct MDB_page: pgno u64 · pad u16 · flags u16 · lower u16 · upper u16 (overflow: pages u32 instead) · pointers */
#define PAGE_FLAGS 10
#define PAGE_LOWER 12
#define PAGE_PAGES 12
#define PAGE_HEAD  16
#define P_BRANCH   0x01u
#define P_LEAF     0x02u
#define P_OVERFLOW 0x04u
#define P_KIND     0x6fu /* with meta, LEAF2 and sub-page: a page of the main DB is none of these */
/* struct MDB_meta, behind the page's head: magic u32 · version u32 · address · mapsize · two MDB_db · last_pg · txnid
 */
#define META_MAGIC   0
#define META_VERSION 4
#define META_PSIZE   24 /* md_pad of the first MDB_db */
#define META_ROOT    (24 + 48 + 40)
#define META_TXNID   (24 + 96 + 8)
#define MDB_MAGIC    0xBEEFC0DEu
#define MDB_DATA     1u
#define NO_PAGE      UINT64_MAX
/* struct MDB_node: lo u16 · hi u16 · flags u16 · ksize u16 · key · data */
#define NODE_HEAD    8
#define NODE_BIGDATA 1u /* data is the number of an overflow page */
#define MAX_DEPTH    32 /* LMDB's CURSOR_STACK */

#define LOAD(type, p) __atomic_load_n((const type *)(const void *)(p), __ATOMIC_RELAXED)

/* The only field that may stand at an odd address: behind a key of odd length. Loaded once, too. */
static uint64_t load64_unaligned(const uint8_t *p)
{
    typedef struct __attribute__((packed)) {
        uint64_t v;
    } any64;

    return ((const volatile any64 *)(const void *)p)->v;
}

bool ldr_tree_check(const struct ldr_tree *ix)
{
    for (int i = 0; i < 2; i++) {
        const uint8_t *meta = ix->data + i * LDR_PAGE + PAGE_HEAD;

        if (LOAD(uint32_t, meta + META_MAGIC) != MDB_MAGIC || LOAD(uint32_t, meta + META_VERSION) != MDB_DATA ||
            LOAD(uint32_t, meta + META_PSIZE) != LDR_PAGE)
            return false;
    }
    return true;
}

enum ldr_hit ldr_snap_begin(const struct ldr_tree *ix, int *tries, struct ldr_snap *out)
{
    const struct ldr_hdr *hdr = ix->hdr;

    for (; *tries > 0; --*tries) {
        uint64_t id = atomic_load_explicit(&hdr->cur, memory_order_acquire);
        const uint8_t *meta = ix->data + (id & 1) * LDR_PAGE + PAGE_HEAD;
        uint64_t root = LOAD(uint64_t, meta + META_ROOT), txnid = LOAD(uint64_t, meta + META_TXNID), pages, mapped;

        if (id == LDR_RETIRED || atomic_load_explicit(&ix->gone, memory_order_relaxed))
            return LDR_GEN_GONE;
        atomic_thread_fence(memory_order_acquire); /* the meta page before the second look at cur */
        if (txnid != id || atomic_load_explicit(&hdr->cur, memory_order_relaxed) != id)
            continue;
        pages = atomic_load_explicit(&hdr->npages, memory_order_relaxed); /* not older than id's: cur was acquired */
        mapped = atomic_load_explicit(&ix->pages, memory_order_relaxed);
        *out = (struct ldr_snap){ ix, id, root, pages < mapped ? pages : mapped };
        return LDR_HIT;
    }
    return LDR_TORN;
}

bool ldr_snap_valid(const struct ldr_snap *s)
{
    atomic_thread_fence(memory_order_acquire); /* the pages before floor */
    if (atomic_load_explicit(&s->ix->gone, memory_order_relaxed))
        return false;
    return atomic_load_explicit(&s->ix->hdr->floor, memory_order_relaxed) <= s->id ||
           atomic_load_explicit(&s->ix->unsafe, memory_order_relaxed);
}

/* The node of entry `i` of a page, with its head inside the page; NULL: torn. */
static inline const uint8_t *node_at(const uint8_t *page, int i)
{
    unsigned offset = LOAD(uint16_t, page + PAGE_HEAD + 2 * i);

    return offset & 1 || offset < PAGE_HEAD || offset > LDR_PAGE - NODE_HEAD ? NULL : page + offset;
}

/* The entry of a page to follow: in a leaf the one that is equal, in a branch the last that is not greater (the first
 * entry's key counts as empty). False: torn. */
static inline bool search(const uint8_t *page, bool leaf, int n, const void *key, size_t key_len, int *at, bool *equal)
{
    int lo = leaf ? 0 : 1, hi = n - 1;

    *equal = false;
    while (lo <= hi) {
        int i = (lo + hi) >> 1, d;
        const uint8_t *node = node_at(page, i);
        size_t ksize;

        if (!node)
            return false;
        ksize = LOAD(uint16_t, node + 6);
        if (ksize > (size_t)(page + LDR_PAGE - node) - NODE_HEAD)
            return false;
        d = memcmp(key, node + NODE_HEAD, key_len < ksize ? key_len : ksize);
        if (d == 0)
            d = key_len < ksize ? -1 : key_len > ksize;
        if (d == 0) {
            *equal = true;
            *at = i;
            return true;
        }
        if (d > 0)
            lo = i + 1;
        else
            hi = i - 1;
    }
    *at = hi < 0 ? 0 : hi;
    return true;
}

/* The value of a leaf's node: beside its key, or in overflow pages. */
static enum ldr_hit value_of(const struct ldr_snap *s, const uint8_t *page, const uint8_t *node, const uint8_t **p,
                             size_t *len)
{
    size_t size = LOAD(uint16_t, node) | (size_t)LOAD(uint16_t, node + 2) << 16;
    unsigned flags = LOAD(uint16_t, node + 4);
    size_t ksize = LOAD(uint16_t, node + 6), room = (size_t)(page + LDR_PAGE - node) - NODE_HEAD;
    const uint8_t *first;
    uint64_t pgno;

    if (ksize > room)
        return LDR_TORN;
    room -= ksize;
    if (flags == 0 && size <= room) {
        *p = node + NODE_HEAD + ksize;
        *len = size;
        return LDR_HIT;
    }
    if (flags != NODE_BIGDATA || room < sizeof pgno)
        return LDR_TORN;
    pgno = load64_unaligned(node + NODE_HEAD + ksize);
    if (pgno < 2 || pgno >= s->pages || (s->pages - pgno) * LDR_PAGE < PAGE_HEAD + size)
        return LDR_TORN;
    first = s->ix->data + pgno * LDR_PAGE;
    if (LOAD(uint64_t, first) != pgno || (LOAD(uint16_t, first + PAGE_FLAGS) & P_KIND) != P_OVERFLOW ||
        LOAD(uint32_t, first + PAGE_PAGES) * (uint64_t)LDR_PAGE < PAGE_HEAD + size)
        return LDR_TORN;
    *p = first + PAGE_HEAD;
    *len = size;
    return LDR_HIT;
}

enum ldr_hit ldr_snap_find(const struct ldr_snap *s, const void *key, size_t key_len, const uint8_t **p, size_t *len)
{
    uint64_t pgno = s->root;

    if (pgno == NO_PAGE)
        return LDR_MISS;
    for (int depth = 0; depth < MAX_DEPTH; depth++) {
        const uint8_t *page, *node;
        unsigned kind, lower;
        bool leaf, equal;
        int i;

        if (pgno < 2 || pgno >= s->pages)
            return LDR_TORN;
        page = s->ix->data + pgno * LDR_PAGE;
        if (LOAD(uint64_t, page) != pgno)
            return LDR_TORN;
        kind = LOAD(uint16_t, page + PAGE_FLAGS) & P_KIND;
        lower = LOAD(uint16_t, page + PAGE_LOWER);
        leaf = kind == P_LEAF;
        if ((!leaf && kind != P_BRANCH) || lower < PAGE_HEAD + 2 || lower > LDR_PAGE)
            return LDR_TORN;
        if (!search(page, leaf, (int)(lower - PAGE_HEAD) >> 1, key, key_len, &i, &equal))
            return LDR_TORN;
        if (leaf && !equal)
            return LDR_MISS;
        node = node_at(page, i);
        if (!node)
            return LDR_TORN;
        if (leaf)
            return value_of(s, page, node, p, len);
        pgno =
            LOAD(uint16_t, node) | (uint64_t)LOAD(uint16_t, node + 2) << 16 | (uint64_t)LOAD(uint16_t, node + 4) << 32;
    }
    return LDR_TORN; /* deeper than LMDB goes: pages that lead in a circle */
}

void ldr_walk_set_unsafe_for_stress(struct ldr_tree *ix, bool unsafe)
{
    atomic_store(&ix->unsafe, unsafe);
}
