/* cmd_cat.c - `larder cat`: objects, or a part of each, to standard output. */
#include "client/cli/cli.h"

#include <unistd.h>

static enum cli_exit cat_run(struct cli *c, int argc, char **argv)
{
    enum { OFFSET = 512, LENGTH };
    static const struct option options[] = { { "offset", required_argument, NULL, OFFSET },
                                             { "length", required_argument, NULL, LENGTH },
                                             { 0 } };
    struct cli_sink to = { .fd = STDOUT_FILENO };
    enum cli_exit code = CLI_DONE;
    uint64_t offset = 0, length = 0;
    bool part = false;
    int opt;

    while ((opt = cli_getopt(c, argc, argv, NULL, options)) != -1) {
        if (opt == '?')
            return c->stop;
        if (!cli_number(optarg, INT64_MAX, opt == OFFSET ? &offset : &length))
            return cli_usage(c, "--%s takes a number of bytes, not \"%s\"", opt == OFFSET ? "offset" : "length",
                             optarg);
        if (opt == LENGTH && length == 0)
            return cli_usage(c, "--length is at least 1");
        part = true;
    }
    if (optind == argc)
        return cli_usage(c, "cat needs a URI");
    if (c->json)
        return cli_usage(c, "--json and the objects of cat both want standard output");
    if (!cli_open(c))
        return CLI_FAILED;
    for (int i = optind; i < argc && !c->stdout_errno; i++) {
        struct larder_err err = { 0 };
        struct cli_fetched got;

        if (part ? cli_fetch_range(c, argv[i], offset, length, &to, &got, &err)
                 : cli_fetch(c, argv[i], &to, &got, &err))
            code = cli_worse(code, cli_report(c, "get", argv[i], &err));
        else
            cli_say_fetched(c, argv[i], &got);
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
            "Options:\n"
            "  --offset N  begin at byte N of each object (the first is 0); behind its end\n"
            "              there is nothing, which is no failure\n"
            "  --length N  at most N bytes of each; only what is needed is fetched\n"
            "\n"
            "Examples:\n"
            "  larder cat s3://data/table.csv | head\n"
            "  larder cat s3://data/part-0 s3://data/part-1 > table\n"
            "  larder cat s3://data/a.parquet --offset 4096 --length 512 | xxd\n",
    .run = cat_run,
};
