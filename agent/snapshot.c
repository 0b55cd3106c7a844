/* snapshot.c - see snapshot.h. The order of the stores in ldr_snapshot_publish() is the protocol; nothing in it may be
 * moved (docs/design/read-path.md, "What the agent does"). */
#include "agent/snapshot.h"
#include "common/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

static uint64_t last_page(const struct ldr_snapshot *s)
{
    MDB_envinfo info;

    mdb_env_info(s->env, &info);
    return info.me_last_pgno;
}

/* The ledger first, then the disk: a full disk shows here, not in a commit. */
static bool extend(struct ldr_snapshot *s, uint64_t have, uint64_t want)
{
    uint64_t bytes = (want - have) * LDR_PAGE;
    bool done;

    if (ldr_space_grow(s->space, bytes, NULL))
        return false;
    done = !fallocate(s->data_fd, 0, 0, (off_t)(want * LDR_PAGE));
    if (!done)
        ldr_log(LDR_WARN, "index", "could not extend data.mdb bytes=%llu errno=%d",
                (unsigned long long)(want * LDR_PAGE), errno);
    ldr_space_grown(s->space, bytes, done);
    return done;
}

/* Allocate data.mdb to at least `pages`: no page that clients may read is ever a hole (reading one on a full tmpfs is
 * SIGBUS). A whole step where there is room, else what is needed. */
static bool grow(struct ldr_snapshot *s, uint64_t pages)
{
    uint64_t max = s->hdr->mapsize / LDR_PAGE, have = atomic_load_explicit(&s->hdr->npages, memory_order_relaxed);
    uint64_t want;

    if (pages <= have)
        return true;
    if (pages > max)
        return false;
    want = (pages + s->step_pages - 1) / s->step_pages * s->step_pages;
    if (want > max)
        want = max;
    if (!extend(s, have, want)) {
        want = pages;
        if (!extend(s, have, want))
            return false;
    }
    atomic_store_explicit(&s->hdr->npages, want, memory_order_release);
    return true;
}

/* A commit without room has written beyond the extent: those pages are on the disk, whatever the ledger says. */
static void overdraw(struct ldr_snapshot *s, uint64_t pages)
{
    uint64_t have = atomic_load_explicit(&s->hdr->npages, memory_order_relaxed);

    if (fallocate(s->data_fd, 0, 0, (off_t)(pages * LDR_PAGE)))
        return; /* a hole among them: readers take it for damage and ask the agent */
    ldr_space_overdraw(s->space, (pages - have) * LDR_PAGE);
    atomic_store_explicit(&s->hdr->npages, pages, memory_order_release);
}

/* Pages inside the file that no tree uses, as the free list of LMDB has them; some may be pinned for a moment still. */
static uint64_t free_pages(const struct ldr_snapshot *s)
{
    uint64_t n = 0;
    MDB_cursor *cur = NULL;
    MDB_txn *txn = NULL;
    MDB_val key, val;

    if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn))
        return 0;
    if (!mdb_cursor_open(txn, 0, &cur)) { /* dbi 0 is the free list: txnid -> {count, page numbers} */
        while (!mdb_cursor_get(cur, &key, &val, MDB_NEXT))
            if (val.mv_size >= sizeof(uint64_t)) {
                uint64_t count;

                memcpy(&count, val.mv_data, sizeof count);
                n += count;
            }
        mdb_cursor_close(cur);
    }
    mdb_txn_abort(txn);
    return n;
}

enum larder_kind ldr_snapshot_open(struct ldr_snapshot *s, MDB_env *env, int data_fd, struct ldr_hdr *hdr,
                                   struct ldr_space *space, struct larder_err *err)
{
    MDB_envinfo info;
    uint64_t step = space->max_bytes / 16;
    int rc;

    *s = (struct ldr_snapshot){ .env = env, .data_fd = data_fd, .hdr = hdr, .space = space };
    step = step < LDR_STEP_MIN ? LDR_STEP_MIN : step > LDR_STEP_MAX ? LDR_STEP_MAX : step;
    s->step_pages = step / LDR_PAGE;
    mdb_env_info(env, &info);
    if (!grow(s, info.me_last_pgno + 1))
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED,
                        "there is no room for the index: larder.cache.max_size (%llu bytes) is too small, or the file "
                        "system is too full for larder.cache.min_free",
                        (unsigned long long)space->max_bytes);
    /* Older snapshots lost their pins with the agent that held them. */
    if (atomic_load(&hdr->floor) < info.me_last_txnid)
        atomic_store(&hdr->floor, info.me_last_txnid);
    /* The newest is pinned before the first write: clients go on reading it until the repair is published. */
    rc = info.me_last_txnid ? mdb_txn_begin(env, NULL, MDB_RDONLY, &s->pins[0].txn) : 0;
    if (rc)
        return ldr_fail(err, LARDER_CORRUPT, "could not read the index: %s", mdb_strerror(rc));
    if (info.me_last_txnid)
        s->pins[0].id = info.me_last_txnid;
    return LARDER_OK;
}

