/* cred_impl.h - what the files of backends/cred know of each other; nobody else includes it.
 *
 * New credentials are made in two steps, so that the pool is needed only while whoever asks still waits:
 *   1. plan (chain.c, on the pool): environment, shared files, token files and programs are looked at; what comes out is
 *      credentials, or what to ask which service, and the roles to assume then, in order.
 *   2. renewal (renew.c, on the net thread): the requests of the plan, one behind the other.
 *
 *   cred.c       the source: credentials at hand, who waits, when to renew
 *   keys.c       credentials as texts; those of settings, and of a secret key file
 *   chain.c      the order; environ.c: the variables it reads; profile.c, ini.c: shared files; process.c: programs
 *   sts.c imds.c container.c   one service each; call.c: a small request, repeated where that helps; json.c: its answer */
#ifndef LDR_CRED_IMPL_H
#define LDR_CRED_IMPL_H

#include "backends/cred/cred.h"
#include "backends/transport/http.h"
#include "common/buf.h"

#include <sys/stat.h>

#define LDR_CRED_ANSWER_MAX     (64 * LDR_KIB) /* bytes of a service's or a program's answer */
#define LDR_CRED_TOKEN_MAX      (16 * LDR_KIB) /* of a session, web identity or authorization token */
#define LDR_CRED_ROLES_MAX      8              /* assumed one after another */
#define LDR_CRED_PROCESS_MS     60000          /* that a credential_process may take */
#define LDR_CRED_STS_SESSION_S  3600           /* life of a session, where the profile does not say */
#define LDR_CRED_DEFAULT_REGION "us-east-1"

/* ---- texts ---- */

/* Wipe, free, set to NULL. */
void ldr_cred_wipe(char **text);
void ldr_cred_wipe_buf(struct ldr_buf *b);
/* A copy, NULL for NULL and "". False: no memory. */
bool ldr_cred_copy(char **out, const char *text);
/* A text that travels in a header or a line: INVALID where a control character stands in it. `what` names it. */
enum larder_kind ldr_cred_check_text(const char *what, const char *text, struct larder_err *err);
/* All of a small regular file (a fifo is refused, not waited for). `what` for messages: `token file`. IO, INVALID (too
 * large, a NUL in it, no regular file), NO_MEMORY. *st (may be NULL) is the file as it was read. */
enum larder_kind ldr_cred_read_file(const char *what, const char *path, size_t max, struct ldr_buf *out,
                                    struct stat *st, struct larder_err *err);
/* The text without the white space around it, in place. */
char *ldr_cred_trim(char *text);

/* ---- keys.c ---- */

/* Credentials. Texts are owned and wiped; all NULL: none. */
struct ldr_cred_keys {
    char *access_key_id, *secret_key, *token; /* token NULL: none */
    int64_t expires_s;                        /* 0: never */
};
/* Copies. DENIED where key id or secret are missing: `who` gave them. INVALID: control characters. */
enum larder_kind ldr_cred_keys_set(struct ldr_cred_keys *k, const char *who, const char *access_key_id,
                                   const char *secret_key, const char *token, int64_t expires_s,
                                   struct larder_err *err);
void ldr_cred_keys_release(struct ldr_cred_keys *k);
struct ldr_cred ldr_cred_keys_view(const struct ldr_cred_keys *k);

/* Keys of settings; with a path the secret is what the file holds. One thread at a time. */
struct ldr_cred_settings {
    struct ldr_cred_keys keys;
    char *path;       /* NULL: no file */
    struct stat seen; /* the file that the secret was read from */
};
/* Read the file where it is another one than last time. On failure the keys stay what they were. IO, INVALID. */
enum larder_kind ldr_cred_settings_look(struct ldr_cred_settings *s, struct larder_err *err);

/* ---- environ.c ---- */

enum ldr_cred_var {
    LDR_VAR_ACCESS_KEY_ID,
    LDR_VAR_SECRET_ACCESS_KEY,
    LDR_VAR_SESSION_TOKEN,
    LDR_VAR_WEB_IDENTITY_TOKEN_FILE,
    LDR_VAR_ROLE_ARN,
    LDR_VAR_ROLE_SESSION_NAME,
    LDR_VAR_PROFILE,
    LDR_VAR_CONFIG_FILE,
    LDR_VAR_SHARED_CREDENTIALS_FILE,
    LDR_VAR_CONTAINER_RELATIVE_URI,
    LDR_VAR_CONTAINER_FULL_URI,
    LDR_VAR_CONTAINER_TOKEN,
    LDR_VAR_CONTAINER_TOKEN_FILE,
    LDR_VAR_METADATA_ENDPOINT,
    LDR_VAR_METADATA_ENDPOINT_MODE,
    LDR_VAR_METADATA_DISABLED,
    LDR_VAR_ENDPOINT_URL_STS,
    LDR_VAR_ENDPOINT_URL,
    LDR_VAR_HOME,
    LDR_VARS
};
/* The environment as it was when it was read; NULL: not set, or empty. */
struct ldr_cred_environ {
    char *v[LDR_VARS];
};
extern const char *const ldr_cred_var_names[LDR_VARS];
bool ldr_cred_environ_read(struct ldr_cred_environ *e); /* false: no memory */
void ldr_cred_environ_release(struct ldr_cred_environ *e);

