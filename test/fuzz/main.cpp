// libFuzzer's entry, built once per target with -DFUZZ_TARGET=n.
#include "test/fuzz/targets.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz_one(fuzz_targets[FUZZ_TARGET], std::string(reinterpret_cast<const char*>(data), size));
    return 0;
}
