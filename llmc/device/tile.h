// The CPU's inner product kernel: C (m, n) += A (m, k) B (k, n) on tiles that fit the cache,
// shared by attention, the experts' grouped GEMM and the dense GEMM without oneDNN.
//
// Every element of C is one chain of fused multiply-adds over k in ascending order, whatever m, n
// and the position in the tile are: rows never depend on how many rows there are. B is float, or
// bf16 that is widened as it is read.
#pragma once
#include "llmc/device/simd.h"

#include <cstddef>
#include <type_traits>

// AVX-512 has 32 vector registers of this width; with AVX2 each Vf takes two of 16.
#ifdef __AVX512F__
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 2;
#endif
constexpr int kTileColumns = 2 * kLanes; // columns of one packed panel

namespace tile_detail {
// rows x (vectors * 16) block of C, a at (row, p) = a[row * a_row + p * a_col].
template <int kRows, int kVectors, class B>
inline void block(int k, const float* a, ptrdiff_t a_row, ptrdiff_t a_col, const B* b,
                  ptrdiff_t ldb, float* c, ptrdiff_t ldc, bool accumulate) {
    Vf sum[kRows][kVectors];
    for (int i = 0; i < kRows; i++)
        for (int j = 0; j < kVectors; j++)
            sum[i][j] = accumulate ? load(c + i * ldc + j * kLanes) : Vf{};
    for (int p = 0; p < k; p++) {
        Vf row[kVectors];
        for (int j = 0; j < kVectors; j++) row[j] = load(b + p * ldb + j * kLanes);
        for (int i = 0; i < kRows; i++) {
            Vf value = splat(a[i * a_row + p * a_col]);
            for (int j = 0; j < kVectors; j++) sum[i][j] += value * row[j];
        }
    }
    for (int i = 0; i < kRows; i++)
        for (int j = 0; j < kVectors; j++) store(c + i * ldc + j * kLanes, sum[i][j]);
}

// The last n % 16 columns.
template <class B>
inline void tail(int k, int n, const float* a, ptrdiff_t a_col, const B* b, ptrdiff_t ldb, float* c,
                 bool accumulate) {
    Vf sum = accumulate ? load_tail(c, n, 0.0f) : Vf{};
    for (int p = 0; p < k; p++) sum += splat(a[p * a_col]) * load_tail(b + p * ldb, n, 0.0f);
    store_tail(c, sum, n);
}

template <int kRows, class B>
inline void rows(int n, int k, const float* a, ptrdiff_t a_row, ptrdiff_t a_col, const B* b,
                 ptrdiff_t ldb, float* c, ptrdiff_t ldc, bool accumulate) {
    int j = 0;
    if constexpr (kRows <=
                  2) // few rows: more columns at a time, or the multiply-adds wait for each other
        for (; j + 4 * kLanes <= n; j += 4 * kLanes)
            block<kRows, 4>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
    for (; j + 2 * kLanes <= n; j += 2 * kLanes)
        block<kRows, 2>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
    for (; j + kLanes <= n; j += kLanes)
        block<kRows, 1>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
    if (j < n)
        for (int i = 0; i < kRows; i++)
            tail(k, n - j, a + i * a_row, a_col, b + j, ldb, c + i * ldc + j, accumulate);
}
} // namespace tile_detail

enum class TileStore { overwrite, accumulate };

// A (m, k) with any strides (a_row, a_col), B (k, n) and C (m, n) row-major with ldb, ldc.
template <class B>
inline void tile_gemm(int m, int n, int k, const float* a, ptrdiff_t a_row, ptrdiff_t a_col,
                      const B* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc, TileStore mode) {
    bool accumulate = mode == TileStore::accumulate;
    int i = 0;
    for (; i + kTileRows <= m; i += kTileRows)
        tile_detail::rows<kTileRows>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc,
                                     accumulate);
    auto rest = [&](auto rows) {
        for (; i + rows.value <= m; i += rows.value)
            tile_detail::rows<rows.value>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc,
                                          ldc, accumulate);
    };
    if constexpr (kTileRows > 4) rest(std::integral_constant<int, 4>());
    if constexpr (kTileRows > 2) rest(std::integral_constant<int, 2>());
    rest(std::integral_constant<int, 1>());
}
