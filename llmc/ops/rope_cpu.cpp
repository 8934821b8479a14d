// QK-norm and RoPE on the CPU: rows in parallel, one read and one write per head. Contract: rope.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/rope.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t kRowBlock = 64; // rows per partial weight gradient: fixed, so the order is too

// A head is two halves of `half` values, element i rotated with element i + half. What one row's
// heads of one kind share:
template <class T> struct HeadShape {
    int half;
    const T* weight;
    const float *cosine, *sine;
};

template <class T> float head_forward(T* y, const T* x, const HeadShape<T>& head, float eps) {
    const int half = head.half;
    Vf sum_low = {}, sum_high = {};
    for_vectors(half, [&](int64_t i, int count) {
        const Vf low = load_tail(x + i, count, 0.0f), high = load_tail(x + half + i, count, 0.0f);
        sum_low += low * low;
        sum_high += high * high;
    });
    const float s = 1.0f / std::sqrt(lane_sum(sum_low + sum_high) / float(2 * half) + eps); // (R1)
    for_vectors(half, [&](int64_t i, int count) {
        auto at = [count](const auto* p) { return load_tail(p, count, 0.0f); };
        const Vf a = at(x + i) * s * at(head.weight + i); // (R2)
        const Vf b = at(x + half + i) * s * at(head.weight + half + i);
        const Vf cosine = at(head.cosine + i), sine = at(head.sine + i);
        store_tail(y + i, a * cosine - b * sine, count); // (R3)
        store_tail(y + half + i, b * cosine + a * sine, count);
    });
    return s;
}

// dw += the weight's gradient. `dnormed` (2 half) keeps the gradient of (R2)'s values between the
// two passes.
template <class T>
void head_backward(T* dx, float* dw, float* dnormed, const T* dy, const T* x, float s,
                   const HeadShape<T>& head) {
    const int half = head.half;
    Vf dot_low = {}, dot_high = {};
    for_vectors(half, [&](int64_t i, int count) {
        auto at = [count](const auto* p) { return load_tail(p, count, 0.0f); };
        const Vf low = at(dy + i), high = at(dy + half + i);
        const Vf cosine = at(head.cosine + i), sine = at(head.sine + i);
        const Vf a = low * cosine + high * sine, b = high * cosine - low * sine; // (R4)
        const Vf xa = a * at(x + i), xb = b * at(x + half + i);
        dot_low += xa * at(head.weight + i);
        dot_high += xb * at(head.weight + half + i);
        store_tail(dw + i, at(dw + i) + xa * s, count);
        store_tail(dw + half + i, at(dw + half + i) + xb * s, count);
        store_tail(dnormed + i, a, count);
        store_tail(dnormed + half + i, b, count);
    });
    const float scale = s * s * lane_sum(dot_low + dot_high) / float(2 * half);
    for (int part = 0; part < 2 * half; part += half)
        for_vectors(half, [&](int64_t i, int count) {
            auto at = [&](const auto* p) { return load_tail(p + part + i, count, 0.0f); };
            store_tail(dx + part + i, s * (at(dnormed) * at(head.weight) - at(x) * scale), count);
        });
}

template <class T>
void forward_rows(View qk, View rstd, const View& qkv, const View& q_weight, const View& k_weight,
                  const View& table, const View& positions, int heads, int kv_heads, double eps) {
    const int64_t D = table.shape[1];
    const T *qw = q_weight.as<T>(), *kw = k_weight.as<T>();
    const int32_t* position = positions.as<int32_t>();
    parallel_for(qkv.shape[0], [&](int64_t n) {
        const float* cosine = table.as<float>() + position[n] * table.ld;
        const T* x = qkv.as<T>() + n * qkv.ld;
        T* y = qk.as<T>() + n * qk.ld;
        float* s = rstd.as<float>() + n * rstd.ld;
        for (int h = 0; h < heads + kv_heads; h++)
            s[h] = head_forward<T>(y + h * D, x + h * D,
                                   {int(D / 2), h < heads ? qw : kw, cosine, cosine + D / 2},
                                   float(eps));
    });
}

template <class T>
void backward_rows(Ctx& ctx, View dqkv, View dq_weight, View dk_weight, const View& dqk,
                   const View& rstd, const View& qkv, const View& q_weight, const View& k_weight,
                   const View& table, const View& positions, int heads, int kv_heads) {
    const int64_t N = qkv.shape[0], D = table.shape[1];
    const int64_t blocks = (N + kRowBlock - 1) / kRowBlock;
    const T *qw = q_weight.as<T>(), *kw = k_weight.as<T>();
    const int32_t* position = positions.as<int32_t>();
    ScratchFrame frame(ctx.scratch);
    float* partial = ctx.scratch.alloc_of<float>(blocks * 3 * D); // dq weight, dk weight, one head
    parallel_for(blocks, [&](int64_t block) {
        float *dqw = partial + block * 3 * D, *dkw = dqw + D, *dnormed = dkw + D;
        std::fill(dqw, dqw + 2 * D, 0.0f);
        for (int64_t n = block * kRowBlock; n < std::min(N, (block + 1) * kRowBlock); n++) {
            const float* cosine = table.as<float>() + position[n] * table.ld;
            const T *x = qkv.as<T>() + n * qkv.ld, *dy = dqk.as<T>() + n * dqk.ld;
            const float* s = rstd.as<float>() + n * rstd.ld;
            T* dx = dqkv.as<T>() + n * dqkv.ld;
            for (int h = 0; h < heads + kv_heads; h++)
                head_backward<T>(dx + h * D, h < heads ? dqw : dkw, dnormed, dy + h * D, x + h * D,
                                 s[h], {int(D / 2), h < heads ? qw : kw, cosine, cosine + D / 2});
        }
    });
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t d = 0; d < D; d++) {
            dq_weight.as<float>()[d] += partial[block * 3 * D + d];
            dk_weight.as<float>()[d] += partial[block * 3 * D + D + d];
        }
}

} // namespace

void cpu::qknorm_rope_forward(Ctx&, View qk, View rstd, const View& qkv, const View& q_weight,
                              const View& k_weight, const View& table, const View& positions,
                              int heads, int kv_heads, double eps) {
    with_real(qkv.dtype, [&](auto x) {
        forward_rows<decltype(x)>(qk, rstd, qkv, q_weight, k_weight, table, positions, heads,
                                  kv_heads, eps);
    });
}

void cpu::qknorm_rope_backward(Ctx& ctx, View dqkv, View dq_weight, View dk_weight, const View& dqk,
                               const View& rstd, const View& qkv, const View& q_weight,
                               const View& k_weight, const View& table, const View& positions,
                               int heads, int kv_heads) {
    with_real(qkv.dtype, [&](auto x) {
        backward_rows<decltype(x)>(ctx, dqkv, dq_weight, dk_weight, dqk, rstd, qkv, q_weight,
                                   k_weight, table, positions, heads, kv_heads);
    });
}
