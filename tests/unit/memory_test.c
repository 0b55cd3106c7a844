/* memory_test.c - what only backends/memory.c promises; the rules of all stores are tests/backend/backend_test.c. */
#include "tests/support/backend_driver.h"
#include "tests/support/op_upload.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* of the one test that this process runs */
static struct bd *bd;
static struct bd_result r;
static struct op_upload up; /* large */

static void end(void)
{
    bd_result_release(&r);
    bd_close(&bd);
}

TestSuite(memory, .fini = end, .timeout = 60);

static void open_store(const char *max_size)
{
    const char *const settings[] = { "max_size", max_size, NULL };
    struct larder_err err = { 0 };

    cr_assert(eq(int, bd_open("memory", "mem", max_size ? settings : NULL, &bd, &err), LARDER_OK), "%s", err.msg);
}

/* ---- short forms; each leaves its result in r ---- */

static enum larder_kind get(const char *key)
{
    bd_result_release(&r);
    return bd_get(bd, "c", key, NULL, &r);
}

static enum larder_kind put(const char *key, const char *text, const char *if_match)
{
    bd_result_release(&r);
    return bd_put(bd, "c", key, text, strlen(text), &(struct bd_args){ .if_match = if_match }, &r);
}

static enum larder_kind up_begin(const char *key)
{
    op_upload_init(&up, bd, "c", key, 4);
    return r.kind = op_upload_begin(&up, NULL, &r.err);
}

static enum larder_kind up_part(uint32_t n, const char *text)
{
    return r.kind = op_upload_part(&up, n, text, strlen(text), &r.err);
}

static enum larder_kind up_end(uint32_t n_parts, uint64_t size)
{
    return r.kind = op_upload_end(&up, n_parts, size, NULL, NULL, &r.err);
}

static enum larder_kind up_abort(void)
{
    return r.kind = op_upload_abort(&up, &r.err);
}

static enum larder_kind delete_if(const char *key, const char *if_match)
{
    struct ldr_op op = { .what = LDR_OP_DELETE, .container = "c", .key = key, .if_match = if_match };

    bd_result_release(&r);
    return bd_op(bd, &op, &r);
}

static bool got(const char *text)
{
    return r.bytes.len == strlen(text) && !memcmp(r.bytes.p ? r.bytes.p : (const uint8_t *)"", text, strlen(text));
}

#define is(call, want) cr_assert(eq(int, (int)(call), (int)(want)), "%s: %s", larder_kind_name(r.kind), r.err.msg)

/* ---- uploads in parts ---- */

