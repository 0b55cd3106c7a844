/* reply.c - see reply.h. */
#include "agent/reply.h"

#include <stdio.h>
#include <stdlib.h>

void ldr_reply_stamp(const struct ldr_domain *d, ldr_wire_reply *m, uint64_t txnid, const struct ldr_id *id)
{
    m->nonce = ldr_index_nonce(d->index);
    m->txnid = txnid;
    if (id) {
        m->object_id.data = (uint8_t *)id->b;
        m->object_id.len = sizeof id->b;
    }
}

void ldr_reply_look(struct ldr_request *r, uint64_t txnid, const struct ldr_id *id)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Look look = LARDER__WIRE__LOOK__INIT;

    ldr_reply_stamp(r->domain, &m, txnid, id);
    m.body_case = LARDER__WIRE__REPLY__BODY_LOOK;
    m.look = &look;
    ldr_ipc_reply(r, &m);
}

void ldr_reply_bytes(struct ldr_request *r, const struct ldr_meta *meta, uint64_t offset, const void *data, size_t len,
                     const char *why, uint64_t txnid, const struct ldr_id *id)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Bytes bytes = LARDER__WIRE__BYTES__INIT;
    Larder__Wire__Meta wm;

    ldr_wire_set_meta(meta, &wm);
    ldr_reply_stamp(r->domain, &m, txnid, id);
    bytes.meta = &wm;
    bytes.offset = offset;
    bytes.data.data = (uint8_t *)data;
    bytes.data.len = len;
    bytes.why = (char *)why;
    m.body_case = LARDER__WIRE__REPLY__BODY_BYTES;
    m.bytes = &bytes;
    ldr_count(&r->domain->counters, bytes_sent, len);
    ldr_ipc_reply(r, &m);
}

void ldr_reply_meta(struct ldr_request *r, const struct ldr_meta *meta)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Meta wm;

    ldr_wire_set_meta(meta, &wm);
    ldr_reply_stamp(r->domain, &m, 0, NULL);
    m.body_case = LARDER__WIRE__REPLY__BODY_META;
    m.meta = &wm;
    ldr_ipc_reply(r, &m);
}

void ldr_reply_page(struct ldr_request *r, const struct ldr_page *page)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__Page p = LARDER__WIRE__PAGE__INIT;
    Larder__Wire__Entry *entry = calloc(page->n + 1, sizeof *entry), **ptr = calloc(page->n + 1, sizeof *ptr);
    struct larder_err e;

    for (size_t i = 0; i < page->n && entry && ptr; i++) {
        const struct ldr_list_entry *from = &page->entries[i];

        larder__wire__entry__init(&entry[i]);
        entry[i].key = from->key;
        entry[i].is_prefix = from->is_prefix;
        entry[i].size = from->size_bytes;
        entry[i].last_modified_known = !from->is_prefix && from->last_modified_s != LDR_TIME_UNKNOWN;
        entry[i].last_modified = entry[i].last_modified_known ? from->last_modified_s : 0;
        if (from->etag)
            entry[i].etag = from->etag;
        ptr[i] = &entry[i];
    }
    p.n_entry = page->n;
    p.entry = ptr;
    if (page->next)
        p.next = page->next;
    ldr_reply_stamp(r->domain, &m, 0, NULL);
    m.body_case = LARDER__WIRE__REPLY__BODY_PAGE;
    m.page = &p;
    if (entry && ptr)
        ldr_ipc_reply(r, &m);
    else
        ldr_ipc_reply_fail(r, ldr_fail(&e, LARDER_NO_MEMORY, "out of memory"), &e);
    free(entry);
    free(ptr);
}

void ldr_reply_done(struct ldr_request *r)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;

    ldr_reply_stamp(r->domain, &m, 0, NULL);
    ldr_ipc_reply(r, &m);
}

void ldr_items_add(struct ldr_items *s, const char *name, const char *text, uint64_t number)
{
    Larder__Wire__StatusItem *i = &s->item[s->n];

    if (s->n == LDR_ITEMS_MAX)
        return;
    larder__wire__status_item__init(i);
    i->name = (char *)name;
    i->value_case = text ? LARDER__WIRE__STATUS_ITEM__VALUE_TEXT : LARDER__WIRE__STATUS_ITEM__VALUE_NUMBER;
    if (text)
        i->text = (char *)text;
    else
        i->number = number;
    s->ptr[s->n++] = i;
}

void ldr_items_add2(struct ldr_items *s, const char *first, const char *second, const char *text, uint64_t number)
{
    if (s->n == LDR_ITEMS_MAX)
        return;
    snprintf(s->texts[s->n], sizeof s->texts[0], "%s%s", first, second);
    ldr_items_add(s, s->texts[s->n], text, number);
}

void ldr_reply_items(struct ldr_request *r, struct ldr_items *s)
{
    ldr_wire_reply m = LARDER__WIRE__REPLY__INIT;
    Larder__Wire__StatusReply st = LARDER__WIRE__STATUS_REPLY__INIT;

    st.n_item = s->n;
    st.item = s->ptr;
    ldr_reply_stamp(r->domain, &m, 0, NULL);
    m.body_case = LARDER__WIRE__REPLY__BODY_STATUS_REPLY;
    m.status_reply = &st;
    ldr_ipc_reply(r, &m);
}
