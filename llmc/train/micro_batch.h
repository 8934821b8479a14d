// The rows of one forward and backward: cut from a batch, given to a pass, their statistics summed.
#pragma once
#include "llmc/core/safetensors.h"
#include "llmc/data/stream.h"
#include "llmc/device/comm.h"
#include "llmc/device/memory.h"
#include "llmc/model/train_pass.h"
#include "llmc/train/grpo.h"

// Vectors of N; old_logp is empty outside RL, kl_weight and ref_logp where no KL term is on. The
// last `padding` rows are documents of one ignored token each.
struct MicroBatch {
    std::vector<int32_t> tokens, targets, positions, doc_start;
    std::vector<double> scale, old_logp, kl_weight, ref_logp;
    int64_t padding = 0;
};

// Rows are padded to a multiple of 256, so that few GEMM shapes are prepared.
constexpr int64_t kRowMultiple = 256;
inline int64_t padded_pass_rows(int64_t rows) { return round_up(rows, kRowMultiple); }

// Packed text as rows of no weight yet.
MicroBatch text_rows(PackedRows packed);

// Part `part` of `parts` of a batch's rows, cut between documents into micro-batches of at most
// `room` rows (one longer document is one micro-batch). The parts are about equal and make up the
// whole. Any member of `rows` but tokens may be empty.
std::vector<MicroBatch> cut_rows(const MicroBatch& rows, int part, int parts, int64_t room);
// Most rows that one of the parts of N rows has where no document is longer than `longest`.
inline int64_t part_rows(int64_t N, int parts, int64_t longest) {
    return parts == 1 ? N : std::min(N, N / parts + longest);
}

// Index and weight tensors of a micro-batch of at most `rows` rows, in the dtype of `ctx`; reused
// from call to call.
class MicroBatchViews {
  public:
    MicroBatchViews(Ctx& ctx, int64_t rows);
    void fill(const MicroBatch& micro);
    // With the statistics of a forward in `stats`: scale becomes each row's whole weight, GRPO's
    // and that of the KL term, and old_logp empty.
    void weigh_kl(const MicroBatch& micro, const LossShape& shape);
    View read_stats(); // the statistics as the host reads them; waits for them
    Batch batch;
    View targets, scale, old_logp, stats; // old_logp empty where the micro-batch has none

  private:
    Mirror tokens_, positions_, doc_start_, targets_, scale_, old_logp_, stats_;
};

// The experts that the rows of a step were given to, as safetensors beside its rows (write_rows):
// experts (L, rows, K) i32. For who wants to see a routing, or to repeat it elsewhere.
class SavedRouting {
  public:
    // Behind the forward of a micro-batch; not with recompute yes: one block's are kept at a time.
    void add(Ctx& ctx, const TrainPass& pass, const ModelConfig& config, const MicroBatch& micro);
    void write(const std::string& path) const;

  private:
    std::vector<std::vector<int32_t>> experts_; // by layer
    int64_t chosen_ = 0;                        // K
};

// Means over the rows with a target, summed in row order.
struct StatSums {
    int64_t rows = 0, bytes = 0;
    double sum[kLossStats] = {};
    double kl = 0; // estimates against the reference
    bool has_kl = false;
    GrpoMetrics grpo;
    void add(const MicroBatch& micro, const View& stats, const LossShape& shape,
             const Tokenizer& tokenizer);
    void all_sum(Comm& comm); // over the ranks
    double mean(LossStat stat) const { return rows ? sum[stat] / double(rows) : 0; }
    void write(Json& line) const; // loss, ppl, entropy, masses; in RL the ratio's figures
};
