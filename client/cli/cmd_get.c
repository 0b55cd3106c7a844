/* cmd_get.c - `larder get`: objects into files. What goes where is decided here, before anything is asked; getter.c
 * does the work. */
#include "client/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JOBS_DEFAULT 4
#define JOBS_MAX     64

struct get_opts {
    const char *output;    /* -o; NULL: none */
    const char *dir;       /* -d, or -o that ends in "/"; NULL: the current directory */
    const char *from_file; /* NULL: none */
    bool recursive;
    uint64_t jobs;
};

static enum cli_exit out_of_memory(void)
{
    cli_say("out of memory");
    return CLI_FAILED;
}

/* Add `uri` to be written to DIR/name; name NULL: the last segment of its key. */
static void add_below(struct cli_get_list *l, const char *uri, const char *dir, const char *name)
{
    const char *slash = dir && *dir && dir[strlen(dir) - 1] != '/' ? "/" : "";
    struct cli_get_item *item;
    char *target = NULL;

    name = name ? name : cli_segment(uri);
    if (name && *name == '/') /* of a list */
        dir = slash = "";
    if (name && asprintf(&target, "%s%s%s", dir ? dir : "", slash, name) == -1) {
        l->no_memory = true;
        return;
    }
    if (cli_get_add(l, uri, target, &item) && !target)
        item->refused = "its key does not end in the name of a file: give one with -o";
    free(target);
}

/* ---- a list of references ---- */

static enum cli_exit bad_line(const struct cli *c, const char *path, size_t n, const char *what)
{
    return cli_usage(c, "line %zu of \"%s\" %s", n, path, what);
}

/* A list may come from a listing, and keys may hold tabs: a file that it names stays below the directory. */
static bool leads_out(const char *path)
{
    if (*path == '/')
        return true;
    for (const char *p = path; *p; p += strspn(p, "/")) {
        size_t n = strcspn(p, "/");

        if (n == 2 && p[0] == '.' && p[1] == '.')
            return true;
        p += n;
    }
    return false;
}

/* One reference a line, and behind a tab its file. */
static enum cli_exit read_list(const struct cli *c, const struct get_opts *o, struct cli_get_list *l)
{
    FILE *f = strcmp(o->from_file, "-") != 0 ? fopen(o->from_file, "re") : stdin;
    enum cli_exit code = CLI_DONE;
    size_t cap = 0, number = 0;
    char *line = NULL;
    ssize_t len;

    if (!f) {
        cli_say("could not open \"%s\": %s", o->from_file, strerror(errno));
        return CLI_FAILED;
    }
    errno = 0;
    while (code == CLI_DONE && (len = getline(&line, &cap, f)) != -1) {
        char *tab;

        number++;
        if (len > 0 && line[len - 1] == '\n')
            line[--len] = '\0';
        tab = memchr(line, '\t', (size_t)len);
        if (strlen(line) != (size_t)len)
            code = bad_line(c, o->from_file, number, "holds a byte 0");
        else if (tab && (tab == line || !tab[1]))
            code = bad_line(c, o->from_file, number, "lacks the reference or the file beside its tab");
        else if (tab && leads_out(tab + 1))
            code = bad_line(c, o->from_file, number, "names a file that is not below the directory");
        if (tab)
            *tab = '\0';
        if (code == CLI_DONE && len > 0)
            add_below(l, line, o->dir, tab ? tab + 1 : NULL);
    }
    if (code == CLI_DONE && ferror(f)) {
        cli_say("could not read \"%s\": %s", o->from_file, strerror(errno));
        code = CLI_FAILED;
    }
    for (size_t i = 0; i < l->n; i++) /* files may be named with folders, and then these are made */
        l->item[i]->make_dirs = true;
    free(line);
    if (f != stdin)
        fclose(f);
    return code;
}

/* ---- all objects below a prefix ---- */

struct below {
    struct cli *cli;
    struct cli_getter *getter;
    size_t n; /* objects found */
    const char *uri;
    const char *prefix; /* of keys: empty, or ends in "/" */
    const char *dir;
};

/* Why `rel`, the end of a key, may not be taken for a path below the directory; NULL: it may. A key that ends in "/" and
 * has no bytes, as some programs make them, stands for a folder: *folder. */
