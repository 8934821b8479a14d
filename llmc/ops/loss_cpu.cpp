// The shaped loss on the CPU, rows in parallel. Three passes over a row that stays in cache:
//   1. maximum and the k-th largest logit    2. sums of e_j, e_j u_j    3. dlogits, in place
// With a gradient, pass 2 leaves e_j in place of z_j, its sign set where j is in K: pass 3 needs no
// second exponential and no comparison. Vectors in fp32, sums joined in double every kBlock
// columns, scalars in double. Contract: loss.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/loss.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace {

constexpr int kBlock = 512;         // columns between joins of a sum
constexpr int kDirectSearch = 1024; // up to here the k-th largest is searched in the row itself
constexpr int kRowsPerTask = 8;     // rows of one task

// v is in K iff z > threshold, or z == threshold and v <= last.
struct Head {
    float max, threshold;
    int last;
};

Vi in_head(Vf z, Vi column, const Head& head) {
    return (z > head.threshold) | ((z == head.threshold) & (column <= head.last));
}

int lane_count(Vi mask) { // mask lanes are 0 or -1, or sums of such
    int32_t s[kLanes];
    std::memcpy(s, &mask, sizeof s);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    return -s[0];
}

bool any_lane(Vi mask) {
    int64_t s[kLanes / 2];
    std::memcpy(s, &mask, sizeof s);
    int64_t any = 0;
    for (int64_t pair : s) any |= pair;
    return any != 0;
}

