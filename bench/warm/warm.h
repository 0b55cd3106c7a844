/* warm.h - the parts of the benchmark of the warm read: what is read (data.c), by whom (contestants.c), in which
 * processes (client.c), beside which agent (agent.c), and what is made of the figures (report.c). What a benchmark
 * cannot go on without ends it with a message (warm_die). One thread. */
#ifndef WARM_H
#define WARM_H

#include "client/larder.h"
#include "common/clock.h"

#include <stdbool.h>
#include <sys/types.h>

_Noreturn void warm_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- what is read ---- */

#define WARM_PATH_MAX 256

struct warm_set {
    const char *name;
    uint32_t n;      /* objects */
    size_t size;     /* bytes of each; the first 8 are its number */
    bool blocks;     /* block files, else inside the index */
    bool sweep_only; /* more than a process keeps mapped: only read in an order that comes to each object once a pass */
};

extern const struct warm_set warm_sets[];
extern const size_t warm_n_sets;

/* The reference of object `i`, 100 bytes and a NUL; the same text is its key in LMDB. Numbers are mixed, so objects
 * that are made one after another are far apart in key order. */
#define WARM_KEY_MAX 128
size_t warm_key(uint32_t i, char out[WARM_KEY_MAX]);

/* Where each contestant finds a set below `dir`. */
void warm_path(char out[WARM_PATH_MAX], const char *dir, const char *part);
#define WARM_CACHE     "cache" /* a cache directory, filled by the agent's own code and marked clean */
#define WARM_LMDB      "lmdb"  /* an environment with the same keys and values */
#define WARM_FILES     "files" /* one file an object, named by 8 hex digits (block sets only) */
#define WARM_FILE_NAME 8

/* Bytes of files that the set takes, about. */
uint64_t warm_set_bytes(const struct warm_set *set);
/* What the index may hold of it inside. */
uint64_t warm_inline_bytes(const struct warm_set *set);
void warm_fill(const struct warm_set *set, const char *dir);

/* ---- the agent ---- */

/* Start `program` on the set's cache below `dir` and wait until it answers. */
pid_t warm_agent_start(const char *program, const struct warm_set *set, const char *dir);
/* Nanoseconds on a CPU since it started, all threads. */
uint64_t warm_agent_cpu_ns(pid_t agent);
void warm_agent_stop(pid_t *agent);

/* ---- who reads ---- */

struct warm_contestant {
    const char *name, *what;
    bool sweep;                                /* goes through the objects in order, each once a pass */
    bool (*takes)(const struct warm_set *set); /* is it of interest there? */
    void *(*open)(const struct warm_set *set, const char *dir); /* dies if it cannot */
    /* Object `i`: *p and *len until the next call of release. False: it could not be had. */
    bool (*get)(void *state, uint32_t i, const uint8_t **p, size_t *len);
    void (*release)(void *state);                           /* NULL: nothing to do */
    void (*counts)(void *state, struct larder_counts *out); /* NULL: not larder */
};

enum warm_who { /* of warm_contestants[] */
                WARM_LARDER,
                WARM_LARDER_INTO,
                WARM_LARDER_FIRST,
                WARM_RAW_LMDB,
                WARM_HELD,
                WARM_OPEN_MMAP,
                WARM_OPEN_KEEP,
                WARM_LOOP,
                WARM_CONTESTANTS
};
extern const struct warm_contestant warm_contestants[WARM_CONTESTANTS];

/* ---- processes that read ---- */

#define WARM_STEPS 32 /* of the histogram in each power of two: 3 % wide */
#define WARM_HIST  (64 * WARM_STEPS)

/* Shared by a client and who started it. */
struct warm_slot {
    /* the order */
    double secs; /* 0: end */
    int cpu;     /* -1: any */
    uint64_t seed;
    /* the answer */
    uint64_t ops, sum;
    double wall_s, cpu_s;
    struct larder_counts counts; /* since the client started */
    uint64_t hist[WARM_HIST];    /* nanoseconds of single gets, some of them */
    char failed[160];            /* "": all is well */
};

struct warm_client {
    pid_t pid;
    int fd; /* a byte there starts it, a byte back says that it is done */
    struct warm_slot *slot;
};

/* A process that has opened the set and read every object once. */
void warm_client_start(struct warm_client *c, const struct warm_set *set, const struct warm_contestant *who,
                       const char *dir);
void warm_client_go(struct warm_client *c, double secs, int cpu, uint64_t seed);
void warm_client_wait(struct warm_client *c); /* dies if a get gave wrong bytes */
void warm_client_stop(struct warm_client *c);

unsigned warm_hist_slot(uint64_t ns);
double warm_hist_ns(const uint64_t hist[WARM_HIST], double share); /* at most that share was faster */

/* ---- figures ---- */

enum warm_mode { WARM_ONE, WARM_TWO_FREE, WARM_TWO_PINNED, WARM_MODES };

#define WARM_REPS_MAX 101

struct warm_cell {                   /* one contestant, set and mode */
    unsigned reps;                   /* 0: not measured */
    double gets_s[WARM_REPS_MAX];    /* by the wall clock, of all processes together */
    double cpu_ns[WARM_REPS_MAX];    /* CPU time of a get */
    double cpu_share[WARM_REPS_MAX]; /* of the wall clock that the clients had a CPU: 1 on a quiet machine */
    uint64_t hist[WARM_HIST];        /* of all repetitions */
};

struct warm_result {
    const struct warm_set *set;
    struct warm_cell cell[WARM_MODES][WARM_CONTESTANTS];
    uint64_t hits, asks;             /* of larder's clients */
    uint64_t kept;                   /* of larder-first: must be none */
    uint64_t agent_ns, larder_ns;    /* CPU of the agent while larder was measured, and how long that was */
    uint64_t idle_agent_ns, idle_ns; /* the same for the other contestants, which do not touch larder */
};

struct warm_run {
    const char *dir; /* where all is kept */
    double secs;     /* 0: end */
    unsigned reps;
    int cpu[2]; /* that clients are pinned to; cpu[1] < 0: there is only one */
    double load_before[3], load_after[3];
    struct warm_result *result; /* one a set that was measured */
    size_t n_results;
};

/* One set's table, as soon as it is there. */
void warm_report_set(const struct warm_result *r);
/* What is to be reached, and whether it was. Returns how many were missed. */
unsigned warm_report_goals(const struct warm_run *run);
void warm_report_machine(const struct warm_run *run);
void warm_report_json(const struct warm_run *run, const char *path);

#endif
