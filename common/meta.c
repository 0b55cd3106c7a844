/* meta.c - see meta.h. Bytes here come from stores, files and peers: each length is checked before it is used. */
#include "common/meta.h"

#include <string.h>

#define FIELD_HEAD 3 /* tag, length */

void ldr_meta_init(struct ldr_meta *m)
{
    *m = (struct ldr_meta){ .last_modified_s = LDR_TIME_UNKNOWN, .fields = LDR_BUF_INIT(LDR_META_MAX) };
}

void ldr_meta_release(struct ldr_meta *m)
{
    ldr_buf_release(&m->fields);
    ldr_meta_init(m);
}

/* Pairs hold one NUL, behind a name that is not empty; texts hold none. */
static bool field_ok(uint8_t tag, const uint8_t *p, size_t n)
{
    const uint8_t *nul = n ? memchr(p, 0, n) : NULL;

    if (tag == LDR_TAG_CHECKSUM || tag == LDR_TAG_USER)
        return nul && nul > p && !memchr(nul + 1, 0, n - (size_t)(nul - p) - 1);
    return tag > LDR_TAG_KEY || !nul;
}

bool ldr_meta_add(struct ldr_meta *m, enum ldr_tag tag, const void *p, size_t n)
{
    uint8_t head[FIELD_HEAD] = { (uint8_t)tag, (uint8_t)n, (uint8_t)(n >> 8) };

    if (n > UINT16_MAX || !field_ok((uint8_t)tag, p, n) || !ldr_buf_reserve(&m->fields, FIELD_HEAD + n))
        return false;
    return ldr_buf_add(&m->fields, head, FIELD_HEAD) && ldr_buf_add(&m->fields, p, n);
}

bool ldr_meta_add_text(struct ldr_meta *m, enum ldr_tag tag, const char *text)
{
    return ldr_meta_add(m, tag, text, strlen(text));
}

bool ldr_meta_add_pair(struct ldr_meta *m, enum ldr_tag tag, const char *name, const char *value)
{
    size_t nl = strlen(name), vl = strlen(value), n = nl + 1 + vl;
    uint8_t head[FIELD_HEAD] = { (uint8_t)tag, (uint8_t)n, (uint8_t)(n >> 8) };

    if (nl == 0 || nl > UINT16_MAX || vl > UINT16_MAX || n > UINT16_MAX || !ldr_buf_reserve(&m->fields, FIELD_HEAD + n))
        return false;
    return ldr_buf_add(&m->fields, head, FIELD_HEAD) && ldr_buf_add(&m->fields, name, nl + 1) &&
           ldr_buf_add(&m->fields, value, vl);
}

bool ldr_meta_copy(struct ldr_meta *to, const struct ldr_meta *from)
{
    ldr_meta_release(to);
    to->size_bytes = from->size_bytes;
    to->last_modified_s = from->last_modified_s;
    return ldr_buf_add(&to->fields, from->fields.p, from->fields.len);
}

bool ldr_fields_next(const uint8_t *fields, size_t len, size_t *pos, struct ldr_field *out)
{
    size_t left = len - *pos, n;

    if (*pos >= len || left < FIELD_HEAD)
        return false;
    n = (size_t)fields[*pos + 1] | (size_t)fields[*pos + 2] << 8;
    if (n > left - FIELD_HEAD)
        return false;
    *out = (struct ldr_field){ .tag = fields[*pos], .p = fields + *pos + FIELD_HEAD, .len = n };
    *pos += FIELD_HEAD + n;
    return true;
}

bool ldr_fields_valid(const uint8_t *fields, size_t len)
{
    struct ldr_field f;
    size_t pos = 0;

    if (len > LDR_META_MAX)
        return false;
    while (ldr_fields_next(fields, len, &pos, &f))
        if (!field_ok(f.tag, f.p, f.len))
            return false;
    return pos == len;
}

bool ldr_fields_find(const uint8_t *fields, size_t len, enum ldr_tag tag, struct ldr_field *out)
{
    size_t pos = 0;

    while (ldr_fields_next(fields, len, &pos, out))
        if (out->tag == tag)
            return true;
    return false;
}

bool ldr_meta_text(const struct ldr_meta *m, enum ldr_tag tag, char *out, size_t cap)
{
    struct ldr_field f;

    if (cap)
        out[0] = '\0';
    if (!ldr_fields_find(m->fields.p, m->fields.len, tag, &f) || f.len >= cap)
        return false;
    memcpy(out, f.p, f.len);
    out[f.len] = '\0';
    return true;
}
