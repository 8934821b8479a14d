// Memory that holds tensors: page-aligned, zero, released at the end of its owner's life. Pages
// become resident when they are first written: rows a run never uses cost nothing.
#pragma once
#include "llmc/core/view.h"
#include "llmc/device/arena.h"

#include <memory>

class Buffer {
  public:
    Buffer() = default;
    // Of an arena, which must live longer, or mapped by itself. fatal() if the system refuses.
    Buffer(Arena& arena, Segment segment, Dtype dtype, const char* name, int64_t n0);
    Buffer(Arena& arena, Segment segment, Dtype dtype, const char* name, int64_t n0, int64_t n1);
    Buffer(size_t bytes, const char* name);
    Buffer(Dtype dtype, const char* name, int64_t n0);
    Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1);
    Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1, int64_t n2);
    const View& view() const { return view_; }
    View rows(int64_t count) const { return view_.slice_rows(0, count); } // its first rows
    template <class T> T* as() { return view_.as<T>(); }
    char* bytes() const { return static_cast<char*>(view_.data); }

  private:
    Buffer(Arena* arena, Segment segment, size_t bytes, const char* name);
    struct Release {
        Arena* arena; // null = mapped by itself
        Segment segment;
        size_t bytes;
        void operator()(void* memory) const {
            if (arena) arena->give(segment, memory, bytes);
            else Arena::unmap(memory, bytes);
        }
    };
    std::unique_ptr<void, Release> memory_;
    View view_;
};
