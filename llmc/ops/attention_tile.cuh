// Tiles of attention's kernels (attention*.cu): how rows lie in shared memory, and a warp's two
// products over them, by tensor cores in bf16 and by fused multiply-adds in fp32. Both leave sums
// in the fragments of mma.m16n8k16 (device/gpu.h), so the code around them is one.
//
//   scores  s (16, 8 N)  = left (16, D) tile (8 N, D)^T
//   mix     o (16, C)   += p (16, 8 N)  columns first .. first + C - 1 of tile (8 N, D)
//
// With g = lane / 4, t = lane % 4, element i of a lane's column tile j is row g + 8 (i / 2),
// column 8 j + 2 t + i % 2.
#pragma once
#include "llmc/device/kernel.cuh"

#include <type_traits>

namespace {

constexpr float kLog2e = 1.44269504f;

// What a block holds: 16 stationary rows for each warp, and the columns that pass by, in turn in
// kStages buffers.
template <class T, int kWidth> struct Tiling {
    static constexpr bool kTensor = std::is_same_v<T, bf16>;
    static constexpr int kWarps = kTensor || kWidth < 128 ? 4 : 2; // 99 KB of shared memory do
    static constexpr int kThreads = 32 * kWarps, kRows = 16 * kWarps;
    static constexpr int kStages = kTensor ? 2 : 1;
    static constexpr int kForwardColumns = kTensor ? 64 : 32;
    static constexpr int kBackwardColumns = (kTensor ? 64 : 32) / (kWidth < 128 ? 1 : 2);
    // Probabilities of a warp on their way between lanes, fp32 only.
    static constexpr int exchange(int columns) { return kTensor ? 0 : kWarps * 16 * (columns + 4); }
};

// ------------------------------------------------------------------------------------------------
// shared memory

// Row r of a tile is kWidth elements in pieces of 16 bytes; where piece c lies, counted in pieces.
// Eight rows' piece c, or a row's eight pieces, lie in different banks.
//     width 64 bf16:   row 0 | 0 1 2 3 4 5 6 7     width 32 bf16:   rows 0, 1 | 0 1 2 3  0 1 2 3
//                      row 1 | 1 0 3 2 5 4 7 6                      rows 2, 3 | 1 0 3 2  1 0 3 2
template <class T, int kWidth> __device__ __forceinline__ T* piece_at(T* tile, int row, int piece) {
    constexpr int kPieces = kWidth / kVector<T>;
    const int mixed = piece ^ (kPieces == 4 ? row / 2 & 3 : row & 7);
    return tile + (row * kPieces + mixed) * kVector<T>;
}

// Rows of one head in global memory.
template <class T> struct HeadRows {
    const T* first;
    int64_t ld;
    int D;
    bool aligned; // rows start at multiples of 16 bytes
};

// Rows begin, begin + 1, ... of `from` into a tile, by asynchronous copies where they can be; rows
// past `last` repeat it, columns past D are 0. The caller commits.
template <class T, int kWidth, int kRows>
__device__ __forceinline__ void load_tile(T* tile, const HeadRows<T>& from, int begin, int last) {
    constexpr int K = kVector<T>, kPieces = kWidth / K;
#pragma unroll 4
    for (int i = int(threadIdx.x); i < kRows * kPieces; i += int(blockDim.x)) {
        const int row = i / kPieces, piece = i % kPieces;
        const T* source = from.first + int64_t(min(begin + row, last)) * from.ld;
        T* target = piece_at<T, kWidth>(tile, row, piece);
        if (from.aligned && (piece + 1) * K <= from.D) cp_async16(target, source + piece * K);
        else st128(target, load_vector(source, from.D, piece, from.aligned, 0));
    }
}

// A warp's sums, row g + 8 i times factor[i], to `rows` rows in global memory, through 16 rows of a
// tile that only this warp reads.
template <class T, int kWidth>
__device__ __forceinline__ void store_rows(const HeadRows<T>& to, int begin, int rows, T* tile,
                                           const float (&x)[1][kWidth / 8][4],
                                           const float (&factor)[2]) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kWidth / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const int column = 8 * j + 2 * t;
            T* at = piece_at<T, kWidth>(tile, g + 4 * i, column / kVector<T>) + column % kVector<T>;
            const float low = x[0][j][i] * factor[i / 2], high = x[0][j][i + 1] * factor[i / 2];
            if constexpr (Tiling<T, kWidth>::kTensor) {
                *reinterpret_cast<uint32_t*>(at) = bf16_pair(low, high);
            } else {
                at[0] = low;
                at[1] = high;
            }
        }
    __syncwarp();
    constexpr int kPieces = kWidth / kVector<T>;
    for (int i = lane; i < 16 * kPieces; i += 32) {
        const int row = i / kPieces, piece = i % kPieces;
        if (row < rows && piece * kVector<T> < to.D)
            store_copy(const_cast<T*>(to.first) + int64_t(begin + row) * to.ld, to.D, piece,
                       to.aligned, ld128(piece_at<T, kWidth>(tile, row, piece)));
    }
}

