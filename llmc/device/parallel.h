// Parallel loops on the CPU. Work is split by index, never by thread, so results do not depend on
// the number of threads. The body must not throw.
#pragma once
#include <cstdint>
#include <omp.h>

template <class Body> void parallel_for(int64_t count, const Body& body) {
#pragma omp parallel for schedule(static) if (count > 1)
    for (int64_t i = 0; i < count; i++) body(i);
}

// For items of unequal cost; `thread` (0 ... threads-1) selects per-thread scratch only.
template <class Body> void parallel_for_dynamic(int64_t count, const Body& body) {
#pragma omp parallel for schedule(dynamic, 1) if (count > 1)
    for (int64_t i = 0; i < count; i++) body(i, omp_get_thread_num());
}
