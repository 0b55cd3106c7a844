/* limits_test.c - the limits of a cache that is full all the time: bytes, files and free space hold at every instant,
 * what is mapped stays readable, and what is read again stays cached.
 *
 * What "at every instant" is measured by:
 *   seen   any file system: twice, one after the other, all files of CACHE are noted, those without a name (being filled,
 *          or unlinked and still mapped) by the agent's own descriptors. A file of both lists existed in between; the
 *          allocated bytes (st_blocks) of these are what the cache took at that moment, or less, never more.
 *          Summed are block files, fills, data.mdb and rw/touch; counted is all but directories.
 *   exact  a tmpfs that holds nothing but CACHE (root only): what the kernel says is used, one system call a moment. */
#include "tests/e2e/e2e.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#define PATIENT_MS  60000
#define CLIENTS     16
#define SMALL_FILES (64 * LDR_KIB) /* agent.lock, format twice, hdr, lock.mdb: not in the ledger, never more */
#define BITS        (4 * LDR_MIB)  /* what all objects are cut from */

static struct {
    struct agent agent;
    struct larder *l;
    uint8_t *bits;
    char fs[TEST_DIR_MAX + 16]; /* the tmpfs; "": there is none */
} t;

static void enter(void)
{
    agent_init(&t.agent, NULL);
    t.bits = bd_bytes(BITS, 1);
}

/* An agent that died is what a test should tell first. */
static void show_death(void)
{
    char line[1024];
    FILE *f;

    if (!t.agent.pid || agent_alive(&t.agent))
        return;
    fprintf(stderr, "the agent died, its log ends with:\n");
    f = fopen(t.agent.log, "re");
    if (f && fseek(f, -6000, SEEK_END))
        rewind(f);
    while (f && fgets(line, sizeof line, f))
        fputs(line, stderr);
    if (f)
        fclose(f);
}

static void leave(void)
{
    show_death();
    larder_close(&t.l);
    agent_kill(&t.agent);
    if (t.fs[0]) {
        umount2(t.agent.cache, MNT_DETACH);
        umount2(t.fs, MNT_DETACH);
    }
    agent_release(&t.agent);
    free(t.bits);
}

TestSuite(limits, .init = enter, .fini = leave, .timeout = 120);

static void go(void)
{
    agent_start(&t.agent);
    t.l = agent_open(&t.agent);
}

static uint64_t counter(const char *name)
{
    return agent_counter(&t.agent, name);
}

/* ---- objects ---- */

static uint64_t mixed(uint64_t n)
{
    n = (n + 1) * UINT64_C(0x9e3779b97f4a7c15);
    return n ^ n >> 29;
}

static const uint8_t *bytes_of(unsigned i, size_t n)
{
    return t.bits + mixed(i) % (BITS - n);
}

static void uri_of(unsigned i, char out[64])
{
    snprintf(out, 64, "file://box/o%u", i);
}

static void seed(unsigned i, size_t n)
{
    char key[32];

    snprintf(key, sizeof key, "o%u", i);
    agent_seed_file(&t.agent, "box", key, bytes_of(i, n), n);
}

/* Read object i by one of three ways; right bytes? */
static bool right(struct larder *l, unsigned i, size_t n, unsigned way, uint8_t *buf)
{
    struct larder_object *o = NULL;
    struct larder_err err = { 0 };
    char uri[64];
    uint64_t size = 0;
    size_t got = 0;
    bool ok;

    uri_of(i, uri);
    switch (way % 3) {
    case 0:
        ok = larder_get(l, uri, PATIENT_MS, &o, &err) == LARDER_OK && larder_object_size(o) == n &&
             !memcmp(larder_object_data(o), bytes_of(i, n), n);
        larder_object_free(&o);
        break;
    case 1:
        ok = larder_get_into(l, uri, buf, n, PATIENT_MS, &size, &err) == LARDER_OK && size == n &&
             !memcmp(buf, bytes_of(i, n), n);
        break;
    default:
        ok = larder_read(l, uri, n / 3, buf, n / 2, PATIENT_MS, &got, &size, &err) == LARDER_OK && got == n / 2 &&
             size == n && !memcmp(buf, bytes_of(i, n) + n / 3, got);
    }
    if (!ok)
        fprintf(stderr, "%s, way %u: %s: %s\n", uri, way % 3, larder_kind_name(err.kind),
                err.msg[0] ? err.msg : "other bytes");
    return ok;
}

