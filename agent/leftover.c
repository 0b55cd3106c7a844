/* leftover.c - see leftover.h. A note is: magic u64 · hash u64 of what follows · uri_len u32 · id_len u32 · uri · id. */
#include "agent/leftover.h"
#include "agent/upload_impl.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/uri.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define MAGIC       UINT64_C(0x3144504c44524c0a) /* 0a "LRDLPD1" */
#define NOTE_MAX    (sizeof(struct head) + LDR_URI_MAX + LDR_UPLOAD_ID_MAX)
#define FILES_MAX   10000 /* looked at in one start */
#define ROUNDS      5
#define ABORT_NS    (60 * LDR_NS_PER_S)
#define HASHED_FROM offsetof(struct head, uri_len)

struct head {
    uint64_t magic, hash;
    uint32_t uri_len, id_len;
};

/* ---------- notes ---------- */

enum larder_kind ldr_leftover_note(const struct ldr_cache_dir *dir, const char *uri, const char *id,
                                   char name[LDR_LEFTOVER_NAME_MAX], struct larder_err *err)
{
    struct head h = { .magic = MAGIC, .uri_len = (uint32_t)strlen(uri), .id_len = (uint32_t)strlen(id) };
    size_t len = sizeof h + h.uri_len + h.id_len;
    enum larder_kind k = LARDER_OK;
    uint8_t random[16], *text;
    int fd;

    name[0] = '\0';
    if (h.uri_len > LDR_URI_MAX || h.id_len == 0 || h.id_len > LDR_UPLOAD_ID_MAX)
        return ldr_fail(err, LARDER_INVALID, "an upload that cannot be noted");
    text = malloc(len);
    if (!text)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    memcpy(text + sizeof h, uri, h.uri_len);
    memcpy(text + sizeof h + h.uri_len, id, h.id_len);
    memcpy(text, &h, sizeof h);
    h.hash = ldr_hash64(text + HASHED_FROM, len - HASHED_FROM);
    memcpy(text, &h, sizeof h);
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        free(text);
        return ldr_fail_sys(err, LARDER_IO, "could not get random bytes");
    }
    ldr_hex(random, sizeof random, name);
    fd = openat(dir->uploadsfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len || fsync(fd) || fsync(dir->uploadsfd))
        k = ldr_fail_sys(err, LARDER_IO, "could not note an upload in \"" LDR_NAME_UPLOADS "\"");
    if (fd >= 0)
        close(fd);
    if (k) {
        ldr_leftover_forget(dir, name);
        name[0] = '\0';
    }
    free(text);
    return k;
}

void ldr_leftover_forget(const struct ldr_cache_dir *dir, const char *name)
{
    if (*name && unlinkat(dir->uploadsfd, name, 0) && errno != ENOENT)
        ldr_log(LDR_WARN, "leftover", "could not remove the note of an upload name=%s errno=%d", name, errno);
}

/* ---------- what earlier runs left ---------- */

struct leftover {
    struct leftover *next;
    char file[LDR_LEFTOVER_NAME_MAX];
    char *uri;
    struct ldr_multipart upload; /* its id */
    bool over;                   /* nothing is left to do but to remove the note */
};

struct leftovers {
    struct ldr_task task;
    struct ldr_domain *domain;
    struct leftover *list, **at; /* at: where the round is */
    struct ldr_name *name;       /* of the one under way */
    struct ldr_attempt attempt;
    uint32_t pause_ms;
    unsigned rounds;
};

static void leftover_free(struct leftover *l)
{
    free(l->uri);
    free(l);
}

/* NULL: it is no note. */
static struct leftover *parse(const uint8_t *text, size_t len)
{
    struct leftover *l;
    struct head h;

    if (len < sizeof h)
        return NULL;
    memcpy(&h, text, sizeof h);
    if (h.magic != MAGIC || h.uri_len > LDR_URI_MAX || h.id_len == 0 || h.id_len > LDR_UPLOAD_ID_MAX ||
        len != sizeof h + h.uri_len + h.id_len || h.hash != ldr_hash64(text + HASHED_FROM, len - HASHED_FROM) ||
        memchr(text + sizeof h, 0, h.uri_len + h.id_len))
        return NULL;
    l = calloc(1, sizeof *l);
    if (l)
        l->uri = strndup((const char *)text + sizeof h, h.uri_len);
    if (!l || !l->uri)
        abort();
    memcpy(l->upload.id, text + sizeof h + h.uri_len, h.id_len);
    return l;
}

static struct leftover *read_note(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    uint8_t *text = malloc(NOTE_MAX + 1);
    struct leftover *l = NULL;
    size_t len = 0;
    ssize_t n;

    while (fd >= 0 && text && len <= NOTE_MAX && (n = read(fd, text + len, NOTE_MAX + 1 - len)) > 0)
        len += (size_t)n;
    if (fd >= 0 && text && strlen(name) < sizeof l->file)
        l = parse(text, len);
    if (l)
        strcpy(l->file, name);
    if (fd >= 0)
        close(fd);
    free(text);
    return l;
}

