// The SIMT runtime (device/simt/runtime.h): every operation against its definition, and planted
// faults that must be reported.
#include "llmc/device/gpu.h"
#include "test/catch.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace {

struct Device : Ctx {
    explicit Device(uint32_t seed = 0) : Ctx(Backend::simt, 1) { simt.seed = seed; }
};

// Runs body(device) for the four schedules the tests cover.
template <class Body> void for_seeds(const Body& body) {
    for (uint32_t seed = 0; seed < 4; seed++) {
        CAPTURE(seed);
        Device device(seed);
        body(device);
    }
}

template <class Body> std::string fault_of(const Body& body) {
    try {
        body();
    } catch (const simt::runtime::Fault& fault) {
        return fault.what();
    }
    return "no fault";
}

// ------------------------------------------------------------------------------------------------
// kernels without a fault

__global__ void index_kernel(int* out, int n) { // threads that never wait, some without work
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[i] += i;
}

__global__ void warp_kernel(int* out) {
    const int lane = int(threadIdx.x);
    int* mine = out + 16 * lane;
    mine[0] = __shfl_sync(~0u, lane, 5);
    mine[1] = __shfl_xor_sync(~0u, lane, 3);
    mine[2] = __shfl_up_sync(~0u, lane, 2);
    mine[3] = __shfl_down_sync(~0u, lane, 2);
    mine[4] = __shfl_down_sync(~0u, lane, 1, 8);
    mine[5] = int(__ballot_sync(~0u, lane % 3 == 0));
    mine[6] = __any_sync(~0u, lane == 31) + 2 * __all_sync(~0u, lane < 32);
    mine[7] = int(__match_any_sync(~0u, lane % 4));
    mine[8] = __reduce_add_sync(~0u, lane);
    mine[9] = __reduce_max_sync(~0u, -lane);
    mine[10] = int(__reduce_xor_sync(~0u, unsigned(lane)));
    mine[11] = int(1000 * __shfl_sync(~0u, 0.5 * lane, 31)); // 8-byte operands
    int all;
    __match_all_sync(~0u, 7, &all);
    mine[12] = all;
    if (lane < 16) mine[13] = __shfl_sync(0x0000ffffu, lane, 2); // halves on their own
    else mine[13] = __shfl_sync(0xffff0000u, lane, 20);
}

struct Tile {
    int v[256];
    int count;
};

// Neighbour exchange with two barriers, in static and in dynamic shared memory.
__global__ void exchange_kernel(int* out) {
    SHARED(Tile, tile);
    DYNAMIC_SHARED(int, dynamic);
    const int t = int(threadIdx.x), T = int(blockDim.x);
    int value = t;
    for (int round = 0; round < 5; round++) {
        tile.v[t] = value;
        dynamic[T - 1 - t] = value;
        __syncthreads();
        value = tile.v[(t + 1) % T] + dynamic[t];
        __syncthreads();
    }
    if (t == 0) tile.count = 0;
    __syncthreads();
    atomicAdd(&tile.count, value % 2);
    const int odd = __syncthreads_count(value % 2);
    out[blockIdx.x * blockDim.x + threadIdx.x] = value + (tile.count - odd);
}

// Half of the block produces, half consumes, over named barriers.
__global__ void pipeline_kernel(int* out) {
    SHARED(Tile, tile);
    const int t = int(threadIdx.x) % 64;
    const bool producer = threadIdx.x < 64;
    for (int round = 0; round < 4; round++) {
        if (producer) {
            if (round > 0) named_barrier_sync(2, 128); // room again
            tile.v[t] = round * 100 + t;
            named_barrier_arrive(1, 128); // full
        } else {
            named_barrier_sync(1, 128);
            out[round * 64 + t] = tile.v[63 - t];
            if (round < 3) named_barrier_arrive(2, 128);
        }
    }
}

__global__ void cluster_kernel(int* out, int C) {
    DYNAMIC_SHARED(int, mine);
    const int rank = cluster_rank(), t = int(threadIdx.x), T = int(blockDim.x);
    mine[t] = 1000 * int(blockIdx.x) + t;
    cluster_sync();
    int sum = 0;
    for (int r = 0; r < C; r++) sum += *cluster_map(&mine[T - 1 - t], r);
    cluster_arrive(); // after the last look at the others' memory
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum + rank;
    cluster_wait();
}

__global__ void copy_kernel(float* out, const float* inp, int wait) {
    DYNAMIC_SHARED(float, row);
    const int t = int(threadIdx.x);
    cp_async16(row + 4 * t, inp + 4 * t);
    cp_async_commit();
    cp_async16(row + 128 + 4 * t, inp + 128 + 4 * t);
    cp_async_commit();
    if (wait == 2) cp_async_wait<0>();
    if (wait == 1) cp_async_wait<1>();
    __syncthreads();
    for (int i = t; i < 256; i += 32) out[i] = row[i];
}

