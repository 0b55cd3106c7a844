/* local.c - kind "local": objects as files, path/CONTAINER/KEY (backend.h; step 7 of docs/tour.md).
 *
 * Everything here runs on the pool. Rules:
 *  1. No name leads out of `path`: keys with `.`, `..` or empty segments are refused, and no symbolic link is followed.
 *  2. Only regular files are objects. A directory is a missing object; anything else is refused and never waited for.
 *  3. An object appears whole or not at all: it is written in CONTAINER/.larder-tmp, synced and renamed. No key can
 * have that segment. What a crash leaves there is removed at a later open, when it is a day old.
 *  4. A delete removes the directories that it leaves empty; a put that loses its directory to one makes it again.
 *  5. Metadata lives in the extended attribute user.larder.meta, encoded as in meta.h. */
#include "backends/backend.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TMP_DIR       ".larder-tmp"
#define TMP_NAME_MAX  33 /* 32 hex digits, NUL */
#define TMP_STALE_S   (24 * 3600)
#define XATTR         "user.larder.meta"
#define CHUNK         (256 * LDR_KIB) /* bytes of one read */
#define MAKE_TRIES    16              /* of a put whose directory is deleted under it */
#define VALIDATOR_MAX 80              /* four hex numbers, three dashes, two quotes, NUL */
#define META_ROOM     256             /* kept free in the fields for validator and ETag */

extern const struct ldr_backend_ops ldr_backend_local;

struct local {
    struct ldr_backend base;
    /* set once in open() */
    int root;         /* `path` */
    bool has_openat2; /* else each segment is opened by itself */
    uint64_t fingerprint;
};

/* An object's path below the root, "container/key". */
struct place {
    char path[PATH_MAX];
    char *leaf; /* the last segment; leaf[-1] is a `/` */
};

/* ---- names ---- */

static const char *segment_fault(const char *s, size_t n)
{
    if (n == 0)
        return "an empty segment";
    if (n > NAME_MAX)
        return "a segment longer than 255 bytes";
    if ((n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.'))
        return "a segment \".\" or \"..\"";
    if (n == strlen(TMP_DIR) && !memcmp(s, TMP_DIR, n))
        return "the reserved segment \"" TMP_DIR "\"";
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return "a control character";
    return NULL;
}

/* INVALID: a file system cannot hold this name, or it would lead elsewhere. */
static enum larder_kind place_init(struct place *p, struct ldr_op *op)
{
    int n = snprintf(p->path, sizeof p->path, "%s/%s", op->container, op->key);
    const char *fault = NULL, *s = p->path, *end;

    if (n < 0 || (size_t)n >= sizeof p->path)
        return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\": the name is too long for a local store", op->uri);
    if (strchr(op->container, '/'))
        fault = "a container with \"/\"";
    for (; !fault; s = end + 1) {
        end = strchrnul(s, '/');
        fault = segment_fault(s, (size_t)(end - s));
        if (!*end)
            break;
    }
    if (fault)
        return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\": a local store cannot hold %s", op->uri, fault);
    p->leaf = strrchr(p->path, '/') + 1;
    return LARDER_OK;
}

/* Open `path` one segment at a time below `root`, making missing directories if asked to. Same answers as openat2(). */
static int walk(int root, const char *path, int flags, bool make)
{
    int step = (make ? O_RDONLY : O_PATH) | O_DIRECTORY; /* fsync() wants more than O_PATH */
    int at = root;

    for (;;) {
        const char *slash = strchr(path, '/');
        size_t n = slash ? (size_t)(slash - path) : strlen(path);
        char name[NAME_MAX + 1];
        struct stat st;
        int sys, fd, how = (slash ? step : flags) | O_NOFOLLOW | O_CLOEXEC;

        memcpy(name, path, n);
        name[n] = '\0';
        fd = openat(at, name, how);
        if (fd == -1 && errno == ENOENT && make) {
            if (mkdirat(at, name, 0750) == 0)
                fsync(at); /* the object in it shall not vanish with its directory */
            fd = openat(at, name, how);
        }
        sys = errno;
        if (fd == -1 && sys == ENOTDIR && fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
            sys = ELOOP;
        if (at != root)
            close(at);
        errno = sys;
        if (fd == -1 || !slash)
            return fd;
        at = fd;
        path = slash + 1;
    }
}

static int try_openat2(int root, const char *path, int flags)
{
    /* without O_NOFOLLOW: it would open a link at the end as such, and O_DIRECTORY then say ENOTDIR */
    struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC),
                            .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };

    return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

