/* sum.c - see sum.h. A CRC here is the finished value, with the inversions before and behind that all three have; what
 * the rounds between them work on is called the state. */
#include "backends/sum.h"
#include "common/hash.h"

#include <assert.h>
#include <isa-l/crc.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>

#ifdef __x86_64__
#include <wmmintrin.h>
#endif

struct algo {
    const char *name;
    size_t raw_len;
    const EVP_MD *(*digest)(void);
    uint64_t poly, one; /* of a CRC: the reflected polynomial, and x^0, which is the top bit */
};

static const struct algo algos[LDR_SUM_ALGOS] = {
    [LDR_SUM_CRC64NVME] = { "crc64nvme", 8, NULL, UINT64_C(0x9a6c9329ac4bc9b5), UINT64_C(1) << 63 },
    [LDR_SUM_CRC32C] = { "crc32c", 4, NULL, 0x82f63b78, UINT64_C(1) << 31 },
    [LDR_SUM_CRC32] = { "crc32", 4, NULL, 0xedb88320, UINT64_C(1) << 31 },
    [LDR_SUM_SHA1] = { "sha1", 20, EVP_sha1, 0, 0 },
    [LDR_SUM_SHA256] = { "sha256", 32, EVP_sha256, 0, 0 },
    [LDR_SUM_MD5] = { "md5", 16, EVP_md5, 0, 0 },
};

static const struct algo *algo_of(enum ldr_sum_algo a)
{
    assert((unsigned)a < LDR_SUM_ALGOS);
    return &algos[a];
}

const char *ldr_sum_name(enum ldr_sum_algo a)
{
    return algo_of(a)->name;
}

enum ldr_sum_algo ldr_sum_by_name(const char *name, size_t len)
{
    for (size_t i = LDR_SUM_NONE + 1; i < LDR_SUM_ALGOS; i++)
        if (len == strlen(algos[i].name) && !strncasecmp(name, algos[i].name, len))
            return (enum ldr_sum_algo)i;
    return LDR_SUM_NONE;
}

size_t ldr_sum_raw_len(enum ldr_sum_algo a)
{
    return algo_of(a)->raw_len;
}

/* ---- polynomials over GF(2), reflected: the top bit is x^0, bit 0 the highest power ---- */

/* f * g mod P */
static uint64_t multiply(const struct algo *a, uint64_t f, uint64_t g)
{
    uint64_t product = 0;

    for (uint64_t bit = a->one; bit; bit >>= 1) { /* g is multiplied by x at every step */
        product ^= f & bit ? g : 0;
        g = g >> 1 ^ (g & 1 ? a->poly : 0);
    }
    return product;
}

/* f^n mod P */
static uint64_t power(const struct algo *a, uint64_t f, uint64_t n)
{
    uint64_t product = a->one;

    for (; n; n >>= 1) {
        if (n & 1)
            product = multiply(a, product, f);
        f = multiply(a, f, f);
    }
    return product;
}

/* n bytes behind A multiply its polynomial by x^8n. The inversions need no care: those of A's end and of B's start, both
 * of all ones, cancel each other. */
uint64_t ldr_sum_crc_combine(enum ldr_sum_algo a, uint64_t crc_a, uint64_t crc_b, uint64_t len_b)
{
    const struct algo *of = algo_of(a);

    assert(ldr_sum_is_crc(a));
    return multiply(of, crc_a, power(of, of->one >> 8, len_b)) ^ crc_b;
}

/* ---- CRC64NVME ---- */

/* All derived from the polynomial, once in the process. */
struct crc64 {
    uint64_t shift[16][256]; /* [k][byte]: what a state of this lowest byte is k + 1 bytes later */
    uint64_t fold64[2], fold16[2];
};

/* What fold() multiplies by, to move 16 bytes over `bytes` bytes. Of two reflected words the processor's product is one
 * bit too short, so it has a factor x too much. The first word stands 64 bits before the second. */
static void fold_by(uint64_t by[2], unsigned bytes)
{
    const struct algo *a = &algos[LDR_SUM_CRC64NVME];

    by[0] = power(a, a->one >> 1, 8 * bytes + 64 - 1);
    by[1] = power(a, a->one >> 1, 8 * bytes - 1);
}

static struct crc64 crc64_made;

