/* apply.c - see apply.h. */
#include "agent/apply.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FIGURES_KEY ((MDB_val){ 2, (void *)"\001s" })
#define ID_AT       16 /* of a record: record.h */
#define BLOCKS_A_CHECK                                                                                                 \
    16 /* deleted block records between two questions for pages: about as many as a page holds at least */

/* Measured (docs/design/storage.md): whole pages above about half a page. */
uint64_t ldr_apply_charge(size_t key_len, size_t value_len)
{
    if (value_len > 1950)
        return (value_len + 16 + LDR_PAGE - 1) / LDR_PAGE * LDR_PAGE + key_len + 64;
    return (key_len + value_len + 8) * 8 / 5;
}

uint64_t ldr_apply_block_charge(void)
{
    return ldr_apply_charge(LDR_BLOCK_KEY_LEN, LDR_BLOCK_VALUE_LEN);
}

static bool adds(const struct ldr_change *c)
{
    return c->what == LDR_CHANGE_PUT || c->what == LDR_CHANGE_BLOCK;
}

static bool carries_block(const struct ldr_change *c)
{
    return c->what == LDR_CHANGE_BLOCK || (c->what == LDR_CHANGE_PUT && ldr_record_blocks(&c->record) > 0);
}

uint64_t ldr_apply_cost(const struct ldr_change *c)
{
    uint64_t n = 0;

    if (c->what == LDR_CHANGE_PUT || c->what == LDR_CHANGE_UPDATE)
        n = ldr_apply_charge(c->key_len, ldr_record_len(&c->record));
    return carries_block(c) ? n + ldr_apply_block_charge() : n;
}

static void note(struct ldr_apply *a, struct ldr_effect e)
{
    if (a->n_effects == a->cap_effects) {
        a->cap_effects = a->cap_effects ? 2 * a->cap_effects : 256;
        a->effects = realloc(a->effects, a->cap_effects * sizeof *a->effects);
        assert(a->effects);
    }
    a->effects[a->n_effects++] = e;
}

/* The file of a change that was not applied. */
static void note_file_of(struct ldr_apply *a, const struct ldr_change *c)
{
    if (carries_block(c))
        note(a, (struct ldr_effect){ .what = LDR_EFFECT_FILE,
                                     .id = c->record.id,
                                     .block = c->block,
                                     .bytes = ldr_record_block_len(&c->record, c->block) });
}

void ldr_apply_failed(struct ldr_apply *a, struct ldr_change *c, int rc)
{
    c->kind = ldr_fail(&c->err, LARDER_IO, "could not write the index: %s", mdb_strerror(rc));
    note_file_of(a, c);
}

static void less(uint64_t *figure, uint64_t n)
{
    *figure -= n < *figure ? n : *figure; /* a damaged record may have been counted otherwise */
}

/* ---------- taking out ---------- */

int ldr_apply_delete(struct ldr_apply *a, const void *key_bytes, size_t key_len)
{
    MDB_val key = { key_len, (void *)key_bytes };
    int rc = mdb_del(a->txn, a->dbi, &key, NULL);

    return rc == MDB_NOTFOUND ? 0 : rc;
}

bool ldr_apply_is_block(const MDB_val *key, const struct ldr_id *id, uint32_t *block)
{
    uint8_t want[LDR_BLOCK_KEY_LEN];
    const uint8_t *p = key->mv_data;

    ldr_block_key(id, 0, want);
    if (key->mv_size != sizeof want || memcmp(p, want, sizeof want - 4))
        return false;
    p += sizeof want - 4;
    *block = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    return true;
}

/* A block record is gone: its file follows. */
static void block_gone(struct ldr_apply *a, const struct ldr_id *id, uint32_t block, const MDB_val *val)
{
    uint64_t length = 0, hash;

    if (!ldr_block_read(val->mv_data, val->mv_size, &length, &hash))
        ldr_count(a->counters, damaged, 1);
    less(&a->figures.blocks, 1);
    less(&a->figures.block_bytes, ldr_space_charge(length));
    less(&a->figures.inline_charge, ldr_apply_block_charge());
    note(a, (struct ldr_effect){ .what = LDR_EFFECT_FILE, .id = *id, .block = block, .bytes = length });
}