static int open_beneath(const struct local *l, const char *path, int flags)
{
    return l->has_openat2 ? try_openat2(l->root, path, flags) : walk(l->root, path, flags, false);
}

static int make_dir(const struct local *l, const char *path)
{
    int fd = open_beneath(l, path, O_RDONLY | O_DIRECTORY);

    return fd == -1 && errno == ENOENT ? walk(l->root, path, O_RDONLY | O_DIRECTORY, true) : fd;
}

static int open_parent(const struct local *l, struct place *p, bool make)
{
    int fd;

    p->leaf[-1] = '\0';
    fd = make ? make_dir(l, p->path) : open_beneath(l, p->path, O_RDONLY | O_DIRECTORY);
    p->leaf[-1] = '/';
    return fd;
}

/* ---- failures ---- */

/* The kind of an errno; `doing` is what was tried ("read"). */
static enum larder_kind fail_sys(struct ldr_op *op, const char *doing)
{
    enum larder_kind k = LARDER_IO;

    switch (errno) {
    case ENOTDIR:
        if (op->what == LDR_OP_PUT)
            return ldr_fail(&op->err, LARDER_INVALID,
                            "object \"%s\": part of its path is an object itself, and a local store cannot hold both",
                            op->uri);
        return ldr_fail(&op->err, LARDER_NOT_FOUND, "object \"%s\" does not exist", op->uri);
    case ENOENT:
        if (op->what == LDR_OP_PUT) { /* a directory just made is gone again */
            k = LARDER_UNAVAILABLE;
            break;
        }
        return ldr_fail(&op->err, LARDER_NOT_FOUND, "object \"%s\" does not exist", op->uri);
    case ELOOP:
    case EXDEV:
        return ldr_fail(&op->err, LARDER_INVALID,
                        "object \"%s\": a symbolic link is in its path, and a local store follows none", op->uri);
    case EACCES:
    case EPERM:
    case EROFS:
        k = LARDER_DENIED;
        break;
    case ENAMETOOLONG:
    case EILSEQ:
        k = LARDER_INVALID;
        break;
    case EAGAIN: /* a lease is being broken */
    case EMFILE:
    case ENFILE:
    case ESTALE:
        k = LARDER_UNAVAILABLE;
        break;
    case ENOMEM:
        k = LARDER_NO_MEMORY;
        break;
    default:
        break;
    }
    return ldr_fail_sys(&op->err, k, "could not %s object \"%s\"", doing, op->uri);
}

static enum larder_kind fail_type(struct ldr_op *op)
{
    return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\" is not a regular file", op->uri);
}

static enum larder_kind fail_prefix(struct ldr_op *op)
{
    return ldr_fail(&op->err, LARDER_INVALID,
                    "object \"%s\": there are objects below this name, and a local store cannot hold both", op->uri);
}

static enum larder_kind check_deadline(struct ldr_op *op)
{
    if (ldr_mono_ns() < op->deadline_ns)
        return LARDER_OK;
    return ldr_fail(&op->err, LARDER_TIMEOUT, "object \"%s\": the time is up", op->uri);
}

/* ---- metadata ---- */

/* The store's own facts (validator, ETag, …) come from the file; claims about the bytes would have to be checked. */
static bool tag_kept(uint8_t tag)
{
    return tag == LDR_TAG_CONTENT_TYPE || tag == LDR_TAG_CONTENT_ENCODING || tag == LDR_TAG_CACHE_CONTROL ||
           tag == LDR_TAG_CONTENT_DISPOSITION || tag == LDR_TAG_CONTENT_LANGUAGE || tag == LDR_TAG_USER;
}

