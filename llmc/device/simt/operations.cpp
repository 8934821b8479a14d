// Warp operations, barriers, clusters, copies and atomics of the running kernel thread. Contract:
// runtime.h.
#include "llmc/device/simt/warp_operation.h"

#include <algorithm>

namespace simt::runtime {

// ------------------------------------------------------------------------------------------------
// warp operations

static bool left_out(Site site) {
    Omission* omission = Scheduler::current().options.omission;
    return omission && omission->hits(site);
}

bool Omission::hits(Site site) {
    met[{site.file, site.line}]++;
    return site.line == line && site.file == file;
}

void warp_sync(unsigned mask, Site site) {
    if (left_out(site)) return;
    warp_operation(mask, WarpOp::sync, nullptr, site, [](void**) {});
}

uint64_t warp_shuffle(unsigned mask, uint64_t value, int source, Site site) {
    struct Lane {
        uint64_t value, result;
        int source;
    } mine{value, 0, source};
    if (source < 0 || source >= kWarpSize || !(mask >> source & 1))
        fault(site, "reads from lane %d, which is not in the mask %08x", source, mask);
    warp_operation(mask, WarpOp::shuffle, &mine, site, [&](void** data) {
        auto of = [&](int lane) -> Lane& { return *static_cast<Lane*>(data[lane]); };
        for_lanes(mask, [&](int lane) { of(lane).result = of(of(lane).source).value; });
    });
    return mine.result;
}

unsigned warp_ballot(unsigned mask, bool predicate, Site site) {
    struct Lane {
        bool predicate;
        unsigned result;
    } mine{predicate, 0};
    warp_operation(mask, WarpOp::vote, &mine, site, [&](void** data) {
        auto of = [&](int lane) -> Lane& { return *static_cast<Lane*>(data[lane]); };
        unsigned votes = 0;
        for_lanes(mask, [&](int lane) { votes |= unsigned(of(lane).predicate) << lane; });
        for_lanes(mask, [&](int lane) { of(lane).result = votes; });
    });
    return mine.result;
}

unsigned warp_match_any(unsigned mask, uint64_t value, Site site) {
    struct Lane {
        uint64_t value;
        unsigned result;
    } mine{value, 0};
    warp_operation(mask, WarpOp::match, &mine, site, [&](void** data) {
        auto of = [&](int lane) -> Lane& { return *static_cast<Lane*>(data[lane]); };
        for_lanes(mask, [&](int lane) {
            of(lane).result = 0;
            for_lanes(mask, [&](int other) {
                of(lane).result |= unsigned(of(other).value == of(lane).value) << other;
            });
        });
    });
    return mine.result;
}

static int64_t reduce(int64_t a, int64_t b, Reduction reduction) {
    switch (reduction) {
    case Reduction::add: return a + b;
    case Reduction::smallest: return std::min(a, b);
    case Reduction::largest: return std::max(a, b);
    case Reduction::bit_and: return a & b;
    case Reduction::bit_or: return a | b;
    case Reduction::bit_xor: return a ^ b;
    }
    return 0;
}

int64_t warp_reduce(unsigned mask, int64_t value, Reduction reduction, Site site) {
    int64_t mine = value;
    warp_operation(mask, WarpOp::reduce, &mine, site, [&](void** data) {
        auto of = [&](int lane) -> int64_t& { return *static_cast<int64_t*>(data[lane]); };
        int64_t result = of(std::countr_zero(mask));
        for_lanes(mask & (mask - 1),
                  [&](int lane) { result = reduce(result, of(lane), reduction); });
        for_lanes(mask, [&](int lane) { of(lane) = result; });
    });
    return mine;
}

// ------------------------------------------------------------------------------------------------
// barriers

// Counts the running thread in; true if the barrier is complete with it.
static bool arrive_at(Scheduler& s, Barrier& barrier, int id, int threads, bool predicate,
                      Site site) {
    const int all = int(s.grid->threads.x * s.grid->threads.y * s.grid->threads.z);
    const int expected = threads ? threads : all;
    if (expected % kWarpSize != 0 && threads)
        fault(site, "barrier %d of %d threads, which is no multiple of the warp", id, threads);
    if (barrier.arrived == 0) {
        barrier.expected = expected;
        barrier.site = site;
        barrier.count = 0;
    }
    if (barrier.expected != expected)
        fault(site, "barrier %d of %d threads, others wait at it for %d", id, expected,
              barrier.expected);
    barrier.count += predicate;
    if (++barrier.arrived < barrier.expected) return false;
    barrier.result = {barrier.count, barrier.count == barrier.expected};
    barrier.arrived = 0;
    return true;
}

static void release_barrier(Scheduler& s, int id) {
    const int first = s.rank() * s.warps_per_block;
    if (s.trace) s.trace->barrier(s, id);
    for (int w = first; w < first + s.warps_per_block; w++) {
        unsigned lanes = 0;
        for_lanes(s.warps_[w].at_barrier, [&](int lane) {
            if (s.warps_[w].barrier[lane] == id) lanes |= 1u << lane;
        });
        if (lanes) s.wake(w, lanes);
    }
}

static void check_id(int id, Site site) {
    if (id < 0 || id >= kBarriers) fault(site, "barrier %d of %d", id, kBarriers);
}

BarrierResult barrier_sync(int id, int threads, bool predicate, Site site) {
    if (left_out(site)) return {predicate, predicate};
    Scheduler& s = Scheduler::current();
    check_id(id, site);
    Barrier& barrier = s.block().barriers[id];
    Warp& w = s.warp();
    w.site[s.lane_] = site;
    w.barrier[s.lane_] = id;
    w.at_barrier |= s.lane_bit();
    // Named barriers meet from several lines on purpose: producer and consumer.
    if (!threads && barrier.arrived > 0 && !same_place(barrier.site, site))
        s.fail_all("threads of one block wait at different barriers:");
    if (arrive_at(s, barrier, id, threads, predicate, site)) {
        release_barrier(s, id);
        w.ready &= ~s.lane_bit(); // it runs on
    } else {
        s.suspend();
    }
    return barrier.result;
}

void barrier_arrive(int id, int threads, Site site) {
    Scheduler& s = Scheduler::current();
    check_id(id, site);
    if (threads == 0) fault(site, "an arrival that does not wait needs the number of threads");
    Barrier& barrier = s.block().barriers[id];
    if (s.trace) s.trace->arrive(s, id);
    if (arrive_at(s, barrier, id, threads, false, site)) release_barrier(s, id);
}

// ------------------------------------------------------------------------------------------------
// clusters

void cluster_arrive(Site site) {
    if (left_out(site)) return;
    Scheduler& s = Scheduler::current();
    const int me = s.thread();
    if (s.arrived[me] != s.waited[me])
        fault(site, "arrives at the cluster's barrier twice without waiting");
    s.arrived[me]++;
    const int all =
        int(s.grid->threads.x * s.grid->threads.y * s.grid->threads.z) * s.grid->cluster;
    if (++s.cluster_arrivals < all) return;
    s.cluster_arrivals = 0;
    s.cluster_phase++;
    for (int w = 0; w < int(s.warps_.size()); w++)
        if (s.warps_[w].at_cluster) s.wake(w, s.warps_[w].at_cluster);
}

void cluster_wait(Site site) {
    if (left_out(site)) return;
    Scheduler& s = Scheduler::current();
    const int me = s.thread();
    if (s.arrived[me] == s.waited[me])
        fault(site, "waits at the cluster's barrier without having arrived");
    if (s.cluster_phase < s.arrived[me]) {
        Warp& w = s.warp();
        w.site[s.lane_] = site;
        w.at_cluster |= s.lane_bit();
        s.suspend();
    }
    s.waited[me]++;
}

int cluster_rank() { return Scheduler::current().rank(); }

// Offset into the running block's shared memory, or -1.
static ptrdiff_t shared_offset(const Scheduler& s, const Block& block, const void* pointer,
                               size_t bytes) {
    const ptrdiff_t offset = static_cast<const char*>(pointer) - block.shared;
    const ptrdiff_t end = offset + ptrdiff_t(bytes);
    const bool in_static = offset >= 0 && end <= ptrdiff_t(s.static_bytes);
    const bool in_dynamic =
        offset >= ptrdiff_t(kStaticLimit) && end <= ptrdiff_t(kStaticLimit + s.grid->shared_bytes);
    return in_static || in_dynamic ? offset : -1;
}

void* cluster_map(const void* pointer, int rank, Site site) {
    Scheduler& s = Scheduler::current();
    const ptrdiff_t offset = shared_offset(s, s.block(), pointer, 1);
    if (offset < 0) fault(site, "%p is not in this block's shared memory", pointer);
    if (rank < 0 || rank >= s.grid->cluster)
        fault(site, "block %d of a cluster of %d", rank, s.grid->cluster);
    return s.blocks_[rank].shared + offset;
}

// ------------------------------------------------------------------------------------------------
// memory

void* static_shared(SharedSlot& slot, size_t bytes, size_t alignment) {
    return Scheduler::current().shared_slot(slot, bytes, alignment);
}

void* dynamic_shared() { return Scheduler::current().block().shared + kStaticLimit; }

void check_aligned(const void* pointer, size_t bytes, Site site) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0)
        fault(site, "access of %zu bytes at the misaligned address %p", bytes, pointer);
}

