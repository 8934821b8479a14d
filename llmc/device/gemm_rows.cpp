// Contract: gemm_rows.h. A panel holds 32 columns of the product, its lines along k:
//
//   weight (n, k)          panel of columns j0 .. j0+31
//   row j0:   p0 p1 ...    p0: j0 j0+1 ... j0+31    bf16: p0 p1 of j0, p0 p1 of j0+1, ...
//   row j0+1: p0 p1 ...    p1: j0 j0+1 ... j0+31          p2 p3 of j0, ...
//
// An element is a sum of chains: within a chain multiply-adds in ascending k (in bf16 the machine's
// pairs), the chains added in order. Nothing depends on m or on the position in a tile.
#include "llmc/device/gemm_rows.h"

#include "llmc/core/rng.h"
#include "llmc/device/gemm.h"
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/transpose.h"

#include <algorithm>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int kPanel = 32; // columns

// ------------------------------------------------------------------------------------------------
// kernel

// 16 columns' step along k.
template <class T> struct Step {
    typedef Vf Values;
    static constexpr int kTerms = 1;
    static Values column(const float* a) { return splat(*a); }
    static Values row(const float* b) { return load(b); }
    static Vf add(Vf sum, Values a, Values b) { return fused(a, b, sum); }
};

#ifdef __AVX512BF16__
constexpr bool kPairs = true;
template <> struct Step<bf16> {
    typedef __m512bh Values;
    static constexpr int kTerms = 2;
    static Values column(const bf16* a) {
        int32_t pair;
        std::memcpy(&pair, a, sizeof pair);
        return Values(_mm512_set1_epi32(pair));
    }
    static Values row(const bf16* b) { return Values(_mm512_loadu_si512(b)); }
    static Vf add(Vf sum, Values a, Values b) { return Vf(_mm512_dpbf16_ps(__m512(sum), a, b)); }
};
#else
constexpr bool kPairs = false;
template <> struct Step<bf16> { // never called
    typedef Vf Values;
    static constexpr int kTerms = 2;
    static Values column(const bf16*) { return Vf{}; }
    static Values row(const bf16*) { return Vf{}; }
    static Vf add(Vf sum, Values, Values) { return sum; }
};
#endif

template <class T> struct Product {
    const T* a;
    int64_t lda;
    const int32_t* index; // row i of the product is that of a's row index[i]; null: of its row i
    const T* panels;
    int64_t k, sum;
    View c;

    int64_t panel_count() const { return (c.shape[1] + kPanel - 1) / kPanel; }
    // Few rows take two panels at a time: more chains, or the multiply-adds wait for each other.
    int64_t width() const { return c.shape[0] < 8 ? 2 : 1; }
    int64_t tasks() const { return (panel_count() + width() - 1) / width(); }

    // Rows i.. of the columns of panels `panel`..
    template <int kRows, int kPanels> void block(int64_t i, int64_t panel) const {
        using S = Step<T>;
        const T* rows[kRows];
        for (int r = 0; r < kRows; r++) rows[r] = a + (index ? index[i + r] : i + r) * lda;
        const T* b = panels + panel * k * kPanel;
        constexpr int kVectors = kPanels * kPanel / kLanes;
        auto chain = [&](Vf(&out)[kRows][kVectors], int64_t begin) {
            const int64_t end = std::min(k, begin + sum);
            Vf sums[kRows][kVectors];
            for (int r = 0; r < kRows; r++)
                for (int j = 0; j < kVectors; j++) sums[r][j] = Vf{};
            for (int64_t p = begin; p < end; p += S::kTerms) {
                typename S::Values line[kVectors];
                for (int j = 0; j < kVectors; j++)
                    line[j] =
                        S::row(b + j / 2 * k * kPanel + p * kPanel + j % 2 * kLanes * S::kTerms);
                for (int r = 0; r < kRows; r++) {
                    const typename S::Values value = S::column(rows[r] + p);
                    for (int j = 0; j < kVectors; j++)
                        sums[r][j] = S::add(sums[r][j], value, line[j]);
                }
            }
            for (int r = 0; r < kRows; r++)
                for (int j = 0; j < kVectors; j++) out[r][j] = sums[r][j];
        };
        Vf total[kRows][kVectors], next[kRows][kVectors];
        chain(total, 0);
        for (int64_t begin = sum; begin < k; begin += sum) {
            chain(next, begin);
            for (int r = 0; r < kRows; r++)
                for (int j = 0; j < kVectors; j++) total[r][j] += next[r][j];
        }
        with_real(c.dtype, [&](auto x) {
            using C = decltype(x);
            for (int r = 0; r < kRows; r++) {
                C* out = static_cast<C*>(c.data) + (i + r) * c.ld;
                for (int j = 0; j < kVectors; j++) {
                    const int64_t column = panel * kPanel + j * kLanes;
                    const int64_t left = std::min<int64_t>(kLanes, c.shape[1] - column);
                    if (left > 0) store_tail(out + column, total[r][j], int(left));
                }
            }
        });
    }

    // All rows of these panels.
    template <int kPanels> void rows(int64_t panel) const {
        const int64_t m = c.shape[0];
        int64_t i = 0;
        if constexpr (kPanels == 1)
            for (; i + 8 <= m; i += 8) block<8, kPanels>(i, panel);
        for (; i + 4 <= m; i += 4) block<4, kPanels>(i, panel);
        for (; i + 2 <= m; i += 2) block<2, kPanels>(i, panel);
        for (; i < m; i++) block<1, kPanels>(i, panel);
    }

    void task(int64_t i) const {
        const int64_t panel = i * width();
        if (width() == 1 || panel + 1 == panel_count()) rows<1>(panel);
        else rows<2>(panel);
    }
};

