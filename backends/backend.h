/* backend.h - what every store is to the agent: one vtable, one file a store (docs/tour.md step 7).
 *
 * Rules
 *  1. An op is handed to a backend on its net thread and ends exactly once, by ldr_op_done(), perhaps before the call
 *     returns. The call itself never blocks: a backend that must (local files) hands the op to the pool.
 *  2. Until its end the op belongs to the backend. The sink is called by one thread at a time: net or pool.
 *  3. A get calls sink->begin once per attempt, then sink->write in order. Backends do not retry: agent/attempt does (an
 *     op that failed with a kind worth a retry is handed over again, whole). s3 alone sends once more by itself, where
 *     the store refused this machine's clock, the credentials, the region or a checksum that it does not know.
 *  4. A get that ends OK delivered exactly the bytes that begin() announced. A shorter or longer body is UNAVAILABLE.
 *     A ranged get is cut at the object's end; begin() says the range that really comes. One that starts at or behind
 *     the end announces length 0 at the object's size (so does any ranged get of an empty object), with full metadata: a
 *     store that answers 416 is asked by HEAD within the op. A store that ignores the range and sends all is announced
 *     as [0, size) where the range began at 0, and UNSUPPORTED otherwise. An answer for another range than was asked
 *     for is CORRUPT; one with another validator than if_match named is PRECONDITION, as if the store had refused.
 *  5. One request of the store per op, where the store allows it; `requests` counts what was really sent.
 *  6. Keys are sent byte for byte (no cleaning of `//`, `.`, `..`). A key that a store cannot hold is INVALID.
 *  7. No secret in any message. Errors name the object as `scheme://container/key` and carry the store's request id. */
#ifndef LDR_BACKEND_H
#define LDR_BACKEND_H

#include "backends/pool.h"
#include "backends/sum.h"
#include "backends/transport/net.h"
#include "common/buf.h"
#include "common/meta.h"

struct ldr_backend;
struct ldr_op;

/* Where a get's bytes go. */
struct ldr_sink {
    /* The answer's head is in: `meta` (size_bytes = the whole object's size), and the part of the object that follows
     * [offset, offset + length). Called again from the start when an attempt is repeated. Other than OK ends the op. */
    enum larder_kind (*begin)(struct ldr_sink *s, const struct ldr_meta *meta, uint64_t offset, uint64_t length,
                              struct larder_err *err);
    enum larder_kind (*write)(struct ldr_sink *s, const void *p, size_t n, struct larder_err *err);
    /* Optional; a backend may ask once, after begin() and before or between writes. True: the `left` bytes of the answer
     * that are still to come belong into *file from *at on, and whoever can put them there without reading them does so and
     * tells by moved(), in place of write(). */
    bool (*direct)(struct ldr_sink *s, uint64_t left, int *file, uint64_t *at);
    enum larder_kind (*moved)(struct ldr_sink *s, size_t n, struct larder_err *err);
};

/* One page of a listing. Texts are owned by the page. */
struct ldr_list_entry {
    char *key;      /* without the container */
    char *etag;     /* as for people, no quotes; NULL: unknown */
    bool is_prefix; /* a group of keys up to the delimiter: only `key` is set */
    uint64_t size_bytes;
    int64_t last_modified_s; /* LDR_TIME_UNKNOWN */
};
struct ldr_page {
    struct ldr_list_entry *entries;
    size_t n, cap;
    size_t bytes; /* of the texts: a page stays below LDR_PAGE_BYTES_MAX */
    char *next;   /* where the next page starts; NULL: this was the last */
};
#define LDR_PAGE_ENTRIES_MAX 800
#define LDR_PAGE_BYTES_MAX   (900 * LDR_KIB) /* fits a reply */
/* Add an entry; texts are copied, etag may be NULL. False: out of memory, or the page is full. */
bool ldr_page_add(struct ldr_page *p, const char *key, bool is_prefix, uint64_t size, int64_t last_modified_s,
                  const char *etag);
void ldr_page_release(struct ldr_page *p); /* empty again */

/* An object that is written in parts: no reader sees anything of it before UPLOAD_END. Owned by whoever runs the upload;
 * the ops of its parts may be under way at the same time, each with its own element of `parts`. */
