/* wire_test.c - what a message may hold. Peers send anything: each limit is met exactly and passed by one. */
#include "common/wire.h"
#include "common/uri.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

/* Packs, unpacks, and tells how that went; *out NULL after a failure. */
static enum larder_kind through(const ldr_wire_request *r, ldr_wire_request **out, struct larder_err *err)
{
    size_t n = larder__wire__request__get_packed_size(r);
    uint8_t *p = malloc(n + !n);
    enum larder_kind k;

    *out = NULL;
    larder__wire__request__pack(r, p);
    k = ldr_wire_unpack_request(p, n, out, err);
    free(p);
    return k;
}

static enum larder_kind kind_of(const ldr_wire_request *r)
{
    struct larder_err err = { 0 };
    ldr_wire_request *out;
    enum larder_kind k = through(r, &out, &err);

    cr_expect(eq(int, err.kind, k));
    cr_expect(eq(int, out != NULL, k == LARDER_OK));
    if (out)
        larder__wire__request__free_unpacked(out, NULL);
    return k;
}

/* A reply, packed, unpacked; NULL: refused as UNAVAILABLE. */
static ldr_wire_reply *reply_through(const ldr_wire_reply *r)
{
    size_t n = larder__wire__reply__get_packed_size(r);
    uint8_t *p = malloc(n + !n);
    ldr_wire_reply *out = NULL;
    struct larder_err err = { 0 };
    enum larder_kind k;

    larder__wire__reply__pack(r, p);
    k = ldr_wire_unpack_reply(p, n, &out, &err);
    cr_expect(eq(int, k, out ? LARDER_OK : LARDER_UNAVAILABLE));
    cr_expect(eq(int, err.kind, k));
    free(p);
    return out;
}

static uint8_t zeros[LDR_WIRE_REPLY_MAX + 1]; /* never written */

static ProtobufCBinaryData bytes(size_t n)
{
    return (ProtobufCBinaryData){ n, zeros };
}

static char *text(size_t n)
{
    char *s = malloc(n + 1);

    memset(s, 'k', n);
    s[n] = '\0';
    return s;
}

#define REQUEST(name, NAME, body)                                                                                      \
    ldr_wire_request name = LARDER__WIRE__REQUEST__INIT;                                                               \
    (name).op_id = 42;                                                                                                 \
    (name).body_case = LARDER__WIRE__REQUEST__BODY_##NAME;                                                             \
    (name).body

/* ---- requests ---- */

Test(wire, a_get_arrives_as_it_was_sent)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    ldr_wire_request *out;

    get.key = (char *)"s3://b/k";
    get.offset = 1;
    get.length = 2;
    get.seen_id = bytes(16);
    get.reason = LARDER__WIRE__REASON__STALE;
    get.validator = (ProtobufCBinaryData){ 5, (uint8_t *)"\"abc\"" };
    REQUEST(r, GET, get) = &get;
    cr_assert(eq(int, through(&r, &out, NULL), LARDER_OK));
    cr_expect(eq(u64, out->op_id, 42));
    cr_assert(eq(int, out->body_case, LARDER__WIRE__REQUEST__BODY_GET));
    cr_expect(eq(str, out->get->key, "s3://b/k"));
    cr_expect(eq(u64, out->get->offset, 1));
    cr_expect(eq(u64, out->get->length, 2));
    cr_expect(eq(sz, out->get->seen_id.len, 16));
    cr_expect(eq(sz, out->get->validator.len, 5));
    larder__wire__request__free_unpacked(out, NULL);
}

