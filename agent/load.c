/* load.c - see load.h. What happens, in order:
 *   join → open_object (nothing is known) or open_base (the cache has some of its blocks)
 *   → opened: the version is fixed, waiters are placed → pump: a pull for each block that is wanted, some at a time
 *   → a pull: reserve → fetch → filled → check → commit → block_there: waiters whose range is complete are answered
 *   → settle: nobody waits, nothing is under way: the load ends
 * Waiters are in load_wait.c, pulls in load_pull.c, checksums in load_check.c. */
#include "agent/load_impl.h"
#include "agent/fresh.h"
#include "agent/known.h"
#include "common/clock.h"
#include "common/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

static void settle(struct ldr_load *l);

/* ---------- kept and published ---------- */

static void make_record(struct ldr_load *l, struct ldr_record *r, int64_t confirmed_ns)
{
    *r = (struct ldr_record){ .id = l->id,
                              .size_bytes = l->meta.size_bytes,
                              .last_modified_s = l->meta.last_modified_s,
                              .block_log2 = l->log2,
                              .prefix = (uint8_t)l->name->policy->slot,
                              .fields = l->meta.fields.p,
                              .fields_len = l->meta.fields.len };
    ldr_fresh_set(r, l->name->policy, ldr_index_boot(l->domain->index), confirmed_ns);
    l->fresh_until_ns = r->fresh_until_ns;
}

void ldr_load_to_index(struct ldr_load *l, struct ldr_change *c, enum ldr_change_what what,
                       void (*done)(struct ldr_change *c), void *user)
{
    c->what = what;
    c->key = l->name->ikey;
    c->key_len = l->name->ikey_len;
    c->skip = &l->no_store;
    c->done = done;
    c->user = user;
    l->busy++;
    ldr_index_change(l->domain->index, c);
}

static void count_unkept(struct ldr_load *l, const struct ldr_change *c)
{
    if (c->kind == LARDER_CANCELLED)
        ldr_count(&l->domain->counters, not_stored, 1);
    else
        ldr_count(&l->domain->counters, uncached_full, 1);
}

/* A block is in the index, or is not wanted there. */
static void committed_on_ipc(struct ldr_task *t)
{
    struct ldr_filled *x = LDR_CONTAINER(t, struct ldr_filled, task);
    struct ldr_load *l = x->user;
    struct ldr_change *c = &x->change;
    bool single = l->n_blocks == 1;

    ldr_hold_unref(&c->hold);
    if (single) {
        ldr_filled_free(&l->only);
        l->only = x; /* its descriptor has the bytes, whatever became of its name */
    }
    if (!c->kind) {
        ldr_count(&l->domain->counters, published, c->what == LDR_CHANGE_PUT);
        l->txnid = c->txnid > l->txnid ? c->txnid : l->txnid;
        ldr_load_block_there(l, x->block);
    } else if (single) {
        struct ldr_answer a = ldr_load_not_in_cache(l, c->err.msg);

        count_unkept(l, c);
        l->joinable = false;
        ldr_load_block_failed(l, 0, &a);
    } else {
        l->state[x->block] = LDR_ABSENT;
        if (c->what == LDR_CHANGE_PUT)
            count_unkept(l, c);
        if (c->what == LDR_CHANGE_PUT && c->kind != LARDER_CANCELLED) { /* no record, so no block either */
            struct ldr_answer a = ldr_load_not_in_cache(l, c->err.msg);

            l->joinable = false;
            ldr_load_tell_all(l, &a);
        } else if (c->kind == LARDER_CANCELLED) {
            ldr_load_restart_all(l, false); /* a write came in between, or the record went */
        } else {
            struct ldr_answer a = ldr_load_not_in_cache(l, c->err.msg);

            ldr_load_block_failed(l, x->block, &a);
        }
    }
    if (!single)
        ldr_filled_free(&x);
    ldr_load_finish(l);
}

static void committed_on_index(struct ldr_change *c)
{
    struct ldr_filled *x = LDR_CONTAINER(c, struct ldr_filled, change);

    x->task.run = committed_on_ipc;
    ldr_mailbox_post(&x->domain->ipc_box, &x->task);
}

void ldr_load_lose_block(struct ldr_load *l, struct ldr_filled *x)
{
    struct ldr_answer a = ldr_load_not_in_cache(l, x->err.msg);

    a.fd = -1;
    a.mem = NULL;
    ldr_load_block_failed(l, x->block, &a);
    ldr_filled_free(&x);
}

void ldr_load_commit_block(struct ldr_load *l, struct ldr_filled *x, int64_t confirmed_ns)
{
    enum ldr_change_what what = l->published ? LDR_CHANGE_BLOCK : LDR_CHANGE_PUT;

    make_record(l, &x->change.record, confirmed_ns);
    x->change.block = x->block;
    x->change.block_hash = x->fill.hash;
    x->change.hold = ldr_load_hold_of_block(l, x->block);
    x->user = l;
    x->indexed = true;
    l->published = true; /* changes are applied in the order posted */
    ldr_load_to_index(l, &x->change, what, committed_on_index, x);
}

