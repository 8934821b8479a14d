// The GPU as the host sees it: one device, one stream that kernels, products and copies share, so
// that their order is that of the calls.
#pragma once
#include "llmc/device/device_memory.h"

#include <string>

// What launches, products and exchanges ask of it, beside its memory.
struct CudaDevice : DeviceMemory {
    void* stream = nullptr;  // cudaStream_t
    int arch = 0;            // compute capability, 10 * major + minor
    size_t shared_limit = 0; // bytes of shared memory a block may have, static and dynamic
};

// Why this program cannot compute on a GPU here: not built for it, no driver, no device; "" if it
// can.
std::string cuda_missing();

// The device that process `rank` of those on this machine takes: they go round. Only where
// cuda_missing() is "".
std::unique_ptr<CudaDevice> make_cuda_device(int rank);
