/* cmd_rm.c - `larder rm`: objects are deleted. */
#include "client/cli/cli.h"

static enum cli_exit rm_one(struct cli *c, const char *uri)
{
    struct cli_progress *progress = cli_progress_start(c, uri);
    struct larder_err err = { 0 };
    double start_ms = cli_now_ms();
    json_t *result;
    enum larder_kind k = larder_delete(c->larder, uri, c->timeout_ms, &err);

    cli_progress_stop(&progress);
    if (k)
        return cli_report(c, "delete", uri, &err);
    if (c->verbose)
        cli_say("deleted \"%s\" in %.3f ms", uri, cli_now_ms() - start_ms);
    if (!c->json)
        return CLI_DONE;
    result = json_object();
    cli_json_set(result, "uri", uri);
    json_object_set_new(result, "deleted", json_true());
    return cli_json_print(c, result);
}

static enum cli_exit rm_run(struct cli *c, int argc, char **argv)
{
    enum cli_exit code = CLI_DONE;

    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (optind == argc)
        return cli_usage(c, "rm needs a URI");
    if (!cli_open(c))
        return CLI_FAILED;
    for (int i = optind; i < argc; i++) /* whoever reads our output or not: all are deleted */
        code = cli_worse(code, rm_one(c, argv[i]));
    return code;
}

const struct cli_command cli_rm = {
    .name = "rm",
    .summary = "delete objects",
    .synopsis = "rm [OPTION]... URI...",
    .help = "Delete each object from its store and from the cache. One that is not there is\n"
            "deleted already: that is no failure.\n"
            "\n"
            "Examples:\n"
            "  larder rm s3://runs/17/done\n",
    .run = rm_run,
};
