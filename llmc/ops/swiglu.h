// SwiGLU. equations (S1)-(S3) in doc/equations.md; Shazeer, arXiv 2002.05202 -> this contract ->
// swiglu.cpp -> swiglu_cpu.cpp -> swiglu.cu -> cases in test/cases/swiglu.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

namespace ref {

// out = silu(gate) * up with silu(g) = g / (1 + e^-g), eq. (S1).
//   out     (N, F)  X  written
//   gate_up (N, 2F) X  gate in columns 0..F-1, up in F..2F-1
void swiglu_forward(Ctx& ctx, View out, const View& gate_up);

// dgate = dout * up * silu'(gate), dup = dout * silu(gate), eq. (S2)-(S3).
//   dgate_up (N, 2F) X  written
//   dout     (N, F)  X
//   gate_up  (N, 2F) X
// Aliasing: dgate_up may be gate_up.
void swiglu_backward(Ctx& ctx, View dgate_up, const View& dout, const View& gate_up);

} // namespace ref

DECLARE_KERNEL_OP(swiglu_forward)
DECLARE_KERNEL_OP(swiglu_backward)