static void expect_right(struct larder *l, unsigned i, size_t n, unsigned way)
{
    uint8_t *buf = malloc(n + 1);

    cr_assert(buf != NULL);
    cr_assert(right(l, i, n, way, buf));
    free(buf);
}

/* ---- a file system of its own ---- */

static void need_mounts(void)
{
    need_root();
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        fprintf(stderr, "SKIPPED: mount namespaces cannot be made here\n");
        cr_skip("mount namespaces cannot be made here");
    }
}

/* CACHE lies on a tmpfs of this size, in which others can make files, too (t.fs). */
static void use_tmpfs(const char *size)
{
    char options[64], folder[sizeof t.fs + 8];

    need_mounts();
    snprintf(options, sizeof options, "size=%s,mode=755", size);
    snprintf(t.fs, sizeof t.fs, "%s/fs", t.agent.dir);
    snprintf(folder, sizeof folder, "%s/cache", t.fs);
    cr_assert(eq(int, mkdir(t.fs, 0755), 0));
    cr_assert(eq(int, mount("larder-test", t.fs, "tmpfs", 0, options), 0), "%s", strerror(errno));
    cr_assert(eq(int, mkdir(folder, 0755), 0));
    cr_assert(eq(int, mkdir(t.agent.cache, 0755), 0));
    cr_assert(eq(int, mount(folder, t.agent.cache, NULL, MS_BIND, NULL), 0), "%s", strerror(errno));
}

static uint64_t free_bytes(void)
{
    struct statvfs v;

    cr_assert(eq(int, statvfs(t.fs, &v), 0));
    return (uint64_t)v.f_bavail * v.f_frsize;
}

static uint64_t used_bytes(void)
{
    struct statvfs v;

    return statvfs(t.fs, &v) ? 0 : (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize;
}

/* Somebody else takes `n` bytes of the file system, or all that there is. */
static void fill_up(uint64_t n)
{
    char path[sizeof t.fs + 16];
    uint64_t done = 0;
    int fd;

    snprintf(path, sizeof path, "%s/other", t.fs);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    cr_assert(fd >= 0);
    for (size_t step = 256 * LDR_KIB; done < n && step >= 4096;) {
        ssize_t got = write(fd, t.bits, step < n - done ? step : n - done);

        if (got > 0)
            done += (uint64_t)got;
        else if (errno == ENOSPC)
            step /= 2;
        else
            cr_fatal("%s: %s", path, strerror(errno));
    }
    close(fd);
}

static void clean_up(void)
{
    char path[sizeof t.fs + 16];

    snprintf(path, sizeof path, "%s/other", t.fs);
    cr_assert(eq(int, unlink(path), 0));
}

/* ---- the sampler ---- */

struct seen {
    uint64_t inode, born_ns, bytes; /* bytes: 0 for a file that is only counted */
};

struct list {
    struct seen *v;
    size_t n, cap;
};

struct sampler {
    pthread_t thread;
    atomic_bool stop;
    int cache; /* descriptor of CACHE */
    pid_t agent;
    struct list before, after;
    uint64_t peak_bytes, peak_files, samples;
    uint64_t peak_used; /* exact; only with a tmpfs */
    uint64_t least_free;
};

static void note(struct list *l, const struct statx *st, bool sums)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 1024;
        l->v = realloc(l->v, l->cap * sizeof *l->v);
        if (!l->v)
            agent_die("out of memory");
    }
    l->v[l->n++] = (struct seen){ .inode = st->stx_ino,
                                  .born_ns = (uint64_t)st->stx_btime.tv_sec * LDR_NS_PER_S + st->stx_btime.tv_nsec,
                                  .bytes = sums ? st->stx_blocks * 512 : 0 };
}

