// Contract: merges.h.
#include "llmc/data/merges.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <queue>

namespace {

constexpr uint64_t kNoPair = ~uint64_t(0); // ids are not negative
constexpr size_t kShortRow = 64;           // scanning is faster up to here
constexpr int32_t kNoRank = INT32_MAX;

uint64_t pair_of(int32_t left, int32_t right) { return uint64_t(left) << 32 | uint32_t(right); }

} // namespace

// Where each rank's pairs begin in the row. Taken in the order of rank, then position.
//
// Positions come to a rank in ascending order, but for those that other ranks' merges add in
// between; such a list is sorted when its turn comes. While a rank has its turn nothing is added to
// it: what its merges form is longer than either half of its pair.
class Merges::RankQueue {
  public:
    explicit RankQueue(size_t ranks) : lists_(ranks) {}

    void push(int32_t rank, int32_t position) {
        List& list = lists_[rank];
        if (list.positions.empty()) waiting_.push(rank);
        else if (position < list.positions.back()) list.sorted = false;
        list.positions.push_back(position);
    }
    bool pop(int32_t* rank, int32_t* position) {
        if (waiting_.empty()) return false;
        *rank = waiting_.top();
        List& list = lists_[*rank];
        if (!list.sorted) {
            std::sort(list.positions.begin() + int64_t(list.next), list.positions.end());
            list.sorted = true;
        }
        *position = list.positions[list.next++];
        if (list.next == list.positions.size()) {
            list = List{};
            waiting_.pop();
        }
        return true;
    }

  private:
    struct List {
        std::vector<int32_t> positions;
        size_t next = 0;
        bool sorted = true;
    };
    std::vector<List> lists_;
    std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> waiting_;
};

Merges::Merges(const std::vector<MergeRule>& rules)
    : queue_(std::make_unique<RankQueue>(rules.size())) {
    const size_t size = std::bit_ceil(std::max<size_t>(2 * rules.size(), 16));
    table_.assign(size, {kNoPair, kNoRank, -1});
    mask_ = size - 1;
    shift_ = 64 - std::countr_zero(size);
    for (size_t i = 0; i < rules.size(); i++) {
        const uint64_t pair = pair_of(rules[i].left, rules[i].right);
        uint64_t at = pair * 0x9E3779B97F4A7C15 >> shift_;
        while (table_[at].pair != kNoPair && table_[at].pair != pair) at = (at + 1) & mask_;
        table_[at] = {pair, int32_t(i), rules[i].result};
    }
}

Merges::~Merges() = default;
Merges::Merges(Merges&&) noexcept = default;

const Merges::Entry* Merges::find(int32_t left, int32_t right) const {
    const uint64_t pair = pair_of(left, right);
    for (uint64_t at = pair * 0x9E3779B97F4A7C15 >> shift_;; at = (at + 1) & mask_) {
        if (table_[at].pair == pair) return &table_[at];
        if (table_[at].pair == kNoPair) return nullptr;
    }
}

void Merges::apply(std::vector<int32_t>& row) const {
    require(row.size() <= size_t(INT_MAX), "Merges::apply: %zu tokens", row.size());
    if (row.size() <= kShortRow) apply_short(row);
    else apply_long(row);
}

void Merges::apply_short(std::vector<int32_t>& row) const {
    size_t n = row.size();
    if (n < 2) return;
    int32_t ranks[kShortRow], results[kShortRow];
    const auto look_up = [&](size_t i) { // the pair at i, i + 1
        const Entry* entry = find(row[i], row[i + 1]);
        ranks[i] = entry ? entry->rank : kNoRank;
        results[i] = entry ? entry->result : -1;
    };
    for (size_t i = 0; i + 1 < n; i++) look_up(i);
    while (n > 1) {
        const size_t best = size_t(std::min_element(ranks, ranks + n - 1) - ranks);
        if (ranks[best] == kNoRank) break;
        row[best] = results[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            row[i] = row[i + 1];
            ranks[i - 1] = ranks[i];
            results[i - 1] = results[i];
        }
        if (best + 1 < n) look_up(best);
        if (best > 0) look_up(best - 1);
    }
    row.resize(n);
}

void Merges::apply_long(std::vector<int32_t>& row) const {
    // row[i] < 0: merged into what is left of it. The neighbours of those that remain are linked.
    const int32_t n = int32_t(row.size());
    std::vector<int32_t> before(row.size()), after(row.size());
    RankQueue& queue = *queue_;
    const auto offer = [&](int32_t left, int32_t right) {
        if (const Entry* entry = find(row[left], row[right])) queue.push(entry->rank, left);
    };
    for (int32_t i = 0; i < n; i++) {
        before[i] = i - 1;
        after[i] = i + 1;
        if (i + 1 < n) offer(i, i + 1);
    }
    int32_t rank, at;
    while (queue.pop(&rank, &at)) {
        if (row[at] < 0 || after[at] == n) continue;
        const int32_t right = after[at], next = after[right];
        const Entry* entry = find(row[at], row[right]);
        if (!entry || entry->rank != rank) continue; // one of the two has been merged since
        row[at] = entry->result;
        row[right] = -1;
        after[at] = next;
        if (next < n) before[next] = at;
        if (before[at] >= 0) offer(before[at], at);
        if (next < n) offer(at, next);
    }
    std::erase(row, -1);
}
