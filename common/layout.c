/* layout.c - see layout.h. */
#include "common/layout.h"
#include "common/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

bool ldr_hdr_valid(const struct ldr_hdr *h)
{
    return h->magic == LDR_HDR_MAGIC && h->version == LDR_HDR_VERSION && h->psize == LDR_PAGE &&
           h->mapsize >= 4 * LDR_PAGE && h->mapsize <= LDR_MAP_MAX && h->mapsize % LDR_PAGE == 0 &&
           h->inline_limit <= LDR_RECORD_MAX;
}

static bool number(const char *s, uint64_t max, uint64_t *out)
{
    char *end;

    if (*s < '0' || *s > '9')
        return false;
    errno = 0;
    *out = strtoull(s, &end, 10);
    return errno == 0 && *end == '\0' && *out <= max;
}

static enum larder_kind bad(struct larder_err *err, const char *name)
{
    return ldr_fail(err, LARDER_CORRUPT, "cache file \"" LDR_NAME_FORMAT "\" has an unreadable line \"%.40s\"", name);
}

static enum larder_kind set(struct ldr_format *f, const char *name, const char *value, struct larder_err *err)
{
    uint64_t n = 0;

    if (!strcmp(name, "boot_id")) {
        if (strlen(value) >= sizeof f->boot_id)
            return bad(err, name);
        strcpy(f->boot_id, value);
        return LARDER_OK;
    }
    if (!strncmp(name, "store.", 6)) {
        if (f->n_stores == LDR_FORMAT_STORES || strlen(name + 6) >= sizeof f->stores[0].scheme ||
            !ldr_unhex(value, strlen(value), &n, sizeof n))
            return bad(err, name);
        strcpy(f->stores[f->n_stores].scheme, name + 6);
        f->stores[f->n_stores++].fingerprint = n;
        return LARDER_OK;
    }
    const struct {
        const char *name;
        uint64_t max;
    } known[] = { { "boot", UINT32_MAX },  { "device", UINT64_MAX }, { "generation", UINT64_MAX },
                  { "nonce", UINT64_MAX }, { "clean", 1 },           { "starts", UINT32_MAX } };
    size_t i = 0;

    while (i < LDR_ARRAY_LEN(known) && strcmp(name, known[i].name))
        i++;
    if (i == LDR_ARRAY_LEN(known))
        return LARDER_OK; /* of a later release with the same layout */
    if (!number(value, known[i].max, &n))
        return bad(err, name);
    switch (i) {
    case 0:
        f->boot = (uint32_t)n;
        break;
    case 1:
        f->device = n;
        break;
    case 2:
        f->generation = n;
        break;
    case 3:
        f->nonce = n;
        break;
    case 4:
        f->clean = n == 1;
        break;
    default:
        f->starts = (uint32_t)n;
    }
    return LARDER_OK;
}

enum larder_kind ldr_format_parse(const char *text, size_t len, struct ldr_format *out, struct larder_err *err)
{
    struct ldr_format f = { 0 };
    char copy[LDR_FORMAT_MAX + 1], *line, *next;
    uint64_t layout;
    bool first = true;

    if (len > LDR_FORMAT_MAX || memchr(text, 0, len))
        return bad(err, "");
    memcpy(copy, text, len);
    copy[len] = '\0';
    for (line = copy; *line; line = next) {
        char *eq;

        next = line + strcspn(line, "\n");
        if (*next)
            *next++ = '\0';
        if (*line == '#' || *line == '\0')
            continue;
        eq = strchr(line, '=');
        if (!eq)
            return bad(err, line);
        *eq = '\0';
        if (first) { /* the layout decides what the rest means */
            if (strcmp(line, "layout") || !number(eq + 1, UINT32_MAX, &layout))
                return bad(err, line);
            f.layout = (uint32_t)layout;
            if (f.layout != LDR_LAYOUT)
                break;
            first = false;
        } else if (set(&f, line, eq + 1, err)) {
            return LARDER_CORRUPT;
        }
    }
    if (f.layout == 0)
        return bad(err, "layout");
    *out = f;
    return LARDER_OK;
}

size_t ldr_format_print(const struct ldr_format *f, char *out)
{
    size_t n =
        (size_t)snprintf(out, LDR_FORMAT_MAX,
                         "# larder's cache; written by its agent alone\n"
                         "layout=%" PRIu32 "\nboot_id=%s\nboot=%" PRIu32 "\ndevice=%" PRIu64 "\ngeneration=%" PRIu64
                         "\nnonce=%" PRIu64 "\nclean=%d\nstarts=%" PRIu32 "\n",
                         f->layout, f->boot_id, f->boot, f->device, f->generation, f->nonce, f->clean, f->starts);

    for (size_t i = 0; i < f->n_stores; i++) {
        char hex[17];

        ldr_hex(&f->stores[i].fingerprint, 8, hex);
        n += (size_t)snprintf(out + n, LDR_FORMAT_MAX - n, "store.%s=%s\n", f->stores[i].scheme, hex);
    }
    return n;
}

enum larder_kind ldr_format_read(int cache_dirfd, struct ldr_format *out, struct larder_err *err)
{
    char text[LDR_FORMAT_MAX + 1];
    size_t len = 0;
    ssize_t n;
    int fd = openat(cache_dirfd, LDR_NAME_FORMAT, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0)
        return ldr_fail_sys(err, errno == ENOENT ? LARDER_NOT_FOUND : LARDER_IO,
                            "could not open cache file \"" LDR_NAME_FORMAT "\"");
    do {
        n = read(fd, text + len, sizeof text - len);
        if (n > 0)
            len += (size_t)n;
    } while (n > 0 && len < sizeof text);
    if (n < 0) {
        enum larder_kind k = ldr_fail_sys(err, LARDER_IO, "could not read cache file \"" LDR_NAME_FORMAT "\"");

        close(fd);
        return k;
    }
    close(fd);
    return ldr_format_parse(text, len, out, err);
}

void ldr_gen_name(uint64_t generation, char out[LDR_GEN_NAME_MAX])
{
    snprintf(out, LDR_GEN_NAME_MAX, "gen-%" PRIu64, generation);
}

void ldr_block_name(const struct ldr_id *id, uint32_t block, char out[LDR_BLOCK_NAME_MAX])
{
    char digits[10], *p = out;
    size_t n = sizeof digits;

    /* On the way of every first open: no printf. */
    p = mempcpy(p, LDR_NAME_BLOCKS "/", sizeof LDR_NAME_BLOCKS);
    ldr_hex(id->b + 15, 1, p);
    p[2] = '/';
    ldr_hex(id->b, sizeof id->b, p + 3);
    p += 3 + 2 * sizeof id->b;
    *p++ = '.';
    do
        digits[--n] = (char)('0' + block % 10);
    while (block /= 10);
    p = mempcpy(p, digits + n, sizeof digits - n);
    *p = '\0';
}

bool ldr_fs_suitable(long f_type, const char **name)
{
    static const struct {
        long type;
        const char *name;
    } known[] = { { EXT4_SUPER_MAGIC, "ext4" },
                  { XFS_SUPER_MAGIC, "xfs" },
                  { BTRFS_SUPER_MAGIC, "btrfs" },
                  { TMPFS_MAGIC, "tmpfs" } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(known); i++)
        if (known[i].type == f_type) {
            *name = known[i].name;
            return true;
        }
    *name = f_type == OVERLAYFS_SUPER_MAGIC ? "overlayfs" : "an unknown file system";
    return false;
}
