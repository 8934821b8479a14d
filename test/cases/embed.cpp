// Cases of the embedding. The order of its sums: test/test_embed.cpp.
#include "llmc/ops/embed.h"

#include "test/cases/cases.h"

std::vector<OpCase> embed_cases() {
    struct Shape {
        int64_t N, C, V;
        bool perf;
    };
    std::vector<OpCase> cases;
    for (Shape s : {Shape{1, 1, 1, false},
                    {7, 13, 5, false},
                    {130, 67, 11, false},
                    {300, 5, 7, false},
                    {4096, 256, 512, true}}) {
        OpCase op;
        op.name = format("embed N=%ld C=%ld V=%ld", long(s.N), long(s.C), long(s.V));
        auto below_v = [V = s.V](std::vector<double>& values, Rng& rng) {
            for (double& v : values) v = double(rng.below(V));
        };
        op.args = {{"tokens", Role::index, {s.N}, below_v},
                   {"weight", Role::in, {s.V, s.C}, nullptr, s.C + 2},
                   {"out", Role::out, {s.N, s.C}, nullptr, s.C + 3}};
        op.forward = [](Ctx& ctx, Views& a) {
            embed_forward(ctx, a["out"], a["tokens"], a["weight"]);
        };
        op.backward = [](Ctx& ctx, Views& a, Views& d) {
            embed_backward(ctx, d["weight"], d["out"], a["tokens"]);
        };
        op.outputs = {"out"};
        op.inputs = {{"weight", GradMode::accumulated}};
        op.kernel_paths = {-1};
        op.bf16_tolerance = kBf16Tolerance;
        op.single = {"dweight"};
        op.tolerance = 1e-7;
        op.reason = "a copy, rounded once";
        op.bytes = 8.0 * double(s.N * s.C);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}
