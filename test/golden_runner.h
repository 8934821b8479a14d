// Runs directories of golden vectors (formats: test/golden/README.md) through every backend.
#pragma once
#include <string>
#include <vector>

struct GoldenResult {
    std::string name; // "qwen3_tiny/cpu/grad_ce.model.norm.weight"
    double error, tolerance;
    bool ok;
};

// A directory in one of the formats, or one that contains such directories.
// fatal() if it is neither.
std::vector<GoldenResult> run_golden(const std::string& directory);
