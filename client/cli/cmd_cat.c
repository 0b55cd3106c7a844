/* cmd_cat.c - `larder cat`: objects to standard output. */
#include "client/cli/cli.h"

#include <unistd.h>

static enum cli_exit cat_run(struct cli *c, int argc, char **argv)
{
    enum cli_exit code = CLI_DONE;

    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (optind == argc)
        return cli_usage(c, "cat needs a URI");
    if (c->json)
        return cli_usage(c, "--json and the objects of cat both want standard output");
    if (!cli_open(c))
        return CLI_FAILED;
    for (int i = optind; i < argc && !c->stdout_errno; i++) {
        struct larder_err err = { 0 };
        struct cli_fetched got;

        if (cli_fetch(c, argv[i], STDOUT_FILENO, NULL, &got, &err))
            code = cli_worse(code, cli_report(c, "get", argv[i], &err));
    }
    return code;
}

const struct cli_command cli_cat = {
    .name = "cat",
    .summary = "objects to standard output",
    .synopsis = "cat [OPTION]... URI...",
    .help = "Write the objects to standard output, one behind the other. When one fails in the\n"
            "middle, a part of it may have been written: see the exit status. A reader that\n"
            "goes away ends it quietly.\n"
            "\n"
            "Examples:\n"
            "  larder cat s3://data/table.csv | head\n"
            "  larder cat s3://data/part-0 s3://data/part-1 > table\n",
    .run = cat_run,
};
