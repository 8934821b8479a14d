// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11, "Parallel random numbers: as
// easy as 1, 2, 3"). A draw is a pure function of (key, counter): nothing to save, nothing to
// advance, so a resumed run and a re-batched rollout see the same numbers.
#pragma once
#include <cstdint>

struct Philox {
    uint32_t v[4];
};
Philox philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo);

// Mixes two numbers into a key (SplitMix64 finaliser), to build keys from (seed, step, prompt,
// ...).
uint64_t mix(uint64_t a, uint64_t b);

// A stream for host-side generators: the same (key, stream) gives the same sequence.
struct Rng {
    uint64_t key = 0, stream = 0, counter = 0;
    Rng(uint64_t key_, uint64_t stream_) : key(key_), stream(stream_) {}
    uint64_t next_u64();
    double uniform();         // [0, 1), 53 bits
    double normal();          // mean 0, variance 1 (Box-Muller)
    int64_t below(int64_t n); // [0, n), n >= 1; unbiased
    int64_t between(int64_t lo, int64_t hi) { return lo + below(hi - lo + 1); } // both inclusive
    bool chance(double p) { return uniform() < p; }
};

// A bijection of 0 .. size-1 without a pattern, computed one index at a time: the order of any
// number of documents in no memory, and the same whenever it is asked. A Feistel network of six
// rounds over the next even power of two; what falls outside is sent through again.
class Permutation {
  public:
    Permutation(int64_t size, uint64_t key); // size >= 1
    int64_t operator()(int64_t index) const; // 0 <= index < size
    int64_t size() const { return size_; }

  private:
    int64_t size_;
    uint64_t key_;
    int half_bits_ = 1;
};
