/* trace.c - read and replay cache traces. */
#include "tests/support/trace.h"

#include "common/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <zlib.h>

#define TRACE_BLOCK (8 * LDR_MIB)
#define TRACE_WHOLE (64 * LDR_MIB) /* larger objects are blocks */

/* An entry's name, by its hash alone: of a million names two are the same once in 30 million traces. */
struct name {
    UT_hash_handle hh;
    uint64_t hash;
    uint32_t entry;
};

static void *grown(void *p, size_t n, size_t size)
{
    p = realloc(p, n * size);
    if (!p)
        abort();
    return p;
}

static uint32_t entry_of(struct trace *t, struct name **names, const char *name, size_t len)
{
    uint64_t hash = ldr_hash64(name, len);
    struct name *found;

    HASH_FIND(hh, *names, &hash, sizeof hash, found);
    if (found)
        return found->entry;
    if (t->entries == t->entries_room) {
        t->entries_room = t->entries_room ? 2 * t->entries_room : 1024;
        t->hashes = grown(t->hashes, t->entries_room, sizeof *t->hashes);
        t->sizes = grown(t->sizes, t->entries_room, sizeof *t->sizes);
    }
    found = grown(NULL, 1, sizeof *found);
    found->hash = hash;
    found->entry = t->entries;
    HASH_ADD(hh, *names, hash, sizeof hash, found);
    t->hashes[t->entries] = hash;
    t->sizes[t->entries] = 0;
    return t->entries++;
}

static void add_request(struct trace *t, uint32_t entry, uint32_t line, char op, uint64_t size)
{
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 4096;
        t->requests = grown(t->requests, t->room, sizeof *t->requests);
    }
    t->requests[t->n++] = (struct trace_request){ size, entry, line, op };
    if (size > t->sizes[entry]) {
        t->footprint += size - t->sizes[entry];
        t->sizes[entry] = size;
    }
}

/* "op,key,size" */
static bool add_line(struct trace *t, struct name **names, char *text, uint32_t line)
{
    char *key = text + 2, *comma = strrchr(text, ','), *end;
    uint64_t size;

    if (!strchr("grp", text[0]) || text[0] == '\0' || text[1] != ',' || comma <= key)
        return false;
    size = strtoull(comma + 1, &end, 10);
    if (end == comma + 1 || (*end != '\n' && *end != '\0') || size > LDR_OBJECT_SIZE_MAX)
        return false;
    if (text[0] == 'r' || size <= TRACE_WHOLE) {
        add_request(t, entry_of(t, names, key, (size_t)(comma - key)), line, text[0], size);
        return true;
    }
    for (uint64_t at = 0; at < size; at += TRACE_BLOCK) {
        char block[600];
        int len = snprintf(block, sizeof block, "%.*s#%d", (int)(comma - key), key, (int)(at / TRACE_BLOCK));

        add_request(t, entry_of(t, names, block, (size_t)len), line, text[0],
                    size - at < TRACE_BLOCK ? size - at : TRACE_BLOCK);
    }
    return true;
}

bool trace_load(const char *path, struct trace *out)
{
    struct trace t = { 0 };
    struct name *names = NULL, *name, *next;
    char text[512];
    uint32_t line = 0;
    bool ok = true;
    gzFile f = gzopen(path, "rb"); /* reads plain files as they are */

    if (!f) {
        fprintf(stderr, "could not open trace \"%s\"\n", path);
        return false;
    }
    while (ok && gzgets(f, text, sizeof text))
        ok = add_line(&t, &names, text, line++);
    ok = ok && gzeof(f) && line > 0;
    if (gzclose(f) != Z_OK) /* cut off */
        ok = false;
    HASH_ITER(hh, names, name, next)
    {
        HASH_DEL(names, name);
        free(name);
    }
    if (!ok) {
        fprintf(stderr, "\"%s\" is not a trace: line %u\n", path, line);
        trace_free(&t);
        return false;
    }
    *out = t;
    return true;
}

void trace_free(struct trace *t)
{
    free(t->requests);
    free(t->hashes);
    free(t->sizes);
    *t = (struct trace){ 0 };
}

struct trace_result trace_replay(const struct trace *t, trace_access_fn *access, void *policy)
{
    uint64_t bytes = 0, hit_bytes = 0, reads = 0, whole = 0;

    for (size_t i = 0; i < t->n;) {
        uint32_t line = t->requests[i].line;
        bool read = t->requests[i].op != 'p', all = true;

        for (; i < t->n && t->requests[i].line == line; i++) {
            const struct trace_request *r = &t->requests[i];
            bool hit = access(policy, r->entry, r->size);

            all = all && hit;
            bytes += read ? r->size : 0;
            hit_bytes += read && hit ? r->size : 0;
        }
        reads += read;
        whole += read && all;
    }
    return (struct trace_result){
        .byte_hit = bytes ? (double)hit_bytes / (double)bytes : 0,
        .object_hit = reads ? (double)whole / (double)reads : 0,
    };
}

struct trace_item {
    struct ldr_evict_entry in_policy;
    bool visited;
};

void trace_car_init(struct trace_car *c, const struct trace *t, uint64_t capacity)
{
    *c = (struct trace_car){ .policy = ldr_evict_new(capacity), .hashes = t->hashes, .capacity = capacity };
    c->items = calloc(t->entries, sizeof *c->items);
    if (!c->policy || !c->items)
        abort();
}

void trace_car_release(struct trace_car *c)
{
    ldr_evict_free(&c->policy);
    free(c->items);
    *c = (struct trace_car){ 0 };
}

static enum ldr_visit take_bit(void *user, struct ldr_evict_entry *e)
{
    struct trace_item *item = LDR_CONTAINER(e, struct trace_item, in_policy);
    enum ldr_visit visit = item->visited ? LDR_VISIT_YES : LDR_VISIT_NO;

    (void)user;
    item->visited = false;
    return visit;
}

bool trace_car_access(void *policy, uint32_t entry, uint64_t size)
{
    struct trace_car *c = policy;
    struct trace_item *item = &c->items[entry];

    if (item->in_policy.list && item->in_policy.charge == size) {
        item->visited = true;
        return true;
    }
    if (item->in_policy.list) { /* another version */
        ldr_evict_remove(c->policy, &item->in_policy);
        c->used -= item->in_policy.charge;
    }
    if (size > c->capacity)
        return false;
    while (c->used + size > c->capacity) {
        c->used -= ldr_evict_victim(c->policy, take_bit, NULL)->charge;
        c->decisions++;
    }
    item->visited = false;
    ldr_evict_add(c->policy, &item->in_policy, c->hashes[entry], size);
    c->used += size;
    c->decisions++;
    return false;
}
