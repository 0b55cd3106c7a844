/* client.c - larder_open(), larder_close(), and which generation of the index a handle reads (client.h). */
#include "client/client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define SYSTEM_DIR "/var/cache/larder"
#define CHECK_NS   LDR_NS_PER_S /* between two looks for a cache that was not there */

/* ---- generations ---- */

/* Open a regular file of the folder gen-N; its size goes to *size. -1: it cannot be. */
static int open_in(int dirfd, uint64_t generation, const char *name, uint64_t *size)
{
    char folder[LDR_GEN_NAME_MAX], path[LDR_GEN_NAME_MAX + 16];
    struct stat st;
    int fd;

    ldr_gen_name(generation, folder);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return -1;
    }
    *size = (uint64_t)st.st_size;
    return fd;
}

static const void *map_file(int fd, size_t len)
{
    void *p = mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);

    return p == MAP_FAILED ? NULL : p;
}

static bool map_hdr(struct ldr_gen *g, const struct ldr_format *f)
{
    uint64_t size;
    const struct ldr_hdr *h;
    int fd = open_in(g->dirfd, f->generation, "hdr", &size);

    if (fd < 0)
        return false;
    h = g->index.hdr = size >= LDR_HDR_BYTES ? map_file(fd, LDR_HDR_BYTES) : NULL;
    close(fd);
    return h && ldr_hdr_valid(h) && h->generation == f->generation && h->nonce == f->nonce &&
           atomic_load(&h->cur) != LDR_RETIRED;
}

/* The data file with all the address space it may ever need, so that it never has to be mapped anew; where that is not
 * to be had (RLIMIT_AS, locked memory), what it holds now. */
static bool map_data(struct ldr_gen *g, const struct ldr_format *f)
{
    const struct ldr_hdr *h = g->index.hdr;
    uint64_t size, npages = atomic_load(&h->npages);
    int fd = open_in(g->dirfd, f->generation, "data.mdb", &size);

    if (fd < 0)
        return false;
    if (npages >= 2 && npages <= h->mapsize / LDR_PAGE && size / LDR_PAGE >= npages) {
        g->map_len = h->mapsize;
        g->index.data = map_file(fd, g->map_len);
        if (!g->index.data) {
            g->partial = true;
            g->map_len = npages * LDR_PAGE;
            g->index.data = map_file(fd, g->map_len);
        }
    }
    close(fd);
    atomic_store(&g->index.pages, g->map_len / LDR_PAGE);
    return g->index.data && ldr_tree_check(&g->index);
}

static void gen_free(struct ldr_gen *g)
{
    if (g->index.data)
        munmap((void *)(uintptr_t)g->index.data, g->map_len);
    if (g->index.hdr)
        munmap((void *)(uintptr_t)g->index.hdr, LDR_HDR_BYTES);
    ldr_touch_close(&g->touch);
    if (g->dirfd >= 0 && (!g->older || g->older->dirfd != g->dirfd))
        close(g->dirfd);
    free(g);
}

/* The cache directory: the descriptor of `older`, if it is the same directory still. */
static int open_dir(const char *dir, const struct ldr_gen *older)
{
    struct stat now, then;
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && older && fstat(fd, &now) == 0 && fstat(older->dirfd, &then) == 0 && now.st_dev == then.st_dev &&
        now.st_ino == then.st_ino) {
        close(fd);
        return older->dirfd;
    }
    return fd;
}

/* Elsewhere (overlayfs, network file systems) a mapping need not show what the agent writes. */
static bool fs_suitable(int dirfd)
{
    const char *name;
    struct statfs fs;

    return fstatfs(dirfd, &fs) == 0 && ldr_fs_suitable((long)fs.f_type, &name);
}

/* The generation that `format` names; NULL: none that this process can read, or (*same) the one of `seen`. */
static struct ldr_gen *gen_open(struct larder *l, const struct ldr_gen *seen, bool *same)
{
    struct ldr_gen *g = calloc(1, sizeof *g);
    struct ldr_format f;

    if (!g)
        return NULL;
    g->older = l->gens;
    g->dirfd = open_dir(l->dir, l->gens);
    /* A newer layout, a missing or an unreadable file: all mean that the agent must be asked, who says what is wrong.
     */
    if (g->dirfd < 0 || !fs_suitable(g->dirfd) || ldr_format_read(g->dirfd, &f, NULL) || f.layout != LDR_LAYOUT)
        goto none;
    *same = seen && seen->nonce == f.nonce && atomic_load(&seen->index.hdr->cur) != LDR_RETIRED;
    if (*same || !map_hdr(g, &f) || !map_data(g, &f))
        goto none;
    if (g->index.hdr->touch_bits)
        ldr_touch_open(&g->touch, g->dirfd, g->index.hdr->touch_bits); /* where it may be: hits are else not told */
    g->nonce = f.nonce;
    atomic_store(&g->index.unsafe, atomic_load(&l->unsafe));
    return g;
none:
    gen_free(g);
    return NULL;
}