static void note_folder(struct list *l, int at, const char *name, unsigned depth)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((e = readdir(d))) {
        struct statx st;

        if (e->d_name[0] == '.' && (!e->d_name[1] || !strcmp(e->d_name, "..")))
            continue;
        if (statx(dirfd(d), e->d_name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &st))
            continue;
        if (S_ISDIR(st.stx_mode)) {
            if (depth < 3)
                note_folder(l, dirfd(d), e->d_name, depth + 1);
        } else {
            /* blocks/xx/ID.n, fill/…, gen-N/data.mdb, rw/touch; what else there is has a few pages for ever */
            note(l, &st, depth == 2 || !strcmp(name, "fill") || !strcmp(e->d_name, "data.mdb") || !strcmp(name, "rw"));
        }
    }
    closedir(d);
}

/* Files of the cache's file system that the agent has open and nobody can name. */
static void note_unnamed(struct list *l, int cache, pid_t agent)
{
    char folder[64];
    struct stat of_cache;
    struct dirent *e;
    DIR *d;

    snprintf(folder, sizeof folder, "/proc/%d/fd", (int)agent);
    d = opendir(folder);
    if (!d || fstat(cache, &of_cache))
        agent_die("could not see the agent's files");
    while ((e = readdir(d))) {
        struct statx st;

        if (statx(dirfd(d), e->d_name, 0, STATX_BASIC_STATS | STATX_BTIME, &st) || !S_ISREG(st.stx_mode) ||
            st.stx_nlink || makedev(st.stx_dev_major, st.stx_dev_minor) != of_cache.st_dev)
            continue;
        note(l, &st, true);
    }
    closedir(d);
}

static int by_inode(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;

    if (x->inode != y->inode)
        return x->inode < y->inode ? -1 : 1;
    return x->born_ns == y->born_ns ? 0 : x->born_ns < y->born_ns ? -1 : 1;
}

/* A file may stand in the list twice: it got or lost its name, or a folder was read while it changed. */
static void make_list(struct list *l, const struct sampler *s)
{
    size_t kept = 0;

    l->n = 0;
    note_unnamed(l, s->cache, s->agent);
    note_folder(l, s->cache, ".", 0);
    qsort(l->v, l->n, sizeof *l->v, by_inode);
    for (size_t i = 0; i < l->n; i++)
        if (!kept || by_inode(&l->v[kept - 1], &l->v[i]) != 0)
            l->v[kept++] = l->v[i];
    l->n = kept;
}

/* Held while the sampler allocates: a child that is forked in the middle of that would find the allocator locked for
 * ever under AddressSanitizer. */
static pthread_mutex_t sampling = PTHREAD_MUTEX_INITIALIZER;

static pid_t child_beside_sampler(void)
{
    pid_t pid;

    pthread_mutex_lock(&sampling);
    pid = child();
    pthread_mutex_unlock(&sampling);
    return pid;
}

static void sample(struct sampler *s)
{
    uint64_t bytes = 0, files = 0;

    make_list(&s->before, s);
    make_list(&s->after, s);
    for (size_t i = 0, j = 0; i < s->before.n && j < s->after.n;) {
        int order = by_inode(&s->before.v[i], &s->after.v[j]);

        if (order == 0) { /* files only grow: the first figure is the safe one */
            bytes += s->before.v[i].bytes;
            files++;
        }
        i += order <= 0;
        j += order >= 0;
    }
    s->peak_bytes = bytes > s->peak_bytes ? bytes : s->peak_bytes;
    s->peak_files = files > s->peak_files ? files : s->peak_files;
    s->samples++;
}

