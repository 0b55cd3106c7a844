/* profile.c - the shared files of AWS's tools: ~/.aws/config and ~/.aws/credentials (cred_impl.h).
 * A profile may get its credentials from another one (source_profile), which may do the same. Where both files know a
 * profile their settings are taken together; the credentials file counts more, and its keys come as one. */
#include "backends/cred/cred_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX (LDR_MIB) /* of either file */

enum {
    P_KEY_ID, /* the first three are the keys */
    P_SECRET,
    P_TOKEN,
    P_ROLE_ARN,
    P_SOURCE_PROFILE,
    P_CREDENTIAL_SOURCE,
    P_SESSION_NAME,
    P_EXTERNAL_ID,
    P_DURATION,
    P_TOKEN_FILE,
    P_PROCESS,
    P_REGION,
    P_MFA,
    P_SSO_SESSION,
    P_SSO_URL,
    P_SETTINGS
};
static const char *const setting_names[P_SETTINGS] = {
    [P_KEY_ID] = "aws_access_key_id",
    [P_SECRET] = "aws_secret_access_key",
    [P_TOKEN] = "aws_session_token",
    [P_ROLE_ARN] = "role_arn",
    [P_SOURCE_PROFILE] = "source_profile",
    [P_CREDENTIAL_SOURCE] = "credential_source",
    [P_SESSION_NAME] = "role_session_name",
    [P_EXTERNAL_ID] = "external_id",
    [P_DURATION] = "duration_seconds",
    [P_TOKEN_FILE] = "web_identity_token_file",
    [P_PROCESS] = "credential_process",
    [P_REGION] = "region",
    [P_MFA] = "mfa_serial",
    [P_SSO_SESSION] = "sso_session",
    [P_SSO_URL] = "sso_start_url",
};

struct files {
    struct ldr_buf config, credentials;
};

struct profile {
    char *v[P_SETTINGS]; /* NULL: not set; owned, wiped */
};

static enum larder_kind no_memory(struct larder_err *err)
{
    return ldr_fail(err, LARDER_NO_MEMORY, "out of memory for shared files");
}

/* ---- the files ---- */

/* The path that a variable names, "~/" being HOME, or else `usual` below HOME. NULL: there is none, or no memory. */
static char *path_of(const char *named, const char *home, const char *usual)
{
    char *path = NULL;

    if (named && strncmp(named, "~/", 2) != 0)
        return strdup(named);
    if (home && asprintf(&path, "%s/%s", home, named ? named + 2 : usual) == -1)
        path = NULL;
    return path;
}

/* A file that is not there says nothing. */
static enum larder_kind read_one(const char *what, char *path, struct ldr_buf *out, struct larder_err *err)
{
    enum larder_kind k = LARDER_OK;

    ldr_buf_init(out, FILE_MAX);
    if (path && (access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR)))
        k = ldr_cred_read_file(what, path, FILE_MAX, out, NULL, err);
    free(path);
    return k;
}

static void files_release(struct files *f)
{
    ldr_cred_wipe_buf(&f->config);
    ldr_cred_wipe_buf(&f->credentials);
}

static enum larder_kind files_read(const struct ldr_cred_environ *e, struct files *f, struct larder_err *err)
{
    const char *home = e->v[LDR_VAR_HOME];
    enum larder_kind k;

    *f = (struct files){ 0 };
    k = read_one("config file", path_of(e->v[LDR_VAR_CONFIG_FILE], home, ".aws/config"), &f->config, err);
    if (!k)
        k = read_one("credentials file", path_of(e->v[LDR_VAR_SHARED_CREDENTIALS_FILE], home, ".aws/credentials"),
                     &f->credentials, err);
    if (k)
        files_release(f);
    return k;
}

/* ---- a profile ---- */

static void profile_release(struct profile *p)
{
    for (int i = 0; i < P_SETTINGS; i++)
        ldr_cred_wipe(&p->v[i]);
}

static enum larder_kind profile_find(const struct files *f, const char *name, struct profile *p, bool *exists,
                                     struct larder_err *err)
{
    struct ldr_cred_want a[P_SETTINGS], b[P_SETTINGS]; /* of the credentials file, of the config file */
    bool keys_in_credentials, in_a, in_b;

