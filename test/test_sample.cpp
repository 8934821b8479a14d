// ops/sample: distribution, truncation, order, and what a row may depend on.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/sample.h"
#include "llmc/rollout/engine.h"
#include "test/catch.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace {

// Samples with the given uniform numbers from rows of logits of width Vp (repeated if there are
// fewer rows than numbers).
std::vector<int> sample(Backend backend, const std::vector<double>& logits, int Vp,
                        const std::vector<double>& uniform, const SampleShape& shape,
                        int threads = 2, std::vector<double>* kept_mass = nullptr) {
    Ctx ctx(backend, threads);
    const int64_t N = int64_t(uniform.size());
    Buffer z(ctx.dtype(), "logits", N, Vp), u(Dtype::f64, "uniform", N), t(Dtype::i32, "tokens", N);
    for (int64_t i = 0; i < N * Vp; i++) {
        const double value = logits[size_t(i) % logits.size()];
        if (backend == Backend::ref) z.as<double>()[i] = value;
        else z.as<float>()[i] = float(value);
    }
    std::copy(uniform.begin(), uniform.end(), u.as<double>());
    std::fill_n(t.as<int32_t>(), N, -7);
    Buffer kept(Dtype::f64, "kept", N);
    sample_forward(ctx, t.view(), kept.view(), z.view(), u.view(), shape);
    if (kept_mass) kept_mass->assign(kept.as<double>(), kept.as<double>() + N);
    return std::vector<int>(t.as<int32_t>(), t.as<int32_t>() + N);
}

std::vector<double> random_logits(int64_t count, uint64_t stream) {
    Rng rng(23, stream);
    std::vector<double> logits(count);
    for (double& z : logits) z = double(float(2 * rng.normal()));
    return logits;
}

std::vector<double> random_uniform(int64_t count, uint64_t stream) {
    Rng rng(29, stream);
    std::vector<double> uniform(count);
    for (double& u : uniform) u = rng.uniform();
    return uniform;
}

// (i + 1/2) / count: the share of a token is its probability, to within 1 / count.
std::vector<double> even_uniform(int count) {
    std::vector<double> uniform(count);
    for (int i = 0; i < count; i++) uniform[i] = (i + 0.5) / count;
    return uniform;
}

// Rows of the kernel cost a block of threads each.
int fewer(Backend backend, int count) { return backend == Backend::simt ? count / 32 : count; }

std::vector<double> logs(std::vector<double> p) {
    for (double& x : p) x = std::log(x);
    return p;
}

const Backend kBackends[] = {Backend::ref, Backend::cpu, Backend::simt};

} // namespace

TEST_CASE("sample: greedy takes the lowest index among equals", "[op][sample]") {
    for (Backend backend : kBackends) {
        CHECK(sample(backend, {1, 3, 2, 3, 3}, 5, {0.99}, {5, 0, 1, 0}) == std::vector{1});
        CHECK(sample(backend, {-5, -5, -5}, 3, {0.5}, {3, 0, 1, 0}) == std::vector{0});
        for (int V : {15, 16, 17, 257}) // the largest one in the last place, and twice
            for (int copies : {1, 2}) {
                std::vector<double> z(V, -1.0);
                for (int i = 0; i < copies; i++) z[V - 1 - 7 * i] = 4;
                CHECK(sample(backend, z, V, {0}, {V, 0, 1, 0}) ==
                      std::vector{V - 1 - 7 * (copies - 1)});
            }
    }
}

TEST_CASE("sample: the inverse of the cumulative distribution in index order", "[op][sample]") {
    const std::vector<double> p = {0.125, 0.5, 0.25, 0.125}; // cumulative 0.125 0.625 0.875 1
    for (Backend backend : kBackends) {
        const SampleShape shape = {4, 1, 1, 0};
        const double e = 1e-5; // ln and exp in fp32 do not give back p exactly
        const std::vector<double> u = {0,         0.125 - e, 0.125 + e, 0.625 - e,
                                       0.625 + e, 0.875 - e, 0.875 + e, 1 - 0x1p-53};
        CHECK(sample(backend, logs(p), 4, u, shape) == std::vector{0, 0, 1, 1, 2, 2, 3, 3});
        for (int V : {1, 17, 257, 1000}) { // larger numbers never give a lower index
            const auto tokens = sample(backend, random_logits(V, uint64_t(V)), V,
                                       even_uniform(fewer(backend, 2000)), {V, 0.9, 1, 0});
            CHECK(std::is_sorted(tokens.begin(), tokens.end()));
        }
    }
}