void require_shared(const void* pointer, size_t bytes, Site site) {
    Scheduler& s = Scheduler::current();
    if (shared_offset(s, s.block(), pointer, bytes) < 0)
        fault(site, "%p is not in this block's shared memory", pointer);
}

void require_not_shared(const void* pointer, Site site) {
    Scheduler& s = Scheduler::current();
    for (int rank = 0; rank < s.grid->cluster; rank++)
        if (shared_offset(s, s.blocks_[rank], pointer, 1) >= 0)
            fault(site, "%p is in shared memory, not in global", pointer);
}

void perform_copies(Scheduler& s, int thread, int pending_groups) {
    Scheduler::Copies& copies = s.copies[thread];
    size_t done = 0;
    for (const Copy& copy : copies.queue) {
        if (copy.group >= copies.group - pending_groups) break;
        if (s.trace) s.trace->copied(s, copy.shared, copy.global, 16, place_of(copy.site));
        std::memcpy(copy.shared, copy.global, 16);
        done++;
    }
    copies.queue.erase(copies.queue.begin(), copies.queue.begin() + ptrdiff_t(done));
}

void copy_async16(void* shared, const void* global, Site site) {
    Scheduler& s = Scheduler::current();
    check_aligned(shared, 16, site);
    check_aligned(global, 16, site);
    require_shared(shared, 16, site);
    Scheduler::Copies& copies = s.copies[s.thread()];
    copies.queue.push_back({shared, global, copies.group, site});
    if (!s.options.eager_copies) return;
    copies.group++;
    perform_copies(s, s.thread(), 0);
}

