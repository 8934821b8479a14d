// KV cache writes: contract checks and reference. Contract: kv.h. Fast CPU: kv_cpu.cpp.
#include "llmc/ops/kv.h"

void check::kv_store_forward(Ctx& ctx, View k_pages, View v_pages, const View& k, const View& v,
                             const View& slot) {
    const char* op = "kv_store_forward";
    const int64_t N = k.shape[0], width = k.shape[1];
    require_shape(op, v, N, width);
    require_shape(op, slot, N);
    require_shape(op, k_pages, k_pages.shape[0], k_pages.shape[1], width);
    require_shape(op, v_pages, k_pages.shape[0], k_pages.shape[1], width);
    require_real(op, k, ctx);
    require_dtype(op, k_pages, k.dtype);
    const int32_t* s = slot.as<int32_t>();
    for (int64_t n = 0; n < N; n++)
        require(s[n] >= 0 && s[n] < k_pages.shape[0] * k_pages.shape[1], "%s: slot[%ld]=%d", op,
                long(n), s[n]);
}

void ref::kv_store_forward(Ctx&, View k_pages, View v_pages, const View& k, const View& v,
                           const View& slot) {
    const int64_t width = k.shape[1];
    for (int64_t n = 0; n < k.shape[0]; n++) {
        const int64_t line = slot.as<int32_t>()[n];
        for (int64_t i = 0; i < width; i++) {
            k_pages.as<double>()[line * width + i] = k.as<double>()[n * k.ld + i];
            v_pages.as<double>()[line * width + i] = v.as<double>()[n * v.ld + i];
        }
    }
}
