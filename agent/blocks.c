/* blocks.c - see blocks.h. */
#include "agent/blocks.h"
#include "common/hash.h"
#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* ---------- filling ---------- */

static uint8_t *piece_take(struct ldr_blocks *b, uint64_t size)
{
    uint8_t *p = NULL;

    if (size < LDR_PIECE_BYTES)
        return malloc(size);
    pthread_mutex_lock(&b->mtx);
    if (b->n_pieces > 0)
        p = b->pieces[--b->n_pieces];
    pthread_mutex_unlock(&b->mtx);
    return p ? p : malloc(LDR_PIECE_BYTES);
}

static void piece_give(struct ldr_blocks *b, uint64_t size, uint8_t **piece)
{
    if (*piece && size >= LDR_PIECE_BYTES) {
        pthread_mutex_lock(&b->mtx);
        if (b->n_pieces < LDR_PIECES_KEPT) {
            b->pieces[b->n_pieces++] = *piece;
            *piece = NULL;
        }
        pthread_mutex_unlock(&b->mtx);
    }
    free(*piece);
    *piece = NULL;
}

enum larder_kind ldr_fill_open(struct ldr_blocks *b, uint64_t size, bool reserved, struct ldr_fill *f,
                               struct larder_err *err)
{
    enum larder_kind k = reserved ? LARDER_OK : ldr_space_reserve(b->space, size, err);

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
    if (!k) {
        f->allocated = true;
        ldr_space_filled(b->space, size);
    }
    f->piece = k || b->direct ? NULL : piece_take(b, size);
    f->hash_state = k ? NULL : XXH3_createState();
    if (!k && ((!f->piece && !b->direct) || !f->hash_state))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (k)
        ldr_fill_close(f);
    else
        XXH3_64bits_reset(f->hash_state);
    return k;
}

static enum larder_kind write_out(struct ldr_fill *f, const uint8_t *p, size_t n, struct larder_err *err)
{
    size_t done = 0;

    XXH3_64bits_update(f->hash_state, p, n);
    while (done < n) {
        ssize_t wrote = pwrite(f->fd, p + done, n - done, (off_t)(f->written + done));

        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return ldr_fail_sys(err, LARDER_IO, "could not write to the cache");
        done += (size_t)wrote;
    }
    f->written += n;
    return LARDER_OK;
}

static enum larder_kind write_piece(struct ldr_fill *f, struct larder_err *err)
{
    enum larder_kind k = write_out(f, f->piece, f->piece_len, err);

    f->piece_len = 0;
    return k;
}

enum larder_kind ldr_fill_write(struct ldr_fill *f, const void *p, size_t n, struct larder_err *err)
{
    const uint8_t *from = p;

    if (n > f->size - f->written - f->piece_len)
        return ldr_fail(err, LARDER_CORRUPT, "more bytes arrived than the %" PRIu64 " announced", f->size);
    if (!f->piece)
        return write_out(f, from, n, err);
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

bool ldr_fill_direct(struct ldr_fill *f, uint64_t left, int *fd, uint64_t *at)
{
    if (left != f->size - f->written - f->piece_len || (f->piece_len && write_piece(f, NULL)))
        return false;
    f->unhashed = true;
    *fd = f->fd;
    *at = f->written;
    return true;
}

void ldr_fill_moved(struct ldr_fill *f, size_t n)
{
    f->written += n;
}

enum larder_kind ldr_fill_seal(struct ldr_fill *f, struct larder_err *err)
{
    enum larder_kind k = f->piece_len ? write_piece(f, err) : LARDER_OK;

    if (!k && f->written != f->size)
        k = ldr_fail(err, LARDER_UNAVAILABLE, "only %" PRIu64 " of %" PRIu64 " bytes arrived", f->written, f->size);
    if (!k)
        k = ldr_cache_dir_own(f->blocks->dir, f->fd, 0440, "a block", err);
    f->hash = f->unhashed ? LDR_HASH_NONE : XXH3_64bits_digest(f->hash_state);
    piece_give(f->blocks, f->size, &f->piece);
    return k;
}

enum larder_kind ldr_fill_link(struct ldr_fill *f, const struct ldr_id *id, uint32_t block, struct larder_err *err)
{
    char name[LDR_BLOCK_NAME_MAX], self[64];

