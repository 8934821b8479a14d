// AdamW and the global norm. equations (A1)-(A5) in doc/equations.md; Loshchilov & Hutter, arXiv
// 1711.05101 -> this contract -> adamw.cpp -> adamw_cpu.cpp -> adamw.cu -> cases in
// test/cases/adamw.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

struct AdamW {
    double lr, beta1, beta2, eps, weight_decay;
    double grad_scale; // multiplies the gradient: clipping
    int64_t step;      // 1 for the first update
};

namespace ref {

// One update with decoupled weight decay and bias correction, eq. (A1)-(A4).
//   param, m, v (n) f32  updated in place
//   grad        (n) f32
// Element-wise, one pass. Deterministic. Stops with require() if step < 1 or a beta is >= 1.
void adamw_update(Ctx& ctx, View param, View m, View v, const View& grad, const AdamW& adamw);

// Sum of squares, eq. (A5).
//   out  (1) f64 in every backend, written
//   grad (n) f32
// Order: blocks of a fixed size, added in ascending order: the same at any thread count.
void square_sum_forward(Ctx& ctx, View out, const View& grad);

} // namespace ref

DECLARE_KERNEL_OP(adamw_update)
DECLARE_KERNEL_OP(square_sum_forward)
