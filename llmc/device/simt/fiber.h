// Fibers: stacks of their own that one OS thread switches between. The SIMT runtime runs every
// thread of a block on one. Own context switch on x86-64 (3 to 10 ns), ucontext elsewhere or with
// -DSIMT_PORTABLE.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

namespace simt::runtime {

struct Fiber {
    void* stack_pointer = nullptr; // where it was left, or a ucontext_t* in the portable version
    char* stack = nullptr;
    size_t bytes = 0;
    void* fake_stack = nullptr; // AddressSanitizer's
};

// Leaves `from`, which must be the running one, and continues `to` where it was left.
void fiber_switch(Fiber& from, Fiber& to);

// To be called first on a fresh fiber.
void fiber_entered();

// Stacks of one OS thread, reused between launches. Each lies above a guard page.
class FiberPool {
  public:
    explicit FiberPool(void (*entry)()) : entry_(entry) {}
    ~FiberPool();
    FiberPool(const FiberPool&) = delete;

    Fiber* take(); // starts in entry()
    void give(Fiber* fiber) { free_.push_back(fiber); }
    // Every fiber starts afresh; what they held is abandoned without running destructors.
    void reset();

  private:
    void prepare(Fiber& fiber, size_t index);

    void (*entry_)();
    std::vector<std::unique_ptr<Fiber>> all_;
    std::vector<Fiber*> free_;
};

} // namespace simt::runtime
