/* cmd_cp.c - `larder cp`: one object or file to another place. Between two names of one store the store copies; what
 * it cannot copy goes through this process as a stream. */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct copy {
    struct cli *cli;
    const char *from, *to;
    uint64_t size;             /* bytes; CLI_SIZE_UNKNOWN where the library copied */
    struct larder_err without; /* why it was copied without its metadata */
};

/* ---- an object to an object ---- */

struct plain {
    struct copy *copy;
    struct larder_writer *writer; /* NULL until the first piece has said the size */
    uint64_t done;
    struct cli_progress *progress;
    struct larder_err err; /* of the writing side */
};

static enum larder_kind plain_add(void *user, const void *data, size_t n, uint64_t offset, uint64_t size)
{
    struct plain *p = user;
    struct cli *c = p->copy->cli;
    enum larder_kind k = LARDER_OK;

    (void)offset; /* in order, each once */
    if (!p->writer)
        k = larder_writer_open(c->larder, p->copy->to, size, NULL, c->timeout_ms, &p->writer, &p->err);
    if (k == LARDER_OK)
        k = larder_writer_write(p->writer, data, n, &p->err);
    p->done += n;
    cli_progress_set(p->progress, p->done, size);
    return k;
}

/* Its bytes alone. */
static enum larder_kind copy_plain(struct copy *copy, struct cli_progress *progress, struct larder_err *err)
{
    struct plain p = { .copy = copy, .progress = progress };
    enum larder_kind k = larder_stream(copy->cli->larder, copy->from, copy->cli->timeout_ms, plain_add, &p, err);

    if (p.err.kind) {
        *err = p.err;
        k = p.err.kind;
    }
    if (k == LARDER_OK)
        k = larder_writer_commit(&p.writer, err);
    larder_writer_abort(&p.writer);
    copy->size = p.done;
    return k;
}

/* The library knows all ways but one: to a store that keeps no metadata. */
static enum larder_kind copy_object(struct copy *p, struct cli_progress *progress, struct larder_err *err)
{
    struct larder_err refused = { 0 };
    enum larder_kind k = larder_copy(p->cli->larder, p->from, p->to, p->cli->timeout_ms, &refused);

    if (k == LARDER_UNSUPPORTED) {
        k = copy_plain(p, progress, err);
        p->without = k == LARDER_OK ? refused : p->without;
    } else if (k) {
        *err = refused;
    }
    return k;
}

/* ---- a file to an object, an object to a file ---- */

static enum larder_kind copy_in(struct copy *p, struct larder_err *err)
{
    return cli_send(p->cli, p->from, p->to, NULL, NULL, &p->size, err);
}

static enum larder_kind copy_out(struct copy *p, struct larder_err *err)
{
    struct cli_output file = CLI_OUTPUT_NONE;
    struct cli_sink to = { .fd = STDOUT_FILENO };
    bool to_stdout = !strcmp(p->to, "-");
    struct cli_fetched got = { 0 };
    enum larder_kind k = LARDER_OK;

    if (!to_stdout) {
        k = cli_output_open(p->to, &file, err);
        to = (struct cli_sink){ .fd = file.fd, .name = p->to };
    }
    if (k == LARDER_OK)
        k = cli_fetch(p->cli, p->from, &to, &got, err);
    if (k == LARDER_OK && !to_stdout)
        k = cli_output_commit(&file, err);
    cli_output_release(&file);
    if (k == LARDER_OK)
        p->size = got.size;
    return k;
}

/* ---- the command ---- */

static enum cli_exit copy(struct copy *p)
{
    struct cli *c = p->cli;
    bool objects = cli_is_uri(p->from) && cli_is_uri(p->to); /* the other ways draw a line of their own */
    struct cli_progress *progress = objects ? cli_progress_start(c, p->to) : NULL;
    struct larder_err err = { 0 };
    double start_ms = cli_now_ms();
    json_t *result;
    enum larder_kind k = objects             ? copy_object(p, progress, &err)
                         : cli_is_uri(p->to) ? copy_in(p, &err)
                                             : copy_out(p, &err);

    cli_progress_stop(&progress);
    if (k)
        return cli_report(c, "copy", p->from, &err);
    if (p->without.kind)
        cli_say("copied \"%s\" without its metadata: %s", p->from, p->without.msg);
    if (c->verbose)
        cli_say("copied \"%s\" to \"%s\" in %.3f ms", p->from, p->to, cli_now_ms() - start_ms);
    if (!c->json)
        return CLI_DONE;
    result = json_object();
    cli_json_set(result, "from", p->from);
    cli_json_set(result, "to", p->to);
    if (p->size == CLI_SIZE_UNKNOWN)
        json_object_set_new(result, "size", json_null());
    else
        cli_json_set_number(result, "size", p->size);
    return cli_json_print(c, result);
}

static bool is_directory(const char *path)
{
    struct stat st;
    size_t n = strlen(path);

    return (n && path[n - 1] == '/') || (stat(path, &st) == 0 && S_ISDIR(st.st_mode));
}

static enum cli_exit cp_run(struct cli *c, int argc, char **argv)
{
    struct copy p = { .cli = c, .size = CLI_SIZE_UNKNOWN };
    const char *name = NULL;
    enum cli_exit code;
    char *joined = NULL;
    size_t n;

    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (argc - optind != 2 || !*argv[optind] || !*argv[optind + 1])
        return cli_usage(c, "cp needs a source and a destination");
    p.from = argv[optind];
    p.to = argv[optind + 1];
    if (!cli_is_uri(p.from) && !cli_is_uri(p.to))
        return cli_usage(c, "neither \"%s\" nor \"%s\" is an object: that is a task of cp(1)", p.from, p.to);
    if (c->json && !strcmp(p.to, "-"))
        return cli_usage(c, "--json and the object both want standard output");
    n = strlen(p.to);
    if (cli_is_uri(p.to) ? p.to[n - 1] == '/' : strcmp(p.to, "-") && is_directory(p.to)) {
        name = strcmp(p.from, "-") ? cli_segment(p.from) : NULL;
        if (!name)
            return cli_usage(c, "\"%s\" is a directory, and \"%s\" has no name to be used there", p.to, p.from);
        if (asprintf(&joined, "%s%s%s", p.to, p.to[n - 1] == '/' ? "" : "/", name) == -1) {
            cli_say("out of memory");
            return CLI_FAILED;
        }
        p.to = joined;
    }
    code = cli_open(c) ? copy(&p) : CLI_FAILED;
    free(joined);
    return code;
}

const struct cli_command cli_cp = {
    .name = "cp",
    .summary = "an object or a file to another place",
    .synopsis = "cp [OPTION]... SOURCE DESTINATION",
    .help = "Copy an object to another name, a file to an object or an object to a file; what\n"
            "has no \"://\" is a file, \"-\" is standard input or output. A destination that ends\n"
            "in \"/\", or a directory, gets the last segment of the source's name added.\n"
            "\n"
            "Between names of one store the store copies, where it can; else, and between\n"
            "stores, the object goes through this process as a stream, of any size, with its\n"
            "content type, other headers and metadata of your own. Where the destination\n"
            "keeps none of these it is copied without, and that is told.\n"
            "\n"
            "With --json: from, to, size (null between two objects, if it is not known).\n"
            "\n"
            "Examples:\n"
            "  larder cp s3://data/a.csv s3://backup/2026/\n"
            "  larder cp result.json gs://runs/17/result.json\n"
            "  larder cp s3://data/a.csv - | head\n",
    .run = cp_run,
};
