// Log-probabilities of given texts, by the training forward.
#pragma once
#include "llmc/device/memory.h"
#include "llmc/model/train_pass.h"

struct TokenScores {
    std::vector<double> logp, entropy; // of every token but the first, nats
};

class Scorer {
  public:
    // longest: tokens of the longest text.
    Scorer(Ctx& ctx, Model& model, int64_t longest);
    // One entry per text. A text's figures do not depend on the others.
    std::vector<TokenScores> score(const std::vector<std::vector<int32_t>>& texts,
                                   double temperature);

    // Every logit of every text, for comparing with other programs: PATH is a safetensors file with
    // tokens.I (T) and logits.I (T, V) F32 of text I.
    void write_logits(const std::string& path, const std::vector<std::vector<int32_t>>& texts);

  private:
    // Texts begin..end-1 packed; returns the rows.
    int64_t forward(const std::vector<std::vector<int32_t>>& texts, size_t begin, size_t end,
                    std::vector<int32_t>& targets);
    void score_rows(const std::vector<std::vector<int32_t>>& texts, size_t begin, size_t end,
                    double temperature, std::vector<TokenScores>& scores);
    Ctx& ctx_;
    Model& model_;
    int64_t rows_;
    TrainPass pass_;
    Mirror tokens_, positions_, doc_start_, targets_, stats_;
};
