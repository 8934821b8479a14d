// ops/loss: claims beside the op cases and the golden vectors.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/loss.h"
#include "test/catch.h"

#include <cmath>
#include <cstring>

namespace {

struct Where {
    Backend backend;
    int path;          // of the kernels
    bool half = false; // logits in bf16
    bool exact() const { return backend == Backend::ref; }
};
const Where kRef{Backend::ref, -1}, kCpu{Backend::cpu, -1}, kCpuHalf{Backend::cpu, -1, true};
const Where kSweep{Backend::simt, 0}, kBlock{Backend::simt, 1}, kCluster{Backend::simt, 8};
const Where kEverywhere[] = {kRef, kCpu, kSweep, kBlock, kCluster};

struct Rows {
    Ctx ctx;
    Buffer logits, stats, targets, scale, old_logp;
    Rows(const Where& where, int64_t N, int64_t Vp)
        : ctx(where.backend, 0, where.half), logits(ctx.storage(), "logits", N, Vp),
          stats(ctx.dtype(), "stats", N, kLossStats), targets(Dtype::i32, "targets", N),
          scale(ctx.dtype(), "scale", N), old_logp(ctx.dtype(), "old_logp", N) {
        ctx.simt.path = where.path;
        Rng rng(3, 4);
        for (int64_t i = 0; i < N * Vp; i++) set(logits, i, double(float(2 * rng.normal())));
        for (int64_t n = 0; n < N; n++) set(scale, n, 1);
    }
    static void set(Buffer& b, int64_t i, double value) { write_value(b.view(), i, value); }
    static double get(Buffer& b, int64_t i) { return read_value(b.view(), i); }
    double stat(int64_t n, LossStat which) { return get(stats, n * kLossStats + which); }
    void run(const LossShape& shape, bool ratio) {
        loss_forward_backward(ctx, logits.view(), stats.view(), targets.view(), scale.view(),
                              ratio ? old_logp.view() : View{}, shape);
    }
};

LossShape plain(int V) { return {V, 20, 0, 0, 0, RewardForm::factor, 1, 0.2, 0.28}; }

} // namespace

TEST_CASE("loss: a negative weight flips the gradient's sign", "[op][loss]") {
    for (const Where& where : kEverywhere) {
        Rows up(where, 3, 64), down(where, 3, 64);
        for (int64_t n = 0; n < 3; n++) Rows::set(down.scale, n, -1);
        LossShape shape = plain(61);
        shape.beta = -0.25;
        shape.lambda_tail = -0.1;
        up.run(shape, false);
        down.run(shape, false);
        for (int64_t i = 0; i < 3 * 64; i++)
            CHECK(Rows::get(up.logits, i) == -Rows::get(down.logits, i));
    }
}

TEST_CASE("loss: a row's gradient sums to zero, whatever the rewards", "[op][loss]") {
    for (const Where& where : kEverywhere)
        for (double beta : {-0.5, 0.0, 2.0}) {
            Rows rows(where, 5, 272);
            LossShape shape = plain(257);
            shape.beta = beta;
            shape.lambda_head = 0.1;
            shape.lambda_tail = -0.2;
            rows.run(shape, false);
            for (int64_t n = 0; n < 5; n++) {
                double sum = 0, size = 0;
                for (int64_t v = 0; v < 272; v++) {
                    sum += Rows::get(rows.logits, n * 272 + v);
                    size += std::fabs(Rows::get(rows.logits, n * 272 + v));
                }
                CHECK(std::fabs(sum) <= (where.exact() ? 1e-14 : 1e-6) * size);
            }
        }
}

TEST_CASE("loss: at beta = lambda = 0 the gradient is p - onehot", "[op][loss]") {
    Rows rows(kRef, 1, 16);
    std::vector<double> p(13);
    double sum = 0;
    for (int v = 0; v < 13; v++) sum += p[v] = std::exp(Rows::get(rows.logits, v));
    rows.run(plain(13), false);
    for (int v = 0; v < 13; v++)
        CHECK(Rows::get(rows.logits, v) == Approx(p[v] / sum - (v == 0)).epsilon(1e-13));
}