Test(wire, an_upload_by_blocks_is_bounded)
{
    Larder__Wire__UploadOpen open = LARDER__WIRE__UPLOAD_OPEN__INIT;
    Larder__Wire__UploadBlock block = LARDER__WIRE__UPLOAD_BLOCK__INIT;
    Larder__Wire__UploadData data = LARDER__WIRE__UPLOAD_DATA__INIT;
    Larder__Wire__UploadSeal seal = LARDER__WIRE__UPLOAD_SEAL__INIT;
    Larder__Wire__UploadCommit commit = LARDER__WIRE__UPLOAD_COMMIT__INIT;

    REQUEST(o, UPLOAD_OPEN, upload_open) = &open;
    REQUEST(b, UPLOAD_BLOCK, upload_block) = &block;
    REQUEST(d, UPLOAD_DATA, upload_data) = &data;
    REQUEST(s, UPLOAD_SEAL, upload_seal) = &seal;
    REQUEST(c, UPLOAD_COMMIT, upload_commit) = &commit;
    open.key = (char *)"s3://b/k";
    cr_expect(eq(int, kind_of(&o), LARDER_INVALID), "no number");
    cr_expect(eq(int, kind_of(&b), LARDER_INVALID));
    cr_expect(eq(int, kind_of(&d), LARDER_INVALID));
    cr_expect(eq(int, kind_of(&s), LARDER_INVALID));
    cr_expect(eq(int, kind_of(&c), LARDER_INVALID));
    open.upload_id = block.upload_id = data.upload_id = seal.upload_id = commit.upload_id = 7;
    cr_expect(eq(int, kind_of(&o), LARDER_OK));
    open.size = LDR_OBJECT_SIZE_MAX;
    cr_expect(eq(int, kind_of(&o), LARDER_INVALID), "a size that is not known");
    open.size_known = true;
    cr_expect(eq(int, kind_of(&o), LARDER_OK));
    open.size++;
    cr_expect(eq(int, kind_of(&o), LARDER_LIMIT_EXCEEDED));
    open.size = 0;
    open.fields = bytes(2);
    cr_expect(eq(int, kind_of(&o), LARDER_INVALID), "fields");
    open.fields = bytes(0);
    block.block = data.block = seal.block = LDR_WIRE_BLOCKS - 1;
    cr_expect(eq(int, kind_of(&d), LARDER_INVALID), "a part of nothing");
    data.data = bytes(LDR_WIRE_PART);
    data.offset = seal.length = commit.size = LDR_OBJECT_SIZE_MAX;
    cr_expect(eq(int, kind_of(&b), LARDER_OK));
    cr_expect(eq(int, kind_of(&d), LARDER_OK));
    cr_expect(eq(int, kind_of(&s), LARDER_OK));
    cr_expect(eq(int, kind_of(&c), LARDER_OK));
    data.data.len++;
    cr_expect(eq(int, kind_of(&d), LARDER_INVALID));
    data.data.len--;
    block.block++, data.offset++, seal.length++, commit.size++;
    cr_expect(eq(int, kind_of(&b), LARDER_INVALID));
    cr_expect(eq(int, kind_of(&d), LARDER_INVALID));
    cr_expect(eq(int, kind_of(&s), LARDER_INVALID));
    cr_expect(eq(int, kind_of(&c), LARDER_INVALID));
}

