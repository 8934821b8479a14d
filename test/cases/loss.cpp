// Cases of ops/loss.h: the statistics and, in place, the gradient. What has its own claim is in
// test/test_loss.cpp; the golden vectors hold the numbers to 1e-12 and 2e-6.
#include "llmc/ops/loss.h"

#include "test/cases/cases.h"

std::vector<OpCase> loss_cases() {
    struct Shape {
        int64_t N;
        int V, Vp, k;
        double beta, head, tail;
        RewardForm form;
        bool perf;
    };
    const RewardForm f = RewardForm::factor, e = RewardForm::exponent;
    std::vector<OpCase> cases;
    for (Shape s : {Shape{1, 1, 1, 1, 0, 0, 0, f, false},
                    {7, 13, 16, 4, -0.25, 0.05, -0.1, f, false},
                    {9, 257, 272, 20, 0.5, 0.1, -0.1, f, false},
                    {9, 257, 272, 300, -0.5, 0.1, -0.1, e, false},
                    {5, 1000, 1008, 0, 0, 0, -0.1, f, false},
                    {3, 5003, 5008, 100, 0.5, 0, 0.2, e, false},
                    {2, 9000, 9000, 100, -0.25, 0.1, -0.1, f, false}, // ascending: lists overflow
                    {4096, 257, 272, 20, -0.25, 0, -0.1, f, true},
                    {1024, 50304, 50304, 100, 0, 0, 0, f, true},
                    {1024, 50304, 50304, 100, -0.25, 0.05, -0.1, f, true}}) {
        LossShape shape{s.V, s.k, s.beta, s.head, s.tail, s.form, 1, 0.2, 0.28};
        auto targets = [V = s.V](std::vector<double>& values, Rng& rng) {
            for (double& v : values) v = rng.chance(0.2) ? kIgnoredTarget : double(rng.below(V));
        };
        auto logits = [Vp = s.Vp, ascending = s.V == 9000](std::vector<double>& values, Rng& rng) {
            for (size_t i = 0; i < values.size(); i++)
                values[i] = ascending ? 1e-3 * double(int(i) % Vp) : 3 * rng.normal();
        };
        auto old = [](std::vector<double>& values, Rng& rng) {
            for (double& v : values) v = -rng.uniform() * 8;
        };
        for (const bool grpo : {false, true}) {
            if (grpo && (s.perf || s.beta != 0.5)) continue;
            OpCase op;
            op.name = format("loss N=%ld V=%d Vp=%d k=%d beta=%g head=%g tail=%g%s%s", long(s.N),
                             s.V, s.Vp, s.k, s.beta, s.head, s.tail, s.form == f ? "" : " exponent",
                             grpo ? " ratio" : "");
            op.args = {{"logits", Role::acc, {s.N, s.Vp}, logits},
                       {"stats", Role::out, {s.N, kLossStats}},
                       {"targets", Role::index, {s.N}, targets},
                       {"scale", Role::in, {s.N}}};
            if (grpo) op.args.push_back({"old_logp", Role::in, {s.N}, old});
            op.forward = [shape, grpo](Ctx& ctx, Views& a) {
                loss_forward_backward(ctx, a["logits"], a["stats"], a["targets"], a["scale"],
                                      grpo ? a["old_logp"] : View{}, shape);
            };
            op.kernel_paths = {0, 1, 8}; // two sweeps, or so many blocks a row
            op.bf16_tolerance = kBf16Tolerance;
            op.single = {"stats", "scale", "old_logp"};
            op.tolerance = 5e-6;
            op.reason = "fp32 logits of size 10 lose 1e-6 of an exponential";
            op.bytes = 8.0 * double(s.N) * s.Vp;
            op.perf = s.perf;
            cases.push_back(op);
        }
    }
    return cases;
}
