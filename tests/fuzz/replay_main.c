/* replay_main.c - a main for the fuzzers of this folder where libFuzzer is not: in the ordinary build and its
 * sanitizers.
 *
 *   fuzz_NAME [--runs=N] [--seed=S] [FILE | DIRECTORY]...
 *
 * Runs every file (of a directory: its files), then N mutations of them. Run i depends on S + i alone, so a failure is
 * repeated by the --seed that is printed when it happens. Every input stands in memory of exactly its size, so that a
 * sanitizer sees a read past its end; one that takes longer than INPUT_SECONDS is a failure. */
#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_MAX     (1u << 20)
#define INPUT_SECONDS 60

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
extern int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
    uint8_t *p;
    size_t n;
};

static char running[PATH_MAX + 64]; /* what is being run: for the handler alone */

static void say_what_died(void)
{
    static const char text[] = "\nfuzz replay: died in ";

    if (write(STDERR_FILENO, text, sizeof text - 1) < 0 || write(STDERR_FILENO, running, strlen(running)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0)
        return;
}

static void on_signal(int sig)
{
    say_what_died();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void die(const char *what, const char *name)
{
    fprintf(stderr, "fuzz replay: %s \"%s\"\n", what, name);
    exit(2);
}

static void run(const uint8_t *p, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);

    if (!exact)
        die("no memory for", running);
    if (n)
        memcpy(exact, p, n);
    alarm(INPUT_SECONDS);
    LLVMFuzzerTestOneInput(exact, n);
    alarm(0);
    free(exact);
}

/* splitmix64: a few good bits from any seed */
static uint64_t rnd(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t n)
{
    return n ? rnd(state) % n : 0;
}

/* Change `n` bytes of `p` (room for INPUT_MAX); returns the new length. */
static size_t mutate(uint8_t *p, size_t n, const struct input *other, uint64_t *s)
{
    static const uint8_t edges[] = { 0, 1, 0x7f, 0x80, 0xff, '/', '%', '<', '"', '\n' };
    size_t at = below(s, n), len = below(s, 1 + (n - at < 16 ? n - at : 16));

    switch (rnd(s) % 8) {
    case 0: /* one bit */
        if (n)
            p[at] ^= 1u << rnd(s) % 8;
        return n;
    case 1: /* one byte that is often a limit */
        if (n)
            p[at] = edges[rnd(s) % sizeof edges];
        return n;
    case 2: /* any bytes */
        for (size_t i = 0; i < len; i++)
            p[at + i] = (uint8_t)rnd(s);
        return n;
    case 3: /* cut the end off */
        return at;
    case 4: /* cut a piece out */
        memmove(p + at, p + at + len, n - at - len);
        return n - len;
    case 5: /* a piece twice */
        if (n + len > INPUT_MAX)
            return n;
        memmove(p + at + len, p + at, n - at);
        return n + len;
    case 6: /* a length field gone wrong: eight bytes all alike */
        for (size_t i = at; i < n && i < at + 8; i++)
            p[i] = rnd(s) % 2 ? 0xff : 0;
        return n;
    default: /* the beginning of one, the end of another */
        len = other->n - below(s, other->n);
        if (at + len > INPUT_MAX)
            return n;
        if (len)
            memcpy(p + at, other->p + (other->n - len), len);
        return at + len;
    }
}

static void load_file(const char *path, struct input **all, size_t *count)
{
    FILE *f = fopen(path, "rb");
    struct input in = { malloc(INPUT_MAX), 0 };

    if (!f || !in.p)
        die("could not open", path);
    in.n = fread(in.p, 1, INPUT_MAX, f);
    fclose(f);
    *all = realloc(*all, (*count + 1) * sizeof **all);
    if (!*all)
        die("no memory for", path);
    (*all)[(*count)++] = in;
    snprintf(running, sizeof running, "%s", path);
    run(in.p, in.n);
}

static int not_hidden(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static void load(const char *path, struct input **all, size_t *count)
{
    struct dirent **names;
    struct stat st;
    int n;

    if (stat(path, &st)) {
        fprintf(stderr, "fuzz replay: *** there is no corpus \"%s\"\n", path);
        return;
    }
    if (!S_ISDIR(st.st_mode)) {
        load_file(path, all, count);
        return;
    }
    n = scandir(path, &names, not_hidden, alphasort); /* the same order on every machine */
    if (n < 0)
        die("could not list", path);
    for (int i = 0; i < n; i++) {
        char name[PATH_MAX];

        if (snprintf(name, sizeof name, "%s/%s", path, names[i]->d_name) >= (int)sizeof name)
            die("the path is too long below", path);
        free(names[i]);
        load_file(name, all, count);
    }
    free(names);
}

int main(int argc, char **argv)
{
    struct input *all = NULL;
    size_t count = 0;
    unsigned long runs = 0;
    uint64_t seed = 1;
    static uint8_t buf[INPUT_MAX];

    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(say_what_died); /* it has handlers of its own for what follows */
    else
        for (size_t i = 0; i < 4; i++)
            signal((int[]){ SIGSEGV, SIGBUS, SIGABRT, SIGFPE }[i], on_signal);
    signal(SIGALRM, on_signal);
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);

    for (int i = 1; i < argc; i++) {
        if (sscanf(argv[i], "--runs=%lu", &runs) == 1 || sscanf(argv[i], "--seed=%" SCNu64, &seed) == 1)
            continue;
        if (argv[i][0] == '-')
            die("unknown option", argv[i]);
        load(argv[i], &all, &count);
    }
    snprintf(running, sizeof running, "the empty input");
    run(NULL, 0);
    for (unsigned long i = 0; i < runs; i++) {
        uint64_t s = seed + i;
        const struct input none = { NULL, 0 }, *in = count ? &all[below(&s, count)] : &none,
                           *other = count ? &all[below(&s, count)] : &none;
        size_t n = in->n;

        snprintf(running, sizeof running, "--seed=%" PRIu64 " --runs=1", seed + i);
        if (n)
            memcpy(buf, in->p, n);
        else /* nothing to start from: noise */
            for (n = below(&s, 256); n > 0 && !count; n--)
                buf[n - 1] = (uint8_t)rnd(&s);
        for (size_t k = 1 + below(&s, 4); k > 0; k--)
            n = mutate(buf, n, other, &s);
        run(buf, n);
    }
    printf("fuzz replay: %zu files, %lu mutations\n", count, runs);
    for (size_t i = 0; i < count; i++)
        free(all[i].p);
    free(all);
    return 0;
}
