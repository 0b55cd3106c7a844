/* cmd_cp.c - `larder cp`: one object or file to another place. Between two names of one store the store copies; what
 * it cannot copy goes through this process, as far as one put takes it. */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

struct copy {
    struct cli *cli;
    const char *from, *to;
    uint64_t size; /* bytes; CLI_SIZE_UNKNOWN where the store copied */
};

static bool same_scheme(const char *a, const char *b)
{
    size_t n = (size_t)(strstr(a, "://") - a) + 3;

    return !strncasecmp(a, b, n);
}

/* ---- through this process ---- */

/* The source's own metadata, as options of a put that borrow from `m` and *user (ended by free()). */
static enum larder_kind put_opts_of(const struct larder_meta *m, struct larder_put_opts *out, const char ***user,
                                    struct larder_err *err)
{
    const char *name, *value, **pairs;
    size_t n = 0;

    while (larder_meta_user(m, n, &name, &value))
        n++;
    pairs = calloc(2 * n + 1, sizeof *pairs);
    if (!pairs)
        return cli_fail(err, LARDER_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++)
        larder_meta_user(m, i, &pairs[2 * i], &pairs[2 * i + 1]);
    *user = pairs;
    *out = (struct larder_put_opts){ .struct_size = sizeof *out,
                                     .content_type = larder_meta_text(m, LARDER_META_CONTENT_TYPE),
                                     .user = pairs,
                                     .n_user = n };
    return LARDER_OK;
}

static enum larder_kind put_with(struct copy *p, const char *data, size_t len, const struct larder_put_opts *opts,
                                 struct larder_err *err)
{
    struct larder_err refused = { 0 };
    enum larder_kind k;

    k = larder_put(p->cli->larder, p->to, data, len, opts, p->cli->timeout_ms, &refused);
    if (k == LARDER_UNSUPPORTED && (opts->content_type || opts->n_user)) {
        k = larder_put(p->cli->larder, p->to, data, len, NULL, p->cli->timeout_ms, err);
        if (k == LARDER_OK)
            cli_say("copied \"%s\" without its metadata: %s", p->from, refused.msg);
    } else if (k) {
        *err = refused;
    }
    return k;
}

static enum larder_kind copy_through(struct copy *p, struct larder_err *err)
{
    struct larder_put_opts opts = { 0 };
    struct larder_meta *m = NULL;
    const char **user = NULL;
    char *buf = NULL;
    uint64_t size = 0;
    enum larder_kind k = larder_head(p->cli->larder, p->from, p->cli->timeout_ms, &m, err);

    if (k)
        goto done;
    size = larder_meta_size(m);
    if (!larder_meta_exists(m))
        k = cli_fail(err, LARDER_NOT_FOUND, "there is no such object");
    else if (size > CLI_PUT_MAX)
        k = cli_fail(err, LARDER_LIMIT_EXCEEDED,
                     "it is %ju bytes: its store cannot copy it to \"%s\", and one put takes at most %zu (8 MiB)",
                     (uintmax_t)size, p->to, CLI_PUT_MAX);
    else
        k = put_opts_of(m, &opts, &user, err);
    if (k)
        goto done;
    buf = malloc(CLI_PUT_MAX); /* only what is used costs memory */
    k = buf ? larder_get_into(p->cli->larder, p->from, buf, CLI_PUT_MAX, p->cli->timeout_ms, &size, err)
            : cli_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (k == LARDER_OK)
        k = put_with(p, buf, (size_t)size, &opts, err);
    if (k == LARDER_OK)
        p->size = size;
done:
    free(buf);
    free(user);
    larder_meta_free(&m);
    return k;
}

/* ---- the three ways ---- */

static enum larder_kind copy_object(struct copy *p, struct larder_err *err)
{
    enum larder_kind k = LARDER_UNSUPPORTED;

    if (same_scheme(p->from, p->to))
        k = larder_copy(p->cli->larder, p->from, p->to, p->cli->timeout_ms, err);
    return k == LARDER_UNSUPPORTED ? copy_through(p, err) : k;
}

static enum larder_kind copy_in(struct copy *p, struct larder_err *err)
{
    char *data = NULL;
    size_t len = 0;
    enum larder_kind k = cli_read_file(p->from, &data, &len, err);

    if (k == LARDER_OK)
        k = larder_put(p->cli->larder, p->to, data, len, NULL, p->cli->timeout_ms, err);
    if (k == LARDER_OK)
        p->size = len;
    free(data);
    return k;
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
    bool fetch = !cli_is_uri(p->to); /* which draws a line of its own */
    struct cli_progress *progress = fetch ? NULL : cli_progress_start(c, p->to);
    struct larder_err err = { 0 };
    double start_ms = cli_now_ms();
    json_t *result;
    enum larder_kind k = fetch ? copy_out(p, &err) : cli_is_uri(p->from) ? copy_object(p, &err) : copy_in(p, &err);

    cli_progress_stop(&progress);
    if (k)
        return cli_report(c, "copy", p->from, &err);
    if (c->verbose)
        cli_say("copied \"%s\" to \"%s\" in %.3f ms%s", p->from, p->to, cli_now_ms() - start_ms,
                p->size == CLI_SIZE_UNKNOWN ? ", by its store" : "");
    if (!c->json)
        return CLI_DONE;
    result = json_object();
    cli_json_set(result, "from", p->from);
    cli_json_set(result, "to", p->to);
    if (p->size == CLI_SIZE_UNKNOWN)
        json_object_set_new(result, "size", json_null());
    else
        cli_json_set_number(result, "size", p->size);
    json_object_set_new(result, "by_store", json_boolean(p->size == CLI_SIZE_UNKNOWN));
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
            "Between names of one store the store copies, whatever the size. Where it cannot,\n"
            "and between stores, the object goes through this process with its content type\n"
            "and metadata of your own, up to 8 MiB. A file becomes an object of up to 8 MiB.\n"
            "\n"
            "With --json: from, to, size (null where the store copied), by_store.\n"
            "\n"
            "Examples:\n"
            "  larder cp s3://data/a.csv s3://backup/2026/\n"
            "  larder cp result.json gs://runs/17/result.json\n"
            "  larder cp s3://data/a.csv - | head\n",
    .run = cp_run,
};
