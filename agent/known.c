/* known.c - see known.h. */
#include "agent/known.h"
#include "common/clock.h"
#include "common/log.h"

#include <stdlib.h>
#include <string.h>

/* A change that no request waits for. */
struct lone_change {
    struct ldr_change change;
    struct ldr_task task;
    struct ldr_domain *domain;
    struct ldr_name *name;
    uint8_t bytes[]; /* what an updated record points to */
};

static void change_done_on_ipc(struct ldr_task *t)
{
    struct lone_change *l = LDR_CONTAINER(t, struct lone_change, task);

    l->domain->lone_changes--;
    ldr_name_unref(&l->name);
    free(l);
}

static void change_done_on_index(struct ldr_change *c)
{
    struct lone_change *l = c->user;

    l->task.run = change_done_on_ipc;
    ldr_mailbox_post(&l->domain->ipc_box, &l->task);
}

static struct lone_change *lone_change_new(struct ldr_domain *d, struct ldr_name *name, enum ldr_change_what what,
                                           size_t bytes)
{
    struct lone_change *l = calloc(1, sizeof *l + bytes);

    if (!l)
        return NULL;
    l->domain = d;
    l->name = ldr_name_ref(name);
    l->change.what = what;
    l->change.key = l->name->ikey;
    l->change.key_len = l->name->ikey_len;
    l->change.done = change_done_on_index;
    l->change.user = l;
    d->lone_changes++;
    return l;
}

void ldr_known_drop(struct ldr_domain *d, struct ldr_name *name, const struct ldr_id *only)
{
    struct lone_change *l = lone_change_new(d, name, LDR_CHANGE_REMOVE, 0);

    if (!l)
        return;
    l->change.only_id = only != NULL;
    if (only)
        l->change.record.id = *only;
    ldr_index_change(d->index, &l->change);
}

static void dropped_damaged(struct ldr_domain *d, const struct ldr_name *name)
{
    ldr_count(&d->counters, damaged, 1);
    ldr_log(LDR_WARN, "serve", "dropped a damaged entry of the cache uri=\"%s\"", name->text);
}

/* Two names may share a shortened index key. */
static bool is_of(const struct ldr_record *rec, const struct ldr_name *n)
{
    struct ldr_field f;

    return !ldr_name_shortened(n) || (ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_KEY, &f) &&
                                      f.len == n->text_len && !memcmp(f.p, n->text, f.len));
}

bool ldr_known_find(struct ldr_domain *d, struct ldr_name *name, struct ldr_record *rec, uint64_t *txnid)
{
    enum larder_kind k = ldr_reader_find(d->reader, name->ikey, name->ikey_len, rec, txnid);

    if (k == LARDER_CORRUPT) {
        dropped_damaged(d, name);
        ldr_known_drop(d, name, NULL);
    }
    return !k && is_of(rec, name);
}

bool ldr_known_fresh(const struct ldr_domain *d, const struct ldr_record *rec)
{
    return ldr_record_fresh(rec, ldr_index_boot(d->index), ldr_boot_ns());
}

bool ldr_known_range(struct ldr_domain *d, const struct ldr_record *rec, uint64_t offset, uint64_t length)
{
    uint64_t size = rec->size_bytes, end;
    uint8_t there[LDR_BLOCKS_MAX];
    uint32_t first, n;

    if (ldr_record_blocks(rec) == 0 || offset >= size)
        return true;
    end = length && length < size - offset ? offset + length : size;
    first = (uint32_t)(offset >> rec->block_log2);
    n = (uint32_t)((end - 1) >> rec->block_log2) - first + 1;
    return ldr_reader_blocks(d->reader, &rec->id, first, n, there) == n;
}

struct ldr_meta ldr_known_meta(const struct ldr_record *rec)
{
    return (struct ldr_meta){ .size_bytes = rec->size_bytes,
                              .last_modified_s = rec->last_modified_s,
                              .fields = { .p = (uint8_t *)rec->fields, .len = rec->fields_len } };
}

static bool same_version(const struct ldr_record *rec, const struct ldr_meta *meta)
{
    struct ldr_field a, b;

    return rec->size_bytes == meta->size_bytes &&
           ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_VALIDATOR, &a) &&
           ldr_fields_find(meta->fields.p, meta->fields.len, LDR_TAG_VALIDATOR, &b) && a.len == b.len &&
           !memcmp(a.p, b.p, a.len);
}

/* The change is posted from here, so it stands before the intent of any later write. */
void ldr_known_complete(struct ldr_domain *d, struct ldr_name *name, const struct ldr_meta *meta)
{
    struct ldr_record rec;
    struct lone_change *l;
    size_t key_len = ldr_name_shortened(name) ? name->text_len + 3 : 0;
    uint64_t txnid;

    if (!ldr_known_find(d, name, &rec, &txnid) || !(rec.flags & LDR_FLAG_LM_UNKNOWN) || !same_version(&rec, meta) ||
        meta->fields.len + key_len > LDR_META_MAX ||
        LDR_RECORD_FIXED + meta->fields.len + key_len + rec.payload_len > ldr_index_limit(d->index))
        return;
    l = lone_change_new(d, name, LDR_CHANGE_UPDATE, meta->fields.len + key_len + rec.payload_len);
    if (!l)
        return;
    memcpy(l->bytes, meta->fields.p, meta->fields.len);
    if (key_len) {
        struct ldr_meta m;

        ldr_meta_init(&m);
        if (ldr_meta_add(&m, LDR_TAG_KEY, name->text, name->text_len))
            memcpy(l->bytes + meta->fields.len, m.fields.p, key_len);
        ldr_meta_release(&m);
    }
    l->change.record = rec;
    l->change.record.flags &= ~LDR_FLAG_LM_UNKNOWN;
    l->change.record.last_modified_s = meta->last_modified_s;
    l->change.record.fields = l->bytes;
    l->change.record.fields_len = meta->fields.len + key_len;
    if (rec.payload_len)
        memcpy(l->bytes + l->change.record.fields_len, rec.payload, rec.payload_len);
    l->change.record.payload = l->bytes + l->change.record.fields_len;
    ldr_index_change(d->index, &l->change);
}
