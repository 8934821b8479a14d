// ops/moe: what the op cases cannot say. The load-balance simulation is that of Wang et al.,
// arXiv 2408.15664, with a frozen router: logits N(mu_e, 0.64^2), mu_e from N(0, 0.3^2), 384
// experts, 12 per token, 4096 tokens per step.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/moe.h"
#include "test/catch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

double get(const View& view, int64_t i) { return read_value(view, i); }
void set(View view, const std::vector<double>& values) {
    for (size_t i = 0; i < values.size(); i++) write_value(view, int64_t(i), values[i]);
}
std::vector<double> normals(int64_t count, uint64_t stream) {
    Rng rng(7, stream);
    std::vector<double> values(count);
    for (double& value : values) value = double(float(rng.normal()));
    return values;
}

// One routed step: its inputs are set by the test.
struct Routing {
    Buffer logits, bias, weights, experts, scores;
    Routing(const Ctx& ctx, int64_t N, int64_t E, int64_t K)
        : logits(ctx.dtype(), "logits", N, E), bias(ctx.dtype(), "bias", E),
          weights(ctx.dtype(), "weights", N, K), experts(Dtype::i32, "experts", N, K),
          scores(ctx.dtype(), "scores", N, E) {}
    void forward(Ctx& ctx, double scale) {
        router_forward(ctx, weights.view(), experts.view(), scores.view(), logits.view(),
                       bias.view(), scale);
    }
    std::vector<int> chosen(int64_t row) {
        const int64_t K = experts.view().shape[1];
        const int32_t* e = experts.as<int32_t>() + row * K;
        return {e, e + K};
    }
};

// The whole layer with one product: router, slots, gathered product, combine. Returns out (N, O).
std::vector<float> layer(Ctx& ctx, int64_t N, int64_t C, int64_t O, int64_t E, int64_t K,
                         const std::vector<double>& inp, const std::vector<double>& logits,
                         const std::vector<double>& weight) {
    Routing routing(ctx, N, E, K);
    set(routing.logits.view(), {logits.begin(), logits.begin() + N * E});
    routing.forward(ctx, 1.0);
    Buffer offsets(Dtype::i32, "offsets", E + 1), slot_row(Dtype::i32, "slot_row", N * K),
        row_slot(Dtype::i32, "row_slot", N, K);
    slots_forward(ctx, offsets.view(), slot_row.view(), row_slot.view(), routing.experts.view());
    Buffer x(ctx.dtype(), "inp", N, C), w(ctx.dtype(), "weight", E, O, C),
        y(ctx.dtype(), "slots", N * K, O), out(ctx.dtype(), "out", N, O);
    set(x.view(), {inp.begin(), inp.begin() + N * C});
    set(w.view(), weight);
    grouped_linear_forward(ctx, y.view(), x.view(), slot_row.view(), w.view(), offsets.view());
    moe_combine_forward(ctx, out.view(), y.view(), routing.weights.view(), row_slot.view());
    std::vector<float> result(N * O);
    for (int64_t i = 0; i < N * O; i++) result[i] = float(get(out.view(), i));
    return result;
}

} // namespace

TEST_CASE("moe: equal scores go to the lowest index", "[op][moe]") {
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 1);
        Routing routing(ctx, 3, 40, 5);
        std::vector<double> logits(3 * 40, 0.25);     // row 0: all equal
        for (int e : {39, 7, 21}) logits[40 + e] = 1; // row 1: three above, two of a tie
        for (int e = 0; e < 35; e++) logits[80 + e] = -double(e % 2) - 1; // row 2: the tail wins
        set(routing.logits.view(), logits);
        routing.forward(ctx, 1.0);
        CHECK(routing.chosen(0) == std::vector<int>{0, 1, 2, 3, 4});
        CHECK(routing.chosen(1) == std::vector<int>{0, 1, 7, 21, 39});
        CHECK(routing.chosen(2) == std::vector<int>{35, 36, 37, 38, 39});
    }
}

