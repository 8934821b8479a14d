// What model and train code do to whole tensors without an op, and how the host fills and reads
// them. In order with the ops; results are there after Ctx::wait().
//
// Tensors of an arena may lie where the host cannot read them (device_memory.h). HostRead,
// HostWrite and Mirror are the only ways to their values; where the host can read them they are
// the tensor itself, and cost nothing.
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

  private:
    Ctx& ctx_;
    View tensor_, view_;
    std::unique_ptr<char[]> copy_;
    const int exceptions_ = std::uncaught_exceptions();
};

// Values that go from the host to ops, or back, again and again: the tensor and the host's side of
// it. Room is kept from call to call; give() and shape() end what the views before pointed to.
class Mirror {
  public:
    View shape(Ctx& ctx, Dtype dtype, const char* name, int64_t n0); // undefined values
    View shape(Ctx& ctx, Dtype dtype, const char* name, int64_t n0, int64_t n1);
    View give(Ctx& ctx, const std::vector<int32_t>& values, const char* name);
    View give(Ctx& ctx, const std::vector<double>& values, Dtype dtype, const char* name);

    const View& tensor() const { return tensor_; } // for ops
    View host() const;                             // for the host
    void to_tensor(Ctx& ctx);                      // tensor = host
    void to_host(Ctx& ctx);                        // waits; host = tensor

  private:
    View place(Ctx& ctx, const View& shaped);

    std::vector<char> memory_; // the host's side
    Buffer buffer_;            // the tensor, where it is apart
    View tensor_;
};