TEST_CASE("loss: the gradient is that of the expected reward with rewards held", "[op][loss]") {
    // J(z) = sum_a p_a(z) r_a with r from the unperturbed row, by central differences.
    const int V = 11;
    LossShape shape = plain(V);
    shape.k = 4;
    shape.beta = 0.5;
    shape.lambda_head = 0.3;
    shape.lambda_tail = -0.2;
    for (RewardForm form : {RewardForm::factor, RewardForm::exponent}) {
        shape.form = form;
        Rows rows(kRef, 1, 16);
        rows.targets.as<int32_t>()[0] = 6;
        std::vector<double> z(V), r(V);
        for (int v = 0; v < V; v++) z[v] = Rows::get(rows.logits, v);
        auto softmax = [&](const std::vector<double>& logits, int a) {
            double sum = 0;
            for (double x : logits) sum += std::exp(x);
            return std::exp(logits[a]) / sum;
        };
        for (int a = 0; a < V; a++) {
            int larger = 0;
            for (int b = 0; b < V; b++) larger += z[b] > z[a];
            r[a] = larger < shape.k ? shape.lambda_head : shape.lambda_tail;
        }
        const double p = softmax(z, 6), focus = std::pow(1 - p, shape.beta);
        r[6] = form == RewardForm::factor ? focus / p : std::pow(1 / p, focus);
        rows.run(shape, false);
        for (int j = 0; j < V; j++) {
            auto objective = [&](double step) {
                std::vector<double> moved = z;
                moved[j] += step;
                double sum = 0;
                for (int a = 0; a < V; a++) sum += softmax(moved, a) * r[a];
                return sum;
            };
            const double slope = (objective(1e-5) - objective(-1e-5)) / 2e-5;
            CHECK(Rows::get(rows.logits, j) == Approx(-slope).epsilon(1e-7).margin(1e-10));
        }
    }
}

TEST_CASE("loss: ignored rows and padding are exactly zero", "[op][loss]") {
    for (const Where& where : kEverywhere) {
        Rows rows(where, 2, 32);
        rows.targets.as<int32_t>()[1] = kIgnoredTarget;
        Rows::set(rows.logits, 30, 1e6); // junk in the padding of row 0
        rows.run(plain(29), false);
        for (int v = 29; v < 32; v++) CHECK(Rows::get(rows.logits, v) == 0);
        for (int v = 0; v < 32; v++) CHECK(Rows::get(rows.logits, 32 + v) == 0);
        for (int i = 0; i < kLossStats; i++) CHECK(rows.stat(1, LossStat(i)) == 0);
        CHECK(std::isfinite(rows.stat(0, kStatCe)));
    }
}

TEST_CASE("loss: the clipped surrogate is flat outside the clip range", "[op][loss]") {
    for (const Where& where : kEverywhere)
        for (double scale : {1.0, -1.0})
            for (double shift : {-0.5, -0.1, 0.0, 0.1, 0.5}) {
                Rows probe(where, 1, 32), rows(where, 1, 32);
                probe.run(plain(32), false);
                Rows::set(rows.old_logp, 0, -probe.stat(0, kStatCe) - shift);
                Rows::set(rows.scale, 0, scale);
                rows.run(plain(32), true);
                const double rho = std::exp(shift);
                CHECK(rows.stat(0, kStatRatio) == Approx(rho).epsilon(1e-5));
                const bool flat = (scale > 0 && rho > 1.28) || (scale < 0 && rho < 0.8);
                double size = 0, base = 0;
                for (int v = 0; v < 32; v++) {
                    size += std::fabs(Rows::get(rows.logits, v));
                    base += std::fabs(Rows::get(probe.logits, v));
                }
                if (flat) CHECK(size == 0);
                else CHECK(size == Approx(base * rho).epsilon(1e-4));
            }
}

TEST_CASE("loss: statistics alone have the bits of the pass with gradient", "[op][loss]") {
    for (const Where& where : {kCpu, kCpuHalf, kSweep, kBlock, kCluster}) {
        Rows rows(where, 33, 272);
        Buffer alone(Dtype::f32, "stats", 33, kLossStats), one(Dtype::f32, "stats", 1, kLossStats);
        LossShape shape = plain(257);
        loss_forward(rows.ctx, alone.view(), rows.logits.view(), rows.targets.view(), shape);
        loss_forward(rows.ctx, one.view(), rows.logits.view().slice_rows(32, 1),
                     rows.targets.view().slice_rows(32, 1), shape);
        rows.run(shape, false);
        CHECK(std::memcmp(alone.view().data, rows.stats.view().data, alone.view().bytes()) == 0);
        CHECK(std::memcmp(alone.view().slice_rows(32, 1).data, one.view().data,
                          one.view().bytes()) == 0);
    }
}