static void *sample_all_the_time(void *user)
{
    struct sampler *s = user;

    while (!s->stop) {
        pthread_mutex_lock(&sampling);
        sample(s);
        pthread_mutex_unlock(&sampling);
        for (int i = 0; i < 20 && t.fs[0]; i++) {
            uint64_t used = used_bytes(), left = free_bytes();

            s->peak_used = used > s->peak_used ? used : s->peak_used;
            s->least_free = left < s->least_free ? left : s->least_free;
            nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
        }
        nanosleep(&(struct timespec){ .tv_nsec = LDR_NS_PER_MS }, NULL);
    }
    return NULL;
}

static void sampler_start(struct sampler *s)
{
    *s = (struct sampler){ .cache = open(t.agent.cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                           .agent = t.agent.pid,
                           .least_free = UINT64_MAX };
    cr_assert(s->cache >= 0);
    cr_assert(eq(int, pthread_create(&s->thread, NULL, sample_all_the_time, s), 0));
}

static void sampler_stop(struct sampler *s)
{
    s->stop = true;
    pthread_join(s->thread, NULL);
    close(s->cache);
    free(s->before.v);
    free(s->after.v);
    s->before = s->after = (struct list){ 0 };
}

/* What lies on the disk now, as the ledger should have it. */
static void expect_ledger_is_right(void)
{
    struct sampler s = { .cache = open(t.agent.cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .agent = t.agent.pid };
    uint64_t said = 0;

    cr_assert(s.cache >= 0);
    for (int i = 0; i < 500; i++) { /* what is on its way out takes a moment */
        s.peak_bytes = 0;
        sample(&s);
        said = counter("bytes");
        if (said == s.peak_bytes)
            break;
        agent_pause();
    }
    cr_expect(said >= s.peak_bytes, "it says %" PRIu64 " bytes, there are %" PRIu64, said, s.peak_bytes);
    cr_expect(said - s.peak_bytes <= 64 * LDR_KIB, "it says %" PRIu64 " bytes, there are %" PRIu64, said, s.peak_bytes);
    close(s.cache);
    free(s.before.v);
    free(s.after.v);
}

/* ---- many clients, and never above the limits ---- */

struct load {
    unsigned objects, each; /* of them each client reads so many: its own, and now and then another one */
    size_t least, most;     /* bytes of an object */
};

static size_t size_of(const struct load *load, unsigned i)
{
    return load->least + mixed(i * 31 + 7) % (load->most - load->least);
}

static void seed_all(const struct load *load)
{
    for (unsigned i = 0; i < load->objects; i++)
        seed(i, size_of(load, i));
}

/* In a child. */
_Noreturn static void read_some(const struct load *load, unsigned client)
{
    struct larder *l = agent_open(&t.agent);
    uint8_t *buf = malloc(load->most);
    bool ok = buf != NULL;

    for (unsigned n = 0; n < load->each && ok; n++) {
        unsigned i = (n % 4 == 3 ? (unsigned)mixed(client * 1000 + n) : n * CLIENTS + client) % load->objects;

        ok = right(l, i, size_of(load, i), client + n, buf);
    }
    larder_close(&l);
    _exit(ok ? 0 : 1);
}

static void read_by_many(const struct load *load)
{
    pid_t pids[CLIENTS];

    for (unsigned c = 0; c < CLIENTS; c++) {
        pids[c] = child_beside_sampler();
        if (pids[c] == 0)
            read_some(load, c);
    }
    for (unsigned c = 0; c < CLIENTS; c++)
        cr_expect(eq(int, join_child(pids[c]), 0), "client %u", c);
}

static void expect_bytes_kept(const struct load *load)
{
    struct sampler s;
    uint64_t max;

    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "24MiB");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "1MiB");
    seed_all(load);
    go();
    max = counter("max_size");
    cr_assert(eq(u64, max, 24 * LDR_MIB));
    sampler_start(&s);
    read_by_many(load);
    sampler_stop(&s);
    cr_expect(s.peak_bytes <= max, "%" PRIu64 " bytes of files at one moment", s.peak_bytes);
    cr_expect(s.peak_bytes > max / 2 && s.samples > 20, "%" PRIu64 " bytes in %" PRIu64 " samples: that says nothing",
              s.peak_bytes, s.samples);
    if (t.fs[0]) {
        cr_expect(s.peak_used <= max + SMALL_FILES, "%" PRIu64 " bytes used at one moment", s.peak_used);
        cr_expect(s.peak_used > max / 2);
    }
    expect_ledger_is_right();
    cr_expect(agent_alive(&t.agent));
}