/* ---------- an inline object, or a confirmed record ---------- */

static void noted_on_index(struct ldr_change *c)
{
    struct ldr_load *l = c->user;

    ldr_mailbox_post(&l->domain->ipc_box, &l->task);
}

static void inline_on_ipc(struct ldr_task *t)
{
    struct ldr_load *l = LDR_CONTAINER(t, struct ldr_load, task);
    struct ldr_answer a;

    if (l->change.kind) {
        count_unkept(l, &l->change);
        a = ldr_load_not_in_cache(l, l->change.err.msg);
    } else {
        ldr_count(&l->domain->counters, published, 1);
        l->published = true;
        l->txnid = l->change.txnid;
        a = ldr_load_in_cache(l);
    }
    l->joinable = false; /* all is said */
    ldr_load_tell_all(l, &a);
    ldr_load_finish(l);
}

/* The version becomes known: take it over from the answer. */
bool ldr_load_learn(struct ldr_load *l, const struct ldr_meta *meta)
{
    l->log2 = ldr_block_log2_for(meta->size_bytes, (uint8_t)__builtin_ctzll(l->domain->cfg->block_size));
    l->open = ldr_meta_copy(&l->meta, meta);
    return l->open;
}

void ldr_load_publish_inline(struct ldr_load *l, const struct ldr_fetch *f)
{
    struct ldr_record *r = &l->change.record;

    make_record(l, r, f->confirmed_ns);
    r->flags = LDR_FLAG_INLINE;
    r->payload = f->mem;
    r->payload_len = f->mem_len;
    r->payload_hash = ldr_hash64(f->mem, f->mem_len);
    l->task.run = inline_on_ipc;
    ldr_load_to_index(l, &l->change, LDR_CHANGE_PUT, noted_on_index, l);
}

/* ---------- a known version ---------- */

enum larder_kind ldr_load_open_version(struct ldr_load *l, struct larder_err *err)
{
    struct ldr_field v;

    l->n_blocks = l->meta.size_bytes ? (uint32_t)(((l->meta.size_bytes - 1) >> l->log2) + 1) : 0;
    l->state = calloc(l->n_blocks ? l->n_blocks : 1, 1);
    l->ahead_from = l->n_blocks;
    if (!l->state)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (ldr_fields_find(l->meta.fields.p, l->meta.fields.len, LDR_TAG_VALIDATOR, &v) &&
        ldr_validator_strong(v.p, v.len) && !(l->name->backend->ops->caps & LDR_CAP_STREAM_ONLY)) {
        l->validator = strndup((const char *)v.p, v.len);
        if (!l->validator)
            return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    }
    return LARDER_OK;
}

/* Take the version that the cache has, blocks and all. */
static enum larder_kind open_base(struct ldr_load *l, const struct ldr_record *rec, uint64_t txnid,
                                  struct larder_err *err)
{
    struct ldr_meta meta = ldr_known_meta(rec);
    enum larder_kind k;

    l->id = rec->id;
    l->log2 = rec->block_log2;
    l->txnid = txnid;
    l->published = true;
    l->is_inline = rec->flags & LDR_FLAG_INLINE;
    l->fresh_until_ns = rec->fresh_until_ns;
    l->open = ldr_meta_copy(&l->meta, &meta);
    if (!l->open)
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory");
    if (rec->flags & LDR_FLAG_INLINE) { /* a record without blocks: nothing is missing */
        l->log2 = LDR_BLOCK_LOG2_MAX;
        k = ldr_load_open_version(l, err);
        for (uint32_t b = 0; !k && b < l->n_blocks; b++)
            l->state[b] = LDR_THERE;
        return k;
    }
    k = ldr_load_open_version(l, err);
    if (!k && l->n_blocks)
        ldr_reader_blocks(l->domain->reader, &l->id, 0, l->n_blocks, l->state);
    for (uint32_t b = 0; !k && b < l->n_blocks; b++)
        l->state[b] = l->state[b] ? LDR_THERE : LDR_ABSENT;
    return k;
}

/* Let another load of the same version serve the waiters. */
static void hand_to(struct ldr_load *l, struct ldr_load *other)
{
    struct ldr_waiter *list;

    l->joinable = false;
    ldr_load_take_all(l, &list);
    while (list) {
        struct ldr_waiter *w = list;

        DL_DELETE(list, w);
        ldr_load_let_go(l, w);
        ldr_load_join(other, w);
    }
}

/* The store still has what the cache has: it is fresh again. */
static void confirmed_on_ipc(struct ldr_task *t)
{
    struct ldr_load *l = LDR_CONTAINER(t, struct ldr_load, task), *same;
    struct larder_err e;
    struct ldr_record rec;
    uint64_t txnid;
    enum larder_kind k;

    /* An index without room leaves the record stale, and its bytes are right all the same. */
    if (l->change.kind == LARDER_CANCELLED || !ldr_known_find(l->domain, l->name, &rec, &txnid) ||
        memcmp(&rec.id, &l->change.record.id, sizeof rec.id)) {
        ldr_load_restart_all(l, false); /* replaced or evicted meanwhile */
        ldr_load_finish(l);
        return;
    }
    k = open_base(l, &rec, txnid, &e);
    l->fresh_until_ns = l->change.record.fresh_until_ns;
    same = k ? NULL : ldr_flight_same_version(l);
    if (k)
        ldr_load_fail_all(l, k, &e);
    else if (same)
        hand_to(l, same);
    else
        ldr_load_place_all(l);
    ldr_load_finish(l);
}

