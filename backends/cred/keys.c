/* keys.c - credentials as texts, and those that settings name (cred_impl.h). */
#include "backends/cred/cred_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum larder_kind ldr_cred_keys_set(struct ldr_cred_keys *k, const char *who, const char *access_key_id,
                                   const char *secret_key, const char *token, int64_t expires_s, struct larder_err *err)
{
    struct ldr_cred_keys new = { .expires_s = expires_s };
    enum larder_kind kind;

    if (!access_key_id || !*access_key_id || !secret_key || !*secret_key)
        return ldr_fail(err, LARDER_DENIED, "%s gave no %s", who,
                        access_key_id && *access_key_id ? "secret key" : "access key id");
    kind = ldr_cred_check_text("access key id", access_key_id, err);
    if (!kind)
        kind = ldr_cred_check_text("secret key", secret_key, err);
    if (!kind && token)
        kind = ldr_cred_check_text("session token", token, err);
    if (kind)
        return kind;
    if (!ldr_cred_copy(&new.access_key_id, access_key_id) || !ldr_cred_copy(&new.secret_key, secret_key) ||
        !ldr_cred_copy(&new.token, token)) {
        ldr_cred_keys_release(&new);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
    }
    ldr_cred_keys_release(k);
    *k = new;
    return LARDER_OK;
}

void ldr_cred_keys_release(struct ldr_cred_keys *k)
{
    ldr_cred_wipe(&k->access_key_id);
    ldr_cred_wipe(&k->secret_key);
    ldr_cred_wipe(&k->token);
    k->expires_s = 0;
}

struct ldr_cred ldr_cred_keys_view(const struct ldr_cred_keys *k)
{
    return (struct ldr_cred){ .access_key_id = k->access_key_id ? k->access_key_id : "",
                              .secret_key = k->secret_key ? k->secret_key : "",
                              .token = k->token,
                              .expires_s = k->expires_s };
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

enum larder_kind ldr_cred_settings_look(struct ldr_cred_settings *s, struct larder_err *err)
{
    enum larder_kind k;
    struct ldr_buf text;
    struct stat st;
    char *secret;

    if (!s->path || (s->keys.secret_key && stat(s->path, &st) == 0 && same_file(&st, &s->seen)))
        return LARDER_OK;
    k = ldr_cred_read_file("secret key file", s->path, LDR_CRED_FILE_MAX, &text, &st, err);
    if (k)
        return k;
    text.p[text.len] = '\0'; /* read_file() left room for it */
    secret = ldr_cred_trim((char *)text.p);
    if (!*secret)
        k = ldr_fail(err, LARDER_INVALID, "secret key file \"%s\" is empty", s->path);
    else if (!(secret = strdup(secret)))
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
    if (!k) {
        ldr_cred_wipe(&s->keys.secret_key);
        s->keys.secret_key = secret;
        s->seen = st;
    }
    ldr_cred_wipe_buf(&text);
    return k;
}
