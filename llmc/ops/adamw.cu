// AdamW and the global norm on the GPU. Contract: adamw.h; equations (A1)-(A5) in
// doc/equations.md.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/adamw.h"

#include <cmath>

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kVectorsPerBlock = 4096; // of one partial sum, so the order is fixed

struct Update {
    float *param, *m, *v;
    const float* grad;
    int64_t n;
    bool aligned;
    float beta1, beta2, rest1, rest2, eps, decay, scale;
    float step_size;  // lr / (1 - beta1^t)
    float rms_factor; // 1 / sqrt(1 - beta2^t)
};

// Vector `i` of an array of n elements, zeros behind it.
__device__ __forceinline__ Pack<float> load_part(const float* p, int64_t n, int64_t i,
                                                 bool aligned) {
    return load_vector(p + 4 * i, int(n - 4 * i < 4 ? n - 4 * i : 4), 0, aligned, 0);
}
__device__ __forceinline__ void store_part(float* p, int64_t n, int64_t i, bool aligned,
                                           const Pack<float>& x) {
    store_vector(p + 4 * i, int(n - 4 * i < 4 ? n - 4 * i : 4), 0, aligned, x);
}

// One thread = 4 elements: 28 bytes each, once. Bound by memory.
__global__ void __launch_bounds__(kThreads) adamw_update_kernel(Update a) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (4 * i >= a.n) return;
    const Pack<float> grad = load_part(a.grad, a.n, i, a.aligned);
    Pack<float> w = load_part(a.param, a.n, i, a.aligned);
    Pack<float> m = load_part(a.m, a.n, i, a.aligned), v = load_part(a.v, a.n, i, a.aligned);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float g = grad.v[j] * a.scale;
        m.v[j] = a.beta1 * m.v[j] + a.rest1 * g;                         // (A1)
        v.v[j] = a.beta2 * v.v[j] + a.rest2 * g * g;                     // (A2)
        const float rms = sqrtf(v.v[j]) * a.rms_factor + a.eps;          // (A3)
        w.v[j] = w.v[j] - a.decay * w.v[j] - a.step_size * m.v[j] / rms; // (A4)
    }
    store_part(a.param, a.n, i, a.aligned, w);
    store_part(a.m, a.n, i, a.aligned, m);
    store_part(a.v, a.n, i, a.aligned, v);
}

// The sum of x over the block, to thread 0. Warps are added in order.
__device__ __forceinline__ double block_sum(double x) {
    struct Sums {
        double warp[kWarps];
    };
    SHARED(Sums, s);
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) s.warp[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = 0;
    if (threadIdx.x == 0)
        for (int warp = 0; warp < kWarps; warp++) sum += s.warp[warp];
    return sum;
}

// One block = 4096 vectors, read once: 4 bytes per element.
__global__ void __launch_bounds__(kThreads)
    square_sum_kernel(double* partial, const float* grad, int64_t n, bool aligned) {
    double sum = 0;
    const int64_t first = int64_t(blockIdx.x) * kVectorsPerBlock;
    for (int i = int(threadIdx.x); i < kVectorsPerBlock && 4 * (first + i) < n; i += kThreads) {
        const Pack<float> g = load_part(grad, n, first + i, aligned);
#pragma unroll
        for (int j = 0; j < 4; j++) sum += double(g.v[j]) * double(g.v[j]); // (A5)
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(double* out, const double* partial, int count) {
    double sum = 0;
    for (int i = int(threadIdx.x); i < count; i += kThreads) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = sum;
}

} // namespace

void gpu::adamw_update(Ctx& ctx, View param, View m, View v, const View& grad, const AdamW& a) {
    const double correct1 = 1 - std::pow(a.beta1, double(a.step));
    const double correct2 = 1 - std::pow(a.beta2, double(a.step));
    const Update update{param.as<float>(),
                        m.as<float>(),
                        v.as<float>(),
                        grad.as<float>(),
                        param.shape[0],
                        aligned_rows<float>(param) && aligned_rows<float>(m) &&
                            aligned_rows<float>(v) && aligned_rows<float>(grad),
                        float(a.beta1),
                        float(a.beta2),
                        float(1 - a.beta1),
                        float(1 - a.beta2),
                        float(a.eps),
                        float(a.lr * a.weight_decay),
                        float(a.grad_scale),
                        float(a.lr / correct1),
                        float(1 / std::sqrt(correct2))};
    const int64_t per_block = 4 * kThreads;
    LAUNCH(ctx, adamw_update_kernel,
           (LaunchShape{int((update.n + per_block - 1) / per_block), kThreads, 1, 0}), update);
}

void gpu::square_sum_forward(Ctx& ctx, View out, const View& grad) {
    const int64_t n = grad.shape[0], per_block = 4 * kVectorsPerBlock;
    const int blocks = int((n + per_block - 1) / per_block);
    ScratchFrame frame(ctx.scratch);
    double* partial = ctx.scratch.alloc_of<double>(size_t(blocks));
    LAUNCH(ctx, square_sum_kernel, (LaunchShape{blocks, kThreads, 1, 0}), partial, grad.as<float>(),
           n, aligned_rows<float>(grad));
    LAUNCH(ctx, add_partials_kernel, (LaunchShape{1, kThreads, 1, 0}), out.as<double>(), partial,
           blocks);
}