/* All block records of an id, by one walk. */
static int take_blocks(struct ldr_apply *a, const struct ldr_id *id)
{
    uint8_t first[LDR_BLOCK_KEY_LEN];
    MDB_val key = { sizeof first, first }, val;
    MDB_cursor *cur;
    uint32_t block;
    size_t n = 0;
    int rc = mdb_cursor_open(a->txn, a->dbi, &cur);

    if (rc)
        return rc;
    ldr_block_key(id, 0, first);
    rc = mdb_cursor_get(cur, &key, &val, MDB_SET_RANGE);
    while (!rc && ldr_apply_is_block(&key, id, &block)) {
        block_gone(a, id, block, &val);
        rc = mdb_cursor_del(cur, 0);
        if (!rc && ++n % BLOCKS_A_CHECK == 0 && a->room && !a->more_pages(a->user, 2))
            rc = ENOSPC;
        if (!rc)
            rc = mdb_cursor_get(cur, &key, &val, MDB_NEXT); /* the one that took its place */
    }
    mdb_cursor_close(cur);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* A damaged record goes too, with the blocks of the id that it shows: if that is damaged as well, there are none. */
int ldr_apply_take_out(struct ldr_apply *a, const void *key_bytes, size_t key_len, const struct ldr_id *only)
{
    MDB_val key = { key_len, (void *)key_bytes }, val;
    struct ldr_record old;
    struct ldr_id id = { 0 };
    bool sound, blocks = true;
    int rc = mdb_get(a->txn, a->dbi, &key, &val);

    if (rc)
        return rc == MDB_NOTFOUND ? 0 : rc;
    sound = ldr_record_unpack(val.mv_data, val.mv_size, key_bytes, key_len, &old);
    if (sound) {
        if (only && memcmp(only, &old.id, sizeof *only))
            return 0;
        id = old.id;
        blocks = ldr_record_blocks(&old) > 0;
    } else {
        ldr_count(a->counters, damaged, 1);
        if (val.mv_size >= ID_AT + sizeof id)
            memcpy(&id, (const uint8_t *)val.mv_data + ID_AT, sizeof id);
    }
    less(&a->figures.objects, 1);
    less(&a->figures.inline_charge, ldr_apply_charge(key_len, val.mv_size));
    rc = blocks ? take_blocks(a, &id) : 0;
    note(a, (struct ldr_effect){ .what = LDR_EFFECT_GONE, .id = id });
    return rc ? rc : ldr_apply_delete(a, key_bytes, key_len);
}

/* Is it still that version? *now: its record, valid until the next change. */
static int find_version(struct ldr_apply *a, const void *key_bytes, size_t key_len, const struct ldr_id *id, bool *is,
                        MDB_val *now)
{
    MDB_val key = { key_len, (void *)key_bytes };
    struct ldr_record r;
    int rc = mdb_get(a->txn, a->dbi, &key, now);

    *is =
        !rc && ldr_record_unpack(now->mv_data, now->mv_size, key_bytes, key_len, &r) && !memcmp(&r.id, id, sizeof *id);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Take one block out, and the record with it when it was the last one. */
static int take_block(struct ldr_apply *a, const void *key_bytes, size_t key_len, const struct ldr_id *id,
                      uint32_t block)
{
    uint8_t k[LDR_BLOCK_KEY_LEN];
    MDB_val key = { sizeof k, k }, val;
    MDB_cursor *cur;
    uint32_t other;
    bool last;
    int rc;

    ldr_block_key(id, block, k);
    rc = mdb_get(a->txn, a->dbi, &key, &val);
    if (rc)
        return rc == MDB_NOTFOUND ? 0 : rc;
    block_gone(a, id, block, &val);
    note(a, (struct ldr_effect){ .what = LDR_EFFECT_UNBLOCK, .id = *id, .block = block });
    rc = mdb_del(a->txn, a->dbi, &key, NULL);
    if (!rc)
        rc = mdb_cursor_open(a->txn, a->dbi, &cur);
    if (rc)
        return rc;
    ldr_block_key(id, 0, k);
    rc = mdb_cursor_get(cur, &key, &val, MDB_SET_RANGE);
    last = rc == MDB_NOTFOUND || (!rc && !ldr_apply_is_block(&key, id, &other));
    mdb_cursor_close(cur);
    if (rc && rc != MDB_NOTFOUND)
        return rc;
    return last ? ldr_apply_take_out(a, key_bytes, key_len, id) : 0;
}

int ldr_apply_evict(struct ldr_apply *a, const struct ldr_victim *v)
{
    if (v->block != LDR_NO_BLOCK)
        return take_block(a, v->key, v->key_len, &v->id, v->block);
    return ldr_apply_take_out(a, v->key, v->key_len, &v->id);
}

/* ---------- changes ---------- */

static int put_record(struct ldr_apply *a, struct ldr_change *c, uint64_t seq)
{
    MDB_val key = { c->key_len, (void *)c->key }, val = { .mv_size = ldr_record_len(&c->record) };
    int rc;

    c->record.seq = seq;
    rc = mdb_put(a->txn, a->dbi, &key, &val, MDB_RESERVE);
    if (!rc)
        ldr_record_pack(&c->record, c->key, c->key_len, val.mv_data); /* fills every reserved byte */
    return rc;
}

static int put_block(struct ldr_apply *a, const struct ldr_change *c)
{
    uint64_t length = ldr_record_block_len(&c->record, c->block);
    uint8_t k[LDR_BLOCK_KEY_LEN], v[LDR_BLOCK_VALUE_LEN];
    MDB_val key = { sizeof k, k }, val = { sizeof v, v };
    int rc;

    assert(c->block < ldr_record_blocks(&c->record));
    ldr_block_key(&c->record.id, c->block, k);
    ldr_block_value(length, c->block_hash, v);
    rc = mdb_put(a->txn, a->dbi, &key, &val, MDB_NOOVERWRITE);
    if (rc)
        return rc == MDB_KEYEXIST ? 0 : rc; /* that block is there: its name is the same, so is its file */
    a->figures.blocks++;
    a->figures.block_bytes += ldr_space_charge(length);
    a->figures.inline_charge += ldr_apply_block_charge();
    note(a, (struct ldr_effect){ .what = LDR_EFFECT_ADD,
                                 .id = c->record.id,
                                 .block = c->block,
                                 .bytes = ldr_space_charge(length),
                                 .change = c });
    return 0;
}

/* Why nothing may be stored; OK: it may. */
static enum larder_kind refuse(const struct ldr_apply *a, struct ldr_change *c)
{
    if (a->room && a->figures.inline_charge + ldr_apply_cost(c) <= a->budget)
        return LARDER_OK;
    return ldr_fail(&c->err, LARDER_LIMIT_EXCEEDED, "larder.cache.inline_size (%" PRIu64 " bytes) is reached",
                    a->budget);
}

/* Without room the older version goes all the same: it must not outlive a newer one. */
static int apply_put(struct ldr_apply *a, struct ldr_change *c, uint64_t seq)
{
    int rc = ldr_apply_take_out(a, c->key, c->key_len, NULL);

    if (rc)
        return rc;
    c->kind = refuse(a, c);
    if (c->kind)
        return 0;
    rc = put_record(a, c, seq);
    if (rc)
        return rc;
    a->figures.objects++;
    a->figures.inline_charge += ldr_apply_charge(c->key_len, ldr_record_len(&c->record));
    if (ldr_record_blocks(&c->record) > 0)
        return put_block(a, c);
    note(a, (struct ldr_effect){ .what = LDR_EFFECT_ADD,
                                 .id = c->record.id,
                                 .block = LDR_NO_BLOCK,
                                 .bytes = ldr_apply_cost(c),
                                 .change = c });
    return 0;
}

static int apply_block(struct ldr_apply *a, struct ldr_change *c)
{
    struct ldr_record r;
    MDB_val now;
    bool is;
    int rc = find_version(a, c->key, c->key_len, &c->record.id, &is, &now);

    if (rc)
        return rc;
    if (!is) {
        c->kind = ldr_fail(&c->err, LARDER_CANCELLED, "the cache has another version of the object, or none");
        return 0;
    }
    if (!ldr_record_unpack(now.mv_data, now.mv_size, c->key, c->key_len, &r) || ldr_record_blocks(&r) <= c->block) {
        c->kind = ldr_fail(&c->err, LARDER_CANCELLED, "the object has no such block");
        return 0;
    }
    c->kind = refuse(a, c);
    return c->kind ? 0 : put_block(a, c);
}

static int apply_unblock(struct ldr_apply *a, struct ldr_change *c)
{
    MDB_val now;
    bool is;
    int rc = find_version(a, c->key, c->key_len, &c->record.id, &is, &now);

    return rc || !is ? rc : take_block(a, c->key, c->key_len, &c->record.id, c->block);
}

static int apply_update(struct ldr_apply *a, struct ldr_change *c, uint64_t seq)
{
    MDB_val now;
    bool is;
    int rc = find_version(a, c->key, c->key_len, &c->record.id, &is, &now);
    uint64_t before;

    if (rc)
        return rc;
    if (!is || !a->room) {
        c->kind = ldr_fail(&c->err, is ? LARDER_LIMIT_EXCEEDED : LARDER_CANCELLED,
                           is ? "the index has no room" : "the cache has another version of the object, or none");
        return 0;
    }
    before = ldr_apply_charge(c->key_len, now.mv_size);
    rc = put_record(a, c, seq);
    if (rc)
        return rc;
    a->figures.inline_charge += ldr_apply_charge(c->key_len, ldr_record_len(&c->record));
    less(&a->figures.inline_charge, before);
    return 0;
}

int ldr_apply_change(struct ldr_apply *a, struct ldr_change *c, uint64_t seq)
{
    uint8_t intent[LDR_INTENT_KEY_MAX];
    size_t n = ldr_intent_key(c->key, c->key_len, intent);
    MDB_val key = { n, intent }, empty = { 0, NULL };
    int rc = 0;

    c->kind = LARDER_OK;
    if (adds(c) && c->skip && atomic_load(c->skip)) {
        c->kind = ldr_fail(&c->err, LARDER_CANCELLED, "a write of the object was under way");
    } else {
        switch (c->what) {
        case LDR_CHANGE_PUT:
            rc = apply_put(a, c, seq);
            break;
        case LDR_CHANGE_BLOCK:
            rc = apply_block(a, c);
            break;
        case LDR_CHANGE_REMOVE:
            rc = ldr_apply_take_out(a, c->key, c->key_len, c->only_id ? &c->record.id : NULL);
            break;
        case LDR_CHANGE_UNBLOCK:
            rc = apply_unblock(a, c);
            break;
        case LDR_CHANGE_UPDATE:
            rc = apply_update(a, c, seq);
            break;
        case LDR_CHANGE_HOLD:
            note(a, (struct ldr_effect){ .what = LDR_EFFECT_HOLD, .id = c->record.id, .change = c });
            return 0;
        case LDR_CHANGE_INTENT:
            return mdb_put(a->txn, a->dbi, &key, &empty, 0);
        }
    }
    if (c->kind)
        note_file_of(a, c);
    return !rc && c->clear_intent ? ldr_apply_delete(a, intent, n) : rc;
}

int ldr_apply_figures(struct ldr_apply *a)
{
    MDB_val key = FIGURES_KEY, val = { sizeof a->figures, &a->figures };

    return mdb_put(a->txn, a->dbi, &key, &val, 0);
}
