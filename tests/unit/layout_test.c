/* layout_test.c - names and small files of the cache directory. */
#include "common/layout.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- hdr ---- */

Test(layout, the_header_has_its_fields_where_running_tasks_read_them)
{
    cr_expect(eq(sz, offsetof(struct ldr_hdr, magic), 0));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, version), 8));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, psize), 12));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, generation), 16));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, nonce), 24));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, mapsize), 32));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, boot), 40));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, inline_limit), 44));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, touch_bits), 48));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, npages), 64));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, pressure), 72));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, cur), 128));
    cr_expect(eq(sz, offsetof(struct ldr_hdr, floor), 136));
    cr_expect(le(sz, sizeof(struct ldr_hdr), LDR_HDR_BYTES));
    cr_expect(eq(int, memcmp(&(uint64_t){ LDR_HDR_MAGIC }, "\x01\nLRDER1", 8), 0));
}

static struct ldr_hdr good_hdr(void)
{
    return (struct ldr_hdr){ .magic = LDR_HDR_MAGIC,
                             .version = LDR_HDR_VERSION,
                             .psize = LDR_PAGE,
                             .mapsize = LDR_MAP_MAX,
                             .inline_limit = LDR_RECORD_MAX };
}

Test(layout, a_header_with_any_constant_out_of_bounds_is_refused)
{
    struct ldr_hdr h = good_hdr();

    cr_assert(ldr_hdr_valid(&h));
    h.magic ^= 1;
    cr_expect(not(ldr_hdr_valid(&h)));
    h = good_hdr();
    h.version++;
    cr_expect(not(ldr_hdr_valid(&h)));
    h = good_hdr();
    h.psize = 8192;
    cr_expect(not(ldr_hdr_valid(&h)));
    h = good_hdr();
    h.mapsize += LDR_PAGE;
    cr_expect(not(ldr_hdr_valid(&h)));
    h.mapsize = 3 * LDR_PAGE;
    cr_expect(not(ldr_hdr_valid(&h)));
    h.mapsize = 4 * LDR_PAGE;
    cr_expect(ldr_hdr_valid(&h));
    h.mapsize = 4 * LDR_PAGE + 1;
    cr_expect(not(ldr_hdr_valid(&h)));
    h = good_hdr();
    h.inline_limit++;
    cr_expect(not(ldr_hdr_valid(&h)));
    memset(&h, 0, sizeof h);
    cr_expect(not(ldr_hdr_valid(&h)), "a page of zeros");
}

/* ---- format ---- */

static struct ldr_format full_format(void)
{
    struct ldr_format f = { .layout = LDR_LAYOUT,
                            .boot = UINT32_MAX,
                            .device = UINT64_MAX,
                            .generation = UINT64_MAX - 1,
                            .nonce = 0x0123456789abcdef,
                            .clean = true,
                            .starts = 3,
                            .n_stores = LDR_FORMAT_STORES };

    memset(f.boot_id, 'b', sizeof f.boot_id - 1);
    for (size_t i = 0; i < LDR_FORMAT_STORES; i++) {
        snprintf(f.stores[i].scheme, sizeof f.stores[i].scheme, "abcdefghijklm%02zu", i);
        f.stores[i].fingerprint = 0xfedcba9876543210 + i;
    }
    return f;
}

static enum larder_kind parse(const char *text, struct ldr_format *out)
{
    struct larder_err err = { 0 };
    enum larder_kind k = ldr_format_parse(text, strlen(text), out, &err);

    cr_expect(eq(int, k, err.kind));
    return k;
}

Test(layout, the_fullest_format_reads_back_as_it_was_printed)
{
    struct ldr_format f = full_format(), back;
    char text[LDR_FORMAT_MAX];
    size_t n = ldr_format_print(&f, text);

    cr_assert(lt(sz, n, sizeof text));
    cr_assert(eq(sz, n, strlen(text)));
    cr_assert(eq(int, parse(text, &back), LARDER_OK));
    cr_expect(eq(u32, back.layout, f.layout));
    cr_expect(eq(str, back.boot_id, f.boot_id));
    cr_expect(eq(u32, back.boot, f.boot));
    cr_expect(eq(u64, back.device, f.device));
    cr_expect(eq(u64, back.generation, f.generation));
    cr_expect(eq(u64, back.nonce, f.nonce));
    cr_expect(back.clean);
    cr_expect(eq(u32, back.starts, f.starts));
    cr_assert(eq(sz, back.n_stores, f.n_stores));
    for (size_t i = 0; i < f.n_stores; i++) {
        cr_expect(eq(str, back.stores[i].scheme, f.stores[i].scheme));
        cr_expect(eq(u64, back.stores[i].fingerprint, f.stores[i].fingerprint));
    }
}

