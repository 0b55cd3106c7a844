/* redis over a unix socket, hiredis. ARG = socket. */
#include "warm.h"
#include <hiredis/hiredis.h>
#include <stdio.h>
static redisContext *c;
static redisReply *r;
static char cl[16];

int be_open(const char *a, const char *cls, unsigned n, size_t s)
{
    (void)n;
    (void)s;
    snprintf(cl, sizeof cl, "%s", cls);
    c = redisConnectUnix(a);
    return !c || c->err;
}

int be_load(unsigned i, const void *p, size_t len)
{
    r = redisCommand(c, "SET %s/o%05u %b", cl, i, p, len);
    int bad = !r || r->type == REDIS_REPLY_ERROR;
    if (r)
        freeReplyObject(r);
    return bad;
}

int be_get(unsigned i, const unsigned char **p, size_t *len)
{
    char k[32];
    int n = snprintf(k, sizeof k, "%s/o%05u", cl, i);
    const char *v[] = { "GET", k };
    size_t l[] = { 3, (size_t)n };
    r = redisCommandArgv(c, 2, v, l);
    if (!r || r->type != REDIS_REPLY_STRING)
        return -1;
    *p = (void *)r->str;
    *len = r->len;
    return 0;
}

void be_release(unsigned i)
{
    (void)i;
    freeReplyObject(r);
}
