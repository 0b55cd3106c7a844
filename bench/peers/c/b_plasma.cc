// Apache Arrow plasma (last released in pyarrow 11), C++ client of the wheel. Zero copy. ARG = socket, held:socket or unpin:socket.
// By default object 0 stays held for the life of the process, so that the store's segment stays mapped ("unpin": it does not).
// The raw-pointer Get() does NOT release by itself: be_release() must call Release(), or every later Get() of the same
// object is a local look-up that never talks to the store. That other mode is measured too, as "held".
#include "warm.h"
#include <plasma/client.h>
#include <cstdio>
#include <cstring>
static plasma::PlasmaClient c;
static plasma::ObjectBuffer b, pin;
static char cl[16];
static bool held;

static plasma::ObjectID id(unsigned i)
{
    char k[32] = { 0 };
    snprintf(k, sizeof k, "%-8s/o%010u", cl, i);
    return plasma::ObjectID::from_binary(std::string(k, 20));
}

extern "C" int be_open(const char *a, const char *cls, unsigned, size_t)
{
    snprintf(cl, sizeof cl, "%s", cls);
    held = !strncmp(a, "held:", 5);
    bool unpin = !strncmp(a, "unpin:", 6);
    a += held ? 5 : unpin ? 6 : 0;
    if (!c.Connect(a, "", 0).ok())
        return -1;
    auto o = id(0);
    bool has = false;
    if (!unpin && c.Contains(o, &has).ok() && has)
        (void)c.Get(&o, 1, 1000, &pin);
    return 0;
}

extern "C" int be_load(unsigned i, const void *p, size_t n)
{
    std::shared_ptr<arrow::Buffer> d;
    auto s = c.Create(id(i), n, nullptr, 0, &d);
    if (!s.ok()) {
        fprintf(stderr, "%s\n", s.ToString().c_str());
        return -1;
    }
    memcpy(d->mutable_data(), p, n);
    d.reset();
    return !c.Seal(id(i)).ok() || !c.Release(id(i)).ok();
}

extern "C" int be_get(unsigned i, const unsigned char **p, size_t *len)
{
    auto o = id(i);
    if (!c.Get(&o, 1, 1000, &b).ok() || !b.data)
        return -1;
    *p = b.data->data();
    *len = b.data->size();
    return 0;
}

extern "C" void be_release(unsigned i)
{
    b = plasma::ObjectBuffer();
    if (!held)
        (void)c.Release(id(i));
}
