/* report.c - medians, spreads and ratios: as tables for people, as JSON for machines, and against what is to be
 * reached. */
#include "bench/warm/warm.h"
#include "common/layout.h"

#include <jansson.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#define AGENT_NS_MAX 0.5 /* of its CPU a hit: a thousandth of what a hit takes, and what its timers make of it */

static const char *const mode_names[WARM_MODES] = { "1 pinned", "2 free", "2 pinned" };

struct figure {
    double median, spread; /* spread: (max - min) / median */
};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct figure figure_of(const double *v, unsigned n)
{
    double sorted[WARM_REPS_MAX], median;

    if (n == 0)
        return (struct figure){ 0 };
    memcpy(sorted, v, n * sizeof *v);
    qsort(sorted, n, sizeof *sorted, by_size);
    median = (sorted[n / 2] + sorted[(n - 1) / 2]) / 2;
    return (struct figure){ median, median ? (sorted[n - 1] - sorted[0]) / median : 0 };
}

static unsigned processes(unsigned mode)
{
    return mode == WARM_ONE ? 1 : 2;
}

/* How fast `c` was in a repetition: by the wall clock, or by the CPU time that it took, which other programs that run
 * at the same time change less. The two agree on a quiet machine, as no contestant ever sleeps. */
static double speed(const struct warm_cell *c, unsigned rep, bool by_cpu)
{
    return by_cpu ? 1 / c->cpu_ns[rep] : c->gets_s[rep];
}

/* How much faster `a` was than `b`, repetition by repetition. */
static struct figure ratio(const struct warm_cell *a, const struct warm_cell *b, bool by_cpu)
{
    unsigned n = a->reps < b->reps ? a->reps : b->reps;
    double v[WARM_REPS_MAX];

    for (unsigned i = 0; i < n; i++)
        v[i] = speed(a, i, by_cpu) / speed(b, i, by_cpu);
    return figure_of(v, n);
}

/* What two free processes gain over one with `a`, as a part of what they gain with `b`. */
static struct figure gain_ratio(const struct warm_result *r, enum warm_who a, enum warm_who b, bool by_cpu)
{
    const struct warm_cell *one = r->cell[WARM_ONE], *two = r->cell[WARM_TWO_FREE];
    unsigned n = two[a].reps < two[b].reps ? two[a].reps : two[b].reps;
    double v[WARM_REPS_MAX];

    for (unsigned i = 0; i < n; i++)
        v[i] = speed(&two[a], i, by_cpu) / speed(&one[a], i, by_cpu) /
               (speed(&two[b], i, by_cpu) / speed(&one[b], i, by_cpu));
    return figure_of(v, n);
}

/* What a contestant is compared with in the table; itself: with nothing. */
static enum warm_who reference(const struct warm_result *r, enum warm_who who)
{
    if (who == WARM_LARDER_FIRST && !r->set->sweep_only)
        return WARM_OPEN_KEEP;
    if (who == WARM_LARDER_FIRST || who == WARM_OPEN_KEEP || who == WARM_OPEN_MMAP)
        return WARM_OPEN_MMAP;
    return who == WARM_LOOP ? WARM_LOOP : WARM_RAW_LMDB;
}

/* ---- tables ---- */

void warm_report_set(const struct warm_result *r)
{
    printf("\n%u objects of %zu bytes (%s)\n", r->set->n, r->set->size, r->set->name);
    printf("  %-13s %-9s %10s %8s %8s %8s %7s %5s  %s\n", "contestant", "processes", "gets/s", "ns/get", "p50", "p99",
           "spread", "cpu", "speed of (by CPU time)");
    for (unsigned mode = 0; mode < WARM_MODES; mode++)
        for (enum warm_who w = 0; w < WARM_CONTESTANTS; w++) {
            const struct warm_cell *c = &r->cell[mode][w], *to = &r->cell[mode][reference(r, w)];
            struct figure f = figure_of(c->gets_s, c->reps);

            if (c->reps == 0)
                continue;
            printf("  %-13s %-9s %10.0f %8.0f %8.0f %8.0f %6.0f%% %4.0f%%", warm_contestants[w].name, mode_names[mode],
                   f.median, processes(mode) * 1e9 / f.median, warm_hist_ns(c->hist, 0.5), warm_hist_ns(c->hist, 0.99),
                   100 * f.spread, 100 * figure_of(c->cpu_share, c->reps).median);
            if (to->reps && to != c)
                printf("  %.2f %s (%.2f)", ratio(c, to, false).median, warm_contestants[reference(r, w)].name,
                       ratio(c, to, true).median);
            putchar('\n');
        }
    fflush(stdout);
}

static void cpu_model(char *out, size_t cap)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(out, cap, "unknown");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            snprintf(out, cap, "%s", strchr(line, ':') + 2);
            out[strcspn(out, "\n")] = '\0';
            break;
        }
    if (f)
        fclose(f);
}

static const char *file_system(const char *dir)
{
    const char *name = "unknown";
    struct statfs fs;

    if (statfs(dir, &fs) == 0)
        ldr_fs_suitable((long)fs.f_type, &name);
    return name;
}