static void crc64_make(void)
{
    const struct algo *a = &algos[LDR_SUM_CRC64NVME];
    struct crc64 *t = &crc64_made;

    for (uint64_t byte = 0; byte < 256; byte++)
        t->shift[0][byte] = multiply(a, a->one >> 8, byte);
    for (int k = 1; k < 16; k++)
        for (int byte = 0; byte < 256; byte++)
            t->shift[k][byte] = t->shift[k - 1][byte] >> 8 ^ t->shift[0][t->shift[k - 1][byte] & 255];
    fold_by(t->fold64, 64);
    fold_by(t->fold16, 16);
}

static const struct crc64 *crc64_tables(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, crc64_make);
    return &crc64_made;
}

static uint64_t word_at(const uint8_t *p)
{
    uint64_t w;

    memcpy(&w, p, sizeof w);
    return w;
}

/* Sixteen bytes a round: the table of each says what it is when all sixteen are through. */
static uint64_t crc64_slice(const struct crc64 *t, uint64_t state, const uint8_t *p, size_t n)
{
    for (; n >= 16; p += 16, n -= 16) {
        uint64_t v = word_at(p) ^ state, w = word_at(p + 8);

        state = t->shift[15][v & 255] ^ t->shift[14][v >> 8 & 255] ^ t->shift[13][v >> 16 & 255] ^
                t->shift[12][v >> 24 & 255] ^ t->shift[11][v >> 32 & 255] ^ t->shift[10][v >> 40 & 255] ^
                t->shift[9][v >> 48 & 255] ^ t->shift[8][v >> 56] ^ t->shift[7][w & 255] ^ t->shift[6][w >> 8 & 255] ^
                t->shift[5][w >> 16 & 255] ^ t->shift[4][w >> 24 & 255] ^ t->shift[3][w >> 32 & 255] ^
                t->shift[2][w >> 40 & 255] ^ t->shift[1][w >> 48 & 255] ^ t->shift[0][w >> 56];
    }
    for (; n; p++, n--)
        state = state >> 8 ^ t->shift[0][(state ^ *p) & 255];
    return state;
}

#ifdef __x86_64__

#define CLMUL __attribute__((target("pclmul")))

CLMUL static __m128i load(const void *p)
{
    return _mm_loadu_si128(p);
}

/* The 16 bytes x, moved over as many bytes as `by` was made for, added to those that stand there. */
CLMUL static __m128i fold(__m128i x, __m128i by, __m128i there)
{
    __m128i first = _mm_clmulepi64_si128(x, by, 0x00), second = _mm_clmulepi64_si128(x, by, 0x11);

    return _mm_xor_si128(_mm_xor_si128(first, second), there);
}

/* The state after n bytes, at least 64 and a multiple of 16. Four strands hide the multiplication's latency. What is
 * left at the end has the remainder of all n bytes, so it goes through the tables in their place. */
CLMUL static uint64_t crc64_fold(const struct crc64 *t, uint64_t state, const uint8_t *p, size_t n)
{
    __m128i by = load(t->fold64), by16 = load(t->fold16);
    __m128i a = _mm_xor_si128(load(p), _mm_cvtsi64_si128((long long)state));
    __m128i b = load(p + 16), c = load(p + 32), d = load(p + 48);
    uint8_t rest[16];

    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        a = fold(a, by, load(p));
        b = fold(b, by, load(p + 16));
        c = fold(c, by, load(p + 32));
        d = fold(d, by, load(p + 48));
    }
    d = fold(fold(fold(a, by16, b), by16, c), by16, d);
    for (; n; p += 16, n -= 16)
        d = fold(d, by16, load(p));
    _mm_storeu_si128((void *)rest, d);
    return crc64_slice(t, 0, rest, sizeof rest);
}

#endif

static uint64_t crc64(uint64_t crc, const uint8_t *p, size_t n)
{
    const struct crc64 *t = crc64_tables();
    uint64_t state = ~crc;

#ifdef __x86_64__
    if (n >= 64 && __builtin_cpu_supports("pclmul")) {
        size_t whole = n & ~(size_t)15;

        state = crc64_fold(t, state, p, whole);
        p += whole;
        n -= whole;
    }
#endif
    return ~crc64_slice(t, state, p, n);
}

/* ---- CRCs ---- */

/* Of this one isa-l leaves the inversions to its caller, takes an int for the length, and its bytes are not const. */
static uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t n)
{
    uint32_t state = ~crc;

    while (n) {
        size_t part = n < INT_MAX ? n : INT_MAX;

        state = crc32_iscsi((unsigned char *)p, (int)part, state);
        p += part;
        n -= part;
    }
    return ~state;
}

