// Selection inside a row of logits without sorting it: the k-th largest, or the one with which the
// largest reach a given weight, by radix passes over keys.
//
// Order of logits: larger first, equal ones by lower column. A key holds both, so that no two
// are equal and every comparison is one of integers:
//
//   63          32 31          0
//   | ordered(z) | ~ column    |     ordered(): floats in ascending order as unsigned integers
#pragma once
#include "llmc/device/kernel.cuh"

namespace {

using Key = unsigned long long;

constexpr int kDigits = 256; // bins of a selection pass

__device__ __forceinline__ unsigned ordered(float z) {
    const unsigned bits = __float_as_uint(z + 0.0f); // -0 becomes +0
    return bits ^ (unsigned(int(bits) >> 31) | 0x80000000u);
}
__device__ __forceinline__ float from_ordered(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}
__device__ __forceinline__ Key make_key(float z, int column) {
    return Key(ordered(z)) << 32 | ~unsigned(column);
}
__device__ __forceinline__ float key_value(Key key) { return from_ordered(unsigned(key >> 32)); }
__device__ __forceinline__ int key_column(Key key) { return int(~unsigned(key)); }

// Bin b lies at b + b / 8: the lanes of find_digit read 8 neighbouring bins each.
__device__ __forceinline__ int bin_index(int bin) { return bin + bin / 8; }
constexpr int kBinWords = kDigits + kDigits / 8;

template <class Weight> struct Selection {
    Weight counts[2][kBinWords], totals[kBinWords];
    Weight above, inside; // found: the weight of larger bins, that of the bin
    int digit;            // the bin
};

// Who selects together: a block, or all blocks of a cluster, each with keys of its own.
struct BlockTeam {
    __device__ void sync() const { __syncthreads(); }
    template <class Weight>
    __device__ const Weight* totals(Selection<Weight>&, Weight* counts) const {
        return counts;
    }
};
struct ClusterTeam {
    int blocks;
    __device__ void sync() const { cluster_sync(); }
    template <class Weight>
    __device__ const Weight* totals(Selection<Weight>& s, Weight* counts) const {
        for (int bin = int(threadIdx.x); bin < kDigits; bin += int(blockDim.x)) {
            Weight sum = 0;
            for (int rank = 0; rank < blocks; rank++)
                sum += cluster_map(counts, rank)[bin_index(bin)];
            s.totals[bin_index(bin)] = sum;
        }
        __syncthreads();
        return s.totals;
    }
};

// By one warp: the bin with which the weight reaches `enough`, lane 0 owning the 8 largest bins.
// Where all bins weigh less (a row with NaN), bin 0 with `inside` = enough: everything.
template <class Weight>
__device__ void find_digit(Selection<Weight>& s, const Weight* totals, Weight enough) {
    const int lane = int(threadIdx.x) % 32, largest = kDigits - 1 - 8 * lane;
    Weight mine = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) mine += totals[bin_index(largest - i)];
    Weight upto = mine;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const Weight before = __shfl_up_sync(~0u, upto, unsigned(d));
        if (lane >= d) upto += before;
    }
    const unsigned reached = __ballot_sync(~0u, upto >= enough);
    if (lane != (reached ? __ffs(int(reached)) - 1 : 0)) return;
    if (!reached) {
        s.digit = 0;
        s.above = 0;
        s.inside = enough;
        return;
    }
    int bin = largest;
    Weight above = upto - mine;
    while (above + totals[bin_index(bin)] < enough) above += totals[bin_index(bin--)];
    s.digit = bin;
    s.above = above;
    s.inside = totals[bin_index(bin)];
}

// Digits that all keys of a row share need no pass: the columns' above V, and of bf16 values the
// low half, which is 0, or all ones where the sign flipped it.
template <class T> struct KeyDigits {
    int V;
    __device__ bool fixed(int shift, Key prefix, unsigned& digit) const {
        if (shift < 32) {
            digit = kDigits - 1;
            return (V - 1) >> shift == 0;
        }
        digit = prefix >> 63 ? 0 : kDigits - 1;
        return sizeof(T) == 2 && shift < 48;
    }
};

// The largest cut such that the team's keys >= cut weigh `enough` > 0, by digits of 8 bits from the
// top down to bit `last_shift` (0 for an exact cut of distinct keys; else the cut may let more
// pass). Each pass calls visit(add), which calls add(key, weight) for the thread's keys. Every
// thread takes part; the first barrier comes before any key is visited. Where all keys weigh less
// the cut is 0.
template <class Team, class T, class Weight, class Visit>
__device__ Key select_cut(const Team& team, Selection<Weight>& s, const KeyDigits<T>& digits,
                          Weight enough, int last_shift, const Visit& visit) {
    Key prefix = 0;
    for (int shift = 56; shift >= last_shift; shift -= 8) {
        unsigned digit;
        if (digits.fixed(shift, prefix, digit)) {
            prefix |= Key(digit) << shift;
            continue;
        }
        // Two sets of counts: in a cluster, slower blocks may still read the last pass's.
        Weight* counts = s.counts[shift / 8 % 2];
        for (int i = int(threadIdx.x); i < kBinWords; i += int(blockDim.x)) counts[i] = 0;
        __syncthreads();
        visit([&](Key key, Weight weight) {
            if (key >> shift >> 8 == prefix >> shift >> 8)
                atomicAdd(&counts[bin_index(int(key >> shift & (kDigits - 1)))], weight);
        });
        team.sync();
        const Weight* totals = team.totals(s, counts);
        if (threadIdx.x < 32) find_digit(s, totals, enough);
        __syncthreads();
        prefix |= Key(unsigned(s.digit)) << shift;
        enough -= s.above;
        if (s.inside == enough) return prefix;
    }
    return prefix;
}

// A cut that exactly k >= 1 of the team's keys reach; visit(use) calls use(key).
template <class Team, class T, class Visit>
__device__ Key kth_largest(const Team& team, Selection<unsigned>& s, const KeyDigits<T>& digits,
                           int k, int last_shift, const Visit& visit) {
    return select_cut(team, s, digits, unsigned(k), last_shift,
                      [&](auto&& add) { visit([&](Key key) { add(key, 1u); }); });
}

} // namespace
