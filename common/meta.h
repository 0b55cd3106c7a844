/* meta.h - what a store says of an object: size, time, and tagged fields (validator, ETag, content type, …).
 * The fields are kept encoded, as they stand in an index record and in a reply, so that nobody copies them from one
 * shape to another. One field = tag u8, length u16 (little-endian), bytes. Unknown tags are kept and skipped.
 * Text fields hold no NUL. Limits: LDR_META_MAX bytes of fields in all. */
#ifndef LDR_META_H
#define LDR_META_H

#include "common/buf.h"

#define LDR_META_MAX (12 * LDR_KIB)

enum ldr_tag {                        /* numbers are in files and messages: never renumbered */
               LDR_TAG_VALIDATOR = 1, /* as the store sent it, for If-Match: `"abc"`, quotes and W/ kept */
               LDR_TAG_ETAG = 2,      /* for people: no quotes, no W/ */
               LDR_TAG_VERSION = 3,   /* version id or generation */
               LDR_TAG_CONTENT_TYPE = 4,
               LDR_TAG_CONTENT_ENCODING = 5,
               LDR_TAG_CACHE_CONTROL = 6,
               LDR_TAG_CONTENT_DISPOSITION = 7,
               LDR_TAG_CONTENT_LANGUAGE = 8,
               LDR_TAG_CONTENT_MD5 = 9, /* base64 text */
               LDR_TAG_CHECKSUM = 10,   /* NAME NUL VALUE, e.g. "crc64nvme\0base64"; may repeat */
               LDR_TAG_USER = 11, /* user metadata, NAME (lower case, without x-amz-meta-) NUL VALUE; may repeat */
               LDR_TAG_KEY = 12,  /* the whole canonical text, where the index key is a shortened one */
};

#define LDR_TIME_UNKNOWN INT64_MIN

struct ldr_meta {
    uint64_t size_bytes;
    int64_t last_modified_s; /* since 1970 UTC; LDR_TIME_UNKNOWN */
    struct ldr_buf fields;   /* owned */
};

/* One field, borrowed from the encoded bytes. */
struct ldr_field {
    uint8_t tag;
    const uint8_t *p;
    size_t len;
};

void ldr_meta_init(struct ldr_meta *m);
void ldr_meta_release(struct ldr_meta *m);
/* Add a field. False: a text over 65,535 bytes, fields over LDR_META_MAX, a NUL inside a text, a pair
 * without a name, or out of memory. */
bool ldr_meta_add(struct ldr_meta *m, enum ldr_tag tag, const void *p, size_t n);
bool ldr_meta_add_text(struct ldr_meta *m, enum ldr_tag tag, const char *text);
bool ldr_meta_add_pair(struct ldr_meta *m, enum ldr_tag tag, const char *name, const char *value);
bool ldr_meta_copy(struct ldr_meta *to,
                   const struct ldr_meta *from); /* `to` is initialised; what it held is replaced */

/* Is a validator strong, so that it stands for the very bytes (If-Match; ranges of two requests)? `W/` marks a weak one,
 * and none at all is no stronger. */
static inline bool ldr_validator_strong(const uint8_t *p, size_t n)
{
    return n > 0 && !(n >= 2 && p[0] == 'W' && p[1] == '/');
}

/* Step through encoded fields: *pos starts at 0. False at the end or where the bytes stop making sense. */
bool ldr_fields_next(const uint8_t *fields, size_t len, size_t *pos, struct ldr_field *out);
/* Are the fields well-formed to their last byte (lengths fit; texts and pairs hold the NULs that they must)? */
bool ldr_fields_valid(const uint8_t *fields, size_t len);
/* The first field with `tag`; false: none. */
bool ldr_fields_find(const uint8_t *fields, size_t len, enum ldr_tag tag, struct ldr_field *out);
/* A text field copied to `out` (cap bytes, always NUL-terminated); false: none, or it does not fit. */
bool ldr_meta_text(const struct ldr_meta *m, enum ldr_tag tag, char *out, size_t cap);

#endif
