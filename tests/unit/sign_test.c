/* sign_test.c - tests of client/sign.c: what is asked, what is refused, and what of an answer is believed. */
#include "client/client.h"
#include "tests/support/fake_agent.h"
#include "tests/support/test_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT 20000
#define URI  "s3://bucket/a key"
#define MD5  "1B2M2Y8AsgTpgAmY7PhCfg=="

static char dir[TEST_DIR_MAX];
static struct larder *l;
static struct fake_agent agent;
static struct larder_err err;

static struct {
    int asked;
    bool put, md5_in_metadata;
    uint64_t lifetime_s;
    char key[100], md5[100], type[100];
    const char *url; /* to answer with */
    char *header[3];
    size_t n;
    enum larder_kind fail;
    bool look; /* answer with another body */
} got;

static enum fake_action answer(void *user, const ldr_wire_request *req, struct fake_reply *r)
{
    (void)user;
    if (req->body_case != LARDER__WIRE__REQUEST__BODY_SIGN)
        return FAKE_CLOSE;
    got.asked++;
    got.put = req->sign->put;
    got.md5_in_metadata = req->sign->md5_in_metadata;
    got.lifetime_s = req->sign->lifetime_s;
    snprintf(got.key, sizeof got.key, "%s", req->sign->key);
    snprintf(got.md5, sizeof got.md5, "%s", req->sign->content_md5);
    snprintf(got.type, sizeof got.type, "%s", req->sign->content_type);
    if (got.fail)
        fake_fail(r, got.fail, "it signs nothing");
    else if (got.look)
        fake_look(r, 0, NULL);
    else
        fake_signed(r, got.url, got.header, got.n, 1767225600);
    return FAKE_SEND;
}

static void make_dir(void)
{
    test_dir_make(dir);
    unsetenv("LARDER_ENDPOINT");
    got.url = "https://bucket.example/a%20key?X-Amz-Signature=0123";
    cr_assert(eq(int, larder_open(dir, &l, &err), LARDER_OK));
    fake_start(&agent, dir, answer, NULL);
}

static void remove_dir(void)
{
    larder_close(&l);
    fake_stop(&agent);
    test_dir_remove(dir);
}

TestSuite(sign, .init = make_dir, .fini = remove_dir, .timeout = 60);

static enum larder_kind sign(const struct larder_sign_opts *o)
{
    struct larder_signed s = { 0 };
    enum larder_kind k = larder_sign(l, URI, o, WAIT, &s, &err);

    larder_signed_free(&s);
    return k;
}

Test(sign, a_get_needs_no_options)
{
    struct larder_signed s = { 0 };

    cr_assert(eq(int, larder_sign(l, URI, NULL, WAIT, &s, &err), LARDER_OK), "%s", err.msg);
    cr_expect(eq(str, s.url, (char *)got.url));
    cr_expect(eq(sz, s.n_headers, 0));
    cr_expect(s.expires == 1767225600);
    cr_expect(eq(str, got.key, (char *)URI));
    cr_expect(got.lifetime_s == 3600 && !got.put);
    larder_signed_free(&s);
    cr_expect(eq(ptr, s.url, NULL));
    larder_signed_free(&s);
    larder_signed_free(NULL);
}

Test(sign, a_put_tells_what_must_be_sent)
{
    struct larder_sign_opts o = { .struct_size = sizeof o,
                                  .put = 1,
                                  .lifetime_s = 60,
                                  .content_md5 = MD5,
                                  .content_type = "text/csv",
                                  .md5_in_metadata = 1 };
    struct larder_signed s = { 0 };

    got.header[0] = (char *)"Content-MD5: " MD5;
    got.header[1] = (char *)"content-type: text/csv";
    got.n = 2;
    cr_assert(eq(int, larder_sign(l, URI, &o, WAIT, &s, &err), LARDER_OK), "%s", err.msg);
    cr_expect(got.put && got.md5_in_metadata && got.lifetime_s == 60);
    o.lifetime_s = INT64_MAX;
    cr_assert(eq(int, sign(&o), LARDER_OK));
    cr_expect(got.lifetime_s == 7 * 86400);
    cr_expect(eq(str, got.md5, (char *)MD5));
    cr_expect(eq(str, got.type, (char *)"text/csv"));
    cr_assert(eq(sz, s.n_headers, 2));
    cr_expect(eq(str, s.headers[0], got.header[0]));
    cr_expect(eq(str, s.headers[1], got.header[1]));
    larder_signed_free(&s);
}

