/* walk_test.c - tests of client/walk.c. */
#include "client/walk.h"
#include "tests/support/mini_index.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[TEST_DIR_MAX];
static struct mini mini;

static void make_dir(void)
{
    test_dir_make(dir);
    mini_open(&mini, dir, 0);
}

static void remove_dir(void)
{
    mini_close(&mini);
    test_dir_remove(dir);
}

TestSuite(walk, .init = make_dir, .fini = remove_dir, .timeout = 60);

/* The file mapped as a client does. */
static void map_index(struct ldr_tree *ix)
{
    char path[300];
    struct stat st;

    snprintf(path, sizeof path, "%s/gen-1/data.mdb", dir);
    int fd = open(path, O_RDONLY);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    *ix = (struct ldr_tree){ .hdr = mini.hdr, .pages = mini.mapsize / LDR_PAGE };
    ix->data = mmap(NULL, mini.mapsize, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert(ix->data != MAP_FAILED);
    close(fd);
}

static enum ldr_hit find(const struct ldr_tree *ix, const void *key, size_t key_len, const uint8_t **p, size_t *len)
{
    int tries = LDR_WALK_TRIES;
    struct ldr_snap s;
    enum ldr_hit hit = ldr_snap_begin(ix, &tries, &s);

    if (hit != LDR_HIT)
        return hit;
    hit = ldr_snap_find(&s, key, key_len, p, len);
    return ldr_snap_valid(&s) ? hit : LDR_TORN;
}

static enum ldr_hit find_text(const struct ldr_tree *ix, const char *key)
{
    const uint8_t *p;
    size_t len;

    return find(ix, key, strlen(key), &p, &len);
}

static void fill(uint8_t *to, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
}

Test(walk, an_empty_tree_has_no_keys)
{
    struct ldr_tree ix;

    map_index(&ix);
    cr_expect(ldr_tree_check(&ix));
    cr_expect(eq(int, find_text(&ix, "s3://b/k"), LDR_MISS));
    cr_expect(eq(int, find_text(&ix, ""), LDR_MISS));
}

Test(walk, every_key_of_one_page_is_found_and_no_other)
{
    struct ldr_tree ix;

    for (int i = 0; i < 20; i += 2) {
        char key[32];
        size_t n = (size_t)snprintf(key, sizeof key, "k%02d", i);

        mini_put(&mini, key, n, key, n);
    }
    mini_publish(&mini);
    map_index(&ix);
    for (int i = 0; i < 20; i++) {
        char key[32];
        const uint8_t *p;
        size_t len, n = (size_t)snprintf(key, sizeof key, "k%02d", i);
        enum ldr_hit hit = find(&ix, key, n, &p, &len);

        cr_assert(eq(int, hit, i % 2 ? LDR_MISS : LDR_HIT), "%s", key);
        if (hit == LDR_HIT)
            cr_expect(len == n && !memcmp(p, key, n));
    }
    cr_expect(eq(int, find_text(&ix, "a"), LDR_MISS));
    cr_expect(eq(int, find_text(&ix, "k0"), LDR_MISS), "a prefix of a key is another key");
    cr_expect(eq(int, find_text(&ix, "k000"), LDR_MISS));
    cr_expect(eq(int, find_text(&ix, "z"), LDR_MISS));
}

static size_t long_key(char *to, int i)
{
    return (size_t)sprintf(to, "s3://bucket/a/rather/long/prefix/that/all/of/them/share/part-%07d/%0*d", i, i % 3 + 1,
                           0);
}

Test(walk, every_key_of_a_tree_of_three_levels_is_found)
{
    struct ldr_tree ix;
    MDB_stat st;
    char key[200];
    const uint8_t *p;
    size_t len;

    for (int i = 0; i < 20000; i += 2)
        mini_put(&mini, key, long_key(key, i), &i, sizeof i);
    mini_publish(&mini);
    mdb_env_stat(mini.env, &st);
    cr_assert(ge(uint, st.ms_depth, 3));
    map_index(&ix);
    for (int i = 0; i < 20000; i++) {
        size_t n = long_key(key, i);
        int got = -1;
        enum ldr_hit hit = find(&ix, key, n, &p, &len);

        cr_assert(eq(int, hit, i % 2 ? LDR_MISS : LDR_HIT), "%s", key);
        if (hit == LDR_HIT) {
            cr_assert(eq(sz, len, sizeof got));
            memcpy(&got, p, sizeof got);
            cr_assert(eq(int, got, i));
        }
    }
}

Test(walk, a_key_that_was_removed_is_a_miss)
{
    struct ldr_tree ix;
    char key[200];

    for (int i = 0; i < 2000; i++)
        mini_put(&mini, key, long_key(key, i), &i, sizeof i);
    mini_publish(&mini);
    map_index(&ix);
    for (int i = 0; i < 2000; i++)
        if (i % 100)
            mini_del(&mini, key, long_key(key, i));
    mini_publish(&mini);
    for (int i = 0; i < 2000; i++) {
        long_key(key, i);
        cr_assert(eq(int, find_text(&ix, key), i % 100 ? LDR_MISS : LDR_HIT), "%s", key);
    }
    for (int i = 0; i < 2000; i += 100)
        mini_del(&mini, key, long_key(key, i));
    mini_publish(&mini);
    cr_expect(eq(int, find_text(&ix, key), LDR_MISS), "the tree is empty again");
}

Test(walk, values_of_every_size_come_whole)
{
    static const size_t sizes[] = { 0,    1,    100,  2000,  2030,  2040,  2100, 4079,
                                    4080, 4081, 8176, 16368, 16369, 65519, 65520 };
    static uint8_t value[70000];
    struct ldr_tree ix;

    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++)
        for (int odd = 0; odd < 2; odd++) { /* behind a key of odd length the page number stands at an odd address */
            char key[32];

            fill(value, sizes[i], (unsigned)i + (unsigned)odd);
            mini_put(&mini, key, (size_t)sprintf(key, "%s%06zu", odd ? "o" : "ev", sizes[i]), value, sizes[i]);
        }
    mini_publish(&mini);
    map_index(&ix);
    for (size_t i = 0; i < LDR_ARRAY_LEN(sizes); i++)
        for (int odd = 0; odd < 2; odd++) {
            char key[32];
            const uint8_t *p;
            size_t len;

            fill(value, sizes[i], (unsigned)i + (unsigned)odd);
            cr_assert(
                eq(int, find(&ix, key, (size_t)sprintf(key, "%s%06zu", odd ? "o" : "ev", sizes[i]), &p, &len), LDR_HIT),
                "%s", key);
            cr_assert(eq(sz, len, sizes[i]));
            cr_assert(eq(int, memcmp(p, value, len), 0), "%s", key);
        }
}

