/* fetch.c - an object's bytes into a descriptor: as a view, or piece by piece where it is too large for one (cli.h). */
#include "client/cli/cli.h"

#include <errno.h>
#include <unistd.h>

#define PIECE ((size_t)1 << 20) /* of a view: the progress bar moves */

struct sink {
    struct cli *cli;
    int fd;
    const char *name; /* of the file; NULL: standard output */
    struct cli_progress *progress;
    uint64_t size;         /* bytes written */
    struct larder_err err; /* of a write that failed */
};

static enum larder_kind sink_write(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct sink *s = user;
    const char *bytes = p;

    (void)offset; /* in order, each once */
    while (n > 0) {
        ssize_t done = write(s->fd, bytes, n < PIECE ? n : PIECE);

        if (done == -1 && errno == EINTR)
            continue;
        if (done == -1) {
            if (!s->name)
                s->cli->stdout_errno = errno;
            return s->name ? cli_fail_sys(&s->err, LARDER_IO, "could not write \"%s\"", s->name)
                           : cli_fail_sys(&s->err, LARDER_IO, "could not write standard output");
        }
        bytes += done;
        n -= (size_t)done;
        s->size += (uint64_t)done;
        cli_progress_set(s->progress, s->size, size);
    }
    return LARDER_OK;
}

/* What is left of the time for one URI; 1 ms at least, as 0 means "never ask". */
static int time_left_ms(const struct cli *c, double start_ms)
{
    double left = c->timeout_ms - (cli_now_ms() - start_ms);

    return c->timeout_ms <= 0 ? c->timeout_ms : left < 1 ? 1 : (int)left;
}

enum larder_kind cli_fetch(struct cli *c, const char *uri, int fd, const char *name, struct cli_fetched *out,
                           struct larder_err *err)
{
    struct sink sink = { .cli = c, .fd = fd, .name = name };
    struct larder_object *object = NULL;
    double start_ms = cli_now_ms();
    uint64_t asks = cli_asks(c);
    enum larder_kind k;

    if (!isatty(fd)) /* the object's own text would run into it */
        sink.progress = cli_progress_start(c, uri);
    k = larder_get(c->larder, uri, c->timeout_ms, &object, err);
    if (k == LARDER_OK)
        k = sink_write(&sink, larder_object_data(object), larder_object_size(object), 0, larder_object_size(object));
    else if (k == LARDER_LIMIT_EXCEEDED)
        k = larder_stream(c->larder, uri, time_left_ms(c, start_ms), sink_write, &sink, err);
    larder_object_free(&object);
    cli_progress_stop(&sink.progress);
    if (sink.err.kind) {
        k = sink.err.kind;
        *err = sink.err;
    }
    if (k == LARDER_OK)
        *out = (struct cli_fetched){ sink.size, cli_asks(c) == asks, cli_now_ms() - start_ms };
    if (k == LARDER_OK && c->verbose)
        cli_say("got \"%s\": %ju bytes in %.3f ms, %s", uri, (uintmax_t)out->size, out->ms, out->hit ? "hit" : "asked");
    return k;
}
