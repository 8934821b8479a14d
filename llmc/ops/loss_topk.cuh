// Exact top-k inside a row, for the loss kernels (loss.cu): a list of candidates, selection among
// them (device/select.cuh), and sums over the list in fixed point.
//
// The list has no order: threads append with an atomic counter. Nothing taken from it depends on
// one: selection counts, and sums are of integers.
#pragma once
#include "llmc/device/select.cuh"

#include <cfloat>

namespace {

constexpr float kLn2 = 0.693147180559945309f;  // rounded
constexpr double kFixedOne = 17592186044416.0; // 2^44: 2^13 entries of at most 1 fit 63 bits

// Column v is in K iff z_v > value, or z_v == value and v <= last.
struct Bound {
    float value;
    unsigned last;
};
__device__ __forceinline__ bool reaches(float z, int column, const Bound& bound) {
    return z > bound.value || (z == bound.value && unsigned(column) <= bound.last);
}
// Of the keys >= cut. A cut may be a prefix with zeros behind it: no logit has its value then,
// and below the key of -inf the value would be a NaN's.
__device__ __forceinline__ Bound bound_of(Key cut) {
    if (unsigned(cut >> 32) < ordered(-INFINITY)) return {-INFINITY, ~0u};
    return {key_value(cut), ~unsigned(cut)};
}

// ------------------------------------------------------------------------------------------------
// exponentials

// e^(z / temperature) relative to `max`. Products with log2(e) / temperature are taken in two
// floats: at z - max = -20 one alone would cost 1e-6 of the result.
struct Exponent {
    float log2, log2_low_ln2; // the factor; what it lost in rounding, times ln 2
};
__device__ __forceinline__ float distance(float z, float max) {
    const float d = z - max;
    return d < -1e30f ? -1e30f : d; // finite, so that 0 * d is 0; NaN stays
}
__device__ __forceinline__ float exp_at(float d, const Exponent& s) {
    const float y = d * s.log2, lost = fmaf(d, s.log2, -y);
    const float e = exp2_approx(y);
    return fmaf(e, fmaf(lost, kLn2, d * s.log2_low_ln2), e);
}

// ------------------------------------------------------------------------------------------------
// the list

struct GroupSums { // of e_v and e_v u_v relative to the group's largest logit `top`
    float top;
    double sum, weighted;
};
struct ListSums {
    GroupSums head, tail;
};
struct ListState {
    unsigned count; // appended; may exceed the room, then the rest was dropped
    unsigned top[2];
    Key fixed[2][2];
};

// Relative to `max` >= top instead.
__device__ inline GroupSums at_maximum(const GroupSums& g, float max, double temperature) {
    const double u = double(distance(g.top, max)) / temperature;
    const double factor = g.sum == 0 ? 0 : exp(u);
    return {max, factor * g.sum, factor == 0 ? 0 : factor * (g.weighted + g.sum * u)};
}

// Appends the key of every lane that has one. Every lane of the warp takes part: one atomic, and
// neighbours write to neighbouring places. Returns the new length.
__device__ __forceinline__ unsigned append(ListState& s, Key* list, int room, bool has, Key key) {
    const unsigned lanes = __ballot_sync(~0u, has);
    if (!lanes) return 0;
    const int lane = int(threadIdx.x) % 32, leader = __ffs(int(lanes)) - 1;
    unsigned first = 0;
    if (lane == leader) first = atomicAdd(&s.count, unsigned(__popc(lanes)));
    first = __shfl_sync(~0u, first, leader);
    const unsigned at = first + unsigned(__popc(lanes & ((1u << lane) - 1)));
    if (has && at < unsigned(room)) list[at] = key;
    return first + unsigned(__popc(lanes));
}

// Sums over the list but column x: head = keys >= cut. In fixed point, each group relative to its
// own largest, so that one far below the maximum keeps its digits. Every thread takes part.
__device__ inline ListSums list_sums(ListState& s, const Key* list, int count, Key cut, int x,
                                     double temperature, const Exponent& exponent) {
    const int t = int(threadIdx.x), T = int(blockDim.x);
    if (t < 2) s.top[t] = 0;
    if (t < 4) s.fixed[t / 2][t % 2] = 0;
    __syncthreads();
    for (int i = t; i < count; i += T)
        if (key_column(list[i]) != x) atomicMax(&s.top[list[i] < cut], unsigned(list[i] >> 32));
    __syncthreads();
    for (int i = t; i < count; i += T) {
        const Key key = list[i];
        if (key_column(key) == x) continue;
        const int group = key < cut;
        const float d = distance(key_value(key), from_ordered(s.top[group]));
        const double e = double(exp_at(d, exponent)), u = double(d) / temperature;
        atomicAdd(&s.fixed[group][0], Key(llrint(e * kFixedOne)));
        atomicAdd(&s.fixed[group][1], Key(llrint(e * u * kFixedOne)));
    }
    __syncthreads();
    auto group = [&](int g) -> GroupSums {
        if (s.top[g] == 0) return {-INFINITY, 0, 0};
        return {from_ordered(s.top[g]), double((long long)s.fixed[g][0]) / kFixedOne,
                double((long long)s.fixed[g][1]) / kFixedOne};
    };
    return {group(0), group(1)};
}

} // namespace
