// RMSNorm. equations (N1)-(N3) in doc/equations.md -> this contract -> checks and reference in
// norm.cpp -> fast CPU in norm_cpu.cpp -> kernels in norm.cu -> cases in test/cases/norm.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

namespace ref {

// Adds the block's output to the residual stream and normalises the sum, eq. (N1)-(N2); RMSNorm,
// Zhang & Sennrich, arXiv 1910.07467.
//   out      (N, C) X   written: residual * rstd * weight
//   residual (N, C) X   written: inp + delta; not touched where delta is empty
//   rstd     (N)    f32 written: 1 / sqrt(mean(residual^2) + eps)
//   inp      (N, C) X
//   delta    (N, C) X   or an empty view: residual is inp itself
//   weight   (C)    X
// Aliasing: residual may be inp. Rows are independent of N. Deterministic.
void rmsnorm_forward(Ctx& ctx, View out, View residual, View rstd, const View& inp,
                     const View& delta, const View& weight, double eps);

// Gradient of rmsnorm_forward's `out`, eq. (N3), added to the gradient of the residual stream.
//   dresidual (N, C) X   accumulated (+=)
//   dweight   (C)    f32 accumulated (+=)
//   dout      (N, C) X
//   residual  (N, C) X   the stream that was normalised
//   rstd      (N)    f32 saved by the forward
//   weight    (C)    X
// Order: rows are summed into dweight in fixed blocks; deterministic at any thread count.
void rmsnorm_backward(Ctx& ctx, View dresidual, View dweight, const View& dout,
                      const View& residual, const View& rstd, const View& weight);

} // namespace ref

namespace cpu {
// Of rmsnorm_backward.
size_t rmsnorm_backward_scratch(const Ctx& ctx, int64_t N, int64_t C);
} // namespace cpu

DECLARE_KERNEL_OP(rmsnorm_forward)
DECLARE_KERNEL_OP(rmsnorm_backward)
DECLARE_SCRATCH(rmsnorm_backward_scratch)
