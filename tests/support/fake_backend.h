/* fake_backend.h - a store whose answers the test sets: the vtable of backend.h over a script.
 * It honours if_match and if_none_match by the answer's validator. Each kind of op has a list of answers; they are given in order, the last one again and again. While the store is
 * held, ops pile up and the test lets them go. Functions: any thread; answers are given on the net thread. */
#ifndef LDR_TEST_FAKE_BACKEND_H
#define LDR_TEST_FAKE_BACKEND_H

#include "backends/backend.h"

struct fake_answer {
    enum larder_kind kind; /* OK: `body` and its metadata are given; else failed with this */
    int http;
    uint32_t retry_after_ms;
    bool throttled;
    bool sent;               /* op->sent; an OK put or delete always was */
    const void *body;        /* get, head; borrowed for the life of the store */
    uint64_t size;           /* of the object */
    uint64_t cut_at;         /* not 0: the connection ends after so many bytes of a get */
    const char *validator;   /* NULL: none */
    const char *const *sums; /* head: name, value, …, NULL of its checksums; borrowed */
    unsigned pause_ms;       /* of a get, between its head and its first byte */
    bool more;               /* one byte more than announced: a backend that breaks its rules */
    bool ignore_range;       /* a ranged get brings the whole object, or is UNSUPPORTED: rule 4 */
    const char *const *keys; /* list: NULL-terminated, those that end in `/` are groups; borrowed. Prefix, delimiter and
                              * start change nothing */
    const char *next;        /* list: of the page */
};

struct fake_backend;

/* `pool` may be NULL. Never fails: it ends the process. */
struct fake_backend *fake_new(struct ldr_net *net, struct ldr_pool *pool);
void fake_free(struct fake_backend **f); /* after its last op */
struct ldr_backend *fake_base(struct fake_backend *f);

/* Add an answer; without any an op fails as INTERNAL. */
void fake_say(struct fake_backend *f, enum ldr_op_what what, struct fake_answer a);
/* Forget the answers of an op, to give others. */
void fake_silence(struct fake_backend *f, enum ldr_op_what what);
/* What it can do: LDR_CAP_*; at first LDR_CAP_RANGE | LDR_CAP_IF_MATCH. Before its first op. */
void fake_caps(struct fake_backend *f, unsigned caps);
/* Without the slot: it cannot copy. Before its first op. */
void fake_no_copy(struct fake_backend *f);

/* It takes uploads in parts and keeps what is written: an op of an upload, or a put, that the script does not fail is
 * carried out. Before its first op. An upload that was begun and neither ended nor aborted is open. */
void fake_takes_parts(struct fake_backend *f, uint64_t part_min, uint64_t part_max);
unsigned fake_open_uploads(struct fake_backend *f);
/* The bytes that were written; NULL: none, or nothing. Valid until the next write. */
const uint8_t *fake_object(struct fake_backend *f, const char *uri, uint64_t *size);
/* It has these slots, too: many deletes in one request (each is OK but for keys that begin with "denied"), signed URLs,
 * containers that are made. Before its first op. */
void fake_deletes_many(struct fake_backend *f);
void fake_signs(struct fake_backend *f);
void fake_makes_containers(struct fake_backend *f);
/* Largest object that one copy takes. Before its first op. */
void fake_copy_max(struct fake_backend *f, uint64_t bytes);
/* Its containers are missing (puts, begins and copies say so) until one is made. */
void fake_lose_containers(struct fake_backend *f);
/* Answer get and head with bytes made from the key, checked by fake_body_is(); put, copy and delete are OK. Of `fail_every`
 * ops (0: none) one fails with UNAVAILABLE after it was sent. For stress. */
void fake_serve_any(struct fake_backend *f, uint64_t size, unsigned fail_every);
void fake_body(const char *key, void *out, uint64_t size);
bool fake_body_is(const char *key, const void *p, uint64_t size);

/* Called on the net thread with each op before it is answered (or held); NULL: nothing. Set while no op is under way.
 */
void fake_on_op(struct fake_backend *f, void (*on_op)(void *user, const struct ldr_op *op), void *user);

/* From now on ops wait for fake_let(); false: those that wait go, and later ones are answered at once. */
void fake_hold(struct fake_backend *f, bool hold);
/* The same, for ops of one kind. */
void fake_hold_only(struct fake_backend *f, enum ldr_op_what what);
/* Let the oldest op that waits go. False: there is none. */
bool fake_let(struct fake_backend *f);
/* Ops that ever arrived, and that wait now. */
unsigned fake_seen(struct fake_backend *f, enum ldr_op_what what);
unsigned fake_held(struct fake_backend *f);

#endif
