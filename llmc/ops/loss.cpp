// The shaped loss: contract checks, reference. Contract, per-row scalars: loss.h. Fast CPU:
// loss_cpu.cpp. Kernels: loss.cu.
#include "llmc/ops/loss.h"

#include <algorithm>
#include <numeric>
#include <vector>

static void require_loss(const char* op, const Ctx& ctx, const View& stats, const View& logits,
                         const View& targets, const LossShape& shape) {
    const int64_t N = logits.shape[0];
    require_shape(op, logits, N, logits.shape[1]);
    require_shape(op, stats, N, kLossStats);
    require_shape(op, targets, N);
    require_real(op, logits, ctx);
    require_dtype(op, stats, ctx.dtype());
    require_dtype(op, targets, Dtype::i32);
    require(shape.V >= 1 && shape.V <= logits.shape[1], "%s: V=%d of %ld columns", op, shape.V,
            long(logits.shape[1]));
    require(shape.beta > -1, "%s: beta=%g must be > -1", op, shape.beta);
    require(shape.k >= 0 && shape.temperature > 0, "%s: k=%d temperature=%g", op, shape.k,
            shape.temperature);
    if (!ctx.checks_values()) return;
    const int32_t* t = targets.as<int32_t>();
    for (int64_t n = 0; n < N; n++)
        require(t[n] == kIgnoredTarget || (t[n] >= 0 && t[n] < shape.V),
                "%s: targets[%ld]=%d, V=%d", op, long(n), t[n], shape.V);
}

void check::loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                         const LossShape& shape) {
    require_loss("loss_forward", ctx, stats, logits, targets, shape);
}

void check::loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                                  const View& scale, const View& old_logp, const LossShape& shape) {
    const char* op = "loss_forward_backward";
    require_loss(op, ctx, stats, logits, targets, shape);
    require_shape(op, scale, logits.shape[0]);
    require_dtypes(op, ctx.dtype(), {&scale, &old_logp});
    if (!old_logp.empty()) require_shape(op, old_logp, logits.shape[0]);
}

// ------------------------------------------------------------------------------------------------
// reference

namespace {

// head[v] = 1 for the k largest of z, equal ones by lower index.
std::vector<char> top_k(const double* z, int V, int k) {
    std::vector<int> order(V);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return z[a] > z[b]; });
    std::vector<char> head(V, 0);
    for (int i = 0; i < std::min(k, V); i++) head[order[i]] = 1;
    return head;
}

LossRow reference_row(const double* z, int x, const std::vector<char>& head, const LossShape& s,
                      std::vector<double>& e) {
    const int top = int(std::max_element(z, z + s.V) - z);
    const double max = z[top];
    double head_sum = 0, tail_sum = 0, rest = 0, weighted = 0;
    for (int v = 0; v < s.V; v++) {
        const double u = (z[v] - max) / s.temperature;
        e[v] = std::exp(u);
        if (v != top) rest += e[v];
        if (v == x) continue;
        (head[v] ? head_sum : tail_sum) += e[v];
        weighted += e[v] > 0 ? e[v] * u : 0;
    }
    return loss_row(max / s.temperature, e[x], (z[x] - max) / s.temperature, head_sum, tail_sum,
                    rest, weighted, 1e-300, s);
}

} // namespace

void ref::loss_forward(Ctx&, View stats, const View& logits, const View& targets,
                       const LossShape& shape) {
    std::vector<double> e(shape.V);
    for (int64_t n = 0; n < logits.shape[0]; n++) {
        double* out = stats.as<double>() + n * stats.ld;
        const int x = targets.as<int32_t>()[n];
        const double* z = logits.as<double>() + n * logits.ld;
        if (x == kIgnoredTarget) std::fill(out, out + kLossStats, 0.0);
        else store_stats(out, reference_row(z, x, top_k(z, shape.V, shape.k), shape, e), 1);
    }
}

void ref::loss_forward_backward(Ctx&, View logits, View stats, const View& targets,
                                const View& scale, const View& old_logp, const LossShape& shape) {
    std::vector<double> e(shape.V);
    for (int64_t n = 0; n < logits.shape[0]; n++) {
        double* out = stats.as<double>() + n * stats.ld;
        double* z = logits.as<double>() + n * logits.ld;
        const int x = targets.as<int32_t>()[n];
        if (x == kIgnoredTarget) {
            std::fill(out, out + kLossStats, 0.0);
            std::fill(z, z + logits.shape[1], 0.0);
            continue;
        }
        const std::vector<char> head = top_k(z, shape.V, shape.k);
        const LossRow row = reference_row(z, x, head, shape, e);
        double weight = scale.as<double>()[n], ratio = 1;
        if (!old_logp.empty()) {
            ratio = grpo_ratio(-row.ce, old_logp.as<double>()[n]);
            weight = grpo_weight(weight, ratio, shape);
        }
        store_stats(out, row, ratio);
        const double S = std::accumulate(e.begin(), e.end(), 0.0);
        for (int v = 0; v < shape.V; v++) { // (13)
            const double lambda = head[v] ? shape.lambda_head : shape.lambda_tail;
            const double dJ = v == x ? row.target_gradient : e[v] / S * (lambda - row.reward);
            z[v] = weight == 0 ? 0 : -weight * dJ / shape.temperature;
        }
        std::fill(z + shape.V, z + logits.shape[1], 0.0);
    }
}
