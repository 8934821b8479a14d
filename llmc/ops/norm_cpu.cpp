// RMSNorm on the CPU: one pass to sum squares, one to write; rows in parallel. Contract: norm.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/norm.h"

#include <algorithm>
#include <cmath>

namespace {

// x . y over C elements: four partial vectors hide the add latency, joined in a fixed order.
float dot3(const float* x, const float* y, const float* z, int64_t C) {
    Vf sum[4] = {};
    int64_t c = 0;
    for (; c + 4 * kLanes <= C; c += 4 * kLanes)
        for (int u = 0; u < 4; u++)
            sum[u] +=
                load(x + c + u * kLanes) * load(y + c + u * kLanes) * load(z + c + u * kLanes);
    for (; c + kLanes <= C; c += kLanes) sum[0] += load(x + c) * load(y + c) * load(z + c);
    if (c < C)
        sum[0] += load_tail(x + c, int(C - c), 0.0f) * load_tail(y + c, int(C - c), 0.0f) *
                  load_tail(z + c, int(C - c), 0.0f);
    return lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

float square_sum(const float* x, int64_t C) {
    Vf sum[4] = {};
    int64_t c = 0;
    for (; c + 4 * kLanes <= C; c += 4 * kLanes)
        for (int u = 0; u < 4; u++) {
            Vf v = load(x + c + u * kLanes);
            sum[u] += v * v;
        }
    for (; c + kLanes <= C; c += kLanes) sum[0] += load(x + c) * load(x + c);
    if (c < C) {
        Vf v = load_tail(x + c, int(C - c), 0.0f);
        sum[0] += v * v;
    }
    return lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

constexpr int64_t kRowBlock = 64; // rows per partial dweight: fixed, so the order is too

} // namespace

void cpu::rmsnorm_forward(Ctx&, View out, View residual, View rstd, const View& inp,
                          const View& delta, const View& weight, double eps) {
    const int64_t N = inp.shape[0], C = inp.shape[1];
    const float* w = weight.as<float>();
    float* s = rstd.as<float>();
    parallel_for(N, [&](int64_t n) {
        const float* x = inp.as<float>() + n * inp.ld;
        if (!delta.empty()) {
            const float* d = delta.as<float>() + n * delta.ld;
            float* r = residual.as<float>() + n * residual.ld;
            for (int64_t c = 0; c < C; c++) r[c] = x[c] + d[c]; // (N1)
            x = r;
        }
        s[n] = 1.0f / std::sqrt(square_sum(x, C) / float(C) + float(eps));
        float* o = out.as<float>() + n * out.ld;
        for (int64_t c = 0; c < C; c++) o[c] = x[c] * s[n] * w[c]; // (N2)
    });
}

void cpu::rmsnorm_backward(Ctx& ctx, View dresidual, View dweight, const View& dout,
                           const View& residual, const View& rstd, const View& weight) {
    const int64_t N = residual.shape[0], C = residual.shape[1];
    const float *w = weight.as<float>(), *s = rstd.as<float>();
    const int64_t blocks = (N + kRowBlock - 1) / kRowBlock;
    ScratchFrame frame(ctx.scratch);
    float* partial = ctx.scratch.alloc_of<float>(blocks * C); // one dweight per row block
    parallel_for(blocks, [&](int64_t block) {
        float* dw = partial + block * C;
        std::fill(dw, dw + C, 0.0f);
        for (int64_t n = block * kRowBlock; n < std::min(N, (block + 1) * kRowBlock); n++) {
            const float* x = residual.as<float>() + n * residual.ld;
            const float* dy = dout.as<float>() + n * dout.ld;
            float* dx = dresidual.as<float>() + n * dresidual.ld;
            float scale = s[n] * s[n] * dot3(dy, w, x, C) / float(C);
            for (int64_t c = 0; c < C; c++) { // (N3)
                dx[c] += s[n] * (dy[c] * w[c] - x[c] * scale);
                dw[c] += dy[c] * x[c] * s[n];
            }
        }
    });
    float* dw = dweight.as<float>();
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t c = 0; c < C; c++) dw[c] += partial[block * C + c];
}
