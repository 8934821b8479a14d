// Contract: buffer.h.
#include "llmc/device/buffer.h"

#include "llmc/core/error.h"

Buffer::Buffer(Arena* arena, Segment segment, size_t bytes, const char* name) {
    const size_t room = bytes + 64; // vector loads may run over the end
    void* memory = arena ? arena->take(segment, room) : Arena::map(room);
    if (!memory)
        fatal(format("out of memory: %s needs %.1f MiB", name, double(bytes) / (1 << 20)),
              "lower -pass_rows or the model's size; ./train -plan yes shows what takes how much");
    memory_ = {memory, Release{arena, segment, room}};
    view_ = make_view(memory, Dtype::u8, name, int64_t(bytes));
}

Buffer::Buffer(Arena& arena, Segment segment, Dtype dtype, const char* name, int64_t n0)
    : Buffer(&arena, segment, size_t(n0) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0);
}

Buffer::Buffer(Arena& arena, Segment segment, Dtype dtype, const char* name, int64_t n0, int64_t n1)
    : Buffer(&arena, segment, size_t(n0) * size_t(n1) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0, n1);
}

Buffer::Buffer(size_t bytes, const char* name) : Buffer(nullptr, Segment{}, bytes, name) {}

Buffer::Buffer(Dtype dtype, const char* name, int64_t n0) : Buffer(dtype, name, n0, 1) {
    view_ = make_view(view_.data, dtype, name, n0);
}

Buffer::Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1)
    : Buffer(size_t(n0) * size_t(n1) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0, n1);
}

Buffer::Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1, int64_t n2)
    : Buffer(size_t(n0) * size_t(n1) * size_t(n2) * dtype_bytes(dtype), name) {
    view_ = make_view(view_.data, dtype, name, n0, n1, n2);
}
