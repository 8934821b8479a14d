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

struct GemmCache;    // device/gemm.cpp
struct CudaGemm;     // device/gemm_cuda.cpp
class PackedWeights; // device/gemm_rows.h

// Bump allocator for an op's temporaries. A ScratchFrame gives everything back at its end; after
// the first steps no call reaches the system allocator.
class Scratch {
  public:
    // Room for an op that needs as much, of an arena that lives longer, so that a plan knows of it
    // and ops that need less share its pages. Not while a frame is open.
    void reserve(Arena& arena, size_t bytes);
    void* alloc(size_t bytes); // 64-byte aligned, uninitialised
    template <class T> T* alloc_of(size_t count) {
        return static_cast<T*>(alloc(count * sizeof(T)));
    }
    size_t peak_bytes() const { return peak_; }
    size_t unreserved_bytes() const; // taken beside what was reserved
    // From now on of this memory, which must live longer.
    void use(DeviceMemory* device) { device_ = device; }
    Scratch() = default;
    ~Scratch() { give_back(); }
    Scratch(const Scratch&) = delete;

  private:
    friend class ScratchFrame;
    void give_back();
    struct Block {
        std::unique_ptr<char[]> memory; // of the host, or
        char* begin;
        size_t bytes;
        DeviceMemory* device; // of this one; neither: reserved
    };
    DeviceMemory* device_ = nullptr;
    Buffer reserved_;
    std::vector<Block> blocks_; // the first is the reserved one, if there is one
    size_t block_ = 0, used_ = 0, total_ = 0, peak_ = 0;
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

// What a Ctx is made of, where none is needed: a plan for a GPU is made without one.
struct CtxSettings {
    Backend backend;
    int threads;
    bool bf16;
};

struct Ctx {
    // threads 0 = one per core this process may use. bf16: store weights and activations so.
    // rank: of this process among those of the job on this machine, which share its GPUs.
    Ctx(Backend backend, int threads, bool bf16 = false, int rank = 0);
    explicit Ctx(const CtxSettings& planned); // takes no device, computes nothing on one
    ~Ctx();
    Ctx(const Ctx&) = delete;

    Backend backend;
    int threads;
    bool bf16;
    std::unique_ptr<DeviceMemory> memory; // null: tensors lie where the host can read them
    CudaDevice* cuda = nullptr;           // `memory`, where the backend is cuda
    Arena arena;
    Scratch scratch;
    std::shared_ptr<GemmCache> gemm_cache;
    std::shared_ptr<CudaGemm> cuda_gemm;           // made by the first product on a GPU
    const PackedWeights* packed_weights = nullptr; // of the pass that runs
    SimtOptions simt;
    void* stream = nullptr; // cudaStream_t of kernels built by nvcc, of products and copies

    CtxSettings settings() const { return {backend, threads, bf16}; }

    // From now on the simt backend has memory of its own, and does nothing before it is waited for:
    // all that a GPU does to its host. Before the first tensor; no effect on the other backends.
    void play_gpu();
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