Test(layout, the_format_is_this_text)
{
    struct ldr_format f = { .layout = 1,
                            .boot_id = "0a1b-2c",
                            .boot = 2,
                            .device = 3,
                            .generation = 4,
                            .nonce = 5,
                            .starts = 6,
                            .n_stores = 1,
                            .stores = { { "s3", 0x0102030405060708 } } };
    char text[LDR_FORMAT_MAX];

    ldr_format_print(&f, text);
    cr_expect(eq(str, text,
                 "# larder's cache; written by its agent alone\n"
                 "layout=1\nboot_id=0a1b-2c\nboot=2\ndevice=3\ngeneration=4\nnonce=5\nclean=0\nstarts=6\n"
                 "store.s3=0807060504030201\n"));
}

Test(layout, lines_of_a_later_release_are_skipped)
{
    struct ldr_format f;

    cr_assert(eq(int, parse("\n# a comment = \n\nlayout=1\nwhatever=\n=\nboot=7\nboots=x", &f), LARDER_OK));
    cr_expect(eq(u32, f.boot, 7));
}

Test(layout, of_a_newer_layout_only_its_number_is_read)
{
    struct ldr_format f;

    cr_assert(eq(int, parse("layout=2\nboot=three\nno equals sign\nstore.s3=zz\n", &f), LARDER_OK));
    cr_expect(eq(u32, f.layout, 2));
    cr_expect(eq(u32, f.boot, 0));
    cr_expect(eq(int, parse("layout=4294967295\n", &f), LARDER_OK));
    cr_expect(eq(int, parse("layout=4294967296\n", &f), LARDER_CORRUPT));
}

#define LONG_BOOT_ID "layout=1\nboot_id=0123456789012345678901234567890123456789012345678901234567890123\n"

Test(layout, a_malformed_format_is_corrupt_and_changes_nothing)
{
    static const char *const bad[] = { "",
                                       "\n",
                                       "# nothing but a comment",
                                       "layout",
                                       "layout=",
                                       "layout=0\n",
                                       "layout=-1\n",
                                       "layout=+1\n",
                                       "layout= 1\n",
                                       "layout=1 \n",
                                       "layout=1\r\n",
                                       "layout=0x1\n",
                                       "boot=1\nlayout=1\n",
                                       "layout=1\nboot\n",
                                       "layout=1\nboot=\n",
                                       "layout=1\nboot=x\n",
                                       "layout=1\nboot=1x\n",
                                       "layout=1\nboot=-1\n",
                                       "layout=1\nboot=4294967296\n",
                                       "layout=1\nstarts=4294967296\n",
                                       "layout=1\nnonce=18446744073709551616\n",
                                       "layout=1\nclean=2\n",
                                       "layout=1\nstore.s3=0102\n",
                                       "layout=1\nstore.s3=01020304050607zz\n",
                                       "layout=1\nstore.abcdefghijklmnop=0102030405060708\n",
                                       LONG_BOOT_ID };

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        struct ldr_format f = { .boot = 42 };

        cr_expect(eq(int, parse(bad[i], &f), LARDER_CORRUPT), "\"%s\"", bad[i]);
        cr_expect(eq(u32, f.boot, 42));
    }
}

Test(layout, more_stores_bytes_or_nuls_than_a_format_has_are_corrupt)
{
    struct ldr_format full = full_format(), f;
    char text[LDR_FORMAT_MAX + 64];
    size_t n = ldr_format_print(&full, text);

    strcpy(text + n, "store.s3=0102030405060708\n");
    cr_expect(eq(int, parse(text, &f), LARDER_CORRUPT));
    text[n] = '\0';
    cr_expect(eq(int, ldr_format_parse(text, n + 1, &f, NULL), LARDER_CORRUPT), "a NUL");
    memset(text + n, '\n', sizeof text - n);
    cr_expect(eq(int, ldr_format_parse(text, LDR_FORMAT_MAX, &f, NULL), LARDER_OK));
    cr_expect(eq(int, ldr_format_parse(text, LDR_FORMAT_MAX + 1, &f, NULL), LARDER_CORRUPT));
}

/* ---- format as a file ---- */

static char dir[64];
static int dirfd_;