void copy_commit() {
    Scheduler& s = Scheduler::current();
    s.copies[s.thread()].group++;
}

void copy_wait(int pending_groups, Site site) {
    if (left_out(site)) return;
    Scheduler& s = Scheduler::current();
    perform_copies(s, s.thread(), pending_groups);
}

void record(const void* pointer, size_t bytes, Access access, const void* place) {
    if (!Scheduler::active()) return; // host code in an instrumented file
    Scheduler& s = Scheduler::current();
    if (s.trace) s.trace->access(s, pointer, bytes, access, place);
}

void load128(void* value, const void* pointer, Site site) {
    check_aligned(pointer, 16, site);
    record(pointer, 16, Access::load, place_of(site));
    std::memcpy(value, pointer, 16);
}

void store128(void* pointer, const void* value, Site site) {
    check_aligned(pointer, 16, site);
    record(pointer, 16, Access::store, place_of(site));
    std::memcpy(pointer, value, 16);
}

template <class T, class Update> static T atomic(T* pointer, const Update& update) {
    check_aligned(pointer, sizeof(T), {"atomic", 0});
    record(pointer, sizeof(T), Access::atomic, __builtin_return_address(0));
    T old = __atomic_load_n(pointer, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(pointer, &old, update(old), true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return old;
}

template <class T> static T add(T* pointer, T value) {
    return atomic(pointer, [&](T old) { return T(old + value); });
}
template <class T> static T largest(T* pointer, T value) {
    return atomic(pointer, [&](T old) { return std::max(old, value); });
}
int32_t atomic_add(int32_t* pointer, int32_t value) { return add(pointer, value); }
uint32_t atomic_add(uint32_t* pointer, uint32_t value) { return add(pointer, value); }
unsigned long long atomic_add(unsigned long long* pointer, unsigned long long value) {
    return add(pointer, value);
}
int32_t atomic_max(int32_t* pointer, int32_t value) { return largest(pointer, value); }
uint32_t atomic_max(uint32_t* pointer, uint32_t value) { return largest(pointer, value); }
unsigned long long atomic_max(unsigned long long* pointer, unsigned long long value) {
    return largest(pointer, value);
}

} // namespace simt::runtime
