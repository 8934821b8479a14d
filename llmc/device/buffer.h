// Memory that holds tensors: page-aligned, zero, released at the end of its owner's life. Pages
// become resident when they are first written: rows a run never uses cost nothing.
#pragma once
#include "llmc/core/view.h"

#include <memory>

class Buffer {
  public:
    Buffer() = default;
    Buffer(size_t bytes, const char* name); // fatal() if the system refuses that much
    Buffer(Dtype dtype, const char* name, int64_t n0) : Buffer(dtype, name, n0, 1) {
        view_ = make_view(view_.data, dtype, name, n0);
    }
    Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1);
    Buffer(Dtype dtype, const char* name, int64_t n0, int64_t n1, int64_t n2);
    const View& view() const { return view_; }
    View rows(int64_t count) const { return view_.slice_rows(0, count); } // its first rows
    template <class T> T* as() { return view_.as<T>(); }
    char* bytes() const { return static_cast<char*>(view_.data); }

  private:
    struct Unmap {
        size_t bytes;
        void operator()(void* memory) const;
    };
    std::unique_ptr<void, Unmap> memory_;
    View view_;
};
