/* cred.c - see cred.h. */
#include "backends/cred/cred.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct ldr_cred_source {
    char *access_key_id, *secret_key, *token; /* owned, wiped; token NULL: none */
    char *path;                               /* of the secret key; NULL: it does not come from a file */
    struct stat seen;                         /* the file that secret_key was read from */
    const char *missing;                      /* variable that the environment lacks; NULL: none */
};

static void wipe(char **text)
{
    if (*text)
        OPENSSL_cleanse(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

/* A header's value: what could end it or add another one is refused. */
static enum larder_kind check_text(const char *what, const char *text, struct larder_err *err)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return ldr_fail(err, LARDER_INVALID, "the %s holds a control character", what);
    return LARDER_OK;
}

static enum larder_kind source_new(const char *access_key_id, const char *secret_key, const char *token,
                                   const char *path, struct ldr_cred_source **out, struct larder_err *err)
{
    bool with_token = token && *token;
    struct ldr_cred_source *s = NULL;
    enum larder_kind k = check_text("access key id", access_key_id, err);

    if (!k && with_token)
        k = check_text("session token", token, err);
    if (k)
        return k;
    s = calloc(1, sizeof *s);
    if (s) {
        s->access_key_id = strdup(access_key_id);
        s->secret_key = strdup(secret_key);
        s->token = with_token ? strdup(token) : NULL;
        s->path = path ? strdup(path) : NULL;
    }
    if (!s || !s->access_key_id || !s->secret_key || (with_token && !s->token) || (path && !s->path)) {
        ldr_cred_free(&s);
        return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
    }
    *out = s;
    return LARDER_OK;
}

enum larder_kind ldr_cred_static_new(const char *access_key_id, const char *secret_key, const char *token,
                                     struct ldr_cred_source **out, struct larder_err *err)
{
    return source_new(access_key_id, secret_key, token, NULL, out, err);
}

enum larder_kind ldr_cred_env_new(struct ldr_cred_source **out, struct larder_err *err)
{
    const char *id = getenv("AWS_ACCESS_KEY_ID"), *secret = getenv("AWS_SECRET_ACCESS_KEY");

    enum larder_kind k;

    if (id && *id && secret && *secret)
        return source_new(id, secret, getenv("AWS_SESSION_TOKEN"), NULL, out, err);
    k = source_new("", "", NULL, NULL, out, err);
    if (!k)
        (*out)->missing = !id || !*id ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY";
    return k;
}

enum larder_kind ldr_cred_file_new(const char *access_key_id, const char *path, const char *token,
                                   struct ldr_cred_source **out, struct larder_err *err)
{
    struct ldr_cred_source *s = NULL;
    struct ldr_cred now;
    enum larder_kind k = source_new(access_key_id, "", token, path, &s, err);

    if (!k)
        k = ldr_cred_get(s, &now, err);
    if (k)
        ldr_cred_free(&s);
    else
        *out = s;
    return k;
}

/* All of a small file into buf[LDR_CRED_FILE_MAX + 1]; *len > LDR_CRED_FILE_MAX: it is larger. */
static bool read_all(int fd, char *buf, size_t *len)
{
    *len = 0;
    while (*len <= LDR_CRED_FILE_MAX) {
        ssize_t n = read(fd, buf + *len, LDR_CRED_FILE_MAX + 1 - *len);

        if (n == 0)
            return true;
        if (n == -1 && errno != EINTR)
            return false;
        if (n > 0)
            *len += (size_t)n;
    }
    return true;
}

static char *trim(char *text, size_t len)
{
    static const char white[] = " \t\r\n\v\f";

    while (len > 0 && strchr(white, text[len - 1]))
        len--;
    text[len] = '\0';
    return text + strspn(text, white);
}

static enum larder_kind read_secret(struct ldr_cred_source *s, struct larder_err *err)
{
    char buf[LDR_CRED_FILE_MAX + 2], *secret, *copy;
    enum larder_kind k = LARDER_OK;
    struct stat st;
    size_t len = 0;
    int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo is refused below, not waited for */

    if (fd == -1 || fstat(fd, &st) == -1) {
        k = ldr_fail_sys(err, LARDER_IO, "could not open secret key file \"%s\"", s->path);
        goto done;
    }
    if (!S_ISREG(st.st_mode))
        k = ldr_fail(err, LARDER_INVALID, "secret key file \"%s\" is no regular file", s->path);
    else if (!read_all(fd, buf, &len))
        k = ldr_fail_sys(err, LARDER_IO, "could not read secret key file \"%s\"", s->path);
    else if (len > LDR_CRED_FILE_MAX)
        k = ldr_fail(err, LARDER_INVALID, "secret key file \"%s\" is larger than %d bytes", s->path, LDR_CRED_FILE_MAX);
    else if (memchr(buf, '\0', len))
        k = ldr_fail(err, LARDER_INVALID, "secret key file \"%s\" holds a NUL", s->path);
    if (k)
        goto done;
    secret = trim(buf, len);
    if (!*secret) {
        k = ldr_fail(err, LARDER_INVALID, "secret key file \"%s\" is empty", s->path);
        goto done;
    }
    copy = strdup(secret);
    if (!copy) {
        k = ldr_fail(err, LARDER_NO_MEMORY, "out of memory for credentials");
        goto done;
    }
    wipe(&s->secret_key);
    s->secret_key = copy;
    s->seen = st;
done:
    OPENSSL_cleanse(buf, sizeof buf);
    if (fd != -1)
        close(fd);
    return k;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

enum larder_kind ldr_cred_get(struct ldr_cred_source *s, struct ldr_cred *out, struct larder_err *err)
{
    struct stat st;

    if (s->missing)
        return ldr_fail(err, LARDER_DENIED, "no credentials: the agent's environment has no %s", s->missing);
    if (s->path && (stat(s->path, &st) == -1 || !same_file(&st, &s->seen))) {
        enum larder_kind k = read_secret(s, err); /* says what is wrong when it is gone */

        if (k)
            return k;
    }
    *out = (struct ldr_cred){ s->access_key_id, s->secret_key, s->token };
    return LARDER_OK;
}

void ldr_cred_free(struct ldr_cred_source **ps)
{
    struct ldr_cred_source *s = *ps;

    if (!s)
        return;
    wipe(&s->access_key_id);
    wipe(&s->secret_key);
    wipe(&s->token);
    free(s->path);
    free(s);
    *ps = NULL;
}
