/* fetch.c - an object's bytes into a descriptor, piece by piece (cli.h). */
#include "client/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define PIECE    ((size_t)1 << 20) /* of a view: the progress bar moves */
#define RANGE    ((size_t)4 << 20) /* of one request for a part of an object */
#define RESTARTS 3                 /* of a file whose object changes while it is read */

struct writer {
    struct cli *cli;
    const struct cli_sink *to;
    struct cli_progress *own; /* the line of this object alone */
    uint64_t size;            /* bytes written */
    struct larder_err err;    /* of a write that failed */
};

static enum larder_kind writer_add(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct writer *w = user;
    const char *bytes = p;

    (void)offset; /* in order, each once */
    while (n > 0) {
        ssize_t done = write(w->to->fd, bytes, n < PIECE ? n : PIECE);

        if (done == -1 && errno == EINTR)
            continue;
        if (done == -1) {
            if (!w->to->name)
                w->cli->stdout_errno = errno;
            return w->to->name ? cli_fail_sys(&w->err, LARDER_IO, "could not write \"%s\"", w->to->name)
                               : cli_fail_sys(&w->err, LARDER_IO, "could not write standard output");
        }
        bytes += done;
        n -= (size_t)done;
        w->size += (uint64_t)done;
        cli_progress_set(w->own, w->size, size);
        cli_progress_add(w->to->progress, 0, (uint64_t)done);
    }
    return LARDER_OK;
}

static void writer_start(struct writer *w, const char *uri)
{
    if (!w->to->progress && !isatty(w->to->fd)) /* the object's own text would run into it */
        w->own = cli_progress_start(w->cli, uri);
}

/* A failed write is what failed, whatever the call made of it. */
static enum larder_kind writer_end(struct writer *w, enum larder_kind k, struct larder_err *err)
{
    cli_progress_stop(&w->own);
    if (w->err.kind == LARDER_OK)
        return k;
    *err = w->err;
    return w->err.kind;
}

enum larder_kind cli_write_object(struct cli *c, const struct larder_object *o, const struct cli_sink *to,
                                  struct larder_err *err)
{
    struct writer w = { .cli = c, .to = to };
    size_t size = larder_object_size(o);

    return writer_end(&w, writer_add(&w, larder_object_data(o), size, 0, size), err);
}

static void writer_progress(void *user, uint64_t done, uint64_t size)
{
    struct writer *w = user;

    cli_progress_add(w->to->progress, 0, done - w->size);
    w->size = done;
    cli_progress_set(w->own, done, size);
}

/* By windows: bytes are written while others still arrive, and an object of any size takes no more memory. */
static enum larder_kind writer_get(struct writer *w, const char *uri, int timeout_ms, struct larder_err *err)
{
    enum larder_kind k = larder_get_to_fd(w->cli->larder, uri, w->to->fd, timeout_ms, writer_progress, w, NULL, err);

    if (k != LARDER_IO || !err->sys)
        return k;
    errno = err->sys;
    if (!w->to->name)
        w->cli->stdout_errno = errno;
    return w->to->name ? cli_fail_sys(&w->err, LARDER_IO, "could not write \"%s\"", w->to->name)
                       : cli_fail_sys(&w->err, LARDER_IO, "could not write standard output");
}

/* Begin again: a file of ours can, what went down a pipe cannot be taken back. */
static bool writer_restart(struct writer *w)
{
    if (ftruncate(w->to->fd, 0) == -1 || lseek(w->to->fd, 0, SEEK_SET) == -1)
        return false;
    cli_progress_add(w->to->progress, 0, -w->size);
    w->size = 0;
    return true;
}

enum larder_kind cli_fetch(struct cli *c, const char *uri, const struct cli_sink *to, struct cli_fetched *out,
                           struct larder_err *err)
{
    struct writer w = { .cli = c, .to = to };
    double start_ms = cli_now_ms();
    uint64_t asks = cli_asks(c);
    enum larder_kind k;