Test(wire, what_becomes_a_header_holds_no_line_break_and_has_a_longest_length)
{
    Larder__Wire__UploadOpen open = LARDER__WIRE__UPLOAD_OPEN__INIT;
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;
    Larder__Wire__Sign sign = LARDER__WIRE__SIGN__INIT;
    char *longest = text(LDR_WIRE_HEADER_MAX), *longer = text(LDR_WIRE_HEADER_MAX + 1);
    const struct {
        char *value;
        enum larder_kind kind;
    } all[] = {
        { (char *)"\"abc\"", LARDER_OK },  { (char *)"a\r\nX: y", LARDER_INVALID }, { (char *)"a\x7f", LARDER_INVALID },
        { (char *)"a b", LARDER_INVALID }, { (char *)"caf\xc3\xa9", LARDER_OK },    { longest, LARDER_OK },
        { longer, LARDER_INVALID }
    };

    open.key = put.key = sign.key = (char *)"s3://b/k";
    open.upload_id = 1;
    sign.lifetime_s = 1;
    REQUEST(o, UPLOAD_OPEN, upload_open) = &open;
    REQUEST(p, PUT, put) = &put;
    REQUEST(s, SIGN, sign) = &sign;
    for (size_t i = 0; i < LDR_ARRAY_LEN(all); i++) {
        open.if_match = put.if_match = sign.content_md5 = all[i].value;
        cr_expect(eq(int, kind_of(&o), all[i].kind), "%zu", i);
        cr_expect(eq(int, kind_of(&p), all[i].kind), "%zu", i);
        cr_expect(eq(int, kind_of(&s), all[i].kind), "%zu", i);
    }
    sign.content_md5 = (char *)"";
    sign.content_type = (char *)"text/plain; charset=utf-8";
    cr_expect(eq(int, kind_of(&s), LARDER_OK));
    sign.content_type = (char *)"text/plain\n";
    cr_expect(eq(int, kind_of(&s), LARDER_INVALID));
    sign.content_type = (char *)"";
    sign.lifetime_s = 0;
    cr_expect(eq(int, kind_of(&s), LARDER_INVALID));
    sign.lifetime_s = UINT64_C(1) << 40;
    cr_expect(eq(int, kind_of(&s), LARDER_INVALID));
    free(longest), free(longer);
}

Test(wire, many_deletes_are_at_most_256)
{
    Larder__Wire__DeleteMany many = LARDER__WIRE__DELETE_MANY__INIT;
    char *keys[LDR_WIRE_MANY + 1], *longer = text(LDR_URI_MAX + 1);

    for (size_t i = 0; i < LDR_ARRAY_LEN(keys); i++)
        keys[i] = (char *)"s3://b/k";
    many.key = keys;
    many.n_key = LDR_WIRE_MANY;
    REQUEST(r, DELETE_MANY, delete_many) = &many;
    cr_expect(eq(int, kind_of(&r), LARDER_OK));
    many.n_key++;
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID));
    many.n_key = 2;
    keys[1] = longer;
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID));
    free(longer);
}

Test(wire, the_name_of_a_staged_file_is_no_path)
{
    Larder__Wire__Staging st = LARDER__WIRE__STAGING__INIT;
    char *longest = text(LDR_WIRE_STAGING_MAX), *longer = text(LDR_WIRE_STAGING_MAX + 1);
    const struct {
        char *name;
        bool ok;
    } all[] = { { (char *)"", true },
                { (char *)"0123abcd", true },
                { (char *)"../../etc/passwd", false },
                { (char *)"a/b", false },
                { (char *)".", false },
                { (char *)"..", false },
                { longest, true },
                { longer, false } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(all); i++) {
        ldr_wire_reply r = LARDER__WIRE__REPLY__INIT, *out;

        st.name = all[i].name;
        st.size = 1;
        r.body_case = LARDER__WIRE__REPLY__BODY_STAGING;
        r.staging = &st;
        out = reply_through(&r);
        cr_expect(eq(int, out != NULL, all[i].ok), "%zu", i);
        if (out)
            larder__wire__reply__free_unpacked(out, NULL);
        st.size = i % 2 ? 0 : LDR_OBJECT_SIZE_MAX + 1;
        cr_expect(reply_through(&r) == NULL, "no such size");
    }
    free(longest), free(longer);
}

Test(wire, every_key_has_a_longest_length)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;
    Larder__Wire__Head head = LARDER__WIRE__HEAD__INIT;
    Larder__Wire__Delete del = LARDER__WIRE__DELETE__INIT;

    for (size_t n = LDR_URI_MAX; n <= LDR_URI_MAX + 1; n++) {
        enum larder_kind want = n > LDR_URI_MAX ? LARDER_INVALID : LARDER_OK;
        char *key = text(n);

        get.key = put.key = head.key = del.key = key;
        REQUEST(g, GET, get) = &get;
        REQUEST(p, PUT, put) = &put;
        REQUEST(h, HEAD, head) = &head;
        REQUEST(d, DELETE, delete_) = &del;
        cr_expect(eq(int, kind_of(&g), want));
        cr_expect(eq(int, kind_of(&p), want));
        cr_expect(eq(int, kind_of(&h), want));
        cr_expect(eq(int, kind_of(&d), want));
        free(key);
    }
}

