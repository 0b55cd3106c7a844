/* s3_impl.h - what the files of the s3 backend share.
 *   s3.c           the store: open, close, the table of its functions
 *   s3_settings.c  what it was told
 *   s3_request.c   an op's life; URL, headers and signature of its request
 *   s3_reply.c     the answer: head, body, refusals, the op's end
 *   s3_list.c      listings
 *   s3_body.c      checksums of what is sent
 *   s3_upload.c    writes in parts
 *   s3_many.c      batch delete, making buckets
 *   s3_sign.c      signed URLs
 *   s3_extra.c     addresses, regions, headers that settings add
 * Everything here runs on the store's net thread, but for hashes of large bodies (pool). */
#ifndef LDR_S3_IMPL_H
#define LDR_S3_IMPL_H

#include "backends/backend.h"
#include "backends/cred/cred.h"
#include "backends/sign/sigv4.h"
#include "backends/sum.h"
#include "backends/transport/http.h"
#include "backends/xml.h"

#define LDR_S3_URL_MAX     (48 * LDR_KIB) /* a prefix of LDR_KEY_MAX and a cursor of LDR_WIRE_START_MAX, all escaped */
#define LDR_S3_HEADERS_MAX (64 * LDR_KIB) /* of a request */
#define LDR_S3_DIRECT_MIN  (2 * LDR_MIB)  /* of a body, for which a connection is given up: see http.h, direct_into */
#define LDR_S3_ETAG_MAX    256
#define LDR_S3_CHECKSUM    "x-amz-checksum-"
#define LDR_S3_USER_META   "x-amz-meta-"
#define LDR_S3_XMLNS       "http://s3.amazonaws.com/doc/2006-03-01/"
#define LDR_S3_REGION      "us-east-1" /* where nothing says another one */
#define LDR_S3_REGION_MAX  64          /* with NUL */
#define LDR_S3_HOST_MAX    512         /* with NUL */
#define LDR_S3_CA_MAX      (8 * LDR_MIB)

/* A bucket that turned out to be in another region than the store's. */
struct s3_moved {
    char *bucket, *region; /* NULL: none */
};

struct s3 {
    struct ldr_backend base; /* first */
    /* set once in s3_open() */
    bool https, aws;     /* aws: no endpoint is configured */
    char *host, *prefix; /* of the endpoint: "host[:port]", "" or "/path" */
    char *region;
    bool region_fixed; /* it was said; else a bucket may turn out to be in another one (s3_extra.c) */
    bool direct;       /* past any proxy */
    char *ca_file;     /* NULL: the system's */
    int64_t min_speed; /* of an object's bytes, see http.h */
    enum { S3_AT_AUTO, S3_AT_PATH, S3_AT_VIRTUAL } addressing;
    enum { S3_SUM_AUTO, S3_SUM_CRC32C, S3_SUM_CRC64NVME, S3_SUM_MD5, S3_SUM_NONE } checksum; /* of what is written */
    enum { S3_SIGN_AUTO, S3_SIGN_ALWAYS, S3_SIGN_NEVER } sign_payload;
    /* of signed URLs; sign_host NULL: the store's own address, sign_region NULL: the store's own */
    char *sign_host, *sign_prefix, *sign_region;
    bool sign_https;
    bool requester_pays;
    char *sse, *sse_kms_key_id, *storage_class; /* of what is written; NULL: what the bucket says */
    char *sse_customer_key, *sse_customer_md5;  /* base64 of a key of the customer's, a secret; NULL: none */
    /* net thread */
    struct ldr_cred_source *cred;
    int64_t skew_s; /* what to add to our clock to have the store's */
    struct ldr_sigv4_key day_key;
    enum { S3_CRC_UNTRIED, S3_CRC_TAKEN, S3_CRC_IGNORED, S3_CRC_REFUSED } crc; /* what the store does with a CRC */
    struct s3_moved moved[64];
    unsigned next_moved;
};

struct s3_op {
    struct ldr_http_req http;
    struct s3 *s3;
    struct ldr_op *op;
    struct ldr_cred_ask ask_cred;

