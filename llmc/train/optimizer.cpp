// Contract: optimizer.h.
#include "llmc/train/optimizer.h"

#include "llmc/ops/adamw.h"

#include <cmath>
#include <cstring>

Optimizer::Optimizer(Ctx& ctx, const Model& model)
    : m_(model.config, model.table, ctx.dtype(), "adam m"),
      v_(model.config, model.table, ctx.dtype(), "adam v"), decayed_size_(model.table.decayed_size),
      trained_size_(model.table.trained_size) {}

void Optimizer::reset() {
    step_ = 0;
    for (const ParamSet* set : {&m_, &v_}) std::memset(set->flat().data, 0, set->flat().bytes());
}

double Optimizer::update(Ctx& ctx, Model& model, const ParamSet& grads,
                         const OptimizerSettings& s) {
    double square_sum = 0;
    square_sum_forward(ctx, make_view(&square_sum, Dtype::f64, "square_sum", 1), grads.trained());
    const double norm = std::sqrt(square_sum);
    if (!std::isfinite(norm)) return norm;
    AdamW a{s.lr, s.beta1, s.beta2, s.eps, s.weight_decay, 1.0, ++step_};
    if (s.clip > 0) a.grad_scale = std::min(1.0, s.clip / (norm + 1e-6));
    auto part = [&](const View& flat, int64_t begin, int64_t end) {
        return flat.slice_rows(begin, end - begin);
    };
    const int64_t parts[3] = {0, decayed_size_, trained_size_}; // matrices, then norms
    for (int i = 0; i < 2; i++) {
        if (i == 1) a.weight_decay = 0;
        adamw_update(ctx, part(model.weights.flat(), parts[i], parts[i + 1]),
                     part(m_.flat(), parts[i], parts[i + 1]),
                     part(v_.flat(), parts[i], parts[i + 1]),
                     part(grads.flat(), parts[i], parts[i + 1]), a);
    }
    return norm;
}
