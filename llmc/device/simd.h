// Vectors of 16 floats through the compiler's vector extension: one source for AVX2 and AVX-512.
// Every horizontal operation has a fixed order, so results are repeatable bit for bit.
#pragma once
#include "llmc/core/view.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

constexpr int kLanes = 16;
typedef float Vf __attribute__((vector_size(64)));
typedef int32_t Vi __attribute__((vector_size(64)));

constexpr Vi kLaneIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline Vf load(const float* p) {
    Vf v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, Vf v) { std::memcpy(p, &v, sizeof v); }
inline Vf splat(float x) { return Vf{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// The first `count` (0..16) lanes from p, the others `fill`.
inline Vf load_tail(const float* p, int count, float fill) {
    if (count == kLanes) return load(p);
    Vf v = splat(fill);
    std::memcpy(&v, p, count * sizeof(float));
    return v;
}
inline void store_tail(float* p, Vf v, int count) {
    if (count == kLanes) return store(p, v);
    std::memcpy(p, &v, count * sizeof(float));
}

// bf16 in memory, float in registers; rounding is to nearest, ties to even, and NaN stays NaN.
namespace simd_detail {
typedef uint16_t Vh __attribute__((vector_size(32)));
typedef uint32_t Vu __attribute__((vector_size(64)));
} // namespace simd_detail

inline Vf load(const bf16* p) {
    simd_detail::Vh half;
    std::memcpy(&half, p, sizeof half);
    const simd_detail::Vu bits = __builtin_convertvector(half, simd_detail::Vu) << 16;
    Vf v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
inline void store(bf16* p, Vf v) {
    simd_detail::Vu bits;
    std::memcpy(&bits, &v, sizeof bits);
    const simd_detail::Vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    bits = v == v ? rounded : (bits >> 16) | 0x40;
    const simd_detail::Vh half = __builtin_convertvector(bits, simd_detail::Vh);
    std::memcpy(p, &half, sizeof half);
}
inline Vf load_tail(const bf16* p, int count, float fill) {
    if (count == kLanes) return load(p);
    float v[kLanes];
    for (int i = 0; i < kLanes; i++) v[i] = i < count ? bf16_to_float(p[i].bits) : fill;
    return load(v);
}
inline void store_tail(bf16* p, Vf v, int count) {
    if (count == kLanes) return store(p, v);
    bf16 all[kLanes];
    store(all, v);
    std::memcpy(p, all, count * sizeof(bf16));
}

// Calls body(i, lanes) for vectors i .. i + lanes - 1 of `count` elements.
template <class Body> void for_vectors(int64_t count, const Body& body) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
    if (i < count) body(i, int(count - i));
}

// out[i] = in[i] for float and bf16 on either side.
template <class Out, class In> void convert(Out* out, const In* in, int64_t count) {
    for_vectors(count, [&](int64_t i, int lanes) {
        store_tail(out + i, load_tail(in + i, lanes, 0.0f), lanes);
    });
}

// The values at p as floats: p itself, or widened into `room`.
inline const float* as_floats(const float* p, int64_t, float*) { return p; }
inline const float* as_floats(const bf16* p, int64_t count, float* room) {
    convert(room, p, count);
    return room;
}

// A (rows, width) block as floats: where it lies, or widened into `room` without gaps.
struct FloatBlock {
    const float* data;
    int64_t ld;
};
inline FloatBlock float_block(const float* p, int64_t ld, int64_t, int64_t, float*) {
    return {p, ld};
}
inline FloatBlock float_block(const bf16* p, int64_t ld, int64_t rows, int64_t width, float* room) {
    for (int64_t r = 0; r < rows; r++) convert(room + r * width, p + r * ld, width);
    return {room, width};
}

// A (rows, width) block computed as floats and stored as T: in place, or in `room` until store().
template <class T> struct OutBlock {
    T* out;
    int64_t out_ld;
    float* data;
    int64_t ld;
    OutBlock(T* out_, int64_t out_ld_, int64_t width, float* room) : out(out_), out_ld(out_ld_) {
        if constexpr (sizeof(T) == sizeof(float)) data = out, ld = out_ld;
        else data = room, ld = width;
    }
    void store(int64_t rows, int64_t width) const {
        if constexpr (sizeof(T) != sizeof(float))
            for (int64_t r = 0; r < rows; r++) convert(out + r * out_ld, data + r * ld, width);
    }
};

// Calls body(T()) with the type X has: float or bf16.
template <class Body> void with_real(Dtype x, const Body& body) {
    if (x == Dtype::bf16) body(bf16());
    else body(float());
}

inline Vf select(Vi mask, Vf yes, Vf no) { return mask ? yes : no; }
inline Vf max(Vf a, Vf b) { return a > b ? a : b; }

inline float lane_sum(Vf v) { // pairwise: lanes i and i + 8, then 4, 2, 1 apart
    float s[kLanes];
    store(s, v);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    return s[0];
}
inline float lane_max(Vf v) { // a NaN lane may be dropped: callers detect NaN in their sums
    float s[kLanes];
    store(s, v);
    float m = s[0];
    for (int i = 1; i < kLanes; i++) m = s[i] > m ? s[i] : m;
    return m;
}

// e^x, relative error below 1.2e-7; 0 below -87.3 (no subnormals), +inf above 88.7, NaN for NaN.
// Cody-Waite: x = n ln2 + r, |r| <= ln2/2, then a degree-6 polynomial and a shift of the exponent.
inline Vf exp(Vf x) {
    const Vf lowest = splat(-87.33f), highest = splat(88.72f);
    Vf clamped = x < lowest ? lowest : x;
    clamped = clamped > highest ? highest : clamped;
    const float magic = 0x1.8p23f; // adding it rounds to an integer in the low mantissa bits
    Vf shifted = clamped * 1.44269504088896341f + magic;
    Vf n = shifted - magic;
    Vf r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    Vi bits, exponent;
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    // n is exact in the low bits of `shifted`; 128 would leave the exponent field, so scale twice.
    exponent = (exponent << 23);
    Vi half = (exponent >> 24) << 23;
    bits += half;
    Vf scaled;
    std::memcpy(&scaled, &bits, sizeof scaled);
    Vi rest = (exponent - half) + (127 << 23);
    Vf factor;
    std::memcpy(&factor, &rest, sizeof factor);
    scaled = scaled * factor;
    scaled = x < lowest ? splat(0.0f) : scaled;
    scaled = x > highest ? splat(std::numeric_limits<float>::infinity()) : scaled;
    return x == x ? scaled : x;
}
