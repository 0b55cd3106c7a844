/* cache_dir.h - the cache directory of a domain: made, checked, locked; which generation is used, and whether what is
 * in it may be trusted (docs/design/formats.md). Main thread, before others start and after they stop. */
#ifndef LDR_CACHE_DIR_H
#define LDR_CACHE_DIR_H

#include "common/layout.h"

#include <sys/types.h>

#define LDR_STARTS_MAX 3 /* starts without a good minute between them: the generation is given up */

struct ldr_cache_dir {
    char *path;
    int dirfd;     /* of CACHE */
    int lockfd;    /* holds agent.lock */
    int fillfd;    /* of CACHE/fill */
    int gendirfd;  /* of CACHE/gen-N */
    int rwfd;      /* of CACHE/rw */
    int stagingfd; /* of CACHE/rw/staging; emptied at the start */
    int uploadsfd; /* of CACHE/uploads: see leftover.h */
    bool leases;   /* the file system tells by a lease whether a file is written to */
    bool has_group;
    gid_t group;
    bool new_generation;      /* gen-N is empty: made by this start */
    struct ldr_format format; /* as written to disk last; stores are filled in by ldr_cache_dir_store */
    struct ldr_format before; /* as found; layout 0: nothing was */
};

/* Make what is missing, take the lock, warn of an unsuitable file system, choose the generation. One that is kept is
 * marked dirty on disk. The header page of a new one is not made here, so `format` names it only after
 * ldr_cache_dir_commit().
 * IO: cannot be made or written. UNSUPPORTED: a cache of another release. EXISTS: another agent runs. */
enum larder_kind ldr_cache_dir_open(const char *path, bool has_group, gid_t group, struct ldr_cache_dir **out,
                                    struct larder_err *err);
/* Note the store behind a scheme. Returns true if the cache was filled from the same one (or knows none yet). */
bool ldr_cache_dir_store(struct ldr_cache_dir *d, const char *scheme, uint64_t fingerprint);
/* Write `format` as it is in memory: atomically, to the disk. */
enum larder_kind ldr_cache_dir_commit(struct ldr_cache_dir *d, struct larder_err *err);
/* A good minute of work, or a clean stop: the count of starts begins anew. `clean`: everything is on disk. */
enum larder_kind ldr_cache_dir_mark(struct ldr_cache_dir *d, bool clean, struct larder_err *err);
/* Nothing in the generation is to be trusted: the next start makes a new one. Async-safe enough for a dying agent. */
void ldr_cache_dir_distrust(struct ldr_cache_dir *d);
void ldr_cache_dir_close(struct ldr_cache_dir **d);

/* Open rw/touch, which readers write, for reading and clearing bits: `bytes` long and on the disk. Made under another name
 * and renamed when it is not there or has another size (readers that map the old one go on, their bits are lost); `anew`
 * with a new generation. LIMIT_EXCEEDED: the disk is full. IO. */
enum larder_kind ldr_cache_dir_touch(const struct ldr_cache_dir *d, uint64_t bytes, bool anew, int *fd,
                                     struct larder_err *err);
/* A cache on the root file system must have a limit: INVALID when neither `max_bytes` nor `min_free_bytes` keeps it from
 * filling that. */
enum larder_kind ldr_cache_dir_bounded(const struct ldr_cache_dir *d, uint64_t max_bytes, uint64_t min_free_bytes,
                                       struct larder_err *err);

/* Mode and group of a file or directory that clients may read (or not): set explicitly, whatever the umask. */
enum larder_kind ldr_cache_dir_own(const struct ldr_cache_dir *d, int fd, mode_t mode, const char *what,
                                   struct larder_err *err);

#endif
