/* cmd_why.c - `larder why`: what becomes of a read of an object here, and why: this process's view and the agent's. */
#include "client/cli/cli.h"

/* What a read here and now would do. Reads a byte: larder_head() also asks for what a read does not need. */
static const char *own_view(struct cli *c, const char *uri)
{
    struct larder_err err = { 0 };
    size_t got;
    char byte;

    switch (larder_read(c->larder, uri, 0, &byte, 1, 0, &got, NULL, &err)) {
    case LARDER_OK:
        return "hit: read here, without asking the agent";
    case LARDER_TIMEOUT:
        return "miss: the agent is asked";
    case LARDER_NOT_FOUND:
        return "hit: known not to exist";
    default:
        return "miss: see the agent";
    }
}

static enum cli_exit why_run(struct cli *c, int argc, char **argv)
{
    struct cli_items items = { 0 };
    struct cli_progress *progress;
    struct larder_err err = { 0 };
    const char *uri;
    enum cli_exit code = CLI_DONE;
    enum larder_kind k;

    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (argc - optind != 1)
        return cli_usage(c, "why needs one URI");
    uri = argv[optind];
    if (!cli_open(c))
        return CLI_FAILED;
    items.json = c->json ? json_object() : NULL;
    cli_items_add(&items, "uri", uri, 0);
    cli_items_add(&items, "this_process", own_view(c, uri), 0);
    progress = cli_progress_start(c, uri);
    k = larder_why(c->larder, uri, c->timeout_ms, cli_items_add, &items, &err);
    cli_progress_stop(&progress);
    if (k == LARDER_OK || !c->json) /* without an agent, too, people learn what is seen here */
        code = cli_items_print(c, &items);
    if (k)
        code = cli_worse(code, cli_report(c, "ask about", uri, &err));
    cli_items_release(&items);
    return code;
}

const struct cli_command cli_why = {
    .name = "why",
    .summary = "why an object is, or is not, served from the cache",
    .synopsis = "why [OPTION]... URI",
    .help = "Tell whether this process would read the object from the cache without asking\n"
            "anybody, and what the agent knows of it: its store, policy, record, blocks and\n"
            "age, an item a line. The store is not asked.\n"
            "\n"
            "With --json one object of the same names, sizes in bytes.\n"
            "\n"
            "Examples:\n"
            "  larder why s3://data/table.csv\n",
    .run = why_run,
};
