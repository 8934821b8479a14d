// Tiles of query rows that meet one block of keys after another: what the packed and the paged
// forward have in common, so that a row's result is the same bits in both, whichever rows share its
// tile and wherever its keys lie. The products are tile_gemm's, whose rows do not depend on their
// number, the softmax is per row, and a key beyond a row's last one has weight 0, which leaves the
// sums as they are. attention.h -> attention_cpu.cpp, attention_paged_cpu.cpp.
#pragma once
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attention_tile {

constexpr int kKeys = 64;    // keys of one block, counted from the start of the document
constexpr int kQueries = 32; // query rows of one tile; divides kKeys

inline int padded_keys(int keys) { return round_up(keys, kLanes); }

// Query rows that end in the same key block, and what the blocks so far have given them.
struct Tile {
    const float* q; // (rows, D), stride q_ld
    int64_t q_ld;
    int rows;
    int last[kQueries]; // the last visible position of each row, ascending or equal
    float* sum_values;  // (rows, D): weights times values relative to `max`
    alignas(64) float max[kQueries], sum[kQueries];

    Tile(const float* q_, int64_t q_ld_, int rows_, float* sum_values_)
        : q(q_), q_ld(q_ld_), rows(rows_), sum_values(sum_values_) {
        std::fill_n(last, kQueries, 0);
        std::fill_n(max, kQueries, -std::numeric_limits<float>::infinity());
        std::fill_n(sum, kQueries, 0.0f);
    }
    int blocks() const { return last[0] / kKeys + 1; }
    int keys_of_block(int b) const { return std::min(kKeys, last[rows - 1] - b * kKeys + 1); }
};

// Scores (rows, kKeys) of a block -> weights relative to the new maximum, eq. (X2); what was summed
// before shrinks to match.
inline void softmax_block(Tile& t, int b, int D, float* scores) {
    const float scale = 1.0f / std::sqrt(float(D));
    const Vf lowest = splat(-std::numeric_limits<float>::infinity());
    const int columns = padded_keys(t.keys_of_block(b));
    alignas(64) float new_max[kQueries], shrink[kQueries];
    std::copy_n(t.max, kQueries, new_max);
    for (int r = 0; r < t.rows; r++) {
        float* row = scores + r * kKeys;
        const int valid = t.last[r] - b * kKeys + 1;
        Vf largest = lowest;
        for (int j = 0; j < columns; j += kLanes) {
            Vf s = load(row + j) * scale;
            if (j + kLanes > valid) s = select(kLaneIndex < valid - j, s, lowest);
            store(row + j, s);
            largest = max(s, largest);
        }
        new_max[r] = std::max(t.max[r], lane_max(largest));
    }
    for (int r = 0; r < t.rows; r += kLanes)
        store(shrink + r, exp(load(t.max + r) - load(new_max + r)));
    for (int r = 0; r < t.rows; r++) {
        float* row = scores + r * kKeys;
        Vf total{};
        for (int j = 0; j < columns; j += kLanes) {
            const Vf p = exp(load(row + j) - new_max[r]);
            store(row + j, p);
            total += p;
        }
        t.sum[r] = t.sum[r] * shrink[r] + lane_sum(total);
        t.max[r] = new_max[r];
        if (b > 0 && shrink[r] != 1.0f) {
            float* values = t.sum_values + int64_t(r) * D;
            for (int d = 0; d < D; d++) values[d] *= shrink[r];
        }
    }
}

template <class T>
void write_rows(const Tile& t, int D, T* out, int64_t out_ld, float* lse, int64_t lse_ld) {
    for (int r = 0; r < t.rows; r++) {
        const float inverse = 1.0f / t.sum[r];
        const float* values = t.sum_values + int64_t(r) * D;
        for_vectors(D, [&](int64_t d, int count) {
            store_tail(out + r * out_ld + d, load_tail(values + d, count, 0.0f) * inverse, count);
        });
        if (lse) lse[r * lse_ld] = t.max[r] + std::log(t.sum[r]);
    }
}

} // namespace attention_tile
