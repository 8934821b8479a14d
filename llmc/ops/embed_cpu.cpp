// Embedding on the CPU: rows in parallel forward, bands of columns backward. Contract: embed.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/embed.h"

#include <algorithm>

namespace {

template <class T> void forward_rows(View out, const View& tokens, const View& weight) {
    const int64_t C = out.shape[1];
    const int32_t* t = tokens.as<int32_t>();
    parallel_for(out.shape[0], [&](int64_t n) { // (E1)
        std::copy_n(weight.as<T>() + t[n] * weight.ld, C, out.as<T>() + n * out.ld);
    });
}

template <class T> void backward_rows(View dweight, const View& dout, const View& tokens) {
    constexpr int64_t kBand = 64; // columns of one task: no two tasks write the same element
    const int64_t N = dout.shape[0], C = dout.shape[1];
    const int32_t* t = tokens.as<int32_t>();
    parallel_for((C + kBand - 1) / kBand, [&](int64_t band) {
        const int64_t begin = band * kBand, width = std::min(kBand, C - begin);
        for (int64_t n = 0; n < N; n++) {
            float* row = dweight.as<float>() + t[n] * dweight.ld + begin;
            const T* d = dout.as<T>() + n * dout.ld + begin;
            for_vectors(width, [&](int64_t c, int count) { // (E2)
                auto at = [&](const auto* p) { return load_tail(p + c, count, 0.0f); };
                store_tail(row + c, at(row) + at(d), count);
            });
        }
    });
}

} // namespace

void cpu::embed_forward(Ctx&, View out, const View& tokens, const View& weight) {
    with_real(out.dtype, [&](auto x) { forward_rows<decltype(x)>(out, tokens, weight); });
}

void cpu::embed_backward(Ctx&, View dweight, const View& dout, const View& tokens) {
    with_real(dout.dtype, [&](auto x) { backward_rows<decltype(x)>(dweight, dout, tokens); });
}

size_t cpu::embed_backward_scratch(const Ctx&, int64_t) { return 0; }
