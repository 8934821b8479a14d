// AdamW on the CPU: one vectorised pass over blocks in parallel. Contract: adamw.h.
#include "llmc/device/parallel.h"
#include "llmc/ops/adamw.h"

#include <algorithm>
#include <cmath>

static constexpr int64_t kBlock = 1 << 14; // elements of one task

void cpu::adamw_update(Ctx&, View param, View m, View v, const View& grad, const AdamW& a) {
    const int64_t n = param.shape[0];
    const float beta1 = float(a.beta1), beta2 = float(a.beta2), eps = float(a.eps);
    const float rest1 = float(1 - a.beta1), rest2 = float(1 - a.beta2);
    const float step_size = float(a.lr / (1 - std::pow(a.beta1, double(a.step))));
    const float rms_factor = float(1 / std::sqrt(1 - std::pow(a.beta2, double(a.step))));
    const float decay = float(a.lr * a.weight_decay), scale = float(a.grad_scale);
    parallel_for((n + kBlock - 1) / kBlock, [&](int64_t block) {
        const int64_t begin = block * kBlock, count = std::min(kBlock, n - begin);
        float* __restrict w = param.as<float>() + begin;
        float* __restrict m1 = m.as<float>() + begin;
        float* __restrict m2 = v.as<float>() + begin;
        const float* __restrict grads = grad.as<float>() + begin;
        for (int64_t i = 0; i < count; i++) {
            const float g = grads[i] * scale;
            m1[i] = beta1 * m1[i] + rest1 * g;                     // (A1)
            m2[i] = beta2 * m2[i] + rest2 * g * g;                 // (A2)
            const float rms = std::sqrt(m2[i]) * rms_factor + eps; // (A3)
            w[i] = w[i] - decay * w[i] - step_size * m1[i] / rms;  // (A4)
        }
    });
}

void cpu::square_sum_forward(Ctx& ctx, View out, const View& grad) {
    const int64_t n = grad.shape[0], blocks = (n + kBlock - 1) / kBlock;
    const float* g = grad.as<float>();
    ScratchFrame frame(ctx.scratch);
    double* partial = ctx.scratch.alloc_of<double>(blocks);
    parallel_for(blocks, [&](int64_t block) {
        double sum[16] = {};
        const int64_t end = std::min(n, (block + 1) * kBlock);
        int64_t i = block * kBlock;
        for (; i + 16 <= end; i += 16)
            for (int j = 0; j < 16; j++) sum[j] += double(g[i + j]) * double(g[i + j]);
        for (int j = 0; i < end; i++, j++) sum[j] += double(g[i]) * double(g[i]);
        for (int j = 1; j < 16; j++) sum[0] += sum[j];
        partial[block] = sum[0];
    });
    double total = 0;
    for (int64_t block = 0; block < blocks; block++) total += partial[block]; // (A5)
    out.as<double>()[0] = total;
}
