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

bool group_is_kept(const std::vector<int>& correct) {
    const int right = std::accumulate(correct.begin(), correct.end(), 0);
    return right > 0 && right < int(correct.size());
}

std::vector<double> group_advantages(const std::vector<int>& correct, AdvantageForm form) {
    const double G = double(correct.size());
    std::vector<double> advantages(correct.size(), 0.0);
    if (!group_is_kept(correct)) return advantages;
    const double mean = std::accumulate(correct.begin(), correct.end(), 0) / G;
    double square_sum = 0;
    for (int c : correct) square_sum += (c - mean) * (c - mean);
    const double divisor = form == AdvantageForm::std ? std::sqrt(square_sum / (G - 1)) + 1e-6 : 1;
    for (size_t g = 0; g < correct.size(); g++)
        advantages[g] = (correct[g] - mean) / divisor; // (G1)
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
