// build/bench_loss ROWS VOCAB fp32|bf16 [REPEATS [THREADS]]
// The shaped loss with entropy, all statistics and the top 100, forward and backward in place,
// beside one in-place pass (z *= c) over the same logits. Prints milliseconds, a line each: loss,
// pass.
#include "llmc/ops/loss.h"
#include "llmc/core/error.h"
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

template <class T> static void scale_in_place(View logits) {
    const int64_t V = logits.shape[1];
    parallel_for(logits.rows(), [&](int64_t n) {
        T* row = logits.as<T>() + n * V;
        for_vectors(V, [&](int64_t v, int count) {
            store_tail(row + v, load_tail(row + v, count, 0.0f) * 0.5f, count);
        });
    });
}

static int bench_main(int argc, char** argv) {
    if (argc < 4) usage_error("bench_loss: ROWS VOCAB fp32|bf16", "bench_loss 1024 50304 fp32");
    const int64_t N = std::atoi(argv[1]), V = std::atoi(argv[2]);
    const bool half = std::string(argv[3]) == "bf16";
    const int repeats = argc > 4 ? std::atoi(argv[4]) : 15;
    Ctx ctx(Backend::cpu, argc > 5 ? std::atoi(argv[5]) : 2, half);
    const Buffer drawn(ctx.storage(), "drawn", N, V), logits(ctx.storage(), "logits", N, V);
    const Buffer stats(Dtype::f32, "stats", N, kLossStats), scale(Dtype::f32, "scale", N);
    std::vector<int32_t> targets(N);
    Rng rng(1, 1);
    for (int64_t i = 0; i < drawn.view().size(); i++)
        write_value(drawn.view(), i, 3 * rng.normal());
    for (int64_t n = 0; n < N; n++) {
        write_value(scale.view(), n, rng.normal());
        targets[n] = int32_t(rng.below(V));
    }
    const View target_view = make_view(targets.data(), Dtype::i32, "targets", N);
    const LossShape shape{int(V), 100, -0.25, 0.05, -0.1, RewardForm::factor, 1, 0.2, 0.28};
    auto time = [&](const char* name, const auto& body) {
        std::printf("%s", name);
        for (int i = -2; i < repeats; i++) {
            parallel_for(N, [&](int64_t n) { // as fresh from the product with the head
                const size_t bytes = size_t(V) * dtype_bytes(ctx.storage());
                std::memcpy(logits.bytes() + size_t(n) * bytes, drawn.bytes() + size_t(n) * bytes,
                            bytes);
            });
            const auto start = std::chrono::steady_clock::now();
            body();
            const std::chrono::duration<double, std::milli> ms =
                std::chrono::steady_clock::now() - start;
            if (i >= 0) std::printf(" %.3f", ms.count());
        }
        std::printf("\n");
    };
    time("loss", [&] {
        loss_forward_backward(ctx, logits.view(), stats.view(), target_view, scale.view(), View{},
                              shape);
    });
    time("pass", [&] {
        half ? scale_in_place<bf16>(logits.view()) : scale_in_place<float>(logits.view());
    });
    return 0;
}

int main(int argc, char** argv) { return run_main(bench_main, argc, argv); }