template <int N> __device__ __forceinline__ void clear(float (&s)[1][N][4]) {
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[0][j][i] = 0;
}

// ------------------------------------------------------------------------------------------------
// bf16: tensor cores

// The left factor of scores: 16 rows of a tile. kKept: in registers for good.
template <class T, int kWidth, bool kKept> struct Left {
    const T* tile;
    __device__ __forceinline__ explicit Left(const T* rows) : tile(rows) {}
};
template <int kWidth, bool kKept> struct Left<bf16, kWidth, kKept> {
    const bf16* tile;
    uint32_t kept[kKept ? kWidth / 16 : 1][4];

    __device__ __forceinline__ const void* at(int step) const {
        const int lane = int(threadIdx.x) % 32;
        return piece_at<const bf16, kWidth>(tile, lane % 16, 2 * step + lane / 16);
    }
    __device__ __forceinline__ explicit Left(const bf16* rows) : tile(rows) {
        if constexpr (kKept) {
            const void* from[kWidth / 16];
#pragma unroll
            for (int step = 0; step < kWidth / 16; step++) from[step] = at(step);
            ldmatrix_x4(kept, from);
        }
    }
    __device__ __forceinline__ void fragment(uint32_t (&a)[1][4], int step) const {
        if constexpr (kKept) {
#pragma unroll
            for (int i = 0; i < 4; i++) a[0][i] = kept[step][i];
        } else {
            const void* const from[1] = {at(step)};
            ldmatrix_x4(a, from);
        }
    }
};

// Four 8x8 matrices are two neighbouring column tiles of the right factor.
template <int N>
__device__ __forceinline__ void split_pairs(uint32_t (&b)[2 * N][2], const uint32_t (&x)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int r = 0; r < 4; r++) b[2 * i + r / 2][r % 2] = x[i][r];
}

// from(step, i): this lane's piece of the i-th two column tiles; load: as they lie, or transposed.
template <int kWidth, int N, bool kKept, class From, class Load>
__device__ __forceinline__ void
scores_from(float (&s)[1][N][4], const Left<bf16, kWidth, kKept>& left, From&& from, Load&& load) {
    clear(s);
#pragma unroll
    for (int step = 0; step < kWidth / 16; step++) {
        const void* pieces[N / 2];
        uint32_t a[1][4], x[N / 2][4], b[N][2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) pieces[i] = from(step, i);
        load(x, pieces);
        split_pairs(b, x);
        left.fragment(a, step);
        mma_m16n8k16(s, a, b);
    }
}

template <int kWidth, int N, bool kKept>
__device__ __forceinline__ void scores(float (&s)[1][N][4], const Left<bf16, kWidth, kKept>& left,
                                       const bf16* tile) {
    const int lane = int(threadIdx.x) % 32;
    scores_from(
        s, left,
        [&](int step, int i) {
            return piece_at<const bf16, kWidth>(tile, 16 * i + lane / 16 * 8 + lane % 8,
                                                2 * step + lane / 8 % 2);
        },
        [](auto& x, const auto& pieces) { ldmatrix_x4(x, pieces); });
}

