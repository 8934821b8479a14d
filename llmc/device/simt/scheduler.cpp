// Contract: runtime.h.
#include "llmc/device/simt/scheduler.h"

#include "llmc/core/error.h"
#include "llmc/device/simt/trace.h"

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstring>
#include <numeric>
#include <omp.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) (void)0
#define ASAN_UNPOISON_MEMORY_REGION(p, n) (void)0
#endif

namespace simt::runtime {

static thread_local Scheduler* running;

Scheduler& Scheduler::current() { return *running; }
bool Scheduler::active() { return running != nullptr; }

Scheduler::Scheduler() : pool_(&Scheduler::fiber_entry) {
    void* memory = mmap(nullptr, kSharedStride * kClusterLimit, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(memory != MAP_FAILED, "simt: no memory for the blocks' shared memory");
    memory_ = static_cast<char*>(memory);
}

Scheduler::~Scheduler() {
    ASAN_UNPOISON_MEMORY_REGION(memory_, kSharedStride * kClusterLimit);
    munmap(memory_, kSharedStride * kClusterLimit);
}

// ------------------------------------------------------------------------------------------------
// faults

void Scheduler::report(const char* message) {
    const uint3 b = coordinates.block, t = coordinates.thread;
    report_ =
        format("simt: kernel %s, block (%u,%u,%u), thread (%u,%u,%u) = warp %d lane %d: %s",
               grid->kernel, b.x, b.y, b.z, t.x, t.y, t.z, warp_ % warps_per_block, lane_, message);
}

// Abandons this fiber and all others.
void Scheduler::leave() {
    queue_->stop = true;
    Fiber abandoned;
    fiber_switch(abandoned, outside_);
    __builtin_unreachable();
}

void Scheduler::fail(const char* message) {
    report(message);
    leave();
}

void Scheduler::fail_all(const char* headline) {
    report_all(headline);
    leave();
}

void fault(Site site, const char* message, ...) {
    char text[400];
    const int n = snprintf(text, sizeof text, "%s:%d: ", site.file, site.line);
    va_list arguments;
    va_start(arguments, message);
    vsnprintf(text + n, sizeof text - size_t(n), message, arguments);
    va_end(arguments);
    Scheduler::current().fail(text);
}

static std::string waits_for(const Warp& warp, int lane) {
    static const char* const names[] = {"__syncwarp",  "a shuffle", "a vote", "a match",
                                        "a reduction", "ldmatrix",  "mma"};
    const Site site = warp.site[lane];
    const unsigned bit = 1u << lane;
    if (warp.done & bit) return "exited";
    if (warp.fresh & bit) return "not started";
    if (warp.ready & bit) return "ready";
    if (warp.in_warp & bit)
        return format("wait in %s of lanes %08x at %s:%d", names[int(warp.op[lane])],
                      warp.mask[lane], site.file, site.line);
    if (warp.at_barrier & bit)
        return format("wait at barrier %d at %s:%d", warp.barrier[lane], site.file, site.line);
    if (warp.at_cluster & bit) return format("wait for the cluster at %s:%d", site.file, site.line);
    return "running";
}

void Scheduler::report_all(const char* headline) {
    std::string text = format("simt: kernel %s: %s", grid->kernel, headline);
    for (int w = 0; w < int(warps_.size()); w++) {
        const Warp& warp = warps_[w];
        const uint3 index = blocks_[warp.block].index;
        for (unsigned left = warp.exist; left;) {
            const std::string what = waits_for(warp, std::countr_zero(left));
            unsigned same = 0;
            for (unsigned rest = left; rest; rest &= rest - 1)
                if (waits_for(warp, std::countr_zero(rest)) == what) same |= rest & -rest;
            left &= ~same;
            text += format("\n  block (%u,%u,%u) warp %d lanes %08x: %s", index.x, index.y, index.z,
                           w % warps_per_block, same, what.c_str());
        }
        if (text.size() > 3000) {
            text += "\n  ...";
            break;
        }
    }
    report_ = text;
}

// ------------------------------------------------------------------------------------------------
// blocks

// All ones is NaN in every floating-point type.
void Scheduler::poison_shared(Block& block) {
    for (const Variable& v : variables_) std::memset(block.shared + v.offset, 0xff, v.bytes);
    std::memset(block.shared + kStaticLimit, 0xff, grid->shared_bytes);
}

void Scheduler::start_block(Block& block, int64_t number) {
    const dim3 n = grid->blocks;
    block.index = {unsigned(number % n.x), unsigned(number / n.x % n.y),
                   unsigned(number / n.x / n.y)};
    block.done = 0;
    std::memset(block.barriers, 0, sizeof block.barriers);
    poison_shared(block);
}

bool Scheduler::start_cluster() {
    const int64_t i = queue_->stop ? queue_->clusters : queue_->next++;
    if (i >= queue_->clusters) return false;
    const int64_t number = (i * queue_->step + queue_->offset) % queue_->clusters;
    const int threads = int(grid->threads.x * grid->threads.y * grid->threads.z);
    for (int rank = 0; rank < grid->cluster; rank++)
        start_block(blocks_[rank], number * grid->cluster + rank);
    for (int w = 0; w < int(warps_.size()); w++) {
        Warp& warp = warps_[w];
        const int lanes = std::min(kWarpSize, threads - w % warps_per_block * kWarpSize);
        warp.exist = warp.fresh = lanes == kWarpSize ? ~0u : (1u << lanes) - 1;
        warp.ready = warp.in_warp = warp.at_barrier = warp.at_cluster = warp.done = 0;
        set_runnable(w);
    }
    std::fill(arrived.begin(), arrived.end(), 0);
    std::fill(waited.begin(), waited.end(), 0);
    cluster_phase = 0;
    cluster_arrivals = 0;
    warp_ = 0;
    if (trace) trace->begin_cluster(*this, number);
    return true;
}

void* Scheduler::shared_slot(SharedSlot& slot, size_t bytes, size_t alignment) {
    if (slot.launch != launch_) {
        const size_t offset = (static_bytes + alignment - 1) / alignment * alignment;
        if (offset + bytes > kStaticLimit) fail("more than 48 KiB of static shared memory");
        if (offset + bytes + grid->shared_bytes > options.shared_limit)
            fail("more shared memory, static and dynamic, than a block may have");
        for (Block& b : blocks_) {
            ASAN_UNPOISON_MEMORY_REGION(b.shared + offset, bytes);
            std::memset(b.shared + offset, 0xff, bytes);
        }
        slot = {launch_, offset};
        variables_.push_back({offset, bytes});
        static_bytes = offset + bytes + 16; // a red zone
    }
    return block().shared + slot.offset;
}

// ------------------------------------------------------------------------------------------------
// scheduling

void Scheduler::set_runnable(int warp) {
    uint64_t& word = runnable_[warp / 64];
    const uint64_t bit = uint64_t(1) << warp % 64;
    if (warps_[warp].ready | warps_[warp].fresh) word |= bit;
    else word &= ~bit;
}

void Scheduler::wake(int warp, unsigned lanes) {
    Warp& w = warps_[warp];
    w.in_warp &= ~lanes;
    w.at_barrier &= ~lanes;
    w.at_cluster &= ~lanes;
    w.ready |= lanes;
    set_runnable(warp);
}

int Scheduler::pick(unsigned lanes) {
    if (!options.seed) return std::countr_zero(lanes);
    random_ = random_ * 1664525u + 1013904223u;
    const int turn = int(random_ >> 27);
    return (std::countr_zero(std::rotr(lanes, turn)) + turn) & 31;
}

bool Scheduler::next_thread(int& warp, int& lane) {
    for (;;) {
        if (!(warps_[warp_].ready | warps_[warp_].fresh)) {
            const size_t words = runnable_.size();
            size_t word = 0;
            if (options.seed) word = size_t(pick(~0u)) % words;
            size_t tried = 0;
            while (tried < words && !runnable_[word]) word = (word + 1) % words, tried++;
            if (tried == words) {
                int done = 0, all = 0;
                for (const Warp& w : warps_) {
                    done += std::popcount(w.done);
                    all += std::popcount(w.exist);
                }
                if (done != all) fail_all("deadlock, no thread can run:");
                if (!start_cluster()) return false;
                continue;
            }
            const unsigned low = unsigned(runnable_[word]), high = unsigned(runnable_[word] >> 32);
            warp_ = int(word) * 64 + (low ? pick(low) : 32 + pick(high));
        }
        const Warp& w = warps_[warp_];
        warp = warp_;
        lane = pick(w.ready ? w.ready : w.fresh);
        return true;
    }
}

bool Scheduler::take(int warp, int lane) {
    Warp& w = warps_[warp];
    const unsigned bit = 1u << lane;
    const bool fresh = w.fresh & bit;
    w.fresh &= ~bit;
    w.ready &= ~bit;
    set_runnable(warp);
    warp_ = warp;
    lane_ = lane;
    coordinates.thread = w.thread[lane];
    coordinates.block = blocks_[w.block].index;
    return fresh;
}

void Scheduler::suspend() {
    Fiber& mine = *warps_[warp_].fiber[lane_];
    int warp, lane;
    next_thread(warp, lane); // true: this thread has not ended
    const bool fresh = take(warp, lane);
    Fiber*& other = warps_[warp].fiber[lane];
    if (fresh) other = pool_.take();
    if (other != &mine) fiber_switch(mine, *other);
}

void Scheduler::finish_thread() {
    copies[thread()] = {}; // what nobody waited for never arrives
    Warp& w = warps_[warp_];
    w.done |= lane_bit();
    if (trace) trace->thread_done(*this);
    Block& b = block();
    const int threads = int(grid->threads.x * grid->threads.y * grid->threads.z);
    if (++b.done == threads && grid->cluster > 1)
        poison_shared(b); // its peers must not read it now
}

void Scheduler::run_threads() {
    for (;;) {
        bool thrown = false; // a fiber must not be left inside a handler
        try {
            grid->body(grid->arguments);
        } catch (const std::exception& e) {
            report((std::string("exception: ") + e.what()).c_str());
            thrown = true;
        }
        if (thrown) leave();
        Fiber& mine = *warps_[warp_].fiber[lane_];
        finish_thread();
        int warp, lane;
        if (!next_thread(warp, lane)) {
            pool_.give(&mine);
            fiber_switch(mine, outside_);
            continue;
        }
        if (take(warp, lane)) {
            warps_[warp].fiber[lane] = &mine; // the next thread runs on this stack
            continue;
        }
        pool_.give(&mine);
        fiber_switch(mine, *warps_[warp].fiber[lane]);
    }
}

void Scheduler::fiber_entry() {
    fiber_entered();
    running->run_threads();
}

std::string Scheduler::run(const Grid& g, const SimtOptions& o, Queue& queue, uint64_t launch) {
    grid = &g;
    options = o;
    trace = o.trace;
    queue_ = &queue;
    launch_ = launch;
    random_ = o.seed;
    report_.clear();
    static_bytes = 0;
    variables_.clear();
    const int threads = int(g.threads.x * g.threads.y * g.threads.z);
    warps_per_block = (threads + kWarpSize - 1) / kWarpSize;
    blocks_.resize(g.cluster);
    warps_.resize(g.cluster * warps_per_block);
    runnable_.assign((warps_.size() + 63) / 64, 0);
    for (size_t w = 0; w < warps_.size(); w++) {
        warps_[w].block = int(w) / warps_per_block;
        for (int lane = 0; lane < kWarpSize; lane++) {
            const unsigned t = unsigned(int(w) % warps_per_block * kWarpSize + lane);
            warps_[w].thread[lane] = {t % g.threads.x, t / g.threads.x % g.threads.y,
                                      t / g.threads.x / g.threads.y};
        }
    }
    for (int rank = 0; rank < g.cluster; rank++) {
        blocks_[rank].shared = memory_ + kSharedStride * rank;
        ASAN_POISON_MEMORY_REGION(blocks_[rank].shared, kSharedStride);
        ASAN_UNPOISON_MEMORY_REGION(blocks_[rank].shared + kStaticLimit, g.shared_bytes);
    }
    arrived.assign(warps_.size() * kWarpSize, 0);
    waited = arrived;
    copies.assign(warps_.size() * kWarpSize, {});
    coordinates.threads = g.threads;
    coordinates.blocks = g.blocks;
    running = this;
    int warp, lane;
    if (start_cluster() && next_thread(warp, lane)) {
        take(warp, lane);
        fiber_switch(outside_, *(warps_[warp].fiber[lane] = pool_.take()));
    }
    running = nullptr;
    if (!report_.empty()) pool_.reset();
    return report_;
}

void run_grid(const Grid& g, const SimtOptions& options, int workers) {
    const int64_t blocks = int64_t(g.blocks.x) * g.blocks.y * g.blocks.z;
    const int threads = int(g.threads.x * g.threads.y * g.threads.z);
    require(threads >= 1 && threads <= kBlockLimit && g.cluster >= 1 &&
                g.cluster <= kClusterLimit && g.blocks.x % unsigned(g.cluster) == 0 &&
                options.shared_limit <= kSharedLimit && g.shared_bytes <= options.shared_limit,
            "%s: %d threads, %u blocks in clusters of %d, %zu bytes of shared memory", g.kernel,
            threads, g.blocks.x, g.cluster, g.shared_bytes);
    if (blocks == 0) return;
    Queue queue;
    queue.clusters = blocks / g.cluster;
    queue.step = 1;
    queue.offset = 0;
    if (options.seed) {
        queue.step = 1 + int64_t(options.seed * 7919u % 65521u);
        while (std::gcd(queue.step, queue.clusters) != 1) queue.step++;
        queue.offset = int64_t(options.seed);
    }
    if (options.trace) workers = 1;
    workers = int(std::min<int64_t>(std::max(workers, 1), queue.clusters));
    static std::atomic<uint64_t> launches{0};
    const uint64_t launch = ++launches;
    std::vector<std::string> reports(workers);
    if (options.trace) options.trace->begin_launch(g);
#pragma omp parallel num_threads(workers)
    {
        static thread_local Scheduler scheduler;
        reports[omp_get_thread_num()] = scheduler.run(g, options, queue, launch);
    }
    for (const std::string& report : reports)
        if (!report.empty()) throw Fault(report);
}

} // namespace simt::runtime
