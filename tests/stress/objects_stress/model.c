/* model.c - what a reader may see. A key has one writer, so its versions are in one order; each is noted before it is
 * sent and after the store has it. A read may see a version that was sent before the read ended, unless a newer one was
 * the store's long enough (the key's promise) before the read began. */
#include "tests/stress/objects_stress/objects_stress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const os_what_name[OS_WHATS] = { "get",    "get_range", "get_into", "read",
                                             "stream", "get_many",  "head",     "a view held" };

enum os_class os_class_of(unsigned key)
{
    return key / OS_KEYS_EACH;
}

const char *os_name(unsigned key, char out[64])
{
    snprintf(out, 64, "%c/%u", "ati"[os_class_of(key)], key);
    return out;
}

void os_uri(unsigned key, char out[128])
{
    char name[64];

    snprintf(out, 128, "s3://" S3_BUCKET "/%s", os_name(key, name));
}

uint64_t os_size(uint64_t *state, uint64_t block)
{
    uint64_t most = 20 * block < OS_SIZE_MAX ? 20 * block : OS_SIZE_MAX, n, r = os_random(state);

    switch (r % 8) {
    case 0:
        n = (r >> 8) % 3;
        break;
    case 1:
        n = (r >> 8) % 20000; /* kept in the index, up to its limit */
        break;
    case 2:
    case 3:
        n = (r >> 8) % (most / block) * block + (r >> 40) % 3; /* at a border, or a byte or two behind it */
        n -= n > block && (r >> 50) % 2;
        break;
    default:
        n = (r >> 8) % most;
    }
    return n < most ? n : most;
}

/* Eight bytes of a version; those of two versions, or of two places, are alike by chance alone. */
static uint64_t word(unsigned key, uint32_t version, uint64_t i)
{
    uint64_t z = ((uint64_t)key << 48 ^ (uint64_t)version << 28 ^ i) + UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void os_fill(uint8_t *out, unsigned key, uint32_t version, uint64_t offset, size_t n)
{
    while (n > 0) {
        uint64_t w = word(key, version, offset / 8);
        size_t from = offset % 8, part = 8 - from < n ? 8 - from : n;

        memcpy(out, (uint8_t *)&w + from, part);
        out += part;
        offset += part;
        n -= part;
    }
}

static bool is_of(const uint8_t *p, unsigned key, uint32_t version, uint64_t offset, size_t n)
{
    while (n > 0) {
        uint64_t w = word(key, version, offset / 8);
        size_t from = offset % 8, part = 8 - from < n ? 8 - from : n;

        if (memcmp(p, (uint8_t *)&w + from, part) != 0)
            return false;
        p += part;
        offset += part;
        n -= part;
    }
    return true;
}

/* ---- what may be seen ---- */

static int64_t bound_ns(const struct os_window *w, const struct os_version *v)
{
    return v->through || os_class_of(w->key) != OS_TTL ? 0 : (OS_TTL_MS + OS_SLACK_MS) * LDR_NS_PER_MS;
}

/* The versions [*first, *end) may be seen. */
static void candidates(const struct os_window *w, uint32_t *first, uint32_t *end)
{
    const struct os_key *k = &w->shared->key[w->key];
    uint32_t n = atomic_load(&k->n);

    while (n > 0 && k->version[n].began_ns > w->ended_ns)
        n--;
    *end = n + 1;
    for (*first = n; *first > 0; --*first) {
        const struct os_version *v = &k->version[*first];
        int64_t done = v->done_ns;

        if (done && done + bound_ns(w, v) <= w->began_ns)
            return;
    }
}

bool os_may_be(const struct os_window *w, const uint8_t *p, uint64_t offset, size_t n, uint64_t total,
               uint32_t *version)
{
    const struct os_key *k = &w->shared->key[w->key];
    uint32_t first, end;

    candidates(w, &first, &end);
    for (uint32_t v = end; v-- > first;)
        if (v > 0 && !k->version[v].absent && k->version[v].size == total && offset + n <= total &&
            is_of(p, w->key, v, offset, n)) {
            *version = v;
            return true;
        }
    return false;
}

bool os_may_have_size(const struct os_window *w, uint64_t total)
{
    const struct os_key *k = &w->shared->key[w->key];
    uint32_t first, end;

    candidates(w, &first, &end);
    for (uint32_t v = first; v < end; v++)
        if (v > 0 && !k->version[v].absent && k->version[v].size == total)
            return true;
    return false;
}

bool os_may_be_absent(const struct os_window *w)
{
    const struct os_key *k = &w->shared->key[w->key];
    uint32_t first, end;

    candidates(w, &first, &end);
    for (uint32_t v = first; v < end; v++)
        if (v == 0 || k->version[v].absent)
            return true;
    return false;
}

void os_explain(const struct os_window *w, const uint8_t *p, uint64_t offset, size_t n, uint64_t total, char *out,
                size_t cap)
{
    const struct os_key *k = &w->shared->key[w->key];
    uint32_t first, end, of_begin = 0;
    size_t alike = 0, at;

    candidates(w, &first, &end);
    at = (size_t)snprintf(out, cap, "key %u (%c), [%" PRIu64 ", +%zu) of %" PRIu64 "; versions %u to %u may be seen",
                          w->key, "ati"[os_class_of(w->key)], offset, n, total, first, end - 1);
    for (uint32_t v = 1; v <= k->n; v++) { /* the longest beginning that is of one version */
        size_t m = 0;

        while (m < n && is_of(p + m, w->key, v, offset + m, n - m < 8 ? n - m : 8))
            m += n - m < 8 ? n - m : 8;
        if (m > alike) {
            alike = m;
            of_begin = v;
        }
    }
    if (at < cap && of_begin)
        at += (size_t)snprintf(out + at, cap - at, "; its first %zu bytes are of version %u (%" PRIu64 " bytes)", alike,
                               of_begin, k->version[of_begin].size);
    for (uint32_t v = 1; at < cap && v <= k->n && alike < n; v++)
        if (is_of(p + alike, w->key, v, offset + alike, n - alike < 8 ? n - alike : 8))
            at += (size_t)snprintf(out + at, cap - at, ", then come bytes of version %u", v);
    for (uint32_t v = first > 2 ? first - 2 : 0; at < cap && v < end; v++)
        at += (size_t)snprintf(
            out + at, cap - at, "\n  version %u: %" PRIu64 " bytes%s%s, began %.3f s, done %.3f s before", v,
            k->version[v].size, k->version[v].absent ? ", deleted" : "",
            k->version[v].through ? ", through larder" : "", (double)(w->began_ns - k->version[v].began_ns) / 1e9,
            k->version[v].done_ns ? (double)(w->began_ns - k->version[v].done_ns) / 1e9 : -1.0);
}

void os_wrong(struct os_shared *s, const char *fmt, ...)
{
    unsigned none = 0;
    va_list ap;

    if (!atomic_compare_exchange_strong(&s->wrong, &none, 1))
        return;
    va_start(ap, fmt);
    vsnprintf(s->report, sizeof s->report, fmt, ap);
    va_end(ap);
    atomic_store(&s->wrong, 2);
}

/* ---- the model itself ---- */

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "the model is wrong: %s\n", #condition);                                                   \
            ok = false;                                                                                                \
        }                                                                                                              \
    } while (0)

