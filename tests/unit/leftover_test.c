/* leftover_test.c - notes of uploads: what a start finds of an earlier run is aborted, and forgotten. */
#include "agent/leftover.h"
#include "agent/upload_impl.h"
#include "common/uri.h"
#include "tests/support/domain_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY "mem://b/k"

/* of the one test that this process runs */
static char dir[TEST_DIR_MAX];
static struct domain_fixture f;
static struct larder_err err;
static char name[LDR_LEFTOVER_NAME_MAX];

/* What the store is told: notes lead to it by the routes, not by the fixture's names. */
static struct ldr_backend_ops ops;
static atomic_uint asked, fails;
static enum larder_kind fail_with;
static char seen[16][128]; /* clipped */

static void told(struct ldr_backend *b, struct ldr_op *op)
{
    unsigned n = atomic_fetch_add(&asked, 1);

    (void)b;
    if (n < LDR_ARRAY_LEN(seen))
        snprintf(seen[n], sizeof seen[n], "%.40s %.30s %.40s %d", op->uri, op->key, op->upload->id,
                 op->what == LDR_OP_UPLOAD_ABORT);
    if (atomic_load(&fails)) {
        atomic_fetch_sub(&fails, 1);
        ldr_op_done(op, ldr_fail(&op->err, fail_with, "the store says no"));
    } else {
        ldr_op_done(op, LARDER_OK);
    }
}

static void listen_to_store(void)
{
    struct ldr_name *n;

    cr_assert(eq(int, ldr_route(f.domain.routes, KEY, &n, &err), LARDER_OK));
    ops = *n->backend->ops;
    ops.upload = told;
    n->backend->ops = &ops;
    ldr_name_unref(&n);
}

static void make_domain(void)
{
    test_dir_make(dir);
    domain_open(&f, dir, NULL);
    listen_to_store();
}

static void end_domain(void)
{
    bool sound = domain_close(&f);

    test_dir_remove(dir);
    cr_assert(sound, "something is left: see stderr");
}

TestSuite(leftover, .init = make_domain, .fini = end_domain, .timeout = 60);

