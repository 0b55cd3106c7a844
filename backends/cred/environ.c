/* environ.c - the variables that the chain reads, all at once: afterwards nobody depends on who else sets some
 * (cred_impl.h). */
#include "backends/cred/cred_impl.h"

#include <stdlib.h>

const char *const ldr_cred_var_names[LDR_VARS] = {
    [LDR_VAR_ACCESS_KEY_ID] = "AWS_ACCESS_KEY_ID",
    [LDR_VAR_SECRET_ACCESS_KEY] = "AWS_SECRET_ACCESS_KEY",
    [LDR_VAR_SESSION_TOKEN] = "AWS_SESSION_TOKEN",
    [LDR_VAR_WEB_IDENTITY_TOKEN_FILE] = "AWS_WEB_IDENTITY_TOKEN_FILE",
    [LDR_VAR_ROLE_ARN] = "AWS_ROLE_ARN",
    [LDR_VAR_ROLE_SESSION_NAME] = "AWS_ROLE_SESSION_NAME",
    [LDR_VAR_PROFILE] = "AWS_PROFILE",
    [LDR_VAR_CONFIG_FILE] = "AWS_CONFIG_FILE",
    [LDR_VAR_SHARED_CREDENTIALS_FILE] = "AWS_SHARED_CREDENTIALS_FILE",
    [LDR_VAR_CONTAINER_RELATIVE_URI] = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    [LDR_VAR_CONTAINER_FULL_URI] = "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    [LDR_VAR_CONTAINER_TOKEN] = "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    [LDR_VAR_CONTAINER_TOKEN_FILE] = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    [LDR_VAR_METADATA_ENDPOINT] = "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    [LDR_VAR_METADATA_ENDPOINT_MODE] = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    [LDR_VAR_METADATA_DISABLED] = "AWS_EC2_METADATA_DISABLED",
    [LDR_VAR_ENDPOINT_URL_STS] = "AWS_ENDPOINT_URL_STS",
    [LDR_VAR_ENDPOINT_URL] = "AWS_ENDPOINT_URL",
    [LDR_VAR_HOME] = "HOME",
};

bool ldr_cred_environ_read(struct ldr_cred_environ *e)
{
    bool ok = true;

    *e = (struct ldr_cred_environ){ 0 };
    for (int i = 0; i < LDR_VARS; i++)
        ok = ldr_cred_copy(&e->v[i], getenv(ldr_cred_var_names[i])) && ok;
    return ok;
}

void ldr_cred_environ_release(struct ldr_cred_environ *e)
{
    for (int i = 0; i < LDR_VARS; i++)
        ldr_cred_wipe(&e->v[i]);
}
