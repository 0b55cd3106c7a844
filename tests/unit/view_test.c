/* view_test.c - tests of client/view.c. */
#include "client/view.h"
#include "tests/support/mini_index.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAP_COUNT 65530

static char dir[TEST_DIR_MAX];
static struct mini mini;
static struct ldr_views *views;
static int dirfd_;
static struct ldr_view_how how;
static uint8_t pattern[3 * 65536 + 5000];

static void make_dir(void)
{
    test_dir_make(dir);
    mini_open(&mini, dir, 0);
    views = ldr_views_new(MAP_COUNT);
    dirfd_ = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 13 + (i >> 8) + (i >> 16));
}

static void remove_dir(void)
{
    ldr_views_free(&views);
    close(dirfd_);
    mini_close(&mini);
    test_dir_remove(dir);
}

TestSuite(view, .init = make_dir, .fini = remove_dir, .timeout = 60);

/* A record as the index would give it, and its block files. */
static struct ldr_record record_of(const void *data, size_t len, uint8_t block_log2)
{
    struct mini_object o = { .data = data, .len = len, .block_log2 = block_log2 };
    struct ldr_id id = mini_add(&mini, "s3://b/k", &o);

    return (struct ldr_record){ .id = id, .size_bytes = len, .block_log2 = block_log2 };
}

static enum ldr_hit try_range(const struct ldr_record *r, uint64_t offset, uint64_t length, struct larder_object **out)
{
    struct ldr_want want = { .offset = offset, .length = length, .keep = true };

    how = (struct ldr_view_how){ 0 };
    return ldr_views_get(views, dirfd_, r, &want, &how, out);
}

static enum ldr_hit try_get(const struct ldr_record *r, struct larder_object **out)
{
    return try_range(r, 0, r->size_bytes, out);
}

static enum ldr_hit try_read(const struct ldr_record *r, uint64_t offset, uint64_t length, void *buf)
{
    how = (struct ldr_view_how){ 0 };
    return ldr_views_read(views, dirfd_, r, &(struct ldr_want){ .offset = offset, .length = length }, buf, &how);
}

static struct larder_object *get_range(const struct ldr_record *r, uint64_t offset, uint64_t length)
{
    struct larder_object *o = NULL;

    cr_assert(eq(int, try_range(r, offset, length, &o), LDR_HIT));
    return o;
}

static struct larder_object *get(const struct ldr_record *r)
{
    return get_range(r, 0, r->size_bytes);
}

static bool holds(const struct larder_object *o, const void *data, size_t len)
{
    return larder_object_size(o) == len && !memcmp(larder_object_data(o), data, len);
}

/* Areas of this process that map a block file. */
static int areas(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    int n = 0;

    while (fgets(line, sizeof line, f))
        n += strstr(line, "/blocks/") != NULL;
    fclose(f);
    return n;
}

Test(view, a_block_is_mapped_and_the_next_get_uses_the_same_mapping)
{
    struct ldr_record r = record_of(pattern, 50000, 23);
    struct larder_object *a = get(&r), *b;

    cr_expect(not(how.kept));
    cr_expect(holds(a, pattern, 50000));
    b = get(&r);
    cr_expect(how.kept);
    cr_expect(eq(ptr, (void *)(uintptr_t)larder_object_data(a), (void *)(uintptr_t)larder_object_data(b)));
    cr_expect(eq(int, areas(), 1));
    larder_object_free(&a);
    cr_expect(eq(ptr, a, NULL));
    larder_object_free(&a);
    larder_object_free(&b);
    cr_expect(eq(int, areas(), 1), "kept");
    b = get(&r);
    cr_expect(how.kept);
    cr_expect(eq(int, larder_object_was_hit(b), 1));
    larder_object_free(&b);
}

Test(view, a_mapping_outlives_the_file_the_views_and_the_close)
{
    struct ldr_record r = record_of(pattern, 50000, 23);
    struct larder_object *a = get(&r);
    char path[MINI_PATH_MAX];

    mini_block_path(&mini, &r.id, 0, path);
    cr_assert(unlink(path) == 0);
    ldr_views_free(&views);
    cr_expect(eq(ptr, views, NULL));
    cr_expect(holds(a, pattern, 50000));
    larder_object_free(&a);
    cr_expect(eq(int, areas(), 0));
}

