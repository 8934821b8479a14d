// Vectors of 16 floats through the compiler's vector extension: one source for AVX2 and AVX-512.
// Every horizontal operation has a fixed order, so results are repeatable bit for bit.
#pragma once
#include "llmc/core/view.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#ifdef __AVX512F__
#pragma GCC diagnostic push // g++ 12 warns about its own header (PR 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

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

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return bf16_to_float(x.bits); }

// bf16 in memory, float in registers; rounding is to nearest, ties to even, and NaN stays NaN.
namespace simd_detail {
typedef uint16_t Vh __attribute__((vector_size(32)));
typedef uint32_t Vu __attribute__((vector_size(64)));

inline Vf widen(Vh half) {
    const Vu bits = __builtin_convertvector(half, Vu) << 16;
    Vf v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
inline Vh narrow(Vf v) {
    Vu bits;
    std::memcpy(&bits, &v, sizeof bits);
    const Vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    bits = v == v ? rounded : (bits >> 16) | 0x40;
    return __builtin_convertvector(bits, Vh);
}
} // namespace simd_detail

#ifdef __AVX512F__
inline Vf splat(float x) { return _mm512_set1_ps(x); } // Vf{} + x would add a zero first
inline Vf fused(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); } // a b + c
inline __mmask16 first_lanes(int count) { return __mmask16((1u << count) - 1); }

// The first `count` (0..16) lanes from p, the others `fill`.
inline Vf load_tail(const float* p, int count, float fill) {
    if (count == kLanes) return load(p);
    return _mm512_mask_loadu_ps(splat(fill), first_lanes(count), p);
}
inline void store_tail(float* p, Vf v, int count) {
    if (count == kLanes) return store(p, v);
    _mm512_mask_storeu_ps(p, first_lanes(count), v);
}
inline Vf load(const bf16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
#else
inline Vf splat(float x) { return Vf{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
inline Vf fused(Vf a, Vf b, Vf c) { return a * b + c; } // contracted: -ffp-contract=fast

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
inline Vf load(const bf16* p) {
    simd_detail::Vh half;
    std::memcpy(&half, p, sizeof half);
    return simd_detail::widen(half);
}
#endif

inline simd_detail::Vh to_bf16(Vf v) {
#ifdef __AVX512BF16__
    // The instruction takes subnormal numbers for 0: those go the long way.
    if (__builtin_expect(_mm512_fpclass_ps_mask(v, 0x20) == 0, 1)) {
        const __m256bh half = _mm512_cvtneps_pbh(v);
        simd_detail::Vh out;
        std::memcpy(&out, &half, sizeof out);
        return out;
    }
#endif
    return simd_detail::narrow(v);
}
inline void store(bf16* p, Vf v) {
    const simd_detail::Vh half = to_bf16(v);
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
    const simd_detail::Vh half = to_bf16(v);
    std::memcpy(p, &half, count * sizeof(bf16));
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

constexpr int kCacheLine = 64; // bytes

// Into the second-level cache, without waiting.
inline void prefetch(const void* p) {
    constexpr int kRead = 0, kSecondLevel = 2;
    __builtin_prefetch(p, kRead, kSecondLevel);
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

// The larger; b where one of them is NaN.
#ifdef __AVX512F__
inline Vf max(Vf a, Vf b) { return _mm512_max_ps(a, b); } // from ?: g++ 12 makes two instructions
#else
inline Vf max(Vf a, Vf b) { return a > b ? a : b; }
#endif

// Lanes as bits: those that are >= bound.
inline unsigned at_least(Vf v, float bound) {
#ifdef __AVX512F__
    return _mm512_cmp_ps_mask(v, splat(bound), _CMP_GE_OQ);
#else
    unsigned mask = 0;
    for (int i = 0; i < kLanes; i++) mask |= unsigned(v[i] >= bound) << i;
    return mask;
#endif
}
// Writes the lanes of `mask` one after the other, 16 values at most, and returns their number;
// what follows them, up to 16 in all, is overwritten.
template <class T, class V> int append_lanes(T* out, V v, unsigned mask) {
    static_assert(sizeof(T) == sizeof(int32_t));
#ifdef __AVX512F__
    __m512i lanes;
    std::memcpy(&lanes, &v, sizeof lanes);
    lanes = _mm512_maskz_compress_epi32(__mmask16(mask), lanes);
    std::memcpy(out, &lanes, sizeof lanes);
    return __builtin_popcount(mask);
#else
    int count = 0;
    for (int i = 0; i < kLanes; i++)
        if (mask >> i & 1) out[count++] = v[i];
    return count;
#endif
}

// Pairwise: lanes i and i + 8, then 4, 2, 1 apart. The largest may drop a NaN lane: callers detect
// NaN in their sums.
#ifdef __AVX512F__
inline float lane_sum(Vf v) { return _mm512_reduce_add_ps(v); }
inline float lane_max(Vf v) { return _mm512_reduce_max_ps(v); }
#else
inline float lane_sum(Vf v) {
    float s[kLanes];
    store(s, v);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    return s[0];
}
inline float lane_max(Vf v) {
    float s[kLanes];
    store(s, v);
    float m = s[0];
    for (int i = 1; i < kLanes; i++) m = s[i] > m ? s[i] : m;
    return m;
}
#endif

// e^x, relative error below 1.3e-7; 0 below -87.33 (no subnormals), +inf above 88.72, NaN for NaN.
// Cody-Waite: x = n ln2 + r, |r| <= ln2/2, then a degree-6 polynomial and a shift of the exponent.
inline Vf exp_polynomial(Vf r) {
    Vf p = splat(1.9875691500e-4f);
    p = fused(p, r, splat(1.3981999507e-3f));
    p = fused(p, r, splat(8.3334519073e-3f));
    p = fused(p, r, splat(4.1665795894e-2f));
    p = fused(p, r, splat(1.6666665459e-1f));
    p = fused(p, r, splat(5.0000001201e-1f));
    return fused(p, r * r, r) + 1.0f;
}
constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

#ifdef __AVX512F__
inline Vf exp(Vf x) {
    const Vf bounded = _mm512_min_ps(splat(89.0f), x); // of two operands NaN is the second
    const Vf n = _mm512_roundscale_ps(bounded * kLog2E, _MM_FROUND_TO_NEAREST_INT);
    Vf r = _mm512_fnmadd_ps(n, splat(kLn2High), bounded);
    r = _mm512_fnmadd_ps(n, splat(kLn2Low), r);
    const __mmask16 counts = _mm512_cmp_ps_mask(x, splat(-87.33f), _CMP_NLT_UQ); // or NaN
    return _mm512_maskz_scalef_ps(counts, exp_polynomial(r), n);
}
#else
inline Vf exp(Vf x) {
    const Vf lowest = splat(-87.33f), highest = splat(88.72f);
    Vf clamped = x < lowest ? lowest : x;
    clamped = clamped > highest ? highest : clamped;
    const float magic = 0x1.8p23f; // adding it rounds to an integer in the low mantissa bits
    const Vf shifted = clamped * kLog2E + magic;
    const Vf n = shifted - magic;
    Vf p = exp_polynomial(clamped - n * kLn2High - n * kLn2Low);
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
#endif
