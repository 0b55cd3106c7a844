/* body.c - see body.h. */
#include "agent/body.h"
#include "backends/sum.h"
#include "common/hash.h"
#include "common/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES (256 * LDR_KIB)

struct ldr_body *ldr_body_new(struct ldr_blocks *blocks, uint64_t size)
{
    struct ldr_body *b = calloc(1, sizeof *b);

    if (!b)
        return NULL;
    b->blocks = blocks;
    b->size = size;
    b->memfd = b->fill.fd = -1;
    return b;
}

static void take_name(struct ldr_body *b)
{
    if (b->name[0] && unlinkat(b->blocks->dir->stagingfd, b->name, 0) && errno != ENOENT)
        ldr_log(LDR_WARN, "body", "could not remove a staged file name=%s errno=%d", b->name, errno);
    b->name[0] = '\0';
}

void ldr_body_free(struct ldr_body **pb)
{
    struct ldr_body *b = *pb;

    *pb = NULL;
    if (!b)
        return;
    if (b->name[0]) {
        take_name(b);
        ldr_fill_disown(&b->fill); /* a client may still map it */
    }
    ldr_fill_close(&b->fill);
    if (b->memfd >= 0)
        close(b->memfd);
    free(b);
}

static void free_on_pool(struct ldr_task *t)
{
    struct ldr_body *b = LDR_CONTAINER(t, struct ldr_body, task);

    ldr_body_free(&b);
}

void ldr_body_free_later(struct ldr_body **pb)
{
    struct ldr_body *b = *pb;

    *pb = NULL;
    if (!b)
        return;
    b->task.run = free_on_pool;
    ldr_pool_post(b->blocks->pool, &b->task);
}

