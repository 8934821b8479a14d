// Memory that only a device's work can touch, and all copies to and from it: a GPU's
// (cuda_device.cpp), or what the SIMT device plays (simt/device_memory.cpp), where a host that
// touches a tensor by itself ends with a segmentation fault. Without one, tensors lie where the
// host can read them. Code above device/ uses memory.h, never this.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

class DeviceMemory {
  public:
    virtual ~DeviceMemory() = default;

    // Zero bytes at a multiple of 256; null if there are no more.
    virtual void* allocate(size_t bytes) = 0;
    // Called by destructors: throws nothing. A device that failed says so at the next wait.
    virtual void release(void* memory, size_t bytes) = 0;
    virtual int64_t free_bytes() = 0;

    // In the order of the calls, and of the device's other work.
    virtual void zero(void* memory, size_t bytes) = 0;
    virtual void copy(void* to, const void* from, size_t bytes) = 0;
    virtual void to_device(void* to, const void* from, size_t bytes) = 0; // `from` is free at once
    virtual void to_host(void* to, const void* from, size_t bytes) = 0;   // waits for the data
    virtual void wait() = 0; // until all work is done; fatal() where some of it failed

    // Around work of the host that plays the device's.
    virtual void enter() {}
    virtual void leave() {}
};

std::unique_ptr<DeviceMemory> make_simt_memory();
