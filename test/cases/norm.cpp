// Cases of ops/norm.h.
#include "llmc/ops/norm.h"

#include "test/cases/cases.h"

std::vector<OpCase> norm_cases() {
    std::vector<OpCase> cases;
    struct Shape {
        int64_t N, C;
        bool perf;
    };
    for (Shape s : {Shape{1, 1, false},
                    {7, 13, false},
                    {5, 64, false},
                    {130, 100, false},
                    {3, 1024, false},
                    {1, 6400, false}, // no room in fp32
                    {4096, 256, true},
                    {4096, 1536, true}}) {
        OpCase op;
        op.name = format("rmsnorm N=%ld C=%ld", long(s.N), long(s.C));
        op.args = {{"inp", Role::in, {s.N, s.C}},       {"delta", Role::in, {s.N, s.C}},
                   {"weight", Role::in, {s.C}},         {"out", Role::out, {s.N, s.C}},
                   {"residual", Role::out, {s.N, s.C}}, {"rstd", Role::out, {s.N}}};
        op.forward = [](Ctx& ctx, Views& a) {
            rmsnorm_forward(ctx, a["out"], a["residual"], a["rstd"], a["inp"], a["delta"],
                            a["weight"], 1e-6);
        };
        op.backward = [](Ctx& ctx, Views& a, Views& d) {
            rmsnorm_backward(ctx, d["inp"], d["weight"], d["out"], a["residual"], a["rstd"],
                             a["weight"]);
        };
        op.outputs = {"out"};
        op.inputs = {{"inp", GradMode::accumulated}, {"weight", GradMode::accumulated}};
        op.kernel_paths = {-1, 0}; // 0: rows that shared memory has no room for
        op.bf16_tolerance = kBf16Tolerance;
        op.single = {"rstd", "dweight"};
        op.tolerance = 5e-7;
        op.reason = "fp32 sums of C squares";
        op.bytes = 4.0 * double(s.N) * double(s.C) * 4;
        op.flops = 4.0 * double(s.N) * double(s.C);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}
