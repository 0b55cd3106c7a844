/* trace.h - replay of cache traces through the eviction policy, without moving a byte (tests/vectors/traces/README.md
 * has the format). For tests and benchmarks. */
#ifndef TEST_TRACE_H
#define TEST_TRACE_H

#include "agent/evict.h"

struct trace_request {
    uint64_t size;
    uint32_t entry; /* 0 … entries - 1: an object, or one 8 MiB block of an object of more than 64 MiB */
    uint32_t line;  /* requests of one line are the blocks of one object */
    char op;        /* g, r: reads; p: put */
};

struct trace {
    struct trace_request *requests;
    size_t n, room;
    uint64_t *hashes; /* of the entries' names */
    uint64_t *sizes;  /* the largest of each entry */
    uint32_t entries, entries_room;
    uint64_t footprint; /* the sum of `sizes` */
};

/* Read a trace, plain or gzip. False, with a line on stderr: it cannot be read, or is no trace. */
bool trace_load(const char *path, struct trace *out);
void trace_free(struct trace *t);

/* Is the entry there with that size? If not it is there afterwards, if it fits at all. */
typedef bool trace_access_fn(void *policy, uint32_t entry, uint64_t size);

struct trace_result {
    double byte_hit;   /* bytes of reads that were there : bytes of reads */
    double object_hit; /* reads of which all blocks were there : reads */
};
struct trace_result trace_replay(const struct trace *t, trace_access_fn *access, void *policy);

/* The policy of agent/evict.h with a visited bit for each entry, as the agent would drive it: victims until there is
 * room, then the new entry. */
struct trace_car {
    struct ldr_evict *policy;
    struct trace_item *items;
    const uint64_t *hashes; /* borrowed from the trace */
    uint64_t capacity, used;
    uint64_t decisions; /* entries added and victims taken */
};
void trace_car_init(struct trace_car *c, const struct trace *t, uint64_t capacity);
void trace_car_release(struct trace_car *c);
trace_access_fn trace_car_access; /* policy: a struct trace_car */

#endif
