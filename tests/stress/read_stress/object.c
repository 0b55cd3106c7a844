/* object.c - the objects of the read stress test: made by the agent role, checked by the readers. */
#include "tests/stress/read_stress/read_stress.h"

#include "common/hash.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *const stress_wrong_name[STRESS_WRONGS] = { "bytes", "older", "missing", "damaged" };

size_t stress_uri(char *out, size_t cap, unsigned key)
{
    return (size_t)snprintf(
        out, cap, "mem://bucket-%02u/some/long/prefix/of/an/object/of/about/80/bytes/part-%06u.parquet", key % 7, key);
}

void stress_fill(uint8_t *out, size_t len, uint64_t key, uint64_t version)
{
    uint64_t n = len, x = key * UINT64_C(0x9E3779B97F4A7C15) + version, h;

    memcpy(out, &key, 8);
    memcpy(out + 8, &version, 8);
    memcpy(out + 16, &n, 8);
    for (size_t i = 24; i + 16 <= len; i += 8) {
        x = x * UINT64_C(6364136223846793005) + 1;
        memcpy(out + i, &x, 8);
    }
    h = ldr_hash64(out, len - 8);
    memcpy(out + len - 8, &h, 8);
}

bool stress_check(const uint8_t *p, size_t len, uint64_t key, uint64_t *version)
{
    uint64_t k, n, h;

    if (len < 32 || len % 8)
        return false;
    memcpy(&k, p, 8);
    memcpy(version, p + 8, 8);
    memcpy(&n, p + 16, 8);
    memcpy(&h, p + len - 8, 8);
    return k == key && n == len && h == ldr_hash64(p, len - 8);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

void stress_remove(const char *dir)
{
    nftw(dir, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}