static uint64_t file_ns(const struct timespec *t)
{
    return (uint64_t)t->tv_sec * (uint64_t)LDR_NS_PER_S + (uint64_t)t->tv_nsec;
}

static void validator_text(const struct stat *st, char out[VALIDATOR_MAX])
{
    snprintf(out, VALIDATOR_MAX, "\"%" PRIx64 "-%" PRIx64 "-%" PRIx64 "-%" PRIx64 "\"", (uint64_t)st->st_ino,
             (uint64_t)st->st_size, file_ns(&st->st_mtim), file_ns(&st->st_ctim));
}

/* Did the bytes stay as they were? Being replaced or linked changes only ctime and the number of links. */
static bool same_bytes(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && file_ns(&a->st_mtim) == file_ns(&b->st_mtim) &&
           (file_ns(&a->st_ctim) == file_ns(&b->st_ctim) || a->st_nlink != b->st_nlink);
}

/* Add what the attribute holds. One that makes no sense (others may write it) counts as none. */
static bool meta_load(struct ldr_op *op, int fd)
{
    uint8_t fields[LDR_META_MAX - META_ROOM];
    ssize_t n = fgetxattr(fd, XATTR, fields, sizeof fields);
    struct ldr_field f;
    size_t pos = 0;

    if (n == -1 && (errno == ENODATA || errno == ENOTSUP))
        return true;
    if (n == -1 || !ldr_fields_valid(fields, (size_t)n)) {
        ldr_log(LDR_WARN, "local", "unreadable metadata is ignored object=\"%s\"", op->uri);
        return true;
    }
    while (ldr_fields_next(fields, (size_t)n, &pos, &f))
        if (tag_kept(f.tag) && !ldr_meta_add(&op->meta, f.tag, f.p, f.len))
            return false;
    return true;
}

/* Fill op->meta from an open file. */
static enum larder_kind describe(struct ldr_op *op, int fd, const struct stat *st)
{
    char v[VALIDATOR_MAX];

    validator_text(st, v);
    ldr_meta_release(&op->meta);
    op->meta.size_bytes = (uint64_t)st->st_size;
    op->meta.last_modified_s = st->st_mtim.tv_sec;
    if (!ldr_meta_add_text(&op->meta, LDR_TAG_VALIDATOR, v) ||
        !ldr_meta_add(&op->meta, LDR_TAG_ETAG, v + 1, strlen(v) - 2) || !meta_load(op, fd))
        return ldr_fail(&op->err, LARDER_NO_MEMORY, "object \"%s\": out of memory for its metadata", op->uri);
    return LARDER_OK;
}

static enum larder_kind check_put_meta(struct ldr_op *op)
{
    const struct ldr_meta *m = op->put_meta;
    struct ldr_field f;
    size_t pos = 0;

    if (!m)
        return LARDER_OK;
    if (m->fields.len > LDR_META_MAX - META_ROOM)
        return ldr_fail(&op->err, LARDER_LIMIT_EXCEEDED,
                        "object \"%s\": %zu bytes of metadata, a local store keeps %zu at most", op->uri, m->fields.len,
                        (size_t)(LDR_META_MAX - META_ROOM));
    while (ldr_fields_next(m->fields.p, m->fields.len, &pos, &f))
        if (!tag_kept(f.tag))
            return ldr_fail(&op->err, LARDER_UNSUPPORTED, "object \"%s\": a local store cannot keep metadata field %u",
                            op->uri, f.tag);
    return LARDER_OK;
}

static enum larder_kind meta_store(struct ldr_op *op, int fd)
{
    const struct ldr_meta *m = op->put_meta;

    if (!m || m->fields.len == 0 || fsetxattr(fd, XATTR, m->fields.p, m->fields.len, XATTR_CREATE) == 0)
        return LARDER_OK;
    if (errno == ENOTSUP)
        return ldr_fail(&op->err, LARDER_UNSUPPORTED,
                        "object \"%s\": its file system keeps no metadata (no extended attributes)", op->uri);
    if (errno == E2BIG)
        return ldr_fail(&op->err, LARDER_LIMIT_EXCEEDED,
                        "object \"%s\": %zu bytes of metadata are more than its file system keeps", op->uri,
                        m->fields.len);
    return fail_sys(op, "store the metadata of");
}

