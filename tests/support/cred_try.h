/* cred_try.h - asks a source of credentials from a test's thread. */
#ifndef CRED_TRY_H
#define CRED_TRY_H

#include "backends/cred/cred.h"

#include <semaphore.h>

struct cred_try {
    struct ldr_cred_ask ask;
    struct ldr_task task;
    struct ldr_cred_source *source;
    sem_t done;
    /* what came */
    int ends;
    enum larder_kind kind;
    struct larder_err err;
    bool anonymous, has_token;
    char id[256], secret[LDR_CRED_FILE_MAX + 1], token[4096], name[64];
    int64_t expires_s;
};

/* Ask on the net thread; *t stays in place until the answer was waited for. timeout_ms negative: for ever. */
void cred_try_start(struct cred_try *t, struct ldr_net *n, struct ldr_cred_source *s, int timeout_ms);
enum larder_kind cred_try_wait(struct cred_try *t);
enum larder_kind cred_try(struct cred_try *t, struct ldr_net *n, struct ldr_cred_source *s); /* both, 20 s */

/* The functions of the net thread, called there. */
bool cred_try_refused(struct ldr_net *n, struct ldr_cred_source *s, const char *access_key_id);
void cred_try_skew(struct ldr_net *n, struct ldr_cred_source *s, int64_t skew_s);

/* No AWS variable, HOME is `home`, no metadata service: what a test starts from. */
void cred_try_clean_environment(const char *home);

#endif