bool ldr_snapshot_reserve(struct ldr_snapshot *s, uint64_t pages, bool removes)
{
    uint64_t max = s->hdr->mapsize / LDR_PAGE, want = last_page(s) + 1 + pages;

    if (want <= (removes ? max : max - max / 16))
        return grow(s, want);
    /* The file does not shrink, and what is evicted leaves holes in it: twice the need, as they are not in one piece. */
    return grow(s, max) && free_pages(s) / 2 >= pages;
}

uint64_t ldr_snapshot_publish(struct ldr_snapshot *s)
{
    struct ldr_pin *pin = NULL, *oldest = NULL;
    uint64_t floor = UINT64_MAX, now;
    unsigned held = 0;
    int rc;

    /* 1. the extent covers what this snapshot uses, with room ahead while there is some */
    if (!grow(s, last_page(s) + 1 + s->step_pages / 2) && !grow(s, last_page(s) + 1))
        overdraw(s, last_page(s) + 1);
    /* 2. pin it (only this thread writes, so the newest is ours) */
    for (size_t i = 0; i < LDR_ARRAY_LEN(s->pins) && !pin; i++)
        if (!s->pins[i].id)
            pin = &s->pins[i];
    assert(pin);
    rc = pin->txn ? mdb_txn_renew(pin->txn) : mdb_txn_begin(s->env, NULL, MDB_RDONLY, &pin->txn);
    assert(rc == 0); /* the reader table has a place for every pin */
    now = mdb_txn_id(pin->txn);
    assert(now > 0); /* 0 means "not held"; the index commits its figures before it publishes */
    for (size_t i = 0; i < LDR_ARRAY_LEN(s->pins); i++)
        if (s->pins[i].id == now) { /* nothing was committed since: one pin is enough */
            mdb_txn_reset(pin->txn);
            pin = &s->pins[i];
            if (atomic_load_explicit(&s->hdr->cur, memory_order_relaxed) == now)
                return now;
            break;
        }
    pin->id = now;
    /* 3. publish, after the pin exists */
    atomic_store_explicit(&s->hdr->cur, now, memory_order_seq_cst);
    /* 4. floor moves before any page of an older snapshot is given back */
    for (size_t i = 0; i < LDR_ARRAY_LEN(s->pins); i++) {
        if (!s->pins[i].id)
            continue;
        held++;
        if (!oldest || s->pins[i].id < oldest->id)
            oldest = &s->pins[i];
    }
    if (held <= LDR_PINS && !s->unsafe)
        oldest = NULL; /* room for one more */
    for (size_t i = 0; i < LDR_ARRAY_LEN(s->pins); i++)
        if (s->pins[i].id && &s->pins[i] != oldest && s->pins[i].id < floor)
            floor = s->pins[i].id;
    if (s->unsafe)
        floor = now;
    atomic_store_explicit(&s->hdr->floor, floor, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst); /* later page writes must not be seen before cur and floor */
    for (size_t i = 0; i < LDR_ARRAY_LEN(s->pins); i++)
        if (s->pins[i].id && (&s->pins[i] == oldest || s->unsafe)) {
            mdb_txn_reset(s->pins[i].txn);
            s->pins[i].id = 0;
        }
    return now;
}

uint64_t ldr_snapshot_extent(const struct ldr_snapshot *s)
{
    return atomic_load_explicit(&s->hdr->npages, memory_order_relaxed) * LDR_PAGE;
}

void ldr_snapshot_retire(struct ldr_snapshot *s)
{
    atomic_store(&s->hdr->cur, LDR_RETIRED);
    atomic_store(&s->hdr->floor, LDR_RETIRED);
}

void ldr_snapshot_close(struct ldr_snapshot *s)
{
    for (size_t i = 0; i < LDR_ARRAY_LEN(s->pins); i++)
        if (s->pins[i].txn)
            mdb_txn_abort(s->pins[i].txn);
    memset(s->pins, 0, sizeof s->pins);
}
