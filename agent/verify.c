/* verify.c - see verify.h. */
#include "agent/verify.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

/* The cheapest first. */
static const enum ldr_sum_algo crcs[] = { LDR_SUM_CRC32C, LDR_SUM_CRC64NVME, LDR_SUM_CRC32 };

void ldr_block_sums_begin(struct ldr_block_sums *s, unsigned algos)
{
    *s = (struct ldr_block_sums){ .algos = algos & LDR_CRC_ALL };
}

void ldr_block_sums_add(struct ldr_block_sums *s, const void *p, size_t n)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++)
        if (s->algos & LDR_CRC_BIT(crcs[i]))
            s->crc[crcs[i]] = ldr_sum_crc(crcs[i], s->crc[crcs[i]], p, n);
}

/* ---- what the store tells ---- */

struct text {
    const char *p;
    size_t len;
};

/* The value of a checksum pair; false: there is none of this name. */
static bool find_pair(const struct ldr_meta *meta, const char *name, struct text *out)
{
    size_t n = strlen(name) + 1, pos = 0;
    struct ldr_field f;

    while (ldr_fields_next(meta->fields.p, meta->fields.len, &pos, &f))
        if (f.tag == LDR_TAG_CHECKSUM && f.len >= n && !memcmp(f.p, name, n)) {
            *out = (struct text){ (const char *)f.p + n, f.len - n };
            return true;
        }
    return false;
}

static bool is_word(const struct text *t, const char *word)
{
    return t->len == strlen(word) && !strncasecmp(t->p, word, t->len);
}

/* "BASE64-N": take N, digits only, off the text. 0: there is none. */
static uint32_t take_parts(struct text *t)
{
    const char *dash = memrchr(t->p, '-', t->len), *end = t->p + t->len;
    uint32_t n = 0;

    if (!dash || dash + 1 == end || dash[1] == '0' || end - dash > 6) /* 10,000 parts at most */
        return 0;
    for (const char *c = dash + 1; c < end; c++) {
        if (*c < '0' || *c > '9')
            return 0;
        n = n * 10 + (uint32_t)(*c - '0');
    }
    t->len = (size_t)(dash - t->p);
    return n;
}

/* Where the store says nothing of the type the form of the value does; where the two disagree the value says nothing. */
static bool read_value(const struct ldr_meta *meta, enum ldr_sum_algo a, uint32_t n_blocks, struct ldr_verify *out)
{
    struct text value, type;
    bool typed = find_pair(meta, "type", &type);
    uint32_t parts;

    if (!find_pair(meta, ldr_sum_name(a), &value))
        return false;
    parts = take_parts(&value);
    if (typed && !is_word(&type, parts ? "COMPOSITE" : "FULL_OBJECT"))
        return false;
    if ((parts && parts != n_blocks) || !ldr_sum_parse(a, value.p, value.len, out->want))
        return false;
    out->algo = a;
    out->composite = parts != 0;
    return true;
}

bool ldr_verify_choose(const struct ldr_meta *meta, uint32_t n_blocks, struct ldr_verify *out)
{
    struct ldr_verify composite = { 0 }, v = { 0 };

    for (size_t i = 0; i < LDR_ARRAY_LEN(crcs); i++) {
        if (!read_value(meta, crcs[i], n_blocks, &v))
            continue;
        if (!v.composite) {
            *out = v;
            return true;
        }
        if (!composite.algo)
            composite = v;
    }
    *out = composite;
    return composite.algo != LDR_SUM_NONE;
}

/* ---- what came ---- */

bool ldr_verify_blocks(const struct ldr_verify *v, uint64_t size, uint8_t log2, const struct ldr_block_sums *blocks,
                       uint32_t n_blocks)
{
    size_t raw_len = ldr_sum_raw_len(v->algo);
    uint8_t raw[LDR_SUM_RAW_MAX];
    uint64_t all = 0;

    assert(ldr_sum_is_crc(v->algo));
    for (uint32_t b = 0; b < n_blocks; b++) {
        uint64_t crc = blocks[b].crc[v->algo], left = size - ((uint64_t)b << log2), full = UINT64_C(1) << log2;

        assert(blocks[b].algos & LDR_CRC_BIT(v->algo));
        ldr_sum_crc_raw(v->algo, crc, raw);
        if (v->composite)
            all = ldr_sum_crc(v->algo, all, raw, raw_len);
        else
            all = ldr_sum_crc_combine(v->algo, all, crc, left < full ? left : full);
    }
    ldr_sum_crc_raw(v->algo, all, raw);
    return !memcmp(raw, v->want, raw_len);
}