Test(walk, binary_keys_are_found)
{
    struct ldr_tree ix;
    struct ldr_id id = { { 1, 2, 3 } };
    uint8_t key[LDR_BLOCK_KEY_LEN], value[LDR_BLOCK_VALUE_LEN];
    const uint8_t *p;
    size_t len;

    ldr_block_value(5, 6, value);
    for (uint32_t i = 0; i < 300; i++) {
        ldr_block_key(&id, i, key);
        mini_put(&mini, key, sizeof key, value, sizeof value);
    }
    mini_publish(&mini);
    map_index(&ix);
    ldr_block_key(&id, 255, key);
    cr_expect(eq(int, find(&ix, key, sizeof key, &p, &len), LDR_HIT));
    ldr_block_key(&id, 300, key);
    cr_expect(eq(int, find(&ix, key, sizeof key, &p, &len), LDR_MISS));
}

Test(walk, a_snapshot_whose_floor_was_passed_is_void)
{
    struct ldr_tree ix;
    struct ldr_snap s;
    int tries = LDR_WALK_TRIES;

    mini_put(&mini, "k", 1, "v", 1);
    mini_publish(&mini);
    map_index(&ix);
    cr_assert(eq(int, ldr_snap_begin(&ix, &tries, &s), LDR_HIT));
    cr_expect(ldr_snap_valid(&s));
    mini_put(&mini, "k", 1, "w", 1);
    mini_publish(&mini);
    cr_expect(not(ldr_snap_valid(&s)));
    ldr_walk_set_unsafe_for_stress(&ix, true);
    cr_expect(ldr_snap_valid(&s), "the negative control believes it");
    ix.gone = true;
    cr_expect(not(ldr_snap_valid(&s)), "but never zero pages");
}

Test(walk, a_meta_page_of_another_snapshot_uses_up_the_tries)
{
    struct ldr_tree ix;
    struct ldr_snap s;
    int tries = LDR_WALK_TRIES;

    map_index(&ix);
    mini.hdr->cur += 2; /* as if the transaction after next had begun */
    cr_expect(eq(int, ldr_snap_begin(&ix, &tries, &s), LDR_TORN));
    cr_expect(eq(int, tries, 0));
}

