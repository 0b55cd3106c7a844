/* Stock LMDB, opened read-only by every process. ARG = DIR. One read txn per get (renew/reset), zero copy. */
#include "warm.h"
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
static MDB_env *e;
static MDB_dbi db;
static MDB_txn *t;
static char cl[16];
static int rw;

int be_open(const char *arg, const char *cls, unsigned n, size_t size)
{
    snprintf(cl, sizeof cl, "%s", cls);
    rw = !strncmp(arg, "rw:", 3);
    if (rw)
        arg += 3;
    char d[512];
    snprintf(d, sizeof d, "%s/%s", arg, cls);
    mkdir(arg, 0755);
    mkdir(d, 0755);
    if (mdb_env_create(&e) || mdb_env_set_mapsize(e, (size_t)n * (size + 8192) + (64 << 20)) ||
        mdb_env_set_maxreaders(e, 64) || mdb_env_open(e, d, rw ? MDB_NOSYNC : MDB_RDONLY | MDB_NORDAHEAD, 0644) ||
        mdb_txn_begin(e, 0, rw ? 0 : MDB_RDONLY, &t) || mdb_dbi_open(t, 0, 0, &db))
        return -1;
    if (rw)
        return mdb_txn_commit(t);
    mdb_txn_reset(t);
    return 0;
}

int be_load(unsigned i, const void *p, size_t len)
{
    char k[32];
    MDB_val a = { snprintf(k, sizeof k, "%s/o%05u", cl, i), k }, b = { len, (void *)p };
    return mdb_txn_begin(e, 0, 0, &t) || mdb_put(t, db, &a, &b, 0) || mdb_txn_commit(t);
}

int be_get(unsigned i, const unsigned char **p, size_t *len)
{
    char k[32];
    MDB_val a = { snprintf(k, sizeof k, "%s/o%05u", cl, i), k }, b;
    if (mdb_txn_renew(t) || mdb_get(t, db, &a, &b))
        return -1;
    *p = b.mv_data;
    *len = b.mv_size;
    return 0;
}

void be_release(unsigned i)
{
    (void)i;
    mdb_txn_reset(t);
}
