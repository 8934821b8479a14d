// AdamW: contract checks and reference. Contract: adamw.h. Fast CPU: adamw_cpu.cpp.
#include "llmc/ops/adamw.h"

#include <cmath>

void check::adamw_update(Ctx& ctx, View param, View m, View v, const View& grad,
                         const AdamW& adamw) {
    const char* op = "adamw_update";
    for (const View* view : std::initializer_list<const View*>{&param, &m, &v, &grad}) {
        require_shape(op, *view, param.shape[0]);
        require_dtype(op, *view, ctx.dtype());
    }
    require(adamw.step >= 1, "%s: step=%ld", op, long(adamw.step));
    require(adamw.beta1 < 1 && adamw.beta2 < 1, "%s: beta1=%g beta2=%g", op, adamw.beta1,
            adamw.beta2);
}

void check::square_sum_forward(Ctx& ctx, View out, const View& grad) {
    require_shape("square_sum_forward", out, 1);
    require_dtype("square_sum_forward", out, Dtype::f64);
    require_shape("square_sum_forward", grad, grad.shape[0]);
    require_dtype("square_sum_forward", grad, ctx.dtype());
}

// ------------------------------------------------------------------------------------------------
// reference

void ref::adamw_update(Ctx&, View param, View m, View v, const View& grad, const AdamW& a) {
    const double correct1 = 1 - std::pow(a.beta1, double(a.step));
    const double correct2 = 1 - std::pow(a.beta2, double(a.step));
    double *w = param.as<double>(), *m1 = m.as<double>(), *m2 = v.as<double>();
    for (int64_t i = 0; i < param.shape[0]; i++) {
        const double g = grad.as<double>()[i] * a.grad_scale;
        m1[i] = a.beta1 * m1[i] + (1 - a.beta1) * g;                                    // (A1)
        m2[i] = a.beta2 * m2[i] + (1 - a.beta2) * g * g;                                // (A2)
        const double step = (m1[i] / correct1) / (std::sqrt(m2[i] / correct2) + a.eps); // (A3)
        w[i] -= a.lr * (step + a.weight_decay * w[i]);                                  // (A4)
    }
}

void ref::square_sum_forward(Ctx&, View out, const View& grad) {
    double sum = 0;
    for (int64_t i = 0; i < grad.shape[0]; i++) // (A5)
        sum += grad.as<double>()[i] * grad.as<double>()[i];
    out.as<double>()[0] = sum;
}
