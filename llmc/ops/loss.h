// The shaped loss: one op for pre-training, mid-training and RL. equations (1)-(13) in
// doc/equations.md; "Diversity or Precision?", arXiv 2512.22955 -> this contract -> reference in
// loss.cpp -> loss_cpu.cpp -> kernels in loss.cu, with loss_row.cuh, loss_topk.cuh -> cases in
// test/cases/loss.cpp, test/test_loss.cpp, test/test_loss_kernel.cpp.
//
// Row = logits z over V real columns of a padded width Vp, target x, p = softmax(z / temperature),
// q = 1 - p_x, K = the k largest logits, larger first, equal ones by lower index. Reward of
// answering a:
//
//   a = x          factor: q^beta / p_x        exponent: (1 / p_x)^(q^beta)         eq. (11)
//   a in K, not x  lambda_head
//   else           lambda_tail
//
// beta = lambda_head = lambda_tail = 0 is cross-entropy.
#pragma once
#include "llmc/device/host_device.h"
#include "llmc/ops/dispatch.h"

#include <cmath>

enum class RewardForm { factor, exponent };

struct LossShape {
    int V, k; // real columns, size of the head (k >= V: all)
    double beta, lambda_head, lambda_tail;
    RewardForm form;
    double temperature;
    double clip_low, clip_high; // of the GRPO ratio, where old_logp is given
};

// Columns of `stats`, per row; ignored rows hold zeros.
enum LossStat {
    kStatCe,       // -ln p_x, nats
    kStatEntropy,  // -sum_a p_a ln p_a, nats
    kStatLse,      // ln sum_a exp(z_a / temperature)
    kStatQ,        // 1 - p_x, as the sum over the others
    kStatHeadMass, // P(K without x)
    kStatTailMass, // 1 - p_x - P(K without x)
    kStatReward,   // W = sum_a p_a r_a
    kStatRatio,    // rho = exp(clamp(-ce - old_logp, -20, 20)), 1 without old_logp
    kLossStats
};

constexpr int32_t kIgnoredTarget = -100;

namespace ref {

// Statistics of every row; the logits stay as they are.
//   stats   (N, kLossStats) f32  written
//   logits  (N, Vp)         X
//   targets (N)             i32  0 <= target < V, or kIgnoredTarget
// Rows are independent of N. A row with NaN, +inf or nothing but -inf gets NaN in its statistics.
void loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                  const LossShape& shape);

// The same statistics, and dlogits_j = -weight * p_j (r_j - W) / temperature in place of the
// logits, with rewards held constant (stop-gradient).
//   logits   (N, Vp)         X    in: logits; out: dlogits, columns V..Vp-1 written as 0
//   stats    (N, kLossStats) f32  written
//   targets  (N)             i32
//   scale    (N)             f32  upstream weight; any sign. 0 and ignored rows: dlogits 0
//   old_logp (N)             f32  or empty. Given: weight = scale * rho, or 0 where the clipped
//                                 surrogate is flat (rho > 1 + clip_high and scale > 0, rho < 1 -
//                                 clip_low and scale < 0); else weight = scale
void loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                           const View& scale, const View& old_logp, const LossShape& shape);

} // namespace ref

DECLARE_KERNEL_OP(loss_forward)
DECLARE_KERNEL_OP(loss_forward_backward)

// Per-row scalars in double, shared by the executions: what follows from the three sums of a row.
struct LossRow {
    double ce, entropy, lse, q, head_mass, tail_mass, reward;
    double target_gradient; // dJ/dz_x = p_x (r_x - W)
};
// Sums over the columns but x, relative to the row's maximum: head = sum over K of e_j = exp(u_j),
// tail = the others, weighted = sum of e_j u_j; u_j = (z_j - max) / temperature; `max` is already
// divided too; rest = sum of e_j over all columns but one that holds the maximum; smallest_q: q is
// taken for no less in its power, whose logarithm must be finite.
HOST_DEVICE inline LossRow loss_row(double max, double target_e, double target_u, double head,
                                    double tail, double rest, double weighted, double smallest_q,
                                    const LossShape& shape) {
    const double others = head + tail, S = others + target_e;
    LossRow row;
    // 1 - p_x only as the complement's sum: it stays exact where p_x rounds to 1.
    row.q = others / S;
    row.head_mass = head / S;
    row.tail_mass = tail / S;
    row.lse = max + std::log(S);
    const double p = target_e / S;
    // Likely target: the ratio form keeps a small loss exact.
    row.ce = target_e > others ? std::log1p(others / target_e) : std::log(S) - target_u;
    // ln S = log1p(rest), and no u is positive: a sum of positive terms, so small entropies are
    // exact too.
    row.entropy = std::log1p(rest) - (weighted + (target_e > 0 ? target_e * target_u : 0)) / S;
    const double q = row.q < smallest_q ? smallest_q : row.q;
    const double focus = shape.beta == 0 ? 1 : std::pow(q, shape.beta);
    // p_x r_x, eq. (11): q^beta, or p_x^(1 - q^beta)
    const double share = shape.form == RewardForm::factor || shape.beta == 0
                             ? focus
                             : std::exp((focus - 1) * row.ce);
    const double wrong = shape.lambda_head * row.head_mass + shape.lambda_tail * row.tail_mass;
    row.reward = share + wrong;                      // (12): W
    row.target_gradient = share * row.q - p * wrong; // (13): p_x (r_x - W) without its cancellation
    if (row.q != row.q) row.reward = row.target_gradient = row.q; // pow(NaN, 0) is 1
    return row;
}

// kLossStats of a row.
template <class Real>
HOST_DEVICE inline void store_stats(Real* stats, const LossRow& row, double ratio) {
    stats[kStatCe] = Real(row.ce);
    stats[kStatEntropy] = Real(row.entropy);
    stats[kStatLse] = Real(row.lse);
    stats[kStatQ] = Real(row.q);
    stats[kStatHeadMass] = Real(row.head_mass);
    stats[kStatTailMass] = Real(row.tail_mass);
    stats[kStatReward] = Real(row.reward);
    stats[kStatRatio] = Real(ratio);
}

HOST_DEVICE inline double grpo_ratio(double logp, double old_logp) {
    const double d = logp - old_logp;
    return std::exp(d < -20 ? -20 : d > 20 ? 20 : d);
}

HOST_DEVICE inline double grpo_weight(double scale, double ratio, const LossShape& shape) {
    if (scale > 0 && ratio > 1 + shape.clip_high) return 0;
    if (scale < 0 && ratio < 1 - shape.clip_low) return 0;
    return scale * ratio;
}
