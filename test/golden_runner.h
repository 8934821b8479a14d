// Runs directories of golden vectors (formats: test/golden/README.md) through every backend.
#pragma once
#include <string>
#include <vector>

struct GoldenResult {
    std::string name; // "qwen3_tiny/cpu/grad_ce.model.norm.weight"
    double error, tolerance;
    bool ok;
};

// A directory in one of the formats, or one that contains such directories, less golden_skipped().
// fatal() if it is neither.
std::vector<GoldenResult> run_golden(const std::string& directory);

// What run_golden(directory) leaves out and why, one line each: "bpe (no byte-level BPE yet)".
std::vector<std::string> golden_skipped(const std::string& directory);
