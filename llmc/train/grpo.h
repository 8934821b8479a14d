// GRPO: from graded answers to row weights. equations (G1)-(G6) in doc/equations.md; Shao et al.,
// arXiv 2402.03300; clip-higher, dynamic sampling and token-mean, DAPO, arXiv 2503.14476; without
// the standard deviation, Dr. GRPO, arXiv 2503.20783.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

enum class Aggregation { token_mean, seq_mean, constant };
Aggregation aggregation(const std::string& name);

// A group is kept iff some but not all of its G answers are right: others have no gradient.
bool group_is_kept(const std::vector<int>& correct);

// Advantages of one group, eq. (G1): reward - mean, divided by (std with n-1 + 1e-6) where `std`
// is true; all 0 for a group that is not kept.
enum class AdvantageForm { std, nostd };
std::vector<double> group_advantages(const std::vector<int>& correct, AdvantageForm form);

// What every token of a kept sequence counts in the step's loss, eq. (G2)-(G4): row weight =
// advantage times this.
//   lengths  answer tokens of every kept sequence of the step
//   max_len  longest possible answer, for `constant`
std::vector<double> token_weights(const std::vector<int64_t>& lengths, int64_t max_len,
                                  Aggregation aggregation);

// Sums over answer tokens; rates are sums / tokens.
struct GrpoMetrics {
    int64_t tokens = 0, clip_low = 0, clip_high = 0; // ratio cut below (A < 0), above (A > 0)
    double surrogate = 0;                            // sum of weight * min(rho A, clip(rho) A) / A
    double ratio = 0, ratio_max = 0, k1 = 0, k3 = 0, max_abs_dlogp = 0;
    void add(double weight, double new_logp, double old_logp, double clip_low_width,
             double clip_high_width);
};
