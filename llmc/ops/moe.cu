// Mixture of experts on the GPU: router, slots, biases. Contract: moe.h; equations (M1)-(M4) and
// (M8) in doc/equations.md. Rows of slots: moe_rows.cu. Products: moe_grouped.cu.
#include "llmc/device/scan.cuh"
#include "llmc/device/select.cuh"
#include "llmc/ops/moe.h"

namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kRowsPerWarp = 8; // a block reads the bias once for 64 rows

// ------------------------------------------------------------------------------------------------
// router

struct RouterRows {
    float *weights, *scores;
    int* experts;
    const float *logits, *bias;
    int64_t weights_ld, scores_ld, logits_ld;
    int N, E, K;
    float scale;
};

// One warp = one row. The lanes own experts lane, lane + 32, ...: the order of each is a key in
// shared memory that its owner alone touches, 0 once selected. A round takes the largest key of
// the lanes' best, of equal ones the lowest expert; then only the winner looks for its next best.
// logits are read and scores written once, 8 bytes per expert. Bound by memory.
//   | bias (E) | warp 0: keys (E), scores (E), selected: experts (K), scores (K) | warp 1: ... |
__global__ void __launch_bounds__(kThreads) router_forward_kernel(RouterRows a) {
    DYNAMIC_SHARED(unsigned, shared);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    float* bias = reinterpret_cast<float*>(shared);
    unsigned* keys = shared + a.E + warp * 2 * (a.E + a.K);
    float* scores = reinterpret_cast<float*>(keys + a.E);
    int* selected = reinterpret_cast<int*>(scores + a.E);
    float* selected_scores = reinterpret_cast<float*>(selected + a.K);
    for (int e = int(threadIdx.x); e < a.E; e += kThreads) bias[e] = a.bias[e];
    __syncthreads();
    const int64_t first = (int64_t(blockIdx.x) * kWarps + warp) * kRowsPerWarp;
    for (int64_t n = first; n < first + kRowsPerWarp && n < a.N; n++) {
        unsigned best = 0;
        int best_e = a.E;
        for (int e = lane; e < a.E; e += 32) {
            const float s = 1 / (1 + expf(-a.logits[n * a.logits_ld + e])); // (M1)
            a.scores[n * a.scores_ld + e] = scores[e] = s;
            const unsigned key = ordered(s + bias[e]), open = key > 0 ? key : 1;
            keys[e] = open;
            if (open > best) best = open, best_e = e;
        }
        for (int k = 0; k < a.K; k++) { // (M2)
            const unsigned top = __reduce_max_sync(~0u, best);
            const int e = __reduce_min_sync(~0u, best == top ? best_e : a.E);
            if (e % 32 != lane) continue;
            keys[e] = best = 0;
            best_e = a.E;
            for (int other = lane; other < a.E; other += 32)
                if (keys[other] > best) best = keys[other], best_e = other;
        }
        int count = 0;
        float sum = 0;
        for (int begin = 0; begin < a.E; begin += 32) {
            const int e = begin + lane;
            const bool mine = e < a.E && keys[e] == 0;
            const unsigned lanes = __ballot_sync(~0u, mine);
            if (mine) {
                const int k = count + __popc(lanes & ((1u << lane) - 1));
                selected[k] = e;
                selected_scores[k] = scores[e];
                sum += scores[e];
            }
            count += __popc(lanes);
        }
        sum = warp_sum(sum);
        __syncwarp();
        for (int k = lane; k < a.K; k += 32) {
            a.experts[n * a.K + k] = selected[k];
            a.weights[n * a.weights_ld + k] = a.scale * selected_scores[k] / sum; // (M3)
        }
        __syncwarp();
    }
}

struct RouterGradient {
    float* dlogits;
    const float *dweights, *scores;
    const int* experts;
    int64_t dlogits_ld, dweights_ld, scores_ld;
    int N, E, K;
    float scale;
};

