// What -fsanitize=thread calls at every load and store of an instrumented file, answered by the
// tracer (trace.h) instead of ThreadSanitizer's library, which is not linked. An archive member:
// only programs with instrumented kernels pull it in.
#include "llmc/device/simt/runtime.h"

#include <algorithm>
#include <cstring>

using simt::runtime::Access;
using simt::runtime::record;

#define PLACE __builtin_return_address(0)

#define ACCESSES(bytes)                                                                            \
    extern "C" void __tsan_read##bytes(void* p) { record(p, bytes, Access::load, PLACE); }         \
    extern "C" void __tsan_write##bytes(void* p) { record(p, bytes, Access::store, PLACE); }       \
    extern "C" void __tsan_unaligned_read##bytes(void* p) {                                        \
        record(p, bytes, Access::load, PLACE);                                                     \
    }                                                                                              \
    extern "C" void __tsan_unaligned_write##bytes(void* p) {                                       \
        record(p, bytes, Access::store, PLACE);                                                    \
    }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

// Struct copies, as the words a GPU would move.
static void record_range(void* p, size_t bytes, Access access, void* place) {
    for (size_t i = 0; i < bytes; i += 8)
        record(static_cast<char*>(p) + i, std::min<size_t>(8, bytes - i), access, place);
}
extern "C" void __tsan_read_range(void* p, long bytes) {
    record_range(p, size_t(bytes), Access::load, PLACE);
}
extern "C" void __tsan_write_range(void* p, long bytes) {
    record_range(p, size_t(bytes), Access::store, PLACE);
}

extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit(void*) {}
extern "C" void __tsan_vptr_update(void*, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
