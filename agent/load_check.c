/* load_check.c - see load_impl.h: does what comes of an object add up to what its store says it is? Each block has a CRC
 * made while its bytes arrive; when the last one is there they are put together (verify.c), before its file has a name. A
 * store that does not tell a checksum with a part of an object is asked by a head beside the first blocks:
 *   check_open → ask (head) → told → … check_block (the last one; waits for that answer) → decide → link, commit, or spoilt
 * A head that fails, says nothing, or is of another version only means that nothing is checked; so does a block that was
 * there before. */
#include "agent/load_impl.h"
#include "agent/known.h"
#include "common/log.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define SILENT_HEADS  8    /* after so many the next one is thought to tell no checksum either */
#define HEAD_LIMIT_MS 2000 /* the last block may have to wait for it */

/* Does `w` want all of the object, or go through it from its start? */
static bool wants_all(const struct ldr_waiter *w, uint64_t less)
{
    return w->reread || (w->offset == 0 && !w->hint && (w->length == 0 || w->length > less || w->ahead));
}

void ldr_load_check_expect(struct ldr_load *l, const struct ldr_waiter *w)
{
    bool checks = (l->name->backend->ops->caps & LDR_CAP_HEAD_SUM) && wants_all(w, l->domain->cfg->block_size);

    l->reread = w->reread;
    l->checks = checks;
    /* Of a store that is known to tell none, CRCs are made only when it does after all. */
    atomic_store(&l->crcs,
                 checks && (w->reread || atomic_load(&l->name->backend->silent) < SILENT_HEADS) ? LDR_CRC_ALL : 0);
}

void ldr_load_check_release(struct ldr_load *l)
{
    ldr_filled_free(&l->last);
    ldr_fetch_free(&l->head);
    free(l->sums);
    l->sums = NULL;
}

/* Nothing is checked, from now on no CRC is made. */
static void give_up(struct ldr_load *l)
{
    atomic_store(&l->crcs, 0);
    atomic_store(&l->gate.last, 0);
    free(l->sums);
    l->sums = NULL;
    l->verify.algo = LDR_SUM_NONE;
}

/* ---------- what does the store say? ---------- */

static void told(struct ldr_fetch *f);

/* The head of the object, or of one of its parts. */
static void ask(struct ldr_load *l, uint32_t part)
{
    struct ldr_fetch *f = ldr_fetch_new(l->domain, l->name, LDR_FETCH_HEAD);

    if (f && !(f->validator = strdup(l->validator)))
        ldr_fetch_free(&f);
    if (!f) {
        give_up(l);
        return;
    }
    f->part = part;
    f->limit_ms = HEAD_LIMIT_MS;
    f->done = told;
    f->user = l;
    l->head = f;
    l->busy++;
    ldr_fetch_start(f);
}

static bool same_version(const struct ldr_load *l, const struct ldr_meta *meta)
{
    struct ldr_field v;

    return ldr_fields_find(meta->fields.p, meta->fields.len, LDR_TAG_VALIDATOR, &v) && v.len == strlen(l->validator) &&
           !memcmp(v.p, l->validator, v.len);
}

static void decide(struct ldr_load *l);

/* As many parts as blocks may still be other parts: those before the last one are blocks where that one is the last
 * block. */
static void told(struct ldr_fetch *f)
{
    struct ldr_load *l = f->user;
    struct ldr_room all = { .object_size = l->meta.size_bytes, .log2 = l->log2 };
    uint64_t size = f->part ? ldr_room_len(&all, l->n_blocks - 1) : l->meta.size_bytes;
    bool good = l->sums && !f->kind && same_version(l, &f->meta) && f->meta.size_bytes == size;
    bool of_part = f->part != 0, tells = of_part || ldr_verify_choose(&f->meta, l->n_blocks, &l->verify);

    l->head = NULL;
    if (!f->kind && !of_part)
        atomic_store(&l->name->backend->silent, tells ? 0 : atomic_load(&l->name->backend->silent) + 1);
    if (!good || !tells) {
        give_up(l);
    } else if (!of_part) {
        atomic_store(&l->crcs, LDR_CRC_BIT(l->verify.algo));
        if (l->verify.composite)
            ask(l, l->n_blocks);
    }
    ldr_fetch_free(&f);
    decide(l);
    ldr_load_finish(l);
}

