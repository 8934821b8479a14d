// Cases of the small ops: embed, linear, rope, swiglu, adamw.
#include "llmc/ops/adamw.h"
#include "llmc/ops/embed.h"
#include "llmc/ops/linear.h"
#include "llmc/ops/rope.h"
#include "llmc/ops/swiglu.h"

#include "test/cases/cases.h"

#include <cstring>

namespace {

std::function<void(std::vector<double>&, Rng&)> below(int64_t n) {
    return [n](std::vector<double>& values, Rng& rng) {
        for (double& v : values) v = double(rng.below(n));
    };
}

struct Shape {
    int64_t N, a, b;
    bool perf;
};

} // namespace

std::vector<OpCase> embed_cases() {
    std::vector<OpCase> cases;
    for (Shape s :
         {Shape{1, 1, 1, false}, {7, 13, 5, false}, {130, 67, 11, false}, {4096, 256, 512, true}}) {
        OpCase op;
        op.name = format("embed N=%ld C=%ld V=%ld", long(s.N), long(s.a), long(s.b));
        op.args = {{"tokens", Role::index, {s.N}, below(s.b)},
                   {"weight", Role::in, {s.b, s.a}},
                   {"out", Role::out, {s.N, s.a}}};
        op.forward = [](Ctx& ctx, Views& a) {
            embed_forward(ctx, a["out"], a["tokens"], a["weight"]);
        };
        op.backward = [](Ctx& ctx, Views& a, Views& d) {
            embed_backward(ctx, d["weight"], d["out"], a["tokens"]);
        };
        op.outputs = {"out"};
        op.inputs = {{"weight", GradMode::accumulated}};
        op.tolerance = 1e-7;
        op.reason = "a copy, rounded once";
        op.bytes = 8.0 * double(s.N * s.a);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}

std::vector<OpCase> linear_cases() {
    std::vector<OpCase> cases;
    for (Shape s : {Shape{1, 1, 1, false},
                    {7, 13, 5, false},
                    {33, 67, 130, false},
                    {4096, 128, 768, true},
                    {4096, 256, 1536, true}}) {
        OpCase op;
        op.name = format("linear N=%ld C=%ld O=%ld", long(s.N), long(s.a), long(s.b));
        op.args = {{"inp", Role::in, {s.N, s.a}, nullptr, s.a + 3},
                   {"weight", Role::in, {s.b, s.a}},
                   {"out", Role::out, {s.N, s.b}, nullptr, s.b + 5}};
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
        op.flops = 2.0 * double(s.N * s.a * s.b);
        op.bytes = 4.0 * double(s.N * (s.a + s.b) + s.a * s.b);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}

std::vector<OpCase> swiglu_cases() {
    std::vector<OpCase> cases;
    for (Shape s : {Shape{1, 1, 0, false},
                    {7, 13, 0, false},
                    {5, 48, 0, false},
                    {3, 1000, 0, false},
                    {4096, 384, 0, true}}) {
        OpCase op;
        op.name = format("swiglu N=%ld F=%ld", long(s.N), long(s.a));
        op.args = {{"gate_up", Role::in, {s.N, 2 * s.a}}, {"out", Role::out, {s.N, s.a}}};
        op.forward = [](Ctx& ctx, Views& a) { swiglu_forward(ctx, a["out"], a["gate_up"]); };
        op.backward = [](Ctx& ctx, Views& a, Views& d) {
            swiglu_backward(ctx, d["gate_up"], d["out"], a["gate_up"]);
        };
        op.outputs = {"out"};
        op.inputs = {{"gate_up", GradMode::written}};
        op.tolerance = 5e-7;
        op.reason = "vector exp within 1.2e-7, then four roundings";
        op.bytes = 12.0 * double(s.N * s.a);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}

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
                    {4096, 64, 4, 2, true}}) {
        const int H = s.H, HKV = s.HKV;
        OpCase op;
        op.name = format("rope N=%ld D=%ld H=%d HKV=%d", long(s.N), long(s.D), H, HKV);
        auto table = [D = s.D](std::vector<double>& values, Rng&) {
            rope_table_fill(make_view(values.data(), Dtype::f64, "table", 40, D), 1e4);
        };
        op.args = {{"qkv", Role::in, {s.N, (H + 2 * HKV) * s.D}},
                   {"q_weight", Role::in, {s.D}},
                   {"k_weight", Role::in, {s.D}},
                   {"table", Role::in, {40, s.D}, table},
                   {"positions", Role::index, {s.N}, below(40)},
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
        op.tolerance = 1e-6;
        op.reason = "fp32 sums of D squares and a rounded table";
        op.bytes = 8.0 * double(s.N * (H + HKV) * s.D);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}

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
        op.tolerance = 5e-7;
        op.reason = "a handful of fp32 roundings";
        op.bytes = 28.0 * double(n);
        op.perf = n == 1000000;
        cases.push_back(op);
    }
    return cases;
}
