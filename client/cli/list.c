/* list.c - a listing, page by page (cli.h). */
#include "client/cli/cli.h"

struct lister {
    struct cli *cli;
    larder_list_fn *each;
    void *user;
    bool stopped; /* by our standard output */
};

static enum larder_kind list_entry(void *user, const struct larder_entry *e)
{
    struct lister *l = user;
    enum larder_kind k = l->each(l->user, e);

    if (k == LARDER_OK && ferror(stdout))
        cli_flush(l->cli); /* which says why */
    l->stopped = l->cli->stdout_errno != 0;
    return k ? k : l->stopped ? LARDER_IO : LARDER_OK;
}

enum larder_kind cli_list(struct cli *c, const char *prefix, const char *delimiter, larder_list_fn *each, void *user,
                          struct larder_err *err)
{
    struct larder_list_opts opts = { .struct_size = sizeof opts, .delimiter = delimiter };
    struct lister l = { .cli = c, .each = each, .user = user };
    char *start = NULL, *next;
    enum larder_kind k;

    do {
        next = NULL;
        opts.start = start;
        k = larder_list(c->larder, prefix, &opts, c->timeout_ms, list_entry, &l, &next, err);
        larder_free(start);
        start = k ? NULL : next;
        if (k == LARDER_OK && cli_flush(c) != CLI_DONE)
            l.stopped = true;
    } while (start && !l.stopped);
    larder_free(start);
    return l.stopped ? cli_fail(err, LARDER_IO, "standard output failed") : k;
}
