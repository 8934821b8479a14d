// A tagged view: what every op takes. It owns nothing.
#pragma once
#include "llmc/core/error.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

// The least multiple of `multiple` that is not below n.
template <class T> constexpr T round_up(T n, T multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

enum class Dtype : int { f64, f32, bf16, f16, i32, i64, u8 };

// bf16 as its bits.
struct bf16 {
    uint16_t bits;
};

size_t dtype_bytes(Dtype dtype);
const char* dtype_name(Dtype dtype); // safetensors spelling: "F64", "F32", "BF16", ...
template <class T> constexpr Dtype dtype_of();
template <> constexpr Dtype dtype_of<double>() { return Dtype::f64; }
template <> constexpr Dtype dtype_of<float>() { return Dtype::f32; }
template <> constexpr Dtype dtype_of<bf16>() { return Dtype::bf16; }
template <> constexpr Dtype dtype_of<int32_t>() { return Dtype::i32; }
template <> constexpr Dtype dtype_of<int64_t>() { return Dtype::i64; }
template <> constexpr Dtype dtype_of<uint8_t>() { return Dtype::u8; }

// Row-major, the last index contiguous; `ld` is the distance between rows of the first index in
// elements, larger than the row itself when the view is a band of columns of a wider buffer.
struct View {
    void* data = nullptr;
    Dtype dtype = Dtype::f32;
    int rank = 0;
    int64_t shape[4] = {1, 1, 1, 1};
    int64_t ld = 0;
    const char* name = "";

    bool empty() const { return data == nullptr; }
    int64_t rows() const { return shape[0]; }
    int64_t row_size() const { return shape[1] * shape[2] * shape[3]; }
    int64_t size() const { return rows() * row_size(); }
    bool contiguous() const { return ld == row_size(); }
    size_t bytes() const { return size() * dtype_bytes(dtype); }

    template <class T> T* as() {
        require(dtype == dtype_of<T>(), "%s: accessed as %s but is %s", name,
                dtype_name(dtype_of<T>()), dtype_name(dtype));
        return static_cast<T*>(data);
    }
    template <class T> const T* as() const { return const_cast<View*>(this)->as<T>(); }

    View slice_rows(int64_t begin, int64_t count) const;    // (count, ...) from row `begin`
    View slice_columns(int64_t begin, int64_t count) const; // (rows, count), rank 2 only
};

View make_view(void* data, Dtype dtype, const char* name, int64_t n0);
View make_view(void* data, Dtype dtype, const char* name, int64_t n0, int64_t n1);
View make_view(void* data, Dtype dtype, const char* name, int64_t n0, int64_t n1, int64_t n2);

// Element `index` of an f64, f32 or bf16 tensor, counted over its memory. For single values; loops
// over whole tensors take as<T>() once.
double read_value(const View& view, int64_t index);
void write_value(View view, int64_t index, double value);

std::string shape_text(const View& view); // "(4, 16)"

// bf16 and f16 are stored as their 16 bits; rounding is to nearest, ties to even. Without a branch,
// so that loops over them become vectors.
inline float bf16_to_float(uint16_t bits) {
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

inline uint16_t float_to_bf16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    const bool nan = (word & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    return uint16_t(nan ? (word >> 16) | 0x40 : rounded); // a quiet NaN
}

inline float f16_to_float(uint16_t bits) {
    const uint32_t magnitude = uint32_t(bits & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &magnitude, 4);
    value *= 0x1p112f; // the exponent's bias is 127 - 15 higher; exact, subnormals too
    uint32_t word;
    std::memcpy(&word, &value, 4);
    if ((bits & 0x7c00u) == 0x7c00u) word = magnitude | 0x7f800000u; // infinity, NaN
    word |= uint32_t(bits & 0x8000u) << 16;
    std::memcpy(&value, &word, 4);
    return value;
}
