// The loss kernels (ops/loss.cu) beyond the claims of test_loss.cpp: bf16 logits, rows at any
// address, and faults in the data.
#include "llmc/core/rng.h"
#include "llmc/ops/loss.h"
#include "test/catch.h"

#include <cmath>
#include <vector>

namespace {

constexpr int kPaths[] = {0, 1, 8};

// N rows of bf16 logits at an address `offset` elements past a multiple of 16 bytes, and the same
// logits in double.
struct Batch {
    int64_t N, Vp, ld;
    std::vector<uint16_t> memory;
    std::vector<double> exact;
    std::vector<int32_t> targets;
    std::vector<float> scale, stats;
    std::vector<double> exact_scale, exact_stats;
    uint16_t* narrow;

    Batch(int64_t N_, int64_t Vp_, int64_t ld_, int V, int offset)
        : N(N_), Vp(Vp_), ld(ld_), memory(N * ld + 64, 0x1234), exact(N * ld), targets(N), scale(N),
          stats(N * kLossStats), exact_scale(N), exact_stats(N * kLossStats) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(memory.data());
        narrow = memory.data() + (16 - address % 16) % 16 / 2 + offset;
        Rng rng(5, uint64_t(V));
        for (int64_t i = 0; i < N * ld; i++) {
            narrow[i] = float_to_bf16(float(2.5 * rng.normal()));
            exact[i] = double(bf16_to_float(narrow[i]));
        }
        for (int64_t n = 0; n < N; n++) {
            targets[n] = n == 1 ? kIgnoredTarget : int32_t(rng.below(V));
            exact_scale[n] = double(scale[n] = n == 2 ? 0 : float(rng.normal()));
        }
    }
    View logits(Dtype dtype) {
        void* data = dtype == Dtype::bf16 ? static_cast<void*>(narrow) : exact.data();
        View view = make_view(data, dtype, "logits", N, Vp);
        view.ld = ld;
        return view;
    }
    void run(int path, const LossShape& shape) {
        Ctx simt(Backend::simt, 1), ref(Backend::ref, 1);
        simt.simt.path = path;
        const View t = make_view(targets.data(), Dtype::i32, "targets", N);
        loss_forward_backward(simt, logits(Dtype::bf16),
                              make_view(stats.data(), Dtype::f32, "stats", N, kLossStats), t,
                              make_view(scale.data(), Dtype::f32, "scale", N), View{}, shape);
        loss_forward_backward(ref, logits(Dtype::f64),
                              make_view(exact_stats.data(), Dtype::f64, "stats", N, kLossStats), t,
                              make_view(exact_scale.data(), Dtype::f64, "scale", N), View{}, shape);
    }
};

// Places between two bf16 numbers.
int ulps(uint16_t a, uint16_t b) {
    auto order = [](uint16_t bits) { return bits & 0x8000 ? 0x8000 - int(bits) : int(bits); };
    return std::abs(order(a) - order(b));
}

} // namespace

TEST_CASE("loss: bf16 gradients are within one place of the double's", "[op][loss][simt]") {
    struct Place {
        int V;
        int64_t Vp, ld;
        int offset;
    };
    for (const Place& p : {Place{1, 8, 8, 0},
                           {257, 264, 264, 0},
                           {257, 257, 257, 0},    // no row but the first at a multiple of 16 bytes
                           {1000, 1001, 1016, 0}, // Vp inside a vector, sentinels behind it
                           {1000, 1008, 1008, 3},
                           {9000, 9008, 9008, 0}})
        for (int path : kPaths) {
            Batch batch(5, p.Vp, p.ld, p.V, p.offset);
            const std::vector<uint16_t> before = batch.memory;
            const double beta = p.V == 1 ? 0.5 : -0.25; // q = 0: the smallest fp32 takes its place
            const LossShape shape{p.V, 20, beta, 0.1, -0.1, RewardForm::factor, 1, 0.2, 0.28};
            batch.run(path, shape);
            CAPTURE(p.V, p.Vp, p.ld, p.offset, path);
            int worst = 0, outside = 0;
            for (int64_t n = 0; n < batch.N; n++) {
                for (int64_t v = 0; v < p.Vp; v++) {
                    const int64_t i = n * p.ld + v;
                    // Below the range of fp32's exponentials the kernel writes 0.
                    if (std::fabs(batch.exact[i]) > 1e-30)
                        worst = std::max(
                            worst, ulps(batch.narrow[i], float_to_bf16(float(batch.exact[i]))));
                    else worst += std::fabs(bf16_to_float(batch.narrow[i])) > 1e-30f ? 100 : 0;
                }
                for (int64_t v = p.Vp; v < p.ld; v++)
                    outside += batch.narrow[n * p.ld + v] !=
                               before[size_t(batch.narrow - batch.memory.data() + n * p.ld + v)];
                for (int i = 0; i < kLossStats; i++)
                    CHECK(
                        double(batch.stats[n * kLossStats + i]) ==
                        Approx(batch.exact_stats[n * kLossStats + i]).epsilon(2e-6).margin(1e-12));
            }
            CHECK(worst <= 1);
            CHECK(outside == 0);
        }
}

TEST_CASE("loss: a bf16 row that is not finite ends as NaN, its neighbours do not",
          "[op][loss][simt]") {
    for (int path : kPaths)
        for (double bad : {double(NAN), double(INFINITY)})
            for (int k : {0, 20, 256}) {
                Batch batch(3, 256, 256, 256, 0);
                batch.scale[0] = batch.scale[2] = 1;
                batch.narrow[256 * 0 + 77] = float_to_bf16(float(bad));
                for (int v = 0; v < 256; v++) batch.narrow[256 * 2 + v] = float_to_bf16(-INFINITY);
                batch.targets[1] = 5;
                LossShape shape{256, k, 0.5, 0.1, -0.1, RewardForm::factor, 1, 0.2, 0.28};
                batch.run(path, shape);
                for (int n : {0, 2}) {
                    for (int i = 0; i < kStatRatio; i++)
                        CHECK(std::isnan(batch.stats[n * kLossStats + i]));
                    CHECK(std::isnan(bf16_to_float(batch.narrow[256 * n])));
                }
                CHECK(std::isfinite(batch.stats[kLossStats + kStatCe]));
                CHECK(std::isfinite(bf16_to_float(batch.narrow[256])));
            }
}
