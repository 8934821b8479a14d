// Cases of AdamW. Bias correction, and the square sum: test/test_adamw.cpp.
#include "llmc/ops/adamw.h"

#include "test/cases/cases.h"

std::vector<OpCase> adamw_cases() {
    std::vector<OpCase> cases;
    auto positive = [](std::vector<double>& values, Rng& rng) {
        for (double& v : values) v = rng.uniform() + 0.01;
    };
    auto normal = [](std::vector<double>& values, Rng& rng) {
        for (double& v : values) v = rng.normal();
    };
    for (int64_t n : {1, 13, 64, 20000, 1000000}) {
        OpCase op;
        op.name = format("adamw n=%ld", long(n));
        op.args = {{"param", Role::acc, {n}, normal},
                   {"m", Role::acc, {n}, normal},
                   {"v", Role::acc, {n}, positive},
                   {"grad", Role::in, {n}}};
        op.forward = [](Ctx& ctx, Views& a) {
            adamw_update(ctx, a["param"], a["m"], a["v"], a["grad"],
                         {1e-3, 0.9, 0.95, 1e-8, 0.1, 0.7, 3});
        };
        op.kernel_paths = {-1};
        op.tolerance = 5e-7;
        op.reason = "a handful of fp32 roundings";
        op.bytes = 28.0 * double(n);
        op.perf = n == 1000000;
        cases.push_back(op);
    }
    return cases;
}
