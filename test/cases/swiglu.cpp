// Cases of SwiGLU. Its extremes: test/test_swiglu.cpp.
#include "llmc/ops/swiglu.h"

#include "test/cases/cases.h"

std::vector<OpCase> swiglu_cases() {
    struct Shape {
        int64_t N, F;
        bool perf;
    };
    std::vector<OpCase> cases;
    for (Shape s : {Shape{1, 1, false},
                    {7, 13, false},
                    {5, 48, false},
                    {3, 1000, false},
                    {4096, 384, true}}) {
        OpCase op;
        op.name = format("swiglu N=%ld F=%ld", long(s.N), long(s.F));
        op.args = {{"gate_up", Role::in, {s.N, 2 * s.F}, nullptr, 2 * s.F + 3},
                   {"out", Role::out, {s.N, s.F}, nullptr, s.F + 5}};
        op.forward = [](Ctx& ctx, Views& a) { swiglu_forward(ctx, a["out"], a["gate_up"]); };
        op.backward = [](Ctx& ctx, Views& a, Views& d) {
            swiglu_backward(ctx, d["gate_up"], d["out"], a["gate_up"]);
        };
        op.outputs = {"out"};
        op.inputs = {{"gate_up", GradMode::written}};
        op.kernel_paths = {-1};
        op.bf16_tolerance = kBf16Tolerance;
        op.tolerance = 5e-7;
        op.reason = "vector exp within 1.2e-7, then four roundings";
        op.bytes = 12.0 * double(s.N * s.F);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}
