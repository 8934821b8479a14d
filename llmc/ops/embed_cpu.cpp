// Embedding on the CPU: rows in parallel forward, bands of columns backward. Contract: embed.h.
#include "llmc/device/parallel.h"
#include "llmc/ops/embed.h"

#include <algorithm>

void cpu::embed_forward(Ctx&, View out, const View& tokens, const View& weight) {
    const int64_t C = out.shape[1];
    const int32_t* t = tokens.as<int32_t>();
    parallel_for(out.shape[0], [&](int64_t n) { // (E1)
        std::copy_n(weight.as<float>() + t[n] * weight.ld, C, out.as<float>() + n * out.ld);
    });
}

void cpu::embed_backward(Ctx&, View dweight, const View& dout, const View& tokens) {
    constexpr int64_t kBand = 64; // columns of one task: no two tasks write the same element
    const int64_t N = dout.shape[0], C = dout.shape[1];
    const int32_t* t = tokens.as<int32_t>();
    parallel_for((C + kBand - 1) / kBand, [&](int64_t band) {
        const int64_t begin = band * kBand, count = std::min(kBand, C - begin);
        for (int64_t n = 0; n < N; n++) {
            float* row = dweight.as<float>() + t[n] * dweight.ld + begin;
            const float* d = dout.as<float>() + n * dout.ld + begin;
            for (int64_t c = 0; c < count; c++) row[c] += d[c]; // (E2)
        }
    });
}
