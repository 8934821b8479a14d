// RMSNorm on the CPU: one pass to sum squares, one to write; rows in parallel. Contract: norm.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/norm.h"

#include <algorithm>
#include <cmath>

namespace {

// Sum of x y z over C elements: four partial vectors hide the add latency, joined in a fixed order.
template <class T> float dot3(const T* x, const T* y, const T* z, int64_t C) {
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

template <class T> float square_sum(const T* x, int64_t C) {
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

template <class T>
void forward_rows(View out, View residual, View rstd, const View& inp, const View& delta,
                  const View& weight, float eps) {
    const int64_t N = inp.shape[0], C = inp.shape[1];
    const T* w = weight.as<T>();
    float* s = rstd.as<float>();
    parallel_for(N, [&](int64_t n) {
        const T* x = inp.as<T>() + n * inp.ld;
        if (!delta.empty()) {
            const T* d = delta.as<T>() + n * delta.ld;
            T* r = residual.as<T>() + n * residual.ld;
            for_vectors(C, [&](int64_t c, int count) {
                auto at = [&](const T* p) { return load_tail(p + c, count, 0.0f); };
                store_tail(r + c, at(x) + at(d), count); // (N1)
            });
            x = r;
        }
        s[n] = 1.0f / std::sqrt(square_sum(x, C) / float(C) + eps);
        T* o = out.as<T>() + n * out.ld;
        for_vectors(C, [&](int64_t c, int count) {
            auto at = [&](const T* p) { return load_tail(p + c, count, 0.0f); };
            store_tail(o + c, at(x) * s[n] * at(w), count); // (N2)
        });
    });
}

template <class T>
void backward_rows(Ctx& ctx, View dresidual, View dweight, const View& dout, const View& residual,
                   const View& rstd, const View& weight) {
    const int64_t N = residual.shape[0], C = residual.shape[1];
    const T* w = weight.as<T>();
    const float* s = rstd.as<float>();
    const int64_t blocks = (N + kRowBlock - 1) / kRowBlock;
    ScratchFrame frame(ctx.scratch);
    float* partial = ctx.scratch.alloc_of<float>(blocks * C); // one dweight per row block
    parallel_for(blocks, [&](int64_t block) {
        float* dw = partial + block * C;
        std::fill(dw, dw + C, 0.0f);
        for (int64_t n = block * kRowBlock; n < std::min(N, (block + 1) * kRowBlock); n++) {
            const T* x = residual.as<T>() + n * residual.ld;
            const T* dy = dout.as<T>() + n * dout.ld;
            T* dx = dresidual.as<T>() + n * dresidual.ld;
            const float scale = s[n] * s[n] * dot3(dy, w, x, C) / float(C);
            for_vectors(C, [&](int64_t c, int count) { // (N3)
                auto at = [&](const auto* p) { return load_tail(p + c, count, 0.0f); };
                store_tail(dx + c, at(dx) + s[n] * (at(dy) * at(w) - at(x) * scale), count);
                store_tail(dw + c, at(dw) + at(dy) * at(x) * s[n], count);
            });
        }
    });
    float* dw = dweight.as<float>();
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t c = 0; c < C; c++) dw[c] += partial[block * C + c];
}

} // namespace

void cpu::rmsnorm_forward(Ctx&, View out, View residual, View rstd, const View& inp,
                          const View& delta, const View& weight, double eps) {
    with_real(inp.dtype, [&](auto x) {
        forward_rows<decltype(x)>(out, residual, rstd, inp, delta, weight, float(eps));
    });
}

void cpu::rmsnorm_backward(Ctx& ctx, View dresidual, View dweight, const View& dout,
                           const View& residual, const View& rstd, const View& weight) {
    with_real(dout.dtype, [&](auto x) {
        backward_rows<decltype(x)>(ctx, dresidual, dweight, dout, residual, rstd, weight);
    });
}

size_t cpu::rmsnorm_backward_scratch(const Ctx&, int64_t N, int64_t C) {
    return size_t((N + kRowBlock - 1) / kRowBlock * C) * sizeof(float);
}
