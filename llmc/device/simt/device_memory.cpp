// The memory of the GPU that the SIMT runtime plays: mapped without access, but while the device
// works. The host that forgets a copy does not get by with luck.
#include "llmc/device/device_memory.h"
#include "llmc/core/view.h"

#include <cstring>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr size_t kPage = 4096;
size_t rounded(size_t bytes) { return round_up(bytes, kPage); }

class SimtMemory : public DeviceMemory {
  public:
    ~SimtMemory() override {
        for (const auto& [memory, bytes] : mapped_) ::munmap(memory, bytes);
    }

    void* allocate(size_t bytes) override {
        bytes = rounded(bytes);
        void* memory = ::mmap(nullptr, bytes, depth_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return nullptr;
        mapped_[memory] = bytes;
        return memory;
    }
    void release(void* memory, size_t) override {
        const auto found = mapped_.find(memory);
        ::munmap(memory, found->second);
        mapped_.erase(found);
    }
    int64_t free_bytes() override {
        return int64_t(::sysconf(_SC_AVPHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
    }

    void zero(void* memory, size_t bytes) override {
        enter();
        std::memset(memory, 0, bytes);
        leave();
    }
    void copy(void* to, const void* from, size_t bytes) override {
        enter();
        std::memcpy(to, from, bytes);
        leave();
    }
    void to_device(void* to, const void* from, size_t bytes) override { copy(to, from, bytes); }
    void to_host(void* to, const void* from, size_t bytes) override { copy(to, from, bytes); }
    void wait() override {}

    void enter() override {
        if (depth_++ == 0) protect(PROT_READ | PROT_WRITE);
    }
    void leave() override {
        if (--depth_ == 0) protect(PROT_NONE);
    }

  private:
    void protect(int access) {
        for (const auto& [memory, bytes] : mapped_) ::mprotect(memory, bytes, access);
    }

    std::map<void*, size_t> mapped_;
    int depth_ = 0;
};

} // namespace

std::unique_ptr<DeviceMemory> make_simt_memory() { return std::make_unique<SimtMemory>(); }