void warm_report_machine(const struct warm_run *run)
{
    struct utsname u = { 0 };
    char cpu[128];

    uname(&u);
    cpu_model(cpu, sizeof cpu);
    printf("\n%s, %ld CPUs, %s %s, %s on %s\n", cpu, sysconf(_SC_NPROCESSORS_ONLN), u.sysname, u.release, u.machine,
           file_system(run->dir));
    printf("%u repetitions of %.2f s; pinned to CPU %d, the second to CPU %d; load %.2f before, %.2f after\n",
           run->reps, run->secs, run->cpu[0], run->cpu[1], run->load_before[0], run->load_after[0]);
}

/* ---- goals ---- */

struct goal {
    const char *what, *set; /* set NULL: every one that both were measured on */
    enum warm_who who, of;
    bool gain; /* of two free processes over one */
    double least;
};

static const struct goal goals[] = {
    { "4 KiB: larder_get / raw LMDB without a copy", "4K-100k", WARM_LARDER, WARM_RAW_LMDB, false, 0.4 },
    { "64 KiB, kept mapping: larder_get / raw LMDB", "64K-2k", WARM_LARDER, WARM_RAW_LMDB, false, 0.4 },
    { "1 MiB, kept mapping: larder_get / held mapping", "1M-200", WARM_LARDER, WARM_HELD, false, 0.6 },
    { "64 KiB, first open: larder_get / open+mmap", "64K-2k", WARM_LARDER_FIRST, WARM_OPEN_KEEP, false, 0.85 },
    { "1 MiB, first open: larder_get / open+mmap", "1M-200", WARM_LARDER_FIRST, WARM_OPEN_KEEP, false, 0.85 },
    { "two free processes' gain: larder_get / raw LMDB", NULL, WARM_LARDER, WARM_RAW_LMDB, true, 0.97 },
};

struct verdict {
    const struct goal *goal;
    const struct warm_result *result;
    struct figure ratio, by_cpu;
    bool met; /* by the wall clock */
};

/* Judge `goal` on a set. False: not measured there. */
static bool judge(const struct goal *g, const struct warm_result *r, struct verdict *out)
{
    unsigned mode = g->gain ? WARM_TWO_FREE : WARM_ONE;

    if ((g->set && strcmp(g->set, r->set->name)) || !r->cell[mode][g->who].reps || !r->cell[mode][g->of].reps)
        return false;
    out->goal = g;
    out->result = r;
    out->ratio =
        g->gain ? gain_ratio(r, g->who, g->of, false) : ratio(&r->cell[mode][g->who], &r->cell[mode][g->of], false);
    out->by_cpu =
        g->gain ? gain_ratio(r, g->who, g->of, true) : ratio(&r->cell[mode][g->who], &r->cell[mode][g->of], true);
    out->met = out->ratio.median >= g->least;
    return true;
}

struct totals {
    uint64_t hits, asks, kept;
    double agent_ns, larder_ns, idle_agent_ns, idle_ns;
    double ns_per_hit; /* above what it takes when larder is not used: its timers */
    bool met;
};

static struct totals totals_of(const struct warm_run *run)
{
    struct totals t = { 0 };

    for (size_t i = 0; i < run->n_results; i++) {
        const struct warm_result *r = &run->result[i];

        t.hits += r->hits;
        t.asks += r->asks;
        t.kept += r->kept;
        t.agent_ns += (double)r->agent_ns;
        t.larder_ns += (double)r->larder_ns;
        t.idle_agent_ns += (double)r->idle_agent_ns;
        t.idle_ns += (double)r->idle_ns;
    }
    if (t.hits)
        t.ns_per_hit = (t.agent_ns - (t.idle_ns > 0 ? t.idle_agent_ns / t.idle_ns * t.larder_ns : 0)) / (double)t.hits;
    if (t.ns_per_hit < 0)
        t.ns_per_hit = 0;
    t.met = t.asks == 0 && t.ns_per_hit < AGENT_NS_MAX;
    return t;
}

unsigned warm_report_goals(const struct warm_run *run)
{
    struct totals t = totals_of(run);
    struct verdict v;
    unsigned missed = 0;

    printf("\n%-52s %-10s %6s %7s %6s %7s %6s\n", "goal", "set", "ratio", "spread", "by CPU", "spread", "least");
    for (const struct goal *g = goals; g < goals + LDR_ARRAY_LEN(goals); g++)
        for (size_t i = 0; i < run->n_results; i++)
            if (judge(g, &run->result[i], &v)) {
                printf("%-52s %-10s %6.2f %6.0f%% %6.2f %6.0f%% %6.2f  %s\n", g->what, v.result->set->name,
                       v.ratio.median, 100 * v.ratio.spread, v.by_cpu.median, 100 * v.by_cpu.spread, g->least,
                       v.met ? "met" : "MISSED");
                missed += !v.met;
            }
    if (t.hits) {
        printf("%-52s %-10s %6.2f %29s  %s\n", "agent CPU per hit, ns", "all", t.ns_per_hit, "0",
               t.met ? "met" : "MISSED");
        printf("  %llu hits, %llu requests to the agent; CPU of the agent: %.0f us in %.1f s of reading larder, %.0f "
               "us in %.1f s "
               "of reading others\n",
               (unsigned long long)t.hits, (unsigned long long)t.asks, t.agent_ns / 1e3, t.larder_ns / 1e9,
               t.idle_agent_ns / 1e3, t.idle_ns / 1e9);
        if (t.kept)
            printf("  %llu first opens were none: a kept mapping served them\n", (unsigned long long)t.kept);
        missed += !t.met;
    }
    return missed;
}

