// The shaped loss on the CPU, rows in parallel. Three passes over a row that stays in cache:
//   1. maximum and the k-th largest logit    2. sums of e_j, e_j u_j    3. dlogits, in place
// Vectors in fp32, sums joined in double every kBlock columns, scalars in double. Contract: loss.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/loss.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int kBlock = 256;     // columns between joins, and per test of the top-k threshold
constexpr int kRowsPerTask = 8; // rows of one task

struct Candidate {
    float z;
    int v;
};
bool before(const Candidate& a, const Candidate& b) { // the order of the top k
    return a.z > b.z || (a.z == b.z && a.v < b.v);
}

// v is in K iff z > threshold, or z == threshold and v <= last.
struct Head {
    float max, threshold;
    int last;
};

int candidate_room(int k) { return k + std::max(k, 256) + kBlock; }

// Columns are scanned in ascending order against the k-th largest so far: an equal later one never
// enters, so the list needs only strictly larger ones, and few after the first blocks.
Head find_head(const float* z, int V, int k, Candidate* list) {
    Head head{-INFINITY, -INFINITY, V};
    const bool all = k >= V;
    const int room = candidate_room(k) - kBlock;
    int count = 0;
    float threshold = -INFINITY;
    bool full = false; // the list has held k entries: threshold is the k-th largest
    for (int begin = 0; begin < V; begin += kBlock) {
        const int end = std::min(begin + kBlock, V);
        Vf largest = splat(-INFINITY);
        for (int v = begin; v < end; v += kLanes)
            largest = max(load_tail(z + v, std::min(kLanes, end - v), -INFINITY), largest);
        const float block_max = lane_max(largest);
        head.max = std::max(head.max, block_max);
        if (all || k == 0 || (full && !(block_max > threshold))) continue;
        for (int v = begin; v < end; v++)
            if (!full || z[v] > threshold) list[count++] = {z[v], v};
        if (count >= k && (count > room || !full)) {
            std::nth_element(list, list + (k - 1), list + count, before);
            count = k;
            threshold = list[k - 1].z;
            full = true;
        }
    }
    if (all) return head;
    if (k == 0) return {head.max, INFINITY, -1};
    if (count < k) return head; // NaN in the row: everything becomes NaN
    std::nth_element(list, list + (k - 1), list + count, before);
    head.threshold = list[k - 1].z;
    head.last = list[k - 1].v;
    return head;
}

const Vi kLaneIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

Vi in_head(Vf z, Vi column, const Head& head) {
    return (z > head.threshold) | ((z == head.threshold) & (column <= head.last));
}

LossRow row_forward(const float* z, int x, const Head& head, const LossShape& s) {
    const float inverse = float(1 / s.temperature);
    double head_sum = 0, tail_sum = 0, weighted = 0;
    for (int begin = 0; begin < s.V; begin += kBlock) {
        const int end = std::min(begin + kBlock, s.V);
        Vf sums[3] = {};
        for (int v = begin; v < end; v += kLanes) {
            const Vf logit = load_tail(z + v, std::min(kLanes, end - v), -INFINITY);
            const Vi column = kLaneIndex + v;
            const Vf u = (logit - head.max) * inverse;
            Vf e = exp(u);
            e = select(column == x, Vf{}, e);
            const Vi member = in_head(logit, column, head);
            sums[0] += select(member, e, Vf{});
            sums[1] += select(member, Vf{}, e);
            sums[2] += select(e > 0.0f, e * u, Vf{}); // -inf logits: 0 * -inf
        }
        head_sum += double(lane_sum(sums[0]));
        tail_sum += double(lane_sum(sums[1]));
        weighted += double(lane_sum(sums[2]));
    }
    const float target_u = (z[x] - head.max) * inverse;
    const double target_e = double(exp(splat(target_u))[0]), others = head_sum + tail_sum;
    const double rest = target_u == 0 ? others : std::max(others + target_e - 1, 0.0);
    return loss_row(double(head.max) / s.temperature, target_e, double(target_u), head_sum,
                    tail_sum, std::isnan(others) ? others : rest, weighted, 1e-37, s);
}

// z -> dlogits. S is the sum of all e_j.
void row_backward(float* z, int x, const Head& head, const LossRow& row, double weight, double S,
                  const LossShape& s) {
    const float inverse = float(1 / s.temperature);
    const double factor = -weight / s.temperature;
    const float head_factor = float(factor * (s.lambda_head - row.reward) / S);
    const float tail_factor = float(factor * (s.lambda_tail - row.reward) / S);
    for (int v = 0; v < s.V; v += kLanes) {
        const int count = std::min(kLanes, s.V - v);
        const Vf logit = load_tail(z + v, count, -INFINITY);
        const Vf e = exp((logit - head.max) * inverse);
        const Vi member = in_head(logit, kLaneIndex + v, head);
        store_tail(z + v, e * select(member, splat(head_factor), splat(tail_factor)), count);
    }
    z[x] = float(factor * row.target_gradient);
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

// Calls body(n, candidates) for every row.
template <class Body> void for_rows(Ctx& ctx, int64_t N, const LossShape& s, const Body& body) {
    ScratchFrame frame(ctx.scratch);
    const int room = candidate_room(std::min(s.k, s.V));
    Candidate* lists = ctx.scratch.alloc_of<Candidate>(size_t(room) * omp_get_max_threads());
    parallel_for_dynamic((N + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int thread) {
        for (int64_t n = task * kRowsPerTask; n < std::min(N, (task + 1) * kRowsPerTask); n++)
            body(n, lists + size_t(room) * thread);
    });
}

} // namespace

void cpu::loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                       const LossShape& s) {
    for_rows(ctx, logits.shape[0], s, [&](int64_t n, Candidate* list) {
        const float* z = logits.as<float>() + n * logits.ld;
        float* out = stats.as<float>() + n * stats.ld;
        const int x = targets.as<int32_t>()[n];
        if (x == kIgnoredTarget) return void(std::fill(out, out + kLossStats, 0.0f));
        store_stats(out, row_forward(z, x, find_head(z, s.V, s.k, list), s), 1);
    });
}

void cpu::loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                                const View& scale, const View& old_logp, const LossShape& s) {
    for_rows(ctx, logits.shape[0], s, [&](int64_t n, Candidate* list) {
        float* z = logits.as<float>() + n * logits.ld;
        float* out = stats.as<float>() + n * stats.ld;
        const int x = targets.as<int32_t>()[n];
        std::fill(z + s.V, z + logits.shape[1], 0.0f);
        if (x == kIgnoredTarget) {
            std::fill(out, out + kLossStats, 0.0f);
            std::fill(z, z + s.V, 0.0f);
            return;
        }
        const Head head = find_head(z, s.V, s.k, list);
        const LossRow row = row_forward(z, x, head, s);
        double weight = double(scale.as<float>()[n]), ratio = 1;
        if (!old_logp.empty()) {
            ratio = grpo_ratio(double(float(-row.ce)), double(old_logp.as<float>()[n]));
            weight = grpo_weight(weight, ratio, s);
        }
        store_stats(out, row, ratio);
        if (weight == 0) return void(std::fill(z, z + s.V, 0.0f));
        const double S = std::exp(row.lse - double(head.max) / s.temperature);
        row_backward(z, x, head, row, weight, S, s);
    });
}
