// Vectors of 16 floats through the compiler's vector extension: one source for AVX2 and AVX-512.
// Every horizontal operation has a fixed order, so results are repeatable bit for bit.
#pragma once
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
inline Vf splat(float x) { return Vf{} + x; }

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
