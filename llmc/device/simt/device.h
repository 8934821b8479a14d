// CUDA's device vocabulary for the host compiler, over the SIMT runtime. Included by
// device/gpu.h only. What is not here is not used by our kernels: float atomics (their sums depend
// on the order) and __activemask (its value depends on the schedule).
#pragma once
#include "llmc/device/simt/runtime.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <tuple>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

#define threadIdx (::simt::runtime::coordinates.thread)
#define blockIdx (::simt::runtime::coordinates.block)
#define blockDim (::simt::runtime::coordinates.threads)
#define gridDim (::simt::runtime::coordinates.blocks)

#define SIMT_SITE ::simt::runtime::Site site = {__builtin_FILE(), __builtin_LINE()}

// ------------------------------------------------------------------------------------------------
// shared memory

// SHARED(Type, name): a variable of the block. One per kernel is enough: a struct.
#define SHARED(T, name)                                                                            \
    T& name = *[]() {                                                                              \
        static thread_local simt::runtime::SharedSlot slot;                                        \
        return static_cast<T*>(simt::runtime::static_shared(slot, sizeof(T), alignof(T)));         \
    }()
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(simt::runtime::dynamic_shared())

// ------------------------------------------------------------------------------------------------
// barriers, clusters

inline void __syncthreads(SIMT_SITE) { simt::runtime::barrier_sync(0, 0, false, site); }
inline int __syncthreads_count(int predicate, SIMT_SITE) {
    return simt::runtime::barrier_sync(0, 0, predicate != 0, site).count;
}
inline int __syncthreads_or(int predicate, SIMT_SITE) {
    return simt::runtime::barrier_sync(0, 0, predicate != 0, site).count > 0;
}
inline void named_barrier_sync(int id, int threads, SIMT_SITE) {
    simt::runtime::barrier_sync(id, threads, false, site);
}
inline void named_barrier_arrive(int id, int threads, SIMT_SITE) {
    simt::runtime::barrier_arrive(id, threads, site);
}
inline void cluster_arrive(SIMT_SITE) { simt::runtime::cluster_arrive(site); }
inline void cluster_wait(SIMT_SITE) { simt::runtime::cluster_wait(site); }
inline void cluster_sync(SIMT_SITE) {
    simt::runtime::cluster_arrive(site);
    simt::runtime::cluster_wait(site);
}
inline int cluster_rank() { return simt::runtime::cluster_rank(); }
template <class T> T* cluster_map(T* pointer, int rank, SIMT_SITE) {
    return static_cast<T*>(simt::runtime::cluster_map(pointer, rank, site));
}

// ------------------------------------------------------------------------------------------------
// warp operations

namespace simt::runtime {
inline int lane_id() {
    const Coordinates& c = coordinates;
    return int((c.thread.x + c.threads.x * (c.thread.y + c.threads.y * c.thread.z)) % 32);
}
template <class T> T shuffle(unsigned mask, T value, int source, Site site) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = warp_shuffle(mask, bits, source, site);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
} // namespace simt::runtime

