// device/gemm and device/tile.
#include "llmc/core/rng.h"
#include "llmc/device/gemm.h"
#include "llmc/device/gemm_rows.h"
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

template <class To, class From> std::vector<To> values_as(const std::vector<From>& from) {
    std::vector<To> to(from.size());
    convert(to.data(), from.data(), int64_t(from.size()));
    return to;
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

template <class T> static void compare_row_counts(Ctx& ctx) {
    for (auto [n, k] : {std::array{256, 768}, {768, 256}, {512, 256}, {384, 128}, {257, 128}}) {
        const auto a = values_as<T>(random_values(512 * k, 4));
        const auto b = values_as<T>(random_values(int64_t(n) * k, 5));
        std::vector<T> full(512 * n), part(512 * n);
        auto run = [&](std::vector<T>& c, int m) {
            const Dtype x = dtype_of<T>();
            gemm(ctx, make_view(c.data(), x, "c", m, n),
                 make_view(const_cast<T*>(a.data()), x, "a", m, k), Trans::no,
                 make_view(const_cast<T*>(b.data()), x, "b", n, k), Trans::yes, Store::overwrite);
        };
        run(full, 512);
        for (int m : {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 64, 100, 128, 511}) {
            run(part, m);
            INFO("n " << n << " k " << k << " m " << m << " " << dtype_name(dtype_of<T>()));
            CHECK(std::memcmp(part.data(), full.data(), sizeof(T) * m * n) == 0);
        }
    }
}

TEST_CASE("gemm: a row does not depend on the number of rows", "[gemm][cpu]") {
    Ctx ctx(Backend::cpu, 2);
    compare_row_counts<float>(ctx);
    compare_row_counts<bf16>(ctx);
}

template <class T> static void compare_packed(Ctx& ctx, bool must_pack) {
    const Dtype x = dtype_of<T>();
    for (auto [n, k] : {std::array{256, 768}, {512, 256}, {100, 64}, {257, 1100}, {33, 5}}) {
        INFO("n " << n << " k " << k << " " << dtype_name(x));
        auto a = values_as<T>(random_values(70 * k, 4));
        std::vector<T> b(size_t(n) * k), want(70 * n), got(70 * n);
        const View weight = make_view(b.data(), x, "b", n, k);
        auto product = [&](std::vector<T>& c, int m, const PackedWeights* packed) {
            std::fill(c.begin(), c.end(), T{});
            const View out = make_view(c.data(), x, "c", m, n),
                       in = make_view(a.data(), x, "a", m, k);
            if (packed) return packed->multiply(ctx, out, in, weight);
            gemm(ctx, out, in, Trans::no, weight, Trans::yes, Store::overwrite);
            return true;
        };
        PackedWeights packed;
        packed.add(weight);
        packed.pack(ctx);
        CHECK(!product(got, 1, &packed)); // zeros do not tell in which order gemm() sums
        for (uint64_t stream : {5, 6}) {  // and new values
            b = values_as<T>(random_values(int64_t(n) * k, stream));
            packed.pack(ctx);
            for (int m : {1, 2, 3, 4, 7, 8, 15, 64, 70}) {
                INFO("m " << m);
                const bool done = product(got, m, &packed);
                if (must_pack) CHECK((done || (sizeof(T) == 2 && k % 2 != 0)));
                product(want, m, nullptr);
                if (done) CHECK(std::memcmp(got.data(), want.data(), sizeof(T) * m * n) == 0);
            }
        }
        std::vector<T> other = b;
        const View stranger = make_view(other.data(), x, "b", n, k);
        CHECK(!packed.multiply(ctx, make_view(got.data(), x, "c", 1, n),
                               make_view(a.data(), x, "a", 1, k), stranger));
    }
}

TEST_CASE("gemm: packed weights give the bits of gemm()", "[gemm][cpu]") {
    Ctx ctx(Backend::cpu, 2);
    compare_packed<float>(ctx, true);
    // Where gemm() goes through floats, or the kernel lacks the machine's pairs, nothing is packed.
    compare_packed<bf16>(ctx, gemm_takes_bf16(ctx));
}

TEST_CASE("gemm: bf16 operands are summed in fp32", "[gemm][cpu]") {
    const int m = 33, n = 70, k = 257;
    const auto a = random_values(m * k, 1), b = random_values(k * n, 2);
    auto half_a = values_as<bf16>(a), half_b = values_as<bf16>(b);
    auto exact_a = values_as<float>(half_a), exact_b = values_as<float>(half_b);
    Ctx ctx(Backend::cpu, 2);
    std::vector<float> want(m * n, 1.0f), single(m * n, 1.0f), mixed(m * n, 1.0f);
    std::vector<bf16> narrow(m * n, bf16{0x3f80});
    auto view = [](auto& v, int64_t r, int64_t q) {
        return make_view(v.data(), dtype_of<std::decay_t<decltype(v[0])>>(), "v", r, q);
    };
    auto product = [&](View c, const View& x, const View& y) {
        gemm(ctx, c, x, Trans::no, y, Trans::no, Store::accumulate);
    };
    product(view(want, m, n), view(exact_a, m, k), view(exact_b, k, n));
    product(view(single, m, n), view(half_a, m, k), view(half_b, k, n));
    product(view(mixed, m, n), view(half_a, m, k), view(exact_b, k, n));
    product(view(narrow, m, n), view(half_a, m, k), view(exact_b, k, n));
    for (int i = 0; i < m * n; i++) {
        CHECK(std::fabs(single[i] - want[i]) < 2e-4f);
        CHECK(std::fabs(mixed[i] - want[i]) < 2e-4f);
        CHECK(std::fabs(bf16_to_float(narrow[i].bits) - want[i]) <=
              std::fabs(want[i]) / 256 + 2e-4f);
    }
}

TEST_CASE("simd: bf16 rounds as the scalar conversion does", "[cpu]") {
    std::vector<float> values = {0.0f,   -0.0f,   INFINITY,     -INFINITY,  NAN,
                                 1e-40f, 3.4e38f, -1.00390625f, 1.01171875f};
    for (float value : random_values(1000, 9)) values.push_back(value * 1e3f);
    const auto narrow = values_as<bf16>(values);
    for (size_t i = 0; i < values.size(); i++) CHECK(narrow[i].bits == float_to_bf16(values[i]));
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