void ldr_load_confirm(struct ldr_load *l, const struct ldr_fetch *f)
{
    struct ldr_record *r = &l->change.record;
    struct larder_err e;

    if (!ldr_record_unpack(l->base, l->base_len, l->name->ikey, l->name->ikey_len, r)) {
        ldr_load_fail_all(l, ldr_fail(&e, LARDER_INTERNAL, "a record was lost"), &e);
        return;
    }
    ldr_fresh_set(r, l->name->policy, ldr_index_boot(l->domain->index),
                  f->confirmed_ns ? f->confirmed_ns : ldr_boot_ns());
    r->prefix = (uint8_t)l->name->policy->slot;
    ldr_count(&l->domain->counters, confirmed, 1);
    l->task.run = confirmed_on_ipc;
    ldr_load_to_index(l, &l->change, LDR_CHANGE_UPDATE, noted_on_index, l);
}

/* ---------- begin and end ---------- */

struct ldr_load *ldr_load_new(struct ldr_domain *d, struct ldr_name *name, bool anew, bool no_store)
{
    struct ldr_load *l = calloc(1, sizeof *l);

    if (!l)
        return NULL;
    l->domain = d;
    l->name = ldr_name_ref(name);
    l->anew = anew;
    l->joinable = true;
    atomic_init(&l->no_store, no_store);
    ldr_meta_init(&l->meta);
    return l;
}

static void load_free(struct ldr_load *l)
{
    assert(!l->busy && !l->waiters && !l->holds);
    ldr_load_check_release(l);
    ldr_fetch_free(&l->opener);
    ldr_filled_free(&l->only);
    ldr_meta_release(&l->meta);
    ldr_name_unref(&l->name);
    free(l->validator);
    free(l->base_validator);
    free(l->base);
    free(l->state);
    free(l);
}

/* Nobody waits, nothing is under way: it is over. */
static void settle(struct ldr_load *l)
{
    struct larder_err e;

    if (l->busy)
        return;
    if (l->waiters) { /* there is nothing left that could answer them */
        l->busy++;
        ldr_load_fail_all(l, ldr_fail(&e, LARDER_INTERNAL, "the load of \"%.200s\" stopped", l->name->text), &e);
        l->busy--;
    }
    ldr_flight_load_ended(l);
    load_free(l);
}

/* The end of an event of which one count of `busy` is. */
void ldr_load_finish(struct ldr_load *l)
{
    ldr_load_pump(l);
    l->busy--;
    settle(l);
}

/* A copy of the stale record, to be confirmed by the store. False: it cannot be, or there is no memory. */
static bool keep_base(struct ldr_load *l, const struct ldr_record *rec)
{
    struct ldr_field v;

    if (!ldr_fields_find(rec->fields, rec->fields_len, LDR_TAG_VALIDATOR, &v) || v.len == 0)
        return false;
    l->base_len = ldr_record_len(rec);
    l->base = malloc(l->base_len);
    l->base_validator = strndup((const char *)v.p, v.len);
    if (!l->base || !l->base_validator)
        return false;
    ldr_record_pack(rec, l->name->ikey, l->name->ikey_len, l->base);
    return true;
}

static void start(struct ldr_load *l, const struct ldr_waiter *w)
{
    struct ldr_record rec;
    struct larder_err e;
    uint64_t txnid;
    bool known = !l->anew && !w->reread && ldr_known_find(l->domain, l->name, &rec, &txnid);
    bool pinned = known && w->validator; /* of one version, whatever the store has by now */

    if (known && (ldr_known_fresh(l->domain, &rec) || pinned)) {
        enum larder_kind k = open_base(l, &rec, txnid, &e);

        if (k)
            ldr_load_fail_all(l, k, &e);
        else
            ldr_load_place_all(l);
        return;
    }
    l->id = ldr_index_new_id(l->domain->index);
    if (known && !keep_base(l, &rec)) {
        free(l->base);
        l->base = NULL;
        free(l->base_validator);
        l->base_validator = NULL;
    }
    ldr_load_check_expect(l, w);
    ldr_load_open_object(l, l->reread ? 0 : w->offset);
}

void ldr_load_join(struct ldr_load *l, struct ldr_waiter *w)
{
    bool first = !l->open && !l->busy && !l->opener;

    l->busy++; /* it is not freed in the middle of this */
    w->load = l;
    w->left = 0;
    DL_APPEND(l->waiters, w);
    if (first)
        start(l, w);
    else if (l->open && l->state)
        ldr_load_place(l, w);
    ldr_load_finish(l);
}

void ldr_load_leave(struct ldr_load *l, struct ldr_waiter *w)
{
    DL_DELETE(l->waiters, w);
    ldr_load_let_go(l, w);
    settle(l);
}
