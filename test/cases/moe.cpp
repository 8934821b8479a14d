// Cases of ops/moe.h.
#include "llmc/ops/moe.h"

#include "llmc/device/buffer.h"
#include "llmc/device/memory.h"
#include "test/cases/cases.h"

#include <algorithm>
#include <numeric>

namespace {

// N rows choose K of the experts lo..hi-1; the experts outside are empty.
struct Shape {
    int64_t N, C, O, E, K, lo, hi;
    bool perf;
};

const Shape kShapes[] = {
    {1, 1, 1, 1, 1, 0, 1, false},          // everything 1
    {7, 13, 5, 4, 2, 0, 3, false},         // last expert empty
    {31, 20, 33, 5, 2, 2, 5, false},       // first experts empty
    {130, 16, 40, 6, 1, 3, 4, false},      // all rows to one expert, several row blocks
    {37, 33, 130, 3, 3, 0, 3, false},      // K = E, more columns than one task takes
    {67, 131, 17, 16, 4, 0, 16, false},    // ordinary, with tails
    {9, 8, 16, 300, 12, 0, 300, false},    // more experts than threads, most without a slot
    {1400, 2, 3, 7, 3, 1, 6, false},       // choices of two blocks, a row of both, experts empty
    {1024, 256, 256, 32, 4, 0, 32, true},  // training
    {8, 256, 256, 32, 4, 0, 32, true},     // decoding
    {4096, 128, 64, 384, 12, 0, 384, true} // many small experts
};

std::string name_of(const char* op, const Shape& s) {
    return format("%s N=%ld C=%ld O=%ld E=%ld K=%ld experts %ld..%ld", op, long(s.N), long(s.C),
                  long(s.O), long(s.E), long(s.K), long(s.lo), long(s.hi - 1));
}

std::vector<double> choose_experts(const Shape& s) {
    Rng rng(uint64_t(s.N), uint64_t(s.E));
    std::vector<double> experts;
    std::vector<int> pool(s.hi - s.lo);
    std::iota(pool.begin(), pool.end(), int(s.lo));
    for (int64_t n = 0; n < s.N; n++) {
        for (int64_t k = 0; k < s.K; k++)
            std::swap(pool[k], pool[rng.between(k, int64_t(pool.size()) - 1)]);
        std::sort(pool.begin(), pool.begin() + s.K);
        experts.insert(experts.end(), pool.begin(), pool.begin() + s.K);
    }
    return experts;
}

// The drawing of moe.h by its definition, not by a counting sort.
struct Slots {
    std::vector<double> offsets = {0}, slot_row, row_slot;
};

Slots make_slots(const Shape& s) {
    Slots slots;
    const std::vector<double> experts = choose_experts(s);
    slots.row_slot.resize(experts.size());
    for (int64_t e = 0; e < s.E; e++) {
        for (int64_t i = 0; i < s.N * s.K; i++)
            if (experts[i] == double(e)) {
                slots.row_slot[i] = double(slots.slot_row.size());
                slots.slot_row.push_back(double(i / s.K));
            }
        slots.offsets.push_back(double(slots.slot_row.size()));
    }
    return slots;
}

std::function<void(std::vector<double>&, Rng&)> fixed(std::vector<double> values) {
    return [values](std::vector<double>& out, Rng&) { out = values; };
}

OpCase router_case(const Shape& s) {
    OpCase op;
    op.name = name_of("router", s);
    auto small = [](std::vector<double>& values, Rng& rng) {
        for (double& value : values) value = 0.1 * rng.normal();
    };
    op.args = {{"logits", Role::in, {s.N, s.E}, nullptr, s.E + 3},
               {"bias", Role::in, {s.E}, small},
               {"weights", Role::out, {s.N, s.K}},
               {"experts", Role::out_i32, {s.N, s.K}},
               {"scores", Role::out, {s.N, s.E}}};
    op.forward = [](Ctx& ctx, Views& a) {
        router_forward(ctx, a["weights"], a["experts"], a["scores"], a["logits"], a["bias"], 1.5);
    };
    op.backward = [](Ctx& ctx, Views& a, Views& d) {
        router_backward(ctx, d["logits"], d["weights"], a["weights"], a["experts"], a["scores"],
                        1.5);
    };
    op.outputs = {"weights"};
    op.inputs = {{"logits", GradMode::written}};
    op.tolerance = 5e-7;
    op.reason = "fp32 sigmoid and a sum of K";
    op.kernel_paths = {-1};
    op.bytes = 8.0 * double(s.N) * double(s.E);
    op.flops = 4.0 * double(s.N) * double(s.E);
    op.perf = s.perf;
    return op;
}

OpCase slots_case(const Shape& s) {
    OpCase op;
    op.name = name_of("slots", s);
    op.args = {{"experts", Role::index, {s.N, s.K}, fixed(choose_experts(s))},
               {"offsets", Role::out_i32, {s.E + 1}},
               {"slot_row", Role::out_i32, {s.N * s.K}},
               {"row_slot", Role::out_i32, {s.N, s.K}}};
    op.forward = [](Ctx& ctx, Views& a) {
        slots_forward(ctx, a["offsets"], a["slot_row"], a["row_slot"], a["experts"]);
    };
    op.reason = "integers";
    op.kernel_paths = {-1};
    op.bytes = 12.0 * double(s.N) * double(s.K);
    op.perf = s.perf;
    return op;
}

// With `gathered`, inp is (N, C) and its gradient goes through moe_gather_backward; without, inp
// is a row per slot.
OpCase grouped_case(const Shape& s, bool gathered) {
    const int64_t S = s.N * s.K;
    const Slots slots = make_slots(s);
    OpCase op;
    op.name = name_of(gathered ? "grouped_linear gathered" : "grouped_linear", s);
    op.args = {{"inp", Role::in, {gathered ? s.N : S, s.C}, nullptr, s.C + 2},
               {"weight", Role::in, {s.E, s.O, s.C}},
               {"offsets", Role::index, {s.E + 1}, fixed(slots.offsets)},
               {"slot_row", Role::index, {S}, fixed(slots.slot_row)},
               {"row_slot", Role::index, {s.N, s.K}, fixed(slots.row_slot)},
               {"out", Role::out, {S, s.O}, nullptr, s.O + 1}};
    op.forward = [gathered](Ctx& ctx, Views& a) {
        grouped_linear_forward(ctx, a["out"], a["inp"], gathered ? a["slot_row"] : View(),
                               a["weight"], a["offsets"]);
    };
    op.backward = [gathered, S, s](Ctx& ctx, Views& a, Views& d) {
        if (!gathered)
            return grouped_linear_backward(ctx, d["inp"], d["weight"], d["out"], a["inp"], View(),
                                           a["weight"], a["offsets"]);
        Buffer dslots(d["inp"].dtype, "dslots", S, s.C);
        grouped_linear_backward(ctx, dslots.view(), d["weight"], d["out"], a["inp"], a["slot_row"],
                                a["weight"], a["offsets"]);
        moe_gather_backward(ctx, d["inp"], dslots.view(), a["row_slot"]);
    };
    op.outputs = {"out"};
    op.inputs = {{"inp", GradMode::written}, {"weight", GradMode::accumulated}};
    op.tolerance = 1e-6;
    op.reason = "one fp32 chain of C products";
    op.single = {"dweight"};
    op.kernel_paths = {-1};
    op.bf16_tolerance = kBf16Tolerance;
    op.bytes = 4.0 * double(s.E * s.O * s.C + S * (s.C + s.O));
    op.flops = 2.0 * double(S * s.O * s.C);
    op.perf = s.perf;
    return op;
}

OpCase combine_case(const Shape& s) {
    const int64_t S = s.N * s.K;
    OpCase op;
    op.name = name_of("moe_combine", s);
    op.args = {{"slots", Role::in, {S, s.C}, nullptr, s.C + 1},
               {"weights", Role::in, {s.N, s.K}},
               {"row_slot", Role::index, {s.N, s.K}, fixed(make_slots(s).row_slot)},
               {"out", Role::out, {s.N, s.C}, nullptr, s.C + 3}};
    op.forward = [](Ctx& ctx, Views& a) {
        moe_combine_forward(ctx, a["out"], a["slots"], a["weights"], a["row_slot"]);
    };
    op.backward = [](Ctx& ctx, Views& a, Views& d) {
        moe_combine_backward(ctx, d["slots"], d["weights"], d["out"], a["slots"], a["weights"],
                             a["row_slot"]);
    };
    op.outputs = {"out"};
    op.inputs = {{"slots", GradMode::written}, {"weights", GradMode::written}};
    op.tolerance = 5e-7;
    op.reason = "fp32 sums of K products; dweights sums C";
    op.single = {"weights", "dweights"};
    op.kernel_paths = {-1, 0}; // 0: rows that shared memory has no room for
    op.bf16_tolerance = kBf16Tolerance;
    op.bytes = 4.0 * double((S + s.N) * s.C);
    op.flops = 2.0 * double(S * s.C);
    op.perf = s.perf;
    return op;
}

OpCase counts_case(const Shape& s) {
    OpCase op;
    op.name = name_of("moe_counts_update", s);
    op.args = {{"experts", Role::index, {s.N, s.K}, fixed(choose_experts(s))},
               {"counts", Role::out_i32, {s.E}}};
    op.forward = [](Ctx& ctx, Views& a) {
        fill_zero(ctx, a["counts"]);
        moe_counts_update(ctx, a["counts"], a["experts"]);
    };
    op.reason = "integers";
    op.kernel_paths = {-1};
    op.perf = s.perf;
    return op;
}

OpCase bias_case(const Shape& s) {
    std::vector<double> counts(s.E, 0.0);
    for (double e : choose_experts(s)) counts[size_t(e)]++;
    OpCase op;
    op.name = name_of("moe_bias_update", s);
    op.args = {{"bias", Role::acc, {s.E}}, {"counts", Role::index, {s.E}, fixed(counts)}};
    op.forward = [](Ctx& ctx, Views& a) { moe_bias_update(ctx, a["bias"], a["counts"], 1e-3); };
    op.tolerance = 1e-6;
    op.reason = "one fp32 addition";
    op.kernel_paths = {-1};
    op.bytes = 12.0 * double(s.E);
    op.perf = s.perf;
    return op;
}

} // namespace

std::vector<OpCase> moe_cases() {
    std::vector<OpCase> cases;
    for (const Shape& s : kShapes) {
        cases.push_back(router_case(s));
        cases.push_back(slots_case(s));
        cases.push_back(grouped_case(s, true));
        cases.push_back(grouped_case(s, false));
        cases.push_back(combine_case(s));
        cases.push_back(counts_case(s));
        cases.push_back(bias_case(s));
    }
    return cases;
}
