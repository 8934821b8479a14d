// Contract: score.h.
#include "llmc/rollout/score.h"

#include "llmc/core/error.h"
#include "llmc/core/safetensors.h"

#include <algorithm>

constexpr int64_t kScoreRows = 1024; // tokens of one forward, where no text is longer

constexpr Segment kRows = Segment::activations;

Scorer::Scorer(Ctx& ctx, Model& model, int64_t longest)
    : ctx_(ctx), model_(model), rows_(std::max(longest, kScoreRows)),
      pass_(ctx, model, {rows_, kScoreRows, false, Recompute::yes}),
      tokens_(ctx, kRows, Dtype::i32, "tokens", rows_),
      positions_(ctx, kRows, Dtype::i32, "positions", rows_),
      doc_start_(ctx, kRows, Dtype::i32, "doc_start", rows_),
      targets_(ctx, kRows, Dtype::i32, "targets", rows_),
      stats_(ctx, kRows, ctx.dtype(), "stats", rows_, kLossStats) {
    if (longest > model.config.max_positions)
        fatal(format("score: a text of %ld tokens, the model has %d positions", long(longest),
                     model.config.max_positions),
              "score shorter texts");
}

std::vector<TokenScores> Scorer::score(const std::vector<std::vector<int32_t>>& texts,
                                       double temperature) {
    std::vector<TokenScores> scores(texts.size());
    for (size_t begin = 0, end; begin < texts.size(); begin = end) {
        int64_t rows = int64_t(texts[begin].size());
        for (end = begin + 1; end < texts.size(); end++) {
            rows += int64_t(texts[end].size());
            if (rows > rows_) break;
        }
        score_rows(texts, begin, end, temperature, scores);
    }
    return scores;
}

int64_t Scorer::forward(const std::vector<std::vector<int32_t>>& texts, size_t begin, size_t end,
                        std::vector<int32_t>& targets) {
    std::vector<int32_t> tokens, positions, doc_start;
    for (size_t t = begin; t < end; t++) {
        const int32_t start = int32_t(tokens.size());
        for (size_t i = 0; i < texts[t].size(); i++) {
            tokens.push_back(texts[t][i]);
            positions.push_back(int32_t(i));
            doc_start.push_back(start);
            targets.push_back(i + 1 < texts[t].size() ? texts[t][i + 1] : kIgnoredTarget);
        }
    }
    const int64_t N = int64_t(tokens.size());
    require(N <= rows_, "Scorer: %ld rows, room for %ld", long(N), long(rows_));
    if (N > 0)
        pass_.forward(
            {tokens_.give(tokens), positions_.give(positions), doc_start_.give(doc_start)}, false);
    return N;
}

void Scorer::score_rows(const std::vector<std::vector<int32_t>>& texts, size_t begin, size_t end,
                        double temperature, std::vector<TokenScores>& scores) {
    std::vector<int32_t> targets;
    const int64_t N = forward(texts, begin, end, targets);
    if (N == 0) return;
    LossShape shape{};
    shape.V = model_.config.vocab;
    shape.k = 1;
    shape.temperature = temperature;
    pass_.loss_forward(stats_.use(N), targets_.give(targets), shape);
    stats_.to_host();
    const View stats = stats_.host();
    int64_t n = 0;
    for (size_t t = begin; t < end; t++)
        for (size_t i = 0; i < texts[t].size(); i++, n++) {
            if (i + 1 == texts[t].size()) continue;
            scores[t].logp.push_back(-read_value(stats, n * kLossStats + kStatCe));
            scores[t].entropy.push_back(read_value(stats, n * kLossStats + kStatEntropy));
        }
}

void Scorer::write_logits(const std::string& path, const std::vector<std::vector<int32_t>>& texts) {
    const int64_t V = model_.config.vocab;
    std::vector<SafetensorsWriter::Spec> specs;
    for (size_t t = 0; t < texts.size(); t++) {
        const int64_t T = int64_t(texts[t].size());
        specs.push_back({format("tokens.%zu", t), Dtype::i32, {T}});
        specs.push_back({format("logits.%zu", t), Dtype::f32, {T, V}});
    }
    SafetensorsWriter writer(path, specs);
    for (size_t t = 0; t < texts.size(); t++) {
        std::vector<int32_t> targets;
        const int64_t T = forward(texts, t, t + 1, targets);
        const Buffer logits(ctx_.arena, Segment::logits, ctx_.storage(), "logits", T,
                            model_.config.padded_vocab());
        pass_.logits_forward(logits.view(), 0);
        const HostRead seen(ctx_, logits.view());
        std::vector<float> values(size_t(T * V));
        for (int64_t n = 0; n < T; n++) {
            const View row = seen.view().slice_rows(n, 1);
            convert_values(row.data, row.dtype, values.data() + n * V, Dtype::f32, V);
        }
        writer.append(texts[t].data(), size_t(T) * sizeof(int32_t));
        writer.append(values.data(), values.size() * sizeof(float));
    }
    writer.finish();
}
