/* cli.h - what the commands of `larder` share.
 *
 * One command, one file (cmd_*.c): a struct cli_command with its help and its run(). Helpers stand beside: out.c (text,
 * JSON, errors), items.c (what the agent says), list.c (listings), fetch.c (an object into a descriptor), getter.c (many
 * objects into files), send.c and putter.c (the other way), output.c (files), progress.c.
 * The commands use client/larder.h alone of larder's own code; `doctor` looks at the cache directory itself, too
 * (common/layout.h). One thread, but for the one that draws the progress bar and those of getter.c and putter.c.
 *
 * Rules that every command keeps:
 *  1. Usage is checked whole before anything is done. A reference that turns out malformed is no usage error.
 *  2. Several URIs: all are tried, the exit status is the worst.
 *  3. People read stderr (one line an error, nothing unprintable); programs read stdout. With --json stdout carries one
 *     JSON object a line for each URI: its result, or {"error": {"kind", "message", "http", "uri"}}. */
#ifndef CLI_H
#define CLI_H

#include "client/larder.h"

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#define CLI_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define CLI_LEN(a)            (sizeof(a) / sizeof((a)[0]))

enum cli_exit { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_NOT_FOUND = 3 };

struct cli {
    const char *cache_dir; /* NULL: larder_open() decides */
    int timeout_ms;        /* for each URI */
    bool json, quiet, verbose;
    const struct cli_command *command; /* NULL until it is known */
    enum cli_exit stop;                /* what to exit with after cli_getopt() gave '?' */
    struct larder *larder;             /* NULL until cli_open() */
    int stdout_errno;                  /* standard output failed: nothing more is written to it, or tried for it */
    int child_status;                  /* of the program that `run` ran: what to exit with; -1: none ran */
};

struct cli_command {
    const char *name;
    const char *summary;  /* one line, for `larder --help` */
    const char *synopsis; /* behind "usage: larder " */
    const char *help;     /* what it does, its options, examples */
    enum cli_exit (*run)(struct cli *c, int argc,
                         char **argv); /* argv[0] is no argument; ends with cli_getopt() read */
};

extern const struct cli_command cli_get, cli_cat, cli_put, cli_cp, cli_ls, cli_stat, cli_rm, cli_sign, cli_why,
    cli_status, cli_doctor, cli_run, cli_ref;

/* ---- main.c ---- */

/* getopt_long() for a command: `options` and `letters` are its own (both may be NULL); the global options are known
 * everywhere and dealt with here. `letters` that begin with "+": options end at the first argument. Returns an option of
 * the command; -1: all read, arguments begin at optind; '?': help was given or an error told, return c->stop. */
int cli_getopt(struct cli *c, int argc, char **argv, const char *letters, const struct option *options);

/* Say what is wrong with the command line, on stderr; returns CLI_USAGE. */
enum cli_exit cli_usage(const struct cli *c, const char *fmt, ...) CLI_PRINTF(2, 3);

/* Requests that this process has sent to the agent: a call that leaves it as it was, was a hit. */
uint64_t cli_asks(const struct cli *c);

/* Open the cache for this process: c->larder. False: the failure has been reported. */
bool cli_open(struct cli *c);

/* ---- out.c ---- */

/* `text` fit for a terminal and for one line: control characters, malformed UTF-8 and characters that turn the
 * direction of text become \xNN. Owned by the caller, ended by free(); never NULL: without memory the program ends. */
char *cli_printable(const char *text);

/* One line on stderr behind "larder: ", made printable as a whole. */
void cli_say(const char *fmt, ...) CLI_PRINTF(1, 2);

/* The status that a kind of failure exits with, and the worse of two: failed before not found before done. */
enum cli_exit cli_exit_of(enum larder_kind kind);
enum cli_exit cli_worse(enum cli_exit a, enum cli_exit b);

/* Fill *err as the library does; cli_fail_sys() adds errno and its text. Return `kind`. */
enum larder_kind cli_fail(struct larder_err *err, enum larder_kind kind, const char *fmt, ...) CLI_PRINTF(3, 4);
enum larder_kind cli_fail_sys(struct larder_err *err, enum larder_kind kind, const char *fmt, ...) CLI_PRINTF(3, 4);

/* Report that `doing` ("get") failed for `uri` (NULL: for none): stderr, and stdout with --json. A reader that closed
 * our standard output is no failure to tell anybody. Returns the exit status. */
enum cli_exit cli_report(struct cli *c, const char *doing, const char *uri, const struct larder_err *err);

