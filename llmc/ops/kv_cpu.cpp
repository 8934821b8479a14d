// KV cache writes on the CPU: rows in parallel. Contract: kv.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/kv.h"

#include <algorithm>

void cpu::kv_store_forward(Ctx&, View k_pages, View v_pages, const View& k, const View& v,
                           const View& slot) {
    const int64_t width = k.shape[1];
    with_real(k.dtype, [&](auto x) {
        using T = decltype(x);
        parallel_for(k.shape[0], [&](int64_t n) {
            const int64_t line = slot.as<int32_t>()[n];
            std::copy_n(k.as<T>() + n * k.ld, width, k_pages.as<T>() + line * width);
            std::copy_n(v.as<T>() + n * v.ld, width, v_pages.as<T>() + line * width);
        });
    });
}
