// The GPU as the host sees it: one device, one stream that kernels, products and copies share, so
// that their order is that of the calls.
#pragma once
#include "llmc/device/device_memory.h"

// Why this program cannot compute on a GPU here: not built for it, no driver, no device; "" if it
// can.
std::string cuda_missing();

// The device that process `rank` of those on this machine takes: they go round. Its stream is a
// cudaStream_t. Only where cuda_missing() is "".
std::unique_ptr<DeviceMemory> make_cuda_device(int rank, CudaDevice** device, void** stream);