/* ---- get, head ---- */

/* On success *fd is the caller's. */
static enum larder_kind open_object(const struct local *l, struct ldr_op *op, int *fd, struct stat *st)
{
    struct place p;
    enum larder_kind k = place_init(&p, op);

    if (k)
        return k;
    *fd = open_beneath(l, p.path, O_RDONLY | O_NONBLOCK | O_NOCTTY); /* a FIFO without a writer would block for ever */
    if (*fd == -1)
        return errno == ENXIO || errno == ENODEV ? fail_type(op) : fail_sys(op, "open");
    if (fstat(*fd, st) == -1)
        return fail_sys(op, "stat");
    if (S_ISDIR(st->st_mode))
        return ldr_fail(&op->err, LARDER_NOT_FOUND, "object \"%s\" does not exist", op->uri);
    return S_ISREG(st->st_mode) ? LARDER_OK : fail_type(op);
}

static enum larder_kind head(const struct local *l, struct ldr_op *op)
{
    struct stat st;
    int fd = -1;
    enum larder_kind k = open_object(l, op, &fd, &st);

    if (!k)
        k = describe(op, fd, &st);
    if (fd != -1)
        close(fd);
    return k;
}

/* Which part of `size` bytes does the op want? */
static enum larder_kind clip_range(struct ldr_op *op, uint64_t size, uint64_t *offset, uint64_t *length)
{
    *offset = op->ranged ? op->offset : 0;
    if (*offset > 0 && *offset >= size)
        return ldr_fail(&op->err, LARDER_INVALID,
                        "object \"%s\": byte %" PRIu64 " was asked for, it has %" PRIu64 " bytes", op->uri, *offset,
                        size);
    *length = op->ranged && op->length < size - *offset ? op->length : size - *offset;
    return LARDER_OK;
}

static enum larder_kind read_into_sink(struct ldr_op *op, int fd, uint64_t offset, uint64_t length)
{
    enum larder_kind k = LARDER_OK;
    uint8_t *buf = length ? malloc(length < CHUNK ? length : CHUNK) : NULL;

    if (length && !buf)
        return ldr_fail(&op->err, LARDER_NO_MEMORY, "object \"%s\": out of memory", op->uri);
    while (!k && length && !(k = check_deadline(op))) {
        ssize_t n = pread(fd, buf, length < CHUNK ? length : CHUNK, (off_t)offset);

        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            k = fail_sys(op, "read");
        else if (n == 0)
            k = ldr_fail(&op->err, LARDER_UNAVAILABLE, "object \"%s\" was shortened while it was read", op->uri);
        else
            k = op->sink->write(op->sink, buf, (size_t)n, &op->err);
        if (!k) {
            offset += (uint64_t)n;
            length -= (uint64_t)n;
            op->bytes_in += (uint64_t)n;
        }
    }
    free(buf);
    return k;
}

static enum larder_kind get(const struct local *l, struct ldr_op *op)
{
    char v[VALIDATOR_MAX];
    struct stat st, after;
    uint64_t offset = 0, length = 0;
    int fd = -1;
    enum larder_kind k = open_object(l, op, &fd, &st);

    if (k)
        goto done;
    validator_text(&st, v);
    if (op->if_match && strcmp(op->if_match, v) != 0) {
        k = ldr_fail(&op->err, LARDER_PRECONDITION, "object \"%s\" has changed", op->uri);
        goto done;
    }
    if ((k = clip_range(op, (uint64_t)st.st_size, &offset, &length)) || (k = describe(op, fd, &st)) ||
        (k = op->sink->begin(op->sink, &op->meta, offset, length, &op->err)) ||
        (k = read_into_sink(op, fd, offset, length)))
        goto done;
    if (fstat(fd, &after) == -1)
        k = fail_sys(op, "stat");
    else if (!same_bytes(&st, &after))
        k = ldr_fail(&op->err, LARDER_UNAVAILABLE, "object \"%s\" was written to while it was read", op->uri);
done:
    if (fd != -1)
        close(fd);
    return k;
}

