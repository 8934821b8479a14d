// KV cache writes: contract checks and reference. Contract: kv.h. Fast CPU: kv_cpu.cpp.
#include "llmc/ops/kv.h"

void check::kv_store_forward(Ctx& ctx, View k_pages, View v_pages, const View& k, const View& v,
                             const View& slot) {
    const char* op = "kv_store_forward";
    const int64_t N = k.shape[0], width = k.shape[1];
    require_shape(op, v, N, width);
    require_shape(op, slot, N);
    const int64_t pages = k_pages.shape[0], page_size = k_pages.shape[2], D = v_pages.shape[2];
    require(D >= 1 && width % D == 0, "%s: heads of %ld over %ld columns", op, long(D),
            long(width));
    require_shape(op, k_pages, pages, width, page_size);
    require_shape(op, v_pages, pages, width / D * page_size, D);
    require_real(op, k, ctx);
    require_dtypes(op, k.dtype, {&v, &k_pages, &v_pages});
    require_dtype(op, slot, Dtype::i32);
    if (!ctx.checks_values()) return;
    const int32_t* s = slot.as<int32_t>();
    for (int64_t n = 0; n < N; n++)
        require(s[n] >= 0 && s[n] < pages * page_size, "%s: slot[%ld]=%d", op, long(n), s[n]);
}

void ref::kv_store_forward(Ctx&, View k_pages, View v_pages, const View& k, const View& v,
                           const View& slot) {
    const int64_t page_size = k_pages.shape[2], D = v_pages.shape[2];
    for (int64_t n = 0; n < k.shape[0]; n++) {
        const int64_t page = slot.as<int32_t>()[n] / page_size;
        const int64_t line = slot.as<int32_t>()[n] % page_size;
        for (int64_t i = 0; i < k.shape[1]; i++) {
            const int64_t head = i / D, d = i % D;
            k_pages.as<double>()[page * k_pages.ld + i * page_size + line] =
                k.as<double>()[n * k.ld + i];
            v_pages.as<double>()[page * v_pages.ld + (head * page_size + line) * D + d] =
                v.as<double>()[n * v.ld + i];
        }
    }
}
