/* snapshot.h - step 10: what clients may read. Owns the header page, the extent of data.mdb, and the pins: read
 * transactions that keep LMDB from reusing the pages of the newest snapshots (docs/design/read-path.md).
 * Index thread only. */
#ifndef LDR_SNAPSHOT_H
#define LDR_SNAPSHOT_H

#include "agent/space.h"
#include "common/layout.h"

#include <lmdb.h>

#define LDR_PINS     8       /* K: newest snapshots that stay readable */
#define LDR_STEP_MIN LDR_MIB /* data.mdb grows by a sixteenth of the cache's limit, within these */
#define LDR_STEP_MAX (64 * LDR_MIB)

struct ldr_snapshot {
    MDB_env *env;
    int data_fd;             /* of data.mdb, LMDB's own */
    struct ldr_hdr *hdr;     /* mapped read-write; borrowed */
    struct ldr_space *space; /* each growth is reserved in it first; borrowed */
    uint64_t step_pages;     /* data.mdb grows by this many */
    struct ldr_pin {
        MDB_txn *txn;
        uint64_t id; /* 0: not held */
    } pins[LDR_PINS + 1];
    bool unsafe; /* negative control of the stress test: no pins are held */
};

/* After the env is open and before its first write: raise floor, allocate the extent. Nothing is published yet.
 * LIMIT_EXCEEDED: there is no room for an empty index. */
enum larder_kind ldr_snapshot_open(struct ldr_snapshot *s, MDB_env *env, int data_fd, struct ldr_hdr *hdr,
                                   struct ldr_space *space, struct larder_err *err);
/* Let clients read the newest committed transaction, which becomes the returned txnid. Before the next write begins. */
uint64_t ldr_snapshot_publish(struct ldr_snapshot *s);
/* Allocate so that `pages` more may be used; false: the disk or the cache is full, or the map's maximum is reached. The
 * last sixteenth of the map is for what only removes (`removes`): that needs pages too. Where the file has reached that
 * end, pages that are free inside it count. */
bool ldr_snapshot_reserve(struct ldr_snapshot *s, uint64_t pages, bool removes);
uint64_t ldr_snapshot_extent(const struct ldr_snapshot *s); /* bytes of data.mdb */
/* Clients must look for another generation. */
void ldr_snapshot_retire(struct ldr_snapshot *s);
void ldr_snapshot_close(struct ldr_snapshot *s);

#endif
