// The execution context every op takes first: which backend runs, its thread count, its scratch
// memory and its GEMM state. No mutable globals anywhere else.
#pragma once
#include "llmc/core/view.h"
#include "llmc/device/buffer.h"
#include "llmc/device/device_memory.h"
#include "llmc/device/simt/options.h"

#include <functional>
#include <memory>
#include <vector>

// ref: double, plain loops, the oracle. cpu: fp32, fast. simt: the kernels of ops/*.cu, thread by
// thread on the CPU (device/simt/runtime.h); ops without a kernel run their cpu version. cuda: the
// kernels on a GPU, products by cuBLASLt.
enum class Backend { ref, cpu, simt, cuda };

// The address of a kernel op's cuda form, in builds that have it.
#ifdef PRIOR_CUDA
#define BUILT_BY_NVCC(fn) fn
#else
#define BUILT_BY_NVCC(fn) nullptr
#endif

struct CudaDevice;   // device/cuda_device.h
struct CudaGemm;     // device/gemm_cuda.cpp
struct GemmCache;    // device/gemm.cpp
class PackedWeights; // device/gemm_rows.h

// Bump allocator for an op's temporaries, in blocks of an arena that lives longer. A ScratchFrame
// gives everything back at its end; after the first steps no call reaches the arena.
class Scratch {
  public:
    explicit Scratch(Arena& arena) : arena_(arena) {}
    Scratch(const Scratch&) = delete;

    // One block for an op that needs as much, so that a plan knows of it and ops that need less
    // share its pages. Not while a frame is open.
    void reserve(size_t bytes);
    void* alloc(size_t bytes); // 64-byte aligned, undefined values; fatal() where memory is out
    template <class T> T* alloc_of(size_t count) {
        return static_cast<T*>(alloc(count * sizeof(T)));
    }
    size_t peak_bytes() const { return peak_; } // in use at a time

  private:
    friend class ScratchFrame;
    Arena& arena_;
    std::vector<Buffer> blocks_;
    size_t block_ = 0, used_ = 0, total_ = 0, peak_ = 0; // used_: of the present block
};

class ScratchFrame {
  public:
    explicit ScratchFrame(Scratch& scratch)
        : scratch_(scratch), block_(scratch.block_), used_(scratch.used_), total_(scratch.total_) {}
    ~ScratchFrame() {
        scratch_.block_ = block_;
        scratch_.used_ = used_;
        scratch_.total_ = total_;
    }

  private:
    Scratch& scratch_;
    size_t block_, used_, total_;
};

struct CtxSettings {
    Backend backend;
    int threads; // 0 = one per core this process may use
    bool bf16;   // weights and activations are stored so
};

struct Ctx {
    // Tensors lie where the host can read them: for tests, and for plans, which compute nothing. A
    // kernel of simt runs at once.
    Ctx(Backend backend, int threads, bool bf16 = false);
    // A program's, on its device. cuda: a GPU, which the processes of this machine share by their
    // `rank` on it. simt: memory of its own, and nothing is done before it is waited for: all that
    // a GPU does to its host. Else as above.
    Ctx(const CtxSettings& settings, int rank);
    ~Ctx();
    Ctx(const Ctx&) = delete;

    Backend backend;
    int threads;
    bool bf16;
    std::unique_ptr<DeviceMemory> memory; // null: tensors lie where the host can read them
    CudaDevice* cuda = nullptr;           // `memory`, where it is a GPU's
    Arena arena;
    Scratch scratch{arena};
    std::shared_ptr<GemmCache> gemm_cache;
    std::shared_ptr<CudaGemm> cuda_gemm;           // made by the first product on a GPU
    const PackedWeights* packed_weights = nullptr; // of the pass that runs
    SimtOptions simt;

    CtxSettings settings() const { return {backend, threads, bf16}; }

    // Does `work` after all that was asked for before it: at once, or where simt.defer is set not
    // before wait(), so that whoever reads a result without waiting for it sees old data.
    void enqueue(std::function<void()> work);
    // Returns when everything asked for is done. Memory that ops were given must live until then;
    // the host writes into it, or reads what they wrote, only afterwards.
    void wait();
    bool defers() const { return backend == Backend::simt && simt.defer; }
    // Whether a contract's check may look at values: they are there, and the host can read them.
    bool checks_values() const { return !defers() && !memory; }

    // X of the contracts: the dtype of the weights that passes read and of activations.
    Dtype storage() const { return bf16 ? Dtype::bf16 : dtype(); }
    // Of all else: statistics, gradients of weights, what the optimizer holds.
    Dtype dtype() const { return backend == Backend::ref ? Dtype::f64 : Dtype::f32; }

  private:
    void run_waiting();
    std::vector<std::function<void()>> waiting_;
};

const char* backend_name(Backend backend);
// Of the key -device: "auto" or a name. choose_backend: an error where it cannot compute here.
Backend named_backend(const std::string& device);
Backend choose_backend(const std::string& device);
bool choose_bf16(const std::string& dtype, Backend backend); // of the key -dtype: "fp32" or "bf16"
int available_cores();                                       // this process may run on
int machine_cores();
// `asked`, or where that is 0 a rank's share of the machine: all of what its launcher bound it to,
// or one part of `local_ranks`.
int threads_per_rank(int asked, int local_ranks);