/* ---- plan: chain.c, profile.c ---- */

struct ldr_cred_role {
    char *arn;
    char *session_name, *external_id; /* NULL: a name of ours; none */
    int duration_s;
};

enum ldr_cred_base { LDR_BASE_KEYS, LDR_BASE_WEB_IDENTITY, LDR_BASE_CONTAINER, LDR_BASE_INSTANCE };

struct ldr_cred_plan {
    enum ldr_cred_base base;
    const char *name;          /* for people; static */
    bool fixed;                /* made again, it would be the same */
    bool last;                 /* nothing else was there, so the instance's service is a guess */
    struct ldr_cred_keys keys; /* LDR_BASE_KEYS */
    struct ldr_cred_role web;  /* LDR_BASE_WEB_IDENTITY, with `token` */
    char *url;                 /* LDR_BASE_CONTAINER; LDR_BASE_INSTANCE: its origin */
    char *token;               /* web identity; or of the container's Authorization header, NULL: none. Wiped */
    struct ldr_cred_role roles[LDR_CRED_ROLES_MAX]; /* to be assumed, in this order */
    size_t n_roles;
};
void ldr_cred_plan_release(struct ldr_cred_plan *p);

/* Where a plan comes from: all set once. */
struct ldr_cred_origin {
    bool chain;                         /* else `settings` */
    struct ldr_cred_settings *settings; /* changed by whoever makes the plan */
    struct ldr_cred_environ env;
    char *profile; /* of the settings; NULL: AWS_PROFILE */
    struct ldr_cred_role role;
    const struct ldr_net *net; /* for a program that must end when it stops */
};
/* Blocks. DENIED: no credentials anywhere; INVALID, UNSUPPORTED, IO: what is there makes no sense. */
enum larder_kind ldr_cred_plan_make(const struct ldr_cred_origin *o, struct ldr_cred_plan *out, struct larder_err *err);

/* Steps of the chain that shared files may name too. INVALID, IO. */
enum larder_kind ldr_cred_plan_container(const struct ldr_cred_environ *e, struct ldr_cred_plan *p,
                                         struct larder_err *err);
enum larder_kind ldr_cred_plan_instance(const struct ldr_cred_environ *e, struct ldr_cred_plan *p,
                                        struct larder_err *err);
enum larder_kind ldr_cred_plan_web_identity(struct ldr_cred_plan *p, const char *token_file, const char *arn,
                                            const char *session_name, struct larder_err *err);
/* INVALID: a text that is no role or no name of a session. */
enum larder_kind ldr_cred_role_set(struct ldr_cred_role *r, const char *arn, const char *session_name,
                                   const char *external_id, struct larder_err *err);
void ldr_cred_role_release(struct ldr_cred_role *r);

/* What the shared files say; *found false: there are none, or the profile (that nobody named) has no credentials. */
enum larder_kind ldr_cred_plan_profile(const struct ldr_cred_origin *o, struct ldr_cred_plan *p, bool *found,
                                       struct larder_err *err);

/* ---- ini.c ---- */

struct ldr_cred_span {
    const char *p; /* NULL: not there; not NUL-terminated */
    size_t n;
};
struct ldr_cred_want {
    const char *name; /* in lower case */
    struct ldr_cred_span value;
};
/* Values of the section [NAME] or, with `prefix`, [profile NAME] (and [NAME] for "default"); the last one of a name
 * counts. True: there is such a section. Values point into `text`. */
bool ldr_cred_ini_find(const char *text, size_t n, const char *name, bool prefix, struct ldr_cred_want *want,
                       size_t n_want);

/* ---- process.c ---- */

/* Run a credential_process and read what it prints. It is split as a shell does it (blanks, '…', "…", \), but no shell
 * runs it: no variables, pipes or wildcards. It gets no input; what it says on standard error goes to ours. Blocks up to
 * LDR_CRED_PROCESS_MS, or until `net` is stopping (CANCELLED). DENIED: it failed. INVALID: its line or its answer. */
