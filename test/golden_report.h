// Shared by the golden runner's formats.
#pragma once
#include "llmc/core/json.h"
#include "llmc/core/safetensors.h"
#include "llmc/ops/loss.h"
#include "test/golden_runner.h"

struct GoldenReport {
    std::string prefix; // in front of every name
    std::vector<GoldenResult> results;

    void add(const std::string& name, double error, double tolerance);
    // ||got - want|| / ||want||; infinite if sizes, NaN or infinities differ.
    void compare(const std::string& name, const std::vector<double>& got,
                 const std::vector<double>& want, double tolerance);

    // A tensor of `dtype` in `memory`, and back.
    static View view(const std::vector<double>& values, std::vector<char>& memory, Dtype dtype,
                     std::vector<int64_t> shape);
    static std::vector<double> values(const View& view);
};

LossShape golden_loss_shape(const Json& json, int V);

void run_causal_lm(GoldenReport& report, const std::string& directory, const Json& json);
void run_causal_lm_tail(GoldenReport& report, const std::string& directory, const Json& json);
void run_adamw_steps(GoldenReport& report, const std::string& directory, const Json& json);
void run_grading(GoldenReport& report, const std::string& directory);
void run_bpe(GoldenReport& report, const std::string& directory);
