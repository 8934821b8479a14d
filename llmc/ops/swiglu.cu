// SwiGLU on the GPU. Contract: swiglu.h; equations (S1)-(S3) in doc/equations.md.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/swiglu.h"

namespace {

constexpr int kThreads = 256;

template <class T> struct GateUp { // views of one call
    int F;
    int64_t rows, out_ld, gate_ld;
    bool aligned; // of all rows, and of `up` behind `gate`
};

// One thread = one vector of a row: reads gate and up, writes out. 6 bytes per element in bf16,
// bound by memory.
template <class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_forward_kernel(T* out, const T* gate_up, GateUp<T> s) {
    const int vectors = vectors_of<T>(s.F);
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, n = i / vectors;
    const int v = int(i % vectors);
    if (n >= s.rows) return;
    float g[kVector<T>], u[kVector<T>];
    const T* row = gate_up + n * s.gate_ld;
    unpack(g, load_vector(row, s.F, v, s.aligned, 0));
    unpack(u, load_vector(row + s.F, s.F, v, s.aligned, 0));
#pragma unroll
    for (int k = 0; k < kVector<T>; k++) g[k] = g[k] / (1 + expf(-g[k])) * u[k]; // (S1)
    store_vector(out + n * s.out_ld, s.F, v, s.aligned, pack<T>(g));
}

// The same for the gradient: 10 bytes per element in bf16.
template <class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* dgate_up, const T* dout, const T* gate_up, GateUp<T> s,
                           int64_t dgate_ld) {
    const int vectors = vectors_of<T>(s.F);
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, n = i / vectors;
    const int v = int(i % vectors);
    if (n >= s.rows) return;
    float g[kVector<T>], u[kVector<T>], d[kVector<T>];
    const T* row = gate_up + n * s.gate_ld;
    unpack(g, load_vector(row, s.F, v, s.aligned, 0));
    unpack(u, load_vector(row + s.F, s.F, v, s.aligned, 0));
    unpack(d, load_vector(dout + n * s.out_ld, s.F, v, s.aligned, 0));
#pragma unroll
    for (int k = 0; k < kVector<T>; k++) {
        const float sigmoid = 1 / (1 + expf(-g[k]));
        const float up = d[k] * g[k] * sigmoid;                    // (S3)
        g[k] = d[k] * u[k] * sigmoid * (1 + g[k] * (1 - sigmoid)); // (S2)
        u[k] = up;
    }
    T* drow = dgate_up + n * dgate_ld;
    store_vector(drow, s.F, v, s.aligned, pack<T>(g));
    store_vector(drow + s.F, s.F, v, s.aligned, pack<T>(u));
}

template <class T> LaunchShape grid_of(const GateUp<T>& s) {
    const int64_t vectors = s.rows * vectors_of<T>(s.F);
    return {int((vectors + kThreads - 1) / kThreads), kThreads, 1, 0};
}

template <class T> void forward(Ctx& ctx, View out, const View& gate_up) {
    const int F = int(out.shape[1]);
    const GateUp<T> s{F, out.shape[0], out.ld, gate_up.ld,
                      aligned_rows<T>(out) && aligned_rows<T>(gate_up) && F % kVector<T> == 0};
    LAUNCH(ctx, swiglu_forward_kernel<T>, grid_of(s), static_cast<T*>(out.data),
           static_cast<const T*>(gate_up.data), s);
}

template <class T> void backward(Ctx& ctx, View dgate_up, const View& dout, const View& gate_up) {
    const int F = int(dout.shape[1]);
    const GateUp<T> s{F, dout.shape[0], dout.ld, gate_up.ld,
                      aligned_rows<T>(dgate_up) && aligned_rows<T>(dout) &&
                          aligned_rows<T>(gate_up) && F % kVector<T> == 0};
    LAUNCH(ctx, swiglu_backward_kernel<T>, grid_of(s), static_cast<T*>(dgate_up.data),
           static_cast<const T*>(dout.data), static_cast<const T*>(gate_up.data), s, dgate_up.ld);
}

} // namespace

void gpu::swiglu_forward(Ctx& ctx, View out, const View& gate_up) {
    (out.dtype == Dtype::bf16 ? forward<bf16> : forward<float>)(ctx, out, gate_up);
}

void gpu::swiglu_backward(Ctx& ctx, View dgate_up, const View& dout, const View& gate_up) {
    (dout.dtype == Dtype::bf16 ? backward<bf16> : backward<float>)(ctx, dgate_up, dout, gate_up);
}
