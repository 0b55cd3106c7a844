/* agent_proc.h - a real larderd of one test, in a directory of its own, and what tests ask of it.
 *   DIR/cache        its cache        DIR/objects      the local store (file://)
 *   DIR/larderd.yaml its settings     DIR/larderd.log  its standard error, of all runs
 * Stores: file://, mem://, and s3:// where an S3 server is given. Everything is immutable unless a test says otherwise.
 * What a test cannot go on without ends the process with a message (agent_die). One thread per agent; the agent dies
 * with the thread that started it. */
#ifndef AGENT_PROC_H
#define AGENT_PROC_H

#include "client/larder.h"
#include "tests/support/s3_servers.h"
#include "tests/support/test_dir.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define AGENT_START_MS 20000 /* to be ready, or to end */
#define AGENT_ENV_MAX  16

struct agent {
    char dir[TEST_DIR_MAX];
    char cache[TEST_DIR_MAX + 16], socket[TEST_DIR_MAX + 40], config[TEST_DIR_MAX + 16], log[TEST_DIR_MAX + 16];
    char *env[AGENT_ENV_MAX]; /* NAME=value, owned; over the test's own environment */
    size_t n_env;
    uid_t uid;      /* the agent runs as this user (0: as the test) */
    pid_t pid;      /* 0: not running */
    uint64_t asked; /* status requests of agent_counter() */
};

/* Make the directory and the settings, start nothing. `s3`: NULL, or the server behind s3://. */
void agent_init(struct agent *a, const struct s3_server *s3);
/* Kill it, remove its directory. */
void agent_release(struct agent *a);

/* Write other settings (the whole file). */
void agent_configure(struct agent *a, const char *yaml);
/* Set a variable of the agent's environment: agent_set(a, "LARDER_CACHE_MAX_SIZE", "1MiB"). */
void agent_set(struct agent *a, const char *name, const char *value);

/* Start it and wait until it accepts connections. */
void agent_start(struct agent *a);
/* The same, but it may end before that: false. */
bool agent_try(struct agent *a);
/* Start it and wait for its end: an agent that should not come up. Returns the exit code, -1 when a signal ended it. */
int agent_run(struct agent *a);
/* SIGTERM; returns the exit code, -1 when a signal ended it. */
int agent_stop(struct agent *a);
/* SIGKILL. */
void agent_kill(struct agent *a);
bool agent_alive(struct agent *a);

/* A handle on its cache; owned by the caller. */
struct larder *agent_open(const struct agent *a);
/* A figure of `larder status`. */
uint64_t agent_counter(struct agent *a, const char *name);
/* Requests that it got, without those of agent_counter(). */
uint64_t agent_requests(struct agent *a);
/* Wait until a figure is at least `least`. */
void agent_wait_counter(struct agent *a, const char *name, uint64_t least);
/* Is this text in its log? */
bool agent_logged(const struct agent *a, const char *text);

/* Put an object into a store without the agent's knowledge: the local one, the S3 server. */
void agent_seed_file(const struct agent *a, const char *container, const char *key, const void *p, size_t n);
void agent_seed_s3(const struct s3_server *s3, const char *key, const void *p, size_t n);

/* Wait until `what` is true, for at most AGENT_START_MS; else die. */
#define agent_wait_until(what)                                                                                         \
    do {                                                                                                               \
        int64_t agent_until = ldr_deadline_ns(AGENT_START_MS);                                                         \
        while (!(what)) {                                                                                              \
            if (ldr_left_ms(agent_until) == 0)                                                                         \
                agent_die("%s:%d: in vain: %s", __FILE__, __LINE__, #what);                                            \
            agent_pause();                                                                                             \
        }                                                                                                              \
    } while (0)

void agent_pause(void); /* 2 ms, between two looks */
_Noreturn void agent_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
