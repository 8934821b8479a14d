// A micro-batch as views of the run's dtype, and the sums of its statistics.
#pragma once
#include "llmc/train/grpo.h"
#include "llmc/train/stage.h"

// Index and weight tensors of a micro-batch in the dtype of `ctx`; reused from call to call.
class MicroBatchViews {
  public:
    void fill(const Ctx& ctx, const MicroBatch& micro);
    Batch batch;
    View targets, scale, old_logp, stats; // old_logp empty where the micro-batch has none

  private:
    std::vector<int32_t> indices_;
    std::vector<double> values_; // as f32 or f64
};

// Means over the rows with a target, summed in row order.
struct StatSums {
    int64_t rows = 0, bytes = 0;
    double sum[kLossStats] = {};
    GrpoMetrics grpo;
    void add(const MicroBatch& micro, const View& stats, const LossShape& shape,
             const Tokenizer& tokenizer);
    double mean(LossStat stat) const { return rows ? sum[stat] / double(rows) : 0; }
    void write(Json& line) const; // loss, ppl, entropy, masses; in RL the ratio's figures
};