    *p = (struct profile){ 0 };
    for (int i = 0; i < P_SETTINGS; i++)
        a[i] = b[i] = (struct ldr_cred_want){ .name = setting_names[i] };
    in_a = ldr_cred_ini_find((const char *)f->credentials.p, f->credentials.len, name, false, a, P_SETTINGS);
    in_b = ldr_cred_ini_find((const char *)f->config.p, f->config.len, name, true, b, P_SETTINGS);
    *exists = in_a || in_b;
    keys_in_credentials = a[P_KEY_ID].value.n > 0 || a[P_SECRET].value.n > 0;
    for (int i = 0; i < P_SETTINGS; i++) {
        bool own = i <= P_TOKEN ? keys_in_credentials : a[i].value.p != NULL;
        struct ldr_cred_span s = own ? a[i].value : b[i].value;

        if (s.n > 0 && !(p->v[i] = strndup(s.p, s.n))) {
            profile_release(p);
            return no_memory(err);
        }
    }
    return LARDER_OK;
}

/* ---- what a profile's credentials come from ---- */

struct resolving {
    const struct ldr_cred_origin *o;
    const struct files *files;
    struct ldr_cred_plan *plan;
    const char *seen[LDR_CRED_ROLES_MAX + 1]; /* profiles under way */
    size_t n_seen;
    struct larder_err *err;
};

static enum larder_kind resolve(struct resolving *r, const char *name, bool *found);

static enum larder_kind from_keys(struct resolving *r, const struct profile *p, const char *name)
{
    char who[160];

    snprintf(who, sizeof who, "profile \"%.128s\"", name);
    r->plan->base = LDR_BASE_KEYS;
    r->plan->name = "shared files";
    return ldr_cred_keys_set(&r->plan->keys, who, p->v[P_KEY_ID], p->v[P_SECRET], p->v[P_TOKEN], 0, r->err);
}

static enum larder_kind from_source(struct resolving *r, const char *source, const char *name)
{
    const struct ldr_cred_environ *e = &r->o->env;

    if (!strcmp(source, "Environment")) {
        r->plan->base = LDR_BASE_KEYS;
        r->plan->name = "environment";
        return ldr_cred_keys_set(&r->plan->keys, "the environment", e->v[LDR_VAR_ACCESS_KEY_ID],
                                 e->v[LDR_VAR_SECRET_ACCESS_KEY], e->v[LDR_VAR_SESSION_TOKEN], 0, r->err);
    }
    if (!strcmp(source, "EcsContainer"))
        return ldr_cred_plan_container(e, r->plan, r->err);
    if (!strcmp(source, "Ec2InstanceMetadata"))
        return ldr_cred_plan_instance(e, r->plan, r->err);
    return ldr_fail(r->err, LARDER_INVALID,
                    "profile \"%s\" has credential_source \"%.64s\"; accepted: Environment, Ec2InstanceMetadata, "
                    "EcsContainer",
                    name, source);
}

/* Another profile's credentials. A profile that names itself means the keys that stand in it. */
static enum larder_kind from_profile(struct resolving *r, const struct profile *p, const char *source, const char *name)
{
    enum larder_kind k;
    bool found;

    if (!strcmp(source, name) && (p->v[P_KEY_ID] || p->v[P_SECRET]))
        return from_keys(r, p, name);
    for (size_t i = 0; i < r->n_seen; i++)
        if (!strcmp(r->seen[i], source))
            return ldr_fail(r->err, LARDER_INVALID, "source_profile of profile \"%s\" leads back to profile \"%s\"",
                            name, source);
    k = resolve(r, source, &found);
    if (!k && !found)
        k = ldr_fail(r->err, LARDER_DENIED, "profile \"%s\", the source_profile of \"%s\", has no credentials", source,
                     name);
    return k;
}

static enum larder_kind add_role(struct resolving *r, const struct profile *p, const char *name)
{
    struct ldr_cred_role *role = &r->plan->roles[r->plan->n_roles];
    const char *d = p->v[P_DURATION];
    long seconds = d ? strtol(d, NULL, 10) : LDR_CRED_STS_SESSION_S;
    enum larder_kind k;

    if (seconds < 900 || seconds > 43200 || (d && strspn(d, "0123456789") != strlen(d)))
        return ldr_fail(r->err, LARDER_INVALID, "profile \"%s\": duration_seconds is not 900 to 43200", name);
    if (r->plan->n_roles == LDR_CRED_ROLES_MAX)
        return ldr_fail(r->err, LARDER_INVALID, "more than %d roles would have to be assumed one after another",
                        LDR_CRED_ROLES_MAX);
    k = ldr_cred_role_set(role, p->v[P_ROLE_ARN], p->v[P_SESSION_NAME], p->v[P_EXTERNAL_ID], r->err);
    if (k)
        return k;
    role->duration_s = (int)seconds;
    r->plan->n_roles++;
    return LARDER_OK;
}

static enum larder_kind from_role(struct resolving *r, const struct profile *p, const char *name)
{
    enum larder_kind k;

