// Contract: micro_batch.h.
#include "llmc/train/micro_batch.h"

#include <cmath>

void MicroBatchViews::fill(const Ctx& ctx, const MicroBatch& m) {
    const int64_t N = int64_t(m.tokens.size());
    const Dtype x = ctx.dtype();
    indices_.resize(4 * N);
    auto index = [&](int slot, const std::vector<int32_t>& values, const char* name) {
        std::copy(values.begin(), values.end(), indices_.begin() + slot * N);
        return make_view(indices_.data() + slot * N, Dtype::i32, name, N);
    };
    batch = {index(0, m.tokens, "tokens"), index(1, m.positions, "positions"),
             index(2, m.doc_start, "doc_start")};
    targets = index(3, m.targets, "targets");
    values_.resize((2 + kLossStats) * N);
    auto value = [&](int slot, const std::vector<double>& values, const char* name) {
        View view = make_view(values_.data() + slot * N, x, name, N);
        for (size_t i = 0; i < values.size(); i++) write_value(view, int64_t(i), values[i]);
        return view;
    };
    scale = value(0, m.scale, "scale");
    old_logp = m.old_logp.empty() ? View{} : value(1, m.old_logp, "old_logp");
    stats = make_view(values_.data() + 2 * N, x, "stats", N, kLossStats);
}

void StatSums::add(const MicroBatch& m, const View& stats, const LossShape& shape,
                   const Tokenizer& tokenizer) {
    for (size_t n = 0; n < m.targets.size(); n++) {
        if (m.targets[n] == kIgnoredTarget) continue;
        auto stat = [&](int i) { return read_value(stats, int64_t(n) * stats.ld + i); };
        rows++;
        bytes += tokenizer.bytes_of(m.targets[n]);
        for (int i = 0; i < kLossStats; i++) sum[i] += stat(i);
        if (!m.old_logp.empty())
            grpo.add(m.scale[n], -stat(kStatCe), m.old_logp[n], shape.clip_low, shape.clip_high);
    }
}

void StatSums::write(Json& line) const {
    if (rows == 0) return; // an RL step no group of which was kept
    line["loss"] = mean(kStatCe);
    line["ppl"] = std::exp(mean(kStatCe));
    line["entropy"] = mean(kStatEntropy);
    if (grpo.tokens == 0) {
        line["expected_reward"] = mean(kStatReward);
        line["head_mass"] = mean(kStatHeadMass);
        line["tail_mass"] = mean(kStatTailMass);
        return;
    }
    const double tokens = double(grpo.tokens);
    line["surrogate"] = grpo.surrogate;
    line["ratio_mean"] = grpo.ratio / tokens;
    line["ratio_max"] = grpo.ratio_max;
    line["clip_low"] = double(grpo.clip_low) / tokens;
    line["clip_high"] = double(grpo.clip_high) / tokens;
    line["k1"] = grpo.k1 / tokens;
    line["k3"] = grpo.k3 / tokens;
    line["max_abs_dlogp"] = grpo.max_abs_dlogp;
}