static const struct load large_load = { .objects = 200, .each = 25, .least = 100 * LDR_KIB, .most = 3 * LDR_MIB };

Test(limits, bytes_hold_at_every_instant_while_sixteen_clients_load)
{
    expect_bytes_kept(&large_load);
}

Test(limits, bytes_hold_at_every_instant_while_sixteen_clients_load__on_tmpfs)
{
    use_tmpfs("256m");
    expect_bytes_kept(&large_load);
}

Test(limits, the_number_of_files_holds_at_every_instant)
{
    static const struct load load = { .objects = 400, .each = 25, .least = 20 * LDR_KIB, .most = 150 * LDR_KIB };
    struct sampler s;

    agent_set(&t.agent, "LARDER_CACHE_MAX_FILES", "100");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "64KiB");
    seed_all(&load);
    go();
    cr_assert(eq(u64, counter("max_files"), 100));
    sampler_start(&s);
    read_by_many(&load);
    sampler_stop(&s);
    cr_expect(s.peak_files <= 100, "%" PRIu64 " files at one moment", s.peak_files);
    cr_expect(s.peak_files > 50 && s.samples > 20, "%" PRIu64 " files in %" PRIu64 " samples: that says nothing",
              s.peak_files, s.samples);
    expect_ledger_is_right();
}

Test(limits, small_objects_keep_within_their_share_of_the_cache)
{
    static const struct load load = { .objects = 3000, .each = 190, .least = 1000, .most = 15000 };
    struct sampler s;

    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "24MiB");
    agent_set(&t.agent, "LARDER_CACHE_INLINE_SIZE", "4MiB");
    seed_all(&load);
    go();
    sampler_start(&s);
    read_by_many(&load);
    sampler_stop(&s);
    cr_expect(s.peak_bytes <= 24 * LDR_MIB, "%" PRIu64 " bytes of files at one moment", s.peak_bytes);
    cr_expect(counter("inline_bytes") <= 4 * LDR_MIB);
    cr_expect(counter("inline_bytes") > 2 * LDR_MIB, "%" PRIu64, counter("inline_bytes"));
    expect_ledger_is_right();
}

/* ---- free space ---- */

Test(limits, free_space_is_kept_while_loading_and_comes_back_when_others_fill_the_disk)
{
    static const struct load load = { .objects = 100, .each = 6, .least = 100 * LDR_KIB, .most = 2 * LDR_MIB };
    const uint64_t keep = 32 * LDR_MIB;
    struct sampler s;
    uint64_t before;
    int64_t start;

    use_tmpfs("96m");
    agent_set(&t.agent, "LARDER_CACHE_MIN_FREE", "32MiB");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "1MiB");
    seed_all(&load);
    go();
    sampler_start(&s);
    read_by_many(&load);
    sampler_stop(&s);
    cr_expect(s.least_free + SMALL_FILES >= keep, "%" PRIu64 " bytes were free at one moment", s.least_free);
    cr_expect(s.least_free < keep + 32 * LDR_MIB, "%" PRIu64 ": that says nothing", s.least_free);
    before = counter("bytes");
    fill_up(20 * LDR_MIB);
    start = ldr_mono_ns();
    agent_wait_until(free_bytes() + SMALL_FILES >= keep);
    cr_expect(ldr_mono_ns() - start < 10 * LDR_NS_PER_S, "it took %" PRId64 " ms",
              (ldr_mono_ns() - start) / LDR_NS_PER_MS);
    cr_expect(counter("bytes") < before);
    read_by_many(&load);
    cr_expect(free_bytes() + SMALL_FILES >= keep);
    clean_up();
    read_by_many(&load); /* and there is room again */
    cr_expect(counter("bytes") > 20 * LDR_MIB, "%" PRIu64, counter("bytes"));
    cr_expect(free_bytes() + SMALL_FILES >= keep);
    cr_expect(agent_alive(&t.agent));
}

