// Contract: tensor_kernels.h.
#include "llmc/device/tensor_kernels.h"

#include "llmc/device/kernel.cuh"

#include <algorithm>

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 16; // a thread takes more than one element where it must

// One thread = an element at a time, neighbours side by side. Bound by memory.
template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    convert_rows_kernel(To* to, int64_t to_ld, const From* from, int64_t from_ld, int64_t columns,
                        int64_t count) {
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count;
         i += int64_t(gridDim.x) * kThreads) {
        const int64_t row = i / columns, column = i % columns;
        to[row * to_ld + column] = from_float<To>(to_float(from[row * from_ld + column]));
    }
}

// One thread = an element at a time: 4 bytes a rank, once. Bound by memory.
__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(float* out, const float* parts, int64_t n, int ranks, bool accumulate) {
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n;
         i += int64_t(gridDim.x) * kThreads) {
        float sum = parts[i];
        for (int r = 1; r < ranks; r++) sum += parts[r * n + i];
        out[i] = accumulate ? out[i] + sum : sum;
    }
}

LaunchShape elements(int64_t count) {
    return {int(std::min((count + kThreads - 1) / kThreads, kMostBlocks)), kThreads, 1, 0};
}

template <class To, class From> void convert_as(Ctx& ctx, View to, const View& from) {
    LAUNCH(ctx, (convert_rows_kernel<To, From>), elements(to.size()), to.as<To>(), to.ld,
           from.as<From>(), from.ld, to.shape[1], to.size());
}

} // namespace

void gpu::convert_rows(Ctx& ctx, View to, const View& from) {
    const bool narrow = from.dtype == Dtype::bf16;
    if (to.dtype == Dtype::bf16)
        return (narrow ? convert_as<bf16, bf16> : convert_as<bf16, float>)(ctx, to, from);
    (narrow ? convert_as<float, bf16> : convert_as<float, float>)(ctx, to, from);
}

void gpu::add_parts(Ctx& ctx, View out, const float* parts, int ranks, bool accumulate) {
    LAUNCH(ctx, add_parts_kernel, elements(out.size()), out.as<float>(), parts, out.size(), ranks,
           accumulate);
}
