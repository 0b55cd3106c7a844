/* blocks.h - step 10: block files. A fill is a file without a name that is being written; sealed and linked it becomes
 * an immutable file of `blocks/`. Space is reserved before the first byte and allocated on disk before the second.
 * Functions on a fill block on the disk: net thread or pool, one thread at a time per fill. */
#ifndef LDR_BLOCKS_H
#define LDR_BLOCKS_H

#include "agent/cache_dir.h"
#include "agent/counters.h"
#include "agent/index.h"
#include "agent/space.h"
#include "backends/pool.h"

#define LDR_PIECE_BYTES                                                                                                \
    (2 * LDR_MIB) /* the kernel makes one folio of a piece written at once (docs/design/storage.md) */

#define LDR_PIECES_KEPT   16   /* buffers of a piece that wait for the next fill: their pages stay */
#define LDR_LINGERING_MAX 4096 /* unlinked files that are kept open because somebody maps them */

/* The block files of one domain. */
struct ldr_blocks {
    /* set once in init */
    const struct ldr_cache_dir *dir;
    struct ldr_space *space;
    struct ldr_pool *pool;
    bool direct; /* tmpfs: its folios do not depend on how they are written, so bytes go there as they come */
    /* any thread */
    _Atomic uint64_t dropped; /* numbers the names that files have on their way out */
    /* under mtx */
    pthread_mutex_t mtx;
    struct ldr_lingering {
        int fd;
        uint64_t length;
    } * lingering;
    size_t n_lingering, cap_lingering;
    bool looking, overflowed;
    struct ldr_task look; /* on the pool while `looking` */
    uint8_t *pieces[LDR_PIECES_KEPT];
    unsigned n_pieces;
};

void ldr_blocks_init(struct ldr_blocks *b, const struct ldr_cache_dir *dir, struct ldr_space *space,
                     struct ldr_pool *pool);
/* After the pool ran what was queued. Closes what lingers; its space is not asked for any more. All zero: nothing. */
void ldr_blocks_release(struct ldr_blocks *b);

struct ldr_fill {
    struct ldr_blocks *blocks; /* NULL: not open */
    int fd;                    /* no name until it is linked */
    uint64_t size, written;
    uint64_t hash;  /* XXH3-64 of the whole, once sealed; or LDR_HASH_NONE */
    uint8_t *piece; /* gathers what is not written yet; NULL: nothing is gathered */
    size_t piece_len;
    void *hash_state;
    bool allocated, linked, unhashed;
};

/* Reserve (unless `reserved`: the caller has, and gives that to the fill) and allocate `size` (> 0) bytes.
 * LIMIT_EXCEEDED: a limit of the cache, or the disk is full. IO. On failure nothing is reserved any more. */
enum larder_kind ldr_fill_open(struct ldr_blocks *b, uint64_t size, bool reserved, struct ldr_fill *f,
                               struct larder_err *err);
/* Append; CORRUPT when it would grow over its size. */
enum larder_kind ldr_fill_write(struct ldr_fill *f, const void *p, size_t n, struct larder_err *err);
/* The `left` bytes that are missing are put into *fd from *at on by somebody else, who tells with ldr_fill_moved(): nobody
 * reads them here, so that the block has no hash (LDR_HASH_NONE). False: they do not make it full, or IO. */
bool ldr_fill_direct(struct ldr_fill *f, uint64_t left, int *fd, uint64_t *at);
void ldr_fill_moved(struct ldr_fill *f, size_t n);
/* All bytes are there: write the rest, fix mode and group. UNAVAILABLE: some are missing. */
enum larder_kind ldr_fill_seal(struct ldr_fill *f, struct larder_err *err);
/* Give it its name; from now on its space belongs to the block. EXISTS: that block is there already. */
enum larder_kind ldr_fill_link(struct ldr_fill *f, const struct ldr_id *id, uint32_t block, struct larder_err *err);
/* Close. What was not linked gives its space back. */
void ldr_fill_close(struct ldr_fill *f);
static inline bool ldr_fill_is_open(const struct ldr_fill *f)
{
    return f->blocks != NULL;
}

/* Is the file of a block there with the right length? Fast (a stat). True for objects that have no blocks. */
bool ldr_blocks_intact(const struct ldr_blocks *b, const struct ldr_record *r, uint32_t block);
/* Open a block of a record for reading; -1 and errno: gone. */
int ldr_blocks_open(const struct ldr_blocks *b, const struct ldr_record *r, uint32_t block);
/* Take a file away that no record names any more. Its name is free at once (it is renamed into fill/), the unlinking
 * follows on the pool. Its space comes back when nobody maps it: until then it is kept open and asked again at each
 * ldr_blocks_tick(). Any thread. */
void ldr_blocks_drop(struct ldr_blocks *b, const struct ldr_id *id, uint32_t block, uint64_t length);
/* Does a process have the block open or mapped? (F_SETLEASE, F_WRLCK.) Where the file system cannot tell: false. */
bool ldr_blocks_mapped(const struct ldr_blocks *b, const struct ldr_id *id, uint32_t block);
/* Once a second, any thread: has the space of unlinked files become free? */
void ldr_blocks_tick(struct ldr_blocks *b);

/* Find block files that no record names (left by a kill between link and commit, or by a dropped generation) and unlink
 * them, on the pool, a folder at a time. What was linked since this agent took the directory's lock is left alone: its
 * record may be on the way. One at a time per domain. */
struct ldr_sweep;
enum larder_kind ldr_sweep_start(struct ldr_blocks *b, struct ldr_index *x, struct ldr_sweep **out,
                                 struct larder_err *err);
void ldr_sweep_stop(struct ldr_sweep **s); /* waits for the folder under way; NULL allowed */
/* Files unlinked, and whether it has ended. Any thread. */
bool ldr_sweep_ended(struct ldr_sweep *s, uint64_t *unlinked);

/* ---- for body.c: files that clients fill ---- */
/* `fd` (taken, for reading) is a file of `size` bytes, reserved and allocated; the fill may be linked as it is, when
 * fill.hash is set. */
void ldr_fill_adopt(struct ldr_blocks *b, int fd, uint64_t size, struct ldr_fill *f);
/* Its file was cut to `size` bytes, fewer than it had. */
void ldr_fill_shrink(struct ldr_fill *f, uint64_t size);
/* Close one that was not linked and has no name any more; its space comes back when nobody maps it. */
void ldr_fill_disown(struct ldr_fill *f);

#endif
