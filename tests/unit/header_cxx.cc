/* header_cxx.cc - larder.h as a C++17 program sees it: compiled with -std=c++17 -pedantic, never run. */
#include "client/larder.h"

#include <memory>
#include <string_view>

namespace
{
struct end_object {
    void operator()(larder_object *o) const
    {
        larder_object_free(&o);
    }
};
} // namespace

int header_cxx();

int header_cxx()
{
    larder *l = nullptr;
    larder_object *o = nullptr;
    larder_err err{};
    larder_kind k = larder_open(nullptr, &l, &err);

    if (k == LARDER_OK)
        k = larder_get(l, "mem://c/k", -1, &o, &err);
    std::unique_ptr<larder_object, end_object> owner(o);
    std::string_view bytes;
    if (owner)
        bytes = { static_cast<const char *>(larder_object_data(owner.get())), larder_object_size(owner.get()) };
    larder_close(&l);
    return bytes.empty() ? 1 : 0;
}