Test(walk, a_retired_generation_says_so)
{
    struct ldr_tree ix;
    struct ldr_snap s;
    int tries = LDR_WALK_TRIES;

    map_index(&ix);
    mini_retire(&mini);
    cr_expect(eq(int, ldr_snap_begin(&ix, &tries, &s), LDR_GEN_GONE));
    cr_expect(eq(int, tries, LDR_WALK_TRIES), "which is no retry");
}

Test(walk, another_magic_version_or_page_size_is_refused)
{
    static const struct {
        size_t offset;
        uint8_t xor ;
    } spoil[] = { { 16, 1 }, { 20, 3 }, { 16 + 24 + 1, 0x30 }, { LDR_PAGE + 16, 1 }, { LDR_PAGE + 20, 1 } };
    struct ldr_tree ix;
    uint8_t pages[2 * LDR_PAGE];

    map_index(&ix);
    memcpy(pages, ix.data, sizeof pages);
    ix.data = pages;
    cr_assert(ldr_tree_check(&ix));
    for (size_t i = 0; i < LDR_ARRAY_LEN(spoil); i++) {
        pages[spoil[i].offset] ^= spoil[i].xor ;
        cr_expect(not(ldr_tree_check(&ix)), "offset %zu", spoil[i].offset);
        pages[spoil[i].offset] ^= spoil[i].xor ;
    }
}

/* ---- damage: a copy of the file that ends at a page nobody may touch ---- */

static struct ldr_hdr copy_hdr;

