/* cmd_status.c - `larder status`: what the agent says of itself. */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

struct item {
    char *name;
    char *value; /* as a person reads it */
};

struct report {
    json_t *json; /* NULL: for people */
    struct item *items;
    size_t n;
    bool no_memory;
};

/* Sizes are told by their names. */
static bool is_size(const char *name)
{
    size_t n = strlen(name);

    return strstr(name, "bytes") || (n >= 4 && !strcmp(name + n - 4, "size"));
}

static void add_item(void *user, const char *name, const char *text, uint64_t number)
{
    struct report *r = user;
    struct item *items;
    char value[CLI_SIZE_TEXT];

    if (r->json && text) {
        cli_json_set(r->json, name, text);
        return;
    }
    if (r->json) {
        cli_json_set_number(r->json, name, number);
        return;
    }
    items = reallocarray(r->items, r->n + 1, sizeof *items);
    if (!items) {
        r->no_memory = true;
        return;
    }
    if (is_size(name))
        cli_size_text(number, value);
    else
        snprintf(value, sizeof value, "%ju", (uintmax_t)number);
    r->items = items;
    items[r->n++] = (struct item){ cli_printable(name), cli_printable(text ? text : value) };
}

static void print_human(const struct report *r)
{
    int width = 0;

    for (size_t i = 0; i < r->n; i++)
        if ((int)strlen(r->items[i].name) > width)
            width = (int)strlen(r->items[i].name);
    for (size_t i = 0; i < r->n; i++)
        printf("%-*s  %s\n", width, r->items[i].name, r->items[i].value);
}

static enum cli_exit show(struct cli *c)
{
    struct report r = { .json = c->json ? json_object() : NULL };
    struct cli_progress *progress = cli_progress_start(c, "status");
    struct larder_err err = { 0 };
    enum cli_exit code;
    enum larder_kind k = larder_status(c->larder, c->timeout_ms, add_item, &r, &err);

    cli_progress_stop(&progress);
    if (k == LARDER_OK && r.no_memory)
        k = cli_fail(&err, LARDER_NO_MEMORY, "out of memory");
    if (k) {
        code = cli_report(c, "get the agent's status", NULL, &err);
        json_decref(r.json);
    } else if (c->json) {
        code = cli_json_print(c, r.json);
    } else {
        print_human(&r);
        code = cli_flush(c);
    }
    for (size_t i = 0; i < r.n; i++) {
        free(r.items[i].name);
        free(r.items[i].value);
    }
    free(r.items);
    return code;
}

static enum cli_exit status_run(struct cli *c, int argc, char **argv)
{
    if (cli_getopt(c, argc, argv, NULL, NULL) == '?')
        return c->stop;
    if (optind != argc)
        return cli_usage(c, "status takes no argument");
    return cli_open(c) ? show(c) : CLI_FAILED;
}

const struct cli_command cli_status = {
    .name = "status",
    .summary = "what the agent says of itself",
    .synopsis = "status [OPTION]...",
    .help = "Show the agent's own account of its cache and its stores, an item a line; sizes in\n"
            "units of 1024. With --json one object of the same names, sizes in bytes.\n"
            "\n"
            "Examples:\n"
            "  larder status\n"
            "  larder status --json --timeout 2s\n",
    .run = status_run,
};