HOST_DEVICE constexpr int router_backward_words(int E, int K) {
    return E + (1 + 2 * kRowsPerWarp) * K;
}
// One warp = one row, whose gradient is put together in shared memory and written once: 4 bytes
// per expert, and a sector of scores per selected one. Choices and their gradients come in for all
// 8 rows of a warp at once, as rows of K begin inside sectors.
//   | warp 0: gradient (E), scores (K), dweights (8, K), experts (8, K) | warp 1: ... |
__global__ void __launch_bounds__(kThreads, 4) router_backward_kernel(RouterGradient a) {
    DYNAMIC_SHARED(float, shared);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int choices = kRowsPerWarp * a.K;
    float *row = shared + warp * router_backward_words(a.E, a.K), *scores = row + a.E;
    float *dweights = scores + a.K, *g = dweights;
    int *chosen = reinterpret_cast<int*>(dweights + choices), *experts = chosen;
    for (int e = lane; e < a.E; e += 32) row[e] = 0;
    const int64_t first = (int64_t(blockIdx.x) * kWarps + warp) * kRowsPerWarp;
    for (int i = lane; i < choices && first + i / a.K < a.N; i += 32) {
        chosen[i] = a.experts[first * a.K + i];
        dweights[i] = a.dweights[(first + i / a.K) * a.dweights_ld + i % a.K];
    } // a lane's own for the first row; what others brought comes after that row's barriers
    for (int64_t n = first; n < first + kRowsPerWarp && n < a.N; n++, g += a.K, experts += a.K) {
        float sum = 0, dot = 0;
        for (int k = lane; k < a.K; k += 32)
            sum += scores[k] = a.scores[n * a.scores_ld + experts[k]];
        sum = warp_sum(sum);
        // The share of the sum is formed first: at K = 1 the gradient is exactly 0.
        for (int k = lane; k < a.K; k += 32) dot += g[k] * (scores[k] / sum);
        dot = warp_sum(dot);
        __syncwarp();
        for (int k = lane; k < a.K; k += 32) // (M4)
            row[experts[k]] = a.scale / sum * (g[k] - dot) * scores[k] * (1 - scores[k]);
        __syncwarp();
        for (int e = lane; e < a.E; e += 32) {
            a.dlogits[n * a.dlogits_ld + e] = row[e];
            row[e] = 0;
        }
    }
}

// ------------------------------------------------------------------------------------------------
// slots: a stable counting sort of the N K choices by expert

constexpr int kChoicesPerBlock = 4096, kChoicesPerWarp = kChoicesPerBlock / kWarps;
constexpr int kChoicesPerLane = kChoicesPerWarp / 32;

// By a block, for its 4096 choices: how many of each expert.
__device__ __forceinline__ void count_choices(int* count, const int* experts, int S, int E) {
    for (int e = int(threadIdx.x); e < E; e += kThreads) count[e] = 0;
    __syncthreads();
    const int first = int(blockIdx.x) * kChoicesPerBlock;
    for (int i = first + int(threadIdx.x); i < first + kChoicesPerBlock && i < S; i += kThreads)
        atomicAdd(&count[experts[i]], 1);
    __syncthreads();
}

// counts (blocks, E).
__global__ void __launch_bounds__(kThreads)
    count_choices_kernel(int* counts, const int* experts, int S, int E) {
    DYNAMIC_SHARED(int, count);
    count_choices(count, experts, S, E);
    for (int e = int(threadIdx.x); e < E; e += kThreads)
        counts[int64_t(blockIdx.x) * E + e] = count[e];
}

// By one block: each count becomes the first slot of that block's choices of the expert.
__global__ void __launch_bounds__(kThreads)
    place_experts_kernel(int* offsets, int* counts, int blocks, int E) {
    SHARED(ScanSums<int>, sums);
    int first = 0; // slot of the strip's first expert
    for (int begin = 0, turn = 0; begin < E; begin += kThreads, turn ^= 1) {
        const int e = begin + int(threadIdx.x);
        int total = 0;
        for (int b = 0; b < blocks && e < E; b++) total += counts[int64_t(b) * E + e];
        const Scan<int> scan = block_scan<kWarps>(sums, turn, total);
        int slot = first + scan.before;
        first += scan.all;
        if (e >= E) continue;
        offsets[e] = slot;
        if (e == E - 1) offsets[E] = slot + total;
        for (int b = 0; b < blocks; b++) {
            int& count = counts[int64_t(b) * E + e];
            const int choices = count;
            count = slot;
            slot += choices;
        }
    }
}

