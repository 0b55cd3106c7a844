/* objects_stress.h - what the parts of the objects stress test share: parent, clients, writers, and the model that says
 * what a reader may see. All of it lies in memory that the parent shares with its children. */
#ifndef OBJECTS_STRESS_H
#define OBJECTS_STRESS_H

#include "client/larder.h"
#include "common/clock.h"
#include "tests/support/agent_proc.h"

#include <stdatomic.h>

#define OS_CLIENTS_MAX 16
#define OS_WRITERS     2
#define OS_VERSIONS    8192 /* of one key */
#define OS_SIZE_MAX    (6 * LDR_MIB)
#define OS_TTL_MS      300
#define OS_SLACK_MS    3000  /* a busy machine: an answer that was true may arrive, or be counted from, so much later */
#define OS_HANG_MS     10000 /* a call may end so much after its deadline */

/* The three promises; each has keys of its own, by prefix. */
enum os_class {
    OS_ALWAYS,    /* "a/": whatever the store has when the read begins, or newer */
    OS_TTL,       /* "t/": that, or what it had the ttl before */
    OS_IMMUTABLE, /* "i/": written through larder alone, so seen at once */
    OS_CLASSES
};
#define OS_KEYS_EACH 20
#define OS_KEYS      (OS_CLASSES * OS_KEYS_EACH)

enum os_what { OS_GET, OS_RANGE, OS_INTO, OS_READ, OS_STREAM, OS_MANY, OS_HEAD, OS_HELD, OS_WHATS };
extern const char *const os_what_name[OS_WHATS];

/* One version of one key. Written by the key's one writer. */
struct os_version {
    _Atomic int64_t began_ns; /* 0: there is none yet */
    _Atomic int64_t done_ns;  /* it is the store's; 0: not yet, or nobody knows whether it ever was */
    uint64_t size;
    bool absent;  /* a deletion */
    bool through; /* written through larder: visible on this node when it is done */
};

struct os_key {
    struct os_version version[OS_VERSIONS]; /* [0]: never written */
    _Atomic uint32_t n;
};

/* What a client is doing, for the watchdog. */
struct os_call {
    _Atomic int64_t began_ns; /* 0: nothing */
    _Atomic int timeout_ms;
    _Atomic int what, key;
};

struct os_shared {
    struct os_key key[OS_KEYS];
    struct os_call call[OS_CLIENTS_MAX];
    _Atomic int64_t down_ns, up_ns; /* when the agent was last stopped or killed, and when it answered again */
    atomic_bool stop;
    atomic_uint wrong; /* 1: `report` is being written, 2: it is there */
    char report[4096];
    _Atomic uint64_t reads[OS_WHATS], right[OS_WHATS], absent, failed[LARDER_INTERNAL + 1], hits, held;
    _Atomic uint64_t writes, writes_failed, deletes, direct;
};

struct os_args {
    struct os_shared *shared;
    const struct agent *agent;
    const struct s3_server *s3;
    uint64_t seed, block;
    unsigned clients;
    bool control; /* spoil a byte of what is read, now and then: the checks must see it */
};

/* ---- model.c ---- */
static inline uint64_t os_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

enum os_class os_class_of(unsigned key);
void os_uri(unsigned key, char out[128]);
const char *os_name(unsigned key, char out[64]); /* of the object in its bucket */
/* A size of 0 to 20 blocks, often near a border. */
uint64_t os_size(uint64_t *state, uint64_t block);
/* Bytes [offset, offset + n) of a version. */
void os_fill(uint8_t *out, unsigned key, uint32_t version, uint64_t offset, size_t n);

/* What a read that began and ended then may have seen. */
struct os_window {
    const struct os_shared *shared;
    unsigned key;
    int64_t began_ns, ended_ns;
};
/* Is this the range of one version that may be seen (`total`: the size of the whole)? *version: which. */
bool os_may_be(const struct os_window *w, const uint8_t *p, uint64_t offset, size_t n, uint64_t total,
               uint32_t *version);
bool os_may_have_size(const struct os_window *w, uint64_t total);
bool os_may_be_absent(const struct os_window *w);
/* In words: what it is instead. */
void os_explain(const struct os_window *w, const uint8_t *p, uint64_t offset, size_t n, uint64_t total, char *out,
                size_t cap);
/* The first one is kept. */
void os_wrong(struct os_shared *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Does the model tell right from wrong at all? Prints what it does not. */
bool os_model_works(void);

/* ---- roles: processes of their own; they return when shared->stop is set ---- */
void os_client(const struct os_args *a, unsigned i, uint64_t seed);
void os_writer(const struct os_args *a, unsigned i, uint64_t seed);

#endif
