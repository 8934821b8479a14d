// The ladder of the shaped loss: logits to their gradient in place with the row's statistics, in
// bf16, all features on. What each version changes: README.md beside this file. The last two are
// the production kernels, whose file is included.
#include "dev/cuda/ladder.h"
#include "llmc/ops/loss.cu"

namespace {

constexpr int kBlock = 512, kBlockWarps = kBlock / 32; // versions 1 to 3

struct BlockScratch {
    float warp[kBlockWarps];
    Key best[kBlockWarps];
};
template <class Combine>
__device__ __forceinline__ float over_block(float (&warps)[kBlockWarps], float x,
                                            const Combine& combine) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x = combine(x, __shfl_xor_sync(~0u, x, lanes));
    __syncthreads(); // the last call's values have been read
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
    for (int i = 1; i < kBlockWarps; i++) x = combine(x, warps[i]);
    return x;
}
__device__ __forceinline__ float block_sum(float (&warps)[kBlockWarps], float x) {
    return over_block(warps, x, [](float a, float b) { return a + b; });
}
__device__ __forceinline__ float block_max(float (&warps)[kBlockWarps], float x) {
    return over_block(warps, x, [](float a, float b) { return fmaxf(a, b); });
}

// 1: a kernel for each step, a block per row. Probabilities (N, V) in fp32.
__global__ void softmax_kernel(float* probs, float* lse, LossRows<bf16> rows) {
    SHARED(BlockScratch, s);
    const int n = int(blockIdx.x), t = int(threadIdx.x), V = rows.shape.V;
    const bf16* z = rows.logits + n * rows.logits_ld;
    float max = -INFINITY, sum = 0;
    for (int v = t; v < V; v += kBlock) max = fmaxf(max, to_float(z[v]));
    max = block_max(s.warp, max);
    for (int v = t; v < V; v += kBlock) sum += exp_at(to_float(z[v]) - max, rows.exponent);
    sum = block_sum(s.warp, sum);
    for (int v = t; v < V; v += kBlock)
        probs[int64_t(n) * V + v] = exp_at(to_float(z[v]) - max, rows.exponent) / sum;
    if (t == 0) lse[n] = max / float(rows.shape.temperature) + logf(sum);
}
// The k-th largest: k times the largest key below the last one.
__global__ void top_k_kernel(Key* cuts, LossRows<bf16> rows) {
    SHARED(BlockScratch, s);
    const int n = int(blockIdx.x), t = int(threadIdx.x);
    const bf16* z = rows.logits + n * rows.logits_ld;
    Key below = ~Key(0);
    for (int i = 0; i < rows.shape.k; i++) {
        Key best = 0;
        for (int v = t; v < rows.shape.V; v += kBlock) {
            const Key key = make_key(to_float(z[v]), v);
            if (key < below && key > best) best = key;
        }
        for (int lanes = 16; lanes > 0; lanes /= 2) {
            const Key other = __shfl_xor_sync(~0u, best, lanes);
            if (other > best) best = other;
        }
        if (t % 32 == 0) s.best[t / 32] = best;
        __syncthreads();
        below = s.best[0];
        for (int warp = 1; warp < kBlockWarps; warp++)
            if (s.best[warp] > below) below = s.best[warp];
        __syncthreads();
    }
    if (t == 0) cuts[n] = below;
}
__global__ void gradient_kernel(LossRows<bf16> rows, const float* probs, const float* lse,
                                const Key* cuts) {
    SHARED(BlockScratch, s);
    const int n = int(blockIdx.x), t = int(threadIdx.x), V = rows.shape.V, x = rows.targets[n];
    const float* p = probs + int64_t(n) * V;
    bf16* z = rows.logits + n * rows.logits_ld;
    float head = 0, tail = 0, entropy = 0;
    for (int v = t; v < V; v += kBlock) {
        if (p[v] > 0) entropy -= p[v] * logf(p[v]);
        if (v == x) continue;
        if (make_key(to_float(z[v]), v) >= cuts[n]) head += p[v];
        else tail += p[v];
    }
    head = block_sum(s.warp, head);
    tail = block_sum(s.warp, tail);
    entropy = block_sum(s.warp, entropy);
    const double target = double(p[x]), target_log = log(target);
    const LossRow row = loss_row(double(lse[n]), target, target_log, double(head), double(tail), 0,
                                 -double(entropy) - target * target_log, 1e-37, rows.shape);
    if (t == 0) store_stats(rows.stats + n * rows.stats_ld, row, 1);
    const double factor = double(-rows.scale[n]) / rows.shape.temperature;
    for (int v = t; v < rows.columns; v += kBlock) {
        float g = 0;
        if (v == x) g = float(factor * row.target_gradient);
        else if (v < V) {
            const bool in = make_key(to_float(z[v]), v) >= cuts[n];
            const double lambda = in ? rows.shape.lambda_head : rows.shape.lambda_tail;
            g = float(factor * (lambda - row.reward)) * p[v];
        }
        z[v] = from_float<bf16>(g);
    }
}