/* Give the files back: a mapping would keep all of their disk space. Another thread may be reading: from here on what it
 * sees is void, and then it sees zeros; what it says of a hit is heard by nobody. */
static void gen_retire(struct ldr_gen *g)
{
    atomic_store(&g->index.gone, true);
    mmap((void *)(uintptr_t)g->index.data, g->map_len, PROT_READ,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (g->touch.map)
        mmap(g->touch.map, g->touch.len, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static bool opening_try(struct larder *l)
{
    uint64_t self = ldr_self_token(&l->self), holder = 0;

    if (atomic_compare_exchange_strong(&l->opening, &holder, self))
        return true;
    /* held by a thread of the parent, which is not in this process */
    return holder != self && atomic_compare_exchange_strong(&l->opening, &holder, self);
}

void ldr_client_reopen(struct larder *l, struct ldr_gen *seen, uint64_t nonce)
{
    struct ldr_gen *g;
    bool same = false;

    if (!seen && (nonce == 0 || atomic_load(&l->failed_nonce) == nonce) &&
        ldr_mono_ns() < atomic_load(&l->next_check_ns))
        return;
    if (!opening_try(l))
        return;
    if (atomic_load(&l->gen) == seen) {
        g = gen_open(l, seen, &same);
        if (g)
            l->gens = g;
        if (!same) {
            atomic_store(&l->gen, g);
            if (seen)
                gen_retire(seen);
        }
        if (!g) {
            atomic_store(&l->failed_nonce, nonce);
            atomic_store(&l->next_check_ns, ldr_mono_ns() + CHECK_NS);
        }
    }
    atomic_store(&l->opening, 0);
}

bool ldr_client_grow(struct larder *l, struct ldr_gen *g)
{
    const struct ldr_tree *ix = &g->index;
    uint64_t npages = atomic_load(&ix->hdr->npages);
    bool grown = false;

    if (!g->partial || npages > ix->hdr->mapsize / LDR_PAGE || npages <= atomic_load(&ix->pages) || !opening_try(l))
        return false;
    /* In place only: others are reading. */
    if (!atomic_load(&ix->gone) &&
        mremap((void *)(uintptr_t)ix->data, g->map_len, npages * LDR_PAGE, 0) != MAP_FAILED) {
        g->map_len = npages * LDR_PAGE;
        atomic_store(&g->index.pages, npages);
        grown = true;
    }
    atomic_store(&l->opening, 0);
    return grown;
}

void ldr_client_set_unsafe_for_stress(struct larder *l, bool unsafe)
{
    struct ldr_gen *g = atomic_load(&l->gen);

    atomic_store(&l->unsafe, unsafe);
    if (g)
        ldr_walk_set_unsafe_for_stress(&g->index, unsafe);
}

/* ---- open, close ---- */

static bool holds_cache(const char *dir)
{
    char path[256];

    return snprintf(path, sizeof path, "%s/" LDR_NAME_FORMAT, dir) < (int)sizeof path && access(path, F_OK) == 0;
}

static char *joined(const char *dir, const char *name)
{
    char *s;

    return asprintf(&s, "%s/%s", dir, name) < 0 ? NULL : s;
}

/* An absolute path, since the host may change its working directory. NULL: out of memory, or there is none (errno). */
static char *absolute(const char *dir)
{
    char *cwd, *s;

    if (dir[0] == '/')
        return strdup(dir);
    cwd = getcwd(NULL, 0);
    s = cwd ? joined(cwd, dir) : NULL;
    free(cwd);
    return s;
}

static enum larder_kind find_dir(const char *dir, char **out, struct larder_err *err)
{
    const char *xdg = secure_getenv("XDG_CACHE_HOME"), *home = secure_getenv("HOME");

    if (!dir)
        dir = secure_getenv("LARDER_CACHE_DIR");
    if (dir && *dir)
        *out = absolute(dir);
    else if (dir && !*dir)
        return ldr_fail(err, LARDER_INVALID, "the name of the cache directory is empty");
    else if (holds_cache(SYSTEM_DIR))
        *out = strdup(SYSTEM_DIR);
    else if (xdg && xdg[0] == '/')
        *out = joined(xdg, "larder");
    else if (home && home[0] == '/')
        *out = joined(home, ".cache/larder");
    else
        return ldr_fail(err, LARDER_INVALID,
                        "no cache directory: LARDER_CACHE_DIR, XDG_CACHE_HOME and HOME are not set");
    if (!*out)
        return ldr_fail_sys(err, errno == ENOMEM ? LARDER_NO_MEMORY : LARDER_IO, "could not name the cache directory");
    return LARDER_OK;
}

enum larder_kind larder_open(const char *dir, struct larder **out, struct larder_err *err)
{
    const char *endpoint = secure_getenv("LARDER_ENDPOINT");
    char *path = NULL, *socket_path = NULL;
    struct larder *l = NULL;
    enum larder_kind k = find_dir(dir, &path, err);

    if (k)
        return k;
    socket_path =
        endpoint && *endpoint ? joined(endpoint, LDR_NAME_SOCKET) : joined(path, LDR_NAME_IPC "/" LDR_NAME_SOCKET);
    l = aligned_alloc(_Alignof(struct larder), sizeof *l);
    if (l) {
        memset(l, 0, sizeof *l);
        ldr_self_init(&l->self);
        l->dir = path;
        path = NULL;
        l->pool = socket_path ? ldr_conns_new(socket_path) : NULL;
        l->views = ldr_views_new(ldr_views_map_count());
    }
    free(path);
    free(socket_path);
    if (!l || !l->pool || !l->views) {
        larder_close(&l);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for a handle");
    }
    ldr_client_reopen(l, NULL, 0);
    *out = l;
    return LARDER_OK;
}

void larder_close(struct larder **pl)
{
    struct larder *l = pl ? *pl : NULL;

    if (!l)
        return;
    *pl = NULL;
    for (struct ldr_gen *g = l->gens, *older; g; g = older) {
        older = g->older;
        gen_free(g);
    }
    ldr_views_free(&l->views);
    ldr_conns_free(&l->pool);
    ldr_self_release(&l->self);
    free(l->dir);
    free(l);
}

const char *larder_version(void)
{
    return LDR_VERSION;
}

void larder_get_counts(struct larder *l, struct larder_counts *out, size_t size)
{
    struct larder_counts all;
    uint64_t n[8] = { 0 };

    for (int i = 0; i < LDR_COUNT_SHARDS; i++)
        for (int j = 0; j < 8; j++)
            n[j] += atomic_load_explicit(&l->counts[i].n[j], memory_order_relaxed);
    all = (struct larder_counts){ .hits = n[LDR_COUNT_HITS],
                                  .asks = n[LDR_COUNT_ASKS],
                                  .retries = n[LDR_COUNT_RETRIES],
                                  .torn = n[LDR_COUNT_TORN],
                                  .damaged = n[LDR_COUNT_DAMAGED],
                                  .kept = n[LDR_COUNT_KEPT] };
    memset(out, 0, size);
    memcpy(out, &all, size < sizeof all ? size : sizeof all);
}

/* A request that is answered by items. */
static enum larder_kind ask_items(struct larder *l, ldr_wire_request *req, int timeout_ms, larder_status_fn *each,
                                  void *user, struct larder_err *err)
{
    ldr_wire_reply *reply;
    enum larder_kind k = ldr_ask(l, req, LDR_ASK_READ, ldr_call_deadline(timeout_ms), &reply, err);

    if (k)
        return k;
    if (reply->body_case != LARDER__WIRE__REPLY__BODY_STATUS_REPLY)
        k = ldr_answer_unknown(err);
    else
        for (size_t i = 0; i < reply->status_reply->n_item; i++) {
            const Larder__Wire__StatusItem *item = reply->status_reply->item[i];

            if (item->value_case == LARDER__WIRE__STATUS_ITEM__VALUE_TEXT)
                each(user, item->name, item->text, 0);
            else
                each(user, item->name, NULL, item->number);
        }
    larder__wire__reply__free_unpacked(reply, NULL);
    return k;
}

enum larder_kind larder_status(struct larder *l, int timeout_ms, larder_status_fn *each, void *user,
                               struct larder_err *err)
{
    Larder__Wire__StatusAsk ask = LARDER__WIRE__STATUS_ASK__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    req.body_case = LARDER__WIRE__REQUEST__BODY_STATUS;
    req.status = &ask;
    return ask_items(l, &req, timeout_ms, each, user, err);
}

enum larder_kind larder_why(struct larder *l, const char *uri, int timeout_ms, larder_status_fn *each, void *user,
                            struct larder_err *err)
{
    Larder__Wire__Why why = LARDER__WIRE__WHY__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    char text[LDR_URI_MAX + 1];
    enum larder_kind k = ldr_canonical(uri, text, err);

    if (k)
        return k;
    req.body_case = LARDER__WIRE__REQUEST__BODY_WHY;
    req.why = &why;
    why.key = text;
    return ask_items(l, &req, timeout_ms, each, user, err);
}
