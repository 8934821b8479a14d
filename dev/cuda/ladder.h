// The frame of the kernel ladders in dev/cuda: versions of one op, from naive to the production
// kernel, on the same inputs. Each is checked; without a GPU it runs under SIMT and is counted
// (device/simt/trace.h), with one it is timed. A ladder is one .cu that includes the production
// kernel's file; `make` in its folder builds it, `make results` writes its table.
#pragma once
#include "llmc/core/rng.h"
#include "llmc/device/gpu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>
#ifndef __CUDACC__
#include "llmc/device/simt/trace.h"
#endif

#ifdef __CUDACC__
namespace {

__global__ void ladder_read_kernel(unsigned* out, const unsigned* inp, int n) {
    unsigned any = 0;
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n;
         i += int(gridDim.x * blockDim.x))
        any |= inp[i];
    if (any == 1) *out = any; // never; the loads stay
}

} // namespace
#endif

class Ladder {
  public:
    struct Work { // of one call
        double floor_bytes, flops;
        int64_t mma; // needed; 0: the op has none
    };
#ifdef __CUDACC__
    static constexpr bool kGpu = true;
#else
    static constexpr bool kGpu = false;
#endif

    Ladder() { header(); }

    // Memory that host and kernels read, from a multiple of 256 bytes, known by its name.
    View make(const char* name, Dtype dtype, int64_t n0, int64_t n1) {
        View view = make_view(nullptr, dtype, name, n0, n1);
        const size_t bytes = (view.bytes() + 255) / 256 * 256;
        view.data = allocate(bytes);
        buffers_.push_back(view);
        return view;
    }
    void fill_normal(View view, uint64_t stream, double scale = 1) {
        Rng rng(7, stream);
        for (int64_t i = 0; i < view.size(); i++) write_value(view, i, scale * rng.normal());
    }
    // An operand that the op works on in place gets its present content back before every call.
    void keep(const View& view) {
        void* copy = allocate(view.bytes());
        std::memcpy(copy, view.data, view.bytes());
        kept_.push_back({view, copy});
    }

    // Runs a version, prints its line. error(): the relative error of what it left behind.
    void step(const char* name, const Work& work, double tolerance,
              const std::function<void(Ctx&)>& run, const std::function<double()>& error) {
        restore();
        std::string figures = kGpu ? "" : counted(work, run);
        if (kGpu) run(ctx_);
        wait();
        const double off = error();
        const bool right = off <= tolerance; // not of NaN
        if (kGpu) figures = right ? timed(work, run) : format("%62s", "");
        failed_ = failed_ || !right;
        std::printf("| %-20s | %s | %8.1e%s |\n", name, figures.c_str(), off,
                    right ? "" : " WRONG");
        std::fflush(stdout);
    }
    int status() const { return failed_ ? 1 : 0; }

