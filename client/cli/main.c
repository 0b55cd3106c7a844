/* main.c - `larder`: finds the command, reads the options that all commands know, exits. */
#include "client/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_DEFAULT_MS (5 * 60 * 1000)

/* Values of long options without a letter; commands' own begin at 512. */
enum { OPT_CACHE_DIR = 256, OPT_TIMEOUT, OPT_JSON, OPT_HELP, OPT_VERSION };

static const struct option global_options[] = {
    { "cache-dir", required_argument, NULL, OPT_CACHE_DIR },
    { "timeout", required_argument, NULL, OPT_TIMEOUT },
    { "json", no_argument, NULL, OPT_JSON },
    { "quiet", no_argument, NULL, 'q' },
    { "verbose", no_argument, NULL, 'v' },
    { "help", no_argument, NULL, OPT_HELP },
    { "version", no_argument, NULL, OPT_VERSION },
};

static const char global_help[] = "Options of all commands, before or behind the command's name:\n"
                                  "  --cache-dir DIR     the node's cache (default: $LARDER_CACHE_DIR,\n"
                                  "                      /var/cache/larder, $XDG_CACHE_HOME/larder)\n"
                                  "  --timeout DURATION  for each URI or page: 500ms, 30s, 2m, 1h (default 5m);\n"
                                  "                      0: only what the cache has, never wait\n"
                                  "  --json              one JSON object a line on standard output\n"
                                  "  -q, --quiet         no progress bar\n"
                                  "  -v, --verbose       timings, hit or asked, and counts on standard error\n"
                                  "  --help, --version\n"
                                  "\n"
                                  "Exit status: 0 done, 1 failed, 2 usage, 3 not found.\n"
                                  "Of several URIs all are tried, and the worst counts.\n";

static const struct cli_command *const commands[] = {
    &cli_get,  &cli_cat, &cli_put,    &cli_cp,     &cli_ls,  &cli_stat, &cli_rm,
    &cli_sign, &cli_why, &cli_status, &cli_doctor, &cli_run, &cli_ref,
};

/* Names that are spoken for: a user who tries one learns that it is no mistake of theirs. */
static const char *const later_commands[] = {
    "warm", "evict", "pin", "unpin", "top", "verify", "bench",
};

static void print_help(const struct cli_command *command)
{
    if (command) {
        printf("usage: larder %s\n\n%s\n%s", command->synopsis, command->help, global_help);
        return;
    }
    printf("usage: larder [OPTION]... COMMAND [ARGUMENT]...\n\n"
           "Objects of any store, through this node's cache.\n\nCommands:\n");
    for (size_t i = 0; i < CLI_LEN(commands); i++)
        printf("  %-8s%s\n", commands[i]->name, commands[i]->summary);
    printf("\n`larder COMMAND --help` tells more of one.\n\n%s", global_help);
}

enum cli_exit cli_usage(const struct cli *c, const char *fmt, ...)
{
    const char *name = c->command ? c->command->name : "";
    char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) == -1)
        text = NULL;
    va_end(ap);
    cli_say("%s (see \"larder%s%s --help\")", text ? text : "bad usage", *name ? " " : "", name);
    free(text);
    return CLI_USAGE;
}

bool cli_duration(const char *text, int *out_ms)
{
    static const struct {
        const char *name;
        long ms;
    } units[] = {
        { "ms", 1 }, { "s", 1000 }, { "m", 60 * 1000 }, { "h", 60 * 60 * 1000 }, { "d", 24L * 60 * 60 * 1000 }
    }; /* "ms" before "m" */
    long total = 0;

    if (!strcmp(text, "0")) {
        *out_ms = 0;
        return true;
    }
    if (!*text)
        return false;
    while (*text) {
        long n = 0;
        size_t u = 0;

        if (*text < '0' || *text > '9')
            return false;
        for (; *text >= '0' && *text <= '9'; text++) {
            n = n * 10 + (*text - '0');
            if (n > INT_MAX)
                return false;
        }
        while (u < CLI_LEN(units) && strncmp(text, units[u].name, strlen(units[u].name)) != 0)
            u++;
        if (u == CLI_LEN(units))
            return false;
        text += strlen(units[u].name);
        total += n * units[u].ms; /* at most 2^31 * 2^27, and total stays below 2^31 */
        if (total > INT_MAX)
            return false;
    }
    *out_ms = (int)total;
    return true;
}

