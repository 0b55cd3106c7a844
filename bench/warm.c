/* warm.c - what a warm read costs, against the ways of reading that have no agent, no limits and no checks.
 *
 *     build/bench/warm                  all sets, about seven minutes: a table and the ratios
 *     build/bench/warm --json FILE      the same, for machines, too
 *     build/bench/warm --help
 *
 * Sets of objects are read by one process on one core, two wherever the scheduler puts them, and two on a core each.
 * All contestants of a set are open at the same time and take turns, in short slices, in an order that rotates; ratios
 * are taken between slices of the same repetition, and their median counts. Every read checks the object's length and
 * number, and adds up one word of each 4 KiB page. docs/performance.md says more. */
#include "bench/warm/warm.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHM "/dev/shm"

struct options {
    const char *dir, *json, *only, *contestants;
    char larderd[PATH_MAX];
    double secs;
    unsigned reps;
    int cpu;
    bool strict, one;
};

static const char help[] =
    "usage: warm [options]: what a warm read costs (docs/performance.md)\n"
    "  --dir DIR            make the data below DIR (default: /dev/shm if there is room, else $TMPDIR, else /tmp)\n"
    "  --json FILE          write all figures to FILE\n"
    "  --reps N             repetitions (default 9)\n"
    "  --secs S             seconds of one slice: a contestant, a mode, a repetition (default 0.2)\n"
    "  --only SET,...       of 256B-100k, 256B-1M, 4K-100k, 64K-2k, 1M-200, 64K-20k\n"
    "  --contestants C,...  of larder, larder-into, larder-first, lmdb, held, open+mmap, open+keep, (loop)\n"
    "  --one                only one process (for a profiler)\n"
    "  --cpu N              pin one process to CPU N (default: the last one)\n"
    "  --larderd PROGRAM    the agent (default: ../bin/larderd beside this program)\n"
    "  --strict             exit 1 if a goal is missed\n";