// A choice in the order of a block's slots: its expert, and its row from the block's first row on.
constexpr int kRowBits = 13;
static_assert(kChoicesPerBlock < 1 << kRowBits);

// One block = 4096 choices, one warp = 512 of them in order, which its lanes keep: first every warp
// counts, then each knows where its choices of an expert begin among the block's, then it gives
// out places, 32 choices at a time. The block's choices lie in the order of their slots before rows
// are written: an expert's slots are neighbours, and 4 bytes alone would cost a sector.
//   | warp 0: next (E): count, then the expert's next place | warp 1: ... |
//   | shift (E): from places of the block to slots | choices by place (4096) |
__global__ void __launch_bounds__(kThreads)
    place_choices_kernel(int* slot_row, int* row_slot, const int* experts, const int* first_slots,
                         int S, int E, int K) {
    SHARED(ScanSums<int>, sums);
    DYNAMIC_SHARED(int, shared);
    const int t = int(threadIdx.x), warp = t / 32, lane = t % 32;
    int *next = shared + warp * E, *shift = shared + kWarps * E, *choices = shift + E;
    for (int e = lane; e < E; e += 32) next[e] = 0;
    __syncwarp();
    const int block_first = int(blockIdx.x) * kChoicesPerBlock, first_row = block_first / K;
    const int first = block_first + warp * kChoicesPerWarp + lane;
    int chosen[kChoicesPerLane];
#pragma unroll
    for (int r = 0; r < kChoicesPerLane; r++) {
        chosen[r] = first + 32 * r < S ? experts[first + 32 * r] : -1;
        if (chosen[r] >= 0) atomicAdd(&next[chosen[r]], 1);
    }
    __syncthreads();
    int placed = 0; // by the strips of experts before
    for (int begin = 0, turn = 0; begin < E; begin += kThreads, turn ^= 1) {
        const int e = begin + t;
        int total = 0;
        for (int w = 0; w < kWarps && e < E; w++) total += shared[w * E + e];
        const Scan<int> scan = block_scan<kWarps>(sums, turn, total);
        int place = placed + scan.before;
        placed += scan.all;
        if (e >= E) continue;
        shift[e] = first_slots[int64_t(blockIdx.x) * E + e] - place;
        for (int w = 0; w < kWarps; w++) {
            const int count = shared[w * E + e];
            shared[w * E + e] = place;
            place += count;
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kChoicesPerLane; r++) {
        const int i = first + 32 * r, expert = chosen[r];
        const unsigned same = __match_any_sync(~0u, expert);
        const int before = __popc(same & ((1u << lane) - 1));
        if (expert >= 0) {
            const int place = next[expert] + before;
            choices[place] = expert << kRowBits | (i / K - first_row);
            row_slot[i] = place + shift[expert];
        }
        __syncwarp();
        if (expert >= 0 && before == 0) next[expert] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    for (int place = t; place < placed; place += kThreads)
        slot_row[place + shift[choices[place] >> kRowBits]] =
            first_row + (choices[place] & ((1 << kRowBits) - 1));
}

// ------------------------------------------------------------------------------------------------
// counts of the step, biases

// One block = 4096 choices, counted in shared memory; integers, so in any order.
__global__ void __launch_bounds__(kThreads)
    add_counts_kernel(int* counts, const int* experts, int S, int E) {
    DYNAMIC_SHARED(int, count);
    count_choices(count, experts, S, E);
    for (int e = int(threadIdx.x); e < E; e += kThreads)
        if (count[e] > 0) atomicAdd(&counts[e], count[e]);
}

// By one block; signs from integers, so exact.
__global__ void __launch_bounds__(kThreads)
    bias_update_kernel(float* bias, const int* counts, int E, double rate) {
    SHARED(ScanSums<long long>, sums);
    long long mine = 0;
    for (int e = int(threadIdx.x); e < E; e += kThreads) mine += counts[e];
    const long long total = block_scan<kWarps>(sums, 0, mine).all;
    auto sign = [&](int e) {
        const long long scaled = static_cast<long long>(counts[e]) * E;
        return int(scaled < total) - int(scaled > total);
    };
    mine = 0;
    for (int e = int(threadIdx.x); e < E; e += kThreads) mine += sign(e);
    const double mean_sign = double(block_scan<kWarps>(sums, 1, mine).all) / E;
    for (int e = int(threadIdx.x); e < E; e += kThreads)
        bias[e] += float(rate * (sign(e) - mean_sign)); // (M8)
}

int blocks_of(int count, int per_block) { return (count + per_block - 1) / per_block; }

} // namespace

void gpu::router_forward(Ctx& ctx, View weights, View experts, View scores, const View& logits,
                         const View& bias, double scale) {
    const int N = int(logits.shape[0]), E = int(logits.shape[1]), K = int(weights.shape[1]);
    const RouterRows a{weights.as<float>(),
                       scores.as<float>(),
                       experts.as<int32_t>(),
                       logits.as<float>(),
                       bias.as<float>(),
                       weights.ld,
                       scores.ld,
                       logits.ld,
                       N,
                       E,
                       K,
                       float(scale)};
    const size_t shared = sizeof(float) * size_t(E + kWarps * 2 * (E + K));
    LAUNCH(ctx, router_forward_kernel,
           (LaunchShape{blocks_of(N, kWarps * kRowsPerWarp), kThreads, 1, shared}), a);
}

void gpu::router_backward(Ctx& ctx, View dlogits, const View& dweights, const View& weights,
                          const View& experts, const View& scores, double scale) {
    const int N = int(scores.shape[0]), E = int(scores.shape[1]), K = int(weights.shape[1]);
    const RouterGradient a{dlogits.as<float>(),
                           dweights.as<float>(),
                           scores.as<float>(),
                           experts.as<int32_t>(),
                           dlogits.ld,
                           dweights.ld,
                           scores.ld,
                           N,
                           E,
                           K,
                           float(scale)};
    const size_t shared = sizeof(float) * size_t(kWarps * router_backward_words(E, K));
    LAUNCH(ctx, router_backward_kernel,
           (LaunchShape{blocks_of(N, kWarps * kRowsPerWarp), kThreads, 1, shared}), a);
}

void gpu::slots_forward(Ctx& ctx, View offsets, View slot_row, View row_slot, const View& experts) {
    const int S = int(slot_row.shape[0]), E = int(offsets.shape[0]) - 1, K = int(experts.shape[1]);
    const int blocks = blocks_of(S, kChoicesPerBlock);
    ScratchFrame frame(ctx.scratch);
    int* counts = ctx.scratch.alloc_of<int>(size_t(blocks) * size_t(E));
    LAUNCH(ctx, count_choices_kernel, (LaunchShape{blocks, kThreads, 1, sizeof(int) * size_t(E)}),
           counts, experts.as<int32_t>(), S, E);
    LAUNCH(ctx, place_experts_kernel, (LaunchShape{1, kThreads, 1, 0}), offsets.as<int32_t>(),
           counts, blocks, E);
    LAUNCH(ctx, place_choices_kernel,
           (LaunchShape{blocks, kThreads, 1,
                        sizeof(int) * size_t((kWarps + 1) * E + kChoicesPerBlock)}),
           slot_row.as<int32_t>(), row_slot.as<int32_t>(), experts.as<int32_t>(), counts, S, E, K);
}

void gpu::moe_counts_update(Ctx& ctx, View counts, const View& experts) {
    const int S = int(experts.size()), E = int(counts.rows());
    LAUNCH(ctx, add_counts_kernel,
           (LaunchShape{blocks_of(S, kChoicesPerBlock), kThreads, 1, sizeof(int) * size_t(E)}),
           counts.as<int32_t>(), experts.as<int32_t>(), S, E);
}

void gpu::moe_bias_update(Ctx& ctx, View bias, const View& counts, double rate) {
    LAUNCH(ctx, bias_update_kernel, (LaunchShape{1, kThreads, 1, 0}), bias.as<float>(),
           counts.as<int32_t>(), int(counts.rows()), rate);
}
