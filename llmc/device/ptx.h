// What device/gpu.h promises, under nvcc: inline PTX behind named functions, and the launch. All
// assembly of the program is in this file.
#pragma once
#include "llmc/device/cuda_check.h"
#include "llmc/device/cuda_device.h"

#include <cstdint>
#include <cuda_runtime.h>

#define SHARED(T, name) __shared__ T name
#define DYNAMIC_SHARED(T, name)                                                                    \
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];                        \
    T* name = reinterpret_cast<T*>(dynamic_shared_memory)

// ------------------------------------------------------------------------------------------------
// barriers, clusters

__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// Not .aligned: the lanes of a warp may come one by one.
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
__device__ __forceinline__ int cluster_rank() {
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return int(rank);
}
template <class T> __device__ __forceinline__ T* cluster_map(T* pointer, int rank) {
    T* mapped;
    asm("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(pointer), "r"(rank));
    return mapped;
}
#else // a GPU without clusters: a cluster is one block
__device__ __forceinline__ void cluster_arrive() {}
__device__ __forceinline__ void cluster_wait() { __syncthreads(); }
__device__ __forceinline__ int cluster_rank() { return 0; }
template <class T> __device__ __forceinline__ T* cluster_map(T* pointer, int) { return pointer; }
#endif
__device__ __forceinline__ void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

// ------------------------------------------------------------------------------------------------
// memory

__device__ __forceinline__ uint32_t word_of(const float* x) { return __float_as_uint(*x); }
__device__ __forceinline__ uint32_t word_of(const bf16* x) {
    return uint32_t(x[0].bits) | uint32_t(x[1].bits) << 16;
}
template <class T> __device__ __forceinline__ Pack<T> ld128(const T* pointer) {
    Pack<T> pack;
    *reinterpret_cast<int4*>(&pack) = *reinterpret_cast<const int4*>(pointer);
    return pack;
}
template <class T> __device__ __forceinline__ void st128(T* pointer, const Pack<T>& pack) {
    *reinterpret_cast<int4*>(pointer) = *reinterpret_cast<const int4*>(&pack);
}
// To global memory. The plain store of an int4 may be taken apart where a pack is made of elements.
template <class T> __device__ __forceinline__ void st128_global(T* pointer, const Pack<T>& pack) {
    uint32_t word[4];
    constexpr int kPerWord = Pack<T>::kSize / 4;
#pragma unroll
    for (int i = 0; i < 4; i++) word[i] = word_of(pack.v + i * kPerWord);
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(pointer)),
                 "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3])
                 : "memory");
}
__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
    const unsigned address = unsigned(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ------------------------------------------------------------------------------------------------
// tensor cores

#define LDMATRIX_X4(name, trans)                                                                   \
    template <int N>                                                                               \
    __device__ __forceinline__ void name(uint32_t(&r)[N][4], const void* const(&rows)[N]) {        \
        _Pragma("unroll") for (int i = 0; i < N; i++) {                                            \
            const unsigned row = unsigned(__cvta_generic_to_shared(rows[i]));                      \
            asm volatile("ldmatrix.sync.aligned.m8n8.x4" trans ".shared.b16 {%0,%1,%2,%3}, [%4];"  \
                         : "=r"(r[i][0]), "=r"(r[i][1]), "=r"(r[i][2]), "=r"(r[i][3])              \
                         : "r"(row)                                                                \
                         : "memory");                                                              \
        }                                                                                          \
    }
#define LDMATRIX_X2(name, trans)                                                                   \
    template <int N>                                                                               \
    __device__ __forceinline__ void name(uint32_t(&r)[N][2], const void* const(&rows)[N]) {        \
        _Pragma("unroll") for (int i = 0; i < N; i++) {                                            \
            const unsigned row = unsigned(__cvta_generic_to_shared(rows[i]));                      \
            asm volatile("ldmatrix.sync.aligned.m8n8.x2" trans ".shared.b16 {%0,%1}, [%2];"        \
                         : "=r"(r[i][0]), "=r"(r[i][1])                                            \
                         : "r"(row)                                                                \
                         : "memory");                                                              \
        }                                                                                          \
    }
LDMATRIX_X4(ldmatrix_x4, "")
LDMATRIX_X4(ldmatrix_x4_trans, ".trans")
LDMATRIX_X2(ldmatrix_x2, "")
LDMATRIX_X2(ldmatrix_x2_trans, ".trans")
#undef LDMATRIX_X4
#undef LDMATRIX_X2

template <int M, int N>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[M][N][4], const uint32_t (&a)[M][4],
                                             const uint32_t (&b)[N][2]) {
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                         "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(d[i][j][0]), "+f"(d[i][j][1]), "+f"(d[i][j][2]), "+f"(d[i][j][3])
                         : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]),
                           "r"(b[j][1]));
}

// Two bf16 in a register, rounded to nearest, ties to even.
__device__ __forceinline__ uint32_t bf16_pair(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// 2^x to 2 units in the last place; 0 below -126, exact at 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ------------------------------------------------------------------------------------------------
// launch

// Another namespace than the SIMT runtime's: a program has both, and their instances of a template
// would have one name.
inline namespace by_nvcc {

inline int gpu_arch(const Ctx& ctx) { return ctx.cuda->arch; }
inline size_t shared_limit(const Ctx& ctx) { return ctx.cuda->shared_limit; }
inline int kernel_path(const Ctx&) { return -1; }

template <class... P, class... A>
void launch(Ctx& ctx, const char* name, void (*kernel)(P...), const LaunchShape& shape,
            A... arguments) {
    if (shape.blocks == 0) return;
    if (shape.shared_bytes > 32 << 10) { // with the static part it may pass the default's 48 KiB
        if (shape.shared_bytes > shared_limit(ctx))
            fatal(format("CUDA: %s needs %zu bytes of shared memory, a block of this GPU has %zu",
                         name, shape.shared_bytes, shared_limit(ctx)),
                  "the model is too wide for this GPU; -dtype bf16 takes half of it");
        cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        int(shape.shared_bytes)),
                   name);
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(shape.blocks));
    config.blockDim = dim3(unsigned(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = static_cast<cudaStream_t>(ctx.cuda->stream);
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = unsigned(shape.cluster);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = shape.cluster > 1 ? 1 : 0;
    cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), name);
}

} // namespace by_nvcc