void warm_die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("warm: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* Is `name` in the comma-separated list? NULL lists everything. */
static bool listed(const char *list, const char *name)
{
    size_t n = strlen(name), len;

    for (const char *at = list; at; at = at[len] ? at + len + 1 : NULL) {
        len = strcspn(at, ",");
        if (len == n && !strncmp(at, name, n))
            return true;
    }
    return !list;
}

static unsigned entries(const char *list)
{
    unsigned n = 1;

    while ((list = strchr(list, ',')))
        list++, n++;
    return n;
}

/* Every entry of the lists must name something. */
static void check_lists(const struct options *o)
{
    unsigned sets = 0, contestants = 0;

    for (size_t i = 0; i < warm_n_sets; i++)
        sets += listed(o->only, warm_sets[i].name);
    for (size_t i = 0; i < WARM_CONTESTANTS; i++)
        contestants += listed(o->contestants, warm_contestants[i].name);
    if (o->only && sets != entries(o->only))
        warm_die("--only %s: not all of them are sets", o->only);
    if (o->contestants && contestants != entries(o->contestants))
        warm_die("--contestants %s: not all of them are contestants", o->contestants);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void remove_tree(const char *dir)
{
    if (nftw(dir, remove_entry, 32, FTW_DEPTH | FTW_PHYS))
        fprintf(stderr, "warm: could not remove %s: %s\n", dir, strerror(errno));
}

/* ---- one set ---- */

/* One slice of one contestant. */
static void slice(struct warm_run *run, struct warm_result *r, enum warm_mode mode, enum warm_who who,
                  struct warm_client client[2], pid_t agent, unsigned rep)
{
    struct warm_cell *cell = &r->cell[mode][who];
    unsigned n = mode == WARM_ONE ? 1 : 2;
    uint64_t agent_ns = warm_agent_cpu_ns(agent);
    struct larder_counts before[2] = { client[0].slot->counts, client[1].slot->counts };
    int64_t start = ldr_mono_ns();
    double gets_s = 0, gets = 0, cpu_s = 0, wall_s = 0;

    for (unsigned i = 0; i < n; i++)
        warm_client_go(&client[i], run->secs, mode == WARM_TWO_FREE ? -1 : run->cpu[i], rep * 97 + mode * 7 + i + 1);
    for (unsigned i = 0; i < n; i++) {
        struct warm_slot *s = client[i].slot;

        warm_client_wait(&client[i]);
        gets += (double)s->ops;
        gets_s += (double)s->ops / s->wall_s;
        cpu_s += s->cpu_s;
        wall_s += s->wall_s;
        for (unsigned b = 0; b < WARM_HIST; b++)
            cell->hist[b] += s->hist[b];
        r->asks += s->counts.asks - before[i].asks;
        if (who == WARM_LARDER_FIRST)
            r->kept += s->counts.kept - before[i].kept;
        else
            r->hits += s->counts.hits - before[i].hits;
    }
    agent_ns = warm_agent_cpu_ns(agent) - agent_ns;
    if (who == WARM_LARDER || who == WARM_LARDER_INTO) {
        r->agent_ns += agent_ns;
        r->larder_ns += (uint64_t)(ldr_mono_ns() - start);
    } else if (!warm_contestants[who].counts) {
        r->idle_agent_ns += agent_ns;
        r->idle_ns += (uint64_t)(ldr_mono_ns() - start);
    }
    cell->gets_s[rep] = gets_s;
    cell->cpu_ns[rep] = cpu_s * 1e9 / gets;
    cell->cpu_share[rep] = cpu_s / wall_s;
    cell->reps = rep + 1;
}

static bool takes_part(const struct options *o, const struct warm_set *set, enum warm_who who)
{
    return warm_contestants[who].takes(set) && listed(o->contestants, warm_contestants[who].name);
}

static void measure_set(const struct options *o, struct warm_run *run, const struct warm_set *set)
{
    struct warm_result *r = &run->result[run->n_results++];
    struct warm_client client[WARM_CONTESTANTS][2];
    enum warm_who part[WARM_CONTESTANTS];
    unsigned n = 0, modes = o->one || run->cpu[1] < 0 ? 1 : WARM_MODES;
    char dir[WARM_PATH_MAX];
    pid_t agent;

    r->set = set;
    warm_path(dir, run->dir, set->name);
    if (mkdir(dir, 0700))
        warm_die("could not make %s: %s", dir, strerror(errno));
    fprintf(stderr, "%s: filling ...\n", set->name);
    warm_fill(set, dir);
    agent = warm_agent_start(o->larderd, set, dir);
    for (enum warm_who w = 0; w < WARM_CONTESTANTS; w++)
        if (takes_part(o, set, w)) {
            part[n++] = w;
            for (unsigned i = 0; i < 2; i++)
                warm_client_start(&client[w][i], set, &warm_contestants[w], dir);
        }
    fprintf(stderr, "%s: reading, %.0f s ...\n", set->name, run->reps * modes * n * run->secs * 2);
    for (unsigned rep = 0; rep < run->reps; rep++)
        for (unsigned mode = 0; mode < modes; mode++)
            for (unsigned i = 0; i < n; i++) {
                enum warm_who w = part[(i + rep) % n];

                slice(run, r, mode, w, client[w], agent, rep);
            }
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < 2; k++)
            warm_client_stop(&client[part[i]][k]);
    warm_agent_stop(&agent);
    remove_tree(dir);
    warm_report_set(r);
}

/* ---- the run ---- */

static void load(double out[3])
{
    if (getloadavg(out, 3) != 3)
        out[0] = out[1] = out[2] = -1;
}

/* The CPUs that clients are pinned to: the last one, which has least to do with interrupts, and the one before it. */
static void choose_cpus(struct warm_run *run, int wanted)
{
    cpu_set_t all;

    if (sched_getaffinity(0, sizeof all, &all))
        warm_die("could not ask for the CPUs: %s", strerror(errno));
    run->cpu[0] = wanted;
    run->cpu[1] = -1;
    for (int i = CPU_SETSIZE - 1; i >= 0 && run->cpu[1] < 0; i--)
        if (CPU_ISSET((unsigned)i, &all)) {
            if (run->cpu[0] < 0)
                run->cpu[0] = i;
            else if (i != run->cpu[0])
                run->cpu[1] = i;
        }
}

static int run_all(const struct options *o, const char *dir)
{
    struct warm_run run = { .dir = dir, .secs = o->secs, .reps = o->reps };
    unsigned missed;

    run.result = calloc(warm_n_sets, sizeof *run.result);
    if (!run.result)
        warm_die("out of memory");
    choose_cpus(&run, o->cpu);
    load(run.load_before);
    for (size_t i = 0; i < warm_n_sets; i++)
        if (listed(o->only, warm_sets[i].name))
            measure_set(o, &run, &warm_sets[i]);
    load(run.load_after);
    warm_report_machine(&run);
    missed = warm_report_goals(&run);
    if (o->json)
        warm_report_json(&run, o->json);
    free(run.result);
    return o->strict && missed ? 1 : 0;
}

/* ---- a directory, gone at the end whatever that is ---- */

static uint64_t bytes_needed(const struct options *o)
{
    uint64_t most = 0;

    for (size_t i = 0; i < warm_n_sets; i++)
        if (listed(o->only, warm_sets[i].name) && warm_set_bytes(&warm_sets[i]) > most)
            most = warm_set_bytes(&warm_sets[i]);
    return most;
}

static uint64_t bytes_free(const char *dir)
{
    struct statvfs v;

    return statvfs(dir, &v) ? 0 : v.f_bavail * v.f_frsize;
}

static void make_dir(const struct options *o, char out[WARM_PATH_MAX])
{
    const char *below = o->dir, *tmp = getenv("TMPDIR");
    uint64_t needed = bytes_needed(o);
    char real[PATH_MAX];

    if (!below)
        below = bytes_free(SHM) > needed ? SHM : tmp && *tmp ? tmp : "/tmp";
    if (bytes_free(below) < needed)
        warm_die("%s is not there or has no room for %llu MiB: use --dir or --only", below,
                 (unsigned long long)(needed / LDR_MIB));
    if (!realpath(below, real)) /* the agent's settings name it, and must be absolute */
        warm_die("could not find directory %s: %s", below, strerror(errno));
    warm_path(out, real, "larder-bench-XXXXXX");
    if (!mkdtemp(out))
        warm_die("could not make a directory in %s: %s", below, strerror(errno));
}

/* The work is done in a child, so that its end, or ours by a signal, leaves nothing behind. */
static int run_in(const struct options *o, const char *dir)
{
    sigset_t ends, before;
    int status, sig;
    pid_t pid;

    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ends, &before);
    pid = fork();
    if (pid < 0)
        warm_die("could not fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        exit(run_all(o, dir));
    }
    while (sigwait(&ends, &sig) == 0 && sig == SIGCHLD && waitpid(pid, &status, WNOHANG) == 0)
        ;
    if (sig != SIGCHLD) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        return 1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static double number_of(const char *text, const char *option, double low, double high)
{
    char *end;
    double v = strtod(text, &end);

    if (!*text || *end || !(v >= low && v <= high))
        warm_die("--%s %s: must be from %g to %g", option, text, low, high);
    return v;
}

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option options[] = {
        { "dir", required_argument, NULL, 'd' },
        { "json", required_argument, NULL, 'j' },
        { "reps", required_argument, NULL, 'r' },
        { "secs", required_argument, NULL, 's' },
        { "only", required_argument, NULL, 'o' },
        { "cpu", required_argument, NULL, 'c' },
        { "larderd", required_argument, NULL, 'l' },
        { "strict", no_argument, NULL, 'x' },
        { "contestants", required_argument, NULL, 'C' },
        { "one", no_argument, NULL, '1' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'd':
            o->dir = optarg;
            break;
        case 'j':
            o->json = optarg;
            break;
        case 'o':
            o->only = optarg;
            break;
        case 'C':
            o->contestants = optarg;
            break;
        case 'l':
            snprintf(o->larderd, sizeof o->larderd, "%s", optarg);
            break;
        case 'r':
            o->reps = (unsigned)number_of(optarg, "reps", 1, WARM_REPS_MAX);
            break;
        case 's':
            o->secs = number_of(optarg, "secs", 0.001, 3600);
            break;
        case 'c':
            o->cpu = (int)number_of(optarg, "cpu", 0, CPU_SETSIZE - 1);
            break;
        case '1':
            o->one = true;
            break;
        case 'x':
            o->strict = true;
            break;
        case 'h':
            fputs(help, stdout);
            exit(0);
        default:
            exit(2);
        }
    if (optind < argc) {
        fputs(help, stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct options o = { .secs = 0.2, .reps = 9, .cpu = -1 };
    char self[PATH_MAX], dir[WARM_PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    int status;

    if (n > 0) {
        self[n] = '\0';
        if (snprintf(o.larderd, sizeof o.larderd, "%s/../bin/larderd", dirname(self)) >= (int)sizeof o.larderd)
            o.larderd[0] = '\0';
    }
    parse(argc, argv, &o);
    check_lists(&o);
    if (access(o.larderd, X_OK))
        warm_die("could not find the agent \"%s\": use --larderd", o.larderd);
    make_dir(&o, dir);
    status = run_in(&o, dir);
    remove_tree(dir);
    return status;
}
