// Cases of QK-norm and RoPE. What the rotation means: test/test_rope.cpp.
#include "llmc/ops/rope.h"

#include "test/cases/cases.h"

#include <cstring>

std::vector<OpCase> rope_cases() {
    struct Heads {
        int64_t N, D;
        int H, HKV;
        bool perf;
    };
    std::vector<OpCase> cases;
    for (Heads s : {Heads{1, 2, 1, 1, false},
                    {7, 6, 3, 1, false},
                    {70, 32, 4, 2, false},
                    {65, 40, 2, 1, false},
                    {3, 128, 1, 1, false},
                    {4096, 64, 4, 2, true}}) {
        const int H = s.H, HKV = s.HKV;
        OpCase op;
        op.name = format("rope N=%ld D=%ld H=%d HKV=%d", long(s.N), long(s.D), H, HKV);
        auto table = [D = s.D](std::vector<double>& values, Rng&) {
            rope_table_fill(make_view(values.data(), Dtype::f64, "table", 40, D), 1e4);
        };
        auto below_p = [](std::vector<double>& values, Rng& rng) {
            for (double& v : values) v = double(rng.below(40));
        };
        op.args = {{"qkv", Role::in, {s.N, (H + 2 * HKV) * s.D}},
                   {"q_weight", Role::in, {s.D}},
                   {"k_weight", Role::in, {s.D}},
                   {"table", Role::in, {40, s.D}, table},
                   {"positions", Role::index, {s.N}, below_p},
                   {"qk", Role::out, {s.N, (H + HKV) * s.D}},
                   {"rstd", Role::out, {s.N, H + HKV}}};
        op.forward = [H, HKV](Ctx& ctx, Views& a) {
            qknorm_rope_forward(ctx, a["qk"], a["rstd"], a["qkv"], a["q_weight"], a["k_weight"],
                                a["table"], a["positions"], H, HKV, 1e-6);
        };
        op.backward = [H, HKV, D = s.D](Ctx& ctx, Views& a, Views& d) {
            // The op leaves the v columns alone; here v does not reach the output.
            const View v = d["qkv"].slice_columns((H + HKV) * D, HKV * D);
            for (int64_t n = 0; n < v.rows(); n++)
                std::memset(static_cast<char*>(v.data) + n * v.ld * int64_t(dtype_bytes(v.dtype)),
                            0, HKV * D * dtype_bytes(v.dtype));
            qknorm_rope_backward(ctx, d["qkv"], d["q_weight"], d["k_weight"], d["qk"], a["rstd"],
                                 a["qkv"], a["q_weight"], a["k_weight"], a["table"], a["positions"],
                                 H, HKV);
        };
        op.outputs = {"qk"};
        op.inputs = {{"qkv", GradMode::written},
                     {"q_weight", GradMode::accumulated},
                     {"k_weight", GradMode::accumulated}};
        op.kernel_paths = {-1};
        op.bf16_tolerance = kBf16Tolerance;
        op.single = {"table", "rstd", "dq_weight", "dk_weight"};
        op.tolerance = 1e-6;
        op.reason = "fp32 sums of D squares and a rounded table";
        op.bytes = 8.0 * double(s.N * (H + HKV) * s.D);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}
