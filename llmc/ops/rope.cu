// QK-norm and rotary positions on the GPU, in one pass. Contract: rope.h; equations (R1)-(R4) in
// doc/equations.md.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/rope.h"

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kRowsPerWarp = 16; // rows of one partial weight gradient, so the order is fixed
constexpr int kPairs = 4;        // of a lane: head width up to 256

template <class T> struct Heads {
    const T *qkv, *q_weight, *k_weight;
    const float* table;
    const int* positions;
    float* rstd;
    int64_t qkv_ld, rstd_ld, table_ld;
    int N, H, HKV, D;
};

// Pairs of a head that a lane owns: elements i and half + i, i = lane, lane + 32, ...
struct Pairs {
    float low[kPairs], high[kPairs];

    template <class T> __device__ __forceinline__ void load(const T* head, int half) {
#pragma unroll
        for (int p = 0; p < kPairs; p++) {
            const int i = int(threadIdx.x) % 32 + 32 * p;
            low[p] = i < half ? to_float(head[i]) : 0;
            high[p] = i < half ? to_float(head[half + i]) : 0;
        }
    }
    template <class T> __device__ __forceinline__ void store(T* head, int half) const {
#pragma unroll
        for (int p = 0; p < kPairs; p++) {
            const int i = int(threadIdx.x) % 32 + 32 * p;
            if (i >= half) continue;
            head[i] = from_float<T>(low[p]);
            head[half + i] = from_float<T>(high[p]);
        }
    }
    __device__ __forceinline__ float dot(const Pairs& other) const {
        float sum = 0;
#pragma unroll
        for (int p = 0; p < kPairs; p++) sum += low[p] * other.low[p] + high[p] * other.high[p];
        return warp_sum(sum);
    }
};

// The rstd of a row's heads, 32 at a time: lane l holds that of head 32 i + l.
struct HeadScales {
    float kept = 0;

    __device__ __forceinline__ void store(float* row, int h, int heads, float value) {
        const int lane = int(threadIdx.x) % 32;
        if (lane == h % 32) kept = value;
        if ((h % 32 == 31 || h == heads - 1) && lane <= h % 32) row[h - h % 32 + lane] = kept;
    }
    __device__ __forceinline__ float load(const float* row, int h, int heads) {
        const int at = h + int(threadIdx.x) % 32;
        if (h % 32 == 0) kept = at < heads ? row[at] : 0;
        return __shfl_sync(~0u, kept, h % 32);
    }
};

// One warp = 16 rows, one after the other with all their heads; a lane keeps its part of both
// weights and of the row's angles in registers. Every head is read once and written once, 4 bytes
// per element in bf16. Bound by memory.
template <class T>
__global__ void __launch_bounds__(kThreads)
    qknorm_rope_forward_kernel(T* qk, int64_t qk_ld, Heads<T> a, float eps) {
    const int half = a.D / 2, warp = int(threadIdx.x) / 32;
    Pairs q_weight, k_weight, angle;
    q_weight.load(a.q_weight, half);
    k_weight.load(a.k_weight, half);
    const int64_t first = (int64_t(blockIdx.x) * kWarps + warp) * kRowsPerWarp;
    for (int64_t n = first; n < first + kRowsPerWarp && n < a.N; n++) {
        angle.load(a.table + a.positions[n] * a.table_ld, half); // cosines low, sines high
        HeadScales rstd;
        auto run = [&](int begin, int end, const Pairs& weight) {
            for (int h = begin; h < end; h++) {
                Pairs x;
                x.load(a.qkv + n * a.qkv_ld + h * a.D, half);
                const float s = 1 / sqrtf(x.dot(x) / float(a.D) + eps); // (R1)
                rstd.store(a.rstd + n * a.rstd_ld, h, a.H + a.HKV, s);
#pragma unroll
                for (int p = 0; p < kPairs; p++) {
                    const float l = x.low[p] * s * weight.low[p]; // (R2)
                    const float r = x.high[p] * s * weight.high[p];
                    x.low[p] = l * angle.low[p] - r * angle.high[p]; // (R3)
                    x.high[p] = r * angle.low[p] + l * angle.high[p];
                }
                x.store(qk + n * qk_ld + h * a.D, half);
            }
        };
        run(0, a.H, q_weight);
        run(a.H, a.H + a.HKV, k_weight);
    }
}

