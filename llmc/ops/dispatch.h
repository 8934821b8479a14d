// How an op is declared once and runs on several backends.
//
//   namespace ref { void norm_forward(Ctx&, View out, const View& inp); }   // with its contract
//   DECLARE_OP(norm_forward)
//
// re-declares exactly that type as check::norm_forward (the contract's checks), cpu::norm_forward,
// and a callable ::norm_forward that checks once and dispatches; its results are there after
// Ctx::wait(). Definitions are written with the qualified name (`void cpu::norm_forward(...) {`),
// so a drifting signature does not compile.
// DECLARE_KERNEL_OP also declares simt::norm_forward and cuda::norm_forward: one definition,
// `void gpu::norm_forward(...)` in the op's .cu (device/gpu.h), compiled once for each.
//
// Where kernels run, a call may hold its tensors of X in bf16. What is summed over rows or saved
// for the backward (weight gradients, statistics, rstd) stays fp32; so do row scales and tables.
#pragma once
#include "llmc/device/context.h"

#include <tuple>

template <class Signature> struct Op;
template <class... Args> struct Op<void(Ctx&, Args...)> {
    using Fn = void(Ctx&, Args...);
    Fn *check, *ref, *cpu, *simt, *cuda;
    void operator()(Ctx& ctx, Args... args) const {
        check(ctx, args...);
        Fn* const run = ctx.backend == Backend::ref    ? ref
                        : ctx.backend == Backend::cpu  ? cpu
                        : ctx.backend == Backend::simt ? simt
                                                       : cuda;
        if (!ctx.defers()) return run(ctx, args...);
        ctx.enqueue([&ctx, run, held = std::tuple<std::decay_t<Args>...>(args...)] {
            std::apply([&](const auto&... kept) { run(ctx, kept...); }, held);
        });
    }
};

#define DECLARE_OP(fn)                                                                             \
    namespace check {                                                                              \
    extern decltype(ref::fn) fn;                                                                   \
    }                                                                                              \
    namespace cpu {                                                                                \
    extern decltype(ref::fn) fn;                                                                   \
    }                                                                                              \
    inline constexpr Op<decltype(ref::fn)> fn{check::fn, ref::fn, cpu::fn, cpu::fn, cpu::fn};

#define DECLARE_KERNEL_OP(fn)                                                                      \
    namespace check {                                                                              \
    extern decltype(ref::fn) fn;                                                                   \
    }                                                                                              \
    namespace cpu {                                                                                \
    extern decltype(ref::fn) fn;                                                                   \
    }                                                                                              \
    namespace simt {                                                                               \
    extern decltype(ref::fn) fn;                                                                   \
    }                                                                                              \
    namespace cuda {                                                                               \
    extern decltype(ref::fn) fn;                                                                   \
    }                                                                                              \
    inline constexpr Op<decltype(ref::fn)> fn{check::fn, ref::fn, cpu::fn, simt::fn,               \
                                              BUILT_BY_NVCC(cuda::fn)};

// Bytes of ctx.scratch that an op takes at most, so that a plan knows of them. Declared once in
// namespace cpu, defined where they are taken: beside the fast CPU form, and in the op's .cu; a
// plan for cuda asks simt's, which every build has. ref takes none.
template <class Signature> struct ScratchBytes;
template <class... Args> struct ScratchBytes<size_t(const Ctx&, Args...)> {
    using Fn = size_t(const Ctx&, Args...);
    Fn *cpu, *simt;
    size_t operator()(const Ctx& ctx, Args... args) const {
        if (ctx.backend == Backend::ref) return 0;
        return (ctx.backend == Backend::cpu ? cpu : simt)(ctx, args...);
    }
};

#define DECLARE_SCRATCH(fn)                                                                        \
    namespace simt {                                                                               \
    extern decltype(cpu::fn) fn;                                                                   \
    }                                                                                              \
    namespace cuda {                                                                               \
    extern decltype(cpu::fn) fn;                                                                   \
    }                                                                                              \
    inline constexpr ScratchBytes<decltype(cpu::fn)> fn{cpu::fn, simt::fn};

// Contract checks shared by the ops. Each stops with the op's and the view's name and shape.
void require_shape(const char* op, const View& view, int64_t n0);
void require_shape(const char* op, const View& view, int64_t n0, int64_t n1);
void require_shape(const char* op, const View& view, int64_t n0, int64_t n1, int64_t n2);
void require_dtype(const char* op, const View& view, Dtype dtype);
void require_real(const char* op, const View& view, const Ctx& ctx); // X, or bf16 for kernels
