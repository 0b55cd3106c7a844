/* cmd_ref.c - `larder ref`: references as Flyte's storage layer builds and splits them. Needs neither cache nor agent.
 */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

static enum cli_exit join(struct cli *c, const char *base, char **keys, int n)
{
    struct larder_err err = { 0 };
    enum cli_exit code;
    char *ref = NULL;
    json_t *result;

    if (larder_ref_join(base, (const char *const *)keys, (size_t)n, &ref, &err))
        return cli_report(c, "join the reference", base, &err);
    if (c->json) {
        result = json_object();
        cli_json_set(result, "reference", ref);
        code = cli_json_print(c, result);
    } else {
        cli_put_name(ref);
        code = cli_flush(c);
    }
    larder_free(ref);
    return code;
}

static enum cli_exit split(struct cli *c, const char *reference)
{
    struct larder_err err = { 0 };
    struct larder_ref ref = { 0 };
    enum cli_exit code;

    if (larder_ref_split(reference, &ref, &err))
        return cli_report(c, "split the reference", reference, &err);
    if (c->json) {
        json_t *result = json_object();

        cli_json_set(result, "scheme", ref.scheme);
        cli_json_set(result, "container", ref.container);
        cli_json_set(result, "key", ref.key);
        code = cli_json_print(c, result);
    } else {
        char *scheme = cli_printable(ref.scheme), *container = cli_printable(ref.container);
        char *key = cli_printable(ref.key);

        printf("scheme     %s\ncontainer  %s\nkey        %s\n", scheme, container, key);
        free(key);
        free(container);
        free(scheme);
        code = cli_flush(c);
    }
    larder_ref_free(&ref);
    return code;
}

static enum cli_exit ref_run(struct cli *c, int argc, char **argv)
{
    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    argc -= optind;
    argv += optind;
    if (argc >= 3 && !strcmp(argv[0], "join"))
        return join(c, argv[1], argv + 2, argc - 2);
    if (argc == 2 && !strcmp(argv[0], "split"))
        return split(c, argv[1]);
    return cli_usage(c, "ref takes \"join BASE KEY...\" or \"split URI\"");
}

const struct cli_command cli_ref = {
    .name = "ref",
    .summary = "join and split references as Flyte's storage layer does",
    .synopsis = "ref join [OPTION]... BASE KEY...\n       larder ref split [OPTION]... URI",
    .help = "Join a base and keys to a reference, or split one into scheme, container and key,\n"
            "by the rules of Flyte's storage layer: references are URLs there, %20 is a space.\n"
            "The other commands take keys literally. Asks neither cache nor agent.\n"
            "\n"
            "With --json: {\"reference\"}, or {\"scheme\", \"container\", \"key\"}.\n"
            "\n"
            "Examples:\n"
            "  larder ref join s3://data/run-17 outputs table.csv\n"
            "  larder ref split 's3://data/a%20b'\n",
    .run = ref_run,
};
