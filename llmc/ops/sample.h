// Sampling a token from logits. equation (T1) in doc/equations.md -> this contract -> sample.cpp ->
// sample_cpu.cpp -> sample.cu -> test/test_sample.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

struct SampleShape {
    int V;              // real columns
    double temperature; // 0 = greedy, the lowest index among equals
    double top_p;       // 1 = off
    int top_k;          // 0 = off
};

namespace ref {

// Draws tokens[n] from softmax(logits[n] / temperature), kept to the top_k largest (lower index
// first among equals), then to the smallest set of most likely tokens with mass >= top_p,
// renormalised: the first index where the cumulative probability in index order exceeds
// uniform[n], eq. (T1).
//   tokens  (N)     i32 written
//   kept    (N)     f64 written: mass of softmax(logits[n] / temperature) that was drawn from, 1
//                       where nothing was cut off or the draw is greedy
//   logits  (N, Vp) X
//   uniform (N)     f64 in [0, 1)
// A row depends on its own logits and uniform number only. One with NaN, +inf or nothing but -inf
// is no distribution: fast forms take its largest number, or token 0, and kept is 1.
void sample_forward(Ctx& ctx, View tokens, View kept, const View& logits, const View& uniform,
                    const SampleShape& shape);

} // namespace ref

DECLARE_KERNEL_OP(sample_forward)
