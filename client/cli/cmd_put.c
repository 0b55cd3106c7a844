/* cmd_put.c - `larder put`: a file, what comes on standard input, or all that is below a directory becomes objects. */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define JOBS_DEFAULT 8
#define JOBS_MAX     64

struct put_opts {
    struct larder_put_opts object;
    bool recursive, has_jobs;
    uint64_t jobs;
};

static enum cli_exit put_file(struct cli *c, const char *path, const char *uri, const struct larder_put_opts *opts)
{
    struct larder_err err = { 0 };
    double start_ms = cli_now_ms();
    uint64_t size = 0;
    json_t *result;

    if (cli_send(c, path, uri, opts, NULL, &size, &err))
        return cli_report(c, "put", uri, &err);
    if (c->verbose)
        cli_say("put \"%s\": %ju bytes in %.3f ms", uri, (uintmax_t)size, cli_now_ms() - start_ms);
    if (!c->json)
        return CLI_DONE;
    result = json_object();
    cli_json_set(result, "uri", uri);
    cli_json_set_number(result, "size", size);
    return cli_json_print(c, result);
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

/* Is what was asked for one thing? */
static enum cli_exit check_usage(const struct cli *c, const struct put_opts *o, char **argv, int n)
{
    if (o->recursive && (n != 2 || !*argv[0]))
        return cli_usage(c, "put -r needs a directory and a prefix");
    if (o->recursive && o->object.if_match)
        return cli_usage(c, "--if-match is for one object, not for those of -r");
    if (o->recursive && !cli_is_uri(argv[1]))
        return cli_usage(c, "put -r writes below a prefix such as s3://bucket/run-17/, not \"%s\"", argv[1]);
    if (!o->recursive && n != 2)
        return cli_usage(c, "put needs a file and a URI");
    if (!o->recursive && o->has_jobs)
        return cli_usage(c, "--jobs is for -r");
    if (o->object.if_match && (o->object.create_only || !*o->object.if_match))
        return cli_usage(c, "--if-match takes an ETag, and none when the object must not be there");
    return CLI_DONE;
}

static enum cli_exit put_run(struct cli *c, int argc, char **argv)
{
    enum { CONTENT_TYPE = 512, CONTENT_ENCODING, CACHE_CONTROL, META, CREATE_ONLY, IF_MATCH };
    static const struct option options[] = {
        { "content-type", required_argument, NULL, CONTENT_TYPE },
        { "content-encoding", required_argument, NULL, CONTENT_ENCODING },
        { "cache-control", required_argument, NULL, CACHE_CONTROL },
        { "meta", required_argument, NULL, META },
        { "create-only", no_argument, NULL, CREATE_ONLY },
        { "if-none-match", no_argument, NULL, CREATE_ONLY },
        { "if-match", required_argument, NULL, IF_MATCH },
        { "recursive", no_argument, NULL, 'r' },
        { "jobs", required_argument, NULL, 'j' },
        { 0 },
    };
    struct put_opts o = { .object = { .struct_size = sizeof o.object }, .jobs = JOBS_DEFAULT };
    const char **user = calloc((size_t)argc * 2, sizeof *user); /* no more pairs than arguments */
    enum cli_exit code = CLI_USAGE;
    int opt;

    if (!user) {
        cli_say("out of memory");
        return CLI_FAILED;
    }
    o.object.user = user;
    while ((opt = cli_getopt(c, argc, argv, "rj:", options)) != -1) {
        switch (opt) {
        case CONTENT_TYPE:
            o.object.content_type = optarg;
            break;
        case CONTENT_ENCODING:
            o.object.content_encoding = optarg;
            break;
        case CACHE_CONTROL:
            o.object.cache_control = optarg;
            break;
        case META:
            if (!split_meta(optarg, user + 2 * o.object.n_user)) {
                cli_usage(c, "--meta takes NAME=VALUE, the name of letters, digits, \"-\", \"_\" and \".\"; not \"%s\"",
                          optarg);
                goto done;
            }
            o.object.n_user++;
            break;
        case CREATE_ONLY:
            o.object.create_only = 1;
            break;
        case IF_MATCH:
            o.object.if_match = optarg;
            break;
        case 'r':
            o.recursive = true;
            break;
        case 'j':
            o.has_jobs = true;
            if (!cli_number(optarg, JOBS_MAX, &o.jobs) || o.jobs == 0) {
                cli_usage(c, "--jobs takes a number from 1 to %d, not \"%s\"", JOBS_MAX, optarg);
                goto done;
            }
            break;
        default:
            code = c->stop;
            goto done;
        }
    }
    argc -= optind;
    argv += optind;
    code = check_usage(c, &o, argv, argc);
    if (code == CLI_DONE && !cli_open(c))
        code = CLI_FAILED;
    else if (code == CLI_DONE)
        code = o.recursive ? cli_put_below(c, argv[0], argv[1], &o.object, (unsigned)o.jobs)
                           : put_file(c, argv[0], argv[1], &o.object);
done:
    free(user);
    return code;
}

const struct cli_command cli_put = {
    .name = "put",
    .summary = "files become objects",
    .synopsis = "put [OPTION]... FILE URI\n"
                "       larder put [OPTION]... -r DIR PREFIX",
    .help = "Write FILE (\"-\": standard input) as an object, of any size; what is larger than\n"
            "8 MiB goes in parts, while the rest is read. When it returns with 0 the object is\n"
            "in its store, and every later get on this node sees it. A file that changes\n"
            "while it is read is not put. With -r all files below DIR go to the same paths\n"
            "below PREFIX (a \"/\" is added where it does not end in one). Symbolic links to\n"
            "files are followed; links to directories, and what is no regular file, are\n"
            "refused one by one.\n"
            "\n"
            "Options:\n"
            "      --content-type TYPE  what the object is, as in text/csv; nothing is guessed\n"
            "      --content-encoding E how its bytes are encoded, as in gzip\n"
            "      --cache-control TEXT what others may do with it, as in no-store\n"
            "      --meta NAME=VALUE    metadata of your own; may be given several times\n"
            "      --if-none-match      fail if the object is there already;\n"
            "                           --create-only says the same\n"
            "      --if-match ETAG      fail unless the object has this ETag (see stat)\n"
            "  -r, --recursive          all files below a directory\n"
            "  -j, --jobs N             with -r: how many at a time, 1 to 64 (default 8)\n"
            "\n"
            "--timeout counts for each part of what is larger than 8 MiB.\n"
            "With --json: uri, size; with -r file, too.\n"
            "\n"
            "Examples:\n"
            "  larder put result.json s3://runs/17/result.json --content-type application/json\n"
            "  tar c data | larder put - s3://runs/17/data.tar\n"
            "  date | larder put - s3://runs/17/done --if-none-match --meta owner=batch\n"
            "  larder put -r checkpoints s3://runs/17/checkpoints/\n",
    .run = put_run,
};
