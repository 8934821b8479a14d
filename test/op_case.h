// One description of an op gives all its tests and its benchmark (the idea of ggml's
// test-backend-ops): match against ref, gradient by finite differences, NaN-poisoned outputs
// between sentinels, bit-equal reruns, and time; on the CPU and through the kernels.
#pragma once
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/device/context.h"

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

enum class Role {
    in,      // X values, must stay unchanged
    in_f64,  // double in every backend, must stay unchanged
    index,   // int32 values, must stay unchanged
    out,     // X, written: poisoned with NaN before the call
    out_i32, // int32, written; compared exactly
    out_f64, // double in every backend, written: poisoned with NaN before the call
    acc,     // X, accumulated or updated in place: starts from `fill`
};

struct Arg {
    std::string name;
    Role role;
    std::vector<int64_t> shape;
    // Fills the start values; nullptr = N(0, 1), or 0 for index arguments.
    std::function<void(std::vector<double>&, Rng&)> fill = nullptr;
    int64_t ld = 0; // row stride in elements, 0 = contiguous
};

// The arguments of one call by name.
using Views = std::map<std::string, View>;

constexpr double kBf16Tolerance = 4e-3; // one rounding to 8 bits: 1.7e-3; an input's and a result's

enum class GradMode { written, accumulated };

struct OpCase {
    std::string name; // e.g. "rmsnorm N=7 C=13": printed on failure and the bench's filter
    std::vector<Arg> args;
    std::function<void(Ctx&, Views&)> forward;
    double tolerance = 1e-6; // relative error ||got - ref|| / ||ref|| of every output
    std::string reason;      // why this tolerance

    // Optional: backward(ctx, a, d) reads d[output] and fills d[input].
    std::function<void(Ctx&, Views& a, Views& d)> backward = nullptr;
    std::vector<std::string> outputs = {};       // differentiable outputs
    std::map<std::string, GradMode> inputs = {}; // inputs with a gradient
    double grad_tolerance = 1e-5;                // backward against ref backward
    double fd_tolerance = 1e-6; // ref backward against central differences of ref forward

    // Paths of the op's kernels (SimtOptions::path), {-1} where there is one; empty: no kernels.
    std::vector<int> kernel_paths = {};
    // Arguments, and gradients as "d" + name, that stay fp32 where X is bf16.
    std::set<std::string> single = {};
    double bf16_tolerance = 0; // where X is bf16; 0: the op takes fp32 only

    double bytes = 0, flops = 0; // of the forward, for the benchmark
    bool perf = false;           // benchmark shape: timed, not tested
};

// Every op family's cases (test/cases/*.cpp).
std::vector<OpCase> all_op_cases();

// Each returns "" or what is wrong. x: ctx.dtype(), or bf16 where kernels run; then ref takes the
// same rounded inputs.
std::string check_match(const OpCase& op, Ctx& ctx, Dtype x); // against ref
std::string check_gradient(const OpCase& op);                 // of ref
std::string check_guard(const OpCase& op, Ctx& ctx, Dtype x);
// Every tensor of a wrong dtype stops a contract, before a kernel casts it.
std::string check_dtypes(const OpCase& op);
std::string check_equal(const OpCase& op, Ctx& one, Ctx& other, Dtype x); // bit for bit
// Forward and backward with ctx.simt.trace watching every argument, gradient and the scratch.
std::string check_races(const OpCase& op, Ctx& ctx, Dtype x);

struct Timing {
    double forward_ms, backward_ms; // medians; backward 0 where there is none
};
Timing time_case(const OpCase& op, int threads, int repeats);
