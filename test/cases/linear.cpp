// Cases of the linear layer. What they cannot say: test/test_linear.cpp.
#include "llmc/ops/linear.h"

#include "test/cases/cases.h"

std::vector<OpCase> linear_cases() {
    struct Shape {
        int64_t N, C, O;
        bool perf;
    };
    std::vector<OpCase> cases;
    for (Shape s : {Shape{1, 1, 1, false},
                    {7, 13, 5, false},
                    {33, 67, 130, false},
                    {4096, 128, 768, true},
                    {4096, 256, 1536, true}}) {
        OpCase op;
        op.name = format("linear N=%ld C=%ld O=%ld", long(s.N), long(s.C), long(s.O));
        op.args = {{"inp", Role::in, {s.N, s.C}, nullptr, s.C + 3},
                   {"weight", Role::in, {s.O, s.C}},
                   {"out", Role::out, {s.N, s.O}, nullptr, s.O + 5}};
        op.forward = [](Ctx& ctx, Views& a) {
            linear_forward(ctx, a["out"], a["inp"], a["weight"]);
        };
        op.backward = [](Ctx& ctx, Views& a, Views& d) {
            linear_backward(ctx, d["inp"], d["weight"], d["out"], a["inp"], a["weight"],
                            Store::overwrite);
        };
        op.outputs = {"out"};
        op.inputs = {{"inp", GradMode::written}, {"weight", GradMode::accumulated}};
        op.tolerance = 1e-6;
        op.reason = "fp32 sums of C products";
        op.single = {"dweight"};
        op.bf16_tolerance = kBf16Tolerance;
        op.flops = 2.0 * double(s.N * s.C * s.O);
        op.bytes = 4.0 * double(s.N * (s.C + s.O) + s.O * s.C);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}
