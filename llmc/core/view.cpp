#include "llmc/core/view.h"

#include <cstring>

size_t dtype_bytes(Dtype dtype) {
    switch (dtype) {
    case Dtype::f64:
    case Dtype::i64: return 8;
    case Dtype::f32:
    case Dtype::i32: return 4;
    case Dtype::bf16:
    case Dtype::f16: return 2;
    case Dtype::u8: return 1;
    }
    return 0;
}

const char* dtype_name(Dtype dtype) {
    switch (dtype) {
    case Dtype::f64: return "F64";
    case Dtype::f32: return "F32";
    case Dtype::bf16: return "BF16";
    case Dtype::f16: return "F16";
    case Dtype::i32: return "I32";
    case Dtype::i64: return "I64";
    case Dtype::u8: return "U8";
    }
    return "?";
}

View View::slice_rows(int64_t begin, int64_t count) const {
    require(begin >= 0 && count >= 0 && begin + count <= shape[0], "%s: rows [%ld, %ld) of %s",
            name, (long)begin, (long)(begin + count), shape_text(*this).c_str());
    View part = *this;
    part.data = static_cast<char*>(data) + begin * ld * dtype_bytes(dtype);
    part.shape[0] = count;
    return part;
}

View View::slice_columns(int64_t begin, int64_t count) const {
    require(rank == 2 && begin >= 0 && begin + count <= shape[1], "%s: columns [%ld, %ld) of %s",
            name, (long)begin, (long)(begin + count), shape_text(*this).c_str());
    View part = *this;
    part.data = static_cast<char*>(data) + begin * dtype_bytes(dtype);
    part.shape[1] = count;
    return part;
}

static View view_of(void* data, Dtype dtype, const char* name, int rank, int64_t n0, int64_t n1,
                    int64_t n2) {
    View view;
    view.data = data;
    view.dtype = dtype;
    view.name = name;
    view.rank = rank;
    view.shape[0] = n0;
    view.shape[1] = n1;
    view.shape[2] = n2;
    view.ld = view.row_size();
    return view;
}

View make_view(void* data, Dtype dtype, const char* name, int64_t n0) {
    return view_of(data, dtype, name, 1, n0, 1, 1);
}
View make_view(void* data, Dtype dtype, const char* name, int64_t n0, int64_t n1) {
    return view_of(data, dtype, name, 2, n0, n1, 1);
}
View make_view(void* data, Dtype dtype, const char* name, int64_t n0, int64_t n1, int64_t n2) {
    return view_of(data, dtype, name, 3, n0, n1, n2);
}

double read_value(const View& view, int64_t index) {
    if (view.dtype == Dtype::f64) return view.as<double>()[index];
    if (view.dtype == Dtype::bf16) return double(bf16_to_float(view.as<bf16>()[index].bits));
    return double(view.as<float>()[index]);
}

void write_value(View view, int64_t index, double value) {
    if (view.dtype == Dtype::f64) view.as<double>()[index] = value;
    else if (view.dtype == Dtype::bf16) view.as<bf16>()[index] = {float_to_bf16(float(value))};
    else view.as<float>()[index] = float(value);
}

std::string shape_text(const View& view) {
    std::string text = "(";
    for (int i = 0; i < view.rank; i++)
        text += (i ? ", " : "") + std::to_string((long long)view.shape[i]);
    return text + ")";
}