Test(view, several_blocks_are_one_range)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct larder_object *a = get(&r);

    cr_expect(eq(u64, ldr_record_blocks(&r), 4));
    cr_expect(holds(a, pattern, sizeof pattern));
    cr_expect(eq(int, areas(), 4));
    larder_object_free(&a);
    ldr_views_free(&views);
    cr_expect(eq(int, areas(), 0), "all of it is unmapped");
}

Test(view, a_large_block_starts_where_two_mebibytes_do_and_leaves_nothing_behind)
{
    size_t len = 5 * LDR_MIB + 12345;
    uint8_t *big = malloc(len);
    struct larder_object *o;
    struct ldr_record r;

    memset(big, 7, len);
    big[len - 1] = 9;
    r = record_of(big, len, 23);
    o = get(&r);
    cr_expect(holds(o, big, len));
    cr_expect(eq(sz, (uintptr_t)larder_object_data(o) % (2 * LDR_MIB), 0));
    cr_expect(eq(int, areas(), 1));
    larder_object_free(&o);
    ldr_views_free(&views);
    cr_expect(eq(int, areas(), 0));
    free(big);
}

Test(view, a_block_that_is_missing_or_has_another_length_is_gone)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct larder_object *o = NULL;
    uint8_t *buf = malloc(sizeof pattern);
    char path[MINI_PATH_MAX], elsewhere[MINI_PATH_MAX + 8];

    for (uint32_t n = 0; n < 4; n++) {
        mini_block_path(&mini, &r.id, n, path);
        snprintf(elsewhere, sizeof elsewhere, "%s.away", path);
        cr_assert(rename(path, elsewhere) == 0);
        cr_expect(eq(int, try_get(&r, &o), LDR_BLOCK_GONE), "missing %u", n);
        cr_expect(not(how.damaged), "it was evicted");
        cr_expect(eq(int, try_read(&r, 0, r.size_bytes, buf), LDR_BLOCK_GONE));
        cr_assert(symlink(elsewhere, path) == 0);
        cr_expect(eq(int, try_get(&r, &o), LDR_BLOCK_GONE), "a link %u", n);
        cr_expect(how.damaged);
        cr_assert(unlink(path) == 0 && mkfifo(path, 0600) == 0);
        cr_expect(eq(int, try_get(&r, &o), LDR_BLOCK_GONE), "a pipe %u", n);
        cr_expect(how.damaged);
        cr_assert(unlink(path) == 0 && rename(elsewhere, path) == 0);
    }
    cr_expect(eq(ptr, o, NULL));
    cr_expect(eq(int, areas(), 0), "what was mapped before the bad block is unmapped");
    o = get(&r);
    larder_object_free(&o);
    ldr_views_free(&views);
    views = ldr_views_new(MAP_COUNT);

    mini_block_path(&mini, &r.id, 3, path);
    cr_assert(chmod(path, 0600) == 0 && truncate(path, 4999) == 0);
    cr_expect(eq(int, try_get(&r, &o), LDR_BLOCK_GONE), "shorter");
    cr_expect(how.damaged);
    cr_expect(eq(int, try_read(&r, 0, r.size_bytes, buf), LDR_BLOCK_GONE));
    cr_assert(truncate(path, 5001) == 0);
    cr_expect(eq(int, try_get(&r, &o), LDR_BLOCK_GONE), "longer");
    cr_expect(how.damaged);
    free(buf);
}

