#include "llmc/core/rng.h"

#include <cmath>

Philox philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo) {
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    uint32_t c0 = uint32_t(counter_lo), c1 = uint32_t(counter_lo >> 32);
    uint32_t c2 = uint32_t(counter_hi), c3 = uint32_t(counter_hi >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
        uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
        c1 = uint32_t(p1), c3 = uint32_t(p0);
        c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t z = a + 0x9E3779B97F4A7C15ull * (b + 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

uint64_t Rng::next_u64() {
    Philox block = philox(key, stream, counter++);
    return uint64_t(block.v[0]) | uint64_t(block.v[1]) << 32;
}

double Rng::uniform() { return double(next_u64() >> 11) * 0x1p-53; }

double Rng::normal() {
    double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
}

int64_t Rng::below(int64_t n) {
    uint64_t limit = uint64_t(-1) - uint64_t(-1) % uint64_t(n);
    for (;;) {
        uint64_t draw = next_u64();
        if (draw < limit) return int64_t(draw % uint64_t(n));
    }
}

Permutation::Permutation(int64_t size, uint64_t key) : size_(size), key_(key) {
    while (int64_t(1) << 2 * half_bits_ < size) half_bits_++;
}

int64_t Permutation::operator()(int64_t index) const {
    const uint64_t mask = (uint64_t(1) << half_bits_) - 1;
    uint64_t at = uint64_t(index);
    do {
        uint64_t left = at >> half_bits_, right = at & mask;
        for (uint64_t round = 0; round < 6; round++) {
            const uint64_t next = left ^ (mix(key_ + round, right) & mask);
            left = right;
            right = next;
        }
        at = left << half_bits_ | right;
    } while (at >= uint64_t(size_)); // ends: the network's cycle through `index` comes back inside
    return int64_t(at);
}
