/* layout.h - the cache directory: names, the header page, the text file `format` (docs/design/formats.md).
 * Both sides read it; only the agent writes. Any thread. */
#ifndef LDR_LAYOUT_H
#define LDR_LAYOUT_H

#include "common/fail.h"
#include "common/record.h"

#include <stdatomic.h>

#define LDR_LAYOUT      1 /* the number in `format`; a client that meets a newer one goes over IPC */
#define LDR_HDR_MAGIC   UINT64_C(0x31524544524c0a01) /* 01 0a "LRDER1" */
#define LDR_HDR_VERSION 1
#define LDR_HDR_BYTES   4096
#define LDR_PAGE        4096 /* of LMDB: the only page size larder makes or reads */
#define LDR_MAP_MAX     (UINT64_C(1) << 46)
#define LDR_RETIRED     UINT64_MAX /* cur and floor of a generation that was given up: reopen by path */

#define LDR_NAME_FORMAT  "format"
#define LDR_NAME_LOCK    "agent.lock"
#define LDR_NAME_BLOCKS  "blocks"
#define LDR_NAME_FILL    "fill"
#define LDR_NAME_IPC     "ipc"
#define LDR_NAME_SOCKET  "agent.sock"
#define LDR_NAME_RW      "rw"
#define LDR_NAME_TOUCH   "rw/touch"
#define LDR_NAME_STAGING "rw/staging" /* block files that clients fill */
#define LDR_NAME_UPLOADS "uploads"    /* of the agent alone: writes in parts that a store may be left with */

/* gen-N/hdr: mapped by clients, PROT_READ. Complete before `format` names its generation. */
struct ldr_hdr {
    /* constant */
    uint64_t magic;
    uint32_t version, psize;
    uint64_t generation, nonce;
    uint64_t mapsize; /* bytes; clients reserve that much address space once */
    uint32_t boot, inline_limit;
    uint64_t touch_bits; /* size of the touch table, 0: there is none */
    uint8_t pad0[8];
    /* its own line */
    _Atomic uint64_t npages;   /* extent of data.mdb that is allocated: reading below it is never SIGBUS */
    _Atomic uint64_t pressure; /* moves: drop mappings that nobody uses */
    uint8_t pad1[48];
    /* its own line; only ever rise */
    _Atomic uint64_t cur;   /* newest published snapshot */
    _Atomic uint64_t floor; /* every snapshot >= floor is intact */
    uint8_t pad2[48];
};
_Static_assert(offsetof(struct ldr_hdr, npages) == 64 && offsetof(struct ldr_hdr, cur) == 128, "hdr: formats.md");

/* Are the constant fields those of a header that this build reads? */
bool ldr_hdr_valid(const struct ldr_hdr *h);

#define LDR_FORMAT_STORES 16
#define LDR_FORMAT_MAX    8192 /* bytes of the file */

struct ldr_format {
    uint32_t layout;
    char boot_id[64]; /* /proc/sys/kernel/random/boot_id */
    uint32_t boot;    /* number of that boot */
    uint64_t device;  /* st_dev of the directory */
    uint64_t generation, nonce;
    bool clean;
    uint32_t starts; /* since the last good run */
    size_t n_stores;
    struct {
        char scheme[16];
        uint64_t fingerprint; /* of kind, endpoint, account, path */
    } stores[LDR_FORMAT_STORES];
};

/* Parse the text; unknown lines are skipped. CORRUPT: not such a file, or a number that is none.
 * A newer layout is no error here: only `layout` is filled in then. */
enum larder_kind ldr_format_parse(const char *text, size_t len, struct ldr_format *out, struct larder_err *err);
/* The text of `f` into `out` (LDR_FORMAT_MAX bytes); returns its length. */
size_t ldr_format_print(const struct ldr_format *f, char *out);
/* Read and parse CACHE/format. NOT_FOUND: there is none. IO, CORRUPT. */
enum larder_kind ldr_format_read(int cache_dirfd, struct ldr_format *out, struct larder_err *err);

/* "gen-N", "blocks/xx/ID.n" (ID and xx in hex, xx = the id's last byte). */
#define LDR_GEN_NAME_MAX   32
#define LDR_BLOCK_NAME_MAX 64
void ldr_gen_name(uint64_t generation, char out[LDR_GEN_NAME_MAX]);
void ldr_block_name(const struct ldr_id *id, uint32_t block, char out[LDR_BLOCK_NAME_MAX]);

/* May files of this file system be mapped by clients and leased by the agent? (ext4, xfs, btrfs, tmpfs; by statfs) */
bool ldr_fs_suitable(long f_type, const char **name);

#endif
