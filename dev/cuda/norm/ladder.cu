// The ladder of RMSNorm, forward: the residual's sum and its normalised row, in bf16. What each
// version changes: README.md beside this file. The last one is the production kernel, whose file
// is included.
#include "dev/cuda/ladder.h"
#include "llmc/ops/norm.cu"

namespace {

constexpr int kBlock = 256, kBlockWarps = kBlock / 32;

__device__ __forceinline__ float rounded(float x) { return to_float(from_float<bf16>(x)); }

// 1: a kernel for the sum, one for the norm; a thread per row.
__global__ void add_kernel(NormRows<bf16> a) {
    const int n = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (n >= a.N) return;
    for (int c = 0; c < a.C; c++)
        a.residual[n * a.residual_ld + c] = from_float<bf16>(
            to_float(a.inp[n * a.inp_ld + c]) + to_float(a.delta[n * a.delta_ld + c])); // (N1)
}
__global__ void naive_kernel(NormRows<bf16> a) {
    const int n = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (n >= a.N) return;
    const bf16* x = a.residual + n * a.residual_ld;
    float sum = 0;
    for (int c = 0; c < a.C; c++) sum += to_float(x[c]) * to_float(x[c]);
    const float rstd = 1 / sqrtf(sum / float(a.C) + a.eps);
    a.rstd[n] = rstd;
    for (int c = 0; c < a.C; c++)
        a.out[n * a.out_ld + c] =
            from_float<bf16>(to_float(x[c]) * rstd * to_float(a.weight[c])); // (N2)
}

// 2: a block per row, neighbouring threads neighbouring columns; both steps in one kernel.
__global__ void __launch_bounds__(kBlock) block_kernel(NormRows<bf16> a) {
    struct Sums {
        float thread[kBlock];
    };
    SHARED(Sums, s);
    const int64_t n = int64_t(blockIdx.x);
    const int t = int(threadIdx.x);
    bf16* residual = a.residual + n * a.residual_ld;
    float sum = 0;
    for (int c = t; c < a.C; c += kBlock) {
        const float x =
            rounded(to_float(a.inp[n * a.inp_ld + c]) + to_float(a.delta[n * a.delta_ld + c]));
        residual[c] = from_float<bf16>(x);
        sum += x * x;
    }
    s.thread[t] = sum;
    for (int half = kBlock / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) s.thread[t] += s.thread[t + half];
    }
    __syncthreads();
    const float rstd = 1 / sqrtf(s.thread[0] / float(a.C) + a.eps);
    if (t == 0) a.rstd[n] = rstd;
    for (int c = t; c < a.C; c += kBlock)
        a.out[n * a.out_ld + c] =
            from_float<bf16>(to_float(residual[c]) * rstd * to_float(a.weight[c]));
}

// 3: a warp per row, 16 bytes an access, the sum by shuffles. 4: kKeep: the row waits in shared
// memory, a lane's own vectors, for its second use.
template <bool kKeep> __global__ void __launch_bounds__(kBlock) warp_kernel(NormRows<bf16> a) {
    constexpr int K = kVector<bf16>;
    DYNAMIC_SHARED(bf16, shared);
    const int64_t n = int64_t(blockIdx.x) * kBlockWarps + int(threadIdx.x) / 32;
    const int lane = int(threadIdx.x) % 32, vectors = a.C / K;
    if (n >= a.N) return;
    bf16* residual = a.residual + n * a.residual_ld;
    bf16* kept = shared + int(threadIdx.x) / 32 * a.C;
    float sum = 0;
    for (int v = lane; v < vectors; v += 32) {
        float x[K], d[K];
        unpack(x, ld128(a.inp + n * a.inp_ld + v * K));
        unpack(d, ld128(a.delta + n * a.delta_ld + v * K));
        for (int i = 0; i < K; i++) {
            x[i] = rounded(x[i] + d[i]);
            sum += x[i] * x[i];
        }
        st128(residual + v * K, pack<bf16>(x));
        if (kKeep) st128(kept + v * K, pack<bf16>(x));
    }
    const float rstd = 1 / sqrtf(warp_sum(sum) / float(a.C) + a.eps);
    if (lane == 0) a.rstd[n] = rstd;
    for (int v = lane; v < vectors; v += 32) {
        float x[K], w[K];
        unpack(x, ld128((kKeep ? kept : residual) + v * K));
        unpack(w, ld128(a.weight + v * K));
        for (int i = 0; i < K; i++) x[i] *= rstd * w[i];
        st128(a.out + n * a.out_ld + v * K, pack<bf16>(x));
    }
}

