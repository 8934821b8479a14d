// One description of an op gives all its tests and its benchmark (the idea of ggml's
// test-backend-ops): match against ref, gradient by finite differences, NaN-poisoned outputs
// between sentinels, bit-equal reruns, and time.
#pragma once
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/device/context.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

enum class Role {
    in,      // X values, must stay unchanged
    index,   // int32 values, must stay unchanged
    out,     // X, written: poisoned with NaN before the call
    out_i32, // int32, written; compared exactly
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

enum class GradMode { written, accumulated };

struct OpCase {
    std::string name; // e.g. "rmsnorm N=7 C=13": printed on failure and the bench's filter
    std::vector<Arg> args;
    std::function<void(Ctx&, Views&)> forward;
    double tolerance = 1e-6; // relative error ||cpu - ref|| / ||ref|| of every output
    std::string reason;      // why this tolerance

    // Optional: backward(ctx, a, d) reads d[output] and fills d[input].
    std::function<void(Ctx&, Views& a, Views& d)> backward = nullptr;
    std::vector<std::string> outputs = {};       // differentiable outputs
    std::map<std::string, GradMode> inputs = {}; // inputs with a gradient
    double grad_tolerance = 1e-5;                // cpu backward against ref backward
    double fd_tolerance = 1e-6; // ref backward against central differences of ref forward

    double bytes = 0, flops = 0; // of the forward, for the benchmark
    bool perf = false;           // benchmark shape: timed, not tested
};

// Every op family's cases (test/cases/*.cpp).
std::vector<OpCase> all_op_cases();

// Each returns "" or what is wrong.
std::string check_match(const OpCase& op);
std::string check_gradient(const OpCase& op);
std::string check_guard(const OpCase& op);
std::string check_repeat(const OpCase& op);

struct Timing {
    double forward_ms, backward_ms; // medians; backward 0 where there is none
};
Timing time_case(const OpCase& op, int threads, int repeats);
