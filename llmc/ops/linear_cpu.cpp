// Linear on the CPU: the same three products through the GEMM; weights that a pass has packed are
// read from there. Contract: linear.h.
#include "llmc/device/gemm_rows.h"
#include "llmc/ops/linear.h"

void cpu::linear_forward(Ctx& ctx, View out, const View& inp, const View& weight) {
    if (ctx.packed_weights && ctx.packed_weights->multiply(ctx, out, inp, weight)) return;
    ref::linear_forward(ctx, out, inp, weight);
}

void cpu::linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
                          const View& weight, Store store) {
    ref::linear_backward(ctx, dinp, dweight, dout, inp, weight, store);
}