TEST_CASE("sample: shares are softmax(logits / temperature)", "[op][sample]") {
    const int V = 300, count = 200000;
    const auto z = random_logits(V, 1);
    for (double temperature : {0.5, 1.0, 1.7}) {
        std::vector<double> share(V);
        for (int token : sample(Backend::cpu, z, V, even_uniform(count), {V, temperature, 1, 0}))
            share[token] += 1.0 / count;
        double sum = 0, worst = 0;
        for (double x : z) sum += std::exp(x / temperature);
        for (int v = 0; v < V; v++)
            worst = std::max(worst, std::fabs(share[v] - std::exp(z[v] / temperature) / sum));
        CHECK(worst < 1.1 / count); // a run of even numbers is off by one at most
    }
}

TEST_CASE("sample: top_k keeps the largest, the lower index among equals", "[op][sample]") {
    for (Backend backend : kBackends) {
        auto kept = [&](std::vector<double> z, double top_p, int top_k) {
            const int V = int(z.size());
            auto tokens =
                sample(backend, z, V, even_uniform(fewer(backend, 4096)), {V, 1, top_p, top_k});
            tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
            return tokens;
        };
        CHECK(kept({1, 2, 2, 2, 0}, 1, 2) == std::vector{1, 2});
        CHECK(kept({1, 2, 2, 2, 0}, 1, 3) == std::vector{1, 2, 3});
        CHECK(kept({1, 2, 2, 2, 0}, 1, 1) == std::vector{1});
        CHECK(kept({1, 2, 2, 2, 0}, 1, 99) == std::vector{0, 1, 2, 3, 4});
        CHECK(kept({0, 0, 0, 0, 0, 0}, 1, 4) == std::vector{0, 1, 2, 3});
    }
}

TEST_CASE("sample: top_p keeps the smallest likely set that reaches it", "[op][sample]") {
    for (Backend backend : kBackends) {
        auto kept = [&](std::vector<double> p, double top_p, int top_k) {
            const int V = int(p.size());
            auto tokens = sample(backend, logs(p), V, even_uniform(fewer(backend, 4096)),
                                 {V, 1, top_p, top_k});
            tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
            return tokens;
        };
        const std::vector<double> p = {0.1, 0.4, 0.2, 0.3};
        CHECK(kept(p, 0.39, 0) == std::vector{1});
        CHECK(kept(p, 0.41, 0) == std::vector{1, 3});
        CHECK(kept(p, 0.69, 0) == std::vector{1, 3});
        CHECK(kept(p, 0.71, 0) == std::vector{1, 2, 3});
        CHECK(kept(p, 0.91, 0) == std::vector{0, 1, 2, 3});
        CHECK(kept(p, 1e-9, 0) == std::vector{1}); // never empty
        // after top_k, the mass is that of the tokens kept: 0.4 + 0.3, of which 0.4 is 57 %
        CHECK(kept(p, 0.56, 2) == std::vector{1});
        CHECK(kept(p, 0.58, 2) == std::vector{1, 3});
        CHECK(kept({0.25, 0.25, 0.25, 0.25}, 0.49, 0) == std::vector{0, 1}); // ties: lower first
        CHECK(kept({0.25, 0.25, 0.25, 0.25}, 0.5, 0) == std::vector{0, 1});  // reached exactly
        CHECK(kept({0.25, 0.25, 0.25, 0.25}, 0.51, 0) == std::vector{0, 1, 2});
    }
}

TEST_CASE("sample: truncated shares are renormalised", "[op][sample]") {
    for (Backend backend : kBackends) {
        const int count = fewer(backend, 100000);
        std::vector<double> share(4);
        for (int token :
             sample(backend, logs({0.1, 0.4, 0.2, 0.3}), 4, even_uniform(count), {4, 1, 0.8, 0}))
            share[token] += 1.0 / count;
        CHECK(share[0] == 0);
        CHECK(share[1] == Approx(4.0 / 9).margin(2.0 / count));
        CHECK(share[2] == Approx(2.0 / 9).margin(2.0 / count));
        CHECK(share[3] == Approx(3.0 / 9).margin(2.0 / count));
    }
}

