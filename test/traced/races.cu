// The race detector and the counts (device/simt/trace.h) on kernels whose answer is known.
#include "llmc/device/gpu.h"
#include "llmc/device/simt/trace.h"
#include "test/catch.h"

#include <vector>

namespace {

using simt::runtime::Trace;

struct Tile {
    float v[1024];
};

__global__ void exchange_kernel(float* out, bool barrier) {
    SHARED(Tile, tile);
    tile.v[threadIdx.x] = float(threadIdx.x);
    if (barrier) __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = tile.v[(threadIdx.x + 33) % blockDim.x];
}
// The second barrier is missing in the last round only.
__global__ void rounds_kernel(float* out, int rounds, bool all) {
    SHARED(Tile, tile);
    float sum = 0;
    for (int r = 0; r < rounds; r++) {
        tile.v[threadIdx.x] = float(r);
        __syncthreads();
        sum += tile.v[(threadIdx.x + 1 + unsigned(r)) % blockDim.x];
        if (all || r != rounds - 2) __syncthreads();
    }
    out[threadIdx.x] = sum;
}
// A shuffle does not order memory, __syncwarp does.
__global__ void lockstep_kernel(float* out, bool sync) {
    SHARED(Tile, tile);
    tile.v[threadIdx.x] = 1;
    const float other = __shfl_xor_sync(~0u, 1.0f, 1);
    if (sync) __syncwarp();
    out[threadIdx.x] = other + tile.v[threadIdx.x ^ 1];
}
__global__ void warps_kernel(float* out) { // __syncwarp does not order two warps
    SHARED(Tile, tile);
    tile.v[threadIdx.x] = 1;
    __syncwarp();
    out[threadIdx.x] = tile.v[threadIdx.x ^ 32];
}
__global__ void named_kernel(float* out, bool order) { // two warps of four meet
    SHARED(Tile, tile);
    const int warp = int(threadIdx.x) / 32;
    tile.v[threadIdx.x] = 1;
    if (warp < 2) named_barrier_sync(1, 64);
    else if (order) named_barrier_sync(2, 64);
    out[threadIdx.x] = tile.v[threadIdx.x ^ 32];
}
__global__ void blocks_kernel(float* out) {
    if (threadIdx.x == 0) out[0] = float(blockIdx.x);
}
__global__ void counter_kernel(unsigned* out) { atomicAdd(out, 1u); }
__global__ void half_atomic_kernel(unsigned* out) {
    if (threadIdx.x == 0) out[0] = 1;
    else atomicAdd(out, 1u);
}
__global__ void cluster_kernel(float* out, bool first, bool last) {
    SHARED(Tile, tile);
    tile.v[threadIdx.x] = float(blockIdx.x);
    if (first) cluster_sync();
    const float sum = *cluster_map(&tile.v[threadIdx.x], 0) + *cluster_map(&tile.v[threadIdx.x], 1);
    cluster_arrive();
    if (last) cluster_wait();
    tile.v[threadIdx.x] = -1; // while the other block may still look at it
    if (!last) cluster_wait();
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
__global__ void early_copy_kernel(float* out, const float* inp, bool barrier) {
    SHARED(Pack<float>, a);
    if (threadIdx.x == 0) {
        cp_async16(&a, inp);
        cp_async_commit();
        cp_async_wait<0>();
    }
    if (barrier) __syncthreads();
    out[threadIdx.x] = a.v[threadIdx.x % 4];
}

template <class... P, class... A>
int64_t races(void (*kernel)(P...), int blocks, int threads, int cluster, bool named, A... args) {
    alignas(32) static float out[4096];
    alignas(32) static float inp[64];
    int64_t found = -1;
    for (uint32_t seed = 0; seed < 4; seed++) {
        Trace trace;
        trace.watch("out", out, sizeof out);
        trace.watch("inp", inp, sizeof inp);
        Ctx ctx(Backend::simt, 1);
        ctx.simt.seed = seed;
        ctx.simt.trace = &trace;
        launch(ctx, "test_kernel", kernel, LaunchShape{blocks, threads, cluster, 0},
               reinterpret_cast<std::tuple_element_t<0, std::tuple<P...>>>(out), args...);
        if (trace.races() > 0) {
            CHECK(trace.first_race().find("test_kernel") != std::string::npos);
            CHECK(trace.first_race().find(named ? "out" : "shared memory") != std::string::npos);
        }
        const int64_t any = trace.races() > 0;
        if (found < 0) found = any;
        CHECK(found == any); // under every schedule
    }
    return found;
}

__global__ void copy_kernel(float* out, const float* inp, int stride, int offset, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[i] = inp[i * stride + offset];
}
__global__ void wide_kernel(float* out, const float* inp) {
    const int i = 4 * int(blockIdx.x * blockDim.x + threadIdx.x);
    st128(out + i, ld128(inp + i));
}
__global__ void banks_kernel(float* out, int stride) {
    SHARED(Tile, tile);
    const int t = int(threadIdx.x);
    tile.v[t * stride % 1024] = 1;
    __syncthreads();
    out[t] = tile.v[t * stride % 1024];
}

} // namespace

TEST_CASE("trace: races are found, ordered accesses are none", "[traced]") {
    alignas(32) static float inp[64];
    CHECK(races(exchange_kernel, 3, 256, 1, false, true) == 0);
    CHECK(races(exchange_kernel, 3, 256, 1, false, false) == 1);
    CHECK(races(rounds_kernel, 2, 256, 1, true, 20, true) == 1); // both blocks write out
    CHECK(races(rounds_kernel, 1, 256, 1, false, 20, false) == 1);
    CHECK(races(lockstep_kernel, 1, 32, 1, false, true) == 0);
    CHECK(races(lockstep_kernel, 1, 32, 1, false, false) == 1);
    CHECK(races(warps_kernel, 1, 64, 1, false) == 1);
    CHECK(races(named_kernel, 1, 128, 1, false, true) == 0);
    CHECK(races(named_kernel, 1, 128, 1, false, false) == 1);
    CHECK(races(blocks_kernel, 2, 32, 1, true) == 1);
    CHECK(races(blocks_kernel, 1, 32, 1, true) == 0);
    CHECK(races(counter_kernel, 4, 64, 1, true) == 0);
    CHECK(races(half_atomic_kernel, 1, 64, 1, true) == 1);
    CHECK(races(cluster_kernel, 2, 64, 2, false, true, true) == 0);
    CHECK(races(cluster_kernel, 2, 64, 2, false, false, true) == 1);
    CHECK(races(cluster_kernel, 2, 64, 2, false, true, false) == 1);
    CHECK(races(early_copy_kernel, 1, 64, 1, false, inp, true) == 0);
    CHECK(races(early_copy_kernel, 1, 64, 1, false, inp, false) == 1);
}

TEST_CASE("trace: sectors and wavefronts are those counted by hand", "[traced]") {
    std::vector<float> memory(3 * 8192 + 64);
    float* out = memory.data() + (32 - reinterpret_cast<uintptr_t>(memory.data()) % 32) / 4;
    float* inp = out + 8192;
    Ctx ctx(Backend::simt, 1);
    auto traced = [&](const auto& body) {
        Trace trace;
        trace.watch("out", out, 8192 * 4);
        trace.watch("inp", inp, 2 * 8192 * 4);
        ctx.simt.trace = &trace;
        body();
        ctx.simt.trace = nullptr;
        CHECK(trace.races() == 0);
        return trace;
    };
    const LaunchShape shape{16, 64, 1, 0};
    Trace t = traced([&] { LAUNCH(ctx, copy_kernel, shape, out, inp, 1, 0, 1024); });
    CHECK(t.watched("inp").load.requests == 32);
    CHECK(t.watched("inp").load.sectors == 128);
    CHECK(t.watched("inp").sectors_read == 128);
    CHECK(t.watched("out").store.sectors == 128);
    t = traced([&] { LAUNCH(ctx, copy_kernel, shape, out, inp, 8, 0, 1024); }); // a sector each
    CHECK(t.watched("inp").load.sectors == 1024);
    t = traced(
        [&] { LAUNCH(ctx, copy_kernel, shape, out, inp, 1, 1, 1000); }); // shifted by 4 bytes
    CHECK(t.watched("inp").load.sectors == 31 * 5 + 2);
    CHECK(t.watched("inp").sectors_read == 126);
    t = traced([&] { LAUNCH(ctx, wide_kernel, shape, out, inp); });
    CHECK(t.watched("inp").load.requests == 32);
    CHECK(t.watched("inp").load.sectors == 512);
    CHECK(t.watched("out").sectors_written == 512);
    for (const auto& [stride, passes] : {std::pair(1, 1), {2, 2}, {8, 8}, {32, 32}, {33, 1}}) {
        t = traced([&] { LAUNCH(ctx, banks_kernel, (LaunchShape{1, 32, 1, 0}), out, stride); });
        CHECK(t.shared().requests == 2);
        CHECK(t.shared().ideal == 2);
        CHECK(t.shared().wavefronts == 2 * passes);
    }
}
