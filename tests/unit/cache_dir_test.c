/* cache_dir_test.c - which generation is used, and whether what is in it may be trusted. */
#include "agent/cache_dir.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX], cache[TEST_DIR_MAX + 8];
static struct ldr_cache_dir *d;
static struct larder_err err;

static void make_dir(void)
{
    test_dir_make(dir);
    snprintf(cache, sizeof cache, "%s/cache", dir);
}

static void remove_dir(void)
{
    if (d)
        ldr_cache_dir_close(&d);
    test_dir_remove(dir);
}

TestSuite(cache_dir, .init = make_dir, .fini = remove_dir, .timeout = 60);

static enum larder_kind open_cache(void)
{
    if (d)
        ldr_cache_dir_close(&d);
    return ldr_cache_dir_open(cache, false, 0, &d, &err);
}

/* What the index does: the header of a new generation, then its name in `format`. */
static void use(void)
{
    struct ldr_hdr h = { .magic = LDR_HDR_MAGIC,
                         .version = LDR_HDR_VERSION,
                         .psize = LDR_PAGE,
                         .generation = d->format.generation,
                         .nonce = d->format.nonce,
                         .mapsize = LDR_MIB };
    uint8_t page[LDR_HDR_BYTES] = { 0 };
    int fd;

    if (d->new_generation) {
        fd = openat(d->gendirfd, "hdr", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
        memcpy(page, &h, sizeof h);
        cr_assert(fd >= 0 && write(fd, page, sizeof page) == (ssize_t)sizeof page);
        close(fd);
    }
    cr_assert(eq(int, ldr_cache_dir_commit(d, &err), LARDER_OK), "%s", err.msg);
}

/* An agent's whole life, ended cleanly or not. */
static void live(bool clean)
{
    cr_assert(eq(int, open_cache(), LARDER_OK), "%s", err.msg);
    use();
    if (clean)
        cr_assert(eq(int, ldr_cache_dir_mark(d, true, &err), LARDER_OK));
    ldr_cache_dir_close(&d);
}

static struct ldr_format on_disk(void)
{
    struct ldr_format f = { 0 };
    int fd = open(cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    cr_assert(eq(int, ldr_format_read(fd, &f, &err), LARDER_OK), "%s", err.msg);
    close(fd);
    return f;
}

static void write_format(const char *text, size_t len)
{
    char path[TEST_DIR_MAX + 32];
    FILE *f;

    snprintf(path, sizeof path, "%s/format", cache);
    f = fopen(path, "we");
    cr_assert(f && fwrite(text, 1, len, f) == len && fclose(f) == 0);
}

/* Change the file behind the agent's back. */
static void edit(void (*change)(struct ldr_format *f))
{
    struct ldr_format f = on_disk();
    char text[LDR_FORMAT_MAX];

    change(&f);
    write_format(text, ldr_format_print(&f, text));
}

static bool exists(const char *name)
{
    char path[TEST_DIR_MAX + 64];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", cache, name);
    return lstat(path, &st) == 0;
}

static mode_t mode_of(const char *name, gid_t *group)
{
    char path[TEST_DIR_MAX + 64];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", cache, name);
    cr_assert(lstat(path, &st) == 0, "%s", name);
    if (group)
        *group = st.st_gid;
    return st.st_mode & 07777;
}

/* ---- made, found again ---- */

Test(cache_dir, a_new_one_gets_its_first_generation)
{
    cr_assert(eq(int, open_cache(), LARDER_OK), "%s", err.msg);
    cr_expect(d->new_generation);
    cr_expect(eq(u64, d->format.generation, 1));
    cr_expect(eq(u32, d->format.boot, 1));
    cr_expect(eq(u32, d->format.starts, 1));
    cr_expect(eq(u32, d->before.layout, 0));
    cr_expect(d->format.nonce != 0 && strlen(d->format.boot_id) == 36);
    cr_expect(exists("gen-1") && exists("blocks/00") && exists("blocks/ff") && exists("fill") && exists("rw"));
    cr_expect(not(exists("format")), "it names no generation before that has a header");
    use();
    cr_expect(eq(u64, on_disk().generation, 1));
    cr_expect(not(on_disk().clean));
}

Test(cache_dir, folders_above_are_made)
{
    snprintf(cache, sizeof cache, "%.200s/a/b/c", dir);
    cr_expect(eq(int, open_cache(), LARDER_OK), "%s", err.msg);
}

Test(cache_dir, it_is_kept_after_a_clean_stop)
{
    struct ldr_format first;

    live(true);
    first = on_disk();
    cr_expect(first.clean);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(not(d->new_generation));
    cr_expect(eq(u64, d->format.generation, 1));
    cr_expect(eq(u64, d->format.nonce, first.nonce));
    cr_expect(eq(u32, d->format.boot, 1));
    cr_expect(not(on_disk().clean), "dirty, and on disk, before anything changes");
}

Test(cache_dir, it_is_kept_after_a_kill_within_one_boot)
{
    live(false);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(not(d->new_generation));
    cr_expect(eq(u32, d->format.starts, 2));
}

Test(cache_dir, what_was_being_filled_is_gone_at_the_next_start)
{
    char path[TEST_DIR_MAX + 32];

    live(false);
    snprintf(path, sizeof path, "%s/fill/left", cache);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    cr_assert(exists("fill/left"));
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(not(exists("fill/left")));
}

/* ---- other boots, other devices ---- */

static void other_boot(struct ldr_format *f)
{
    strcpy(f->boot_id, "00000000-0000-0000-0000-000000000000");
}

Test(cache_dir, after_another_boot_a_clean_one_is_kept_under_the_next_boot_number)
{
    live(true);
    edit(other_boot);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(not(d->new_generation));
    cr_expect(eq(u32, d->format.boot, 2));
    use();
    cr_expect(eq(u32, on_disk().boot, 2));
    cr_expect(eq(str, on_disk().boot_id, d->format.boot_id));
}

Test(cache_dir, after_another_boot_a_dirty_one_is_dropped)
{
    uint64_t nonce;

    live(false);
    nonce = on_disk().nonce;
    edit(other_boot);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
    cr_expect(eq(u64, d->format.generation, 2));
    cr_expect(eq(u32, d->format.boot, 2));
    cr_expect(ne(u64, d->format.nonce, nonce));
    cr_expect(not(exists("gen-1")));
}

static void other_device(struct ldr_format *f)
{
    f->device++;
}

static void other_boot_and_device(struct ldr_format *f)
{
    other_boot(f);
    other_device(f);
}

Test(cache_dir, on_another_device_it_is_dropped_even_when_clean)
{
    live(true);
    edit(other_device);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
}

Test(cache_dir, after_another_boot_the_number_of_the_device_means_nothing)
{
    live(true);
    edit(other_boot_and_device);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(not(d->new_generation), "the kernel numbers devices anew");
}

/* ---- other layouts, damage ---- */

Test(cache_dir, a_newer_layout_is_left_alone)
{
    static const char newer[] = "layout=2\nwhatever it says\n";
    char path[TEST_DIR_MAX + 32], text[64] = "";
    FILE *f;

    live(true);
    write_format(newer, sizeof newer - 1);
    cr_assert(eq(int, open_cache(), LARDER_UNSUPPORTED));
    cr_expect(strstr(err.msg, "layout 2") != NULL && strstr(err.msg, cache) != NULL, "%s", err.msg);
    cr_expect(d == NULL);
    snprintf(path, sizeof path, "%s/format", cache);
    f = fopen(path, "re");
    cr_assert(f && fread(text, 1, sizeof text - 1, f) == sizeof newer - 1);
    fclose(f);
    cr_expect(eq(str, text, (char *)newer));
    cr_expect(exists("gen-1"), "nothing of it is touched");
}

Test(cache_dir, a_format_that_cannot_be_read_costs_the_cache_and_not_the_start)
{
    static const struct {
        const char *text;
        size_t len;
    } bad[] = { { "", 0 },
                { "layout=one\n", 11 },
                { "layout=1\nboot=99999999999999999999\n", 34 },
                { "layout=1\nno equals sign\n", 24 },
                { "\0\0\0\0\0\0\0\0", 8 } };

    live(true);
    for (size_t i = 0; i < LDR_ARRAY_LEN(bad); i++) {
        char name[32];

        write_format(bad[i].text, bad[i].len);
        cr_assert(eq(int, open_cache(), LARDER_OK), "%zu: %s", i, err.msg);
        cr_expect(d->new_generation, "%zu", i);
        cr_expect(eq(u64, d->format.generation, i + 2), "a number that no client has seen before");
        snprintf(name, sizeof name, "gen-%zu", i + 1);
        cr_expect(not(exists(name)));
        use();
    }
}

static void no_generation(struct ldr_format *f)
{
    f->generation = 77;
}

Test(cache_dir, a_generation_that_is_not_there_is_made_anew)
{
    live(true);
    edit(no_generation);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
    cr_expect(eq(u64, d->format.generation, 78));
    cr_expect(not(exists("gen-1")));
}

static void damage_hdr(off_t at, const void *p, size_t n)
{
    char path[TEST_DIR_MAX + 32];
    int fd;

    snprintf(path, sizeof path, "%s/gen-1/hdr", cache);
    fd = open(path, O_RDWR | O_CLOEXEC);
    cr_assert(fd >= 0 && (n ? pwrite(fd, p, n, at) == (ssize_t)n : ftruncate(fd, at) == 0));
    close(fd);
}

Test(cache_dir, a_damaged_header_costs_the_generation)
{
    live(true);
    damage_hdr(0, "?", 1);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
}

Test(cache_dir, a_header_that_was_cut_costs_the_generation)
{
    live(true);
    damage_hdr(100, NULL, 0);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
}

Test(cache_dir, a_header_of_another_generation_costs_it_too)
{
    live(true);
    damage_hdr(offsetof(struct ldr_hdr, nonce), "another!", 8);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
}

Test(cache_dir, a_generation_that_was_given_up_is_not_taken_up_again)
{
    uint64_t retired = LDR_RETIRED;

    live(true);
    damage_hdr(offsetof(struct ldr_hdr, cur), &retired, sizeof retired);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
}

Test(cache_dir, what_is_distrusted_is_dropped_at_the_next_start)
{
    cr_assert(eq(int, open_cache(), LARDER_OK));
    use();
    ldr_cache_dir_distrust(d);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
    cr_expect(eq(u64, d->format.generation, 2));
    cr_expect(not(exists("gen-1")));
}

/* ---- starts ---- */

Test(cache_dir, three_starts_without_a_good_minute_cost_the_generation)
{
    for (int i = 0; i < LDR_STARTS_MAX; i++) {
        live(false);
        cr_expect(eq(u32, on_disk().starts, (uint32_t)i + 1));
        cr_expect(eq(u64, on_disk().generation, 1));
    }
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(d->new_generation);
    cr_expect(eq(u32, d->format.starts, 1));
}

Test(cache_dir, a_good_minute_clears_the_count)
{
    live(false);
    live(false);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    use();
    cr_assert(eq(int, ldr_cache_dir_mark(d, false, &err), LARDER_OK));
    cr_expect(eq(u32, on_disk().starts, 0));
    cr_expect(not(on_disk().clean));
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(not(d->new_generation));
}

/* ---- the lock ---- */

Test(cache_dir, a_second_agent_is_told_of_the_first)
{
    struct ldr_cache_dir *other = NULL;
    char pid[32];

    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_assert(eq(int, ldr_cache_dir_open(cache, false, 0, &other, &err), LARDER_EXISTS));
    snprintf(pid, sizeof pid, "pid %d", (int)getpid());
    cr_expect(strstr(err.msg, pid) != NULL && strstr(err.msg, cache) != NULL, "%s", err.msg);
    cr_expect(other == NULL);
    cr_expect(exists("gen-1"), "the refused one touched nothing");
    ldr_cache_dir_close(&d);
    cr_expect(eq(int, open_cache(), LARDER_OK), "%s", err.msg);
}

Test(cache_dir, the_lock_ends_with_the_process_that_held_it)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(open_cache() == LARDER_OK ? 7 : 1); /* not closed: killed, as it were */
    cr_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    cr_expect(eq(int, open_cache(), LARDER_OK), "%s", err.msg);
}

/* ---- modes and groups ---- */

Test(cache_dir, modes_are_set_whatever_the_umask)
{
    umask(0077);
    live(true);
    cr_expect(eq(u32, mode_of(".", NULL), 02750));
    cr_expect(eq(u32, mode_of("blocks", NULL), 02750));
    cr_expect(eq(u32, mode_of("blocks/5a", NULL), 02750));
    cr_expect(eq(u32, mode_of("gen-1", NULL), 02750));
    cr_expect(eq(u32, mode_of("fill", NULL), 0700));
    cr_expect(eq(u32, mode_of("rw", NULL), 02750), "readers write the file in it, not the directory");
    cr_expect(eq(u32, mode_of("agent.lock", NULL), 0600));
    cr_expect(eq(u32, mode_of("format", NULL), 0640));
    umask(0);
    live(true);
    cr_expect(eq(u32, mode_of("agent.lock", NULL), 0600));
    cr_expect(eq(u32, mode_of("format", NULL), 0640));
}

Test(cache_dir, a_mode_that_somebody_changed_is_set_again)
{
    char path[TEST_DIR_MAX + 32];

    live(true);
    snprintf(path, sizeof path, "%s/blocks/10", cache);
    cr_assert(chmod(path, 0777) == 0);
    live(true);
    cr_expect(eq(u32, mode_of("blocks/10", NULL), 02750));
}

Test(cache_dir, everything_that_clients_read_belongs_to_the_group)
{
    static const char *const shared[] = { ".", "blocks", "blocks/00", "blocks/ff", "gen-1", "format" };
    gid_t group;

    if (geteuid() != 0) {
        remove_dir(); /* a skipped test has no end of its own */
        cr_skip_test("only root may give files to any group: run the tests as root");
    }
    cr_assert(eq(int, ldr_cache_dir_open(cache, true, 12345, &d, &err), LARDER_OK), "%s", err.msg);
    use();
    for (size_t i = 0; i < LDR_ARRAY_LEN(shared); i++) {
        mode_t mode = mode_of(shared[i], &group);

        cr_expect(eq(u32, group, 12345), "%s", shared[i]);
        cr_expect(eq(u32, mode, strcmp(shared[i], "format") ? 02750 : 0640), "%s", shared[i]);
    }
    mode_of("agent.lock", &group);
    ldr_cache_dir_close(&d);
    cr_assert(eq(int, ldr_cache_dir_open(cache, true, 23456, &d, &err), LARDER_OK));
    mode_of("blocks/7f", &group);
    cr_expect(eq(u32, group, 23456), "another group of the configuration: given over");
}

/* ---- generations that are over ---- */

Test(cache_dir, readers_of_a_generation_that_is_dropped_are_told)
{
    char path[TEST_DIR_MAX + 32];
    struct ldr_hdr *h;
    int fd;

    live(false);
    snprintf(path, sizeof path, "%s/gen-1/hdr", cache);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    h = mmap(NULL, LDR_HDR_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    cr_assert(h != MAP_FAILED);
    cr_expect(eq(u64, atomic_load(&h->cur), 0));
    edit(other_boot);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(eq(u64, atomic_load(&h->cur), LDR_RETIRED));
    cr_expect(eq(u64, atomic_load(&h->floor), LDR_RETIRED));
    munmap(h, LDR_HDR_BYTES);
}

Test(cache_dir, leftovers_of_other_generations_go_and_their_numbers_are_not_used_again)
{
    char path[TEST_DIR_MAX + 32];

    live(true);
    snprintf(path, sizeof path, "%s/gen-9", cache);
    cr_assert(mkdir(path, 0700) == 0);
    snprintf(path, sizeof path, "%s/gen-x", cache);
    cr_assert(mkdir(path, 0700) == 0);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(not(d->new_generation));
    cr_expect(exists("gen-1") && !exists("gen-9") && exists("gen-x"));
    ldr_cache_dir_distrust(d);
    snprintf(path, sizeof path, "%s/gen-20", cache);
    cr_assert(mkdir(path, 0700) == 0);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(eq(u64, d->format.generation, 21));
}

/* ---- stores ---- */

static void commit_stores(uint64_t s3, uint64_t mem)
{
    cr_assert(eq(int, open_cache(), LARDER_OK));
    ldr_cache_dir_store(d, "s3", s3);
    ldr_cache_dir_store(d, "mem", mem);
    use();
}

Test(cache_dir, a_store_is_known_by_its_fingerprint)
{
    commit_stores(1, 2);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(eq(sz, d->before.n_stores, 2));
    cr_expect(eq(sz, on_disk().n_stores, 2), "while nothing is dropped yet, those that filled it stay named");
    cr_expect(ldr_cache_dir_store(d, "s3", 1));
    cr_expect(not(ldr_cache_dir_store(d, "mem", 3)), "another store is behind it now");
    cr_expect(ldr_cache_dir_store(d, "gs", 4), "not known yet: nothing to drop");
    use();
    cr_expect(eq(sz, on_disk().n_stores, 3));
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(ldr_cache_dir_store(d, "mem", 3));
}

Test(cache_dir, a_new_generation_knows_no_store)
{
    commit_stores(1, 2);
    ldr_cache_dir_distrust(d);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_expect(ldr_cache_dir_store(d, "s3", 99));
}

/* ---- places where no cache can be ---- */

Test(cache_dir, a_path_through_a_file_is_refused)
{
    char path[TEST_DIR_MAX + 32];

    snprintf(path, sizeof path, "%s/file", dir);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    snprintf(cache, sizeof cache, "%.200s/file/c", dir);
    cr_expect(eq(int, open_cache(), LARDER_IO));
    cr_expect(strstr(err.msg, "larder.cache.dir") != NULL, "%s", err.msg);
    cr_expect(d == NULL);
}

Test(cache_dir, a_directory_that_cannot_be_written_is_refused_with_its_name)
{
    int status;
    pid_t pid;

    if (geteuid() != 0) {
        remove_dir(); /* a skipped test has no end of its own */
        cr_skip_test("a directory of somebody else is needed: run the tests as root");
    }
    cr_assert(mkdir(cache, 0755) == 0 && chmod(dir, 0755) == 0);
    pid = fork();
    if (pid == 0) /* another user, who may read the directory and not write it */
        _exit(setgid(65534) || setuid(65534) || open_cache() != LARDER_IO || !strstr(err.msg, cache) ? 1 : 0);
    cr_assert(waitpid(pid, &status, 0) == pid);
    cr_expect(eq(int, status, 0), "exited, with 0");
}

Test(cache_dir, links_in_place_of_its_folders_are_not_followed)
{
    char path[TEST_DIR_MAX + 32];

    cr_assert(mkdir(cache, 0755) == 0);
    snprintf(path, sizeof path, "%s/blocks", cache);
    cr_assert(symlink("/", path) == 0);
    cr_expect(eq(int, open_cache(), LARDER_IO));
}

/* ---- the touch file ---- */

static uint64_t size_of(const char *name)
{
    char path[TEST_DIR_MAX + 64];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", cache, name);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* Open it, and close it again; its inode. */
static ino_t touch(uint64_t bytes, bool anew)
{
    struct stat st = { 0 };
    int fd = -1;

    cr_assert(eq(int, ldr_cache_dir_touch(d, bytes, anew, &fd, &err), LARDER_OK), "%s", err.msg);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    cr_expect(eq(u64, (uint64_t)st.st_size, bytes));
    cr_expect(ge(u64, (uint64_t)st.st_blocks * 512, bytes), "no hole that a reader could meet on a full disk");
    cr_expect(eq(u32, st.st_mode & 07777, 0660));
    close(fd);
    return st.st_ino;
}

Test(cache_dir, the_touch_file_stays_with_its_generation)
{
    ino_t first, other;

    umask(0077);
    cr_assert(eq(int, open_cache(), LARDER_OK));
    first = touch(131072, true);
    cr_expect(eq(u64, size_of("rw/touch"), 131072));
    other = touch(131072, false);
    cr_expect(first == other, "kept");
    cr_expect(not(exists("rw/.touch.new")));
}

Test(cache_dir, a_touch_file_that_is_gone_or_was_cut_is_made_anew)
{
    char path[TEST_DIR_MAX + 64];

    cr_assert(eq(int, open_cache(), LARDER_OK));
    touch(131072, true);
    snprintf(path, sizeof path, "%s/rw/touch", cache);
    cr_assert(truncate(path, 5) == 0);
    touch(131072, false);
    cr_assert(unlink(path) == 0);
    touch(131072, false);
    cr_assert(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    touch(131072, false);
    cr_expect(eq(u64, size_of("rw/touch"), 131072));
}

Test(cache_dir, a_link_in_place_of_the_touch_file_is_not_followed)
{
    char path[TEST_DIR_MAX + 64], victim[TEST_DIR_MAX + 64];

    cr_assert(eq(int, open_cache(), LARDER_OK));
    snprintf(path, sizeof path, "%s/rw/touch", cache);
    snprintf(victim, sizeof victim, "%s/victim", dir);
    close(open(victim, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    cr_assert(truncate(victim, 131072) == 0 && symlink(victim, path) == 0);
    touch(131072, false);
    cr_assert(chmod(victim, 0600) == 0);
    snprintf(victim, sizeof victim, "rw/touch");
    cr_expect(eq(u32, mode_of(victim, NULL), 0660), "the file itself");
}

/* ---- a limit ---- */

Test(cache_dir, on_the_root_file_system_a_limit_must_bound_it)
{
    struct stat root, here;

    cr_assert(eq(int, open_cache(), LARDER_OK));
    cr_assert(stat("/", &root) == 0 && fstat(d->dirfd, &here) == 0);
    cr_expect(eq(int, ldr_cache_dir_bounded(d, LDR_MIB, 0, &err), LARDER_OK));
    cr_expect(eq(int, ldr_cache_dir_bounded(d, UINT64_MAX, 4096, &err), LARDER_OK));
    if (root.st_dev != here.st_dev) {
        cr_expect(eq(int, ldr_cache_dir_bounded(d, UINT64_MAX, 0, &err), LARDER_OK), "a file system of its own");
        return;
    }
    cr_assert(eq(int, ldr_cache_dir_bounded(d, UINT64_MAX, 0, &err), LARDER_INVALID));
    cr_expect(strstr(err.msg, "larder.cache.max_size") && strstr(err.msg, "larder.cache.min_free"), "%s", err.msg);
}