// The same rows in reverse: dqk and qkv are read once, dqkv written once, 6 bytes per element in
// bf16. The weights' gradients of a warp's rows stay in registers, then go to partial
// (warps, 2, D): first q, then k.
template <class T>
__global__ void __launch_bounds__(kThreads)
    qknorm_rope_backward_kernel(T* dqkv, int64_t dqkv_ld, float* partial, const T* dqk,
                                int64_t dqk_ld, Heads<T> a) {
    const int half = a.D / 2, warp = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32;
    Pairs q_weight, k_weight, angle, dq_weight = {}, dk_weight = {};
    q_weight.load(a.q_weight, half);
    k_weight.load(a.k_weight, half);
    const int64_t first = int64_t(warp) * kRowsPerWarp;
    for (int64_t n = first; n < first + kRowsPerWarp && n < a.N; n++) {
        angle.load(a.table + a.positions[n] * a.table_ld, half);
        HeadScales rstd;
        auto run = [&](int begin, int end, const Pairs& w, Pairs& dw) {
            for (int h = begin; h < end; h++) {
                Pairs x, dy, wx;
                x.load(a.qkv + n * a.qkv_ld + h * a.D, half);
                dy.load(dqk + n * dqk_ld + h * a.D, half);
                const float s = rstd.load(a.rstd + n * a.rstd_ld, h, a.H + a.HKV);
#pragma unroll
                for (int p = 0; p < kPairs; p++) { // (R4): back through the rotation
                    const float l = dy.low[p] * angle.low[p] + dy.high[p] * angle.high[p];
                    const float r = dy.high[p] * angle.low[p] - dy.low[p] * angle.high[p];
                    wx.low[p] = x.low[p] * l;
                    wx.high[p] = x.high[p] * r;
                    dw.low[p] += wx.low[p] * s;
                    dw.high[p] += wx.high[p] * s;
                    dy.low[p] = l;
                    dy.high[p] = r;
                }
                const float scale = s * s * wx.dot(w) / float(a.D);
#pragma unroll
                for (int p = 0; p < kPairs; p++) { // and through the norm
                    x.low[p] = s * (dy.low[p] * w.low[p] - x.low[p] * scale);
                    x.high[p] = s * (dy.high[p] * w.high[p] - x.high[p] * scale);
                }
                x.store(dqkv + n * dqkv_ld + h * a.D, half);
            }
        };
        run(0, a.H, q_weight, dq_weight);
        run(a.H, a.H + a.HKV, k_weight, dk_weight);
    }
    dq_weight.store(partial + int64_t(warp) * 2 * a.D, half);
    dk_weight.store(partial + (int64_t(warp) * 2 + 1) * a.D, half);
}

template <class T>
Heads<T> heads_of(const View& rstd, const View& qkv, const View& q_weight, const View& k_weight,
                  const View& table, const View& positions, int H, int HKV) {
    const int D = int(table.shape[1]);
    require(D <= 64 * kPairs, "qknorm_rope: head width %d, at most %d", D, 64 * kPairs);
    View saved = rstd;
    return {static_cast<const T*>(qkv.data),
            static_cast<const T*>(q_weight.data),
            static_cast<const T*>(k_weight.data),
            table.as<float>(),
            positions.as<int32_t>(),
            saved.as<float>(),
            qkv.ld,
            rstd.ld,
            table.ld,
            int(qkv.shape[0]),
            H,
            HKV,
            D};
}

template <class T> int blocks_of(const Heads<T>& a) {
    return (a.N + kWarps * kRowsPerWarp - 1) / (kWarps * kRowsPerWarp);
}

template <class T> void forward(Ctx& ctx, View qk, const Heads<T>& a, double eps) {
    LAUNCH(ctx, qknorm_rope_forward_kernel<T>, (LaunchShape{blocks_of(a), kThreads, 1, 0}),
           static_cast<T*>(qk.data), qk.ld, a, float(eps));
}

template <class T>
void backward(Ctx& ctx, View dqkv, View dq_weight, View dk_weight, const View& dqk,
              const Heads<T>& a) {
    const int blocks = blocks_of(a), warps = blocks * kWarps;
    ScratchFrame frame(ctx.scratch);
    float* partial = ctx.scratch.alloc_of<float>(size_t(warps) * 2 * size_t(a.D));
    LAUNCH(ctx, qknorm_rope_backward_kernel<T>, (LaunchShape{blocks, kThreads, 1, 0}),
           static_cast<T*>(dqkv.data), dqkv.ld, partial, static_cast<const T*>(dqk.data), dqk.ld,
           a);
    const LaunchShape columns{(a.D + kThreads - 1) / kThreads, kThreads, 1, 0};
    for (const auto& [out, first] : {std::pair(dq_weight.as<float>(), partial),
                                     std::pair(dk_weight.as<float>(), partial + a.D)})
        LAUNCH(ctx, add_column_sums_kernel<float>, columns, out, first, warps, a.D, 2 * a.D);
}

} // namespace

void gpu::qknorm_rope_forward(Ctx& ctx, View qk, View rstd, const View& qkv, const View& q_weight,
                              const View& k_weight, const View& table, const View& positions,
                              int heads, int kv_heads, double eps) {
    auto run = [&]<class T>(T) {
        forward(ctx, qk,
                heads_of<T>(rstd, qkv, q_weight, k_weight, table, positions, heads, kv_heads), eps);
    };
    qkv.dtype == Dtype::bf16 ? run(bf16{}) : run(float{});
}

void gpu::qknorm_rope_backward(Ctx& ctx, View dqkv, View dq_weight, View dk_weight, const View& dqk,
                               const View& rstd, const View& qkv, const View& q_weight,
                               const View& k_weight, const View& table, const View& positions,
                               int heads, int kv_heads) {
    auto run = [&]<class T>(T) {
        backward(ctx, dqkv, dq_weight, dk_weight, dqk,
                 heads_of<T>(rstd, qkv, q_weight, k_weight, table, positions, heads, kv_heads));
    };
    qkv.dtype == Dtype::bf16 ? run(bf16{}) : run(float{});
}