/* Set obj[name] to `text`. JSON holds Unicode only: malformed bytes become U+FFFD, and obj[name_hex] has them all. */
void cli_json_set(json_t *obj, const char *name, const char *text);
void cli_json_set_number(json_t *obj, const char *name, uint64_t number);

/* Print `obj` (taken; NULL: no memory) as one line on stdout, and flush; cli_json_write() does not flush. Returns the exit
 * status. */
enum cli_exit cli_json_print(struct cli *c, json_t *obj);
void cli_json_write(struct cli *c, json_t *obj);

/* Print `text` as a line on stdout: on a terminal printable, elsewhere its bytes as they are. */
void cli_put_name(const char *text);

/* Flush stdout; a failure is told once and kept in c->stdout_errno. Returns the exit status. */
enum cli_exit cli_flush(struct cli *c);

/* "17 B", "1.5 MiB": binary units, into `out`, which is returned. */
#define CLI_SIZE_TEXT 32
const char *cli_size_text(uint64_t size, char out[CLI_SIZE_TEXT]);

/* RFC 3339; NULL: not known (INT64_MIN), or no time at all. */
#define CLI_TIME_TEXT 40
const char *cli_time_text(int64_t seconds, char out[CLI_TIME_TEXT]);

/* Milliseconds of a steady clock, and what is left of c->timeout_ms since then: 1 at least, as 0 means "never ask". */
double cli_now_ms(void);
int cli_left_ms(const struct cli *c, double start_ms);

/* "1m30s", "500ms", "7d", "0". False: not that, or more than an int of milliseconds. In main.c. */
bool cli_duration(const char *text, int *out_ms);

/* A decimal number and nothing else. False: it is not that, or larger than `max`. */
bool cli_number(const char *text, uint64_t max, uint64_t *out);

/* ---- references: the library says what they are; here only their ends count ---- */

bool cli_is_uri(const char *text); /* has "://" */

/* The key, behind the slash after the container; NULL: there is no such slash. Borrows from `uri`. */
const char *cli_key(const char *uri);

/* The last segment of the key, or of a path; NULL: it has none that could name a file. Borrows from `uri`. */
const char *cli_segment(const char *uri);

/* The listing of `uri` is that of a folder: its key is empty or ends in "/". */
bool cli_is_folder(const char *uri);

/* ---- items.c: what larder_status() and larder_why() give ---- */

struct cli_item {
    char *name, *value; /* printable */
};

struct cli_items {
    json_t *json; /* NULL: for people, then `item` */
    struct cli_item *item;
    size_t n;
    bool no_memory;
};

larder_status_fn cli_items_add; /* `user` is the struct cli_items */
enum cli_exit cli_items_print(struct cli *c, struct cli_items *i);
void cli_items_release(struct cli_items *i);

/* ---- list.c ---- */

/* List all of `prefix`, page by page: c->timeout_ms is for each page, and standard output is flushed behind each. Ends when
 * standard output has failed (IO). Other kinds as larder_list(). */
enum larder_kind cli_list(struct cli *c, const char *prefix, const char *delimiter, larder_list_fn *each, void *user,
                          struct larder_err *err);

/* ---- progress.c: a line on a terminal once something has taken a second; nothing anywhere else ---- */

struct cli_progress;

/* Begin; `what` is borrowed and shown by its last segment. NULL when there is nothing to draw on: all of these take it.
 * Any thread may call those that tell how far it is. */
struct cli_progress *cli_progress_start(const struct cli *c, const char *what);
/* Of one object: so many bytes. total 0: not known. */
void cli_progress_set(struct cli_progress *p, uint64_t done, uint64_t total);
/* Of many: so many objects, and bytes in them (0: not known); then what is added to them. */
void cli_progress_expect(struct cli_progress *p, uint64_t objects, uint64_t bytes);
void cli_progress_add(struct cli_progress *p, uint64_t objects, uint64_t bytes);
/* In between anything may be written to stderr: the line is away. */
void cli_progress_pause(struct cli_progress *p);
void cli_progress_resume(struct cli_progress *p);
/* Take the line away and end; *p becomes NULL. To be called before anything else is written to stderr. */
void cli_progress_stop(struct cli_progress **p);

/* ---- fetch.c ---- */

struct cli_fetched {
    uint64_t size; /* bytes written */
    bool hit;      /* without asking the agent */
    double ms;
};

struct cli_sink {
    int fd;
    const char *name;              /* of the file; NULL: standard output */
    struct cli_progress *progress; /* of many objects, to be added to; NULL: a line of its own */
};

/* Write the object's bytes, whatever its size. After a failure some may be written. IO: the sink failed (c->stdout_errno
 * is set for standard output). Other kinds as larder_get(), larder_stream(). Any thread, but for standard output. */