/* ---- put ---- */

static enum larder_kind write_all(struct ldr_op *op, int fd, const uint8_t *p, uint64_t n)
{
    while (n) {
        ssize_t w = write(fd, p, n < LDR_GIB ? n : LDR_GIB);

        if (w == -1 && errno == EINTR)
            continue;
        if (w == -1)
            return fail_sys(op, "write");
        p += w;
        n -= (uint64_t)w;
        op->bytes_out += (uint64_t)w;
    }
    return LARDER_OK;
}

static enum larder_kind copy_body(struct ldr_op *op, int fd)
{
    enum larder_kind k = LARDER_OK;
    uint8_t *buf = malloc(CHUNK);
    uint64_t done = 0;

    if (!buf)
        return ldr_fail(&op->err, LARDER_NO_MEMORY, "object \"%s\": out of memory", op->uri);
    while (!k && done < op->size_bytes && !(k = check_deadline(op))) {
        uint64_t left = op->size_bytes - done;
        ssize_t n = pread(op->fd, buf, left < CHUNK ? left : CHUNK, (off_t)done);

        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            k = ldr_fail_sys(&op->err, LARDER_IO, "could not read the bytes to put as \"%s\"", op->uri);
        else if (n == 0)
            k = ldr_fail(&op->err, LARDER_IO, "the bytes to put as \"%s\" end at %" PRIu64 " of %" PRIu64, op->uri,
                         done, op->size_bytes);
        else
            k = write_all(op, fd, buf, (uint64_t)n);
        done += n > 0 ? (uint64_t)n : 0;
    }
    free(buf);
    return k;
}

