/* call.h - one get, read or stream under way: what is wanted, what is known of the object, where its bytes go. Shared by
 * get.c (the cache, and the calls themselves) and chunks.c (what is asked of the agent, and bytes that it sends).
 * A call lives on the stack of its thread; it is large, and only its small fields are ever cleared. */
#ifndef LDR_CALL_H
#define LDR_CALL_H

#include "client/client.h"

#define LDR_COPY_MAX      (8 * LDR_MIB) /* of a view that is not in the cache */
#define LDR_STREAM_WINDOW LDR_BLOCK_SIZE_DEFAULT
#define LDR_STREAM_AHEAD  (64 * LDR_MIB) /* what a stream has fetched behind its window */
#define LDR_STREAM_PIECE  LDR_MIB
#define LDR_HEAD_MAX      (LDR_RECORD_FIXED + LDR_META_MAX)

enum ldr_call_mode {
    LDR_CALL_VIEW,   /* -> object */
    LDR_CALL_INTO,   /* a whole object -> buf, or nothing where it is larger than cap */
    LDR_CALL_READ,   /* a range, cut at cap -> buf */
    LDR_CALL_STREAM, /* a window -> object, or its chunks -> write */
    LDR_CALL_META    /* -> meta */
};

/* The version that the bytes so far were of: by record id (once a window came from the cache), by validator, or, for a
 * store that has none, by all that is said of it. */
struct ldr_version {
    bool known; /* else nothing of it is set */
    bool has_id;
    struct ldr_id id;
    uint64_t size;
    int64_t last_modified_s;
    struct ldr_buf fields, validator; /* owned */
};

struct ldr_call {
    struct larder *l;
    enum ldr_call_mode mode;
    int timeout_ms;
    int64_t deadline_ns; /* set when the agent is first asked: a hit reads no clock */
    bool asked;
    bool has_accept, has_seen;
    struct ldr_id accept; /* the agent named this record, or the stream began with it: take it, fresh or not */
    struct ldr_id seen;   /* this record was there, and could not be used */

    /* what is wanted */
    uint64_t offset, length; /* length 0: to the end */
    uint64_t ahead;          /* behind that: would be wanted next */
    uint64_t ahead_end;      /* so far the agent was asked for bytes, 0: it was not; stream */
    /* what there is of it, by the record that was found last, or the first chunk; valid if `sized` */
    bool sized;
    uint64_t total;      /* of the whole object */
    uint64_t begin, end; /* of the range */

    /* where it goes; by mode */
    struct larder_object *object; /* owned until it is taken */
    uint8_t *data;                /* of an object that is a copy; NULL: it is none */
    size_t room;                  /* bytes at `data` */
    uint8_t *buf;
    size_t cap;
    larder_write_fn *write;
    void *user;
    bool to_file;          /* stream: a window that is a block file is opened, not mapped */
    int block_fd;          /* of it; 0: none (a caller's standard input is no block file) */
    bool delivered;        /* something was written: the read cannot start again */
    struct ldr_meta *meta; /* borrowed */

    /* what is said of it when the call is over */
    bool hit;                      /* the cache had it when it was looked for first */
    const struct ldr_gen *gen;     /* that the last look was at; NULL: there was no cache */
    const struct ldr_touch *touch; /* where `served` bytes are counted under `prefix`; NULL: nowhere */
    uint64_t served;
    uint8_t prefix;

    size_t text_len, key_len;
    uint8_t key[LDR_INDEX_KEY_MAX]; /* from here on nothing is cleared */
    struct ldr_version version;     /* but for `known` */
    struct ldr_record r;            /* found last; its fields are in `head` */
    char text[LDR_URI_MAX + 1];
    uint8_t head[LDR_HEAD_MAX]; /* of the record */
};

/* ---- call.c ---- */
/* INVALID: the reference. Wanted is the whole object; the caller sets the rest. */
enum larder_kind ldr_call_init(struct ldr_call *c, struct larder *l, const char *uri, enum ldr_call_mode mode,
                               int timeout_ms, struct larder_err *err);
/* Counts the hit, if it was one. After a call_init() that succeeded, always. */
void ldr_call_done(struct ldr_call *c);
/* How much of its text names the object in messages (for "%.*s"): what may be a signature is left out. */
int ldr_call_shown(const struct ldr_call *c);
/* The object has `total` bytes: set what there is of the range. */
void ldr_call_size(struct ldr_call *c, uint64_t total);
/* An object that get_into() has no room for. */
static inline bool ldr_call_too_large(const struct ldr_call *c)
{
    return c->mode == LDR_CALL_INTO && c->total > c->cap;
}
/* Room for a copy of the range, at c->data. `id` NULL: not known. False: out of memory. */
bool ldr_call_room(struct ldr_call *c, const struct ldr_id *id);
void ldr_call_drop(struct ldr_call *c); /* the object */
/* Bytes of the range: into their place, or to the reader (who may give up, with a kind of his own). */
enum larder_kind ldr_call_piece(struct ldr_call *c, const void *p, size_t n, uint64_t offset, struct larder_err *err);

/* ---- get.c ---- */
/* All of the object, window by window: `deliver_window` gets each that was found in the cache, as c->object or (to_file)
 * c->block_fd; bytes that come over IPC go to c->write. Ends the call. */
typedef enum larder_kind ldr_call_deliver_fn(struct ldr_call *c, struct larder_err *err);
enum larder_kind ldr_call_stream(struct ldr_call *c, ldr_call_deliver_fn *deliver_window, struct larder_err *err);

/* ---- chunks.c ---- */
void ldr_version_forget(struct ldr_version *v);
/* Ask for the range, or (want_bytes) for its bytes from `at` on. `hit` is why. TIMEOUT where the call may not wait. */
enum larder_kind ldr_call_ask(struct ldr_call *c, enum ldr_hit hit, bool want_bytes, uint64_t at, ldr_wire_reply **out,
                              struct larder_err *err);
/* Have the agent fetch what a stream wants next before it is missed; nobody waits for it. */
void ldr_call_hint(struct ldr_call *c);
/* The range in chunks, `first` (taken) being the first of them: asks for the others, and begins anew where the object
 * changed meanwhile and nothing of it was delivered. PRECONDITION. LIMIT_EXCEEDED: too large for a view. */
enum larder_kind ldr_call_chunks(struct ldr_call *c, enum ldr_hit hit, ldr_wire_reply *first, struct larder_err *err);
/* A window of a stream was found in the cache: PRECONDITION unless it is of the version that was read so far. */
enum larder_kind ldr_call_same_version(struct ldr_call *c, struct larder_err *err);

#endif