Test(view, a_read_into_a_buffer_makes_no_mapping_and_uses_a_kept_one)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    uint8_t *buf = calloc(1, sizeof pattern);
    char path[MINI_PATH_MAX];
    struct larder_object *o;

    cr_assert(eq(int, try_read(&r, 0, r.size_bytes, buf), LDR_HIT));
    cr_expect(eq(int, memcmp(buf, pattern, sizeof pattern), 0));
    cr_expect(not(how.kept));
    cr_expect(eq(int, areas(), 0));
    o = get(&r);
    larder_object_free(&o);
    mini_block_path(&mini, &r.id, 0, path);
    cr_assert(unlink(path) == 0);
    memset(buf, 0, sizeof pattern);
    cr_assert(eq(int, try_read(&r, 0, r.size_bytes, buf), LDR_HIT));
    cr_expect(how.kept);
    cr_expect(eq(int, memcmp(buf, pattern, sizeof pattern), 0));
    free(buf);
}

Test(view, beyond_its_areas_an_object_is_a_copy)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16), one = record_of(pattern, 50000, 16);
    struct larder_object *a, *b;

    ldr_views_free(&views);
    views = ldr_views_new(4 * 3); /* three areas, none kept */
    a = get(&r);
    cr_expect(eq(int, areas(), 0));
    cr_expect(holds(a, pattern, sizeof pattern));
    b = get(&one);
    cr_expect(eq(int, areas(), 1));
    larder_object_free(&b);
    cr_expect(eq(int, areas(), 0));
    larder_object_free(&a);
}

Test(view, address_space_that_is_short_makes_it_a_copy)
{
    size_t len = 3 * LDR_MIB;
    uint8_t *big = calloc(1, len);
    struct ldr_record r = record_of(big, len, 23);
    struct rlimit lim, was;
    struct larder_object *o = NULL;
    char line[64];
    unsigned long pages = 0;
    FILE *f;

    free(big);
    f = fopen("/proc/self/statm", "r");
    cr_assert(fgets(line, sizeof line, f) && sscanf(line, "%lu", &pages) == 1);
    fclose(f);
#if defined(__SANITIZE_ADDRESS__)
    cr_skip("the sanitizer's own address space is without bounds");
#endif
    getrlimit(RLIMIT_AS, &was);
    lim = was;
    lim.rlim_cur = pages * 4096 + 4 * LDR_MIB; /* 2 MiB of alignment and 3 of mapping do not fit, a copy does */
    cr_assert(setrlimit(RLIMIT_AS, &lim) == 0);
    enum ldr_hit hit = try_get(&r, &o);
    setrlimit(RLIMIT_AS, &was);
    cr_assert(eq(int, hit, LDR_HIT));
    cr_expect(eq(int, areas(), 0));
    cr_expect(eq(sz, larder_object_size(o), len));
    larder_object_free(&o);
}

Test(view, kept_mappings_stay_below_their_areas)
{
    struct ldr_record r[40];
    struct larder_object *o;

    ldr_views_free(&views);
    views = ldr_views_new(16 * 10); /* 40 areas, 10 kept */
    for (int i = 0; i < 40; i++) {
        r[i] = record_of(pattern, 20000, 16);
        o = get(&r[i]);
        larder_object_free(&o);
        cr_expect(le(int, areas(), 10));
    }
    cr_expect(eq(int, areas(), 10));
    o = get(&r[39]);
    cr_expect(how.kept, "the newest is still there");
    larder_object_free(&o);
}

Test(view, kept_mappings_stay_below_their_bytes)
{
    size_t len = 490 * LDR_MIB;
    struct larder_object *o;
    char path[MINI_PATH_MAX];

    for (int i = 0; i < 6; i++) {
        struct ldr_record r = record_of(pattern, 100, 29);

        r.size_bytes = len; /* a sparse file will do */
        mini_block_path(&mini, &r.id, 0, path);
        cr_assert(chmod(path, 0600) == 0 && truncate(path, (off_t)len) == 0);
        o = get(&r);
        larder_object_free(&o);
        cr_expect(le(int, areas(), 4));
    }
    cr_expect(eq(int, areas(), 4));
}

Test(view, pressure_drops_what_nobody_uses)
{
    struct ldr_record a = record_of(pattern, 20000, 16), b = record_of(pattern, 30000, 16);
    struct larder_object *held = get(&a), *o = get(&b);

    larder_object_free(&o);
    ldr_views_pressure(views, 0);
    cr_expect(eq(int, areas(), 2), "it did not move");
    ldr_views_pressure(views, 5);
    cr_expect(eq(int, areas(), 1));
    cr_expect(holds(held, pattern, 20000));
    larder_object_free(&held);
    ldr_views_pressure(views, 5);
    cr_expect(eq(int, areas(), 1));
    ldr_views_pressure(views, 6);
    cr_expect(eq(int, areas(), 0));
}

