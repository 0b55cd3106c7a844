/* readahead.c - what a reader of ranges costs its store: bytes that the agent fetched against bytes that were asked for,
 * for sequential and for random readers of one large object (a local store; a fresh cache for each row).
 *
 *   build/bench/readahead [OBJECT-MIB]        512 by default; the directory is $LDR_TEST_ROOT, $TMPDIR or /tmp */
#include "common/clock.h"
#include "tests/support/agent_proc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECT "file://bench/object"

struct row {
    const char *name;
    size_t piece;
    bool random;
    unsigned reads; /* 0: to the end */
};

static const struct row rows[] = {
    { "sequential, 64 KiB pieces", 64 << 10, false, 0 },
    { "sequential, 1 MiB pieces", 1 << 20, false, 0 },
    { "sequential, 12 MiB pieces", 12 << 20, false, 0 },
    { "the first 40 MiB in 1 MiB pieces", 1 << 20, false, 40 },
    { "random, 8 MiB blocks, 32 of them", 8 << 20, true, 32 },
    { "random, 64 KiB, 32 reads", 64 << 10, true, 32 },
};

static uint64_t dice(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void run(struct agent *a, const struct row *row, uint64_t size, uint8_t *buf)
{
    uint64_t state = 88172645463325252u, asked = 0, before, n, reads = 0;
    struct larder *l = agent_open(a);
    struct larder_err e;
    int64_t start = ldr_mono_ns();

    before = agent_counter(a, "store_bytes_in");
    for (uint64_t at = 0; row->reads ? reads < row->reads : at < size; reads++, at += row->piece) {
        uint64_t from = row->random ? dice(&state) % (size / row->piece) * row->piece : at;
        size_t got;

        if (larder_read(l, OBJECT, from, buf, row->piece, -1, &got, NULL, &e))
            agent_die("could not read: %s", e.msg);
        asked += got;
    }
    n = agent_counter(a, "store_bytes_in") - before;
    printf("%-36s %7.1f %9.1f %9.3f %6" PRIu64 " %6" PRIu64 " %8.0f\n", row->name, (double)asked / (1 << 20),
           (double)n / (1 << 20), (double)n / (double)asked, agent_counter(a, "store_gets"),
           agent_counter(a, "blocks_ahead"), (double)asked / (1 << 20) / ((double)(ldr_mono_ns() - start) / 1e9));
    larder_close(&l);
}

int main(int argc, char **argv)
{
    uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 512, size = mib << 20;
    uint8_t *object, *buf = malloc(16 << 20);

    if (mib < 64 || mib > 4096 || !(object = malloc(size)) || !buf) {
        fprintf(stderr, "usage: readahead [OBJECT-MIB]   (64 to 4096)\n");
        return 2;
    }
    memset(object, 0x5a, size);
    printf("%-36s %7s %9s %9s %6s %6s %8s\n", "reader", "asked", "fetched", "fetched /", "GETs", "ahead", "MiB/s");
    printf("%-36s %7s %9s %9s\n", "", "MiB", "MiB", "asked");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct agent a;

        agent_init(&a, NULL);
        agent_set(&a, "LARDER_CACHE_MAX_SIZE", "8GiB");
        agent_seed_file(&a, "bench", "object", object, size);
        agent_start(&a);
        run(&a, &rows[i], size, buf);
        agent_stop(&a);
        agent_release(&a);
    }
    free(object);
    free(buf);
    return 0;
}
