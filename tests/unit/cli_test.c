/* cli_test.c - the program `larder`, linked with tests/support/fake_larder.c, as its users meet it: exit status,
 * standard output, standard error, files. Each test has a directory of its own: work/ (where larder runs) and store/.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/layout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/capability.h>

#ifndef LDR_TEST_CLI_FAKE
#define LDR_TEST_CLI_FAKE "build/tests/larder-fake"
#endif

#define MIB ((size_t)1 << 20)

static char dir[PATH_MAX];     /* of this test */
static char program[PATH_MAX]; /* absolute */

/* How the next run differs from a plain one; reset by it. */
static struct {
    const char *in; /* standard input; NULL: empty */
    size_t in_len;
    int out_fd; /* standard output; 0: a file that is read back */
    int err_fd; /* likewise; 0: a file */
    bool ignore_sigpipe;
    bool close_stdout;
    bool obey_modes;  /* root, too, may not write where the mode says so */
    rlim_t file_size; /* 0: no limit */
} how;

/* What the last run gave. */
static char *out, *err;
static size_t out_len;
static json_t *parsed; /* of it, until the end */

static char *at(const char *fmt, const char *name)
{
    static char path[PATH_MAX * 2];

    snprintf(path, sizeof path, fmt, dir, name);
    return path;
}

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    char *p;

    if (!f)
        return NULL;
    cr_assert(fstat(fileno(f), &st) == 0);
    p = malloc((size_t)st.st_size + 1);
    *len = fread(p, 1, (size_t)st.st_size, f);
    p[*len] = '\0';
    fclose(f);
    return p;
}

static void write_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb");

    cr_assert(f && fwrite(data, 1, len, f) == len && fclose(f) == 0, "%s", path);
}

static void child(const char *const argv[])
{
    int in_fd = open(at("%s/%s", "in"), O_RDONLY);
    int out_fd = how.out_fd ? how.out_fd : open(at("%s/%s", "out"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int err_fd = how.err_fd ? how.err_fd : open(at("%s/%s", "err"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

    dup2(in_fd, 0);
    dup2(out_fd, 1);
    dup2(err_fd, 2);
    if (how.close_stdout)
        close(1);
    if (how.file_size) {
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){ how.file_size, how.file_size });
        signal(SIGXFSZ, SIG_IGN);
    }
    if (how.obey_modes && geteuid() == 0) {
        prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0);
        prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0);
    }
    signal(SIGPIPE, how.ignore_sigpipe ? SIG_IGN : SIG_DFL);
    umask(022);
    if (chdir(at("%s/%s", "work")) == 0)
        execv(program, (char *const *)argv);
    _exit(127);
}

static pid_t start(const char *const argv[])
{
    pid_t pid;

    write_file(at("%s/%s", "in"), how.in ? how.in : "", how.in ? how.in_len ? how.in_len : strlen(how.in) : 0);
    pid = fork();
    cr_assert(pid != -1);
    if (pid == 0)
        child(argv);
    return pid;
}