Test(limits, a_full_disk_costs_no_byte_and_no_process)
{
    static const struct load load = { .objects = 60, .each = 4, .least = 1000, .most = 2 * LDR_MIB };
    struct larder_object *views[10] = { 0 };
    struct larder_err err = { 0 };
    char uri[64];

    use_tmpfs("48m");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "256KiB");
    seed_all(&load);
    go();
    for (unsigned i = 0; i < 10; i++) {
        uri_of(i, uri);
        cr_assert(eq(int, larder_get(t.l, uri, PATIENT_MS, &views[i], &err), LARDER_OK), "%s", err.msg);
    }
    fill_up(UINT64_MAX); /* to the last page */
    cr_expect(free_bytes() < 64 * LDR_KIB);
    read_by_many(&load);
    for (unsigned i = 0; i < 10; i++)
        cr_expect(eq(int, memcmp(larder_object_data(views[i]), bytes_of(i, size_of(&load, i)), size_of(&load, i)), 0));
    cr_expect(agent_alive(&t.agent));
    clean_up();
    read_by_many(&load);
    for (unsigned i = 0; i < 10; i++) {
        cr_expect(eq(int, memcmp(larder_object_data(views[i]), bytes_of(i, size_of(&load, i)), size_of(&load, i)), 0));
        larder_object_free(&views[i]);
    }
    expect_right(t.l, 3, size_of(&load, 3), 0);
    cr_expect(agent_alive(&t.agent));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
}

Test(limits, a_disk_that_is_filled_and_emptied_all_the_time_costs_no_byte_and_no_process)
{
    static const struct load load = { .objects = 60, .each = 4, .least = 1000, .most = 2 * LDR_MIB };
    pid_t filler;
    int64_t until;

    use_tmpfs("48m");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "256KiB");
    seed_all(&load);
    go();
    filler = child_beside_sampler();
    if (filler == 0)
        for (;;) {
            fill_up(UINT64_MAX);
            nanosleep(&(struct timespec){ .tv_nsec = 50 * LDR_NS_PER_MS }, NULL);
            clean_up();
            nanosleep(&(struct timespec){ .tv_nsec = 50 * LDR_NS_PER_MS }, NULL);
        }
    until = ldr_deadline_ns(3000);
    do
        read_by_many(&load);
    while (ldr_left_ms(until));
    kill(filler, SIGKILL);
    cr_expect(eq(int, join_child(filler), -1));
    cr_expect(agent_alive(&t.agent));
    cr_expect(eq(int, agent_stop(&t.agent), 0));
}

/* ---- what is mapped ---- */

Test(limits, a_view_survives_eviction_and_its_space_is_counted_until_it_ends)
{
    enum { HELD = 7 };
    const size_t n = 2 * LDR_MIB;
    struct larder_object *views[HELD] = { 0 };
    struct larder_err err = { 0 };
    struct larder *other;
    struct sampler s;
    char uri[64];

    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "16MiB");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "1MiB");
    for (unsigned i = 0; i < 30; i++)
        seed(i, n);
    go();
    other = agent_open(&t.agent);
    sampler_start(&s);
    for (unsigned i = 0; i < HELD; i++) { /* 14 of 16 MiB */
        uri_of(i, uri);
        cr_assert(eq(int, larder_get(t.l, uri, PATIENT_MS, &views[i], &err), LARDER_OK), "%s", err.msg);
    }
    for (unsigned i = HELD; i < 30; i++)
        expect_right(other, i, n, 1);
    for (unsigned i = 0; i < HELD; i++)
        cr_expect(eq(int, memcmp(larder_object_data(views[i]), bytes_of(i, n), n), 0), "object %u", i);
    cr_expect(counter("bytes") <= 16 * LDR_MIB);
    for (unsigned i = HELD; i < 30; i++)
        expect_right(other, i, n, 0); /* as views, too */
    for (unsigned i = 0; i < HELD; i++) {
        cr_expect(eq(int, memcmp(larder_object_data(views[i]), bytes_of(i, n), n), 0), "object %u", i);
        larder_object_free(&views[i]);
    }
    larder_close(&t.l);
    larder_close(&other);
    agent_wait_until(counter("unlinked_mapped_bytes") == 0);
    sampler_stop(&s);
    cr_expect(s.peak_bytes <= 16 * LDR_MIB, "%" PRIu64 " bytes of files at one moment", s.peak_bytes);
    t.l = agent_open(&t.agent);
    for (unsigned i = 10; i < 16; i++) /* there is room again */
        expect_right(t.l, i, n, 0);
    cr_expect(counter("block_files") >= 6);
    expect_ledger_is_right();
}

