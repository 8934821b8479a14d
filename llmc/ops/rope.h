// QK-norm and rotary positions. equations (R1)-(R4) in doc/equations.md; RoPE, Su et al., arXiv
// 2104.09864, with rotate-half pairing; QK-norm as in Qwen3, arXiv 2505.09388 -> this contract ->
// rope.cpp -> rope_cpu.cpp -> rope.cu -> cases in test/cases/rope.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

// Fills row p with cos of the D/2 angles p * base^(-2i/D), then their sines; computed in double.
//   table (P, D) f32 or f64
void rope_table_fill(View table, double base);

namespace ref {

// Per head: RMSNorm over D, eq. (R1)-(R2), then rotation by the row's position, eq. (R3). The first
// (H+HKV)D columns of qkv are the query and key heads.
//   qk        (N, (H+HKV)D)  X  written
//   rstd      (N, H+HKV)     f32 written: 1 / sqrt(mean(head^2) + eps)
//   qkv       (N, (H+2HKV)D) X
//   q_weight, k_weight (D)   X
//   table     (P, D)         f32 of rope_table_fill; D even, in kernels at most 256
//   positions (N)            i32, 0 <= position < P
void qknorm_rope_forward(Ctx& ctx, View qk, View rstd, const View& qkv, const View& q_weight,
                         const View& k_weight, const View& table, const View& positions, int heads,
                         int kv_heads, double eps);

// Gradient of qknorm_rope_forward, eq. (R4).
//   dqkv      (N, (H+2HKV)D) X  columns of q and k written, those of v untouched
//   dq_weight, dk_weight (D) f32 accumulated (+=), rows in fixed blocks: deterministic
//   dqk, rstd, qkv, ...         as in the forward
void qknorm_rope_backward(Ctx& ctx, View dqkv, View dq_weight, View dk_weight, const View& dqk,
                          const View& rstd, const View& qkv, const View& q_weight,
                          const View& k_weight, const View& table, const View& positions, int heads,
                          int kv_heads);

} // namespace ref

DECLARE_KERNEL_OP(qknorm_rope_forward)
DECLARE_KERNEL_OP(qknorm_rope_backward)