  private:
    void header() {
        std::printf(
            kGpu ? "| version              |       us |      p20 |      p80 |   GB/s | %% of copy "
                   "| TFLOP/s |    error |\n"
                   "|----------------------|---------:|---------:|---------:|-------:|----------:"
                   "|--------:|---------:|\n"
                 : "| version              | bytes / floor | waves / ideal | mma / needed | "
                   "races |    error |\n"
                   "|----------------------|--------------:|--------------:|-------------:|"
                   "------:|---------:|\n");
    }
#ifdef __CUDACC__
    void* allocate(size_t bytes) {
        void* memory;
        cuda_check(cudaMallocManaged(&memory, bytes), "cudaMallocManaged");
        return memory;
    }
    std::string counted(const Work&, const std::function<void(Ctx&)>&) { return ""; }
    cudaStream_t stream() const { return static_cast<cudaStream_t>(ctx_.cuda->stream); }
    void restore() {
        for (const Kept& kept : kept_)
            cuda_check(cudaMemcpyAsync(kept.view.data, kept.copy, kept.view.bytes(),
                                       cudaMemcpyDefault, stream()),
                       "cudaMemcpyAsync");
    }
    void wait() { cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

    // Sorted times of 100 calls in ms, after 20 to warm up. Before each, outside of the time: its
    // operands as they were, then the L2 cache full of other lines, which are only read, so that
    // no write-back falls into the time.
    std::vector<float> times_of(const std::function<void()>& run) {
        constexpr int kWarm = 20, kTimes = 100;
        static unsigned* sink = static_cast<unsigned*>(allocate(sizeof(unsigned)));
        static unsigned* flush = static_cast<unsigned*>(allocate(kFlushBytes));
        cudaEvent_t begin, end;
        cuda_check(cudaEventCreate(&begin), "cudaEventCreate");
        cuda_check(cudaEventCreate(&end), "cudaEventCreate");
        std::vector<float> times(kTimes);
        for (int i = -kWarm; i < kTimes; i++) {
            restore();
            ladder_read_kernel<<<1024, 256, 0, stream()>>>(sink, flush,
                                                           int(kFlushBytes / sizeof(unsigned)));
            cuda_check(cudaEventRecord(begin, stream()), "cudaEventRecord");
            run();
            cuda_check(cudaEventRecord(end, stream()), "cudaEventRecord");
            cuda_check(cudaEventSynchronize(end), "cudaEventSynchronize");
            if (i >= 0)
                cuda_check(cudaEventElapsedTime(&times[size_t(i)], begin, end),
                           "cudaEventElapsedTime");
        }
        std::sort(times.begin(), times.end());
        return times;
    }
    // GB/s of the floor, never of what a version happens to move; the copy moves as many bytes.
    std::string timed(const Work& work, const std::function<void(Ctx&)>& run) {
        const size_t half = size_t(work.floor_bytes / 2);
        if (copy_ms_ == 0) {
            void *from, *to;
            cuda_check(cudaMalloc(&from, half), "cudaMalloc");
            cuda_check(cudaMalloc(&to, half), "cudaMalloc");
            copy_ms_ = times_of([&] {
                cuda_check(cudaMemcpyAsync(to, from, half, cudaMemcpyDeviceToDevice, stream()),
                           "cudaMemcpyAsync");
            })[50];
            cuda_check(cudaFree(from), "cudaFree");
            cuda_check(cudaFree(to), "cudaFree");
        }
        const std::vector<float> times = times_of([&] { run(ctx_); });
        const double s = times[50] * 1e-3;
        return format("%8.1f | %8.1f | %8.1f | %6.0f | %9.0f | %7.1f", s * 1e6, times[20] * 1e3,
                      times[80] * 1e3, work.floor_bytes / s * 1e-9, 100 * copy_ms_ / times[50],
                      work.flops / s * 1e-12);
    }
    Ctx ctx_{CtxSettings{Backend::cuda, 1, false}, 0};
    static constexpr size_t kFlushBytes = size_t(256) << 20;
    double copy_ms_ = 0;
#else
    Ctx ctx_{Backend::simt, 1};
    void* allocate(size_t bytes) { // for the program's life
        return std::aligned_alloc(256, bytes);
    }
    void restore() {
        for (const Kept& kept : kept_) std::memcpy(kept.view.data, kept.copy, kept.view.bytes());
    }
    void wait() {}
    std::string timed(const Work&, const std::function<void(Ctx&)>&) { return ""; }
    std::string counted(const Work& work, const std::function<void(Ctx&)>& run) {
        simt::runtime::Trace trace;
        for (const View& view : buffers_) trace.watch(view.name, view.data, view.bytes());
        ctx_.simt.trace = &trace;
        run(ctx_);
        ctx_.simt.trace = nullptr;
        double moved = 0;
        for (const simt::runtime::Watched& w : trace.watched())
            moved += 32.0 * double(w.load.sectors + w.store.sectors);
        auto ratio = [](double a, double b) {
            return b > 0 ? format("%.3f", a / b) : std::string("-");
        };
        return format(
            "%13s | %13s | %12s | %5ld", ratio(moved, work.floor_bytes).c_str(),
            ratio(double(trace.shared().wavefronts), double(trace.shared().ideal)).c_str(),
            ratio(double(trace.mma()), double(work.mma)).c_str(), long(trace.races()));
    }
#endif

    struct Kept {
        View view;
        void* copy;
    };

    std::vector<View> buffers_;
    std::vector<Kept> kept_;
    bool failed_ = false;
};
