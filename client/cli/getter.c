/* getter.c - many objects into files, in parallel (cli.h).
 * Workers take items from the list, small objects many at a time: these are asked for together. What is done is reported
 * in the order of the list, by whoever finished the item that was waited for. */
#include "client/cli/cli.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SMALL         ((uint64_t)1 << 20) /* objects up to this are got together */
#define BATCH         64
#define BATCH_UNKNOWN 16 /* where sizes are not known: views of that many large ones can be held */

struct cli_getter {
    struct cli *cli;
    struct cli_get_list *list;
    struct cli_progress *progress; /* NULL for one object: then it is that object's own */
    unsigned jobs;
    pthread_mutex_t mtx;
    pthread_cond_t cond; /* an item was added, or there are no more to come */
    /* under mtx, and so is the list while it grows */
    bool growing;
    size_t next; /* the first item that nobody took */
    size_t told; /* items before it are reported */
    enum cli_exit code;
};

/* ---- the list ---- */

bool cli_get_add(struct cli_get_list *l, const char *uri, const char *target, struct cli_get_item **out)
{
    struct cli_get_item *i = calloc(1, sizeof *i), **more;

    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 16;

        more = reallocarray(l->item, cap, sizeof *more);
        if (!more)
            goto no_memory;
        l->item = more;
        l->cap = cap;
    }
    if (!i)
        goto no_memory;
    *i =
        (struct cli_get_item){ .uri = strdup(uri), .target = target ? strdup(target) : NULL, .size = CLI_SIZE_UNKNOWN };
    if (!i->uri || (target && !i->target)) {
        free(i->uri);
        free(i->target);
        goto no_memory;
    }
    l->item[l->n++] = i;
    if (out)
        *out = i;
    return true;
no_memory:
    free(i);
    l->no_memory = true;
    return false;
}

bool cli_get_more(struct cli_getter *g, const struct cli_get_item *item)
{
    struct cli_get_item *i;
    bool ok;

    pthread_mutex_lock(&g->mtx);
    ok = cli_get_add(g->list, item->uri, item->target, &i);
    if (ok) {
        i->size = item->size;
        i->refused = item->refused;
        i->make_dirs = item->make_dirs;
        i->folder = item->folder;
        pthread_cond_signal(&g->cond);
    }
    pthread_mutex_unlock(&g->mtx);
    return ok;
}

void cli_get_release(struct cli_get_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free(l->item[i]->uri);
        free(l->item[i]->target);
        free(l->item[i]->err);
        free(l->item[i]);
    }
    free(l->item);
    *l = (struct cli_get_list){ 0 };
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *cli_get_shared(const struct cli_get_list *l)
{
    const char **names = calloc(l->n + 1, sizeof *names);
    const char *shared = NULL;
    size_t n = 0;

    for (size_t i = 0; names && i < l->n; i++)
        if (l->item[i]->target)
            names[n++] = l->item[i]->target;
    if (names)
        qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 1; i < n && !shared; i++)
        if (!strcmp(names[i - 1], names[i]))
            shared = names[i];
    free(names);
    return shared;
}

/* ---- one item ---- */

/* Make the folders that `path` is in and, where it is one itself, `path`. */
static enum larder_kind make_dirs(const char *path, bool itself, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;
    char *copy = strdup(path);

    if (!copy)
        return cli_fail(err, LARDER_NO_MEMORY, "out of memory");
    for (char *slash = strchr(copy + 1, '/'); slash && k == LARDER_OK; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0777) == -1 && errno != EEXIST)
            k = cli_fail_sys(err, LARDER_IO, "could not make the directory \"%s\"", copy);
        *slash = '/';
    }
    if (itself && k == LARDER_OK && mkdir(copy, 0777) == -1 && errno != EEXIST)
        k = cli_fail_sys(err, LARDER_IO, "could not make the directory \"%s\"", copy);
    free(copy);
    return k;
}

