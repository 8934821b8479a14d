// The learning rate: linear warm-up, stable, decay. equations (W1)-(W3) in doc/equations.md.
#pragma once
#include <cstdint>
#include <string>

enum class DecayShape { linear, sqrt, cosine };

struct Schedule {
    int64_t warmup;      // steps
    int64_t decay_start; // first step of the decay
    int64_t decay_steps; // 0 = never decays
    double peak, end;    // learning rates
    DecayShape shape;
};

// Learning rate of 0-based step s: peak (s+1)/warmup below warmup; peak until decay_start; then
// end + (peak - end) f((s - decay_start + 1) / decay_steps), f = 1 - t | 1 - sqrt(t) |
// (1 + cos(pi t)) / 2; end afterwards.
double learning_rate(const Schedule& schedule, int64_t step);

DecayShape decay_shape(const std::string& name); // "linear", "sqrt", "cosine"
