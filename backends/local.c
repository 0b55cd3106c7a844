/* local.c - kind "local": objects as files, path/CONTAINER/KEY (backend.h; step 7 of docs/tour.md).
 *
 * Everything here runs on the pool. Rules:
 *  1. No name leads out of `path`: keys with `.`, `..` or empty segments are refused, and no symbolic link is followed.
 *  2. Only regular files are objects. A directory is a missing object; anything else is refused and never waited for.
 *  3. An object appears whole or not at all: it is written in CONTAINER/.larder-tmp, synced and renamed. No key can
 *     have that segment. What a crash leaves there is removed at a later open, when it is a day old.
 *  4. A delete removes the directories that it leaves empty; a put that loses its directory to one makes it again.
 *  5. Metadata lives in the extended attribute user.larder.meta, encoded as in meta.h.
 *  6. Ranges of two requests are of one version, or the second fails (so no LDR_CAP_STREAM_ONLY). The validator is inode,
 *     size, mtime and ctime in ns; it is compared with if_match when the file is opened, and the file's facts again
 *     behind its last byte. That is what one stream over all ranges would check. What neither sees is a file written in
 *     place twice within one tick of the kernel's clock, or through a mapping; a put of ours writes no file in place.
 *  7. An upload in parts is one such file, named by its id: part n lies at (n - 1) * part_size from the start, so that
 *     parts come in any order and side by side, and the end copies nothing.
 *  8. No file system replaces or removes a file on condition of what it is, so no LDR_CAP_PUT_IF_MATCH. */
#include "backends/page.h"
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
#define TMP_NAME_MAX  64
#define UPLOAD_MARK   "up-" /* an id is this, 32 random hex digits, a dash and 16 of the key */
#define PART_MAX      (1024 * LDR_GIB)
#define TMP_STALE_S   (24 * 3600)
#define XATTR         "user.larder.meta"
#define CHUNK         (256 * LDR_KIB) /* bytes of one read */
#define KERNEL_CHUNK  (64 * LDR_MIB)  /* the same, of what the kernel copies, between two looks at the clock */
#define MAKE_TRIES    16              /* of a put whose directory is deleted under it */
#define VALIDATOR_MAX 80              /* four hex numbers, three dashes, two quotes, NUL */
#define META_ROOM     256             /* kept free in the fields for validator and ETag */
#define NAMES_MAX     1024            /* of a directory, kept in order at once while it is listed */
#define NAMES_DEEP    16              /* the same, for directories deeper than LEVELS_WIDE */
#define LEVELS_WIDE   16

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

static bool writes(const struct ldr_op *op)
{
    return op->what == LDR_OP_PUT || op->what == LDR_OP_COPY || op->what == LDR_OP_UPLOAD_BEGIN ||
           op->what == LDR_OP_UPLOAD_PART || op->what == LDR_OP_UPLOAD_COPY || op->what == LDR_OP_UPLOAD_END;
}

/* The kind of an errno; `doing` is what was tried ("read"). */
static enum larder_kind fail_sys(struct ldr_op *op, const char *doing)
{
    enum larder_kind k = LARDER_IO;

