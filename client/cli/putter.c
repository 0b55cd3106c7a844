/* putter.c - many files into objects, in parallel (cli.h). What is done is reported in the order of the list, by whoever
 * finished the file that was waited for. */
#include "client/cli/cli.h"

#include <errno.h>
#include <fts.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct item {
    char *path, *uri; /* owned */
    uint64_t size;    /* as the directory says; then as it was sent */
    double ms;
    bool done;
    enum larder_kind kind;
    struct larder_err *err; /* owned; NULL: none */
};

struct putter {
    struct cli *cli;
    const struct larder_put_opts *opts;
    struct item *item;
    size_t n, cap;
    bool no_memory; /* an item could not be added */
    struct cli_progress *progress;
    pthread_mutex_t mtx;
    /* under mtx */
    size_t next; /* the first item that nobody took */
    size_t told; /* items before it are reported */
    enum cli_exit code;
};

/* ---- the list ---- */

/* Add `path`, to become PREFIX/rel; `refused`: why not (NULL: nothing against it). */
static void add(struct putter *p, const char *path, const char *prefix, const char *rel, uint64_t size,
                const char *refused)
{
    const char *slash = *prefix && prefix[strlen(prefix) - 1] == '/' ? "" : "/";
    struct item *i;

    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;

        i = reallocarray(p->item, cap, sizeof *i);
        if (!i) {
            p->no_memory = true;
            return;
        }
        p->item = i;
        p->cap = cap;
    }
    i = &p->item[p->n++];
    *i = (struct item){ .path = strdup(path), .size = refused ? 0 : size };
    if (asprintf(&i->uri, "%s%s%s", prefix, slash, rel) == -1)
        i->uri = NULL;
    if (refused && (i->err = calloc(1, sizeof *i->err)))
        i->kind = cli_fail(i->err, LARDER_INVALID, "\"%s\"%s", path, refused);
    p->no_memory |= !i->path || !i->uri || (refused && !i->err);
}

/* A symbolic link stands for a file, never for a directory: that could be followed for ever. */
static void add_link(struct putter *p, const char *path, const char *prefix, const char *rel)
{
    struct stat st;

    if (stat(path, &st) == -1)
        add(p, path, prefix, rel, 0, " is a symbolic link that leads nowhere");
    else if (S_ISREG(st.st_mode))
        add(p, path, prefix, rel, (uint64_t)st.st_size, NULL);
    else
        add(p, path, prefix, rel, 0, " is a symbolic link to what is no regular file, and not followed");
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void list_dir(struct putter *p, FTS *fts, const char *dir, const char *prefix)
{
    char why[256];
    FTSENT *e;

    while ((e = fts_read(fts))) {
        const char *rel = e->fts_path + strlen(dir) + strspn(e->fts_path + strlen(dir), "/");

        switch (e->fts_info) {
        case FTS_F:
            add(p, e->fts_path, prefix, rel, (uint64_t)e->fts_statp->st_size, NULL);
            break;
        case FTS_SL:
            add_link(p, e->fts_path, prefix, rel);
            break;
        case FTS_DEFAULT:
            add(p, e->fts_path, prefix, rel, 0, " is no regular file");
            break;
        case FTS_DNR:
        case FTS_ERR:
        case FTS_NS:
            snprintf(why, sizeof why, ": %s", strerror(e->fts_errno));
            add(p, e->fts_path, prefix, rel, 0, why);
            break;
        }
    }
}

/* ---- one file ---- */

static void report(struct putter *p, const struct item *i)
{
    static const struct larder_err no_memory = { .kind = LARDER_NO_MEMORY, .msg = "out of memory" };
    struct cli *c = p->cli;
    json_t *result;

    if (i->kind) {
        p->code = cli_worse(p->code, cli_report(c, "put", i->uri, i->err ? i->err : &no_memory));
        return;
    }
    if (c->verbose)
        cli_say("put \"%s\": %ju bytes in %.3f ms", i->uri, (uintmax_t)i->size, i->ms);
    if (!c->json)
        return;
    result = json_object();
    cli_json_set(result, "file", i->path);
    cli_json_set(result, "uri", i->uri);
    cli_json_set_number(result, "size", i->size);
    p->code = cli_worse(p->code, cli_json_print(c, result));
}

static void put_item(struct putter *p, struct item *i)
{
    struct larder_err err = { 0 };
    double start_ms = cli_now_ms();
    enum larder_kind k = i->kind ? i->kind : cli_send(p->cli, i->path, i->uri, p->opts, p->progress, &i->size, &err);

    i->ms = cli_now_ms() - start_ms;
    cli_progress_add(p->progress, 1, 0);
    pthread_mutex_lock(&p->mtx);
    if (k && !i->err && (i->err = malloc(sizeof *i->err)))
        *i->err = err;
    i->kind = k;
    i->done = true;
    cli_progress_pause(p->progress);
    for (; p->told < p->n && p->item[p->told].done; p->told++)
        report(p, &p->item[p->told]);
    cli_progress_resume(p->progress);
    pthread_mutex_unlock(&p->mtx);
}

/* ---- all of them ---- */

static void *work(void *user)
{
    struct putter *p = user;
    struct item *i;

    do {
        pthread_mutex_lock(&p->mtx);
        i = p->next < p->n ? &p->item[p->next++] : NULL;
        pthread_mutex_unlock(&p->mtx);
        if (i)
            put_item(p, i);
    } while (i);
    return NULL;
}

static void put_all(struct putter *p, unsigned jobs)
{
    pthread_t *threads = calloc(jobs, sizeof *threads);
    uint64_t bytes = 0;
    size_t n = 0;

    for (size_t i = 0; i < p->n; i++)
        bytes += p->item[i].size;
    p->progress = cli_progress_start(p->cli, "put");
    cli_progress_expect(p->progress, p->n, bytes);
    while (threads && n + 1 < jobs && n + 1 < p->n && pthread_create(&threads[n], NULL, work, p) == 0)
        n++;
    work(p); /* this thread is one of them */
    while (n > 0)
        pthread_join(threads[--n], NULL);
    cli_progress_stop(&p->progress);
    free(threads);
}

enum cli_exit cli_put_below(struct cli *c, const char *dir, const char *prefix, const struct larder_put_opts *opts,
                            unsigned jobs)
{
    struct putter p = { .cli = c, .opts = opts, .mtx = PTHREAD_MUTEX_INITIALIZER };
    char *const roots[] = { (char *)(uintptr_t)dir, NULL };
    struct larder_err err = { 0 };
    struct stat st;
    FTS *fts = NULL;

    errno = 0;
    if (stat(dir, &st) == 0 && S_ISDIR(st.st_mode))
        fts = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
    else
        errno = errno ? errno : ENOTDIR;
    if (!fts) {
        cli_fail_sys(&err, LARDER_IO, "could not open \"%s\"", dir);
        p.code = cli_report(c, "put", dir, &err);
        goto done;
    }
    list_dir(&p, fts, dir, prefix);
    fts_close(fts);
    if (p.no_memory) {
        cli_say("out of memory");
        p.code = CLI_FAILED;
    } else {
        put_all(&p, jobs);
    }
done:
    for (size_t i = 0; i < p.n; i++) {
        free(p.item[i].path);
        free(p.item[i].uri);
        free(p.item[i].err);
    }
    free(p.item);
    pthread_mutex_destroy(&p.mtx);
    return p.code;
}