Test(limits, the_space_of_an_unlinked_view_comes_back_when_its_holder_is_killed)
{
    enum { HELD = 7 };
    const size_t n = 2 * LDR_MIB;
    pid_t holder;
    int ready[2];
    char c = 0;

    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "16MiB");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "1MiB");
    for (unsigned i = 0; i < 30; i++)
        seed(i, n);
    go();
    cr_assert(eq(int, pipe(ready), 0));
    holder = child_beside_sampler();
    if (holder == 0) {
        struct larder *l = agent_open(&t.agent);
        struct larder_object *o;
        char uri[64];

        for (unsigned i = 0; i < HELD; i++) {
            uri_of(i, uri);
            if (larder_get(l, uri, PATIENT_MS, &o, NULL))
                _exit(1);
        }
        if (write(ready[1], "x", 1) != 1)
            _exit(2);
        for (;;)
            pause();
    }
    cr_assert(eq(i64, read(ready[0], &c, 1), 1));
    for (unsigned i = 0; i < HELD; i++) { /* written anew: the holder's files go, but for its mappings */
        char uri[64];

        uri_of(i, uri);
        cr_assert(eq(int, larder_delete(t.l, uri, PATIENT_MS, NULL), LARDER_OK));
    }
    agent_wait_until(counter("unlinked_mapped_bytes") >= HELD * n);
    cr_expect(counter("bytes") >= HELD * n, "they are still counted");
    cr_expect(eq(u64, counter("block_files"), 0));
    for (unsigned i = HELD; i < 30; i++)
        expect_right(t.l, i, n, 1);
    cr_expect(counter("bytes") <= 16 * LDR_MIB);
    kill(holder, SIGKILL);
    cr_expect(eq(int, join_child(holder), -1));
    agent_wait_until(counter("unlinked_mapped_bytes") == 0);
    expect_ledger_is_right();
    close(ready[0]);
    close(ready[1]);
}

/* ---- what readers tell by rw/touch ---- */

Test(limits, hits_are_counted_by_prefix)
{
    enum { READERS = 4, ROUNDS = 10 };
    pid_t pids[READERS];
    int64_t start;

    agent_set(&t.agent, "LARDER_PREFIXES",
              "[{match: \"file://box/o1\", freshness: immutable}, {match: \"file://box/o2\", freshness: immutable},"
              " {match: \"file://\", freshness: immutable}]");
    seed(1, 100);
    seed(2, 200 * LDR_KIB);
    seed(3, 1);
    go();
    for (unsigned i = 1; i <= 3; i++)
        expect_right(t.l, i, i == 1 ? 100 : i == 2 ? 200 * LDR_KIB : 1, 1);
    agent_pause();
    cr_expect(eq(u64, counter("hits.file://box/o1"), 0), "a fetch is no hit");
    for (unsigned c = 0; c < READERS; c++) {
        pids[c] = child_beside_sampler();
        if (pids[c] == 0) {
            struct larder *l = agent_open(&t.agent);
            uint8_t *buf = malloc(200 * LDR_KIB);
            bool ok = buf != NULL;

            for (unsigned i = 0; i < ROUNDS; i++)
                ok = ok && right(l, 1, 100, i % 2, buf) && right(l, 2, 200 * LDR_KIB, i % 2, buf);
            _exit(ok ? 0 : 1);
        }
    }
    for (unsigned c = 0; c < READERS; c++)
        cr_expect(eq(int, join_child(pids[c]), 0));
    start = ldr_mono_ns();
    agent_wait_counter(&t.agent, "hits.file://box/o1", READERS * ROUNDS);
    agent_wait_counter(&t.agent, "hits.file://box/o2", READERS * ROUNDS);
    cr_expect(ldr_mono_ns() - start < 3 * LDR_NS_PER_S, "2 s, and one for a busy machine");
    cr_expect(eq(u64, counter("hits.file://box/o1"), READERS * ROUNDS));
    cr_expect(eq(u64, counter("hit_bytes.file://box/o1"), READERS * ROUNDS * 100));
    cr_expect(eq(u64, counter("hits.file://box/o2"), READERS * ROUNDS));
    cr_expect(eq(u64, counter("hit_bytes.file://box/o2"), READERS * ROUNDS * 200 * LDR_KIB));
    cr_expect(eq(u64, counter("hits.file://"), 0));
    cr_expect(eq(u64, counter("store_gets"), 3));
}

