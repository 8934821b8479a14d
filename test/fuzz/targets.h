// Every format that comes from elsewhere, read as the programs read it. A target may refuse bytes
// with UserError, whose message must say something; any other exception, and whatever the
// sanitizers see, is a finding. `make fuzz` runs each for FUZZ_SECONDS; test/fuzz/corpus keeps
// seeds and found cases, which the unit tests replay.
#pragma once
#include <string>

struct FuzzTarget {
    const char* name; // of its folder in test/fuzz/corpus
    void (*read)(const std::string& bytes);
};

constexpr int kFuzzTargets = 6;
extern const FuzzTarget fuzz_targets[kFuzzTargets];

// Reads the bytes; aborts with a message where the contract above is broken.
void fuzz_one(const FuzzTarget& target, const std::string& bytes);
