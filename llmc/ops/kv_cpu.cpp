// KV cache writes on the CPU. Rows that follow each other in one page (a prompt) are one task, so
// that a transposed line is written in one go. Contract: kv.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/kv.h"

#include <algorithm>

namespace {

template <class T>
void store_run(View k_pages, View v_pages, const View& k, const View& v, int64_t n, int64_t count,
               int64_t slot) {
    const int64_t page_size = k_pages.shape[2], D = v_pages.shape[2], width = k.shape[1];
    const int64_t page = slot / page_size, line = slot % page_size;
    const T* in = k.as<T>() + n * k.ld;
    T* out = k_pages.as<T>() + page * k_pages.ld + line;
    for (int64_t i = 0; i < width; i++)
        for (int64_t j = 0; j < count; j++) out[i * page_size + j] = in[j * k.ld + i];
    for (int64_t j = 0; j < count; j++) {
        T* to = v_pages.as<T>() + page * v_pages.ld + (line + j) * D;
        for (int64_t i = 0; i < width; i += D)
            std::copy_n(v.as<T>() + (n + j) * v.ld + i, D, to + i * page_size);
    }
}

} // namespace

void cpu::kv_store_forward(Ctx&, View k_pages, View v_pages, const View& k, const View& v,
                           const View& slot) {
    const int64_t N = k.shape[0], page_size = k_pages.shape[2];
    const int32_t* s = slot.as<int32_t>();
    auto follows = [&](int64_t n) { // row n - 1 in its page
        return n > 0 && s[n] == s[n - 1] + 1 && s[n] % page_size != 0;
    };
    with_real(k.dtype, [&](auto x) {
        parallel_for(N, [&](int64_t n) {
            if (follows(n)) return;
            int64_t end = n + 1;
            while (end < N && follows(end)) end++;
            store_run<decltype(x)>(k_pages, v_pages, k, v, n, end - n, s[n]);
        });
    });
}
