/* cmd_status.c - `larder status`: what the agent says of itself. */
#include "client/cli/cli.h"

static enum cli_exit show(struct cli *c)
{
    struct cli_items items = { .json = c->json ? json_object() : NULL };
    struct cli_progress *progress = cli_progress_start(c, "status");
    struct larder_err err = { 0 };
    enum cli_exit code;
    enum larder_kind k = larder_status(c->larder, c->timeout_ms, cli_items_add, &items, &err);

    cli_progress_stop(&progress);
    code = k ? cli_report(c, "get the agent's status", NULL, &err) : cli_items_print(c, &items);
    cli_items_release(&items);
    return code;
}

static enum cli_exit status_run(struct cli *c, int argc, char **argv)
{
    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (optind != argc)
        return cli_usage(c, "status takes no argument");
    return cli_open(c) ? show(c) : CLI_FAILED;
}

const struct cli_command cli_status = {
    .name = "status",
    .summary = "what the agent says of itself",
    .synopsis = "status [OPTION]...",
    .help = "Show the agent's own account of its cache and its stores, an item a line; sizes in\n"
            "units of 1024. With --json one object of the same names, sizes in bytes.\n"
            "\n"
            "Examples:\n"
            "  larder status\n"
            "  larder status --json --timeout 2s\n",
    .run = status_run,
};
