// Cases of sampling. The distribution and its hard rows: test/test_sample.cpp.
#include "llmc/ops/sample.h"

#include "test/cases/cases.h"

std::vector<OpCase> sample_cases() {
    std::vector<OpCase> cases;
    auto uniform = [](std::vector<double>& values, Rng& rng) {
        for (double& v : values) v = rng.uniform();
    };
    for (const auto& [N, s] : {std::pair(int64_t(1), SampleShape{1, 1, 1, 0}),
                               {3, SampleShape{13, 0, 1, 0}},
                               {3, SampleShape{257, 0.7, 1, 0}},
                               {3, SampleShape{257, 1, 0.8, 20}},
                               {2, SampleShape{5003, 1.3, 0.95, 0}},
                               {2, SampleShape{5003, 1, 1, 100}}}) {
        OpCase op;
        op.name = format("sample N=%ld V=%d temperature=%g top_p=%g top_k=%d", long(N), s.V,
                         s.temperature, s.top_p, s.top_k);
        op.args = {{"logits", Role::in, {N, s.V + 7}},
                   {"uniform", Role::in_f64, {N}, uniform},
                   {"tokens", Role::out_i32, {N}},
                   {"kept", Role::out_f64, {N}}};
        op.forward = [s = s](Ctx& ctx, Views& a) {
            sample_forward(ctx, a["tokens"], a["kept"], a["logits"], a["uniform"], s);
        };
        op.kernel_paths = {-1};
        op.bf16_tolerance = kBf16Tolerance;
        op.reason = "tokens are equal; kept: sums of fp32 exponentials";
        op.bytes = 4.0 * double(N) * s.V;
        cases.push_back(op);
    }
    return cases;
}
