// One transformer block, forward and backward: the ops in their order, and where each value lives.
#pragma once
#include "llmc/model/params.h"

#include <functional>

// The tensors of a pass.
class BufferPool {
  public:
    BufferPool(Arena& arena, Segment segment) : arena_(arena), segment_(segment) {}
    View make(Dtype dtype, const char* name, int64_t n0);
    View make(Dtype dtype, const char* name, int64_t n0, int64_t n1);

    // From now on tensors lie in `place`, memory of a tensor that is not used as long as they are,
    // where one still fits; an empty view ends that. The others are the pool's own.
    void lend(const View& place);

  private:
    void* take_lent(int64_t elements, Dtype dtype); // null: does not fit

    Arena& arena_;
    Segment segment_;
    std::vector<Buffer> buffers_;
    char* lent_ = nullptr;
    size_t lent_bytes_ = 0;
};

// What a pass keeps of a block until its backward. The rest is computed again there, by the same
// ops from the same values: no bit changes. Named as the values of the key -recompute.
enum class Recompute {
    no,        // everything
    selective, // results of products, attention and routing, not what element-wise ops make of
               // them: much memory, little arithmetic; Korthikanti et al., arXiv 2205.05198
    yes,       // the stream that enters
};

// What one block computes and its backward reads. F = the block's or an expert's ffn width.
//
//   stream -> [norm] attention_in -> qkv -> qk (normed, rotated) -> attention_out -o-> (+)
//   stream_mid stream_mid -> [norm] ffn_in -> gate_up -> act -down-> (+) next block's stream
struct BlockActs {
    View stream, stream_mid;      // (N, C)
    View qkv, attention_out, lse; // (N, (H+2HKV)D) (N, HD) (N, H)
    View gate_up;                 // (N, 2F); MoE: (S, 2F), sorted by expert
    // Of element-wise ops
    View attention_in, attention_rstd, ffn_in, ffn_rstd; // (N, C) (N) (N, C) (N)
    View qk, qk_rstd;                                    // (N, (H+HKV)D) (N, H+HKV)
    View act;                                            // (N, F); MoE: (S, F)
    // MoE
    View router_logits, scores, expert_weights; // (N, E) (N, E) (N, K)
    View experts, offsets, slot_row, row_slot;  // i32: (N, K) (E+1) (S) (N, K)
    View slots;                                 // (S, C) experts' outputs
};
// What is kept is made in `kept`, the rest in `shared`, once: by the first block, whose `before` is
// null, for all. `stream` is left to the caller.
BlockActs make_block_acts(BufferPool& kept, BufferPool& shared, const ModelConfig& config,
                          const Ctx& ctx, int64_t N, Recompute recompute, const BlockActs* before);
BlockActs first_rows(const BlockActs& acts, const ModelConfig& config, int64_t N);

// Temporaries of the backward, shared by all blocks.
struct BlockGrads {
    View dstream, dnorm;            // (N, C)
    View dattention_out, dqk, dqkv; // as their forward
    View dact;                      // as its forward; dgate_up takes the place of gate_up
    View dslots, dweights, dlogits; // MoE: (S, C) (N, K) (N, E)
};
BlockGrads make_block_grads(BufferPool& pool, const ModelConfig& config, const Ctx& ctx, int64_t N);
BlockGrads first_rows(const BlockGrads& grads, const ModelConfig& config, int64_t N);

// Reads acts.qk and the v columns of acts.qkv, writes acts.attention_out (and lse in training).
using Attend = std::function<void(const BlockActs& acts)>;

// Column bands of the fused projections.
View q_columns(const View& qk, const ModelConfig& config);
View k_columns(const View& qk, const ModelConfig& config);
View v_columns(const View& qkv, const ModelConfig& config);

// Runs one block. The stream that enters is inp + delta (delta empty: inp, which must then be
// acts.stream itself); the block's own contribution to the stream is left in `delta_out`.
//   delta_out (N, C) written; may be delta
//   rope      (max_positions, D), positions (N) i32
void block_forward(Ctx& ctx, const ModelConfig& config, const BlockParams& weights,
                   const BlockActs& acts, View delta_out, const View& inp, const View& delta,
                   const View& rope, const View& positions, const Attend& attend);

// grads.dstream enters as the gradient of the stream after the block and leaves as the gradient of
// the stream before it; weight gradients accumulate in dweights.
//   acts      of block_forward; selective: what element-wise ops give is computed here
//   recompute yes: the caller has run block_forward again
void block_backward(Ctx& ctx, const ModelConfig& config, const BlockParams& weights,
                    const BlockParams& dweights, const BlockActs& acts, const BlockGrads& grads,
                    const View& rope, const View& positions, const View& doc_start,
                    Recompute recompute);