static void list_notes(const struct ldr_cache_dir *dir, struct leftover **list)
{
    int fd = openat(dir->uploadsfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    unsigned n = 0;

    while (d && n < FILES_MAX && (e = readdir(d))) {
        struct leftover *l;

        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        n++;
        l = read_note(dir->uploadsfd, e->d_name);
        if (l) {
            LL_PREPEND(*list, l);
        } else {
            ldr_log(LDR_WARN, "leftover", "removed a file that is no note of an upload name=\"%.40s\"", e->d_name);
            unlinkat(dir->uploadsfd, e->d_name, 0);
        }
    }
    if (d)
        closedir(d);
    else if (fd >= 0)
        close(fd);
}

/* ---------- a round ---------- */

static void next(struct leftovers *x);

static void over(struct leftovers *x)
{
    struct ldr_uploads *u = x->domain->uploads;
    struct leftover *l, *following;

    LL_FOREACH_SAFE(x->list, l, following)
    {
        ldr_log(LDR_WARN, "leftover", "an upload could not be aborted, the next start tries again uri=\"%s\" id=\"%s\"",
                l->uri, l->upload.id);
        leftover_free(l);
    }
    free(x);
    u->busy--;
    ldr_uploads_look(u);
}

/* Is it over with this one? A store that did not answer may do so later. */
static bool judge(struct leftovers *x, const struct leftover *l)
{
    const struct ldr_op *op = &x->attempt.op;

    if (!op->kind) {
        ldr_count(&x->domain->counters, leftovers_aborted, 1);
        ldr_log(LDR_INFO, "leftover", "aborted an upload of an earlier run uri=\"%s\" id=\"%s\"", l->uri, l->upload.id);
        return true;
    }
    ldr_log(LDR_WARN, "leftover", "an upload of an earlier run could not be aborted uri=\"%s\" id=\"%s\" reason=\"%s\"",
            l->uri, l->upload.id, op->err.msg);
    return op->kind != LARDER_CANCELLED && op->kind != LARDER_TIMEOUT && !ldr_kind_retry(op->kind);
}

static void forgotten_on_ipc(struct ldr_task *t)
{
    struct leftovers *x = LDR_CONTAINER(t, struct leftovers, task);
    struct leftover *l = *x->at;

    *x->at = l->next;
    leftover_free(l);
    next(x);
}

static void forget_on_pool(struct ldr_task *t)
{
    struct leftovers *x = LDR_CONTAINER(t, struct leftovers, task);

    ldr_leftover_forget(x->domain->dir, (*x->at)->file);
    t->run = forgotten_on_ipc;
    ldr_mailbox_post(&x->domain->ipc_box, t);
}

static void aborted_on_ipc(struct ldr_task *t)
{
    struct leftovers *x = LDR_CONTAINER(t, struct leftovers, task);
    bool done = judge(x, *x->at);

    ldr_meta_release(&x->attempt.op.meta);
    ldr_name_unref(&x->name);
    if (done) {
        t->run = forget_on_pool;
        ldr_pool_post(x->domain->pool, t);
    } else {
        x->at = &(*x->at)->next;
        next(x);
    }
}

static void aborted(struct ldr_attempt *a)
{
    struct leftovers *x = LDR_CONTAINER(a, struct leftovers, attempt);

    x->task.run = aborted_on_ipc;
    ldr_mailbox_post(&x->domain->ipc_box, &x->task);
}

static void again_on_ipc(struct ldr_task *t)
{
    struct leftovers *x = LDR_CONTAINER(t, struct leftovers, task);

    x->at = &x->list;
    next(x);
}

static void paused_on_net(struct ldr_task *t)
{
    struct leftovers *x = LDR_CONTAINER(t, struct leftovers, task);

    t->run = again_on_ipc;
    ldr_mailbox_post(&x->domain->ipc_box, t);
}

static void pause_on_net(struct ldr_task *t)
{
    struct leftovers *x = LDR_CONTAINER(t, struct leftovers, task);

    t->run = paused_on_net;
    ldr_net_after_on_net(x->attempt.op.backend->env.net, x->pause_ms, t);
}

/* Abort the next one whose store is known; at the end of a round wait, or leave the rest to the next start. */
static void next(struct leftovers *x)
{
    struct ldr_domain *d = x->domain;
    struct larder_err e;

    for (; *x->at; x->at = &(*x->at)->next) {
        struct leftover *l = *x->at;

        if (ldr_route(d->routes, l->uri, &x->name, &e))
            continue; /* its store may be configured again */
        if (x->name->backend->ops->upload)
            break;
        ldr_name_unref(&x->name);
    }
    if (*x->at) {
        ldr_op_about(&x->attempt.op, x->name, LDR_OP_UPLOAD_ABORT, ldr_mono_ns() + ABORT_NS);
        x->attempt.op.upload = &(*x->at)->upload;
        x->attempt.counters = &d->counters;
        x->attempt.done = aborted;
        ldr_attempt_start(&x->attempt);
        return;
    }
    if (!x->list || !x->attempt.op.backend || ++x->rounds == ROUNDS ||
        ldr_net_stopping(x->attempt.op.backend->env.net)) {
        over(x);
        return;
    }
    x->task.run = pause_on_net;
    ldr_net_post(x->attempt.op.backend->env.net, &x->task);
}

static void begin_on_ipc(struct ldr_task *t)
{
    struct leftovers *x = LDR_CONTAINER(t, struct leftovers, task);

    x->domain->uploads->busy++;
    x->at = &x->list;
    next(x);
}

void ldr_leftovers_start(struct ldr_domain *d, uint32_t pause_ms)
{
    struct leftovers *x = calloc(1, sizeof *x);

    if (!x)
        return; /* the next start finds them */
    list_notes(d->dir, &x->list);
    if (!x->list) {
        free(x);
        return;
    }
    x->domain = d;
    x->pause_ms = pause_ms;
    x->task.run = begin_on_ipc;
    ldr_mailbox_post(&d->ipc_box, &x->task);
}