TEST_CASE("moe: the bias selects and does not weigh", "[op][moe]") {
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 1);
        Routing routing(ctx, 1, 4, 2);
        set(routing.logits.view(), {2, 1, 0, -1});
        set(routing.bias.view(), {0, 0, 0, 5});
        routing.forward(ctx, 2.0);
        CHECK(routing.chosen(0) == std::vector<int>{0, 3});
        const double s0 = 1 / (1 + std::exp(-2.0)), s3 = 1 / (1 + std::exp(1.0));
        CHECK(std::fabs(get(routing.weights.view(), 0) - 2 * s0 / (s0 + s3)) < 1e-6);
        CHECK(std::fabs(get(routing.weights.view(), 1) - 2 * s3 / (s0 + s3)) < 1e-6);
    }
}

TEST_CASE("moe: K = E selects every expert and the weights sum to the scale", "[op][moe]") {
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 2);
        Routing routing(ctx, 9, 19, 19);
        set(routing.logits.view(), normals(9 * 19, 1));
        set(routing.bias.view(), normals(19, 2));
        routing.forward(ctx, 2.5);
        for (int n = 0; n < 9; n++) {
            std::vector<int> all(19);
            std::iota(all.begin(), all.end(), 0);
            CHECK(routing.chosen(n) == all);
            double sum = 0;
            for (int k = 0; k < 19; k++) sum += get(routing.weights.view(), n * 19 + k);
            CHECK(std::fabs(sum - 2.5) < 2.5e-6);
        }
    }
}

TEST_CASE("moe: with one expert per token the router gets exactly no gradient", "[op][moe]") {
    const int N = 64, E = 6; // the weight is the scale whatever the score is
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 1);
        Routing routing(ctx, N, E, 1);
        set(routing.logits.view(), normals(N * E, 1));
        routing.forward(ctx, 1.5);
        Buffer dweights(ctx.dtype(), "dweights", N, 1), dlogits(ctx.dtype(), "dlogits", N, E);
        set(dweights.view(), normals(N, 2));
        router_backward(ctx, dlogits.view(), dweights.view(), routing.weights.view(),
                        routing.experts.view(), routing.scores.view(), 1.5);
        double largest = 0;
        for (int i = 0; i < N * E; i++)
            largest = std::max(largest, std::fabs(get(dlogits.view(), i)));
        CHECK(largest == 0);
    }
}

TEST_CASE("moe: every routed pair has exactly one slot, experts ascending, rows ascending",
          "[op][moe]") {
    const int N = 61, E = 8;
    for (int K : {1, 3, 8})
        for (int step : {0, 1, 3}) { // step 0, K = 1: all rows to expert 0, the others empty
            std::vector<int32_t> experts;
            for (int n = 0; n < N; n++) {
                std::vector<int32_t> row(K);
                for (int k = 0; k < K; k++) row[k] = (n * step + k) % E;
                std::sort(row.begin(), row.end());
                experts.insert(experts.end(), row.begin(), row.end());
            }
            Ctx ctx(Backend::cpu, 2);
            std::vector<int32_t> offsets(E + 1), slot_row(N * K), row_slot(N * K), used(N * K);
            slots_forward(ctx, make_view(offsets.data(), Dtype::i32, "offsets", E + 1),
                          make_view(slot_row.data(), Dtype::i32, "slot_row", N * K),
                          make_view(row_slot.data(), Dtype::i32, "row_slot", N, K),
                          make_view(experts.data(), Dtype::i32, "experts", N, K));
            bool right = offsets[0] == 0 && offsets[E] == N * K;
            for (int i = 0; i < N * K; i++) {
                const int slot = row_slot[i];
                used[slot]++;
                right = right && slot_row[slot] == i / K && slot >= offsets[experts[i]] &&
                        slot < offsets[experts[i] + 1];
            }
            for (int e = 0; e < E; e++)
                for (int s = offsets[e] + 1; s < offsets[e + 1]; s++)
                    right = right && slot_row[s - 1] < slot_row[s];
            INFO("K " << K << " step " << step);
            CHECK(right);
            CHECK(used == std::vector<int32_t>(N * K, 1));
        }
}

