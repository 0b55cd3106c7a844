/* cli_test.c - the program `larder` with a real agent: what tests/unit/cli_test.c checks with a library that only
 * plays one. Commands are lines for the shell, in the test's directory, with the programs in $PATH. */
#include "tests/e2e/e2e.h"

#ifndef LDR_TEST_BIN
#define LDR_TEST_BIN "build/bin"
#endif

#define LARGE (20 * LDR_MIB + 5) /* three blocks */

static struct agent agent;
static char output[64 * LDR_KIB]; /* of the last command, both its streams */

static void prepare(void)
{
    char *bin = realpath(LDR_TEST_BIN, NULL), *path = NULL;

    cr_assert(bin && asprintf(&path, "%s:%s", bin, getenv("PATH")) != -1);
    agent_init(&agent, NULL);
    setenv("PATH", path, 1);
    setenv("LARDER_CACHE_DIR", agent.cache, 1);
    setenv("XDG_CACHE_HOME", agent.dir, 1);
    unsetenv("LARDER_ENDPOINT");
    free(path);
    free(bin);
}

static void leave(void)
{
    agent_release(&agent);
}

TestSuite(program, .init = prepare, .fini = leave, .timeout = 60);

/* Run a line; returns its exit status, -1 when a signal ended it. */
static int sh(const char *line)
{
    char *command = NULL;
    FILE *f;
    size_t n;
    int status;

    cr_assert(asprintf(&command, "cd '%s' && exec 2>&1 && %s", agent.dir, line) != -1);
    f = popen(command, "r");
    cr_assert(f != NULL);
    n = fread(output, 1, sizeof output - 1, f);
    output[n] = '\0';
    status = pclose(f);
    free(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect(const char *line, int status, const char *text)
{
    int got = sh(line);

    cr_assert(eq(int, got, status), "%s: %s", line, output);
    cr_assert(text == NULL || !strcmp(output, text), "%s: %s", line, output);
}

Test(program, what_is_below_a_prefix_is_listed_and_got)
{
    agent_start(&agent);
    expect("printf one | larder put - file://box/d/a", 0, "");
    expect("printf two | larder put - file://box/d/b", 0, "");
    expect("printf three | larder put - file://box/d/sub/c", 0, "");
    expect("larder ls file://box/d/", 0, "file://box/d/a\nfile://box/d/b\nfile://box/d/sub/\n");
    expect("larder ls -R file://box/d/", 0, "file://box/d/a\nfile://box/d/b\nfile://box/d/sub/c\n");
    expect("larder ls file://box/nothing/", 0, "");
    expect("larder ls file://box/nothing", 3, NULL);
    expect("larder get -r file://box/d/ out && cat out/a out/b out/sub/c", 0, "onetwothree");
    expect("larder ls -R file://box/d/ | larder get --from-file - -d flat && cat flat/a flat/b flat/c", 0,
           "onetwothree");
    expect("larder get file://box/d/a file://box/d/none -d flat", 3, NULL);
}

Test(program, an_object_of_several_blocks_is_got_whole_and_in_part)
{
    uint8_t *bytes = bd_bytes(LARGE, 7);

    agent_start(&agent);
    agent_seed_file(&agent, "box", "large", bytes, LARGE);
    expect("larder get file://box/large -o copy && cmp copy objects/box/large", 0, "");
    expect("larder cat file://box/large | cmp - objects/box/large", 0, "");
    expect("larder cat file://box/large --offset 8388600 --length 9000000 > part; "
           "tail -c +8388601 objects/box/large | head -c 9000000 | cmp - part",
           0, "");
    expect("larder cat file://box/large --offset 20971524", 0, NULL);
    cr_expect(eq(int, memcmp(output, bytes + 20971524, 1), 0));
    free(bytes);
}

Test(program, objects_and_files_are_copied)
{
    agent_start(&agent);
    agent_seed_file(&agent, "box", "k", "bytes", 5);
    expect("larder cp file://box/k file://box/l && larder cat file://box/l", 0, "bytes");
    expect("larder cp file://box/k mem://other/k && larder cat mem://other/k", 0, "bytes");
    expect("larder cp mem://other/k f && cat f && larder cp f file://box/d/ && larder cat file://box/d/f", 0,
           "bytesbytes");
    expect("larder cp file://box/none file://box/l", 3, NULL);
    expect("larder cat file://box/l", 0, "bytes");
}

Test(program, why_and_doctor_tell_of_a_running_agent)
{
    agent_start(&agent);
    agent_seed_file(&agent, "box", "k", "bytes", 5);
    expect("larder why file://box/k", 0, NULL);
    cr_expect(has(output, "miss"), "%s", output);
    expect("larder cat file://box/k && larder why file://box/k", 0, NULL);
    cr_expect(has(output, "hit: read here"), "%s", output);
    expect("larder doctor", 0, NULL);
    cr_expect(has(output, "ok    agent ") && has(output, "ok    index ") && has(output, "ok    socket "), "%s", output);
    agent_stop(&agent);
    expect("larder doctor", 0, NULL);
    cr_expect(has(output, "warn  agent "), "%s", output);
}

Test(program, a_command_runs_with_an_agent_of_its_own)
{
    agent_seed_file(&agent, "box", "k", "bytes", 5);
    expect("larder run -c larderd.yaml -- sh -c 'larder cat file://box/k; larder -v cat file://box/k; exit 4'", 4,
           NULL);
    cr_expect(has(output, "bytesbytes") && has(output, "hit\n"), "%s", output);
    expect("ls larder/run", 0, "");
    expect("larder run -c absent.yaml -- echo never", 1, NULL);
    cr_expect(has(output, "absent.yaml") && !has(output, "never"), "%s", output);
}