Test(memory, an_upload_is_nothing_until_its_end)
{
    char validator[256] = "", text[64];
    struct ldr_meta m;

    open_store(NULL);
    ldr_meta_init(&m);
    cr_assert(ldr_meta_add_text(&m, LDR_TAG_CONTENT_TYPE, "text/plain"));
    op_upload_init(&up, bd, "c", "k", 4);
    is(r.kind = op_upload_begin(&up, &m, &r.err), LARDER_OK);
    ldr_meta_release(&m);
    is(up_part(3, "9"), LARDER_OK);
    is(up_part(1, "bad!"), LARDER_OK);
    is(up_part(2, "5678"), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    is(get("k"), LARDER_NOT_FOUND);
    is(bd_list(bd, "c", "", NULL, &r), LARDER_OK);
    cr_expect(eq(sz, r.page.n, 0));
    is(r.kind = op_upload_end(&up, 3, 9, NULL, validator, &r.err), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("123456789"));
    cr_expect(eq(str, r.validator, validator));
    cr_expect(ldr_meta_text(&r.meta, LDR_TAG_CONTENT_TYPE, text, sizeof text) && !strcmp(text, "text/plain"));
    is(up_end(3, 9), LARDER_NOT_FOUND);
    is(up_part(1, "1234"), LARDER_NOT_FOUND);
    is(up_abort(), LARDER_OK);
    is(get("k"), LARDER_OK);
}

Test(memory, an_upload_that_does_not_add_up_is_refused_and_can_be_mended)
{
    open_store(NULL);
    is(put("k", "old", NULL), LARDER_OK);
    is(up_begin("k"), LARDER_OK);
    is(up_end(0, 0), LARDER_INVALID);
    is(up_end(1, 4), LARDER_INVALID);
    is(up_end(LDR_PARTS_MAX + 1, 4), LARDER_INVALID);
    is(up_part(1, "1234"), LARDER_OK);
    is(up_part(3, "9"), LARDER_OK);
    is(up_end(3, 9), LARDER_INVALID);
    cr_expect(strstr(r.err.msg, "part 2 is missing") != NULL, "%s", r.err.msg);
    is(up_end(1, 4), LARDER_INVALID); /* part 3 is there */
    is(up_part(2, "5678"), LARDER_OK);
    is(up_end(3, 8), LARDER_INVALID);
    up.parts[1].size = 3;
    is(up_end(3, 8), LARDER_INVALID);
    up.parts[1].size = 4;
    is(up_part(2, ""), LARDER_INVALID);
    is(up_part(0, "x"), LARDER_INVALID);
    is(up_part(LDR_PARTS_MAX + 1, "x"), LARDER_INVALID);
    is(get("k"), LARDER_OK);
    cr_expect(got("old"));
    is(up_end(3, 9), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("123456789"));
}

Test(memory, an_upload_is_known_by_its_id_and_key_alone)
{
    static const char *const ids[] = { "", "x", "00000000000000000000000000000000" };
    char mine[LDR_UPLOAD_ID_MAX + 1];

    open_store(NULL);
    is(up_begin("k"), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    memcpy(mine, up.m.id, sizeof mine);
    for (size_t i = 0; i < LDR_ARRAY_LEN(ids) + 1; i++) {
        bool of_another_key = i == LDR_ARRAY_LEN(ids);

        up.key = of_another_key ? "another" : "k";
        snprintf(up.m.id, sizeof up.m.id, "%s", of_another_key ? mine : ids[i]);
        is(up_part(1, "bad!"), LARDER_NOT_FOUND);
        is(up_end(1, 4), LARDER_NOT_FOUND);
        is(up_abort(), LARDER_OK);
    }
    up.key = "k";
    memcpy(up.m.id, mine, sizeof mine);
    is(up_end(1, 4), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("1234"));
}

Test(memory, parts_count_and_an_abort_gives_their_room_back)
{
    open_store("10");
    is(put("k", "123", NULL), LARDER_OK);
    is(up_begin("k"), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    is(up_part(2, "5678"), LARDER_LIMIT_EXCEEDED);
    is(up_part(2, "567"), LARDER_OK);
    is(put("other", "x", NULL), LARDER_LIMIT_EXCEEDED);
    is(up_part(1, "abcd"), LARDER_OK); /* in the other's place */
    is(up_abort(), LARDER_OK);
    is(up_abort(), LARDER_OK);
    is(put("other", "1234567", NULL), LARDER_OK);
    is(delete_if("other", NULL), LARDER_OK);

    is(up_begin("k"), LARDER_OK);
    is(up_part(1, "1234"), LARDER_OK);
    is(up_part(2, "567"), LARDER_OK);
    is(up_end(2, 7), LARDER_OK); /* its bytes are not needed twice */
    is(put("other", "123", NULL), LARDER_OK);
    is(put("third", "1", NULL), LARDER_LIMIT_EXCEEDED);
}

Test(memory, there_are_not_more_than_a_thousand_uploads)
{
    enum larder_kind k = LARDER_OK;
    int n = 0;

    open_store(NULL);
    for (; n < 2000 && !(k = up_begin("k")); n++)
        ;
    cr_expect(eq(int, n, 1000));
    cr_expect(eq(int, (int)k, (int)LARDER_LIMIT_EXCEEDED), "%s", r.err.msg);
}

Test(memory, parts_are_copied_from_objects)
{
    char validator[256];

    open_store(NULL);
    is(put("from", "0123456789", NULL), LARDER_OK);
    snprintf(validator, sizeof validator, "%s", r.validator);
    is(up_begin("k"), LARDER_OK);
    is(r.kind = op_upload_copy(&up, 2, "from", 4, 6, validator, &r.err), LARDER_OK);
    is(r.kind = op_upload_copy(&up, 1, "from", 2, 4, NULL, &r.err), LARDER_OK);
    is(r.kind = op_upload_copy(&up, 1, "from", 9, 2, NULL, &r.err), LARDER_INVALID);
    is(r.kind = op_upload_copy(&up, 1, "from", UINT64_MAX - 1, 4, NULL, &r.err), LARDER_INVALID);
    is(r.kind = op_upload_copy(&up, 1, "from", 0, 0, NULL, &r.err), LARDER_INVALID);
    is(r.kind = op_upload_copy(&up, 1, "from", 0, 1, "\"another\"", &r.err), LARDER_PRECONDITION);
    is(r.kind = op_upload_copy(&up, 1, "none", 0, 1, NULL, &r.err), LARDER_NOT_FOUND);
    is(up_end(2, 10), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("2345456789"));
}

Test(memory, a_part_whose_body_is_too_short_is_not_there)
{
    int fd = memfd_create("body", MFD_CLOEXEC);

    open_store(NULL);
    cr_assert(eq(long, write(fd, "123", 3), 3L));
    is(up_begin("k"), LARDER_OK);
    is(r.kind = op_upload_part_fd(&up, 1, fd, 4, &r.err), LARDER_IO);
    is(up_end(1, 4), LARDER_INVALID);
    is(r.kind = op_upload_part_fd(&up, 1, fd, 3, &r.err), LARDER_OK);
    close(fd);
    is(up_end(1, 3), LARDER_OK);
    is(get("k"), LARDER_OK);
    cr_expect(got("123"));
}

struct sender {
    pthread_t thread;
    uint32_t first;
    int failed;
};

static void *send_parts(void *user)
{
    struct sender *s = user;

    for (uint32_t i = s->first; i < 400; i += 4) {
        uint32_t n = i * 51 % 400 + 1; /* in no order */
        char text[8];

        snprintf(text, sizeof text, "%04u", (unsigned)n);
        s->failed |= op_upload_part(&up, n, text, 4, NULL);
    }
    return NULL;
}

Test(memory, parts_come_from_all_threads)
{
    struct sender s[4];
    char want[8];

    open_store(NULL);
    is(up_begin("k"), LARDER_OK);
    for (uint32_t i = 0; i < 4; i++) {
        s[i] = (struct sender){ .first = i };
        cr_assert(eq(int, pthread_create(&s[i].thread, NULL, send_parts, &s[i]), 0));
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(s[i].thread, NULL);
        cr_expect(eq(int, s[i].failed, 0));
    }
    is(up_end(400, 1600), LARDER_OK);
    is(get("k"), LARDER_OK);
    for (unsigned n = 1; n <= 400; n++) {
        snprintf(want, sizeof want, "%04u", n);
        cr_assert(eq(int, memcmp(r.bytes.p + (n - 1) * 4, want, 4), 0), "part %u", n);
    }
}

/* ---- conditions ---- */

Test(memory, a_write_can_be_bound_to_the_version_it_replaces)
{
    char first[256], second[256];

    open_store(NULL);
    cr_expect(ne(uint, bd_backend(bd)->ops->caps & LDR_CAP_PUT_IF_MATCH, 0));
    is(put("k", "0", "\"x\""), LARDER_PRECONDITION);
    is(put("k", "1", NULL), LARDER_OK);
    snprintf(first, sizeof first, "%s", r.validator);
    is(put("k", "2", first), LARDER_OK);
    snprintf(second, sizeof second, "%s", r.validator);
    is(put("k", "3", first), LARDER_PRECONDITION);

    is(up_begin("k"), LARDER_OK);
    is(up_part(1, "4"), LARDER_OK);
    is(r.kind = op_upload_end(&up, 1, 1, &(struct bd_args){ .if_match = first }, NULL, &r.err), LARDER_PRECONDITION);
    is(r.kind = op_upload_end(&up, 1, 1, &(struct bd_args){ .create_only = true }, NULL, &r.err), LARDER_EXISTS);
    is(get("k"), LARDER_OK);
    cr_expect(got("2"));
    is(r.kind = op_upload_end(&up, 1, 1, &(struct bd_args){ .if_match = second }, NULL, &r.err), LARDER_OK);

    is(delete_if("k", second), LARDER_PRECONDITION);
    is(get("k"), LARDER_OK);
    cr_expect(got("4"));
    snprintf(second, sizeof second, "%s", r.validator);
    is(delete_if("k", second), LARDER_OK);
    is(delete_if("k", second), LARDER_PRECONDITION);
    is(get("k"), LARDER_NOT_FOUND);
}

/* ---- many at once, containers ---- */

Test(memory, a_thousand_objects_are_deleted_at_once)
{
    static struct ldr_delete_item items[LDR_DELETE_MANY_MAX];
    static char keys[LDR_DELETE_MANY_MAX][16];
    struct ldr_op op = {
        .what = LDR_OP_DELETE_MANY, .container = "c", .key = "", .items = items, .n_items = LDR_DELETE_MANY_MAX
    };

    open_store(NULL);
    for (int i = 0; i < LDR_DELETE_MANY_MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        items[i] = (struct ldr_delete_item){ .uri = keys[i], .key = keys[i], .kind = LARDER_INTERNAL, .why = "unset" };
        if (i % 3)
            is(put(keys[i], "x", NULL), LARDER_OK);
    }
    is(put("keep", "x", NULL), LARDER_OK);
    bd_result_release(&r);
    is(bd_op(bd, &op, &r), LARDER_OK);
    for (int i = 0; i < LDR_DELETE_MANY_MAX; i++)
        cr_assert(eq(int, (int)items[i].kind, (int)LARDER_OK));
    is(bd_list(bd, "c", "", NULL, &r), LARDER_OK);
    cr_assert(eq(sz, r.page.n, 1));
    cr_expect(eq(str, r.page.entries[0].key, "keep"));
}

Test(memory, a_container_is_there_when_it_is_made)
{
    struct ldr_op op = { .what = LDR_OP_MAKE_CONTAINER, .container = "new", .key = "" };

    open_store(NULL);
    for (int i = 0; i < 2; i++) {
        is(bd_op(bd, &op, &r), LARDER_OK);
        bd_result_release(&r);
    }
    is(bd_put(bd, "new", "k", "x", 1, NULL, &r), LARDER_OK);
}
