// One OS thread's scheduler: the live cluster, its warps and what every lane waits for. Inside
// the runtime only; contract in runtime.h.
#pragma once
#include "llmc/device/simt/fiber.h"
#include "llmc/device/simt/runtime.h"

#include <atomic>
#include <string>
#include <vector>

namespace simt::runtime {

constexpr int kWarpSize = 32, kBarriers = 16;
constexpr size_t kStaticLimit = 48 << 10;                    // before dynamic shared memory
constexpr size_t kSharedStride = kStaticLimit + (228 << 10); // between the blocks of a cluster

struct Warp {
    int block; // rank in the cluster
    // Lane sets. A lane that exists is in exactly one of the others, or runs.
    unsigned exist, fresh, ready, in_warp, at_barrier, at_cluster, done;
    Fiber* fiber[kWarpSize];
    uint3 thread[kWarpSize];
    // Of a waiting lane:
    Site site[kWarpSize];
    unsigned mask[kWarpSize];
    WarpOp op[kWarpSize];
    void* data[kWarpSize];
    int barrier[kWarpSize];
};

struct Barrier {
    int expected, arrived, count; // threads; count: with a true predicate
    Site site;
    BarrierResult result; // of the last completed phase
};

struct Block {
    uint3 index;
    int done; // threads
    Barrier barriers[kBarriers];
    char* shared;
};

struct Copy {
    void* shared;
    const void* global;
    int group;
    Site site;
};

// Clusters still to run, shared by the workers of one launch.
struct Queue {
    int64_t clusters, step, offset; // i -> (i * step + offset) % clusters: the order
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
};

class Scheduler {
  public:
    Scheduler();
    ~Scheduler();
    static Scheduler& current(); // of this OS thread, which runs a kernel
    static bool active();        // whether it does

    // Returns "" or the report of a fault.
    std::string run(const Grid& grid, const SimtOptions& options, Queue& queue, uint64_t launch);

    void suspend(); // the running thread waits; returns when it runs again
    bool complete_warp(Warp& warp, unsigned lanes); // if they all arrived: makes them ready
    void wake(int warp, unsigned lanes);
    // End the launch with a report: of the running thread, or of where every thread waits. The
    // callers' frames are abandoned: they must not own memory.
    [[noreturn]] void fail(const char* message);
    [[noreturn]] void fail_all(const char* headline);

    Warp& warp() { return warps_[warp_]; }
    Block& block() { return blocks_[warps_[warp_].block]; }
    int rank() const { return warps_[warp_].block; }
    unsigned lane_bit() const { return 1u << lane_; }
    int thread() const { return warp_ * kWarpSize + lane_; } // number in the cluster
    void* shared_slot(SharedSlot& slot, size_t bytes, size_t alignment);

  private:
    friend void run_grid(const Grid&, const SimtOptions&, int);
    static void fiber_entry();
    void run_threads();   // a fiber's loop: one kernel thread after the other
    void finish_thread(); // after the kernel's body returned
    bool start_cluster(); // false: none is left
    void start_block(Block& block, int64_t number);
    bool next_thread(int& warp, int& lane); // false: no clusters left
    bool take(int warp, int lane);          // makes it the running one; true: it has no fiber yet
    int pick(unsigned lanes);
    void set_runnable(int warp);
    void poison_shared(Block& block);
    void report(const char* message);
    void report_all(const char* headline);
    [[noreturn]] void leave();

  public: // state, read and written by the operations in operations.cpp
    const Grid* grid = nullptr;
    SimtOptions options;
    Trace* trace = nullptr;
    int warps_per_block = 0;
    std::vector<Block> blocks_;
    std::vector<Warp> warps_;
    int warp_ = 0, lane_ = 0; // running
    // Cluster barrier: how often each thread arrived and waited; phases completed; arrivals of now.
    std::vector<uint32_t> arrived, waited;
    uint32_t cluster_phase = 0;
    int cluster_arrivals = 0;
    struct Copies {
        std::vector<Copy> queue;
        int group = 0;
    };
    std::vector<Copies> copies;
    size_t static_bytes = 0;

  private:
    Queue* queue_ = nullptr;
    uint64_t launch_ = 0;
    uint32_t random_ = 0;
    std::vector<uint64_t> runnable_; // bit per warp
    FiberPool pool_;
    Fiber outside_; // the OS thread itself
    char* memory_;  // shared memory of kClusterLimit blocks
    struct Variable {
        size_t offset, bytes;
    };
    std::vector<Variable> variables_; // SHARED ones, placed when first met
    std::string report_;
};

void perform_copies(Scheduler& scheduler, int thread, int pending_groups);

} // namespace simt::runtime