uint64_t ldr_sum_crc(enum ldr_sum_algo a, uint64_t crc, const void *p, size_t n)
{
    assert(ldr_sum_is_crc(a));
    if (n == 0) /* p may be NULL then */
        return crc;
    if (a == LDR_SUM_CRC64NVME)
        return crc64(crc, p, n);
    if (a == LDR_SUM_CRC32C)
        return crc32c((uint32_t)crc, p, n);
    return crc32_gzip_refl((uint32_t)crc, p, n);
}

void ldr_sum_crc_raw(enum ldr_sum_algo a, uint64_t crc, uint8_t raw[LDR_SUM_RAW_MAX])
{
    assert(ldr_sum_is_crc(a));
    for (size_t i = ldr_sum_raw_len(a); i > 0; i--, crc >>= 8)
        raw[i - 1] = (uint8_t)crc;
}

/* ---- piece by piece ---- */

enum larder_kind ldr_sum_begin(struct ldr_sum *s, enum ldr_sum_algo a, struct larder_err *err)
{
    const struct algo *of = algo_of(a);
    enum larder_kind k = LARDER_OK;

    ldr_sum_release(s);
    if (of->digest) {
        ERR_set_mark(); /* libcurl reads the same queue of errors: it must not find ours */
        s->digest = EVP_MD_CTX_new();
        if (!s->digest)
            k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a checksum");
        else if (EVP_DigestInit_ex(s->digest, of->digest(), NULL) != 1)
            k = ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE
                    ? ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a checksum")
                    : ldr_fail(err, LARDER_UNSUPPORTED, "this machine's libcrypto does not offer %s", of->name);
        ERR_pop_to_mark();
    }
    if (k)
        ldr_sum_release(s);
    else
        s->algo = a;
    return k;
}

void ldr_sum_add(struct ldr_sum *s, const void *p, size_t n)
{
    if (ldr_sum_is_crc(s->algo)) {
        s->crc = ldr_sum_crc(s->algo, s->crc, p, n);
    } else if (s->digest) {
        int ok = EVP_DigestUpdate(s->digest, p, n);

        assert(ok == 1); /* it was started, and has no limit within 2^61 bytes */
        (void)ok;
    }
}

void ldr_sum_end(struct ldr_sum *s, uint8_t raw[LDR_SUM_RAW_MAX])
{
    if (ldr_sum_is_crc(s->algo)) {
        ldr_sum_crc_raw(s->algo, s->crc, raw);
    } else if (s->digest) {
        int ok = EVP_DigestFinal_ex(s->digest, raw, NULL);

        assert(ok == 1);
        (void)ok;
    }
    ldr_sum_release(s);
}

void ldr_sum_release(struct ldr_sum *s)
{
    EVP_MD_CTX_free(s->digest);
    *s = (struct ldr_sum){ 0 };
}

/* ---- as text ---- */

void ldr_sum_base64(enum ldr_sum_algo a, const uint8_t raw[LDR_SUM_RAW_MAX], char *out)
{
    EVP_EncodeBlock((unsigned char *)out, raw, (int)ldr_sum_raw_len(a));
}

/* libcrypto's decoder forgives blanks around the text, padding inside it and stray bits at its end: only what is encoded
 * as this very text was it. */
static bool parse_base64(enum ldr_sum_algo a, const char *text, size_t len, uint8_t bytes[LDR_SUM_TEXT_MAX])
{
    char again[LDR_SUM_TEXT_MAX];

    if (len != (ldr_sum_raw_len(a) + 2) / 3 * 4 || EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)len) < 0)
        return false;
    ldr_sum_base64(a, bytes, again);
    return !memcmp(again, text, len);
}

bool ldr_sum_parse(enum ldr_sum_algo a, const char *text, size_t len, uint8_t raw[LDR_SUM_RAW_MAX])
{
    size_t n = ldr_sum_raw_len(a);
    uint8_t bytes[LDR_SUM_TEXT_MAX] = { 0 };
    bool hex = a == LDR_SUM_MD5 && len == 2 * n;

    if (a == LDR_SUM_NONE || !(hex ? ldr_unhex(text, len, bytes, n) : parse_base64(a, text, len, bytes)))
        return false;
    memcpy(raw, bytes, n);
    return true;
}
