// ops/rope: what the rotation means, and what it leaves alone.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/rope.h"
#include "test/catch.h"

#include <cmath>
#include <cstring>

namespace {

// One query and one key head of width D, both backends.
struct Heads {
    Heads(Backend backend, int64_t n, int64_t d)
        : ctx(backend, 2), N(n), D(d), qkv(ctx.dtype(), "qkv", n, 3 * d),
          qk(ctx.dtype(), "qk", n, 2 * d), rstd(ctx.dtype(), "rstd", n, 2),
          weight(ctx.dtype(), "weight", d), table(ctx.dtype(), "table", 64, d),
          positions(Dtype::i32, "positions", n) {
        rope_table_fill(table.view(), 1e4);
        Rng rng(11, 1);
        for (int64_t i = 0; i < n * 3 * d; i++) set(qkv, i, rng.normal());
        for (int64_t i = 0; i < d; i++) set(weight, i, 1 + 0.2 * rng.normal());
    }
    void set(Buffer& b, int64_t i, double value) {
        if (ctx.backend == Backend::ref) b.as<double>()[i] = value;
        else b.as<float>()[i] = float(value);
    }
    double at(Buffer& b, int64_t i) {
        return ctx.backend == Backend::ref ? b.as<double>()[i] : double(b.as<float>()[i]);
    }
    void forward() {
        qknorm_rope_forward(ctx, qk.view(), rstd.view(), qkv.view(), weight.view(), weight.view(),
                            table.view(), positions.view(), 1, 1, 1e-6);
    }

    Ctx ctx;
    int64_t N, D;
    Buffer qkv, qk, rstd, weight, table, positions;
};

} // namespace

TEST_CASE("rope: the table holds cosines, then sines, at every position", "[op][rope]") {
    const int P = 50, D = 6;
    Buffer wide(Dtype::f64, "wide", P, D), narrow(Dtype::f32, "narrow", P, D);
    rope_table_fill(wide.view(), 1e6);
    rope_table_fill(narrow.view(), 1e6);
    const double frequency[] = {1, 1e-2, 1e-4}; // 1e6^(-2i/6)
    for (int p = 0; p < P; p++)
        for (int i = 0; i < D / 2; i++) {
            CHECK(wide.as<double>()[p * D + i] == Approx(std::cos(p * frequency[i])).margin(1e-13));
            CHECK(wide.as<double>()[p * D + 3 + i] ==
                  Approx(std::sin(p * frequency[i])).margin(1e-13));
            CHECK(narrow.as<float>()[p * D + i] == float(wide.as<double>()[p * D + i]));
        }
}

TEST_CASE("rope: a score depends on the distance of the positions only", "[op][rope]") {
    for (Backend backend : {Backend::ref, Backend::cpu})
        for (int D : {32, 40, 64}) {
            Heads heads(backend, 2, D);
            double first = 0;
            for (int shift : {0, 1, 13, 55}) { // query at 8 + shift, key at 3 + shift
                heads.positions.as<int32_t>()[0] = 8 + shift;
                heads.positions.as<int32_t>()[1] = 3 + shift;
                heads.forward();
                double score = 0;
                for (int d = 0; d < D; d++)
                    score += heads.at(heads.qk, d) * heads.at(heads.qk, 2 * D + D + d);
                if (shift == 0) first = score;
                CHECK(score == Approx(first).margin(backend == Backend::ref ? 1e-12 : 2e-5));
            }
        }
}

TEST_CASE("rope: position 0 is the normalised head, any position keeps its length", "[op][rope]") {
    for (Backend backend : {Backend::ref, Backend::cpu}) {
        const int D = 64;
        Heads heads(backend, 2, D);
        for (int d = 0; d < 2 * D; d++) // both rows' query and key heads are the same
            heads.set(heads.qkv, 3 * D + d, heads.at(heads.qkv, d));
        heads.positions.as<int32_t>()[0] = 0;
        heads.positions.as<int32_t>()[1] = 63;
        heads.forward();
        double square_sum = 0, length[2] = {};
        for (int d = 0; d < D; d++) square_sum += std::pow(heads.at(heads.qkv, d), 2);
        const double s = 1 / std::sqrt(square_sum / D + 1e-6);
        CHECK(heads.at(heads.rstd, 0) == Approx(s).epsilon(1e-6));
        for (int d = 0; d < D; d++) {
            const double want = heads.at(heads.qkv, d) * s * heads.at(heads.weight, d);
            CHECK(heads.at(heads.qk, d) == Approx(want).margin(2e-6));
            for (int n : {0, 1}) length[n] += std::pow(heads.at(heads.qk, n * 2 * D + d), 2);
        }
        CHECK(length[0] == Approx(length[1]).epsilon(1e-6));
    }
}

TEST_CASE("rope: the backward leaves the value columns of dqkv alone", "[op][rope]") {
    for (Backend backend : {Backend::ref, Backend::cpu}) {
        const int64_t N = 67, D = 24;
        Heads heads(backend, N, D);
        for (int n = 0; n < N; n++) heads.positions.as<int32_t>()[n] = n % 64;
        heads.forward();
        Buffer dqkv(heads.ctx.dtype(), "dqkv", N, 3 * D), dw(heads.ctx.dtype(), "dw", D);
        for (int64_t i = 0; i < N * 3 * D; i++) heads.set(dqkv, i, 7.5);
        qknorm_rope_backward(heads.ctx, dqkv.view(), dw.view(), dw.view(), heads.qk.view(),
                             heads.rstd.view(), heads.qkv.view(), heads.weight.view(),
                             heads.weight.view(), heads.table.view(), heads.positions.view(), 1, 1);
        for (int64_t n = 0; n < N; n++)
            for (int64_t d = 0; d < 3 * D; d++)
                REQUIRE((heads.at(dqkv, n * 3 * D + d) == 7.5) == (d >= 2 * D));
    }
}
