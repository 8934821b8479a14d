// Contract: fiber.h.
#include "llmc/device/simt/fiber.h"

#include "llmc/core/error.h"

#include <cstdint>
#include <sys/mman.h>

#if !defined(__x86_64__) || defined(SIMT_PORTABLE)
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt::runtime {

constexpr size_t kStackBytes = 64 << 10, kGuardBytes = 4096;

// ------------------------------------------------------------------------------------------------
// the switch

#if defined(__x86_64__) && !defined(SIMT_PORTABLE)

// The callee-saved registers go below the old stack pointer and come from below the new one, by
// mov rather than push and pop: a moving stack pointer costs 15 ns more once there are more than
// 256 fibers. No signal handler may run on these stacks within the red zone's 128 bytes; none does.
extern "C" void simt_fiber_switch(void** save, void* load);
asm(R"(.text
.globl simt_fiber_switch
.type simt_fiber_switch,@function
simt_fiber_switch:
    movq %rbp,-8(%rsp)
    movq %rbx,-16(%rsp)
    movq %r12,-24(%rsp)
    movq %r13,-32(%rsp)
    movq %r14,-40(%rsp)
    movq %r15,-48(%rsp)
    movq %rsp,(%rdi)
    movq -8(%rsi),%rbp
    movq -16(%rsi),%rbx
    movq -24(%rsi),%r12
    movq -32(%rsi),%r13
    movq -40(%rsi),%r14
    movq -48(%rsi),%r15
    movq (%rsi),%rcx
    leaq 8(%rsi),%rsp
    jmpq *%rcx
.size simt_fiber_switch,.-simt_fiber_switch
)");

static void set_up(Fiber& fiber, char* top, void (*entry)()) {
    void** word = reinterpret_cast<void**>(top);
    *--word = nullptr; // the return address of entry(), which does not return
    *--word = reinterpret_cast<void*>(entry);
    fiber.stack_pointer = word;
}
static void jump(Fiber& from, Fiber& to) {
    simt_fiber_switch(&from.stack_pointer, to.stack_pointer);
}
static void release(Fiber&) {}

#else

static ucontext_t* context_of(Fiber& fiber) {
    if (!fiber.stack_pointer) fiber.stack_pointer = new ucontext_t;
    return static_cast<ucontext_t*>(fiber.stack_pointer);
}
static void set_up(Fiber& fiber, char* top, void (*entry)()) {
    ucontext_t* context = context_of(fiber);
    getcontext(context);
    context->uc_stack.ss_sp = fiber.stack;
    context->uc_stack.ss_size = size_t(top - fiber.stack);
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
}
static void jump(Fiber& from, Fiber& to) { swapcontext(context_of(from), context_of(to)); }
static void release(Fiber& fiber) { delete static_cast<ucontext_t*>(fiber.stack_pointer); }

#endif

#ifdef __SANITIZE_ADDRESS__

static thread_local Fiber* left; // the OS thread's own stack becomes known when it is first left

static void arrive(void* fake_stack) {
    const void* stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fake_stack, &stack, &bytes);
    if (left->stack) return;
    left->stack = static_cast<char*>(const_cast<void*>(stack));
    left->bytes = bytes;
}
void fiber_switch(Fiber& from, Fiber& to) {
    left = &from;
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.bytes);
    jump(from, to);
    arrive(from.fake_stack);
}
void fiber_entered() { arrive(nullptr); }

#else

void fiber_switch(Fiber& from, Fiber& to) { jump(from, to); }
void fiber_entered() {}

#endif

// ------------------------------------------------------------------------------------------------
// stacks

void FiberPool::prepare(Fiber& fiber, size_t index) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber.stack, fiber.bytes);
#endif
    // Tops at different page offsets: at one offset, all stacks compete for one set of the cache.
    const size_t colour = index * 320 % 4096;
    set_up(fiber, fiber.stack + fiber.bytes - colour, entry_);
}

Fiber* FiberPool::take() {
    if (free_.empty()) {
        void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        require(memory != MAP_FAILED, "simt: no memory for fiber %zu", all_.size());
        mprotect(memory, kGuardBytes, PROT_NONE);
        all_.push_back(std::make_unique<Fiber>());
        Fiber& fiber = *all_.back();
        fiber.stack = static_cast<char*>(memory) + kGuardBytes;
        fiber.bytes = kStackBytes;
        prepare(fiber, all_.size() - 1);
        return &fiber;
    }
    Fiber* fiber = free_.back();
    free_.pop_back();
    return fiber;
}

void FiberPool::reset() {
    free_.clear();
    for (size_t i = 0; i < all_.size(); i++) {
        prepare(*all_[i], i);
        free_.push_back(all_[i].get());
    }
}

FiberPool::~FiberPool() {
    for (auto& fiber : all_) {
        munmap(fiber->stack - kGuardBytes, kStackBytes + kGuardBytes);
        release(*fiber);
    }
}

} // namespace simt::runtime
