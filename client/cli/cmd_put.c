/* cmd_put.c - `larder put`: a file, or what comes on standard input, becomes an object. */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

static enum cli_exit put_file(struct cli *c, const char *path, const char *uri, const struct larder_put_opts *opts)
{
    struct larder_err err = { 0 };
    struct cli_progress *progress;
    enum cli_exit code = CLI_DONE;
    double start_ms = cli_now_ms();
    char *data = NULL;
    size_t len = 0;
    json_t *result;
    enum larder_kind k = cli_read_file(path, &data, &len, &err);

    if (k == LARDER_OK) {
        progress = cli_progress_start(c, uri);
        k = larder_put(c->larder, uri, data, len, opts, c->timeout_ms, &err);
        cli_progress_stop(&progress);
    }
    if (k)
        code = cli_report(c, "put", uri, &err);
    else if (c->verbose)
        cli_say("put \"%s\": %zu bytes in %.3f ms", uri, len, cli_now_ms() - start_ms);
    if (k == LARDER_OK && c->json) {
        result = json_object();
        cli_json_set(result, "uri", uri);
        cli_json_set_number(result, "size", len);
        code = cli_json_print(c, result);
    }
    free(data);
    return code;
}

/* Split "NAME=VALUE" in place into user[0] and user[1]. False: it is not that. */
static bool split_meta(char *text, const char **user)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    char *eq = strchr(text, '=');

    if (!eq || eq == text || strspn(text, allowed) != (size_t)(eq - text))
        return false;
    *eq = '\0';
    user[0] = text;
    user[1] = eq + 1;
    return true;
}

static enum cli_exit put_run(struct cli *c, int argc, char **argv)
{
    enum { CONTENT_TYPE = 512, META, CREATE_ONLY };
    static const struct option options[] = {
        { "content-type", required_argument, NULL, CONTENT_TYPE },
        { "meta", required_argument, NULL, META },
        { "create-only", no_argument, NULL, CREATE_ONLY },
        { 0 },
    };
    struct larder_put_opts opts = { .struct_size = sizeof opts };
    const char **user = calloc((size_t)argc * 2, sizeof *user); /* no more pairs than arguments */
    enum cli_exit code = CLI_USAGE;
    int opt;

    if (!user) {
        cli_say("out of memory");
        return CLI_FAILED;
    }
    opts.user = user;
    while ((opt = cli_getopt(c, argc, argv, NULL, options)) != -1) {
        switch (opt) {
        case CONTENT_TYPE:
            opts.content_type = optarg;
            break;
        case META:
            if (!split_meta(optarg, user + 2 * opts.n_user)) {
                cli_usage(c, "--meta takes NAME=VALUE, the name of letters, digits, \"-\", \"_\" and \".\"; not \"%s\"",
                          optarg);
                goto done;
            }
            opts.n_user++;
            break;
        case CREATE_ONLY:
            opts.create_only = 1;
            break;
        default:
            code = c->stop;
            goto done;
        }
    }
    if (argc - optind != 2) {
        cli_usage(c, "put needs a file and a URI");
        goto done;
    }
    code = cli_open(c) ? put_file(c, argv[optind], argv[optind + 1], &opts) : CLI_FAILED;
done:
    free(user);
    return code;
}

const struct cli_command cli_put = {
    .name = "put",
    .summary = "a file becomes an object",
    .synopsis = "put [OPTION]... FILE URI",
    .help = "Write FILE (\"-\": standard input) as an object, up to 8 MiB. When it returns with 0\n"
            "the object is in its store, and every later get on this node sees it.\n"
            "\n"
            "Options:\n"
            "  --content-type TYPE  what the object is, as in text/csv\n"
            "  --meta NAME=VALUE    metadata of your own; may be given several times\n"
            "  --create-only        fail if the object is there already\n"
            "\n"
            "Examples:\n"
            "  larder put result.json s3://runs/17/result.json --content-type application/json\n"
            "  date | larder put - s3://runs/17/done --create-only --meta owner=batch\n",
    .run = put_run,
};