TEST_CASE("sample: cpu and kernel draw the reference's tokens", "[op][sample][cpu][simt]") {
    // Other tokens are possible only where a number falls within 1e-7 of a boundary.
    for (int V : {1, 2, 13, 16, 257, 2049})
        for (SampleShape shape : {SampleShape{V, 0, 1, 0},
                                  {V, 1, 1, 0},
                                  {V, 0.6, 1, 7},
                                  {V, 1, 0.9, 0},
                                  {V, 1.3, 0.95, 0},
                                  {V, 1, 0.8, 5},
                                  {V, 1, 0.999999, 0},
                                  {V, 3, 0.999, 600}}) {
            INFO("V " << V << " temperature " << shape.temperature << " top_p " << shape.top_p
                      << " top_k " << shape.top_k);
            const int N = 50, Vp = V + 5;
            auto z = random_logits(int64_t(N) * Vp, uint64_t(V));
            for (int n = 0; n < N; n += 3) // equal logits, far logits, impossible tokens
                for (int v = 0; v < V; v++)
                    z[n * Vp + v] = n % 2   ? std::round(z[n * Vp + v])
                                    : v % 3 ? 8 * z[n * Vp + v]
                                            : -INFINITY;
            for (int n = 0; n < N; n++) z[n * Vp] = 0;
            const auto u = random_uniform(N, uint64_t(V));
            const auto want = sample(Backend::ref, z, Vp, u, shape);
            CHECK(sample(Backend::cpu, z, Vp, u, shape) == want);
            CHECK(sample(Backend::simt, z, Vp, u, shape) == want);
        }
}

TEST_CASE("sample: cpu and kernel cut where the reference does on hard rows",
          "[op][sample][cpu][simt]") {
    const int V = 5003;
    const auto noise = random_logits(V, 11);
    auto row = [&](auto value) {
        std::vector<double> z(V);
        for (int v = 0; v < V; v++) z[v] = double(float(value(v)));
        return z;
    };
    const std::vector<double> rows[] = {
        row([](int) { return 3.0; }),                                    // all equal
        row([](int v) { return v % 7 == 0 ? 2.0 : 1.0; }),               // two levels
        row([](int v) { return -v; }),                                   // one token holds most
        row([](int v) { return v < 4000 ? -INFINITY : 0.001 * v; }),     // few are possible
        row([&](int v) { return 1e4 + noise[v]; }),                      // coarse logits
        row([&](int v) { return v == 4999 ? 1e5 : 1e-3 * noise[v]; }),   // far behind the first
        row([&](int v) { return std::nextafter(1.0, 1.0 + noise[v]); }), // a few units apart
        row([&](int v) { return v % 2 ? noise[v] : -1e30 * (1 + v % 5); }),
    };
    const auto u = even_uniform(15);
    for (size_t i = 0; i < std::size(rows); i++)
        for (double temperature : {0.3, 1.0})
            for (double top_p : {0.1, 0.73, 0.9999, 1.0})
                for (int top_k : {0, 1, 17, 2000, 5002}) {
                    INFO("row " << i << " temperature " << temperature << " top_p " << top_p
                                << " top_k " << top_k);
                    const SampleShape shape = {V, temperature, top_p, top_k};
                    const auto got = sample(Backend::cpu, rows[i], V, u, shape);
                    const auto want = sample(Backend::ref, rows[i], V, u, shape);
                    for (size_t n = 0; n < u.size(); n++) {
                        INFO("u " << u[n]);
                        CHECK(got[n] == want[n]);
                    }
                    if (temperature == 1)
                        CHECK(sample(Backend::simt, rows[i], V, {u[1], u[11]}, shape) ==
                              std::vector{want[1], want[11]});
                }
}

TEST_CASE("sample: the mass that was drawn from", "[op][sample]") {
    for (Backend backend : kBackends) {
        auto kept = [&](double temperature, double top_p, int top_k) {
            std::vector<double> mass;
            sample(backend, logs({0.1, 0.4, 0.2, 0.3}), 4, {0.3, 0.6},
                   {4, temperature, top_p, top_k}, 2, &mass);
            CHECK(mass[0] == mass[1]);
            return mass[0];
        };
        CHECK(kept(1, 1, 0) == 1);
        CHECK(kept(0, 0.5, 2) == 1);
        CHECK(kept(1, 0.8, 0) == Approx(0.9).epsilon(1e-6));
        CHECK(kept(1, 1, 2) == Approx(0.7).epsilon(1e-6));
        CHECK(kept(1, 0.56, 2) == Approx(0.4).epsilon(1e-6));
        CHECK(kept(0.5, 1, 2) == Approx(0.25 / 0.3).epsilon(1e-6)); // 0.16 + 0.09 of 0.30
    }
}

namespace {

// softmax(z / temperature), cut to top_k, then to top_p, and renormalised: exact, in double.
std::vector<double> exact_shares(const std::vector<double>& z, const SampleShape& shape) {
    std::vector<int> order(z.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return z[a] > z[b]; });
    if (shape.top_k > 0) order.resize(std::min(order.size(), size_t(shape.top_k)));
    std::vector<double> p(z.size());
    double sum = 0, mass = 0;
    for (int v : order) sum += p[v] = std::exp(z[v] / shape.temperature);
    for (int v : order) {
        if (mass >= shape.top_p * sum) p[v] = 0;
        mass += p[v];
    }
    const double kept = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= kept;
    return p;
}

} // namespace

