// The merge loop of BPE: a row of tokens, in which the adjacent pair of the lowest rank, the
// leftmost of equals, becomes one token until no pair has a rank.
#pragma once
#include "llmc/data/tokenizer_file.h"

#include <memory>

class Merges {
  public:
    explicit Merges(const std::vector<MergeRule>& rules); // of one pair's rules the last one counts
    ~Merges();
    Merges(Merges&&) noexcept;

    // Merges the row in place; its length in tokens is at most 2^31 - 1. Time: quadratic in a short
    // row, n log n in a long one. Not for two threads at a time.
    void apply(std::vector<int32_t>& row) const;

  private:
    struct Entry {
        uint64_t pair; // left << 32 | right
        int32_t rank, result;
    };
    const Entry* find(int32_t left, int32_t right) const; // null = no such pair
    void apply_short(std::vector<int32_t>& row) const;
    void apply_long(std::vector<int32_t>& row) const;

    std::vector<Entry> table_; // open addressing, a power of two, at most half full
    uint64_t mask_;
    int shift_;
    class RankQueue;
    std::unique_ptr<RankQueue> queue_; // empty between calls
};
