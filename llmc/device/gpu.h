// The one header kernels include, and only kernels (*.cu). One source, two executions: nvcc
// compiles it for the GPU (namespace cuda), g++ for the SIMT runtime (namespace simt), where the
// same kernels run, are checked and counted on the CPU.
//
//   void gpu::norm_forward(Ctx& ctx, ...) { LAUNCH(ctx, norm_kernel, shape, ...); }
//
// Beside CUDA's own names both sides have, with the same meaning:
//   SHARED, DYNAMIC_SHARED          shared memory of the block, of the launch
//   cluster_sync, cluster_map ...   thread-block clusters and their distributed shared memory
//   ld128, st128, Pack<T>           16-byte accesses
//   cp_async16, _commit, _wait      16-byte copies from global to shared memory
//   to_float, from_float            the stored type <-> float
//   gpu_arch, kernel_path           compute capability, 10 * major + minor; a path a test asks for
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