TEST_CASE("loss: a row that is not finite says so in loss and gradient", "[op][loss]") {
    for (const Where& where : kEverywhere)
        for (double bad : {double(NAN), double(INFINITY)}) {
            Rows rows(where, 2, 64);
            Rows::set(rows.logits, 10, bad);
            rows.run(plain(64), false);
            CHECK(std::isnan(rows.stat(0, kStatCe)));
            CHECK(std::isnan(Rows::get(rows.logits, 0)));
            CHECK(std::isfinite(rows.stat(1, kStatCe)));
            CHECK(std::isfinite(Rows::get(rows.logits, 64)));
        }
}

TEST_CASE("loss: temperature divides the logits and the gradient", "[op][loss]") {
    for (const Where& where : kEverywhere) {
        Rows hot(where, 1, 32), scaled(where, 1, 32);
        for (int v = 0; v < 32; v++) Rows::set(scaled.logits, v, Rows::get(scaled.logits, v) / 2);
        LossShape shape = plain(32);
        shape.temperature = 2;
        hot.run(shape, false);
        scaled.run(plain(32), false);
        CHECK(hot.stat(0, kStatCe) == Approx(scaled.stat(0, kStatCe)).epsilon(1e-6));
        for (int v = 0; v < 32; v++)
            CHECK(2 * Rows::get(hot.logits, v) ==
                  Approx(Rows::get(scaled.logits, v)).epsilon(1e-5).margin(1e-9));
    }
}

// Fills a row of `V` logits that is hard for the top-k search.
constexpr int kHardRows = 11;
static std::vector<double> hard_row(int kind, int V, Rng& rng) {
    std::vector<double> z(V);
    for (int v = 0; v < V; v++) {
        const double x = rng.normal();
        if (kind == 0) z[v] = 3 * x;
        if (kind == 1) z[v] = 0.25;                                   // constant
        if (kind == 2) z[v] = double(rng.below(4));                   // ties across the boundary
        if (kind == 3) z[v] = rng.chance(0.9) ? -INFINITY : x;        // fewer finite ones than k
        if (kind == 4) z[v] = rng.chance(0.5) ? -100 : 100;           // the ends of the range
        if (kind == 5) z[v] = v == V / 2 ? 1e30 : 1e-6 * x;           // far apart
        if (kind == 6) z[v] = -0.01 * v;                              // sorted
        if (kind == 7) z[v] = v % 2 ? 0.0 : -0.0;                     // zeros of both signs
        if (kind == 8) z[v] = v % 80 == 79 ? 5 + 1e-3 * x : -5 + x;   // large ones in few groups
        if (kind == 9) z[v] = rng.chance(0.5) ? 7.0 : 7.0 + 1e-6 * v; // neighbouring floats
        if (kind == 10) z[v] = 0.01 * v; // every column is larger than all before
        z[v] = double(float(z[v]));
    }
    return z;
}

// A batch of one row of every kind, through ref and `where`, with lambda_head and lambda_tail of
// opposite sign: one wrong member of K changes its gradient's sign. Logits are those of `where`.
static void check_top_k(const Where& where, int V, int k, Rng& rng) {
    Rows ref(kRef, kHardRows, V + 3), fast(where, kHardRows, V + 3);
    LossShape shape = plain(V);
    shape.k = k;
    shape.lambda_head = 0.5;
    shape.lambda_tail = -0.5;
    for (int kind = 0; kind < kHardRows; kind++) {
        const std::vector<double> z = hard_row(kind, V, rng);
        int32_t x = int32_t(rng.below(V));
        while (kind == 3 && std::isinf(z[x]) && rng.chance(0.9)) x = int32_t(rng.below(V));
        for (int v = 0; v < V; v++) {
            const int64_t i = kind * (V + 3) + v;
            Rows::set(fast.logits, i, z[v]);
            Rows::set(ref.logits, i, Rows::get(fast.logits, i));
        }
        for (Rows* rows : {&ref, &fast}) rows->targets.as<int32_t>()[kind] = x;
    }
    ref.run(shape, false);
    fast.run(shape, false);
    const double tolerance =
        where.half ? 1.6e-5 : 4e-12; // 2^-8, half a place of bf16, and 2e-6; squared
    for (int kind = 0; kind < kHardRows; kind++) {
        double square = 0, norm = 0;
        for (int v = 0; v < V + 3; v++) {
            const double want = Rows::get(ref.logits, kind * (V + 3) + v);
            const double got = Rows::get(fast.logits, kind * (V + 3) + v);
            square += (got - want) * (got - want);
            norm += want * want;
        }
        CAPTURE(where.path, where.half, V, kind, k, ref.targets.as<int32_t>()[kind]);
        const bool none = std::isnan(norm); // nothing but -inf: NaN in both
        CHECK((none ? std::isnan(square) : square <= tolerance * norm + 1e-60));
        const double mass = ref.stat(kind, kStatHeadMass);
        const double smallest = 1e-37; // normal fp32 number, about
        if (!none)
            CHECK(std::fabs(fast.stat(kind, kStatHeadMass) - mass) <= 2e-6 * mass + smallest);
    }
}