__global__ void pack_kernel(bf16* out, const bf16* inp) {
    Pack<bf16> pack = ld128(inp + 8 * threadIdx.x);
    for (bf16& x : pack.v) x = from_float<bf16>(2 * to_float(x));
    st128(out + 8 * threadIdx.x, pack);
}

} // namespace

TEST_CASE("simt: every thread of a grid runs once", "[simt]") {
    for_seeds([](Device& device) {
        std::vector<int> out(1000, 1);
        LAUNCH(device, index_kernel, (LaunchShape{16, 64, 1, 0}), out.data(), 1000);
        for (int i = 0; i < 1000; i++) REQUIRE(out[i] == i + 1);
    });
}

TEST_CASE("simt: warp operations compute what CUDA defines", "[simt]") {
    for_seeds([](Device& device) {
        std::vector<int> out(16 * 32);
        LAUNCH(device, warp_kernel, (LaunchShape{1, 32, 1, 0}), out.data());
        for (int lane = 0; lane < 32; lane++) {
            const int* mine = &out[16 * lane];
            const int want[] = {5,
                                lane ^ 3,
                                lane < 2 ? lane : lane - 2,
                                lane > 29 ? lane : lane + 2,
                                lane % 8 == 7 ? lane : lane + 1,
                                0x49249249,
                                3,
                                0x11111111 << lane % 4,
                                496,
                                0,
                                0,
                                15500,
                                1,
                                lane < 16 ? 2 : 20};
            for (int i = 0; i < 14; i++) CHECK(mine[i] == want[i]);
        }
    });
}

TEST_CASE("simt: block barriers order shared memory, blocks do not share it", "[simt]") {
    std::vector<int> first;
    for_seeds([&](Device& device) {
        std::vector<int> out(3 * 256, -1);
        LAUNCH(device, exchange_kernel, (LaunchShape{3, 256, 1, 1024}), out.data());
        if (first.empty()) first = out;
        CHECK(out == first);
        CHECK(std::equal(out.begin(), out.begin() + 256, out.begin() + 512));
    });
}

TEST_CASE("simt: named barriers let warps produce and consume", "[simt]") {
    for_seeds([](Device& device) {
        std::vector<int> out(256, -1);
        LAUNCH(device, pipeline_kernel, (LaunchShape{1, 128, 1, 0}), out.data());
        for (int i = 0; i < 256; i++) REQUIRE(out[i] == i / 64 * 100 + 63 - i % 64);
    });
}

TEST_CASE("simt: blocks of a cluster read each other's shared memory", "[simt]") {
    for (int C : {1, 2, 8})
        for_seeds([C](Device& device) {
            std::vector<int> out(16 * 64, -1);
            LAUNCH(device, cluster_kernel, (LaunchShape{16, 64, C, 256}), out.data(), C);
            for (int block = 0; block < 16; block++)
                for (int t = 0; t < 64; t++) {
                    const int base = block / C * C;
                    int want = block - base;
                    for (int r = 0; r < C; r++) want += 1000 * (base + r) + 63 - t;
                    REQUIRE(out[block * 64 + t] == want);
                }
        });
}

TEST_CASE("simt: a copy arrives at its wait, or at once with eager_copies", "[simt]") {
    alignas(16) float inp[256];
    std::iota(inp, inp + 256, 1.0f);
    auto arrived = [&](int wait, bool eager) {
        Device device;
        device.simt.eager_copies = eager;
        std::vector<float> out(256);
        LAUNCH(device, copy_kernel, (LaunchShape{1, 32, 1, 1024}), out.data(), inp, wait);
        int count = 0;
        for (int i = 0; i < 256; i++) count += out[i] == inp[i];
        return count;
    };
    CHECK(arrived(2, false) == 256);
    CHECK(arrived(1, false) == 128); // the second group is still on its way: NaN
    CHECK(arrived(0, false) == 0);
    CHECK(arrived(0, true) == 256);
}

TEST_CASE("simt: two OS threads compute what one computes", "[simt]") {
    std::vector<int> one(64 * 64), two(64 * 64);
    for (std::vector<int>* out : {&one, &two}) {
        Ctx ctx(Backend::simt, out == &one ? 1 : 2);
        LAUNCH(ctx, cluster_kernel, (LaunchShape{64, 64, 4, 256}), out->data(), 4);
    }
    CHECK(one == two);
}

TEST_CASE("simt: 16-byte packs of bf16", "[simt]") {
    Device device;
    alignas(16) bf16 inp[256], out[256];
    for (int i = 0; i < 256; i++) inp[i] = {float_to_bf16(float(i) / 8)};
    LAUNCH(device, pack_kernel, (LaunchShape{1, 32, 1, 0}), out, inp);
    for (int i = 0; i < 256; i++) CHECK(bf16_to_float(out[i].bits) == float(i) / 4);
}

// ------------------------------------------------------------------------------------------------
// planted faults

