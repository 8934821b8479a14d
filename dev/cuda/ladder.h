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
#include <functional>
#include <string>
#include <vector>
#ifndef __CUDACC__
#include "llmc/device/simt/trace.h"
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

    Ladder() : ctx_(Backend::simt, 1) { header(); }

    // Memory that host and kernels read, from a multiple of 256 bytes, known by its name.
    View make(const char* name, Dtype dtype, int64_t n0, int64_t n1) {
        View view = make_view(nullptr, dtype, name, n0, n1);
        const size_t bytes = (view.bytes() + 255) / 256 * 256;
        view.data = allocate(bytes);
        buffers_.push_back(view);
        return view;
    }
    void fill_normal(View view, uint64_t stream) {
        Rng rng(7, stream);
        for (int64_t i = 0; i < view.size(); i++) write_value(view, i, rng.normal());
    }

    // Runs a version, prints its line. error(): the relative error of what it left behind.
    void step(const char* name, const Work& work, double tolerance,
              const std::function<void(Ctx&)>& run, const std::function<double()>& error) {
        const std::string figures = kGpu ? timed(work, run) : counted(work, run);
        const double off = error();
        const bool right = off <= tolerance; // not of NaN
        failed_ = failed_ || !right;
        std::printf("| %-20s | %s | %8.1e%s |\n", name, figures.c_str(), off,
                    right ? "" : " WRONG");
        std::fflush(stdout);
    }
    int status() const { return failed_ ? 1 : 0; }

  private:
    void header() {
        std::printf(kGpu
                        ? "| version              |       us |   GB/s | TFLOP/s |    error |\n"
                          "|----------------------|---------:|-------:|--------:|---------:|\n"
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
    // Median of 50 calls, each after the L2 cache was written over.
    std::string timed(const Work& work, const std::function<void(Ctx&)>& run) {
        constexpr size_t kFlush = size_t(256) << 20;
        static void* flush = allocate(kFlush);
        cudaEvent_t begin, end;
        cuda_check(cudaEventCreate(&begin), "cudaEventCreate");
        cuda_check(cudaEventCreate(&end), "cudaEventCreate");
        std::vector<float> times;
        for (int i = 0; i < 60; i++) {
            cuda_check(cudaMemsetAsync(flush, i, kFlush), "cudaMemset");
            cuda_check(cudaEventRecord(begin), "cudaEventRecord");
            run(ctx_);
            cuda_check(cudaEventRecord(end), "cudaEventRecord");
            cuda_check(cudaEventSynchronize(end), "cudaEventSynchronize");
            float ms;
            cuda_check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
            if (i >= 10) times.push_back(ms);
        }
        std::nth_element(times.begin(), times.begin() + 25, times.end());
        const double s = times[25] * 1e-3;
        return format("%8.1f | %6.0f | %7.1f", s * 1e6, work.floor_bytes / s * 1e-9,
                      work.flops / s * 1e-12);
    }
#else
    void* allocate(size_t bytes) {
        return std::aligned_alloc(256, bytes);
    } // for the program's life
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

    Ctx ctx_;
    std::vector<View> buffers_;
    bool failed_ = false;
};
