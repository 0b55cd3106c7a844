/* mini_index.c - see mini_index.h. */
#include "tests/support/mini_index.h"
#include "common/hash.h"
#include "common/touch.h"
#include "common/uri.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_PAGES 256 /* by which data.mdb is allocated ahead */

#define MUST(x) ((x) ? (void)0 : failed(__func__, #x, __LINE__))

static void failed(const char *where, const char *what, int line)
{
    fprintf(stderr, "%s:%d: %s: %s\n", where, line, what, strerror(errno));
    abort();
}

static void write_file(const char *path, const void *p, size_t n, mode_t mode)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, mode);
    size_t done = 0;

    MUST(fd >= 0);
    while (done < n) {
        ssize_t got = write(fd, (const char *)p + done, n - done);

        MUST(got > 0);
        done += (size_t)got;
    }
    close(fd);
}

void mini_write_format(const struct mini *m)
{
    char text[LDR_FORMAT_MAX], path[300], temp[300];
    size_t n = ldr_format_print(&m->format, text);

    snprintf(temp, sizeof temp, "%s/format.new", m->dir);
    snprintf(path, sizeof path, "%s/" LDR_NAME_FORMAT, m->dir);
    write_file(temp, text, n, 0640);
    MUST(rename(temp, path) == 0);
}

static void open_generation(struct mini *m)
{
    char gen[LDR_GEN_NAME_MAX], path[300];
    MDB_txn *t;
    mdb_filehandle_t fd;

    ldr_gen_name(m->format.generation, gen);
    snprintf(path, sizeof path, "%s/%s", m->dir, gen);
    MUST(mkdir(path, 0750) == 0);

    snprintf(path, sizeof path, "%s/%s/hdr", m->dir, gen);
    int hdr = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0640);
    MUST(hdr >= 0 && ftruncate(hdr, LDR_HDR_BYTES) == 0);
    m->hdr = mmap(NULL, LDR_HDR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, hdr, 0);
    MUST(m->hdr != MAP_FAILED);
    close(hdr);
    m->hdr->magic = LDR_HDR_MAGIC;
    m->hdr->version = LDR_HDR_VERSION;
    m->hdr->psize = LDR_PAGE;
    m->hdr->generation = m->format.generation;
    m->hdr->nonce = m->format.nonce;
    m->hdr->mapsize = m->mapsize;
    m->hdr->boot = m->format.boot;
    m->hdr->inline_limit = LDR_RECORD_MAX;

    snprintf(path, sizeof path, "%s/%s/data.mdb", m->dir, gen);
    MUST(mdb_env_create(&m->env) == 0 && mdb_env_set_mapsize(m->env, m->mapsize) == 0);
    MUST(mdb_env_open(m->env, path, MDB_NOSUBDIR | MDB_NOTLS | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NORDAHEAD, 0640) == 0);
    MUST(mdb_txn_begin(m->env, NULL, MDB_RDONLY, &t) == 0 && mdb_dbi_open(t, NULL, 0, &m->dbi) == 0);
    MUST(mdb_env_get_fd(m->env, &fd) == 0 && posix_fallocate(fd, 0, STEP_PAGES * LDR_PAGE) == 0);
    atomic_store(&m->hdr->npages, STEP_PAGES);
    atomic_store(&m->hdr->floor, mdb_txn_id(t));
    atomic_store(&m->hdr->cur, mdb_txn_id(t));
    mdb_txn_abort(t);
}

static void close_generation(struct mini *m)
{
    if (m->txn)
        mdb_txn_abort(m->txn);
    m->txn = NULL;
    if (m->env)
        mdb_env_close(m->env);
    m->env = NULL;
    if (m->hdr)
        munmap(m->hdr, LDR_HDR_BYTES);
    m->hdr = NULL;
}

void mini_open(struct mini *m, const char *dir, uint64_t mapsize)
{
    char path[300];

    *m = (struct mini){ .mapsize = mapsize ? mapsize : 64 * LDR_MIB };
    snprintf(m->dir, sizeof m->dir, "%s", dir);
    m->format = (struct ldr_format){
        .layout = LDR_LAYOUT, .boot_id = "a-boot", .boot = 7, .generation = 1, .nonce = 1001, .starts = 1
    };
    snprintf(path, sizeof path, "%s/" LDR_NAME_BLOCKS, dir);
    MUST(mkdir(path, 0750) == 0);
    snprintf(path, sizeof path, "%s/" LDR_NAME_IPC, dir);
    MUST(mkdir(path, 0750) == 0);
    open_generation(m);
    mini_write_format(m);
}

void mini_close(struct mini *m)
{
    close_generation(m);
}

static void begin(struct mini *m)
{
    if (!m->txn)
        MUST(mdb_txn_begin(m->env, NULL, 0, &m->txn) == 0);
}

void mini_put(struct mini *m, const void *key, size_t key_len, const void *value, size_t len)
{
    MDB_val k = { key_len, (void *)(uintptr_t)key }, v = { len, (void *)(uintptr_t)value };

    begin(m);
    MUST(mdb_put(m->txn, m->dbi, &k, &v, 0) == 0);
}

void mini_del(struct mini *m, const void *key, size_t key_len)
{
    MDB_val k = { key_len, (void *)(uintptr_t)key };

    begin(m);
    MUST(mdb_del(m->txn, m->dbi, &k, NULL) == 0);
}

