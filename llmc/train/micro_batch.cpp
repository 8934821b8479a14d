// Contract: micro_batch.h.
#include "llmc/train/micro_batch.h"

#include <algorithm>
#include <cmath>

namespace {

void append_rows(MicroBatch& out, const MicroBatch& rows, int64_t begin, int64_t end) {
    const int32_t shift = int32_t(int64_t(out.tokens.size()) - begin);
    auto copy = [&](auto& to, const auto& from) {
        if (!from.empty()) to.insert(to.end(), from.begin() + begin, from.begin() + end);
    };
    copy(out.tokens, rows.tokens);
    copy(out.targets, rows.targets);
    copy(out.positions, rows.positions);
    copy(out.scale, rows.scale);
    copy(out.old_logp, rows.old_logp);
    copy(out.kl_weight, rows.kl_weight);
    for (int64_t n = begin; n < end; n++) out.doc_start.push_back(rows.doc_start[n] + shift);
}

void pad_rows(MicroBatch& m) {
    for (; m.tokens.size() % kRowMultiple != 0; m.padding++) {
        m.doc_start.push_back(int32_t(m.tokens.size()));
        m.tokens.push_back(0);
        m.targets.push_back(kIgnoredTarget);
        m.positions.push_back(0);
        if (!m.scale.empty()) m.scale.push_back(0);
        if (!m.old_logp.empty()) m.old_logp.push_back(0);
        if (!m.kl_weight.empty()) m.kl_weight.push_back(0);
    }
}

} // namespace

MicroBatch text_rows(PackedRows packed) {
    return {std::move(packed.tokens),
            std::move(packed.targets),
            std::move(packed.positions),
            std::move(packed.doc_start),
            {},
            {},
            {},
            {},
            0};
}

std::vector<MicroBatch> cut_rows(const MicroBatch& rows, int part, int parts, int64_t room) {
    const int64_t N = int64_t(rows.tokens.size());
    std::vector<MicroBatch> cut;
    for (int64_t begin = 0, end; begin < N; begin = end) { // document by document
        end = begin + 1;
        while (end < N && rows.doc_start[end] == rows.doc_start[begin]) end++;
        if ((begin + end) / 2 * parts / N != part) continue;
        if (cut.empty() || int64_t(cut.back().tokens.size()) + end - begin > room)
            cut.emplace_back();
        append_rows(cut.back(), rows, begin, end);
    }
    for (MicroBatch& m : cut) pad_rows(m);
    return cut;
}

constexpr Segment kRows = Segment::activations;

MicroBatchViews::MicroBatchViews(Ctx& ctx, int64_t rows)
    : tokens_(ctx, kRows, Dtype::i32, "tokens", rows),
      positions_(ctx, kRows, Dtype::i32, "positions", rows),
      doc_start_(ctx, kRows, Dtype::i32, "doc_start", rows),
      targets_(ctx, kRows, Dtype::i32, "targets", rows),
      scale_(ctx, kRows, ctx.dtype(), "scale", rows),
      old_logp_(ctx, kRows, ctx.dtype(), "old_logp", rows),
      stats_(ctx, kRows, ctx.dtype(), "stats", rows, kLossStats) {}

void MicroBatchViews::fill(const MicroBatch& m) {
    batch = {tokens_.give(m.tokens), positions_.give(m.positions), doc_start_.give(m.doc_start)};
    batch.padding = m.padding;
    const int64_t N = int64_t(m.tokens.size());
    targets = targets_.give(m.targets);
    scale = m.scale.empty() ? scale_.use(N) : scale_.give(m.scale);
    old_logp = m.old_logp.empty() ? View{} : old_logp_.give(m.old_logp);
    stats = stats_.use(N);
}

View MicroBatchViews::read_stats() {
    stats_.to_host();
    return stats_.host();
}

void MicroBatchViews::weigh_kl(const MicroBatch& m, const LossShape& shape) {
    const View seen = read_stats();
    for (size_t n = 0; n < m.targets.size(); n++) {
        if (m.targets[n] == kIgnoredTarget) continue;
        const double logp = -read_value(seen, int64_t(n) * seen.ld + kStatCe);
        const double ratio = grpo_ratio(logp, m.old_logp[n]);
        write_value(scale_.host(), int64_t(n),
                    grpo_weight(m.scale[n], ratio, shape) +
                        kl_gradient(m.kl_weight[n], logp, m.ref_logp[n]));
    }
    scale_.to_tensor();
    old_logp = View{};
}

void SavedRouting::add(Ctx& ctx, const TrainPass& pass, const ModelConfig& c,
                       const MicroBatch& micro) {
    experts_.resize(size_t(c.layers));
    chosen_ = c.experts_per_token;
    const int64_t rows = int64_t(micro.tokens.size()) - micro.padding;
    for (int l = 0; l < c.layers; l++) {
        const HostRead chosen(ctx, pass.acts(l).experts);
        const int32_t* first = chosen.view().as<int32_t>();
        experts_[size_t(l)].insert(experts_[size_t(l)].end(), first, first + rows * chosen_);
    }
}

void SavedRouting::write(const std::string& path) const {
    const int64_t layers = int64_t(experts_.size());
    const int64_t rows = layers > 0 ? int64_t(experts_[0].size()) / chosen_ : 0;
    std::vector<int32_t> all;
    for (const auto& layer : experts_) all.insert(all.end(), layer.begin(), layer.end());
    SafetensorsWriter writer(path, {{"experts", Dtype::i32, {layers, rows, chosen_}}});
    writer.append(all.data(), all.size() * sizeof(int32_t));
    writer.finish();
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
        if (m.ref_logp.empty()) continue;
        has_kl = true;
        kl += kl_estimate(-stat(kStatCe), m.ref_logp[n]);
    }
}

void StatSums::all_sum(Comm& comm) {
    GrpoMetrics& g = grpo;
    int64_t* counts[] = {&rows, &bytes, &g.tokens, &g.clip_low, &g.clip_high};
    double* sums[] = {&g.surrogate, &g.ratio, &g.k1, &g.k3, &kl};
    std::vector<double> all(sum, sum + kLossStats); // one message
    for (const int64_t* count : counts) all.push_back(double(*count));
    for (const double* value : sums) all.push_back(*value);
    comm.all_sum(make_view(all.data(), Dtype::f64, "statistics", int64_t(all.size())));
    const double* next = all.data();
    for (double& value : sum) value = *next++;
    for (int64_t* count : counts) *count = int64_t(*next++);
    for (double* value : sums) *value = *next++;
    g.ratio_max = comm.all_max(g.ratio_max);
    g.max_abs_dlogp = comm.all_max(g.max_abs_dlogp);
    has_kl = comm.any(has_kl);
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
    if (has_kl) line["kl"] = kl / tokens;
}
