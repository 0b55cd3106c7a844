/* blocks.c - see blocks.h. */
#include "agent/blocks.h"
#include "common/hash.h"
#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------- filling ---------- */

enum larder_kind ldr_fill_open(struct ldr_blocks *b, uint64_t size, struct ldr_fill *f, struct larder_err *err)
{
    enum larder_kind k = ldr_space_reserve(b->space, size, err);

    if (k)
        return k;
    *f = (struct ldr_fill){ .blocks = b, .fd = -1, .size = size };
    /* No name: whatever happens to this process, nothing is left behind. */
    f->fd = openat(b->dir->fillfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (f->fd < 0)
        k = ldr_fail_sys(err, LARDER_IO, "could not make a file in the cache");
    else if (fallocate(f->fd, 0, 0, (off_t)size))
        k = ldr_fail_sys(err, errno == ENOSPC || errno == EDQUOT ? LARDER_LIMIT_EXCEEDED : LARDER_IO,
                         "could not allocate %" PRIu64 " bytes in the cache", size);
    f->piece = k ? NULL : malloc(size < LDR_PIECE_BYTES ? size : LDR_PIECE_BYTES);
    f->hash_state = k ? NULL : XXH3_createState();
    if (!k && (!f->piece || !f->hash_state))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (k)
        ldr_fill_close(f);
    else
        XXH3_64bits_reset(f->hash_state);
    return k;
}

static enum larder_kind write_piece(struct ldr_fill *f, struct larder_err *err)
{
    size_t done = 0;