Test(view, an_object_of_a_call_that_asked_is_no_hit_though_its_mapping_was_kept)
{
    struct ldr_record r = record_of(pattern, 20000, 16);
    struct ldr_want asked = { .length = r.size_bytes, .asked = true };
    struct larder_object *a = get(&r), *b;

    cr_assert(eq(int, ldr_views_get(views, dirfd_, &r, &asked, &how, &b), LDR_HIT));
    cr_expect(how.kept);
    cr_expect(eq(int, larder_object_was_hit(a), 1));
    cr_expect(eq(int, larder_object_was_hit(b), 0));
    cr_expect(holds(b, pattern, 20000));
    larder_object_free(&a);
    larder_object_free(&b);
    cr_expect(eq(int, areas(), 1));
}

Test(view, an_empty_object_has_bytes_to_point_to)
{
    struct ldr_record r = { .block_log2 = 23 };
    struct larder_object *o = get(&r);

    cr_expect(ne(ptr, (void *)(uintptr_t)larder_object_data(o), NULL));
    cr_expect(eq(sz, larder_object_size(o), 0));
    larder_object_free(&o);
    larder_object_free(NULL);
}

Test(view, a_directory_that_is_none_cannot_be_read)
{
    struct ldr_record r = record_of(pattern, 20000, 16);
    struct larder_object *o;
    struct ldr_want want = { .length = r.size_bytes };
    int null = open("/dev/null", O_RDONLY);

    cr_expect(eq(int, ldr_views_get(views, null, &r, &want, &how, &o), LDR_NO_CACHE));
    cr_expect(eq(int, ldr_views_get(views, -1, &r, &want, &how, &o), LDR_NO_CACHE));
    cr_expect(not(how.damaged));
    close(null);
}

Test(view, ids_of_one_run_spread_over_all_shards_and_buckets)
{
    static uint16_t n[LDR_VIEW_SHARDS * LDR_VIEW_BUCKETS];
    unsigned used = 0, longest = 0, shards = 0;

    for (uint32_t i = 0; i < LDR_ARRAY_LEN(n); i++) {
        struct ldr_id id = { { 9, 8, 7, 6, 5, 4, 3, 2, [12] = (uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8),
                               (uint8_t)i } };
        unsigned slot = ldr_view_slot(&id);

        cr_assert(lt(uint, slot, LDR_ARRAY_LEN(n)));
        used += n[slot]++ == 0;
        longest = n[slot] > longest ? n[slot] : longest;
    }
    for (int s = 0; s < LDR_VIEW_SHARDS; s++) {
        unsigned in = 0;

        for (int b = 0; b < LDR_VIEW_BUCKETS; b++)
            in += n[s * LDR_VIEW_BUCKETS + b];
        shards += in > LDR_VIEW_BUCKETS / 2;
    }
    cr_expect(eq(uint, shards, LDR_VIEW_SHARDS));
    cr_expect(gt(uint, used, LDR_ARRAY_LEN(n) / 2)); /* 63 % where it is as good as chance */
    cr_expect(lt(uint, longest, 12));
}

/* ---- ranges ---- */

static int all_areas(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    int n = 0;

    for (int ch; (ch = fgetc(f)) != EOF;)
        n += ch == '\n';
    fclose(f);
    return n;
}

