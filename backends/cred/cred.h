/* cred.h - where a store's credentials come from, and who renews them when.
 *
 * A source belongs to one store and lives on the store's net thread. Whoever needs credentials asks; the answer comes at
 * once while those at hand are good, else when new ones are there: one request of whatever kind serves everybody who
 * waits. Renewal starts ahead of expiry, while the old ones are still handed out; where it fails they stay in use until
 * they really end, and the next try waits a little.
 *
 * The chain of "iam", first that is configured (the order and names of AWS's SDKs; docs/stores/s3.md). Where that one
 * does not work this is an error, no reason to try the next. A profile that the settings name goes before 1 and 2.
 *   1. environment     AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
 *   2. web identity    AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN, AWS_ROLE_SESSION_NAME
 *   3. shared files    AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE: keys, role_arn with source_profile or
 *                      credential_source, web_identity_token_file, credential_process
 *   4. container       AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN[_FILE]
 *   5. instance        the EC2 metadata service, version 2; AWS_EC2_METADATA_SERVICE_ENDPOINT, AWS_EC2_METADATA_DISABLED
 *
 * Variables are read by ldr_cred_new(), once; files at each renewal. Programs and shared files are looked at on the pool,
 * services are asked on the net thread; one stat of the secret key file (small and local) is all that blocks there.
 * Secrets live in memory that is wiped before it is freed, and never stand in a message. */
#ifndef LDR_CRED_H
#define LDR_CRED_H

#include "backends/pool.h"
#include "backends/transport/net.h"
#include "common/fail.h"

#define LDR_CRED_FILE_MAX 4096 /* bytes of a secret key file */

struct ldr_cred {
    bool anonymous;                         /* requests are not signed; what follows is empty */
    const char *access_key_id, *secret_key; /* never NULL, may be empty */
    const char *token;                      /* of a session; NULL: none */
    int64_t expires_s;                      /* seconds since 1970; 0: they do not expire */
};

struct ldr_cred_source;

/* Where credentials are to come from. All texts are copied; NULL or empty: not set. */
struct ldr_cred_cfg {
    enum { LDR_CRED_KEYS, LDR_CRED_CHAIN, LDR_CRED_ANONYMOUS } how;
    /* LDR_CRED_KEYS: access_key_id with secret_key, or with what the file behind secret_key_path holds (white space
     * trimmed, read again when device, inode, size or mtime change, as a mounted secret does) */
    const char *access_key_id, *secret_key, *secret_key_path, *token;
    /* LDR_CRED_CHAIN */
    const char *profile; /* in place of AWS_PROFILE */
    /* either: a role that is assumed with the credentials found */
    const char *role_arn, *role_session_name, *external_id;
    const char
        *sts_endpoint;     /* "http[s]://host[:port]"; else AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL, STS of `region` */
    const char *region;    /* that STS is asked in and signed for; NULL: us-east-1 */
    const char *ca_file;   /* as for the store; NULL: the system's */
    struct ldr_net *net;   /* borrowed */
    struct ldr_pool *pool; /* borrowed; for LDR_CRED_CHAIN, and for a role */
};

/* Checks settings and reads files, asks nobody: that is done at the first ask. Any thread.
 * IO: a file cannot be read. INVALID: a setting or a file makes no sense (its name is told); a control character in a
 * key id or a token (both travel in headers). */
enum larder_kind ldr_cred_new(const struct ldr_cred_cfg *cfg, struct ldr_cred_source **out, struct larder_err *err);
/* Wipes. NULL is allowed. When nobody has asked yet, or when the net thread is freed: it may renew ahead for nobody. The
 * pool may be freed before that thread, once the last ask was answered and ldr_net_shutdown() has begun: a renewal uses
 * it only from inside the ask that starts it, and a program that runs then is ended. */
void ldr_cred_free(struct ldr_cred_source **s);

/* Embedded in who asks; borrowed until `ready`. */
struct ldr_cred_ask {
    struct ldr_cred_ask *next;
    int64_t deadline_ns; /* CLOCK_MONOTONIC; nobody waits longer: TIMEOUT */
    /* Exactly once, perhaps before ldr_cred_ask_on_net() returns. `cred` is valid during the call, NULL on failure.
     * DENIED: there are none, or whoever gives them refuses. UNAVAILABLE: whoever gives them does not answer, or only
     * nonsense. CANCELLED: the net thread is stopping. INVALID, UNSUPPORTED, IO: variables or files make no sense. */
    void (*ready)(struct ldr_cred_ask *a, enum larder_kind kind, const struct ldr_cred *cred,
                  const struct larder_err *err);
};
/* Net thread only. */
void ldr_cred_ask_on_net(struct ldr_cred_source *s, struct ldr_cred_ask *a);
/* The store says that these are expired or unknown: unless others have come since, the next ask waits for new ones. False:
 * they never change (settings without a file), so that asking again is of no use. */
bool ldr_cred_refused_on_net(struct ldr_cred_source *s, const char *access_key_id);
/* Seconds to add to this node's clock to have the world's: learnt from a server that refused our time. */
void ldr_cred_set_skew_on_net(struct ldr_cred_source *s, int64_t skew_s);

/* Which source gives the credentials now, for people: "environment", "web identity", …; no secret. Net thread. */
const char *ldr_cred_name(const struct ldr_cred_source *s);

/* The region that environment or shared files name (AWS_REGION, AWS_DEFAULT_REGION, `region` of the profile). False:
 * none. `profile` NULL: AWS_PROFILE. Any thread. */
bool ldr_cred_region(const char *profile, char *out, size_t cap);

#endif