static const char *refuse_path(const char *rel, uint64_t size, bool *folder)
{
    *folder = false;
    for (const char *p = rel;; p++) {
        size_t n = strcspn(p, "/");

        if (n == 0 && p[n] == '\0' && size == 0) {
            *folder = true;
            return NULL;
        }
        if (n == 0)
            return "its key has an empty part, which no path can have";
        if (p[0] == '.' && (n == 1 || (n == 2 && p[1] == '.')))
            return "its key has \".\" or \"..\" for a part: it could lead out of the directory";
        p += n;
        if (*p == '\0')
            return NULL;
    }
}

static enum larder_kind add_listed(void *user, const struct larder_entry *e)
{
    struct below *b = user;
    const char *key = cli_key(e->uri), *rel;
    struct cli_get_item item = { .size = e->size, .refused = "it is not below the prefix", .make_dirs = true };
    bool ok = true;

    if (e->is_prefix)
        return LARDER_OK;
    item.uri = (char *)e->uri;
    if (key && !strncmp(key, b->prefix, strlen(b->prefix))) {
        rel = key + strlen(b->prefix);
        item.refused = refuse_path(rel, e->size, &item.folder);
        if (!item.refused)
            ok = asprintf(&item.target, "%s/%s", b->dir, rel) != -1;
    }
    ok = ok && cli_get_more(b->getter, &item);
    b->n += ok;
    free(item.target);
    return ok ? LARDER_OK : LARDER_NO_MEMORY;
}

/* What is below the prefix, told to the getter as the pages of the listing come. */
static enum cli_exit list_below(struct cli_getter *g, void *user)
{
    struct below *b = user;
    struct larder_err err = { 0 };
    char *prefix = NULL;
    enum larder_kind k;
    enum cli_exit code;

    if (asprintf(&prefix, "%s%s", b->uri, b->uri[0] && b->uri[strlen(b->uri) - 1] == '/' ? "" : "/") == -1)
        return out_of_memory();
    b->getter = g;
    b->prefix = cli_key(prefix) ? cli_key(prefix) : "";
    k = cli_list(b->cli, prefix, NULL, add_listed, b, &err);
    if (k == LARDER_OK && b->n == 0)
        k = cli_fail(&err, LARDER_NOT_FOUND, "there is no object below it");
    code = k ? cli_report(b->cli, "list", prefix, &err) : CLI_DONE;
    free(prefix);
    return code;
}

/* ---- the command ---- */

static enum cli_exit get_to_stdout(struct cli *c, const char *uri)
{
    struct cli_sink to = { .fd = STDOUT_FILENO };
    struct larder_err err = { 0 };
    struct cli_fetched got;

    if (cli_fetch(c, uri, &to, &got, &err))
        return cli_report(c, "get", uri, &err);
    cli_say_fetched(c, uri, &got);
    return CLI_DONE;
}

static enum cli_exit get_listed(struct cli *c, const struct get_opts *o, char **uris, int n, struct cli_get_list *l)
{
    const char *shared;
    enum cli_exit code = CLI_DONE;

    if (o->recursive) {
        struct below b = { .cli = c, .uri = uris[0], .dir = uris[1] };

        return cli_open(c) ? cli_get_all(c, l, (unsigned)o->jobs, list_below, &b) : CLI_FAILED;
    }
    if (o->from_file)
        code = read_list(c, o, l);
    for (int i = 0; i < n; i++) {
        if (o->output)
            cli_get_add(l, uris[i], o->output, NULL);
        else
            add_below(l, uris[i], o->dir, NULL);
    }
    if (code != CLI_DONE)
        return code;
    if (l->no_memory)
        return out_of_memory();
    shared = cli_get_shared(l);
    if (shared)
        return cli_usage(c, "several of the URIs would be written to \"%s\"", shared);
    return c->larder || cli_open(c) ? cli_get_all(c, l, (unsigned)o->jobs, NULL, NULL) : CLI_FAILED;
}

/* Is what was asked for one thing? */
static enum cli_exit check_usage(const struct cli *c, struct get_opts *o, char **argv, int n)
{
    bool to_stdout = o->output && !strcmp(o->output, "-");

