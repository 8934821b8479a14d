// What most kernels need: rows as 16-byte vectors, sums over a warp, sums of partial results.
#pragma once
#include "llmc/device/gpu.h"

namespace {

// ------------------------------------------------------------------------------------------------
// rows

template <class T> constexpr int kVector = Pack<T>::kSize;
template <class T> HOST_DEVICE constexpr int vectors_of(int columns) {
    return (columns + kVector<T> - 1) / kVector<T>;
}

// Whether every row starts at a multiple of 16 bytes: its vectors are single accesses then.
template <class T> bool aligned_rows(const View& view) {
    return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
           (view.rank == 1 || view.ld % kVector<T> == 0);
}

// Vector `vector` of a row; columns the row does not have are `fill`.
template <class T>
__device__ __forceinline__ Pack<T> load_vector(const T* row, int columns, int vector, bool aligned,
                                               float fill) {
    const int first = vector * kVector<T>;
    if (aligned && first + kVector<T> <= columns) return ld128(row + first);
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kVector<T>; i++)
        pack.v[i] = first + i < columns ? row[first + i] : from_float<T>(fill);
    return pack;
}
template <class T>
__device__ __forceinline__ void store_columns(T* row, int columns, int first, const Pack<T>& pack) {
#pragma unroll
    for (int i = 0; i < kVector<T>; i++)
        if (first + i < columns) row[first + i] = pack.v[i];
}
// Rows of global memory.
template <class T>
__device__ __forceinline__ void store_vector(T* row, int columns, int vector, bool aligned,
                                             const Pack<T>& pack) {
    const int first = vector * kVector<T>;
    if (aligned && first + kVector<T> <= columns) st128_global(row + first, pack);
    else store_columns(row, columns, first, pack);
}
// The same for a pack that was loaded as one: nvcc stores it as one by itself, and has a register
// more, without which attention_dkv_kernel<bf16, 128> spills on sm_90.
template <class T>
__device__ __forceinline__ void store_copy(T* row, int columns, int vector, bool aligned,
                                           const Pack<T>& pack) {
    const int first = vector * kVector<T>;
    if (aligned && first + kVector<T> <= columns) st128(row + first, pack);
    else store_columns(row, columns, first, pack);
}

template <int N, class T> __device__ __forceinline__ void unpack(float (&x)[N], const Pack<T>& p) {
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = to_float(p.v[i]);
}
template <class T, int N> __device__ __forceinline__ Pack<T> pack(const float (&x)[N]) {
    Pack<T> p;
#pragma unroll
    for (int i = 0; i < N; i++) p.v[i] = from_float<T>(x[i]);
    return p;
}

// Whether rows are read twice, by the kernels' streamed forms, as what a block would keep of them
// does not fit its shared memory; a test asks for these by path 0.
inline bool streamed(const Ctx& ctx, size_t shared_bytes) {
    return kernel_path(ctx) == 0 || shared_bytes > shared_limit(ctx);
}

// ------------------------------------------------------------------------------------------------
// reductions, in a fixed order

template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
    return x;
}

// One thread = one column: adds its `rows` values, from the first to the last, to out.
template <class T>
__global__ void add_column_sums_kernel(T* out, const T* partial, int rows, int C, int ld) {
    const int c = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= C) return;
    T sum = 0;
    for (int row = 0; row < rows; row++) sum += partial[int64_t(row) * ld + c];
    out[c] += sum;
}

} // namespace
