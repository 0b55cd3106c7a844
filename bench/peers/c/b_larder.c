/* larder through its C library. ARG = CACHE-DIR, or into:CACHE-DIR to copy each object into a buffer of the client's.
 * Reads have timeout 0, "only what the cache has": one that would have to ask the agent is an error, not a slow read. */
#include "warm.h"

#include <larder.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOAD_TIMEOUT_MS 60000

static struct larder *cache;
static struct larder_object *object; /* of be_get(), until be_release() */
static char class[16];
static unsigned char *buffer; /* NULL: views */
static size_t capacity;

static int failed(const char *what, const struct larder_err *err)
{
    fprintf(stderr, "larder: %s: %s\n", what, err->msg);
    return -1;
}

/* The store is local, on the folder of the data: CLASS is the container. */
static void uri_of(unsigned i, char uri[64])
{
    snprintf(uri, 64, "file://%s/o%05u", class, i);
}

int be_open(const char *arg, const char *cls, unsigned n, size_t size)
{
    static const char into[] = "into:";
    struct larder_err err = { 0 };

    (void)n;
    snprintf(class, sizeof class, "%s", cls);
    if (!strncmp(arg, into, sizeof into - 1)) {
        arg += sizeof into - 1;
        capacity = size;
        buffer = aligned_alloc(4096, size);
        if (!buffer)
            return -1;
        memset(buffer, 1, size);
    }
    return larder_open(arg, &cache, &err) ? failed(arg, &err) : 0;
}

/* The first read of the node: the agent fetches the object from its store into the cache. */
int be_load(unsigned i, const void *p, size_t len)
{
    struct larder_err err = { 0 };
    char uri[64];
    int wrong;

    uri_of(i, uri);
    if (larder_get(cache, uri, LOAD_TIMEOUT_MS, &object, &err))
        return failed(uri, &err);
    wrong = larder_object_size(object) != len || memcmp(larder_object_data(object), p, len) != 0;
    larder_object_free(&object);
    return wrong;
}

int be_get(unsigned i, const unsigned char **p, size_t *len)
{
    struct larder_err err; /* written on failure only */
    char uri[64];
    uint64_t size;

    uri_of(i, uri);
    if (buffer) {
        if (larder_get_into(cache, uri, buffer, capacity, 0, &size, &err))
            return failed(uri, &err);
        *p = buffer;
        *len = size;
        return 0;
    }
    if (larder_get(cache, uri, 0, &object, &err))
        return failed(uri, &err);
    *p = larder_object_data(object);
    *len = larder_object_size(object);
    return 0;
}

void be_release(unsigned i)
{
    (void)i;
    larder_object_free(&object);
}
