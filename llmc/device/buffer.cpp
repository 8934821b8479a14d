// Contract: buffer.h.
#include "llmc/device/buffer.h"

#include "llmc/core/error.h"

#include <cstdlib>
#include <cstring>

void Buffer::Free::operator()(void* memory) const { std::free(memory); }

Buffer::Buffer(size_t bytes, const char* name) {
    const size_t rounded = (bytes + 63) / 64 * 64 + 64;
    memory_.reset(std::aligned_alloc(64, rounded));
    if (!memory_)
        fatal(format("out of memory: %s needs %.1f MiB", name, double(bytes) / (1 << 20)),
              "lower batch, context or the model's size");
    std::memset(memory_.get(), 0, rounded);
    view_ = make_view(memory_.get(), Dtype::u8, name, int64_t(bytes));
}

Buffer::Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1)
    : Buffer(size_t(n0) * size_t(n1) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0, n1);
}

Buffer::Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1, int64_t n2)
    : Buffer(size_t(n0) * size_t(n1) * size_t(n2) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0, n1, n2);
}
