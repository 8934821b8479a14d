// Contract: optimizer.h.
#include "llmc/train/optimizer.h"

#include "llmc/device/memory.h"
#include "llmc/ops/adamw.h"

#include <algorithm>
#include <cmath>

Optimizer::Optimizer(Ctx& ctx, Comm& comm, const Model& model)
    : comm_(comm), own_(comm.shard(model.table.trained_size)),
      m_(ctx.arena, Segment::optimizer, ctx.dtype(), "adam m", own_.end - own_.begin),
      v_(ctx.arena, Segment::optimizer, ctx.dtype(), "adam v", own_.end - own_.begin),
      square_sum_(ctx.arena, Segment::optimizer, Dtype::f64, "square_sum", 1),
      decayed_size_(model.table.decayed_size) {}

void Optimizer::reset(Ctx& ctx) {
    step_ = 0;
    fill_zero(ctx, m_.view());
    fill_zero(ctx, v_.view());
}

double Optimizer::update(Ctx& ctx, Model& model, const View& grads, const OptimizerSettings& s) {
    double square_sum = 0;
    if (grads.size() > 0) {
        square_sum_forward(ctx, square_sum_.view(), grads);
        square_sum = *HostRead(ctx, square_sum_.view()).view().as<double>();
    }
    comm_.all_sum(make_view(&square_sum, Dtype::f64, "square_sum", 1));
    const double norm = std::sqrt(square_sum);
    if (!std::isfinite(norm)) return norm;
    AdamW a{s.lr, s.beta1, s.beta2, s.eps, s.weight_decay, 1.0, ++step_};
    if (s.clip > 0) a.grad_scale = std::min(1.0, s.clip / (norm + 1e-6));
    // Matrices, then norms: the own part of each.
    const int64_t middle = std::clamp(decayed_size_, own_.begin, own_.end);
    for (const auto& [begin, end] : {Comm::Range{own_.begin, middle}, {middle, own_.end}}) {
        if (begin == middle) a.weight_decay = 0;
        if (begin == end) continue;
        adamw_update(ctx, model.weights.flat().slice_rows(begin, end - begin),
                     m_.view().slice_rows(begin - own_.begin, end - begin),
                     v_.view().slice_rows(begin - own_.begin, end - begin),
                     grads.slice_rows(begin - own_.begin, end - begin), a);
    }
    ctx.wait();
    comm_.all_gather(ctx, model.weights.trained());
    model.weights_changed();
    return norm;
}
