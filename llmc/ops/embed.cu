// Token embedding on the GPU. Contract: embed.h; equations (E1)-(E2) in doc/equations.md.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/embed.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class T> struct Rows {
    T* data;
    int64_t ld;
};

// One warp = one row of out: a copy, 4 bytes per element in bf16.
template <class T>
__global__ void __launch_bounds__(kThreads)
    embed_forward_kernel(Rows<T> out, const int* tokens, Rows<const T> weight, int N, int C,
                         bool aligned) {
    const int64_t n = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (n >= N) return;
    const T* row = weight.data + tokens[n] * weight.ld;
    for (int v = int(threadIdx.x) % 32; v < vectors_of<T>(C); v += 32)
        store_vector(out.data + n * out.ld, C, v, aligned,
                     load_vector(row, C, v, aligned, 0)); // (E1)
}

// One block = one position and a band of 256 vectors. The first position of a token adds up all
// its rows in ascending order, so no atomics and one write per element; the others leave when they
// find an earlier one, the nearest first. Each dout row is read once. The tokens stay in L2: every
// distinct one is looked for in all of them, 256 at a time.
template <class T>
__global__ void __launch_bounds__(kThreads)
    embed_backward_kernel(Rows<float> dweight, Rows<const T> dout, const int* tokens, int N, int C,
                          int bands, bool aligned, bool aligned_out) {
    struct Shared {
        unsigned lanes[2][kWarps]; // in turn, so that one barrier a search is enough
        Pack<float> sum[kVector<T> / 4][kThreads]; // to go out 4 columns a thread, side by side
    };
    SHARED(Shared, s);
    const int t = int(threadIdx.x), n = int(blockIdx.x) / bands, token = tokens[n];
    for (int end = n; end > 0; end -= kThreads)
        if (__syncthreads_or(end - 1 - t >= 0 && tokens[end - 1 - t] == token)) return;
    const int v = int(blockIdx.x) % bands * kThreads + t, vectors = vectors_of<T>(C);
    float sum[kVector<T>] = {};
    for (int begin = n, turn = 0; begin < N; begin += kThreads, turn ^= 1) {
        const bool here = begin + t < N && tokens[begin + t] == token;
        const unsigned lanes = __ballot_sync(~0u, here);
        if (t % 32 == 0) s.lanes[turn][t / 32] = lanes;
        __syncthreads();
        for (int warp = 0; warp < kWarps; warp++)
            for (unsigned left = s.lanes[turn][warp]; left; left &= left - 1) {
                const int64_t m = begin + 32 * warp + __ffs(int(left)) - 1;
                if (v >= vectors) continue;
                float d[kVector<T>];
                unpack(d, load_vector(dout.data + m * dout.ld, C, v, aligned, 0));
#pragma unroll
                for (int i = 0; i < kVector<T>; i++) sum[i] += d[i];
            }
    }
#pragma unroll
    for (int j = 0; j < kVector<T> / 4; j++)
        st128(s.sum[j][t].v,
              Pack<float>{sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]});
    __syncthreads();
    float* row = dweight.data + token * dweight.ld;
    const int parts = kVector<T> / 4, first = int(blockIdx.x) % bands * kThreads * parts;
    for (int part = t; part < parts * kThreads; part += kThreads) {
        if (4 * (first + part) >= C) break;
        Pack<float> w = load_vector(row, C, first + part, aligned_out, 0);
        const Pack<float> d = ld128(s.sum[part % parts][part / parts].v);
#pragma unroll
        for (int i = 0; i < 4; i++) w.v[i] += d.v[i]; // (E2)
        store_vector(row, C, first + part, aligned_out, w);
    }
}

template <class T> void forward(Ctx& ctx, View out, const View& tokens, const View& weight) {
    const int N = int(out.shape[0]);
    LAUNCH(ctx, embed_forward_kernel<T>, (LaunchShape{(N + kWarps - 1) / kWarps, kThreads, 1, 0}),
           (Rows<T>{static_cast<T*>(out.data), out.ld}), tokens.as<int32_t>(),
           (Rows<const T>{static_cast<const T*>(weight.data), weight.ld}), N, int(out.shape[1]),
           aligned_rows<T>(out) && aligned_rows<T>(weight));
}

template <class T> void backward(Ctx& ctx, View dweight, const View& dout, const View& tokens) {
    const int N = int(dout.shape[0]), C = int(dout.shape[1]);
    const int bands = (vectors_of<T>(C) + kThreads - 1) / kThreads;
    LAUNCH(ctx, embed_backward_kernel<T>, (LaunchShape{N * bands, kThreads, 1, 0}),
           (Rows<float>{dweight.as<float>(), dweight.ld}),
           (Rows<const T>{static_cast<const T*>(dout.data), dout.ld}), tokens.as<int32_t>(), N, C,
           bands, aligned_rows<T>(dout), aligned_rows<float>(dweight));
}

} // namespace

void gpu::embed_forward(Ctx& ctx, View out, const View& tokens, const View& weight) {
    (out.dtype == Dtype::bf16 ? forward<bf16> : forward<float>)(ctx, out, tokens, weight);
}

void gpu::embed_backward(Ctx& ctx, View dweight, const View& dout, const View& tokens) {
    (dout.dtype == Dtype::bf16 ? backward<bf16> : backward<float>)(ctx, dweight, dout, tokens);
}