static unsigned notes(void)
{
    DIR *d = fdopendir(openat(f.domain.dir->uploadsfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct dirent *e;
    unsigned n = 0;

    while ((e = readdir(d)))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void note(const char *uri, const char *id)
{
    cr_assert(eq(int, ldr_leftover_note(f.domain.dir, uri, id, name, &err), LARDER_OK), "%s", err.msg);
}

static void start(void)
{
    ldr_leftovers_start(&f.domain, 1);
    while (domain_step(&f, false))
        ;
    cr_assert(domain_run_idle(&f));
}

static void write_file(const char *file, const void *p, size_t n)
{
    int fd = openat(f.domain.dir->uploadsfd, file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert(fd >= 0 && write(fd, p, n) == (ssize_t)n);
    close(fd);
}

static size_t read_note(uint8_t *p, size_t cap)
{
    int fd = openat(f.domain.dir->uploadsfd, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, p, cap);

    cr_assert(n > 0);
    close(fd);
    return (size_t)n;
}

Test(leftover, a_noted_upload_is_aborted_at_the_next_start_and_forgotten)
{
    struct stat st;

    note(KEY, "id-1");
    cr_assert(eq(int, fstatat(f.domain.dir->uploadsfd, name, &st, 0), 0));
    cr_expect(eq(uint, st.st_mode & 07777, 0600));
    cr_assert(eq(int, fstat(f.domain.dir->uploadsfd, &st), 0));
    cr_expect(eq(uint, st.st_mode & 07777, 0700));
    cr_assert(domain_close(&f));
    domain_open(&f, dir, NULL);
    listen_to_store();
    cr_assert(eq(uint, notes(), 1), "a restart keeps it");
    start();
    cr_expect(eq(uint, atomic_load(&asked), 1));
    cr_expect(eq(str, seen[0], "mem://b/k k id-1 1"));
    cr_expect(eq(uint, notes(), 0));
    cr_expect(eq(u64, atomic_load(&f.domain.counters.leftovers_aborted), 1));
    start();
    cr_expect(eq(uint, atomic_load(&asked), 1), "once");
}

Test(leftover, one_that_ended_is_not_aborted)
{
    note(KEY, "id-1");
    ldr_leftover_forget(f.domain.dir, name);
    ldr_leftover_forget(f.domain.dir, name);
    ldr_leftover_forget(f.domain.dir, "");
    start();
    cr_expect(eq(uint, atomic_load(&asked), 0));
}

Test(leftover, odd_keys_and_long_ids_come_back_as_they_were)
{
    char id[LDR_UPLOAD_ID_MAX + 2];

    note("mem://b/a\nb \"c\"=d", "x y\n");
    start();
    cr_expect(eq(str, seen[0], "mem://b/a\nb \"c\"=d a\nb \"c\"=d x y\n 1"));
    memset(id, 'i', sizeof id);
    id[LDR_UPLOAD_ID_MAX + 1] = '\0';
    cr_expect(eq(int, ldr_leftover_note(f.domain.dir, KEY, id, name, &err), LARDER_INVALID));
    cr_expect(eq(int, ldr_leftover_note(f.domain.dir, KEY, "", name, &err), LARDER_INVALID));
    cr_expect(eq(str, name, ""));
    cr_expect(eq(uint, notes(), 0));
    id[LDR_UPLOAD_ID_MAX] = '\0';
    note(KEY, id);
    start();
    cr_expect(eq(uint, notes(), 0));
}

Test(leftover, a_file_that_is_no_note_is_removed_and_asks_no_store)
{
    uint8_t sound[4096], bad[4096], *huge;
    size_t n;

    note(KEY, "id-1");
    n = read_note(sound, sizeof sound);
    ldr_leftover_forget(f.domain.dir, name);
    for (size_t i = 0; i < n; i++) { /* each byte damaged */
        char file[32];

        memcpy(bad, sound, n);
        bad[i] ^= 0x41;
        snprintf(file, sizeof file, "d%zu", i);
        write_file(file, bad, n);
    }
    for (size_t i = 0; i < n; i++) { /* each length cut */
        char file[32];

        snprintf(file, sizeof file, "c%zu", i);
        write_file(file, sound, i);
    }
    memcpy(bad, sound, n);
    write_file("longer", bad, n + 1);
    huge = calloc(1, LDR_MIB);
    memcpy(huge, sound, n);
    write_file("huge", huge, LDR_MIB);
    free(huge);
    cr_assert(eq(int, symlinkat("/etc/passwd", f.domain.dir->uploadsfd, "link"), 0));
    start();
    cr_expect(eq(uint, atomic_load(&asked), 0));
    cr_expect(eq(uint, notes(), 0));
}

Test(leftover, a_store_that_does_not_answer_is_asked_again)
{
    fail_with = LARDER_UNAVAILABLE;
    atomic_store(&fails, 5); /* an attempt is up to four requests */
    note(KEY, "id-1");
    start();
    cr_expect(gt(uint, atomic_load(&asked), 5));
    cr_expect(eq(uint, notes(), 0));
    cr_expect(eq(u64, atomic_load(&f.domain.counters.leftovers_aborted), 1));
}

Test(leftover, what_a_store_refuses_is_logged_and_forgotten_and_the_others_go_on)
{
    fail_with = LARDER_DENIED;
    atomic_store(&fails, 1);
    note(KEY, "id-1");
    note(KEY, "id-2");
    start();
    cr_expect(eq(uint, atomic_load(&asked), 2));
    cr_expect(eq(uint, notes(), 0));
    cr_expect(eq(u64, atomic_load(&f.domain.counters.leftovers_aborted), 1));
}

Test(leftover, one_of_a_store_that_is_not_configured_waits_for_it)
{
    note("s3://b/k", "id-1");
    note(KEY, "id-2");
    start();
    cr_expect(eq(uint, atomic_load(&asked), 1));
    cr_expect(eq(uint, notes(), 1));
}

Test(leftover, a_stop_ends_the_waiting_and_the_note_stays)
{
    fail_with = LARDER_UNAVAILABLE;
    atomic_store(&fails, 1000);
    note(KEY, "id-1");
    ldr_leftovers_start(&f.domain, 3600 * 1000);
    while (atomic_load(&asked) < 4)
        domain_step(&f, false);
    ldr_net_shutdown(f.net);
    cr_assert(domain_run_idle(&f));
    cr_expect(eq(uint, notes(), 1));
}
