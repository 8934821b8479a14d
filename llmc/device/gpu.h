// The one header kernels include, and only kernels (*.cu). One source, two executions: nvcc
// compiles it for the GPU (namespace cuda), g++ for the SIMT runtime (namespace simt), where the
// same kernels run, are checked and counted on the CPU.
//
//   void gpu::norm_forward(Ctx& ctx, ...) { LAUNCH(ctx, norm_kernel, shape, ...); }
//
// Beside CUDA's own names both sides have, with the same meaning:
//   SHARED, DYNAMIC_SHARED          shared memory of the block, of the launch
//   cluster_sync, cluster_map ...   thread-block clusters and their distributed shared memory
//   ld128, st128, Pack<T>           16-byte accesses; st128_global to global memory only
//   cp_async16, _commit, _wait      16-byte copies from global to shared memory
//   ldmatrix_x2, _x4, _trans        8x8 matrices of bf16: shared memory -> fragments
//   mma_m16n8k16                    tensor cores: d += a b, bf16 into fp32
//   bf16_pair                       a register of a fragment
//   to_float, from_float            the stored type <-> float
//   gpu_arch, kernel_path           compute capability, 10 * major + minor; a path a test asks for
//   shared_limit                    bytes of shared memory a block may have, static and dynamic
//
// Matrices lie in fragments over a warp. With g = lane / 4 and t = lane % 4, a register holds two
// bf16, the first in its low half (PTX ISA, mma.m16n8k16 and ldmatrix):
//   a (16, 16)  a[0]: row g, columns 2t, 2t+1;   a[1]: row g+8;   a[2], a[3]: the same, columns + 8
//   b (16, 8)   b[0]: rows 2t, 2t+1, column g;   b[1]: rows + 8
//   d (16, 8)   d[0], d[1]: row g, columns 2t, 2t+1;   d[2], d[3]: row g+8;   fp32
// ldmatrix: lane l brings the address of row l % 8 of matrix l / 8; register m of a lane is row g,
// columns 2t, 2t+1 of matrix m, with _trans rows 2t, 2t+1 of column g. Every call is a tile,
// ldmatrix_x4<N> of N loads, mma_m16n8k16<M, N> of M x N instructions: one meeting of the warp
// under SIMT, unrolled by nvcc. A tile of one source line counts as one place in a trace.
#pragma once
#include "llmc/device/context.h"
#include "llmc/device/host_device.h"

// One grid of `blocks` x `threads` threads; blocks is a multiple of cluster (1: no clusters).
struct LaunchShape {
    int blocks, threads, cluster;
    size_t shared_bytes; // dynamic
};

// 16 bytes of T.
template <class T> struct alignas(16) Pack {
    static constexpr int kSize = int(16 / sizeof(T));
    T v[kSize];
};

#ifdef __CUDACC__
#include "llmc/device/ptx.h"
namespace cuda {}
namespace gpu = cuda;
#else
#include "llmc/device/simt/device.h"
namespace simt {}
namespace gpu = simt;
#endif

#define LAUNCH(ctx, kernel, shape, ...) launch(ctx, #kernel, kernel, shape, __VA_ARGS__)

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) {
    return __uint_as_float(unsigned(x.bits) << 16);
}
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { // to nearest, ties to even
    const unsigned word = __float_as_uint(x);
    if ((word & 0x7fffffffu) > 0x7f800000u) return {uint16_t(word >> 16 | 0x40)}; // stays NaN
    return {uint16_t((word + 0x7fffu + (word >> 16 & 1)) >> 16)};
}