// The same, where the tile (D, kColumns) holds the right factor transposed: its columns first ..
// first + 8 N - 1.
template <int kColumns, int kWidth, int N, bool kKept>
__device__ __forceinline__ void scores_transposed(float (&s)[1][N][4],
                                                  const Left<bf16, kWidth, kKept>& left,
                                                  const bf16* tile, int first) {
    const int lane = int(threadIdx.x) % 32;
    scores_from(
        s, left,
        [&](int step, int i) {
            return piece_at<const bf16, kColumns>(tile, 16 * step + lane % 16,
                                                  first / 8 + 2 * i + lane / 16);
        },
        [](auto& x, const auto& pieces) { ldmatrix_x4_trans(x, pieces); });
}

template <int kWidth, int N, int M>
__device__ __forceinline__ void mix(float (&o)[1][M][4], const float (&p)[1][N][4],
                                    const bf16* tile, int first, bf16*) {
    constexpr int kLoads = M < 8 ? M / 2 : 4; // at a time: registers are short
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int step = 0; step < N / 2; step++) {
        uint32_t a[1][4];
#pragma unroll
        for (int r = 0; r < 4; r++) { // the sums' fragments are those of a left factor
            const float* pair = p[0][2 * step + r / 2] + r % 2 * 2;
            a[0][r] = bf16_pair(pair[0], pair[1]);
        }
#pragma unroll
        for (int part = 0; part < M / 2; part += kLoads) {
            uint32_t x[kLoads][4], b[2 * kLoads][2];
            const void* from[kLoads];
#pragma unroll
            for (int i = 0; i < kLoads; i++)
                from[i] = piece_at<const bf16, kWidth>(tile, 16 * step + lane % 16,
                                                       first / 8 + 2 * (part + i) + lane / 16);
            ldmatrix_x4_trans(x, from);
            split_pairs(b, x);
            mma_m16n8k16(reinterpret_cast<float(&)[1][2 * kLoads][4]>(o[0][2 * part]), a, b);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// fp32: fused multiply-adds, over D and over columns from the first to the last. By name: what a
// compiler fuses on its own may differ from kernel to kernel, and rows have the same bits in all.

template <int kWidth, int N, bool kKept>
__device__ __forceinline__ void scores(float (&s)[1][N][4], const Left<float, kWidth, kKept>& left,
                                       const float* tile) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    clear(s);
#pragma unroll 1
    for (int piece = 0; piece < kWidth / 4; piece++) {
        const Pack<float> low = ld128(piece_at<const float, kWidth>(left.tile, g, piece)),
                          high = ld128(piece_at<const float, kWidth>(left.tile, g + 8, piece));
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const Pack<float> x =
                    ld128(piece_at<const float, kWidth>(tile, 8 * j + 2 * t + e, piece));
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    s[0][j][e] = fmaf(low.v[i], x.v[i], s[0][j][e]);
                    s[0][j][2 + e] = fmaf(high.v[i], x.v[i], s[0][j][2 + e]);
                }
            }
    }
}

template <int kColumns, int kWidth, int N, bool kKept>
__device__ __forceinline__ void scores_transposed(float (&s)[1][N][4],
                                                  const Left<float, kWidth, kKept>& left,
                                                  const float* tile, int first) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    clear(s);
#pragma unroll 1
    for (int piece = 0; piece < kWidth / 4; piece++) {
        const Pack<float> low = ld128(piece_at<const float, kWidth>(left.tile, g, piece)),
                          high = ld128(piece_at<const float, kWidth>(left.tile, g + 8, piece));
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                const int column = first / 4 + 2 * j + t / 2;
                const float* x =
                    piece_at<const float, kColumns>(tile, 4 * piece + i, column) + t % 2 * 2;
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    s[0][j][e] = fmaf(low.v[i], x[e], s[0][j][e]);
                    s[0][j][2 + e] = fmaf(high.v[i], x[e], s[0][j][2 + e]);
                }
            }
    }
}