Test(wire, an_object_id_is_absent_or_16_bytes)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;

    for (size_t n = 0; n <= 32; n++) {
        get.seen_id = bytes(n);
        REQUEST(r, GET, get) = &get;
        cr_expect(eq(int, kind_of(&r), n == 0 || n == 16 ? LARDER_OK : LARDER_INVALID), "%zu bytes", n);
    }
}

Test(wire, a_validator_is_a_text_of_bounded_length)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    char *etag = text(LDR_META_MAX + 1);

    REQUEST(r, GET, get) = &get;
    get.validator = (ProtobufCBinaryData){ LDR_META_MAX, (uint8_t *)etag };
    cr_expect(eq(int, kind_of(&r), LARDER_OK));
    get.validator.len++;
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID));
    get.validator = bytes(1);
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID), "a NUL");
    free(etag);
}

Test(wire, a_put_holds_all_its_bytes_or_names_its_parts)
{
    const struct {
        uint64_t size, upload_id;
        size_t len;
        enum larder_kind want;
    } cases[] = { { 0, 0, 0, LARDER_OK },
                  { 5, 0, 5, LARDER_OK },
                  { 5, 0, 4, LARDER_INVALID },
                  { 5, 0, 6, LARDER_INVALID },
                  { LDR_WIRE_PART, 0, LDR_WIRE_PART, LARDER_OK },
                  { LDR_WIRE_PART + 1, 0, LDR_WIRE_PART + 1, LARDER_INVALID },
                  { LDR_PUT_MAX, 9, 0, LARDER_OK },
                  { LDR_PUT_MAX + 1, 9, 0, LARDER_LIMIT_EXCEEDED },
                  { UINT64_MAX, 0, 0, LARDER_LIMIT_EXCEEDED },
                  { 5, 9, 5, LARDER_INVALID } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(cases); i++) {
        Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;

        put.key = (char *)"s3://b/k";
        put.size = cases[i].size;
        put.upload_id = cases[i].upload_id;
        put.data = bytes(cases[i].len);
        REQUEST(r, PUT, put) = &put;
        cr_expect(eq(int, kind_of(&r), cases[i].want), "case %zu", i);
    }
}

Test(wire, a_put_that_is_too_large_names_object_size_and_limit)
{
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;
    struct larder_err err = { 0 };
    ldr_wire_request *out;

    put.key = (char *)"s3://b/k";
    put.size = LDR_PUT_MAX + 1;
    REQUEST(r, PUT, put) = &put;
    cr_assert(eq(int, through(&r, &out, &err), LARDER_LIMIT_EXCEEDED));
    cr_expect(strstr(err.msg, "s3://b/k") && strstr(err.msg, "8388609") && strstr(err.msg, "8388608"), "%s", err.msg);
}

Test(wire, the_fields_of_a_put_are_well_formed)
{
    Larder__Wire__Put put = LARDER__WIRE__PUT__INIT;

    REQUEST(r, PUT, put) = &put;
    put.fields = (ProtobufCBinaryData){ 6, (uint8_t *)"\x0b\x03\x00k\0v" };
    cr_expect(eq(int, kind_of(&r), LARDER_OK));
    put.fields.len = 5;
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID));
    put.fields = bytes(LDR_META_MAX + 3);
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID));
}