Test(sign, what_makes_no_sense_is_not_asked)
{
    static const char *const bad_md5[] = { "",
                                           "x",
                                           "1B2M2Y8AsgTpgAmY7PhCfg",
                                           "1B2M2Y8AsgTpgAmY7PhCfh==",
                                           "1B2M2Y8AsgTpgAmY7PhCf===",
                                           "1B2M2Y8AsgTpgAmY7PhC g==" };
    struct larder_signed s;

    for (size_t i = 0; i < LDR_ARRAY_LEN(bad_md5); i++)
        cr_expect(eq(int, sign(&(struct larder_sign_opts){ .put = 1, .content_md5 = bad_md5[i] }), LARDER_INVALID),
                  "%s", bad_md5[i]);
    cr_expect(eq(int, sign(&(struct larder_sign_opts){ .lifetime_s = -1 }), LARDER_INVALID));
    cr_expect(eq(int, sign(&(struct larder_sign_opts){ .content_md5 = MD5 }), LARDER_INVALID), "of a get");
    cr_expect(eq(int, sign(&(struct larder_sign_opts){ .content_type = "a/b" }), LARDER_INVALID), "of a get");
    cr_expect(eq(int, sign(&(struct larder_sign_opts){ .put = 1, .content_type = "a\r\nb" }), LARDER_INVALID));
    cr_expect(eq(int, sign(&(struct larder_sign_opts){ .put = 1, .content_type = "" }), LARDER_INVALID));
    cr_expect(eq(int, sign(&(struct larder_sign_opts){ .put = 1, .md5_in_metadata = 1 }), LARDER_INVALID));
    cr_expect(eq(int, sign(&(struct larder_sign_opts){ .struct_size = 4 }), LARDER_INVALID));
    cr_expect(eq(int, larder_sign(l, "nonsense", NULL, WAIT, &s, &err), LARDER_INVALID));
    cr_expect(eq(int, larder_sign(l, URI, NULL, 0, &s, &err), LARDER_TIMEOUT));
    cr_expect(eq(int, got.asked, 0));
}

Test(sign, what_the_store_cannot_sign_is_unsupported)
{
    got.fail = LARDER_UNSUPPORTED;
    cr_expect(eq(int, sign(NULL), LARDER_UNSUPPORTED));
    cr_expect(eq(str, err.msg, (char *)"it signs nothing"));
}

Test(sign, an_answer_that_would_break_a_request_is_not_believed)
{
    static const char *const urls[] = { "", "https://a/b c", "https://a/b\r\nc", "https://a/\xc3\xa4" };
    static const char *const headers[] = { "", "name", "name:value", ": value", "na me: value", "name: a\r\nb" };

    for (size_t i = 0; i < LDR_ARRAY_LEN(urls); i++) {
        got.url = urls[i];
        cr_expect(eq(int, sign(NULL), LARDER_UNAVAILABLE), "%zu", i);
    }
    got.url = "https://a/b";
    got.n = 1;
    for (size_t i = 0; i < LDR_ARRAY_LEN(headers); i++) {
        got.header[0] = (char *)(uintptr_t)headers[i];
        cr_expect(eq(int, sign(NULL), LARDER_UNAVAILABLE), "%zu", i);
    }
    got.look = true;
    cr_expect(eq(int, sign(NULL), LARDER_UNAVAILABLE));
}