    if (p->v[P_MFA])
        return ldr_fail(r->err, LARDER_UNSUPPORTED,
                        "profile \"%s\" wants a code of device mfa_serial, which nobody can type here", name);
    if (p->v[P_TOKEN_FILE])
        return ldr_cred_plan_web_identity(r->plan, p->v[P_TOKEN_FILE], p->v[P_ROLE_ARN], p->v[P_SESSION_NAME], r->err);
    if (p->v[P_SOURCE_PROFILE] && p->v[P_CREDENTIAL_SOURCE])
        return ldr_fail(r->err, LARDER_INVALID, "profile \"%s\" has both source_profile and credential_source", name);
    if (p->v[P_SOURCE_PROFILE])
        k = from_profile(r, p, p->v[P_SOURCE_PROFILE], name);
    else if (p->v[P_CREDENTIAL_SOURCE])
        k = from_source(r, p->v[P_CREDENTIAL_SOURCE], name);
    else if (p->v[P_KEY_ID])
        k = from_keys(r, p, name);
    else
        k = ldr_fail(r->err, LARDER_INVALID,
                     "profile \"%s\" has a role_arn, but no source_profile, credential_source or "
                     "web_identity_token_file",
                     name);
    return k ? k : add_role(r, p, name);
}

/* *found false: the profile is there, and has no credentials. */
static enum larder_kind resolve(struct resolving *r, const char *name, bool *found)
{
    struct profile p;
    enum larder_kind k;
    bool exists;

    *found = true;
    if (r->n_seen == LDR_ARRAY_LEN(r->seen))
        return ldr_fail(r->err, LARDER_INVALID, "more than %d profiles take their credentials from each other",
                        LDR_CRED_ROLES_MAX);
    k = profile_find(r->files, name, &p, &exists, r->err);
    if (k)
        return k;
    r->seen[r->n_seen++] = name;
    if (!exists) {
        k = ldr_fail(r->err, LARDER_INVALID, "profile \"%.128s\" is in neither of the shared files", name);
    } else if (p.v[P_ROLE_ARN]) {
        k = from_role(r, &p, name);
    } else if (p.v[P_KEY_ID] || p.v[P_SECRET]) {
        k = from_keys(r, &p, name);
    } else if (p.v[P_PROCESS]) {
        r->plan->base = LDR_BASE_KEYS;
        r->plan->name = "credential process";
        k = ldr_cred_process(p.v[P_PROCESS], r->o->net, &r->plan->keys, r->err);
    } else if (p.v[P_SSO_SESSION] || p.v[P_SSO_URL]) {
        k = ldr_fail(r->err, LARDER_UNSUPPORTED,
                     "profile \"%.128s\" signs in by SSO; let its credential_process be: aws configure "
                     "export-credentials --format process --profile NAME",
                     name);
    } else {
        *found = false;
    }
    r->n_seen--;
    profile_release(&p);
    return k;
}

enum larder_kind ldr_cred_plan_profile(const struct ldr_cred_origin *o, struct ldr_cred_plan *p, bool *found,
                                       struct larder_err *err)
{
    const char *name = o->profile ? o->profile : o->env.v[LDR_VAR_PROFILE];
    struct profile own;
    struct files files;
    struct resolving r = { .o = o, .files = &files, .plan = p, .err = err };
    enum larder_kind k = files_read(&o->env, &files, err);
    bool exists = true;

    *found = false;
    if (k)
        return k;
    if (!name) { /* nobody named it: it need not be there */
        name = "default";
        k = profile_find(&files, name, &own, &exists, err);
        if (!k)
            profile_release(&own);
    }
    if (!k && exists)
        k = resolve(&r, name, found);
    files_release(&files);
    return k;
}

bool ldr_cred_region(const char *profile, char *out, size_t cap)
{
    const char *region = getenv("AWS_REGION");
    struct ldr_cred_environ e = { 0 };
    struct files files = { 0 };
    struct profile p = { 0 };
    bool exists, found = false;

    if (!region || !*region)
        region = getenv("AWS_DEFAULT_REGION");
    if ((!region || !*region) && ldr_cred_environ_read(&e) && !files_read(&e, &files, NULL)) {
        if (!profile || !*profile)
            profile = e.v[LDR_VAR_PROFILE] ? e.v[LDR_VAR_PROFILE] : "default";
        if (!profile_find(&files, profile, &p, &exists, NULL))
            region = p.v[P_REGION];
    }
    if (region && *region && strlen(region) < cap) {
        strcpy(out, region);
        found = true;
    }
    profile_release(&p);
    files_release(&files);
    ldr_cred_environ_release(&e);
    return found;
}
