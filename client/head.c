/* head.c - larder_head(): what is known of an object, from its record in the cache, else from the agent. Any thread. */
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

#define N_TEXTS (LARDER_META_CONTENT_MD5 + 1)

struct larder_meta {
    bool exists;
    struct ldr_meta meta;
    const char *text[N_TEXTS]; /* by tag; into `strings` */
    const char **user;         /* name, value, …; into `strings`; owned */
    size_t n_user;             /* pairs */
    char *strings;             /* owned; fields stand in `meta` without a NUL behind them */
};

_Static_assert((int)LARDER_META_ETAG == LDR_TAG_ETAG && (int)LARDER_META_CONTENT_MD5 == LDR_TAG_CONTENT_MD5,
               "the public numbers are those of the fields");

/* Make C strings of the fields. False: out of memory. */
static bool decode(struct larder_meta *m)
{
    const uint8_t *fields = m->meta.fields.p;
    size_t len = m->meta.fields.len, pos = 0, n = 0, n_user = 0;
    struct ldr_field f;
    char *to;

    while (ldr_fields_next(fields, len, &pos, &f)) {
        n++;
        n_user += f.tag == LDR_TAG_USER;
    }
    to = m->strings = malloc(len + n + 1);
    m->user = calloc(2 * n_user + 1, sizeof *m->user);
    if (!m->strings || !m->user)
        return false;
    for (pos = 0; ldr_fields_next(fields, len, &pos, &f);) {
        bool text = f.tag >= LARDER_META_ETAG && f.tag < N_TEXTS;

        if (!text && f.tag != LDR_TAG_USER)
            continue;
        memcpy(to, f.p, f.len);
        to[f.len] = '\0';
        if (text && !m->text[f.tag])
            m->text[f.tag] = to;
        if (!text) { /* NAME NUL VALUE, as ldr_fields_valid() found */
            m->user[2 * m->n_user] = to;
            m->user[2 * m->n_user + 1] = to + strlen(to) + 1;
            m->n_user++;
        }
        to += f.len + 1;
    }
    return true;
}

static enum larder_kind ask(struct larder *l, char *text, int timeout_ms, struct larder_meta *m, struct larder_err *err)
{
    Larder__Wire__Head head = LARDER__WIRE__HEAD__INIT;
    ldr_wire_request req = LARDER__WIRE__REQUEST__INIT;
    struct larder_err why = { 0 };
    ldr_wire_reply *reply;
    struct ldr_meta meta;
    enum larder_kind k;

    req.body_case = LARDER__WIRE__REQUEST__BODY_HEAD;
    req.head = &head;
    head.key = text;
    k = ldr_ask(l, &req, LDR_ASK_READ, ldr_call_deadline(timeout_ms), &reply, &why);
    if (k == LARDER_NOT_FOUND) {
        m->exists = false;
        return LARDER_OK;
    }
    if (k) {
        if (err)
            *err = why;
        return k;
    }
    if (reply->body_case != LARDER__WIRE__REPLY__BODY_META)
        k = ldr_answer_unknown(err);
    else
        k = ldr_wire_get_meta(reply->meta, &meta, err);
    larder__wire__reply__free_unpacked(reply, NULL);
    if (k)
        return k;
    ldr_meta_release(&m->meta);
    m->meta = meta;
    return LARDER_OK;
}

enum larder_kind larder_head(struct larder *l, const char *uri, int timeout_ms, struct larder_meta **out,
                             struct larder_err *err)
{
    char text[LDR_URI_MAX + 1];
    struct larder_meta *m = calloc(1, sizeof *m);
    enum ldr_hit hit;
    enum larder_kind k;

    if (!m)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for metadata");
    ldr_meta_init(&m->meta);
    m->exists = true;
    k = ldr_get_meta(l, uri, text, &hit, &m->meta, err);
    if (!k && hit != LDR_HIT)
        k = ask(l, text, timeout_ms, m, err);
    if (!k && !decode(m))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for metadata");
    if (!k) {
        *out = m;
        m = NULL;
    }
    larder_meta_free(&m);
    return k;
}

int larder_meta_exists(const struct larder_meta *m)
{
    return m->exists;
}

uint64_t larder_meta_size(const struct larder_meta *m)
{
    return m->meta.size_bytes;
}

int64_t larder_meta_last_modified(const struct larder_meta *m)
{
    return m->meta.last_modified_s;
}

const char *larder_meta_text(const struct larder_meta *m, enum larder_meta_field field)
{
    return (unsigned)field < N_TEXTS ? m->text[field] : NULL;
}

int larder_meta_user(const struct larder_meta *m, size_t i, const char **name, const char **value)
{
    if (i >= m->n_user)
        return 0;
    *name = m->user[2 * i];
    *value = m->user[2 * i + 1];
    return 1;
}

void larder_meta_free(struct larder_meta **pm)
{
    struct larder_meta *m = pm ? *pm : NULL;

    if (!m)
        return;
    *pm = NULL;
    ldr_meta_release(&m->meta);
    free(m->user);
    free(m->strings);
    free(m);
}
