// RMSNorm on the GPU, with the residual's addition in the same pass. Contract: norm.h; equations
// (N1)-(N3) in doc/equations.md. Rows wait in shared memory while a sum over them is taken. Those
// too wide for that (99 KiB: C above 5068 in fp32, 10136 in bf16; backward 6334 and 10134) are
// streamed: read twice, by the kernels' forms of that name. A test asks for these by path 0.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/norm.h"

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kRowsPerWarp = 8;   // forward: a block reads the weight once for 32 rows
constexpr int kRowsPerBlock = 64; // backward: rows of one partial dweight, so the order is fixed

template <class T> struct NormRows {
    T *out, *residual;
    float* rstd;
    const T *inp, *delta, *weight; // delta may be null
    int64_t out_ld, residual_ld, inp_ld, delta_ld;
    int N, C;
    bool aligned;
    float eps;
};

// One warp = one row at a time, which waits in shared memory while its squares are summed: inp and
// delta are read once, residual and out written once, 8 bytes per element in bf16. Bound by
// memory. A thread reads from shared memory only what it wrote, but for the weight.
//   | weight | row of warp 0 | row of warp 1 | ... |   vectors of T each
// kStreamed: the second sweep reads the stream again, which the same thread has read or written,
// and the weight: 10 bytes per element in bf16 and 2 of weight out of L2. The bits are the same.
template <class T, bool kStreamed>
__global__ void __launch_bounds__(kThreads) rmsnorm_forward_kernel(NormRows<T> a) {
    constexpr int K = kVector<T>;
    DYNAMIC_SHARED(T, shared);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int vectors = vectors_of<T>(a.C);
    T* weight = shared;
    T* kept = shared + (1 + warp) * vectors * K;
    if constexpr (!kStreamed) {
        for (int v = int(threadIdx.x); v < vectors; v += kThreads)
            st128(weight + v * K, load_vector(a.weight, a.C, v, a.aligned, 0));
        __syncthreads();
    }
    const int64_t first = (int64_t(blockIdx.x) * kWarps + warp) * kRowsPerWarp;
    for (int64_t n = first; n < first + kRowsPerWarp && n < a.N; n++) {
        float sum = 0;
        for (int v = lane; v < vectors; v += 32) {
            Pack<T> x = load_vector(a.inp + n * a.inp_ld, a.C, v, a.aligned, 0);
            if (a.delta) {
                const Pack<T> d = load_vector(a.delta + n * a.delta_ld, a.C, v, a.aligned, 0);
#pragma unroll
                for (int i = 0; i < K; i++)
                    x.v[i] = from_float<T>(to_float(x.v[i]) + to_float(d.v[i])); // (N1)
                store_vector(a.residual + n * a.residual_ld, a.C, v, a.aligned, x);
            }
            if constexpr (!kStreamed) st128(kept + v * K, x);
#pragma unroll
            for (int i = 0; i < K; i++) sum += to_float(x.v[i]) * to_float(x.v[i]);
        }
        const float rstd = 1 / sqrtf(warp_sum(sum) / float(a.C) + a.eps);
        if (lane == 0) a.rstd[n] = rstd;
        const T* stream = a.delta ? a.residual + n * a.residual_ld : a.inp + n * a.inp_ld;
        for (int v = lane; v < vectors; v += 32) {
            float x[K], w[K];
            if constexpr (kStreamed) {
                unpack(x, load_vector(stream, a.C, v, a.aligned, 0));
                unpack(w, load_vector(a.weight, a.C, v, a.aligned, 0));
            } else {
                unpack(x, ld128(kept + v * K));
                unpack(w, ld128(weight + v * K));
            }
#pragma unroll
            for (int i = 0; i < K; i++) x[i] = x[i] * rstd * w[i]; // (N2)
            store_vector(a.out + n * a.out_ld, a.C, v, a.aligned, pack<T>(x));
        }
    }
}

template <class T> struct NormGradient {
    T* dresidual;
    float* partial; // (blocks, C): the dweight of each block's rows
    const T *dout, *residual;
    const float* rstd;
    const T* weight;
    int64_t dresidual_ld, dout_ld, residual_ld;
    int N, C;
    bool aligned;
};

struct RowSums {
    float warp[2][kWarps]; // in turn, so that one barrier a row is enough
};

