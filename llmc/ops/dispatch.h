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
// In contracts X is f32 or bf16: weights and activations, all tensors of X in a call alike. f32 is
// what is summed over rows or saved for the backward (weight gradients, statistics, rstd), row
// scales and tables. ref has f64 for both. i32, and f64 where a contract says so, are the same
// everywhere. N, C and all other sizes are >= 0 and fit an int.
#pragma once
#include "llmc/device/context.h"

#include <initializer_list>
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

#define REDECLARE(space, prototype, fn)                                                            \
    namespace space {                                                                              \
    extern decltype(prototype) fn;                                                                 \
    }
#define DECLARE_OP(fn)                                                                             \
    REDECLARE(check, ref::fn, fn)                                                                  \
    REDECLARE(cpu, ref::fn, fn)                                                                    \
    inline constexpr Op<decltype(ref::fn)> fn{check::fn, ref::fn, cpu::fn, cpu::fn, cpu::fn};
#define DECLARE_KERNEL_OP(fn)                                                                      \
    REDECLARE(check, ref::fn, fn)                                                                  \
    REDECLARE(cpu, ref::fn, fn)                                                                    \
    REDECLARE(simt, ref::fn, fn)                                                                   \
    REDECLARE(cuda, ref::fn, fn)                                                                   \
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
    REDECLARE(simt, cpu::fn, fn)                                                                   \
    REDECLARE(cuda, cpu::fn, fn)                                                                   \
    inline constexpr ScratchBytes<decltype(cpu::fn)> fn{cpu::fn, simt::fn};

// Contract checks shared by the ops. Each stops with the op's and the view's name and shape.
void require_shape(const char* op, const View& view, int64_t n0);
void require_shape(const char* op, const View& view, int64_t n0, int64_t n1);
void require_shape(const char* op, const View& view, int64_t n0, int64_t n1, int64_t n2);
void require_dtype(const char* op, const View& view, Dtype dtype);
// Of all that are not empty.
void require_dtypes(const char* op, Dtype dtype, std::initializer_list<const View*> views);
void require_real(const char* op, const View& view, const Ctx& ctx); // a dtype that X may be
