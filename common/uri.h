/* uri.h - references of objects, in two dialects that meet in the same triple (scheme, container, key).
 *
 * Literal (larder_*, CLI): `scheme://container/KEY`. KEY is everything behind the first `/`, byte for byte to
 * the end; nothing is decoded, only NUL cannot occur. The scheme is lower-cased. `user@` before the container is
 * dropped, but for abfs and abfss, where the user name is the container (`abfs://cont@account.host/k` is
 * `abfs://cont/k`). Flyte (DataStore, ProtobufStore, data proxy): Split and ConstructReference as Go's URL parser does
 * them, decoding and resolving; the rules are tests/vectors/references.jsonl.
 *
 * Canonical text: `scheme://container/KEY` of the triple, abfss folded into abfs. One object reached both ways has one.
 * Any thread. */
#ifndef LDR_URI_H
#define LDR_URI_H

#include "common/fail.h"

#define LDR_SCHEME_MAX    15
#define LDR_CONTAINER_MAX 255
#define LDR_KEY_MAX       4096 /* bytes; S3 takes 1,024 */
#define LDR_URI_MAX       (LDR_SCHEME_MAX + 3 + LDR_CONTAINER_MAX + 1 + LDR_KEY_MAX)
#define LDR_INDEX_KEY_MAX 480 /* bytes of a key in the index (LMDB takes 511) */

struct ldr_uri {
    char scheme[LDR_SCHEME_MAX + 1]; /* lower case, folded: "s3", "gs", "abfs", "file", "mem", … */
    const char *container;           /* borrowed from the text that was parsed; not NUL-terminated */
    size_t container_len;
    const char *key; /* likewise; NUL-terminated, as it reaches to the end */
    size_t key_len;
};

/* Parse a literal reference; allocates nothing. `out` borrows from `text`.
 * INVALID: no scheme, an unreadable scheme, no container, no key, too long, control characters in the container;
 * `file:///abs` (the message says how to name a local object). A container alone (`s3://b`, `s3://b/`) is INVALID here.
 */
enum larder_kind ldr_uri_parse(const char *text, struct ldr_uri *out, struct larder_err *err);

/* The same for a prefix of references: its key may be empty, and for a container alone the `/` may be left out. */
enum larder_kind ldr_uri_parse_prefix(const char *text, struct ldr_uri *out, struct larder_err *err);

/* The canonical text, NUL-terminated, into `out` of LDR_URI_MAX + 1 bytes; returns its length. */
size_t ldr_uri_text(const struct ldr_uri *u, char *out);

/* The key of the index for a canonical text of `len` bytes: the text itself up to LDR_INDEX_KEY_MAX bytes; longer: its
 * first 440 bytes + NUL + XXH3-128 (canonical byte order, 16 bytes) of the whole. Returns the length in `out`. */
size_t ldr_index_key(const char *text, size_t len, uint8_t out[LDR_INDEX_KEY_MAX]);

/* ---- Flyte's dialect ---- */
struct ldr_ref {
    char *scheme, *container, *key; /* owned; NUL-terminated; key decoded, may hold no NUL (INVALID) */
};

/* Split(reference). INVALID where the vectors say error. */
enum larder_kind ldr_ref_split(const char *reference, struct ldr_ref *out, struct larder_err *err);
void ldr_ref_release(struct ldr_ref *r);
/* ConstructReference(base, keys…): *out is owned by the caller, ended by free(). */
enum larder_kind ldr_ref_join(const char *base, const char *const keys[], size_t n, char **out, struct larder_err *err);
/* NewDataReference: plain `scheme://container/key`, nothing escaped. *out as above. */
enum larder_kind ldr_ref_new(const char *scheme, const char *container, const char *key, char **out,
                             struct larder_err *err);

#endif