/* Begin an item's file. OK and out->fd -1: there is none to write. */
static enum larder_kind open_target(const struct cli_get_item *i, struct cli_output *out, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    if (!i->target)
        return cli_fail(err, LARDER_INVALID, "%s", i->refused);
    if (i->folder)
        return make_dirs(i->target, true, err);
    k = cli_output_open(i->target, out, err);
    if (k == LARDER_IO && err->sys == ENOENT && i->make_dirs) { /* seldom: its neighbours made them */
        k = make_dirs(i->target, false, err);
        if (k == LARDER_OK)
            k = cli_output_open(i->target, out, err);
    }
    return k;
}

/* Into the item's file: `object`, or (NULL) what is got now. */
static enum larder_kind get_item(struct cli_getter *g, struct cli_get_item *i, const struct larder_object *object,
                                 struct larder_err *err)
{
    struct cli_output file = CLI_OUTPUT_NONE;
    struct cli_sink to = { .name = i->target, .progress = g->progress };
    enum larder_kind k = open_target(i, &file, err);

    to.fd = file.fd;
    if (k || i->folder)
        return k;
    if (object) {
        k = cli_write_object(g->cli, object, &to, err);
        i->got.size = larder_object_size(object);
        i->got.hit = larder_object_was_hit(object) != 0;
    } else {
        k = cli_fetch(g->cli, i->uri, &to, &i->got, err);
    }
    if (k == LARDER_OK)
        k = cli_output_commit(&file, err);
    cli_output_release(&file);
    return k;
}

/* ---- reports ---- */

static void report_failure(struct cli_getter *g, struct cli_get_item *i)
{
    static const struct larder_err no_memory = { .kind = LARDER_NO_MEMORY, .msg = "out of memory" };

    g->code = cli_worse(g->code, cli_report(g->cli, "get", i->uri, i->err ? i->err : &no_memory));
    free(i->err);
    i->err = NULL;
}

static void report_success(struct cli_getter *g, const struct cli_get_item *i)
{
    json_t *result;

    cli_say_fetched(g->cli, i->uri, &i->got);
    if (!g->cli->json)
        return;
    result = json_object();
    cli_json_set(result, "uri", i->uri);
    cli_json_set(result, "file", i->target);
    cli_json_set_number(result, "size", i->got.size);
    json_object_set_new(result, "hit", json_boolean(i->got.hit));
    g->code = cli_worse(g->code, cli_json_print(g->cli, result));
}

static void report(struct cli_getter *g, struct cli_get_item *i)
{
    if (i->kind == LARDER_OK && !g->cli->json && !g->cli->verbose)
        return;
    cli_progress_pause(g->progress);
    if (i->kind)
        report_failure(g, i);
    else
        report_success(g, i);
    cli_progress_resume(g->progress);
}

static void finish(struct cli_getter *g, struct cli_get_item *i, enum larder_kind kind, const struct larder_err *err)
{
    cli_progress_add(g->progress, 1, 0);
    pthread_mutex_lock(&g->mtx);
    i->kind = kind;
    if (kind && (i->err = malloc(sizeof *i->err)))
        *i->err = *err;
    i->done = true;
    for (; g->told < g->list->n && g->list->item[g->told]->done; g->told++)
        report(g, g->list->item[g->told]);
    pthread_mutex_unlock(&g->mtx);
}

/* ---- workers ---- */

static bool is_small(const struct cli_get_item *i)
{
    return i->target && !i->folder && (i->size <= SMALL || i->size == CLI_SIZE_UNKNOWN);
}

/* Take the next items: as many small ones as leave some for the others, or one; waits where more are to come. 0: all are
 * taken, or nobody reads us. */