    ldr_block_name(id, block, name);
    snprintf(self, sizeof self, "/proc/self/fd/%d", f->fd); /* by the descriptor, never by a name */
    if (linkat(AT_FDCWD, self, f->blocks->dir->dirfd, name, AT_SYMLINK_FOLLOW))
        return ldr_fail_sys(err, errno == EEXIST ? LARDER_EXISTS : LARDER_IO,
                            "could not put block \"%s\" into the cache", name);
    f->linked = true;
    return LARDER_OK;
}

void ldr_fill_close(struct ldr_fill *f)
{
    if (!f->blocks)
        return;
    if (f->fd >= 0)
        close(f->fd);
    if (!f->linked && f->allocated) {
        ldr_space_leaving(f->blocks->space, f->size);
        ldr_space_gone(f->blocks->space, f->size, false);
    } else if (!f->linked) {
        ldr_space_release(f->blocks->space, f->size);
    }
    piece_give(f->blocks, f->size, &f->piece);
    if (f->hash_state)
        XXH3_freeState(f->hash_state);
    *f = (struct ldr_fill){ .fd = -1 };
}

/* ---------- using ---------- */

bool ldr_blocks_intact(const struct ldr_blocks *b, const struct ldr_record *r, uint32_t block)
{
    char name[LDR_BLOCK_NAME_MAX];
    struct stat st;

    if (ldr_record_blocks(r) == 0)
        return true;
    if (block >= ldr_record_blocks(r))
        return false;
    ldr_block_name(&r->id, block, name);
    return fstatat(b->dir->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size == ldr_record_block_len(r, block);
}

int ldr_blocks_open(const struct ldr_blocks *b, const struct ldr_record *r, uint32_t block)
{
    char name[LDR_BLOCK_NAME_MAX];
    struct stat st;
    int fd;

    if (block >= ldr_record_blocks(r)) {
        errno = ENOENT;
        return -1;
    }
    ldr_block_name(&r->id, block, name);
    fd = openat(b->dir->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd >= 0 && (fstat(fd, &st) || (uint64_t)st.st_size != ldr_record_block_len(r, block))) {
        close(fd);
        errno = ESTALE;
        fd = -1;
    }
    return fd;
}

/* Has somebody else the file open or mapped? A write lease is granted to nobody's only opener; where the file system
 * has no leases, the answer is no. */
static bool in_use(int fd)
{
    if (fcntl(fd, F_SETLEASE, F_WRLCK) == -1)
        return errno == EAGAIN;
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return false;
}

bool ldr_blocks_mapped(const struct ldr_blocks *b, const struct ldr_id *id, uint32_t block)
{
    char name[LDR_BLOCK_NAME_MAX];
    bool mapped;
    int fd;

    ldr_block_name(id, block, name);
    fd = openat(b->dir->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    mapped = in_use(fd);
    close(fd);
    return mapped;
}

/* ---------- dropping ---------- */

/* Room for one more that lingers; under mtx. */
static bool linger_room(struct ldr_blocks *b)
{
    size_t cap = b->cap_lingering ? 2 * b->cap_lingering : 64;
    struct ldr_lingering *more;

    if (b->n_lingering < b->cap_lingering)
        return true;
    more = cap <= LDR_LINGERING_MAX ? realloc(b->lingering, cap * sizeof *more) : NULL;
    if (!more)
        return false;
    b->lingering = more;
    b->cap_lingering = cap;
    return true;
}

/* Keep the descriptor of an unlinked file that is still mapped, to ask again. False: too many are kept already. */
static bool linger(struct ldr_blocks *b, int fd, uint64_t length)
{
    bool kept, first = false;

    ldr_space_lingers(b->space, length);
    pthread_mutex_lock(&b->mtx);
    kept = linger_room(b);
    if (kept) {
        b->lingering[b->n_lingering++] = (struct ldr_lingering){ fd, length };
    } else {
        first = !b->overflowed;
        b->overflowed = true;
    }
    pthread_mutex_unlock(&b->mtx);
    if (first)
        ldr_log(LDR_WARN, "blocks", "more evicted files are mapped than are watched, the others do not count max=%d",
                LDR_LINGERING_MAX);
    return kept;
}

struct drop {
    struct ldr_task task;
    struct ldr_blocks *blocks;
    uint64_t length;
    char name[32]; /* in fill/ */
};

static void drop_on_pool(struct ldr_task *t)
{
    struct drop *d = LDR_CONTAINER(t, struct drop, task);
    struct ldr_blocks *b = d->blocks;
    int fd = openat(b->dir->fillfd, d->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool mapped;

    if (unlinkat(b->dir->fillfd, d->name, 0))
        ldr_log(LDR_WARN, "blocks", "could not unlink name=%s errno=%d", d->name, errno);
    mapped = fd >= 0 && in_use(fd);
    if (!mapped || !linger(b, fd, d->length)) {
        if (fd >= 0)
            close(fd); /* frees its blocks on the disk, if we were the last */
        ldr_space_gone(b->space, d->length, mapped);
    }
    free(d);
}

void ldr_blocks_drop(struct ldr_blocks *b, const struct ldr_id *id, uint32_t block, uint64_t length)
{
    struct drop *d = malloc(sizeof *d);
    char name[LDR_BLOCK_NAME_MAX];

    if (!d)
        return; /* the next start's sweep finds it */
    *d = (struct drop){ .task.run = drop_on_pool, .blocks = b, .length = length };
    snprintf(d->name, sizeof d->name, "gone-%" PRIu64, atomic_fetch_add(&b->dropped, 1));
    ldr_block_name(id, block, name);
    ldr_space_leaving(b->space, length);
    /* Away from its name now, not when the pool comes to it: the same block may be filled again at once. */
    if (renameat(b->dir->dirfd, name, b->dir->fillfd, d->name)) {
        bool gone = errno == ENOENT || !unlinkat(b->dir->dirfd, name, 0); /* a full disk may have no room for a name */

        if (gone)
            ldr_space_gone(b->space, length, false); /* gone by another hand is gone too */
        else
            ldr_log(LDR_WARN, "blocks", "could not remove name=%s errno=%d", name, errno);
        free(d);
        return;
    }
    ldr_pool_post(b->pool, &d->task);
}

/* Ask for each that lingers whether it is free now. */
static void look_on_pool(struct ldr_task *t)
{
    struct ldr_blocks *b = LDR_CONTAINER(t, struct ldr_blocks, look);
    size_t i = 0;

    for (;;) {
        struct ldr_lingering one = { .fd = -1 };

        pthread_mutex_lock(&b->mtx);
        while (i < b->n_lingering && in_use(b->lingering[i].fd))
            i++;
        if (i < b->n_lingering) {
            one = b->lingering[i];
            b->lingering[i] = b->lingering[--b->n_lingering];
        } else {
            b->looking = false;
        }
        pthread_mutex_unlock(&b->mtx);
        if (one.fd < 0)
            return;
        close(one.fd);
        ldr_space_gone(b->space, one.length, true);
    }
}

void ldr_blocks_tick(struct ldr_blocks *b)
{
    bool look;

    pthread_mutex_lock(&b->mtx);
    look = b->n_lingering && !b->looking;
    b->looking |= look;
    pthread_mutex_unlock(&b->mtx);
    if (look)
        ldr_pool_post(b->pool, &b->look);
}

void ldr_blocks_init(struct ldr_blocks *b, const struct ldr_cache_dir *dir, struct ldr_space *space,
                     struct ldr_pool *pool)
{
    struct statfs fs;

    *b = (struct ldr_blocks){ .dir = dir, .space = space, .pool = pool, .look.run = look_on_pool };
    b->direct = fstatfs(dir->dirfd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
    pthread_mutex_init(&b->mtx, NULL);
}

void ldr_blocks_release(struct ldr_blocks *b)
{
    if (!b->dir)
        return;
    for (size_t i = 0; i < b->n_lingering; i++)
        close(b->lingering[i].fd);
    free(b->lingering);
    while (b->n_pieces > 0)
        free(b->pieces[--b->n_pieces]);
    pthread_mutex_destroy(&b->mtx);
    *b = (struct ldr_blocks){ 0 };
}

/* ---------- the sweep ---------- */

struct ldr_sweep {
    struct ldr_task task;
    struct ldr_blocks *blocks;
    struct ldr_index *index;
    struct ldr_reader *reader;
    pthread_mutex_t mtx;
    pthread_cond_t cond;
    struct timespec since; /* the agent's start, by the file system's clock */
    bool stop, ended;      /* under mtx */
    uint64_t unlinked;     /* under mtx */
    unsigned folder;
};

/* Linked by this run: an object that was kept from an earlier one may get a block now, whose record is on its way. */
static bool of_this_run(const struct ldr_sweep *s, int folder, const char *name)
{
    struct stat st;

    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW))
        return true; /* gone meanwhile */
    /* Not by its ctime: taking the staged name away from a file that was linked just before a kill changes that. */
    return st.st_mtim.tv_sec > s->since.tv_sec ||
           (st.st_mtim.tv_sec == s->since.tv_sec && st.st_mtim.tv_nsec >= s->since.tv_nsec);
}

/* "ID.n" of this folder whose record is not in the index. */
static bool orphan(struct ldr_sweep *s, int folder, const char *name)
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
    return !ldr_index_own_id(s->index, &id) && !ldr_reader_has_block(s->reader, &id, (uint32_t)n) &&
           !of_this_run(s, folder, name);
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
        if (e->d_name[0] != '.' && orphan(s, dirfd(dir), e->d_name) && unlinkat(dirfd(dir), e->d_name, 0) == 0)
            unlinked++;
    closedir(dir);
    return unlinked;
}

static void sweep_on_pool(struct ldr_task *t)
{
    struct ldr_sweep *s = LDR_CONTAINER(t, struct ldr_sweep, task);
    uint64_t n = sweep_folder(s);
    bool again;

    if (s->folder == 255)
        ldr_index_swept(s->index); /* before its owner is told */

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
    struct stat st;
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
    if (fstat(b->dir->lockfd, &st) == 0) /* written when it was taken */
        s->since = st.st_mtim;
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

/* ---------- files that clients fill ---------- */

void ldr_fill_adopt(struct ldr_blocks *b, int fd, uint64_t size, struct ldr_fill *f)
{
    *f = (struct ldr_fill){ .blocks = b, .fd = fd, .size = size, .written = size, .allocated = true };
    ldr_space_filled(b->space, size);
}

void ldr_fill_shrink(struct ldr_fill *f, uint64_t size)
{
    /* Bytes that nobody has any more, of no file of their own. */
    ldr_space_forget(f->blocks->space, ldr_space_charge(f->size) - ldr_space_charge(size), 0);
    f->size = f->written = size;
}

void ldr_fill_disown(struct ldr_fill *f)
{
    struct ldr_blocks *b = f->blocks;
    bool mapped = b && !f->linked && f->allocated && in_use(f->fd);

    if (!mapped) {
        ldr_fill_close(f);
        return;
    }
    ldr_space_leaving(b->space, f->size);
    if (!linger(b, f->fd, f->size)) {
        close(f->fd);
        ldr_space_gone(b->space, f->size, true);
    }
    *f = (struct ldr_fill){ .fd = -1 };
}
