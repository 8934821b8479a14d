// Linear layer without bias. equations (L1)-(L3) in doc/equations.md -> this contract ->
// linear.cpp -> linear_cpu.cpp -> cases in test/cases/linear.cpp. The products are device/gemm's.
#pragma once
#include "llmc/device/gemm.h"
#include "llmc/ops/dispatch.h"

namespace ref {

// out = inp weight^T, eq. (L1). A router's: its weight, out and dout are f32 beside an inp of X.
//   out    (N, O) X  written
//   inp    (N, C) X
//   weight (O, C) X
// A row of out does not depend on N. Deterministic.
void linear_forward(Ctx& ctx, View out, const View& inp, const View& weight);

// dinp = dout weight, eq. (L2); dweight += dout^T inp, eq. (L3).
//   dinp    (N, C) X    per `store`; an empty view = not wanted
//   dweight (O, C) f32  accumulated (+=)
//   dout    (N, O) X
//   inp     (N, C) X
//   weight  (O, C) X
void linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
                     const View& weight, Store store);

} // namespace ref

// Bytes of ctx.scratch that the forward takes, and with `backward` the larger of both.
size_t linear_scratch(Ctx& ctx, const View& out, const View& inp, const View& weight,
                      bool backward);

DECLARE_OP(linear_forward)
DECLARE_OP(linear_backward)
