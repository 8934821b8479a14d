// The SIMT runtime: kernels compiled by the host compiler run here, each thread of a block as a
// fiber. device.h gives it CUDA's names; a kernel never includes this file itself.
//
// Scheduling: the blocks of one cluster (usually one block) live at a time on an OS thread. A
// thread runs until it waits; then the next lane of its warp runs, so that a warp's 32 stacks stay
// in cache. The last lane to enter a warp operation computes it for all. Threads that never wait
// share one stack and cost no switch.
//
// Always checked: threads of a block at different barriers, lanes missing from a warp operation,
// misaligned wide accesses, copies to foreign memory, deadlock. What is found ends the launch with
// a Fault whose text names kernel, block, lanes, file and line. Shared memory starts as NaN.
//
// Stricter than the GPU: exited threads count for no barrier, a warp operation's lanes must be at
// one source line, and a mask names only lanes that exist and run.
#pragma once
#include "llmc/device/simt/options.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt::runtime {

struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// ------------------------------------------------------------------------------------------------
// launching

struct Grid {
    const char* kernel; // its name, for reports
    dim3 blocks, threads;
    int cluster; // blocks of one cluster, along x
    size_t shared_bytes;
    void (*body)(void*); // one thread of the kernel
    void* arguments;
};
constexpr size_t kSharedLimit = 227 << 10; // the largest SimtOptions::shared_limit
constexpr int kBlockLimit = 1024, kClusterLimit = 8;

// Runs every block; `workers` OS threads share the clusters. Throws Fault.
void run_grid(const Grid& grid, const SimtOptions& options, int workers);

// ------------------------------------------------------------------------------------------------
// for the running thread of a kernel

struct Coordinates {
    uint3 thread, block;
    dim3 threads, blocks;
};
inline thread_local Coordinates coordinates{};

// Where an operation stands in the source: the default argument of every wrapper in device.h.
struct Site {
    const char* file;
    int line;
};

// How well the checkers see is measured by leaving barriers out, one source line at a time:
// __syncthreads, __syncwarp, named and cluster barriers, cp_async_wait. Launches with one OS thread
// only.
struct Omission {
    std::string file; // of the line to leave out; "": none
    int line = 0;
    std::map<std::pair<std::string, int>, int64_t> met; // times that a thread came to a line

    bool hits(Site site);
};

[[noreturn]] void fault(Site site, const char* message, ...) __attribute__((format(printf, 2, 3)));

enum class WarpOp : uint8_t { sync, shuffle, vote, match, reduce, matrix, mma };
enum class Reduction { add, smallest, largest, bit_and, bit_or, bit_xor };

void warp_sync(unsigned mask, Site site);
uint64_t warp_shuffle(unsigned mask, uint64_t value, int source, Site site);
unsigned warp_ballot(unsigned mask, bool predicate, Site site);
unsigned warp_match_any(unsigned mask, uint64_t value, Site site);
// On int64_t, which holds every operand of the intrinsics.
int64_t warp_reduce(unsigned mask, int64_t value, Reduction reduction, Site site);

// `loads` times ldmatrix.x<matrices>: rows[i] is the lane's row of load i, registers (loads,
// matrices). In one warp operation, as is a whole tile of mma below: less switching of fibers.
void load_matrices(uint32_t* registers, const void* const* rows, int loads, int matrices,
                   bool transpose, Site site);
// mma.m16n8k16 of bf16 into fp32: d (row_tiles, column_tiles, 4) += a (row_tiles, 4) times
// b (column_tiles, 2). Sums from the first product to the last, each rounded to fp32; a tensor
// core's sums are wider and truncate.
void warp_mma(float* d, const uint32_t* a, const uint32_t* b, int row_tiles, int column_tiles,
              Site site);

struct BarrierResult {
    int count; // of threads whose predicate was true
    bool all;
};
// bar.sync id, threads; threads = 0: the whole block.
BarrierResult barrier_sync(int id, int threads, bool predicate, Site site);
void barrier_arrive(int id, int threads, Site site);

void cluster_arrive(Site site);
void cluster_wait(Site site);
int cluster_rank();
// `pointer` into this block's shared memory -> the same place in block `rank` of the cluster.
void* cluster_map(const void* pointer, int rank, Site site);

struct SharedSlot { // one per SHARED declaration and OS thread
    uint64_t launch = 0;
    size_t offset = 0;
};
void* static_shared(SharedSlot& slot, size_t bytes, size_t alignment);
void* dynamic_shared();

void copy_async16(void* shared, const void* global, Site site);
void copy_commit();
void copy_wait(int pending_groups, Site site);

enum class Access : uint8_t { load, store, atomic };
void check_aligned(const void* pointer, size_t bytes, Site site);
void require_shared(const void* pointer, size_t bytes, Site site);
void require_not_shared(const void* pointer, Site site);
void record(const void* pointer, size_t bytes, Access access, const void* place);
void load128(void* value, const void* pointer, Site site);
void store128(void* pointer, const void* value, Site site);

int32_t atomic_add(int32_t* pointer, int32_t value);
uint32_t atomic_add(uint32_t* pointer, uint32_t value);
unsigned long long atomic_add(unsigned long long* pointer, unsigned long long value);
int32_t atomic_max(int32_t* pointer, int32_t value);
uint32_t atomic_max(uint32_t* pointer, uint32_t value);
unsigned long long atomic_max(unsigned long long* pointer, unsigned long long value);

} // namespace simt::runtime
