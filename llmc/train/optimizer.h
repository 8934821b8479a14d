// The optimizer step: global norm, clipping, AdamW over the flat weights.
#pragma once
#include "llmc/model/train_pass.h"

struct OptimizerSettings {
    double lr, beta1, beta2, eps, weight_decay;
    double clip; // largest gradient norm, 0 = off
};

class Optimizer {
  public:
    Optimizer(Ctx& ctx, const Model& model);

    // One AdamW update from `grads`, eq. (A1)-(A4) in doc/equations.md. Returns the gradient norm
    // before clipping; where that is not finite nothing is changed. The gradient is scaled by
    // min(1, clip / (norm + 1e-6)).
    double update(Ctx& ctx, Model& model, const ParamSet& grads, const OptimizerSettings& settings);

    void reset(); // moments and step count to zero
    int64_t step() const { return step_; }
    void set_step(int64_t step) { step_ = step; }
    ParamSet& first_moment() { return m_; }
    ParamSet& second_moment() { return v_; }

  private:
    int64_t step_ = 0;
    ParamSet m_, v_;
    const int64_t decayed_size_, trained_size_;
};
