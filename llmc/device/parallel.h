// Parallel loops on the CPU. Work is split by index, never by thread, so results do not depend on
// the number of threads. The body must not throw.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <omp.h>
#include <vector>

template <class Body> void parallel_for(int64_t count, const Body& body) {
#pragma omp parallel for schedule(static) if (count > 1)
    for (int64_t i = 0; i < count; i++) body(i);
}

// For items of unequal cost; `thread` (0 ... threads-1) selects per-thread scratch only.
template <class Body> void parallel_for_dynamic(int64_t count, const Body& body) {
#pragma omp parallel for schedule(dynamic, 1) if (count > 1)
    for (int64_t i = 0; i < count; i++) body(i, omp_get_thread_num());
}

// For items of unequal cost that follow each other in memory: a thread has a range of neighbours,
// the same in every call with as many items, and goes through it in order; one that is done takes
// over from the end of another's.
template <class Body> void parallel_for_ranges(int64_t count, const Body& body) {
    struct alignas(64) Share {
        std::atomic<uint64_t> range; // begin << 32 | end
    };
    const int threads = int(std::min<int64_t>(count, omp_get_max_threads()));
    if (threads <= 1) {
        for (int64_t i = 0; i < count; i++) body(i, 0);
        return;
    }
    std::vector<Share> shares(threads);
    for (int t = 0; t < threads; t++)
        shares[t].range = uint64_t(count * t / threads) << 32 | uint64_t(count * (t + 1) / threads);
#pragma omp parallel num_threads(threads)
    {
        const int self = omp_get_thread_num();
        for (int step = 0; step < threads; step++) {
            std::atomic<uint64_t>& range = shares[(self + step) % threads].range;
            uint64_t r = range.load();
            for (uint64_t begin, end; (begin = r >> 32) < (end = r & UINT32_MAX);) {
                const uint64_t rest = step == 0 ? (begin + 1) << 32 | end : begin << 32 | (end - 1);
                if (!range.compare_exchange_weak(r, rest)) continue;
                body(int64_t(step == 0 ? begin : end - 1), self);
                r = range.load();
            }
        }
    }
}