enum larder_kind cli_fetch(struct cli *c, const char *uri, const struct cli_sink *to, struct cli_fetched *out,
                           struct larder_err *err);

/* The same for a view that is there. */
enum larder_kind cli_write_object(struct cli *c, const struct larder_object *o, const struct cli_sink *to,
                                  struct larder_err *err);

/* The same for the bytes [offset, offset + length) of the object, cut at its end; length 0: to the end.
 * PRECONDITION: the object changed in between. */
enum larder_kind cli_fetch_range(struct cli *c, const char *uri, uint64_t offset, uint64_t length,
                                 const struct cli_sink *to, struct cli_fetched *out, struct larder_err *err);

/* With -v: say that it was got. */
void cli_say_fetched(const struct cli *c, const char *uri, const struct cli_fetched *got);

/* ---- getter.c: many objects into files, in parallel ---- */

#define CLI_SIZE_UNKNOWN UINT64_MAX

struct cli_get_item {
    char *uri;           /* owned */
    char *target;        /* owned; NULL: `refused`, and nothing is asked */
    uint64_t size;       /* as a listing says; CLI_SIZE_UNKNOWN */
    const char *refused; /* why not, static */
    bool make_dirs;      /* the folders that `target` is in */
    bool folder;         /* `target` is a folder to be made */
    /* results, the getter's */
    bool done;
    enum larder_kind kind;
    struct larder_err *err; /* NULL: none */
    struct cli_fetched got;
};

struct cli_get_list {
    struct cli_get_item **item; /* each owned; they stay where they are while the list grows */
    size_t n, cap;
    bool no_memory; /* an item could not be added */
};

/* Add an item; `uri` and `target` (NULL allowed) are copied. False, and l->no_memory: it could not be. */
bool cli_get_add(struct cli_get_list *l, const char *uri, const char *target, struct cli_get_item **out);
void cli_get_release(struct cli_get_list *l);

/* A target that two items have; NULL: none. Borrowed. */
const char *cli_get_shared(const struct cli_get_list *l);

/* Get all, by at most `jobs` threads; each is reported in the order of the list. Returns the exit status.
 * `more`, where it is not NULL, goes on adding to the list meanwhile, on the thread of the caller and with cli_get_more():
 * what it has added is got while it looks for more. Its exit status counts, too. */
struct cli_getter;
typedef enum cli_exit cli_get_more_fn(struct cli_getter *g, void *user);
enum cli_exit cli_get_all(struct cli *c, struct cli_get_list *l, unsigned jobs, cli_get_more_fn *more, void *user);
/* As cli_get_add(); the item is `item`, whose texts are copied. */
bool cli_get_more(struct cli_getter *g, const struct cli_get_item *item);

/* ---- send.c ---- */

/* Write the file `path` ("-": standard input) as an object, whatever its size; *size: what was written.
 *   progress  of many objects, to be added to; NULL: a line of its own
 * IO: it cannot be read. PRECONDITION: it changed meanwhile, too. Other kinds as larder_put(). Any thread. */
enum larder_kind cli_send(struct cli *c, const char *path, const char *uri, const struct larder_put_opts *opts,
                          struct cli_progress *progress, uint64_t *size, struct larder_err *err);

/* ---- putter.c: many files into objects, in parallel ---- */

/* Put all files below `dir` to the same paths below `prefix`, by at most `jobs` threads; each is reported in the order of
 * their names. Returns the exit status. */
enum cli_exit cli_put_below(struct cli *c, const char *dir, const char *prefix, const struct larder_put_opts *opts,
                            unsigned jobs);

/* ---- output.c: a file that appears whole or not at all ---- */

struct cli_output {
    int fd;       /* write here; -1: not open */
    int dirfd;    /* of the file's directory; -1: `fd` is a device, pipe or socket, written as it is */
    char *path;   /* owned; of the file itself, not of a link to it */
    char tmp[32]; /* name in dirfd; "": the file has no name yet */
};
#define CLI_OUTPUT_NONE ((struct cli_output){ .fd = -1, .dirfd = -1 })

/* Begin to write `path`, borrowed. A file that is there stays as it is until cli_output_commit(). IO, INVALID (a
 * directory). */
enum larder_kind cli_output_open(const char *path, struct cli_output *out, struct larder_err *err);
/* Put the file in place. IO: the old one, if any, is untouched. */
enum larder_kind cli_output_commit(struct cli_output *o, struct larder_err *err);
/* Ends it; what was not committed is gone. */
void cli_output_release(struct cli_output *o);

#endif