namespace {

__global__ void split_barrier_kernel(int* out) {
    if (threadIdx.x < 64) __syncthreads();
    else __syncthreads(); // another barrier
    out[threadIdx.x] = 1;
}
__global__ void early_exit_kernel(int* out) {
    if (threadIdx.x == 70) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void absent_lane_kernel(int* out) {
    const int lane = int(threadIdx.x);
    if (lane >= 8) out[lane] = __shfl_xor_sync(~0u, lane, 1); // lanes 0..7 are named
    __syncthreads();
}
__global__ void exited_lane_kernel(int* out) {
    if (threadIdx.x < 8) return;
    out[threadIdx.x] = __any_sync(~0u, 1);
}
__global__ void foreign_mask_kernel(int* out) {
    out[threadIdx.x] = __any_sync(0x0000ffffu, 1); // lanes 16..31 are not in it
}
__global__ void foreign_source_kernel(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, int(threadIdx.x), 20);
}
__global__ void missing_lanes_kernel(int* out) { out[threadIdx.x] = __any_sync(~0u, 1); }
__global__ void two_lines_kernel(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __any_sync(~0u, 1);
    else out[threadIdx.x] = __any_sync(~0u, 0);
}
__global__ void misaligned_kernel(float* out) { st128(out + 4 * threadIdx.x + 1, Pack<float>{}); }
__global__ void global_copy_kernel(float* out) { cp_async16(out, out + 4); }
__global__ void lone_wait_kernel(int*) { cluster_wait(); }
__global__ void half_cluster_kernel(int*) {
    if (cluster_rank() == 1) cluster_sync();
}
__global__ void wrong_count_kernel(int*) {
    if (threadIdx.x < 32) named_barrier_sync(1, 64);
    else named_barrier_sync(1, 96);
}
__global__ void throwing_kernel(int*) {
    __syncthreads();
    if (threadIdx.x == 40) throw std::runtime_error("from a kernel");
    __syncthreads();
}
__global__ void poison_kernel(float* out) {
    SHARED(Pack<float>, tile);
    out[threadIdx.x] = tile.v[threadIdx.x % 4];
}

template <class T>
void expect_fault(void (*kernel)(T*), const char* name, int threads, int cluster,
                  const std::vector<std::string>& words) {
    for_seeds([&](Device& device) {
        alignas(16) static T out[1024];
        const std::string text = fault_of([&] {
            launch(device, name, kernel, LaunchShape{cluster, threads, cluster, 0}, out);
        });
        INFO(text);
        for (const std::string& word : words) CHECK(text.find(word) != std::string::npos);
        CHECK(text.find(std::string("kernel ") + name) != std::string::npos);
        CHECK(text.find("block (") != std::string::npos);
        if (words.size() > 1) CHECK(text.find("test_simt.cu:") != std::string::npos);
        // the next launch is as good as ever
        std::vector<int> next(64, 0);
        LAUNCH(device, index_kernel, (LaunchShape{1, 64, 1, 0}), next.data(), 64);
        CHECK(next[63] == 63);
    });
}

} // namespace

#define EXPECT_FAULT(kernel, threads, cluster, ...)                                                \
    expect_fault(kernel, #kernel, threads, cluster, {__VA_ARGS__})

TEST_CASE("simt: planted faults are reported with kernel, block, lanes and line", "[simt]") {
    EXPECT_FAULT(split_barrier_kernel, 128, 1, "different barriers", "lanes");
    EXPECT_FAULT(early_exit_kernel, 128, 1, "deadlock", "warp 2 lanes 00000040: exited",
                 "wait at barrier 0");
    EXPECT_FAULT(absent_lane_kernel, 32, 1, "wait in a shuffle of lanes ffffffff",
                 "lanes 000000ff: wait at barrier 0");
    EXPECT_FAULT(exited_lane_kernel, 32, 1, "exited", "ffffffff");
    EXPECT_FAULT(foreign_mask_kernel, 32, 1, "is not in its own mask 0000ffff", "lane");
    EXPECT_FAULT(foreign_source_kernel, 32, 1, "reads from lane 20", "mask 0000ffff");
    EXPECT_FAULT(missing_lanes_kernel, 48, 1, "names lanes ffff0000", "does not have");
    EXPECT_FAULT(two_lines_kernel, 32, 1, "different warp operations", "lanes 0000ffff");
    EXPECT_FAULT(misaligned_kernel, 32, 1, "misaligned address", "16 bytes");
    EXPECT_FAULT(global_copy_kernel, 32, 1, "is not in this block's shared memory", "warp 0 lane");
    EXPECT_FAULT(lone_wait_kernel, 32, 1, "without having arrived", "cluster");
    EXPECT_FAULT(half_cluster_kernel, 32, 2, "deadlock", "wait for the cluster");
    EXPECT_FAULT(wrong_count_kernel, 64, 1, "barrier 1 of ", "others wait at it");
    EXPECT_FAULT(throwing_kernel, 64, 1, "exception: from a kernel");
}

TEST_CASE("simt: shared memory starts as NaN", "[simt]") {
    Device device;
    std::vector<float> out(32, 0.0f);
    LAUNCH(device, poison_kernel, (LaunchShape{1, 32, 1, 0}), out.data());
    for (float x : out) CHECK(std::isnan(x));
}
