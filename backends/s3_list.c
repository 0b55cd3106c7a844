/* s3_list.c - listings (s3_impl.h): ListObjectsV2 */
#include "backends/s3_impl.h"
#include "common/hash.h"

#include <string.h>

#define LIST_KEY_MAX (3 * 4096 + 1) /* of a key in a listing, escaped */

/* With encoding-type=url keys come back that XML cannot hold. */
bool ldr_s3_list_query(struct ldr_buf *url, const struct ldr_op *op)
{
    return ldr_buf_addf(url, "?list-type=2&encoding-type=url&max-keys=%u", op->max_entries) &&
           ldr_s3_param(url, "prefix", op->key) && ldr_s3_param(url, "delimiter", op->delimiter) &&
           ldr_s3_param(url, "continuation-token", op->start);
}

/* ---- listings ---- */

/* A listing as it is read; item by item, see add_object() and add_group(). */
struct listing {
    struct ldr_op *op;
    bool escaped; /* keys are */
    const char *fault;
    char key[LIST_KEY_MAX], size[24], modified[40], etag[LDR_S3_ETAG_MAX];
};

/* In place. False: no such text, or a NUL. */
static bool unescape(char *text)
{
    char *to = text;

    for (const char *p = text; *p; p++, to++) {
        uint8_t byte;

        *to = *p == '+' ? ' ' : *p;
        if (*p != '%')
            continue;
        if (!p[1] || !p[2] || !ldr_unhex(p + 1, 2, &byte, 1) || byte == 0)
            return false;
        *to = (char)byte;
        p += 2;
    }
    *to = '\0';
    return true;
}

/* The text between the quotes, in place; NULL: nothing. */
static const char *strip_etag(char *etag)
{
    size_t n;

    if (!strncmp(etag, "W/", 2))
        etag += 2;
    n = strlen(etag);
    if (n >= 2 && etag[0] == '"' && etag[n - 1] == '"') {
        etag[n - 1] = '\0';
        etag++;
    }
    return *etag ? etag : NULL;
}

static bool list_fault(struct listing *l, const char *fault)
{
    l->fault = fault;
    return false;
}

static bool add_entry(struct listing *l, bool is_prefix, uint64_t size, int64_t modified, const char *etag)
{
    struct ldr_op *op = l->op;

    if ((l->escaped && !unescape(l->key)) || !l->key[0])
        return list_fault(l, "a key in it makes no sense");
    if (strncmp(l->key, op->key, strlen(op->key)) != 0)
        return list_fault(l, "it has keys that nobody asked for");
    if (op->page.n == op->max_entries)
        return list_fault(l, "it has more keys than were asked for");
    return ldr_page_add(&op->page, l->key, is_prefix, size, modified, etag) ||
           list_fault(l, "its keys are larger than a page may be");
}

static bool add_object(void *user)
{
    struct listing *l = user;
    const char *p = l->size;
    uint64_t size;

    if (!ldr_s3_number(&p, '\0', &size) || size > LDR_OBJECT_SIZE_MAX)
        return list_fault(l, "a size in it makes no sense");
    return add_entry(l, false, size, ldr_s3_time(l->modified), strip_etag(l->etag));
}

static bool add_group(void *user)
{
    return add_entry(user, true, 0, LDR_TIME_UNKNOWN, NULL);
}

static enum larder_kind bad_listing(struct s3_op *o, const char *fault)
{
    return ldr_fail_http(&o->op->err, LARDER_CORRUPT, 200, "could not list \"%s\": the store's answer is of no use: %s",
                         o->op->uri, fault);
}

/* Read twice: whether keys are escaped may be said behind them. */
enum larder_kind ldr_s3_listed(struct s3_op *o)
{
    struct listing l = { .op = o->op };
    char encoding[8], truncated[8], token[LDR_WIRE_START_MAX + 2];
    const struct ldr_xml_want all[] = { { "EncodingType", encoding, sizeof encoding },
                                        { "IsTruncated", truncated, sizeof truncated },
                                        { "NextContinuationToken", token, sizeof token } };
    const struct ldr_xml_want object[] = { { "Key", l.key, sizeof l.key },
                                           { "Size", l.size, sizeof l.size },
                                           { "LastModified", l.modified, sizeof l.modified },
                                           { "ETag", l.etag, sizeof l.etag } };
    const struct ldr_xml_want group[] = { { "Prefix", l.key, sizeof l.key } };
    const struct ldr_xml_item items[] = { { "Contents", object, LDR_ARRAY_LEN(object), add_object },
                                          { "CommonPrefixes", group, LDR_ARRAY_LEN(group), add_group } };
    static const char root[] = "ListBucketResult";

    if (!ldr_xml_read_items(o->text.p, o->text.len, root, all, LDR_ARRAY_LEN(all), NULL, 0, NULL))
        return bad_listing(o, o->text.len > LDR_XML_ITEMS_MAX ? "it is too large" : "it is no whole listing");
    l.escaped = !strcmp(encoding, "url");
    if (!ldr_xml_read_items(o->text.p, o->text.len, root, NULL, 0, items, LDR_ARRAY_LEN(items), &l))
        return bad_listing(o, l.fault ? l.fault : "a text in it is too long");
    if (!strcmp(truncated, "false"))
        return LARDER_OK;
    if (strcmp(truncated, "true") != 0)
        return bad_listing(o, "it does not say whether it is the last one");
    if (!token[0] || strlen(token) > LDR_WIRE_START_MAX || (o->op->start && !strcmp(token, o->op->start)))
        return bad_listing(o, "it is not the last one, and does not say where the next one starts");
    o->op->page.next = strdup(token);
    return o->op->page.next
               ? LARDER_OK
               : ldr_fail(&o->op->err, LARDER_NO_MEMORY, "out of memory for a listing of \"%s\"", o->op->uri);
}
