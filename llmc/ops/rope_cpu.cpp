// QK-norm and RoPE on the CPU: rows in parallel, one read and one write per head. Contract: rope.h.
#include "llmc/device/parallel.h"
#include "llmc/ops/rope.h"

#include <algorithm>
#include <cmath>

namespace {
constexpr int64_t kRowBlock = 64; // rows per partial weight gradient: fixed, so the order is too
constexpr int kParts = 16;        // interleaved partial sums of a reduction, added in a fixed order

template <class Term> float interleaved_sum(int64_t D, const Term& term) {
    float part[kParts] = {};
    int64_t d = 0;
    for (; d + kParts <= D; d += kParts)
        for (int i = 0; i < kParts; i++) part[i] += term(d + i);
    for (int i = 0; d < D; d++, i++) part[i] += term(d);
    for (int width = kParts / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}
} // namespace

void cpu::qknorm_rope_forward(Ctx&, View qk, View rstd, const View& qkv, const View& q_weight,
                              const View& k_weight, const View& table, const View& positions,
                              int heads, int kv_heads, double eps) {
    const int64_t D = table.shape[1], half = D / 2;
    const int32_t* position = positions.as<int32_t>();
    parallel_for(qkv.shape[0], [&](int64_t n) {
        const float* cosine = table.as<float>() + position[n] * table.ld;
        const float* sine = cosine + half;
        for (int h = 0; h < heads + kv_heads; h++) {
            const float* w = (h < heads ? q_weight : k_weight).as<float>();
            const float* x = qkv.as<float>() + n * qkv.ld + h * D;
            float* y = qk.as<float>() + n * qk.ld + h * D;
            const float square_sum = interleaved_sum(D, [&](int64_t d) { return x[d] * x[d]; });
            const float s = 1.0f / std::sqrt(square_sum / float(D) + float(eps)); // (R1)
            rstd.as<float>()[n * rstd.ld + h] = s;
            for (int64_t i = 0; i < half; i++) {
                const float a = x[i] * s * w[i], b = x[i + half] * s * w[i + half]; // (R2)
                y[i] = a * cosine[i] - b * sine[i];                                 // (R3)
                y[i + half] = b * cosine[i] + a * sine[i];
            }
        }
    });
}

void cpu::qknorm_rope_backward(Ctx& ctx, View dqkv, View dq_weight, View dk_weight, const View& dqk,
                               const View& rstd, const View& qkv, const View& q_weight,
                               const View& k_weight, const View& table, const View& positions,
                               int heads, int kv_heads) {
    const int64_t N = qkv.shape[0], D = table.shape[1], half = D / 2;
    const int64_t blocks = (N + kRowBlock - 1) / kRowBlock;
    const int32_t* position = positions.as<int32_t>();
    ScratchFrame frame(ctx.scratch);
    float* partial = ctx.scratch.alloc_of<float>(blocks * 3 * D); // dq weight, dk weight, one head
    parallel_for(blocks, [&](int64_t block) {
        float* dw[2] = {partial + block * 3 * D, partial + block * 3 * D + D};
        float* dnormed = partial + block * 3 * D + 2 * D;
        std::fill(dw[0], dw[0] + 2 * D, 0.0f);
        for (int64_t n = block * kRowBlock; n < std::min(N, (block + 1) * kRowBlock); n++) {
            const float* cosine = table.as<float>() + position[n] * table.ld;
            const float* sine = cosine + half;
            for (int h = 0; h < heads + kv_heads; h++) {
                const float* w = (h < heads ? q_weight : k_weight).as<float>();
                float* head_dw = dw[h < heads ? 0 : 1];
                const float* x = qkv.as<float>() + n * qkv.ld + h * D;
                const float* dy = dqk.as<float>() + n * dqk.ld + h * D;
                float* dx = dqkv.as<float>() + n * dqkv.ld + h * D;
                const float s = rstd.as<float>()[n * rstd.ld + h];
                for (int64_t i = 0; i < half; i++) { // (R4): the rotation's transpose
                    dnormed[i] = dy[i] * cosine[i] + dy[i + half] * sine[i];
                    dnormed[i + half] = dy[i + half] * cosine[i] - dy[i] * sine[i];
                }
                const float dot =
                    interleaved_sum(D, [&](int64_t d) { return dnormed[d] * w[d] * x[d]; });
                const float scale = s * s * dot / float(D);
                for (int64_t d = 0; d < D; d++) {
                    head_dw[d] += dnormed[d] * x[d] * s;
                    dx[d] = s * (dnormed[d] * w[d] - x[d] * scale);
                }
            }
        }
    });
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t d = 0; d < D; d++) {
            dq_weight.as<float>()[d] += partial[block * 3 * D + d];
            dk_weight.as<float>()[d] += partial[block * 3 * D + D + d];
        }
}