/* A new file in the container's TMP_DIR: its directory, name and descriptor are the caller's, also on failure. */
static enum larder_kind make_tmp(const struct local *l, struct ldr_op *op, int *dir, char name[TMP_NAME_MAX], int *fd)
{
    char path[NAME_MAX + sizeof "/" TMP_DIR];
    uint8_t random[16];

    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return fail_sys(op, "name a file for");
    ldr_hex(random, sizeof random, name);
    snprintf(path, sizeof path, "%.*s/%s", NAME_MAX, op->container, TMP_DIR);
    *dir = make_dir(l, path);
    if (*dir == -1)
        return fail_sys(op, "make a directory for");
    *fd = openat(*dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    return *fd == -1 ? fail_sys(op, "create a file for") : LARDER_OK;
}

/* renameat() that never replaces, for file systems without RENAME_NOREPLACE too. */
static int move_new(int from_dir, const char *from, int to_dir, const char *to)
{
    if (renameat2(from_dir, from, to_dir, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    return linkat(from_dir, from, to_dir, to, 0) == 0 ? unlinkat(from_dir, from, 0) : -1;
}

/* Give the temporary file its name. On success *parent is the directory that must be synced. */
static enum larder_kind publish(const struct local *l, struct ldr_op *op, struct place *p, int dir, const char *tmp,
                                int *parent)
{
    for (int tries = 0; tries < MAKE_TRIES; tries++) {
        struct stat st;
        int rc;

        if (*parent != -1)
            close(*parent);
        *parent = open_parent(l, p, true);
        if (*parent == -1 && errno == ENOENT)
            continue;
        if (*parent == -1)
            return fail_sys(op, "make a directory for");
        if (fstatat(*parent, p->leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode))
            return S_ISDIR(st.st_mode) ? fail_prefix(op) : fail_type(op);
        rc = op->create_only ? move_new(dir, tmp, *parent, p->leaf) : renameat(dir, tmp, *parent, p->leaf);
        op->sent = rc == 0 || errno == EIO; /* any other failure is a firm no */
        if (rc == 0)
            return LARDER_OK;
        if (errno == EEXIST)
            return ldr_fail(&op->err, LARDER_EXISTS, "object \"%s\" exists already", op->uri);
        if (errno == EISDIR)
            return fail_prefix(op);
        if (errno != ENOENT) /* ENOENT: a delete removed the directory since it was opened */
            return fail_sys(op, "publish");
    }
    return ldr_fail(&op->err, LARDER_UNAVAILABLE, "object \"%s\": its directory is deleted again and again", op->uri);
}

static enum larder_kind put(const struct local *l, struct ldr_op *op)
{
    char tmp[TMP_NAME_MAX];
    struct place p;
    struct stat st;
    struct timespec now[2];
    int dir = -1, fd = -1, parent = -1;
    bool named = false; /* does the temporary file have to go? */
    enum larder_kind k;

    if ((k = place_init(&p, op)) || (k = check_put_meta(op)) || (k = make_tmp(l, op, &dir, tmp, &fd)))
        goto done;
    named = true;
    if ((k = op->bytes || op->size_bytes == 0 ? write_all(op, fd, op->bytes, op->size_bytes) : copy_body(op, fd)) ||
        (k = meta_store(op, fd)))
        goto done;

    /* The kernel's file times move in ticks and inodes are reused: two puts of one size within a tick could end up with
     * the same validator. An exact time tells them apart; where it cannot be set, ticks must do. */
    clock_gettime(CLOCK_REALTIME, &now[0]);
    now[1] = now[0];
    futimens(fd, now);
    if (fsync(fd) == -1) {
        k = fail_sys(op, "write");
        goto done;
    }
    if ((k = check_deadline(op)) || (k = publish(l, op, &p, dir, tmp, &parent)))
        goto done;
    named = false;
    if (fsync(parent) == -1 || fstat(fd, &st) == -1) /* fstat last: renaming changed the ctime */
        k = fail_sys(op, "write");
    else
        k = describe(op, fd, &st);
done:
    if (named)
        unlinkat(dir, tmp, 0);
    if (fd != -1)
        close(fd);
    if (dir != -1)
        close(dir);
    if (parent != -1)
        close(parent);
    return k;
}

/* ---- delete ---- */

/* Remove the directories above the object as far as they are empty, but not the container. */
static void prune(const struct local *l, struct place *p)
{
    char *slash;

    p->leaf[-1] = '\0'; /* the path is now the object's directory */
    while ((slash = strrchr(p->path, '/'))) {
        int up, rc;

        *slash = '\0';
        up = open_beneath(l, p->path, O_PATH | O_DIRECTORY);
        rc = up == -1 ? -1 : unlinkat(up, slash + 1, AT_REMOVEDIR);
        if (up != -1)
            close(up);
        if (rc == -1)
            return;
    }
}

static enum larder_kind del(const struct local *l, struct ldr_op *op)
{
    struct place p;
    struct stat st;
    int parent = -1;
    enum larder_kind k = place_init(&p, op);

    if (k)
        return k;
    parent = open_parent(l, &p, false);
    if (parent == -1)
        return errno == ENOENT || errno == ENOTDIR ? LARDER_OK : fail_sys(op, "delete");
    if (fstatat(parent, p.leaf, &st, AT_SYMLINK_NOFOLLOW) == -1)
        k = errno == ENOENT ? LARDER_OK : fail_sys(op, "delete");
    else if (S_ISDIR(st.st_mode)) /* no object has this name */
        k = LARDER_OK;
    else if (!S_ISREG(st.st_mode))
        k = fail_type(op);
    else if (unlinkat(parent, p.leaf, 0) == -1)
        k = errno == ENOENT ? LARDER_OK : fail_sys(op, "delete");
    else if (op->sent = true, fsync(parent) == -1)
        k = fail_sys(op, "delete");
    close(parent);
    if (op->sent)
        prune(l, &p);
    return k;
}

/* ---- the backend ---- */

static void run(struct ldr_task *t)
{
    struct ldr_op *op = LDR_CONTAINER(t, struct ldr_op, task);
    const struct local *l = (const struct local *)op->backend;
    enum larder_kind k = check_deadline(op);

    if (!k) {
        op->requests++;
        switch (op->what) {
        case LDR_OP_GET:
            k = get(l, op);
            break;
        case LDR_OP_HEAD:
            k = head(l, op);
            break;
        case LDR_OP_PUT:
            k = put(l, op);
            break;
        case LDR_OP_DELETE:
            k = del(l, op);
            break;
        case LDR_OP_WHATS:
            abort();
        }
    }
    ldr_op_done(op, k);
}

static void local_start(struct ldr_backend *b, struct ldr_op *op)
{
    op->backend = b;
    op->task.run = run;
    ldr_pool_post(b->env.pool, &op->task);
}

static void sweep_tmp(const struct local *l, const char *container)
{
    char path[2 * NAME_MAX];
    DIR *d = NULL;
    struct dirent *e;
    struct stat st;
    int fd;

    snprintf(path, sizeof path, "%s/%s", container, TMP_DIR);
    fd = open_beneath(l, path, O_RDONLY | O_DIRECTORY);
    if (fd == -1 || !(d = fdopendir(fd))) {
        if (fd != -1)
            close(fd);
        return;
    }
    while ((e = readdir(d)))
        if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
            st.st_mtim.tv_sec < time(NULL) - TMP_STALE_S)
            unlinkat(fd, e->d_name, 0);
    closedir(d);
}

/* Remove what crashed puts left behind; younger files may belong to another agent's put. Best effort. */
static void sweep(const struct local *l)
{
    int fd = openat(l->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd == -1 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        if (fd != -1)
            close(fd);
        return;
    }
    while ((e = readdir(d)))
        if (!segment_fault(e->d_name, strlen(e->d_name)))
            sweep_tmp(l, e->d_name);
    closedir(d);
}

static void local_close(struct ldr_backend *b)
{
    struct local *l = (struct local *)b;

    close(l->root);
    free(l);
}

static enum larder_kind local_open(const struct ldr_store_cfg *cfg, const struct ldr_backend_env *env,
                                   struct ldr_backend **out, struct larder_err *err)
{
    const char *path = ldr_store_cfg_get(cfg, "path");
    char real[PATH_MAX + sizeof "local:"] = "local:";
    struct local *l;
    int fd;

    for (size_t i = 0; i < cfg->n_config; i++)
        if (strcmp(cfg->config[i].name, "path") != 0)
            return ldr_fail(err, LARDER_INVALID, "unknown setting \"%s\" of a local store: it takes path",
                            cfg->config[i].name);
    if (!path || !*path)
        return ldr_fail(err, LARDER_INVALID, "a local store needs the setting \"path\": an existing directory");
    if (!realpath(path, real + strlen(real)))
        return ldr_fail_sys(err, LARDER_INVALID, "setting \"path\" of a local store: \"%s\"", path);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd == -1)
        return ldr_fail_sys(err, LARDER_INVALID, "setting \"path\" of a local store: \"%s\"", path);
    l = malloc(sizeof *l);
    if (!l) {
        close(fd);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a local store");
    }
    *l = (struct local){ .base = { .ops = &ldr_backend_local, .env = *env },
                         .root = fd,
                         .fingerprint = ldr_hash64(real, strlen(real)) };
    fd = try_openat2(l->root, ".", O_PATH | O_DIRECTORY); /* old kernels and old seccomp profiles refuse it */
    l->has_openat2 = fd != -1;
    if (fd != -1)
        close(fd);
    sweep(l);
    *out = &l->base;
    return LARDER_OK;
}

static uint64_t local_fingerprint(const struct ldr_backend *b)
{
    return ((const struct local *)b)->fingerprint;
}

const struct ldr_backend_ops ldr_backend_local = {
    .kind = "local",
    .caps = LDR_CAP_RANGE | LDR_CAP_IF_MATCH | LDR_CAP_CREATE_ONLY | LDR_CAP_USER_META,
    .open = local_open,
    .close = local_close,
    .get = local_start,
    .head = local_start,
    .put = local_start,
    .del = local_start,
    .fingerprint = local_fingerprint,
};
