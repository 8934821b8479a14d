// What model and train code do to whole tensors without an op, and how the host fills and reads
// them. In order with the ops; results are there after Ctx::wait().
//
// Tensors of an arena may lie where the host cannot read them (device_memory.h). HostRead,
// HostWrite, HostEdit and Mirror are the only ways to their values; where the host can read them
// they are the tensor itself, and cost nothing.
#pragma once
#include "llmc/device/buffer.h"
#include "llmc/device/context.h"

#include <exception>
#include <vector>

void fill_zero(Ctx& ctx, View view); // contiguous
// Same dtype and size; the memories do not overlap.
void copy_tensor(Ctx& ctx, View to, const View& from);
// Contiguous bf16 = contiguous f32, rounded; same size.
void round_tensor(Ctx& ctx, View to, const View& from);
// At once, where the host can read both: to (rows, columns) bf16 = from f32, or f32 = bf16. Rows
// may be strided. On a device: convert_rows (tensor_kernels.h).
void convert_rows_on_host(View to, const View& from);

// A contiguous tensor's values, after all that was asked for before.
class HostRead {
  public:
    HostRead(Ctx& ctx, const View& tensor);
    const View& view() const { return view_; }
    const char* bytes() const { return static_cast<const char*>(view_.data); }

  private:
    std::unique_ptr<char[]> copy_;
    View view_;
};

// A contiguous tensor to be filled: every value of view(), whatever was there before. The tensor
// has them, for all that is asked for afterwards, at the end of this object's life.
class HostWrite {
  public:
    HostWrite(Ctx& ctx, const View& tensor);
    ~HostWrite() noexcept(false); // copies, unless an exception ends it: it may be half filled
    HostWrite(const HostWrite&) = delete;
    const View& view() const { return view_; }
    char* bytes() const { return static_cast<char*>(view_.data); }

  protected:
    Ctx& ctx_;
    View tensor_, view_;
    std::unique_ptr<char[]> copy_;
    const int exceptions_ = std::uncaught_exceptions();
};

// The same, from the values that were there before.
class HostEdit : public HostWrite {
  public:
    HostEdit(Ctx& ctx, const View& tensor);
};

// Values that go from the host to ops, or back, again and again: a tensor, its first rows at a
// time, and the host's side of it. use() and give() end what the views before held.
class Mirror {
  public:
    Mirror(Ctx& ctx, Buffer tensor);
    template <class... Sizes> // rows, or rows and columns
    Mirror(Ctx& ctx, Segment segment, Dtype dtype, const char* name, Sizes... sizes)
        : Mirror(ctx, Buffer(ctx.arena, segment, dtype, name, sizes...)) {}
    View use(int64_t rows);                        // undefined values
    View give(const std::vector<int32_t>& values); // whole rows
    View give(const std::vector<double>& values);  // rounded to the tensor's dtype

    const View& tensor() const { return tensor_; } // for ops: the rows in use
    const View& host() const { return host_; }     // for the host
    void to_tensor();                              // tensor = host
    void to_host();                                // waits; host = tensor

  private:
    Ctx& ctx_;
    Buffer buffer_;
    std::unique_ptr<char[]> copy_; // the host's side, where the tensor is apart
    View tensor_, host_;
};
