// Pairs of bf16 neighbours along the summed index k, as the CPU's bf16 instructions take them: one
// Pair holds k = 2i and 2i + 1, an odd last one has a zero partner.
//
//   along columns, as rows lie    a0 a1 | a2 a3 | ...
//   along rows (pair_rows)        b0 c0 | b1 c1 | b2 c2 | ...      from rows b and c
#pragma once
#include "llmc/core/view.h"
#include "llmc/device/transpose.h"

#include <cstring>

struct Pair {
    bf16 even, odd;
};
static_assert(sizeof(Pair) == sizeof(float));

// Rows can be read as pairs along their columns where they lie.
inline bool has_pairs(const bf16* p, ptrdiff_t ld, int64_t columns) {
    return (reinterpret_cast<uintptr_t>(p) % sizeof(Pair) | ld % 2 | columns % 2) == 0;
}
inline const Pair* as_pairs(const bf16* p) { return reinterpret_cast<const Pair*>(p); }

// One row, copied: out (pairs of columns).
inline void pair_row(Pair* out, const bf16* in, int64_t columns) {
    std::memcpy(out, in, size_t(columns) * sizeof *in);
    if (columns % 2) out[columns / 2].odd = bf16{0};
}

// out (pairs of rows, columns); row(r) is where row r begins
template <class Row>
void pair_rows(Pair* out, ptrdiff_t out_ld, const Row& row, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r += 2) {
        const bf16 *even = row(r), *odd = r + 1 < rows ? row(r + 1) : nullptr;
        Pair* line = out + r / 2 * out_ld;
        if (odd)
            for (int64_t c = 0; c < columns; c++) line[c] = {even[c], odd[c]};
        else
            for (int64_t c = 0; c < columns; c++) line[c] = {even[c], bf16{0}};
    }
}

// out (pairs of columns, padded): transposed, then zeros up to `padded` >= rows.
inline void pair_columns(Pair* out, ptrdiff_t out_ld, const bf16* in, ptrdiff_t in_ld, int rows,
                         int columns, int padded) {
    if (has_pairs(in, in_ld, columns)) { // 32 bits move together
        transpose_tile(reinterpret_cast<float*>(out), out_ld, reinterpret_cast<const float*>(in),
                       in_ld / 2, rows, columns / 2, padded);
        return;
    }
    for (int c = 0; c < columns; c += 2) {
        Pair* line = out + c / 2 * out_ld;
        for (int r = 0; r < rows; r++)
            line[r] = {in[r * in_ld + c], c + 1 < columns ? in[r * in_ld + c + 1] : bf16{0}};
        std::memset(line + rows, 0, size_t(padded - rows) * sizeof(Pair));
    }
}