template <class T>
void multiply_panels(View c, const View& a, const View& panels, int64_t k, int64_t sum) {
    const Product<T> product{a.as<T>(), a.ld, nullptr, panels.as<T>(), k, sum, c};
    parallel_for(product.tasks(), [&](int64_t i) { product.task(i); });
}

// The length of chains with which the kernel, and with no other, gives gemm()'s bits for these
// weights; 0 if there is none. Weights that are all 0 tell nothing.
int64_t find_sum(Ctx& ctx, const View& weight, const View& panels) {
    // 9 rows: 8 at a time, and one alone.
    const int64_t m = 9, n = weight.shape[0], k = weight.shape[1];
    Buffer a(weight.dtype, "probe", m, k);
    Rng rng(1, 1);
    for (int64_t i = 0; i < m * k; i++) write_value(a.view(), i, rng.normal());
    auto equal = [&](Dtype c, int64_t sum) {
        Buffer want(c, "probe", m, n), got(c, "probe", m, n);
        gemm(ctx, want.view(), a.view(), Trans::no, weight, Trans::yes, Store::overwrite);
        if (sum > 0)
            with_real(weight.dtype, [&](auto x) {
                multiply_panels<decltype(x)>(got.view(), a.view(), panels, k, sum);
            });
        return std::memcmp(got.bytes(), want.bytes(), want.view().bytes()) == 0;
    };
    if (equal(Dtype::f32, 0)) return 0;
    int64_t found = 0; // libraries cut k into blocks of round sizes
    for (int64_t sum : {k, int64_t(64), int64_t(128), int64_t(256), int64_t(384), int64_t(512),
                        int64_t(768), int64_t(1024), int64_t(2048), int64_t(4096)}) {
        if (sum > k || sum == found || !equal(Dtype::f32, sum)) continue;
        if (found > 0) return 0;
        found = sum;
    }
    return found > 0 && equal(weight.dtype, found) ? found : 0;
}

} // namespace

// ------------------------------------------------------------------------------------------------
// packing

