/* header_c11.c - larder.h as a C11 program sees it: compiled with -std=c11 -pedantic, never run. */
#include "client/larder.h"

int header_c11(void);

int header_c11(void)
{
    struct larder *l = 0;
    struct larder_object *o = 0;
    struct larder_put_opts opts = { 0 };
    struct larder_err err;
    enum larder_kind k = larder_open(0, &l, &err);

    opts.struct_size = sizeof opts;
    if (k == LARDER_OK)
        k = larder_put(l, "mem://c/k", "x", 1, &opts, -1, &err);
    if (k == LARDER_OK)
        k = larder_get(l, "mem://c/k", -1, &o, &err);
    larder_object_free(&o);
    larder_close(&l);
    return k != LARDER_OK;
}
