/* read_stress.h - what the three parts of the read stress test share: parent, agent role, reader role. */
#ifndef READ_STRESS_H
#define READ_STRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STRESS_KEYS  3000
#define STRESS_FIXED 100 /* of them are never deleted */
#define STRESS_MAX   (300 * 1024)

enum stress_wrong { WRONG_BYTES, WRONG_OLDER, WRONG_MISSING, WRONG_DAMAGED, STRESS_WRONGS };
extern const char *const stress_wrong_name[STRESS_WRONGS];

struct stress_shared {
    atomic_bool ready;
    _Atomic uint64_t next_version;
    _Atomic uint64_t published[STRESS_KEYS]; /* version that readers can see since; a deletion is one too */
    _Atomic uint64_t reads, found, found_blocks, retries, gave_up, changes;
    _Atomic uint64_t wrong[STRESS_WRONGS];
};

struct stress_args {
    const char *dir;
    struct stress_shared *shared;
    unsigned readers;
    bool control;
};

void stress_agent(const struct stress_args *a, unsigned unused);
void stress_reader(const struct stress_args *a, unsigned i);

/* The object's name, and its bytes: key, version, length, noise made of both, hash of all before. */
size_t stress_uri(char *out, size_t cap, unsigned key);
void stress_fill(uint8_t *out, size_t len, uint64_t key, uint64_t version);
bool stress_check(const uint8_t *p, size_t len, uint64_t key, uint64_t *version);
void stress_remove(const char *dir); /* with all that is in it */

#endif
