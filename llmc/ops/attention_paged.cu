// Attention over a paged KV cache on the GPU. Contract: attention.h; equations (X1)-(X3) in
// doc/equations.md; how a page is laid out: kv.h. The sums of a row are those of attention.cu's
// forward kernel in the same order, so the bits are.
#include "llmc/ops/attention.h"
#include "llmc/ops/attention_tile.cuh"

#include <cmath>

namespace {

template <class T> struct PagedInputs {
    T* out;
    const T *q, *k_pages, *v_pages;
    const int *page_table, *row, *length;
    int64_t out_ld, q_ld, page_ld, table_ld; // page_ld: elements of a page
    int H, HKV, D, page_size;
    bool aligned, whole_keys; // head rows at multiples of 16 bytes; 16 bytes of keys in one page
    float scale;
};

// A warp shares the keys of a tile with its block, then has some columns of the output.
template <class T, int kWidth> struct PagedTiling {
    static constexpr int kWarps = kWidth < 64 ? 2 : 4, kThreads = 32 * kWarps;
    static constexpr int kColumns = Tiling<T, kWidth>::kForwardColumns; // keys at a time
    static constexpr int kStages = Tiling<T, kWidth>::kStages, kTile = kColumns * kWidth;
    static constexpr size_t kScores = 16 * kColumns; // floats
    static constexpr size_t kExchange =
        Tiling<T, kWidth>::kTensor ? 0 : kWarps * 16 * (kColumns + 4);
    static constexpr size_t kBytes =
        (16 * kWidth + kStages * 2 * kTile) * sizeof(T) + (kScores + kExchange) * sizeof(float);
};

// Keys `key`... of a sequence, transposed, and their values: tiles (D, kColumns) and (kColumns, D).
// Past `length` keys are whatever lies there or 0, values are 0.
template <class T, int kWidth>
__device__ __forceinline__ void load_pages(T* keys, T* values, const PagedInputs<T>& a,
                                           const int* table, int hkv, int key, int length) {
    using S = PagedTiling<T, kWidth>;
    constexpr int K = kVector<T>, kKeyPieces = S::kColumns / K, kPieces = kWidth / K;
    static_assert(S::kThreads % kKeyPieces == 0); // a thread's keys are the same in every row
    const int piece_of_keys = int(threadIdx.x) % kKeyPieces, first = key + piece_of_keys * K;
    auto key_row = [&](int page, int position) { // of d = 0
        return a.k_pages + page * a.page_ld + int64_t(hkv * a.D) * a.page_size +
               position % a.page_size;
    };
    const bool whole = first < length && a.whole_keys;
    const int page_of_piece = whole ? table[first / a.page_size] : 0;
    const T* row = whole ? key_row(page_of_piece, first) : nullptr;
    for (int i = int(threadIdx.x); i < kWidth * kKeyPieces; i += S::kThreads) {
        const int d = i / kKeyPieces;
        T* target = piece_at<T, S::kColumns>(keys, d, piece_of_keys);
        if (d < a.D && whole) {
            cp_async16(target, row + d * a.page_size);
            continue;
        }
        Pack<T> pack;
#pragma unroll
        for (int e = 0; e < K; e++)
            pack.v[e] = d < a.D && first + e < length
                            ? key_row(table[(first + e) / a.page_size], first + e)[d * a.page_size]
                            : from_float<T>(0);
        st128(target, pack);
    }
    static_assert(S::kColumns * kPieces % S::kThreads == 0 && kKeyPieces <= 32);
    for (int i = int(threadIdx.x); i < S::kColumns * kPieces; i += S::kThreads) {
        const int piece = i % kPieces, position = key + i / kPieces;
        T* target = piece_at<T, kWidth>(values, i / kPieces, piece);
        // Where a piece of keys has one page, the table was read for it, by every warp.
        int page = __shfl_sync(~0u, page_of_piece, i / kPieces / K);
        if (position >= length) {
            st128(target, Pack<T>{});
            continue;
        }
        if (!a.whole_keys) page = table[position / a.page_size];
        const T* values_of = a.v_pages + page * a.page_ld + int64_t(hkv) * a.page_size * a.D;
        const T* source = values_of + position % a.page_size * a.D;
        if (a.aligned && (piece + 1) * K <= a.D) cp_async16(target, source + piece * K);
        else st128(target, load_vector(source, a.D, piece, a.aligned, 0));
    }
}

// One block = one query and up to 16 heads of one key/value head's group, the rows of a tile: the
// sequence's keys and values are read once for all of them, 4 D bytes a position in bf16, and
// bound the kernel. A warp multiplies its share of a tile's keys; all see all scores; then a warp
// has its share of the values' columns.
//   | queries | keys, values of stage 0 | of stage 1 | scores in fragments | exchange (fp32) |
template <class T, int kWidth>
__global__ void __launch_bounds__(PagedTiling<T, kWidth>::kThreads, 1)
    attention_paged_kernel(PagedInputs<T> a) {
    using S = PagedTiling<T, kWidth>;
    constexpr int N = S::kColumns / 8, kShare = N / S::kWarps, kOut = kWidth / S::kWarps;
    DYNAMIC_SHARED(T, shared);
    T *queries = shared, *stages = shared + 16 * kWidth;
    float* fragments = reinterpret_cast<float*>(stages + S::kStages * 2 * S::kTile);
    T* exchange = reinterpret_cast<T*>(fragments + S::kScores);
    const int group = a.H / a.HKV, parts = (group + 15) / 16; // of a group
    const int part = int(blockIdx.x) % parts, hkv = int(blockIdx.x) / parts % a.HKV;
    const int n = int(blockIdx.x) / parts / a.HKV, h = hkv * group + 16 * part;
    const int heads = min(group - 16 * part, 16), length = a.length[n];
    const int* table = a.page_table + a.row[n] * a.table_ld;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4;
    auto load = [&](int stage, int key) {
        T* to = stages + stage * 2 * S::kTile;
        if (key < length) load_pages<T, kWidth>(to, to + S::kTile, a, table, hkv, key, length);
        cp_async_commit();
    };
    const HeadRows<T> q{a.q + n * a.q_ld + h * a.D, a.D, a.D, a.aligned};
    load_tile<T, kWidth, 16>(queries, q, 0, heads - 1);
    cp_async_commit();
    load(0, 0);
    cp_async_wait<1>();
    __syncthreads();
    const Left<T, kWidth, true> left(queries);
    Softmax<kOut> rows;
    int stage = 0;
    for (int key = 0; key < length; key += S::kColumns, stage = (stage + 1) % S::kStages) {
        cp_async_wait<0>();
        __syncthreads(); // the tile is here; tile and scores before it are of no more use
        if (S::kStages == 2) load(1 - stage, key + S::kColumns);
        const T* tile = stages + stage * 2 * S::kTile;
        float share[1][kShare][4], s[1][N][4];
        scores_transposed<S::kColumns>(share, left, tile, 8 * kShare * warp); // (X1)
#pragma unroll
        for (int j = 0; j < kShare; j++) {
            Pack<float> pack;
#pragma unroll
            for (int i = 0; i < 4; i++) pack.v[i] = share[0][j][i];
            st128(fragments + ((warp * kShare + j) * 32 + lane) * 4, pack);
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < N; j++) {
            const Pack<float> pack = ld128(fragments + (j * 32 + lane) * 4);
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[0][j][i] = key + 8 * j + 2 * t + i % 2 < length ? pack.v[i] : -INFINITY;
        }
        rows.add(s, a.scale * kLog2e);
        mix<kWidth>(rows.out, s, tile + S::kTile, kOut * warp, exchange); // (X3)
        if (S::kStages == 1) {
            __syncthreads();
            load(0, key + S::kColumns);
        }
    }
    rows.finish();
#pragma unroll
    for (int j = 0; j < kOut / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + i / 2 * 8, d = kOut * warp + 8 * j + 2 * t + i % 2;
            if (row < heads && d < a.D)
                a.out[n * a.out_ld + (h + row) * a.D + d] =
                    from_float<T>(rows.out[0][j][i] * (1 / rows.sum[i / 2]));
        }
}

template <class T, int kWidth>
void paged_forward(Ctx& ctx, View out, const View& q, const View& k_pages, const View& v_pages,
                   const View& page_table, const View& row, const View& length, int H, int HKV) {
    using S = PagedTiling<T, kWidth>;
    const int N = int(q.shape[0]), D = int(q.shape[1]) / H, page_size = int(k_pages.shape[2]);
    PagedInputs<T> a{static_cast<T*>(out.data),
                     static_cast<const T*>(q.data),
                     static_cast<const T*>(k_pages.data),
                     static_cast<const T*>(v_pages.data),
                     page_table.as<int32_t>(),
                     row.as<int32_t>(),
                     length.as<int32_t>(),
                     out.ld,
                     q.ld,
                     k_pages.ld,
                     page_table.ld,
                     H,
                     HKV,
                     D,
                     page_size,
                     false,
                     false,
                     float(1 / std::sqrt(double(D)))};
    const bool pages = reinterpret_cast<uintptr_t>(v_pages.data) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(k_pages.data) % 16 == 0;
    a.aligned = head_rows<T>(q, H).aligned && pages;
    a.whole_keys = pages && page_size % kVector<T> == 0;
    const int parts = (H / HKV + 15) / 16;
    LAUNCH(ctx, (attention_paged_kernel<T, kWidth>),
           (LaunchShape{N * HKV * parts, S::kThreads, 1, S::kBytes}), a);
}

} // namespace

void gpu::attention_paged_forward(Ctx& ctx, View out, const View& q, const View& k_pages,
                                  const View& v_pages, const View& page_table, const View& row,
                                  const View& length, int heads, int kv_heads) {
    for_width(q.dtype, q.shape[1] / heads, [&]<class T, int kWidth>() {
        paged_forward<T, kWidth>(ctx, out, q, k_pages, v_pages, page_table, row, length, heads,
                                 kv_heads);
    });
}