void PackedWeights::add(const View& weight) {
    const bool grouped = weight.rank == 3, pairs = weight.dtype == Dtype::bf16;
    const int64_t experts = grouped ? weight.shape[0] : 1, n = weight.shape[grouped ? 1 : 0];
    const int64_t k = weight.shape[grouped ? 2 : 1], ld = grouped ? k : weight.ld;
    if (experts * n * k == 0 || index_.count(weight.data)) return;
    if (pairs && (grouped || !kPairs || k % 2 != 0 || ld % 2 != 0)) return;
    Buffer panels(arena_, Segment::rollouts, weight.dtype, "packed weights",
                  experts * ((n + kPanel - 1) / kPanel), k * kPanel);
    index_[weight.data] = matrices_.size();
    matrices_.push_back({weight, experts, n, k, ld, std::move(panels), grouped ? k : 0});
}

void PackedWeights::pack(Ctx& ctx) {
    for (Matrix& matrix : matrices_) {
        // A pair is moved as one value of 4 bytes.
        const int64_t terms = matrix.weight.dtype == Dtype::bf16 ? 2 : 1;
        const int64_t n = matrix.n, k = matrix.k / terms, ld = matrix.ld / terms;
        const int64_t panels = matrix.panels.view().rows() / matrix.experts;
        const float* from = static_cast<const float*>(matrix.weight.data);
        float* to = static_cast<float*>(matrix.panels.view().data);
        parallel_for(matrix.experts * panels, [&](int64_t panel) {
            const int64_t j = panel % panels * kPanel;
            transpose_tile(to + panel * kPanel * k, kPanel, from + (panel / panels * n + j) * ld,
                           ld, int(std::min<int64_t>(kPanel, n - j)), int(k), kPanel);
        });
    }
    for (Matrix& matrix : matrices_) {
        if (matrix.sum > 0) continue;
        auto same_shape = [&](const Matrix& m) {
            return m.sum > 0 && m.experts == 1 && m.n == matrix.n && m.k == matrix.k &&
                   m.ld == matrix.ld;
        };
        const auto same = std::find_if(matrices_.begin(), matrices_.end(), same_shape);
        matrix.sum = same != matrices_.end() ? same->sum
                                             : find_sum(ctx, matrix.weight, matrix.panels.view());
    }
}

const PackedWeights::Matrix* PackedWeights::find(const View& weight, Dtype a) const {
    const auto found = index_.find(weight.data);
    if (found == index_.end() || a != weight.dtype) return nullptr;
    const Matrix& matrix = matrices_[found->second];
    return matrix.sum > 0 ? &matrix : nullptr;
}

bool PackedWeights::multiply(Ctx&, View c, const View& a, const View& weight) const {
    const Matrix* matrix = find(weight, a.dtype);
    if (!matrix) return false;
    with_real(weight.dtype, [&](auto x) {
        multiply_panels<decltype(x)>(c, a, matrix->panels.view(), matrix->k, matrix->sum);
    });
    return true;
}

bool PackedWeights::multiply_grouped(Ctx&, View out, const View& inp, const View& slot_row,
                                     const View& weight, const View& offsets) const {
    const Matrix* matrix = find(weight, inp.dtype);
    if (!matrix || inp.dtype != Dtype::f32) return false;
    const int32_t* begin = offsets.as<int32_t>();
    const int32_t* rows = slot_row.empty() ? nullptr : slot_row.as<int32_t>();
    const int64_t size = matrix->panels.view().size() / matrix->experts;
    std::vector<Product<float>> products; // of the experts that have rows
    std::vector<std::pair<int, int>> tasks;
    for (int64_t e = 0; e < matrix->experts; e++) {
        const int64_t s = begin[e], count = begin[e + 1] - s;
        if (count == 0) continue;
        products.push_back({inp.as<float>() + (rows ? 0 : s * inp.ld), inp.ld,
                            rows ? rows + s : nullptr, matrix->panels.view().as<float>() + e * size,
                            matrix->k, matrix->sum, out.slice_rows(s, count)});
        for (int64_t i = 0; i < products.back().tasks(); i++)
            tasks.push_back({int(products.size()) - 1, int(i)});
    }
    parallel_for_dynamic(int64_t(tasks.size()),
                         [&](int64_t i, int) { products[tasks[i].first].task(tasks[i].second); });
    return true;
}