TEST_CASE("moe: equal experts are one dense layer, whatever the routing", "[op][moe]") {
    const int64_t N = 50, C = 24, O = 10, E = 6, K = 3;
    auto inp = normals(N * C, 1), one = normals(O * C, 2);
    std::vector<double> weight;
    for (int64_t e = 0; e < E; e++) weight.insert(weight.end(), one.begin(), one.end());
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 2);
        auto out = layer(ctx, N, C, O, E, K, inp, normals(N * E, 3), weight);
        double worst = 0;
        for (int64_t i = 0; i < N * O; i++) {
            double want = 0;
            for (int64_t c = 0; c < C; c++) want += inp[i / O * C + c] * one[i % O * C + c];
            worst = std::max(worst, std::fabs(out[i] - want));
        }
        CHECK(worst < 1e-5); // fp32 sums of 24 products of size 1
    }
}

TEST_CASE("moe: a row does not depend on the number of rows", "[op][moe][cpu]") {
    const int64_t N = 150, E = 7;
    for (auto [C, O, K] : {std::array<int64_t, 3>{33, 29, 2}, {64, 150, 1}, {130, 48, 7}}) {
        auto inp = normals(N * C, 1), logits = normals(N * E, 2), weight = normals(E * O * C, 3);
        Ctx two(Backend::cpu, 2), one(Backend::cpu, 1);
        auto full = layer(two, N, C, O, E, K, inp, logits, weight);
        for (int64_t rows : {1, 2, 3, 8, 9, 17, 63, 64, 65, 149}) {
            auto part = layer(one, rows, C, O, E, K, inp, logits, weight);
            INFO("C " << C << " O " << O << " K " << K << " rows " << rows);
            CHECK(std::memcmp(part.data(), full.data(), part.size() * sizeof(float)) == 0);
        }
    }
}

TEST_CASE("moe: MaxVio is the excess of the fullest expert over the mean", "[op][moe]") {
    const int32_t even[] = {5, 5, 5, 5}, one[] = {0, 8, 0, 0}, none[] = {0, 0};
    CHECK(max_violation(even, 4) == 0);
    CHECK(max_violation(one, 4) == 3); // E - 1: all tokens to one expert
    CHECK(max_violation(none, 2) == 0);
}

TEST_CASE("moe: the bias update keeps the mean and rests when balanced", "[op][moe]") {
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 1);
        Buffer bias(ctx.dtype(), "bias", 4), counts(Dtype::i32, "counts", 4);
        auto update = [&](std::vector<int32_t> c) {
            std::copy(c.begin(), c.end(), counts.as<int32_t>());
            moe_bias_update(ctx, bias.view(), counts.view(), 0.5);
        };
        update({3, 3, 3, 3});
        for (int e = 0; e < 4; e++) CHECK(get(bias.view(), e) == 0);
        update({9, 1, 1, 1}); // signs -1, 1, 1, 1 with mean 1/2
        CHECK(get(bias.view(), 0) == -0.75);
        for (int e = 1; e < 4; e++) CHECK(get(bias.view(), e) == 0.25);
    }
}

// ------------------------------------------------------------------------------------------------
// load balance

namespace {

enum class Rule { zero_mean, plain, none };

// A frozen router under the bias updates. Noise is read at random places of a pool of 2^20 draws.
struct Simulation {
    static constexpr int kTokens = 4096, kExperts = 384, kChosen = 12;
    Ctx ctx{Backend::cpu, 2};
    Routing routing{ctx, kTokens, kExperts, kChosen};
    std::vector<double> pool = normals(1 << 20, 11), mu = normals(kExperts, 12);
    Rng rng{7, 13};
    double spread;
    explicit Simulation(double spread_) : spread(spread_) {}

