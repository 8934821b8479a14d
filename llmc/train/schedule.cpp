// Contract: schedule.h.
#include "llmc/train/schedule.h"

#include "llmc/core/error.h"

#include <cmath>
#include <numbers>

double learning_rate(const Schedule& s, int64_t step) {
    if (step < s.warmup) return s.peak * double(step + 1) / double(s.warmup); // (W1)
    if (s.decay_steps == 0 || step < s.decay_start) return s.peak;            // (W2)
    if (step >= s.decay_start + s.decay_steps) return s.end;
    const double t = double(step - s.decay_start + 1) / double(s.decay_steps);
    double f = 1 - t; // (W3)
    if (s.shape == DecayShape::sqrt) f = 1 - std::sqrt(t);
    if (s.shape == DecayShape::cosine) f = (1 + std::cos(std::numbers::pi * t)) / 2;
    return s.end + (s.peak - s.end) * f;
}

DecayShape decay_shape(const std::string& name) {
    if (name == "sqrt") return DecayShape::sqrt;
    if (name == "cosine") return DecayShape::cosine;
    require(name == "linear", "decay_shape: \"%s\"", name.c_str());
    return DecayShape::linear;
}
