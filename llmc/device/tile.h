// The CPU's inner product kernel: C (m, n) += A (m, k) B (k, n) on tiles that fit the cache,
// shared by attention, the experts' grouped GEMM and the dense GEMM without oneDNN.
//
// Every element of C is one chain of fused multiply-adds over k in ascending order, whatever m, n
// and the position in the tile are: rows never depend on how many rows there are.
//
// Operands in bf16 come as pairs along k (pair.h): k, a_row, a_col and ldb count pairs then. With A
// in float B may also be bf16 that is widened as it is read.
#pragma once
#include "llmc/device/pair.h"
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
typedef uint32_t Vp __attribute__((vector_size(64))); // 16 pairs

inline Vf load_b(const float* p) { return load(p); }
inline Vf load_b(const float* p, int count) { return load_tail(p, count, 0.0f); }
inline Vf load_b(const bf16* p) { return load(p); }
inline Vf load_b(const bf16* p, int count) { return load_tail(p, count, 0.0f); }
inline Vf splat_a(const float* p) { return splat(*p); }
inline Vf multiply_add(Vf sum, Vf a, Vf b) { return fused(a, b, sum); }

inline Vp load_b(const Pair* p) {
    Vp v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Vp load_b(const Pair* p, int count) {
    Vp v = {};
    std::memcpy(&v, p, size_t(count) * sizeof *p);
    return v;
}
inline Vp splat_a(const Pair* p) {
    uint32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return bits - Vp{};
}
#ifdef __AVX512BF16__
// Products are exact, their sum is rounded as the instruction does: subnormals count as 0.
inline Vf multiply_add(Vf sum, Vp a, Vp b) {
    __m512bh x, y;
    std::memcpy(&x, &a, sizeof x);
    std::memcpy(&y, &b, sizeof y);
    return _mm512_dpbf16_ps(sum, x, y);
}
#else
inline Vf multiply_add(Vf sum, Vp a, Vp b) {
    auto as_float = [](Vp bits) {
        Vf v;
        std::memcpy(&v, &bits, sizeof v);
        return v;
    };
    sum = fused(as_float(a & 0xffff0000u), as_float(b & 0xffff0000u), sum);
    return fused(as_float(a << 16), as_float(b << 16), sum);
}
#endif

// rows x (vectors * 16) block of C, a at (row, p) = a[row * a_row + p * a_col].
template <int kRows, int kVectors, class A, class B>
inline void block(int k, const A* a, ptrdiff_t a_row, ptrdiff_t a_col, const B* b, ptrdiff_t ldb,
                  float* c, ptrdiff_t ldc, bool accumulate, const B* ahead) {
    Vf sum[kRows][kVectors];
    for (int i = 0; i < kRows; i++)
        for (int j = 0; j < kVectors; j++)
            sum[i][j] = accumulate ? load(c + i * ldc + j * kLanes) : Vf{};
    for (int p = 0; p < k; p++) {
        decltype(load_b(b)) row[kVectors];
        for (int j = 0; j < kVectors; j++) row[j] = load_b(b + p * ldb + j * kLanes);
        if (ahead)
            for (int j = 0; j < kVectors; j++) prefetch(ahead + p * ldb + j * kLanes);
        for (int i = 0; i < kRows; i++) {
            const auto value = splat_a(a + i * a_row + p * a_col);
            for (int j = 0; j < kVectors; j++) sum[i][j] = multiply_add(sum[i][j], value, row[j]);
        }
    }
    for (int i = 0; i < kRows; i++)
        for (int j = 0; j < kVectors; j++) store(c + i * ldc + j * kLanes, sum[i][j]);
}

// The last n % 16 columns.
template <class A, class B>
inline void tail(int k, int n, const A* a, ptrdiff_t a_col, const B* b, ptrdiff_t ldb, float* c,
                 bool accumulate) {
    Vf sum = accumulate ? load_tail(c, n, 0.0f) : Vf{};
    for (int p = 0; p < k; p++)
        sum = multiply_add(sum, splat_a(a + p * a_col), load_b(b + p * ldb, n));
    store_tail(c, sum, n);
}

template <int kRows, class A, class B>
inline void rows(int n, int k, const A* a, ptrdiff_t a_row, ptrdiff_t a_col, const B* b,
                 ptrdiff_t ldb, float* c, ptrdiff_t ldc, bool accumulate, const B* ahead) {
    int j = 0;
    auto next = [&] { return ahead ? ahead + j : nullptr; };
    // Few rows: more columns at a time, or the multiply-adds wait for each other.
    if constexpr (kRows <= 2)
        for (; j + 4 * kLanes <= n; j += 4 * kLanes)
            block<kRows, 4>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate, next());
    for (; j + 2 * kLanes <= n; j += 2 * kLanes)
        block<kRows, 2>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate, next());
    for (; j + kLanes <= n; j += kLanes)
        block<kRows, 1>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate, next());
    if (j < n)
        for (int i = 0; i < kRows; i++)
            tail(k, n - j, a + i * a_row, a_col, b + j, ldb, c + i * ldc + j, accumulate);
}
} // namespace tile_detail

enum class TileStore { overwrite, accumulate };

// A (m, k) with any strides (a_row, a_col), B (k, n) and C (m, n) row-major with ldb, ldc.
// `ahead`: where the B of a later product lies, with the same ldb, or null. It is fetched line by
// line beside this one's, so that memory is read while there is something to compute.
template <class A, class B>
inline void tile_gemm_ahead(int m, int n, int k, const A* a, ptrdiff_t a_row, ptrdiff_t a_col,
                            const B* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc, TileStore mode,
                            const B* ahead) {
    bool accumulate = mode == TileStore::accumulate;
    int i = 0;
    for (; i + kTileRows <= m; i += kTileRows)
        tile_detail::rows<kTileRows>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc,
                                     accumulate, i == 0 ? ahead : nullptr);
    auto rest = [&](auto rows) {
        for (; i + rows.value <= m; i += rows.value)
            tile_detail::rows<rows.value>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc,
                                          ldc, accumulate, i == 0 ? ahead : nullptr);
    };
    if constexpr (kTileRows > 4) rest(std::integral_constant<int, 4>());
    if constexpr (kTileRows > 2) rest(std::integral_constant<int, 2>());
    rest(std::integral_constant<int, 1>());
}

template <class A, class B>
inline void tile_gemm(int m, int n, int k, const A* a, ptrdiff_t a_row, ptrdiff_t a_col, const B* b,
                      ptrdiff_t ldb, float* c, ptrdiff_t ldc, TileStore mode) {
    tile_gemm_ahead(m, n, k, a, a_row, a_col, b, ldb, c, ldc, mode, static_cast<const B*>(nullptr));
}

// Rows `even` and `odd` side by side, rounded: 16 pairs along the rows.
inline void store_pairs(Pair* p, Vf even, Vf odd) {
    typedef simd_detail::Vu Vu;
    const Vu pairs = __builtin_convertvector(to_bf16(even), Vu) |
                     (__builtin_convertvector(to_bf16(odd), Vu) << 16);
    std::memcpy(p, &pairs, sizeof pairs);
}