    /* the request */
    enum ldr_op_what ask;             /* op->what; of a range behind the end then HEAD: how large is the object? */
    char payload[LDR_SHA256_HEX_MAX]; /* hash of the body, or that it is not signed */
    enum ldr_sum_algo crc_algo;       /* of the body's CRC, that is sent with it; NONE */
    uint64_t crc;
    bool with_md5, with_sha; /* of the body; then md5, payload */
    uint8_t md5[LDR_SUM_RAW_MAX];
    struct ldr_buf url;
    struct ldr_buf lines; /* header lines, each ended by a NUL */
    const char *headers[LDR_SIGV4_ITEMS_MAX + 2];
    struct ldr_buf body; /* a body that is made here: XML */
    bool clock_tried;    /* sent a second time with the store's clock */
    bool cred_tried;     /* sent a second time with other credentials */
    bool crc_tried;      /* sent a second time without a CRC */
    bool region_tried;   /* sent a second time to the bucket's region */
    /* what it was signed with; others may have learnt better since */
    char key_id[160], region[LDR_S3_REGION_MAX];
    int64_t skew_s;

    /* the answer */
    bool good;           /* its status is the success of this op */
    bool told;           /* op->err says already why it fails: the sink's reason, or ours */
    struct ldr_buf text; /* the body of a refusal, or of an answer in XML */
    uint64_t due, got;   /* bytes of a get */
    struct ldr_sum sum;  /* of a get's bytes, against `want` */
    uint8_t want[LDR_SUM_RAW_MAX];
};

/* Fields of an object that are plain headers of a request and of an answer. Ended by a NULL name. */
struct ldr_s3_text_header {
    const char *name;
    enum ldr_tag tag;
    bool settable;
};
extern const struct ldr_s3_text_header ldr_s3_text_headers[];
extern const char *const ldr_s3_verbs[LDR_OP_WHATS], *const ldr_s3_methods[LDR_OP_WHATS];

/* ---- s3_settings.c ---- */
/* All of what is "set once" in *s3, and cred; base.env is there already. On failure s3 is still to be closed. */
enum larder_kind ldr_s3_settings(struct s3 *s3, const struct ldr_store_cfg *cfg, struct larder_err *err);

/* ---- s3_extra.c ---- */
bool ldr_s3_is_region(const char *text);
char *ldr_s3_aws_host(const char *region); /* "s3.REGION.amazonaws.com"; NULL: no memory */
/* The host of requests about `bucket`, of signed URLs with `sign`; *in_host: the bucket's name is a part of it, and not
 * the first one of the path. False: longer than cap. */
bool ldr_s3_host(const struct s3 *s3, const char *bucket, bool sign, char *out, size_t cap, bool *in_host);
/* The region that `bucket` is in, as far as we know. */
const char *ldr_s3_region_of(const struct s3 *s3, const char *bucket);
/* The store says that `bucket` is in `region`. True: that is news, and to be believed. */
bool ldr_s3_learn_region_on_net(struct s3 *s3, const char *bucket, const char *region);
void ldr_s3_forget_regions(struct s3 *s3);
/* Headers of o->ask that settings ask for: payer, encryption, storage class. */
enum larder_kind ldr_s3_extra_headers(struct s3_op *o, struct larder_err *err);

/* ---- s3_request.c ---- */
/* NULL: the op has ended already. */
struct s3_op *ldr_s3_begin(struct ldr_backend *b, struct ldr_op *op);
void ldr_s3_end(struct s3_op *o, enum larder_kind kind);
/* Ask for credentials, build, sign and send; again for another try. */
void ldr_s3_start_on_net(struct s3_op *o);
/* Add a header to the request; INVALID: a control character in it. */
enum larder_kind ldr_s3_header(struct s3_op *o, const char *name, const char *value, struct larder_err *err);
enum larder_kind ldr_s3_header_n(struct s3_op *o, const char *name, const void *value, size_t n,
                                 struct larder_err *err);
bool ldr_s3_param(struct ldr_buf *url, const char *name, const char *value); /* "&name=value"; nothing where empty */
/* Headers of a write: its condition, metadata. Headers of the source of a copy. */
enum larder_kind ldr_s3_condition(struct s3_op *o, struct larder_err *err);
enum larder_kind ldr_s3_put_headers(struct s3_op *o, struct larder_err *err);
enum larder_kind ldr_s3_copy_headers(struct s3_op *o, struct larder_err *err);
ldr_op_fn ldr_s3_ask, ldr_s3_put;