#define LDR_UPLOAD_ID_MAX 1024
#define LDR_PARTS_MAX     10000
struct ldr_upload_part {
    uint64_t size; /* bytes; 0: not there yet */
    uint64_t crc;  /* where the upload has an `algo` */
    char etag[72]; /* as the store wants it back; UPLOAD_PART and UPLOAD_COPY set these three */
};
struct ldr_multipart {
    char id[LDR_UPLOAD_ID_MAX + 1]; /* UPLOAD_BEGIN sets id and algo */
    enum ldr_sum_algo algo;         /* CRC that is sent with each part and with the whole; NONE: the store takes none */
    uint64_t part_size; /* set before UPLOAD_BEGIN: bytes of each part, but of the last one at most so many */
    bool copies;        /* set before UPLOAD_BEGIN: the parts come by UPLOAD_COPY */
    struct ldr_upload_part *parts; /* part n is parts[n - 1]; their order is the object's */
    uint32_t n_parts;              /* UPLOAD_END: how many */
    bool composite;                /* the backend's: the store sums up the parts' sums */
    bool end_sent;                 /* the backend's: an UPLOAD_END may have been carried out */
};

/* A URL with which anybody may carry out one request, and what must be sent along. */
struct ldr_signing {
    bool put;                /* else get */
    int64_t lifetime_s;      /* > 0; shortened to the credential's own life and to 7 days */
    const char *content_md5; /* put: base64, signed; NULL: none. Borrowed, as the next */
    const char *content_type;
    bool md5_in_metadata;   /* put: the MD5 is kept in the object's metadata too, as Flyte does */
    struct ldr_buf url;     /* results, owned by the op's owner: text with NUL */
    struct ldr_buf headers; /* lines "Name: value\n" that the request must carry */
    int64_t expires_s;      /* since 1970 UTC */
};

/* One key of DELETE_MANY, and what became of it. */
struct ldr_delete_item {
    const char *uri, *key; /* borrowed */
    enum larder_kind kind;
    char why[160];
};
#define LDR_DELETE_MANY_MAX 1000

enum ldr_op_what {
    LDR_OP_GET,
    LDR_OP_HEAD,
    LDR_OP_PUT,
    LDR_OP_DELETE,
    LDR_OP_LIST,
    LDR_OP_COPY,
    LDR_OP_UPLOAD_BEGIN, /* put_meta as for a put */
    LDR_OP_UPLOAD_PART,  /* the body is part `part` of `upload` */
    LDR_OP_UPLOAD_COPY,  /* [offset, offset + length) of from_… is part `part` */
    LDR_OP_UPLOAD_END,   /* the object is there, or not; size_bytes is the whole. create_only, if_match as for a put */
    LDR_OP_UPLOAD_ABORT, /* nothing is left of it; one that the store does not know is gone: OK */
    LDR_OP_DELETE_MANY,  /* `items` of one container; OK: each has its kind. UNSUPPORTED: delete it by itself */
    LDR_OP_MAKE_CONTAINER, /* one that is there and ours is made already: OK */
    LDR_OP_SIGN,           /* asks no store, but perhaps for credentials */
    LDR_OP_WHATS
};

struct ldr_op {
    struct ldr_task task; /* the hand-off between threads; free for whoever holds the op */
    struct ldr_backend *backend;
    enum ldr_op_what what;
    const char *uri;             /* canonical text, for messages; borrowed */
    const char *container, *key; /* NUL-terminated; borrowed */
    int64_t deadline_ns;         /* CLOCK_MONOTONIC */

    /* get */
    bool ranged; /* only [offset, offset + length); else the whole object */
    uint64_t offset, length;
    /* NULL, or the validator that the object must still have: else PRECONDITION. Get, head, put, delete, UPLOAD_END; with
     * UPLOAD_COPY and COPY that of the source */
    const char *if_match;
    /* get: NULL, or the validator of the version that the caller has: while the object has it the op ends OK with
     * not_modified set, `meta` as far as the store repeats it, and no call of the sink */
    const char *if_none_match;
    struct ldr_sink *sink;

    /* put: the body is `bytes`, or `fd` from 0 (>= 0; then bytes is NULL) */
    const void *bytes;
    int fd;
    uint64_t size_bytes;
    bool has_crc32c; /* the caller has read the body already, and knows its CRC32C */
    uint64_t crc32c;
    const struct ldr_meta *put_meta; /* content type and the like, user metadata; NULL: none */
    bool create_only;                /* EXISTS if there is one; UNSUPPORTED where the store cannot promise it */

    /* writes in parts, see enum ldr_op_what */
    struct ldr_multipart *upload;
    uint32_t part; /* 1 .. LDR_PARTS_MAX. Head: 0, or of this part alone: meta.size_bytes is the part's (HEAD_SUM) */

    struct ldr_delete_item *items;
    size_t n_items;           /* 1 .. LDR_DELETE_MANY_MAX */
    struct ldr_signing *sign; /* SIGN */

