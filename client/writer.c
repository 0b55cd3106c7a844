/* writer.c - an object written block by block (larder.proto, Upload…): a block is on its way to the store while the next
 * one is made.
 *
 * A block's bytes go into a staging file of the cache, where the agent takes them from, or, where this process cannot
 * write there, through messages. They are written, not mapped: a fault for each new page of a shared mapping costs eight
 * times what pwrite() does (8 MiB on ext4: 9.4 ms against 1.2), a full disk is an error and no signal, and nothing of a
 * block can change behind its seal. No descriptor is held between two calls, so that a forked child has none: the agent
 * takes a block for its own only when nobody can write to it any more.
 *
 * What is told to the agent before the commit may be told twice; the commit may not. One thread at a time. */
#include "client/put.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define STAGING LDR_NAME_STAGING "/"
/* Of one pwrite(): the kernel keeps as much in one piece, for those who map it. On tmpfs, where it does not, what a core's
 * cache holds. */
#define PIECE       ((size_t)2 * LDR_MIB)
#define PIECE_TMPFS ((size_t)256 * LDR_KIB)

#define OPEN_TRIES    100
#define OPEN_PAUSE_NS LDR_NS_PER_MS

struct larder_writer {
    struct larder *l;
    uint64_t token; /* of the process that opened it */
    uint64_t upload_id;
    int timeout_ms;            /* of each call … */
    int64_t by_ns;             /* … or, unless 0, of all together */
    int64_t deadline_ns;       /* of the call under way */
    uint64_t size;             /* as promised; LARDER_SIZE_UNKNOWN */
    uint64_t taken;            /* bytes that the caller handed over */
    struct larder_err failure; /* the first one: from then on every call fails with it */

    /* the block that is being filled, if has_block */
    uint32_t block; /* the number of it, or of the next one */
    bool has_block;
    uint64_t block_bytes;
    uint64_t stored;                                  /* of it: in its file, or with the agent */
    char file[sizeof STAGING + LDR_WIRE_STAGING_MAX]; /* below the cache directory; "": by messages */
    bool no_staging;                                  /* it was tried in vain */

    size_t piece; /* PIECE or PIECE_TMPFS */
    uint8_t *buf; /* of `piece` bytes, which follow those that are stored; NULL until it is needed */
    size_t held;  /* in it */
};

/* ---- messages ---- */

static enum larder_kind tell(struct larder_writer *w, ldr_wire_request *req, struct larder_err *err)
{
    return ldr_tell(w->l, req, LDR_ASK_READ, w->deadline_ns, err);
}

/* A request that is answered by Staging, of the block that is next. */
static enum larder_kind ask_staging(struct larder_writer *w, ldr_wire_request *req, ldr_wire_reply **out,
                                    struct larder_err *err)
{
    enum larder_kind k = ldr_ask(w->l, req, LDR_ASK_READ, w->deadline_ns, out, err);
    const Larder__Wire__Staging *s;

    if (k)
        return k;
    s = (*out)->body_case == LARDER__WIRE__REPLY__BODY_STAGING ? (*out)->staging : NULL;
    if (s && s->block == w->block)
        return LARDER_OK;
    larder__wire__reply__free_unpacked(*out, NULL);
    *out = NULL;
    return ldr_answer_unknown(err);
}

static enum larder_kind open_upload(struct larder_writer *w, char *text, const struct larder_put_opts *o,
                                    const struct ldr_meta *meta, struct larder_err *err)
{
    Larder__Wire__UploadOpen open = LARDER__WIRE__UPLOAD_OPEN__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    ldr_wire_reply *reply = NULL;
    enum larder_kind k;

    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_OPEN;
    req.upload_open = &open;
    open.upload_id = w->upload_id;
    open.key = text;
    open.fields.data = meta->fields.p;
    open.fields.len = meta->fields.len;
    open.create_only = o->create_only != 0;
    open.if_match = (char *)(uintptr_t)(o->if_match ? o->if_match : "");
    open.size_known = w->size != LARDER_SIZE_UNKNOWN;
    open.size = open.size_known ? w->size : 0;
    k = ask_staging(w, &req, &reply, err);
    if (k)
        return k;
    w->block_bytes = reply->staging->size;
    larder__wire__reply__free_unpacked(reply, NULL);
    return LARDER_OK;
}

