// Forward, loss and backward over packed rows: N = up to `rows` tokens of any number of documents.
#pragma once
#include "llmc/device/comm.h"
#include "llmc/model/block.h"
#include "llmc/model/model.h"
#include "llmc/ops/loss.h"

// Packed rows, (N) i32 each; attention of row n covers rows doc_start[n]..n.
struct Batch {
    View tokens, positions, doc_start;
    int64_t padding = 0; // last rows that are nobody's: not counted as tokens of an expert
};

struct PassSettings {
    int64_t rows;      // largest N
    int64_t loss_rows; // rows whose logits exist at a time
    bool backward;     // keep what the backward needs, own gradients
    Recompute recompute;
    Comm* shards = nullptr; // gradients are sharded over these ranks (ZeRO-2), else whole
    // No step has a second micro-batch, whose activations would have to exist beside the first
    // one's gradients.
    bool one_micro_batch = false;
};

// Tensors that are never in use at the same time share memory. In place of
//
//                          forward        loss           backward above l       of l and below
//   logits                 not kept       logits         not kept, BlockGrads   the same
//   gradients of block l   kept of l + 1  kept of l + 1  kept of l + 1          gradients
//
// lies what a block keeps of its activations or does not (Recompute); above the last block comes
// the final norm. The second line: where a step has one micro-batch and gradients are whole.
class TrainPass {
  public:
    TrainPass(Ctx& ctx, Model& model, const PassSettings& settings);

    // Leaves the final hidden states of the batch; counts routed tokens where `count_experts`.
    void forward(const Batch& batch, bool count_experts);

    // Statistics of the shaped loss for the batch of the last forward (ops/loss.h), in chunks.
    //   stats (N, kLossStats) written, targets (N) i32
    void loss_forward(View stats, const View& targets, const LossShape& shape);

    // The same, then the gradient of sum_n scale[n] * loss[n], added to the gradients.
    //   scale (N) X, old_logp (N) X or empty
    // Sharded: all ranks call it together, or backward_of_nothing().
    void loss_backward(View stats, const View& targets, const View& scale, const View& old_logp,
                       const LossShape& shape);

    // Logits of rows begin.. of the last forward: out (M, Vp).
    void logits_forward(View out, int64_t begin);

    // A rank's part in the backward of others where it has no micro-batch itself.
    void backward_of_nothing();

    // Whole: this rank's sum over micro-batches is in `grads` until summed_grads exchanges it.
    // Sharded (ZeRO-2, arXiv 1910.02054): `grads` has room for one block, and for embedding and
    // norms; what a block's backward leaves there goes to its owners at once, so that a rank keeps
    // the sum of its own part alone, and every micro-batch has its exchange.
    // One micro-batch: the next forward writes over them.
    void zero_grads();
    ParamSet& grads() { return *grads_; }
    // This rank's part, shard() of the trained weights, of the sum over ranks; spoils the rest.
    View summed_grads(Comm& comm);
    View hidden() const { return hidden_.slice_rows(0, N_); } // (N, C) after the final norm
    View stream(int layer) const; // (N, C) entering block `layer`; layer L: not kept
    const BlockActs& acts(int layer) const { return layers_[layer]; }
    View expert_counts() const { return expert_counts_; } // (L, E) i32, empty if dense
    int64_t rows() const { return settings_.rows; }
    bool sharded() const { return settings_.shards != nullptr; }

  private:
    void make_gradients();
    void make_activations();
    void zero_blocks(); // with lends_gradients()
    bool lends_gradients() const {
        return settings_.backward && settings_.one_micro_batch && !sharded();
    }
    size_t scratch_bytes(); // that a batch of settings.rows takes of ctx.scratch
    void run_block(int layer, const View& inp, const View& delta, const BlockActs& acts);
    void backward();
    void open_span(const Span& span);  // sharded: zeroes the place of these gradients
    void close_span(const Span& span); // sharded: adds them to their owners' sums

    Ctx& ctx_;
    Model& model_;
    PassSettings settings_;
    BufferPool pool_, shared_;      // shared_: in place of logits first
    std::vector<BlockActs> layers_; // what is not kept is shared by all
    BlockGrads block_grads_;
    View delta_, hidden_, hidden_rstd_, final_stream_, logits_, dhidden_, expert_counts_;
    std::unique_ptr<ParamSet> grads_;
    Buffer own_grads_; // sharded: (own)
    Buffer logits_memory_;
    Batch batch_;
    int64_t N_ = 0;
    bool blocks_have_gradients_ = false; // since zero_grads()
};
