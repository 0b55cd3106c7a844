/* sigv4.h - AWS Signature Version 4, as S3 wants it: pure functions of (request, credentials, time). Any thread.
 * All kinds: INVALID (a header without a colon, more than LDR_SIGV4_ITEMS_MAX headers or parameters), LIMIT_EXCEEDED (a
 * request over LDR_SIGV4_TEXT_MAX bytes), NO_MEMORY. */
#ifndef LDR_SIGV4_H
#define LDR_SIGV4_H

#include "backends/cred/cred.h"
#include "common/buf.h"

#define LDR_SIGV4_ITEMS_MAX 96
#define LDR_SIGV4_TEXT_MAX  (128 * LDR_KIB)
#define LDR_SIGV4_DATE_MAX  17 /* "20130524T000000Z" and NUL */
#define LDR_SHA256_HEX_MAX  65

#define LDR_SIGV4_EMPTY    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" /* SHA-256 of no bytes */
#define LDR_SIGV4_UNSIGNED "UNSIGNED-PAYLOAD"

/* The key that a day's signatures are made with, kept from one to the next; all zero: none. As secret as the secret key:
 * whoever owns it wipes it. One thread at a time. */
struct ldr_sigv4_key {
    uint8_t of[32], key[32];
};

/* What is signed; all borrowed. */
struct ldr_sigv4 {
    const char *method;
    const char *path;           /* escaped, exactly as it is sent; starts with '/' */
    const char *query;          /* escaped, "a=1&b"; NULL: none. In any order */
    const char *const *headers; /* "Name: value", NULL-terminated: all of them are signed. Host must be among them; when
                                 * headers are signed, so must X-Amz-Date, X-Amz-Content-Sha256, X-Amz-Security-Token */
    const char *payload;        /* SHA-256 in hex, or LDR_SIGV4_UNSIGNED */
    const char *region, *service;
    int64_t time_s;             /* since 1970 UTC */
    struct ldr_sigv4_key *kept; /* NULL: derive the key anew */
};

/* Add the value of the Authorization header to `out`. */
enum larder_kind ldr_sigv4_authorization(const struct ldr_sigv4 *r, const struct ldr_cred *c, struct ldr_buf *out,
                                         struct larder_err *err);
/* Add the query of a presigned URL (without `?`; r->query is part of it) to `out`. Whoever uses the URL must send the
 * signed headers as they were here. INVALID too: expires_s is not positive. */
enum larder_kind ldr_sigv4_presign(const struct ldr_sigv4 *r, const struct ldr_cred *c, int64_t expires_s,
                                   struct ldr_buf *out, struct larder_err *err);

/* The text of X-Amz-Date. INVALID: a year beyond 9999. */
enum larder_kind ldr_sigv4_date(int64_t time_s, char out[LDR_SIGV4_DATE_MAX], struct larder_err *err);
/* Add `text`, every byte outside A-Z a-z 0-9 - _ . ~ (and '/' where `keep_slash`) as %XX. False: full or no memory. */
bool ldr_sigv4_escape(struct ldr_buf *out, const char *text, bool keep_slash);
void ldr_sha256_hex(const void *p, size_t n, char out[LDR_SHA256_HEX_MAX]);

#endif
