// The memory of a run in named segments: the rows of `-plan`, and of what a run says it took.
//
// Buffers take their memory from an arena and give it back. reserve() maps one range of address
// space for all that is taken afterwards; what does not fit there, or comes without a reserve(), is
// mapped by itself. Pages become resident when they are first written.
#pragma once
#include <cstddef>
#include <vector>

class DeviceMemory;

enum class Segment {
    parameters,
    gradients,
    optimizer,
    activations,
    logits,
    scratch,
    rollouts,
    count
};
const char* segment_name(Segment segment);

class Arena {
  public:
    Arena() = default;
    ~Arena();
    Arena(const Arena&) = delete;

    // From now on of this memory, which must live longer; before anything is taken.
    void use(DeviceMemory* device) { device_ = device; }
    DeviceMemory* device() const { return device_; }

    void reserve(size_t bytes);

    // Zero bytes, on a page boundary or on a device at a multiple of 256; null if there are none.
    void* take(Segment segment, size_t bytes);
    void give(Segment segment, void* memory, size_t bytes);

    size_t bytes(Segment segment) const { return now_[int(segment)]; }
    size_t peak(Segment segment) const { return peak_[int(segment)]; }

    // Zero bytes of the host outside any arena.
    static void* map(size_t bytes);
    static void unmap(void* memory, size_t bytes);

  private:
    struct Piece { // of the reserved range, in address order
        char* begin;
        size_t bytes;
        bool taken;
    };
    void* get(size_t bytes);
    void put_back(void* memory, size_t bytes);

    DeviceMemory* device_ = nullptr; // null: the host's
    char* range_ = nullptr;
    size_t range_bytes_ = 0, used_ = 0;
    std::vector<Piece> pieces_;
    size_t now_[int(Segment::count)] = {}, peak_[int(Segment::count)] = {};
};