Test(view, a_range_needs_and_maps_only_the_blocks_that_it_lies_in)
{
    static const struct {
        uint64_t offset, length;
        int blocks;
    } ranges[] = {
        { 65536, 1, 1 },          { 65536, 65536, 1 },     { 65536 + 65535, 1, 1 }, { 65536 + 65535, 2, 2 },
        { 65536 + 7, 100000, 2 }, { 2 * 65536, 65536, 1 }, { 3 * 65536 - 1, 1, 1 }, { 65536, 2 * 65536, 2 },
    };
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    uint8_t *buf = malloc(sizeof pattern);
    struct larder_object *o = NULL;
    uint64_t id[2];

    mini_drop_block(&mini, &r.id, 0);
    mini_drop_block(&mini, &r.id, 3);
    for (size_t i = 0; i < LDR_ARRAY_LEN(ranges); i++) {
        ldr_views_free(&views);
        views = ldr_views_new(MAP_COUNT);
        cr_assert(eq(int, try_read(&r, ranges[i].offset, ranges[i].length, buf), LDR_HIT), "%zu", i);
        cr_expect(eq(int, memcmp(buf, pattern + ranges[i].offset, ranges[i].length), 0), "%zu", i);
        cr_expect(eq(int, areas(), 0));
        o = get_range(&r, ranges[i].offset, ranges[i].length);
        cr_expect(holds(o, pattern + ranges[i].offset, ranges[i].length), "%zu", i);
        cr_expect(eq(int, areas(), ranges[i].blocks), "%zu", i);
        cr_expect(eq(u64, larder_object_offset(o), ranges[i].offset));
        cr_expect(eq(u64, larder_object_total(o), sizeof pattern));
        larder_object_id(o, id);
        cr_expect(eq(int, memcmp(id, r.id.b, sizeof id), 0));
        larder_object_free(&o);
    }
    ldr_views_free(&views);
    views = ldr_views_new(MAP_COUNT);
    cr_expect(eq(int, areas(), 0));
    cr_expect(eq(int, try_range(&r, 65535, 2, &o), LDR_BLOCK_GONE), "one byte of a block that is not there");
    cr_expect(eq(int, try_range(&r, 65536, 2 * 65536 + 1, &o), LDR_BLOCK_GONE));
    cr_expect(eq(int, try_read(&r, 65536, 2 * 65536 + 1, buf), LDR_BLOCK_GONE));
    cr_expect(not(how.damaged));
    free(buf);
}

Test(view, a_range_of_no_bytes_needs_no_block)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct larder_object *o;

    for (uint32_t n = 0; n < 4; n++)
        mini_drop_block(&mini, &r.id, n);
    o = get_range(&r, sizeof pattern, 0);
    cr_expect(eq(sz, larder_object_size(o), 0));
    cr_expect(eq(u64, larder_object_offset(o), sizeof pattern));
    cr_expect(eq(u64, larder_object_total(o), sizeof pattern));
    larder_object_free(&o);
    cr_expect(eq(int, try_read(&r, 0, 0, NULL), LDR_HIT));
}

Test(view, a_kept_mapping_serves_every_range_that_it_covers)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct larder_object *part = get_range(&r, 65536, 65536), *inner, *whole, *again;
    uint8_t buf[100];

    inner = get_range(&r, 65536 + 50, 100);
    cr_expect(how.kept);
    cr_expect(holds(inner, pattern + 65536 + 50, 100));
    cr_expect(eq(u64, larder_object_offset(inner), 65536 + 50));
    cr_expect(eq(int, areas(), 1));
    whole = get(&r);
    cr_expect(not(how.kept), "a part of it does not do");
    cr_expect(eq(int, areas(), 5));
    larder_object_free(&inner);
    larder_object_free(&part);
    larder_object_free(&whole);
    again = get_range(&r, 3 * 65536, 5000);
    cr_expect(how.kept);
    cr_expect(holds(again, pattern + 3 * 65536, 5000));
    for (uint32_t n = 0; n < 4; n++)
        mini_drop_block(&mini, &r.id, n);
    cr_expect(eq(int, try_read(&r, 65536 - 50, 100, buf), LDR_HIT));
    cr_expect(how.kept);
    cr_expect(eq(int, memcmp(buf, pattern + 65536 - 50, 100), 0));
    larder_object_free(&again);
}

Test(view, a_hit_of_the_range_that_is_kept_allocates_nothing)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct larder_object *a = get_range(&r, 70000, 1000), *b = get_range(&r, 70000, 1000);

    cr_expect(eq(ptr, a, b), "the mapping's own");
    larder_object_free(&a);
    cr_expect(holds(b, pattern + 70000, 1000));
    larder_object_free(&b);
}