static void make_dir(void)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof dir, "%.40s/layout-XXXXXX", tmp ? tmp : "/tmp");
    cr_assert(ne(ptr, mkdtemp(dir), NULL));
    dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void remove_dir(void)
{
    unlinkat(dirfd_, "format", 0);
    unlinkat(dirfd_, "format", AT_REMOVEDIR);
    unlinkat(dirfd_, "other", 0);
    close(dirfd_);
    rmdir(dir);
}

TestSuite(layout_file, .init = make_dir, .fini = remove_dir, .timeout = 10);

static void put_file(const char *name, const char *text, size_t n)
{
    int fd = openat(dirfd_, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    cr_assert(ge(int, fd, 0));
    cr_assert(eq(long, write(fd, text, n), (long)n));
    close(fd);
}

static enum larder_kind read_file(struct ldr_format *out)
{
    struct larder_err err = { 0 };
    enum larder_kind k = ldr_format_read(dirfd_, out, &err);

    cr_expect(eq(int, err.kind, k));
    return k;
}

Test(layout_file, a_format_is_read_from_its_directory)
{
    struct ldr_format f;

    put_file("format", "layout=1\nnonce=9\n", 17);
    cr_assert(eq(int, read_file(&f), LARDER_OK));
    cr_expect(eq(u64, f.nonce, 9));
}

Test(layout_file, a_missing_format_is_not_found)
{
    struct ldr_format f;

    cr_expect(eq(int, read_file(&f), LARDER_NOT_FOUND));
}

Test(layout_file, a_link_is_not_followed)
{
    struct ldr_format f;

    put_file("other", "layout=1\n", 9);
    cr_assert(eq(int, symlinkat("other", dirfd_, "format"), 0));
    cr_expect(eq(int, read_file(&f), LARDER_IO));
}

Test(layout_file, a_folder_or_a_pipe_in_its_place_is_refused_at_once)
{
    struct ldr_format f;

    cr_assert(eq(int, mkdirat(dirfd_, "format", 0700), 0));
    cr_expect(eq(int, read_file(&f), LARDER_IO));
    cr_assert(eq(int, unlinkat(dirfd_, "format", AT_REMOVEDIR), 0));
    cr_assert(eq(int, mkfifoat(dirfd_, "format", 0600), 0));
    cr_expect(eq(int, read_file(&f), LARDER_CORRUPT), "no writer: nothing to read");
}

Test(layout_file, a_file_that_is_too_large_is_corrupt)
{
    static char text[LDR_FORMAT_MAX + 1] = "layout=1\n";
    struct ldr_format f;

    memset(text + 9, '\n', sizeof text - 9);
    put_file("format", text, sizeof text);
    cr_expect(eq(int, read_file(&f), LARDER_CORRUPT));
}

/* ---- names ---- */

Test(layout, generations_and_blocks_have_these_names)
{
    char gen[LDR_GEN_NAME_MAX], block[LDR_BLOCK_NAME_MAX];
    struct ldr_id id;

    for (size_t i = 0; i < 16; i++)
        id.b[i] = (uint8_t)(0xf0 + i);
    ldr_gen_name(0, gen);
    cr_expect(eq(str, gen, "gen-0"));
    ldr_gen_name(UINT64_MAX, gen);
    cr_expect(eq(str, gen, "gen-18446744073709551615"));
    ldr_block_name(&id, 0, block);
    cr_expect(eq(str, block, "blocks/ff/f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff.0"));
    ldr_block_name(&id, UINT32_MAX, block);
    cr_expect(eq(str, block, "blocks/ff/f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff.4294967295"));
}

Test(layout, file_systems_are_known_by_their_number)
{
    const char *name = NULL;

    cr_expect(ldr_fs_suitable(EXT4_SUPER_MAGIC, &name));
    cr_expect(eq(str, (char *)name, "ext4"));
    cr_expect(ldr_fs_suitable(0x58465342, &name));
    cr_expect(eq(str, (char *)name, "xfs"));
    cr_expect(ldr_fs_suitable(BTRFS_SUPER_MAGIC, &name));
    cr_expect(ldr_fs_suitable(TMPFS_MAGIC, &name));
    cr_expect(not(ldr_fs_suitable(OVERLAYFS_SUPER_MAGIC, &name)));
    cr_expect(eq(str, (char *)name, "overlayfs"));
    cr_expect(not(ldr_fs_suitable(NFS_SUPER_MAGIC, &name)));
    cr_expect(ne(ptr, (void *)name, NULL));
}