int count_at_least(const float* z, int n, float bound) {
    Vi sum[2] = {};
    int v = 0;
    for (; v + 2 * kLanes <= n; v += 2 * kLanes) {
        sum[0] += load(z + v) >= bound;
        sum[1] += load(z + v + kLanes) >= bound;
    }
    for (; v < n; v += kLanes) {
        const int count = std::min(kLanes, n - v);
        sum[0] += (load_tail(z + v, count, -INFINITY) >= bound) & (kLaneIndex < count);
    }
    return lane_count(sum[0] + sum[1]);
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

// Floats that find_head needs: one maximum per group of columns, then the candidates.
int group_vectors(int k) { return std::max(4, (2 * k + kLanes - 1) / kLanes); }
int candidate_room(int k) { return group_vectors(k) * kLanes + std::max(2048, 4 * k); }

float row_max(const float* z, int V) {
    Vf largest[2] = {splat(-INFINITY), splat(-INFINITY)};
    int v = 0;
    for (; v + 2 * kLanes <= V; v += 2 * kLanes)
        for (int u = 0; u < 2; u++) largest[u] = max(load(z + v + u * kLanes), largest[u]);
    for (; v < V; v += kLanes)
        largest[0] = max(load_tail(z + v, std::min(kLanes, V - v), -INFINITY), largest[0]);
    return lane_max(max(largest[0], largest[1]));
}

// Columns are dealt to G >= 2k groups (column mod G) and each group's maximum is taken: the k-th
// largest of these is reached by k columns at least, so the k-th largest logit is no smaller.
void group_maxima(const float* z, int V, int vectors, float* groups) {
    const int G = vectors * kLanes;
    std::fill(groups, groups + G, -INFINITY);
    int begin = 0;
    for (; begin + G <= V; begin += G)
        for (int g = 0; g < G; g += kLanes)
            store(groups + g, max(load(z + begin + g), load(groups + g)));
    for (int g = 0; begin + g < V; g++) groups[g] = std::max(groups[g], z[begin + g]);
}

// The values >= bound, or -1 if there are more than `room`.
int collect(const float* z, int V, float bound, float* list, int room) {
    int count = 0;
    for (int begin = 0; begin < V; begin += 4 * kLanes) {
        const int end = std::min(begin + 4 * kLanes, V);
        Vi any = {};
        for (int v = begin; v < end; v += kLanes)
            any |= load_tail(z + v, std::min(kLanes, end - v), -INFINITY) >= bound;
        if (!any_lane(any)) continue;
        if (count + (end - begin) > room) return -1;
        for (int v = begin; v < end; v++) {
            list[count] = z[v];
            count += z[v] >= bound;
        }
    }
    return count;
}

// The index of the m-th column, from 1, that equals `value`.
int nth_equal(const float* z, int V, float value, int m) {
    for (int v = 0; v < V; v++)
        if (z[v] == value && --m == 0) return v;
    return V; // NaN in the row: everything becomes NaN
}

Head find_head(const float* z, int V, int k, float* scratch) {
    if (k >= V) return {row_max(z, V), -INFINITY, V};
    if (k == 0) return {row_max(z, V), INFINITY, -1};
    if (k == 1) { // RL and decoding: the first of the largest
        const float largest = row_max(z, V);
        const bool alone = count_at_least(z, V, largest) == 1;
        return {largest, largest, alone ? V : nth_equal(z, V, largest, 1)};
    }
    const int vectors = group_vectors(k), G = vectors * kLanes;
    const float* list = z;
    int count = V;
    float lowest = -INFINITY;
    Head head{0, 0, V};
    if (V > std::max(kDirectSearch, 4 * G)) {
        group_maxima(z, V, vectors, scratch);
        head.max = row_max(scratch, G);
        lowest = kth_largest(scratch, G, k, -INFINITY, head.max).value;
        const int found = collect(z, V, lowest, scratch + G, candidate_room(k) - G);
        if (found >= k) list = scratch + G, count = found; // else many equal ones, or NaN
    } else {
        head.max = row_max(z, V);
    }
    const Bound bound = kth_largest(list, count, k, lowest, head.max);
    head.threshold = bound.value;
    if (bound.above < k) head.last = nth_equal(z, V, bound.value, k - bound.above);
    return head;
}

struct RowSums {
    double head = 0, tail = 0, weighted = 0; // of the columns but x
    double target_e = 0, target_u = 0;
    double total() const { return head + tail + target_e; }
};

// kKeep: e_j stays in place of z_j, negative for j in K. The sums have the same bits either way.
template <bool kKeep>
RowSums row_sums(std::conditional_t<kKeep, float, const float>* z, int x, const Head& head,
                 const LossShape& s) {
    const float inverse = float(1 / s.temperature), target_u = (z[x] - head.max) * inverse;
    RowSums total;
    total.target_u = double(target_u);
    total.target_e = double(exp(splat(target_u))[0]);
    for (int begin = 0; begin < s.V; begin += kBlock) {
        const int end = std::min(begin + kBlock, s.V);
        Vf outside = {}, inside = {}, weighted = {};
        for (int v = begin; v < end; v += kLanes) {
            const int count = std::min(kLanes, end - v);
            const Vf logit = load_tail(z + v, count, -INFINITY);
            const Vi column = kLaneIndex + v;
            const Vf u = (logit - head.max) * inverse;
            const Vi member = in_head(logit, column, head);
            Vf e = exp(u);
            if constexpr (kKeep) store_tail(z + v, select(member, -e, e), count);
            e = select(column == x, Vf{}, e);
            inside += select(member, e, Vf{});
            outside += select(member, Vf{}, e);
            weighted += select(e > 0.0f, e * u, Vf{}); // -inf logits: 0 * -inf
        }
        total.head += double(lane_sum(inside));
        total.tail += double(lane_sum(outside));
        total.weighted += double(lane_sum(weighted));
    }
    return total;
}

LossRow row_scalars(const RowSums& sums, const Head& head, const LossShape& s) {
    const double others = sums.head + sums.tail;
    double rest = sums.target_u == 0 ? others : std::max(others + sums.target_e - 1, 0.0);
    if (std::isnan(others)) rest = others;
    return loss_row(double(head.max) / s.temperature, sums.target_e, sums.target_u, sums.head,
                    sums.tail, rest, sums.weighted, 1e-37, s);
}

// What row_sums<true> kept -> dlogits.
void row_backward(float* e, int x, const LossRow& row, double weight, double S,
                  const LossShape& s) {
    const double factor = -weight / s.temperature;
    const Vf head_factor = splat(float(factor * (row.reward - s.lambda_head) / S)); // e_j < 0
    const Vf tail_factor = splat(float(factor * (s.lambda_tail - row.reward) / S));
    for (int v = 0; v < s.V; v += kLanes) {
        const int count = std::min(kLanes, s.V - v);
        const Vf kept = load_tail(e + v, count, 0.0f);
        store_tail(e + v, kept * select(kept < 0.0f, head_factor, tail_factor), count);
    }
    e[x] = float(factor * row.target_gradient);
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

// One row of logits as floats: where it lies, or widened from bf16 and, with a gradient, narrowed
// back.
struct Row {
    View logits;
    int64_t n;
    int V;
    float* room; // V floats where X is bf16

    float* widen() const {
        if (logits.dtype == Dtype::f32) return at<float>();
        convert(room, at<bf16>(), V);
        return room;
    }
    void narrow() const {
        if (logits.dtype == Dtype::bf16) convert(at<bf16>(), room, V);
    }
    void zero(int64_t begin, int64_t end) const { // all bits: 0 in either dtype
        const size_t size = dtype_bytes(logits.dtype);
        char* row = static_cast<char*>(logits.data) + size_t(n * logits.ld) * size;
        std::memset(row + size_t(begin) * size, 0, size_t(end - begin) * size);
    }

  private:
    template <class T> T* at() const { return const_cast<View&>(logits).as<T>() + n * logits.ld; }
};

// Calls body(row, scratch) for every row.
template <class Body>
void for_rows(Ctx& ctx, const View& logits, const LossShape& s, const Body& body) {
    ScratchFrame frame(ctx.scratch);
    const size_t candidates = size_t(candidate_room(std::min(s.k, s.V)));
    const size_t room = candidates + (logits.dtype == Dtype::bf16 ? size_t(s.V) : 0);
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    const int64_t N = logits.shape[0];
    parallel_for_dynamic((N + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int thread) {
        float* scratch = memory + room * thread;
        for (int64_t n = task * kRowsPerTask; n < std::min(N, (task + 1) * kRowsPerTask); n++)
            body(Row{logits, n, s.V, scratch + candidates}, scratch);
    });
}

} // namespace

void cpu::loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                       const LossShape& s) {
    for_rows(ctx, logits, s, [&](const Row& logits_row, float* scratch) {
        const int64_t n = logits_row.n;
        float* out = stats.as<float>() + n * stats.ld;
        const int x = targets.as<int32_t>()[n];
        if (x == kIgnoredTarget) return void(std::fill(out, out + kLossStats, 0.0f));
        const float* z = logits_row.widen();
        const Head head = find_head(z, s.V, s.k, scratch);
        store_stats(out, row_scalars(row_sums<false>(z, x, head, s), head, s), 1);
    });
}

void cpu::loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                                const View& scale, const View& old_logp, const LossShape& s) {
    for_rows(ctx, logits, s, [&](const Row& logits_row, float* scratch) {
        const int64_t n = logits_row.n;
        float* out = stats.as<float>() + n * stats.ld;
        const int x = targets.as<int32_t>()[n];
        logits_row.zero(s.V, logits.shape[1]);
        if (x == kIgnoredTarget) {
            std::fill(out, out + kLossStats, 0.0f);
            return logits_row.zero(0, s.V);
        }
        float* z = logits_row.widen();
        const Head head = find_head(z, s.V, s.k, scratch);
        const RowSums sums = row_sums<true>(z, x, head, s);
        const LossRow row = row_scalars(sums, head, s);
        double weight = double(scale.as<float>()[n]), ratio = 1;
        if (!old_logp.empty()) {
            ratio = grpo_ratio(double(float(-row.ce)), double(old_logp.as<float>()[n]));
            weight = grpo_weight(weight, ratio, s);
        }
        store_stats(out, row, ratio);
        if (weight == 0) return logits_row.zero(0, s.V);
        row_backward(z, x, row, weight, sums.total(), s);
        logits_row.narrow();
    });
}
