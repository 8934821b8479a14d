// Contract: cuda_device.h. Not run on a GPU yet.
#include "llmc/device/cuda_device.h"

#include "llmc/core/error.h"

#ifdef PRIOR_CUDA
#include "llmc/device/cuda_check.h"

#include <algorithm>
#include <cstring>
#include <dlfcn.h>

static constexpr int kLeastMajor = 8; // mma of bf16, cp.async

std::string cuda_missing() {
    // Where there is no driver, the runtime's own message is about its version.
    if (!::dlopen("libcuda.so.1", RTLD_NOW)) return "no CUDA driver on this machine (libcuda.so.1)";
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess)
        return format("no CUDA device on this machine (%s)", cudaGetErrorString(status));
    if (count == 0) return "no CUDA device on this machine";
    for (int device = 0; device < count; device++) {
        int major = 0;
        (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        if (major < kLeastMajor)
            return format("CUDA device %d has compute capability %d.x, the kernels need %d.0",
                          device, major, kLeastMajor);
    }
    return "";
}

namespace {

class Gpu : public CudaDevice {
  public:
    explicit Gpu(int rank) {
        int count = 0;
        cuda_check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
        const int device = rank % count;
        cuda_check(cudaSetDevice(device), "cudaSetDevice");
        auto attribute = [&](cudaDeviceAttr which) {
            int value = 0;
            cuda_check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
            return value;
        };
        arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
               attribute(cudaDevAttrComputeCapabilityMinor);
        shared_limit = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
        cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
        stream = stream_;
        for (Slot& slot : slots_) {
            cuda_check(cudaMallocHost(&slot.memory, kSlot), "cudaMallocHost");
            cuda_check(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming),
                       "cudaEventCreate");
        }
    }
    ~Gpu() override { // errors here have been told before, or nobody can act on them
        for (Slot& slot : slots_) {
            (void)cudaEventDestroy(slot.done);
            (void)cudaFreeHost(slot.memory);
        }
        (void)cudaStreamDestroy(stream_);
    }

    void* allocate(size_t bytes) override {
        void* memory = nullptr;
        const cudaError_t status = cudaMalloc(&memory, bytes);
        if (status == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError(); // else the next launch finds it
            return nullptr;
        }
        cuda_check(status, "cudaMalloc");
        zero(memory, bytes);
        return memory;
    }
    void release(void* memory, size_t) override {
        (void)cudaStreamSynchronize(stream_); // for what still uses it
        (void)cudaFree(memory);
    }
    int64_t free_bytes() override {
        size_t free = 0, total = 0;
        cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
        return int64_t(free);
    }

    void zero(void* memory, size_t bytes) override {
        cuda_check(cudaMemsetAsync(memory, 0, bytes, stream_), "cudaMemsetAsync");
    }
    void copy(void* to, const void* from, size_t bytes) override {
        cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_),
                   "copy on the device");
    }

    // Through pinned memory, two pieces in turn: one is filled while the other travels.
    void to_device(void* to, const void* from, size_t bytes) override {
        for (size_t at = 0; at < bytes; at += kSlot) {
            Slot& slot = next_slot();
            const size_t count = std::min(kSlot, bytes - at);
            std::memcpy(slot.memory, static_cast<const char*>(from) + at, count);
            cuda_check(cudaMemcpyAsync(static_cast<char*>(to) + at, slot.memory, count,
                                       cudaMemcpyHostToDevice, stream_),
                       "copy to the device");
            cuda_check(cudaEventRecord(slot.done, stream_), "cudaEventRecord");
        }
    }
    void to_host(void* to, const void* from, size_t bytes) override {
        Slot* before = nullptr;
        size_t before_at = 0;
        auto take = [&] {
            if (!before) return;
            cuda_check(cudaEventSynchronize(before->done), "copy from the device");
            std::memcpy(static_cast<char*>(to) + before_at, before->memory,
                        std::min(kSlot, bytes - before_at));
        };
        for (size_t at = 0; at < bytes; at += kSlot) {
            Slot& slot = next_slot();
            cuda_check(cudaMemcpyAsync(slot.memory, static_cast<const char*>(from) + at,
                                       std::min(kSlot, bytes - at), cudaMemcpyDeviceToHost,
                                       stream_),
                       "copy from the device");
            cuda_check(cudaEventRecord(slot.done, stream_), "cudaEventRecord");
            take();
            before = &slot;
            before_at = at;
        }
        take();
    }

    void wait() override { cuda_check(cudaStreamSynchronize(stream_), "the work before a wait"); }

  private:
    static constexpr size_t kSlot = size_t(4) << 20;
    struct Slot {
        void* memory = nullptr; // pinned
        cudaEvent_t done{};     // its last copy
    };
    Slot& next_slot() { // no longer in use
        Slot& slot = slots_[turn_++ % 2];
        cuda_check(cudaEventSynchronize(slot.done), "cudaEventSynchronize");
        return slot;
    }

    cudaStream_t stream_{};
    Slot slots_[2];
    unsigned turn_ = 0;
};

} // namespace

std::unique_ptr<CudaDevice> make_cuda_device(int rank) { return std::make_unique<Gpu>(rank); }

#else

std::string cuda_missing() {
    return "this program was built without CUDA: nvcc was not found, or CUDA=0 given";
}

std::unique_ptr<CudaDevice> make_cuda_device(int) {
    require(false, "make_cuda_device: built without CUDA");
    return nullptr;
}

#endif