/* The `n` first pages of the file, writable, a guard page behind them. */
static uint8_t *guarded_copy(struct ldr_tree *ix, uint64_t n)
{
    struct ldr_tree from;
    uint8_t *p = mmap(NULL, (n + 1) * LDR_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    cr_assert(p != MAP_FAILED && mprotect(p, n * LDR_PAGE, PROT_READ | PROT_WRITE) == 0);
    map_index(&from);
    memcpy(p, from.data, n * LDR_PAGE);
    memcpy(&copy_hdr, mini.hdr, sizeof copy_hdr);
    copy_hdr.npages = n;
    *ix = (struct ldr_tree){ .hdr = &copy_hdr, .data = p, .pages = n };
    return p;
}

/* Ask for keys that are and are not there, and read every byte of what comes. */
static unsigned probe(const struct ldr_tree *ix)
{
    static const char *const keys[] = { "a", "k000", "k017", "k0175", "k031", "k063", "big1", "big2", "zz", "" };
    unsigned sum = 0;

    for (size_t i = 0; i < LDR_ARRAY_LEN(keys); i++) {
        const uint8_t *p;
        size_t len;

        if (find(ix, keys[i], strlen(keys[i]), &p, &len) == LDR_HIT)
            for (size_t j = 0; j < len; j++)
                sum += p[j];
    }
    return sum;
}

static uint64_t small_tree(void)
{
    static uint8_t value[9000];
    MDB_envinfo info;

    for (int i = 0; i < 64; i++) {
        char key[16];

        mini_put(&mini, key, (size_t)sprintf(key, "k%03d", i), value, 150);
    }
    mini_put(&mini, "big1", 4, value, 5000);
    mini_put(&mini, "big2", 4, value, 9000);
    mini_publish(&mini);
    mdb_env_info(mini.env, &info);
    return info.me_last_pgno + 1;
}

Test(walk, no_single_damaged_byte_makes_it_fault)
{
    static const uint8_t values[] = { 0, 1, 0x7f, 0xff };
    struct ldr_tree ix;
    uint64_t n = small_tree();
    uint8_t *p = guarded_copy(&ix, n);
    unsigned good = probe(&ix), same = 0;

    cr_assert(le(u64, n, 16));
    for (size_t at = 0; at < n * LDR_PAGE; at++)
        for (size_t v = 0; v < LDR_ARRAY_LEN(values); v++) {
            uint8_t was = p[at];

            p[at] = values[v];
            same += probe(&ix) == good;
            p[at] = was;
        }
    cr_expect(gt(uint, same, 0));
    cr_expect(eq(uint, probe(&ix), good));
}

Test(walk, no_damaged_pair_of_bytes_in_a_pages_head_makes_it_fault)
{
    struct ldr_tree ix;
    uint64_t n = small_tree();
    uint8_t *p = guarded_copy(&ix, n);

    for (uint64_t page = 0; page < n; page++)
        for (size_t at = 0; at < 160; at += 2)
            for (unsigned v = 0; v < 0x10000; v += 251) {
                uint8_t *q = p + page * LDR_PAGE + at, was[2] = { q[0], q[1] };

                q[0] = (uint8_t)v;
                q[1] = (uint8_t)(v >> 8);
                probe(&ix);
                memcpy(q, was, 2);
            }
}

static uint64_t root_of(const struct ldr_tree *ix)
{
    int tries = LDR_WALK_TRIES;
    struct ldr_snap s;

    cr_assert(eq(int, ldr_snap_begin(ix, &tries, &s), LDR_HIT));
    return s.root;
}

Test(walk, a_page_that_carries_another_number_is_torn)
{
    struct ldr_tree ix;
    uint8_t *p = guarded_copy(&ix, small_tree());

    p[root_of(&ix) * LDR_PAGE] ^= 1;
    cr_expect(eq(int, find_text(&ix, "k017"), LDR_TORN));
}

Test(walk, branch_pages_that_lead_in_a_circle_are_torn)
{
    struct ldr_tree ix;
    uint8_t *p = guarded_copy(&ix, small_tree());
    uint64_t root = root_of(&ix);
    uint8_t *page = p + root * LDR_PAGE;

    cr_assert(eq(int, page[10] & 1, 1), "the root is a branch");
    for (unsigned i = 0; i < ((unsigned)page[12] + page[13] * 256u - 16) / 2; i++) {
        uint8_t *node = page + page[16 + 2 * i] + page[17 + 2 * i] * 256;

        node[0] = (uint8_t)root;
        node[1] = node[2] = node[3] = node[4] = node[5] = 0;
    }
    cr_expect(eq(int, find_text(&ix, "k017"), LDR_TORN));
    cr_expect(eq(int, find_text(&ix, "nothing"), LDR_TORN));
}

Test(walk, an_overflow_value_behind_the_extent_is_torn)
{
    struct ldr_tree ix;
    uint64_t n = small_tree();

    guarded_copy(&ix, n);
    cr_assert(eq(int, find_text(&ix, "big2"), LDR_HIT));
    /* Its pages were the last to be used: take them away one by one. */
    bool torn = false;
    for (uint64_t pages = n; pages-- > 2;) {
        enum ldr_hit hit;

        copy_hdr.npages = pages;
        hit = find_text(&ix, "big2");
        torn |= hit == LDR_TORN;
        cr_expect(hit == LDR_HIT ? !torn : hit == LDR_TORN, "%lu pages: %d", (unsigned long)pages, hit);
    }
    cr_expect(torn);
}

Test(walk, an_overflow_page_of_another_kind_or_too_few_pages_is_torn)
{
    static const struct {
        size_t offset;
        uint8_t value;
    } spoil[] = { { 0, 0xee }, { 10, 2 }, { 10, 8 }, { 12, 1 }, { 12, 0 } };
    struct ldr_tree ix;
    const uint8_t *value;
    size_t len;

    guarded_copy(&ix, small_tree());
    cr_assert(eq(int, find(&ix, "big2", 4, &value, &len), LDR_HIT));
    for (size_t i = 0; i < LDR_ARRAY_LEN(spoil); i++) {
        uint8_t *at = (uint8_t *)(uintptr_t)value - 16 + spoil[i].offset, was = *at;

        *at = spoil[i].value;
        cr_expect(eq(int, find_text(&ix, "big2"), LDR_TORN), "offset %zu", spoil[i].offset);
        *at = was;
    }
    cr_expect(eq(int, find_text(&ix, "big2"), LDR_HIT));
}

Test(walk, a_key_that_is_said_to_reach_over_the_end_of_its_page_is_torn)
{
    struct ldr_tree ix;
    char key[480];
    uint8_t *p, *node;

    memset(key, 'k', sizeof key);
    mini_put(&mini, key, 400, "", 0); /* stands at the very end of the only page */
    mini_publish(&mini);
    p = guarded_copy(&ix, 3) + 2 * LDR_PAGE;
    node = p + p[16] + p[17] * 256;
    cr_assert(eq(ptr, node + 8 + 400, p + LDR_PAGE));
    node[6] = (uint8_t)sizeof key;
    node[7] = sizeof key >> 8;
    const uint8_t *value;
    size_t len;
    cr_expect(eq(int, find(&ix, key, sizeof key, &value, &len), LDR_TORN));
}
