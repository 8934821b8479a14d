// Linear: contract checks; device/gemm computes for every backend. Contract: linear.h.
#include "llmc/ops/linear.h"

#include <algorithm>

void check::linear_forward(Ctx& ctx, View out, const View& inp, const View& weight) {
    const char* op = "linear_forward";
    require_shape(op, out, inp.shape[0], weight.shape[0]);
    require_shape(op, weight, weight.shape[0], inp.shape[1]);
    for (const View* view : {&inp, &weight, static_cast<const View*>(&out)})
        require_real(op, *view, ctx);
}

void check::linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
                            const View& weight, Store) {
    const char* op = "linear_backward";
    const int64_t N = inp.shape[0], C = inp.shape[1], O = weight.shape[0];
    if (!dinp.empty()) require_shape(op, dinp, N, C);
    require_shape(op, dweight, O, C);
    require_shape(op, dout, N, O);
    require_shape(op, weight, O, C);
    for (const View* view : {&dout, &inp, &weight}) require_real(op, *view, ctx);
    if (!dinp.empty()) require_real(op, dinp, ctx);
    require_dtype(op, dweight, ctx.dtype());
}

void ref::linear_forward(Ctx& ctx, View out, const View& inp, const View& weight) {
    gemm(ctx, out, inp, Trans::no, weight, Trans::yes, Store::overwrite); // (L1)
}

void ref::linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
                          const View& weight, Store store) {
    if (!dinp.empty()) gemm(ctx, dinp, dout, Trans::no, weight, Trans::no, store); // (L2)
    gemm(ctx, dweight, dout, Trans::yes, inp, Trans::no, Store::accumulate);       // (L3)
}

size_t linear_scratch(Ctx& ctx, const View& out, const View& inp, const View& weight,
                      bool backward) {
    size_t most = gemm_scratch(ctx, out, inp, Trans::no, weight, Trans::yes, Store::overwrite);
    if (!backward) return most;
    View dweight = weight;
    dweight.dtype = ctx.dtype();
    most =
        std::max(most, gemm_scratch(ctx, inp, out, Trans::no, weight, Trans::no, Store::overwrite));
    return std::max(most,
                    gemm_scratch(ctx, dweight, out, Trans::yes, inp, Trans::no, Store::accumulate));
}