Test(wire, a_part_lies_within_its_object)
{
    const struct {
        uint64_t upload_id, offset, size;
        size_t len;
        enum larder_kind want;
    } cases[] = { { 9, 0, 5, 5, LARDER_OK },
                  { 9, 5, 5, 0, LARDER_OK },
                  { 9, LDR_PUT_MAX - LDR_WIRE_PART, LDR_PUT_MAX, LDR_WIRE_PART, LARDER_OK },
                  { 0, 0, 5, 5, LARDER_INVALID },
                  { 9, 1, 5, 5, LARDER_INVALID },
                  { 9, 6, 5, 0, LARDER_INVALID },
                  { 9, UINT64_MAX, 5, 5, LARDER_INVALID },
                  { 9, 0, LDR_PUT_MAX + 1, 5, LARDER_INVALID },
                  { 9, 0, LDR_PUT_MAX, LDR_WIRE_PART + 1, LARDER_INVALID } };

    for (size_t i = 0; i < LDR_ARRAY_LEN(cases); i++) {
        Larder__Wire__PutPart part = LARDER__WIRE__PUT_PART__INIT;

        part.upload_id = cases[i].upload_id;
        part.offset = cases[i].offset;
        part.size = cases[i].size;
        part.data = bytes(cases[i].len);
        REQUEST(r, PUT_PART, put_part) = &part;
        cr_expect(eq(int, kind_of(&r), cases[i].want), "case %zu", i);
    }
}

Test(wire, small_requests_pass)
{
    Larder__Wire__Hello hello = LARDER__WIRE__HELLO__INIT;
    Larder__Wire__StatusAsk ask = LARDER__WIRE__STATUS_ASK__INIT;
    Larder__Wire__Abort drop = LARDER__WIRE__ABORT__INIT;

    REQUEST(h, HELLO, hello) = &hello;
    REQUEST(s, STATUS, status) = &ask;
    REQUEST(a, ABORT, abort) = &drop;
    cr_expect(eq(int, kind_of(&h), LARDER_OK));
    cr_expect(eq(int, kind_of(&s), LARDER_OK));
    cr_expect(eq(int, kind_of(&a), LARDER_OK));
}

Test(wire, a_request_of_a_later_release_is_unsupported)
{
    ldr_wire_request r = LARDER__WIRE__REQUEST__INIT, *out = NULL;
    /* field 999, of another wire type, beside an empty body */
    static const uint8_t later[] = { 0xba, 0x3e, 0x02, 'h', 'i' };

    cr_expect(eq(int, kind_of(&r), LARDER_UNSUPPORTED));
    cr_expect(eq(int, ldr_wire_unpack_request(later, sizeof later, &out, NULL), LARDER_UNSUPPORTED));
    cr_expect(eq(int, ldr_wire_unpack_request("", 0, &out, NULL), LARDER_UNSUPPORTED));
    cr_expect(eq(ptr, out, NULL));
}

Test(wire, what_is_no_request_is_invalid)
{
    ldr_wire_request *out = NULL;

    cr_expect(eq(int, ldr_wire_unpack_request("\xff", 1, &out, NULL), LARDER_INVALID));
    cr_expect(eq(int, ldr_wire_unpack_request("\x5a\x05\x0a\x09zz", 6, &out, NULL), LARDER_INVALID));
    cr_expect(eq(int, ldr_wire_unpack_request("GET / HTTP/1.1\r\n\r\n", 18, &out, NULL), LARDER_INVALID));
    cr_expect(eq(ptr, out, NULL));
}

Test(wire, a_request_cut_anywhere_never_becomes_another_object)
{
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;
    uint8_t packed[128];
    size_t n;

    get.key = (char *)"s3://bucket/key";
    get.seen_id = bytes(16);
    REQUEST(r, GET, get) = &get;
    n = larder__wire__request__pack(&r, packed);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut + !cut);
        ldr_wire_request *out = NULL;

        memcpy(exact, packed, cut);
        cr_expect(ne(int, ldr_wire_unpack_request(exact, cut, &out, NULL), LARDER_OK), "%zu of %zu bytes", cut, n);
        free(exact);
    }
}

