/* cmd_stat.c - `larder stat`: what is known of objects. */
#include "client/cli/cli.h"

#include <stdlib.h>

static const struct {
    enum larder_meta_field field;
    const char *label, *json;
} fields[] = {
    { LARDER_META_ETAG, "ETag", "etag" },
    { LARDER_META_VERSION, "Version", "version" },
    { LARDER_META_CONTENT_TYPE, "Content type", "content_type" },
    { LARDER_META_CONTENT_ENCODING, "Content encoding", "content_encoding" },
    { LARDER_META_CACHE_CONTROL, "Cache control", "cache_control" },
    { LARDER_META_CONTENT_DISPOSITION, "Content disposition", "content_disposition" },
    { LARDER_META_CONTENT_LANGUAGE, "Content language", "content_language" },
    { LARDER_META_CONTENT_MD5, "Content MD5", "content_md5" },
};

static void print_line(const char *label, const char *text)
{
    char *shown = cli_printable(text);

    printf("  %-21s%s\n", label, shown);
    free(shown);
}

static void print_human(const char *uri, const struct larder_meta *m)
{
    uint64_t size = larder_meta_size(m);
    char *shown = cli_printable(uri);
    char modified[CLI_TIME_TEXT], units[CLI_SIZE_TEXT], text[80];
    const char *name, *value;

    printf("%s\n", shown);
    free(shown);
    snprintf(text, sizeof text, size < 1024 ? "%ju" : "%ju (%s)", (uintmax_t)size, cli_size_text(size, units));
    print_line("Size", text);
    if (cli_time_text(larder_meta_last_modified(m), modified))
        print_line("Last modified", modified);
    for (size_t i = 0; i < CLI_LEN(fields); i++)
        if (larder_meta_text(m, fields[i].field))
            print_line(fields[i].label, larder_meta_text(m, fields[i].field));
    for (size_t i = 0; larder_meta_user(m, i, &name, &value); i++) {
        char *pair = NULL;

        if (asprintf(&pair, "%s=%s", name, value) == -1)
            pair = NULL;
        print_line("Metadata", pair ? pair : name);
        free(pair);
    }
}

static json_t *to_json(const char *uri, const struct larder_meta *m)
{
    json_t *obj = json_object(), *user = json_object();
    const char *name, *value;
    char modified[CLI_TIME_TEXT];

    cli_json_set(obj, "uri", uri);
    json_object_set_new(obj, "exists", json_boolean(larder_meta_exists(m)));
    if (!larder_meta_exists(m)) {
        json_decref(user);
        return obj;
    }
    cli_json_set_number(obj, "size", larder_meta_size(m));
    cli_json_set(obj, "last_modified", cli_time_text(larder_meta_last_modified(m), modified));
    for (size_t i = 0; i < CLI_LEN(fields); i++)
        cli_json_set(obj, fields[i].json, larder_meta_text(m, fields[i].field));
    for (size_t i = 0; larder_meta_user(m, i, &name, &value); i++)
        cli_json_set(user, name, value);
    json_object_set_new(obj, "metadata", user);
    return obj;
}

static enum cli_exit stat_one(struct cli *c, const char *uri)
{
    struct cli_progress *progress = cli_progress_start(c, uri);
    struct larder_meta *m = NULL;
    struct larder_err err = { 0 };
    double start_ms = cli_now_ms();
    uint64_t asks = cli_asks(c);
    enum cli_exit code = CLI_DONE;
    enum larder_kind k = larder_head(c->larder, uri, c->timeout_ms, &m, &err);

    cli_progress_stop(&progress);
    if (k)
        return cli_report(c, "stat", uri, &err);
    if (c->verbose)
        cli_say("looked up \"%s\" in %.3f ms, %s", uri, cli_now_ms() - start_ms, cli_asks(c) == asks ? "hit" : "asked");
    if (!larder_meta_exists(m)) {
        cli_say("could not stat \"%s\": there is no such object", uri);
        code = CLI_NOT_FOUND;
    }
    if (c->json) {
        code = cli_worse(code, cli_json_print(c, to_json(uri, m)));
    } else if (larder_meta_exists(m)) {
        print_human(uri, m);
        code = cli_flush(c);
    }
    larder_meta_free(&m);
    return code;
}

static enum cli_exit stat_run(struct cli *c, int argc, char **argv)
{
    enum cli_exit code = CLI_DONE;

    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (optind == argc)
        return cli_usage(c, "stat needs a URI");
    if (!cli_open(c))
        return CLI_FAILED;
    for (int i = optind; i < argc && !c->stdout_errno; i++)
        code = cli_worse(code, stat_one(c, argv[i]));
    return code;
}

const struct cli_command cli_stat = {
    .name = "stat",
    .summary = "what is known of objects: size, times, metadata",
    .synopsis = "stat [OPTION]... URI...",
    .help = "Show what the store, or a fresh copy in the cache, says of each object.\n"
            "\n"
            "With --json an object a line: uri, exists, size (bytes), last_modified (RFC 3339),\n"
            "etag, version, content_type, content_encoding, cache_control,\n"
            "content_disposition, content_language, content_md5, metadata. What the store did\n"
            "not say is null. Of a missing object only uri and exists (false).\n"
            "\n"
            "Examples:\n"
            "  larder stat s3://data/table.csv\n"
            "  larder stat --json s3://data/table.csv | jq .size\n",
    .run = stat_run,
};