template <int kWidth, int N, int M>
__device__ __forceinline__ void mix(float (&o)[1][M][4], const float (&p)[1][N][4],
                                    const float* tile, int first_column, float* exchange) {
    constexpr int kLine = 8 * N + 4;
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    float* rows = exchange + int(threadIdx.x) / 32 * 16 * kLine;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            rows[(g + i / 2 * 8) * kLine + 8 * j + 2 * t + i % 2] = p[0][j][i];
    __syncwarp();
#pragma unroll 1
    for (int first = 0; first < 8 * N; first += 4) {
        const Pack<float> low = ld128(rows + g * kLine + first),
                          high = ld128(rows + (g + 8) * kLine + first);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < M; j++) {
                const int piece = first_column / 4 + 2 * j + t / 2;
                const float* x = piece_at<const float, kWidth>(tile, first + i, piece) + t % 2 * 2;
                o[0][j][0] = fmaf(low.v[i], x[0], o[0][j][0]);
                o[0][j][1] = fmaf(low.v[i], x[1], o[0][j][1]);
                o[0][j][2] = fmaf(high.v[i], x[0], o[0][j][2]);
                o[0][j][3] = fmaf(high.v[i], x[1], o[0][j][3]);
            }
    }
    __syncwarp();
}

// ------------------------------------------------------------------------------------------------
// softmax over the tiles of a row

// What a thread keeps of its rows g and g + 8: the largest score in units of ln 2, the sum of
// exp2(score - largest) over its own columns, and kColumns columns of the output, (X1)-(X3).
template <int kColumns> struct Softmax {
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    float out[1][kColumns / 8][4] = {};

    // Scores of one more key tile -> its exp2, all else brought to the new largest score. A row
    // whose keys are all masked (-infinity) keeps its bits.
    template <int N> __device__ __forceinline__ void add(float (&s)[1][N][4], float scale_log2) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float most = -INFINITY;
#pragma unroll
            for (int j = 0; j < N; j++)
                most = fmaxf(most, fmaxf(s[0][j][2 * r], s[0][j][2 * r + 1]));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 1)); // four lanes share a row
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
            most = fmaxf(largest[r], most * scale_log2);
            const float base = most == -INFINITY ? 0 : most;
            const float shrink = exp2_approx(largest[r] - base);
            largest[r] = most;
            float part = 0;
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) {
                    s[0][j][e] = exp2_approx(fmaf(s[0][j][e], scale_log2, -base)); // (X2)
                    part += s[0][j][e];
                }
            sum[r] = fmaf(sum[r], shrink, part);
#pragma unroll
            for (int j = 0; j < kColumns / 8; j++)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) out[0][j][e] *= shrink;
        }
    }
    // Completes sum over the row's four lanes.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
            sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        }
    }
};

// ------------------------------------------------------------------------------------------------
// launchers

template <class T> HeadRows<T> head_rows(const View& view, int heads) {
    const int D = int(view.shape[1] / heads);
    return {static_cast<const T*>(view.data), view.ld, D,
            aligned_rows<T>(view) && D % kVector<T> == 0};
}

// run.operator()<T, kWidth>() for a head of D columns of dtype.
template <class Run> void for_width(Dtype dtype, int64_t D, const Run& run) {
    require(D <= 128, "attention: head width %ld, the kernels take at most 128", long(D));
    auto with = [&]<class T>(T) {
        D <= 32   ? run.template operator()<T, 32>()
        : D <= 64 ? run.template operator()<T, 64>()
                  : run.template operator()<T, 128>();
    };
    dtype == Dtype::bf16 ? with(bf16{}) : with(float{});
}

} // namespace