/* A hot set that is read between scans of objects that nobody reads twice. */
static void expect_hot_stays(unsigned hot, size_t hot_size, unsigned scanned, size_t scan_size)
{
    uint64_t before;
    unsigned next = 1000;

    for (unsigned i = 0; i < hot; i++)
        seed(i, hot_size);
    for (unsigned i = 0; i < 5 * scanned; i++)
        seed(next + i, scan_size);
    go();
    for (int round = 0; round < 2; round++)
        for (unsigned i = 0; i < hot; i++)
            expect_right(t.l, i, hot_size, 1); /* by reading: a mapping would hold it by itself */
    before = counter("store_gets");
    for (int round = 0; round < 5; round++) {
        for (unsigned i = 0; i < scanned; i++)
            expect_right(t.l, next++, scan_size, 1);
        /* What was fetched a moment ago is held for its asker: a scan that fills this small cache within that moment
         * leaves nothing else to go. */
        nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 200 * LDR_NS_PER_MS }, NULL);
        for (unsigned i = 0; i < hot; i++)
            expect_right(t.l, i, hot_size, 1);
    }
    before += 5 * scanned * ((scan_size + 64 * LDR_KIB - 1) / (64 * LDR_KIB));
    /* Two bits of rw/touch may be one, and a race may lose one: a few of 5 * hot, no more. */
    cr_expect(counter("store_gets") - before <= 5 * hot / 20, "%" PRIu64 " of %u hot reads went to the store",
              counter("store_gets") - before, 5 * hot);
}

Test(limits, what_is_read_again_survives_scans)
{
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "16MiB");
    agent_set(&t.agent, "LARDER_CACHE_BLOCK_SIZE", "64KiB");
    expect_hot_stays(60, 64 * LDR_KIB, 160, 64 * LDR_KIB); /* 4 MiB hot, five scans of 10 MiB */
}

Test(limits, small_objects_that_are_read_again_survive_scans)
{
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "24MiB");
    agent_set(&t.agent, "LARDER_CACHE_INLINE_SIZE", "4MiB");
    expect_hot_stays(60, 10000, 300, 10000); /* 0.6 MiB hot, five scans of 3 MiB */
}

Test(limits, a_cache_on_the_root_file_system_needs_a_limit)
{
    struct stat root, here;

    if (stat("/", &root) || stat(t.agent.dir, &here) || root.st_dev != here.st_dev) {
        fprintf(stderr, "SKIPPED: the tests' directory is not on the root file system\n");
        cr_skip("the tests' directory is not on the root file system");
    }
    agent_set(&t.agent, "LARDER_CACHE_MAX_SIZE", "100%");
    agent_set(&t.agent, "LARDER_CACHE_MIN_FREE", "0");
    cr_expect(ne(int, agent_run(&t.agent), 0));
    cr_expect(agent_logged(&t.agent, "larder.cache.max_size"));
}
