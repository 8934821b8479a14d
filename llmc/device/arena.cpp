// Contract: arena.h.
#include "llmc/device/arena.h"

#include "llmc/core/error.h"
#include "llmc/core/view.h"
#include "llmc/device/device_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace {

constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;

size_t rounded(size_t bytes) { return round_up(bytes, kPage); }

#ifdef __SANITIZE_ADDRESS__ // red zones are worth more there than lazy pages
constexpr bool kLazy = false;
#else
constexpr bool kLazy = true;
#endif

} // namespace

const char* segment_name(Segment segment) {
    static const char* const names[] = {"parameters", "gradients", "optimizer", "activations",
                                        "logits",     "scratch",   "rollouts"};
    return names[int(segment)];
}

void* Arena::map(size_t bytes) {
    bytes = rounded(bytes);
    if (!kLazy) {
        void* memory = std::aligned_alloc(kPage, bytes);
        if (memory) std::memset(memory, 0, bytes);
        return memory;
    }
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    if (bytes >= 2 * kHugePage) ::madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

void Arena::unmap(void* memory, size_t bytes) {
    if (kLazy) ::munmap(memory, rounded(bytes));
    else std::free(memory);
}

void* Arena::get(size_t bytes) { return device_ ? device_->allocate(rounded(bytes)) : map(bytes); }

void Arena::put_back(void* memory, size_t bytes) {
    if (device_) device_->release(memory, rounded(bytes));
    else unmap(memory, bytes);
}

Arena::~Arena() {
    if (range_) put_back(range_, range_bytes_);
}

void Arena::reserve(size_t bytes) {
    require(!range_, "arena: reserved twice");
    if ((!kLazy && !device_) || bytes == 0) return;
    range_ = static_cast<char*>(get(bytes));
    range_bytes_ = range_ ? rounded(bytes) : 0;
}

void* Arena::take(Segment segment, size_t bytes) {
    bytes = rounded(bytes);
    char* memory = nullptr;
    for (size_t i = 0; i < pieces_.size() && !memory; i++) { // what was given back, first fit
        Piece& piece = pieces_[i];
        if (piece.taken || piece.bytes < bytes) continue;
        memory = piece.begin;
        const Piece rest{piece.begin + bytes, piece.bytes - bytes, false};
        piece = {memory, bytes, true};
        if (rest.bytes > 0) pieces_.insert(pieces_.begin() + int64_t(i) + 1, rest);
    }
    if (!memory && used_ + bytes <= range_bytes_) {
        memory = range_ + used_;
        pieces_.push_back({memory, bytes, true});
        used_ += bytes;
    }
    if (memory && device_) device_->zero(memory, bytes); // it may have been given back
    if (!memory) memory = static_cast<char*>(get(bytes));
    if (!memory) return nullptr;
    size_t& now = now_[int(segment)];
    now += bytes;
    peak_[int(segment)] = std::max(peak_[int(segment)], now);
    return memory;
}

void Arena::give(Segment segment, void* memory, size_t bytes) {
    bytes = rounded(bytes);
    now_[int(segment)] -= bytes;
    char* begin = static_cast<char*>(memory);
    if (!range_ || begin < range_ || begin >= range_ + range_bytes_) return put_back(memory, bytes);
    if (!device_) ::madvise(memory, bytes, MADV_DONTNEED); // zero when it is taken again
    for (size_t i = 0; i < pieces_.size(); i++) {
        if (pieces_[i].begin != begin) continue;
        pieces_[i].taken = false;
        if (i + 1 < pieces_.size() && !pieces_[i + 1].taken) {
            pieces_[i].bytes += pieces_[i + 1].bytes;
            pieces_.erase(pieces_.begin() + int64_t(i) + 1);
        }
        if (i > 0 && !pieces_[i - 1].taken) {
            pieces_[i - 1].bytes += pieces_[i].bytes;
            pieces_.erase(pieces_.begin() + int64_t(i));
        }
        break;
    }
    if (!pieces_.empty() && !pieces_.back().taken) {
        used_ -= pieces_.back().bytes;
        pieces_.pop_back();
    }
}
