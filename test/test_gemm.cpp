// device/gemm and device/tile.
#include "llmc/core/rng.h"
#include "llmc/device/gemm.h"
#include "llmc/device/tile.h"
#include "test/catch.h"

#include <cmath>
#include <vector>

namespace {
std::vector<float> random_values(int64_t count, uint64_t stream) {
    Rng rng(1, stream);
    std::vector<float> values(count);
    for (float& value : values) value = float(rng.normal());
    return values;
}
} // namespace

TEST_CASE("gemm: every transposition and store mode equals the reference", "[gemm][cpu]") {
    for (auto [m, n, k] : {std::array{1, 1, 1}, {7, 13, 5}, {64, 96, 33}, {130, 17, 256}})
        for (Trans ta : {Trans::no, Trans::yes})
            for (Trans tb : {Trans::no, Trans::yes})
                for (Store mode : {Store::overwrite, Store::accumulate}) {
                    auto a = random_values(m * k, 1), b = random_values(k * n, 2),
                         c = random_values(m * n, 3);
                    std::vector<double> ad(a.begin(), a.end()), bd(b.begin(), b.end()),
                        cd(c.begin(), c.end());
                    auto view = [](auto& v, const char* name, int64_t r, int64_t q) {
                        return make_view(v.data(), dtype_of<std::decay_t<decltype(v[0])>>(), name,
                                         r, q);
                    };
                    bool fa = ta == Trans::yes, fb = tb == Trans::yes;
                    Ctx cpu(Backend::cpu, 2), ref(Backend::ref, 2);
                    gemm(cpu, view(c, "c", m, n), view(a, "a", fa ? k : m, fa ? m : k), ta,
                         view(b, "b", fb ? n : k, fb ? k : n), tb, mode);
                    gemm(ref, view(cd, "c", m, n), view(ad, "a", fa ? k : m, fa ? m : k), ta,
                         view(bd, "b", fb ? n : k, fb ? k : n), tb, mode);
                    double worst = 0;
                    for (int i = 0; i < m * n; i++)
                        worst = std::max(worst, std::fabs(c[i] - cd[i]));
                    CHECK(worst < 1e-6 * k + 1e-5);
                }
}

TEST_CASE("gemm: a row does not depend on the number of rows", "[gemm][cpu]") {
    Ctx ctx(Backend::cpu, 2);
    for (auto [n, k] : {std::array{256, 768}, {768, 256}, {512, 256}, {384, 128}, {257, 128}}) {
        auto a = random_values(512 * k, 4), b = random_values(int64_t(n) * k, 5);
        std::vector<float> full(512 * n), part(512 * n);
        auto run = [&](std::vector<float>& c, int m) {
            gemm(ctx, make_view(c.data(), Dtype::f32, "c", m, n),
                 make_view(a.data(), Dtype::f32, "a", m, k), Trans::no,
                 make_view(b.data(), Dtype::f32, "b", n, k), Trans::yes, Store::overwrite);
        };
        run(full, 512);
        for (int m : {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 64, 100, 128, 511}) {
            run(part, m);
            INFO("n " << n << " k " << k << " m " << m);
            CHECK(std::memcmp(part.data(), full.data(), sizeof(float) * m * n) == 0);
        }
    }
}

TEST_CASE("simd: exp is within 2 ulp of the double value", "[cpu]") {
    double worst = 0;
    for (int i = 0; i < 200000; i++) {
        float x = -87.0f + 175.0f * float(i) / 200000.0f;
        double want = std::exp(double(x));
        worst = std::max(worst, std::fabs(exp(splat(x))[0] - want) / want);
    }
    CHECK(worst < 1.3e-7);
    CHECK(exp(splat(-INFINITY))[3] == 0.0f);
    CHECK(exp(splat(INFINITY))[3] == INFINITY);
    CHECK(std::isnan(exp(splat(NAN))[0]));
    CHECK(exp(splat(0.0f))[0] == 1.0f);
}
