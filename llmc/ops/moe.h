// Mixture of experts: router, slots, grouped products, combine. equations (M1)-(M9) in
// doc/equations.md; auxiliary-loss-free balancing, Wang et al., arXiv 2408.15664 -> this contract
// -> moe_checks.cpp, moe.cpp (reference, slots) -> moe_cpu.cpp -> kernels in moe.cu (router, slots,
// biases), moe_grouped.cu, moe_rows.cu -> cases in test/cases/moe.cpp, test/test_moe.cpp. Routers
// are f32 throughout: near ties are decided in their last bits.
//
//   rows (N)  --router-->  experts (N, K), weights (N, K)
//   slots (S = N*K), sorted by expert, rows of an expert in ascending order:
//     | expert 0's rows | expert 1's rows | (expert 2: none) | expert 3's rows | ...
//     offsets: 0        o1                o2 = o3            o3
//     slot_row[s] = row a slot came from;  row_slot[n][k] = slot of row n's k-th expert
#pragma once
#include "llmc/ops/dispatch.h"

namespace ref {

// Scores and selection, eq. (M1)-(M3): score = sigmoid(logit); the K largest of score + bias,
// equal ones by lower index; weight = scale * score / (sum of the selected scores).
//   weights (N, K) f32  written
//   experts (N, K) i32  written, ascending
//   scores  (N, E) f32  written
//   logits  (N, E) f32
//   bias    (E)    f32  moves the selection only
// Stops with require() unless 1 <= K <= E.
void router_forward(Ctx& ctx, View weights, View experts, View scores, const View& logits,
                    const View& bias, double scale);

// Gradient through the weights of the selected experts, eq. (M4); others get 0.
//   dlogits           (N, E) f32  written
//   dweights, weights (N, K) f32
//   experts           (N, K) i32  of the forward, as are weights and scores
//   scores            (N, E) f32
void router_backward(Ctx& ctx, View dlogits, const View& dweights, const View& weights,
                     const View& experts, const View& scores, double scale);

// The stable counting sort of the drawing above. Dropless: every (row, expert) has a slot.
//   offsets (E+1), slot_row (S), row_slot (N, K)  i32, written
//   experts (N, K)                                i32
void slots_forward(Ctx& ctx, View offsets, View slot_row, View row_slot, const View& experts);

// out[s] = weight[expert of s] inp[slot_row[s]], eq. (M5). A slot's result does not depend on
// others.
//   out      (S, O)    X    written
//   inp      (M, C)    X
//   slot_row (S)       i32  or empty: inp[s]
//   weight   (E, O, C) X
//   offsets  (E+1)     i32
void grouped_linear_forward(Ctx& ctx, View out, const View& inp, const View& slot_row,
                            const View& weight, const View& offsets);

// Gradient, eq. (M6): dinp per slot (not summed over rows), dweight over the expert's slots.
//   dinp    (S, C)    X    written
//   dweight (E, O, C) f32  accumulated (+=), slots in ascending order
//   dout    (S, O)    X,   the others as in the forward
void grouped_linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
                             const View& slot_row, const View& weight, const View& offsets);

// out[n] = sum_k weights[n][k] slots[row_slot[n][k]], ascending k, eq. (M7).
//   out      (N, C) X    written
//   slots    (S, C) X
//   weights  (N, K) f32
//   row_slot (N, K) i32  a permutation of the slots
void moe_combine_forward(Ctx& ctx, View out, const View& slots, const View& weights,
                         const View& row_slot);

// Gradient of moe_combine_forward.
//   dslots   (S, C) X    written
//   dweights (N, K) f32  written
//   dout     (N, C) X,   the others as in the forward
void moe_combine_backward(Ctx& ctx, View dslots, View dweights, const View& dout, const View& slots,
                          const View& weights, const View& row_slot);

// dinp[n] = sum_k dslots[row_slot[n][k]], ascending k: the gradient of the gather.
//   dinp     (N, C) X    written
//   dslots   (S, C) X
//   row_slot (N, K) i32
void moe_gather_backward(Ctx& ctx, View dinp, const View& dslots, const View& row_slot);

// How often each expert was chosen.
//   counts  (E)    i32  accumulated (+=)
//   experts (N, K) i32
void moe_counts_update(Ctx& ctx, View counts, const View& experts);

// Once per optimizer step: bias_e += rate * (sign(mean - count_e) - mean of those signs), eq.
// (M8). The zero-mean form keeps the biases from drifting together; selection is the same.
//   bias   (E) f32  updated
//   counts (E) i32  tokens routed in the step
void moe_bias_update(Ctx& ctx, View bias, const View& counts, double rate);

} // namespace ref

DECLARE_KERNEL_OP(router_forward)
DECLARE_KERNEL_OP(router_backward)
DECLARE_KERNEL_OP(slots_forward)
DECLARE_KERNEL_OP(grouped_linear_forward)
DECLARE_KERNEL_OP(grouped_linear_backward)
DECLARE_KERNEL_OP(moe_combine_forward)
DECLARE_KERNEL_OP(moe_combine_backward)
DECLARE_KERNEL_OP(moe_gather_backward)
DECLARE_KERNEL_OP(moe_counts_update)
DECLARE_KERNEL_OP(moe_bias_update)

// MaxVio, eq. (M9): (max count - mean) / mean. 0 = perfectly even; 0 also where nothing was routed.
double max_violation(const int32_t* counts, int experts);