/* An unknown field fills the message up to any length. */
static enum larder_kind of_length(size_t n, bool reply)
{
    uint8_t *p = calloc(1, n);
    ldr_wire_request *request = NULL;
    ldr_wire_reply *answer = NULL;
    size_t left = n - 6; /* tag 2, length 4 */
    enum larder_kind k;

    p[0] = 0xba;
    p[1] = 0x3e;
    for (int i = 0; i < 4; i++, left >>= 7)
        p[2 + i] = (uint8_t)((left & 0x7f) | (i < 3 ? 0x80 : 0));
    k = reply ? ldr_wire_unpack_reply(p, n, &answer, NULL) : ldr_wire_unpack_request(p, n, &request, NULL);
    if (answer)
        larder__wire__reply__free_unpacked(answer, NULL);
    free(p);
    return k;
}

Test(wire, a_message_over_its_limit_is_not_even_unpacked)
{
    cr_expect(eq(int, of_length(LDR_WIRE_REQUEST_MAX, false), LARDER_UNSUPPORTED));
    cr_expect(eq(int, of_length(LDR_WIRE_REQUEST_MAX + 1, false), LARDER_INVALID));
    cr_expect(eq(int, of_length(LDR_WIRE_REPLY_MAX, true), LARDER_OK));
    cr_expect(eq(int, of_length(LDR_WIRE_REPLY_MAX + 1, true), LARDER_UNAVAILABLE));
}

/* ---- replies ---- */

Test(wire, a_reply_names_an_object_by_16_bytes_or_none)
{
    for (size_t n = 0; n <= 20; n++) {
        ldr_wire_reply r = LARDER__WIRE__REPLY__INIT, *out;

        r.object_id = bytes(n);
        out = reply_through(&r);
        cr_expect(eq(int, out != NULL, n == 0 || n == 16), "%zu bytes", n);
        if (out)
            larder__wire__reply__free_unpacked(out, NULL);
    }
}

Test(wire, a_reply_brings_at_most_one_chunk)
{
    for (size_t n = LDR_WIRE_CHUNK; n <= LDR_WIRE_CHUNK + 1; n++) {
        Larder__Wire__Bytes body = LARDER__WIRE__BYTES__INIT;
        ldr_wire_reply r = LARDER__WIRE__REPLY__INIT, *out;

        body.data = bytes(n);
        r.body_case = LARDER__WIRE__REPLY__BODY_BYTES;
        r.bytes = &body;
        out = reply_through(&r);
        cr_expect(eq(int, out != NULL, n == LDR_WIRE_CHUNK));
        if (out)
            larder__wire__reply__free_unpacked(out, NULL);
    }
}

Test(wire, what_is_no_reply_is_unavailable)
{
    ldr_wire_reply *out = NULL;

    cr_expect(eq(int, ldr_wire_unpack_reply("\xff", 1, &out, NULL), LARDER_UNAVAILABLE));
    cr_expect(eq(ptr, out, NULL));
    cr_expect(eq(int, ldr_wire_unpack_reply("", 0, &out, NULL), LARDER_OK), "an empty reply is a plain OK");
    cr_expect(eq(int, ldr_wire_status(out, NULL), LARDER_OK));
    larder__wire__reply__free_unpacked(out, NULL);
}

Test(wire, a_failure_arrives_with_its_kind_numbers_and_message)
{
    Larder__Wire__Status status = LARDER__WIRE__STATUS__INIT;
    ldr_wire_reply r = LARDER__WIRE__REPLY__INIT;
    struct larder_err err = { .sys = 99 };

    r.status = &status;
    cr_expect(eq(int, ldr_wire_status(&r, &err), LARDER_OK));
    cr_expect(eq(int, err.sys, 99), "untouched");
    status.kind = LARDER_DENIED;
    status.sys = 13;
    status.http = 403;
    status.message = (char *)"100% denied";
    cr_expect(eq(int, ldr_wire_status(&r, &err), LARDER_DENIED));
    cr_expect(eq(int, err.kind, LARDER_DENIED));
    cr_expect(eq(int, err.sys, 13));
    cr_expect(eq(int, err.http, 403));
    cr_expect(eq(str, err.msg, "100% denied"));
    cr_expect(eq(int, ldr_wire_status(&r, NULL), LARDER_DENIED));
}

