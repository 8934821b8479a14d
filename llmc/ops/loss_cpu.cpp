// The shaped loss on the CPU, rows in parallel. Three passes over a row that stays in cache:
//   1. maximum and the k largest logits    2. sums of e_j, e_j u_j    3. dlogits, in place
// K, a short list, and the target are taken out of the row before pass 2 and put back after pass 3:
// neither compares columns, and the tail is a sum of its own, exact however small. Pass 2 leaves
// e_j behind: pass 3 needs no second exponential. Vectors in fp32, sums joined in double
// every kBlock columns, scalars in double. The next row is fetched during pass 2, which computes
// most. Contract: loss.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/loss.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

namespace {

constexpr int kBlock = 512;           // columns between joins of a sum
constexpr int kDirectSearch = 1024;   // up to here the k-th largest is searched in the row itself
constexpr int kTogether = 4 * kLanes; // columns of one test of pass 1
constexpr int kRowsPerTask = 8;       // rows of one task

template <class T> int count_at_least(const T* z, int n, float bound) {
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

template <class T> Bound kth_largest(const T* z, int n, int k, float lowest, float max) {
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

// A row and what belongs to it. The line is read by passes 1 and 2, which take K and the target
// out of it: the logits themselves, or a copy where they must stay. Pass 2 leaves e_j in `e`, which
// is the line where that holds floats.
template <class T> struct Row {
    T* line;
    const T* next; // the line of the next row, or null
    float* e;
    int V;
    float max = -INFINITY;
    // K: the columns and their logits; count = V and no list where all are in it.
    int count = 0;
    int32_t* columns;
    float* logits; // then their e_j, 0 for the target's
    // Room of pass 1.
    float* groups;
    int32_t* hits;
};

// Group maxima of lower_bound, and room for candidates beside them.
int group_vectors(int k) { return (2 * k + kLanes - 1) / kLanes; }
int candidate_room(int V, int k) {
    return std::max(k, std::min(V, std::max(2048, 4 * k))) + kTogether;
}

// A bound that at least k of z[0..n) reach. Columns are dealt to G >= 2k groups (column mod G),
// each group's maximum is taken, and of these the k-th largest.
template <class T> float lower_bound(const T* z, int n, int k, float* groups) {
    const int G = group_vectors(k) * kLanes;
    std::fill(groups, groups + G, -INFINITY);
    for (int begin = 0; begin < n; begin += G)
        for_vectors(std::min(G, n - begin), [&](int64_t g, int lanes) {
            const Vf logits = load_tail(z + begin + g, lanes, -INFINITY);
            store(groups + g, max(logits, load(groups + g)));
        });
    const float max = *std::max_element(groups, groups + G);
    return kth_largest(groups, G, k, -INFINITY, max).value;
}

// Columns [v, v + kTogether) as vectors, -inf beyond the row.
template <class T> void load_together(Vf (&logits)[4], const T* row, int v, int V) {
    if (v + kTogether <= V) {
        for (int i = 0; i < 4; i++) logits[i] = load(row + v + i * kLanes);
        return;
    }
    for (int i = 0; i < 4; i++, v += kLanes)
        logits[i] =
            v < V ? load_tail(row + v, std::min(kLanes, V - v), -INFINITY) : splat(-INFINITY);
}

// Pass 1: the maximum and, in row.hits, which blocks of kTogether columns have one >= bound. The
// number of hits. Nothing branches on a logit: a wrong guess of the CPU costs as much as a block.
template <class T> int scan(Row<T>& row, float bound) {
    Vf largest = splat(-INFINITY);
    int count = 0;
    auto block = [&](int v, int V) {
        Vf logits[4];
        load_together(logits, row.line, v, V);
        const Vf most = max(max(logits[0], logits[1]), max(logits[2], logits[3]));
        largest = max(most, largest);
        row.hits[count] = v;
        count += at_least(most, bound) != 0;
    };
    const int whole = row.V / kTogether * kTogether;
    for (int v = 0; v < whole; v += kTogether) block(v, v + kTogether);
    if (whole < row.V) block(whole, row.V);
    row.max = lane_max(largest);
    return count;
}

// The columns >= bound of the hits and their logits: how many, or -1 if there are more than fit.
template <class T> int collect(const Row<T>& row, float bound, int hits, int room) {
    int found = 0;
    for (int h = 0; h < hits; h++) {
        if (found + kTogether > room) return -1;
        const int v = row.hits[h];
        Vf logits[4];
        load_together(logits, row.line, v, row.V);
        uint64_t mask = 0;
        for (int i = 0; i < 4; i++) mask |= uint64_t(at_least(logits[i], bound)) << (i * kLanes);
        if (row.V - v < kTogether) mask &= (uint64_t(1) << (row.V - v)) - 1;
        for (; mask != 0; mask &= mask - 1) {
            const int column = v + std::countr_zero(mask);
            row.columns[found] = column;
            row.logits[found++] = to_float(row.line[column]);
        }
    }
    return found;
}

// K: the k largest of n logits in ascending columns, equal ones by lower column; columns null: the
// list is the row itself. At least k are >= lowest.
template <class T, class L>
void pick(Row<T>& row, const L* list, const int32_t* columns, int n, int k, float lowest) {
    const Bound bound = kth_largest(list, n, k, lowest, row.max);
    row.count = 0;
    if (bound.above == k) // never ahead of what is read, if the list is row.logits
        return for_vectors(n, [&](int64_t i, int lanes) {
            const Vf logits = load_tail(list + i, lanes, -INFINITY);
            Vi at = kLaneIndex + int32_t(i);
            if (columns) std::memcpy(&at, columns + i, lanes * sizeof(int32_t));
            const unsigned mask = at_least(logits, bound.value) & ((1u << lanes) - 1);
            append_lanes(row.columns + row.count, at, mask);
            row.count += append_lanes(row.logits + row.count, logits, mask);
        });
    int equal = k - bound.above; // of those at the bound
    for (int i = 0; i < n && row.count < k; i++) {
        const float logit = to_float(list[i]);
        if (!(logit > bound.value) && !(logit == bound.value && equal-- > 0)) continue;
        row.columns[row.count] = columns ? columns[i] : i;
        row.logits[row.count++] = logit;
    }
}

template <class T> void find_head(Row<T>& row, int k) {
    const bool some = k > 0 && k < row.V;
    if (some && k > 1 && row.V > std::max(kDirectSearch, 4 * group_vectors(k) * kLanes)) {
        // Half of the row bounds it well enough, unless the rest is larger throughout.
        for (const int prefix : {row.V / 2, row.V}) {
            const float bound = lower_bound(row.line, prefix, k, row.groups);
            const int found = collect(row, bound, scan(row, bound), candidate_room(row.V, k));
            if (found >= k) return pick(row, row.logits, row.columns, found, k, bound);
        } // many equal ones, or NaN
    } else {
        scan(row, NAN);
    }
    if (k >= row.V) row.count = row.V;
    if (!some) return;
    if (k > 1) return pick(row, row.line, nullptr, row.V, k, -INFINITY);
    for (int v = 0; v < row.V; v++) // RL and decoding; with NaN in the row everything becomes NaN
        if (to_float(row.line[v]) == row.max) {
            row.columns[0] = v;
            row.logits[0] = row.max;
            row.count = 1;
            return;
        }
}

template <class T> void put(T* to, float value) { store_tail(to, splat(value), 1); }

struct RowSums {
    double head = 0, tail = 0, weighted = 0; // of the columns but x
    double target_e = 0, target_u = 0;
    double total() const { return head + tail + target_e; }
};

// The sums over `count` columns; out = e_j, where it is not null. As much of `ahead` is fetched, if
// that is not null.
template <bool kScaled, class T>
void sum_columns(const T* z, const T* ahead, float* out, int count, float max_logit, float inverse,
                 double* sum, double* weighted_sum) {
    for (int begin = 0; begin < count; begin += kBlock) {
        for (int i = 0; ahead && i < kBlock; i += kCacheLine / int(sizeof(T)))
            prefetch(ahead + begin + i);
        Vf total = {}, weighted = {};
        for_vectors(std::min(kBlock, count - begin), [&](int64_t i, int lanes) {
            Vf u = load_tail(z + begin + i, lanes, -INFINITY) - max_logit;
            if constexpr (kScaled) u *= inverse;
            u = max(splat(-200.0f), u); // NaN aside: e u is 0 for a logit of -inf
            const Vf e = exp(u);
            if (out) store_tail(out + begin + i, e, lanes);
            total += e;
            weighted = fused(e, u, weighted);
        });
        *sum += double(lane_sum(total));
        *weighted_sum += double(lane_sum(weighted));
    }
}

// Pass 2. K and the target are taken out of the row, so that the tail is a sum of its own; their
// places hold 0 afterwards. Keeps e_j where row.e is not null.
template <class T> RowSums row_sums(Row<T>& row, int x, const LossShape& s) {
    const float inverse = float(1 / s.temperature);
    const float target_u = (to_float(row.line[x]) - row.max) * inverse;
    RowSums sums;
    sums.target_u = double(target_u);
    sums.target_e = double(exp(splat(target_u))[0]);
    auto add = [&](const auto* z, decltype(z) ahead, float* out, int count, double* sum) {
        auto with = [&](auto scaled) {
            sum_columns<scaled.value>(z, ahead, out, count, row.max, inverse, sum, &sums.weighted);
        };
        if (inverse == 1) with(std::false_type());
        else with(std::true_type());
    };
    put(row.line + x, -INFINITY);
    if (row.count == row.V) {
        add(row.line, row.next, row.e, row.V, &sums.head);
        return sums;
    }
    for (int i = 0; i < row.count; i++) {
        if (row.columns[i] == x) row.logits[i] = -INFINITY;
        put(row.line + row.columns[i], -INFINITY);
    }
    add(row.logits, nullptr, row.logits, row.count, &sums.head);
    add(row.line, row.next, row.e, row.V, &sums.tail);
    return sums;
}

LossRow row_scalars(const RowSums& sums, float max, const LossShape& s) {
    const double others = sums.head + sums.tail;
    double rest = sums.target_u == 0 ? others : std::max(others + sums.target_e - 1, 0.0);
    if (std::isnan(others)) rest = others;
    return loss_row(double(max) / s.temperature, sums.target_e, sums.target_u, sums.head, sums.tail,
                    rest, sums.weighted, 1e-37, s);
}

// Pass 3: what row_sums kept -> dlogits.
template <class T>
void row_backward(const Row<T>& row, int x, const LossRow& scalars, double weight, double S,
                  const LossShape& s) {
    const double factor = -weight / s.temperature;
    const float head_factor = float(factor * (s.lambda_head - scalars.reward) / S);
    const float tail_factor = float(factor * (s.lambda_tail - scalars.reward) / S);
    const bool all = row.count == row.V;
    const float rest_factor = all ? head_factor : tail_factor;
    for_vectors(row.V, [&](int64_t v, int lanes) {
        store_tail(row.line + v, load_tail(row.e + v, lanes, 0.0f) * rest_factor, lanes);
    });
    for (int i = 0; i < row.count && !all; i++)
        put(row.line + row.columns[i], row.logits[i] * head_factor);
    put(row.line + x, float(factor * scalars.target_gradient));
}

// Calls body(n, row) for every row; row.e has room for row_floats floats.
template <class T, class Body>
void for_rows(Ctx& ctx, int64_t N, const LossShape& s, size_t row_floats, const Body& body) {
    const int k = std::min(s.k, s.V);
    const size_t groups = size_t(group_vectors(k)) * kLanes;
    const size_t list = size_t(candidate_room(s.V, k)), hits = size_t(s.V / kTogether) + 1;
    ScratchFrame frame(ctx.scratch);
    const size_t room = (groups + 2 * list + hits + row_floats + kLanes) / kLanes * kLanes;
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    parallel_for_ranges((N + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int thread) {
        float* free = memory + room * thread;
        for (int64_t n = task * kRowsPerTask; n < std::min(N, (task + 1) * kRowsPerTask); n++) {
            Row<T> row{};
            row.V = s.V;
            row.e = free;
            row.groups = row.e + row_floats;
            row.logits = row.groups + groups;
            row.columns = reinterpret_cast<int32_t*>(row.logits + list);
            row.hits = row.columns + list;
            body(n, row);
        }
    });
}

template <class T>
void rows_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                           const View& scale, const View& old_logp, const LossShape& s) {
    constexpr bool kHalf = sizeof(T) < sizeof(float);
    for_rows<T>(ctx, logits.shape[0], s, kHalf ? s.V : 0, [&](int64_t n, Row<T>& row) {
        float* out = stats.as<float>() + n * stats.ld;
        T* line = row.line = logits.as<T>() + n * logits.ld;
        row.next = n + 1 < logits.shape[0] ? line + logits.ld : nullptr;
        const int x = targets.as<int32_t>()[n];
        auto zero = [&](int64_t begin, int64_t end) { std::fill(line + begin, line + end, T{}); };
        zero(s.V, logits.shape[1]);
        if (x == kIgnoredTarget) {
            std::fill(out, out + kLossStats, 0.0f);
            return zero(0, s.V);
        }
        if constexpr (!kHalf) row.e = line;
        find_head(row, std::min(s.k, s.V));
        const RowSums sums = row_sums(row, x, s);
        const LossRow scalars = row_scalars(sums, row.max, s);
        double weight = double(scale.as<float>()[n]), ratio = 1;
        if (!old_logp.empty()) {
            ratio = grpo_ratio(double(float(-scalars.ce)), double(old_logp.as<float>()[n]));
            weight = grpo_weight(weight, ratio, s);
        }
        store_stats(out, scalars, ratio);
        if (weight == 0) return zero(0, s.V);
        row_backward(row, x, scalars, weight, sums.total(), s);
    });
}

template <class T>
void rows_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                  const LossShape& s) {
    const size_t copy = size_t(s.V) * sizeof(T) / sizeof(float) + 1;
    for_rows<T>(ctx, logits.shape[0], s, copy, [&](int64_t n, Row<T>& row) {
        float* out = stats.as<float>() + n * stats.ld;
        const int x = targets.as<int32_t>()[n];
        if (x == kIgnoredTarget) return void(std::fill(out, out + kLossStats, 0.0f));
        row.line = reinterpret_cast<T*>(std::exchange(row.e, nullptr));
        std::copy_n(logits.as<T>() + n * logits.ld, s.V, row.line);
        find_head(row, std::min(s.k, s.V));
        const RowSums sums = row_sums(row, x, s);
        store_stats(out, row_scalars(sums, row.max, s), 1);
    });
}

} // namespace

void cpu::loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                       const LossShape& s) {
    with_real(logits.dtype,
              [&](auto t) { rows_forward<decltype(t)>(ctx, stats, logits, targets, s); });
}

void cpu::loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                                const View& scale, const View& old_logp, const LossShape& s) {
    with_real(logits.dtype, [&](auto t) {
        rows_forward_backward<decltype(t)>(ctx, logits, stats, targets, scale, old_logp, s);
    });
}
