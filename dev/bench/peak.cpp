// build/bench_peak: what bounds a step on this machine, in GFLOP/s with 1 thread and with one a
// core: multiply-adds of fp32 vectors in registers, and a product of 1024 x 1024 matrices through
// device/gemm in fp32 and in bf16.
#include "llmc/core/error.h"
#include "llmc/device/gemm.h"
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>

// Twelve independent chains: enough to fill the pipelines, few enough for the registers.
static double register_peak(int threads) {
    constexpr int kChains = 12;
    constexpr int64_t kRounds = 10'000'000;
    std::vector<float> kept(size_t(threads), 0.0f); // what is computed is used
    double best_s = 1e9;
    for (int i = 0; i < 5; i++) {
        const auto start = std::chrono::steady_clock::now();
        parallel_for(threads, [&](int64_t thread) {
            Vf chains[kChains];
            for (int j = 0; j < kChains; j++) chains[j] = splat(float(j + 1));
            const Vf factor = splat(0.999f);
            for (int64_t round = 0; round < kRounds; round++)
                for (Vf& chain : chains) chain = chain * factor + factor;
            for (const Vf& chain : chains) kept[size_t(thread)] += lane_sum(chain);
        });
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        best_s = std::min(best_s, elapsed.count());
    }
    require(kept[0] > 0, "bench_peak: nothing was computed");
    return 2.0 * kLanes * kChains * double(kRounds) * threads / best_s;
}

static int bench_peak(int, char**) {
    for (const int threads : std::set<int>{1, available_cores()}) {
        Ctx fp32(Backend::cpu, threads), bf16(Backend::cpu, threads, true);
        std::printf("%d thread%s: registers %.0f, product fp32 %.0f, bf16 %.0f GFLOP/s\n", threads,
                    threads == 1 ? "" : "s", register_peak(threads) / 1e9, gemm_peak(fp32) / 1e9,
                    gemm_peak(bf16) / 1e9);
    }
    return 0;
}

int main(int argc, char** argv) { return run_main(bench_peak, argc, argv); }