    writer_start(&w, uri);
    k = writer_get(&w, uri, c->timeout_ms, err);
    for (int i = 0; i < RESTARTS && k == LARDER_PRECONDITION && to->name && writer_restart(&w); i++)
        k = writer_get(&w, uri, cli_left_ms(c, start_ms), err);
    k = writer_end(&w, k, err);
    if (k == LARDER_OK) /* other threads' requests count here, too: then it says asked */
        *out = (struct cli_fetched){ w.size, cli_asks(c) == asks, cli_now_ms() - start_ms };
    return k;
}

void cli_say_fetched(const struct cli *c, const char *uri, const struct cli_fetched *got)
{
    if (c->verbose)
        cli_say("got \"%s\": %ju bytes in %.3f ms, %s", uri, (uintmax_t)got->size, got->ms, got->hit ? "hit" : "asked");
}

/* ---- a part of an object ---- */

struct range {
    struct cli *cli;
    const char *uri;
    uint64_t at, end; /* end: behind the last byte wanted, UINT64_MAX for the object's */
    uint64_t total;   /* of the object, as the first piece says */
    uint64_t id[2];   /* the version that is read; 0, 0: not known */
    bool begun, asked;
    char *buf; /* RANGE bytes; NULL until it is needed */
};

/* Get the next piece: as a view, *object, or where the object is too large for one, in r->buf. */
static enum larder_kind range_next(struct range *r, int timeout_ms, struct larder_object **object, size_t *len,
                                   struct larder_err *err)
{
    size_t want = r->end - r->at < RANGE ? (size_t)(r->end - r->at) : RANGE;
    uint64_t total = 0, id[2] = { 0 };
    enum larder_kind k = larder_get_range(r->cli->larder, r->uri, r->at, want, timeout_ms, object, err);

    if (k == LARDER_OK) {
        *len = larder_object_size(*object);
        total = larder_object_total(*object);
        larder_object_id(*object, id);
        r->asked |= !larder_object_was_hit(*object);
    } else if (k == LARDER_LIMIT_EXCEEDED) {
        r->buf = r->buf ? r->buf : malloc(RANGE);
        if (!r->buf)
            return cli_fail(err, LARDER_NO_MEMORY, "out of memory");
        k = larder_read(r->cli->larder, r->uri, r->at, r->buf, want, timeout_ms, len, &total, err);
        r->asked = true;
    }
    if (k)
        return k;
    if (r->begun &&
        (total != r->total || ((id[0] | id[1]) && (r->id[0] | r->id[1]) && (id[0] != r->id[0] || id[1] != r->id[1]))))
        return cli_fail(err, LARDER_PRECONDITION, "the object changed while it was read");
    if ((id[0] | id[1]) != 0) {
        r->id[0] = id[0];
        r->id[1] = id[1];
    }
    r->total = total;
    r->begun = true;
    return LARDER_OK;
}

enum larder_kind cli_fetch_range(struct cli *c, const char *uri, uint64_t offset, uint64_t length,
                                 const struct cli_sink *to, struct cli_fetched *out, struct larder_err *err)
{
    struct range r = { .cli = c, .uri = uri, .at = offset, .end = UINT64_MAX };
    struct writer w = { .cli = c, .to = to };
    double start_ms = cli_now_ms();
    enum larder_kind k;

    if (length && length < UINT64_MAX - offset)
        r.end = offset + length;
    writer_start(&w, uri);
    do {
        struct larder_object *object = NULL;
        uint64_t wanted;
        size_t len = 0;

        k = range_next(&r, cli_left_ms(c, start_ms), &object, &len, err);
        if (k == LARDER_OK) {
            r.end = r.end < r.total ? r.end : r.total;
            wanted = r.end > offset ? r.end - offset : 0;
            k = writer_add(&w, object ? larder_object_data(object) : r.buf, len, r.at, wanted);
            r.at += len;
        }
        if (k == LARDER_OK && len == 0 && r.at < r.end)
            k = cli_fail(err, LARDER_INTERNAL, "no byte came at offset %ju of %ju", (uintmax_t)r.at,
                         (uintmax_t)r.total);
        larder_object_free(&object);
    } while (k == LARDER_OK && r.at < r.end);
    free(r.buf);
    k = writer_end(&w, k, err);
    if (k == LARDER_OK)
        *out = (struct cli_fetched){ w.size, !r.asked, cli_now_ms() - start_ms };
    return k;
}
