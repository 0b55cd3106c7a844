/* items.c - names and values that the agent gives, one a line or as one JSON object (cli.h). */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

/* Sizes are told by their names. */
static bool is_size(const char *name)
{
    size_t n = strlen(name);

    return strstr(name, "bytes") || (n >= 4 && !strcmp(name + n - 4, "size"));
}

void cli_items_add(void *user, const char *name, const char *text, uint64_t number)
{
    struct cli_items *i = user;
    struct cli_item *more;
    char value[CLI_SIZE_TEXT];

    if (i->json && text) {
        cli_json_set(i->json, name, text);
        return;
    }
    if (i->json) {
        cli_json_set_number(i->json, name, number);
        return;
    }
    more = reallocarray(i->item, i->n + 1, sizeof *more);
    if (!more) {
        i->no_memory = true;
        return;
    }
    if (is_size(name))
        cli_size_text(number, value);
    else
        snprintf(value, sizeof value, "%ju", (uintmax_t)number);
    i->item = more;
    more[i->n++] = (struct cli_item){ cli_printable(name), cli_printable(text ? text : value) };
}

enum cli_exit cli_items_print(struct cli *c, struct cli_items *i)
{
    int width = 0;

    if (i->no_memory) {
        cli_say("out of memory");
        return CLI_FAILED;
    }
    if (i->json)
        return cli_json_print(c, json_incref(i->json));
    for (size_t n = 0; n < i->n; n++)
        if ((int)strlen(i->item[n].name) > width)
            width = (int)strlen(i->item[n].name);
    for (size_t n = 0; n < i->n; n++)
        printf("%-*s  %s\n", width, i->item[n].name, i->item[n].value);
    return cli_flush(c);
}

void cli_items_release(struct cli_items *i)
{
    for (size_t n = 0; n < i->n; n++) {
        free(i->item[n].name);
        free(i->item[n].value);
    }
    free(i->item);
    json_decref(i->json);
    *i = (struct cli_items){ 0 };
}
