// The shaped loss on the CPU, rows in parallel. Three passes over a row that stays in cache:
//   1. maximum and the k largest logits    2. sums of e_j, e_j u_j    3. dlogits, in place
// K, a short list, and the target are taken out of the row before pass 2 and put back after pass 3:
// neither compares columns, and the tail is a sum of its own, exact however small. Pass 2 leaves
// e_j in place of z_j: pass 3 needs no second exponential. Vectors in fp32, sums joined in double
// every kBlock columns, scalars in double. Contract: loss.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/loss.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

namespace {

constexpr int kBlock = 512;         // columns between joins of a sum
constexpr int kDirectSearch = 1024; // up to here the k-th largest is searched in the row itself
constexpr int kRowsPerTask = 8;     // rows of one task

int count_at_least(const float* z, int n, float bound) {
    int count = 0;
    for_vectors(n, [&](int64_t v, int lanes) {
        count += __builtin_popcount(at_least(load_tail(z + v, lanes, -INFINITY), bound) &
                                    ((1u << lanes) - 1));
    });
    return count;
}

// Floats in ascending order as integers.
int32_t order_key(float z) {
    const int32_t bits = std::bit_cast<int32_t>(z);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}
float key_float(int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

// A bound that exactly k of z[0..n) reach, or, where equal values forbid one, the k-th largest
// value with `above` = how many are larger. lowest: a bound that k reach; max: the largest.
// Invariant: >= k reach lo, < k reach hi.
struct Bound {
    float value;
    int above; // k if the bound is exact
};
constexpr int kGuesses = 14; // steps in value space; then at most 32 in the space of the keys

Bound kth_largest(const float* z, int n, int k, float lowest, float max) {
    int32_t lo = order_key(lowest), hi = order_key(max) + 1;
    int above = 0; // reach hi
    float step = 2;
    for (int i = 0; int64_t(hi) - lo > 1; i++) {
        int32_t mid = int32_t(lo + (int64_t(hi) - lo) / 2);
        if (i < kGuesses) { // logits cluster: first max - 2, - 4, ..., then halves between bounds
            const float low = key_float(lo), high = std::min(max, key_float(hi));
            const float guess = std::isinf(low) ? max - step : low + (high - low) / 2;
            step *= 2;
            const int32_t key = order_key(guess);
            if (key > lo && key < hi) mid = key;
        }
        const int count = count_at_least(z, n, key_float(mid));
        if (count == k) return {key_float(mid), k};
        if (count > k) lo = mid;
        else hi = mid, above = count;
    }
    return {key_float(lo), above};
}

// One row as floats, and what belongs to it. `z` is where it is computed: the logits themselves, or
// a copy where X is bf16 or the logits must stay.
struct Row {
    float* z;
    int V;
    float max = -INFINITY;
    // K: the columns and their logits; count = V and no list where all are in it.
    int count = 0;
    int32_t* columns;
    float* logits; // then their e_j, 0 for the target's
};

// Group maxima of find_head, and room for candidates beside them.
int group_vectors(int k) { return std::max(4, (2 * k + kLanes - 1) / kLanes); }
int candidate_room(int k) { return std::max(2048, 4 * k) + 2 * kLanes; }

// Pass 1. Columns are dealt to G >= 2k groups (column mod G) and each group's maximum is taken: the
// k-th largest of these is reached by k columns at least, so the k-th largest logit is no smaller.
// Copies the row to `z` where it is not there already.
template <class T> void group_maxima(const T* from, Row& row, int vectors, float* groups) {
    const int G = vectors * kLanes;
    std::fill(groups, groups + G, -INFINITY);
    for (int begin = 0; begin < row.V; begin += G)
        for (int g = 0; g < std::min(G, row.V - begin); g += kLanes) {
            const int v = begin + g, lanes = std::min(kLanes, row.V - v);
            const Vf logits = load_tail(from + v, lanes, -INFINITY);
            if (static_cast<const void*>(from) != row.z) store_tail(row.z + v, logits, lanes);
            store(groups + g, max(logits, load(groups + g)));
        }
    for (int g = 0; g < G; g += kLanes) row.max = std::max(row.max, lane_max(load(groups + g)));
}

// The columns >= bound and their logits, or -1 if there are more than fit.
int collect(const Row& row, float bound, int room) {
    int count = 0;
    for (int v = 0; v < row.V; v += kLanes) {
        const int lanes = std::min(kLanes, row.V - v);
        const Vf logits = load_tail(row.z + v, lanes, -INFINITY);
        const unsigned mask = at_least(logits, bound) & ((1u << lanes) - 1);
        if (__builtin_expect(mask == 0, 1)) continue;
        if (count + 2 * kLanes > room) return -1;
        append_lanes(row.logits + count, logits, mask);
        count += append_lanes(row.columns + count, kLaneIndex + v, mask);
    }
    return count;
}

// K: the k largest, equal ones by lower column. list_columns null: the list is the row itself.
void pick(Row& row, const float* list, const int32_t* list_columns, int n, int k, float lowest) {
    const Bound bound = kth_largest(list, n, k, lowest, row.max);
    int equal = bound.above < k ? k - bound.above : k; // of those at the bound
    row.count = 0;
    for (int i = 0; i < n && row.count < k; i++) {
        const float logit = list[i];
        if (!(logit > bound.value) && !(logit == bound.value && equal-- > 0)) continue;
        row.columns[row.count] = list_columns ? list_columns[i] : i;
        row.logits[row.count++] = logit;
    }
}

template <class T> void find_head(const T* from, Row& row, int k, float* groups) {
    const int vectors = k < row.V ? group_vectors(k) : 4, G = vectors * kLanes;
    group_maxima(from, row, vectors, groups);
    if (k >= row.V) row.count = row.V;
    if (k >= row.V || k == 0) return;
    if (k == 1) { // RL and decoding
        const float* largest = std::find(row.z, row.z + row.V, row.max);
        if (largest == row.z + row.V) return; // NaN in the row: everything becomes NaN
        row.columns[0] = int32_t(largest - row.z);
        row.logits[0] = row.max;
        row.count = 1;
        return;
    }
    if (row.V > std::max(kDirectSearch, 4 * G)) {
        const float lowest = kth_largest(groups, G, k, -INFINITY, row.max).value;
        const int found = collect(row, lowest, candidate_room(k));
        if (found >= k) return pick(row, row.logits, row.columns, found, k, lowest);
    } // else many equal ones, or NaN
    pick(row, row.z, nullptr, row.V, k, -INFINITY);
}

struct RowSums {
    double head = 0, tail = 0, weighted = 0; // of the columns but x
    double target_e = 0, target_u = 0;
    double total() const { return head + tail + target_e; }
};

// e_j and the sums over `count` columns; e_j stays in place of z_j where `keep`.
template <bool kKeep>
void sum_columns(float* z, int count, float max_logit, float inverse, double* sum,
                 double* weighted_sum) {
    for (int begin = 0; begin < count; begin += kBlock) {
        Vf total = {}, weighted = {};
        for_vectors(std::min(kBlock, count - begin), [&](int64_t i, int lanes) {
            float* at = z + begin + i;
            const Vf logit = load_tail(at, lanes, -INFINITY);
            // Bounded, NaN aside: e u is 0 for a logit of -inf.
            const Vf u = max(splat(-200.0f), (logit - max_logit) * inverse);
            const Vf e = exp(u);
            if constexpr (kKeep) store_tail(at, e, lanes);
            total += e;
            weighted = fused(e, u, weighted);
        });
        *sum += double(lane_sum(total));
        *weighted_sum += double(lane_sum(weighted));
    }
}

// Pass 2. K and the target are taken out of the row, so that the tail is a sum of its own; their
// places hold 0 afterwards.
template <bool kKeep> RowSums row_sums(Row& row, int x, const LossShape& s) {
    const float inverse = float(1 / s.temperature), target_u = (row.z[x] - row.max) * inverse;
    RowSums sums;
    sums.target_u = double(target_u);
    sums.target_e = double(exp(splat(target_u))[0]);
    row.z[x] = -INFINITY;
    if (row.count == row.V) {
        sum_columns<kKeep>(row.z, row.V, row.max, inverse, &sums.head, &sums.weighted);
        return sums;
    }
    for (int i = 0; i < row.count; i++) {
        if (row.columns[i] == x) row.logits[i] = -INFINITY;
        row.z[row.columns[i]] = -INFINITY;
    }
    sum_columns<true>(row.logits, row.count, row.max, inverse, &sums.head, &sums.weighted);
    sum_columns<kKeep>(row.z, row.V, row.max, inverse, &sums.tail, &sums.weighted);
    return sums;
}

LossRow row_scalars(const RowSums& sums, const Row& row, const LossShape& s) {
    const double others = sums.head + sums.tail;
    double rest = sums.target_u == 0 ? others : std::max(others + sums.target_e - 1, 0.0);
    if (std::isnan(others)) rest = others;
    return loss_row(double(row.max) / s.temperature, sums.target_e, sums.target_u, sums.head,
                    sums.tail, rest, sums.weighted, 1e-37, s);
}

// Pass 3: what row_sums<true> kept -> dlogits.
template <class T>
void row_backward(T* out, const Row& row, int x, const LossRow& scalars, double weight, double S,
                  const LossShape& s) {
    const double factor = -weight / s.temperature;
    const float head_factor = float(factor * (s.lambda_head - scalars.reward) / S);
    const float tail_factor = float(factor * (s.lambda_tail - scalars.reward) / S);
    auto put = [&](int64_t column, float value) { store_tail(out + column, splat(value), 1); };
    const bool all = row.count == row.V;
    const float rest_factor = all ? head_factor : tail_factor;
    for_vectors(row.V, [&](int64_t v, int lanes) {
        store_tail(out + v, load_tail(row.z + v, lanes, 0.0f) * rest_factor, lanes);
    });
    for (int i = 0; i < row.count && !all; i++) put(row.columns[i], row.logits[i] * head_factor);
    put(x, float(factor * scalars.target_gradient));
}

void store_stats(float* stats, const LossRow& row, double ratio) {
    stats[kStatCe] = float(row.ce);
    stats[kStatEntropy] = float(row.entropy);
    stats[kStatLse] = float(row.lse);
    stats[kStatQ] = float(row.q);
    stats[kStatHeadMass] = float(row.head_mass);
    stats[kStatTailMass] = float(row.tail_mass);
    stats[kStatReward] = float(row.reward);
    stats[kStatRatio] = float(ratio);
}

// Calls body(n, row, groups) for every row; row.z is a copy's place where `copies`.
template <class Body>
void for_rows(Ctx& ctx, const View& logits, const LossShape& s, bool copies, const Body& body) {
    const int k = std::min(s.k, s.V);
    const size_t groups = size_t(group_vectors(k)) * kLanes, list = size_t(candidate_room(k));
    const size_t copy = copies ? size_t(s.V + kLanes) / kLanes * kLanes : 0;
    ScratchFrame frame(ctx.scratch);
    const size_t room = groups + 2 * list + copy;
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    const int64_t N = logits.shape[0];
    parallel_for_dynamic((N + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int thread) {
        float* free = memory + room * thread;
        Row row{};
        row.V = s.V;
        row.z = free + groups + 2 * list;
        row.logits = free + groups;
        row.columns = reinterpret_cast<int32_t*>(row.logits + list);
        for (int64_t n = task * kRowsPerTask; n < std::min(N, (task + 1) * kRowsPerTask); n++) {
            Row fresh = row;
            fresh.max = -INFINITY;
            body(n, fresh, free);
        }
    });
}

template <class T>
void rows_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                           const View& scale, const View& old_logp, const LossShape& s) {
    for_rows(ctx, logits, s, sizeof(T) < sizeof(float), [&](int64_t n, Row& row, float* groups) {
        float* out = stats.as<float>() + n * stats.ld;
        T* line = logits.as<T>() + n * logits.ld;
        const int x = targets.as<int32_t>()[n];
        auto zero = [&](int64_t begin, int64_t end) { std::fill(line + begin, line + end, T{}); };
        zero(s.V, logits.shape[1]);
        if (x == kIgnoredTarget) {
            std::fill(out, out + kLossStats, 0.0f);
            return zero(0, s.V);
        }
        if constexpr (std::is_same_v<T, float>) row.z = line;
        find_head(line, row, std::min(s.k, s.V), groups);
        const RowSums sums = row_sums<true>(row, x, s);
        const LossRow scalars = row_scalars(sums, row, s);
        double weight = double(scale.as<float>()[n]), ratio = 1;
        if (!old_logp.empty()) {
            ratio = grpo_ratio(double(float(-scalars.ce)), double(old_logp.as<float>()[n]));
            weight = grpo_weight(weight, ratio, s);
        }
        store_stats(out, scalars, ratio);
        if (weight == 0) return zero(0, s.V);
        row_backward(line, row, x, scalars, weight, sums.total(), s);
    });
}

} // namespace

void cpu::loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                       const LossShape& s) {
    for_rows(ctx, logits, s, true, [&](int64_t n, Row& row, float* groups) {
        float* out = stats.as<float>() + n * stats.ld;
        const int x = targets.as<int32_t>()[n];
        if (x == kIgnoredTarget) return void(std::fill(out, out + kLossStats, 0.0f));
        with_real(logits.dtype, [&](auto t) {
            const auto* line = logits.as<decltype(t)>() + n * logits.ld;
            find_head(line, row, std::min(s.k, s.V), groups);
        });
        const RowSums sums = row_sums<false>(row, x, s);
        store_stats(out, row_scalars(sums, row, s), 1);
    });
}

void cpu::loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                                const View& scale, const View& old_logp, const LossShape& s) {
    with_real(logits.dtype, [&](auto t) {
        rows_forward_backward<decltype(t)>(ctx, logits, stats, targets, scale, old_logp, s);
    });
}