    if (o->recursive && (n != 2 || !*argv[1]))
        return cli_usage(c, "get -r needs a prefix and a directory");
    if (o->recursive && (o->output || o->dir || o->from_file))
        return cli_usage(c, "-r takes its directory behind the prefix, and neither -o, -d nor --from-file");
    if (n == 0 && !o->from_file)
        return cli_usage(c, "get needs a URI");
    if (o->output && !*o->output)
        return cli_usage(c, "-o needs the name of a file");
    if (o->output && o->dir)
        return cli_usage(c, "-o and -d both say where to");
    if (o->dir && !*o->dir)
        return cli_usage(c, "-d needs the name of a directory");
    if (to_stdout && c->json)
        return cli_usage(c, "--json and -o - both want standard output");
    if (o->output && o->output[strlen(o->output) - 1] == '/') {
        o->dir = o->output;
        o->output = NULL;
    }
    if (o->output && (n > 1 || o->from_file))
        return cli_usage(c, "several URIs need a directory, as in \"-o %s/\"", to_stdout ? "DIR" : o->output);
    return CLI_DONE;
}

static enum cli_exit get_run(struct cli *c, int argc, char **argv)
{
    enum { FROM_FILE = 512 };
    static const struct option options[] = {
        { "output", required_argument, NULL, 'o' }, { "directory", required_argument, NULL, 'd' },
        { "recursive", no_argument, NULL, 'r' },    { "from-file", required_argument, NULL, FROM_FILE },
        { "jobs", required_argument, NULL, 'j' },   { 0 },
    };
    struct get_opts o = { .jobs = JOBS_DEFAULT };
    struct cli_get_list list = { 0 };
    enum cli_exit code;
    int opt;

    while ((opt = cli_getopt(c, argc, argv, "o:d:rj:", options)) != -1) {
        switch (opt) {
        case 'o':
            o.output = optarg;
            break;
        case 'd':
            o.dir = optarg;
            break;
        case 'r':
            o.recursive = true;
            break;
        case FROM_FILE:
            o.from_file = optarg;
            break;
        case 'j':
            if (!cli_number(optarg, JOBS_MAX, &o.jobs) || o.jobs == 0)
                return cli_usage(c, "--jobs takes a number from 1 to %d, not \"%s\"", JOBS_MAX, optarg);
            break;
        default:
            return c->stop;
        }
    }
    argc -= optind;
    argv += optind;
    code = check_usage(c, &o, argv, argc);
    if (code != CLI_DONE)
        return code;
    if (o.output && !strcmp(o.output, "-"))
        return cli_open(c) ? get_to_stdout(c, argv[0]) : CLI_FAILED;
    code = get_listed(c, &o, argv, argc, &list);
    cli_get_release(&list);
    return code;
}

const struct cli_command cli_get = {
    .name = "get",
    .summary = "objects into files",
    .synopsis = "get [OPTION]... URI... [-o FILE | -d DIR]\n"
                "       larder get [OPTION]... --from-file LIST [URI]... [-d DIR]\n"
                "       larder get [OPTION]... -r PREFIX DIR",
    .help = "Get each object into a file, from the cache when a fresh copy is there. A file\n"
            "appears whole or not at all: a get that fails leaves the old one as it was, and\n"
            "the others go on. With -r all objects below PREFIX (a \"/\" is added where it does\n"
            "not end in one) go to the same paths below DIR; keys with empty parts, \".\" or\n"
            "\"..\" are refused. Two objects for one file are refused before anything is done.\n"
            "\n"
            "Options:\n"
            "  -o, --output FILE     write to FILE; \"-\" is standard output\n"
            "  -d, --directory DIR   write into the directory DIR, each object under the last\n"
            "                        segment of its key (default: the current directory);\n"
            "                        \"-o DIR/\" says the same\n"
            "      --from-file LIST  the objects that LIST (\"-\": standard input) names, one\n"
            "                        reference a line; behind a tab its file, below DIR\n"
            "  -r, --recursive       what is below a prefix\n"
            "  -j, --jobs N          how many are got at a time, 1 to 64 (default 4); small\n"
            "                        ones are got in batches all the same\n"
            "\n"
            "With --json an object a line, in the order asked: uri, file, size, hit.\n"
            "\n"
            "Examples:\n"
            "  larder get s3://models/v3/weights.bin\n"
            "  larder get s3://models/v3/weights.bin -o /scratch/w.bin\n"
            "  larder get --timeout 30s s3://data/a.csv s3://data/b.csv -d inputs\n"
            "  larder get -r s3://data/run-17/ inputs --jobs 8\n"
            "  larder get --timeout 0 s3://data/a.csv || echo not in the cache\n",
    .run = get_run,
};