TEST_CASE("loss: the fast top-k is the sorted one, whatever the row", "[op][loss]") {
    Rng rng(8, 1);
    for (const Where& where : {kCpu, kCpuHalf}) {
        for (const int V : {1, 2, 31, 257, 1000, 3001})
            for (const int k : {0, 1, 2, 20, 100, V - 1, V, V + 5}) check_top_k(where, V, k, rng);
        check_top_k(where, 12007, 100, rng); // where the half that is read first bounds nothing
    }
}

TEST_CASE("loss: the kernels' top-k is the sorted one, whatever the row", "[op][loss][simt]") {
    Rng rng(8, 2);
    for (const Where& where : {kSweep, kBlock, kCluster}) {
        for (const int V : {1, 31, 257, 1501})
            for (const int k : {0, 1, 20, 100, V - 1, V, V + 5}) check_top_k(where, V, k, rng);
        check_top_k(where, 12007, 100, rng);
        check_top_k(where, 12007, 1024, rng); // the longest list
        check_top_k(where, 12007, 1025, rng); // selection over the row
    }
}

TEST_CASE("loss: a row that a block's shared memory has no room for is swept", "[op][loss][simt]") {
    constexpr int V = 14000; // 57 KB of floats and 6 of lists, where the sweep takes 48 and a few
    Rows asked(kBlock, 2, V), swept(kSweep, 2, V);
    asked.ctx.simt.shared_limit = 60 << 10; // the runtime refuses a launch with more
    asked.run(plain(V), false);
    swept.run(plain(V), false);
    const size_t bytes = asked.logits.view().bytes();
    CHECK(std::memcmp(asked.logits.bytes(), swept.logits.bytes(), bytes) == 0);
}

TEST_CASE("loss: one real column has loss 0, entropy 0 and no gradient", "[op][loss]") {
    for (const Where& where : kEverywhere)
        for (double beta : {-0.5, 0.0, 0.5}) {
            Rows rows(where, 1, 16);
            LossShape shape = plain(1);
            shape.beta = beta;
            shape.lambda_tail = -0.1;
            rows.run(shape, false);
            for (LossStat s : {kStatCe, kStatEntropy, kStatQ, kStatHeadMass, kStatTailMass})
                CHECK(rows.stat(0, s) == 0);
            for (int v = 0; v < 16; v++) CHECK(std::fabs(Rows::get(rows.logits, v)) < 1e-15);
        }
}

TEST_CASE("loss: a saturated target keeps its complement and its gradient", "[op][loss]") {
    // One competitor at distance d: q = 1 / (1 + e^d), g_x = q^(1 + beta) in the factor form.
    for (const Where& where : kEverywhere)
        for (double d : {2.0, 10.0, 20.0, 30.0, 60.0}) {
            Rows rows(where, 1, 16);
            Rows::set(rows.logits, 0, d);
            Rows::set(rows.logits, 1, 0);
            LossShape shape = plain(2);
            shape.beta = -0.25;
            rows.run(shape, false);
            const double q = 1 / (1 + std::exp(d)), tolerance = where.exact() ? 1e-12 : 2e-6;
            CHECK(rows.stat(0, kStatQ) == Approx(q).epsilon(tolerance));
            CHECK(rows.stat(0, kStatCe) == Approx(std::log1p(std::exp(-d))).epsilon(tolerance));
            CHECK(Rows::get(rows.logits, 0) == Approx(-std::pow(q, 0.75)).epsilon(tolerance));
        }
}

TEST_CASE("loss: a batch with no target writes zeros only", "[op][loss]") {
    for (const Where& where : kEverywhere) {
        Rows rows(where, 9, 272);
        for (int n = 0; n < 9; n++) rows.targets.as<int32_t>()[n] = kIgnoredTarget;
        Rows::set(rows.logits, 5, NAN);
        rows.run(plain(257), true);
        for (int64_t i = 0; i < 9 * 272; i++) CHECK(Rows::get(rows.logits, i) == 0);
        for (int64_t i = 0; i < 9 * kLossStats; i++) CHECK(Rows::get(rows.stats, i) == 0);
    }
}
