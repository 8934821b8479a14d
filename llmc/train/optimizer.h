// The optimizer step: global norm, clipping, AdamW over the flat weights.
//
// The moments are sharded over the ranks (ZeRO-1, arXiv 1910.02054): each rank keeps and updates
// those of its own part of the flat weights, then the parts are exchanged.
#pragma once
#include "llmc/device/comm.h"
#include "llmc/model/train_pass.h"

struct OptimizerSettings {
    double lr, beta1, beta2, eps, weight_decay;
    double clip; // largest gradient norm, 0 = off
};

class Optimizer {
  public:
    Optimizer(Ctx& ctx, Comm& comm, const Model& model);

    // One AdamW update, eq. (A1)-(A4) in doc/equations.md. Returns the norm of the gradient before
    // clipping; where it is not finite nothing is changed. The gradient is scaled by
    // min(1, clip / (norm + 1e-6)).
    //   grads (own) f32 or f64: this rank's part of the sum over ranks
    double update(Ctx& ctx, Model& model, const View& grads, const OptimizerSettings& settings);

    void reset(Ctx& ctx); // moments and step count to zero
    int64_t step() const { return step_; }
    void set_step(int64_t step) { step_ = step; }
    Comm::Range own() const { return own_; }        // elements of the flat weights
    View first_moment() const { return m_.view(); } // (own)
    View second_moment() const { return v_.view(); }

  private:
    Comm& comm_;
    const Comm::Range own_;
    Buffer m_, v_, square_sum_;
    const int64_t decayed_size_;
    int64_t step_ = 0;
};