/* ---- JSON ---- */

static json_t *list_of(const double *v, unsigned n)
{
    json_t *a = json_array();

    for (unsigned i = 0; i < n; i++)
        json_array_append_new(a, json_real(v[i]));
    return a;
}

static json_t *cell_json(const struct warm_result *r, unsigned mode, enum warm_who w)
{
    const struct warm_cell *c = &r->cell[mode][w];
    struct figure f = figure_of(c->gets_s, c->reps);
    enum warm_who ref = reference(r, w);
    json_t *j = json_pack("{s:s, s:s, s:s, s:i, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "set", r->set->name,
                          "contestant", warm_contestants[w].name, "what", warm_contestants[w].what, "processes",
                          (int)processes(mode), "pinned", mode != WARM_TWO_FREE, "gets_per_s", f.median, "ns_per_get",
                          processes(mode) * 1e9 / f.median, "p50_ns", warm_hist_ns(c->hist, 0.5), "p99_ns",
                          warm_hist_ns(c->hist, 0.99), "spread", f.spread, "cpu_share",
                          figure_of(c->cpu_share, c->reps).median, "cpu_ns_per_get",
                          figure_of(c->cpu_ns, c->reps).median, "gets_per_s_each", list_of(c->gets_s, c->reps));

    if (r->cell[mode][ref].reps && ref != w) {
        struct figure of = ratio(c, &r->cell[mode][ref], false), by_cpu = ratio(c, &r->cell[mode][ref], true);

        json_object_set_new(j, "ratio",
                            json_pack("{s:s, s:f, s:f, s:f, s:f}", "to", warm_contestants[ref].name, "median",
                                      of.median, "spread", of.spread, "by_cpu_time", by_cpu.median,
                                      "by_cpu_time_spread", by_cpu.spread));
    }
    return j;
}

static json_t *goals_json(const struct warm_run *run)
{
    struct totals t = totals_of(run);
    json_t *a = json_array();
    struct verdict v;

    for (const struct goal *g = goals; g < goals + LDR_ARRAY_LEN(goals); g++)
        for (size_t i = 0; i < run->n_results; i++)
            if (judge(g, &run->result[i], &v))
                json_array_append_new(a, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:b}", "goal", g->what, "set",
                                                   v.result->set->name, "ratio", v.ratio.median, "spread",
                                                   v.ratio.spread, "by_cpu_time", v.by_cpu.median, "by_cpu_time_spread",
                                                   v.by_cpu.spread, "least", g->least, "met", v.met));
    if (t.hits)
        json_array_append_new(a, json_pack("{s:s, s:f, s:b, s:I, s:I, s:f, s:f, s:f, s:f}", "goal",
                                           "agent CPU per hit, ns", "ns", t.ns_per_hit, "met", t.met, "hits",
                                           (json_int_t)t.hits, "requests", (json_int_t)t.asks, "agent_cpu_ns",
                                           t.agent_ns, "measured_ns", t.larder_ns, "idle_agent_cpu_ns", t.idle_agent_ns,
                                           "idle_measured_ns", t.idle_ns));
    return a;
}

static json_t *machine_json(const struct warm_run *run)
{
    struct utsname u = { 0 };
    char cpu[128];

    uname(&u);
    cpu_model(cpu, sizeof cpu);
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:o, s:o}", "cpu", cpu, "cpus", (int)sysconf(_SC_NPROCESSORS_ONLN),
                     "kernel", u.release, "architecture", u.machine, "file_system", file_system(run->dir), "lmdb",
                     mdb_version(NULL, NULL, NULL), "load_before", list_of(run->load_before, 3), "load_after",
                     list_of(run->load_after, 3));
}

void warm_report_json(const struct warm_run *run, const char *path)
{
    json_t *cells = json_array(), *all;

    for (size_t i = 0; i < run->n_results; i++)
        for (unsigned mode = 0; mode < WARM_MODES; mode++)
            for (enum warm_who w = 0; w < WARM_CONTESTANTS; w++)
                if (run->result[i].cell[mode][w].reps)
                    json_array_append_new(cells, cell_json(&run->result[i], mode, w));
    all = json_pack("{s:s, s:s, s:o, s:{s:i, s:f, s:i, s:i}, s:o, s:o}", "benchmark", "warm", "larder", LARDER_VERSION,
                    "machine", machine_json(run), "options", "reps", (int)run->reps, "secs", run->secs, "cpu",
                    run->cpu[0], "second_cpu", run->cpu[1], "cells", cells, "goals", goals_json(run));
    if (!all || json_dump_file(all, path, JSON_INDENT(1)))
        warm_die("could not write %s", path);
    json_decref(all);
}
