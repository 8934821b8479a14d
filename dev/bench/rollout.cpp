// build/bench_rollout SEQUENCES [THREADS [NEW [PROMPT [REPEATS [MODEL [DTYPE]]]]]]
// Tokens per second of the engine, prefill included: SEQUENCES different prompts of random tokens,
// one answer of NEW tokens each, no stop token, random weights. Prints the median and the slowest
// and fastest repeat.
#include "llmc/core/error.h"
#include "llmc/core/rng.h"
#include "llmc/rollout/engine.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

static int bench_main(int argc, char** argv) {
    auto number = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
    const int sequences = number(1, 64), threads = number(2, 2), fresh = number(3, 256);
    const int length = number(4, 32), repeats = number(5, 3);
    Ctx ctx(Backend::cpu, threads, choose_bf16(argc > 7 ? argv[7] : "fp32", Backend::cpu));
    Model model(ctx, model_preset(argc > 6 ? argv[6] : "demo"));
    init_params(model.ctx(), model.weights, model.table, model.config, 1, 0.02);
    model.weights_changed();
    Engine engine(ctx, model, {sequences, 64, length + fresh});
    std::vector<Request> requests;
    Rng rng(1, 1);
    for (int i = 0; i < sequences; i++) {
        std::vector<int32_t> prompt(length);
        for (int32_t& token : prompt) token = int32_t(rng.below(model.config.vocab));
        requests.push_back({uint64_t(i), prompt, {0}});
    }
    std::vector<double> tok_per_s;
    for (int repeat = -1; repeat < repeats; repeat++) { // the first prepares GEMM shapes
        const auto start = std::chrono::steady_clock::now();
        engine.generate(requests, {1, 1, 0, fresh, {}, 1, uint64_t(repeat + 1)});
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        if (repeat >= 0) tok_per_s.push_back(double(sequences) * fresh / elapsed.count());
    }
    std::sort(tok_per_s.begin(), tok_per_s.end());
    std::printf("%.0f %.0f %.0f\n", tok_per_s[tok_per_s.size() / 2], tok_per_s.front(),
                tok_per_s.back());
    return 0;
}

int main(int argc, char** argv) { return run_main(bench_main, argc, argv); }