enum larder_kind ldr_cred_process(const char *line, const struct ldr_net *net, struct ldr_cred_keys *out,
                                  struct larder_err *err);

/* ---- json.c ---- */

/* Credentials out of a JSON object: AccessKeyId, SecretAccessKey, the token under the name `token`, Expiration. `who`
 * gave it. With `version` a member Version must be 1. A member Code other than Success is a refusal. Bounded in size and
 * depth; names that come twice are refused. UNAVAILABLE: it is no such text; DENIED: Code; INVALID: control characters.
 * The bytes are the caller's to wipe. */
enum larder_kind ldr_cred_json_read(const void *p, size_t n, const char *who, const char *token, bool version,
                                    struct ldr_cred_keys *out, struct larder_err *err);
/* Seconds since 1970 of an ISO 8601 time ("2030-01-02T03:04:05[.678](Z|+01:00)"); 0: it is none. Without a zone: UTC. */
int64_t ldr_cred_time_s(const char *text);

/* ---- call.c: a small request ---- */

struct ldr_cred_call;
typedef void ldr_cred_call_fn(struct ldr_cred_call *c, enum larder_kind kind, const struct larder_err *err);

struct ldr_cred_call {
    /* set by who starts it; texts are copied, the rest is borrowed */
    const char *method;
    const char *ca_file;
    bool direct;               /* past any proxy: an address of this machine */
    unsigned tries;            /* in all, where no answer comes or the service cannot serve it now */
    uint32_t connect_ms;       /* 0: the transport's default */
    uint32_t timeout_ms;       /* of one try */
    ldr_cred_call_fn *on_done; /* OK: an answer came, of a status below 500 and other than 429 */

    /* the answer, until the next start */
    int status;
    int64_t date_s;
    struct ldr_buf body;

    /* own */
    struct ldr_net *net;
    struct ldr_http_req req;
    struct ldr_task wait;
    struct ldr_buf url, form, lines; /* lines: NUL-separated headers */
    const char *headers[8];
    size_t n_headers;
    unsigned tried;
    bool failed;
};
void ldr_cred_call_init(struct ldr_cred_call *c, struct ldr_net *net);
void ldr_cred_call_release(struct ldr_cred_call *c);
/* Forget the last request, wiping it. Then: url, headers and body of the next. False: too large, no memory. */
void ldr_cred_call_reset(struct ldr_cred_call *c);
bool ldr_cred_call_url(struct ldr_cred_call *c, const char *url, const char *more);
bool ldr_cred_call_header(struct ldr_cred_call *c, const char *name, const char *value);
/* Ends by on_done, perhaps before this returns. */
void ldr_cred_call_start(struct ldr_cred_call *c);

/* ---- renewal: renew.c and one file a service ---- */

struct ldr_cred_renewal {
    /* set by the source */
    struct ldr_net *net;
    struct ldr_pool *pool;
    const struct ldr_cred_origin *origin;
    const char *sts_url;          /* ends in '/'; NULL: a variable names nonsense */
    const char *region, *ca_file; /* ca_file NULL: the system's */
    int64_t skew_s;               /* in: of our clock; changed by a service that refused our time */
    bool met_instance;            /* the instance's service has answered before */
    void (*on_done)(struct ldr_cred_renewal *r, enum larder_kind kind, const struct larder_err *err);

    /* results: `plan` (name, fixed) and `keys` */
    struct ldr_cred_plan plan;
    struct ldr_cred_keys keys;
    int64_t date_s; /* of the service that gave the keys; 0: not said */

    /* own */
    struct ldr_task task; /* to the pool and back */
    enum larder_kind plan_kind;
    struct larder_err plan_err;
    struct ldr_cred_call call;
    size_t next_role;
    bool skew_tried;
    char *instance_token; /* of the metadata service, wiped */
};
/* Start; *r is the caller's again in on_done, which never comes before this returns. */
void ldr_cred_renew_on_net(struct ldr_cred_renewal *r);
void ldr_cred_renewal_release(struct ldr_cred_renewal *r); /* plan, keys, call: when nothing is under way */

/* The services. Each ends by ldr_cred_renew_step(): OK with r->keys set. */
void ldr_cred_instance_on_net(struct ldr_cred_renewal *r);
void ldr_cred_container_on_net(struct ldr_cred_renewal *r);
void ldr_cred_web_identity_on_net(struct ldr_cred_renewal *r);
void ldr_cred_assume_on_net(struct ldr_cred_renewal *r); /* the role before next_role, signed with r->keys */
void ldr_cred_renew_step(struct ldr_cred_renewal *r, enum larder_kind kind, const struct larder_err *err);

int64_t ldr_cred_now_s(int64_t skew_s); /* the world's time */

#endif
