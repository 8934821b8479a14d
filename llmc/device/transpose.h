// Transposed copies of small tiles, in 8 x 8 blocks of registers.
#pragma once
#include "llmc/device/simd.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace transpose_detail {
typedef float V8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));

inline V8 load8(const float* p) {
    V8 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline V8 load8(const bf16* p) {
    typedef uint16_t H8 __attribute__((vector_size(16)));
    typedef uint32_t U8 __attribute__((vector_size(32)));
    H8 half;
    std::memcpy(&half, p, sizeof half);
    const U8 bits = __builtin_convertvector(half, U8) << 16;
    V8 v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

template <class In> inline void block(float* out, ptrdiff_t out_ld, const In* in, ptrdiff_t in_ld) {
    V8 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = load8(in + i * in_ld);
    const I8 low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};
    for (int i = 0; i < 8; i += 2) { // pairs of rows interleaved
        s[i] = __builtin_shuffle(r[i], r[i + 1], low);
        s[i + 1] = __builtin_shuffle(r[i], r[i + 1], high);
    }
    const I8 even = {0, 1, 8, 9, 4, 5, 12, 13}, odd = {2, 3, 10, 11, 6, 7, 14, 15};
    for (int i = 0; i < 8; i += 4) { // four rows
        r[i] = __builtin_shuffle(s[i], s[i + 2], even);
        r[i + 1] = __builtin_shuffle(s[i], s[i + 2], odd);
        r[i + 2] = __builtin_shuffle(s[i + 1], s[i + 3], even);
        r[i + 3] = __builtin_shuffle(s[i + 1], s[i + 3], odd);
    }
    const I8 left = {0, 1, 2, 3, 8, 9, 10, 11}, right = {4, 5, 6, 7, 12, 13, 14, 15};
    for (int i = 0; i < 4; i++) { // eight rows
        s[i] = __builtin_shuffle(r[i], r[i + 4], left);
        s[i + 4] = __builtin_shuffle(r[i], r[i + 4], right);
    }
    for (int i = 0; i < 8; i++) std::memcpy(out + i * out_ld, &s[i], sizeof s[i]);
}
} // namespace transpose_detail

// out (columns, padded) = in (rows, columns) transposed, then zeros up to `padded` >= rows.
// In: float or bf16.
template <class In>
void transpose_tile(float* out, ptrdiff_t out_ld, const In* in, ptrdiff_t in_ld, int rows,
                    int columns, int padded) {
    const int rows8 = rows / 8 * 8, columns8 = columns / 8 * 8;
    for (int i = 0; i < rows8; i += 8)
        for (int j = 0; j < columns8; j += 8)
            transpose_detail::block(out + j * out_ld + i, out_ld, in + i * in_ld + j, in_ld);
    for (int j = 0; j < columns; j++) {
        float* line = out + j * out_ld;
        for (int i = j < columns8 ? rows8 : 0; i < rows; i++) line[i] = to_float(in[i * in_ld + j]);
        std::fill(line + rows, line + padded, 0.0f);
    }
}
