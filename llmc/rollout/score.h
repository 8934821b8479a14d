// Log-probabilities of given texts, by the training forward.
#pragma once
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

  private:
    void score_rows(const std::vector<std::vector<int32_t>>& texts, size_t begin, size_t end,
                    double temperature, std::vector<TokenScores>& scores);
    Ctx& ctx_;
    Model& model_;
    int64_t rows_;
    TrainPass pass_;
};