// 2 and 3: one kernel, a block per row, kColumns columns a thread and access.
struct OnlineShared {
    Selection<unsigned> selection;
    Partials<kBlockWarps> partial;
    float warp[kBlockWarps];
    float target_z;
    Factors factors;
};
template <int kColumns>
__device__ __forceinline__ Pack<bf16> load_columns(const Row<bf16>& row, int i) {
    if constexpr (kColumns == kVector<bf16>) return row.load(i);
    Pack<bf16> one{};
    one.v[0] = i < row.V ? row.z[i] : from_float<bf16>(-INFINITY);
    return one;
}
template <int kColumns>
__global__ void __launch_bounds__(kBlock) online_kernel(LossRows<bf16> rows) {
    SHARED(OnlineShared, s);
    const int n = int(blockIdx.x), t = int(threadIdx.x), x = rows.targets[n];
    const int V = rows.shape.V, k = rows.shape.k, groups = (V + kColumns - 1) / kColumns;
    const Row<bf16> row = row_of(rows, n);
    auto for_columns = [&](auto&& use) {
        for (int i = t; i < groups; i += kBlock) {
            const Pack<bf16> pack = load_columns<kColumns>(row, i);
            for (int j = 0; j < kColumns && i * kColumns + j < V; j++)
                use(to_float(pack.v[j]), i * kColumns + j);
        }
    };
    // K first, by passes over the row.
    Members members{{-INFINITY, ~0u}, 0, false, nullptr, nullptr, 0, 0, false};
    if (!known_bound(members.bound, k, V)) {
        auto visit = [&](auto&& use) { for_columns([&](float z, int v) { use(make_key(z, v)); }); };
        members.raise(kth_largest(BlockTeam{}, s.selection, KeyDigits<bf16>{V}, k, 0, visit));
    }
    // Sums relative to a running maximum, then to the row's.
    Sums sums;
    float max = -INFINITY;
    for (int begin = 0; begin < groups; begin += kBlock) {
        const Pack<bf16> pack = load_columns<kColumns>(row, begin + t);
        float z[kColumns];
        for (int j = 0; j < kColumns; j++) z[j] = to_float(pack.v[j]);
        const int first = (begin + t) * kColumns;
        const float top = largest(z);
        if (top > max) {
            sums.rescale(max, top, rows.exponent);
            max = top;
        }
        for (int j = 0; j < kColumns; j++)
            if (first + j == x) s.target_z = z[j];
        sums.add(z, first, top, V, x, fmaxf(max, -FLT_MAX), rows.exponent, members);
    }
    const float row_max = block_max(s.warp, max);
    sums.rescale(max, row_max, rows.exponent);
    s.partial.store(t / 32, sums);
    __syncthreads();
    if (t == 0) {
        WarpSums total{};
        for (int warp = 0; warp < kBlockWarps; warp++) s.partial.add_to(total, warp);
        finish_row(s.factors, rows, n, row_max, s.target_z, total, ListSums{}, true);
        s.factors.bound = members.bound;
    }
    __syncthreads();
    const Factors f = s.factors;
    for (int i = t; i < (rows.columns + kColumns - 1) / kColumns; i += kBlock) {
        const Pack<bf16> g = gradient<kColumns>(load_columns<kColumns>(row, i), i * kColumns, V, x,
                                                f, rows.exponent);
        if constexpr (kColumns == kVector<bf16>) row.store(i, g);
        else row.z[i] = g.v[0];
    }
}

// ------------------------------------------------------------------------------------------------
// the reference, in double

struct Wanted {
    std::vector<double> logits, scale, stats;

