/* load_impl.h - what the files of a load share: load.c (its life, what it publishes), load_wait.c (who waits for which
 * blocks), load_pull.c (its requests), load_check.c (does what comes add up?). ipc thread only. */
#ifndef LDR_LOAD_IMPL_H
#define LDR_LOAD_IMPL_H

#include "agent/load.h"

/* The state of a block: one of these, and a flag. */
enum ldr_block_state { LDR_ABSENT, LDR_COMING, LDR_THERE };
#define LDR_STATE_AHEAD 4u /* wanted although nobody waits for it */
#define LDR_STATE(l, b) ((l)->state[b] & 3u)

/* ---- load.c ---- */
/* Hand a change of the load's key to the index. `busy` counts it: its end is to finish(). */
void ldr_load_to_index(struct ldr_load *l, struct ldr_change *c, enum ldr_change_what what,
                       void (*done)(struct ldr_change *c), void *user);
/* The end of an event of which one count of `busy` is: go on with what is wanted, or end. */
void ldr_load_finish(struct ldr_load *l);
/* Take the version over from an answer; false: out of memory. Then make what belongs to an open load. */
bool ldr_load_learn(struct ldr_load *l, const struct ldr_meta *meta);
enum larder_kind ldr_load_open_version(struct ldr_load *l, struct larder_err *err);
/* A block could not be sealed or linked: `x` is taken, its waiters hear why. */
void ldr_load_lose_block(struct ldr_load *l, struct ldr_filled *x);
/* A block is linked: `x` is taken, its waiters are answered when it is committed. */
void ldr_load_commit_block(struct ldr_load *l, struct ldr_filled *x, int64_t confirmed_ns);
void ldr_load_publish_inline(struct ldr_load *l, const struct ldr_fetch *f);
/* The store still has what the cache has. */
void ldr_load_confirm(struct ldr_load *l, const struct ldr_fetch *f);

/* ---- load_check.c ---- */
/* Before the first request: will blocks be checked, as far as one can tell by who asks first? */
void ldr_load_check_expect(struct ldr_load *l, const struct ldr_waiter *w);
/* The version is known and none of its blocks is there; waiters are placed. */
void ldr_load_check_open(struct ldr_load *l);
/* A block has come: `x` is taken. It is committed, or where it is the last one, and withheld, when all is known. Where that
 * does not add up the object leaves the cache, and is read once more. */
void ldr_load_check_block(struct ldr_load *l, struct ldr_filled *x, int64_t confirmed_ns);
/* A block that had come is to come once more. */
void ldr_load_check_again(struct ldr_load *l, uint32_t block);
void ldr_load_check_release(struct ldr_load *l);

/* ---- load_wait.c ---- */
struct ldr_answer ldr_load_in_cache(const struct ldr_load *l);
/* The object is not (all) in the cache; its bytes are where they are. */
struct ldr_answer ldr_load_not_in_cache(const struct ldr_load *l, const char *why);
/* To one waiter, which is in no list any more; to all. */
void ldr_load_tell(struct ldr_load *l, struct ldr_waiter *w, const struct ldr_answer *a);
void ldr_load_tell_all(struct ldr_load *l, const struct ldr_answer *a);
void ldr_load_fail_all(struct ldr_load *l, enum larder_kind kind, const struct larder_err *err);
/* The load is of no use any more: its waiters begin again. `anew`: the store has another version than the cache. */
void ldr_load_restart_all(struct ldr_load *l, bool anew);
/* What came is not what the store says it is: they begin again, and nothing but all of it will do. */
void ldr_load_reread_all(struct ldr_load *l);
void ldr_load_take_all(struct ldr_load *l, struct ldr_waiter **out);
/* `w` was taken out of the list and waits here no more. */
void ldr_load_let_go(struct ldr_load *l, struct ldr_waiter *w);
/* The version is known: which blocks does `w` wait for? It is answered at once where none is missing, or where they
 * cannot be had. */
void ldr_load_place(struct ldr_load *l, struct ldr_waiter *w);
void ldr_load_place_all(struct ldr_load *l);
void ldr_load_block_there(struct ldr_load *l, uint32_t block);
/* `block` does not come: who needs it hears why. */
void ldr_load_block_failed(struct ldr_load *l, uint32_t block, const struct ldr_answer *a);
/* The hold that goes to the index with a block: a reference for the way, or NULL. */
struct ldr_hold *ldr_load_hold_of_block(struct ldr_load *l, uint32_t block);

/* ---- load_pull.c ---- */
/* Ask for an object of which nothing is sure. */
void ldr_load_open_object(struct ldr_load *l, uint64_t offset);
/* Send requests for blocks that are wanted, as many as may be under way. */
void ldr_load_pump(struct ldr_load *l);

#endif