    /* list: `key` is the prefix. Up to max_entries keys behind `start` (an earlier page's next), in the store's order,
     * grouped by `delimiter` */
    const char *delimiter, *start; /* NULL: none; borrowed */
    unsigned max_entries;          /* 1 .. LDR_PAGE_ENTRIES_MAX */

    /* copy: from this object of the same backend to container/key; metadata goes along */
    const char *from_uri, *from_container, *from_key; /* borrowed */

    /* results */
    enum larder_kind kind;
    struct larder_err err;
    struct ldr_meta meta;    /* get, head: of the object. put: validator, ETag, version; size as put */
    bool not_modified;       /* get: see if_none_match */
    struct ldr_page page;    /* list; owned by the op's owner */
    bool no_container;       /* NOT_FOUND, as there is no such container */
    uint32_t retry_after_ms; /* 0: the store did not say */
    bool throttled;          /* the store says that it gets more requests than it can serve */
    bool sent;               /* a request that can change the store may have reached it */
    unsigned requests;
    uint64_t bytes_in, bytes_out;

    void (*done)(struct ldr_op *op); /* set by the owner; called on net or pool thread */
    void *user;                      /* the owner's */
    void *priv;                      /* the backend's; NULL when it ends the op */
};

/* Hand the op to the slot of its backend that `what` names. On the backend's net thread. */
void ldr_op_start_on_net(struct ldr_op *op);
/* Give the op back with its result; `err` is filled in op->err already where kind is not OK. */
void ldr_op_done(struct ldr_op *op, enum larder_kind kind);
/* Reset the results for another attempt; counters are kept. */
void ldr_op_rearm(struct ldr_op *op);

#define LDR_CAP_RANGE        1u /* get: ranged */
#define LDR_CAP_IF_MATCH     2u /* get: if_match is honoured by the store */
#define LDR_CAP_CREATE_ONLY  4u
#define LDR_CAP_USER_META    8u
#define LDR_CAP_STREAM_ONLY  16u /* ranges of two requests may be of two versions: one request brings the whole object */
#define LDR_CAP_PUT_IF_MATCH 32u /* put, UPLOAD_END and delete: if_match is honoured by the store */
#define LDR_CAP_HEAD_SUM     64u /* a head tells checksums that a ranged get keeps to itself; it may be of a part */

/* Settings of one store, as the configuration has them (reference: docs/configuration.md). */
struct ldr_store_cfg {
    const char *kind;   /* "s3", "local", "memory" */
    const char *scheme; /* that it serves */
    const struct ldr_pair {
        const char *name, *value;
        int line; /* in the configuration file, 0: none */
    } * config;   /* stow.config and the like */
    size_t n_config;
};
/* The value of a setting, or NULL. */
const char *ldr_store_cfg_get(const struct ldr_store_cfg *cfg, const char *name);

struct ldr_backend_env {
    struct ldr_net *net;
    struct ldr_pool *pool;
};

typedef void ldr_op_fn(struct ldr_backend *b, struct ldr_op *op);

struct ldr_backend_ops {
    const char *kind; /* the word in the configuration and the metric label */
    unsigned caps;
    /* Checks the settings (INVALID names the key), sends nothing. Any thread. */
    enum larder_kind (*open)(const struct ldr_store_cfg *cfg, const struct ldr_backend_env *env,
                             struct ldr_backend **out, struct larder_err *err);
    void (*close)(struct ldr_backend *b); /* after its last op; any thread */
    ldr_op_fn *get, *head, *put, *del;    /* on the net thread */
    ldr_op_fn *list;                      /* the same */
    ldr_op_fn *copy;                      /* optional, as all that follow: without it UNSUPPORTED */
    ldr_op_fn *upload;                    /* all five UPLOAD_… */
    ldr_op_fn *delete_many, *make_container, *sign;
    uint64_t part_min, part_max; /* bytes of a part, but for the last one, which may be smaller; `upload` is set */
    uint64_t put_max, copy_max;  /* bytes of one put, of one copy; 0: no limit */
    /* Hash of what says which store this is (kind, endpoint, account, path; no secret): another one, another cache. */
    uint64_t (*fingerprint)(const struct ldr_backend *b);
};

/* First member of every backend. */
struct ldr_backend {
    const struct ldr_backend_ops *ops;
    struct ldr_backend_env env;
    struct ldr_pace *pace;   /* of the agent (agent/pace.h), none of the backend's business; NULL: none */
    _Atomic unsigned silent; /* heads in a row that told no checksum: load_check.c */
};

/* What is compiled in; NULL: no such kind. registry.c. */
const struct ldr_backend_ops *ldr_backend_find(const char *kind);
/* "local, memory, s3": for messages. */
const char *ldr_backend_kinds(void);

#endif