    Wanted(const View& narrow, const View& targets, const View& weight, const LossShape& shape) {
        const int64_t N = narrow.shape[0], Vp = narrow.shape[1];
        logits.resize(size_t(N * Vp));
        stats.resize(size_t(N) * kLossStats);
        for (int64_t i = 0; i < N * Vp; i++) logits[size_t(i)] = read_value(narrow, i);
        for (int64_t n = 0; n < N; n++) scale.push_back(read_value(weight, n));
        Ctx ref(Backend::ref, 1);
        ref::loss_forward_backward(ref, make_view(logits.data(), Dtype::f64, "logits", N, Vp),
                                   make_view(stats.data(), Dtype::f64, "stats", N, kLossStats),
                                   targets, make_view(scale.data(), Dtype::f64, "scale", N), View{},
                                   shape);
    }
    // Of the gradient, over all rows; infinite where a statistic is off by more than 1e-5.
    double error(const View& got, const View& got_stats) const {
        double difference = 0, norm = 0;
        for (size_t i = 0; i < stats.size(); i++)
            if (!(std::fabs(read_value(got_stats, int64_t(i)) - stats[i]) <=
                  1e-5 * std::fabs(stats[i])))
                return INFINITY;
        for (size_t i = 0; i < logits.size(); i++) {
            const double off = read_value(got, int64_t(i)) - logits[i];
            difference += off * off;
            norm += logits[i] * logits[i];
        }
        return std::sqrt(difference / norm);
    }
};

void run_ladder(Ladder& ladder, int N, const LossShape& shape) {
    const int V = shape.V, Vp = (V + 63) / 64 * 64;
    View logits = ladder.make("logits", Dtype::bf16, N, Vp);
    View stats = ladder.make("stats", Dtype::f32, N, kLossStats);
    View scale = ladder.make("scale", Dtype::f32, N, 1);
    View targets = ladder.make("targets", Dtype::i32, N, 1);
    scale = make_view(scale.data, Dtype::f32, "scale", N);
    targets = make_view(targets.data, Dtype::i32, "targets", N);
    View probs = ladder.make("probs", Dtype::f32, N, V);
    View lse = ladder.make("lse", Dtype::f32, N, 1), cuts = ladder.make("cuts", Dtype::f64, N, 1);
    ladder.fill_normal(logits, 1, 2.5);
    ladder.keep(logits);
    Rng rng(7, 2);
    for (int n = 0; n < N; n++) {
        targets.as<int32_t>()[n] = int32_t(rng.below(uint64_t(V)));
        scale.as<float>()[n] = n % 3 == 1 ? -0.5f : 1.0f;
    }
    const Wanted wanted(logits, targets, scale, shape);
    const LossRows<bf16> rows = rows_of<bf16>(stats, logits, targets, scale, View{}, shape);
    const Ladder::Work work{4.0 * N * V, 0, 0};
    auto step = [&](const char* name, const std::function<void(Ctx&)>& run) {
        std::fill_n(stats.as<float>(), N * kLossStats, NAN);
        ladder.step(name, work, 3e-3, run, [&] { return wanted.error(logits, stats); });
    };
    const LaunchShape block{N, kBlock, 1, 0};
    step("1 naive", [&](Ctx& ctx) {
        Key* cut = static_cast<Key*>(cuts.data);
        LAUNCH(ctx, softmax_kernel, block, probs.as<float>(), lse.as<float>(), rows);
        LAUNCH(ctx, top_k_kernel, block, cut, rows);
        LAUNCH(ctx, gradient_kernel, block, rows, probs.as<float>(), lse.as<float>(), cut);
    });
    step("2 online", [&](Ctx& ctx) { LAUNCH(ctx, online_kernel<1>, block, rows); });
    step("3 vectors", [&](Ctx& ctx) { LAUNCH(ctx, online_kernel<8>, block, rows); });
    step("4 two sweeps", [&](Ctx& ctx) {
        const LaunchShape sweep{N, kSweepThreads, 1, kSweepRoom * sizeof(Key)};
        LAUNCH(ctx, (loss_sweep_kernel<bf16, true>), sweep, rows);
    });
    step("5 cluster", [&](Ctx& ctx) { // where the GPU has clusters; else its two sweeps
        gpu::loss_forward_backward(ctx, logits, stats, targets, scale, View{}, shape);
    });
}

} // namespace

int main() {
    Ladder ladder;
    const int N = Ladder::kGpu ? 4096 : 3;
    run_ladder(ladder, N, {50257, 100, -0.25, 0.1, -0.1, RewardForm::factor, 1, 0.2, 0.2});
    return ladder.status();
}
