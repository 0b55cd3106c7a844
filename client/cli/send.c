/* send.c - a local file, or what comes on standard input, becomes an object (cli.h). What fits in one request is put whole;
 * the rest goes through a writer, which sends a part while the next one is read. */
#include "client/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PUT_MAX ((size_t)8 << 20) /* what is put whole */

struct sender {
    struct cli *cli;
    int fd;
    const char *path; /* NULL: standard input */
    const char *uri;
    const struct larder_put_opts *opts;
    struct stat st;
    bool known;                    /* a regular file: its size is that of `st` */
    struct cli_progress *own;      /* the line of this object alone, or … */
    struct cli_progress *progress; /* … of many */
    uint64_t sent;                 /* bytes read and handed over */
};

/* Read up to `n` bytes, fewer only at the end. */
static enum larder_kind read_some(const struct sender *s, void *p, size_t n, size_t *got, struct larder_err *err)
{
    for (*got = 0; *got < n;) {
        ssize_t r = read(s->fd, (char *)p + *got, n - *got);

        if (r == -1 && errno == EINTR)
            continue;
        if (r == -1)
            return s->path ? cli_fail_sys(err, LARDER_IO, "could not read \"%s\"", s->path)
                           : cli_fail_sys(err, LARDER_IO, "could not read standard input");
        if (r == 0)
            break;
        *got += (size_t)r;
    }
    return LARDER_OK;
}

/* A mixture of two states of a file is nobody's file. */
static enum larder_kind check_unchanged(const struct sender *s, struct larder_err *err)
{
    struct stat now;

    if (!s->known || (fstat(s->fd, &now) == 0 && now.st_size == s->st.st_size &&
                      now.st_mtim.tv_sec == s->st.st_mtim.tv_sec && now.st_mtim.tv_nsec == s->st.st_mtim.tv_nsec))
        return LARDER_OK;
    return cli_fail(err, LARDER_PRECONDITION, "\"%s\" changed while it was read", s->path ? s->path : "standard input");
}

static void count(struct sender *s, size_t n)
{
    s->sent += n;
    cli_progress_set(s->own, s->sent, s->known ? (uint64_t)s->st.st_size : 0);
    cli_progress_add(s->progress, 0, n);
}

/* `head`: what was read of it before. */
static enum larder_kind send_by_writer(struct sender *s, const void *head, size_t n, struct larder_err *err)
{
    uint64_t size = s->known ? (uint64_t)s->st.st_size : LARDER_SIZE_UNKNOWN;
    struct larder_writer *w = NULL;
    enum larder_kind k = larder_writer_open(s->cli->larder, s->uri, size, s->opts, s->cli->timeout_ms, &w, err);

    if (k)
        return k;
    k = larder_writer_write(w, head, n, err);
    count(s, n);
    while (k == LARDER_OK && s->sent < size) {
        void *room;
        size_t got = 0;

        k = larder_writer_room(w, &room, &n, err);
        if (k == LARDER_OK)
            k = read_some(s, room, n, &got, err);
        if (k == LARDER_OK)
            k = larder_writer_filled(w, got, err);
        count(s, got);
        if (got < n)
            break;
    }
    if (k == LARDER_OK)
        k = check_unchanged(s, err);
    if (k == LARDER_OK)
        return larder_writer_commit(&w, err);
    larder_writer_abort(&w);
    return k;
}

static enum larder_kind send_fd(struct sender *s, struct larder_err *err)
{
    char *head;
    size_t n = 0;
    enum larder_kind k;

    if (s->known && (uint64_t)s->st.st_size > PUT_MAX)
        return send_by_writer(s, NULL, 0, err);
    head = malloc(PUT_MAX + 1); /* only what is used costs memory */
    if (!head)
        return cli_fail(err, LARDER_NO_MEMORY, "out of memory");
    k = read_some(s, head, PUT_MAX + 1, &n, err);
    if (k == LARDER_OK && s->st.st_size > 0) /* files of /proc say 0 */
        k = check_unchanged(s, err);
    if (k == LARDER_OK && n > PUT_MAX) {
        s->known = false;
        k = send_by_writer(s, head, n, err);
    } else if (k == LARDER_OK) {
        k = larder_put(s->cli->larder, s->uri, head, n, s->opts, s->cli->timeout_ms, err);
        count(s, n);
    }
    free(head);
    return k;
}

enum larder_kind cli_send(struct cli *c, const char *path, const char *uri, const struct larder_put_opts *opts,
                          struct cli_progress *progress, uint64_t *size, struct larder_err *err)
{
    bool standard = !strcmp(path, "-");
    struct sender s = { .cli = c, .path = standard ? NULL : path, .uri = uri, .opts = opts, .progress = progress };
    enum larder_kind k;

    s.fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (s.fd == -1)
        return cli_fail_sys(err, LARDER_IO, "could not open \"%s\"", path);
    s.known = fstat(s.fd, &s.st) == 0 && S_ISREG(s.st.st_mode) && (!standard || lseek(s.fd, 0, SEEK_CUR) == 0);
    if (!progress)
        s.own = cli_progress_start(c, uri);
    k = send_fd(&s, err);
    cli_progress_stop(&s.own);
    if (!standard)
        close(s.fd);
    if (k == LARDER_OK)
        *size = s.sent;
    return k;
}
