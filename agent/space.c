/* space.c - see space.h. */
#include "agent/space.h"

#include <inttypes.h>
#include <sys/statvfs.h>

/* The file system is asked at each reservation: others write to it too. */
static enum larder_kind room_outside(const struct ldr_space *s, uint64_t charge, struct larder_err *err)
{
    struct statvfs v;

    if (fstatvfs(s->dirfd, &v))
        return ldr_fail_sys(err, LARDER_IO, "could not ask for free space");
    if (v.f_bavail * v.f_frsize < charge + s->min_free_bytes)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.min_free (%" PRIu64 " bytes) is reached",
                        s->min_free_bytes);
    /* btrfs has no inode table and says 0 of 0 */
    if (v.f_files && v.f_favail <= s->min_free_inodes)
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.min_free_inodes (%" PRIu64 ") is reached",
                        s->min_free_inodes);
    return LARDER_OK;
}

enum larder_kind ldr_space_reserve(struct ldr_space *s, uint64_t size, struct larder_err *err)
{
    uint64_t charge = ldr_space_charge(size);
    uint64_t bytes = atomic_load(&s->bytes);
    enum larder_kind k;

    do {
        if (charge > s->max_bytes || bytes > s->max_bytes - charge)
            return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.max_size (%" PRIu64 " bytes) is reached",
                            s->max_bytes);
    } while (!atomic_compare_exchange_weak(&s->bytes, &bytes, bytes + charge));
    if (atomic_fetch_add(&s->files, 1) >= s->max_files) {
        ldr_space_release(s, size);
        return ldr_fail(err, LARDER_LIMIT_EXCEEDED, "larder.cache.max_files (%" PRIu64 ") is reached", s->max_files);
    }
    k = room_outside(s, charge, err);
    if (k)
        ldr_space_release(s, size);
    return k;
}

void ldr_space_release(struct ldr_space *s, uint64_t size)
{
    atomic_fetch_sub(&s->bytes, ldr_space_charge(size));
    atomic_fetch_sub(&s->files, 1);
}

void ldr_space_add(struct ldr_space *s, uint64_t bytes)
{
    atomic_fetch_add(&s->bytes, bytes);
}