    switch (errno) {
    case ENOTDIR:
        if (writes(op))
            return ldr_fail(&op->err, LARDER_INVALID,
                            "object \"%s\": part of its path is an object itself, and a local store cannot hold both",
                            op->uri);
        return ldr_fail(&op->err, LARDER_NOT_FOUND, "object \"%s\" does not exist", op->uri);
    case ENOENT:
        if (writes(op)) { /* a directory just made is gone again */
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

static enum larder_kind fail_upload(struct ldr_op *op)
{
    return ldr_fail(&op->err, LARDER_NOT_FOUND, "object \"%s\": there is no such upload", op->uri);
}

static enum larder_kind fail_condition(struct ldr_op *op)
{
    return ldr_fail(&op->err, LARDER_UNSUPPORTED,
                    "object \"%s\": a local store changes no object on condition of its version", op->uri);
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

/* Add what the attribute holds to `m`. One that makes no sense (others may write it) counts as none. */
static bool meta_load(const struct ldr_op *op, int fd, struct ldr_meta *m)
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
        if (tag_kept(f.tag) && !ldr_meta_add(m, f.tag, f.p, f.len))
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
        !ldr_meta_add(&op->meta, LDR_TAG_ETAG, v + 1, strlen(v) - 2) || !meta_load(op, fd, &op->meta))
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

static enum larder_kind meta_store(struct ldr_op *op, int fd, const struct ldr_meta *m)
{
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

/* Is it the version that the op named? */
static enum larder_kind check_version(struct ldr_op *op, const char *if_match, const struct stat *st)
{
    char v[VALIDATOR_MAX];

    validator_text(st, v);
    if (if_match && strcmp(if_match, v) != 0)
        return ldr_fail(&op->err, LARDER_PRECONDITION, "object \"%s\" has changed", op->uri);
    return LARDER_OK;
}

static enum larder_kind head(const struct local *l, struct ldr_op *op)
{
    struct stat st;
    int fd = -1;
    enum larder_kind k = open_object(l, op, &fd, &st);

    if (!k && !(k = check_version(op, op->if_match, &st)))
        k = describe(op, fd, &st);
    if (fd != -1)
        close(fd);
    return k;
}

/* Which part of `size` bytes does the op want? Behind the end it is empty. */
static void clip_range(const struct ldr_op *op, uint64_t size, uint64_t *offset, uint64_t *length)
{
    *offset = !op->ranged ? 0 : op->offset < size ? op->offset : size;
    *length = op->ranged && op->length < size - *offset ? op->length : size - *offset;
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

/* Behind the last byte that was read: was it one version all the time? */
static enum larder_kind check_unchanged(struct ldr_op *op, int fd, const struct stat *before)
{
    struct stat after;

    if (fstat(fd, &after) == -1)
        return fail_sys(op, "stat");
    if (!same_bytes(before, &after))
        return ldr_fail(&op->err, LARDER_UNAVAILABLE, "object \"%s\" was written to while it was read", op->uri);
    return LARDER_OK;
}

static enum larder_kind get(const struct local *l, struct ldr_op *op)
{
    char v[VALIDATOR_MAX];
    struct stat st;
    uint64_t offset, length;
    int fd = -1;
    enum larder_kind k = open_object(l, op, &fd, &st);

    if (k || (k = check_version(op, op->if_match, &st)) || (k = describe(op, fd, &st)))
        goto done;
    validator_text(&st, v);
    if (op->if_none_match && !strcmp(op->if_none_match, v)) {
        op->not_modified = true;
        goto done;
    }
    clip_range(op, (uint64_t)st.st_size, &offset, &length);
    if (!(k = op->sink->begin(op->sink, &op->meta, offset, length, &op->err)) &&
        !(k = read_into_sink(op, fd, offset, length)))
        k = check_unchanged(op, fd, &st);
done:
    if (fd != -1)
        close(fd);
    return k;
}

/* ---- bytes into a file ---- */

/* `n` bytes at offset `at`. */
static enum larder_kind write_all(struct ldr_op *op, int fd, uint64_t at, const uint8_t *p, uint64_t n)
{
    while (n) {
        ssize_t w = pwrite(fd, p, n < LDR_GIB ? n : LDR_GIB, (off_t)at);

        if (w == -1 && errno == EINTR)
            continue;
        if (w == -1)
            return fail_sys(op, "write");
        p += w;
        at += (uint64_t)w;
        n -= (uint64_t)w;
        op->bytes_out += (uint64_t)w;
    }
    return LARDER_OK;
}

/* Where bytes come from. */
struct source {
    int fd;
    uint64_t offset, length;
    struct ldr_op *object; /* whose bytes these are, for messages; NULL: they are the op's own body */
};

/* Reading at offset + done gave `n`, 0 or -1. */
static enum larder_kind fail_source(struct ldr_op *op, const struct source *from, ssize_t n, uint64_t done)
{
    enum larder_kind k;

    if (!from->object && n == 0)
        return ldr_fail(&op->err, LARDER_IO, "the bytes to put as \"%s\" end at %" PRIu64 " of %" PRIu64, op->uri, done,
                        from->length);
    if (!from->object)
        return ldr_fail_sys(&op->err, LARDER_IO, "could not read the bytes to put as \"%s\"", op->uri);
    if (n == 0)
        return ldr_fail(&op->err, LARDER_UNAVAILABLE, "object \"%s\" was shortened while it was copied",
                        from->object->uri);
    k = fail_sys(from->object, "read");
    op->err = from->object->err;
    return k;
}

/* By the kernel where it can: on xfs and btrfs that shares the blocks, if offsets are multiples of them. */
static enum larder_kind copy_bytes(struct ldr_op *op, const struct source *from, int fd, uint64_t at)
{
    enum larder_kind k = LARDER_OK;
    bool by_kernel = true;
    uint8_t *buf = NULL;
    uint64_t done = 0;

    while (!k && done < from->length && !(k = check_deadline(op))) {
        uint64_t left = from->length - done;
        off_t in = (off_t)(from->offset + done), out = (off_t)(at + done);
        ssize_t n;

        if (by_kernel) {
            n = copy_file_range(from->fd, &in, fd, &out, left < KERNEL_CHUNK ? left : KERNEL_CHUNK, 0);
            if (n == -1 && (errno == ENOSPC || errno == EDQUOT || errno == EIO))
                k = fail_sys(op, "write");
            else if (n == 0 || (n == -1 && errno != EINTR))
                by_kernel = false; /* EXDEV, ENOSYS, EOPNOTSUPP, EINVAL, …: whatever it has against it */
            else if (n > 0 && !from->object)
                op->bytes_out += (uint64_t)n;
        } else if (!buf && !(buf = malloc(CHUNK))) {
            n = 0;
            k = ldr_fail(&op->err, LARDER_NO_MEMORY, "object \"%s\": out of memory", op->uri);
        } else if ((n = pread(from->fd, buf, left < CHUNK ? left : CHUNK, in)) > 0) {
            k = write_all(op, fd, at + done, buf, (uint64_t)n);
        } else if (n == 0 || errno != EINTR) {
            k = fail_source(op, from, n, done);
        }
        done += n > 0 ? (uint64_t)n : 0;
    }
    free(buf);
    return k;
}

/* The op's body. */
static enum larder_kind write_body(struct ldr_op *op, int fd, uint64_t at)
{
    struct source body = { .fd = op->fd, .length = op->size_bytes };

    return op->bytes || op->size_bytes == 0 ? write_all(op, fd, at, op->bytes, op->size_bytes)
                                            : copy_bytes(op, &body, fd, at);
}

/* The object that an op copies from, open, of the version that it names: *fd is the caller's, also on failure, and `o`
 * stands for it in messages: its failures are those of a head. */
static enum larder_kind open_source(const struct local *l, struct ldr_op *op, struct ldr_op *o, int *fd,
                                    struct stat *st)
{
    enum larder_kind k;

    *o = (struct ldr_op){
        .what = LDR_OP_HEAD, .uri = op->from_uri, .container = op->from_container, .key = op->from_key
    };
    if (!(k = open_object(l, o, fd, st)))
        k = check_version(o, op->if_match, st);
    if (k)
        op->err = o->err;
    return k;
}

/* Behind the last byte that was copied. */
static enum larder_kind check_source(struct ldr_op *op, struct ldr_op *o, int fd, const struct stat *before)
{
    enum larder_kind k = check_unchanged(o, fd, before);

    if (k)
        op->err = o->err;
    return k;
}

/* ---- temporary files ---- */

/* The container's; it is made if asked to. -1: errno says why. */
static int open_tmp_dir(const struct local *l, const struct ldr_op *op, bool make)
{
    char path[NAME_MAX + sizeof "/" TMP_DIR];

    snprintf(path, sizeof path, "%.*s/" TMP_DIR, NAME_MAX, op->container);
    return make ? make_dir(l, path) : open_beneath(l, path, O_RDONLY | O_DIRECTORY);
}

/* What the key adds to an upload's id, so that no other key can use it. */
static void upload_suffix(const struct ldr_op *op, char out[TMP_NAME_MAX])
{
    snprintf(out, TMP_NAME_MAX, "-%016" PRIx64, ldr_hash64(op->key, strlen(op->key)));
}

/* A new file: its directory, name and descriptor are the caller's, also on failure. */
static enum larder_kind make_tmp(const struct local *l, struct ldr_op *op, int *dir, char name[TMP_NAME_MAX], int *fd)
{
    char hex[2 * 16 + 1], suffix[TMP_NAME_MAX] = "";
    uint8_t random[16];

    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return fail_sys(op, "name a file for");
    ldr_hex(random, sizeof random, hex);
    if (op->what == LDR_OP_UPLOAD_BEGIN)
        upload_suffix(op, suffix);
    snprintf(name, TMP_NAME_MAX, "%s%s%.17s", *suffix ? UPLOAD_MARK : "", hex, suffix);
    *dir = open_tmp_dir(l, op, true);
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
        if (op->what == LDR_OP_UPLOAD_END && fstatat(dir, tmp, &st, AT_SYMLINK_NOFOLLOW) == -1)
            return fail_upload(op); /* or the upload was ended or aborted a moment ago */
    }
    return ldr_fail(&op->err, LARDER_UNAVAILABLE, "object \"%s\": its directory is deleted again and again", op->uri);
}

/* Let the complete temporary file be the object, on disk when this returns. *named becomes false when it has its name. */
static enum larder_kind finish(const struct local *l, struct ldr_op *op, struct place *p, int dir, const char *tmp,
                               int fd, bool *named)
{
    enum larder_kind k;
    struct timespec now[2];
    struct stat st;
    int parent = -1;

    /* The kernel's file times move in ticks and inodes are reused: two puts of one size within a tick could end up with
     * the same validator. An exact time tells them apart; where it cannot be set, ticks must do. */
    clock_gettime(CLOCK_REALTIME, &now[0]);
    now[1] = now[0];
    futimens(fd, now);
    if (fsync(fd) == -1) {
        k = fail_sys(op, "write");
        goto done;
    }
    if ((k = check_deadline(op)) || (k = publish(l, op, p, dir, tmp, &parent)))
        goto done;
    *named = false;
    if (fsync(parent) == -1 || fstat(fd, &st) == -1) /* fstat last: renaming changed the ctime */
        k = fail_sys(op, "write");
    else
        k = describe(op, fd, &st);
done:
    if (parent != -1)
        close(parent);
    return k;
}

/* ---- put, copy ---- */

/* The body and metadata of a put. */
static enum larder_kind write_new(struct ldr_op *op, int fd)
{
    enum larder_kind k = write_body(op, fd, 0);

    return k ? k : meta_store(op, fd, op->put_meta);
}

/* The body and metadata of a copy. */
static enum larder_kind write_copy(const struct local *l, struct ldr_op *op, int fd)
{
    struct source from = { .fd = -1 };
    struct ldr_op object;
    struct ldr_meta m;
    struct stat st;
    enum larder_kind k = open_source(l, op, &object, &from.fd, &st);

    ldr_meta_init(&m);
    if (k)
        goto done;
    from.object = &object;
    from.length = (uint64_t)st.st_size;
    if ((k = copy_bytes(op, &from, fd, 0)) || (k = check_source(op, &object, from.fd, &st)))
        goto done;
    k = meta_load(&object, from.fd, &m)
            ? meta_store(op, fd, &m)
            : ldr_fail(&op->err, LARDER_NO_MEMORY, "object \"%s\": out of memory for its metadata", op->uri);
done:
    ldr_meta_release(&m);
    if (from.fd != -1)
        close(from.fd);
    return k;
}

static enum larder_kind put(const struct local *l, struct ldr_op *op)
{
    char tmp[TMP_NAME_MAX];
    struct place p;
    int dir = -1, fd = -1;
    bool named = false; /* does the temporary file have to go? */
    enum larder_kind k;

    if (op->what == LDR_OP_PUT && op->if_match)
        return fail_condition(op);
    if ((k = place_init(&p, op)) || (k = check_put_meta(op)) || (k = make_tmp(l, op, &dir, tmp, &fd)))
        goto done;
    named = true;
    if (!(k = op->what == LDR_OP_COPY ? write_copy(l, op, fd) : write_new(op, fd)))
        k = finish(l, op, &p, dir, tmp, fd, &named);
done:
    if (named)
        unlinkat(dir, tmp, 0);
    if (fd != -1)
        close(fd);
    if (dir != -1)
        close(dir);
    return k;
}

/* ---- uploads in parts ---- */

static enum larder_kind check_part_size(struct ldr_op *op)
{
    uint64_t n = op->upload->part_size;

    if (n >= 1 && n <= PART_MAX)
        return LARDER_OK;
    return ldr_fail(&op->err, LARDER_INVALID,
                    "object \"%s\": parts of %" PRIu64 " bytes, a local store takes 1 to %" PRIu64, op->uri, n,
                    (uint64_t)PART_MAX);
}

static enum larder_kind upload_begin(const struct local *l, struct ldr_op *op)
{
    char tmp[TMP_NAME_MAX];
    struct place p;
    int dir = -1, fd = -1;
    enum larder_kind k;

    if ((k = place_init(&p, op)) || (k = check_part_size(op)) || (k = check_put_meta(op)) ||
        (k = make_tmp(l, op, &dir, tmp, &fd)))
        goto done;
    k = meta_store(op, fd, op->put_meta);
    if (k) {
        unlinkat(dir, tmp, 0);
    } else {
        snprintf(op->upload->id, sizeof op->upload->id, "%s", tmp);
        op->upload->algo = LDR_SUM_NONE;
    }
done:
    if (fd != -1)
        close(fd);
    if (dir != -1)
        close(dir);
    return k;
}

/* An id may come from anywhere: it must be one that upload_begin() could have made for this key. */
static bool is_upload_id(const struct ldr_op *op)
{
    const char *id = op->upload->id;
    char suffix[TMP_NAME_MAX];
    size_t mark = strlen(UPLOAD_MARK);
    uint8_t random[16];

    upload_suffix(op, suffix);
    return strlen(id) == mark + 2 * sizeof random + strlen(suffix) && !strncmp(id, UPLOAD_MARK, mark) &&
           ldr_unhex(id + mark, 2 * sizeof random, random, sizeof random) &&
           !strcmp(id + mark + 2 * sizeof random, suffix);
}

/* The upload's file; *dir and *fd are the caller's, also on failure. */
static enum larder_kind open_upload(const struct local *l, struct ldr_op *op, int *dir, int *fd, struct stat *st)
{
    if (!is_upload_id(op))
        return fail_upload(op);
    *dir = open_tmp_dir(l, op, false);
    if (*dir != -1)
        *fd = openat(*dir, op->upload->id, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (*fd == -1)
        return errno == ENOENT || errno == ENOTDIR ? fail_upload(op) : fail_sys(op, "open the upload of");
    if (fstat(*fd, st) == -1)
        return fail_sys(op, "stat the upload of");
    return S_ISREG(st->st_mode) ? LARDER_OK : fail_upload(op);
}

static enum larder_kind part_from_object(const struct local *l, struct ldr_op *op, int fd, uint64_t at)
{
    struct source from = { .fd = -1, .offset = op->offset, .length = op->length };
    struct ldr_op object;
    struct stat st;
    enum larder_kind k = open_source(l, op, &object, &from.fd, &st);

    if (k)
        goto done;
    from.object = &object;
    if (op->offset > (uint64_t)st.st_size || op->length > (uint64_t)st.st_size - op->offset)
        k = ldr_fail(&op->err, LARDER_INVALID, "object \"%s\" has %" PRIu64 " bytes, not %" PRIu64 " from %" PRIu64,
                     op->from_uri, (uint64_t)st.st_size, op->length, op->offset);
    else if (!(k = copy_bytes(op, &from, fd, at)))
        k = check_source(op, &object, from.fd, &st);
done:
    if (from.fd != -1)
        close(from.fd);
    return k;
}

static enum larder_kind upload_part(const struct local *l, struct ldr_op *op)
{
    bool copies = op->what == LDR_OP_UPLOAD_COPY;
    uint64_t size = copies ? op->length : op->size_bytes, at;
    struct ldr_upload_part *part;
    struct place p;
    struct stat st;
    int dir = -1, fd = -1;
    enum larder_kind k;

    if ((k = place_init(&p, op)) || (k = check_part_size(op)))
        return k;
    if (op->part < 1 || op->part > LDR_PARTS_MAX || size < 1 || size > op->upload->part_size)
        return ldr_fail(&op->err, LARDER_INVALID,
                        "object \"%s\": part %" PRIu32 " of %" PRIu64 " bytes, in an upload of parts of %" PRIu64
                        " bytes",
                        op->uri, op->part, size, op->upload->part_size);
    part = &op->upload->parts[op->part - 1];
    *part = (struct ldr_upload_part){ 0 }; /* what was there is now written over */
    at = (op->part - 1) * op->upload->part_size;
    if ((k = open_upload(l, op, &dir, &fd, &st)))
        goto done;
    if (!(k = copies ? part_from_object(l, op, fd, at) : write_body(op, fd, at)))
        part->size = size;
done:
    if (fd != -1)
        close(fd);
    if (dir != -1)
        close(dir);
    return k;
}

/* Are all parts there, each as large as it has to be, and do they make `size` bytes? */
static enum larder_kind check_parts(struct ldr_op *op, uint64_t size)
{
    const struct ldr_multipart *u = op->upload;
    uint64_t sum = 0;

    if (u->n_parts < 1 || u->n_parts > LDR_PARTS_MAX)
        return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\": an upload of %" PRIu32 " parts", op->uri, u->n_parts);
    for (uint32_t i = 0; i < u->n_parts; i++) {
        uint64_t n = u->parts[i].size;

        if (n == 0)
            return ldr_fail(&op->err, LARDER_INVALID, "object \"%s\": part %" PRIu32 " is missing", op->uri, i + 1);
        if (n > u->part_size || (n < u->part_size && i + 1 < u->n_parts))
            return ldr_fail(&op->err, LARDER_INVALID,
                            "object \"%s\": part %" PRIu32 " has %" PRIu64 " bytes, not %" PRIu64, op->uri, i + 1, n,
                            u->part_size);
        sum += n;
    }
    if (sum != op->size_bytes || size != sum)
        return ldr_fail(&op->err, LARDER_INVALID,
                        "object \"%s\" has %" PRIu64 " bytes, its parts %" PRIu64 " and what came of them %" PRIu64,
                        op->uri, op->size_bytes, sum, size);
    return LARDER_OK;
}

static enum larder_kind upload_end(const struct local *l, struct ldr_op *op)
{
    struct place p;
    struct stat st;
    int dir = -1, fd = -1;
    bool named = true; /* a failed end leaves it, for another try or the abort */
    enum larder_kind k;

    if (op->if_match)
        return fail_condition(op);
    if (!(k = place_init(&p, op)) && !(k = check_part_size(op)) && !(k = open_upload(l, op, &dir, &fd, &st)) &&
        !(k = check_parts(op, (uint64_t)st.st_size)))
        k = finish(l, op, &p, dir, op->upload->id, fd, &named);
    if (fd != -1)
        close(fd);
    if (dir != -1)
        close(dir);
    return k;
}

/* The id is all that this needs: the upload may be one of an agent that is gone. */
static enum larder_kind upload_abort(const struct local *l, struct ldr_op *op)
{
    enum larder_kind k = LARDER_OK;
    struct place p;
    int dir;

    if ((k = place_init(&p, op)) || !is_upload_id(op))
        return k;
    dir = open_tmp_dir(l, op, false);
    if ((dir == -1 || unlinkat(dir, op->upload->id, 0) == -1) && errno != ENOENT && errno != ENOTDIR)
        k = fail_sys(op, "abort the upload of");
    if (dir != -1)
        close(dir);
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

/* Unlink it; `sent` says whether there was something. Its directory is not on disk yet. */
static enum larder_kind unlink_object(struct ldr_op *op, const struct place *p, int parent)
{
    struct stat st;

    if (fstatat(parent, p->leaf, &st, AT_SYMLINK_NOFOLLOW) == -1)
        return errno == ENOENT ? LARDER_OK : fail_sys(op, "delete");
    if (S_ISDIR(st.st_mode)) /* no object has this name */
        return LARDER_OK;
    if (!S_ISREG(st.st_mode))
        return fail_type(op);
    if (unlinkat(parent, p->leaf, 0) == -1)
        return errno == ENOENT ? LARDER_OK : fail_sys(op, "delete");
    op->sent = true;
    return LARDER_OK;
}

static enum larder_kind del(const struct local *l, struct ldr_op *op)
{
    struct place p;
    int parent;
    enum larder_kind k;

    if (op->if_match)
        return fail_condition(op);
    if ((k = place_init(&p, op)))
        return k;
    parent = open_parent(l, &p, false);
    if (parent == -1)
        return errno == ENOENT || errno == ENOTDIR ? LARDER_OK : fail_sys(op, "delete");
    k = unlink_object(op, &p, parent);
    if (op->sent && fsync(parent) == -1)
        k = fail_sys(op, "delete");
    close(parent);
    if (op->sent)
        prune(l, &p);
    return k;
}

/* Objects of one directory that follow each other share one sync of it. */
struct sweep_dir {
    struct place last; /* of them */
    size_t first;      /* number of the first */
    int parent;        /* -1: none */
    bool changed;      /* something was unlinked */
};

static void item_ends(struct ldr_delete_item *item, const struct ldr_op *one, enum larder_kind k)
{
    item->kind = k;
    snprintf(item->why, sizeof item->why, "%.159s", k ? one->err.msg : ""); /* as much as fits */
}

/* The items from s->first on, before `end`, are gone when their directory is on disk. */
static void sweep_sync(const struct local *l, struct ldr_op *op, struct sweep_dir *s, size_t end)
{
    if (s->parent == -1)
        return;
    for (bool failed = s->changed && fsync(s->parent) == -1; failed && s->first < end; s->first++) {
        struct ldr_op one = { .what = LDR_OP_DELETE, .uri = op->items[s->first].uri };

        if (!op->items[s->first].kind)
            item_ends(&op->items[s->first], &one, fail_sys(&one, "delete"));
    }
    close(s->parent);
    s->parent = -1;
    if (s->changed)
        prune(l, &s->last);
    s->changed = false;
}

static bool same_dir(const struct place *a, const struct place *b)
{
    return a->leaf - a->path == b->leaf - b->path && !memcmp(a->path, b->path, (size_t)(a->leaf - a->path));
}

static enum larder_kind delete_many(const struct local *l, struct ldr_op *op)
{
    struct sweep_dir s = { .parent = -1 };
    size_t i;

    for (i = 0; i < op->n_items; i++) {
        struct ldr_op one = { .what = LDR_OP_DELETE,
                              .uri = op->items[i].uri,
                              .container = op->container,
                              .key = op->items[i].key,
                              .deadline_ns = op->deadline_ns };
        struct place p;
        enum larder_kind k = check_deadline(&one);

        if (!k && !(k = place_init(&p, &one))) {
            if (s.parent != -1 && !same_dir(&p, &s.last))
                sweep_sync(l, op, &s, i);
            if (s.parent == -1) {
                s.first = i;
                s.parent = open_parent(l, &p, false);
            }
            if (s.parent != -1)
                k = unlink_object(&one, &p, s.parent);
            else if (errno != ENOENT && errno != ENOTDIR)
                k = fail_sys(&one, "delete");
            s.last = p;
            s.last.leaf = s.last.path + (p.leaf - p.path);
        }
        s.changed |= one.sent;
        op->sent |= one.sent;
        item_ends(&op->items[i], &one, k);
    }
    sweep_sync(l, op, &s, i);
    return LARDER_OK;
}

/* ---- containers ---- */

static enum larder_kind make_container(const struct local *l, struct ldr_op *op)
{
    const char *fault = strchr(op->container, '/') ? "\"/\"" : segment_fault(op->container, strlen(op->container));
    int fd;

    if (fault)
        return ldr_fail(&op->err, LARDER_INVALID, "\"%s\": a local store cannot hold a container with %s", op->uri,
                        fault);
    fd = make_dir(l, op->container);
    if (fd == -1 && (errno == ENOTDIR || errno == ELOOP))
        return ldr_fail(&op->err, LARDER_INVALID, "\"%s\": what has this name is no directory", op->uri);
    if (fd == -1)
        return fail_sys(op, "make the container of");
    op->sent = true;
    close(fd);
    return LARDER_OK;
}

/* ---- list ---- */

/* The smallest names of a directory, in order; those of directories end in `/`, as the keys below them go on. Memory is
 * bounded: a directory with more is read again for the next ones. */
struct names {
    size_t n, keep;
    bool more;    /* there are larger ones */
    char *name[]; /* 2 * keep; the first `keep` are the smallest once there are more */
};

struct listing {
    const struct local *l;
    struct ldr_paging page;
    char path[PATH_MAX]; /* "container/key", or a directory's with a `/` behind it */
    const char *key;     /* in it */
};

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_cut(struct names *s)
{
    qsort(s->name, s->n, sizeof s->name[0], by_bytes);
    for (; s->n > s->keep; s->more = true)
        free(s->name[--s->n]);
}

static bool names_add(struct names *s, const char *name)
{
    if (s->more && strcmp(name, s->name[s->keep - 1]) > 0)
        return true;
    if (s->n == 2 * s->keep)
        names_cut(s);
    s->name[s->n] = strdup(name);
    return s->name[s->n] && ++s->n;
}

static void names_release(struct names *s)
{
    while (s->n > 0)
        free(s->name[--s->n]);
    s->more = false;
}

/* Is the entry an object (0), a directory ('/'), or nothing to us (-1)? */
static int entry_type(int dir, const struct dirent *e)
{
    unsigned char type = e->d_type;
    struct stat st;

    if (type == DT_UNKNOWN && fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : DT_UNKNOWN;
    return type == DT_DIR ? '/' : type == DT_REG ? 0 : -1;
}

/* The next wanted names, behind `after`, of the directory that path[0 .. len) names. Where all of its keys are one group
 * the first object will do. One that is gone is empty. */
static enum larder_kind read_names(struct listing *g, size_t len, const char *after, struct names *out)
{
    struct ldr_op *op = g->page.op;
    enum larder_kind k = LARDER_OK;
    bool any = ldr_paging_in_group(&g->page, g->key), found = false;
    struct dirent *e;
    DIR *d = NULL;
    int fd;

    g->path[len - 1] = '\0';
    fd = open_beneath(g->l, g->path, O_RDONLY | O_DIRECTORY);
    g->path[len - 1] = '/';
    if (fd == -1)
        return errno == ENOENT || errno == ENOTDIR ? LARDER_OK : fail_sys(op, "list");
    if (!(d = fdopendir(fd))) {
        k = fail_sys(op, "list");
        close(fd);
        return k;
    }
    while (!k && !(any && found) && (errno = 0, e = readdir(d))) {
        size_t n = strlen(e->d_name);
        int type = segment_fault(e->d_name, n) ? -1 : entry_type(fd, e);

        if (type == -1 || len + n + 1 >= sizeof g->path)
            continue;
        memcpy(g->path + len, e->d_name, n);
        g->path[len + n] = (char)type;
        g->path[len + n + 1] = '\0';
        if ((after && strcmp(g->path + len, after) <= 0) ||
            !(type ? ldr_paging_wants_below(&g->page, g->key) : ldr_paging_wants(&g->page, g->key)))
            continue;
        found = type == 0;
        if (any && found)
            names_release(out);
        if (!names_add(out, g->path + len))
            k = ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for a listing of \"%s\"", op->uri);
    }
    if (!k && !(any && found) && errno)
        k = fail_sys(op, "list");
    closedir(d);
    g->path[len] = '\0';
    names_cut(out);
    return k;
}

/* Add the object that `path` names, unless it went away. */
static enum larder_kind list_object(struct listing *g)
{
    char v[VALIDATOR_MAX] = "";
    struct stat st = { 0 };
    int fd;

    if (ldr_paging_in_group(&g->page, g->key))
        return ldr_paging_add(&g->page, g->key, 0, LDR_TIME_UNKNOWN, NULL);
    fd = open_beneath(g->l, g->path, O_PATH);
    if (fd == -1)
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? LARDER_OK : fail_sys(g->page.op, "list");
    if (fstat(fd, &st) == -1)
        st.st_mode = 0;
    close(fd);
    if (!S_ISREG(st.st_mode))
        return LARDER_OK;
    validator_text(&st, v);
    v[strlen(v) - 1] = '\0';
    return ldr_paging_add(&g->page, g->key, (uint64_t)st.st_size, st.st_mtim.tv_sec, v + 1);
}

/* The directory that path[0 .. len) names, the last byte a `/`. */
static enum larder_kind list_dir(struct listing *g, size_t len, unsigned level)
{
    size_t keep = level < LEVELS_WIDE ? NAMES_MAX : NAMES_DEEP;
    struct names *s = calloc(1, sizeof *s + 2 * keep * sizeof s->name[0]);
    char after[NAME_MAX + 2] = "";
    enum larder_kind k = LARDER_OK;
    bool more = true;

    if (!s)
        return ldr_fail(&g->page.op->err, LARDER_NO_MEMORY, "out of memory for a listing of \"%s\"", g->page.op->uri);
    s->keep = keep;
    while (!k && more && !g->page.full && !(k = check_deadline(g->page.op))) {
        k = read_names(g, len, *after ? after : NULL, s);
        for (size_t i = 0; !k && i < s->n && !g->page.full; i++) {
            size_t n = strlen(s->name[i]);
            bool dir = s->name[i][n - 1] == '/';

            memcpy(g->path + len, s->name[i], n + 1);
            if (dir && ldr_paging_wants_below(&g->page, g->key))
                k = list_dir(g, len + n, level + 1);
            else if (!dir && ldr_paging_wants(&g->page, g->key)) /* its group may have come since it was read */
                k = list_object(g);
            g->path[len] = '\0';
        }
        more = s->more && ldr_paging_wants_below(&g->page, g->key);
        if (s->n)
            memcpy(after, s->name[s->n - 1], strlen(s->name[s->n - 1]) + 1);
        names_release(s);
    }
    free(s);
    return k;
}

/* Listings begin in the deepest directory that the prefix names whole. */
static enum larder_kind list(const struct local *l, struct ldr_op *op)
{
    struct listing g = { .l = l };
    size_t container = strlen(op->container), len;
    const char *slash = strrchr(op->key, '/'), *fault = NULL;
    enum larder_kind k;
    int fd;

    if (strchr(op->container, '/') || (fault = segment_fault(op->container, container)))
        return ldr_fail(&op->err, LARDER_INVALID, "\"%s\": a local store cannot hold %s", op->uri,
                        fault ? fault : "a container with \"/\"");
    fd = open_beneath(l, op->container, O_PATH | O_DIRECTORY);
    if (fd == -1 && (errno == ENOENT || errno == ENOTDIR)) {
        op->no_container = true;
        return ldr_fail(&op->err, LARDER_NOT_FOUND, "could not list \"%s\": container \"%s\" does not exist", op->uri,
                        op->container);
    }
    if (fd == -1)
        return fail_sys(op, "list");
    close(fd);
    len = container + 1 + (slash ? (size_t)(slash - op->key) + 1 : 0);
    if (len >= sizeof g.path)
        return LARDER_OK; /* no object has such a name */
    for (const char *p = op->key, *end; slash && p <= slash && (end = strchr(p, '/')); p = end + 1)
        if (segment_fault(p, (size_t)(end - p)))
            return LARDER_OK;
    snprintf(g.path, sizeof g.path, "%s/%.*s", op->container, (int)(len - container - 1), op->key);
    g.key = g.path + container + 1;
    ldr_paging_init(&g.page, op);
    k = list_dir(&g, len, 0);
    return k ? k : ldr_paging_end(&g.page);
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
        case LDR_OP_COPY:
            k = put(l, op);
            break;
        case LDR_OP_DELETE:
            k = del(l, op);
            break;
        case LDR_OP_LIST:
            k = list(l, op);
            break;
        case LDR_OP_UPLOAD_BEGIN:
            k = upload_begin(l, op);
            break;
        case LDR_OP_UPLOAD_PART:
        case LDR_OP_UPLOAD_COPY:
            k = upload_part(l, op);
            break;
        case LDR_OP_UPLOAD_END:
            k = upload_end(l, op);
            break;
        case LDR_OP_UPLOAD_ABORT:
            k = upload_abort(l, op);
            break;
        case LDR_OP_DELETE_MANY:
            k = delete_many(l, op);
            break;
        case LDR_OP_MAKE_CONTAINER:
            k = make_container(l, op);
            break;
        case LDR_OP_SIGN: /* not in the table */
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

/* Remove what crashed writes left behind; younger files may belong to another agent's. Best effort. */
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
    .list = local_start,
    .copy = local_start,
    .upload = local_start,
    .delete_many = local_start,
    .make_container = local_start,
    .part_min = 1,
    .part_max = PART_MAX,
    .fingerprint = local_fingerprint,
};
