/* mini_index.h - a cache directory made for tests, as an agent would leave it: format, gen-N/hdr, gen-N/data.mdb,
 * blocks. One writer, no pins: readers in other threads must not read over more than one mini_publish(). Failures end
 * the test by abort(), with a line that says where. */
#ifndef LDR_TEST_MINI_INDEX_H
#define LDR_TEST_MINI_INDEX_H

#include "common/layout.h"
#include "common/record.h"

#include <lmdb.h>

struct mini {
    char dir[200];
    struct ldr_format format;
    struct ldr_hdr *hdr; /* writable */
    MDB_env *env;
    MDB_dbi dbi;
    MDB_txn *txn; /* open between the first put and mini_publish() */
    uint64_t mapsize, next_id;
};

/* What an object of a test is. Zero: a fresh (immutable), empty, inline object. */
struct mini_object {
    const void *data;
    size_t len;
    uint8_t block_log2;      /* not 0: in block files of that size */
    uint64_t fresh_until_ns; /* 0: LDR_FRESH_ALWAYS */
    uint32_t boot;           /* 0: the boot of this cache */
    uint32_t flags;          /* beside LDR_FLAG_INLINE */
    int64_t last_modified_s;
    uint8_t prefix;              /* slot of the touch page's counters */
    const struct ldr_meta *meta; /* NULL: no fields */
    const char *other_key;       /* not NULL: LDR_TAG_KEY of a long reference is this, not its own text */
};

/* Make the files below `dir`, which exists, with generation 1. mapsize in bytes; 0: 64 MiB. */
void mini_open(struct mini *m, const char *dir, uint64_t mapsize);
void mini_close(struct mini *m); /* the files stay */

/* Any key, any value, in the open transaction. */
void mini_put(struct mini *m, const void *key, size_t key_len, const void *value, size_t len);
void mini_del(struct mini *m, const void *key, size_t key_len);
/* The record of `uri` (and its block files at once); returns its object id. */
struct ldr_id mini_add(struct mini *m, const char *uri, const struct mini_object *o);
void mini_remove(struct mini *m, const char *uri);
/* Commit and let readers see it; returns the transaction's number. */
uint64_t mini_publish(struct mini *m);

#define MINI_PATH_MAX 300
/* The path of block `n` of an object. */
void mini_block_path(const struct mini *m, const struct ldr_id *id, uint32_t n, char out[MINI_PATH_MAX]);
/* Block `n` goes, as if it were evicted (or had never been fetched); or comes (back), with the bytes of `o`. */
void mini_drop_block(const struct mini *m, const struct ldr_id *id, uint32_t n);
void mini_fill_block(const struct mini *m, const struct ldr_id *id, const struct mini_object *o, uint32_t n);
/* A touch page of so many bits (touch.h), before a client opens this generation; returns its descriptor. */
int mini_touch(struct mini *m, uint64_t bits);
/* Mark the generation retired (cur = floor = LDR_RETIRED). */
void mini_retire(struct mini *m);
/* A new, empty generation in new files, named by `format`; the old one is left as it is (see mini_retire). */
void mini_new_generation(struct mini *m);
void mini_write_format(const struct mini *m);

#endif
