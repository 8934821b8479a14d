// How the simt backend runs kernels: part of Ctx.
#pragma once
#include <cstddef>
#include <cstdint>

namespace simt::runtime {
class Trace;
struct Omission;
} // namespace simt::runtime

struct SimtOptions {
    int arch = 90; // compute capability it plays, 80 or 90: kernels choose their path
    size_t shared_limit = 99 << 10; // of a block, in bytes: the least of the GPUs built for, sm_120
    int path = -1;                  // of a kernel with several paths; -1: as its launcher chooses
    uint32_t seed = 0;              // 0: threads in order; else blocks, warps and lanes permuted
    bool eager_copies = false;      // cp.async at once; else as late as the program allows
    bool defer = false;             // ops wait in Ctx's queue, as kernels do in a CUDA stream
    simt::runtime::Trace* trace = nullptr;       // counts and race checks, see device/simt/trace.h
    simt::runtime::Omission* omission = nullptr; // a barrier to leave out, see runtime.h
};
