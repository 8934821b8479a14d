// Token embedding. equations (E1)-(E2) in doc/equations.md -> this contract -> embed.cpp ->
// embed_cpu.cpp -> embed.cu -> cases in test/cases/embed.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

namespace ref {

// Looks rows up: out[n] = weight[tokens[n]], eq. (E1).
//   out    (N, C) X   written
//   tokens (N)    i32 0 <= token < rows of weight
//   weight (V, C) X
void embed_forward(Ctx& ctx, View out, const View& tokens, const View& weight);

// Adds each row of dout to its token's gradient, eq. (E2).
//   dweight (V, C) f32 accumulated (+=)
//   dout    (N, C) X
//   tokens  (N)    i32 0 <= token < rows of dweight
// Order: ascending n for every token, at any thread count (threads own bands of columns).
void embed_backward(Ctx& ctx, View dweight, const View& dout, const View& tokens);

} // namespace ref

namespace cpu {
// Of embed_backward for N rows.
size_t embed_backward_scratch(const Ctx& ctx, int64_t N);
} // namespace cpu

DECLARE_KERNEL_OP(embed_forward)
DECLARE_KERNEL_OP(embed_backward)
DECLARE_SCRATCH(embed_backward_scratch)
