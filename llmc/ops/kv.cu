// KV cache writes on the GPU. Contract: kv.h.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/kv.h"

namespace {

constexpr int kRows = 32, kThreads = 128;

template <class T> struct KvRows {
    T *k_pages, *v_pages;
    const T *k, *v;
    const int* slot;
    int64_t page_ld, k_ld, v_ld;
    int N, HKV, D, page_size;
    bool aligned;
};

// One block = 32 rows of one key/value head. Keys go through shared memory, where a warp turns
// them: its lanes are rows, so that rows which follow each other in a page (a prompt) are written
// side by side. A decoding step's are not: every key element is then a sector of its own. Bound by
// memory.
template <class T> __global__ void __launch_bounds__(kThreads) kv_store_kernel(KvRows<T> a) {
    constexpr int K = kVector<T>;
    struct Slots {
        int slot[kRows];
    };
    SHARED(Slots, slots);
    DYNAMIC_SHARED(T, keys); // rows of D and 4 bytes: a column's elements lie in different banks
    const int line = a.D + int(4 / sizeof(T)), vectors = vectors_of<T>(a.D);
    const int h = int(blockIdx.x) % a.HKV, first = int(blockIdx.x) / a.HKV * kRows;
    const int rows = min(a.N - first, kRows);
    for (int i = int(threadIdx.x); i < rows; i += kThreads) slots.slot[i] = a.slot[first + i];
    for (int i = int(threadIdx.x); i < rows * vectors; i += kThreads) {
        const int row = i / vectors, vector = i % vectors;
        const Pack<T> x =
            load_vector(a.k + (first + row) * a.k_ld + h * a.D, a.D, vector, a.aligned, 0);
#pragma unroll
        for (int e = 0; e < K; e++)
            if (vector * K + e < a.D) keys[row * line + vector * K + e] = x.v[e];
    }
    __syncthreads();
    const int lane = int(threadIdx.x) % 32;
    for (int d = int(threadIdx.x) / 32; d < a.D && lane < rows; d += kThreads / 32) {
        const int slot = slots.slot[lane];
        a.k_pages[slot / a.page_size * a.page_ld + int64_t(h * a.D + d) * a.page_size +
                  slot % a.page_size] = keys[lane * line + d];
    }
    for (int i = int(threadIdx.x); i < rows * vectors; i += kThreads) {
        const int row = i / vectors, vector = i % vectors, slot = slots.slot[row];
        T* to = a.v_pages + slot / a.page_size * a.page_ld +
                (int64_t(h) * a.page_size + slot % a.page_size) * a.D;
        store_vector(
            to, a.D, vector, a.aligned,
            load_vector(a.v + (first + row) * a.v_ld + h * a.D, a.D, vector, a.aligned, 0));
    }
}

template <class T>
void store(Ctx& ctx, View k_pages, View v_pages, const View& k, const View& v, const View& slot) {
    const int D = int(v_pages.shape[2]), HKV = int(k.shape[1]) / D, N = int(k.shape[0]);
    const KvRows<T> a{static_cast<T*>(k_pages.data),
                      static_cast<T*>(v_pages.data),
                      static_cast<const T*>(k.data),
                      static_cast<const T*>(v.data),
                      slot.as<int32_t>(),
                      k_pages.ld,
                      k.ld,
                      v.ld,
                      N,
                      HKV,
                      D,
                      int(k_pages.shape[2]),
                      aligned_rows<T>(k) && aligned_rows<T>(v) && D % kVector<T> == 0 &&
                          reinterpret_cast<uintptr_t>(v_pages.data) % 16 == 0};
    LAUNCH(ctx, kv_store_kernel<T>,
           (LaunchShape{(N + kRows - 1) / kRows * HKV, kThreads, 1,
                        size_t(kRows) * (size_t(D) * sizeof(T) + 4)}),
           a);
}

} // namespace

void gpu::kv_store_forward(Ctx& ctx, View k_pages, View v_pages, const View& k, const View& v,
                           const View& slot) {
    (k.dtype == Dtype::bf16 ? store<bf16> : store<float>)(ctx, k_pages, v_pages, k, v, slot);
}
