/* space.h - the ledger: how many bytes and files the cache takes, and whether more may be taken. Space is reserved
 * before a byte of it is written, and given back when the file is really gone. What counts: the extent of data.mdb, the
 * touch file, block files, what is being filled, and files that are unlinked but still mapped by somebody.
 *
 * A file's life here: reserved (ldr_space_reserve, ldr_space_want, or ldr_space_release if it is not needed after all)
 * -> filled: its bytes are allocated -> leaving: nothing names it any more -> gone; between these two it lingers while
 * somebody maps it. What is reserved and not filled yet is kept free on the file system, so that fills side by side
 * cannot take the same free bytes.
 *
 * Who can wait for room asks with ldr_space_want(): the index thread is woken and evicts. Any thread. */
#ifndef LDR_SPACE_H
#define LDR_SPACE_H

#include "common/fail.h"
#include "common/task.h"

#include <stdatomic.h>

/* Of max_files, for files that are always there or come and go at start: agent.lock, format and its successor, hdr,
 * data.mdb, lock.mdb, agent.sock, touch. Directories (265 of them) do not count. */
#define LDR_SPACE_FIXED_FILES 8

/* Somebody who waits for room for one file. Embedded; the space's until `task` has run. */
struct ldr_want {
    struct ldr_task task; /* posted to `box` with the answer below; set run and box before */
    struct ldr_mailbox *box;
    uint64_t size;
    enum larder_kind kind; /* OK: `size` bytes are reserved; LIMIT_EXCEEDED: nothing more can be evicted; CANCELLED */
    struct larder_err err;
    struct ldr_want *prev, *next;
};

struct ldr_space {
    /* set once, before others use it */
    uint64_t max_bytes, max_files;
    int dirfd; /* of the cache directory, for statvfs; borrowed */
    uint64_t min_free_bytes, min_free_inodes;
    uint64_t headroom_bytes, headroom_files; /* to be kept ready by eviction; the index's to set */
    /* written under mtx, read by any thread */
    _Atomic uint64_t bytes, files;    /* taken: all of the above */
    _Atomic uint64_t unlinked_mapped; /* of these, bytes of files that have no name any more and are mapped */
    /* under mtx */
    pthread_mutex_t mtx;
    struct ldr_want *wants;   /* a ring, oldest first */
    void (*need)(void *user); /* see ldr_space_evictor */
    void *user;
    uint64_t filled_bytes, filled_files;   /* allocated: on the file system's own account */
    uint64_t leaving_bytes, leaving_files; /* will be free in a moment */
    uint64_t growing;                      /* data.mdb could not have that much: kept for it */
    bool closed;
};

/* All zero but the lock; the fields that are set once are the caller's to fill in then. */
void ldr_space_init(struct ldr_space *s);
/* Ends waiting, of all who wait and who will: CANCELLED. */
void ldr_space_release_all(struct ldr_space *s);

/* What a file of `size` bytes takes: whole pages. */
static inline uint64_t ldr_space_charge(uint64_t size)
{
    return (size + 4095) & ~UINT64_C(4095);
}

/* Reserve room for one file of `size` bytes, now. LIMIT_EXCEEDED names the setting that is in the way. Who waits
 * already goes first. */
enum larder_kind ldr_space_reserve(struct ldr_space *s, uint64_t size, struct larder_err *err);
/* The same when there is room: `w->task` is posted to `w->box`, perhaps before this returns. */
void ldr_space_want(struct ldr_space *s, struct ldr_want *w);
/* Give up waiting. False: the answer is on its way already. */
bool ldr_space_unwant(struct ldr_space *s, struct ldr_want *w);
/* A reservation that was not filled is not needed. */
void ldr_space_release(struct ldr_space *s, uint64_t size);

/* ---- for blocks.c: files that were filled ---- */
void ldr_space_filled(struct ldr_space *s, uint64_t size);
void ldr_space_leaving(struct ldr_space *s, uint64_t size); /* will be unlinked */
void ldr_space_lingers(struct ldr_space *s, uint64_t size); /* it was leaving; is unlinked, and mapped */
/* It was leaving (with `lingered`: it lingered), and nobody maps it now. */
void ldr_space_gone(struct ldr_space *s, uint64_t size, bool lingered);

/* ---- for the index ---- */
/* Somebody waits: `need` is called to evict, by any thread. NULL: nobody evicts any more, who waits is told so. */
void ldr_space_evictor(struct ldr_space *s, void (*need)(void *user), void *user);
/* What a kept cache takes: before anything else is reserved. Forgets what was counted before. */
void ldr_space_start(struct ldr_space *s, uint64_t bytes, uint64_t files);
/* Files that were counted at the start are nobody's: the sweep finds and unlinks them. */
void ldr_space_forget(struct ldr_space *s, uint64_t bytes, uint64_t files);
/* data.mdb is about to grow by `bytes`. LIMIT_EXCEEDED: from now on that much room is kept for it, before any waiter. */
enum larder_kind ldr_space_grow(struct ldr_space *s, uint64_t bytes, struct larder_err *err);
/* It has grown; or (`done` false) it could not. */
void ldr_space_grown(struct ldr_space *s, uint64_t bytes, bool done);
/* Pages of data.mdb that were written beyond what was reserved, when removing had to go on without room: they count. */
void ldr_space_overdraw(struct ldr_space *s, uint64_t bytes);

/* What should go so that who waits can have theirs and some room is left for the next. */
struct ldr_space_short {
    uint64_t bytes, files; /* both 0: nothing */
    bool waiting;          /* somebody does; else it is for data.mdb, for headroom, or others fill the file system */
    uint64_t leaving;      /* bytes that are on their way out; not counted in `bytes` any more */
};
/* False: there is room enough. Asks the file system. */
bool ldr_space_short(struct ldr_space *s, struct ldr_space_short *out);
/* Nothing more can go: the newest who waits is told so. False: nobody waits. */
bool ldr_space_give_up_one(struct ldr_space *s);

#endif
