// Prefix sums over a block, in thread order.
#pragma once
#include "llmc/device/gpu.h"

namespace {

template <class T> struct ScanSums {
    T warp[2][32]; // in turn, so that one barrier a scan is enough
};
template <class T> struct Scan { // of x over the threads before this one, and over all
    T before, all;
};

// Every thread of a block of 32 kWarps takes part; calls take turns, 0 and 1.
template <int kWarps, class T>
__device__ __forceinline__ Scan<T> block_scan(ScanSums<T>& sums, int turn, T x) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    T upto = x;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const T other = __shfl_up_sync(~0u, upto, unsigned(d));
        if (lane >= d) upto += other;
    }
    if (lane == 31) sums.warp[turn][warp] = upto;
    __syncthreads();
    Scan<T> scan{T(upto - x), 0};
    for (int w = 0; w < kWarps; w++) {
        if (w < warp) scan.before += sums.warp[turn][w];
        scan.all += sums.warp[turn][w];
    }
    return scan;
}

} // namespace
