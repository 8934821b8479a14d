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
    require(to.contiguous() && from.contiguous() && to.size() == from.size() &&
                to.dtype == Dtype::bf16 && from.dtype == Dtype::f32,
            "round_tensor: %s %s %s, %s %s %s", to.name, dtype_name(to.dtype),
            shape_text(to).c_str(), from.name, dtype_name(from.dtype), shape_text(from).c_str());
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

HostEdit::HostEdit(Ctx& ctx, const View& tensor) : HostWrite(ctx, tensor) {
    if (ctx.memory) ctx.memory->to_host(copy_.get(), tensor.data, tensor.bytes());
}

Mirror::Mirror(Ctx& ctx, Buffer tensor) : ctx_(ctx), buffer_(std::move(tensor)) {
    if (ctx.memory) copy_ = std::make_unique_for_overwrite<char[]>(buffer_.view().bytes());
}

View Mirror::use(int64_t rows) {
    if (!ctx_.memory) ctx_.wait(); // for what still reads the values before
    tensor_ = host_ = buffer_.rows(rows);
    if (copy_) host_.data = copy_.get();
    return tensor_;
}

View Mirror::give(const std::vector<int32_t>& values) {
    use(int64_t(values.size()) / buffer_.view().row_size());
    std::copy_n(values.begin(), host_.size(), host_.as<int32_t>());
    to_tensor();
    return tensor_;
}

View Mirror::give(const std::vector<double>& values) {
    use(int64_t(values.size()) / buffer_.view().row_size());
    for (int64_t i = 0; i < host_.size(); i++) write_value(host_, i, values[size_t(i)]);
    to_tensor();
    return tensor_;
}

void Mirror::to_tensor() {
    if (!copy_) return;
    const View to = tensor_;
    if (!ctx_.defers()) return ctx_.memory->to_device(to.data, copy_.get(), to.bytes());
    const std::vector<char> values(copy_.get(), copy_.get() + to.bytes()); // as they are now
    ctx_.enqueue([&ctx = ctx_, to, values] {
        ctx.memory->to_device(to.data, values.data(), values.size());
    });
}

void Mirror::to_host() {
    ctx_.wait();
    if (copy_) ctx_.memory->to_host(copy_.get(), tensor_.data, tensor_.bytes());
}
