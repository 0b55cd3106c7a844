/* cmd_ls.c - `larder ls`: the objects below a prefix, printed as they are listed. */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

struct listing {
    struct cli *cli;
    bool long_form;
    uint64_t n;
};

static json_t *to_json(const struct larder_entry *e)
{
    json_t *obj = json_object();
    char modified[CLI_TIME_TEXT];

    cli_json_set(obj, "uri", e->uri);
    json_object_set_new(obj, "is_prefix", json_boolean(e->is_prefix));
    if (e->is_prefix)
        return obj;
    cli_json_set_number(obj, "size", e->size);
    cli_json_set(obj, "last_modified", cli_time_text(e->last_modified, modified));
    cli_json_set(obj, "etag", e->etag);
    return obj;
}

static enum larder_kind print_entry(void *user, const struct larder_entry *e)
{
    struct listing *l = user;
    char modified[CLI_TIME_TEXT], size[24] = "-";
    const char *time = e->is_prefix ? NULL : cli_time_text(e->last_modified, modified);

    l->n++;
    if (l->cli->json) {
        cli_json_write(l->cli, to_json(e));
        return LARDER_OK;
    }
    if (l->long_form && !e->is_prefix)
        snprintf(size, sizeof size, "%ju", (uintmax_t)e->size);
    if (l->long_form)
        printf("%15s  %-20s  ", size, time ? time : "-");
    cli_put_name(e->uri); /* a prefix ends in the delimiter already */
    return LARDER_OK;
}

static enum cli_exit list_one(struct cli *c, const char *uri, const char *delimiter, bool long_form)
{
    struct listing l = { .cli = c, .long_form = long_form };
    const char *container = strstr(uri, "://");
    struct larder_err err = { 0 };
    enum cli_exit code = CLI_DONE;
    char *prefix = NULL;
    enum larder_kind k;

    /* a container may be named without the slash behind it */
    if (asprintf(&prefix, "%s%s", uri, container && !strchr(container + 3, '/') ? "/" : "") == -1) {
        cli_say("out of memory");
        return CLI_FAILED;
    }
    k = cli_list(c, prefix, delimiter, print_entry, &l, &err);
    if (k == LARDER_OK && l.n == 0 && !cli_is_folder(prefix))
        k = cli_fail(&err, LARDER_NOT_FOUND, "nothing begins with it");
    if (c->stdout_errno)
        code = CLI_FAILED;
    else if (k)
        code = cli_report(c, "list", uri, &err);
    free(prefix);
    return code;
}

static enum cli_exit ls_run(struct cli *c, int argc, char **argv)
{
    static const struct option options[] = { { "long", no_argument, NULL, 'l' },
                                             { "recursive", no_argument, NULL, 'R' },
                                             { 0 } };
    const char *delimiter = "/";
    enum cli_exit code = CLI_DONE;
    bool long_form = false;
    int opt;

    while ((opt = cli_getopt(c, argc, argv, "lR", options)) != -1) {
        if (opt == '?')
            return c->stop;
        if (opt == 'l')
            long_form = true;
        else
            delimiter = NULL;
    }
    if (optind == argc)
        return cli_usage(c, "ls needs a URI");
    if (!cli_open(c))
        return CLI_FAILED;
    for (int i = optind; i < argc && !c->stdout_errno; i++)
        code = cli_worse(code, list_one(c, argv[i], delimiter, long_form));
    return code;
}

const struct cli_command cli_ls = {
    .name = "ls",
    .summary = "the objects below a prefix",
    .synopsis = "ls [OPTION]... URI...",
    .help = "List the objects whose names begin with URI, one a line, as the store gives them:\n"
            "of \"s3://data/run-\" also those of run-1/ and run-2/. One level only: deeper ones\n"
            "are shown as the prefix that they share, which ends in \"/\". The store is asked\n"
            "each time. --timeout is for each page of the listing.\n"
            "\n"
            "Where standard output is a terminal, control characters are shown as \\xNN;\n"
            "elsewhere names are written as they are. A name may hold a newline: use --json.\n"
            "\n"
            "With --json an object a line: uri, is_prefix; and of objects size (bytes),\n"
            "last_modified (RFC 3339), etag.\n"
            "\n"
            "Nothing below a container or a prefix that ends in \"/\" is an empty listing;\n"
            "otherwise it is \"not found\".\n"
            "\n"
            "Options:\n"
            "  -l, --long       size in bytes and time of the last change, too\n"
            "  -R, --recursive  all levels\n"
            "\n"
            "Examples:\n"
            "  larder ls s3://data/\n"
            "  larder ls -lR s3://data/run-17/\n"
            "  larder ls -R s3://data/run-17/ | larder get --from-file - -d inputs\n",
    .run = ls_run,
};
