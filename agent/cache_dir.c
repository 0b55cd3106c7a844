/* cache_dir.c - see cache_dir.h. */
#include "agent/cache_dir.h"
#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FORMAT_TMP ".format.new"
#define TOUCH_TMP  ".touch.new"
#define TOUCH      "touch" /* in rw/ */

enum larder_kind ldr_cache_dir_own(const struct ldr_cache_dir *d, int fd, mode_t mode, const char *what,
                                   struct larder_err *err)
{
    if (d->has_group && fchown(fd, (uid_t)-1, d->group))
        return ldr_fail_sys(err, LARDER_IO, "could not give \"%s\" in \"%s\" to group %u (larder.access.group)", what,
                            d->path, (unsigned)d->group);
    if (fchmod(fd, mode)) /* after the chown, which clears setgid */
        return ldr_fail_sys(err, LARDER_IO, "could not set the mode of \"%s\" in \"%s\"", what, d->path);
    return LARDER_OK;
}

/* Make the directory and whatever is missing above it; only the last one is ours to set the mode of. */
static enum larder_kind make_path(const char *path, struct larder_err *err)
{
    char *copy = strdup(path);
    enum larder_kind k = LARDER_OK;

    if (!copy)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    for (char *p = copy + 1; !k; p++) {
        char c = *p;

        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, c ? 0755 : 0750) && errno != EEXIST)
            k = ldr_fail_sys(err, LARDER_IO, "could not make directory \"%s\" (larder.cache.dir)", copy);
        *p = c;
        if (!c)
            break;
    }
    free(copy);
    return k;
}

static enum larder_kind open_dir(const struct ldr_cache_dir *d, const char *name, mode_t mode, int *out,
                                 struct larder_err *err)
{
    enum larder_kind k;
    int fd;

    if (mkdirat(d->dirfd, name, 0700) && errno != EEXIST)
        return ldr_fail_sys(err, LARDER_IO, "could not make \"%s\" in \"%s\"", name, d->path);
    fd = openat(d->dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return ldr_fail_sys(err, LARDER_IO, "could not open \"%s\" in \"%s\"", name, d->path);
    k = ldr_cache_dir_own(d, fd, mode, name, err);
    if (k || !out)
        close(fd);
    else
        *out = fd;
    return k;
}

static enum larder_kind lock(struct ldr_cache_dir *d, struct larder_err *err)
{
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    char pid[24] = "";
    ssize_t n;

    d->lockfd = openat(d->dirfd, LDR_NAME_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lockfd < 0)
        return ldr_fail_sys(err, LARDER_IO, "could not open the lock of cache directory \"%s\" (larder.cache.dir)",
                            d->path);
    if (fcntl(d->lockfd, F_OFD_SETLK, &l) == 0) {
        int len = snprintf(pid, sizeof pid, "%d\n", (int)getpid());

        if (ftruncate(d->lockfd, 0) || pwrite(d->lockfd, pid, (size_t)len, 0) != len)
            return ldr_fail_sys(err, LARDER_IO, "could not write the lock of cache directory \"%s\"", d->path);
        return LARDER_OK;
    }
    if (errno != EAGAIN && errno != EACCES)
        return ldr_fail_sys(err, LARDER_IO, "could not lock cache directory \"%s\"", d->path);
    n = pread(d->lockfd, pid, sizeof pid - 1, 0);
    pid[n > 0 ? strspn(pid, "0123456789") : 0] = '\0';
    return ldr_fail(err, LARDER_EXISTS, "another agent%s%s%s works in cache directory \"%s\"", *pid ? " (pid " : "",
                    pid, *pid ? ")" : "", d->path);
}

static bool read_boot_id(char out[64])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    bool ok = f && fgets(out, 64, f);

    if (f)
        fclose(f);
    out[ok ? strcspn(out, "\n") : 0] = '\0';
    return ok && *out;
}

