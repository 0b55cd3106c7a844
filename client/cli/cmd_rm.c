/* cmd_rm.c - `larder rm`: objects are deleted, one, several, or all that are below a prefix. */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define BATCH 1000 /* objects of one call, and of what is remembered of a listing */

struct remover {
    struct cli *cli;
    struct cli_progress *progress;
    const char *prefix; /* with -r: the key that all begin with */
    char *uri[BATCH];   /* owned */
    size_t n;
    uint64_t seen; /* objects so far, these included */
    enum cli_exit code;
};

static void report(struct remover *r, const char *uri, enum larder_kind kind, const struct larder_err *err, double ms)
{
    struct cli *c = r->cli;
    json_t *result;

    if (kind) {
        r->code = cli_worse(r->code, cli_report(c, "delete", uri, err));
        return;
    }
    if (c->verbose)
        cli_say("deleted \"%s\" in %.3f ms", uri, ms);
    if (!c->json)
        return;
    result = json_object();
    cli_json_set(result, "uri", uri);
    json_object_set_new(result, "deleted", json_true());
    r->code = cli_worse(r->code, cli_json_print(c, result));
}

/* Delete what was gathered. Whoever reads our output or not: all are deleted. */
static void flush(struct remover *r)
{
    struct larder_result *result = calloc(r->n + 1, sizeof *result);
    double start_ms = cli_now_ms(), ms;
    struct larder_err err = { 0 };

    cli_progress_expect(r->progress, r->seen, 0);
    if (!result)
        cli_fail(&err, LARDER_NO_MEMORY, "out of memory");
    else if (r->n == 1)
        result[0].kind = larder_delete(r->cli->larder, r->uri[0], r->cli->timeout_ms, &result[0].err);
    else /* each result says how it went */
        larder_delete_many(r->cli->larder, (const char *const *)r->uri, r->n, r->cli->timeout_ms, result, &err);
    ms = cli_now_ms() - start_ms;
    cli_progress_add(r->progress, r->n, 0);
    cli_progress_pause(r->progress);
    for (size_t i = 0; i < r->n; i++) {
        report(r, r->uri[i], result ? result[i].kind : err.kind, result ? &result[i].err : &err, ms);
        free(r->uri[i]);
    }
    cli_progress_resume(r->progress);
    r->n = 0;
    free(result);
}

static bool add(struct remover *r, const char *uri)
{
    if (r->n == BATCH)
        flush(r);
    r->uri[r->n] = strdup(uri);
    if (!r->uri[r->n])
        return false;
    r->n++;
    r->seen++;
    return true;
}

static enum larder_kind add_listed(void *user, const struct larder_entry *e)
{
    struct remover *r = user;
    const char *key = cli_key(e->uri);

    if (e->is_prefix || !key || strncmp(key, r->prefix, strlen(r->prefix)) != 0)
        return LARDER_OK; /* a store that lists what is not below it deletes nothing of ours */
    return add(r, e->uri) ? LARDER_OK : LARDER_NO_MEMORY;
}

static void remove_below(struct remover *r, const char *uri)
{
    struct larder_err err = { 0 };
    char *prefix = NULL;
    enum larder_kind k;

    if (asprintf(&prefix, "%s%s", uri, uri[strlen(uri) - 1] == '/' ? "" : "/") == -1) {
        cli_say("out of memory");
        r->code = CLI_FAILED;
        return;
    }
    r->prefix = cli_key(prefix) ? cli_key(prefix) : "";
    k = cli_list(r->cli, prefix, NULL, add_listed, r, &err);
    if (r->n)
        flush(r);
    cli_progress_stop(&r->progress);
    if (k)
        r->code = cli_worse(r->code, cli_report(r->cli, "list", prefix, &err));
    free(prefix);
}

static enum cli_exit check_usage(const struct cli *c, char **argv, int n, bool recursive, bool all)
{
    const char *key = n > 0 ? cli_key(argv[0]) : NULL;

    if (n == 0)
        return cli_usage(c, "rm needs a URI");
    if (all && !recursive)
        return cli_usage(c, "--all goes with -r");
    if (!recursive)
        return CLI_DONE;
    if (n != 1 || !cli_is_uri(argv[0]))
        return cli_usage(c, "rm -r needs one prefix, such as s3://bucket/run-17/");
    if (!all && (!key || strspn(key, "/") == strlen(key)))
        return cli_usage(c, "\"%s\" is a whole container: --all says that this is meant", argv[0]);
    if (all && key && *key)
        return cli_usage(c, "--all is for a whole container, and \"%s\" has a key", argv[0]);
    return CLI_DONE;
}

static enum cli_exit rm_run(struct cli *c, int argc, char **argv)
{
    enum { ALL = 512 };
    static const struct option options[] = {
        { "recursive", no_argument, NULL, 'r' },
        { "all", no_argument, NULL, ALL },
        { 0 },
    };
    struct remover r = { .cli = c };
    bool recursive = false, all = false;
    int opt;

    while ((opt = cli_getopt(c, argc, argv, "r", options)) != -1) {
        if (opt == 'r')
            recursive = true;
        else if (opt == ALL)
            all = true;
        else
            return c->stop;
    }
    argc -= optind;
    argv += optind;
    r.code = check_usage(c, argv, argc, recursive, all);
    if (r.code != CLI_DONE)
        return r.code;
    if (!cli_open(c))
        return CLI_FAILED;
    r.progress = cli_progress_start(c, argv[0]);
    if (recursive)
        remove_below(&r, argv[0]);
    for (int i = 0; i < argc && !recursive; i++)
        if (!add(&r, argv[i])) {
            cli_say("out of memory");
            r.code = CLI_FAILED;
            break;
        }
    if (r.n)
        flush(&r);
    cli_progress_stop(&r.progress);
    if (recursive && c->verbose)
        cli_say("%ju objects were there", (uintmax_t)r.seen);
    return r.code;
}

const struct cli_command cli_rm = {
    .name = "rm",
    .summary = "delete objects",
    .synopsis = "rm [OPTION]... URI...\n"
                "       larder rm [OPTION]... -r PREFIX",
    .help = "Delete each object from its store and from the cache. One that is not there is\n"
            "deleted already: that is no failure. With -r all objects below PREFIX (a \"/\" is\n"
            "added where it does not end in one), many at a time; nothing is asked.\n"
            "\n"
            "Options:\n"
            "  -r, --recursive  what is below a prefix, which must have a key, or …\n"
            "      --all        … the whole container\n"
            "\n"
            "With --json an object a line: uri, deleted.\n"
            "\n"
            "Examples:\n"
            "  larder rm s3://runs/17/done s3://runs/17/log\n"
            "  larder rm -r s3://runs/17/checkpoints/\n",
    .run = rm_run,
};
