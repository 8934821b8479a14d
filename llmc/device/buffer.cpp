// Contract: buffer.h.
#include "llmc/device/buffer.h"

#include "llmc/core/error.h"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace {

constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;

#ifdef __SANITIZE_ADDRESS__ // red zones are worth more there than lazy pages
void* map_zeros(size_t bytes) {
    void* memory = std::aligned_alloc(kPage, bytes);
    if (memory) std::memset(memory, 0, bytes);
    return memory;
}
void unmap(void* memory, size_t) { std::free(memory); }
#else
void* map_zeros(size_t bytes) {
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    if (bytes >= 2 * kHugePage) ::madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}
void unmap(void* memory, size_t bytes) { ::munmap(memory, bytes); }
#endif

} // namespace

void Buffer::Unmap::operator()(void* memory) const { unmap(memory, bytes); }

Buffer::Buffer(size_t bytes, const char* name) {
    const size_t rounded = (bytes + 64 + kPage - 1) / kPage * kPage;
    void* memory = map_zeros(rounded);
    if (!memory)
        fatal(format("out of memory: %s needs %.1f MiB", name, double(bytes) / (1 << 20)),
              "lower -pass_rows or the model's size; ./train -plan yes shows what takes how much");
    memory_ = {memory, Unmap{rounded}};
    view_ = make_view(memory, Dtype::u8, name, int64_t(bytes));
}

Buffer::Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1)
    : Buffer(size_t(n0) * size_t(n1) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0, n1);
}

Buffer::Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1, int64_t n2)
    : Buffer(size_t(n0) * size_t(n1) * size_t(n2) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0, n1, n2);
}