    double step(Rule rule, double rate) { // MaxVio of the step, before its update
        float* logits = routing.logits.as<float>();
        for (int n = 0; n < kTokens; n++) {
            const int64_t from = rng.below(int64_t(pool.size()) - kExperts);
            for (int e = 0; e < kExperts; e++)
                logits[n * kExperts + e] = float(spread * mu[e] + 0.64 * pool[from + e]);
        }
        routing.forward(ctx, 1.0);
        std::vector<int32_t> counts(kExperts, 0);
        for (int i = 0; i < kTokens * kChosen; i++) counts[routing.experts.as<int32_t>()[i]]++;
        float* bias = routing.bias.as<float>();
        const double mean = double(kTokens) * kChosen / kExperts;
        if (rule == Rule::zero_mean)
            moe_bias_update(ctx, routing.bias.view(),
                            make_view(counts.data(), Dtype::i32, "counts", kExperts), rate);
        if (rule == Rule::plain)
            for (int e = 0; e < kExperts; e++)
                bias[e] += float(rate * ((counts[e] < mean) - (counts[e] > mean)));
        return max_violation(counts.data(), kExperts);
    }
    double bias_mean() {
        const float* bias = routing.bias.as<float>();
        return std::accumulate(bias, bias + kExperts, 0.0) / kExperts;
    }
    double mean_of_steps(int steps, Rule rule, double rate) {
        double sum = 0;
        for (int i = 0; i < steps; i++) sum += step(rule, rate) / steps;
        return sum;
    }
};

} // namespace

TEST_CASE("moe: the zero-mean sign update brings MaxVio to the sampling floor", "[moe][slow]") {
    Simulation uniform(0.0), routed(0.3);
    const double floor = uniform.mean_of_steps(20, Rule::none, 0);
    // Largest of 384 near-normal counts with mean 128: sqrt(2 ln 384 / 128).
    CHECK(std::fabs(floor - std::sqrt(2 * std::log(384.0) / 128)) < 0.06);
    const double first = routed.step(Rule::zero_mean, 1e-3);
    for (int i = 1; i < 100; i++) routed.step(Rule::zero_mean, 1e-3);
    const double at100 = routed.step(Rule::zero_mean, 1e-3);
    for (int i = 101; i < 170; i++) routed.step(Rule::zero_mean, 1e-3);
    const double late = routed.mean_of_steps(30, Rule::zero_mean, 1e-3);
    INFO("MaxVio floor " << floor << ", step 0 " << first << ", 100 " << at100 << ", 170..199 "
                         << late << "; bias mean " << routed.bias_mean());
    CHECK(first > 5);
    CHECK(at100 < first / 3);
    CHECK(late < 1.25 * floor);
    CHECK(std::fabs(routed.bias_mean()) < 1e-6);
}

TEST_CASE("moe: the plain sign update balances the same and drifts", "[moe][slow]") {
    Simulation zero(0.3), plain(0.3);
    double worst = 0;
    for (int i = 0; i < 60; i++)
        worst = std::max(
            worst, std::fabs(zero.step(Rule::zero_mean, 1e-3) - plain.step(Rule::plain, 1e-3)));
    INFO("largest difference of MaxVio " << worst << "; bias mean " << zero.bias_mean() << " and "
                                         << plain.bias_mean());
    CHECK(worst < 0.05); // equal but for rounding at near-ties
    CHECK(std::fabs(zero.bias_mean()) < 1e-6);
    CHECK(std::fabs(plain.bias_mean()) > 1e-3);
}

TEST_CASE("moe: rate 1e-2 balances early and oscillates above the floor", "[moe][slow]") {
    Simulation fast(0.3), slow(0.3);
    fast.mean_of_steps(20, Rule::zero_mean, 1e-2);
    slow.mean_of_steps(20, Rule::zero_mean, 1e-4);
    const double early = fast.step(Rule::zero_mean, 1e-2),
                 behind = slow.step(Rule::zero_mean, 1e-4);
    fast.mean_of_steps(60, Rule::zero_mean, 1e-2);
    const double late = fast.mean_of_steps(20, Rule::zero_mean, 1e-2);
    INFO("MaxVio at 20: " << early << " (1e-2), " << behind << " (1e-4); 81..100 " << late);
    CHECK(early < 1);
    CHECK(behind > 5);
    CHECK((late > 0.38 && late < 0.7));
}
