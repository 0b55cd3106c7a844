/* copy.c - larder_copy(): by the store where it can, else as a stream from a read into a writer. Any thread. */
#include "client/put.h"

#include <stdlib.h>
#include <string.h>

/* By the store. UNSUPPORTED: nothing was done. */
static enum larder_kind copy_by_store(struct larder *l, char *from, char *to, int64_t deadline_ns,
                                      struct larder_err *err)
{
    Larder__Wire__Copy copy = LARDER__WIRE__COPY__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;

    req.body_case = LARDER__WIRE__REQUEST__BODY_COPY;
    req.copy = &copy;
    copy.from = from;
    copy.to = to;
    return ldr_tell(l, &req, LDR_ASK_WRITE, deadline_ns, err);
}

/* ---- as a stream ---- */

struct stream {
    struct larder *l;
    const char *to;
    int64_t deadline_ns;
    const struct larder_put_opts *opts;
    struct larder_writer *writer; /* NULL until the first piece has said the size */
    struct larder_err err;        /* of the writing side */
};

static enum larder_kind add(void *user, const void *p, size_t n, uint64_t offset, uint64_t size)
{
    struct stream *s = user;
    enum larder_kind k = LARDER_OK;

    (void)offset; /* in order, each once */
    if (!s->writer)
        k = ldr_writer_open_by(s->l, s->to, size, s->opts, s->deadline_ns, &s->writer, &s->err);
    return k ? k : larder_writer_write(s->writer, p, n, &s->err);
}

static enum larder_kind put_opts_of(const struct larder_meta *m, struct larder_put_opts *out, const char ***user,
                                    struct larder_err *err)
{
    const char *name, *value, **pairs;
    size_t n = 0;

    while (larder_meta_user(m, n, &name, &value))
        n++;
    pairs = calloc(2 * n + 1, sizeof *pairs);
    if (!pairs)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for metadata");
    for (size_t i = 0; i < n; i++)
        larder_meta_user(m, i, &pairs[2 * i], &pairs[2 * i + 1]);
    *user = pairs;
    *out = (struct larder_put_opts){ .struct_size = sizeof *out,
                                     .content_type = larder_meta_text(m, LARDER_META_CONTENT_TYPE),
                                     .user = pairs,
                                     .n_user = n,
                                     .content_encoding = larder_meta_text(m, LARDER_META_CONTENT_ENCODING),
                                     .cache_control = larder_meta_text(m, LARDER_META_CACHE_CONTROL),
                                     .content_disposition = larder_meta_text(m, LARDER_META_CONTENT_DISPOSITION),
                                     .content_language = larder_meta_text(m, LARDER_META_CONTENT_LANGUAGE) };
    return LARDER_OK;
}

/* Metadata of one version with the bytes of another would be a third object. */
static bool same_version(const struct larder_meta *a, const struct larder_meta *b)
{
    const char *x = larder_meta_text(a, LARDER_META_ETAG), *y = larder_meta_text(b, LARDER_META_ETAG);

    return larder_meta_exists(b) && larder_meta_size(a) == larder_meta_size(b) && !x == !y && (!x || !strcmp(x, y));
}

static enum larder_kind copy_by_stream(struct larder *l, char *from, const char *to, int64_t deadline_ns,
                                       struct larder_err *err)
{
    struct larder_put_opts opts;
    struct stream s = { .l = l, .to = to, .deadline_ns = deadline_ns, .opts = &opts };
    struct larder_meta *before = NULL, *after = NULL;
    const char **user = NULL;
    int shown = (int)strcspn(from, "?") < 200 ? (int)strcspn(from, "?") : 200;
    enum larder_kind k = larder_head(l, from, ldr_left_ms(deadline_ns), &before, err);

    if (!k && !larder_meta_exists(before))
        k = ldr_fail(err, LARDER_NOT_FOUND, "object \"%.*s\" does not exist", shown, from);
    if (!k)
        k = put_opts_of(before, &opts, &user, err);
    if (!k)
        k = larder_stream(l, from, ldr_left_ms(deadline_ns), add, &s, err);
    if (s.err.kind) {
        k = s.err.kind;
        if (err)
            *err = s.err;
    }
    if (!k)
        k = larder_head(l, from, ldr_left_ms(deadline_ns), &after, err);
    if (!k && !same_version(before, after))
        k = ldr_fail(err, LARDER_PRECONDITION, "\"%.*s\" changed while it was copied", shown, from);
    if (!k)
        k = larder_writer_commit(&s.writer, err);
    larder_writer_abort(&s.writer);
    larder_meta_free(&before);
    larder_meta_free(&after);
    free(user);
    return k;
}

enum larder_kind larder_copy(struct larder *l, const char *from, const char *to, int timeout_ms, struct larder_err *err)
{
    char from_text[LDR_URI_MAX + 1], to_text[LDR_URI_MAX + 1];
    int64_t deadline_ns = ldr_call_deadline(timeout_ms);
    struct larder_err why = { 0 };
    enum larder_kind k = ldr_canonical(from, from_text, err);

    if (!k)
        k = ldr_canonical(to, to_text, err);
    if (k)
        return k;
    k = copy_by_store(l, from_text, to_text, deadline_ns, &why);
    if (k == LARDER_UNSUPPORTED)
        return copy_by_stream(l, from_text, to_text, deadline_ns, err);
    if (k && err)
        *err = why;
    return k;
}
