// Tensors in memory of their own: what the host may do with them, and the host's side of the GPU as
// far as it goes without one.
#include "llmc/device/comm.h"
#include "llmc/device/cuda_device.h"
#include "llmc/device/gemm_cuda.h"
#include "llmc/device/memory.h"
#include "llmc/device/nccl.h"
#include "llmc/device/tensor_kernels.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/embed.h"
#include "llmc/ops/loss.h"
#include "llmc/ops/moe.h"
#include "llmc/ops/rope.h"
#include "test/catch.h"

#include <csignal>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

namespace {

// Whether a process of its own survives the work.
template <class Work> bool survives(const Work& work) {
    const pid_t child = ::fork();
    if (child == 0) {
        std::signal(SIGSEGV, SIG_DFL);
        work();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct PlayedGpu {
    Ctx ctx{{Backend::simt, 1, false}, 0};
    Buffer buffer(int64_t n) { return Buffer(ctx.arena, Segment::activations, Dtype::f32, "x", n); }
};

void fill(Ctx& ctx, const View& tensor, float value) {
    const HostWrite out(ctx, tensor);
    std::fill_n(static_cast<float*>(out.view().data), tensor.size(), value);
}

float last(Ctx& ctx, const View& tensor) {
    return HostRead(ctx, tensor).view().as<float>()[tensor.size() - 1];
}

} // namespace

TEST_CASE("device memory: the host reaches a tensor by copies only") {
    PlayedGpu gpu;
    const Buffer x = gpu.buffer(5000);
    volatile float* values = reinterpret_cast<float*>(x.bytes());
    CHECK_FALSE(survives([&] { (void)values[7]; }));
    CHECK_FALSE(survives([&] { values[7] = 1; }));
    CHECK(last(gpu.ctx, x.view()) == 0);
    fill(gpu.ctx, x.view(), 3);
    CHECK(last(gpu.ctx, x.view()) == 3);
    CHECK_FALSE(survives([&] { (void)values[7]; }));
    CHECK(survives([&] { gpu.ctx.enqueue([&] { values[7] = 1; }), gpu.ctx.wait(); }));
}

TEST_CASE("device memory: contracts of ops do not look at its values") {
    PlayedGpu gpu;
    Ctx& ctx = gpu.ctx;
    constexpr int N = 5, C = 8, V = 11, H = 2, D = 4;
    auto floats = [&](int64_t columns) {
        return Buffer(ctx.arena, Segment::activations, Dtype::f32, "x", N, columns);
    };
    const Buffer index(ctx.arena, Segment::activations, Dtype::i32, "index", 4 * N);
    const Buffer wide = floats(3 * H * D), qk = floats(2 * H * D), q = floats(H * D);
    const Buffer rstd = floats(2 * H), lse = floats(H), out = floats(H * D), x = floats(C);
    const Buffer weight(ctx.arena, Segment::activations, Dtype::f32, "weight", D);
    const Buffer stats = floats(kLossStats), logits = floats(V), table = floats(D);
    const View rows = index.rows(N), pairs = make_view(index.bytes(), Dtype::i32, "pairs", N, 2);
    LossShape shape{};
    shape.V = V;
    shape.temperature = 1;
    CHECK(survives([&] { // what is enqueued is never run
        embed_forward(ctx, x.view(), rows, floats(C).view());
        qknorm_rope_forward(ctx, qk.view(), rstd.view(), wide.view(), weight.view(), weight.view(),
                            table.view(), rows, H, H, 1e-6);
        attention_forward(ctx, out.view(), lse.view(), q.view(), q.view(), q.view(), rows, H, H);
        loss_forward(ctx, stats.view(), logits.view(), rows, shape);
        slots_forward(ctx, index.rows(4), index.rows(2 * N), pairs, pairs);
    }));
}

TEST_CASE("device memory: copies keep the order of the calls") {
    PlayedGpu gpu;
    const Buffer x = gpu.buffer(300), y = gpu.buffer(300);
    fill(gpu.ctx, x.view(), 1);
    copy_tensor(gpu.ctx, y.view(), x.view());
    fill_zero(gpu.ctx, x.view());
    CHECK(last(gpu.ctx, y.view()) == 1);
    CHECK(last(gpu.ctx, x.view()) == 0);

    // What is given to a mirror may change at once, and be given again before the first arrives.
    Mirror mirror(gpu.ctx, gpu.buffer(5000));
    copy_tensor(gpu.ctx, y.rows(10), mirror.give(std::vector<double>(10, 2.0)));
    float* values = static_cast<float*>(mirror.host().data);
    values[9] = 9; // the host's side alone
    const View all = mirror.give(std::vector<double>(5000, 4.0));
    CHECK(last(gpu.ctx, y.rows(10)) == 2);
    fill_zero(gpu.ctx, all);
    CHECK(values[4999] == 4);
    mirror.to_host();
    CHECK(values[4999] == 0);
}

TEST_CASE("device memory: an edit begins with what the tensor holds") {
    PlayedGpu gpu;
    const Buffer x = gpu.buffer(300);
    fill(gpu.ctx, x.view(), 1);
    {
        const HostEdit edit(gpu.ctx, x.view());
        reinterpret_cast<float*>(edit.bytes())[299] += 1;
    }
    CHECK(last(gpu.ctx, x.view()) == 2);
    CHECK(last(gpu.ctx, x.rows(299)) == 1);
}

TEST_CASE("device memory: what an exception leaves half filled is not copied") {
    PlayedGpu gpu;
    const Buffer x = gpu.buffer(300);
    fill(gpu.ctx, x.view(), 1);
    auto read_torn_file = [&] {
        const HostWrite out(gpu.ctx, x.view());
        std::fill_n(reinterpret_cast<float*>(out.bytes()), 300, 9.0f);
        throw std::runtime_error("a torn file");
    };
    CHECK_THROWS(read_torn_file());
    CHECK(last(gpu.ctx, x.view()) == 1);
}

TEST_CASE("device memory: an arena has its segments there, zero again when taken again") {
    PlayedGpu gpu;
    Arena& arena = gpu.ctx.arena;
    arena.reserve(1 << 20);
    void* before;
    {
        const Buffer x = gpu.buffer(40000);
        before = x.bytes();
        fill(gpu.ctx, x.view(), 5);
        CHECK(arena.bytes(Segment::activations) >= 160000);
    }
    CHECK(arena.bytes(Segment::activations) == 0);
    CHECK(arena.peak(Segment::activations) >= 160000);
    const Buffer again = gpu.buffer(40000);
    CHECK(again.bytes() == before);
    CHECK(last(gpu.ctx, again.view()) == 0);
}

TEST_CASE("device memory: conversion and sums of ranks by kernels") {
    Ctx ctx(Backend::simt, 1);
    for (const int64_t columns : {1, 7, 300}) {
        const int64_t rows = 3, ld = columns + 2;
        std::vector<float> from(size_t(rows * ld)), back(size_t(rows * columns));
        std::vector<uint16_t> narrow(size_t(rows * columns));
        for (size_t i = 0; i < from.size(); i++) from[i] = std::sin(float(i)) * 100;
        View wide = make_view(from.data(), Dtype::f32, "wide", rows, columns);
        wide.ld = ld;
        const View rounded = make_view(narrow.data(), Dtype::bf16, "rounded", rows, columns);
        convert_rows(ctx, rounded, wide);
        convert_rows(ctx, make_view(back.data(), Dtype::f32, "back", rows, columns), rounded);
        int wrong = 0;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++) {
                const uint16_t bits = float_to_bf16(from[size_t(r * ld + c)]);
                wrong += narrow[size_t(r * columns + c)] != bits;
                wrong += back[size_t(r * columns + c)] != bf16_to_float(bits);
            }
        CHECK(wrong == 0);
    }
    const int n = 1000;
    std::vector<float> parts(3 * n), sum(n, 7);
    for (size_t i = 0; i < parts.size(); i++) parts[i] = std::cos(float(i)) * 1e3f;
    const View out = make_view(sum.data(), Dtype::f32, "sum", n);
    int wrong = 0;
    simt::add_parts(ctx, out, parts.data(), 3, true);
    for (int i = 0; i < n; i++)
        wrong += sum[size_t(i)] !=
                 7 + (parts[size_t(i)] + parts[size_t(n + i)] + parts[size_t(2 * n + i)]);
    simt::add_parts(ctx, out, parts.data(), 2, false);
    for (int i = 0; i < n; i++) wrong += sum[size_t(i)] != parts[size_t(i)] + parts[size_t(n + i)];
    CHECK(wrong == 0); // in rank order, to the bit
}

TEST_CASE("device memory: products on a GPU are told apart by all that an algorithm depends on") {
    alignas(256) static char memory[8192];
    auto matrix = [&](int64_t rows, int64_t columns, Dtype dtype, int64_t at = 0) {
        return make_view(memory + at, dtype, "m", rows, columns);
    };
    const View a = matrix(4, 8, Dtype::f32), b = matrix(8, 16, Dtype::f32);
    const View c = matrix(4, 16, Dtype::f32);
    const CudaGemmKey key = cuda_gemm_key(c, a, Trans::no, b, Trans::no, Store::overwrite);
    CHECK(key.m == 4);
    CHECK(key.n == 16);
    CHECK(key.k == 8);
    CHECK(key.alignment == 256);
    CHECK(key == cuda_gemm_key(c, a, Trans::no, b, Trans::no, Store::overwrite));
    CHECK(key != cuda_gemm_key(c, a, Trans::no, b, Trans::no, Store::accumulate));
    const View b_t = matrix(16, 8, Dtype::f32), a_t = matrix(8, 4, Dtype::f32);
    CHECK(key != cuda_gemm_key(c, a, Trans::no, b_t, Trans::yes, Store::overwrite));
    CHECK(cuda_gemm_key(c, a_t, Trans::yes, b, Trans::no, Store::overwrite).k == 8);
    View wide = a;
    wide.ld = 12;
    CHECK(key != cuda_gemm_key(c, wide, Trans::no, b, Trans::no, Store::overwrite));
    const View half_a = matrix(4, 8, Dtype::bf16), half_b = matrix(8, 16, Dtype::bf16);
    CHECK(key != cuda_gemm_key(c, half_a, Trans::no, half_b, Trans::no, Store::overwrite));
    const View shifted = matrix(4, 8, Dtype::f32, 16);
    CHECK(cuda_gemm_key(c, shifted, Trans::no, b, Trans::no, Store::overwrite).alignment == 16);
}

#ifdef PRIOR_CUDA
TEST_CASE("device memory: the libraries of a CUDA build have every function that is used") {
    CHECK(cuda_gemm_missing() == "");
#ifdef PRIOR_NCCL
    CHECK(nccl_missing() == "");
#endif
}

#endif

TEST_CASE("device memory: -device cuda without a GPU is an error of one line") {
    if (cuda_missing().empty()) return; // there is one
    std::string said;
    try {
        choose_backend("cuda");
    } catch (const std::exception& error) {
        said = error.what();
    }
    CHECK(said.find("CUDA") != std::string::npos);
    CHECK(said.find('\n') == std::string::npos);
    CHECK(choose_backend("auto") == Backend::cpu);
}