Test(view, a_larger_range_takes_the_place_of_those_that_it_covers)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct larder_object *o;

    for (uint64_t n = 1; n <= 4; n++) {
        o = get_range(&r, 0, n < 4 ? n * 65536 : sizeof pattern);
        larder_object_free(&o);
        cr_expect(eq(int, areas(), (int)n));
    }
}

Test(view, of_many_ranges_of_one_object_only_some_are_kept)
{
    size_t len = 100 * 65536;
    uint8_t *big = calloc(1, len);
    struct ldr_record r = record_of(big, len, 16);
    struct larder_object *o, *held = get_range(&r, 0, 10);

    for (uint64_t n = 0; n < 100; n++) {
        o = get_range(&r, n * 65536, 65536);
        larder_object_free(&o);
    }
    cr_expect(le(int, areas(), 34));
    cr_expect(ge(int, areas(), 30));
    o = get_range(&r, 99 * 65536, 65536);
    cr_expect(how.kept, "the newest");
    larder_object_free(&o);
    cr_expect(holds(held, big, 10));
    larder_object_free(&held);
    free(big);
}

Test(view, what_is_not_to_be_kept_is_unmapped_with_its_object)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct ldr_want want = { .offset = 65536, .length = 70000 };
    struct larder_object *o;

    cr_assert(eq(int, ldr_views_get(views, dirfd_, &r, &want, &how, &o), LDR_HIT));
    cr_expect(eq(int, areas(), 2));
    larder_object_free(&o);
    cr_expect(eq(int, areas(), 0));
}

Test(view, a_failure_in_the_middle_gives_all_back)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    struct larder_object *o = NULL;
    int before;

    mini_drop_block(&mini, &r.id, 2);
    cr_expect(eq(int, try_get(&r, &o), LDR_BLOCK_GONE)); /* stdio and malloc have what they need */
    before = all_areas();
    for (int i = 0; i < 100; i++)
        cr_expect(eq(int, try_get(&r, &o), LDR_BLOCK_GONE));
    cr_expect(le(int, all_areas(), before));
    cr_expect(eq(ptr, o, NULL));
}

