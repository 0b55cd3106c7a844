/* cmd_sign.c - `larder sign`: a URL that works without credentials for a while. The URL goes to standard output, alone, so
 * that a script can take it; the headers that go with it to standard error. */
#include "client/cli/cli.h"

#include <string.h>

#define MS_PER_S 1000

static enum cli_exit print_json(struct cli *c, const char *uri, bool put, const struct larder_signed *s)
{
    char expires[CLI_TIME_TEXT];
    json_t *result = json_object(), *headers = json_object();

    for (size_t i = 0; i < s->n_headers; i++) { /* "Name: value", as the library promises */
        char *sep = strstr(s->headers[i], ": ");

        *sep = '\0';
        cli_json_set(headers, s->headers[i], sep + 2);
    }
    cli_json_set(result, "uri", uri);
    cli_json_set(result, "method", put ? "PUT" : "GET");
    cli_json_set(result, "url", s->url);
    json_object_set_new(result, "headers", headers);
    cli_json_set(result, "expires", cli_time_text(s->expires, expires));
    return cli_json_print(c, result);
}

static enum cli_exit sign_one(struct cli *c, const char *uri, const struct larder_sign_opts *o)
{
    struct cli_progress *progress = cli_progress_start(c, uri);
    struct larder_signed s = { 0 };
    struct larder_err err = { 0 };
    enum larder_kind k = larder_sign(c->larder, uri, o, c->timeout_ms, &s, &err);
    char expires[CLI_TIME_TEXT];
    enum cli_exit code;

    cli_progress_stop(&progress);
    if (k)
        return cli_report(c, "sign", uri, &err);
    if (c->verbose && cli_time_text(s.expires, expires))
        cli_say("signed \"%s\" until %s", uri, expires);
    if (c->json) {
        code = print_json(c, uri, o->put != 0, &s);
    } else {
        puts(s.url);
        code = cli_flush(c);
        for (size_t i = 0; i < s.n_headers; i++)
            fprintf(stderr, "%s\n", s.headers[i]); /* printable ASCII, as the library promises */
    }
    larder_signed_free(&s);
    return code;
}

static enum cli_exit sign_run(struct cli *c, int argc, char **argv)
{
    enum { PUT = 512, EXPIRES, CONTENT_MD5, CONTENT_TYPE };
    static const struct option options[] = {
        { "put", no_argument, NULL, PUT },
        { "expires", required_argument, NULL, EXPIRES },
        { "content-md5", required_argument, NULL, CONTENT_MD5 },
        { "content-type", required_argument, NULL, CONTENT_TYPE },
        { 0 },
    };
    struct larder_sign_opts o = { .struct_size = sizeof o };
    int opt, ms;

    while ((opt = cli_getopt(c, argc, argv, NULL, options)) != -1) {
        switch (opt) {
        case PUT:
            o.put = 1;
            break;
        case EXPIRES:
            if (!cli_duration(optarg, &ms) || ms == 0 || ms % MS_PER_S != 0)
                return cli_usage(c, "--expires takes whole seconds, as in 90s, 15m, 1h or 7d, not \"%s\"", optarg);
            o.lifetime_s = ms / MS_PER_S;
            break;
        case CONTENT_MD5:
            o.content_md5 = optarg;
            break;
        case CONTENT_TYPE:
            o.content_type = optarg;
            break;
        default:
            return c->stop;
        }
    }
    if (argc - optind != 1)
        return cli_usage(c, "sign needs one URI");
    if (!o.put && (o.content_md5 || o.content_type))
        return cli_usage(c, "--content-md5 and --content-type go with --put");
    return cli_open(c) ? sign_one(c, argv[optind], &o) : CLI_FAILED;
}

const struct cli_command cli_sign = {
    .name = "sign",
    .summary = "a URL that works without credentials for a while",
    .synopsis = "sign [OPTION]... URI",
    .help = "Print a URL with which anybody may get the object, or put it, for a while. It is a\n"
            "secret as long as it works. Headers that must be sent with it, exactly so, are\n"
            "printed on standard error, one a line.\n"
            "\n"
            "Options:\n"
            "      --put               a URL to put the object; else to get it\n"
            "      --expires DURATION  how long it works: 90s, 15m, 1h, 7d (default 1h); at\n"
            "                          most 7d, and no longer than the agent's credentials\n"
            "      --content-md5 MD5   with --put: only bytes with this MD5, as base64\n"
            "      --content-type TYPE with --put: what the object will be\n"
            "\n"
            "With --json: uri, method, url, headers (an object), expires.\n"
            "\n"
            "Examples:\n"
            "  curl -o a.csv \"$(larder sign s3://data/a.csv --expires 15m)\"\n"
            "  curl -T a.csv \"$(larder sign --put s3://data/a.csv)\"\n",
    .run = sign_run,
};
