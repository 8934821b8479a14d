// Contract: memory.h.
#include "llmc/device/memory.h"

#include <cstring>

void fill_zero(Ctx& ctx, View view) {
    require(view.contiguous(), "fill_zero: %s is strided", view.name);
    ctx.enqueue([view] { std::memset(view.data, 0, view.bytes()); });
}

void copy_tensor(Ctx& ctx, View to, const View& from) {
    require(to.contiguous() && from.contiguous(), "copy_tensor: %s or %s is strided", to.name,
            from.name);
    require(to.dtype == from.dtype && to.size() == from.size(), "copy_tensor: %s %s %s, %s %s %s",
            to.name, dtype_name(to.dtype), shape_text(to).c_str(), from.name,
            dtype_name(from.dtype), shape_text(from).c_str());
    ctx.enqueue([to, from] { std::memcpy(to.data, from.data, to.bytes()); });
}