/* Fill the process with areas to the kernel's limit; returns the region, whose every other page is one. */
static uint8_t *fill_areas(size_t *len)
{
    *len = 2 * (ldr_views_map_count() + 100) * 4096;
    uint8_t *p = mmap(NULL, *len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t at = 4096;

    while (at < *len && mprotect(p + at, 4096, PROT_READ) == 0)
        at += 2 * 4096;
    return at < *len ? p : NULL;
}

Test(view, at_the_kernels_limit_of_areas_it_is_a_copy)
{
    struct ldr_record r = record_of(pattern, sizeof pattern, 16);
    enum ldr_hit hit[10];
    bool right[10];
    size_t len;
    uint8_t *p;
    int copies = 0;

#if defined(__SANITIZE_ADDRESS__)
    cr_skip("the sanitizer needs areas of its own");
#endif
    if (ldr_views_map_count() > 300000)
        cr_skip("too many to fill");
    p = fill_areas(&len);
    cr_assert(ne(ptr, p, NULL));
    for (int i = 0; i < 10;
         i++) { /* with nothing left, then with ever more, so that another block is the first to fail */
        struct larder_object *o = NULL;

        hit[i] = try_get(&r, &o);
        right[i] = hit[i] == LDR_HIT && holds(o, pattern, sizeof pattern);
        copies += (uintptr_t)larder_object_data(o) % 4096 != 0; /* bytes behind the struct */
        larder_object_free(&o);
        ldr_views_pressure(views, (uint64_t)i + 1);
        mprotect(p + 4096 + (size_t)i * 2 * 4096, 4096, PROT_NONE);
    }
    munmap(p, len);
    for (int i = 0; i < 10; i++)
        cr_expect(right[i], "%d: %d", i, (int)hit[i]);
    cr_expect(gt(int, copies, 1));
    cr_expect(lt(int, copies, 10));
    cr_expect(eq(int, areas(), 0));
}

Test(view, a_copy_is_of_the_range_alone)
{
    size_t len = 12 * LDR_MIB;
    uint8_t *big = calloc(1, len), one[1];
    struct ldr_record r;
    struct rlimit lim, was;
    struct larder_object *o = NULL;
    enum ldr_hit hit;
    char line[64];
    unsigned long pages = 0;
    FILE *f;

#if defined(__SANITIZE_ADDRESS__)
    cr_skip("the sanitizer's own address space is without bounds");
#endif
    big[7000000] = 77;
    r = record_of(big, len, 24);
    free(big);
    f = fopen("/proc/self/statm", "r");
    cr_assert(fgets(line, sizeof line, f) && sscanf(line, "%lu", &pages) == 1);
    fclose(f);
    getrlimit(RLIMIT_AS, &was);
    lim = was;
    lim.rlim_cur = pages * 4096 + 4 * LDR_MIB;
    cr_assert(setrlimit(RLIMIT_AS, &lim) == 0);
    hit = try_range(&r, 7000000, 1000, &o);
    setrlimit(RLIMIT_AS, &was);
    cr_assert(eq(int, hit, LDR_HIT));
    cr_expect(eq(int, areas(), 0));
    cr_expect(eq(int, *(const uint8_t *)larder_object_data(o), 77));
    cr_expect(eq(u64, larder_object_offset(o), 7000000));
    cr_expect(eq(u64, larder_object_total(o), len));
    cr_expect(eq(int, try_read(&r, 7000000, 1, one), LDR_HIT));
    cr_expect(eq(int, one[0], 77));
    larder_object_free(&o);
}

/* ---- threads and processes ---- */

static struct ldr_record shared[8];
static _Atomic int wrong;

static void *hammer(void *user)
{
    unsigned seed = (unsigned)(uintptr_t)user;

    for (int i = 0; i < 3000; i++) {
        const struct ldr_record *r = &shared[rand_r(&seed) % 8];
        size_t from = i % 3 ? 0 : (unsigned)rand_r(&seed) % r->size_bytes;
        struct ldr_want want = { from, r->size_bytes - from, i % 7 == 0, i % 5 != 0 };
        struct ldr_view_how h = { 0 };
        struct larder_object *o;

        if (ldr_views_get(views, dirfd_, r, &want, &h, &o) != LDR_HIT) {
            wrong++;
            continue;
        }
        if (!holds(o, pattern + r->size_bytes % 100 + from, r->size_bytes - from))
            wrong++;
        larder_object_free(&o);
        if (i % 100 == 0)
            ldr_views_pressure(views, (uint64_t)rand_r(&seed));
    }
    return NULL;
}

Test(view, threads_share_what_is_kept)
{
    pthread_t t[4];

    ldr_views_free(&views);
    views = ldr_views_new(16 * 5); /* fewer than there are: the hand is busy */
    for (size_t i = 0; i < 8; i++)
        shared[i] = record_of(pattern + i, 20000 + i, 16);
    for (size_t i = 0; i < 8; i++)
        shared[i].size_bytes = 20000 + i;
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, hammer, (void *)(i + 1));
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    cr_expect(eq(int, wrong, 0));
    ldr_views_free(&views);
    cr_expect(eq(int, areas(), 0), "every count was given back");
}

Test(view, a_forked_child_reads_and_frees_what_it_inherited)
{
    struct ldr_record r = record_of(pattern, 20000, 16);
    struct larder_object *o = get(&r), *again;
    int status;
    pid_t child = fork();

    if (child == 0) {
        bool ok = holds(o, pattern, 20000) && try_get(&r, &again) == LDR_HIT && how.kept;

        larder_object_free(&o);
        ok = ok && holds(again, pattern, 20000);
        larder_object_free(&again);
        ldr_views_free(&views);
        _exit(ok && areas() == 0 ? 0 : 1);
    }
    cr_assert(waitpid(child, &status, 0) == child);
    cr_expect(eq(int, status, 0));
    cr_expect(holds(o, pattern, 20000));
    larder_object_free(&o);
}