/* Deal with a global option. True: go on. */
static bool take_global(struct cli *c, int opt)
{
    switch (opt) {
    case OPT_CACHE_DIR:
        c->cache_dir = optarg;
        return true;
    case OPT_TIMEOUT:
        if (cli_duration(optarg, &c->timeout_ms))
            return true;
        c->stop = cli_usage(c, "--timeout takes a time such as 500ms, 30s, 2m or 0, not \"%s\"", optarg);
        return false;
    case OPT_JSON:
        c->json = true;
        return true;
    case 'q':
        c->quiet = true;
        c->verbose = false;
        return true;
    case 'v':
        c->verbose = true;
        c->quiet = false;
        return true;
    case OPT_HELP:
        print_help(c->command);
        break;
    case OPT_VERSION:
        puts("larder " LARDER_VERSION);
        break;
    }
    c->stop = CLI_DONE;
    return false;
}

/* Tell why getopt_long() gave `opt`. Its own messages would print the argument's bytes as they are. */
static enum cli_exit option_error(const struct cli *c, int opt, const char *arg, const struct option *known)
{
    if (opt == ':')
        return cli_usage(c, "option \"%s\" needs a value", arg);
    for (; known->name; known++)
        if (optopt && known->val == optopt)
            return cli_usage(c, "option \"--%s\" takes no value", known->name);
    return optopt ? cli_usage(c, "unknown option \"-%c\"", optopt) : cli_usage(c, "unknown option \"%s\"", arg);
}

int cli_getopt(struct cli *c, int argc, char **argv, const char *letters, const struct option *options)
{
    struct option all[CLI_LEN(global_options) + 16] = { 0 };
    bool in_order = !c->command || (letters && *letters == '+');
    char all_letters[32];
    size_t n = 0;
    int opt;

    for (; n < CLI_LEN(global_options); n++)
        all[n] = global_options[n];
    for (; options && options->name && n + 1 < CLI_LEN(all); options++)
        all[n++] = *options;
    /* "+": ends at the first argument, as the first pass does at the command's name. ":": a missing value is told from an
     * unknown option. */
    letters = letters ? letters + (*letters == '+') : "";
    snprintf(all_letters, sizeof all_letters, "%s:qv%s", in_order ? "+" : "", letters);
    opterr = 0;
    while ((opt = getopt_long(argc, argv, all_letters, all, NULL)) != -1) {
        bool global = false;

        if (opt == '?' || opt == ':') {
            c->stop = option_error(c, opt, argv[optind - 1], all);
            return '?';
        }
        for (size_t i = 0; i < CLI_LEN(global_options); i++)
            global |= global_options[i].val == opt;
        if (!global)
            return opt;
        if (!take_global(c, opt))
            return '?';
    }
    return -1;
}

bool cli_open(struct cli *c)
{
    struct larder_err err = { 0 };

    if (larder_open(c->cache_dir, &c->larder, &err) == LARDER_OK)
        return true;
    cli_report(c, "open the cache", NULL, &err);
    return false;
}

uint64_t cli_asks(const struct cli *c)
{
    struct larder_counts n;

    larder_get_counts(c->larder, &n, sizeof n);
    return n.asks;
}

/* A descriptor 0, 1 or 2 that is closed would be taken by the next file or socket, and our output would go there. One
 * opened the wrong way round keeps the place, and its use fails as that of a closed one does. */
static bool hold_standard_fds(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            return false;
    return true;
}

static enum cli_exit run(struct cli *c, int argc, char **argv)
{
    const char *name;

    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (optind == argc)
        return cli_usage(c, "no command is given");
    name = argv[optind];
    for (size_t i = 0; i < CLI_LEN(commands); i++)
        if (!strcmp(commands[i]->name, name))
            c->command = commands[i];
    for (size_t i = 0; i < CLI_LEN(later_commands); i++)
        if (!strcmp(later_commands[i], name))
            return cli_usage(c, "\"%s\" is not in this release", name);
    if (!c->command)
        return cli_usage(c, "there is no command \"%s\"", name);
    argc -= optind;
    argv += optind;
    optind = 0; /* getopt_long() starts anew */
    return c->command->run(c, argc, argv);
}

static void print_counts(struct larder *l)
{
    struct larder_counts n;

    larder_get_counts(l, &n, sizeof n);
    cli_say("hits %ju, asks %ju, kept %ju, retries %ju, torn %ju, damaged %ju", (uintmax_t)n.hits, (uintmax_t)n.asks,
            (uintmax_t)n.kept, (uintmax_t)n.retries, (uintmax_t)n.torn, (uintmax_t)n.damaged);
}

int main(int argc, char **argv)
{
    struct cli c = { .timeout_ms = TIMEOUT_DEFAULT_MS, .child_status = -1 };
    enum cli_exit code;

    if (!hold_standard_fds() || argc < 1)
        return CLI_FAILED;
    code = run(&c, argc, argv);
    if (c.larder && c.verbose)
        print_counts(c.larder);
    larder_close(&c.larder);
    code = cli_worse(code, cli_flush(&c));
    return c.child_status != -1 ? c.child_status : (int)code;
}
