// Mixture of experts on the GPU: the experts' outputs, one row per slot, back to the rows they came
// from, and the gradients out to the slots. Contract: moe.h; equation (M7) in doc/equations.md.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/moe.h"

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

template <class T> struct CombineRows {
    T* out;
    const T* slots;
    const float* weights; // null: all 1
    const int* row_slot;
    int64_t out_ld, slots_ld, weights_ld;
    int N, C, K;
    bool aligned;
};

// One warp = one row, one thread = every 32nd vector of it: K vectors read and added in ascending
// k, one written. Every slot is read once: 2 (K + 1) bytes per element of out in bf16. Bound by
// memory; the K loads of a vector do not wait for each other.
//   warp w: slots (K), weights (K)
template <class T>
__global__ void __launch_bounds__(kThreads) moe_combine_forward_kernel(CombineRows<T> a) {
    DYNAMIC_SHARED(int, shared);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    int* slots = shared + warp * 2 * a.K;
    float* weights = reinterpret_cast<float*>(slots + a.K);
    const int64_t n = int64_t(blockIdx.x) * kWarps + warp;
    if (n >= a.N) return;
    for (int k = lane; k < a.K; k += 32) {
        slots[k] = a.row_slot[n * a.K + k];
        weights[k] = a.weights ? a.weights[n * a.weights_ld + k] : 1.0f;
    }
    __syncwarp();
    for (int v = lane; v < vectors_of<T>(a.C); v += 32) {
        float sum[kVector<T>] = {};
#pragma unroll 4
        for (int k = 0; k < a.K; k++) { // (M7)
            float x[kVector<T>];
            unpack(x, load_vector(a.slots + slots[k] * a.slots_ld, a.C, v, a.aligned, 0));
#pragma unroll
            for (int i = 0; i < kVector<T>; i++) sum[i] += weights[k] * x[i];
        }
        store_vector(a.out + n * a.out_ld, a.C, v, a.aligned, pack<T>(sum));
    }
}

template <class T> struct CombineGradient {
    T* dslots;
    float* dweights;
    const T *dout, *slots;
    const float* weights;
    const int* row_slot;
    int64_t dslots_ld, dweights_ld, dout_ld, slots_ld, weights_ld;
    int N, C, K;
    bool aligned;
};

// One warp = one row, whose dout waits in shared memory: every slot's output is read and its
// gradient written once, 4 K + 2 bytes per element of dout in bf16. Bound by memory. A thread reads
// only what it wrote.
//   | warp 0: dout in vectors of T | warp 1: ... |
// kStreamed, of rows too wide for that (99 KiB: C above 6336 in fp32): dout is read K times.
template <class T, bool kStreamed>
__global__ void __launch_bounds__(kThreads) moe_combine_backward_kernel(CombineGradient<T> a) {
    constexpr int kV = kVector<T>;
    DYNAMIC_SHARED(T, shared);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int vectors = vectors_of<T>(a.C);
    T* dout = shared + warp * vectors * kV;
    const int64_t n = int64_t(blockIdx.x) * kWarps + warp;
    if (n >= a.N) return;
    auto load_dout = [&](int v) {
        return load_vector(a.dout + n * a.dout_ld, a.C, v, a.aligned, 0);
    };
    for (int v = lane; v < vectors && !kStreamed; v += 32) st128(dout + v * kV, load_dout(v));
    int slot = 0; // lane l: of the l-th of 32 experts
    float weight = 0, dweight = 0;
    for (int k = 0; k < a.K; k++) {
        if (k % 32 == 0 && k + lane < a.K) {
            slot = a.row_slot[n * a.K + k + lane];
            weight = a.weights[n * a.weights_ld + k + lane];
        }
        const int64_t s = __shfl_sync(~0u, slot, k % 32);
        const float w = __shfl_sync(~0u, weight, k % 32);
        float dot = 0;
        for (int v = lane; v < vectors; v += 32) {
            float g[kV], y[kV];
            unpack(g, kStreamed ? load_dout(v) : ld128(dout + v * kV));
            unpack(y, load_vector(a.slots + s * a.slots_ld, a.C, v, a.aligned, 0));
#pragma unroll
            for (int i = 0; i < kV; i++) {
                dot += g[i] * y[i];
                g[i] *= w;
            }
            store_vector(a.dslots + s * a.dslots_ld, a.C, v, a.aligned, pack<T>(g));
        }
        dot = warp_sum(dot);
        if (lane == k % 32) dweight = dot;
        if ((k % 32 == 31 || k == a.K - 1) && lane <= k % 32)
            a.dweights[n * a.dweights_ld + k / 32 * 32 + lane] = dweight;
    }
}

template <class T>
void combine(Ctx& ctx, View out, const View& slots, const View& weights, const View& row_slot) {
    const CombineRows<T> a{static_cast<T*>(out.data),
                           static_cast<const T*>(slots.data),
                           weights.empty() ? nullptr : weights.as<float>(),
                           row_slot.as<int32_t>(),
                           out.ld,
                           slots.ld,
                           weights.ld,
                           int(out.shape[0]),
                           int(out.shape[1]),
                           int(row_slot.shape[1]),
                           aligned_rows<T>(out) && aligned_rows<T>(slots)};
    const size_t shared = size_t(kWarps * 2 * a.K) * sizeof(int);
    LAUNCH(ctx, moe_combine_forward_kernel<T>,
           (LaunchShape{(a.N + kWarps - 1) / kWarps, kThreads, 1, shared}), a);
}

template <class T>
void combine_backward(Ctx& ctx, View dslots, View dweights, const View& dout, const View& slots,
                      const View& weights, const View& row_slot) {
    const CombineGradient<T> a{static_cast<T*>(dslots.data),
                               dweights.as<float>(),
                               static_cast<const T*>(dout.data),
                               static_cast<const T*>(slots.data),
                               weights.as<float>(),
                               row_slot.as<int32_t>(),
                               dslots.ld,
                               dweights.ld,
                               dout.ld,
                               slots.ld,
                               weights.ld,
                               int(dout.shape[0]),
                               int(dout.shape[1]),
                               int(row_slot.shape[1]),
                               aligned_rows<T>(dslots) && aligned_rows<T>(dout) &&
                                   aligned_rows<T>(slots)};
    LaunchShape shape{(a.N + kWarps - 1) / kWarps, kThreads, 1,
                      size_t(kWarps) * 16 * size_t(vectors_of<T>(a.C))};
    if (!streamed(ctx, shape.shared_bytes))
        return LAUNCH(ctx, (moe_combine_backward_kernel<T, false>), shape, a);
    shape.shared_bytes = 0;
    LAUNCH(ctx, (moe_combine_backward_kernel<T, true>), shape, a);
}

} // namespace

void gpu::moe_combine_forward(Ctx& ctx, View out, const View& slots, const View& weights,
                              const View& row_slot) {
    (out.dtype == Dtype::bf16 ? combine<bf16> : combine<float>)(ctx, out, slots, weights, row_slot);
}

void gpu::moe_combine_backward(Ctx& ctx, View dslots, View dweights, const View& dout,
                               const View& slots, const View& weights, const View& row_slot) {
    (dout.dtype == Dtype::bf16
         ? combine_backward<bf16>
         : combine_backward<float>)(ctx, dslots, dweights, dout, slots, weights, row_slot);
}

void gpu::moe_gather_backward(Ctx& ctx, View dinp, const View& dslots, const View& row_slot) {
    (dinp.dtype == Dtype::bf16 ? combine<bf16> : combine<float>)(ctx, dinp, dslots, View{},
                                                                 row_slot);
}