/* Why the generation that `f` names cannot be used; NULL: it can. */
static const char *distrust(const struct ldr_cache_dir *d, const struct ldr_format *f, const char *boot_id,
                            uint64_t device)
{
    char name[LDR_GEN_NAME_MAX + 8];
    bool same_boot = !strcmp(f->boot_id, boot_id);
    struct ldr_hdr hdr;
    struct stat st;
    int fd;

    if (!same_boot && !f->clean)
        return "the machine was restarted without a clean stop of the agent";
    if (same_boot && f->device != device)
        return "the directory is on another device than before";
    if (f->starts >= LDR_STARTS_MAX)
        return "the agent could not stay up on it";
    ldr_gen_name(f->generation, name);
    strcat(name, "/hdr");
    fd = openat(d->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return "its header is missing";
    if (fstat(fd, &st) || st.st_size < LDR_HDR_BYTES || pread(fd, &hdr, sizeof hdr, 0) != (ssize_t)sizeof hdr ||
        !ldr_hdr_valid(&hdr) || hdr.generation != f->generation || hdr.nonce != f->nonce ||
        atomic_load(&hdr.cur) == LDR_RETIRED) {
        close(fd);
        return "its header is damaged";
    }
    close(fd);
    return NULL;
}

/* Tell clients that still map it to look for a new one, then take its names away. */
static void retire(const struct ldr_cache_dir *d, const char *name)
{
    static const char *const files[] = { "hdr", "data.mdb", "lock.mdb" };
    int dir = openat(d->dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    int fd;

    if (dir < 0)
        return;
    fd = openat(dir, "hdr", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size >= LDR_HDR_BYTES) {
        struct ldr_hdr *h = mmap(NULL, LDR_HDR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (h != MAP_FAILED) {
            atomic_store(&h->cur, LDR_RETIRED);
            atomic_store(&h->floor, LDR_RETIRED);
            munmap(h, LDR_HDR_BYTES);
        }
    }
    if (fd >= 0)
        close(fd);
    for (size_t i = 0; i < LDR_ARRAY_LEN(files); i++)
        unlinkat(dir, files[i], 0);
    close(dir);
    if (unlinkat(d->dirfd, name, AT_REMOVEDIR))
        ldr_log(LDR_WARN, "cache", "could not remove old generation name=%s errno=%d", name, errno);
}

/* Every gen-N but `keep` (0: none is kept). Returns the highest N seen. */
static uint64_t retire_others(const struct ldr_cache_dir *d, uint64_t keep)
{
    int fd = openat(d->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    uint64_t highest = keep;
    struct dirent *e;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return highest;
    }
    while ((e = readdir(dir))) {
        char *end;
        uint64_t n;

        if (strncmp(e->d_name, "gen-", 4))
            continue;
        n = strtoull(e->d_name + 4, &end, 10);
        if (*end || n == keep)
            continue;
        if (n > highest && n < UINT64_MAX / 2)
            highest = n;
        retire(d, e->d_name);
    }
    closedir(dir);
    return highest;
}

/* What an earlier run left of files that were on their way into the cache. */
static void empty(int dirfd)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    while (dir && (e = readdir(dir)))
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            unlinkat(dirfd, e->d_name, 0);
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
}

static enum larder_kind make_dirs(struct ldr_cache_dir *d, struct larder_err *err)
{
    enum larder_kind k = open_dir(d, LDR_NAME_BLOCKS, 02750, NULL, err);

    for (unsigned i = 0; i < 256 && !k; i++) {
        char name[sizeof LDR_NAME_BLOCKS + 4];
        struct stat st;

        snprintf(name, sizeof name, LDR_NAME_BLOCKS "/%02x", i);
        /* Usually all of them are there: 256 stats instead of 256 opens. */
        if (fstatat(d->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) || (st.st_mode & 07777) != 02750 ||
            (d->has_group && st.st_gid != d->group))
            k = open_dir(d, name, 02750, NULL, err);
    }
    if (!k)
        k = open_dir(d, LDR_NAME_FILL, 0700, &d->fillfd, err);
    if (!k)
        empty(d->fillfd);
    if (!k)
        k = open_dir(d, LDR_NAME_RW, 02750, &d->rwfd, err);
    if (!k)
        k = open_dir(d, LDR_NAME_STAGING, 02750, &d->stagingfd, err);
    if (!k)
        empty(d->stagingfd);
    if (!k)
        k = open_dir(d, LDR_NAME_UPLOADS, 0700, &d->uploadsfd, err);
    return k;
}

/* Decide which generation is used and make its directory. */
static enum larder_kind choose(struct ldr_cache_dir *d, struct larder_err *err)
{
    char name[LDR_GEN_NAME_MAX];
    const char *why = NULL;
    struct larder_err e = { 0 };
    struct stat st;
    char boot_id[64];
    enum larder_kind k;

    if (!read_boot_id(boot_id))
        return ldr_fail(err, LARDER_IO, "could not read the kernel's boot id");
    if (fstat(d->dirfd, &st))
        return ldr_fail_sys(err, LARDER_IO, "could not stat cache directory \"%s\"", d->path);
    k = ldr_format_read(d->dirfd, &d->before, &e);
    if (k == LARDER_IO)
        return ldr_fail(err, k, "%s", e.msg);
    if (k) {
        d->before = (struct ldr_format){ 0 };
        why = k == LARDER_CORRUPT ? e.msg : NULL;
    } else if (d->before.layout != LDR_LAYOUT) {
        return ldr_fail(err, LARDER_UNSUPPORTED,
                        "cache directory \"%s\" has layout %u, made by another release; this one knows layout %d: "
                        "use another directory, or empty it",
                        d->path, d->before.layout, LDR_LAYOUT);
    } else {
        why = distrust(d, &d->before, boot_id, (uint64_t)st.st_dev);
    }
    d->new_generation = k || why;
    d->format = (struct ldr_format){ .layout = LDR_LAYOUT,
                                     .boot = strcmp(d->before.boot_id, boot_id) ? d->before.boot + 1 : d->before.boot,
                                     .device = (uint64_t)st.st_dev,
                                     .generation = d->before.generation,
                                     .nonce = d->before.nonce,
                                     .starts = d->before.starts + 1 };
    strcpy(d->format.boot_id, boot_id);
    if (why)
        ldr_log(LDR_WARN, "cache", "the cache is dropped reason=\"%s\" dir=\"%s\"", why, d->path);
    if (d->new_generation) {
        d->format.generation = retire_others(d, 0);
        if (d->format.generation < d->before.generation)
            d->format.generation = d->before.generation;
        d->format.generation++;
        d->format.starts = 1;
        if (getrandom(&d->format.nonce, sizeof d->format.nonce, 0) != (ssize_t)sizeof d->format.nonce)
            return ldr_fail_sys(err, LARDER_IO, "could not get random bytes");
    } else {
        retire_others(d, d->format.generation);
        /* Dirty, and on disk, before anything else changes; still with the stores that filled it. */
        memcpy(d->format.stores, d->before.stores, sizeof d->format.stores);
        d->format.n_stores = d->before.n_stores;
        k = ldr_cache_dir_commit(d, err);
        if (k)
            return k;
        d->format.n_stores = 0;
    }
    ldr_gen_name(d->format.generation, name);
    return open_dir(d, name, 02750, &d->gendirfd, err);
}

enum larder_kind ldr_cache_dir_open(const char *path, bool has_group, gid_t group, struct ldr_cache_dir **out,
                                    struct larder_err *err)
{
    struct ldr_cache_dir *d = calloc(1, sizeof *d);
    struct statfs fs;
    const char *fs_name;
    enum larder_kind k;

    if (!d || !(d->path = strdup(path))) {
        free(d);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    d->dirfd = d->lockfd = d->fillfd = d->gendirfd = d->rwfd = d->stagingfd = d->uploadsfd = -1;
    d->has_group = has_group;
    d->group = group;
    k = make_path(path, err);
    if (k)
        goto done;
    d->dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dirfd < 0) {
        k = ldr_fail_sys(err, LARDER_IO, "could not open cache directory \"%s\" (larder.cache.dir)", path);
        goto done;
    }
    k = lock(d, err); /* before the mode: a directory that is not ours to write fails with the plainer message */
    if (!k)
        k = ldr_cache_dir_own(d, d->dirfd, 02750, ".", err);
    if (k)
        goto done;
    if (fstatfs(d->dirfd, &fs)) {
        k = ldr_fail_sys(err, LARDER_IO, "could not ask for the file system of \"%s\"", path);
        goto done;
    }
    d->leases = ldr_fs_suitable((long)fs.f_type, &fs_name);
    if (!d->leases)
        ldr_log(LDR_WARN, "cache",
                "clients cannot map a cache on this file system and get all bytes over IPC fs=%s dir=\"%s\" "
                "suitable=\"ext4 xfs btrfs tmpfs\"",
                fs_name, path);
    k = make_dirs(d, err);
    if (!k)
        k = choose(d, err);
done:
    if (k)
        ldr_cache_dir_close(&d);
    else
        *out = d;
    return k;
}

/* All zero; its name is what readers open, so it gets that last. */
static enum larder_kind make_touch(const struct ldr_cache_dir *d, uint64_t bytes, int *out, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    int fd;

    unlinkat(d->rwfd, TOUCH_TMP, 0); /* of an agent that was killed */
    fd = openat(d->rwfd, TOUCH_TMP, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ldr_fail_sys(err, LARDER_IO, "could not make \"" LDR_NAME_TOUCH "\" in \"%s\"", d->path);
    /* Readers store into a mapping of it: where a page is missing on a full disk that is a SIGBUS in their process. */
    if (fallocate(fd, 0, 0, (off_t)bytes))
        k = ldr_fail_sys(err, errno == ENOSPC || errno == EDQUOT ? LARDER_LIMIT_EXCEEDED : LARDER_IO,
                         "could not allocate \"" LDR_NAME_TOUCH "\" in \"%s\"", d->path);
    if (!k)
        k = ldr_cache_dir_own(d, fd, 0660, LDR_NAME_TOUCH, err);
    if (!k && renameat(d->rwfd, TOUCH_TMP, d->rwfd, TOUCH))
        k = ldr_fail_sys(err, LARDER_IO, "could not rename \"" LDR_NAME_TOUCH "\" in \"%s\"", d->path);
    if (k) {
        unlinkat(d->rwfd, TOUCH_TMP, 0);
        close(fd);
    } else {
        *out = fd;
    }
    return k;
}

enum larder_kind ldr_cache_dir_touch(const struct ldr_cache_dir *d, uint64_t bytes, bool anew, int *out,
                                     struct larder_err *err)
{
    struct stat st;
    int fd = anew ? -1 : openat(d->rwfd, TOUCH, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes) {
        *out = fd;
        return ldr_cache_dir_own(d, fd, 0660, LDR_NAME_TOUCH, err);
    }
    if (fd >= 0)
        close(fd);
    return make_touch(d, bytes, out, err);
}

enum larder_kind ldr_cache_dir_bounded(const struct ldr_cache_dir *d, uint64_t max_bytes, uint64_t min_free_bytes,
                                       struct larder_err *err)
{
    struct stat root, here;
    struct statvfs v;

    if (fstatvfs(d->dirfd, &v) || fstat(d->dirfd, &here) || stat("/", &root))
        return ldr_fail_sys(err, LARDER_IO, "could not ask for the file system of \"%s\"", d->path);
    if (here.st_dev != root.st_dev || min_free_bytes > 0 || max_bytes < (uint64_t)v.f_blocks * v.f_frsize)
        return LARDER_OK;
    return ldr_fail(err, LARDER_INVALID,
                    "cache directory \"%s\" is on the root file system and nothing keeps the cache from filling it: "
                    "set larder.cache.max_size below its size, or larder.cache.min_free",
                    d->path);
}

bool ldr_cache_dir_store(struct ldr_cache_dir *d, const char *scheme, uint64_t fingerprint)
{
    if (d->format.n_stores < LDR_FORMAT_STORES) {
        size_t i = d->format.n_stores++;

        snprintf(d->format.stores[i].scheme, sizeof d->format.stores[i].scheme, "%s", scheme);
        d->format.stores[i].fingerprint = fingerprint;
    }
    for (size_t i = 0; i < d->before.n_stores; i++)
        if (!strcmp(d->before.stores[i].scheme, scheme))
            return d->before.stores[i].fingerprint == fingerprint;
    return true;
}

enum larder_kind ldr_cache_dir_commit(struct ldr_cache_dir *d, struct larder_err *err)
{
    char text[LDR_FORMAT_MAX];
    size_t len = ldr_format_print(&d->format, text);
    int fd = openat(d->dirfd, FORMAT_TMP, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    enum larder_kind k;

    if (fd < 0)
        return ldr_fail_sys(err, LARDER_IO, "could not write cache file \"" LDR_NAME_FORMAT "\" in \"%s\"", d->path);
    k = ldr_cache_dir_own(d, fd, 0640, LDR_NAME_FORMAT, err);
    if (!k && (write(fd, text, len) != (ssize_t)len || fsync(fd) ||
               renameat(d->dirfd, FORMAT_TMP, d->dirfd, LDR_NAME_FORMAT) || fsync(d->dirfd)))
        k = ldr_fail_sys(err, LARDER_IO, "could not write cache file \"" LDR_NAME_FORMAT "\" in \"%s\"", d->path);
    close(fd);
    return k;
}

enum larder_kind ldr_cache_dir_mark(struct ldr_cache_dir *d, bool clean, struct larder_err *err)
{
    d->format.starts = 0;
    d->format.clean = clean;
    return ldr_cache_dir_commit(d, err);
}

void ldr_cache_dir_distrust(struct ldr_cache_dir *d)
{
    unlinkat(d->dirfd, LDR_NAME_FORMAT, 0);
}

void ldr_cache_dir_close(struct ldr_cache_dir **d)
{
    int *fds[] = { &(*d)->uploadsfd, &(*d)->stagingfd, &(*d)->rwfd, &(*d)->gendirfd,
                   &(*d)->fillfd,    &(*d)->lockfd,    &(*d)->dirfd };

    for (size_t i = 0; i < LDR_ARRAY_LEN(fds); i++)
        if (*fds[i] >= 0)
            close(*fds[i]);
    free((*d)->path);
    free(*d);
    *d = NULL;
}
