// GRPO: from graded answers to row weights. equations (G1)-(G8) in doc/equations.md; Shao et al.,
// arXiv 2402.03300; clip-higher, dynamic sampling and token-mean, DAPO, arXiv 2503.14476; without
// the standard deviation, Dr. GRPO, arXiv 2503.20783.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

enum class Aggregation { token_mean, seq_mean, constant };
Aggregation aggregation(const std::string& name);

// What becomes of an answer that reached the length limit without a stop token.
//   wrong   counts as wrong, whatever it says    masked  so too, and is not trained on
//   graded  counts as what it says               soft    graded, with a penalty for length
enum class Overlong { wrong, graded, masked, soft };
Overlong overlong_rule(const std::string& name);
bool counts_as_right(bool right, bool truncated, Overlong rule);

// Added to the reward of an answer of `length` tokens under Overlong::soft: 0 up to max_len -
// buffer, falling linearly to -1 at max_len, eq. (G8); DAPO eq. (13).
double length_penalty(int64_t length, int64_t max_len, int64_t buffer);

// A group is kept iff some but not all of its G answers are right: others have no gradient.
bool group_is_kept(const std::vector<int>& correct);

// Advantages of one group, eq. (G1): reward - mean, and with AdvantageForm::std divided by (std
// with n-1 + eps). All 0 where the rewards are equal.
enum class AdvantageForm { std, nostd };
std::vector<double> group_advantages(const std::vector<double>& rewards, AdvantageForm form,
                                     double eps);

// What every token of a kept sequence counts in the step's loss, eq. (G2)-(G4): row weight =
// advantage times this.
//   lengths  answer tokens of every kept sequence of the step
//   max_len  longest possible answer, for `constant`
std::vector<double> token_weights(const std::vector<int64_t>& lengths, int64_t max_len,
                                  Aggregation aggregation);

// What one token's ln p weighs because of the KL term to the reference, eq. (G7): kl_weight =
// coefficient times its token weight.
double kl_gradient(double kl_weight, double new_logp, double ref_logp);
// The k3 estimate of KL(new || reference) at one token: exp(e) - 1 - e, e = ref - new.
double kl_estimate(double new_logp, double ref_logp);

// Sums over answer tokens; rates are sums / tokens.
struct GrpoMetrics {
    int64_t tokens = 0, clip_low = 0, clip_high = 0; // ratio cut below (A < 0), above (A > 0)
    double surrogate = 0;                            // sum of weight * min(rho A, clip(rho) A) / A
    double ratio = 0, ratio_max = 0, k1 = 0, k3 = 0, max_abs_dlogp = 0;
    void add(double weight, double new_logp, double old_logp, double clip_low_width,
             double clip_high_width);
};