    XXH3_64bits_update(f->hash_state, f->piece, f->piece_len);
    while (done < f->piece_len) {
        ssize_t n = pwrite(f->fd, f->piece + done, f->piece_len - done, (off_t)(f->written + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ldr_fail_sys(err, LARDER_IO, "could not write to the cache");
        done += (size_t)n;
    }
    f->written += f->piece_len;
    f->piece_len = 0;
    return LARDER_OK;
}

enum larder_kind ldr_fill_write(struct ldr_fill *f, const void *p, size_t n, struct larder_err *err)
{
    const uint8_t *from = p;

    if (n > f->size - f->written - f->piece_len)
        return ldr_fail(err, LARDER_CORRUPT, "more bytes arrived than the %" PRIu64 " announced", f->size);
    while (n > 0) {
        size_t room = LDR_PIECE_BYTES - f->piece_len, take = n < room ? n : room;

        memcpy(f->piece + f->piece_len, from, take);
        f->piece_len += take;
        from += take;
        n -= take;
        if (f->piece_len == LDR_PIECE_BYTES) {
            enum larder_kind k = write_piece(f, err);

            if (k)
                return k;
        }
    }
    return LARDER_OK;
}

enum larder_kind ldr_fill_seal(struct ldr_fill *f, struct larder_err *err)
{
    enum larder_kind k = f->piece_len ? write_piece(f, err) : LARDER_OK;

    if (!k && f->written != f->size)
        k = ldr_fail(err, LARDER_UNAVAILABLE, "only %" PRIu64 " of %" PRIu64 " bytes arrived", f->written, f->size);
    if (!k)
        k = ldr_cache_dir_own(f->blocks->dir, f->fd, 0440, "a block", err);
    f->hash = XXH3_64bits_digest(f->hash_state);
    free(f->piece);
    f->piece = NULL;
    return k;
}

enum larder_kind ldr_fill_link(struct ldr_fill *f, const struct ldr_id *id, uint32_t block, struct larder_err *err)
{
    char name[LDR_BLOCK_NAME_MAX], self[64];

    ldr_block_name(id, block, name);
    snprintf(self, sizeof self, "/proc/self/fd/%d", f->fd); /* by the descriptor, never by a name */
    if (linkat(AT_FDCWD, self, f->blocks->dir->dirfd, name, AT_SYMLINK_FOLLOW))
        return ldr_fail_sys(err, LARDER_IO, "could not put block \"%s\" into the cache", name);
    f->linked = true;
    return LARDER_OK;
}

void ldr_fill_close(struct ldr_fill *f)
{
    if (!f->blocks)
        return;
    if (f->fd >= 0)
        close(f->fd);
    if (!f->linked)
        ldr_space_release(f->blocks->space, f->size);
    free(f->piece);
    if (f->hash_state)
        XXH3_freeState(f->hash_state);
    *f = (struct ldr_fill){ .fd = -1 };
}

/* ---------- using and dropping ---------- */

bool ldr_blocks_intact(const struct ldr_blocks *b, const struct ldr_record *r)
{
    char name[LDR_BLOCK_NAME_MAX];
    struct stat st;

    if (ldr_record_blocks(r) == 0)
        return true;
    ldr_block_name(&r->id, 0, name);
    return fstatat(b->dir->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size == r->size_bytes;
}

int ldr_blocks_open(const struct ldr_blocks *b, const struct ldr_record *r)
{
    char name[LDR_BLOCK_NAME_MAX];
    struct stat st;
    int fd;

    ldr_block_name(&r->id, 0, name);
    fd = openat(b->dir->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd >= 0 && (fstat(fd, &st) || (uint64_t)st.st_size != r->size_bytes)) {
        close(fd);
        errno = ESTALE;
        fd = -1;
    }
    return fd;
}

struct drop {
    struct ldr_task task;
    struct ldr_blocks *blocks;
    struct ldr_id id;
    uint64_t size;
};

static void drop_on_pool(struct ldr_task *t)
{
    struct drop *d = LDR_CONTAINER(t, struct drop, task);
    char name[LDR_BLOCK_NAME_MAX];

    ldr_block_name(&d->id, 0, name);
    if (unlinkat(d->blocks->dir->dirfd, name, 0) && errno != ENOENT)
        ldr_log(LDR_WARN, "blocks", "could not unlink name=%s errno=%d", name, errno);
    ldr_space_release(d->blocks->space, d->size); /* gone by another hand is gone too */
    free(d);
}

void ldr_blocks_drop(struct ldr_blocks *b, const struct ldr_record *r)
{
    struct drop *d;

    if (ldr_record_blocks(r) == 0 || !(d = malloc(sizeof *d)))
        return; /* the next start's sweep finds it */
    *d = (struct drop){ .task.run = drop_on_pool, .blocks = b, .id = r->id, .size = r->size_bytes };
    ldr_pool_post(b->pool, &d->task);
}

/* ---------- the sweep ---------- */

struct ldr_sweep {
    struct ldr_task task;
    struct ldr_blocks *blocks;
    struct ldr_index *index;
    struct ldr_reader *reader;
    pthread_mutex_t mtx;
    pthread_cond_t cond;
    bool stop, ended;  /* under mtx */
    uint64_t unlinked; /* under mtx */
    unsigned folder;
};

/* "ID.n" of this folder whose record is not in the index. */
static bool orphan(struct ldr_sweep *s, const char *name)
{
    const char *dot = strchr(name, '.');
    struct ldr_id id;
    char *end;
    unsigned long n;

    if (!dot || !ldr_unhex(name, (size_t)(dot - name), &id, sizeof id))
        return true; /* not a name that larder makes */
    n = strtoul(dot + 1, &end, 10);
    if (end == dot + 1 || *end || n >= LDR_BLOCKS_MAX)
        return true;
    /* A block of this run may be linked and not committed yet. */
    return !ldr_index_own_id(s->index, &id) && !ldr_reader_has_block(s->reader, &id, (uint32_t)n);
}

static uint64_t sweep_folder(struct ldr_sweep *s)
{
    char path[sizeof LDR_NAME_BLOCKS + 4];
    uint64_t unlinked = 0;
    struct dirent *e;
    DIR *dir;
    int fd;

    snprintf(path, sizeof path, LDR_NAME_BLOCKS "/%02x", s->folder);
    fd = openat(s->blocks->dir->dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.' && orphan(s, e->d_name) && unlinkat(dirfd(dir), e->d_name, 0) == 0)
            unlinked++;
    closedir(dir);
    return unlinked;
}

static void sweep_on_pool(struct ldr_task *t)
{
    struct ldr_sweep *s = LDR_CONTAINER(t, struct ldr_sweep, task);
    uint64_t n = sweep_folder(s);
    bool again;

    pthread_mutex_lock(&s->mtx);
    s->unlinked += n;
    again = ++s->folder < 256 && !s->stop;
    if (!again) {
        s->ended = true;
        pthread_cond_signal(&s->cond);
    }
    n = s->unlinked;
    pthread_mutex_unlock(&s->mtx);
    if (again)
        ldr_pool_post(s->blocks->pool, t); /* behind whatever waits: a sweep is in no hurry */
    else if (n)
        ldr_log(LDR_INFO, "blocks", "unlinked files of no object count=%" PRIu64, n);
}

enum larder_kind ldr_sweep_start(struct ldr_blocks *b, struct ldr_index *x, struct ldr_sweep **out,
                                 struct larder_err *err)
{
    struct ldr_sweep *s = calloc(1, sizeof *s);
    enum larder_kind k;

    if (!s)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    k = ldr_reader_open(x, &s->reader, err);
    if (k) {
        free(s);
        return k;
    }
    s->task.run = sweep_on_pool;
    s->blocks = b;
    s->index = x;
    pthread_mutex_init(&s->mtx, NULL);
    pthread_cond_init(&s->cond, NULL);
    ldr_pool_post(b->pool, &s->task);
    *out = s;
    return LARDER_OK;
}

bool ldr_sweep_ended(struct ldr_sweep *s, uint64_t *unlinked)
{
    bool ended;

    pthread_mutex_lock(&s->mtx);
    ended = s->ended;
    *unlinked = s->unlinked;
    pthread_mutex_unlock(&s->mtx);
    return ended;
}

void ldr_sweep_stop(struct ldr_sweep **ps)
{
    struct ldr_sweep *s = *ps;

    if (!s)
        return;
    pthread_mutex_lock(&s->mtx);
    s->stop = true;
    while (!s->ended)
        pthread_cond_wait(&s->cond, &s->mtx);
    pthread_mutex_unlock(&s->mtx);
    ldr_reader_close(&s->reader);
    pthread_mutex_destroy(&s->mtx);
    pthread_cond_destroy(&s->cond);
    free(s);
    *ps = NULL;
}