static void set_version(struct os_key *k, uint32_t v, int64_t began_s, int64_t done_s, uint64_t size, bool absent,
                        bool through)
{
    k->version[v].began_ns = began_s * LDR_NS_PER_S;
    k->version[v].done_ns = done_s * LDR_NS_PER_S;
    k->version[v].size = size;
    k->version[v].absent = absent;
    k->version[v].through = through;
    k->n = v;
}

bool os_model_works(void)
{
    struct os_shared *s = calloc(1, sizeof *s);
    struct os_window w = { .shared = s, .key = 0 };
    const size_t n = 1000;
    uint8_t one[1000], two[1000], mix[1000];
    uint32_t v = 0;
    bool ok = s != NULL;

    if (!s)
        return false;
    for (unsigned k = 0; k < 2 * OS_KEYS_EACH; k += OS_KEYS_EACH) { /* always, ttl */
        set_version(&s->key[k], 1, 100, 101, n, false, false);
        set_version(&s->key[k], 2, 200, 201, n, false, false);
        set_version(&s->key[k], 3, 300, 0, n, false, false); /* nobody knows */
        set_version(&s->key[k], 4, 400, 401, 0, true, true);
    }
    os_fill(one, 0, 1, 0, n);
    os_fill(two, 0, 2, 0, n);
    memcpy(mix, one, n / 2);
    memcpy(mix + n / 2, two + n / 2, n / 2);

    w.began_ns = 150 * LDR_NS_PER_S, w.ended_ns = 160 * LDR_NS_PER_S;
    MUST(os_may_be(&w, one, 0, n, n, &v) && v == 1);
    MUST(os_may_be(&w, one + 333, 333, 100, n, &v) && v == 1);
    MUST(!os_may_be(&w, one, 0, n - 1, n - 1, &v)); /* another size */
    MUST(!os_may_be(&w, one + 1, 0, n - 1, n, &v)); /* another place */
    MUST(!os_may_be(&w, two, 0, n, n, &v));         /* of the future */
    MUST(!os_may_be_absent(&w));
    one[500] ^= 1;
    MUST(!os_may_be(&w, one, 0, n, n, &v));
    one[500] ^= 1;
    w.ended_ns = 250 * LDR_NS_PER_S; /* version 2 came while it was read */
    MUST(os_may_be(&w, one, 0, n, n, &v) && v == 1);
    MUST(os_may_be(&w, two, 0, n, n, &v) && v == 2);
    MUST(!os_may_be(&w, mix, 0, n, n, &v));
    w.began_ns = 202 * LDR_NS_PER_S;
    MUST(!os_may_be(&w, one, 0, n, n, &v)); /* older than promised */
    w.key = OS_KEYS_EACH;
    os_fill(one, w.key, 1, 0, n);
    MUST(os_may_be(&w, one, 0, n, n, &v)); /* within the ttl */
    w.began_ns = 210 * LDR_NS_PER_S;
    MUST(!os_may_be(&w, one, 0, n, n, &v));
    w.began_ns = 401 * LDR_NS_PER_S, w.ended_ns = 402 * LDR_NS_PER_S; /* deleted through larder: at once */
    os_fill(two, w.key, 2, 0, n);
    MUST(!os_may_be(&w, two, 0, n, n, &v));
    MUST(os_may_be_absent(&w) && !os_may_have_size(&w, n));
    w.began_ns = 350 * LDR_NS_PER_S, w.ended_ns = 351 * LDR_NS_PER_S;
    os_fill(one, w.key, 3, 0, n);
    MUST(os_may_be(&w, one, 0, n, n, &v) && v == 3);
    MUST(os_may_be(&w, two, 0, n, n, &v) && v == 2);
    free(s);
    return ok;
}
