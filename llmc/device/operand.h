// How tile_gemm takes operands that are stored as T: floats where they lie, or pairs of bf16 along
// the sum (pair.h).
#pragma once
#include "llmc/device/pair.h"
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"

#include <algorithm>

template <class X> struct OperandBlock {
    const X* data;
    int64_t ld; // in X
    const X* row(int64_t r) const { return data + r * ld; }
};

template <class T> struct Operand;

template <> struct Operand<float> {
    typedef float X;
    static int64_t terms(int64_t k) { return k; } // X values along a sum of k

    // Of a (rows, columns) block of `in`. Along its columns, as the left factor:
    static OperandBlock<X> by_columns(const float* in, int64_t ld, int64_t, int64_t, X*) {
        return {in, ld};
    }
    // along its rows, as the right factor or, with strides (1, ld), as the left one:
    static OperandBlock<X> by_rows(const float* in, int64_t ld, int64_t, int64_t, X*) {
        return {in, ld};
    }
    // the same packed, `columns` <= kTileColumns of them: (terms(rows), kTileColumns). row(r) is
    // where row r begins.
    template <class Row> static void strip(X* out, const Row& row, int64_t rows, int columns) {
        for (int64_t r = 0; r < rows; r++) std::copy_n(row(r), columns, out + r * kTileColumns);
    }
    // and transposed, as the right factor: (terms(columns), padded >= rows).
    static void transpose(X* out, int64_t out_ld, const float* in, int64_t ld, int rows,
                          int columns, int padded) {
        transpose_tile(out, out_ld, in, ld, rows, columns, padded);
    }
};

template <> struct Operand<bf16> {
    typedef Pair X;
    static int64_t terms(int64_t k) { return (k + 1) / 2; }

    static OperandBlock<X> by_columns(const bf16* in, int64_t ld, int64_t rows, int64_t columns,
                                      X* room) {
        if (has_pairs(in, ld, columns)) return {as_pairs(in), ld / 2};
        for (int64_t r = 0; r < rows; r++)
            pair_row(room + r * terms(columns), in + r * ld, columns);
        return {room, terms(columns)};
    }
    static OperandBlock<X> by_rows(const bf16* in, int64_t ld, int64_t rows, int64_t columns,
                                   X* room) {
        pair_rows(
            room, columns, [&](int64_t r) { return in + r * ld; }, rows, columns);
        return {room, columns};
    }
    template <class Row> static void strip(X* out, const Row& row, int64_t rows, int columns) {
        pair_rows(out, kTileColumns, row, rows, columns);
    }
    static void transpose(X* out, int64_t out_ld, const bf16* in, int64_t ld, int rows, int columns,
                          int padded) {
        pair_columns(out, out_ld, in, ld, rows, columns, padded);
    }
};