static size_t key_of(const char *uri, char text[LDR_URI_MAX + 1], uint8_t key[LDR_INDEX_KEY_MAX])
{
    struct ldr_uri u;

    MUST(ldr_uri_parse(uri, &u, NULL) == LARDER_OK);
    return ldr_index_key(text, ldr_uri_text(&u, text), key);
}

void mini_fill_block(const struct mini *m, const struct ldr_id *id, const struct mini_object *o, uint32_t n)
{
    size_t size = (size_t)1 << o->block_log2, left = o->len - n * size;
    char path[MINI_PATH_MAX];

    mini_block_path(m, id, n, path);
    *strrchr(path, '/') = '\0';
    MUST(mkdir(path, 0750) == 0 || errno == EEXIST);
    mini_block_path(m, id, n, path);
    write_file(path, (const char *)o->data + n * size, left < size ? left : size, 0440);
}

void mini_drop_block(const struct mini *m, const struct ldr_id *id, uint32_t n)
{
    char path[MINI_PATH_MAX];

    mini_block_path(m, id, n, path);
    MUST(unlink(path) == 0);
}

struct ldr_id mini_add(struct mini *m, const char *uri, const struct mini_object *o)
{
    char text[LDR_URI_MAX + 1];
    uint8_t key[LDR_INDEX_KEY_MAX], *packed;
    size_t key_len = key_of(uri, text, key);
    struct ldr_meta meta;
    struct ldr_record r = { .flags = o->flags | (o->block_log2 ? 0 : LDR_FLAG_INLINE),
                            .boot = o->boot ? o->boot : m->format.boot,
                            .seq = ++m->next_id,
                            .size_bytes = o->len,
                            .fresh_until_ns = o->fresh_until_ns ? o->fresh_until_ns : LDR_FRESH_ALWAYS,
                            .last_modified_s = o->last_modified_s,
                            .block_log2 = o->block_log2,
                            .prefix = o->prefix };

    memset(r.id.b, 0x11, 8);
    for (int i = 0; i < 8; i++)
        r.id.b[8 + i] = (uint8_t)(m->next_id >> (56 - 8 * i));
    ldr_meta_init(&meta);
    MUST(!o->meta || ldr_meta_copy(&meta, o->meta));
    if (strlen(text) > LDR_INDEX_KEY_MAX)
        MUST(ldr_meta_add_text(&meta, LDR_TAG_KEY, o->other_key ? o->other_key : text));
    r.fields = meta.fields.p;
    r.fields_len = meta.fields.len;
    if (!o->block_log2) {
        r.payload = o->data;
        r.payload_len = o->len;
        r.payload_hash = ldr_hash64(o->data, o->len);
    }
    for (uint32_t n = 0; o->block_log2 && (size_t)n << o->block_log2 < o->len; n++)
        mini_fill_block(m, &r.id, o, n);
    MUST((packed = malloc(ldr_record_len(&r))) != NULL);
    ldr_record_pack(&r, key, key_len, packed);
    mini_put(m, key, key_len, packed, ldr_record_len(&r));
    free(packed);
    ldr_meta_release(&meta);
    return r.id;
}

void mini_remove(struct mini *m, const char *uri)
{
    char text[LDR_URI_MAX + 1];
    uint8_t key[LDR_INDEX_KEY_MAX];
    size_t key_len = key_of(uri, text, key);

    mini_del(m, key, key_len);
}

uint64_t mini_publish(struct mini *m)
{
    MDB_envinfo info;
    mdb_filehandle_t fd;
    uint64_t have = atomic_load(&m->hdr->npages), want;

    begin(m);
    MUST(mdb_txn_commit(m->txn) == 0);
    m->txn = NULL;
    MUST(mdb_env_info(m->env, &info) == 0);
    if (info.me_last_pgno + 1 > have) {
        want = info.me_last_pgno + 1 + STEP_PAGES;
        if (want > m->mapsize / LDR_PAGE)
            want = m->mapsize / LDR_PAGE;
        MUST(mdb_env_get_fd(m->env, &fd) == 0 && posix_fallocate(fd, 0, (off_t)(want * LDR_PAGE)) == 0);
        atomic_store(&m->hdr->npages, want);
    }
    atomic_store(&m->hdr->cur, info.me_last_txnid);
    atomic_store(&m->hdr->floor, info.me_last_txnid);
    return info.me_last_txnid;
}

void mini_block_path(const struct mini *m, const struct ldr_id *id, uint32_t n, char out[MINI_PATH_MAX])
{
    char name[LDR_BLOCK_NAME_MAX];

    ldr_block_name(id, n, name);
    snprintf(out, MINI_PATH_MAX, "%s/%s", m->dir, name);
}

int mini_touch(struct mini *m, uint64_t bits)
{
    char path[MINI_PATH_MAX];
    int fd;

    snprintf(path, sizeof path, "%s/" LDR_NAME_RW, m->dir);
    MUST(mkdir(path, 0750) == 0);
    snprintf(path, sizeof path, "%s/" LDR_NAME_TOUCH, m->dir);
    fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0660);
    MUST(fd >= 0 && posix_fallocate(fd, 0, (off_t)ldr_touch_file_bytes(bits)) == 0);
    m->hdr->touch_bits = bits;
    return fd;
}

void mini_retire(struct mini *m)
{
    atomic_store(&m->hdr->cur, LDR_RETIRED);
    atomic_store(&m->hdr->floor, LDR_RETIRED);
}

void mini_new_generation(struct mini *m)
{
    close_generation(m);
    m->format.generation++;
    m->format.nonce++;
    open_generation(m);
    mini_write_format(m);
}