Test(wire, a_failure_of_a_later_release_is_internal_and_says_its_number)
{
    Larder__Wire__Status status = LARDER__WIRE__STATUS__INIT;
    ldr_wire_reply r = LARDER__WIRE__REPLY__INIT;
    struct larder_err err = { 0 };

    r.status = &status;
    status.kind = 4711;
    status.message = (char *)"too hot";
    cr_expect(eq(int, ldr_wire_status(&r, &err), LARDER_INTERNAL));
    cr_expect(strstr(err.msg, "4711") && strstr(err.msg, "too hot"), "%s", err.msg);
}

Test(wire, a_failure_with_an_endless_message_is_clipped)
{
    Larder__Wire__Status status = LARDER__WIRE__STATUS__INIT;
    ldr_wire_reply r = LARDER__WIRE__REPLY__INIT;
    struct larder_err err = { 0 };

    r.status = &status;
    status.kind = LARDER_IO;
    status.message = text(100000);
    cr_expect(eq(int, ldr_wire_status(&r, &err), LARDER_IO));
    cr_expect(lt(sz, strnlen(err.msg, sizeof err.msg), sizeof err.msg));
    free(status.message);
}

/* ---- metadata ---- */

Test(wire, metadata_arrive_as_they_were_sent)
{
    struct ldr_meta meta, back;
    Larder__Wire__Meta m;
    char etag[8];

    ldr_meta_init(&meta);
    for (int known = 0; known < 2; known++) {
        meta.size_bytes = LDR_OBJECT_SIZE_MAX;
        meta.last_modified_s = known ? -5 : LDR_TIME_UNKNOWN;
        cr_assert(ldr_meta_add_text(&meta, LDR_TAG_ETAG, "abc"));
        ldr_wire_set_meta(&meta, &m);
        cr_assert(eq(int, ldr_wire_get_meta(&m, &back, NULL), LARDER_OK));
        cr_expect(eq(u64, back.size_bytes, meta.size_bytes));
        cr_expect(eq(i64, back.last_modified_s, meta.last_modified_s));
        cr_expect(ldr_meta_text(&back, LDR_TAG_ETAG, etag, sizeof etag));
        cr_expect(eq(str, etag, "abc"));
        ldr_meta_release(&back);
    }
    ldr_meta_release(&meta);
}

Test(wire, metadata_that_are_not_well_formed_are_corrupt)
{
    Larder__Wire__Meta m = LARDER__WIRE__META__INIT;
    struct ldr_meta back = { .size_bytes = 77 };

    m.size = LDR_OBJECT_SIZE_MAX + 1;
    cr_expect(eq(int, ldr_wire_get_meta(&m, &back, NULL), LARDER_CORRUPT));
    m.size = 0;
    m.fields = (ProtobufCBinaryData){ 4, (uint8_t *)"\x01\x02\x00x" };
    cr_expect(eq(int, ldr_wire_get_meta(&m, &back, NULL), LARDER_CORRUPT));
    cr_expect(eq(u64, back.size_bytes, 77));
}

Test(wire, an_offset_that_no_object_reaches_is_invalid)
{
    ldr_wire_request r = LARDER__WIRE__REQUEST__INIT;
    Larder__Wire__Get get = LARDER__WIRE__GET__INIT;

    r.body_case = LARDER__WIRE__REQUEST__BODY_GET;
    r.get = &get;
    get.key = (char *)"s3://b/k";
    get.offset = LDR_OBJECT_SIZE_MAX;
    cr_expect(eq(int, kind_of(&r), LARDER_OK));
    get.offset = LDR_OBJECT_SIZE_MAX + 1;
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID));
    get.offset = UINT64_MAX;
    cr_expect(eq(int, kind_of(&r), LARDER_INVALID));
}