// One block = 64 rows, one after the other: dout and residual are read once, dresidual read and
// written, 8 bytes per element in bf16. Every thread owns some columns, of which it keeps weight,
// dweight and the row's values in shared memory; only the sums over a row meet.
//   | weight, dout, residual: vectors of T | dweight: K / 4 vectors of float for each of those |
template <class T>
__global__ void __launch_bounds__(kThreads) rmsnorm_backward_kernel(NormGradient<T> a) {
    constexpr int K = kVector<T>;
    SHARED(RowSums, sums);
    DYNAMIC_SHARED(T, shared);
    const int t = int(threadIdx.x), vectors = vectors_of<T>(a.C);
    T *weight = shared, *kept_dout = weight + vectors * K, *kept = kept_dout + vectors * K;
    float* dweight = reinterpret_cast<float*>(kept + vectors * K);
    for (int v = t; v < vectors; v += kThreads) {
        st128(weight + v * K, load_vector(a.weight, a.C, v, a.aligned, 0));
        for (int j = 0; j < K / 4; j++) st128(dweight + (j * vectors + v) * 4, Pack<float>{});
    }
    const int64_t first = int64_t(blockIdx.x) * kRowsPerBlock;
    float rstd = 0; // lane l: of the l-th of 32 rows
    for (int64_t n = first; n < first + kRowsPerBlock && n < a.N; n++) {
        if ((n - first) % 32 == 0) rstd = n + t % 32 < a.N ? a.rstd[n + t % 32] : 0;
        float dot = 0;
        for (int v = t; v < vectors; v += kThreads) {
            const Pack<T> dy = load_vector(a.dout + n * a.dout_ld, a.C, v, a.aligned, 0);
            const Pack<T> x = load_vector(a.residual + n * a.residual_ld, a.C, v, a.aligned, 0);
            const Pack<T> w = ld128(weight + v * K);
            st128(kept_dout + v * K, dy);
            st128(kept + v * K, x);
#pragma unroll
            for (int i = 0; i < K; i++)
                dot += to_float(dy.v[i]) * to_float(w.v[i]) * to_float(x.v[i]);
        }
        dot = warp_sum(dot);
        float* row_sums = sums.warp[n % 2];
        if (t % 32 == 0) row_sums[t / 32] = dot;
        __syncthreads();
        dot = 0;
        for (int warp = 0; warp < kWarps; warp++) dot += row_sums[warp];
        const float s = __shfl_sync(~0u, rstd, int(n - first) % 32),
                    scale = s * s * dot / float(a.C);
        for (int v = t; v < vectors; v += kThreads) {
            float dy[K], x[K], w[K], dx[K];
            unpack(dy, ld128(kept_dout + v * K));
            unpack(x, ld128(kept + v * K));
            unpack(w, ld128(weight + v * K));
            T* row = a.dresidual + n * a.dresidual_ld;
            unpack(dx, load_vector(row, a.C, v, a.aligned, 0));
#pragma unroll
            for (int i = 0; i < K; i++) dx[i] += s * (dy[i] * w[i] - x[i] * scale); // (N3)
            store_vector(row, a.C, v, a.aligned, pack<T>(dx));
#pragma unroll
            for (int j = 0; j < K / 4; j++) {
                Pack<float> dw = ld128(dweight + (j * vectors + v) * 4);
#pragma unroll
                for (int i = 0; i < 4; i++) dw.v[i] += dy[4 * j + i] * x[4 * j + i] * s;
                st128(dweight + (j * vectors + v) * 4, dw);
            }
        }
    }
    __syncthreads(); // 4 columns a thread, side by side: columns of other threads
    float* out = a.partial + int64_t(blockIdx.x) * a.C;
    for (int part = t; part < vectors * (K / 4); part += kThreads)
        store_vector(out, a.C, part, a.C % 4 == 0,
                     ld128(dweight + (part % (K / 4) * vectors + part / (K / 4)) * 4));
}

// The same for rows of any width. One block = 64 rows twice: first a warp a row for its sum, then a
// thread a vector of columns, whose weight and dweight stay in registers while all rows pass by.
// dout and residual are read twice, 12 bytes per element in bf16.
template <class T>
__global__ void __launch_bounds__(kThreads) rmsnorm_backward_streamed_kernel(NormGradient<T> a) {
    constexpr int K = kVector<T>;
    struct RowTerms {
        float rstd[kRowsPerBlock], dot[kRowsPerBlock];
    };
    SHARED(RowTerms, terms);
    const int t = int(threadIdx.x), vectors = vectors_of<T>(a.C);
    const int64_t first = int64_t(blockIdx.x) * kRowsPerBlock;
    const int rows = int(a.N - first < kRowsPerBlock ? a.N - first : kRowsPerBlock);
    if (t < rows) terms.rstd[t] = a.rstd[first + t];
    for (int r = t / 32; r < rows; r += kWarps) {
        const T* dout = a.dout + (first + r) * a.dout_ld;
        const T* residual = a.residual + (first + r) * a.residual_ld;
        float dot = 0;
        for (int v = t % 32; v < vectors; v += 32) {
            float dy[K], x[K], w[K];
            unpack(dy, load_vector(dout, a.C, v, a.aligned, 0));
            unpack(x, load_vector(residual, a.C, v, a.aligned, 0));
            unpack(w, load_vector(a.weight, a.C, v, a.aligned, 0));
#pragma unroll
            for (int i = 0; i < K; i++) dot += dy[i] * w[i] * x[i];
        }
        dot = warp_sum(dot);
        if (t % 32 == 0) terms.dot[r] = dot;
    }
    __syncthreads();
    for (int v = t; v < vectors; v += kThreads) {
        float w[K], dw[K] = {};
        unpack(w, load_vector(a.weight, a.C, v, a.aligned, 0));
        for (int r = 0; r < rows; r++) {
            const float s = terms.rstd[r], scale = s * s * terms.dot[r] / float(a.C);
            T* row = a.dresidual + (first + r) * a.dresidual_ld;
            float dy[K], x[K], dx[K];
            unpack(dy, load_vector(a.dout + (first + r) * a.dout_ld, a.C, v, a.aligned, 0));
            unpack(x, load_vector(a.residual + (first + r) * a.residual_ld, a.C, v, a.aligned, 0));
            unpack(dx, load_vector(row, a.C, v, a.aligned, 0));
#pragma unroll
            for (int i = 0; i < K; i++) {
                dx[i] += s * (dy[i] * w[i] - x[i] * scale); // (N3)
                dw[i] += dy[i] * x[i] * s;
            }
            store_vector(row, a.C, v, a.aligned, pack<T>(dx));
        }
        float* out = a.partial + int64_t(blockIdx.x) * a.C;
#pragma unroll
        for (int j = 0; j < K / 4; j++)
            store_vector(out, a.C, v * (K / 4) + j, a.C % 4 == 0,
                         Pack<float>{dw[4 * j], dw[4 * j + 1], dw[4 * j + 2], dw[4 * j + 3]});
    }
}

