/* evict.c - what the eviction policy keeps, against plain LRU.
 *
 *     build/bench/evict TRACE...      traces, plain or gzip (tests/vectors/traces/README.md has the format)
 *
 * Each trace is replayed from a cold start with caches of 1, 5, 10, 25, 50 and 75 % of its footprint. No byte is moved.
 * docs/design/eviction.md has the table and says what it means. */
#include "tests/support/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double sizes[] = { 1, 5, 10, 25, 50, 75 };
#define SIZES LDR_ARRAY_LEN(sizes)

/* ---- LRU in bytes, told of every hit ---- */

struct lru_item {
    uint32_t newer, older;
    uint64_t size;
    bool there;
};

struct lru {
    struct lru_item *items; /* the last one is the ring's head */
    uint32_t head;
    uint64_t capacity, used;
};

static void lru_take_out(struct lru *l, uint32_t i)
{
    struct lru_item *item = &l->items[i];

    l->items[item->newer].older = item->older;
    l->items[item->older].newer = item->newer;
    item->there = false;
    l->used -= item->size;
}

static void lru_put(struct lru *l, uint32_t i, uint64_t size)
{
    uint32_t first = l->items[l->head].older;

    l->items[i] = (struct lru_item){ .newer = l->head, .older = first, .size = size, .there = true };
    l->items[first].newer = i;
    l->items[l->head].older = i;
    l->used += size;
}

static bool lru_access(void *policy, uint32_t entry, uint64_t size)
{
    struct lru *l = policy;
    bool hit = l->items[entry].there && l->items[entry].size == size;

    if (l->items[entry].there)
        lru_take_out(l, entry);
    if (size > l->capacity)
        return false;
    while (l->used + size > l->capacity)
        lru_take_out(l, l->items[l->head].newer);
    lru_put(l, entry, size);
    return hit;
}

static struct trace_result replay_lru(const struct trace *t, uint64_t capacity)
{
    struct lru l = { .head = t->entries, .capacity = capacity };
    struct trace_result r;

    l.items = calloc((size_t)t->entries + 1, sizeof *l.items);
    if (!l.items)
        abort();
    l.items[l.head].newer = l.items[l.head].older = l.head;
    r = trace_replay(t, lru_access, &l);
    free(l.items);
    return r;
}

/* ---- ours ---- */

struct speed {
    double seconds;
    uint64_t decisions;
};

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static struct trace_result replay_car(const struct trace *t, uint64_t capacity, struct speed *speed)
{
    struct trace_car c;
    struct trace_result r;
    double began;

    trace_car_init(&c, t, capacity);
    began = now_s();
    r = trace_replay(t, trace_car_access, &c);
    speed->seconds += now_s() - began;
    speed->decisions += c.decisions;
    trace_car_release(&c);
    return r;
}

/* ---- the table ---- */

struct row {
    struct trace_result at[SIZES];
};

static struct trace_result mean(const struct row *row)
{
    struct trace_result m = { 0 };

    for (size_t i = 0; i < SIZES; i++) {
        m.byte_hit += row->at[i].byte_hit / (double)SIZES;
        m.object_hit += row->at[i].object_hit / (double)SIZES;
    }
    return m;
}

static void print_row(const char *trace, const char *policy, const struct row *row)
{
    printf("| %s | %s |", trace, policy);
    for (size_t i = 0; i < SIZES; i++)
        printf(" %.2f |", 100 * row->at[i].byte_hit);
    printf(" **%.2f** |", 100 * mean(row).byte_hit);
    for (size_t i = 0; i < SIZES; i++)
        printf(" %.1f |", 100 * row->at[i].object_hit);
    printf(" **%.1f** |\n", 100 * mean(row).object_hit);
}

static void add_row(struct row *sum, const struct row *row, int traces)
{
    for (size_t i = 0; i < SIZES; i++) {
        sum->at[i].byte_hit += row->at[i].byte_hit / traces;
        sum->at[i].object_hit += row->at[i].object_hit / traces;
    }
}

int main(int argc, char **argv)
{
    struct row car_sum = { 0 }, lru_sum = { 0 };
    struct speed speed = { 0 };

    if (argc < 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: evict TRACE...: what the eviction policy keeps (docs/design/eviction.md)\n");
        return 2;
    }
    printf("| trace | policy |");
    for (int what = 0; what < 2; what++) {
        for (size_t i = 0; i < SIZES; i++)
            printf(" %s %g %% |", what ? "objects" : "bytes", sizes[i]);
        printf(" mean |");
    }
    printf("\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int a = 1; a < argc; a++) {
        const char *slash = strrchr(argv[a], '/'), *name = slash ? slash + 1 : argv[a];
        struct row car, lru;
        struct trace t;
        char label[64];

        if (!trace_load(argv[a], &t))
            return 1;
        snprintf(label, sizeof label, "%.*s", (int)strcspn(name, "."), name);
        for (size_t i = 0; i < SIZES; i++) {
            uint64_t capacity = (uint64_t)((double)t.footprint * sizes[i] / 100);

            car.at[i] = replay_car(&t, capacity, &speed);
            lru.at[i] = replay_lru(&t, capacity);
        }
        print_row(label, "larder", &car);
        print_row(label, "LRU", &lru);
        fflush(stdout);
        add_row(&car_sum, &car, argc - 1);
        add_row(&lru_sum, &lru, argc - 1);
        trace_free(&t);
    }
    print_row("mean", "larder", &car_sum);
    print_row("mean", "LRU", &lru_sum);
    printf("\n%.1f million decisions a second (entries added and victims taken, in the time of whole replays)\n",
           (double)speed.decisions / speed.seconds / 1e6);
    return 0;
}