/* The exit status; 256 + signal for one that was killed. */
static int finish(pid_t pid)
{
    size_t err_len = 0;
    int status;

    cr_assert(waitpid(pid, &status, 0) == pid);
    free(out);
    free(err);
    out = how.out_fd ? NULL : read_file(at("%s/%s", "out"), &out_len);
    err = how.err_fd ? NULL : read_file(at("%s/%s", "err"), &err_len);
    memset(&how, 0, sizeof how);
    return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int run(const char *const argv[])
{
    return finish(start(argv));
}

#define ARGV(...)   ((const char *const[]){ "larder", __VA_ARGS__, NULL })
#define LARDER(...) run(ARGV(__VA_ARGS__))

static void put(const char *uri, const char *bytes)
{
    how.in = bytes;
    cr_assert(eq(int, LARDER("put", "-", uri), 0), "%s", err);
}

static bool has_text(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

static bool is_one_line(const char *text)
{
    size_t n = strlen(text);

    return n > 0 && strchr(text, '\n') == text + n - 1;
}

/* The file `name` in work/ has these bytes. */
static bool has(const char *name, const char *bytes)
{
    size_t len = 0;
    char *got = read_file(at("%s/work/%s", name), &len);
    bool same = got && len == strlen(bytes) && !memcmp(got, bytes, len);

    free(got);
    return same;
}

static int count_files(const char *where)
{
    DIR *d = opendir(at("%s/%s", where));
    int n = -2; /* . and .. */

    cr_assert(d != NULL);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* Line `n` of standard output as JSON. */
static json_t *json_line(int n)
{
    char *line = out;
    json_t *v;

    for (; n > 0 && line; n--)
        line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL;
    cr_assert(line && strchr(line, '\n'), "not so many lines: %s", out);
    v = json_loadb(line, (size_t)(strchr(line, '\n') - line), 0, NULL);
    cr_assert(v && json_is_object(v), "no JSON object: %s", line);
    parsed = parsed ? parsed : json_array();
    json_array_append_new(parsed, v);
    return v;
}

static const char *text_of(json_t *obj, const char *name)
{
    const char *s = json_string_value(json_object_get(obj, name));

    return s ? s : "(none)";
}

/* The `kind` of an error on line 0. */
static const char *error_kind(void)
{
    return text_of(json_object_get(json_line(0), "error"), "kind");
}

static bool says_true(json_t *obj, const char *name)
{
    return json_is_true(json_object_get(obj, name));
}

static bool says_false(json_t *obj, const char *name)
{
    return json_is_false(json_object_get(obj, name));
}

static bool says_null(json_t *obj, const char *name)
{
    return json_is_null(json_object_get(obj, name));
}

static int64_t number_of(json_t *obj, const char *name)
{
    return json_is_integer(json_object_get(obj, name)) ? json_integer_value(json_object_get(obj, name)) : -1;
}

static void make_dir(void)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof dir, "%s/larder-cli-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    cr_assert(mkdtemp(dir) != NULL);
    unsetenv("LARDER_CACHE_DIR");
    unsetenv("LARDER_ENDPOINT");
    cr_assert(mkdir(at("%s/%s", "work"), 0755) == 0 && mkdir(at("%s/%s", "store"), 0755) == 0);
    setenv("FAKE_LARDER_DIR", at("%s/%s", "store"), 1);
    setenv("TERM", "xterm", 1);
    cr_assert(realpath(LDR_TEST_CLI_FAKE, program) != NULL, "%s is not built", LDR_TEST_CLI_FAKE);
}

static void remove_dir(void)
{
    char *command = NULL;

    cr_assert(asprintf(&command, "rm -rf '%s'", dir) != -1 && system(command) == 0);
    free(command);
    json_decref(parsed);
    free(out);
    free(err);
}

/* What the fake was asked since the last look. */
static char *calls(void)
{
    static char *text;
    size_t len;

    free(text);
    text = read_file(at("%s/%s", "store/calls"), &len);
    unlink(at("%s/%s", "store/calls"));
    return text ? text : (text = strdup(""));
}

TestSuite(cli, .init = make_dir, .fini = remove_dir, .timeout = 30);

/* ---- usage ---- */

Test(cli, help_names_every_command_of_this_release_and_no_other)
{
    static const char *const names[] = { "get",  "cat", "put",    "cp",     "ls",  "stat", "rm",
                                         "sign", "why", "status", "doctor", "run", "ref" };

    cr_assert(eq(int, LARDER("--help"), 0));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char line[32];

        snprintf(line, sizeof line, "\n  %-8s", names[i]);
        cr_expect(strstr(out, line) != NULL, "%s", names[i]);
    }
    cr_expect(not(has_text(out, "evict") || has_text(out, "bench") || has_text(out, "pin")));
    cr_expect(eq(str, err, ""));
}

Test(cli, every_command_explains_itself)
{
    static const char *const names[] = { "get",  "cat", "put",    "cp",     "ls",  "stat", "rm",
                                         "sign", "why", "status", "doctor", "run", "ref" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        cr_expect(eq(int, LARDER(names[i], "--help"), 0));
        cr_expect(strstr(out, "usage: larder ") == out && strstr(out, names[i]) == out + 14, "%s", out);
        cr_expect(has_text(out, "Examples:") && has_text(out, "--timeout") && has_text(out, "Exit status:"), "%s", out);
        cr_expect(eq(str, err, ""));
    }
}

Test(cli, the_version_is_told)
{
    cr_assert(eq(int, LARDER("--version"), 0));
    cr_expect(strncmp(out, "larder ", 7) == 0 && out[7] >= '0' && out[7] <= '9', "%s", out);
}

Test(cli, wrong_usage_is_status_2_and_one_line_on_stderr)
{
    static const char *const bad[][6] = {
        { "larder", NULL },
        { "larder", "frobnicate", NULL },
        { "larder", "--nonsense", NULL },
        { "larder", "get", NULL },
        { "larder", "get", "-Z", "s3://b/k", NULL },
        { "larder", "get", "s3://b/k", "-o", NULL },
        { "larder", "get", "s3://b/k", "-o", "", NULL },
        { "larder", "get", "s3://b/k", "s3://b/l", "-ofile", NULL },
        { "larder", "get", "s3://b/k", "s3://c/k", NULL },
        { "larder", "get", "--json", "s3://b/k", "-o-", NULL },
        { "larder", "get", "s3://b/k", "-ofile", "-dd", NULL },
        { "larder", "get", "s3://b/k", "-d", "", NULL },
        { "larder", "get", "s3://b/k", "--jobs", "0", NULL },
        { "larder", "get", "s3://b/k", "--jobs", "65", NULL },
        { "larder", "get", "s3://b/k", "--jobs", "2x", NULL },
        { "larder", "get", "-r", "s3://b/k", NULL },
        { "larder", "get", "-r", "s3://b/k", "", NULL },
        { "larder", "get", "-r", "s3://b/k", "d", "-of" },
        { "larder", "get", "--from-file=-", "-ofile", NULL },
        { "larder", "cat", NULL },
        { "larder", "cat", "--json", "s3://b/k", NULL },
        { "larder", "cat", "s3://b/k", "--offset", "-1", NULL },
        { "larder", "cat", "s3://b/k", "--offset", "9223372036854775808", NULL },
        { "larder", "cat", "s3://b/k", "--length", "0", NULL },
        { "larder", "cat", "s3://b/k", "--length", "", NULL },
        { "larder", "cp", "s3://b/k", NULL },
        { "larder", "cp", "s3://b/k", "", NULL },
        { "larder", "cp", "a", "b", NULL },
        { "larder", "cp", "-", "b", NULL },
        { "larder", "cp", "-", "s3://b/d/", NULL },
        { "larder", "cp", "s3://b/d/", ".", NULL },
        { "larder", "cp", "s3://b/k", "-", "--json", NULL },
        { "larder", "ls", NULL },
        { "larder", "ls", "--nonsense", "s3://b/", NULL },
        { "larder", "why", NULL },
        { "larder", "why", "s3://b/k", "s3://b/l", NULL },
        { "larder", "doctor", "now", NULL },
        { "larder", "run", NULL },
        { "larder", "run", "--keep", "--", NULL },
        { "larder", "run", "--json", "true", NULL },
        { "larder", "run", "--cache-dir", "d", "true", NULL },
        { "larder", "put", "f", NULL },
        { "larder", "put", "f", "s3://b/k", "more", NULL },
        { "larder", "put", "f", "s3://b/k", "--meta", "novalue" },
        { "larder", "put", "f", "s3://b/k", "--meta", "=v" },
        { "larder", "put", "f", "s3://b/k", "--meta", "a b=v" },
        { "larder", "put", "f", "s3://b/k", "--create-only=1", NULL },
        { "larder", "put", "f", "s3://b/k", "--if-match", "" },
        { "larder", "put", "f", "s3://b/k", "-j", "4" },
        { "larder", "put", "-r", "d", NULL },
        { "larder", "put", "-r", "d", "e", NULL },
        { "larder", "put", "-r", "", "s3://b/k", NULL },
        { "larder", "put", "-r", "d", "s3://b/k", "-j0" },
        { "larder", "put", "-r", "d", "s3://b/k", "--if-match=e" },
        { "larder", "put", "f", "s3://b/k", "--if-match=e", "--if-none-match" },
        { "larder", "stat", NULL },
        { "larder", "rm", NULL },
        { "larder", "rm", "-r", NULL },
        { "larder", "rm", "-r", "d", NULL },
        { "larder", "rm", "-r", "s3://b", NULL },
        { "larder", "rm", "-r", "s3://b/", NULL },
        { "larder", "rm", "-r", "s3://b//", NULL },
        { "larder", "rm", "-r", "--all", "s3://b/k", NULL },
        { "larder", "rm", "--all", "s3://b/", NULL },
        { "larder", "rm", "-r", "s3://b/k", "s3://b/l", NULL },
        { "larder", "sign", NULL },
        { "larder", "sign", "s3://b/k", "s3://b/l", NULL },
        { "larder", "sign", "s3://b/k", "--expires", "0" },
        { "larder", "sign", "s3://b/k", "--expires", "1500ms" },
        { "larder", "sign", "s3://b/k", "--expires", "soon" },
        { "larder", "sign", "s3://b/k", "--content-type", "a/b" },
        { "larder", "sign", "s3://b/k", "--content-md5", "x" },
        { "larder", "status", "now", NULL },
        { "larder", "ref", NULL },
        { "larder", "ref", "join", "s3://b", NULL },
        { "larder", "ref", "split", "s3://b/k", "more", NULL },
        { "larder", "status", "--cache-dir", NULL },
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *argv[7] = { 0 };

        memcpy(argv, bad[i], sizeof bad[i]);
        cr_expect(eq(int, run(argv), 2), "row %zu: %s", i, err);
        cr_expect(eq(str, out, ""), "row %zu", i);
        cr_expect(strncmp(err, "larder: ", 8) == 0 && is_one_line(err), "row %zu: %s", i, err);
    }
    cr_expect(eq(int, count_files("work"), 0));
}

Test(cli, a_command_of_a_later_release_says_so)
{
    static const char *const names[] = { "warm", "evict", "pin", "unpin", "top", "verify", "bench" };

    for (size_t i = 0; i < 7; i++) {
        cr_expect(eq(int, LARDER(names[i], "s3://b/k"), 2));
        cr_expect(has_text(err, "not in this release"), "%s", err);
    }
}

Test(cli, timeouts_are_understood_or_refused)
{
    static const struct {
        const char *text;
        int ms; /* -1: refused */
    } rows[] = {
        { "0", 0 },
        { "0s", 0 },
        { "500ms", 500 },
        { "30s", 30000 },
        { "2m", 120000 },
        { "1h", 3600000 },
        { "1m30s", 90000 },
        { "30", -1 },
        { "", -1 },
        { "-1s", -1 },
        { "1.5s", -1 },
        { "s", -1 },
        { "5 s", -1 },
        { "600h", -1 },
        { "99999999999999999999s", -1 },
        { "5d", 432000000 },
        { "25d", -1 },
        { "5w", -1 },
        { "596h30m", 2147400000 },
        { "2147483647ms1ms", -1 },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int code = LARDER("--json", "--timeout", rows[i].text, "status");

        cr_expect(eq(int, code, rows[i].ms == -1 ? 2 : 0), "%s", rows[i].text);
        if (code == 0)
            cr_expect(eq(i64, number_of(json_line(0), "timeout_ms"), rows[i].ms), "%s", rows[i].text);
    }
    cr_assert(eq(int, LARDER("status", "--json"), 0));
    cr_expect(eq(i64, number_of(json_line(0), "timeout_ms"), 300000));
}

Test(cli, global_options_stand_before_or_behind_the_command)
{
    cr_assert(eq(int, LARDER("--cache-dir", "/x", "--json", "status"), 0));
    cr_expect(eq(str, (char *)text_of(json_line(0), "cache_dir"), "/x"));
    cr_assert(eq(int, LARDER("status", "--json", "--cache-dir=/y"), 0));
    cr_expect(eq(str, (char *)text_of(json_line(0), "cache_dir"), "/y"));
}

/* ---- put, get, cat ---- */

Test(cli, what_was_put_is_got)
{
    write_file(at("%s/work/%s", "f"), "from a file", 11);
    cr_assert(eq(int, LARDER("put", "f", "s3://b/d/name.txt"), 0), "%s", err);
    cr_expect(eq(str, out, ""));
    cr_expect(eq(str, err, ""));
    cr_assert(eq(int, LARDER("get", "s3://b/d/name.txt"), 0), "%s", err);
    cr_expect(has("name.txt", "from a file"));
    cr_expect(eq(str, out, ""));
    cr_expect(eq(str, err, ""));
    cr_assert(eq(int, LARDER("cat", "s3://b/d/name.txt", "s3://b/d/name.txt"), 0));
    cr_expect(eq(str, out, "from a filefrom a file"));
}

Test(cli, standard_input_is_put_and_standard_output_got)
{
    how.in = "a\0b";
    how.in_len = 3;
    cr_assert(eq(int, LARDER("put", "-", "s3://b/k"), 0), "%s", err);
    cr_assert(eq(int, LARDER("get", "s3://b/k", "-o", "-"), 0), "%s", err);
    cr_expect(out_len == 3 && memcmp(out, "a\0b", 3) == 0);
    cr_expect(eq(int, count_files("work"), 0));
}

Test(cli, an_empty_object_is_an_empty_file)
{
    put("s3://b/k", "");
    cr_assert(eq(int, LARDER("get", "s3://b/k"), 0), "%s", err);
    cr_expect(has("k", ""));
}

/* The object's bytes are those of `p`. */
static bool is_object(const char *uri, const char *p, size_t n)
{
    return LARDER("cat", uri) == 0 && out_len == n && !memcmp(out, p, n);
}

Test(cli, what_is_larger_than_8_mib_is_put_in_parts)
{
    char *big = malloc(9 * MIB);

    for (size_t i = 0; i < 9 * MIB; i++)
        big[i] = (char)(i * 7 + (i >> 9));
    for (int i = 0; i < 3; i++) {
        size_t n = i == 0 ? 8 * MIB : i == 1 ? 8 * MIB + 1 : 9 * MIB;
        char want[32];

        calls();
        write_file(at("%s/work/%s", "f"), big, n);
        cr_assert(eq(int, LARDER("put", "--json", "f", "s3://b/k"), 0), "%s", err);
        cr_expect(eq(i64, number_of(json_line(0), "size"), (int64_t)n));
        snprintf(want, sizeof want, "writer %zu\n", n);
        cr_expect(eq(str, calls(), i == 0 ? (char *)"" : want));
        cr_expect(is_object("s3://b/k", big, n));
    }
    calls();
    how.in = big;
    how.in_len = 8 * MIB;
    cr_assert(eq(int, LARDER("cp", "-", "s3://b/l"), 0), "%s", err);
    cr_expect(eq(str, calls(), ""));
    cr_expect(is_object("s3://b/l", big, 8 * MIB));
    free(big);
}

/* Standard input from a pipe: nobody knows how much will come. */
static int put_from_pipe(const char *p, size_t n, const char *uri)
{
    char command[2 * PATH_MAX + 100];
    FILE *f;
    int status;

    snprintf(command, sizeof command, "cat 2>/dev/null | '%s' put - %s 2>'%s/err'", program, uri, dir);
    signal(SIGPIPE, SIG_IGN); /* a put that fails does not read to the end */
    f = popen(command, "w");
    cr_assert(f != NULL);
    fwrite(p, 1, n, f);
    status = pclose(f);
    return WEXITSTATUS(status);
}

Test(cli, a_pipe_of_any_length_is_put)
{
    char *big = malloc(9 * MIB);

    for (size_t i = 0; i < 9 * MIB; i++)
        big[i] = (char)(i * 7 + (i >> 9));
    calls();
    cr_expect(eq(int, put_from_pipe(big, 0, "s3://b/k"), 0));
    cr_expect(is_object("s3://b/k", big, 0));
    cr_expect(eq(int, put_from_pipe(big, 8 * MIB, "s3://b/k"), 0));
    cr_expect(is_object("s3://b/k", big, 8 * MIB));
    cr_expect(eq(str, calls(), ""), "as one request");
    cr_expect(eq(int, put_from_pipe(big, 8 * MIB + 1, "s3://b/k"), 0));
    cr_expect(eq(str, calls(), "writer -\n"));
    cr_expect(is_object("s3://b/k", big, 8 * MIB + 1));
    cr_expect(eq(int, put_from_pipe(big, 9 * MIB, "s3://b/full-8500000"), 1));
    cr_expect(eq(int, LARDER("stat", "s3://b/full-8500000"), 3), "of what failed nothing is left");
    free(big);
}

Test(cli, a_put_that_fails_on_its_way_tells_why)
{
    char *big = calloc(1, 9 * MIB);

    write_file(at("%s/work/%s", "f"), big, 9 * MIB);
    cr_expect(eq(int, LARDER("put", "--json", "f", "s3://b/full-1000000"), 1));
    cr_expect(eq(str, (char *)error_kind(), "unavailable"));
    cr_expect(eq(str, err, "larder: could not put \"s3://b/full-1000000\": the store is full\n"));
    cr_expect(eq(int, LARDER("put", "f", "s3://b/fail-denied"), 1));
    cr_expect(eq(int, LARDER("put", "f", "s3://b/k", "--if-match", "other"), 1));
    free(big);
}

Test(cli, a_file_that_changes_while_it_is_read_is_not_put)
{
    char *big = calloc(1, 9 * MIB);
    pid_t pid;

    write_file(at("%s/work/%s", "f"), big, 9 * MIB);
    pid = start(ARGV("put", "f", "s3://b/gate-1"));
    while (!has_text(calls(), "writer")) /* it has begun, and waits behind the first piece */
        usleep(2000);
    cr_assert(truncate(at("%s/work/%s", "f"), 5) == 0);
    write_file(at("%s/store/%s", "gate"), "", 0);
    cr_expect(eq(int, finish(pid), 1));
    cr_expect(has_text(err, "\"f\" changed while it was read"), "%s", err);
    cr_expect(eq(int, LARDER("stat", "s3://b/gate-1"), 3));
    free(big);
}

Test(cli, headers_and_conditions_go_along)
{
    json_t *v;

    how.in = "1";
    cr_assert(eq(int,
                 LARDER("put", "-", "s3://b/k", "--content-encoding", "gzip", "--cache-control", "no-store",
                        "--if-none-match"),
                 0),
              "%s", err);
    cr_assert(eq(int, LARDER("stat", "--json", "s3://b/k"), 0));
    v = json_line(0);
    cr_expect(says_null(v, "content_type"), "nothing is guessed");
    cr_expect(eq(str, (char *)text_of(v, "content_encoding"), "gzip"));
    cr_expect(eq(str, (char *)text_of(v, "cache_control"), "no-store"));
    cr_expect(eq(int, LARDER("put", "-", "s3://b/k", "--if-none-match", "--json"), 1));
    cr_expect(eq(str, (char *)error_kind(), "exists"));
    cr_expect(eq(int, LARDER("put", "-", "s3://b/k", "--if-match", "other", "--json"), 1));
    cr_expect(eq(str, (char *)error_kind(), "precondition"));
    cr_expect(eq(int, LARDER("put", "-", "s3://b/k", "--if-match", text_of(v, "etag")), 0), "%s", err);
}

Test(cli, what_cannot_be_read_is_not_put)
{
    cr_expect(eq(int, LARDER("put", "absent", "s3://b/k"), 1));
    cr_expect(has_text(err, "\"absent\": No such file"), "%s", err);
    cr_expect(eq(int, LARDER("put", ".", "s3://b/k"), 1));
    cr_expect(has_text(err, "Is a directory"), "%s", err);
    cr_expect(eq(int, LARDER("stat", "s3://b/k"), 3));
}

Test(cli, a_create_only_put_fails_the_second_time)
{
    how.in = "one";
    cr_expect(eq(int, LARDER("put", "--create-only", "-", "s3://b/k"), 0), "%s", err);
    how.in = "two";
    cr_expect(eq(int, LARDER("--json", "put", "--create-only", "-", "s3://b/k"), 1));
    cr_expect(eq(str, (char *)error_kind(), "exists"));
    cr_assert(eq(int, LARDER("cat", "s3://b/k"), 0));
    cr_expect(eq(str, out, "one"));
}

Test(cli, a_file_has_the_mode_that_umask_leaves)
{
    struct stat st;

    put("s3://b/k", "x");
    cr_assert(eq(int, LARDER("get", "s3://b/k"), 0), "%s", err);
    cr_assert(stat(at("%s/work/%s", "k"), &st) == 0);
    cr_expect(eq(uint, st.st_mode & 07777, 0644));
    cr_expect(eq(int, count_files("work"), 1));
}

Test(cli, an_old_file_is_replaced_whole)
{
    write_file(at("%s/work/%s", "f"), "an old and longer file", 22);
    put("s3://b/k", "new");
    cr_assert(eq(int, LARDER("get", "s3://b/k", "-o", "f"), 0), "%s", err);
    cr_expect(has("f", "new"));
    cr_expect(eq(int, count_files("work"), 1));
}

Test(cli, a_get_that_fails_leaves_the_old_file_and_nothing_else)
{
    static const char *const uris[] = { "s3://b/none", "s3://b/fail-denied", "s3://b/cut-100000" };

    write_file(at("%s/work/%s", "f"), "old", 3);
    for (size_t i = 0; i < 3; i++) {
        cr_expect(eq(int, LARDER("get", uris[i], "-o", "f"), i == 0 ? 3 : 1), "%s", err);
        cr_expect(has("f", "old"));
        cr_expect(eq(int, count_files("work"), 1));
    }
}

Test(cli, a_file_system_that_is_full_leaves_the_old_file_and_nothing_else)
{
    write_file(at("%s/work/%s", "f"), "old", 3);
    how.file_size = 70000;
    cr_expect(eq(int, LARDER("get", "s3://b/large-200000", "-o", "f"), 1));
    cr_expect(has_text(err, "could not write \"f\": File too large"), "%s", err);
    cr_expect(has("f", "old"));
    cr_expect(eq(int, count_files("work"), 1));
}

Test(cli, an_object_too_large_for_a_view_is_streamed)
{
    struct stat st;

    cr_assert(eq(int, LARDER("get", "s3://b/large-3000001"), 0), "%s", err);
    cr_assert(stat(at("%s/work/%s", "large-3000001"), &st) == 0);
    cr_expect(eq(i64, st.st_size, 3000001));
    cr_assert(eq(int, LARDER("cat", "s3://b/large-70000"), 0), "%s", err);
    cr_expect(eq(sz, out_len, 70000));
}

Test(cli, a_stream_that_breaks_off_is_a_failure)
{
    cr_expect(eq(int, LARDER("cat", "s3://b/cut-70000"), 1));
    cr_expect(eq(sz, out_len, 70000));
    cr_expect(has_text(err, "the store went away"), "%s", err);
}

Test(cli, a_directory_is_refused_unless_it_is_asked_for)
{
    put("s3://b/p/k", "x");
    cr_assert(mkdir(at("%s/work/%s", "d"), 0755) == 0 && mkdir(at("%s/work/%s", "k"), 0755) == 0);
    cr_expect(eq(int, LARDER("get", "s3://b/p/k", "-o", "d"), 1));
    cr_expect(has_text(err, "is a directory"), "%s", err);
    cr_expect(eq(int, LARDER("get", "s3://b/p/k"), 1), "the default name is a directory's");
    cr_expect(eq(int, count_files("work/d"), 0));
    cr_expect(eq(int, LARDER("get", "s3://b/p/k", "-o", "d/"), 0), "%s", err);
    cr_expect(has("d/k", "x"));
}

Test(cli, several_objects_go_into_a_directory)
{
    put("s3://b/1", "one");
    put("gs://c/x/2", "two");
    cr_assert(mkdir(at("%s/work/%s", "d"), 0755) == 0);
    cr_expect(eq(int, LARDER("get", "-o", "d/", "s3://b/1", "s3://b/none", "gs://c/x/2"), 3), "%s", err);
    cr_expect(has("d/1", "one") && has("d/2", "two"));
    cr_expect(eq(int, count_files("work/d"), 2));
}

Test(cli, a_key_that_names_no_file_needs_o)
{
    static const char *const uris[] = { "s3://b/d/", "s3://b/d/..", "s3://b/.", "s3://b", "s3://b/" };

    for (size_t i = 0; i < 5; i++) {
        cr_expect(eq(int, LARDER("get", uris[i]), 1), "%s", uris[i]);
        cr_expect(has_text(err, "-o"), "%s", err);
    }
    cr_expect(eq(int, count_files("work"), 0));
    put("s3://b/d/", "x");
    cr_expect(eq(int, LARDER("get", "s3://b/d/", "-o", "f"), 0), "%s", err);
    cr_expect(has("f", "x"));
}

Test(cli, a_directory_that_may_not_be_written_is_told_before_anything_is_asked)
{
    put("s3://b/k", "x");
    cr_assert(mkdir(at("%s/work/%s", "d"), 0555) == 0);
    how.obey_modes = true;
    cr_expect(eq(int, LARDER("get", "-v", "s3://b/k", "-o", "d/"), 1));
    cr_expect(has_text(err, "could not write \"d/k\": Permission denied"), "%s", err);
    cr_expect(has_text(err, "hits 0, asks 0"), "%s", err);
    cr_expect(eq(int, LARDER("get", "s3://b/k", "-o", "absent/f"), 1));
    cr_expect(has_text(err, "No such file or directory"), "%s", err);
}

Test(cli, a_link_stays_and_the_file_behind_it_is_replaced)
{
    struct stat st;

    put("s3://b/k", "new");
    cr_assert(mkdir(at("%s/work/%s", "d"), 0755) == 0);
    write_file(at("%s/work/%s", "d/f"), "old", 3);
    cr_assert(symlink("d/f", at("%s/work/%s", "l")) == 0 && symlink("nowhere", at("%s/work/%s", "m")) == 0);
    cr_expect(eq(int, LARDER("get", "s3://b/k", "-o", "l"), 0), "%s", err);
    cr_expect(has("d/f", "new"));
    cr_expect(lstat(at("%s/work/%s", "l"), &st) == 0 && S_ISLNK(st.st_mode));
    cr_expect(eq(int, LARDER("get", "s3://b/k", "-o", "m"), 1));
    cr_expect(has_text(err, "leads nowhere"), "%s", err);
}

Test(cli, a_device_is_written_and_not_replaced)
{
    struct stat st;

    put("s3://b/k", "x");
    cr_expect(eq(int, LARDER("get", "s3://b/k", "-o", "/dev/null"), 0), "%s", err);
    cr_expect(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
    cr_expect(eq(int, LARDER("get", "s3://b/k", "-o", "/dev/full"), 1));
    cr_expect(has_text(err, "No space left on device"), "%s", err);
}

/* ---- standard output that fails ---- */

Test(cli, a_full_standard_output_is_a_failure_of_every_command)
{
    const char *const *const runs[] = {
        ARGV("cat", "s3://b/k"),
        ARGV("get", "s3://b/k", "-o", "-"),
        ARGV("stat", "s3://b/k", "s3://b/k"),
        ARGV("stat", "--json", "s3://b/k"),
        ARGV("status"),
        ARGV("status", "--json"),
        ARGV("ls", "s3://b/"),
        ARGV("ls", "-R", "--json", "s3://b/"),
        ARGV("cat", "--length", "1", "s3://b/k"),
        ARGV("cp", "s3://b/k", "-"),
        ARGV("why", "s3://b/k"),
        ARGV("doctor", "--cache-dir", "none"),
        ARGV("ref", "join", "s3://b", "k"),
        ARGV("ref", "split", "s3://b/k"),
        ARGV("--help"),
        ARGV("get", "--help"),
        ARGV("--version"),
    };

    put("s3://b/k", "x");
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        how.out_fd = open("/dev/full", O_WRONLY);
        cr_expect(eq(int, run(runs[i]), 1), "row %zu", i);
        cr_expect(has_text(err, "could not write standard output: No space left on device"), "row %zu: %s", i, err);
        cr_expect(is_one_line(err), "row %zu told more than once: %s", i, err);
    }
}

Test(cli, a_closed_standard_output_is_a_failure)
{
    struct stat st;

    put("s3://b/k", "x");
    how.close_stdout = true;
    cr_expect(eq(int, LARDER("cat", "s3://b/k"), 1));
    cr_expect(has_text(err, "Bad file descriptor"), "%s", err);
    cr_assert(stat(at("%s/store/%s", "connection"), &st) == 0);
    cr_expect(eq(i64, st.st_size, 0), "what was opened in its place got the object");
    how.close_stdout = true;
    cr_expect(eq(int, LARDER("get", "s3://b/k"), 0), "what goes to a file needs none: %s", err);
    cr_expect(has("k", "x"));
}

Test(cli, a_reader_that_goes_away_ends_it_quietly)
{
    const char *const *const runs[] = {
        ARGV("cat", "s3://b/large-1000000", "s3://b/large-1000000"),
        ARGV("get", "s3://b/large-1000000", "-o-"),
        ARGV("status", "--json"),
        ARGV("ls", "s3://b/"),
        ARGV("ls", "--json", "s3://b/"),
    };

    put("s3://b/k", "x");
    for (int i = 0; i < 10; i++) {
        int fds[2];

        cr_assert(pipe2(fds, O_CLOEXEC) == 0);
        close(fds[0]);
        how.out_fd = fds[1];
        how.ignore_sigpipe = i % 2;
        cr_expect(eq(int, run(runs[i / 2]), i % 2 ? 1 : 256 + SIGPIPE), "run %d", i);
        cr_expect(eq(str, err, ""));
        close(fds[1]);
    }
}

/* ---- answers ---- */

Test(cli, every_kind_of_failure_has_its_status_and_its_json)
{
    static const struct {
        const char *kind;
        int code;
    } rows[] = { { "not_found", 3 }, { "denied", 1 }, { "invalid", 1 }, { "timeout", 1 }, { "no_agent", 1 } };

    for (size_t i = 0; i < 5; i++) {
        char uri[64];
        json_t *e;

        snprintf(uri, sizeof uri, "s3://b/fail-%s", rows[i].kind);
        cr_expect(eq(int, LARDER("get", "--json", uri, "-o", "f"), rows[i].code));
        e = json_object_get(json_line(0), "error");
        cr_expect(eq(str, (char *)text_of(e, "kind"), (char *)rows[i].kind));
        cr_expect(eq(str, (char *)text_of(e, "uri"), uri));
        cr_expect(not(says_null(e, "message")));
        if (i == 1)
            cr_expect(eq(i64, number_of(e, "http"), 403));
        else
            cr_expect(says_null(e, "http"));
        cr_expect(strncmp(err, "larder: could not get \"s3://b/fail-", 34) == 0, "%s", err);
        cr_expect(eq(int, LARDER("cat", uri), rows[i].code));
        cr_expect(eq(int, LARDER("put", "-", uri), rows[i].code));
        cr_expect(eq(int, LARDER("stat", uri), rows[i].code));
        cr_expect(eq(int, LARDER("rm", uri), rows[i].code));
        cr_expect(eq(int, LARDER("ls", uri), rows[i].code));
        cr_expect(eq(int, LARDER("cp", uri, "f"), rows[i].code));
        cr_expect(eq(int, LARDER("cp", "s3://b/k", uri), rows[i].code));
        cr_expect(eq(int, LARDER("cat", uri, "--length", "9"), rows[i].code));
        cr_expect(eq(int, LARDER("why", uri), rows[i].code));
        cr_expect(eq(int, LARDER("get", uri), rows[i].code));
        cr_expect(eq(str, out, ""));
    }
}

Test(cli, all_are_tried_and_the_worst_counts)
{
    put("s3://b/k", "x");
    cr_expect(eq(int, LARDER("cat", "s3://b/none", "s3://b/k"), 3));
    cr_expect(eq(str, out, "x"));
    cr_expect(eq(int, LARDER("cat", "s3://b/none", "s3://b/fail-denied", "s3://b/none", "s3://b/k"), 1));
    cr_expect(eq(str, out, "x"));
}

Test(cli, stat_tells_what_was_put)
{
    json_t *v;

    how.in = "12345";
    cr_assert(
        eq(int, LARDER("put", "-", "s3://b/k", "--content-type", "text/csv", "--meta", "a=1", "--meta", "b=x=y"), 0));
    cr_assert(eq(int, LARDER("stat", "--json", "s3://b/k", "s3://b/none"), 3));
    v = json_line(0);
    cr_expect(says_true(v, "exists"));
    cr_expect(eq(i64, number_of(v, "size"), 5));
    cr_expect(eq(str, (char *)text_of(v, "content_type"), "text/csv"));
    cr_expect(eq(str, (char *)text_of(v, "last_modified"), "2026-01-01T00:00:00Z"));
    cr_expect(says_null(v, "content_encoding"));
    cr_expect(eq(str, (char *)text_of(json_object_get(v, "metadata"), "a"), "1"));
    cr_expect(eq(str, (char *)text_of(json_object_get(v, "metadata"), "b"), "x=y"));
    cr_expect(says_false(json_line(1), "exists"));
    cr_expect(has_text(err, "s3://b/none"), "%s", err);
    cr_assert(eq(int, LARDER("stat", "s3://b/k"), 0));
    cr_expect(has_text(out, "Size") && has_text(out, "text/csv") && has_text(out, "b=x=y"), "%s", out);
}

Test(cli, get_put_and_rm_answer_in_json)
{
    how.in = "12345";
    cr_assert(eq(int, LARDER("put", "--json", "-", "s3://b/k"), 0));
    cr_expect(eq(i64, number_of(json_line(0), "size"), 5));
    cr_assert(eq(int, LARDER("get", "--json", "s3://b/k", "-o", "f"), 0));
    cr_expect(eq(str, (char *)text_of(json_line(0), "file"), "f"));
    cr_expect(says_true(json_line(0), "hit"));
    cr_assert(eq(int, LARDER("get", "--json", "s3://b/large-5", "-o", "f"), 0));
    cr_expect(says_false(json_line(0), "hit"));
    cr_assert(eq(int, LARDER("rm", "--json", "s3://b/k"), 0));
    cr_expect(says_true(json_line(0), "deleted"));
}

Test(cli, what_is_deleted_is_gone_and_may_be_deleted_twice)
{
    put("s3://b/k", "x");
    cr_expect(eq(int, LARDER("rm", "s3://b/k"), 0));
    cr_expect(eq(int, LARDER("cat", "s3://b/k"), 3));
    cr_expect(eq(int, LARDER("rm", "s3://b/k"), 0));
}

Test(cli, several_are_deleted_together_and_each_is_told)
{
    put("s3://b/k", "x");
    put("s3://b/l", "x");
    calls();
    cr_expect(eq(int, LARDER("rm", "--json", "s3://b/k", "s3://b/fail-denied", "s3://b/none", "s3://b/l"), 1));
    cr_expect(eq(str, calls(), "delete_many 4\n"));
    cr_expect(says_true(json_line(0), "deleted") && says_true(json_line(2), "deleted"));
    cr_expect(eq(str, (char *)text_of(json_object_get(json_line(1), "error"), "uri"), "s3://b/fail-denied"));
    cr_expect(eq(str, (char *)text_of(json_line(3), "uri"), "s3://b/l"));
    cr_expect(is_one_line(err), "%s", err);
    cr_expect(eq(int, LARDER("cat", "s3://b/l"), 3));
}

Test(cli, what_is_below_a_prefix_is_deleted_and_nothing_else)
{
    char uri[64];

    for (int i = 0; i < 12; i++) {
        snprintf(uri, sizeof uri, "s3://b/run/%d", i);
        put(uri, "x");
    }
    put("s3://b/run/", "");
    put("s3://b/run-17", "x");
    put("s3://b/run", "x");
    calls();
    cr_expect(eq(int, LARDER("rm", "-r", "-v", "s3://b/run"), 0), "%s", err);
    cr_expect(has_text(calls(), "delete_many 13\n"));
    cr_expect(has_text(err, "larder: 13 objects were there\n"), "%s", err);
    cr_expect(eq(int, LARDER("ls", "-R", "s3://b/"), 0));
    cr_expect(eq(str, out, "s3://b/run\ns3://b/run-17\n"));
    cr_expect(eq(int, LARDER("rm", "-r", "s3://b/run/"), 0), "what is not there is deleted already");
    cr_expect(eq(int, LARDER("rm", "-r", "--all", "--json", "s3://b"), 0), "%s", err);
    cr_expect(eq(str, (char *)text_of(json_line(1), "uri"), "s3://b/run-17"));
    cr_expect(eq(int, LARDER("ls", "s3://b/"), 0));
    cr_expect(eq(str, out, ""));
    cr_expect(eq(int, LARDER("rm", "-r", "s3://b/fail-denied"), 0), "a prefix gets its slash: %s", err);
    cr_expect(eq(int, LARDER("rm", "-r", "s3://fail-denied", "--all"), 0), "%s", err);
}

/* ---- sign ---- */

Test(cli, a_signed_url_stands_alone_on_standard_output)
{
    json_t *v;

    cr_assert(eq(int, LARDER("sign", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(str, out, "https://signed.example/b/k?get&3600\n"));
    cr_expect(eq(str, err, ""));
    cr_assert(eq(int, LARDER("sign", "s3://b/k", "--expires", "7d"), 0), "%s", err);
    cr_expect(eq(str, out, "https://signed.example/b/k?get&604800\n"));
    cr_assert(eq(int, LARDER("sign", "--put", "s3://b/k", "--expires=1m30s", "--content-type", "a/b"), 0), "%s", err);
    cr_expect(eq(str, out, "https://signed.example/b/k?put&90\n"));
    cr_expect(eq(str, err, "Content-Type: a/b\n"));
    cr_assert(eq(int, LARDER("sign", "--json", "--put", "s3://b/k", "--content-md5", "bWQ1"), 0), "%s", err);
    v = json_line(0);
    cr_expect(eq(str, (char *)text_of(v, "method"), "PUT"));
    cr_expect(eq(str, (char *)text_of(v, "url"), "https://signed.example/b/k?put&3600"));
    cr_expect(eq(str, (char *)text_of(json_object_get(v, "headers"), "Content-MD5"), "bWQ1"));
    cr_expect(eq(str, (char *)text_of(v, "expires"), "2026-01-01T01:00:00Z"));
    cr_expect(eq(str, err, ""));
    cr_expect(eq(int, LARDER("sign", "--json", "s3://b/unsigned"), 1));
    cr_expect(eq(str, (char *)error_kind(), "unsupported"));
    cr_expect(has_text(err, "could not sign \"s3://b/unsigned\": this store signs no URLs"), "%s", err);
}

Test(cli, status_is_a_table_for_people_and_plain_numbers_for_programs)
{
    cr_assert(eq(int, LARDER("status"), 0));
    cr_expect(has_text(out, "cache_bytes  1.5 GiB\n"), "%s", out);
    cr_expect(has_text(out, "hits         1234567\n"), "%s", out);
    cr_expect(has_text(out, "fake\\x0a1\n"), "%s", out);
    cr_assert(eq(int, LARDER("status", "--json"), 0));
    cr_expect(eq(i64, number_of(json_line(0), "cache_bytes"), 1610612736));
    cr_expect(eq(int, LARDER("status", "--json", "--cache-dir", "absent"), 1));
    cr_expect(eq(str, (char *)error_kind(), "no_agent"));
    cr_expect(says_null(json_object_get(json_line(0), "error"), "uri"));
}

Test(cli, references_are_joined_and_split_without_a_cache)
{
    unsetenv("FAKE_LARDER_DIR"); /* opening the fake would fail */
    cr_expect(eq(int, LARDER("ref", "join", "s3://b/a", "k", "l"), 0), "%s", err);
    cr_expect(eq(str, out, "s3://b/a/k/l\n"));
    cr_expect(eq(int, LARDER("ref", "join", "s3://b", "k", "--json"), 0), "%s", err);
    cr_expect(eq(str, (char *)text_of(json_line(0), "reference"), "s3://b/k"));
    cr_expect(eq(int, LARDER("ref", "split", "s3://b/k/l", "--json"), 0), "%s", err);
    cr_expect(eq(str, (char *)text_of(json_line(0), "container"), "b"));
    cr_expect(eq(str, (char *)text_of(json_line(0), "key"), "k/l"));
    cr_expect(eq(int, LARDER("ref", "split", "nothing"), 1));
    cr_expect(eq(int, LARDER("ref", "join", "nothing", "k"), 1));
    cr_expect(eq(int, LARDER("status"), 1));
    cr_expect(has_text(err, "could not open the cache: "), "%s", err);
}

Test(cli, timeout_0_reads_the_cache_only)
{
    put("s3://b/k", "x");
    cr_expect(eq(int, LARDER("cat", "--timeout", "0", "s3://b/k"), 0));
    cr_expect(eq(int, LARDER("--json", "--timeout", "0", "get", "s3://b/cold", "-of"), 1));
    cr_expect(eq(str, (char *)error_kind(), "timeout"));
}

Test(cli, verbose_tells_times_and_counts_on_stderr)
{
    put("s3://b/k", "12345");
    cr_assert(eq(int, LARDER("-v", "cat", "s3://b/k"), 0));
    cr_expect(eq(str, out, "12345"));
    cr_expect(has_text(err, "5 bytes in ") && has_text(err, " ms, hit\n") && has_text(err, "hits 1, asks 0"), "%s",
              err);
    cr_assert(eq(int, LARDER("cat", "-v", "s3://b/large-9"), 0));
    cr_expect(has_text(err, " ms, asked\n"), "%s", err);
}

/* ---- a part of an object ---- */

Test(cli, a_part_of_an_object_is_read_and_no_more_asked_for)
{
    put("s3://b/k", "0123456789");
    cr_assert(eq(int, LARDER("cat", "s3://b/k", "--offset", "2", "--length", "3"), 0), "%s", err);
    cr_expect(eq(str, out, "234"));
    cr_expect(eq(str, calls(), "get_range 2 3\n"));
    cr_assert(eq(int, LARDER("cat", "--offset", "7", "s3://b/k", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(str, out, "789789"));
    cr_assert(eq(int, LARDER("cat", "--length=4", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(str, out, "0123"));
    cr_assert(eq(int, LARDER("cat", "--offset", "8", "--length", "9223372036854775807", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(str, out, "89"));
    cr_expect(eq(int, LARDER("cat", "--offset", "1", "s3://b/none"), 3));
}

Test(cli, behind_the_end_of_an_object_there_is_nothing)
{
    put("s3://b/k", "0123456789");
    put("s3://b/empty", "");
    cr_expect(eq(int, LARDER("cat", "--offset", "10", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(str, out, ""));
    cr_expect(eq(int, LARDER("cat", "--offset", "9223372036854775807", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(str, out, ""));
    cr_expect(eq(int, LARDER("cat", "--length", "5", "s3://b/empty"), 0), "%s", err);
    cr_expect(eq(str, out, ""));
}

Test(cli, a_large_part_is_read_in_pieces)
{
    calls();
    cr_assert(eq(int, LARDER("cat", "--offset", "1", "s3://b/large-5000000"), 0), "%s", err);
    cr_expect(eq(sz, out_len, 4999999));
    cr_expect(eq(str, calls(), "get_range 1 4194304\nread 1 4194304\nget_range 4194305 805695\nread 4194305 805695\n"));
}

Test(cli, a_part_is_of_one_version)
{
    cr_expect(eq(int, LARDER("cat", "--offset", "0", "s3://b/moved-4000000"), 0), "one piece: %s", err);
    cr_expect(eq(int, LARDER("cat", "--offset", "0", "s3://b/moved-5000000"), 1));
    cr_expect(has_text(err, "the object changed while it was read"), "%s", err);
}

/* ---- many objects ---- */

static void put_numbers(const char *prefix, int n)
{
    for (int i = 0; i < n; i++) {
        char uri[64], text[32];

        snprintf(uri, sizeof uri, "%s%02d", prefix, i);
        snprintf(text, sizeof text, "number %d", i);
        put(uri, text);
    }
}

Test(cli, what_a_list_names_is_got)
{
    static const char list[] = "s3://b/d/1\ns3://b/d/2\tdeep/er/zwei\n\ns3://b/d/3";

    put("s3://b/d/1", "one");
    put("s3://b/d/2", "two");
    put("s3://b/d/3", "three");
    write_file(at("%s/work/%s", "list"), list, strlen(list));
    cr_assert(eq(int, LARDER("get", "--from-file", "list", "-d", "new"), 0), "%s", err);
    cr_expect(has("new/1", "one") && has("new/deep/er/zwei", "two") && has("new/3", "three"));
    how.in = "s3://b/d/2\n";
    cr_assert(eq(int, LARDER("get", "--from-file", "-", "s3://b/d/1"), 0), "%s", err);
    cr_expect(has("1", "one") && has("2", "two"));
    cr_assert(eq(int, LARDER("get", "--from-file", "-"), 0), "an empty list is done: %s", err);
}

Test(cli, a_list_that_is_wrong_is_refused_before_anything_is_done)
{
    static const struct {
        const char *list, *part;
        size_t len;
    } rows[] = {
        { "s3://b/d/1\ns3://c/1\n", "several of the URIs would be written to \"1\"", 20 },
        { "s3://b/d/1\tx\ns3://b/d/2\tx\n", "several of the URIs would be written to \"x\"", 26 },
        { "s3://b/d/1\ns3://b/\0d\n", "line 2 of \"-\" holds a byte 0", 21 },
        { "s3://b/d/1\n\tx\n", "line 2 of \"-\" lacks", 14 },
        { "s3://b/d/1\n\ns3://b/d/2\t\n", "line 3 of \"-\" lacks", 24 },
        { "s3://b/d/1\tsub/../../x\n", "line 1 of \"-\" names a file that is not below the directory", 23 },
        { "s3://b/d/1\t/tmp/x\n", "line 1 of \"-\" names a file that is not below the directory", 18 },
    };

    put("s3://b/d/1", "one");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        how.in = rows[i].list;
        how.in_len = rows[i].len;
        cr_expect(eq(int, LARDER("get", "--from-file", "-"), 2), "row %zu", i);
        cr_expect(has_text(err, rows[i].part), "row %zu: %s", i, err);
        cr_expect(eq(int, count_files("work"), 0));
    }
    cr_expect(eq(int, LARDER("get", "--from-file", "absent"), 1));
    cr_expect(has_text(err, "could not open \"absent\": No such file"), "%s", err);
    cr_expect(eq(int, LARDER("get", "--from-file", "."), 1));
    cr_expect(has_text(err, "could not read \".\": Is a directory"), "%s", err);
}

Test(cli, small_objects_are_asked_for_together)
{
    put_numbers("s3://b/d/", 20);
    calls();
    cr_assert(eq(int, LARDER("get", "-r", "s3://b/d", "d", "--jobs", "1"), 0), "%s", err);
    cr_expect(eq(str, calls(), "list -\nlist -\nlist -\nlist -\nget_many 20\n"));
    cr_expect(has("d/00", "number 0") && has("d/19", "number 19"));
    cr_expect(eq(int, count_files("work/d"), 20));
    how.in = "s3://b/d/01\ns3://b/d/02\ns3://b/d/03\ns3://b/d/04\n";
    cr_assert(eq(int, LARDER("get", "--from-file", "-", "-j", "2"), 0), "%s", err);
    cr_expect(has("01", "number 1") && has("04", "number 4"));
}

Test(cli, many_at_a_time_are_got_and_told_in_order)
{
    put_numbers("s3://b/d/", 30);
    put("s3://b/d/large-1500000", "");
    put("s3://b/d/large-20", "");
    cr_assert(eq(int, LARDER("get", "--json", "-r", "s3://b/d/", "out/put", "--jobs", "7"), 0), "%s", err);
    for (int i = 0; i < 30; i++) {
        char name[32], text[32];

        snprintf(name, sizeof name, "out/put/%02d", i);
        snprintf(text, sizeof text, "number %d", i);
        cr_expect(has(name, text), "%s", name);
        cr_expect(eq(str, (char *)text_of(json_line(i), "file"), name));
    }
    cr_expect(eq(i64, number_of(json_line(30), "size"), 1500000));
    cr_expect(says_false(json_line(30), "hit") && says_true(json_line(29), "hit"));
    cr_expect(eq(i64, number_of(json_line(31), "size"), 20));
    cr_expect(eq(int, count_files("work/out/put"), 32));
}

Test(cli, one_failure_does_not_stop_the_others)
{
    char *first, *second;

    put("s3://b/1", "one");
    put("s3://b/2", "two");
    cr_expect(eq(int, LARDER("get", "s3://b/none", "s3://b/1", "s3://b/gone", "s3://b/2", "-j1"), 3));
    cr_expect(has("1", "one") && has("2", "two"));
    first = strstr(err, "larder: could not get \"s3://b/none\"");
    second = strstr(err, "larder: could not get \"s3://b/gone\"");
    cr_expect(first && second && first < second, "%s", err);
    cr_expect(eq(int, count_files("work"), 2));
    cr_expect(
        eq(int, LARDER("get", "--json", "s3://b/none", "s3://b/1", "s3://b/fail-denied", "s3://b/2", "s3://b/.."), 1));
    cr_expect(eq(str, (char *)error_kind(), "not_found"));
    cr_expect(eq(str, (char *)text_of(json_line(1), "uri"), "s3://b/1"));
    cr_expect(eq(str, (char *)text_of(json_object_get(json_line(2), "error"), "kind"), "denied"));
    cr_expect(eq(str, (char *)text_of(json_line(3), "uri"), "s3://b/2"));
    cr_expect(eq(str, (char *)text_of(json_object_get(json_line(4), "error"), "kind"), "invalid"));
}

Test(cli, no_key_leads_out_of_the_directory)
{
    put("s3://b/d/../escaped", "bad");
    put("s3://b/d/..", "bad");
    put("s3://b/d//absolute", "bad");
    put("s3://b/d/x//y", "bad");
    put("s3://b/d/./z", "bad");
    put("s3://b/d/m/", "a folder with bytes");
    put("s3://b/d/folder/", "");
    put("s3://b/d/", "");
    put("s3://b/d/..fine/...", "good");
    put("s3://b/d/a/b/c", "good");
    cr_expect(eq(int, LARDER("get", "-r", "s3://b/d/", "d/"), 1));
    cr_expect(has("d/..fine/...", "good") && has("d/a/b/c", "good"));
    cr_expect(eq(int, count_files("work"), 1));
    cr_expect(eq(int, count_files("work/d"), 3), "..fine, a, folder");
    cr_expect(eq(int, count_files("work/d/folder"), 0));
    cr_expect(has_text(err, "could not get \"s3://b/d/../escaped\": its key has \".\" or \"..\""), "%s", err);
    cr_expect(has_text(err, "could not get \"s3://b/d//absolute\": its key has an empty part"), "%s", err);
    cr_expect(has_text(err, "\"s3://b/d/..\"") && has_text(err, "\"s3://b/d/x//y\"") &&
                  has_text(err, "\"s3://b/d/./z\"") && has_text(err, "\"s3://b/d/m/\""),
              "%s", err);
}

Test(cli, a_prefix_that_holds_nothing_is_not_found)
{
    put("s3://b/dir", "x");
    cr_expect(eq(int, LARDER("get", "-r", "s3://b/dir", "d"), 3));
    cr_expect(has_text(err, "could not list \"s3://b/dir/\": there is no object below it"), "%s", err);
    cr_expect(eq(int, LARDER("get", "-r", "s3://b/fail-denied/", "d"), 3), "that is another key");
    cr_expect(eq(int, LARDER("get", "-r", "nothing", "d"), 1));
    cr_expect(eq(int, count_files("work"), 0));
}

Test(cli, what_is_in_the_way_of_one_file_is_told)
{
    put("s3://b/d/a", "file");
    put("s3://b/d/a/b", "below a file");
    put("s3://b/d/c", "x");
    cr_assert(mkdir(at("%s/work/%s", "d"), 0755) == 0 && mkdir(at("%s/work/%s", "d/c"), 0755) == 0);
    write_file(at("%s/work/%s", "d/a"), "old", 3);
    cr_expect(eq(int, LARDER("get", "-r", "s3://b/d", "d", "-j1"), 1));
    cr_expect(has("d/a", "file"));
    cr_expect(has_text(err, "\"d/a/b\": Not a directory") && has_text(err, "\"d/c\" is a directory"), "%s", err);
}

/* ---- ls ---- */

Test(cli, ls_shows_one_level_in_the_order_of_the_store)
{
    put_numbers("s3://b/d/n", 7); /* more than a page of the fake */
    put("s3://b/d/n03/x", "x");
    put("s3://b/d/n03/y", "y");
    put("s3://b/e", "elsewhere");
    cr_assert(eq(int, LARDER("ls", "s3://b/d/"), 0), "%s", err);
    cr_expect(eq(str, out,
                 "s3://b/d/n00\ns3://b/d/n01\ns3://b/d/n02\ns3://b/d/n03\ns3://b/d/n03/\ns3://b/d/n04\n"
                 "s3://b/d/n05\ns3://b/d/n06\n"));
    cr_assert(eq(int, LARDER("ls", "-R", "s3://b/d/n03"), 0), "%s", err);
    cr_expect(eq(str, out, "s3://b/d/n03\ns3://b/d/n03/x\ns3://b/d/n03/y\n"));
    cr_assert(eq(int, LARDER("ls", "s3://b"), 0), "a container needs no slash: %s", err);
    cr_expect(eq(str, out, "s3://b/d/\ns3://b/e\n"));
}

Test(cli, ls_tells_size_and_time)
{
    json_t *v;

    put("s3://b/d/k", "12345");
    put("s3://b/d/sub/k", "");
    put("s3://b/d/undated", "");
    cr_assert(eq(int, LARDER("ls", "-l", "s3://b/d/"), 0), "%s", err);
    cr_expect(eq(str, out,
                 "              5  2026-01-01T00:00:00Z  s3://b/d/k\n"
                 "              -  -                     s3://b/d/sub/\n"
                 "              0  -                     s3://b/d/undated\n"));
    cr_assert(eq(int, LARDER("ls", "--json", "s3://b/d/"), 0), "%s", err);
    v = json_line(0);
    cr_expect(eq(str, (char *)text_of(v, "uri"), "s3://b/d/k"));
    cr_expect(eq(str, (char *)text_of(v, "last_modified"), "2026-01-01T00:00:00Z"));
    cr_expect(eq(str, (char *)text_of(v, "etag"), "e7a6"));
    cr_expect(eq(i64, number_of(v, "size"), 5));
    cr_expect(says_false(v, "is_prefix") && says_true(json_line(1), "is_prefix"));
    cr_expect(json_object_get(json_line(1), "size") == NULL);
    cr_expect(says_null(json_line(2), "last_modified") && says_null(json_line(2), "etag"));
}

Test(cli, an_empty_folder_is_listed_and_a_name_that_nothing_has_is_not_found)
{
    cr_expect(eq(int, LARDER("ls", "s3://b/d/"), 0), "%s", err);
    cr_expect(eq(int, LARDER("ls", "s3://b"), 0), "%s", err);
    cr_expect(eq(str, out, ""));
    cr_expect(eq(str, err, ""));
    cr_expect(eq(int, LARDER("ls", "s3://b/d"), 3));
    cr_expect(eq(str, err, "larder: could not list \"s3://b/d\": nothing begins with it\n"));
    cr_expect(eq(int, LARDER("ls", "--json", "s3://b/d"), 3));
    cr_expect(eq(str, (char *)error_kind(), "not_found"));
}

/* ---- cp ---- */

Test(cli, an_object_is_copied_with_its_metadata)
{
    static const char *const to[] = { "s3://b/l", "s3://other/k", "gs://b/k" };

    how.in = "12345";
    cr_assert(eq(int, LARDER("put", "-", "s3://b/k", "--content-type", "text/csv", "--meta", "a=1"), 0));
    for (size_t i = 0; i < 3; i++) {
        calls();
        cr_assert(eq(int, LARDER("cp", "--json", "s3://b/k", to[i]), 0), "%s: %s", to[i], err);
        cr_expect(says_null(json_line(0), "size"), "the library did it");
        cr_expect(eq(str, calls(), "copy\n"));
        cr_assert(eq(int, LARDER("stat", "--json", to[i]), 0));
        cr_expect(eq(str, (char *)text_of(json_line(0), "content_type"), "text/csv"));
        cr_expect(eq(str, (char *)text_of(json_object_get(json_line(0), "metadata"), "a"), "1"));
    }
    cr_expect(eq(int, LARDER("cp", "s3://b/k", "s3://b/d/"), 0), "%s", err);
    cr_expect(eq(int, LARDER("cat", "s3://b/d/k"), 0), "a folder gets the name added");
    cr_expect(eq(str, out, "12345"));
    cr_expect(eq(int, LARDER("cp", "s3://b/none", "gs://b/k"), 3));
}

Test(cli, where_no_metadata_is_kept_an_object_is_copied_without)
{
    how.in = "12345";
    cr_assert(eq(int, LARDER("put", "-", "s3://b/k", "--content-type", "text/csv"), 0));
    cr_expect(eq(int, LARDER("cp", "--json", "s3://b/k", "gs://b/plain"), 0), "%s", err);
    cr_expect(eq(str, err, "larder: copied \"s3://b/k\" without its metadata: this store keeps no metadata\n"));
    cr_expect(eq(i64, number_of(json_line(0), "size"), 5));
    cr_expect(eq(int, LARDER("cat", "gs://b/plain"), 0));
    cr_expect(eq(str, out, "12345"));
}

Test(cli, files_are_copied_in_and_out)
{
    write_file(at("%s/work/%s", "f"), "from a file", 11);
    cr_assert(mkdir(at("%s/work/%s", "d"), 0755) == 0);
    cr_expect(eq(int, LARDER("cp", "f", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(int, LARDER("cp", "f", "s3://b/d/"), 0), "%s", err);
    cr_expect(eq(int, LARDER("cp", "s3://b/d/f", "d"), 0), "%s", err);
    cr_expect(has("d/f", "from a file"));
    cr_expect(eq(int, LARDER("cp", "s3://b/k", "g"), 0), "%s", err);
    cr_expect(has("g", "from a file"));
    cr_expect(eq(int, LARDER("cp", "s3://b/k", "-"), 0), "%s", err);
    cr_expect(eq(str, out, "from a file"));
    how.in = "from a pipe";
    cr_expect(eq(int, LARDER("cp", "-", "s3://b/k"), 0), "%s", err);
    cr_expect(eq(int, LARDER("cp", "--json", "s3://b/k", "g"), 0), "%s", err);
    cr_expect(has("g", "from a pipe"));
    cr_expect(eq(i64, number_of(json_line(0), "size"), 11));
    cr_expect(eq(int, LARDER("cp", "s3://b/none", "g"), 3));
    cr_expect(has("g", "from a pipe"), "a copy that fails leaves the old file");
    cr_expect(eq(int, LARDER("cp", "absent", "s3://b/k"), 1));
    cr_expect(has_text(err, "could not copy \"absent\": ") || has_text(err, "could not open \"absent\": "), "%s", err);
    cr_expect(eq(int, count_files("work"), 3));
}

/* ---- put -r ---- */

static void make_tree(void)
{
    cr_assert(mkdir(at("%s/work/%s", "d"), 0755) == 0 && mkdir(at("%s/work/%s", "d/sub"), 0755) == 0 &&
              mkdir(at("%s/work/%s", "d/empty"), 0755) == 0);
    write_file(at("%s/work/%s", "d/a"), "one", 3);
    write_file(at("%s/work/%s", "d/sub/b c?#%"), "two", 3);
    write_file(at("%s/work/%s", "d/sub/.hidden"), "", 0);
    write_file(at("%s/work/%s", "outside"), "three", 5);
}

Test(cli, a_directory_is_put_with_all_that_is_below)
{
    static const char *const dirs[] = { "d", "d/", "./d//" };

    make_tree();
    cr_assert(symlink("../outside", at("%s/work/%s", "d/link")) == 0);
    for (size_t i = 0; i < 3; i++) {
        cr_assert(eq(int, LARDER("put", "-r", dirs[i], i ? "s3://b/run/" : "s3://b/run", "--json", "-j3"), 0), "%s",
                  err);
        cr_expect(eq(str, (char *)text_of(json_line(0), "uri"), "s3://b/run/a"), "in the order of names");
        cr_expect(eq(str, (char *)text_of(json_line(1), "uri"), "s3://b/run/link"));
        cr_expect(eq(i64, number_of(json_line(1), "size"), 5));
        cr_expect(eq(str, (char *)text_of(json_line(3), "uri"), "s3://b/run/sub/b c?#%"));
        cr_assert(eq(int, LARDER("ls", "-R", "s3://b/"), 0));
        cr_expect(eq(str, out, "s3://b/run/a\ns3://b/run/link\ns3://b/run/sub/.hidden\ns3://b/run/sub/b c?#%\n"));
        cr_assert(eq(int, LARDER("rm", "-r", "s3://b/run"), 0));
    }
    cr_assert(eq(int, LARDER("put", "-r", "d", "s3://b", "--meta", "a=1"), 0), "%s", err);
    cr_assert(eq(int, LARDER("stat", "--json", "s3://b/sub/b c?#%"), 0));
    cr_expect(eq(str, (char *)text_of(json_object_get(json_line(0), "metadata"), "a"), "1"));
    cr_expect(eq(int, LARDER("put", "-r", "d/empty", "s3://b/run"), 0), "nothing is nothing");
}

Test(cli, what_is_no_file_is_refused_and_the_others_go_on)
{
    make_tree();
    cr_assert(symlink("..", at("%s/work/%s", "d/up")) == 0);
    cr_assert(symlink("nowhere", at("%s/work/%s", "d/broken")) == 0);
    cr_assert(mkfifo(at("%s/work/%s", "d/pipe"), 0600) == 0);
    cr_assert(chmod(at("%s/work/%s", "d/empty"), 0) == 0 && chmod(at("%s/work/%s", "d/a"), 0) == 0);
    how.obey_modes = true;
    cr_expect(eq(int, LARDER("put", "-r", "d", "s3://b/run"), 1));
    cr_expect(has_text(err, "\"s3://b/run/up\": \"d/up\" is a symbolic link to what is no regular file"), "%s", err);
    cr_expect(has_text(err, "\"d/broken\" is a symbolic link that leads nowhere"), "%s", err);
    cr_expect(has_text(err, "\"d/pipe\" is no regular file"), "%s", err);
    cr_expect(has_text(err, "\"d/empty\": Permission denied"), "%s", err);
    cr_expect(has_text(err, "could not open \"d/a\": Permission denied"), "%s", err);
    cr_assert(eq(int, LARDER("ls", "-R", "s3://b/"), 0));
    cr_expect(eq(str, out, "s3://b/run/sub/.hidden\ns3://b/run/sub/b c?#%\n"));
    cr_expect(eq(int, LARDER("put", "-r", "outside", "s3://b/run"), 1));
    cr_expect(has_text(err, "\"outside\": Not a directory"), "%s", err);
    cr_expect(eq(int, LARDER("put", "-r", "absent", "s3://b/run"), 1));
    cr_expect(has_text(err, "\"absent\": No such file"), "%s", err);
    cr_expect(eq(int, LARDER("put", "-r", "d", "s3://b/run", "--create-only"), 1), "they are there");
}

/* ---- why ---- */

Test(cli, why_tells_what_is_seen_here_and_what_the_agent_knows)
{
    put("s3://b/k", "x");
    cr_assert(eq(int, LARDER("why", "s3://b/k"), 0), "%s", err);
    cr_expect(has_text(out, "this_process  hit: read here, without asking the agent\n"), "%s", out);
    cr_expect(has_text(out, "size_bytes    1.5 GiB\n"), "%s", out);
    cr_assert(eq(int, LARDER("why", "--json", "s3://b/cold"), 0), "%s", err);
    cr_expect(eq(str, (char *)text_of(json_line(0), "this_process"), "miss: the agent is asked"));
    cr_expect(eq(i64, number_of(json_line(0), "size_bytes"), 1610612736));
    cr_expect(eq(int, LARDER("why", "s3://b/k", "--cache-dir", "absent"), 1));
    cr_expect(has_text(out, "this_process  hit"), "%s", out);
    cr_expect(has_text(err, "could not ask about \"s3://b/k\": no agent answers"), "%s", err);
    cr_expect(eq(int, LARDER("why", "--json", "s3://b/k", "--cache-dir", "absent"), 1));
    cr_expect(eq(str, (char *)error_kind(), "no_agent"));
}

/* ---- doctor ---- */

/* A cache directory as an agent leaves it: work/cache. */
static void make_cache(uint32_t layout)
{
    static const char *const folders[] = { "cache", "cache/gen-3", "cache/blocks", "cache/rw", "cache/ipc" };
    struct ldr_hdr h = { .magic = LDR_HDR_MAGIC,
                         .version = LDR_HDR_VERSION,
                         .psize = LDR_PAGE,
                         .generation = 3,
                         .nonce = 77,
                         .mapsize = MIB,
                         .boot = 5,
                         .inline_limit = 4096 };
    struct ldr_format f = { .layout = layout, .boot = 5, .generation = 3, .nonce = 77 };
    char page[LDR_HDR_BYTES] = { 0 }, text[LDR_FORMAT_MAX];
    FILE *id = fopen("/proc/sys/kernel/random/boot_id", "r");

    cr_assert(id && fscanf(id, "%63s", f.boot_id) == 1);
    fclose(id);
    for (size_t i = 0; i < 5; i++)
        cr_assert(mkdir(at("%s/work/%s", folders[i]), 0755) == 0 || errno == EEXIST);
    memcpy(page, &h, sizeof h);
    write_file(at("%s/work/%s", "cache/gen-3/hdr"), page, sizeof page);
    write_file(at("%s/work/%s", "cache/gen-3/data.mdb"), page, sizeof page);
    write_file(at("%s/work/%s", "cache/rw/touch"), page, sizeof page);
    write_file(at("%s/work/%s", "cache/ipc/agent.sock"), "", 0);
    write_file(at("%s/work/%s", "cache/format"), text, ldr_format_print(&f, text));
}

/* The status of a check, of the last run with --json. */
static const char *verdict(const char *check)
{
    for (int i = 0; i < 32 && i < (int)out_len; i++) {
        json_t *v = json_line(i);

        if (!strcmp(text_of(v, "check"), check))
            return text_of(v, "status");
        if (!strcmp(text_of(v, "check"), "clock"))
            break; /* the last */
    }
    return "(none)";
}

Test(cli, doctor_finds_a_good_cache_good)
{
    static const char *const checks[] = { "cache directory", "format", "boot",  "index", "block files",
                                          "hit counts",      "socket", "agent", "clock" };

    make_cache(LDR_LAYOUT);
    cr_assert(symlink("cache", at("%s/work/%s", "same")) == 0); /* the fake of this name is of our release */
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", "same"), 0), "%s", out);
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++)
        cr_expect(eq(str, (char *)verdict(checks[i]), "ok"), "%s: %s", checks[i], out);
    cr_expect(eq(int, LARDER("doctor", "--cache-dir", "same"), 0), "%s", out);
    cr_expect(has_text(out, "ok    index            readable\n"), "%s", out);
    cr_expect(not(has_text(out, "FAIL")), "%s", out);
}

Test(cli, doctor_works_without_cache_and_agent)
{
    setenv("HOME", at("%s/%s", "work"), 1);
    setenv("XDG_CACHE_HOME", "", 1);
    write_file(at("%s/%s", "store/no-agent"), "", 0);
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", "none"), 0), "%s", out);
    cr_expect(eq(str, (char *)verdict("cache directory"), "warn"));
    cr_expect(eq(str, (char *)verdict("agent"), "warn"));
    cr_expect(eq(str, (char *)verdict("socket"), "warn"));
    setenv("LARDER_CACHE_DIR", "none", 1);
    cr_expect(eq(int, LARDER("doctor"), 0), "%s", out);
    cr_expect(has_text(out, "there is no cache: none ($LARDER_CACHE_DIR) does not exist; start larderd"), "%s", out);
    setenv("LARDER_CACHE_DIR", "", 1);
    cr_expect(eq(int, LARDER("doctor"), 0), "%s", out);
    cr_expect(has_text(out, "there is no cache: nothing names its directory"), "%s", out);
}

Test(cli, doctor_tells_what_is_wrong_with_a_cache)
{
    make_cache(LDR_LAYOUT + 1);
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", "cache"), 1));
    cr_expect(eq(str, (char *)verdict("format"), "fail"));
    cr_expect(eq(str, (char *)verdict("agent"), "warn"), "it is of another release");
    make_cache(LDR_LAYOUT);
    write_file(at("%s/work/%s", "cache/gen-3/hdr"), "short", 5);
    unlink(at("%s/work/%s", "cache/rw/touch"));
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", "cache"), 1));
    cr_expect(eq(str, (char *)verdict("index"), "fail"));
    cr_expect(eq(str, (char *)verdict("hit counts"), "warn"));
    write_file(at("%s/work/%s", "cache/format"), "garbage", 7);
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", "cache"), 1));
    cr_expect(eq(str, (char *)verdict("format"), "fail"));
    write_file(at("%s/work/%s", "f"), "", 0);
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", "f"), 1));
    cr_expect(eq(str, (char *)verdict("cache directory"), "fail"));
}

Test(cli, doctor_sees_with_the_rights_of_its_user)
{
    make_cache(LDR_LAYOUT);
    cr_assert(chmod(at("%s/work/%s", "cache/gen-3/data.mdb"), 0) == 0 &&
              chmod(at("%s/work/%s", "cache/blocks"), 0) == 0 && chmod(at("%s/work/%s", "cache/rw/touch"), 0440) == 0 &&
              chmod(at("%s/work/%s", "cache/ipc/agent.sock"), 0440) == 0);
    how.obey_modes = true;
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", "cache"), 1));
    cr_expect(eq(str, (char *)verdict("index"), "fail"), "%s", out);
    cr_expect(eq(str, (char *)verdict("block files"), "fail"));
    cr_expect(eq(str, (char *)verdict("hit counts"), "warn"));
    cr_expect(eq(str, (char *)verdict("socket"), "fail"));
    cr_expect(has_text(out, "join the group"), "%s", out);
    cr_assert(chmod(at("%s/work/%s", "cache/blocks"), 0755) == 0);
}

Test(cli, doctor_knows_how_long_the_path_of_a_socket_may_be)
{
    char name[128];

    snprintf(name, sizeof name, "%0100d", 0);
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", name), 1));
    cr_expect(eq(str, (char *)verdict("socket"), "fail"));
    setenv("LARDER_ENDPOINT", "/run/larder", 1);
    cr_expect(eq(int, LARDER("doctor", "--json", "--cache-dir", name), 0), "%s", out);
}

/* ---- run ---- */

/* A program larderd in $PATH; the fake library sees an agent once store/no-agent is gone. */
static void make_agent(const char *script)
{
    char *path = NULL, *text = NULL;

    cr_assert(asprintf(&path, "%s/bin:%s", dir, getenv("PATH")) != -1);
    cr_assert(asprintf(&text,
                       "#!/bin/sh\ncd \"$FAKE_LARDER_DIR\"\necho \"$LARDER_CACHE_DIR $*\" > agent\n"
                       "trap 'echo > stopped; exit 0' TERM\n%s\nwhile :; do sleep 0.02; done\n",
                       script) != -1);
    cr_assert(mkdir(at("%s/%s", "bin"), 0755) == 0);
    write_file(at("%s/%s", "bin/larderd"), text, strlen(text));
    cr_assert(chmod(at("%s/%s", "bin/larderd"), 0755) == 0);
    write_file(at("%s/%s", "store/no-agent"), "", 0);
    setenv("PATH", path, 1);
    setenv("XDG_CACHE_HOME", at("%s/%s", "xdg"), 1);
    free(text);
    free(path);
}

static void wait_for_file(const char *name)
{
    for (int i = 0; access(at("%s/%s", name), F_OK) == -1; i++) {
        cr_assert(i < 5000, "%s does not appear", name);
        usleep(2000);
    }
}

static bool exists(const char *name)
{
    return access(at("%s/%s", name), F_OK) == 0;
}

#define GOOD_AGENT "rm no-agent"

Test(cli, run_gives_a_command_an_agent_of_its_own)
{
    size_t len;
    char *agent, *end;

    make_agent(GOOD_AGENT);
    how.in = "from our standard input\n";
    cr_assert(
        eq(int,
           LARDER(
               "run", "-c", "file.yaml", "--", "sh", "-c",
               "echo $LARDER_CACHE_DIR; echo $LARDER_ENDPOINT; stat -c %a ${LARDER_CACHE_DIR%/cache}; cat; echo \"$@\"",
               "sh", "--help", "-v"),
           0),
        "%s", err);
    end = strchr(out, '\n');
    cr_assert(end != NULL);
    *end = '\0';
    agent = read_file(at("%s/%s", "store/agent"), &len);
    cr_expect(agent && strncmp(agent, out, strlen(out)) == 0 && has_text(agent, "/cache -c file.yaml\n"), "%s", agent);
    cr_expect(strncmp(end + 1, out, strlen(out)) == 0 && strncmp(end + 1 + strlen(out), "/ipc\n", 5) == 0);
    cr_expect(has_text(end + 1, "\n700\nfrom our standard input\n--help -v\n"), "%s", end + 1);
    cr_expect(access(out, F_OK) == -1 && exists("store/stopped"));
    cr_expect(eq(int, count_files("xdg/larder/run"), 0));
    cr_expect(eq(str, err, ""));
    free(agent);
}

Test(cli, run_ends_as_its_command_does)
{
    static const struct {
        const char *script;
        int status;
    } rows[] = { { "exit 0", 0 }, { "exit 7", 7 }, { "exit 255", 255 }, { "kill -9 $$", 128 + 9 } };

    make_agent(GOOD_AGENT);
    write_file(at("%s/work/%s", "plain"), "", 0);
    for (size_t i = 0; i < 4; i++)
        cr_expect(eq(int, LARDER("run", "sh", "-c", rows[i].script), rows[i].status), "%s: %s", rows[i].script, err);
    cr_expect(eq(int, LARDER("run", "./absent"), 127));
    cr_expect(has_text(err, "could not run \"./absent\": No such file"), "%s", err);
    cr_expect(eq(int, LARDER("run", "./plain"), 126));
    cr_expect(has_text(err, "could not run \"./plain\": Permission denied"), "%s", err);
    cr_expect(eq(int, count_files("xdg/larder/run"), 0));
}

Test(cli, an_agent_that_does_not_start_is_told_with_its_own_words)
{
    make_agent("echo 'the \x1b[31mdisk is full' >&2; exit 3");
    cr_expect(eq(int, LARDER("run", "echo", "never"), 1));
    cr_expect(eq(str, out, ""));
    cr_expect(eq(str, err, "larder: the agent ended before it answered\nlarder: larderd: the \\x1b[31mdisk is full\n"));
    cr_expect(eq(int, count_files("xdg/larder/run"), 0));
    unlink(at("%s/%s", "bin/larderd"));
    cr_expect(eq(int, LARDER("run", "echo", "never"), 1));
    cr_expect(has_text(err, "could not run larderd, neither beside this program nor in $PATH"), "%s", err);
}

Test(cli, an_agent_that_ends_early_is_told)
{
    make_agent("rm no-agent; while ! [ -e end ]; do sleep 0.02; done; echo the end >&2; exit 1");
    cr_expect(eq(int, LARDER("run", "sh", "-c", "cd $FAKE_LARDER_DIR; : > end; sleep 0.3; exit 5"), 5));
    cr_expect(eq(str, err, "larder: the agent ended before the command\nlarder: larderd: the end\n"));
}

Test(cli, run_passes_signals_on_and_cleans_up_behind)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP };

    make_agent(GOOD_AGENT);
    for (size_t i = 0; i < 3; i++) {
        pid_t pid;

        unlink(at("%s/%s", "work/ready"));
        pid = start(ARGV("run", "sh", "-c", "trap 'exit 9' TERM INT HUP; : > ready; while :; do sleep 0.02; done"));
        wait_for_file("work/ready");
        cr_assert(kill(pid, signals[i]) == 0);
        cr_expect(eq(int, finish(pid), 9), "%s", err);
        cr_expect(exists("store/stopped"));
        cr_expect(eq(int, count_files("xdg/larder/run"), 0));
        unlink(at("%s/%s", "store/stopped"));
        write_file(at("%s/%s", "store/no-agent"), "", 0);
    }
}

Test(cli, a_signal_while_the_agent_starts_ends_all)
{
    pid_t pid;

    make_agent(": it never answers");
    pid = start(ARGV("run", "echo", "never"));
    wait_for_file("store/agent");
    cr_assert(kill(pid, SIGTERM) == 0);
    cr_expect(eq(int, finish(pid), 128 + SIGTERM));
    cr_expect(eq(str, out, ""));
    cr_expect(eq(int, count_files("xdg/larder/run"), 0));
}

Test(cli, nothing_runs_on_when_run_is_killed)
{
    pid_t pid;

    make_agent(GOOD_AGENT);
    pid = start(ARGV("run", "sh", "-c", "trap ': > ended; exit 0' TERM; : > ready; while :; do sleep 0.02; done"));
    wait_for_file("work/ready");
    cr_assert(kill(pid, SIGKILL) == 0);
    cr_expect(eq(int, finish(pid), 256 + SIGKILL));
    wait_for_file("work/ended");
    wait_for_file("store/stopped");
}

Test(cli, run_keeps_what_it_is_told_to_keep)
{
    make_agent("rm no-agent; mkdir \"$LARDER_CACHE_DIR\"; : > \"$LARDER_CACHE_DIR/format\"; echo hello >&2");
    cr_expect(eq(int, LARDER("run", "--keep", "true"), 0));
    cr_expect(strncmp(err, "larder: kept \"", 14) == 0 && has_text(err, "/xdg/larder/run/larder-"), "%s", err);
    cr_expect(eq(int, count_files("xdg/larder/run"), 1));
}

/* ---- odd keys ---- */

Test(cli, odd_keys_are_taken_literally)
{
    static const char *const names[] = { "a b", "%20", "q?x#y", "+", "-o", "\xC3\xBC", "new\nline", "\xFF\xFE", "*" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char uri[64];

        snprintf(uri, sizeof uri, "s3://b/d/%s", names[i]);
        put(uri, names[i]);
        cr_expect(eq(int, LARDER("get", uri), 0), "%s", err);
        cr_expect(has(names[i], names[i]), "%s", names[i]);
    }
    cr_expect(eq(int, count_files("work"), sizeof names / sizeof names[0]));
}

Test(cli, no_message_carries_what_a_terminal_would_act_on)
{
    /* ESC, newline, a C1 control, a malformed byte, a mark that turns the direction */
    cr_expect(eq(int, LARDER("cat", "s3://b/\x1b[31m\n\xC2\x9B\xFF\xE2\x80\xAE-\xC3\xBC"), 3));
    cr_expect(has_text(err, "\"s3://b/\\x1b[31m\\x0a\\xc2\\x9b\\xff\\xe2\\x80\\xae-\xC3\xBC\""), "%s", err);
    cr_expect(is_one_line(err));
    cr_expect(eq(int, LARDER("--\x1b[31m"), 2));
    cr_expect(not(has_text(err, "\x1b")), "%s", err);
    cr_expect(eq(int, LARDER("ref", "split", "s3://b/\x1b[31m"), 0));
    cr_expect(not(has_text(out, "\x1b")), "%s", out);
}

Test(cli, json_is_unicode_and_loses_no_byte)
{
    json_t *v;

    put("s3://b/\xFF\xC3\xBC", "x");
    cr_assert(eq(int, LARDER("stat", "--json", "s3://b/\xFF\xC3\xBC"), 0));
    v = json_line(0);
    cr_expect(eq(str, (char *)text_of(v, "uri"), "s3://b/\xEF\xBF\xBD\xC3\xBC"));
    cr_expect(eq(str, (char *)text_of(v, "uri_hex"), "73333a2f2f622fffc3bc"));
}

/* ---- progress ---- */

/* Read what appears on a terminal into `text` until `want` stands in it. False: 10 s went by, or the end. */
static bool see(int terminal, char *text, size_t cap, const char *want)
{
    size_t n = strlen(text);

    while (!strstr(text, want)) {
        struct pollfd p = { .fd = terminal, .events = POLLIN };
        ssize_t got = n + 1 < cap && poll(&p, 1, 10000) == 1 ? read(terminal, text + n, cap - n - 1) : -1;

        if (got <= 0)
            return false;
        n += (size_t)got;
        text[n] = '\0';
    }
    return true;
}

static char seen[4096];

/* A terminal for standard error; *other is our end of what larder writes to. */
static int open_terminal(int *other)
{
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

    cr_assert(terminal != -1 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    *other = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert(ge(int, *other, 0));
    return terminal;
}

static pid_t start_on(int err_fd, const char *const argv[])
{
    how.err_fd = err_fd;
    return start(argv);
}

static void open_gate(void)
{
    write_file(at("%s/store/%s", "gate"), "", 0);
}

/* All that appeared on the terminal ends with `want`. */
static void expect_end(int terminal, int other, const char *want)
{
    cr_assert(write(other, "END", 3) == 3);
    cr_expect(see(terminal, seen, sizeof seen, "END"));
    cr_expect(strlen(seen) >= strlen(want) && strcmp(seen + strlen(seen) - strlen(want), want) == 0, "%s", seen);
    close(other);
    close(terminal);
}

Test(cli, a_long_transfer_shows_how_far_it_is_and_wipes_it_away)
{
    int other, terminal = open_terminal(&other);
    pid_t pid = start_on(other, ARGV("get", "s3://b/gate-100000"));

    cr_expect(see(terminal, seen, sizeof seen, "gate-100000   66% [######    ] 64.0 KiB of 97.7 KiB, "), "%s", seen);
    open_gate();
    how.err_fd = other;
    cr_expect(eq(int, finish(pid), 0));
    expect_end(terminal, other, "\r\033[KEND");
}

Test(cli, a_long_wait_shows_unless_quiet_is_asked_for)
{
    int other, terminal = open_terminal(&other), quiet_other, quiet_terminal = open_terminal(&quiet_other);
    pid_t quiet_pid = start_on(quiet_other, ARGV("-q", "stat", "s3://b/wait-1")); /* first: it had its time, too */
    pid_t pid = start_on(other, ARGV("stat", "s3://b/wait-1"));

    cr_expect(see(terminal, seen, sizeof seen, "wait-1  1 s"), "%s", seen);
    open_gate();
    how.err_fd = other;
    cr_expect(eq(int, finish(pid), 3));
    how.err_fd = quiet_other;
    cr_expect(eq(int, finish(quiet_pid), 3));
    seen[0] = '\0';
    expect_end(quiet_terminal, quiet_other, "END");
    cr_expect(strncmp(seen, "larder: could not stat", 22) == 0, "%s", seen);
    close(other);
    close(terminal);
}

Test(cli, many_objects_have_one_line)
{
    int other, terminal = open_terminal(&other);
    pid_t pid;

    put("s3://b/k", "0123456789");
    pid = start_on(other, ARGV("get", "s3://b/gate-100000", "s3://b/k", "s3://b/none", "-j3"));
    cr_expect(see(terminal, seen, sizeof seen, "2 of 3 objects, 64.0 KiB, "), "%s", seen);
    open_gate();
    how.err_fd = other;
    cr_expect(eq(int, finish(pid), 3));
    expect_end(terminal, other, "END");
    cr_expect(has_text(seen, "\r\033[Klarder: could not get \"s3://b/none\": there is no such object\r\n"), "%s", seen);
    cr_expect(has("k", "0123456789"));
}

Test(cli, a_long_put_shows_how_far_it_is)
{
    int other, terminal = open_terminal(&other);
    char *big = calloc(1, 9 * MIB);
    pid_t pid;

    write_file(at("%s/work/%s", "f"), big, 9 * MIB);
    pid = start_on(other, ARGV("put", "f", "s3://b/gate-1"));
    cr_expect(see(terminal, seen, sizeof seen, "gate-1    "), "%s", seen);
    cr_expect(see(terminal, seen, sizeof seen, " of 9.0 MiB, "), "%s", seen);
    open_gate();
    how.err_fd = other;
    cr_expect(eq(int, finish(pid), 0));
    expect_end(terminal, other, "\r\033[KEND");
    free(big);
}

Test(cli, ls_shows_a_terminal_nothing_that_it_would_act_on)
{
    int other, terminal = open_terminal(&other);

    put("s3://b/\x1b[31m\nred", "x");
    how.out_fd = other;
    cr_expect(eq(int, LARDER("ls", "s3://b/"), 0), "%s", err);
    expect_end(terminal, other, "s3://b/\\x1b[31m\\x0ared\r\nEND");
    cr_expect(eq(int, LARDER("ls", "s3://b/"), 0), "%s", err);
    cr_expect(eq(str, out, "s3://b/\x1b[31m\nred\n"), "a program gets it as it is");
}

Test(cli, what_is_quick_shows_nothing)
{
    int other, terminal = open_terminal(&other);
    pid_t pid = start_on(other, ARGV("get", "s3://b/large-1000"));

    how.err_fd = other;
    cr_expect(eq(int, finish(pid), 0));
    expect_end(terminal, other, "END");
    cr_expect(eq(str, seen, "END"));
}

Test(cli, a_get_that_is_killed_leaves_nothing)
{
    int other, terminal = open_terminal(&other);
    int fd = open(at("%s/%s", "work"), O_TMPFILE | O_WRONLY, 0600);
    pid_t pid;

    if (fd == -1)
        cr_skip_test("this file system has no files without a name");
    close(fd);
    pid = start_on(other, ARGV("get", "s3://b/gate-100000"));
    cr_expect(see(terminal, seen, sizeof seen, "66%"), "%s", seen);
    cr_assert(kill(pid, SIGKILL) == 0);
    how.err_fd = other;
    cr_expect(eq(int, finish(pid), 256 + SIGKILL));
    cr_expect(eq(int, count_files("work"), 0));
    close(other);
    close(terminal);
}