void run_ladder(Ladder& ladder, int N, int C) {
    const Dtype x = Dtype::bf16;
    const double eps = 1e-6;
    const View inp = ladder.make("inp", x, N, C), delta = ladder.make("delta", x, N, C);
    const View residual = ladder.make("residual", x, N, C), out = ladder.make("out", x, N, C);
    View weight = ladder.make("weight", x, C, 1), rstd = ladder.make("rstd", Dtype::f32, N, 1);
    weight = make_view(weight.data, x, "weight", C);
    rstd = make_view(rstd.data, Dtype::f32, "rstd", N);
    ladder.fill_normal(inp, 1);
    ladder.fill_normal(delta, 2);
    ladder.fill_normal(weight, 3);
    // Against the reference on the same inputs in double.
    std::vector<View> exact;
    std::vector<std::vector<double>> memory;
    for (const View& view : {inp, delta, weight, residual, out, rstd}) {
        memory.emplace_back(size_t(view.size()));
        for (int64_t i = 0; i < view.size(); i++) memory.back()[size_t(i)] = read_value(view, i);
        exact.push_back(view);
        exact.back().dtype = Dtype::f64;
        exact.back().data = memory.back().data();
    }
    Ctx ref(Backend::ref, 1);
    ref::rmsnorm_forward(ref, exact[4], exact[3], exact[5], exact[0], exact[1], exact[2], eps);
    auto error = [&] {
        double difference = 0, norm = 0;
        for (const auto& [view, want] : {std::pair(residual, 3), {out, 4}, {rstd, 5}})
            for (int64_t i = 0; i < view.size(); i++) {
                const double wanted = memory[size_t(want)][size_t(i)];
                difference += std::pow(read_value(view, i) - wanted, 2);
                norm += wanted * wanted;
            }
        return std::sqrt(difference / norm);
    };
    const NormRows<bf16> a{static_cast<bf16*>(out.data),
                           static_cast<bf16*>(residual.data),
                           rstd.as<float>(),
                           static_cast<const bf16*>(inp.data),
                           static_cast<const bf16*>(delta.data),
                           static_cast<const bf16*>(weight.data),
                           C,
                           C,
                           C,
                           C,
                           N,
                           C,
                           true,
                           float(eps)};
    auto step = [&](const char* name, const std::function<void(Ctx&)>& run) {
        for (const View& view : {residual, out, rstd})
            for (int64_t i = 0; i < view.size(); i++) write_value(view, i, NAN);
        ladder.step(name, {8.0 * N * C, 0, 0}, 5e-3, run, error);
    };
    const LaunchShape threads{(N + 31) / 32, 32, 1, 0};
    const LaunchShape warps{(N + kBlockWarps - 1) / kBlockWarps, kBlock, 1, 0};
    LaunchShape keep = warps;
    keep.shared_bytes = size_t(kBlockWarps * C) * sizeof(bf16);
    step("1 naive", [&](Ctx& ctx) {
        LAUNCH(ctx, add_kernel, threads, a);
        LAUNCH(ctx, naive_kernel, threads, a);
    });
    step("2 block", [&](Ctx& ctx) {
        LAUNCH(ctx, block_kernel, (LaunchShape{N, kBlock, 1, 0}), a);
    });
    step("3 warp", [&](Ctx& ctx) { LAUNCH(ctx, warp_kernel<false>, warps, a); });
    step("4 kept", [&](Ctx& ctx) { LAUNCH(ctx, warp_kernel<true>, keep, a); });
    step("5 production", [&](Ctx& ctx) {
        gpu::rmsnorm_forward(ctx, out, residual, rstd, inp, delta, weight, eps);
    });
}

} // namespace

int main() {
    Ladder ladder;
    run_ladder(ladder, Ladder::kGpu ? 16384 : 128, 2560);
    return ladder.status();
}
