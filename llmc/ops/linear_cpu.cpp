// Linear on the CPU: the same three products through the fp32 GEMM. Contract: linear.h.
#include "llmc/ops/linear.h"

void cpu::linear_forward(Ctx& ctx, View out, const View& inp, const View& weight) {
    ref::linear_forward(ctx, out, inp, weight);
}

void cpu::linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
                          const View& weight, Store store) {
    ref::linear_backward(ctx, dinp, dweight, dout, inp, weight, store);
}
