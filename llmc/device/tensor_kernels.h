// Kernels that tensors need outside the ops: tensor_kernels.cu, built like an op's.
#pragma once
#include "llmc/device/context.h"

namespace simt {
// to (rows, columns) = from (rows, columns), f32 and bf16 in any combination; rows may be strided.
void convert_rows(Ctx& ctx, View to, const View& from);
// out (n) f32 = or += the sum of `ranks` vectors of n that follow each other in `parts`, from the
// first to the last.
void add_parts(Ctx& ctx, View out, const float* parts, int ranks, bool accumulate);
} // namespace simt

namespace cuda {
extern decltype(simt::convert_rows) convert_rows;
extern decltype(simt::add_parts) add_parts;
} // namespace cuda

// Of the backend that runs, simt or cuda.
inline void convert_rows(Ctx& ctx, View to, const View& from) {
    (ctx.backend == Backend::simt ? simt::convert_rows : BUILT_BY_NVCC(cuda::convert_rows))(ctx, to,
                                                                                            from);
}
