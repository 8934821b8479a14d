// Contract: memory.h.
#include "llmc/device/memory.h"

#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/tensor_kernels.h"

#include <algorithm>
#include <cstring>

void fill_zero(Ctx& ctx, View view) {
    require(view.contiguous(), "fill_zero: %s is strided", view.name);
    ctx.enqueue([&ctx, view] {
        if (ctx.memory) ctx.memory->zero(view.data, view.bytes());
        else std::memset(view.data, 0, view.bytes());
    });
}

void copy_tensor(Ctx& ctx, View to, const View& from) {
    require(to.contiguous() && from.contiguous(), "copy_tensor: %s or %s is strided", to.name,
            from.name);
    require(to.dtype == from.dtype && to.size() == from.size(), "copy_tensor: %s %s %s, %s %s %s",
            to.name, dtype_name(to.dtype), shape_text(to).c_str(), from.name,
            dtype_name(from.dtype), shape_text(from).c_str());
    ctx.enqueue([&ctx, to, from] {
        if (ctx.memory) ctx.memory->copy(to.data, from.data, to.bytes());
        else std::memcpy(to.data, from.data, to.bytes());
    });
}

void convert_rows_on_host(View to, const View& from) {
    constexpr int64_t kPart = 1 << 16; // columns: a row may be a whole model
    const int64_t columns = from.shape[1], parts = (columns + kPart - 1) / kPart;
    parallel_for(from.shape[0] * parts, [&](int64_t task) {
        const int64_t row = task / parts, begin = task % parts * kPart;
        const int64_t count = std::min(kPart, columns - begin);
        const int64_t out = row * to.ld + begin, in = row * from.ld + begin;
        if (to.dtype == Dtype::bf16) convert(to.as<bf16>() + out, from.as<float>() + in, count);
        else convert(to.as<float>() + out, from.as<bf16>() + in, count);
    });
}

void round_tensor(Ctx& ctx, View to, const View& from) {
    require(to.contiguous() && from.contiguous() && to.size() == from.size(),
            "round_tensor: %s %s, %s %s", to.name, shape_text(to).c_str(), from.name,
            shape_text(from).c_str());
    const View flat_to = make_view(to.data, to.dtype, to.name, 1, to.size());
    const View flat = make_view(from.data, from.dtype, from.name, 1, from.size());
    ctx.enqueue([&ctx, flat_to, flat] {
        if (ctx.backend == Backend::cpu) convert_rows_on_host(flat_to, flat);
        else convert_rows(ctx, flat_to, flat);
    });
}

// ------------------------------------------------------------------------------------------------
// between host and device

HostRead::HostRead(Ctx& ctx, const View& tensor) : view_(tensor) {
    require(tensor.contiguous(), "HostRead: %s is strided", tensor.name);
    ctx.wait();
    if (!ctx.memory) return;
    copy_ = std::make_unique_for_overwrite<char[]>(tensor.bytes());
    ctx.memory->to_host(copy_.get(), tensor.data, tensor.bytes());
    view_.data = copy_.get();
}

HostWrite::HostWrite(Ctx& ctx, const View& tensor) : ctx_(ctx), tensor_(tensor), view_(tensor) {
    require(tensor.contiguous(), "HostWrite: %s is strided", tensor.name);
    if (!ctx.cuda) ctx.wait();
    if (!ctx.memory) return;
    copy_ = std::make_unique_for_overwrite<char[]>(tensor.bytes());
    view_.data = copy_.get();
}

HostWrite::~HostWrite() noexcept(false) {
    if (copy_ && std::uncaught_exceptions() == exceptions_)
        ctx_.memory->to_device(tensor_.data, copy_.get(), tensor_.bytes());
}

View Mirror::place(Ctx& ctx, const View& shaped) {
    if (!ctx.memory) ctx.wait(); // for what still reads the values before
    if (memory_.size() < shaped.bytes()) {
        ctx.wait(); // what still reads the old room
        const size_t bytes = std::max(shaped.bytes(), memory_.size() + memory_.size() / 2);
        memory_.resize(bytes);
        if (ctx.memory) {
            buffer_ = Buffer();
            buffer_ =
                Buffer(ctx.arena, Segment::activations, Dtype::u8, shaped.name, int64_t(bytes));
        }
    }
    tensor_ = shaped;
    tensor_.data = ctx.memory ? static_cast<void*>(buffer_.bytes()) : memory_.data();
    return tensor_;
}

View Mirror::shape(Ctx& ctx, Dtype dtype, const char* name, int64_t n0) {
    return place(ctx, make_view(nullptr, dtype, name, n0));
}

View Mirror::shape(Ctx& ctx, Dtype dtype, const char* name, int64_t n0, int64_t n1) {
    return place(ctx, make_view(nullptr, dtype, name, n0, n1));
}

View Mirror::host() const {
    View view = tensor_;
    view.data = const_cast<char*>(memory_.data());
    return view;
}

View Mirror::give(Ctx& ctx, const std::vector<int32_t>& values, const char* name) {
    shape(ctx, Dtype::i32, name, int64_t(values.size()));
    std::copy(values.begin(), values.end(), host().as<int32_t>());
    to_tensor(ctx);
    return tensor_;
}

View Mirror::give(Ctx& ctx, const std::vector<double>& values, Dtype dtype, const char* name) {
    shape(ctx, dtype, name, int64_t(values.size()));
    const View out = host();
    for (size_t i = 0; i < values.size(); i++) write_value(out, int64_t(i), values[i]);
    to_tensor(ctx);
    return tensor_;
}

void Mirror::to_tensor(Ctx& ctx) {
    if (!ctx.memory) return;
    const View to = tensor_;
    if (!ctx.defers()) return ctx.memory->to_device(to.data, memory_.data(), to.bytes());
    const std::vector<char> values(memory_.begin(), memory_.begin() + int64_t(to.bytes()));
    ctx.enqueue(
        [&ctx, to, values] { ctx.memory->to_device(to.data, values.data(), values.size()); });
}

void Mirror::to_host(Ctx& ctx) {
    ctx.wait();
    if (ctx.memory) ctx.memory->to_host(memory_.data(), tensor_.data, tensor_.bytes());
}