static enum larder_kind write_all(int fd, const uint8_t *p, size_t n, uint64_t offset, struct larder_err *err)
{
    while (n > 0) {
        ssize_t done = pwrite(fd, p, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return ldr_fail_sys(err, LARDER_IO, "could not keep a part of an upload");
        p += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return LARDER_OK;
}

/* ---------- written by the agent ---------- */

static enum larder_kind open_memory(struct ldr_body *b, struct larder_err *err)
{
    b->memfd = memfd_create("larder-put", MFD_CLOEXEC);
    return b->memfd < 0 ? ldr_fail_sys(err, LARDER_NO_MEMORY, "could not make room for an upload") : LARDER_OK;
}

enum larder_kind ldr_body_open(struct ldr_body *b, bool cacheable, struct larder_err *err)
{
    if (cacheable && b->size > 0 && !ldr_fill_open(b->blocks, b->size, false, &b->fill, NULL))
        return LARDER_OK;
    return open_memory(b, err);
}

enum larder_kind ldr_body_append(struct ldr_body *b, uint64_t offset, const void *p, size_t n, struct larder_err *err)
{
    return ldr_body_cached(b) ? ldr_fill_write(&b->fill, p, n, err) : write_all(b->memfd, p, n, offset, err);
}

/* ---------- written by a client ---------- */

/* Another descriptor of the same file, whatever name it has or had. */
static int reopen(int fd, int flags)
{
    char self[64];

    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return open(self, flags | O_CLOEXEC | O_NONBLOCK);
}

/* A file of `size` bytes for the group to write; *out reads it, so that the agent is no writer when it looks for one. */
static enum larder_kind make_staged(struct ldr_body *b, int *out, struct larder_err *err)
{
    const struct ldr_cache_dir *dir = b->blocks->dir;
    enum larder_kind k = LARDER_OK;
    uint8_t random[16];
    int fd;

    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return ldr_fail_sys(err, LARDER_IO, "could not get random bytes");
    ldr_hex(random, sizeof random, b->name);
    fd = openat(dir->stagingfd, b->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        b->name[0] = '\0';
        return ldr_fail_sys(err, LARDER_IO, "could not make a file in \"" LDR_NAME_STAGING "\"");
    }
    /* A client stores into a mapping of it: where a page is missing on a full disk that is a SIGBUS in its process. */
    if (fallocate(fd, 0, 0, (off_t)b->size))
        k = ldr_fail_sys(err, errno == ENOSPC || errno == EDQUOT ? LARDER_LIMIT_EXCEEDED : LARDER_IO,
                         "could not allocate %" PRIu64 " bytes in the cache", b->size);
    if (!k)
        k = ldr_cache_dir_own(dir, fd, 0660, "a staged file", err);
    if (!k && (*out = reopen(fd, O_RDONLY)) < 0)
        k = ldr_fail_sys(err, LARDER_IO, "could not open a staged file");
    close(fd);
    if (k)
        take_name(b);
    return k;
}

enum larder_kind ldr_body_stage(struct ldr_body *b, struct larder_err *err)
{
    int fd = -1;
    enum larder_kind k = make_staged(b, &fd, err);

    if (k)
        ldr_space_release(b->blocks->space, b->size);
    else
        ldr_fill_adopt(b->blocks, fd, b->size, &b->fill);
    return k;
}

enum larder_kind ldr_body_stage_in_memory(struct ldr_body *b, struct larder_err *err)
{
    return open_memory(b, err);
}

enum larder_kind ldr_body_write(struct ldr_body *b, uint64_t offset, const void *p, size_t n, struct larder_err *err)
{
    enum larder_kind k;
    int fd;

    if (!ldr_body_cached(b))
        return write_all(b->memfd, p, n, offset, err);
    fd = reopen(b->fill.fd, O_RDWR);
    if (fd < 0)
        return ldr_fail_sys(err, LARDER_IO, "could not write to a staged file");
    k = write_all(fd, p, n, offset, err);
    close(fd);
    return k;
}

/* A read lease on a descriptor that only reads: granted when no other descriptor or mapping writes. *could: the file
 * system knows leases. One who opens it for writing at this very moment breaks the lease, which shows. */
static bool nobody_writes(int fd, bool *could)
{
    bool proved = fcntl(fd, F_SETLEASE, F_RDLCK) == 0;

    *could = proved || errno == EAGAIN;
    if (proved) {
        proved = fcntl(fd, F_GETLEASE) == F_RDLCK;
        fcntl(fd, F_SETLEASE, F_UNLCK);
    }
    return proved;
}

bool ldr_body_written_to(const struct ldr_body *b)
{
    bool could = false;

    return b->name[0] && b->blocks->dir->leases && !nobody_writes(b->fill.fd, &could) && could;
}

/* ---------- sealing ---------- */

static enum larder_kind read_all(int fd, uint64_t length, uint8_t *room,
                                 enum larder_kind (*take)(void *user, const uint8_t *p, size_t n, uint64_t offset,
                                                          struct larder_err *err),
                                 void *user, struct larder_err *err)
{
    uint64_t at = 0;
    enum larder_kind k = LARDER_OK;

    while (!k && at < length) {
        size_t want = length - at < COPY_BYTES ? (size_t)(length - at) : COPY_BYTES;
        ssize_t n = pread(fd, room, want, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ldr_fail_sys(err, LARDER_IO, "could not read a staged file");
        if (n == 0)
            return ldr_fail(err, LARDER_INVALID, "a staged file was cut off");
        k = take(user, room, (size_t)n, at, err);
        at += (uint64_t)n;
    }
    return k;
}

struct sums {
    XXH3_state_t *xxh3;
    uint64_t crc32c;
};

static enum larder_kind take_into_sums(void *user, const uint8_t *p, size_t n, uint64_t offset, struct larder_err *err)
{
    struct sums *s = user;

    (void)offset;
    (void)err;
    XXH3_64bits_update(s->xxh3, p, n);
    s->crc32c = ldr_sum_crc(LDR_SUM_CRC32C, s->crc32c, p, n);
    return LARDER_OK;
}

static enum larder_kind take_into_body(void *user, const uint8_t *p, size_t n, uint64_t offset, struct larder_err *err)
{
    return ldr_body_append(user, offset, p, n, err);
}

/* Put the bytes into a body that no client ever saw, which takes the place of this one. */
static enum larder_kind copy(struct ldr_body *b, uint64_t length, uint8_t *room, struct larder_err *err)
{
    struct ldr_body *own = ldr_body_new(b->blocks, length), was;
    enum larder_kind k = own ? ldr_body_open(own, true, err) : ldr_fail(err, LARDER_NO_MEMORY, "out of memory");

    if (!k)
        k = read_all(b->fill.fd, length, room, take_into_body, own, err);
    if (!k && ldr_body_cached(own))
        k = ldr_fill_seal(&own->fill, err);
    if (!k) {
        was = *b;
        *b = *own;
        *own = was; /* with its name, which goes when it is freed */
    }
    ldr_body_free(&own);
    return k;
}

/* Only while it is proved that nobody else writes. */
static enum larder_kind cut(struct ldr_body *b, uint64_t length, struct larder_err *err)
{
    int fd = reopen(b->fill.fd, O_RDWR);

    if (fd < 0 || ftruncate(fd, (off_t)length)) {
        enum larder_kind k = ldr_fail_sys(err, LARDER_IO, "could not cut a staged file to its length");

        if (fd >= 0)
            close(fd);
        return k;
    }
    close(fd);
    ldr_fill_shrink(&b->fill, length);
    return LARDER_OK;
}

/* The one time that the agent reads the body before it is sent. */
static enum larder_kind hash(struct ldr_body *b, uint8_t *room, struct larder_err *err)
{
    struct sums s = { .xxh3 = XXH3_createState() };
    enum larder_kind k = s.xxh3 ? LARDER_OK : ldr_fail(err, LARDER_NO_MEMORY, "out of memory");

    if (!k) {
        XXH3_64bits_reset(s.xxh3);
        k = read_all(b->fill.fd, b->size, room, take_into_sums, &s, err);
        b->fill.hash = XXH3_64bits_digest(s.xxh3);
        b->crc32c = s.crc32c;
        b->has_crc32c = !k;
    }
    XXH3_freeState(s.xxh3);
    return k;
}

static enum larder_kind seal_staged(struct ldr_body *b, uint64_t length, bool keep, struct larder_err *err)
{
    const struct ldr_cache_dir *dir = b->blocks->dir;
    uint8_t *room = malloc(COPY_BYTES);
    enum larder_kind k = LARDER_OK;
    bool proved, could;
    struct stat st;

    if (!room)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (fchmod(b->fill.fd, 0600)) /* whoever has it not open by now cannot open it any more */
        k = ldr_fail_sys(err, LARDER_IO, "could not seal a staged file");
    proved = !k && dir->leases && nobody_writes(b->fill.fd, &could);
    if (!k && fstat(b->fill.fd, &st))
        k = ldr_fail_sys(err, LARDER_IO, "could not stat a staged file");
    if (!k && (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_nlink != 1 || (uint64_t)st.st_size != b->size))
        k = ldr_fail(err, LARDER_INVALID,
                     "a staged file is not as it was made (%" PRIu64 " bytes instead of %" PRIu64 ")",
                     (uint64_t)st.st_size, b->size);
    if (!k && !proved)
        k = copy(b, length, room, err);
    else if (!k && length < b->size)
        k = cut(b, length, err);
    if (!k)
        b->size = length;
    if (!k && proved)
        k = ldr_cache_dir_own(dir, b->fill.fd, 0440, "a block", err);
    if (!k && proved && keep)
        k = hash(b, room, err);
    free(room);
    return k;
}

enum larder_kind ldr_body_seal(struct ldr_body *b, uint64_t length, bool keep, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    assert(length <= b->size);
    if (b->sealed)
        return LARDER_OK;
    if (b->name[0])
        k = seal_staged(b, length, keep, err);
    else if (ldr_body_cached(b))
        k = ldr_fill_seal(&b->fill, err);
    else if (b->memfd >= 0 && length < b->size && ftruncate(b->memfd, (off_t)length))
        k = ldr_fail_sys(err, LARDER_IO, "could not seal an upload");
    if (!k) {
        b->size = length;
        b->sealed = true;
    }
    return k;
}

enum larder_kind ldr_body_link(struct ldr_body *b, const struct ldr_id *id, uint32_t block, struct larder_err *err)
{
    enum larder_kind k = ldr_fill_link(&b->fill, id, block, err);

    if (!k)
        take_name(b);
    return k;
}
