/* s3_many.c - deleting many objects by one request, and making buckets (s3_impl.h) */
#include "backends/s3_impl.h"
#include "common/uri.h"

#include <stdio.h>
#include <string.h>

/* ---- XML ---- */

bool ldr_s3_xml_text(struct ldr_buf *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        size_t n = strcspn(p, "&<>\"'\t\r\n");

        if (!ldr_buf_add(out, p, n))
            return false;
        p += n;
        if (!*p)
            break;
        if (!ldr_buf_addf(out, "&#%d;", *p)) /* white space would be changed on the way */
            return false;
    }
    return true;
}

/* Bytes of the UTF-8 character at `p`, 0: there is none that XML 1.0 has. */
static size_t xml_char(const unsigned char *p)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    uint32_t c = n == 1 ? p[0] : p[0] & (0xffu >> (n + 1));

    if (n == 0)
        return 0;
    for (size_t i = 1; i < n; i++) { /* a NUL ends it */
        if (p[i] >> 6 != 2)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < 0x20)
        return c == '\t' || c == '\n' || c == '\r' ? 1 : 0;
    return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || c == 0xfffe || c == 0xffff ? 0 : n;
}

bool ldr_s3_xml_holds(const char *text)
{
    size_t n;

    for (const unsigned char *p = (const unsigned char *)text; *p; p += n)
        if ((n = xml_char(p)) == 0)
            return false;
    return true;
}

/* ---- the request ---- */

bool ldr_s3_many_query(struct ldr_buf *url, const struct s3_op *o)
{
    return o->ask != LDR_OP_DELETE_MANY || ldr_buf_addf(url, "?delete=");
}

enum larder_kind ldr_s3_many_headers(struct s3_op *o, struct larder_err *err)
{
    return o->ask == LDR_OP_DELETE_MANY ? ldr_s3_body_headers(o, err) : LARDER_OK;
}

static bool set_item(struct ldr_delete_item *item, enum larder_kind kind, const char *why)
{
    item->kind = kind;
    snprintf(item->why, sizeof item->why, "%s", why);
    return kind == LARDER_OK;
}

static bool check_item(struct ldr_delete_item *item)
{
    if (!item->key[0])
        return set_item(item, LARDER_INVALID, "the key is empty");
    if (!ldr_s3_xml_holds(item->key))
        return set_item(item, LARDER_UNSUPPORTED, "its key cannot be told in XML: it has to be deleted by itself");
    return set_item(item, LARDER_OK, "");
}

/* How many keys are in it? -1: no memory. */
static int make_delete(struct s3_op *o)
{
    struct ldr_op *op = o->op;
    struct ldr_buf *b = &o->body;
    bool ok = ldr_buf_addf(b, "<Delete xmlns=\"" LDR_S3_XMLNS "\"><Quiet>true</Quiet>");
    int n = 0;

    for (size_t i = 0; i < op->n_items; i++) {
        if (!check_item(&op->items[i]))
            continue;
        ok = ok && ldr_buf_addf(b, "<Object><Key>") && ldr_s3_xml_text(b, op->items[i].key) &&
             ldr_buf_addf(b, "</Key></Object>");
        n++;
    }
    return ok && ldr_buf_addf(b, "</Delete>") ? n : -1;
}

void ldr_s3_delete_many(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o;
    int n;

    if (op->n_items < 1 || op->n_items > LDR_DELETE_MANY_MAX) {
        ldr_op_done(op, ldr_fail(&op->err, LARDER_INVALID, "%zu objects cannot be deleted at once; accepted: 1 to %d",
                                 op->n_items, LDR_DELETE_MANY_MAX));
        return;
    }
    o = ldr_s3_begin(b, op);
    if (!o)
        return;
    n = make_delete(o);
    if (n < 0)
        ldr_s3_end(o, ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for a request"));
    else if (n == 0)
        ldr_s3_end(o, LARDER_OK); /* there is nothing to ask */
    else
        ldr_s3_start_with_body_on_net(o);
}

/* A store with an endpoint of its own has its own idea of where a bucket is; us-east-1 is what nothing said means. */
void ldr_s3_make_container(struct ldr_backend *b, struct ldr_op *op)
{
    struct s3_op *o = ldr_s3_begin(b, op);
    const char *region;

    if (!o)
        return;
    region = ldr_s3_region_of(o->s3, op->container);
    if (o->s3->aws && strcmp(region, "us-east-1") != 0 &&
        !ldr_buf_addf(&o->body,
                      "<CreateBucketConfiguration xmlns=\"" LDR_S3_XMLNS "\"><LocationConstraint>%s"
                      "</LocationConstraint></CreateBucketConfiguration>",
                      region))
        ldr_s3_end(o, ldr_fail(&op->err, LARDER_NO_MEMORY, "out of memory for a request"));
    else
        ldr_s3_start_with_body_on_net(o);
}

/* ---- the answer: what could not be deleted ---- */

struct failures {
    struct ldr_op *op;
    bool strange; /* it names an object that nobody asked for */
    char key[LDR_KEY_MAX + 1], code[64], text[4096];
};

static bool on_failure(void *user)
{
    struct failures *f = user;
    enum larder_kind kind = LARDER_UNAVAILABLE; /* as any refusal with a code that says no more */
    char why[sizeof f->op->items->why];
    bool found = false;

    ldr_s3_kind_of_code(f->code, &kind);
    if (kind == LARDER_NOT_FOUND && strcmp(f->code, "NoSuchBucket") != 0)
        kind = LARDER_OK; /* gone is gone */
    snprintf(why, sizeof why, "%s%s%.90s", f->code, f->text[0] ? ": " : "", f->text);
    for (char *p = why; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
    for (size_t i = 0; i < f->op->n_items; i++)
        if (!strcmp(f->op->items[i].key, f->key)) {
            set_item(&f->op->items[i], kind, kind ? why : "");
            found = true;
        }
    f->strange = f->strange || !found;
    return found;
}

enum larder_kind ldr_s3_deleted_many(struct s3_op *o)
{
    struct failures f = { .op = o->op, .strange = false };
    const struct ldr_xml_want want[] = { { "Key", f.key, sizeof f.key },
                                         { "Code", f.code, sizeof f.code },
                                         { "Message", f.text, sizeof f.text } };
    const struct ldr_xml_item items[] = { { "Error", want, LDR_ARRAY_LEN(want), on_failure } };
    const char *p = (const char *)o->text.p;
    size_t n = o->text.len;

    ldr_s3_skip_blanks(&p, &n);
    if (ldr_xml_read_items(p, n, "DeleteResult", NULL, 0, items, LDR_ARRAY_LEN(items), &f))
        return LARDER_OK;
    if (f.strange)
        return ldr_fail_http(&o->op->err, LARDER_CORRUPT, 200,
                             "could not delete many of \"%s\": the store's answer names an object that was not asked "
                             "for",
                             o->op->uri);
    return ldr_s3_late_refusal(o, p, n, "makes no sense");
}
