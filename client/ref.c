/* ref.c - references as Flyte's storage layer writes them: common/uri.h under its public names. Any thread. */
#include "client/larder.h"
#include "common/uri.h"

#include <stdlib.h>

enum larder_kind larder_ref_split(const char *reference, struct larder_ref *out, struct larder_err *err)
{
    struct ldr_ref r;
    enum larder_kind k =
        reference ? ldr_ref_split(reference, &r, err) : ldr_fail(err, LARDER_INVALID, "no reference was given");

    if (!k)
        *out = (struct larder_ref){ r.scheme, r.container, r.key };
    return k;
}

void larder_ref_free(struct larder_ref *r)
{
    struct ldr_ref inner;

    if (!r)
        return;
    inner = (struct ldr_ref){ r->scheme, r->container, r->key };
    ldr_ref_release(&inner);
    *r = (struct larder_ref){ 0 };
}

enum larder_kind larder_ref_join(const char *base, const char *const keys[], size_t n, char **out,
                                 struct larder_err *err)
{
    if (!base)
        return ldr_fail(err, LARDER_INVALID, "no base reference was given");
    return ldr_ref_join(base, keys, n, out, err);
}

void larder_free(void *p)
{
    free(p);
}