/* Ask for the block that is next, or again for the one that is being filled. */
static enum larder_kind ask_block(struct larder_writer *w, ldr_wire_reply **out, struct larder_err *err)
{
    Larder__Wire__UploadBlock block = LARDER__WIRE__UPLOAD_BLOCK__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_BLOCK;
    req.upload_block = &block;
    block.upload_id = w->upload_id;
    block.block = w->block;
    return ask_staging(w, &req, out, err);
}

static enum larder_kind seal(struct larder_writer *w, struct larder_err *err)
{
    Larder__Wire__UploadSeal seal_msg = LARDER__WIRE__UPLOAD_SEAL__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    enum larder_kind k;

    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_SEAL;
    req.upload_seal = &seal_msg;
    seal_msg.upload_id = w->upload_id;
    seal_msg.block = w->block;
    seal_msg.length = w->stored;
    k = tell(w, &req, err);
    w->has_block = false;
    w->block++;
    return k;
}

static enum larder_kind commit(struct larder_writer *w, struct larder_err *err)
{
    Larder__Wire__UploadCommit commit_msg = LARDER__WIRE__UPLOAD_COMMIT__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_COMMIT;
    req.upload_commit = &commit_msg;
    commit_msg.upload_id = w->upload_id;
    commit_msg.size = w->taken;
    return ldr_tell(w->l, &req, LDR_ASK_WRITE, w->deadline_ns, err);
}

/* Bytes of the block, behind those that the agent has. */
static enum larder_kind send_data(struct larder_writer *w, const uint8_t *p, size_t n, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    for (size_t at = 0; !k && at < n; at += LDR_WIRE_PART) {
        Larder__Wire__UploadData part = LARDER__WIRE__UPLOAD_DATA__INIT;
        ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

        req.body_case = LARDER__WIRE__REQUEST__BODY_UPLOAD_DATA;
        req.upload_data = &part;
        part.upload_id = w->upload_id;
        part.block = w->block;
        part.offset = w->stored + at;
        part.data.data = (uint8_t *)(uintptr_t)p + at;
        part.data.len = n - at < LDR_WIRE_PART ? n - at : LDR_WIRE_PART;
        k = tell(w, &req, err);
    }
    return k;
}

/* ---- the staging file ---- */

/* Open the block's file to write. -1 (errno): it cannot be, or it is not the one that the agent speaks of. */
static int staging_open(const struct larder_writer *w)
{
    int dir = open(w->l->dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1, why;
    struct stat st;

    for (int tries = 0; dir >= 0 && fd < 0 && tries < OPEN_TRIES; tries++) {
        fd = openat(dir, w->file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        if (fd >= 0 || errno != EWOULDBLOCK)
            break;
        /* The agent asks by a lease, at this very moment, whether anybody writes to it. */
        nanosleep(&(struct timespec){ .tv_nsec = OPEN_PAUSE_NS }, NULL);
    }
    why = errno;
    if (dir >= 0)
        close(dir);
    errno = why;
    if (fd < 0 || (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == w->block_bytes))
        return fd;
    close(fd);
    errno = EINVAL;
    return -1;
}

/* Behind its limit for files a process gets a signal, and larder is never the reason for one. */
static bool file_size_allowed(uint64_t bytes)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= bytes);
}