static size_t take(struct cli_getter *g, struct cli_get_item *out[BATCH])
{
    size_t n = 0, left, most;

    pthread_mutex_lock(&g->mtx);
    while (g->growing && g->next == g->list->n && !g->cli->stdout_errno)
        pthread_cond_wait(&g->cond, &g->mtx);
    left = g->cli->stdout_errno ? 0 : g->list->n - g->next;
    most = (left + g->jobs - 1) / g->jobs;
    for (; n < most && n < BATCH; n++) {
        struct cli_get_item *i = g->list->item[g->next + n];

        if (!is_small(i) || (i->size == CLI_SIZE_UNKNOWN && n >= BATCH_UNKNOWN))
            break;
        out[n] = i;
    }
    if (n == 0 && left > 0)
        out[n++] = g->list->item[g->next];
    g->next += n;
    pthread_mutex_unlock(&g->mtx);
    return n;
}

static void get_alone(struct cli_getter *g, struct cli_get_item *i)
{
    struct larder_err err = { 0 };
    enum larder_kind k = get_item(g, i, NULL, &err);

    finish(g, i, k, &err);
}

static void get_together(struct cli_getter *g, struct cli_get_item *const items[], size_t n)
{
    struct larder_result result[BATCH] = { 0 };
    const char *uris[BATCH];
    double start_ms = cli_now_ms();
    struct larder_err err = { 0 };

    for (size_t i = 0; i < n; i++)
        uris[i] = items[i]->uri;
    larder_get_many(g->cli->larder, uris, n, g->cli->timeout_ms, result, &err); /* each result says how it went */
    for (size_t i = 0; i < n; i++) {
        struct larder_result *r = &result[i];

        if (r->kind == LARDER_LIMIT_EXCEEDED) {
            get_alone(g, items[i]);
            continue;
        }
        if (r->kind == LARDER_OK)
            r->kind = get_item(g, items[i], r->object, &r->err);
        larder_object_free(&r->object);
        items[i]->got.ms = cli_now_ms() - start_ms;
        finish(g, items[i], r->kind, &r->err);
    }
}

static void *work(void *user)
{
    struct cli_getter *g = user;
    struct cli_get_item *items[BATCH];
    size_t n;

    while ((n = take(g, items)) > 0) {
        if (n == 1)
            get_alone(g, items[0]);
        else
            get_together(g, items, n);
    }
    return NULL;
}

/* The bytes of all; 0: not known. */
static uint64_t total_size(const struct cli_get_list *l)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < l->n; i++) {
        if (l->item[i]->size > UINT64_MAX - 1 - sum) /* CLI_SIZE_UNKNOWN, too */
            return 0;
        sum += l->item[i]->size;
    }
    return sum;
}

enum cli_exit cli_get_all(struct cli *c, struct cli_get_list *l, unsigned jobs, cli_get_more_fn *more, void *user)
{
    struct cli_getter g = { .cli = c,
                            .list = l,
                            .jobs = jobs,
                            .growing = more != NULL,
                            .mtx = PTHREAD_MUTEX_INITIALIZER,
                            .cond = PTHREAD_COND_INITIALIZER };
    pthread_t *threads = calloc(jobs, sizeof *threads);
    size_t n = 0;

    if (l->n > 1 || more)
        g.progress = cli_progress_start(c, "get");
    if (l->n > 1)
        cli_progress_expect(g.progress, l->n, total_size(l));
    while (threads && n + 1 < jobs && (more || n + 1 < l->n) && pthread_create(&threads[n], NULL, work, &g) == 0)
        n++;
    if (more) {
        enum cli_exit code = more(&g, user);

        pthread_mutex_lock(&g.mtx);
        g.growing = false;
        g.code = cli_worse(g.code, code);
        cli_progress_expect(g.progress, l->n, total_size(l));
        pthread_cond_broadcast(&g.cond);
        pthread_mutex_unlock(&g.mtx);
    }
    work(&g); /* this thread is one of them */
    while (n > 0)
        pthread_join(threads[--n], NULL);
    cli_progress_stop(&g.progress);
    free(threads);
    pthread_cond_destroy(&g.cond);
    pthread_mutex_destroy(&g.mtx);
    return g.code;
}
