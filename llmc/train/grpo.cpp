// Contract: grpo.h.
#include "llmc/train/grpo.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

Aggregation aggregation(const std::string& name) {
    if (name == "seq_mean") return Aggregation::seq_mean;
    if (name == "constant") return Aggregation::constant;
    require(name == "token_mean", "aggregation: \"%s\"", name.c_str());
    return Aggregation::token_mean;
}

Overlong overlong_rule(const std::string& name) {
    if (name == "graded") return Overlong::graded;
    if (name == "masked") return Overlong::masked;
    if (name == "soft") return Overlong::soft;
    require(name == "wrong", "overlong_rule: \"%s\"", name.c_str());
    return Overlong::wrong;
}

bool counts_as_right(bool right, bool truncated, Overlong rule) {
    const bool judged = rule == Overlong::graded || rule == Overlong::soft || !truncated;
    return right && judged;
}

double length_penalty(int64_t length, int64_t max_len, int64_t buffer) {
    require(buffer > 0 && buffer <= max_len, "length_penalty: buffer %ld of %ld", long(buffer),
            long(max_len));
    return std::clamp(double(max_len - buffer - length) / double(buffer), -1.0, 0.0); // (G8)
}

bool group_is_kept(const std::vector<int>& correct) {
    const int right = std::accumulate(correct.begin(), correct.end(), 0);
    return right > 0 && right < int(correct.size());
}

std::vector<double> group_advantages(const std::vector<double>& rewards, AdvantageForm form,
                                     double eps) {
    const double G = double(rewards.size());
    std::vector<double> advantages(rewards.size(), 0.0);
    const auto [least, most] = std::minmax_element(rewards.begin(), rewards.end());
    if (rewards.empty() || *least == *most) return advantages;
    const double mean = std::accumulate(rewards.begin(), rewards.end(), 0.0) / G;
    double square_sum = 0;
    for (double r : rewards) square_sum += (r - mean) * (r - mean);
    const double divisor = form == AdvantageForm::std ? std::sqrt(square_sum / (G - 1)) + eps : 1;
    for (size_t g = 0; g < rewards.size(); g++)
        advantages[g] = (rewards[g] - mean) / divisor; // (G1)
    return advantages;
}

std::vector<double> token_weights(const std::vector<int64_t>& lengths, int64_t max_len,
                                  Aggregation how) {
    const double sequences = double(lengths.size());
    const double tokens = double(std::accumulate(lengths.begin(), lengths.end(), int64_t(0)));
    std::vector<double> weights;
    for (int64_t length : lengths) {
        double weight = 1 / tokens;                                                   // (G2)
        if (how == Aggregation::seq_mean) weight = 1 / (sequences * double(length));  // (G3)
        if (how == Aggregation::constant) weight = 1 / (sequences * double(max_len)); // (G4)
        weights.push_back(weight);
    }
    return weights;
}

double kl_gradient(double kl_weight, double new_logp, double ref_logp) {
    return kl_weight * std::expm1(std::clamp(ref_logp - new_logp, -20.0, 20.0)); // (G7)
}

double kl_estimate(double new_logp, double ref_logp) {
    const double e = std::clamp(ref_logp - new_logp, -20.0, 20.0);
    return std::expm1(e) - e;
}

void GrpoMetrics::add(double weight, double new_logp, double old_logp, double low, double high) {
    const double d = new_logp - old_logp, rho = std::exp(std::clamp(d, -20.0, 20.0));
    const double clipped = std::clamp(rho, 1 - low, 1 + high);
    tokens++;
    surrogate += std::min(rho * weight, clipped * weight); // (G5)
    clip_low += rho < 1 - low && weight < 0;
    clip_high += rho > 1 + high && weight > 0;
    ratio += rho;
    ratio_max = std::max(ratio_max, rho);
    k1 -= d; // (G6)
    k3 += std::expm1(d) - d;
    max_abs_dlogp = std::max(max_abs_dlogp, std::fabs(d));
}
