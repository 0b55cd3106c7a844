/* cred.h - where a store's credentials come from: settings, a file, the environment.
 * Secrets live in memory that is wiped before it is freed, and never stand in a message. A source belongs to one store:
 * one call at a time. */
#ifndef LDR_CRED_H
#define LDR_CRED_H

#include "common/fail.h"

struct ldr_cred {
    const char *access_key_id, *secret_key; /* never NULL, may be empty */
    const char *token;                      /* of a session; NULL: none */
};

struct ldr_cred_source;

/* From settings; all texts are copied. `token` NULL or empty: none.
 * INVALID: a control character in the key id or the token (both travel in headers). */
enum larder_kind ldr_cred_static_new(const char *access_key_id, const char *secret_key, const char *token,
                                     struct ldr_cred_source **out, struct larder_err *err);
/* The secret key is what a file holds, white space around it trimmed; at most LDR_CRED_FILE_MAX bytes. It is read again
 * when the file behind `path` changes (device, inode, size or mtime), as a mounted secret does.
 * IO: the file cannot be read. INVALID: empty, too large, no regular file, or as above. */
enum larder_kind ldr_cred_file_new(const char *access_key_id, const char *path, const char *token,
                                   struct ldr_cred_source **out, struct larder_err *err);
#define LDR_CRED_FILE_MAX 4096
/* AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, as they are now. Where one of the first two is not
 * set this is no failure yet (a store that nobody uses needs none): ldr_cred_get() then says DENIED. INVALID: as above.
 */
enum larder_kind ldr_cred_env_new(struct ldr_cred_source **out, struct larder_err *err);

/* The credentials of this moment; *out is valid until the next call with this source. A file is looked at (one stat)
 * and read when it changed: it is small and local, so the net thread may do it. Kinds as for the source's constructor.
 */
enum larder_kind ldr_cred_get(struct ldr_cred_source *s, struct ldr_cred *out, struct larder_err *err);

void ldr_cred_free(struct ldr_cred_source **s);

#endif
