// AdamW on the CPU: one vectorised pass over blocks in parallel. Contract: adamw.h.
#include "llmc/device/parallel.h"
#include "llmc/ops/adamw.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t kBlock = 1 << 14; // elements of one task

// What an element needs beside its own values.
struct Factors {
    float beta1, beta2, rest1, rest2, eps, decay, scale;
    float step_size;  // lr / (1 - beta1^t)
    float rms_factor; // 1 / sqrt(1 - beta2^t)
};

// A function of its own: the compiler believes __restrict of parameters, and vectorises.
void update_block(float* __restrict w, float* __restrict m, float* __restrict v,
                  const float* __restrict grad, int64_t count, const Factors f) {
    for (int64_t i = 0; i < count; i++) {
        const float g = grad[i] * f.scale;
        m[i] = f.beta1 * m[i] + f.rest1 * g;                      // (A1)
        v[i] = f.beta2 * v[i] + f.rest2 * g * g;                  // (A2)
        const float rms = std::sqrt(v[i]) * f.rms_factor + f.eps; // (A3)
        w[i] = w[i] - f.decay * w[i] - f.step_size * m[i] / rms;  // (A4)
    }
}

} // namespace

void cpu::adamw_update(Ctx&, View param, View m, View v, const View& grad, const AdamW& a) {
    const int64_t n = param.shape[0];
    Factors f;
    f.beta1 = float(a.beta1), f.rest1 = float(1 - a.beta1);
    f.beta2 = float(a.beta2), f.rest2 = float(1 - a.beta2);
    f.eps = float(a.eps), f.decay = float(a.lr * a.weight_decay), f.scale = float(a.grad_scale);
    f.step_size = float(a.lr / (1 - std::pow(a.beta1, double(a.step))));
    f.rms_factor = float(1 / std::sqrt(1 - std::pow(a.beta2, double(a.step))));
    parallel_for((n + kBlock - 1) / kBlock, [&](int64_t block) {
        const int64_t begin = block * kBlock, count = std::min(kBlock, n - begin);
        update_block(param.as<float>() + begin, m.as<float>() + begin, v.as<float>() + begin,
                     grad.as<float>() + begin, count, f);
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