void ldr_load_check_open(struct ldr_load *l)
{
    const struct ldr_waiter *w;
    bool all = false;

    DL_FOREACH(l->waiters, w)
    all |= wants_all(w, l->meta.size_bytes - 1);
    if (l->checks && all && l->validator && !l->stream && l->n_blocks > 1)
        l->sums = calloc(l->n_blocks, sizeof *l->sums);
    if (!l->sums) {
        give_up(l);
        return;
    }
    atomic_store(&l->gate.last, l->n_blocks); /* of which the first may have its name already, but not all */
    ask(l, 0);
}

/* ---------- what came? ---------- */

/* All of its blocks are on their way into the index but `x`, which has no name, and together they are not the object. */
static void spoilt(struct ldr_load *l, struct ldr_filled *x)
{
    const char *algo = ldr_sum_name(l->verify.algo);
    struct larder_err e;

    ldr_count(&l->domain->counters, corrupt_objects, 1);
    ldr_log(LDR_ERROR, "load", "an object is not what its store says it is uri=\"%s\" checksum=%s again=%s",
            l->name->text, algo, l->reread ? "no" : "yes");
    l->joinable = false;
    l->state[x->block] = LDR_ABSENT;
    ldr_filled_free(&x);
    give_up(l);
    ldr_flight_suspect(l->domain->flights, l->name, true);
    ldr_known_drop(l->domain, l->name, &l->id); /* behind those blocks: changes are applied in the order posted */
    if (l->reread)
        ldr_load_fail_all(l,
                          ldr_fail(&e, LARDER_CORRUPT,
                                   "the bytes of \"%.200s\" do not match the %s that its store tells", l->name->text,
                                   algo),
                          &e);
    else
        ldr_load_reread_all(l);
}

static void last_linked(struct ldr_filled *x)
{
    struct ldr_load *l = x->user;

    if (x->kind)
        ldr_load_lose_block(l, x);
    else
        ldr_load_commit_block(l, x, l->last_confirmed_ns);
    ldr_load_finish(l);
}

/* The last block, if it is there and nothing is missing that it has to wait for. */
static void decide(struct ldr_load *l)
{
    struct ldr_filled *x = l->last;

    if (!x || (l->sums && (l->head || l->n_sums < l->n_blocks)))
        return;
    l->last = NULL;
    if (l->sums && !ldr_verify_blocks(&l->verify, l->meta.size_bytes, l->log2, l->sums, l->n_blocks)) {
        spoilt(l, x);
        return;
    }
    if (l->sums)
        ldr_flight_suspect(l->domain->flights, l->name, false);
    x->user = l;
    x->linked = last_linked;
    l->busy++;
    ldr_filled_link(x);
}

void ldr_load_check_block(struct ldr_load *l, struct ldr_filled *x, int64_t confirmed_ns)
{
    if (l->sums && (x->kind || !x->sums.algos))
        give_up(l); /* it is not there, or nobody read its bytes on their way */
    if (l->sums) {
        l->n_sums += !l->sums[x->block].algos;
        l->sums[x->block] = x->sums;
    }
    if (x->kind) {
        ldr_load_lose_block(l, x);
    } else if (x->fill.linked) {
        ldr_load_commit_block(l, x, confirmed_ns);
    } else {
        if (l->last) { /* another one was evicted, and came again, before all was known */
            give_up(l);
            decide(l);
        }
        l->last = x;
        l->last_confirmed_ns = confirmed_ns;
    }
    decide(l);
}

void ldr_load_check_again(struct ldr_load *l, uint32_t block)
{
    if (!l->sums || !l->sums[block].algos)
        return;
    l->sums[block].algos = 0;
    l->n_sums--;
    atomic_fetch_sub(&l->gate.named, 1);
}