// ------------------------------------------------------------------------------------------------
// launchers

template <class T>
void forward(Ctx& ctx, View out, View residual, View rstd, const View& inp, const View& delta,
             const View& weight, double eps) {
    const bool add = !delta.empty();
    NormRows<T> a{static_cast<T*>(out.data),
                  add ? static_cast<T*>(residual.data) : nullptr,
                  rstd.as<float>(),
                  static_cast<const T*>(inp.data),
                  add ? static_cast<const T*>(delta.data) : nullptr,
                  static_cast<const T*>(weight.data),
                  out.ld,
                  residual.ld,
                  inp.ld,
                  delta.ld,
                  int(inp.shape[0]),
                  int(inp.shape[1]),
                  aligned_rows<T>(out) && aligned_rows<T>(inp) && aligned_rows<T>(weight),
                  float(eps)};
    a.aligned = a.aligned && (!add || (aligned_rows<T>(residual) && aligned_rows<T>(delta)));
    const int rows = kWarps * kRowsPerWarp;
    LaunchShape shape{(a.N + rows - 1) / rows, kThreads, 1,
                      size_t(1 + kWarps) * 16 * size_t(vectors_of<T>(a.C))};
    if (!streamed(ctx, shape.shared_bytes))
        return LAUNCH(ctx, (rmsnorm_forward_kernel<T, false>), shape, a);
    shape.shared_bytes = 0;
    LAUNCH(ctx, (rmsnorm_forward_kernel<T, true>), shape, a);
}

template <class T>
void backward(Ctx& ctx, View dresidual, View dweight, const View& dout, const View& residual,
              const View& rstd, const View& weight) {
    const int N = int(residual.shape[0]), C = int(residual.shape[1]);
    const int blocks = (N + kRowsPerBlock - 1) / kRowsPerBlock;
    ScratchFrame frame(ctx.scratch);
    NormGradient<T> a{static_cast<T*>(dresidual.data),
                      ctx.scratch.alloc_of<float>(size_t(blocks) * size_t(C)),
                      static_cast<const T*>(dout.data),
                      static_cast<const T*>(residual.data),
                      rstd.as<float>(),
                      static_cast<const T*>(weight.data),
                      dresidual.ld,
                      dout.ld,
                      residual.ld,
                      N,
                      C,
                      aligned_rows<T>(dresidual) && aligned_rows<T>(dout) &&
                          aligned_rows<T>(residual) && aligned_rows<T>(weight)};
    const size_t shared = size_t(vectors_of<T>(C)) * (3 * 16 + kVector<T> * sizeof(float));
    if (streamed(ctx, shared + sizeof(RowSums)))
        LAUNCH(ctx, rmsnorm_backward_streamed_kernel<T>, (LaunchShape{blocks, kThreads, 1, 0}), a);
    else LAUNCH(ctx, rmsnorm_backward_kernel<T>, (LaunchShape{blocks, kThreads, 1, shared}), a);
    LAUNCH(ctx, add_column_sums_kernel<float>,
           (LaunchShape{(C + kThreads - 1) / kThreads, kThreads, 1, 0}), dweight.as<float>(),
           a.partial, blocks, C, C);
}

} // namespace

void gpu::rmsnorm_forward(Ctx& ctx, View out, View residual, View rstd, const View& inp,
                          const View& delta, const View& weight, double eps) {
    (inp.dtype == Dtype::bf16 ? forward<bf16> : forward<float>)(ctx, out, residual, rstd, inp,
                                                                delta, weight, eps);
}

void gpu::rmsnorm_backward(Ctx& ctx, View dresidual, View dweight, const View& dout,
                           const View& residual, const View& rstd, const View& weight) {
    (residual.dtype == Dtype::bf16 ? backward<bf16> : backward<float>)(ctx, dresidual, dweight,
                                                                       dout, residual, rstd,
                                                                       weight);
}

size_t gpu::rmsnorm_backward_scratch(const Ctx&, int64_t N, int64_t C) {
    return size_t((N + kRowsPerBlock - 1) / kRowsPerBlock * C) * sizeof(float);
}