TEST_CASE("sample: chi-square of a million draws", "[op][sample][slow]") {
    // Wilson-Hilferty: (X / df)^(1/3) is normal; 3.09 deviations are p = 0.001. The numbers are
    // those of a run: 10,000 prompts of 10 samples of 10 tokens.
    const int V = 40, N = 1000000;
    const auto z = random_logits(V, 31);
    uint64_t step = 0;
    for (double temperature : {0.7, 1.0, 1.3})
        for (double top_p : {0.8, 0.95, 1.0})
            for (int top_k : {0, 12, 25}) {
                const SampleShape shape = {V, temperature, top_p, top_k};
                const std::vector<double> p = exact_shares(z, shape);
                std::vector<int64_t> count(V);
                step++;
                for (int prompt = 0; prompt < 10000; prompt += 1000) {
                    std::vector<double> u;
                    for (int i = 0; i < N / 10; i++)
                        u.push_back(sample_uniform(5, step, uint64_t(prompt + i / 100), i / 10 % 10,
                                                   i % 10));
                    for (int token : sample(Backend::cpu, z, V, u, shape)) count[token]++;
                }
                double chi = 0;
                int cells = 0;
                for (int v = 0; v < V; v++) {
                    const double expected = N * p[v], difference = double(count[v]) - expected;
                    if (expected == 0) CHECK(count[v] == 0);
                    else chi += difference * difference / expected, cells++;
                }
                const double df = cells - 1;
                const double deviations =
                    (std::cbrt(chi / df) - (1 - 2 / (9 * df))) / std::sqrt(2 / (9 * df));
                INFO("temperature " << temperature << " top_p " << top_p << " top_k " << top_k
                                    << ", chi-square " << chi << ", df " << df);
                CHECK(deviations < 3.09);
            }
}

TEST_CASE("sample: padded and impossible tokens are never drawn", "[op][sample]") {
    const int V = 21, Vp = 32;
    auto z = random_logits(Vp, 3);
    for (int v = V; v < Vp; v++) z[v] = 1e3;
    z[0] = z[V - 1] = -INFINITY;
    for (Backend backend : kBackends) {
        auto u = even_uniform(fewer(backend, 5000));
        u.push_back(0);
        u.push_back(1 - 0x1p-53);
        for (SampleShape shape :
             {SampleShape{V, 0, 1, 0}, {V, 1, 1, 0}, {V, 5, 0.9999, 0}, {V, 1, 1, 20}}) {
            const auto tokens = sample(backend, z, Vp, u, shape);
            CHECK(*std::min_element(tokens.begin(), tokens.end()) > 0);
            CHECK(*std::max_element(tokens.begin(), tokens.end()) < V - 1);
        }
    }
}

TEST_CASE("sample: a row does not depend on its batch or on the threads", "[op][sample][cpu]") {
    const int N = 64, V = 257;
    const auto z = random_logits(N * V, 5);
    const auto u = random_uniform(N, 5);
    for (SampleShape shape : {SampleShape{V, 0, 1, 0}, {V, 1, 1, 0}, {V, 1, 0.9, 40}}) {
        const auto all = sample(Backend::cpu, z, V, u, shape, 2);
        CHECK(sample(Backend::cpu, z, V, u, shape, 1) == all);
        for (int n = 0; n < N; n++)
            CHECK(sample(Backend::cpu, {z.begin() + n * V, z.begin() + (n + 1) * V}, V, {u[n]},
                         shape) == std::vector{all[n]});
    }
}

TEST_CASE("sample: a low temperature is greedy, NaN still gives a valid token", "[op][sample]") {
    const int V = 100;
    const auto z = random_logits(V, 7);
    const int best = int(std::max_element(z.begin(), z.end()) - z.begin());
    for (int token : sample(Backend::cpu, z, V, even_uniform(100), {V, 1e-6, 1, 0}))
        REQUIRE(token == best);
    for (SampleShape shape : {SampleShape{V, 0, 1, 0}, {V, 1, 1, 0}, {V, 1, 0.9, 0}, {V, 1, 1, 9}})
        for (int nans : {1, 30, V}) { // the run stops elsewhere, not by a wild index here
            auto bad = z;
            for (int i = 0; i < nans; i++) bad[(i * 37 + 5) % V] = NAN;
            for (Backend backend : {Backend::cpu, Backend::simt})
                for (int token : sample(backend, bad, V, {0, 0.5, 0.999}, shape)) {
                    CHECK(token >= 0);
                    CHECK(token < V);
                }
        }
}