inline void __syncwarp(unsigned mask = ~0u, SIMT_SITE) { simt::runtime::warp_sync(mask, site); }

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
    const int first = simt::runtime::lane_id() & ~(width - 1);
    return simt::runtime::shuffle(mask, value, first | (source & (width - 1)), site);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_SITE) {
    const int lane = simt::runtime::lane_id(), source = lane ^ bits;
    const bool inside = source <= (lane | (width - 1));
    return simt::runtime::shuffle(mask, value, inside ? source : lane, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    const int lane = simt::runtime::lane_id();
    const bool inside = (lane & (width - 1)) + int(delta) < width;
    return simt::runtime::shuffle(mask, value, inside ? lane + int(delta) : lane, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    const int lane = simt::runtime::lane_id();
    const bool inside = (lane & (width - 1)) >= int(delta);
    return simt::runtime::shuffle(mask, value, inside ? lane - int(delta) : lane, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::runtime::warp_ballot(mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::runtime::warp_ballot(mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::runtime::warp_ballot(mask, predicate != 0, site) == mask;
}
template <class T> unsigned __match_any_sync(unsigned mask, T value, SIMT_SITE) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return simt::runtime::warp_match_any(mask, bits, site);
}
template <class T> unsigned __match_all_sync(unsigned mask, T value, int* all, SIMT_SITE) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    *all = simt::runtime::warp_match_any(mask, bits, site) == mask;
    return *all ? mask : 0;
}
#define SIMT_REDUCTION(name, reduction)                                                            \
    template <class T> T name(unsigned mask, T value, SIMT_SITE) {                                 \
        return T(simt::runtime::warp_reduce(mask, int64_t(value),                                  \
                                            simt::runtime::Reduction::reduction, site));           \
    }
SIMT_REDUCTION(__reduce_add_sync, add)
SIMT_REDUCTION(__reduce_min_sync, smallest)
SIMT_REDUCTION(__reduce_max_sync, largest)
SIMT_REDUCTION(__reduce_and_sync, bit_and)
SIMT_REDUCTION(__reduce_or_sync, bit_or)
SIMT_REDUCTION(__reduce_xor_sync, bit_xor)
#undef SIMT_REDUCTION

// ------------------------------------------------------------------------------------------------
// tensor cores

template <int N>
void ldmatrix_x4(uint32_t (&registers)[N][4], const void* const (&rows)[N], SIMT_SITE) {
    simt::runtime::load_matrices(registers[0], rows, N, 4, false, site);
}
template <int N>
void ldmatrix_x4_trans(uint32_t (&registers)[N][4], const void* const (&rows)[N], SIMT_SITE) {
    simt::runtime::load_matrices(registers[0], rows, N, 4, true, site);
}
template <int N>
void ldmatrix_x2(uint32_t (&registers)[N][2], const void* const (&rows)[N], SIMT_SITE) {
    simt::runtime::load_matrices(registers[0], rows, N, 2, false, site);
}
template <int N>
void ldmatrix_x2_trans(uint32_t (&registers)[N][2], const void* const (&rows)[N], SIMT_SITE) {
    simt::runtime::load_matrices(registers[0], rows, N, 2, true, site);
}
template <int M, int N>
void mma_m16n8k16(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2],
                  SIMT_SITE) {
    simt::runtime::warp_mma(d[0][0], a[0], b[0], M, N, site);
}

// ------------------------------------------------------------------------------------------------
// memory

template <class T> Pack<T> ld128(const T* pointer, SIMT_SITE) {
    Pack<T> pack;
    simt::runtime::load128(&pack, pointer, site);
    return pack;
}
template <class T> void st128(T* pointer, const Pack<T>& pack, SIMT_SITE) {
    simt::runtime::store128(pointer, &pack, site);
}
template <class T> void st128_global(T* pointer, const Pack<T>& pack, SIMT_SITE) {
    simt::runtime::require_not_shared(pointer, site);
    simt::runtime::store128(pointer, &pack, site);
}
inline void cp_async16(void* shared, const void* global, SIMT_SITE) {
    simt::runtime::copy_async16(shared, global, site);
}
inline void cp_async_commit() { simt::runtime::copy_commit(); }
template <int kPending> void cp_async_wait(SIMT_SITE) { simt::runtime::copy_wait(kPending, site); }

inline int atomicAdd(int* p, int value) { return simt::runtime::atomic_add(p, value); }
inline unsigned atomicAdd(unsigned* p, unsigned value) {
    return simt::runtime::atomic_add(p, value);
}
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long value) {
    return simt::runtime::atomic_add(p, value);
}
inline int atomicMax(int* p, int value) { return simt::runtime::atomic_max(p, value); }
inline unsigned atomicMax(unsigned* p, unsigned value) {
    return simt::runtime::atomic_max(p, value);
}

// ------------------------------------------------------------------------------------------------
// arithmetic

inline uint32_t bf16_pair(float low, float high) {
    return uint32_t(float_to_bf16(low)) | uint32_t(float_to_bf16(high)) << 16;
}
template <class T> T min(T a, T b) { return b < a ? b : a; }
inline float exp2_approx(float x) { return exp2f(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }

// ------------------------------------------------------------------------------------------------
// launch

inline namespace by_simt { // ptx.h says why

inline int gpu_arch(const Ctx& ctx) { return ctx.simt.arch; }
inline size_t shared_limit(const Ctx& ctx) { return ctx.simt.shared_limit; }
inline int kernel_path(const Ctx& ctx) { return ctx.simt.path; }

template <class... P, class... A>
void launch(Ctx& ctx, const char* name, void (*kernel)(P...), const LaunchShape& shape,
            A... arguments) {
    struct Call {
        void (*kernel)(P...);
        std::tuple<P...> arguments;
    } call{kernel, std::tuple<P...>(static_cast<P>(arguments)...)};
    const simt::runtime::Grid grid{name,
                                   dim3(unsigned(shape.blocks)),
                                   dim3(unsigned(shape.threads)),
                                   shape.cluster,
                                   shape.shared_bytes,
                                   [](void* p) {
                                       std::apply(static_cast<Call*>(p)->kernel,
                                                  static_cast<Call*>(p)->arguments);
                                   },
                                   &call};
    simt::runtime::run_grid(grid, ctx.simt, ctx.threads);
}

} // namespace by_simt
