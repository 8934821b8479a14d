// The shaped loss: one op for pre-training, mid-training and RL. equations (1)-(13) in
// doc/equations.md; "Diversity or Precision?", arXiv 2512.22955 -> this contract -> reference in
// loss.cpp -> loss_cpu.cpp -> cases in test/cases/loss.cpp, test/test_loss.cpp.
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
#include "llmc/ops/dispatch.h"

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
//   stats   (N, kLossStats) X  written
//   logits  (N, Vp)         X
//   targets (N)             i32, 0 <= target < V or kIgnoredTarget
// Rows are independent of N. A row with NaN, +inf or nothing but -inf gets NaN in its statistics.
void loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                  const LossShape& shape);

// The same statistics, and dlogits_j = -weight * p_j (r_j - W) / temperature in place of the
// logits, with rewards held constant (stop-gradient).
//   logits   (N, Vp)         X  in: logits; out: dlogits, columns V..Vp-1 written as 0
//   stats    (N, kLossStats) X  written
//   targets  (N)             i32
//   scale    (N)             X  upstream weight; any sign. 0 and ignored rows: dlogits 0
//   old_logp (N)             X  or empty. Given: weight = scale * rho, or 0 where the clipped
//                               surrogate is flat (rho > 1 + clip_high and scale > 0, rho < 1 -
//                               clip_low and scale < 0); else weight = scale
void loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                           const View& scale, const View& old_logp, const LossShape& shape);

} // namespace ref

DECLARE_OP(loss_forward)
DECLARE_OP(loss_forward_backward)

// Per-row scalars in double, shared by the executions: what follows from the three sums of a row.
struct LossRow {
    double ce, entropy, lse, q, head_mass, tail_mass, reward;
    double target_gradient; // dJ/dz_x = p_x (r_x - W)
};
// Sums over the columns but x, relative to the row's maximum: head = sum over K of e_j = exp(u_j),
// tail = the others, weighted = sum of e_j u_j; u_j = (z_j - max) / temperature; `max` is already
// divided too; rest = sum of e_j over all columns but one that holds the maximum.
LossRow loss_row(double max, double target_e, double target_u, double head, double tail,
                 double rest, double weighted, double smallest_q, const LossShape& shape);
double grpo_ratio(double logp, double old_logp);
double grpo_weight(double scale, double ratio, const LossShape& shape);