/* ---- s3_body.c ---- */
enum ldr_sum_algo ldr_s3_crc_algo(const struct s3_op *o); /* that a new object is sent with; NONE */
/* Sum up the body, here or on the pool, and start. PUT and UPLOAD_PART: the op's; all others: o->body. */
void ldr_s3_start_with_body_on_net(struct s3_op *o);
enum larder_kind ldr_s3_body_headers(struct s3_op *o, struct larder_err *err);
/* The header that tells a CRC. Is `text` another one, or none? */
enum larder_kind ldr_s3_crc_header(struct s3_op *o, enum ldr_sum_algo algo, uint64_t crc, struct larder_err *err);
bool ldr_s3_crc_differs(enum ldr_sum_algo algo, uint64_t crc, const char *text);
/* The head of a success: does the store have what was sent? CORRUPT: it has not. */
enum larder_kind ldr_s3_check_sent_on_net(struct s3_op *o, const struct ldr_http_reply *reply);
/* May a CRC be what this refusal is about? True: the request was started again without. */
bool ldr_s3_retry_without_crc_on_net(struct s3_op *o, int status, const char *code);

/* ---- s3_reply.c ---- */
enum larder_kind ldr_s3_on_headers(struct ldr_http_req *r, const struct ldr_http_reply *reply, struct larder_err *err);
enum larder_kind ldr_s3_on_body(struct ldr_http_req *r, const void *p, size_t n, struct larder_err *err);
bool ldr_s3_direct_into(struct ldr_http_req *r, uint64_t left, int *file, uint64_t *at);
enum larder_kind ldr_s3_on_moved(struct ldr_http_req *r, size_t n, struct larder_err *err);
void ldr_s3_on_done(struct ldr_http_req *r, enum larder_kind kind, const struct larder_err *err);
bool ldr_s3_number(const char **p, char end, uint64_t *out); /* decimal digits up to `end`, which is stepped over */
int64_t ldr_s3_time(const char *text);                       /* "2009-10-12T17:50:30.000Z"; else LDR_TIME_UNKNOWN */
/* An answer of status 200 may hold an <Error> all the same: o->text from `p` on is such a one: end with its kind. */
enum larder_kind ldr_s3_late_refusal(struct s3_op *o, const char *p, size_t n, const char *fault);
/* The kind that an error's code stands for by itself. False: it depends on more. */
bool ldr_s3_kind_of_code(const char *code, enum larder_kind *out);
/* The blanks that a store sends while it works are skipped. */
void ldr_s3_skip_blanks(const char **p, size_t *n);
bool ldr_s3_add_etag(struct ldr_meta *m, const char *value, size_t n);

/* ---- the others: read o->text of a success; queries and bodies of requests ---- */
enum larder_kind ldr_s3_listed(struct s3_op *o);
bool ldr_s3_list_query(struct ldr_buf *url, const struct ldr_op *op);

/* s3_upload.c: all UPLOAD_… ops. */
ldr_op_fn ldr_s3_upload;
bool ldr_s3_upload_query(struct ldr_buf *url, const struct s3_op *o); /* "?uploads=" and the like */
enum larder_kind ldr_s3_upload_headers(struct s3_op *o, struct larder_err *err);
enum larder_kind ldr_s3_upload_head(struct s3_op *o, const struct ldr_http_reply *reply); /* of a success */
enum larder_kind ldr_s3_uploaded(struct s3_op *o);

bool ldr_s3_prove_end_on_net(struct s3_op *o);   /* was an end done whose answer was lost? True: asks */
enum larder_kind ldr_s3_proved(struct s3_op *o); /* the answer to that */

/* s3_many.c: DELETE_MANY, MAKE_CONTAINER. */
ldr_op_fn ldr_s3_delete_many, ldr_s3_make_container;
bool ldr_s3_many_query(struct ldr_buf *url, const struct s3_op *o);
enum larder_kind ldr_s3_many_headers(struct s3_op *o, struct larder_err *err);
enum larder_kind ldr_s3_deleted_many(struct s3_op *o);

/* As the text of an element. False: full, or no memory. XML has no way to hold some texts, in whatever form. */
bool ldr_s3_xml_text(struct ldr_buf *out, const char *text);
bool ldr_s3_xml_holds(const char *text);

/* s3_sign.c */
ldr_op_fn ldr_s3_sign;
/* The URL as of `now_s`, by the store's clock. DENIED: the credentials are over. */
enum larder_kind ldr_s3_sign_at(const struct s3 *s3, struct ldr_op *op, const struct ldr_cred *cred, int64_t now_s,
                                struct larder_err *err);

#endif