static enum larder_kind write_all(int fd, const uint8_t *p, size_t n, uint64_t offset, struct larder_err *err)
{
    while (n > 0) {
        ssize_t done = pwrite(fd, p, n < PIECE ? n : PIECE, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return ldr_fail_sys(err, LARDER_IO, "could not write a staging file of the cache");
        p += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return LARDER_OK;
}

/* The block's file was there, and cannot be opened any more: mostly as the upload has failed, which the agent tells who
 * asks for the block again. */
static enum larder_kind why_lost(struct larder_writer *w, struct larder_err *err)
{
    struct larder_err lost;
    enum larder_kind k = ldr_fail_sys(&lost, LARDER_IO, "could not open a staging file of the cache again");
    ldr_wire_reply *reply = NULL;
    enum larder_kind said = ask_block(w, &reply, err);

    if (said)
        return said;
    larder__wire__reply__free_unpacked(reply, NULL);
    *err = lost;
    return k;
}

/* Bytes of the block behind those that are stored. A file that cannot be had for the first of them is done without. */
static enum larder_kind store(struct larder_writer *w, const uint8_t *p, size_t n, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    int fd = -1;

    if (w->file[0]) {
        fd = file_size_allowed(w->block_bytes) ? staging_open(w) : -1;
        if (fd < 0 && w->stored > 0)
            return why_lost(w, err);
        if (fd < 0) {
            w->file[0] = '\0';
            w->no_staging = true;
        }
    }
    if (fd >= 0) {
        k = write_all(fd, p, n, w->stored, err);
        close(fd); /* before the seal */
    } else {
        k = send_data(w, p, n, err);
    }
    if (!k)
        w->stored += n;
    return k;
}

/* ---- blocks ---- */

static enum larder_kind next_block(struct larder_writer *w, struct larder_err *err)
{
    ldr_wire_reply *reply = NULL;
    enum larder_kind k;

    if (w->has_block)
        return LARDER_OK;
    k = ask_block(w, &reply, err);
    if (k)
        return k;
    w->block_bytes = reply->staging->size;
    w->stored = 0;
    w->file[0] = '\0';
    if (!w->no_staging && reply->staging->name[0]) { /* a file name, as ldr_wire_unpack_reply() found */
        memcpy(w->file, STAGING, sizeof STAGING - 1);
        memcpy(w->file + sizeof STAGING - 1, reply->staging->name, strlen(reply->staging->name) + 1);
    }
    w->has_block = true;
    larder__wire__reply__free_unpacked(reply, NULL);
    return LARDER_OK;
}

/* Bytes of the block that nobody has handed over yet. */
static uint64_t block_left(const struct larder_writer *w)
{
    return w->block_bytes - w->stored - w->held;
}

static enum larder_kind flush(struct larder_writer *w, struct larder_err *err)
{
    enum larder_kind k = w->held ? store(w, w->buf, w->held, err) : LARDER_OK;

    w->held = 0;
    return k;
}

/* What is complete goes: a piece to its place, a block to the store. */
static enum larder_kind pass_on(struct larder_writer *w, struct larder_err *err)
{
    bool complete = block_left(w) == 0 || w->taken == w->size;
    enum larder_kind k = complete || w->held == w->piece ? flush(w, err) : LARDER_OK;

    return k || !complete ? k : seal(w, err);
}

/* ---- what the caller does ---- */

/* Begin a call. */
static enum larder_kind enter(struct larder_writer *w, struct larder_err *err)
{
    if (w->token != ldr_self_token(&w->l->self)) /* its failure is no matter of the parent's */
        return ldr_fail(err, LARDER_INVALID, "the writer belongs to the process that this one was forked from");
    w->deadline_ns = w->by_ns ? w->by_ns : ldr_call_deadline(w->timeout_ms);
    if (w->failure.kind && err)
        *err = w->failure;
    return w->failure.kind;
}

/* End it, as `why` says. */
static enum larder_kind leave(struct larder_writer *w, enum larder_kind k, const struct larder_err *why,
                              struct larder_err *err)
{
    if (k) {
        w->failure = *why;
        if (err)
            *err = *why;
    }
    return k;
}

/* May `n` more bytes come? */
static enum larder_kind fits(const struct larder_writer *w, uint64_t n, struct larder_err *err)
{
    uint64_t most = w->size == LARDER_SIZE_UNKNOWN ? LDR_OBJECT_SIZE_MAX : w->size;

    if (n <= most - w->taken)
        return LARDER_OK;
    return w->size == LARDER_SIZE_UNKNOWN
               ? ldr_fail(err, LARDER_LIMIT_EXCEEDED, "an object of more than %llu bytes", (unsigned long long)most)
               : ldr_fail(err, LARDER_INVALID, "more bytes than the %llu that were announced",
                          (unsigned long long)most);
}

static size_t piece_for(struct larder *l)
{
    const struct ldr_gen *g = atomic_load(&l->gen);
    struct statfs fs;

    return g && fstatfs(g->dirfd, &fs) == 0 && fs.f_type == TMPFS_MAGIC ? PIECE_TMPFS : PIECE;
}

static bool has_buf(struct larder_writer *w)
{
    if (!w->buf)
        w->buf = malloc(w->piece);
    return w->buf != NULL;
}

enum larder_kind ldr_writer_open_by(struct larder *l, const char *uri, uint64_t size,
                                    const struct larder_put_opts *opts, int64_t deadline_ns, struct larder_writer **out,
                                    struct larder_err *err)
{
    struct larder_writer *w = NULL;
    struct larder_put_opts o;
    struct ldr_meta meta;
    char text[LDR_URI_MAX + 1];
    enum larder_kind k = ldr_canonical(uri, text, err);

    ldr_meta_init(&meta);
    if (!k)
        k = ldr_put_options(opts, &o, &meta, err);
    if (!k && size != LARDER_SIZE_UNKNOWN && size > LDR_OBJECT_SIZE_MAX)
        k = ldr_fail(err, LARDER_LIMIT_EXCEEDED, "an object of more than %llu bytes",
                     (unsigned long long)LDR_OBJECT_SIZE_MAX);
    if (k)
        goto done;
    w = calloc(1, sizeof *w);
    if (!w) {
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a writer");
        goto done;
    }
    w->l = l;
    w->token = ldr_self_token(&l->self);
    w->upload_id = ldr_upload_id();
    w->size = size;
    w->piece = piece_for(l);
    w->by_ns = w->deadline_ns = deadline_ns;
    k = open_upload(w, text, &o, &meta, err);
    if (k && k != LARDER_NO_AGENT) /* it may have been heard */
        ldr_upload_abort(l, w->upload_id, deadline_ns);
    if (k)
        goto done;
    *out = w;
    w = NULL;
done:
    free(w);
    ldr_meta_release(&meta);
    return k;
}

enum larder_kind larder_writer_open(struct larder *l, const char *uri, uint64_t size,
                                    const struct larder_put_opts *opts, int timeout_ms, struct larder_writer **out,
                                    struct larder_err *err)
{
    struct larder_writer *w;
    enum larder_kind k = ldr_writer_open_by(l, uri, size, opts, ldr_call_deadline(timeout_ms), &w, err);

    if (k)
        return k;
    w->by_ns = 0;
    w->timeout_ms = timeout_ms;
    *out = w;
    return LARDER_OK;
}

/* Take at most `n` bytes of the block: as they are where they make a piece, else into the buffer. */
static enum larder_kind take(struct larder_writer *w, const uint8_t *p, size_t n, size_t *taken, struct larder_err *err)
{
    size_t whole;
    enum larder_kind k = next_block(w, err);

    if (k)
        return k;
    n = n < block_left(w) ? n : (size_t)block_left(w);
    whole = n == block_left(w) || w->taken + n == w->size ? n : n - n % w->piece;
    if (w->held == 0 && whole > 0) {
        n = whole;
        k = store(w, p, n, err);
    } else if (has_buf(w)) {
        n = n < w->piece - w->held ? n : w->piece - w->held;
        memcpy(w->buf + w->held, p, n);
        w->held += n;
    } else {
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a writer");
    }
    if (k)
        return k;
    *taken = n;
    w->taken += n;
    return pass_on(w, err);
}

enum larder_kind larder_writer_write(struct larder_writer *w, const void *p, size_t n, struct larder_err *err)
{
    struct larder_err why = { 0 };
    const uint8_t *bytes = p;
    size_t taken = 0;
    enum larder_kind k = enter(w, err);

    if (k)
        return k;
    k = fits(w, n, &why);
    if (!k && n > 0 && !p)
        k = ldr_fail(&why, LARDER_INVALID, "no data was given");
    for (; !k && n > 0; bytes += taken, n -= taken)
        k = take(w, bytes, n, &taken, &why);
    return leave(w, k, &why, err);
}

enum larder_kind larder_writer_room(struct larder_writer *w, void **p, size_t *n, struct larder_err *err)
{
    struct larder_err why = { 0 };
    enum larder_kind k = enter(w, err);
    uint64_t room;

    if (k)
        return k;
    k = fits(w, 1, err); /* else it can still be committed */
    if (k)
        return k;
    k = next_block(w, &why);
    if (!k && !has_buf(w))
        k = ldr_fail(&why, LARDER_NO_MEMORY, "out of memory for a writer");
    if (k)
        return leave(w, k, &why, err);
    room = block_left(w);
    room = room < w->piece - w->held ? room : w->piece - w->held;
    if (w->size != LARDER_SIZE_UNKNOWN && w->size - w->taken < room)
        room = w->size - w->taken;
    *p = w->buf + w->held;
    *n = (size_t)room;
    return LARDER_OK;
}

enum larder_kind larder_writer_filled(struct larder_writer *w, size_t n, struct larder_err *err)
{
    struct larder_err why = { 0 };
    enum larder_kind k = enter(w, err);

    if (k || n == 0)
        return k;
    if (!w->has_block || !w->buf || n > w->piece - w->held || n > block_left(w))
        k = ldr_fail(&why, LARDER_INVALID, "%zu bytes are more than there was room for", n);
    if (!k)
        k = fits(w, n, &why);
    if (!k) {
        w->held += n;
        w->taken += n;
        k = pass_on(w, &why);
    }
    return leave(w, k, &why, err);
}

static void writer_free(struct larder_writer **pw)
{
    free((*pw)->buf);
    free(*pw);
    *pw = NULL;
}

static void give_up(struct larder_writer **pw, int64_t deadline_ns)
{
    struct larder_writer *w = *pw;

    if (w->token == ldr_self_token(&w->l->self) && w->failure.kind != LARDER_NO_AGENT)
        ldr_upload_abort(w->l, w->upload_id, deadline_ns);
    writer_free(pw);
}

enum larder_kind larder_writer_commit(struct larder_writer **pw, struct larder_err *err)
{
    struct larder_writer *w = *pw;
    struct larder_err why = { 0 };
    enum larder_kind k = enter(w, &why);

    if (k)
        goto done;
    if (w->size != LARDER_SIZE_UNKNOWN && w->taken != w->size)
        k = ldr_fail(&why, LARDER_INVALID, "%llu bytes came of the %llu that were announced",
                     (unsigned long long)w->taken, (unsigned long long)w->size);
    if (!k && w->has_block)
        k = flush(w, &why);
    if (!k && w->has_block)
        k = seal(w, &why);
    if (!k)
        k = commit(w, &why);
done:
    if (k && err)
        *err = why;
    if (k && k != LARDER_OUTCOME_UNKNOWN && k != LARDER_NO_AGENT)
        give_up(pw, w->deadline_ns);
    else
        writer_free(pw);
    return k;
}

void larder_writer_abort(struct larder_writer **pw)
{
    if (pw && *pw)
        give_up(pw, (*pw)->by_ns ? (*pw)->by_ns : LDR_NEVER);
}
