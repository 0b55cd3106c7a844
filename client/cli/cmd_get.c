/* cmd_get.c - `larder get`: objects into files. */
#include "client/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The last segment of the key; NULL: it has none that could name a file. */
static const char *segment_of(const char *uri)
{
    const char *key = strstr(uri, "://");
    const char *slash = key ? strchr(key + 3, '/') : NULL;
    const char *name;

    if (!slash)
        return NULL;
    name = strrchr(slash, '/') + 1;
    return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 ? name : NULL;
}

/* The file for `uri`: *out is owned by the caller. Only a directory (ends in "/") or none is joined with a name. */
static enum larder_kind target_of(const char *uri, const char *output, char **out, struct larder_err *err)
{
    const char *dir = output ? output : "";
    const char *name = segment_of(uri);

    if (output && output[strlen(output) - 1] != '/') {
        dir = "";
        name = output;
    }
    if (!name)
        return cli_fail(err, LARDER_INVALID, "its key does not end in the name of a file: give one with -o");
    if (asprintf(out, "%s%s", dir, name) != -1)
        return LARDER_OK;
    *out = NULL;
    return cli_fail(err, LARDER_NO_MEMORY, "out of memory");
}

static enum larder_kind fetch_to_file(struct cli *c, const char *uri, const char *target, struct cli_fetched *out,
                                      struct larder_err *err)
{
    struct cli_output file = CLI_OUTPUT_NONE;
    enum larder_kind k = cli_output_open(target, &file, err);

    if (k == LARDER_OK)
        k = cli_fetch(c, uri, file.fd, target, out, err);
    if (k == LARDER_OK)
        k = cli_output_commit(&file, err);
    cli_output_release(&file);
    return k;
}

static enum cli_exit get_one(struct cli *c, const char *uri, const char *output)
{
    struct larder_err err = { 0 };
    struct cli_fetched got = { 0 };
    enum cli_exit code = CLI_DONE;
    char *target = NULL;
    json_t *result;
    enum larder_kind k;

    if (output && !strcmp(output, "-")) {
        k = cli_fetch(c, uri, STDOUT_FILENO, NULL, &got, &err);
    } else {
        k = target_of(uri, output, &target, &err);
        if (k == LARDER_OK)
            k = fetch_to_file(c, uri, target, &got, &err);
    }
    if (k) {
        code = cli_report(c, "get", uri, &err);
    } else if (c->json) {
        result = json_object();
        cli_json_set(result, "uri", uri);
        cli_json_set(result, "file", target);
        cli_json_set_number(result, "size", got.size);
        json_object_set_new(result, "hit", json_boolean(got.hit));
        code = cli_json_print(c, result);
    }
    free(target);
    return code;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The name that two of the URIs would be written under, one over the other; NULL: there is none. */
static const char *find_shared_name(char **uris, size_t n)
{
    const char **names = calloc(n, sizeof *names);
    const char *shared = NULL;
    size_t count = 0;

    for (size_t i = 0; names && i < n; i++)
        if (segment_of(uris[i]))
            names[count++] = segment_of(uris[i]);
    if (names)
        qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 1; i < count && !shared; i++)
        if (!strcmp(names[i - 1], names[i]))
            shared = names[i];
    free(names);
    return shared;
}

static enum cli_exit get_run(struct cli *c, int argc, char **argv)
{
    static const struct option options[] = { { "output", required_argument, NULL, 'o' }, { 0 } };
    const char *output = NULL, *shared;
    enum cli_exit code = CLI_DONE;
    int opt;

    while ((opt = cli_getopt(c, argc, argv, "o:", options)) != -1) {
        if (opt == '?')
            return c->stop;
        output = optarg;
    }
    argc -= optind;
    argv += optind;
    if (argc == 0)
        return cli_usage(c, "get needs a URI");
    if (output && !*output)
        return cli_usage(c, "-o needs the name of a file");
    if (output && !strcmp(output, "-") && c->json)
        return cli_usage(c, "--json and -o - both want standard output");
    if (output && output[strlen(output) - 1] != '/' && argc > 1)
        return cli_usage(c, "several URIs need a directory, as in \"-o %s/\"", strcmp(output, "-") ? output : "DIR");
    shared = argc > 1 ? find_shared_name(argv, (size_t)argc) : NULL;
    if (shared)
        return cli_usage(c, "several of the URIs would be written to \"%s\"", shared);
    if (!cli_open(c))
        return CLI_FAILED;
    for (int i = 0; i < argc && !c->stdout_errno; i++)
        code = cli_worse(code, get_one(c, argv[i], output));
    return code;
}

const struct cli_command cli_get = {
    .name = "get",
    .summary = "objects into files",
    .synopsis = "get [OPTION]... URI... [-o FILE | -o DIR/]",
    .help = "Get each object into a file, from the cache when a fresh copy is there. A file\n"
            "appears whole or not at all: a get that fails leaves the old one as it was.\n"
            "\n"
            "Options:\n"
            "  -o, --output FILE   write to FILE; \"-\" is standard output\n"
            "  -o, --output DIR/   write into the directory DIR, each object under the last\n"
            "                      segment of its key (default: the current directory)\n"
            "\n"
            "Examples:\n"
            "  larder get s3://models/v3/weights.bin\n"
            "  larder get s3://models/v3/weights.bin -o /scratch/w.bin\n"
            "  larder get --timeout 30s s3://data/a.csv s3://data/b.csv -o inputs/\n"
            "  larder get --timeout 0 s3://data/a.csv || echo not in the cache\n",
    .run = get_run,
};
